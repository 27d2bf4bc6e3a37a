package block

// Places of the shared chances. A chance is how likely a bit is 0; each place
// stands for one question that the bit answers.
const (
	atRest  = 0                      // [size][side]: is the value as predicted?
	atMore  = atRest + 2*sizes       // [size][distance]: is the residual longer than this?
	atSign  = atMore + sizes*lengths // [side]: is it below the prediction?
	atHalf  = atSign + 3             // [length]: its second highest bit
	atUnit  = atHalf + halves        // does the step break the unit?
	atGaps  = atUnit + 1             // are other values missing than in the sample before?
	atGap   = atGaps + 1             // [missing before]: is this one missing?
	atFirst = atGap + 2              // of the first value of a column, see first
	places  = atFirst + 6

	sizes   = 12 // the two last stand for all larger ones too, even and odd
	lengths = 8
	halves  = 8

	ownPlaces = 16 // of the chances of one column
	memory    = 16 // how many bits a chance of a column remembers, about
)

// startChances are the shared chances before the first bit, in 1/256, in the
// order of their places: what is common to inverters, measured and simulated.
// This table is a part of the format.
var startChances = [places]uint8{
	// rest, by size: not leaning, leaning
	235, 158, 191, 141, 177, 108, 156, 79, 117, 40, 81, 24,
	26, 18, 58, 13, 22, 10, 112, 7, 34, 2, 5, 2,
	// more, a row for each size
	127, 127, 127, 127, 239, 99, 82, 94,
	127, 127, 127, 127, 233, 191, 134, 139,
	127, 127, 127, 193, 182, 135, 145, 137,
	127, 127, 127, 140, 148, 144, 155, 142,
	127, 127, 80, 99, 148, 195, 135, 154,
	127, 127, 48, 77, 143, 210, 172, 162,
	127, 37, 69, 134, 206, 185, 166, 157,
	127, 35, 59, 118, 186, 181, 162, 145,
	29, 52, 102, 156, 160, 161, 146, 137,
	35, 29, 48, 92, 107, 128, 143, 130,
	8, 28, 53, 85, 115, 113, 101, 93,
	5, 19, 36, 66, 99, 110, 91, 92,
	// sign
	127, 108, 151,
	// half
	151, 147, 176, 182, 154, 171, 177, 147,
	// unit, gaps, gap
	246, 255, 127, 127,
	// first
	32, 255, 232, 252, 255, 128,
}

// chance is how likely a bit is 0, learned from the bits before it.
type chance struct {
	zero uint16 // likelihood in 1/65536
	seen uint16 // bits, up to memory
}

func (c *chance) learn(b bool) {
	part := c.zero
	if !b {
		part = -c.zero // 65536 - zero
	}
	if c.seen == memory-1 {
		part /= memory // most often, and a shift
	} else {
		c.seen++
		part /= c.seen + 1
	}
	if b {
		c.zero -= part
	} else {
		c.zero += part
	}
}

// learnSlowly is learn for a shared chance, which began with experience.
func learnSlowly(zero *uint16, b bool) {
	if b {
		*zero -= *zero >> 6
	} else {
		*zero += -*zero >> 6 // 65536 - zero
	}
}

func (m *model) startChances(columns int) {
	for i, c := range startChances {
		m.shared[i] = uint16(c)<<8 | 1<<7
	}
	for i := range min(columns, len(m.own)) {
		for k := range m.own[i] {
			m.own[i][k] = chance{zero: 1 << 15}
		}
	}
}

// flag codes the answer to the question at a place.
func (m *model) flag(place int, b bool) bool {
	shared := &m.shared[place]
	b = m.bit(uint32(*shared), b)
	learnSlowly(shared, b)
	return b
}

// ask codes the answer to the question at a place, which column i asks so
// often that it has its own experience of it, at its place k.
func (m *model) ask(place, i, k int, b bool) bool {
	if i > tracked {
		return m.flag(place, b)
	}
	shared, own := &m.shared[place], &m.own[i][k]
	b = m.bit((uint32(*shared)+uint32(own.zero))>>1, b)
	learnSlowly(shared, b)
	own.learn(b)
	return b
}
