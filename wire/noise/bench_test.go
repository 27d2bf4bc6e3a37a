package noise

import (
	"crypto/ecdh"
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"ecowatt/wire"
)

// race times one of our operations and the bare one in turn, and reports the
// ratio of their medians, which what else the machine does hardly changes.
func race(b *testing.B, metric string, ours, bare func() error) {
	b.Helper()
	var times [2][]time.Duration
	for b.Loop() {
		for i, do := range []func() error{ours, bare} {
			start := time.Now()
			if err := do(); err != nil {
				b.Fatal(err)
			}
			times[i] = append(times[i], time.Since(start))
		}
	}
	median := func(t []time.Duration) float64 {
		slices.Sort(t)
		return float64(t[len(t)/2])
	}
	b.ReportMetric(median(times[0])/median(times[1]), metric)
	b.ReportMetric(median(times[0]), "ns/ours")
}

// BenchmarkHandshake compares a whole handshake, both sides, with the X25519
// work it cannot do without: two key pairs and two secrets. It stays within
// 1.25 times that.
func BenchmarkHandshake(b *testing.B) {
	psk := newPSK(b)
	race(b, "x-bare", func() error {
		_, _, _, err := shake(psk, psk)
		return err
	}, bareHandshake)
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
	b.ReportAllocs()
	race(b, "x-curve-operation", func() error {
		if _, err := Accept(psk, forged); err == nil {
			b.Fatal("accepted")
		}
		return nil
	}, func() error {
		_, err := private.ECDH(private.PublicKey())
		return err
	})
}
