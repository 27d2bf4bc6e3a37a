package acquire

import (
	"context"
	"slices"
	"time"

	"ecowatt"
)

// What makes an inverter frozen: this much that does not change for so long,
// though it says that it feeds in.
const (
	stillAfter  = 10 * time.Minute
	stillPolls  = 4 // at least, where samples are rare
	stillPoints = 3 // known at least: the power alone may stand still, at a limit
	powerPoint  = "pac"
)

// stillness looks out for samples that stand still: some data loggers go on
// telling the last page that they had. Nothing of it is kept from anybody, as it
// was served; but it is told. While samples stand still for long enough, they are
// frozen
//
//	where there is a heartbeat that has been seen to change   if it does not either
//	elsewhere                                                 if there is power
//
// The zero value has seen none.
type stillness struct {
	values []ecowatt.Value // of the last sample
	since  int64           // ms; when they began
	polls  int             // that brought them
	frozen bool
}

// see takes in a sample, and what is known of the heartbeat, and returns whether
// it is frozen, and whether that is new or just over.
func (s *stillness) see(points []string, sample ecowatt.Sample, beat pulse) (frozen, changed bool) {
	before := s.frozen
	if !slices.Equal(s.values, sample.Values) {
		s.values, s.since, s.polls = append(s.values[:0], sample.Values...), sample.At, 0
	}
	s.polls++
	still := s.polls >= stillPolls && sample.At-s.since >= stillAfter.Milliseconds()
	if beat.beats {
		s.frozen = still && sample.At-beat.since >= stillAfter.Milliseconds()
	} else {
		s.frozen = still && delivers(points, sample.Values)
	}
	return s.frozen, s.frozen != before
}

// delivers reports whether values are enough, and tell of power, so that they
// cannot all be constant.
func delivers(points []string, values []ecowatt.Value) bool {
	known := 0
	for _, v := range values {
		if v.Valid {
			known++
		}
	}
	power := slices.Index(points, powerPoint)
	return known >= stillPoints && power >= 0 && values[power].Raw > 0
}

// pulse is what is known of the heartbeat.
type pulse struct {
	words   []uint16 // nil before it was read
	since   int64    // ms; when it was seen to have changed
	at      int64    // ms; when it was read last
	beats   bool     // it has been seen to change
	refused bool
}

// feel reads the heartbeat once a minute until it has been seen to change, and
// then while the samples stand still.
func (p *Poller) feel(ctx context.Context, now int64) {
	beat, x := p.Found().Profile.Heartbeat, &p.pulse
	switch {
	case !beat.Given() || x.refused:
		return
	case x.words != nil && now-x.at < slowPeriod, x.beats && now-p.still.since < slowPeriod:
		return
	}
	words, err := p.readOne(ctx, beat.Read())
	switch {
	case err != nil:
		x.refused = answered(err)
		return
	case !slices.Equal(words, x.words):
		x.beats = x.words != nil
		x.words, x.since = words, now
	}
	x.at = now
}

// tellStill logs when the samples begin to stand still, and when they move again.
func (p *Poller) tellStill(ctx context.Context, batches []Batch) {
	for _, b := range batches {
		if !slices.Contains(b.Points, powerPoint) {
			continue
		}
		p.feel(ctx, b.Sample.At)
		frozen, changed := p.still.see(b.Points, b.Sample, p.pulse)
		if changed {
			p.mu.Lock()
			p.status.Frozen = frozen
			p.mu.Unlock()
		}
		switch {
		case !changed:
		case frozen:
			p.logger.WarnContext(ctx, "the inverter tells the same all the time", "code", "inverter_frozen", "since", stillAfter)
		default:
			p.logger.InfoContext(ctx, "the inverter tells something new again", "code", "inverter_moves")
		}
	}
}
