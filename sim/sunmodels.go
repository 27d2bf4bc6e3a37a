package sim

import (
	"fmt"

	"ecowatt/inverter"
)

// The models, by the SunSpec Information Model Reference. Scale factors that a
// point here has are the exponent of it, at the place that the model says.

// minus is a scale factor.
func minus(n int) uint16 { return uint16(-n) } //nolint:gosec // G115: two's complement is meant

// span are the offsets from first to last.
func span(first, last int) (all []int) {
	for i := first; i <= last; i++ {
		all = append(all, i)
	}
	return all
}

// named are names of numbers from first on.
func named(first uint32, texts ...string) []inverter.Name {
	names := make([]inverter.Name, len(texts))
	for i, text := range texts {
		names[i] = inverter.Name{Number: first + uint32(i), Text: text}
	}
	return names
}

// operating are the states, which model 701 counts from 0 and the others from 1.
func operating(first uint32) []inverter.Name {
	return named(first, "off", "sleeping", "starting", "tracking", "throttled", "shutting down", "fault", "standby")
}

// alarms are those of the bits of Evt1 and of Alrm that are simulated.
func alarms() []inverter.Name {
	return []inverter.Name{{Number: 7, Text: "over temperature"}, {Number: 10, Text: "AC over voltage"}}
}

// phased are the points of a quantity in each phase.
func phased(points []sunPoint, phases int, p sunPoint, offsets ...int) []sunPoint {
	for i := range phases {
		q := p
		q.offset, q.name = offsets[i], fmt.Sprint(p.name, i+1)
		points = append(points, q)
	}
	return points
}

// commonModel is model 1: what the inverter is.
func commonModel(unit byte) sunModel {
	m := sunModel{id: 1, length: 66, zero: span(2, 65), words: map[int]uint16{66: uint16(unit), 67: 0x8000}}
	text := func(offset int, s string) {
		for i := 0; i < len(s); i += 2 {
			w := uint16(s[i]) << 8
			if i+1 < len(s) {
				w |= uint16(s[i+1])
			}
			m.words[offset+i/2] = w
		}
	}
	text(2, "EcoWatt")
	text(18, "EcoWatt sim")
	text(42, "1")
	text(50, fmt.Sprintf("SIM%03d", unit))
	return m
}

// integerModel is model 101, 102 or 103, with scale factors.
func integerModel(phases int) sunModel {
	points := []sunPoint{
		{2, "iac", inverter.U16, -2, "A", nil},
		{14, "pac", inverter.S16, 0, "W", nil},
		{16, "fac1", inverter.U16, -2, "Hz", nil},
		{18, "sac", inverter.S16, 0, "VA", nil},
		{20, "qac", inverter.S16, 0, "var", nil},
		{22, "power_factor_percent", inverter.S16, -2, "%", nil},
		{24, energyTotal, inverter.U32, 0, "Wh", nil},
		{27, "idc", inverter.U16, -2, "A", nil},
		{29, "vdc", inverter.U16, -1, "V", nil},
		{31, "pdc", inverter.S16, 0, "W", nil},
		{33, "temp", inverter.S16, -1, "°C", nil},
		{38, "state", inverter.Enum16, 0, "", operating(1)},
		{40, "events", inverter.Bits32, 0, "", alarms()},
	}
	points = phased(points, phases, sunPoint{name: "iac", typ: inverter.U16, exponent: -2, unit: "A"}, 3, 4, 5)
	points = phased(points, phases, sunPoint{name: "vac", typ: inverter.U16, exponent: -1, unit: "V"}, 10, 11, 12)
	return sunModel{
		id: 100 + uint16(phases), length: 50, signed: span(34, 36), points: points,
		words: map[int]uint16{
			6: minus(2), 13: minus(1), 15: 0, 17: minus(2), 19: 0, 21: 0, 23: minus(2), 26: 0, 28: minus(2), 30: minus(1), 32: 0, 37: minus(1),
		},
	}
}

// floatModel is model 111, 112 or 113: the same in IEEE 754 binary32.
func floatModel(phases int) sunModel {
	points := []sunPoint{
		{2, "iac", inverter.F32, 0, "A", nil},
		{22, "pac", inverter.F32, 0, "W", nil},
		{24, "fac1", inverter.F32, 0, "Hz", nil},
		{26, "sac", inverter.F32, 0, "VA", nil},
		{28, "qac", inverter.F32, 0, "var", nil},
		{30, "power_factor_percent", inverter.F32, 0, "%", nil},
		{32, energyTotal, inverter.F32, 0, "Wh", nil},
		{34, "idc", inverter.F32, 0, "A", nil},
		{36, "vdc", inverter.F32, 0, "V", nil},
		{38, "pdc", inverter.F32, 0, "W", nil},
		{40, "temp", inverter.F32, 0, "°C", nil},
		{48, "state", inverter.Enum16, 0, "", operating(1)},
		{50, "events", inverter.Bits32, 0, "", alarms()},
	}
	points = phased(points, phases, sunPoint{name: "iac", typ: inverter.F32, unit: "A"}, 4, 6, 8)
	points = phased(points, phases, sunPoint{name: "vac", typ: inverter.F32, unit: "V"}, 16, 18, 20)
	words := map[int]uint16{}
	for offset := 2; offset < 48; offset += 2 { // not a number
		words[offset], words[offset+1] = 0x7fc0, 0
	}
	return sunModel{id: 110 + uint16(phases), length: 60, words: words, points: points}
}

// nameplateModel is model 120: what the inverter can do.
func nameplateModel() sunModel {
	return sunModel{
		id: 120, length: 26,
		signed: []int{7, 8, 9, 10, 11, 14, 15, 16, 17, 18, 20, 22, 24, 26, 27},
		words:  map[int]uint16{2: 4, 4: 0, 6: 0, 13: minus(1)}, // photovoltaic only
		points: []sunPoint{
			{3, "rated_power", inverter.U16, 0, "W", nil},
			{5, "rated_power", inverter.U16, 0, "VA", nil},
			{12, "rated_current", inverter.U16, -1, "A", nil},
		},
	}
}

// settingsModel is model 121: what it is set to.
func settingsModel() sunModel {
	return sunModel{
		id: 121, length: 30,
		signed: []int{8, 9, 10, 11, 13, 14, 15, 16, 25, 26, 27, 29, 30, 31},
		words:  map[int]uint16{3: nominalVoltage, 4: 0, 12: rampPerS, 22: 0, 23: 0, 24: 0, 28: 0},
		points: []sunPoint{{2, "rated_power", inverter.U16, 0, "W", nil}},
	}
}

// statusModel is model 122: what it does.
func statusModel() sunModel {
	return sunModel{
		id: 122, length: 44,
		signed: []int{29, 30, 32, 45}, zero: append(span(9, 28), span(37, 40)...),
		words: map[int]uint16{3: 0, 4: 1},
		points: []sunPoint{
			{2, "connection", inverter.Bits16, 0, "", named(0, "connected", "available", "operating", "test")},
			{5, energyTotal, inverter.U64, 0, "Wh", nil},
			{33, "limits_reached", inverter.Bits32, 0, "", named(0, "WMax")},
			{35, "active_controls", inverter.Bits32, 0, "", named(0, "fixed W")},
		},
	}
}

// immediateModel is model 123, by which a limit is ordered. There is no value to
// fall back to: when RvrtTms has passed, the limit ends.
func immediateModel() sunModel {
	return sunModel{
		id: 123, length: 24, signed: append([]int{10, 24, 25}, span(15, 17)...),
		words:  map[int]uint16{4: 1, 7: 0, 9: 0, 23: minus(2)},
		points: []sunPoint{{5, limitPoint, inverter.U16, -2, "%", nil}},
	}
}

// stringsModel is model 160: the strings.
func stringsModel() sunModel {
	m := sunModel{
		id: 160, length: 48, signed: []int{5},
		words: map[int]uint16{2: minus(2), 3: minus(1), 4: 0, 6: 0, 7: 0, 8: 2},
	}
	for i := range 2 {
		at := 10 + 20*i
		m.words[at] = uint16(i + 1)
		m.zero = append(append(m.zero, span(at+1, at+8)...), at+12, at+13)
		m.signed = append(m.signed, at+16)
		m.points = append(m.points,
			sunPoint{at + 9, fmt.Sprint("ipv", i+1), inverter.U16, -2, "A", nil},
			sunPoint{at + 10, fmt.Sprint("vpv", i+1), inverter.U16, -1, "V", nil},
			sunPoint{at + 11, fmt.Sprint("ppv", i+1), inverter.U16, 0, "W", nil})
	}
	return m
}

// measureModel is model 701 of IEEE 1547.
func measureModel(phases int) sunModel {
	points := []sunPoint{
		{4, "state", inverter.Enum16, 0, "", operating(0)},
		{6, "events", inverter.Bits32, 0, "", alarms()},
		{10, "pac", inverter.S16, 0, "W", nil},
		{11, "sac", inverter.S16, 0, "VA", nil},
		{12, "qac", inverter.S16, 0, "var", nil},
		{14, "iac", inverter.S16, -2, "A", nil},
		{17, "fac1", inverter.U32, -2, "Hz", nil},
		{19, energyTotal, inverter.U64, 0, "Wh", nil},
		{36, "temp", inverter.S16, -1, "°C", nil},
	}
	points = phased(points, phases, sunPoint{name: "iac", typ: inverter.S16, exponent: -2, unit: "A"}, 45, 68, 91)
	points = phased(points, phases, sunPoint{name: "vac", typ: inverter.U16, exponent: -1, unit: "V"}, 47, 70, 93)
	signed := append(span(35, 45), span(64, 68)...)
	signed = append(append(signed, span(87, 91)...), 117, 121)
	return sunModel{
		id: 701, length: 153, signed: signed, zero: span(123, 154), points: points,
		words: map[int]uint16{
			2: uint16(phases - 1), 3: 1, 5: 1, 8: 0, 9: 0,
			113: minus(2), 114: minus(1), 115: minus(2), 116: 0, 118: 0, 119: 0, 120: 0, 122: minus(1),
		},
	}
}

// capacityModel is model 702 of IEEE 1547.
func capacityModel() sunModel {
	return sunModel{
		id: 702, length: 50, signed: span(46, 51), words: map[int]uint16{45: 0},
		points: []sunPoint{{2, "rated_power", inverter.U16, 0, "W", nil}, {26, "rated_power", inverter.U16, 0, "W", nil}},
	}
}

// controlModel is model 704 of IEEE 1547, by which a limit is ordered, with a
// value to fall back to.
func controlModel() sunModel {
	return sunModel{
		id: 704, length: 65,
		signed: []int{24, 26, 28, 29, 38, 40, 42, 43, 53, 55, 56, 57, 58}, zero: []int{25, 27, 39, 41},
		words: map[int]uint16{14: 0, 16: 10000, 17: 1, 18: 0, 19: 0, 54: minus(2)},
		points: []sunPoint{
			{15, limitPoint, inverter.U16, -2, "%", nil},
			{20, leftPoint, inverter.U32, 0, "s", nil},
		},
	}
}
