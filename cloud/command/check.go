package command

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"ecowatt"
)

// Code says why a command is not queued.
type Code string

// The closed set of codes.
const (
	CodeInvalid           Code = "invalid" // missing, or not of its form
	CodeUnknownAction     Code = "unknown_action"
	CodeUnknownInverter   Code = "unknown_inverter"
	CodeUnknownPoint      Code = "unknown_point"
	CodeNotWritable       Code = "not_writable"
	CodeOutOfRange        Code = "out_of_range"
	CodeNotRepresentable  Code = "not_representable"   // between two raw values of the register
	CodeControlNotAllowed Code = "control_not_allowed" // by whoever installed the gateway
	CodeNoInventory       Code = "no_inventory"        // the device has not said yet what it has
	CodeDisabled          Code = "disabled"            // the device is refused until it is enabled
)

// OfDevice reports whether the code is about the device as it is now, and not
// about what is asked for.
func (c Code) OfDevice() bool {
	return c == CodeControlNotAllowed || c == CodeNoInventory || c == CodeDisabled
}

// RefusedError says why a command is not queued. Nothing was changed.
type RefusedError struct {
	Code    Code
	Field   string // of the request, as named in JSON: "arguments.value"; of the device where Code.OfDevice
	Problem string // for people, lower-case
}

func (e *RefusedError) Error() string { return e.Field + ": " + e.Problem }

func refused(code Code, field, problem string) *RefusedError {
	return &RefusedError{Code: code, Field: field, Problem: problem}
}

func missing(field string) *RefusedError { return refused(CodeInvalid, field, "it is missing") }

func leaseProblem() *RefusedError {
	return refused(CodeOutOfRange, "arguments.lease_s",
		fmt.Sprintf("a limit lasts %d to %d seconds", int(MinLease/time.Second), int(MaxLease/time.Second)))
}

func ttlProblem() *RefusedError {
	return refused(CodeOutOfRange, "ttl_s", fmt.Sprintf("a command may wait %d to %d seconds", int(MinTTL/time.Second), int(MaxTTL/time.Second)))
}

func keyProblem() *RefusedError {
	return refused(CodeInvalid, "Idempotency-Key", fmt.Sprintf("it has at most %d characters of ASCII, and no spaces", MaxKey))
}

// Target is what the cloud knows of a device that is to do something.
type Target struct {
	Device         ecowatt.DeviceID
	Disabled       bool
	Reported       bool // it has sent an inventory; the fields that follow are from it
	ControlAllowed bool
	Inverters      []Inverter
}

// Inverter is an inverter of a target.
type Inverter struct {
	Name   string
	Points []ecowatt.Point
}

// Prepare is the task for a device, complete, once it is known that the device
// could carry it out as it last described itself; else a *RefusedError. The
// device judges for itself again.
func (t Task) Prepare(d Target) (Task, error) {
	switch {
	case d.Disabled:
		return t, refused(CodeDisabled, "device.disabled", "the device is disabled: enable it first")
	case t.Action == RestartAgent:
		return t, nil
	case !d.Reported:
		return t, refused(CodeNoInventory, "device.inverters", "the device has not reported yet which inverters it has")
	case t.Action.writes() && !d.ControlAllowed:
		return t, refused(CodeControlNotAllowed, "device.control_allowed",
			"writing to inverters is switched off on the gateway: whoever installed it sets allow_control there")
	}
	v, err := t.inverter(d)
	if err != nil {
		return t, err
	}
	t.Inverter = v.Name
	switch t.Action {
	case WritePoint:
		return t, t.checkWrite(v)
	case SetPowerLimit:
		return t.prepareLimit(v)
	case ReadPoints:
		return t, t.checkRead(v)
	case RestartAgent:
	}
	return t, nil
}

// inverter finds the one that the task names, or the only one there is.
func (t Task) inverter(d Target) (Inverter, error) {
	names := make([]string, len(d.Inverters))
	for i, v := range d.Inverters {
		names[i] = v.Name
		if v.Name == t.Inverter {
			return v, nil
		}
	}
	switch {
	case len(names) == 0:
		return Inverter{}, refused(CodeUnknownInverter, "arguments.inverter", "the device has no inverter")
	case t.Inverter != "":
		return Inverter{}, refused(CodeUnknownInverter, "arguments.inverter",
			fmt.Sprintf("there is no inverter %.80q; the device has %s", t.Inverter, strings.Join(names, ", ")))
	case len(names) > 1:
		return Inverter{}, refused(CodeUnknownInverter, "arguments.inverter", "name one of "+strings.Join(names, ", "))
	}
	return d.Inverters[0], nil
}

func (v Inverter) point(name, field string) (ecowatt.Point, error) {
	if name == "" {
		return ecowatt.Point{}, missing(field)
	}
	i := slices.IndexFunc(v.Points, func(p ecowatt.Point) bool { return p.Name == name })
	if i < 0 {
		return ecowatt.Point{}, refused(CodeUnknownPoint, field, fmt.Sprintf("inverter %s has no point %.80q", v.Name, name))
	}
	return v.Points[i], nil
}

func (t Task) checkWrite(v Inverter) error {
	p, err := v.point(t.Point, "arguments.point")
	if err != nil {
		return err
	}
	if !p.Writable {
		return refused(CodeNotWritable, "arguments.point", fmt.Sprintf("%s of %s cannot be written", p.Name, v.Name))
	}
	return checkValue(t.Value, p, "arguments.value")
}

// checkValue says whether the register of a point takes a value.
func checkValue(value float64, p ecowatt.Point, field string) error {
	raw, exact := rawOf(value, p.Exponent)
	switch {
	case !exact && (math.IsNaN(value) || math.IsInf(value, 0) || math.Abs(value) >= 1<<53):
		return refused(CodeOutOfRange, field, "it is no number that a register holds")
	case !exact:
		return refused(CodeNotRepresentable, field, fmt.Sprintf("%s takes steps of %s", p.Name, withUnit(1, p)))
	}
	return checkRaw(raw, p, field)
}

// checkRaw says whether a raw value is one that may be written.
func checkRaw(raw int64, p ecowatt.Point, field string) error {
	if raw < p.Min || raw > p.Max {
		return refused(CodeOutOfRange, field, fmt.Sprintf("%s takes %s to %s", p.Name, ecowatt.Decimal(p.Min, p.Exponent), withUnit(p.Max, p)))
	}
	return nil
}

func withUnit(raw int64, p ecowatt.Point) string {
	return strings.TrimSpace(ecowatt.Decimal(raw, p.Exponent) + " " + p.Unit)
}

// rawOf returns the integer of which value, as people write it, is × 10^exponent;
// false where there is none.
func rawOf(value float64, exponent int) (int64, bool) {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return 0, false
	}
	mantissa, power, _ := strings.Cut(strconv.FormatFloat(value, 'e', -1, 64), "e")
	scale, err := strconv.Atoi(power)
	if err != nil {
		return 0, false
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	zeros := scale - len(fraction) - exponent // to be added to the digits
	digits := whole + fraction
	switch {
	case value == 0:
		return 0, true
	case zeros < 0: // the digits of the shortest form do not end in zeros, but a single one may be all there is
		return 0, false
	case zeros > 20:
		return 0, false
	}
	raw, err := strconv.ParseInt(digits+strings.Repeat("0", zeros), 10, 64)
	return raw, err == nil
}

// limitPoint is the point by which the power of an inverter is limited.
const limitPoint = "export_power_percent"

// prepareLimit completes and checks a power limit.
func (t Task) prepareLimit(v Inverter) (Task, error) {
	t = t.withDefaults()
	i := slices.IndexFunc(v.Points, func(p ecowatt.Point) bool { return p.Name == limitPoint && p.Unit == "%" && p.Writable })
	switch {
	case !(t.Percent >= 0 && t.Percent <= 100): // nor NaN
		return t, refused(CodeOutOfRange, "arguments.percent", "a limit is 0 to 100 percent")
	case t.Lease < MinLease || t.Lease > MaxLease || t.Lease%time.Second != 0:
		return t, leaseProblem()
	case t.OnEnd != Restore && t.OnEnd != Release:
		return t, refused(CodeInvalid, "arguments.on_end", fmt.Sprintf("it is %q or %q", Restore, Release))
	case i < 0:
		return t, refused(CodeNotWritable, "arguments.inverter", fmt.Sprintf("the power of %s cannot be limited: it has no %s to be written", v.Name, limitPoint))
	}
	raw, exact := rawOf(t.Percent, v.Points[i].Exponent)
	if !exact { // the device rounds it down, so that the limit is kept
		raw = int64(math.Floor(t.Percent * math.Pow10(-v.Points[i].Exponent)))
	}
	return t, checkRaw(raw, v.Points[i], "arguments.percent")
}

// withDefaults completes a power limit.
func (t Task) withDefaults() Task {
	if t.Action != SetPowerLimit {
		return t
	}
	if t.Lease == 0 {
		t.Lease = DefaultLease
	}
	if t.OnEnd == "" {
		t.OnEnd = Restore
	}
	return t
}

func (t Task) checkRead(v Inverter) error {
	if len(t.Points) == 0 || len(t.Points) > MaxPoints {
		return refused(CodeOutOfRange, "arguments.points", fmt.Sprintf("name 1 to %d points", MaxPoints))
	}
	for i, name := range t.Points {
		if slices.Contains(t.Points[:i], name) {
			return refused(CodeInvalid, fmt.Sprintf("arguments.points[%d]", i), fmt.Sprintf("%s is named twice", name))
		}
		if _, err := v.point(name, fmt.Sprintf("arguments.points[%d]", i)); err != nil {
			return err
		}
	}
	return nil
}
