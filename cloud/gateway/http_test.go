package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"ecowatt/wire"
)

func TestHTTPRules(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	r := d.seal(wire.Request{})
	request := func(method, path, contentType string, body io.Reader) *http.Request {
		x := httptest.NewRequest(method, path, body)
		if contentType != "" {
			x.Header.Set("Content-Type", contentType)
		}
		return x
	}
	c.unchanged("what is not of the protocol", func() {
		for _, x := range []struct {
			name                      string
			method, path, contentType string
			status                    int
		}{
			{"GET", "GET", wire.PathExchange, wire.ContentType, 405},
			{"PUT", "PUT", wire.PathSession, wire.ContentType, 405},
			{"HEAD", "HEAD", wire.PathSession, wire.ContentType, 405},
			{"another path", "POST", "/v1/other", wire.ContentType, 404},
			{"no path", "POST", "/", wire.ContentType, 404},
			{"a path below", "POST", wire.PathExchange + "/x", wire.ContentType, 404},
			{"no content type", "POST", wire.PathExchange, "", 400},
			{"JSON", "POST", wire.PathExchange, "application/json", 400},
			{"another version", "POST", wire.PathExchange, "application/vnd.ecowatt.v2", 400},
			{"with a parameter", "POST", wire.PathExchange, wire.ContentType + "; charset=utf-8", 400},
		} {
			got := c.do(request(x.method, x.path, x.contentType, bytes.NewReader(r.bytes)))
			c.formal(got, x.name)
			e, err := wire.ParseError(got.body)
			if got.status != x.status || err != nil || e.Code != wire.CodeMalformed {
				t.Errorf("%s: %v", x.name, got)
			}
			if x.status == 405 && got.header.Get("Allow") != "POST" {
				t.Errorf("%s: Allow is %q", x.name, got.header.Get("Allow"))
			}
		}
		broken := request("POST", wire.PathExchange, wire.ContentType, io.MultiReader(bytes.NewReader(r.bytes[:50]), iotest.ErrReader(io.ErrUnexpectedEOF)))
		c.err(c.do(broken), "a connection that breaks", wire.CodeMalformed)
	})
	d.opened(r, d.send(r))
}

// TestTooLarge: memory is bounded by what arrives and by the limit.
//
// Attacks: W8
func TestTooLarge(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	start := d.seal(wire.Request{}).bytes[:wire.HeaderSize]
	post := func(path string, length int64, body io.Reader) reply {
		r := httptest.NewRequest(http.MethodPost, path, body)
		r.ContentLength = length
		r.Header.Set("Content-Type", wire.ContentType)
		return c.do(r)
	}
	endless := func() *counted { return &counted{Reader: io.MultiReader(bytes.NewReader(start), zeros{})} }
	c.unchanged("what is too large", func() {
		body := endless()
		c.err(post(wire.PathExchange, wire.MaxRequest+1, body), "announced", wire.CodeTooLarge)
		c.err(post(wire.PathSession, 1<<40, body), "announced, to the other path", wire.CodeTooLarge)
		if body.n != 0 {
			t.Errorf("%d bytes were read of what announced itself as too large", body.n)
		}
		c.err(post(wire.PathExchange, -1, body), "endless", wire.CodeTooLarge)
		if body.n > wire.MaxRequest+1 {
			t.Errorf("%d bytes were read", body.n)
		}
		body = endless()
		c.err(post(wire.PathSession, -1, body), "endless, to the other path", wire.CodeMalformed)
		if body.n > wire.HS1Size+1 {
			t.Errorf("%d bytes were read for a handshake", body.n)
		}
	})
	c.counted(map[wire.Reason]uint64{wire.ExchangeTooLarge: 3, wire.ExchangeFormat: 1})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 100 {
		post(wire.PathExchange, wire.MaxRequest, strings.NewReader("EW"))
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / 100; each > 64<<10 {
		t.Errorf("%d bytes were allocated on the word of a stranger", each)
	}
	longest := wire.RequestOverhead + (wire.MaxRequest-wire.RequestOverhead)/wire.PadUnit*wire.PadUnit
	biggest := append(bytes.Clone(start), make([]byte, longest-wire.HeaderSize)...)
	c.refused(c.post(wire.PathExchange, biggest), "the longest length that a request may have")
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

type counted struct {
	io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// TestOverTheWire runs the whole over a real server, with a chunked body that
// does not end among honest requests.
//
// Attacks: W8, R1
func TestOverTheWire(t *testing.T) {
	c := newCloud(t)
	server := httptest.NewServer(c.gateway)
	defer server.Close()
	d := c.add("roof-1")
	post := func(path string, msg []byte) reply {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+path, bytes.NewReader(msg))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", wire.ContentType)
		response, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return reply{response.StatusCode, response.Header, body}
	}
	i, hs1 := d.hello()
	d.finish(i, post(wire.PathSession, hs1))
	r := d.seal(wire.Request{Messages: []wire.Message{d.block(start, 2, 1)}})
	if a := d.opened(r, post(wire.PathExchange, r.bytes)); a.Results[0].Status != wire.Stored {
		t.Errorf("answer %+v", a)
	}
	c.refused(post(wire.PathExchange, r.bytes), "a replay")

	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", wire.PathExchange, wire.ContentType)
	go func() {
		for {
			if _, err := fmt.Fprintf(conn, "1000\r\n%s\r\n", strings.Repeat("E", 0x1000)); err != nil {
				return
			}
		}
	}()
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("an endless body: %v", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("an endless body: %v", response.Status)
	}
}

// TestDeviceHangsUp: whoever does not wait for the answer raises no alarm, and
// what was committed in the meantime is a duplicate later.
func TestDeviceHangsUp(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	m := d.block(start, 1, 1)
	r := d.seal(wire.Request{Messages: []wire.Message{m}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x := httptest.NewRequestWithContext(ctx, http.MethodPost, wire.PathExchange, bytes.NewReader(r.bytes))
	x.Header.Set("Content-Type", wire.ContentType)
	c.do(x)
	if strings.Contains(c.log.String(), "level=ERROR") {
		t.Errorf("an alarm:\n%s", c.log.String())
	}
	if got := d.say(m)[0].Status; got != wire.Stored && got != wire.Duplicate {
		t.Errorf("status %v", got)
	}
	if got := d.samples(); len(got) != 1 {
		t.Errorf("samples %v", got)
	}
}

// TestStrangersLeaveNoTrace: ten thousand forged messages cause no row and
// no line above debug, and the honest device connects meanwhile.
//
// Attacks: H6
func TestStrangersLeaveNoTrace(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	forged := [][]byte{
		append(wire.Handshake(wire.HS1, d.id, d.epoch).Append(nil), make([]byte, 48)...),
		append(wire.Handshake(wire.HS1, [16]byte{9}, 1).Append(nil), make([]byte, 48)...),
		append(wire.Record(wire.REQ, d.SID, 1<<20).Append(nil), make([]byte, 112)...),
		append(wire.Record(wire.REQ, [16]byte{9}, 1).Append(nil), make([]byte, 112)...),
	}
	c.unchanged("forgeries", func() {
		for i := range 10000 {
			path := wire.PathSession
			if i%4 >= 2 {
				path = wire.PathExchange
			}
			forged[i%4][60] = byte(i)
			c.refused(c.post(path, forged[i%4]), "a forgery")
		}
	})
	for line := range strings.SplitSeq(strings.TrimSpace(c.log.String()), "\n") {
		if !strings.Contains(line, "level=DEBUG") {
			t.Fatalf("a line in the log: %s", line)
		}
	}
	if got := c.rows(`SELECT count(*) FROM audit`); got[0] != "[2]" {
		t.Errorf("%v records", got)
	}
	c.wait(time.Minute)
	d.connect()
	d.exchange(wire.Request{})
	c.counted(map[wire.Reason]uint64{wire.HandshakeBadTag: 2500, wire.HandshakeUnknownID: 2500, wire.ExchangeBadMAC: 2500, wire.ExchangeNoSession: 2500})
}
