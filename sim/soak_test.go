package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ecowatt"
	"ecowatt/agent/acquire"
	"ecowatt/agent/buffer"
	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/sim/fault"
)

// pipes is a listener of connections within the program.
type pipes struct {
	conns chan net.Conn
	ended chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), ended: make(chan struct{})} }

func (p *pipes) dial(ctx context.Context, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.ended:
		return nil, errors.New("refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.ended) })
	return nil
}

func (*pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// busSource reads through a bus, as the agent does.
type busSource struct{ bus *modbus.Bus }

func (b busSource) Read(ctx context.Context, unit byte, r inverter.Read) ([]uint16, error) {
	return b.bus.Do(ctx, modbus.Request{Unit: unit, Function: modbus.Function(r.Table), Address: r.Address, Count: r.Count})
}

// station is a part of an agent: pollers, the buses they read through, and the
// buffer they fill.
type station struct {
	mu      sync.Mutex // guards buffer
	buffer  *buffer.Buffer
	profile inverter.Profile
	began   time.Time
	pollers []*acquire.Poller
	polls   []int // by poller
}

func newStation(tb testing.TB, p inverter.Profile, fs disk.FS) *station {
	tb.Helper()
	b, err := buffer.Open(buffer.Options{FS: fs, MaxRun: 500, FlushInterval: 10 * time.Second})
	if err != nil {
		tb.Fatal(err)
	}
	return &station{buffer: b, profile: p, began: time.Now()}
}

// add adds a poller of an inverter, which is read through bus.
func (a *station) add(tb testing.TB, name string, unit byte, every time.Duration, bus *modbus.Bus) {
	tb.Helper()
	p, err := acquire.New(acquire.Inverter{
		Name: name, Unit: unit, Profile: a.profile, Points: a.profile.PointNames(), Interval: every,
	}, busSource{bus}, slog.New(slog.DiscardHandler), 0)
	if err != nil {
		tb.Fatal(err)
	}
	a.pollers = append(a.pollers, p)
	a.polls = append(a.polls, 0)
}

// now is the time in ms on the station's clock.
func (a *station) now() int64 { return time.Since(a.began).Milliseconds() }

// poll polls inverter i once and keeps the sample, if there is one.
func (a *station) poll(ctx context.Context, i int) error {
	a.polls[i]++
	batches := a.pollers[i].Poll(ctx, a.now())
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range batches {
		reading := buffer.Reading{Inverter: a.pollers[i].Status().Name, Points: b.Points, Sample: b.Sample}
		if err := a.buffer.Add(reading, time.Duration(a.now())*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// run polls inverter i until ctx ends.
func (a *station) run(ctx context.Context, i int) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(a.pollers[i].Next(a.now())):
		}
		if err := a.poll(ctx, i); err != nil {
			return err
		}
	}
}

// stored are the samples in the buffer, by inverter.
func (a *station) stored(t *testing.T) map[string][]ecowatt.Sample {
	t.Helper()
	all := map[string][]ecowatt.Sample{}
	n := 0
	left, err := a.buffer.Pack(math.MaxInt64, func(r buffer.Run, emit func(buffer.Message, int) error) error {
		all[r.Inverter] = append(all[r.Inverter], r.Samples...)
		n++
		return emit(buffer.Message{ID: [16]byte{byte(n), byte(n >> 8), 1}, Body: []byte{1}}, len(r.Samples))
	})
	if left || err != nil {
		t.Fatal(left, err)
	}
	return all
}

// soakScript has every fault that a reader can meet, for five hours into the
// night, and then none for the last one.
const soakScript = `
{"fault": "late", "for": "4s", "to": "5h", "probability": 0.02}
{"fault": "late", "for": "900ms", "to": "5h", "probability": 0.03}
{"fault": "late", "for": "65s", "from": "1h", "to": "5h", "probability": 0.001}
{"fault": "crc", "to": "5h", "probability": 0.02}
{"fault": "corrupt", "to": "5h", "probability": 0.02}
{"fault": "truncate", "to": "5h", "probability": 0.02}
{"fault": "double", "to": "5h", "probability": 0.02}
{"fault": "wrong_unit", "to": "5h", "probability": 0.02}
{"fault": "drop", "to": "5h", "probability": 0.02}
{"fault": "lost", "to": "5h", "probability": 0.01}
{"fault": "asleep", "to": "5h"}
{"fault": "one_client", "to": "5h", "probability": 0.2}
{"fault": "exception", "code": 6, "to": "5h", "probability": 0.03}
{"fault": "exception", "code": 4, "to": "5h", "probability": 0.02}
{"fault": "exception", "code": 2, "to": "5h", "probability": 0.005}
{"fault": "exception", "code": 11, "to": "5h", "probability": 0.005}
{"fault": "frozen", "from": "2h", "to": "2h10m", "units": [17]}
{"fault": "drop", "from": "3h", "to": "3h20m", "units": [18]}
{"fault": "drop", "from": "4h", "to": "4h5m"}
`

// TestSoak is six hours of four inverters, two on Modbus TCP and two on a line
// of RTU frames, with every fault there is. In the end, all that is stored has
// been served, in that moment and to the bit; all that was served well is stored,
// unless a fault stood shortly before it; every poll is accounted for; and when
// the faults are over, nothing is missing any more.
func TestSoak(t *testing.T) {
	synctest.Test(t, soak)
}

const (
	soakFor   = 6 * time.Hour
	soakEvery = 5 * time.Second
	soakCalm  = 5 * time.Hour // when the faults are over
)

func soak(t *testing.T) {
	rules, err := fault.ParseScript([]byte(soakScript))
	if err != nil {
		t.Fatal(err)
	}
	var log trace
	s := newSimulator(t, Options{Inverters: ours(4), Faults: rules, Seed: 1, Trace: &log, Start: clock(13.5)})
	tcp, rtu := newPipes(), newPipes()
	ctx, cancel := context.WithTimeout(t.Context(), soakFor)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.Run(ctx, Ends{TCP: tcp, RTU: rtu}); err != nil {
			t.Error(err)
		}
	})
	a := newStation(t, simProfile(t), disktest.New())
	buses := []*modbus.Bus{
		modbus.NewBus(modbus.NewClient("", modbus.ClientOptions{Dial: tcp.dial}), modbus.BusOptions{}),
		modbus.NewBus(modbus.NewRTUClient("", modbus.ClientOptions{Dial: rtu.dial, Timeout: time.Second}), modbus.BusOptions{}),
	}
	for i := range 4 {
		a.add(t, fmt.Sprint("inv", i), byte(17+i), soakEvery, buses[i/2])
	}
	for i := range 4 {
		running.Go(func() {
			if err := a.run(ctx, i); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	for _, b := range buses {
		b.Close()
	}
	stored := a.stored(t)
	lines := parseTrace(t, log.String(), a.began)
	for i := range a.pollers {
		a.account(t, i, lines, stored[fmt.Sprint("inv", i)])
	}
}

// servedLine is a line of the trace; At is on the station's clock.
type servedLine struct {
	traced
	At int64
}

func parseTrace(t *testing.T, text string, began time.Time) (lines []servedLine) {
	t.Helper()
	for text := range strings.Lines(text) {
		var x traced
		if err := json.Unmarshal([]byte(text), &x); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, servedLine{x, x.T - began.UnixMilli()})
	}
	return lines
}

// account compares what is stored of inverter i with what was served.
func (a *station) account(t *testing.T, i int, lines []servedLine, stored []ecowatt.Sample) {
	unit, every := byte(17+i), soakEvery.Milliseconds()
	byTick := map[int64][]servedLine{} // by tick: what was served of the unit from then on to the next
	faults := 0
	for _, x := range lines {
		if x.Fault != "" && x.Unit == unit {
			faults++
		}
		if x.Unit == unit {
			byTick[(x.At+50)/every] = append(byTick[(x.At+50)/every], x)
		}
	}
	kept := map[int64]bool{}
	calm := 0
	for _, s := range stored {
		tick := (s.At + 50) / every
		kept[tick] = true
		if s.At >= soakCalm.Milliseconds()+120_000 {
			calm++
			if slices.ContainsFunc(s.Values, func(v ecowatt.Value) bool { return !v.Valid }) {
				t.Errorf("unit %d: not all is there at %d ms, after the faults: %v", unit, s.At, s.Values)
			}
		}
		served := slices.Concat(byTick[tick], byTick[tick+1], byTick[tick+2])
		if point := a.invented(s, served); point != "" {
			t.Errorf("unit %d: %s stored at %d ms, but never served: %v; served %+v", unit, point, s.At, s.Values, served)
		}
	}
	lost := 0
	for _, x := range lines {
		tick := (x.At + 50) / every
		if x.Unit != unit || x.Fault != "" || kept[tick] || kept[tick-1] || x.At > soakFor.Milliseconds()-every {
			continue
		}
		lost++
		if !slices.ContainsFunc(lines, func(y servedLine) bool { return y.Fault != "" && y.At <= x.At && y.At > x.At-90_000 }) {
			t.Errorf("unit %d: served at %d ms and not stored, without a fault before it: %v", unit, x.At, x.Words)
		}
	}
	status := a.pollers[i].Status()
	if got := int(status.Samples); got != len(stored) {
		t.Errorf("unit %d: %d samples taken, %d stored", unit, got, len(stored))
	}
	want := int((soakFor-soakCalm).Milliseconds()-120_000) / int(every)
	if calm < want-1 {
		t.Errorf("unit %d: %d samples after the faults, want %d", unit, calm, want)
	}
	if faults < 200 || len(stored) < 2500 {
		t.Errorf("unit %d: %d faults, %d samples", unit, faults, len(stored))
	}
	t.Logf("unit %d: %d polls, %d samples, %d retries, %d skipped; %d faults, %d answers lost behind them",
		unit, a.polls[i], len(stored), status.Retries, status.Skipped, faults, lost)
}

// invented is a point of a sample that no line accounts for; empty if there is
// none. A line accounts for the registers that it has if its frame reached the
// reader unspoilt, and the sample has its very words for all of them: those of
// one moment stay together.
func (a *station) invented(s ecowatt.Sample, served []servedLine) string {
	whole := []string{"", fault.Late.String(), fault.Double.String(), fault.Frozen.String()}
	proven := make([]bool, len(s.Values))
	for _, x := range served {
		if !slices.Contains(whole, x.Fault) {
			continue
		}
		var has []int
		all := true
		for i, r := range a.profile.Registers {
			at := int(r.Address) - int(x.Address)
			if at < 0 || at >= len(x.Words) {
				continue
			}
			raw, err := r.Decode(x.Words[at : at+1])
			all = all && err == nil && s.Values[i] == ecowatt.Known(raw)
			has = append(has, i)
		}
		for _, i := range has {
			proven[i] = proven[i] || all
		}
	}
	for i, v := range s.Values {
		if v.Valid && !proven[i] {
			return a.profile.Registers[i].Point.Name
		}
	}
	return ""
}
