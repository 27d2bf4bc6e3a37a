package modbus

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// TestExamples are the examples of V1.1b3, sections 6.3, 6.4, 6.6 and 6.12. The
// document's registers count from 1.
func TestExamples(t *testing.T) {
	for _, c := range []struct {
		name            string
		r               Request
		request, answer string
		got             []uint16
	}{
		{
			"read holding registers 108 to 110",
			Request{Function: ReadHolding, Address: 107, Count: 3},
			"03 00 6B 00 03", "03 06 02 2B 00 00 00 64",
			[]uint16{555, 0, 100},
		},
		{
			"read input register 9",
			Request{Function: ReadInput, Address: 8, Count: 1},
			"04 00 08 00 01", "04 02 00 0A",
			[]uint16{10},
		},
		{
			"write 3 to register 2",
			Request{Function: WriteSingle, Address: 1, Values: []uint16{3}},
			"06 00 01 00 03", "06 00 01 00 03", nil,
		},
		{
			"write 10 and 258 from register 2 on",
			Request{Function: WriteMultiple, Address: 1, Values: []uint16{10, 258}},
			"10 00 01 00 02 04 00 0A 01 02", "10 00 01 00 02", nil,
		},
	} {
		request, answer := unhex(t, c.request), unhex(t, c.answer)
		if got := appendRequest(nil, c.r); !bytes.Equal(got, request) {
			t.Errorf("%s: request % x, want % x", c.name, got, request)
		}
		if got, err := parseRequest(0, request); err != nil || !cmp.Equal(got, c.r) {
			t.Errorf("%s: parsed %+v, %v; want %+v", c.name, got, err, c.r)
		}
		if got := appendAnswer(nil, c.r, c.got); !bytes.Equal(got, answer) {
			t.Errorf("%s: answer % x, want % x", c.name, got, answer)
		}
		if got, err := parseAnswer(c.r, answer); err != nil || !cmp.Equal(got, c.got) {
			t.Errorf("%s: answered %v, %v; want %v", c.name, got, err, c.got)
		}
	}
}

func drawRequest(t *rapid.T) Request {
	r := Request{
		Unit:     rapid.Byte().Draw(t, "unit"),
		Function: rapid.SampledFrom([]Function{ReadHolding, ReadInput, WriteSingle, WriteMultiple}).Draw(t, "function"),
		Address:  uint16(rapid.IntRange(0, 1<<16-MaxRead).Draw(t, "address")),
	}
	switch r.Function {
	case ReadHolding, ReadInput:
		r.Count = uint16(rapid.IntRange(1, MaxRead).Draw(t, "count"))
	case WriteSingle:
		r.Values = []uint16{rapid.Uint16().Draw(t, "word")}
	case WriteMultiple:
		r.Values = rapid.SliceOfN(rapid.Uint16(), 1, MaxWrite).Draw(t, "words")
	}
	return r
}

// TestAnswersFitOnlyTheirRequest: an answer changed in one byte, cut short or
// grown is never taken for a whole one, except for a different word read.
func TestAnswersFitOnlyTheirRequest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := drawRequest(t)
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
		want := rapid.SliceOfN(rapid.Uint16(), int(r.Count), int(r.Count)).Draw(t, "words read")
		answer := appendAnswer(nil, r, want)
		got, err := parseAnswer(r, answer)
		if err != nil || len(got) != len(want) || len(got) > 0 && !cmp.Equal(got, want) {
			t.Fatalf("got %v, %v; want %v", got, err, want)
		}
		for n := range answer {
			if _, err := parseAnswer(r, answer[:n]); !errors.Is(err, ErrAnswer) {
				t.Fatalf("cut to %d bytes: %v", n, err)
			}
		}
		if _, err := parseAnswer(r, append(bytes.Clone(answer), 0)); !errors.Is(err, ErrAnswer) {
			t.Fatalf("one byte more: %v", err)
		}
		changed := bytes.Clone(answer)
		i := rapid.IntRange(0, len(answer)-1).Draw(t, "byte")
		changed[i] ^= byte(rapid.IntRange(1, 255).Draw(t, "change"))
		_, err = parseAnswer(r, changed)
		if data := r.Count > 0 && i >= 2; data != (err == nil) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
	})
}

func TestParseAnswerException(t *testing.T) {
	r := Request{Function: ReadHolding, Count: 1}
	var no ExceptionError
	if _, err := parseAnswer(r, []byte{0x83, 0x02}); !errors.As(err, &no) || no != ErrIllegalAddress || no.ExceptionCode() != 2 {
		t.Errorf("exception 2: %v", err)
	}
	for _, pdu := range []string{"83", "830200", "8402", "90 02", "01"} {
		if _, err := parseAnswer(r, unhex(t, pdu)); !errors.Is(err, ErrAnswer) {
			t.Errorf("%s: %v, want ErrAnswer", pdu, err)
		}
	}
}

func TestExceptionText(t *testing.T) {
	seen := map[string]ExceptionError{}
	for _, e := range []ExceptionError{ErrIllegalFunction, ErrIllegalAddress, ErrIllegalValue, ErrDeviceFailure, ErrAcknowledge, ErrBusy, ErrGatewayPath, ErrGatewayTarget, 0x77} {
		text := e.Error()
		if other, ok := seen[text]; ok || !strings.HasPrefix(text, "exception ") {
			t.Errorf("%02x: %q, as %02x", byte(e), text, byte(other))
		}
		seen[text] = e
	}
}

func TestParseRequestRefuses(t *testing.T) {
	for _, c := range []struct {
		pdu  string
		want ExceptionError
	}{
		{"01 0000 0001", ErrIllegalFunction},
		{"83 0000 0001", ErrIllegalFunction},
		{"00", ErrIllegalFunction},
		{"2b 0e 01 00", ErrIllegalFunction},
		{"03", ErrIllegalValue},
		{"03 0000 00", ErrIllegalValue},
		{"03 0000 0000", ErrIllegalValue},
		{"03 0000 007e", ErrIllegalValue},
		{"03 0000 ffff", ErrIllegalValue},
		{"03 0000 0001 00", ErrIllegalValue},
		{"03 ffff 0002", ErrIllegalAddress},
		{"04 ff84 007d", ErrIllegalAddress},
		{"06 0008 00", ErrIllegalValue},
		{"06 0008 0001 00", ErrIllegalValue},
		{"10 0000 0000 00", ErrIllegalValue},
		{"10 0000 0001 02 00", ErrIllegalValue},
		{"10 0000 0001 03 000000", ErrIllegalValue},
		{"10 0000 0001 02 00010001", ErrIllegalValue},
		{"10 0000 0001 04 00010001", ErrIllegalValue},
		{"10 0000 007c f8" + strings.Repeat("00", 248), ErrIllegalValue},
		{"10 ffff 0002 04 00010001", ErrIllegalAddress},
	} {
		var no ExceptionError
		if r, err := parseRequest(1, unhex(t, c.pdu)); !errors.As(err, &no) || no != c.want {
			t.Errorf("%.40s: %+v, %v; want %v", c.pdu, r, err, c.want)
		}
	}
}

func TestRequestCheck(t *testing.T) {
	for _, good := range []Request{
		{Function: ReadHolding, Count: 125},
		{Function: ReadInput, Address: 65535, Count: 1},
		{Function: WriteSingle, Values: []uint16{1}},
		{Function: WriteMultiple, Values: make([]uint16, 123)},
	} {
		if err := good.Check(); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	for _, bad := range []Request{
		{},
		{Function: 1, Count: 1},
		{Function: ReadHolding},
		{Function: ReadHolding, Count: 126},
		{Function: ReadHolding, Count: 1, Values: []uint16{1}},
		{Function: ReadInput, Address: 65535, Count: 2},
		{Function: WriteSingle},
		{Function: WriteSingle, Values: []uint16{1, 2}},
		{Function: WriteSingle, Values: []uint16{1}, Count: 1},
		{Function: WriteMultiple},
		{Function: WriteMultiple, Values: make([]uint16, 124)},
		{Function: WriteMultiple, Address: 65535, Values: make([]uint16, 2)},
	} {
		if err := bad.Check(); !errors.Is(err, ErrRequest) {
			t.Errorf("%v: %v, want ErrRequest", bad, err)
		}
	}
}

func TestFrames(t *testing.T) {
	var b frameBuffer
	whole := unhex(t, "1234 0000 0006 11 03 0000 000a")
	if got := seal(append(b.header(0x1234, 0x11), whole[headerSize:]...)); !bytes.Equal(got, whole) {
		t.Fatalf("sealed % x, want % x", got, whole)
	}
	f, err := b.read(bytes.NewReader(whole))
	if err != nil || f.transaction != 0x1234 || f.unit != 0x11 || !bytes.Equal(f.pdu, whole[headerSize:]) {
		t.Fatalf("read %+v, %v", f, err)
	}
	for n := range whole {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if _, err := b.read(bytes.NewReader(whole[:n])); !errors.Is(err, want) {
			t.Errorf("cut to %d bytes: %v, want %v", n, err, want)
		}
	}
	for _, bad := range []string{
		"0001 0001 0006 11 03 0000 000a",
		"0001 0000 0001 11 03 0000 000a",
		"0001 0000 0000 11 03 0000 000a",
		"0001 0000 00ff 11 03 0000 000a",
		"0001 0000 ffff 11 03 0000 000a",
	} {
		if _, err := b.read(bytes.NewReader(unhex(t, bad))); !errors.Is(err, errFrame) {
			t.Errorf("%s: %v, want errFrame", bad, err)
		}
	}
	largest := append(unhex(t, "0001 0000 00fe 11"), make([]byte, maxPDU)...)
	if f, err := b.read(bytes.NewReader(largest)); err != nil || len(f.pdu) != maxPDU {
		t.Errorf("the largest frame: %v", err)
	}
}

func FuzzParseRequest(f *testing.F) {
	f.Add(byte(17), []byte{3, 0, 0, 0, 10})
	f.Add(byte(17), []byte{16, 0, 8, 0, 1, 2, 0, 50})
	f.Fuzz(func(t *testing.T, unit byte, pdu []byte) {
		if len(pdu) == 0 || len(pdu) > maxPDU {
			return
		}
		r, err := parseRequest(unit, pdu)
		if err != nil {
			return
		}
		if err := r.Check(); err != nil {
			t.Errorf("% x is taken as %v, which cannot be sent: %v", pdu, r, err)
		}
		if again := appendRequest(nil, r); !bytes.Equal(again, pdu) {
			t.Errorf("% x is taken as %v, which is % x", pdu, r, again)
		}
	})
}

func FuzzParseAnswer(f *testing.F) {
	f.Add(byte(3), uint16(2), []byte{3, 4, 0, 1, 0, 2})
	f.Add(byte(16), uint16(1), []byte{16, 0, 8, 0, 1})
	f.Add(byte(6), uint16(1), []byte{0x86, 3})
	f.Fuzz(func(t *testing.T, function byte, n uint16, pdu []byte) {
		r := Request{Function: Function(function), Address: 8, Count: n}
		if r.Function == WriteSingle || r.Function == WriteMultiple {
			r.Count, r.Values = 0, make([]uint16, n%200)
		}
		if r.Check() != nil {
			return
		}
		got, err := parseAnswer(r, pdu)
		if err == nil && !bytes.Equal(appendAnswer(nil, r, got), pdu) {
			t.Errorf("% x is taken as %v", pdu, got)
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 0, 6, 17, 3, 0, 0, 0, 10})
	f.Fuzz(func(t *testing.T, data []byte) {
		var in, out frameBuffer
		r := bytes.NewReader(data)
		for {
			at := len(data) - r.Len()
			got, err := in.read(r)
			if err != nil {
				return
			}
			again := seal(append(out.header(got.transaction, got.unit), got.pdu...))
			if !bytes.Equal(again, data[at:len(data)-r.Len()]) {
				t.Errorf("% x is taken as %+v", data[at:], got)
			}
		}
	})
}
