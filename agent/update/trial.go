package update

import (
	"time"

	"ecowatt/boot"
)

// unhealthyFactor is for how many times Options.Stable the self-test may fail: of
// the hour that the launcher waits, 55 minutes.
const unhealthyFactor = 11

// StableTime is for how long an image on trial has to do well.
const StableTime = 5 * time.Minute

// Health is what the agent finds out about itself.
type Health struct {
	Problem string // of the self-test; empty for none
	Reached bool   // the cloud has answered this agent
}

// Verdict is what becomes of an image on trial.
type Verdict int

// The verdicts.
const (
	Undecided Verdict = iota // or not on trial
	Proven                   // it is confirmed
	GivenUp                  // the agent has to end, for the record names the other slot
)

// trial is how the image on trial has done since its start.
type trial struct {
	begun bool
	start time.Duration
	good  bool // without a problem, and the cloud was reached,
	since time.Duration
}

// step is the rule of a trial: it is proven once it has done well for stable
// without a break, and lost when it has a problem later than so many times that.
// That the cloud cannot be reached is no problem of the image alone: the launcher
// sets the limit for that.
func (t trial) step(now time.Duration, h Health, stable time.Duration) (trial, Verdict) {
	if !t.begun {
		t.begun, t.start = true, now
	}
	good := h.Problem == "" && h.Reached
	if good && !t.good {
		t.since = now
	}
	t.good = good
	switch {
	case good && now-t.since >= stable:
		return t, Proven
	case h.Problem != "" && now-t.start >= unhealthyFactor*stable:
		return t, GivenUp
	}
	return t, Undecided
}

// OnTrial reports whether the program that runs is on trial.
func (u *Updater) OnTrial() bool { return u.record.State == boot.Trial && u.image() != nil }

// Expected are the inverters that answered before the agent made way for this one.
func (u *Updater) Expected() []string { return u.state.Answering }

// Prove judges the image on trial. It is to be called every few seconds.
func (u *Updater) Prove(now time.Duration, h Health) Verdict {
	if !u.OnTrial() {
		return Undecided
	}
	t, verdict := u.trial.step(now, h, u.Stable)
	u.trial = t
	next := u.record
	switch verdict {
	case Undecided:
		return Undecided
	case Proven:
		next = u.record.Confirm()
	case GivenUp:
		next = u.record.Back(u.look, boot.Ending{Reason: boot.Unhealthy, Words: h.Problem})
		if next.Active == u.record.Active {
			return Undecided // there is nothing to go back to
		}
	}
	if err := next.Write(u.FS); err != nil { // tried again with the next call
		u.Logger.Error("the record of the slots cannot be written", "code", logRecord, "error", err)
		return Undecided
	}
	u.record = next
	if verdict == Proven {
		u.settle()
	}
	return verdict
}

// look compares a slot with what was installed there, as the launcher does.
func (u *Updater) look(s boot.Slot) boot.Condition {
	image := u.record.Image(s)
	switch _, err := u.FS.Stat(s.Program()); {
	case err != nil:
		return boot.Bad
	case image == nil:
		return boot.Good
	case !u.holds(s, *image):
		return boot.Bad
	case image.Security < u.record.MinSecurity:
		return boot.Outdated
	}
	return boot.Good
}
