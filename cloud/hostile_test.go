package cloud

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt/cloud/keyring"
	"ecowatt/cloud/store"
)

// pipes is a listener in virtual time: connections are what dial makes.
type pipes struct {
	dialled chan net.Conn
	closed  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.dialled:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

func (*pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

func (p *pipes) dial() net.Conn {
	here, there := net.Pipe()
	p.dialled <- there
	return here
}

// TestTricklingMessages: whoever sends a byte now and then is cut off, and
// honest requests are answered meanwhile.
//
// Attacks: W8
func TestTricklingMessages(t *testing.T) {
	dir := t.TempDir()
	ring, err := keyring.Create(filepath.Join(dir, "keyring.json"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(t.Context(), filepath.Join(dir, "ecowatt.db"), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		listener := &pipes{make(chan net.Conn), make(chan struct{})}
		o, err := Options{Data: dir}.checked()
		if err != nil {
			t.Fatal(err)
		}
		s := &server{db: db, listener: listener, logger: o.Logger, draining: make(chan struct{})}
		if s.handler, err = s.newHandler(t.Context(), o, ring); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- s.run(ctx) }()

		const head = "POST /v1/exchange HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.ecowatt.v1\r\n"
		for _, c := range []struct {
			name, begins, goesOn string
			most                 time.Duration
		}{
			{"headers", "POST /v1/exchange HTTP/1.1\r\n", "X", 5 * time.Second},
			{"a body", head + "Content-Length: 144\r\n\r\n", "E", 20 * time.Second},
			{"a chunked body", head + "Transfer-Encoding: chunked\r\n\r\n", "1\r\nE\r\n", 20 * time.Second},
		} {
			if got := honest(t, listener.dial()); got != http.StatusUnauthorized {
				t.Fatalf("an honest request before: %d", got)
			}
			took := trickle(t, listener.dial(), c.begins, c.goesOn)
			if took < c.most/2 || took > c.most+time.Second {
				t.Errorf("%s: cut off after %v, want at most %v", c.name, took, c.most)
			}
			if got := honest(t, listener.dial()); got != http.StatusUnauthorized {
				t.Errorf("an honest request after: %d", got)
			}
		}
		stop()
		if err := <-stopped; err != nil {
			t.Errorf("the server stops with %v", err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// trickle sends begins and then goesOn every second, and returns after how long
// the other side has had enough.
func trickle(t *testing.T, conn net.Conn, begins, goesOn string) time.Duration {
	t.Helper()
	start := time.Now()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer conn.Close()
		for text := begins; ; text = goesOn {
			if _, err := io.WriteString(conn, text); err != nil {
				return
			}
			time.Sleep(time.Second) // virtual
		}
	}()
	_, err := io.Copy(io.Discard, conn) // an ERR, perhaps, and then the end
	if err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("reading: %v", err)
	}
	took := time.Since(start)
	conn.Close()
	<-ended
	return took
}

// honest makes a whole request at once and returns the status of the answer.
func honest(t *testing.T, conn net.Conn) int {
	t.Helper()
	defer conn.Close()
	fmt.Fprint(conn, "GET /api/v1/devices HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Error(err)
	}
	return resp.StatusCode
}

// TestNothingToLookInto: there are no pages for debugging, and the metrics take
// a token.
//
// Attacks: A8
func TestNothingToLookInto(t *testing.T) {
	c := start(t, Options{Data: t.TempDir()})
	for _, path := range []string{
		"/debug/", "/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/goroutine?debug=2", "/debug/vars", "/debug/requests",
		"/v1/", "/v1/debug/pprof/", "/api/debug/pprof/", "/keyring.json", "/ecowatt.db", "/token", "/../token", "/api/v1/keyring.json",
	} {
		if status, body := c.ask(http.MethodGet, path, "", ""); status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d %.100s", path, status, body)
		}
	}
	resp, err := http.Get("http://" + c.address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("metrics without a token: %d", resp.StatusCode)
	}
	if status, _ := c.ask(http.MethodGet, "/metrics", "", ""); status != http.StatusOK {
		t.Errorf("metrics with a token: %d", status)
	}
}

// TestGuessedTokens: a thousand wrong tokens are answered alike, leave no row
// and no line, and do not keep out who has the right one.
//
// Attacks: A12
func TestGuessedTokens(t *testing.T) {
	data := t.TempDir()
	var logs strings.Builder
	c := start(t, Options{Data: data, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	c.add("roof-1")
	_, log := c.ask(http.MethodGet, "/api/v1/audit", "", "")
	right := c.token()
	var first string
	for n := range 1000 {
		guess := []byte(right)
		guess[3+n%40] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[n%32] // after the prefix
		if string(guess) == right {
			continue
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+c.address+"/api/v1/devices", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+string(guess))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusUnauthorized {
			t.Fatalf("guess %d: %d, %v", n, resp.StatusCode, err)
		}
		if first == "" {
			first = string(body)
		}
		if string(body) != first {
			t.Fatalf("guess %d is answered in other words: %s", n, body)
		}
	}
	if status, after := c.ask(http.MethodGet, "/api/v1/audit", "", ""); status != http.StatusOK || after != log {
		t.Errorf("%d; the guesses are in the log:\n%s", status, after)
	}
	c.stop()
	if text := logs.String(); strings.Count(text, "\n") > 20 { // of starting and stopping
		t.Errorf("the guesses are told of:\n%.1000s", text)
	}
	if b, err := os.ReadFile(filepath.Join(data, "token")); err != nil || strings.TrimSpace(string(b)) != right {
		t.Errorf("the token was changed: %v", err)
	}
}

// TestLeakedToken follows docs/security.md: when the tokens are taken out of the
// database, the next start writes another one, and the leaked one is nobody's.
//
// Attacks: A1
func TestLeakedToken(t *testing.T) {
	data := t.TempDir()
	c := start(t, Options{Data: data})
	c.add("roof-1")
	leaked := c.token()
	c.stop()
	db, err := sqlite3.Open(filepath.Join(data, "ecowatt.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Exec(`DELETE FROM token`), db.Close()); err != nil {
		t.Fatal(err)
	}
	c = start(t, Options{Data: data})
	if c.token() == leaked {
		t.Fatal("the same token is written again")
	}
	if status, body := c.ask(http.MethodGet, "/api/v1/devices/roof-1", "", ""); status != http.StatusOK {
		t.Errorf("with the new token: %d %s", status, body)
	}
	if err := os.WriteFile(filepath.Join(data, "token"), []byte(leaked+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, body := c.ask(http.MethodGet, "/api/v1/devices/roof-1", "", ""); status != http.StatusUnauthorized {
		t.Errorf("with the leaked one: %d %s", status, body)
	}
}
