// Package uplink is the device's side of the protocol: it shakes hands when it
// has to, sends one sealed request at a time, and says when to try again.
//
// The decisions are a pure state machine (State) and a pure clock (Clock); an
// Uplink does what they say, over a Transport. Session keys live in memory
// only. Nothing that is not authenticated changes anything but when the next
// attempt is made and, after an ERR 2, whether the session is given up.
package uplink

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"ecowatt/key"
	"ecowatt/wire"
	"ecowatt/wire/noise"
	"ecowatt/wire/record"
)

// Errors of an exchange. All but ErrInFlight and ErrNotDue mean that an attempt was
// made and failed; Next says when the next one is due.
var (
	ErrInFlight      = errors.New("an exchange is under way")
	ErrNotDue        = errors.New("too early for another attempt")
	ErrNoAnswer      = errors.New("no answer from the cloud")
	ErrInvalid       = errors.New("an answer that is not the cloud's")
	ErrNotUnderstood = errors.New("the cloud does not understand the request")
)

// RefusalError is an ERR. Nobody signed it: it may be anybody's on the way.
type RefusalError struct {
	Code       wire.Code
	RetryAfter time.Duration
}

func (e *RefusalError) Error() string { return "the cloud answers: " + e.Code.String() }

// Codes of the device log that this package writes.
const (
	codeBadHS2    = "HS2_BAD"
	codeBadAnswer = "RSP_BAD"
	codeClockStep = "CLK_STEP"
	codeFallback  = string(wire.RotationFallback)
)

// Limits of what an Uplink takes and asks for.
const (
	// DefaultInterval is the length of a slot where none is given.
	DefaultInterval = 15 * time.Minute
	// MinInterval is the shortest slot.
	MinInterval = time.Second
	// MaxHold is the longest time for which the cloud is asked to hold an answer
	// back: it must be here well before wire.AnswerTime is over.
	MaxHold = 20 * time.Second

	// MinRequest is the least room, in bytes, that is ever left for a request: no
	// path is expected to be narrower.
	MinRequest = 16 << 10
)

// Credential is the key of one epoch.
type Credential struct {
	ID    key.ID
	Epoch key.Epoch
	Key   key.Device
}

// Options are what an Uplink is made of. They do not change.
type Options struct {
	Transport  Transport
	Credential Credential
	Fallback   *Credential // tried when the cloud refuses Credential for long; nil for none

	Boot  wire.BootID          // names this boot of the gateway
	Now   func() time.Duration // since that boot; goes on while the gateway sleeps
	Clock Clock                // as restored; the zero Clock knows nothing

	Interval  time.Duration // length of a slot; 0 for DefaultInterval
	MaxAnswer int           // largest answer, bytes; 0 for wire.MaxAnswer

	Random io.Reader // a cryptographic source
	Logger *slog.Logger
}

// Uplink is a device's line to the cloud. Exchange may run in one goroutine at a
// time; the other methods may be called from any.
type Uplink struct {
	o Options

	running sync.Mutex // held by Exchange

	mu        sync.Mutex // guards what follows
	machine   machine
	clock     Clock
	last      time.Duration // of the last good exchange
	exchanged bool          // whether there was one
	err       error         // of the last attempt
	recovery  bool          // whether the session is a recovery session

	// Only Exchange, Rekey and DropFallback touch these, under running.
	active     Credential
	fallback   *Credential
	handshake  *noise.Initiator
	hs1        []byte
	session    noise.Secrets
	maxRequest int // bytes
}

// New returns an Uplink whose first exchange is due at a random point of the
// first slot.
func New(o Options) (*Uplink, error) {
	switch {
	case o.Transport == nil || o.Now == nil || o.Random == nil || o.Logger == nil:
		return nil, errors.New("uplink: transport, clock, random source and logger are needed")
	case o.Credential.Key.IsZero():
		return nil, errors.New("uplink: there is no device key")
	case o.Interval == 0:
		o.Interval = DefaultInterval
	case o.Interval < MinInterval:
		return nil, fmt.Errorf("uplink: an interval of %v is shorter than %v", o.Interval, MinInterval)
	}
	if o.MaxAnswer <= 0 || o.MaxAnswer > wire.MaxAnswer {
		o.MaxAnswer = wire.MaxAnswer
	}
	chance, err := draw(o.Random)
	if err != nil {
		return nil, err
	}
	return &Uplink{
		o:          o,
		machine:    newMachine(o.Now(), o.Interval, o.Fallback != nil, chance),
		clock:      o.Clock,
		active:     o.Credential,
		fallback:   o.Fallback,
		maxRequest: wire.MaxRequest,
	}, nil
}

// draw returns a number in [0, 1).
func draw(random io.Reader) (float64, error) {
	var b [8]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return 0, fmt.Errorf("drawing randomness: %w", err)
	}
	return float64(binary.BigEndian.Uint64(b[:])>>11) / (1 << 53), nil
}

// Status is how the line is.
type Status struct {
	State     State
	Next      time.Duration // when the next attempt is due, since boot
	Exchanged bool          // whether there was a good exchange since the start,
	Last      time.Duration // and when the last one was, since boot
	Failures  int           // attempts in a row that came to nothing
	Fallback  bool          // whether the handshake or session is with the fallback
	Recovery  bool          // whether the session is only for getting a key: it takes no messages
	Err       error         // of the last attempt; nil after a good one
}

// Status returns how the line is.
func (u *Uplink) Status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	return Status{
		State: u.machine.state, Next: u.machine.next, Exchanged: u.exchanged, Last: u.last,
		Failures: u.machine.failures, Fallback: u.machine.fallback, Recovery: u.recovery, Err: u.err,
	}
}

// Next returns when the next attempt is due, as a time since boot.
func (u *Uplink) Next() time.Duration { return u.Status().Next }

// Clock returns what is known of the time.
func (u *Uplink) Clock() Clock {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.clock
}

// SetInterval changes the length of a slot, from now on. It is at least
// MinInterval.
func (u *Uplink) SetInterval(d time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.machine = u.machine.withInterval(max(d, MinInterval), u.o.Now())
}

// Rekey changes the device's key and ends the session, after the exchange that
// is under way: the next one, which may come at once, shakes hands with the new
// key. fallback is the key to try when the cloud refuses it for long, or nil.
func (u *Uplink) Rekey(active Credential, fallback *Credential) {
	u.running.Lock()
	defer u.running.Unlock()
	u.active, u.fallback = active, fallback
	u.mu.Lock()
	u.machine.hasFallback = fallback != nil
	u.mu.Unlock()
	for _, a := range u.step(event{kind: rekeyed}) {
		u.forget(a)
	}
}

// DropFallback forgets the key of the epoch before, after the exchange that is
// under way. The session goes on.
func (u *Uplink) DropFallback() {
	u.running.Lock()
	defer u.running.Unlock()
	u.fallback = nil
	u.mu.Lock()
	defer u.mu.Unlock()
	u.machine.hasFallback = false
}

// step tells the machine what happened.
func (u *Uplink) step(e event) []action {
	chance, err := draw(u.o.Random)
	if err != nil {
		chance = 0.5 // spreading devices apart needs no secret
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	m, actions := u.machine.step(e, u.o.Now(), chance)
	u.machine = m
	return actions
}

// forget does the actions that wipe something.
func (u *Uplink) forget(a action) {
	switch a {
	case forgetHandshake:
		u.handshake, u.hs1 = nil, nil
	case forgetSession:
		u.session.Keys.Destroy()
		u.session = noise.Secrets{}
		u.maxRequest = wire.MaxRequest
		u.mu.Lock()
		u.recovery = false
		u.mu.Unlock()
	case shakeHands, sendAgain, sendRequest, deliver, rest:
	}
}

// Exchange makes one attempt: a handshake when there is no session, then one
// request. build is called when the session stands; room is how many bytes of
// messages (wire.Message.EncodedSize) fit, of which there may be at most
// wire.MaxMessages. Of the request it returns, At, Wall and MaxAnswer are filled
// in here. It may be called again by a later attempt; what it hands
// out stays with the caller until an answer settles it.
//
// Exchange may be called before Next when the last attempt was good; after a
// failed one, or when too many handshakes were made, it returns ErrNotDue.
func (u *Uplink) Exchange(ctx context.Context, build func(room int) (wire.Request, error)) (wire.Answer, error) {
	if !u.running.TryLock() {
		return wire.Answer{}, ErrInFlight
	}
	defer u.running.Unlock()
	var answer wire.Answer
	err := ErrNotDue
	actions := u.step(event{kind: due})
	for len(actions) > 0 {
		a := actions[0]
		actions = actions[1:]
		var e event
		switch a {
		case forgetHandshake, forgetSession:
			u.forget(a)
			continue
		case shakeHands:
			e, err = u.shakeHands(ctx)
		case sendAgain:
			e, err = u.sendAgain(ctx, err)
		case sendRequest:
			answer, e, err = u.sendRequest(ctx, build)
		case deliver:
			u.note(nil)
			return answer, nil
		case rest:
			u.note(err)
			return wire.Answer{}, err
		}
		actions = u.step(e)
	}
	return wire.Answer{}, err
}

// note keeps the outcome of an attempt for Status.
func (u *Uplink) note(err error) {
	if errors.Is(err, ErrNotDue) {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = err
	if err == nil {
		u.exchanged, u.last = true, u.o.Now()
	}
}

// credential returns the key for the handshake that begins.
func (u *Uplink) credential() Credential {
	u.mu.Lock()
	onFallback := u.machine.fallback
	u.mu.Unlock()
	if onFallback && u.fallback != nil {
		u.o.Logger.Warn("the cloud refuses the newest key, shaking hands with the one before", "code", codeFallback, "epoch", uint32(u.fallback.Epoch))
		return *u.fallback
	}
	return u.active
}

// shakeHands makes an HS1 with a fresh ephemeral key and sends it.
func (u *Uplink) shakeHands(ctx context.Context) (event, error) {
	c := u.credential()
	psk := c.Key.NoisePSK(wire.Suite1)
	defer psk.Destroy()
	random := hedge{random: u.o.Random, key: c.Key, boot: u.o.Boot, now: u.o.Now()}
	handshake, hs1, err := noise.Initiate(psk, c.ID, c.Epoch, random)
	if err != nil {
		return event{kind: badWelcome}, err
	}
	u.handshake, u.hs1 = handshake, hs1
	return u.sendHS1(ctx)
}

// sendAgain pauses and sends the same HS1 once more. before is why.
func (u *Uplink) sendAgain(ctx context.Context, before error) (event, error) {
	u.mu.Lock()
	resends := u.machine.resends
	u.mu.Unlock()
	chance, err := draw(u.o.Random)
	if err != nil {
		return event{kind: noAnswer}, err
	}
	pause := time.NewTimer(time.Duration((0.5 + chance) * float64(resendPause<<(resends-1))))
	defer pause.Stop()
	select {
	case <-ctx.Done():
		return event{kind: noAnswer}, before
	case <-pause.C:
		return u.sendHS1(ctx)
	}
}

func (u *Uplink) sendHS1(ctx context.Context) (event, error) {
	sent := u.o.Now()
	hs2, e, err := u.post(ctx, wire.PathSession, u.hs1, wire.HS2MaxSize)
	if err != nil {
		return e, err
	}
	received := u.o.Now()
	if received-sent > wire.AnswerTime {
		return event{kind: noAnswer}, fmt.Errorf("%w within %v", ErrNoAnswer, wire.AnswerTime)
	}
	secrets, welcome, err := u.handshake.Finish(hs2)
	if err != nil {
		u.o.Logger.Warn("the answer to the handshake does not open", "code", codeBadHS2)
		return event{kind: badWelcome}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	u.session = secrets
	u.maxRequest = max(int(min(welcome.MaxRequest, wire.MaxRequest)), MinRequest)
	u.mu.Lock()
	again := u.machine.resends > 0
	u.recovery = welcome.Flags&wire.RecoverySession != 0
	u.mu.Unlock()
	if !again { // else HS2 may be a repetition, and its time that of the first one
		u.observe(welcome.ServerTime, sent, received)
	}
	return event{kind: welcomed, lifetime: welcome.Lifetime}, nil
}

// sendRequest seals what build returns under the next sequence number and
// sends it. No number is used twice: whatever happens to this one, the machine
// has moved past it.
func (u *Uplink) sendRequest(ctx context.Context, build func(room int) (wire.Request, error)) (wire.Answer, event, error) {
	q, err := build(wire.MessageRoom(u.maxRequest))
	if err != nil {
		return wire.Answer{}, event{kind: noAnswer}, fmt.Errorf("building a request: %w", err)
	}
	sent := u.o.Now()
	u.mu.Lock()
	seq := u.machine.seq
	q.Wall = u.clock.Wall(sent)
	u.mu.Unlock()
	q.At = wire.Instant{Boot: u.o.Boot, Mono: sent.Milliseconds()}
	q.MaxAnswer = uint32(u.o.MaxAnswer)
	q.Hold = min(q.Hold, MaxHold)
	body, err := wire.EncodeRequest(q)
	if err != nil {
		return wire.Answer{}, event{kind: noAnswer}, err
	}
	req, mac, err := record.SealRequest(u.session.Keys, u.session.SID, seq, body)
	if err != nil {
		return wire.Answer{}, event{kind: noAnswer}, err
	}
	rsp, e, err := u.post(ctx, wire.PathExchange, req, u.o.MaxAnswer)
	if err != nil {
		if e.kind == tooLarge { // the path may be narrower than the cloud says
			u.maxRequest = max(u.maxRequest/2, MinRequest)
		}
		return wire.Answer{}, e, err
	}
	received := u.o.Now()
	if received-sent > wire.AnswerTime {
		return wire.Answer{}, event{kind: noAnswer}, fmt.Errorf("%w within %v", ErrNoAnswer, wire.AnswerTime)
	}
	opened, err := record.OpenAnswer(u.session.Keys, u.session.SID, seq, mac, rsp)
	if err != nil {
		u.o.Logger.Warn("the answer does not open", "code", codeBadAnswer)
		return wire.Answer{}, event{kind: badAnswer}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	answer, err := wire.DecodeAnswer(opened)
	if err != nil {
		u.o.Logger.Error("the answer opens but makes no sense", "code", codeBadAnswer, "error", err)
		return wire.Answer{}, event{kind: badAnswer}, err
	}
	u.observe(answer.ServerTime, sent, received)
	if f := answer.Failure; f != nil {
		u.o.Logger.Error("the cloud does not understand the request", "code", string(f.Code), "text", f.Text)
		return wire.Answer{}, event{kind: badAnswer}, fmt.Errorf("%w: %s", ErrNotUnderstood, f.Code)
	}
	return answer, event{kind: answered, nextSlot: answer.NextSlot}, nil
}

// observe sets the clock by an authenticated answer.
func (u *Uplink) observe(server int64, sent, received time.Duration) {
	u.mu.Lock()
	before, _, _ := u.clock.Offset(received)
	clock, outcome := u.clock.Observe(server, sent, received)
	u.clock = clock
	u.mu.Unlock()
	offset, uncertainty, _ := clock.Offset(received)
	switch outcome {
	case SyncFirst:
		u.o.Logger.Info("the time is known", "uncertainty", uncertainty)
	case SyncStepped:
		u.o.Logger.Warn("the clock was stepped", "code", codeClockStep, "by", offset-before)
	case SyncDoubted:
		u.o.Logger.Warn("the cloud's time is far off, waiting for it to say so again")
	case SyncKept, SyncAdjusted:
	}
}

// post sends a message and sorts what came back. On a nil error it is the body
// of a 200 that begins as our messages do, and nothing else is known of it.
func (u *Uplink) post(ctx context.Context, path string, msg []byte, limit int) ([]byte, event, error) {
	ctx, cancel := context.WithTimeout(ctx, wire.AnswerTime)
	defer cancel()
	reply, err := u.o.Transport.Post(ctx, path, msg, limit)
	if err != nil {
		return nil, event{kind: noAnswer}, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	if reply.Status == statusOK {
		if _, err := wire.ParseHeader(reply.Body); errors.Is(err, wire.ErrForeign) {
			return nil, event{kind: noAnswer}, fmt.Errorf("%w: something else answers in its place", ErrNoAnswer)
		}
		return reply.Body, event{}, nil
	}
	e, err := wire.ParseError(reply.Body)
	if err != nil {
		what := noAnswer
		if reply.Status == statusTooLarge {
			what = tooLarge
		}
		return nil, event{kind: what}, fmt.Errorf("%w: HTTP status %d", ErrNoAnswer, reply.Status)
	}
	return nil, event{kind: kindOf(e.Code), retryAfter: e.RetryAfter}, &RefusalError{Code: e.Code, RetryAfter: e.RetryAfter}
}

// HTTP statuses that mean something here.
const (
	statusOK       = 200
	statusTooLarge = 413
)

func kindOf(c wire.Code) kind {
	switch c {
	case wire.CodeMalformed:
		return malformed
	case wire.CodeRefused:
		return refused
	case wire.CodeBusy:
		return busy
	case wire.CodeUnavailable:
		return unavailable
	case wire.CodeTooLarge:
		return tooLarge
	}
	return noAnswer
}
