package store

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
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
	return sampledOf(tb, ecowatt.Block{Inverter: "roof", Points: curvePoints, Samples: samples}, boot)
}

func sampledOf(tb testing.TB, b ecowatt.Block, boot *wire.BootID) ingest.Block {
	tb.Helper()
	packed, err := wire.PlainBlock(b, boot)
	if err != nil {
		tb.Fatal(err)
	}
	t := ingest.Telemetry{Inverter: packed.Inverter, Points: packed.Points, T0: packed.T0, Count: packed.Count, Data: packed.Data, Window: packed.Window}
	if packed.Boot != nil {
		t.Boot = &ingest.Instant{Boot: ingest.BootID(packed.Boot.Boot), Mono: packed.Boot.Mono}
	}
	checked, err := ingest.Check(t, noon.AddDate(10, 0, 0))
	if err != nil {
		tb.Fatal(err)
	}
	return checked
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

// history is what an inverter measured, and what it must come to.
type history []ecowatt.Sample

func drawHistory(r *rapid.T, offset int64) (h history) {
	counter := rapid.Bool().Draw(r, "counter")
	at, total := offset+5_000, int64(100)
	for range rapid.IntRange(1, 60).Draw(r, "samples") {
		at += rapid.SampledFrom([]int64{1000, 60_000, 5 * rollup.Minute, 20 * rollup.Minute, rollup.Chunk}).Draw(r, "dt")
		total += rapid.Int64Range(0, 9).Draw(r, "counted")
		shown := rapid.SampledFrom([]int64{total, total, total, total, total, 0}).Draw(r, "shown") // 0 is false
		h = append(h, ecowatt.Sample{At: at, Values: []ecowatt.Value{
			{Raw: rapid.Int64Range(0, 5000).Draw(r, "pac"), Valid: rapid.IntRange(0, 5).Draw(r, "gone") > 0},
			{Raw: shown, Valid: counter},
		}})
	}
	return h
}

// stats are the buckets of so many ms, counted sample by sample.
func (h history) stats(size int64) map[int64][]rollup.Stats {
	buckets := map[int64][]rollup.Stats{}
	for _, s := range h {
		for i, v := range s.Values {
			if !v.Valid {
				continue
			}
			begin := s.At - s.At%size
			if buckets[begin] == nil {
				buckets[begin] = make([]rollup.Stats, len(s.Values))
			}
			b := &buckets[begin][i]
			if b.Count == 0 {
				b.Min, b.Max = v.Raw, v.Raw
			}
			b.Min, b.Max, b.Sum, b.Count = min(b.Min, v.Raw), max(b.Max, v.Raw), b.Sum+v.Raw, b.Count+1
		}
	}
	return buckets
}

// energy is that of buckets of so many ms, Wh, value by value: each belongs to
// the bucket of the later of two values. A counter that never says anything is
// none.
func (h history) energy(size int64) map[int64]float64 {
	counts := func(s ecowatt.Sample) bool { return s.Values[1].Valid && s.Values[1].Raw > 0 }
	column, buckets := 0, map[int64]float64{}
	if slices.ContainsFunc(h, counts) {
		column = 1
	}
	var last *ecowatt.Sample
	for _, s := range h {
		v := s.Values[column]
		if !v.Valid || column == 1 && !counts(s) {
			continue
		}
		begin := s.At - s.At%size
		buckets[begin] += 0
		switch {
		case last == nil:
		case column == 1:
			buckets[begin] += float64(v.Raw - last.Values[column].Raw)
		case s.At-last.At <= 15*rollup.Minute:
			buckets[begin] += float64(v.Raw+last.Values[column].Raw) / 2 * float64(s.At-last.At) / 3_600_000
		}
		last = &s
	}
	return buckets
}

// drawBlocks cuts samples into blocks. Some overlap, some were taken before the
// clock of their boot was known, and from some sample on the points have another
// order.
func drawBlocks(tb testing.TB, r *rapid.T, h history, boot *wire.BootID, offset int64) (blocks []ingest.Block) {
	tb.Helper()
	other := rapid.IntRange(0, len(h)).Draw(r, "other points")
	add := func(samples []ecowatt.Sample, turned bool) {
		if len(samples) == 0 {
			return
		}
		b, since := ecowatt.Block{Inverter: "roof", Points: curvePoints}, int64(0)
		var of *wire.BootID
		if rapid.Bool().Draw(r, "before the clock") {
			of, since = boot, offset
		}
		if turned {
			b.Points = []string{curvePoints[1], curvePoints[0]}
		}
		for _, s := range samples {
			values := slices.Clone(s.Values)
			if turned {
				slices.Reverse(values)
			}
			b.Samples = append(b.Samples, ecowatt.Sample{At: s.At - since, Values: values})
		}
		blocks = append(blocks, sampledOf(tb, b, of))
	}
	for i := 0; i < len(h); {
		end := len(h)
		if i < other {
			end = other
		}
		n := rapid.IntRange(1, min(8, end-i)).Draw(r, "block")
		part, woven := h[i:i+n], rapid.IntRange(0, 3).Draw(r, "woven") == 0
		var halves [2][]ecowatt.Sample
		for j, s := range part {
			half := 0
			if woven {
				half = j % 2
			}
			halves[half] = append(halves[half], s)
		}
		add(halves[0], i >= other)
		add(halves[1], i >= other)
		i += n
	}
	return blocks
}

// Blocks that come in any order, some twice, some before the clock of their boot
// is known, make the curves and the energy that all samples at once make.
func TestCurvesOfAnyOrder(t *testing.T) {
	s, devices := open(t), 0
	rapid.Check(t, func(r *rapid.T) {
		devices++
		name := fmt.Sprintf("roof-%d", devices)
		device := add(t, s, name)
		boot := wire.BootID{9}
		const offset = 1_780_000_000_000 // of the boot
		h := drawHistory(r, offset)
		var messages []ingest.Message
		for i, b := range drawBlocks(t, r, h, &boot, offset) {
			m := ingest.Message{ID: [16]byte{byte(i)}, Kind: ingest.KindTelemetry, Block: &b}
			for range rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(r, "times") {
				messages = append(messages, m)
			}
		}
		messages = rapid.Permutation(messages).Draw(r, "order")
		known := rapid.IntRange(0, len(messages)).Draw(r, "clock")
		for i, m := range messages {
			if i == known {
				observe(t, s, device, ingest.BootID(boot), offset)
			}
			do(t, s, func(tx *Tx) error {
				_, err := tx.Take(device, m, noon)
				return err
			})
		}
		observe(t, s, device, ingest.BootID(boot), offset)

		for _, step := range []time.Duration{time.Minute, 15 * time.Minute, 6 * time.Hour} {
			q := rollup.Query{Device: ecowatt.DeviceID(name), From: time.UnixMilli(0), To: noon.AddDate(10, 0, 0), Points: curvePoints, Step: step}
			parts := curve(t, s, q)
			got, _ := flat(parts)
			maps.DeleteFunc(got, func(_ int64, s []rollup.Stats) bool { return s[0].Count+s[1].Count == 0 })
			if diff := cmp.Diff(h.stats(step.Milliseconds()), got); diff != "" {
				r.Fatalf("a curve of %v (-want +got):\n%s", step, diff)
			}
			if step == time.Minute {
				continue
			}
			q.Energy, q.Points = true, nil
			for _, parts := range [][]rollup.Part{parts, curve(t, s, q)} {
				if diff := cmp.Diff(h.energy(step.Milliseconds()), energies(parts), cmpopts.EquateApprox(0, 1e-6)); diff != "" {
					r.Fatalf("energy by %v (-want +got):\n%s", step, diff)
				}
			}
		}
	})
}

// energies are the buckets of which the energy is known.
func energies(parts []rollup.Part) map[int64]float64 {
	all := map[int64]float64{}
	for _, p := range parts {
		for _, b := range p.Buckets {
			if b.HasEnergy {
				all[b.Begin] = b.Energy
			}
		}
	}
	return all
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

// A block that comes out of order among some of which one's samples are gone adds
// to what was known, also of that one.
func TestLateBesideRetired(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "ecowatt.db"), Options{Retention: Retention{Samples: 24 * time.Hour}})
	device := add(t, s, "roof")
	now := noon.Add(ingest.MaxSpan + 48*time.Hour)
	at := func(minute, total int64) {
		b := sampled(t, []ecowatt.Sample{{At: noon.UnixMilli() + minute*rollup.Minute, Values: []ecowatt.Value{ecowatt.Known(total), ecowatt.Known(total)}}}, nil)
		do(t, s, func(tx *Tx) error { return tx.storeBlock(device, b, noon) })
	}
	at(0, 1000)
	if r, err := s.Retire(t.Context(), now); err != nil || r.Samples != 1 {
		t.Fatalf("given up: %+v, %v", r, err)
	}
	at(10, 1004)
	at(5, 1002)
	buckets, _ := flat(curve(t, s, rollup.Query{Device: "roof", From: noon, To: now, Step: time.Hour}))
	if b := buckets[noon.UnixMilli()]; len(b) == 0 || b[0] != (rollup.Stats{Min: 1000, Max: 1004, Sum: 3006, Count: 3}) {
		t.Errorf("the hour is %+v", b)
	}
}

// However much is to be given up, who wants to write waits for no more than one
// piece of it: between any two who wait one after the other, at most that went.
func TestRetireLetsOthersWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openAt(t, filepath.Join(t.TempDir(), "ecowatt.db"), Options{Retention: Retention{Samples: 24 * time.Hour}})
		device := add(t, s, "roof")
		const pieces = 5
		do(t, s, func(tx *Tx) error {
			for i := range int64(pieces * retireSize) {
				at := noon.UnixMilli() + i*rollup.Minute
				b := sampled(t, []ecowatt.Sample{{At: at, Values: []ecowatt.Value{ecowatt.Known(5), ecowatt.Known(1000 + i)}}}, nil)
				if err := tx.storeBlock(device, b, noon); err != nil {
					return err
				}
			}
			return nil
		})
		var left []int64
		failed := make(chan error, 1)
		var exchange func(tx *Tx) error
		exchange = func(tx *Tx) error {
			var n int64
			if _, err := tx.w.row(`SELECT count(*) FROM block WHERE length(data) > 0`, nil, &n); err != nil {
				return err
			}
			left = append(left, n)
			synctest.Wait() // the duty is back in the line
			if n == 0 {
				failed <- nil
				return nil
			}
			go func() {
				if err := s.write(t.Context(), exchange); err != nil {
					failed <- err
				}
			}()
			synctest.Wait() // behind the duty
			return nil
		}
		var given Retired
		retired := make(chan error, 1)
		do(t, s, func(*Tx) error {
			go func() {
				var err error
				given, err = s.Retire(t.Context(), noon.AddDate(1, 0, 0))
				retired <- err
			}()
			synctest.Wait()
			go func() {
				if err := s.write(t.Context(), exchange); err != nil {
					failed <- err
				}
			}()
			synctest.Wait()
			return nil
		})
		if err := errors.Join(<-failed, <-retired); err != nil || given.Samples != pieces*retireSize {
			t.Fatalf("given up: %+v, %v", given, err)
		}
		for i, n := range left[1:] {
			if left[i]-n > retireSize {
				t.Errorf("%d blocks were left, and %d when the next exchange could write", left[i], n)
			}
		}
		if left[0] != pieces*retireSize || len(left) <= pieces {
			t.Errorf("exchanges saw %v blocks", left)
		}
	})
}
