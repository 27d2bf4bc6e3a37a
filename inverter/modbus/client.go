package modbus

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// DefaultTimeout is how long a client waits for an answer when nothing else is
// said: gateways and dongles take seconds.
const DefaultTimeout = 3 * time.Second

// ClientOptions are the settings of a client.
type ClientOptions struct {
	Timeout time.Duration // of each request, connecting included; DefaultTimeout when 0
	Dial    func(ctx context.Context, address string) (net.Conn, error)
}

// Client asks the units behind one Modbus TCP address. It connects when there
// is something to ask, keeps the connection while all goes well, and gives it
// up after every error except an exception: nothing that is late on it can
// then be taken for an answer. It never repeats a request.
//
// Several goroutines may use a client; their requests wait for each other,
// since many inverters answer only one at a time.
type Client struct {
	address string
	timeout time.Duration
	dial    func(ctx context.Context, address string) (net.Conn, error)

	turn        chan struct{} // capacity 1; who has put something in owns what is below
	conn        net.Conn      // nil when there is none
	incoming    *bufio.Reader
	transaction uint16
	out, in     frameBuffer
}

// NewClient returns a client for the units at address (host:port). It does not
// connect yet. Close ends it.
func NewClient(address string, o ClientOptions) *Client {
	c := &Client{
		address: address,
		timeout: o.Timeout,
		dial:    o.Dial,
		turn:    make(chan struct{}, 1),
		// Gateways have been seen to pass on answers of former connections.
		transaction: uint16(rand.Uint32()),
	}
	if c.timeout == 0 {
		c.timeout = DefaultTimeout
	}
	if c.dial == nil {
		c.dial = func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	}
	return c
}

// Do carries out r, whose answer must come within the client's timeout and
// before ctx ends, and returns the words read. The error wraps an ExceptionError
// when the unit said no, ErrRequest when r cannot be sent, ErrNoAnswer when
// nothing came in time, and ErrAnswer when something else came.
func (c *Client) Do(ctx context.Context, r Request) ([]uint16, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%v: waiting for other requests: %w", r, ctx.Err())
	}
	defer func() { <-c.turn }()

	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	got, err := c.exchange(limited, r)
	var no ExceptionError
	if err != nil && !errors.As(err, &no) {
		c.drop()
		err = c.reason(ctx, limited, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%v: %w", r, err)
	}
	return got, nil
}

// reason is what err is due to: the end of one of the contexts, or itself.
func (c *Client) reason(ctx, limited context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil && errors.Is(err, ErrAnswer):
		return fmt.Errorf("%w within %v, but %w", ErrNoAnswer, c.timeout, err)
	case limited.Err() != nil:
		return fmt.Errorf("%w within %v", ErrNoAnswer, c.timeout)
	}
	return err
}

// exchange sends r and awaits its answer.
func (c *Client) exchange(ctx context.Context, r Request) ([]uint16, error) {
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	conn := c.conn
	stop := context.AfterFunc(ctx, func() {
		if err := conn.SetDeadline(time.Unix(1, 0)); err != nil {
			conn.Close()
		}
	})
	c.transaction++
	_, err := conn.Write(seal(appendRequest(c.out.header(c.transaction, r.Unit), r)))
	if err != nil {
		stop()
		return nil, fmt.Errorf("sending: %w", err)
	}
	got, err := c.await(r)
	if !stop() { // the connection has, or will have, no time left
		c.drop()
	}
	return got, err
}

// await reads until the answer to r comes. Answers to other transactions are
// late ones to requests that were given up, by us or by another client of the
// gateway: they are passed over.
func (c *Client) await(r Request) ([]uint16, error) {
	for passed := 0; ; passed++ {
		f, err := c.in.read(c.incoming)
		switch {
		case errors.Is(err, errFrame):
			return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
		case err != nil && passed > 0:
			return nil, fmt.Errorf("%w: %d of other transactions: %w", ErrAnswer, passed, err)
		case errors.Is(err, io.EOF):
			return nil, fmt.Errorf("%w: the connection was closed", ErrNoAnswer)
		case err != nil:
			return nil, fmt.Errorf("awaiting the answer: %w", err)
		case f.transaction != c.transaction:
			continue
		case f.unit != r.Unit:
			return nil, fmt.Errorf("%w: it is of unit %d", ErrAnswer, f.unit)
		}
		return parseAnswer(r, f.pdu)
	}
}

func (c *Client) connect(ctx context.Context) error {
	if c.conn != nil {
		return nil
	}
	conn, err := c.dial(ctx, c.address)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	c.conn, c.incoming = conn, bufio.NewReaderSize(conn, maxFrame)
	return nil
}

func (c *Client) drop() {
	if c.conn != nil {
		c.conn.Close()
		c.conn, c.incoming = nil, nil
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
