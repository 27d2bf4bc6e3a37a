package block

import (
	"errors"
	"fmt"

	"ecowatt"
)

// Encoder makes a block, sample by sample. Besides the block itself it needs
// less than 8 KiB, its own size. It is not safe for concurrent use.
type Encoder struct {
	points int
	model  model
}

// ErrFull says that a block has MaxSamples already.
var ErrFull = errors.New("the block is full")

// NewEncoder returns an encoder for samples with that many values each.
func NewEncoder(points int) (*Encoder, error) {
	if points < 1 || points > MaxPoints {
		return nil, fmt.Errorf("a block of %d points: 1 to %d are possible", points, MaxPoints)
	}
	e := &Encoder{points: points}
	e.begin()
	return e, nil
}

func (e *Encoder) begin() {
	e.model.start(e.points)
	e.model.write(make([]byte, headSize, 256))
}

// Append adds a sample to the block. values has one value per point; it is
// only read. An error (ErrFull, or another number of values) changes nothing.
func (e *Encoder) Append(at int64, values []ecowatt.Value) error {
	if len(values) != e.points {
		return fmt.Errorf("%d values for %d points", len(values), e.points)
	}
	if e.model.samples == MaxSamples {
		return ErrFull
	}
	e.model.sample(at, values)
	return nil
}

// Size is how many bytes Finish would return at most, now.
func (e *Encoder) Size() int { return len(e.model.data) + 4 + sumSize }

// Finish returns the block of all samples since the one before, and makes the
// encoder ready for the next block.
func (e *Encoder) Finish() []byte {
	samples := e.model.samples
	body := e.model.finish(headSize)
	data := seal(body, kindCoded, e.points, samples)
	if len(body)-headSize > samples*(e.points+1) { // more than a byte for a value: noise, perhaps
		if stored := store(&e.model, data, e.points); len(stored) < len(data) {
			data = stored
		}
	}
	e.begin()
	return data
}
