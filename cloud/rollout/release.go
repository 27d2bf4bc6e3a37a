package rollout

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"ecowatt/firmware"
	"ecowatt/key"
)

// MaxBundle is how many bytes the files of a bundle may have together.
const MaxBundle = 2 << 30

// Release is what the manifest of a release says.
type Release struct {
	ID            Hash   // SHA-256 of the manifest
	Version       string // for people
	Number        uint64 // grows with each release
	Security      uint64
	Size          uint64 // of the image, bytes
	Image         Hash   // SHA-256
	Hardware      []string
	MinFrom       uint64
	DowngradeFrom []uint64
	Created       time.Time // by who built it; zero where that is not said
	Expires       time.Time // zero for never
	Payloads      []Payload
	Files         []File
	Envelope      []byte // signed

	AddedAt time.Time
	AddedBy string // the operator's name
}

// Package is what a device is sent of a release: the signed manifest, and the key
// of the content as it is kept.
type Package struct {
	Release  Hash
	Envelope []byte
	KEK      string
	Wrapped  []byte

	Downgrades [][]byte // signed statements that go with it
}

// InUseError says that a release cannot go, for a rollout needs it.
type InUseError struct{ Rollout ID }

func (e *InUseError) Error() string { return fmt.Sprintf("rollout %v needs it", e.Rollout) }

// Payload is one way to the image.
type Payload struct {
	Kind string // "full", "patch" or "diff"
	Size uint64 // of the artifact, bytes
	Base string // SHA-256 of the image it starts from, hexadecimal; empty for none
}

// File is a file of a release: an artifact, or the table of its chunks.
type File struct {
	Name Hash   // SHA-256 of its content
	Size uint64 // bytes
}

// ReadRelease reads an envelope that was verified before.
func ReadRelease(envelope []byte) (Release, error) {
	e, err := firmware.ParseEnvelope(envelope)
	if err != nil {
		return Release{}, err
	}
	m, err := firmware.ReadManifest(e)
	if err != nil {
		return Release{}, err
	}
	return releaseOf(e, m)
}

func releaseOf(e firmware.Envelope, m firmware.Manifest) (Release, error) {
	envelope, err := e.Encode()
	if err != nil {
		return Release{}, err
	}
	r := Release{
		ID: e.ID(), Version: m.Version, Number: m.Release, Security: m.Security, Size: m.Size, Image: m.Image, Hardware: m.Hardware,
		MinFrom: m.MinFrom, DowngradeFrom: m.DowngradeFrom, Created: second(m.Created), Expires: second(m.Expires), Envelope: envelope,
	}
	for _, p := range m.Payloads {
		r.Payloads = append(r.Payloads, Payload{Kind: kindName(p.Kind), Size: p.Size, Base: hex.EncodeToString(p.Base)})
	}
	for _, f := range m.Files() {
		r.Files = append(r.Files, File{Name: f.Name, Size: f.Size})
	}
	return r, nil
}

// second is a time of whole seconds since 1970; zero for 0.
func second(s int64) time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(s, 0).UTC()
}

func kindName(k firmware.Kind) string {
	switch k {
	case firmware.KindFull:
		return "full"
	case firmware.KindPatch:
		return "patch"
	case firmware.KindDiff:
		return "diff"
	}
	return fmt.Sprintf("kind %d", uint64(k))
}

// Sizes in the body of an answer, in bytes.
const (
	offerHeads   = 1 + 1 + (1 + 34) + (1 + 3) + (1 + 34) + (1 + 2 + len(Folder)) + (1 + 3) + (1 + 3) // all but the parts of changing length
	envelopeHead = 3
)

// Folder is the path of the artifacts.
const Folder = "/v1/artifacts/"

// offerSize bounds what the offer takes in an answer, without roots of trust.
func (r Release) offerSize(downgrades [][]byte) int64 {
	n := offerHeads + len(r.Envelope)
	for _, b := range downgrades {
		n += envelopeHead + len(b)
	}
	return int64(n)
}

// RefusedError says why a release or a root of trust is not taken. Nothing was
// kept.
type RefusedError struct {
	Code    Code
	Problem string // for people, lower-case
}

func (e *RefusedError) Error() string { return e.Problem }

// Code says why something is refused.
type Code string

// The closed set of codes; those of a security event are the protocol's.
const (
	CodeSignature Code = "FW_BAD_SIGNATURE"
	CodeChunk     Code = "FW_BAD_CHUNK" // a file is not what its name says
	CodeFormat    Code = "format"
	CodeKey       Code = "content_key"
	CodeTooLarge  Code = "too_large"
	CodeNoRoot    Code = "no_root"
	CodeRoot      Code = "root" // does not follow the one that is there
)

// refused makes a *RefusedError of an error about what was read. Others are those
// of reading and keeping it.
func refused(err error) error {
	if err == nil {
		return nil
	}
	for _, x := range []struct {
		of   error
		code Code
	}{
		{firmware.ErrSignature, CodeSignature},
		{firmware.ErrChunk, CodeChunk},
		{firmware.ErrContentKey, CodeKey},
		{firmware.ErrTooLarge, CodeTooLarge},
		{firmware.ErrRoot, CodeRoot},
		{firmware.ErrMissingRoot, CodeRoot},
		{firmware.ErrFormat, CodeFormat},
	} {
		if errors.Is(err, x.of) {
			return &RefusedError{Code: x.code, Problem: err.Error()}
		}
	}
	return err
}

// Receive reads a bundle. Its signatures are verified before anything of its files
// is read; then keep is given each file, whose content ends with io.EOF only where
// it is what its name says. Who keeps something of a bundle that is then refused
// throws it away. What is refused is a *RefusedError; other errors are those of
// r and keep. The caller destroys the key.
func Receive(r io.Reader, roots Roots, keep func(File, io.Reader) error) (Release, key.Content, error) {
	if roots.Version() == 0 {
		return Release{}, key.Content{}, &RefusedError{
			Code: CodeNoRoot, Problem: "the cloud has no root of trust by which to verify it: publish one with 'ecowatt firmware root push'",
		}
	}
	b, err := firmware.ReadBundle(r, MaxBundle)
	if err != nil {
		return Release{}, key.Content{}, refused(err)
	}
	release, err := roots.verified(b.Envelope)
	for err == nil {
		var f firmware.File
		var content io.Reader
		if f, content, err = b.Next(); err == nil {
			err = keep(File{Name: f.Name, Size: f.Size}, content)
		}
	}
	if !errors.Is(err, io.EOF) {
		b.Content.Destroy()
		return Release{}, key.Content{}, refused(err)
	}
	return release, b.Content, nil
}

// Verify reads the envelope of a release once more: a root of trust that came
// later may have taken back the key that signed it. The error is a *RefusedError.
func (r Roots) Verify(envelope []byte) error {
	e, err := firmware.ParseEnvelope(envelope)
	if err == nil {
		_, err = r.verified(e)
	}
	return refused(err)
}

func (r Roots) verified(e firmware.Envelope) (Release, error) {
	m, err := r.newest.Manifest(e)
	switch {
	case err != nil:
		return Release{}, err
	case m.MinRoot > r.newest.Version:
		return Release{}, fmt.Errorf("%w: version %d, here is %d", firmware.ErrMissingRoot, m.MinRoot, r.newest.Version)
	case r.newest.Ceiling != 0 && m.Release > r.newest.Ceiling:
		return Release{}, fmt.Errorf("%w: release %d was taken back by the root of trust, which ends at %d", firmware.ErrSignature, m.Release, r.newest.Ceiling)
	}
	return releaseOf(e, m)
}

// Returns verifies signed statements that allow to go back to a release, and
// returns the releases from which they do. The error is a *RefusedError.
func (r Roots) Returns(to uint64, signed [][]byte) (from []uint64, err error) {
	for i, b := range signed {
		e, err := firmware.ParseEnvelope(b)
		if err != nil {
			return nil, refused(err)
		}
		d, err := r.newest.Downgrade(e)
		if err != nil {
			return nil, refused(err)
		}
		if d.To != to {
			return nil, &RefusedError{Code: CodeFormat, Problem: fmt.Sprintf("statement %d allows to go back to release %d, not to %d", i+1, d.To, to)}
		}
		from = append(from, d.From)
	}
	return from, nil
}
