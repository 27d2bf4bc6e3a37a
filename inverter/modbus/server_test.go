package modbus

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// bank is a unit 17 with 20 registers, which hold their own address at first.
type bank struct {
	mu    sync.Mutex
	words [20]uint16
	asked []Request // what came to the handler
}

func newBank() *bank {
	b := &bank{}
	for i := range b.words {
		b.words[i] = uint16(i)
	}
	return b
}

func (b *bank) handle(_ context.Context, r Request) ([]uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked = append(b.asked, r)
	switch {
	case r.Unit == 99:
		return nil, ErrSilence
	case r.Unit == 98:
		return nil, errors.New("out of order")
	case r.Unit == 97:
		return []uint16{1}, nil // one, whatever was asked
	case r.Unit != 17:
		return nil, ErrGatewayTarget
	case int(r.Address)+r.Quantity() > len(b.words):
		return nil, ErrIllegalAddress
	case r.Values != nil:
		copy(b.words[r.Address:], r.Values)
		return nil, nil
	}
	return append([]uint16(nil), b.words[r.Address:int(r.Address)+int(r.Count)]...), nil
}

// serve starts a server on loopback, which the test's end stops.
func serve(tb testing.TB, h Handler, o ServerOptions) (address string) {
	tb.Helper()
	return serveOn(tb, NewServer(h, o).Serve)
}

// serveRTU is serve for RTU over TCP.
func serveRTU(tb testing.TB, h Handler, o ServerOptions) (address string) {
	tb.Helper()
	return serveOn(tb, NewServer(h, o).ServeRTU)
}

func serveOn(tb testing.TB, serve func(context.Context, net.Listener) error) (address string) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- serve(ctx, l) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func dial(tb testing.TB, address string) net.Conn {
	tb.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	tb.Cleanup(func() { c.Close() })
	return c
}

// ask sends bytes and wants others back.
func ask(t *testing.T, c net.Conn, send, want string) {
	t.Helper()
	if _, err := c.Write(unhex(t, send)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(unhex(t, want)))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, unhex(t, want)) {
		t.Errorf("%s: answered % x, %v; want %s", send, got, err, want)
	}
}

func TestServer(t *testing.T) {
	b := newBank()
	c := dial(t, serve(t, b.handle, ServerOptions{}))
	for _, x := range []struct{ send, want string }{
		{"0001 0000 0006 11 03 0000 0002", "0001 0000 0007 11 03 04 0000 0001"},
		{"ffff 0000 0006 11 04 0013 0001", "ffff 0000 0005 11 04 02 0013"},
		{"0000 0000 0006 11 06 0002 abcd", "0000 0000 0006 11 06 0002 abcd"},
		{"0003 0000 000b 11 10 0003 0002 04 1234 5678", "0003 0000 0006 11 10 0003 0002"},
		{"0004 0000 0006 11 03 0002 0003", "0004 0000 0009 11 03 06 abcd 1234 5678"},
		// Exceptions.
		{"0005 0000 0006 11 01 0000 0001", "0005 0000 0003 11 81 01"},
		{"0006 0000 0002 11 2b", "0006 0000 0003 11 ab 01"},
		{"0007 0000 0006 11 03 0013 0002", "0007 0000 0003 11 83 02"},
		{"0008 0000 0006 11 03 ffff 0002", "0008 0000 0003 11 83 02"},
		{"0009 0000 0006 11 03 0000 0000", "0009 0000 0003 11 83 03"},
		{"000a 0000 0006 11 04 0000 007e", "000a 0000 0003 11 84 03"},
		{"000b 0000 0005 11 06 0002 ab", "000b 0000 0003 11 86 03"},
		{"000c 0000 0006 12 03 0000 0001", "000c 0000 0003 12 83 0b"},
		{"000d 0000 0006 62 03 0000 0001", "000d 0000 0003 62 83 04"},
		{"000e 0000 0006 61 03 0000 0002", "000e 0000 0003 61 83 04"},
		// No answer to the first, and the second is still in step.
		{"000f 0000 0006 63 03 0000 0001  0010 0000 0006 11 03 0000 0001", "0010 0000 0005 11 03 02 0000"},
	} {
		ask(t, c, x.send, x.want)
	}
	want := []Request{
		{Unit: 17, Function: WriteSingle, Address: 2, Values: []uint16{0xabcd}},
		{Unit: 17, Function: WriteMultiple, Address: 3, Values: []uint16{0x1234, 0x5678}},
	}
	if diff := cmp.Diff(want, b.asked[2:4]); diff != "" {
		t.Errorf("the handler was asked (-want +got):\n%s", diff)
	}
}

// TestServerSurvivesGarbage: whatever one connection sends, another is served.
func TestServerSurvivesGarbage(t *testing.T) {
	b := newBank()
	address := serve(t, b.handle, ServerOptions{Connections: 500})
	honest := dial(t, address)
	whole := unhex(t, "0001 0000 000b 11 10 0003 0002 04 0003 0004")
	random := rand.New(rand.NewPCG(1, 2))
	var all [][]byte
	for i := range whole {
		all = append(all, whole[:i]) // cut short
		for _, flip := range []byte{0x01, 0x80, 0xff} {
			changed := bytes.Clone(whole)
			changed[i] ^= flip
			all = append(all, changed)
		}
	}
	for range 100 {
		noise := make([]byte, random.IntN(600))
		for i := range noise {
			noise[i] = byte(random.Uint32())
		}
		all = append(all, noise)
	}
	for _, garbage := range all {
		c := dial(t, address)
		if _, err := c.Write(garbage); err != nil {
			continue
		}
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c) // until the server has had enough; a reset is fine as well
		c.Close()
		ask(t, honest, "0001 0000 0006 11 03 0000 0001", "0001 0000 0005 11 03 02 0000")
	}
}

func TestServerEndsTheConnectionAtWhatIsNoFrame(t *testing.T) {
	address := serve(t, newBank().handle, ServerOptions{})
	for _, bad := range []string{"0001 0001 0006 11 03 0000 0001", "0001 0000 00ff 11 03 0000 0001", "0001 0000 0001 11"} {
		c := dial(t, address)
		c.Write(unhex(t, bad))
		if got, _ := io.ReadAll(c); len(got) != 0 {
			t.Errorf("%s: answered % x", bad, got)
		}
	}
}

func TestServerLimitsConnections(t *testing.T) {
	address := serve(t, newBank().handle, ServerOptions{Connections: 2})
	const send, want = "0001 0000 0006 11 03 0000 0001", "0001 0000 0005 11 03 02 0000"
	first, second := dial(t, address), dial(t, address)
	ask(t, first, send, want)
	ask(t, second, send, want)
	third := dial(t, address)
	if n, err := third.Read(make([]byte, 1)); err == nil {
		t.Errorf("a connection too many: read %d bytes", n)
	}
	ask(t, first, send, want)
	first.Close()
	// The place becomes free as soon as the server sees the end.
	for deadline := time.Now().Add(10 * time.Second); ; {
		c := dial(t, address)
		c.Write(unhex(t, send))
		if n, _ := io.ReadFull(c, make([]byte, len(unhex(t, want)))); n > 0 {
			return
		}
		if c.Close(); time.Now().After(deadline) {
			t.Fatal("the place of a closed connection stays taken")
		}
	}
}

// pipeListener is a listener whose connections are given by the test.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		if c == nil {
			return nil, errors.New("too many open files")
		}
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

func TestServerTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- NewServer(newBank().handle, ServerOptions{Idle: time.Minute}).Serve(ctx, l) }()
		connect := func() net.Conn {
			near, far := net.Pipe()
			l.conns <- far
			return near
		}

		l.conns <- nil // an error of Accept is survived
		idle, half, busy, deaf := connect(), connect(), connect(), connect()
		start := time.Now()
		half.Write(unhex(t, "0001 0000 0006"))
		deaf.Write(unhex(t, "0001 0000 0006 11 03 0000 0001")) // and does not read the answer
		for range 3 {
			time.Sleep(30 * time.Second) // virtual
			ask(t, busy, "0001 0000 0006 11 03 0000 0001", "0001 0000 0005 11 03 02 0000")
		}
		for name, c := range map[string]net.Conn{"idle": idle, "half a frame": half, "not reading": deaf} {
			if n, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s: not ended after %v, read %d bytes", name, time.Since(start), n)
			}
		}

		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := busy.Read(make([]byte, 1)); err == nil {
			t.Error("a connection is open after the server's end")
		}
	})
}

func TestServeReturnsWhenTheListenerIsClosed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := NewServer(newBank().handle, ServerOptions{}).Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v, want net.ErrClosed", err)
	}
}

// TestServerRestart: the client comes back by itself.
func TestServerRestart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	client := NewClient(address, ClientOptions{})
	defer client.Close()
	read := func() ([]uint16, error) {
		return client.Do(t.Context(), Request{Unit: 17, Function: ReadHolding, Address: 7, Count: 2})
	}
	for round := range 3 {
		if round > 0 {
			if l, err = net.Listen("tcp", address); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- NewServer(newBank().handle, ServerOptions{}).Serve(ctx, l) }()
		if got, err := read(); err != nil || !cmp.Equal(got, []uint16{7, 8}) {
			t.Errorf("round %d: got %v, %v", round, got, err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
		for range 2 {
			if got, err := read(); err == nil {
				t.Errorf("round %d: read %v from a server that has ended", round, got)
			}
		}
	}
}
