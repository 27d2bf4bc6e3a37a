package firmware

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"ecowatt/key"
)

// Names of the members of a bundle, in their order; after them come the files of
// the manifest.
const (
	memberEnvelope   = "envelope"
	memberContentKey = "content-key"
	folderArtifacts  = "artifacts/"
)

// File is a file of a release: an artifact, or the table of its chunks.
type File struct {
	Name [sha256.Size]byte // SHA-256 of its content
	Size uint64            // bytes
}

// String is the name in hexadecimal.
func (f File) String() string { return hex.EncodeToString(f.Name[:]) }

// Files lists the files of a release, each once, in the order of the payloads:
// the artifact, then its table.
func (m Manifest) Files() []File {
	var files []File
	seen := map[[sha256.Size]byte]bool{}
	for _, p := range m.Payloads {
		for _, f := range []File{{p.Artifact, p.Size}, {p.Table, p.TableSize()}} {
			if !seen[f.Name] {
				seen[f.Name] = true
				files = append(files, f)
			}
		}
	}
	return files
}

// Bundle is a release as it goes from who builds it to the cloud: a tar (POSIX
// ustar) of the envelope, the key of the content, and the files.
type Bundle struct {
	Envelope Envelope
	Content  key.Content
	// Open gives the content of a file. It is called for each of Manifest.Files,
	// in their order, after the one before was read.
	Open func(File) (io.Reader, error)
}

// WriteBundle writes b to w. The same bundle gives the same bytes. The error
// wraps ErrFormat where the envelope holds no manifest, and ErrChunk where a file
// is not what its name says.
func WriteBundle(w io.Writer, b Bundle) error {
	m, err := ReadManifest(b.Envelope)
	if err != nil {
		return err
	}
	if err := m.opens(b.Content); err != nil {
		return err
	}
	envelope, err := b.Envelope.Encode()
	if err != nil {
		return err
	}
	if len(envelope) > MaxEnvelope {
		return malformed("an envelope of %d bytes, at most %d", len(envelope), MaxEnvelope)
	}
	secret := b.Content.Secret()
	defer clear(secret[:])
	t := tar.NewWriter(w)
	if err := writeMember(t, memberEnvelope, uint64(len(envelope)), bytes.NewReader(envelope)); err != nil {
		return err
	}
	if err := writeMember(t, memberContentKey, key.Size, bytes.NewReader(secret[:])); err != nil {
		return err
	}
	for _, f := range m.Files() {
		content, err := b.Open(f)
		if err != nil {
			return fmt.Errorf("bundling %v: %w", f, err)
		}
		if err := writeMember(t, folderArtifacts+f.String(), f.Size, newVerified(f, content)); err != nil {
			return err
		}
	}
	return t.Close()
}

func writeMember(t *tar.Writer, name string, size uint64, content io.Reader) error {
	h := tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(size), Mode: 0o600, Format: tar.FormatUSTAR}
	if err := t.WriteHeader(&h); err != nil {
		return fmt.Errorf("bundling %s: %w", name, err)
	}
	if _, err := io.Copy(t, content); err != nil {
		return fmt.Errorf("bundling %s: %w", name, err)
	}
	return nil
}

// opens is nil when k is the key of all payloads.
func (m Manifest) opens(k key.Content) error {
	for i, p := range m.Payloads {
		if p.ContentKey != ContentID(k) {
			return fmt.Errorf("payload %d: %w", i, ErrContentKey)
		}
		if _, err := OpenContent(k, p, m.Product); err != nil {
			return fmt.Errorf("payload %d: %w", i, err)
		}
	}
	return nil
}

// BundleReader reads a bundle from its beginning to its end. Whose signatures
// the envelope carries is for the caller to verify, with Root.Manifest, before
// anything of the files is kept.
type BundleReader struct {
	Envelope Envelope
	Manifest Manifest // what the envelope says
	Content  key.Content

	source io.Reader
	tar    *tar.Reader
	files  []File // that are still to come
	last   *verified
}

// ReadBundle reads a bundle up to its files, which may have at most so many bytes
// together. The error wraps ErrFormat, ErrContentKey where the key does not belong
// to the payloads, or ErrTooLarge; or it is that of r.
func ReadBundle(r io.Reader, most uint64) (*BundleReader, error) {
	b := &BundleReader{source: r, tar: tar.NewReader(r)}
	envelope, err := b.small(memberEnvelope, 1, MaxEnvelope)
	if err != nil {
		return nil, err
	}
	if b.Envelope, err = ParseEnvelope(envelope); err != nil {
		return nil, err
	}
	if b.Manifest, err = ReadManifest(b.Envelope); err != nil {
		return nil, err
	}
	secret, err := b.small(memberContentKey, key.Size, key.Size)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	if b.Content, err = key.ContentFromBytes(secret); err != nil {
		return nil, malformed("the content key: %v", err)
	}
	if err := b.Manifest.opens(b.Content); err != nil {
		return nil, err
	}
	b.files = b.Manifest.Files()
	var sum uint64
	for _, f := range b.files {
		sum += f.Size // no more than 2 · MaxPayloads files, none above 2 · MaxImage
	}
	if sum > most {
		return nil, fmt.Errorf("%w: the files have %d bytes, at most %d", ErrTooLarge, sum, most)
	}
	return b, nil
}

// small reads a member of so many bytes.
func (b *BundleReader) small(name string, least, most int64) ([]byte, error) {
	size, err := b.member(name)
	if err != nil {
		return nil, err
	}
	if size < least || size > most {
		return nil, malformed("%s has %d bytes, not %d to %d", name, size, least, most)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(b.tar, data); err != nil {
		return nil, fmt.Errorf("reading a bundle: %s: %w", name, cutOff(err))
	}
	return data, nil
}

// member goes to the next member, which must have this name.
func (b *BundleReader) member(name string) (size int64, err error) {
	h, err := b.tar.Next()
	switch {
	case errors.Is(err, io.EOF):
		return 0, fmt.Errorf("reading a bundle: %w", malformed("it ends before %s", name))
	case err != nil:
		return 0, fmt.Errorf("reading a bundle: before %s: %w", name, cutOff(err))
	case h.Name != name:
		return 0, fmt.Errorf("reading a bundle: %w", malformed("%.80q where %s was to come", h.Name, name))
	case h.Typeflag != tar.TypeReg || h.Format != tar.FormatUSTAR:
		return 0, fmt.Errorf("reading a bundle: %w", malformed("%s is no plain file of a ustar archive", name))
	}
	return h.Size, nil
}

// cutOff says that bytes which end, or are no tar, are not of the format. Other
// errors are those of the source.
func cutOff(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, tar.ErrHeader) {
		return malformed("%v", err)
	}
	return err
}

// Next goes to the next file, of which the rest is passed over where it was not
// read. Its content ends with io.EOF only where it is what its name says; every
// other end is an error that wraps ErrChunk or ErrFormat, or is that of the
// source. After the last file, and the end of the bundle, the error is io.EOF.
func (b *BundleReader) Next() (File, io.Reader, error) {
	if b.last != nil {
		if _, err := io.Copy(io.Discard, b.last); err != nil {
			return File{}, nil, err
		}
	}
	if len(b.files) == 0 {
		return File{}, nil, b.end()
	}
	f := b.files[0]
	size, err := b.member(folderArtifacts + f.String())
	if err != nil {
		return File{}, nil, err
	}
	if uint64(size) != f.Size {
		return File{}, nil, fmt.Errorf("reading a bundle: %w", malformed("%v has %d bytes, not %d", f, size, f.Size))
	}
	b.files, b.last = b.files[1:], newVerified(f, b.tar)
	return f, b.last, nil
}

// end is io.EOF where nothing follows.
func (b *BundleReader) end() error {
	h, err := b.tar.Next()
	switch {
	case err == nil:
		return fmt.Errorf("reading a bundle: %w", malformed("%.80q after the last file", h.Name))
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("reading a bundle: after the last file: %w", cutOff(err))
	}
	var one [1]byte
	if n, err := io.ReadFull(b.source, one[:]); n > 0 {
		return fmt.Errorf("reading a bundle: %w", malformed("something follows it"))
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading a bundle: %w", err)
	}
	return io.EOF
}

// verified is the content of a file. Its end is only reached where the file has
// its size and is what its name says.
type verified struct {
	file   File
	source io.Reader
	hash   hash.Hash
	left   uint64
	err    error // how it has ended
}

func newVerified(f File, source io.Reader) *verified {
	return &verified{file: f, source: source, hash: sha256.New(), left: f.Size}
}

// Read gives the next bytes.
func (v *verified) Read(p []byte) (int, error) {
	if v.err != nil {
		return 0, v.err
	}
	if v.left == 0 {
		v.err = v.end()
		return 0, v.err
	}
	n, err := v.source.Read(p[:min(uint64(len(p)), v.left)])
	v.hash.Write(p[:n])
	v.left -= uint64(n)
	if err == nil || v.left == 0 {
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		err = malformed("%d bytes are missing", v.left)
	}
	v.err = fmt.Errorf("reading %v: %w", v.file, cutOff(err))
	return n, v.err
}

// end is io.EOF where all that was read is the file.
func (v *verified) end() error {
	if [sha256.Size]byte(v.hash.Sum(nil)) != v.file.Name {
		return fmt.Errorf("reading %v: %w: its SHA-256 is another one", v.file, ErrChunk)
	}
	return io.EOF
}
