package artifact

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ecowatt/internal/disk/disktest"
)

func newServer(t *testing.T, contents ...string) *Server {
	t.Helper()
	fsys := disktest.New()
	if err := deliver(fsys, contents...); err != nil {
		t.Fatal(err)
	}
	f, err := Open(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return NewServer(f, slog.New(slog.DiscardHandler))
}

func (s *Server) ask(t *testing.T, method, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestServe(t *testing.T) {
	const content = "0123456789"
	s := newServer(t, content)
	path, tag := Path+nameOf(content).String(), `"`+nameOf(content).String()+`"`
	for _, x := range []struct {
		name, method, path string
		header             []string
		status             int
		body, sent         string // sent: Content-Range
	}{
		{name: "all", path: path, status: 200, body: content},
		{name: "head", method: http.MethodHead, path: path, status: 200},
		{name: "a range", path: path, header: []string{"Range", "bytes=2-4"}, status: 206, body: "234", sent: "bytes 2-4/10"},
		{name: "from there on", path: path, header: []string{"Range", "bytes=7-"}, status: 206, body: "789", sent: "bytes 7-9/10"},
		{name: "the end", path: path, header: []string{"Range", "bytes=-3"}, status: 206, body: "789", sent: "bytes 7-9/10"},
		{name: "beyond", path: path, header: []string{"Range", "bytes=10-"}, status: 416, body: "invalid range: failed to overlap\n", sent: "bytes */10"},
		{name: "if it is the same", path: path, header: []string{"Range", "bytes=7-", "If-Range", tag}, status: 206, body: "789", sent: "bytes 7-9/10"},
		{name: "if it is another", path: path, header: []string{"Range", "bytes=7-", "If-Range", `"another"`}, status: 200, body: content},
		{name: "known already", path: path, header: []string{"If-None-Match", tag}, status: 304},
		{name: "absent", path: Path + nameOf("absent").String(), status: 404, body: "there is no such artifact\n"},
		{name: "upper case", path: Path + strings.ToUpper(nameOf(content).String()), status: 404, body: "there is no such artifact\n"},
		{name: "no name", path: Path, status: 404, body: "there is no such artifact\n"},
		{name: "the way out", path: Path + "../../ecowatt.db", status: 404, body: "there is no such artifact\n"},
		{name: "what is being received", path: Path + "incoming/1", status: 404, body: "there is no such artifact\n"},
		{name: "writing", method: http.MethodPut, path: path, status: 405, body: "artifacts can be read, and nothing else\n"},
	} {
		t.Run(x.name, func(t *testing.T) {
			if x.method == "" {
				x.method = http.MethodGet
			}
			r := s.ask(t, x.method, x.path, x.header...)
			body := r.Body.String()
			if r.Code != x.status || body != x.body || r.Header().Get("Content-Range") != x.sent {
				t.Errorf("%d %q %q", r.Code, body, r.Header().Get("Content-Range"))
			}
			found := x.status < 400
			if got := r.Header().Get("Etag"); (got == tag) != found && x.status != 416 {
				t.Errorf("ETag %q", got)
			}
			if got := r.Header().Get("Cache-Control"); strings.Contains(got, "immutable") != found || !found && x.status != 416 && got != "no-store" {
				t.Errorf("Cache-Control %q of a %d", got, x.status)
			}
			if got := r.Header().Get("X-Content-Type-Options"); got != "nosniff" {
				t.Errorf("X-Content-Type-Options %q", got)
			}
		})
	}
}

// No more than MaxServed are served at a time; the others are told when to come
// again, and nobody keeps that answer.
func TestMostAtATime(t *testing.T) {
	s := newServer(t, "one")
	path := Path + nameOf("one").String()
	for range MaxServed {
		s.places <- struct{}{}
	}
	r := s.ask(t, http.MethodGet, path)
	if r.Code != http.StatusServiceUnavailable || r.Header().Get("Retry-After") != "10" || r.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%d, %v", r.Code, r.Header())
	}
	if got, want := s.Counts(), (Counts{Refused: 1, Readers: MaxServed}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	<-s.places
	for range 3 { // each gives its place back
		if r := s.ask(t, http.MethodGet, path); r.Code != http.StatusOK {
			t.Errorf("%d with a place left", r.Code)
		}
	}
	if got, want := s.Counts(), (Counts{Bytes: 3 * 3, Refused: 1, Readers: MaxServed - 1}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}

// deadlines is an answer that notes for when it was to be written.
type deadlines struct {
	*httptest.ResponseRecorder
	set    []time.Time
	pieces []int
}

func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.set = append(d.set, t)
	return nil
}

func (d *deadlines) Write(p []byte) (int, error) {
	d.pieces = append(d.pieces, len(p))
	return d.ResponseRecorder.Write(p)
}

// Each piece of an answer has its time, and all of it has an end: nobody holds a
// place for ever.
func TestPatience(t *testing.T) {
	d := &deadlines{ResponseRecorder: httptest.NewRecorder()}
	begin := time.Now()
	w := &patientWriter{ResponseWriter: d, control: http.NewResponseController(d), end: begin.Add(serveTime), count: &atomic.Uint64{}}
	if n, err := w.Write(make([]byte, 2*pieceSize+1)); n != 2*pieceSize+1 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	if len(d.set) != 3 || len(d.pieces) != 3 || d.pieces[2] != 1 {
		t.Fatalf("%d deadlines for pieces of %v", len(d.set), d.pieces)
	}
	for _, at := range d.set {
		if at.Before(begin.Add(stallTime)) || at.After(time.Now().Add(stallTime)) {
			t.Errorf("a piece has until %v, written at %v", at, begin)
		}
	}
	w.end = begin.Add(time.Second)
	if _, err := w.Write([]byte{1}); err != nil || !d.set[3].Equal(w.end) {
		t.Errorf("%v; a piece has until %v, the answer until %v", err, d.set[3], w.end)
	}
}
