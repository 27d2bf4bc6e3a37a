package gateway

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"ecowatt/wire"
)

// reasons are those by which a message is refused: what a stranger can cause.
func reasons() []wire.Reason {
	return []wire.Reason{
		wire.HandshakeUnknownID, wire.HandshakeBadTag, wire.HandshakeOldEpoch, wire.HandshakeReplay,
		wire.HandshakeRate, wire.HandshakeDisabled, wire.ExchangeFormat, wire.ExchangeNoSession,
		wire.ExchangeBadMAC, wire.ExchangeReplay, wire.ExchangeTooLarge, wire.SessionExpired,
	}
}

// counters has a fixed set of reasons: only the numbers change.
type counters map[wire.Reason]*atomic.Uint64

func newCounters() counters {
	c := counters{}
	for _, r := range reasons() {
		c[r] = &atomic.Uint64{}
	}
	return c
}

func (c counters) count(r wire.Reason) {
	if n, ok := c[r]; ok {
		n.Add(1)
	}
}

// Counters returns how many messages were refused since the gateway was made,
// by reason. The set of reasons is always the same.
func (g *Gateway) Counters() map[wire.Reason]uint64 {
	counts := make(map[wire.Reason]uint64, len(g.counters))
	for r, n := range g.counters {
		counts[r] = n.Load()
	}
	return counts
}

// quiet is how long the same alarm is not repeated.
const quiet = time.Minute

// alarms logs what fails of our own parts: once a minute at most for each thing
// that was being done, because while it fails every stranger's message meets it.
type alarms struct {
	logger *slog.Logger

	mu    sync.Mutex
	since map[string]alarm // by what was being done, a handful of constants
}

type alarm struct {
	at   time.Time
	held int // not logged since
}

func newAlarms(logger *slog.Logger) *alarms {
	return &alarms{logger: logger, since: map[string]alarm{}}
}

func (a *alarms) raise(ctx context.Context, now time.Time, doing string, err error) {
	a.mu.Lock()
	last, known := a.since[doing]
	due := !known || now.Sub(last.at).Abs() >= quiet
	if due {
		a.since[doing] = alarm{at: now}
	} else {
		last.held++
		a.since[doing] = last
	}
	a.mu.Unlock()
	if due {
		a.logger.ErrorContext(ctx, "a device gets no answer", "doing", doing, "error", err, "as_often_before", last.held)
	}
}
