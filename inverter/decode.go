package inverter

import (
	"fmt"
	"math"
	"slices"

	"ecowatt"
)

// Decode turns the words of the register, as they stand on the wire, into its
// raw value; behind them stands that of its scale factor, where it has one. The
// error is ErrAbsent for a pattern that means "no value", and wraps ErrRange for
// a value the point cannot have.
func (r Register) Decode(words []uint16) (int64, error) {
	n := r.Type.Words()
	if r.Scale.Given && len(words) != n+1 || !r.Scale.Given && len(words) != n {
		return 0, fmt.Errorf("%d words for %v", len(words), r.Type)
	}
	bits := join(words[:n], r.Order)
	if slices.Contains(r.Absent, bits) {
		return 0, ErrAbsent
	}
	raw, err := r.integer(bits)
	if err == nil && r.Scale.Given {
		raw, err = r.rescale(raw, words[n])
	}
	if err != nil {
		return 0, err
	}
	if r.Offset != 0 {
		if !r.limits().Holds(raw + r.Offset) { // it went round
			return 0, fmt.Errorf("%d and the offset are %w", raw, ErrRange)
		}
		raw += r.Offset
	}
	if !r.Valid.Holds(raw) {
		return 0, fmt.Errorf("%s is %w", ecowatt.Decimal(raw, r.Point.Exponent), ErrRange)
	}
	return raw, nil
}

// join makes one number of words.
func join(words []uint16, o Order) uint64 {
	var bits uint64
	for i := range words {
		if o == LowFirst {
			i = len(words) - 1 - i
		}
		bits = bits<<16 | uint64(words[i])
	}
	return bits
}

// integer is the number that bits are in the register's type.
func (r Register) integer(bits uint64) (int64, error) {
	unused := 64 - 16*r.Type.Words()
	switch {
	case r.Type == F32:
		return r.float(math.Float32frombits(uint32(bits)))
	case r.Type == U64 && bits > math.MaxInt64:
		return 0, fmt.Errorf("%d is %w", bits, ErrRange)
	case r.Type.Signed():
		return int64(bits) << unused >> unused, nil // carries the sign up
	}
	return int64(bits), nil
}

// float is f in units of 10^Exponent. What is no number is what SunSpec and
// others say for "no value".
func (r Register) float(f float32) (int64, error) {
	if f != f {
		return 0, ErrAbsent
	}
	raw := math.Round(float64(f) * math.Pow10(-r.Point.Exponent))
	if math.Abs(raw) > 1<<53 { // also infinity
		return 0, fmt.Errorf("%g is %w", f, ErrRange)
	}
	return int64(raw), nil
}

// rescale is raw × 10^scale in units of 10^Exponent, rounded half away from
// zero. A scale factor outside of ±10 makes the value unusable: SunSpec allows
// no other, and 0x8000 says that it is not implemented.
func (r Register) rescale(raw int64, scale uint16) (int64, error) {
	if scale == noScale {
		return 0, ErrAbsent
	}
	if int16(scale) < -MaxExponent || int16(scale) > MaxExponent {
		return 0, fmt.Errorf("a scale factor of %d is %w", int16(scale), ErrRange)
	}
	v, ok := shift(raw, int(int16(scale))-r.Point.Exponent)
	if !ok {
		return 0, fmt.Errorf("%d with a scale factor of %d is %w", raw, int16(scale), ErrRange)
	}
	return v, nil
}

// shift returns raw × 10^by, rounded half away from zero; false if that is more
// than an integer can hold.
func shift(raw int64, by int) (int64, bool) {
	for ; by > 0; by-- {
		if raw > math.MaxInt64/10 || raw < math.MinInt64/10 {
			return 0, false
		}
		raw *= 10
	}
	if by < -18 { // less than half of anything
		return 0, true
	}
	power := int64(1)
	for ; by < 0; by++ {
		power *= 10
	}
	whole, rest := raw/power, raw%power
	switch {
	case rest > 0 && rest >= power-rest:
		whole++
	case rest < 0 && rest <= -power-rest:
		whole--
	}
	return whole, true
}

// Encode turns raw into the words of the register. It refuses what the type
// cannot hold and what would be read back as something else. A register with a
// scale factor is only read.
func (r Register) Encode(raw int64) ([]uint16, error) {
	if r.Scale.Given {
		return nil, fmt.Errorf("what %s would mean depends on a scale factor", r.Point.Name)
	}
	if !r.limits().Holds(raw) {
		return nil, fmt.Errorf("%d is more than %v can hold", raw, r.Type)
	}
	bits := uint64(raw - r.Offset)
	if r.Type == F32 {
		f := float32(float64(raw) * math.Pow10(r.Point.Exponent))
		if back, err := r.float(f); err != nil || back != raw {
			return nil, fmt.Errorf("%d is more exact than %v can hold", raw, r.Type)
		}
		bits = uint64(math.Float32bits(f))
	}
	n := r.Type.Words()
	if n < 4 {
		bits &= 1<<(16*n) - 1
	}
	if slices.Contains(r.Absent, bits) {
		return nil, fmt.Errorf("%d would mean that there is no value", raw)
	}
	return divide(bits, n, r.Order), nil
}

// divide is the inverse of join: bits as n words.
func divide(bits uint64, n int, o Order) []uint16 {
	words := make([]uint16, n)
	for i := range words {
		at := n - 1 - i
		if o == LowFirst {
			at = i
		}
		words[at] = uint16(bits >> (16 * i))
	}
	return words
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
