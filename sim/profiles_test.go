package sim

import (
	"errors"
	"math"
	"testing"

	"ecowatt"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
)

// plan reads all points of a profile from unit 17 of s, with the requests that
// an agent sends, and returns the values by point.
func (s *Simulator) plan(t *testing.T, p inverter.Profile) map[string]float64 {
	t.Helper()
	plan, err := p.Plan(p.PointNames())
	if err != nil {
		t.Fatal(err)
	}
	var words [][]uint16
	for _, r := range plan.Reads() {
		got, err := s.Handle(t.Context(), modbus.Request{Unit: p.Unit, Function: modbus.Function(r.Table), Address: r.Address, Count: r.Count})
		if err != nil {
			t.Errorf("%s: %+v: %v", p.Name, r, err)
			got = nil
		}
		words = append(words, got)
	}
	values := map[string]float64{}
	for i, v := range plan.Decode(words) {
		if v.Valid {
			point := plan.Registers()[i].Point
			values[point.Name] = float64(v.Raw) * math.Pow10(point.Exponent)
		}
	}
	return values
}

// TestShippedProfiles: an agent with any of the shipped profiles reads what the
// plant measures, and what it writes as the profile says has its effect.
func TestShippedProfiles(t *testing.T) {
	for _, name := range profile.List() {
		t.Run(name, func(t *testing.T) {
			p, err := profile.Find(name)
			if err != nil {
				t.Fatal(err)
			}
			s, err := New(Options{Inverters: one(p), Start: clock(11)})
			if err != nil {
				t.Fatal(err)
			}
			for range 900 {
				s.site.step(1)
			}
			r := s.site.read(0)
			got := s.plan(t, p)
			for point, x := range map[string]struct{ want, within float64 }{
				"pac": {r.pac, 60}, "vac1": {r.vac, 1}, "vpv1": {r.vpv[0], 1}, "ipv1": {r.ipv[0], 0.2}, "temp": {r.temp, 1},
				"fac1": {r.fac, 0.1}, "energy_total": {r.energy.Total / 1000, 1},
			} {
				register, has := p.Register(point)
				if register.Point.Unit == "Wh" {
					x.want, x.within = x.want*1000, 100
				}
				if v, ok := got[point]; has && (!ok || math.Abs(v-x.want) > x.within) {
					t.Errorf("%s is %g, %v, want %g", point, v, ok, x.want)
				}
			}
			limit, ok := p.Register(limitPoint)
			if !ok || !limit.Point.Writable {
				return
			}
			s.carry(t, p, func() ([]inverter.Write, error) {
				return p.Writes(limitPoint, int64(math.Round(60*math.Pow10(-limit.Point.Exponent))))
			})
			if is := s.site.plants[0].limit; math.Abs(is-60) > 0.01 {
				t.Errorf("limited to %g %%, want 60", is)
			}
			if v, ok := s.plan(t, p)[limitPoint]; ok && math.Abs(v-60) > 0.01 {
				t.Errorf("the limit reads %g", v)
			}
			if _, err := p.Release(limitPoint); errors.Is(err, inverter.ErrNoRelease) {
				return
			}
			s.carry(t, p, func() ([]inverter.Write, error) { return p.Release(limitPoint) })
			if is := s.site.plants[0].limit; is < 99.9 {
				t.Errorf("released, but limited to %g %%", is)
			}
		})
	}
}

// carry carries out the writes of a profile.
func (s *Simulator) carry(t *testing.T, p inverter.Profile, writes func() ([]inverter.Write, error)) {
	t.Helper()
	all, err := writes()
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range all {
		f := modbus.WriteSingle
		if w.Multiple {
			f = modbus.WriteMultiple
		}
		if _, err := s.Handle(t.Context(), modbus.Request{Unit: p.Unit, Function: f, Address: w.Address, Values: w.Values}); err != nil {
			t.Errorf("%+v: %v", w, err)
		}
	}
}

// TestGate: a limit behind a gate that is shut can be read back, and has no
// effect until the gate opens.
func TestGate(t *testing.T) {
	p := inverter.Profile{Name: "gated", Unit: 1, Block: 10, Registers: []inverter.Register{{
		Point: ecowatt.Point{Name: limitPoint, Writable: true, Max: 100}, Table: inverter.Holding, Address: 7,
		Control: &inverter.Control{Address: 20, Gate: inverter.Gate{
			Given: true, Place: inverter.Place{Address: 30}, On: 0xaa, Off: ecowatt.Value{Raw: 0x55, Valid: true},
		}},
	}}}
	s, err := New(Options{Inverters: one(p), Start: clock(12)})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		at, word uint16
		want     error
		shown    uint16
		limit    float64
	}{
		{20, 40, nil, 40, 100},
		{30, 0xaa, nil, 40, 40},
		{20, 30, nil, 30, 30},
		{7, 20, modbus.ErrIllegalAddress, 30, 30},
		{30, 0x55, nil, 30, 100},
	} {
		_, err := s.Handle(t.Context(), modbus.Request{Unit: 1, Function: modbus.WriteSingle, Address: x.at, Values: []uint16{x.word}})
		got, failed := s.Handle(t.Context(), modbus.Request{Unit: 1, Function: modbus.ReadHolding, Address: 7, Count: 1})
		if !errors.Is(err, x.want) || failed != nil || got[0] != x.shown || s.site.plants[0].limit != x.limit {
			t.Errorf("%d to %d: %v; shown %v, %v, limited to %g %%", x.word, x.at, err, got, failed, s.site.plants[0].limit)
		}
	}
}
