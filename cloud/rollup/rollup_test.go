package rollup

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt"
)

var points = []string{"pac", "vac1", "energy_total", "energy_today"}

// noon is the begin of a quarter, of a chunk and of an hour.
const noon = 1_790_000_000_000 / Chunk * Chunk

func sample(at int64, values ...int64) ecowatt.Sample {
	s := ecowatt.Sample{At: at}
	for _, v := range values {
		s.Values = append(s.Values, ecowatt.Value{Raw: v, Valid: v != missing})
	}
	return s
}

const missing = math.MinInt64

// drawSamples draws samples that move on, with values missing here and there.
func drawSamples(t *rapid.T) []ecowatt.Sample {
	at, total, today := int64(noon), int64(1000), int64(3)
	var all []ecowatt.Sample
	for range rapid.IntRange(1, 120).Draw(t, "samples") {
		at += rapid.SampledFrom([]int64{1, 5_000, 60_000, 61_000, 15 * Minute, 16 * Minute, 3 * Chunk}).Draw(t, "dt")
		total += rapid.Int64Range(0, 40).Draw(t, "counted")
		if today += rapid.Int64Range(0, 40).Draw(t, "today"); rapid.IntRange(0, 20).Draw(t, "reset") == 0 {
			today = 0
		}
		values := []int64{rapid.Int64Range(-5, 9000).Draw(t, "pac"), rapid.Int64().Draw(t, "vac1"), total, today}
		for i := range values {
			if rapid.IntRange(0, 6).Draw(t, "gone") == 0 {
				values[i] = missing
			}
		}
		all = append(all, sample(at, values...))
	}
	return all
}

// oracle is what the quarters say, worked out from all samples one by one.
func oracle(samples []ecowatt.Sample, length int64) map[int64][]Stats {
	buckets := map[int64][]Stats{}
	for _, s := range samples {
		for i, v := range s.Values {
			if !v.Valid {
				continue
			}
			n := s.At / length
			if buckets[n] == nil {
				buckets[n] = make([]Stats, len(s.Values))
			}
			b := &buckets[n][i]
			if b.Count == 0 || v.Raw < b.Min {
				b.Min = v.Raw
			}
			if b.Count == 0 || v.Raw > b.Max {
				b.Max = v.Raw
			}
			b.Sum, b.Count = addUp(b.Sum, v.Raw), b.Count+1
		}
	}
	return buckets
}

func stats(t Table) map[int64][]Stats {
	buckets := map[int64][]Stats{}
	for _, row := range t {
		buckets[row.N] = row.Stats
	}
	return buckets
}

// energyOf goes through all samples as one list, for each role.
func energyOf(samples []ecowatt.Sample, role Role, column int) (area, gain int64) {
	var last Reading
	known := false
	for _, s := range samples {
		v := s.Values[column]
		if !v.Valid || role != Power && v.Raw <= 0 {
			continue
		}
		r := Reading{s.At, v.Raw}
		if known {
			a, g := Between(role, last, r)
			area, gain = area+a, gain+g
		}
		last, known = r, true
	}
	return area, gain
}

// Cut into blocks anywhere and merged in order, the tables say what all samples
// say at once; and so does the energy of the whole.
func TestBlocksAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		samples := drawSamples(t)
		for i := range samples { // sums that saturate depend on the order
			samples[i].Values[1].Raw %= 1 << 40
		}
		var minutes, quarters Table
		for rest := samples; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "block")
			m, q := Collect(points, rest[:n], 0)
			var exact bool
			minutes, _ = minutes.Merge(points, m)
			if quarters, exact = quarters.Merge(points, q); !exact {
				t.Fatal("in order, and yet not exact")
			}
			rest = rest[n:]
		}
		if diff := cmp.Diff(oracle(samples, Minute), stats(minutes)); diff != "" {
			t.Fatalf("minutes (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(oracle(samples, Quarter), stats(quarters)); diff != "" {
			t.Fatalf("quarters (-want +got):\n%s", diff)
		}
		_, whole := Collect(points, samples, 0)
		if diff := cmp.Diff(whole, quarters); diff != "" {
			t.Fatalf("collected at once (-at once +in blocks):\n%s", diff)
		}
		for _, x := range []struct {
			role   Role
			column int
			unit   string
		}{{Power, 0, "W"}, {Lifetime, 2, "Wh"}, {Daily, 3, "Wh"}} {
			c := NewCurve(CurveOptions{
				Step: mustStep(t, time.Hour), From: 0, To: math.MaxInt64, Source: x.role,
				Describe: func(name string) ecowatt.Point { return ecowatt.Point{Name: name, Unit: x.unit} },
			})
			starts, parts := quarters.Split()
			sum := 0.0
			for i, part := range parts {
				_, done := c.Done(starts[i])
				c.Add(points, part, Quarter)
				for _, b := range done {
					sum += b.Energy
				}
			}
			_, done := c.Done(math.MaxInt64)
			for _, b := range done {
				sum += b.Energy
			}
			area, gain := energyOf(samples, x.role, x.column)
			if want := float64(area)/2/3_600_000 + float64(gain); math.Abs(sum-want) > 1e-6*(1+math.Abs(want)) {
				t.Fatalf("role %d: %v Wh, want %v", x.role, sum, want)
			}
		}
	})
}

func mustStep(t interface{ Fatal(...any) }, d time.Duration) Step {
	s, err := NewStep(d, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// In any order least, greatest, sum and count are the same; and that the order
// was not that of time is told.
func TestMergeInAnyOrder(t *testing.T) {
	early := []ecowatt.Sample{sample(noon, 100, 1, 50, 5), sample(noon+1000, 200, 2, 51, 6)}
	late := []ecowatt.Sample{sample(noon+2000, 300, 3, 52, 7), sample(noon+3000, missing, 4, missing, missing)}
	_, a := Collect(points, early, 0)
	_, b := Collect(points, late, 0)
	ab, exact := a.Merge(points, b)
	if !exact {
		t.Error("in order, and not exact")
	}
	ba, exact := b.Merge(points, a)
	if exact {
		t.Error("out of order, and said to be exact")
	}
	if diff := cmp.Diff(stats(ab), stats(ba)); diff != "" {
		t.Errorf("the order matters:\n%s", diff)
	}
	s := ba[0].Series[0]
	if s.First.At != noon || s.Last.At != noon+2000 {
		t.Errorf("from %d to %d", s.First.At-noon, s.Last.At-noon)
	}
	if _, exact := a.Merge(points, Table{}); !exact {
		t.Error("nothing merged is not exact")
	}
}

func TestBetween(t *testing.T) {
	for name, c := range map[string]struct {
		role       Role
		a, b       Reading
		area, gain int64
	}{
		"power":                      {Power, Reading{0, 100}, Reading{1000, 300}, 400_000, 0},
		"power over the longest gap": {Power, Reading{0, 1}, Reading{MaxGap, 1}, 2 * MaxGap, 0},
		"power over a longer gap":    {Power, Reading{0, 1}, Reading{MaxGap + 1, 1}, 0, 0},
		"power, fed from the grid":   {Power, Reading{0, -10}, Reading{1000, -10}, -20_000, 0},
		"counter":                    {Lifetime, Reading{0, 100}, Reading{9 * Chunk, 130}, 0, 30},
		"counter that stands":        {Daily, Reading{0, 100}, Reading{5, 100}, 0, 0},
		"a new day":                  {Daily, Reading{0, 253}, Reading{5, 4}, 0, 4},
		"another inverter":           {Lifetime, Reading{0, 90_000}, Reading{5, 4}, 0, 0},
		"over the end of 16 bits":    {Lifetime, Reading{0, 65_530}, Reading{5, 4}, 0, 10},
		"over the end of 32 bits":    {Lifetime, Reading{0, 1<<32 - 6}, Reading{5, 4}, 0, 10},
		"no role":                    {None, Reading{0, 1}, Reading{5, 9}, 0, 0},
	} {
		if area, gain := Between(c.role, c.a, c.b); area != c.area || gain != c.gain {
			t.Errorf("%s: %d, %d; want %d, %d", name, area, gain, c.area, c.gain)
		}
	}
}

// A counter that says 0 for a moment has counted nothing twice.
func TestFalseZero(t *testing.T) {
	samples := []ecowatt.Sample{
		sample(noon, missing, missing, 5000, 80), sample(noon+1000, missing, missing, 0, 0),
		sample(noon+2000, missing, missing, 5001, 81), sample(noon+16*Minute, missing, missing, 0, 0),
		sample(noon+17*Minute, missing, missing, 5002, 2),
	}
	_, q := Collect(points, samples, 0)
	if got := q[0].Series[1].Gain + q[1].Series[1].Gain; got != 1 {
		t.Errorf("within the quarters the counter gained %d", got)
	}
	_, gain := Between(Daily, q[0].Series[2].Last, q[1].Series[2].First)
	if gain != 2 {
		t.Errorf("the day that began has %d", gain)
	}
}

func TestWindows(t *testing.T) {
	samples := []ecowatt.Sample{sample(noon, 10, 20), sample(noon+30_000, 30, 40), sample(noon+90_000, 50, missing)}
	two := []string{"pac", "energy_total"}
	windows := ecowatt.Aggregate(samples, 0, Minute)
	minutes, quarters := Collect(two, windows, Minute)
	want, _ := Collect(two, samples, 0)
	if diff := cmp.Diff(stats(want), stats(minutes)); diff != "" {
		t.Errorf("minutes of windows (-samples +windows):\n%s", diff)
	}
	power, counter := quarters[0].Series[0], quarters[0].Series[1]
	if power.Area != 2*(20+50)*Minute { // each mean for its whole minute
		t.Errorf("the area is %d", power.Area)
	}
	if counter.Gain != 20 || counter.First.Raw != 20 || counter.Last.Raw != 40 {
		t.Errorf("the counter: %+v", counter)
	}
}

func TestFormatRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		minutes, quarters := Collect(points, drawSamples(t), 0)
		m, err := ParseStats(minutes.AppendStats(nil), len(points))
		if err != nil || !cmp.Equal(stats(minutes), stats(m)) {
			t.Fatalf("minutes: %v, %s", err, cmp.Diff(minutes, m))
		}
		a, err := ParseStats(quarters.AppendStats(nil), len(points))
		b, err2 := ParseSeries(quarters.AppendSeries(nil), 3)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		q, err := Join(a, b)
		if diff := cmp.Diff(quarters, q); err != nil || (diff != "" && len(quarters) > 0) {
			t.Fatalf("quarters: %v\n%s", err, diff)
		}
	})
}

func FuzzParse(f *testing.F) {
	minutes, quarters := Collect(points, []ecowatt.Sample{sample(noon, 1, 2, 3, 4), sample(noon+Quarter, 5, 6, 7, missing)}, 0)
	f.Add(minutes.AppendStats(nil))
	f.Add(quarters.AppendSeries(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if table, err := ParseStats(b, 4); err == nil {
			if again, err := ParseStats(table.AppendStats(nil), 4); err != nil || !cmp.Equal(table, again) {
				t.Fatalf("read, written and read again: %v", err)
			}
		}
		if table, err := ParseSeries(b, 3); err == nil {
			if again, err := ParseSeries(table.AppendSeries(nil), 3); err != nil || !cmp.Equal(table, again) {
				t.Fatalf("read, written and read again: %v", err)
			}
		}
	})
}

func TestFormatIsExact(t *testing.T) {
	minutes, quarters := Collect(points, []ecowatt.Sample{sample(noon, 1, 2, 3, 4)}, 0)
	for name, b := range map[string][]byte{"stats": minutes.AppendStats(nil), "series": quarters.AppendSeries(nil)} {
		parse := func(b []byte) error {
			if name == "stats" {
				_, err := ParseStats(b, 4)
				return err
			}
			_, err := ParseSeries(b, 3)
			return err
		}
		for n := range b {
			if err := parse(b[:n]); !errors.Is(err, ErrFormat) {
				t.Errorf("%s, %d bytes of %d: %v", name, n, len(b), err)
			}
		}
		if err := parse(append(slices.Clone(b), 0)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s, one byte more: %v", name, err)
		}
	}
	if _, err := Join(minutes, quarters); !errors.Is(err, ErrFormat) {
		t.Errorf("parts of two tables: %v", err)
	}
	if _, err := Join(minutes, nil); !errors.Is(err, ErrFormat) {
		t.Errorf("half a table: %v", err)
	}
}

func TestSteps(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []time.Duration{0, -time.Minute, time.Second, 90 * time.Second, 7 * time.Minute, 25 * time.Hour, 48 * time.Hour} {
		if _, err := NewStep(d, berlin); !errors.Is(err, ErrStep) {
			t.Errorf("%v: %v, want ErrStep", d, err)
		}
	}
	at := func(text string) int64 {
		v, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return v.UnixMilli()
	}
	for _, c := range []struct {
		step           time.Duration
		at, begin, end string
		coarse         bool
	}{
		{time.Minute, "2026-06-21T12:34:56Z", "2026-06-21T12:34:00Z", "2026-06-21T12:35:00Z", false},
		{15 * time.Minute, "2026-06-21T12:34:56Z", "2026-06-21T12:30:00Z", "2026-06-21T12:45:00Z", true},
		{6 * time.Hour, "2026-06-21T12:34:56Z", "2026-06-21T12:00:00Z", "2026-06-21T18:00:00Z", true},
		{24 * time.Hour, "2026-06-21T22:00:00Z", "2026-06-22T00:00:00+02:00", "2026-06-23T00:00:00+02:00", true},
		{24 * time.Hour, "2026-03-29T12:00:00Z", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00", true}, // of 23 h
		{24 * time.Hour, "2026-10-25T12:00:00Z", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00", true}, // of 25 h
	} {
		s, err := NewStep(c.step, berlin)
		if err != nil {
			t.Fatal(err)
		}
		if begin, end := s.Bounds(at(c.at)); begin != at(c.begin) || end != at(c.end) || s.Coarse() != c.coarse {
			t.Errorf("%v at %s: %v to %v", c.step, c.at, time.UnixMilli(begin).UTC(), time.UnixMilli(end).UTC())
		}
	}
	if begin, _ := mustStep(t, time.Hour).Bounds(-1); begin != -3_600_000 {
		t.Errorf("before 1970: %d", begin)
	}
}

// Rows out of the curve are left out, but for what lies between them and the
// first one in it; points are chosen, in order; gaps stay gaps.
func TestCurve(t *testing.T) {
	var samples []ecowatt.Sample
	for i := range int64(60) {
		samples = append(samples, sample(noon+i*Minute, 60, i, 1000+i, 1))
	}
	samples = append(samples, sample(noon+3*60*Minute, 60, 7, 2000, 1), sample(noon+4*60*Minute, 60, 8, 2001, 1))
	_, q := Collect(points, samples, 0)
	c := NewCurve(CurveOptions{
		Step: mustStep(t, 15*time.Minute), From: noon + Quarter, To: noon + 4*60*Minute, Points: []string{"vac1", "nothing"}, Source: Lifetime,
		Describe: func(name string) ecowatt.Point { return ecowatt.Point{Name: name, Unit: "kWh", Exponent: -1} },
	})
	c.Add(points, q, Quarter)
	names, got := c.Done(math.MaxInt64)
	if !slices.Equal(names, []string{"vac1", "nothing"}) {
		t.Errorf("points %v", names)
	}
	type short struct{ minute, least, most, energy int64 }
	var all []short
	for _, b := range got {
		all = append(all, short{(b.Begin - noon) / Minute, b.Stats[0].Min, b.Stats[0].Max, int64(math.Round(b.Energy))})
		if b.Stats[1].Count != 0 || !b.HasEnergy {
			t.Errorf("bucket %+v", b)
		}
	}
	want := []short{{15, 15, 29, 1500}, {30, 30, 44, 1500}, {45, 45, 59, 1500}, {180, 7, 7, 94100}}
	if diff := cmp.Diff(want, all, cmp.AllowUnexported(short{})); diff != "" {
		t.Errorf("buckets (-want +got):\n%s", diff)
	}
}

// A bucket is done when it ends, and not before. A list of points that the inverter
// had for a moment in between does not make what it counted count twice.
func TestCurvePieceByPiece(t *testing.T) {
	total := []string{"energy_total"}
	c := NewCurve(CurveOptions{
		Step: mustStep(t, 15*time.Minute), From: noon, To: noon + 4*60*Minute, Source: Lifetime,
		Describe: func(name string) ecowatt.Point { return ecowatt.Point{Name: name, Unit: "Wh"} },
	})
	_, long := Collect(points, []ecowatt.Sample{sample(noon, 0, 0, 1000, 1), sample(noon+10*Minute, 0, 0, 1010, 1), sample(noon+Quarter, 0, 0, 1015, 1)}, 0)
	_, short := Collect(total, []ecowatt.Sample{{At: noon + 5*Minute, Values: []ecowatt.Value{ecowatt.Known(1005)}}}, 0)
	c.Add(points, long, Quarter)
	c.Add(total, short, Quarter)
	for _, x := range []struct {
		before int64
		energy []float64
	}{{noon + Quarter - 1, nil}, {noon + Quarter, []float64{10}}, {noon + 2*Quarter, []float64{5}}, {math.MaxInt64, nil}} {
		var energy []float64
		_, buckets := c.Done(x.before)
		for _, b := range buckets {
			energy = append(energy, b.Energy)
		}
		if !slices.Equal(energy, x.energy) {
			t.Errorf("%d min on: %v, want %v", (x.before-noon)/Minute, energy, x.energy)
		}
	}
}

func TestSumsStayInRange(t *testing.T) {
	s := Stats{}
	for range 4 {
		s.Merge(Stats{Min: math.MaxInt64, Max: math.MaxInt64, Sum: math.MaxInt64, Count: 1})
	}
	if s.Sum != math.MaxInt64 || s.Count != 4 {
		t.Errorf("%+v", s)
	}
	for _, c := range []struct{ a, b, sum, product int64 }{
		{math.MinInt64, -1, math.MinInt64, math.MaxInt64},
		{math.MaxInt64, 2, math.MaxInt64, math.MaxInt64},
		{math.MinInt64, 2, math.MinInt64 + 2, math.MinInt64},
		{7, -3, 4, -21},
		{0, -1, -1, 0},
	} {
		if sum, product := addUp(c.a, c.b), times(c.a, c.b); sum != c.sum || product != c.product {
			t.Errorf("%d, %d: %d, %d", c.a, c.b, sum, product)
		}
	}
	if got := (Stats{}).Mean(); got != 0 {
		t.Errorf("the mean of nothing is %v", got)
	}
}
