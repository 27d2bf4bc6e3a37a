package record

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/chacha20poly1305"
	"pgregory.net/rapid"

	"ecowatt/key"
	"ecowatt/wire"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type vectorRecord struct {
	Sequence wire.Sequence `json:"seq"`
	ReqBody  hexBytes      `json:"req_body_cbor"`
	REQ      hexBytes      `json:"req"`
	Salt     hexBytes      `json:"rsp_salt"`
	RspBody  hexBytes      `json:"rsp_body_cbor"`
	RSP      hexBytes      `json:"rsp"`
}

type vectorCase struct {
	Name    string         `json:"name"`
	SID     hexBytes       `json:"sid"`
	ReqEnc  hexBytes       `json:"req_enc"`
	ReqMAC  hexBytes       `json:"req_mac"`
	RspBase hexBytes       `json:"rsp_base"`
	Records []vectorRecord `json:"records"`
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
	if len(file.Cases) != 2 || len(file.Cases[0].Records) != 3 || len(file.Cases[1].Records) != 3 {
		tb.Fatal("the vectors are not all there")
	}
	return file.Cases
}

func (c vectorCase) keys(tb testing.TB) key.Session {
	tb.Helper()
	s, err := key.SessionFromBytes(slices.Concat(c.ReqEnc, c.ReqMAC, c.RspBase))
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func (c vectorCase) sid() wire.SessionID { return wire.SessionID(c.SID) }

// request opens REQ n of the case, for its MAC.
func (c vectorCase) mac(tb testing.TB, n int) MAC {
	tb.Helper()
	_, mac, err := OpenRequest(c.keys(tb), c.Records[n].REQ)
	if err != nil {
		tb.Fatal(err)
	}
	return mac
}

func TestVectors(t *testing.T) {
	for _, c := range vectors(t) {
		keys := c.keys(t)
		for _, r := range c.Records {
			t.Run(fmt.Sprintf("%s %d", c.Name, r.Sequence), func(t *testing.T) {
				req, mac, err := SealRequest(keys, c.sid(), r.Sequence, r.ReqBody)
				wantBytes(t, "REQ", r.REQ, req, err)
				body, opened, err := OpenRequest(keys, r.REQ)
				wantBytes(t, "request body", r.ReqBody, body, err)
				if opened != mac {
					t.Error("the two sides see different MACs")
				}
				rsp, err := SealAnswer(keys, c.sid(), r.Sequence, mac, bytes.NewReader(r.Salt), r.RspBody)
				wantBytes(t, "RSP", r.RSP, rsp, err)
				body, err = OpenAnswer(keys, c.sid(), r.Sequence, mac, r.RSP)
				wantBytes(t, "answer body", r.RspBody, body, err)
			})
		}
	}
}

func wantBytes(t *testing.T, what string, want, got []byte, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func newKeys(tb testing.TB) key.Session {
	tb.Helper()
	var b [key.SessionSize]byte
	if _, err := rand.Read(b[:]); err != nil {
		tb.Fatal(err)
	}
	s, err := key.SessionFromBytes(b[:])
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestRoundTrip(t *testing.T) {
	keys := newKeys(t)
	rapid.Check(t, func(t *rapid.T) {
		sid := wire.SessionID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "sid"))
		seq := wire.Sequence(rapid.Uint64Range(1, uint64(wire.MaxSequence)).Draw(t, "seq"))
		body := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "body")
		req, mac, err := SealRequest(keys, sid, seq, body)
		if err != nil {
			t.Fatal(err)
		}
		if want := wire.RequestOverhead + wire.PaddedSize(len(body)); len(req) != want {
			t.Fatalf("REQ of %d bytes, want %d", len(req), want)
		}
		got, opened, err := OpenRequest(keys, req)
		if err != nil || !bytes.Equal(got, body) || opened != mac {
			t.Fatalf("request came back as %x, %v", got, err)
		}
		rsp, err := SealAnswer(keys, sid, seq, mac, rand.Reader, body)
		if err != nil {
			t.Fatal(err)
		}
		if want := wire.AnswerOverhead + wire.PaddedSize(len(body)); len(rsp) != want {
			t.Fatalf("RSP of %d bytes, want %d", len(rsp), want)
		}
		got, err = OpenAnswer(keys, sid, seq, mac, rsp)
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("answer came back as %x, %v", got, err)
		}
	})
}

// known is every error that a forged message may lead to. ErrSchema is not
// among them: it would mean that the seal was believed.
func known(err error) bool {
	return errors.Is(err, ErrRefused) || errors.Is(err, wire.ErrMalformed) || errors.Is(err, wire.ErrForeign) || errors.Is(err, wire.ErrTooLarge)
}

// tamper calls refuse with every way of flipping one bit of msg, cutting it
// short and adding to it.
func tamper(msg []byte, refuse func(what string, b []byte)) {
	for bit := range 8 * len(msg) {
		b := bytes.Clone(msg)
		b[bit/8] ^= 1 << (bit % 8)
		refuse(fmt.Sprintf("bit %d flipped", bit), b)
	}
	for n := range msg {
		refuse(fmt.Sprintf("cut to %d bytes", n), msg[:n])
	}
	for _, more := range [][]byte{{0}, {0xff}, make([]byte, 64), msg, make([]byte, 1<<20)} {
		refuse(fmt.Sprintf("with %d bytes more", len(more)), append(bytes.Clone(msg), more...))
	}
}

// Attacks: W1, W2, W3, W4, W5, W7, W10
func TestTamperedRequest(t *testing.T) {
	cases := vectors(t)
	for n, c := range cases {
		keys := c.keys(t)
		refuse := func(what string, msg []byte) {
			t.Helper()
			if body, mac, err := OpenRequest(keys, msg); !known(err) || body != nil || mac != (MAC{}) {
				t.Errorf("%s: %s: %v", c.Name, what, err)
			}
		}
		for _, r := range c.Records {
			tamper(r.REQ, refuse)
			refuse("RSP as REQ", r.RSP)
		}
		refuse("REQ of the other session", cases[1-n].Records[0].REQ)
		// The header of one request on what another one sealed.
		swapped := bytes.Clone(c.Records[1].REQ)
		copy(swapped, c.Records[2].REQ[:wire.HeaderSize])
		refuse("headers swapped", swapped)
		if _, _, err := OpenRequest(key.Session{}, c.Records[0].REQ); !errors.Is(err, ErrRefused) {
			t.Errorf("no keys: %v", err)
		}
	}
}

// Attacks: W2, W3, W4, W5, W7, W11
func TestTamperedAnswer(t *testing.T) {
	cases := vectors(t)
	for n, c := range cases {
		keys := c.keys(t)
		for i, r := range c.Records {
			mac := c.mac(t, i)
			refuse := func(what string, msg []byte) {
				t.Helper()
				if body, err := OpenAnswer(keys, c.sid(), r.Sequence, mac, msg); !known(err) || body != nil {
					t.Errorf("%s: %s: %v", c.Name, what, err)
				}
			}
			tamper(r.RSP, refuse)
			refuse("REQ reflected", r.REQ)
			refuse("answer in the other session", cases[1-n].Records[i].RSP)
			refuse("answer to another request", c.Records[(i+1)%3].RSP)
			relabelled := bytes.Clone(c.Records[(i+1)%3].RSP)
			copy(relabelled, r.RSP[:wire.HeaderSize])
			refuse("answer to another request, relabelled", relabelled)
			other := mac
			other[31] ^= 1
			if _, err := OpenAnswer(keys, c.sid(), r.Sequence, other, r.RSP); !errors.Is(err, ErrRefused) {
				t.Errorf("%s: for another request with the same number: %v", c.Name, err)
			}
		}
	}
}

// forge makes a REQ around any plaintext, as only an owner of the keys can.
func forge(t *testing.T, c vectorCase, seq wire.Sequence, plain []byte) []byte {
	t.Helper()
	a, err := chacha20poly1305.New(c.ReqEnc)
	if err != nil {
		t.Fatal(err)
	}
	header := wire.Record(wire.REQ, c.sid(), seq).Append(nil)
	nonce := requestNonce(seq)
	msg := a.Seal(bytes.Clone(header), nonce[:], plain, header)
	mac := sum(c.ReqMAC, msg)
	return append(msg, mac[:]...)
}

// TestPlaintext: what is wrong inside a valid seal is ErrSchema, and told from
// what does not open.
//
// Attacks: W14
func TestPlaintext(t *testing.T) {
	c := vectors(t)[0]
	length := func(n uint32, rest ...byte) []byte {
		b := append([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, rest...)
		return append(b, make([]byte, wire.PaddedSize(len(rest))-len(b))...)
	}
	good := length(2, 0xa0, 0xa0)
	body, mac, err := OpenRequest(c.keys(t), forge(t, c, 9, good))
	if err != nil || !bytes.Equal(body, []byte{0xa0, 0xa0}) || mac == (MAC{}) {
		t.Fatalf("a good plaintext: %x, %v", body, err)
	}
	lastNotZero, firstNotZero := bytes.Clone(good), bytes.Clone(good)
	lastNotZero[63], firstNotZero[6] = 1, 1
	for name, plain := range map[string][]byte{
		"last byte of the padding":   lastNotZero,
		"first byte of the padding":  firstNotZero,
		"length beyond the end":      length(61),
		"length of 4 GiB":            length(0xffffffff, 0xa0),
		"length of 2 GiB":            length(0x80000000, 0xa0),
		"more padding than needed":   append(bytes.Clone(good), make([]byte, 64)...),
		"a whole block of padding":   append(length(60, make([]byte, 60)...), make([]byte, 64)...),
		"length shorter than it was": length(1, 0xa0, 0xa0),
	} {
		_, mac, err := OpenRequest(c.keys(t), forge(t, c, 9, plain))
		if !errors.Is(err, wire.ErrSchema) || errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v, want ErrSchema", name, err)
		}
		if mac == (MAC{}) {
			t.Errorf("%s: no MAC, so that nothing could be answered", name)
		}
	}
}

// A good HMAC around a bad tag, and the reverse, are the same refusal.
//
// Attacks: W12
func TestBothSealsMatter(t *testing.T) {
	c := vectors(t)[0]
	req := bytes.Clone(c.Records[0].REQ)
	tag := len(req) - macSize - 1
	req[tag] ^= 1
	mac := sum(c.ReqMAC, req[:len(req)-macSize])
	copy(req[len(req)-macSize:], mac[:])
	_, _, badTag := OpenRequest(c.keys(t), req)
	req = bytes.Clone(c.Records[0].REQ)
	req[len(req)-1] ^= 1
	_, _, badMAC := OpenRequest(c.keys(t), req)
	if badTag != ErrRefused || badMAC != ErrRefused { //nolint:errorlint // the very same value is the point
		t.Errorf("bad tag: %v, bad MAC: %v; want one opaque error", badTag, badMAC)
	}
	rsp := bytes.Clone(c.Records[0].RSP)
	request := c.mac(t, 0)
	k := split(c.keys(t))
	_, mk := k.answer(c.Records[0].Salt, request)
	rsp[len(rsp)-macSize-1] ^= 1
	mac = sum(mk[:], rsp[:len(rsp)-macSize])
	copy(rsp[len(rsp)-macSize:], mac[:])
	if _, err := OpenAnswer(c.keys(t), c.sid(), 1, request, rsp); err != ErrRefused { //nolint:errorlint // as above
		t.Errorf("RSP with a bad tag: %v", err)
	}
}

// TestNoTwoAnswersShareAKey answers one request twice, as two replicas or a
// restored database would: the two ciphertexts must have no keystream in common.
//
// Attacks: R14
func TestNoTwoAnswersShareAKey(t *testing.T) {
	c := vectors(t)[0]
	mac := c.mac(t, 0)
	body := make([]byte, 600)
	seal := func() []byte {
		rsp, err := SealAnswer(c.keys(t), c.sid(), 1, mac, rand.Reader, body)
		if err != nil {
			t.Fatal(err)
		}
		return rsp[wire.HeaderSize+saltSize:]
	}
	one, two := seal(), seal()
	same := 0
	for i := range one {
		if one[i] == two[i] {
			same++
		}
	}
	if same > 20 { // about 3 of 640 are expected
		t.Errorf("%d of %d bytes are equal", same, len(one))
	}
}

func TestSealRefuses(t *testing.T) {
	keys := newKeys(t)
	var sid wire.SessionID
	for _, seq := range []wire.Sequence{0, wire.MaxSequence + 1, 1<<64 - 1} {
		if _, _, err := SealRequest(keys, sid, seq, nil); err == nil {
			t.Errorf("REQ number %d was sealed", seq)
		}
		if _, err := SealAnswer(keys, sid, seq, MAC{}, rand.Reader, nil); err == nil {
			t.Errorf("RSP number %d was sealed", seq)
		}
	}
	if _, _, err := SealRequest(key.Session{}, sid, 1, nil); err == nil {
		t.Error("a request was sealed without keys")
	}
	if _, err := SealAnswer(key.Session{}, sid, 1, MAC{}, rand.Reader, nil); err == nil {
		t.Error("an answer was sealed without keys")
	}
	if _, err := SealAnswer(keys, sid, 1, MAC{}, bytes.NewReader(make([]byte, 15)), nil); err == nil {
		t.Error("an answer was sealed without a salt")
	}
	most := wire.RequestRoom(wire.MaxRequest)
	msg, _, err := SealRequest(keys, sid, 1, make([]byte, most))
	if err != nil || len(msg) > wire.MaxRequest || len(msg) <= wire.MaxRequest-wire.PadUnit {
		t.Errorf("the largest body makes a REQ of %d bytes, %v", len(msg), err)
	}
	if _, _, err := OpenRequest(keys, msg); err != nil {
		t.Errorf("the largest REQ: %v", err)
	}
	if _, _, err := SealRequest(keys, sid, 1, make([]byte, most+1)); !errors.Is(err, wire.ErrTooLarge) {
		t.Errorf("one byte more: %v", err)
	}
}

// Attacks: W20
func FuzzOpenRequest(f *testing.F) {
	for _, c := range vectors(f) {
		for _, r := range c.Records {
			f.Add([]byte(r.REQ))
			f.Add([]byte(r.RSP))
		}
	}
	c := vectors(f)[0]
	keys := c.keys(f)
	f.Fuzz(func(t *testing.T, msg []byte) {
		honest := slices.ContainsFunc(c.Records, func(r vectorRecord) bool { return bytes.Equal(msg, r.REQ) })
		if _, _, err := OpenRequest(keys, msg); honest && err != nil || !honest && !known(err) {
			t.Errorf("honest %v: %v", honest, err)
		}
	})
}

// Attacks: W20
func FuzzOpenAnswer(f *testing.F) {
	for _, c := range vectors(f) {
		for _, r := range c.Records {
			f.Add([]byte(r.RSP))
			f.Add([]byte(r.REQ))
		}
	}
	c := vectors(f)[0]
	keys, mac := c.keys(f), c.mac(f, 0)
	f.Fuzz(func(t *testing.T, msg []byte) {
		honest := bytes.Equal(msg, c.Records[0].RSP)
		if _, err := OpenAnswer(keys, c.sid(), 1, mac, msg); honest && err != nil || !honest && !known(err) {
			t.Errorf("honest %v: %v", honest, err)
		}
	})
}
