package sim

import (
	"fmt"

	"ecowatt"
	"ecowatt/inverter"
)

// SunSpec is what a map by the SunSpec Information Model looks like. The zero
// value is one of an inverter with one phase, at 0.
type SunSpec struct {
	Base   uint16 // where it begins: 40000, 50000 or 0
	Models Models
	Phases int // 1, 2 (split) or 3; 0 is 1
}

// Models says which models a map has besides 1, the common one.
type Models byte

// The sets of models. Limits are ordered by model 123, and where there is IEEE
// 1547 by 704.
const (
	Integers Models = iota // 101 to 103 with scale factors; 120 to 123, 160
	Floats                 // 111 to 113; 120 to 123, 160
	IEEE1547               // 701, 702, 704
)

// AllModels lists the sets in their order.
func AllModels() []Models { return []Models{Integers, Floats, IEEE1547} }

func (m Models) String() string {
	switch m {
	case Integers:
		return "integers"
	case Floats:
		return "floats"
	case IEEE1547:
		return "ieee1547"
	}
	return fmt.Sprintf("models %d", byte(m))
}

// Check says what is wrong with s; nil when nothing is.
func (s SunSpec) Check() error {
	switch {
	case s.Base != 40000 && s.Base != 50000 && s.Base != 0:
		return fmt.Errorf("base: a SunSpec map begins at 40000, 50000 or 0, and not at %d", s.Base)
	case s.Models > IEEE1547:
		return fmt.Errorf("models: there are no %v", s.Models)
	case s.Phases < 0 || s.Phases > 3:
		return fmt.Errorf("phases: %d is not within 1 and 3", s.Phases)
	}
	return nil
}

// sunModel is one model. Offsets are from its ID; what has none of the words and
// points here is not implemented.
type sunModel struct {
	id, length uint16
	signed     []int          // offsets of numbers that are not implemented when they are 0x8000
	zero       []int          // and when they are 0
	words      map[int]uint16 // that do not change
	points     []sunPoint
}

// sunPoint is a point of a model that is simulated.
type sunPoint struct {
	offset   int
	name     string
	typ      inverter.Type
	exponent int
	unit     string
	names    []inverter.Name
}

// layOut lays out the map of the unit.
func (s SunSpec) layOut(unit byte) (layout, error) {
	if err := s.Check(); err != nil {
		return layout{}, err
	}
	phases := max(1, s.Phases)
	l := layout{
		places: map[address]place{}, phases: float64(phases),
		control: &control{settable: map[uint16]uint16{}, ignored: map[uint16]bool{}, allowed: map[uint16][]uint16{}},
	}
	models := []sunModel{commonModel(unit)}
	switch s.Models {
	case Integers:
		models = append(models, integerModel(phases))
	case Floats:
		models = append(models, floatModel(phases))
	case IEEE1547:
		models = append(models, measureModel(phases), capacityModel(), controlModel())
	}
	if s.Models != IEEE1547 {
		models = append(models, nameplateModel(), settingsModel(), statusModel(), immediateModel(), stringsModel())
	}
	l.word(s.Base, 0x5375) // "SunS"
	l.word(s.Base+1, 0x6e53)
	at := s.Base + 2
	for _, m := range models {
		l.model(at, m)
		at += 2 + m.length
	}
	l.word(at, 0xffff)
	l.word(at+1, 0)
	return l, nil
}

// word lays out a word that does not change.
func (l layout) word(at, w uint16) { l.places[address{inverter.Holding, at}] = place{initial: w} }

// model lays out m from at on.
func (l layout) model(at uint16, m sunModel) {
	for i := range m.length + 2 {
		l.word(at+i, 0xffff)
	}
	l.word(at, m.id)
	l.word(at+1, m.length)
	for _, offset := range m.signed {
		l.word(at+uint16(offset), 0x8000)
	}
	for _, offset := range m.zero {
		l.word(at+uint16(offset), 0)
	}
	for offset, w := range m.words {
		l.word(at+uint16(offset), w)
	}
	for _, p := range m.points {
		r := inverter.Register{
			Point: ecowatt.Point{Name: p.name, Unit: p.unit, Exponent: p.exponent}, Table: inverter.Holding,
			Address: at + uint16(p.offset), Type: p.typ, Names: p.names,
		}
		for i := range r.Type.Words() {
			l.places[address{inverter.Holding, r.Address + uint16(i)}] = place{register: r, word: i}
		}
		if p.name == limitPoint {
			r.Point.Writable, r.Point.Max = true, raw(100, r)
			l.control.value = r
		}
	}
	switch m.id {
	case 123:
		l.control.immediate(at)
	case 704:
		l.control.der(at)
	}
}

// immediate is the control of model 123. What it has besides the limit and its
// timer can be written too, and does nothing.
func (c *control) immediate(at uint16) {
	off := int64(0)
	c.gate = &switching{Place: inverter.Place{Address: at + 9}, on: 1, off: &off}
	c.timer = &inverter.Place{Address: at + 7}
	for _, offset := range []uint16{2, 3, 4, 6, 7, 8, 9} {
		c.settable[at+offset] = 1
		c.ignored[at+offset] = offset != 7 && offset != 9
	}
	c.allowed[at+4], c.allowed[at+9] = []uint16{1}, []uint16{0, 1} // it cannot be disconnected
}

// der is the control of model 704, whose limit falls back to a value, which is
// then in force as WMaxLimPctEnaRvrt says.
func (c *control) der(at uint16) {
	off := int64(0)
	c.gate = &switching{Place: inverter.Place{Address: at + 14}, on: 1, off: &off}
	c.timer = &inverter.Place{Address: at + 18, Type: inverter.U32}
	c.fallback = &inverter.Place{Address: at + 16}
	c.after = &switching{Place: inverter.Place{Address: at + 17}, on: 1}
	c.settable[at+14], c.settable[at+16], c.settable[at+17], c.settable[at+18] = 1, 1, 1, 2
	c.allowed[at+14], c.allowed[at+17] = []uint16{0, 1}, []uint16{0, 1}
}
