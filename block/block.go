// Package block packs a run of samples without loss, as codec 1 of the
// protocol (section 6). docs/formats/block.md is its contract.
//
// A block is encoded sample by sample in a few KiB of memory, so that the
// smallest gateway can do it, and costs about a quarter of the registers' own
// bytes. Every damage is noticed when it is decoded.
package block

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"ecowatt"
)

// What a block can hold at most.
const (
	MaxPoints  = 64
	MaxSamples = 4096
)

// Errors of decoding; what wraps them says more, without the bytes.
var (
	// ErrDamaged says that these are not the bytes of a block as it was encoded.
	ErrDamaged = errors.New("damaged block")
	// ErrVersion says that this is no block of a version known here.
	ErrVersion = errors.New("unknown version of block")
	// ErrLimit says that a block is larger than the caller takes.
	ErrLimit = errors.New("block beyond the limits")
)

// Layout of a block, in bytes: kind (1), points (1), samples (2), body,
// checksum (4). Numbers are big-endian.
const (
	headSize = 4
	sumSize  = 4

	kindStored = 0x10 // version 1, body as in section 5
	kindCoded  = 0x11 // version 1, body as in sections 3 and 4
)

// Limits are what Decode takes at most. 0 stands for MaxPoints and MaxSamples.
type Limits struct{ Points, Samples int }

// Encode packs the samples of b; names are not in the bytes. The times are any,
// even going back. It fails where there are no points, more than MaxPoints or
// MaxSamples, or where a sample has not one value per point.
func Encode(b ecowatt.Block) ([]byte, error) {
	e, err := NewEncoder(len(b.Points))
	if err != nil {
		return nil, err
	}
	for i, s := range b.Samples {
		if err := e.Append(s.At, s.Values); err != nil {
			return nil, fmt.Errorf("sample %d: %w", i, err)
		}
	}
	return e.Finish(), nil
}

// Decode unpacks a block. The error wraps ErrDamaged, ErrVersion or ErrLimit.
// Before it has checked sum and limits it allocates nothing.
func Decode(data []byte, l Limits) ([]ecowatt.Sample, error) {
	h, err := open(data, l)
	if err != nil {
		return nil, err
	}
	samples := make([]ecowatt.Sample, 0, h.samples)
	values := make([]ecowatt.Value, h.samples*h.points)
	err = h.each(func(at int64, row []ecowatt.Value) error {
		kept := values[:h.points:h.points]
		values = values[h.points:]
		copy(kept, row)
		samples = append(samples, ecowatt.Sample{At: at, Values: kept})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return samples, nil
}

// Each decodes a block sample by sample, and ends with the first error of
// visit. The values are good until visit returns. That a block is damaged or
// beyond the limits is nearly always known before the first visit; a block that
// was made to deceive may tell only after the last.
func Each(data []byte, l Limits, visit func(at int64, values []ecowatt.Value) error) error {
	h, err := open(data, l)
	if err != nil {
		return err
	}
	return h.each(visit)
}

// head is a block whose sum and limits were checked.
type head struct {
	kind            byte
	points, samples int
	body            []byte
}

func open(data []byte, l Limits) (head, error) {
	if len(data) < headSize+sumSize {
		return head{}, fmt.Errorf("%w: %d bytes are too few", ErrDamaged, len(data))
	}
	h := head{
		kind:    data[0],
		points:  int(data[1]),
		samples: int(binary.BigEndian.Uint16(data[2:])),
		body:    data[headSize : len(data)-sumSize],
	}
	switch {
	case h.kind != kindStored && h.kind != kindCoded:
		return head{}, ErrVersion
	case binary.BigEndian.Uint32(data[len(data)-sumSize:]) != sum(data[:len(data)-sumSize]):
		return head{}, fmt.Errorf("%w: wrong checksum", ErrDamaged)
	case h.points == 0 || h.points > MaxPoints || h.samples > MaxSamples:
		return head{}, fmt.Errorf("%w: %d points and %d samples cannot be", ErrDamaged, h.points, h.samples)
	case l.Points > 0 && h.points > l.Points:
		return head{}, fmt.Errorf("%w: %d points, at most %d are taken", ErrLimit, h.points, l.Points)
	case l.Samples > 0 && h.samples > l.Samples:
		return head{}, fmt.Errorf("%w: %d samples, at most %d are taken", ErrLimit, h.samples, l.Samples)
	}
	return h, nil
}

func (h head) each(visit func(at int64, values []ecowatt.Value) error) error {
	if h.kind == kindStored {
		return h.eachStored(visit)
	}
	if n := len(h.body); n > 0 && h.body[n-1] == 0 {
		return fmt.Errorf("%w: it ends in zeros", ErrDamaged)
	}
	var m model
	var row [MaxPoints]ecowatt.Value
	m.start(h.points)
	m.read(h.body)
	for range h.samples {
		at := m.sample(0, row[:h.points])
		if m.stray {
			break
		}
		if err := visit(at, row[:h.points]); err != nil {
			return err
		}
	}
	switch {
	case m.stray:
		return fmt.Errorf("%w: no samples are coded so", ErrDamaged)
	case !m.drained():
		return fmt.Errorf("%w: bytes are left over", ErrDamaged)
	}
	return nil
}

// sum is the checksum of a block: CRC-32C (RFC 3720, appendix B.4).
func sum(data []byte) uint32 { return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)) }

// seal writes head and checksum around the body that follows the first
// headSize bytes of data.
func seal(data []byte, kind byte, points, samples int) []byte {
	data[0], data[1] = kind, byte(points)
	binary.BigEndian.PutUint16(data[2:], uint16(samples))
	return binary.BigEndian.AppendUint32(data, sum(data))
}
