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

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name  string
		r     Register
		words []uint16
		want  int64
		err   error
	}{
		{"u16", Register{Type: U16}, []uint16{0xffff}, 65535, nil},
		{"s16 negative", Register{Type: S16}, []uint16{0xffce}, -50, nil},
		{"s16 least", Register{Type: S16}, []uint16{0x8000}, -32768, nil},
		{"u32 high word first", Register{Type: U32}, []uint16{0x0001, 0x0002}, 65538, nil},
		{"u32 low word first", Register{Type: U32, Order: LowFirst}, []uint16{0x0002, 0x0001}, 65538, nil},
		{"u32 greatest", Register{Type: U32}, []uint16{0xffff, 0xffff}, math.MaxUint32, nil},
		{"s32 negative", Register{Type: S32}, []uint16{0xffff, 0xfffe}, -2, nil},
		{"s32 negative, low word first", Register{Type: S32, Order: LowFirst}, []uint16{0xfffe, 0xffff}, -2, nil},
		{"u64", Register{Type: U64}, []uint16{1, 0, 0, 2}, 1<<48 + 2, nil},
		{"u64, low word first", Register{Type: U64, Order: LowFirst}, []uint16{2, 0, 0, 1}, 1<<48 + 2, nil},
		{"u64 beyond a raw value", Register{Type: U64}, []uint16{0x8000, 0, 0, 0}, 0, ErrRange},
		{"s64 negative", Register{Type: S64}, []uint16{0xffff, 0xffff, 0xffff, 0xffff}, -1, nil},
		{"absent u16", Register{Type: U16, Absent: []uint64{0xffff}}, []uint16{0xffff}, 0, ErrAbsent},
		{"absent s16", Register{Type: S16, Absent: []uint64{0x8000}}, []uint16{0x8000}, 0, ErrAbsent},
		{"second absent pattern", Register{Type: U16, Absent: []uint64{0xfffe, 0xffff}}, []uint16{0xffff}, 0, ErrAbsent},
		{"absent u32, low word first", Register{Type: U32, Order: LowFirst, Absent: []uint64{0x7fff_ffff}}, []uint16{0xffff, 0x7fff}, 0, ErrAbsent},
		{"absent u64", Register{Type: U64, Absent: []uint64{math.MaxUint64}}, []uint16{0xffff, 0xffff, 0xffff, 0xffff}, 0, ErrAbsent},
		{"valid, low end", Register{Type: S16, Valid: Range{-50, 100}}, []uint16{0xffce}, -50, nil},
		{"valid, high end", Register{Type: S16, Valid: Range{-50, 100}}, []uint16{100}, 100, nil},
		{"below valid", Register{Type: S16, Valid: Range{-50, 100}}, []uint16{0xffcd}, 0, ErrRange},
		{"above valid", Register{Type: S16, Valid: Range{-50, 100}}, []uint16{101}, 0, ErrRange},
	} {
		got, err := c.r.Decode(c.words)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: Decode(%04x) = %d, %v; want %d, %v", c.name, c.words, got, err, c.want, c.err)
		}
	}
	for _, words := range [][]uint16{nil, {1}, {1, 2, 3}} {
		if _, err := (Register{Type: U32}).Decode(words); err == nil {
			t.Errorf("Decode(%d words) of u32: no error", len(words))
		}
	}
}

func TestEncodeIsTheInverseOfDecode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Register{
			Type:   rapid.SampledFrom(Types()).Draw(t, "type"),
			Order:  rapid.SampledFrom([]Order{HighFirst, LowFirst}).Draw(t, "order"),
			Absent: []uint64{0x7fff},
		}
		raw := rapid.Int64().Draw(t, "raw")
		words, err := r.Encode(raw)
		limits := r.Type.limits()
		exact := r.Type != F32 || int64(float32(raw)) == raw
		absent := raw == 0x7fff && r.Type != F32 // where the pattern is another number
		if fits := limits.Holds(raw) && !absent && exact; (err == nil) != fits {
			t.Fatalf("Encode(%d) of %v: %v; fits: %v", raw, r.Type, err, fits)
		}
		if err != nil {
			return
		}
		if got, err := r.Decode(words); err != nil || got != raw {
			t.Fatalf("Decode(Encode(%d)) of %v = %d, %v (%04x)", raw, r.Type, got, err, words)
		}
	})
}

func TestEncodeRefuses(t *testing.T) {
	for _, c := range []struct {
		r    Register
		raw  int64
		want string
	}{
		{Register{Type: U16}, -1, "more than u16"},
		{Register{Type: U16}, 65536, "more than u16"},
		{Register{Type: S16}, 32768, "more than s16"},
		{Register{Type: U32}, -1, "more than u32"},
		{Register{Type: U64}, -1, "more than u64"},
		{Register{Type: S16, Absent: []uint64{0x8000}}, -32768, "no value"},
	} {
		if words, err := c.r.Encode(c.raw); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Encode(%d) of %v = %04x, %v; want an error with %q", c.raw, c.r.Type, words, err, c.want)
		}
	}
}

func TestCheckWrite(t *testing.T) {
	limit := Register{Point: ecowatt.Point{Name: "limit", Unit: "%", Exponent: -1, Writable: true, Min: 0, Max: 1000}, Table: Holding}
	for _, raw := range []int64{0, 500, 1000} {
		if err := limit.CheckWrite(raw); err != nil {
			t.Errorf("CheckWrite(%d): %v", raw, err)
		}
	}
	for _, raw := range []int64{-1, 1001, 65536} {
		if err := limit.CheckWrite(raw); err == nil || !strings.Contains(err.Error(), "is not within 0.0 and 100.0 %") {
			t.Errorf("CheckWrite(%d): %v; want an error with the range", raw, err)
		}
	}
	if err := (Register{Point: ecowatt.Point{Name: "pac"}}).CheckWrite(0); err == nil || err.Error() != "pac is not writable" {
		t.Errorf("CheckWrite of a point that is not writable: %v", err)
	}
}

func TestRegisterCheck(t *testing.T) {
	good := func() Register {
		return Register{Point: ecowatt.Point{Name: "limit", Exponent: -1, Writable: true, Max: 1000}, Table: Holding, Address: 65534, Type: S32}
	}
	if err := good().Check(); err != nil {
		t.Fatalf("a good register: %v", err)
	}
	for _, c := range []struct {
		want   string
		change func(*Register)
	}{
		{"point \"\"", func(r *Register) { r.Point.Name = "" }},
		{"exponent: -11", func(r *Register) { r.Point.Exponent = -11 }},
		{"exponent: 11", func(r *Register) { r.Point.Exponent = 11 }},
		{"table: there is no table 0", func(r *Register) { r.Table = 0 }},
		{"address: 65535", func(r *Register) { r.Address = 65535 }},
		{"type: there is no type 99", func(r *Register) { r.Type = 99 }},
		{"order:", func(r *Register) { r.Order = 2 }},
		{"valid: from 5 to 4", func(r *Register) { r.Valid = Range{5, 4} }},
		{"valid: from -1 to 70000 is more than u16", func(r *Register) { r.Address, r.Type, r.Valid = 0, U16, Range{-1, 70000} }},
		{"absent: 0x100000000", func(r *Register) { r.Absent = []uint64{0x80000000, 1 << 32} }},
		{"write: only holding", func(r *Register) { r.Table = Input }},
		{"write: from 7 to 6", func(r *Register) { r.Point.Min, r.Point.Max = 7, 6 }},
		{"write: from 0 to 0", func(r *Register) { r.Point.Max = 0 }},
		{"write: from 0 to 70000", func(r *Register) { r.Type, r.Point.Max = U16, 70000 }},
		{"write: from 0 to 1000 is more than is valid", func(r *Register) { r.Valid = Range{0, 999} }},
		{"write: there is a range", func(r *Register) { r.Point.Writable = false }},
	} {
		r := good()
		c.change(&r)
		if err := r.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Check: %v; want an error with %q", err, c.want)
		}
	}
}

func TestOverlaps(t *testing.T) {
	at := func(table Table, address uint16, typ Type) Register {
		return Register{Table: table, Address: address, Type: typ}
	}
	for _, c := range []struct {
		a, b Register
		want bool
	}{
		{at(Holding, 5, U32), at(Holding, 6, U16), true},
		{at(Holding, 5, U32), at(Holding, 7, U16), false},
		{at(Holding, 5, U32), at(Input, 5, U32), false},
		{at(Holding, 5, U64), at(Holding, 6, U16), true},
		{at(Holding, 65534, U32), at(Holding, 65535, U16), true},
	} {
		if got := []bool{c.a.Overlaps(c.b), c.b.Overlaps(c.a)}; !cmp.Equal(got, []bool{c.want, c.want}) {
			t.Errorf("%v+%v, %v+%v: overlap %v, want %v", c.a.Address, c.a.Type, c.b.Address, c.b.Type, got, c.want)
		}
	}
}
