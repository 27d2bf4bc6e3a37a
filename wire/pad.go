package wire

import (
	"encoding/binary"
	"fmt"
)

// lengthSize is the size of the length that begins a plaintext, in bytes.
const lengthSize = 4

// PaddedSize returns the length of the plaintext for a body of n bytes.
func PaddedSize(n int) int { return (lengthSize + n + PadUnit - 1) / PadUnit * PadUnit }

// Pad appends the plaintext of a body (section 3): its length in 4 bytes, the
// body, and zeros up to a multiple of 64.
func Pad(b, body []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	b = append(b, body...)
	return append(b, make([]byte, PaddedSize(len(body))-lengthSize-len(body))...)
}

// Unpad returns the body inside a plaintext, without copying it. A wrong
// length, more padding than needed and padding that is not zero are ErrSchema.
func Unpad(plain []byte) ([]byte, error) {
	if len(plain) < lengthSize {
		return nil, fmt.Errorf("%w: no length", ErrSchema)
	}
	n := binary.BigEndian.Uint32(plain)
	if uint64(n) > uint64(len(plain)-lengthSize) || PaddedSize(int(n)) != len(plain) {
		return nil, fmt.Errorf("%w: wrong inner length", ErrSchema)
	}
	end := lengthSize + int(n)
	for _, x := range plain[end:] {
		if x != 0 {
			return nil, fmt.Errorf("%w: padding is not zero", ErrSchema)
		}
	}
	return plain[lengthSize:end:end], nil
}
