package noise

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	flynn "github.com/flynn/noise"
	"github.com/google/go-cmp/cmp"

	"ecowatt/key"
	"ecowatt/wire"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type vectorCase struct {
	Name    string   `json:"name"`
	PSKID   hexBytes `json:"psk_id"`
	Epoch   uint32   `json:"epoch"`
	PSK     hexBytes `json:"noise_psk"`
	Device  hexBytes `json:"device_ephemeral_private"`
	Cloud   hexBytes `json:"cloud_ephemeral_private"`
	HS1     hexBytes `json:"hs1"`
	Payload hexBytes `json:"hs2_payload"`
	HS2     hexBytes `json:"hs2"`
	SID     hexBytes `json:"sid"`
	ReqEnc  hexBytes `json:"req_enc"`
	ReqMAC  hexBytes `json:"req_mac"`
	RspBase hexBytes `json:"rsp_base"`
}

func vectors(tb testing.TB) []vectorCase {
	tb.Helper()
	text, err := os.ReadFile("../testdata/vectors.json")
	if err != nil {
		tb.Fatal(err)
	}
	var file struct {
		Cases []vectorCase `json:"cases"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		tb.Fatal(err)
	}
	if len(file.Cases) != 2 {
		tb.Fatal("the vectors are not all there")
	}
	return file.Cases
}

func (c vectorCase) psk(tb testing.TB) key.PSK {
	tb.Helper()
	psk, err := key.PSKFromBytes(c.PSK)
	if err != nil {
		tb.Fatal(err)
	}
	return psk
}

// initiate makes HS1 of the case again: same key, same ephemeral key.
func (c vectorCase) initiate(tb testing.TB) (*Initiator, []byte) {
	tb.Helper()
	i, hs1, err := Initiate(c.psk(tb), key.ID(c.PSKID), key.Epoch(c.Epoch), bytes.NewReader(c.Device))
	if err != nil {
		tb.Fatal(err)
	}
	return i, hs1
}

// Attacks: H19
func TestVectors(t *testing.T) {
	for _, c := range vectors(t) {
		t.Run(c.Name, func(t *testing.T) {
			i, hs1 := c.initiate(t)
			if diff := cmp.Diff([]byte(c.HS1), hs1); diff != "" {
				t.Fatalf("HS1 (-want +got):\n%s", diff)
			}
			welcome, err := wire.ParseWelcome(c.Payload)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Accept(c.psk(t), hs1)
			if err != nil {
				t.Fatal(err)
			}
			hs2, cloud, err := r.Finish(welcome, bytes.NewReader(c.Cloud))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]byte(c.HS2), hs2); diff != "" {
				t.Fatalf("HS2 (-want +got):\n%s", diff)
			}
			device, got, err := i.Finish(c.HS2)
			if err != nil || got != welcome {
				t.Fatalf("Finish: %+v, %v", got, err)
			}
			want := bytes.Join([][]byte{c.ReqEnc, c.ReqMAC, c.RspBase}, nil)
			for side, s := range map[string]Secrets{"device": device, "cloud": cloud} {
				keys := s.Keys.Secret()
				if !bytes.Equal(want, keys[:]) {
					t.Errorf("%s: the session keys are others", side)
				}
				if s.SID != wire.SessionID(c.SID) {
					t.Errorf("%s: sid %v, want %x", side, s.SID, c.SID)
				}
			}
		})
	}
}

// TestPublicVectors runs the vectors that come with the library through the
// state that this package sets up, X25519 included.
//
// Attacks: H19
func TestPublicVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/flynn_nnpsk0.txt")
	if err != nil {
		t.Fatal(err)
	}
	cases := strings.Split(strings.TrimSpace(string(text)), "\n\n")
	if len(cases) != 4 {
		t.Fatalf("%d cases, want 4", len(cases))
	}
	for _, text := range cases {
		v := map[string][]byte{}
		for line := range strings.Lines(text) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			if name == "handshake" {
				if value != "Noise_NNpsk0_25519_ChaChaPoly_SHA256" {
					t.Fatalf("a case of %s", value)
				}
				continue
			}
			if v[name], err = hex.DecodeString(value); err != nil {
				t.Fatal(err)
			}
		}
		psk, err := key.PSKFromBytes(v["preshared_key"])
		if err != nil {
			t.Fatal(err)
		}
		device, err1 := begin(psk, v["prologue"], true, &curve{random: bytes.NewReader(v["gen_init_ephemeral"])})
		cloud, err2 := begin(psk, v["prologue"], false, &curve{random: bytes.NewReader(v["gen_resp_ephemeral"])})
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		msg, _, _, err := device.WriteMessage(nil, v["msg_0_payload"])
		wantBytes(t, "message 0", v["msg_0_ciphertext"], msg, err)
		payload, _, _, err := cloud.ReadMessage(nil, msg)
		wantBytes(t, "payload 0", v["msg_0_payload"], payload, err)
		msg, toDevice1, toDevice2, err := cloud.WriteMessage(nil, v["msg_1_payload"])
		wantBytes(t, "message 1", v["msg_1_ciphertext"], msg, err)
		payload, toCloud1, toCloud2, err := device.ReadMessage(nil, msg)
		wantBytes(t, "payload 1", v["msg_1_payload"], payload, err)
		msg, err = toCloud1.Encrypt(nil, nil, v["msg_2_payload"])
		wantBytes(t, "message 2", v["msg_2_ciphertext"], msg, err)
		payload, err = toDevice1.Decrypt(nil, nil, msg)
		wantBytes(t, "payload 2", v["msg_2_payload"], payload, err)
		msg, err = toDevice2.Encrypt(nil, nil, v["msg_3_payload"])
		wantBytes(t, "message 3", v["msg_3_ciphertext"], msg, err)
		payload, err = toCloud2.Decrypt(nil, nil, msg)
		wantBytes(t, "payload 3", v["msg_3_payload"], payload, err)
	}
}

func wantBytes(t *testing.T, what string, want, got []byte, err error) {
	t.Helper()
	if err != nil || !bytes.Equal(want, got) {
		t.Errorf("%s: %x, %v; want %x", what, got, err, want)
	}
}

func newPSK(tb testing.TB) key.PSK {
	tb.Helper()
	d, err := key.NewDevice(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return d.NoisePSK(wire.Suite1)
}

var (
	testID      = key.ID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	testWelcome = wire.Welcome{ServerTime: 1_700_000_000_000, Lifetime: 24 * time.Hour, MaxRequest: wire.MaxRequest, SlotHint: 15 * time.Second, Flags: wire.RotationPending}
)

const testEpoch key.Epoch = 7

// shake runs a whole handshake between the two keys.
func shake(device, cloud key.PSK) (a, b Secrets, welcome wire.Welcome, err error) {
	i, hs1, err := Initiate(device, testID, testEpoch, rand.Reader)
	if err != nil {
		return a, b, welcome, err
	}
	r, err := Accept(cloud, hs1)
	if err != nil {
		return a, b, welcome, err
	}
	hs2, b, err := r.Finish(testWelcome, rand.Reader)
	if err != nil {
		return a, b, welcome, err
	}
	a, welcome, err = i.Finish(hs2)
	return a, b, welcome, err
}

func TestHandshake(t *testing.T) {
	psk := newPSK(t)
	a, b, welcome, err := shake(psk, psk)
	if err != nil || a.SID != b.SID || !a.Keys.Equal(b.Keys) || welcome != testWelcome {
		t.Fatalf("the sides do not agree: %v %v %+v %v", a, b, welcome, err)
	}
	again, _, _, err := shake(psk, psk)
	if err != nil || again.SID == a.SID || again.Keys.Equal(a.Keys) {
		t.Errorf("two handshakes made one session: %v", err)
	}
	if _, _, _, err := shake(psk, newPSK(t)); !errors.Is(err, ErrRefused) {
		t.Errorf("two different keys: %v", err)
	}
}

// Attacks: H1
func TestNoKeyIsRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"nil": nil, "empty": {}, "31 bytes": bytes.Repeat([]byte{1}, 31), "33 bytes": bytes.Repeat([]byte{1}, 33), "zeros": make([]byte, 32),
	} {
		psk, err := key.PSKFromBytes(b)
		if err == nil {
			t.Errorf("%s: made a key", name)
		}
		if _, _, err := Initiate(psk, testID, testEpoch, rand.Reader); !errors.Is(err, ErrNoKey) {
			t.Errorf("%s: Initiate: %v", name, err)
		}
		if _, err := Accept(psk, vectors(t)[0].HS1); !errors.Is(err, ErrNoKey) {
			t.Errorf("%s: Accept: %v", name, err)
		}
	}
	destroyed := newPSK(t)
	destroyed.Destroy()
	if _, _, err := Initiate(destroyed, testID, testEpoch, rand.Reader); !errors.Is(err, ErrNoKey) {
		t.Errorf("a destroyed key: %v", err)
	}
}

// TestTheLibraryFailsOpen pins why there is a wrapper: with an empty key the
// library completes a handshake with anybody, and it takes a key of zeros.
//
// Attacks: H1, H2
func TestTheLibraryFailsOpen(t *testing.T) {
	suite := flynn.NewCipherSuite(flynn.DH25519, flynn.CipherChaChaPoly, flynn.HashSHA256)
	for name, psk := range map[string][]byte{"nil": nil, "empty": {}, "zeros": make([]byte, 32)} {
		config := flynn.Config{CipherSuite: suite, Pattern: flynn.HandshakeNN, PresharedKey: psk}
		cloud, err := flynn.NewHandshakeState(config)
		config.Initiator = true
		stranger, err2 := flynn.NewHandshakeState(config)
		if err := errors.Join(err, err2); err != nil {
			t.Fatalf("%s: the library refuses it now (%v): say so where we rely on our own check", name, err)
		}
		msg, _, _, err := stranger.WriteMessage(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := cloud.ReadMessage(nil, msg); err != nil {
			t.Fatal(err)
		}
		if _, keys, _, err := cloud.WriteMessage(nil, nil); keys == nil || err != nil {
			t.Fatal(err)
		}
	}
}

// A stranger who speaks plain NN, with the length made to fit.
//
// Attacks: H2
func TestPlainNNIsRefused(t *testing.T) {
	header := wire.Handshake(wire.HS1, testID, testEpoch).Append(nil)
	stranger, err := flynn.NewHandshakeState(flynn.Config{
		CipherSuite: flynn.NewCipherSuite(flynn.DH25519, flynn.CipherChaChaPoly, flynn.HashSHA256),
		Pattern:     flynn.HandshakeNN, Initiator: true, Prologue: header,
	})
	if err != nil {
		t.Fatal(err)
	}
	hs1, _, _, err := stranger.WriteMessage(header, make([]byte, 16))
	if err != nil || len(hs1) != wire.HS1Size {
		t.Fatal(len(hs1), err)
	}
	if _, err := Accept(newPSK(t), hs1); !errors.Is(err, ErrRefused) {
		t.Errorf("plain NN: %v", err)
	}
}

func known(err error) bool {
	return errors.Is(err, ErrRefused) || errors.Is(err, wire.ErrMalformed) || errors.Is(err, wire.ErrForeign)
}

// Attacks: W2, W3, W4, W5, H8
func TestTamperedHS1(t *testing.T) {
	for _, c := range vectors(t) {
		refuse := func(what string, hs1 []byte) {
			t.Helper()
			if r, err := Accept(c.psk(t), hs1); r != nil || !known(err) {
				t.Errorf("%s: %s: %v", c.Name, what, err)
			}
		}
		tamper(c.HS1, refuse)
		refuse("HS2 as HS1", c.HS2)
		other := bytes.Clone(c.HS1) // its header, the rest of the other case
		for _, o := range vectors(t) {
			if o.Name != c.Name {
				copy(other[wire.HeaderSize:], o.HS1[wire.HeaderSize:])
			}
		}
		refuse("body of another HS1", other)
	}
}

// Attacks: W2, W3, W4, W5, W7, H8, H11
func TestTamperedHS2(t *testing.T) {
	cases := vectors(t)
	for n, c := range cases {
		refuse := func(what string, hs2 []byte) {
			t.Helper()
			i, _ := c.initiate(t)
			if s, _, err := i.Finish(hs2); !known(err) || !s.Keys.IsZero() {
				t.Errorf("%s: %s: %v", c.Name, what, err)
			}
		}
		tamper(c.HS2, refuse)
		refuse("HS1 reflected", c.HS1)
		refuse("HS2 of the other case", cases[1-n].HS2)
		// The right key and the same HS1 header, but another handshake.
		_, hs1, err := Initiate(c.psk(t), key.ID(c.PSKID), key.Epoch(c.Epoch), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Accept(c.psk(t), hs1)
		if err != nil {
			t.Fatal(err)
		}
		hs2, _, err := r.Finish(testWelcome, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		refuse("HS2 of another handshake", hs2)
	}
}

// tamper calls refuse with every way of flipping one bit of msg, cutting it
// short and adding to it.
func tamper(msg []byte, refuse func(what string, b []byte)) {
	for bit := range 8 * len(msg) {
		b := bytes.Clone(msg)
		b[bit/8] ^= 1 << (bit % 8)
		refuse("flipped bit "+hex.EncodeToString([]byte{byte(bit >> 8), byte(bit)}), b)
	}
	for n := range msg {
		refuse("cut short", msg[:n])
	}
	for _, more := range [][]byte{{0}, {0xff}, make([]byte, 16), msg, make([]byte, 1<<20)} {
		refuse("with more", append(bytes.Clone(msg), more...))
	}
}

// A later version of the protocol may say more in HS2.
func TestLongerWelcome(t *testing.T) {
	psk := newPSK(t)
	i, hs1, err := Initiate(psk, testID, testEpoch, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Accept(psk, hs1)
	if err != nil {
		t.Fatal(err)
	}
	r.curve.random = rand.Reader
	header := wire.Handshake(wire.HS2, testID, testEpoch).Append(nil)
	hs2, _, _, err := r.state.WriteMessage(header, append(testWelcome.Append(nil), "from the future"...))
	if err != nil {
		t.Fatal(err)
	}
	if _, welcome, err := i.Finish(hs2); err != nil || welcome != testWelcome {
		t.Errorf("%+v, %v", welcome, err)
	}
}

// lowOrder is every encoding of a point of low order that X25519 maps to zero
// (RFC 7748 section 6.1 wants the result checked).
var lowOrder = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

// forger is a peer that holds the key and sends a public key of its choice; the
// secret it reckons with is zero.
type forger struct{ public []byte }

func (f forger) GenerateKeypair(io.Reader) (flynn.DHKey, error) {
	return flynn.DHKey{Public: f.public}, nil
}
func (forger) DH(_, _ []byte) ([]byte, error) { return make([]byte, 32), nil }
func (forger) DHLen() int                     { return 32 }
func (forger) DHName() string                 { return "25519" }

func (f forger) state(t *testing.T, psk key.PSK, prologue []byte, initiator bool) *flynn.HandshakeState {
	t.Helper()
	secret := psk.Secret()
	s, err := flynn.NewHandshakeState(flynn.Config{
		CipherSuite: flynn.NewCipherSuite(f, flynn.CipherChaChaPoly, flynn.HashSHA256),
		Pattern:     flynn.HandshakeNN, Initiator: initiator, Prologue: prologue, PresharedKey: secret[:],
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Attacks: H9
func TestLowOrderKeysAreRefused(t *testing.T) {
	psk := newPSK(t)
	for _, point := range lowOrder {
		public, err := hex.DecodeString(point)
		if err != nil {
			t.Fatal(err)
		}
		header := wire.Handshake(wire.HS1, testID, testEpoch).Append(nil)
		hs1, _, _, err := forger{public}.state(t, psk, header, true).WriteMessage(bytes.Clone(header), nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Accept(psk, hs1)
		if err != nil {
			t.Fatalf("%s: the forger holds the key, its tag is good: %v", point, err)
		}
		if hs2, s, err := r.Finish(testWelcome, rand.Reader); !errors.Is(err, ErrRefused) || hs2 != nil || !s.Keys.IsZero() {
			t.Errorf("HS1 with e = %s: %v", point, err)
		}

		i, hs1, err := Initiate(psk, testID, testEpoch, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		cloud := forger{public}.state(t, psk, hs1[:wire.HeaderSize], false)
		if _, _, _, err := cloud.ReadMessage(nil, hs1[wire.HeaderSize:]); err != nil {
			t.Fatal(err)
		}
		hs2, _, _, err := cloud.WriteMessage(wire.Handshake(wire.HS2, testID, testEpoch).Append(nil), testWelcome.Append(nil))
		if err != nil {
			t.Fatal(err)
		}
		if s, _, err := i.Finish(hs2); !errors.Is(err, ErrRefused) || !s.Keys.IsZero() {
			t.Errorf("HS2 with e = %s: %v", point, err)
		}
	}
}

// TestCurveWork counts scalar multiplications: none before the tag verified,
// two on each side of a handshake.
func TestCurveWork(t *testing.T) {
	psk := newPSK(t)
	c := &curve{}
	for range 100 {
		forged := wire.Handshake(wire.HS1, testID, testEpoch).Append(nil)
		forged = append(forged, make([]byte, 48)...)
		if _, err := rand.Read(forged[wire.HeaderSize:]); err != nil {
			t.Fatal(err)
		}
		if _, err := accept(psk, forged, c); !errors.Is(err, ErrRefused) {
			t.Fatal(err)
		}
	}
	i, hs1, err := Initiate(psk, testID, testEpoch, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	r, err := accept(psk, hs1, c)
	if err != nil {
		t.Fatal(err)
	}
	if c.operations != 0 {
		t.Errorf("%d scalar multiplications before Finish, want 0", c.operations)
	}
	hs2, _, err := r.Finish(testWelcome, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if c.operations != 2 {
		t.Errorf("%d scalar multiplications for a whole answer, want 2", c.operations)
	}
	if _, _, err := i.Finish(hs2); err != nil {
		t.Fatal(err)
	}
}

func TestAcceptAllocatesNoMoreForMore(t *testing.T) {
	psk := newPSK(t)
	huge := wire.Handshake(wire.HS1, testID, testEpoch).Append(nil)
	huge = append(huge, make([]byte, 1<<22)...)
	if n := testing.AllocsPerRun(10, func() { Accept(psk, huge) }); n > 10 {
		t.Errorf("%v allocations to refuse a long message", n)
	}
}

// Attacks: H10
func TestOneShot(t *testing.T) {
	c := vectors(t)[0]
	i, _ := c.initiate(t)
	if _, _, err := i.Finish(make([]byte, 104)); err == nil {
		t.Fatal("garbage was accepted")
	}
	if _, _, err := i.Finish(c.HS2); !errors.Is(err, ErrSpent) {
		t.Errorf("the real HS2 after garbage: %v", err)
	}
	r, err := Accept(c.psk(t), c.HS1)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Finish(testWelcome, bytes.NewReader(nil)); err == nil || errors.Is(err, ErrRefused) {
		t.Errorf("no randomness: %v; want an error that is not the peer's fault", err)
	}
	if _, _, err := r.Finish(testWelcome, rand.Reader); !errors.Is(err, ErrSpent) {
		t.Errorf("a second Finish: %v", err)
	}
	if _, _, err := Initiate(c.psk(t), testID, testEpoch, bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("HS1 was made without enough randomness")
	}
}

// A device whose random source repeats after a restart sends the same HS1, and
// still gets other session keys, because the cloud's ephemeral key is fresh.
//
// Attacks: H16
func TestConstantRandomnessOfADevice(t *testing.T) {
	c := vectors(t)[0]
	var keys [2]Secrets
	for n := range keys {
		i, hs1 := c.initiate(t)
		r, err := Accept(c.psk(t), hs1)
		if err != nil {
			t.Fatal(err)
		}
		hs2, _, err := r.Finish(testWelcome, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if keys[n], _, err = i.Finish(hs2); err != nil {
			t.Fatal(err)
		}
	}
	if keys[0].Keys.Equal(keys[1].Keys) || keys[0].SID == keys[1].SID {
		t.Error("two boots share session keys")
	}
}

// Attacks: W20
func FuzzAccept(f *testing.F) {
	for _, c := range vectors(f) {
		f.Add([]byte(c.HS1))
		f.Add([]byte(c.HS1[:40]))
		f.Add([]byte(c.HS2))
	}
	c := vectors(f)[0]
	psk := c.psk(f)
	f.Fuzz(func(t *testing.T, msg []byte) {
		r, err := Accept(psk, msg)
		switch {
		case bytes.Equal(msg, c.HS1):
			if err != nil {
				t.Errorf("the honest message: %v", err)
			}
		case r != nil || !known(err):
			t.Errorf("a forged message: %v", err)
		}
	})
}

// Attacks: W20
func FuzzFinish(f *testing.F) {
	for _, c := range vectors(f) {
		f.Add([]byte(c.HS2))
		f.Add([]byte(c.HS2[:80]))
		f.Add([]byte(c.HS1))
	}
	c := vectors(f)[0]
	f.Fuzz(func(t *testing.T, msg []byte) {
		i, _ := c.initiate(t)
		_, _, err := i.Finish(msg)
		switch {
		case bytes.Equal(msg, c.HS2):
			if err != nil {
				t.Errorf("the honest message: %v", err)
			}
		case !known(err):
			t.Errorf("a forged message: %v", err)
		}
	})
}
