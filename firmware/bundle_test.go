package firmware

import (
	"archive/tar"
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"ecowatt/key"
)

// testRelease is a signed release with a difference and the full image, and its
// files.
func testRelease(tb testing.TB) (Envelope, key.Content, map[File][]byte) {
	tb.Helper()
	k, m, r := content(tb, 1), testManifest(tb), random()
	files := map[File][]byte{}
	m.Payloads = nil
	for _, s := range []Source{
		{Kind: KindDiff, Plain: image(20_000), Base: make([]byte, 32), BaseSize: 40_000, Window: 128 << 10},
		{Kind: KindFull, Plain: image(50_000), Window: 1 << 20},
	} {
		p, err := Pack(s, k, product, r)
		if err != nil {
			tb.Fatal(err)
		}
		m.Payloads = append(m.Payloads, p.Payload)
		files[File{p.Payload.Artifact, p.Payload.Size}] = p.Artifact
		files[File{p.Payload.Table, p.Payload.TableSize()}] = p.Table
	}
	return signedManifest(tb, m, signing(tb, 4), signing(tb, 5)), k, files
}

func testBundle(tb testing.TB) []byte {
	tb.Helper()
	e, k, files := testRelease(tb)
	var b bytes.Buffer
	if err := WriteBundle(&b, Bundle{Envelope: e, Content: k, Open: func(f File) (io.Reader, error) { return bytes.NewReader(files[f]), nil }}); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// readWhole reads a bundle to its end.
func readWhole(r io.Reader, most uint64) (*BundleReader, map[File][]byte, error) {
	b, err := ReadBundle(r, most)
	if err != nil {
		return nil, nil, err
	}
	files := map[File][]byte{}
	for {
		f, content, err := b.Next()
		if errors.Is(err, io.EOF) {
			return b, files, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if files[f], err = io.ReadAll(content); err != nil {
			return nil, nil, err
		}
	}
}

const enough = 1 << 20

func TestBundleRoundTrip(t *testing.T) {
	e, k, files := testRelease(t)
	written := testBundle(t)
	b, got, err := readWhole(iotest.OneByteReader(bytes.NewReader(written)), enough)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(files, got); diff != "" {
		t.Errorf("the files changed on their way (-put +got):\n%s", diff)
	}
	if b.Envelope.ID() != e.ID() || !b.Content.Equal(k) {
		t.Error("the envelope or the key changed on its way")
	}
	if _, err := testRoot(t).Manifest(b.Envelope); err != nil {
		t.Errorf("the signatures of the envelope: %v", err)
	}
	if again := testBundle(t); !bytes.Equal(again, written) {
		t.Error("the same release gives other bytes")
	}
	// Files that nobody reads are verified all the same.
	skipped, err := ReadBundle(bytes.NewReader(written), enough)
	for n := 0; err == nil; n++ {
		if _, _, err = skipped.Next(); err != nil && (!errors.Is(err, io.EOF) || n != len(files)) {
			t.Errorf("passing over files: %v after %d", err, n)
		}
	}
}

// A bundle is a tar like every other.
func TestBundleIsATar(t *testing.T) {
	e, _, _ := testRelease(t)
	m, err := ReadManifest(e)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"envelope", "content-key"}
	for _, f := range m.Files() {
		want = append(want, "artifacts/"+hex.EncodeToString(f.Name[:]))
	}
	var got []string
	for r := tar.NewReader(bytes.NewReader(testBundle(t))); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		got = append(got, h.Name)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
}

// A bundle that was cut off, or of which a byte was changed, is refused, or says
// the same.
//
// Attacks: F13
func TestDamagedBundles(t *testing.T) {
	good := testBundle(t)
	_, _, want := testRelease(t)
	last := len(bytes.TrimRight(good, "\x00")) // what is behind it says nothing
	for n := 0; n < len(good); n += 61 {
		_, _, err := readWhole(bytes.NewReader(good[:n]), enough)
		if n < last && !errors.Is(err, ErrFormat) {
			t.Fatalf("cut off after %d bytes of %d: %v, want ErrFormat", n, len(good), err)
		}
	}
	for at := 0; at < last; at += 7 {
		if inPadding(good, at) {
			continue
		}
		bad := bytes.Clone(good)
		bad[at] ^= 0x20
		b, files, err := readWhole(bytes.NewReader(bad), enough)
		if err == nil { // the signatures are what the envelope is held against
			_, err = testRoot(t).Manifest(b.Envelope)
		}
		if err == nil && cmp.Equal(files, want) {
			continue // a space for a zero in a number of the tar
		}
		if !isAny(err, ErrFormat, ErrChunk, ErrContentKey, ErrSignature) {
			t.Fatalf("byte %d changed: %v", at, err)
		}
	}
}

func isAny(err error, targets ...error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// inPadding reports whether a byte of a tar is between two members.
func inPadding(data []byte, at int) bool {
	source := bytes.NewReader(data)
	for r := tar.NewReader(source); ; {
		h, err := r.Next()
		if err != nil {
			return false
		}
		begin := len(data) - source.Len()
		if end := begin + int(h.Size); at < end || at < (end+511)/512*512 {
			return at >= end
		}
	}
}

// member is one of a bundle that is put together by hand.
type member struct {
	name string
	data []byte
	kind byte
}

func TestBundlesThatAreNone(t *testing.T) {
	e, k, files := testRelease(t)
	secret := k.Secret()
	members := []member{{name: "envelope", data: encoded(t, e)}, {name: "content-key", data: secret[:]}}
	m, err := ReadManifest(e)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range m.Files() {
		members = append(members, member{name: "artifacts/" + f.String(), data: files[f]})
	}
	other := content(t, 2).Secret()
	for name, c := range map[string]struct {
		change func([]member) []member
		most   uint64
		want   error
	}{
		"good":                      {change: func(m []member) []member { return m }},
		"no content key":            {change: func(m []member) []member { return append(m[:1], m[2:]...) }, want: ErrFormat},
		"the key first":             {change: func(m []member) []member { m[0], m[1] = m[1], m[0]; return m }, want: ErrFormat},
		"a table before its file":   {change: func(m []member) []member { m[2], m[3] = m[3], m[2]; return m }, want: ErrFormat},
		"a file missing":            {change: func(m []member) []member { return m[:len(m)-1] }, want: ErrFormat},
		"a file more":               {change: func(m []member) []member { return append(m, member{name: "more"}) }, want: ErrFormat},
		"a file twice":              {change: func(m []member) []member { return append(m, m[len(m)-1]) }, want: ErrFormat},
		"out of the folder":         {change: func(m []member) []member { m[2].name = "artifacts/../../etc/passwd"; return m }, want: ErrFormat},
		"a link":                    {change: func(m []member) []member { m[2].kind, m[2].data = tar.TypeSymlink, nil; return m }, want: ErrFormat},
		"a folder":                  {change: func(m []member) []member { return append([]member{{name: "artifacts/", kind: tar.TypeDir}}, m...) }, want: ErrFormat},
		"a name too long for tar":   {change: func(m []member) []member { m[2].name = string(bytes.Repeat([]byte("n"), 300)); return m }, want: ErrFormat},
		"the content of another":    {change: func(m []member) []member { m[2].data = append([]byte{1}, m[2].data[1:]...); return m }, want: ErrChunk},
		"a byte less":               {change: func(m []member) []member { m[2].data = m[2].data[1:]; return m }, want: ErrFormat},
		"the key of something":      {change: func(m []member) []member { m[1].data = other[:]; return m }, want: ErrContentKey},
		"half a key":                {change: func(m []member) []member { m[1].data = secret[:16]; return m }, want: ErrFormat},
		"a key of zeros":            {change: func(m []member) []member { m[1].data = make([]byte, 32); return m }, want: ErrFormat},
		"no envelope":               {change: func(m []member) []member { m[0].data = nil; return m }, want: ErrFormat},
		"an envelope of 1 MiB":      {change: func(m []member) []member { m[0].data = make([]byte, 1<<20); return m }, want: ErrFormat},
		"larger than may be read":   {change: func(m []member) []member { return m }, most: 70_000, want: ErrTooLarge},
		"a manifest of other hands": {change: func(m []member) []member { m[0].data = []byte{0x82, 0x41, 0x01, 0x80}; return m }, want: ErrFormat},
	} {
		if c.most == 0 {
			c.most = enough
		}
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, m := range c.change(append([]member(nil), members...)) {
			h := tar.Header{Name: m.name, Size: int64(len(m.data)), Mode: 0o644, Typeflag: tar.TypeReg}
			if m.kind != 0 {
				h.Typeflag, h.Linkname = m.kind, "/etc/passwd"
			}
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(m.data); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readWhole(&b, c.most); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, _, err := readWhole(bytes.NewReader(append(testBundle(t), 0)), enough); !errors.Is(err, ErrFormat) {
		t.Errorf("a byte behind it: %v, want ErrFormat", err)
	}
	broken := errors.New("the line is dead")
	for _, n := range []int64{0, 100, 600, 3000, int64(len(testBundle(t))) - 2000} {
		cut := io.MultiReader(io.LimitReader(bytes.NewReader(testBundle(t)), n), iotest.ErrReader(broken))
		if _, _, err := readWhole(cut, enough); !errors.Is(err, broken) || errors.Is(err, ErrFormat) {
			t.Errorf("a source that breaks after %d bytes: %v, want its own error", n, err)
		}
	}
}

// What a writer is given must be what the manifest says.
func TestBundlesThatAreNotWritten(t *testing.T) {
	e, k, files := testRelease(t)
	open := func(f File) (io.Reader, error) { return bytes.NewReader(files[f]), nil }
	gone := errors.New("gone")
	for name, c := range map[string]struct {
		bundle Bundle
		want   error
	}{
		"no manifest":      {Bundle{Envelope: Envelope{Body: []byte{1}}, Content: k, Open: open}, ErrFormat},
		"another key":      {Bundle{Envelope: e, Content: content(t, 2), Open: open}, ErrContentKey},
		"no key":           {Bundle{Envelope: e, Open: open}, ErrContentKey},
		"a file of zeros":  {Bundle{Envelope: e, Content: k, Open: func(f File) (io.Reader, error) { return bytes.NewReader(make([]byte, f.Size)), nil }}, ErrChunk},
		"a file too short": {Bundle{Envelope: e, Content: k, Open: func(File) (io.Reader, error) { return bytes.NewReader(nil), nil }}, ErrFormat},
		"a file gone":      {Bundle{Envelope: e, Content: k, Open: func(File) (io.Reader, error) { return nil, gone }}, gone},
	} {
		if err := WriteBundle(io.Discard, c.bundle); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func FuzzReadBundle(f *testing.F) {
	good := testBundle(f)
	f.Add(good)
	f.Add(good[:2000])
	f.Fuzz(func(t *testing.T, data []byte) {
		b, files, err := readWhole(bytes.NewReader(data), enough)
		if err != nil {
			return
		}
		var again bytes.Buffer
		open := func(f File) (io.Reader, error) { return bytes.NewReader(files[f]), nil }
		if err := WriteBundle(&again, Bundle{Envelope: b.Envelope, Content: b.Content, Open: open}); err != nil {
			t.Fatalf("what was read is not written: %v", err)
		}
	})
}
