package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// request is what the tests of the client ask for.
var request = Request{Unit: 17, Function: ReadHolding, Address: 7, Count: 2}

// peer is the other end of a client's connection, which says what the test
// wants. Its methods may be called from other goroutines.
type peer struct {
	net.Conn
	t *testing.T
}

// next reads one request and returns its transaction.
func (p peer) next() uint16 {
	p.t.Helper()
	var b frameBuffer
	f, err := b.read(p)
	if err != nil {
		p.t.Errorf("peer: reading a request: %v", err)
	}
	return f.transaction
}

func (p peer) say(transaction uint16, unit byte, pdu ...byte) {
	p.t.Helper()
	var b frameBuffer
	if _, err := p.Write(seal(append(b.header(transaction, unit), pdu...))); err != nil {
		p.t.Errorf("peer: answering: %v", err)
	}
}

// scripted returns a client whose n-th connection is played by scripts[n], and
// a function that waits for the scripts' end.
func scripted(t *testing.T, o ClientOptions, scripts ...func(p peer)) (*Client, func()) {
	t.Helper()
	var playing sync.WaitGroup
	n := 0
	o.Dial = func(context.Context, string) (net.Conn, error) {
		if n == len(scripts) {
			return nil, errors.New("no further connection is in the script")
		}
		near, far := net.Pipe()
		script := scripts[n]
		n++
		playing.Go(func() {
			script(peer{far, t})
			far.Close()
		})
		return near, nil
	}
	c := NewClient("peer", o)
	return c, func() {
		c.Close()
		playing.Wait()
		if n != len(scripts) {
			t.Errorf("%d connections were made, want %d", n, len(scripts))
		}
	}
}

func good(p peer) {
	p.say(p.next(), 17, 3, 4, 0, 1, 0, 2)
}

func wantGood(t *testing.T, c *Client) {
	t.Helper()
	if got, err := c.Do(t.Context(), request); err != nil || !cmp.Equal(got, []uint16{1, 2}) {
		t.Errorf("got %v, %v; want the words 1, 2", got, err)
	}
}

// TestLateAnswers: what comes late to a request that was given up is never
// taken for the answer to a later one, on the same connection or not.
func TestLateAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		late := make(chan uint16, 1)
		c, end := scripted(t, ClientOptions{}, func(p peer) {
			late <- p.next()
			if n, err := p.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("after the timeout the client sent %d bytes on the old connection, %v", n, err)
			}
		}, func(p peer) {
			// A gateway passes the old answer on to the new connection.
			transaction := p.next()
			p.say(<-late, 17, 3, 4, 0, 9, 0, 9)
			p.say(transaction-1, 17, 3, 4, 0, 9, 0, 9)
			p.say(0, 17, 0x83, 2)
			p.say(transaction, 17, 3, 4, 0, 1, 0, 2)
			good(p)
		})
		defer end()
		start := time.Now()
		if _, err := c.Do(t.Context(), request); !errors.Is(err, ErrNoAnswer) || errors.Is(err, ErrAnswer) {
			t.Errorf("silence: %v, want ErrNoAnswer", err)
		}
		if d := time.Since(start); d < DefaultTimeout || d > DefaultTimeout+10*time.Millisecond { // what lay in the pipe was looked for
			t.Errorf("gave up after %v, want %v", d, DefaultTimeout)
		}
		wantGood(t, c)
		wantGood(t, c)
	})
}

// TestBadAnswers: each is an error and ends the connection, and the next
// request does well on a new one.
func TestBadAnswers(t *testing.T) {
	transaction := func(f func(p peer, transaction uint16)) func(peer) {
		return func(p peer) { f(p, p.next()) }
	}
	for _, c := range []struct {
		name   string
		script func(p peer)
		want   []error
		text   string
	}{
		{"another unit", transaction(func(p peer, n uint16) { p.say(n, 18, 3, 4, 0, 1, 0, 2) }), []error{ErrAnswer}, "it is of unit 18"},
		{"another function", transaction(func(p peer, n uint16) { p.say(n, 17, 4, 4, 0, 1, 0, 2) }), []error{ErrAnswer}, "function 04"},
		{"exception of another function", transaction(func(p peer, n uint16) { p.say(n, 17, 0x84, 2) }), []error{ErrAnswer}, "function 84"},
		{"fewer words", transaction(func(p peer, n uint16) { p.say(n, 17, 3, 2, 0, 1) }), []error{ErrAnswer}, "do not hold 2 registers"},
		{"more words", transaction(func(p peer, n uint16) { p.say(n, 17, 3, 6, 0, 1, 0, 2, 0, 3) }), []error{ErrAnswer}, "do not hold 2 registers"},
		{"wrong byte count", transaction(func(p peer, n uint16) { p.say(n, 17, 3, 6, 0, 1, 0, 2) }), []error{ErrAnswer}, "do not hold 2 registers"},
		{"long exception", transaction(func(p peer, n uint16) { p.say(n, 17, 0x83, 2, 0) }), []error{ErrAnswer}, "exception of 3 bytes"},
		{"another protocol", transaction(func(p peer, n uint16) { p.Write([]byte{byte(n >> 8), byte(n), 0, 1, 0, 3, 17, 3, 2}) }), []error{ErrAnswer}, "protocol 1"},
		{"oversized frame", transaction(func(p peer, n uint16) { p.Write([]byte{byte(n >> 8), byte(n), 0, 0, 0, 255, 17}) }), []error{ErrAnswer}, "length 255"},
		{"frame without a function", transaction(func(p peer, n uint16) { p.Write([]byte{byte(n >> 8), byte(n), 0, 0, 0, 1, 17}) }), []error{ErrAnswer}, "length 1"},
		{"garbage", transaction(func(p peer, _ uint16) { p.Write([]byte("HTTP/1.1 400 Bad Request")) }), []error{ErrAnswer}, "no Modbus TCP frame"},
		{"closed at once", transaction(func(peer, uint16) {}), []error{ErrNoAnswer}, "the connection was closed"},
		{"closed within the header", transaction(func(p peer, n uint16) { p.Write([]byte{byte(n >> 8), byte(n), 0}) }), []error{io.ErrUnexpectedEOF}, ""},
		{"closed within the words", transaction(func(p peer, n uint16) { p.Write([]byte{byte(n >> 8), byte(n), 0, 0, 0, 7, 17, 3, 4, 0}) }), []error{io.ErrUnexpectedEOF}, ""},
		{
			"half a frame, then silence", transaction(func(p peer, n uint16) {
				p.Write([]byte{byte(n >> 8), byte(n), 0, 0, 0, 7, 17, 3, 4, 0})
				p.Read(make([]byte, 1))
			}),
			[]error{ErrNoAnswer},
			"no answer within 3s",
		},
		{
			"only other transactions, then silence", transaction(func(p peer, n uint16) {
				p.say(n-1, 17, 3, 4, 0, 1, 0, 2)
				p.say(n+1, 17, 3, 4, 0, 1, 0, 2)
				p.Read(make([]byte, 1))
			}),
			[]error{ErrNoAnswer, ErrAnswer},
			"2 of other transactions",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, end := scripted(t, ClientOptions{}, c.script, good)
				defer end()
				got, err := client.Do(t.Context(), request)
				for _, want := range c.want {
					if !errors.Is(err, want) {
						t.Errorf("got %v, %v; want %v", got, err, want)
					}
				}
				if err == nil || !strings.Contains(err.Error(), c.text) || !strings.HasPrefix(err.Error(), "reading 2 registers at 7 of unit 17 (function 03): ") {
					t.Errorf("error %v; want the request and %q in it", err, c.text)
				}
				wantGood(t, client)
			})
		})
	}
}

func TestExceptionKeepsTheConnection(t *testing.T) {
	c, end := scripted(t, ClientOptions{}, func(p peer) {
		p.say(p.next(), 17, 0x83, 6)
		good(p)
	})
	defer end()
	var no ExceptionError
	if _, err := c.Do(t.Context(), request); !errors.As(err, &no) || no != ErrBusy {
		t.Errorf("got %v, want ErrBusy", err)
	}
	wantGood(t, c)
}

func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, end := scripted(t, ClientOptions{Timeout: time.Hour}, func(p peer) {
			p.next()
			p.Read(make([]byte, 1))
		}, good)
		defer end()
		ctx, cancel := context.WithCancel(t.Context())
		var first error
		var waiting sync.WaitGroup
		waiting.Go(func() { _, first = c.Do(ctx, request) })
		synctest.Wait()

		// A second request must wait for the first, but only as long as it wants to.
		short, cancelShort := context.WithTimeout(t.Context(), time.Second)
		defer cancelShort()
		start := time.Now()
		if _, err := c.Do(short, request); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("waiting for its turn: %v after %v", err, time.Since(start))
		}
		cancel()
		waiting.Wait()
		if !errors.Is(first, context.Canceled) || errors.Is(first, ErrNoAnswer) || time.Since(start) != time.Second {
			t.Errorf("cancelled: %v after %v", first, time.Since(start))
		}
		wantGood(t, c)
	})
}

func TestOneRequestAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		c, end := scripted(t, ClientOptions{}, func(p peer) {
			for range n {
				transaction := p.next()
				time.Sleep(10 * time.Millisecond) // virtual; a second request would arrive meanwhile
				p.SetReadDeadline(time.Now())
				if n, _ := p.Read(make([]byte, 1)); n != 0 {
					t.Error("a second request was sent before the first was answered")
				}
				p.SetReadDeadline(time.Time{})
				p.say(transaction, 17, 3, 4, 0, 1, 0, 2)
			}
		})
		defer end()
		var all sync.WaitGroup
		for range n {
			all.Go(func() { wantGood(t, c) })
		}
		all.Wait()
	})
}

func TestRefusedWithoutSending(t *testing.T) {
	c, end := scripted(t, ClientOptions{}) // no connection is in the script
	defer end()
	for _, r := range []Request{{Function: ReadHolding, Count: 126}, {Function: WriteMultiple}, {Function: 1, Count: 1}} {
		if _, err := c.Do(t.Context(), r); !errors.Is(err, ErrRequest) {
			t.Errorf("%v: %v, want ErrRequest", r, err)
		}
	}
}

func TestConnecting(t *testing.T) {
	refused := errors.New("refused")
	c := NewClient("there", ClientOptions{Dial: func(ctx context.Context, address string) (net.Conn, error) {
		if _, ok := ctx.Deadline(); !ok || address != "there" {
			t.Errorf("dialling %q, with a deadline: %v", address, ok)
		}
		return nil, refused
	}})
	if _, err := c.Do(t.Context(), request); !errors.Is(err, refused) || !strings.Contains(err.Error(), "connecting: refused") {
		t.Errorf("got %v", err)
	}
}

// TestTransactionsDiffer: they go on over a new connection, so that an answer
// to the former one never fits.
func TestTransactionsDiffer(t *testing.T) {
	seen := map[uint16]bool{}
	script := func(p peer) {
		var b [12]byte
		io.ReadFull(p, b[:])
		n := binary.BigEndian.Uint16(b[:])
		if seen[n] {
			t.Errorf("transaction %d is used again", n)
		}
		seen[n] = true
	}
	c, end := scripted(t, ClientOptions{}, script, script, script, script)
	defer end()
	for range 4 {
		if _, err := c.Do(t.Context(), request); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("got %v", err)
		}
	}
}

// TestPaceOfARequest: a request that brings a pace of its own is waited for, and
// waits after a connection, for as long as that says; others on the same
// connection are not.
func TestPaceOfARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, end := scripted(t, ClientOptions{Timeout: time.Second}, func(p peer) {
			good(p)
			good(p)
			good(p)
			p.next()
			_, _ = p.Read(make([]byte, 1)) // no answer
		}, func(p peer) {
			transaction := p.next()
			time.Sleep(4 * time.Second)
			p.say(transaction, 17, 3, 4, 0, 1, 0, 2)
		})
		defer end()
		slow := request
		slow.Pace = Pace{Connect: 2 * time.Second, Timeout: 5 * time.Second}
		start := time.Now()
		passed := func(want time.Duration) {
			t.Helper()
			if d := time.Since(start); d < want || d > want+10*time.Millisecond {
				t.Errorf("after %v, want %v", d, want)
			}
		}
		wantGood(t, c)
		passed(0)
		for range 2 {
			if _, err := c.Do(t.Context(), slow); err != nil {
				t.Error(err)
			}
			passed(2 * time.Second)
		}
		if _, err := c.Do(t.Context(), request); err == nil || !strings.Contains(err.Error(), "within 1s") {
			t.Errorf("no answer: %v", err)
		}
		passed(3 * time.Second)
		if _, err := c.Do(t.Context(), slow); err != nil {
			t.Error(err)
		}
		passed(9 * time.Second)
	})
}

// TestIdle: a connection that nobody needs for a while is given up, so that others
// can have it; the next request makes a new one.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Duration, 1)
		start := time.Now()
		c, end := scripted(t, ClientOptions{Idle: 2 * time.Second}, func(p peer) {
			good(p)
			good(p)
			_, err := p.Read(make([]byte, 1))
			ended <- time.Since(start)
			if !errors.Is(err, io.EOF) {
				t.Errorf("the connection ended with %v", err)
			}
		}, good)
		defer end()
		wantGood(t, c)
		time.Sleep(1500 * time.Millisecond)
		wantGood(t, c)
		if got := <-ended; got.Round(10*time.Millisecond) != 3500*time.Millisecond {
			t.Errorf("the connection was given up after %v, want 3.5 s", got)
		}
		wantGood(t, c)
	})
}
