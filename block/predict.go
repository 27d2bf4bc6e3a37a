package block

import "math/bits"

const (
	unity    = 1 << 16 // the ratio 1
	maxRatio = 1 << 20 // the ratio 16
	farthest = 1 << 26 // the longest step predicted, and the worst error counted, in sixteenths
)

// scores say how well point j of a pair would have predicted point i: averages
// of the errors, in 1/256; the less the better.
type scores struct {
	with  uint32 // i moves as j does
	times uint32 // i moves as its guide does, times as j does
	over  uint32 // i moves as its guide does, over as j does
}

// prediction is what was guessed of a value, for comparing it with what came.
// Everything is in sixteenths; with, times and over are for the value itself.
type prediction struct {
	step  int64 // to the value
	drift int64 // the step, by the column's own last step, or in column 0 its level
	asked bool  // the other points were asked
	guide int   // the column that predicts best alone; 0 for none
	with  [1 + tracked]int64
	times [1 + tracked]int64
	over  [1 + tracked]int64
}

// predict guesses the next value of column i, into an empty p.
func (m *model) predict(i int, p *prediction) {
	c := &m.columns[i]
	if i == 0 {
		if c.level > 0 {
			p.drift = clamp(c.level>>4-clamp(c.last, narrow)<<4, farthest)
		}
		if c.drift <= c.stay {
			p.step = p.drift
		}
		return
	}
	p.drift = clamp(c.step, farthest>>4) << 4
	score := c.stay
	if i <= tracked && c.level > 0 {
		score = m.consult(i, p)
	}
	if c.drift < score {
		p.step, score = p.drift, c.drift
	}
	p.step = confide(p.step, c.stay, score)
}

// consult guesses by the other points of this sample, and returns the score of
// the guess. A ratio of two points is steadier than either: currents follow
// power, power follows current times voltage.
func (m *model) consult(i int, p *prediction) uint32 {
	c := &m.columns[i]
	known := m.scores[(i-1)*(i-2)/2:][:i-1]
	p.asked = true
	score := c.stay
	for k := range known {
		p.with[1+k] = c.level * int64(m.columns[1+k].up) >> 20
		if known[k].with < score {
			p.guide, score = 1+k, known[k].with
		}
	}
	if p.guide == 0 {
		return score
	}
	guess := p.with[p.guide]
	best := guess
	for k := range known {
		j := 1 + k
		p.times[j] = guess * int64(m.columns[j].up) >> 16
		p.over[j] = guess * int64(m.columns[j].down) >> 16
		if j == p.guide {
			continue
		}
		if known[k].times < score {
			best, score = p.times[j], known[k].times
		}
		if known[k].over < score {
			best, score = p.over[j], known[k].over
		}
	}
	p.step = clamp(best-c.last<<4, farthest)
	return score
}

// confide shortens a step that was guessed with a score, the more the closer
// the score comes to that of not moving at all: independent guesses are best
// weighed by the inverse squares of their errors.
func confide(step int64, stay, score uint32) int64 {
	if step == 0 {
		return 0
	}
	cut := max(bits.Len32(stay)-15, 0)
	a, b := int64(stay>>cut)+1, int64(score>>cut)+1
	return step * (a * a) / (a*a + b*b)
}

// learn takes the step that column i made.
func (m *model) learn(i int, p *prediction, step int64) {
	c := &m.columns[i]
	near := clamp(step, farthest) << 4
	c.stay = follow(c.stay, near)
	c.drift = follow(c.drift, near-p.drift)
	if p.asked {
		value := c.last<<4 + near
		known := m.scores[(i-1)*(i-2)/2:][:i-1]
		for k := range known {
			s := &known[k]
			s.with = follow(s.with, value-p.with[1+k])
			if p.guide != 0 {
				s.times = follow(s.times, value-p.times[1+k])
				s.over = follow(s.over, value-p.over[1+k])
			}
		}
	}
	if step != 0 {
		c.learnUnit(step)
	}
	c.step = step
	c.last += step
	if i == 0 {
		c.learnRhythm()
	} else {
		c.learnLevel()
	}
}

// follow moves an average of errors a sixteenth of the way to the next one.
func follow(average uint32, err int64) uint32 {
	e := min(magnitude(err), farthest) << 4
	return uint32(int64(average) + (int64(e)-int64(average))>>4)
}

// learnUnit takes a step, not 0, into the greatest common divisor of them all.
func (c *column) learnUnit(step int64) {
	u := magnitude(step)
	if u >= narrow {
		u = 1
	}
	a, b := uint32(u), c.unit
	for b != 0 {
		a, b = b, a%b
	}
	c.unit = a
	if c.steps == unitAfter {
		return
	}
	c.steps++
	if c.steps == unitAfter && a > 1 { // from now on the residual counts units
		less := uint16(sizeOf(int64(a))-2) << 8
		c.size = max(c.size, less) - less
	}
}

// learnRhythm moves the level of column 0 a quarter of a unit towards the last
// time step: towards the middle one of all of them, which a pause hardly moves.
func (c *column) learnRhythm() {
	pace := int64(c.unit) << 6
	if c.steps < unitAfter {
		pace = 1 << 6
	}
	c.level += clamp(clamp(c.last, narrow)<<8-c.level, pace)
}

// learnLevel moves the level of a point half the way to its last value, after
// it has measured that by the level so far.
func (c *column) learnLevel() {
	c.up, c.down = unity, unity
	if c.last <= 0 || c.last >= narrow {
		c.level = 0
		return
	}
	value := c.last << 8
	if c.level == 0 {
		c.level = value
		return
	}
	c.up = uint32(min(value<<16/c.level, maxRatio))
	c.down = uint32(min(c.level<<16/value, maxRatio))
	c.level += (value - c.level) >> 1
}

func clamp(x, limit int64) int64 { return min(max(x, -limit), limit) }
