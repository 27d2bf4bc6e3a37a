package profile

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"ecowatt/inverter"
)

// Format writes a profile as a file that Parse reads back.
func Format(p inverter.Profile) []byte {
	var b strings.Builder
	line := func(field, value string) { fmt.Fprintf(&b, "%s: %s\n", field, value) }
	duration := func(field string, d time.Duration) {
		if d != 0 {
			line(field, d.String())
		}
	}
	line("format", strconv.Itoa(format))
	line("name", strconv.Quote(p.Name))
	line("title", strconv.Quote(p.Title))
	line("source", strconv.Quote(p.Source))
	line("trust", p.Trust.String())
	line("unit", fmt.Sprint(p.Unit))
	line("block_limit", fmt.Sprint(p.Block))
	line("gap_limit", fmt.Sprint(p.Gap))
	duration("connect_delay", p.Timing.Connect)
	duration("request_gap", p.Timing.Gap)
	duration("timeout", p.Timing.Timeout)
	if p.WriteMultiple {
		line("write_function", "16")
	}
	if s := p.Sleeping; s.Point != "" {
		line("sleeping", flow("point", strconv.Quote(s.Point), "values", list(s.Values)))
	}
	if h := p.Heartbeat; h.Given() {
		line("heartbeat", flow("address", fmt.Sprint(h.Address), "table", other(h.Table.String(), inverter.Holding.String()), "words", fmt.Sprint(h.Words)))
	}
	line("registers", "")
	for _, t := range p.Texts {
		fmt.Fprintf(&b, "  - %s\n", flow("point", strconv.Quote(t.Name), "type", "string", "address", fmt.Sprint(t.Address),
			"words", fmt.Sprint(t.Words), "table", other(t.Table.String(), inverter.Holding.String())))
	}
	for _, r := range p.Registers {
		fmt.Fprintf(&b, "  - %s\n", formatRegister(r))
	}
	return []byte(strings.ReplaceAll(b.String(), ": \n", ":\n"))
}

func formatRegister(r inverter.Register) string {
	scale, absent, step, asleep := "", "", "", ""
	if r.Scale.Given {
		scale = fmt.Sprint(r.Scale.Address)
	}
	if len(r.Absent) > 0 {
		absent = list(r.Absent)
	}
	if r.Step != 0 {
		step = fmt.Sprint(r.Step)
	}
	if r.Asleep {
		asleep = "missing"
	}
	unit := ""
	if r.Point.Unit != "" {
		unit = strconv.Quote(r.Point.Unit)
	}
	return flow("point", strconv.Quote(r.Point.Name), "table", other(r.Table.String(), inverter.Holding.String()),
		"address", fmt.Sprint(r.Address), "type", other(r.Type.String(), inverter.U16.String()),
		"order", other(r.Order.String(), inverter.HighFirst.String()), "scale", scale, "offset", nonzero(r.Offset),
		"exponent", nonzero(int64(r.Point.Exponent)), "unit", unit, "absent", absent, "valid", span(r.Valid), "step", step,
		"poll", other(r.Class.String(), inverter.Fast.String()), "asleep", asleep, "names", formatNames(r.Names), "write", formatWrite(r))
}

func formatNames(names []inverter.Name) string {
	var fields []string
	for _, n := range names {
		fields = append(fields, fmt.Sprint(n.Number), strconv.Quote(n.Text))
	}
	if fields == nil {
		return ""
	}
	return flow(fields...)
}

func formatWrite(r inverter.Register) string {
	limits := fmt.Sprintf("[%d, %d]", r.Point.Min, r.Point.Max)
	switch {
	case !r.Point.Writable:
		return ""
	case r.Control == nil:
		return limits
	}
	c := *r.Control
	gate, fallback, release, of, settle, stored := "", "", "", "", "", ""
	if g := c.Gate; g.Given {
		off := ""
		if g.Off.Valid {
			off = fmt.Sprint(g.Off.Raw)
		}
		gate = flow(append(formatPlace(g.Place), "on", fmt.Sprint(g.On), "off", off, "sequence", other(g.Sequence.String(), inverter.After.String()))...)
	}
	if f := c.Fallback; f.Given {
		value, initial := "", ""
		if f.HasValue {
			value = flow(formatPlace(f.Value)...)
		}
		if f.Default != 0 {
			initial = f.Default.String()
		}
		fallback = flow("timer", flow(formatPlace(f.Timer)...), "default", initial, "value", value)
	}
	var requires []string
	for _, s := range c.Requires {
		requires = append(requires, flow(append(formatPlace(s.Place), "value", fmt.Sprint(s.Value))...))
	}
	if c.Release.Valid {
		release = fmt.Sprint(c.Release.Raw)
	}
	if c.Of != "" {
		of = strconv.Quote(c.Of)
	}
	if c.Settle != 0 {
		settle = c.Settle.String()
	}
	if c.Stored {
		stored = "true"
	}
	needs := ""
	if requires != nil {
		needs = "[" + strings.Join(requires, ", ") + "]"
	}
	return flow("range", limits, "address", fmt.Sprint(c.Address), "gate", gate, "requires", needs, "release", release,
		"of", of, "settle", settle, "proof", c.Proof, "fallback", fallback, "stored", stored)
}

func formatPlace(at inverter.Place) []string {
	return []string{
		"address", fmt.Sprint(at.Address), "type", other(at.Type.String(), inverter.U16.String()),
		"order", other(at.Order.String(), inverter.HighFirst.String()),
	}
}

// flow is a mapping on one line, of fields and their values in turn; those with
// an empty value are left out.
func flow(fields ...string) string {
	var parts []string
	for i := 0; i < len(fields); i += 2 {
		if fields[i+1] != "" {
			parts = append(parts, fields[i]+": "+fields[i+1])
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// other is s, or empty if it is what holds where nothing is given.
func other(s, byDefault string) string {
	if s == byDefault {
		return ""
	}
	return s
}

func nonzero(v int64) string { return other(strconv.FormatInt(v, 10), "0") }

func span(r inverter.Range) string {
	if r == (inverter.Range{}) {
		return ""
	}
	return fmt.Sprintf("[%d, %d]", r.Min, r.Max)
}

func list[T any](values []T) string {
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = fmt.Sprint(v)
	}
	return "[" + strings.Join(texts, ", ") + "]"
}
