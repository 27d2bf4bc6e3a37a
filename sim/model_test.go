package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestCellTemperature(t *testing.T) {
	if got := cellTemperature(Conditions{Irradiance: 800, Air: 20, Wind: 1}); math.Abs(got-45.1256) > 1e-4 {
		t.Errorf("%.4f °C, want 45.1256", got) // 20 + 800/(25 + 6.84)
	}
	if got := cellTemperature(Conditions{Air: -7, Wind: 9}); got != -7 {
		t.Errorf("%g °C in the dark, want that of the air", got)
	}
}

// TestCurve compares with the best of two million points of each curve,
// searched apart from this package. The first is the data sheet's.
func TestCurve(t *testing.T) {
	for _, x := range []struct {
		modules          int
		irradiance, cell float64
		open, v, i, p    float64
	}{
		{1, 1000, 25, 37.1000, 31.0076, 12.9525, 401.6249},
		{9, 800, 45, 312.6583, 259.9906, 10.4314, 2712.0657},
		{6, 100, 10, 211.9557, 184.3502, 1.3154, 242.4866},
		{9, 1100, 60, 303.7826, 247.5669, 14.2513, 3528.1546},
		{9, 3, 0, 150.2002, 120.7969, 0.0374, 4.5120},
	} {
		c := curveOf(x.modules, x.irradiance, x.cell)
		v := c.best()
		got := [...]float64{c.open, v, c.current(v), c.power(v)}
		if diff := cmp.Diff([...]float64{x.open, x.v, x.i, x.p}, got, near(3e-4)); diff != "" {
			t.Errorf("%d panels at %g W/m² and %g °C: %s", x.modules, x.irradiance, x.cell, diff)
		}
	}
}

func TestCurveProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		modules := rapid.IntRange(1, 20).Draw(t, "modules")
		light := rapid.Float64Range(0, 1500).Draw(t, "light")
		cell := rapid.Float64Range(-40, 90).Draw(t, "cell")
		c := curveOf(modules, light, cell)
		v := c.best()
		for _, other := range []float64{0, 0.5 * v, 0.99 * v, 1.01 * v, c.open} {
			if c.power(other) > c.power(v)+1e-9 {
				t.Fatalf("%g W at %g V, but only %g W at the best %g V", c.power(other), other, c.power(v), v)
			}
		}
		if c.current(c.open) > 1e-9 {
			t.Fatalf("%g A in an open circuit", c.current(c.open))
		}
		if brighter := curveOf(modules, light+1, cell); brighter.power(brighter.best()) <= c.power(v) {
			t.Fatal("more light, but not more power")
		}
		if hotter := curveOf(modules, light, cell+5); light > 1 && (hotter.best() >= v || hotter.open >= c.open || hotter.power(hotter.best()) >= c.power(v)) {
			t.Fatal("hotter cells, but not less voltage or power")
		}
		want := rapid.Float64Range(0, 1).Draw(t, "share") * c.power(v)
		at := c.throttled(want)
		if at < v || at > c.open || c.power(at) > want+1e-9 || c.power(at) < want-1e-6*c.power(v)-1e-9 {
			t.Fatalf("throttled to %g W: %g W at %g V of %g … %g V", want, c.power(at), at, v, c.open)
		}
	})
}

// TestVoltageByLight: it falls a bit with the logarithm of the irradiance.
func TestVoltageByLight(t *testing.T) {
	full, half, tenth := curveOf(1, 1000, 25).best(), curveOf(1, 500, 25).best(), curveOf(1, 100, 25).best()
	if half >= full || tenth >= half || tenth < 0.9*full {
		t.Errorf("best voltages %.2f, %.2f and %.2f V at 1000, 500 and 100 W/m²", full, half, tenth)
	}
}

// TestEfficiency compares with a bisection, worked out apart from this package.
func TestEfficiency(t *testing.T) {
	for dc, want := range map[float64]float64{0: 0, 20: 0, 25: 4.960, 100: 79.350, 1000: 969.982, 2955.6: 2892.383, 5120: 5000} {
		if got := acPower(dc, 5000); math.Abs(got-want) > 1e-3 {
			t.Errorf("%g W of direct current give %.3f W, want %.3f", dc, got, want)
		}
	}
	for ac := 0.0; ac <= 5000; ac += 50 {
		if got := acPower(dcPower(ac, 5000), 5000); math.Abs(got-ac) > 1e-6 {
			t.Errorf("%g W take %g W, which give %g W", ac, dcPower(ac, 5000), got)
		}
	}
}

// TestLine compares with v = v₀ + z·power/v, solved by repetition.
func TestLine(t *testing.T) {
	for _, x := range []struct{ offset, impedance, power, want float64 }{
		{0, 0.2, 0, 230}, {0, 0.2, 5000, 234.26860}, {-2, 0.3, 8000, 238.08062},
	} {
		l := line{offset: x.offset, impedance: x.impedance}
		if got := l.voltage(x.power); math.Abs(got-x.want) > 1e-5 {
			t.Errorf("%+v: %.5f V", x, got)
		}
	}
}

// TestWander: deviation and memory are those asked for, whatever the steps.
func TestWander(t *testing.T) {
	for _, dt := range []float64{0.1, 1, 25} {
		random := rand.New(rand.NewPCG(1, uint64(dt)))
		w := wander{sigma: 2, tau: 10}
		w.begin(random)
		lag := int(10/dt + 0.5) // steps in about tau
		lag = max(lag, 1)
		past := make([]float64, lag)
		var sum, square, product float64
		const n = 500_000
		for i := range n {
			w.step(dt, random)
			sum += w.x
			square += w.x * w.x
			product += w.x * past[i%lag]
			past[i%lag] = w.x
		}
		deviation := math.Sqrt(square / n)
		memory, want := product/square, math.Exp(-float64(lag)*dt/10)
		if math.Abs(sum/n) > 0.05 || math.Abs(deviation-2) > 0.05 || math.Abs(memory-want) > 0.03 {
			t.Errorf("steps of %g s: mean %.3f, deviation %.3f, %.3f left after tau, want 0, 2, %.3f", dt, sum/n, deviation, memory, want)
		}
	}
	if got := approach(approach(10, 20, 3, 7), 20, 4, 7); math.Abs(got-(20-10/math.E)) > 1e-12 {
		t.Errorf("two steps of together one time constant lead to %g", got)
	}
}

// still is weather that does not change.
type still struct{ Conditions }

func (w still) At(time.Duration, Plane) Conditions { return w.Conditions }
func (still) Period() time.Duration                { return 24 * time.Hour }

// quiet is the reference plant without what is random, under still weather.
func quiet(c Conditions) *plant {
	p := newPlant(reference(), sky{c, c}, rand.New(rand.NewPCG(1, 1)))
	p.trackers = [2]wander{{tau: 1}, {tau: 1}}
	p.grid.drift, p.grid.jitter = wander{tau: 1}, wander{tau: 1}
	p.feed(sky{c, c})
	p.now.temp = p.cabinetTarget(sky{c, c})
	return p
}

// TestPlant: 600 W/m², 20 °C and 2 m/s, worked out apart from this package as
// for TestCurve, TestEfficiency and TestLine. Cells are at 20 + 600/(25 + 13.68)
// = 35.51 °C.
func TestPlant(t *testing.T) {
	want := reading{
		vac: 232.869, iac: 14.343,
		vpv: [2]float64{267.213, 178.100}, ipv: [2]float64{7.697, 7.619},
		temp: 33.229, pac: 3340.112, status: Producing,
	}
	got := quiet(Conditions{Irradiance: 600, Air: 20, Wind: 2}).now
	if diff := cmp.Diff(want, got, near(2e-3), cmp.AllowUnexported(reading{})); diff != "" {
		t.Error(diff)
	}
}

// TestPlantProperties: whatever happens to a plant, no energy is made, power is
// voltage times current, and neither the rated power nor the ceiling is passed.
func TestPlantProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		draw := func() sky {
			air, wind := rapid.Float64Range(-30, 45).Draw(t, "air"), rapid.Float64Range(0, 20).Draw(t, "wind")
			light := rapid.OneOf(rapid.Float64Range(0, 1400), rapid.Just(0.0), rapid.Float64Range(0, 10))
			return sky{{light.Draw(t, "light"), air, wind}, {light.Draw(t, "light"), air, wind}}
		}
		spec := another(random)
		p := newPlant(spec, draw(), random)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			c, dt := draw(), rapid.Float64Range(0, 30).Draw(t, "dt")
			if rapid.Bool().Draw(t, "order") {
				p.limit = float64(rapid.IntRange(0, 100).Draw(t, "limit"))
			}
			before := p.ceiling
			wasAwake := p.awake
			p.step(dt, c)
			r := p.now
			light := 0.0
			for i, s := range spec.strings {
				light += float64(s.modules) * 402 * c[i].Irradiance / 1000 * (1 + 0.004*max(0, 25-p.cell[i]))
			}
			switch {
			case r.pac < 0 || r.pac > acPower(r.pdc(), spec.rated)+1e-6:
				t.Fatalf("%g W from %g W", r.pac, r.pdc())
			case r.pac > 0 && r.pac > 0.98*r.pdc():
				t.Fatalf("%g W from %g W is more than inverters can do", r.pac, r.pdc())
			case r.pdc() > light:
				t.Fatalf("%g W from panels that cannot give more than %g W", r.pdc(), light)
			case math.Abs(r.pac-r.vac*r.iac) > 1e-9*spec.rated:
				t.Fatalf("%g W is not %g V times %g A", r.pac, r.vac, r.iac)
			case r.pac > spec.rated*p.ceiling/100+1e-9:
				t.Fatalf("%g W with a ceiling of %g %% of %g W", r.pac, p.ceiling, spec.rated)
			case wasAwake && p.awake && math.Abs(p.ceiling-before) > rampPerS*dt+1e-9:
				t.Fatalf("ceiling went from %g to %g %% in %g s", before, p.ceiling, dt)
			case !p.awake && (r.pac != 0 || r.iac != 0 || r.ipv != [2]float64{}):
				t.Fatalf("asleep, and yet %+v", r)
			case r.temp < -40 || r.temp > 100:
				t.Fatalf("cabinet at %g °C", r.temp)
			}
		}
	})
}

// TestMonotone: more light is more power, until the inverter clips.
func TestMonotone(t *testing.T) {
	last := -1.0
	clipped := 0
	for light := 0.0; light <= 1300; light += 10 {
		r := quiet(Conditions{Irradiance: light, Air: 15, Wind: 1}).now
		switch {
		case r.pac == 5000:
			clipped++
			if r.pdc() > dcPower(5000, 5000)+1e-3 {
				t.Errorf("at %g W/m², %g W are taken for 5000 W", light, r.pdc())
			}
		case r.pac < last || r.pac == last && last > 0:
			t.Errorf("%g W at %g W/m², %g W with less light", r.pac, light, last)
		}
		last = r.pac
	}
	if clipped < 5 {
		t.Error("the inverter never clips")
	}
}

func TestHotterIsLess(t *testing.T) {
	cold, hot := quiet(Conditions{Irradiance: 700, Air: 0, Wind: 3}).now, quiet(Conditions{Irradiance: 700, Air: 40, Wind: 3}).now
	if hot.vpv[0] >= cold.vpv[0] || hot.vpv[1] >= cold.vpv[1] || hot.pac >= cold.pac || hot.temp <= cold.temp {
		t.Errorf("at 0 °C %+v, at 40 °C %+v", cold, hot)
	}
}

// TestTrackers: they look for the best voltage around it, and lose little.
func TestTrackers(t *testing.T) {
	c := Conditions{Irradiance: 600, Air: 15, Wind: 2}
	best := quiet(c).now
	p := newPlant(reference(), sky{c, c}, rand.New(rand.NewPCG(1, 1)))
	var sum, least, most float64
	const n = 1000
	for range n {
		p.step(1, sky{c, c})
		off := p.now.vpv[0]/best.vpv[0] - 1
		least, most = min(least, off), max(most, off)
		sum += p.now.pac / n
	}
	if least > -0.006 || least < -0.03 || most < 0.006 || most > 0.03 {
		t.Errorf("voltages from %.4f to %.4f of the best one", 1+least, 1+most)
	}
	if sum >= best.pac || sum < 0.998*best.pac {
		t.Errorf("%g W on average, of %g W", sum, best.pac)
	}
}

// TestCellsAreSlow: a cloud cools the panels over minutes.
func TestCellsAreSlow(t *testing.T) {
	bright, dim := Conditions{Irradiance: 900, Air: 15, Wind: 1}, Conditions{Irradiance: 90, Air: 15, Wind: 1}
	p := quiet(bright)
	warm, cool := p.cell[0], cellTemperature(dim)
	p.step(cellTau, sky{dim, dim})
	if left := (p.cell[0] - cool) / (warm - cool); math.Abs(left-1/math.E) > 1e-9 {
		t.Errorf("%.3f of the warmth is left after %g s, want %.3f", left, cellTau, 1/math.E)
	}
}

func TestLimit(t *testing.T) {
	c := Conditions{Irradiance: 800, Air: 15, Wind: 2}
	p := quiet(c)
	free := p.now
	p.limit = 30
	for i := 1; i <= 20; i++ {
		p.step(1, sky{c, c})
		if most := 50 * max(30, 100-5*float64(i)); p.now.pac > most+1e-9 {
			t.Errorf("%g W after %d s, want %g W at most", p.now.pac, i, most)
		}
	}
	r := p.now
	if math.Abs(r.pac-1500) > 1e-9 || math.Abs(r.pdc()-dcPower(1500, 5000)) > 1e-3 {
		t.Errorf("held to %g W from %g W, want 1500 W", r.pac, r.pdc())
	}
	if r.vpv[0] <= free.vpv[0] || r.ipv[0] >= free.ipv[0] || r.vac >= free.vac {
		t.Errorf("free %+v, held down %+v", free, r)
	}
	p.limit = 0
	p.step(6, sky{c, c})
	if p.now.pac != 0 || p.now.iac != 0 || !p.awake || p.now.vpv[0] <= r.vpv[0] {
		t.Errorf("held to nothing: %+v", p.now)
	}
	p.limit = 100
	p.step(2, sky{c, c})
	if math.Abs(p.now.pac-500) > 1e-9 {
		t.Errorf("%g W 2 s after the limit was taken away, want 500 W", p.now.pac)
	}
	for range 18 {
		p.step(1, sky{c, c})
	}
	if math.Abs(p.now.pac-free.pac) > 5 {
		t.Errorf("%g W after the limit, %g W before", p.now.pac, free.pac)
	}
}

func TestNight(t *testing.T) {
	day, night := Conditions{Irradiance: 500, Air: 15, Wind: 2}, Conditions{Air: 5, Wind: 2}
	p := quiet(day)
	p.step(60, sky{night, night})
	want := reading{vac: 230, temp: p.now.temp}
	if diff := cmp.Diff(want, p.now, cmp.AllowUnexported(reading{})); diff != "" {
		t.Error(diff)
	}
	if p.now.temp < 5 || p.now.temp >= quiet(day).now.temp {
		t.Errorf("the cabinet has %g °C", p.now.temp)
	}
	// At dusk the panels have a voltage, but no power to start with.
	dusk := Conditions{Irradiance: 3, Air: 5, Wind: 2}
	p.step(60, sky{dusk, dusk})
	if p.now.pac != 0 || p.now.ipv[0] != 0 || p.now.vpv[0] < 50 {
		t.Errorf("at dusk: %+v", p.now)
	}
	// In the morning power begins at nothing, and is not switched.
	p.step(1, sky{day, day})
	p.step(4, sky{day, day})
	if math.Abs(p.now.pac-1000) > 1e-9 {
		t.Errorf("%g W, 4 s after waking, want 1000 W", p.now.pac)
	}
	// What is just enough to work is not enough to start.
	enough := Conditions{Irradiance: 8, Air: 5, Wind: 2}
	p.step(600, sky{enough, enough})
	if !p.awake || p.now.pac <= 0 {
		t.Errorf("fell asleep early: %+v", p.now)
	}
	p.step(60, sky{night, night})
	p.step(600, sky{enough, enough})
	if p.awake || p.now.pac != 0 {
		t.Errorf("woke early: %+v", p.now)
	}
}

// TestCabinetIsSlow: it is two thirds of the way after its time constant.
func TestCabinetIsSlow(t *testing.T) {
	day, night := Conditions{Irradiance: 900, Air: 15, Wind: 2}, Conditions{Air: 15, Wind: 2}
	p := quiet(day)
	above := p.now.temp - 15
	p.step(1, sky{night, night})
	p.step(cabinetTau, sky{night, night})
	if left := (p.now.temp - 15) / above; left < 0.36 || left > 0.38 || above < 10 {
		t.Errorf("%.2f of %g K are left after %g s", left, above, cabinetTau)
	}
}

// TestSiteRepeats: the same seed gives the same values, and another one others.
func TestSiteRepeats(t *testing.T) {
	run := func(seed uint64) (all []reading) {
		w, err := Recorded("mixed")
		if err != nil {
			t.Fatal(err)
		}
		s := newSite(w, 10*time.Hour, 3, seed)
		for range 100 {
			s.step(1)
			for i := range s.plants {
				all = append(all, s.read(i))
			}
		}
		return all
	}
	same := cmp.AllowUnexported(reading{})
	if diff := cmp.Diff(run(7), run(7), same); diff != "" {
		t.Error(diff)
	}
	a, b := run(7), run(8)
	for i := range a {
		if a[i] == b[i] {
			t.Fatalf("reading %d of two seeds is the same: %+v", i, a[i])
		}
	}
}

// TestSiteDays: the second day of a site has the weather of the first, and
// clouds come to each roof at a time of its own.
func TestSiteDays(t *testing.T) {
	w, err := Recorded("mixed")
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(w, 9*time.Hour, 2, 1)
	var first []sky
	for i := range 2 * 24 * 60 {
		s.step(60)
		now := s.sky(s.plants[1].spec)
		if later := s.plants[1].delay; later <= 0 || now[0] != w.At(s.now-later, Plane{}) {
			t.Fatalf("at %v: %v is not the weather of %v before", s.now, now, later)
		}
		if i < 24*60 {
			first = append(first, now)
		} else if now != first[i-24*60] {
			t.Fatalf("at %v: %v, on the day before %v", s.now, now, first[i-24*60])
		}
	}
}

// TestSiteDiffers: neighbours have one grid and one sky, and each is its own.
func TestSiteDiffers(t *testing.T) {
	s := newSite(ClearSky{Latitude: 40, Day: 74}, 11*time.Hour, 8, 1)
	seen := map[string]int{}
	for i, p := range s.plants {
		what := fmt.Sprintf("%.3f %.3f %.3f", s.read(i).pac/p.rated, s.read(i).vpv[0], s.read(i).vac)
		if other, ok := seen[what]; ok {
			t.Errorf("inverters %d and %d are the same: %s", i, other, what)
		}
		seen[what] = i
		if s.read(i).fac != s.read(0).fac {
			t.Errorf("inverter %d has a frequency of its own", i)
		}
		if s.read(i).pac < 0.3*p.rated {
			t.Errorf("inverter %d of %g W gives %g W before noon", i, p.rated, s.read(i).pac)
		}
		for _, x := range p.strings {
			if x.modules < 4 || x.modules > 16 {
				t.Errorf("inverter %d has a string of %d panels", i, x.modules)
			}
		}
	}
}

// TestGridBands: EN 50160 asks for 50 Hz ± 1 % in 99.5 % of a year and 230 V ±
// 10 % in 95 % of a week; this grid is a good one, and it does wander.
func TestGridBands(t *testing.T) {
	for seed := range uint64(3) {
		s := newSite(ClearSky{Latitude: 40, Day: 172}, 0, 2, seed)
		lowV, highV, lowF, highF := 300.0, 0.0, 60.0, 0.0
		for range 7 * 24 * 60 {
			s.step(60)
			for i := range s.plants {
				r := s.read(i)
				lowV, highV = min(lowV, r.vac), max(highV, r.vac)
				lowF, highF = min(lowF, r.fac), max(highF, r.fac)
			}
		}
		if lowV < 207 || highV > 253 || highV-lowV < 8 {
			t.Errorf("seed %d: %.1f to %.1f V in a week", seed, lowV, highV)
		}
		if lowF < 49.5 || highF > 50.5 || highF-lowF < 0.05 {
			t.Errorf("seed %d: %.3f to %.3f Hz in a week", seed, lowF, highF)
		}
	}
}

func BenchmarkStep(b *testing.B) {
	w, err := Recorded("clear") // clipping, the dearest case
	if err != nil {
		b.Fatal(err)
	}
	s := newSite(w, 12*time.Hour, 1, 1)
	b.ReportAllocs()
	for b.Loop() {
		s.step(0.001)
	}
}
