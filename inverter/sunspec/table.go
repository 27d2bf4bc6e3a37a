package sunspec

import "ecowatt/inverter"

// common is the model with the names of the inverter.
const common = 1

// kind is a type of SunSpec, with what it says for "not implemented".
type kind byte

const (
	int16s kind = iota
	uint16s
	uint32s
	uint64s
	acc32  // counts from 0, which also means "not implemented"
	acc64  // likewise
	enum16 // named values
	bits16
	bits32
	float32s
)

// typ is the type of the register, and the patterns that mean "not implemented".
func (k kind) typ() (inverter.Type, []uint64) {
	switch k {
	case int16s:
		return inverter.S16, []uint64{0x8000}
	case uint16s:
		return inverter.U16, []uint64{0xffff}
	case uint32s:
		return inverter.U32, []uint64{0xffff_ffff}
	case uint64s:
		return inverter.U64, []uint64{0xffff_ffff_ffff_ffff}
	case acc32:
		return inverter.U32, []uint64{0}
	case acc64:
		return inverter.U64, []uint64{0}
	case enum16:
		return inverter.Enum16, []uint64{0xffff}
	case bits16:
		return inverter.Bits16, []uint64{0xffff}
	case bits32:
		return inverter.Bits32, []uint64{0xffff_ffff}
	case float32s: // not a number
	}
	return inverter.F32, nil
}

// point is one point of a model. Offsets are from the model's ID, or within a
// repeated group.
type point struct {
	name   string // of SunSpec
	offset int
	kind   kind
	sf     int    // offset of the scale factor; 0: none
	as     string // the name of the point here
	unit   string
	poll   inverter.Class
	phase  int // that it is of; 0: of all
	names  []inverter.Name
}

// table is what is read of some models that have the same layout.
type table struct {
	ids    []uint16
	points []point
	fixed  bool // scale factors are those found at discovery
	group  group
}

// group is a part of a model that is repeated. Scale factors of its points stand
// before the first one.
type group struct {
	offset, size int
	count        int // offset of their number
	points       []point
}

// digits is the exponent of a point of a unit whose scale factor may change.
// Where an inverter is more exact when it is found, the point is too.
func digits(unit string) int {
	switch unit {
	case "A", "Hz":
		return -3
	case "V", "°C", "%":
		return -2
	case "W", "VA", "var":
		return -1
	}
	return 0
}

// tables lists what is read, in the order in which points of the same name are
// looked for: the first one found counts.
func tables() []table {
	return []table{
		{ids: []uint16{101, 102, 103}, points: inverterPoints()},
		{ids: []uint16{111, 112, 113}, points: floatPoints()},
		{ids: []uint16{701}, points: measurePoints()},
		{ids: []uint16{160}, group: group{offset: 10, size: 20, count: 8, points: []point{
			{name: "DCA", offset: 9, kind: uint16s, sf: 2, as: "ipv", unit: "A"},
			{name: "DCV", offset: 10, kind: uint16s, sf: 3, as: "vpv", unit: "V"},
			{name: "DCW", offset: 11, kind: uint16s, sf: 4, as: "ppv", unit: "W"},
		}}},
		{ids: []uint16{702}, fixed: true, points: []point{
			{name: "WMaxRtg", offset: 2, kind: uint16s, sf: 45, as: "rated_power", unit: "W", poll: inverter.Once},
			{name: "WMax", offset: 26, kind: uint16s, sf: 45, as: "max_power", unit: "W", poll: inverter.Slow},
		}},
		{ids: []uint16{120}, fixed: true, points: []point{
			{name: "WRtg", offset: 3, kind: uint16s, sf: 4, as: "rated_power", unit: "W", poll: inverter.Once},
		}},
		{ids: []uint16{121}, fixed: true, points: []point{
			{name: "WMax", offset: 2, kind: uint16s, sf: 22, as: "max_power", unit: "W", poll: inverter.Slow},
		}},
		{ids: []uint16{122}, points: []point{
			{name: "PVConn", offset: 2, kind: bits16, as: "connection", names: list("connected", "available", "operating", "test")},
			{name: "ActWh", offset: 5, kind: acc64, as: "energy_total", unit: "Wh", poll: inverter.Slow},
			{name: "StSetLimMsk", offset: 33, kind: bits32, as: "limits_reached", names: list("WMax")},
			{name: "StActCtl", offset: 35, kind: bits32, as: "active_controls", names: list("fixed W", "fixed var", "fixed PF")},
		}},
		{ids: []uint16{704}, fixed: true, points: []point{
			{name: "WMaxLimPct", offset: 15, kind: uint16s, sf: 54, as: limitPoint, unit: "%", poll: inverter.Slow},
		}},
		{ids: []uint16{123}, fixed: true, points: []point{
			{name: "WMaxLimPct", offset: 5, kind: uint16s, sf: 23, as: limitPoint, unit: "%", poll: inverter.Slow},
		}},
	}
}

func inverterPoints() []point {
	return []point{
		{name: "A", offset: 2, kind: uint16s, sf: 6, as: "iac", unit: "A"},
		{name: "AphA", offset: 3, kind: uint16s, sf: 6, as: "iac1", unit: "A", phase: 1},
		{name: "AphB", offset: 4, kind: uint16s, sf: 6, as: "iac2", unit: "A", phase: 2},
		{name: "AphC", offset: 5, kind: uint16s, sf: 6, as: "iac3", unit: "A", phase: 3},
		{name: "PhVphA", offset: 10, kind: uint16s, sf: 13, as: "vac1", unit: "V", phase: 1},
		{name: "PhVphB", offset: 11, kind: uint16s, sf: 13, as: "vac2", unit: "V", phase: 2},
		{name: "PhVphC", offset: 12, kind: uint16s, sf: 13, as: "vac3", unit: "V", phase: 3},
		{name: "W", offset: 14, kind: int16s, sf: 15, as: "pac", unit: "W"},
		{name: "Hz", offset: 16, kind: uint16s, sf: 17, as: "fac1", unit: "Hz"},
		{name: "VA", offset: 18, kind: int16s, sf: 19, as: "sac", unit: "VA"},
		{name: "VAr", offset: 20, kind: int16s, sf: 21, as: "qac", unit: "var"},
		{name: "PF", offset: 22, kind: int16s, sf: 23, as: "power_factor", unit: "%"},
		{name: "WH", offset: 24, kind: acc32, sf: 26, as: "energy_total", unit: "Wh", poll: inverter.Slow},
		{name: "DCA", offset: 27, kind: uint16s, sf: 28, as: "idc", unit: "A"},
		{name: "DCV", offset: 29, kind: uint16s, sf: 30, as: "vdc", unit: "V"},
		{name: "DCW", offset: 31, kind: int16s, sf: 32, as: "pdc", unit: "W"},
		{name: "TmpCab", offset: 33, kind: int16s, sf: 37, as: "temp", unit: "°C"},
		{name: "TmpSnk", offset: 34, kind: int16s, sf: 37, as: "temp_sink", unit: "°C"},
		{name: "St", offset: 38, kind: enum16, as: statePoint, names: states(1)},
		{name: "Evt1", offset: 40, kind: bits32, as: "events", names: events()},
	}
}

func floatPoints() []point {
	return []point{
		{name: "A", offset: 2, kind: float32s, as: "iac", unit: "A"},
		{name: "AphA", offset: 4, kind: float32s, as: "iac1", unit: "A", phase: 1},
		{name: "AphB", offset: 6, kind: float32s, as: "iac2", unit: "A", phase: 2},
		{name: "AphC", offset: 8, kind: float32s, as: "iac3", unit: "A", phase: 3},
		{name: "PhVphA", offset: 16, kind: float32s, as: "vac1", unit: "V", phase: 1},
		{name: "PhVphB", offset: 18, kind: float32s, as: "vac2", unit: "V", phase: 2},
		{name: "PhVphC", offset: 20, kind: float32s, as: "vac3", unit: "V", phase: 3},
		{name: "W", offset: 22, kind: float32s, as: "pac", unit: "W"},
		{name: "Hz", offset: 24, kind: float32s, as: "fac1", unit: "Hz"},
		{name: "VA", offset: 26, kind: float32s, as: "sac", unit: "VA"},
		{name: "VAr", offset: 28, kind: float32s, as: "qac", unit: "var"},
		{name: "PF", offset: 30, kind: float32s, as: "power_factor", unit: "%"},
		{name: "WH", offset: 32, kind: float32s, as: "energy_total", unit: "Wh", poll: inverter.Slow},
		{name: "DCA", offset: 34, kind: float32s, as: "idc", unit: "A"},
		{name: "DCV", offset: 36, kind: float32s, as: "vdc", unit: "V"},
		{name: "DCW", offset: 38, kind: float32s, as: "pdc", unit: "W"},
		{name: "TmpCab", offset: 40, kind: float32s, as: "temp", unit: "°C"},
		{name: "TmpSnk", offset: 42, kind: float32s, as: "temp_sink", unit: "°C"},
		{name: "St", offset: 48, kind: enum16, as: statePoint, names: states(1)},
		{name: "Evt1", offset: 50, kind: bits32, as: "events", names: events()},
	}
}

// measurePoints are those of model 701, of IEEE 1547-2018.
func measurePoints() []point {
	return []point{
		{name: "InvSt", offset: 4, kind: enum16, as: statePoint, names: states(0)},
		{name: "Alrm", offset: 6, kind: bits32, as: "events", names: events()},
		{name: "W", offset: 10, kind: int16s, sf: 116, as: "pac", unit: "W"},
		{name: "VA", offset: 11, kind: int16s, sf: 118, as: "sac", unit: "VA"},
		{name: "Var", offset: 12, kind: int16s, sf: 119, as: "qac", unit: "var"},
		{name: "A", offset: 14, kind: int16s, sf: 113, as: "iac", unit: "A"},
		{name: "Hz", offset: 17, kind: uint32s, sf: 115, as: "fac1", unit: "Hz"},
		{name: "TotWhInj", offset: 19, kind: uint64s, sf: 120, as: "energy_total", unit: "Wh", poll: inverter.Slow},
		{name: "TmpCab", offset: 36, kind: int16s, sf: 122, as: "temp", unit: "°C"},
		{name: "TmpSnk", offset: 37, kind: int16s, sf: 122, as: "temp_sink", unit: "°C"},
		{name: "AL1", offset: 45, kind: int16s, sf: 113, as: "iac1", unit: "A"},
		{name: "VL1", offset: 47, kind: uint16s, sf: 114, as: "vac1", unit: "V"},
		{name: "AL2", offset: 68, kind: int16s, sf: 113, as: "iac2", unit: "A"},
		{name: "VL2", offset: 70, kind: uint16s, sf: 114, as: "vac2", unit: "V"},
		{name: "AL3", offset: 91, kind: int16s, sf: 113, as: "iac3", unit: "A"},
		{name: "VL3", offset: 93, kind: uint16s, sf: 114, as: "vac3", unit: "V"},
		{name: "ThrotPct", offset: 110, kind: uint16s, as: "throttled_percent", unit: "%"},
	}
}

// list names numbers from 0 on.
func list(texts ...string) []inverter.Name { return from(0, texts...) }

func from(first uint32, texts ...string) []inverter.Name {
	names := make([]inverter.Name, len(texts))
	for i, text := range texts {
		names[i] = inverter.Name{Number: first + uint32(i), Text: text}
	}
	return names
}

// states are those of an inverter; model 701 counts them from 0, the others
// from 1.
func states(first uint32) []inverter.Name {
	return from(first, "off", "sleeping", "starting", "tracking", "throttled", "shutting down", "fault", "standby")
}

func events() []inverter.Name {
	return list("ground fault", "DC over voltage", "AC disconnected", "DC disconnected", "grid disconnected",
		"cabinet open", "manual shutdown", "over temperature", "over frequency", "under frequency", "AC over voltage",
		"AC under voltage", "blown string fuse", "under temperature", "memory loss", "hardware test failure")
}
