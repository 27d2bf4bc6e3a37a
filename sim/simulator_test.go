package sim

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
)

func simProfile(tb testing.TB) inverter.Profile {
	tb.Helper()
	p, err := profile.Find("ecowatt-sim")
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// ours are n inverters with the original simulator's map.
func ours(n int) []Inverter {
	p, err := profile.Find("ecowatt-sim")
	if err != nil {
		panic(err)
	}
	all, err := Row(Inverter{Unit: p.Unit, Profile: p}, n)
	if err != nil {
		panic(err)
	}
	return all
}

// one is one inverter with the map of p.
func one(p inverter.Profile) []Inverter { return []Inverter{{Unit: p.Unit, Profile: p}} }

// newSimulator is one with o, which stands still, at 10:30 unless o says when.
func newSimulator(tb testing.TB, o Options) *Simulator {
	tb.Helper()
	if o.Start == 0 {
		o.Start = clock(10.5)
	}
	if o.Inverters == nil {
		o.Inverters = ours(1)
	}
	s, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// all asks for the ten registers.
func all(unit byte) modbus.Request {
	return modbus.Request{Unit: unit, Function: modbus.ReadHolding, Address: 0, Count: 10}
}

func TestHandle(t *testing.T) {
	s := newSimulator(t, Options{Inverters: ours(2)})
	for _, x := range []struct {
		name string
		r    modbus.Request
		want error
		then float64 // limit of unit 17 afterwards
	}{
		{"all", all(17), nil, 100},
		{"second inverter", all(18), nil, 100},
		{"one", modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: 9, Count: 1}, nil, 100},
		{"third inverter", all(19), modbus.ErrGatewayTarget, 100},
		{"unit 0", all(0), modbus.ErrGatewayTarget, 100},
		{"unit 16", all(16), modbus.ErrGatewayTarget, 100},
		{"unit 255", all(255), modbus.ErrGatewayTarget, 100},
		{"beyond the last", modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: 9, Count: 2}, modbus.ErrIllegalAddress, 100},
		{"far away", modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: 65535, Count: 1}, modbus.ErrIllegalAddress, 100},
		{"input registers", modbus.Request{Unit: 17, Function: modbus.ReadInput, Address: 0, Count: 1}, modbus.ErrIllegalFunction, 100},
		{"other function", modbus.Request{Unit: 17, Function: 1, Address: 0, Count: 1}, modbus.ErrIllegalFunction, 100},
		{"write 06", modbus.Request{Unit: 17, Function: modbus.WriteSingle, Address: 8, Values: []uint16{40}}, nil, 40},
		{"write 10", modbus.Request{Unit: 17, Function: modbus.WriteMultiple, Address: 8, Values: []uint16{0}}, nil, 0},
		{"write 100", modbus.Request{Unit: 17, Function: modbus.WriteSingle, Address: 8, Values: []uint16{100}}, nil, 100},
		{"write 101", modbus.Request{Unit: 17, Function: modbus.WriteSingle, Address: 8, Values: []uint16{101}}, modbus.ErrIllegalValue, 100},
		{"write -1", modbus.Request{Unit: 17, Function: modbus.WriteMultiple, Address: 8, Values: []uint16{0xffff}}, modbus.ErrIllegalValue, 100},
		{"write what is read", modbus.Request{Unit: 17, Function: modbus.WriteSingle, Address: 9, Values: []uint16{40}}, modbus.ErrIllegalAddress, 100},
		{"write what is not there", modbus.Request{Unit: 17, Function: modbus.WriteSingle, Address: 10, Values: []uint16{40}}, modbus.ErrIllegalAddress, 100},
		{"write two", modbus.Request{Unit: 17, Function: modbus.WriteMultiple, Address: 8, Values: []uint16{40, 40}}, modbus.ErrIllegalAddress, 100},
		{"write the one before too", modbus.Request{Unit: 17, Function: modbus.WriteMultiple, Address: 7, Values: []uint16{40, 40}}, modbus.ErrIllegalAddress, 100},
		{"write to the second", modbus.Request{Unit: 18, Function: modbus.WriteSingle, Address: 8, Values: []uint16{40}}, nil, 100},
		{"write to nobody", modbus.Request{Unit: 19, Function: modbus.WriteSingle, Address: 8, Values: []uint16{40}}, modbus.ErrGatewayTarget, 100},
	} {
		t.Run(x.name, func(t *testing.T) {
			words, err := s.Handle(t.Context(), x.r)
			if !errors.Is(err, x.want) || len(words) != 0 && err != nil {
				t.Errorf("%v, %v, want %v", words, err, x.want)
			}
			if err == nil && len(words) != int(x.r.Count) {
				t.Errorf("%d words for %v", len(words), x.r)
			}
			if got := s.site.plants[0].limit; got != x.then {
				t.Errorf("limited to %g %%, want %g", got, x.then)
			}
			if back, err := s.Handle(t.Context(), modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: 8, Count: 1}); err != nil || back[0] != uint16(x.then) {
				t.Errorf("read back: %v, %v, want %g", back, err, x.then)
			}
		})
	}
}

// TestWords: each word is the model's value by the register map, and together
// they are of one moment.
func TestWords(t *testing.T) {
	night := still{Conditions{Air: -12.34}}
	for _, x := range []struct {
		name string
		o    Options
	}{
		{"clear", Options{Seed: 3}},
		{"frost", Options{Weather: night}},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := newSimulator(t, x.o)
			for range 50 {
				words, err := s.Handle(t.Context(), all(17))
				if err != nil {
					t.Fatal(err)
				}
				r := s.site.read(0)
				tenth := func(v float64) uint16 { return uint16(int16(math.Round(v * 10))) }
				want := []uint16{
					tenth(r.vac), tenth(r.iac), uint16(math.Round(r.fac * 100)), tenth(r.vpv[0]), tenth(r.vpv[1]),
					tenth(r.ipv[0]), tenth(r.ipv[1]), tenth(r.temp), 100, uint16(math.Round(r.pac)),
				}
				if diff := cmp.Diff(want, words); diff != "" {
					t.Fatal(diff)
				}
				vac, iac, pac := float64(words[0])/10, float64(words[1])/10, float64(words[9])
				if math.Abs(vac*iac-pac) > 0.05*(vac+iac)+0.5 {
					t.Fatalf("%g V · %g A is not %g W", vac, iac, pac)
				}
				s.advance(time.Second)
			}
			if x.name == "frost" {
				if diff := cmp.Diff(int16(-123), int16(s.mustRead(t)[7])); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

func (s *Simulator) mustRead(tb testing.TB) []uint16 {
	tb.Helper()
	words, err := s.Handle(tb.Context(), all(s.options.Inverters[0].Unit))
	if err != nil {
		tb.Fatal(err)
	}
	return words
}

// model is what inverter i measures, while time passes.
func (s *Simulator) model(i int) reading {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.site.read(i)
}

// TestNeighboursDiffer: samples that follow each other can be told apart, also
// at night.
func TestNeighboursDiffer(t *testing.T) {
	for name, w := range map[string]Weather{"clear": nil, "night": still{}} {
		s := newSimulator(t, Options{Weather: w})
		equal := 0
		last := s.mustRead(t)
		for range 1000 {
			s.advance(time.Second)
			now := s.mustRead(t)
			if cmp.Equal(now, last) {
				equal++
			}
			last = now
		}
		if equal > 100 {
			t.Errorf("%s: %d of 1000 samples are as the one before", name, equal)
		}
	}
}

// TestAdvance: what is read at a time does not depend on how time got there,
// nor on how often somebody read.
func TestAdvance(t *testing.T) {
	for _, speed := range []float64{0.25, 1, 60, MaxSpeed} {
		at := func(parts int, watched bool) []uint16 {
			s := newSimulator(t, Options{Speed: speed})
			for range parts {
				s.advance(32_740 * time.Millisecond / time.Duration(parts))
				if watched {
					s.mustRead(t)
				}
			}
			began, passed := clock(10.5), time.Duration(32.74*speed*float64(time.Second))
			if off := (s.site.now - (began+passed)%(24*time.Hour)).Seconds(); math.Abs(off) > min(speed/10, 10)+1e-3 {
				t.Errorf("speed %g: it is %v", speed, s.site.now)
			}
			return s.mustRead(t)
		}
		if a, b := at(320, true), at(64, false); !cmp.Equal(a, b) {
			t.Errorf("speed %g: %v and %v", speed, a, b)
		}
	}
}

// TestHeldUp: whoever was stopped for a year does not need one to go on.
func TestHeldUp(t *testing.T) {
	s := newSimulator(t, Options{Speed: MaxSpeed})
	s.advance(365 * 24 * time.Hour)
	if most := 365 * 24 * time.Hour.Seconds() * MaxSpeed / maxLate; s.due < 0 || s.due > most {
		t.Errorf("%g s are still due, want %g at most", s.due, most)
	}
	if s.site.now < 0 || s.site.now >= 24*time.Hour {
		t.Errorf("it is %v", s.site.now)
	}
}

// TestLive: time passes by itself.
func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, Options{Speed: 2})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.live(ctx)
		}()
		time.Sleep(time.Minute + tick/2)
		synctest.Wait()
		s.mu.Lock()
		now := s.site.now
		s.mu.Unlock()
		if want := clock(10.5) + 2*time.Minute; (now - want).Abs() > 250*time.Millisecond {
			t.Errorf("it is %v, want %v", now, want)
		}
		cancel()
		<-ended
	})
}

// trace is a file that may be full.
type trace struct {
	mu     sync.Mutex
	text   strings.Builder
	writes int
	err    error
}

func (w *trace) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return 0, w.err
	}
	w.writes++
	return w.text.Write(p)
}

func (w *trace) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func TestTrace(t *testing.T) {
	var w trace
	s := newSimulator(t, Options{Trace: &w, Inverters: ours(2)})
	var want []traced
	before := time.Now().UnixMilli()
	for _, r := range []modbus.Request{
		all(17), all(18), all(19),
		{Unit: 18, Function: modbus.WriteSingle, Address: 8, Values: []uint16{40}},
		{Unit: 17, Function: modbus.ReadHolding, Address: 7, Count: 3},
		{Unit: 17, Function: modbus.ReadHolding, Address: 7, Count: 30},
	} {
		if words, err := s.Handle(t.Context(), r); err == nil && words != nil {
			want = append(want, traced{Unit: r.Unit, Address: r.Address, Words: words})
		}
		s.advance(time.Second)
	}
	after := time.Now().UnixMilli()
	var got []traced
	for line := range strings.Lines(w.String()) {
		var x traced
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if x.T < before || x.T > after {
			t.Errorf("t is %d, which is not within %d and %d", x.T, before, after)
		}
		x.T = 0
		got = append(got, x)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(got) != 3 || w.writes != 3 {
		t.Errorf("%d writes: %s", w.writes, diff)
	}
	if !regexp.MustCompile(`^\{"t":\d{13},"unit":17,"address":0,"words":\[\d+(,\d+){9}\]\}\n`).MatchString(w.String()) {
		t.Errorf("not of the promised form: %s", w.String())
	}
	w.err = errors.New("disk full")
	if words, err := s.Handle(t.Context(), all(17)); !errors.Is(err, w.err) || words != nil {
		t.Errorf("a read that cannot be traced: %v, %v", words, err)
	}
}

func TestNewRefuses(t *testing.T) {
	good := ours(1)
	for _, x := range []struct {
		name string
		o    Options
		want string
	}{
		{"speed below", Options{Inverters: good, Speed: -1}, "a speed of -1 is not above 0 and at most 10000"},
		{"speed above", Options{Inverters: good, Speed: 10_001}, "a speed of 10001 is not above 0 and at most 10000"},
		{"no number", Options{Inverters: good, Speed: math.NaN()}, "a speed of NaN is not above 0 and at most 10000"},
		{"none", Options{}, "there is no inverter"},
		{"unit 0", Options{Inverters: []Inverter{{}}}, "unit 0 is not within 1 and 247"},
		{"unit 248", Options{Inverters: []Inverter{{Unit: 248}}}, "unit 248 is not within 1 and 247"},
		{"twice", Options{Inverters: []Inverter{{Unit: 3}, good[0], {Unit: 3}}}, "unit 3 is there twice"},
		{"no such map", Options{Inverters: []Inverter{{Unit: 3, SunSpec: SunSpec{Base: 1}}}}, "unit 3: base: a SunSpec map begins at 40000, 50000 or 0, and not at 1"},
		{"before midnight", Options{Inverters: good, Start: -1}, "a start at -1ns is before midnight"},
	} {
		if s, err := New(x.o); err == nil || err.Error() != x.want {
			t.Errorf("%s: %v, %v, want %s", x.name, s, err, x.want)
		}
	}
	for n, want := range map[int]string{0: "0 inverters are not within 1 and 231", 232: "232 inverters are not within 1 and 231"} {
		if all, err := Row(good[0], n); err == nil || err.Error() != want {
			t.Errorf("%d in a row: %v, %v", n, all, err)
		}
	}
	if s, err := New(Options{Inverters: ours(231)}); err != nil || len(s.site.plants) != 231 {
		t.Errorf("as many as there are units: %v", err)
	}
}

// TestOtherProfiles: registers of other places, types and orders are served.
func TestOtherProfiles(t *testing.T) {
	p := inverter.Profile{Name: "other", Unit: 1, Block: 10, Registers: []inverter.Register{
		{Point: ecowatt.Point{Name: "pac", Exponent: -1}, Table: inverter.Input, Address: 100, Type: inverter.S32, Order: inverter.LowFirst},
		{Point: ecowatt.Point{Name: limitPoint, Exponent: -1, Writable: true, Min: 10, Max: 1000}, Table: inverter.Holding, Address: 7, Type: inverter.U32},
	}}
	s, err := New(Options{Inverters: one(p), Start: clock(12)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.Handle(t.Context(), modbus.Request{Unit: 1, Function: modbus.ReadInput, Address: 100, Count: 2})
	if want := int(math.Round(s.site.read(0).pac * 10)); err != nil || int(got[1])<<16|int(got[0]) != want {
		t.Errorf("power %v, %v, want %d", got, err, want)
	}
	for words, want := range map[[2]uint16]float64{{0, 455}: 45.5, {0, 9}: 100, {1, 0}: 100} {
		s.site.plants[0].limit = 100
		if _, err := s.Handle(t.Context(), modbus.Request{Unit: 1, Function: modbus.WriteMultiple, Address: 7, Values: words[:]}); (err == nil) != (want != 100) {
			t.Errorf("writing %v: %v", words, err)
		}
		if s.site.plants[0].limit != want {
			t.Errorf("after writing %v: %g %%, want %g", words, s.site.plants[0].limit, want)
		}
	}
	for at, values := range map[uint16][]uint16{7: {0}, 8: {455}, 6: {0, 455}} { // parts of it
		r := modbus.Request{Unit: 1, Function: modbus.WriteMultiple, Address: at, Values: values}
		if _, err := s.Handle(t.Context(), r); !errors.Is(err, modbus.ErrIllegalAddress) {
			t.Errorf("%v: %v", r, err)
		}
	}
}

// serve runs s on loopback until the test ends.
func serve(tb testing.TB, s *Simulator) net.Addr {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx, Ends{TCP: l}) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("Run: %v", err)
		}
	})
	return l.Addr()
}

// TestRun: a client reads through the network while time passes, and finds the
// words of one moment each time.
func TestRun(t *testing.T) {
	var log, w trace
	s := newSimulator(t, Options{Speed: MaxSpeed, Inverters: ours(3), Trace: &w, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	address := serve(t, s)
	c := modbus.NewClient(address.String(), modbus.ClientOptions{Timeout: 10 * time.Second})
	defer c.Close()
	reads := 0
	words := map[[10]uint16]bool{}
	for deadline := time.Now().Add(30 * time.Second); len(words) < 3 && time.Now().Before(deadline); reads++ {
		got, err := c.Do(t.Context(), all(19))
		if err != nil {
			t.Fatal(err)
		}
		words[[10]uint16(got)] = true
		vac, iac, pac := float64(got[0])/10, float64(got[1])/10, float64(got[9])
		if math.Abs(vac*iac-pac) > 0.05*(vac+iac)+0.5 {
			t.Fatalf("%g V · %g A is not %g W", vac, iac, pac)
		}
	}
	if _, err := c.Do(t.Context(), all(20)); !errors.Is(err, modbus.ErrGatewayTarget) {
		t.Errorf("a unit that is not there: %v", err)
	}
	if len(words) < 3 {
		t.Errorf("time stands still: %v", words)
	}
	if n := strings.Count(w.String(), "\n"); n != reads {
		t.Errorf("%d of %d reads are traced", n, reads)
	}
	first, _, _ := strings.Cut(log.String(), "\n")
	for _, want := range []string{"listening", address.String(), "units=17-19:ecowatt-sim"} {
		if !strings.Contains(first, want) {
			t.Errorf("the log does not begin with %q: %s", want, first)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	s := newSimulator(b, Options{})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Handle(b.Context(), all(17)); err != nil {
			b.Fatal(err)
		}
	}
}
