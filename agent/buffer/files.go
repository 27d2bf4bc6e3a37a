package buffer

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"ecowatt/internal/disk"
)

// The names of the files: buffer/0000000012.buf, and beside it, where only a
// part of its messages waits, buffer/0000000012.settled.
const (
	folder    = "buffer"
	digits    = 10 // at least
	ending    = ".buf"
	beside    = ".settled"
	temporary = ".tmp"

	perm       = 0o600
	folderPerm = 0o700
)

// unit is what the smallest file takes of a disk, in bytes.
const unit = 4096

// file is what the index knows of a file.
type file struct {
	number   uint64
	kind     fileKind
	size     int64   // bytes
	settled  int64   // size of the file beside it; 0 for none
	damaged  bool    // whether some of it cannot be read
	samples  int     // of a journal or a file of runs; windows where it holds windows
	step     int     // of steps: how far it was shrunk, or somebody tried to
	messages []entry // of the outbox, in the order of their records
	waiting  int     // of the messages: not settled
}

func (f *file) name() string        { return f.named(ending) }
func (f *file) settledName() string { return f.named(beside) }

func (f *file) named(end string) string {
	return fmt.Sprintf("%s/%0*d%s", folder, digits, f.number, end)
}

// parseName returns the number of a file and what follows it in the name.
func parseName(name string) (number uint64, end string, ok bool) {
	text, end, _ := strings.Cut(name, ".")
	number, err := strconv.ParseUint(text, 10, 64)
	f := file{number: number}
	ok = err == nil && number > 0 && folder+"/"+name == f.named("."+end)
	return number, "." + end, ok
}

func (b *Buffer) blocks(size int64) int64 { return (size + b.unit - 1) / b.unit * b.unit }

// size returns the bytes that all files take of the disk.
func (b *Buffer) size() (n int64) {
	for _, f := range b.files {
		n += b.blocks(f.size) + b.blocks(f.settled)
	}
	return n
}

// scan calls visit with the intact records of a file, which stays as it is, and
// returns their size. A file that somebody took away has none.
func (b *Buffer) scan(name string, visit func(record []byte) error) (intact int64, err error) {
	f, err := b.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	intact, err = disk.ReadRecords(f, visit)
	if err != nil {
		err = fmt.Errorf("reading %s: %w", name, err)
	}
	return intact, err
}

// remove takes a file away. That lasts when the next file is made; when power is
// cut before, its messages wait again.
func (b *Buffer) remove(f *file) error {
	b.files = slices.DeleteFunc(b.files, func(other *file) bool { return other == f })
	err := b.fs.Remove(f.name())
	if f.settled > 0 {
		if err2 := b.fs.Remove(f.settledName()); err == nil {
			err = err2
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// noteDamage says that bytes of f, the last ones, cannot be read. They stay in
// the file as long as it is there.
func (b *Buffer) noteDamage(f *file, bytes int64) {
	f.damaged = true
	b.logger.Error("a part of the buffer cannot be read", "code", codeDamaged, "file", f.name(), "bytes", bytes)
}
