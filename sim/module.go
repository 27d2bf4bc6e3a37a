package sim

import "math"

// A panel, as data sheets have it for 400 W: 54 cells' voltages in series.
const (
	moduleCells     = 54
	moduleCurrent   = 13.9    // A, short circuit, at 1000 W/m² and 25 °C
	moduleVoltage   = 37.1    // V, open circuit, at the same
	currentPerK     = 0.0005  // share of moduleCurrent
	voltagePerK     = -0.0027 // share of moduleVoltage
	ideality        = 1.08    // of the cells' diodes
	resistiveDrop   = 0.77    // V at 1000 W/m²: what series resistance adds to the bend of the curve
	shuntIrradiance = 4.0     // W/m², towards which the shunt resistance eats the voltage up

	standardIrradiance = 1000.0 // W/m²
	standardCell       = 25.0   // °C
	zeroCelsius        = 273.15 // K
	thermalPerK        = 8.617333e-5
)

// heatConstant and heatWind are how panels lose heat, in W/(m²·K), with wind in
// m/s: Faiman 2008, "Assessing the outdoor operating temperature of
// photovoltaic modules"; the means of his seven modules.
const (
	heatConstant = 25.0
	heatWind     = 6.84
	cellTau      = 300.0 // s, in which a panel follows
)

// cellTemperature is that which a panel takes on after a while.
func cellTemperature(c Conditions) float64 {
	return c.Air + c.Irradiance/(heatConstant+heatWind*c.Wind)
}

// curve is the current of a string by its voltage. It is that of one ideal
// diode beside a source of current:
//
//	I = source · (1 − exp((V − open)/bend))
type curve struct {
	source float64 // A, short circuit
	open   float64 // V, without current
	bend   float64 // V
}

// curveOf is the curve of a number of panels in series.
func curveOf(modules int, irradiance, cell float64) curve {
	if irradiance <= 0 {
		return curve{bend: 1}
	}
	n, light, hotter := float64(modules), irradiance/standardIrradiance, cell-standardCell
	thermal := moduleCells * ideality * thermalPerK * (cell + zeroCelsius)
	open := moduleVoltage*(1+voltagePerK*hotter) + thermal*math.Log(light)
	return curve{
		source: moduleCurrent * light * (1 + currentPerK*hotter),
		open:   n * max(0, open) * (1 - math.Exp(-irradiance/shuntIrradiance)),
		bend:   n * (thermal + resistiveDrop*light),
	}
}

func (c curve) current(v float64) float64 {
	return max(0, c.source*(1-math.Exp((v-c.open)/c.bend)))
}

func (c curve) power(v float64) float64 { return v * c.current(v) }

// best is the voltage with the most power. There, exp((open − V)/bend) is
// 1 + V/bend, which Newton's method solves from above in a few turns.
func (c curve) best() float64 {
	end := c.open / c.bend
	x := end
	for range 6 {
		x -= (math.Log1p(x) + x - end) / (1 + 1/(1+x))
	}
	return x * c.bend
}

// throttled is the voltage, beyond the best one, at which the power has fallen
// to p.
func (c curve) throttled(p float64) float64 {
	low, high := c.best(), c.open
	for range 50 {
		if middle := (low + high) / 2; c.power(middle) > p {
			low = middle
		} else {
			high = middle
		}
	}
	return high
}
