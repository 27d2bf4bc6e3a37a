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
	apply  func(*Tx) error
	gone   <-chan struct{} // closed when the caller does not wait any more
	done   chan error      // capacity 1: the committer never waits for the caller
}

type counts struct {
	commits, units, refused, failed atomic.Uint64
}

// Counts tell what the committer has done since the store was opened.
type Counts struct {
	Commits uint64 // transactions made durable
	Units   uint64 // units made durable in them
	Refused uint64 // units that refused themselves, without effect
	Failed  uint64 // units that the database could not do
}

// Counts returns the committer's counters.
func (s *Store) Counts() Counts {
	return Counts{
		Commits: s.counts.commits.Load(),
		Units:   s.counts.units.Load(),
		Refused: s.counts.refused.Load(),
		Failed:  s.counts.failed.Load(),
	}
}

// Commit applies a unit of work and returns when it is durable: nil means that
// it is on disk. The unit shares its transaction with others that wait at the
// same time. When apply returns an error, the unit has no effect, the others
// have theirs, and Commit returns that error. When the database fails, the error
// wraps ErrUnavailable and nothing has happened. When ctx ends first, Commit
// returns its error and the outcome is not known.
//
// apply runs on the committer's goroutine: it must not wait for anything, and it
// may be called more than once, when a transaction is tried again.
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
		// The committer may have answered in its last round.
		select {
		case err := <-u.done:
			return err
		default:
			return ErrClosed
		}
	}
}

// Run commits what Commit and Establish hand in, until ctx ends; then it commits
// what waits already and returns nil. It is called once.
func (s *Store) Run(ctx context.Context) error {
	if !s.running.CompareAndSwap(false, true) {
		return errors.New("the store's committer runs already, or has run")
	}
	defer s.stop.Do(func() { close(s.stopped) })
	group := make([]*unit, 0, s.options.GroupSize)
	for {
		select {
		case <-ctx.Done():
			for group = s.gather(group[:0]); len(group) > 0; group = s.gather(group[:0]) {
				s.commitGroup(group)
			}
			return nil
		case <-s.stopped:
			return ErrClosed
		case u := <-s.queue:
			s.commitGroup(s.gather(append(group[:0], u)))
		}
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

// commitGroup settles every unit of the group. A unit whose error cannot be
// undone by itself costs the others a second try, without it.
func (s *Store) commitGroup(group []*unit) {
	turn, open := <-s.turn
	if !open {
		for _, u := range group {
			u.done <- ErrClosed
		}
		return
	}
	defer func() { s.turn <- turn }()
	for len(group) > 0 {
		bad, err := s.tryGroup(group)
		if err != nil {
			err = unavailable(err)
			if !errors.Is(err, ErrUnavailable) {
				err = fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
			s.counts.failed.Add(uint64(len(group)))
			for _, u := range group {
				u.done <- err
			}
			return
		}
		if bad < 0 {
			return
		}
		group = append(group[:bad:bad], group[bad+1:]...)
	}
}

// tryGroup commits the group in one transaction and settles its units. When the
// unit at bad spoiled the transaction, that unit is settled, nothing is
// committed, and the others wait for another try. An error means that the
// database failed and no unit is settled.
func (s *Store) tryGroup(group []*unit) (bad int, err error) {
	w := s.writer
	if err := w.begin(); err != nil {
		return -1, errors.Join(err, w.rollback())
	}
	refusals := make([]error, len(group))
	applied := 0
	for i, u := range group {
		before := w.changed
		refusals[i] = apply(u, &Tx{w: w})
		switch {
		case refusals[i] == nil:
			applied++
		case errors.Is(unavailable(refusals[i]), ErrUnavailable):
			return -1, errors.Join(refusals[i], w.rollback())
		case w.changed != before || w.conn.GetAutocommit():
			if err := w.rollback(); err != nil {
				return -1, err
			}
			s.counts.refused.Add(1)
			u.done <- refusals[i]
			return i, nil
		}
	}
	if err := w.commit(); err != nil {
		return -1, errors.Join(err, w.rollback())
	}
	if applied > 0 {
		s.counts.commits.Add(1)
		s.counts.units.Add(uint64(applied))
	}
	s.counts.refused.Add(uint64(len(group) - applied))
	for i, u := range group {
		u.done <- refusals[i]
	}
	return -1, nil
}

// apply runs a unit; its panic is its own failure, not that of the others.
func apply(u *unit, tx *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in a unit of work: %v\n%s", p, debug.Stack())
		}
	}()
	select {
	case <-u.gone:
		return context.Canceled
	default:
		return u.apply(tx)
	}
}

// write runs a single change of its own: what people do, not what devices send.
// It needs no committer.
func (s *Store) write(ctx context.Context, change func(*Tx) error) error {
	select {
	case turn, open := <-s.turn:
		if !open {
			return ErrClosed
		}
		defer func() { s.turn <- turn }()
	case <-s.stopped:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("waiting to write: %w", context.Cause(ctx))
	}
	if err := s.writer.begin(); err != nil {
		return errors.Join(unavailable(err), s.writer.rollback())
	}
	if err := change(&Tx{w: s.writer}); err != nil {
		return errors.Join(unavailable(err), s.writer.rollback())
	}
	if err := s.writer.commit(); err != nil {
		return errors.Join(unavailable(err), s.writer.rollback())
	}
	return nil
}
