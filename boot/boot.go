// Package boot decides, for the launcher, which slot's agent runs and when an
// agent that ended is started again. It holds values and rules only; starting
// and watching is package launch.
//
// A gateway has two slots, DIR/slots/a and DIR/slots/b, each with one agent
// program. The record DIR/boot.json names the slot in force. Without a record
// slot a is in force: that is how a gateway leaves the workshop.
//
// A new image is on trial: it is started three times at most and must be
// confirmed, by its agent, within an hour of a start. Otherwise the launcher goes
// back to the other slot by itself. Only starts on trial are counted: a gateway
// that loses power every evening burns nothing of a confirmed image.
package boot

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Slot is one of the two places an agent program is kept in.
type Slot string

// The two slots.
const (
	A Slot = "a"
	B Slot = "b"
)

// Program is the path of the agent program of slot s below the gateway's
// folder.
func (s Slot) Program() string { return "slots/" + string(s) + "/ecowatt-agent" }

// Other is the other slot.
func (s Slot) Other() Slot {
	if s == A {
		return B
	}
	return A
}

// State says how far the image of the slot in force is trusted.
type State string

// The states.
const (
	Confirmed  State = "confirmed"   // it has proven itself; it is started again for ever
	Trial      State = "trial"       // it has not yet
	RolledBack State = "rolled_back" // confirmed, and here again after another one failed
)

// Limits of a trial.
const (
	TrialStarts = 3
	TrialTime   = time.Hour       // from a start until it must be confirmed
	HangTime    = 2 * time.Minute // without a heartbeat
)

// Reason says why an agent ended or an image was given up.
type Reason string

// The closed set of reasons.
const (
	Exited       Reason = "exited"        // by itself
	Killed       Reason = "killed"        // by a signal: a crash, or out of memory
	NotStarted   Reason = "not_started"   // the system cannot run it
	Hung         Reason = "hung"          // no heartbeat for HangTime
	NotConfirmed Reason = "not_confirmed" // within TrialTime, or before the starts were used up
	Unhealthy    Reason = "unhealthy"     // its own self-test said so
	Damaged      Reason = "damaged"       // it is not the image that was installed
	Insecure     Reason = "insecure"      // of an older security version than may run
)

// Ending is how a run of an agent ended.
type Ending struct {
	Reason Reason `json:"reason"`
	Words  string `json:"words,omitempty"` // the last that it said, at most MaxWords bytes
}

// MaxWords is how much is kept of what an agent said last, in bytes.
const MaxWords = 512

// Image is what was installed into a slot.
type Image struct {
	SHA256   string `json:"sha256"` // 64 hexadecimal digits
	Size     int64  `json:"size"`   // bytes
	Release  uint64 `json:"release"`
	Security uint64 `json:"security"`
	Version  string `json:"version"`  // for people
	Manifest string `json:"manifest"` // SHA-256 of the manifest it came with; empty for none
}

// Failure is what is known of an image that was given up.
type Failure struct {
	SHA256  string `json:"sha256"`
	Release uint64 `json:"release"`
	Times   int    `json:"times"`
	Ending         // the last time
}

// maxFailures is how many images are remembered, the newest.
const maxFailures = 8

// Record is the durable memory of the launcher. Its zero value is none.
type Record struct {
	Format      int       `json:"format"` // 1
	Active      Slot      `json:"active"`
	State       State     `json:"state"`
	Starts      int       `json:"starts,omitempty"` // of a trial, that are left
	A           *Image    `json:"a,omitempty"`      // nil when it was never installed from here
	B           *Image    `json:"b,omitempty"`
	MinSecurity uint64    `json:"min_security,omitempty"` // least security version that may run
	Failures    []Failure `json:"failures,omitempty"`     // oldest first
}

// Initial is the record in force where none has been written.
func Initial() Record { return Record{Format: 1, Active: A, State: Confirmed} }

// Image is what was installed into s; nil when nothing was from here.
func (r Record) Image(s Slot) *Image {
	if s == A {
		return r.A
	}
	return r.B
}

// Condition is what a look at a slot says.
type Condition string

// The conditions.
const (
	Good     Condition = "good"
	Bad      Condition = "damaged"  // missing, or not what was installed
	Outdated Condition = "insecure" // its security version is below the least
)

// ErrNothing says that neither slot holds an image that may run.
var ErrNothing = errors.New("no slot holds an agent that may run")

// Start returns the record with which the agent of its active slot is started
// now; it is to be on the disk before. last is how the run before ended, where it
// was seen. The error wraps ErrNothing.
//
//	state        active slot      does
//	confirmed    good             starts it
//	rolled_back  good             starts it
//	either       bad or outdated  goes to the other slot, when that is good
//	trial        good             starts it, one start less; without any left it goes back
//	trial        bad or outdated  goes back
//
// To go back takes a good image in the other slot. Where there is none, an image
// on trial goes on: any agent is better than none.
func (r Record) Start(look func(Slot) Condition, last Ending) (Record, error) {
	active := look(r.Active)
	switch {
	case active != Good:
		last = Ending{Reason: Reason(active)}
	case r.State != Trial:
		return r, nil
	case r.Starts > 0:
		r.Starts--
		return r, nil
	}
	if last.Reason == "" {
		last.Reason = NotConfirmed
	}
	if look(r.Active.Other()) == Good {
		return r.back(last), nil
	}
	if active != Good {
		return r, fmt.Errorf("%w: slot %s is %s and slot %s is %s", ErrNothing, r.Active, active, r.Active.Other(), look(r.Active.Other()))
	}
	return r, nil
}

// Back is the record after the image on trial was given up; it changes nothing
// where there is no trial, or where the other slot is not good.
func (r Record) Back(look func(Slot) Condition, why Ending) Record {
	if r.State != Trial || look(r.Active.Other()) != Good {
		return r
	}
	return r.back(why)
}

func (r Record) back(why Ending) Record {
	if image := r.Image(r.Active); image != nil {
		f := Failure{SHA256: image.SHA256, Release: image.Release, Times: r.Failed(image.SHA256) + 1, Ending: why}
		f.Words = f.Words[max(0, len(f.Words)-MaxWords):]
		r.Failures = slices.DeleteFunc(slices.Clone(r.Failures), func(x Failure) bool { return x.SHA256 == f.SHA256 })
		r.Failures = append(r.Failures, f)
		r.Failures = r.Failures[max(0, len(r.Failures)-maxFailures):]
	}
	r.Active, r.State, r.Starts = r.Active.Other(), RolledBack, 0
	return r
}

// Failed is how often an image was given up here.
func (r Record) Failed(sha256 string) int {
	for _, f := range r.Failures {
		if f.SHA256 == sha256 {
			return f.Times
		}
	}
	return 0
}

// Try is the record with which image, which lies in the slot that is not active,
// is on trial.
func (r Record) Try(image Image) Record {
	r.Active = r.Active.Other()
	r.State, r.Starts = Trial, TrialStarts
	if r.Active == A {
		r.A = &image
	} else {
		r.B = &image
	}
	return r
}

// Confirm is the record once the active image has proven itself. Only then may
// nothing of an older security version run any more: until then the image before
// it is needed.
func (r Record) Confirm() Record {
	r.State, r.Starts = Confirmed, 0
	if image := r.Image(r.Active); image != nil {
		r.MinSecurity = max(r.MinSecurity, image.Security)
	}
	return r
}

// The pauses before an ended agent is started again.
const (
	FirstPause = time.Second      // after the first quick end
	LongPause  = time.Minute      // never longer than this
	SteadyRun  = 60 * time.Second // an agent that ran this long counts as healthy: the pauses begin anew
)

// Pause is how long to wait before starting the agent again, after it ended
// for the quick-th time in a row (1, 2, …) without a steady run between.
func Pause(quick int) time.Duration {
	pause := FirstPause
	for range quick - 1 {
		pause *= 2
		if pause >= LongPause {
			return LongPause
		}
	}
	return pause
}

// Quick counts ends in a row: given the count so far and how long the agent
// ran this time, it is the new count.
func Quick(before int, ran time.Duration) int {
	if ran >= SteadyRun {
		return 1
	}
	return before + 1
}
