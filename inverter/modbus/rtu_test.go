package modbus

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestRTUFrames: whole frames that other implementations made.
func TestRTUFrames(t *testing.T) {
	for _, x := range []struct {
		r     Request
		frame string
	}{
		{Request{Unit: 17, Function: ReadHolding, Address: 0x6b, Count: 3}, "11 03 006b 0003 7687"},
		{Request{Unit: 17, Function: ReadInput, Address: 8, Count: 1}, "11 04 0008 0001 b298"},
		{Request{Unit: 17, Function: WriteSingle, Address: 1, Values: []uint16{3}}, "11 06 0001 0003 9a9b"},
		{Request{Unit: 17, Function: WriteMultiple, Address: 1, Values: []uint16{10, 0x102}}, "11 10 0001 0002 04 000a 0102 c6f0"},
		{Request{Unit: 1, Function: ReadHolding, Address: 0, Count: 10}, "01 03 0000 000a c5cd"},
	} {
		if got := appendRTURequest(nil, x.r); !bytes.Equal(got, unhex(t, x.frame)) {
			t.Errorf("%v: % x, want %s", x.r, got, x.frame)
		}
	}
	for _, x := range []string{"11 03 06 ae41 5652 4340 49ad", "11 83 02 c134", "0a 81 02 b053"} {
		if b := unhex(t, x); !intact(b) {
			t.Errorf("%s: taken for broken", x)
		}
	}
}

func TestRTUSizes(t *testing.T) {
	for _, x := range []struct {
		b               string
		request, answer int // −1 is an error
	}{
		{"", 0, 0},
		{"11", 0, 0},
		{"11 03", 8, 0},
		{"11 03 04", 8, 9},
		{"11 04 fa", 8, 255},
		{"11 04 fc", 8, -1},
		{"11 03 05", 8, -1},
		{"11 06", 8, 8},
		{"11 10", 0, 8},
		{"11 10 0000 007b", 0, 8},
		{"11 10 0000 007b f6", 255, 8},
		{"11 10 0000 007b f8", -1, 8},
		{"11 83", -1, 5},
		{"11 ff", -1, 5},
		{"11 2b", -1, -1},
		{"11 01", -1, -1},
	} {
		for _, side := range []struct {
			name string
			size func([]byte) (int, error)
			want int
		}{{"request", rtuRequestSize, x.request}, {"answer", rtuAnswerSize, x.answer}} {
			got, err := side.size(unhex(t, x.b))
			if err != nil && errors.Is(err, errNoFrame) {
				got = -1
			}
			if got != side.want {
				t.Errorf("%s %s: %d, %v; want %d", side.name, x.b, got, err, side.want)
			}
		}
	}
}

func TestMisfit(t *testing.T) {
	r := Request{Unit: 17, Function: ReadHolding, Address: 7, Count: 2}
	for _, x := range []struct{ b, want string }{
		{"11", "cut short after 1 bytes"},
		{"11 03 04 00 01", "cut short after 5 bytes"},
		{"11 03 04 0001 0002 0000", "its CRC is wrong"},
		{"11 2b 04 0001 0002 0000", "the length of function 2b is not known"},
		{"12 83 02 c170", "it is of unit 18"},
		{"11 84 02 c304", "it is of function 84"},
	} {
		b := unhex(t, x.b)
		if strings.Contains(x.want, "is of") {
			b = closeRTU(b[:len(b)-2], 0)
		}
		if _, err := soleAnswer(b, r); !errors.Is(err, ErrAnswer) || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %v, want %q", x.b, err, x.want)
		}
	}
}

func TestProbe(t *testing.T) {
	read := func(f Function, address, count uint16) Request {
		return Request{Unit: 17, Function: f, Address: address, Count: count}
	}
	for _, x := range []struct {
		name string
		r    Request
		lost []Request
		want Request
	}{
		{"fewer", read(ReadHolding, 7, 10), []Request{read(ReadHolding, 7, 10)}, read(ReadHolding, 7, 9)},
		{"input registers", read(ReadInput, 7, 10), []Request{read(ReadInput, 0, 10)}, read(ReadInput, 7, 9)},
		{"fewer is taken", read(ReadHolding, 7, 10), []Request{read(ReadHolding, 0, 9), read(ReadHolding, 1, 8)}, read(ReadHolding, 7, 7)},
		{"taken by another function", read(ReadHolding, 7, 10), []Request{read(ReadInput, 0, 9)}, read(ReadHolding, 7, 9)},
		{"one", read(ReadHolding, 7, 1), []Request{read(ReadHolding, 7, 1)}, read(ReadHolding, 7, 2)},
		{"one at the end", read(ReadHolding, 0xffff, 1), []Request{read(ReadHolding, 0xffff, 1)}, read(ReadHolding, 0xfffe, 2)},
		{"all fewer are taken", read(ReadHolding, 7, 2), []Request{read(ReadHolding, 7, 2), read(ReadHolding, 7, 1)}, read(ReadHolding, 7, 3)},
		{
			"a write",
			Request{Unit: 17, Function: WriteSingle, Address: 8, Values: []uint16{5}},
			[]Request{{Unit: 17, Function: WriteSingle, Address: 8, Values: []uint16{6}}},
			read(ReadHolding, 8, 1),
		},
	} {
		var all []lost
		for _, l := range x.lost {
			all = append(all, lost{request: l})
		}
		got := probe(all, x.r)
		if diff := cmp.Diff(x.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", x.name, diff)
		}
		if err := got.Check(); err != nil {
			t.Errorf("%s: %v", x.name, err)
		}
	}
}

// FuzzAnswer: whatever comes, what is taken for an answer is a frame of the
// unit with a good CRC, and nothing panics.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte{}, byte(3), uint16(2))
	f.Add([]byte{0, 0x11, 3, 4, 0, 1, 0, 2, 0x2a, 0x32, 0xff}, byte(3), uint16(2))
	f.Add([]byte{0x11, 0x83, 2, 0xc1, 0x34, 0x11, 0x83, 2, 0xc1, 0x34}, byte(3), uint16(2))
	f.Add([]byte{0x11, 6, 0, 1, 0, 3, 0x9a, 0x9b}, byte(6), uint16(3))
	f.Fuzz(func(t *testing.T, b []byte, function byte, n uint16) {
		r := Request{Unit: 17, Function: Function(function), Address: 1, Count: n}
		if r.Function == WriteSingle {
			r.Count, r.Values = 0, []uint16{n}
		}
		if r.Check() != nil {
			return
		}
		pdu, err := soleAnswer(b, r)
		if err != nil {
			if !errors.Is(err, ErrAnswer) || pdu != nil {
				t.Errorf("%x with the error %v", pdu, err)
			}
			return
		}
		if !bytes.Contains(b, closeRTU(append([]byte{17}, pdu...), 0)) {
			t.Errorf("%x is no frame of %x", pdu, b)
		}
		if got, err := parseAnswer(r, pdu); errors.Is(err, ErrAnswer) || err == nil && len(got) != int(r.Count) {
			t.Errorf("%v: %v, %v", r, got, err)
		}
	})
}

// FuzzServeRTU: it makes no difference in which pieces requests come.
func FuzzServeRTU(f *testing.F) {
	good := appendRTURequest(nil, Request{Unit: 17, Function: ReadHolding, Address: 2, Count: 3})
	write := appendRTURequest(nil, Request{Unit: 17, Function: WriteMultiple, Address: 2, Values: []uint16{1, 2}})
	f.Add(good)
	f.Add(append(bytes.Clone(good), write...))
	f.Add(append(bytes.Clone(write), 17, 1, 0, 0, 0))
	f.Add(append(bytes.Repeat([]byte{0x55}, 300), good...))
	f.Fuzz(func(t *testing.T, b []byte) {
		feed := func(pieces ...[]byte) []byte {
			var out bytes.Buffer
			s := NewServer(newBank().handle, ServerOptions{Logger: slog.New(slog.DiscardHandler)})
			c := rtuConn{server: s, line: &out}
			for _, piece := range pieces {
				c.incoming = append(c.incoming, piece...)
				if _, err := c.answer(t.Context()); err != nil {
					t.Fatal(err)
				}
				if len(c.incoming) > maxRTUFrame {
					t.Fatalf("%d bytes are kept", len(c.incoming))
				}
			}
			if err := c.silent(t.Context()); err != nil {
				t.Fatal(err)
			}
			return out.Bytes()
		}
		var single [][]byte
		for i := range b {
			single = append(single, b[i:i+1])
		}
		if got, want := feed(single...), feed(b); !bytes.Equal(got, want) {
			t.Errorf("in single bytes: % x; at once: % x", got, want)
		}
	})
}

func TestSilence(t *testing.T) {
	for _, x := range []struct {
		baud int
		want time.Duration
	}{{1200, 32083333}, {9600, 4010416}, {19200, 2005208}, {38400, 1750000}, {115200, 1750000}} {
		if got := silence(x.baud); got != x.want {
			t.Errorf("%d baud: %v, want %v", x.baud, got, x.want)
		}
	}
}

// TestAnswerRTU answers whole frames, for transports that carry such.
func TestAnswerRTU(t *testing.T) {
	s := NewServer(newBank().handle, ServerOptions{})
	for _, x := range []struct {
		unit         byte
		pdu, u, want string
	}{
		{17, "03 0002 0002", "11", "03 04 0002 0003"},
		{17, "01 0000 0001", "11", "81 01"},
		{18, "03 0002 0002", "12", "83 0b"},
		{99, "03 0002 0002", "", ""},
	} {
		got, err := s.AnswerRTU(t.Context(), closeRTU(append([]byte{x.unit}, unhex(t, x.pdu)...), 0))
		var want []byte
		if x.want != "" {
			want = closeRTU(unhex(t, x.u+x.want), 0)
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("unit %d, %s: % x, %v; want % x", x.unit, x.pdu, got, err, want)
		}
	}
	for _, bad := range []string{"", "11", "11 03 0002", "11 03 0002 0002 0000"} {
		if got, err := s.AnswerRTU(t.Context(), unhex(t, bad)); got != nil || !errors.Is(err, errNoFrame) {
			t.Errorf("%s: % x, %v", bad, got, err)
		}
	}
}

// TestServeRTUTimes: connections that are idle end, a line does not, and an
// answer waits for the turnaround.
func TestServeRTUTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		s := NewServer(newBank().handle, ServerOptions{Idle: time.Minute, Turnaround: 100 * time.Millisecond})
		go func() { ended <- s.ServeRTU(ctx, l) }()
		near, conn := net.Pipe()
		l.conns <- conn
		line, far := net.Pipe()
		go func() { ended <- s.ServeLine(ctx, far) }()

		request := appendRTURequest(nil, Request{Unit: 17, Function: ReadHolding, Address: 2, Count: 1})
		for range 3 {
			time.Sleep(50 * time.Second)
			start := time.Now()
			near.Write(request)
			if _, err := io.ReadFull(near, make([]byte, 7)); err != nil || time.Since(start) != 100*time.Millisecond {
				t.Errorf("%v after %v", err, time.Since(start))
			}
		}
		start := time.Now()
		near.Write(request[:4]) // half a request is none
		if n, err := near.Read(make([]byte, 1)); err == nil || time.Since(start) != time.Minute {
			t.Errorf("idle: %d bytes, %v after %v", n, err, time.Since(start))
		}
		time.Sleep(time.Hour)
		line.Write(request)
		if _, err := io.ReadFull(line, make([]byte, 7)); err != nil {
			t.Errorf("the line, idle for an hour: %v", err)
		}
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("serving: %v", err)
			}
		}
		if _, err := line.Write(request); err == nil {
			t.Error("the line is open after the server's end")
		}
	})
}

// TestServeLineEnds: the end of a line is told.
func TestServeLineEnds(t *testing.T) {
	near, far := net.Pipe()
	ended := make(chan error)
	go func() { ended <- NewServer(newBank().handle, ServerOptions{}).ServeLine(t.Context(), far) }()
	near.Close()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want io.EOF", err)
	}
}
