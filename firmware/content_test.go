package firmware

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"

	"ecowatt/key"
)

// chunks cuts an artifact as a device fetches it.
func chunks(p Packed) [][]byte {
	var all [][]byte
	for i := range p.Payload.Chunks {
		all = append(all, p.Artifact[p.Payload.ChunkOffset(i):][:p.Payload.ChunkLength(i)])
	}
	return all
}

func open(t *testing.T, p Packed) []byte {
	t.Helper()
	c, err := OpenContent(content(t, 1), p.Payload, product)
	if err != nil {
		t.Fatal(err)
	}
	table, err := ParseTable(p.Table, p.Payload)
	if err != nil {
		t.Fatal(err)
	}
	plain := []byte{}
	for i, chunk := range chunks(p) {
		if err := table.Verify(uint64(i), chunk); err != nil {
			t.Fatal(err)
		}
		part, err := c.OpenChunk(nil, p.Payload, uint64(i), chunk)
		if err != nil {
			t.Fatal(err)
		}
		plain = append(plain, part...)
	}
	return plain
}

func TestContentRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, SegmentSize - 1, SegmentSize, SegmentSize + 1, 3*SegmentSize - 1, 3 * SegmentSize, MaxChunks*SegmentSize - 1, MaxChunks * SegmentSize} {
		plain := image(n)
		p := packed(t, plain)
		if got := open(t, p); !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: another plaintext", n)
		}
		if got := p.Payload.PlainSize(); got != uint64(n) {
			t.Errorf("%d bytes: PlainSize %d", n, got)
		}
		if p.Payload.Chunks > MaxChunks {
			t.Errorf("%d bytes: %d chunks", n, p.Payload.Chunks)
		}
	}
}

// The construction, written down a second time from its text: HKDF-Expand by
// hand, segments of 16 KiB of which the last is short, nonces that count.
func TestContentAgainstTheSpecification(t *testing.T) {
	plain := image(2*SegmentSize + 5)
	p := packed(t, plain)
	k := content(t, 1).Secret()
	info := append([]byte("c2sp.org/chunked-encryption@v1+AEAD_CHACHA20_POLY1305\x00"), p.Payload.Commitment[:24]...)
	info = append(info, product[:]...)
	var okm, block []byte
	for i := byte(1); len(okm) < 76; i++ {
		h := hmac.New(sha256.New, k[:])
		h.Write(block)
		h.Write(info)
		h.Write([]byte{i})
		block = h.Sum(nil)
		okm = append(okm, block...)
	}
	if !bytes.Equal(p.Payload.Commitment[24:], okm[44:76]) {
		t.Fatal("another commitment")
	}
	aead, err := chacha20poly1305.New(okm[:32])
	if err != nil {
		t.Fatal(err)
	}
	var want []byte
	for i, from := range []int{0, SegmentSize, 2 * SegmentSize} {
		nonce := bytes.Clone(okm[32:44])
		nonce[11] ^= byte(i)
		want = aead.Seal(want, nonce, plain[from:min(len(plain), from+SegmentSize)], nil)
	}
	if !bytes.Equal(p.Artifact, want) {
		t.Error("another ciphertext")
	}
}

// The counter goes into the nonce by exclusive or, not by a sum.
func TestNonces(t *testing.T) {
	c := Content{nonce: [12]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0x0b, 0xff}}
	for n, want := range map[uint64][]byte{
		0:               {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0x0b, 0xff},
		1:               {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0x0b, 0xfe},
		3:               {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0x0b, 0xfc},
		0x0102:          {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0x0a, 0xfd},
		0x05 << (7 * 8): {1, 2, 3, 4, 0, 6, 7, 8, 9, 10, 0x0b, 0xff},
	} {
		if got := c.nonceOf(n); !bytes.Equal(got, want) {
			t.Errorf("segment %d: %x, want %x", n, got, want)
		}
	}
}

// Attacks: F7, F8, F9
func TestChunksThatAreNotOfTheTable(t *testing.T) {
	p := packed(t, image(5*SegmentSize))
	table, err := ParseTable(p.Table, p.Payload)
	if err != nil {
		t.Fatal(err)
	}
	all := chunks(p)
	flipped := bytes.Clone(all[2])
	flipped[100] ^= 1
	c, err := OpenContent(content(t, 1), p.Payload, product)
	if err != nil {
		t.Fatal(err)
	}
	forged := c.aead.Seal(nil, c.nonceOf(2), make([]byte, SegmentSize), nil)
	if _, err := c.OpenChunk(nil, p.Payload, 2, forged); err != nil {
		t.Fatalf("a chunk forged with the key of the content opens: %v", err)
	}
	for name, x := range map[string]struct {
		i     uint64
		chunk []byte
	}{
		"a bit flipped":         {2, flipped},
		"another chunk":         {2, all[3]},
		"a short last one":      {5, all[5][:1]},
		"one too many":          {6, all[5]},
		"forged with the key":   {2, forged},
		"the number is no sum":  {1 << 63, all[0]},
		"a chunk and a half":    {0, slices.Concat(all[0], all[1][:10])},
		"nothing where is none": {6, nil},
	} {
		if err := table.Verify(x.i, x.chunk); !errors.Is(err, ErrChunk) {
			t.Errorf("%s: %v, want ErrChunk", name, err)
		}
	}
	other := packed(t, image(4*SegmentSize))
	if _, err := ParseTable(other.Table, p.Payload); !errors.Is(err, ErrChunk) {
		t.Errorf("the table of another release: %v, want ErrChunk", err)
	}
	for name, wrong := range map[string]func() error{
		"another key": func() error { _, err := OpenContent(content(t, 2), p.Payload, product); return err },
		"no key":      func() error { _, err := OpenContent(key.Content{}, p.Payload, product); return err },
		"another product": func() error {
			_, err := OpenContent(content(t, 1), p.Payload, ProductID{})
			return err
		},
	} {
		if err := wrong(); !errors.Is(err, ErrContentKey) {
			t.Errorf("%s: %v, want ErrContentKey", name, err)
		}
	}
	for name, x := range map[string]struct {
		i     uint64
		chunk []byte
	}{"of another place": {1, all[0]}, "cut off": {5, all[5][:10]}, "flipped": {2, flipped}, "behind the end": {6, nil}} {
		if _, err := c.OpenChunk(nil, p.Payload, x.i, x.chunk); !errors.Is(err, ErrChunk) {
			t.Errorf("OpenChunk, %s: %v, want ErrChunk", name, err)
		}
	}
}

func FuzzParseEnvelope(f *testing.F) {
	root := testRoot(f)
	f.Add(encoded(f, signedManifest(f, testManifest(f), signing(f, 4), signing(f, 5))))
	f.Add(signedRoot(f, root, signing(f, 1), signing(f, 2)))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := ParseEnvelope(data)
		if err != nil {
			return
		}
		if again := encoded(t, e); !bytes.Equal(again, data) {
			t.Fatalf("read and written again it is %x", again)
		}
		if m, err := parseManifest(e.Body); err == nil {
			b, err := m.Unsigned()
			if err != nil || !bytes.Equal(b.Body, e.Body) {
				t.Fatalf("the manifest, written again: %x, %v", b.Body, err)
			}
			for _, p := range m.Payloads { // whatever it says, the sizes add up
				sum := uint64(0)
				for i := range p.Chunks {
					sum += p.ChunkLength(i)
				}
				if sum != p.Size || p.ChunkLength(p.Chunks) != 0 {
					t.Fatalf("the chunks of %+v have %d bytes", p, sum)
				}
			}
		}
		_, _ = ParseRoot(data)
	})
}
