package store

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
)

// Tx is a transaction in progress. It is valid only within the function it was
// given to, on the goroutine that called it.
type Tx struct {
	w *writer
}

// unit is one caller's work, on its way through the committer.
type unit struct {
	apply func(*Tx) error
	gone  <-chan struct{} // closed when the caller does not wait any more
	done  chan error      // capacity 1: the committer never waits for the caller
}

type counts struct {
	commits, units, refused, failed, spoiled atomic.Uint64
}

// Counts tell what the committer has done since the store was opened.
type Counts struct {
	Commits uint64 // transactions made durable
	Units   uint64 // units made durable in them
	Refused uint64 // units that returned an error, or whose callers were gone: without effect
	Failed  uint64 // units that the database could not do
	Spoiled uint64 // groups done a second time, because a unit failed after it had changed something
}

// Counts returns the committer's counters.
func (s *Store) Counts() Counts {
	return Counts{
		Commits: s.counts.commits.Load(),
		Units:   s.counts.units.Load(),
		Refused: s.counts.refused.Load(),
		Failed:  s.counts.failed.Load(),
		Spoiled: s.counts.spoiled.Load(),
	}
}

// Commit applies a unit of work and returns when it is durable: nil means that
// it is on disk. The unit shares its transaction with others that wait at the
// same time. When apply returns an error or panics, the unit has no effect, the
// others have theirs, and Commit returns that error.
//
// When the database fails, the error wraps ErrUnavailable and nothing has
// happened; a disk that fails at the very moment of the fsync is the exception,
// whose outcome nobody knows. When ctx ends first, Commit returns its error, and
// the outcome is not known either. ErrClosed means that the unit was not applied.
//
// apply runs on the committer's goroutine: it must not wait for anything, nor
// call the store. It may be called twice, so it begins by resetting what it
// leaves for its caller. It should find out what it refuses before it changes
// anything: a unit that fails later makes its whole group run again.
func (s *Store) Commit(ctx context.Context, apply func(*Tx) error) error {
	u := &unit{apply: apply, gone: ctx.Done(), done: make(chan error, 1)}
	select {
	case s.queue <- u:
	case <-ctx.Done():
		return fmt.Errorf("waiting to commit: %w", context.Cause(ctx))
	case <-s.stopped:
		return ErrClosed
	}
	select {
	case err := <-u.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for a commit: %w", context.Cause(ctx))
	case <-s.stopped:
		// The committer answers what it takes before it stops: a unit without an
		// answer was not taken.
		select {
		case err := <-u.done:
			return err
		default:
			return ErrClosed
		}
	}
}

// Run commits what Commit hands in, until ctx ends or the store is closed; then
// it commits what waits at that moment, and returns nil. It is called once.
func (s *Store) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("the store's committer runs already, or has run")
	}
	defer close(s.stopped)
	group := make([]*unit, 0, s.options.GroupSize)
	for {
		select {
		case <-ctx.Done():
		case <-s.closing:
		case u := <-s.queue:
			s.commitGroup(s.gather(append(group[:0], u)))
			continue
		}
		for rest := len(s.queue); rest > 0; rest -= len(group) {
			group = s.gather(group[:0])
			s.commitGroup(group)
		}
		return nil
	}
}

// gather takes what waits, without waiting itself. While one group is being
// made durable the next one gathers in the queue, so groups grow with load and
// a lone unit is not held up.
func (s *Store) gather(group []*unit) []*unit {
	for len(group) < s.options.GroupSize {
		select {
		case u := <-s.queue:
			group = append(group, u)
		default:
			return group
		}
	}
	return group
}

// errSpoiled says that a unit failed after it had changed something.
var errSpoiled = errors.New("a unit of work spoiled its transaction")

// commitGroup settles every unit of the group. The units run without a
// savepoint each, for hardly any fails; when one does after having changed
// something, all run a second and last time, each within its own savepoint.
func (s *Store) commitGroup(group []*unit) {
	<-s.turn // Close does not close it before Run has returned
	defer func() { s.turn <- struct{}{} }()
	outcomes, err := s.tryGroup(group, false)
	if errors.Is(err, errSpoiled) {
		s.counts.spoiled.Add(1)
		outcomes, err = s.tryGroup(group, true)
	}
	if err != nil {
		if err = unavailable(err); !errors.Is(err, ErrUnavailable) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		s.counts.failed.Add(uint64(len(group)))
		settle(group, func(int) error { return err })
		return
	}
	applied := 0
	for _, outcome := range outcomes {
		if outcome == nil {
			applied++
		}
	}
	if applied > 0 {
		s.counts.commits.Add(1)
	}
	s.counts.units.Add(uint64(applied))
	s.counts.refused.Add(uint64(len(group) - applied))
	settle(group, func(i int) error { return outcomes[i] })
}

// settle tells each caller what became of its unit.
func settle(group []*unit, outcome func(i int) error) {
	for i, u := range group {
		u.done <- outcome(i)
	}
}

// tryGroup commits the group in one transaction and returns what each unit
// returned. On an error nothing is committed: it wraps errSpoiled, or the
// database failed.
func (s *Store) tryGroup(group []*unit, apart bool) (outcomes []error, err error) {
	outcomes = make([]error, len(group))
	err = s.writer.transact(func() (err error) {
		for i, u := range group {
			if outcomes[i], err = s.writer.apply(u, apart); err != nil {
				return err
			}
		}
		return nil
	})
	return outcomes, err
}

// apply runs one unit of a group. When it fails, nothing of it is left: because
// it changed nothing, or because it was kept apart from the units before it and
// is undone. Otherwise err wraps errSpoiled; any other err means that the
// database failed.
func (w *writer) apply(u *unit, apart bool) (outcome, err error) {
	if apart {
		if _, err := w.exec(`SAVEPOINT unit`); err != nil {
			return nil, err
		}
	}
	before := w.conn.TotalChanges()
	outcome = u.run(&Tx{w: w})
	switch {
	case errors.Is(unavailable(outcome), ErrUnavailable):
		return nil, outcome
	case w.conn.GetAutocommit():
		return nil, errors.Join(errors.New("the transaction was ended within a unit of work"), outcome)
	case apart && outcome != nil:
		_, err = w.exec(`ROLLBACK TO unit`)
	case outcome != nil && w.conn.TotalChanges() != before:
		err = errSpoiled
	}
	if apart && err == nil {
		_, err = w.exec(`RELEASE unit`)
	}
	return outcome, err
}

// run calls the unit's function; its panic is its own failure, not that of the others.
func (u *unit) run(tx *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a unit of work: %v\n%s", p, debug.Stack())
		}
	}()
	select {
	case <-u.gone:
		return context.Canceled // read by nobody
	default:
		return u.apply(tx)
	}
}

// write runs a single change of its own: what people do, not what devices send.
// It needs no committer.
func (s *Store) write(ctx context.Context, change func(*Tx) error) error {
	select {
	case _, open := <-s.turn:
		if !open {
			return ErrClosed
		}
	case <-ctx.Done():
		return fmt.Errorf("waiting to write: %w", context.Cause(ctx))
	}
	defer func() { s.turn <- struct{}{} }()
	return unavailable(s.writer.transact(func() error { return change(&Tx{w: s.writer}) }))
}
