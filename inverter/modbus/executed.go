package modbus

import (
	"errors"
	"fmt"
)

// NotExecuted reports whether the request that ended with err has certainly not
// been carried out, and will not be: it was not sent, or the unit refused it. It
// is false for every other error. A write may then have been done, or may be
// done yet: whoever has to know reads it back.
//
// Where this package is not known the same is told by the first error in the
// tree of err, as errors.As finds it, that has the method NotExecuted() bool.
// There is none when a request was sent and no answer to it was understood.
func NotExecuted(err error) bool {
	certain, ok := errors.AsType[interface {
		error
		NotExecuted() bool
	}](err)
	return ok && certain.NotExecuted()
}

// notDoneError is why a request was not carried out.
type notDoneError struct{ err error }

func (e *notDoneError) Error() string   { return e.err.Error() }
func (e *notDoneError) Unwrap() error   { return e.err }
func (*notDoneError) NotExecuted() bool { return true }

// notDone marks err as the reason why a request was not carried out.
func notDone(err error) error { return &notDoneError{err} }

// NotExecuted is true: who is left alone is asked nothing. Whatever the last
// failure was, it was that of another request.
func (e *BackoffError) NotExecuted() bool { return true }

// NotExecuted reports whether the exception says that nothing was done, and that
// nothing will be: 05 says that it will, 04 that it was tried, and 0B comes from
// a gateway that passed the request on (V1.1b3, section 7). A code that is not
// known says nothing.
func (e ExceptionError) NotExecuted() bool {
	switch e {
	case ErrIllegalFunction, ErrIllegalAddress, ErrIllegalValue, ErrBusy, ErrGatewayPath:
		return true
	case ErrDeviceFailure, ErrAcknowledge, ErrGatewayTarget:
	}
	return false
}

// errWaiting says that ctx ended, for a reason, before the turn of a request came.
func errWaiting(r Request, reason error) error {
	return fmt.Errorf("%v: %w", r, notDone(fmt.Errorf("waiting for other requests: %w", reason)))
}
