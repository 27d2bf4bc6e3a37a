package uplink

import (
	"time"

	"ecowatt/wire"
)

// Times of the state machine (PROTOCOL section 8).
const (
	firstBackoff = 15 * time.Second // doubled with every failure, up to one slot
	resendPause  = 5 * time.Second  // before HS1 goes out again, doubled each time
	maxResends   = 2                // of one HS1

	maxSlot = 24 * time.Hour // the longest pause that an answer may ask for

	budgetWindow = time.Hour // in it
	budget       = 4         // handshakes at most
	burstWindow  = 15 * time.Minute
	burst        = 3

	fallbackRefusals = 3         // handshakes refused in a row,
	fallbackAge      = time.Hour // over at least this time, before the other key is tried
)

// State is where a device stands with the cloud.
//
//	            due, within the budget
//	NoSession ──────────────────────────> HandshakeSent ──┐ no answer: the same
//	  ^ ^  ^                                │     │  ^     │ HS1 again, at most
//	  │ │  │  refused, busy, HS2 does not   │     │  └─────┘ twice
//	  │ │  └───── open, no answer 3 times ──┘     │
//	  │ │                                         │ HS2 opens; the request
//	  │ │            refused                      v follows at once
//	  │ └───────────────────────────────────── Waiting <─┐
//	  │                                           │      │ due
//	  │  due, but the session is        answered, │      │
//	  └─ too old or used up ── Ready <────────────┘      │
//	                             │    no answer, or one  │
//	                             │    that does not open │
//	                             └───────────────────────┘
//
// When the device's key changes, every state becomes NoSession.
// Session keys, sequence number and ephemeral keys are never written to disk;
// after a restart everything begins at NoSession.
type State int

// The states.
const (
	NoSession     State = iota // no keys
	HandshakeSent              // HS1 is out, its ephemeral key waits for HS2
	Ready                      // there are session keys
	Waiting                    // a REQ is out
)

// String returns a word for people.
func (s State) String() string {
	switch s {
	case NoSession:
		return "no session"
	case HandshakeSent:
		return "shaking hands"
	case Ready:
		return "ready"
	case Waiting:
		return "waiting"
	}
	return "unknown"
}

// kind is what happened.
type kind int

const (
	due         kind = iota // somebody wants an exchange
	welcomed                // HS2 opened
	badWelcome              // 200, but no HS2 of this handshake
	answered                // RSP opened and was understood
	badAnswer               // 200, but no RSP to this request, or one of no use
	noAnswer                // time is up, no connection, no message of ours
	refused                 // ERR 2
	busy                    // ERR 3
	unavailable             // ERR 4
	malformed               // ERR 1
	tooLarge                // ERR 5
	rekeyed                 // the device's key is another one now
)

// event is what happened, and what it said.
type event struct {
	kind       kind
	lifetime   time.Duration // welcomed: of the session
	retryAfter time.Duration // of an ERR; whoever is on the way may have written it
	nextSlot   time.Duration // answered: until the next exchange; 0 when not said
}

// action is something to do. Actions are done in order.
type action int

const (
	forgetHandshake action = iota // wipe the ephemeral key
	forgetSession                 // wipe the session keys
	shakeHands                    // make an HS1 with a fresh ephemeral key and send it
	sendAgain                     // pause, then send the same HS1
	sendRequest                   // seal a request under the number seq and send it
	deliver                       // hand the answer to whoever asked for the exchange
	rest                          // this attempt is over; the next one is at next
)

// machine is the whole state of the device's side. It is a value: step returns
// the next one. Times are since boot, on the monotonic clock.
type machine struct {
	state    State
	interval time.Duration // one slot

	slot     time.Duration // the regular exchange that comes next
	next     time.Duration // the next attempt: slot, or a retry
	failures int           // attempts in a row that came to nothing

	resends    int                   // of the HS1 that is out
	handshakes [budget]time.Duration // when the last ones began, newest first
	shaken     int                   // how many there were, up to budget

	refusals     int           // of handshakes, in a row
	refusedSince time.Duration // the first of them
	hasFallback  bool          // there is a key of the epoch before
	fallback     bool          // the handshake or session is with that key

	seq      wire.Sequence // of the last REQ of the session
	born     time.Duration // when the session began
	lifetime time.Duration
}

// newMachine starts at now with the first exchange at a random point of the
// interval. chance is uniform in [0, 1).
func newMachine(now, interval time.Duration, hasFallback bool, chance float64) machine {
	first := now + time.Duration(chance*float64(interval))
	return machine{interval: interval, slot: first, next: first, hasFallback: hasFallback}
}

// step is the whole machine: what becomes of it, and what is to be done, when e
// happens at now. chance is uniform in [0, 1) and spreads devices apart. An
// event that cannot happen in a state changes nothing.
func (m machine) step(e event, now time.Duration, chance float64) (machine, []action) {
	if e.kind == rekeyed {
		m.state, m.refusals, m.fallback = NoSession, 0, false
		return m, []action{forgetHandshake, forgetSession}
	}
	switch m.state {
	case NoSession:
		return m.inNoSession(e, now, chance)
	case HandshakeSent:
		return m.inHandshakeSent(e, now, chance)
	case Ready:
		return m.inReady(e, now, chance)
	case Waiting:
		return m.inWaiting(e, now, chance)
	}
	return m, nil
}

func (m machine) inNoSession(e event, now time.Duration, chance float64) (machine, []action) {
	switch e.kind {
	case due:
		if m.early(now) {
			return m, []action{rest}
		}
		if at := m.budgetAt(now); at > now {
			m.next = at + time.Duration(chance*float64(firstBackoff))
			return m, []action{rest}
		}
		m.handshakes = [budget]time.Duration{now, m.handshakes[0], m.handshakes[1], m.handshakes[2]}
		m.shaken = min(m.shaken+1, budget)
		m.fallback = m.hasFallback && m.refusals >= fallbackRefusals && now-m.refusedSince >= fallbackAge
		m.state, m.resends = HandshakeSent, 0
		return m, []action{shakeHands}
	case welcomed, badWelcome, answered, badAnswer, noAnswer, refused, busy, unavailable, malformed, tooLarge, rekeyed:
	}
	return m, nil
}

func (m machine) inHandshakeSent(e event, now time.Duration, chance float64) (machine, []action) {
	switch e.kind {
	case welcomed:
		m.state = Waiting
		m.refusals = 0
		m.born, m.lifetime, m.seq = now, min(e.lifetime, wire.MaxSessionAge), 1
		return m, []action{forgetHandshake, sendRequest}
	case noAnswer, unavailable:
		if m.resends < maxResends {
			m.resends++
			return m, []action{sendAgain}
		}
	case refused:
		if m.refusals == 0 {
			m.refusedSince = now
		}
		m.refusals++
		if m.fallback { // that was not it either: begin the count anew
			m.refusals = 0
		}
	case badWelcome, busy, malformed, tooLarge:
	case due, answered, badAnswer, rekeyed:
		return m, nil
	}
	m.state = NoSession
	return m.failed(e, now, chance), []action{forgetHandshake, rest}
}

func (m machine) inReady(e event, now time.Duration, chance float64) (machine, []action) {
	switch e.kind {
	case due:
		if m.early(now) {
			return m, []action{rest}
		}
		if now-m.born >= m.lifetime || m.seq >= wire.MaxSessionRequests {
			m.state = NoSession
			m, actions := m.inNoSession(e, now, chance)
			return m, append([]action{forgetSession}, actions...)
		}
		m.state = Waiting
		m.seq++
		return m, []action{sendRequest}
	case welcomed, badWelcome, answered, badAnswer, noAnswer, refused, busy, unavailable, malformed, tooLarge, rekeyed:
	}
	return m, nil
}

func (m machine) inWaiting(e event, now time.Duration, chance float64) (machine, []action) {
	switch e.kind {
	case answered:
		m.state, m.failures = Ready, 0
		return m.planned(e, now), []action{deliver, rest}
	case badAnswer, noAnswer, busy, unavailable, malformed, tooLarge:
		m.state = Ready
		return m.failed(e, now, chance), []action{rest}
	case refused:
		m.state = NoSession
		return m.failed(e, now, chance), []action{forgetSession, rest}
	case due, welcomed, badWelcome, rekeyed:
	}
	return m, nil
}

// early reports whether an attempt at now would cut a back-off short. Between
// regular slots an exchange may come at any time.
func (m machine) early(now time.Duration) bool { return m.failures > 0 && now < m.next }

// budgetAt returns when the next handshake may begin: now or later.
func (m machine) budgetAt(now time.Duration) time.Duration {
	at := now
	if m.shaken >= burst {
		at = max(at, m.handshakes[burst-1]+burstWindow)
	}
	if m.shaken >= budget {
		at = max(at, m.handshakes[budget-1]+budgetWindow)
	}
	return at
}

// failed plans the attempt after one that came to nothing. What an ERR asks for
// counts only up to one slot, for nobody signed it.
func (m machine) failed(e event, now time.Duration, chance float64) machine {
	delay := backoff(m.failures, m.interval, chance)
	m.next = now + max(delay, min(e.retryAfter, m.interval))
	m.failures++
	return m
}

// backoff returns 15 s · 2^failures, give or take half of it, and at most one
// slot; where the slot cuts it short it is still spread over half a slot.
func backoff(failures int, slot time.Duration, chance float64) time.Duration {
	delay := slot
	if failures < 20 {
		delay = time.Duration((0.5 + chance) * float64(firstBackoff<<failures))
	}
	if delay >= slot {
		return time.Duration((0.5 + chance/2) * float64(slot))
	}
	return delay
}

// planned moves on to the next slot after a good exchange: when the cloud said,
// else the next one of the device's own rhythm. An exchange between two slots can
// only bring the next one forward; if it put it off, one that is held open in every
// slot would put it off for ever.
func (m machine) planned(e event, now time.Duration) machine {
	said := now + min(e.nextSlot, maxSlot)
	switch {
	case e.nextSlot > 0 && now < m.slot:
		m.slot = min(m.slot, said)
	case e.nextSlot > 0:
		m.slot = said
	case m.slot <= now:
		m.slot = now + m.interval - (now-m.slot)%m.interval
	}
	m.next = m.slot
	return m
}

// withInterval changes the length of a slot. The next one begins no later than
// a new slot from now; a back-off that runs is not cut short.
func (m machine) withInterval(interval, now time.Duration) machine {
	m.interval = interval
	m.slot = min(m.slot, now+interval)
	if m.failures == 0 {
		m.next = m.slot
	}
	return m
}
