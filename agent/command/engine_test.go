package command_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/agent/command"
)

func TestWritePoint(t *testing.T) {
	w := newWorld(t).start()
	if got := w.do(write(1, "plain", 23.5, w.in(time.Minute))); got != command.CodeDone {
		t.Fatalf("it ended with %s: %v", got, w.outbox)
	}
	if got := w.value(); got != 23.5 {
		t.Errorf("%v was read back", got)
	}
	if got := w.do(write(2, "plain", 23.5, w.in(time.Minute))); got != command.CodeUnchanged {
		t.Errorf("the same again ended with %s", got)
	}
	if got := w.writesOf(plainAt, 235); got != 1 {
		t.Errorf("it was written %d times", got)
	}
}

// TestOutcomes is the table of what can come of a command on an inverter.
func TestOutcomes(t *testing.T) {
	limit := func(w *world) command.Command { return limitTo(1, int64(50), time.Hour, w.in(time.Minute)) }
	onWrite := func(at int, a answer) func(*world) {
		return func(w *world) {
			n := 0
			w.fate = func(write bool, _ uint16) answer {
				if write {
					if n++; n == at {
						return a
					}
				}
				return good
			}
		}
	}
	tests := map[string]struct {
		prepare func(*world)
		command func(*world) command.Command
		want    command.Code
		value   uint16 // of the limit, afterwards
		gate    uint16
		leases  int
	}{
		"done":            {nil, limit, command.CodeDone, 50, gateOn, 1},
		"a fraction":      {nil, func(w *world) command.Command { return limitTo(1, 50.7, time.Hour, w.in(time.Minute)) }, command.CodeDone, 50, gateOn, 1},
		"not allowed":     {func(w *world) { w.allowed = false }, limit, command.CodeControlNotAllowed, 100, gateOff, 0},
		"owner":           {func(w *world) { w.registers[ownerAt] = 0 }, limit, command.CodeRequires, 100, gateOff, 0},
		"deaf":            {func(w *world) { w.deaf = true }, limit, command.CodeNoEffect, 50, gateOn, 1},
		"deaf at night":   {func(w *world) { w.deaf = true; w.registers[ratedAt] = 50000 }, limit, command.CodeDone, 50, gateOn, 1},
		"away":            {func(w *world) { w.fate = func(bool, uint16) answer { return silentUndone } }, limit, command.CodeInverterAway, 100, gateOff, 0},
		"refused":         {onWrite(1, busy), limit, command.CodeRefused, 100, gateOff, 0},
		"line down":       {onWrite(1, down), limit, command.CodeInverterAway, 100, gateOff, 0},
		"gate refused":    {onWrite(2, busy), limit, command.CodeRefused, 100, gateOff, 0},
		"silent, undone":  {onWrite(1, silentUndone), limit, command.CodeNotTaken, 100, gateOff, 0},
		"silent, half":    {onWrite(1, silentDone), limit, command.CodeInterrupted, 100, gateOff, 0},
		"silent, done":    {onWrite(2, silentDone), limit, command.CodeDone, 50, gateOn, 1},
		"late":            {nil, func(w *world) command.Command { return limitTo(1, int64(50), time.Hour, w.in(-1)) }, command.CodeTooLate, 100, gateOff, 0},
		"late, perhaps":   {nil, func(w *world) command.Command { return limitTo(1, int64(50), time.Hour, w.in(50*time.Millisecond)) }, command.CodeTooLate, 100, gateOff, 0},
		"budget":          {func(w *world) { w.budget = -1 }, limit, command.CodeWriteBudget, 100, gateOff, 0},
		"range":           {nil, func(w *world) command.Command { return limitTo(1, int64(0), time.Hour, w.in(time.Minute)) }, command.CodeOutOfRange, 100, gateOff, 0},
		"more than all":   {nil, func(w *world) command.Command { return limitTo(1, int64(101), time.Hour, w.in(time.Minute)) }, command.CodeOutOfRange, 100, gateOff, 0},
		"no lease":        {nil, func(w *world) command.Command { return limitTo(1, int64(50), 0, w.in(time.Minute)) }, command.CodeOutOfRange, 100, gateOff, 0},
		"no power limit":  {func(w *world) { w.profile.Registers = w.profile.Registers[1:] }, limit, command.CodeUnknownPoint, 100, gateOff, 0},
		"unknown point":   {nil, func(w *world) command.Command { return write(1, "other", int64(1), w.in(time.Minute)) }, command.CodeUnknownPoint, 100, gateOff, 0},
		"only read":       {nil, func(w *world) command.Command { return write(1, "pac", int64(1), w.in(time.Minute)) }, command.CodeNotWritable, 100, gateOff, 0},
		"too fine":        {nil, func(w *world) command.Command { return write(1, "plain", 1.23, w.in(time.Minute)) }, command.CodeBadArgument, 100, gateOff, 0},
		"no number":       {nil, func(w *world) command.Command { return write(1, "plain", "1", w.in(time.Minute)) }, command.CodeBadArgument, 100, gateOff, 0},
		"missing":         {nil, func(w *world) command.Command { return write(1, "plain", nil, w.in(time.Minute)) }, command.CodeBadArgument, 100, gateOff, 0},
		"too much":        {nil, func(w *world) command.Command { return write(1, "plain", 100.1, w.in(time.Minute)) }, command.CodeOutOfRange, 100, gateOff, 0},
		"other inverter":  {nil, edited("inverter", "inv2"), command.CodeUnknownInverter, 100, gateOff, 0},
		"other argument":  {nil, edited("force", true), command.CodeBadArgument, 100, gateOff, 0},
		"no such end":     {nil, edited("on_end", "keep"), command.CodeBadArgument, 100, gateOff, 0},
		"unknown action":  {nil, func(w *world) command.Command { c := limit(w); c.Action = "explode"; return c }, command.CodeUnknownAction, 100, gateOff, 0},
		"somebody writes": {func(w *world) { other(w, 33) }, limit, command.CodeOverwritten, 33, gateOn, 0},
		"gone afterwards": {func(w *world) { goneAfterWrite(w) }, limit, command.CodeUnknownOutcome, 50, gateOn, 1},
		"disk full":       {func(w *world) { w.disk.SetCapacity(1) }, limit, command.CodeStorageFailed, 100, gateOff, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if test.prepare != nil {
				test.prepare(w)
			}
			w.start()
			if got := w.do(test.command(w)); got != test.want {
				t.Errorf("it ended with %s, want %s: %v", got, test.want, w.outbox)
			}
			if w.registers[limitAt] != test.value || w.registers[gateAt] != test.gate {
				t.Errorf("the limit is %d, its gate %d", w.registers[limitAt], w.registers[gateAt])
			}
			if got := len(w.engine.Leases()); got != test.leases {
				t.Errorf("there are %d leases, want %d", got, test.leases)
			}
			if n := w.writesOf(limitAt, 50); n > 1 {
				t.Errorf("it was written %d times", n)
			}
		})
	}
}

// edited is a limit with another argument.
func edited(name string, value any) func(*world) command.Command {
	return func(w *world) command.Command {
		c := limitTo(1, int64(50), time.Hour, w.in(time.Minute))
		c.Arguments[name] = value
		return c
	}
}

// other is a controller that writes right after each write to the gate.
func other(w *world, value uint16) {
	gate := false
	w.fate = func(write bool, address uint16) answer {
		if !write && gate {
			w.registers[limitAt] = value
		}
		gate = gate || write && address == gateAt
		return good
	}
}

// goneAfterWrite lets the inverter fall silent for two minutes after the write of
// the gate.
func goneAfterWrite(w *world) {
	var until time.Duration
	w.fate = func(write bool, address uint16) answer {
		if write && address == gateAt && until == 0 {
			until = w.mono + 2*time.Minute
			return good
		}
		if w.mono < until {
			return silentUndone
		}
		return good
	}
}

func TestReadPoints(t *testing.T) {
	w := newWorld(t)
	w.allowed = false // reading is always allowed
	w.start()
	c := command.Command{ID: id(1), Sequence: 1, NotAfter: w.in(time.Hour), Action: command.ReadPoints, Arguments: map[string]any{
		"inverter": "inv1", "points": []any{"plain", "pac"},
	}}
	if got := w.do(c); got != command.CodeDone {
		t.Fatalf("it ended with %s", got)
	}
	if got, want := w.outbox[0].Text, "plain 22.0 V, pac 4000 W"; got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	c.ID, c.Sequence, c.Arguments["points"] = id(2), 2, []any{"plain"}
	if w.do(c); w.value() != 22 {
		t.Errorf("the value is %v", w.value())
	}
	for i, bad := range []any{nil, []any{}, []any{"plain", "plain"}, []any{1}, "plain"} {
		c.ID, c.Sequence, c.Arguments["points"] = id(3+i), uint64(3+i), bad
		if got := w.do(c); got != command.CodeBadArgument {
			t.Errorf("%v ended with %s", bad, got)
		}
	}
}

func TestRestartAgent(t *testing.T) {
	w := newWorld(t).start()
	w.engine.Deliver([]command.Command{{ID: id(1), Sequence: 1, NotAfter: w.in(time.Minute), Action: command.RestartAgent}})
	w.steps(time.Minute)
	if !w.engine.Restart() || len(w.outbox) != 0 {
		t.Fatalf("the agent is to be restarted: %v; told: %v", w.engine.Restart(), w.outbox)
	}
	w.kill()
	w.start()
	w.steps(time.Minute)
	if r, ok := w.last(id(1)); !ok || r.Code != command.CodeDone || w.engine.Restart() {
		t.Errorf("after the restart: %v, again: %v", r, w.engine.Restart())
	}
}

// TestOnce: what is delivered again has no second effect, and is told again once the
// cloud has shown that it does not know.
//
// Attacks: R16
func TestOnce(t *testing.T) {
	w := newWorld(t).start()
	c := write(1, "plain", 23.5, w.in(time.Hour))
	again := func(want int) {
		t.Helper()
		w.do(c, c)
		if len(w.outbox) != want {
			t.Errorf("%d results were told, want %d", len(w.outbox), want)
		}
	}
	again(1)
	again(1) // it is still on its way
	w.settle()
	again(2)
	w.kill()
	w.start()
	again(3)
	w.registers[plainAt] = 1
	again(3)
	if got := w.writesOf(plainAt, 235); got != 1 {
		t.Errorf("it was written %d times", got)
	}
	if fresh := w.engine.Deliver([]command.Command{c, write(2, "plain", 24.5, w.in(time.Hour))}); fresh != 1 {
		t.Errorf("%d commands are new", fresh)
	}
}

func TestOrder(t *testing.T) {
	w := newWorld(t).start()
	w.do(write(3, "plain", 3, w.in(time.Hour)), write(2, "plain", int64(2), w.in(time.Hour)))
	if got := []int{w.writesOf(plainAt, 20), w.writesOf(plainAt, 30)}; !cmp.Equal(got, []int{1, 0}) { // 3 is no int64
		t.Errorf("the writes are %v", got)
	}
	if r, _ := w.last(id(3)); r.Code != command.CodeBadArgument {
		t.Errorf("the later one ended with %s", r.Code)
	}
	if got := w.do(write(1, "plain", int64(1), w.in(time.Hour))); got != command.CodeOutOfOrder {
		t.Errorf("an earlier one ended with %s", got)
	}
	another := write(9, "plain", int64(9), w.in(time.Hour))
	another.Sequence = 3 // of a cloud that was restored and counts anew
	if got := w.do(another); got != command.CodeOutOfOrder || w.writesOf(plainAt, 90) != 0 {
		t.Errorf("another one of the same number ended with %s", got)
	}
}

// TestLostResult: where a command comes again and again although its result was told,
// that was lost on the way, and is told again.
func TestLostResult(t *testing.T) {
	w := newWorld(t).start()
	for range 40 {
		w.do(write(1, "plain", int64(1), w.in(time.Hour)))
	}
	if n := len(w.outbox); n < 2 || n > 4 || w.writesOf(plainAt, 10) != 1 {
		t.Errorf("the result was told %d times, and it was written %d times", n, w.writesOf(plainAt, 10))
	}
}

// TestNotJudged: a limit that the power was below before is not judged by it: what
// comes afterwards may be the sun.
func TestNotJudged(t *testing.T) {
	w := newWorld(t).start()
	w.deaf, w.registers[pacAt] = true, 1000
	if got := w.do(limitTo(1, int64(50), time.Hour, w.in(time.Hour))); got != command.CodeDone {
		t.Errorf("it ended with %s", got)
	}
}

// TestForgotten: of what the cloud has taken the last 64 are told again, and what was
// before them is not begun again either.
func TestForgotten(t *testing.T) {
	w := newWorld(t).start()
	for n := range 70 {
		w.do(write(n+1, "plain", int64(n+1), w.in(time.Hour)))
		w.settle()
	}
	for n, want := range map[int]command.Code{6: command.CodeOutOfOrder, 7: command.CodeDone, 70: command.CodeDone} {
		if got := w.do(write(n, "plain", int64(n), w.in(time.Hour))); got != want || w.writesOf(plainAt, uint16(10*n)) != 1 {
			t.Errorf("command %d is told to have ended with %s, want %s", n, got, want)
		}
	}
}

// TestStarted: where an inverter takes its time to follow, it is told that the command
// is under way, once.
func TestStarted(t *testing.T) {
	w := newWorld(t).start()
	w.do(limitTo(1, int64(50), time.Hour, w.in(time.Hour)))
	w.do(write(2, "plain", int64(2), w.in(time.Hour))) // settles at once
	var got []string
	for _, r := range w.outbox {
		got = append(got, fmt.Sprintf("%d %s %v", r.ID[15], r.Code, r.ExecutedAt != 0))
	}
	if diff := cmp.Diff([]string{"1 started true", "1 done true", "2 done true"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestStepOfTheClock: what was late stays late, whatever the time says afterwards.
//
// Attacks: R17
func TestStepOfTheClock(t *testing.T) {
	for name, step := range map[string]time.Duration{"back": -time.Hour, "ahead": time.Hour} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t).start()
			c := write(1, "plain", int64(1), w.in(time.Minute))
			w.unknown = step < 0 // held up until the clock is stepped
			w.engine.Deliver([]command.Command{c})
			if step < 0 {
				w.unknown = false
				w.engine.Deliver([]command.Command{write(2, "plain", int64(2), w.in(time.Minute))})
			}
			w.mono += 2 * time.Minute
			w.off = step
			w.steps(time.Minute)
			for _, r := range w.outbox {
				if r.ID == id(2) && r.Code != command.CodeTooLate {
					t.Errorf("it ended with %v", r)
				}
			}
			if step > 0 && (len(w.outbox) != 1 || w.outbox[0].Code != command.CodeTooLate) {
				t.Errorf("it ended with %v", w.outbox)
			}
		})
	}
}

func TestUnknownTime(t *testing.T) {
	w := newWorld(t)
	w.unknown = true
	w.start()
	w.engine.Deliver([]command.Command{write(1, "plain", int64(1), w.in(time.Hour))})
	w.steps(time.Minute)
	if len(w.outbox)+len(w.wrote) > 0 {
		t.Fatalf("before the time was known: %v, %v", w.outbox, w.wrote)
	}
	w.unknown = false
	w.steps(time.Minute)
	if r, _ := w.last(id(1)); r.Code != command.CodeDone {
		t.Errorf("it ended with %v", r)
	}
}

func TestBudget(t *testing.T) {
	w := newWorld(t)
	w.budget = 2
	w.start()
	n := 0
	order := func(want command.Code) {
		t.Helper()
		n++
		if got := w.do(limitTo(n, int64(50+n), time.Second, w.in(time.Hour))); got != want {
			t.Errorf("command %d ended with %s, want %s", n, got, want)
		}
	}
	order(command.CodeDone) // and its end is the second write
	order(command.CodeWriteBudget)
	w.kill()
	w.start()
	order(command.CodeWriteBudget)
	w.mono += 24 * time.Hour
	order(command.CodeDone)
}

// TestJournalLost: commands that may have been carried out before the journal was
// lost are not carried out again.
func TestJournalLost(t *testing.T) {
	w := newWorld(t).start()
	c := write(1, "plain", 23.5, w.in(time.Hour))
	w.do(c)
	f, err := w.disk.Create(command.JournalFile, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte("what is this"))
	f.Sync()
	w.kill()
	w.registers[plainAt] = 1
	w.start()
	if got := w.do(c); got != command.CodeUnknownOutcome || w.registers[plainAt] != 1 {
		t.Errorf("it ended with %s", got)
	}
	if got := w.do(write(2, "plain", 24.5, w.in(time.Hour))); got != command.CodeDone {
		t.Errorf("the next one ended with %s", got)
	}
}

// TestBounded: the journal does not grow, and no command is begun that has no room
// in it.
func TestBounded(t *testing.T) {
	w := newWorld(t).start()
	for n := range 300 {
		c := write(n+1, "plain", strings.Repeat("x", 5000), w.in(time.Hour)) // no number
		c.Arguments["inverter"] = strings.Repeat("é", 4000)
		w.do(c)
		w.settle()
	}
	info, err := w.disk.Stat(command.JournalFile)
	if err != nil || info.Size() > 64<<10 {
		t.Errorf("the journal has %d bytes: %v", info.Size(), err)
	}
	var flood []command.Command
	for n := range 300 {
		flood = append(flood, write(n+301, "plain", int64(1), w.in(time.Hour)))
	}
	if fresh := w.engine.Deliver(flood); fresh > 256 || fresh < 100 {
		t.Errorf("%d commands of 300 wait", fresh)
	}
	for _, c := range flood {
		w.engine.Deliver([]command.Command{c})
		w.engine.Step(w.ctx)
	}
	told := len(w.outbox)
	w.engine.Deliver([]command.Command{write(1000, "plain", int64(50), w.in(time.Hour))})
	w.steps(time.Minute)
	if len(w.outbox) != told || w.writesOf(plainAt, 500) != 0 {
		t.Errorf("a command was carried out that has no room: %d, %d, %d", told, len(w.outbox), w.writesOf(plainAt, 500))
	}
	w.settle()
	if got := w.do(write(1000, "plain", int64(50), w.in(time.Hour))); got != command.CodeDone {
		t.Errorf("with room it ended with %s", got)
	}
}

// TestOutboxFull: a result waits until it is taken, also over a restart.
func TestOutboxFull(t *testing.T) {
	w := newWorld(t).start()
	w.refuse = true
	w.engine.Deliver([]command.Command{write(1, "plain", int64(5), w.in(time.Hour))})
	w.steps(time.Minute)
	w.kill()
	w.refuse = false
	w.start()
	w.steps(time.Minute)
	if r, ok := w.last(id(1)); !ok || r.Code != command.CodeDone {
		t.Errorf("it ended with %v", w.outbox)
	}
}
