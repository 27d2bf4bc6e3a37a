package sim

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/sim/fault"
)

// hold lets seconds pass under still weather, a second a step, and returns the
// statuses that follow each other.
func (p *plant) hold(c Conditions, seconds int) (seen []Status) {
	for range seconds {
		p.step(1, sky{c, c})
		if len(seen) == 0 || seen[len(seen)-1] != p.now.status {
			seen = append(seen, p.now.status)
		}
	}
	return seen
}

var noon = Conditions{Irradiance: 900, Air: 20, Wind: 2}

// TestOverVoltage: what is fed in lifts the voltage until the inverter must
// leave; without it the voltage is fit, so that it comes back after a minute and
// the same begins again. At 115 % it leaves at once.
func TestOverVoltage(t *testing.T) {
	p := quiet(noon)
	p.grid.offset, p.grid.impedance = 15, 0.8 // 245 V, and 15 V more at 5 kW
	if seen := p.hold(noon, 300); !cmp.Equal(seen, []Status{Producing}) || p.now.vac < highestMean {
		t.Fatalf("in the first minutes %v, at %.1f V", seen, p.now.vac)
	}
	for p.now.status == Producing {
		p.step(1, sky{noon, noon})
	}
	if p.now.pac != 0 || p.now.iac != 0 || p.now.alarm != AlarmOverVoltage || p.now.status != Waiting {
		t.Errorf("off the grid: %+v", p.now)
	}
	if seen := p.hold(noon, 58); !cmp.Equal(seen, []Status{Waiting}) {
		t.Errorf("within a minute: %v", seen)
	}
	p.hold(noon, 3)
	if p.now.status == Waiting || p.now.alarm != 0 || p.now.pac > 20*rampPerS/100*p.rated {
		t.Errorf("after a minute: %+v", p.now)
	}

	p = quiet(noon)
	p.hold(noon, 10)
	p.grid.offset = 36
	p.hold(noon, 2)
	if p.now.status != Waiting {
		t.Errorf("at %.1f V: %v", p.now.vac, p.now.status)
	}
	if seen := p.hold(noon, 1000); !cmp.Equal(seen, []Status{Waiting}) {
		t.Errorf("while it stays: %v", seen)
	}
}

// TestDerating: in great heat an inverter gives less, says so, and no more heat
// is in the cabinet than that costs.
func TestDerating(t *testing.T) {
	hot := Conditions{Irradiance: 1300, Air: 55, Wind: 0}
	p := quiet(hot)
	p.hold(hot, 20_000)
	if p.now.status != Derated || p.now.alarm != AlarmHot || p.now.pac > 0.95*p.rated || p.now.pac < 0.3*p.rated {
		t.Errorf("%+v", p.now)
	}
	if want := p.rated * (1 - deratePerK*(p.now.temp-derateFrom)); math.Abs(p.now.pac-want) > 5 {
		t.Errorf("%.0f W at %.1f °C, want %.0f W", p.now.pac, p.now.temp, want)
	}
	p.hold(noon, 20_000)
	if p.now.status != Producing || p.now.alarm != 0 {
		t.Errorf("cooled down: %+v", p.now)
	}
}

// TestFloor: a limit below the floor can be ordered, and the floor is what is
// held.
func TestFloor(t *testing.T) {
	p := quiet(noon)
	p.floor = 10
	for limit, want := range map[float64]float64{0: 500, 5: 500, 10: 500, 50: 2500} {
		p.limit = limit
		p.hold(noon, 60)
		if math.Abs(p.now.pac-want) > 1 || p.now.status != Limited {
			t.Errorf("limited to %g %%: %.0f W and %v, want %.0f W", limit, p.now.pac, p.now.status, want)
		}
	}
}

// TestRamp: a slow inverter takes its time to follow a limit.
func TestRamp(t *testing.T) {
	s := newSimulator(t, Options{LimitRamp: 0.5, Weather: still{noon}})
	p := s.site.plants[0]
	p.limit = 50
	p.hold(noon, 60)
	if math.Abs(p.now.pac-0.7*p.rated) > 1 {
		t.Errorf("%g W after a minute, want %g", p.now.pac, 0.7*p.rated)
	}
	p.hold(noon, 40)
	if math.Abs(p.now.pac-0.5*p.rated) > 1 {
		t.Errorf("%g W after 100 s, want %g", p.now.pac, 0.5*p.rated)
	}
}

// TestZeroStops: there are inverters that a limit of 0 stops, and that begin
// anew when it is over; others go on at once.
func TestZeroStops(t *testing.T) {
	for stops, want := range map[bool][]Status{true: {Waiting, Limited}, false: {Limited}} {
		s := newSimulator(t, Options{ZeroStops: stops, Weather: still{noon}})
		p := s.site.plants[0]
		p.limit = 0
		p.hold(noon, 600)
		if p.now.pac != 0 {
			t.Errorf("stops %v: %g W", stops, p.now.pac)
		}
		p.limit = 30
		first := p.hold(noon, 55)
		if stops && p.now.pac != 0 || !stops && math.Abs(p.now.pac-0.3*p.rated) > 1 {
			t.Errorf("stops %v: %g W within a minute, %v", stops, p.now.pac, first)
		}
		seen := append(first, p.hold(noon, 60)...)
		if math.Abs(p.now.pac-0.3*p.rated) > 1 || !cmp.Equal(slices.Compact(seen), want) {
			t.Errorf("stops %v: %g W in the end, %v", stops, p.now.pac, seen)
		}
	}
}

// TestDayEnds: a counter of the day begins again when the inverter thinks that
// the day is over, once.
func TestDayEnds(t *testing.T) {
	for _, at := range []time.Duration{0, 7 * time.Minute, clock(20)} {
		s := newSimulator(t, Options{DayEnds: at, Start: clock(18), Weather: still{}})
		p := s.site.plants[0]
		var resets []time.Duration
		for range 2 * 24 * 60 {
			p.energy.Today = 5
			s.site.step(60)
			if p.energy.Today == 0 {
				resets = append(resets, s.site.now)
			}
		}
		if !cmp.Equal(resets, []time.Duration{at, at}) {
			t.Errorf("at %v: %v", at, resets)
		}
	}
}

// TestEnergy: the counters are the sum of the power, the day's begins again at
// midnight, and what is read rolls over.
func TestEnergy(t *testing.T) {
	s := newSimulator(t, Options{Energy: []Energy{{Today: 50, Total: 1e6}}})
	sum := 0.0
	for range 3600 {
		s.site.step(1)
		sum += s.site.read(0).pac / 3600
	}
	got := s.Energy()[0]
	if math.Abs(got.Today-50-sum) > 1e-6 || math.Abs(got.Total-1e6-sum) > 1e-6 || sum < 1000 {
		t.Errorf("%+v after %g Wh", got, sum)
	}
	night := newSite(still{}, 24*time.Hour-2*time.Second, 1, 1)
	night.plants[0].energy = Energy{Today: 7, Total: 9}
	night.step(1)
	if e := night.plants[0].energy; e != (Energy{Today: 7, Total: 9}) {
		t.Errorf("before midnight: %+v", e)
	}
	night.step(1)
	if e := night.plants[0].energy; e != (Energy{Total: 9}) {
		t.Errorf("after midnight: %+v", e)
	}

	most := float64(1<<32) * 10 // Wh, of a u32 in 10 Wh
	for total, want := range map[float64]uint32{most - 10: 1<<32 - 1, most: 0, most + 120: 12} {
		s.site.plants[0].energy.Total = total
		words, err := s.Handle(t.Context(), modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: 104, Count: 2})
		if err != nil || uint32(words[0])<<16|uint32(words[1]) != want {
			t.Errorf("%g Wh are read as %v, %v, want %d", total, words, err, want)
		}
	}
}

// TestBeyond: status and alarm stand behind the ten registers, and a plan of all
// ten does not read them by the way.
func TestBeyond(t *testing.T) {
	s := newSimulator(t, Options{GridVoltage: 270})
	s.site.step(1)
	s.site.step(1)
	words, err := s.Handle(t.Context(), modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: 100, Count: 6})
	if err != nil || words[0] != uint16(Waiting) || words[1] != uint16(AlarmOverVoltage) {
		t.Errorf("%v, %v", words, err)
	}
	p := simProfile(t)
	plan, err := p.Plan(p.PointNames())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]inverter.Read{{Table: inverter.Holding, Address: 0, Count: 10}}, plan.Reads()); diff != "" {
		t.Error(diff)
	}
	for _, r := range beyond() {
		if err := r.Check(); err != nil || int(r.Address) <= 9+p.Gap {
			t.Errorf("%s: at %d, %v", r.Point.Name, r.Address, err)
		}
	}
}

// TestClouds: a sky without clouds is the clear one; with some there is less
// light on the whole, never more than the ground can get, and the share of the
// time that is in the shade is about theirs.
func TestClouds(t *testing.T) {
	open := DefaultSky()
	flat := Plane{Tilt: 30, Azimuth: 180}
	sum := map[float64]float64{}
	for _, cover := range []float64{0, 0.3, 0.7, 1} {
		shaded, lit := 0, 0
		for seed := range uint64(8) {
			c := Clouds{Sky: open, Cover: cover, Seed: seed}
			last := -1.0
			for at := 8 * time.Hour; at < 16*time.Hour; at += 5 * time.Second {
				got, want := c.At(at, flat).Irradiance, open.At(at, flat).Irradiance
				sum[cover] += got
				if cover == 0 && math.Abs(got-want) > 1e-9 || got < 0.1*want || got > 1.05*want {
					t.Fatalf("cover %g at %v: %g W/m², clear %g", cover, at, got, want)
				}
				if last >= 0 && math.Abs(got-last) > 120 {
					t.Fatalf("cover %g at %v: from %g to %g W/m² in 5 s", cover, at, last, got)
				}
				last = got
				if lit++; got < 0.7*want {
					shaded++
				}
			}
			if a, b := c.At(10*time.Hour, flat), c.At(34*time.Hour, flat); math.Abs(a.Irradiance-b.Irradiance) > 1e-6 {
				t.Errorf("a day later: %v and %v", a, b)
			}
		}
		if share := float64(shaded) / float64(lit); math.Abs(share-cover) > 0.2 {
			t.Errorf("cover %g: %.2f of the time in the shade", cover, share)
		}
	}
	if !(sum[0] > sum[0.3] && sum[0.3] > sum[0.7] && sum[0.7] > sum[1]) {
		t.Errorf("light by cover: %v", sum)
	}
	if (Clouds{Sky: open, Cover: 0.5, Seed: 1}).shade(9*time.Hour) == (Clouds{Sky: open, Cover: 0.5, Seed: 2}).shade(9*time.Hour) {
		t.Error("the seed does not matter")
	}
}

func TestState(t *testing.T) {
	want := []Energy{{Today: 12.5, Total: 4e6}, {}}
	text, err := EncodeState(want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseState(text); err != nil || !cmp.Equal(want, got) {
		t.Errorf("%v, %v", got, err)
	}
	for text, want := range map[string]string{
		"":                      "no state",
		`{"format": 2}`:         "format 2",
		`{"format": 1, "x": 1}`: "x",
		`{"format": 1} {}`:      "follows",
		`{"format": 1, "inverters": [{"today_wh": -1, "total_wh": 2}]}`:   "inverter 1",
		`{"format": 1, "inverters": [{"today_wh": 3, "total_wh": 2}]}`:    "inverter 1",
		`{"format": 1, "inverters": [{"today_wh": 0, "total_wh": 2e15}]}`: "inverter 1",
	} {
		if got, err := ParseState([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func TestNewRefusesThePlant(t *testing.T) {
	for want, o := range map[string]Options{
		"a grid of 300 V":      {GridVoltage: 300},
		"a line of -1 Ω":       {GridOhms: -1},
		"a floor of 101 %":     {LimitFloor: 101},
		"a ramp of 101 %":      {LimitRamp: 101},
		"ends at 24h":          {DayEnds: 24 * time.Hour},
		"-1 connections":       {Connections: -1},
		"fault 1: probability": {Faults: []fault.Rule{{Kind: fault.Drop}}},
	} {
		o.Inverters = ours(1)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
