package modbus

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"testing"
	"time"
)

// TestOddity: how a handler lets an answer go out, on frames with a check and
// without. The request reads register 7 of unit 17, which holds 5.
func TestOddity(t *testing.T) {
	rtu := closeRTU([]byte{17, 3, 0, 7, 0, 1}, 0)
	tcp := []byte{0, 9, 0, 0, 0, 6, 17, 3, 0, 7, 0, 1}
	for _, x := range []struct {
		name     string
		odd      OddAnswerError
		rtu, tcp []byte
	}{
		{"like others", OddAnswerError{Words: []uint16{5}}, closeRTU([]byte{17, 3, 2, 0, 5}, 0), []byte{0, 9, 0, 0, 0, 5, 17, 3, 2, 0, 5}},
		{"of another unit", OddAnswerError{Words: []uint16{5}, Unit: 2}, closeRTU([]byte{19, 3, 2, 0, 5}, 0), []byte{0, 9, 0, 0, 0, 5, 19, 3, 2, 0, 5}},
		{"refused", OddAnswerError{Err: ErrBusy, Unit: 1}, closeRTU([]byte{18, 0x83, 6}, 0), []byte{0, 9, 0, 0, 0, 3, 18, 0x83, 6}},
		{"spoilt", OddAnswerError{Words: []uint16{5}, Spoil: func(f Sent) []byte {
			return fmt.Appendf(nil, "%x", f.Bytes[f.Head:len(f.Bytes)-f.Tail])
		}}, []byte("03020005"), []byte("03020005")},
		{"with too few words", OddAnswerError{}, closeRTU([]byte{17, 0x83, 4}, 0), []byte{0, 9, 0, 0, 0, 3, 17, 0x83, 4}},
	} {
		t.Run(x.name, func(t *testing.T) {
			handle := func(context.Context, Request) ([]uint16, error) { return nil, fmt.Errorf("odd: %w", &x.odd) }
			if got, err := NewServer(handle, ServerOptions{}).AnswerRTU(t.Context(), rtu); err != nil || !bytes.Equal(got, x.rtu) {
				t.Errorf("frame % x, %v, want % x", got, err, x.rtu)
			}
			for address, frames := range map[string][2][]byte{
				serve(t, handle, ServerOptions{}):    {tcp, x.tcp},
				serveRTU(t, handle, ServerOptions{}): {rtu, x.rtu},
			} {
				if got := exchange(t, address, frames[0], len(frames[1])); !bytes.Equal(got, frames[1]) {
					t.Errorf("% x is answered by % x, want % x", frames[0], got, frames[1])
				}
			}
		})
	}
}

// exchange sends a frame to address and returns what comes, size bytes if all
// is well.
func exchange(t *testing.T, address string, frame []byte, size int) []byte {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(frame); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 0, 2*size)
	for len(got) < size {
		n, err := c.Read(got[len(got):cap(got)])
		got = got[:len(got)+n]
		if err != nil {
			break
		}
	}
	return got
}

// TestOddityIsLate: an answer goes out after its delay, and not before.
func TestOddityIsLate(t *testing.T) {
	const delay = 60 * time.Millisecond
	handle := func(context.Context, Request) ([]uint16, error) {
		return nil, &OddAnswerError{Words: []uint16{5}, Delay: delay}
	}
	begin := time.Now()
	if got, err := NewServer(handle, ServerOptions{}).AnswerRTU(t.Context(), closeRTU([]byte{17, 3, 0, 7, 0, 1}, 0)); err != nil || got == nil || time.Since(begin) < delay {
		t.Errorf("% x, %v after %v", got, err, time.Since(begin))
	}
}
