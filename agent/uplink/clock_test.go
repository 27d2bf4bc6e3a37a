package uplink

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ecowatt/wire"
)

// epoch is the true time at boot, in ms since 1970.
const epoch = 1_790_000_000_000

// at is the true time at a time since boot.
func at(now time.Duration) int64 { return epoch + now.Milliseconds() }

func TestClock(t *testing.T) {
	var c Clock
	if c.Known() || c.Wall(time.Hour) != nil {
		t.Fatal("a clock that was never set knows the time")
	}
	observe := func(server int64, sent, received time.Duration, want Sync) {
		t.Helper()
		var got Sync
		if c, got = c.Observe(server, sent, received); got != want {
			t.Fatalf("outcome %d, want %d", got, want)
		}
	}
	wall := func(now time.Duration, want int64) {
		t.Helper()
		w := c.Wall(now)
		if w == nil || w.At != want {
			t.Fatalf("%+v, want %d", w, want)
		}
	}
	minute := time.Minute
	observe(at(minute), minute-2*time.Second, minute+2*time.Second, SyncFirst)
	wall(minute, at(minute))
	if w := c.Wall(minute); w.Uncertainty < 2000 || w.Uncertainty > 2010 {
		t.Errorf("uncertain by %d ms, half the round trip is 2000", w.Uncertainty)
	}
	// A better answer is taken, a worse one that fits is not.
	observe(at(2*minute)+500, 2*minute-100*time.Millisecond, 2*minute+100*time.Millisecond, SyncAdjusted)
	wall(2*minute, at(2*minute)+500)
	observe(at(3*minute)+1500, 3*minute-10*time.Second, 3*minute+10*time.Second, SyncKept)
	wall(3*minute, at(3*minute)+500)
	// One that does not fit is taken, up to 120 s.
	observe(at(4*minute)+119_000, 4*minute, 4*minute, SyncAdjusted)
	wall(4*minute, at(4*minute)+119_000)
	// Beyond, two in a row must say the same.
	jump := int64(3_600_000)
	observe(at(5*minute)+jump, 5*minute, 5*minute, SyncDoubted)
	wall(5*minute, at(5*minute)+119_000)
	observe(at(6*minute)-jump, 6*minute, 6*minute, SyncDoubted)
	observe(at(7*minute)+jump, 7*minute, 7*minute, SyncDoubted)
	wall(7*minute, at(7*minute)+119_000)
	observe(at(8*minute)+jump+100, 8*minute, 8*minute, SyncStepped)
	wall(8*minute, at(8*minute)+jump+100)
	// A doubt that is not confirmed at once is forgotten.
	observe(at(9*minute), 9*minute, 9*minute, SyncDoubted)
	observe(at(10*minute)+jump+500, 10*minute, 10*minute+time.Second, SyncKept)
	observe(at(11*minute), 11*minute, 11*minute, SyncDoubted)
	wall(11*minute, at(11*minute)+jump+100)
	for _, mad := range []int64{-1, math.MinInt64, math.MaxInt64, latest + 1} {
		observe(mad, 12*minute, 12*minute, SyncDoubted)
		observe(mad, 12*minute, 12*minute, SyncDoubted)
	}
	if _, outcome := (Clock{}).Observe(math.MaxInt64, 0, 0); outcome != SyncDoubted {
		t.Errorf("a first time that cannot be: %d", outcome)
	}
}

// TestDelaysShiftTheClockByTheirHalf: somebody delays every message as he
// likes. The clock is never wrong by more than it admits, nor by 15 s.
//
// Attacks: R22
func TestDelaysShiftTheClockByTheirHalf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c Clock
		mono := time.Duration(0)
		rate := 1 + rapid.Float64Range(-drift*0.99, drift*0.99).Draw(t, "drift")
		truth := func(mono time.Duration) time.Duration {
			return epoch*time.Millisecond + time.Duration(float64(mono)*rate)
		}
		for range rapid.IntRange(1, 30).Draw(t, "answers") {
			mono += time.Duration(rapid.Int64Range(0, int64(2*time.Hour)).Draw(t, "pause"))
			there := time.Duration(rapid.Int64Range(0, int64(30*time.Second)).Draw(t, "there"))
			back := time.Duration(rapid.Int64Range(0, int64(30*time.Second-there)).Draw(t, "back"))
			server := truth(mono + there).Milliseconds()
			c, _ = c.Observe(server, mono, mono+there+back)
			mono += there + back
			w := c.Wall(mono)
			off := w.At - truth(mono).Milliseconds()
			if max(off, -off) > w.Uncertainty+2 {
				t.Fatalf("wrong by %d ms, admits %d", off, w.Uncertainty)
			}
			if w.Uncertainty > 15_500 {
				t.Fatalf("uncertain by %d ms", w.Uncertainty)
			}
		}
	})
}

func TestRestoreClock(t *testing.T) {
	boot, other := wire.BootID{1}, wire.BootID{2}
	if _, known := (Clock{}).State(boot); known {
		t.Error("a clock that was never set is worth keeping")
	}
	c, _ := Clock{}.Observe(at(time.Minute), time.Minute, time.Minute+time.Second)
	state, known := c.State(boot)
	if !known {
		t.Fatal("not worth keeping")
	}
	text, err := json.Marshal(state)
	if err != nil {
		t.Fatal(err)
	}
	var back ClockState
	if err := json.Unmarshal(text, &back); err != nil || back != state {
		t.Fatalf("%s came back as %+v, %v", text, back, err)
	}
	now := time.Hour
	restored := RestoreClock(back, boot, now)
	if got, want := restored.Wall(now), c.Wall(now); got == nil || got.At != want.At || got.Uncertainty < want.Uncertainty {
		t.Errorf("restored %+v, was %+v", got, want)
	}
	// It counts as set: a far-off answer alone does not move it.
	if _, outcome := restored.Observe(at(now)+10_000_000, now, now); outcome != SyncDoubted {
		t.Errorf("a step after a restart: %d", outcome)
	}
	for name, s := range map[string]ClockState{
		"another boot":         {Boot: other, Offset: state.Offset, At: state.At},
		"from the future":      {Boot: boot, Offset: state.Offset, At: now.Milliseconds() + 1},
		"negative uncertainty": {Boot: boot, Offset: state.Offset, Uncertainty: -1},
		"negative offset":      {Boot: boot, Offset: -1},
		"offset beyond reason": {Boot: boot, Offset: math.MaxInt64},
		"time beyond reason":   {Boot: boot, Offset: state.Offset, At: math.MaxInt64},
	} {
		if RestoreClock(s, boot, now).Known() {
			t.Errorf("%s was believed", name)
		}
	}
}
