package buffer

import (
	"encoding/binary"
	"errors"
	"slices"

	"ecowatt"
	"ecowatt/internal/disk"
)

// The first record of every file, 4 bytes: "EW", the kind of file, the version.
const (
	magic   = "EW"
	version = 1

	headerSize = 4
)

// fileKind is the third byte of a file.
type fileKind byte

const (
	unreadable  fileKind = 0 // stands for a file whose kind, or version, is not known
	journalFile fileKind = 'J'
	runsFile    fileKind = 'R'
	outboxFile  fileKind = 'O'
	settledFile fileKind = 'S'
)

// The first byte of the records that follow.
const (
	recordSeries  = 1 // journal: what the samples of a series are of
	recordSample  = 2 // journal: a sample that has all its values
	recordGaps    = 3 // journal: a sample that misses some
	recordRun     = 1 // runs: a run
	recordMessage = 1 // outbox: a message
	recordSettled = 1 // settled: ids of messages that may go
)

// Limits of what is kept. They bound what a reader allocates as well.
const (
	// MaxPoints is the most points of a Reading.
	MaxPoints = 1024
	// MaxBody is the longest body of a Message, in bytes.
	MaxBody = disk.MaxRecord - 64

	maxSeries = 256 // in one journal
	idSize    = 16
)

// Errors of reading a file whose checksums are right.
var (
	errMalformed = errors.New("not a record of this format")
	errVersion   = errors.New("a version that is not known")
)

func header(k fileKind) []byte { return []byte{magic[0], magic[1], byte(k), version} }

// parseHeader returns the kind of a journal, a file of runs or one of the outbox.
func parseHeader(record []byte) (fileKind, error) {
	for _, k := range []fileKind{journalFile, runsFile, outboxFile} {
		if err := checkHeader(record, k); !errors.Is(err, errMalformed) {
			return k, err
		}
	}
	return unreadable, errMalformed
}

// checkHeader says whether the first record of a file is that of a kind.
func checkHeader(record []byte, k fileKind) error {
	if len(record) < headerSize || string(record[:2]) != magic || record[2] != byte(k) {
		return errMalformed
	}
	if record[3] != version {
		return errVersion
	}
	if len(record) > headerSize {
		return errMalformed
	}
	return nil
}

// series is what consecutive samples share, and the sample before, which the
// next one is written as the difference to.
type series struct {
	index    int // in its journal, from 0
	inverter string
	points   []string
	boot     [16]byte
	run      *Run // what its samples are of, without samples

	at  int64   // of the last sample; 0 before the first
	raw []int64 // the last value that was known of each point; 0 before the first
}

func newSeries(index int, r Reading) *series {
	s := &series{index: index, inverter: r.Inverter, points: slices.Clone(r.Points), boot: r.Boot, raw: make([]int64, len(r.Points))}
	s.run = &Run{Inverter: s.inverter, Points: s.points, Boot: s.boot}
	return s
}

func (s *series) fits(r Reading) bool {
	return s.inverter == r.Inverter && s.boot == r.Boot && slices.Equal(s.points, r.Points)
}

// advance notes a sample that was written or read.
func (s *series) advance(sample ecowatt.Sample) {
	s.at = sample.At
	for i, v := range sample.Values {
		if v.Valid {
			s.raw[i] = v.Raw
		}
	}
}

// appendSeries appends a record:
//
//	1 ‖ boot id (16) ‖ inverter ‖ number of points ‖ point ‖ point …
//
// where a name is its length and its bytes, and numbers are varints. Series are
// counted from 0 in the order of their records.
func appendSeries(b []byte, s *series) []byte {
	b = append(b, recordSeries)
	b = append(b, s.boot[:]...)
	return appendNames(appendName(b, s.inverter), s.points)
}

func appendNames(b []byte, names []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, name := range names {
		b = appendName(b, name)
	}
	return b
}

func appendName(b []byte, name string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(name))), name...)
}

// appendSample appends a record:
//
//	2 ‖ series ‖ Δt ‖ Δ of each value
//	3 ‖ series ‖ Δt ‖ bits of the missing values ‖ Δ of each that is known
//
// Δ is a zigzag varint of the difference to the sample before in the series, of
// a value to the last one that was known of the point, modulo 2^64. Bit i mod 8
// of byte i div 8 stands for value i; those beyond the last value are 0.
func appendSample(b []byte, s *series, sample ecowatt.Sample) []byte {
	missing := func(v ecowatt.Value) bool { return !v.Valid }
	gaps := slices.ContainsFunc(sample.Values, missing)
	kind := byte(recordSample)
	if gaps {
		kind = recordGaps
	}
	b = binary.AppendUvarint(append(b, kind), uint64(s.index))
	b = binary.AppendVarint(b, sample.At-s.at)
	if gaps {
		at := len(b)
		for range bitmapSize(len(sample.Values)) {
			b = append(b, 0)
		}
		for i, v := range sample.Values {
			if !v.Valid {
				b[at+i/8] |= 1 << (i % 8)
			}
		}
	}
	for i, v := range sample.Values {
		if v.Valid {
			b = binary.AppendVarint(b, v.Raw-s.raw[i])
		}
	}
	return b
}

func bitmapSize(values int) int { return (values + 7) / 8 }

// journalReader reads the records of a journal that follow its header, in
// order. It takes exactly what appendSeries and appendSample write.
type journalReader struct {
	series []*series
	values []ecowatt.Value
}

// next reads a record. The series is nil where the record announces one; the
// values of the sample are good until the next call. The error is errMalformed.
func (j *journalReader) next(record []byte) (*series, ecowatt.Sample, error) {
	r := &reader{b: record}
	var s *series
	var sample ecowatt.Sample
	switch kind := r.byte(); kind {
	case recordSeries:
		j.readSeries(r)
	case recordSample, recordGaps:
		s, sample = j.readSample(r, kind == recordGaps)
	default:
		r.bad = true
	}
	if r.bad || len(r.b) > 0 {
		return nil, ecowatt.Sample{}, errMalformed
	}
	if s != nil {
		s.advance(sample)
	}
	return s, sample, nil
}

func (j *journalReader) readSeries(r *reader) {
	of := Reading{Boot: r.id(), Inverter: r.name(), Points: r.names()}
	r.bad = r.bad || len(j.series) == maxSeries
	j.series = append(j.series, newSeries(len(j.series), of)) // of no use after a bad record, with which reading ends
}

func (j *journalReader) readSample(r *reader, gaps bool) (*series, ecowatt.Sample) {
	index := r.uvarint()
	if r.bad || index >= uint64(len(j.series)) {
		r.bad = true
		return nil, ecowatt.Sample{}
	}
	s := j.series[index]
	sample := ecowatt.Sample{At: s.at + r.varint()}
	var missing []byte
	if gaps {
		missing = r.take(bitmapSize(len(s.points)))
		r.bad = r.bad || !someMissing(missing, len(s.points))
	}
	j.values = j.values[:0]
	for i := range s.points {
		switch {
		case r.bad:
			return nil, ecowatt.Sample{}
		case gaps && missing[i/8]&(1<<(i%8)) != 0:
			j.values = append(j.values, ecowatt.Value{})
		default:
			j.values = append(j.values, ecowatt.Known(s.raw[i]+r.varint()))
		}
	}
	sample.Values = j.values
	return s, sample
}

// someMissing reports whether the bits of the missing values are as appendSample
// writes them: one at least, and none beyond the last value.
func someMissing(bits []byte, values int) bool {
	if values%8 != 0 && bits[len(bits)-1]>>(values%8) != 0 {
		return false
	}
	return slices.ContainsFunc(bits, func(b byte) bool { return b != 0 })
}

// entry is what the index knows of a message: all but its body.
type entry struct {
	id      [idSize]byte
	kind    uint64
	samples uint32 // that it was packed from; 0 for one that was put
	size    uint32 // of the body, bytes
	settled bool
}

// appendMessage appends a record:
//
//	1 ‖ id (16) ‖ kind ‖ number of samples ‖ body
//
// The number is 0 for a message that was put. Numbers are varints.
func appendMessage(b []byte, m Message, samples int) []byte {
	b = append(append(b, recordMessage), m.ID[:]...)
	b = binary.AppendUvarint(b, m.Kind)
	b = binary.AppendUvarint(b, uint64(samples))
	return append(b, m.Body...)
}

// parseMessage reads a record of appendMessage. The body is a part of it.
func parseMessage(record []byte) (entry, []byte, error) {
	r := &reader{b: record}
	kind := r.byte()
	e := entry{id: r.id(), kind: r.uvarint()}
	samples := r.uvarint()
	if r.bad || kind != recordMessage || samples > maxHeld || len(r.b) > MaxBody {
		return entry{}, nil, errMalformed
	}
	e.samples, e.size = uint32(samples), uint32(len(r.b))
	return e, r.b, nil
}

// appendSettled appends a record:
//
//	1 ‖ id (16) ‖ id (16) …
func appendSettled(b []byte, ids [][idSize]byte) []byte {
	b = append(b, recordSettled)
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}

// parseSettled calls visit with each id of a record of appendSettled.
func parseSettled(record []byte, visit func(id [idSize]byte)) error {
	if len(record) < 1 || record[0] != recordSettled || len(record)%idSize != 1 {
		return errMalformed
	}
	for ids := range slices.Chunk(record[1:], idSize) {
		visit([idSize]byte(ids))
	}
	return nil
}

// reader takes a record apart. After the first thing that is not as it should
// be it is bad, and what it returns is of no use.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return nil
	}
	var taken []byte
	taken, r.b = r.b[:n], r.b[n:]
	return taken
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) id() (id [idSize]byte) {
	copy(id[:], r.take(idSize))
	return id
}

// uvarint takes a number in its shortest form, no other.
func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 {
		r.bad = true
		return 0
	}
	r.take(n)
	return v
}

func (r *reader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1)
}

// names takes the names of 1 to MaxPoints points.
func (r *reader) names() (all []string) {
	n := r.uvarint()
	r.bad = r.bad || n < 1 || n > MaxPoints
	for i := uint64(0); i < n && !r.bad; i++ {
		all = append(all, r.name())
	}
	return all
}

func (r *reader) name() string {
	n := r.uvarint()
	if n < 1 || n > ecowatt.MaxNameLength {
		r.bad = true
		return ""
	}
	return string(r.take(int(n)))
}
