package key

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

// Size is the length of a device key, a Noise key, a key-encryption key and a
// token, in bytes.
const Size = 32

// Epoch counts the keys of one device. The first is 1.
type Epoch uint32

// IDSize is the length of an ID in bytes.
const IDSize = 16

// ID names one key of one device in public: random, never the serial number,
// and another one in every epoch (psk_id in PROTOCOL section 2).
type ID [IDSize]byte

// NewID draws an id from random.
func NewID(random io.Reader) (ID, error) {
	var id ID
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return ID{}, fmt.Errorf("drawing a key id: %w", err)
	}
	return id, nil
}

// ParseID reads 32 hexadecimal digits.
func ParseID(s string) (ID, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != IDSize {
		return ID{}, fmt.Errorf("a key id has %d hexadecimal digits: %.40q", 2*IDSize, s)
	}
	return ID(b), nil
}

// String returns 32 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText is String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is ParseID.
func (id *ID) UnmarshalText(text []byte) error {
	parsed, err := ParseID(string(text))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

// Device is what a device and the cloud share: K_dev of PROTOCOL section 2.
// It is only ever stored and used to derive.
type Device struct{ secret[deviceRole] }

type deviceRole struct{}

func (deviceRole) role() string { return "Device" }

// NewDevice draws a device key from random, which must be a cryptographic source.
func NewDevice(random io.Reader) (Device, error) {
	s, err := draw[deviceRole](random, Size)
	return Device{s}, err
}

// DeviceFromBytes copies b. A recorded first message of a handshake lets
// anybody test guesses of the key at leisure, so a key that somebody made up is
// refused: ErrLength for a wrong length, ErrWeak for bytes that are all equal
// or go up or down in equal steps.
func DeviceFromBytes(b []byte) (Device, error) {
	if len(b) == Size && regular(b) {
		return Device{}, fmt.Errorf("%w: its bytes follow a pattern", ErrWeak)
	}
	s, err := load[deviceRole](b, Size)
	return Device{s}, err
}

// Secret returns a copy of the key, for the file or the wrapper that keeps it.
// It is the one way out; the caller clears the copy. Zeros when there is no key.
func (d Device) Secret() (b [Size]byte) {
	copy(b[:], d.bytes())
	return b
}

// Equal compares in constant time.
func (d Device) Equal(o Device) bool { return d.equal(o.secret) }

// labelPSK begins what a Noise key is derived from (PROTOCOL section 2).
const labelPSK = "ecowatt/1 noise-psk"

// NoisePSK derives the key of the handshake of one suite:
// HMAC-SHA-256(K_dev, "ecowatt/1 noise-psk" ‖ suite). No key gives no key.
func (d Device) NoisePSK(suite byte) PSK {
	if d.IsZero() {
		return PSK{}
	}
	h := hmac.New(sha256.New, d.bytes())
	h.Write(append([]byte(labelPSK), suite))
	return PSK{seal[pskRole](h.Sum(nil))}
}
