package keyring

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/key"
)

var noon = time.Date(2026, 6, 21, 12, 0, 0, 0, time.UTC)

// draw makes a key that is so many hours older or younger than noon.
func draw(t *testing.T, hours int) NewKey {
	t.Helper()
	k, err := Draw(rand.Reader, noon.Add(time.Duration(hours)*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestRotation goes the whole way, and looks at the ring in memory and on disk
// after every step.
func TestRotation(t *testing.T) {
	r := newRing(t)
	first, _ := r.primary()
	device, session := newDeviceKey(t), newSessionKey(t)
	kek, wd, err := r.WrapDevice(device, "roof", pskID, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, ws, err := r.WrapSession(session, "roof", sid)
	if err != nil {
		t.Fatal(err)
	}
	opens := func(want error) {
		t.Helper()
		d, err1 := r.UnwrapDevice(kek, wd, "roof", pskID, 1)
		s, err2 := r.UnwrapSession(kek, ws, "roof", sid)
		if !errors.Is(err1, want) || !errors.Is(err2, want) || want == nil && (!d.Equal(device) || !s.Equal(session)) {
			t.Errorf("opening: %v, %v, want %v", err1, err2, want)
		}
	}
	second := draw(t, -1)
	for _, step := range []struct {
		name string
		do   func() error
		want []string // ids, the primary one marked
	}{
		{"add", func() error { return r.Add(second) }, []string{second.ID, first + "*"}},
		{"primary", func() error { return r.SetPrimary(second.ID) }, []string{second.ID + "*", first}},
		{"remove", func() error {
			var err1, err2 error
			kek, wd, err1 = r.RewrapDevice(kek, wd, "roof", pskID, 1)
			_, ws, err2 = r.RewrapSession(first, ws, "roof", sid)
			opens(nil)
			if kek != second.ID || len(wd) != 72 || len(ws) != 136 {
				t.Errorf("wrapped again with %s, %d and %d bytes", kek, len(wd), len(ws))
			}
			return errors.Join(err1, err2, r.Remove(first))
		}, []string{second.ID + "*"}},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		opens(nil)
		again, err := Open(r.path)
		if err != nil {
			t.Fatal(err)
		}
		for where, keys := range map[string][]Key{"memory": r.Keys(), "file": again.Keys()} {
			var got []string
			for _, k := range keys {
				mark := ""
				if k.Primary {
					mark = "*"
				}
				got = append(got, k.ID+mark)
			}
			if diff := cmp.Diff(step.want, got); diff != "" {
				t.Errorf("%s, in %s (-want +got):\n%s", step.name, where, diff)
			}
		}
		if info, err := os.Stat(r.path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: the file is %v, %v", step.name, info, err)
		}
		r = again
	}
	if _, _, err := r.RewrapDevice(first, wd, "roof", pskID, 1); !errors.Is(err, ErrUnknownKEK) || !strings.Contains(err.Error(), first) {
		t.Errorf("under a removed key: %v, want ErrUnknownKEK that names it", err)
	}
	if keys := r.Keys(); !keys[0].Made.Equal(noon.Add(-time.Hour)) {
		t.Errorf("made at %v", keys[0].Made)
	}
}

// TestChangesRefused: what is refused changes nothing.
func TestChangesRefused(t *testing.T) {
	r := newRing(t)
	first, k := r.primary()
	before, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ got, want error }{
		"primary that is not there": {r.SetPrimary(idA), ErrUnknownKEK},
		"removing what is not":      {r.Remove(idA), ErrUnknownKEK},
		"removing the primary":      {r.Remove(first), ErrPrimary},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	if err := r.Add(NewKey{ID: first, key: k.key}); err == nil {
		t.Error("a key was added twice")
	}
	if err := r.Add(NewKey{ID: idA}); err == nil {
		t.Error("no key was added")
	}
	if _, err := Draw(bytes.NewReader(make([]byte, 100)), noon); !errors.Is(err, key.ErrWeak) {
		t.Errorf("a broken random source: %v", err)
	}
	if after, err := os.ReadFile(r.path); err != nil || !bytes.Equal(before, after) || len(r.Keys()) != 1 {
		t.Errorf("something changed: %v", err)
	}
}

// TestChangeFails: a ring whose file cannot be written is what it was.
func TestChangeFails(t *testing.T) {
	r := newRing(t)
	first, _ := r.primary()
	k := draw(t, 1)
	if err := os.Mkdir(r.path+".tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.path+".tmp", "in the way"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Add(k); err == nil || r.Knows(k.ID) {
		t.Errorf("added without a file: %v", err)
	}
	if again, err := Open(r.path); err != nil || again.Knows(k.ID) || !again.Knows(first) {
		t.Errorf("the file: %v", err)
	}
}

// TestOtherHands: what somebody wrote into the file is not overwritten.
func TestOtherHands(t *testing.T) {
	r := newRing(t)
	other, err := Open(r.path)
	if err != nil {
		t.Fatal(err)
	}
	theirs := draw(t, 1)
	if err := other.Add(theirs); err != nil {
		t.Fatal(err)
	}
	if err := r.Add(draw(t, 2)); !errors.Is(err, ErrTouched) || !strings.Contains(err.Error(), r.path) {
		t.Errorf("%v, want ErrTouched that names the file", err)
	}
	if again, err := Open(r.path); err != nil || !again.Knows(theirs.ID) || len(again.Keys()) != 2 {
		t.Errorf("the other's key is lost: %v", err)
	}
	if err := os.Chmod(r.path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := other.Add(draw(t, 3)); !errors.Is(err, ErrExposed) {
		t.Errorf("a file open to others: %v, want ErrExposed", err)
	}
}

// TestFull: a ring never becomes a file that Open would refuse.
func TestFull(t *testing.T) {
	r := newRing(t)
	c := *r.content.Load()
	for range 600 {
		k := draw(t, 1)
		c.keys[k.ID] = kek{k.key, k.Made}
	}
	if err := r.write(&c); !errors.Is(err, ErrFull) {
		t.Errorf("%v, want ErrFull", err)
	}
	if _, err := Open(r.path); err != nil {
		t.Error(err)
	}
}

// TestWrapWhileItChanges: whoever wraps meanwhile can always open it again.
//
// Attacks: K15
func TestWrapWhileItChanges(t *testing.T) {
	r := newRing(t)
	device := newDeviceKey(t)
	stop := make(chan struct{})
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				kek, wrapped, err := r.WrapDevice(device, "roof", pskID, 1)
				if err == nil {
					_, _, err = r.RewrapDevice(kek, wrapped, "roof", pskID, 1)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 20 {
		k := draw(t, i)
		if err := errors.Join(r.Add(k), r.SetPrimary(k.ID)); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wait.Wait()
}
