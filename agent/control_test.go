package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"ecowatt/agent/command"
	"ecowatt/inverter"
	"ecowatt/wire"
)

// Write takes what is written, as an inverter does that nobody asks afterwards.
func (p *plant) Write(context.Context, byte, inverter.Write) error { return nil }

// limited is an inverter whose limit can be written and read back.
type limited struct {
	*plant
	limit uint16
}

func (l *limited) Read(ctx context.Context, unit byte, r inverter.Read) ([]uint16, error) {
	if r.Address == 8 && r.Count == 1 {
		return []uint16{l.limit}, nil
	}
	return l.plant.Read(ctx, unit, r)
}

func (l *limited) Write(_ context.Context, _ byte, w inverter.Write) error {
	if w.Address == 8 {
		l.limit = w.Values[0]
	}
	return nil
}

// TestCommand: a command is carried out once, its result goes up at once, and the
// limit ends without the cloud.
func TestCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(s *Settings) { s.AllowControl = true })
		in := &limited{plant: r.plant, limit: 100}
		r.parts.inverters = func(InverterSettings) command.Line { return in }
		r.start()
		defer func() { r.stop() }()
		r.runFor(16 * time.Minute)
		r.cloud.mu.Lock()
		r.cloud.commands = []wire.Command{{
			ID: wire.CommandID{1}, Sequence: 1, NotAfter: time.Now().Add(time.Hour).UnixMilli(), Action: command.SetPowerLimit,
			Arguments: map[string]any{"inverter": "inv1", "percent": 40, "lease_s": 3600, "on_end": "restore"},
		}}
		r.cloud.mu.Unlock()
		r.runFor(15 * time.Minute)
		r.cloud.mu.Lock()
		results := r.cloud.results
		r.cloud.mu.Unlock()
		if len(results) != 1 || results[0].Status != wire.CommandSucceeded || in.limit != 40 {
			t.Fatalf("the limit is %d; results: %+v", in.limit, results)
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
