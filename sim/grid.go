package sim

import (
	"math"
	"math/rand/v2"
)

// wander is a number that strays around zero and is drawn back to it: an
// Ornstein-Uhlenbeck process, stepped exactly for any length of step
// (Gillespie 1996).
type wander struct {
	sigma float64 // standard deviation in the long run
	tau   float64 // s; after it a deviation is down to 1/e
	x     float64
}

// begin sets w to somewhere it may be after a long time.
func (w *wander) begin(random *rand.Rand) { w.x = w.sigma * random.NormFloat64() }

// step lets dt seconds pass.
func (w *wander) step(dt float64, random *rand.Rand) {
	kept := math.Exp(-dt / w.tau)
	w.x = w.x*kept + w.sigma*math.Sqrt(1-kept*kept)*random.NormFloat64()
}

// approach moves x towards target as far as a first-order lag of tau seconds
// does in dt.
func approach(x, target, dt, tau float64) float64 {
	return target + (x-target)*math.Exp(-dt/tau)
}

// The grid, of 230 V and 50 Hz. Measured frequencies of European grids stray by
// 10 to 20 mHz with a memory of some minutes and differ by 1 to 2 mHz from one
// second to the next (Rydin Gorjão et al. 2020, "Open database analysis of
// scaling and spatio-temporal properties of power grid frequencies"); at a
// house, the voltage drifts by 2 V in hours and jitters as loads come and go.
const (
	nominalVoltage   = 230.0 // V
	nominalFrequency = 50.0  // Hz

	frequencySigma, frequencyTau = 0.016, 180.0 // Hz, s
	driftSigma, driftTau         = 1.8, 7200.0  // V, s
	jitterSigma, jitterTau       = 0.7, 3.0     // V, s
)

// line is the grid's voltage where an inverter is connected.
type line struct {
	offset        float64 // V, by which the place differs from the nominal voltage
	impedance     float64 // Ω, of the line to the transformer
	drift, jitter wander
}

func (l *line) begin(random *rand.Rand) {
	l.drift, l.jitter = wander{sigma: driftSigma, tau: driftTau}, wander{sigma: jitterSigma, tau: jitterTau}
	l.drift.begin(random)
	l.jitter.begin(random)
}

func (l *line) step(dt float64, random *rand.Rand) {
	l.drift.step(dt, random)
	l.jitter.step(dt, random)
}

// voltage is that at the inverter when it feeds in power watts: the current
// raises it by what falls on the line, v = v₀ + z·power/v.
func (l *line) voltage(power float64) float64 {
	open := nominalVoltage + l.offset + l.drift.x + l.jitter.x
	return (open + math.Sqrt(open*open+4*l.impedance*power)) / 2
}

// The protection against too high a voltage, as EN 50549-1 has it: the mean of
// ten minutes may be 110 % of the nominal voltage, any value 115 %. An inverter
// that has left the grid comes back when the voltage has been fit for a minute.
const (
	meanTau     = 600.0                 // s
	highestMean = 1.10 * nominalVoltage // V
	highest     = 1.15 * nominalVoltage // V
	fit         = 1.09 * nominalVoltage // V
	reconnect   = 60.0                  // s
)

// Limits of the options.
const (
	MinGrid = 180 // V
	MaxGrid = 280 // V
	MaxOhms = 5   // Ω
)

// watch is the protection of an inverter. It begins with the voltage it first
// sees.
type watch struct {
	mean    float64 // V, as a first-order lag has it
	tripped bool
	fitFor  float64 // s
}

// step lets dt seconds pass at v volts.
func (w *watch) step(dt, v float64) {
	if w.mean == 0 {
		w.mean = v
	}
	w.mean = approach(w.mean, v, dt, meanTau)
	switch {
	case v > highest || w.mean > highestMean && v > fit:
		w.tripped, w.fitFor = true, 0
	case w.tripped && v > fit:
		w.fitFor = 0
	case w.tripped:
		if w.fitFor += dt; w.fitFor >= reconnect {
			w.tripped, w.mean = false, v
		}
	}
}
