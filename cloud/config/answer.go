package config

import (
	"fmt"
	"maps"
	"strings"
	"time"

	"ecowatt/parameter"
)

// Result is what a device did with a parameter.
type Result string

// The results.
const (
	Accepted  Result = "accepted" // also of one that is not set any more
	Rejected  Result = "rejected"
	Unchanged Result = "unchanged"
)

// Part is the outcome of one parameter. Code and Text say why it was rejected, in
// the device's words.
type Part struct {
	Result Result `json:"result"`
	Code   string `json:"code,omitempty"`
	Text   string `json:"text,omitempty"`
}

// Outcome is what a device did with an update, by parameter.
type Outcome map[string]Part

// Answer is a device's word on a revision.
type Answer struct {
	Revision uint64 // 0: it has none
	Outcome  Outcome
}

// Bounds of an answer.
const (
	maxParts = 64
	// MaxRevision is the last revision there is: every JSON reader knows it exactly.
	MaxRevision = 1<<53 - 1
)

// AnswerError says what is wrong with an answer.
type AnswerError struct{ Problem string }

func (e *AnswerError) Error() string { return "config_ack: " + e.Problem }

// NewAnswer makes an answer of the lists of a config_ack.
func NewAnswer(revision uint64, accepted, unchanged []string, rejected map[string]Part) (Answer, error) {
	a := Answer{Revision: revision, Outcome: Outcome{}}
	n := len(accepted) + len(unchanged) + len(rejected)
	switch {
	case revision >= MaxRevision:
		return Answer{}, &AnswerError{fmt.Sprintf("there is no revision %d", revision)}
	case n > maxParts:
		return Answer{}, &AnswerError{fmt.Sprintf("%d parameters; there are at most %d", n, maxParts)}
	}
	for _, name := range accepted {
		a.Outcome[name] = Part{Result: Accepted}
	}
	for _, name := range unchanged {
		a.Outcome[name] = Part{Result: Unchanged}
	}
	for name, part := range rejected {
		part.Result = Rejected
		a.Outcome[name] = part
	}
	if len(a.Outcome) != n {
		return Answer{}, &AnswerError{"a parameter is there twice"}
	}
	return a, nil
}

// Names returns the parameters with a result, in the order of the document.
func (o Outcome) Names(r Result) []string {
	var names []string
	all := parameter.Values{}
	for name, part := range o {
		if part.Result == r {
			all[name] = nil
		}
	}
	names = append(names, all.Names()...)
	return names
}

// Line says an outcome in one line.
func (o Outcome) Line() string {
	var parts []string
	for _, r := range []Result{Accepted, Unchanged, Rejected} {
		names := o.Names(r)
		for i, name := range names {
			if p := o[name]; p.Code != "" {
				names[i] = name + " (" + p.Code + ")"
			}
		}
		if len(names) > 0 {
			parts = append(parts, string(r)+": "+strings.Join(names, ", "))
		}
	}
	if len(parts) == 0 {
		return "nothing to answer for"
	}
	return strings.Join(parts, "; ")
}

// Report is what a device has said to be in force, of what is set from here.
type Report struct {
	Revision uint64 // that it answered last; 0: it has none
	At       time.Time
	Values   parameter.Values
	Former   parameter.Values // what was in force before that revision
	Outcome  Outcome          // of its last answer
}

// undone begins the text by which a device says that it took a value back.
const undone = "undone:"

// After is the report once an answer to a revision with those values has come. The
// answers of a device come in the order in which it gave them; its last one to a
// revision counts. An answer to an earlier revision than that of the report changes
// nothing.
func (r Report) After(a Answer, values parameter.Values, at time.Time) Report {
	if a.Revision == 0 { // its disk is new, or was damaged
		return Report{At: at}
	}
	if a.Revision < r.Revision {
		return r
	}
	base, again := r.Values, a.Revision == r.Revision
	if again {
		base = r.Former
	}
	next := Report{Revision: a.Revision, At: at, Values: maps.Clone(base), Former: base, Outcome: a.Outcome}
	if next.Values == nil {
		next.Values = parameter.Values{}
	}
	// What the update does not set and the device does not speak of it has not from
	// here: it only was what the gateway keeps for itself.
	maps.DeleteFunc(next.Values, func(name string, _ any) bool {
		_, wanted := values[name]
		_, spoken := a.Outcome[name]
		return !wanted && !spoken
	})
	for name, part := range a.Outcome {
		v, wanted := values[name]
		switch {
		case part.Result != Rejected && wanted:
			next.Values[name] = v
		case part.Result != Rejected:
			delete(next.Values, name)
		case again && r.Outcome[name].Result != Rejected && !strings.HasPrefix(part.Text, undone):
			delete(next.Values, name) // it was dropped since, and not for what was there before
		}
	}
	return next
}

// Verdict says what an answer means for what is desired.
type Verdict int

// The verdicts.
const (
	Settled Verdict = iota // it answers what is desired now
	Late                   // it answers something earlier: the desired revision stays pending
	Lost                   // the device has nothing: what is desired is sent again
	Ahead                  // the device has a revision that was never sent from here: this cloud counts on from there
)

// Judge says what an answer means where the desired revision has that number, and
// sent says whether the answered one was ever sent from here.
func Judge(a Answer, desired uint64, sent bool) Verdict {
	switch {
	case a.Revision == 0 && desired == 0:
		return Settled
	case a.Revision == 0:
		return Lost
	case a.Revision > desired, a.Revision == desired && !sent:
		return Ahead
	case a.Revision < desired:
		return Late
	}
	return Settled
}

// Same reports whether two outcomes are the same.
func (o Outcome) Same(p Outcome) bool { return maps.Equal(o, p) }

// Slot is the upload interval that a device has from here; 0 for its own.
func (r Report) Slot() time.Duration {
	n, ok := r.Values[parameter.UploadInterval].(int64)
	if !ok {
		return 0
	}
	return time.Duration(n) * time.Second
}

// Settlement is what became of an answer.
type Settlement struct {
	Verdict Verdict
	News    bool          // it says something that was not known
	Drift   []string      // parameters that the device answered for and does not have as desired
	Slot    time.Duration // the upload interval that the device has from here; 0 for its own
}
