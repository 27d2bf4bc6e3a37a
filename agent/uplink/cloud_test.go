package uplink

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"ecowatt/key"
	"ecowatt/wire"
	"ecowatt/wire/noise"
	"ecowatt/wire/record"
)

// cloud is the other side, made of the packages of the protocol and a few maps.
type cloud struct {
	t    *testing.T
	now  func() time.Duration
	keys map[key.ID]key.PSK

	lifetime   time.Duration
	maxRequest uint32
	nextSlot   time.Duration
	failure    *wire.Failure
	skew       time.Duration // of the cloud's clock
	flags      wire.WelcomeFlags

	mu       sync.Mutex
	pending  map[string][]byte // HS1 to its HS2
	sessions map[wire.SessionID]*session
	requests []wire.Request
	numbers  []wire.Sequence
	hs1s     [][]byte
	reqs     [][]byte
	rsps     [][]byte

	// meddle, if set, stands between the device and the cloud: ask passes the
	// message on. An error is no answer.
	meddle func(ctx context.Context, path string, msg []byte, ask func() Reply) (Reply, error)
}

type session struct {
	keys key.Session
	last wire.Sequence
}

func newCloud(t *testing.T, now func() time.Duration, credentials ...Credential) *cloud {
	t.Helper()
	c := &cloud{
		t: t, now: now, keys: map[key.ID]key.PSK{}, lifetime: 24 * time.Hour, maxRequest: wire.MaxRequest,
		pending: map[string][]byte{}, sessions: map[wire.SessionID]*session{},
	}
	for _, x := range credentials {
		c.keys[x.ID] = x.Key.NoisePSK(wire.Suite1)
	}
	return c
}

func (c *cloud) time() int64 { return at(c.now()) + c.skew.Milliseconds() }

// Post is the Transport of the device under test.
func (c *cloud) Post(ctx context.Context, path string, msg []byte, limit int) (Reply, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		c.t.Error("a post without a time limit")
	}
	ask := func() Reply {
		if path == wire.PathSession {
			return c.session(msg)
		}
		return c.exchange(msg)
	}
	if c.meddle == nil {
		return ask(), nil
	}
	reply, err := c.meddle(ctx, path, msg, ask)
	if len(reply.Body) > limit {
		reply.Body = nil
	}
	return reply, err
}

func refuse(code wire.Code) Reply {
	return Reply{Status: code.HTTPStatus(), Body: wire.ErrorMessage{Code: code}.Append(nil)}
}

func (c *cloud) session(hs1 []byte) Reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hs1s = append(c.hs1s, bytes.Clone(hs1))
	if hs2, ok := c.pending[string(hs1)]; ok {
		return Reply{Status: 200, Body: hs2}
	}
	h, err := wire.Parse(hs1, wire.HS1)
	if err != nil {
		return refuse(wire.CodeOf(err))
	}
	responder, err := noise.Accept(c.keys[h.KeyID()], hs1)
	if err != nil {
		return refuse(wire.CodeRefused)
	}
	hs2, secrets, err := responder.Finish(wire.Welcome{ServerTime: c.time(), Lifetime: c.lifetime, MaxRequest: c.maxRequest, Flags: c.flags}, rand.Reader)
	if err != nil {
		return refuse(wire.CodeRefused)
	}
	c.pending[string(hs1)] = hs2
	c.sessions[secrets.SID] = &session{keys: secrets.Keys}
	return Reply{Status: 200, Body: hs2}
}

func (c *cloud) exchange(req []byte) Reply {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reqs = append(c.reqs, bytes.Clone(req))
	h, err := wire.Parse(req, wire.REQ)
	if err != nil {
		return refuse(wire.CodeOf(err))
	}
	s := c.sessions[h.Session()]
	if s == nil || h.Sequence() <= s.last {
		return refuse(wire.CodeRefused)
	}
	body, mac, err := record.OpenRequest(s.keys, req)
	if err != nil {
		return refuse(wire.CodeRefused)
	}
	s.last = h.Sequence()
	q, err := wire.DecodeRequest(body)
	if err != nil {
		c.t.Errorf("the device sent %x: %v", body, err)
	}
	c.requests, c.numbers = append(c.requests, q), append(c.numbers, h.Sequence())
	a := wire.Answer{ServerTime: c.time(), NextSlot: c.nextSlot, Failure: c.failure}
	for _, m := range q.Messages {
		a.Results = append(a.Results, wire.Result{ID: m.ID})
	}
	answer, err := wire.EncodeAnswer(a)
	if err != nil {
		c.t.Error(err)
	}
	rsp, err := record.SealAnswer(s.keys, h.Session(), h.Sequence(), mac, rand.Reader, answer)
	if err != nil {
		c.t.Error(err)
	}
	c.rsps = append(c.rsps, rsp)
	return Reply{Status: 200, Body: rsp}
}

// device is an Uplink with what a test wants to look at.
type device struct {
	*Uplink
	t     *testing.T
	cloud *cloud
	now   func() time.Duration
	log   *lockedBuffer
	built int
}

// lockedBuffer collects the log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

var boot = wire.BootID{0xb0, 0x07}

func credential(t *testing.T, n key.Epoch) Credential {
	t.Helper()
	k, err := key.NewDevice(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return Credential{ID: key.ID{byte(n)}, Epoch: n, Key: k}
}

// newDevice returns a device and its cloud. It is called inside a synctest
// bubble: time is the bubble's.
func newDevice(t *testing.T, edit func(o *Options, c *cloud)) *device {
	t.Helper()
	start := time.Now()
	now := func() time.Duration { return time.Hour + time.Since(start) }
	d := &device{t: t, now: now, log: &lockedBuffer{}}
	o := Options{
		Credential: credential(t, 1), Boot: boot, Now: now, Interval: slot, Random: rand.Reader,
		Logger: slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	d.cloud = newCloud(t, now, o.Credential)
	o.Transport = d.cloud
	if edit != nil {
		edit(&o, d.cloud)
	}
	u, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	d.Uplink = u
	return d
}

// message is what the device has in its queue: the same until it is settled.
var message = wire.Message{ID: wire.MessageID{1}, Kind: wire.KindLog, Body: []byte{0x80}}

// epochs is what the device says of its keys.
var epochs = wire.Epochs{Active: 6, Staged: 7}

func (d *device) build(int) (wire.Request, error) {
	d.built++
	return wire.Request{Messages: []wire.Message{message}, Epochs: &epochs}, nil
}

// exchange makes an attempt now.
func (d *device) exchange() (wire.Answer, error) {
	return d.Exchange(d.t.Context(), d.build)
}

// atNext waits until the next attempt is due, and makes it.
func (d *device) atNext() (wire.Answer, error) {
	if wait := d.Next() - d.now(); wait > 0 {
		time.Sleep(wait) // nobody waits inside a bubble
	}
	return d.exchange()
}

// good makes the next attempt, which must succeed.
func (d *device) good() wire.Answer {
	d.t.Helper()
	a, err := d.atNext()
	if err != nil {
		d.t.Fatalf("exchange: %v", err)
	}
	if len(a.Results) != 1 || a.Results[0].ID != message.ID || !a.Results[0].Status.Settles() {
		d.t.Fatalf("answer %+v", a)
	}
	return a
}

var errCut = errors.New("the line is cut")

func discardLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }

func unique[T comparable](list []T) error {
	seen := map[T]int{}
	for i, x := range list {
		if j, ok := seen[x]; ok {
			return fmt.Errorf("%d and %d are the same", j, i)
		}
		seen[x] = i
	}
	return nil
}

func asStrings(list [][]byte) []string {
	out := make([]string, 0, len(list))
	for _, b := range list {
		out = append(out, string(b))
	}
	return out
}

// leaks reports whether text shows eight bytes of secret in a row, raw, in hex
// or as a list of numbers.
func leaks(text string, secret []byte) bool {
	for i := range len(secret) - 8 {
		part := secret[i : i+8]
		numbers := strings.Trim(fmt.Sprintf("%d", part), "[]")
		if strings.Contains(text, string(part)) || strings.Contains(strings.ToLower(text), hex.EncodeToString(part)) || strings.Contains(text, numbers) {
			return true
		}
	}
	return false
}
