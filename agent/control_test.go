package agent

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/agent/command"
	"ecowatt/inverter"
	"ecowatt/wire"
)

// Write takes what is written, as an inverter does that nobody asks afterwards.
func (p *plant) Write(context.Context, byte, inverter.Write) error { return nil }

// limited is an inverter whose limit can be written and read back.
type limited struct {
	*plant
	limit  uint16
	writes int
	at     time.Time // of the last one
}

func (l *limited) Read(ctx context.Context, unit byte, r inverter.Read) ([]uint16, error) {
	if r.Address == 8 && r.Count == 1 {
		return []uint16{l.limit}, nil
	}
	return l.plant.Read(ctx, unit, r)
}

func (l *limited) Write(_ context.Context, _ byte, w inverter.Write) error {
	if w.Address == 8 {
		l.limit, l.writes, l.at = w.Values[0], l.writes+1, time.Now()
	}
	return nil
}

// newLimited is a rig with such an inverter, whose gateway knows the time.
func newLimited(t *testing.T) (*rig, *limited) {
	t.Helper()
	r := newRig(t, func(s *Settings) { s.AllowControl = true })
	in := &limited{plant: r.plant, limit: 100}
	r.parts.inverters = func(InverterSettings) command.Line { return in }
	r.start()
	r.runFor(16 * time.Minute)
	return r, in
}

// orders makes the cloud wait for the result of a limit.
func (c *cloud) orders(n byte, percent int, lease time.Duration, notAfter time.Time) {
	c.locked(func() {
		c.commands = append(c.commands, wire.Command{
			ID: wire.CommandID{n}, Sequence: uint64(n), NotAfter: notAfter.UnixMilli(), Action: command.SetPowerLimit,
			Arguments: map[string]any{"inverter": "inv1", "percent": percent, "lease_s": int64(lease / time.Second), "on_end": "restore"},
		})
	})
}

// ends returns what was told of commands, "1 succeeded done" each.
func (c *cloud) ends() (ends []string) {
	c.locked(func() {
		for _, r := range c.results {
			ends = append(ends, fmt.Sprintf("%d %s %s", r.ID[0], r.Status, r.Code))
		}
	})
	return ends
}

// TestCommand: a command is carried out once, its result goes up at once, and the
// limit ends without the cloud.
func TestCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, in := newLimited(t)
		defer func() { r.stop() }()
		r.cloud.orders(1, 40, time.Hour, time.Now().Add(time.Hour))
		r.runFor(15 * time.Minute)
		if diff := cmp.Diff([]string{"1 succeeded done"}, r.cloud.ends()); diff != "" || in.limit != 40 {
			t.Fatalf("the limit is %d; %s", in.limit, diff)
		}
		if s := r.status(); len(s.Leases) != 1 || !s.Leases[0].InForce || s.Leases[0].Percent != 40 {
			t.Errorf("leases %+v", s.Leases)
		}
		r.cloud.setAway(true)
		r.runFor(time.Hour)
		if in.limit != 100 || len(r.status().Leases) != 0 {
			t.Errorf("after its time the limit is %d", in.limit)
		}
	})
}

// TestOrdersFromThePast: a cloud that was restored from a backup orders again what
// was carried out, and somebody on the way has held an order back until its time was
// over. Nothing is written for either; the device says what is so.
//
// Attacks: R16, R17
func TestOrdersFromThePast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, in := newLimited(t)
		defer func() { r.stop() }()
		deadline := time.Now().Add(10 * time.Hour)
		want := []string{"1 succeeded done"}
		for round := range 3 {
			r.cloud.orders(1, 40, 20*time.Minute, deadline)
			r.runFor(45 * time.Minute)
			if diff := cmp.Diff(want, r.cloud.ends()); diff != "" || in.writes != 2 || in.limit != 100 {
				t.Fatalf("round %d: %d writes, the limit is %d; %s", round, in.writes, in.limit, diff)
			}
			want = append(want, want[0])
			if round == 1 {
				r.restart()
			}
		}
		late := time.Now().Add(10 * time.Minute)
		r.cloud.setAway(true)
		r.cloud.orders(2, 30, time.Hour, late)
		r.runFor(20 * time.Minute)
		r.cloud.setAway(false)
		r.runFor(30 * time.Minute)
		if ends := r.cloud.ends(); in.writes != 2 || ends[len(ends)-1] != "2 expired too_late" {
			t.Errorf("%d writes; %q", in.writes, ends)
		}
	})
}

// TestLeaseWhateverTheTime: the cloud's clock, and with it the device's, is stepped
// while a limit is in force. It ends when its time is over all the same, also in an
// agent that was started since.
func TestLeaseWhateverTheTime(t *testing.T) {
	for _, step := range []time.Duration{-100 * time.Hour, -10 * time.Minute, 10 * time.Minute, 100 * time.Hour} {
		for _, restarted := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				r, in := newLimited(t)
				defer func() { r.stop() }()
				r.cloud.orders(1, 40, 2*time.Hour, time.Now().Add(time.Hour))
				r.runFor(30 * time.Minute)
				began := in.at
				if in.limit != 40 {
					t.Fatalf("the limit is %d", in.limit)
				}
				r.cloud.locked(func() { r.cloud.time = func() time.Time { return time.Now().Add(step) } })
				r.runFor(45 * time.Minute)
				if r.cloud.codes()["CLK_STEP"] == 0 {
					t.Error("the device has not noticed the step")
				}
				if restarted {
					r.restart()
				}
				r.runFor(2 * time.Hour)
				if took := in.at.Sub(began); in.limit != 100 || in.writes != 2 || took < 2*time.Hour || took > 2*time.Hour+time.Minute {
					t.Errorf("a step by %v, restarted: %v: the limit is %d after %v and %d writes", step, restarted, in.limit, took, in.writes)
				}
			})
		}
	}
}

// TestBusy: from the moment in which a command has come nobody listens for long.
func TestBusy(t *testing.T) {
	c := &control{mail: make(chan struct{}, 1)}
	c.deliver(nil, [][16]byte{{1}})
	if c.isBusy() {
		t.Error("busy without a command")
	}
	c.deliver([]wire.Command{{ID: wire.CommandID{1}}}, nil)
	c.deliver(nil, nil)
	if !c.isBusy() {
		t.Error("not busy before the engine has looked at the command")
	}
}

// TestListening is the table of what becomes of a held request.
func TestListening(t *testing.T) {
	const now, next = time.Hour, time.Hour + 10*time.Minute
	l := listening{most: 20 * time.Second}
	ask := func(l listening, at time.Duration, busy bool) [2]time.Duration {
		hold, wait := l.ask(at, next, busy)
		return [2]time.Duration{hold, wait}
	}
	held := l.answered(now, 20*time.Second, 20*time.Second, heard{})
	early := l.answered(now, 20*time.Second, time.Second, heard{})
	news := l.answered(now, 20*time.Second, time.Second, heard{says: true, mark: "a"})
	again := news.answered(now, 20*time.Second, time.Second, heard{says: true, mark: "a"})
	failed := l.failed(now)
	for _, c := range []struct {
		name string
		got  [2]time.Duration
		want [2]time.Duration
	}{
		{"never", ask(listening{}, now, false), [2]time.Duration{0, next - now}},
		{"long", ask(l, now, false), [2]time.Duration{20 * time.Second, 0}},
		{"busy", ask(l, now, true), [2]time.Duration{time.Second, 0}},
		{"before a slot", ask(l, next-5*time.Second, false), [2]time.Duration{4 * time.Second, 0}},
		{"right before a slot", ask(l, next-time.Second, false), [2]time.Duration{0, time.Second}},
		{"held", ask(held, now+pace, false), [2]time.Duration{20 * time.Second, 0}},
		{"not held", ask(early, now+time.Minute, false), [2]time.Duration{0, next - now - time.Minute}},
		{"news", ask(news, now, false), [2]time.Duration{0, pace}},
		{"the same again", ask(again, now, false), [2]time.Duration{0, 2 * pace}},
		{"failed", ask(failed, now, false), [2]time.Duration{0, time.Minute}},
		{"failed twice", ask(failed.failed(now), now, false), [2]time.Duration{0, 2 * time.Minute}},
	} {
		if c.got != c.want {
			t.Errorf("%s: held for and asked again after %v, want %v", c.name, c.got, c.want)
		}
	}
}

// Write takes what is written.
func (*teller) Write(context.Context, byte, inverter.Write) error { return nil }
