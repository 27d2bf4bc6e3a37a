package parameter

import (
	"fmt"
	"math"
	"slices"
	"time"

	"ecowatt"
)

// Code says why a value was not taken. The set is closed.
type Code string

// The codes.
const (
	UnknownParameter Code = "unknown_parameter"
	WrongType        Code = "wrong_type"
	OutOfRange       Code = "out_of_range"
	UnknownPoint     Code = "unknown_point"
	Infeasible       Code = "infeasible"
	NotPermitted     Code = "not_permitted"
	StorageFailed    Code = "storage_failed"
)

// Codes returns every code, in the order of the document.
func Codes() []Code {
	return []Code{UnknownParameter, WrongType, OutOfRange, UnknownPoint, Infeasible, NotPermitted, StorageFailed}
}

// Problem says what is wrong with the value of one parameter.
type Problem struct { //nolint:errname // it reads as what it is: parameter.Problem
	Parameter string
	Code      Code
	Text      string // for people, without the name
}

// Error returns the name and the text.
func (p *Problem) Error() string { return fmt.Sprintf("%.80s: %s", p.Parameter, p.Text) }

// Check returns the canonical form of a value as JSON or CBOR brought it, or what
// is wrong with it.
func Check(name string, v any) (any, *Problem) {
	s, ok := Find(name)
	if !ok {
		return nil, &Problem{Parameter: name, Code: UnknownParameter, Text: "there is no such parameter"}
	}
	return s.Check(v)
}

// CheckAll checks every value and returns the good ones and what is wrong with
// the others, in the order of the document.
func CheckAll(values map[string]any) (Values, []*Problem) {
	good := Values{}
	var problems []*Problem
	for _, name := range Values(values).Names() {
		v, problem := Check(name, values[name])
		if problem != nil {
			problems = append(problems, problem)
			continue
		}
		good[name] = v
	}
	return good, problems
}

// Check is Check for this parameter.
func (s Spec) Check(v any) (canonical any, problem *Problem) {
	switch s.Type {
	case Number:
		return s.checkNumber(v)
	case Word:
		return s.checkWord(v)
	case Hours:
		return s.checkHours(v)
	case Points:
		return s.checkPoints(v)
	}
	panic("a parameter of " + s.Type.String())
}

func (s Spec) problem(code Code, format string, args ...any) *Problem {
	return &Problem{Parameter: s.Name, Code: code, Text: fmt.Sprintf(format, args...)}
}

func (s Spec) checkNumber(v any) (any, *Problem) {
	n, ok := whole(v)
	if !ok {
		return nil, s.problem(WrongType, "%s is not a whole number", describe(v))
	}
	if f := float64(n); (f < s.Min || f > s.Max) && (!s.None || n != 0) {
		return nil, s.problem(OutOfRange, "%d is not in %s%s", n, s.Range(), spaced(s.Unit))
	}
	return n, nil
}

func spaced(unit string) string {
	if unit == "" {
		return ""
	}
	return " " + unit
}

// whole returns the whole number that v is.
func whole(v any) (int64, bool) {
	switch n := v.(type) {
	case int:
		return int64(n), true
	case int64:
		return n, true
	case uint64:
		return int64(n), n <= math.MaxInt64
	case float64:
		// Beyond 2^53 a float64 does not name one whole number.
		return int64(n), n == math.Trunc(n) && math.Abs(n) <= 1<<53
	}
	return 0, false
}

func (s Spec) checkWord(v any) (any, *Problem) {
	w, ok := v.(string)
	if !ok {
		return nil, s.problem(WrongType, "%s is not a word", describe(v))
	}
	if !slices.Contains(s.Words, w) {
		return nil, s.problem(OutOfRange, "%.40q is none of %s", w, s.Range())
	}
	return w, nil
}

func (s Spec) checkHours(v any) (any, *Problem) {
	text, ok := v.(string)
	if !ok {
		return nil, s.problem(WrongType, "%s is neither a word nor hours", describe(v))
	}
	if _, _, ok := ParseHours(text); !ok && !slices.Contains(s.Words, text) {
		return nil, s.problem(OutOfRange, "%.40q is none of %s", text, s.Range())
	}
	return text, nil
}

// ParseHours returns the minutes of the day at which hours such as "22:00-04:30"
// begin and end. The end may be before the beginning: that is over midnight.
func ParseHours(text string) (from, to int, ok bool) {
	if len(text) != len("22:00-04:30") || text[5] != '-' {
		return 0, 0, false
	}
	from, okFrom := minuteOf(text[:5])
	to, okTo := minuteOf(text[6:])
	return from, to, okFrom && okTo && from != to
}

func minuteOf(text string) (int, bool) {
	t, err := time.Parse("15:04", text)
	return t.Hour()*60 + t.Minute(), err == nil
}

func (s Spec) checkPoints(v any) (any, *Problem) {
	if points, ok := asList(v); ok {
		return s.checkList("", points)
	}
	inverters, ok := asMap(v)
	if !ok {
		return nil, s.problem(WrongType, "%s is neither a list of points nor one for each inverter", describe(v))
	}
	if n := len(inverters); n < 1 || n > MaxInverters {
		return nil, s.problem(OutOfRange, "%d inverters; 1 to %d can be named", n, MaxInverters)
	}
	canonical := make(map[string]any, len(inverters))
	for _, name := range sortedKeys(inverters) {
		if _, err := ecowatt.ParseName("inverter", name); err != nil {
			return nil, s.problem(OutOfRange, "%v", err)
		}
		points, ok := asList(inverters[name])
		if !ok {
			return nil, s.problem(WrongType, "inverter %s: %s is not a list of points", name, describe(inverters[name]))
		}
		list, problem := s.checkList("inverter "+name+": ", points)
		if problem != nil {
			return nil, problem
		}
		canonical[name] = list
	}
	return canonical, nil
}

// checkList returns the points sorted. of says whose they are.
func (s Spec) checkList(of string, points []any) (any, *Problem) {
	if n := len(points); n < 1 || n > MaxPoints {
		return nil, s.problem(OutOfRange, "%s%d points; 1 to %d can be read", of, n, MaxPoints)
	}
	names := make([]string, len(points))
	for i, p := range points {
		name, ok := p.(string)
		if !ok {
			return nil, s.problem(WrongType, "%s%s is not the name of a point", of, describe(p))
		}
		if _, err := ecowatt.ParseName("point", name); err != nil {
			return nil, s.problem(OutOfRange, "%s%v", of, err)
		}
		names[i] = name
	}
	slices.Sort(names)
	sorted := make([]any, len(names))
	for i, name := range names {
		if i > 0 && name == names[i-1] {
			return nil, s.problem(OutOfRange, "%s%s is named twice", of, name)
		}
		sorted[i] = name
	}
	return sorted, nil
}

// Lists returns the lists of a canonical value of type Points: by inverter, or
// under "" the one for all.
func Lists(v any) map[string][]string {
	if points, ok := asList(v); ok {
		return map[string][]string{"": names(points)}
	}
	inverters, _ := asMap(v)
	lists := make(map[string][]string, len(inverters))
	for name, points := range inverters {
		list, _ := asList(points)
		lists[name] = names(list)
	}
	return lists
}

func names(points []any) []string {
	out := make([]string, 0, len(points))
	for _, p := range points {
		if name, ok := p.(string); ok {
			out = append(out, name)
		}
	}
	return out
}

func asList(v any) ([]any, bool) {
	switch list := v.(type) {
	case []any:
		return list, true
	case []string:
		out := make([]any, len(list))
		for i, x := range list {
			out[i] = x
		}
		return out, true
	}
	return nil, false
}

func asMap(v any) (map[string]any, bool) {
	switch m := v.(type) {
	case map[string]any:
		return m, true
	case map[string][]string:
		out := make(map[string]any, len(m))
		for k, x := range m {
			out[k] = x
		}
		return out, true
	}
	return nil, false
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// describe writes a value that is of a wrong type, shortly.
func describe(v any) string {
	switch x := v.(type) {
	case nil:
		return "nothing"
	case string:
		return fmt.Sprintf("the text %.40q", x)
	case bool, int, int64, uint64, float64:
		return fmt.Sprint(x)
	case []any, []string:
		return "a list"
	case map[string]any, map[string][]string:
		return "an object"
	}
	return fmt.Sprintf("a value of type %T", v)
}
