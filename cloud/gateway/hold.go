package gateway

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"ecowatt"
	"ecowatt/cloud/session"
)

// DefaultHold is for how long an answer that says nothing is held back, where a
// device asks for that much.
const DefaultHold = 20 * time.Second

// MaxHold bounds what may be configured: an answer must be with the device well
// before wire.AnswerTime is over.
const MaxHold = 25 * time.Second

// heldMost is how many answers are held at a time; the others go out at once,
// and their devices come back when it is their turn.
const heldMost = 10_000

// holds are the requests whose answers may be held back, from before their commit
// on: so nothing is missed that is committed after it.
type holds struct {
	mu      sync.Mutex
	all     int
	waiting map[ecowatt.DeviceID][]*hold
}

// hold is one of them.
type hold struct {
	device ecowatt.DeviceID
	wake   chan struct{} // capacity 1: there is something new for the device
	over   chan struct{} // closed when a later request of the device was accepted
}

func newHolds() *holds { return &holds{waiting: map[ecowatt.DeviceID][]*hold{}} }

// begin adds a request of a device; nil where there are too many.
func (h *holds) begin(device ecowatt.DeviceID) *hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all >= heldMost {
		return nil
	}
	h.all++
	x := &hold{device: device, wake: make(chan struct{}, 1), over: make(chan struct{})}
	h.waiting[device] = append(h.waiting[device], x)
	return x
}

// end takes it out again. nil is nothing.
func (h *holds) end(x *hold) {
	if x == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.waiting[x.device], x); i >= 0 {
		h.remove(x.device, i)
	}
}

func (h *holds) remove(device ecowatt.DeviceID, i int) {
	h.all--
	if h.waiting[device] = slices.Delete(h.waiting[device], i, i+1); len(h.waiting[device]) == 0 {
		delete(h.waiting, device)
	}
}

// accepted ends what an earlier request of the device waits for, now that a later
// one was accepted; x is that one, or nil where it waits for nothing.
func (h *holds) accepted(device ecowatt.DeviceID, x *hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, earlier := range slices.Backward(h.waiting[device]) {
		if earlier != x {
			close(earlier.over)
			h.remove(device, i)
		}
	}
}

func (h *holds) wake(device ecowatt.DeviceID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, x := range h.waiting[device] {
		select {
		case x.wake <- struct{}{}:
		default: // it knows
		}
	}
}

func (h *holds) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.all
}

// Wake sends the answer that is held back for a device, if any, as soon as it has
// something to say. It is called after the commit of what the device is to be
// told, from any goroutine, and does not wait.
func (g *Gateway) Wake(device ecowatt.DeviceID) { g.holds.wake(device) }

// Held returns how many answers are held back now.
func (g *Gateway) Held() int { return g.holds.count() }

// mayHold begins to listen for what is new for the device of a unit which is not
// committed yet, if its answer is one to hold back; else it returns nil.
func (g *Gateway) mayHold(u *unit) *hold {
	if min(u.hold, g.hold) <= 0 || u.problem != "" || u.claim.Session.Recovery {
		return nil
	}
	return g.holds.begin(u.claim.Session.Name)
}

// keep holds the answer to a committed unit back until there is something to say,
// for as long as the device wants and the cloud allows. It returns the unit whose
// answer is to be sealed.
func (g *Gateway) keep(ctx context.Context, in *incoming, x *hold, u *unit) (*unit, *refusal) {
	g.holds.accepted(u.claim.Session.Name, x)
	if x == nil || u.says() {
		return u, nil
	}
	in.forget()
	u.messages = nil
	patience := min(u.hold, g.hold)
	in.linger(patience)
	end := time.NewTimer(patience)
	defer end.Stop()
	for {
		select {
		case <-x.wake:
			later, ok := g.resume(ctx, u)
			if ok && later.says() {
				u.destroyOffer()
				return later, nil
			}
			if !ok {
				return u, nil
			}
		case <-x.over:
			return u, nil
		case <-g.draining:
			return u, nil
		case <-end.C:
			return u, nil
		case <-ctx.Done():
			return u, g.unavailable(ctx, "holding an answer", ctx.Err())
		}
	}
}

// resume looks, in a transaction of its own, for what there is to say by now, and
// takes note of what the answer will carry. It is not ok when nothing will come of
// waiting any longer: then the answer stays empty, and the device asks again.
func (g *Gateway) resume(ctx context.Context, u *unit) (later *unit, ok bool) {
	s, err := g.store.Session(ctx, u.claim.Session.SID)
	if err != nil {
		return nil, false
	}
	later = &unit{claim: session.Claim{Session: s, Seq: u.claim.Seq, At: g.now(), Boot: u.claim.Boot}, limit: u.limit, hold: u.hold, roots: u.roots}
	later.room = later.reserve(later.limit)
	later.slot = s.Slot
	g.key(ctx, later)
	if err := g.store.Commit(ctx, later.resume); err != nil {
		later.destroyOffer()
		return nil, false
	}
	if !later.says() {
		later.destroyOffer()
	}
	return later, true
}

// linger moves the server's bounds on the time of a request on, so that they do
// not end the wait.
func (in *incoming) linger(patience time.Duration) {
	if in.writer == nil {
		return
	}
	until := time.Now().Add(patience + lingerTime)
	control := http.NewResponseController(in.writer)
	_ = control.SetReadDeadline(until) // a writer without deadlines needs none moved
	_ = control.SetWriteDeadline(until)
}

// lingerTime is how long the answer may take once it is no longer held.
const lingerTime = 20 * time.Second
