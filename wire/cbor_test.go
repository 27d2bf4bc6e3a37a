package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// item reads one item of any shape, strictly.
func item(b []byte) error {
	r := &reader{b: b}
	r.skip()
	r.end()
	return r.err
}

// What section 3 refuses, each beside the form that it accepts.
//
// Attacks: W13
func TestStrictness(t *testing.T) {
	deep := func(n int) string { return strings.Repeat("81", n-1) + "80" }
	for _, c := range []struct{ name, bad, good string }{
		{"uint in 1 byte too many", "1817", "17"},
		{"uint in 2 bytes instead of 1", "1900ff", "18ff"},
		{"uint in 4 bytes instead of 2", "1a0000ffff", "19ffff"},
		{"uint in 8 bytes instead of 4", "1b00000000ffffffff", "1affffffff"},
		{"negative in 1 byte too many", "3817", "37"},
		{"byte string with a long head", "5801ff", "41ff"},
		{"text with a long head", "780161", "6161"},
		{"-2^63-1", "3b8000000000000000", "3b7fffffffffffffff"},
		{"array with a long head", "980100", "8100"},
		{"map with a long head", "b8010000", "a10000"},
		{"indefinite bytes", "5f41ffff", "41ff"},
		{"indefinite text", "7f6161ff", "6161"},
		{"indefinite array", "9f00ff", "8100"},
		{"indefinite map", "bf0000ff", "a10000"},
		{"break alone", "ff", "f6"},
		{"reserved length", "1c", "00"},
		{"reserved length of a map", "be", "a0"},
		{"tag", "c000", "00"},
		{"bignum", "c24101", "01"},
		{"tag in an array", "81d82000", "8100"},
		{"keys out of order", "a2010000 00", "a20000 0100"},
		{"text keys out of order", "a2616200 616100", "a2616100 616200"},
		{"longer text key first", "a2626161 00 617a 00", "a2617a 00 626161 00"},
		{"text key before a number", "a2616100 0000", "a20000 616100"},
		{"duplicate key", "a2000000 01", "a20000 0101"},
		{"duplicate text key", "a2616100 616101", "a2616100 616201"},
		{"byte string as key", "a1410000", "a1610000"},
		{"array as key", "a18000", "a16000"},
		{"map as key", "a1a000", "a16000"},
		{"true as key", "a1f500", "a16000"},
		{"text that is not UTF-8", "61ff", "6161"},
		{"text with a surrogate", "63eda080", "63e282ac"},
		{"undefined", "f7", "f6"},
		{"unassigned simple value", "e0", "f4"},
		{"simple value in 2 bytes", "f8ff", "f5"},
		{"simple value 20 in 2 bytes", "f814", "f4"},
		{"float32 that fits 16 bits", "fa3f800000", "f93c00"},
		{"float64 that fits 16 bits", "fb3ff0000000000000", "f93c00"},
		{"float64 that fits 32 bits", "fb3ff0000020000000", "fa3f800001"},
		{"float64 zero", "fb0000000000000000", "f90000"},
		{"NaN", "f97e00", "f97bff"},
		{"infinity", "f97c00", "f97bff"},
		{"infinity in 32 bits", "fa7f800000", "fa7f7fffff"},
		{"infinity in 64 bits", "fb7ff0000000000000", "fb7fefffffffffffff"},
		{"depth 9", deep(9), deep(8)},
		{"bytes beyond the end", "42ff", "41ff"},
		{"bytes far beyond the end", "5bffffffffffffffff", "40"},
		{"text far beyond the end", "7b7fffffffffffffff", "60"},
		{"array far beyond the end", "9bffffffffffffffff", "80"},
		{"array of 4096 beyond the end", "99100000", "8100"},
		{"map far beyond the end", "bb8000000000000001", "a0"},
		{"map of 64 beyond the end", "b840", "a0"},
		{"nothing", "", "00"},
		{"head alone", "19", "00"},
		{"half a head", "1900", "00"},
		{"two items", "0000", "00"},
	} {
		if err := item(unhex(t, c.bad)); !errors.Is(err, ErrSchema) {
			t.Errorf("%s: %s: %v, want ErrSchema", c.name, c.bad, err)
		}
		if err := item(unhex(t, c.good)); err != nil {
			t.Errorf("%s: the right form %s: %v", c.name, c.good, err)
		}
	}
}

func TestCounts(t *testing.T) {
	for n, want := range map[int]error{maxArray: nil, maxArray + 1: ErrSchema} {
		w := &writer{}
		w.array(n)
		w.b = append(w.b, make([]byte, n)...)
		if err := item(w.b); !errors.Is(err, want) {
			t.Errorf("an array of %d: %v, want %v", n, err, want)
		}
	}
	for n, want := range map[int]error{maxMap: nil, maxMap + 1: ErrSchema} {
		w := &writer{}
		w.head(majorMap, uint64(n))
		for k := range n {
			w.uint(uint64(k))
			w.null()
		}
		if err := item(w.b); !errors.Is(err, want) {
			t.Errorf("a map of %d: %v, want %v", n, err, want)
		}
	}
}

// TestTypedReadsAreAsStrict sends what skip refuses through the typed methods.
func TestTypedReadsAreAsStrict(t *testing.T) {
	type read func(r *reader)
	anyInt := func(r *reader) { r.int() }
	anyUint := func(r *reader) { r.uint() }
	for _, c := range []struct {
		name, b string
		read    read
	}{
		{"null as uint", "f6", anyUint},
		{"negative as uint", "20", anyUint},
		{"text as uint", "6131", anyUint},
		{"float as uint", "f93c00", anyUint},
		{"float as int", "f93c00", anyInt},
		{"2^63", "1b8000000000000000", anyInt},
		{"-2^63-1", "3b8000000000000000", anyInt},
		{"2^63 as time", "1b8000000000000000", func(r *reader) { r.time() }},
		{"17 bytes as id", "51" + strings.Repeat("00", 17), func(r *reader) { r.id() }},
		{"15 bytes as id", "4f" + strings.Repeat("00", 15), func(r *reader) { r.id() }},
		{"text as id", "70" + strings.Repeat("61", 16), func(r *reader) { r.id() }},
		{"array as id", "90" + strings.Repeat("00", 16), func(r *reader) { r.id() }},
		{"bytes as text", "4161", func(r *reader) { r.text() }},
		{"null as text", "f6", func(r *reader) { r.text() }},
		{"1 as bool", "01", func(r *reader) { r.bool() }},
		{"bool at the end", "", func(r *reader) { r.bool() }},
		{"value at the end", "", func(r *reader) { r.value() }},
		{"tag as value", "c000", func(r *reader) { r.value() }},
		{"undefined as value", "f7", func(r *reader) { r.value() }},
		{"map with number keys as values", "a10000", func(r *reader) { r.value() }},
		{"text as number", "6131", func(r *reader) { r.number() }},
		{"null as number", "f6", func(r *reader) { r.number() }},
		{"tuple too short", "8100", func(r *reader) { r.tuple(2, func() { r.uint(); r.uint() }) }},
		{"tuple too long", "83000000", func(r *reader) { r.tuple(2, func() { r.uint(); r.uint() }) }},
		{"negative key", "a12000", func(r *reader) { r.table(0, func(uint64) bool { return false }) }},
		{"text key in a table", "a1613100", func(r *reader) { r.table(0, func(uint64) bool { return false }) }},
		{"keys of a table out of order", "a201000000", func(r *reader) { r.table(0, func(uint64) bool { return false }) }},
		{"key of a table twice", "a201000100", func(r *reader) { r.table(0, func(uint64) bool { return false }) }},
		{"key missing", "a10100", func(r *reader) { r.table(set(2), func(uint64) bool { return false }) }},
		{"number key in a dict", "a10000", func(r *reader) { r.dict(func(string) { r.skip() }) }},
		{"keys of a dict out of order", "a2616200616100", func(r *reader) { r.dict(func(string) { r.skip() }) }},
		{"key of a dict twice", "a2616100616100", func(r *reader) { r.dict(func(string) { r.skip() }) }},
	} {
		r := &reader{b: unhex(t, c.b)}
		c.read(r)
		r.end()
		if !errors.Is(r.err, ErrSchema) {
			t.Errorf("%s: %v, want ErrSchema", c.name, r.err)
		}
	}
}

// A body that announces much and holds little must not make anybody allocate.
//
// Attacks: W13
func TestAnnouncedLengthsAllocateNothing(t *testing.T) {
	bombs := []string{
		"a1015bffffffffffffffff", "a1045affffffff", "a1049bffffffffffffffff", "a104991000", "a104991000" + strings.Repeat("80", 100),
		"a101" + strings.Repeat("81", 8) + "9b00000000ffffffff", "bb00000000ffffffff",
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for _, bomb := range bombs {
		b := unhex(t, bomb)
		for name, decode := range decoders() {
			if err := decode(b); !errors.Is(err, ErrSchema) {
				t.Errorf("%s of %s: %v", name, bomb, err)
			}
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Errorf("%d bytes were allocated for %d small bodies", grown, len(bombs))
	}
}

func TestHalfFloats(t *testing.T) {
	for bits := range uint32(1 << 16) {
		x := fromHalf(uint16(bits))
		var oracle float64
		if err := cbor.Unmarshal([]byte{byteFloat16, byte(bits >> 8), byte(bits)}, &oracle); err != nil {
			t.Fatal(err)
		}
		if math.IsNaN(x) != math.IsNaN(oracle) || !math.IsNaN(x) && x != oracle {
			t.Fatalf("%04x is %v, want %v", bits, x, oracle)
		}
		if math.IsNaN(x) || math.IsInf(x, 0) {
			continue
		}
		if back, ok := toHalf(x); !ok || back != uint16(bits) {
			t.Fatalf("%v came back as %04x, %v; want %04x", x, back, ok, bits)
		}
	}
	for _, x := range []float64{65505, 65520, 1e300, math.Ldexp(1, -25), 1.0 / 3, math.Nextafter(1, 2), math.NaN(), math.Inf(-1)} {
		if half, ok := toHalf(x); ok {
			t.Errorf("%v became %04x", x, half)
		}
	}
}

// anyValue draws what commands and configurations may carry.
func anyValue(depth int) *rapid.Generator[any] {
	scalars := []*rapid.Generator[any]{
		rapid.Just[any](nil),
		rapid.Bool().AsAny(),
		rapid.Int64().AsAny(),
		rapid.Int64Range(-300, 300).AsAny(),
		rapid.Float64Range(-1e300, 1e300).AsAny(),
		rapid.Map(rapid.Int64Range(-4000, 4000), func(n int64) any { return float64(n) / 8 }),
		rapid.StringN(0, 40, -1).AsAny(),
		rapid.SliceOfN(rapid.Byte(), 0, 40).AsAny(),
	}
	if depth == 0 {
		return rapid.OneOf(scalars...)
	}
	inner := anyValue(depth - 1)
	return rapid.OneOf(append(scalars,
		rapid.Custom(func(t *rapid.T) any { return rapid.SliceOfN(inner, 0, 5).Draw(t, "list") }),
		rapid.Custom(func(t *rapid.T) any {
			return rapid.MapOfN(rapid.StringN(0, 30, -1), inner, 0, 5).Draw(t, "map")
		}))...)
}

// TestAgainstTheLibrary compares the writer with another implementation of the
// same rules, and reads back what both wrote.
func TestAgainstTheLibrary(t *testing.T) {
	deterministic, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		v := anyValue(5).Draw(t, "value")
		w := &writer{}
		w.value(v)
		got, err := w.done()
		if err != nil {
			t.Fatal(err)
		}
		want, err := deterministic.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, got) {
			t.Fatalf("%#v: %x, want %x", v, got, want)
		}
		r := &reader{b: got}
		back := r.value()
		r.end()
		if r.err != nil {
			t.Fatal(r.err)
		}
		if diff := cmp.Diff(v, back); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// TestEncodingIsUnique: an encoding that was changed in one byte is refused or
// means something else; two encodings never mean the same.
func TestEncodingIsUnique(t *testing.T) {
	seen := map[string]string{}
	for _, b := range vectorItems(t) {
		for at := range b {
			for x := range 256 {
				c := bytes.Clone(b)
				c[at] = byte(x)
				r := &reader{b: c}
				v := r.value()
				r.end()
				if r.err != nil {
					continue
				}
				w := &writer{}
				w.value(v)
				again, err := w.done()
				if err != nil || !bytes.Equal(c, again) {
					t.Fatalf("%x was accepted as %v and is written as %x, %v", c, v, again, err)
				}
				seen[string(c)] = ""
			}
		}
	}
	if len(seen) < 1000 {
		t.Errorf("only %d edits were accepted: the test tests nothing", len(seen))
	}
}

func vectorItems(t *testing.T) (items [][]byte) {
	t.Helper()
	for _, v := range []any{
		map[string]any{"percent": 12.5, "lease_s": int64(7200), "inverter": "roof", "on_end": "restore", "z": []any{true, nil, int64(-1), 1e10, 0.1}},
		[]any{int64(0), int64(23), int64(24), int64(256), int64(65536), int64(1) << 32, []byte{1, 2, 3}, map[string]any{"a": map[string]any{}}},
	} {
		w := &writer{}
		w.value(v)
		b, err := w.done()
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, b)
	}
	return items
}

func TestWriterRefuses(t *testing.T) {
	loop := []any{nil}
	loop[0] = loop
	for name, v := range map[string]any{
		"a channel":        make(chan int),
		"a struct":         struct{}{},
		"a uint":           uint(1),
		"NaN":              math.NaN(),
		"infinity":         math.Inf(1),
		"bad UTF-8":        "\xff",
		"a key not UTF-8":  map[string]any{"\xff": 1},
		"a list in itself": loop,
		"4097 elements":    slices.Repeat([]any{1}, 4097),
	} {
		w := &writer{}
		w.value(v)
		if b, err := w.done(); !errors.Is(err, ErrSchema) {
			t.Errorf("%s: %x, %v", name, b, err)
		}
	}
	w := &writer{}
	w.time(-1)
	if _, err := w.done(); !errors.Is(err, ErrSchema) {
		t.Errorf("a negative time: %v", err)
	}
	w = &writer{}
	w.raw(nil)
	if _, err := w.done(); !errors.Is(err, ErrSchema) {
		t.Errorf("an empty item: %v", err)
	}
}

// FuzzItem: what the strict reader takes, the library takes too, and writes in
// the same bytes.
//
// Attacks: W20
func FuzzItem(f *testing.F) {
	for _, c := range vectors(f) {
		for _, r := range c.Records {
			f.Add([]byte(r.ReqBody))
			f.Add([]byte(r.RspBody))
		}
	}
	for _, s := range []string{"fb3ff199999999999a", "fa47c35000", "f97bff", "3903e7", "a26161016162820203", "1b7fffffffffffffff"} {
		f.Add(unhex(f, s))
	}
	deterministic, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if item(b) != nil {
			return
		}
		var v any
		if err := cbor.Unmarshal(b, &v); err != nil {
			t.Fatalf("the library refuses %x: %v", b, err)
		}
		again, err := deterministic.Marshal(v)
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%x is written by the library as %x, %v", b, again, err)
		}
	})
}
