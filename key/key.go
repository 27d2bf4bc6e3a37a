// Package key gives every key of EcoWatt a type of its own role, so that one
// cannot be used in place of another, printed, compared with ==, or marshalled
// by accident.
//
// The zero value of each type is no key at all: IsZero reports it, and what
// takes a key refuses it. Copies of a key share its bytes, so Destroy empties
// them all. A key may be used from several goroutines until it is destroyed.
//
// What is public of a key, its ID and its Epoch, are ordinary values.
package key

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Errors of this package. None of them repeats a byte of what was refused.
var (
	// ErrLength says that a key has the wrong number of bytes.
	ErrLength = errors.New("a key of the wrong length")
	// ErrWeak says that a key was plainly not drawn at random.
	ErrWeak = errors.New("not a random key")
	// ErrSecret is what every attempt to marshal a key returns.
	ErrSecret = errors.New("a key is not marshalled")
)

// role names a key type in what is printed instead of the key.
type role interface{ role() string }

// secret holds the bytes of one key. They stand behind a function: fmt reads
// unexported fields without asking any method and, for some verbs, follows
// pointers, but all it can make of a function is its address. A function also
// makes == a compile error.
type secret[R role] struct{ open func() *box }

type box struct{ bytes []byte }

func seal[R role](b []byte) secret[R] {
	x := &box{bytes: b}
	return secret[R]{open: func() *box { return x }}
}

// draw reads n bytes from random, which must be a cryptographic source.
func draw[R role](random io.Reader, n int) (secret[R], error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(random, b); err != nil {
		return secret[R]{}, fmt.Errorf("drawing a key: %w", err)
	}
	if regular(b) {
		return secret[R]{}, fmt.Errorf("drawing a key: %w: the random source is broken", ErrWeak)
	}
	return seal[R](b), nil
}

// load copies b, which must be n bytes that are not all zero.
func load[R role](b []byte, n int) (secret[R], error) {
	if len(b) != n {
		return secret[R]{}, fmt.Errorf("%w: %d bytes, %d are needed", ErrLength, len(b), n)
	}
	var all byte
	for _, x := range b {
		all |= x
	}
	if all == 0 {
		return secret[R]{}, fmt.Errorf("%w: all zero", ErrWeak)
	}
	return seal[R](append(make([]byte, 0, n), b...)), nil
}

// regular reports whether b goes up or down in equal steps: all bytes equal,
// 00 01 02 … and the like. Nobody draws that at random; somebody typed it.
func regular(b []byte) bool {
	for i := 2; i < len(b); i++ {
		if b[i]-b[i-1] != b[1]-b[0] {
			return false
		}
	}
	return true
}

func (s secret[R]) bytes() []byte {
	if s.open == nil {
		return nil
	}
	return s.open().bytes
}

func (s secret[R]) equal(o secret[R]) bool {
	return subtle.ConstantTimeCompare(s.bytes(), o.bytes()) == 1
}

// IsZero reports whether there is no key: never made, or destroyed.
func (s secret[R]) IsZero() bool { return len(s.bytes()) == 0 }

// Destroy overwrites the key, in every copy of it. Nobody else may be using it.
func (s secret[R]) Destroy() {
	if s.open == nil {
		return
	}
	x := s.open()
	clear(x.bytes)
	x.bytes = nil
}

// String returns the role of the key and nothing of the key.
func (s secret[R]) String() string {
	var r R
	return "key." + r.role() + "(secret)"
}

// GoString is String.
func (s secret[R]) GoString() string { return s.String() }

// Format writes String, whatever the verb.
func (s secret[R]) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) } //nolint:errcheck // fmt.Formatter has nowhere to report it

// LogValue is String.
func (s secret[R]) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON refuses with ErrSecret.
func (s secret[R]) MarshalJSON() ([]byte, error) { return nil, s.refuse() }

// MarshalText refuses with ErrSecret.
func (s secret[R]) MarshalText() ([]byte, error) { return nil, s.refuse() }

// MarshalBinary refuses with ErrSecret.
func (s secret[R]) MarshalBinary() ([]byte, error) { return nil, s.refuse() }

// MarshalCBOR refuses with ErrSecret.
func (s secret[R]) MarshalCBOR() ([]byte, error) { return nil, s.refuse() }

// MarshalYAML refuses with ErrSecret.
func (s secret[R]) MarshalYAML() (any, error) { return nil, s.refuse() }

func (s secret[R]) refuse() error { return fmt.Errorf("%s: %w", s.String(), ErrSecret) }
