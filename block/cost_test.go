package block

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"ecowatt"
)

// TestWorkingMemory: less than 8 KiB, all of it in the encoder itself or on the
// stack of Finish, nothing on the heap but the block.
func TestWorkingMemory(t *testing.T) {
	const limit = 8 << 10
	size := reflect.TypeFor[Encoder]().Size()
	appending := size + reflect.TypeFor[prediction]().Size()
	storing := size + reflect.TypeFor[layout]().Size() + reflect.TypeFor[[MaxPoints]ecowatt.Value]().Size()
	if appending >= limit || storing >= limit {
		t.Errorf("%d bytes to append, %d to store; the limit is %d", appending, storing, limit)
	}
	samples := morning(MaxSamples, 1)
	e, err := NewEncoder(10)
	if err != nil {
		t.Fatal(err)
	}
	e.model.data = append(make([]byte, 0, 1<<20), e.model.data...)
	next := 0
	if n := testing.AllocsPerRun(1000, func() {
		if err := e.Append(samples[next].At, samples[next].Values); err != nil {
			t.Fatal(err)
		}
		next++
	}); n != 0 {
		t.Errorf("appending a sample allocates %v times", n)
	}
}

// TestDecodingMemory: a visitor's walk needs no memory for the samples, and a
// refused block none at all for them.
//
// Attacks: W15
func TestDecodingMemory(t *testing.T) {
	data := encode(t, 10, morning(MaxSamples, 1))
	visit := func(int64, []ecowatt.Value) error { return nil }
	if n := testing.AllocsPerRun(5, func() {
		if err := Each(data, Limits{}, visit); err != nil {
			t.Fatal(err)
		}
	}); n > 3 {
		t.Errorf("walking through %d samples allocates %v times", MaxSamples, n)
	}
	data[len(data)-1] ^= 1
	if n := testing.AllocsPerRun(5, func() { _, _ = Decode(data, Limits{}) }); n > 5 {
		t.Errorf("a damaged block allocates %v times", n)
	}
}

// TestTimes: samples on a grid pay a few bytes for their times, once; those at the
// moment at which an answer came pay for each.
func TestTimes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, interval := range []int64{2000, 5000} {
		grid, late := morning(450, 1), morning(450, 1)
		for i := range grid {
			at := 86_400_000 + int64(i)*interval
			grid[i].At, late[i].At = at, at+1+random.Int64N(8)
		}
		free := morning(450, 1)
		for i := range free {
			free[i].At = 0
		}
		values := len(encode(t, 10, free))
		onGrid, jittered := len(encode(t, 10, grid))-values, len(encode(t, 10, late))-values
		t.Logf("every %d ms: %d bytes of values, and %d or %d of times", interval, values, onGrid, jittered)
		if onGrid > 10 || jittered < 100 {
			t.Errorf("every %d ms: times take %d bytes on a grid, and %d off it", interval, onGrid, jittered)
		}
	}
}

// TestCost holds what a block costs, so that no change makes it dearer unseen.
// The bounds are a percent or so above what was measured.
func TestCost(t *testing.T) {
	const hour = 1800
	constant := func(v ecowatt.Value, n int) []ecowatt.Sample {
		samples := make([]ecowatt.Sample, n)
		for i := range samples {
			samples[i].At = 2000 * int64(i)
			for range 10 {
				samples[i].Values = append(samples[i].Values, v)
			}
		}
		return samples
	}
	random := rand.New(rand.NewPCG(1, 2))
	words := noise(450, 10, func() uint64 { return random.Uint64N(1 << 16) })
	wide := noise(450, 10, random.Uint64)
	tests := []struct {
		name    string
		samples []ecowatt.Sample
		most    int
	}{
		{"a quarter of an hour", morning(450, 1), 1355},
		{"two minutes", morning(60, 1), 200},
		{"a slot of 15 s", morning(7, 1), 55},
		{"an hour of zeros", constant(ecowatt.Known(0), hour), 18},
		{"an hour of nothing", constant(ecowatt.Value{}, hour), 15},
		{"words of noise", words, 450*21 + 225},
		{"wide noise, as it is", wide, headSize + sumSize + 11*fieldHead + 450*(2+10*8)},
	}
	for _, test := range tests {
		if n := len(encode(t, 10, test.samples)); n > test.most {
			t.Errorf("%s: %d bytes, at most %d are right", test.name, n, test.most)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	samples := morning(450, 1)
	e, err := NewEncoder(10)
	if err != nil {
		b.Fatal(err)
	}
	size := 0
	for b.Loop() {
		for _, s := range samples {
			if err := e.Append(s.At, s.Values); err != nil {
				b.Fatal(err)
			}
		}
		size = len(e.Finish())
	}
	report(b, len(samples), size)
}

func BenchmarkDecode(b *testing.B) {
	samples := morning(450, 1)
	data := encode(b, 10, samples)
	for b.Loop() {
		if _, err := Decode(data, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
	report(b, len(samples), len(data))
}

func report(b *testing.B, samples, size int) {
	b.Helper()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*samples*10), "ns/value")
	b.ReportMetric(float64(size)/float64(samples), "B/sample")
}
