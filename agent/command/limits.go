package command

import (
	"context"
	"errors"
	"slices"
	"time"

	"ecowatt/inverter"
)

// How a limit is watched over.
const (
	watchEvery = 30 * time.Second // whether it still stands
	mostRetry  = time.Minute      // between attempts to end a lease
)

// watch is what is known of the watching of a limit; it need not outlive the agent.
type watch struct {
	look    time.Duration // when the next one is due, since boot
	retry   time.Duration // pause after the last failure to end a lease
	away    bool          // the last look failed
	timer   time.Duration // of the inverter's own fallback; 0: it has none, or it is off
	asked   bool          // whether timer is known
	feeding time.Duration // when the inverter was told last
}

func spotOf(l limit) spot { return spot{l.Inverter, l.Point} }

// limitWait is how long there is nothing to do for a limit.
func (e *Engine) limitWait(l limit, now time.Duration) time.Duration {
	w := e.watches[spotOf(l)]
	if e.underWay(l) {
		return retryAfter
	}
	if l.Unsure || e.over(l, now) || len(l.May) > 0 {
		return w.look - now
	}
	return min(l.next()-now, w.look-now)
}

// underWay reports whether a command is changing the point of l.
func (e *Engine) underWay(l limit) bool {
	return e.j.Intent != nil && e.j.Intent.Inverter == l.Inverter && e.j.Intent.Point == l.Point
}

// over reports whether a lease of l has ended.
func (e *Engine) over(l limit, now time.Duration) bool {
	return !e.o.Allowed || len(l.Leases) == 0 || l.next() <= now
}

// keepLimits ends leases and looks whether the others are still kept.
func (e *Engine) keepLimits(ctx context.Context) {
	for _, l := range cloneLimits(e.j.Limits) { // they are changed meanwhile
		if ctx.Err() != nil {
			return
		}
		if e.underWay(l) {
			continue
		}
		now := e.o.Now().Mono
		w := e.watches[spotOf(l)]
		in, known := e.o.Inverter(l.Inverter)
		p, writable := pointOf(in, l.Point)
		switch {
		case !known || !writable:
			e.orphan(l, now)
		case l.Unsure && now < w.look:
		case !l.Unsure && (e.over(l, now) || len(l.May) > 0) && (w.retry == 0 || now >= w.look):
			e.advance(ctx, p, l, now)
		case now >= w.look:
			e.look(ctx, p, l, now)
		}
	}
}

// orphan lets go of a limit of which the inverter, or the point, is not known any
// more, when its last lease is over.
func (e *Engine) orphan(l limit, now time.Duration) {
	w := e.watches[spotOf(l)]
	w.look = now + watchEvery
	e.watches[spotOf(l)] = w
	if len(l.Leases) > 0 && slices.ContainsFunc(l.Leases, func(x lease) bool { return x.End > now }) {
		return
	}
	e.o.Logger.Error("a power limit has ended, but its inverter is not known any more: it stays", "code", codeLeaseNotRestored, "inverter", l.Inverter, "point", l.Point)
	e.j.drop(l.Inverter, l.Point)
	e.urgent = true
}

// advance makes the inverter obey what is in force when the leases that are over
// are gone: the strictest of the others or, after the last, what was found.
func (e *Engine) advance(ctx context.Context, p point, l limit, now time.Duration) {
	rest := l
	rest.Leases = nil
	var ended []lease
	for _, x := range l.Leases {
		if x.End <= now || !e.o.Allowed {
			ended = append(ended, x)
			rest.Ending = x.OnEnd
			continue
		}
		rest.Leases = append(rest.Leases, x)
	}
	c, err := p.after(rest)
	if err != nil {
		e.o.Logger.Error("a power limit has ended, but nothing is known that would end it: it stays", "code", codeLeaseNotRestored, "inverter", l.Inverter, "point", l.Point, "error", err)
		e.leave(rest, ended)
		return
	}
	if len(l.May) == 0 && len(rest.Leases) > 0 && c.to == l.Set {
		e.leave(rest, ended)
		return
	}
	got, err := e.change(ctx, p, l, c)
	switch {
	case ctx.Err() != nil:
		return
	case err != nil:
		w := e.watches[spotOf(l)]
		w.retry = min(max(2*w.retry, retryAfter), mostRetry)
		w.look = e.o.Now().Mono + w.retry
		e.watches[spotOf(l)] = w
		return
	case !got.is(c.to):
		e.overwritten(l, p, got)
		return
	}
	rest.Set, rest.May = c.to, nil
	e.leave(rest, ended)
}

// after is the change to what is in force with the leases of l.
func (p point) after(l limit) (change, error) {
	if len(l.Leases) > 0 {
		return p.set(l.strictest().Raw)
	}
	if l.Ending == Release {
		c, err := p.release()
		if !errors.Is(err, inverter.ErrNoRelease) {
			return c, err
		}
	}
	return p.putBack(l.Found)
}

// keeps reports whether what stands at p is of the limit's making.
func (p point) keeps(l limit, got standing) bool {
	return got.is(l.Set) || len(l.May) > 0 && p.ours(got, slices.Concat(l.May, []standing{l.Set})...)
}

// errNotTaken says that an inverter keeps what it has.
var errNotTaken = errors.New("it was written, and is not there")

// change brings l into another standing, and returns what stands there then: what
// is neither of the two somebody else wrote, and it stays. It looks before it
// writes, so it may be called again after a failure.
func (e *Engine) change(ctx context.Context, p point, l limit, c change) (standing, error) {
	got, err := p.look(ctx)
	if err != nil {
		return got, err
	}
	if got.is(c.to) || !p.keeps(l, got) {
		return got, nil
	}
	from := []standing{l.Set, c.to}
	if noted := l.changing(c.to); len(noted.May) > len(l.May) {
		from = append(from, noted.May...)
		e.j.put(noted)
		_ = e.save(e.o.Now()) // told by save; what ends a limit is not held up by it
	}
	e.j.today(p.Name, p.name(), e.o.Now()).Count++
	if _, err := p.apply(ctx, c); err != nil {
		return got, err
	}
	if got, err = e.lookFor(ctx, p, c.to); err == nil && (got.is(l.Set) || p.ours(got, from...)) && !got.is(c.to) {
		err = errNotTaken
	}
	return got, err
}

// leave ends leases: rest are those that go on.
func (e *Engine) leave(rest limit, ended []lease) {
	w := e.watches[spotOf(rest)]
	w.retry = 0
	e.watches[spotOf(rest)] = w
	if len(rest.Leases) == 0 {
		e.j.drop(rest.Inverter, rest.Point)
		delete(e.watches, spotOf(rest))
	} else {
		e.j.put(rest)
	}
	e.ended(rest, ended)
}

// ended tells that leases on l have ended.
func (e *Engine) ended(l limit, leases []lease) {
	e.urgent = true
	for _, x := range leases {
		e.o.Logger.Info("a power limit has ended", "code", codeLeaseEnded, "command", x.ID.String(), "inverter", l.Inverter, "on_end", string(x.OnEnd))
	}
}

// look finds out whether a limit is still kept, and tells the inverter again what
// to obey where it would otherwise fall back by itself.
func (e *Engine) look(ctx context.Context, p point, l limit, now time.Duration) {
	w := e.watches[spotOf(l)]
	got, err := p.look(ctx)
	if ctx.Err() != nil {
		return
	}
	if l.Unsure && err == nil {
		if e.resolved(p, l, got) {
			return
		}
	}
	switch {
	case err != nil:
		w.away = true
	case got.is(l.Set):
		w.away = false
		w = e.feed(ctx, p, l, w)
	case w.away && got.is(l.Found): // it lost the limit when it lost power
		w.away = false
		e.reapply(ctx, p, l)
	default:
		e.overwritten(l, p, got)
		return
	}
	w.look = now + watchEvery
	if w.timer > 0 {
		w.look = min(w.look, w.feeding+w.timer/2)
	}
	e.watches[spotOf(l)] = w
}

// resolved finds out whether the newest lease of l ever came about, of which
// nobody knew. It reports whether it did not, and is gone: what it has left of
// itself is brought in order next.
func (e *Engine) resolved(p point, l limit, got standing) bool {
	before := l.May[0]
	l.Unsure, l.May = false, nil
	e.urgent = true
	if got.is(l.Set) || !got.is(before) && !p.ours(got, before, l.Set) {
		e.j.put(l)
		return false
	}
	newest := l.Leases[len(l.Leases)-1]
	rest := l.without(newest.ID)
	rest.Set = before
	e.j.put(rest.changing(l.Set))
	e.ended(rest, []lease{newest})
	return true
}

// feed tells the inverter again what it obeys, when half the time is over after
// which it falls back.
func (e *Engine) feed(ctx context.Context, p point, l limit, w watch) watch {
	if !p.control.Fallback.Given || p.control.Stored {
		return w
	}
	now := e.o.Now().Mono
	if !w.asked {
		v, err := p.read(ctx, at(p.control.Fallback.Timer))
		if err != nil {
			return w
		}
		w.asked, w.feeding = true, now
		if v.Valid && v.Raw > 0 {
			w.timer = time.Duration(min(v.Raw, int64(dayLength/time.Second))) * time.Second
		}
	}
	if w.timer == 0 || now < w.feeding+w.timer/2 {
		return w
	}
	again, err := p.feed(l.Set.Value)
	if err == nil {
		err = p.Line.Write(ctx, p.Unit, again)
	}
	if err != nil {
		e.o.Logger.Debug("feeding an inverter's fallback timer", "inverter", p.Name, "error", err)
	}
	w.feeding = now
	return w
}

// reapply writes a limit that the inverter has lost.
func (e *Engine) reapply(ctx context.Context, p point, l limit) {
	count := e.j.today(p.Name, p.name(), e.o.Now())
	if p.control.Stored && count.Count >= e.o.Budget {
		return
	}
	c, err := p.set(l.strictest().Raw)
	if err != nil {
		return
	}
	count.Count++
	e.urgent = true
	_, err = p.apply(ctx, c)
	e.o.Logger.Warn("the inverter had lost a power limit while it was away; it was written again", "code", codeLeaseReapplied, "inverter", l.Inverter, "error", err)
}

// overwritten lets go of a limit that somebody else has put an end to.
func (e *Engine) overwritten(l limit, p point, got standing) {
	for _, x := range l.Leases {
		e.o.Logger.Warn("somebody else has changed what a power limit set: it is given up", "code", codeLeaseOverwritten,
			"command", x.ID.String(), "inverter", l.Inverter, "set", p.words(l.Set.Value), "found", p.words(got.Value))
	}
	e.j.drop(l.Inverter, l.Point)
	delete(e.watches, spotOf(l))
	e.urgent = true
}

// replaced lets go of the limit on p: an order was given that counts from now on.
func (e *Engine) replaced(p point) {
	if held := e.j.limit(p.Name, p.name()); held != nil {
		l := *held
		l.Leases = nil
		e.leave(l, held.Leases)
	}
}

// unlease takes back what a command that did not come about noted.
func (e *Engine) unlease(p point, in intent) {
	held := e.j.limit(p.Name, p.name())
	if held == nil || in.Action != SetPowerLimit {
		return
	}
	l := held.without(in.ID)
	if len(l.Leases) == 0 && in.Found.is(l.Found) {
		e.j.drop(l.Inverter, l.Point)
	} else {
		l.Set = in.Found
		l = l.changing(in.To) // whatever stands there, it becomes what is in force
		e.j.put(l)
	}
	e.o.Logger.Info("a power limit has ended before it began", "code", codeLeaseEnded, "command", in.ID.String(), "inverter", l.Inverter)
}

// doubt notes that nobody knows whether a limit was written.
func (e *Engine) doubt(in intent) {
	if held := e.j.limit(in.Inverter, in.Point); held != nil && in.Action == SetPowerLimit {
		held.Unsure, held.May = true, []standing{in.Found}
	}
}

// started tells that a lease has begun.
func (e *Engine) started(p point, x lease) {
	until := int64(0)
	if x.Wall != 0 {
		until = x.Wall.Milliseconds()
	}
	e.o.Logger.Info("a power limit begins", "code", codeLeaseStarted, "command", x.ID.String(), "inverter", p.Name,
		"percent", Number{x.Raw, p.register.Point.Exponent}.Float(), "until", until, "on_end", string(x.OnEnd))
}

// Lease is a power limit that is kept.
type Lease struct {
	Command  ID // that ordered it
	Inverter string
	Point    string
	Limit    Number
	InForce  bool // it is the strictest
	Left     time.Duration
	OnEnd    OnEnd
}

// Leases lists the power limits that are kept.
func (e *Engine) Leases() []Lease {
	var all []Lease
	now := e.o.Now().Mono
	for _, l := range e.j.Limits {
		exponent := 0
		if in, ok := e.o.Inverter(l.Inverter); ok {
			if r, ok := in.Profile.Register(l.Point); ok {
				exponent = r.Point.Exponent
			}
		}
		for _, x := range l.Leases {
			all = append(all, Lease{
				Command: x.ID, Inverter: l.Inverter, Point: l.Point, Limit: Number{x.Raw, exponent},
				InForce: x.ID == l.strictest().ID, Left: max(x.End-now, 0), OnEnd: x.OnEnd,
			})
		}
	}
	return all
}
