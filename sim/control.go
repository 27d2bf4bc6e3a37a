package sim

import (
	"fmt"
	"math"
	"slices"
	"time"

	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
)

// memory is what was written to registers that have no point, by address.
type memory map[uint16]uint16

// control is how the limit of an inverter is ordered, in holding registers: the
// value, and, where there are such, a gate without which it has no effect, and a
// timer after which it falls back unless it is written again.
type control struct {
	value    inverter.Register // at the address where it is written
	gate     *switching
	timer    *inverter.Place     // s; 0: never
	fallback *inverter.Place     // holds the value that it falls back to; nil: the limit ends
	after    *switching          // the gate after it has fallen back; nil: as before
	settable map[uint16]uint16   // what can be written besides the value: words by the first address
	ignored  map[uint16]bool     // which of these are not kept
	allowed  map[uint16][]uint16 // the only words that some of them take
}

// switching is a register with a value that switches on, and one for off, if
// there is one.
type switching struct {
	inverter.Place
	on  int64
	off *int64
}

// newControl lays out in l where the limit r is ordered: the value, its gate,
// its timer, and what the owner must have set.
func newControl(l layout, r inverter.Register) (*control, error) {
	c := &control{value: r, settable: map[uint16]uint16{}}
	if r.Control == nil {
		return c, nil
	}
	c.value.Address = r.Control.Address
	l.put(r, inverter.Holding, c.value.Address)
	for _, s := range r.Control.Requires {
		if err := l.set(s.Place, s.Value); err != nil {
			return nil, err
		}
	}
	if g := r.Control.Gate; g.Given {
		c.gate = &switching{Place: g.Place, on: g.On}
		if g.Off.Valid {
			c.gate.off = &g.Off.Raw
		}
		if err := c.setting(l, g.Place, g.Off.Raw); err != nil {
			return nil, err
		}
	}
	f := r.Control.Fallback
	if f.Given {
		c.timer = &f.Timer
		if err := c.setting(l, f.Timer, int64(f.Default/time.Second)); err != nil {
			return nil, err
		}
	}
	if f.HasValue {
		c.fallback = &f.Value
		if err := c.setting(l, f.Value, raw(100, r)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// setting lays out a register that can be written, and holds value until then.
func (c *control) setting(l layout, at inverter.Place, value int64) error {
	c.settable[at.Address] = uint16(at.Type.Words())
	return l.set(at, value)
}

// set lays out a register that holds value.
func (l layout) set(at inverter.Place, value int64) error {
	words, err := placed(at).Encode(value)
	if err != nil {
		return fmt.Errorf("register %d: %w", at.Address, err)
	}
	for i, w := range words {
		l.places[address{inverter.Holding, at.Address + uint16(i)}] = place{initial: w}
	}
	return nil
}

// placed is a place as a register.
func placed(at inverter.Place) inverter.Register {
	return inverter.Register{Type: at.Type, Order: at.Order, Address: at.Address}
}

// order is what a write orders.
type order struct {
	percent float64
	limit   bool   // there is a percent
	words   memory // what is kept besides
}

// write returns what r orders: the limit or what belongs to it, all of it or
// nothing.
func (l layout) write(r modbus.Request) (order, error) {
	o := order{words: memory{}}
	c := l.control
	if c == nil {
		return o, modbus.ErrIllegalAddress
	}
	for i := 0; i < len(r.Values); {
		at, rest := r.Address+uint16(i), r.Values[i:]
		if n := c.value.Type.Words(); at == c.value.Address && len(rest) >= n {
			percent, err := c.percent(rest[:n])
			if err != nil {
				return o, err
			}
			o.percent, o.limit = percent, true
			i += n
			continue
		}
		n, ok := c.settable[at]
		if !ok || len(rest) < int(n) {
			return o, modbus.ErrIllegalAddress
		}
		if words, ok := c.allowed[at]; ok && !slices.Contains(words, rest[0]) {
			return o, modbus.ErrIllegalValue
		}
		for j := range n {
			if !c.ignored[at] {
				o.words[at+j] = rest[j]
			}
		}
		i += int(n)
	}
	return o, nil
}

// percent is the limit that words order.
func (c *control) percent(words []uint16) (float64, error) {
	n, err := c.value.Decode(words)
	if x := c.value.Control; err == nil && x != nil && x.Release.Valid && n == x.Release.Raw {
		return 100, nil
	}
	if err != nil || c.value.CheckWrite(n) != nil {
		return 0, modbus.ErrIllegalValue
	}
	return float64(n) * math.Pow10(c.value.Point.Exponent), nil
}

// words are those at a place, with what was written.
func (l layout) words(at inverter.Place, set memory) []uint16 {
	words := make([]uint16, at.Type.Words())
	for i := range words {
		a := at.Address + uint16(i)
		w, ok := set[a]
		if !ok {
			w = l.places[address{inverter.Holding, a}].initial
		}
		words[i] = w
	}
	return words
}

// holds reports whether the register of w switches on, with what was written.
func (l layout) holds(w *switching, set memory) bool {
	n, err := placed(w.Place).Decode(l.words(w.Place, set))
	return err == nil && n == w.on
}

// open reports whether the gate of the limit, with what was written to it, lets
// the limit have an effect.
func (l layout) open(set memory) bool {
	return l.control == nil || l.control.gate == nil || l.holds(l.control.gate, set)
}

// timer is how long the limit holds after it was written; 0: for ever.
func (l layout) timer(set memory) time.Duration {
	if l.control == nil || l.control.timer == nil || !l.open(set) {
		return 0
	}
	s, err := placed(*l.control.timer).Decode(l.words(*l.control.timer, set))
	if err != nil || s < 0 || s > math.MaxUint32 {
		return 0
	}
	return time.Duration(s) * time.Second
}

// fallBack returns the limit after the timer has run out, and changes set to
// what is then told: the value to fall back to is in force, or the gate is shut.
func (l layout) fallBack(set memory) (percent float64) {
	c := l.control
	if c.fallback != nil && (c.after == nil || l.holds(c.after, set)) {
		n, err := c.value.Decode(l.words(*c.fallback, set))
		if err != nil {
			return 100
		}
		return min(100, max(0, float64(n)*math.Pow10(c.value.Point.Exponent)))
	}
	if c.gate == nil || c.gate.off == nil {
		return 100
	}
	words, err := placed(c.gate.Place).Encode(*c.gate.off)
	if err != nil {
		return 100
	}
	for i, w := range words {
		set[c.gate.Address+uint16(i)] = w
	}
	return 100
}
