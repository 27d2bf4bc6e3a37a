package identity

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"golang.org/x/crypto/chacha20poly1305"

	"ecowatt/key"
)

// A slot is the key of one epoch and what it is to the device; integers are
// big-endian:
//
//	 0   4  magic "EWPK"
//	 4   1  version, 2
//	 5   1  state
//	 6   1  flags: 1 sealed, 2 burn
//	 7   1  reserved, 0
//	 8   4  epoch, not 0
//	12  16  id of the key
//	28   8  end, ms since 1970; 0 for none
//	36      the key (32), or sealed: nonce (12), ciphertext and tag (48)
//	        SHA-256 of all bytes before (32)
//
// A sealed key is that of a plain slot under ChaCha20-Poly1305 with the storage
// key, the 36 bytes before it being the associated data. The nonces are random:
// a gateway writes a few slots in its life, far from the 2^32 at which two of
// them would become likely to be the same.
const (
	slotMagic   = "EWPK"
	slotVersion = 2

	offVersion  = 4
	offState    = 5
	offFlags    = 6
	offReserved = 7
	offEpoch    = 8
	offID       = 12
	offEnd      = offID + key.IDSize
	offKey      = offEnd + 8

	sealedKeySize = chacha20poly1305.NonceSize + key.Size + chacha20poly1305.Overhead

	plainSize  = offKey + key.Size + sha256.Size
	sealedSize = offKey + sealedKeySize + sha256.Size

	// leastSize and maxSlotSize bound a slot of any version: the magic, the
	// version, and the checksum of all that at the end.
	leastSize   = offState + sha256.Size
	maxSlotSize = 4 << 10
)

// Flags of a slot.
const (
	flagSealed = 1
	flagBurn   = 2
)

// state is what the key in a slot is to the device. Keys tells how it changes.
type state byte

const (
	staged   state = 1 // of the next epoch; the cloud has not answered under it yet
	active   state = 2 // the cloud has
	fallback state = 3 // of an epoch before
)

// slot is what a slot says.
type slot struct {
	Credential
	state state
	burn  bool  // of a staged or active one: no key of an epoch before may stay
	end   int64 // of a fallback: when it is to go, ms since 1970; 0 for not known yet
}

// Errors of a slot that is not read. None names a byte of it.
var (
	// errTorn says that a slot is half written, emptied, or no slot at all.
	errTorn = errors.New("not an intact key slot")
	// errVersion says that a slot is intact and of a version not known here.
	errVersion = errors.New("a key slot of another version")
	// errSealed says that there is no storage key to open a slot with.
	errSealed = errors.New("sealed")
	// errForeign says that a slot does not open with the storage key.
	errForeign = errors.New("sealed with another storage key")
)

// appendSlot appends the bytes of a slot, which is sealed where there is a
// storage key. The caller clears them.
func appendSlot(b []byte, s slot, storage key.Storage) ([]byte, error) {
	at := len(b)
	flags := byte(0)
	if s.burn {
		flags |= flagBurn
	}
	if !storage.IsZero() {
		flags |= flagSealed
	}
	b = append(b, slotMagic...)
	b = append(b, slotVersion, byte(s.state), flags, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(s.Epoch))
	b = append(b, s.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.end))
	secret := s.Key.Secret()
	defer clear(secret[:])
	if storage.IsZero() {
		b = append(b, secret[:]...)
	} else {
		sealed, err := seal(storage, secret[:], b[at:])
		if err != nil {
			return nil, err
		}
		b = append(b, sealed...)
	}
	sum := sha256.Sum256(b[at:])
	return append(b, sum[:]...), nil
}

// seal returns nonce, ciphertext and tag.
func seal(storage key.Storage, secret, header []byte) ([]byte, error) {
	k := storage.Secret()
	defer clear(k[:])
	aead, err := chacha20poly1305.New(k[:])
	if err != nil {
		return nil, fmt.Errorf("sealing a key: %w", err)
	}
	nonce := make([]byte, aead.NonceSize(), sealedKeySize)
	rand.Read(nonce) // ends the program rather than fail
	return aead.Seal(nonce, nonce, secret, header), nil
}

// unseal opens what seal made; the error is errForeign.
func unseal(storage key.Storage, sealed, header []byte) ([]byte, error) {
	k := storage.Secret()
	defer clear(k[:])
	aead, err := chacha20poly1305.New(k[:])
	if err != nil {
		return nil, errForeign
	}
	secret, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], header)
	if err != nil {
		return nil, errForeign
	}
	return secret, nil
}

// parseSlot reads a slot, and reports whether it is sealed. The error is one of
// the four above.
func parseSlot(b []byte, storage key.Storage) (s slot, sealed bool, err error) {
	if len(b) < leastSize || string(b[:offVersion]) != slotMagic {
		return slot{}, false, errTorn
	}
	body := b[:len(b)-sha256.Size]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[len(body):]) {
		return slot{}, false, errTorn
	}
	if b[offVersion] != slotVersion {
		return slot{}, false, errVersion
	}
	if s, sealed, err = parseHeader(body); err != nil {
		return slot{}, false, err
	}
	secret := body[offKey:]
	if sealed {
		if storage.IsZero() {
			return slot{}, true, errSealed
		}
		if secret, err = unseal(storage, secret, body[:offKey]); err != nil {
			return slot{}, true, err
		}
		defer clear(secret)
	}
	if s.Key, err = key.DeviceFromBytes(secret); err != nil {
		return slot{}, sealed, errTorn
	}
	return s, sealed, nil
}

// parseHeader reads all of a slot but the key; body is without the checksum.
func parseHeader(body []byte) (s slot, sealed bool, err error) {
	if len(body) < offKey {
		return slot{}, false, errTorn
	}
	flags, end := body[offFlags], binary.BigEndian.Uint64(body[offEnd:])
	sealed = flags&flagSealed != 0
	s = slot{
		Credential: Credential{ID: key.ID(body[offID:offEnd]), Epoch: key.Epoch(binary.BigEndian.Uint32(body[offEpoch:]))},
		state:      state(body[offState]),
		burn:       flags&flagBurn != 0,
		end:        int64(end),
	}
	size := key.Size
	if sealed {
		size = sealedKeySize
	}
	switch {
	case len(body) != offKey+size,
		s.state < staged || s.state > fallback,
		flags&^(flagSealed|flagBurn) != 0 || body[offReserved] != 0,
		s.burn && s.state == fallback,
		s.Epoch == 0,
		end > math.MaxInt64 || end > 0 && s.state != fallback:
		return slot{}, false, errTorn
	}
	return s, sealed, nil
}
