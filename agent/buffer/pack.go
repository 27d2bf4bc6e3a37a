package buffer

import (
	"fmt"
	"slices"

	"ecowatt"
)

// Packer makes messages of a run. All of its samples must be in what it emits.
type Packer func(r Run, emit func(m Message, samples int) error) error

// Pack makes messages of samples, file by file and the oldest first, until those
// that wait have enough bytes of them, or no sample is left. The rest stays where
// it takes less room, and where it may still be thinned out when there is none.
//
// pack is called with one run after the other, in the order in which the runs
// began, and emits the messages it makes of it, each with the number of samples
// in it. They are on the disk when Pack returns nil. A Run is pack's to keep.
//
// The samples of a file are replaced by their messages at once or not at all.
// When pack returns an error, or the disk does, they stay where they are; what
// was packed before stays packed. left says whether samples stay.
func (b *Buffer) Pack(enough int64, pack Packer) (left bool, err error) {
	for {
		// Making room may have taken any file, or another may be in its place.
		next := slices.IndexFunc(b.files, func(f *file) bool { return f.samples > 0 })
		if next < 0 {
			return false, nil
		}
		if b.packed() >= enough {
			return true, nil
		}
		if err := b.packFile(b.files[next], pack); err != nil {
			return true, fmt.Errorf("packing samples: %w", err)
		}
		b.makeRoom()
	}
}

// packed is the number of bytes of the messages of samples that wait.
func (b *Buffer) packed() (bytes int64) {
	for _, f := range b.files {
		for _, e := range f.messages {
			if e.samples > 0 && !e.settled {
				bytes += int64(e.size)
			}
		}
	}
	return bytes
}

func (b *Buffer) packFile(f *file, pack Packer) error {
	packed, err := b.writeOutbox(f.number, func(write func(Message, int) error) error {
		emit := func(r Run) error {
			return pack(r, write)
		}
		if f.kind == runsFile {
			return b.eachRun(f, emit)
		}
		return b.divide(f, b.maxRun, emit)
	})
	if packed == nil {
		return err
	}
	b.replace(f, packed)
	if packed.waiting == 0 && err == nil { // it was damaged from the first sample on
		err = b.remove(packed)
	}
	return err
}

// replace puts another file of the same name into the index.
func (b *Buffer) replace(f, by *file) {
	b.files[slices.Index(b.files, f)] = by
	if b.journal != nil && b.journal.file == f {
		_ = b.journal.log.Close() // its name is another file's now
		b.journal, b.unsynced = nil, false
	}
}

// divide calls emit with the runs of a journal, of at most so many samples.
func (b *Buffer) divide(f *file, most int, emit func(Run) error) error {
	p := divider{most: most, emit: emit}
	if err := b.eachSample(f, p.add); err != nil {
		return err
	}
	return p.flush(0)
}

// eachSample calls visit with each sample of a journal, or of a file of runs.
func (b *Buffer) eachSample(f *file, visit func(*Run, ecowatt.Sample) error) error {
	if f.kind == runsFile {
		return b.eachRun(f, func(r Run) error {
			for _, s := range r.Samples {
				if err := visit(&r, s); err != nil {
					return err
				}
			}
			return nil
		})
	}
	intact, err := b.readJournal(f, visit)
	if err == nil && intact < f.size {
		b.noteDamage(f, f.size-intact)
	}
	return err
}

// maxHeld is the most values that a divider holds: 1 MiB of them. It bounds a Run
// as well, and with it the body of a message.
const maxHeld = 1 << 16

// MaxSpan is the longest time from the first sample of a Run to the last, in ms:
// a day. The cloud looks for the samples of an hour in the blocks of a span
// around it, and refuses blocks that span more than 32 days.
const MaxSpan = 24 * 60 * 60 * 1000

// divider divides samples into runs.
type divider struct {
	most int // samples of a run
	emit func(Run) error
	open []openRun // at most one of an inverter and its points, in the order in which they began
	held int       // values in them
}

type openRun struct {
	of   *Run  // what add was called with
	last int64 // time of the last sample
	Run
}

// add appends a sample, or a window, to the run of its inverter and points, or
// begins another one. All samples of one origin come with the same of.
func (p *divider) add(of *Run, sample ecowatt.Sample) error {
	at := slices.IndexFunc(p.open, func(r openRun) bool {
		return r.of == of || r.Inverter == of.Inverter && slices.Equal(r.Points, of.Points)
	})
	if at >= 0 && !p.open[at].takes(of, sample.At, p.most) {
		if err := p.take(at); err != nil {
			return err
		}
		at = -1
	}
	if at < 0 {
		at = len(p.open)
		run := *of
		run.Points = slices.Clone(of.Points)
		p.open = append(p.open, openRun{of: of, Run: run})
	}
	sample.Values = slices.Clone(sample.Values)
	p.open[at].Samples = append(p.open[at].Samples, sample)
	p.open[at].last = sample.At
	p.held += len(sample.Values)
	return p.flush(maxHeld - MaxPoints*ecowatt.Aggregates)
}

// takes reports whether a sample of an origin at a time may follow in the run. No
// window stands in a run twice.
func (r openRun) takes(of *Run, at int64, most int) bool {
	after := at > r.last || at == r.last && r.Window == 0
	return r.of == of && after && len(r.Samples) < most && at-r.Samples[0].At <= MaxSpan
}

// take emits a run.
func (p *divider) take(at int) error {
	run := p.open[at].Run
	p.open = slices.Delete(p.open, at, at+1)
	p.held -= len(run.Samples) * run.columns()
	return p.emit(run)
}

// flush emits the oldest runs until at most so many values are held.
func (p *divider) flush(most int) error {
	for p.held > most {
		if err := p.take(0); err != nil {
			return err
		}
	}
	return nil
}
