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
}

// OpenFull reads what Full wrote, with a window of at most so many bytes.
func OpenFull(frame io.Reader, size, window uint64) (*Reader, error) {
	return open(frame, size, window, nil)
}

// OpenPatch reads what Patch wrote.
func OpenPatch(frame io.Reader, base []byte, size, window uint64) (*Reader, error) {
	return open(frame, size, window, nil, zstd.WithDecoderDictRaw(dictionary, base))
}

// OpenDiff reads what Diff wrote. base is only read where something of it is
// needed.
func OpenDiff(frame io.Reader, base io.ReaderAt, baseSize, size, window uint64) (*Reader, error) {
	return open(frame, size, window, func(r io.Reader) io.Reader {
		return &patcher{diff: bufio.NewReaderSize(r, 4<<10), base: base, size: int64(baseSize)}
	})
}

func open(frame io.Reader, size, window uint64, then func(io.Reader) io.Reader, o ...zstd.DOption) (*Reader, error) {
	// A frame with an id of a dictionary is only read where one was given.
	o = append(o, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(max(window, zstd.MinWindowSize)))
	d, err := zstd.NewReader(frame, o...)
	if err != nil {
		return nil, fmt.Errorf("reading a payload: %w", err)
	}
	r := &Reader{source: d, decoder: d, left: size}
	if then != nil {
		r.source = then(d)
	}
	return r, nil
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
	case foreign(err):
		return n, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return n, err
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
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// foreign reports whether an error comes from the bytes and not from their source.
func foreign(err error) bool {
	for _, e := range []error{
		zstd.ErrMagicMismatch, zstd.ErrCRCMismatch, zstd.ErrReservedBlockType, zstd.ErrCompressedSizeTooBig,
		zstd.ErrBlockTooSmall, zstd.ErrUnexpectedBlockSize, zstd.ErrWindowSizeExceeded, zstd.ErrWindowSizeTooSmall,
		zstd.ErrUnknownDictionary, zstd.ErrFrameSizeExceeded, zstd.ErrFrameSizeMismatch, zstd.ErrDecoderSizeExceeded,
		io.ErrUnexpectedEOF,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Close frees what the reader holds.
func (r *Reader) Close() { r.decoder.Close() }
