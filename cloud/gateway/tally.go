package gateway

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/session"
	"ecowatt/wire"
)

// Alarms is the part of a transaction that bounds what the audit log is told of
// security events which others can cause as often as they like.
type Alarms interface {
	// Alarm takes note of events, and returns of how many the log is to be told in
	// this transaction.
	Alarm(a session.Alarm) (tell int64, err error)
	// Overdue returns an alarm of no events of which the rest may be told by now.
	Overdue(at time.Time) (a session.Alarm, ok bool, err error)
}

// subject is the device that a refusal concerns; the zero subject is none.
type subject struct {
	device int64 // row of the device in the store
	name   ecowatt.DeviceID
}

// concerning says whom a refusal concerns. It is told by the audit log, and not
// only counted.
func (r *refusal) concerning(device int64, name ecowatt.DeviceID) *refusal {
	r.about = subject{device, name}
	return r
}

// badMAC is the refusal of a message that was not made with the keys of its
// session. While the session lives, its device is to know.
func badMAC(c session.Claim) *refusal {
	r := refuse(wire.ExchangeBadMAC)
	if c.At.Before(c.Session.Expires) {
		r = r.concerning(c.Session.Device, c.Session.Name)
	}
	return r
}

// Bounds of what is kept and told at a time.
const (
	tallyTime   = time.Minute // between two tellings
	tallyMost   = 1024        // devices and reasons in between; the rest is only counted for all together
	overdueMost = 64          // alarms whose rest is told at a time
)

// tally counts what is refused of known devices until the store is told of it,
// so that whoever causes it costs the store nothing and cannot make it grow.
type tally struct {
	mu     sync.Mutex
	counts map[tallied]int64
}

type tallied struct {
	subject
	reason wire.Reason
}

func newTally() *tally { return &tally{counts: map[tallied]int64{}} }

// count counts a refusal, unless it concerns nobody who is known.
func (t *tally) count(s subject, r wire.Reason) {
	if s != (subject{}) {
		t.add(tallied{s, r}, 1)
	}
}

func (t *tally) add(x tallied, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, there := t.counts[x]; there || len(t.counts) < tallyMost {
		t.counts[x] += n
	}
}

// take returns the counts, and begins anew.
func (t *tally) take() map[tallied]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	counts := maps.Clone(t.counts)
	clear(t.counts)
	return counts
}

// lastTelling is how long it may take to tell what is left when the gateway ends.
const lastTelling = 5 * time.Second

// Run tells the audit log, once a minute, what was refused of devices that are
// known, until ctx ends; then once more, and returns nil. Handlers work without
// it. The store must still commit when ctx ends.
func (g *Gateway) Run(ctx context.Context) error {
	tick := time.NewTicker(tallyTime)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			g.tell(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTelling)
			defer cancel()
			g.tell(last)
			return nil
		}
	}
}

// tell hands what was counted to the store. What cannot be told now is told later.
func (g *Gateway) tell(ctx context.Context) {
	counts, now := g.tally.take(), g.now()
	err := g.store.Commit(ctx, func(tx Tx) error {
		for x, n := range counts {
			a := session.Alarm{Device: x.device, Name: x.name, Reason: x.reason, Count: n, At: now}
			if err := note(tx, a); err != nil {
				return err
			}
		}
		return tellOverdue(tx, now)
	})
	if err != nil {
		for x, n := range counts {
			g.tally.add(x, n)
		}
		g.alarms.raise(ctx, now, "telling what was refused", err)
	}
}

func tellOverdue(tx Tx, now time.Time) error {
	for range overdueMost {
		a, ok, err := tx.Overdue(now)
		if err == nil && ok {
			err = note(tx, a)
		}
		if err != nil || !ok {
			return err
		}
	}
	return nil
}

// note takes note of events, and writes the record where it is time for one.
func note(tx Tx, a session.Alarm) error {
	n, err := tx.Alarm(a)
	if err != nil || n == 0 {
		return err
	}
	return tx.Append(alarmRecord(a, n))
}

// alarmRecord tells of n events.
func alarmRecord(a session.Alarm, n int64) audit.Record {
	r := audit.Record{
		At: a.At, Actor: audit.Actor{Kind: audit.System, Name: "gateway"}, Device: a.Name,
		Attrs: map[string]string{"reason": string(a.Reason), "count": strconv.FormatInt(n, 10)},
	}
	switch a.Reason { //nolint:exhaustive // those that concerning is said of
	case wire.HandshakeOldEpoch:
		r.Action, r.Text = "handshake.refused", fmt.Sprintf("handshakes in the name of a key that was replaced: %d; somebody has an old copy of the device, or recorded it", n)
	case wire.ExchangeBadMAC:
		r.Action, r.Text = "message.refused", fmt.Sprintf("messages of a session that were not made with its keys: %d; somebody on the way changes them or makes them up", n)
	case wire.CloneSuspect:
		r.Action, r.Text = "device.clone_suspect", fmt.Sprintf("more signs of two devices with one key: %d", n)
	default:
		r.Action, r.Text = "message.refused", fmt.Sprintf("messages that were refused: %d", n)
	}
	return r
}

// tellClone tells that two devices seem to have one key.
func (u *unit) tellClone(tx Tx, why session.Suspicion) error {
	text := ""
	switch why {
	case session.Unsuspected:
		return nil
	case session.BootReturned:
		text = "two devices seem to have this key: one that had started anew is back as it was before"
	case session.OftenReplaced:
		text = fmt.Sprintf("two devices seem to have this key, or its agent keeps starting anew: living sessions were replaced more than %d times within an hour", session.ReplacedMost)
	}
	s := u.claim.Session
	n, err := tx.Alarm(session.Alarm{Device: s.Device, Name: s.Name, Reason: wire.CloneSuspect, Count: 1, At: u.claim.At})
	if err == nil && n > 0 {
		u.tell("device.clone_suspect", text, "reason", string(wire.CloneSuspect), "sign", string(why), "count", strconv.FormatInt(n, 10))
	}
	return err
}
