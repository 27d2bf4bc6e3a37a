package key

import (
	"crypto/ed25519"
	"io"
)

// Signing signs releases and roots of trust: an Ed25519 private key (RFC 8032).
// It lives with whoever makes releases and never in the cloud or on a device.
type Signing struct{ secret[signingRole] }

type signingRole struct{}

func (signingRole) role() string { return "Signing" }

// NewSigning draws a key from random, which must be a cryptographic source.
func NewSigning(random io.Reader) (Signing, error) {
	s, err := draw[signingRole](random, Size)
	return Signing{s}, err
}

// SigningFromSeed copies the 32 bytes of RFC 8032 section 5.1.5: ErrLength unless
// it is 32 bytes, ErrWeak when they are all zero.
func SigningFromSeed(b []byte) (Signing, error) {
	s, err := load[signingRole](b, Size)
	return Signing{s}, err
}

// Secret returns a copy of the seed; the caller clears it. Zeros when there is no
// key.
func (k Signing) Secret() (b [Size]byte) {
	copy(b[:], k.bytes())
	return b
}

// Public returns the public key; nil when there is no key.
func (k Signing) Public() ed25519.PublicKey {
	if k.IsZero() {
		return nil
	}
	private := ed25519.NewKeyFromSeed(k.bytes())
	defer clear(private)
	return append(ed25519.PublicKey{}, private[ed25519.SeedSize:]...)
}

// Sign returns the signature of message; nil when there is no key.
func (k Signing) Sign(message []byte) []byte {
	if k.IsZero() {
		return nil
	}
	private := ed25519.NewKeyFromSeed(k.bytes())
	defer clear(private)
	return ed25519.Sign(private, message)
}

// Equal compares in constant time.
func (k Signing) Equal(o Signing) bool { return k.equal(o.secret) }
