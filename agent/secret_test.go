package agent

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ecowatt/wire"
)

// filesWith returns the files below a folder that hold a secret, or eight bytes
// in a row of it, as they are or in hexadecimal.
func filesWith(t *testing.T, dir string, secret []byte) (names []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != "." {
			return nil // an agent that runs replaces files
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, path))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		text := bytes.ToLower(data)
		for i := 0; i+8 <= len(secret); i += 4 {
			part := secret[i : i+8]
			if bytes.Contains(data, part) || bytes.Contains(text, []byte(hex.EncodeToString(part))) {
				names = append(names, path)
				return nil
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestNoSessionOnDisk searches the folder of an agent, while it runs, after it
// was stopped and after another start, for what sessions are made of.
//
// Attacks: R11
func TestNoSessionOnDisk(t *testing.T) {
	g := newGateway(t)
	device := credential(t)
	dir := t.TempDir() // a folder with a key that is there to be found
	if _, err := Enroll(dir, enrolmentFile(t, "roof-2", "http://cloud", device), ""); err != nil {
		t.Fatal(err)
	}
	known := device.Key.Secret()
	if got := filesWith(t, dir, known[:]); len(got) == 0 {
		t.Fatal("the search does not find a key that is there")
	}
	search := func(when string) {
		t.Helper()
		g.cloud.mu.Lock()
		defer g.cloud.mu.Unlock()
		for sid, s := range g.cloud.sessions {
			keys := s.keys.Secret()
			for what, secret := range map[string][]byte{"request key": keys[:32], "request HMAC key": keys[32:64], "answer key": keys[64:], "session id": sid[:]} {
				if got := filesWith(t, g.dir, secret); len(got) > 0 {
					t.Errorf("%s, the %s is in %s", when, what, strings.Join(got, ", "))
				}
			}
		}
		psk := g.cloud.find("active").Key.NoisePSK(wire.Suite1).Secret()
		if got := filesWith(t, g.dir, psk[:]); len(got) > 0 {
			t.Errorf("%s, the key of the handshake is in %s", when, strings.Join(got, ", "))
		}
	}
	for _, when := range []string{"at the first start", "at the second start"} {
		before := len(g.cloud.samples("inv1", wire.BootID{}, 0))
		stop := g.run(t)
		g.await(t, "two samples", func() bool { return len(g.cloud.samples("inv1", wire.BootID{}, 0)) >= before+2 })
		search(when)
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		search(when + ", stopped")
	}
	if n := len(g.cloud.sessions); n != 2 {
		t.Errorf("%d sessions of two starts", n)
	}
}
