package wire

import (
	"encoding/binary"
	"errors"
	"fmt"

	"ecowatt/key"
)

// Type is the kind of a message that begins with a Header.
type Type byte

// The types of section 1.
const (
	HS1 Type = 1 // a device asks for a session
	HS2 Type = 2 // the cloud grants it
	REQ Type = 3 // a request of a session
	RSP Type = 4 // the answer to one request
)

// String returns the name in section 1.
func (t Type) String() string {
	switch t {
	case HS1:
		return "HS1"
	case HS2:
		return "HS2"
	case REQ:
		return "REQ"
	case RSP:
		return "RSP"
	}
	return fmt.Sprintf("type %d", byte(t))
}

// Version and Suite1 are the only values of their header fields.
const (
	Version = 1
	Suite1  = 1 // Noise_NNpsk0_25519_ChaChaPoly_SHA256
)

// Where the fields of a header stand.
const (
	offMagic    = 0
	offVersion  = 2
	offType     = 3
	offSuite    = 4
	offFlags    = 5
	offReserved = 6
	offID       = 8
	offCounter  = 24
)

// The two bytes of the magic, "EW".
const (
	magic0 = 'E'
	magic1 = 'W'
)

// Header begins every message but ERR (section 1):
//
//	 0   2  magic "EW"
//	 2   1  version, 1
//	 3   1  type
//	 4   1  suite, 1
//	 5   1  flags, 0
//	 6   2  reserved, 0
//	 8  16  id
//	24   8  counter
//
// HS1 and HS2 carry the id of the key and its epoch in the upper half of the
// counter, 0 in the lower; REQ and RSP the session and the sequence number.
type Header struct {
	Type    Type
	ID      [16]byte
	Counter uint64
}

// Handshake returns the header of an HS1 or HS2.
func Handshake(t Type, id key.ID, epoch key.Epoch) Header {
	return Header{Type: t, ID: id, Counter: uint64(epoch) << 32}
}

// Record returns the header of a REQ or RSP.
func Record(t Type, sid SessionID, seq Sequence) Header {
	return Header{Type: t, ID: sid, Counter: uint64(seq)}
}

// KeyID returns the key that an HS1 or HS2 is about.
func (h Header) KeyID() key.ID { return h.ID }

// Epoch returns the key's epoch in an HS1 or HS2.
func (h Header) Epoch() key.Epoch { return key.Epoch(h.Counter >> 32) }

// Session returns the session of a REQ or RSP.
func (h Header) Session() SessionID { return h.ID }

// Sequence returns the sequence number of a REQ or RSP.
func (h Header) Sequence() Sequence { return Sequence(h.Counter) }

// Append appends the 32 bytes of the header.
func (h Header) Append(b []byte) []byte {
	b = append(b, magic0, magic1, Version, byte(h.Type), Suite1, 0, 0, 0)
	b = append(b, h.ID[:]...)
	return binary.BigEndian.AppendUint64(b, h.Counter)
}

// ParseHeader reads the header at the beginning of msg and checks every field
// of it. The error wraps ErrForeign or ErrMalformed.
func ParseHeader(msg []byte) (Header, error) {
	if len(msg) < 2 || msg[offMagic] != magic0 || msg[offMagic+1] != magic1 {
		return Header{}, ErrForeign
	}
	if len(msg) < HeaderSize {
		return Header{}, fmt.Errorf("%w: shorter than a header", ErrMalformed)
	}
	h := Header{
		Type:    Type(msg[offType]),
		ID:      [16]byte(msg[offID:offCounter]),
		Counter: binary.BigEndian.Uint64(msg[offCounter:HeaderSize]),
	}
	switch {
	case msg[offVersion] != Version:
		return Header{}, fmt.Errorf("%w: version", ErrMalformed)
	case h.Type < HS1 || h.Type > RSP:
		return Header{}, fmt.Errorf("%w: type", ErrMalformed)
	case msg[offSuite] != Suite1:
		return Header{}, fmt.Errorf("%w: suite", ErrMalformed)
	case msg[offFlags] != 0:
		return Header{}, fmt.Errorf("%w: flags", ErrMalformed)
	case msg[offReserved] != 0 || msg[offReserved+1] != 0:
		return Header{}, fmt.Errorf("%w: reserved bytes", ErrMalformed)
	case h.Type <= HS2 && uint32(h.Counter) != 0:
		return Header{}, fmt.Errorf("%w: reserved half of the counter", ErrMalformed)
	case h.Type >= REQ && (h.Sequence() < 1 || h.Sequence() > MaxSequence):
		return Header{}, fmt.Errorf("%w: sequence number", ErrMalformed)
	}
	return h, nil
}

// Parse reads the header of msg, which must be a whole message of type want and
// of a length that such a message can have. The error wraps ErrForeign,
// ErrMalformed or ErrTooLarge.
func Parse(msg []byte, want Type) (Header, error) { return ParseStart(msg, want, len(msg)) }

// ParseStart is Parse for a message of which only the start has come, and which
// will have length bytes.
func ParseStart(start []byte, want Type, length int) (Header, error) {
	h, err := ParseHeader(start)
	if err != nil {
		return Header{}, err
	}
	if h.Type != want {
		return Header{}, fmt.Errorf("%w: %v where %v is expected", ErrMalformed, h.Type, want)
	}
	if want == REQ && length > MaxRequest {
		return Header{}, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxRequest)
	}
	if !fits(want, length) {
		return Header{}, fmt.Errorf("%w: %d bytes are no length of %v", ErrMalformed, length, want)
	}
	return h, nil
}

func fits(t Type, n int) bool {
	switch t {
	case HS1:
		return n == HS1Size
	case HS2:
		return n >= HS2MinSize && n <= HS2MaxSize
	case REQ:
		return n > RequestOverhead && (n-RequestOverhead)%PadUnit == 0
	case RSP:
		return n > AnswerOverhead && (n-AnswerOverhead)%PadUnit == 0
	}
	return false
}

// RequestRoom returns the longest body of a request whose message has at most
// limit bytes; negative when there is none.
func RequestRoom(limit int) int { return room(min(limit, MaxRequest) - RequestOverhead) }

// AnswerRoom returns the longest body of an answer whose message has at most
// limit bytes; negative when there is none.
func AnswerRoom(limit int) int { return room(limit - AnswerOverhead) }

func room(plain int) int { return max(plain, 0)/PadUnit*PadUnit - lengthSize }

// CodeOf returns the code of the ERR that answers a message which Parse refused.
func CodeOf(err error) Code {
	if errors.Is(err, ErrTooLarge) {
		return CodeTooLarge
	}
	return CodeMalformed
}
