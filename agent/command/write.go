package command

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"ecowatt"
)

// How an inverter is asked again.
const (
	lookTries   = 3               // before a write, and
	verifyTries = 5               // after it, until what was written stands there
	lookPause   = 2 * time.Second // between them
	unsurePause = 2 * time.Second // before the first look after a write that was not answered

	recoverTime = 10 * time.Minute // for which the outcome of a command is looked for after a crash
)

// readPoints reads points. Of one alone the result has the value too.
func (e *Engine) readPoints(ctx context.Context, o order) (Result, bool) {
	r := Result{ID: o.ID, Code: CodeDone, ExecutedAt: e.o.Now().ms()}
	texts := make([]string, len(o.points))
	for i, name := range o.points {
		v, number, err := readPoint(ctx, o.inverter, name)
		if ctx.Err() != nil {
			return Result{}, false
		}
		if err != nil {
			return failure(o.ID, err), true
		}
		texts[i] = name + " " + v
		if len(o.points) == 1 {
			r.Value = number
		}
	}
	r.Text = strings.Join(texts, ", ")
	return r, true
}

// readPoint reads one point: its value for people, and as a number where it is
// one.
func readPoint(ctx context.Context, in Inverter, name string) (string, *Number, error) {
	plan, err := in.Profile.Plan([]string{name})
	if err != nil {
		return "", nil, err
	}
	words := make([][]uint16, len(plan.Reads()))
	for i, read := range plan.Reads() {
		if words[i], err = in.Line.Read(ctx, in.Unit, read); err != nil {
			return "", nil, err
		}
	}
	v, r := plan.Decode(words)[0], plan.Registers()[0]
	if !v.Valid {
		return "is not known", nil, nil
	}
	text := ecowatt.Decimal(v.Raw, r.Point.Exponent) + unit(r.Point.Unit)
	if meaning := r.Describe(v.Raw); meaning != "" {
		text += " (" + meaning + ")"
	}
	return text, &Number{v.Raw, r.Point.Exponent}, nil
}

// lookPatiently looks, several times if that fails.
func (e *Engine) lookPatiently(ctx context.Context, p point) (s standing, err error) {
	for range lookTries {
		if s, err = p.look(ctx); err == nil {
			return s, nil
		}
		if _, refused := exception(err); refused || !e.o.Pause(ctx, lookPause) {
			break
		}
	}
	return s, err
}

// lookFor looks until what is wanted stands there, several times.
func (e *Engine) lookFor(ctx context.Context, p point, want standing) (s standing, err error) {
	for i := range verifyTries {
		if i > 0 && !e.o.Pause(ctx, lookPause) {
			return s, errors.Join(err, ctx.Err())
		}
		if s, err = p.look(ctx); err == nil && s.is(want) {
			return s, nil
		}
	}
	return s, err
}

// write carries out an order to write.
func (e *Engine) write(ctx context.Context, o order, q queued) (Result, bool) {
	p, _ := pointOf(o.inverter, o.register.Point.Name)
	found, err := e.lookPatiently(ctx, p)
	if ctx.Err() != nil {
		return Result{}, false
	}
	if err != nil {
		return failure(o.ID, err), true
	}
	c, err := p.set(o.raw)
	if err != nil {
		return failure(o.ID, refuse(CodeOutOfRange, "%v", err)), true
	}
	l := e.heldAt(p, found)
	if o.Action == SetPowerLimit {
		if len(l.Leases) >= maxLeases {
			return failure(o.ID, refuse(CodeOutOfRange, "there are %d leases on %s already", maxLeases, p.name())), true
		}
		looser := len(l.Leases) > 0 && o.raw > l.strictest().Raw
		l.Leases = append(l.Leases, newLease(o, e.o.Now()))
		if looser {
			return e.hold(o, p, l, CodeNotInForce, fmt.Sprintf("%s is in force, by command %s", p.words(ecowatt.Known(l.strictest().Raw)), l.strictest().ID)), true
		}
		l.Set, l.May, l.Unsure = c.to, nil, false
	}
	if found.is(c.to) {
		return e.hold(o, p, l, CodeUnchanged, "it stood there already; nothing was written"), true
	}
	return e.begin(ctx, o, q, attempt{p: p, change: c, found: found, limit: l})
}

// heldAt is the limit on p, or a new one where there is none that still stands.
func (e *Engine) heldAt(p point, found standing) limit {
	fresh := limit{Inverter: p.Name, Point: p.name(), Found: found, Set: found}
	held := e.j.limit(p.Name, p.name())
	if held != nil && held.Unsure {
		e.resolved(p, *held, found)
		held = e.j.limit(p.Name, p.name())
	}
	if held == nil {
		return fresh
	}
	if !p.keeps(*held, found) {
		e.overwritten(*held, p, found)
		return fresh
	}
	return held.without(ID{})
}

// hold ends an order for which nothing is to be written.
func (e *Engine) hold(o order, p point, l limit, code Code, text string) Result {
	if o.Action == SetPowerLimit {
		e.j.put(l)
		e.started(p, l.Leases[len(l.Leases)-1])
	} else {
		e.replaced(p)
	}
	raw := l.Set.Value.Raw
	if o.Action == WritePoint {
		raw = o.raw
	}
	return Result{ID: o.ID, Code: code, Text: text, ExecutedAt: e.o.Now().ms(), Value: &Number{raw, p.register.Point.Exponent}}
}

// attempt is what an order is about to do.
type attempt struct {
	p      point
	change change
	found  standing
	limit  limit // as it will be, of set_power_limit
}

// begin checks the last things, notes the intent and writes.
func (e *Engine) begin(ctx context.Context, o order, q queued, a attempt) (Result, bool) {
	p := a.p
	lacks, err := p.required(ctx)
	power := e.power(ctx, p, a.change.to)
	now := e.o.Now()
	count := e.j.today(p.Name, p.name(), now)
	switch {
	case ctx.Err() != nil:
		return Result{}, false
	case err != nil:
		return failure(o.ID, err), true
	case lacks != "":
		return failure(o.ID, refuse(CodeRequires, "%s", lacks)), true
	case p.control.Stored && count.Count >= e.o.Budget:
		return failure(o.ID, refuse(CodeWriteBudget, "%s was written %d times today, and each time wears the inverter's memory", p.name(), count.Count)), true
	case q.late(now):
		return Result{ID: o.ID, Code: CodeTooLate, Text: "the inverter took too long to answer"}, true
	}
	before := e.j.clone()
	in := intent{ID: o.ID, Action: o.Action, Inverter: p.Name, Point: p.name(), Found: a.found, To: a.change.to, At: now.ms()}
	e.j.Intent = &in
	e.j.Last = max(e.j.Last, o.Sequence)
	count.Count++
	if o.Action == SetPowerLimit {
		e.j.put(a.limit)
	}
	if err := e.save(now); err != nil {
		e.j = before
		return storageFailed(o.ID, err), true
	}
	if o.Action == SetPowerLimit {
		e.started(p, a.limit.Leases[len(a.limit.Leases)-1])
	}
	if q.late(e.o.Now()) {
		e.unlease(p, in)
		return Result{ID: o.ID, Code: CodeTooLate, Text: "the gateway took too long to note what it was about to do"}, true
	}
	became, err := p.apply(ctx, a.change)
	if became == untouched {
		e.unlease(p, in)
		return failure(o.ID, err), true
	}
	return e.conclude(ctx, p, in, conclusion{became: became, err: err, power: power})
}

// conclusion is what is known of writes that were carried out, or may have been.
type conclusion struct {
	became    fate
	err       error // why they ended early
	power     power
	recovered bool // they are of an agent before this one
}

// conclude finds out what a command has brought about. It writes nothing but what
// undoes a change that stopped half way.
func (e *Engine) conclude(ctx context.Context, p point, in intent, c conclusion) (Result, bool) {
	settle := p.control.Settle
	if c.became != applied {
		settle = max(settle, unsurePause)
	}
	if settle > 0 && !c.recovered {
		_ = e.o.Tell(Result{ID: in.ID, Code: CodeStarted, Text: "watching whether the inverter follows", ExecutedAt: in.At}) // the end will be told
	}
	if settle > 0 && !e.o.Pause(ctx, settle) {
		return Result{}, false
	}
	got, err := e.lookFor(ctx, p, in.To)
	if ctx.Err() != nil {
		return Result{}, false
	}
	r := Result{ID: in.ID, ExecutedAt: in.At}
	if got.Value.Valid {
		r.Value = &Number{got.Value.Raw, p.register.Point.Exponent}
	}
	switch {
	case err != nil && c.recovered:
		return Result{}, false
	case err != nil:
		r.Code, r.Text, r.Value = CodeUnknownOutcome, "the inverter cannot be read after the write: "+err.Error(), nil
		if c.err != nil {
			r.Text += "; the write ended with: " + c.err.Error()
		}
		e.doubt(in)
	case got.is(in.To):
		r.Code, r.Text = CodeDone, p.name()+" is "+p.words(got.Value)
		if c.recovered {
			r.Text += ", as was found after a restart of the agent"
		}
		if in.Action == WritePoint {
			e.replaced(p)
		}
		if text := e.judge(ctx, p, c.power); text != "" {
			r.Code, r.Text = CodeNoEffect, text
		}
	case got.is(in.Found):
		e.unlease(p, in)
		r.Code, r.Text = CodeNotTaken, fmt.Sprintf("%s was to be %s and is %s, as before", p.name(), p.words(in.To.Value), p.words(got.Value))
		if c.recovered {
			r.Code, r.Text = CodeInterrupted, fmt.Sprintf("the agent was stopped before it wrote: %s is %s, as before", p.name(), p.words(got.Value))
		}
		if c.err != nil {
			r.Text += "; the write ended with: " + c.err.Error()
		}
	case p.ours(got, in.Found, in.To):
		return e.undo(ctx, p, in, c)
	default:
		r.Code, r.Text = CodeOverwritten, fmt.Sprintf("%s was %s, was to be %s, and is %s: somebody else writes it", p.name(), p.words(in.Found.Value), p.words(in.To.Value), p.words(got.Value))
		if held := e.j.limit(p.Name, p.name()); held != nil {
			e.overwritten(*held, p, got)
		}
	}
	return r, ctx.Err() == nil
}

// undo puts back what was found where only a part of a change was carried out.
func (e *Engine) undo(ctx context.Context, p point, in intent, c conclusion) (Result, bool) {
	r := Result{ID: in.ID, ExecutedAt: in.At, Code: CodeRefused, Text: "only a part of the writes was carried out"}
	if _, refused := exception(c.err); !refused {
		r.Code = CodeInterrupted
	}
	if c.err != nil {
		r.Text += ": " + c.err.Error()
	}
	back, err := p.putBack(in.Found)
	if err == nil {
		_, err = p.apply(ctx, back)
	}
	var got standing
	if ctx.Err() == nil {
		if got, err = e.lookFor(ctx, p, back.to); err == nil && !got.is(back.to) {
			err = errors.New("it did not take it")
		}
	}
	if ctx.Err() != nil {
		return Result{}, false
	}
	e.unlease(p, in)
	if err == nil {
		r.Text += "; it was undone"
		return r, true
	}
	r.Text += "; it will be undone when the inverter takes it: " + err.Error()
	if e.j.limit(p.Name, p.name()) == nil { // one without leases, which is to end
		e.j.put(limit{Inverter: p.Name, Point: p.name(), Found: in.Found, Set: in.Found}.changing(in.To))
	}
	return r, true
}

// recover ends the command that was under way when the agent before this one
// ended, or when ctx did.
func (e *Engine) recover(ctx context.Context) {
	in := *e.j.Intent
	if in.Action == RestartAgent {
		if !e.restart {
			e.finish(0, Result{ID: in.ID, Code: CodeDone, Text: "the agent was started again", ExecutedAt: in.At})
		}
		return
	}
	now := e.o.Now()
	if e.recovering == 0 {
		e.recovering = now.Mono + recoverTime
	}
	inv, ok := e.o.Inverter(in.Inverter)
	p, writable := pointOf(inv, in.Point)
	if ok && writable {
		if r, ended := e.conclude(ctx, p, in, conclusion{became: unsure, recovered: true}); ended {
			e.recovering = 0
			e.finish(0, r)
			return
		}
	}
	if ctx.Err() == nil && e.o.Now().Mono > e.recovering {
		e.recovering = 0
		e.doubt(in)
		e.finish(0, Result{
			ID: in.ID, Code: CodeUnknownOutcome, ExecutedAt: in.At,
			Text: "the agent was stopped in the middle of it, and the inverter cannot be read since",
		})
	}
}

// power is what the judgement of a limit by its effect needs. The zero power is
// judged by nobody.
type power struct{ bound float64 }

// tolerance is by what part of its rated power an inverter may be above a limit.
const tolerance = 0.05

// ratedPower is the point that tells what a percentage is of.
const ratedPower = "rated_power"

// power tells what the proof of a limit may be afterwards. A limit is judged only
// where the profile knows the rated power, and the power is above the limit before.
func (e *Engine) power(ctx context.Context, p point, to standing) power {
	if p.control.Proof == "" || p.register.Point.Unit != "%" || !to.Value.Valid {
		return power{}
	}
	rated, ok := watts(ctx, p.Inverter, ratedPower)
	if !ok || rated <= 0 {
		return power{}
	}
	share := float64(to.Value.Raw) * math.Pow10(p.register.Point.Exponent) / 100
	bound := rated * (share + tolerance)
	before, ok := watts(ctx, p.Inverter, p.control.Proof)
	if !ok || before <= bound {
		return power{}
	}
	return power{bound}
}

// judge says what is wrong with the effect of a limit; empty where nothing is, or
// nobody can say.
func (e *Engine) judge(ctx context.Context, p point, w power) string {
	if w.bound == 0 {
		return ""
	}
	var now float64
	for i := range 3 {
		if i > 0 && !e.o.Pause(ctx, time.Second) {
			return ""
		}
		var ok bool
		if now, ok = watts(ctx, p.Inverter, p.control.Proof); !ok || now <= w.bound {
			return ""
		}
	}
	return fmt.Sprintf("the inverter has taken the limit, but %s is %.0f W where at most %.0f W would be", p.control.Proof, now, w.bound)
}

// watts reads a point; false where that brings no value.
func watts(ctx context.Context, in Inverter, name string) (float64, bool) {
	if _, ok := in.Profile.Register(name); !ok {
		return 0, false
	}
	_, v, err := readPoint(ctx, in, name)
	if err != nil || v == nil {
		return 0, false
	}
	return v.Float(), true
}
