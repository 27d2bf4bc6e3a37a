package sunspec

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"ecowatt"
	"ecowatt/inverter"
)

// Names of points that mean something to others.
const (
	limitPoint = "export_power_percent"
	statePoint = "state"
	powerPoint = "pac"
)

// settle is how long inverters take to follow a limit, at most, by what their
// users tell.
const settle = 10 * time.Second

// The order of the limits: at least 1 %, because 0 stops or disconnects some
// inverters, and at most 100 %.
const (
	leastPercent = 1
	mostPercent  = 100
)

// Profile makes a profile of the device: its points are bound to the addresses
// that were found. name is the profile's, unit the one that answered.
func (d Device) Profile(name string, unit byte) (inverter.Profile, error) {
	p := inverter.Profile{
		Name:   name,
		Title:  "SunSpec",
		Source: fmt.Sprintf("the inverter's SunSpec map at %d", d.Base),
		Unit:   unit,
		Block:  inverter.MaxBlock,
		Gap:    30, // models follow each other without a hole
	}
	for _, t := range tables() {
		for _, m := range d.Models {
			if slices.Contains(t.ids, m.ID) {
				p.Registers = appendNew(p.Registers, t.registers(m))
			}
		}
	}
	if len(p.Registers) == 0 {
		return inverter.Profile{}, errors.New("the SunSpec map has no model of an inverter that is known here")
	}
	slices.SortStableFunc(p.Registers, func(a, b inverter.Register) int { return cmp.Compare(a.Address, b.Address) })
	d.finish(&p)
	for _, r := range p.Registers {
		if err := r.Check(); err != nil {
			return inverter.Profile{}, fmt.Errorf("point %s: %w", r.Point.Name, err)
		}
	}
	return p, nil
}

// Steady is found, made of an inverter of which last was made before, with points
// that are as exact as they were then: how exact those are that have a scale
// factor depends on what that happened to be, and does not make it another
// inverter.
func Steady(last, found inverter.Profile) inverter.Profile {
	found.Registers = slices.Clone(found.Registers)
	for i, r := range found.Registers {
		before, ok := last.Register(r.Point.Name)
		if ok && r.Scale.Given && before.Scale.Given {
			found.Registers[i].Point.Exponent = before.Point.Exponent
		}
	}
	return found
}

// finish adds what is known of the whole device.
func (d Device) finish(p *inverter.Profile) {
	if i := slices.IndexFunc(d.Models, func(m Model) bool { return m.ID == common && len(m.Words) >= 66 }); i >= 0 {
		m := d.Models[i]
		p.Texts = []inverter.Text{
			m.text("manufacturer", 2, 16), m.text(inverter.Model, 18, 16), m.text("firmware", 42, 8), m.text(inverter.Serial, 50, 16),
		}
		maker, model := p.Texts[0].Decode(m.Words[2:18]), p.Texts[1].Decode(m.Words[18:34])
		p.Title = fmt.Sprintf("%s %s by SunSpec", cmp.Or(maker, "an inverter"), cmp.Or(model, "of unknown model"))
	}
	if r, ok := p.Register(statePoint); ok {
		for _, n := range r.Names {
			if n.Text == "sleeping" {
				p.Sleeping = inverter.Sleeping{Point: statePoint, Values: []int64{int64(n.Number)}}
			}
		}
	}
	if _, ok := p.Register(powerPoint); !ok {
		return
	}
	for _, r := range p.Registers {
		if r.Control != nil {
			r.Control.Proof = powerPoint
		}
	}
}

// appendNew adds the registers of points that are not there yet.
func appendNew(all, more []inverter.Register) []inverter.Register {
	for _, r := range more {
		if !slices.ContainsFunc(all, func(o inverter.Register) bool { return o.Point.Name == r.Point.Name }) {
			all = append(all, r)
		}
	}
	return all
}

// registers are those of a model that the table describes.
func (t table) registers(m Model) []inverter.Register {
	var registers []inverter.Register
	phases := 3
	if m.ID < 120 {
		phases = int(m.ID % 10) // 101 has one, 103 three, and 111 to 113 likewise
	}
	for _, p := range t.points {
		if r, ok := p.register(m, 0, t.fixed); ok && p.phase <= phases {
			registers = append(registers, r)
		}
	}
	if t.group.size == 0 {
		return registers
	}
	count, _ := m.word(t.group.count)
	for i := range min(int(count), (len(m.Words)-t.group.offset)/t.group.size) {
		for _, p := range t.group.points {
			p.as += strconv.Itoa(i + 1)
			if r, ok := p.register(m, t.group.offset+i*t.group.size, t.fixed); ok {
				registers = append(registers, r)
			}
		}
	}
	return registers
}

// register is the point, whose group begins at shift words behind the model's
// ID; false where the inverter does not have it.
func (p point) register(m Model, shift int, fixed bool) (inverter.Register, bool) {
	typ, absent := p.kind.typ()
	at := shift + p.offset
	if at+typ.Words() > len(m.Words) || p.sf >= len(m.Words) {
		return inverter.Register{}, false
	}
	r := inverter.Register{
		Point: ecowatt.Point{Name: p.as, Unit: p.unit, Exponent: digits(p.unit)},
		Table: inverter.Holding, Address: m.Address + uint16(at), Type: typ, Absent: absent, Class: p.poll, Names: p.names,
	}
	if p.sf == 0 && typ != inverter.F32 {
		r.Point.Exponent = 0
	}
	if p.sf != 0 {
		scale, known := factor(m.Words[p.sf])
		r.Scale = inverter.Scale{Given: true, Address: m.Address + uint16(p.sf)}
		if fixed || r.Span() > inverter.MaxBlock { // cannot be read at once
			r.Scale, r.Point.Exponent = inverter.Scale{}, scale
			if !known {
				return inverter.Register{}, false
			}
		} else if known {
			r.Point.Exponent = min(r.Point.Exponent, scale)
		}
	}
	if p.as == limitPoint {
		return limit(r, m)
	}
	return r, true
}

// factor is a scale factor; false where it is not implemented, or none.
func factor(word uint16) (int, bool) {
	f := int(int16(word))
	return f, f >= -inverter.MaxExponent && f <= inverter.MaxExponent
}

// limit makes r, the limit of model 123 or 704, one that can be written; false
// where the inverter does not have it.
func limit(r inverter.Register, m Model) (inverter.Register, bool) {
	percent := int64(1)
	if r.Point.Exponent > 0 {
		return r, false // coarser than a percent
	}
	for range -r.Point.Exponent {
		percent *= 10
	}
	r.Point.Writable, r.Point.Min, r.Point.Max = true, leastPercent*percent, mostPercent*percent
	enable, fallback := 9, fallback123(m)
	if m.ID == 704 {
		enable, fallback = 14, fallback704(m)
	}
	if at, ok := m.word(enable); !ok || at == 0xffff {
		return r, false
	}
	r.Control = &inverter.Control{
		// What stood at an address may stand elsewhere after a change of the settings.
		Requires: []inverter.Setting{{Place: inverter.Place{Address: m.Address}, Value: int64(m.ID)}},
		Address:  r.Address, Of: "WMax", Settle: settle, Fallback: fallback,
		Gate: inverter.Gate{Given: true, Place: inverter.Place{Address: m.Address + uint16(enable)}, On: 1, Off: ecowatt.Known(0)},
	}
	if mostPercent*percent > 0xfffe {
		return r, false // it could not be written
	}
	return r, true
}

// fallback123 is the timer of model 123, after which the limit ends. It is
// optional.
func fallback123(m Model) inverter.Fallback {
	if timer, ok := m.word(7); !ok || timer == 0xffff {
		return inverter.Fallback{}
	}
	return inverter.Fallback{Given: true, Timer: inverter.Place{Address: m.Address + 7}}
}

// fallback704 is the timer of model 704, which has a value to go to.
func fallback704(m Model) inverter.Fallback {
	high, ok := m.word(18)
	low, _ := m.word(19)
	if !ok || high == 0xffff && low == 0xffff {
		return inverter.Fallback{}
	}
	f := inverter.Fallback{Given: true, Timer: inverter.Place{Address: m.Address + 18, Type: inverter.U32}}
	if value, _ := m.word(16); value != 0xffff {
		f.Value, f.HasValue = inverter.Place{Address: m.Address + 16}, true
	}
	return f
}
