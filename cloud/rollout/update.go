package rollout

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"ecowatt"
)

// Codes of what the cloud says of an update by itself. Others are the device's.
const (
	CodeSilent      = "silent"       // overdue: it has not said anything about the release
	CodeOverdue     = "overdue"      // overdue: it has not come to its end
	CodeNoTelemetry = "no_telemetry" // overdue: it has confirmed, and telemetry did not go on
	CodeRuns        = "runs"         // skipped: it runs the release
	CodeNewer       = "newer"        // skipped: it runs a later release, and nothing signed lets it go back
	CodeStep        = "step"         // skipped: another release has to come first
	CodeHardware    = "hardware"     // skipped: the release is not for its board revision
	CodeUnknown     = "unknown"      // skipped: it has not said yet what it is
	CodeDisabled    = "disabled"     // skipped
	CodeBusy        = "busy"         // skipped: another rollout is open for it
	CodeAborted     = "aborted"      // skipped or withdrawn
)

// Update is a release on its way to one device.
type Update struct {
	Rollout Rollout
	Device  ecowatt.DeviceID
	Stage   int // from 1 on

	Phase     Phase
	Code      string // why it is so, for programs; the device's, or one of the Codes
	Text      string // the same for people
	Done, All uint64 // chunks that the device has, and that there are
	Times     map[Phase]time.Time
	Due       time.Time // by the rollout's clock: when it is given up; zero for never
}

// Deadline is when the update is given up; zero for never. While the rollout rests
// it is how things would be if that went on at once.
func (u Update) Deadline() time.Time { return u.Rollout.wall(u.Due) }

// move lets a step happen, and reports whether that changed the phase.
func (u *Update) move(s Step, at time.Time) bool {
	after := u.Phase.After(s)
	if after == u.Phase {
		return false
	}
	u.Phase = after
	times := make(map[Phase]time.Time, len(u.Times)+1)
	maps.Copy(times, u.Times)
	if _, before := times[after]; !before || !after.Open() {
		times[after] = at
	}
	u.Times = times
	u.Code, u.Text = "", ""
	switch {
	case s == Begin:
		u.Due = u.Rollout.Clock(at).Add(u.Rollout.Deadline)
	case s == ReportConfirmed:
		u.Due = u.Rollout.Clock(at).Add(u.Rollout.Soak + u.Rollout.Deadline)
	case !after.Open():
		u.Due = time.Time{}
	}
	return true
}

// Begun is the update once its stage has begun. Where the device runs the release
// meanwhile it is skipped.
func (u Update) Begun(c Candidate, at time.Time) (Update, bool) {
	switch {
	case c.runs(u.Rollout.Number):
		return u.Skipped(CodeRuns, at)
	case c.Disabled:
		return u.Skipped(CodeDisabled, at)
	}
	changed := u.move(Begin, at)
	return u, changed
}

// Skipped is the update once it is known that the device is not to get it.
func (u Update) Skipped(code string, at time.Time) (Update, bool) {
	if !u.move(Skip, at) {
		return u, false
	}
	u.Code = code
	return u, true
}

// Aborted is the update once the rollout is: who has not begun stays out, and who
// is under way is told of the release no more unless it may finish.
func (u Update) Aborted(at time.Time) (Update, bool) {
	if u, changed := u.Skipped(CodeAborted, at); changed {
		return u, true
	}
	if u.Rollout.Finish || !u.move(Withdraw, at) {
		return u, false
	}
	u.Code = CodeAborted
	return u, true
}

// Sent is the update once an answer carries the offer.
func (u Update) Sent(at time.Time) (Update, bool) {
	changed := u.move(Send, at)
	return u, changed
}

// Lapsed is the update once the cloud has given it up, which it does at its
// deadline.
func (u Update) Lapsed(at time.Time) (Update, bool) {
	was, due := u.Phase, u.Due
	if due.IsZero() || u.Rollout.Clock(at).Before(due) || !u.move(Lapse, at) {
		return u, false
	}
	switch was { //nolint:exhaustive // the others are under way
	case Due, Offered:
		u.Code, u.Text = CodeSilent, "it has said nothing about the release until its deadline"
	case Confirmed:
		u.Code, u.Text = CodeNoTelemetry, "it has confirmed, and no telemetry came after that until its deadline"
	default:
		u.Code, u.Text = CodeOverdue, "it was "+string(was)+" at its deadline; its word may still come, and counts"
	}
	return u, true
}

// Report is what a device says of an update. Its words are the device's.
type Report struct {
	Release    Hash
	Phase      string // of the device: see reported
	Done, All  uint64
	Code, Text string
}

// reported is the step of each phase that a device reports. That it confirms is
// believed of what it says to be running, not of this.
func reported(phase string) (Step, bool) {
	s, ok := map[string]Step{
		"offered": ReportOffered, "refused": ReportRefused, "downloading": ReportDownloading, "downloaded": ReportDownloaded,
		"verified": ReportVerified, "switching": ReportSwitching, "trial": ReportTrial, "failed": ReportFailed,
		"rolled_back": ReportRolledBack,
	}[phase]
	return s, ok
}

// Known reports whether the report is one that a device makes.
func (r Report) Known() bool {
	_, ok := reported(r.Phase)
	return ok || r.Phase == "confirmed"
}

// Reported is the update once its device has reported. The first result is
// whether it came into another phase, the second whether anything is to be kept.
func (u Update) Reported(r Report, at time.Time) (next Update, moved, changed bool) {
	step, ok := reported(r.Phase)
	if !ok || r.Release != u.Rollout.Release {
		return u, false, false
	}
	before := u
	moved = u.move(step, at)
	if !moved && u.Phase != told(step) {
		return before, false, false
	}
	u.Done, u.All, u.Code, u.Text = r.Done, r.All, r.Code, r.Text
	return u, moved, moved || u.Done != before.Done || u.All != before.All || u.Code != before.Code || u.Text != before.Text
}

// told is the phase that a report of the step is about.
func told(s Step) Phase {
	switch s { //nolint:exhaustive // these two are not under way
	case ReportRefused:
		return Failed
	case ReportRolledBack:
		return RolledBack
	}
	return s.reports()
}

// Program is what a device says to run, in a request of its own.
type Program struct {
	Image Hash
	State string // "confirmed", "trial" or "rolled_back"
}

// Runs is the update once its device has said what it runs: on trial or confirmed
// it has spoken under the release. Where it ran the release and has gone back, it
// says that too.
func (u Update) Runs(r Program, at time.Time) (Update, bool) {
	var changed bool
	switch {
	case r.Image == u.Rollout.Image && r.State == "confirmed":
		changed = u.move(ReportConfirmed, at)
	case r.Image == u.Rollout.Image && r.State == "trial":
		changed = u.move(ReportTrial, at)
	case r.State == "rolled_back" && u.Phase == Trial:
		if changed = u.move(ReportRolledBack, at); changed {
			u.Text = "it runs what it ran before"
		}
	}
	return u, changed
}

// Measured is the update once telemetry has come that was measured until then: it
// is healthy when that goes on for as long as it must, beyond its confirmation.
// Where telemetry is not wanted, it is enough that the device spoke at that time.
func (u Update) Measured(until, at time.Time) (Update, bool) {
	if u.Phase != Confirmed {
		return u, false
	}
	if u.Rollout.NoTelemetry {
		until = at
	}
	if until.Before(u.Times[Confirmed].Add(u.Rollout.Soak)) {
		return u, false
	}
	changed := u.move(Pass, at)
	return u, changed
}

// Watched reports whether what the device says may change the update.
func (u Update) Watched() bool { return u.Phase.Open() || u.Phase == Overdue || u.Phase == Withdrawn }

// Demand is what the device row says to an exchange: 0 where nothing that it
// says or is told concerns the update, 1 where only what it says does, and else
// the room that the offer takes in an answer, in bytes.
func (u Update) Demand() int64 {
	switch {
	case u.Phase == Waiting || !u.Watched():
		return 0
	case u.Phase.Wants():
		return u.Rollout.Offer
	}
	return 1
}

// Event is how the log names what the update has just become.
func (u Update) Event() string { return "update." + string(u.Phase) }

// Line says for people what it is and what became of it.
func (u Update) Line() string {
	line := fmt.Sprintf("update to %s: %s", u.Rollout.Version, u.Phase)
	if u.Code != "" {
		line += ", " + u.Code
	}
	if u.Text != "" {
		line += ", " + u.Text
	}
	return line
}

// Attrs are the details that the log keeps of what it has just become.
func (u Update) Attrs() map[string]string {
	attrs := map[string]string{"rollout": u.Rollout.ID.String(), "release": u.Rollout.Release.String(), "stage": strconv.Itoa(u.Stage)}
	if u.Code != "" {
		attrs["code"] = u.Code
	}
	if reason := u.reason(); reason != "" {
		attrs["reason"] = reason
	}
	if u.All > 0 {
		attrs["chunks"] = fmt.Sprintf("%d/%d", u.Done, u.All)
	}
	return attrs
}

// reason is the security event that it is (protocol, section 10); "" for none.
func (u Update) reason() string {
	switch u.Phase { //nolint:exhaustive // the others are none by themselves
	case Trial:
		return "FW_TRIAL"
	case Confirmed:
		return "FW_CONFIRMED"
	case RolledBack:
		return "FW_ROLLED_BACK"
	}
	if strings.HasPrefix(u.Code, "FW_") {
		return u.Code
	}
	return ""
}
