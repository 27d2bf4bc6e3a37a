package command_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/agent/command"
)

// inForce is the value and the gate of the limit.
func (w *world) inForce() [2]uint16 { return [2]uint16{w.registers[limitAt], w.registers[gateAt]} }

// ending is a way in which a limit ends.
type ending struct {
	prepare func(*world)
	during  func(*world)
	want    [2]uint16
}

// endings is the table of how a limit ends.
func endings(t *testing.T) map[string]ending {
	t.Helper()
	off := [2]uint16{100, gateOff}
	return map[string]ending{
		"by itself":           {nil, nil, off},
		"as it was found":     {func(w *world) { w.registers[limitAt], w.registers[gateAt] = 80, gateOn }, nil, [2]uint16{80, gateOn}},
		"what nobody may set": {func(w *world) { w.registers[limitAt] = 255 }, nil, [2]uint16{255, gateOff}},
		"another mode":        {func(w *world) { w.registers[gateAt] = 5 }, nil, [2]uint16{100, 5}},
		"restart":             {nil, func(w *world) { w.kill(); w.start() }, off},
		"restart loop": {nil, func(w *world) {
			for range 20 {
				w.kill()
				w.start().steps(3 * time.Minute)
			}
		}, off},
		"off meanwhile": {nil, func(w *world) { w.reboot(2 * time.Hour).start().steps(time.Minute) }, off},
		"off meanwhile, time known later": {nil, func(w *world) {
			w.unknown = true
			w.reboot(2 * time.Hour).start().steps(time.Minute)
			if w.inForce() != [2]uint16{50, gateOn} {
				t.Error("it ended although nobody knew the time")
			}
			w.unknown = false
			w.steps(time.Minute)
		}, off},
		"reboots, time never known": {nil, func(w *world) {
			w.unknown = true
			for range 120 {
				w.reboot(time.Second).start().steps(20 * time.Second)
			}
		}, off},
		"boots too short to write, time never known": {nil, func(w *world) {
			w.unknown = true
			for range 60 { // two minutes in all
				w.reboot(time.Second).start().steps(2 * time.Second)
			}
			if w.inForce() != off {
				t.Errorf("%v is in force: boots cost nothing", w.inForce())
			}
		}, off},
		"clock stepped back, rebooted": {nil, func(w *world) { w.off = -100 * time.Hour; w.reboot(time.Second).start() }, off},
		"clock stepped back":           {nil, func(w *world) { w.off = -100 * time.Hour; w.steps(time.Hour + time.Minute) }, off},
		"clock stepped ahead":          {nil, func(w *world) { w.off = 100 * time.Hour; w.steps(time.Hour + time.Minute) }, off},
		"inverter away at the end": {nil, func(w *world) {
			w.fate = func(bool, uint16) answer { return silentUndone }
			w.steps(3 * time.Hour)
			w.fate = func(bool, uint16) answer { return good }
			w.steps(2 * time.Minute)
		}, off},
		"writes not answered": {nil, func(w *world) {
			n := 0
			w.fate = func(write bool, _ uint16) answer {
				if write {
					n++
				}
				if write && n < 4 {
					return []answer{silentDone, silentUndone, busy}[n%3]
				}
				return good
			}
			w.steps(time.Hour + 5*time.Minute)
		}, off},
		"control not allowed any more": {nil, func(w *world) { w.kill(); w.allowed = false; w.start().steps(time.Minute) }, off},
		"written instead":              {nil, func(w *world) { w.do(write(2, command.LimitPoint, int64(70), w.in(time.Hour))) }, [2]uint16{70, gateOn}},
		"somebody else":                {nil, func(w *world) { w.registers[limitAt] = 60 }, [2]uint16{60, gateOn}},
		"journal cannot be written":    {nil, func(w *world) { w.disk.SetCapacity(1) }, off},
	}
}

func TestLeaseEnds(t *testing.T) {
	for name, test := range endings(t) {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if test.prepare != nil {
				test.prepare(w)
			}
			found := w.inForce()
			if got := w.start().do(limitTo(1, int64(50), time.Hour, w.in(time.Minute))); got != command.CodeDone {
				t.Fatalf("it ended with %s", got)
			}
			if w.inForce() != [2]uint16{50, gateOn} {
				t.Fatalf("%v is in force", w.inForce())
			}
			before := len(w.wrote)
			if test.during != nil {
				test.during(w)
			} else {
				w.steps(50 * time.Minute)
				if w.inForce() == found {
					t.Error("it ended too early")
				}
			}
			w.steps(time.Hour)
			if w.inForce() != test.want || len(w.engine.Leases()) > 0 {
				t.Errorf("%v is in force, want %v; leases: %v", w.inForce(), test.want, w.engine.Leases())
			}
			if n := len(w.wrote) - before; n > 5 {
				t.Errorf("there were %d writes for it", n)
			}
		})
	}
}

func TestRelease(t *testing.T) {
	for _, form := range []string{"gate", "value", "neither"} {
		w := newWorld(t)
		w.registers[limitAt], w.registers[gateAt] = 80, gateOn
		control := w.profile.Registers[0].Control
		want := [2]uint16{50, gateOff}
		switch form {
		case "value":
			control.Gate.Given, control.Release = false, ecowatt.Known(255)
			want = [2]uint16{255, gateOn}
		case "neither": // what was found comes back
			control.Gate.Off = ecowatt.Value{}
			want = [2]uint16{80, gateOn}
		}
		c := limitTo(1, int64(50), time.Minute, w.in(time.Minute))
		c.Arguments["on_end"] = "release"
		w.start().do(c)
		w.steps(2 * time.Minute)
		if w.inForce() != want {
			t.Errorf("%s: %v is in force, want %v", form, w.inForce(), want)
		}
	}
}

// TestSeveralLeases: the strictest is in force, the next one takes its place, and at
// the end what was before all of them comes back.
func TestSeveralLeases(t *testing.T) {
	w := newWorld(t).start()
	var log bytes.Buffer
	w.log = &log
	w.kill()
	w.start()
	at := func(percent int64) {
		t.Helper()
		if want := [2]uint16{uint16(percent), gateOn}; w.inForce() != want {
			t.Errorf("%v is in force, want %v", w.inForce(), want)
		}
		n := 0
		for _, l := range w.engine.Leases() {
			if l.InForce {
				n++
			}
			if l.InForce && l.Limit.Raw != percent {
				t.Errorf("%+v", l)
			}
		}
		if n != 1 {
			t.Errorf("%d leases are in force", n)
		}
	}
	for i, x := range []struct {
		percent int64
		lease   time.Duration
		code    command.Code
		inForce int64
	}{
		{60, 40 * time.Minute, command.CodeDone, 60},
		{30, 10 * time.Minute, command.CodeDone, 30},
		{70, time.Hour, command.CodeNotInForce, 30},
		{30, 5 * time.Minute, command.CodeUnchanged, 30},
	} {
		if got := w.do(limitTo(i+1, x.percent, x.lease, w.in(time.Minute))); got != x.code {
			t.Errorf("command %d ended with %s, want %s", i+1, got, x.code)
		}
		at(x.inForce)
	}
	w.steps(10 * time.Minute)
	at(60)
	w.kill()
	w.start()
	w.steps(30 * time.Minute)
	at(70)
	w.steps(20 * time.Minute)
	if w.inForce() != [2]uint16{100, gateOff} || len(w.engine.Leases()) > 0 {
		t.Errorf("%v is in force", w.inForce())
	}
	if got := []int{strings.Count(log.String(), "lease_started"), strings.Count(log.String(), "lease_ended")}; !cmp.Equal(got, []int{4, 4}) {
		t.Errorf("leases were told to start and end %v times:\n%s", got, &log)
	}
	if n := len(w.wrote); n != 10 {
		t.Errorf("there were %d writes", n)
	}
}

// TestOverwritten: what somebody else writes is told once, and stays.
func TestOverwritten(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	w.log = &log
	w.start()
	w.do(limitTo(1, int64(50), time.Hour, w.in(time.Minute)))
	n := len(w.wrote)
	w.registers[limitAt] = 90
	w.steps(2 * time.Hour)
	if w.inForce() != [2]uint16{90, gateOn} || len(w.wrote) != n {
		t.Errorf("%v is in force; %v", w.inForce(), w.wrote)
	}
	if got := strings.Count(log.String(), "lease_overwritten"); got != 1 {
		t.Errorf("it was told %d times", got)
	}
}

// TestLostLimit: an inverter that forgets a limit with its power gets it again.
func TestLostLimit(t *testing.T) {
	w := newWorld(t).start()
	w.do(limitTo(1, int64(50), 3*time.Hour, w.in(time.Minute)))
	w.fate = func(bool, uint16) answer { return silentUndone }
	w.steps(time.Hour)
	w.registers[limitAt], w.registers[gateAt] = 100, gateOff
	w.fate = func(bool, uint16) answer { return good }
	w.steps(time.Minute)
	if w.inForce() != [2]uint16{50, gateOn} {
		t.Errorf("%v is in force", w.inForce())
	}
	w.steps(2 * time.Hour)
	if w.inForce() != [2]uint16{100, gateOff} {
		t.Errorf("%v is in force in the end", w.inForce())
	}
}

// TestLostLimitAndBudget: a register that was written as often as it may be is left
// alone: the limit is lost, and that is told.
func TestLostLimitAndBudget(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	w.log, w.budget = &log, 1
	w.start()
	w.do(limitTo(1, int64(50), 3*time.Hour, w.in(time.Minute)))
	w.fate = func(bool, uint16) answer { return silentUndone }
	w.steps(20 * time.Minute) // the day is the same
	w.registers[limitAt], w.registers[gateAt] = 100, gateOff
	calm(w)
	w.steps(4 * time.Hour)
	if n := w.writesOf(limitAt, 50); n != 1 || w.inForce() != [2]uint16{100, gateOff} || len(w.engine.Leases()) > 0 {
		t.Errorf("it was written %d times, and %v is in force", n, w.inForce())
	}
	if got := strings.Count(log.String(), "lease_overwritten"); got != 1 {
		t.Errorf("it was told %d times", got)
	}
}

// TestGateFirst: where the gate was off before a limit, it is off again before the
// value is put back, so that nobody obeys that for a moment.
func TestGateFirst(t *testing.T) {
	w := newWorld(t).start()
	w.do(limitTo(1, int64(50), time.Minute, w.in(time.Minute)))
	before := len(w.wrote)
	w.steps(2 * time.Minute)
	var order []uint16
	for _, x := range w.wrote[before:] {
		order = append(order, x.address)
	}
	if diff := cmp.Diff([]uint16{gateAt, limitAt}, order); diff != "" {
		t.Errorf("registers in the order of their writes:\n%s", diff)
	}
}

// TestManyLeases: there is an end to how many limits one point keeps.
func TestManyLeases(t *testing.T) {
	w := newWorld(t).start()
	for n := range 33 {
		want := command.CodeNotInForce
		switch n {
		case 0:
			want = command.CodeDone
		case 32:
			want = command.CodeOutOfRange
		}
		if got := w.do(limitTo(n+1, int64(20+n), 20*time.Hour, w.in(time.Minute))); got != want {
			t.Errorf("limit %d ended with %s, want %s", n+1, got, want)
		}
	}
	if n := len(w.engine.Leases()); n != 32 {
		t.Errorf("%d are kept", n)
	}
}

// TestFed: an inverter that would fall back by itself hears of the limit before half
// the time for that is over.
func TestFed(t *testing.T) {
	for _, timer := range []uint16{0, 20, 60} {
		w := newWorld(t)
		w.profile.Registers[0].Control.Stored = false
		w.registers[timerAt] = timer
		w.start()
		w.do(limitTo(1, int64(50), 20*time.Minute, w.in(time.Minute)))
		w.steps(time.Hour)
		var at []time.Duration
		for _, x := range w.wrote {
			if x.address == limitAt && x.value == 50 {
				at = append(at, x.at)
			}
		}
		for i := range at[1:] {
			half := time.Duration(timer) * time.Second / 2
			if pause := at[i+1] - at[i]; pause > half+5*time.Second || pause < half-5*time.Second {
				t.Errorf("with a timer of %d s it was told after %v", timer, pause)
			}
		}
		if want := map[uint16]int{0: 1, 20: 110, 60: 38}[timer]; len(at) < want || len(at) > want+want/10+3 {
			t.Errorf("with a timer of %d s it was told %d times", timer, len(at))
		}
		if w.inForce() != [2]uint16{100, gateOff} {
			t.Errorf("%v is in force in the end", w.inForce())
		}
	}
}

// TestLeasesProperty: whatever happens, a limit ends when it should, and what was
// before all of them comes back.
func TestLeasesProperty(t *testing.T) {
	for seed := range uint64(500) {
		random := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t)
		var log bytes.Buffer
		w.log = &log
		if random.IntN(2) == 0 {
			w.profile = simple()
			w.registers[gateAt] = 9
		}
		found := w.inForce()
		w.start()
		end := w.mono + w.wall // true time at which the last lease is over
		for n := 1; n < 12; n++ {
			lease := time.Duration(1+random.IntN(90)) * time.Minute
			w.engine.Deliver([]command.Command{limitTo(n, int64(1+random.IntN(99)), lease, w.in(10*time.Minute))})
			trouble(w, random)
			w.steps(time.Duration(random.IntN(600)) * time.Second)
			end = max(end, w.mono+w.wall+lease)
			calm(w)
			switch random.IntN(6) {
			case 0:
				w.kill()
				w.start()
			case 1:
				w.reboot(time.Duration(random.IntN(7200)) * time.Second).start()
			case 2:
				w.unknown = !w.unknown
			}
		}
		calm(w)
		w.unknown = random.IntN(2) == 0 && w.boot[0] == 1
		w.steps(max(0, end-w.mono-w.wall) + 15*time.Minute) // a command may wait for 10
		if w.inForce() != found || len(w.engine.Leases()) > 0 {
			t.Fatalf("seed %d: %v is in force, want %v; %+v; told: %s\n%s\n%v", seed, w.inForce(), found, w.engine.Leases(), told(w), &log, w.wrote)
		}
	}
}

// trouble lets requests fail at random.
func trouble(w *world, random *rand.Rand) {
	rate := random.IntN(4) * 15
	w.fate = func(bool, uint16) answer {
		if random.IntN(100) >= rate {
			return good
		}
		return []answer{busy, silentDone, silentUndone, down}[random.IntN(4)]
	}
}

func calm(w *world) { w.fate = func(bool, uint16) answer { return good } }

func told(w *world) string {
	var b strings.Builder
	for _, r := range w.outbox {
		fmt.Fprintf(&b, "\n%d %s %s", int(r.ID[14])<<8|int(r.ID[15]), r.Code, r.Text)
	}
	return b.String()
}
