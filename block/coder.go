package block

// least is the smallest width of the interval between two bits: below it the
// next byte of the stream is settled.
const least = 1 << 24

// coder is the binary arithmetic coder (docs/formats/block.md, section 3) in
// either direction, so that one description of the model drives both: bit is
// given the bit to write and returns it, or ignores what it is given and
// returns the bit that it read.
type coder struct {
	reading bool
	width   uint32 // of the interval
	low     uint32 // writing: its lower end, after what data holds
	offset  uint32 // reading: of the stream in the interval
	next    int    // reading: index in data of the byte to take next
	stray   bool   // reading: the stream is not in the interval, no encoder wrote it
	data    []byte
}

// write begins to append to data, whose bytes so far stay as they are.
func (c *coder) write(data []byte) { *c = coder{width: 1<<32 - 1, data: data} }

// read begins to read data. Past its end it reads zeros.
func (c *coder) read(data []byte) {
	*c = coder{reading: true, width: 1<<32 - 1, data: data}
	for range 4 {
		c.offset = c.offset<<8 | uint32(c.take())
	}
	c.stray = c.offset >= c.width
}

// bit codes a bit that is 0 with a likelihood of zero / 65536, which is
// neither 0 nor 1.
func (c *coder) bit(zero uint32, b bool) bool {
	bound := uint32(uint64(c.width) * uint64(zero) >> 16)
	if c.reading {
		b = c.offset >= bound
	}
	if b {
		c.width -= bound
		c.rise(bound)
	} else {
		c.width = bound
	}
	for c.width < least {
		c.settle()
	}
	return b
}

// bits codes the n low bits of v, at most 64, each as likely 0 as 1.
func (c *coder) bits(n int, v uint64) uint64 {
	var coded uint64
	for n > 0 {
		k := min(n, 8)
		n -= k
		c.width >>= k
		digit := uint32(v>>n) & (1<<k - 1)
		if c.reading {
			digit = c.offset / c.width
			c.stray = c.stray || digit>>k != 0
		}
		c.rise(digit * c.width)
		coded = coded<<k | uint64(digit)
		for c.width < least {
			c.settle()
		}
	}
	return coded
}

// rise moves the lower end of the interval up by n.
func (c *coder) rise(n uint32) {
	if c.reading {
		c.offset -= n
		return
	}
	c.low += n
	if c.low < n {
		c.carry()
	}
}

// settle moves on by the one byte that no later bit can change but by a carry.
func (c *coder) settle() {
	c.width <<= 8
	if c.reading {
		c.offset = c.offset<<8 | uint32(c.take())
		return
	}
	c.data = append(c.data, byte(c.low>>24))
	c.low <<= 8
}

// carry adds one to the number that the written bytes are. The stream is less
// than 1, so the carry ends within it.
func (c *coder) carry() {
	for i := len(c.data) - 1; ; i-- {
		c.data[i]++
		if c.data[i] != 0 {
			return
		}
	}
}

func (c *coder) take() byte {
	c.next++
	if c.next > len(c.data) {
		return 0
	}
	return c.data[c.next-1]
}

// finish ends what write began, with the number of the interval that has the
// most zero bits at its end, and returns data without the zero bytes at the
// end, but for the first keep bytes.
func (c *coder) finish(keep int) []byte {
	low, last := uint64(c.low), uint64(c.low)+uint64(c.width)-1
	number := last
	for k := 32; k > 0; k-- {
		if n := last >> k << k; n >= low {
			number = n
			break
		}
	}
	if number>>32 == 1 {
		c.carry()
	}
	data := append(c.data, byte(number>>24), byte(number>>16), byte(number>>8), byte(number))
	for len(data) > keep && data[len(data)-1] == 0 {
		data = data[:len(data)-1]
	}
	return data
}

// drained reports whether all of the data was read that finish left.
func (c *coder) drained() bool { return c.next >= len(c.data) }
