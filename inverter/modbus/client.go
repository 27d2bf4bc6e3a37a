package modbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// DefaultTimeout is how long a client waits for an answer when nothing else is
// said: gateways and dongles take seconds.
const DefaultTimeout = 3 * time.Second

// DefaultSerialTimeout is the same on a serial line: a slow inverter takes more
// than half a second.
const DefaultSerialTimeout = time.Second

// DefaultQuiet is for how long nothing must come on a line of RTU frames after
// an error when nothing else is said. A unit that answers later than its
// timeout mostly does so by a fraction of a second.
const DefaultQuiet = 250 * time.Millisecond

// ClientOptions are the settings of a client. The zero value is good.
type ClientOptions struct {
	Timeout      time.Duration // of connecting, and then of each answer; DefaultTimeout when 0, DefaultSerialTimeout on a serial line
	ConnectDelay time.Duration // from a connection to the first request; some dongles need a second or two
	Idle         time.Duration // without a request, after which a TCP connection is given up; 0: never
	Quiet        time.Duration // of RTU frames, see NewRTUClient; DefaultQuiet when 0
	Key          Key           // the Authorization of NewHTTPClient
	Dial         func(ctx context.Context, address string) (net.Conn, error)
}

func (o ClientOptions) withDefaults() ClientOptions {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Quiet == 0 {
		o.Quiet = DefaultQuiet
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	return o
}

// framing is how requests and answers stand on a connection, and how the
// answer to a request is known.
type framing interface {
	// connected says that what follows is on a new connection.
	connected()
	// prepare makes sure that nothing of the past is on c when a request is
	// sent next. An error says that c is of no more use.
	prepare(ctx context.Context, c conn) error
	// exchange sends r and awaits its answer. The end of ctx interrupts c.
	exchange(ctx context.Context, c conn, r Request) ([]uint16, error)
}

// Client asks the units behind one connection. It connects when there is
// something to ask, and keeps the connection while all goes well. It never
// repeats a request.
//
// Several goroutines may use a client; their requests wait for each other,
// since many inverters answer only one at a time.
type Client struct {
	options ClientOptions
	connect func(ctx context.Context) (conn, error)
	framing framing
	sturdy  bool // the connection outlives answers that do not come or do not fit

	turn  chan struct{} // capacity 1; who has put something in owns what is below, and framing
	conn  conn          // nil when there is none
	since time.Time     // when it was made
	idle  *time.Timer   // gives it up; nil before there was a need
}

// NewClient returns a client of the Modbus TCP units at address (host:port). It
// does not connect yet. Close ends it.
//
// It gives the connection up after every error except an exception, and knows
// an answer by its transaction, so that a late one is never taken for another.
func NewClient(address string, o ClientOptions) *Client {
	return newNetClient(address, o, newMBAP())
}

// NewRTUClient returns a client of units that speak RTU frames at the TCP
// address (host:port), as behind a gateway that passes on the bytes of a serial
// line. It gives the connection up after every error except an exception.
//
// RTU frames do not tell to which request they answer. What is done about it,
// here as on a serial line:
//
//   - What has come before a request is sent is dropped; on a new connection,
//     and after an error, until nothing has come for the time Quiet.
//   - When a request was given up, and its answer may be taken for that to the
//     next one, the unit is first asked to read another number of registers.
//     Since units answer in the order in which they are asked, nothing late
//     comes after that. (When it refuses that, the line must become quiet again.)
//   - Two answers that differ are none.
func NewRTUClient(address string, o ClientOptions) *Client {
	o = o.withDefaults()
	return newNetClient(address, o, &rtu{timeout: o.Timeout, quiet: o.Quiet})
}

func newNetClient(address string, o ClientOptions, f framing) *Client {
	o = o.withDefaults()
	return newClient(o, f, func(ctx context.Context) (conn, error) {
		c, err := o.Dial(ctx, address)
		if err != nil {
			return nil, err
		}
		return netConn{c}, nil
	})
}

func newClient(o ClientOptions, f framing, connect func(context.Context) (conn, error)) *Client {
	return &Client{options: o, framing: f, connect: connect, turn: make(chan struct{}, 1)}
}

// Do carries out r, whose answer must come within the client's timeout and
// before ctx ends, and returns the words read. The error wraps an ExceptionError
// when the unit said no, ErrRequest when r cannot be sent, ErrLine when it was
// not sent because there is no connection, ErrNoAnswer when nothing came in
// time, and ErrAnswer when something else came. NotExecuted tells whether a write
// may have been done.
func (c *Client) Do(ctx context.Context, r Request) ([]uint16, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, errWaiting(r, ctx.Err())
	}
	defer func() { <-c.turn }()

	got, err := c.do(ctx, r)
	c.rest()
	if err != nil {
		return nil, fmt.Errorf("%v: %w", r, err)
	}
	return got, nil
}

// rest gives the connection up when nothing is asked for the time Idle. The turn
// is the caller's. A request that comes at the same moment connects again.
func (c *Client) rest() {
	switch {
	case c.options.Idle <= 0 || c.sturdy || c.conn == nil:
	case c.idle == nil:
		c.idle = time.AfterFunc(c.options.Idle, func() {
			select {
			case c.turn <- struct{}{}:
				c.drop()
				<-c.turn
			default: // it is in use
			}
		})
	default:
		c.idle.Reset(c.options.Idle)
	}
}

// do carries out r; the turn is the caller's.
func (c *Client) do(ctx context.Context, r Request) ([]uint16, error) {
	pace := Pace{Connect: max(c.options.ConnectDelay, r.Pace.Connect), Timeout: cmp.Or(r.Pace.Timeout, c.options.Timeout)}
	if err := c.ready(ctx, pace); err != nil {
		if ctx.Err() != nil {
			return nil, notDone(ctx.Err())
		}
		return nil, fmt.Errorf("%w: %w", ErrLine, err)
	}
	limited, cancel := context.WithTimeout(ctx, pace.Timeout)
	defer cancel()
	end := interrupt(limited, c.conn)
	got, err := c.framing.exchange(limited, c.conn, r)
	end()
	if _, refused := errors.AsType[ExceptionError](err); err == nil || refused {
		return got, err
	}
	if !c.sturdy || !passing(err) {
		c.drop()
	}
	reason := reasonOf(ctx, limited, pace.Timeout, err)
	if NotExecuted(err) {
		reason = notDone(reason)
	}
	return nil, reason
}

// passing reports whether an error of an exchange leaves a serial port as good
// as it was.
func passing(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ErrAnswer)
}

// reasonOf is what err is due to: the end of one of the contexts, of which
// limited ends after a timeout, the end of the connection, or itself.
func reasonOf(ctx, limited context.Context, timeout time.Duration, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil && errors.Is(err, ErrAnswer):
		return fmt.Errorf("%w within %v, but %w", ErrNoAnswer, timeout, err)
	case limited.Err() != nil:
		return fmt.Errorf("%w within %v", ErrNoAnswer, timeout)
	case errors.Is(err, ErrAnswer):
		return err
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the connection was closed", ErrNoAnswer)
	}
	return fmt.Errorf("%w: %w", ErrNoAnswer, err)
}

// ready makes sure of a connection on which a request can be sent. One that
// has ended while it was idle, as gateways do to save memory, is replaced.
func (c *Client) ready(ctx context.Context, pace Pace) error {
	if c.conn != nil {
		if !pause(ctx, time.Until(c.since.Add(pace.Connect))) {
			return ctx.Err()
		}
		if err := c.prepare(ctx); err == nil || ctx.Err() != nil {
			return err
		}
		c.drop()
	}
	limited, cancel := context.WithTimeout(ctx, pace.Timeout)
	defer cancel()
	conn, err := c.connect(limited)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	c.conn, c.since = conn, time.Now()
	c.framing.connected()
	if !pause(ctx, pace.Connect) {
		return ctx.Err()
	}
	if err := c.prepare(ctx); err != nil {
		c.drop()
		return err
	}
	return nil
}

func (c *Client) prepare(ctx context.Context) error {
	defer interrupt(ctx, c.conn)()
	return c.framing.prepare(ctx, c.conn)
}

func (c *Client) drop() {
	if c.idle != nil {
		c.idle.Stop()
	}
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// Close gives up the connection, after the request that is under way. The
// client can be used on; it connects again then.
func (c *Client) Close() error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.drop()
	return nil
}
