package main

import (
	"bufio"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"ecowatt"
	"ecowatt/block"
	"ecowatt/inverter"
)

// recording is samples of inverters, one run of them for each, in the file's
// order.
type recording struct {
	points []string
	names  []string // of the inverters
	runs   map[string][]ecowatt.Sample
}

// recordingOptions say what of a file is taken, and how.
type recordingOptions struct {
	profile   inverter.Profile
	inverters []string       // empty for all
	night     bool           // also samples in which pac is not above 0
	gains     map[string]int // raw = value × gain, instead of the profile's
}

func (o recordingOptions) check() error {
	for point, gain := range o.gains {
		if _, ok := o.profile.Register(point); !ok || gain < 1 || gain > 1e6 {
			return usagef("--gains: %s=%d is no point of %s with a gain of 1 to 1000000", point, gain, o.profile.Name)
		}
	}
	return nil
}

// gain is what a value of the point is multiplied by to become raw.
func (o recordingOptions) gain(p ecowatt.Point) float64 {
	if g, ok := o.gains[p.Name]; ok {
		return float64(g)
	}
	return math.Pow10(-p.Exponent)
}

// samples is how many there are.
func (r *recording) samples() int {
	n := 0
	for _, run := range r.runs {
		n += len(run)
	}
	return n
}

// blocks cuts the runs into blocks of n samples; the last of a run may be
// shorter.
func (r *recording) blocks(n int) []ecowatt.Block {
	var blocks []ecowatt.Block
	for _, name := range r.names {
		for samples := range slices.Chunk(r.runs[name], n) {
			blocks = append(blocks, ecowatt.Block{Inverter: name, Points: r.points, Samples: samples})
		}
	}
	return blocks
}

// openRecording reads the CSV file of that name, which may be packed by gzip.
func openRecording(name string, o recordingOptions) (*recording, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	var text io.Reader = in
	if magic, err := in.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		if text, err = gzip.NewReader(in); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	rec, err := readRecording(text, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return rec, nil
}

func readRecording(r io.Reader, o recordingOptions) (*recording, error) {
	in := csv.NewReader(r)
	in.ReuseRecord = true
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("it is empty; the first row names the columns")
	}
	if err != nil {
		return nil, err
	}
	columns, err := findColumns(header, o)
	if err != nil {
		return nil, err
	}
	rec := &recording{points: columns.points(), runs: map[string][]ecowatt.Sample{}}
	for {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		line, _ := in.FieldPos(0)
		name := "the inverter"
		if columns.inverter >= 0 {
			name = strings.Clone(row[columns.inverter])
		}
		if len(o.inverters) > 0 && !slices.Contains(o.inverters, name) {
			continue
		}
		s, producing, err := columns.sample(row)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		if !producing && !o.night {
			continue
		}
		if _, ok := rec.runs[name]; !ok {
			rec.names = append(rec.names, name)
		}
		rec.runs[name] = append(rec.runs[name], s)
	}
	if len(rec.names) == 0 {
		return nil, errors.New("no sample of it is asked for; are --inverters and --night right?")
	}
	rec.fitPower()
	return rec, nil
}

// fitPower counts pac in the least power of ten of watts that fits 16 bits in
// all samples.
func (r *recording) fitPower() {
	pac := slices.Index(r.points, "pac")
	unit, most := int64(1), int64(0)
	for _, run := range r.runs {
		for _, s := range run {
			most = max(most, s.Values[pac].Raw)
		}
	}
	for most/unit > math.MaxUint16 {
		unit *= 10
	}
	for _, run := range r.runs {
		for _, s := range run {
			v := &s.Values[pac]
			v.Raw = int64(math.Round(float64(v.Raw) / float64(unit)))
		}
	}
}

// fileColumns is where the columns of a file are.
type fileColumns struct {
	time, inverter int // -1 for none
	of             []fileColumn
}

// fileColumn is a column with a point.
type fileColumn struct {
	point ecowatt.Point
	index int // -1 where the file has none, and every value is fixed
	gain  float64
	fixed int64
}

func findColumns(header []string, o recordingOptions) (fileColumns, error) {
	c := fileColumns{time: slices.Index(header, "time"), inverter: slices.Index(header, "inverter")}
	if c.time < 0 {
		return c, errors.New(`line 1: there is no column "time"`)
	}
	if c.inverter < 0 && len(o.inverters) > 0 {
		return c, errors.New(`line 1: there is no column "inverter", by which to choose`)
	}
	suffix := map[string]string{"V": "_v", "A": "_a", "Hz": "_hz", "°C": "_c", "W": "_w"}
	for _, r := range o.profile.Registers {
		column := fileColumn{point: r.Point, index: slices.Index(header, r.Point.Name+suffix[r.Point.Unit]), gain: o.gain(r.Point)}
		switch {
		case column.index >= 0:
		case r.Point.Name == "export_power_percent":
			column.fixed = 100
		case r.Point.Name == "pac":
			return c, errors.New(`line 1: there is no column "pac_w"`)
		default:
			continue
		}
		c.of = append(c.of, column)
	}
	if len(c.of) > block.MaxPoints {
		return c, fmt.Errorf("line 1: %d points, at most %d fit a block", len(c.of), block.MaxPoints)
	}
	return c, nil
}

func (c fileColumns) points() []string {
	names := make([]string, len(c.of))
	for i, column := range c.of {
		names[i] = column.point.Name
	}
	return names
}

// sample reads a row, and says whether the inverter was producing.
func (c fileColumns) sample(row []string) (s ecowatt.Sample, producing bool, err error) {
	at, err := time.Parse(time.RFC3339, row[c.time])
	if err != nil {
		return s, false, fmt.Errorf("time: %.40q is not in RFC 3339, as 2026-06-21T10:30:00Z", row[c.time])
	}
	s = ecowatt.Sample{At: at.UnixMilli(), Values: make([]ecowatt.Value, len(c.of))}
	for i, column := range c.of {
		switch {
		case column.index < 0:
			s.Values[i] = ecowatt.Known(column.fixed)
			continue
		case row[column.index] == "":
			continue
		}
		x, err := strconv.ParseFloat(row[column.index], 64)
		if err != nil || !(math.Abs(x) <= 1e9) {
			return s, false, fmt.Errorf("%s: %.40q is no number up to a thousand million", column.point.Name, row[column.index])
		}
		s.Values[i] = ecowatt.Known(int64(math.Round(x * column.gain)))
		producing = producing || column.point.Name == "pac" && x > 0
	}
	return s, producing, nil
}
