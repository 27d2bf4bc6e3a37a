package cloud

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/rollout"
	"ecowatt/firmware"
	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
	"ecowatt/key"
)

// signing is a key that a test names.
func signing(tb testing.TB, name string) key.Signing {
	tb.Helper()
	seed := sha256.Sum256([]byte(name))
	k, err := key.SigningFromSeed(seed[:])
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// testRoot is a root of trust of that version, signed by its one root key, which
// trusts a release key.
func testRoot(tb testing.TB, version uint64, release string) []byte {
	tb.Helper()
	r, err := firmware.NewRoot(version, []ed25519.PublicKey{signing(tb, "root").Public()}, []ed25519.PublicKey{signing(tb, release).Public()}, 1, 1)
	if err != nil {
		tb.Fatal(err)
	}
	e, err := r.Unsigned()
	if err == nil {
		err = e.Sign(firmware.StatementRoot, signing(tb, "root"))
	}
	b, encoding := e.Encode()
	if err := errors.Join(err, encoding); err != nil {
		tb.Fatal(err)
	}
	return b
}

// notes is an audit log in memory.
type notes struct{ records []audit.Record }

func (n *notes) Append(_ context.Context, r audit.Record) error {
	n.records = append(n.records, r)
	return nil
}

// Power is cut at every operation while roots are added: the chain is read again as
// far as it was acknowledged at least, and goes on.
func TestRootsSurvivePowerCuts(t *testing.T) {
	first, second := testRoot(t, 1, "a"), testRoot(t, 2, "b")
	add := func(fsys disk.FS, acknowledged *uint64) error {
		x, err := openTrust(fsys, &notes{}, time.Now)
		for _, signed := range [][]byte{first, second} {
			if err != nil {
				return err
			}
			if _, err = x.AddRoot(t.Context(), signed, "ada"); err == nil {
				*acknowledged++
			}
		}
		return err
	}
	var acknowledged uint64
	work := func(fsys disk.FS) error {
		acknowledged = 0
		return add(fsys, &acknowledged)
	}
	disktest.Sweep(t, work, func(t *testing.T, fsys disk.FS, _ disktest.Cut) {
		x, err := openTrust(fsys, &notes{}, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		if got := x.Roots().Version(); got < acknowledged {
			t.Errorf("root %d is the newest, %d was acknowledged", got, acknowledged)
		}
		var again uint64
		if err := add(fsys, &again); err != nil {
			t.Fatal(err)
		}
		if x, err = openTrust(fsys, &notes{}, time.Now); err != nil || !bytes.Equal(x.Roots().Newest(), second) || x.Roots().First() != 1 {
			t.Errorf("the newest root is %d, %v", x.Roots().Version(), err)
		}
	})
}

// A chain that has a hole, or a root that cannot be read, stops the cloud from
// starting rather than let an older root count.
func TestBrokenRoots(t *testing.T) {
	for name, damage := range map[string]func(disk.FS) error{
		"a hole": func(fsys disk.FS) error { return disk.Delete(fsys, rootFile(2)) },
		"damage": func(fsys disk.FS) error { return disk.WriteFile(fsys, rootFile(3), []byte("root"), 0o600) },
		"too large": func(fsys disk.FS) error {
			return disk.WriteFile(fsys, rootFile(3), make([]byte, maxRoot+1), 0o600)
		},
	} {
		fsys := disktest.New()
		x, err := openTrust(fsys, &notes{}, time.Now)
		for version := uint64(1); version <= 3 && err == nil; version++ {
			_, err = x.AddRoot(t.Context(), testRoot(t, version, "a"), "ada")
		}
		if err := errors.Join(err, damage(fsys)); err != nil {
			t.Fatal(err)
		}
		if _, err := openTrust(fsys, &notes{}, time.Now); err == nil || !strings.Contains(err.Error(), "firmware/roots/3") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A root is in the log before it counts; what is refused is there with its reason,
// and changes nothing; a disk that fails is told of as well.
func TestRootsAreLogged(t *testing.T) {
	log, fsys := &notes{}, disktest.New()
	x, err := openTrust(fsys, log, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	add := func(signed []byte) (bool, rollout.Code) {
		added, err := x.AddRoot(t.Context(), signed, "ada")
		refused, _ := errors.AsType[*rollout.RefusedError](err)
		if refused == nil {
			if err != nil {
				t.Fatal(err)
			}
			return added, ""
		}
		return added, refused.Code
	}
	first := testRoot(t, 1, "a")
	for _, step := range []struct {
		name   string
		signed []byte
		added  bool
		code   rollout.Code
		log    string
	}{
		{"no root", []byte("root"), false, rollout.CodeFormat, "firmware.refused"},
		{"the first", first, true, "", "firmware.root_added"},
		{"again", first, false, "", ""},
		{"a later one", testRoot(t, 3, "a"), false, rollout.CodeRoot, "firmware.refused"},
		{"not signed", bytes.Replace(testRoot(t, 2, "a"), []byte("fw-root"), []byte("fw-tree"), 1), false, rollout.CodeSignature, "firmware.refused"},
		{"the next", testRoot(t, 2, "b"), true, "", "firmware.root_added"},
	} {
		before := len(log.records)
		added, code := add(step.signed)
		if added != step.added || code != step.code {
			t.Errorf("%s: added %v, refused %q", step.name, added, code)
		}
		var last audit.Record
		if len(log.records) > before {
			last = log.records[before]
		}
		if last.Action != step.log || last.Action != "" && last.Actor.Name != "ada" || len(log.records) > before+1 {
			t.Errorf("%s: the log has %v", step.name, log.records[before:])
		}
		reason := ""
		if code == rollout.CodeSignature {
			reason = "FW_BAD_SIGNATURE"
		}
		if last.Attrs[audit.AttrReason] != reason {
			t.Errorf("%s: the log has the reason %q", step.name, last.Attrs[audit.AttrReason])
		}
	}
	fsys.CutAt(fsys.Ops()+1, disktest.Before)
	if added, err := x.AddRoot(t.Context(), testRoot(t, 3, "b"), "ada"); err == nil || added || x.Roots().Version() != 2 {
		t.Errorf("added %v, %v, with root %d; the disk was away", added, err, x.Roots().Version())
	}
	if last := log.records[len(log.records)-1]; last.Action != "firmware.failed" {
		t.Errorf("the log ends with %v", last)
	}
}

// A new device gets the newest root, also from a cloud that was started again.
func TestNewDevicesGetTheNewestRoot(t *testing.T) {
	data := t.TempDir()
	c := start(t, Options{Data: data})
	rootOf := func(id string) []byte {
		status, body := c.ask(http.MethodPost, "/api/v1/devices", "application/json", `{"id":"`+id+`"}`)
		var added struct {
			Enrolment struct {
				Root []byte `json:"firmware_root"`
			} `json:"enrolment"`
		}
		if err := json.Unmarshal([]byte(body), &added); err != nil || status != http.StatusCreated {
			t.Fatalf("%d %s", status, body)
		}
		return added.Enrolment.Root
	}
	if got := rootOf("roof-1"); len(got) != 0 {
		t.Errorf("a root of %d bytes where there is none", len(got))
	}
	for version := uint64(1); version <= 2; version++ {
		signed := testRoot(t, version, "a")
		if status, body := c.ask(http.MethodPut, "/api/v1/firmware/root", "application/cbor", string(signed)); status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		if got := rootOf("roof-1" + string(rune('0'+version))); !bytes.Equal(got, signed) {
			t.Errorf("a device gets another root than %d", version)
		}
	}
	c.stop()
	c = start(t, Options{Data: data})
	if got := rootOf("roof-3"); !bytes.Equal(got, testRoot(t, 2, "a")) {
		t.Error("after a restart a device gets another root")
	}
}
