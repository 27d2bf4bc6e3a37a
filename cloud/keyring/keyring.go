// Package keyring wraps the keys that the cloud keeps at rest: those of devices
// and of sessions (row S5). A key ring holds key-encryption keys, each with an
// id; the primary one wraps, all of them unwrap. A wrapped key is bound to the
// row that it stands in, so that it opens nowhere else.
//
// A wrapped key is
//
//	offset  bytes
//	     0     24  nonce, random
//	    24      n  the key: 32 bytes of a device, 96 of a session
//	24 + n     16  tag
//
// sealed with XChaCha20-Poly1305. The associated data are a label, the id of
// the key-encryption key, and what names the row, each after its length in four
// bytes: device, psk id and epoch of a device key, device and session id of a
// session.
package keyring

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

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
)

// Ring is an open key ring. It does not change, and may be used from any goroutine.
type Ring struct {
	primary string
	keys    map[string]key.KEK
}

// Knows reports whether the ring has the key-encryption key of that id.
func (r *Ring) Knows(kek string) bool {
	_, ok := r.keys[kek]
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
	wrapped, err = r.wrap(secret[:], deviceRow(r.primary, device, id, epoch))
	return r.primary, wrapped, err
}

// UnwrapDevice is the inverse of WrapDevice. The error wraps ErrUnknownKEK or ErrUnwrap.
func (r *Ring) UnwrapDevice(kek string, wrapped []byte, device string, id key.ID, epoch key.Epoch) (key.Device, error) {
	secret, err := r.unwrap(kek, wrapped, deviceRow(kek, device, id, epoch))
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
	wrapped, err = r.wrap(secret[:], sessionRow(r.primary, device, sid))
	return r.primary, wrapped, err
}

// UnwrapSession is the inverse of WrapSession. The error wraps ErrUnknownKEK or ErrUnwrap.
func (r *Ring) UnwrapSession(kek string, wrapped []byte, device string, sid [16]byte) (key.Session, error) {
	secret, err := r.unwrap(kek, wrapped, sessionRow(kek, device, sid))
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

func (r *Ring) wrap(secret, row []byte) ([]byte, error) {
	kek := r.keys[r.primary].Secret()
	defer clear(kek[:])
	aead, err := chacha20poly1305.NewX(kek[:])
	if err != nil {
		return nil, fmt.Errorf("wrapping a key: %w", err)
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(secret)+aead.Overhead())
	rand.Read(nonce) // ends the program rather than fail
	return aead.Seal(nonce, nonce, secret, row), nil
}

func (r *Ring) unwrap(id string, wrapped, row []byte) ([]byte, error) {
	k, ok := r.keys[id]
	if !ok {
		return nil, fmt.Errorf("%w %.40q", ErrUnknownKEK, id)
	}
	kek := k.Secret()
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

// deviceRow and sessionRow name a row, as associated data.
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

// appendField adds a field after its length, so that no two lists of fields
// give the same bytes.
func appendField[T string | []byte](row []byte, field T) []byte {
	row = binary.BigEndian.AppendUint32(row, uint32(len(field)))
	return append(row, field...)
}
