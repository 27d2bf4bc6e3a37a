package noise

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/sha256"
	"slices"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
	"pgregory.net/rapid"

	"ecowatt/key"
	"ecowatt/wire"
)

// flat is the whole handshake written down in one piece from the Noise
// specification (revision 34, sections 4, 5 and 9) and section 2 of the
// protocol: a second implementation, kept to compare the first one with.
func flat(t *rapid.T, psk, prologue, device, cloud, payload []byte) (hs1, hs2, sid, keys []byte) {
	hash := func(parts ...[]byte) []byte {
		sum := sha256.Sum256(slices.Concat(parts...))
		return sum[:]
	}
	sign := func(k []byte, parts ...[]byte) []byte {
		m := hmac.New(sha256.New, k)
		m.Write(slices.Concat(parts...))
		return m.Sum(nil)
	}
	hkdf := func(ck, in []byte) (a, b, c []byte) {
		k := sign(ck, in)
		a = sign(k, []byte{1})
		b = sign(k, a, []byte{2})
		return a, b, sign(k, b, []byte{3})
	}
	seal := func(k, ad, plain []byte) []byte {
		a, err := chacha20poly1305.New(k)
		if err != nil {
			t.Fatal(err)
		}
		return a.Seal(nil, make([]byte, 12), plain, ad)
	}
	private := func(b []byte) *ecdh.PrivateKey {
		k, err := ecdh.X25519().NewPrivateKey(b)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	e, r := private(device), private(cloud)

	h := hash([]byte("Noise_NNpsk0_25519_ChaChaPoly_SHA256")) // longer than a hash
	ck := h
	h = hash(h, prologue)

	ck, temp, _ := hkdf(ck, psk) // psk; the third output is a key that e replaces
	h = hash(h, temp)
	h = hash(h, e.PublicKey().Bytes()) // e, which beside a psk goes into the key as well
	ck, k, _ := hkdf(ck, e.PublicKey().Bytes())
	tag := seal(k, h, nil)
	h = hash(h, tag)
	hs1 = slices.Concat(prologue, e.PublicKey().Bytes(), tag)

	h = hash(h, r.PublicKey().Bytes()) // e
	ck, _, _ = hkdf(ck, r.PublicKey().Bytes())
	shared, err := r.ECDH(e.PublicKey()) // ee
	if err != nil {
		t.Fatal(err)
	}
	ck, k, _ = hkdf(ck, shared)
	sealed := seal(k, h, payload)
	h = hash(h, sealed)
	hs2 = slices.Concat(prologue, r.PublicKey().Bytes(), sealed)
	hs2[3] = 2 // its type

	k1, k2, _ := hkdf(ck, nil)
	sid = sign(h, []byte("ecowatt/1 sid"))[:16]
	keys = slices.Concat(
		sign(k1, []byte("ecowatt/1 req enc"), h),
		sign(k1, []byte("ecowatt/1 req mac"), h),
		sign(k2, []byte("ecowatt/1 rsp base"), h))
	return hs1, hs2, sid, keys
}

// Attacks: H19
func TestAgainstAFlatImplementation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret := func(name string) []byte {
			b := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, name)
			b[7] |= 1 // not all zero
			return b
		}
		psk, err := key.PSKFromBytes(secret("psk"))
		if err != nil {
			t.Fatal(err)
		}
		shared := psk.Secret()
		id := key.ID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		epoch := key.Epoch(rapid.Uint32().Draw(t, "epoch"))
		welcome := wire.Welcome{ServerTime: rapid.Int64Range(0, 1<<50).Draw(t, "time"), MaxRequest: rapid.Uint32().Draw(t, "max")}
		device, cloud := secret("device"), secret("cloud")
		prologue := wire.Handshake(wire.HS1, id, epoch).Append(nil)
		wantHS1, wantHS2, wantSID, wantKeys := flat(t, shared[:], prologue, device, cloud, welcome.Append(nil))

		i, hs1, err := Initiate(psk, id, epoch, bytes.NewReader(device))
		if err != nil || !bytes.Equal(wantHS1, hs1) {
			t.Fatalf("HS1 %x, %v; want %x", hs1, err, wantHS1)
		}
		r, err := Accept(psk, wantHS1)
		if err != nil {
			t.Fatal(err)
		}
		hs2, b, err := r.Finish(welcome, bytes.NewReader(cloud))
		if err != nil || !bytes.Equal(wantHS2, hs2) {
			t.Fatalf("HS2 %x, %v; want %x", hs2, err, wantHS2)
		}
		a, _, err := i.Finish(wantHS2)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []Secrets{a, b} {
			keys := s.Keys.Secret()
			if s.SID != wire.SessionID(wantSID) || !bytes.Equal(keys[:], wantKeys) {
				t.Fatalf("session %v, want %x", s.SID, wantSID)
			}
		}
	})
}
