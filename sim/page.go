package sim

import (
	"math"

	"ecowatt/inverter"
)

// page is what an inverter shows at one moment.
type page struct {
	reading
	limit float64 // %, as it can be read back
	rated float64 // W
	left  float64 // s until the limit falls back; 0: it does not
}

// The points that count, in kWh; the one that can be written, and the time until
// it falls back.
const (
	energyToday = "energy_today"
	energyTotal = "energy_total"
	limitPoint  = "export_power_percent"
	leftPoint   = "fallback_left"
)

// measured is the value of a point, in its unit, on a page. The grid is the same
// in all phases.
func (l layout) measured(point string, p page) (float64, bool) {
	switch point {
	case "vac1", "vac2", "vac3":
		return p.vac, true
	case "iac1", "iac2", "iac3":
		return p.iac / l.phases, true
	case "iac":
		return p.iac, true
	case "fac1":
		return p.fac, true
	case "vpv1", "vdc":
		return p.vpv[0], true
	case "vpv2":
		return p.vpv[1], true
	case "ipv1":
		return p.ipv[0], true
	case "ipv2":
		return p.ipv[1], true
	case "ppv1":
		return p.vpv[0] * p.ipv[0], true
	case "ppv2":
		return p.vpv[1] * p.ipv[1], true
	case "idc":
		return p.pdc() / max(p.vpv[0], 1), true
	case "pdc":
		return p.pdc(), true
	case "temp", "temp2":
		return p.temp, true
	case "pac", "sac":
		return p.pac, true
	case "pac1":
		return p.pac / l.phases, true
	case "qac":
		return 0, true
	case "power_factor":
		return 1, true
	case "power_factor_percent":
		return 100, true
	case "rated_current":
		return p.rated / nominalVoltage / l.phases, true
	case "rated_power":
		return p.rated, true
	case "status":
		return float64(p.status), true
	case "alarm":
		return float64(p.alarm), true
	case energyToday:
		return p.energy.Today / 1000, true
	case energyTotal:
		return p.energy.Total / 1000, true
	case limitPoint:
		return p.limit, true
	case leftPoint:
		return math.Ceil(p.left), true
	}
	return 0, false
}

// raw is the whole number that stands for a value in a register. A counter
// begins again at 0 after the most that fits.
func raw(value float64, g inverter.Register) int64 {
	n := int64(math.Round(value * math.Pow10(-g.Point.Exponent)))
	if g.Point.Name == energyToday || g.Point.Name == energyTotal {
		n &= 1<<min(16*g.Type.Words(), 63) - 1
	}
	return n
}
