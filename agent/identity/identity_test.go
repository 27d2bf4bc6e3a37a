package identity

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
	"ecowatt/key"
)

func credential(tb testing.TB, epoch key.Epoch) Credential {
	tb.Helper()
	k, err := key.NewDevice(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	id, err := key.NewID(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return Credential{ID: id, Epoch: epoch, Key: k}
}

func enrolment(tb testing.TB) Enrolment {
	tb.Helper()
	return Enrolment{Device: "roof-1", CloudURL: "https://cloud.example.org", Credential: credential(tb, 1), FirmwareRoot: []byte("root")}
}

// at is the gateway's folder on a disk, without a storage key.
func at(fsys disk.FS) Folder { return Folder{FS: fsys} }

// plain returns the bytes of a plain slot.
func plain(tb testing.TB, s slot) []byte {
	tb.Helper()
	b, err := appendSlot(nil, s, key.Storage{})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// only returns the bytes of a plain slot of an active key.
func only(tb testing.TB, c Credential) []byte {
	tb.Helper()
	return plain(tb, slot{Credential: c, state: active})
}

// writeSlot writes a slot file with other means than the code under test uses.
func writeSlot(t *testing.T, fsys disk.FS, name string, c Credential) {
	t.Helper()
	if err := disk.MkdirAll(fsys, keysFolder, folderMode); err != nil {
		t.Fatal(err)
	}
	writeFile(t, fsys, name, only(t, c), 0o600)
}

func writeFile(t *testing.T, fsys disk.FS, name string, data []byte, mode fs.FileMode) {
	t.Helper()
	if err := disk.WriteFile(fsys, name, data, mode); err != nil {
		t.Fatal(err)
	}
}

func enroll(t *testing.T, fsys disk.FS, e Enrolment) {
	t.Helper()
	if err := at(fsys).Enroll(e); err != nil {
		t.Fatalf("Enroll: %v", err)
	}
}

// is checks that id is what e made of the device.
func (e Enrolment) is(t *testing.T, id Identity) {
	t.Helper()
	if id.Device != e.Device || id.CloudURL != e.CloudURL || !bytes.Equal(id.FirmwareRoot, e.FirmwareRoot) || !id.Active.Equal(e.Credential) {
		t.Errorf("loaded %+v, want %+v", id, e)
	}
}

func TestEnrollAndLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	e := enrolment(t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	fsys := disk.OS(dir)
	if _, err := at(fsys).Load(); !errors.Is(err, ErrNotEnrolled) {
		t.Fatalf("an empty folder: %v", err)
	}
	for range 2 { // the same again is fine
		enroll(t, fsys, e)
		id, err := at(fsys).Load()
		if err != nil {
			t.Fatal(err)
		}
		e.is(t, id)
		if id.Fallback != nil || id.Torn != nil {
			t.Errorf("loaded %+v", id)
		}
	}
	for name, want := range map[string]fs.FileMode{slotA: 0o600, identityFile: 0o600, keysFolder: 0o700 | fs.ModeDir} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, identityFile))
	if err != nil {
		t.Fatal(err)
	}
	want := `{
  "format": 1,
  "device_id": "roof-1",
  "cloud_url": "https://cloud.example.org",
  "firmware_root": "cm9vdA=="
}
`
	if diff := cmp.Diff(want, string(text)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", identityFile, diff)
	}
}

// TestEnrollPowerCut: whatever is cut, the device is enrolled or it is not, and
// can be enrolled again; a key that somebody else left in the folder is never
// taken for the device's.
func TestEnrollPowerCut(t *testing.T) {
	for _, leftover := range []bool{false, true} {
		t.Run(fmt.Sprintf("leftover=%v", leftover), func(t *testing.T) {
			e, foreign := enrolment(t), credential(t, 7)
			work := func(fsys disk.FS) error {
				if leftover {
					if err := disk.MkdirAll(fsys, keysFolder, folderMode); err != nil {
						return err
					}
					if err := disk.WriteFile(fsys, slotB, only(t, foreign), 0o600); err != nil {
						return err
					}
				}
				return at(fsys).Enroll(e)
			}
			disktest.Sweep(t, work, func(t *testing.T, fsys disk.FS, cut disktest.Cut) {
				id, err := at(fsys).Load()
				if cut.Err == nil || err == nil {
					if err != nil {
						t.Fatalf("Load: %v", err)
					}
					e.is(t, id)
				} else if !errors.Is(err, ErrNotEnrolled) {
					t.Fatalf("neither enrolled nor not: %v", err)
				}
				enroll(t, fsys, e)
				if id, err = at(fsys).Load(); err != nil {
					t.Fatalf("Load after enrolling again: %v", err)
				}
				e.is(t, id)
			})
		})
	}
}

func TestEnrollRefusesAnothersFolder(t *testing.T) {
	e := enrolment(t)
	fsys := disktest.New()
	enroll(t, fsys, e)
	other := enrolment(t)
	other.Device = "roof-2"
	if err := at(fsys).Enroll(other); !errors.Is(err, ErrOther) || !strings.Contains(err.Error(), "roof-1") {
		t.Errorf("another device: %v", err)
	}
	rekeyed := e
	rekeyed.Credential = credential(t, 1)
	if err := at(fsys).Enroll(rekeyed); !errors.Is(err, ErrOther) || !strings.Contains(err.Error(), "another key") {
		t.Errorf("another key: %v", err)
	}
	id, err := at(fsys).Load()
	if err != nil {
		t.Fatal(err)
	}
	e.is(t, id)

	moved := e
	moved.CloudURL = "https://other.example.org"
	enroll(t, fsys, moved)
	if id, err = at(fsys).Load(); err != nil {
		t.Fatal(err)
	}
	moved.is(t, id)

	writeFile(t, fsys, slotA, []byte("torn"), 0o600) // no key left that could be lost
	enroll(t, fsys, rekeyed)
	if id, err = at(fsys).Load(); err != nil {
		t.Fatal(err)
	}
	rekeyed.is(t, id)
}

func TestKeyFileModes(t *testing.T) {
	for _, c := range []struct {
		mode fs.FileMode
		want string // of the error, "" for none
	}{
		{0o600, ""},
		{0o400, ""},
		{0o640, "keys/psk.b has mode 0640, 0600 is wanted"},
		{0o644, "keys/psk.b has mode 0644, 0600 is wanted"},
		{0o700, "keys/psk.b has mode 0700, 0600 is wanted"},
		{0o602, "keys/psk.b has mode 0602, 0600 is wanted"},
	} {
		dir := t.TempDir()
		fsys := disk.OS(dir)
		e := enrolment(t)
		enroll(t, fsys, e)
		writeSlot(t, fsys, slotB, credential(t, 2))
		if err := os.Chmod(filepath.Join(dir, slotB), c.mode); err != nil {
			t.Fatal(err)
		}
		_, err := at(fsys).Load()
		again := at(fsys).Enroll(e)
		if c.want == "" {
			if err != nil || again != nil {
				t.Errorf("mode %v: %v, %v", c.mode, err, again)
			}
			continue
		}
		for _, err := range []error{err, again} {
			if !errors.Is(err, ErrMode) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("mode %v: %v, want %q", c.mode, err, c.want)
			}
		}
	}
}

func TestKeyFileOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	dir := t.TempDir()
	fsys := disk.OS(dir)
	enroll(t, fsys, enrolment(t))
	if err := os.Chown(filepath.Join(dir, slotA), 4242, 4242); err != nil {
		t.Fatal(err)
	}
	if _, err := at(fsys).Load(); !errors.Is(err, ErrMode) || !strings.Contains(err.Error(), "belongs to user 4242") {
		t.Errorf("Load: %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	const good = `{"format":1,"device_id":"roof-1","cloud_url":"http://c","firmware_root":""}`
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "identity.json"},
		{"not JSON", "device_id: roof-1", "identity.json"},
		{"truncated", good[:40], "identity.json"},
		{"format", strings.Replace(good, "1", "2", 1), "format 2"},
		{"no format", strings.Replace(good, `"format":1,`, "", 1), "format 0"},
		{"unknown field", strings.Replace(good, "{", `{"x":1,`, 1), `"x"`},
		{"device", strings.Replace(good, "roof-1", "Roof 1", 1), "Roof 1"},
		{"url", strings.Replace(good, "http://c", "ftp://c", 1), "cloud_url"},
		{"root", strings.Replace(good, `""`, `"%"`, 1), "identity.json"},
		{"trailing", good + "{}", "follows"},
		{"too large", good + strings.Repeat(" ", maxIdentitySize), "larg"},
	} {
		fsys := disktest.New()
		enroll(t, fsys, enrolment(t))
		writeFile(t, fsys, identityFile, []byte(c.text), 0o600)
		if _, err := at(fsys).Load(); err == nil || errors.Is(err, ErrNotEnrolled) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if err := at(fsys).Enroll(enrolment(t)); err == nil {
			t.Errorf("%s: enrolled over what it does not understand", c.name)
		}
	}
}

const secretText = "3q2+7wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhs=" // 32 bytes, nothing like a sequence

func goodFile() string {
	return `{"device_id":"roof-1","cloud_url":"https://cloud.example.org/","epoch":4,` +
		`"psk_id":"000102030405060708090a0b0c0d0eff","key":"` + secretText + `","firmware_root":""}`
}

func TestParseEnrolment(t *testing.T) {
	e, err := ParseEnrolment([]byte(" " + goodFile() + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	secret := e.Credential.Key.Secret()
	if e.Device != "roof-1" || e.CloudURL != "https://cloud.example.org" || e.Credential.Epoch != 4 ||
		e.Credential.ID.String() != "000102030405060708090a0b0c0d0eff" || base64.StdEncoding.EncodeToString(secret[:]) != secretText || len(e.FirmwareRoot) != 0 {
		t.Errorf("%+v", e)
	}
}

func TestParseEnrolmentRefuses(t *testing.T) {
	edit := func(from, to string) string {
		if !strings.Contains(goodFile(), from) {
			t.Fatalf("%s is not in the file", from)
		}
		return strings.Replace(goodFile(), from, to, 1)
	}
	weak := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	short := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7, 9, 200}, 10))
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "not a JSON object"},
		{"not JSON", secretText, "not a JSON object"},
		{"array", "[" + goodFile() + "]", "not a JSON object"},
		{"null", "null", "not a JSON object"},
		{"unknown field", `{"hello":"world"}`, `"hello"`},
		{"case of a field", edit(`"key"`, `"Key"`), `"Key"`},
		{"twice", edit(`{`, `{"epoch":1,`), "epoch: stands twice"},
		{"trailing bytes", goodFile() + "x", "follows"},
		{"trailing object", goodFile() + "{}", "follows"},
		{"no comma", edit(`","firmware`, `" "firmware`), "not a JSON object"},
		{"too large", goodFile() + strings.Repeat(" ", MaxEnrolmentSize), "larger than 16384"},
		{"device: missing", edit(`"device_id":"roof-1",`, ""), "device_id: missing"},
		{"device: bad", edit("roof-1", "Roof"), "device_id: "},
		{"device: null", edit(`"roof-1"`, "null"), "device_id: a text"},
		{"device: number", edit(`"roof-1"`, "1"), "device_id: a text"},
		{"url: missing", edit(`"cloud_url":"https://cloud.example.org/",`, ""), "cloud_url: missing"},
		{"url: scheme", edit("https:", "ftp:"), "cloud_url: "},
		{"epoch: 0", edit(":4,", ":0,"), "epoch: a whole number from 1"},
		{"epoch: negative", edit(":4,", ":-1,"), "epoch: "},
		{"epoch: fraction", edit(":4,", ":4.0,"), "epoch: "},
		{"epoch: text", edit(":4,", `:"4",`), "epoch: "},
		{"epoch: too large", edit(":4,", ":4294967296,"), "epoch: "},
		{"epoch: missing", edit(`"epoch":4,`, ""), "epoch: missing"},
		{"id: short", edit("0eff", "0e"), "psk_id: 32 hexadecimal digits"},
		{"id: not hex", edit("0eff", "0efg"), "psk_id: 32 hexadecimal digits"},
		{"id: missing", edit(`"psk_id":"000102030405060708090a0b0c0d0eff",`, ""), "psk_id: missing"},
		{"key: missing", edit(`"key":"`+secretText+`",`, ""), "key: missing"},
		{"key: not base64", edit("3q2+", "3q2-"), "key: not base64"},
		{"key: other spelling", edit("Ghs=", "Ght="), "key: not base64"},
		{"key: line break", edit("3q2+", `3q\n2+`), "key: not base64"},
		{"key: short", edit(secretText, short), "key: a key of the wrong length"},
		{"key: weak", edit(secretText, weak), "key: not a random key"},
		{"key: array", edit(`"`+secretText+`"`, `["`+secretText+`"]`), "key: a text"},
		{"root: missing", edit(`,"firmware_root":""`, ""), "firmware_root: missing"},
		{"root: not base64", edit(`"firmware_root":""`, `"firmware_root":"*"`), "firmware_root: not base64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseEnrolment([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if text := err.Error(); strings.Contains(text, "\n") || leaks(text) {
				t.Errorf("more than a line, or a part of the key: %s", text)
			}
		})
	}
	for cut := range len(goodFile()) {
		if _, err := ParseEnrolment([]byte(goodFile()[:cut])); err == nil || leaks(err.Error()) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
}

// leaks reports whether text has four characters in a row of the key.
func leaks(text string) bool {
	for i := range len(secretText) - 4 {
		if strings.Contains(text, secretText[i:i+4]) {
			return true
		}
	}
	return false
}

// Attacks: W20
func FuzzParseEnrolment(f *testing.F) {
	f.Add([]byte(goodFile()))
	f.Add([]byte(`{"hello":"world"}`))
	f.Add([]byte(`{"epoch":1,"epoch":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := ParseEnrolment(data)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
			return
		}
		fsys := disktest.New()
		if err := at(fsys).Enroll(e); err != nil {
			t.Fatalf("an enrolment that reads cannot be enrolled: %v", err)
		}
		id, err := at(fsys).Load()
		if err != nil {
			t.Fatalf("an enrolment that reads cannot be loaded: %v", err)
		}
		e.is(t, id)
	})
}

func TestParseCloudURL(t *testing.T) {
	for s, want := range map[string]string{
		"https://cloud.example.org":       "https://cloud.example.org",
		"http://127.0.0.1:8080/":          "http://127.0.0.1:8080",
		"http://[::1]:8080":               "http://[::1]:8080",
		"https://example.org/ecowatt/":    "https://example.org/ecowatt",
		"":                                "",
		"cloud.example.org":               "",
		"ftp://cloud.example.org":         "",
		"https:cloud":                     "",
		"https://":                        "",
		"https://:8080":                   "",
		"https://host:":                   "",
		"https://host:0":                  "",
		"https://host:65536":              "",
		"https://me@host":                 "",
		"https://host?":                   "",
		"https://host?x=1":                "",
		"https://host#x":                  "",
		"https://ho st":                   "",
		"https://h\u00f6st":               "",
		"https://host/\n":                 "",
		"https://h/" + str('x', maxURL-9): "",
	} {
		if got, err := ParseCloudURL(s); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", s, got, err, want)
		}
	}
}

func str(c byte, n int) string { return strings.Repeat(string(c), n) }
