package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"
)

// script runs SQL on a database file, as a program of somebody else would.
func script(t *testing.T, path, text string) {
	t.Helper()
	c, err := sqlite3.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Exec(text), c.Close()); err != nil {
		t.Fatal(err)
	}
}

// folder is the content of all files of a folder but the index of a
// write-ahead log, which is a cache, and logs without content.
func folder(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	content := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(e.Name(), "-shm") && (len(data) > 0 || !strings.HasSuffix(e.Name(), "-wal")) {
			content[e.Name()] = string(data)
		}
	}
	return content
}

func TestOpenCreates(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := t.TempDir()
	path := filepath.Join(dir, "eco watt%20?#+.db") // characters that a URI gives a meaning
	s, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	do(t, s, note("a"))
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(e.Name(), filepath.Base(path)) {
			t.Errorf("a file %q appeared", e.Name())
		}
		// The -shm file holds page numbers, nothing of the content.
		if info.Mode().Perm() != 0o600 && !strings.HasSuffix(e.Name(), "-shm") {
			t.Errorf("%s has the mode %v, want 0600", e.Name(), info.Mode())
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left := folder(t, dir); len(left) != 1 {
		t.Errorf("closing leaves %d files, want the database alone", len(left))
	}
	if diff := cmp.Diff([]string{"a"}, notes(t, openAt(t, path, Options{}))); diff != "" {
		t.Errorf("opened again (-want +got):\n%s", diff)
	}
}

// TestSettings asks both kinds of connections for what durability and
// confidentiality rest on.
func TestSettings(t *testing.T) {
	s := open(t)
	s.turnTo(t, func(w *writer) {
		for pragma, want := range map[string]string{
			"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "secure_delete": "1",
			"trusted_schema": "0", "page_size": "8192", "recursive_triggers": "1",
		} {
			var got string
			if _, err := w.row(`PRAGMA `+pragma, nil, &got); err != nil || got != want {
				t.Errorf("writer: %s is %s, %v; want %s", pragma, got, err, want)
			}
		}
	})
	if n := number(t, s, `PRAGMA query_only`); n != 1 {
		t.Error("a reader may write")
	}
	if _, err := s.read.ExecContext(t.Context(), `DELETE FROM token`); !errors.Is(err, sqlite3.READONLY) {
		t.Errorf("writing as a reader: %v, want READONLY", err)
	}
}

// refused makes a file and returns why Open refuses it, having checked that
// Open did not touch it.
func refused(t *testing.T, makeFile func(path string)) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ecowatt.db")
	makeFile(path)
	before := folder(t, filepath.Dir(path))
	s, err := Open(t.Context(), path, Options{})
	if err == nil {
		s.Close()
		t.Fatal("it was opened")
	}
	if !strings.Contains(err.Error(), path) {
		t.Errorf("%v; want an error that names the file", err)
	}
	if diff := cmp.Diff(before, folder(t, filepath.Dir(path))); diff != "" {
		t.Error("the files changed")
	}
	return err
}

func TestOpenRefusesWhatIsNotOurs(t *testing.T) {
	content := func(path string) []byte { return []byte(folder(t, filepath.Dir(path))[filepath.Base(path)]) }
	for name, makeFile := range map[string]func(path string){
		"another program's":                 func(path string) { script(t, path, `CREATE TABLE x (y); INSERT INTO x VALUES (1)`) },
		"another program's, with a log":     func(path string) { crashed(t, path, `PRAGMA journal_mode = WAL; CREATE TABLE x (y)`) },
		"another program's, that has an id": func(path string) { script(t, path, `PRAGMA application_id = 7; PRAGMA user_version = 1`) },
		"a version below 1": func(path string) {
			create(t, path)
			script(t, path, `PRAGMA user_version = -1`)
		},
		"text":      func(path string) { put(t, path, []byte("hello")) },
		"much text": func(path string) { put(t, path, bytes.Repeat([]byte("hello "), 10_000)) },
		"cut": func(path string) {
			create(t, path)
			put(t, path, content(path)[:20_000])
		},
		"a damaged schema": func(path string) {
			create(t, path)
			data := content(path)
			copy(data[100:], bytes.Repeat([]byte{0xff}, 200))
			put(t, path, data)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := refused(t, makeFile); !errors.Is(err, ErrForeign) {
				t.Errorf("%v, want ErrForeign", err)
			}
		})
	}
}

func TestOpenRefusesWhatIsNewer(t *testing.T) {
	current := number(t, open(t), `PRAGMA user_version`)
	const future = `PRAGMA user_version = 1000; CREATE TABLE future (x)`
	for name, makeFile := range map[string]func(path string){
		"closed": func(path string) {
			create(t, path)
			script(t, path, future)
		},
		"crashed": func(path string) {
			create(t, path)
			crashed(t, path, future)
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := refused(t, makeFile)
			var newer *VersionError
			if !errors.As(err, &newer) || newer.Found != 1000 || newer.Know != int(current) {
				t.Errorf("%v, want a *VersionError of 1000 and %d", err, current)
			}
		})
	}
}

func create(t *testing.T, path string) {
	t.Helper()
	s, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// crashed leaves the files as they are while a program that has run text is
// still there: with a write-ahead log that holds what it did.
func crashed(t *testing.T, path, text string) {
	t.Helper()
	elsewhere := filepath.Join(t.TempDir(), "ecowatt.db")
	if data, err := os.ReadFile(path); err == nil {
		put(t, elsewhere, data)
	}
	c, err := sqlite3.Open(elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Exec(text); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(elsewhere + suffix)
		if err != nil {
			t.Fatal(err)
		}
		put(t, path+suffix, data)
	}
}

func TestOpenWhereNothingCanBe(t *testing.T) {
	dir := t.TempDir()
	put(t, filepath.Join(dir, "file"), nil)
	for name, path := range map[string]string{
		"a folder":                   dir,
		"in a folder that is not":    filepath.Join(dir, "missing", "ecowatt.db"),
		"in a folder that is a file": filepath.Join(dir, "file", "ecowatt.db"),
	} {
		if _, err := Open(t.Context(), path, Options{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an error that names it", name, err)
		}
	}
	if left := folder(t, dir); len(left) != 1 {
		t.Errorf("failing left %v", left)
	}
}

// TestOpenWithoutPermission opens as another user, to whom nothing belongs:
// tests often run as root, who may do everything.
func TestOpenWithoutPermission(t *testing.T) {
	outer := filepath.Dir(t.TempDir())
	closed, mine := filepath.Join(outer, "closed"), filepath.Join(outer, "mine")
	path := filepath.Join(mine, "ecowatt.db")
	for dir, mode := range map[string]fs.FileMode{closed: 0o555, mine: 0o777, outer: 0o755} {
		if err := errors.Join(os.MkdirAll(dir, mode), os.Chmod(dir, mode)); err != nil {
			t.Fatal(err)
		}
	}
	create(t, path)
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	before := folder(t, mine)
	var wait sync.WaitGroup
	wait.Go(func() {
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		if os.Geteuid() == 0 {
			if err := syscall.Setfsuid(65534); err != nil {
				t.Error(err)
				return
			}
		}
		for name, path := range map[string]string{"a folder that is read-only": filepath.Join(closed, "ecowatt.db"), "a file that is read-only": path} {
			_, err := Open(t.Context(), path, Options{})
			if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v, want fs.ErrPermission that names it", name, err)
			}
		}
	})
	wait.Wait()
	if diff := cmp.Diff(before, folder(t, mine)); diff != "" {
		t.Error("the file changed")
	}
}

// TestMigrationsHaveNames that put them in order.
func TestMigrationsHaveNames(t *testing.T) {
	names, err := migrationNames()
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for i, name := range names {
		if !strings.HasPrefix(filepath.Base(name), fmt.Sprintf("%04d_", i+1)) {
			t.Errorf("migration %d is %s", i+1, name)
		}
	}
}
