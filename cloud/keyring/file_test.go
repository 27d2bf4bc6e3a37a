package keyring

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const (
	idA = "00112233445566ff"
	idB = "8899aabbccddeeff"
)

// secret returns a key of the file that differs by n.
func secret(n byte) string {
	return base64.StdEncoding.EncodeToString(append(bytes.Repeat([]byte{n}, 31), n+1))
}

// ring writes a key ring as a person might lay it out.
func ring(primary string, keys ...string) string {
	return fmt.Sprintf("{\n  \"format\": 1,\n\t\"primary\": %q, \"keys\": [\n%s\n]}\r\n", primary, strings.Join(keys, ",\n"))
}

func entry(id, key string) string {
	return fmt.Sprintf(`{"id": %q, "made": "2026-06-21T12:00:00Z", "key": %q}`, id, key)
}

func writeFile(t *testing.T, content string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyring.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCreateAndOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keyring.json")
	r, err := Create(path, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the file: %v, %v; want mode 0600", info.Mode(), err)
	}
	kek, wrapped, err := r.WrapDevice(newDeviceKey(t), "roof", pskID, 1)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := back.UnwrapDevice(kek, wrapped, "roof", pskID, 1); err != nil || !back.Knows(kek) || back.Knows("") {
		t.Errorf("the ring does not come back: %v", err)
	}

	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path, rand.Reader); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("Create over a ring: %v, want fs.ErrExist that names it", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("Create over a ring changed it: %v", err)
	}
}

func TestCreateFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keyring.json")
	for name, n := range map[string]int{"no randomness": 0, "enough for the id": 8, "a broken source": 100} {
		if r, err := Create(path, bytes.NewReader(make([]byte, n))); err == nil || r != nil {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("failing left %v, %v", left, err)
	}
	if _, err := Create(filepath.Join(dir, "missing", "keyring.json"), rand.Reader); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), path); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path, rand.Reader); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a link to nowhere: %v, want fs.ErrExist", err)
	}
}

func TestOpenSeveralKeys(t *testing.T) {
	path := writeFile(t, ring(idB, entry(idA, secret(1)), entry(idB, secret(2))), 0o400)
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if kek, _, err := r.WrapSession(newSessionKey(t), "roof", sid); kek != idB || err != nil || !r.Knows(idA) {
		t.Errorf("wrapped with %q, %v; want the primary, %s", kek, err, idB)
	}
}

func TestOpenRefusesFiles(t *testing.T) {
	good := ring(idA, entry(idA, secret(1)))
	if _, err := Open(filepath.Join(t.TempDir(), "keyring.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v, want fs.ErrNotExist", err)
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o601, 0o700, 0o644} {
		path := writeFile(t, good, mode)
		_, err := Open(path)
		if !errors.Is(err, ErrExposed) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), fmt.Sprintf("%#o", mode)) {
			t.Errorf("mode %#o: %v, want ErrExposed that names file and mode", mode, err)
		}
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, ErrFormat) {
		t.Errorf("a folder: %v", err)
	}
	pipe := filepath.Join(t.TempDir(), "keyring.json")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(pipe); !errors.Is(err, ErrFormat) {
		t.Errorf("a pipe: %v", err)
	}
	large := writeFile(t, strings.Repeat(" ", maxFile)+good, 0o600)
	if _, err := Open(large); !errors.Is(err, ErrFormat) {
		t.Errorf("a large file: %v", err)
	}
}

func TestOpenRefusesOtherOwners(t *testing.T) {
	path := writeFile(t, ring(idA, entry(idA, secret(1))), 0o600)
	if err := os.Chown(path, os.Geteuid()+1, -1); err != nil {
		t.Skip("only root can give a file away:", err)
	}
	if _, err := Open(path); !errors.Is(err, ErrExposed) || !strings.Contains(err.Error(), path) {
		t.Errorf("%v, want ErrExposed that names the file", err)
	}
}

func TestParseRefuses(t *testing.T) {
	good := ring(idA, entry(idA, secret(1)))
	if _, err := parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	edit := func(old, text string) string { return strings.Replace(good, old, text, 1) }
	for name, content := range map[string]string{
		"nothing":              "",
		"not JSON":             "format: 1",
		"null":                 "null",
		"a list":               "[]",
		"cut":                  good[:len(good)/2],
		"more follows":         good + "{}",
		"format 2":             edit(`"format": 1`, `"format": 2`),
		"format 0":             edit(`"format": 1`, `"format": 0`),
		"no format":            edit(`"format": 1,`, ``),
		"format as text":       edit(`"format": 1`, `"format": "1"`),
		"format 1.0":           edit(`"format": 1`, `"format": 1.0`),
		"another field":        edit(`"format": 1`, `"format": 1, "note": "x"`),
		"a field twice":        edit(`"format": 1`, `"format": 1, "format": 1`),
		"a name in capitals":   edit(`"format"`, `"Format"`),
		"another order":        fmt.Sprintf(`{"primary": %q, "format": 1, "keys": [%s]}`, idA, entry(idA, secret(1))),
		"an escaped name":      edit(`"format"`, `"\u0066ormat"`),
		"another primary":      ring(idB, entry(idA, secret(1))),
		"no primary":           ring("", entry(idA, secret(1))),
		"primary null":         edit(fmt.Sprintf("%q,", idA), "null,"),
		"no keys":              ring(idA),
		"keys null":            edit(`[`, `null, "x": [`),
		"made null":            edit(`"2026-06-21T12:00:00Z"`, `null`),
		"made in another zone": edit(`12:00:00Z`, `12:00:00+00:00`),
		"made at no time":      edit(`12:00:00Z`, `noon`),
		"no time":              edit(`"made": "2026-06-21T12:00:00Z", `, ``),
		"key null":             edit(fmt.Sprintf("%q}", secret(1)), `null}`),
		"key as a list":        edit(fmt.Sprintf("%q}", secret(1)), `[1,2]}`),
		"entry null":           ring(idA, entry(idA, secret(1)), "null"),
		"id in capitals":       ring(strings.ToUpper(idA), entry(strings.ToUpper(idA), secret(1))),
		"id too short":         ring(idA[2:], entry(idA[2:], secret(1))),
		"id too long":          ring(idA+"00", entry(idA+"00", secret(1))),
		"id not hexadecimal":   ring("zz"+idA[2:], entry("zz"+idA[2:], secret(1))),
		"id twice":             ring(idA, entry(idA, secret(1)), entry(idA, secret(2))),
		"key twice":            ring(idA, entry(idA, secret(1)), entry(idB, secret(1))),
		"key too short":        ring(idA, entry(idA, base64.StdEncoding.EncodeToString(make([]byte, 31)))),
		"key too long":         ring(idA, entry(idA, base64.StdEncoding.EncodeToString(make([]byte, 33)))),
		"key of zeros":         ring(idA, entry(idA, base64.StdEncoding.EncodeToString(make([]byte, 32)))),
		"key not base64":       ring(idA, entry(idA, "#"+secret(1)[1:])),
		"key with a line feed": ring(idA, entry(idA, secret(1)[:20]+"\n"+secret(1)[20:])),
		"key without padding":  ring(idA, entry(idA, strings.TrimRight(secret(1), "="))),
		"key with spare bits":  ring(idA, entry(idA, strings.Replace(secret(1), "I=", "J=", 1))),
	} {
		r, err := parse([]byte(content))
		if !errors.Is(err, ErrFormat) || r != nil {
			t.Errorf("%s: %v, want ErrFormat", name, err)
			continue
		}
		for _, s := range []string{secret(1)[4:20], secret(2)[4:20]} {
			if strings.Contains(err.Error(), s) {
				t.Errorf("%s: the error shows a key: %v", name, err)
			}
		}
	}
}

// FuzzParse: nothing makes it panic, and there is one spelling of what it takes,
// but for white space.
//
// Attacks: W20
func FuzzParse(f *testing.F) {
	f.Add([]byte(ring(idA, entry(idA, secret(1)))))
	f.Add([]byte(ring(idB, entry(idA, secret(1)), entry(idB, secret(2)))))
	f.Add([]byte(`{"format":1,"primary":"","keys":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parse(data)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%v, want ErrFormat", err)
			}
			return
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, data); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`{"format":1,"primary":%q,"keys":[{"id":`, r.primary)
		if !r.knows(r.primary) || !strings.HasPrefix(compact.String(), want) {
			t.Errorf("%q was taken for a key ring", data)
		}
	})
}
