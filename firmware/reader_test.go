package firmware_test

// A second reader of the format, written from docs/formats/firmware.md and with
// nothing of package firmware: as simple as can be, it only reads what is right.

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/chacha20poly1305"
)

// item reads one item of CBOR: uint64, int64, []byte, string, []any, map[uint64]any,
// nil, or what a tag stands before.
func item(b []byte) (value any, rest []byte) {
	major, n, size := b[0]>>5, uint64(b[0]&31), 1
	if n >= 24 {
		width := 1 << (n - 24)
		n = 0
		for _, c := range b[1 : 1+width] {
			n = n<<8 | uint64(c)
		}
		size += width
	}
	b = b[size:]
	switch major {
	case 0:
		return n, b
	case 1:
		return -1 - int64(n), b
	case 2:
		return b[:n], b[n:]
	case 3:
		return string(b[:n]), b[n:]
	case 4:
		list := []any{}
		for range n {
			value, b = item(b)
			list = append(list, value)
		}
		return list, b
	case 5:
		fields := map[uint64]any{}
		for range n {
			var k any
			k, b = item(b)
			fields[k.(uint64)], b = item(b)
		}
		return fields, b
	case 6:
		return item(b)
	}
	return nil, b // null
}

func whole(b []byte) any {
	value, rest := item(b)
	if len(rest) > 0 {
		panic("something follows")
	}
	return value
}

// text is the text of CBOR with this content.
func text(s string) []byte { return append(head(3, len(s)), s...) }

func byteString(b []byte) []byte { return append(head(2, len(b)), b...) }

func head(major byte, n int) []byte {
	switch {
	case n < 24:
		return []byte{major<<5 | byte(n)}
	case n < 256:
		return []byte{major<<5 | 24, byte(n)}
	}
	return []byte{major<<5 | 25, byte(n >> 8), byte(n)}
}

// open verifies an envelope and returns what it says, and which of the keys have
// signed it, by their ids.
func open(envelope []byte, kind string, keys [][]byte) (body map[uint64]any, signed map[string]bool) {
	parts := whole(envelope).([]any)
	bytesOf := parts[0].([]byte)
	signed = map[string]bool{}
	for _, s := range parts[1].([]any) {
		sign1 := whole(s.([]byte)).([]any)
		protected := sign1[0].([]byte)
		for _, k := range keys {
			sum := sha256.Sum256(k)
			id := sum[:8]
			want := append([]byte{0xa3, 1, 0x27, 4}, byteString(id)...)
			want = append(append(want, 16), text(kind)...)
			message := append([]byte{0x84}, text("Signature1")...)
			message = append(append(message, byteString(protected)...), 0x40)
			message = append(message, byteString(bytesOf)...)
			if bytes.Equal(protected, want) && ed25519.Verify(k, message, sign1[3].([]byte)) {
				signed[string(id)] = true
			}
		}
	}
	return whole(bytesOf).(map[uint64]any), signed
}

// members reads a tar of plain files.
func members(b []byte) (names []string, content map[string][]byte) {
	content = map[string][]byte{}
	for b[0] != 0 {
		name := string(bytes.TrimRight(b[:100], "\x00"))
		size, err := strconv.ParseUint(strings.Trim(string(b[124:136]), " \x00"), 8, 63)
		if err != nil {
			panic(err)
		}
		names, content[name] = append(names, name), b[512:512+size]
		b = b[512+(size+511)/512*512:]
	}
	return names, content
}

// decrypt returns the plaintext of an artifact.
func decrypt(contentKey, product, commitment, artifact []byte) ([]byte, error) {
	info := "c2sp.org/chunked-encryption@v1+AEAD_CHACHA20_POLY1305\x00" + string(commitment[:24]) + string(product)
	derived, err := hkdf.Expand(sha256.New, contentKey, info, 32+12+32)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(derived[44:], commitment[24:]) {
		return nil, errors.New("another content key")
	}
	aead, err := chacha20poly1305.New(derived[:32])
	if err != nil {
		return nil, err
	}
	var plain []byte
	for n := uint64(0); len(artifact) > 0; n++ {
		nonce := bytes.Clone(derived[32:44])
		binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^n)
		segment := artifact[:min(len(artifact), 16384+16)]
		artifact = artifact[len(segment):]
		if plain, err = aead.Open(plain, nonce, segment, nil); err != nil {
			return nil, err
		}
	}
	return plain, nil
}

// makeImage makes the image of a plaintext, by its kind.
func makeImage(kind uint64, plain, base []byte) ([]byte, error) {
	var options []zstd.DOption
	if kind == 2 {
		options = append(options, zstd.WithDecoderDictRaw(1, base))
	}
	d, err := zstd.NewReader(nil, options...)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	out, err := d.DecodeAll(plain, nil)
	if err != nil || kind != 3 {
		return out, err
	}
	var image []byte
	at := 0
	number := func() int {
		n, size := binary.Uvarint(out)
		out = out[size:]
		return int(n)
	}
	for len(out) > 0 {
		add, raw, seek := number(), number(), number()
		for _, c := range out[:add] {
			image = append(image, c+base[at])
			at++
		}
		image = append(image, out[add:add+raw]...)
		out = out[add+raw:]
		if seek&1 == 1 {
			at -= seek>>1 + 1
		} else {
			at += seek >> 1
		}
	}
	return image, nil
}

// words are so many times the SHA-256 of the word, a space and a number.
func words(word string, n int) (b []byte) {
	for i := range n {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", word, i))
		b = append(b, sum[:]...)
	}
	return b
}
