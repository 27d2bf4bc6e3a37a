package acquire

import (
	"errors"
	"time"
)

// The rules of reading.
const (
	maxRetries      = 2                      // in one tick, for all reads together
	firstPause      = 100 * time.Millisecond // before a retry; the next one is twice as long
	maxPeriod       = 60_000                 // ms; longest wait for an inverter that is away
	refusalsToSplit = 2                      // exceptions 02 in a row until a block is divided
	early           = 50                     // ms; a timer on another clock may end that much before its tick
)

// The exceptions that are told apart (Modbus Application Protocol V1.1b3,
// section 7).
const (
	illegalAddress = 0x02
	gatewayPath    = 0x0a
	gatewayTarget  = 0x0b
)

// tickOf returns the number of the tick of the interval's grid that now
// belongs to. All times are in ms; a time just before a tick belongs to it.
//
// The grid is that of the device's own clock, not of UTC: what is known of UTC
// changes while the device learns it, and a grid that moves with it would have
// steps in it. Who places a run of samples moves all of it at once, and it stays
// even.
func tickOf(now, interval int64) int64 {
	return (now + min(early, interval/10)) / interval
}

// next returns the time from now to the next tick of the interval's grid; it
// is greater than 0.
func next(now, interval int64) int64 {
	return (tickOf(now, interval)+1)*interval - now
}

// period returns the time between two polls of an inverter whose last so many
// polls failed: the interval, doubled after each failure but the first while
// that is at most maxPeriod.
func period(interval int64, failures int) int64 {
	for ; failures > 1 && 2*interval <= maxPeriod; failures-- {
		interval *= 2
	}
	return interval
}

// asleepPeriod returns the time between two polls of an inverter that sleeps: the
// longest multiple of the interval that is at most maxPeriod.
func asleepPeriod(interval int64) int64 { return max(1, maxPeriod/interval) * interval }

// retryPause returns how long to wait before retry number n, counted from 0.
func retryPause(n int) time.Duration { return firstPause << n }

// exceptionCode returns the code of a refusal by the inverter itself.
func exceptionCode(err error) (byte, bool) {
	var refusal interface{ ExceptionCode() byte }
	if !errors.As(err, &refusal) {
		return 0, false
	}
	return refusal.ExceptionCode(), true
}

// answered reports whether the inverter itself said something, given the error
// of a read. Exceptions 0A and 0B are the gateway's, which did not reach it.
func answered(err error) bool {
	code, refused := exceptionCode(err)
	return err == nil || refused && code != gatewayPath && code != gatewayTarget
}

// worthRetrying reports whether a read that ended with err may do better in a
// moment: when no answer was understood. A refusal is not repeated: a unit that
// is busy has been asked again already, and what it does not have, it will not
// have then either. Neither is a read that the Source did not even try.
func worthRetrying(err error) bool {
	_, refused := exceptionCode(err)
	var notTried interface{ RetryAt() time.Time }
	return err != nil && !refused && !errors.As(err, &notTried)
}
