// Package gateway is the endpoint of the devices: one handler for the two paths
// of the protocol. A message is opened without writing anything, what it means
// becomes one unit of work, and the answer is sealed after the unit is on disk.
// Nothing is acknowledged that is not stored.
//
// Whoever cannot prove who he is learns one of five codes and costs a look-up
// and a few hashes; he causes no row and no line in the log, only a count (see
// Gateway.Counters). What an authenticated device does is told by the audit log.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/session"
	"ecowatt/key"
	"ecowatt/wire"
)

// Reader is the part of the store that opens messages: reads, and the one write
// that a handshake is. Errors that are none of package session's mean that the
// store cannot do it now.
type Reader interface {
	// Credential returns a key, or session.ErrUnknown.
	Credential(ctx context.Context, id key.ID) (session.Credential, error)
	// Past returns what there is to know about an HS1 with this hash that was made
	// with the key, or session.ErrUnknown.
	Past(ctx context.Context, id key.ID, hs1 [32]byte, at time.Time) (session.Past, error)
	// Establish stores a session that session.Past.Admit admits, in one
	// transaction, and returns the HS2 to send: the offer's, or that of a
	// concurrent copy of the same HS1 which came first.
	Establish(ctx context.Context, o session.Offer) (hs2 []byte, err error)
	// Session returns a session, or session.ErrUnknown.
	Session(ctx context.Context, sid [16]byte) (session.Session, error)
}

// Store is what the gateway needs of the store. Of makes one of store.Store.
type Store interface {
	Reader
	// Commit runs unit in a transaction, perhaps twice, and returns nil when what
	// it did is durable. What unit returns undoes it and is returned.
	Commit(ctx context.Context, unit func(Tx) error) error
}

// Tx is a transaction of the store. device is a row, as in session.Session.
type Tx interface {
	// Raise accepts a request, or refuses it with an error of package session and
	// changes nothing.
	Raise(c session.Claim) (session.Raised, error)
	// Resume is for the answer to a request that was accepted before and is the
	// last one of its device: it tells what the answer may carry by now, or refuses.
	Resume(c session.Claim) (session.Raised, error)
	// Observe takes note of the clock of a boot and places blocks that waited for it.
	Observe(device int64, c ingest.Clock, at time.Time) error
	// Take remembers a message and stores its block, once.
	Take(device int64, m ingest.Message, at time.Time) (ingest.Status, error)
	// Report stores what a device says of itself.
	Report(device int64, r registry.Report) (registry.News, error)
	// Append writes a record of the audit log.
	Append(r audit.Record) error
	Alarms
	Commands
	Configuration
	Rollouts
}

// Of makes a Store of one whose transactions have a type of their own, as those
// of package store have.
func Of[T Tx](s interface {
	Reader
	Commit(ctx context.Context, unit func(T) error) error
},
) Store {
	return adapter[T]{Reader: s, commit: s.Commit}
}

type adapter[T Tx] struct {
	Reader
	commit func(ctx context.Context, unit func(T) error) error
}

func (a adapter[T]) Commit(ctx context.Context, unit func(Tx) error) error {
	return a.commit(ctx, func(tx T) error { return unit(tx) })
}

// Keys wraps and unwraps keys at rest; keyring.Ring does.
type Keys interface {
	WrapDevice(k key.Device, device string, id key.ID, epoch key.Epoch) (kek string, wrapped []byte, err error)
	UnwrapDevice(kek string, wrapped []byte, device string, id key.ID, epoch key.Epoch) (key.Device, error)
	WrapSession(k key.Session, device string, sid [16]byte) (kek string, wrapped []byte, err error)
	UnwrapSession(kek string, wrapped []byte, device string, sid [16]byte) (key.Session, error)
	UnwrapContent(kek string, wrapped []byte, release [32]byte) (key.Content, error)
}

// DefaultSlot is the time between two exchanges of a device where none is given.
const DefaultSlot = 15 * time.Minute

// Options are what a Gateway is made of. They do not change.
type Options struct {
	Store  Store
	Keys   Keys
	Random io.Reader        // a cryptographic source
	Now    func() time.Time // the cloud's clock
	Slot   time.Duration    // told to devices as the time until their next exchange; 0 for DefaultSlot
	Logger *slog.Logger

	// HandshakeRate is how many handshakes a second each address may begin, and
	// five times as many at once; 0 for DefaultHandshakeRate. Requests are not
	// limited by address: their devices have proved who they are.
	HandshakeRate int
	// Hold is for how long an answer that says nothing may be held back, where the
	// device asks for it; 0 for never, at most MaxHold.
	Hold time.Duration
	// Draining is closed when the server is about to stop: what is held back goes
	// out. Nil for never.
	Draining <-chan struct{}

	// Roots returns the later roots of trust for firmware, signed and in ascending
	// order, that go with each offer of a release. It is called for each exchange, so
	// it returns what is at hand. Nil for none.
	Roots func() [][]byte

	// TrustedProxies are those whose X-Forwarded-For is believed. Nil for none.
	TrustedProxies []netip.Prefix
}

// Gateway is the handler of wire.PathSession and wire.PathExchange. Its methods
// may be called from any goroutine.
type Gateway struct {
	store    Store
	keys     Keys
	random   io.Reader
	now      func() time.Time
	slot     time.Duration
	logger   *slog.Logger
	nobody   atomic.Pointer[session.Credential] // whose key is tried where there is none
	limiter  *limiter
	proxies  []netip.Prefix
	curve    *turns
	long     atomic.Int64 // bytes that long messages may take now
	counters counters
	tally    *tally
	alarms   *alarms
	hold     time.Duration // the longest
	holds    *holds
	draining <-chan struct{}
	roots    func() [][]byte
}

// New returns a Gateway.
func New(o Options) (*Gateway, error) {
	if o.Store == nil || o.Keys == nil || o.Random == nil || o.Now == nil || o.Logger == nil {
		return nil, errors.New("gateway: store, keys, random source, clock and logger are needed")
	}
	if o.Slot == 0 {
		o.Slot = DefaultSlot
	}
	if o.Slot < time.Second {
		return nil, fmt.Errorf("gateway: a slot of %v is shorter than a second", o.Slot)
	}
	if o.HandshakeRate == 0 {
		o.HandshakeRate = DefaultHandshakeRate
	}
	if o.HandshakeRate < 1 {
		return nil, fmt.Errorf("gateway: %d handshakes a second are too few", o.HandshakeRate)
	}
	if o.Hold < 0 || o.Hold > MaxHold {
		return nil, fmt.Errorf("gateway: answers cannot be held back for %v", o.Hold)
	}
	if o.Roots == nil {
		o.Roots = func() [][]byte { return nil }
	}
	nobody, err := newNobody(o.Keys, o.Random)
	if err != nil {
		return nil, err
	}
	g := &Gateway{
		store: o.Store, keys: o.Keys, random: o.Random, now: o.Now, slot: o.Slot, logger: o.Logger,
		limiter: newLimiter(o.HandshakeRate, o.Now()), proxies: o.TrustedProxies, curve: newTurns(),
		counters: newCounters(), tally: newTally(), alarms: newAlarms(o.Logger),
		hold: o.Hold, holds: newHolds(), draining: o.Draining, roots: o.Roots,
	}
	g.nobody.Store(&nobody)
	g.long.Store(longMost)
	return g, nil
}

// refusal is why a message gets no answer but an ERR.
type refusal struct {
	code       wire.Code
	status     int           // of HTTP; 0 for that of the code
	retryAfter time.Duration // told in the ERR
	reason     wire.Reason   // the security event that it is, counted; "" for none
	about      subject       // whom it concerns, where that is known and to be told
}

func (r refusal) httpStatus() int {
	if r.status != 0 {
		return r.status
	}
	return r.code.HTTPStatus()
}

// refuse is the answer to every failure of authentication, session and replay.
// The peer is not told which.
func refuse(reason wire.Reason) *refusal { return &refusal{code: wire.CodeRefused, reason: reason} }

// malformed is the answer to what wire.Parse does not take.
func malformed(err error) *refusal {
	if code := wire.CodeOf(err); code == wire.CodeTooLarge {
		return &refusal{code: code, reason: wire.ExchangeTooLarge}
	}
	return &refusal{code: wire.CodeMalformed, reason: wire.ExchangeFormat}
}

// outage is for how long a device is asked to wait when something here failed.
const outage = 30 * time.Second

// unavailable is the answer when a part of our own fails: nothing was stored.
func (g *Gateway) unavailable(ctx context.Context, doing string, err error) *refusal {
	if ctx.Err() == nil { // else the device has gone, and that is all
		g.alarms.raise(ctx, g.now(), doing, err)
	}
	return &refusal{code: wire.CodeUnavailable, retryAfter: outage}
}

// ServeHTTP answers one message.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, refused := g.serve(w, r)
	header := w.Header()
	status := http.StatusOK
	if refused != nil {
		g.counters.count(refused.reason)
		g.tally.count(refused.about, refused.reason)
		if g.logger.Enabled(r.Context(), slog.LevelDebug) {
			g.logger.DebugContext(r.Context(), "message refused", "code", refused.code.String(), "reason", string(refused.reason))
		}
		answer = wire.ErrorMessage{Code: refused.code, RetryAfter: refused.retryAfter}.Append(nil)
		if status = refused.httpStatus(); status == http.StatusMethodNotAllowed {
			header.Set("Allow", http.MethodPost)
		}
	}
	header.Set("Content-Type", wire.ContentType)
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Length", strconv.Itoa(len(answer)))
	w.WriteHeader(status)
	w.Write(answer) //nolint:errcheck // who does not get the answer asks again
}

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) ([]byte, *refusal) {
	answer := g.handshake
	switch r.URL.Path {
	case wire.PathSession:
		if wait := g.limiter.take(clientOf(r, g.proxies), g.now()); wait > 0 {
			return nil, busy(wait)
		}
	case wire.PathExchange:
		answer = g.exchange
	default:
		return nil, &refusal{code: wire.CodeMalformed, status: http.StatusNotFound, reason: wire.ExchangeFormat}
	}
	if r.Method != http.MethodPost {
		return nil, &refusal{code: wire.CodeMalformed, status: http.StatusMethodNotAllowed, reason: wire.ExchangeFormat}
	}
	if r.Header.Get("Content-Type") != wire.ContentType {
		return nil, malformed(wire.ErrMalformed)
	}
	in := g.incoming(w, r)
	defer in.release()
	return answer(r.Context(), in)
}
