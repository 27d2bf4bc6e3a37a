package sim

import (
	"math"

	"ecowatt/inverter"
)

// page is what an inverter shows at one moment.
type page struct {
	reading
	limit float64 // %
	rated float64 // W
}

// The points that count, in kWh, and the one that can be written.
const (
	energyToday = "energy_today"
	energyTotal = "energy_total"
	limitPoint  = "export_power_percent"
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
	case "pac":
		return p.pac, true
	case "pac1":
		return p.pac / l.phases, true
	case "qac":
		return 0, true
	case "power_factor":
		return 1, true
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
	}
	return 0, false
}

// raw is the whole number that stands for a value in a register. A counter
// begins again at 0 after the most that fits.
func raw(value float64, g inverter.Register) int64 {
	switch g.Point.Unit {
	case "Wh": // and not kWh
		value *= 1000
	case "MWh", "kW": // and not kWh, W
		value /= 1000
	}
	n := int64(math.Round(value * math.Pow10(-g.Point.Exponent)))
	if g.Point.Name == energyToday || g.Point.Name == energyTotal {
		n &= 1<<min(16*g.Type.Words(), 63) - 1
	}
	return n
}
