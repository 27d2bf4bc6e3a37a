package acquire

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
)

// finding is a rig whose inverter tells by register 90 which points it has: one
// for each from 0 on.
func finding(t *testing.T, last inverter.Profile, points ...string) *rig {
	t.Helper()
	r := &rig{t: t, fake: &fake{words: map[uint16]uint16{90: 2}}}
	p, err := New(Inverter{Name: "inv1", Unit: 17, Profile: last, Points: points, Interval: 5 * time.Second, Find: find}, r.fake, slog.New(slog.NewJSONHandler(&r.log, nil)), 0)
	if err != nil {
		t.Fatal(err)
	}
	r.Poller = p
	return r
}

func find(ctx context.Context, read func(context.Context, inverter.Read) ([]uint16, error)) (inverter.Profile, error) {
	words, err := read(ctx, inverter.Read{Table: inverter.Holding, Address: 90, Count: 1})
	if err != nil {
		return inverter.Profile{}, err
	}
	return counted(int(words[0])), nil
}

// counted is a profile of n points.
func counted(n int) inverter.Profile {
	p := inverter.Profile{Name: "found", Title: fmt.Sprint("points: ", n), Block: 125}
	for i := range n {
		p.Registers = append(p.Registers, inverter.Register{
			Point: ecowatt.Point{Name: string(rune('a' + i))}, Table: inverter.Holding, Address: uint16(i),
		})
	}
	return p
}

// wants polls once and compares the sample, the number of reads and what is known.
func (r *rig) wants(when, sample string, reads int, points string, layout int) {
	r.t.Helper()
	if got := r.poll(); got != sample {
		r.t.Errorf("%s: sample %q, want %q", when, got, sample)
	}
	if got := r.fake.took(); got != reads {
		r.t.Errorf("%s: %d reads, want %d", when, got, reads)
	}
	f := r.Found()
	if got := strings.Join(f.Points, " "); got != points || f.Layout != layout || f.Changes != layout {
		r.t.Errorf("%s: points %q, layout %d, changes %d; want %q, %d", when, got, f.Layout, f.Changes, points, layout)
	}
}

// TestFind: nothing is read of an inverter of which it is not known what it is;
// that is looked for at the start and whenever the inverter is back, and only a
// change of it is told.
func TestFind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := finding(t, inverter.Profile{Name: "found"})
		r.fake.errs = []error{errSilent}
		r.wants("nothing answers", "none", 1, "", 0)
		if s := r.Status(); s.State != Away || !strings.Contains(s.LastError, "looking for what the inverter is") || s.Missing != 0 {
			t.Errorf("status %+v", s)
		}
		r.fake.errs = []error{modbus.ErrIllegalAddress}
		r.wants("it does not tell", "none", 1, "", 0)
		r.wants("it tells", "100 101", 2, "a b", 1)
		r.wants("it is known", "100 101", 1, "a b", 1)
		r.fake.errs = []error{errSilent, errSilent, errSilent}
		r.wants("away", "none", 3, "a b", 1)
		r.wants("back, and the same", "100 101", 2, "a b", 1)
		r.fake.errs = []error{errSilent, errSilent, errSilent}
		r.wants("away again", "none", 3, "a b", 1)
		r.fake.words[90] = 3
		r.wants("back, and another one", "100 101 102", 2, "a b c", 2)
		r.fake.errs = []error{errSilent, errSilent, errSilent, modbus.ErrBusy}
		r.wants("away once more", "none", 3, "a b c", 2)
		r.wants("it has no time to tell", "none", 1, "a b c", 2)
		if got := r.Found().Profile; cmp.Diff(counted(3), got) != "" {
			t.Errorf("profile %+v", got)
		}
		if n := strings.Count(r.log.String(), "inverter_described"); n != 2 {
			t.Errorf("it was told %d times, want 2:\n%s", n, &r.log)
		}
	})
}

// TestFindKnowsTheLast: what was found before is told until it is found again, and
// finding the same is no change.
func TestFindKnowsTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := finding(t, counted(2))
		if got := r.Found().Points; !cmp.Equal(got, []string{"a", "b"}) {
			t.Errorf("points at the start: %v", got)
		}
		r.wants("the same", "100 101", 2, "a b", 0)
	})
}

// TestFindPoints: of the points wanted those are read that are there.
func TestFindPoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := finding(t, inverter.Profile{}, "c", "b")
		r.wants("one of them", "101", 2, "b", 1)
		if log := r.log.String(); strings.Count(log, "point_unknown") != 1 || !strings.Contains(log, `"point":"c"`) {
			t.Errorf("log:\n%s", log)
		}
		r = finding(t, inverter.Profile{}, "z")
		r.wants("none of them", "none", 1, "", 0)
		if s := r.Status(); s.State != Away || !strings.Contains(s.LastError, "none of the points that are to be read, but 2 others") {
			t.Errorf("status %+v", s)
		}
	})
}

// TestFindTriesAgain: a lost answer does not end the search, once there was one.
func TestFindTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := finding(t, inverter.Profile{})
		reads := 0
		r.inverter.Find = func(ctx context.Context, read func(context.Context, inverter.Read) ([]uint16, error)) (inverter.Profile, error) {
			for at := range uint16(4) {
				reads++
				if _, err := read(ctx, inverter.Read{Table: inverter.Holding, Address: at, Count: 1}); err != nil {
					return inverter.Profile{}, err
				}
			}
			return counted(1), nil
		}
		r.fake.errs = []error{nil, errSilent, nil, errSilent}
		r.wants("two answers are lost", "100", 7, "a", 1)
		r.fake.errs = []error{errSilent, errSilent, errSilent}
		r.wants("away", "none", 3, "a", 1)
		r.fake.errs = []error{nil, errSilent, errSilent, errSilent}
		r.wants("three answers are lost", "none", 4, "a", 1)
		if s := r.Status(); !strings.Contains(s.LastError, errSilent.Error()) {
			t.Errorf("status %+v", s)
		}
	})
}
