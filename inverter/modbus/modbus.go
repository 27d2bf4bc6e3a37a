// Package modbus speaks Modbus as a client and as a server: the four functions
// that read and write registers, over a serial line, over TCP and, to the
// original simulator, over HTTP.
//
// What is said (the protocol data unit, pdu.go) knows nothing of how it is
// carried: with a header of its own in Modbus TCP (mbap.go), in an RTU frame
// (rtu.go) elsewhere. A Client is the same for all connections, and its framing
// knows which answer is meant for which request. A Client's Do and a Server's
// Handler have the same form: a client can serve as the handler of a proxy.
//
// Each kind of repetition has one place:
//
//   - A Client repeats nothing, but replaces a connection that has ended before
//     it sends a request.
//   - A Bus repeats what a busy unit refused, decides how soon a failed unit or
//     line is tried again, and refuses requests until then.
//   - Who asks decides whether a request that was not answered, or not
//     understood, is worth another try. For readings this is agent/acquire, which
//     knows how much time there is, and also divides blocks that are refused. A
//     write that may have been carried out must not be repeated by itself:
//     NotExecuted tells.
//
// Clauses are those of the "Modbus Application Protocol Specification V1.1b3",
// where it says MBAP of the "Modbus Messaging on TCP/IP Implementation Guide
// V1.0b", and where it says so of "Modbus over Serial Line V1.02" (all
// modbus.org).
package modbus

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Function says what a request is for (V1.1b3, section 6).
type Function byte

// The functions that are spoken here.
const (
	ReadHolding   Function = 0x03
	ReadInput     Function = 0x04
	WriteSingle   Function = 0x06
	WriteMultiple Function = 0x10
)

// Limits of the protocol: the largest number of registers that fit into a
// protocol data unit of 253 bytes (V1.1b3, sections 4.1, 6.3 and 6.12).
const (
	MaxRead  = 125
	MaxWrite = 123
	maxPDU   = 253
)

// Request asks a unit to read or to write registers.
type Request struct {
	Unit     byte
	Function Function
	Address  uint16   // wire address of the first register, counted from 0
	Count    uint16   // registers to read, 1 … MaxRead; 0 when writing
	Values   []uint16 // words to write, 1 … MaxWrite, one for WriteSingle; nil when reading
	Pace     Pace     // that the unit needs; only who asks has a use for it
}

// Pace is the time that a unit needs. Zero is what a client and a bus keep to with
// all units; a Gap and a Connect that are longer there hold too.
type Pace struct {
	Connect time.Duration // from a connection to the first request
	Gap     time.Duration // from the end of a request to the begin of the unit's next
	Timeout time.Duration // of connecting, and then of an answer
}

// Quantity is the number of registers that r is about.
func (r Request) Quantity() int { return max(int(r.Count), len(r.Values)) }

func (r Request) String() string {
	verb := "reading"
	switch r.Function {
	case WriteSingle, WriteMultiple:
		verb = "writing"
	case ReadHolding, ReadInput:
	}
	return fmt.Sprintf("%s %d registers at %d of unit %d (function %02x)", verb, r.Quantity(), r.Address, r.Unit, byte(r.Function))
}

// Check says why r cannot be sent; nil when it can.
func (r Request) Check() error {
	n := r.Quantity()
	switch r.Function {
	case ReadHolding, ReadInput:
		if r.Values != nil || n < 1 || n > MaxRead {
			return fmt.Errorf("%w: %v: 1 to %d can be read", ErrRequest, r, MaxRead)
		}
	case WriteSingle:
		if r.Count != 0 || n != 1 {
			return fmt.Errorf("%w: %v: this function writes one", ErrRequest, r)
		}
	case WriteMultiple:
		if r.Count != 0 || n < 1 || n > MaxWrite {
			return fmt.Errorf("%w: %v: 1 to %d can be written", ErrRequest, r, MaxWrite)
		}
	default:
		return fmt.Errorf("%w: function %02x is none of 03, 04, 06 and 10", ErrRequest, byte(r.Function))
	}
	if int(r.Address)+n > 1<<16 {
		return fmt.Errorf("%w: %v: they end beyond 65535", ErrRequest, r)
	}
	return nil
}

// Handler answers requests: those that read with Count words, those that write
// with none. An error that is an ExceptionError is sent as such, ErrSilence is not
// answered at all, and every other one is sent as ErrDeviceFailure.
type Handler func(ctx context.Context, r Request) ([]uint16, error)

// Errors of requests. An answer that says no is an ExceptionError instead. With
// the first two nothing was sent: see NotExecuted.
var (
	ErrRequest  = notDone(errors.New("request that cannot be sent"))
	ErrLine     = notDone(errors.New("line down"))
	ErrNoAnswer = errors.New("no answer")
	ErrAnswer   = errors.New("answer that does not fit the request")
	ErrSilence  = errors.New("not to be answered")
)

// ExceptionError is the code with which a server says that it did not do what was
// asked (V1.1b3, section 7).
type ExceptionError byte

// The exceptions of V1.1b3, section 7, that functions on registers may have.
const (
	ErrIllegalFunction ExceptionError = 0x01
	ErrIllegalAddress  ExceptionError = 0x02
	ErrIllegalValue    ExceptionError = 0x03
	ErrDeviceFailure   ExceptionError = 0x04
	ErrAcknowledge     ExceptionError = 0x05 // accepted, but it takes long
	ErrBusy            ExceptionError = 0x06
	ErrGatewayPath     ExceptionError = 0x0a
	ErrGatewayTarget   ExceptionError = 0x0b // the unit behind the gateway does not answer
)

// ExceptionCode returns the code as it stands on the wire. It tells an
// exception from other errors where this package is not known.
func (e ExceptionError) ExceptionCode() byte { return byte(e) }

func (e ExceptionError) Error() string {
	text := "unknown"
	switch e {
	case ErrIllegalFunction:
		text = "illegal function"
	case ErrIllegalAddress:
		text = "illegal data address"
	case ErrIllegalValue:
		text = "illegal data value"
	case ErrDeviceFailure:
		text = "device failure"
	case ErrAcknowledge:
		text = "acknowledged, not yet done"
	case ErrBusy:
		text = "device busy"
	case ErrGatewayPath:
		text = "gateway has no path"
	case ErrGatewayTarget:
		text = "device behind the gateway does not answer"
	}
	return fmt.Sprintf("exception %02x: %s", byte(e), text)
}
