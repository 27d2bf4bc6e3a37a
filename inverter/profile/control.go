package profile

import (
	"math"
	"time"

	"go.yaml.in/yaml/v3"

	"ecowatt"
	"ecowatt/inverter"
)

// maxSettle is the longest time that an inverter may take to follow an order,
// maxFallback the longest that it may wait for the next one.
const (
	maxSettle   = 10 * time.Minute
	maxFallback = 24 * time.Hour
)

// control reads how reg is written: the range alone, or a mapping.
func (r *reader) control(top mapping, reg *inverter.Register) {
	n := top.values["write"]
	if n == nil {
		return
	}
	if n.Kind != yaml.MappingNode {
		span := top.span("write")
		reg.Point.Min, reg.Point.Max = span.Min, span.Max
		return
	}
	m, _ := top.mapping("write", "range", "address", "gate", "requires", "release", "of", "settle", "proof", "fallback", "stored")
	m.require("range")
	if reg.Table != inverter.Holding {
		m.require("address") // input registers are only read
	}
	span := m.span("range")
	reg.Point.Min, reg.Point.Max = span.Min, span.Max
	reg.Control = &inverter.Control{
		Address:  uint16(m.integer("address", int64(reg.Address), 0, math.MaxUint16)),
		Gate:     r.gate(m),
		Requires: r.requires(m),
		Release:  m.value("release"),
		Of:       m.text("of", maxName),
		Settle:   m.duration("settle", maxSettle),
		Proof:    m.name("proof"),
		Fallback: r.fallback(m),
		Stored:   m.word("stored", "false", "true") == 1,
	}
}

func (r *reader) gate(top mapping) inverter.Gate {
	m, ok := top.mapping("gate", "address", "type", "order", "on", "off", "sequence")
	if !ok {
		return inverter.Gate{}
	}
	m.require("on")
	return inverter.Gate{
		Given: true, Place: m.place(),
		On: m.value("on").Raw, Off: m.value("off"),
		Sequence: choose(m, "sequence", inverter.Sequences()...),
	}
}

func (r *reader) requires(top mapping) []inverter.Setting {
	var settings []inverter.Setting
	for _, item := range top.list("requires", maxProblems) {
		m := r.mapping(item, top.prefix+"requires.", "address", "type", "order", "value")
		if m.node == nil {
			continue
		}
		m.require("value")
		settings = append(settings, inverter.Setting{Place: m.place(), Value: m.value("value").Raw})
	}
	return settings
}

func (r *reader) fallback(top mapping) inverter.Fallback {
	m, ok := top.mapping("fallback", "timer", "default", "value")
	if !ok {
		return inverter.Fallback{}
	}
	m.require("timer")
	f := inverter.Fallback{Given: true, Default: m.duration("default", maxFallback)}
	if timer, ok := m.mapping("timer", "address", "type", "order"); ok {
		f.Timer = timer.place()
	}
	if value, ok := m.mapping("value", "address", "type", "order"); ok {
		f.Value, f.HasValue = value.place(), true
	}
	return f
}

// place reads the fields address, type and order.
func (m mapping) place() inverter.Place {
	m.require("address")
	return inverter.Place{
		Address: uint16(m.integer("address", 0, 0, math.MaxUint16)),
		Type:    choose(m, "type", inverter.Types()...),
		Order:   choose(m, "order", inverter.HighFirst, inverter.LowFirst),
	}
}

// value is the number field; missing where it is not there.
func (m mapping) value(field string) ecowatt.Value {
	if m.values[field] == nil {
		return ecowatt.Value{}
	}
	return ecowatt.Known(m.integer(field, 0, math.MinInt64, math.MaxInt64))
}
