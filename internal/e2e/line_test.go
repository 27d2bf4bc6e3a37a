package e2e

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// reply is an HTTP answer.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// line is the way to the cloud, in the hands of somebody else: it records what
// passes, and may do with it what it wants.
type line struct {
	target  string // address of the cloud
	address string // of the line itself

	mu      sync.Mutex
	passed  map[string][][]byte // bodies of requests, by path
	answers []answer
	meddle  meddler
	going   int // messages that are on their way
}

// answer is what somebody was told, and to what.
type answer struct {
	method, path string
	status       int
	text         []byte // header and body
}

// meddler gets a message, may pass it on with ask, and returns what the device
// is to be told; false for nothing, the line is cut.
type meddler func(path string, body []byte, ask func() (reply, bool)) (reply, bool)

// newLine starts a line to a cloud. It is closed when the test ends.
func newLine(t *testing.T, target string) *line {
	t.Helper()
	l := &line{target: target, passed: map[string][][]byte{}}
	s := httptest.NewServer(l)
	t.Cleanup(s.Close)
	l.address = strings.TrimPrefix(s.URL, "http://")
	return l
}

// through lets a gateway reach the cloud by the line.
func (f *fleet) through(t *testing.T, l *line, name string) {
	t.Helper()
	file := filepath.Join(f.roof(name), "agent.yaml")
	settings, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file, strings.Replace(string(settings), f.cloudAddr, l.address, 1))
}

func (l *line) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	l.mu.Lock()
	l.passed[r.URL.Path] = append(l.passed[r.URL.Path], body)
	meddle := l.meddle
	l.going++
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.going--
	}()
	ask := func() (reply, bool) {
		// Whoever hangs up has sent his message all the same.
		a, err := send(context.WithoutCancel(r.Context()), l.target, r.Method, r.URL.RequestURI(), body, r.Header)
		return a, err == nil
	}
	var a reply
	var whole bool
	if meddle == nil {
		a, whole = ask()
	} else {
		a, whole = meddle(r.URL.Path, body, ask)
	}
	if !whole {
		panic(http.ErrAbortHandler)
	}
	var all bytes.Buffer
	a.header.Write(&all)
	all.Write(a.body)
	l.mu.Lock()
	l.answers = append(l.answers, answer{r.Method, r.URL.Path, a.status, all.Bytes()})
	l.mu.Unlock()
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.status)
	w.Write(a.body)
}

// send makes a request and returns the answer as it is.
func send(ctx context.Context, target, method, uri string, body []byte, header http.Header) (reply, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+target+uri, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	r.Header = header.Clone()
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, answer}, err
}

// post sends a message of the protocol past the line.
func (l *line) post(t *testing.T, path string, body []byte) reply {
	t.Helper()
	a, err := send(t.Context(), l.target, http.MethodPost, path, body, http.Header{"Content-Type": {"application/vnd.ecowatt.v1"}})
	if err != nil {
		t.Error(err)
	}
	return a
}

// setMeddle takes effect with the next message; nil for none.
func (l *line) setMeddle(m meddler) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.meddle = m
}

// quiet waits until nothing is on its way.
func (l *line) quiet(t *testing.T) {
	t.Helper()
	eventually(t, "nothing is on its way", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.going == 0
	})
}

// recorded is what passed so far to a path.
func (l *line) recorded(path string) [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.passed[path]
}
