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

// stillness looks out for samples that stand still while there is power: some
// data loggers go on telling the last page that they had. Nothing of it is kept
// from anybody, as it was served; but it is told. The zero value has seen none.
type stillness struct {
	values []ecowatt.Value // of the last sample
	since  int64           // ms; when they began
	polls  int             // that brought them
	frozen bool
}

// see takes in a sample and returns whether it is frozen, and whether that is
// new or just over.
func (s *stillness) see(points []string, sample ecowatt.Sample) (frozen, changed bool) {
	before := s.frozen
	if !slices.Equal(s.values, sample.Values) {
		s.values, s.since, s.polls = append(s.values[:0], sample.Values...), sample.At, 0
	}
	s.polls++
	known := 0
	for _, v := range sample.Values {
		if v.Valid {
			known++
		}
	}
	power := slices.Index(points, powerPoint)
	s.frozen = known >= stillPoints && power >= 0 && sample.Values[power].Raw > 0 &&
		s.polls >= stillPolls && sample.At-s.since >= stillAfter.Milliseconds()
	return s.frozen, s.frozen != before
}

// tellStill logs when the samples begin to stand still, and when they move again.
func (p *Poller) tellStill(ctx context.Context, batches []Batch) {
	for _, b := range batches {
		if !slices.Contains(b.Points, powerPoint) {
			continue
		}
		switch frozen, changed := p.still.see(b.Points, b.Sample); {
		case !changed:
		case frozen:
			p.logger.WarnContext(ctx, "the inverter tells the same all the time", "code", "inverter_frozen", "since", stillAfter)
		default:
			p.logger.InfoContext(ctx, "the inverter tells something new again", "code", "inverter_moves")
		}
	}
}
