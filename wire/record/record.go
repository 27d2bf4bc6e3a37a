// Package record seals and opens the requests and answers of a session
// (section 3 of the protocol).
//
//	REQ  header (32) ‖ ciphertext ‖ tag (16) ‖ HMAC (32)
//	RSP  header (32) ‖ salt (16) ‖ ciphertext ‖ tag (16) ‖ HMAC (32)
//
// A request is sealed under the session's own key with its sequence number as
// nonce: a device must never seal two requests with one number. An answer is
// sealed under a key of its own, made of a fresh salt and of the very request
// it answers: two answers never share a key, whatever happened to the cloud in
// between, and an answer opens for no other request.
package record

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/chacha20poly1305"

	"ecowatt/key"
	"ecowatt/wire"
)

// ErrRefused is all that is told of a message that does not open. A seal that
// is good around a plaintext that is not is wire.ErrSchema instead.
var ErrRefused = errors.New("message refused")

const (
	tagSize  = chacha20poly1305.Overhead
	macSize  = sha256.Size
	saltSize = 16
)

// MAC is the authenticator of a request, which its answer is bound to.
type MAC [macSize]byte

// sealed returns prefix bytes with room for the rest of a message.
func sealed(prefix, padded int) []byte { return make([]byte, prefix, prefix+padded+tagSize+macSize) }

// SealRequest returns the REQ of a body, which is CBOR, and its MAC, which
// OpenAnswer wants.
func SealRequest(keys key.Session, sid wire.SessionID, seq wire.Sequence, body []byte) ([]byte, MAC, error) {
	if err := check(keys, seq); err != nil {
		return nil, MAC{}, err
	}
	if len(body) > wire.RequestRoom(wire.MaxRequest) {
		return nil, MAC{}, fmt.Errorf("sealing a request of %d bytes: %w", len(body), wire.ErrTooLarge)
	}
	k := split(keys)
	defer k.clear()
	msg := sealed(wire.HeaderSize, wire.PaddedSize(len(body)))
	header := wire.Record(wire.REQ, sid, seq).Append(msg[:0])
	msg = seal(k.reqEnc(), requestNonce(seq), msg, header, body)
	mac := sum(k.reqMAC(), msg)
	return append(msg, mac[:]...), mac, nil
}

// OpenRequest opens a REQ and returns its body and its MAC, which SealAnswer
// wants. The error is ErrRefused, or wraps wire.ErrSchema, or is one of those
// of wire.Parse.
func OpenRequest(keys key.Session, msg []byte) ([]byte, MAC, error) {
	h, err := wire.Parse(msg, wire.REQ)
	if err != nil {
		return nil, MAC{}, err
	}
	if keys.IsZero() {
		return nil, MAC{}, ErrRefused
	}
	k := split(keys)
	defer k.clear()
	end := len(msg) - macSize
	mac := sum(k.reqMAC(), msg[:end])
	if !hmac.Equal(mac[:], msg[end:]) {
		return nil, MAC{}, ErrRefused
	}
	body, err := open(k.reqEnc(), requestNonce(h.Sequence()), msg[:end], wire.HeaderSize)
	return body, mac, err
}

// SealAnswer returns the RSP of a body, which is CBOR, for the request of the
// session, sequence number and MAC. random must be a cryptographic source.
func SealAnswer(keys key.Session, sid wire.SessionID, seq wire.Sequence, request MAC, random io.Reader, body []byte) ([]byte, error) {
	if err := check(keys, seq); err != nil {
		return nil, err
	}
	msg := sealed(wire.HeaderSize+saltSize, wire.PaddedSize(len(body)))
	prefix := wire.Record(wire.RSP, sid, seq).Append(msg[:0])[:len(msg)]
	salt := prefix[wire.HeaderSize:]
	if _, err := io.ReadFull(random, salt); err != nil {
		return nil, fmt.Errorf("drawing a salt: %w", err)
	}
	k := split(keys)
	defer k.clear()
	enc, mk := k.answer(salt, request)
	defer clear(enc[:])
	defer clear(mk[:])
	msg = seal(enc[:], [chacha20poly1305.NonceSize]byte{}, msg, prefix, body)
	mac := sum(mk[:], msg)
	return append(msg, mac[:]...), nil
}

// OpenAnswer opens the RSP to the request of the session, sequence number and
// MAC and returns its body. An answer to any other request is ErrRefused. The
// error may also wrap wire.ErrSchema, or be one of those of wire.Parse.
func OpenAnswer(keys key.Session, sid wire.SessionID, seq wire.Sequence, request MAC, msg []byte) ([]byte, error) {
	h, err := wire.Parse(msg, wire.RSP)
	if err != nil {
		return nil, err
	}
	if keys.IsZero() || h.Session() != sid || h.Sequence() != seq {
		return nil, ErrRefused
	}
	k := split(keys)
	defer k.clear()
	enc, mk := k.answer(msg[wire.HeaderSize:wire.HeaderSize+saltSize], request)
	defer clear(enc[:])
	defer clear(mk[:])
	end := len(msg) - macSize
	mac := sum(mk[:], msg[:end])
	if !hmac.Equal(mac[:], msg[end:]) {
		return nil, ErrRefused
	}
	return open(enc[:], [chacha20poly1305.NonceSize]byte{}, msg[:end], wire.HeaderSize+saltSize)
}

// check refuses what must never be sealed.
func check(keys key.Session, seq wire.Sequence) error {
	switch {
	case keys.IsZero():
		return errors.New("sealing: there are no session keys")
	case seq < 1 || seq > wire.MaxSequence:
		return fmt.Errorf("sealing: sequence number %d is out of range", seq)
	}
	return nil
}

// requestNonce is 0 (4) ‖ LE64(seq).
func requestNonce(seq wire.Sequence) (nonce [chacha20poly1305.NonceSize]byte) {
	binary.LittleEndian.PutUint64(nonce[4:], uint64(seq))
	return nonce
}

// seal appends to prefix, which is also the associated data, the padded and
// encrypted body and its tag. msg is prefix with room for them.
func seal(enc []byte, nonce [chacha20poly1305.NonceSize]byte, msg, prefix, body []byte) []byte {
	msg = wire.Pad(msg[:len(prefix)], body)
	return aead(enc).Seal(prefix, nonce[:], msg[len(prefix):], prefix)
}

// open decrypts what follows prefix bytes of associated data in msg and takes
// the padding off.
func open(enc []byte, nonce [chacha20poly1305.NonceSize]byte, msg []byte, prefix int) ([]byte, error) {
	plain, err := aead(enc).Open(nil, nonce[:], msg[prefix:], msg[:prefix])
	if err != nil {
		return nil, ErrRefused
	}
	return wire.Unpad(plain)
}

func aead(k []byte) cipher.AEAD {
	a, err := chacha20poly1305.New(k)
	if err != nil {
		panic("record: " + err.Error()) // a key of 32 bytes is no error
	}
	return a
}

// schedule is a copy of the keys of a session, in the order of key.Session.
type schedule [key.SessionSize]byte

func split(keys key.Session) *schedule {
	k := schedule(keys.Secret())
	return &k
}

func (k *schedule) reqEnc() []byte  { return k[0:32] }
func (k *schedule) reqMAC() []byte  { return k[32:64] }
func (k *schedule) rspBase() []byte { return k[64:96] }
func (k *schedule) clear()          { clear(k[:]) }

// answer derives the keys of one answer:
//
//	prk = HMAC(rsp_base, salt ‖ mac of the REQ)
//	enc = HMAC(prk, "enc")   mk = HMAC(prk, "mac")
func (k *schedule) answer(salt []byte, request MAC) (enc, mk [32]byte) {
	h := hmac.New(sha256.New, k.rspBase())
	h.Write(salt)
	h.Write(request[:])
	prk := h.Sum(nil)
	defer clear(prk)
	return sum(prk, []byte("enc")), sum(prk, []byte("mac"))
}

func sum(k, data []byte) (m [macSize]byte) {
	h := hmac.New(sha256.New, k)
	h.Write(data)
	h.Sum(m[:0])
	return m
}
