// Package audit is the one log of what people did to the fleet and of what
// devices reported: an append-only table with a single door, the store's
// Append, which writes a record in the transaction of the change it tells of. A
// change that is rolled back leaves no record, and none is made without one
// (row L1). This package owns what a record is.
package audit

import (
	"time"

	"ecowatt"
)

// ActorKind says who caused a record.
type ActorKind string

// The closed set of actors.
const (
	Operator ActorKind = "operator" // a person or program with a token; Name is the token's name
	Device   ActorKind = "device"   // the device itself, over its session; Name is its id
	System   ActorKind = "system"   // the cloud by itself; Name is the duty
)

// Actor is who caused a record.
type Actor struct {
	Kind ActorKind `json:"kind"`
	Name string    `json:"name"`
}

// Record is one line of the log.
type Record struct {
	N      int64             `json:"n"` // 1, 2, 3 …: given by Append
	At     time.Time         `json:"at"`
	Actor  Actor             `json:"actor"`
	Device ecowatt.DeviceID  `json:"device,omitempty"` // whom it concerns; empty for the fleet
	Action string            `json:"action"`           // closed vocabulary, "noun.verb": "device.added", "session.confirmed"
	Text   string            `json:"text"`             // one line for people
	Attrs  map[string]string `json:"attrs,omitempty"`  // details for programs
}

// AttrReason names the attribute that makes a record one of a security event: its
// value is the reason code (docs/protocol.md section 10).
const AttrReason = "reason"

// Filter selects records.
type Filter struct {
	Device   ecowatt.DeviceID // only those of this device; empty for all
	Security bool             // only those of security events
	After    int64            // only those with a greater N
	Last     int              // the newest so many of those selected, 0 for no such limit
	Limit    int              // at most so many, oldest first, 0 for the store's limit (1,000)
}
