package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"ecowatt/internal/disk"
)

// DefaultBudget is how often a register that wears out is written on one day where
// nothing else is said.
const DefaultBudget = 100

// Codes of the device log that this package writes.
const (
	codeLeaseStarted     = "lease_started"
	codeLeaseEnded       = "lease_ended"
	codeLeaseOverwritten = "lease_overwritten"
	codeLeaseReapplied   = "lease_reapplied"    // the inverter had lost it while it was away
	codeLeaseNotRestored = "lease_not_restored" // there is no way back
	codeJournalLost      = "journal_lost"
	codeJournalFailing   = "journal_failing"
)

// Options are what an Engine is made of. All but Budget are required.
type Options struct {
	FS     disk.FS       // the gateway's folder
	Now    func() Moment // the time
	Logger *slog.Logger

	// Pause waits for d; false when ctx ends before that.
	Pause func(ctx context.Context, d time.Duration) bool
	// Inverter is what is known of an inverter by now.
	Inverter func(name string) (Inverter, bool)
	// Tell takes a result to be sent, durably. It is called again for one that it
	// did not take, and may be for one that it took.
	Tell func(Result) error

	Allowed bool // whether inverters may be written
	Budget  int  // writes per day of a register that wears out; 0 for DefaultBudget
}

// Engine carries out commands. It is for one goroutine.
type Engine struct {
	o Options
	j journal

	queue   []queued
	waiting map[ID]int     // results that were told and not settled since: how often their commands came again
	watches map[spot]watch // of the limits
	failing bool           // the journal could not be written the last time
	urgent  bool           // it has to be written in this step
	stale   bool           // it is behind what is in memory
	saved   time.Duration  // when it was written, since boot
	restart bool

	recovering time.Duration // until when the outcome of an intent is looked for; 0: not begun
}

// queued is a command that waits for its turn.
type queued struct {
	Command
	until time.Duration // since boot: it is not begun later, whatever the time says then
	timed bool          // whether until is known
}

// lostAfter is how often a command may come again before its result is taken for
// lost on the way: an outbox that is full gives up what is oldest in it.
const lostAfter = 16

// spot is a point of an inverter.
type spot struct{ inverter, point string }

// Open reads the journal and goes on with it. Where it cannot be read, nobody
// knows what the commands that come next already did: see Deliver.
func Open(o Options) (*Engine, error) {
	if o.FS == nil || o.Now == nil || o.Logger == nil || o.Pause == nil || o.Inverter == nil || o.Tell == nil {
		return nil, errors.New("commands: folder, clock, logger, pause, inverters and outbox are needed")
	}
	if o.Budget == 0 {
		o.Budget = DefaultBudget
	}
	e := &Engine{o: o, waiting: map[ID]int{}, watches: map[spot]watch{}}
	var err error
	e.j, err = readJournal(o.FS)
	if errors.Is(err, errNotJournal) {
		e.j.Lost, e.urgent = true, true
		o.Logger.Error("the journal of commands is lost: those that come next are not carried out, and limits that were set stay", "code", codeJournalLost, "error", err)
	} else if err != nil {
		return nil, err
	}
	e.anchor(o.Now())
	return e, nil
}

// Deliver takes what an answer brings: all commands that the cloud waits for, in
// any order, as often as it likes. It returns how many are new. Those whose
// outcome is known are told again, unless that is still on its way.
//
// After the journal was lost the first answer may hold commands that were carried
// out already: they are answered with CodeUnknownOutcome.
func (e *Engine) Deliver(commands []Command) (fresh int) {
	commands = slices.Clone(commands)
	slices.SortStableFunc(commands, func(a, b Command) int { return cmp.Compare(a.Sequence, b.Sequence) })
	now := e.o.Now()
	e.j.compact()
	for _, c := range commands {
		known := e.j.entry(c.ID)
		switch {
		case known != nil:
			if n, waits := e.waiting[c.ID]; waits && n < lostAfter {
				e.waiting[c.ID]++
			} else {
				known.Told = false
			}
		case e.j.Intent != nil && e.j.Intent.ID == c.ID:
		case slices.ContainsFunc(e.queue, func(q queued) bool { return q.ID == c.ID }):
		case len(e.j.Entries)+len(e.queue) >= maxEntries: // it comes again
		case e.j.Lost:
			e.end(c.Sequence, Result{ID: c.ID, Code: CodeUnknownOutcome, Text: "the gateway's journal was lost: the command was not begun now, and nobody knows whether it was before"})
		default:
			fresh++
			e.o.Logger.Info("a command has come", "command", c.ID.String(), "action", c.Action, "sequence", c.Sequence)
			e.queue = append(e.queue, queued{Command: c}.timedAt(now))
		}
	}
	slices.SortStableFunc(e.queue, func(a, b queued) int { return cmp.Compare(a.Sequence, b.Sequence) })
	if e.j.Lost {
		e.j.Lost, e.urgent = false, true
	}
	return fresh
}

// timedAt notes by when the command is to be begun on the monotonic clock, so that
// no later step of the time can make room for it.
func (q queued) timedAt(now Moment) queued {
	if q.timed || !now.Known {
		return q
	}
	left := time.Duration(min(max(q.NotAfter-now.ms(), -1), int64(maxLease/time.Millisecond)))*time.Millisecond - now.Width
	q.until, q.timed = now.Mono+left, true
	return q
}

// late reports whether the command may not be begun any more.
func (q queued) late(now Moment) bool {
	return now.Mono > q.until || now.Known && (now.Wall+now.Width).Milliseconds() > q.NotAfter
}

// Settled notes that the cloud has the result of a command.
func (e *Engine) Settled(id ID) {
	delete(e.waiting, id)
	if known := e.j.entry(id); known != nil && known.Told {
		known.Settled = true
	}
}

// Busy reports whether a command waits or is under way.
func (e *Engine) Busy() bool { return len(e.queue) > 0 || e.j.Intent != nil }

// Restart reports whether the agent is to be started again. What was ordered is in
// the journal, and answered by the next agent.
func (e *Engine) Restart() bool { return e.restart }

// Step does what is to be done now: it may take as long as an inverter takes to
// follow. It returns how long there is nothing to do unless something is delivered.
// When ctx ends the next Step, of this engine or another one on the same folder,
// goes on.
func (e *Engine) Step(ctx context.Context) time.Duration {
	e.anchor(e.o.Now())
	if e.j.Intent != nil {
		e.recover(ctx)
	}
	e.tell()
	e.keepLimits(ctx)
	if e.j.Intent == nil && ctx.Err() == nil && !e.restart {
		e.next(ctx)
	}
	e.tell()
	if now := e.o.Now(); e.failing || e.urgent || e.saveDue(now) {
		_ = e.save(now) // told by save
	}
	return e.pause()
}

// Close writes what a restart need not tell or find out again.
func (e *Engine) Close() error {
	if !e.stale && !e.failing && !e.urgent {
		return nil
	}
	return e.save(e.o.Now())
}

// anchor brings all leases into the terms of now.
func (e *Engine) anchor(now Moment) {
	for i := range e.j.Limits {
		for k, l := range e.j.Limits[i].Leases {
			if l.Boot != now.Boot || l.Carried && now.Known {
				e.urgent = true
				e.j.Limits[i].Leases[k] = l.at(now)
			}
		}
	}
}

// saveDue reports whether the journal is to be written for the sake of a lease.
func (e *Engine) saveDue(now Moment) bool {
	for _, l := range e.j.Limits {
		for _, x := range l.Leases {
			if now.Mono-e.saved >= saveEvery(x.End-now.Mono) {
				return true
			}
		}
	}
	return false
}

// save writes the journal.
func (e *Engine) save(now Moment) error {
	err := e.j.save(e.o.FS, now)
	if err != nil {
		if !e.failing {
			e.o.Logger.Error("the journal of commands cannot be written", "code", codeJournalFailing, "error", err)
		}
		e.failing = true
		return err
	}
	e.failing, e.urgent, e.stale, e.saved = false, false, false, now.Mono
	return nil
}

// tell hands out the results that were not taken yet.
func (e *Engine) tell() {
	for i := range e.j.Entries {
		x := &e.j.Entries[i]
		if x.Told || e.o.Tell(x.Result) != nil {
			continue
		}
		x.Told, e.stale = true, true
		e.waiting[x.ID] = 0
	}
}

// end notes how a command ended. It is durable once the journal is.
func (e *Engine) end(sequence uint64, r Result) {
	r.Text = short(r.Text)
	e.j.Entries = append(e.j.Entries, entry{Result: r})
	e.j.Last = max(e.j.Last, sequence)
	if e.j.Intent != nil && e.j.Intent.ID == r.ID {
		e.j.Intent = nil
	}
	e.stale = true
	e.o.Logger.Info("a command has ended", "command", r.ID.String(), "status", string(r.Status()), "outcome", string(r.Code), "text", r.Text)
}

// finish ends a command, durably where that is possible.
func (e *Engine) finish(sequence uint64, r Result) {
	e.end(sequence, r)
	_ = e.save(e.o.Now()) // told by save; the next Step tries again
}

// maxText is the longest text of a result, in bytes.
const maxText = 2048

func short(text string) string {
	if len(text) <= maxText {
		return text
	}
	cut := maxText - len("…")
	for cut > 0 && text[cut]&0xc0 == 0x80 { // within a character
		cut--
	}
	return text[:cut] + "…"
}

// Pauses.
const (
	longest    = time.Hour
	retryAfter = 5 * time.Second // a disk that cannot be written, an inverter that is away
)

// pause is how long the engine has nothing to do.
func (e *Engine) pause() time.Duration {
	now := e.o.Now()
	wait := longest
	untold := slices.ContainsFunc(e.j.Entries, func(x entry) bool { return !x.Told })
	if e.failing || e.j.Intent != nil || untold {
		wait = retryAfter
	}
	if len(e.queue) > 0 && len(e.j.Entries) < maxEntries && e.j.Intent == nil {
		if e.queue[0].timed || now.Known {
			return 0
		}
		wait = min(wait, time.Second)
	}
	for _, l := range e.j.Limits {
		wait = min(wait, e.limitWait(l, now.Mono))
	}
	return max(wait, 0)
}

// next carries out the command whose turn it is.
func (e *Engine) next(ctx context.Context) {
	if len(e.queue) == 0 || len(e.j.Entries) >= maxEntries {
		return
	}
	q := e.queue[0].timedAt(e.o.Now())
	if !q.timed { // whether it is late nobody can say
		return
	}
	if q.Sequence <= e.j.Last {
		e.queue = e.queue[1:]
		e.finish(q.Sequence, Result{ID: q.ID, Code: CodeOutOfOrder, Text: fmt.Sprintf(
			"command %d came when command %d had been carried out: it is not begun now, and whether it was before is not known any more", q.Sequence, e.j.Last)})
		return
	}
	e.o.Logger.Info("a command begins", "command", q.ID.String(), "action", q.Action)
	r, ended := e.run(ctx, q)
	e.queue = e.queue[1:]
	if ended {
		e.finish(q.Sequence, r)
	}
}

// run carries out a command. It is not ended when ctx has, or when the next agent
// is to answer for it.
func (e *Engine) run(ctx context.Context, q queued) (r Result, ended bool) {
	if q.late(e.o.Now()) {
		return Result{ID: q.ID, Code: CodeTooLate, Text: "it came, or its turn did, after the time until which it was to be begun"}, true
	}
	if w := (order{Command: q.Command}); w.writes() && !e.o.Allowed {
		return Result{ID: q.ID, Code: CodeControlNotAllowed, Text: "allow_control is not set in the gateway's agent.yaml: nothing is written"}, true
	}
	o, err := parse(q.Command, e.o.Inverter)
	if err != nil {
		return failure(q.ID, err), true
	}
	switch o.Action {
	case RestartAgent:
		return e.restartAgent(q)
	case ReadPoints:
		return e.readPoints(ctx, o)
	}
	return e.write(ctx, o, q)
}

// failure is the result of a command that was not begun.
func failure(id ID, err error) Result {
	if r, ok := refusalOf(err); ok {
		return Result{ID: id, Code: r.code, Text: r.text}
	}
	code := CodeInverterAway
	if _, refused := exception(err); refused {
		code = CodeRefused
	}
	return Result{ID: id, Code: code, Text: err.Error()}
}

func (e *Engine) restartAgent(q queued) (Result, bool) {
	before := e.j.clone()
	e.j.Intent = &intent{ID: q.ID, Action: RestartAgent, At: e.o.Now().ms()}
	e.j.Last = max(e.j.Last, q.Sequence)
	if err := e.save(e.o.Now()); err != nil {
		e.j = before
		return storageFailed(q.ID, err), true
	}
	e.restart = true
	return Result{}, false
}

func storageFailed(id ID, err error) Result {
	return Result{ID: id, Code: CodeStorageFailed, Text: "nothing is done that cannot be noted before: " + err.Error()}
}
