package model

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"ecowatt/agent/identity"
	"ecowatt/cloud/session"
	"ecowatt/key"
	"ecowatt/wire"
)

// Numbers of the protocol, once more.
const (
	waitTime     = 120 * time.Second   // of a session, for its first request
	waitMost     = 8                   // sessions that wait
	longest      = 48 * time.Hour      // of any session
	keptFor      = 14 * 24 * time.Hour // the key of the epoch before
	replacedMost = 3                   // sessions within an hour, of one device
)

// keyStates are the keys that the cloud knows.
type keyStates map[key.ID]session.KeyState

func (s keyStates) admits(c identity.Credential) bool {
	return s[c.ID] == session.KeyActive || s[c.ID] == session.KeyPending
}

// accept reports whether the cloud lets in who holds the keys.
func (s keyStates) accept(k identity.Keys) bool {
	return s.admits(k.Active) || k.Staged != nil && s.admits(*k.Staged) || k.Fallback != nil && s.admits(*k.Fallback)
}

// getsIn reports whether the cloud lets in who holds the keys, by the window if
// there is no other way.
func (v view) getsIn(k identity.Keys) bool {
	return v.keys.accept(k) || v.keys[k.Active.ID] == session.KeyRecovery && trueTime().Add(maxSkew).Before(v.window)
}

// number names a request within all that were ever made.
type number struct {
	sid wire.SessionID
	seq wire.Sequence
}

// promises are what was true so far, and must stay so.
type promises struct {
	hs1      []byte            // the last one
	hs1s     map[string]bool   // all
	requests map[number][]byte // by what must name one alone
	request  []byte            // the last one
	order    []wire.SessionID  // sessions, as the device began to use them,
	began    []time.Time       // and when
	clones   int               // how often it was told that there are two devices

	welcomes map[string][]byte // HS1 to HS2, since the cloud was restored
	results  map[string][]byte // REQ to its RSP
	salts    map[[16]byte]bool
	highest  map[wire.SessionID]wire.Sequence // accepted

	living  map[wire.SessionID]sessionRow // when last looked
	gone    map[wire.SessionID]bool
	current int // index in order of the newest session that was active

	forgetful bool          // the cloud was restored
	held      identity.Keys // by the device, when last looked
	committed time.Time     // when it was last seen to have committed a key
}

func newPromises() promises {
	return promises{
		hs1s: map[string]bool{}, requests: map[number][]byte{}, welcomes: map[string][]byte{}, results: map[string][]byte{},
		salts: map[[16]byte]bool{}, highest: map[wire.SessionID]wire.Sequence{}, gone: map[wire.SessionID]bool{},
	}
}

// numberOf reads the header of a request.
func numberOf(msg []byte) number {
	h, err := wire.ParseHeader(msg)
	if err != nil {
		return number{}
	}
	return number{h.Session(), h.Sequence()}
}

// name names a message for the log.
func (m message) name() string {
	if m.path == wire.PathSession {
		return fmt.Sprintf("HS1 %x", m.bytes[wire.HeaderSize:wire.HeaderSize+2])
	}
	n := numberOf(m.bytes)
	return fmt.Sprintf("REQ %d of %x", n.seq, n.sid[:2])
}

// sent checks what the device sends: no handshake is made twice, and no two
// requests are sealed under one key and number.
func (w *world) sent(m message) {
	if m.path == wire.PathSession {
		if w.hs1s[string(m.bytes)] && !bytes.Equal(m.bytes, w.hs1) {
			w.Fatalf("%s was made before", m.name())
		}
		w.hs1, w.hs1s[string(m.bytes)] = m.bytes, true
		return
	}
	n := numberOf(m.bytes)
	if w.requests[n] != nil {
		w.Fatalf("%s is the second one of that number", m.name())
	}
	if !slices.Contains(w.order, n.sid) {
		w.order, w.began = append(w.order, n.sid), append(w.began, time.Now())
	}
	w.requests[n], w.request = m.bytes, m.bytes
}

// answered checks what a replica answers: nothing that was not sent so gets
// anything; an HS1 has one HS2; a request is accepted once and in its order; and
// no two answers are sealed under one key.
func (w *world) answered(m message, a answer) {
	if !a.ok() {
		e, err := wire.ParseError(a.body)
		if err != nil {
			w.Fatalf("%s is answered with status %d and %x", m.name(), a.status, a.body)
		}
		if until := w.look().waiting[session.Hash(m.bytes)]; e.Code == wire.CodeRefused && trueTime().Add(maxSkew).Before(until) {
			w.Fatalf("%s is refused, and its session waits", m.name())
		}
		return
	}
	if m.spoilt {
		w.Fatalf("%s is accepted with a bit changed", m.name())
	}
	if m.path == wire.PathSession {
		if before := w.welcomes[string(m.bytes)]; before != nil && !bytes.Equal(before, a.body) {
			w.Fatalf("%s is answered twice, and not in the same way", m.name())
		}
		w.welcomes[string(m.bytes)] = a.body
		return
	}
	n := numberOf(m.bytes)
	if w.results[string(m.bytes)] != nil || n.seq <= w.highest[n.sid] {
		w.Fatalf("%s is accepted after %d", m.name(), w.highest[n.sid])
	}
	salt := [16]byte(a.body[wire.HeaderSize:])
	if w.salts[salt] {
		w.Fatalf("the answer to %s has a salt that was used", m.name())
	}
	w.results[string(m.bytes)], w.highest[n.sid], w.salts[salt] = a.body, n.seq, true
}

// opened checks that what the device takes for the answer to its last request is
// just that.
func (w *world) opened() {
	if want := w.results[string(w.request)]; want == nil || !bytes.Equal(want, w.line.last.body) {
		w.Fatalf("the device took an answer that was not to its request")
	}
}

// settled checks that what was acknowledged is on the cloud's disk.
func (w *world) settled(ids [][16]byte) {
	v := w.look()
	for _, id := range ids {
		i := slices.IndexFunc(w.messages, func(m *said) bool { return m.id == id })
		if i < 0 || !v.ids[id] {
			w.Fatalf("message %x is acknowledged, and not stored", id)
		}
		w.messages[i].settled = true
	}
}

// restored forgets what a restored cloud has forgotten. All sessions are gone.
func (w *world) restored() {
	for sid := range w.living {
		w.gone[sid] = true
	}
	w.living, w.forgetful = nil, true
	clear(w.welcomes)
}

// check checks what must be true after every step.
func (w *world) check() {
	v := w.look()
	w.checkEffects(v)
	w.checkSessions(v)
	w.checkKeys(v)
	if v.alarms != "" {
		w.Fatalf("the cloud tells of %s", v.alarms)
	}
	w.checkClones(v)
	w.checkClock()
}

// checkClones: one device does not look like two, unless it began session after
// session within an hour.
func (w *world) checkClones(v view) {
	const slack = 5 * time.Minute // a request may arrive later
	if n := len(w.began); v.clones > w.clones && (n <= replacedMost || time.Since(w.began[n-1-replacedMost]) > time.Hour+slack) {
		w.Fatalf("the cloud believes in two devices, after %d sessions", n)
	}
	w.clones = v.clones
}

// checkKeys: the device holds a key that the cloud accepts. A staged key stays
// until it is used or replaced by a later one, and the key of the epoch before
// until its end or until the next one is staged; but nothing survives a burn.
func (w *world) checkKeys(v view) {
	before, now := w.held, w.device.keys
	w.held = now
	if !v.getsIn(now) {
		w.Fatalf("the device holds no key that the cloud accepts: epochs %d and %v, of %v", now.Active.Epoch, now.Staged, v.keys)
	}
	if now.Staged != nil && !w.forgetful && !v.keys.admits(*now.Staged) {
		w.Fatalf("the cloud does not know the key that it has offered")
	}
	switch newest, _ := before.First(); {
	case before.Active.Epoch == 0: // at the beginning, and for a new one
		return
	case now.Active.Epoch < before.Active.Epoch:
		w.Fatalf("the device went from epoch %d to %d", before.Active.Epoch, now.Active.Epoch)
	case now.Active.Epoch < newest.Epoch && (now.Staged == nil || now.Staged.Epoch < newest.Epoch && !w.forgetful):
		w.Fatalf("the device lost the key that it had staged")
	case now.Active.Epoch > before.Active.Epoch:
		w.committed = time.Now()
		if v.keys[now.Active.ID] != session.KeyActive || trueTime().Add(maxSkew).Before(v.window) {
			w.Fatalf("the device uses a key that is %q to the cloud, and the window is open until %v", v.keys[now.Active.ID], v.window)
		}
		if now.Staged != nil || before.Staged == nil { // it staged the next one at once; or both since
			return
		}
		if kept := now.Fallback != nil; kept == before.Burn || kept && !now.Fallback.Equal(before.Active) {
			w.Fatalf("after a rotation with burn %v the device keeps %v", before.Burn, now.Fallback)
		}
	case before.Fallback != nil && now.Fallback == nil && now.Staged == nil && time.Since(w.committed) < keptFor-time.Minute:
		w.Fatalf("the device destroyed the key of the epoch before after %v", time.Since(w.committed))
	}
}

// checkDisk: the device's disk has the keys that the device has, and no other.
func (w *world) checkDisk() {
	id, err := w.device.folder.Load()
	w.must(err)
	names, err := w.device.disk.List("keys")
	w.must(err)
	want := 1
	if w.device.keys.Fallback != nil {
		want = 2
	}
	if len(names) != want || !id.Active.Equal(w.device.keys.Active) || (id.Fallback != nil) != (want == 2) {
		w.Fatalf("the device has epoch %d and a fallback %v, on its disk are epoch %d and %v", w.device.keys.Active.Epoch, want == 2, id.Active.Epoch, names)
	}
}

// checkEffects: a message takes effect once or not at all, and whole; what was
// acknowledged has; and nothing else has any.
func (w *world) checkEffects(v view) {
	all := 0
	for i, m := range w.messages {
		n := v.effects[effectOf(i+1)]
		all += n
		switch {
		case n > 1:
			w.Fatalf("message %d took effect %d times", i+1, n)
		case (n == 1) != v.ids[m.id]:
			w.Fatalf("message %d took effect %d times, and is known: %v", i+1, n, v.ids[m.id])
		case m.settled && n == 0:
			w.Fatalf("message %d was acknowledged and has no effect", i+1)
		}
	}
	for _, n := range v.effects {
		all -= n
	}
	if all != 0 || len(v.ids) > len(w.messages) {
		w.Fatalf("something took effect that was never said: %v", v.effects)
	}
}

// mayEnd reports whether a session may be gone: it is too old, or too many came
// after it, or it had to make room for a later one or a later key, or was there
// for the use of a window alone.
func (v view) mayEnd(s sessionRow) bool {
	later, confirmed := 0, false
	for _, other := range v.sessions {
		if other.handshake > s.handshake {
			later++
			confirmed = confirmed || other.active
		}
	}
	return confirmed || later >= waitMost || s.epoch < v.active || s.recovery || !trueTime().Add(maxSkew).Before(s.expires)
}

// checkSessions: last_seq never falls, a session that is gone stays so, and none
// ends without a reason or takes the place of one that the device began to use after it.
func (w *world) checkSessions(v view) {
	for sid, before := range w.living {
		now, lives := v.sessions[sid]
		switch {
		case !lives:
			w.gone[sid] = true
			if !v.mayEnd(before) {
				w.Fatalf("session %x ended, which was %+v", sid[:2], before)
			}
		case now.last < before.last || before.active && !now.active:
			w.Fatalf("session %x went from %+v to %+v", sid[:2], before, now)
		}
	}
	for sid, now := range v.sessions {
		if w.gone[sid] {
			w.Fatalf("session %x came back", sid[:2])
		}
		if now.last < w.highest[sid] {
			w.Fatalf("session %x has accepted %d and remembers %d", sid[:2], w.highest[sid], now.last)
		}
		lasts := longest
		if !now.active {
			lasts = waitTime
		}
		if now.expires.After(trueTime().Add(lasts + maxSkew)) {
			w.Fatalf("session %x lasts until %v", sid[:2], now.expires)
		}
		if !now.active {
			continue
		}
		i := slices.Index(w.order, sid)
		if i < w.current {
			w.Fatalf("session %x, number %d that was used, took the place of number %d", sid[:2], i+1, w.current+1)
		}
		w.current = i
	}
	w.living = v.sessions
}

// checkClock: what the device believes of the time is as wrong as it says, and
// the clocks of the replicas are.
func (w *world) checkClock() {
	wall := w.device.uplink.Clock().Wall(w.device.now())
	if wall == nil {
		return
	}
	off := time.Duration(wall.At-trueTime().UnixMilli()) * time.Millisecond
	if bound := time.Duration(wall.Uncertainty)*time.Millisecond + maxSkew + time.Millisecond; off.Abs() > bound {
		w.Fatalf("the device's clock is off by %v, and it believes in %v", off, bound)
	}
}
