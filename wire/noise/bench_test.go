package noise

import (
	"crypto/ecdh"
	"crypto/rand"
	"testing"
	"time"

	"ecowatt/wire"
)

// BenchmarkHandshake compares a whole handshake, both sides, with the X25519
// work it cannot do without: two key pairs and two secrets.
func BenchmarkHandshake(b *testing.B) {
	psk := newPSK(b)
	var ours, bare time.Duration
	for b.Loop() {
		start := time.Now()
		if _, _, _, err := shake(psk, psk); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(start)
		start = time.Now()
		if err := bareHandshake(); err != nil {
			b.Fatal(err)
		}
		bare += time.Since(start)
	}
	b.ReportMetric(float64(ours)/float64(bare), "x-bare")
}

func bareHandshake() error {
	one, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	two, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	if _, err := one.ECDH(two.PublicKey()); err != nil {
		return err
	}
	_, err = two.ECDH(one.PublicKey())
	return err
}

// BenchmarkAccept is what a stranger can make the cloud do: an HS1 with a bad
// tag. It is compared with one scalar multiplication, which it must not cost.
func BenchmarkAccept(b *testing.B) {
	psk := newPSK(b)
	forged := wire.Handshake(wire.HS1, testID, testEpoch).Append(nil)
	forged = append(forged, make([]byte, 48)...)
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	var ours, bare time.Duration
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		if _, err := Accept(psk, forged); err == nil {
			b.Fatal("accepted")
		}
		ours += time.Since(start)
		start = time.Now()
		if _, err := private.ECDH(private.PublicKey()); err != nil {
			b.Fatal(err)
		}
		bare += time.Since(start)
	}
	b.ReportMetric(float64(ours)/float64(bare), "x-curve-operation")
}
