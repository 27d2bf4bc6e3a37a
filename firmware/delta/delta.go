// Package delta makes the plaintext of payloads out of images, and images out of
// them again: the whole image, the image with an earlier one as dictionary, or
// what has changed since an earlier one. All are a single zstd frame (RFC 8878).
//
// The readers give the image while they read, so that a device writes it without
// a copy in memory. They trust nothing they read: an image that would be larger
// or smaller than announced is an error, and so is a window beyond the limit.
package delta

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Windows of the frames that this package writes, in bytes: what a device needs
// in memory to read one, about twice.
const (
	FullWindow = 1 << 20
	DiffWindow = 128 << 10
)

// ErrCorrupt says that a payload does not make the image that was announced.
var ErrCorrupt = errors.New("the payload does not make the image")

// Full returns the image as a frame of its own.
func Full(image []byte) ([]byte, error) {
	return compress(image, zstd.WithWindowSize(FullWindow))
}

// dictionary is the id of the base in a frame of Patch; a frame names it so that
// it is not read without one.
const dictionary = 1

// Patch returns the image as a frame with base as raw dictionary, and the window
// that a reader needs.
func Patch(base, image []byte) (frame []byte, window uint64, err error) {
	window = FullWindow
	for window < uint64(len(base))+uint64(len(image)) && window < zstd.MaxWindowSize {
		window *= 2
	}
	frame, err = compress(image, zstd.WithWindowSize(int(window)), zstd.WithEncoderDictRaw(dictionary, base))
	return frame, window, err
}

// compress gives the same bytes for the same input, whatever the machine.
func compress(data []byte, o ...zstd.EOption) ([]byte, error) {
	o = append(o, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	w, err := zstd.NewWriter(nil, o...)
	if err != nil {
		return nil, fmt.Errorf("compressing an image: %w", err)
	}
	return w.EncodeAll(data, nil), nil
}

// Reader gives an image of a known size. Close frees what it holds.
type Reader struct {
	source  io.Reader
	decoder *zstd.Decoder
	left    uint64
	disk    *trouble // of frame and base
}

// trouble keeps an error that a source gave, so that it is not taken for one of
// what the source holds.
type trouble struct{ err error }

func (t *trouble) note(n int, err error) (int, error) {
	if err != nil && !errors.Is(err, io.EOF) {
		t.err = err
	}
	return n, err
}

// frameOf reads a frame.
type frameOf struct {
	*trouble
	r io.Reader
}

func (f frameOf) Read(p []byte) (int, error) { return f.note(f.r.Read(p)) }

// baseOf reads a base.
type baseOf struct {
	*trouble
	r io.ReaderAt
}

func (b baseOf) ReadAt(p []byte, at int64) (int, error) { return b.note(b.r.ReadAt(p, at)) }

// OpenFull reads what Full wrote, with a window of at most so many bytes.
func OpenFull(frame io.Reader, size, window uint64) (*Reader, error) {
	return open(frame, size, window)
}

// OpenPatch reads what Patch wrote.
func OpenPatch(frame io.Reader, base []byte, size, window uint64) (*Reader, error) {
	return open(frame, size, window, zstd.WithDecoderDictRaw(dictionary, base))
}

// OpenDiff reads what Diff wrote. base is only read where something of it is
// needed.
func OpenDiff(frame io.Reader, base io.ReaderAt, baseSize, size, window uint64) (*Reader, error) {
	r, err := open(frame, size, window)
	if err != nil {
		return nil, err
	}
	r.source = &patcher{diff: bufio.NewReaderSize(r.source, 4<<10), base: baseOf{r.disk, base}, size: int64(baseSize)}
	return r, nil
}

func open(frame io.Reader, size, window uint64, o ...zstd.DOption) (*Reader, error) {
	// A frame with an id of a dictionary is only read where one was given.
	o = append(o, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(max(window, zstd.MinWindowSize)))
	disk := &trouble{}
	d, err := zstd.NewReader(frameOf{disk, frame}, o...)
	if err != nil {
		return nil, fmt.Errorf("reading a payload: %w", err)
	}
	return &Reader{source: d, decoder: d, left: size, disk: disk}, nil
}

// Read gives the next bytes of the image; io.EOF after exactly its size. Every
// other end is an error that wraps ErrCorrupt, or is that of the frame's source.
func (r *Reader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, r.end()
	}
	p = p[:min(uint64(len(p)), r.left)]
	n, err := r.source.Read(p)
	r.left -= uint64(n)
	switch {
	case err == nil || errors.Is(err, io.EOF) && r.left == 0:
		return n, nil
	case errors.Is(err, io.EOF):
		return n, fmt.Errorf("%w: it is %d bytes short", ErrCorrupt, r.left)
	}
	return n, r.blame(err)
}

// end makes sure that nothing follows the image.
func (r *Reader) end() error {
	var one [1]byte
	n, err := io.ReadFull(r.source, one[:])
	switch {
	case n > 0:
		return fmt.Errorf("%w: it is longer than announced", ErrCorrupt)
	case errors.Is(err, io.EOF):
		return io.EOF
	}
	return r.blame(err)
}

// blame says whether an error comes from a source or from the bytes that it gave.
func (r *Reader) blame(err error) error {
	switch {
	case r.disk.err != nil:
		return r.disk.err
	case errors.Is(err, ErrCorrupt):
		return err
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// Close frees what the reader holds.
func (r *Reader) Close() { r.decoder.Close() }
