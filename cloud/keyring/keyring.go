// Package keyring wraps the keys that the cloud keeps at rest: those of devices
// and of sessions (row S5). A key ring holds key-encryption keys, each with an
// id; the primary one wraps, all of them unwrap. A wrapped key is bound to the
// row that it stands in, so that it opens nowhere else.
//
// A Ring is one wrapper of keys, kept in a file. Nobody but package cloud, which
// opens it, imports this package: the gateway, the registry and the store each
// declare the few methods that they call, with keys and bytes for arguments. A
// wrapper that asks a key management service implements the same methods.
//
// A wrapped key is
//
//	offset  bytes
//	     0     24  nonce, random
//	    24      n  the key: 32 bytes of a device or of a release, 96 of a session
//	24 + n     16  tag
//
// sealed with XChaCha20-Poly1305. The associated data are a label, the id of
// the key-encryption key, and what names the row, each after its length in four
// bytes: device, psk id and epoch of a device key, device and session id of a
// session, the release of the key of its content.
package keyring

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"ecowatt/key"
)

// Errors of wrapping and unwrapping.
var (
	// ErrUnknownKEK says that a key was wrapped with a key-encryption key that the
	// ring does not have; the error names its id.
	ErrUnknownKEK = errors.New("the key ring does not have the key-encryption key")
	// ErrUnwrap is the one answer to whatever does not open: damaged, wrapped for
	// another row, of the wrong length.
	ErrUnwrap = errors.New("a wrapped key does not open")
	// ErrNoKey says that there is nothing to wrap: a zero key.
	ErrNoKey = errors.New("there is no key to wrap")
)

// What the associated data begin with.
const (
	labelDevice  = "ecowatt/1 keyring device"
	labelSession = "ecowatt/1 keyring session"
	labelContent = "ecowatt/1 keyring content"
)

// Ring is an open key ring. It may be used from any goroutine, also while it
// changes: who wraps or unwraps sees the ring before a change or after it.
type Ring struct {
	content atomic.Pointer[content]

	mu   sync.Mutex // held while the ring changes; guards what follows
	path string
	sum  [sha256.Size]byte // of the file as it was last read or written
}

// content is what is on a ring. It is never changed, only replaced.
type content struct {
	primary string
	keys    map[string]kek
}

type kek struct {
	key  key.KEK
	made time.Time
}

// Knows reports whether the ring has the key-encryption key of that id.
func (r *Ring) Knows(id string) bool { return r.content.Load().knows(id) }

func (c *content) knows(id string) bool {
	_, ok := c.keys[id]
	return ok
}

// WrapDevice wraps a device's key with the primary key-encryption key, whose id
// it returns, for the row of device, id and epoch.
func (r *Ring) WrapDevice(k key.Device, device string, id key.ID, epoch key.Epoch) (kek string, wrapped []byte, err error) {
	if k.IsZero() {
		return "", nil, fmt.Errorf("wrapping the key of device %s: %w", device, ErrNoKey)
	}
	secret := k.Secret()
	defer clear(secret[:])
	c := r.content.Load()
	wrapped, err = c.wrap(secret[:], deviceRow(c.primary, device, id, epoch))
	return c.primary, wrapped, err
}

// UnwrapDevice is the inverse of WrapDevice. The error wraps ErrUnknownKEK or ErrUnwrap.
func (r *Ring) UnwrapDevice(kek string, wrapped []byte, device string, id key.ID, epoch key.Epoch) (key.Device, error) {
	secret, err := r.content.Load().unwrap(kek, wrapped, deviceRow(kek, device, id, epoch))
	if err != nil {
		return key.Device{}, fmt.Errorf("unwrapping the key of device %s, epoch %d: %w", device, epoch, err)
	}
	defer clear(secret)
	k, err := key.DeviceFromBytes(secret)
	if err != nil {
		return key.Device{}, fmt.Errorf("unwrapping the key of device %s, epoch %d: %w", device, epoch, ErrUnwrap)
	}
	return k, nil
}

// WrapSession wraps a session's keys with the primary key-encryption key, whose
// id it returns, for the row of device and sid.
func (r *Ring) WrapSession(k key.Session, device string, sid [16]byte) (kek string, wrapped []byte, err error) {
	if k.IsZero() {
		return "", nil, fmt.Errorf("wrapping a session of device %s: %w", device, ErrNoKey)
	}
	secret := k.Secret()
	defer clear(secret[:])
	c := r.content.Load()
	wrapped, err = c.wrap(secret[:], sessionRow(c.primary, device, sid))
	return c.primary, wrapped, err
}

// UnwrapSession is the inverse of WrapSession. The error wraps ErrUnknownKEK or ErrUnwrap.
func (r *Ring) UnwrapSession(kek string, wrapped []byte, device string, sid [16]byte) (key.Session, error) {
	secret, err := r.content.Load().unwrap(kek, wrapped, sessionRow(kek, device, sid))
	if err != nil {
		return key.Session{}, fmt.Errorf("unwrapping a session of device %s: %w", device, err)
	}
	defer clear(secret)
	k, err := key.SessionFromBytes(secret)
	if err != nil {
		return key.Session{}, fmt.Errorf("unwrapping a session of device %s: %w", device, ErrUnwrap)
	}
	return k, nil
}

// WrapContent wraps the key of the content of a release with the primary
// key-encryption key, whose id it returns, for the row of the release.
func (r *Ring) WrapContent(k key.Content, release [32]byte) (kek string, wrapped []byte, err error) {
	if k.IsZero() {
		return "", nil, fmt.Errorf("wrapping the content key of release %x: %w", release[:8], ErrNoKey)
	}
	secret := k.Secret()
	defer clear(secret[:])
	c := r.content.Load()
	wrapped, err = c.wrap(secret[:], contentRow(c.primary, release))
	return c.primary, wrapped, err
}

// UnwrapContent is the inverse of WrapContent. The error wraps ErrUnknownKEK or ErrUnwrap.
func (r *Ring) UnwrapContent(kek string, wrapped []byte, release [32]byte) (key.Content, error) {
	secret, err := r.content.Load().unwrap(kek, wrapped, contentRow(kek, release))
	if err != nil {
		return key.Content{}, fmt.Errorf("unwrapping the content key of release %x: %w", release[:8], err)
	}
	defer clear(secret)
	k, err := key.ContentFromBytes(secret)
	if err != nil {
		return key.Content{}, fmt.Errorf("unwrapping the content key of release %x: %w", release[:8], ErrUnwrap)
	}
	return k, nil
}

func (c *content) wrap(secret, row []byte) ([]byte, error) {
	kek := c.keys[c.primary].key.Secret()
	defer clear(kek[:])
	aead, err := chacha20poly1305.NewX(kek[:])
	if err != nil {
		return nil, fmt.Errorf("wrapping a key: %w", err)
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(secret)+aead.Overhead())
	rand.Read(nonce) // ends the program rather than fail
	return aead.Seal(nonce, nonce, secret, row), nil
}

func (c *content) unwrap(id string, wrapped, row []byte) ([]byte, error) {
	k, ok := c.keys[id]
	if !ok {
		return nil, unknown(id)
	}
	kek := k.key.Secret()
	defer clear(kek[:])
	aead, err := chacha20poly1305.NewX(kek[:])
	if err != nil || len(wrapped) < aead.NonceSize() {
		return nil, ErrUnwrap
	}
	nonce, sealed := wrapped[:aead.NonceSize()], wrapped[aead.NonceSize():]
	secret, err := aead.Open(nil, nonce, sealed, row)
	if err != nil {
		return nil, ErrUnwrap
	}
	return secret, nil
}

// RewrapDevice wraps a wrapped device key anew, with the primary key-encryption
// key. The key itself does not leave the ring.
func (r *Ring) RewrapDevice(kek string, wrapped []byte, device string, id key.ID, epoch key.Epoch) (primary string, again []byte, err error) {
	k, err := r.UnwrapDevice(kek, wrapped, device, id, epoch)
	if err != nil {
		return "", nil, err
	}
	defer k.Destroy()
	return r.WrapDevice(k, device, id, epoch)
}

// RewrapSession is RewrapDevice for the keys of a session.
func (r *Ring) RewrapSession(kek string, wrapped []byte, device string, sid [16]byte) (primary string, again []byte, err error) {
	k, err := r.UnwrapSession(kek, wrapped, device, sid)
	if err != nil {
		return "", nil, err
	}
	defer k.Destroy()
	return r.WrapSession(k, device, sid)
}

// RewrapContent is RewrapDevice for the key of the content of a release.
func (r *Ring) RewrapContent(kek string, wrapped []byte, release [32]byte) (primary string, again []byte, err error) {
	k, err := r.UnwrapContent(kek, wrapped, release)
	if err != nil {
		return "", nil, err
	}
	defer k.Destroy()
	return r.WrapContent(k, release)
}

// deviceRow, sessionRow and contentRow name a row, as associated data.
func deviceRow(kek, device string, id key.ID, epoch key.Epoch) []byte {
	row := appendField(nil, labelDevice)
	row = appendField(row, kek)
	row = appendField(row, device)
	row = appendField(row, id[:])
	return appendField(row, binary.BigEndian.AppendUint32(nil, uint32(epoch)))
}

func sessionRow(kek, device string, sid [16]byte) []byte {
	row := appendField(nil, labelSession)
	row = appendField(row, kek)
	row = appendField(row, device)
	return appendField(row, sid[:])
}

func contentRow(kek string, release [32]byte) []byte {
	row := appendField(nil, labelContent)
	row = appendField(row, kek)
	return appendField(row, release[:])
}

// appendField adds a field after its length, so that no two lists of fields
// give the same bytes.
func appendField[T string | []byte](row []byte, field T) []byte {
	row = binary.BigEndian.AppendUint32(row, uint32(len(field)))
	return append(row, field...)
}
