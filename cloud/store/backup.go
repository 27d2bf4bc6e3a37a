package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt/cloud/audit"
)

// backupID marks backups (PRAGMA application_id): "EWbk". A backup is no
// database to be served until it is restored.
const backupID = 0x4557626b

// leftOut are the tables whose rows are not part of a backup: keys of sessions,
// which a backup would keep beyond their end, and what protects those sessions.
// Without them every device shakes hands again.
var leftOut = [...]string{"session", "hs_seen"}

// ErrNoBackup says that a file is not a backup of ours, or an incomplete or
// damaged one.
var ErrNoBackup = errors.New("not an EcoWatt backup, or an incomplete or damaged one")

// Backup says what a backup holds.
type Backup struct {
	Devices int64
	KEKs    []string // ids of the key-encryption keys without which its keys of devices and releases are lost, in order
}

// WriteBackup copies the database at from into the new file to, with mode 0600:
// one state of everything but sessions, taken while others go on writing. It
// reads the copy again before it returns. A file that is there already is never
// replaced: fs.ErrExist. What fails leaves no file, and what is cut off leaves
// one that is no backup.
func WriteBackup(ctx context.Context, from, to string, now time.Time) (b Backup, err error) {
	source, err := openSource(ctx, from)
	if err != nil {
		return Backup{}, err
	}
	defer func() { err = errors.Join(err, source.close()) }()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Backup{}, fmt.Errorf("making the backup: %w", err)
	}
	if err = f.Close(); err == nil {
		b, err = fillBackup(ctx, from, to, now)
	}
	if err != nil {
		return Backup{}, errors.Join(fmt.Errorf("writing the backup %s: %w", to, err), os.Remove(to))
	}
	return b, nil
}

// openSource opens a database to be copied. It is not made, changed or migrated.
func openSource(ctx context.Context, path string) (*writer, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("looking for the database: %w", err)
	}
	w, err := openFile(ctx, path, "mode=rw")
	if err != nil {
		return nil, err
	}
	// As in setUp: nothing moves before it is known to be ours.
	if _, err := w.conn.Config(sqlite3.DBCONFIG_NO_CKPT_ON_CLOSE, true); err != nil {
		return nil, errors.Join(err, w.close())
	}
	version, err := w.identify(path)
	if err == nil && version == 0 {
		err = fmt.Errorf("%s: %w: it is empty", path, ErrForeign)
	}
	if err == nil {
		_, err = w.conn.Config(sqlite3.DBCONFIG_NO_CKPT_ON_CLOSE, false)
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// openFile opens a file that exists, with parameters of a URI.
func openFile(ctx context.Context, path, parameters string) (*writer, error) {
	uri, err := fileURI(path)
	if err != nil {
		return nil, err
	}
	conn, err := sqlite3.OpenContext(ctx, uri+"&"+parameters)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, unavailable(err))
	}
	conn.SetInterrupt(ctx)
	w := &writer{connection: newConnection(conn)}
	if err := errors.Join(conn.BusyTimeout(5*time.Second), conn.Exec(`PRAGMA trusted_schema = OFF`)); err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

// fillBackup fills the empty file to.
func fillBackup(ctx context.Context, from, to string, now time.Time) (b Backup, err error) {
	w, err := openFile(ctx, to, "mode=rw")
	if err != nil {
		return Backup{}, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	source, err := fileURI(from)
	if err != nil {
		return Backup{}, err
	}
	// No journal: a copy that is cut off is thrown away. foreign_keys are checked
	// at the end, and triggers made after the rows.
	if err := w.conn.Exec(`PRAGMA page_size = 8192; PRAGMA journal_mode = OFF; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF`); err != nil {
		return Backup{}, err
	}
	if _, err := w.exec(`ATTACH $1 AS source`, source+"&mode=rw"); err != nil {
		return Backup{}, err
	}
	if err := w.copySource(ctx, now); err != nil {
		return Backup{}, err
	}
	if b, err = w.checkBackup(); err != nil {
		return Backup{}, err
	}
	// Only what has passed is a backup.
	return b, w.conn.Exec(fmt.Sprintf(`PRAGMA application_id = %d`, backupID))
}

// copySource copies the attached database within one transaction, and so one
// state of it.
func (w *writer) copySource(ctx context.Context, now time.Time) (err error) {
	if err := w.conn.Exec(`BEGIN`); err != nil {
		return err
	}
	defer func() {
		if err != nil && !w.conn.GetAutocommit() {
			err = errors.Join(err, w.conn.Exec(`ROLLBACK`))
		}
	}()
	version, err := w.number(`PRAGMA source.user_version`)
	if err != nil {
		return err
	}
	tables, err := w.texts(`SELECT name FROM source.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY rowid`)
	if err != nil {
		return err
	}
	if err := w.create(`type = 'table'`); err != nil {
		return err
	}
	for _, table := range tables {
		if slices.Contains(leftOut[:], table) {
			continue
		}
		name := sqlite3.QuoteIdentifier(table)
		if err := w.conn.Exec(`INSERT INTO main.` + name + ` SELECT * FROM source.` + name); err != nil {
			return fmt.Errorf("copying the table %s: %w", table, err)
		}
	}
	// A living session knows when its device was last seen.
	const lastSeen = `SELECT max(s.seen_at) FROM source.session s WHERE s.device = device.id`
	err = w.conn.Exec(`UPDATE main.device SET last_seen = (` + lastSeen + `) WHERE (` + lastSeen + `) > coalesce(last_seen, 0)`)
	if err != nil {
		return fmt.Errorf("copying when devices were last seen: %w", err)
	}
	if err := w.create(`type <> 'table'`); err != nil {
		return err
	}
	err = (&Tx{w: w}).Append(audit.Record{
		At: now, Actor: audit.Actor{Kind: audit.System, Name: "backup"}, Action: "backup.made", Text: "backup made, without sessions",
	})
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return w.conn.Exec(fmt.Sprintf(`PRAGMA main.user_version = %d; COMMIT`, version))
}

// create makes what the attached database has of that kind, in the same words.
func (w *writer) create(kind string) error {
	statements, err := w.texts(`SELECT sql FROM source.sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND ` +
		kind + ` ORDER BY rowid`)
	if err != nil {
		return err
	}
	for _, statement := range statements {
		if err := w.conn.Exec(statement); err != nil {
			return fmt.Errorf("%.60q: %w", statement, err)
		}
	}
	return nil
}

// checkBackup reads a whole backup and says what it holds.
func (w *writer) checkBackup() (b Backup, err error) {
	faults, err := w.texts(`SELECT integrity_check FROM pragma_integrity_check UNION ALL
		SELECT 'a row of ' || "table" || ' refers to nothing' FROM pragma_foreign_key_check LIMIT 2`)
	switch {
	case damaged(err):
		return Backup{}, fmt.Errorf("%w: %w", ErrNoBackup, err)
	case err != nil:
		return Backup{}, err
	case len(faults) != 1 || faults[0] != "ok":
		return Backup{}, fmt.Errorf("%w: %s", ErrNoBackup, strings.Join(faults, "; "))
	}
	for _, table := range leftOut {
		n, err := w.number(`SELECT count(*) FROM ` + table)
		if err != nil {
			return Backup{}, err
		}
		if n > 0 {
			return Backup{}, fmt.Errorf("%w: it holds %d rows of %s", ErrNoBackup, n, table)
		}
	}
	if b.Devices, err = w.number(`SELECT count(*) FROM device`); err != nil {
		return Backup{}, err
	}
	b.KEKs, err = w.texts(`SELECT kek FROM device_key WHERE kek IS NOT NULL UNION SELECT kek FROM firmware ORDER BY 1`)
	return b, err
}

func damaged(err error) bool {
	return errors.Is(err, sqlite3.NOTADB) || errors.Is(err, sqlite3.CORRUPT) || errors.Is(err, sqlite3.IOERR)
}

// CheckBackup reads the whole backup at path and says what it holds. It refuses
// what is no backup (ErrNoBackup), and one that a newer program has written
// (*VersionError). It changes nothing.
func CheckBackup(ctx context.Context, path string) (b Backup, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return Backup{}, fmt.Errorf("looking for the backup: %w", err)
	}
	if !info.Mode().IsRegular() {
		return Backup{}, fmt.Errorf("%s: %w: it is not a regular file", path, ErrNoBackup)
	}
	w, err := openFile(ctx, path, "mode=ro&immutable=1")
	if err != nil {
		return Backup{}, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	application, err1 := w.number(`PRAGMA application_id`)
	version, err2 := w.number(`PRAGMA user_version`)
	names, err3 := migrationNames()
	switch err := errors.Join(err1, err2, err3); {
	case damaged(err):
		return Backup{}, fmt.Errorf("%s: %w", path, ErrNoBackup)
	case err != nil:
		return Backup{}, fmt.Errorf("identifying %s: %w", path, unavailable(err))
	case application == applicationID:
		return Backup{}, fmt.Errorf("%s: %w: it is a database, with its sessions; 'ecowatt backup' makes a backup of one", path, ErrNoBackup)
	case application != backupID || version < 1:
		return Backup{}, fmt.Errorf("%s: %w", path, ErrNoBackup)
	case version > int64(len(names)):
		return Backup{}, &VersionError{Path: path, Found: int(version), Know: len(names)}
	}
	// What is missing at the end reads as zeros, which may be what was there.
	size, err := w.number(`SELECT page_count * page_size FROM pragma_page_count, pragma_page_size`)
	switch {
	case damaged(err):
		err = ErrNoBackup
	case err == nil && size != info.Size():
		err = fmt.Errorf("%w: it has %d bytes of %d", ErrNoBackup, info.Size(), size)
	}
	if err == nil {
		b, err = w.checkBackup()
	}
	if err != nil {
		return Backup{}, fmt.Errorf("checking %s: %w", path, err)
	}
	return b, nil
}

// Restore makes a database at to of the file at to, a copy of a backup that
// CheckBackup has passed: of the present schema, with an audit record. A key that
// was pending counts as offered: what is forgotten may have offered it, so that
// the device uses nothing else any more.
func Restore(ctx context.Context, to string, now time.Time) (err error) {
	w, err := openFile(ctx, to, "mode=rw")
	if err != nil {
		return err
	}
	if err := errors.Join(w.conn.Exec(fmt.Sprintf(`PRAGMA application_id = %d`, applicationID)), w.close()); err != nil {
		return fmt.Errorf("restoring %s: %w", to, unavailable(err))
	}
	s, err := Open(ctx, to, Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.write(ctx, func(tx *Tx) error {
		if _, err := tx.w.exec(`UPDATE device_key SET offered_at = $1 WHERE state = 'pending' AND offered_at IS NULL`, millis(now)); err != nil {
			return fmt.Errorf("restoring pending keys: %w", err)
		}
		return tx.Append(audit.Record{
			At: now, Actor: audit.Actor{Kind: audit.System, Name: "restore"}, Action: "backup.restored", Text: "restored from a backup; every device shakes hands again",
		})
	})
}

// number is the one number that a query says.
func (w *writer) number(query string) (n int64, err error) {
	_, err = w.row(query, nil, &n)
	return n, err
}

// texts are the rows of a query of one text.
func (w *writer) texts(query string) (list []string, err error) {
	st, err := w.prepare(query)
	if err != nil {
		return nil, err
	}
	for st.Step() {
		list = append(list, st.ColumnText(0))
	}
	return list, st.Reset()
}
