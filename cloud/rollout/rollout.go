// Package rollout owns how a release of the agent reaches a fleet (rows F1 and
// F8): which releases may be uploaded, which devices are targets, in what stages
// they get an update, what becomes of each, and when a rollout stops by itself.
//
// A rollout chooses its devices once, when it is made, and puts each into a
// stage. The devices of a stage are told of the release when the stage begins;
// the next stage begins when all of this one are over. What happens on a device
// only the device knows: its own report is always the last word. A device that
// says nothing until its deadline has failed.
//
// See State for the rollout as a whole and Phase for one device.
package rollout

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"ecowatt"
)

// Errors of rollouts and releases.
var (
	ErrNotFound  = errors.New("no such rollout")
	ErrNoRelease = errors.New("no such release")
)

// ID names a rollout.
type ID [16]byte

// NewID draws an id. random is a cryptographic source.
func NewID(random io.Reader) (id ID, err error) {
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return ID{}, fmt.Errorf("drawing an id: %w", err)
	}
	return id, nil
}

// ParseID reads 32 hexadecimal digits.
func ParseID(s string) (ID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(ID{}) {
		return ID{}, fmt.Errorf("%.80q is no id: it has %d hexadecimal digits", s, 2*len(ID{}))
	}
	return ID(b), nil
}

// String returns 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Hash is a SHA-256: of a manifest, which names a release, or of a file.
type Hash [32]byte

// ParseHash reads 64 hexadecimal digits in lower case: one name for each hash.
func ParseHash(s string) (Hash, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(Hash{}) || Hash(b).String() != s {
		return Hash{}, fmt.Errorf("%.80q is no hash: it has %d hexadecimal digits in lower case", s, 2*len(Hash{}))
	}
	return Hash(b), nil
}

// String returns 64 hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Rollout is a release on its way to devices.
type Rollout struct {
	ID ID
	Spec
	Version string // of the release, for people
	Number  uint64 // of the release
	Image   Hash   // that runs afterwards
	Offer   int64  // a bound of what the offer takes in an answer, in bytes
	By      string // the operator's name
	At      time.Time

	State  State
	Code   string // why it came into its state, for programs; empty where somebody wanted it
	Text   string // the same for people
	Since  time.Time
	Finish bool // of an aborted one: whoever is under way may finish

	Sizes   []int         // how many devices have begun at most when a stage has, all before it included
	Stage   int           // that has begun last, from 1 on; 0 for none
	StageAt time.Time     // when it began; zero for none
	Rested  time.Duration // for how long it was paused or stopped so far, while it is not
	Pardon  Pardon
}

// Pardon are the results of the current stage that an operator has seen when
// resuming a rollout that had stopped: they count no more.
type Pardon struct{ Failed, Answered int }

// Devices is how many devices the rollout is for.
func (r Rollout) Devices() int {
	if len(r.Sizes) == 0 {
		return 0
	}
	return r.Sizes[len(r.Sizes)-1]
}

// Clock is the time of the rollout: it stands while the rollout rests, so that no
// deadline passes meanwhile.
func (r Rollout) Clock(now time.Time) time.Time {
	if r.State.Rests() {
		now = r.Since
	}
	return now.Add(-r.Rested)
}

// wall is the time at which the clock of the rollout shows t.
func (r Rollout) wall(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Add(r.Rested)
}

// Offers reports whether devices may be told of the release now.
func (r Rollout) Offers() bool { return r.State == Running || r.State == Aborted && r.Finish }

// TooLateError says that a rollout is past what was asked for.
type TooLateError struct {
	State State
	Event Event
}

func (e *TooLateError) Error() string {
	return fmt.Sprintf("it is %s: it cannot be %s", e.State, e.Event)
}

// Pause is the rollout once an operator has paused it: nobody is told of the
// release until it is resumed. Again it changes nothing.
func (r Rollout) Pause(by string, at time.Time) (Rollout, bool, error) {
	return r.order(Pause, "paused by "+by, at)
}

// Resume is the rollout once an operator lets it go on. What made it stop counts
// no more; stage is how its current stage stands.
func (r Rollout) Resume(stage Tally, by string, at time.Time) (Rollout, bool, error) {
	was := r
	r, changed, err := r.order(Resume, "resumed by "+by, at)
	if err != nil || !changed {
		return r, changed, err
	}
	r.Rested = was.Rested + at.Sub(was.Since)
	if was.State == Stopped {
		r.Pardon = Pardon{Failed: stage.Failed(), Answered: stage.Answered()}
	}
	return r, true, nil
}

// Abort is the rollout once an operator has ended it. Devices that were not told
// of the release stay out; those under way finish, or are told of it no more and
// stay with what they run. What has switched decides for itself.
func (r Rollout) Abort(finish bool, by string, at time.Time) (Rollout, bool, error) {
	rested := r.State.Rests()
	since := r.Since
	text := "aborted by " + by + "; who is under way goes back to what runs"
	if finish {
		text = "aborted by " + by + "; who is under way finishes"
	}
	r, changed, err := r.order(Abort, text, at)
	if err != nil || !changed {
		return r, changed, err
	}
	r.Finish = finish
	if rested {
		r.Rested += at.Sub(since)
	}
	return r, true, nil
}

// order lets an operator's event happen; one that leads to where the rollout is
// already changes nothing.
func (r Rollout) order(e Event, text string, at time.Time) (Rollout, bool, error) {
	after := r.State.After(e)
	switch {
	case after != r.State:
	case e.leads() == r.State:
		return r, false, nil
	default:
		return r, false, &TooLateError{State: r.State, Event: e}
	}
	r.State, r.Code, r.Text, r.Since = after, "", text, at
	return r, true, nil
}

// Event is how the log names what the rollout has just become.
func (r Rollout) Event() string { return "rollout." + string(r.State) }

// Attrs are the details that the log keeps of it.
func (r Rollout) Attrs() map[string]string {
	attrs := map[string]string{"rollout": r.ID.String(), "release": r.Release.String(), "version": r.Version}
	if r.Code != "" {
		attrs["code"] = r.Code
	}
	return attrs
}

// Instruction is what an operator wants of a rollout.
type Instruction struct {
	ID     ID
	Event  Event // Pause, Resume or Abort
	Finish bool  // of Abort: whoever is under way may finish
	By     string
	At     time.Time
}

// Instructed is the rollout once an operator has had his way; stage is how its
// current stage stands. The error is a *TooLateError.
func (r Rollout) Instructed(i Instruction, stage Tally) (Rollout, bool, error) {
	switch i.Event {
	case Pause:
		return r.Pause(i.By, i.At)
	case Resume:
		return r.Resume(stage, i.By, i.At)
	case Abort:
		return r.Abort(i.Finish, i.By, i.At)
	case Stop, Finish: // are not an operator's
	}
	return r, false, &TooLateError{State: r.State, Event: i.Event}
}

// View is a rollout and how it stands.
type View struct {
	Rollout
	Skipped Tally   // from the beginning
	ByStage []Tally // in the order of the stages
	Recent  int     // devices that came to their end within the last RateTime
}

// All counts the updates of all stages, and those that were skipped.
func (v View) All() Tally {
	all := Tally{}
	for _, t := range append([]Tally{v.Skipped}, v.ByStage...) {
		for p, n := range t {
			all[p] += n
		}
	}
	return all
}

// Filter selects updates of a rollout, by device.
type Filter struct {
	Phase Phase            // only those in it; empty for all
	After ecowatt.DeviceID // only those of devices that come after it
	Limit int              // at most so many
}
