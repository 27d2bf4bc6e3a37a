package inverter

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ecowatt"
)

// Control is how a point is written, where it takes more than writing its own
// register. All addresses are of holding registers.
type Control struct {
	Address  uint16        // where the point is written; it may be read elsewhere
	Gate     Gate          // what makes the inverter obey
	Requires []Setting     // what the inverter must have been set to by its owner; never written
	Release  ecowatt.Value // takes the order back where the gate cannot; missing: nothing is known to
	Of       string        // what a percentage is of, for people
	Settle   time.Duration // from the last write until the inverter has followed
	Proof    string        // the point that shows whether it has; empty: none does
	Fallback Fallback      // what the inverter does by itself when it hears nothing
	Stored   bool          // each write wears the inverter's memory
}

// Place is a holding register that is no point.
type Place struct {
	Address uint16
	Type    Type
	Order   Order
}

// Setting is a raw value at a place.
type Setting struct {
	Place
	Value int64
}

// Gate is a register without which the inverter ignores the value, or keeps to
// it although it is told of. The zero Gate is none.
type Gate struct {
	Given bool
	Place
	On       int64
	Off      ecowatt.Value // missing: it stays as it is
	Sequence Sequence
}

// Sequence says when a gate is written.
type Sequence byte

// The sequences.
const (
	After  Sequence = iota // value, gate on
	Before                 // gate on, value
	Around                 // gate off, value, gate on
)

// Sequences lists all sequences in their order.
func Sequences() []Sequence { return []Sequence{After, Before, Around} }

func (s Sequence) String() string {
	switch s {
	case After:
		return "after"
	case Before:
		return "before"
	case Around:
		return "around"
	}
	return fmt.Sprintf("sequence %d", byte(s))
}

// Fallback is the inverter's own timer: when nothing is written for so long, it
// goes to a value by itself. The zero Fallback is none.
type Fallback struct {
	Given   bool
	Timer   Place         // holds the time, in s
	Default time.Duration // as it leaves the factory; 0: not known
	Value   Place         // holds what it goes to; only if HasValue
	// HasValue is false where the limit simply ends.
	HasValue bool
}

// Write asks for Values to be written to holding registers from Address on.
type Write struct {
	Address  uint16
	Values   []uint16
	Multiple bool // by function 16; false only for a single register, by function 06
}

// Writes returns what is to be written, in this order, so that the point name
// gets the value raw. Whoever writes it checks first what Control requires.
func (p Profile) Writes(name string, raw int64) ([]Write, error) {
	r, ok := p.Register(name)
	if !ok {
		return nil, p.unknownPoint(name)
	}
	if err := r.CheckWrite(raw); err != nil {
		return nil, err
	}
	words, err := r.Encode(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c := r.control()
	writes := []Write{p.write(c.Address, words)}
	if !c.Gate.Given {
		return writes, nil
	}
	on, err := p.set(c.Gate.Place, c.Gate.On)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if c.Gate.Sequence == Before {
		return append([]Write{on}, writes...), nil
	}
	writes = append(writes, on)
	if c.Gate.Sequence == After {
		return writes, nil
	}
	off, err := p.set(c.Gate.Place, c.Gate.Off.Raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return append([]Write{off}, writes...), nil
}

// ErrNoRelease says that a profile does not know how to take an order back.
var ErrNoRelease = errors.New("the profile does not say how to take it back")

// Release returns what is to be written so that the inverter no longer keeps to
// what the point name was set to: the gate off, or the value for it. The error
// wraps ErrNoRelease where there is neither.
func (p Profile) Release(name string) ([]Write, error) {
	r, ok := p.Register(name)
	if !ok {
		return nil, p.unknownPoint(name)
	}
	c := r.control()
	switch {
	case !r.Point.Writable:
		return nil, fmt.Errorf("%s is not writable", name)
	case c.Gate.Given && c.Gate.Off.Valid:
		off, err := p.set(c.Gate.Place, c.Gate.Off.Raw)
		return []Write{off}, err
	case c.Release.Valid:
		words, err := r.Encode(c.Release.Raw)
		return []Write{p.write(c.Address, words)}, err
	}
	return nil, fmt.Errorf("%s: %w", name, ErrNoRelease)
}

// set is the write of value to a place.
func (p Profile) set(at Place, value int64) (Write, error) {
	words, err := at.register().Encode(value)
	return p.write(at.Address, words), err
}

func (p Profile) write(address uint16, words []uint16) Write {
	return Write{Address: address, Values: words, Multiple: p.WriteMultiple || len(words) > 1}
}

// register is the place as a register, for its type.
func (at Place) register() Register {
	return Register{Table: Holding, Address: at.Address, Type: at.Type, Order: at.Order}
}

// control is how the point is written.
func (r Register) control() Control {
	if r.Control == nil {
		return Control{Address: r.Address}
	}
	return *r.Control
}

func (r Register) checkWritable(limits Range) error {
	least, most := r.Point.Min, r.Point.Max
	switch {
	case !r.Point.Writable && (least != 0 || most != 0 || r.Control != nil):
		return errors.New("write: there is a range, but the point is not writable")
	case !r.Point.Writable:
		return nil
	case r.Control == nil && r.Table != Holding:
		return errors.New("write: only holding registers can be written")
	case r.Scale.Given:
		return errors.New("write: a point with a scale factor is only read")
	case least > most || least == 0 && most == 0:
		return fmt.Errorf("write: from %d to %d is no range", least, most)
	case !limits.Holds(least) || !limits.Holds(most):
		return fmt.Errorf("write: from %d to %d is more than %v can hold", least, most, r.Type)
	case !r.Valid.Holds(least) || !r.Valid.Holds(most):
		return fmt.Errorf("write: from %d to %d is more than is valid", least, most)
	case r.Control == nil:
		return nil
	}
	return r.Control.check(r)
}

// check says what is wrong with c, the control of r.
func (c Control) check(r Register) error {
	if _, err := r.Encode(c.Release.Raw); c.Release.Valid && err != nil {
		return fmt.Errorf("write: release: %w", err)
	}
	settings := slices.Clone(c.Requires)
	if c.Gate.Given {
		settings = append(settings, Setting{c.Gate.Place, c.Gate.On}, Setting{c.Gate.Place, c.Gate.Off.Raw})
		switch {
		case c.Gate.Sequence > Around:
			return fmt.Errorf("write: there is no %v", c.Gate.Sequence)
		case c.Gate.Sequence == Around && !c.Gate.Off.Valid:
			return errors.New("write: a gate around the value needs to know what is off")
		case c.Gate.Off.Valid && c.Gate.Off.Raw == c.Gate.On:
			return errors.New("write: the gate is the same on and off")
		}
	}
	if c.Fallback.Given {
		settings = append(settings, Setting{c.Fallback.Timer, 0})
	}
	if c.Fallback.HasValue {
		settings = append(settings, Setting{c.Fallback.Value, 0})
	}
	for _, s := range settings {
		if s.Type == F32 {
			return fmt.Errorf("write: register %d cannot be an f32", s.Address)
		}
		if err := s.register().checkSetting(s.Value); err != nil {
			return fmt.Errorf("write: register %d: %w", s.Address, err)
		}
	}
	if end := int(c.Address) + r.Type.Words(); end > 1<<16 {
		return fmt.Errorf("write: %d and the words of %v end beyond 65535", c.Address, r.Type)
	}
	return nil
}

// checkSetting says why the register cannot be set to value.
func (r Register) checkSetting(value int64) error {
	if end := int(r.Address) + r.Type.Words(); end > 1<<16 {
		return errors.New("it ends beyond 65535")
	}
	_, err := r.Encode(value)
	return err
}
