package rollup

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"ecowatt"
)

// Step is the length of the buckets of a curve: whole minutes that divide a day,
// counted from midnight UTC, or days of a time zone.
type Step struct {
	size     int64          // ms; 0 for days
	location *time.Location // of days
}

// ErrStep says that a step is none of those there are.
var ErrStep = errors.New("a step is whole minutes that divide a day, or a day")

const day = 24 * 60 * Minute

// NewStep returns the step of a length; days are those of location. The error
// wraps ErrStep.
func NewStep(length time.Duration, location *time.Location) (Step, error) {
	ms := length.Milliseconds()
	switch {
	case ms == day:
		return Step{location: location}, nil
	case length%time.Minute != 0 || ms <= 0 || day%ms != 0:
		return Step{}, fmt.Errorf("%w; %v is not", ErrStep, length)
	}
	return Step{size: ms, location: location}, nil
}

// Zone is the time zone of days, an IANA name.
func (s Step) Zone() string { return s.location.String() }

// Coarse reports whether quarters are enough to make the step.
func (s Step) Coarse() bool { return s.size%Quarter == 0 }

// Bounds are begin and end of the bucket that at is in, ms since 1970.
func (s Step) Bounds(at int64) (begin, end int64) {
	if s.size != 0 {
		begin = floor(at, s.size)
		return begin, begin + s.size
	}
	t := time.UnixMilli(at).In(s.location)
	begin, end = s.midnight(t, 0), s.midnight(t, 1)
	switch { // where clocks go back over midnight, a date comes twice
	case at < begin:
		begin, end = s.midnight(t, -1), begin
	case at >= end:
		begin, end = end, s.midnight(t, 2)
	}
	return begin, end
}

// midnight is when the date of t, or one so many days later, begins: at the first
// of two midnights where clocks go back over it, and when they go forward where
// they pass over it.
func (s Step) midnight(t time.Time, days int) int64 {
	y, m, d := t.Date()
	date := time.Date(y, m, d+days, 0, 0, 0, 0, time.UTC)
	t = time.Date(y, m, d+days, 0, 0, 0, 0, s.location) // of two, or of none, it is either
	since, until := t.ZoneBounds()
	switch _, offset := t.Zone(); {
	case t.Day() != date.Day() && !until.IsZero() && until.Sub(t) < 24*time.Hour:
		return until.UnixMilli()
	case !since.IsZero():
		_, before := since.Add(-time.Second).Zone()
		if first := t.Add(time.Duration(offset-before) * time.Second); first.Before(since) && before > offset {
			return first.UnixMilli()
		}
	}
	return t.UnixMilli()
}

func floor(at, size int64) int64 {
	n := at / size
	if at%size < 0 {
		n--
	}
	return n * size
}

// Bucket is one bucket of a curve. One in which nothing was known is not there.
type Bucket struct {
	Begin, End int64   // ms since 1970
	Stats      []Stats // one per point; count 0 where nothing is known
	Energy     float64 // Wh; only if HasEnergy
	HasEnergy  bool
}

// Query selects a curve of one device.
type Query struct {
	Device   ecowatt.DeviceID
	Inverter string // only this one; empty for all
	// Buckets that begin before To and end after From; both must be set.
	From, To time.Time
	Points   []string // only these, in this order; empty for all
	Step     time.Duration
	Energy   bool // energy only, no points
}

// Part is a run of buckets of one inverter that share their points.
type Part struct {
	Inverter string
	TimeZone string // IANA name: where its days begin at midnight
	Points   []ecowatt.Point
	Source   Role // what energy is made of; None where there is nothing to make it of
	Buckets  []Bucket
}

// Curve makes buckets out of rows, which come table by table in the order of
// their begin; Done says between them how far that is. It holds what later tables
// may still add to.
type Curve struct {
	step     Step
	from, to int64
	chosen   bool // only these points
	points   []string
	places   map[string]int
	source   Role
	describe func(point string) ecowatt.Point
	open     map[int64]*Bucket
	pending  []piece // of the source, of tables that others of their time may follow
	last     Reading // of the source
	known    bool    // whether there is a last one
	begin    int64   // of the bucket that was used last,
	end      int64   // for most rows are of the same as the one before
}

// CurveOptions are what a Curve is made of.
type CurveOptions struct {
	Step     Step
	From, To int64                            // ms since 1970, as in Query
	Points   []string                         // empty for all
	Energy   bool                             // no points at all
	Source   Role                             // what energy is made of
	Describe func(point string) ecowatt.Point // unit and exponent
}

// NewCurve returns an empty curve.
func NewCurve(o CurveOptions) *Curve {
	c := &Curve{
		step: o.Step, from: o.From, to: o.To, chosen: len(o.Points) > 0 || o.Energy, places: map[string]int{},
		source: o.Source, describe: o.Describe, open: map[int64]*Bucket{},
	}
	if o.Energy {
		return c
	}
	for _, p := range o.Points {
		c.places[p] = len(c.points)
		c.points = append(c.points, p)
	}
	return c
}

// piece is what one row says of the source of energy.
type piece struct {
	at    int64 // when its bucket begins
	scale float64
	Series
}

// Add takes the rows of a table of these points, whose buckets have a length in
// ms. Rows that are out of the curve only serve for what lies between two.
// Tables of one time come in any order: an inverter has several when its list of
// points changed.
func (c *Curve) Add(points []string, t Table, length int64) {
	where := make([]int, len(points))
	for i, p := range points {
		place, ok := c.places[p]
		switch {
		case ok:
			where[i] = place
		case c.chosen:
			where[i] = -1
		default:
			where[i] = len(c.points)
			c.places[p] = len(c.points)
			c.points = append(c.points, p)
		}
	}
	roles, at := Roles(points)
	for _, row := range t {
		b := c.bucket(row.N * length)
		if b != nil {
			b.Stats = append(b.Stats, make([]Stats, len(c.points)-len(b.Stats))...)
			for i, s := range row.Stats {
				if where[i] >= 0 {
					b.Stats[where[i]].Merge(s)
				}
			}
		}
		for i, s := range row.Series {
			if s.Known && roles[i] == c.source {
				c.pending = append(c.pending, piece{row.N * length, wattHours(c.describe(points[at[i]])), s})
			}
		}
	}
}

// AddSeries is Add for the series alone, as AppendSeries wrote them: a year of
// quarters is 35,000 rows, and of no more than energy nothing else is needed. After
// an error, which wraps ErrFormat, the curve is good for nothing.
func (c *Curve) AddSeries(points []string, b []byte) error {
	roles, at := Roles(points)
	scales := make([]float64, len(at))
	for i, p := range at {
		scales[i] = wattHours(c.describe(points[p]))
	}
	r, n, err := newReader(b, len(roles))
	if err != nil {
		return err
	}
	var number int64
	for range n {
		number += r.varint()
		c.bucket(number * Quarter)
		for i, role := range roles {
			if s := r.series(number); s.Known && role == c.source {
				c.pending = append(c.pending, piece{number * Quarter, scales[i], s})
			}
		}
	}
	return r.end()
}

// bucket is the open bucket of a row; nil for one that is out of the curve.
func (c *Curve) bucket(at int64) *Bucket {
	if at < c.begin || at >= c.end {
		c.begin, c.end = c.step.Bounds(at)
	}
	if c.end <= c.from || c.begin >= c.to {
		return nil
	}
	b := c.open[c.begin]
	if b == nil {
		b = &Bucket{Begin: c.begin, End: c.end}
		c.open[c.begin] = b
	}
	return b
}

// wattHours is what one raw unit of a point is in W, or in Wh.
func wattHours(p ecowatt.Point) float64 {
	scale := math.Pow10(p.Exponent)
	if p.Unit == "kW" || p.Unit == "kWh" {
		scale *= 1000
	}
	return scale
}

// settle adds up the energy of all rows before a time, in their order. What lies
// between two that overlap is not known.
func (c *Curve) settle(before int64) {
	slices.SortStableFunc(c.pending, func(a, b piece) int { return cmp.Compare(a.First.At, b.First.At) })
	c.pending = slices.DeleteFunc(c.pending, func(p piece) bool {
		if p.at >= before {
			return false
		}
		area, gain := p.Area, p.Gain
		if c.known && p.First.At > c.last.At {
			a, g := Between(c.source, c.last, p.First)
			area, gain = addUp(area, a), addUp(gain, g)
		}
		if !c.known || p.Last.At > c.last.At {
			c.last, c.known = p.Last, true
		}
		if b := c.bucket(p.at); b != nil {
			b.HasEnergy = true
			b.Energy += p.scale * (float64(area)/2/(60*float64(Minute)) + float64(gain))
		}
		return true
	})
}

// Done returns the buckets that end at before or earlier, in order, and the
// points of their stats; they are forgotten then.
func (c *Curve) Done(before int64) (points []string, buckets []Bucket) {
	c.settle(before)
	for _, begin := range slices.Sorted(maps.Keys(c.open)) {
		b := c.open[begin]
		if b.End > before {
			break
		}
		b.Stats = append(b.Stats, make([]Stats, len(c.points)-len(b.Stats))...)
		buckets = append(buckets, *b)
		delete(c.open, begin)
	}
	return slices.Clone(c.points), buckets
}
