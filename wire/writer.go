package wire

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Major types of CBOR (RFC 8949 section 3.1).
const (
	majorUint  = 0
	majorNint  = 1
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorTag   = 6
	majorOther = 7
)

// Initial bytes of major type 7 that the protocol uses (RFC 8949 section 3.3).
const (
	byteFalse   = 0xf4
	byteTrue    = 0xf5
	byteNull    = 0xf6
	byteFloat16 = 0xf9
	byteFloat32 = 0xfa
	byteFloat64 = 0xfb
)

// writer appends deterministic CBOR (RFC 8949 section 4.2.1). The first error
// stays; done reports it.
type writer struct {
	b   []byte
	err error
}

// done returns what was written, after reading it as the peer will: what breaks
// a limit of the protocol is our own mistake and must not leave the house.
func (w *writer) done() ([]byte, error) {
	if w.err != nil {
		return nil, w.err
	}
	r := reader{b: w.b}
	r.skip()
	r.end()
	if r.err != nil {
		return nil, fmt.Errorf("encoding: %w", r.err)
	}
	return w.b, nil
}

func (w *writer) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("encoding: %w: "+format, append([]any{ErrSchema}, args...)...)
	}
}

func (w *writer) head(major byte, n uint64) {
	m := major << 5
	switch {
	case n < 24:
		w.b = append(w.b, m|byte(n))
	case n <= math.MaxUint8:
		w.b = append(w.b, m|24, byte(n))
	case n <= math.MaxUint16:
		w.b = binary.BigEndian.AppendUint16(append(w.b, m|25), uint16(n))
	case n <= math.MaxUint32:
		w.b = binary.BigEndian.AppendUint32(append(w.b, m|26), uint32(n))
	default:
		w.b = binary.BigEndian.AppendUint64(append(w.b, m|27), n)
	}
}

func (w *writer) array(n int)    { w.head(majorArray, uint64(n)) }
func (w *writer) uint(n uint64)  { w.head(majorUint, n) }
func (w *writer) bytes(b []byte) { w.head(majorBytes, uint64(len(b))); w.b = append(w.b, b...) }
func (w *writer) text(s string)  { w.head(majorText, uint64(len(s))); w.b = append(w.b, s...) }
func (w *writer) raw(item []byte) {
	w.b = append(w.b, item...)
	if len(item) == 0 {
		w.fail("an empty item")
	}
}
func (w *writer) null() { w.b = append(w.b, byteNull) }

func (w *writer) bool(x bool) {
	if x {
		w.b = append(w.b, byteTrue)
	} else {
		w.b = append(w.b, byteFalse)
	}
}

func (w *writer) int(n int64) {
	if n < 0 {
		w.head(majorNint, uint64(-1-n))
	} else {
		w.head(majorUint, uint64(n))
	}
}

// time writes a time or a duration in ms, which is not negative.
func (w *writer) time(ms int64) {
	if ms < 0 {
		w.fail("a negative time")
	}
	w.uint(uint64(ms))
}

// textOrNull writes null for the empty text.
func (w *writer) textOrNull(s string) {
	if s == "" {
		w.null()
	} else {
		w.text(s)
	}
}

func (w *writer) texts(list []string) {
	w.array(len(list))
	for _, s := range list {
		w.text(s)
	}
}

// float writes the shortest of the three widths that keeps the value.
func (w *writer) float(x float64) {
	if half, ok := toHalf(x); ok {
		w.b = binary.BigEndian.AppendUint16(append(w.b, byteFloat16), half)
	} else if single := float32(x); float64(single) == x {
		w.b = binary.BigEndian.AppendUint32(append(w.b, byteFloat32), math.Float32bits(single))
	} else {
		w.b = binary.BigEndian.AppendUint64(append(w.b, byteFloat64), math.Float64bits(x))
	}
}

// table is a map with small unsigned keys, whose head is mended as keys come.
type table struct {
	w    *writer
	head int
	last int
}

func (w *writer) table() *table {
	w.b = append(w.b, majorMap<<5)
	return &table{w: w, head: len(w.b) - 1, last: -1}
}

// key begins the pair of key k and returns the writer for its value. Keys go up
// and are less than 24.
func (t *table) key(k int) *writer {
	if k <= t.last || k > 23 {
		panic(fmt.Sprintf("wire: key %d after %d", k, t.last))
	}
	t.last = k
	t.w.b[t.head]++
	t.w.uint(uint64(k))
	return t.w
}

// critical begins the pair of the key −k, which follows all that are not
// negative: whoever does not know it refuses the map.
func (t *table) critical(k int) *writer {
	if t.last > 23 || k < 1 || k > 24 {
		panic(fmt.Sprintf("wire: key -%d after %d", k, t.last))
	}
	t.last = 24 // no other key may follow
	t.w.b[t.head]++
	t.w.int(int64(-k))
	return t.w
}

// dict writes a map with text keys in the order of RFC 8949 section 4.2.1:
// by the bytes of the encoded key, which is by length and then by content.
func dict[V any](w *writer, m map[string]V, value func(V)) {
	w.head(majorMap, uint64(len(m)))
	for _, k := range slices.SortedFunc(maps.Keys(m), compareKeys) {
		w.text(k)
		value(m[k])
	}
}

func compareKeys(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// value writes any of the values that reader.value returns, and int.
func (w *writer) value(v any) { w.nested(v, 0) }

func (w *writer) nested(v any, depth int) {
	if depth > maxDepth {
		w.fail("nested too deep")
		return
	}
	switch x := v.(type) {
	case nil:
		w.null()
	case bool:
		w.bool(x)
	case int:
		w.int(int64(x))
	case int64:
		w.int(x)
	case float64:
		w.float(x)
	case string:
		w.text(x)
	case []byte:
		w.bytes(x)
	case []any:
		w.array(len(x))
		for _, e := range x {
			w.nested(e, depth+1)
		}
	case map[string]any:
		dict(w, x, func(e any) { w.nested(e, depth+1) })
	default:
		w.fail("a value of type %T", v)
	}
}
