package block

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt"
)

// encode packs samples with that many points.
func encode(tb testing.TB, points int, samples []ecowatt.Sample) []byte {
	tb.Helper()
	data, err := Encode(ecowatt.Block{Points: make([]string, points), Samples: samples})
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// returns checks that data decodes to samples.
func returns(tb rapid.TB, data []byte, samples []ecowatt.Sample) {
	tb.Helper()
	got, err := Decode(data, Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	if len(samples) == 0 && len(got) == 0 {
		return
	}
	if diff := cmp.Diff(samples, got); diff != "" {
		tb.Fatalf("decoded (-want +got):\n%s", diff)
	}
}

// resealed is data with a right checksum.
func resealed(data []byte) []byte {
	data = bytes.Clone(data[:len(data)-sumSize])
	return binary.BigEndian.AppendUint32(data, sum(data))
}

// morning is n samples of an inverter with ten points, 2 s apart, as the sun
// comes up behind clouds: whole numbers alone, the same everywhere.
func morning(n int, seed uint64) []ecowatt.Sample {
	r := rand.New(rand.NewPCG(seed, 1))
	noise := func(w int64) int64 { return r.Int64N(2*w+1) - w }
	samples := make([]ecowatt.Sample, n)
	volt, cloud, temp := int64(2310), int64(0), int64(2500)
	for i := range samples {
		if r.IntN(40) == 0 {
			cloud = r.Int64N(400)
		}
		volt += (2310-volt)/16 + noise(3)
		sun := max(200+int64(i)-cloud+noise(2), 0)
		vpv := [2]int64{3300 + sun/8 + noise(5), 3280 + sun/8 + noise(5)}
		temp += (2500 + sun*4 - temp) / 64
		watts := sun * 4
		values := []int64{
			volt, watts * 100 / volt, 5000 + noise(2), vpv[0], vpv[1],
			watts * 52 / vpv[0], watts * 51 / vpv[1], temp / 10, 100, watts,
		}
		samples[i].At = 1_767_225_600_000 + 2000*int64(i)
		for _, v := range values {
			samples[i].Values = append(samples[i].Values, ecowatt.Known(v))
		}
	}
	return samples
}

// noise is n samples of points that cannot be predicted.
func noise(n, points int, random func() uint64) []ecowatt.Sample {
	samples := make([]ecowatt.Sample, n)
	for i := range samples {
		samples[i].At = int64(i)
		for range points {
			samples[i].Values = append(samples[i].Values, ecowatt.Known(int64(random())))
		}
	}
	return samples
}

// wild draws a run of samples that no inverter would send.
func wild(t *rapid.T) (int, []ecowatt.Sample) {
	points := rapid.OneOf(rapid.IntRange(1, 12), rapid.IntRange(1, MaxPoints)).Draw(t, "points")
	number := rapid.OneOf(
		rapid.Int64(),
		rapid.Int64Range(-40, 40),
		rapid.Int64Range(0, 65535),
		rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64, 0, 1, -1, 1 << 31, 1<<31 - 1, 1 << 32, 0x7fc00000}),
	)
	step := rapid.OneOf(rapid.Just[int64](2000), rapid.Just[int64](0), rapid.Int64Range(-5, 5), rapid.Int64())
	gaps := rapid.IntRange(0, 3).Draw(t, "gaps")
	samples := make([]ecowatt.Sample, rapid.OneOf(rapid.IntRange(0, 8), rapid.IntRange(0, 80)).Draw(t, "samples"))
	at := number.Draw(t, "t0")
	base := make([]int64, points)
	for i := range base {
		base[i] = number.Draw(t, "base")
	}
	for i := range samples {
		at += step.Draw(t, "step")
		s := ecowatt.Sample{At: at, Values: make([]ecowatt.Value, points)}
		for k := range s.Values {
			if gaps > 0 && rapid.IntRange(0, 3).Draw(t, "gap") < gaps {
				continue
			}
			if rapid.Bool().Draw(t, "move") {
				base[k] += number.Draw(t, "by")
			}
			s.Values[k] = ecowatt.Known(base[k])
		}
		samples[i] = s
	}
	return points, samples
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		points, samples := wild(t)
		data, err := Encode(ecowatt.Block{Points: make([]string, points), Samples: samples})
		if err != nil {
			t.Fatal(err)
		}
		returns(t, data, samples)
	})
}

func TestRoundTripOfManySamples(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 60, 450, MaxSamples} {
		samples := morning(n, 3)
		returns(t, encode(t, 10, samples), samples)
	}
}

// TestBlocksFollowOneAnother: an encoder keeps nothing from block to block.
func TestBlocksFollowOneAnother(t *testing.T) {
	e, err := NewEncoder(10)
	if err != nil {
		t.Fatal(err)
	}
	samples := morning(100, 4)
	var blocks [3][]byte
	for i := range blocks {
		for _, s := range samples {
			if err := e.Append(s.At, s.Values); err != nil {
				t.Fatal(err)
			}
		}
		most := e.Size()
		blocks[i] = e.Finish()
		if n := len(blocks[i]); n > most || n < most-8 {
			t.Errorf("a block of %d bytes, announced as %d at most", n, most)
		}
	}
	for _, b := range blocks {
		if !bytes.Equal(b, blocks[0]) {
			t.Fatal("the same samples give different blocks")
		}
		returns(t, b, samples)
	}
}

func TestEncoderRefuses(t *testing.T) {
	for _, points := range []int{-1, 0, MaxPoints + 1} {
		if _, err := NewEncoder(points); err == nil {
			t.Errorf("%d points are taken", points)
		}
	}
	e, err := NewEncoder(2)
	if err != nil {
		t.Fatal(err)
	}
	two := []ecowatt.Value{{Raw: 7, Valid: false}, ecowatt.Known(1)}
	for i := range MaxSamples {
		if err := e.Append(int64(i), two); err != nil {
			t.Fatal(err)
		}
		if err := e.Append(int64(i), two[:1]); err == nil {
			t.Fatal("one value for two points is taken")
		}
	}
	if err := e.Append(0, two); !errors.Is(err, ErrFull) {
		t.Errorf("one sample too many: %v", err)
	}
	if two[0].Raw != 7 {
		t.Error("Append changed the values it was given")
	}
	samples, err := Decode(e.Finish(), Limits{})
	if err != nil || len(samples) != MaxSamples {
		t.Fatalf("%d samples, %v", len(samples), err)
	}
	if got := samples[MaxSamples-1]; got.At != MaxSamples-1 || got.Values[0] != (ecowatt.Value{}) {
		t.Errorf("the last sample is %v", got)
	}
}

// TestDamage: no changed byte, no lost and no added one goes unnoticed.
func TestDamage(t *testing.T) {
	everyFlip := []byte{1, 2, 4, 8, 16, 32, 64, 128, 255}
	for flip := byte(3); flip < 255; flip++ {
		everyFlip = append(everyFlip, flip)
	}
	wide := encode(t, 16, noise(60, 16, rand.New(rand.NewPCG(5, 5)).Uint64))
	if wide[0] != kindStored {
		t.Fatal("noise is not stored")
	}
	for name, data := range map[string][]byte{"coded": encode(t, 10, morning(60, 1)), "stored": slices.Clip(wide)} {
		refused := func(what string, damaged []byte) {
			t.Helper()
			_, err := Decode(damaged, Limits{})
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrVersion) {
				t.Fatalf("%s, %s: %v", name, what, err)
			}
		}
		damaged := bytes.Clone(data)
		for i := range data {
			flips := everyFlip
			if len(data) > 1000 {
				flips = flips[:9]
			}
			for _, flip := range flips {
				damaged[i] ^= flip
				refused("a changed byte", damaged)
				damaged[i] = data[i]
			}
			refused("the end is lost", data[:i])
			refused("the beginning is lost", data[i+1:])
			refused("a byte is lost", append(bytes.Clone(data[:i]), data[i+1:]...))
		}
		refused("a byte is added", append(bytes.Clone(data), 0))
	}
}

// TestDeceit: what has the right checksum and was never a block.
func TestDeceit(t *testing.T) {
	coded := encode(t, 10, morning(60, 1))
	stored := func(columns ...byte) []byte {
		data := []byte{kindStored, byte(len(columns) - 1), 0, 1}
		for _, head := range columns {
			data = append(data, head, 0, 0, 0, 0, 0, 0, 0, 0)
		}
		return append(data, 0, 0, 0, 0, 0, 0, 0)
	}
	change := func(data []byte, at int, b ...byte) []byte {
		data = bytes.Clone(data)
		copy(data[at:], b)
		return resealed(data)
	}
	tests := []struct {
		name string
		data []byte
		want error
	}{
		{"another version", change(coded, 0, 0x21), ErrVersion},
		{"another kind", change(coded, 0, 0x12), ErrVersion},
		{"no points", change(coded, 1, 0), ErrDamaged},
		{"too many points", change(coded, 1, 65), ErrDamaged},
		{"too many samples", change(coded, 2, 0x10, 0x01), ErrDamaged},
		{"bytes of more samples", change(coded, 2, 0, 2), ErrDamaged},
		{"a zero at the end", resealed(append(coded[:len(coded)-sumSize:len(coded)-sumSize], 0, 0, 0, 0, 0)), ErrDamaged},
		{"beyond the interval", resealed([]byte{kindCoded, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}), ErrDamaged},
		{"stored: 9 bytes wide", resealed(stored(0, 9)), ErrDamaged},
		{"stored: missing times", resealed(stored(0x80, 1)), ErrDamaged},
		{"stored: a byte too many", resealed(stored(0, 2)), ErrDamaged},
		{"stored: a byte too few", resealed(stored(0, 4)), ErrDamaged},
		{"stored: no room for columns", change(stored(0, 3), 1, 3), ErrDamaged},
		{"stored as it should be", resealed(stored(0, 3)), nil},
	}
	for _, test := range tests {
		if _, err := Decode(test.data, Limits{}); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

// TestGroupLeftOver: a group of plain bits leaves a rest of the interval over,
// into which no encoder comes.
func TestGroupLeftOver(t *testing.T) {
	var w, r coder
	w.write(nil)
	w.bit(40001, false)
	if w.width%256 == 0 {
		t.Fatal("nothing is left over")
	}
	for _, test := range []struct {
		number uint32
		stray  bool
	}{{w.low + w.width - 1, true}, {w.low + w.width/256*256 - 1, false}} {
		r.read(binary.BigEndian.AppendUint32(nil, test.number))
		r.bit(40001, false)
		if r.bits(8, 0); r.stray != test.stray {
			t.Errorf("%08x: stray is %v", test.number, r.stray)
		}
	}
}

func TestLimits(t *testing.T) {
	data := encode(t, 10, morning(60, 1))
	for _, l := range []Limits{{Points: 9}, {Samples: 59}} {
		if _, err := Decode(data, l); !errors.Is(err, ErrLimit) {
			t.Errorf("%+v: %v", l, err)
		}
	}
	if _, err := Decode(data, Limits{Points: 10, Samples: 60}); err != nil {
		t.Error(err)
	}
}

// TestEachEndsWithVisit: visiting stops where the visitor wants it.
func TestEachEndsWithVisit(t *testing.T) {
	enough, visits := errors.New("enough"), 0
	err := Each(encode(t, 10, morning(60, 1)), Limits{}, func(int64, []ecowatt.Value) error {
		visits++
		if visits == 5 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || visits != 5 {
		t.Errorf("%d visits, %v", visits, err)
	}
}

// FuzzDecode: any bytes are refused or are a block within the limits, whose
// samples come back when they are encoded again.
//
// Attacks: W20
func FuzzDecode(f *testing.F) {
	for _, v := range readVectors(f) {
		f.Add(v.block, false)
		f.Add(v.block, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, reseal bool) {
		if reseal && len(data) >= headSize+sumSize {
			data = resealed(data)
		}
		limits := Limits{Points: 20, Samples: 500}
		samples, err := Decode(data, limits)
		if err != nil {
			return
		}
		points := int(data[1])
		if len(samples) > limits.Samples || points > limits.Points {
			t.Fatalf("%d samples of %d points", len(samples), points)
		}
		returns(t, encode(t, points, samples), samples)
	})
}
