// Package parameter is the table of what can be set on a device from afar: the
// names, types, ranges and defaults of the parameters, and the check of a value
// against them. The cloud checks a value by it before it takes it, the device
// once more before it applies it, and the command line reads it with it.
//
// What only the device can know (whether an inverter has a point, whether its
// polls fit into the interval) is not decided here.
package parameter

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Names of the parameters, as they stand on the wire and in the API.
const (
	SamplingInterval  = "sampling_interval"
	UploadInterval    = "upload_interval"
	Registers         = "registers"
	Compression       = "compression"
	PayloadCap        = "payload_cap"
	AggregationWindow = "aggregation_window"
	FlushInterval     = "flush_interval"
	LogLevel          = "log_level"
	NightMode         = "night_mode"
	UpdateWindow      = "update_window"
	DownloadBudget    = "download_budget"
)

// Type says what the values of a parameter are.
type Type byte

// The types.
const (
	Number Type = iota // a whole number: int64
	Word               // one of a list: string
	Hours              // one of a list, or the hours between two times of the day, "22:00-04:30": string
	Points             // points of inverters: []any of names for all inverters, or map[string]any of such lists
)

// String returns the word of the type.
func (t Type) String() string {
	switch t {
	case Number:
		return "number"
	case Word:
		return "word"
	case Hours:
		return "hours"
	case Points:
		return "points"
	}
	return "type " + strconv.Itoa(int(t))
}

// Bounds of a value of type Points.
const (
	MaxInverters = 32  // named in it
	MaxPoints    = 256 // of one inverter: as many as a telemetry block has
)

// Spec describes one parameter.
type Spec struct {
	Name     string
	Type     Type
	Unit     string   // of a Number; empty for none
	Min, Max float64  // of a Number, inclusive
	None     bool     // 0 is taken as well, whatever Min says, and stands for none
	Words    []string // of a Word or Hours, in an order that means something to people
	// Default is what a device has whose settings file says nothing. It is nil
	// for Points: all that the inverters have.
	Default any
	Help    string // one sentence for people
	// Codes are those that a device may answer a value with which Check takes,
	// beside NotPermitted and StorageFailed, which any may meet.
	Codes []Code
}

// specs is the table. Its order is that of the document.
func specs() []Spec {
	return []Spec{
		{
			Name: SamplingInterval, Type: Number, Unit: "s", Min: 1, Max: 3600, Default: int64(5),
			Help:  "Time between two samples of an inverter. Samples lie on its multiples, counted since the gateway's boot.",
			Codes: []Code{Infeasible},
		},
		{
			Name: UploadInterval, Type: Number, Unit: "s", Min: 1, Max: 86400, Default: int64(900),
			Help:  "Time between two exchanges with the cloud.",
			Codes: []Code{Infeasible},
		},
		{
			Name: Registers, Type: Points,
			Help:  "Points that are read of each inverter, or one list for all; an inverter that is not named keeps the gateway's own.",
			Codes: []Code{UnknownPoint, Infeasible},
		},
		{
			Name: Compression, Type: Word, Words: []string{"none", "fast", "best"}, Default: "best",
			Help:  "How samples are packed: none writes them plainly (codec 0), fast packs them (codec 1), best takes the shorter of both.",
			Codes: []Code{Infeasible},
		},
		{
			Name: PayloadCap, Type: Number, Unit: "byte", Min: 256, Max: 65536, None: true, Default: int64(0),
			Help:  "Largest telemetry message; samples are aggregated as far as it takes. 0: no cap.",
			Codes: []Code{Infeasible},
		},
		{
			Name: AggregationWindow, Type: Number, Unit: "s", Min: 1, Max: 3600, None: true, Default: int64(0),
			Help:  "Samples of so long are sent as their mean, minimum, maximum and count. 0: every sample is sent.",
			Codes: []Code{Infeasible},
		},
		{
			Name: FlushInterval, Type: Number, Unit: "s", Min: 0, Max: 600, Default: int64(10),
			Help: "Longest time that a sample waits for the disk: what a power cut may take. 0: none.",
		},
		{
			Name: LogLevel, Type: Word, Words: []string{"debug", "info", "warn", "error"}, Default: "info",
			Help: "Least level of what the agent writes into the gateway's log.",
		},
		{
			Name: NightMode, Type: Word, Words: []string{"slow", "full"}, Default: "slow",
			Help: "How an inverter is polled that sleeps or does not answer: slow about once a minute, full at every sampling interval.",
		},
		{
			Name: UpdateWindow, Type: Hours, Words: []string{"always", "sun_down"}, Default: "always",
			Help: "When firmware is fetched and put on trial: always, while no inverter answers (sun_down), or between two times of the day in UTC.",
		},
		{
			Name: DownloadBudget, Type: Number, Unit: "byte", Min: 16384, Max: 1 << 30, None: true, Default: int64(0),
			Help: "Most that is fetched of firmware between two exchanges. 0: no bound.",
		},
	}
}

// All returns every parameter, in the order of the document.
func All() []Spec { return specs() }

// Find returns the parameter of a name.
func Find(name string) (Spec, bool) {
	all := specs()
	if i := slices.IndexFunc(all, func(s Spec) bool { return s.Name == name }); i >= 0 {
		return all[i], true
	}
	return Spec{}, false
}

// Values are canonical values by the names of their parameters: int64 for a
// Number, string for a Word, []any or map[string]any for Points (sorted).
type Values map[string]any

// Equal reports whether two canonical values are the same.
func Equal(a, b any) bool { return reflect.DeepEqual(a, b) }

// Names returns the names of v in the order of the document; those that are no
// parameters follow, sorted.
func (v Values) Names() []string {
	var known, unknown []string
	for _, s := range specs() {
		if _, ok := v[s.Name]; ok {
			known = append(known, s.Name)
		}
	}
	for name := range v {
		if !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return append(known, unknown...)
}

// Range writes for people what values the parameter takes: "1 … 3600".
func (s Spec) Range() string {
	switch s.Type {
	case Word:
		return strings.Join(s.Words, ", ")
	case Hours:
		return strings.Join(s.Words, ", ") + ", HH:MM-HH:MM"
	case Points:
		return "names of points"
	case Number:
	}
	text := number(s.Min) + " … " + number(s.Max)
	if s.None && s.Min > 0 {
		text = "0, " + text
	}
	return text
}

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// Schema returns the JSON Schema (draft 2020-12) of the parameter's values.
func (s Spec) Schema() map[string]any {
	schema := map[string]any{"description": s.Help}
	if s.Default != nil {
		schema["default"] = s.Default
	}
	switch s.Type {
	case Number:
		schema["type"] = "integer"
		within := map[string]any{"minimum": s.Min, "maximum": s.Max}
		if s.None && s.Min > 0 {
			schema["anyOf"] = []any{map[string]any{"const": 0}, within}
			break
		}
		schema["minimum"], schema["maximum"] = s.Min, s.Max
	case Word:
		schema["type"] = "string"
		words := make([]any, len(s.Words))
		for i, w := range s.Words {
			words[i] = w
		}
		schema["enum"] = words
	case Hours:
		schema["type"] = "string"
		schema["pattern"] = `^(` + strings.Join(s.Words, "|") + `|([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)$`
	case Points:
		points := map[string]any{
			"type": "array", "minItems": 1, "maxItems": MaxPoints, "uniqueItems": true,
			"items": map[string]any{"type": "string"},
		}
		schema["anyOf"] = []any{points, map[string]any{
			"type": "object", "minProperties": 1, "maxProperties": MaxInverters, "additionalProperties": points,
		}}
	}
	return schema
}
