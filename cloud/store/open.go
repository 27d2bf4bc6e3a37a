package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/driver"
)

// migrations are applied in the order of their names, each in one transaction.
// The number of those applied is the database's version (PRAGMA user_version);
// a released one is never edited.
//
//go:embed migrations/*.sql
var migrations embed.FS

// applicationID marks our database files (PRAGMA application_id): "EWdb".
const applicationID = 0x45576462

// VersionError says that a database was written by a newer program.
type VersionError struct {
	Path        string
	Found, Know int // schema versions
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s is of schema version %d, and this program knows versions up to %d: use the newer ecowatt that wrote it",
		e.Path, e.Found, e.Know)
}

// ErrForeign says that a file is not a database of ours, or is damaged.
var ErrForeign = errors.New("not an EcoWatt database, or a damaged one")

func openWriter(ctx context.Context, path string, busy time.Duration) (*writer, error) {
	if err := createPrivate(path); err != nil {
		return nil, err
	}
	uri, err := fileURI(path)
	if err != nil {
		return nil, err
	}
	conn, err := sqlite3.OpenContext(ctx, uri)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, unavailable(err))
	}
	w := &writer{connection: newConnection(conn)}
	if err := w.setUp(path, busy); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// setUp identifies the file before it changes anything in it.
func (w *writer) setUp(path string, busy time.Duration) error {
	if err := w.conn.BusyTimeout(busy); err != nil {
		return fmt.Errorf("setting the busy timeout of %s: %w", path, err)
	}
	// Until the file is known to be ours, closing it must not move anything out
	// of its write-ahead log.
	if _, err := w.conn.Config(sqlite3.DBCONFIG_NO_CKPT_ON_CLOSE, true); err != nil {
		return fmt.Errorf("setting up %s: %w", path, unavailable(err))
	}
	if _, err := w.identify(path); err != nil {
		return err
	}
	if _, err := w.conn.Config(sqlite3.DBCONFIG_NO_CKPT_ON_CLOSE, false); err != nil {
		return fmt.Errorf("setting up %s: %w", path, unavailable(err))
	}
	for _, pragma := range []string{
		`PRAGMA page_size = 8192`, // before the first page is written; no effect later
		`PRAGMA journal_mode = WAL`,
		`PRAGMA synchronous = FULL`, // a commit is on disk when it returns
		`PRAGMA foreign_keys = ON`,
		`PRAGMA recursive_triggers = ON`, // so that REPLACE does not delete behind the back of the audit log
		`PRAGMA secure_delete = ON`,      // session keys do not linger in free pages
		`PRAGMA trusted_schema = OFF`,
		`PRAGMA cache_size = -65536`, // KiB
		`PRAGMA wal_autocheckpoint = 2000`,
	} {
		if err := w.conn.Exec(pragma); err != nil {
			return fmt.Errorf("setting up %s: %s: %w", path, pragma, unavailable(err))
		}
	}
	return w.migrate(path)
}

// identify returns the version of the schema, 0 for an empty file.
func (w *writer) identify(path string) (int, error) {
	var application, version, objects int64
	found, err := w.row(`SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version),
		(SELECT count(*) FROM sqlite_schema)`, nil, &application, &version, &objects)
	switch {
	case errors.Is(err, sqlite3.NOTADB) || errors.Is(err, sqlite3.CORRUPT):
		return 0, fmt.Errorf("%s: %w", path, ErrForeign)
	case err != nil || !found:
		return 0, fmt.Errorf("identifying %s: %w", path, unavailable(err))
	}
	names, err := migrationNames()
	switch {
	case err != nil:
		return 0, err
	case application == 0 && version == 0 && objects == 0:
		return 0, nil
	case application != applicationID || version < 1:
		return 0, fmt.Errorf("%s: %w", path, ErrForeign)
	case version > int64(len(names)):
		return 0, &VersionError{Path: path, Found: int(version), Know: len(names)}
	}
	return int(version), nil
}

// migrate brings the schema up to date, one migration in each transaction.
func (w *writer) migrate(path string) error {
	names, err := migrationNames()
	if err != nil {
		return err
	}
	for version := 0; version < len(names); {
		err := w.transact(func() (err error) {
			version, err = w.migrateOnce(path, names)
			return err
		})
		if err != nil {
			return fmt.Errorf("migrating %s: %w", path, unavailable(err))
		}
	}
	return nil
}

// migrateOnce applies the next migration, if any, and returns the version after
// it. The version before is read inside the transaction: another process may be
// doing the same.
func (w *writer) migrateOnce(path string, names []string) (version int, err error) {
	version, err = w.identify(path)
	if err != nil || version == len(names) {
		return version, err
	}
	name := names[version]
	text, err := migrations.ReadFile(name)
	if err != nil {
		return 0, err
	}
	version++
	script := fmt.Sprintf("%s\nPRAGMA application_id = %d; PRAGMA user_version = %d;", text, applicationID, version)
	if err := w.conn.Exec(script); err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return version, nil
}

func migrationNames() ([]string, error) {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return nil, fmt.Errorf("listing migrations: %w", err)
	}
	return names, nil
}

func openReaders(path string, options Options) (*sql.DB, error) {
	uri, err := fileURI(path)
	if err != nil {
		return nil, err
	}
	db, err := driver.Open(uri, func(c *sqlite3.Conn) error {
		return errors.Join(
			c.BusyTimeout(options.BusyTimeout),
			c.Exec(`PRAGMA query_only = ON`),
			c.Exec(`PRAGMA trusted_schema = OFF`),
			c.Exec(`PRAGMA cache_size = -16384`))
	})
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(options.Readers)
	db.SetMaxIdleConns(options.Readers)
	return db, nil
}

// createPrivate makes an empty file that only its owner may read: wrapped keys
// are worth hiding too. An existing file keeps its mode.
func createPrivate(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	return f.Close()
}

// fileURI names the file so that no character of its path is taken for syntax;
// modeof gives the files that SQLite lays beside it the same mode.
func fileURI(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("naming %s: %w", path, err)
	}
	abs = filepath.ToSlash(abs)
	// SQLite reads %HH, but not '+' for a space.
	query := strings.ReplaceAll(url.Values{"modeof": {abs}}.Encode(), "+", "%20")
	u := url.URL{Scheme: "file", Path: abs, RawQuery: query}
	return u.String(), nil
}
