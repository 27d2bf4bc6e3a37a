// Package acquire samples inverters: it decides when to read, what to try
// again, what is missing, and when an inverter is away. A Poller does no I/O of
// its own and has no goroutine; whoever runs it owns the clock and the
// connection:
//
//	for {
//		wait(p.Next(now()))
//		for _, batch := range p.Poll(ctx, now()) {
//			keep(batch)
//		}
//	}
//
// What could not be read is missing: never 0, and never what it was before. A
// point that is not read for every sample is therefore not in the others: points
// of one class make batches of their own.
//
// Of all that is tried again, two things are decided here: a read of which no
// answer was understood, as long as its tick lasts, and how soon an inverter that
// is away is polled. That a busy inverter is asked again, and for how long a dead
// one is not asked at all for the sake of others on its line, is up to the Source.
package acquire

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"ecowatt"
	"ecowatt/inverter"
)

// MinInterval is the shortest sampling interval.
const MinInterval = 100 * time.Millisecond

// Inverter says what is sampled.
type Inverter struct {
	Name     string
	Unit     byte
	Profile  inverter.Profile
	Points   []string      // names of what is read
	Interval time.Duration // between two samples; whole ms, at least MinInterval
	Full     bool          // polled at every interval, also while it sleeps or is away

	// Find looks for what the inverter is, before it is read for the first time
	// and whenever it is back; nil where Profile says it. With it, Profile is what
	// was found last, for Found alone, and Points those that are to be read if
	// they are there; none for all.
	Find Find
}

// Source carries out reads. A refusal by the inverter itself is an error that
// has the method ExceptionCode() byte; one that has RetryAt() time.Time says that
// nothing was tried, nor will be before then; every other error says that no
// answer was understood. A Source bounds the time of a read, and asks an
// inverter again that is busy.
type Source interface {
	Read(ctx context.Context, unit byte, r inverter.Read) ([]uint16, error)
}

// Poller samples one inverter. Its methods are for one goroutine, except
// Status and Found, which any may call.
type Poller struct {
	inverter Inverter
	interval int64 // ms
	source   Source
	logger   *slog.Logger

	groups []*group // the points, by class; nil until it is known what is to be read
	tick   int64    // the last one polled; −1 before
	asleep bool     // as the inverter told last

	read  bool // the texts, since the inverter was away; a refusal counts
	still stillness
	pulse pulse

	mu     sync.Mutex // guards what follows
	status Status
	found  Found
}

// New returns a poller of in, which reads from source. now, like all times
// here, is in ms on a clock that does not step; it is when the poller starts.
func New(in Inverter, source Source, logger *slog.Logger, now int64) (*Poller, error) {
	if err := in.checkInterval(); err != nil {
		return nil, err
	}
	found := Found{Profile: in.Profile, Points: in.Points}
	var groups []*group
	if in.Find != nil {
		found.Points = pointsOf(in.Profile, in.Points)
	} else {
		var err error
		if groups, err = in.groups(); err != nil {
			return nil, err
		}
	}
	return &Poller{
		inverter: in,
		interval: in.Interval.Milliseconds(),
		source:   source,
		logger:   logger.With("inverter", in.Name),
		groups:   groups,
		tick:     -1,
		status:   Status{Name: in.Name, Since: now, LastSample: never},
		found:    found,
	}, nil
}

func (in Inverter) checkInterval() error {
	if in.Interval < MinInterval || in.Interval%time.Millisecond != 0 {
		return fmt.Errorf("inverter %s: a sampling interval of %v is not in whole ms or shorter than %v", in.Name, in.Interval, MinInterval)
	}
	return nil
}

// groups returns the groups of the points, all of which the profile must have.
func (in Inverter) groups() ([]*group, error) {
	if _, err := in.Profile.Plan(in.Points); err != nil {
		return nil, fmt.Errorf("inverter %s: %w", in.Name, err)
	}
	groups, err := newGroups(in)
	if err != nil {
		return nil, fmt.Errorf("inverter %s: %w", in.Name, err)
	}
	return groups, nil
}

// Next returns how long to wait before the next Poll: until the next tick of
// the interval's grid, or a later one while the inverter sleeps or is away and is
// not to be polled fully. Ticks that passed meanwhile are left out, not made up
// for.
func (p *Poller) Next(now int64) time.Duration {
	return time.Duration(next(now, p.period())) * time.Millisecond
}

// period is the time between two polls, in ms.
func (p *Poller) period() int64 {
	switch {
	case p.inverter.Full:
		return p.interval
	case p.asleep:
		return asleepPeriod(p.interval)
	}
	return period(p.interval, p.Status().Failures)
}

// Status tells how the inverter is.
func (p *Poller) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Batch is a sample of the points of one class.
type Batch struct {
	Points []string // names, in the order of the values
	Sample ecowatt.Sample
}

// Poll reads what is due of the inverter, one sample for each class of which a
// value could be read; there is none when ctx has ended. Their time is the tick
// of the interval's grid that now belongs to, not the moment at which an answer
// came: that differs by little, and would cost as many bytes as the values do.
func (p *Poller) Poll(ctx context.Context, now int64) []Batch {
	skipped := p.begin(now)
	before := p.Status()
	var due []*group
	var round round
	if err := p.find(ctx); err != nil {
		round = failedRound(err)
	} else if due = p.due(); len(due) == 0 {
		return nil
	} else {
		round = p.readAll(ctx, now, before.State == Away, due)
	}
	if ctx.Err() != nil {
		return nil
	}
	batches, known := p.decode(round, due)
	after := before.after(now, round, known)
	after.Skipped += skipped
	p.mu.Lock()
	p.status = after
	p.mu.Unlock()
	p.tell(ctx, before, after)
	p.tellStill(ctx, batches)
	first := 0
	for _, g := range due {
		n := len(g.plan.Reads())
		errs := round.errs[first : first+n]
		g.note(p.tick, round.words[first:first+n], errs)
		p.learn(ctx, g, errs)
		first += n
	}
	if after.State == Away {
		p.read, p.still, p.pulse = false, stillness{}, pulse{} // it may be another one when it is back
		for _, g := range p.groups {
			g.read = false
		}
	} else if !p.read {
		p.readTexts(ctx)
	}
	return batches
}

// due returns the groups that are read in this tick, the fast one first.
func (p *Poller) due() []*group {
	var due []*group
	for _, g := range p.groups {
		if g.due(p.tick, p.interval) {
			due = append(due, g)
		}
	}
	return due
}

// decode makes the samples of a round, of the tick itself, and counts the values
// that are known.
func (p *Poller) decode(r round, due []*group) (batches []Batch, known int) {
	values := make([][]ecowatt.Value, len(due))
	first := 0
	for i, g := range due {
		n := len(g.plan.Reads())
		values[i] = g.plan.Decode(r.words[first : first+n])
		if asleep, told := g.asleep(p.Found().Profile.Sleeping, values[i]); told {
			p.asleep = asleep
		}
		first += n
	}
	for i, g := range due {
		if n := g.judge(values[i], p.asleep); n > 0 {
			known += n
			batches = append(batches, Batch{Points: g.points, Sample: ecowatt.Sample{At: p.tick * p.interval, Values: values[i]}})
		}
	}
	return batches, known
}

// begin notes the tick of now and returns how many were left out because the
// poll before took too long.
func (p *Poller) begin(now int64) uint64 {
	tick, last := tickOf(now, p.interval), p.tick
	p.tick = tick
	if last < 0 || p.period() > p.interval || tick <= last {
		return 0
	}
	return uint64(tick - last - 1)
}

// round is what the reads of one tick brought.
type round struct {
	words    [][]uint16 // one per read; nil if it failed or was not tried
	errs     []error    // one per read; nil if it did not fail or was not tried
	answered bool       // the inverter said something, if only that it refuses
	points   int        // asked for
	retries  uint64
}

// failedRound is a round of which nothing came but err.
func failedRound(err error) round {
	return round{words: [][]uint16{nil}, errs: []error{err}, answered: answered(err)}
}

// readAll carries out the reads of all groups that are due. When nothing answers
// the first one, the others are not tried: each would only wait as long again.
func (p *Poller) readAll(ctx context.Context, now int64, away bool, due []*group) round {
	length := next(now, p.interval)
	tick, cancel := context.WithTimeout(ctx, time.Duration(length)*time.Millisecond)
	defer cancel()
	budget := maxRetries
	if away {
		budget = 0
	}
	var reads []inverter.Read
	points := 0
	for _, g := range due {
		reads = append(reads, g.plan.Reads()...)
		points += len(g.points)
	}
	r := round{points: points, words: make([][]uint16, len(reads)), errs: make([]error, len(reads))}
	for i, read := range reads {
		for {
			r.words[i], r.errs[i] = p.readOne(ctx, read)
			r.answered = r.answered || answered(r.errs[i])
			if budget == 0 || !worthRetrying(r.errs[i]) || !pause(tick, retryPause(maxRetries-budget)) {
				break
			}
			budget--
			r.retries++
		}
		if !r.answered {
			break
		}
	}
	return r
}

// readOne carries out one read.
func (p *Poller) readOne(ctx context.Context, read inverter.Read) ([]uint16, error) {
	words, err := p.source.Read(ctx, p.inverter.Unit, read)
	if err == nil && len(words) != int(read.Count) {
		err = fmt.Errorf("%d registers came instead of %d", len(words), read.Count)
	}
	if err != nil {
		p.logger.DebugContext(ctx, "read failed", "table", read.Table.String(), "address", read.Address, "count", read.Count, "error", err)
		return nil, err
	}
	return words, nil
}

// pause waits for d; false if ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// learn divides blocks that the inverter refuses for some register in them.
// One refusal may be an accident; the second in a row is taken seriously.
func (p *Poller) learn(ctx context.Context, g *group, errs []error) {
	for i, err := range errs {
		if code, ok := exceptionCode(err); !ok || code != illegalAddress {
			g.refused[i] = 0
			continue
		}
		g.refused[i]++
	}
	for i, refusals := range slices.Backward(g.refused) {
		if refusals != refusalsToSplit {
			continue
		}
		read := g.plan.Reads()[i]
		split, ok := g.plan.Split(i)
		if !ok {
			p.logger.WarnContext(ctx, "the inverter does not have a point of its profile", "code", "point_refused", "table", read.Table.String(), "address", read.Address)
			continue
		}
		p.logger.InfoContext(ctx, "the inverter refuses a block of registers; it is divided", "code", "block_refused", "table", read.Table.String(), "address", read.Address, "count", read.Count)
		g.plan = split
		g.refused = slices.Replace(g.refused, i, i+1, 0, 0)
	}
}
