package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"ecowatt/wire"
)

// Bounds of what messages take while they are read, in bytes.
const (
	readAhead = 16 << 10 // what is allocated on a stranger's word, and what each message may take
	longMost  = 64 << 20 // what those that are longer may take together
)

// incoming is a message as it comes, of which no more is read than what is
// known of its sender is worth.
type incoming struct {
	body      io.Reader
	writer    http.ResponseWriter
	announced int64         // its length in bytes; -1 where it is not known
	long      *atomic.Int64 // what messages longer than readAhead may take now
	held      int64         // of it by this one
	read      bytes.Buffer
}

func (g *Gateway) incoming(w http.ResponseWriter, r *http.Request) *incoming {
	return &incoming{body: r.Body, writer: w, announced: r.ContentLength, long: &g.long}
}

// header reads the header and nothing beyond it. The length is checked as well,
// where it was announced.
func (in *incoming) header(want wire.Type) (wire.Header, *refusal) {
	if refused := in.readTo(wire.HeaderSize, wire.HeaderSize); refused != nil {
		return wire.Header{}, refused
	}
	length := int(in.announced)
	if length < 0 {
		length = wire.RequestOverhead + wire.PadUnit // any that may be: it is checked once it is known
	}
	h, err := wire.ParseStart(in.read.Bytes(), want, length)
	if err != nil {
		return wire.Header{}, malformed(err)
	}
	return h, nil
}

// whole reads the rest: one byte more than the longest message has, so that
// wire.Parse sees that it is too long. The caller releases what it took.
func (in *incoming) whole(longest int) ([]byte, *refusal) {
	room := int64(longest)
	if in.announced >= 0 {
		room = min(room, in.announced)
	}
	if room > readAhead {
		if in.long.Add(-room) < 0 {
			in.long.Add(room)
			return nil, &refusal{code: wire.CodeBusy, retryAfter: longPause, reason: wire.ExchangeTooLarge}
		}
		in.held = room
	}
	if refused := in.readTo(longest+1, readAhead); refused != nil {
		return nil, refused
	}
	return in.read.Bytes(), nil
}

// longPause is after how long a device may try again whose long message found too
// many others.
const longPause = 5 * time.Second

// readTo reads until there are n bytes, or the body ends. At first it makes room
// for what was announced, as far as ahead.
func (in *incoming) readTo(n, ahead int) *refusal {
	if in.announced > wire.MaxRequest {
		return malformed(wire.ErrTooLarge)
	}
	in.read.Grow(int(min(max(in.announced, 0), int64(ahead), int64(n))) + bytes.MinRead)
	if _, err := in.read.ReadFrom(io.LimitReader(in.body, int64(n-in.read.Len()))); err != nil {
		return malformed(fmt.Errorf("reading a message: %w", err))
	}
	return nil
}

// release gives back what the message took.
func (in *incoming) release() {
	in.long.Add(in.held)
	in.held = 0
}

// forget gives up the message itself as well, of which nothing is in use any more.
func (in *incoming) forget() {
	in.release()
	in.read = bytes.Buffer{}
}
