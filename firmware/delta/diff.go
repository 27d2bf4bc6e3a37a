package delta

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"index/suffixarray"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// The plaintext of a Diff is a row of steps. Each begins with three numbers, as
// LEB128 (the third zigzag, as in Protocol Buffers):
//
//	add    so many bytes of the image are the sum, modulo 256, of a byte that
//	       follows here and the next one of the base
//	copy   so many bytes of the image follow here as they are
//	seek   then the place in the base goes so far, either way
//
// which are followed by the bytes of add and then those of copy. It begins at
// the beginning of the base. This is the way of bsdiff (Percival 2003): where
// code has only moved, the sums are zeros with a difference here and there,
// which a compressor makes small.

const (
	minMatch = 16      // bytes: shorter matches are not looked for
	maxMatch = 1 << 16 // bytes: longer ones are not told apart
	gain     = 8       // bytes by which a new match must be better than to go on as before
	hopeless = 4 << 10 // bytes without a likeness after which none is expected
)

// Diff returns what makes image out of base, as a frame with the window
// DiffWindow. It takes about 6 × len(base) bytes of memory, and some seconds for
// each 10 MB.
func Diff(base, image []byte) ([]byte, error) {
	d := differ{base: base, image: image, index: suffixarray.New(base)}
	return compress(d.steps(), zstd.WithWindowSize(DiffWindow))
}

type differ struct {
	base, image []byte
	index       *suffixarray.Index
	out         []byte
}

// steps goes through the image and looks for the next match that is clearly
// better than to go on in the base as before.
func (d *differ) steps() []byte {
	var last place // where the part that is not written yet begins
	offset := 0    // from the image to the base, in the match before
	for at, length := 0, 0; at < len(d.image); {
		at += length
		score := 0 // bytes of image[at:seen] that are the same with the offset before
		var found int
		for seen := at; at < len(d.image); at++ {
			found, length = d.longest(at, offset)
			for ; seen < at+length; seen++ {
				if d.same(seen+offset, seen) {
					score++
				}
			}
			if length == score && length != 0 || length > score+gain {
				break
			}
			if d.same(at+offset, at) {
				score--
			}
		}
		if length == score && at < len(d.image) {
			continue // it goes on as before
		}
		if at == len(d.image) {
			found = -1
		}
		last = d.step(last, place{base: found, image: at})
		offset = last.base - last.image
	}
	return d.out
}

func (d *differ) same(base, image int) bool {
	return base >= 0 && base < len(d.base) && d.base[base] == d.image[image]
}

// longest returns a place in the base where image[at:] goes on the same for
// longest, and for how long; 0 where that is shorter than minMatch. Where it
// goes on with the offset, that is good enough.
func (d *differ) longest(at, offset int) (place, length int) {
	if n := d.extend(at+offset, at); n >= 4*minMatch {
		return at + offset, n
	}
	rest := d.image[at:]
	least, most := 0, min(len(rest), maxMatch)
	for n := minMatch; n <= most; n = min(2*n, most) {
		found := d.index.Lookup(rest[:n], 1)
		if found == nil {
			most = n - 1
			break
		}
		place = found[0]
		least = min(d.extend(place, at), most)
		if least == most {
			return place, least
		}
		n = max(n, least)
	}
	for least > 0 && least < most {
		n := (least + most + 1) / 2
		found := d.index.Lookup(rest[:n], 1)
		if found == nil {
			most = n - 1
			continue
		}
		place = found[0]
		least = min(d.extend(place, at), most)
	}
	return place, least
}

// extend counts the equal bytes from the two places on, up to maxMatch.
func (d *differ) extend(base, image int) (n int) {
	for n < maxMatch && image+n < len(d.image) && d.same(base+n, image+n) {
		n++
	}
	return n
}

// place is a pair of places, in base and image.
type place struct{ base, image int }

// step writes the part of the image from last up to the next match, and returns
// where the part after it begins. As far as the part resembles the base from its
// begin forwards, and the match backwards, it is a sum, and what is between is
// copied. A next.base of −1 is the end.
func (d *differ) step(last, next place) place {
	room := next.image - last.image
	forward := likeness(room, func(i int) bool { return d.same(last.base+i, last.image+i) })
	forward = min(forward, max(0, len(d.base)-last.base))
	backward := 0
	if next.base >= 0 {
		backward = likeness(room, func(i int) bool { return d.same(next.base-1-i, next.image-1-i) })
		backward = min(backward, next.base)
	} else {
		next.base = last.base + forward
	}
	if over := forward + backward - room; over > 0 {
		kept := d.split(place{last.base + forward - over, last.image + forward - over}, place{next.base - backward, next.image - backward}, over)
		forward, backward = forward-over+kept, backward-kept
	}
	raw := room - forward - backward
	begin := place{next.base - backward, next.image - backward}
	d.out = binary.AppendUvarint(d.out, uint64(forward))
	d.out = binary.AppendUvarint(d.out, uint64(raw))
	d.out = binary.AppendVarint(d.out, int64(begin.base-last.base-forward))
	for i := range forward {
		d.out = append(d.out, d.image[last.image+i]-d.base[last.base+i])
	}
	d.out = append(d.out, d.image[last.image+forward:][:raw]...)
	return begin
}

// split says how many of the bytes over, which both sides claim, are better left
// to the one before.
func (d *differ) split(before, after place, over int) (best int) {
	for i, score, top := 0, 0, 0; i < over; i++ {
		if d.same(before.base+i, before.image+i) {
			score++
		}
		if d.same(after.base+i, after.image+i) {
			score--
		}
		if score > top {
			best, top = i+1, score
		}
	}
	return best
}

// likeness is the length up to most for which more than half of the bytes are
// the same, by as many as can be.
func likeness(most int, same func(int) bool) (best int) {
	for i, score, top := 0, 0, 0; i < most && i-best < hopeless; i++ {
		if same(i) {
			score++
		} else {
			score--
		}
		if score > top {
			best, top = i+1, score
		}
	}
	return best
}

// patcher makes the image out of the plaintext of a Diff.
type patcher struct {
	diff *bufio.Reader
	base io.ReaderAt
	size int64 // of base

	at        int64 // in base
	add, copy uint64
	seek      int64
	old       []byte // of the base, for sum
}

// Read gives the next bytes of the image.
func (p *patcher) Read(out []byte) (int, error) {
	for p.add == 0 && p.copy == 0 {
		if err := p.next(); err != nil {
			return 0, err
		}
	}
	if p.add > 0 {
		return p.sum(out[:min(uint64(len(out)), p.add)])
	}
	n, err := p.diff.Read(out[:min(uint64(len(out)), p.copy)])
	p.copy -= uint64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next reads the head of a step, after the seek of the one before.
func (p *patcher) next() error {
	p.at += p.seek
	p.seek = 0
	add, err := binary.ReadUvarint(p.diff)
	if err != nil {
		return err // io.EOF between two steps is the end
	}
	raw, err := binary.ReadUvarint(p.diff)
	if err != nil {
		return inside(err)
	}
	seek, err := binary.ReadVarint(p.diff)
	if err != nil {
		return inside(err)
	}
	if p.at < 0 || p.at > p.size || add > uint64(p.size-p.at) {
		return fmt.Errorf("%w: a step leads out of the base", ErrCorrupt)
	}
	if add == 0 && raw == 0 && seek == 0 || seek > p.size || seek < -p.size {
		return fmt.Errorf("%w: a step leads nowhere", ErrCorrupt)
	}
	p.add, p.copy, p.seek = add, raw, seek
	return nil
}

func inside(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// sum reads bytes of the base and adds those of the diff.
func (p *patcher) sum(out []byte) (int, error) {
	n, err := p.diff.Read(out)
	if n == 0 {
		return 0, inside(err)
	}
	out = out[:n]
	p.old = slices.Grow(p.old[:0], n)[:n]
	if _, err := io.ReadFull(io.NewSectionReader(p.base, p.at, int64(n)), p.old); err != nil {
		return 0, fmt.Errorf("reading the base: %w", err)
	}
	for i, b := range p.old {
		out[i] += b
	}
	p.at += int64(n)
	p.add -= uint64(n)
	return n, nil
}
