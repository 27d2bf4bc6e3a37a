package identity

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"ecowatt/key"
)

// A slot is one key and what belongs to it:
//
//	 0   4  magic "EWPK"
//	 4   1  version, 1
//	 5   3  reserved, 0
//	 8   4  epoch, big-endian, not 0
//	12  16  id of the key
//	28  32  key
//	60  32  SHA-256 of the 60 bytes before
const (
	slotMagic   = "EWPK"
	slotVersion = 1

	offVersion  = 4
	offReserved = 5
	offEpoch    = 8
	offID       = 12
	offKey      = offID + key.IDSize
	offSum      = offKey + key.Size
	slotSize    = offSum + sha256.Size
)

// errSlot says what a slot is that parseSlot refuses: half written, emptied,
// or of no version that is known here. It names no byte of it.
var errSlot = errors.New("not an intact key slot")

// appendSlot appends the bytes of a slot. The caller clears them.
func appendSlot(b []byte, c Credential) []byte {
	at := len(b)
	b = append(b, slotMagic...)
	b = append(b, slotVersion, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(c.Epoch))
	b = append(b, c.ID[:]...)
	secret := c.Key.Secret()
	defer clear(secret[:])
	b = append(b, secret[:]...)
	sum := sha256.Sum256(b[at:])
	return append(b, sum[:]...)
}

// parseSlot reads a slot; the error is errSlot.
func parseSlot(b []byte) (Credential, error) {
	if len(b) != slotSize || string(b[:offVersion]) != slotMagic {
		return Credential{}, errSlot
	}
	if sum := sha256.Sum256(b[:offSum]); !bytes.Equal(sum[:], b[offSum:]) {
		return Credential{}, errSlot
	}
	if b[offVersion] != slotVersion || !bytes.Equal(b[offReserved:offEpoch], make([]byte, offEpoch-offReserved)) {
		return Credential{}, errSlot
	}
	k, err := key.DeviceFromBytes(b[offKey:offSum])
	epoch := key.Epoch(binary.BigEndian.Uint32(b[offEpoch:]))
	if err != nil || epoch == 0 {
		return Credential{}, errSlot
	}
	return Credential{ID: key.ID(b[offID:offKey]), Epoch: epoch, Key: k}, nil
}
