package modbus

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Defaults and limits of a server.
const (
	DefaultConnections = 32
	DefaultIdle        = 5 * time.Minute
	DefaultSilence     = 50 * time.Millisecond
	writeTimeout       = 10 * time.Second
	maxAcceptDelay     = time.Second
)

// ServerOptions are the settings of a server.
type ServerOptions struct {
	Connections int                  // most at a time, others are closed at once; DefaultConnections when 0
	Admits      func(open int) bool  // whether one more is let in beside those; as Connections says when nil
	Idle        time.Duration        // longest time from one request's end to the next one's; DefaultIdle when 0
	Silence     time.Duration        // of RTU frames, see ServeLine; DefaultSilence when 0
	Turnaround  time.Duration        // of RTU frames: from a request to its answer at least
	Has         func(unit byte) bool // of RTU frames: whether a unit is here; all are when nil
	Logger      *slog.Logger         // of what is unusual; none when nil
}

// Server answers requests, on several transports at once if need be. Requests
// of one connection are answered one after the other; the handler is called
// from one goroutine for each connection.
type Server struct {
	handler Handler
	options ServerOptions

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// NewServer returns a server that answers by h.
func NewServer(h Handler, o ServerOptions) *Server {
	if o.Connections == 0 {
		o.Connections = DefaultConnections
	}
	if o.Admits == nil {
		o.Admits = func(open int) bool { return open < o.Connections }
	}
	if o.Idle == 0 {
		o.Idle = DefaultIdle
	}
	if o.Silence == 0 {
		o.Silence = DefaultSilence
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{handler: h, options: o, conns: map[net.Conn]struct{}{}}
}

// Serve answers Modbus TCP requests. It accepts connections from l until ctx
// ends, which is no error. It returns when l is closed and every connection has
// ended.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	return s.accept(ctx, l, s.serve)
}

// ServeRTU is Serve for connections that carry RTU frames.
func (s *Server) ServeRTU(ctx context.Context, l net.Listener) error {
	return s.accept(ctx, l, func(ctx context.Context, conn net.Conn) {
		err := s.serveRTU(ctx, conn, s.options.Idle)
		if err != nil && !errors.Is(err, io.EOF) {
			s.options.Logger.Debug("connection ended", "peer", conn.RemoteAddr().String(), "error", err)
		}
	})
}

// accept hands each connection from l to serve, in a goroutine of its own.
func (s *Server) accept(ctx context.Context, l net.Listener, serve func(context.Context, net.Conn)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		l.Close()
		s.closeAll()
	})
	defer stop()
	var running sync.WaitGroup
	defer running.Wait()
	defer s.closeAll()
	defer l.Close()
	delay := time.Duration(0)
	for {
		conn, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if conn != nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil: // out of file descriptors, say: others will end
			delay = min(max(2*delay, 5*time.Millisecond), maxAcceptDelay)
			s.options.Logger.Warn("accepting a connection", "error", err, "again_in", delay)
			pause(ctx, delay)
			continue
		}
		delay = 0
		if !s.admit(ctx, conn) {
			s.options.Logger.Warn("connection refused: there are as many as allowed", "peer", conn.RemoteAddr().String())
			conn.Close()
			continue
		}
		running.Go(func() {
			defer s.dismiss(conn)
			serve(ctx, conn)
		})
	}
}

// admit notes conn as open, unless there are too many or the server ends.
func (s *Server) admit(ctx context.Context, conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil || !s.options.Admits(len(s.conns)) {
		return false
	}
	s.conns[conn] = struct{}{}
	return true
}

func (s *Server) dismiss(conn net.Conn) {
	conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

func (s *Server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		conn.Close()
	}
}

// serve answers the requests on conn until it ends, is idle for too long or
// sends what is no frame.
func (s *Server) serve(ctx context.Context, conn net.Conn) {
	var in, out frameBuffer
	incoming := bufio.NewReaderSize(conn, maxFrame)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(s.options.Idle)); err != nil {
			return
		}
		f, err := in.read(incoming)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, io.EOF) {
				s.options.Logger.Debug("connection ended", "peer", conn.RemoteAddr().String(), "error", err)
			}
			return
		}
		answer := s.answer(ctx, f.unit, f.pdu, out.header(f.transaction, f.unit))
		if answer.silence() {
			continue
		}
		frame := seal(answer.pdu)
		frame[headerSize-1] += answer.odd.Unit
		if err := answer.odd.send(ctx, conn, answer.odd.spoil(frame, headerSize, 0)); err != nil {
			return
		}
	}
}

// answer appends the protocol data unit that answers pdu to b.
func (s *Server) answer(ctx context.Context, unit byte, pdu, b []byte) reply {
	r, err := parseRequest(unit, pdu)
	var got []uint16
	if err == nil {
		got, err = s.handler(ctx, r)
	}
	odd, got, err := oddly(got, err)
	if err == nil && len(got) != int(r.Count) {
		s.options.Logger.Error("handler returned the wrong number of words", "want", r.Count, "got", len(got))
		err = ErrDeviceFailure
	}
	var no ExceptionError
	switch {
	case err == nil:
		return reply{pdu: appendAnswer(b, r, got), odd: odd}
	case errors.Is(err, ErrSilence):
		return reply{}
	case !errors.As(err, &no):
		s.options.Logger.Error("answering a request", "request", r.String(), "error", err)
		no = ErrDeviceFailure
	}
	return reply{pdu: appendException(b, r.Function, no), odd: odd}
}
