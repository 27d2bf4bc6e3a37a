package config

import (
	"maps"
	"slices"
	"time"

	"ecowatt/parameter"
)

// polled are the parameters on which the polls depend.
func polled() []string { return []string{parameter.SamplingInterval, parameter.Registers} }

// uploaded are those on which the uploads depend.
func uploaded() []string {
	return append([]string{parameter.SamplingInterval, parameter.Registers}, onTrial()...)
}

// onTrial are those whose values can keep the device from the cloud.
func onTrial() []string {
	return []string{parameter.UploadInterval, parameter.Compression, parameter.PayloadCap, parameter.AggregationWindow}
}

// When a change is taken back.
const (
	maxStarts   = 5 // of the agent, under a change on trial
	leastFailed = 10 * time.Minute
	slotsFailed = 3
	leastKept   = time.Minute // of failing is worth a write: flash wears out
)

// values is what is in force when the cloud sets set.
func (g Gateway) values(set parameter.Values) parameter.Values {
	v := maps.Clone(g.Own)
	for name, x := range set {
		if name != parameter.Registers {
			v[name] = x
			continue
		}
		own, _ := g.Own[name].(map[string]any)
		points := maps.Clone(own)
		maps.Copy(points, perInverter(x, own))
		v[name] = points
	}
	return v
}

// perInverter returns the lists of a value of Registers by inverter: those of own,
// where it is one for all.
func perInverter(v any, own map[string]any) map[string]any {
	lists, ok := v.(map[string]any)
	if ok {
		return lists
	}
	lists = map[string]any{}
	for name := range own {
		lists[name] = v
	}
	return lists
}

// check returns the problem that a canonical value has on this gateway, whatever
// the others are.
func (g Gateway) check(name string, v any) *parameter.Problem {
	if _, problem := parameter.Check(name, v); problem != nil {
		return problem
	}
	if slices.Contains(g.Fixed, name) {
		return &parameter.Problem{Parameter: name, Code: parameter.NotPermitted, Text: "the gateway's settings keep it as it is"}
	}
	if name != parameter.Registers {
		return nil
	}
	own, _ := g.Own[name].(map[string]any)
	lists, there := perInverter(v, own), g.Points()
	for _, inverter := range slices.Sorted(maps.Keys(lists)) {
		has, ok := there[inverter]
		if !ok {
			return &parameter.Problem{Parameter: name, Code: parameter.UnknownPoint, Text: "there is no inverter " + inverter}
		}
		points, _ := lists[inverter].([]any)
		for _, p := range points {
			if point, _ := p.(string); len(has) > 0 && !slices.Contains(has, point) {
				return &parameter.Problem{Parameter: name, Code: parameter.UnknownPoint, Text: "inverter " + inverter + " has no point " + point}
			}
		}
	}
	return nil
}

// judge decides what becomes of the update where the cloud sets former so far,
// and returns what it sets then.
func (g Gateway) judge(former parameter.Values, u Update) (parameter.Values, Answer) {
	answer := Answer{Revision: u.Revision}
	good, problems := parameter.CheckAll(u.Parameters)
	before := g.values(former)
	set, wanted := parameter.Values{}, parameter.Values{}
	for name, v := range former {
		if _, asked := u.Parameters[name]; asked {
			set[name] = v // until another value is taken
		}
	}
	for _, name := range good.Names() {
		v := good[name]
		same := parameter.Equal(g.values(parameter.Values{name: v})[name], before[name])
		problem := g.check(name, v)
		switch {
		case problem == nil && same:
			set[name] = v
		case problem == nil:
			wanted[name] = v
		case problem.Code == parameter.NotPermitted && same:
		default:
			problems = append(problems, problem)
		}
	}
	for _, p := range append(problems, g.fit(set, wanted)...) {
		answer.reject(p.Parameter, Refusal{p.Code, short(p.Text)})
	}
	after := g.values(set)
	names := slices.Concat(good.Names(), former.Names())
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		_, rejected := answer.Rejected[name]
		switch {
		case rejected:
		case parameter.Equal(before[name], after[name]):
			answer.Unchanged = append(answer.Unchanged, name)
		default:
			answer.Accepted = append(answer.Accepted, name)
		}
	}
	return set, answer
}

// fit puts into set what is wanted: all of it where the gateway can do that, else
// one parameter after the other, in the order of the document, as long as one can
// be taken. It returns what is wrong with the rest.
func (g Gateway) fit(set, wanted parameter.Values) []*parameter.Problem {
	all := maps.Clone(set)
	maps.Copy(all, wanted)
	left := wanted.Names()
	if values := g.values(all); !slices.ContainsFunc(left, func(name string) bool { return g.infeasible(name, values) != nil }) {
		maps.Copy(set, wanted)
		return nil
	}
	for {
		var problems []*parameter.Problem
		before := len(left)
		left = slices.DeleteFunc(left, func(name string) bool {
			try := maps.Clone(set)
			try[name] = wanted[name]
			if err := g.infeasible(name, g.values(try)); err != nil {
				problems = append(problems, &parameter.Problem{Parameter: name, Code: parameter.Infeasible, Text: err.Error()})
				return false
			}
			set[name] = wanted[name]
			return true
		})
		if len(left) == before || len(left) == 0 {
			return problems
		}
	}
}

// infeasible says why the gateway cannot do what values ask, as far as the
// parameter has to do with it.
func (g Gateway) infeasible(name string, values parameter.Values) error {
	if slices.Contains(polled(), name) {
		if err := g.Polls(values); err != nil {
			return err
		}
	}
	if slices.Contains(uploaded(), name) {
		return g.Uploads(values)
	}
	return nil
}

// trial is the trial that begins when the cloud sets set after s; nil where
// nothing of it can keep the device from the cloud. What is not proven yet stays
// on trial with it.
func (g Gateway) trial(s state, set parameter.Values) *trial {
	proven := s.Set
	if s.Trial != nil {
		proven = s.Trial.Former
	}
	if len(g.tried(proven, set)) == 0 {
		return nil
	}
	return &trial{Former: proven}
}

// tried returns the parameters that are on trial: those that can keep the device
// from the cloud, and are other ones than before.
func (g Gateway) tried(former, set parameter.Values) []string {
	before, now := g.values(former), g.values(set)
	return slices.DeleteFunc(onTrial(), func(name string) bool { return parameter.Equal(before[name], now[name]) })
}

// patience is for how long exchanges may fail under set before former comes back.
func (g Gateway) patience(former, set parameter.Values) time.Duration {
	slot := min(Seconds(g.values(former)[parameter.UploadInterval]), Seconds(g.values(set)[parameter.UploadInterval]))
	return max(leastFailed, slotsFailed*slot)
}

// Seconds is the value of a parameter in s.
func Seconds(v any) time.Duration {
	switch s := v.(type) {
	case int64:
		return time.Duration(s) * time.Second
	case float64:
		return time.Duration(s * float64(time.Second)).Round(time.Millisecond)
	}
	return 0
}
