// Package firmware is what a release of the agent is made of, and what a device
// holds it against before it lets it near a slot: the signed manifest, the root
// of trust that says whose signatures count, the table of chunks, and the
// encryption of the payloads. The format is docs/formats/firmware.md.
//
// The order of the checks is the order of the methods: a Root verifies the
// signatures of an Envelope before anything inside is decoded, the Manifest is
// checked against the Target before anything is erased, and each chunk of a
// payload is verified against the Table before it is decrypted.
package firmware

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// Limits of the format.
const (
	MaxImage    = 256 << 20 // bytes of an image
	MaxEnvelope = 8 << 10   // bytes of a signed statement
	MaxPayloads = 8         // of a manifest
	MaxHardware = 16        // revisions named by a manifest
	MaxText     = 64        // bytes of a version or a revision
	MaxChunks   = 4096      // of a payload
	MaxKeys     = 16        // of a root
	MaxDevices  = 64        // named by a downgrade
)

// What is wrong with a release. Each is a reason to refuse it that a device
// reports by name.
var (
	ErrFormat      = errors.New("not of the format")
	ErrSignature   = errors.New("not signed as it must be")
	ErrRoot        = errors.New("not the next root of trust")
	ErrProduct     = errors.New("for another product")
	ErrHardware    = errors.New("for other hardware")
	ErrDowngrade   = errors.New("older than what may be installed")
	ErrTooLarge    = errors.New("larger than the slot")
	ErrStep        = errors.New("needs another release first")
	ErrProtocol    = errors.New("cannot talk to this cloud")
	ErrExpired     = errors.New("expired")
	ErrContentKey  = errors.New("not the key of this content")
	ErrChunk       = errors.New("not the chunk of the table")
	ErrMissingRoot = errors.New("needs a later root of trust")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
}

// encode writes the one form that decode takes: RFC 8949 section 4.2.1.
func encode(v any) ([]byte, error) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	return mode.Marshal(v)
}

// decode reads v from data, strictly: no unknown keys, no tags, nothing after it,
// and the bytes are those that encode would write. The error wraps ErrFormat.
func decode(data []byte, v any) error {
	if len(data) > MaxEnvelope {
		return malformed("%d bytes, at most %d are read", len(data), MaxEnvelope)
	}
	mode, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   8,
		MaxArrayElements:  MaxDevices, // the longest list there is
		MaxMapPairs:       32,
	}.DecMode()
	if err != nil {
		return fmt.Errorf("decoding: %w", err)
	}
	if err := mode.Unmarshal(data, v); err != nil {
		return malformed("%v", err)
	}
	again, err := encode(v)
	if err != nil {
		return malformed("%v", err)
	}
	if string(again) != string(data) {
		return malformed("not in the deterministic form")
	}
	return nil
}
