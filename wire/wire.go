// Package wire is the EcoWatt protocol, version 1, as values and bytes: the
// header that every message begins with, the answer to what is refused, the
// limits, and the bodies inside the seal. docs/protocol.md is its contract.
//
// It reads nothing and keeps nothing. The seal itself is made in wire/noise
// (the handshake) and wire/record (requests and answers).
package wire

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Errors of this package. What wraps them says what was wrong without repeating
// the bytes of the peer.
var (
	// ErrForeign says that bytes do not begin as a message of EcoWatt does: the
	// page of a captive portal, say. A device takes them for no answer at all.
	ErrForeign = errors.New("not an ecowatt message")
	// ErrMalformed says that a message of EcoWatt is not as section 1 of the
	// protocol wants it: version, type, suite, flags, length. See Malformed.
	ErrMalformed = errors.New("malformed message")
	// ErrTooLarge says that a request is longer than MaxRequest.
	ErrTooLarge = errors.New("message too large")
	// ErrSchema says that what was inside a valid seal is not what section 3 to
	// 6 of the protocol allow.
	ErrSchema = errors.New("body not as the protocol wants it")
)

// HTTP names of the protocol (section 1).
const (
	ContentType  = "application/vnd.ecowatt.v1"
	PathSession  = "/v1/session"
	PathExchange = "/v1/exchange"
)

// Sizes of section 1, in bytes.
const (
	HeaderSize      = 32
	HS1Size         = HeaderSize + 32 + 16      // header, e, tag
	HS2MinSize      = HS1Size + WelcomeSize     // the payload is at least a Welcome
	HS2MaxSize      = 4 << 10                   // our bound on what a later version may add
	RequestOverhead = HeaderSize + 16 + 32      // header, tag, HMAC
	AnswerOverhead  = HeaderSize + 16 + 16 + 32 // header, salt, tag, HMAC
	ErrorSize       = 8
	PadUnit         = 64 // a plaintext is a multiple of it
)

// Limits of the protocol.
const (
	MaxRequest    = 256 << 10 // a whole REQ, bytes
	MaxAnswer     = 256 << 10 // a whole RSP that our device takes, bytes
	DefaultAnswer = 16 << 10  // a whole RSP for a device that does not say what it takes, bytes

	MaxSequence        Sequence = 1 << 62 // of any REQ
	MaxSessionRequests Sequence = 1 << 20 // of a session; then a new handshake
	MaxSessionAge               = 48 * time.Hour

	// AnswerTime is how long a device waits; a later answer is none (section 8).
	AnswerTime = 30 * time.Second

	maxDepth = 8    // arrays and maps inside one another
	maxArray = 4096 // elements
	maxMap   = 64   // pairs
)

// SessionID names a session in the header of its messages: sid of section 2.
type SessionID [16]byte

// String returns 32 hexadecimal digits.
func (id SessionID) String() string { return hex.EncodeToString(id[:]) }

// Sequence numbers the requests of a session, from 1.
type Sequence uint64

// BootID names one start of a device; times since boot are relative to it.
type BootID [16]byte

// String returns 32 hexadecimal digits.
func (id BootID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText is String.
func (id BootID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads 32 hexadecimal digits.
func (id *BootID) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(id) {
		return fmt.Errorf("a boot id has %d hexadecimal digits", 2*len(id))
	}
	*id = BootID(b)
	return nil
}

// MessageID names a message for ever: the same id is the same bytes.
type MessageID [16]byte

// String returns 32 hexadecimal digits.
func (id MessageID) String() string { return hex.EncodeToString(id[:]) }

// CommandID names a command.
type CommandID [16]byte

// String returns 32 hexadecimal digits.
func (id CommandID) String() string { return hex.EncodeToString(id[:]) }
