package sim

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The recorded days; weather/README.md tells where they are from.
//
//go:embed weather/*.csv
var recorded embed.FS

// RecordedDays returns the names of the days that Recorded knows, sorted.
func RecordedDays() []string {
	files, err := recorded.ReadDir("weather")
	if err != nil {
		panic("the recorded days: " + err.Error())
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = strings.TrimSuffix(f.Name(), ".csv")
	}
	slices.Sort(names)
	return names
}

// Recorded returns the recorded day of that name.
func Recorded(name string) (*Recording, error) {
	if !slices.Contains(RecordedDays(), name) {
		return nil, fmt.Errorf("no recorded day is called %.40q; there are: %s", name, strings.Join(RecordedDays(), ", "))
	}
	file := path.Join("weather", name+".csv")
	data, err := recorded.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the recorded day %s: %w", name, err)
	}
	return ReadRecording(file, bytes.NewReader(data))
}

// Limits of a recording.
const (
	maxRecording = 32 << 20       // bytes; a year of minutes
	maxDays      = 10 * 366       // from the first row to the last
	maxGap       = time.Hour      // between two rows by day
	maxNight     = 24 * time.Hour // between two rows when it is dark
	dusk         = 50.0           // W/m²; day is where it is brighter before or after
	day          = 24 * time.Hour
)

const timeColumn = "time"

// ReadRecording reads weather from a CSV file with a header. The columns may
// stand in any order among others:
//
//	time      RFC 3339; ascending; the offset of the first row is the wall clock's
//	poa_wm2   W/m² in the plane of the panels; or irr_wm2, or ghi_wm2 (on the horizontal)
//	tamb_c    °C of the air
//	wind_ms   m/s; 1 where there is no such column
//
// Irradiances below 0, the offset of an instrument at night, count as 0. The
// longest gap is an hour by day and a day in the dark. Errors begin with name
// and tell the line and the column.
func ReadRecording(name string, r io.Reader) (*Recording, error) {
	limited := &io.LimitedReader{R: r, N: maxRecording + 1}
	in := csv.NewReader(limited)
	in.ReuseRecord = true
	rec, err := readRecording(in)
	var parse *csv.ParseError
	switch {
	case limited.N <= 0:
		return nil, fmt.Errorf("%s: it is longer than %d MiB", name, maxRecording>>20)
	case errors.As(err, &parse):
		return nil, fmt.Errorf("%s: line %d: %w", name, parse.Line, parse.Err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return rec, nil
}

func readRecording(in *csv.Reader) (*Recording, error) {
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("it is empty")
	}
	if err != nil {
		return nil, err
	}
	table, err := readHeader(slices.Clone(header))
	if err != nil {
		return nil, fmt.Errorf("line 1: %w", err)
	}
	rec := &Recording{}
	var began time.Time
	for {
		fields, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		line, _ := in.FieldPos(0)
		at, conditions, err := table.row(fields)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		now := row{Conditions: conditions}
		if rec.rows == nil {
			began, now.at = at, sinceMidnight(at)
		} else {
			now.at = rec.rows[0].at + at.Sub(began)
			if err := rec.follows(now); err != nil {
				return nil, fmt.Errorf("line %d: column %s: %w", line, timeColumn, err)
			}
		}
		rec.rows = append(rec.rows, now)
	}
	return rec, rec.close()
}

// sinceMidnight is the time of day by t's own wall clock.
func sinceMidnight(t time.Time) time.Duration {
	h, m, s := t.Clock()
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second + time.Duration(t.Nanosecond())
}

// follows says why next cannot come after the rows so far; nil when it can.
func (r *Recording) follows(next row) error {
	last := r.rows[len(r.rows)-1]
	gap := next.at - last.at
	switch {
	case gap <= 0:
		return errors.New("it is not later than in the line before")
	case gap > maxGap && max(last.Irradiance, next.Irradiance) > dusk:
		return fmt.Errorf("%v after the line before, by day; the longest gap is %v", gap, maxGap)
	case gap > maxNight:
		return fmt.Errorf("%v after the line before; the longest gap is %v", gap, maxNight)
	case next.at-r.rows[0].at > maxDays*day:
		return fmt.Errorf("a recording has at most %d days", maxDays)
	}
	return nil
}

// close ends the recording after its last row.
func (r *Recording) close() error {
	if len(r.rows) == 0 {
		return errors.New("there is no row below the header")
	}
	first, last := r.rows[0], r.rows[len(r.rows)-1]
	if length := last.at - first.at; length > 0 && length%day == 0 {
		r.rows = r.rows[:len(r.rows)-1] // the moment at which it begins anew
		last = r.rows[len(r.rows)-1]
	}
	r.period = (last.at - first.at).Truncate(day) + day
	if err := r.follows(r.after(len(r.rows) - 1)); err != nil {
		return fmt.Errorf("from the last line to the first one of the next day: %w", err)
	}
	return nil
}

// table says where in a line what stands.
type table struct {
	time                  int
	irradiance, air, wind column
}

// column is a column of numbers; index is −1 where a recording has it not.
type column struct {
	name        string
	index       int
	least, most float64
	fallback    float64 // what stands in for it
}

func readHeader(header []string) (table, error) {
	header[0] = strings.TrimPrefix(header[0], "\ufeff")
	for i, name := range header {
		if slices.Contains(header[:i], name) {
			return table{}, fmt.Errorf("column %.40q stands twice", name)
		}
	}
	// find returns the first of names that is there.
	find := func(names ...string) (string, int) {
		for _, name := range names {
			if i := slices.Index(header, name); i >= 0 {
				return name, i
			}
		}
		return strings.Join(names, " or "), -1
	}
	t := table{
		irradiance: column{least: -50, most: 2000},
		air:        column{least: -60, most: 60},
		wind:       column{least: 0, most: 100, fallback: 1},
	}
	var clock column
	clock.name, clock.index = find(timeColumn)
	// An instrument in the plane of the panels is better than one that looks up.
	t.irradiance.name, t.irradiance.index = find("poa_wm2", "irr_wm2", "ghi_wm2")
	t.air.name, t.air.index = find("tamb_c")
	t.wind.name, t.wind.index = find("wind_ms")
	for _, needed := range []column{clock, t.irradiance, t.air} {
		if needed.index < 0 {
			return table{}, fmt.Errorf("there is no column %s", needed.name)
		}
	}
	t.time = clock.index
	return t, nil
}

func (t table) row(fields []string) (time.Time, Conditions, error) {
	at, err := time.Parse(time.RFC3339, fields[t.time])
	if err != nil {
		return time.Time{}, Conditions{}, fmt.Errorf("column %s: %.40q is not of the form 2006-01-02T15:04:05-07:00", timeColumn, fields[t.time])
	}
	irradiance, errIrradiance := t.irradiance.number(fields)
	air, errAir := t.air.number(fields)
	wind, errWind := t.wind.number(fields)
	if err := cmp.Or(errIrradiance, errAir, errWind); err != nil {
		return time.Time{}, Conditions{}, err
	}
	return at, Conditions{Irradiance: max(0, irradiance), Air: air, Wind: wind}, nil
}

func (c column) number(fields []string) (float64, error) {
	if c.index < 0 {
		return c.fallback, nil
	}
	x, err := strconv.ParseFloat(fields[c.index], 64)
	switch {
	case err != nil:
		return 0, fmt.Errorf("column %s: %.40q is not a number", c.name, fields[c.index])
	case !(x >= c.least && x <= c.most): // NaN is not, either
		return 0, fmt.Errorf("column %s: %.40q is not within %g and %g", c.name, fields[c.index], c.least, c.most)
	}
	return x, nil
}
