// Package acquire samples inverters: it decides when to read, what to try
// again, what is missing, and when an inverter is away. A Poller does no I/O of
// its own and has no goroutine; whoever runs it owns the clock and the
// connection:
//
//	for {
//		wait(p.Next(now()))
//		if sample, ok := p.Poll(ctx, now()); ok {
//			keep(sample)
//		}
//	}
//
// What could not be read is missing: never 0, and never what it was before.
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
	Points   []string      // names; the values of a sample are in this order
	Interval time.Duration // between two samples; whole ms, at least MinInterval
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
// Status, which any may call.
type Poller struct {
	inverter Inverter
	interval int64 // ms
	source   Source
	logger   *slog.Logger

	plan    inverter.Plan
	refused []int // for each read of the plan: exceptions 02 in a row
	tick    int64 // the last one polled; −1 before

	mu     sync.Mutex // guards status
	status Status
}

// New returns a poller of in, which reads from source. now, like all times
// here, is in ms on a clock that does not step; it is when the poller starts.
func New(in Inverter, source Source, logger *slog.Logger, now int64) (*Poller, error) {
	if in.Interval < MinInterval || in.Interval%time.Millisecond != 0 {
		return nil, fmt.Errorf("inverter %s: a sampling interval of %v is not in whole ms or shorter than %v", in.Name, in.Interval, MinInterval)
	}
	plan, err := in.Profile.Plan(in.Points)
	if err != nil {
		return nil, fmt.Errorf("inverter %s: %w", in.Name, err)
	}
	return &Poller{
		inverter: in,
		interval: in.Interval.Milliseconds(),
		source:   source,
		logger:   logger.With("inverter", in.Name),
		plan:     plan,
		refused:  make([]int, len(plan.Reads())),
		tick:     -1,
		status:   Status{Name: in.Name, Since: now, LastSample: never},
	}, nil
}

// Next returns how long to wait before the next Poll: until the next tick of
// the interval's grid, or a later one while the inverter is away. Ticks that
// passed meanwhile are left out, not made up for.
func (p *Poller) Next(now int64) time.Duration {
	return time.Duration(next(now, period(p.interval, p.Status().Failures))) * time.Millisecond
}

// Status tells how the inverter is.
func (p *Poller) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Poll reads the inverter. The sample is of the instant now; false says that
// there is none, because no value could be read or ctx has ended.
func (p *Poller) Poll(ctx context.Context, now int64) (ecowatt.Sample, bool) {
	skipped := p.begin(now)
	before := p.Status()
	round := p.readAll(ctx, now, before.State == Away)
	if ctx.Err() != nil {
		return ecowatt.Sample{}, false
	}
	sample := ecowatt.Sample{At: now, Values: p.plan.Decode(round.words)}
	known := 0
	for _, v := range sample.Values {
		if v.Valid {
			known++
		}
	}
	after := before.after(now, round, known)
	after.Skipped += skipped
	p.mu.Lock()
	p.status = after
	p.mu.Unlock()
	p.tell(ctx, before, after)
	p.learn(ctx, round.errs)
	return sample, known > 0
}

// begin notes the tick of now and returns how many were left out because the
// poll before took too long.
func (p *Poller) begin(now int64) uint64 {
	tick, last := tickOf(now, p.interval), p.tick
	p.tick = tick
	if last < 0 || period(p.interval, p.Status().Failures) > p.interval || tick <= last {
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

// readAll carries out the plan's reads. When nothing answers the first one,
// the others are not tried: each would only wait as long again.
func (p *Poller) readAll(ctx context.Context, now int64, away bool) round {
	length := next(now, p.interval)
	tick, cancel := context.WithTimeout(ctx, time.Duration(length)*time.Millisecond)
	defer cancel()
	budget := maxRetries
	if away {
		budget = 0
	}
	reads := p.plan.Reads()
	r := round{points: len(p.plan.Registers()), words: make([][]uint16, len(reads)), errs: make([]error, len(reads))}
	for i, read := range reads {
		for {
			r.words[i], r.errs[i] = p.read(ctx, read)
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

// read carries out one read.
func (p *Poller) read(ctx context.Context, read inverter.Read) ([]uint16, error) {
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
func (p *Poller) learn(ctx context.Context, errs []error) {
	for i, err := range errs {
		if code, ok := exceptionCode(err); !ok || code != illegalAddress {
			p.refused[i] = 0
			continue
		}
		p.refused[i]++
	}
	for i, refusals := range slices.Backward(p.refused) {
		if refusals != refusalsToSplit {
			continue
		}
		read := p.plan.Reads()[i]
		split, ok := p.plan.Split(i)
		if !ok {
			p.logger.WarnContext(ctx, "the inverter does not have a point of its profile", "code", "point_refused", "table", read.Table.String(), "address", read.Address)
			continue
		}
		p.logger.InfoContext(ctx, "the inverter refuses a block of registers; it is divided", "code", "block_refused", "table", read.Table.String(), "address", read.Address, "count", read.Count)
		p.plan = split
		p.refused = slices.Replace(p.refused, i, i+1, 0, 0)
	}
}
