package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// purgeSize is how many expired sessions go in one transaction, at most.
const purgeSize = 256

// Purge deletes the sessions that have expired by now and empties the
// write-ahead log. After it nothing in the files of the database is left of the
// keys of sessions that have ended: deleting overwrites them in their page
// (secure_delete), and emptying the log takes the pages as they were before.
//
// A reader that has been at it for long keeps the log from being emptied; that
// is no error, the next Purge does it. It reports whether the log is empty.
func (s *Store) Purge(ctx context.Context, now time.Time) (bool, error) {
	for more := true; more; {
		err := s.write(ctx, func(tx *Tx) (err error) {
			more, err = tx.purge(millis(now))
			return err
		})
		if err != nil {
			return false, fmt.Errorf("deleting expired sessions: %w", err)
		}
	}
	select {
	case _, open := <-s.turn:
		if !open {
			return false, ErrClosed
		}
	case <-ctx.Done():
		return false, fmt.Errorf("waiting to empty the log: %w", context.Cause(ctx))
	}
	defer func() { s.turn <- struct{}{} }()
	return s.writer.emptyLog(s.options.BusyTimeout)
}

// purge deletes some expired sessions and reports whether there may be more.
func (tx *Tx) purge(at int64) (more bool, err error) {
	var n int64
	_, err = tx.w.row(`SELECT count(*) FROM (SELECT 1 FROM session WHERE expires_at <= $1 LIMIT $2) AS expired`,
		[]any{at, purgeSize + 1}, &n)
	if err != nil {
		return false, err
	}
	for range (min(n, purgeSize) + sweepSize - 1) / sweepSize {
		if err := tx.sweep(at); err != nil {
			return false, err
		}
	}
	return n > purgeSize, nil
}

// emptyLog moves everything into the database file and cuts the log to nothing.
// It does not wait for readers: whoever writes would wait with it.
func (w *writer) emptyLog(busy time.Duration) (emptied bool, err error) {
	if err := w.conn.BusyTimeout(0); err != nil {
		return false, fmt.Errorf("emptying the log: %w", unavailable(err))
	}
	defer func() { err = errors.Join(err, w.conn.BusyTimeout(busy)) }()
	_, _, err = w.conn.WALCheckpoint("main", sqlite3.CHECKPOINT_TRUNCATE)
	if errors.Is(err, sqlite3.BUSY) || errors.Is(err, sqlite3.LOCKED) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("emptying the log: %w", unavailable(err))
	}
	return true, nil
}
