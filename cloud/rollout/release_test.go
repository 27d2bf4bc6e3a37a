package rollout

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"ecowatt/firmware"
	"ecowatt/key"
	"ecowatt/wire"
)

// vector is a file of the vectors of docs/formats/firmware.md.
func vector(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "firmware", "testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// signing is a key of the vectors: "root key 1", "release key 2".
func signing(tb testing.TB, name string) key.Signing {
	tb.Helper()
	seed := sha256.Sum256([]byte(name))
	k, err := key.SigningFromSeed(seed[:])
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// signed is a statement, signed by the keys of those names.
func signed(tb testing.TB, kind firmware.Statement, e firmware.Envelope, err error, names ...string) []byte {
	tb.Helper()
	for _, name := range names {
		if err == nil {
			err = e.Sign(kind, signing(tb, name))
		}
	}
	b, encoding := e.Encode()
	if err := errors.Join(err, encoding); err != nil {
		tb.Fatal(err)
	}
	return b
}

// root is a root of trust of that version with the root keys of the vectors and
// these release keys, signed by root keys.
func root(tb testing.TB, version uint64, releases []string, signers ...string) []byte {
	tb.Helper()
	publics := func(names ...string) (keys []ed25519.PublicKey) {
		for _, name := range names {
			keys = append(keys, signing(tb, name).Public())
		}
		return keys
	}
	r, err := firmware.NewRoot(version, publics("root key 1", "root key 2", "root key 3"), publics(releases...), 2, 2)
	if err != nil {
		tb.Fatal(err)
	}
	e, err := r.Unsigned()
	return signed(tb, firmware.StatementRoot, e, err, signers...)
}

func chain(tb testing.TB, signed ...[]byte) Roots {
	tb.Helper()
	r, err := ReadRoots(signed)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// receive receives a bundle into memory.
func receive(b []byte, roots Roots) (Release, map[File][]byte, error) {
	files := map[File][]byte{}
	r, k, err := Receive(iotest.OneByteReader(bytes.NewReader(b)), roots, func(f File, content io.Reader) (err error) {
		files[f], err = io.ReadAll(content)
		return err
	})
	if err == nil && k.IsZero() {
		err = errors.New("there is no content key")
	}
	return r, files, err
}

func codeOf(err error) Code {
	if r := (*RefusedError)(nil); errors.As(err, &r) {
		return r.Code
	}
	return ""
}

func TestReceive(t *testing.T) {
	roots := chain(t, vector(t, "root.cbor"))
	got, files, err := receive(vector(t, "release.ewfw"), roots)
	if err != nil {
		t.Fatal(err)
	}
	if got.Version != "1.4.0" || got.Number != 12 || got.MinFrom != 7 || got.Size != 20_000 || got.ID.String() != "efecff9fdfc42f59d367078c34464559db2350b5437e422c21ec3d1622adf88f" ||
		len(got.Files) != 6 || len(files) != 6 || got.Payloads[2].Kind != "full" || got.Payloads[0].Base[:8] != "7c01f24b" || got.DowngradeFrom[0] != 13 {
		t.Errorf("%+v", got)
	}
	for f, content := range files {
		if sha256.Sum256(content) != f.Name || uint64(len(content)) != f.Size {
			t.Errorf("%v is something else", f.Name)
		}
	}
	again, err := ReadRelease(got.Envelope)
	if diff := cmp.Diff(got, again); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if err := roots.Verify(got.Envelope); err != nil {
		t.Error(err)
	}
}

// What is not signed as it must be is refused before any of its files is read.
//
// Attacks: A9
func TestReceiveRefuses(t *testing.T) {
	bundle, first := vector(t, "release.ewfw"), vector(t, "root.cbor")
	envelope := bytes.Index(bundle, []byte("1.4.0"))
	flipped := bytes.Clone(bundle)
	flipped[envelope] ^= 1
	damaged := bytes.Clone(bundle)
	damaged[20_000] ^= 1 // within the full image
	secret := bytes.Clone(bundle)
	secret[bytes.Index(bundle, []byte("content-key"))+512] ^= 1
	other := root(t, 2, []string{"release key 1", "release key 3"}, "root key 1", "root key 2")
	for _, x := range []struct {
		name   string
		bundle []byte
		roots  Roots
		code   Code
	}{
		{"no root", bundle, Roots{}, CodeNoRoot},
		{"a bit of the manifest", flipped, chain(t, first), CodeSignature},
		{"a key that was taken back", bundle, chain(t, first, other), CodeSignature},
		{"a file", damaged, chain(t, first), CodeChunk},
		{"another content key", secret, chain(t, first), CodeKey},
		{"nothing", nil, chain(t, first), CodeFormat},
		{"no bundle", []byte("hello, this is no bundle"), chain(t, first), CodeFormat},
		{"cut", bundle[:len(bundle)-3000], chain(t, first), CodeFormat},
		{"something behind it", append(bytes.Clone(bundle), 1), chain(t, first), CodeFormat},
	} {
		_, files, err := receive(x.bundle, x.roots)
		if codeOf(err) != x.code {
			t.Errorf("%s: %v, want %s", x.name, err, x.code)
		}
		if (x.code == CodeSignature || x.code == CodeNoRoot) && len(files) > 0 {
			t.Errorf("%s: files were read", x.name)
		}
	}
	full := errors.New("the disk is full")
	_, _, err := Receive(bytes.NewReader(bundle), chain(t, first), func(File, io.Reader) error { return full })
	if !errors.Is(err, full) || codeOf(err) != "" {
		t.Error(err)
	}
	if CodeSignature != Code(wire.FirmwareBadSignature) || CodeChunk != Code(wire.FirmwareBadChunk) {
		t.Error("the protocol has other names for them")
	}
}

func TestRoots(t *testing.T) {
	first := vector(t, "root.cbor")
	both := []string{"release key 1", "release key 2"}
	second := root(t, 2, both, "root key 2", "root key 3")
	third := root(t, 3, both, "root key 1", "root key 3")
	r := chain(t, first, second)
	if r.Version() != 2 || r.First() != 1 || !bytes.Equal(r.Newest(), second) || len(r.Later()) != 1 || !cmp.Equal(r.Names(), []string{"1", "2"}) {
		t.Errorf("%d from %d, %v", r.Version(), r.First(), r.Names())
	}
	for _, x := range []struct {
		name  string
		add   []byte
		code  Code
		added bool
	}{
		{"one that is there", first, "", false},
		{"the newest, with one more signature", root(t, 2, both, "root key 1", "root key 2", "root key 3"), "", false},
		{"another one of that number", root(t, 2, []string{"release key 1", "release key 3"}, "root key 1", "root key 2"), CodeRoot, false},
		{"one that is too far", root(t, 4, both, "root key 1", "root key 2"), CodeRoot, false},
		{"one signature", root(t, 3, both, "root key 1"), CodeSignature, false},
		{"release keys", root(t, 3, both, "release key 1", "release key 2"), CodeSignature, false},
		{"nothing", nil, CodeFormat, false},
		{"a release", vector(t, "downgrade.cbor"), CodeSignature, false},
		{"the next", third, "", true},
	} {
		next, added, err := r.Add(x.add)
		if codeOf(err) != x.code || added != x.added || (x.code == "" && err != nil) {
			t.Errorf("%s: %v, added %v", x.name, err, added)
		}
		if want := uint64(2); !added && next.Version() != want {
			t.Errorf("%s: the chain ends at %d", x.name, next.Version())
		}
	}
	late, added, err := Roots{}.Add(third)
	if err != nil || !added || late.First() != 3 || len(late.Later()) != 0 {
		t.Errorf("a cloud that begins later: %v, %d", err, late.First())
	}
	if (Roots{}).Newest() != nil || (Roots{}).Later() != nil || (Roots{}).Version() != 0 || (Roots{}).First() != 0 {
		t.Error("no roots are something")
	}
	if _, err := ReadRoots([][]byte{second, first}); codeOf(err) == "" {
		t.Errorf("a chain in the wrong order: %v", err)
	}
}

func TestReturns(t *testing.T) {
	r := chain(t, vector(t, "root.cbor"))
	d := vector(t, "downgrade.cbor")
	if from, err := r.Returns(12, [][]byte{d}); err != nil || !cmp.Equal(from, []uint64{14}) {
		t.Error(from, err)
	}
	if _, err := r.Returns(11, [][]byte{d}); codeOf(err) != CodeFormat {
		t.Error(err)
	}
	d[20] ^= 1
	if _, err := r.Returns(12, [][]byte{d}); codeOf(err) == "" {
		t.Error(err)
	}
	if _, err := r.Returns(12, [][]byte{[]byte("x")}); codeOf(err) != CodeFormat {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	h := Hash{0xab, 1}
	if got, err := ParseHash(h.String()); err != nil || got != h {
		t.Error(got, err)
	}
	for _, bad := range []string{"", "ab", h.String()[1:], "AB" + h.String()[2:], h.String() + "00", "../../etc/passwd"} {
		if _, err := ParseHash(bad); err == nil {
			t.Errorf("%q is a hash", bad)
		}
	}
	id, err := NewID(bytes.NewReader(bytes.Repeat([]byte{7}, 16)))
	if err != nil || id.String() != hex.EncodeToString(bytes.Repeat([]byte{7}, 16)) {
		t.Error(id, err)
	}
	if got, err := ParseID(id.String()); err != nil || got != id {
		t.Error(got, err)
	}
	if _, err := ParseID("7"); err == nil {
		t.Error("7 is an id")
	}
	if _, err := NewID(bytes.NewReader(nil)); err == nil {
		t.Error("an id out of nothing")
	}
}
