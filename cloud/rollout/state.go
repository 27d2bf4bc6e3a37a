package rollout

// State is how a rollout stands:
//
//	            ┌──────────── resumed ───────────┐
//	            v                                │
//	(made) ──> running ──paused──> paused ───────┤
//	            │  │ ──stopped──> stopped ───────┘
//	            │  └──aborted──> aborted <── from paused and stopped too
//	            └──finished──> done
//
// Nobody is told of the release while the rollout rests, which is when it is
// paused or stopped.
type State string

// The closed set of states.
const (
	Running State = "running"
	Paused  State = "paused"  // by an operator
	Stopped State = "stopped" // by itself: too many devices have failed
	Aborted State = "aborted" // for good
	Done    State = "done"    // every stage is over
)

// States lists all states in their order.
func States() []State { return []State{Running, Paused, Stopped, Aborted, Done} }

// Rests reports whether the rollout waits for an operator.
func (s State) Rests() bool { return s == Paused || s == Stopped }

// Over reports whether no further device begins, ever.
func (s State) Over() bool { return s == Aborted || s == Done }

// Event is what happens to a rollout.
type Event string

// The closed set of events.
const (
	Pause  Event = "paused"
	Stop   Event = "stopped"
	Resume Event = "resumed"
	Abort  Event = "aborted"
	Finish Event = "finished"
)

// Events lists all events in their order.
func Events() []Event { return []Event{Pause, Stop, Resume, Abort, Finish} }

// Who causes an event.
type Who string

// The closed set of those who do.
const (
	Operator Who = "operator"
	Cloud    Who = "cloud"
	Device   Who = "device"
)

// By says who may cause the event.
func (e Event) By() Who {
	switch e {
	case Stop, Finish:
		return Cloud
	case Pause, Resume, Abort:
		return Operator
	}
	return Operator
}

// leads is the state to which the event leads.
func (e Event) leads() State {
	switch e {
	case Pause:
		return Paused
	case Stop:
		return Stopped
	case Resume:
		return Running
	case Abort:
		return Aborted
	case Finish:
		return Done
	}
	return ""
}

// After is the table of the states: what a rollout becomes by an event. What
// cannot happen to it leaves it as it is.
func (s State) After(e Event) State {
	may := false
	switch e {
	case Pause, Stop, Finish:
		may = s == Running
	case Resume:
		may = s.Rests()
	case Abort:
		may = !s.Over()
	}
	if may {
		return e.leads()
	}
	return s
}
