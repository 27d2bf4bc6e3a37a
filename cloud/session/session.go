// Package session owns the rules of handshakes and sessions in the cloud
// (protocol, section 7): which HS1 gets a session, how many sessions of a device
// may wait and for how long, when a session ends, and which request of it is
// accepted. The store applies them, to what it reads and again within the
// transaction that counts; the gateway does the cryptography.
//
//	            HS1 accepted            first REQ accepted
//	(nothing) ───────────────> pending ────────────────────> active
//	                              │                             │
//	                              │ 120 s, 8 newer ones         │ its lifetime, 2^20 requests,
//	                              │ or a later one active       │ or a later one active
//	                              └──────────> gone <───────────┘
//
// A session that is gone is deleted, and its keys with it. Disabling a device
// ends all of its sessions; the use of a new key ends those under the keys before
// it; the end of a recovery window ends those that it let in.
//
// The package owns the life of a device's keys as well (section 9): see KeyState.
package session

import (
	"errors"
	"time"

	"ecowatt"
	"ecowatt/key"
	"ecowatt/wire"
)

// Errors by which a handshake or a request is refused. A peer is told none of
// them: all look the same to it.
var (
	ErrUnknown = errors.New("no such key or session")
	ErrBarred  = errors.New("the device is disabled")
	ErrRetired = errors.New("the key was replaced")
	ErrReplay  = errors.New("accepted before, or older than what was accepted")
	ErrExpired = errors.New("the session is too old, or used up")
)

// Sequence numbers the requests of a session.
type Sequence = wire.Sequence

// Session is what the store knows of a session.
type Session struct {
	SID       wire.SessionID
	Device    int64            // row of the device in the store
	Name      ecowatt.DeviceID // of the device
	Epoch     key.Epoch
	Handshake int64 // number of the handshake it came from, counted per device
	Pending   bool  // no request of it was accepted yet
	Recovery  bool  // it carries nothing but the offer of a key
	LastSeq   Sequence
	Expires   time.Time
	KEK       string // names the key-encryption key of Wrapped
	Wrapped   []byte // the session's keys, bound to Name and SID

	Next     *PendingKey   // of the device; nil where no rotation is pending
	Commands int64         // of the device that are not over
	Config   int64         // what the configuration takes in an answer that the device has not answered yet, in bytes; 0 for none
	Slot     time.Duration // the upload interval that the device has from here; 0 for its own
	Rollout  int64         // of rollouts: 0 where none concerns the device, 1 where what it says does, else what the offer takes in an answer, in bytes
}

// Check is the rule by which a request is accepted: the session lives, and the
// number is beyond all that were accepted before. Between one look at a session
// and the next only the time and LastSeq change, and both only grow: what is
// refused once stays refused, and what is accepted counts only in the
// transaction that raises LastSeq. The error is ErrExpired or ErrReplay.
func (s Session) Check(seq Sequence, now time.Time) error {
	switch {
	case !now.Before(s.Expires) || seq > wire.MaxSessionRequests:
		return ErrExpired
	case seq <= s.LastSeq:
		return ErrReplay
	}
	return nil
}

// Claim asks for a request to be accepted.
type Claim struct {
	Session Session // as it was read before the request was opened
	Seq     Sequence
	At      time.Time
	Boot    wire.BootID // in which the device made it; zero where it did not say

	// Offer says that the answer will have room for a pending key.
	Offer bool
	// Early says that Session.Next is to be offered although its time has not come:
	// the device went back to an earlier key, and that is the next one it takes.
	Early bool
	// Renewal is to be the pending key of the device in the place of Session.Next,
	// when this confirms the session. Nil for none; see Session.Fallback.
	Renewal *PendingKey
}

// Raised says what the acceptance of a request did.
type Raised struct {
	Before     Sequence // the number accepted before this one, 0 for none
	Confirmed  bool     // the session was pending and is active now
	Superseded bool     // that ended a session which was active and had not expired

	Clone Suspicion // what its confirmation says of who has the key

	Committed bool      // the session's key was pending and is the device's active one now
	Replaced  key.Epoch // the one that was active before, with Committed
	Burned    bool      // with Committed: no earlier key is left
	Recovered bool      // with Committed: that closed a recovery window
	Renewed   bool      // Claim.Renewal is pending now
	Offers    bool      // the pending key belongs into the answer: Claim.Renewal where Renewed, else Session.Next
	OffersNew bool      // it does for the first time

	Commands int64 // of the device that are not over, in this transaction
	Config   int64 // as Session.Config, in this transaction
	Rollout  int64 // as Session.Rollout, in this transaction
}

// Gap returns how many numbers were left out before seq.
func (r Raised) Gap(seq Sequence) uint64 { return uint64(seq - r.Before - 1) }

// Offer is a session ready to be stored: the cloud has done its half of the
// handshake, on the condition that the store admits it (Past.Admit).
type Offer struct {
	KeyID    key.ID
	HS1      [32]byte // Hash of the bytes of HS1
	HS2      []byte   // the answer to them
	SID      wire.SessionID
	KEK      string
	Wrapped  []byte
	At       time.Time
	Lifetime time.Duration // from At, as the device was told
	Recovery bool          // the device was told that it is a recovery session
}
