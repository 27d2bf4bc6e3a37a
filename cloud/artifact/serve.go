package artifact

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Path is where the artifacts are: their names follow.
const Path = "/v1/artifacts/"

// Bounds of those who fetch. They need no session: a few of them must not hold on
// to what the others need. A device whose answer is cut off asks for the rest.
const (
	MaxServed = 256              // at a time; the others are asked to come again
	comeAgain = 10               // after so many seconds
	stallTime = time.Minute      // for a piece of a file
	serveTime = 15 * time.Minute // for an answer
	pieceSize = 32 << 10         // bytes
)

// Counts are what was served since the start, and what is now.
type Counts struct {
	Bytes, Refused, Readers uint64
}

// Server gives artifacts to whoever knows their names.
type Server struct {
	folder *Folder
	logger *slog.Logger
	places chan struct{} // one for each who is served; capacity MaxServed

	bytes, refused atomic.Uint64
}

// NewServer serves GET and HEAD of Path + 64 hexadecimal digits, with ranges
// (RFC 9110 section 14). What is answered never changes and may be kept by
// anybody. There is no list.
func NewServer(folder *Folder, logger *slog.Logger) *Server {
	return &Server{folder: folder, logger: logger, places: make(chan struct{}, MaxServed)}
}

// Counts returns them.
func (s *Server) Counts() Counts {
	return Counts{Bytes: s.bytes.Load(), Refused: s.refused.Load(), Readers: uint64(len(s.places))}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store") // of what is no artifact
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "artifacts can be read, and nothing else", http.StatusMethodNotAllowed)
		return
	}
	text, _ := strings.CutPrefix(r.URL.Path, Path)
	name, ok := ParseName(text)
	if !ok {
		http.Error(w, ErrNotFound.Error(), http.StatusNotFound)
		return
	}
	select {
	case s.places <- struct{}{}:
		defer func() { <-s.places }()
	default:
		s.refused.Add(1)
		h.Set("Retry-After", strconv.Itoa(comeAgain))
		http.Error(w, "many artifacts are being fetched; come again", http.StatusServiceUnavailable)
		return
	}
	s.serve(w, r, name)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, name Name) {
	file, size, err := s.folder.Open(name)
	if errors.Is(err, ErrNotFound) {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if err != nil {
		s.logger.ErrorContext(r.Context(), "artifact cannot be read", "artifact", name.String(), "error", err)
		http.Error(w, "the artifact cannot be read now", http.StatusInternalServerError)
		return
	}
	defer file.Close()
	h := w.Header()
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Content-Type", "application/octet-stream")
	h.Set("ETag", `"`+name.String()+`"`)
	patient := &patientWriter{ResponseWriter: w, control: http.NewResponseController(w), end: time.Now().Add(serveTime), count: &s.bytes}
	http.ServeContent(patient, r, "", time.Time{}, io.NewSectionReader(file, 0, size))
}

// patientWriter lets an answer take its time as long as it moves, up to its end.
type patientWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	end     time.Time
	count   *atomic.Uint64 // of the bytes that were written
}

func (w *patientWriter) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		deadline := time.Now().Add(stallTime)
		if deadline.After(w.end) {
			deadline = w.end
		}
		_ = w.control.SetWriteDeadline(deadline) // a writer without deadlines needs none moved
		var m int
		m, err = w.ResponseWriter.Write(p[n:min(n+pieceSize, len(p))])
		n += m
		w.count.Add(uint64(m))
	}
	return n, err
}
