package ecowatt

import (
	"math"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestAggregate(t *testing.T) {
	v, none := Known, Value{}
	samples := []Sample{
		{At: -1, Values: []Value{v(7), none}},
		{At: 0, Values: []Value{v(1), none}},
		{At: 999, Values: []Value{v(2), none}},
		{At: 5000, Values: []Value{v(-1), v(math.MaxInt64)}},
		{At: 5999, Values: []Value{v(-2), v(math.MaxInt64)}},
		{At: 5999, Values: []Value{none, v(math.MaxInt64 - 1)}},
	}
	want := []Sample{
		{At: -1000, Values: []Value{v(7), v(7), v(7), v(1), none, none, none, v(0)}},
		{At: 0, Values: []Value{v(2), v(1), v(2), v(2), none, none, none, v(0)}},
		{At: 5000, Values: []Value{v(-2), v(-2), v(-1), v(2), v(math.MaxInt64), v(math.MaxInt64 - 1), v(math.MaxInt64), v(3)}},
	}
	if diff := cmp.Diff(want, Aggregate(samples, 0, 1000)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want = []Sample{
		{At: -10_000, Values: []Value{v(7), v(7), v(7), v(1), none, none, none, v(0)}},
		{At: 0, Values: []Value{v(0), v(-2), v(2), v(4), v(math.MaxInt64), v(math.MaxInt64 - 1), v(math.MaxInt64), v(3)}},
	}
	if diff := cmp.Diff(want, Aggregate(Aggregate(samples, 0, 1000), 1000, 10_000)); diff != "" {
		t.Errorf("in two steps (-want +got):\n%s", diff)
	}
	if got := Aggregate(nil, 0, 1000); got != nil {
		t.Errorf("of nothing: %v", got)
	}
}

// TestAggregateCounts: whatever the samples are, every known value counts in the
// window of its time, and mean, least and most are theirs.
func TestAggregateCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		points := rapid.IntRange(1, 3).Draw(t, "points")
		window := rapid.SampledFrom([]int64{1000, 60_000, MaxWindow}).Draw(t, "window")
		at := rapid.Int64Range(-MaxWindow, MaxWindow).Draw(t, "t0")
		var samples []Sample
		for range rapid.IntRange(0, 40).Draw(t, "samples") {
			s := Sample{At: at, Values: make([]Value, points)}
			for p := range s.Values {
				if rapid.IntRange(0, 3).Draw(t, "known") > 0 {
					s.Values[p] = Known(rapid.OneOf(rapid.Int64(), rapid.Int64Range(-3, 3)).Draw(t, "raw"))
				}
			}
			samples = append(samples, s)
			at += rapid.Int64Range(0, window).Draw(t, "step")
		}
		if diff := cmp.Diff(slowly(samples, points, window), Aggregate(samples, 0, window)); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// slowly is Aggregate by the words of its comment, in numbers of any size.
func slowly(samples []Sample, points int, window int64) (windows []Sample) {
	for start := -2 * MaxWindow / window * window; len(samples) > 0; start += window {
		n := 0
		for n < len(samples) && samples[n].At < start+window {
			n++
		}
		if n == 0 {
			continue
		}
		w := Sample{At: start}
		for p := range points {
			w.Values = append(w.Values, aggregated(samples[:n], p)...)
		}
		windows, samples = append(windows, w), samples[n:]
	}
	return windows
}

func aggregated(samples []Sample, p int) []Value {
	sum, count := big.NewInt(0), int64(0)
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range samples {
		if v := s.Values[p]; v.Valid {
			sum.Add(sum, big.NewInt(v.Raw))
			least, most, count = min(least, v.Raw), max(most, v.Raw), count+1
		}
	}
	if count == 0 {
		return []Value{{}, {}, {}, Known(0)}
	}
	// ⌊(2 |sum| + count) / 2 count⌋, with the sign of the sum.
	sign := int64(sum.Sign())
	sum.Abs(sum).Lsh(sum, 1).Add(sum, big.NewInt(count)).Div(sum, big.NewInt(2*count))
	return []Value{Known(sum.Mul(sum, big.NewInt(sign)).Int64()), Known(least), Known(most), Known(count)}
}
