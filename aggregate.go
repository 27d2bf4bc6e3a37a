package ecowatt

import (
	"math/bits"
	"slices"
)

// The columns of a point in a window, in their order.
const (
	Mean  = iota // of the known values, rounded to the nearest integer, halves away from zero
	Least        // of the known values
	Most         // of the known values
	Count        // how many values were known; never missing

	Aggregates // how many columns a point has
)

// The shortest and the longest window, in ms: a second and a day.
const (
	MinWindow = 1000
	MaxWindow = 24 * 60 * 60 * 1000
)

// Aggregate makes windows of samples: what each point was on average, at least
// and at most, and how many values that is of. Mean, Least and Most are missing
// where the count is 0. A window lies on a multiple of its length, which is in ms,
// and begins where its time says. Windows without a sample are not there.
//
// Where from is not 0 the samples are windows of that length themselves; it must
// divide window. Means of means are weighted by their counts; each is rounded.
//
// The times must not go back. What is returned shares nothing with samples.
func Aggregate(samples []Sample, from, window int64) []Sample {
	var windows []Sample
	var sums []sum
	end := func() {
		if len(windows) > 0 {
			windows[len(windows)-1].Values = values(sums)
		}
	}
	for _, s := range samples {
		start := WindowOf(s.At, window)
		if len(windows) == 0 || windows[len(windows)-1].At != start {
			end()
			windows = append(windows, Sample{At: start})
			sums = make([]sum, len(s.Values)/Columns(1, from))
		}
		for i := range sums {
			if from == 0 {
				sums[i].add(s.Values[i])
			} else {
				sums[i].merge(s.Values[i*Aggregates:][:Aggregates])
			}
		}
	}
	end()
	return windows
}

// WindowOf is when the window begins that at is in.
func WindowOf(at, window int64) int64 {
	rest := at % window
	if rest < 0 {
		rest += window
	}
	return at - rest
}

// sum is what the values of a point add up to.
type sum struct {
	high, low   uint64 // two's complement of 128 bits
	count       int64
	least, most int64
}

func (s *sum) add(v Value) {
	if v.Valid {
		s.take(v.Raw, 1, v.Raw, v.Raw)
	}
}

// merge adds the columns of a point in a window.
func (s *sum) merge(v []Value) {
	if n := v[Count].Raw; n > 0 {
		s.take(v[Mean].Raw, n, v[Least].Raw, v[Most].Raw)
	}
}

func (s *sum) take(mean, count, least, most int64) {
	if s.count == 0 {
		s.least, s.most = least, most
	}
	s.least, s.most = min(s.least, least), max(s.most, most)
	s.count += count
	high, low := bits.Mul64(magnitude(mean), uint64(count))
	var carry uint64
	if mean < 0 {
		s.low, carry = bits.Sub64(s.low, low, 0)
		s.high, _ = bits.Sub64(s.high, high, carry)
	} else {
		s.low, carry = bits.Add64(s.low, low, 0)
		s.high, _ = bits.Add64(s.high, high, carry)
	}
}

func magnitude(v int64) uint64 {
	if v < 0 {
		return -uint64(v)
	}
	return uint64(v)
}

// mean is that of at least one value. The sum lies between count times the least
// and the most, so its quotient fits.
func (s *sum) mean() int64 {
	high, low, negative := s.high, s.low, s.high>>63 == 1
	if negative {
		var borrow uint64
		low, borrow = bits.Sub64(0, low, 0)
		high, _ = bits.Sub64(0, high, borrow)
	}
	quotient, rest := bits.Div64(high, low, uint64(s.count))
	if rest >= uint64(s.count)-rest {
		quotient++
	}
	if negative {
		return -int64(quotient)
	}
	return int64(quotient)
}

func values(sums []sum) []Value {
	row := make([]Value, 0, len(sums)*Aggregates)
	for i := range sums {
		s := &sums[i]
		if s.count == 0 {
			row = append(row, Value{}, Value{}, Value{}, Known(0))
			continue
		}
		row = append(row, Known(s.mean()), Known(s.least), Known(s.most), Known(s.count))
	}
	return slices.Clip(row)
}
