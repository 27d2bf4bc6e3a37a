package store

import (
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"
)

// writer is the connection that writes.
type writer struct {
	connection
	retention Retention
}

// connection is a connection with its prepared statements. It talks to SQLite
// directly: database/sql costs a third of an exchange's time in the database. It
// is not safe for concurrent use.
type connection struct {
	conn       *sqlite3.Conn
	statements map[string]*sqlite3.Stmt
}

func newConnection(conn *sqlite3.Conn) connection {
	return connection{conn: conn, statements: map[string]*sqlite3.Stmt{}}
}

// prepare returns the statement for query, kept for the next time: the set of
// queries is the constant text of this package.
func (c *connection) prepare(query string) (*sqlite3.Stmt, error) {
	if st, ok := c.statements[query]; ok {
		return st, nil
	}
	st, tail, err := c.conn.PrepareFlags(query, sqlite3.PREPARE_PERSISTENT)
	if err != nil {
		return nil, err
	}
	if tail != "" {
		return nil, errors.Join(fmt.Errorf("more than one statement: %.40q", query), st.Close())
	}
	c.statements[query] = st
	return st, nil
}

// exec runs a statement without result and returns how many rows it changed.
func (c *connection) exec(query string, args ...any) (int64, error) {
	st, err := c.bind(query, args)
	if err != nil {
		return 0, err
	}
	if err := errors.Join(st.Exec(), st.ClearBindings()); err != nil {
		return 0, err
	}
	return c.conn.Changes(), nil
}

// row runs a statement with at most one row of result, scans it into dest
// (*int64, *string, *[]byte; NULL is 0, "", nil; a function reads by itself) and
// reports whether there was one.
func (c *connection) row(query string, args []any, dest ...any) (bool, error) {
	st, err := c.bind(query, args)
	if err != nil {
		return false, err
	}
	found := st.Step() // Reset returns its error
	if found {
		for i, d := range dest {
			switch d := d.(type) {
			case *int64:
				*d = st.ColumnInt64(i)
			case *string:
				*d = st.ColumnText(i)
			case *[]byte:
				*d = st.ColumnBlob(i, nil)
			case func(*sqlite3.Stmt):
				d(st)
			default:
				err = fmt.Errorf("scanning into %T", d)
			}
		}
	}
	return found && err == nil, errors.Join(err, st.Reset(), st.ClearBindings())
}

// rows runs a statement and lets each read every row of its result.
func (c *connection) rows(query string, args []any, each func(*sqlite3.Stmt) error) error {
	st, err := c.bind(query, args)
	if err != nil {
		return err
	}
	for err == nil && st.Step() { // Reset returns its error
		err = each(st)
	}
	return errors.Join(err, st.Reset(), st.ClearBindings())
}

func (c *connection) bind(query string, args []any) (*sqlite3.Stmt, error) {
	st, err := c.prepare(query)
	if err != nil {
		return nil, err
	}
	if n := st.BindCount(); n != len(args) {
		return nil, fmt.Errorf("binding %d values for %d: %.40q", len(args), n, query)
	}
	for i, arg := range args {
		switch a := arg.(type) {
		case nil:
			err = st.BindNull(i + 1)
		case bool:
			err = st.BindBool(i+1, a)
		case int:
			err = st.BindInt(i+1, a)
		case int64:
			err = st.BindInt64(i+1, a)
		case float64:
			err = st.BindFloat(i+1, a)
		case string:
			err = st.BindText(i+1, a)
		case []byte:
			err = st.BindBlob(i+1, a)
		default:
			err = fmt.Errorf("binding a %T", arg)
		}
		if err != nil {
			return nil, err
		}
	}
	return st, nil
}

// transact runs do in a transaction, which has the write lock from its
// beginning. What do did is durable when transact returns nil, and undone when
// it returns an error or do panics.
func (w *writer) transact(do func() error) (err error) {
	if _, err := w.exec(`BEGIN IMMEDIATE`); err != nil {
		return err
	}
	defer func() {
		if w.conn.GetAutocommit() { // SQLite ends a transaction by itself when it must
			return
		}
		_, undone := w.exec(`ROLLBACK`)
		err = errors.Join(err, undone)
	}()
	if err := do(); err != nil {
		return err
	}
	_, err = w.exec(`COMMIT`)
	return err
}

func (c *connection) close() error {
	var errs []error
	for _, st := range c.statements {
		errs = append(errs, st.Close())
	}
	return errors.Join(append(errs, c.conn.Close())...)
}

// unavailable marks an error of the database that says nothing of what was
// asked, only that it cannot be done now.
func unavailable(err error) error {
	if err == nil || errors.Is(err, ErrUnavailable) {
		return err
	}
	for _, code := range []sqlite3.ErrorCode{
		sqlite3.BUSY, sqlite3.LOCKED, sqlite3.FULL, sqlite3.IOERR, sqlite3.READONLY, sqlite3.CANTOPEN,
		sqlite3.NOMEM, sqlite3.PERM, sqlite3.PROTOCOL, sqlite3.CORRUPT, sqlite3.NOTADB, sqlite3.NOLFS,
	} {
		if errors.Is(err, code) {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return err
}
