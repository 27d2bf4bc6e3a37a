package modbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"go.bug.st/serial"
)

// Parity is the check of each character on a serial line.
type Parity byte

// The parities.
const (
	NoParity Parity = iota
	EvenParity
	OddParity
)

func (p Parity) String() string {
	switch p {
	case NoParity:
		return "none"
	case EvenParity:
		return "even"
	case OddParity:
		return "odd"
	}
	return fmt.Sprintf("parity %d", byte(p))
}

// DefaultBaud is the speed at which most inverters are delivered. The standard
// says 19200 with even parity (Modbus over Serial Line V1.02, section 2.5.1).
const DefaultBaud = 9600

// Line says what a serial line is and how characters stand on it. They have 8
// data bits, as RTU frames need.
type Line struct {
	Device     string        // path of the port, as /dev/serial/by-id/…
	Baud       int           // DefaultBaud when 0
	Parity     Parity        // NoParity when 0
	StopBits   int           // 1 or 2; 1 when 0
	Turnaround time.Duration // silence before each request in addition to that of the standard, for RS-485 adapters that are slow to let go of the line
}

// Open opens the port for this program alone. It can serve Server.ServeLine.
func (l Line) Open() (io.ReadWriteCloser, error) {
	p, err := l.open()
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (l Line) open() (*port, error) {
	mode := &serial.Mode{BaudRate: cmp.Or(l.Baud, DefaultBaud), DataBits: 8}
	switch l.Parity {
	case NoParity:
		mode.Parity = serial.NoParity
	case EvenParity:
		mode.Parity = serial.EvenParity
	case OddParity:
		mode.Parity = serial.OddParity
	}
	if l.StopBits == 2 {
		mode.StopBits = serial.TwoStopBits
	}
	opened, err := serial.Open(l.Device, mode)
	if err != nil {
		if refusal, ok := errors.AsType[*serial.PortError](err); ok && refusal.Code() == serial.PermissionDenied {
			err = fmt.Errorf("%w: put the user of this program into the group that owns it, mostly dialout", err)
		}
		return nil, fmt.Errorf("opening %s: %w", l.Device, err)
	}
	return &port{Port: opened}, nil
}

// silence is how long a line is silent between two frames: 3.5 characters of 11
// bits, or 1.75 ms above 19200 baud (Modbus over Serial Line V1.02, section
// 2.5.1.1).
func silence(baud int) time.Duration {
	if baud > 19200 {
		return 1750 * time.Microsecond
	}
	return 7 * 11 * time.Second / time.Duration(2*baud)
}

// NewSerialClient returns a client of the units on a serial line, which it
// opens when there is something to ask. The port stays open when an answer does
// not come or does not fit; what is done about late answers is said at
// NewRTUClient.
//
// A line that brings back what is sent on it, as some RS-485 adapters let it,
// is noticed at the first request that is not of function 06.
func NewSerialClient(l Line, o ClientOptions) *Client {
	return newSerialClient(l, o, l.open)
}

func newSerialClient(l Line, o ClientOptions, open func() (*port, error)) *Client {
	o.Timeout = cmp.Or(o.Timeout, DefaultSerialTimeout)
	o = o.withDefaults()
	framing := &rtu{timeout: o.Timeout, quiet: o.Quiet, silence: silence(cmp.Or(l.Baud, DefaultBaud)) + l.Turnaround}
	c := newClient(o, framing, func(context.Context) (conn, error) {
		p, err := open()
		if err != nil {
			return nil, err
		}
		return p, nil
	})
	c.sturdy = true
	return c
}

// maxWait is how long a read of a port may go on after its deadline was changed.
const maxWait = 50 * time.Millisecond

// port is a serial port with deadlines for reads. A write takes no time that is
// worth one: the driver's buffer has room for many frames.
type port struct {
	serial.Port

	mu       sync.Mutex // guards deadline
	deadline time.Time
}

// Read reads what has come, or waits for the first byte.
func (p *port) Read(b []byte) (int, error) {
	for {
		p.mu.Lock()
		deadline := p.deadline
		p.mu.Unlock()
		wait := maxWait
		if !deadline.IsZero() {
			wait = min(wait, time.Until(deadline))
		}
		if wait <= 0 {
			return 0, os.ErrDeadlineExceeded
		}
		if err := p.SetReadTimeout(wait); err != nil {
			return 0, err
		}
		if n, err := p.Port.Read(b); n > 0 || err != nil {
			return n, err
		}
	}
}

func (p *port) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	return nil
}

func (p *port) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

// discard also drops what could not be sent so far, because the line is stuck.
func (p *port) discard() (int, error) {
	return 0, errors.Join(p.ResetInputBuffer(), p.ResetOutputBuffer())
}
