package modbustest

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"ecowatt/inverter/modbus"
)

// testCase is a device that misbehaves at the first request.
type testCase struct {
	name string
	do   step
	want want
}

func (x testCase) test(tr Transport) func(t *testing.T) {
	return func(t *testing.T) {
		c, _ := tr.open(t, x.do)
		begin := time.Now()
		err := check(t, c, asking)
		if d := time.Since(begin); d > tr.Timeout+tr.Timeout/2+tr.Quiet && !tr.Real {
			t.Errorf("took %v", d)
		}
		_, refused := errors.AsType[modbus.ExceptionError](err)
		switch {
		case refused || x.want == truthOnly && err != nil || x.want == failure && err == nil:
			t.Errorf("got %v", err)
		case err != nil && !errors.Is(err, modbus.ErrAnswer) && !errors.Is(err, modbus.ErrNoAnswer):
			t.Errorf("%v is neither ErrAnswer nor ErrNoAnswer", err)
		}
		well(t, c)
	}
}

// misfits are whole frames that do not answer the request.
func (tr Transport) misfits() []testCase {
	as := func(pdu ...byte) step {
		return told(func(m message) message { m.pdu = pdu; return m })
	}
	all := []testCase{
		{"another unit", told(func(m message) message { m.unit++; return m }), failure},
		{"unit 0", told(func(m message) message { m.unit = 0; return m }), failure},
		{"another function", told(func(m message) message { m.pdu[0] = 4; return m }), failure},
		{"a write's answer", as(6, 0x01, 0x07, 0, 2), failure},
		{"no function at all", as(0x63, 4, 0, 1, 0, 2), failure},
		{"exception of another function", as(0x84, 2), failure},
		{"fewer words", as(3, 2, 0, 1), failure},
		{"more words", as(3, 6, 0, 1, 0, 2, 0, 3), failure},
		{"no words", as(3, 0), failure},
		{"byte count too small", as(3, 2, 0, 1, 0, 2), failure},
		{"byte count too large", as(3, 6, 0, 1, 0, 2), failure},
		{"odd byte count", as(3, 5, 0, 1, 0, 2, 0), failure},
	}
	if tr.Framing == MBAP {
		for name, f := range map[string]func(uint16) uint16{
			"transaction 0":      func(uint16) uint16 { return 0 },
			"former transaction": func(n uint16) uint16 { return n - 1 },
			"later transaction":  func(n uint16) uint16 { return n + 1 },
		} {
			all = append(all, testCase{name, told(func(m message) message { m.transaction = f(m.transaction); return m }), failure})
		}
		return append(all,
			testCase{"another protocol", changed(func(b []byte) []byte { b[3] = 1; return b }), failure},
			testCase{"length too large", changed(func(b []byte) []byte { b[4], b[5] = 0, 255; return b }), failure},
			testCase{"length 0", changed(func(b []byte) []byte { b[4], b[5] = 0, 0; return b }), failure})
	}
	for i := range 9 {
		for _, flip := range []byte{0x01, 0x80, 0xff} {
			all = append(all, testCase{
				fmt.Sprintf("byte %d corrupted by %02x", i, flip),
				changed(func(b []byte) []byte { b[i] ^= flip; return b }), failure,
			})
		}
	}
	return append(all, testCase{"CRC bytes swapped", changed(func(b []byte) []byte {
		b[7], b[8] = b[8], b[7]
		return b
	}), failure})
}

// cuts are answers of which the end is missing: nothing more comes, or the
// connection ends.
func (tr Transport) cuts() (all []testCase) {
	size := 9
	if tr.Framing == MBAP {
		size = 13
	}
	for n := range size {
		cut := changed(func(b []byte) []byte { return b[:n] })
		if n == 0 {
			cut = silent
		}
		all = append(all, testCase{fmt.Sprintf("silence after %d bytes", n), cut, failure})
		if !tr.Real { // a line that is really there has no end
			all = append(all, testCase{fmt.Sprintf("end after %d bytes", n), closing(cut), failure})
		}
	}
	return all
}

// noises are answers that something else stands beside. Where a frame begins
// can be told on a line of RTU frames only.
func (tr Transport) noises() []testCase {
	beside := either
	other := func(d *device, q message) []byte { // the right answer to a former request
		pdu := slices.Clone(q.pdu)
		pdu[1] ^= 0x20
		q.transaction--
		return d.frame(q, truth(pdu))
	}
	all := []testCase{
		{"garbage before", changed(func(b []byte) []byte { return append([]byte{0xff, 0x00, 17}, b...) }), beside},
		{"garbage after", changed(func(b []byte) []byte { return append(b, 0x00, 0xff) }), beside},
		{"nothing but garbage", changed(func([]byte) []byte { return []byte("HTTP/1.1 400 Bad Request\r\n\r\n") }), failure},
		{"the answer twice", changed(func(b []byte) []byte { return slices.Concat(b, b) }), beside},
		{"a late answer, then the answer", func(d *device, c io.ReadWriteCloser, q message) {
			write(c, append(other(d, q), d.truth(q)...))
		}, beside},
		{"a late answer, then the answer in pieces", func(d *device, c io.ReadWriteCloser, q message) {
			write(c, append(other(d, q), d.truth(q)[:4]...))
			time.Sleep(d.quiet / 4)
			write(c, d.truth(q)[4:])
		}, beside},
		{"the answer, then a late one", func(d *device, c io.ReadWriteCloser, q message) {
			write(c, append(d.truth(q), other(d, q)...))
		}, beside},
		{"another unit's answer, then the answer", func(d *device, c io.ReadWriteCloser, q message) {
			late := q
			late.unit++
			late.transaction--
			write(c, append(d.frame(late, truth(q.pdu)), d.truth(q)...))
		}, beside},
		{"an answer without a request before the next", func(d *device, c io.ReadWriteCloser, q message) {
			write(c, append(d.truth(q), d.truth(q)...))
			write(c, d.truth(q))
		}, beside},
	}
	if tr.Framing == RTU {
		all = append(all,
			testCase{"echo of the request", func(d *device, c io.ReadWriteCloser, q message) {
				write(c, append(d.frame(q, q.pdu), d.truth(q)...))
			}, truthOnly},
			testCase{"echo of the request, then a pause", func(d *device, c io.ReadWriteCloser, q message) {
				write(c, d.frame(q, q.pdu))
				time.Sleep(2 * d.quiet)
				truthful(d, c, q)
			}, truthOnly},
			testCase{"echo alone", func(d *device, c io.ReadWriteCloser, q message) {
				write(c, d.frame(q, q.pdu))
			}, failure})
	}
	return all
}

// times are answers that take their time.
func (tr Transport) times() []testCase {
	pieces := func(size int, wait time.Duration) step {
		return func(d *device, c io.ReadWriteCloser, q message) {
			for piece := range slices.Chunk(d.truth(q), size) {
				write(c, piece)
				time.Sleep(wait)
			}
		}
	}
	return []testCase{
		{"single bytes", pieces(1, 0), truthOnly},
		{"single bytes with pauses", pieces(1, tr.Quiet/20), truthOnly},
		{"two pieces", pieces(5, tr.Quiet/2), truthOnly},
		{"slow", func(d *device, c io.ReadWriteCloser, q message) {
			time.Sleep(d.timeout * 3 / 4)
			truthful(d, c, q)
		}, truthOnly},
	}
}
