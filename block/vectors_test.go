package block

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt"
)

// vector is a block as testdata/block.py makes them: an implementation of its
// own, written from docs/formats/block.md.
type vector struct {
	name    string
	points  int
	samples []ecowatt.Sample
	block   []byte
}

// vectorJSON is a vector in vectors.json. A sample is [at, [value or null, …]].
type vectorJSON struct {
	Name    string               `json:"name"`
	Points  int                  `json:"points"`
	Samples [][2]json.RawMessage `json:"samples"`
	Block   string               `json:"block"`
	Junk    bool                 `json:"junk,omitempty"` // no encoder made it; without samples it is refused
}

func readVectors(tb testing.TB) []vector {
	tb.Helper()
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		tb.Fatal(err)
	}
	var read []vectorJSON
	if err := json.Unmarshal(text, &read); err != nil {
		tb.Fatal(err)
	}
	var vectors []vector
	for _, r := range read {
		v := vector{name: r.Name, points: r.Points}
		if v.block, err = hex.DecodeString(r.Block); err != nil {
			tb.Fatal(err)
		}
		for _, raw := range r.Samples {
			var s ecowatt.Sample
			var values []*int64
			if err := json.Unmarshal(raw[0], &s.At); err != nil {
				tb.Fatal(err)
			}
			if err := json.Unmarshal(raw[1], &values); err != nil {
				tb.Fatal(err)
			}
			for _, p := range values {
				value := ecowatt.Value{}
				if p != nil {
					value = ecowatt.Known(*p)
				}
				s.Values = append(s.Values, value)
			}
			v.samples = append(v.samples, s)
		}
		vectors = append(vectors, v)
	}
	return vectors
}

func TestVectors(t *testing.T) {
	for _, v := range readVectors(t) {
		t.Run(v.name, func(t *testing.T) {
			returns(t, v.block, v.samples)
			if v.name == "stored though larger" { // which our encoder does not do
				return
			}
			if got := encode(t, v.points, v.samples); !bytes.Equal(got, v.block) {
				t.Errorf("encoded:\n got %x\nwant %x", got, v.block)
			}
		})
	}
}

// python runs testdata/block.py.
func python(t *testing.T, input []byte, args ...string) []byte {
	t.Helper()
	program, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("python3 is missing: scripts/setup.sh")
		}
		t.Skip("needs python3: scripts/setup.sh")
	}
	c := exec.CommandContext(t.Context(), program, append([]string{"testdata/block.py"}, args...)...)
	c.Stdin = bytes.NewReader(input)
	var complaint strings.Builder
	c.Stderr = &complaint
	out, err := c.Output()
	if err != nil {
		t.Fatalf("block.py: %v: %s", err, complaint.String())
	}
	return out
}

// TestSecondImplementation: block.py makes the vectors that are here, and
// agrees on blocks that it has never seen.
func TestSecondImplementation(t *testing.T) {
	want, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if got := python(t, nil, "make"); !bytes.Equal(got, want) {
		t.Error("block.py makes other vectors than testdata/vectors.json holds")
	}
	var blocks []vectorJSON
	show := func(v vectorJSON, samples []ecowatt.Sample) {
		v.Samples = [][2]json.RawMessage{}
		for _, s := range samples {
			values := make([]string, len(s.Values))
			for i, x := range s.Values {
				values[i] = "null"
				if x.Valid {
					values[i] = strconv.FormatInt(x.Raw, 10)
				}
			}
			v.Samples = append(v.Samples, [2]json.RawMessage{
				json.RawMessage(strconv.FormatInt(s.At, 10)),
				json.RawMessage("[" + strings.Join(values, ",") + "]"),
			})
		}
		blocks = append(blocks, v)
	}
	add := func(name string, points int, samples []ecowatt.Sample) {
		show(vectorJSON{Name: name, Points: points, Block: hex.EncodeToString(encode(t, points, samples))}, samples)
	}
	add("morning", 10, morning(300, 9))
	r := rand.New(rand.NewPCG(7, 7))
	gaps := noise(160, 16, r.Uint64)
	for i := range 4 {
		gaps[40*i].Values[5*i] = ecowatt.Value{}
	}
	if encode(t, 16, gaps)[0] != kindStored {
		t.Error("noise with gaps is not stored")
	}
	add("noise with gaps", 16, gaps)
	gen := rapid.Custom(func(t *rapid.T) vector {
		points, samples := wild(t)
		return vector{points: points, samples: samples}
	})
	for i := range 30 {
		v := gen.Example(i)
		add(fmt.Sprintf("wild %d", i), v.points, v.samples)
	}
	deceits := 0
	for i := range 60 {
		junk := []byte{kindCoded, 3, 0, 30}
		for range 40 {
			junk = append(junk, byte(r.Uint32()|r.Uint32()|r.Uint32()))
		}
		junk = resealed(append(junk, 1, 0, 0, 0, 0))
		v := vectorJSON{Name: fmt.Sprintf("junk %d", i), Points: 3, Block: hex.EncodeToString(junk), Junk: true}
		if samples, err := Decode(junk, Limits{}); err == nil {
			deceits++
			show(v, samples)
		} else {
			blocks = append(blocks, v)
		}
	}
	if deceits < 20 || deceits == 60 {
		t.Errorf("%d blocks of junk of 60 can be decoded", deceits)
	}
	input, err := json.Marshal(blocks)
	if err != nil {
		t.Fatal(err)
	}
	python(t, input, "check")
}

func readDoc(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../docs/formats/block.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestDocChances: the table in the document is that of the code.
func TestDocChances(t *testing.T) {
	var got []uint8
	for _, row := range regexp.MustCompile(`(?m)^\| (?:rest|more|sign|half|unit|gaps|gap|first)(?: \[\d+\])? \| ([\d ]+) \|$`).FindAllStringSubmatch(readDoc(t), -1) {
		for field := range strings.FieldsSeq(row[1]) {
			n, err := strconv.ParseUint(field, 10, 8)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, uint8(n))
		}
	}
	if diff := cmp.Diff(startChances[:], got); diff != "" {
		t.Errorf("(-code +document):\n%s", diff)
	}
}

// TestDocExamples: the blocks shown in the document are vectors.
func TestDocExamples(t *testing.T) {
	shown := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\*\\*(.+)\\*\\*.*\n\n    ([0-9a-f ]+)$").FindAllStringSubmatch(readDoc(t), -1) {
		shown[strings.ToLower(m[1])] = strings.ReplaceAll(m[2], " ", "")
	}
	if len(shown) < 3 {
		t.Errorf("%d examples in the document", len(shown))
	}
	known := map[string]string{}
	for _, v := range readVectors(t) {
		known[v.name] = hex.EncodeToString(v.block)
	}
	for name, block := range shown {
		if known[name] != block {
			t.Errorf("%q is shown as %s, and is %s", name, block, known[name])
		}
	}
}
