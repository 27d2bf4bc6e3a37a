package acquire

import (
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestChange(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	if got := r.poll(); got != "100 101 150" {
		t.Fatal(got)
	}
	for _, c := range []struct {
		points   []string
		interval time.Duration
		want     string
		at       int64
	}{
		{[]string{"c"}, 5 * time.Second, "150", 10_000},
		{[]string{"c", "a"}, 2 * time.Second, "150 100", 12_000},
		{[]string{"c", "a"}, 6 * time.Second, "150 100", 18_000},
		{[]string{"a", "b"}, 10 * time.Second, "100 101", 20_000},
	} {
		if err := r.Change(c.points, c.interval, false); err != nil {
			t.Fatal(err)
		}
		if got := r.poll(); got != c.want || r.now != c.at {
			t.Errorf("%v every %v: %s at %d, want %s at %d", c.points, c.interval, got, r.now, c.want, c.at)
		}
	}
	if s := r.Status(); s.Samples != 5 || s.Skipped != 0 || s.State != Answering {
		t.Errorf("status %+v", s)
	}
	if got := r.codes(); got != "inverter_found" {
		t.Errorf("log: %s", got)
	}
	before := r.Found()
	for _, points := range [][]string{{"x"}, {}} {
		if err := r.Change(points, time.Second, false); err == nil {
			t.Errorf("points %v are taken", points)
		}
	}
	if err := r.Change([]string{"a"}, time.Millisecond, false); err == nil {
		t.Error("an interval of 1 ms is taken")
	}
	if got := r.poll(); got != "100 101" || r.now != 30_000 || !cmp.Equal(before, r.Found()) {
		t.Errorf("after changes that were refused: %s at %d", got, r.now)
	}
}

// TestChangeKeepsWhatWasLearned: points that are read rarely are not read again
// because the interval is another one.
func TestChangeKeepsWhatWasLearned(t *testing.T) {
	r := newClassRig(t, 10*time.Second)
	if got := r.poll(); got != fast+", "+slow+", "+once {
		t.Fatal(got)
	}
	if err := r.Change(classes.PointNames(), 5*time.Second, false); err != nil {
		t.Fatal(err)
	}
	for r.now < 65_000 {
		if got := r.poll(); got != fast {
			t.Fatalf("%s at %d", got, r.now)
		}
	}
	if got := r.poll(); got != fast+", "+slow || r.now != 70_000 {
		t.Errorf("%s at %d", got, r.now)
	}
}

// TestChangeAnyTime: whenever the interval changes, and to whatever, samples lie
// on the grid of the interval that is in force, and time goes on.
func TestChangeAnyTime(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := New(Inverter{Name: "inv1", Unit: 17, Profile: split, Points: []string{"a"}, Interval: 5 * time.Second}, &fake{}, slog.New(slog.DiscardHandler), 0)
		if err != nil {
			t.Fatal(err)
		}
		now, last, interval := rapid.Int64Range(0, 100_000).Draw(t, "start"), int64(-1), int64(5000)
		for range 50 {
			if rapid.Bool().Draw(t, "change") {
				interval = rapid.Int64Range(1, 60).Draw(t, "interval") * 1000
				if err := p.Change([]string{"a"}, time.Duration(interval)*time.Millisecond, rapid.Bool().Draw(t, "full")); err != nil {
					t.Fatal(err)
				}
			}
			// A timer may end a little before or after its tick.
			now += p.Next(now).Milliseconds() + rapid.Int64Range(-40, 400).Draw(t, "off")
			b := p.Poll(t.Context(), now)
			if len(b) != 1 || b[0].Sample.At <= last || b[0].Sample.At%interval != 0 {
				t.Fatalf("at %d, interval %d, after %d: %v", now, interval, last, b)
			}
			last = b[0].Sample.At
		}
	})
}

func TestNight(t *testing.T) {
	for _, c := range []struct {
		name   string
		full   bool
		asleep bool
		want   []int64 // s between polls, which lie on the grid of their period
	}{
		{"slow, asleep", false, true, []int64{50, 60, 60, 60}},
		{"full, asleep", true, true, []int64{5, 5, 5, 5}},
		{"slow, away", false, false, []int64{5, 5, 20, 40}},
		{"full, away", true, false, []int64{5, 5, 5, 5}},
	} {
		t.Run(c.name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { testNight(t, c.full, c.asleep, c.want) }) })
	}
}

func testNight(t *testing.T, full, asleep bool, want []int64) {
	r := newClassRig(t, 5*time.Second)
	r.now = 600_000
	if err := r.Change(classes.PointNames(), 5*time.Second, full); err != nil {
		t.Fatal(err)
	}
	r.poll()
	if r.fake.words[0] = 2; !asleep {
		r.fake.errs = slices.Repeat([]error{errSilent}, 100)
	}
	r.poll()
	var got []int64
	for range want {
		before := r.now
		r.poll()
		got = append(got, (r.now-before)/1000)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("s between polls (-want +got):\n%s", diff)
	}
	r.fake.words[0], r.fake.errs = 100, nil
	r.poll()
	before := r.now
	if r.poll(); r.now-before != 5000 {
		t.Errorf("awake again, the next poll is %d ms later", r.now-before)
	}
}
