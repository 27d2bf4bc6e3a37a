package profile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

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
	maxProblems  = 10  // told at once
)

// Parse reads a profile file: one YAML document without anchors, aliases or
// unknown fields. file is its name, for errors; its base must be the profile's
// name and ".yaml". The error tells all mistakes, one a line, each as
// "FILE:LINE: FIELD: what is wrong".
//
//	field         meaning
//	format        1
//	name          as the file
//	title         for people
//	source        where the facts are from
//	unit          unit id where none is set, 0 … 255; 1 if not given
//	block_limit   most registers in one read, 1 … 125; 125 if not given
//	gap_limit     most registers not asked for in one read, 0 … 123; 0 if not given
//	registers     list of:
//	  point       name
//	  address     wire address, counted from 0
//	  table       holding (if not given) or input
//	  type        u16 (if not given), s16, u32, s32, u64 or s64
//	  order       high (if not given) or low: the word that comes first
//	  exponent    value = raw × 10^exponent; 0 if not given
//	  unit        as printed
//	  absent      list of bit patterns that mean "no value"
//	  valid       [least, most] raw value; others are missing
//	  write       [least, most] raw value that may be written; read-only if not given
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
	m := r.mapping(root, "", "format", "name", "title", "source", "unit", "block_limit", "gap_limit", "registers")
	if m.node == nil {
		return inverter.Profile{}
	}
	m.require("format", "name", "title", "source", "registers")
	m.integer("format", format, format, format)
	p := inverter.Profile{
		Name:   m.name("name"),
		Title:  m.text("title", maxText),
		Source: m.text("source", maxText),
		Unit:   byte(m.integer("unit", 1, 0, math.MaxUint8)),
		Block:  int(m.integer("block_limit", inverter.MaxBlock, 1, inverter.MaxBlock)),
		Gap:    int(m.integer("gap_limit", 0, 0, inverter.MaxGap)),
	}
	if p.Name != "" && !named(r.file, p.Name) {
		r.complain(m.values["name"], "name", "%q is not the name of the file", p.Name)
	}
	list := m.list("registers", maxRegisters)
	if n := m.values["registers"]; n != nil && n.Kind == yaml.SequenceNode && len(list) == 0 {
		r.complain(n, "registers", "there are none")
	}
	for i, item := range list {
		field := fmt.Sprintf("registers[%d]", i)
		if reg, ok := r.register(item, field+"."); ok && r.fits(item, field, p, reg) {
			p.Registers = append(p.Registers, reg)
		}
	}
	return p
}

// fits reports whether reg, which stands at the field of that name, can be one
// more register of p.
func (r *reader) fits(at *yaml.Node, field string, p inverter.Profile, reg inverter.Register) bool {
	if words := reg.Type.Words(); words > p.Block {
		r.complain(at, field+".type", "%d words do not fit into a read of %d", words, p.Block)
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

// register reads one register; false if something is wrong with it.
func (r *reader) register(node *yaml.Node, prefix string) (inverter.Register, bool) {
	before := r.count
	m := r.mapping(node, prefix, "point", "address", "table", "type", "order", "exponent", "unit", "absent", "valid", "write")
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
		Valid:   m.span("valid"),
	}
	write := m.span("write")
	reg.Point.Min, reg.Point.Max = write.Min, write.Max
	for _, n := range m.list("absent", maxProblems) {
		var pattern uint64
		if n.Kind != yaml.ScalarNode || n.Tag != "!!int" || n.Decode(&pattern) != nil {
			r.complain(n, prefix+"absent", "%s is not a bit pattern", show(n))
		}
		reg.Absent = append(reg.Absent, pattern)
	}
	if r.count > before {
		return reg, false
	}
	if err := reg.Check(); err != nil {
		field, what, _ := strings.Cut(err.Error(), ": ")
		r.complain(m.at(field), prefix+field, "%s", what)
	}
	return reg, r.count == before
}

// mapping is a YAML mapping whose fields are known. node is nil if it is none.
type mapping struct {
	*reader
	node   *yaml.Node
	prefix string // of its fields, in complaints
	values map[string]*yaml.Node
}

// mapping reads node; prefix ends in a dot, or is empty for the whole file.
func (r *reader) mapping(node *yaml.Node, prefix string, fields ...string) mapping {
	m := mapping{reader: r, prefix: prefix, values: map[string]*yaml.Node{}}
	if node.Kind != yaml.MappingNode {
		r.complain(node, thing(prefix), "%s is not a list of fields and their values", show(node))
		return m
	}
	m.node = node
	for i := 0; i < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		switch {
		case !slices.Contains(fields, key.Value) || key.Kind != yaml.ScalarNode:
			r.complain(key, prefix+fieldName(key), "unknown field; there are: %s", strings.Join(fields, ", "))
		case m.values[key.Value] != nil:
			r.complain(key, prefix+key.Value, "stands twice")
		case value.Anchor != "" || value.Kind == yaml.AliasNode:
			r.complain(value, prefix+key.Value, "anchors and aliases are not read")
		default:
			m.values[key.Value] = value
		}
	}
	return m
}

// fieldName is the name that key gives to a field, safe to print.
func fieldName(key *yaml.Node) string {
	if name, err := ecowatt.ParseName("field", key.Value); err == nil {
		return name
	}
	return show(key)
}

// thing names what prefix is the prefix of.
func thing(prefix string) string {
	if prefix == "" {
		return "profile"
	}
	return strings.TrimSuffix(prefix, ".")
}

// at is where field stands, or where the mapping begins.
func (m mapping) at(field string) *yaml.Node {
	if n := m.values[field]; n != nil {
		return n
	}
	return m.node
}

func (m mapping) require(fields ...string) {
	for _, f := range fields {
		if m.values[f] == nil {
			m.complain(m.node, m.prefix+f, "missing")
		}
	}
}

// text is the string field; "" if it is not there.
func (m mapping) text(field string, most int) string {
	n := m.values[field]
	if n == nil {
		return ""
	}
	switch {
	case n.Kind != yaml.ScalarNode || n.Tag != "!!str":
		m.complain(n, m.prefix+field, "%s is not a text", show(n))
	case strings.TrimSpace(n.Value) == "" || strings.ContainsFunc(n.Value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		m.complain(n, m.prefix+field, "%s is empty or has control characters", show(n))
	case len([]rune(n.Value)) > most:
		m.complain(n, m.prefix+field, "longer than %d characters", most)
	default:
		return n.Value
	}
	return ""
}

// name is the text field as a name; "" if it is none.
func (m mapping) name(field string) string {
	n := m.values[field]
	if n == nil {
		return ""
	}
	name, err := ecowatt.ParseName("name", n.Value)
	if err != nil || n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		m.complain(n, m.prefix+field, "%s is no name: use a-z, 0-9, '-', '_' and '.', beginning with a letter or a digit, at most %d", show(n), ecowatt.MaxNameLength)
		return ""
	}
	return name
}

// integer is the number field, or byDefault where it is not there or wrong.
func (m mapping) integer(field string, byDefault, least, most int64) int64 {
	n := m.values[field]
	if n == nil {
		return byDefault
	}
	v, ok := integer(n)
	switch {
	case !ok:
		m.complain(n, m.prefix+field, "%s is not a whole number", show(n))
		return byDefault
	case v < least || v > most:
		m.complain(n, m.prefix+field, "%d is not within %d and %d", v, least, most)
		return byDefault
	}
	return v
}

func integer(n *yaml.Node) (v int64, ok bool) {
	return v, n.Kind == yaml.ScalarNode && n.Tag == "!!int" && n.Decode(&v) == nil
}

// list is the items of the list field.
func (m mapping) list(field string, most int) []*yaml.Node {
	n := m.values[field]
	switch {
	case n == nil:
		return nil
	case n.Kind != yaml.SequenceNode:
		m.complain(n, m.prefix+field, "%s is not a list", show(n))
		return nil
	case len(n.Content) > most:
		m.complain(n, m.prefix+field, "more than %d", most)
		return nil
	}
	return n.Content
}

// span is the range field, written [least, most].
func (m mapping) span(field string) inverter.Range {
	n := m.values[field]
	if n == nil {
		return inverter.Range{}
	}
	if n.Kind == yaml.SequenceNode && len(n.Content) == 2 {
		least, ok1 := integer(n.Content[0])
		most, ok2 := integer(n.Content[1])
		if ok1 && ok2 && least < most {
			return inverter.Range{Min: least, Max: most}
		}
	}
	m.complain(n, m.prefix+field, "%s is not of the form [least, most]", show(n))
	return inverter.Range{}
}

// choose is the field that names one of choices; the first where it is not
// there or wrong.
func choose[T fmt.Stringer](m mapping, field string, choices ...T) T {
	n := m.values[field]
	if n == nil {
		return choices[0]
	}
	var names []string
	for _, c := range choices {
		if n.Kind == yaml.ScalarNode && n.Value == c.String() {
			return c
		}
		names = append(names, c.String())
	}
	m.complain(n, m.prefix+field, "%s is none of %s", show(n), strings.Join(names, ", "))
	return choices[0]
}

// show is a short form of what stands at n.
func show(n *yaml.Node) string {
	switch n.Kind {
	case yaml.ScalarNode:
		return fmt.Sprintf("%.60q", n.Value)
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a mapping"
	case yaml.AliasNode, yaml.DocumentNode:
		return "an alias"
	}
	return "nothing"
}
