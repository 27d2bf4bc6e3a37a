package firmware

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ProductID names what an image is for: vendor and class of device.
type ProductID [16]byte

// Kind is how the image is made from the plaintext of a payload.
type Kind uint64

// The kinds of payloads.
const (
	KindFull  Kind = 1 // a zstd frame (RFC 8878) of the image
	KindPatch Kind = 2 // a zstd frame of the image with the base image as raw dictionary
	KindDiff  Kind = 3 // a zstd frame of the differences to the base image, see package delta
)

// Manifest describes a release: the image, for what it is, and how to get it.
// Numbers that are 0 and lists that are empty do not stand in its bytes.
type Manifest struct {
	Format   uint64            `cbor:"1,keyasint"` // 1
	Product  ProductID         `cbor:"2,keyasint"`
	Hardware []string          `cbor:"3,keyasint"` // revisions, exactly
	Version  string            `cbor:"4,keyasint"` // for people
	Release  uint64            `cbor:"5,keyasint"` // grows with each release
	Security uint64            `cbor:"6,keyasint"` // grows when going back would be dangerous; at most 2^32−1
	Size     uint64            `cbor:"7,keyasint"` // of the image, bytes
	Image    [sha256.Size]byte `cbor:"8,keyasint"` // SHA-256 of the image that will run
	Payloads []Payload         `cbor:"9,keyasint"` // the device takes the first that it can use

	MinFrom       uint64   `cbor:"10,keyasint,omitempty"` // least release that can update to this one
	Created       int64    `cbor:"11,keyasint,omitempty"` // s since 1970
	Expires       int64    `cbor:"12,keyasint,omitempty"` // s since 1970
	MinRoot       uint64   `cbor:"13,keyasint,omitempty"` // least version of the root of trust
	DowngradeFrom []uint64 `cbor:"14,keyasint,omitempty"` // later releases that may go back to this one
	MinProtocol   uint64   `cbor:"15,keyasint,omitempty"` // least version of the protocol that the cloud must speak
	SBOM          []byte   `cbor:"16,keyasint,omitempty"` // SHA-256 of the bill of materials
}

// Payload is one way to the image: an artifact that a device fetches, and what it
// does with it.
type Payload struct {
	Kind       Kind              `cbor:"1,keyasint"`
	Size       uint64            `cbor:"2,keyasint"` // of the artifact, bytes
	ChunkSize  uint64            `cbor:"3,keyasint"` // plaintext of a chunk, bytes: 16 KiB · 2^k
	Table      [sha256.Size]byte `cbor:"4,keyasint"` // SHA-256 of the table of chunks
	Chunks     uint64            `cbor:"5,keyasint"`
	Commitment []byte            `cbor:"6,keyasint"`            // salt (24) ‖ commitment (32)
	ContentKey KeyID             `cbor:"7,keyasint"`            // names the key of the content, see ContentID
	Base       []byte            `cbor:"8,keyasint,omitempty"`  // SHA-256 of the image that it starts from
	BaseSize   uint64            `cbor:"9,keyasint,omitempty"`  // bytes
	Window     uint64            `cbor:"10,keyasint,omitempty"` // largest window of the zstd frame, bytes
	Artifact   [sha256.Size]byte `cbor:"11,keyasint"`           // SHA-256 of the artifact, which is its name
}

// IsDelta reports whether the payload starts from another image.
func (p Payload) IsDelta() bool { return p.Kind != KindFull }

// Unsigned returns the manifest as an envelope to sign. The error wraps ErrFormat.
func (m Manifest) Unsigned() (Envelope, error) {
	if err := m.check(); err != nil {
		return Envelope{}, err
	}
	body, err := encode(m)
	return Envelope{Body: body}, err
}

// ReadManifest reads the manifest of an envelope without asking who has signed
// it: for people, and for who keeps it for others. A device uses Root.Manifest.
// The error wraps ErrFormat.
func ReadManifest(e Envelope) (Manifest, error) { return parseManifest(e.Body) }

func parseManifest(body []byte) (Manifest, error) {
	var m Manifest
	if err := decode(body, &m); err != nil {
		return Manifest{}, fmt.Errorf("reading a manifest: %w", err)
	}
	if err := m.check(); err != nil {
		return Manifest{}, fmt.Errorf("reading a manifest: %w", err)
	}
	return m, nil
}

// check says what is wrong with a manifest by itself.
func (m Manifest) check() error {
	switch {
	case m.Format != 1:
		return malformed("format %d, 1 is known", m.Format)
	case m.Product == ProductID{}:
		return malformed("no product")
	case len(m.Hardware) == 0 || len(m.Hardware) > MaxHardware || slices.ContainsFunc(m.Hardware, notText):
		return malformed("hardware: 1 to %d texts of 1 to %d bytes are needed", MaxHardware, MaxText)
	case notText(m.Version):
		return malformed("the version is not a text of 1 to %d bytes", MaxText)
	case m.Release == 0:
		return malformed("release number 0")
	case m.Security > 1<<32-1:
		return malformed("security version %d", m.Security)
	case m.Size == 0 || m.Size > MaxImage:
		return malformed("an image of %d bytes, at most %d", m.Size, MaxImage)
	case m.Created < 0 || m.Expires < 0:
		return malformed("a time before 1970")
	case len(m.SBOM) != 0 && len(m.SBOM) != sha256.Size:
		return malformed("an SBOM hash of %d bytes", len(m.SBOM))
	case len(m.Payloads) == 0 || len(m.Payloads) > MaxPayloads:
		return malformed("%d payloads; there are 1 to %d", len(m.Payloads), MaxPayloads)
	}
	for i, p := range m.Payloads {
		if err := p.check(); err != nil {
			return fmt.Errorf("payload %d: %w", i, err)
		}
	}
	if !slices.ContainsFunc(m.Payloads, func(p Payload) bool { return !p.IsDelta() }) {
		return malformed("no payload with the full image")
	}
	return nil
}

// notText reports whether s is no line that people can read.
func notText(s string) bool {
	return s == "" || len(s) > MaxText || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func (p Payload) check() error {
	switch {
	case p.Kind < KindFull || p.Kind > KindDiff:
		return malformed("kind %d", p.Kind)
	case p.IsDelta() != (len(p.Base) == sha256.Size) || p.IsDelta() != (p.BaseSize > 0) || p.BaseSize > MaxImage:
		return malformed("a base that does not fit the kind")
	case len(p.Commitment) != SaltSize+CommitmentSize:
		return malformed("a commitment of %d bytes", len(p.Commitment))
	case p.Window > MaxImage:
		return malformed("a window of %d bytes", p.Window)
	case !validChunkSize(p.ChunkSize):
		return malformed("chunks of %d bytes", p.ChunkSize)
	}
	if _, err := plainSize(p.Size); err != nil {
		return err
	}
	if n := chunksOf(p.Size, p.ChunkSize); n != p.Chunks || n > MaxChunks {
		return malformed("%d chunks where %d bytes make %d, at most %d", p.Chunks, p.Size, n, MaxChunks)
	}
	return nil
}

// Target is what a manifest is held against: the device, as it is now.
type Target struct {
	Product  ProductID
	Hardware string
	Device   string // its id, for downgrades that name devices
	Release  uint64 // that runs and is confirmed
	Security uint64 // least security version that may run here
	Protocol uint64 // that the cloud speaks
	SlotSize uint64 // room for an image, bytes
	// Now is the time, s since 1970; 0 where it is not known, and nothing expires.
	Now int64
}

// Check says why the release cannot be installed on t, by its root of trust r and
// with the downgrades that came with it. Nothing was touched so far. The error
// wraps one of the errors of this package.
func (m Manifest) Check(t Target, r Root, downgrades []Downgrade) error {
	switch {
	case m.MinRoot > r.Version:
		return fmt.Errorf("%w: version %d, here is %d", ErrMissingRoot, m.MinRoot, r.Version)
	case m.Product != t.Product:
		return ErrProduct
	case !slices.Contains(m.Hardware, t.Hardware):
		return fmt.Errorf("%w: %q, this is %q", ErrHardware, m.Hardware, t.Hardware)
	case m.Security < t.Security:
		return fmt.Errorf("%w: security version %d, at least %d is needed", ErrDowngrade, m.Security, t.Security)
	case r.Ceiling != 0 && m.Release > r.Ceiling:
		return fmt.Errorf("%w: release %d was taken back by the root of trust, which ends at %d", ErrSignature, m.Release, r.Ceiling)
	case m.Expires != 0 && t.Now > m.Expires:
		return fmt.Errorf("%w %d s ago", ErrExpired, t.Now-m.Expires)
	case m.MinProtocol > t.Protocol:
		return fmt.Errorf("%w: it needs version %d of the protocol, this is %d", ErrProtocol, m.MinProtocol, t.Protocol)
	case m.Size > t.SlotSize:
		return fmt.Errorf("%w: %d bytes, there is room for %d", ErrTooLarge, m.Size, t.SlotSize)
	}
	current := r.effective(t.Release)
	if m.Release <= current && !m.allowsDowngrade(t, downgrades) {
		return fmt.Errorf("%w: release %d, here runs %d", ErrDowngrade, m.Release, t.Release)
	}
	if t.Release < m.MinFrom {
		return fmt.Errorf("%w: release %d or later, here runs %d", ErrStep, m.MinFrom, t.Release)
	}
	return nil
}

// effective is the release that counts as running, see Root.Ceiling.
func (r Root) effective(release uint64) uint64 {
	if r.Ceiling != 0 && release > r.Ceiling {
		return r.Floor
	}
	return release
}

func (m Manifest) allowsDowngrade(t Target, downgrades []Downgrade) bool {
	if m.Release == t.Release {
		return false // it runs already
	}
	return slices.Contains(m.DowngradeFrom, t.Release) ||
		slices.ContainsFunc(downgrades, func(d Downgrade) bool { return d.allows(m, t) })
}

// Downgrade lets devices go back from one release to another. What may not be
// gone back behind, the security version, stands.
type Downgrade struct {
	Product ProductID `cbor:"1,keyasint"`
	From    uint64    `cbor:"2,keyasint"`
	To      uint64    `cbor:"3,keyasint"`
	Expires int64     `cbor:"4,keyasint,omitempty"` // s since 1970
	Devices []string  `cbor:"5,keyasint,omitempty"` // empty for all
}

// Unsigned returns the downgrade as an envelope to sign. The error wraps ErrFormat.
func (d Downgrade) Unsigned() (Envelope, error) {
	if err := d.check(); err != nil {
		return Envelope{}, err
	}
	body, err := encode(d)
	return Envelope{Body: body}, err
}

// ReadDowngrade reads the downgrade of an envelope without asking who has signed
// it: for people. A device uses Root.Downgrade. The error wraps ErrFormat.
func ReadDowngrade(e Envelope) (Downgrade, error) { return parseDowngrade(e.Body) }

func parseDowngrade(body []byte) (Downgrade, error) {
	var d Downgrade
	if err := decode(body, &d); err != nil {
		return Downgrade{}, fmt.Errorf("reading a downgrade: %w", err)
	}
	return d, d.check()
}

func (d Downgrade) check() error {
	switch {
	case d.Product == ProductID{}:
		return malformed("a downgrade of no product")
	case d.To == 0 || d.To >= d.From:
		return malformed("a downgrade from release %d to %d", d.From, d.To)
	case d.Expires <= 0 && len(d.Devices) == 0:
		return malformed("a downgrade that neither expires nor names devices")
	case len(d.Devices) > MaxDevices:
		return malformed("a downgrade that names %d devices; there may be %d", len(d.Devices), MaxDevices)
	case slices.ContainsFunc(d.Devices, notText):
		return malformed("a downgrade that names no device")
	}
	return nil
}

// allows reports whether d lets t go back to m. One that expires needs a clock.
func (d Downgrade) allows(m Manifest, t Target) bool {
	return d.Product == m.Product && d.From == t.Release && d.To == m.Release &&
		(d.Expires == 0 || t.Now != 0 && t.Now <= d.Expires) &&
		(len(d.Devices) == 0 || slices.Contains(d.Devices, t.Device))
}
