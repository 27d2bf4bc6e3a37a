package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// Code says why the cloud answers with an ERR. It is all that a stranger learns.
type Code uint16

// The codes of section 8.
const (
	CodeMalformed   Code = 1 // magic, version, length, flags, or a type that is wrong for the path
	CodeRefused     Code = 2 // every failure of authentication, session and replay: one and the same answer
	CodeBusy        Code = 3
	CodeUnavailable Code = 4 // nothing was stored
	CodeTooLarge    Code = 5
)

// String returns a word for people.
func (c Code) String() string {
	switch c {
	case CodeMalformed:
		return "malformed"
	case CodeRefused:
		return "refused"
	case CodeBusy:
		return "busy"
	case CodeUnavailable:
		return "unavailable"
	case CodeTooLarge:
		return "too large"
	}
	return fmt.Sprintf("code %d", uint16(c))
}

// HTTPStatus returns the status that an ERR of this code is sent with
// (section 8): 500 for a code that there is not.
func (c Code) HTTPStatus() int {
	switch c {
	case CodeMalformed:
		return 400
	case CodeRefused:
		return 401
	case CodeBusy:
		return 429
	case CodeUnavailable:
		return 503
	case CodeTooLarge:
		return 413
	}
	return 500
}

// typeERR stands where other messages have their type.
const typeERR = 0x7f

// ErrorMessage is an ERR (section 1). It is not authenticated: whoever is on the
// way can write one.
//
//	0  2  magic "EW"
//	2  1  version, 1
//	3  1  7F
//	4  2  code
//	6  2  retry_after_s
type ErrorMessage struct {
	Code       Code
	RetryAfter time.Duration // 0 … 65,535 s, in whole seconds; 0 says nothing
}

// Append appends the 8 bytes of the message. RetryAfter is rounded up to whole
// seconds and kept within its range.
func (e ErrorMessage) Append(b []byte) []byte {
	b = append(b, magic0, magic1, Version, typeERR)
	b = binary.BigEndian.AppendUint16(b, uint16(e.Code))
	return binary.BigEndian.AppendUint16(b, uint16(wholeSeconds(e.RetryAfter, math.MaxUint16)))
}

// ParseError reads an ERR of one of the codes above. The error wraps ErrForeign
// or ErrMalformed.
func ParseError(msg []byte) (ErrorMessage, error) {
	if len(msg) < 2 || msg[offMagic] != magic0 || msg[offMagic+1] != magic1 {
		return ErrorMessage{}, ErrForeign
	}
	if len(msg) != ErrorSize || msg[offVersion] != Version || msg[offType] != typeERR {
		return ErrorMessage{}, fmt.Errorf("%w: not an ERR of version %d", ErrMalformed, Version)
	}
	e := ErrorMessage{
		Code:       Code(binary.BigEndian.Uint16(msg[4:])),
		RetryAfter: time.Duration(binary.BigEndian.Uint16(msg[6:])) * time.Second,
	}
	if e.Code < CodeMalformed || e.Code > CodeTooLarge {
		return ErrorMessage{}, fmt.Errorf("%w: no such code", ErrMalformed)
	}
	return e, nil
}

// wholeSeconds rounds d up to whole seconds from 0 to most.
func wholeSeconds(d time.Duration, most int64) int64 {
	s := int64(d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	return min(max(s, 0), most)
}
