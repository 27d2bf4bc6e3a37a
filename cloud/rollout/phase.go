package rollout

// Phase is how far the update of a device is:
//
//	waiting ──> due ──> offered ──> downloading ──> downloaded ──> verified ──> switching ──> trial
//	                                     └── retrying <──┘                                      │
//	                                                                        healthy <── confirmed
//
//	skipped, withdrawn: nothing was wanted of the device any more
//	failed, rolled_back: says the device          overdue: says the cloud, by the deadline
//
// A device reports where it is, and may go through the phases before switching
// again, as after a restart.
type Phase string

// The closed set of phases.
const (
	Waiting     Phase = "waiting" // its stage has not begun
	Due         Phase = "due"     // the next answer tells it of the release
	Offered     Phase = "offered" // it was told
	Downloading Phase = "downloading"
	Downloaded  Phase = "downloaded"
	Verified    Phase = "verified"  // the image is in its slot
	Retrying    Phase = "retrying"  // it did not work, and is tried again
	Switching   Phase = "switching" // the device makes way for the image
	Trial       Phase = "trial"     // the image runs
	Confirmed   Phase = "confirmed" // the image has spoken, and stays
	Healthy     Phase = "healthy"   // and telemetry goes on

	Failed     Phase = "failed"      // it refuses the release, or has given it up
	RolledBack Phase = "rolled_back" // it runs what it ran before
	Overdue    Phase = "overdue"     // it was not healthy until its deadline
	Skipped    Phase = "skipped"     // it was not to get it
	Withdrawn  Phase = "withdrawn"   // the rollout was aborted on its way
)

// Phases lists all phases in their order.
func Phases() []Phase {
	return []Phase{
		Waiting, Due, Offered, Downloading, Downloaded, Verified, Retrying, Switching, Trial, Confirmed, Healthy,
		Failed, RolledBack, Overdue, Skipped, Withdrawn,
	}
}

// Open reports whether something is still to come.
func (p Phase) Open() bool { return p == Waiting || p.underWay() || p == Confirmed }

// underWay reports whether the device has begun, or may begin any time, and has not
// confirmed.
func (p Phase) underWay() bool { return p == Due || p.Wants() || p == Trial }

// Wants reports whether the device is to be told of the release in each answer; of
// one that is due, in the next one for the first time.
func (p Phase) Wants() bool {
	switch p { //nolint:exhaustive // the others are before or after it
	case Offered, Downloading, Downloaded, Verified, Retrying, Switching:
		return true
	}
	return p == Due
}

// Failure reports whether the update counts as failed.
func (p Phase) Failure() bool { return p == Failed || p == RolledBack || p == Overdue }

// Step is what happens to the update of a device.
type Step string

// The closed set of steps.
const (
	Begin    Step = "begins"    // its stage does
	Send     Step = "sent"      // an answer carries the offer
	Lapse    Step = "given up"  // by the cloud, at its deadline
	Skip     Step = "skipped"   // it needs no update, or the rollout was aborted
	Withdraw Step = "withdrawn" // the rollout was aborted
	Pass     Step = "healthy"   // telemetry has gone on for as long as it must

	ReportOffered     Step = "reported offered"
	ReportDownloading Step = "reported downloading"
	ReportDownloaded  Step = "reported downloaded"
	ReportVerified    Step = "reported verified"
	ReportFailed      Step = "reported failed" // it tries again by itself
	ReportSwitching   Step = "reported switching"
	ReportTrial       Step = "runs it on trial"
	ReportConfirmed   Step = "runs it confirmed"
	ReportRefused     Step = "reported refused"
	ReportRolledBack  Step = "reported rolled_back"
)

// Steps lists all steps in their order.
func Steps() []Step {
	return []Step{
		Begin, Send, Lapse, Skip, Withdraw, Pass, ReportOffered, ReportDownloading, ReportDownloaded, ReportVerified,
		ReportFailed, ReportSwitching, ReportTrial, ReportConfirmed, ReportRefused, ReportRolledBack,
	}
}

// By says who may cause the step. What an operator wants of a device he wants by
// aborting the rollout, which the cloud then carries out.
func (s Step) By() Who {
	switch s {
	case Begin, Send, Lapse, Skip, Withdraw:
		return Cloud
	case Pass, ReportOffered, ReportDownloading, ReportDownloaded, ReportVerified, ReportFailed, ReportSwitching,
		ReportTrial, ReportConfirmed, ReportRefused, ReportRolledBack:
		return Device
	}
	return Device
}

// After is the table of the phases: what becomes of an update by a step. What
// cannot happen in a phase leaves it as it is.
func (p Phase) After(s Step) Phase {
	switch s {
	case Begin:
		return when(p == Waiting, Due, p)
	case Send:
		return when(p == Due, Offered, p)
	case Skip:
		return when(p == Waiting || p == Due, Skipped, p)
	case Withdraw:
		return when(p.Wants() && p != Due && p != Switching, Withdrawn, p)
	case Lapse:
		return when(p.underWay() || p == Confirmed, Overdue, p)
	case Pass:
		return when(p == Confirmed, Healthy, p)
	case ReportConfirmed: // the device's last word, also where it was given up
		return when(p.begun() && p != Healthy, Confirmed, p)
	case ReportRolledBack:
		return when(p.begun() && p != Healthy, RolledBack, p)
	case ReportRefused:
		return when(p.underWay() || p == Overdue, Failed, p)
	case ReportOffered, ReportDownloading, ReportDownloaded, ReportVerified, ReportFailed, ReportSwitching, ReportTrial:
		return when(p.underWay() && p != Trial, s.reports(), p) // what comes after that was said before it
	}
	return p
}

// begun reports whether the device may have heard of the release.
func (p Phase) begun() bool { return p != Waiting && p != Skipped }

// reports is the phase of which a device tells by the step.
func (s Step) reports() Phase {
	switch s { //nolint:exhaustive // the others lead to different phases
	case ReportOffered:
		return Offered
	case ReportDownloading:
		return Downloading
	case ReportDownloaded:
		return Downloaded
	case ReportVerified:
		return Verified
	case ReportFailed:
		return Retrying
	case ReportSwitching:
		return Switching
	}
	return Trial
}

func when(happens bool, then, otherwise Phase) Phase {
	if happens {
		return then
	}
	return otherwise
}
