package block

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"ecowatt"
)

// The body of a stored block (section 5): for each column, that of the times
// first, its width and base (9 bytes); for each sample, a bit for each column
// that has gaps, then a field for each column, value - base in width bytes.
const (
	fieldHead = 9
	withGaps  = 0x80 // in the byte of the width
)

// layout is how the samples of a stored block lie.
type layout struct {
	fields [1 + MaxPoints]field
	gaps   uint64 // bit i: point i is missing somewhere
}

type field struct {
	base int64  // the least value
	span uint64 // from base to the largest value
}

// width is the length of the field, in bytes.
func (f field) width() int { return (bits.Len64(f.span) + 7) / 8 }

// marks is the number of bytes before the fields that tell what is missing.
func (l *layout) marks() int { return (bits.OnesCount64(l.gaps) + 7) / 8 }

// size is the length of a sample with so many columns, in bytes.
func (l *layout) size(columns int) int {
	n := l.marks()
	for _, f := range l.fields[:columns] {
		n += f.width()
	}
	return n
}

// eachStored visits the samples of a stored block.
func (h head) eachStored(visit func(at int64, values []ecowatt.Value) error) error {
	var l layout
	columns, body := 1+h.points, h.body
	if len(body) < fieldHead*columns {
		return fmt.Errorf("%w: a stored block that is too short", ErrDamaged)
	}
	for i := range columns {
		width := int(body[0] &^ withGaps)
		gaps := body[0]&withGaps != 0
		if width > 8 || gaps && i == 0 {
			return fmt.Errorf("%w: a stored column that cannot be", ErrDamaged)
		}
		if gaps {
			l.gaps |= 1 << (i - 1)
		}
		l.fields[i] = field{int64(binary.BigEndian.Uint64(body[1:])), 1<<(8*width) - 1}
		body = body[fieldHead:]
	}
	size := l.size(columns)
	if len(body) != size*h.samples {
		return fmt.Errorf("%w: a stored block of the wrong length", ErrDamaged)
	}
	var row [MaxPoints]ecowatt.Value
	for range h.samples {
		at := l.load(row[:h.points], body[:size])
		body = body[size:]
		if err := visit(at, row[:h.points]); err != nil {
			return err
		}
	}
	return nil
}

// load reads one sample.
func (l *layout) load(row []ecowatt.Value, data []byte) (at int64) {
	mark, rest := 0, data[l.marks():]
	take := func(f field) int64 {
		var u uint64
		for _, b := range rest[:f.width()] {
			u = u<<8 | uint64(b)
		}
		rest = rest[f.width():]
		return f.base + int64(u)
	}
	at = take(l.fields[0])
	for i := range row {
		row[i] = ecowatt.Known(take(l.fields[1+i]))
		if l.gaps>>i&1 == 1 {
			if data[mark/8]>>(7-mark%8)&1 == 1 {
				row[i] = ecowatt.Value{}
			}
			mark++
		}
	}
	return at
}

// store makes a stored block of the samples of an intact coded one, with the
// memory of m, which coded it.
func store(m *model, coded []byte, points int) []byte {
	var l layout
	var row [MaxPoints]ecowatt.Value
	samples, body := m.samples, coded[headSize:len(coded)-sumSize]
	again := func(visit func(at int64)) {
		m.start(points)
		m.read(body)
		for range samples {
			visit(m.sample(0, row[:points]))
		}
	}
	var seen uint64
	again(func(at int64) {
		l.fields[0].cover(at, m.samples == 1)
		for i, v := range row[:points] {
			if !v.Valid {
				l.gaps |= 1 << i
				continue
			}
			l.fields[1+i].cover(v.Raw, seen>>i&1 == 0)
			seen |= 1 << i
		}
	})
	data := make([]byte, headSize)
	for i := range 1 + points {
		head := byte(l.fields[i].width())
		if i > 0 && l.gaps>>(i-1)&1 == 1 {
			head |= withGaps
		}
		data = binary.BigEndian.AppendUint64(append(data, head), uint64(l.fields[i].base))
	}
	again(func(at int64) { data = l.append(data, at, row[:points]) })
	return seal(data, kindStored, points, samples)
}

// cover makes room for v; first says that there was no value before.
func (f *field) cover(v int64, first bool) {
	switch {
	case first:
		f.base = v
	case v < f.base:
		f.span += uint64(f.base - v)
		f.base = v
	default:
		f.span = max(f.span, uint64(v-f.base))
	}
}

// append writes one sample.
func (l *layout) append(data []byte, at int64, row []ecowatt.Value) []byte {
	put := func(f field, v int64) {
		for k := f.width() - 1; k >= 0; k-- {
			data = append(data, byte(uint64(v-f.base)>>(8*k)))
		}
	}
	marks, mark := len(data), 0
	data = append(data, make([]byte, l.marks())...)
	put(l.fields[0], at)
	for i, v := range row {
		if l.gaps>>i&1 == 1 {
			if !v.Valid {
				v.Raw = l.fields[1+i].base
				data[marks+mark/8] |= 1 << (7 - mark%8)
			}
			mark++
		}
		put(l.fields[1+i], v.Raw)
	}
	return data
}
