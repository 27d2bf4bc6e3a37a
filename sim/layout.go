package sim

import (
	"fmt"
	"math"
	"slices"

	"ecowatt"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
)

// limitPoint is the point that can be written.
const limitPoint = "export_power_percent"

// layout says where in the registers of a profile which word stands.
type layout map[address]place

type address struct {
	table inverter.Table
	word  uint16
}

// place is one word of a register.
type place struct {
	register inverter.Register
	word     int
}

// ownProfile is the one beyond whose registers this simulator has more of its
// own.
const ownProfile = "ecowatt-sim"

// beyond are registers that the original simulator does not have. They stand
// so far behind its own that nobody reads them by the way.
func beyond() []inverter.Register {
	return []inverter.Register{
		{Point: ecowatt.Point{Name: "status"}, Table: inverter.Holding, Address: 100},
		{Point: ecowatt.Point{Name: "alarm"}, Table: inverter.Holding, Address: 101},
		{Point: ecowatt.Point{Name: energyToday, Unit: "kWh", Exponent: -2}, Table: inverter.Holding, Address: 102, Type: inverter.U32},
		{Point: ecowatt.Point{Name: energyTotal, Unit: "kWh", Exponent: -2}, Table: inverter.Holding, Address: 104, Type: inverter.U32},
	}
}

// newLayout lays out the registers of a profile. It refuses points that no
// inverter here has.
func newLayout(p inverter.Profile) (layout, error) {
	l := layout{}
	registers := p.Registers
	if p.Name == ownProfile {
		registers = slices.Concat(registers, beyond())
	}
	for _, r := range registers {
		if _, ok := measured(r.Point.Name, page{}); !ok {
			return nil, fmt.Errorf("profile %s: the simulator has no point %q", p.Name, r.Point.Name)
		}
		if r.Point.Writable && r.Point.Name != limitPoint {
			return nil, fmt.Errorf("profile %s: point %q cannot be written here", p.Name, r.Point.Name)
		}
		for i := range r.Type.Words() {
			l[address{r.Table, r.Address + uint16(i)}] = place{r, i}
		}
	}
	return l, nil
}

// page is what an inverter shows at one moment.
type page struct {
	reading
	limit float64 // %
}

// measured is the value of a point, in its unit, on a page.
func measured(point string, p page) (float64, bool) {
	switch point {
	case "vac1":
		return p.vac, true
	case "iac1":
		return p.iac, true
	case "fac1":
		return p.fac, true
	case "vpv1":
		return p.vpv[0], true
	case "vpv2":
		return p.vpv[1], true
	case "ipv1":
		return p.ipv[0], true
	case "ipv2":
		return p.ipv[1], true
	case "temp":
		return p.temp, true
	case "pac":
		return p.pac, true
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

// The points that count, in kWh.
const energyToday, energyTotal = "energy_today", "energy_total"

// raw is the whole number that stands for a value in a register. A counter
// begins again at 0 after the most that fits.
func raw(value float64, g inverter.Register) int64 {
	n := int64(math.Round(value * math.Pow10(-g.Point.Exponent)))
	if g.Point.Name == energyToday || g.Point.Name == energyTotal {
		n &= 1<<min(16*g.Type.Words(), 63) - 1
	}
	return n
}

// read returns the words that r asks for.
func (l layout) read(r modbus.Request, now page) ([]uint16, error) {
	words := make([]uint16, r.Count)
	for i := range words {
		at, ok := l[address{inverter.Table(r.Function), r.Address + uint16(i)}]
		if !ok {
			return nil, l.refusal(inverter.Table(r.Function))
		}
		value, _ := measured(at.register.Point.Name, now)
		encoded, err := at.register.Encode(raw(value, at.register))
		if err != nil {
			return nil, fmt.Errorf("encoding %s: %w", at.register.Point.Name, err)
		}
		words[i] = encoded[at.word]
	}
	return words, nil
}

// refusal is the exception for an address that is not in a table: an inverter
// without any register of that table does not know the function.
func (l layout) refusal(t inverter.Table) error {
	for at := range l {
		if at.table == t {
			return modbus.ErrIllegalAddress
		}
	}
	return modbus.ErrIllegalFunction
}

// write returns the limit, in percent, that r orders.
func (l layout) write(r modbus.Request) (float64, error) {
	at, ok := l[address{inverter.Holding, r.Address}]
	g := at.register
	if !ok || !g.Point.Writable || at.word != 0 || len(r.Values) != g.Type.Words() {
		return 0, modbus.ErrIllegalAddress
	}
	raw, err := g.Decode(r.Values)
	if err != nil || g.CheckWrite(raw) != nil {
		return 0, modbus.ErrIllegalValue
	}
	return float64(raw) * math.Pow10(g.Point.Exponent), nil
}
