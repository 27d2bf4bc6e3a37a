package store

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/registry"
	"ecowatt/wire"
)

// block is one of n samples a second apart, of which the first at at (ms since
// 1970) has the value first, and each next one 1 more.
func block(tb testing.TB, inverter string, at int64, n int, first int64, points ...string) ingest.Block {
	tb.Helper()
	b := ecowatt.Block{Inverter: inverter, Points: points}
	for i := range n {
		s := ecowatt.Sample{At: at + int64(i)*1000}
		for p := range points {
			s.Values = append(s.Values, ecowatt.Known(first+int64(i)+1000*int64(p)))
		}
		b.Samples = append(b.Samples, s)
	}
	packed, err := wire.PlainBlock(b, nil)
	if err != nil {
		tb.Fatal(err)
	}
	checked, err := ingest.Check(ingest.Telemetry{
		Inverter: packed.Inverter, Points: packed.Points, T0: packed.T0, Count: packed.Count, Data: packed.Data,
	}, noon.AddDate(10, 0, 0))
	if err != nil {
		tb.Fatal(err)
	}
	return checked
}

func keep(tb testing.TB, s *Store, device int64, blocks ...ingest.Block) {
	tb.Helper()
	do(tb, s, func(tx *Tx) error {
		for _, b := range blocks {
			if err := tx.storeBlock(device, b, noon); err != nil {
				return err
			}
		}
		return nil
	})
}

// line is one sample of a query, as a person would write it: seconds since
// noon, and the values.
type line struct {
	Inverter string
	Points   string
	Second   float64
	Window   int64
	Values   []ecowatt.Value
}

func lines(tb testing.TB, s *Store, q ingest.Query) (all []line) {
	tb.Helper()
	for part, err := range s.Samples(tb.Context(), q) {
		if err != nil {
			tb.Fatal(err)
		}
		names := ""
		for _, p := range part.Points {
			names += p.Name + " "
		}
		for _, sample := range part.Samples {
			all = append(all, line{part.Inverter, names, float64(sample.At-noon.UnixMilli()) / 1000, part.Window, sample.Values})
		}
	}
	return all
}

func between(from, to time.Duration) ingest.Query {
	return ingest.Query{Device: "roof", From: noon.Add(from), To: noon.Add(to)}
}

func TestSamples(t *testing.T) {
	s := open(t)
	id, other := add(t, s, "roof"), add(t, s, "barn")
	at := func(second int64) int64 { return noon.UnixMilli() + second*1000 }
	unplaced := block(t, "east", at(0), 3, 900, "pac")
	unplaced.Placed, unplaced.T0, unplaced.Boot = false, 0, &ingest.Instant{Boot: ingest.BootID{1}, Mono: 5}
	keep(t, s, id,
		block(t, "west", at(0), 3, 10, "vac1", "pac"),
		block(t, "east", at(3), 2, 40, "pac"), // came before the one before it
		block(t, "east", at(0), 3, 20, "pac"),
		unplaced,
		block(t, "west", at(3), 1, 30, "temp"),
		block(t, "east", at(60), 1, 70, "pac"),
	)
	keep(t, s, other, block(t, "east", at(0), 3, 500, "pac"))

	v := func(raw ...int64) []ecowatt.Value {
		var values []ecowatt.Value
		for _, r := range raw {
			values = append(values, ecowatt.Known(r))
		}
		return values
	}
	east := []line{
		{"east", "pac ", 0, 0, v(20)},
		{"east", "pac ", 1, 0, v(21)},
		{"east", "pac ", 2, 0, v(22)},
		{"east", "pac ", 3, 0, v(40)},
		{"east", "pac ", 4, 0, v(41)},
	}
	west := []line{
		{"west", "vac1 pac ", 0, 0, v(10, 1010)},
		{"west", "vac1 pac ", 1, 0, v(11, 1011)},
		{"west", "vac1 pac ", 2, 0, v(12, 1012)},
		{"west", "temp ", 3, 0, v(30)},
	}
	of := func(inverter string, points ...string) ingest.Query {
		q := between(0, 10*time.Second)
		q.Inverter, q.Points = inverter, points
		return q
	}
	for name, c := range map[string]struct {
		q    ingest.Query
		want []line
	}{
		"all":                     {of(""), append(append([]line{}, east...), west...)},
		"one inverter":            {of("west"), west},
		"another inverter":        {of("south"), nil},
		"begins within a block":   {between(2*time.Second, 4*time.Second), []line{east[2], east[3], west[2], west[3]}},
		"ends at a sample":        {between(0, time.Second), []line{east[0], west[0]}},
		"between samples":         {between(1001*time.Millisecond, 1999*time.Millisecond), nil},
		"before everything":       {between(-time.Hour, 0), nil},
		"after everything":        {between(time.Hour, 2*time.Hour), nil},
		"the last second":         {between(60*time.Second, 61*time.Second), []line{{"east", "pac ", 60, 0, v(70)}}},
		"points":                  {of("west", "pac"), []line{{"west", "pac ", 0, 0, v(1010)}, {"west", "pac ", 1, 0, v(1011)}, {"west", "pac ", 2, 0, v(1012)}}},
		"points in another order": {of("west", "pac", "vac1"), []line{{"west", "pac vac1 ", 0, 0, v(1010, 10)}, {"west", "pac vac1 ", 1, 0, v(1011, 11)}, {"west", "pac vac1 ", 2, 0, v(1012, 12)}}},
		"a point not there":       {of("west", "idc"), nil},
	} {
		if diff := cmp.Diff(c.want, lines(t, s, c.q)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestSamplesOfLongBlocks: a block may begin as long as MaxSpan before what is
// asked for.
func TestSamplesOfLongBlocks(t *testing.T) {
	s := open(t)
	id := add(t, s, "roof")
	b := ecowatt.Block{Inverter: "east", Points: []string{"pac"}}
	start := noon.Add(-ingest.MaxSpan)
	for _, at := range []time.Time{start, noon} {
		b.Samples = append(b.Samples, ecowatt.Sample{At: at.UnixMilli(), Values: []ecowatt.Value{ecowatt.Known(7)}})
	}
	packed, err := wire.PlainBlock(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	long, err := ingest.Check(ingest.Telemetry{Inverter: "east", Points: packed.Points, T0: packed.T0, Count: 2, Data: packed.Data}, noon)
	if err != nil {
		t.Fatal(err)
	}
	keep(t, s, id, long)
	if got := lines(t, s, between(0, time.Second)); len(got) != 1 || got[0].Second != 0 {
		t.Errorf("its last sample: %v", got)
	}
	if got := lines(t, s, between(-ingest.MaxSpan, -ingest.MaxSpan+time.Second)); len(got) != 1 {
		t.Errorf("its first sample: %v", got)
	}
	if got := lines(t, s, between(-time.Hour, 0)); got != nil {
		t.Errorf("between: %v", got)
	}
}

// TestSamplesOfWindows: a query gives windows as such, among samples.
func TestSamplesOfWindows(t *testing.T) {
	s := open(t)
	id := add(t, s, "roof")
	b := ecowatt.Block{Inverter: "east", Points: []string{"pac"}, Window: 60_000}
	for i := range int64(4) {
		b.Samples = append(b.Samples, ecowatt.Sample{At: noon.UnixMilli() + i*20_000, Values: []ecowatt.Value{ecowatt.Known(10 * i)}})
	}
	b.Samples = ecowatt.Aggregate(b.Samples, 0, b.Window)
	packed, err := wire.PlainBlock(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	windows, err := ingest.Check(ingest.Telemetry{
		Inverter: "east", Points: packed.Points, T0: packed.T0, Count: packed.Count, Data: packed.Data, Window: packed.Window,
	}, noon.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	keep(t, s, id, windows, block(t, "east", noon.UnixMilli()+120_000, 1, 7, "pac"))
	want := []line{
		{"east", "pac ", 0, 60_000, []ecowatt.Value{ecowatt.Known(10), ecowatt.Known(0), ecowatt.Known(20), ecowatt.Known(3)}},
		{"east", "pac ", 60, 60_000, []ecowatt.Value{ecowatt.Known(30), ecowatt.Known(30), ecowatt.Known(30), ecowatt.Known(1)}},
		{"east", "pac ", 120, 0, []ecowatt.Value{ecowatt.Known(7)}},
	}
	if diff := cmp.Diff(want, lines(t, s, between(0, time.Hour))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSamplesInPages: what takes several pages comes whole and once, also where
// blocks begin at the same time.
func TestSamplesInPages(t *testing.T) {
	for _, n := range []int{pageSize - 1, pageSize, pageSize + 1, 3*pageSize + 7} {
		s := open(t)
		id := add(t, s, "roof")
		var blocks []ingest.Block
		for i := range n {
			blocks = append(blocks,
				block(t, "east", noon.UnixMilli()+int64(i/5)*5000, 1+i%3, int64(i)*10, "pac"),
				block(t, "west", noon.UnixMilli()+int64(i)*1000, 1, int64(i), "pac"))
		}
		keep(t, s, id, blocks...)
		seen := map[int64]int{}
		east, west, last := 0, 0, int64(math.MinInt64)
		for part, err := range s.Samples(t.Context(), between(0, time.Hour)) {
			if err != nil {
				t.Fatal(err)
			}
			if part.Inverter == "west" {
				if raw := part.Samples[0].Values[0].Raw; raw != int64(west) {
					t.Fatalf("%d blocks: block %d of west is %d", n, west, raw)
				}
				west++
				continue
			}
			if west > 0 || part.Samples[0].At < last {
				t.Fatalf("%d blocks: out of order", n)
			}
			last = part.Samples[0].At
			seen[part.Samples[0].Values[0].Raw]++
			east++
		}
		if east != n || len(seen) != n || west != n {
			t.Errorf("%d blocks: %d of east came, %d different, and %d of west", n, east, len(seen), west)
		}
	}
}

// TestSamplesWhileWriting: a reader that takes its time holds up no writer, and
// is not confused by what is written meanwhile.
func TestSamplesWhileWriting(t *testing.T) {
	s := openAt(t, t.TempDir()+"/ecowatt.db", Options{Readers: 1})
	run(t, s)
	id := add(t, s, "roof")
	const n = 3 * pageSize
	for i := range n {
		keep(t, s, id, block(t, "east", noon.UnixMilli()+int64(i)*1000, 1, int64(i), "pac"))
	}
	got := 0
	for part, err := range s.Samples(t.Context(), between(0, n*time.Second)) {
		if err != nil {
			t.Fatal(err)
		}
		if raw := part.Samples[0].Values[0].Raw; raw != int64(got) {
			t.Fatalf("sample %d is %d", got, raw)
		}
		got++
		if got%20 == 0 { // a write needs the lock, a read the one connection: neither is held
			past := block(t, "east", noon.Add(-time.Hour).UnixMilli(), 1, -1, "pac")
			if err := s.Commit(t.Context(), func(tx *Tx) error { return tx.storeBlock(id, past, noon) }); err != nil {
				t.Fatal(err)
			}
			device(t, s, "roof")
		}
	}
	if got != n {
		t.Errorf("%d samples, want %d", got, n)
	}
}

func TestSamplesEnd(t *testing.T) {
	s := open(t)
	id := add(t, s, "roof")
	for i := range 2 * pageSize {
		keep(t, s, id, block(t, "east", noon.UnixMilli()+int64(i)*1000, 1, int64(i), "pac"))
	}
	got := 0
	for range s.Samples(t.Context(), between(0, time.Hour)) {
		if got++; got == 3 {
			break // the iterator panics when it is called once more
		}
	}
	var errs []error
	for _, err := range s.Samples(t.Context(), ingest.Query{Device: "barn", From: noon, To: noon.Add(1)}) {
		errs = append(errs, err)
	}
	if len(errs) != 1 || !errors.Is(errs[0], registry.ErrNotFound) {
		t.Errorf("a device that is not there: %v, want one ErrNotFound", errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got, errs = 0, nil
	for _, err := range s.Samples(ctx, between(0, time.Hour)) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		got++
		cancel()
	}
	if got != pageSize || len(errs) != 1 || !errors.Is(errs[0], context.Canceled) {
		t.Errorf("after the end of ctx: %d samples and %v, want a page and context.Canceled", got, errs)
	}
}

func TestSamplesOfADamagedBlock(t *testing.T) {
	s := open(t)
	id := add(t, s, "roof")
	keep(t, s, id, block(t, "east", noon.UnixMilli(), 1, 1, "pac"), block(t, "east", noon.UnixMilli()+1000, 1, 2, "pac"))
	do(t, s, func(tx *Tx) error {
		_, err := tx.w.exec(`UPDATE block SET data = x'00' WHERE id = 2`)
		return err
	})
	var parts, errs int
	for _, err := range s.Samples(t.Context(), between(0, time.Hour)) {
		if err != nil {
			errs++
		} else {
			parts++
		}
	}
	if parts != 1 || errs != 1 {
		t.Errorf("%d parts and %d errors, want one of each", parts, errs)
	}
}

// TestSamplesAreDescribed by the inventory of the device.
func TestSamplesAreDescribed(t *testing.T) {
	s := open(t)
	id := add(t, s, "roof")
	vac1 := ecowatt.Point{Name: "vac1", Unit: "V", Exponent: -1}
	keep(t, s, id, block(t, "east", noon.UnixMilli(), 1, 1, "vac1", "x"), block(t, "west", noon.UnixMilli(), 1, 1, "vac1"))
	do(t, s, func(tx *Tx) error {
		_, err := tx.Report(id, registry.Report{At: noon, Inventory: &registry.Inventory{
			Inverters: []registry.Inverter{{Name: "east", Points: []ecowatt.Point{vac1}}},
		}})
		return err
	})
	var got [][]ecowatt.Point
	for part, err := range s.Samples(t.Context(), between(0, time.Hour)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, part.Points)
	}
	want := [][]ecowatt.Point{{vac1, {Name: "x"}}, {{Name: "vac1"}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func BenchmarkSamples(b *testing.B) {
	s := open(b)
	id := add(b, s, "roof")
	var blocks []ingest.Block
	for i := range 1000 {
		blocks = append(blocks, block(b, "east", noon.UnixMilli()+int64(i)*180_000, 180, int64(i), "a", "b", "c", "d", "e", "f", "g", "h", "i", "j"))
	}
	keep(b, s, id, blocks...)
	for b.Loop() {
		n := 0
		for part, err := range s.Samples(b.Context(), between(24*time.Hour, 48*time.Hour)) {
			if err != nil {
				b.Fatal(err)
			}
			n += len(part.Samples)
		}
		if n != 24*3600 {
			b.Fatalf("%d samples, want a day of them", n)
		}
	}
	b.ReportMetric(24*3600*float64(b.N)/b.Elapsed().Seconds(), "samples/s")
}
