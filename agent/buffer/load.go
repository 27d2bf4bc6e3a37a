package buffer

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"ecowatt/internal/disk"
)

// load builds the index from what is in the folder, and goes on with the last
// journal.
func (b *Buffer) load() error {
	if err := disk.MkdirAll(b.fs, folder, folderPerm); err != nil {
		return err
	}
	numbers, err := b.tidy()
	if err != nil {
		return err
	}
	var last *journal
	for _, number := range numbers {
		f := &file{number: number}
		b.files = append(b.files, f)
		j, err := b.loadFile(f)
		if err != nil {
			return err
		}
		if f.kind == journalFile {
			last = j // nil where nothing can be appended
		}
	}
	if last != nil {
		if err := b.continueJournal(last); err != nil {
			return err
		}
	}
	if err := b.removeEmpty(); err != nil {
		return err
	}
	// A killed program may have left names that do not last yet; before that is
	// sure nothing is handed out.
	b.unnamed = true
	return b.syncNames()
}

// tidy returns the numbers of the files, in their order, and removes what a cut
// left half done.
func (b *Buffer) tidy() ([]uint64, error) {
	names, err := b.fs.List(folder)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, name := range names {
		number, end, ok := parseName(name)
		if !ok {
			continue // not ours
		}
		b.next = max(b.next, number+1)
		of := strings.TrimSuffix(name, end) + ending
		switch {
		case end == ending:
			numbers = append(numbers, number)
		case end == ending+temporary, end == beside && !slices.Contains(names, of):
			if err := b.fs.Remove(folder + "/" + name); err != nil {
				return nil, err
			}
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// loadFile reads what the index needs of a file. What it returns of a journal is
// nil where nothing can be appended to it.
func (b *Buffer) loadFile(f *file) (*journal, error) {
	info, err := b.fs.Stat(f.name())
	if err != nil {
		return nil, err
	}
	f.size = info.Size()
	var j journalReader
	first := true
	intact, err := b.scan(f.name(), func(record []byte) (err error) {
		if first {
			first = false
			f.kind, err = parseHeader(record)
			return err
		}
		switch f.kind {
		case journalFile:
			s, _, err := j.next(record)
			if s != nil {
				f.samples++
			}
			return err
		case runsFile:
			r, err := parseRun(record)
			f.samples += r.rows
			f.step = max(f.step, stepOf(r.Window))
			return err
		case outboxFile, settledFile, unreadable:
		}
		e, _, err := parseMessage(record)
		if err == nil {
			f.messages = append(f.messages, e)
			f.waiting++
		}
		return err
	})
	malformed := errors.Is(err, errMalformed)
	switch {
	case errors.Is(err, errVersion):
		f.kind = unreadable
		b.logger.Error("a file of the buffer is of a version that this agent does not know; it stays for one that does", "code", codeVersion, "file", f.name())
		return nil, nil
	case err != nil && !malformed:
		return nil, err
	case intact < f.size:
		b.noteDamage(f, f.size-intact)
	}
	if f.kind == journalFile && !malformed {
		return &journal{file: f, series: j.series}, nil
	}
	return nil, b.loadSettled(f)
}

// loadSettled notes which messages of a file are settled. What cannot be read of
// that is cut off: its messages wait again.
func (b *Buffer) loadSettled(f *file) error {
	name := f.settledName()
	info, err := b.fs.Stat(name)
	if f.kind != outboxFile || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	gone := map[[idSize]byte]bool{}
	first := true
	f.settled, err = b.scan(name, func(record []byte) error {
		if first {
			first = false
			return checkHeader(record, settledFile)
		}
		return parseSettled(record, func(id [idSize]byte) { gone[id] = true })
	})
	if err != nil && !errors.Is(err, errMalformed) && !errors.Is(err, errVersion) {
		return err
	}
	if f.settled < info.Size() {
		if err := b.fs.Truncate(name, f.settled); err != nil {
			return err
		}
	}
	for i := range f.messages {
		if e := &f.messages[i]; gone[e.id] {
			e.settled = true
			f.waiting--
		}
	}
	return nil
}

// continueJournal opens the journal that was in use before, without what a cut
// left half done at its end, and makes it last.
func (b *Buffer) continueJournal(j *journal) error {
	log, err := disk.OpenLog(b.fs, j.file.name(), perm, func([]byte) error { return nil })
	if err != nil {
		return err
	}
	if err := log.Sync(); err != nil {
		return errors.Join(err, log.Close())
	}
	j.log, j.file.size = log, log.Size()
	b.journal = j
	return nil
}

// removeEmpty removes the files in which nothing waits. Of those that do because
// they are damaged, it keeps what there is until its room is needed.
func (b *Buffer) removeEmpty() error {
	for _, f := range slices.Clone(b.files) {
		inUse := b.journal != nil && b.journal.file == f
		switch {
		case inUse || f.samples > 0 || f.waiting > 0 || f.kind == unreadable:
		case f.damaged:
			f.kind = unreadable
		default:
			if err := b.remove(f); err != nil {
				return err
			}
		}
	}
	return nil
}
