package delta

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"index/suffixarray"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

// program is bytes that resemble a program: words that repeat, and addresses.
func program(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	words := make([][]byte, 200)
	for i := range words {
		words[i] = make([]byte, 1+r.IntN(12))
		for j := range words[i] {
			words[i][j] = byte(r.UintN(256))
		}
	}
	var b []byte
	for len(b) < n {
		b = append(b, words[r.IntN(len(words))]...)
		if r.IntN(4) == 0 {
			b = binary.LittleEndian.AppendUint32(b, uint32(len(b)))
		}
	}
	return b[:n]
}

func diff(tb testing.TB, base, image []byte) []byte {
	tb.Helper()
	frame, err := Diff(base, image)
	if err != nil {
		tb.Fatal(err)
	}
	return frame
}

func read(r *Reader, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func openDiff(frame, base []byte, size int) ([]byte, error) {
	return read(OpenDiff(bytes.NewReader(frame), bytes.NewReader(base), uint64(len(base)), uint64(size), DiffWindow))
}

// edit makes another image of base: parts of it moved, changed, left out and new.
func edit(t *rapid.T, base []byte) []byte {
	image := slices.Clone(base)
	for range rapid.IntRange(0, 8).Draw(t, "edits") {
		at := rapid.IntRange(0, len(image)).Draw(t, "at")
		n := rapid.IntRange(0, min(300, len(image)-at)).Draw(t, "n")
		switch rapid.IntRange(0, 3).Draw(t, "edit") {
		case 0:
			image = slices.Insert(image, at, rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "new")...)
		case 1:
			image = slices.Delete(image, at, at+n)
		case 2:
			for i := at; i < at+n; i += 1 + rapid.IntRange(0, 40).Draw(t, "step") {
				image[i] += 3
			}
		case 3:
			part := slices.Clone(image[at : at+n])
			image = slices.Delete(image, at, at+n)
			image = slices.Insert(image, rapid.IntRange(0, len(image)).Draw(t, "to"), part...)
		}
	}
	return image
}

// The steps make the image again, whatever was done to the base.
func TestStepsMakeTheImage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := program(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(0, 3000).Draw(t, "size"))
		image := edit(t, base)
		d := differ{base: base, image: image, index: suffixarray.New(base)}
		p := patcher{diff: bufio.NewReader(bytes.NewReader(d.steps())), base: bytes.NewReader(base), size: int64(len(base))}
		got, err := io.ReadAll(iotest.OneByteReader(&p))
		if err != nil || !bytes.Equal(got, image) {
			t.Fatalf("another image: %v", err)
		}
	})
}

func TestFramesMakeTheImage(t *testing.T) {
	base := program(8, 40_000)
	for name, image := range map[string][]byte{
		"the same": base, "nothing": {}, "longer": append(slices.Clone(base), base...), "shorter": base[5000:], "another": program(9, 30_000),
	} {
		full, err := Full(image)
		if err != nil {
			t.Fatal(err)
		}
		got, err := read(OpenFull(bytes.NewReader(full), uint64(len(image)), FullWindow))
		if err != nil || !bytes.Equal(got, image) {
			t.Errorf("%s, full: %v", name, err)
		}
		if got, err = openDiff(diff(t, base, image), base, len(image)); err != nil || !bytes.Equal(got, image) {
			t.Errorf("%s, difference: %v", name, err)
		}
		patch, window, err := Patch(base, image)
		if err != nil {
			t.Fatal(err)
		}
		if got, err = read(OpenPatch(bytes.NewReader(patch), base, uint64(len(image)), window)); err != nil || !bytes.Equal(got, image) {
			t.Errorf("%s, patch: %v", name, err)
		}
	}
}

// Moved code with shifted addresses is what a difference is made for.
func TestDifferencesAreSmall(t *testing.T) {
	base := program(1, 300_000)
	image := slices.Insert(slices.Clone(base), 150_000, []byte("a few new instructions")...)
	for i := 150_022; i+4 < len(image); i += 100 {
		binary.LittleEndian.PutUint32(image[i:], binary.LittleEndian.Uint32(image[i:])+22)
	}
	full, err := Full(image)
	if err != nil {
		t.Fatal(err)
	}
	if frame := diff(t, base, image); len(frame)*20 > len(full) {
		t.Errorf("%d bytes of difference, %d of the image", len(frame), len(full))
	}
	if one, two := diff(t, base, image), diff(t, base, image); !bytes.Equal(one, two) {
		t.Error("two runs, two differences")
	}
}

// Attacks: F14
func TestPayloadsThatLie(t *testing.T) {
	base := program(2, 20_000)
	image := append(slices.Clone(base), "and more"...)
	frame := diff(t, base, image)
	bomb, err := Full(make([]byte, 8<<20))
	if err != nil {
		t.Fatal(err)
	}
	steps := func(numbers ...int64) []byte {
		var b []byte
		for i, n := range numbers {
			if i%3 == 2 {
				b = binary.AppendVarint(b, n)
			} else {
				b = binary.AppendUvarint(b, uint64(n))
			}
		}
		f, err := compress(b, zstd.WithWindowSize(DiffWindow))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	size := len(image)
	for name, open := range map[string]func() ([]byte, error){
		"longer than announced":  func() ([]byte, error) { return openDiff(frame, base, size-1) },
		"shorter than announced": func() ([]byte, error) { return openDiff(frame, base, size+1) },
		"a bomb": func() ([]byte, error) {
			return read(OpenFull(bytes.NewReader(bomb), 1000, FullWindow))
		},
		"a bomb for a difference": func() ([]byte, error) { return openDiff(bomb, base, 1000) },
		"a window that is too large": func() ([]byte, error) {
			wide, err := compress(program(3, 2<<20), zstd.WithWindowSize(2<<20))
			if err != nil {
				t.Fatal(err)
			}
			return read(OpenFull(bytes.NewReader(wide), 2<<20, FullWindow))
		},
		"cut off":                 func() ([]byte, error) { return openDiff(frame[:len(frame)/2], base, size) },
		"no frame at all":         func() ([]byte, error) { return openDiff([]byte("hello, hello"), base, size) },
		"a step out of the base":  func() ([]byte, error) { return openDiff(steps(20_001, 0, 0), base, size) },
		"a step before the base":  func() ([]byte, error) { return openDiff(steps(0, 0, -5, 5, 0, 0), base, size) },
		"steps that lead nowhere": func() ([]byte, error) { return openDiff(steps(0, 0, 0), base, size) },
		"a seek far away":         func() ([]byte, error) { return openDiff(steps(0, 0, 1<<60), base, size) },
		"a sum that is missing":   func() ([]byte, error) { return openDiff(steps(5, 0, 0), base, size) },
		"a copy that is missing":  func() ([]byte, error) { return openDiff(steps(0, 5, 0), base, size) },
		"half a head":             func() ([]byte, error) { return openDiff(steps(1), base, size) },
		"a dictionary that is none": func() ([]byte, error) {
			patch, window, err := Patch(base, image)
			if err != nil {
				t.Fatal(err)
			}
			return read(OpenFull(bytes.NewReader(patch), uint64(size), window))
		},
	} {
		got, err := open()
		if !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
		if len(got) > size+1 {
			t.Errorf("%s: %d bytes came out", name, len(got))
		}
	}
	if got, err := openDiff(frame, program(9, 20_000), size); err == nil && bytes.Equal(got, image) {
		t.Error("another base makes the same image")
	}
}

// Whatever is wrong with the bytes of a frame, it is the payload that is bad.
func TestDamagedFrames(t *testing.T) {
	base, image := program(1, 4000), program(2, 4000)
	full, err := Full(image)
	if err != nil {
		t.Fatal(err)
	}
	patch, window, err := Patch(base, image)
	if err != nil {
		t.Fatal(err)
	}
	size := uint64(len(image))
	for name, x := range map[string]struct {
		frame []byte
		read  func(frame []byte) ([]byte, error)
	}{
		"full":  {full, func(frame []byte) ([]byte, error) { return read(OpenFull(bytes.NewReader(frame), size, FullWindow)) }},
		"patch": {patch, func(frame []byte) ([]byte, error) { return read(OpenPatch(bytes.NewReader(frame), base, size, window)) }},
		"diff":  {diff(t, base, image), func(frame []byte) ([]byte, error) { return openDiff(frame, base, len(image)) }},
	} {
		for i := 0; i < len(x.frame); i += 1 + i/64 {
			for _, flip := range []byte{1, 0x80, 0xff} {
				damaged := bytes.Clone(x.frame)
				damaged[i] ^= flip
				if _, err := x.read(damaged); err != nil && !errors.Is(err, ErrCorrupt) {
					t.Errorf("%s, byte %d: %v, want ErrCorrupt", name, i, err)
				}
			}
		}
	}
}

// baseThatFails is a base on a disk that is gone.
type baseThatFails struct{ err error }

func (b baseThatFails) ReadAt([]byte, int64) (int, error) { return 0, b.err }

// What the source says stays what it is: a link that broke is no bad payload.
func TestSourcesThatFail(t *testing.T) {
	image := program(4, 50_000)
	full, err := Full(image)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the disk is gone")
	_, err = read(OpenFull(io.MultiReader(bytes.NewReader(full[:100]), iotest.ErrReader(broken)), uint64(len(image)), FullWindow))
	if !errors.Is(err, broken) || errors.Is(err, ErrCorrupt) {
		t.Errorf("%v, want what the source said", err)
	}
	_, err = read(OpenDiff(bytes.NewReader(diff(t, image, image)), baseThatFails{broken}, uint64(len(image)), uint64(len(image)), DiffWindow))
	if !errors.Is(err, broken) || errors.Is(err, ErrCorrupt) {
		t.Errorf("%v, want what the disk of the base said", err)
	}
}

// A device makes the image in little memory, however large the image is.
func TestMemoryOfADifference(t *testing.T) {
	base := program(5, 1<<20)
	image := slices.Insert(slices.Clone(base), 1000, 1, 2, 3)
	frame := diff(t, base, image)
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	r, err := OpenDiff(bytes.NewReader(frame), bytes.NewReader(base), uint64(len(base)), uint64(len(image)), DiffWindow)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, make([]byte, 32<<10)); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&now)
	if took := now.TotalAlloc - before.TotalAlloc; took > 1<<20 {
		t.Errorf("%d KiB for an image of %d KiB", took>>10, len(image)>>10)
	}
}

func FuzzOpenDiff(f *testing.F) {
	base := program(6, 2000)
	image := append(slices.Clone(base[500:]), base[:500]...)
	plain := func(frame []byte) []byte {
		d, err := zstd.NewReader(nil)
		if err != nil {
			f.Fatal(err)
		}
		defer d.Close()
		b, err := d.DecodeAll(frame, nil)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	f.Add(plain(diff(f, base, image)))
	f.Fuzz(func(t *testing.T, steps []byte) {
		frame, err := compress(steps, zstd.WithWindowSize(DiffWindow))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := openDiff(frame, base, len(image)); err == nil && len(got) != len(image) {
			t.Fatalf("%d bytes without an error, %d were announced", len(got), len(image))
		}
	})
}

// BenchmarkDiff reports the size of a difference as a share of the full image.
func BenchmarkDiff(b *testing.B) {
	base := program(7, 1<<20)
	image := slices.Insert(slices.Clone(base), 500_000, []byte("new")...)
	full, err := Full(image)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(image)))
	n := 0
	for b.Loop() {
		n = len(diff(b, base, image))
	}
	b.ReportMetric(float64(n)/float64(len(full)), "of_full")
}
