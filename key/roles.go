package key

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

// PSK is the pre-shared key of a Noise handshake, derived from a Device key.
type PSK struct{ secret[pskRole] }

type pskRole struct{}

func (pskRole) role() string { return "PSK" }

// PSKFromBytes copies b: ErrLength unless it is 32 bytes, ErrWeak when they are
// all zero.
func PSKFromBytes(b []byte) (PSK, error) {
	s, err := load[pskRole](b, Size)
	return PSK{s}, err
}

// Secret returns a copy of the key for the handshake; the caller clears it.
// Zeros when there is no key.
func (k PSK) Secret() (b [Size]byte) {
	copy(b[:], k.bytes())
	return b
}

// Equal compares in constant time.
func (k PSK) Equal(o PSK) bool { return k.equal(o.secret) }

// SessionSize is the length of a session's keys in bytes.
const SessionSize = 96

// Session is the three keys of one session, made and used together:
//
//	 0  32  req_enc   seals requests
//	32  32  req_mac   authenticates requests
//	64  32  rsp_base  from which each answer's keys are derived
type Session struct{ secret[sessionRole] }

type sessionRole struct{}

func (sessionRole) role() string { return "Session" }

// SessionFromBytes copies b: ErrLength unless it is 96 bytes, ErrWeak when they
// are all zero.
func SessionFromBytes(b []byte) (Session, error) {
	s, err := load[sessionRole](b, SessionSize)
	return Session{s}, err
}

// Secret returns a copy of the keys in the order of the table above; the caller
// clears it. Zeros when there is no key.
func (k Session) Secret() (b [SessionSize]byte) {
	copy(b[:], k.bytes())
	return b
}

// Equal compares in constant time.
func (k Session) Equal(o Session) bool { return k.equal(o.secret) }

// KEK wraps other keys at rest in the cloud: a key-encryption key.
type KEK struct{ secret[kekRole] }

type kekRole struct{}

func (kekRole) role() string { return "KEK" }

// NewKEK draws a key from random, which must be a cryptographic source.
func NewKEK(random io.Reader) (KEK, error) {
	s, err := draw[kekRole](random, Size)
	return KEK{s}, err
}

// KEKFromBytes copies b: ErrLength unless it is 32 bytes, ErrWeak when they are
// all zero.
func KEKFromBytes(b []byte) (KEK, error) {
	s, err := load[kekRole](b, Size)
	return KEK{s}, err
}

// Secret returns a copy of the key; the caller clears it. Zeros when there is
// no key.
func (k KEK) Secret() (b [Size]byte) {
	copy(b[:], k.bytes())
	return b
}

// Equal compares in constant time.
func (k KEK) Equal(o KEK) bool { return k.equal(o.secret) }

// MinStorageSecret is the least length, in bytes, of what a Storage key is
// derived from.
const MinStorageSecret = 16

// Storage seals the device keys that a gateway keeps on its disk.
type Storage struct{ secret[storageRole] }

type storageRole struct{}

func (storageRole) role() string { return "Storage" }

// labelStorage is the info of the derivation of a Storage key.
const labelStorage = "ecowatt/1 storage"

// StorageFromSecret derives a key from what the system keeps for the gateway:
// HKDF-SHA-256 without salt (RFC 5869), info "ecowatt/1 storage". The secret must
// have been drawn at random, for nothing makes guessing it slow: ErrLength when
// it is shorter than MinStorageSecret.
func StorageFromSecret(secret []byte) (Storage, error) {
	if len(secret) < MinStorageSecret {
		return Storage{}, fmt.Errorf("%w: %d bytes, at least %d are needed", ErrLength, len(secret), MinStorageSecret)
	}
	b, err := hkdf.Key(sha256.New, secret, nil, labelStorage, Size)
	if err != nil {
		return Storage{}, fmt.Errorf("deriving a storage key: %w", err)
	}
	return Storage{seal[storageRole](b)}, nil
}

// Secret returns a copy of the key; the caller clears it. Zeros when there is
// no key.
func (k Storage) Secret() (b [Size]byte) {
	copy(b[:], k.bytes())
	return b
}

// Equal compares in constant time.
func (k Storage) Equal(o Storage) bool { return k.equal(o.secret) }

// Token lets a person or a program in at the API. Whoever shows it is its
// owner; the cloud keeps only its hash.
type Token struct{ secret[tokenRole] }

type tokenRole struct{}

func (tokenRole) role() string { return "Token" }

// tokenPrefix lets people, and scanners of leaked secrets, tell what it is.
const tokenPrefix = "ew_"

// ErrToken says that a text is not of the form of a token. It does not repeat
// the text.
var ErrToken = errors.New("not a token")

// NewToken draws a token from random, which must be a cryptographic source.
func NewToken(random io.Reader) (Token, error) {
	s, err := draw[tokenRole](random, Size)
	return Token{s}, err
}

// ParseToken reads the form that Text writes, and no other spelling of it.
func ParseToken(text string) (Token, error) {
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok || len(rest) != base64.RawURLEncoding.EncodedLen(Size) || strings.ContainsAny(rest, "\r\n") {
		return Token{}, ErrToken
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil {
		return Token{}, ErrToken
	}
	s, err := load[tokenRole](b, Size)
	if err != nil {
		return Token{}, ErrToken
	}
	return Token{s}, nil
}

// Text returns the token as its owner gets it, once: "ew_" and 43 characters of
// base64url. It is the one way out. Empty when there is no token.
func (k Token) Text() string {
	if k.IsZero() {
		return ""
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(k.bytes())
}

// Hash returns the SHA-256 of the token's 32 bytes, which is what is stored. A
// token is random 256 bits, so a plain hash is enough.
func (k Token) Hash() [sha256.Size]byte { return sha256.Sum256(k.bytes()) }

// Equal compares in constant time.
func (k Token) Equal(o Token) bool { return k.equal(o.secret) }

// Content is the key that the image of a release is encrypted with. Every
// device of the fleet gets it: it hides the image from others, and proves
// nothing of who made it.
type Content struct{ secret[contentRole] }

type contentRole struct{}

func (contentRole) role() string { return "Content" }

// NewContent draws a key from random, which must be a cryptographic source.
func NewContent(random io.Reader) (Content, error) {
	s, err := draw[contentRole](random, Size)
	return Content{s}, err
}

// ContentFromBytes copies b: ErrLength unless it is 32 bytes, ErrWeak when they
// are all zero.
func ContentFromBytes(b []byte) (Content, error) {
	s, err := load[contentRole](b, Size)
	return Content{s}, err
}

// Secret returns a copy of the key; the caller clears it. Zeros when there is
// no key.
func (k Content) Secret() (b [Size]byte) {
	copy(b[:], k.bytes())
	return b
}

// Equal compares in constant time.
func (k Content) Equal(o Content) bool { return k.equal(o.secret) }
