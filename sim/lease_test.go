package sim

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ecowatt/agent/command"
	"ecowatt/internal/disk/disktest"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/sim/fault"
)

// busLine is how the agent's commands reach inverters.
type busLine struct{ busSource }

func (b busLine) Write(ctx context.Context, unit byte, w inverter.Write) error {
	f := modbus.WriteSingle
	if w.Multiple {
		f = modbus.WriteMultiple
	}
	_, err := b.bus.Do(ctx, modbus.Request{Unit: unit, Function: f, Address: w.Address, Values: w.Values})
	return err
}

// operated is an inverter with SunSpec at noon, the commands of a gateway, and
// what it says to the cloud.
type operated struct {
	*Simulator
	t       *testing.T
	disk    *disktest.Disk
	profile inverter.Profile
	bus     *modbus.Bus
	engine  *command.Engine
	results map[command.ID]command.Code
	log     trace
	began   time.Time
}

// operate runs test with one that is reached by each transport that needs no
// kernel.
func operate(t *testing.T, test func(o *operated)) {
	for _, transport := range []string{"tcp", "rtutcp", "http"} {
		t.Run(transport, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := New(Options{Inverters: []Inverter{{Unit: 1, SunSpec: SunSpec{Base: 40000}}}, Weather: still{noon}, Start: clock(12), HTTPKey: testKeyOfLeases})
				if err != nil {
					t.Fatal(err)
				}
				pipes := newPipes()
				o := modbus.ClientOptions{Dial: pipes.dial, Key: testKeyOfLeases}
				var ends Ends
				var client modbus.Transport
				switch transport {
				case "tcp":
					ends.TCP, client = pipes, modbus.NewClient("", o)
				case "rtutcp":
					ends.RTU, client = pipes, modbus.NewRTUClient("", o)
				case "http":
					ends.HTTP, client = pipes, modbus.NewHTTPClient("http://inverter", o)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var running sync.WaitGroup
				running.Go(func() {
					if err := s.Run(ctx, ends); err != nil {
						t.Error(err)
					}
				})
				defer running.Wait()
				defer cancel()
				x := &operated{Simulator: s, t: t, disk: disktest.New(), bus: modbus.NewBus(client, modbus.BusOptions{}), results: map[command.ID]command.Code{}, began: time.Now().Add(-time.Hour)}
				defer x.bus.Close()
				_, x.profile = discovered(t, x.bus.Do, 1)
				x.start()
				test(x)
			})
		})
	}
}

const testKeyOfLeases = "key of the leases"

// start starts the gateway on what is on its disk.
func (o *operated) start() {
	o.t.Helper()
	var err error
	o.engine, err = command.Open(command.Options{
		FS: o.disk, Logger: slog.New(slog.NewTextHandler(&o.log, nil)), Allowed: true,
		Now: func() command.Moment {
			return command.Moment{Boot: command.ID{1}, Mono: time.Since(o.began), Known: true, Wall: time.Duration(time.Now().UnixNano())}
		},
		Pause: func(ctx context.Context, d time.Duration) bool { time.Sleep(d); return ctx.Err() == nil },
		Inverter: func(string) (command.Inverter, bool) {
			return command.Inverter{Name: "roof", Unit: 1, Profile: o.profile, Line: busLine{busSource{o.bus}}}, true
		},
		Tell: func(r command.Result) error { o.results[r.ID] = r.Code; return nil },
	})
	if err != nil {
		o.t.Fatal(err)
	}
}

// work lets the gateway work for so long.
func (o *operated) work(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(max(time.Millisecond, min(o.engine.Step(o.t.Context()), time.Until(end))))
	}
}

// limit lends a limit, and returns what became of the command.
func (o *operated) limit(id byte, percent int64, lease time.Duration) command.Code {
	o.engine.Deliver([]command.Command{{
		ID: command.ID{id}, Sequence: uint64(id), NotAfter: time.Now().Add(time.Minute).UnixMilli(), Action: command.SetPowerLimit,
		Arguments: map[string]any{"inverter": "roof", "percent": percent, "lease_s": int64(lease / time.Second)},
	}})
	o.work(time.Minute)
	return o.results[command.ID{id}]
}

// wants checks the limit that is in force, and that the power keeps to it.
func (o *operated) wants(when string, percent float64) {
	o.t.Helper()
	d := o.Inverters()[0]
	if d.InForce != percent || d.PowerW > 50*percent+1 {
		o.t.Errorf("%s: %+v, want %g %%", when, d, percent)
	}
}

// set writes a register as its owner does, around the gateway.
func (o *operated) set(offset, word uint16) {
	o.t.Helper()
	r, _ := o.profile.Register(limitPoint)
	if _, err := o.Handle(o.t.Context(), modbus.Request{Unit: 1, Function: modbus.WriteSingle, Address: r.Address + offset, Values: []uint16{word}}); err != nil {
		o.t.Fatal(err)
	}
}

// Where words of model 123 stand behind the limit.
const timerOffset, enableOffset = 2, 4

// TestLease: a limit that is lent ends in time, also when the gateway was
// started again, and then there is what was there before.
func TestLease(t *testing.T) {
	operate(t, func(o *operated) {
		o.set(0, 8000)
		o.set(enableOffset, 1)
		if code := o.limit(1, 40, 10*time.Minute); code != command.CodeDone {
			t.Errorf("it ended with %q", code)
		}
		o.wants("lent", 40)
		o.disk = o.disk.Restart(disktest.Kept)
		o.start()
		o.work(8 * time.Minute)
		o.wants("started again", 40)
		o.work(2 * time.Minute)
		o.wants("over", 80)
	})
}

// TestLimitWithoutEffect: a limit that is taken, can be read back and does
// nothing is not told as done.
func TestLimitWithoutEffect(t *testing.T) {
	operate(t, func(o *operated) {
		if err := o.Misbehave(fault.Rule{Kind: fault.NoEffect, Probability: 1}); err != nil {
			t.Fatal(err)
		}
		if code := o.limit(1, 40, 10*time.Minute); code != command.CodeNoEffect {
			t.Errorf("it ended with %q", code)
		}
	})
}

// TestAnotherController: who else writes the limit is told of once, and not
// fought.
func TestAnotherController(t *testing.T) {
	operate(t, func(o *operated) {
		o.set(0, 9000)
		o.set(enableOffset, 1)
		if err := o.Misbehave(fault.Rule{Kind: fault.Revert, For: 2 * time.Minute, Probability: 1, Count: 1}); err != nil {
			t.Fatal(err)
		}
		if code := o.limit(1, 40, 2*time.Hour); code != command.CodeDone {
			t.Errorf("it ended with %q", code)
		}
		o.wants("lent", 40)
		o.work(time.Hour)
		o.wants("overwritten", 90)
		if n := strings.Count(o.log.String(), "code=lease_overwritten"); n != 1 {
			t.Errorf("told of %d times", n)
		}
	})
}

// TestTimerOfTheInverter: a limit is kept up while there is a gateway, and falls
// back by itself when there is none any more.
func TestTimerOfTheInverter(t *testing.T) {
	operate(t, func(o *operated) {
		o.set(timerOffset, 60)
		if code := o.limit(1, 40, 2*time.Hour); code != command.CodeDone {
			t.Errorf("it ended with %q", code)
		}
		o.work(30 * time.Minute)
		o.wants("kept up", 40)
		if err := o.Misbehave(fault.Rule{Kind: fault.Lost, Probability: 1}); err != nil {
			t.Fatal(err)
		}
		o.work(2 * time.Minute)
		o.wants("cut off", 100)
	})
}
