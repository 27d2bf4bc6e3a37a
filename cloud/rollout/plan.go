package rollout

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"time"

	"ecowatt"
)

// Bounds and defaults of a rollout.
const (
	MaxStages   = 16
	MaxNames    = 1000 // in a list of a target
	MaxReturns  = 16   // signed statements that allow to go back
	MaxSoak     = 30 * 24 * time.Hour
	MinDeadline = time.Minute
	MaxDeadline = 90 * 24 * time.Hour

	DefaultSoak     = 30 * time.Minute
	DefaultDeadline = 24 * time.Hour
	DefaultFailed   = 2 // percent
	DefaultSample   = 10
)

// DefaultStages are those of a rollout that names none.
func DefaultStages() []Stage { return []Stage{{Percent: 1}, {Percent: 10}, {Percent: 100}} }

// Spec is what a rollout is to do.
type Spec struct {
	Release     Hash          `json:"release"`
	Target      Target        `json:"target"`
	Stages      []Stage       `json:"stages"`
	Soak        time.Duration `json:"soak"`         // for how long telemetry must go on after an update is confirmed
	NoTelemetry bool          `json:"no_telemetry"` // it is enough that the device still speaks then
	Deadline    time.Duration `json:"deadline"`     // from its stage's begin on, for a device to confirm
	MaxFailed   float64       `json:"max_failed"`   // percent of those of a stage of which it is known how they did
	MinSample   int           `json:"min_sample"`   // of which it must be known for that to count
	Downgrades  [][]byte      `json:"downgrades"`   // signed statements that go with the offer
}

// Target says which devices a rollout is for: all that fit each of its fields; an
// empty field fits all.
type Target struct {
	Group    string             `json:"group"`
	Devices  []ecowatt.DeviceID `json:"devices"`
	Hardware []string           `json:"hardware"` // board revisions
	Versions []string           `json:"versions"` // that run now
	Releases []uint64           `json:"releases"` // that run now
}

// Stage is how far a rollout goes before it looks back. One of Percent and Count
// is given: of all devices that are to get the release, those of the stages before
// included.
type Stage struct {
	Percent float64   `json:"percent,omitempty"`
	Count   int       `json:"count,omitempty"`
	Start   time.Time `json:"start,omitzero"` // it does not begin before; zero for as soon as it may
}

// size is how many of n devices have begun when the stage has.
func (s Stage) size(n int) int {
	if s.Count > 0 {
		return min(s.Count, n)
	}
	return min(int(math.Ceil(float64(n)*s.Percent/100-1e-9)), n)
}

// InvalidError says which field of a rollout is wrong, and how.
type InvalidError struct {
	Field   string // as named in JSON: "stages[1].percent"
	Problem string // for people, lower-case
}

func (e *InvalidError) Error() string { return e.Field + ": " + e.Problem }

func invalid(field, format string, args ...any) *InvalidError {
	return &InvalidError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

// Check says what of the spec is not allowed, as an *InvalidError.
func (s Spec) Check() error {
	switch {
	case s.Soak < 0 || s.Soak > MaxSoak:
		return invalid("soak_s", "it is 0 to %d seconds", int(MaxSoak/time.Second))
	case s.Deadline < MinDeadline || s.Deadline > MaxDeadline:
		return invalid("deadline_s", "it is %d to %d seconds", int(MinDeadline/time.Second), int(MaxDeadline/time.Second))
	case !(s.MaxFailed >= 0 && s.MaxFailed <= 100):
		return invalid("max_failed_percent", "it is 0 to 100")
	case s.MinSample < 1:
		return invalid("min_sample", "it is 1 at least")
	case len(s.Downgrades) > MaxReturns:
		return invalid("downgrades", "there are at most %d", MaxReturns)
	case len(s.Target.Devices) > MaxNames || len(s.Target.Hardware) > MaxNames || len(s.Target.Versions) > MaxNames || len(s.Target.Releases) > MaxNames:
		return invalid("target", "a list has at most %d entries", MaxNames)
	}
	return s.checkStages()
}

func (s Spec) checkStages() error {
	if len(s.Stages) == 0 || len(s.Stages) > MaxStages {
		return invalid("stages", "there are 1 to %d", MaxStages)
	}
	for i, x := range s.Stages {
		field := fmt.Sprintf("stages[%d]", i)
		switch {
		case (x.Percent != 0) == (x.Count != 0):
			return invalid(field, "give percent or count")
		case !(x.Percent >= 0 && x.Percent <= 100) || x.Count < 0:
			return invalid(field, "it is more than 0 and at most 100 percent, or a number of devices")
		case i > 0 && (x.Percent != 0) == (s.Stages[i-1].Percent != 0) && (x.Percent < s.Stages[i-1].Percent || x.Count < s.Stages[i-1].Count):
			return invalid(field, "a stage counts all devices so far: it is not smaller than the one before")
		}
	}
	return nil
}

// Candidate is what the cloud knows of a device that may get a release.
type Candidate struct {
	Device   ecowatt.DeviceID
	Group    string
	Disabled bool
	Known    bool   // it has sent an inventory
	Hardware string // from it
	Version  string // that it runs
	Release  uint64 // that it runs; 0 for one from the workshop
	State    string // of what it runs; empty where it has not said
	Busy     bool   // another rollout is open for it
}

// runs reports whether the device runs the release, for good.
func (c Candidate) runs(release uint64) bool { return c.Release == release && c.State == "confirmed" }

// fits reports whether the target names the device.
func (t Target) fits(c Candidate) bool {
	return (t.Group == "" || t.Group == c.Group) &&
		(len(t.Devices) == 0 || slices.Contains(t.Devices, c.Device)) &&
		(len(t.Hardware) == 0 || slices.Contains(t.Hardware, c.Hardware)) &&
		(len(t.Versions) == 0 || slices.Contains(t.Versions, c.Version)) &&
		(len(t.Releases) == 0 || slices.Contains(t.Releases, c.Release))
}

// skip says why a device that the target names cannot get the release; "" where
// it can, for all that is known here.
func (r Release) skip(c Candidate, back func(from uint64) bool) string {
	switch {
	case c.Disabled:
		return CodeDisabled
	case !c.Known || c.State == "":
		return CodeUnknown
	case c.Busy:
		return CodeBusy
	case !slices.Contains(r.Hardware, c.Hardware):
		return CodeHardware
	case c.runs(r.Number):
		return CodeRuns
	case c.Release > r.Number && !slices.Contains(r.DowngradeFrom, c.Release) && !back(c.Release):
		return CodeNewer
	case c.Release < r.MinFrom:
		return CodeStep
	}
	return ""
}

// Order asks for a rollout.
type Order struct {
	ID   ID
	Spec Spec
	By   string // the operator's name
	At   time.Time
}

// New makes the rollout and the updates of its devices, those that are skipped
// included. back are the releases from which a signed statement lets devices go
// back to this one. Which devices begin is drawn by the id, so that it is not
// always the same ones who try what is new. The error is an *InvalidError.
func New(o Order, release Release, fleet []Candidate, back []uint64) (Rollout, []Update, error) {
	if err := o.Spec.Check(); err != nil {
		return Rollout{}, nil, err
	}
	at := o.At.UTC().Truncate(time.Millisecond)
	r := Rollout{
		ID: o.ID, Spec: o.Spec, Version: release.Version, Number: release.Number, Image: release.Image, Offer: release.offerSize(o.Spec.Downgrades),
		By: o.By, At: at, State: Running, Text: "made by " + o.By, Since: at,
	}
	var chosen, skipped []Update
	for _, c := range fleet {
		if !o.Spec.Target.fits(c) {
			continue
		}
		u := Update{Rollout: r, Device: c.Device, Phase: Waiting, Times: map[Phase]time.Time{Waiting: at}}
		if code := release.skip(c, func(from uint64) bool { return slices.Contains(back, from) }); code != "" {
			u, _ = u.Skipped(code, at)
			skipped = append(skipped, u)
			continue
		}
		chosen = append(chosen, u)
	}
	if len(chosen) == 0 {
		return Rollout{}, nil, invalid("target", "no device is to get it: %d are named, and %s", len(skipped), whyNot(skipped))
	}
	slices.SortFunc(chosen, func(a, b Update) int { return bytes.Compare(lot(o.ID, a.Device), lot(o.ID, b.Device)) })
	for _, s := range o.Spec.Stages {
		before := 0
		if len(r.Sizes) > 0 {
			before = r.Sizes[len(r.Sizes)-1]
		}
		r.Sizes = append(r.Sizes, max(s.size(len(chosen)), before))
	}
	chosen = chosen[:r.Devices()]
	for i := range chosen {
		stage, _ := slices.BinarySearch(r.Sizes, i+1)
		chosen[i].Stage = stage + 1
	}
	all := append(chosen, skipped...)
	for i := range all {
		all[i].Rollout = r
	}
	return r, all, nil
}

// lot is by what the devices of a rollout are put in order.
func lot(id ID, device ecowatt.DeviceID) []byte {
	h := sha256.Sum256(append(id[:], device...))
	return h[:]
}

// whyNot counts the reasons for which devices are skipped.
func whyNot(skipped []Update) string {
	counts, text := map[string]int{}, ""
	for _, u := range skipped {
		counts[u.Code]++
	}
	for _, code := range []string{CodeRuns, CodeNewer, CodeStep, CodeHardware, CodeUnknown, CodeDisabled, CodeBusy} {
		if counts[code] > 0 {
			text += fmt.Sprintf(", %s: %d", code, counts[code])
		}
	}
	if text == "" {
		return "none is there"
	}
	return "all are skipped" + text
}
