// Package config owns what devices are to have set: the layers in which people
// write it down, what a device ends up with and why, the revisions under which it
// goes out, and what the device's answers make of it.
//
// Three things are kept apart: what is desired of a device, what the device has
// reported to be in force, and the outcome of each parameter of its last answer.
// A revision is pending until the device has answered that very revision; that it
// was sent settles nothing. A parameter that the device does not take is not
// pending any more: it has drifted.
package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"ecowatt"
	"ecowatt/parameter"
)

// Kind is what a layer is about.
type Kind string

// The kinds of layers.
const (
	OfTemplate Kind = "template" // by name, for devices and groups that are given it
	OfGroup    Kind = "group"    // for each device of the group
	OfDevice   Kind = "device"
)

// Scope names a layer.
type Scope struct {
	Kind Kind
	Name string
}

// String returns the scope as people say it: "group north".
func (s Scope) String() string { return string(s.Kind) + " " + s.Name }

// Layer is what people have set for a scope. A layer that nobody has written yet is
// the zero Layer but for its scope.
type Layer struct {
	Scope
	Version   int64            // grows with every change; 0: never written
	Template  string           // the template that it is given; "" for none, and of templates
	Values    parameter.Values // canonical
	ChangedAt time.Time
	ChangedBy string
}

// Template is a layer that can be given to devices and groups, and to whom it is.
type Template struct {
	Layer
	Given []Scope
}

// Change is what becomes of a layer. A nil field stays as it is.
type Change struct {
	Scope
	Values   parameter.Values // all of them; checked before (Check)
	Template *string
	If       *int64 // the version that is to be changed; nil for any
	By       string
	At       time.Time
}

// Errors of changes.
var (
	ErrNoTemplate = errors.New("there is no such template")
	ErrTooLong    = errors.New("the values are too long to be sent in one answer")
)

// ConflictError says that a layer is not the one that was to be changed.
type ConflictError struct{ Now Layer }

func (e *ConflictError) Error() string {
	return fmt.Sprintf("%v was changed meanwhile: it has version %d", e.Now.Scope, e.Now.Version)
}

// InUseError says that a template is not deleted, because it is given to somebody.
type InUseError struct {
	Name string
	By   Scope // one of them
}

func (e *InUseError) Error() string { return fmt.Sprintf("template %s is given to %v", e.Name, e.By) }

// MaxSize bounds the values of a layer, in bytes of JSON: what a device ends up
// with then fits into one answer, beside all else that stands there.
const MaxSize = 8 << 10

// Check returns the canonical values, or what is wrong with them: problems name a
// parameter each, and ErrTooLong is about all of them.
func Check(values map[string]any) (parameter.Values, []*parameter.Problem, error) {
	good, problems := parameter.CheckAll(values)
	if len(problems) > 0 {
		return nil, problems, nil
	}
	if text, err := Encode(good); err != nil || len(text) > MaxSize {
		return nil, nil, errors.Join(err, ErrTooLong)
	}
	return good, nil, nil
}

// Encode writes values as JSON, of equal values the same.
func Encode(v parameter.Values) (string, error) {
	if v == nil {
		v = parameter.Values{}
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("encoding parameters: %w", err)
	}
	return string(text), nil
}

// Decode reads what Encode has written.
func Decode(text string) (parameter.Values, error) {
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.UseNumber()
	v := parameter.Values{}
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("decoding parameters: %w", err)
	}
	for name, x := range v {
		if n, ok := x.(json.Number); ok {
			whole, err := n.Int64()
			if err != nil {
				return nil, fmt.Errorf("decoding parameter %.40s: %w", name, err)
			}
			v[name] = whole
		}
	}
	return v, nil
}

// Stack is the layers of a device, those that it has.
type Stack struct {
	Group, Device                 Layer
	GroupTemplate, DeviceTemplate Layer // that the two are given
}

// Source says where a value comes from.
type Source struct {
	Scope        // whose layer has the value
	Via   *Scope // of a template: who is given it
}

// String returns the source as people say it: "template summer, given to group north".
func (s Source) String() string {
	if s.Via == nil {
		return s.Scope.String()
	}
	return s.Scope.String() + ", given to " + s.Via.String()
}

// Resolve returns what a device ends up with, and where each value comes from. The
// nearer layer wins, and within it what is set goes before what its template says:
//
//	template of the group < group < template of the device < device
func (s Stack) Resolve() (parameter.Values, map[string]Source) {
	values, from := parameter.Values{}, map[string]Source{}
	for _, step := range []struct {
		layer Layer
		via   *Scope
	}{{s.GroupTemplate, &s.Group.Scope}, {s.Group, nil}, {s.DeviceTemplate, &s.Device.Scope}, {s.Device, nil}} {
		for name, v := range step.layer.Values {
			values[name], from[name] = v, Source{Scope: step.layer.Scope, Via: step.via}
		}
	}
	return values, from
}

// Differ returns the names of the parameters in which two sets differ, in the order
// of the document.
func Differ(a, b parameter.Values) []string {
	all := maps.Clone(b)
	if all == nil {
		all = parameter.Values{}
	}
	maps.Copy(all, a)
	var names []string
	for _, name := range all.Names() {
		x, inA := a[name]
		y, inB := b[name]
		if inA != inB || !parameter.Equal(x, y) {
			names = append(names, name)
		}
	}
	return names
}

// Revision is what was desired of a device from some moment on.
type Revision struct {
	Number      uint64 // from 1
	At          time.Time
	By          string           // who caused it
	Cause       string           // what has changed: "device roof-1", "group north"
	Values      parameter.Values // the whole set
	DeliveredAt time.Time        // first sent; zero: not yet
	AnsweredAt  time.Time        // when the answer that counts came; zero: not yet
	Outcome     Outcome          // of that answer
}

// Update is a revision as it goes out.
type Update struct {
	Revision uint64
	Values   parameter.Values
	Sent     bool // before
}

// Entry is a revision, and what it changed.
type Entry struct {
	Revision
	Changed []string // parameters, in the order of the document
}

// Device is all that is known of the configuration of a device.
type Device struct {
	ID      ecowatt.DeviceID
	Group   string
	Own     Layer
	Desired Revision // Number is 0 where nothing was ever desired
	From    map[string]Source
	Pending bool // the device has not answered Desired yet
	Report  Report
}

// Drift returns the parameters that are not in force as desired, although the
// device has answered.
func (d Device) Drift() []string {
	if d.Pending {
		return nil
	}
	return Differ(d.Desired.Values, d.Report.Values)
}
