package command

import (
	"time"

	"ecowatt"
)

// Lease is a power limit that a device says it keeps.
type Lease struct {
	Command     ID // that ordered it
	Inverter    string
	Percent     float64
	Since       time.Time // when the device said so
	Until       time.Time // when it ends by itself; zero where the device did not know the time
	Overwritten time.Time // when the device found another value than its own; zero for never
	By          string    // the operator who ordered it; empty where the command is not known here
}

// InForce returns for each lease whether it is the one that the inverter is
// limited by: the most restrictive of those that have not ended, and that nobody
// has overwritten.
func InForce(leases []Lease, now time.Time) []bool {
	least := map[string]int{}
	for i, l := range leases {
		if !l.Overwritten.IsZero() || !l.Until.IsZero() && !now.Before(l.Until) {
			continue
		}
		if j, there := least[l.Inverter]; !there || l.Percent < leases[j].Percent {
			least[l.Inverter] = i
		}
	}
	in := make([]bool, len(leases))
	for _, i := range least {
		in[i] = true
	}
	return in
}

// LeaseEvent is what a device's log says of a lease.
type LeaseEvent struct {
	Kind LeaseKind
	Lease
}

// LeaseKind is the code of an entry in a device's log that is about a lease.
type LeaseKind string

// The closed set of kinds.
const (
	LeaseStarted     LeaseKind = "lease_started"
	LeaseEnded       LeaseKind = "lease_ended"
	LeaseOverwritten LeaseKind = "lease_overwritten"
)

// MaxLeases is how many leases of a device are kept; the oldest are forgotten.
const MaxLeases = 64

// Order is one task for each device of a group.
type Order struct {
	ID        ID
	Group     string
	Task      Task // as it was asked for, before it was prepared for a device
	By        string
	At        time.Time
	ExpiresAt time.Time
	Outcomes  []Outcome // by device
}

// Outcome is what became of an order on one device.
type Outcome struct {
	Device  ecowatt.DeviceID
	Command *Command      // nil where it was refused
	Refused *RefusedError // nil where it was queued
}

// Filter selects commands of a device, newest first.
type Filter struct {
	State State // only those in it; empty for all
	After ID    // only those that come after it in the list; zero for all
	Limit int   // at most so many, 0 for the store's limit (1,000)
}
