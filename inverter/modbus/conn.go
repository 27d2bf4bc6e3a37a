package modbus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

// conn is what carries frames: a network connection or a serial port. A read
// or write that ends at its deadline fails with os.ErrDeadlineExceeded.
type conn interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error

	// discard drops what has come and was not read yet, without waiting for
	// more, and reports how many bytes that were where it is known. The error
	// says that the connection is of no more use.
	discard() (int, error)
}

// maxDiscard is how much a peer may send unasked until that is an error.
const maxDiscard = 1 << 16

var errChatter = errors.New("the peer does not stop sending")

// netConn is a network connection.
type netConn struct{ net.Conn }

func (c netConn) discard() (int, error) {
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return 0, err
	}
	if socket, ok := c.Conn.(syscall.Conn); ok {
		raw, err := socket.SyscallConn()
		if err != nil {
			return 0, err
		}
		return discardRaw(c.Conn, raw)
	}
	return discardFor(c.Conn, time.Millisecond)
}

// discardFor drops what comes within d.
func discardFor(c net.Conn, d time.Duration) (dropped int, err error) {
	if err := c.SetReadDeadline(time.Now().Add(d)); err != nil {
		return 0, err
	}
	var b [512]byte
	for dropped < maxDiscard {
		n, err := c.Read(b[:])
		dropped += n
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return dropped, c.SetReadDeadline(time.Time{})
		case err != nil:
			return dropped, err
		}
	}
	return dropped, errChatter
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

// interrupt makes reads and writes on c fail once ctx ends, until the function
// that it returns is called.
func interrupt(ctx context.Context, c conn) (end func()) {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		if err := c.SetDeadline(longAgo); err != nil {
			c.Close()
		}
	})
	return func() {
		if stop() {
			return
		}
		<-done
		if err := c.SetDeadline(time.Time{}); err != nil {
			c.Close()
		}
	}
}

// read reads from c, by the deadline unless that is zero, and not beyond the
// end of ctx, which interrupts c.
func read(ctx context.Context, c conn, b []byte, deadline time.Time) (int, error) {
	if err := c.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	if ctx.Err() != nil { // the deadline may have been set over that of interrupt
		return 0, os.ErrDeadlineExceeded
	}
	return c.Read(b)
}

// send writes all of b to c. The error says whether nothing was sent.
func send(c conn, b []byte) error {
	n, err := c.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	switch {
	case err == nil:
		return nil
	case n == 0:
		err = notDone(err)
	}
	return fmt.Errorf("sending: %w", err)
}

// pause waits for d; false if ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
