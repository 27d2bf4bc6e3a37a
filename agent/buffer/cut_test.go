package buffer

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
)

// scenario is a life of a buffer: everything it can do to the disk is in it.
func scenario(w *witness, fsys disk.FS) error {
	o := Options{FS: fsys, FlushInterval: 10 * time.Second, MaxRun: 3}
	steps := []func() error{
		func() error { return w.open(o) },
		func() error { return w.addAll(0, 1, 0, 1) },
		w.flush,
		func() error { return w.addAll(0, 0, 2) },
		w.pack, // several runs, of two inverters and two lists of points
		func() error { return w.addAll(0, 1) },
		func() error { return w.settle(w.nextIDs(1)...) }, // a part of a file
		func() error { return w.putSome(2, "log", "another log") },
		w.flush,
		func() error { return w.add(0) },
		func() error { ids := w.nextIDs(plenty); return w.settle(ids[1:]...) },
		func() error { return w.synced(w.Close()) },
		func() error { return w.open(o) },
		func() error { return w.addAll(6, 7) }, // after a boot
		w.pack,
		func() error { return w.add(6) },
		func() error { return w.settle(w.nextIDs(plenty)...) },
		func() error { return w.putSome(6, "inventory") },
		w.flush,
		func() error { return w.open(o) }, // after a kill
		func() error { return w.add(7) },
		w.pack,
		w.pack, // nothing
		func() error { return w.settle(w.nextIDs(2)...) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func TestPowerCutAtEveryOperation(t *testing.T) {
	var w *witness
	work := func(fsys disk.FS) error {
		w = newWitness()
		return scenario(w, fsys)
	}
	disktest.Sweep(t, work, func(t *testing.T, fsys disk.FS, cut disktest.Cut) {
		d := fsys.(*disktest.Disk)
		o := Options{FS: d, FlushInterval: 10 * time.Second, MaxRun: 3}
		if err := w.open(o); err != nil {
			t.Fatalf("opening after the cut: %v", err)
		}
		w.check(t, cut.Op == 0 || cut.Fate == disktest.Kept)

		// What is handed out after one cut is there, the same, after the next one.
		if err := w.pack(); err != nil {
			t.Fatal(err)
		}
		w.nextIDs(plenty)
		for _, fate := range []disktest.Fate{disktest.Lost, disktest.Holed} {
			d = d.Restart(fate)
			o.FS = d
			if err := w.open(o); err != nil {
				t.Fatalf("opening after the second cut: %v", err)
			}
			w.check(t, true)
		}
	})
}

// A killed program may leave a file of the outbox whose name does not last yet.
// If the next one handed its messages out, a power cut could bring the journal
// back, and the samples under another id.
func TestKillThenPowerCut(t *testing.T) {
	for life := 0; ; life++ {
		w := newWitness()
		d := disktest.New()
		left := life // operations to live
		err := scenario(w, hooked{d, func(op, _ string) error {
			if op == "open" || op == "read" {
				return nil
			}
			if left--; left < 0 {
				return errKilled
			}
			return nil
		}})
		if err == nil {
			return // it outlived the scenario
		}
		if !errors.Is(err, errKilled) {
			t.Fatalf("killed after %d operations: %v", life, err)
		}
		if err := w.open(Options{FS: d, MaxRun: 3}); err != nil {
			t.Fatalf("opening after a kill: %v", err)
		}
		w.check(t, true)
		if err := w.open(Options{FS: d.Restart(disktest.Lost), MaxRun: 3}); err != nil {
			t.Fatalf("opening after a kill and a power cut: %v", err)
		}
		w.check(t, true) // Open had synced what it found
		if t.Failed() {
			t.Fatalf("killed after %d operations", life)
		}
	}
}

// TestAnyOrder does what comes to rapid's mind, and compares.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWitness()
		d := disktest.New()
		o := Options{
			FlushInterval: rapid.SampledFrom([]time.Duration{0, 10 * time.Second}).Draw(t, "flush interval"),
			MaxRun:        rapid.IntRange(1, 4).Draw(t, "max run"),
		}
		reopen := func(fate disktest.Fate) {
			d = d.Restart(fate)
			o.FS = d
			if err := w.open(o); err != nil {
				t.Fatalf("opening: %v", err)
			}
			w.check(t, fate == disktest.Kept)
		}
		reopen(disktest.Kept)
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%v", err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				must(w.addAll(rapid.SliceOfN(rapid.IntRange(0, 11), 1, 8).Draw(t, "series")...))
			},
			"flush": func(*rapid.T) { must(w.flush()) },
			"pack":  func(*rapid.T) { must(w.pack()) },
			"pack refuses": func(t *rapid.T) {
				left := rapid.IntRange(0, 3).Draw(t, "messages before")
				before := w.Stats()
				refused := errors.New("refused")
				err := w.packEach(func(r Run) (Message, error) {
					if left--; left < 0 {
						return Message{}, refused
					}
					return w.message(r)
				})
				if errors.Is(err, refused) {
					if after := w.Stats(); after != before {
						t.Fatalf("%v became %v", before, after)
					}
				} else {
					must(w.synced(err))
				}
			},
			"put": func(t *rapid.T) {
				must(w.putSome(2, rapid.SliceOfN(rapid.String(), 1, 3).Draw(t, "bodies")...))
			},
			"settle": func(t *rapid.T) {
				ids := w.nextIDs(rapid.IntRange(0, 6).Draw(t, "most"))
				ids = rapid.Permutation(ids).Draw(t, "answered")
				must(w.settle(ids[:rapid.IntRange(0, len(ids)).Draw(t, "settled")]...))
			},
			"full disk": func(t *rapid.T) {
				d.SetCapacity(used(d) + rapid.Int64Range(1, 200).Draw(t, "left"))
				for range 8 {
					_ = w.add(rapid.IntRange(0, 2).Draw(t, "series"))
				}
				_ = w.synced(w.packEach(w.message))
				_ = w.putSome(2, "a log")
				d.SetCapacity(0)
			},
			"close":   func(*rapid.T) { must(w.synced(w.Close())); reopen(disktest.Lost) },
			"restart": func(t *rapid.T) { reopen(rapid.SampledFrom(fates).Draw(t, "fate")) },
			"":        func(t *rapid.T) { w.check(t, true) },
		})
	})
}

var errKilled = errors.New("killed")

var fates = []disktest.Fate{disktest.Lost, disktest.Kept, disktest.Torn, disktest.Holed}

// used returns the bytes in the buffer's files.
func used(d *disktest.Disk) (n int64) {
	names, _ := d.List(folder)
	for _, name := range names {
		if info, err := d.Stat(folder + "/" + name); err == nil {
			n += info.Size()
		}
	}
	return n
}
