package uplink

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"ecowatt/key"
	"ecowatt/wire"
)

const labelHedge = "ecowatt/1 hedge"

// hedge is the random source of a handshake (protocol, section 2): what was
// drawn, mixed with the device key, the boot and the time since it. Whoever
// does not hold the key cannot tell it from the source itself; and a source
// that says the same after every start still makes another ephemeral key.
type hedge struct {
	random io.Reader
	key    key.Device
	boot   wire.BootID
	now    time.Duration // since boot
}

// Read fills p, or returns the error of the source.
func (h hedge) Read(p []byte) (int, error) {
	secret := h.key.Secret()
	defer clear(secret[:])
	for n := 0; n < len(p); {
		var drawn [sha256.Size]byte
		if _, err := io.ReadFull(h.random, drawn[:]); err != nil {
			return n, fmt.Errorf("drawing randomness: %w", err)
		}
		mix := hmac.New(sha256.New, secret[:])
		mix.Write([]byte(labelHedge))
		mix.Write(drawn[:])
		mix.Write(h.boot[:])
		mix.Write(binary.LittleEndian.AppendUint64(nil, uint64(h.now)))
		mix.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
		n += copy(p[n:], mix.Sum(nil))
	}
	return len(p), nil
}
