package buffer

import (
	"errors"
	"fmt"
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

// readJournal calls visit with each sample of a journal that can be read, and
// returns how many bytes that were. The values are good until visit returns.
func (b *Buffer) readJournal(f *file, visit func(*Run, ecowatt.Sample) error) (intact int64, err error) {
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
		return visit(s.run, sample)
	})
	if errors.Is(err, errMalformed) {
		err = nil
	}
	return intact, err
}
