package modbus

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Transport carries out one request at a time: a Client or an HTTPClient.
type Transport interface {
	Do(ctx context.Context, r Request) ([]uint16, error)
	Close() error
}

// BusOptions are the settings of a bus. The zero value is good.
type BusOptions struct {
	Gap time.Duration // from the end of a request to the begin of the next at least
}

// Bus shares one line, serial or TCP, among all who ask the units on it:
//
//   - Requests are carried out one after the other, Gap apart, and those to one
//     unit as far apart as its Pace says; others go meanwhile. Writes go before
//     reads, otherwise who came first is first; a write waits for no more than the
//     request that is under way.
//   - A unit that is busy (exceptions 05 and 06) is asked again up to three times,
//     and once one that its gateway does not reach (0B). Others go meanwhile. Of
//     writes only those are repeated that were not carried out (06).
//   - A unit that did not answer three times in a row is left alone for a second,
//     and then for twice as long after each further time, up to 30 s. In between
//     its requests fail at once with a BackoffError, so that those of others do
//     not wait for its timeouts.
//   - After a connection that failed the same holds for all units, from 250 ms to
//     30 s.
//
// Any number of goroutines may use a bus. It has none of its own.
type Bus struct {
	transport   Transport
	options     BusOptions
	unitBackoff backoff
	lineBackoff backoff

	mu      sync.Mutex // guards what is below
	waiting []*ticket
	busy    bool               // a request is under way
	free    time.Time          // when the next one may begin
	rested  map[byte]time.Time // when the next one to a unit may
	wake    *time.Timer        // will call dispatch; nil when it need not be
	line    failing
	units   map[byte]failing // those that fail
}

// NewBus returns a bus that owns t. Close ends it.
func NewBus(t Transport, o BusOptions) *Bus {
	return &Bus{
		transport:   t,
		options:     o,
		unitBackoff: backoff{after: 3, first: time.Second, most: 30 * time.Second},
		lineBackoff: backoff{after: 1, first: 250 * time.Millisecond, most: 30 * time.Second},
		rested:      map[byte]time.Time{},
		units:       map[byte]failing{},
	}
}

// Do carries out r and returns the words read. The error is that of the
// transport, or wraps a *BackoffError; NotExecuted tells of all of them whether
// the request was certainly not carried out. ctx bounds the time, waiting
// included.
func (b *Bus) Do(ctx context.Context, r Request) ([]uint16, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	for repeated := 0; ; repeated++ {
		got, err := b.once(ctx, r)
		wait, again := retry(r, err, repeated)
		if !again || !pause(ctx, wait) {
			return got, err
		}
	}
}

// once carries out r one time, when its turn comes.
func (b *Bus) once(ctx context.Context, r Request) ([]uint16, error) {
	if err := b.enter(ctx, r); err != nil {
		return nil, fmt.Errorf("%v: %w", r, err)
	}
	got, err := b.transport.Do(ctx, r)
	b.leave(r, outcomeOf(ctx, err), err)
	return got, err
}

// enter waits for the turn of r. Who has it must leave.
func (b *Bus) enter(ctx context.Context, r Request) error {
	t := &ticket{unit: r.Unit, write: r.Values != nil, turn: make(chan error, 1)}
	b.mu.Lock()
	b.waiting = append(b.waiting, t)
	b.dispatch()
	b.mu.Unlock()
	select {
	case err := <-t.turn:
		return err
	case <-ctx.Done():
	}
	b.mu.Lock()
	i := slices.Index(b.waiting, t)
	if i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
	b.mu.Unlock()
	if i < 0 && <-t.turn == nil { // it came at the same moment
		b.leave(r, unknown, nil)
	}
	return notDone(fmt.Errorf("waiting for other requests: %w", ctx.Err()))
}

// leave ends the turn of r, which ended with err.
func (b *Bus) leave(r Request, o outcome, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	switch o {
	case unitAnswers:
		b.line = failing{}
		delete(b.units, r.Unit)
	case unitSilent:
		b.line = failing{}
		b.units[r.Unit] = b.units[r.Unit].failed(err, b.unitBackoff, now, rand.Float64())
	case lineDown:
		b.line = b.line.failed(err, b.lineBackoff, now, rand.Float64())
	case unknown:
	}
	b.busy = false
	b.free = now.Add(b.options.Gap)
	b.rested[r.Unit] = now.Add(max(b.options.Gap, r.Pace.Gap))
	b.dispatch()
}

// dispatch turns away the waiting requests that are not to be sent now, and
// gives the turn to the next one, if it is free. The lock is the caller's.
func (b *Bus) dispatch() {
	now := time.Now()
	b.waiting = slices.DeleteFunc(b.waiting, func(t *ticket) bool {
		err := b.refusal(t.unit, now)
		if err != nil {
			t.turn <- err
		}
		return err != nil
	})
	if b.wake != nil {
		b.wake.Stop()
		b.wake = nil
	}
	if b.busy || len(b.waiting) == 0 {
		return
	}
	i, wait := next(b.waiting, now, b.begin)
	if wait > 0 {
		b.wake = time.AfterFunc(wait, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.dispatch()
		})
		return
	}
	b.waiting[i].turn <- nil
	b.waiting = slices.Delete(b.waiting, i, i+1)
	b.busy = true
}

// begin is when a request to unit may be sent. The lock is the caller's.
func (b *Bus) begin(unit byte) time.Time {
	if rested := b.rested[unit]; rested.After(b.free) {
		return rested
	}
	return b.free
}

// refusal is a *BackoffError when unit is not to be asked at now.
func (b *Bus) refusal(unit byte, now time.Time) error {
	f, line := b.line, true
	if !f.blocked(now) {
		f, line = b.units[unit], false
	}
	if !f.blocked(now) {
		return nil
	}
	return &BackoffError{Unit: unit, Line: line, Times: f.times, Until: f.until, Wait: f.until.Sub(now), Err: f.last}
}

// Close closes the transport, after the request that is under way. The bus can
// be used on; it connects again then.
func (b *Bus) Close() error { return b.transport.Close() }
