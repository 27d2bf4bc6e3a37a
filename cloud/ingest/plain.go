package ingest

import (
	"math"

	"ecowatt"
)

// decodePlain reads the data of codec 0 (PROTOCOL section 6): a CBOR array
// whose first element is the array of the samples' times in ms since t0, and
// whose others are one array of values per point, null where a value could not
// be read. It accepts the deterministic encoding only (RFC 8949 section 4.2.1)
// and allocates no more than the announced counts ask for.
func decodePlain(data []byte, points, count int) ([]ecowatt.Sample, error) {
	r := plainReader{rest: data}
	if n := r.head(majorArray); r.bad || n != uint64(points)+1 {
		return nil, invalid("data: not an array of times and %d columns", points)
	}
	// Every value takes a byte at least: what is announced is there.
	if uint64(len(data)) < uint64(count)*uint64(points+1) {
		return nil, invalid("data: shorter than %d samples of %d columns", count, points)
	}
	samples := make([]ecowatt.Sample, count)
	values := make([]ecowatt.Value, count*points)
	if n := r.head(majorArray); r.bad || n != uint64(count) {
		return nil, invalid("data: not %d times", count)
	}
	for i := range samples {
		samples[i].At = r.integer().Raw
		samples[i].Values = values[i*points : (i+1)*points : (i+1)*points]
	}
	for p := range points {
		if n := r.head(majorArray); r.bad || n != uint64(count) {
			return nil, invalid("data: not %d values of point %d", count, p)
		}
		for i := range samples {
			samples[i].Values[p] = r.value()
		}
	}
	if r.bad || len(r.rest) != 0 {
		return nil, invalid("data: not canonical integers and nulls")
	}
	return samples, nil
}

// Initial bytes of CBOR (RFC 8949 section 3): the major type in the upper
// three bits, the argument or its length in the lower five.
const (
	majorUnsigned = 0
	majorNegative = 1
	majorBytes    = 2
	majorArray    = 4
	null          = 0xf6
)

// plainReader reads CBOR integers, nulls and array heads. Once bad it stays so
// and yields zeros.
type plainReader struct {
	rest []byte
	bad  bool
}

func (r *plainReader) fail() uint64 {
	r.bad, r.rest = true, nil
	return 0
}

// head reads the argument of an item of that major type.
func (r *plainReader) head(major byte) uint64 {
	if len(r.rest) == 0 || r.rest[0]>>5 != major {
		return r.fail()
	}
	low := r.rest[0] & 0x1f
	r.rest = r.rest[1:]
	if low < 24 {
		return uint64(low)
	}
	if low > 27 {
		return r.fail()
	}
	size := 1 << (low - 24)
	if len(r.rest) < size {
		return r.fail()
	}
	var v uint64
	for _, b := range r.rest[:size] {
		v = v<<8 | uint64(b)
	}
	r.rest = r.rest[size:]
	smallest := uint64(24)
	if size > 1 {
		smallest = 1 << (4 * size)
	}
	if v < smallest {
		return r.fail()
	}
	return v
}

// integer reads a signed integer of 64 bits.
func (r *plainReader) integer() ecowatt.Value {
	if len(r.rest) == 0 {
		r.fail()
		return ecowatt.Value{}
	}
	major := r.rest[0] >> 5
	if major != majorNegative {
		major = majorUnsigned
	}
	v := r.head(major)
	if v > math.MaxInt64 {
		r.fail()
		return ecowatt.Value{}
	}
	if major == majorNegative {
		return ecowatt.Known(-1 - int64(v))
	}
	return ecowatt.Known(int64(v))
}

// value reads an integer, or a null as a missing value.
func (r *plainReader) value() ecowatt.Value {
	if len(r.rest) > 0 && r.rest[0] == null {
		r.rest = r.rest[1:]
		return ecowatt.Value{}
	}
	return r.integer()
}
