package profile

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"ecowatt"
	"ecowatt/inverter"
)

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

// duration is the time field, as in "1.5s"; 0 if it is not there.
func (m mapping) duration(field string, most time.Duration) time.Duration {
	n := m.values[field]
	if n == nil {
		return 0
	}
	d, err := time.ParseDuration(n.Value)
	switch {
	case err != nil || n.Kind != yaml.ScalarNode:
		m.complain(n, m.prefix+field, "%s is no time such as 500ms or 1.5s", show(n))
	case d <= 0 || d > most || d%time.Millisecond != 0:
		m.complain(n, m.prefix+field, "%v is not within 1ms and %v, in whole ms", d, most)
	default:
		return d
	}
	return 0
}

// word is the index of the field among choices; 0, the first, where it is not
// there or wrong.
func (m mapping) word(field string, choices ...string) int {
	n := m.values[field]
	if n == nil {
		return 0
	}
	i := slices.Index(choices, n.Value)
	if i < 0 || n.Kind != yaml.ScalarNode {
		m.complain(n, m.prefix+field, "%s is none of %s", show(n), strings.Join(choices, ", "))
		return 0
	}
	return i
}

// mapping is the mapping field; false where it is not there or none.
func (m mapping) mapping(field string, fields ...string) (mapping, bool) {
	n := m.values[field]
	if n == nil {
		return mapping{}, false
	}
	inner := m.reader.mapping(n, m.prefix+field+".", fields...)
	return inner, inner.node != nil
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
