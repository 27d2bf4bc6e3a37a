package disk

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path"
)

// MaxRecord is the longest record of a log, in bytes.
const MaxRecord = 1 << 20

// recordHead is what stands before each record of a log:
//
//	0  4  length of the record, big-endian
//	4  4  CRC-32C (RFC 3720 appendix B.4) of the length and the record, big-endian
//
// The length is under the checksum so that zeros, which a file system may leave
// where data were lost, are no record.
const recordHead = 8

// Log is a file to which records are appended. A record is there once Sync has
// returned, whatever happens then; before that a power cut may take it, and
// with it the ones after it, but none before it. It is for one goroutine.
type Log struct {
	fsys FS
	name string
	file File
	size int64 // of the intact records, bytes
	lost int64 // cut off at the opening, bytes
	half bool  // a part of a record follows them
	buf  []byte
}

// OpenLog opens the log name, or makes it, and calls visit with each record, in
// the order in which they were appended; a record is only valid during the
// call. What follows the last intact record is cut off: see Lost. An error of
// visit ends the opening.
func OpenLog(fsys FS, name string, perm fs.FileMode, visit func(record []byte) error) (*Log, error) {
	l := &Log{name: name, fsys: fsys}
	if err := l.open(perm, visit); err != nil {
		return nil, fmt.Errorf("opening the log %s: %w", name, err)
	}
	return l, nil
}

func (l *Log) open(perm fs.FileMode, visit func([]byte) error) error {
	total, err := l.scan(visit)
	exists := !errors.Is(err, fs.ErrNotExist)
	if exists && err != nil {
		return err
	}
	if l.lost = total - l.size; l.lost > 0 {
		if err := l.fsys.Truncate(l.name, l.size); err != nil {
			return err
		}
	}
	if l.file, err = l.fsys.Append(l.name, perm); err != nil {
		return err
	}
	if exists && l.lost == 0 {
		return nil
	}
	if err := l.file.Sync(); err != nil {
		return errors.Join(err, l.file.Close())
	}
	if err := l.fsys.SyncDir(path.Dir(l.name)); err != nil {
		return errors.Join(err, l.file.Close())
	}
	return nil
}

// scan visits the intact records, leaves their size in l.size and returns that
// of the file.
func (l *Log) scan(visit func([]byte) error) (total int64, err error) {
	info, err := l.fsys.Stat(l.name)
	if err != nil {
		return 0, err
	}
	f, err := l.fsys.Open(l.name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	l.size, err = ReadRecords(f, visit)
	return info.Size(), err
}

// ReadRecords reads the records of a log from r and calls visit with each, up
// to the first that is not intact. It returns the size of those before it, in
// bytes. The error is one of r or of visit.
func ReadRecords(r io.Reader, visit func(record []byte) error) (size int64, err error) {
	in := bufio.NewReader(r)
	var head [recordHead]byte
	var record []byte
	for {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return size, ended(err)
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > MaxRecord {
			return size, nil
		}
		if int(n) > cap(record) {
			record = make([]byte, n)
		}
		record = record[:n]
		if _, err := io.ReadFull(in, record); err != nil {
			return size, ended(err)
		}
		if binary.BigEndian.Uint32(head[4:]) != checksum(head[:4], record) {
			return size, nil
		}
		if err := visit(record); err != nil {
			return size, err
		}
		size += recordHead + int64(n)
	}
}

// ended is nil for the end of a file, wherever it came.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func checksum(length, record []byte) uint32 {
	castagnoli := crc32.MakeTable(crc32.Castagnoli) // made once by the library
	return crc32.Update(crc32.Update(0, castagnoli, length), castagnoli, record)
}

// AppendRecord appends to b what Append writes for a record of at most MaxRecord
// bytes.
func AppendRecord(b, record []byte) []byte {
	at := len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(len(record)))
	b = binary.BigEndian.AppendUint32(b, checksum(b[at:at+4], record))
	return append(b, record...)
}

// Append writes a record at the end, which takes Sync to last. After an error
// the log is as it was before.
func (l *Log) Append(record []byte) error {
	if len(record) > MaxRecord {
		return fmt.Errorf("appending to %s: %w: a record of %d bytes, at most %d are allowed", l.name, ErrTooLarge, len(record), MaxRecord)
	}
	if l.half {
		if err := l.takeBack(); err != nil {
			return err
		}
	}
	l.buf = AppendRecord(l.buf[:0], record)
	if _, err := l.file.Write(l.buf); err != nil {
		// A full disk takes a part of it. That goes before a Sync can make it
		// last: later records would stand behind it, out of reach.
		l.half = true
		return errors.Join(fmt.Errorf("appending to %s: %w", l.name, err), l.takeBack())
	}
	l.size += int64(len(l.buf))
	return nil
}

// takeBack cuts off half a record.
func (l *Log) takeBack() error {
	if err := l.fsys.Truncate(l.name, l.size); err != nil {
		return fmt.Errorf("taking back half a record of %s: %w", l.name, err)
	}
	l.half = false
	return nil
}

// Sync returns when all appended records are on the disk. After an error it is
// not known which are, and a second Sync that succeeds means nothing: the system
// may have given up what it could not write. Open the log again.
func (l *Log) Sync() error {
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", l.name, err)
	}
	return nil
}

// Size returns the length of the file in bytes.
func (l *Log) Size() int64 { return l.size }

// Lost returns how many bytes were cut off when the log was opened.
func (l *Log) Lost() int64 { return l.lost }

// Close closes the file. It does not sync it.
func (l *Log) Close() error {
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("closing %s: %w", l.name, err)
	}
	return nil
}
