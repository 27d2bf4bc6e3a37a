package buffer

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ecowatt"
	"ecowatt/internal/disk"
)

// maxJournal is the size at which a journal ends and the next one begins, where
// Limit does not ask for a smaller one. It bounds what is packed at a time, what
// is given up at a time when there is no room, and what one damaged byte takes.
const maxJournal = 256 << 10

// journal is the file that samples are appended to.
type journal struct {
	file   *file
	log    *disk.Log
	series []*series
}

// appendSample writes a reading to the journal, and before it, once, what it is of.
func (b *Buffer) appendSample(r Reading) error {
	s, err := b.findSeries(r)
	if err != nil {
		return err
	}
	b.scratch = appendSample(b.scratch[:0], s, r.Sample)
	if err := b.appendRecord(b.scratch); err != nil {
		return notKept(r, err)
	}
	b.journal.file.samples++
	s.advance(r.Sample)
	return nil
}

// notKept says what to do when the disk does not take a sample.
func notKept(r Reading, err error) error {
	return fmt.Errorf("keeping a sample of %s: %w (it is lost, those before it are not; make room on the gateway's disk or mend it)", r.Inverter, err)
}

// findSeries returns the series of r in the journal. It writes a new one where
// there is none, and begins a journal where there is none or no more series fit.
func (b *Buffer) findSeries(r Reading) (*series, error) {
	if b.journal != nil {
		for _, s := range b.journal.series {
			if s.fits(r) {
				return s, nil
			}
		}
	}
	if err := checkSeries(r); err != nil {
		return nil, err
	}
	if b.journal != nil && len(b.journal.series) == maxSeries {
		if err := b.closeJournal(b.since); err != nil {
			return nil, notKept(r, err)
		}
	}
	if b.journal == nil {
		if err := b.beginJournal(); err != nil {
			return nil, notKept(r, err)
		}
	}
	s := newSeries(len(b.journal.series), r)
	b.scratch = appendSeries(b.scratch[:0], s)
	if err := b.appendRecord(b.scratch); err != nil {
		return nil, notKept(r, err)
	}
	b.journal.series = append(b.journal.series, s)
	return s, nil
}

func checkSeries(r Reading) error {
	if _, err := ecowatt.ParseName("inverter", r.Inverter); err != nil {
		return fmt.Errorf("keeping a sample: %w", err)
	}
	if n := len(r.Points); n < 1 || n > MaxPoints {
		return fmt.Errorf("keeping a sample of %s: %d points; a reading has 1 to %d", r.Inverter, n, MaxPoints)
	}
	for _, p := range r.Points {
		if _, err := ecowatt.ParseName("point", p); err != nil {
			return fmt.Errorf("keeping a sample of %s: %w", r.Inverter, err)
		}
	}
	return nil
}

// appendRecord appends to the journal in use.
func (b *Buffer) appendRecord(record []byte) error {
	err := b.journal.log.Append(record)
	b.journal.file.size = b.journal.log.Size()
	return err
}

// beginJournal makes a journal. It has its header, on the disk, from the first
// moment: what has none was damaged.
func (b *Buffer) beginJournal() error {
	f := &file{number: b.next, kind: journalFile}
	if err := disk.WriteFile(b.fs, f.name(), disk.AppendRecord(nil, header(journalFile)), perm); err != nil {
		return err
	}
	log, err := disk.OpenLog(b.fs, f.name(), perm, func([]byte) error { return nil })
	if err != nil {
		return err
	}
	f.size = log.Size()
	b.next++
	b.files = append(b.files, f)
	b.journal = &journal{file: f, log: log}
	return nil
}

// endJournal closes a journal that has become large, and makes room where it grew.
func (b *Buffer) endJournal(now time.Duration) error {
	var err error
	if b.journal.file.size >= min(maxJournal, b.limit/8) {
		err = b.closeJournal(now)
	}
	b.makeRoom()
	return err
}

// closeJournal syncs the journal, to which nothing more is appended. After an
// error of the sync it stays in use.
func (b *Buffer) closeJournal(now time.Duration) error {
	if err := b.Flush(now); err != nil {
		return err
	}
	log := b.journal.log
	b.journal = nil
	return log.Close()
}

// Packer makes messages of a run. All of its samples must be in what it emits.
type Packer func(r Run, emit func(m Message, samples int) error) error

// Pack makes messages of all samples in the journal: pack is called with one
// run after the other, in the order in which the runs began, and emits the
// messages it makes of it, each with the number of samples in it. They are on
// the disk when Pack returns nil. A Run is pack's to keep.
//
// A journal is replaced by its messages at once or not at all. When pack returns
// an error, or the disk does, the samples stay where they are; what was packed
// of older journals before stays packed.
func (b *Buffer) Pack(pack Packer) error {
	for _, f := range slices.Clone(b.files) {
		if f.kind != journalFile || f.samples == 0 {
			continue
		}
		if err := b.packJournal(f, pack); err != nil {
			return fmt.Errorf("packing samples: %w", err)
		}
		b.makeRoom()
	}
	return nil
}

func (b *Buffer) packJournal(f *file, pack Packer) error {
	packed, err := b.writeOutbox(f.number, func(write func(Message, int) error) error {
		p := divider{most: b.maxRun, emit: func(r Run) error { return pack(r, write) }}
		intact, err := b.readJournal(f, p.add)
		if err == nil && intact < f.size {
			b.noteDamage(f, f.size-intact)
		}
		if err != nil {
			return err
		}
		return p.flush(0)
	})
	if packed == nil {
		return err
	}
	b.files[slices.Index(b.files, f)] = packed
	if b.journal != nil && b.journal.file == f {
		_ = b.journal.log.Close() // its name is another file's now
		b.journal, b.unsynced = nil, false
	}
	if packed.waiting == 0 && err == nil { // it was damaged from the first sample on
		err = b.remove(packed)
	}
	return err
}

// readJournal calls visit with each sample of a journal that can be read, and
// returns how many bytes that were. The values are good until visit returns.
func (b *Buffer) readJournal(f *file, visit func(*series, ecowatt.Sample) error) (intact int64, err error) {
	var j journalReader
	first := true
	intact, err = b.scan(f.name(), func(record []byte) error {
		if first {
			first = false
			_, err := parseHeader(record)
			return err
		}
		s, sample, err := j.next(record)
		if s == nil {
			return err
		}
		return visit(s, sample)
	})
	if errors.Is(err, errMalformed) {
		err = nil
	}
	return intact, err
}

// maxHeld is the most values that a divider holds: 1 MiB of them. It bounds a Run
// as well, and with it the body of a message.
const maxHeld = 1 << 16

// MaxSpan is the longest time from the first sample of a Run to the last, in ms:
// a day. The cloud looks for the samples of an hour in the blocks of a span
// around it, and refuses blocks that span more than 32 days.
const MaxSpan = 24 * 60 * 60 * 1000

// divider divides the samples of a journal into runs.
type divider struct {
	most int // samples of a run
	emit func(Run) error
	open []openRun // at most one of an inverter, in the order in which they began
	held int       // values in them
}

type openRun struct {
	series *series
	last   int64 // time of the last sample
	Run
}

// add appends a sample to the run of its inverter, or begins another one.
func (p *divider) add(s *series, sample ecowatt.Sample) error {
	at := slices.IndexFunc(p.open, func(r openRun) bool { return r.Inverter == s.inverter })
	if at >= 0 && !p.open[at].takes(s, sample.At, p.most) {
		if err := p.take(at); err != nil {
			return err
		}
		at = -1
	}
	if at < 0 {
		at = len(p.open)
		p.open = append(p.open, openRun{series: s, Run: Run{Inverter: s.inverter, Points: slices.Clone(s.points), Boot: s.boot}})
	}
	sample.Values = slices.Clone(sample.Values)
	p.open[at].Samples = append(p.open[at].Samples, sample)
	p.open[at].last = sample.At
	p.held += len(sample.Values)
	return p.flush(maxHeld - MaxPoints)
}

// takes reports whether the sample of a series at a time may follow in the run.
func (r openRun) takes(s *series, at int64, most int) bool {
	return r.series == s && len(r.Samples) < most && at >= r.last && at-r.Samples[0].At <= MaxSpan
}

// take emits a run.
func (p *divider) take(at int) error {
	run := p.open[at].Run
	p.open = slices.Delete(p.open, at, at+1)
	p.held -= len(run.Samples) * len(run.Points)
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
