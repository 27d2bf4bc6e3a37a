// Package config holds the configuration that is in force on the device: what
// the cloud sets over what the gateway's own settings say.
//
// An update is judged parameter by parameter, kept on the disk, and only then
// answered (Take). An update that is delivered again is answered as it was, and
// an older one changes nothing. A change of the way to the cloud is on trial
// until an exchange of a later slot came through under it; if none does, the
// former values come back (see Failed):
//
//	          an update that changes              Reached
//	          the way to the cloud              ┌──────────→ in force
//	in force ─────────────────────────→ on trial┤
//	                                            └──────────→ in force, the former values
//	                                              Failed for long, or started too often
//
// A Keeper has no goroutine and no clock. The file is documented in
// docs/configuration.md.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"time"

	"ecowatt/internal/disk"
	"ecowatt/parameter"
)

// Codes of the device log that this package writes.
const (
	codeApplied = "config_applied"     // an update changed what is in force
	codeUndone  = "config_undone"      // a change was taken back
	codeDropped = "config_dropped"     // what the gateway cannot do any more was dropped
	codeDamaged = "config_damaged"     // the file cannot be read
	codeStorage = "config_not_written" // the file cannot be written
)

// Gateway is what the device itself knows, and what whoever installed it wants.
type Gateway struct {
	// Own is the value of every parameter where the cloud sets none. Registers
	// names the points of every inverter.
	Own   parameter.Values
	Fixed []string // the parameters that the cloud may not change

	// Points returns what there is to read of every inverter; an empty list where
	// that is not known yet.
	Points func() map[string][]string

	// Polls says why the inverters cannot be polled under a configuration, which
	// has every parameter, and Uploads why the samples cannot be uploaded; nil
	// where they can.
	Polls, Uploads func(parameter.Values) error
}

// Update is what the cloud wants: all of the parameters that it sets.
type Update struct {
	Revision   uint64
	Parameters map[string]any // as JSON or CBOR bring them
}

// Answer says what became of each parameter of an update, and of those that the
// cloud no longer sets. Names are sorted.
type Answer struct {
	Revision  uint64             `json:"revision"` // 0: there was none
	Accepted  []string           `json:"accepted,omitempty"`
	Rejected  map[string]Refusal `json:"rejected,omitempty"`
	Unchanged []string           `json:"unchanged,omitempty"`
}

// Refusal says why a parameter was not taken.
type Refusal struct {
	Code parameter.Code `json:"code"`
	Text string         `json:"text"` // for people
}

// Options are what a Keeper is made of. All are needed.
type Options struct {
	FS      disk.FS // the gateway's folder
	Gateway Gateway
	Boot    string // names this boot
	Logger  *slog.Logger
}

// Keeper keeps the configuration. It is for one goroutine at a time.
type Keeper struct {
	Options

	s       state
	unsaved bool // the file is not known to be s, but for less than a minute of failing
	failing bool // the last write failed
}

// Open reads what is kept. What cannot be read is as good as nothing: the
// gateway's own values are in force then, and the answer has the revision 0. What
// the gateway cannot do any more, as its settings have changed, is dropped. So
// that the cloud learns of either, Answer is to be told after every start.
func Open(o Options) *Keeper {
	k := &Keeper{Options: o}
	s, err := read(o.FS)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		o.Logger.Error("the configuration that was kept cannot be read; the gateway's own is in force", "code", codeDamaged, "error", err)
		k.unsaved = true
	}
	k.s = s
	k.dropStale()
	if k.s.Trial != nil {
		k.s.Trial.Starts++
		k.unsaved = true
		if k.s.Trial.Starts > maxStarts {
			k.undo("the agent had to start again and again")
		}
	}
	k.mend()
	return k
}

// dropStale drops what the gateway's settings do not allow any more.
func (k *Keeper) dropStale() {
	for _, name := range k.s.Set.Names() {
		problem := k.Gateway.check(name, k.s.Set[name])
		if problem == nil {
			continue
		}
		k.Logger.Warn("a parameter is dropped that the gateway cannot have any more", "code", codeDropped,
			"parameter", name, "reason", string(problem.Code), "text", problem.Text)
		delete(k.s.Set, name)
		k.s.Answer.reject(name, Refusal{problem.Code, problem.Text})
		k.unsaved = true
	}
	if t := k.s.Trial; t != nil {
		for _, name := range t.Former.Names() {
			if k.Gateway.check(name, t.Former[name]) != nil {
				delete(t.Former, name)
			}
		}
	}
}

// Take judges an update, and puts into force what is good of it. When it
// returns, that is on the disk, or nothing changed. The answer is to be told;
// changed says whether Values is another one.
func (k *Keeper) Take(u Update) (answer Answer, changed bool) {
	k.mend()
	asked := digest(u.Parameters)
	if u.Revision < k.s.Answer.Revision || u.Revision == k.s.Answer.Revision && asked == k.s.Asked {
		return k.s.Answer.clone(), false
	}
	set, answer := k.Gateway.judge(k.s.Set, u)
	next := state{Asked: asked, Set: set, Answer: answer, Trial: k.Gateway.trial(k.s, set)}
	former := k.s
	k.s, k.unsaved = next, true
	if err := k.save(); err != nil {
		// What is on the disk now is not known; the next exchange sets it right.
		k.s, k.unsaved = former, true
		return answer.notStored(err), false
	}
	changed = len(answer.Accepted) > 0
	if changed {
		k.Logger.Info("the configuration has changed", "code", codeApplied, "revision", u.Revision, "accepted", len(answer.Accepted), "rejected", len(answer.Rejected))
	}
	return answer.clone(), changed
}

// Reached notes that an exchange came through that began a slot: what was on
// trial is proven.
func (k *Keeper) Reached() {
	if k.s.Trial != nil {
		k.s.Trial, k.unsaved = nil, true
	}
	k.mend()
}

// Failed notes that an exchange came to nothing, at now since boot. It returns
// true when a change was taken back for that: then Values is another one, and
// Answer is to be told.
//
// A change is taken back when exchanges have failed for three slots, of the
// shorter of the interval before and the one now, and 10 minutes at least. Time
// without power does not count, nor up to a minute before it was cut.
func (k *Keeper) Failed(now time.Duration) (undone bool) {
	t := k.s.Trial
	if t == nil {
		k.mend()
		return false
	}
	another := t.Boot != k.Boot
	if !another {
		t.Failing += max(0, now.Milliseconds()-t.At)
	}
	t.Boot, t.At = k.Boot, now.Milliseconds()
	if another || t.Failing-t.kept >= leastKept.Milliseconds() {
		k.unsaved = true
	}
	if limit := k.Gateway.patience(t.Former, k.s.Set); t.Failing >= limit.Milliseconds() {
		k.undo(fmt.Sprintf("the cloud could not be reached for %.0f min", limit.Minutes()))
		undone = true
	}
	k.mend()
	return undone
}

// undo takes back what is on trial.
func (k *Keeper) undo(why string) {
	former := k.s.Trial.Former
	names := k.Gateway.tried(former, k.s.Set)
	for _, name := range names {
		text := "undone: " + why + " under " + parameter.Format(k.Gateway.values(k.s.Set)[name])
		if v, ok := former[name]; ok {
			k.s.Set[name] = v
		} else {
			delete(k.s.Set, name)
		}
		k.s.Answer.reject(name, Refusal{parameter.Infeasible, text})
	}
	k.s.Trial, k.unsaved = nil, true
	k.Logger.Warn("a change of the configuration is undone", "code", codeUndone, "revision", k.s.Answer.Revision, "reason", why, "parameters", names)
}

// Answer is what was answered to the update that is in force.
func (k *Keeper) Answer() Answer { return k.s.Answer.clone() }

// Values is what is in force: a value of every parameter. Registers is by
// inverter.
func (k *Keeper) Values() parameter.Values { return k.Gateway.values(k.s.Set) }

// FromCloud reports whether the value in force is the cloud's.
func (k *Keeper) FromCloud(name string) bool { return k.s.Set[name] != nil }

// OnTrial reports whether a change waits for an exchange to prove it.
func (k *Keeper) OnTrial() bool { return k.s.Trial != nil }

// mend is save where nothing depends on it: what cannot be written now is tried
// again by every later call.
func (k *Keeper) mend() { _ = k.save() }

// save makes the file follow the state, where it does not. That it
// fails is told when it begins to.
func (k *Keeper) save() error {
	if !k.unsaved {
		return nil
	}
	err := write(k.FS, k.s)
	if err != nil && !k.failing {
		k.Logger.Error("the configuration cannot be written", "code", codeStorage, "error", err)
	}
	k.failing, k.unsaved = err != nil, err != nil
	if t := k.s.Trial; t != nil && err == nil {
		t.kept = t.Failing
	}
	return err
}

func (a Answer) clone() Answer {
	a.Accepted, a.Rejected, a.Unchanged = slices.Clone(a.Accepted), maps.Clone(a.Rejected), slices.Clone(a.Unchanged)
	return a
}

// reject moves a parameter to the rejected ones.
func (a *Answer) reject(name string, r Refusal) {
	other := func(n string) bool { return n == name }
	a.Accepted = slices.DeleteFunc(a.Accepted, other)
	a.Unchanged = slices.DeleteFunc(a.Unchanged, other)
	if a.Rejected == nil {
		a.Rejected = map[string]Refusal{}
	}
	a.Rejected[name] = r
}

// notStored is the answer of an update that could not be written.
func (a Answer) notStored(err error) Answer {
	b := a.clone()
	for _, name := range a.Accepted {
		b.reject(name, Refusal{parameter.StorageFailed, short(err.Error())})
	}
	return b
}
