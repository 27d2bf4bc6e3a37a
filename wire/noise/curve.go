package noise

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"

	flynn "github.com/flynn/noise"
)

// errLowOrder says that a peer's public key leads to an all-zero secret.
var errLowOrder = errors.New("public key of low order")

// curve is X25519 for one side of one handshake, which has one key pair. The
// DHFunc of flynn/noise computes the public key again for every secret; this one
// keeps the pair, whose private half never leaves it.
type curve struct {
	random     io.Reader
	private    *ecdh.PrivateKey
	operations int // scalar multiplications so far
}

// GenerateKeypair draws the pair. It reads c.random, not the source that
// flynn/noise offers, and exactly 32 bytes of it.
func (c *curve) GenerateKeypair(io.Reader) (flynn.DHKey, error) {
	var seed [32]byte
	defer clear(seed[:])
	if _, err := io.ReadFull(c.random, seed[:]); err != nil {
		return flynn.DHKey{}, fmt.Errorf("drawing randomness: %w", err)
	}
	private, err := ecdh.X25519().NewPrivateKey(seed[:])
	if err != nil {
		return flynn.DHKey{}, err
	}
	c.operations++
	c.private = private
	return flynn.DHKey{Public: private.PublicKey().Bytes()}, nil
}

// DH returns the secret that the pair shares with the peer's public key. The
// first argument is the private key, of which flynn/noise was told nothing.
func (c *curve) DH(_, public []byte) ([]byte, error) {
	peer, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	c.operations++
	secret, err := c.private.ECDH(peer)
	if err != nil {
		return nil, errLowOrder
	}
	return secret, nil
}

// DHLen is the length of a public key and of a secret.
func (*curve) DHLen() int { return 32 }

// DHName is the name of the curve in Noise.
func (*curve) DHName() string { return "25519" }
