package sunspec

import (
	"errors"
	"testing"

	"ecowatt/inverter"
)

// TestNotImplementedOfEachKind: what the SunSpec Information Model says for "not
// implemented" is no value, of whatever type, and its neighbour is one.
func TestNotImplementedOfEachKind(t *testing.T) {
	for _, c := range []struct {
		kind      kind
		nothing   []uint16
		something []uint16
		want      int64
	}{
		{int16s, []uint16{0x8000}, []uint16{0x8001}, -32767},
		{uint16s, []uint16{0xffff}, []uint16{0xfffe}, 65534},
		{uint32s, []uint16{0xffff, 0xffff}, []uint16{0xffff, 0xfffe}, 1<<32 - 2},
		{uint64s, []uint16{0xffff, 0xffff, 0xffff, 0xffff}, []uint16{0, 0, 0xffff, 0xffff}, 1<<32 - 1},
		{acc32, []uint16{0, 0}, []uint16{0xffff, 0xffff}, 1<<32 - 1},
		{acc64, []uint16{0, 0, 0, 0}, []uint16{0, 0, 0, 1}, 1},
		{enum16, []uint16{0xffff}, []uint16{0}, 0},
		{bits16, []uint16{0xffff}, []uint16{0x7fff}, 0x7fff},
		{bits32, []uint16{0xffff, 0xffff}, []uint16{0x7fff, 0xffff}, 1<<31 - 1},
		{float32s, []uint16{0x7fc0, 0}, []uint16{0x3f80, 0}, 1},
	} {
		typ, absent := c.kind.typ()
		r := inverter.Register{Type: typ, Absent: absent}
		if v, err := r.Decode(c.nothing); !errors.Is(err, inverter.ErrAbsent) {
			t.Errorf("kind %d: %x is %d, %v", c.kind, c.nothing, v, err)
		}
		if v, err := r.Decode(c.something); err != nil || v != c.want {
			t.Errorf("kind %d: %x is %d, %v, want %d", c.kind, c.something, v, err, c.want)
		}
	}
}
