package rollout

import (
	"fmt"
	"time"
)

// Tally counts updates by their phase.
type Tally map[Phase]int

// All is how many updates there are.
func (t Tally) All() (n int) {
	for _, m := range t {
		n += m
	}
	return n
}

// count is how many are in phases of that kind.
func (t Tally) count(is func(Phase) bool) (n int) {
	for p, m := range t {
		if is(p) {
			n += m
		}
	}
	return n
}

// Failed is how many have failed.
func (t Tally) Failed() int { return t.count(Phase.Failure) }

// Answered is how many there are of which it is known how they did: they have
// confirmed, or failed.
func (t Tally) Answered() int { return t.Failed() + t[Confirmed] + t[Healthy] }

// Open is how many are not over.
func (t Tally) Open() int { return t.count(Phase.Open) }

// UnderWay is how many have begun and are not over.
func (t Tally) UnderWay() int { return t.Open() - t[Waiting] }

// wanted is how many are to get the release.
func (t Tally) wanted() int { return t.All() - t[Skipped] - t[Withdrawn] }

// Do is what a rollout does next.
type Do string

// The closed set of what it may do.
const (
	Rest       Do = "rest"          // nothing, until something happens or its time comes
	BeginStage Do = "begin stage"   // the next one
	BeginSome  Do = "begin devices" // of the stage that has begun
	StopNow    Do = "stop"
	FinishNow  Do = "finish"
)

// Next decides what the rollout does next, by how its current stage stands.
func (r Rollout) Next(now time.Time, stage Tally) Do {
	switch {
	case r.State != Running:
		return Rest
	case r.Exceeded(stage):
		return StopNow
	case stage[Waiting] > 0:
		return BeginSome
	case stage.Open() > 0:
		return Rest
	case r.Stage == len(r.Sizes):
		return FinishNow
	case now.Before(r.Stages[r.Stage].Start):
		return Rest
	}
	return BeginStage
}

// Exceeded reports whether too many of the current stage have failed: more than
// MaxFailed percent of those of which it is known how they did. These must be
// MinSample, or all where the stage has fewer. What an operator has seen when
// resuming counts no more.
func (r Rollout) Exceeded(stage Tally) bool {
	failed, answered := stage.Failed()-r.Pardon.Failed, stage.Answered()-r.Pardon.Answered
	sample := min(r.MinSample, stage.wanted()-r.Pardon.Answered)
	return failed > 0 && answered >= sample && float64(failed)*100 > r.MaxFailed*float64(answered)
}

// Stopped is the rollout once it has stopped by itself.
func (r Rollout) Stopped(stage Tally, at time.Time) (Rollout, bool) {
	if !r.is(Stop, at) {
		return r, false
	}
	r.Code = "too_many_failed"
	r.Text = fmt.Sprintf("stage %d: %d of %d have failed", r.Stage, stage.Failed(), stage.Answered())
	return r, true
}

// Finished is the rollout once its last stage is over.
func (r Rollout) Finished(at time.Time) (Rollout, bool) {
	if !r.is(Finish, at) {
		return r, false
	}
	r.Text = "every stage is over"
	return r, true
}

// Advanced is the rollout once its next stage has begun.
func (r Rollout) Advanced(at time.Time) (Rollout, bool) {
	if r.State != Running || r.Stage == len(r.Sizes) {
		return r, false
	}
	r.Stage++
	r.StageAt, r.Pardon = at, Pardon{}
	return r, true
}

// is lets an event of the cloud happen.
func (r *Rollout) is(e Event, at time.Time) bool {
	after := r.State.After(e)
	if after == r.State {
		return false
	}
	r.State, r.Code, r.Text, r.Since = after, "", "", at
	return true
}

// Progress is how far a rollout is, and how fast.
type Progress struct {
	Devices  int // that are to get the release
	Over     int // of them
	Healthy  int
	Failed   int
	UnderWay int
	Waiting  int
	Skipped  int     // beside the Devices
	Rate     float64 // devices that come to their end in an hour
	Left     time.Duration
	Known    bool // there is a rate, by which Left was reckoned
}

// RateTime is the time over which the rate is taken, up to now.
const RateTime = time.Hour

// Progress tells how far the rollout is. recent is how many devices came to their
// end within the last RateTime. Waits for the start of stages are not reckoned
// with.
func (r Rollout) Progress(all Tally, recent int, now time.Time) Progress {
	p := Progress{
		Devices: all.wanted(), Healthy: all[Healthy], Failed: all.Failed(), UnderWay: all.UnderWay(), Waiting: all[Waiting],
		Skipped: all[Skipped] + all[Withdrawn],
	}
	p.Over = p.Healthy + p.Failed
	span := min(now.Sub(r.At), RateTime)
	if recent <= 0 || span <= 0 || r.State != Running {
		return p
	}
	p.Rate = float64(recent) / span.Hours()
	p.Left, p.Known = time.Duration(float64(p.Devices-p.Over)/p.Rate*float64(time.Hour)), true
	return p
}
