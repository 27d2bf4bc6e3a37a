package firmware

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"io"

	"golang.org/x/crypto/chacha20poly1305"

	"ecowatt/key"
)

// Sizes of the encryption of a payload, in bytes.
const (
	SaltSize       = 24
	CommitmentSize = 32
	SegmentSize    = 16 << 10 // plaintext that is sealed at once; the last one is always shorter
	sealedSegment  = SegmentSize + chacha20poly1305.Overhead
)

// labelContent is the info of the derivation, up to salt and context.
const labelContent = "c2sp.org/chunked-encryption@v1+AEAD_CHACHA20_POLY1305\x00"

// Content seals and opens the payloads of a release: c2sp.org/chunked-encryption
// (v1) with ChaCha20-Poly1305 (RFC 8439) and HKDF-Expand of SHA-256 (RFC 5869);
// the context is the product. The tags prove nothing of who made the payload,
// for all devices have the key: that is what the Table is for.
type Content struct {
	aead       cipher.AEAD
	nonce      [chacha20poly1305.NonceSize]byte
	commitment [CommitmentSize]byte
}

// ContentID is the name by which a manifest calls the key of its content.
func ContentID(k key.Content) KeyID {
	secret := k.Secret()
	defer clear(secret[:])
	h := sha256.Sum256(append([]byte("ecowatt/1 content id\x00"), secret[:]...))
	return KeyID(h[:8])
}

func deriveContent(k key.Content, salt []byte, product ProductID) (Content, error) {
	if k.IsZero() {
		return Content{}, fmt.Errorf("%w: there is none", ErrContentKey)
	}
	secret := k.Secret()
	defer clear(secret[:])
	info := labelContent + string(salt) + string(product[:])
	b, err := hkdf.Expand(sha256.New, secret[:], info, chacha20poly1305.KeySize+chacha20poly1305.NonceSize+CommitmentSize)
	if err != nil {
		return Content{}, fmt.Errorf("deriving the keys of a payload: %w", err)
	}
	defer clear(b)
	c := Content{}
	if c.aead, err = chacha20poly1305.New(b[:chacha20poly1305.KeySize]); err != nil {
		return Content{}, fmt.Errorf("deriving the keys of a payload: %w", err)
	}
	b = b[chacha20poly1305.KeySize:]
	copy(c.nonce[:], b)
	copy(c.commitment[:], b[chacha20poly1305.NonceSize:])
	return c, nil
}

// OpenContent returns what opens the payload p of a release for product. The
// error wraps ErrContentKey where k is not the key that p was sealed with, which
// shows before anything is fetched.
func OpenContent(k key.Content, p Payload, product ProductID) (Content, error) {
	if len(p.Commitment) != SaltSize+CommitmentSize {
		return Content{}, malformed("a commitment of %d bytes", len(p.Commitment))
	}
	c, err := deriveContent(k, p.Commitment[:SaltSize], product)
	if err != nil {
		return Content{}, err
	}
	if subtle.ConstantTimeCompare(c.commitment[:], p.Commitment[SaltSize:]) != 1 {
		return Content{}, ErrContentKey
	}
	return c, nil
}

// nonceOf is the nonce of segment n.
func (c Content) nonceOf(n uint64) []byte {
	nonce := c.nonce
	tail := nonce[len(nonce)-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^n)
	return nonce[:]
}

// seal returns the sealed segments of a whole plaintext.
func (c Content) seal(plain []byte) []byte {
	sealed := make([]byte, 0, sealedSize(uint64(len(plain))))
	for n := uint64(0); ; n++ {
		segment := plain[:min(len(plain), SegmentSize)]
		sealed = c.aead.Seal(sealed, c.nonceOf(n), segment, nil)
		if plain = plain[len(segment):]; len(segment) < SegmentSize {
			return sealed
		}
	}
}

// OpenChunk decrypts chunk i of p, which the table has verified, and appends its
// plaintext to dst. The error wraps ErrChunk.
func (c Content) OpenChunk(dst []byte, p Payload, i uint64, chunk []byte) ([]byte, error) {
	if i >= p.Chunks || uint64(len(chunk)) != p.ChunkLength(i) {
		return dst, fmt.Errorf("%w: chunk %d with %d bytes", ErrChunk, i, len(chunk))
	}
	for n := i * (p.ChunkSize / SegmentSize); len(chunk) > 0; n++ {
		segment := chunk[:min(len(chunk), sealedSegment)]
		var err error
		if dst, err = c.aead.Open(dst, c.nonceOf(n), segment, nil); err != nil {
			return dst, fmt.Errorf("%w: chunk %d does not open", ErrChunk, i)
		}
		chunk = chunk[len(segment):]
	}
	return dst, nil
}

// sealedSize is the size of the artifact of a plaintext, in bytes.
func sealedSize(plain uint64) uint64 {
	return plain + (plain/SegmentSize+1)*chacha20poly1305.Overhead
}

// plainSize is the inverse of sealedSize; the error wraps ErrFormat where no
// plaintext has an artifact of that size.
func plainSize(sealed uint64) (uint64, error) {
	last := sealed % sealedSegment
	if last < chacha20poly1305.Overhead || sealed > 2*MaxImage {
		return 0, malformed("an artifact cannot have %d bytes", sealed)
	}
	return sealed/sealedSegment*SegmentSize + last - chacha20poly1305.Overhead, nil
}

func validChunkSize(n uint64) bool {
	return n >= SegmentSize && n <= 1<<20 && n&(n-1) == 0
}

func chunksOf(sealed, chunkSize uint64) uint64 {
	whole := chunkSize / SegmentSize * sealedSegment
	return (sealed + whole - 1) / whole
}

// ChunkOffset is where chunk i begins in the artifact, in bytes.
func (p Payload) ChunkOffset(i uint64) uint64 { return i * p.ChunkSize / SegmentSize * sealedSegment }

// ChunkLength is the length of chunk i in the artifact, in bytes; 0 behind the
// last.
func (p Payload) ChunkLength(i uint64) uint64 {
	begin := p.ChunkOffset(i)
	if begin >= p.Size {
		return 0
	}
	return min(p.ChunkOffset(i+1), p.Size) - begin
}

// PlainSize is the size of the plaintext of p, in bytes.
func (p Payload) PlainSize() uint64 {
	n, err := plainSize(p.Size)
	if err != nil {
		return 0
	}
	return n
}

// Table is the list of the SHA-256 of all chunks of an artifact.
type Table []byte

// TableSize is the size of the table of p, in bytes.
func (p Payload) TableSize() uint64 { return p.Chunks * sha256.Size }

// ParseTable checks that data is the table of p. The error wraps ErrChunk.
func ParseTable(data []byte, p Payload) (Table, error) {
	if uint64(len(data)) != p.TableSize() || sha256.Sum256(data) != p.Table {
		return nil, fmt.Errorf("%w: the table itself is another one", ErrChunk)
	}
	return Table(data), nil
}

// Verify is nil when chunk is chunk i of the table. The error wraps ErrChunk.
func (t Table) Verify(i uint64, chunk []byte) error {
	if i >= uint64(len(t))/sha256.Size {
		return fmt.Errorf("%w: there is no chunk %d", ErrChunk, i)
	}
	h := sha256.Sum256(chunk)
	if string(h[:]) != string(t[i*sha256.Size:(i+1)*sha256.Size]) {
		return fmt.Errorf("%w: chunk %d", ErrChunk, i)
	}
	return nil
}

// Source is the plaintext of a payload that Pack seals.
type Source struct {
	Kind     Kind
	Plain    []byte
	Base     []byte // SHA-256 of the base; nil for KindFull
	BaseSize uint64
	Window   uint64
}

// Packed is a sealed payload with its two files, which are named by their hashes.
type Packed struct {
	Payload  Payload
	Artifact []byte
	Table    []byte
}

// Pack seals a payload for product under k with a salt from random, which must be
// a cryptographic source. The chunks are as small as MaxChunks allows, and at
// least 16 KiB.
func Pack(s Source, k key.Content, product ProductID, random io.Reader) (Packed, error) {
	salt := make([]byte, SaltSize)
	if _, err := io.ReadFull(random, salt); err != nil {
		return Packed{}, fmt.Errorf("drawing a salt: %w", err)
	}
	c, err := deriveContent(k, salt, product)
	if err != nil {
		return Packed{}, err
	}
	sealed := c.seal(s.Plain)
	p := Payload{
		Kind: s.Kind, Size: uint64(len(sealed)), ChunkSize: SegmentSize, Commitment: append(salt, c.commitment[:]...),
		ContentKey: ContentID(k), Base: s.Base, BaseSize: s.BaseSize, Window: s.Window, Artifact: sha256.Sum256(sealed),
	}
	for chunksOf(p.Size, p.ChunkSize) > MaxChunks {
		p.ChunkSize *= 2
	}
	p.Chunks = chunksOf(p.Size, p.ChunkSize)
	table := make([]byte, 0, p.TableSize())
	for i := range p.Chunks {
		h := sha256.Sum256(sealed[p.ChunkOffset(i):][:p.ChunkLength(i)])
		table = append(table, h[:]...)
	}
	p.Table = sha256.Sum256(table)
	return Packed{Payload: p, Artifact: sealed, Table: table}, p.check()
}
