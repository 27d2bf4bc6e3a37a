// Package rollup condenses samples: to minutes, which stand beside the block
// they come from, and to quarters of an hour, which stand in chunks of six hours
// and answer everything longer. Days are made of quarters when they are asked
// for, in the time zone of the site: every time zone is a whole number of
// quarters from UTC.
//
// What two blocks say of one bucket is merged. Least, greatest, sum and count do
// not depend on the order. Energy does, for it is made of what lies between two
// samples; Merge says when the order was not that of time, and the chunk is made
// anew from its blocks then.
package rollup

import (
	"math"

	"ecowatt"
)

// Spans of buckets, in ms.
const (
	Minute  = 60_000
	Quarter = 15 * Minute
	Chunk   = 6 * 60 * Minute // of quarters, in one row of the store
)

// MaxGap is the longest time between two samples, in ms, over which power is
// taken to have gone from the one to the other in a straight line.
const MaxGap = 15 * Minute

// Stats is what is known of one point in one bucket. The zero value is nothing.
type Stats struct {
	Min, Max int64 // raw
	Sum      int64 // of the raw values, which stays at the end of its range
	Count    int64 // known values
}

// Mean is the mean raw value; 0 where nothing is known.
func (s Stats) Mean() float64 {
	if s.Count == 0 {
		return 0
	}
	return float64(s.Sum) / float64(s.Count)
}

// Merge adds what o says of the same bucket.
func (s *Stats) Merge(o Stats) {
	switch {
	case o.Count == 0:
	case s.Count == 0:
		*s = o
	default:
		s.Min, s.Max = min(s.Min, o.Min), max(s.Max, o.Max)
		s.Sum, s.Count = addUp(s.Sum, o.Sum), s.Count+o.Count
	}
}

// addUp is a + b, or the end of the range that it would go beyond.
func addUp(a, b int64) int64 {
	sum := a + b
	switch {
	case a > 0 && b > 0 && sum < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && sum >= 0:
		return math.MinInt64
	}
	return sum
}

// times is v × n, or the end of the range that it would go beyond.
func times(v, n int64) int64 {
	if v == 0 || n == 0 {
		return 0
	}
	if p := v * n; p/n == v && (v != math.MinInt64 || n != -1) {
		return p
	}
	if (v < 0) == (n < 0) {
		return math.MaxInt64
	}
	return math.MinInt64
}

// Role is what a point has to do with energy.
type Role byte

// The roles.
const (
	None     Role = iota
	Power         // W: energy is its area
	Lifetime      // Wh, counts up for ever
	Daily         // Wh, begins anew every day
)

// RoleOf is the role of a point, which its name tells: profiles call one thing by
// one name.
func RoleOf(point string) Role {
	switch point {
	case "pac":
		return Power
	case "energy_total":
		return Lifetime
	case "energy_today":
		return Daily
	}
	return None
}

// Series is what energy needs to know of one point in one bucket: its first and
// last known value, and what is between. The zero value is nothing.
type Series struct {
	Known       bool
	First, Last Reading
	Area        int64 // of power: twice the area in raw × ms
	Gain        int64 // of a counter: how much it counted, raw
}

// Reading is a known value.
type Reading struct {
	At  int64 // ms since 1970
	Raw int64
}

// add appends a reading, which is not before the last.
func (s *Series) add(role Role, r Reading) {
	if role != Power && r.Raw <= 0 {
		return // a counter that says 0 says nothing: it was reset, or is not there yet
	}
	s.then(role, Series{Known: true, First: r, Last: r})
}

// then appends what comes after s.
func (s *Series) then(role Role, next Series) {
	switch {
	case !next.Known:
	case !s.Known:
		*s = next
	default:
		area, gain := Between(role, s.Last, next.First)
		s.Area = addUp(addUp(s.Area, area), next.Area)
		s.Gain = addUp(addUp(s.Gain, gain), next.Gain)
		s.Last = next.Last
	}
}

// Between is what lies between two successive readings of a point: twice the
// area under power, or what a counter has counted.
//
// A counter that has gone down was reset: a daily one has counted what it says
// since; of one for a lifetime nothing is known, unless it was near the end of
// its 16 or 32 bits and went over.
func Between(role Role, a, b Reading) (area, gain int64) {
	switch role {
	case Power:
		if dt := b.At - a.At; dt > 0 && dt <= MaxGap {
			return times(addUp(a.Raw, b.Raw), dt), 0
		}
	case Lifetime, Daily:
		switch {
		case b.Raw >= a.Raw:
			return 0, b.Raw - a.Raw
		case role == Daily:
			return 0, b.Raw
		}
		for _, end := range []int64{1 << 16, 1 << 32} {
			if a.Raw < end && a.Raw > end-end/16 && b.Raw < end/16 {
				return 0, end - a.Raw + b.Raw
			}
		}
	case None:
	}
	return 0, 0
}

// merge adds what o says of the same bucket, and reports whether the two lie one
// after the other, so that what is between them is known.
func (s *Series) merge(role Role, o Series) (exact bool) {
	switch {
	case !o.Known:
		return true
	case !s.Known || o.First.At > s.Last.At:
		s.then(role, o)
		return true
	}
	if o.First.At < s.First.At {
		s.First = o.First
	}
	if o.Last.At > s.Last.At {
		s.Last = o.Last
	}
	s.Area, s.Gain = addUp(s.Area, o.Area), addUp(s.Gain, o.Gain)
	return false
}

// Row is one bucket of the points of a table.
type Row struct {
	N      int64    // number of the bucket since 1970
	Stats  []Stats  // one per point
	Series []Series // one per point of a role, in their order; none in minutes
}

// Table is buckets of one list of points, by number, none of them empty.
type Table []Row

// Roles are those of points, and where the points with one stand.
func Roles(points []string) (roles []Role, at []int) {
	for i, p := range points {
		if r := RoleOf(p); r != None {
			roles, at = append(roles, r), append(at, i)
		}
	}
	return roles, at
}

// Merge adds the rows of o, of the same points, to t. It reports whether all of
// it came in the order of time within each bucket.
func (t Table) Merge(points []string, o Table) (merged Table, exact bool) {
	roles, _ := Roles(points)
	exact = true
	for len(t) > 0 || len(o) > 0 {
		switch {
		case len(o) == 0 || len(t) > 0 && t[0].N < o[0].N:
			merged, t = append(merged, t[0]), t[1:]
		case len(t) == 0 || o[0].N < t[0].N:
			merged, o = append(merged, o[0]), o[1:]
		default:
			row := Row{N: t[0].N, Stats: append([]Stats{}, t[0].Stats...), Series: append([]Series{}, t[0].Series...)}
			for i := range row.Stats {
				row.Stats[i].Merge(o[0].Stats[i])
			}
			for i := range row.Series {
				if !row.Series[i].merge(roles[i], o[0].Series[i]) {
					exact = false
				}
			}
			merged, t, o = append(merged, row), t[1:], o[1:]
		}
	}
	return merged, exact
}

// Known says of which roles the table knows a value: a bit 1 << role for each.
func (t Table) Known(points []string) (bits int64) {
	roles, _ := Roles(points)
	for _, row := range t {
		for i, s := range row.Series {
			if s.Known {
				bits |= 1 << roles[i]
			}
		}
	}
	return bits
}

// Collect condenses samples, oldest first, with At in ms since 1970. With a
// window, in ms, they are windows of so much (see ecowatt.Aggregate), and each
// counts for the bucket in which it begins.
func Collect(points []string, samples []ecowatt.Sample, window int64) (minutes, quarters Table) {
	roles, at := Roles(points)
	observed := make([]Stats, len(points))
	for _, s := range samples {
		if !observe(observed, s, window) {
			continue
		}
		minutes = minutes.at(s.At/Minute, len(points), 0)
		quarters = quarters.at(s.At/Quarter, len(points), len(roles))
		minute, quarter := &minutes[len(minutes)-1], &quarters[len(quarters)-1]
		for i, o := range observed {
			minute.Stats[i].Merge(o)
			quarter.Stats[i].Merge(o)
		}
		for i, p := range at {
			if o := observed[p]; o.Count > 0 {
				quarter.Series[i].observe(roles[i], s.At, o, window)
			}
		}
	}
	return minutes, quarters
}

// observe puts what one sample, or window, says of each point into all, and
// reports whether it says anything.
func observe(all []Stats, s ecowatt.Sample, window int64) (some bool) {
	clear(all)
	for i := range all {
		if window == 0 {
			if v := s.Values[i]; v.Valid {
				all[i], some = Stats{Min: v.Raw, Max: v.Raw, Sum: v.Raw, Count: 1}, true
			}
			continue
		}
		v := s.Values[i*ecowatt.Aggregates:][:ecowatt.Aggregates]
		if n := v[ecowatt.Count].Raw; v[ecowatt.Count].Valid && n > 0 {
			all[i], some = Stats{Min: v[ecowatt.Least].Raw, Max: v[ecowatt.Most].Raw, Sum: times(v[ecowatt.Mean].Raw, n), Count: n}, true
		}
	}
	return some
}

// observe appends a sample, or a window: power had its mean all through it, and a
// counter went from the least to the greatest.
func (s *Series) observe(role Role, at int64, o Stats, window int64) {
	first, last := Reading{at, o.Sum}, Reading{at, o.Sum}
	if window != 0 && role == Power {
		mean := int64(math.Round(o.Mean()))
		first, last = Reading{at, mean}, Reading{at + window, mean}
		s.then(role, Series{Known: true, First: first, Last: last, Area: times(2*mean, window)})
		return
	}
	if window != 0 {
		first, last = Reading{at, o.Min}, Reading{at + window - 1, o.Max}
	}
	s.add(role, first)
	if last != first {
		s.add(role, last)
	}
}

// at is the table with the row n, which is the last or comes after it.
func (t Table) at(n int64, points, series int) Table {
	if len(t) > 0 && t[len(t)-1].N == n {
		return t
	}
	return append(t, Row{N: n, Stats: make([]Stats, points), Series: make([]Series, series)})
}

// Split cuts a table of quarters into those of each chunk, in order.
func (t Table) Split() (starts []int64, parts []Table) {
	const per = Chunk / Quarter
	for _, row := range t {
		start := row.N / per * Chunk
		if len(starts) == 0 || starts[len(starts)-1] != start {
			starts, parts = append(starts, start), append(parts, nil)
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], row)
	}
	return starts, parts
}
