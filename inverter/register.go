package inverter

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"ecowatt"
)

// Why a register has no value although it was read.
var (
	ErrAbsent = errors.New("the inverter says that it has no value")
	ErrRange  = errors.New("outside of what the point can be")
)

// Type is how the words of a register make an integer. Signed types are in
// two's complement.
type Type byte

// The types.
const (
	U16 Type = iota
	S16
	U32
	S32
	U64
	S64
)

// Types lists all types in their order.
func Types() []Type { return []Type{U16, S16, U32, S32, U64, S64} }

func (t Type) String() string {
	names := [...]string{"u16", "s16", "u32", "s32", "u64", "s64"}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("type %d", byte(t))
}

// Words is the number of 16-bit words of the type: 1, 2 or 4.
func (t Type) Words() int {
	switch t {
	case U16, S16:
		return 1
	case U32, S32:
		return 2
	case U64, S64:
		return 4
	}
	return 0
}

// Signed reports whether the type has negative values.
func (t Type) Signed() bool { return t == S16 || t == S32 || t == S64 }

// limits is the range of raw values. That of U64 ends where a raw value does,
// at 2⁶³−1.
func (t Type) limits() Range {
	bits := 16 * t.Words()
	switch {
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
	Absent  []uint64 // bit patterns, high word first, that mean "no value"
	Valid   Range    // raw values that the point can have; others are missing
}

// Check says what is wrong with r, naming the field; nil when nothing is.
func (r Register) Check() error {
	if _, err := ecowatt.ParseName("point", r.Point.Name); err != nil {
		return err
	}
	if r.Type.Words() == 0 {
		return fmt.Errorf("type: there is no %v", r.Type)
	}
	limits := r.Type.limits()
	switch {
	case r.Point.Exponent < -MaxExponent || r.Point.Exponent > MaxExponent:
		return fmt.Errorf("exponent: %d is not within %d and %d", r.Point.Exponent, -MaxExponent, MaxExponent)
	case r.Table != Holding && r.Table != Input:
		return fmt.Errorf("table: there is no %v", r.Table)
	case r.end() > math.MaxUint16+1:
		return fmt.Errorf("address: %d and the %d words of %v end beyond 65535", r.Address, r.Type.Words(), r.Type)
	case r.Order > LowFirst:
		return fmt.Errorf("order: there is no %v", r.Order)
	case r.Valid.Min > r.Valid.Max:
		return fmt.Errorf("valid: from %d to %d is no range", r.Valid.Min, r.Valid.Max)
	case !limits.Holds(r.Valid.Min) || !limits.Holds(r.Valid.Max):
		return fmt.Errorf("valid: from %d to %d is more than %v can hold", r.Valid.Min, r.Valid.Max, r.Type)
	}
	for _, pattern := range r.Absent {
		if bits := 16 * r.Type.Words(); bits < 64 && pattern>>bits != 0 {
			return fmt.Errorf("absent: %#x is more than the %d bits of %v", pattern, bits, r.Type)
		}
	}
	return r.checkWritable(limits)
}

func (r Register) checkWritable(limits Range) error {
	least, most := r.Point.Min, r.Point.Max
	switch {
	case !r.Point.Writable && (least != 0 || most != 0):
		return errors.New("write: there is a range, but the point is not writable")
	case !r.Point.Writable:
		return nil
	case r.Table != Holding:
		return errors.New("write: only holding registers can be written")
	case least > most || least == 0 && most == 0:
		return fmt.Errorf("write: from %d to %d is no range", least, most)
	case !limits.Holds(least) || !limits.Holds(most):
		return fmt.Errorf("write: from %d to %d is more than %v can hold", least, most, r.Type)
	case !r.Valid.Holds(least) || !r.Valid.Holds(most):
		return fmt.Errorf("write: from %d to %d is more than is valid", least, most)
	}
	return nil
}

// Overlaps reports whether r and other share a word of the same table.
func (r Register) Overlaps(other Register) bool {
	return r.Table == other.Table && int(r.Address) < other.end() && int(other.Address) < r.end()
}

// end is the address after the last word.
func (r Register) end() int { return int(r.Address) + r.Type.Words() }

// Decode turns the words of the register, as they stand on the wire, into its
// raw value. The error is ErrAbsent for a pattern that means "no value", and
// wraps ErrRange for a value the point cannot have.
func (r Register) Decode(words []uint16) (int64, error) {
	if len(words) != r.Type.Words() {
		return 0, fmt.Errorf("%d words for %v", len(words), r.Type)
	}
	var bits uint64
	for i := range words {
		if r.Order == LowFirst {
			i = len(words) - 1 - i
		}
		bits = bits<<16 | uint64(words[i])
	}
	if slices.Contains(r.Absent, bits) {
		return 0, ErrAbsent
	}
	if r.Type == U64 && bits > math.MaxInt64 {
		return 0, fmt.Errorf("%d is %w", bits, ErrRange)
	}
	raw := int64(bits)
	if unused := 64 - 16*r.Type.Words(); r.Type.Signed() {
		raw = raw << unused >> unused // carries the sign up
	}
	if !r.Valid.Holds(raw) {
		return 0, fmt.Errorf("%s is %w", ecowatt.Decimal(raw, r.Point.Exponent), ErrRange)
	}
	return raw, nil
}

// Encode turns raw into the words of the register. It refuses what the type
// cannot hold and what would be read back as "no value".
func (r Register) Encode(raw int64) ([]uint16, error) {
	if !r.Type.limits().Holds(raw) {
		return nil, fmt.Errorf("%d is more than %v can hold", raw, r.Type)
	}
	n := r.Type.Words()
	words := make([]uint16, n)
	for i := range words {
		at := n - 1 - i
		if r.Order == LowFirst {
			at = i
		}
		words[at] = uint16(raw >> (16 * i))
	}
	bits := uint64(raw)
	if n < 4 {
		bits &= 1<<(16*n) - 1
	}
	if slices.Contains(r.Absent, bits) {
		return nil, fmt.Errorf("%d would mean that there is no value", raw)
	}
	return words, nil
}

// CheckWrite says why raw may not be written to the register; nil when it may.
func (r Register) CheckWrite(raw int64) error {
	p := r.Point
	if !p.Writable {
		return fmt.Errorf("%s is not writable", p.Name)
	}
	if raw < p.Min || raw > p.Max {
		return fmt.Errorf("%s: %s is not within %s and %s %s", p.Name, ecowatt.Decimal(raw, p.Exponent),
			ecowatt.Decimal(p.Min, p.Exponent), ecowatt.Decimal(p.Max, p.Exponent), p.Unit)
	}
	return nil
}
