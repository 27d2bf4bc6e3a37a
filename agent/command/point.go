package command

import (
	"context"
	"errors"
	"fmt"

	"ecowatt"
	"ecowatt/inverter"
)

// Inverter is one that commands may name.
type Inverter struct {
	Name    string
	Unit    byte
	Profile inverter.Profile
	Line    Line
}

// Line is how an inverter is reached. What it refuses itself is an error that has
// the method ExceptionCode() byte. Of a write that failed the first error with the
// method NotExecuted() bool tells whether it was certainly not carried out; where
// there is none, nobody knows. Nothing that may have been carried out is repeated.
type Line interface {
	Read(ctx context.Context, unit byte, r inverter.Read) ([]uint16, error)
	Write(ctx context.Context, unit byte, w inverter.Write) error
}

// exception is the code with which the inverter itself refused.
func exception(err error) (code byte, ok bool) {
	refused, ok := errors.AsType[interface {
		error
		ExceptionCode() byte
	}](err)
	if !ok {
		return 0, false
	}
	return refused.ExceptionCode(), true
}

// notExecuted reports whether a write that ended with err was certainly not
// carried out.
func notExecuted(err error) bool {
	certain, ok := errors.AsType[interface {
		error
		NotExecuted() bool
	}](err)
	return ok && certain.NotExecuted()
}

// standing is what stands in an inverter for a point: its value, and its gate
// where it has one. As what is wanted, a part that is missing may be anything.
type standing struct {
	Value ecowatt.Value `json:"value"`
	Gate  ecowatt.Value `json:"gate"`
}

// is reports whether s is what is wanted.
func (s standing) is(want standing) bool {
	return (!want.Value.Valid || s.Value == want.Value) && (!want.Gate.Valid || s.Gate == want.Gate)
}

// point is a point of an inverter that can be written.
type point struct {
	Inverter
	register inverter.Register
	control  inverter.Control
}

// pointOf is the point name of in; false where it has none that can be written.
func pointOf(in Inverter, name string) (point, bool) {
	r, ok := in.Profile.Register(name)
	if !ok || !r.Point.Writable {
		return point{}, false
	}
	p := point{Inverter: in, register: r, control: inverter.Control{Address: r.Address}}
	if r.Control != nil {
		p.control = *r.Control
	}
	return p, true
}

// name is that of the point.
func (p point) name() string { return p.register.Point.Name }

// words writes raw for people.
func (p point) words(v ecowatt.Value) string {
	if !v.Valid {
		return "nothing"
	}
	return ecowatt.Decimal(v.Raw, p.register.Point.Exponent) + unit(p.register.Point.Unit)
}

func unit(u string) string {
	if u == "" {
		return ""
	}
	return " " + u
}

// look reads what stands there. A value that the inverter has not, or that the
// point cannot be, is missing.
func (p point) look(ctx context.Context) (standing, error) {
	value, err := p.read(ctx, p.register)
	if err != nil {
		return standing{}, err
	}
	s := standing{Value: value}
	if p.control.Gate.Given {
		if s.Gate, err = p.read(ctx, at(p.control.Gate.Place)); err != nil {
			return standing{}, err
		}
	}
	return s, nil
}

// at is a place as a register.
func at(place inverter.Place) inverter.Register {
	return inverter.Register{Table: inverter.Holding, Address: place.Address, Type: place.Type, Order: place.Order}
}

// read reads a register that has no scale factor, or a point that has one.
func (p point) read(ctx context.Context, r inverter.Register) (ecowatt.Value, error) {
	words, err := p.Line.Read(ctx, p.Unit, inverter.Read{Table: r.Table, Address: r.Address, Count: uint16(r.Type.Words())})
	if err != nil {
		return ecowatt.Value{}, err
	}
	raw, err := r.Decode(words)
	if err != nil {
		return ecowatt.Value{}, nil //nolint:nilerr // it was read, and is no value
	}
	return ecowatt.Known(raw), nil
}

// required says which setting of its owner the inverter lacks; empty for none.
func (p point) required(ctx context.Context) (lacks string, err error) {
	for _, setting := range p.control.Requires {
		v, err := p.read(ctx, at(setting.Place))
		if err != nil {
			return "", err
		}
		if v != ecowatt.Known(setting.Value) {
			return fmt.Sprintf("register %d must be %d for %s to be obeyed, and is %s: its owner has to set it",
				setting.Address, setting.Value, p.name(), describe(v)), nil
		}
	}
	return "", nil
}

func describe(v ecowatt.Value) string {
	if !v.Valid {
		return "not known"
	}
	return fmt.Sprint(v.Raw)
}

// change is a change of what stands at a point.
type change struct {
	to     standing
	writes []inverter.Write // in this order
}

// set is the change that makes the inverter obey raw.
func (p point) set(raw int64) (change, error) {
	writes, err := p.Profile.Writes(p.name(), raw)
	to := standing{Value: ecowatt.Known(raw)}
	if p.control.Gate.Given {
		to.Gate = ecowatt.Known(p.control.Gate.On)
	}
	return change{to, writes}, err
}

// putBack is the change that brings back what was found. It may be a value which
// nobody may order. Where the inverter had none, the order is taken back.
func (p point) putBack(found standing) (change, error) {
	if !found.Value.Valid {
		return p.release()
	}
	words, err := p.register.Encode(found.Value.Raw)
	if err != nil {
		return p.release()
	}
	c := change{to: found, writes: []inverter.Write{p.write(p.control.Address, words)}}
	g := p.control.Gate
	if !g.Given || !found.Gate.Valid {
		return c, nil
	}
	gate, err := p.gate(found.Gate.Raw)
	switch {
	case err != nil:
		return change{}, err
	case found.Gate.Raw != g.On: // first, so that the value is not obeyed for a moment
		c.writes = append([]inverter.Write{gate}, c.writes...)
	case g.Sequence == inverter.Around:
		off, err := p.gate(g.Off.Raw)
		if err != nil {
			return change{}, err
		}
		c.writes = append(append([]inverter.Write{off}, c.writes...), gate)
	case g.Sequence == inverter.Before:
		c.writes = append([]inverter.Write{gate}, c.writes...)
	default:
		c.writes = append(c.writes, gate)
	}
	return c, nil
}

// release is the change that takes the order back as the profile says.
func (p point) release() (change, error) {
	writes, err := p.Profile.Release(p.name())
	if err != nil {
		return change{}, err
	}
	if g := p.control.Gate; g.Given && g.Off.Valid {
		return change{standing{Gate: g.Off}, writes}, nil
	}
	return change{standing{Value: p.control.Release}, writes}, nil
}

func (p point) gate(raw int64) (inverter.Write, error) {
	words, err := at(p.control.Gate.Place).Encode(raw)
	return p.write(p.control.Gate.Address, words), err
}

func (p point) write(address uint16, words []uint16) inverter.Write {
	return inverter.Write{Address: address, Values: words, Multiple: p.Profile.WriteMultiple || len(words) > 1}
}

// feed is the write that tells the inverter again what it obeys.
func (p point) feed(value ecowatt.Value) (inverter.Write, error) {
	words, err := p.register.Encode(value.Raw)
	return p.write(p.control.Address, words), err
}

// ours reports whether s is made of parts of the standings, or has its gate off:
// what is left when a change between them stopped half way.
func (p point) ours(s standing, of ...standing) bool {
	value, gate := false, !p.control.Gate.Given || s.Gate == p.control.Gate.Off
	for _, o := range of {
		value = value || !o.Value.Valid || s.Value == o.Value
		gate = gate || !o.Gate.Valid || s.Gate == o.Gate
	}
	return value && gate
}

// fate is what became of the writes of a change.
type fate byte

const (
	applied   fate = iota // the inverter has confirmed all of them
	untouched             // certainly none was carried out
	partly                // some were, and certainly not the others
	unsure                // nobody knows
)

// apply carries out the writes. After one that failed it does no other.
func (p point) apply(ctx context.Context, c change) (fate, error) {
	for i, w := range c.writes {
		err := p.Line.Write(ctx, p.Unit, w)
		switch {
		case err == nil:
		case !notExecuted(err):
			return unsure, err
		case i == 0:
			return untouched, err
		default:
			return partly, err
		}
	}
	return applied, nil
}
