// Package noise is the handshake of the protocol (section 2):
// Noise_NNpsk0_25519_ChaChaPoly_SHA256 with the header of HS1 as prologue.
//
//	HS1  → psk, e    no payload
//	HS2  ← e, ee     payload: a wire.Welcome
//
// It wraps flynn/noise, which runs plain NN without any authentication when the
// pre-shared key is empty. Here a key is a key.PSK, which is 32 bytes that are
// not all zero or nothing; nothing is refused.
//
// Everything is one-shot: whatever the outcome of a Finish, its state is spent.
package noise

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	flynn "github.com/flynn/noise"

	"ecowatt/key"
	"ecowatt/wire"
)

// Errors of this package.
var (
	// ErrRefused is all that is told of a handshake that does not authenticate.
	ErrRefused = errors.New("handshake refused")
	// ErrNoKey says that there was no key to shake hands with: our own mistake.
	ErrNoKey = errors.New("no key for the handshake")
	// ErrSpent says that Finish was called before.
	ErrSpent = errors.New("handshake is over")
)

// Secrets is what a handshake leaves: the name of the session and its keys.
type Secrets struct {
	SID  wire.SessionID
	Keys key.Session
}

// Labels of section 2.
const (
	labelSID     = "ecowatt/1 sid"
	labelReqEnc  = "ecowatt/1 req enc"
	labelReqMAC  = "ecowatt/1 req mac"
	labelRspBase = "ecowatt/1 rsp base"
)

// Initiator is a device's side of a handshake after HS1.
type Initiator struct {
	state  *flynn.HandshakeState
	header wire.Header
}

// Initiate begins a handshake with the key of one epoch and returns HS1. random
// must be a cryptographic source.
func Initiate(psk key.PSK, id key.ID, epoch key.Epoch, random io.Reader) (*Initiator, []byte, error) {
	header := wire.Handshake(wire.HS1, id, epoch)
	hs1 := header.Append(make([]byte, 0, wire.HS1Size))
	state, err := begin(psk, hs1, true, &curve{random: random})
	if err != nil {
		return nil, nil, err
	}
	hs1, _, _, err = state.WriteMessage(hs1, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("making an ephemeral key: %w", err)
	}
	return &Initiator{state: state, header: header}, hs1, nil
}

// Finish opens HS2. The error is ErrRefused, or wraps wire.ErrForeign or
// wire.ErrMalformed.
func (i *Initiator) Finish(hs2 []byte) (Secrets, wire.Welcome, error) {
	state := i.state
	if state == nil {
		return Secrets{}, wire.Welcome{}, ErrSpent
	}
	i.state = nil
	got, err := wire.Parse(hs2, wire.HS2)
	if err != nil {
		return Secrets{}, wire.Welcome{}, err
	}
	if want := wire.Handshake(wire.HS2, i.header.KeyID(), i.header.Epoch()); got != want {
		return Secrets{}, wire.Welcome{}, ErrRefused
	}
	payload, first, second, err := state.ReadMessage(nil, hs2[wire.HeaderSize:])
	if err != nil {
		return Secrets{}, wire.Welcome{}, ErrRefused
	}
	welcome, err := wire.ParseWelcome(payload)
	if err != nil {
		return Secrets{}, wire.Welcome{}, ErrRefused
	}
	secrets, err := derive(state, first, second)
	return secrets, welcome, err
}

// Responder is the cloud's side of a handshake after an HS1 that was made with
// the right key.
type Responder struct {
	state  *flynn.HandshakeState
	curve  *curve
	header wire.Header
}

// Accept checks HS1 against a key. It computes hashes and one tag, and nothing
// on the curve: whoever does not hold the key costs no more than that (see
// proves; the library then finds the same). The error is ErrRefused, or wraps
// wire.ErrForeign or wire.ErrMalformed.
func Accept(psk key.PSK, hs1 []byte) (*Responder, error) { return accept(psk, hs1, &curve{}) }

func accept(psk key.PSK, hs1 []byte, c *curve) (*Responder, error) {
	header, err := wire.Parse(hs1, wire.HS1)
	if err != nil {
		return nil, err
	}
	if psk.IsZero() {
		return nil, ErrNoKey
	}
	secret := psk.Secret()
	defer clear(secret[:])
	if !proves(&secret, hs1) {
		return nil, ErrRefused
	}
	state, err := begin(psk, hs1[:wire.HeaderSize], false, c)
	if err != nil {
		return nil, err
	}
	if _, _, _, err = state.ReadMessage(nil, hs1[wire.HeaderSize:]); err != nil {
		return nil, ErrRefused
	}
	return &Responder{state: state, curve: c, header: header}, nil
}

// Finish makes HS2 and the secrets of the session. random must be a
// cryptographic source. The error is ErrRefused for an ephemeral key of low
// order, which no honest device sends.
func (r *Responder) Finish(welcome wire.Welcome, random io.Reader) ([]byte, Secrets, error) {
	state := r.state
	if state == nil {
		return nil, Secrets{}, ErrSpent
	}
	r.state = nil
	r.curve.random = random
	header := wire.Handshake(wire.HS2, r.header.KeyID(), r.header.Epoch())
	hs2 := header.Append(make([]byte, 0, wire.HS2MinSize))
	hs2, first, second, err := state.WriteMessage(hs2, welcome.Append(nil))
	switch {
	case errors.Is(err, errLowOrder):
		return nil, Secrets{}, ErrRefused
	case err != nil:
		return nil, Secrets{}, fmt.Errorf("making an ephemeral key: %w", err)
	}
	secrets, err := derive(state, first, second)
	return hs2, secrets, err
}

// begin sets up one side of the handshake, with a curve of its own.
func begin(psk key.PSK, prologue []byte, initiator bool, c *curve) (*flynn.HandshakeState, error) {
	if psk.IsZero() {
		return nil, ErrNoKey
	}
	secret := psk.Secret()
	defer clear(secret[:])
	state, err := flynn.NewHandshakeState(flynn.Config{
		CipherSuite:           flynn.NewCipherSuite(c, flynn.CipherChaChaPoly, flynn.HashSHA256),
		Pattern:               flynn.HandshakeNN,
		Initiator:             initiator,
		Prologue:              prologue,
		PresharedKey:          secret[:],
		PresharedKeyPlacement: 0,
	})
	if err != nil {
		return nil, fmt.Errorf("beginning a handshake: %w", err)
	}
	return state, nil
}

// derive makes the secrets from the two keys of the split: first is that of the
// device's direction on both sides.
func derive(state *flynn.HandshakeState, first, second *flynn.CipherState) (Secrets, error) {
	h := state.ChannelBinding()
	k1, k2 := first.UnsafeKey(), second.UnsafeKey()
	defer clear(k1[:])
	defer clear(k2[:])
	keys := make([]byte, 0, key.SessionSize)
	defer clear(keys[:key.SessionSize])
	keys = append(keys, mac(k1[:], labelReqEnc, h)...)
	keys = append(keys, mac(k1[:], labelReqMAC, h)...)
	keys = append(keys, mac(k2[:], labelRspBase, h)...)
	session, err := key.SessionFromBytes(keys)
	if err != nil {
		return Secrets{}, fmt.Errorf("deriving session keys: %w", err)
	}
	return Secrets{SID: wire.SessionID(mac(h, labelSID, nil)[:len(wire.SessionID{})]), Keys: session}, nil
}

func mac(k []byte, label string, data []byte) []byte {
	h := hmac.New(sha256.New, k)
	io.WriteString(h, label) //nolint:errcheck // hash.Hash never returns an error
	h.Write(data)
	return h.Sum(nil)
}
