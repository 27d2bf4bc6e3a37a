package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ecowatt/agent/identity"
	"ecowatt/key"
)

// credentials makes a folder as systemd makes it, with one credential.
func credentials(t *testing.T, name, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o400); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestStorageKey(t *testing.T) {
	const secret = "sixteen bytes it"
	want, err := key.StorageFromSecret([]byte(secret + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := storageKey(credentials(t, identity.StorageCredential, secret+"\n"))
	if err != nil || !k.Equal(want) {
		t.Errorf("the key is not that of every byte of the credential: %v", err)
	}
	for name, dir := range map[string]string{
		"no folder":                  "",
		"a folder that is not there": filepath.Join(t.TempDir(), "absent"),
		"another credential":         credentials(t, "other", secret),
	} {
		if k, err := storageKey(dir); err != nil || !k.IsZero() {
			t.Errorf("%s: %v, a key: %v", name, err, !k.IsZero())
		}
	}
	for name, c := range map[string]struct{ dir, want string }{
		"empty":     {credentials(t, identity.StorageCredential, ""), "0 bytes"},
		"too short": {credentials(t, identity.StorageCredential, secret[1:]), "15 bytes, at least 16"},
		"huge":      {credentials(t, identity.StorageCredential, strings.Repeat(secret, 1000)), "larg"},
		"no folder": {filepath.Join(credentials(t, "file", secret), "file"), "not a directory"},
	} {
		_, err := storageKey(c.dir)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.dir) || strings.Contains(err.Error(), secret[:8]) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestSealedFolder: what was enrolled without the credential is sealed by the
// first start with it, and then neither starts nor is enrolled without it.
func TestSealedFolder(t *testing.T) {
	g := newGateway(t)
	dir := credentials(t, identity.StorageCredential, "a secret that systemd keeps")
	slot := filepath.Join(g.dir, "keys", "psk.a")
	secret := g.cloud.active().Key.Secret()
	plain := func() bool {
		t.Helper()
		b, err := os.ReadFile(slot)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(b, secret[:8])
	}
	start := func(credentials string) error {
		t.Helper()
		d, err := open(Options{Dir: g.dir, Log: &lockedBuffer{}, Credentials: credentials}, monotonic)
		if err != nil {
			return err
		}
		return d.close()
	}
	if err := start(""); err != nil || !plain() {
		t.Fatalf("without the credential: %v, plain: %v", err, plain())
	}
	for range 2 {
		if err := start(dir); err != nil || plain() {
			t.Fatalf("with it: %v, plain: %v", err, plain())
		}
	}
	info, err := os.Stat(slot)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("sealed, the slot has the mode %v, %v", info.Mode(), err)
	}
	other := credentials(t, identity.StorageCredential, "a secret of another gateway")
	for name, c := range map[string]struct{ credentials, want string }{
		"without it":   {"", "the credential ecowatt-storage-key, which was not given"},
		"with another": {other, "does not open with the credential ecowatt-storage-key"},
	} {
		again := enrolmentFile(t, "roof-1", "http://elsewhere", g.cloud.active().Credential)
		_, enrolling := Enroll(g.dir, again, c.credentials)
		for _, err := range []error{start(c.credentials), enrolling} {
			if !errors.Is(err, identity.ErrStorage) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), g.dir[:len(g.dir)-1]) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := os.Stat(again); err != nil {
			t.Errorf("%s: the enrolment file is gone: %v", name, err)
		}
	}
	if _, err := Enroll(g.dir, enrolmentFile(t, "roof-1", "http://elsewhere", g.cloud.active().Credential), dir); err != nil || plain() {
		t.Errorf("enrolled again with it: %v, plain: %v", err, plain())
	}
}

// TestEnrollSealed: with the credential at the enrolment no key is ever plain.
func TestEnrollSealed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	c := credential(t)
	if _, err := Enroll(dir, enrolmentFile(t, "roof-1", "http://cloud", c), credentials(t, identity.StorageCredential, "sixteen bytes it")); err != nil {
		t.Fatal(err)
	}
	secret := c.Key.Secret()
	if got := filesWith(t, dir, secret[:]); len(got) > 0 {
		t.Errorf("the key is in %v", got)
	}
	short := enrolmentFile(t, "roof-2", "http://cloud", credential(t))
	if _, err := Enroll(filepath.Join(t.TempDir(), "other"), short, credentials(t, identity.StorageCredential, "short")); !errors.Is(err, key.ErrLength) {
		t.Errorf("with a credential that is too short: %v", err)
	}
	if _, err := os.Stat(short); err != nil {
		t.Errorf("the enrolment file is gone: %v", err)
	}
}

// TestDamagedSlots: the agent does not start, says in one line how to go on, and
// that is how.
func TestDamagedSlots(t *testing.T) {
	g := newGateway(t)
	for _, name := range []string{"psk.a", "psk.b"} {
		if err := os.WriteFile(filepath.Join(g.dir, "keys", name), []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := Run(t.Context(), Options{Dir: g.dir, Log: &lockedBuffer{}})
	if !errors.Is(err, identity.ErrNoKey) {
		t.Fatal(err)
	}
	for _, want := range []string{g.dir[:len(g.dir)-1], "keys/psk.a", "keys/psk.b", "import the enrolment file again", "'ecowatt device recover roof-1'"} {
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q does not say %q in one line", err, want)
		}
	}
	if _, err := Enroll(g.dir, enrolmentFile(t, "roof-1", "http://cloud", g.cloud.active().Credential), ""); err != nil {
		t.Fatal(err)
	}
	d, err := open(Options{Dir: g.dir, Log: &lockedBuffer{}}, monotonic)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.close(); err != nil {
		t.Error(err)
	}
}
