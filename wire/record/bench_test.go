package record

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"ecowatt/wire"
)

// BenchmarkRequest compares sealing and opening a request with the two
// primitives it cannot do without, ChaCha20-Poly1305 and HMAC-SHA-256, each once
// per side over the same bytes.
func BenchmarkRequest(b *testing.B) {
	for _, size := range []int{60, 1 << 10, 16 << 10, 128 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			keys := newKeys(b)
			body := make([]byte, size)
			bare := newBare(b, wire.PaddedSize(size))
			var ours, base time.Duration
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				msg, _, err := SealRequest(keys, wire.SessionID{}, 1, body)
				if err != nil {
					b.Fatal(err)
				}
				if _, _, err := OpenRequest(keys, msg); err != nil {
					b.Fatal(err)
				}
				ours += time.Since(start)
				start = time.Now()
				bare(b)
				base += time.Since(start)
			}
			b.ReportMetric(float64(ours)/float64(base), "x-bare")
		})
	}
}

// BenchmarkOpen compares opening a request with ChaCha20-Poly1305 alone over the
// same bytes: what the second authenticator, the copies and the checks add. For
// 1 KiB it stays within 4 times that.
func BenchmarkOpen(b *testing.B) {
	for _, size := range []int{60, 1 << 10, 16 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			keys := newKeys(b)
			msg, _, err := SealRequest(keys, wire.SessionID{}, 1, make([]byte, size))
			if err != nil {
				b.Fatal(err)
			}
			k := split(keys)
			nonce, end := requestNonce(1), len(msg)-macSize
			var times [2][]time.Duration
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				if _, _, err := OpenRequest(keys, msg); err != nil {
					b.Fatal(err)
				}
				times[0] = append(times[0], time.Since(start))
				start = time.Now()
				a, err := chacha20poly1305.New(k.reqEnc())
				if err == nil {
					_, err = a.Open(nil, nonce[:], msg[wire.HeaderSize:end], msg[:wire.HeaderSize])
				}
				if err != nil {
					b.Fatal(err)
				}
				times[1] = append(times[1], time.Since(start))
			}
			median := func(t []time.Duration) float64 { // which what else the machine does hardly changes
				slices.Sort(t)
				return float64(t[len(t)/2])
			}
			b.ReportMetric(median(times[0])/median(times[1]), "x-aead")
		})
	}
}

// BenchmarkAnswer does what BenchmarkRequest does for an answer, whose key schedule is derived
// anew each time.
func BenchmarkAnswer(b *testing.B) {
	for _, size := range []int{60, 1 << 10, 16 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			keys := newKeys(b)
			body := make([]byte, size)
			bare := newBare(b, wire.PaddedSize(size))
			var ours, base time.Duration
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				start := time.Now()
				msg, err := SealAnswer(keys, wire.SessionID{}, 1, MAC{}, rand.Reader, body)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := OpenAnswer(keys, wire.SessionID{}, 1, MAC{}, msg); err != nil {
					b.Fatal(err)
				}
				ours += time.Since(start)
				start = time.Now()
				bare(b)
				base += time.Since(start)
			}
			b.ReportMetric(float64(ours)/float64(base), "x-bare")
		})
	}
}

// newBare returns a function that encrypts, authenticates, authenticates again
// and decrypts size bytes.
func newBare(b *testing.B, size int) func(*testing.B) {
	b.Helper()
	k := make([]byte, 32)
	plain, nonce := make([]byte, size), make([]byte, 12)
	return func(b *testing.B) {
		b.Helper()
		a, err := chacha20poly1305.New(k)
		if err != nil {
			b.Fatal(err)
		}
		msg := a.Seal(make([]byte, 0, size+16), nonce, plain, nil)
		for range 2 {
			h := hmac.New(sha256.New, k)
			h.Write(msg)
			h.Sum(nil)
		}
		if _, err := a.Open(nil, nonce, msg, nil); err != nil {
			b.Fatal(err)
		}
	}
}
