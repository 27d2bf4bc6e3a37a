package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// WelcomeFlags tell a device what is waiting for it.
type WelcomeFlags uint16

// The flags of section 2. Others are ignored.
const (
	RotationPending WelcomeFlags = 1
	FirmwareOffered WelcomeFlags = 2
	RecoverySession WelcomeFlags = 4
)

// WelcomeSize is the length of a Welcome in bytes.
const WelcomeSize = 24

// Welcome is the payload of HS2 (section 2):
//
//	 0  8  server time, ms since 1970
//	 8  4  session lifetime, s
//	12  4  largest request, bytes
//	16  2  slot period hint, s
//	18  2  flags
//	20  4  newest root version
type Welcome struct {
	ServerTime  int64         // ms since 1970, not negative
	Lifetime    time.Duration // of the session; whole seconds, up to 2^32−1
	MaxRequest  uint32        // a whole REQ, bytes
	SlotHint    time.Duration // between two exchanges; whole seconds, up to 65,535
	Flags       WelcomeFlags
	RootVersion uint32 // newest root of trust for firmware that the cloud knows
}

// Append appends the 24 bytes. Durations are rounded up to whole seconds and
// kept within their range.
func (w Welcome) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(max(w.ServerTime, 0)))
	b = binary.BigEndian.AppendUint32(b, uint32(wholeSeconds(w.Lifetime, math.MaxUint32)))
	b = binary.BigEndian.AppendUint32(b, w.MaxRequest)
	b = binary.BigEndian.AppendUint16(b, uint16(wholeSeconds(w.SlotHint, math.MaxUint16)))
	b = binary.BigEndian.AppendUint16(b, uint16(w.Flags))
	return binary.BigEndian.AppendUint32(b, w.RootVersion)
}

// ParseWelcome reads the first 24 bytes; what follows them belongs to later
// versions. The error wraps ErrSchema.
func ParseWelcome(payload []byte) (Welcome, error) {
	if len(payload) < WelcomeSize {
		return Welcome{}, fmt.Errorf("%w: a welcome of %d bytes", ErrSchema, len(payload))
	}
	at := binary.BigEndian.Uint64(payload)
	if at > math.MaxInt64 {
		return Welcome{}, fmt.Errorf("%w: server time out of range", ErrSchema)
	}
	return Welcome{
		ServerTime:  int64(at),
		Lifetime:    time.Duration(binary.BigEndian.Uint32(payload[8:])) * time.Second,
		MaxRequest:  binary.BigEndian.Uint32(payload[12:]),
		SlotHint:    time.Duration(binary.BigEndian.Uint16(payload[16:])) * time.Second,
		Flags:       WelcomeFlags(binary.BigEndian.Uint16(payload[18:])),
		RootVersion: binary.BigEndian.Uint32(payload[20:]),
	}, nil
}
