//go:build linux

package sim

import (
	"errors"
	"math"
	"testing"

	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
	"ecowatt/sim/fault"
)

// TestLost: a request that does not arrive is not carried out either.
func TestLost(t *testing.T) {
	eachTransport(t, func(t *testing.T, s *served, c modbus.Transport) {
		limit := modbus.Request{Unit: 17, Function: modbus.WriteSingle, Address: 8, Values: []uint16{40}}
		for _, x := range []struct {
			kind fault.Kind
			want uint16
		}{{fault.Lost, 100}, {fault.Drop, 40}} { // whereas one is carried out whose answer is lost
			s.order(t, fault.Rule{Kind: x.kind, Functions: []byte{6}})
			if _, err := c.Do(t.Context(), limit); !errors.Is(err, modbus.ErrNoAnswer) {
				t.Errorf("%v: %v", x.kind, err)
			}
			if words, err := c.Do(t.Context(), all(17)); err != nil || words[8] != x.want || s.doing(17).InForce != float64(x.want) {
				t.Errorf("%v: %v, %v, in force %g %%, want %d", x.kind, words, err, s.doing(17).InForce, x.want)
			}
		}
	})
}

// doing is what the inverter does in truth.
func (s *served) doing(unit byte) Doing {
	for _, d := range s.Inverters() {
		if d.Unit == unit {
			return d
		}
	}
	return Doing{}
}

// TestSeveralMaps: inverters with register maps of their own answer side by side
// on every transport, each with its own values, limits and faults.
func TestSeveralMaps(t *testing.T) {
	for _, name := range []string{"tcp", "rtutcp", "line", "http"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			huawei, err := profile.Find("huawei-sun2000")
			if err != nil {
				t.Fatal(err)
			}
			s := serveAll(t, Options{Inverters: append(ours(2), Inverter{Unit: 1, Profile: huawei}, Inverter{Unit: 126, SunSpec: SunSpec{Base: 50000, Phases: 3}})})
			c := s.clients(t)[name]
			_, sun := discovered(t, c.Do, 126)
			for _, x := range []struct {
				unit byte
				p    inverter.Profile
			}{{1, huawei}, {17, simProfile(t)}, {18, simProfile(t)}, {126, sun}} {
				plan, err := x.p.Plan([]string{"pac"})
				if err != nil {
					t.Fatal(err)
				}
				r := plan.Reads()[0]
				words, err := c.Do(t.Context(), modbus.Request{Unit: x.unit, Function: modbus.Function(r.Table), Address: r.Address, Count: r.Count})
				if err != nil {
					t.Fatalf("unit %d: %v", x.unit, err)
				}
				v := plan.Decode([][]uint16{words})[0]
				got := float64(v.Raw) * math.Pow10(plan.Registers()[0].Point.Exponent)
				if truth := s.doing(x.unit).PowerW; !v.Valid || math.Abs(got-truth) > 1 || truth < 500 {
					t.Errorf("unit %d: %g W, %v, in truth %g", x.unit, got, v.Valid, truth)
				}
			}
			if _, err := c.Do(t.Context(), modbus.Request{Unit: 1, Function: modbus.ReadHolding, Address: 0, Count: 1}); !errors.Is(err, modbus.ErrIllegalAddress) {
				t.Errorf("another map's register: %v", err)
			}
			for i, w := range []modbus.Request{
				{Unit: 18, Function: modbus.WriteSingle, Address: 8, Values: []uint16{70}},
				{Unit: 1, Function: modbus.WriteSingle, Address: 47418, Values: []uint16{800}},
				{Unit: 1, Function: modbus.WriteSingle, Address: 47415, Values: []uint16{7}},
			} {
				if _, err := c.Do(t.Context(), w); err != nil {
					t.Errorf("write %d: %v", i, err)
				}
			}
			for unit, want := range map[byte]float64{17: 100, 18: 70, 1: 80, 126: 100} {
				if is := s.doing(unit).InForce; is != want {
					t.Errorf("unit %d is limited to %g %%, want %g", unit, is, want)
				}
			}
			if err := s.Misbehave(fault.Rule{Kind: fault.Exception, Code: 6, Units: []byte{1}, Probability: 1}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Do(t.Context(), modbus.Request{Unit: 1, Function: modbus.ReadHolding, Address: 32080, Count: 2}); !errors.Is(err, modbus.ErrBusy) {
				t.Errorf("unit 1: %v", err)
			}
			if _, err := c.Do(t.Context(), all(17)); err != nil {
				t.Errorf("unit 17: %v", err)
			}
		})
	}
}

// TestOneClient: by order, an inverter closes connections that come beside
// another one, whichever way; those that are open stay.
func TestOneClient(t *testing.T) {
	for _, name := range []string{"tcp", "rtutcp"} {
		t.Run(name, func(t *testing.T) {
			s := serveAll(t, Options{})
			first, second := s.clients(t)[name], s.clients(t)[name]
			if _, err := first.Do(t.Context(), all(17)); err != nil {
				t.Fatal(err)
			}
			if err := s.Misbehave(fault.Rule{Kind: fault.OneClient, Probability: 1}); err != nil {
				t.Fatal(err)
			}
			if words, err := second.Do(t.Context(), all(17)); err == nil {
				t.Errorf("the second: %v", words)
			}
			if _, err := first.Do(t.Context(), all(17)); err != nil {
				t.Errorf("the first: %v", err)
			}
			s.Behave()
			if _, err := second.Do(t.Context(), all(17)); err != nil {
				t.Errorf("with room again: %v", err)
			}
		})
	}
}
