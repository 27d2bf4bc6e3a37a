package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// reader takes deterministic CBOR apart (section 3): shortest heads, definite
// lengths, sorted keys without repetition, no tags, and the limits of depth and
// count. Every method checks what it reads, the first error stays and makes all
// that follows return zero values, so that callers check once, at the end.
//
// It is written here, and not left to a library, because libraries accept what
// the protocol refuses: longer heads than needed, null in place of a number, a
// byte string of the wrong length for an array. What it allocates is bounded by
// what is there to read, never by what a length announces.
type reader struct {
	b     []byte
	pos   int
	depth int
	err   error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		at := []any{ErrSchema, r.pos}
		r.err = fmt.Errorf("%w: at byte %d: "+format, append(at, args...)...)
	}
}

// end wants everything to have been read.
func (r *reader) end() {
	if r.err == nil && r.pos != len(r.b) {
		r.fail("more follows")
	}
}

// head reads the initial byte and the argument of an item. For the floats of
// major type 7 the argument is their bits and info says which.
func (r *reader) head() (major, info byte, n uint64) {
	if r.err != nil {
		return 0, 0, 0
	}
	if r.pos >= len(r.b) {
		r.fail("it ends early")
		return 0, 0, 0
	}
	major, info = r.b[r.pos]>>5, r.b[r.pos]&31
	if info < 24 {
		r.pos++
		return major, info, uint64(info)
	}
	if info > 27 {
		r.fail("an indefinite or reserved length")
		return 0, 0, 0
	}
	size := 1 << (info - 24)
	if len(r.b)-r.pos-1 < size {
		r.fail("it ends early")
		return 0, 0, 0
	}
	arg := r.b[r.pos+1 : r.pos+1+size]
	least := uint64(24) // the smallest argument that needs this head
	switch size {
	case 1:
		n = uint64(arg[0])
	case 2:
		n, least = uint64(binary.BigEndian.Uint16(arg)), 1<<8
	case 4:
		n, least = uint64(binary.BigEndian.Uint32(arg)), 1<<16
	default:
		n, least = binary.BigEndian.Uint64(arg), 1<<32
	}
	if major != majorOther && n < least {
		r.fail("a longer form than needed")
		return 0, 0, 0
	}
	r.pos += 1 + size
	return major, info, n
}

// want reads the head of an item of the major type.
func (r *reader) want(major byte, what string) uint64 {
	start := r.pos
	got, _, n := r.head()
	if r.err == nil && got != major {
		r.pos = start
		r.fail("%s expected", what)
		return 0
	}
	return n
}

func (r *reader) uint() uint64 { return r.want(majorUint, "an unsigned integer") }

// uintTo reads an unsigned integer of at most most.
func (r *reader) uintTo(most uint64) uint64 {
	n := r.uint()
	if n > most {
		r.fail("an integer out of range")
		return 0
	}
	return n
}

// time reads a time or a duration in ms.
func (r *reader) time() int64 { return int64(r.uintTo(math.MaxInt64)) }

func (r *reader) int() int64 {
	major, _, n := r.head()
	switch {
	case r.err != nil:
	case major != majorUint && major != majorNint:
		r.fail("an integer expected")
	case n > math.MaxInt64:
		r.fail("an integer out of range")
	case major == majorNint:
		return -1 - int64(n)
	default:
		return int64(n)
	}
	return 0
}

// take returns the next n bytes, without copying them.
func (r *reader) take(n uint64) []byte {
	if r.err != nil {
		return nil
	}
	if n > uint64(len(r.b)-r.pos) {
		r.fail("a length beyond the end")
		return nil
	}
	end := r.pos + int(n)
	b := r.b[r.pos:end:end]
	r.pos = end
	return b
}

// bytes returns a byte string, without copying it.
func (r *reader) bytes() []byte { return r.take(r.want(majorBytes, "a byte string")) }

// fixed reads a byte string of exactly len(dst) bytes into dst.
func (r *reader) fixed(dst []byte) {
	b := r.bytes()
	if r.err != nil {
		return
	}
	if len(b) != len(dst) {
		r.fail("a byte string of %d bytes expected", len(dst))
		return
	}
	copy(dst, b)
}

func (r *reader) id() (id [16]byte) {
	r.fixed(id[:])
	return id
}

func (r *reader) text() string {
	b := r.take(r.want(majorText, "a text"))
	if !utf8.Valid(b) {
		r.fail("a text that is not UTF-8")
		return ""
	}
	return string(b)
}

// null consumes a null, if that is what follows, and reports it.
func (r *reader) null() bool {
	if r.err != nil || r.pos >= len(r.b) || r.b[r.pos] != byteNull {
		return false
	}
	r.pos++
	return true
}

func (r *reader) textOrNull() string {
	if r.null() {
		return ""
	}
	return r.text()
}

func (r *reader) bool() bool {
	if r.err == nil && r.pos < len(r.b) && (r.b[r.pos] == byteFalse || r.b[r.pos] == byteTrue) {
		r.pos++
		return r.b[r.pos-1] == byteTrue
	}
	r.fail("true or false expected")
	return false
}

// enter begins an array or a map of n elements or pairs.
func (r *reader) enter(n, most uint64) bool {
	if r.err != nil {
		return false
	}
	r.depth++
	switch {
	case r.depth > maxDepth:
		r.fail("nested deeper than %d", maxDepth)
	case n > most:
		r.fail("more than %d elements", most)
	}
	return r.err == nil
}

func (r *reader) leave() { r.depth-- }

// list reads an array of any length, calling element for each element.
func (r *reader) list(element func()) {
	n := r.want(majorArray, "an array")
	if !r.enter(n, maxArray) {
		return
	}
	for i := uint64(0); i < n && r.err == nil; i++ {
		element()
	}
	r.leave()
}

// tuple reads an array of exactly n elements, which elements reads.
func (r *reader) tuple(n int, elements func()) {
	got := r.want(majorArray, "an array")
	if r.err == nil && got != uint64(n) {
		r.fail("an array of %d elements expected", n)
	}
	if !r.enter(got, maxArray) {
		return
	}
	elements()
	r.leave()
}

// keys is the set of keys that a table had, of those below 64.
type keys uint64

func (s keys) has(k uint64) bool { return s>>k&1 == 1 }

// table reads a map with unsigned keys. known reads the value of a key, or
// reports false for a key it does not know, whose value is then skipped: what a
// later version adds. Any other kind of key is refused. Keys in required must
// be there.
func (r *reader) table(required keys, known func(k uint64) bool) keys {
	return r.tableWith(required, func(uint64) bool { return false }, known)
}

// tableWith is table for a map that may have negative keys, which follow the
// others. critical reads the value of the key −k, or reports false for a key that
// it does not know, which is refused.
func (r *reader) tableWith(required keys, critical, known func(k uint64) bool) keys {
	n := r.want(majorMap, "a map")
	if !r.enter(n, maxMap) {
		return 0
	}
	var seen keys
	var last uint64
	var negative bool
	for i := uint64(0); i < n && r.err == nil; i++ {
		if r.pos < len(r.b) && r.b[r.pos]>>5 == majorNint {
			k := r.want(majorNint, "a negative key")
			if negative && k <= last {
				r.fail("keys out of order")
			}
			negative, last = true, k
			if r.err == nil && !critical(k+1) {
				r.fail("a key below 0 that is not known here")
			}
			continue
		}
		k := r.uint()
		if negative || i > 0 && k <= last {
			r.fail("keys out of order")
		}
		if r.err != nil {
			break
		}
		last = k
		if !known(k) {
			r.skip()
		} else if k < 64 {
			seen |= 1 << k
		}
	}
	r.leave()
	if required&^seen != 0 {
		r.fail("a key is missing")
	}
	return seen
}

// set makes a set of keys.
func set(ks ...uint64) (s keys) {
	for _, k := range ks {
		s |= 1 << k
	}
	return s
}

// dict reads a map with text keys, calling pair to read each value.
func (r *reader) dict(pair func(key string)) {
	n := r.want(majorMap, "a map")
	if !r.enter(n, maxMap) {
		return
	}
	last := ""
	for i := uint64(0); i < n && r.err == nil; i++ {
		k := r.text()
		if i > 0 && compareKeys(last, k) >= 0 {
			r.fail("keys out of order")
		}
		if r.err != nil {
			break
		}
		last = k
		pair(k)
	}
	r.leave()
}

// raw reads any one item and returns its bytes, without copying them.
func (r *reader) raw() []byte {
	start := r.pos
	r.skip()
	if r.err != nil {
		return nil
	}
	return r.b[start:r.pos:r.pos]
}

// skip checks and passes any one item.
func (r *reader) skip() {
	major, info, n := r.head()
	if r.err != nil {
		return
	}
	switch major {
	case majorUint:
	case majorNint:
		if n > math.MaxInt64 {
			r.fail("an integer out of range")
		}
	case majorBytes:
		r.take(n)
	case majorText:
		if !utf8.Valid(r.take(n)) {
			r.fail("a text that is not UTF-8")
		}
	case majorArray:
		if r.enter(n, maxArray) {
			for i := uint64(0); i < n && r.err == nil; i++ {
				r.skip()
			}
			r.leave()
		}
	case majorMap:
		r.skipMap(n)
	case majorTag:
		r.fail("a tag")
	default:
		r.simple(info, n)
	}
}

// skipMap passes the pairs of a map whose keys are integers or texts.
func (r *reader) skipMap(n uint64) {
	if !r.enter(n, maxMap) {
		return
	}
	var last []byte
	for i := uint64(0); i < n && r.err == nil; i++ {
		if r.pos < len(r.b) && r.b[r.pos]>>5 > majorText || r.pos < len(r.b) && r.b[r.pos]>>5 == majorBytes {
			r.fail("a key that is neither integer nor text")
		}
		k := r.raw()
		if i > 0 && bytes.Compare(last, k) >= 0 {
			r.fail("keys out of order")
		}
		last = k
		r.skip()
	}
	r.leave()
}

// simple checks an item of major type 7 and returns its value: nil, a bool or a
// float64, which is finite and of the shortest width.
func (r *reader) simple(info byte, n uint64) any {
	switch byte(majorOther<<5) | info {
	case byteNull:
		return nil
	case byteFalse:
		return false
	case byteTrue:
		return true
	case byteFloat16:
		if x := fromHalf(uint16(n)); !math.IsNaN(x) && !math.IsInf(x, 0) {
			return x
		}
		r.fail("not a finite number")
		return nil
	case byteFloat32:
		return r.finite(float64(math.Float32frombits(uint32(n))), info)
	case byteFloat64:
		return r.finite(math.Float64frombits(n), info)
	}
	r.fail("a simple value that has no meaning here")
	return nil
}

// finite checks a float of 32 or 64 bits.
func (r *reader) finite(x float64, info byte) any {
	_, half := toHalf(x)
	switch {
	case math.IsNaN(x) || math.IsInf(x, 0):
		r.fail("not a finite number")
	case half, byte(majorOther<<5)|info == byteFloat64 && float64(float32(x)) == x:
		r.fail("a longer form than needed")
	default:
		return x
	}
	return nil
}

// value reads any one item: nil, bool, int64, float64, string, []byte, []any or
// map[string]any.
func (r *reader) value() any {
	if r.err != nil || r.pos >= len(r.b) {
		r.fail("it ends early")
		return nil
	}
	switch r.b[r.pos] >> 5 {
	case majorUint, majorNint:
		return r.int()
	case majorBytes:
		return bytes.Clone(r.bytes())
	case majorText:
		return r.text()
	case majorArray:
		list := []any{}
		r.list(func() { list = append(list, r.value()) })
		return list
	case majorMap:
		return r.values()
	case majorTag:
		r.fail("a tag")
		return nil
	}
	_, info, n := r.head()
	if r.err != nil {
		return nil
	}
	return r.simple(info, n)
}

// values reads a map with text keys and any values.
func (r *reader) values() map[string]any {
	m := map[string]any{}
	r.dict(func(k string) { m[k] = r.value() })
	return m
}

// number reads an integer or a float.
func (r *reader) number() any {
	v := r.value()
	switch v.(type) {
	case int64, float64:
		return v
	}
	r.fail("a number expected")
	return nil
}

// fromHalf widens a half-precision float (IEEE 754 binary16).
func fromHalf(bits uint16) float64 {
	exponent, fraction := int(bits>>10&31), float64(bits&0x3ff)
	var x float64
	switch exponent {
	case 0:
		x = math.Ldexp(fraction, -24)
	case 31:
		if x = math.Inf(1); fraction != 0 {
			x = math.NaN()
		}
	default:
		x = math.Ldexp(1024+fraction, exponent-25)
	}
	if bits>>15 == 1 {
		return -x
	}
	return x
}

// toHalf narrows a finite x to half precision and reports whether nothing was
// lost.
func toHalf(x float64) (uint16, bool) {
	sign := uint16(math.Float64bits(x)>>48) & 0x8000
	if x == 0 {
		return sign, true
	}
	fraction, exponent := math.Frexp(math.Abs(x)) // 0.5 ≤ fraction < 1
	if exponent > 16 || exponent < -23 || math.IsNaN(x) || math.IsInf(x, 0) {
		return 0, false
	}
	var bits uint16
	if exponent >= -13 { // normal: 1.f × 2^(exponent−1)
		scaled := math.Ldexp(fraction, 11)
		bits = uint16(scaled) - 1024 + uint16(exponent+14)<<10
	} else {
		bits = uint16(math.Ldexp(fraction, exponent+24))
	}
	bits |= sign
	return bits, fromHalf(bits) == x
}
