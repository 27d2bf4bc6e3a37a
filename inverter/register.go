package inverter

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"ecowatt"
)

// Why a register has no value although it was read.
var (
	ErrAbsent = errors.New("the inverter says that it has no value")
	ErrRange  = errors.New("outside of what the point can be")
)

// Type is how the words of a register make an integer. Signed types are in
// two's complement. An enum is one of named numbers, a bitfield has named bits;
// both are carried as the unsigned integers they are.
type Type byte

// The types.
const (
	U16 Type = iota
	S16
	U32
	S32
	U64
	S64
	F32 // IEEE 754 binary32: its value is rounded to the point's exponent
	Enum16
	Enum32
	Bits16
	Bits32
)

// Types lists all types in their order.
func Types() []Type { return []Type{U16, S16, U32, S32, U64, S64, F32, Enum16, Enum32, Bits16, Bits32} }

func (t Type) String() string {
	names := [...]string{"u16", "s16", "u32", "s32", "u64", "s64", "f32", "enum16", "enum32", "bitfield16", "bitfield32"}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("type %d", byte(t))
}

// Words is the number of 16-bit words of the type: 1, 2 or 4.
func (t Type) Words() int {
	switch t {
	case U16, S16, Enum16, Bits16:
		return 1
	case U32, S32, F32, Enum32, Bits32:
		return 2
	case U64, S64:
		return 4
	}
	return 0
}

// Signed reports whether the type has negative values.
func (t Type) Signed() bool { return t == S16 || t == S32 || t == S64 || t == F32 }

// Named reports whether the values of the type, or their bits, have names.
func (t Type) Named() bool { return t.Bitfield() || t == Enum16 || t == Enum32 }

// Bitfield reports whether it is the bits of the type that have a meaning.
func (t Type) Bitfield() bool { return t == Bits16 || t == Bits32 }

// limits is the range of raw values. That of U64 ends where a raw value does,
// at 2⁶³−1; that of F32 where every integer is a float64.
func (t Type) limits() Range {
	bits := 16 * t.Words()
	switch {
	case t == F32:
		return Range{Min: -1 << 53, Max: 1 << 53}
	case t.Signed():
		return Range{Min: math.MinInt64 >> (64 - bits), Max: math.MaxInt64 >> (64 - bits)}
	case t == U64:
		return Range{Max: math.MaxInt64}
	}
	return Range{Max: 1<<bits - 1}
}

// Order is the order of the words of a value; the bytes within a word are
// always high byte first (Modbus Application Protocol V1.1b3, section 4.2).
type Order byte

// The orders.
const (
	HighFirst Order = iota
	LowFirst
)

func (o Order) String() string {
	switch o {
	case HighFirst:
		return "high"
	case LowFirst:
		return "low"
	}
	return fmt.Sprintf("order %d", byte(o))
}

// Range is a range of raw values, both ends included. The zero Range holds
// every value.
type Range struct{ Min, Max int64 }

// Holds reports whether raw lies within r.
func (r Range) Holds(raw int64) bool {
	return r == Range{} || r.Min <= raw && raw <= r.Max
}

// Register is where and how a point stands in an inverter.
type Register struct {
	Point   ecowatt.Point
	Table   Table
	Address uint16 // wire address, counted from 0
	Type    Type
	Order   Order
	Scale   Scale    // the register that holds the exponent of what stands here, if there is one
	Offset  int64    // raw = what stands here + Offset
	Absent  []uint64 // bit patterns, high word first, that mean "no value"
	Valid   Range    // raw values that the point can have; others are missing
	Step    int64    // largest plausible change of raw from one sample to the next; 0: any
	Class   Class
	Asleep  bool     // what stands here while the inverter sleeps is no value
	Names   []Name   // of the values of an enum, or the bits of a bitfield
	Control *Control // how the point is written; nil unless it is Writable
}

// Scale is a SunSpec scale factor: a register of the same table, whose signed
// value e says that what stands in another one means 10^e. It is read in the
// same request, so that both belong together. The raw value is then rounded to
// the exponent of the point.
type Scale struct {
	Given   bool
	Address uint16
}

// noScale is the scale factor that means "not implemented".
const noScale = 0x8000

// Name is what a number means: a value of an enum, or a bit, counted from 0.
type Name struct {
	Number uint32
	Text   string
}

// Class says how often a point is read.
type Class byte

// The classes.
const (
	Fast Class = iota // for every sample
	Slow              // once a minute, or for every sample when those are rarer
	Once              // when the inverter is found, and when it is back
)

// Classes lists all classes in their order.
func Classes() []Class { return []Class{Fast, Slow, Once} }

func (c Class) String() string {
	switch c {
	case Fast:
		return "fast"
	case Slow:
		return "slow"
	case Once:
		return "once"
	}
	return fmt.Sprintf("class %d", byte(c))
}

// Check says what is wrong with r, naming the field; nil when nothing is.
func (r Register) Check() error {
	if _, err := ecowatt.ParseName("point", r.Point.Name); err != nil {
		return err
	}
	if r.Type.Words() == 0 {
		return fmt.Errorf("type: there is no %v", r.Type)
	}
	limits := r.limits()
	switch {
	case r.Point.Exponent < -MaxExponent || r.Point.Exponent > MaxExponent:
		return fmt.Errorf("exponent: %d is not within %d and %d", r.Point.Exponent, -MaxExponent, MaxExponent)
	case r.Table != Holding && r.Table != Input:
		return fmt.Errorf("table: there is no %v", r.Table)
	case int(r.Address)+r.Type.Words() > math.MaxUint16+1:
		return fmt.Errorf("address: %d and the %d words of %v end beyond 65535", r.Address, r.Type.Words(), r.Type)
	case r.Order > LowFirst:
		return fmt.Errorf("order: there is no %v", r.Order)
	case r.Class > Once:
		return fmt.Errorf("poll: there is no %v", r.Class)
	case r.Offset < -maxOffset || r.Offset > maxOffset:
		return fmt.Errorf("offset: %d is not within %d and %d", r.Offset, -maxOffset, maxOffset)
	case r.Offset != 0 && (r.Type.Named() || r.Type == F32 || r.Scale.Given):
		return errors.New("offset: only for whole numbers without a scale factor")
	case r.Step < 0:
		return fmt.Errorf("step: %d is less than 0", r.Step)
	case r.Step != 0 && r.Type.Named():
		return fmt.Errorf("step: an %v has none", r.Type)
	case r.Valid.Min > r.Valid.Max:
		return fmt.Errorf("valid: from %d to %d is no range", r.Valid.Min, r.Valid.Max)
	case !r.Scale.Given && (!limits.Holds(r.Valid.Min) || !limits.Holds(r.Valid.Max)):
		return fmt.Errorf("valid: from %d to %d is more than %v can hold", r.Valid.Min, r.Valid.Max, r.Type)
	}
	for _, pattern := range r.Absent {
		if bits := 16 * r.Type.Words(); bits < 64 && pattern>>bits != 0 {
			return fmt.Errorf("absent: %#x is more than the %d bits of %v", pattern, bits, r.Type)
		}
	}
	return cmp.Or(r.checkScale(), r.checkNames(), r.checkWritable(limits))
}

// maxOffset is far from where an offset could carry a raw value out of 64 bits
// unseen.
const maxOffset int64 = 1 << 31

// limits is the range of raw values that the register can hold.
func (r Register) limits() Range {
	l := r.Type.limits()
	if r.Offset > 0 && l.Max > math.MaxInt64-r.Offset {
		return Range{Min: l.Min + r.Offset, Max: math.MaxInt64}
	}
	if r.Offset < 0 && l.Min < math.MinInt64-r.Offset {
		return Range{Min: math.MinInt64, Max: l.Max + r.Offset}
	}
	return Range{Min: l.Min + r.Offset, Max: l.Max + r.Offset}
}

func (r Register) checkScale() error {
	switch {
	case !r.Scale.Given:
		return nil
	case r.Type.Named() || r.Type == F32:
		return fmt.Errorf("scale: an %v has none", r.Type)
	case int(r.Scale.Address) >= int(r.Address) && int(r.Scale.Address) < int(r.Address)+r.Type.Words():
		return fmt.Errorf("scale: %d is the point itself", r.Scale.Address)
	}
	return nil
}

func (r Register) checkNames() error {
	if len(r.Names) > 0 && !r.Type.Named() {
		return fmt.Errorf("names: the values of %v have none", r.Type)
	}
	for i, n := range r.Names {
		most := r.Type.limits().Max
		if r.Type.Bitfield() {
			most = int64(16*r.Type.Words()) - 1
		}
		if int64(n.Number) > most {
			return fmt.Errorf("names: %d is more than %v can hold", n.Number, r.Type)
		}
		if slices.ContainsFunc(r.Names[:i], func(o Name) bool { return o.Number == n.Number }) {
			return fmt.Errorf("names: %d stands twice", n.Number)
		}
	}
	return nil
}

// Describe returns what raw means, for people; empty if it has no name. Bits
// without a name are told by their numbers.
func (r Register) Describe(raw int64) string {
	name := func(number uint32) (string, bool) {
		i := slices.IndexFunc(r.Names, func(n Name) bool { return n.Number == number })
		if i < 0 {
			return "", false
		}
		return r.Names[i].Text, true
	}
	if !r.Type.Bitfield() {
		if raw < 0 || raw > math.MaxUint32 {
			return ""
		}
		text, _ := name(uint32(raw))
		return text
	}
	var set []string
	for bit := range uint32(16 * r.Type.Words()) {
		if raw>>bit&1 == 0 {
			continue
		}
		text, ok := name(bit)
		if !ok {
			text = fmt.Sprint("bit ", bit)
		}
		set = append(set, text)
	}
	return strings.Join(set, ", ")
}

// Overlaps reports whether r and other share a word of the same table.
func (r Register) Overlaps(other Register) bool {
	return r.Table == other.Table &&
		int(r.Address) < int(other.Address)+other.Type.Words() && int(other.Address) < int(r.Address)+r.Type.Words()
}

// Span is the number of words from the first to the last that must be read for
// the register.
func (r Register) Span() int { return r.end() - r.begin() }

// begin is the address of the first word that must be read for the register.
func (r Register) begin() int {
	if r.Scale.Given {
		return min(int(r.Address), int(r.Scale.Address))
	}
	return int(r.Address)
}

// end is the address after the last word that must be read for the register.
func (r Register) end() int {
	end := int(r.Address) + r.Type.Words()
	if r.Scale.Given {
		return max(end, int(r.Scale.Address)+1)
	}
	return end
}
