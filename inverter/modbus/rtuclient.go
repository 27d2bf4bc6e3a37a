package modbus

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// Limits of the care for late answers.
const (
	lostMemory  = 10              // timeouts after which a request that was given up is not answered any more
	maxLost     = 8               // requests that may be answered late
	maxListen   = 2 * time.Second // longest wait for a line to become quiet
	maxIncoming = 4 * maxRTUFrame // bytes after a request that may come until its answer
)

var errNotQuiet = errors.New("the line does not become quiet")

// rtu is the framing of a line of RTU frames.
type rtu struct {
	timeout time.Duration // of an answer, where the request does not say
	quiet   time.Duration // see ClientOptions
	silence time.Duration // between the end of a frame and the next request

	frame     []byte
	incoming  []byte    // since the request was sent
	heard     time.Time // when the last byte came
	unsettled time.Time // when something went wrong; zero once the line was quiet since
	echoes    bool      // the line has been seen to bring back what is sent on it
	lost      []lost    // oldest first
}

// lost is a request that was given up and may be answered late.
type lost struct {
	request Request
	until   time.Time // an answer is not to be expected any more
}

// connected: whatever the peer still had to say on the former connection, or to
// the former owner of the line, may come on this one.
func (x *rtu) connected() { x.unsettled = time.Now() }

func (x *rtu) prepare(ctx context.Context, c conn) error {
	dropped, err := c.discard()
	if err != nil {
		return err
	}
	if dropped > 0 { // more of it may be on the way
		x.unsettled = time.Now()
	}
	if !x.unsettled.IsZero() {
		if err := x.listen(ctx, c); err != nil {
			return err
		}
	}
	x.unsettled = time.Time{}
	if !pause(ctx, time.Until(x.heard.Add(x.silence))) {
		return ctx.Err()
	}
	return nil
}

// listen drops what comes until nothing has come for the time quiet since the
// line was unsettled.
func (x *rtu) listen(ctx context.Context, c conn) error {
	var b [maxRTUFrame]byte
	begin := time.Now()
	for until := x.unsettled.Add(x.quiet); time.Until(until) > 0; {
		n, err := read(ctx, c, b[:], until)
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case n > 0 && now.Sub(begin) > maxListen:
			return errNotQuiet
		case n > 0:
			x.heard, until = now, now.Add(x.quiet)
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
	}
	return nil
}

func (x *rtu) exchange(ctx context.Context, c conn, r Request) ([]uint16, error) {
	if err := x.catchUp(ctx, c, r); err != nil {
		return nil, notDone(err)
	}
	pdu, err := x.ask(ctx, c, r)
	if err != nil {
		return nil, err
	}
	return parseAnswer(r, pdu)
}

// catchUp makes sure that no answer to an earlier request to the unit can come
// that might be taken for the answer to r. If one can, the unit is first asked
// something whose answer looks different. Since it answers in order, nothing
// from before comes after that.
func (x *rtu) catchUp(ctx context.Context, c conn, r Request) error {
	now := time.Now()
	x.lost = slices.DeleteFunc(x.lost, func(l lost) bool { return now.After(l.until) })
	if !confusable(x.lost, r) {
		return nil
	}
	pdu, err := x.ask(ctx, c, probe(x.lost, r))
	if err != nil {
		return err
	}
	if pdu[0]&failed != 0 { // a refusal has no form of its own: it may be late itself
		x.unsettled = time.Now()
		if err := x.listen(ctx, c); err != nil {
			return err
		}
	}
	x.lost = slices.DeleteFunc(x.lost, func(l lost) bool { return l.request.Unit == r.Unit })
	return nil
}

// confusable reports whether an answer to something lost, if only a refusal,
// may be taken for the answer to r.
func confusable(all []lost, r Request) bool {
	return slices.ContainsFunc(all, func(l lost) bool {
		return l.request.Unit == r.Unit && l.request.Function == r.Function
	})
}

// probe is a read at the place of r whose words are not as many as those of
// anything lost that reads: fewer if possible, because there are not always
// more.
func probe(all []lost, r Request) Request {
	p := Request{Unit: r.Unit, Function: ReadHolding, Address: r.Address, Pace: r.Pace}
	if r.Function == ReadInput {
		p.Function = ReadInput
	}
	taken := func(n int) bool {
		return slices.ContainsFunc(all, func(l lost) bool {
			return l.request.Unit == p.Unit && l.request.Function == p.Function && int(l.request.Count) == n
		})
	}
	n := r.Quantity() - 1
	for n > 0 && taken(n) {
		n--
	}
	if n == 0 {
		for n = 1; taken(n); {
			n++
		}
	}
	// At the end of the address space there may be no more.
	p.Count = uint16(n)
	p.Address = min(p.Address, uint16(1<<16-n))
	return p
}

// ask sends r and returns the protocol data unit that fits it.
func (x *rtu) ask(ctx context.Context, c conn, r Request) ([]byte, error) {
	pdu, err := x.askOnce(ctx, c, r)
	if err != nil {
		x.unsettled = time.Now()
		x.lost = append(x.lost, lost{r, x.unsettled.Add(lostMemory * cmp.Or(r.Pace.Timeout, x.timeout))})
		x.lost = x.lost[max(0, len(x.lost)-maxLost):]
	}
	return pdu, err
}

func (x *rtu) askOnce(ctx context.Context, c conn, r Request) ([]byte, error) {
	x.frame = appendRTURequest(x.frame[:0], r)
	x.incoming = slices.Grow(x.incoming[:0], maxIncoming)
	if err := send(c, x.frame); err != nil {
		return nil, err
	}
	var patience time.Time // none: the unit may take its time to begin
	for {
		n, err := read(ctx, c, x.incoming[len(x.incoming):maxIncoming], patience)
		x.incoming = x.incoming[:len(x.incoming)+n]
		if n > 0 {
			x.heard = time.Now()
			x.noteEcho(r)
			if pdu, end := findAnswer(x.answer(), r); pdu != nil && end == len(x.answer()) {
				return soleAnswer(x.answer(), r)
			}
			if !bytes.HasPrefix(x.frame, x.incoming) { // the unit has begun, not only the echo
				patience = x.heard.Add(x.quiet)
			}
			if len(x.incoming) == maxIncoming {
				return nil, fmt.Errorf("%w: there is nothing but noise", ErrAnswer)
			}
		}
		switch {
		case err == nil:
		case len(x.answer()) > 0 && errors.Is(err, os.ErrDeadlineExceeded): // what came is all that comes
			return soleAnswer(x.answer(), r)
		case len(x.incoming) > 0:
			return nil, fmt.Errorf("after %d bytes: %w", len(x.incoming), err)
		default:
			return nil, err
		}
	}
}

// noteEcho learns whether the line echoes. The answer to function 06 looks like
// an echo, so that nothing can be learned from it.
func (x *rtu) noteEcho(r Request) {
	if r.Function != WriteSingle && len(x.incoming) >= len(x.frame) {
		x.echoes = bytes.HasPrefix(x.incoming, x.frame)
	}
}

// answer is what came without the echo of the request.
func (x *rtu) answer() []byte {
	if x.echoes {
		return bytes.TrimPrefix(x.incoming, x.frame)
	}
	return x.incoming
}
