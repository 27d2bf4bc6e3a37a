package parameter

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Parse reads a value as people write it (docs/configuration.md) and checks it: a
// number, which may be a duration such as 15m where the unit is s; a word; the
// points a,b for all inverters, or inv1:a,b/inv2:c.
func Parse(name, text string) (any, *Problem) {
	s, ok := Find(name)
	if !ok {
		return Check(name, nil)
	}
	switch s.Type {
	case Number:
		n, ok := parseNumber(text, s.Unit)
		if !ok {
			return s.Check(text)
		}
		return s.Check(n)
	case Word, Hours:
		return s.Check(text)
	case Points:
		return s.Check(parsePoints(text))
	}
	return s.Check(text)
}

func parseNumber(text, unit string) (int64, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, true
	}
	d, err := time.ParseDuration(text)
	return int64(d / time.Second), err == nil && unit == "s" && d%time.Second == 0
}

// parsePoints returns a list, or a map of lists. What cannot be meant is left for
// the check to refuse.
func parsePoints(text string) any {
	if !strings.ContainsAny(text, ":/") {
		return parseList(text)
	}
	inverters := map[string]any{}
	for part := range strings.SplitSeq(text, "/") {
		inverter, points, ok := strings.Cut(part, ":")
		if _, twice := inverters[inverter]; !ok || twice {
			return text
		}
		inverters[inverter] = parseList(points)
	}
	return inverters
}

func parseList(text string) []any {
	var list []any
	for name := range strings.SplitSeq(text, ",") {
		list = append(list, name)
	}
	return list
}

// Format writes a canonical value in the way that Parse reads.
func Format(v any) string {
	if list, ok := asList(v); ok {
		if len(list) == 0 {
			return "all" // what a device itself says of an inverter of which it reads everything
		}
		return strings.Join(names(list), ",")
	}
	inverters, ok := asMap(v)
	if !ok {
		return fmt.Sprint(v)
	}
	parts := make([]string, 0, len(inverters))
	for _, name := range sortedKeys(inverters) {
		parts = append(parts, name+":"+Format(inverters[name]))
	}
	return strings.Join(parts, "/")
}
