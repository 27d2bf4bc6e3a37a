package ecowatt

import "strconv"

// Point describes one named measurement of an inverter.
type Point struct {
	Name     string `json:"name"`
	Unit     string `json:"unit"`     // as printed: "V", "°C", "%"; empty for a pure number
	Exponent int    `json:"exponent"` // value = raw × 10^Exponent; -10 … 10
	Writable bool   `json:"writable"`
	Min      int64  `json:"min"` // smallest raw value that may be written; 0 unless Writable
	Max      int64  `json:"max"` // largest raw value that may be written; 0 unless Writable
}

// Value is the raw integer of one point at one instant. The zero Value is a
// missing one: it could not be read. A missing value is never shown or stored
// as 0, nor as the value before it.
type Value struct {
	Raw   int64
	Valid bool
}

// Known returns the value raw, which was read.
func Known(raw int64) Value { return Value{Raw: raw, Valid: true} }

// Sample is what one inverter's points were at one instant.
type Sample struct {
	At     int64   // ms; since 1970 (UTC), or since boot where the clock is not known
	Values []Value // one per column of the block or list it belongs to, in its order
}

// Block is a run of samples of one inverter with one list of points, in the
// order in which they were taken: one column per point. Where Window is set it
// holds windows instead (see Aggregate): Aggregates columns per point, times that
// are the starts of windows.
type Block struct {
	Inverter string
	Points   []string
	Samples  []Sample
	Window   int64 // ms; 0 for samples as they were taken
}

// Columns is the number of values of each sample of b.
func (b Block) Columns() int { return Columns(len(b.Points), b.Window) }

// Columns is the number of values of a sample of so many points, or, where window
// is not 0, of a window.
func Columns(points int, window int64) int {
	if window == 0 {
		return points
	}
	return points * Aggregates
}

// Decimal writes raw × 10^exponent exactly, as people write it: Decimal(2301, -1)
// is "230.1", Decimal(-5, -2) is "-0.05", Decimal(3, 2) is "300".
func Decimal(raw int64, exponent int) string {
	s := strconv.FormatInt(raw, 10)
	if exponent >= 0 {
		if raw == 0 {
			return s
		}
		for range exponent {
			s += "0"
		}
		return s
	}
	sign := ""
	if raw < 0 {
		sign, s = "-", s[1:]
	}
	for len(s) <= -exponent {
		s = "0" + s
	}
	point := len(s) + exponent
	return sign + s[:point] + "." + s[point:]
}
