package modbus_test

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"go.bug.st/serial"
)

// listener is a listener in memory.
type listener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) dial(ctx context.Context, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *listener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *listener) Addr() net.Addr { return &net.TCPAddr{} }

// direction is one direction of a wire: a buffer without limit.
type direction struct {
	mu    sync.Mutex // guards bytes
	bytes []byte

	came chan struct{} // capacity 1: there may be bytes
	cut  chan struct{} // closed at the end
}

func newDirection(cut chan struct{}) *direction {
	return &direction{came: make(chan struct{}, 1), cut: cut}
}

func (d *direction) Write(b []byte) (int, error) {
	select {
	case <-d.cut:
		return 0, io.ErrClosedPipe
	default:
	}
	d.mu.Lock()
	d.bytes = append(d.bytes, b...)
	d.mu.Unlock()
	select {
	case d.came <- struct{}{}:
	default:
	}
	return len(b), nil
}

// read waits for bytes for d, or for ever if that is negative.
func (d *direction) read(b []byte, wait time.Duration) (int, error) {
	var timeout <-chan time.Time
	if wait >= 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		timeout = t.C
	}
	for {
		d.mu.Lock()
		n := copy(b, d.bytes)
		d.bytes = d.bytes[n:]
		d.mu.Unlock()
		if n > 0 {
			return n, nil
		}
		select {
		case <-d.came:
		case <-timeout:
			return 0, nil
		case <-d.cut:
			return 0, io.EOF
		}
	}
}

func (d *direction) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bytes = nil
}

// wire is a serial line in memory. It has a port at the near end, which can be
// opened again and again, and a device at the far end.
type wire struct {
	out, in *direction
	once    sync.Once
	ended   chan struct{}
}

func newWire() *wire {
	ended := make(chan struct{})
	return &wire{out: newDirection(ended), in: newDirection(ended), ended: ended}
}

func (w *wire) cut() { w.once.Do(func() { close(w.ended) }) }

func (w *wire) isCut() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

// wirePort is the near end as a serial port.
type wirePort struct {
	serial.Port // for the methods that are not used here
	*wire
	mu   sync.Mutex // guards wait
	wait time.Duration
}

func (w *wire) port() *wirePort { return &wirePort{wire: w, wait: -1} }

func (p *wirePort) Read(b []byte) (int, error) {
	p.mu.Lock()
	wait := p.wait
	p.mu.Unlock()
	return p.in.read(b, wait)
}

func (p *wirePort) SetReadTimeout(d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wait = d
	return nil
}

func (p *wirePort) Write(b []byte) (int, error) { return p.out.Write(b) }
func (p *wirePort) ResetInputBuffer() error     { p.in.drop(); return nil }
func (p *wirePort) ResetOutputBuffer() error    { return nil }
func (p *wirePort) Close() error                { return nil }

// wireEnd is the far end.
type wireEnd struct{ *wire }

func (w *wire) far() wireEnd { return wireEnd{w} }

func (e wireEnd) Read(b []byte) (int, error)  { return e.out.read(b, -1) }
func (e wireEnd) Write(b []byte) (int, error) { return e.in.Write(b) }
func (e wireEnd) Close() error                { e.cut(); return nil }
