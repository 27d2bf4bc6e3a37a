package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/session"
)

// dump is every row of every table of a database, by table.
func dump(t *testing.T, s *Store) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	tables, err := s.read.QueryContext(t.Context(), `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'`)
	if err != nil {
		t.Fatal(err)
	}
	defer tables.Close()
	for tables.Next() {
		var table string
		if err := tables.Scan(&table); err != nil {
			t.Fatal(err)
		}
		all[table] = rowsOf(t, s, table)
	}
	if err := tables.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func rowsOf(t *testing.T, s *Store, table string) (list []string) {
	t.Helper()
	rows, err := s.read.QueryContext(t.Context(), `SELECT * FROM `+table)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			t.Fatal(err)
		}
		for i := range values {
			values[i] = *values[i].(*any)
		}
		list = append(list, fmt.Sprint(values))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}

// lived is a store that has some of everything.
func lived(t *testing.T) *wrapping {
	t.Helper()
	w := newWrapping(t, 3)
	keep(t, w.Store, 1, block(t, "east", noon.UnixMilli(), 1, 7, "pac"), block(t, "west", noon.UnixMilli(), 1, 8, "pac"))
	m := ingest.Message{ID: [16]byte{9}, Kind: 2, Hash: [32]byte{1}}
	do(t, w.Store, func(tx *Tx) error {
		_, err1 := tx.Take(2, m, noon)
		_, err2 := tx.w.exec(`UPDATE session SET last_seq = 4, seen_at = $1 WHERE device = 2`, millis(noon.Add(time.Minute)))
		_, err3 := tx.w.exec(`UPDATE device SET last_seen = $1 WHERE id <> 1`, millis(noon))
		_, err4 := tx.w.exec(`INSERT INTO retired (device, inverter, raw, minutes) VALUES (1, 'east', 5, 3)`)
		return errors.Join(err1, err2, err3, err4)
	})
	return w
}

// restored is the database of a backup.
func restored(t *testing.T, backup string) *Store {
	t.Helper()
	to := filepath.Join(t.TempDir(), "restored.db")
	data, err := os.ReadFile(backup)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err == nil {
		err = Restore(t.Context(), to, noon.Add(time.Hour))
	}
	if err != nil {
		t.Fatal(err)
	}
	return openAt(t, to, Options{})
}

// TestBackup compares every row, the schema among them, before and after.
func TestBackup(t *testing.T) {
	w := lived(t)
	before := dump(t, w.Store)
	for _, table := range []string{"block", "rollup", "retired", "message", "audit", "device_key"} {
		if len(before[table]) == 0 {
			t.Errorf("nothing in %s to keep", table)
		}
	}
	file := filepath.Join(t.TempDir(), "a backup %?#")
	b, err := WriteBackup(t.Context(), w.path, file, noon)
	if err != nil {
		t.Fatal(err)
	}
	want := Backup{Devices: 3, KEKs: []string{w.primary()}}
	if diff := cmp.Diff(want, b); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again, err := CheckBackup(t.Context(), file); err != nil || cmp.Diff(want, again) != "" {
		t.Errorf("checking it: %+v, %v", again, err)
	}
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the backup is %v, %v; want mode 0600", info.Mode(), err)
	}
	if diff := cmp.Diff(before, dump(t, w.Store)); diff != "" {
		t.Errorf("the database changed (-before +after):\n%s", diff)
	}

	s := restored(t, file)
	after := dump(t, s)
	for table, rows := range before {
		switch table {
		case "session", "hs_seen":
			rows = nil
		case "device": // whose last_seen is compared below
			continue
		case "audit":
			after[table] = after[table][:len(after[table])-2]
		}
		if diff := cmp.Diff(rows, after[table]); diff != "" {
			t.Errorf("%s (-before +after):\n%s", table, diff)
		}
	}
	if diff := cmp.Diff(rowsOf(t, w.Store, `(SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name)`),
		rowsOf(t, s, `(SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name)`)); diff != "" {
		t.Errorf("the schema (-before +after):\n%s", diff)
	}
	for name, c := range map[string]time.Time{"d0": {}, "d1": noon.Add(time.Minute), "d2": noon} {
		if d := device(t, s, ecowatt.DeviceID(name)); !d.LastSeen.Equal(c) || d.Group != "north" {
			t.Errorf("%+v, want it last seen at %v", d, c)
		}
	}
	var told []string
	for _, r := range records(t, s, audit.Filter{Last: 2}) {
		told = append(told, r.At.Format(time.TimeOnly)+" "+r.Actor.Name+" "+r.Action)
	}
	if diff := cmp.Diff([]string{"12:00:00 backup backup.made", "13:00:00 restore backup.restored"}, told); diff != "" {
		t.Errorf("the audit log ends with (-want +got):\n%s", diff)
	}
}

// TestRestoredForgetsSessions: handshakes and requests from before are no
// sessions any more, messages are remembered, and devices shake hands again.
func TestRestoredForgetsSessions(t *testing.T) {
	w := lived(t)
	file := filepath.Join(t.TempDir(), "backup")
	if _, err := WriteBackup(t.Context(), w.path, file, noon); err != nil {
		t.Fatal(err)
	}
	s := restored(t, file)
	run(t, s)
	for sid := range w.sessions {
		if _, err := s.Session(t.Context(), sid); !errors.Is(err, session.ErrUnknown) {
			t.Errorf("a session from before: %v", err)
		}
	}
	do(t, s, func(tx *Tx) error {
		got, err := tx.Take(2, ingest.Message{ID: [16]byte{9}, Kind: 2, Hash: [32]byte{1}}, noon)
		if got != ingest.Duplicate {
			t.Errorf("a message that was stored before is %v", got)
		}
		return err
	})
	for id := range w.devices {
		if _, err := s.Establish(t.Context(), w.offer(id)); err != nil {
			t.Errorf("a handshake after it: %v", err)
		}
	}
}

// TestBackupWhileWriting takes one state: what the database says of itself is
// true of every backup.
func TestBackupWhileWriting(t *testing.T) {
	w := newWrapping(t, 2)
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			// Two tables that always tell the same.
			err := w.Commit(t.Context(), func(tx *Tx) error {
				_, err := tx.w.exec(`UPDATE device SET notes = $1 WHERE id = 1`, fmt.Sprint(n))
				return errors.Join(err, tx.Append(audit.Record{At: noon, Actor: audit.Actor{Kind: audit.System}, Action: "test.n", Text: fmt.Sprint(n)}))
			})
			if err != nil {
				done <- err
				return
			}
		}
	}()
	dir := t.TempDir()
	for n := range 8 {
		file := filepath.Join(dir, fmt.Sprint(n))
		if _, err := WriteBackup(t.Context(), w.path, file, noon); err != nil {
			t.Fatal(err)
		}
		s := restored(t, file)
		last := ""
		for _, r := range records(t, s, audit.Filter{Last: 3}) {
			if r.Action == "test.n" {
				last = r.Text
			}
		}
		if d := device(t, s, "d0"); last != "" && d.Notes != last {
			t.Errorf("backup %d: the device says %s and the audit log %s", n, d.Notes, last)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBackupRefuses(t *testing.T) {
	w := newWrapping(t, 1)
	dir := t.TempDir()
	in := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	exists := in("exists", "precious")
	newer := filepath.Join(dir, "newer.db")
	script(t, newer, `PRAGMA application_id = 1163355234; PRAGMA user_version = 99; CREATE TABLE a (b)`)
	var version *VersionError
	for name, c := range map[string]struct {
		from, to string
		is       func(error) bool
	}{
		"no database":      {filepath.Join(dir, "absent"), filepath.Join(dir, "out"), func(err error) bool { return errors.Is(err, fs.ErrNotExist) }},
		"not a database":   {in("text", strings.Repeat("text ", 1000)), filepath.Join(dir, "out"), func(err error) bool { return errors.Is(err, ErrForeign) }},
		"an empty file":    {in("empty", ""), filepath.Join(dir, "out"), func(err error) bool { return errors.Is(err, ErrForeign) }},
		"a newer database": {newer, filepath.Join(dir, "out"), func(err error) bool { return errors.As(err, &version) }},
		"a folder":         {dir, filepath.Join(dir, "out"), func(err error) bool { return err != nil }},
		"a file is there":  {w.path, exists, func(err error) bool { return errors.Is(err, fs.ErrExist) }},
		"onto itself":      {w.path, w.path, func(err error) bool { return errors.Is(err, fs.ErrExist) }},
		"no such folder":   {w.path, filepath.Join(dir, "absent", "out"), func(err error) bool { return errors.Is(err, fs.ErrNotExist) }},
	} {
		before := folder(t, dir)
		if b, err := WriteBackup(t.Context(), c.from, c.to, noon); !c.is(err) || b.Devices != 0 {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
		if diff := cmp.Diff(before, folder(t, dir)); diff != "" {
			t.Errorf("%s: something changed:\n%s", name, diff)
		}
	}
	damaged := filepath.Join(dir, "damaged.db")
	script(t, w.path, `VACUUM INTO '`+damaged+`'`)
	script(t, damaged, `PRAGMA foreign_keys = OFF; DELETE FROM device`)
	if _, err := WriteBackup(t.Context(), damaged, filepath.Join(dir, "out"), noon); !errors.Is(err, ErrNoBackup) {
		t.Errorf("a backup of a damaged database: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "out")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it left a file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := WriteBackup(ctx, w.path, filepath.Join(dir, "out"), noon); err == nil {
		t.Error("a backup that was given up")
	}
	if _, err := os.Lstat(filepath.Join(dir, "out")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it left a file: %v", err)
	}
}

// TestCheckBackupRefuses whatever is not a whole backup: each is no backup, or
// none that this program knows, and is not changed by the look.
func TestCheckBackupRefuses(t *testing.T) {
	w := lived(t)
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if _, err := WriteBackup(t.Context(), w.path, good, noon); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	database := filepath.Join(t.TempDir(), "raw.db")
	script(t, w.path, `VACUUM INTO '`+database+`'`)
	raw, err := os.ReadFile(database)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	check := func(data []byte) error {
		t.Helper()
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := CheckBackup(t.Context(), file)
		if after, reading := os.ReadFile(file); reading != nil || !bytes.Equal(data, after) {
			t.Errorf("it was changed: %v", reading)
		}
		if err != nil && b.Devices != 0 {
			t.Errorf("%+v of %v", b, err)
		}
		return err
	}
	if err := check(content); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"nothing": {}, "text": []byte(strings.Repeat("text ", 2000)), "a raw copy of the database": raw,
		"half":         content[:len(content)/2],
		"a page less":  content[:len(content)-8192],
		"a byte less":  content[:len(content)-1],
		"another mark": edited(content, 68, 'E', 'W', 'x', 'y'),
		"no version":   edited(content, 60, 0, 0, 0, 0),
		"torn pages":   append(bytes.Clone(content[:8192]), bytes.Repeat([]byte{0xff}, len(content)-8192)...),
	} {
		if err := check(data); !errors.Is(err, ErrNoBackup) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v, want ErrNoBackup that names the file", name, err)
		}
	}
	var version *VersionError
	if err := check(edited(content, 60, 0, 0, 0, 99)); !errors.As(err, &version) || version.Found != 99 {
		t.Errorf("a newer one: %v, want a *VersionError", err)
	}
	script(t, good, `INSERT INTO hs_seen VALUES (1, 1, zeroblob(32), 1)`)
	if _, err := CheckBackup(t.Context(), good); !errors.Is(err, ErrNoBackup) || !strings.Contains(err.Error(), "hs_seen") {
		t.Errorf("with handshakes: %v", err)
	}
	for name, path := range map[string]string{"a folder": dir, "no file": filepath.Join(dir, "absent")} {
		if _, err := CheckBackup(t.Context(), path); err == nil {
			t.Errorf("%s was checked", name)
		}
	}
}

// edited is data with other bytes from an offset of the file's header on.
func edited(data []byte, at int, b ...byte) []byte {
	data = bytes.Clone(data)
	copy(data[at:], b)
	return data
}

// TestBackupIsNoDatabase: nobody serves a backup by mistake.
func TestBackupIsNoDatabase(t *testing.T) {
	w := newWrapping(t, 1)
	file := filepath.Join(t.TempDir(), "backup")
	if _, err := WriteBackup(t.Context(), w.path, file, noon); err != nil {
		t.Fatal(err)
	}
	if s, err := Open(t.Context(), file, Options{}); !errors.Is(err, ErrForeign) {
		t.Errorf("%v, %v; want ErrForeign", s, err)
	}
}
