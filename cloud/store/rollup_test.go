package store

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollup"
	"ecowatt/wire"
)

var curvePoints = []string{"pac", "energy_total"}

// sampled is a block of samples of the points of curves; At is ms since 1970, or
// since boot where boot is not nil.
func sampled(tb testing.TB, samples []ecowatt.Sample, boot *wire.BootID) ingest.Block {
	tb.Helper()
	packed, err := wire.PlainBlock(ecowatt.Block{Inverter: "roof", Points: curvePoints, Samples: samples}, boot)
	if err != nil {
		tb.Fatal(err)
	}
	t := ingest.Telemetry{Inverter: packed.Inverter, Points: packed.Points, T0: packed.T0, Count: packed.Count, Data: packed.Data}
	if packed.Boot != nil {
		t.Boot = &ingest.Instant{Boot: ingest.BootID(packed.Boot.Boot), Mono: packed.Boot.Mono}
	}
	b, err := ingest.Check(t, noon.AddDate(10, 0, 0))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func curve(tb testing.TB, s *Store, q rollup.Query) (parts []rollup.Part) {
	tb.Helper()
	for p, err := range s.Curve(tb.Context(), q) {
		if err != nil {
			tb.Fatal(err)
		}
		parts = append(parts, p)
	}
	return parts
}

// flat is a curve as one list, and its energy.
func flat(parts []rollup.Part) (buckets map[int64][]rollup.Stats, energy float64) {
	buckets = map[int64][]rollup.Stats{}
	for _, p := range parts {
		for _, b := range p.Buckets {
			buckets[b.Begin] = b.Stats
			energy += b.Energy
		}
	}
	return buckets, energy
}

// Blocks that come in any order, some before the clock of their boot is known,
// make the curves that all samples at once make.
func TestCurvesOfAnyOrder(t *testing.T) {
	s, devices := open(t), 0
	rapid.Check(t, func(r *rapid.T) {
		devices++
		name := fmt.Sprintf("roof-%d", devices)
		device := add(t, s, name)
		boot := wire.BootID{9}
		const offset = 1_780_000_000_000 // of the boot
		at, total := int64(5_000), int64(100)
		var samples []ecowatt.Sample
		for range rapid.IntRange(1, 60).Draw(r, "samples") {
			at += rapid.SampledFrom([]int64{1000, 60_000, 5 * rollup.Minute, 20 * rollup.Minute, rollup.Chunk}).Draw(r, "dt")
			total += rapid.Int64Range(0, 9).Draw(r, "counted")
			samples = append(samples, ecowatt.Sample{At: at, Values: []ecowatt.Value{
				{Raw: rapid.Int64Range(0, 5000).Draw(r, "pac"), Valid: rapid.IntRange(0, 5).Draw(r, "gone") > 0}, ecowatt.Known(total),
			}})
		}
		var blocks []ingest.Block
		for rest := samples; len(rest) > 0; {
			n := rapid.IntRange(1, min(8, len(rest))).Draw(r, "block")
			part := slices.Clone(rest[:n])
			if rapid.Bool().Draw(r, "before the clock") {
				blocks = append(blocks, sampled(t, part, &boot))
			} else {
				for i := range part {
					part[i].At += offset
				}
				blocks = append(blocks, sampled(t, part, nil))
			}
			rest = rest[n:]
		}
		for i := range samples {
			samples[i].At += offset
		}
		blocks = rapid.Permutation(blocks).Draw(r, "order")
		known := rapid.IntRange(0, len(blocks)).Draw(r, "clock")
		for i, b := range blocks {
			if i == known {
				observe(t, s, device, ingest.BootID(boot), offset)
			}
			keep(t, s, device, b)
		}
		observe(t, s, device, ingest.BootID(boot), offset)

		minutes, quarters := rollup.Collect(curvePoints, samples, 0)
		for _, x := range []struct {
			step time.Duration
			want rollup.Table
			size int64
		}{{time.Minute, minutes, rollup.Minute}, {15 * time.Minute, quarters, rollup.Quarter}} {
			want := map[int64][]rollup.Stats{}
			for _, row := range x.want {
				want[row.N*x.size] = row.Stats
			}
			got, energy := flat(curve(t, s, rollup.Query{Device: ecowatt.DeviceID(name), From: time.UnixMilli(0), To: noon.AddDate(10, 0, 0), Step: x.step}))
			if diff := cmp.Diff(want, got); diff != "" {
				r.Fatalf("a curve of %v (-want +got):\n%s", x.step, diff)
			}
			if counted := float64(total) - float64(samples[0].Values[1].Raw); x.size == rollup.Quarter && energy != counted {
				r.Fatalf("%v Wh, the counter went up by %v", energy, counted)
			}
		}
	})
}

func observe(tb testing.TB, s *Store, device int64, boot ingest.BootID, offset int64) {
	tb.Helper()
	do(tb, s, func(tx *Tx) error {
		return tx.Observe(device, ingest.Clock{Boot: boot, Offset: offset}, noon.AddDate(1, 0, 0))
	})
}

func day(minute, pac, total int64) ecowatt.Sample {
	return ecowatt.Sample{At: noon.UnixMilli() + minute*rollup.Minute, Values: []ecowatt.Value{ecowatt.Known(pac), ecowatt.Known(total)}}
}

// Days begin at midnight where the device is, and what was counted between two
// days, and before the first bucket, is energy of the one after.
func TestDaysOfATimeZone(t *testing.T) {
	s := open(t)
	device := add(t, s, "roof")
	zone := "Pacific/Auckland" // noon UTC is one in the morning there, in March
	if err := s.UpdateDevice(t.Context(), "roof", registry.Change{TimeZone: &zone}, audit.Actor{Kind: audit.Operator, Name: "ada"}, noon); err != nil {
		t.Fatal(err)
	}
	keep(t, s, device, sampled(t, []ecowatt.Sample{day(-121, 60, 100), day(-61, 60, 110)}, nil), sampled(t, []ecowatt.Sample{day(-59, 60, 115), day(0, 60, 130)}, nil),
		sampled(t, []ecowatt.Sample{day(3*24*60, 60, 500)}, nil))
	auckland, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	midnight := time.Date(2026, 3, 2, 0, 0, 0, 0, auckland)
	parts := curve(t, s, rollup.Query{Device: "roof", From: midnight, To: midnight.AddDate(0, 0, 9), Step: 24 * time.Hour, Energy: true})
	type short struct {
		begin  string
		energy float64
	}
	var got []short
	for _, p := range parts {
		if p.Source != rollup.Lifetime {
			t.Errorf("the source of energy is %d", p.Source)
		}
		for _, b := range p.Buckets {
			got = append(got, short{time.UnixMilli(b.Begin).In(auckland).Format(time.DateTime), b.Energy})
		}
	}
	want := []short{{"2026-03-02 00:00:00", 20}, {"2026-03-05 00:00:00", 370}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(short{})); diff != "" {
		t.Errorf("days (-want +got):\n%s", diff)
	}
}

// A step that makes no sense, a device that is not there, an inverter of which
// nothing is known.
func TestCurvesOfNothing(t *testing.T) {
	s := open(t)
	keep(t, s, add(t, s, "roof"), sampled(t, []ecowatt.Sample{day(0, 1, 2)}, nil))
	for _, c := range []struct {
		q    rollup.Query
		want error
	}{
		{rollup.Query{Device: "nobody", Step: time.Minute}, registry.ErrNotFound},
		{rollup.Query{Device: "roof", Step: time.Second}, rollup.ErrStep},
	} {
		var got error
		for _, err := range s.Curve(t.Context(), c.q) {
			got = err
		}
		if !errors.Is(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.q, got, c.want)
		}
	}
	if parts := curve(t, s, rollup.Query{Device: "roof", Inverter: "barn", From: noon, To: noon.Add(time.Hour), Step: time.Hour}); len(parts) > 0 {
		t.Errorf("of an inverter that there is not: %+v", parts)
	}
	if parts := curve(t, s, rollup.Query{Device: "roof", From: noon, To: noon.Add(time.Hour), Points: []string{"vac1"}, Step: time.Minute}); len(parts) != 1 || parts[0].Buckets[0].Stats[0].Count != 0 {
		t.Errorf("of a point that there is not: %+v", parts)
	}
}

// Blocks of a program that made no roll-ups are rolled up by the next one.
func TestCondense(t *testing.T) {
	s := open(t)
	device := add(t, s, "roof")
	for i := range int64(2*condenseSize + 3) {
		keep(t, s, device, sampled(t, []ecowatt.Sample{day(i, i, 100+i)}, nil))
	}
	want := curve(t, s, rollup.Query{Device: "roof", From: noon, To: noon.AddDate(0, 0, 1), Step: 15 * time.Minute})
	do(t, s, func(tx *Tx) error {
		_, err := tx.w.exec(`UPDATE block SET minutes = NULL`)
		_, err2 := tx.w.exec(`DELETE FROM rollup`)
		return errors.Join(err, err2)
	})
	if err := s.Condense(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := curve(t, s, rollup.Query{Device: "roof", From: noon, To: noon.AddDate(0, 0, 1), Step: 15 * time.Minute})
	if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
		t.Errorf("(-before +condensed):\n%s", diff)
	}
	minutes, _ := flat(curve(t, s, rollup.Query{Device: "roof", From: noon, To: noon.AddDate(0, 0, 1), Step: time.Minute}))
	if len(minutes) != 2*condenseSize+3 {
		t.Errorf("%d minutes", len(minutes))
	}
}

// A long curve is read page by page.
func TestLongCurve(t *testing.T) {
	s := open(t)
	device := add(t, s, "roof")
	const days = 80
	for i := range int64(days) {
		keep(t, s, device, sampled(t, []ecowatt.Sample{day(i*24*60, 6, 100+i), day(i*24*60+6*60, 6, 100+i), day(i*24*60+12*60, 6, 100+i), day(i*24*60+18*60, 6, 100+i)}, nil))
	}
	buckets, energy := flat(curve(t, s, rollup.Query{Device: "roof", From: noon.AddDate(0, 0, -1), To: noon.AddDate(1, 0, 0), Step: 24 * time.Hour}))
	if len(buckets) != days+1 || energy != days-1 {
		t.Errorf("%d days, %v Wh", len(buckets), energy)
	}
	for _, b := range buckets {
		if b[0].Count > 4 || math.Abs(b[0].Mean()-6) > 0 {
			t.Errorf("%+v", b)
		}
	}
}

// Samples go after their time, then the minutes; quarters stay. A block that
// comes later than its samples are kept is there by its minutes, and one that
// comes later still by its quarters. Each is given up once, and told.
func TestRetire(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "ecowatt.db"), Options{Retention: Retention{Samples: 90 * 24 * time.Hour, Minutes: 2 * 365 * 24 * time.Hour}})
	device := add(t, s, "roof")
	const days = 800
	now := noon.AddDate(0, 0, days)
	at := func(day, total int64) ingest.Block {
		return sampled(t, []ecowatt.Sample{{At: noon.UnixMilli() + day*24*60*rollup.Minute, Values: []ecowatt.Value{ecowatt.Known(5), ecowatt.Known(total)}}}, nil)
	}
	for day := range int64(days) {
		do(t, s, func(tx *Tx) error { return tx.storeBlock(device, at(day, 1000+day), noon.AddDate(0, 0, int(day))) })
	}
	count := func() (samples, minutes, quarters int) {
		for p, err := range s.Samples(t.Context(), ingest.Query{Device: "roof", From: noon.AddDate(-1, 0, 0), To: now}) {
			if err != nil {
				t.Fatal(err)
			}
			samples += len(p.Samples)
		}
		m, _ := flat(curve(t, s, rollup.Query{Device: "roof", From: noon.AddDate(-1, 0, 0), To: now, Step: time.Minute}))
		q, energy := flat(curve(t, s, rollup.Query{Device: "roof", From: noon.AddDate(-1, 0, 0), To: now, Step: time.Hour}))
		if energy != days-1 {
			t.Errorf("%v Wh, the counter counted %d", energy, days-1)
		}
		return samples, len(m), len(q)
	}
	r, err := s.Retire(t.Context(), now)
	if err != nil || r != (Retired{Samples: days - 90, Minutes: days - 730}) {
		t.Errorf("given up: %+v, %v", r, err)
	}
	if samples, minutes, quarters := count(); samples != 90 || minutes != 730 || quarters != days {
		t.Errorf("%d samples, %d minutes, %d quarters", samples, minutes, quarters)
	}
	if told := records(t, s, audit.Filter{}); told[len(told)-1].Action != "telemetry.retired" || told[len(told)-1].Attrs["samples"] != "710" {
		t.Errorf("the log says %+v", told[len(told)-1])
	}
	if r, err := s.Retire(t.Context(), now.Add(time.Hour)); err != nil || r != (Retired{}) {
		t.Errorf("an hour later: %+v, %v", r, err)
	}
	late := at(-200, 999)
	do(t, s, func(tx *Tx) error { return tx.storeBlock(device, late, now) })
	middle := sampled(t, []ecowatt.Sample{{At: noon.UnixMilli() + 300*24*60*rollup.Minute + 5000, Values: []ecowatt.Value{ecowatt.Known(9), ecowatt.Known(1300)}}}, nil)
	do(t, s, func(tx *Tx) error { return tx.storeBlock(device, middle, now) })
	buckets, _ := flat(curve(t, s, rollup.Query{Device: "roof", From: noon.AddDate(0, 0, 300), To: noon.AddDate(0, 0, 301), Step: time.Minute}))
	if b := buckets[noon.AddDate(0, 0, 300).UnixMilli()]; len(b) == 0 || b[0].Max != 9 || b[0].Count != 2 {
		t.Errorf("a late block beside one whose samples are gone: %+v", b)
	}
	if all, _ := flat(curve(t, s, rollup.Query{Device: "roof", From: noon.AddDate(0, 0, -300), To: noon, Step: 24 * time.Hour})); len(all) != 1 {
		t.Errorf("a block from before everything: %+v", all)
	}
	if r, err := s.Retire(t.Context(), now.AddDate(0, 0, 2)); err != nil || r.Samples != 2 || r.Minutes != 2 {
		t.Errorf("two days later: %+v, %v", r, err)
	}
}
