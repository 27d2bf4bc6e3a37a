package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ecowatt/cloud/gateway"
	"ecowatt/key"
	"ecowatt/wire"
)

// limited makes a gateway with the limits that it has by default.
func (c *cloud) limited(edit func(o *gateway.Options)) {
	c.t.Helper()
	o := c.options()
	o.HandshakeRate = 0
	edit(&o)
	g, err := gateway.New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.gateway = g
}

// postFrom posts a message from an address, by way of a proxy that names it
// where forwarded is not empty.
func (c *cloud) postFrom(address, forwarded, path string, msg []byte) reply {
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(msg))
	r.Header.Set("Content-Type", wire.ContentType)
	r.RemoteAddr = address + ":1234"
	if forwarded != "" {
		r.Header.Set("X-Forwarded-For", forwarded)
	}
	return c.do(r)
}

// forgedHS1 is an HS1 with the id of a device and nothing else that is right.
func forgedHS1(d *device) []byte {
	return append(wire.Handshake(wire.HS1, d.id, d.epoch).Append(nil), make([]byte, 48)...)
}

// TestFloodFromOneAddress: a hundred at once, then 20 a second; the rest is told
// to wait before anything is read, and devices elsewhere and devices with a
// session notice nothing.
//
// Attacks: H6
func TestFloodFromOneAddress(t *testing.T) {
	c := newCloud(t)
	d, other := c.connected("roof-1"), c.add("roof-2")
	c.limited(func(*gateway.Options) {})
	forged := forgedHS1(d)
	flood := func(n int) (let int) {
		for range n {
			if r := c.postFrom("203.0.113.9", "198.51.100.7", wire.PathSession, forged); r.status == http.StatusUnauthorized {
				let++
			} else if e := c.err(r, "a flood", wire.CodeBusy); e.RetryAfter != time.Second {
				t.Fatalf("retry after %v", e.RetryAfter)
			}
		}
		return let
	}
	c.reads.Store(0)
	c.unchanged("a flood", func() {
		if let := flood(1000); let != 100 {
			t.Errorf("%d handshakes at once, want 100", let)
		}
	})
	if n := c.reads.Load(); n != 100 {
		t.Errorf("%d look-ups, want 100", n)
	}
	c.wait(time.Second)
	if let := flood(100); let != 20 {
		t.Errorf("%d handshakes a second later, want 20", let)
	}
	c.counted(map[wire.Reason]uint64{wire.HandshakeBadTag: 120, wire.HandshakeRate: 980})
	i, hs1 := other.hello()
	other.finish(i, c.postFrom("192.0.2.77", "", wire.PathSession, hs1))
	r := d.seal(wire.Request{})
	d.opened(r, c.postFrom("203.0.113.9", "", wire.PathExchange, r.bytes))
}

// TestFloodThroughAProxy: behind a proxy that is trusted, each client has a limit
// of its own.
func TestFloodThroughAProxy(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	c.limited(func(o *gateway.Options) {
		o.HandshakeRate, o.TrustedProxies = 1, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	})
	forged := forgedHS1(d)
	for n := range 20 {
		// What the stranger claims to come from changes, what the proxy adds does not.
		r := c.postFrom("203.0.113.9", fmt.Sprintf("10.0.0.%d, 198.51.100.7", n), wire.PathSession, forged)
		if want := http.StatusUnauthorized; n < 5 && r.status != want || n >= 5 && r.status != http.StatusTooManyRequests {
			t.Errorf("handshake %d: %v", n, r.status)
		}
	}
	i, hs1 := d.hello()
	d.finish(i, c.postFrom("203.0.113.9", "198.51.100.8", wire.PathSession, hs1))
	d.exchange(wire.Request{})
}

// TestForgeriesFromEverywhere: ten thousand forged handshakes, each from an
// address of its own, cause no row and no line in the log and keep no memory; an
// honest device connects and talks meanwhile.
//
// Attacks: H6
func TestForgeriesFromEverywhere(t *testing.T) {
	c := newCloud(t)
	d, other := c.connected("roof-1"), c.add("roof-2")
	var log lockedBuffer
	c.limited(func(o *gateway.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	flood := func(from, to int) {
		for n := from; n < to; n++ {
			forged := forgedHS1(d)
			forged[8] ^= byte(n % 2) // of an id that there is not
			forged[40] = byte(n)
			c.refused(c.postFrom(fmt.Sprintf("[2001:db8:%x:%x::1]", n>>8, n&0xff), "", wire.PathSession, forged), "a forgery")
		}
	}
	flood(0, 100) // whatever is made once
	before := heap()
	c.unchanged("forgeries", func() { flood(100, 10000) })
	if grown := heap() - before; grown > 256<<10 {
		t.Errorf("ten thousand forgeries keep %d bytes", grown)
	}
	c.counted(map[wire.Reason]uint64{wire.HandshakeBadTag: 5000, wire.HandshakeUnknownID: 5000})
	var wait sync.WaitGroup
	wait.Go(func() { flood(10000, 12000) })
	other.connect()
	for range 20 {
		other.exchange(wire.Request{})
		d.exchange(wire.Request{})
	}
	wait.Wait()
	if log.String() != "" {
		t.Errorf("the log says %s", log.String())
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestCrowdOnTheCurve: handshakes of rightful devices, more than there are cores
// and room to wait, do not hold up those who have a session. Who finds no room is
// told to come back, and nothing of his device has changed.
//
// Attacks: H15
func TestCrowdOnTheCurve(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	gate := &gatedReader{open: make(chan struct{})}
	c.limited(func(o *gateway.Options) { o.Random, o.HandshakeRate = gate, 1_000_000 })
	gate.shut.Store(true)
	crowd := runtime.GOMAXPROCS(0)*33 + 1 // one more than may work and wait
	hellos := make([][]byte, crowd)
	for n := range hellos {
		_, hellos[n] = c.add(fmt.Sprintf("roof-%d", n+2)).hello()
	}
	type answer struct {
		reply
		hs1 []byte
	}
	answers := make(chan answer, crowd)
	for _, hs1 := range hellos {
		go func() { answers <- answer{c.post(wire.PathSession, hs1), hs1} }()
	}
	late := <-answers
	if e := c.err(late.reply, "a crowd", wire.CodeBusy); e.RetryAfter != 5*time.Second {
		t.Errorf("retry after %v", e.RetryAfter)
	}
	for range 5 {
		d.exchange(wire.Request{})
	}
	c.counted(map[wire.Reason]uint64{wire.HandshakeRate: 1})
	close(gate.open)
	for range crowd - 1 {
		if a := <-answers; a.status != http.StatusOK {
			t.Errorf("a handshake that waited: %v", a.reply)
		}
	}
	if r := c.post(wire.PathSession, late.hs1); r.status != http.StatusOK {
		t.Errorf("the one that came back: %v", r)
	}
}

// TestMemoryForStrangers: what is allocated for a message that is refused does
// not grow with its length.
//
// Attacks: W8
func TestMemoryForStrangers(t *testing.T) {
	c := newCloud(t)
	c.limited(func(o *gateway.Options) { o.HandshakeRate = 1_000_000 })
	d := c.connected("roof-1")
	cost := func(path string, msg []byte, chunked bool) uint64 {
		var before, after runtime.MemStats
		const rounds = 50
		for n := range rounds + 1 {
			if n == 1 { // after whatever is made once
				runtime.ReadMemStats(&before)
			}
			r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(msg))
			r.Header.Set("Content-Type", wire.ContentType)
			if chunked {
				r.ContentLength = -1
			}
			if got := c.do(r); got.status == http.StatusOK {
				t.Fatal("accepted")
			}
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / rounds
	}
	short := append(wire.Record(wire.REQ, [16]byte{9}, 1).Append(nil), make([]byte, wire.RequestOverhead+wire.PadUnit-wire.HeaderSize)...)
	small := max(cost(wire.PathSession, forgedHS1(d), false), cost(wire.PathExchange, short, false))
	for name, msg := range map[string][]byte{
		"a long HS1":    append(forgedHS1(d), make([]byte, 256<<10-wire.HS1Size)...),
		"a longer HS1":  append(forgedHS1(d), make([]byte, 1<<20)...),
		"a long REQ":    append(wire.Record(wire.REQ, [16]byte{9}, 1).Append(nil), make([]byte, wire.RequestOverhead+4000*wire.PadUnit-wire.HeaderSize)...),
		"nothing of us": bytes.Repeat([]byte("<html>"), 40<<10),
	} {
		for _, chunked := range []bool{false, true} {
			for _, path := range []string{wire.PathSession, wire.PathExchange} {
				if big := cost(path, msg, chunked); big > small+8<<10 {
					t.Errorf("%s to %s, chunked %v: %d bytes are allocated, %d for a short one", name, path, chunked, big, small)
				}
			}
		}
	}
}

// TestMemoryForPromises: a length that is announced takes no memory before the
// bytes come, also from whoever knows the name of a session.
//
// Attacks: W8
func TestMemoryForPromises(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	start := d.seal(wire.Request{}).bytes[:wire.HeaderSize]
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const rounds = 50
	for range rounds {
		r := httptest.NewRequest(http.MethodPost, wire.PathExchange, bytes.NewReader(start))
		r.ContentLength = wire.RequestOverhead + 4000*wire.PadUnit
		r.Header.Set("Content-Type", wire.ContentType)
		c.err(c.do(r), "a broken promise", wire.CodeMalformed)
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / rounds; each > 64<<10 {
		t.Errorf("%d bytes are allocated for a length that was announced", each)
	}
}

// TestLongMessagesTogether: whoever knows the name of a session can make the
// gateway wait for long messages; what they take together is bounded, and short
// ones pass meanwhile.
//
// Attacks: W8
func TestLongMessagesTogether(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	start := d.seal(wire.Request{}).bytes[:wire.HeaderSize]
	const length = wire.RequestOverhead + 4000*wire.PadUnit
	const most = 64 << 20 / length
	slow := &slowBody{entered: make(chan struct{}), open: make(chan struct{})}
	long := func() reply {
		r := httptest.NewRequest(http.MethodPost, wire.PathExchange, io.MultiReader(bytes.NewReader(start), slow))
		r.ContentLength = length
		r.Header.Set("Content-Type", wire.ContentType)
		return c.do(r)
	}
	replies := make(chan reply, most)
	for range most {
		go func() { replies <- long() }()
		<-slow.entered
	}
	if e := c.err(long(), "one long message more", wire.CodeBusy); e.RetryAfter != 5*time.Second {
		t.Errorf("retry after %v", e.RetryAfter)
	}
	d.exchange(wire.Request{})
	close(slow.open)
	for range most {
		c.err(<-replies, "a message that is cut off", wire.CodeMalformed)
	}
	if r := long(); r.status != http.StatusBadRequest {
		t.Errorf("afterwards: %v", r)
	}
}

// slowBody says that it is read, and ends when it is open.
type slowBody struct{ entered, open chan struct{} }

func (b *slowBody) Read([]byte) (int, error) {
	select {
	case <-b.open:
	case b.entered <- struct{}{}:
		<-b.open
	}
	return 0, io.EOF
}

// gatedReader is a random source that hands out no key while it is shut.
type gatedReader struct {
	countingReader
	shut atomic.Bool
	open chan struct{}
}

func (r *gatedReader) Read(p []byte) (int, error) {
	if len(p) == key.Size && r.shut.Load() {
		<-r.open
	}
	return r.countingReader.Read(p)
}
