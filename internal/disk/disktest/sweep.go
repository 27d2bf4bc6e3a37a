package disktest

import (
	"errors"
	"fmt"
	"iter"
	"testing"

	"ecowatt/internal/disk"
)

// Cut is one way in which power was lost.
type Cut struct {
	Op   int // number of the operation, from 1; 0 when power was not cut
	When When
	Fate Fate
	Err  error // what the work returned: it wraps ErrPowerCut, or is nil
}

// String returns the name of the cut's test.
func (c Cut) String() string {
	if c.Op == 0 {
		return "uncut"
	}
	return fmt.Sprintf("%d-%v-%v", c.Op, c.When, c.Fate)
}

// Cuts does work on an empty disk, first with power, and then again for each
// operation that the first run counted, with power cut before, inside and after
// the operation and each fate of what was not synced. It yields the disk as it
// is when power is back.
func Cuts(work func(fsys disk.FS) error) iter.Seq2[Cut, disk.FS] {
	return func(yield func(Cut, disk.FS) bool) {
		whole := New()
		if err := work(whole); !yield(Cut{Err: err}, whole.Restart(Kept)) {
			return
		}
		for op := 1; op <= whole.Ops(); op++ {
			for _, when := range []When{Before, Inside, After} {
				for _, fate := range []Fate{Lost, Kept, Torn, Holed} {
					d := New()
					d.CutAt(op, when)
					cut := Cut{Op: op, When: when, Fate: fate, Err: work(d)}
					if !yield(cut, d.Restart(fate)) {
						return
					}
				}
			}
		}
	}
}

// Sweep runs check, as a test of its own, after each of Cuts. The work must
// succeed where power is not cut. check may begin by doing the work again.
func Sweep(t *testing.T, work func(fsys disk.FS) error, check func(t *testing.T, fsys disk.FS, cut Cut)) {
	t.Helper()
	for cut, fsys := range Cuts(work) {
		ok := t.Run(cut.String(), func(t *testing.T) {
			switch {
			case cut.Op == 0 && cut.Err != nil:
				t.Fatalf("the work fails without a cut: %v", cut.Err)
			case cut.Err != nil && !errors.Is(cut.Err, ErrPowerCut):
				t.Fatalf("the work does not say that power was cut: %v", cut.Err)
			}
			check(t, fsys, cut)
		})
		if !ok {
			return // the first cut that does harm says enough
		}
	}
}
