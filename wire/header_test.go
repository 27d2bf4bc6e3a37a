package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt/key"
)

func TestHeaderRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		epoch := key.Epoch(rapid.Uint32().Draw(t, "epoch"))
		seq := Sequence(rapid.Uint64Range(1, uint64(MaxSequence)).Draw(t, "seq"))
		for _, h := range []Header{Handshake(HS1, id, epoch), Handshake(HS2, id, epoch), Record(REQ, id, seq), Record(RSP, id, seq)} {
			b := h.Append([]byte("x"))
			if len(b) != 1+HeaderSize {
				t.Fatalf("%d bytes", len(b))
			}
			if got, err := ParseHeader(b[1:]); err != nil || got != h {
				t.Fatalf("%+v came back as %+v, %v", h, got, err)
			}
		}
	})
}

// Attacks: W4, W5, W9
func TestHeaderFields(t *testing.T) {
	good := map[Type][]byte{
		HS1: Handshake(HS1, repeat[key.ID](1), 1).Append(nil),
		HS2: Handshake(HS2, repeat[key.ID](1), 1).Append(nil),
		REQ: Record(REQ, repeat[SessionID](1), 1).Append(nil),
		RSP: Record(RSP, repeat[SessionID](1), 1).Append(nil),
	}
	type edit struct {
		name string
		at   int
		to   []byte
		only Type // 0: all
		want error
	}
	for _, e := range []edit{
		{"magic", 0, []byte{0x44}, 0, ErrForeign},
		{"magic", 1, []byte{0x77}, 0, ErrForeign},
		{"version 0", 2, []byte{0}, 0, ErrMalformed},
		{"version 2", 2, []byte{2}, 0, ErrMalformed},
		{"version 255", 2, []byte{255}, 0, ErrMalformed},
		{"type 0", 3, []byte{0}, 0, ErrMalformed},
		{"type 5", 3, []byte{5}, 0, ErrMalformed},
		{"type of ERR", 3, []byte{0x7f}, 0, ErrMalformed},
		{"suite 0", 4, []byte{0}, 0, ErrMalformed},
		{"suite 2", 4, []byte{2}, 0, ErrMalformed},
		{"flags", 5, []byte{1}, 0, ErrMalformed},
		{"flags", 5, []byte{0x80}, 0, ErrMalformed},
		{"reserved", 6, []byte{1}, 0, ErrMalformed},
		{"reserved", 7, []byte{1}, 0, ErrMalformed},
		{"low half of the counter", 31, []byte{1}, HS1, ErrMalformed},
		{"low half of the counter", 28, []byte{1}, HS2, ErrMalformed},
		{"sequence 0", 24, make([]byte, 8), REQ, ErrMalformed},
		{"sequence 2^62+1", 24, []byte{0x40, 0, 0, 0, 0, 0, 0, 1}, REQ, ErrMalformed},
		{"sequence 2^64-1", 24, bytes.Repeat([]byte{255}, 8), RSP, ErrMalformed},
		{"sequence 2^62", 24, []byte{0x40, 0, 0, 0, 0, 0, 0, 0}, REQ, nil},
		{"epoch 0", 24, make([]byte, 8), HS1, nil},
		{"epoch 2^32-1", 24, []byte{255, 255, 255, 255, 0, 0, 0, 0}, HS1, nil},
	} {
		for typ, h := range good {
			if e.only != 0 && e.only != typ {
				continue
			}
			b := bytes.Clone(h)
			copy(b[e.at:], e.to)
			if _, err := ParseHeader(b); !errors.Is(err, e.want) {
				t.Errorf("%v, %s: %v, want %v", typ, e.name, err, e.want)
			}
		}
	}
	for typ, h := range good {
		for n := range h {
			if _, err := ParseHeader(h[:n]); err == nil {
				t.Errorf("%v cut to %d bytes was accepted", typ, n)
			}
		}
	}
	for _, portal := range []string{"", "E", "<html>", "HTTP/1.1 302 Found", "{}"} {
		if _, err := ParseHeader([]byte(portal)); !errors.Is(err, ErrForeign) {
			t.Errorf("%q: %v, want ErrForeign", portal, err)
		}
	}
}

// Attacks: W6
func TestParseWantsTypeAndLength(t *testing.T) {
	message := func(typ Type, n int) []byte {
		h := Record(typ, SessionID{}, 1)
		if typ <= HS2 {
			h = Handshake(typ, key.ID{}, 1)
		}
		return append(h.Append(nil), make([]byte, max(n-HeaderSize, 0))...)
	}
	lengths := map[Type]map[int]error{
		HS1: {32: ErrMalformed, 79: ErrMalformed, 80: nil, 81: ErrMalformed, 1 << 20: ErrMalformed},
		HS2: {80: ErrMalformed, 103: ErrMalformed, 104: nil, 105: nil, 4096: nil, 4097: ErrMalformed},
		REQ: {80: ErrMalformed, 143: ErrMalformed, 144: nil, 145: ErrMalformed, 208: nil, 262096: nil, 262144: ErrMalformed, 262145: ErrTooLarge, 262160: ErrTooLarge},
		RSP: {96: ErrMalformed, 159: ErrMalformed, 160: nil, 161: ErrMalformed, 224: nil},
	}
	for typ, cases := range lengths {
		for n, want := range cases {
			if _, err := Parse(message(typ, n), typ); !errors.Is(err, want) {
				t.Errorf("%v of %d bytes: %v, want %v", typ, n, err, want)
			}
		}
		for other := HS1; other <= RSP; other++ {
			if _, err := Parse(message(other, 1024), typ); other != typ && !errors.Is(err, ErrMalformed) {
				t.Errorf("%v as %v: %v", other, typ, err)
			}
		}
	}
}

func TestRoom(t *testing.T) {
	for limit := range 700 {
		for name, c := range map[string]struct{ room, overhead int }{
			"request": {RequestRoom(limit), RequestOverhead},
			"answer":  {AnswerRoom(limit), AnswerOverhead},
		} {
			if c.room >= 0 && c.overhead+PaddedSize(c.room) > limit {
				t.Errorf("%s of at most %d bytes: a body of %d does not fit", name, limit, c.room)
			}
			if c.overhead+PaddedSize(max(c.room, -1)+1) <= limit {
				t.Errorf("%s of at most %d bytes: a body of %d would fit as well", name, limit, c.room+1)
			}
		}
	}
	if RequestRoom(math.MaxInt32) != RequestRoom(MaxRequest) {
		t.Error("a request may be larger than the limit of the protocol")
	}
}

// Attacks: W14
func TestPadding(t *testing.T) {
	for n := range 300 {
		body := bytes.Repeat([]byte{0xab}, n)
		plain := Pad([]byte{1, 2}, body)[2:]
		if len(plain)%PadUnit != 0 || len(plain)-lengthSize-n >= PadUnit || len(plain) != PaddedSize(n) {
			t.Fatalf("a body of %d bytes is padded to %d", n, len(plain))
		}
		got, err := Unpad(plain)
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("a body of %d bytes: %x, %v", n, got, err)
		}
		for at := lengthSize + n; at < len(plain); at++ {
			plain[at] = 1
			if _, err := Unpad(plain); !errors.Is(err, ErrSchema) {
				t.Fatalf("a body of %d bytes: byte %d of the padding is not zero: %v", n, at, err)
			}
			plain[at] = 0
		}
		if _, err := Unpad(append(bytes.Clone(plain), make([]byte, PadUnit)...)); !errors.Is(err, ErrSchema) {
			t.Fatalf("more padding than needed: %v", err)
		}
		for _, short := range []int{0, 1, 3, 63, len(plain) - 1, len(plain) - PadUnit} {
			if short < len(plain) {
				if _, err := Unpad(plain[:short]); !errors.Is(err, ErrSchema) {
					t.Fatalf("cut to %d: %v", short, err)
				}
			}
		}
	}
	for _, n := range []uint32{61, 64, 1 << 31, math.MaxUint32 - 3, math.MaxUint32} {
		plain := Pad(nil, nil)
		plain[0], plain[1], plain[2], plain[3] = byte(n>>24), byte(n>>16), byte(n>>8), byte(n)
		if _, err := Unpad(plain); !errors.Is(err, ErrSchema) {
			t.Errorf("inner length %d: %v", n, err)
		}
	}
}

func TestErrorMessage(t *testing.T) {
	for code := CodeMalformed; code <= CodeTooLarge; code++ {
		for _, wait := range []time.Duration{0, time.Second, 65535 * time.Second} {
			e := ErrorMessage{code, wait}
			b := e.Append(nil)
			if got, err := ParseError(b); err != nil || got != e || len(b) != ErrorSize {
				t.Errorf("%+v came back as %+v, %v", e, got, err)
			}
		}
	}
	want := []byte{0x45, 0x57, 1, 0x7f, 0, 3, 0, 61}
	if diff := cmp.Diff(want, ErrorMessage{CodeBusy, 60*time.Second + 1}.Append(nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for wait, want := range map[time.Duration]time.Duration{-time.Second: 0, 30 * time.Hour: 65535 * time.Second} {
		if got, err := ParseError(ErrorMessage{CodeBusy, wait}.Append(nil)); err != nil || got.RetryAfter != want {
			t.Errorf("retry after %v became %v, %v", wait, got.RetryAfter, err)
		}
	}
	for n := range want {
		if _, err := ParseError(want[:n]); err == nil {
			t.Errorf("cut to %d bytes it was accepted", n)
		}
	}
	for _, bad := range [][]byte{
		append(bytes.Clone(want), 0),
		{0x45, 0x57, 2, 0x7f, 0, 3, 0, 0},
		{0x45, 0x57, 1, 0x7e, 0, 3, 0, 0},
		{0x45, 0x57, 1, 0x7f, 0, 0, 0, 0},
		{0x45, 0x57, 1, 0x7f, 0, 6, 0, 0},
		{0x45, 0x57, 1, 0x7f, 1, 3, 0, 0},
		[]byte("<html>ok"),
	} {
		if e, err := ParseError(bad); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrForeign) {
			t.Errorf("%x: %+v, %v", bad, e, err)
		}
	}
	if status := Code(99).HTTPStatus(); status != 500 {
		t.Errorf("status of a code that there is not: %d", status)
	}
	if CodeOf(fmt.Errorf("x: %w", ErrTooLarge)) != CodeTooLarge || CodeOf(ErrForeign) != CodeMalformed || CodeOf(ErrMalformed) != CodeMalformed {
		t.Error("CodeOf mixes up its errors")
	}
}

func TestWelcome(t *testing.T) {
	w := Welcome{ServerTime: 1, Lifetime: time.Second, MaxRequest: 2, SlotHint: 3 * time.Second, Flags: RotationPending | RecoverySession, RootVersion: 4}
	b := w.Append(nil)
	if got, err := ParseWelcome(append(b, "more of a later version"...)); err != nil || got != w {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range WelcomeSize {
		if _, err := ParseWelcome(b[:n]); !errors.Is(err, ErrSchema) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	late := bytes.Clone(b)
	late[0] = 0x80
	if _, err := ParseWelcome(late); !errors.Is(err, ErrSchema) {
		t.Errorf("a time beyond 2^63 ms: %v", err)
	}
	odd := Welcome{ServerTime: -1, Lifetime: 1500 * time.Millisecond, SlotHint: 100 * time.Hour}
	if got, err := ParseWelcome(odd.Append(nil)); err != nil || got != (Welcome{Lifetime: 2 * time.Second, SlotHint: 65535 * time.Second}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// Attacks: W20
func FuzzHeader(f *testing.F) {
	for _, c := range vectors(f) {
		f.Add([]byte(c.HS1))
		f.Add([]byte(c.HS2))
		for _, r := range c.Records {
			f.Add([]byte(r.REQ))
			f.Add([]byte(r.RSP))
		}
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		h, err := ParseHeader(msg)
		if err != nil {
			return
		}
		if !bytes.Equal(h.Append(nil), msg[:HeaderSize]) {
			t.Errorf("%x was read as %+v", msg[:HeaderSize], h)
		}
	})
}

// Attacks: W20
func FuzzError(f *testing.F) {
	for code := CodeMalformed; code <= CodeTooLarge; code++ {
		f.Add(ErrorMessage{code, time.Minute}.Append(nil))
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		e, err := ParseError(msg)
		if err != nil {
			return
		}
		if !bytes.Equal(e.Append(nil), msg) {
			t.Errorf("%x was read as %+v", msg, e)
		}
	})
}

func TestBootIDAsText(t *testing.T) {
	id := BootID{0xb0, 7}
	text, err := id.MarshalText()
	if err != nil || string(text) != "b0070000000000000000000000000000" {
		t.Errorf("%s, %v", text, err)
	}
	var back BootID
	if err := back.UnmarshalText(text); err != nil || back != id {
		t.Errorf("%v, %v", back, err)
	}
	for _, bad := range []string{"", "b007", "zz" + string(text[2:]), string(text) + "00"} {
		if err := back.UnmarshalText([]byte(bad)); err == nil || back != id {
			t.Errorf("%q: %v, %v", bad, back, err)
		}
	}
}
