package profile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"ecowatt"
	"ecowatt/inverter"
)

// Limits of a profile file.
const (
	format       = 1
	maxSize      = 256 << 10 // bytes
	maxRegisters = 512
	maxText      = 200 // bytes
	maxUnit      = 8   // characters
	maxName      = 60  // characters, of a value or a bit
	maxNames     = 128 // of one point
	maxProblems  = 10  // told at once
	maxDelay     = time.Minute
)

// Parse reads a profile file: one YAML document without anchors, aliases or
// unknown fields, as docs/profiles.md describes it. file is its name, for errors;
// its base must be the profile's name and ".yaml". The error tells all mistakes,
// one a line, each as "FILE:LINE: FIELD: what is wrong".
func Parse(file string, data []byte) (inverter.Profile, error) {
	r := &reader{file: file}
	root, err := document(data)
	if err != nil {
		return inverter.Profile{}, fmt.Errorf("%s: %w", file, err)
	}
	p := r.profile(root)
	if len(r.problems) > 0 {
		return inverter.Profile{}, errors.New(strings.Join(r.problems, "\n"))
	}
	return p, nil
}

// document returns the root node of the one document in data.
func document(data []byte) (*yaml.Node, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("larger than %d bytes", maxSize)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, rest yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("empty")
	} else if err != nil {
		return nil, err
	}
	if err := d.Decode(&rest); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	return doc.Content[0], nil
}

// reader collects what is wrong with a file.
type reader struct {
	file     string
	problems []string // the first of them
	count    int      // of all
}

func (r *reader) complain(at *yaml.Node, field, form string, args ...any) {
	r.count++
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, fmt.Sprintf("%s:%d: %s: %s", r.file, at.Line, field, fmt.Sprintf(form, args...)))
	}
}

func (r *reader) profile(root *yaml.Node) inverter.Profile {
	m := r.mapping(root, "", "format", "name", "title", "source", "trust", "unit", "block_limit", "gap_limit",
		"connect_delay", "request_gap", "timeout", "write_function", "sleeping", "heartbeat", "registers")
	if m.node == nil {
		return inverter.Profile{}
	}
	m.require("format", "name", "title", "source", "registers")
	m.integer("format", format, format, format)
	p := inverter.Profile{
		Name:   m.name("name"),
		Title:  m.text("title", maxText),
		Source: m.text("source", maxText),
		Trust:  choose(m, "trust", inverter.Trusts()...),
		Unit:   byte(m.integer("unit", 1, 0, math.MaxUint8)),
		Block:  int(m.integer("block_limit", inverter.MaxBlock, 1, inverter.MaxBlock)),
		Gap:    int(m.integer("gap_limit", 0, 0, inverter.MaxGap)),
		Timing: inverter.Timing{
			Connect: m.duration("connect_delay", maxDelay),
			Gap:     m.duration("request_gap", maxDelay),
			Timeout: m.duration("timeout", maxDelay),
		},
		WriteMultiple: m.word("write_function", "6", "16") == 1,
	}
	if p.Name != "" && !named(r.file, p.Name) {
		r.complain(m.values["name"], "name", "%q is not the name of the file", p.Name)
	}
	list := m.list("registers", maxRegisters)
	if n := m.values["registers"]; n != nil && n.Kind == yaml.SequenceNode && len(list) == 0 {
		r.complain(n, "registers", "there are none")
	}
	for i, item := range list {
		r.point(item, fmt.Sprintf("registers[%d]", i), &p)
	}
	if len(list) > 0 && len(p.Registers) == 0 && r.count == 0 {
		r.complain(m.values["registers"], "registers", "there are only texts")
	}
	for i, item := range list {
		r.proof(item, fmt.Sprintf("registers[%d].write.proof", i), p)
	}
	p.Sleeping = r.sleeping(m, p)
	p.Heartbeat = r.heartbeat(m)
	return p
}

// heartbeat reads which registers change as long as readings are fresh.
func (r *reader) heartbeat(top mapping) inverter.Heartbeat {
	m, ok := top.mapping("heartbeat", "address", "table", "words")
	if !ok {
		return inverter.Heartbeat{}
	}
	m.require("address")
	h := inverter.Heartbeat{
		Table:   choose(m, "table", inverter.Holding, inverter.Input),
		Address: uint16(m.integer("address", 0, 0, math.MaxUint16)),
		Words:   int(m.integer("words", 1, 1, inverter.MaxHeartbeat)),
	}
	if int(h.Address)+h.Words > math.MaxUint16+1 {
		r.complain(m.node, "heartbeat", "it ends beyond 65535")
	}
	return h
}

// point reads one item of the list of registers into p.
func (r *reader) point(item *yaml.Node, field string, p *inverter.Profile) {
	if scalar(item, "type") == "string" {
		if t, ok := r.string(item, field+"."); ok && r.fitsText(item, field, *p, t) {
			p.Texts = append(p.Texts, t)
		}
		return
	}
	if reg, ok := r.register(item, field+"."); ok && r.fits(item, field, *p, reg) {
		p.Registers = append(p.Registers, reg)
	}
}

// scalar is what stands at a field of a mapping; "" if there is nothing.
func scalar(node *yaml.Node, field string) string {
	if n := child(node, field); n != nil {
		return n.Value
	}
	return ""
}

// child is the node at a field of a mapping; nil if there is none.
func child(node *yaml.Node, field string) *yaml.Node {
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(node.Content); i += 2 {
		if node.Content[i].Value == field {
			return node.Content[i+1]
		}
	}
	return nil
}

// proof checks that the point that proves a write is one.
func (r *reader) proof(item *yaml.Node, field string, p inverter.Profile) {
	i := slices.IndexFunc(p.Registers, func(g inverter.Register) bool { return g.Point.Name == scalar(item, "point") })
	if i < 0 || p.Registers[i].Control == nil || p.Registers[i].Control.Proof == "" {
		return
	}
	proof := p.Registers[i].Control.Proof
	at := child(child(item, "write"), "proof")
	if _, ok := p.Register(proof); at != nil && (!ok || proof == p.Registers[i].Point.Name) {
		r.complain(at, field, "%q is no other point", proof)
	}
}

// sleeping reads how the inverter tells that it sleeps.
func (r *reader) sleeping(top mapping, p inverter.Profile) inverter.Sleeping {
	m, ok := top.mapping("sleeping", "point", "values")
	if !ok {
		return inverter.Sleeping{}
	}
	m.require("point", "values")
	s := inverter.Sleeping{Point: m.name("point")}
	if g, ok := p.Register(s.Point); s.Point != "" && (!ok || g.Class != inverter.Fast) {
		r.complain(m.at("point"), m.prefix+"point", "%q is no point that is read for every sample", s.Point)
	}
	for _, n := range m.list("values", maxProblems) {
		v, ok := integer(n)
		if !ok {
			r.complain(n, m.prefix+"values", "%s is not a whole number", show(n))
		}
		s.Values = append(s.Values, v)
	}
	if n := m.values["values"]; n != nil && len(s.Values) == 0 {
		r.complain(n, m.prefix+"values", "there are none")
	}
	return s
}

// fits reports whether reg, which stands at the field of that name, can be one
// more register of p.
func (r *reader) fits(at *yaml.Node, field string, p inverter.Profile, reg inverter.Register) bool {
	if words := reg.Span(); words > p.Block {
		r.complain(at, field+".type", "%d words do not fit into a read of %d", words, p.Block)
		return false
	}
	if slices.ContainsFunc(p.Texts, func(t inverter.Text) bool { return t.Name == reg.Point.Name }) {
		r.complain(at, field+".point", "%q stands twice", reg.Point.Name)
		return false
	}
	for _, other := range p.Registers {
		switch {
		case reg.Point.Name == other.Point.Name:
			r.complain(at, field+".point", "%q stands twice", reg.Point.Name)
			return false
		case reg.Overlaps(other):
			r.complain(at, field+".address", "%s overlaps %s", reg.Point.Name, other.Point.Name)
			return false
		}
	}
	return true
}

// fitsText reports whether t can be one more text of p.
func (r *reader) fitsText(at *yaml.Node, field string, p inverter.Profile, t inverter.Text) bool {
	_, point := p.Register(t.Name)
	if point || slices.ContainsFunc(p.Texts, func(o inverter.Text) bool { return o.Name == t.Name }) {
		r.complain(at, field+".point", "%q stands twice", t.Name)
		return false
	}
	if t.Words > p.Block {
		r.complain(at, field+".words", "%d words do not fit into a read of %d", t.Words, p.Block)
		return false
	}
	return true
}

// string reads a register of the type string; false if something is wrong.
func (r *reader) string(node *yaml.Node, prefix string) (inverter.Text, bool) {
	before := r.count
	m := r.mapping(node, prefix, "point", "address", "table", "type", "words")
	m.require("point", "address", "words")
	t := inverter.Text{
		Name:    m.name("point"),
		Table:   choose(m, "table", inverter.Holding, inverter.Input),
		Address: uint16(m.integer("address", 0, 0, math.MaxUint16)),
		Words:   int(m.integer("words", 1, 1, inverter.MaxText)),
	}
	if int(t.Address)+t.Words > 1<<16 {
		r.complain(m.at("address"), prefix+"address", "%d and the %d words end beyond 65535", t.Address, t.Words)
	}
	return t, r.count == before
}

// register reads one register of a number; false if something is wrong with it.
func (r *reader) register(node *yaml.Node, prefix string) (inverter.Register, bool) {
	before := r.count
	m := r.mapping(node, prefix, "point", "address", "table", "type", "order", "exponent", "scale", "offset", "unit",
		"absent", "valid", "step", "poll", "asleep", "names", "write")
	if m.node == nil {
		return inverter.Register{}, false
	}
	m.require("point", "address")
	reg := inverter.Register{
		Point: ecowatt.Point{
			Name:     m.name("point"),
			Unit:     m.text("unit", maxUnit),
			Exponent: int(m.integer("exponent", 0, -inverter.MaxExponent, inverter.MaxExponent)),
			Writable: m.values["write"] != nil,
		},
		Address: uint16(m.integer("address", 0, 0, math.MaxUint16)),
		Table:   choose(m, "table", inverter.Holding, inverter.Input),
		Type:    choose(m, "type", inverter.Types()...),
		Order:   choose(m, "order", inverter.HighFirst, inverter.LowFirst),
		Scale:   inverter.Scale{Given: m.values["scale"] != nil, Address: uint16(m.integer("scale", 0, 0, math.MaxUint16))},
		Offset:  m.integer("offset", 0, math.MinInt32, math.MaxInt32),
		Valid:   m.span("valid"),
		Step:    m.integer("step", 0, 1, math.MaxInt64),
		Class:   choose(m, "poll", inverter.Classes()...),
		Asleep:  m.word("asleep", "value", "missing") == 1,
		Names:   r.names(m),
	}
	for _, n := range m.list("absent", maxProblems) {
		var pattern uint64
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || n.Decode(&pattern) != nil {
			r.complain(n, prefix+"absent", "%s is not a bit pattern", show(n))
		}
		reg.Absent = append(reg.Absent, pattern)
	}
	r.control(m, &reg)
	if r.count > before {
		return reg, false
	}
	if err := reg.Check(); err != nil {
		field, what, _ := strings.Cut(err.Error(), ": ")
		r.complain(m.at(field), prefix+field, "%s", what)
	}
	return reg, r.count == before
}

// names reads the names of values or bits.
func (r *reader) names(top mapping) []inverter.Name {
	n := top.values["names"]
	switch {
	case n == nil:
		return nil
	case n.Kind != yaml.MappingNode:
		r.complain(n, top.prefix+"names", "%s is not a list of numbers and their names", show(n))
		return nil
	case len(n.Content) > 2*maxNames:
		r.complain(n, top.prefix+"names", "more than %d", maxNames)
		return nil
	}
	var names []inverter.Name
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		number, ok := integer(key)
		if !ok || number < 0 || number > math.MaxUint32 {
			r.complain(key, top.prefix+"names", "%s is not a number of 32 bits", show(key))
			continue
		}
		one := mapping{reader: r, node: n, prefix: top.prefix, values: map[string]*yaml.Node{"names": value}}
		names = append(names, inverter.Name{Number: uint32(number), Text: one.text("names", maxName)})
	}
	return names
}
