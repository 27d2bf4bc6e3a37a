package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// The inverter.
const (
	startVoltage = 90.0   // V of a string, from which it can start
	rampPerS     = 5.0    // % of the rated power, up and down: limits and starts; see Options
	restartS     = 60.0   // until an inverter feeds in again that a limit of 0 has stopped
	derateFrom   = 65.0   // °C of the cabinet, from which it may give less
	deratePerK   = 0.04   // share of the rated power
	cabinetRise  = 900.0  // K above the air when everything were lost in it
	cabinetTau   = 1200.0 // s
	trackerSigma = 0.004  // share of the voltage by which a tracker is off the best one
	trackerTau   = 2.0    // s

	// What an inverter loses, as shares of its rated power: for itself, in
	// proportion to the power, and to its square (Schmidt and Sauer 1996). The
	// best efficiency of these is 97.8 %, at 58 % of the rated power.
	lossIdle, lossLinear, lossSquare = 0.004, 0.008, 0.012
)

// spec is what a plant is built of.
type spec struct {
	rated   float64 // W, on the AC side
	strings [2]pvString
	offset  float64       // V, see line
	line    float64       // Ω, see line
	floor   float64       // %, below which it does not go for a limit
	ramp    float64       // % in a second
	stops   bool          // a limit of 0 stops it
	delay   time.Duration // by which clouds come later than to others
}

// pvString is a string of panels.
type pvString struct {
	plane   Plane
	modules int     // in series
	clean   float64 // share of the light that dirt and age leave
}

// plant is one inverter with its panels and its line to the grid. It is stepped
// from outside and knows no clock; the same steps give the same values.
type plant struct {
	spec
	random   *rand.Rand
	limit    float64 // % of the rated power, as last ordered
	ceiling  float64 // %, on its way to limit
	awake    bool
	cell     [2]float64 // °C
	trackers [2]wander
	grid     line
	watch    watch
	restart  float64 // s until it feeds in again after a limit of 0 has stopped it
	energy   Energy
	now      reading
}

// reading is what an inverter measures.
type reading struct {
	vac, iac, fac float64
	vpv, ipv      [2]float64
	temp          float64 // °C, of the cabinet
	pac           float64 // W
	status        Status
	alarm         Alarm
	energy        Energy
}

// Status is what an inverter does.
type Status byte

// The values of the point status.
const (
	Sleeping Status = iota
	Waiting         // for the grid, which was outside of its limits, or after a stop
	Producing
	Limited // by order
	Derated // as it is hot
)

func (s Status) String() string {
	names := [...]string{"sleeping", "waiting", "producing", "limited", "derated"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("status %d", byte(s))
}

// Alarm are the bits of the point alarm.
type Alarm uint16

// The alarms.
const (
	AlarmOverVoltage Alarm = 1 << iota // the grid's voltage is or was too high, and the inverter is off
	AlarmHot                           // it gives less, as it is hot
)

// pdc is the power of the strings, in W.
func (r reading) pdc() float64 { return r.vpv[0]*r.ipv[0] + r.vpv[1]*r.ipv[1] }

// sky is what the two strings meet.
type sky [2]Conditions

// newPlant returns a plant that has been under the sky c for long.
func newPlant(s spec, c sky, random *rand.Rand) *plant {
	p := &plant{spec: s, random: random, limit: 100, ceiling: 100, awake: true}
	for i := range p.strings {
		p.cell[i] = cellTemperature(c[i])
		p.trackers[i] = wander{sigma: trackerSigma, tau: trackerTau}
		p.trackers[i].begin(random)
	}
	p.grid = line{offset: s.offset, impedance: s.line}
	p.grid.begin(random)
	p.feed(c)
	p.now.temp = p.cabinetTarget(c)
	return p
}

// step lets dt seconds pass, at whose end the sky is c. The frequency of the
// grid is not the plant's: see reading.fac.
func (p *plant) step(dt float64, c sky) {
	for i := range p.strings {
		p.cell[i] = approach(p.cell[i], cellTemperature(c[i]), dt, cellTau)
		p.trackers[i].step(dt, p.random)
	}
	p.grid.step(dt, p.random)
	p.watch.step(dt, p.now.vac)
	if p.restart = max(0, p.restart-dt); p.stops && p.limit == 0 && p.ceiling == 0 {
		p.restart = restartS
	}
	switch {
	case p.off():
		p.ceiling = 0
	case p.awake:
		p.ceiling += min(max(max(p.limit, p.floor)-p.ceiling, -p.ramp*dt), p.ramp*dt)
	}
	p.feed(c)
	p.now.temp = approach(p.now.temp, p.cabinetTarget(c), dt, cabinetTau)
	p.energy.Today += p.now.pac * dt / 3600
	p.energy.Total += p.now.pac * dt / 3600
}

// off reports whether the inverter is off the grid, or has been stopped.
func (p *plant) off() bool { return p.watch.tripped || p.restart > 0 }

// midnight begins a new day.
func (p *plant) midnight() { p.energy.Today = 0 }

// feed decides how the plant works under the sky c: it sleeps, follows the
// best power, or holds it down to the ceiling.
func (p *plant) feed(c sky) {
	var curves [2]curve
	var v [2]float64
	offered, highest := 0.0, 0.0
	for i, s := range p.strings {
		curves[i] = curveOf(s.modules, c[i].Irradiance*s.clean, p.cell[i])
		v[i] = min(curves[i].best()*(1+p.trackers[i].x), curves[i].open)
		offered += curves[i].power(v[i])
		highest = max(highest, curves[i].open)
	}
	p.wakeOrSleep(offered, highest)
	cool := min(1, max(0, 1-deratePerK*(p.now.temp-derateFrom))) // share of the rated power
	most := p.rated * min(p.ceiling/100, cool)
	ac := acPower(offered, p.rated)
	p.tell(ac > most, cool)
	switch {
	case !p.awake || p.off():
		ac = 0
		for i := range v {
			v[i] = curves[i].open
		}
	case ac > most:
		share := dcPower(most, p.rated) / offered
		for i, k := range curves {
			v[i] = k.throttled(share * k.power(v[i]))
		}
		ac = most
	}
	p.now.pac = ac
	p.now.vac = p.grid.voltage(ac)
	p.now.iac = ac / p.now.vac
	for i, k := range curves {
		p.now.vpv[i], p.now.ipv[i] = v[i], k.current(v[i])
	}
}

// tell sets status and alarm. The power is held down if there is more than the
// inverter may give; cool is the share that its temperature lets it give.
func (p *plant) tell(heldDown bool, cool float64) {
	p.now.alarm = 0
	if p.watch.tripped {
		p.now.alarm |= AlarmOverVoltage
	}
	hot := p.awake && heldDown && cool < p.ceiling/100
	if hot {
		p.now.alarm |= AlarmHot
	}
	switch {
	case !p.awake:
		p.now.status = Sleeping
	case p.off():
		p.now.status = Waiting
	case hot:
		p.now.status = Derated
	case heldDown && p.ceiling < 100:
		p.now.status = Limited
	default:
		p.now.status = Producing
	}
}

// wakeOrSleep wakes an inverter that is offered twice what it needs for
// itself, and puts one to sleep that is offered less than that once. Power
// begins at nothing.
func (p *plant) wakeOrSleep(offered, voltage float64) {
	need := p.rated * lossIdle
	switch {
	case p.awake && (offered < need || voltage < startVoltage):
		p.awake = false
		p.ceiling = 0
	case !p.awake && offered > 2*need && voltage >= startVoltage:
		p.awake = true
	}
}

// cabinetTarget is the temperature that the cabinet takes on after a while.
func (p *plant) cabinetTarget(c sky) float64 {
	return c[0].Air + cabinetRise*max(0, p.now.pdc()-p.now.pac)/p.rated
}

// acPower is what is left of dc watts: the positive solution of
// dc = ac + loss(ac), or 0.
func acPower(dc, rated float64) float64 {
	linear, offered := 1+lossLinear, dc/rated-lossIdle
	if offered <= 0 {
		return 0
	}
	return rated * (math.Sqrt(linear*linear+4*lossSquare*offered) - linear) / (2 * lossSquare)
}

// dcPower is what ac watts take: the inverse of acPower.
func dcPower(ac, rated float64) float64 {
	share := ac / rated
	return rated * (lossIdle + share*(1+lossLinear+share*lossSquare))
}
