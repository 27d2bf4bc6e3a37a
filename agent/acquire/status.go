package acquire

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// State is how an inverter is, in one word.
//
//	           a read succeeded   none did
//	Starting   Answering          Away
//	Answering  Answering          Away
//	Away       Answering          Away
//
// An inverter that refuses every read is Away too: nothing can be had from it.
type State byte

// The states.
const (
	Starting  State = iota // not polled yet
	Answering              // the last poll brought something
	Away                   // the last poll brought nothing
)

func (s State) String() string {
	switch s {
	case Starting:
		return "starting"
	case Answering:
		return "answering"
	case Away:
		return "away"
	}
	return fmt.Sprintf("state %d", byte(s))
}

// never is the time of what has not happened yet.
const never = -1

// Status is how sampling an inverter goes. Times are in ms on the clock of
// New and Poll, −1 for never.
type Status struct {
	Name       string
	State      State
	Since      int64  // when State began
	Partial    bool   // the last poll did not bring everything that was asked for
	Frozen     bool   // the inverter tells the same all the time: see stillness
	LastSample int64  // when the last sample was taken
	LastError  string // of the last poll; empty if all went well
	Failures   int    // polls in a row that brought nothing
	Samples    uint64 // taken since the start
	Missing    uint64 // values that were missing in them
	Retries    uint64 // reads tried again since the start
	Skipped    uint64 // ticks left out since the start, because the inverter was slow
}

// after is the status once a round of reads brought known values.
func (s Status) after(now int64, r round, known int) Status {
	var firstErr error
	read := false
	for i, err := range r.errs {
		firstErr = cmp.Or(firstErr, err)
		read = read || r.words[i] != nil
	}
	s.Retries += r.retries
	s.LastError, s.Partial = "", false
	if firstErr != nil {
		s.LastError, s.Partial = firstErr.Error(), read
	}
	state := Answering
	if read {
		s.Failures = 0
	} else {
		state, s.Frozen = Away, false
		s.Failures++
	}
	if s.State != state {
		s.State, s.Since = state, now
	}
	if known > 0 {
		s.Samples++
		s.Missing += uint64(r.points - known)
		s.LastSample = now
	}
	return s
}

// tell logs what changed between two polls, and nothing else: an inverter that
// is away all night is two lines. Code names the event for the cloud's log.
func (p *Poller) tell(ctx context.Context, before, after Status) {
	switch {
	case before.State == after.State:
	case after.State == Away:
		p.logger.WarnContext(ctx, "the inverter does not answer", "code", "inverter_away", "error", after.LastError)
	case before.State == Away:
		p.logger.InfoContext(ctx, "the inverter answers again", "code", "inverter_back",
			"away", time.Duration(after.Since-before.Since)*time.Millisecond, "failures", before.Failures)
	default:
		p.logger.InfoContext(ctx, "the inverter answers", "code", "inverter_found")
	}
	switch {
	case after.Partial && !before.Partial:
		p.logger.WarnContext(ctx, "a part of the points cannot be read", "code", "inverter_partial", "error", after.LastError)
	case before.Partial && !after.Partial && after.State == Answering:
		p.logger.InfoContext(ctx, "all points can be read again", "code", "inverter_whole")
	}
}
