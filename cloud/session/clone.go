package session

import (
	"time"

	"ecowatt/wire"
)

// Numbers of the watch for clones (protocol, section 9).
const (
	ReplacedMost   = 3 // living sessions of a device that may be replaced
	ReplacedWithin = time.Hour
)

// Watch is what the cloud remembers of a device so that two which have one key
// give themselves away. Nothing of it keeps anybody out.
type Watch struct {
	Boot     wire.BootID         // in which the device confirmed a session last; zero when it never said
	Replaced [ReplacedMost]int64 // when living sessions were replaced last, ms since 1970, the newest first; 0 for never
}

// Confirmation is what the confirmation of a session says.
type Confirmation struct {
	At       time.Time
	Boot     wire.BootID // of the request; zero when it did not say
	Known    bool        // the device has talked in that boot before
	Replaces bool        // the session took the place of a living one
}

// Suspicion is why it seems that two devices have one key.
type Suspicion string

// The closed set of suspicions. Devices that have one key take turns: each takes
// the session of the other. A device by itself never goes back to a boot that it
// has left, so the first is sure; the second may also be one whose agent keeps
// starting anew, and is what there is where two of them run on one machine.
const (
	Unsuspected   Suspicion = ""
	BootReturned  Suspicion = "boot_returned"
	OftenReplaced Suspicion = "often_replaced"
)

// Confirm judges the confirmation of a session, and returns what to remember.
func (w Watch) Confirm(c Confirmation) (Watch, Suspicion) {
	suspicion := Unsuspected
	if c.Replaces {
		at := c.At.UnixMilli()
		oldest := w.Replaced[ReplacedMost-1]
		if oldest > 0 && oldest <= at && at-oldest < ReplacedWithin.Milliseconds() {
			suspicion = OftenReplaced
		}
		copy(w.Replaced[1:], w.Replaced[:])
		w.Replaced[0] = at
	}
	if c.Boot != (wire.BootID{}) && c.Boot != w.Boot {
		if c.Known {
			suspicion = BootReturned
		}
		w.Boot = c.Boot
	}
	return w, suspicion
}
