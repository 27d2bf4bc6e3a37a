package config

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
	"ecowatt/parameter"
)

// oracle says what a keeper must be, for a gateway on which everything fits and
// for parameters that are numbers. It is told every event and forgets nothing by
// itself: the test takes a copy where power is cut.
type oracle struct {
	revision uint64
	asked    string
	set      map[string]int64
	told     map[string]string // what became of each parameter
	former   map[string]int64  // nil unless on trial
	starts   int
	failing  int64
	kept     [2]int64 // failing and at, as a reboot leaves them
	at       int64
	boot     string
}

// choices are the values of each parameter that are drawn; the first one is the
// gateway's own, and one below 0 is out of range.
func choices() map[string][]int64 {
	return map[string][]int64{"flush_interval": {10, 20, -1}, "upload_interval": {900, 60, 600, -1}, "payload_cap": {0, 512, 1024, -1}}
}

func (o oracle) clone() oracle {
	o.set, o.told, o.former = maps.Clone(o.set), maps.Clone(o.told), maps.Clone(o.former)
	return o
}

func valueOf(set map[string]int64, name string) int64 {
	if v, ok := set[name]; ok {
		return v
	}
	return choices()[name][0]
}

// differ reports whether a and b differ in what can be on trial.
func differ(a, b map[string]int64) bool {
	return valueOf(a, "upload_interval") != valueOf(b, "upload_interval") || valueOf(a, "payload_cap") != valueOf(b, "payload_cap")
}

func (o *oracle) take(revision uint64, asked map[string]int64) {
	text := fmt.Sprint(asked) // sorted
	if revision < o.revision || revision == o.revision && text == o.asked {
		return
	}
	proven := o.former
	if proven == nil {
		proven = o.set
	}
	before, set := o.set, map[string]int64{}
	o.revision, o.asked, o.told = revision, text, map[string]string{}
	for name, all := range choices() {
		v, isAsked := asked[name]
		old, wasSet := before[name]
		switch {
		case isAsked && v >= 0:
			set[name] = v
		case isAsked:
			o.told[name] = "rejected"
			if wasSet {
				set[name] = old
			}
			continue
		case !wasSet:
			continue
		default:
			v = all[0]
		}
		o.told[name] = "unchanged"
		if v != valueOf(before, name) {
			o.told[name] = "accepted"
		}
	}
	o.set, o.former = set, nil
	o.starts, o.failing, o.kept, o.at, o.boot = 0, 0, [2]int64{}, 0, ""
	if differ(proven, set) {
		o.former = proven
	}
}

func (o *oracle) undo() {
	for _, name := range []string{"upload_interval", "payload_cap"} {
		if valueOf(o.former, name) == valueOf(o.set, name) {
			continue
		}
		delete(o.set, name)
		if v, ok := o.former[name]; ok {
			o.set[name] = v
		}
		o.told[name] = "rejected"
	}
	o.former = nil
}

func (o *oracle) failed(boot string, now int64) {
	if o.former == nil {
		return
	}
	another := o.boot != boot
	if !another {
		o.failing += now - o.at
	}
	o.boot, o.at = boot, now
	if another || o.failing-o.kept[0] >= 60_000 {
		o.kept = [2]int64{o.failing, o.at}
	}
	if slot := min(valueOf(o.former, "upload_interval"), valueOf(o.set, "upload_interval")); o.failing >= max(600, 3*slot)*1000 {
		o.undo()
	}
}

// open is a start, in another boot or the same.
func (o *oracle) open(rebooted bool) {
	if o.former == nil {
		return
	}
	if rebooted {
		o.failing, o.at = o.kept[0], o.kept[1]
	}
	if o.starts++; o.starts > 5 {
		o.undo()
	}
}

// differs says in what k is not as o says; "" where it is.
func (o oracle) differs(k *Keeper) string {
	told := map[string]string{}
	a := k.Answer()
	for name := range a.Rejected {
		told[name] = "rejected"
	}
	for _, name := range a.Accepted {
		told[name] = "accepted"
	}
	for _, name := range a.Unchanged {
		told[name] = "unchanged"
	}
	diff := cmp.Diff(o.revision, a.Revision)
	if len(told)+len(o.told) > 0 {
		diff += cmp.Diff(o.told, told)
	}
	for name := range choices() {
		diff += cmp.Diff(valueOf(o.set, name), k.Values()[name]) // on the way and by itself the same type
	}
	diff += cmp.Diff(o.former != nil, k.OnTrial())
	if t := k.s.Trial; t != nil && o.former != nil {
		if t.Boot != k.Boot {
			diff += cmp.Diff(o.failing, t.Failing)
		}
		// A restart within a boot goes on from an earlier failure that is kept.
		diff += cmp.Diff([]any{o.starts, o.failing - o.at, o.boot}, []any{t.Starts, t.Failing - t.At, t.Boot})
	}
	return diff
}

// TestAnySchedule: updates that come once, again, late and out of order, exchanges
// that fail and come through, restarts, reboots, a full disk, and power that is
// cut in the middle of any of it: the keeper is what the oracle says, before or
// after the step in which power was cut, and never anything else.
func TestAnySchedule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := disktest.New()
		o := oracle{set: map[string]int64{}, told: map[string]string{}}
		boots, now, newest := 1, int64(0), uint64(0)
		sent := map[uint64]map[string]int64{}
		open := func() *Keeper {
			return Open(Options{FS: d, Gateway: roomy(), Boot: fmt.Sprint(boots), Logger: slog.New(slog.DiscardHandler)})
		}
		k := open()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			before := o.clone()
			if rapid.IntRange(0, 3).Draw(t, "power") == 0 {
				d.CutAt(d.Ops()+rapid.IntRange(1, 8).Draw(t, "at"), rapid.SampledFrom([]disktest.When{disktest.Before, disktest.Inside, disktest.After}).Draw(t, "when"))
			}
			switch rapid.SampledFrom([]string{"new", "new", "again", "failed", "failed", "reached", "restart", "reboot"}).Draw(t, "step") {
			case "new":
				newest++
				sent[newest] = drawUpdate(t)
				o.take(newest, sent[newest])
				takeUpdate(k, newest, sent[newest])
			case "again":
				if newest > 0 {
					n := rapid.Uint64Range(1, newest).Draw(t, "revision")
					o.take(n, sent[n])
					takeUpdate(k, n, sent[n])
				}
			case "failed":
				now += rapid.Int64Range(0, 800).Draw(t, "later") * 1000
				o.failed(fmt.Sprint(boots), now)
				k.Failed(time.Duration(now) * time.Millisecond)
			case "reached":
				o.former = nil
				k.Reached()
			case "restart":
				o.open(false)
				k = open()
			case "reboot":
				boots, now = boots+1, 0
				o.open(true)
				k = open()
			}
			if !powerless(d) {
				d.CutAt(0, disktest.Before)
				if diff := o.differs(k); diff != "" {
					t.Fatalf("(-oracle +keeper):\n%s", diff)
				}
				continue
			}
			d = d.Restart(rapid.SampledFrom([]disktest.Fate{disktest.Lost, disktest.Kept, disktest.Torn, disktest.Holed}).Draw(t, "fate"))
			boots, now = boots+1, 0
			k = open()
			before.open(true)
			o.open(true)
			if was, is := before.differs(k), o.differs(k); was == "" {
				o = before
			} else if is != "" {
				t.Fatalf("after a cut it is neither what it was:\n%s\nnor what it became:\n%s", was, is)
			}
		}
	})
}

// roomy is a gateway on which everything fits.
func roomy() Gateway {
	g := roof()
	g.Polls = func(parameter.Values) error { return nil }
	g.Uploads = g.Polls
	return g
}

func drawUpdate(t *rapid.T) map[string]int64 {
	asked := map[string]int64{}
	for _, name := range slices.Sorted(maps.Keys(choices())) {
		if rapid.Bool().Draw(t, name+" is set") {
			asked[name] = rapid.SampledFrom(choices()[name]).Draw(t, name)
		}
	}
	return asked
}

func takeUpdate(k *Keeper, revision uint64, asked map[string]int64) {
	u := Update{Revision: revision, Parameters: map[string]any{}}
	for name, v := range asked {
		u.Parameters[name] = v
	}
	k.Take(u)
}

// powerless reports whether power was cut.
func powerless(d *disktest.Disk) bool {
	_, err := d.Stat(".")
	return err != nil
}

// TestEveryCut: power is cut at every operation of an update, of its proof, of
// another one and of its undoing. What was answered stays; what was not is as it
// was, and is answered the same when it is delivered again.
func TestEveryCut(t *testing.T) {
	minute := time.Minute
	updates := []Update{
		{1, map[string]any{"upload_interval": int64(60), "zeal": 1, "night_mode": "slow"}},
		{2, map[string]any{"upload_interval": int64(30), "night_mode": "full"}},
	}
	want := []string{"0", "1 +upload_interval -zeal=unknown_parameter =night_mode", "2 +night_mode +upload_interval", "2 +night_mode -upload_interval=infeasible"}
	interval := []int64{900, 60, 30, 60}
	done := 0
	work := func(fsys disk.FS) error {
		done = 0
		k := Open(Options{FS: fsys, Gateway: roof(), Boot: "1", Logger: slog.New(slog.DiscardHandler)})
		for i, u := range updates {
			a, _ := k.Take(u)
			if say(a) != want[1+i] {
				break
			}
			done++
			if i == 0 {
				k.Reached()
			}
		}
		if done == 2 {
			k.Failed(0)
			if k.Failed(10*minute) && !k.unsaved {
				done++
			}
		}
		_, err := fsys.Stat(".")
		if err == nil && done < 3 {
			return fmt.Errorf("only %d steps were done", done)
		}
		return err
	}
	disktest.Sweep(t, work, func(t *testing.T, fsys disk.FS, _ disktest.Cut) {
		k := Open(Options{FS: fsys, Gateway: roof(), Boot: "2", Logger: slog.New(slog.DiscardHandler)})
		at := slices.Index(want, say(k.Answer()))
		if at < done || at > done+1 || k.Values()["upload_interval"] != interval[at] {
			t.Fatalf("%d steps were done, and now it says %s, with an upload interval of %v", done, say(k.Answer()), k.Values()["upload_interval"])
		}
		for i := max(0, at-1); i < 2; i++ {
			told := want[1+i]
			if at == 3 {
				told = want[3]
			}
			if a, _ := k.Take(updates[i]); say(a) != told && i >= at-1 {
				t.Errorf("delivered again: %s instead of %s", say(a), told)
			}
		}
	})
}
