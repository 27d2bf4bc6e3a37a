package modbus

import (
	"context"
	"errors"
	"io"
	"time"
)

// OddAnswerError is an error of a Handler with which it gives an answer that does not
// go out as answers do: a simulator of units that misbehave needs it. The zero
// value is an answer like others.
type OddAnswerError struct {
	Words []uint16            // what is read, as Handler returns it
	Err   error               // why the request is not carried out, as Handler returns it
	Delay time.Duration       // before the answer is sent; requests of the same connection wait as long
	Unit  byte                // added to the unit that the answer says it is from
	Spoil func(f Sent) []byte // returns what is sent in place of a frame
}

// Sent is a frame that is about to be sent: the protocol data unit stands in
// Bytes[Head : len(Bytes)-Tail], the unit in the byte before. An RTU frame has a
// Tail, its CRC.
type Sent struct {
	Bytes      []byte
	Head, Tail int
}

func (o *OddAnswerError) Error() string { return "an answer that is not sent as it should be" }

// reply is what a request is answered with.
type reply struct {
	pdu []byte // with what stands before it in the frame; nil for silence
	odd OddAnswerError
}

// silence reports whether there is to be no answer.
func (r reply) silence() bool { return r.pdu == nil }

// oddly divides what a handler returned into the answer and how it is sent.
func oddly(got []uint16, err error) (OddAnswerError, []uint16, error) {
	if o, ok := errors.AsType[*OddAnswerError](err); ok {
		return *o, o.Words, o.Err
	}
	return OddAnswerError{}, got, err
}

// spoil is the frame as it is sent.
func (o OddAnswerError) spoil(frame []byte, head, tail int) []byte {
	if o.Spoil == nil {
		return frame
	}
	return o.Spoil(Sent{Bytes: frame, Head: head, Tail: tail})
}

// send sends the frame on w, after the delay, unless ctx ends before. An error
// says that w has ended.
func (o OddAnswerError) send(ctx context.Context, w io.Writer, frame []byte) error {
	if !pause(ctx, o.Delay) {
		return nil
	}
	if limited, ok := w.(interface{ SetWriteDeadline(t time.Time) error }); ok {
		if err := limited.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
	}
	_, err := w.Write(frame)
	return err
}
