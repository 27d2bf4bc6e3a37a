package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ecowatt/agent/uplink"
	"ecowatt/wire"
)

// Times of listening.
const (
	leastHold   = time.Second // that is asked for; key 8 counts in s
	slotMargin  = time.Second // from the end of a hold to the next slot at least
	listenRetry = time.Minute // pause after a held request that failed, doubled each time,
	mostRetry   = time.Hour   // up to this
)

// listening decides when a request is held open between slots, so that the cloud
// can say something at once (protocol, section 5, holding back). It never delays a
// slot, and asks ever more seldom what brings nothing. It is a value; times are
// since boot.
//
//	what came of it                     the next one
//	held for as long as was asked       at once
//	something new was said              at once
//	the same as before was said         after a pause that doubles
//	nothing was said, before its time   after the next slot
//	no answer                           after a minute, doubled each time, at most an hour
type listening struct {
	most     time.Duration // that is asked for; 0 for never
	off      bool          // until the next slot
	after    time.Duration // not before this
	failures int           // in a row
	repeats  int           // answers in a row that said what the one before said
	said     string        // by the last answer
}

// ask returns for how long the next request is to be held; else, with 0, when to
// ask again. The next slot is at next. While a command is under way the hold is
// short, for its result is to go up at once.
func (l listening) ask(now, next time.Duration, busy bool) (hold, wait time.Duration) {
	left := next - now
	switch {
	case l.most < leastHold || l.off:
		return 0, left
	case now < l.after:
		return 0, min(left, l.after-now)
	}
	hold = min(l.most, left-slotMargin).Truncate(time.Second)
	if hold < leastHold {
		return 0, left
	}
	if busy {
		hold = leastHold
	}
	return hold, 0
}

// answered is the listening after an answer that was asked to be held for so long
// and took so long.
func (l listening) answered(now, asked, took time.Duration, h heard) listening {
	l.failures = 0
	switch {
	case h.recovery, !h.says && took < asked-leastHold:
		l.off = true
	case h.says && h.mark == l.said && h.settled == 0:
		l.repeats++
		l.after = now + pace<<min(l.repeats, 16)
	default:
		l.repeats = 0
		l.after = now + pace
	}
	l.said = h.mark
	return l
}

// failed is the listening after a request that was not answered.
func (l listening) failed(now time.Duration) listening {
	l.after = now + min(listenRetry<<min(l.failures, 10), mostRetry)
	l.failures++
	return l
}

// attempt is what an exchange is for.
type attempt struct {
	begins  bool          // it begins a slot
	samples bool          // it takes them along
	hold    time.Duration // how long its answer may be held back, if it has no messages
}

// heard is what an answer brought.
type heard struct {
	more     bool   // another exchange is worth it at once
	settled  int    // messages
	says     bool   // it has more than the time
	mark     string // the same for answers that say the same
	recovery bool   // the session is only for getting a key
}

// hear sums up an answer.
func hear(a wire.Answer) heard {
	h := heard{says: len(a.Results) > 0 || a.Config != nil || len(a.Commands) > 0 || a.KeyOffer != nil || a.Firmware != nil || a.Checkpoint != ""}
	for _, c := range a.Commands {
		h.mark += c.ID.String()
	}
	if a.Config != nil {
		h.mark += fmt.Sprint(" configuration ", a.Config.Revision)
	}
	if a.KeyOffer != nil {
		h.mark += fmt.Sprint(" key ", a.KeyOffer.Epoch)
	}
	if a.Firmware != nil {
		h.mark += fmt.Sprintf(" firmware %x", a.Firmware.Manifest)
	}
	h.mark += a.Checkpoint
	return h
}

// talk makes an exchange whenever one is due, until ctx ends: in every slot; when
// a command has a result; and, where the settings say so, one that is held open.
func (d *device) talk(ctx context.Context) error {
	loop := d.pulse.loop("talk")
	for ctx.Err() == nil {
		loop.waits(0)
		now, line := d.now(), d.uplink.Status()
		if now >= line.Next {
			d.slot(ctx)
			d.listening.off = false
			continue
		}
		news, hold, wait := d.control.news, time.Duration(0), line.Next-now
		if line.State != uplink.Ready || line.Failures > 0 {
			news = nil // it goes with the next slot
		} else {
			hold, wait = d.listening.ask(now, line.Next, d.control.isBusy())
		}
		if hold > 0 {
			wait = 0
		}
		loop.waits(wait)
		pause := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-d.updates.proven:
			d.apply()
		case <-news:
			d.errand(ctx, 0)
		case <-pause.C:
			if hold > 0 {
				d.errand(ctx, hold)
			}
		}
		pause.Stop()
	}
	return nil
}

// errand makes an exchange between slots, without samples.
func (d *device) errand(ctx context.Context, hold time.Duration) {
	if stats, _ := d.queue.stats(); hold == 0 && stats.Messages == 0 {
		return // what there was went with the slot
	}
	sent := d.now()
	h, err := d.exchange(ctx, attempt{hold: hold})
	now := d.now()
	switch {
	case ctx.Err() != nil, errors.Is(err, uplink.ErrNotDue):
		return
	case err != nil:
		d.listening = d.listening.failed(now)
	default:
		d.listening = d.listening.answered(now, hold, now-sent, h)
		if h.more && h.settled > 0 { // the rest follows
			signal(d.control.news)
		}
	}
	d.noteContact(err)
}
