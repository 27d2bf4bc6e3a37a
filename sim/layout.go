package sim

import (
	"fmt"
	"math"
	"slices"

	"ecowatt"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
)

// layout says where in the registers of an inverter which word stands.
type layout struct {
	places   map[address]place
	sleeping inverter.Sleeping
	phases   float64  // among which the current is divided
	control  *control // how the limit is ordered; nil where it cannot be
}

type address struct {
	table inverter.Table
	word  uint16
}

// place is one word of a register, or, where the register has no point, a word
// that stands there until it is written.
type place struct {
	register inverter.Register
	word     int
	initial  uint16
}

func (p place) fixed() bool { return p.register.Point.Name == "" }

// ownProfile is the one beyond whose registers this simulator has more of its
// own.
const ownProfile = "ecowatt-sim"

// beyond are registers that the original simulator does not have, besides
// ownTimer. They stand so far behind its own that nobody reads them by the way.
func beyond() []inverter.Register {
	return []inverter.Register{
		{Point: ecowatt.Point{Name: "status"}, Table: inverter.Holding, Address: 100},
		{Point: ecowatt.Point{Name: "alarm"}, Table: inverter.Holding, Address: 101},
		{Point: ecowatt.Point{Name: energyToday, Unit: "kWh", Exponent: -2}, Table: inverter.Holding, Address: 102, Type: inverter.U32},
		{Point: ecowatt.Point{Name: energyTotal, Unit: "kWh", Exponent: -2}, Table: inverter.Holding, Address: 104, Type: inverter.U32},
		{Point: ecowatt.Point{Name: leftPoint, Unit: "s"}, Table: inverter.Holding, Address: 108},
	}
}

// ownTimer is the timer of the limit, which the original simulator does not have
// either: until it is set, a limit is for ever.
func ownTimer() inverter.Fallback {
	return inverter.Fallback{Given: true, Timer: inverter.Place{Address: 106}, HasValue: true, Value: inverter.Place{Address: 107}}
}

// newLayout lays out the registers of a profile, and returns the points that no
// inverter here has: they stand at "no value", or at 0 where there is no such.
func newLayout(p inverter.Profile) (l layout, unknown []string, err error) {
	l = layout{places: map[address]place{}, sleeping: p.Sleeping, phases: 1}
	registers := p.Registers
	if p.Name == ownProfile {
		registers = slices.Concat(registers, beyond())
	}
	if _, ok := p.Register("vac3"); ok {
		l.phases = 3
	}
	reach := p.Gap
	for _, r := range registers {
		if r.Scale.Given { // which is read with the register, and all that stands between
			reach = max(reach, int(r.Address)-int(r.Scale.Address), int(r.Scale.Address)-int(r.Address))
		}
		if _, ok := l.value(r, page{}); !ok {
			unknown = append(unknown, r.Point.Name)
		}
		l.scale(&r)
		l.put(r, r.Table, r.Address)
		if r.Point.Writable && r.Point.Name == limitPoint {
			if p.Name == ownProfile && r.Control == nil {
				r.Control = &inverter.Control{Address: r.Address, Fallback: ownTimer()}
			}
			if l.control, err = newControl(l, r); err != nil {
				return layout{}, nil, fmt.Errorf("profile %s: %w", p.Name, err)
			}
		}
	}
	for _, t := range p.Texts {
		for i := range t.Words {
			l.places[address{t.Table, t.Address + uint16(i)}] = place{initial: textWord(i)}
		}
	}
	l.fill(reach)
	return l, unknown, nil
}

// put lays r out from at on, where nothing stands yet.
func (l layout) put(r inverter.Register, t inverter.Table, at uint16) {
	for i := range r.Type.Words() {
		a := address{t, at + uint16(i)}
		if _, ok := l.places[a]; !ok {
			l.places[a] = place{register: r, word: i}
		}
	}
}

// scale lays out the scale factor of r, which is the exponent of the first of
// the points that it is for, and turns r into a register with that exponent.
func (l layout) scale(r *inverter.Register) {
	if !r.Scale.Given {
		return
	}
	a := address{r.Table, r.Scale.Address}
	if _, ok := l.places[a]; !ok {
		exponent := r.Point.Exponent
		if r.Type.Words() == 1 && (r.Point.Unit == "W" || r.Point.Unit == "VA" || r.Point.Unit == "var") {
			exponent = max(exponent, 0) // tenths of these do not fit
		}
		l.places[a] = place{initial: uint16(int16(exponent))}
	}
	r.Point.Exponent = int(int16(l.places[a].initial))
	r.Scale = inverter.Scale{}
}

// textWord is a word of the texts that inverters here hold.
func textWord(i int) uint16 {
	const text = "EcoWatt sim "
	i = 2 * i
	if i+1 >= len(text) {
		return 0
	}
	return uint16(text[i])<<8 | uint16(text[i+1])
}

// fill puts words between those that are no more than gap words apart, as far
// as reads of the profile carry along what nobody asked for.
func (l layout) fill(gap int) {
	var all []address
	for a := range l.places {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b address) int { return (int(a.table)-int(b.table))<<20 + int(a.word) - int(b.word) })
	for i := 1; i < len(all); i++ {
		a, b := all[i-1], all[i]
		if a.table != b.table || int(b.word)-int(a.word)-1 > gap {
			continue
		}
		for w := a.word + 1; w < b.word; w++ {
			l.places[address{a.table, w}] = place{}
		}
	}
}

// read returns the words that r asks for.
func (l layout) read(r modbus.Request, now page, set memory) ([]uint16, error) {
	got := make([]uint16, r.Count)
	for i := range got {
		a := address{inverter.Table(r.Function), r.Address + uint16(i)}
		at, ok := l.places[a]
		if !ok {
			return nil, l.refusal(a.table)
		}
		if at.fixed() {
			got[i] = at.initial
			if w, ok := set[a.word]; ok && a.table == inverter.Holding {
				got[i] = w
			}
			continue
		}
		encoded, err := l.encode(at.register, now)
		if err != nil {
			return nil, fmt.Errorf("encoding %s: %w", at.register.Point.Name, err)
		}
		got[i] = encoded[at.word]
	}
	return got, nil
}

// encode is what a register holds.
func (l layout) encode(g inverter.Register, now page) ([]uint16, error) {
	value, ok := l.value(g, now)
	switch {
	case ok && g.Type == inverter.F32:
		bits := math.Float32bits(float32(value)) // to all the digits that it has
		return []uint16{uint16(bits >> 16), uint16(bits)}, nil
	case ok:
		n := raw(value, g)
		encoded, err := g.Encode(n)
		if err == nil || n != 0 || len(g.Absent) == 0 {
			return encoded, err
		}
	}
	words := make([]uint16, g.Type.Words())
	if len(g.Absent) > 0 {
		for i := range words {
			at := len(words) - 1 - i
			if g.Order == inverter.LowFirst {
				at = i
			}
			words[at] = uint16(g.Absent[0] >> (16 * i))
		}
	}
	return words, nil
}

// value is what the register g tells of the page, in its point's unit; false
// where no inverter here has that.
func (l layout) value(g inverter.Register, p page) (float64, bool) {
	switch {
	case g.Point.Name == l.sleeping.Point:
		return l.sleep(g, p.status), true
	case g.Type.Bitfield():
		return bits(g.Names, p)
	case g.Type.Named():
		return meaning(g.Names, p.status)
	}
	value, ok := l.measured(g.Point.Name, p)
	switch g.Point.Unit {
	case "Wh": // and not kWh
		value *= 1000
	case "MWh", "kW": // and not kWh, W
		value /= 1000
	}
	return value, ok
}

// sleep is the value of the point that says whether the inverter sleeps: while it
// does not, none of those that say so, whatever words there are.
func (l layout) sleep(g inverter.Register, s Status) float64 {
	if s == Sleeping {
		return float64(l.sleeping.Values[0])
	}
	if v, ok := meaning(g.Names, s); ok && !slices.Contains(l.sleeping.Values, int64(v)) {
		return v
	}
	for _, n := range g.Names {
		if v := int64(n.Number); !slices.Contains(l.sleeping.Values, v) && v > 0 {
			return float64(v)
		}
	}
	return float64(slices.Max(l.sleeping.Values) + 1)
}

// refusal is the exception for an address that is not in a table: an inverter
// without any register of that table does not know the function.
func (l layout) refusal(t inverter.Table) error {
	for at := range l.places {
		if at.table == t {
			return modbus.ErrIllegalAddress
		}
	}
	return modbus.ErrIllegalFunction
}
