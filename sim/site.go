package sim

import (
	"math/rand/v2"
	"time"
)

// site is several plants under one sky and at one grid. It is stepped from
// outside and knows no clock; the same steps give the same values.
type site struct {
	weather   Weather
	now       time.Duration // since a midnight; less than the weather's period, which is of whole days
	dayEnds   time.Duration // the time of day at which counters of the day begin again
	random    *rand.Rand
	frequency wander
	plants    []*plant
}

// newSite returns a site that has been at its time of day start for long.
func newSite(w Weather, start time.Duration, plants int, seed uint64) *site {
	s := &site{
		weather:   w,
		now:       start % w.Period(),
		random:    rand.New(rand.NewPCG(seed, 0)),
		frequency: wander{sigma: frequencySigma, tau: frequencyTau},
	}
	s.frequency.begin(s.random)
	for i := range plants {
		random := rand.New(rand.NewPCG(seed, uint64(i)+1))
		built := reference()
		if i > 0 {
			built = another(random)
		}
		s.plants = append(s.plants, newPlant(built, s.sky(built), random))
	}
	return s
}

// change lets f change what the plants are built of, before the first step.
func (s *site) change(f func(*spec)) {
	for _, p := range s.plants {
		f(&p.spec)
		p.grid.offset, p.grid.impedance = p.offset, p.line
		p.feed(s.sky(p.spec))
	}
}

// step lets dt seconds pass.
func (s *site) step(dt float64) {
	before := s.now
	s.now = (s.now + time.Duration(dt*float64(time.Second))) % s.weather.Period()
	s.frequency.step(dt, s.random)
	for _, p := range s.plants {
		if passed(s.dayEnds, before%day, s.now%day) {
			p.midnight()
		}
		p.step(dt, s.sky(p.spec))
	}
}

// passed reports whether it was the time of day at between before and now, less
// than a day later.
func passed(at, before, now time.Duration) bool {
	if now < before {
		return before < at || at <= now
	}
	return before < at && at <= now
}

// sky is what the strings of a plant meet now.
func (s *site) sky(p spec) (c sky) {
	for i, x := range p.strings {
		c[i] = s.weather.At(s.now-p.delay, x.plane)
	}
	return c
}

// read is what inverter i measures now.
func (s *site) read(i int) reading {
	r := s.plants[i].now
	r.fac = nominalFrequency + s.frequency.x
	r.energy = s.plants[i].energy
	return r
}

// reference is the first plant of every site: 6 kW of panels, on two sides of a
// roof, at 5 kW.
func reference() spec {
	return spec{
		rated: 5000,
		strings: [2]pvString{
			{plane: Plane{Tilt: 30, Azimuth: 180}, modules: 9, clean: 0.98},
			{plane: Plane{Tilt: 30, Azimuth: 250}, modules: 6, clean: 0.97},
		},
		line: 0.2,
		ramp: rampPerS,
	}
}

// another is a plant that differs from the reference as neighbours do.
func another(random *rand.Rand) spec {
	between := func(a, b float64) float64 { return a + (b-a)*random.Float64() }
	sizes := [...]float64{3680, 4600, 5000, 6000, 8000}
	s := spec{
		rated:  sizes[random.IntN(len(sizes))],
		offset: between(-2, 2),
		line:   between(0.1, 0.3),
		ramp:   rampPerS,
		delay:  time.Duration(between(0, 90) * float64(time.Second)),
	}
	panels := int(s.rated*between(1.05, 1.3)/400 + 0.5)
	first := panels/2 + random.IntN(2)
	tilt, azimuth := between(15, 45), between(120, 200)
	for i, modules := range [2]int{first, panels - first} {
		s.strings[i] = pvString{
			plane:   Plane{Tilt: tilt, Azimuth: azimuth + 90*float64(i)},
			modules: modules,
			clean:   between(0.94, 0.99),
		}
	}
	return s
}
