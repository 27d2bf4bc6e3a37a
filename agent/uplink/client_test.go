package uplink

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ecowatt/wire"
)

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func client(t *testing.T, address string) *Client {
	t.Helper()
	c, err := NewClient(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestPost(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "a message" {
			t.Errorf("body %q, %v", body, err)
		}
		if r.Method != http.MethodPost || r.URL.Path != "/fleet/v1/session" {
			t.Errorf("%s %s", r.Method, r.URL.Path)
		}
		for name, want := range map[string]string{"Content-Type": wire.ContentType, "Cache-Control": "no-store", "Cookie": "", "Accept-Encoding": "", "Referer": ""} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		http.SetCookie(w, &http.Cookie{Name: "track", Value: "me"})
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, "an answer")
	})
	c := client(t, s.URL+"/fleet/")
	for range 2 { // the second one must not bring the cookie back
		reply, err := c.Post(t.Context(), wire.PathSession, []byte("a message"), 100)
		if err != nil || reply.Status != http.StatusTeapot || string(reply.Body) != "an answer" {
			t.Errorf("%+v, %v", reply, err)
		}
	}
}

// Attacks: W17
func TestRedirectsAreNotFollowed(t *testing.T) {
	var followed atomic.Int32
	elsewhere := serve(t, func(http.ResponseWriter, *http.Request) { followed.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, status) })
		reply, err := client(t, s.URL).Post(t.Context(), wire.PathExchange, []byte("x"), 100)
		if err != nil || reply.Status != status {
			t.Errorf("%d: %+v, %v", status, reply, err)
		}
	}
	if n := followed.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

func TestLongAnswersAreCut(t *testing.T) {
	endless := serve(t, func(w http.ResponseWriter, r *http.Request) {
		chunk := bytes.Repeat([]byte("EW"), 4096)
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	reply, err := client(t, endless.URL).Post(t.Context(), wire.PathExchange, nil, 1000)
	if err != nil || len(reply.Body) != 0 {
		t.Errorf("%d bytes, %v", len(reply.Body), err)
	}
	for n, want := range map[int]int{999: 999, 1000: 1000, 1001: 0} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, n)) })
		if reply, err := client(t, s.URL).Post(t.Context(), wire.PathExchange, nil, 1000); err != nil || len(reply.Body) != want {
			t.Errorf("an answer of %d: %d, %v", n, len(reply.Body), err)
		}
	}
	headers := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
		w.Write([]byte("EW"))
	})
	if _, err := client(t, headers.URL).Post(t.Context(), wire.PathExchange, nil, 1000); err == nil {
		t.Error("a megabyte of headers was read")
	}
}

// A connection that breaks off in the middle is no answer.
func TestBrokenAnswers(t *testing.T) {
	broken := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "500")
		w.Write(make([]byte, 100))
		panic(http.ErrAbortHandler)
	})
	if reply, err := client(t, broken.URL).Post(t.Context(), wire.PathExchange, nil, 1000); err == nil {
		t.Errorf("%+v", reply)
	}
	closed := serve(t, nil)
	closed.Close()
	if _, err := client(t, closed.URL).Post(t.Context(), wire.PathExchange, nil, 1000); err == nil {
		t.Error("an answer from nobody")
	}
	hung := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := client(t, hung.URL).Post(ctx, wire.PathExchange, nil, 1000); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestOverHTTP runs whole exchanges over a real connection.
func TestOverHTTP(t *testing.T) {
	start := time.Now()
	now := func() time.Duration { return time.Hour + time.Since(start) }
	d := &device{t: t, now: now, log: &lockedBuffer{}}
	c := credential(t, 1)
	d.cloud = newCloud(t, now, c)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		msg, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		reply := d.cloud.exchange
		if r.URL.Path == wire.PathSession {
			reply = d.cloud.session
		}
		answer := reply(msg)
		w.Header().Set("Content-Type", wire.ContentType)
		w.WriteHeader(answer.Status)
		w.Write(answer.Body)
	})
	u, err := New(Options{
		Transport: client(t, s.URL), Credential: c, Boot: boot, Now: now, Interval: time.Hour, Random: rand.Reader, Logger: discardLogger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	d.Uplink = u
	for range 3 {
		if a, err := d.exchange(); err != nil || len(a.Results) != 1 {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	clear(d.cloud.sessions)
	var refusal *RefusalError
	if _, err := d.exchange(); !errors.As(err, &refusal) {
		t.Errorf("%v", err)
	}
}

func TestAddresses(t *testing.T) {
	for _, good := range []string{"http://127.0.0.1:8080", "https://cloud.example", "https://cloud.example/fleet", "http://[::1]:80/"} {
		if _, err := NewClient(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "cloud.example", "ftp://cloud.example", "https://", "http://:8080", "https://cloud.example:port", "\x00"} {
		if _, err := NewClient(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// certificate makes a certificate for names, signed by itself.
func certificate(t *testing.T, notBefore, notAfter time.Time) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: notBefore, NotAfter: notAfter,
		DNSNames: []string{"cloud.example"}, IPAddresses: []net.IP{netip.MustParseAddr("127.0.0.1").AsSlice()}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, pool
}

// TestTLSWithoutAClock: whatever a gateway believes of the date, it reaches the
// cloud; a wrong name or an unknown authority it does not accept.
//
// Attacks: H18
func TestTLSWithoutAClock(t *testing.T) {
	now := time.Now()
	valid, roots := certificate(t, now.Add(-time.Hour), now.Add(time.Hour))
	future, futureRoots := certificate(t, now.AddDate(20, 0, 0), now.AddDate(21, 0, 0))
	past, pastRoots := certificate(t, now.AddDate(-21, 0, 0), now.AddDate(-20, 0, 0))
	for name, c := range map[string]struct {
		cert  tls.Certificate
		roots *x509.CertPool
		host  string
		good  bool
	}{
		"valid":                      {valid, roots, "127.0.0.1", true},
		"valid, by name":             {valid, roots, "cloud.example", true},
		"of the future: we are late": {future, futureRoots, "127.0.0.1", true},
		"of the past: we are early":  {past, pastRoots, "127.0.0.1", true},
		"another name":               {valid, roots, "other.example", false},
		"unknown authority":          {valid, pastRoots, "127.0.0.1", false},
	} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("EW")) }))
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		s.TLS = &tls.Config{Certificates: []tls.Certificate{c.cert}}
		s.StartTLS()
		u, err := url.Parse(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		k := client(t, "https://"+net.JoinHostPort(c.host, u.Port()))
		transport := k.http.Transport.(*http.Transport)
		transport.TLSClientConfig = clocklessTLS(c.host, c.roots)
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, u.Host)
		}
		reply, err := k.Post(t.Context(), wire.PathExchange, nil, 100)
		if (err == nil) != c.good || c.good && string(reply.Body) != "EW" {
			t.Errorf("%s: %+v, %v", name, reply, err)
		}
		k.Close()
		s.Close()
	}
}
