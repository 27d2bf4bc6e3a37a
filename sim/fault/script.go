package fault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Limits of a script.
const (
	MaxScript = 1 << 20 // bytes
	maxRules  = 1000
)

// ParseScript reads a script: a rule on each line, see ParseRule; empty lines
// and those that begin with # are passed over. The error names the line.
func ParseScript(text []byte) ([]Rule, error) {
	if len(text) > MaxScript {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(text), MaxScript)
	}
	var rules []Rule
	number := 0
	for line := range bytes.Lines(text) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		r, err := ParseRule(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if rules = append(rules, r); len(rules) > maxRules {
			return nil, fmt.Errorf("line %d: more than %d rules", number, maxRules)
		}
	}
	return rules, nil
}

// writtenRule is a rule in JSON.
type writtenRule struct {
	Fault       string   `json:"fault"`
	From        string   `json:"from"`
	To          string   `json:"to"`
	Probability *float64 `json:"probability"`
	Count       int      `json:"count"`
	Units       []uint8n `json:"units"`
	Functions   []uint8n `json:"functions"`
	Addresses   []uint16 `json:"addresses"`
	Code        uint8n   `json:"code"`
	For         string   `json:"for"`
}

// uint8n is a byte that is written as a number, also in a list.
type uint8n uint8

// ParseRule reads a rule, an object of JSON:
//
//	{"fault": "exception", "code": 6, "from": "10m", "to": "1h30m", "probability": 0.1,
//	 "count": 5, "units": [17], "functions": [3, 16], "addresses": [8]}
//	{"fault": "late", "for": "1500ms"}
//
// All but fault may be left out, code and for only where the kind has none;
// what is left out does not restrict the rule. Unknown names are an error.
func ParseRule(text []byte) (Rule, error) {
	if err := twice(text); err != nil {
		return Rule{}, err
	}
	var w writtenRule
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&w); err != nil {
		return Rule{}, wording(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Rule{}, errors.New("something follows the rule")
	}
	r := Rule{Probability: 1, Count: w.Count, Code: byte(w.Code), Units: numbers(w.Units), Functions: numbers(w.Functions), Addresses: w.Addresses}
	if w.Probability != nil {
		r.Probability = *w.Probability
	}
	i := slices.Index(names[:], w.Fault)
	if i <= int(None) {
		return Rule{}, fmt.Errorf("fault: there is no %.40q, only %s", w.Fault, strings.Join(names[1:], ", "))
	}
	r.Kind = Kind(i)
	for _, d := range []struct {
		name, text string
		to         *time.Duration
	}{{"from", w.From, &r.From}, {"to", w.To, &r.To}, {"for", w.For, &r.For}} {
		if d.text == "" {
			continue
		}
		var err error
		if *d.to, err = time.ParseDuration(d.text); err != nil {
			return Rule{}, fmt.Errorf("%s: %.40q is no time such as 90s or 1h30m", d.name, d.text)
		}
	}
	return r, r.Check()
}

func numbers(ns []uint8n) []byte {
	var b []byte
	for _, n := range ns {
		b = append(b, byte(n))
	}
	return b
}

// twice refuses an object in which a name stands twice, or with capitals,
// between which encoding/json does not tell.
func twice(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if t, err := decoder.Token(); err != nil || t != json.Delim('{') {
		return errors.New("no object of JSON such as {\"fault\": \"drop\"}")
	}
	seen := map[string]bool{}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return wording(err)
		}
		text, ok := name.(string)
		if !ok || seen[text] || text != strings.ToLower(text) {
			return fmt.Errorf("%.40q stands twice or is no name", fmt.Sprint(name))
		}
		seen[text] = true
		var skipped json.RawMessage
		if err := decoder.Decode(&skipped); err != nil {
			return wording(err)
		}
	}
	return nil
}

// wording is an error of encoding/json without the names of this package.
func wording(err error) error {
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%s: there is a %s, which does not belong there", e.Field, e.Value)
	}
	return fmt.Errorf("no rule: %s", strings.TrimPrefix(err.Error(), "json: "))
}
