package modbustest

import (
	"errors"
	"io"
	"sync"
	"testing"
	"time"
)

// device is the peer of a client: it answers each request by the next step of a
// script, and truthfully when the script has ended. It is one device however
// often the client connects.
type device struct {
	t       *testing.T
	framing Framing
	timeout time.Duration // of the client
	quiet   time.Duration

	mu    sync.Mutex // guards what is below
	steps []step
	asked []message
}

// step says how one request is answered.
type step func(d *device, c io.ReadWriteCloser, q message)

// play answers what comes on one connection until that ends.
func (d *device) play(c io.ReadWriteCloser) {
	defer c.Close()
	for {
		q, err := d.framing.request(c)
		if errors.Is(err, errBadFrame) {
			d.t.Errorf("the client sent %v", err)
		}
		if err != nil {
			return
		}
		d.mu.Lock()
		d.asked = append(d.asked, q)
		do := step(truthful)
		if len(d.steps) > 0 {
			do, d.steps = d.steps[0], d.steps[1:]
		}
		d.mu.Unlock()
		do(d, c, q)
	}
}

// requests returns what was asked so far.
func (d *device) requests() []message {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]message(nil), d.asked...)
}

// frame is the frame that answers q by pdu.
func (d *device) frame(q message, pdu []byte) []byte {
	return d.framing.build(message{q.transaction, q.unit, pdu})
}

// truth is the frame that answers q rightly.
func (d *device) truth(q message) []byte { return d.frame(q, truth(q.pdu)) }

func truthful(d *device, c io.ReadWriteCloser, q message) { write(c, d.truth(q)) }

// write writes to a client that may have gone.
func write(w io.Writer, b []byte) { _, _ = w.Write(b) }

// changed answers by what f makes of the right frame.
func changed(f func(b []byte) []byte) step {
	return func(d *device, c io.ReadWriteCloser, q message) { write(c, f(d.truth(q))) }
}

// told answers by a good frame with the message that f makes of the right one.
func told(f func(m message) message) step {
	return func(d *device, c io.ReadWriteCloser, q message) {
		write(c, d.framing.build(f(message{q.transaction, q.unit, truth(q.pdu)})))
	}
}

// silent does not answer, and goes on when the client does.
func silent(*device, io.ReadWriteCloser, message) {}

// closing ends the connection after what do does.
func closing(do step) step {
	return func(d *device, c io.ReadWriteCloser, q message) {
		do(d, c, q)
		c.Close()
	}
}

// queue answers truthfully and in order, but each request only after its delay.
// It reads on meanwhile, and answers on whatever connection is the last one, as
// gateways do.
type queue struct {
	*device
	delays []time.Duration // of the first requests; the others take none

	mu      sync.Mutex // guards current
	current io.Writer
	todo    chan message  // capacity for more than a test asks
	stop    chan struct{} // closed at the end
}

func newQueue(d *device, delays ...time.Duration) *queue {
	return &queue{device: d, delays: delays, todo: make(chan message, 100), stop: make(chan struct{})}
}

// work answers until it is stopped.
func (q *queue) work() {
	for n := 0; ; n++ {
		var m message
		select {
		case m = <-q.todo:
		case <-q.stop:
			return
		}
		if n < len(q.delays) {
			time.Sleep(q.delays[n])
		}
		q.mu.Lock()
		c := q.current
		q.mu.Unlock()
		write(c, q.truth(m))
	}
}

// play queues what comes on one connection.
func (q *queue) play(c io.ReadWriteCloser) {
	defer c.Close()
	q.mu.Lock()
	q.current = c
	q.mu.Unlock()
	for {
		m, err := q.framing.request(c)
		if err != nil {
			return
		}
		q.todo <- m
	}
}
