// Package store keeps everything the cloud knows in one SQLite database. It
// adapts SQL to the packages that own the types and the rules (registry,
// session, ingest, audit, access) and decides nothing itself.
//
// # Writing
//
// One connection writes. What devices send is committed in groups: the units of
// work that wait (see Commit) go into one transaction and share one fsync; each
// caller is told once its unit is durable, and never before. Transactions take
// the write lock at their beginning, and what must happen once is decided by
// conditional statements, never by what a process remembers.
//
// # Reading
//
// Reads use connections beside the writer and see the last commit.
//
// # Words of SQL
//
// Statements stay within what SQLite and PostgreSQL share, with numbered
// placeholders in the order of their first use. Times are ms since 1970.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Errors of the store, besides those of the packages whose types it keeps.
var (
	// ErrUnavailable says that the database could not do it now, and nothing of
	// it was done: locked, full, read-only, failing. Trying again may help.
	ErrUnavailable = errors.New("the database is not available")
	// ErrClosed says that the store takes no more work.
	ErrClosed = errors.New("the store is closed")
)

// Options of a store; the zero value is ready to use.
type Options struct {
	Readers     int           // connections that read, default 4; as many more look up what devices name
	BusyTimeout time.Duration // how long to wait for another process's lock, default 5 s
	GroupSize   int           // most units in one transaction, default 256
	QueueSize   int           // units that may wait; then Commit blocks; default 1024
	Retention   Retention     // of telemetry; see Retire
}

func (o Options) withDefaults() Options {
	if o.Readers <= 0 {
		o.Readers = 4
	}
	if o.BusyTimeout <= 0 {
		o.BusyTimeout = 5 * time.Second
	}
	if o.GroupSize <= 0 {
		o.GroupSize = 256
	}
	if o.QueueSize <= 0 {
		o.QueueSize = 1024
	}
	return o
}

// Store is an open database. Its methods may be called from any goroutine.
// Commit needs Run to be running, the others do not.
type Store struct {
	options Options
	read    *sql.DB
	queries queries
	lookups lookups

	turn   chan struct{} // holds one token: who takes it may use writer; closed by Close
	writer *writer

	queue   chan *unit
	running atomic.Bool   // Run runs or has run, or never will
	closing chan struct{} // closed by Close
	stopped chan struct{} // closed when Run takes no more units
	once    sync.Once     // of Close
	counts  counts
}

// Open opens the database file at path, creates it with mode 0600 where there
// is none, and brings its schema up to date. It refuses, without touching it, a
// file that is not an EcoWatt database (ErrForeign) and one that a newer program
// has written (*VersionError). It starts nothing: see Run.
func Open(ctx context.Context, path string, options Options) (*Store, error) {
	options = options.withDefaults()
	w, err := openWriter(ctx, path, options.BusyTimeout)
	if err != nil {
		return nil, err
	}
	s := &Store{
		options: options,
		writer:  w,
		turn:    make(chan struct{}, 1),
		queue:   make(chan *unit, options.QueueSize),
		closing: make(chan struct{}),
		stopped: make(chan struct{}),
	}
	w.retention = options.Retention
	s.turn <- struct{}{}
	if s.read, err = openReaders(path, options); err == nil {
		s.queries, err = prepareQueries(ctx, s.read)
	}
	if err == nil {
		s.lookups, err = openLookups(ctx, path, options)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s to read: %w", path, err), s.Close())
	}
	return s, nil
}

// Close ends Run, waits for what is being written, and closes the database. A
// query that is still running fails. Closing again does nothing.
func (s *Store) Close() error {
	var err error
	s.once.Do(func() {
		close(s.closing)
		if s.running.CompareAndSwap(false, true) {
			close(s.stopped)
		}
		<-s.stopped
		<-s.turn
		close(s.turn)
		if s.read != nil {
			err = s.read.Close()
		}
		err = errors.Join(err, s.lookups.close(), s.writer.close())
	})
	return err
}

// Ready checks that the database can be read and that nothing has ended Run.
func (s *Store) Ready(ctx context.Context) error {
	select {
	case <-s.stopped:
		return ErrClosed
	default:
	}
	var version int
	if err := s.read.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return fmt.Errorf("asking the database: %w", unavailable(err))
	}
	return nil
}

// millis is how times are stored.
func millis(t time.Time) int64 { return t.UnixMilli() }

// moment is the time of a stored number of ms, in UTC.
func moment(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// moments is the zero time for NULL.
func moments(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return moment(ms.Int64)
}
