package firmware

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/veraison/go-cose"

	"ecowatt/key"
)

// Statement is what kind of statement a signature is for. It stands in the
// protected header (RFC 9596), so that a signature made for one kind never
// verifies for another.
type Statement string

// The kinds of statements.
const (
	StatementManifest  Statement = "application/ecowatt-fw-manifest+cose"
	StatementRoot      Statement = "application/ecowatt-fw-root+cose"
	StatementDowngrade Statement = "application/ecowatt-fw-downgrade+cose"
)

// KeyID names a public key: the first 8 bytes of its SHA-256.
type KeyID [8]byte

// IDOf returns the id of a public key.
func IDOf(public ed25519.PublicKey) KeyID {
	h := sha256.Sum256(public)
	return KeyID(h[:8])
}

// String is the id in hexadecimal.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// Envelope is a statement with its signatures: the bytes as they are signed, and
// any number of detached COSE_Sign1 (RFC 9052 section 4.2) of them.
type Envelope struct {
	_          struct{} `cbor:",toarray"`
	Body       []byte
	Signatures [][]byte
}

// MaxSignatures is how many signatures an envelope may carry.
const MaxSignatures = 16

// ParseEnvelope reads an envelope. Nothing inside is looked at. The error wraps
// ErrFormat.
func ParseEnvelope(data []byte) (Envelope, error) {
	var e Envelope
	if err := decode(data, &e); err != nil {
		return Envelope{}, fmt.Errorf("reading an envelope: %w", err)
	}
	if len(e.Body) == 0 || e.Signatures == nil || len(e.Signatures) > MaxSignatures {
		return Envelope{}, fmt.Errorf("reading an envelope: %w", malformed("%d bytes with %d signatures", len(e.Body), len(e.Signatures)))
	}
	return e, nil
}

// Encode returns the bytes of the envelope.
func (e Envelope) Encode() ([]byte, error) {
	if e.Signatures == nil {
		e.Signatures = [][]byte{}
	}
	return encode(e)
}

// ID is what the statement is known by: the SHA-256 of its bytes. Signatures do
// not change it.
func (e Envelope) ID() [sha256.Size]byte { return sha256.Sum256(e.Body) }

// Sign adds the signature of k to the envelope. A key that has signed already is
// left as it is.
func (e *Envelope) Sign(kind Statement, k key.Signing) error {
	if k.IsZero() {
		return fmt.Errorf("signing: %w: there is no key", key.ErrLength)
	}
	id := IDOf(k.Public())
	for _, s := range e.Signatures {
		if m, err := parseSignature(kind, s); err == nil && bytes.Equal(keyOf(m), id[:]) {
			return nil
		}
	}
	m := cose.Sign1Message{
		Headers: cose.Headers{Protected: cose.ProtectedHeader{
			cose.HeaderLabelAlgorithm: cose.AlgorithmEdDSA,
			cose.HeaderLabelKeyID:     id[:],
			cose.HeaderLabelType:      string(kind),
		}},
		Payload: e.Body,
	}
	if err := m.Sign(nil, nil, signer{k}); err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	m.Payload = nil
	signature, err := m.MarshalCBOR()
	if err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	e.Signatures = append(e.Signatures, signature)
	return nil
}

// signers returns which of the keys have signed the envelope as a statement of
// the kind. A signature that is malformed, of an unknown key or wrong counts for
// nothing; each key counts once.
func (e Envelope) signers(kind Statement, keys map[KeyID]ed25519.PublicKey) map[KeyID]bool {
	found := map[KeyID]bool{}
	for _, s := range e.Signatures {
		m, err := parseSignature(kind, s)
		if err != nil {
			continue
		}
		id := KeyID(keyOf(m))
		public, ok := keys[id]
		if !ok || found[id] {
			continue
		}
		m.Payload = e.Body
		if m.Verify(nil, verifier{public}) == nil {
			found[id] = true
		}
	}
	return found
}

// Signers returns the ids of the keys that the signatures name, in their order.
// Nothing is verified.
func (e Envelope) Signers(kind Statement) []KeyID {
	var ids []KeyID
	for _, s := range e.Signatures {
		if m, err := parseSignature(kind, s); err == nil {
			ids = append(ids, KeyID(keyOf(m)))
		}
	}
	return ids
}

// parseSignature reads a detached signature with exactly the headers that Sign
// writes.
func parseSignature(kind Statement, data []byte) (*cose.Sign1Message, error) {
	m := &cose.Sign1Message{}
	if err := m.UnmarshalCBOR(data); err != nil {
		return nil, malformed("%v", err)
	}
	h := m.Headers
	algorithm, err := h.Protected.Algorithm()
	switch {
	case err != nil || algorithm != cose.AlgorithmEdDSA:
		return nil, malformed("a signature of another algorithm")
	case len(h.Protected) != 3 || len(h.Unprotected) != 0 || m.Payload != nil:
		return nil, malformed("a signature with other headers")
	case h.Protected[cose.HeaderLabelType] != string(kind):
		return nil, malformed("a signature of another statement")
	case len(keyOf(m)) != len(KeyID{}):
		return nil, malformed("a signature without a key id")
	}
	return m, nil
}

func keyOf(m *cose.Sign1Message) []byte {
	id, _ := m.Headers.Protected[cose.HeaderLabelKeyID].([]byte)
	return id
}

// signer is a key.Signing as package cose wants it.
type signer struct{ key key.Signing }

func (signer) Algorithm() cose.Algorithm { return cose.AlgorithmEdDSA }

func (s signer) Sign(_ io.Reader, content []byte) ([]byte, error) { return s.key.Sign(content), nil }

// verifier is a public key as package cose wants it.
type verifier struct{ key ed25519.PublicKey }

func (verifier) Algorithm() cose.Algorithm { return cose.AlgorithmEdDSA }

func (v verifier) Verify(content, signature []byte) error {
	if len(v.key) != ed25519.PublicKeySize || !ed25519.Verify(v.key, content, signature) {
		return cose.ErrVerification
	}
	return nil
}
