package block

import (
	"math/bits"

	"ecowatt"
)

const (
	tracked = 16      // the first points predict one another and have chances of their own
	narrow  = 1 << 31 // values from here on predict no others, steps have no unit

	unitAfter = 4 // steps after which their unit is used
)

// model knows the samples so far and codes the next one, in either direction
// (docs/formats/block.md, section 4). It is made of arrays alone.
type model struct {
	coder
	samples int
	time    int64  // of the last sample
	gaps    uint64 // bit i: point i is missing in the last sample
	columns [1 + MaxPoints]column
	shared  [places]uint16
	own     [1 + tracked][ownPlaces]chance
	scores  [tracked * (tracked - 1) / 2]scores // of the pairs of tracked points
}

// column is what the model knows of one column. Column 0 holds the time from
// the sample before, column i point i-1.
type column struct {
	last  int64  // value
	step  int64  // from the value before to the last
	level int64  // what the values are about, × 256; 0 for none
	up    uint32 // last / level, × 65536, for the others to follow in this sample
	down  uint32 // level / last, × 65536
	unit  uint32 // what all steps are multiples of; 0 before the first
	stay  uint32 // score of predicting the last value
	drift uint32 // score of predicting the last step, or in column 0 the level
	size  uint16 // average size of the residual
	steps uint8  // that were not 0, up to unitAfter
	known bool   // there was a value
}

// start makes m new, for samples of so many points.
func (m *model) start(points int) {
	m.samples, m.time, m.gaps = 0, 0, 0
	m.startChances(1 + points)
	for i := range 1 + points {
		m.columns[i] = column{up: unity, down: unity}
	}
	clear(m.scores[:])
}

// sample codes a sample. Reading, it fills values and returns the time.
func (m *model) sample(at int64, values []ecowatt.Value) int64 {
	if m.samples == 1 {
		m.columns[0] = column{} // the time of the first sample was not a step
	}
	m.time += m.value(0, at-m.time)
	m.missing(values)
	for i := range values {
		c := &m.columns[1+i]
		var v ecowatt.Value
		if m.gaps>>i&1 == 1 {
			c.up, c.down = unity, unity
		} else {
			v = ecowatt.Known(m.value(1+i, values[i].Raw))
		}
		if m.reading {
			values[i] = v
		}
	}
	m.samples++
	return m.time
}

// missing codes which values are missing, into m.gaps.
func (m *model) missing(values []ecowatt.Value) {
	var gaps uint64
	for i, v := range values {
		if !v.Valid {
			gaps |= 1 << i
		}
	}
	if !m.flag(atGaps, gaps != m.gaps) {
		return
	}
	before := m.gaps
	m.gaps = 0
	for i := range values {
		if m.flag(atGap+int(before>>i&1), gaps>>i&1 == 1) {
			m.gaps |= 1 << i
		}
	}
}

// value codes v, the value of column i.
func (m *model) value(i int, v int64) int64 {
	c := &m.columns[i]
	if !c.known {
		v = m.first(v, i == 0)
		c.begin(v, i == 0)
		return v
	}
	var p prediction
	m.predict(i, &p)
	step := v - c.last
	unit := int64(1)
	if c.steps == unitAfter && c.unit > 1 {
		unit = int64(c.unit)
		if m.flag(atUnit, step%unit != 0) {
			unit, p.step = 1, 0
		}
	}
	fine := p.step
	if unit > 1 {
		fine = floor(fine, unit)
	}
	whole := (fine + 8) >> 4
	residual := m.residual(i, int(fine-whole<<4), step/unit-whole)
	c.size = uint16(int(c.size) + (sizeOf(residual)<<8-int(c.size))>>2)
	m.learn(i, &p, (residual+whole)*unit)
	return c.last
}

// begin takes the first value of a column.
func (c *column) begin(v int64, time bool) {
	c.known, c.last = true, v
	c.size = uint16(max(sizeOf(v)/2-4, 0)) << 8
	switch {
	case v <= 0 || v >= narrow:
	case time:
		c.level, c.unit, c.steps = v<<8, uint32(v), 1
	default:
		c.level = v << 8
	}
}

// first codes the first value of a column. That of the times is often 0, where
// they count from the first one.
func (m *model) first(v int64, time bool) int64 {
	if !m.flag(atFirst+5*one(time), v != 0) {
		return 0
	}
	negative := m.flag(atFirst+1, v < 0)
	u := magnitude(v)
	length := bits.Len64(u) - 1
	half := one(m.flag(atFirst+2, length>>5 == 1))
	quarter := one(m.flag(atFirst+3+half, length>>4&1 == 1))
	length = half<<5 | quarter<<4 | int(m.bits(4, uint64(length)))
	return signed(1<<length|m.bits(length, u), negative)
}

// residual codes r, what prediction left over in column i. part is what
// rounding took from the prediction: -8 to 7 sixteenths.
func (m *model) residual(i, part int, r int64) int64 {
	size := (int(m.columns[i].size) + 128) >> 8
	row := min(size, sizes-2+size&1)
	side, leaning := 0, 0
	if part < -3 {
		side, leaning = 1, 1
	} else if part > 3 {
		side, leaning = 2, 1
	}
	if !m.ask(atRest+2*row+leaning, i, 0, r != 0) {
		return 0
	}
	negative := m.flag(atSign+side, r < 0)
	u := magnitude(r)
	target, length := bits.Len64(u)-1, 0
	for length < 63 {
		distance := min(max(length-size/2+lengths/2, 0), lengths-1)
		if !m.ask(atMore+lengths*row+distance, i, min(1+length, ownPlaces-1), target > length) {
			break
		}
		length++
	}
	if length == 0 {
		return signed(1, negative)
	}
	second := one(m.flag(atHalf+min(length, halves)-1, u>>(length-1)&1 == 1))
	return signed(uint64(2+second)<<(length-1)|m.bits(length-1, u), negative)
}

func one(b bool) int {
	if b {
		return 1
	}
	return 0
}

func signed(u uint64, negative bool) int64 {
	if negative {
		return -int64(u)
	}
	return int64(u)
}

func magnitude(x int64) uint64 {
	if x < 0 {
		return -uint64(x)
	}
	return uint64(x)
}

// sizeOf says how large x is, in half octaves: 0 for 0, 2 for 1, 4 for 2, 5
// for 3, 6 for 4 and 5, 7 for 6 and 7, and so on.
func sizeOf(x int64) int {
	u := magnitude(x)
	n := bits.Len64(u)
	if n < 2 {
		return 2 * n
	}
	return 2*n + int(u>>(n-2)&1)
}

// floor is a / b, rounded down; b > 0.
func floor(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}
