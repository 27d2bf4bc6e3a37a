package config

import (
	"time"

	"ecowatt"
)

// State is how far a device is with what is desired of it.
type State string

// The states.
const (
	InForce  State = "in_force" // also where nothing is desired
	Pending  State = "pending"  // it has not answered, or what is desired of it is still being worked out
	Drifted  State = "drifted"  // it has answered, and does not have all of it
	Disabled State = "disabled" // it is not let in, and so is not told
)

// Member is a device that a group or a template concerns, and how far it is.
type Member struct {
	ID          ecowatt.DeviceID
	State       State
	Revision    uint64    // of what is desired; 0: nothing ever was
	DeliveredAt time.Time // first sent; zero: not yet
	AnsweredAt  time.Time // zero: not yet
	Outcome     Outcome   // of the answer to that revision
}

// Progress is how far those are that a group or a template concerns.
type Progress struct {
	Counts  map[State]int // of all of them
	Members []Member      // a page, by id
}
