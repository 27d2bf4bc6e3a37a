package cloud

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt/cloud/keyring"
	"ecowatt/cloud/store"
)

// TestBackupAndRestore backs up a cloud that serves, restores it elsewhere, and
// lets a device go on there.
func TestBackupAndRestore(t *testing.T) {
	c := start(t, Options{Data: t.TempDir()})
	d, err := c.enrol("roof-1")
	if err == nil {
		err = errors.Join(d.connect(), d.exchange())
	}
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "backup")
	b, err := Backup(t.Context(), c.data, "", out)
	if err != nil {
		t.Fatal(err)
	}
	kek := c.keys()[0].ID
	if diff := cmp.Diff(store.Backup{Devices: 1, KEKs: []string{kek}}, b); diff != "" {
		t.Errorf("backup (-want +got):\n%s", diff)
	}
	if secret := readFile(t, filepath.Join(c.data, "keyring.json")); bytes.Contains([]byte(readFile(t, out)), []byte(strings.Split(secret, `"key": "`)[1][:20])) {
		t.Error("the key ring is in the backup")
	}
	if err := d.exchange(); err != nil {
		t.Errorf("after the backup: %v", err)
	}
	ring, token := readFile(t, filepath.Join(c.data, "keyring.json")), c.token()
	c.stop()

	data := filepath.Join(t.TempDir(), "new", "folder")
	r, err := Restore(t.Context(), out, data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Restored{Backup: b, Missing: []string{kek}}, r); diff != "" {
		t.Errorf("restored (-want +got):\n%s", diff)
	}
	for name, mode := range map[string]os.FileMode{"ecowatt.db": 0o600, ".": 0o700 | os.ModeDir} {
		if info, err := os.Stat(filepath.Join(data, name)); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want mode %v", name, info, err, mode)
		}
	}
	if err := Run(t.Context(), Options{Data: data, Listen: "127.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), kek) {
		t.Errorf("without its key ring: %v", err)
	}
	write(t, filepath.Join(data, "keyring.json"), ring)
	write(t, filepath.Join(data, "token"), token)
	c = start(t, Options{Data: data})
	d.address = c.address
	if err := d.exchange(); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("a session of before: %v, want that it is refused", err)
	}
	if err := errors.Join(d.connect(), d.exchange()); err != nil {
		t.Errorf("a new session: %v", err)
	}
	if status, log := c.ask(http.MethodGet, "/api/v1/audit", "", ""); status != 200 || !strings.Contains(log, "backup.restored") {
		t.Errorf("the audit log: %d %s", status, log)
	}
}

// TestRestoreFolders: only what cannot be mixed up may be there.
func TestRestoreFolders(t *testing.T) {
	c := start(t, Options{Data: t.TempDir()})
	c.add("roof-1")
	out := filepath.Join(t.TempDir(), "backup")
	if _, err := Backup(t.Context(), c.data, "", out); err != nil {
		t.Fatal(err)
	}
	ring := readFile(t, filepath.Join(c.data, "keyring.json"))
	if _, err := Restore(t.Context(), out, c.data); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("into a cloud that serves: %v", err)
	}
	c.stop()
	for _, name := range []string{"ecowatt.db", "ecowatt.db-wal", "notes.txt", ".hidden"} {
		data := t.TempDir()
		write(t, filepath.Join(data, name), "precious")
		write(t, filepath.Join(data, "ecowatt.db.restoring"), "left")
		if _, err := Restore(t.Context(), out, data); err == nil || !strings.Contains(err.Error(), "holds "+name) || !strings.Contains(err.Error(), data) {
			t.Errorf("beside %s: %v", name, err)
		}
		if diff := cmp.Diff(map[string]string{name: "precious", "ecowatt.db.restoring": "left"}, contents(t, data)); diff != "" && !strings.HasSuffix(name, "-wal") {
			t.Errorf("beside %s, something changed:\n%s", name, diff)
		}
	}

	// What a restore that was cut off left is gone, and the ring is looked at.
	data := t.TempDir()
	for _, name := range []string{"ecowatt.db.restoring", "ecowatt.db.restoring-wal"} {
		write(t, filepath.Join(data, name), "left")
	}
	write(t, filepath.Join(data, "keyring.json"), ring)
	r, err := Restore(t.Context(), out, data)
	if err != nil || len(r.Missing) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if left, err := filepath.Glob(filepath.Join(data, "*restoring*")); err != nil || len(left) > 0 {
		t.Errorf("%v, %v is left", left, err)
	}
	start(t, Options{Data: data}).stop()

	other := t.TempDir()
	if _, err := keyring.Create(filepath.Join(other, "keyring.json"), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if r, err := Restore(t.Context(), out, other); err != nil || len(r.Missing) != 1 {
		t.Errorf("beside another ring: %+v, %v", r, err)
	}
}

// What cannot be meant makes nothing.
func TestBackupRefuses(t *testing.T) {
	c := start(t, Options{Data: t.TempDir()})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "exists"), "precious")
	for _, test := range []struct{ data, db, out, want string }{
		{filepath.Join(dir, "absent"), "", filepath.Join(dir, "out"), "there is no database " + filepath.Join(dir, "absent", "ecowatt.db")},
		{c.data, "postgres://x", filepath.Join(dir, "out"), "--db: PostgreSQL"},
		{c.data, "sqlite:" + filepath.Join(dir, "exists"), filepath.Join(dir, "out"), "not an EcoWatt database"},
		{c.data, "", filepath.Join(dir, "exists"), "exists already; it is not overwritten"},
		{c.data, "", filepath.Join(c.data, "ecowatt.db"), "exists already; it is not overwritten"},
		{c.data, "", filepath.Join(dir, "absent", "out"), "no such file"},
	} {
		if _, err := Backup(t.Context(), test.data, test.db, test.out); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%+v: %v", test, err)
		}
	}
	if diff := cmp.Diff(map[string]string{"exists": "precious"}, contents(t, dir)); diff != "" {
		t.Errorf("something changed:\n%s", diff)
	}
	data := filepath.Join(dir, "data")
	for _, backup := range []string{filepath.Join(dir, "absent"), filepath.Join(dir, "exists"), filepath.Join(c.data, "ecowatt.db"), dir} {
		if _, err := Restore(t.Context(), backup, data); err == nil || !strings.Contains(err.Error(), backup) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", backup, err)
		}
	}
	if _, err := os.Stat(data); !errors.Is(err, os.ErrNotExist) {
		t.Error("a folder was made for what is no backup")
	}
}
