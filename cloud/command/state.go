package command

// State is how far a command has come:
//
//	(nothing) ──> queued ──sent──> delivered ──> executing ──> succeeded
//	                │                  │             │     └──> failed
//	                │ cancelled        │ given up    │
//	                v                  v             v
//	            cancelled           expired <────────┘
//
// Whatever the device reports leads on from every state but those that it has
// reported itself.
type State string

// The closed set of states.
const (
	Queued    State = "queued"    // waits for the device to come
	Delivered State = "delivered" // was sent at least once
	Executing State = "executing" // the device says that it has begun
	Succeeded State = "succeeded"
	Failed    State = "failed"    // also what the device rejects, and what has no effect
	Expired   State = "expired"   // not executed in time; or nobody knows, and the code says so
	Cancelled State = "cancelled" // before it was sent
)

// States lists all states in their order.
func States() []State {
	return []State{Queued, Delivered, Executing, Succeeded, Failed, Expired, Cancelled}
}

// Open reports whether the command is still to be sent, or its outcome is
// waited for.
func (s State) Open() bool { return s == Queued || s == Delivered || s == Executing }

// Progress is the state of a command, and whether it stays. The device's last
// word does; what the cloud decides by itself does not, for an answer may have
// reached the device all the same, from a cloud whose backup was then restored.
type Progress struct {
	State State
	Final bool // the device has said how it ended
}

// Event is what happens to a command.
type Event string

// The closed set of events.
const (
	Send            Event = "sent"               // an answer carries it
	Cancel          Event = "cancelled"          // by an operator
	Lapse           Event = "given up"           // by the cloud, when it is due
	ReportExecuting Event = "reported executing" // by the device, as those that follow
	ReportSucceeded Event = "reported succeeded"
	ReportFailed    Event = "reported failed" // or rejected, or no_effect
	ReportExpired   Event = "reported expired"
)

// Events lists all events in their order.
func Events() []Event {
	return []Event{Send, Cancel, Lapse, ReportExecuting, ReportSucceeded, ReportFailed, ReportExpired}
}

// After is the table of the states: what a command becomes by an event. What
// cannot happen to it leaves it as it is.
func (p Progress) After(e Event) Progress {
	if p.Final {
		return p
	}
	switch e {
	case Send:
		if p.State == Queued {
			return Progress{State: Delivered}
		}
	case Cancel:
		if p.State == Queued {
			return Progress{State: Cancelled}
		}
	case Lapse:
		if p.State.Open() {
			return Progress{State: Expired}
		}
	case ReportExecuting:
		return Progress{State: Executing}
	case ReportSucceeded:
		return Progress{State: Succeeded, Final: true}
	case ReportFailed:
		return Progress{State: Failed, Final: true}
	case ReportExpired:
		return Progress{State: Expired, Final: true}
	}
	return p
}

// move lets an event happen and reports whether that changed anything.
func (c *Command) move(e Event) bool {
	after := c.After(e)
	changed := after != c.Progress
	c.Progress = after
	return changed
}
