package command_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"testing"
	"time"

	"ecowatt"
	"ecowatt/agent/command"
	"ecowatt/internal/disk/disktest"
	"ecowatt/inverter"
)

// Registers of the inverter of the tests.
const (
	limitAt, gateAt, ownerAt, timerAt, ratedAt, pacAt, plainAt = 0, 1, 2, 3, 4, 5, 6

	gateOn, gateOff = 1, 0
)

// model is a profile with all that a power limit may need.
func model() inverter.Profile {
	point := func(name, unit string, address uint16) inverter.Register {
		return inverter.Register{Point: ecowatt.Point{Name: name, Unit: unit}, Table: inverter.Holding, Address: address}
	}
	limit := point(command.LimitPoint, "%", limitAt)
	limit.Point.Writable, limit.Point.Min, limit.Point.Max = true, 1, 100
	limit.Control = &inverter.Control{
		Address:  limitAt,
		Gate:     inverter.Gate{Given: true, Place: inverter.Place{Address: gateAt}, On: gateOn, Off: ecowatt.Known(gateOff)},
		Requires: []inverter.Setting{{Place: inverter.Place{Address: ownerAt}, Value: 7}},
		Settle:   3 * time.Second, Proof: "pac", Stored: true,
		Fallback: inverter.Fallback{Given: true, Timer: inverter.Place{Address: timerAt}},
	}
	plain := point("plain", "V", plainAt)
	plain.Point.Writable, plain.Point.Min, plain.Point.Max, plain.Point.Exponent = true, 0, 1000, -1
	return inverter.Profile{
		Name: "model", Unit: 3, Block: 10,
		Registers: []inverter.Register{limit, plain, point("rated_power", "W", ratedAt), point("pac", "W", pacAt)},
	}
}

// simple is a profile of which nothing is known but the registers.
func simple() inverter.Profile {
	p := model()
	p.Name = "simple"
	p.Registers[0].Control = nil
	return p
}

type exceptionError byte

func (e exceptionError) Error() string       { return "exception" }
func (e exceptionError) ExceptionCode() byte { return byte(e) }
func (e exceptionError) NotExecuted() bool   { return e == 2 || e == 6 }

type notSentError struct{}

func (notSentError) Error() string     { return "the line is down" }
func (notSentError) NotExecuted() bool { return true }

var errSilent = errors.New("no answer")

// answer is what an inverter does with one request.
type answer byte

const (
	good         answer = iota
	busy                // it refuses
	silentDone          // it does it, and does not say so
	silentUndone        // it does not do it, nor answer
	down                // it is not reached
)

// world is a gateway, its inverter and its time, all of which may fail.
type world struct {
	t       testing.TB
	disk    *disktest.Disk
	boot    command.ID
	mono    time.Duration
	wall    time.Duration // true time minus mono
	off     time.Duration // what the gateway believes beside that
	unknown bool          // the gateway does not know the time

	profile   inverter.Profile
	allowed   bool
	budget    int
	registers [7]uint16
	deaf      bool // the power does not follow
	fate      func(write bool, address uint16) answer
	wrote     []wrote

	ops   int // requests to the inverter
	cutAt int // power is cut at this one; 0: never
	after bool
	dead  bool

	outbox []command.Result
	refuse bool // the outbox takes nothing
	log    io.Writer

	engine *command.Engine
	ctx    context.Context
	stop   context.CancelFunc
}

// wrote is a write that was carried out.
type wrote struct {
	address, value uint16
	at             time.Duration // true time
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{
		t: tb, disk: disktest.New(), boot: command.ID{1}, mono: time.Hour, wall: 1_700_000_000 * time.Second,
		profile: model(), allowed: true, budget: 100, log: io.Discard,
		fate: func(bool, uint16) answer { return good },
	}
	w.registers = [7]uint16{100, gateOff, 7, 0, 5000, 4000, 220}
	return w
}

// start starts an agent on what is on the disk.
func (w *world) start() *world {
	w.t.Helper()
	w.ctx, w.stop = context.WithCancel(w.t.Context())
	var err error
	w.engine, err = command.Open(command.Options{
		FS: w.disk, Now: w.now, Logger: slog.New(slog.NewTextHandler(w.log, nil)), Pause: w.pause,
		Inverter: func(name string) (command.Inverter, bool) {
			return command.Inverter{Name: "inv1", Unit: 3, Profile: w.profile, Line: w}, name == "inv1"
		},
		Tell: func(r command.Result) error {
			if w.refuse || w.gone() {
				return errors.New("the outbox is full")
			}
			w.outbox = append(w.outbox, r)
			return nil
		},
		Allowed: w.allowed, Budget: w.budget,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return w
}

// restart is power that goes and comes back: the next boot begins after a pause.
func (w *world) reboot(pause time.Duration) *world {
	w.kill()
	w.boot[0]++
	w.wall += w.mono + pause
	w.mono = 10 * time.Second
	w.wall -= w.mono
	return w
}

// kill ends the agent and leaves everything as it is.
func (w *world) kill() {
	if w.stop != nil {
		w.stop()
	}
	w.disk = w.disk.Restart(disktest.Kept)
	w.dead, w.cutAt = false, 0
}

func (w *world) now() command.Moment {
	return command.Moment{Boot: w.boot, Mono: w.mono, Known: !w.unknown, Wall: w.mono + w.wall + w.off, Width: 100 * time.Millisecond}
}

// in is a time from now as the cloud writes it.
func (w *world) in(d time.Duration) int64 { return (w.mono + w.wall + d).Milliseconds() }

// gone reports whether there is no power.
func (w *world) gone() bool {
	if _, err := w.disk.Stat("."); errors.Is(err, disktest.ErrPowerCut) {
		w.dead = true
	}
	return w.dead
}

func (w *world) pause(ctx context.Context, d time.Duration) bool {
	if w.gone() || ctx.Err() != nil {
		return false
	}
	w.mono += d
	w.power()
	return true
}

// power makes the power follow the limit.
func (w *world) power() {
	w.registers[pacAt] = 4000
	gate := w.profile.Registers[0].Control
	if w.deaf || gate != nil && w.registers[gateAt] != gateOn {
		return
	}
	w.registers[pacAt] = uint16(min(4000, 50*int(min(w.registers[limitAt], 100))))
}

// op counts a request; before and after tell on which side of it power is cut.
func (w *world) op() (before, after bool) {
	w.ops++
	if w.ops != w.cutAt {
		return false, false
	}
	return !w.after, w.after
}

func (w *world) Read(ctx context.Context, unit byte, r inverter.Read) ([]uint16, error) {
	if w.gone() || ctx.Err() != nil {
		return nil, errSilent
	}
	if before, after := w.op(); before || after {
		w.die()
		return nil, errSilent
	}
	if unit != 3 {
		w.t.Errorf("unit %d was read", unit)
	}
	w.mono += 20 * time.Millisecond
	switch w.fate(false, r.Address) {
	case busy:
		return nil, exceptionError(6)
	case silentDone, silentUndone:
		w.mono += 3 * time.Second
		return nil, errSilent
	case down:
		return nil, notSentError{}
	case good:
	}
	return append([]uint16(nil), w.registers[r.Address:r.Address+r.Count]...), nil
}

func (w *world) Write(ctx context.Context, unit byte, x inverter.Write) error {
	if w.gone() || ctx.Err() != nil {
		return notSentError{}
	}
	before, after := w.op()
	if before {
		w.die()
		return errSilent
	}
	if unit != 3 || len(x.Values) != 1 {
		w.t.Errorf("%v was written to unit %d", x, unit)
	}
	w.mono += 20 * time.Millisecond
	does := w.fate(true, x.Address)
	if does == good || does == silentDone {
		w.registers[x.Address] = x.Values[0]
		w.wrote = append(w.wrote, wrote{x.Address, x.Values[0], w.mono + w.wall})
		w.power()
	}
	if after {
		w.die()
		return errSilent
	}
	switch does {
	case busy:
		return exceptionError(6)
	case silentDone, silentUndone:
		w.mono += 3 * time.Second
		return errSilent
	case down:
		return notSentError{}
	case good:
	}
	return nil
}

// die cuts power.
func (w *world) die() {
	w.dead = true
	w.stop()
}

// writesOf counts the writes of a value to a register.
func (w *world) writesOf(address, value uint16) (n int) {
	for _, x := range w.wrote {
		if x.address == address && x.value == value {
			n++
		}
	}
	return n
}

// steps lets the agent work for so long.
func (w *world) steps(d time.Duration) {
	for end := w.mono + d; ; {
		wait := w.engine.Step(w.ctx)
		if w.gone() || w.ctx.Err() != nil || w.mono+wait > end {
			w.mono = max(w.mono, end)
			return
		}
		w.mono += max(wait, time.Millisecond)
	}
}

// last is the last result that was told of a command.
func (w *world) last(id command.ID) (r command.Result, ok bool) {
	for _, x := range w.outbox {
		if x.ID == id {
			r, ok = x, true
		}
	}
	return r, ok
}

// settle is the cloud taking all results.
func (w *world) settle() {
	for _, r := range w.outbox {
		if r.Status() != command.Executing {
			w.engine.Settled(r.ID)
		}
	}
}

func id(n int) command.ID { return command.ID{15: byte(n), 14: byte(n >> 8), 0: 0xc0} }

func limitTo(n int, percent any, lease time.Duration, notAfter int64) command.Command {
	return command.Command{ID: id(n), Sequence: uint64(n), NotAfter: notAfter, Action: command.SetPowerLimit, Arguments: map[string]any{
		"inverter": "inv1", "percent": percent, "lease_s": int64(lease / time.Second),
	}}
}

func write(n int, point string, value any, notAfter int64) command.Command {
	return command.Command{ID: id(n), Sequence: uint64(n), NotAfter: notAfter, Action: command.WritePoint, Arguments: map[string]any{
		"inverter": "inv1", "point": point, "value": value,
	}}
}

// do delivers commands, lets them end, and returns the code of the last one.
func (w *world) do(commands ...command.Command) command.Code {
	w.t.Helper()
	w.engine.Deliver(commands)
	w.steps(time.Minute)
	r, ok := w.last(commands[len(commands)-1].ID)
	if !ok {
		w.t.Fatal("nothing was told of the command")
	}
	return r.Code
}

func (w *world) value() float64 {
	r := w.outbox[len(w.outbox)-1]
	if r.Value == nil {
		return math.NaN()
	}
	return float64(r.Value.Raw) * math.Pow10(r.Value.Exponent)
}
