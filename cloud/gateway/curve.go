package gateway

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"ecowatt/wire"
	"ecowatt/wire/noise"
)

// waitingEach is how many handshakes may wait for each core to do its work on the
// curve. They wait for a few milliseconds.
const waitingEach = 32

// turns bounds how many do something at a time, and how many wait for it.
type turns struct {
	taken   chan struct{} // holds one for each that does it
	room    int64         // for those that wait
	waiting atomic.Int64
}

func newTurns() *turns {
	cores := runtime.GOMAXPROCS(0)
	return &turns{taken: make(chan struct{}, cores), room: int64(cores) * waitingEach}
}

// take waits for a turn, which give ends. It reports false, at once, where too
// many wait already, and when ctx ends first.
func (t *turns) take(ctx context.Context) bool {
	select {
	case t.taken <- struct{}{}:
		return true
	default:
	}
	defer t.waiting.Add(-1)
	if t.waiting.Add(1) > t.room {
		return false
	}
	select {
	case t.taken <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (t *turns) give() { <-t.taken }

// crowdPause is after how long a device may try again that found too many others
// shaking hands.
const crowdPause = 5 * time.Second

// finish does the work on the curve, when its turn comes: however many shake
// hands, they do not take the cores from those who have a session.
func (g *Gateway) finish(ctx context.Context, responder *noise.Responder, welcome wire.Welcome) ([]byte, noise.Secrets, *refusal) {
	if !g.curve.take(ctx) {
		return nil, noise.Secrets{}, busy(crowdPause)
	}
	defer g.curve.give()
	hs2, secrets, err := responder.Finish(welcome, g.random)
	switch {
	case errors.Is(err, noise.ErrRefused): // an ephemeral key of low order
		return nil, noise.Secrets{}, refuse(wire.HandshakeBadTag)
	case err != nil:
		return nil, noise.Secrets{}, g.unavailable(ctx, "shaking hands", err)
	}
	return hs2, secrets, nil
}

// busy is the answer to too many handshakes: of one address, of one device or of
// all together.
func busy(retryAfter time.Duration) *refusal {
	return &refusal{code: wire.CodeBusy, retryAfter: max(retryAfter, time.Second), reason: wire.HandshakeRate}
}
