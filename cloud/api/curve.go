package api

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"io"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/rollup"
)

// Curves are what the samples of a device were in buckets of time. They are
// streamed as Samples are.
type Curves struct {
	Device    string  `json:"device"`
	Step      int64   `json:"step_s" doc:"Length of a bucket, s; days of 23 and 25 hours count as 86400"`
	Inverters []Curve `json:"inverters" nullable:"false" doc:"By inverter and time; one inverter has several entries where its list of points changed"`
}

// Curve is a run of buckets of one inverter that share their points.
type Curve struct {
	Inverter     string         `json:"inverter"`
	TimeZone     string         `json:"time_zone" doc:"IANA name: its days begin at midnight there"`
	Points       []SampledPoint `json:"points" nullable:"false"`
	EnergySource string         `json:"energy_source,omitempty" enum:"counter,integrated" doc:"What energy was made of: a counter of the inverter, or its power; absent where there is neither, and for steps that are no multiples of 15 minutes"`
	Buckets      []Bucket       `json:"buckets" nullable:"false" doc:"Oldest first; one in which nothing was known is not there"`
}

// Bucket is what the points were in one span of time.
type Bucket struct {
	T      int64          `json:"t" doc:"When it begins, milliseconds since 1970"`
	End    int64          `json:"end" doc:"When it ends"`
	Values []*BucketValue `json:"values" nullable:"false" doc:"One per point; null where nothing was known"`
	Energy *float64       `json:"energy_wh,omitempty" doc:"Produced in it, Wh; absent where nothing is known of it"`
}

// BucketValue is what one point was in one span of time.
type BucketValue struct {
	Min   int64   `json:"min" doc:"Raw"`
	Mean  float64 `json:"mean" doc:"Raw; of the known values"`
	Max   int64   `json:"max" doc:"Raw"`
	Count int64   `json:"count" doc:"Known values"`
}

// curve is the query of a curve that is asked for like q.
func (in *samplesInput) curve(q ingest.Query) rollup.Query {
	return rollup.Query{
		Device: q.Device, Inverter: q.Inverter, From: q.From, To: q.To, Points: q.Points, Step: in.Step.Duration, Energy: in.Only != "",
	}
}

func (s *server) getCurve(ctx context.Context, q rollup.Query) (*huma.StreamResponse, error) {
	return stream(ctx, s, q.Device, "application/json", s.Telemetry.Curve(ctx, q), func(w io.Writer, parts iter.Seq2[rollup.Part, error]) error {
		return writeCurves(w, q, parts)
	})
}

// writeCurves writes the JSON of Curves, an entry for each run of parts with the
// same inverter and points.
func writeCurves(w io.Writer, q rollup.Query, parts iter.Seq2[rollup.Part, error]) error {
	head, err := json.Marshal(Curves{Device: string(q.Device), Step: int64(q.Step / time.Second), Inverters: []Curve{}})
	if err != nil {
		return err
	}
	b := head[:len(head)-len("]}")]
	var run *rollup.Part
	for part, err := range parts {
		if err != nil {
			return err
		}
		comma := run != nil && run.Inverter == part.Inverter && slices.Equal(run.Points, part.Points)
		if !comma {
			if run != nil {
				b = append(b, "]},"...)
			}
			if b, err = appendCurveHead(b, part); err != nil {
				return err
			}
			run = &part
		}
		for _, bucket := range part.Buckets {
			if comma {
				b = append(b, ',')
			}
			comma = true
			b = appendBucket(b, bucket)
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		b = b[:0]
	}
	if run != nil {
		b = append(b, "]}"...)
	}
	_, err = w.Write(append(b, "]}\n"...))
	return err
}

func appendCurveHead(b []byte, part rollup.Part) ([]byte, error) {
	c := Curve{Inverter: part.Inverter, TimeZone: part.TimeZone, Points: []SampledPoint{}, EnergySource: sourceName(part.Source), Buckets: []Bucket{}}
	for _, p := range part.Points {
		c.Points = append(c.Points, SampledPoint{Name: p.Name, Unit: p.Unit, Exponent: p.Exponent})
	}
	head, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return append(b, head[:len(head)-len("]}")]...), nil
}

// sourceName is what energy was made of, in one word.
func sourceName(r rollup.Role) string {
	switch r {
	case rollup.Power:
		return "integrated"
	case rollup.Lifetime, rollup.Daily:
		return "counter"
	case rollup.None:
	}
	return ""
}

// appendBucket appends the JSON of Bucket. A day by minute is 14,400 values: without
// the detour over encoding/json it is written in a sixth of the time.
func appendBucket(b []byte, x rollup.Bucket) []byte {
	b = appendSpan(b, x.Begin, x.End)
	for i, s := range x.Stats {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendValue(b, s, s.Mean())
	}
	b = append(b, ']')
	if x.HasEnergy {
		b = strconv.AppendFloat(append(b, `,"energy_wh":`...), x.Energy, 'f', -1, 64)
	}
	return append(b, '}')
}

// appendWindow appends a window of a device as Bucket.
func appendWindow(b []byte, s ecowatt.Sample, length int64) []byte {
	b = appendSpan(b, s.At, s.At+length)
	comma := false
	for v := range slices.Chunk(s.Values, ecowatt.Aggregates) {
		if comma {
			b = append(b, ',')
		}
		comma = true
		x := rollup.Stats{}
		if v[ecowatt.Mean].Valid {
			x = rollup.Stats{Min: v[ecowatt.Least].Raw, Max: v[ecowatt.Most].Raw, Count: v[ecowatt.Count].Raw}
		}
		b = appendValue(b, x, float64(v[ecowatt.Mean].Raw))
	}
	return append(b, "]}"...)
}

// appendSpan appends a Bucket up to its first value.
func appendSpan(b []byte, begin, end int64) []byte {
	b = strconv.AppendInt(append(b, `{"t":`...), begin, 10)
	b = strconv.AppendInt(append(b, `,"end":`...), end, 10)
	return append(b, `,"values":[`...)
}

// appendValue appends the JSON of BucketValue, null where nothing is known.
func appendValue(b []byte, s rollup.Stats, mean float64) []byte {
	if s.Count == 0 {
		return append(b, "null"...)
	}
	b = strconv.AppendInt(append(b, `{"min":`...), s.Min, 10)
	b = strconv.AppendFloat(append(b, `,"mean":`...), mean, 'f', -1, 64)
	b = strconv.AppendInt(append(b, `,"max":`...), s.Max, 10)
	b = strconv.AppendInt(append(b, `,"count":`...), s.Count, 10)
	return append(b, '}')
}

// exportCurve reads what is asked for twice, as exportTelemetry does.
func (s *server) exportCurve(ctx context.Context, q rollup.Query) (*exportOutput, error) {
	columns := newColumns(q.Points)
	for part, err := range s.Telemetry.Curve(ctx, q) {
		if err != nil {
			return nil, streamProblem(q.Device, err)
		}
		columns.add(part.Points)
	}
	answer, err := stream(ctx, s, q.Device, csvType, s.Telemetry.Curve(ctx, q), func(w io.Writer, parts iter.Seq2[rollup.Part, error]) error {
		return writeCurveCSV(w, columns, parts)
	})
	if err != nil {
		return nil, err
	}
	return &exportOutput{Disposition: `attachment; filename="` + string(q.Device) + `.csv"`, Body: answer.Body}, nil
}

// Columns of a file of buckets: those that stand before the points, and those of
// each point.
const (
	bucketColumns = 4 // time, inverter, energy (Wh), energy source
	pointColumns  = 4 // mean, min, max, count
)

func writeCurveCSV(w io.Writer, c *columns, parts iter.Seq2[rollup.Part, error]) error {
	all, places := c.list()
	row := []string{"time", "inverter", "energy (Wh)", "energy source"}
	for _, column := range all {
		unit := strings.TrimPrefix(column.String(), column.name)
		row = append(row, column.name+" mean"+unit, column.name+" min"+unit, column.name+" max"+unit, column.name+" count")
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
		for _, b := range part.Buckets {
			clear(row)
			row[0], row[1] = time.UnixMilli(b.Begin).UTC().Format(csvTime), part.Inverter
			if b.HasEnergy {
				row[2], row[3] = strconv.FormatFloat(b.Energy, 'f', 1, 64), sourceName(part.Source)
			}
			for i, s := range b.Stats {
				p := part.Points[i]
				place, ok := places[column{p.Name, p.Unit}]
				if !ok || s.Count == 0 { // it first occurred after the header was made
					continue
				}
				cells := row[bucketColumns+pointColumns*place:]
				cells[0] = scaled(s.Mean(), p.Exponent)
				cells[1], cells[2] = ecowatt.Decimal(s.Min, p.Exponent), ecowatt.Decimal(s.Max, p.Exponent)
				cells[3] = strconv.FormatInt(s.Count, 10)
			}
			if err := out.Write(row); err != nil {
				return err
			}
		}
	}
	out.Flush()
	return out.Error()
}

// scaled writes raw × 10^exponent with two digits more than the values have of
// which raw is the mean.
func scaled(raw float64, exponent int) string {
	const more = 2
	hundredths := math.Round(raw * 100)
	if math.Abs(hundredths) > math.MaxInt64/2 {
		return strconv.FormatFloat(raw*math.Pow10(exponent), 'g', -1, 64)
	}
	return ecowatt.Decimal(int64(hundredths), exponent-more)
}
