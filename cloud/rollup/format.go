package rollup

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// version begins each encoded part of a table.
const version = 1

// ErrFormat says that bytes are no part of a table.
var ErrFormat = errors.New("not a roll-up")

// A table is written as rows, one after the other, all numbers as LEB128 and
// differences as zigzag: the number of the bucket, as the difference to the one
// before; then for each point the count, and where that is not 0 the least as
// the difference to the one before, the greatest less the least, and the sum
// less count × least. Differences wrap around, so every number comes back.

// AppendStats appends what Stats of the rows say.
func (t Table) AppendStats(b []byte) []byte {
	b = append(b, version)
	b = binary.AppendUvarint(b, uint64(len(t)))
	var n int64
	var least []int64
	for _, row := range t {
		b = binary.AppendVarint(b, row.N-n)
		n = row.N
		if least == nil {
			least = make([]int64, len(row.Stats))
		}
		for i, s := range row.Stats {
			b = binary.AppendUvarint(b, uint64(s.Count))
			if s.Count == 0 {
				continue
			}
			b = binary.AppendVarint(b, s.Min-least[i])
			b = binary.AppendUvarint(b, uint64(s.Max)-uint64(s.Min))
			b = binary.AppendUvarint(b, uint64(s.Sum)-uint64(s.Count)*uint64(s.Min))
			least[i] = s.Min
		}
	}
	return b
}

// ParseStats reads what AppendStats wrote of a table of so many points. The
// series are empty. The error wraps ErrFormat.
func ParseStats(b []byte, points int) (Table, error) {
	r, n, err := newReader(b, points)
	if err != nil {
		return nil, err
	}
	t := make(Table, 0, n)
	least := make([]int64, points)
	all := make([]Stats, int(n)*points)
	var number int64
	for range n {
		number += r.varint()
		stats := all[:points:points]
		all = all[points:]
		for i := range stats {
			count := r.uvarint()
			if count == 0 {
				continue
			}
			least[i] += r.varint()
			s := Stats{Count: int64(count), Min: least[i]}
			s.Max = int64(uint64(s.Min) + r.uvarint())
			s.Sum = int64(r.uvarint() + count*uint64(s.Min))
			stats[i] = s
		}
		t = append(t, Row{N: number, Stats: stats})
	}
	return t, r.end()
}

// AppendSeries appends what Series of the rows say: for each a 1 where it is
// known, and then the time of the first as ms since the bucket began, that of the
// last less the first, both values, the second as the difference, area and gain.
func (t Table) AppendSeries(b []byte) []byte {
	b = append(b, version)
	b = binary.AppendUvarint(b, uint64(len(t)))
	var n int64
	for _, row := range t {
		b = binary.AppendVarint(b, row.N-n)
		n = row.N
		for _, s := range row.Series {
			if !s.Known {
				b = append(b, 0)
				continue
			}
			b = append(b, 1)
			b = binary.AppendVarint(b, s.First.At-row.N*Quarter)
			b = binary.AppendVarint(b, s.Last.At-s.First.At)
			b = binary.AppendVarint(b, s.First.Raw)
			b = binary.AppendVarint(b, s.Last.Raw-s.First.Raw)
			b = binary.AppendVarint(b, s.Area)
			b = binary.AppendVarint(b, s.Gain)
		}
	}
	return b
}

// ParseSeries reads what AppendSeries wrote of a table with so many series. The
// stats are empty. The error wraps ErrFormat.
func ParseSeries(b []byte, series int) (Table, error) {
	r, n, err := newReader(b, series)
	if err != nil {
		return nil, err
	}
	t := make(Table, 0, n)
	all := make([]Series, int(n)*series)
	var number int64
	for range n {
		number += r.varint()
		row := Row{N: number, Series: all[:series:series]}
		all = all[series:]
		for i := range row.Series {
			row.Series[i] = r.series(number)
		}
		t = append(t, row)
	}
	return t, r.end()
}

// series reads one of the bucket with that number.
func (r *reader) series(number int64) Series {
	if r.uvarint() == 0 {
		return Series{}
	}
	s := Series{Known: true}
	s.First.At = number*Quarter + r.varint()
	s.Last.At = s.First.At + r.varint()
	s.First.Raw = r.varint()
	s.Last.Raw = s.First.Raw + r.varint()
	s.Area, s.Gain = r.varint(), r.varint()
	return s
}

// Join puts the two parts of one table together. The error wraps ErrFormat where
// they are not of one.
func Join(stats, series Table) (Table, error) {
	if len(stats) != len(series) {
		return nil, fmt.Errorf("%w: %d rows and %d", ErrFormat, len(stats), len(series))
	}
	for i := range stats {
		if stats[i].N != series[i].N {
			return nil, fmt.Errorf("%w: row %d is two", ErrFormat, i)
		}
		stats[i].Series = series[i].Series
	}
	return stats, nil
}

// reader reads numbers until one is not there.
type reader struct {
	b      []byte
	at     int // of the next number; an integer, for a slice that moves costs the collector a note each time
	broken bool
}

// newReader reads the head of a part: how many rows follow, each of at least one
// byte and so many more.
func newReader(b []byte, each int) (*reader, uint64, error) {
	if len(b) == 0 || b[0] != version {
		return nil, 0, fmt.Errorf("%w of version %d", ErrFormat, version)
	}
	r := &reader{b: b, at: 1}
	n := r.uvarint()
	left := uint64(len(r.b) - r.at)
	if r.broken || n*uint64(1+each) > left || n > left {
		return nil, 0, fmt.Errorf("%w: it is cut off", ErrFormat)
	}
	return r, n, nil
}

func (r *reader) uvarint() uint64 {
	if r.at < len(r.b) && r.b[r.at] < 0x80 { // most are that short
		r.at++
		return uint64(r.b[r.at-1])
	}
	return r.long()
}

// long reads a number of any length.
func (r *reader) long() uint64 {
	v, n := binary.Uvarint(r.b[r.at:])
	if n <= 0 {
		r.at, r.broken = len(r.b), true
		return 0
	}
	r.at += n
	return v
}

func (r *reader) varint() int64 {
	u := r.uvarint()
	return int64(u>>1) ^ -int64(u&1) //nolint:gosec // G115: zigzag, as encoding/binary has it
}

func (r *reader) end() error {
	if r.broken || r.at < len(r.b) {
		return fmt.Errorf("%w: it is cut off, or something follows", ErrFormat)
	}
	return nil
}
