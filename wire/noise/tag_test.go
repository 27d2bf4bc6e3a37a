package noise

import (
	"bytes"
	"crypto/rand"
	"testing"

	"ecowatt/wire"
)

// TestProvesWhatTheLibraryProves compares the flat check with flynn/noise, for
// good messages and for each of their bits flipped.
func TestProvesWhatTheLibraryProves(t *testing.T) {
	psk, other := newPSK(t), newPSK(t)
	secret, otherSecret := psk.Secret(), other.Secret()
	library := func(hs1 []byte) bool {
		state, err := begin(psk, hs1[:wire.HeaderSize], false, &curve{})
		if err != nil {
			t.Fatal(err)
		}
		_, _, _, err = state.ReadMessage(nil, hs1[wire.HeaderSize:])
		return err == nil
	}
	for range 20 {
		_, good, err := Initiate(psk, testID, testEpoch, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if !proves(&secret, good) || !library(good) {
			t.Fatal("a good HS1 is refused")
		}
		if proves(&otherSecret, good) {
			t.Fatal("an HS1 proves a key that it was not made with")
		}
		for bit := range len(good) * 8 {
			bad := bytes.Clone(good)
			bad[bit/8] ^= 1 << (bit % 8)
			if proves(&secret, bad) || library(bad) {
				t.Fatalf("bit %d flipped, and it still proves", bit)
			}
		}
	}
}

// TestForgeryAllocatesLittle: what a stranger can ask for as often as he likes.
func TestForgeryAllocatesLittle(t *testing.T) {
	psk := newPSK(t)
	forged := append(wire.Handshake(wire.HS1, testID, testEpoch).Append(nil), make([]byte, 48)...)
	if n := testing.AllocsPerRun(100, func() { Accept(psk, forged) }); n > 6 {
		t.Errorf("%v allocations to refuse a forgery", n)
	}
}
