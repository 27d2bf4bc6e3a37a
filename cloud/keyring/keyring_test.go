package keyring

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"ecowatt/key"
)

func newRing(t *testing.T) *Ring {
	t.Helper()
	r, err := Create(filepath.Join(t.TempDir(), "keyring.json"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// ringOf is a ring of keys of others, without a file.
func ringOf(primary string, keys map[string]kek) *Ring {
	r := &Ring{}
	r.content.Store(&content{primary: primary, keys: keys})
	return r
}

// primary is the key that wraps.
func (r *Ring) primary() (id string, k kek) {
	c := r.content.Load()
	return c.primary, c.keys[c.primary]
}

func newDeviceKey(t *testing.T) key.Device {
	t.Helper()
	k, err := key.NewDevice(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newSessionKey(t *testing.T) key.Session {
	t.Helper()
	b := make([]byte, key.SessionSize)
	rand.Read(b)
	k, err := key.SessionFromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newContentKey(t *testing.T) key.Content {
	t.Helper()
	k, err := key.NewContent(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var (
	pskID   = key.ID{1, 2, 3}
	sid     = [16]byte{1, 2, 3}
	release = [32]byte{1, 2, 3}
)

func TestDeviceKeyComesBack(t *testing.T) {
	r, k := newRing(t), newDeviceKey(t)
	kek, wrapped, err := r.WrapDevice(k, "roof", pskID, 1)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Knows(kek) || len(wrapped) != 72 {
		t.Errorf("wrapped %d bytes with %q; want 72 bytes with a key that the ring knows", len(wrapped), kek)
	}
	back, err := r.UnwrapDevice(kek, wrapped, "roof", pskID, 1)
	if err != nil || !back.Equal(k) {
		t.Errorf("the key does not come back: %v", err)
	}
	if _, again, err := r.WrapDevice(k, "roof", pskID, 1); err != nil || bytes.Equal(again[:24], wrapped[:24]) {
		t.Errorf("two wrappings share a nonce, %v", err)
	}
}

func TestSessionKeyComesBack(t *testing.T) {
	r, k := newRing(t), newSessionKey(t)
	kek, wrapped, err := r.WrapSession(k, "roof", sid)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Knows(kek) || len(wrapped) != 136 {
		t.Errorf("wrapped %d bytes with %q; want 136 bytes with a key that the ring knows", len(wrapped), kek)
	}
	back, err := r.UnwrapSession(kek, wrapped, "roof", sid)
	if err != nil || !back.Equal(k) {
		t.Errorf("the key does not come back: %v", err)
	}
}

func TestContentKeyComesBack(t *testing.T) {
	r, k := newRing(t), newContentKey(t)
	kek, wrapped, err := r.WrapContent(k, release)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Knows(kek) || len(wrapped) != 72 {
		t.Errorf("wrapped %d bytes with %q; want 72 bytes with a key that the ring knows", len(wrapped), kek)
	}
	back, err := r.UnwrapContent(kek, wrapped, release)
	if err != nil || !back.Equal(k) {
		t.Errorf("the key does not come back: %v", err)
	}
}

// TestLayout opens what Wrap made by the package comment alone, so that what is
// in databases today can be opened for ever.
func TestLayout(t *testing.T) {
	r, k := newRing(t), newDeviceKey(t)
	kek, wrapped, err := r.WrapDevice(k, "roof", pskID, 0x01020304)
	if err != nil {
		t.Fatal(err)
	}
	_, k1 := r.primary()
	secret := k1.key.Secret()
	aead, err := chacha20poly1305.NewX(secret[:])
	if err != nil {
		t.Fatal(err)
	}
	row := "\x00\x00\x00\x18ecowatt/1 keyring device" + "\x00\x00\x00\x10" + kek + "\x00\x00\x00\x04roof" +
		"\x00\x00\x00\x10" + string(pskID[:]) + "\x00\x00\x00\x04\x01\x02\x03\x04"
	got, err := aead.Open(nil, wrapped[:24], wrapped[24:], []byte(row))
	if want := k.Secret(); err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("a device key is not laid out as documented: %v", err)
	}

	session := newSessionKey(t)
	if kek, wrapped, err = r.WrapSession(session, "roof", sid); err != nil {
		t.Fatal(err)
	}
	row = "\x00\x00\x00\x19ecowatt/1 keyring session" + "\x00\x00\x00\x10" + kek + "\x00\x00\x00\x04roof" + "\x00\x00\x00\x10" + string(sid[:])
	got, err = aead.Open(nil, wrapped[:24], wrapped[24:], []byte(row))
	if want := session.Secret(); err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("a session is not laid out as documented: %v", err)
	}

	content := newContentKey(t)
	if kek, wrapped, err = r.WrapContent(content, release); err != nil {
		t.Fatal(err)
	}
	row = "\x00\x00\x00\x19ecowatt/1 keyring content" + "\x00\x00\x00\x10" + kek + "\x00\x00\x00\x20" + string(release[:])
	got, err = aead.Open(nil, wrapped[:24], wrapped[24:], []byte(row))
	if want := content.Secret(); err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("the key of a release's content is not laid out as documented: %v", err)
	}
}

func TestEveryByteCounts(t *testing.T) {
	r := newRing(t)
	kek, device, err := r.WrapDevice(newDeviceKey(t), "roof", pskID, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, session, err := r.WrapSession(newSessionKey(t), "roof", sid)
	if err != nil {
		t.Fatal(err)
	}
	_, content, err := r.WrapContent(newContentKey(t), release)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		wrapped []byte
		open    func(wrapped []byte) error
	}{
		"content": {content, func(b []byte) error {
			_, err := r.UnwrapContent(kek, b, release)
			return err
		}},
		"device": {device, func(b []byte) error {
			_, err := r.UnwrapDevice(kek, b, "roof", pskID, 1)
			return err
		}},
		"session": {session, func(b []byte) error {
			_, err := r.UnwrapSession(kek, b, "roof", sid)
			return err
		}},
	} {
		if err := c.open(c.wrapped); err != nil {
			t.Fatal(err)
		}
		for i := range c.wrapped {
			b := bytes.Clone(c.wrapped)
			b[i] ^= 1 << (i % 8)
			if err := c.open(b); !errors.Is(err, ErrUnwrap) {
				t.Errorf("%s: byte %d flipped: %v", name, i, err)
			}
			if err := c.open(c.wrapped[:i]); !errors.Is(err, ErrUnwrap) {
				t.Errorf("%s: cut to %d bytes: %v", name, i, err)
			}
		}
		for _, b := range [][]byte{nil, append(bytes.Clone(c.wrapped), 0)} {
			if err := c.open(b); !errors.Is(err, ErrUnwrap) {
				t.Errorf("%s: %d bytes: %v", name, len(b), err)
			}
		}
	}
}

// TestRowIsBound opens wrapped keys in other rows than their own.
//
// Attacks: R20
func TestRowIsBound(t *testing.T) {
	r, other := newRing(t), newRing(t)
	id, secret := r.primary()
	otherID, otherSecret := other.primary()
	two := ringOf(id, map[string]kek{id: secret, otherID: otherSecret})
	alias := ringOf("another", map[string]kek{"another": secret})
	device, session := newDeviceKey(t), newSessionKey(t)
	kek, wd, err := r.WrapDevice(device, "roof", pskID, 1)
	if err != nil {
		t.Fatal(err)
	}
	_, ws, err := r.WrapSession(session, "roof", sid)
	if err != nil {
		t.Fatal(err)
	}
	_, wc, err := r.WrapContent(newContentKey(t), release)
	if err != nil {
		t.Fatal(err)
	}
	openContent := func(r *Ring, kek string, wrapped []byte, release [32]byte) error {
		_, err := r.UnwrapContent(kek, wrapped, release)
		return err
	}
	openDevice := func(r *Ring, kek, device string, id key.ID, epoch key.Epoch) error {
		_, err := r.UnwrapDevice(kek, wd, device, id, epoch)
		return err
	}
	openSession := func(r *Ring, kek, device string, sid [16]byte) error {
		_, err := r.UnwrapSession(kek, ws, device, sid)
		return err
	}
	if err := errors.Join(openDevice(two, kek, "roof", pskID, 1), openSession(two, kek, "roof", sid), openContent(two, kek, wc, release)); err != nil {
		t.Fatalf("a ring with one key more: %v", err)
	}
	_, err = r.UnwrapSession(kek, wd, "roof", sid)
	_, err2 := r.UnwrapDevice(kek, ws, "roof", pskID, 1)
	for name, err := range map[string]error{
		"another device":                   openDevice(r, kek, "root", pskID, 1),
		"a longer name":                    openDevice(r, kek, "roof\x01", pskID, 1),
		"no name":                          openDevice(r, kek, "", pskID, 1),
		"another id":                       openDevice(r, kek, "roof", key.ID{1, 2, 4}, 1),
		"another epoch":                    openDevice(r, kek, "roof", pskID, 2),
		"epoch 2^24":                       openDevice(r, kek, "roof", pskID, 1<<24),
		"another kek":                      openDevice(two, otherID, "roof", pskID, 1),
		"the same kek by another name":     openDevice(alias, "another", "roof", pskID, 1),
		"session of another device":        openSession(r, kek, "root", sid),
		"session of another id":            openSession(r, kek, "roof", [16]byte{1, 2, 4}),
		"session of another kek":           openSession(two, otherID, "roof", sid),
		"session, kek by another name":     openSession(alias, "another", "roof", sid),
		"content of another release":       openContent(r, kek, wc, [32]byte{1, 2, 4}),
		"content of another kek":           openContent(two, otherID, wc, release),
		"content, kek by another name":     openContent(alias, "another", wc, release),
		"a device key as that of content":  openContent(r, kek, wd, release),
		"a device key as a session":        err,
		"a session as a device key":        err2,
		"what belongs to name moved to id": openDevice(r, kek, "roof"+string(pskID[:1]), key.ID{2, 3}, 1),
	} {
		if !errors.Is(err, ErrUnwrap) {
			t.Errorf("%s: %v, want ErrUnwrap", name, err)
		}
	}
	if err := openDevice(other, kek, "roof", pskID, 1); !errors.Is(err, ErrUnknownKEK) || !strings.Contains(err.Error(), kek) {
		t.Errorf("a ring without the key: %v, want ErrUnknownKEK that names %s", err, kek)
	}
}

// TestFieldsAreUnambiguous: what stands at the end of one field and at the
// beginning of the next one are different rows.
func TestFieldsAreUnambiguous(t *testing.T) {
	rows := [][]byte{
		deviceRow("ab", "c", pskID, 1), deviceRow("a", "bc", pskID, 1), deviceRow("abc", "", pskID, 1), deviceRow("", "abc", pskID, 1),
		sessionRow("ab", "c", sid), sessionRow("a", "bc", sid),
	}
	for i, a := range rows {
		for _, b := range rows[:i] {
			if bytes.Equal(a, b) {
				t.Errorf("%x names two rows", a)
			}
		}
	}
}

func TestNothingToWrap(t *testing.T) {
	r := newRing(t)
	if _, wrapped, err := r.WrapDevice(key.Device{}, "roof", pskID, 1); !errors.Is(err, ErrNoKey) || wrapped != nil {
		t.Errorf("no device key: %x, %v", wrapped, err)
	}
	if _, wrapped, err := r.WrapSession(key.Session{}, "roof", sid); !errors.Is(err, ErrNoKey) || wrapped != nil {
		t.Errorf("no session: %x, %v", wrapped, err)
	}
	if _, wrapped, err := r.WrapContent(key.Content{}, release); !errors.Is(err, ErrNoKey) || wrapped != nil {
		t.Errorf("no content key: %x, %v", wrapped, err)
	}
}

// Attacks: A4
func TestRingPrintsNoKey(t *testing.T) {
	r := newRing(t)
	_, k := r.primary()
	secret := k.key.Secret()
	drawn := NewKey{key: k.key}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		fmt.Fprintf(&out, verb+verb+verb+verb, r, *r.content.Load(), drawn, r.Keys())
	}
	for _, leak := range []string{hex.EncodeToString(secret[:4]), strings.Trim(fmt.Sprintf("%d", secret[:4]), "[]"), fmt.Sprintf("%#x, %#x", secret[0], secret[1]), string(secret[:4])} {
		if strings.Contains(strings.ToLower(out.String()), leak) {
			t.Errorf("a printed ring shows its key as %q", leak)
		}
	}
}

func BenchmarkUnwrapSession(b *testing.B) {
	r, err := Create(filepath.Join(b.TempDir(), "keyring.json"), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	k, err := key.SessionFromBytes(slices.Repeat([]byte{7}, key.SessionSize))
	if err != nil {
		b.Fatal(err)
	}
	kek, wrapped, err := r.WrapSession(k, "roof", sid)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := r.UnwrapSession(kek, wrapped, "roof", sid); err != nil {
			b.Fatal(err)
		}
	}
}
