package buffer

import (
	"errors"
	"slices"
	"time"

	"ecowatt"
	"ecowatt/block"
)

// steps are how a file of samples is made smaller when there is no room: packed
// without loss first, then as windows, in ms, each a multiple of the one before.
var steps = [...]int64{inJournal: -1, inBlocks: 0, 2: 60_000, 3: 15 * 60_000, 4: 60 * 60_000}

const (
	inJournal = 0
	inBlocks  = 1

	maxRows = block.MaxSamples // samples of a run in a file of runs
)

// stepOf is how far samples have been shrunk that are kept in windows of so many ms.
func stepOf(window int64) int {
	for i, w := range slices.Backward(steps[:]) {
		if window >= w {
			return i
		}
	}
	return inJournal
}

// shrinkable returns the file to be made smaller next, or nil: the oldest journal,
// else the oldest file of the step that takes most of the disk. Old data become
// coarser so than new ones, and each resolution has its share of the room.
//
// Messages are none of those: the cloud may have stored one of which the answer
// was lost, and would store its samples again under another id.
func (b *Buffer) shrinkable() *file {
	var room [len(steps)]int64
	var first [len(steps)]*file
	for _, f := range b.files {
		if f.samples == 0 || b.journal != nil && b.journal.file == f {
			continue
		}
		room[f.step] += b.blocks(f.size)
		if first[f.step] == nil && f.size > b.unit && f.step < len(steps)-1 {
			first[f.step] = f
		}
	}
	best := first[inJournal]
	for i, f := range first[inBlocks:] {
		if f != nil && (best == nil || best.step != inJournal && room[inBlocks+i] > room[best.step]) {
			best = f
		}
	}
	return best
}

// errNoGain says that a file would take as much of the disk as before.
var errNoGain = errors.New("no smaller")

// shrink takes a file a step further. Where that makes it no smaller, or the disk
// does not take it, the file stays as it is.
func (b *Buffer) shrink(f *file) {
	f.step++
	smaller := &file{number: f.number, kind: runsFile, step: f.step}
	window := steps[f.step]
	written, err := b.writeFile(smaller, func(write func([]byte) error) error {
		emit := func(r Run) error {
			smaller.samples += len(r.Samples)
			return b.writeRun(r, write)
		}
		var err error
		if window == 0 {
			err = b.divide(f, min(b.maxRun, maxRows), emit)
		} else {
			err = b.thin(f, window, emit)
		}
		if err == nil && b.blocks(smaller.size) >= b.blocks(f.size) {
			err = errNoGain
		}
		return err
	})
	if err != nil && !errors.Is(err, errNoGain) {
		b.logger.Error("the disk does not let old samples be kept in less room", "code", codeThinned, "file", f.name(), "error", err)
	}
	if written == nil {
		return
	}
	b.replace(f, smaller)
	if window > 0 {
		b.thinned += uint64(f.samples)
		b.untold.add(f.samples, smaller.samples, window)
		b.tellThinned(false)
	}
	if smaller.samples == 0 { // all of it was damaged
		_ = b.remove(smaller) // or the next Open does it
	}
}

// thinnings are those that the log does not tell of yet.
type thinnings struct {
	samples, windows int
	longest          int64 // ms
}

func (t *thinnings) add(samples, windows int, window int64) {
	t.samples, t.windows, t.longest = t.samples+samples, t.windows+windows, max(t.longest, window)
}

// tellPeriod is how often thinning is told: its log takes room as well.
const tellPeriod = time.Hour

// tellThinned tells what was thinned out since it was told last, when that was long
// ago or at last.
func (b *Buffer) tellThinned(last bool) {
	t := b.untold
	if t == (thinnings{}) || !last && b.told && b.now-b.toldAt < tellPeriod {
		return
	}
	b.untold, b.told, b.toldAt = thinnings{}, true, b.now
	b.logger.Warn("the buffer is full; of its oldest samples only windows are kept", "code", codeThinned,
		"samples", t.samples, "windows", t.windows, "longest", time.Duration(t.longest)*time.Millisecond, "limit", b.limit)
}

// thin calls emit with the samples of a file in windows.
func (b *Buffer) thin(f *file, window int64, emit func(Run) error) error {
	t := thinner{window: window, place: b.place, out: divider{most: min(b.maxRun, maxRows), emit: emit}}
	if err := b.eachSample(f, t.add); err != nil {
		return err
	}
	for _, s := range t.strands {
		if err := t.end(s); err != nil {
			return err
		}
	}
	return t.out.flush(0)
}

// thinner makes windows of samples, or of shorter windows.
type thinner struct {
	window  int64
	place   func(boot [16]byte, mono int64) int64
	out     divider
	strands []*strand // one of an origin, maxSeries at most
}

// strand is what one run after another goes on with.
type strand struct {
	from    Run   // without samples
	to      *Run  // without samples
	shift   int64 // of the times of one to those of the other
	pending []ecowatt.Sample
}

// add takes a sample; its values are good until add returns.
func (t *thinner) add(of *Run, sample ecowatt.Sample) error {
	s, err := t.strand(of, sample.At)
	if err != nil {
		return err
	}
	sample.At += s.shift
	if n := len(s.pending); n == maxRows || n > 0 && ecowatt.WindowOf(s.pending[0].At, t.window) != ecowatt.WindowOf(sample.At, t.window) {
		if err := t.end(s); err != nil {
			return err
		}
	}
	sample.Values = slices.Clone(sample.Values)
	s.pending = append(s.pending, sample)
	return nil
}

// end makes the window of the samples that are pending.
func (t *thinner) end(s *strand) error {
	windows := ecowatt.Aggregate(s.pending, s.from.Window, t.window)
	s.pending = s.pending[:0]
	for _, w := range windows {
		if err := t.out.add(s.to, w); err != nil {
			return err
		}
	}
	return nil
}

// strand returns that of an origin, the first sample of which was taken at a time
// since its boot.
func (t *thinner) strand(of *Run, at int64) (*strand, error) {
	for _, s := range t.strands {
		if s.from.Boot == of.Boot && s.from.Inverter == of.Inverter && s.from.Window == of.Window && s.from.UTC == of.UTC && slices.Equal(s.from.Points, of.Points) {
			return s, nil
		}
	}
	if len(t.strands) == maxSeries {
		if err := t.end(t.strands[0]); err != nil {
			return nil, err
		}
		t.strands = t.strands[1:]
	}
	s := &strand{from: *of}
	s.from.Samples = nil
	to := s.from
	to.Window = t.window
	if place := t.place(of.Boot, at); of.Window == 0 && place != 0 {
		to.UTC, s.shift = true, place-at
	}
	s.to = &to
	t.strands = append(t.strands, s)
	return s, nil
}
