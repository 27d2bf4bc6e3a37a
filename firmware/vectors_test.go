package firmware_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt/firmware"
)

func vector(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The keys, the image and its base of the vectors, as docs/formats/firmware.md
// says.
func vectorKey(name string) []byte {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)
}

func vectorID(name string) string {
	sum := sha256.Sum256(vectorKey(name))
	return string(sum[:8])
}

func vectorImages() (image, base []byte) {
	image = words("image", 625)
	return image, slices.Concat(image[:9600], words("base", 20), image[9900:])
}

var vectorProduct = []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

// The second reader understands the vectors, down to the image.
func TestVectorsBySecondReader(t *testing.T) {
	rootKeys := [][]byte{vectorKey("root key 1"), vectorKey("root key 2"), vectorKey("root key 3")}
	releaseKeys := [][]byte{vectorKey("release key 1"), vectorKey("release key 2")}
	root, signed := open(vector(t, "root.cbor"), "application/ecowatt-fw-root+cose", rootKeys)
	if diff := cmp.Diff(map[string]bool{vectorID("root key 1"): true, vectorID("root key 3"): true}, signed); diff != "" {
		t.Errorf("signatures of the root (-want +got):\n%s", diff)
	}
	keys := slices.Concat(rootKeys, releaseKeys)
	slices.SortFunc(keys, bytes.Compare)
	for i, k := range keys {
		if got := root[2].([]any)[i].([]byte); !bytes.Equal(got, k) {
			t.Errorf("key %d is %x, want %x", i, got, k)
		}
	}
	if len(root) != 6 || root[1] != uint64(1) || root[4] != uint64(2) || root[6] != uint64(2) {
		t.Errorf("the root is %v", root)
	}

	names, files := members(vector(t, "release.ewfw"))
	manifest, signed := open(files["envelope"], "application/ecowatt-fw-manifest+cose", releaseKeys)
	if len(signed) != 2 {
		t.Errorf("%d signatures of the manifest", len(signed))
	}
	image, base := vectorImages()
	imageSum, baseSum := sha256.Sum256(image), sha256.Sum256(base)
	bill := sha256.Sum256([]byte("bill of materials"))
	payloads := manifest[9].([]any)
	delete(manifest, 9)
	want := map[uint64]any{
		1: uint64(1), 2: vectorProduct, 3: []any{"gw-1", "gw-2"}, 4: "1.4.0", 5: uint64(12), 6: uint64(3), 7: uint64(20_000), 8: imageSum[:],
		10: uint64(7), 11: uint64(1_790_000_000), 12: uint64(2_000_000_000), 13: uint64(1), 14: []any{uint64(13)}, 15: uint64(1), 16: bill[:],
	}
	if diff := cmp.Diff(want, manifest); diff != "" {
		t.Errorf("the manifest (-want +got):\n%s", diff)
	}
	wantNames := []string{"envelope", "content-key"}
	for i, kind := range []uint64{3, 2, 1} {
		p := payloads[i].(map[uint64]any)
		artifact, table := files["artifacts/"+hex.EncodeToString(p[11].([]byte))], files["artifacts/"+hex.EncodeToString(p[4].([]byte))]
		wantNames = append(wantNames, "artifacts/"+hex.EncodeToString(p[11].([]byte)), "artifacts/"+hex.EncodeToString(p[4].([]byte)))
		if p[1] != kind || p[2] != uint64(len(artifact)) || p[3] != uint64(16384) || p[5] != uint64(len(table)/32) {
			t.Errorf("payload %d is %v", i, p)
		}
		if kind != 1 && (!bytes.Equal(p[8].([]byte), baseSum[:]) || p[9] != uint64(len(base))) {
			t.Errorf("payload %d starts from another base", i)
		}
		id := sha256.Sum256(append([]byte("ecowatt/1 content id\x00"), files["content-key"]...))
		if !bytes.Equal(p[7].([]byte), id[:8]) {
			t.Errorf("payload %d names another content key", i)
		}
		for c := 0; c*32 < len(table); c++ {
			chunk := artifact[c*16400 : min((c+1)*16400, len(artifact))]
			if sum := sha256.Sum256(chunk); !bytes.Equal(sum[:], table[c*32:][:32]) {
				t.Errorf("payload %d: chunk %d is not that of the table", i, c)
			}
		}
		plain, err := decrypt(files["content-key"], vectorProduct, p[6].([]byte), artifact)
		if err != nil {
			t.Fatalf("payload %d: %v", i, err)
		}
		made, err := makeImage(kind, plain, base)
		if err != nil || !bytes.Equal(made, image) {
			t.Errorf("payload %d makes another image: %v", i, err)
		}
	}
	if diff := cmp.Diff(wantNames, names); diff != "" {
		t.Errorf("members (-want +got):\n%s", diff)
	}
	downgrade, signed := open(vector(t, "downgrade.cbor"), "application/ecowatt-fw-downgrade+cose", releaseKeys)
	if diff := cmp.Diff(map[uint64]any{1: vectorProduct, 2: uint64(14), 3: uint64(12), 4: uint64(2_000_000_000), 5: []any{"roof-1"}}, downgrade); diff != "" || len(signed) != 2 {
		t.Errorf("the downgrade, with %d signatures (-want +got):\n%s", len(signed), diff)
	}
}

// The package understands the vectors, and writes the same bytes again.
func TestVectors(t *testing.T) {
	root, err := firmware.ParseRoot(vector(t, "root.cbor"))
	if err != nil {
		t.Fatal(err)
	}
	bundle := vector(t, "release.ewfw")
	b, err := firmware.ReadBundle(bytes.NewReader(bundle), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	m, err := root.Manifest(b.Envelope)
	if err != nil {
		t.Fatal(err)
	}
	_, base := vectorImages()
	target := firmware.Target{Product: firmware.ProductID(vectorProduct), Hardware: "gw-2", Release: 11, Security: 3, Protocol: 1, SlotSize: 20_000, Now: 1_800_000_000}
	if err := m.Check(target, root, nil); err != nil {
		t.Errorf("Check: %v", err)
	}
	e, err := firmware.ParseEnvelope(vector(t, "downgrade.cbor"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := root.Downgrade(e)
	if err != nil {
		t.Fatal(err)
	}
	target.Release, target.Device = 14, "roof-1"
	if err := m.Check(target, root, []firmware.Downgrade{d}); err != nil {
		t.Errorf("Check with the downgrade: %v", err)
	}
	if sum := sha256.Sum256(base); !bytes.Equal(m.Payloads[0].Base, sum[:]) {
		t.Error("another base")
	}
	files := map[firmware.File][]byte{}
	for {
		f, content, err := b.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[f], err = io.ReadAll(content); err != nil {
			t.Fatal(err)
		}
	}
	for i, p := range m.Payloads {
		content, err := firmware.OpenContent(b.Content, p, m.Product)
		if err != nil {
			t.Fatal(err)
		}
		table, err := firmware.ParseTable(files[firmware.File{Name: p.Table, Size: p.TableSize()}], p)
		if err != nil {
			t.Fatal(err)
		}
		artifact := files[firmware.File{Name: p.Artifact, Size: p.Size}]
		var plain []byte
		for c := range p.Chunks {
			chunk := artifact[p.ChunkOffset(c):][:p.ChunkLength(c)]
			if err := table.Verify(c, chunk); err != nil {
				t.Fatal(err)
			}
			if plain, err = content.OpenChunk(plain, p, c, chunk); err != nil {
				t.Fatal(err)
			}
		}
		source := firmware.Source{Kind: p.Kind, Plain: plain, Base: p.Base, BaseSize: p.BaseSize, Window: p.Window}
		again, err := firmware.Pack(source, b.Content, m.Product, bytes.NewReader(p.Commitment[:firmware.SaltSize]))
		if err != nil || !bytes.Equal(again.Artifact, artifact) || !cmp.Equal(again.Payload, p) {
			t.Errorf("payload %d is packed as something else: %v", i, err)
		}
	}
	var again bytes.Buffer
	err = firmware.WriteBundle(&again, firmware.Bundle{Envelope: b.Envelope, Content: b.Content, Open: func(f firmware.File) (io.Reader, error) { return bytes.NewReader(files[f]), nil }})
	if err != nil || !bytes.Equal(again.Bytes(), bundle) {
		t.Errorf("the bundle is written as something else: %v", err)
	}
}
