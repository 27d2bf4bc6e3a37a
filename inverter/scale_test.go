package inverter

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt"
)

func scaled(exponent int) Register {
	return Register{
		Point: ecowatt.Point{Name: "w", Exponent: exponent}, Table: Holding, Address: 10, Type: S16,
		Scale: Scale{Given: true, Address: 11}, Absent: []uint64{0x8000},
	}
}

func TestDecodeWithAScaleFactor(t *testing.T) {
	for _, c := range []struct {
		name     string
		exponent int
		words    []uint16
		want     int64
		err      error
	}{
		{"the same", -1, []uint16{1234, 0xffff}, 1234, nil},
		{"coarser", -1, []uint16{1234, 1}, 123_400, nil},
		{"finer, rounded up", -1, []uint16{1235, 0xfffe}, 124, nil},
		{"finer, rounded down", -1, []uint16{1234, 0xfffe}, 123, nil},
		{"finer, negative, rounded away from zero", -1, []uint16{0xfffb, 0xfffe}, -1, nil}, // -5
		{"finer, negative, rounded to zero", -1, []uint16{0xfffc, 0xfffe}, 0, nil},         // -4
		{"far finer", 10, []uint16{0x7fff, 0xfff6}, 0, nil},
		{"absent", 0, []uint16{0x8000, 0}, 0, ErrAbsent},
		{"not implemented scale factor", 0, []uint16{5, 0x8000}, 0, ErrAbsent},
		{"scale factor 11", 0, []uint16{5, 11}, 0, ErrRange},
		{"scale factor -11", 0, []uint16{5, 0xfff5}, 0, ErrRange},
		{"scale factor 10", 0, []uint16{5, 10}, 50_000_000_000, nil},
		{"more than an integer", -10, []uint16{5, 10}, 0, ErrRange},
	} {
		got, err := scaled(c.exponent).Decode(c.words)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %d, %v; want %d, %v", c.name, got, err, c.want, c.err)
		}
	}
	if _, err := scaled(0).Decode([]uint16{1}); err == nil {
		t.Error("decoded without the scale factor")
	}
	if _, err := scaled(0).Encode(1); err == nil {
		t.Error("encoded without the scale factor")
	}
}

// Shifting there and back changes nothing; where digits are lost, it is half a
// unit at most.
func TestShift(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw, by := rapid.Int64().Draw(t, "raw"), rapid.IntRange(0, 25).Draw(t, "by")
		if up, ok := shift(raw, by); ok {
			if back, ok := shift(up, -by); !ok || back != raw && by <= 18 {
				t.Fatalf("%d shifted by %d is %d, and back %d", raw, by, up, back)
			}
		}
		down, ok := shift(raw, -by)
		if exact := float64(raw) * math.Pow10(-by); !ok || math.Abs(float64(down)-exact) > 0.5+math.Abs(exact)*1e-12 {
			t.Fatalf("%d shifted by -%d is %d, want %g", raw, by, down, exact)
		}
	})
}

func TestDecodeFloat(t *testing.T) {
	r := Register{Point: ecowatt.Point{Name: "w", Exponent: -2}, Table: Holding, Type: F32}
	for _, c := range []struct {
		bits uint32
		want int64
		err  error
	}{
		{math.Float32bits(230.126), 23013, nil},
		{math.Float32bits(-0.5), -50, nil},
		{math.Float32bits(0), 0, nil},
		{0x7fc00000, 0, ErrAbsent},
		{0xffc00001, 0, ErrAbsent},
		{math.Float32bits(float32(math.Inf(1))), 0, ErrRange},
		{math.Float32bits(float32(math.Inf(-1))), 0, ErrRange},
		{math.Float32bits(1e30), 0, ErrRange},
	} {
		got, err := r.Decode([]uint16{uint16(c.bits >> 16), uint16(c.bits)})
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%08x: %d, %v; want %d, %v", c.bits, got, err, c.want, c.err)
		}
	}
	words, err := r.Encode(-5025)
	if diff := cmp.Diff([]uint16{0xc249, 0}, words); err != nil || diff != "" {
		t.Errorf("Encode: %v (-want +got):\n%s", err, diff)
	}
	if _, err := r.Encode(1<<40 + 1); err == nil {
		t.Error("encoded more digits than there are")
	}
}

func TestOffset(t *testing.T) {
	r := Register{Point: ecowatt.Point{Name: "temp", Exponent: -1}, Table: Holding, Type: U16, Offset: -1000, Absent: []uint64{0}}
	for _, c := range []struct {
		word uint16
		want int64
	}{{1251, 251}, {900, -100}, {65535, 64535}} {
		if got, err := r.Decode([]uint16{c.word}); err != nil || got != c.want {
			t.Errorf("Decode(%d) = %d, %v; want %d", c.word, got, err, c.want)
		}
		if words, err := r.Encode(c.want); err != nil || words[0] != c.word {
			t.Errorf("Encode(%d) = %v, %v; want %d", c.want, words, err, c.word)
		}
	}
	if _, err := r.Decode([]uint16{0}); !errors.Is(err, ErrAbsent) {
		t.Errorf("the pattern before the offset counts: %v", err)
	}
	if _, err := r.Encode(-1000); err == nil {
		t.Error("encoded what would be read as no value")
	}
	if _, err := r.Encode(64536); err == nil {
		t.Error("encoded more than there is")
	}
	high := Register{Point: ecowatt.Point{Name: "x"}, Table: Holding, Type: U64, Offset: 5}
	if got, err := high.Decode([]uint16{0x7fff, 0xffff, 0xffff, 0xffff}); !errors.Is(err, ErrRange) {
		t.Errorf("went round to %d, %v", got, err)
	}
}

func TestDescribe(t *testing.T) {
	state := Register{Type: Enum16, Names: []Name{{1, "off"}, {0x9100, "alarm"}}}
	events := Register{Type: Bits32, Names: []Name{{0, "ground fault"}, {31, "last"}}}
	for _, c := range []struct {
		r    Register
		raw  int64
		want string
	}{
		{state, 1, "off"},
		{state, 0x9100, "alarm"},
		{state, 2, ""},
		{state, -1, ""},
		{events, 0, ""},
		{events, 1, "ground fault"},
		{events, 1<<31 | 1<<4, "bit 4, last"},
		{Register{Type: U16}, 3, ""},
	} {
		if got := c.r.Describe(c.raw); got != c.want {
			t.Errorf("%v %d: %q, want %q", c.r.Type, c.raw, got, c.want)
		}
	}
}

func TestTextDecode(t *testing.T) {
	words := func(s string) (w []uint16) {
		for i := 0; i < len(s); i += 2 {
			w = append(w, uint16(s[i])<<8|uint16(s[i+1]))
		}
		return w
	}
	for _, c := range []struct{ in, want string }{
		{"SUN2000-", "SUN2000-"}, {"AB\x00\x00ZZ", "AB"}, {"A\x1b[2J   ", "A[2J"}, {"  A\xffB ", "AB"}, {"\x00\x00", ""}, {"", ""},
	} {
		if got := (Text{}).Decode(words(c.in)); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

func TestRegisterCheckOfTheRest(t *testing.T) {
	for _, c := range []struct {
		want string
		r    Register
	}{
		{"offset: only", Register{Type: F32, Offset: 1}},
		{"offset: only", Register{Type: Enum16, Offset: 1}},
		{"offset: 4294967296", Register{Offset: 1 << 32}},
		{"step: -1", Register{Step: -1}},
		{"step: an enum16", Register{Type: Enum16, Step: 1}},
		{"poll: there is no class 3", Register{Class: 3}},
		{"names: the values of u16", Register{Names: []Name{{1, "x"}}}},
		{"names: 65536 is more", Register{Type: Enum16, Names: []Name{{65536, "x"}}}},
		{"names: 16 is more", Register{Type: Bits16, Names: []Name{{16, "x"}}}},
		{"names: 3 stands twice", Register{Type: Bits16, Names: []Name{{3, "x"}, {3, "y"}}}},
		{"scale: an f32", Register{Type: F32, Scale: Scale{Given: true, Address: 9}}},
		{"scale: 1 is the point itself", Register{Type: U32, Scale: Scale{Given: true, Address: 1}}},
	} {
		c.r.Point.Name, c.r.Table = "p", Holding
		if err := c.r.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Check: %v; want an error with %q", err, c.want)
		}
	}
}

// A value and its scale factor are always in the same read.
func TestPlanWithScaleFactors(t *testing.T) {
	at := func(name string, address, scale uint16) Register {
		r := register(name, Holding, address, U16)
		r.Scale = Scale{Given: true, Address: scale}
		return r
	}
	p := Profile{Name: "p", Block: 12, Gap: 0, Registers: []Register{
		at("a", 20, 10), at("b", 10+1, 19), at("c", 40, 51), register("d", Holding, 41, U16), register("e", Holding, 52, U16),
	}}
	plan, err := p.Plan(p.PointNames())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Read{{Holding, 10, 11}, {Holding, 40, 12}, {Holding, 52, 1}}, plan.Reads()); diff != "" {
		t.Errorf("reads (-want +got):\n%s", diff)
	}
	split, ok := plan.Split(0)
	if !ok {
		t.Fatal("not divided")
	}
	for _, plan := range []Plan{plan, split} {
		var brought [][]uint16
		for _, r := range plan.Reads() {
			brought = append(brought, words(r))
		}
		for i, want := range [][]uint16{{0x3014, 0x300a}, {0x300b, 0x3013}, {0x3028, 0x3033}, {0x3029}, {0x3034}} {
			if diff := cmp.Diff(want, plan.Words(i, brought)); diff != "" {
				t.Errorf("%v: words of point %d (-want +got):\n%s", plan.Reads(), i, diff)
			}
		}
	}
	p.Block = 11
	if _, err := p.Plan([]string{"c"}); err == nil || !strings.Contains(err.Error(), "12 words at 40 do not fit") {
		t.Errorf("a scale factor beyond the block limit: %v", err)
	}
}
