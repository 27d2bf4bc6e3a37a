package modbus

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

var errIdle = errors.New("idle for too long")

// ServeLine answers the requests that come as RTU frames on a serial line, or
// on whatever else carries their bytes, until ctx ends, which is no error, or
// the line does. It closes the line, which must end a Read that waits.
//
// On a line there is no gateway to tell that a unit is missing. Requests to
// units that are not here, as Has says, are passed over; ErrGatewayPath and
// ErrGatewayTarget of the handler are not answered, like ErrSilence, and neither
// is a request to unit 0, which is for all units (Modbus over Serial Line V1.02,
// section 2.1). What is no frame is dropped, together with all that follows
// until nothing has come for the time Silence: other units' answers pass by on a
// line. In the same way ends a frame whose function is not known here, and with
// it its length.
func (s *Server) ServeLine(ctx context.Context, line io.ReadWriteCloser) error {
	return s.serveRTU(ctx, line, 0)
}

// rtuConn is a connection on which RTU requests are answered.
type rtuConn struct {
	server   *Server
	line     io.Writer
	incoming []byte
	skipping bool // what comes is no frame, until the next silence
}

// serveRTU answers the requests on line until ctx ends, which is no error, or
// the line does, or none comes within idle, unless that is 0.
func (s *Server) serveRTU(ctx context.Context, line io.ReadWriteCloser, idle time.Duration) error {
	chunks, ended := make(chan []byte), make(chan error, 1)
	stopped := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() { ended <- pump(line, chunks, stopped) })
	defer reading.Wait()
	defer line.Close()
	defer close(stopped)

	c := rtuConn{server: s, line: line}
	idling, silence := newAlarm(idle), newAlarm(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case <-idling.C:
			return errIdle
		case <-silence.C:
			if err := c.silent(ctx); err != nil {
				return err
			}
		case chunk := <-chunks:
			c.incoming = append(c.incoming, chunk...)
			answered, err := c.answer(ctx)
			if err != nil {
				return err
			}
			if answered {
				idling.set(idle)
			}
			silence.Stop()
			if len(c.incoming) > 0 || c.skipping {
				silence.set(s.options.Silence)
			}
		}
	}
}

// pump passes on what comes from line until that ends or stopped is closed.
func pump(line io.Reader, chunks chan<- []byte, stopped <-chan struct{}) error {
	for {
		b := make([]byte, maxRTUFrame)
		n, err := line.Read(b)
		if n > 0 {
			select {
			case chunks <- b[:n]:
			case <-stopped:
				return nil
			}
		}
		if err != nil {
			return err
		}
	}
}

// alarm is a timer that is not set at first.
type alarm struct{ *time.Timer }

// newAlarm returns an alarm that is set to d, unless that is 0.
func newAlarm(d time.Duration) alarm {
	a := alarm{time.NewTimer(time.Hour)}
	a.Stop()
	a.set(d)
	return a
}

func (a alarm) set(d time.Duration) {
	if d > 0 {
		a.Reset(d)
	}
}

// answer answers the whole frames that have come; true when there were some.
func (c *rtuConn) answer(ctx context.Context) (answered bool, err error) {
	for !c.skipping {
		f, n, bad := splitRTU(c.incoming, rtuRequestSize)
		c.skipping = bad != nil && len(c.incoming) > maxRTUFrame
		if n == 0 {
			break
		}
		if err := c.say(ctx, f); err != nil {
			return answered, err
		}
		answered = true
		c.incoming = c.incoming[n:]
	}
	if c.skipping {
		c.incoming = nil
	}
	return answered, nil
}

// silent takes what has come as a whole: a frame of an unknown function, or
// nothing of use.
func (c *rtuConn) silent(ctx context.Context) error {
	b, skipped := c.incoming, c.skipping
	c.incoming, c.skipping = nil, false
	if skipped || !intact(b) || known(Function(b[1])) || b[1]&failed != 0 {
		return nil
	}
	return c.say(ctx, frame{unit: b[0], pdu: b[1 : len(b)-2]})
}

func known(f Function) bool {
	switch f {
	case ReadHolding, ReadInput, WriteSingle, WriteMultiple:
		return true
	}
	return false
}

// say answers f on the line, if at all.
func (c *rtuConn) say(ctx context.Context, f frame) error {
	if has := c.server.options.Has; has != nil && f.unit != 0 && !has(f.unit) {
		return nil
	}
	answer := c.server.answer(ctx, f.unit, f.pdu, []byte{f.unit})
	if answer.silence() || f.unit == 0 || !fromUnit(answer.pdu[1:]) {
		return nil
	}
	if !pause(ctx, c.server.options.Turnaround) {
		return nil
	}
	return answer.odd.send(ctx, c.line, answer.rtu())
}

// rtu is the frame that carries r.
func (r reply) rtu() []byte {
	r.pdu[0] += r.odd.Unit
	return r.odd.spoil(closeRTU(r.pdu, 0), 1, 2)
}

// fromUnit reports whether an answer is a unit's own and not a gateway's.
func fromUnit(pdu []byte) bool {
	no := ExceptionError(pdu[1])
	return pdu[0]&failed == 0 || no != ErrGatewayPath && no != ErrGatewayTarget
}

// AnswerRTU returns the frame with which h answers a request frame; nil when
// there is to be none. It is for transports that carry whole frames, as HTTP. The
// error says that request is no frame.
func (s *Server) AnswerRTU(ctx context.Context, request []byte) ([]byte, error) {
	if !intact(request) {
		return nil, errNoFrame
	}
	answer := s.answer(ctx, request[0], request[1:len(request)-2], []byte{request[0]})
	if answer.silence() || !pause(ctx, answer.odd.Delay) {
		return nil, nil
	}
	return answer.rtu(), nil
}
