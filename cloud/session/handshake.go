package session

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"ecowatt"
	"ecowatt/key"
	"ecowatt/wire"
)

// Numbers of section 7 of the protocol.
const (
	PendingTime = 120 * time.Second // for which a session waits for its first request
	MaxPending  = 8                 // sessions of a device that wait; the oldest give way
	SeenKept    = 512               // HS1 remembered per device and epoch; the oldest are forgotten

	meanLifetime = 24 * time.Hour
	lifetimeRoom = meanLifetime / 10 // up and down
)

// Hash is what an HS1 is remembered by.
func Hash(hs1 []byte) [sha256.Size]byte { return sha256.Sum256(hs1) }

// DrawLifetime returns for how long a device may use a session: 24 h, up to a
// tenth more or less, so that a fleet that connects at once does not do so again
// every day. Whole seconds. random must be a cryptographic source.
func DrawLifetime(random io.Reader) (time.Duration, error) {
	var b [8]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return 0, fmt.Errorf("drawing a lifetime: %w", err)
	}
	const steps = uint64(2*lifetimeRoom/time.Second) + 1
	return meanLifetime - lifetimeRoom + time.Duration(binary.BigEndian.Uint64(b[:])%steps)*time.Second, nil
}

// Age returns for how long a confirmed session is honoured: the lifetime that
// the device was told and the time that HS2 and the last request may take on
// their way, so that no honest request meets a session that is gone.
func Age(lifetime time.Duration) time.Duration {
	return min(lifetime+2*wire.AnswerTime, wire.MaxSessionAge)
}

// Credential is what the store knows of a key by which a device may shake hands.
type Credential struct {
	Device  int64            // row of the device in the store
	Name    ecowatt.DeviceID // of the device
	ID      key.ID
	Epoch   key.Epoch
	KEK     string
	Wrapped []byte // bound to Name, ID and Epoch; empty once it is retired
	Standing
}

// Standing is what there is to hold against a handshake with a key, whoever
// begins it.
type Standing struct {
	Key      KeyState
	Window   time.Time // until when the device may recover; zero for never
	Disabled bool      // the device is
}

// Check returns ErrRetired for a key that is refused, else ErrBarred for a device
// that is, else nil.
func (s Standing) Check(now time.Time) error {
	switch {
	case !s.Key.Admits(s.Window, now):
		return ErrRetired
	case s.Disabled:
		return ErrBarred
	}
	return nil
}

// Recovery reports whether a session with the key is a recovery session.
func (s Standing) Recovery() bool { return s.Key == KeyRecovery }

// Limit bounds how long a session with the key lasts, from now, by the window
// that lets it in.
func (s Standing) Limit(d time.Duration, now time.Time) time.Duration {
	if !s.Recovery() {
		return d
	}
	return min(d, s.Window.Sub(now))
}

// Past is what the store knows of a device when an HS1 arrives that was made
// with its key.
type Past struct {
	Standing
	Seen    bool   // an HS1 of these bytes was accepted before
	Pending []byte // its HS2, while the session that came of it is pending; else nil
	Due     bool   // a later key is to be offered
	Bucket  Bucket
}

// Admit is the rule by which an HS1 that was made with the right key gets an
// answer. again is the HS2 to repeat: nothing changes then. Otherwise a nil
// error grants a session, and next is the device's bucket after it. The error
// is ErrRetired, ErrBarred, ErrReplay or a *BusyError; a repeated HS1 finds out
// before it costs the device anything, so an old recording cannot lock a device
// out.
func (p Past) Admit(now time.Time) (again []byte, next Bucket, err error) {
	if err := p.Check(now); err != nil {
		return nil, p.Bucket, err
	}
	switch {
	case p.Pending != nil:
		return p.Pending, p.Bucket, nil
	case p.Seen:
		return nil, p.Bucket, ErrReplay
	}
	next, err = p.Bucket.Take(now)
	return nil, next, err
}

// Bucket limits the handshakes of a device: one a minute, five in a burst. A
// device that is restarted a few times in a row stays within it. It is the time,
// in ms since 1970, at which everything taken so far is given back (the generic
// cell rate algorithm); the zero Bucket is full.
type Bucket int64

const (
	bucketRefill = time.Minute
	bucketSize   = 5
	clockStep    = 5 * time.Minute // further back, and the bucket is full again
)

// BusyError says that a device has to wait before it may shake hands.
type BusyError struct{ RetryAfter time.Duration }

func (e *BusyError) Error() string {
	return fmt.Sprintf("too many handshakes; the next one in %v", e.RetryAfter)
}

// Take takes one handshake from the bucket. The error is a *BusyError.
func (b Bucket) Take(now time.Time) (Bucket, error) {
	at, refill := now.UnixMilli(), bucketRefill.Milliseconds()
	full := at + bucketSize*refill
	owed := max(int64(b), at)
	if owed > full+clockStep.Milliseconds() {
		owed = at // our clock was put back, which is nothing to lock a device out for
	}
	if wait := owed + refill - full; wait > 0 {
		return b, &BusyError{RetryAfter: time.Duration(wait) * time.Millisecond}
	}
	return Bucket(owed + refill), nil
}

// HandshakeReason returns the name of the security event that the refusal of a
// handshake is, or "" for an error that is none of this package's: then
// something of our own failed.
func HandshakeReason(err error) wire.Reason {
	var busy *BusyError
	switch {
	case errors.As(err, &busy):
		return wire.HandshakeRate
	case errors.Is(err, ErrUnknown):
		return wire.HandshakeUnknownID
	case errors.Is(err, ErrRetired):
		return wire.HandshakeOldEpoch
	case errors.Is(err, ErrBarred):
		return wire.HandshakeDisabled
	case errors.Is(err, ErrReplay):
		return wire.HandshakeReplay
	}
	return ""
}

// ExchangeReason is HandshakeReason for the refusal of a request.
func ExchangeReason(err error) wire.Reason {
	switch {
	case errors.Is(err, ErrUnknown):
		return wire.ExchangeNoSession
	case errors.Is(err, ErrReplay):
		return wire.ExchangeReplay
	case errors.Is(err, ErrExpired):
		return wire.SessionExpired
	}
	return ""
}
