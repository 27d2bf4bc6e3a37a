package noise

import (
	"crypto/sha256"

	flynn "github.com/flynn/noise"

	"ecowatt/key"
	"ecowatt/wire"
)

// protocol is what the hash of the handshake begins with.
const protocol = "Noise_NNpsk0_25519_ChaChaPoly_SHA256"

// proves reports whether HS1, of the right length, was made with the key. It is
// what the first message comes to in flynn/noise (Noise, revision 34, sections
// 5.2 and 5.3), written flat:
//
//	ck, h = SHA-256(protocol)             h = SHA-256(h ‖ header)
//	psk:  ck, t, _ = HKDF(ck, psk)        h = SHA-256(h ‖ t)
//	e:    _, k     = HKDF(ck, e)          h = SHA-256(h ‖ e)
//	tag:  ChaCha20-Poly1305 under k, nonce 0, of nothing, with h as associated data
//
// A stranger can make the cloud do this as often as he likes, so it takes half
// the time that the library does, and next to no memory.
func proves(secret *[key.Size]byte, hs1 []byte) bool {
	header, e, tag := hs1[:wire.HeaderSize], hs1[wire.HeaderSize:wire.HeaderSize+32], hs1[wire.HeaderSize+32:]
	ck := sha256.Sum256([]byte(protocol))
	h := hashed(ck, header)
	ck, t := expand(&ck, secret[:])
	h = hashed(h, t[:])
	h = hashed(h, e)
	_, k := expand(&ck, e)
	_, err := flynn.CipherChaChaPoly.Cipher(k).Decrypt(nil, 0, h[:], tag)
	clear(ck[:])
	clear(k[:])
	return err == nil
}

// hashed is SHA-256(h ‖ data), for data of 32 bytes.
func hashed(h [32]byte, data []byte) [32]byte {
	var b [64]byte
	copy(b[:], h[:])
	copy(b[32:], data)
	return sha256.Sum256(b[:])
}

// expand returns the first two outputs of HKDF as Noise defines it (section 4.3).
func expand(ck *[32]byte, input []byte) (first, second [32]byte) {
	prk := shortMAC(ck, input)
	first = shortMAC(&prk, []byte{1})
	var more [33]byte
	copy(more[:], first[:])
	more[32] = 2
	second = shortMAC(&prk, more[:])
	clear(prk[:])
	clear(more[:])
	return first, second
}

// shortMAC is HMAC-SHA-256 of at most a block of data, without the two hash
// states that crypto/hmac allocates.
func shortMAC(k *[32]byte, data []byte) (sum [32]byte) {
	var inner [2 * sha256.BlockSize]byte
	var outer [sha256.BlockSize + sha256.Size]byte
	for i := range sha256.BlockSize {
		inner[i], outer[i] = 0x36, 0x5c
	}
	for i, b := range k {
		inner[i] ^= b
		outer[i] ^= b
	}
	n := sha256.BlockSize + copy(inner[sha256.BlockSize:], data)
	sum = sha256.Sum256(inner[:n])
	copy(outer[sha256.BlockSize:], sum[:])
	sum = sha256.Sum256(outer[:])
	clear(inner[:])
	clear(outer[:])
	return sum
}
