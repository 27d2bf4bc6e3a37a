package session

import (
	"math"
	"time"

	"ecowatt/key"
)

// KeyState is where a key of a device is in its life (protocol, section 9):
//
//	(nothing) ──ordered──> pending ──used──> active ──a later one used──> retired
//	                          │                 │                            ^
//	                          │ overtaken       │ epoch 1, without burn      │ burned
//	                          v                 v                            │
//	                       retired           recovery ───────────────────────┘
//
// A retired key is destroyed and stays a name that is refused. A pending one that
// was never offered may be cancelled, which deletes it.
type KeyState string

// The closed set of states.
const (
	KeyPending  KeyState = "pending"  // offered, or about to be; the device may use it
	KeyActive   KeyState = "active"   // the device's own; one per device
	KeyRecovery KeyState = "recovery" // the first key, kept for when a device has lost all others
	KeyRetired  KeyState = "retired"  // refused for ever
)

// KeyEvent is what happens to a key.
type KeyEvent string

// The closed set of events.
const (
	KeyUsed      KeyEvent = "used"             // the first request of a session under it is accepted
	KeyReplaced  KeyEvent = "a later one used" // that happened to a key of a later epoch, without burn
	KeyBurned    KeyEvent = "burned"           // the same, with burn
	KeyOvertaken KeyEvent = "overtaken"        // the device holds a later key that the cloud does not know
)

// FactoryEpoch is the epoch of the key in the enrolment file.
const FactoryEpoch key.Epoch = 1

// After returns the state of a key of that epoch after an event. What cannot
// happen in a state leaves it as it is.
func (s KeyState) After(e KeyEvent, epoch key.Epoch) KeyState {
	switch {
	case s == KeyPending && e == KeyUsed:
		return KeyActive
	case s == KeyPending && e == KeyOvertaken:
		return KeyRetired
	case s == KeyActive && e == KeyReplaced && epoch == FactoryEpoch:
		return KeyRecovery
	case s == KeyActive && (e == KeyReplaced || e == KeyBurned):
		return KeyRetired
	case s == KeyRecovery && e == KeyBurned:
		return KeyRetired
	}
	return s
}

// Admits reports whether a handshake with a key of this state is one to answer.
// window is until when an operator lets the device recover, zero for never.
func (s KeyState) Admits(window, now time.Time) bool {
	switch s {
	case KeyPending, KeyActive:
		return true
	case KeyRecovery:
		return now.Before(window)
	case KeyRetired:
		return false
	}
	return false
}

// PendingKey is a key that its device is offered until it uses it.
type PendingKey struct {
	ID      key.ID
	Epoch   key.Epoch
	KEK     string
	Wrapped []byte // bound to the device's name, ID and Epoch
	Burn    bool   // its use destroys all keys before it
	From    time.Time
	Offered bool // it was put into an answer before
}

// Offers reports whether the answers of the session carry Next: not before its
// time, but in a recovery session always, which is for nothing else; and not
// where the device shook hands with it, which is how it says that it has it.
func (s Session) Offers(now time.Time) bool {
	return s.Next != nil && s.Next.Epoch > s.Epoch && (s.Recovery || !now.Before(s.Next.From))
}

// MaxLead is how far the epoch that a device reports may be ahead of the
// session's for the cloud to follow it. Whoever has stolen a key must not be able
// to use up the epochs, after which the key could not be replaced any more.
const MaxLead = 1000

// Fallback judges the epochs that a device reports in a session: the active one,
// and the staged one or 0. back means that it holds a later key than that of the
// session and did not get in with it. renew is the epoch of the key to offer it,
// or 0 where the pending one will do: a cloud that was restored from a time
// before the device's last rotation knows no key that the device would take.
func (s Session) Fallback(active, staged key.Epoch) (back bool, renew key.Epoch) {
	newest := max(active, staged)
	switch {
	case s.Recovery || newest <= s.Epoch:
		return false, 0
	case s.Next != nil && s.Next.Epoch > active:
		return true, 0
	case newest-s.Epoch > MaxLead || newest == math.MaxUint32:
		return true, 0
	}
	return true, newest + 1
}
