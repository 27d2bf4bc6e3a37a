//go:build linux

package sim

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"ecowatt"
	"ecowatt/internal/disk/disktest"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/modbus/modbustest"
	"ecowatt/sim/fault"
)

// Times of these tests: an answer that is late comes well after the timeout,
// and before the line would be taken for quiet.
const (
	patience = 500 * time.Millisecond
	calm     = 200 * time.Millisecond
	late     = 620 * time.Millisecond
)

const testKey = "key of the test"

// served is a simulator that is served on every transport.
type served struct {
	*Simulator
	trace          trace
	tcp, rtu, http string
	port           string
}

func serveAll(t *testing.T, o Options) *served {
	t.Helper()
	s := &served{}
	o.Speed, o.HTTPKey, o.Trace = 1e-9, testKey, &s.trace
	s.Simulator = newSimulator(t, o)
	var ends Ends
	listen := func(at *net.Listener) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*at = l
		return l.Addr().String()
	}
	s.tcp, s.rtu, s.http = listen(&ends.TCP), listen(&ends.RTU), "http://"+listen(&ends.HTTP)
	ends.Line, s.port = modbustest.Line(t)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- s.Run(ctx, ends) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

// clients are a client of each transport.
func (s *served) clients(t *testing.T) map[string]modbus.Transport {
	o := modbus.ClientOptions{Timeout: patience, Quiet: calm, Key: testKey}
	all := map[string]modbus.Transport{
		"tcp":    modbus.NewClient(s.tcp, o),
		"rtutcp": modbus.NewRTUClient(s.rtu, o),
		"line":   modbus.NewSerialClient(modbus.Line{Device: s.port, Baud: 115200}, o),
		"http":   modbus.NewHTTPClient(s.http, o),
	}
	for _, c := range all {
		t.Cleanup(func() { c.Close() })
	}
	return all
}

// later lets time pass, so that the values are others.
func (s *served) later() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.site.step(1)
}

// asked are the words of the line of the trace that came last, and its fault.
func (s *served) asked(t *testing.T) traced {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(s.trace.String()), "\n")
	var x traced
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &x); err != nil {
		t.Fatal(err)
	}
	return x
}

// eachTransport runs test for each transport, with a simulator of its own.
func eachTransport(t *testing.T, test func(t *testing.T, s *served, c modbus.Transport)) {
	if testing.Short() {
		t.Skip("takes real time")
	}
	for _, name := range []string{"tcp", "rtutcp", "line", "http"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serveAll(t, Options{Inverters: ours(2)})
			test(t, s, s.clients(t)[name])
		})
	}
}

// order orders a fault for the next request.
func (s *served) order(t *testing.T, r fault.Rule) {
	t.Helper()
	r.Probability, r.Count = 1, 1
	if err := s.Misbehave(r); err != nil {
		t.Fatal(err)
	}
}

// TestFaultsOnEveryTransport: whatever happens to an answer, a client takes what
// was served or reports an error, and the next answer is that of the next
// request, never a former one.
func TestFaultsOnEveryTransport(t *testing.T) {
	eachTransport(t, func(t *testing.T, s *served, c modbus.Transport) {
		well := func(what string) {
			t.Helper()
			s.later()
			got, err := c.Do(t.Context(), all(17))
			if x := s.asked(t); err != nil || x.Fault != "" || !slices.Equal(got, x.Words) {
				t.Errorf("after %s: %v, %v; served were %+v", what, got, err, x)
			}
		}
		well("nothing")
		for _, x := range []struct {
			rule fault.Rule
			want error // nil: the answer is good all the same, or is refused
		}{
			{fault.Rule{Kind: fault.Drop}, modbus.ErrNoAnswer},
			{fault.Rule{Kind: fault.Late, For: late}, modbus.ErrNoAnswer},
			{fault.Rule{Kind: fault.Late, For: patience / 8}, nil}, // slow, but in time
			{fault.Rule{Kind: fault.CRC}, modbus.ErrAnswer},
			{fault.Rule{Kind: fault.Corrupt}, modbus.ErrAnswer},
			{fault.Rule{Kind: fault.Truncate}, modbus.ErrAnswer},
			{fault.Rule{Kind: fault.WrongUnit}, modbus.ErrAnswer},
			{fault.Rule{Kind: fault.Double}, nil},
		} {
			for range 2 {
				s.later()
				s.order(t, x.rule)
				got, err := c.Do(t.Context(), all(17))
				said := s.asked(t)
				if said.Fault != x.rule.Kind.String() {
					t.Errorf("%v is traced as %+v", x.rule.Kind, said)
				}
				switch {
				case err == nil && !slices.Equal(got, said.Words), x.want != nil && err == nil:
					t.Errorf("%v: got %v, served were %v", x.rule.Kind, got, said.Words)
				case x.want == nil && err == nil:
				case errors.Is(err, modbus.ErrAnswer), errors.Is(err, modbus.ErrNoAnswer):
					if x.want == nil && x.rule.Kind != fault.Double {
						t.Errorf("%v: %v", x.rule, err)
					}
				default:
					t.Errorf("%v: %v", x.rule.Kind, err)
				}
				well(x.rule.Kind.String())
			}
		}
		for _, code := range []modbus.ExceptionError{1, 2, 3, 4, 5, 6, 8} {
			s.order(t, fault.Rule{Kind: fault.Exception, Code: byte(code)})
			if got, err := c.Do(t.Context(), all(17)); !errors.Is(err, code) {
				t.Errorf("exception %d: %v, %v", byte(code), got, err)
			}
			well("an exception")
		}
	})
}

// TestLateAnswersDoNotShiftTheNext: an answer that comes after its request was
// given up, but while the next one is due, is for nobody.
func TestLateAnswersDoNotShiftTheNext(t *testing.T) {
	eachTransport(t, func(t *testing.T, s *served, c modbus.Transport) {
		for i := range 4 {
			one := modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: uint16(i), Count: 1}
			s.order(t, fault.Rule{Kind: fault.Late, For: late})
			if got, err := c.Do(t.Context(), one); err == nil {
				t.Errorf("late, but %v", got)
			}
			one.Address = 9 - one.Address
			want, err := s.layouts[0].read(one, page{reading: s.model(0), limit: 100}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := c.Do(t.Context(), one); err != nil || !slices.Equal(got, want) {
				t.Errorf("register %d after a late answer: %v, %v, want %v", one.Address, got, err, want)
			}
		}
	})
}

// TestBusRepeatsWhatIsBusy: 05, 06 and 0B are asked again, 01 to 04 are not.
func TestBusRepeatsWhatIsBusy(t *testing.T) {
	eachTransport(t, func(t *testing.T, s *served, c modbus.Transport) {
		bus := modbus.NewBus(c, modbus.BusOptions{})
		gateway := !strings.Contains(t.Name(), "rtutcp") && !strings.Contains(t.Name(), "line")
		for code, again := range map[byte]bool{1: false, 2: false, 3: false, 4: false, 5: true, 6: true, 11: true} {
			if code == 11 && !gateway {
				continue // on a line there is nobody who could say so
			}
			s.order(t, fault.Rule{Kind: fault.Exception, Code: code})
			before := strings.Count(s.trace.String(), "\n")
			_, err := bus.Do(t.Context(), all(17))
			if asked := strings.Count(s.trace.String(), "\n") - before; (err == nil) != again || (asked == 2) != again {
				t.Errorf("exception %d: asked %d times, %v", code, asked, err)
			}
		}
	})
}

// TestFrozen: a page that stands still is served as it was, and marked.
func TestFrozen(t *testing.T) {
	eachTransport(t, func(t *testing.T, s *served, c modbus.Transport) {
		read := func() []uint16 {
			t.Helper()
			s.later()
			words, err := c.Do(t.Context(), all(17))
			if err != nil {
				t.Fatal(err)
			}
			return words
		}
		before := read()
		if err := s.Misbehave(fault.Rule{Kind: fault.Frozen, Probability: 1, Units: []byte{17}}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if got := read(); !slices.Equal(got, before) || s.asked(t).Fault != "frozen" {
				t.Errorf("frozen: %v, before %v; traced %+v", got, before, s.asked(t))
			}
		}
		s.Behave()
		if got := read(); slices.Equal(got, before) || s.asked(t).Fault != "" {
			t.Errorf("thawed: %v", got)
		}
	})
}

// TestWritesThatDoNotHold: a limit without effect, one that another controller
// undoes, a unit that is deaf after it, and one that does not know function 10.
func TestWritesThatDoNotHold(t *testing.T) {
	eachTransport(t, func(t *testing.T, s *served, c modbus.Transport) {
		write := func(percent uint16, f modbus.Function) error {
			_, err := c.Do(t.Context(), modbus.Request{Unit: 17, Function: f, Address: 8, Values: []uint16{percent}})
			return err
		}
		limited := func(shown uint16, truth float64) {
			t.Helper()
			words, err := c.Do(t.Context(), modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: 8, Count: 1})
			s.mu.Lock()
			now := s.site.plants[0].limit
			s.mu.Unlock()
			if err != nil || words[0] != shown || now != truth {
				t.Errorf("shown %v, %v, in fact %g %%; want %d and %g", words, err, now, shown, truth)
			}
		}
		s.order(t, fault.Rule{Kind: fault.NoEffect})
		if err := write(40, modbus.WriteSingle); err != nil {
			t.Error(err)
		}
		limited(40, 100)
		if err := write(80, modbus.WriteMultiple); err != nil {
			t.Error(err)
		}
		limited(80, 80)

		s.order(t, fault.Rule{Kind: fault.Revert, For: 50 * time.Millisecond})
		if err := write(30, modbus.WriteSingle); err != nil {
			t.Error(err)
		}
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
			if words, err := c.Do(t.Context(), all(17)); err != nil || words[8] == 80 {
				break
			}
		}
		limited(80, 80)

		s.order(t, fault.Rule{Kind: fault.Exception, Code: 1, Functions: []byte{16}})
		if err := write(20, modbus.WriteMultiple); !errors.Is(err, modbus.ErrIllegalFunction) {
			t.Errorf("function 10: %v", err)
		}
		limited(80, 80)

		s.order(t, fault.Rule{Kind: fault.Deaf, For: 100 * time.Millisecond})
		if err := write(60, modbus.WriteSingle); err != nil {
			t.Error(err)
		}
		if _, err := c.Do(t.Context(), all(18)); err != nil {
			t.Errorf("another unit is deaf too: %v", err)
		}
		heard := false
		for end := time.Now().Add(10 * time.Second); !heard && time.Now().Before(end); {
			_, err := c.Do(t.Context(), all(17))
			heard = err == nil
		}
		if !strings.Contains(s.trace.String(), `"address":0,"fault":"deaf"`) {
			t.Error("it heard everything")
		}
		limited(60, 60)
	})
}

// TestAsleep: at night nobody answers, and in the morning it is as before.
func TestAsleep(t *testing.T) {
	eachTransport(t, func(t *testing.T, s *served, c modbus.Transport) {
		if err := s.Misbehave(fault.Rule{Kind: fault.Asleep, Probability: 1}); err != nil {
			t.Fatal(err)
		}
		set := func(awake bool) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.site.weather = still{}
			if awake {
				s.site.weather = still{noon}
			}
			s.site.step(1)
		}
		for _, awake := range []bool{true, false, true} {
			set(awake)
			if _, err := c.Do(t.Context(), all(17)); (err == nil) != awake || err != nil && !errors.Is(err, modbus.ErrNoAnswer) {
				t.Errorf("awake %v: %v", awake, err)
			}
		}
	})
}

// TestOneConnection: an inverter with room for one client turns the second
// away, whichever way that comes, and has room again when the first has gone.
func TestOneConnection(t *testing.T) {
	s := serveAll(t, Options{Connections: 1})
	clients := s.clients(t)
	if _, err := clients["tcp"].Do(t.Context(), all(17)); err != nil {
		t.Fatal(err)
	}
	if _, err := clients["rtutcp"].Do(t.Context(), all(17)); err == nil {
		t.Error("a second connection is answered")
	}
	if _, err := clients["line"].Do(t.Context(), all(17)); err != nil {
		t.Errorf("the line, which is no connection: %v", err)
	}
	if err := clients["tcp"].Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if _, err = clients["rtutcp"].Do(t.Context(), all(17)); err == nil {
			break
		}
	}
	if err != nil {
		t.Errorf("after the first has gone: %v", err)
	}
}

// TestBlockIsDivided: when an inverter refuses one register, an agent comes to
// read all others, and the one is missing.
func TestBlockIsDivided(t *testing.T) {
	eachTransport(t, func(t *testing.T, s *served, c modbus.Transport) {
		if err := s.Misbehave(fault.Rule{Kind: fault.Exception, Code: 2, Addresses: []uint16{7}, Probability: 1}); err != nil {
			t.Fatal(err)
		}
		a := newStation(t, simProfile(t), disktest.New())
		a.add(t, "inv", 17, time.Second, modbus.NewBus(c, modbus.BusOptions{}))
		var last []ecowatt.Value
		for tick := range 20 {
			for _, b := range a.pollers[0].Poll(t.Context(), int64(tick)*1000) {
				last = b.Sample.Values
			}
		}
		want := s.held(t)
		for i, v := range last {
			if v.Valid == (i == 7) || v.Valid && v.Raw != int64(want[i]) {
				t.Errorf("register %d: %+v, holds %d", i, v, want[i])
			}
		}
		if len(last) != 10 {
			t.Errorf("%d values", len(last))
		}
	})
}

// held is what the inverter holds, whatever it says.
func (s *served) held(t *testing.T) []uint16 {
	t.Helper()
	words, err := s.layouts[0].read(all(17), page{reading: s.model(0), limit: 100}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return words
}
