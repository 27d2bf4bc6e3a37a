// Package ingest owns what devices send to be kept: telemetry blocks as they
// came, where their samples lie in time, and the rule by which a message takes
// effect once (PROTOCOL sections 6 and 7, rule 5). It stores nothing itself:
// the store keeps a Block and hands it back to Select when someone asks.
package ingest

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"ecowatt"
)

// Query selects samples of one device.
type Query struct {
	Device   ecowatt.DeviceID
	Inverter string    // only this one; empty for all
	From, To time.Time // samples with From <= time < To, to the millisecond; both must be set
	Points   []string  // only these, in this order; empty for all
}

// Part is a run of samples of one inverter that share their points: what a
// query yields, per inverter in the order of time. A sample that was not taken
// is not there, a value that could not be read is a missing one; neither is
// filled in.
type Part struct {
	Inverter string
	Points   []ecowatt.Point  // unit and exponent as the inventory says; name only where it is silent
	Window   int64            // ms: Samples are windows of so much, with the columns of ecowatt.Aggregate; 0 for samples
	Samples  []ecowatt.Sample // At in ms since 1970, none before the one before it
}

// Kind is the kind of a message (PROTOCOL section 4).
type Kind uint64

// The kinds of which this package has something to say.
const (
	KindTelemetry Kind = 1
	KindLog       Kind = 2
	KindInventory Kind = 6
)

// Status is what became of a message (PROTOCOL section 5, key 2).
type Status uint8

// The closed set of statuses, with their numbers on the wire.
const (
	Stored    Status = 0 // took effect now
	Duplicate Status = 1 // took effect before
	Invalid   Status = 2 // never will: the device drops it
	Conflict  Status = 3 // the id is taken by other bytes; the first stays
	Later     Status = 4 // not now: the device keeps it
)

// Message is one message of an accepted request, ready to take effect.
type Message struct {
	ID    [16]byte // names the message for ever, per device
	Hash  [32]byte // Hash of its kind and body
	Kind  Kind
	Block *Block // of KindTelemetry; nil otherwise
}

// Hash is what makes a message the same message: SHA-256 over its kind (8
// bytes, big-endian) and its body as it came.
func Hash(kind Kind, body []byte) [32]byte {
	h := sha256.New()
	var k [8]byte
	binary.BigEndian.PutUint64(k[:], uint64(kind))
	h.Write(k[:])
	h.Write(body)
	return [32]byte(h.Sum(nil))
}

// Known is the rule by which a message whose id the store has already is
// answered: the same bytes are a duplicate, others a conflict.
func Known(stored, offered [32]byte) Status {
	if stored == offered {
		return Duplicate
	}
	return Conflict
}
