package api

import (
	"context"
	"encoding/csv"
	"io"
	"iter"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt"
	"ecowatt/cloud/ingest"
)

// csvTime is RFC 3339 with milliseconds, in UTC.
const csvTime = "2006-01-02T15:04:05.000Z"

const csvType = "text/csv; charset=utf-8; header=present"

type exportOutput struct {
	Disposition string `header:"Content-Disposition"`
	Body        func(huma.Context)
}

// exportTelemetry reads what is asked for twice: the header of a CSV file
// needs to know every column before the first row.
func (s *server) exportTelemetry(ctx context.Context, in *samplesInput) (*exportOutput, error) {
	q, err := in.query(s.Now())
	if err != nil {
		return nil, err
	}
	if in.Step.Duration != 0 {
		return s.exportCurve(ctx, in.curve(q))
	}
	columns, windows := newColumns(q.Points), false
	for part, err := range s.Telemetry.Samples(ctx, q) {
		if err != nil {
			return nil, deviceProblem(q.Device, err)
		}
		columns.add(part.Points)
		windows = windows || part.Window != 0
	}
	answer, err := stream(ctx, s, q.Device, csvType, s.Telemetry.Samples(ctx, q), func(w io.Writer, parts iter.Seq2[ingest.Part, error]) error {
		return writeCSV(w, columns, windows, parts)
	})
	if err != nil {
		return nil, err
	}
	return &exportOutput{Disposition: `attachment; filename="` + string(q.Device) + `.csv"`, Body: answer.Body}, nil
}

// column is a column of points: those of one name and unit.
type column struct{ name, unit string }

func (c column) String() string {
	if c.unit == "" {
		return c.name
	}
	return c.name + " (" + c.unit + ")"
}

// columns are the columns of a file, by the name of their point in order.
type columns struct {
	names []string            // in order
	units map[string][]string // by name, in order; empty for a point that never occurred
}

func newColumns(points []string) *columns {
	c := &columns{units: map[string][]string{}}
	for _, name := range points {
		c.names = append(c.names, name)
		c.units[name] = nil
	}
	return c
}

func (c *columns) add(points []ecowatt.Point) {
next:
	for _, p := range points {
		units, known := c.units[p.Name]
		if !known {
			c.names = append(c.names, p.Name)
		}
		for _, u := range units {
			if u == p.Unit {
				continue next
			}
		}
		c.units[p.Name] = append(units, p.Unit)
	}
}

// list returns the columns in order, and where each stands.
func (c *columns) list() ([]column, map[column]int) {
	var all []column
	places := map[column]int{}
	for _, name := range c.names {
		units := c.units[name]
		if len(units) == 0 {
			units = []string{""}
		}
		for _, unit := range units {
			places[column{name, unit}] = len(all)
			all = append(all, column{name, unit})
		}
	}
	return all, places
}

// writeCSV writes a column for the length of windows if there are to be any.
func writeCSV(w io.Writer, c *columns, windows bool, parts iter.Seq2[ingest.Part, error]) error {
	all, places := c.list()
	row := []string{"time", "inverter"}
	if windows {
		row = append(row, "window (s)")
	}
	fixed := len(row)
	for _, column := range all {
		row = append(row, column.String())
	}
	out := csv.NewWriter(w)
	out.UseCRLF = true // RFC 4180 section 2, rule 1
	if err := out.Write(row); err != nil {
		return err
	}
	for part, err := range parts {
		if err != nil {
			return err
		}
		where := make([]int, len(part.Points))
		for i, p := range part.Points {
			place, ok := places[column{p.Name, p.Unit}]
			if !ok {
				place = -1 // it first occurred after the header was made
			}
			where[i] = place
		}
		if part.Window != 0 && !windows {
			continue // it came after the header was made
		}
		each := ecowatt.Columns(1, part.Window)
		for _, sample := range part.Samples {
			clear(row)
			row[0], row[1] = time.UnixMilli(sample.At).UTC().Format(csvTime), part.Inverter
			if part.Window != 0 {
				row[2] = ecowatt.Decimal(part.Window, -3)
			}
			for i, place := range where {
				if v := sample.Values[i*each]; v.Valid && place >= 0 {
					row[fixed+place] = ecowatt.Decimal(v.Raw, part.Points[i].Exponent)
				}
			}
			if err := out.Write(row); err != nil {
				return err
			}
		}
	}
	out.Flush()
	return out.Error()
}
