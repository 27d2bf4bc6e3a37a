package ingest

import (
	"ecowatt"
	"ecowatt/block"
)

// maxPacked is the most values of a packed block: a MiB of them. A few bytes can
// stand for many equal values, so their number is not bounded by that of the bytes.
const maxPacked = 1 << 16

// decodePacked reads the data of codec 1 (PROTOCOL section 6): a CBOR byte
// string with a block of package block, whose times are in ms since t0.
func decodePacked(data []byte, points, count int) ([]ecowatt.Sample, error) {
	if points > block.MaxPoints || points*count > maxPacked {
		return nil, invalid("data: %d values in %d columns; a packed block has at most %d of %d", points*count, points, maxPacked, block.MaxPoints)
	}
	r := plainReader{rest: data}
	if n := r.head(majorBytes); r.bad || n != uint64(len(r.rest)) {
		return nil, invalid("data: not a byte string")
	}
	samples, err := block.Decode(r.rest, block.Limits{Points: points, Samples: count})
	if err != nil {
		return nil, invalid("data: %v", err)
	}
	if len(samples) != count || len(samples[0].Values) != points {
		return nil, invalid("data: not %d samples of %d points", count, points)
	}
	return samples, nil
}
