package buffer

import (
	"errors"
	"fmt"
	"slices"

	"ecowatt/internal/disk"
)

// Put adds messages that are ready (a log, an inventory) behind those that
// wait. They are on the disk when it returns nil, all of them; after an error,
// none of them waits.
func (b *Buffer) Put(messages ...Message) error {
	if len(messages) == 0 {
		return nil
	}
	f, err := b.writeOutbox(b.next, func(write func(Message, int) error) error {
		for _, m := range messages {
			if err := write(m, 0); err != nil {
				return err
			}
		}
		return nil
	})
	if f != nil {
		b.next++
		b.files = append(b.files, f)
		if err != nil {
			_ = b.remove(f) // at worst it is there after the next Open
		}
	}
	if err != nil {
		return fmt.Errorf("keeping a message: %w", err)
	}
	b.makeRoom()
	return nil
}

// writeOutbox writes the file of the outbox with the number, in place of a
// journal or a file of runs where there is one. fill writes its messages. For
// what it returns see writeFile.
func (b *Buffer) writeOutbox(number uint64, fill func(write func(Message, int) error) error) (*file, error) {
	f := &file{number: number, kind: outboxFile}
	return b.writeFile(f, func(write func(record []byte) error) error {
		return fill(func(m Message, samples int) error {
			if len(m.Body) > MaxBody {
				return fmt.Errorf("a message of %d bytes; at most %d are allowed", len(m.Body), MaxBody)
			}
			b.scratch = appendMessage(b.scratch[:0], m, samples)
			f.messages = append(f.messages, entry{id: m.ID, kind: m.Kind, samples: uint32(samples), size: uint32(len(m.Body))})
			f.waiting++
			return write(b.scratch)
		})
	})
}

// writeFile writes f, in place of the file of that name where there is one. fill
// writes its records but the header. The file is on the disk, whole, and the
// other one gone, or the error says why not. With both a file and an error it has
// its name, but the name is not known to last.
func (b *Buffer) writeFile(f *file, fill func(write func(record []byte) error) error) (*file, error) {
	to, err := b.fs.Create(f.name()+temporary, perm)
	if err != nil {
		return nil, err
	}
	var framed []byte
	write := func(record []byte) error {
		framed = disk.AppendRecord(framed[:0], record)
		n, err := to.Write(framed)
		f.size += int64(n)
		return err
	}
	err = write(header(f.kind))
	if err == nil {
		err = fill(write)
	}
	if err == nil {
		err = to.Sync()
	}
	if closing := to.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = b.fs.Rename(f.name()+temporary, f.name())
	}
	if err != nil {
		_ = b.fs.Remove(f.name() + temporary) // or Open does it
		return nil, err
	}
	b.unnamed = true
	return f, b.syncNames()
}

// syncNames makes the names of files last, where that is not known.
func (b *Buffer) syncNames() error {
	if !b.unnamed {
		return nil
	}
	if err := b.fs.SyncDir(folder); err != nil {
		return fmt.Errorf("syncing the folder %s: %w", folder, err)
	}
	b.unnamed = false
	return nil
}

// Next returns messages that wait, the oldest first: at most so many, and of
// those as many as fit into room. size says how much of it a message takes,
// which is not less than the length of its body. A message that would not fit
// if it were alone is passed over; it waits until there is more room. What Next
// returns keeps waiting until it is settled, and is returned again by the next
// call.
//
// What the disk does not give back is logged and left out.
func (b *Buffer) Next(size func(Message) int, room, most int) []Message {
	if err := b.syncNames(); err != nil { // else a cut could bring back the samples, to be packed under another id
		b.logger.Error("the outbox cannot be used until the disk syncs", "code", codeRead, "error", err)
		return nil
	}
	t := taker{size: size, room: room, left: room, most: most, full: most <= 0}
	for _, f := range slices.Clone(b.files) {
		if t.full {
			break
		}
		if f.waiting > 0 {
			b.takeFrom(f, &t)
		}
	}
	return t.taken
}

// taker collects messages for one request.
type taker struct {
	size  func(Message) int
	room  int // in all
	left  int
	most  int
	taken []Message
	full  bool
}

// wants decides by the index whether the body is worth reading.
func (t *taker) wants(e entry) bool { return !e.settled && int(e.size) <= t.room }

func (t *taker) take(m Message) {
	n := t.size(m)
	switch {
	case n > t.room:
	case n > t.left:
		t.full = true
	default:
		t.left -= n
		t.taken = append(t.taken, m)
		t.full = len(t.taken) == t.most
	}
}

// errEnough ends the reading of a file.
var errEnough = errors.New("enough was read")

// takeFrom reads from f what t wants.
func (b *Buffer) takeFrom(f *file, t *taker) {
	if !slices.ContainsFunc(f.messages, t.wants) {
		return
	}
	seen := -1 // messages; the header is none
	intact, err := b.scan(f.name(), func(record []byte) error {
		if seen++; seen == 0 {
			return nil
		}
		if seen > len(f.messages) {
			return errEnough
		}
		want := f.messages[seen-1]
		e, body, err := parseMessage(record)
		if err != nil || e.id != want.id {
			seen--
			return errMalformed
		}
		if t.wants(want) {
			t.take(Message{ID: e.id, Kind: e.kind, Body: slices.Clone(body)})
		}
		if t.full {
			return errEnough
		}
		return nil
	})
	switch {
	case errors.Is(err, errEnough):
	case err == nil && seen < len(f.messages), errors.Is(err, errMalformed):
		b.forget(f, max(seen, 0), intact)
	case err != nil:
		b.logger.Error("the disk does not give messages back", "code", codeRead, "file", f.name(), "error", err)
	}
}

// forget takes the messages from number at on, which cannot be read any more,
// off the index.
func (b *Buffer) forget(f *file, at int, intact int64) {
	b.noteDamage(f, f.size-intact)
	f.messages = f.messages[:at]
	f.waiting = 0
	for _, e := range f.messages {
		if !e.settled {
			f.waiting++
		}
	}
	if f.waiting == 0 {
		f.kind = unreadable
	}
}

// Settle lets messages go: the cloud has stored them, or never will. An id that
// does not wait is no error. A power cut may undo it, then the messages wait
// again. The same holds after an error, at the next Open: until then they are
// settled all the same.
func (b *Buffer) Settle(ids [][16]byte) error {
	gone := make(map[[idSize]byte]bool, len(ids))
	for _, id := range ids {
		gone[id] = true
	}
	var failed error
	for _, f := range slices.Clone(b.files) {
		if len(gone) == 0 {
			break
		}
		var settled [][idSize]byte
		for i := range f.messages {
			if e := &f.messages[i]; gone[e.id] {
				delete(gone, e.id)
				if !e.settled {
					e.settled = true
					settled = append(settled, e.id)
				}
			}
		}
		if len(settled) == 0 {
			continue
		}
		f.waiting -= len(settled)
		if err := b.settle(f, settled); err != nil && failed == nil {
			failed = fmt.Errorf("settling messages: %w", err)
		}
	}
	return failed
}

// settle makes the disk follow the index: the file goes when nothing in it
// waits, else the ids are noted beside it.
func (b *Buffer) settle(f *file, ids [][idSize]byte) error {
	if f.waiting == 0 {
		return b.remove(f)
	}
	var framed []byte
	if f.settled == 0 {
		framed = disk.AppendRecord(framed, header(settledFile))
	}
	framed = disk.AppendRecord(framed, appendSettled(nil, ids))
	to, err := b.fs.Append(f.settledName(), perm)
	if err != nil {
		return err
	}
	n, err := to.Write(framed)
	f.settled += int64(n)
	if closing := to.Close(); err == nil {
		err = closing
	}
	return err
}
