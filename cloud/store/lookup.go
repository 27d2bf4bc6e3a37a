package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"
)

// lookups are the connections on which keys and sessions are looked up: the
// reads that a stranger causes with every message he makes up. Through
// database/sql one of them costs more than everything else in refusing him.
type lookups struct {
	free chan *connection // those that nobody uses; closed with the store
}

func openLookups(ctx context.Context, path string, options Options) (lookups, error) {
	uri, err := fileURI(path)
	if err != nil {
		return lookups{}, err
	}
	l := lookups{free: make(chan *connection, options.Readers)}
	for range cap(l.free) {
		c, err := openLookup(ctx, uri, options)
		if err != nil {
			for range len(l.free) {
				err = errors.Join(err, (<-l.free).close())
			}
			return lookups{}, err
		}
		l.free <- c
	}
	return l, nil
}

func openLookup(ctx context.Context, uri string, options Options) (*connection, error) {
	conn, err := sqlite3.OpenContext(ctx, uri)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		conn.BusyTimeout(options.BusyTimeout),
		conn.Exec(`PRAGMA query_only = ON`),
		conn.Exec(`PRAGMA trusted_schema = OFF`),
		conn.Exec(`PRAGMA cache_size = -4096`)) // KiB
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c := newConnection(conn)
	return &c, nil
}

// take waits for a connection that nobody uses; who takes it gives it back.
func (l lookups) take(ctx context.Context) (*connection, error) {
	select {
	case c, open := <-l.free:
		if !open {
			return nil, ErrClosed
		}
		return c, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting to look something up: %w", context.Cause(ctx))
	}
}

// row binds a query of at most one row, runs it, lets scan read the row, and
// reports whether there was one.
func (l lookups) row(ctx context.Context, query string, bind func(*sqlite3.Stmt) error, scan func(*sqlite3.Stmt)) (bool, error) {
	c, err := l.take(ctx)
	if err != nil {
		return false, err
	}
	defer func() { l.free <- c }()
	st, err := c.prepare(query)
	if err != nil {
		return false, err
	}
	if err := bind(st); err != nil {
		return false, err
	}
	found := st.Step() // Reset returns its error
	if found {
		scan(st)
	}
	err = st.Reset()
	return found && err == nil, err
}

// use lets a function read with a connection that nobody else uses: what is asked
// for with a page or less.
func (l lookups) use(ctx context.Context, read func(*connection) error) error {
	c, err := l.take(ctx)
	if err != nil {
		return err
	}
	defer func() { l.free <- c }()
	return read(c)
}

// close waits until nobody looks anything up.
func (l lookups) close() error {
	var errs []error
	for range cap(l.free) {
		errs = append(errs, (<-l.free).close())
	}
	if l.free != nil {
		close(l.free)
	}
	return errors.Join(errs...)
}
