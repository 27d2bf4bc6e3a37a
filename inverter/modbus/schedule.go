package modbus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// This file decides for a Bus. Nothing in it waits or looks at a clock.

// backoff says when something that fails is tried again: at once while it has
// failed fewer than after times in a row, then after first, twice as long after
// each further failure, and at most after most.
type backoff struct {
	after       int
	first, most time.Duration
}

// jitter is the part of a pause by which it may be shorter, so that programs
// that lost the same peer do not come back at the same time.
const jitter = 0.25

// pause returns how long to wait after so many failures in a row; random is
// within [0, 1).
func (b backoff) pause(failures int, random float64) time.Duration {
	if failures < b.after {
		return 0
	}
	d := b.first
	for n := b.after; n < failures && d < b.most; n++ {
		d *= 2
	}
	return time.Duration(float64(min(d, b.most)) * (1 - jitter*random))
}

// failing is how a unit or a line that fails does; its zero value is for one
// that does not.
type failing struct {
	times int       // in a row
	until time.Time // when it may be tried again
	last  error
}

// failed is f after one more failure.
func (f failing) failed(err error, b backoff, now time.Time, random float64) failing {
	f.times++
	f.last = err
	f.until = now.Add(b.pause(f.times, random))
	return f
}

// blocked reports whether it is not to be tried at now.
func (f failing) blocked(now time.Time) bool { return now.Before(f.until) }

// outcome is what the error of a request says about where it went.
type outcome byte

const (
	unitAnswers outcome = iota
	unitSilent          // nothing came from it, or nothing that was understood
	lineDown            // it was not even asked
	unknown             // the request was given up from above
)

// outcomeOf tells the outcome of a request under ctx that ended with err.
func outcomeOf(ctx context.Context, err error) outcome {
	if err == nil {
		return unitAnswers
	}
	if no, ok := errors.AsType[ExceptionError](err); ok {
		if no == ErrGatewayPath || no == ErrGatewayTarget {
			return unitSilent
		}
		return unitAnswers
	}
	switch {
	case ctx.Err() != nil || errors.Is(err, ErrRequest):
		return unknown
	case errors.Is(err, ErrLine):
		return lineDown
	}
	return unitSilent
}

// retry says whether r, which ended with err, may do better in a moment, after
// it has been repeated so many times already, and how long to wait. It may when
// the unit was busy, and once when a gateway did not reach it; but a write only
// if it has certainly not been carried out. What a unit does not have, it will
// not have then either.
func retry(r Request, err error, repeated int) (time.Duration, bool) {
	const first, most = 100 * time.Millisecond, 3
	no, refused := errors.AsType[ExceptionError](err)
	_, held := errors.AsType[*BackoffError](err) // which may be due to an exception
	switch {
	case !refused || held || r.Values != nil && !NotExecuted(err):
		return 0, false
	case (no == ErrBusy || no == ErrAcknowledge) && repeated < most:
		return first << repeated, true
	case no == ErrGatewayTarget && repeated < 1:
		return first, true
	}
	return 0, false
}

// ticket is a request that waits for its turn.
type ticket struct {
	unit  byte
	write bool
	turn  chan error // capacity 1; nil says that it has come, an error that it will not
}

// next returns the index of the request whose turn comes at now, of those that
// wait in the order in which they came, and whose units may be asked from begin
// on: writes go before reads. While none may be sent it returns how long that
// will be.
func next(waiting []*ticket, now time.Time, begin func(unit byte) time.Time) (index int, wait time.Duration) {
	index, wait = -1, math.MaxInt64
	for i, t := range waiting {
		left := begin(t.unit).Sub(now)
		switch {
		case left > 0:
			wait = min(wait, left)
		case t.write:
			return i, 0
		case index < 0:
			index = i
		}
	}
	if index >= 0 {
		return index, 0
	}
	return index, wait
}

// BackoffError says that a request was not sent, since its unit or the whole
// line has failed and is left alone for a while.
type BackoffError struct {
	Unit  byte          // that was to be asked
	Line  bool          // it is the line that failed
	Times int           // in a row
	Until time.Time     // when it may be asked again
	Wait  time.Duration // until then
	Err   error         // the last failure
}

func (e *BackoffError) Error() string {
	what := fmt.Sprintf("unit %d", e.Unit)
	if e.Line {
		what = "the line"
	}
	return fmt.Sprintf("%s failed %d times in a row and is left alone for another %v: %v", what, e.Times, e.Wait.Round(time.Millisecond), e.Err)
}

// Unwrap returns the last failure.
func (e *BackoffError) Unwrap() error { return e.Err }

// RetryAt returns when it may be asked again. It tells this error from others
// where this package is not known.
func (e *BackoffError) RetryAt() time.Time { return e.Until }
