package command

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"ecowatt"
	"ecowatt/inverter"
)

// Bounds of arguments.
const (
	maxPoints = 64                  // read by one command
	minLease  = time.Second         //
	maxLease  = 30 * 24 * time.Hour // so that a forgotten one ends
)

// LimitPoint is the point by which the power of an inverter is limited: the
// writable percentage of this name in its profile.
const LimitPoint = "export_power_percent"

// OnEnd says what is done when the last of the leases on a point ends.
type OnEnd string

// The ends.
const (
	Restore OnEnd = "restore" // what was found before the first of them comes back
	Release OnEnd = "release" // the order is taken back as the profile says
)

// refusal is why a command is not begun.
type refusal struct {
	code Code
	text string
}

func (r *refusal) Error() string { return r.text }

func refuse(code Code, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// order is a command whose arguments make sense. Only the fields of its action
// are set.
type order struct {
	Command
	inverter Inverter
	register inverter.Register // of the point to write
	raw      int64             // what it is to be
	lease    time.Duration     // set_power_limit
	onEnd    OnEnd
	points   []string // read_points
}

// writes reports whether it is an order to write.
func (o order) writes() bool { return o.Action == WritePoint || o.Action == SetPowerLimit }

// parse checks the arguments of c; the error is a *refusal.
func parse(c Command, find func(name string) (Inverter, bool)) (order, error) {
	o := order{Command: c}
	args := arguments{given: c.Arguments}
	switch c.Action {
	case RestartAgent:
		return o, args.only()
	case WritePoint, SetPowerLimit, ReadPoints:
	default:
		return o, refuse(CodeUnknownAction, "this agent does not know the action %.40q", c.Action)
	}
	name := args.text("inverter")
	if args.err != nil {
		return o, args.err
	}
	var ok bool
	if o.inverter, ok = find(name); !ok {
		return o, refuse(CodeUnknownInverter, "the gateway has no inverter %.64q", name)
	}
	var err error
	switch c.Action {
	case WritePoint:
		err = o.parseWrite(&args)
	case SetPowerLimit:
		err = o.parseLimit(&args)
	case ReadPoints:
		err = o.parseRead(&args)
	}
	if args.err != nil {
		return o, args.err
	}
	return o, err
}

func (o *order) parseWrite(args *arguments) error {
	point, value := args.text("point"), args.number("value")
	if err := args.only("inverter", "point", "value"); err != nil {
		return err
	}
	r, ok := o.inverter.Profile.Register(point)
	switch {
	case !ok:
		return refuse(CodeUnknownPoint, "%s has no point %.64q", o.inverter.Name, point)
	case !r.Point.Writable:
		return refuse(CodeNotWritable, "%s of %s is not writable", point, o.inverter.Name)
	}
	raw, exact := toRaw(value, r.Point.Exponent)
	if !exact {
		return refuse(CodeBadArgument, "value: %v is finer than %s, which comes in steps of %s", value, point, ecowatt.Decimal(1, r.Point.Exponent))
	}
	return o.write(r, raw)
}

func (o *order) parseLimit(args *arguments) error {
	percent := args.number("percent")
	seconds, end := args.number("lease_s"), OnEnd(args.textOr("on_end", string(Restore)))
	if err := args.only("inverter", "percent", "lease_s", "on_end"); err != nil {
		return err
	}
	o.onEnd = end
	switch {
	case !(percent >= 0 && percent <= 100):
		return refuse(CodeOutOfRange, "percent: %v is not within 0 and 100", percent)
	case !(seconds >= minLease.Seconds() && seconds <= maxLease.Seconds()):
		return refuse(CodeOutOfRange, "lease_s: %v is not within %v and %v", seconds, minLease.Seconds(), maxLease.Seconds())
	case end != Restore && end != Release:
		return refuse(CodeBadArgument, "on_end: %.20q is neither %s nor %s", string(end), Restore, Release)
	}
	o.lease = time.Duration(seconds * float64(time.Second)).Round(time.Millisecond)
	r, ok := o.inverter.Profile.Register(LimitPoint)
	if !ok || !r.Point.Writable || r.Point.Unit != "%" {
		return refuse(CodeUnknownPoint, "the profile %s of %s knows no power limit", o.inverter.Profile.Name, o.inverter.Name)
	}
	raw, exact := toRaw(percent, r.Point.Exponent)
	if !exact { // at most what was asked for
		raw = int64(math.Floor(percent * math.Pow10(-r.Point.Exponent)))
	}
	return o.write(r, raw)
}

// write notes what is to be written.
func (o *order) write(r inverter.Register, raw int64) error {
	if err := r.CheckWrite(raw); err != nil {
		return refuse(CodeOutOfRange, "%v", err)
	}
	if _, err := o.inverter.Profile.Writes(r.Point.Name, raw); err != nil {
		return refuse(CodeOutOfRange, "%v", err)
	}
	o.register, o.raw = r, raw
	return nil
}

func (o *order) parseRead(args *arguments) error {
	o.points = args.texts("points")
	if err := args.only("inverter", "points"); err != nil {
		return err
	}
	if n := len(o.points); n < 1 || n > maxPoints {
		return refuse(CodeBadArgument, "points: %d are named; 1 to %d can be read", n, maxPoints)
	}
	for i, name := range o.points {
		if _, ok := o.inverter.Profile.Register(name); !ok {
			return refuse(CodeUnknownPoint, "%s has no point %.64q", o.inverter.Name, name)
		}
		if slices.Contains(o.points[:i], name) {
			return refuse(CodeBadArgument, "points: %.64q stands twice", name)
		}
	}
	return nil
}

// toRaw is the raw value of a value in the unit of a point; exact is false where
// it lies between two.
func toRaw(value float64, exponent int) (raw int64, exact bool) {
	scaled := value * math.Pow10(-exponent)
	rounded := math.Round(scaled)
	if math.Abs(rounded) > 1<<53 || rounded != rounded {
		return 0, false
	}
	return int64(rounded), math.Abs(scaled-rounded) <= 1e-9*max(1, math.Abs(scaled))
}

// arguments reads the arguments of a command; err is the first problem.
type arguments struct {
	given map[string]any
	err   error
}

func (a *arguments) fail(name, format string, args ...any) {
	if a.err == nil {
		a.err = refuse(CodeBadArgument, "%s: "+format, append([]any{name}, args...)...)
	}
}

func (a *arguments) text(name string) string {
	v, ok := a.given[name].(string)
	switch {
	case a.given[name] == nil:
		a.fail(name, "it is missing")
	case !ok:
		a.fail(name, "it is no text")
	}
	return v
}

func (a *arguments) textOr(name, byDefault string) string {
	if a.given[name] == nil {
		return byDefault
	}
	return a.text(name)
}

func (a *arguments) number(name string) float64 {
	switch v := a.given[name].(type) {
	case int64:
		return float64(v)
	case float64:
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			return v
		}
		a.fail(name, "it is no number")
	case nil:
		a.fail(name, "it is missing")
	default:
		a.fail(name, "it is no number")
	}
	return 0
}

func (a *arguments) texts(name string) []string {
	list, ok := a.given[name].([]any)
	if !ok {
		a.fail(name, "a list is expected")
	}
	texts := make([]string, 0, len(list))
	for _, v := range list {
		text, ok := v.(string)
		if !ok {
			a.fail(name, "there is something else than text in it")
		}
		texts = append(texts, text)
	}
	return texts
}

// only refuses arguments beside those named: who sends one means something by it.
func (a *arguments) only(names ...string) error {
	var others []string
	for name := range a.given {
		if !slices.Contains(names, name) {
			others = append(others, fmt.Sprintf("%.40q", name))
		}
	}
	slices.Sort(others)
	if len(others) > 0 {
		a.fail(strings.Join(others[:min(3, len(others))], ", "), "there is no such argument")
	}
	return a.err
}

// refusalOf is the refusal in err.
func refusalOf(err error) (*refusal, bool) { return errors.AsType[*refusal](err) }
