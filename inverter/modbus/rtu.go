package modbus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// An RTU frame carries a protocol data unit over a serial line, or over
// anything that carries its bytes (Modbus over Serial Line V1.02, sections
// 2.5.1.1 and 6.2.2). It has no length: that follows from the function. It has
// nothing either that ties an answer to its request:
//
//	unit (1) ‖ protocol data unit (1 … 253) ‖ CRC (2, low byte first)
const (
	rtuOverhead = 3
	maxRTUFrame = maxPDU + rtuOverhead
	minRTUFrame = 1 + rtuOverhead
)

// errNoFrame says that no RTU frame begins where one should.
var errNoFrame = errors.New("no RTU frame")

// crc is the check of an RTU frame: CRC-16 with the polynomial A001 (reflected
// 8005) and the first value FFFF.
func crc(b []byte) uint16 {
	c := uint16(0xffff)
	for _, x := range b {
		c ^= uint16(x)
		for range 8 {
			low := c & 1
			c >>= 1
			if low != 0 {
				c ^= 0xa001
			}
		}
	}
	return c
}

// appendRTURequest appends the frame that carries r, which must have passed Check.
func appendRTURequest(b []byte, r Request) []byte {
	begin := len(b)
	return closeRTU(appendRequest(append(b, r.Unit), r), begin)
}

// closeRTU ends a frame of which unit and protocol data unit stand in
// b[begin:].
func closeRTU(b []byte, begin int) []byte {
	return binary.LittleEndian.AppendUint16(b, crc(b[begin:]))
}

// intact reports whether b is one RTU frame with a good CRC.
func intact(b []byte) bool {
	n := len(b) - 2
	return len(b) >= minRTUFrame && len(b) <= maxRTUFrame && binary.LittleEndian.Uint16(b[n:]) == crc(b[:n])
}

// rtuRequestSize is the length of the request frame that begins with b; 0 when
// more must come until that is known. The lengths of functions that are not
// spoken here are not known.
func rtuRequestSize(b []byte) (int, error) {
	if len(b) < 2 {
		return 0, nil
	}
	switch Function(b[1]) {
	case ReadHolding, ReadInput, WriteSingle:
		return 5 + rtuOverhead, nil
	case WriteMultiple:
		if len(b) < 7 {
			return 0, nil
		}
		if n := 6 + int(b[6]) + rtuOverhead; n <= maxRTUFrame {
			return n, nil
		}
		return 0, fmt.Errorf("%w: %d bytes of words", errNoFrame, b[6])
	}
	return 0, fmt.Errorf("%w: the length of function %02x is not known", errNoFrame, b[1])
}

// rtuAnswerSize is the same for answers.
func rtuAnswerSize(b []byte) (int, error) {
	if len(b) < 2 {
		return 0, nil
	}
	switch f := Function(b[1]); f {
	case ReadHolding, ReadInput:
		if len(b) < 3 {
			return 0, nil
		}
		if n := 2 + int(b[2]) + rtuOverhead; b[2]%2 == 0 && n <= maxRTUFrame {
			return n, nil
		}
		return 0, fmt.Errorf("%w: %d bytes of words", errNoFrame, b[2])
	case WriteSingle, WriteMultiple:
		return 5 + rtuOverhead, nil
	default:
		if f&failed != 0 {
			return 2 + rtuOverhead, nil
		}
	}
	return 0, fmt.Errorf("%w: the length of function %02x is not known", errNoFrame, b[1])
}

// splitRTU finds the frame at the beginning of b; size is the function that
// knows its length. A length of 0 says that more must come. The pdu of the frame
// is a part of b.
func splitRTU(b []byte, size func([]byte) (int, error)) (f frame, n int, err error) {
	n, err = size(b)
	switch {
	case err != nil || n == 0 || n > len(b):
		return frame{}, 0, err
	case !intact(b[:n]):
		return frame{}, 0, fmt.Errorf("%w: its CRC is wrong", errNoFrame)
	}
	return frame{unit: b[0], pdu: b[1 : n-2]}, n, nil
}

// answerAt returns the protocol data unit with which the frame at the beginning
// of b answers r, refusals included; nil when there is none.
func answerAt(b []byte, r Request) []byte {
	f, n, err := splitRTU(b, rtuAnswerSize)
	if err != nil || n == 0 || f.unit != r.Unit || !answers(f.pdu, r) {
		return nil
	}
	return f.pdu
}

// answers reports whether pdu can be the answer to r, refusals included.
func answers(pdu []byte, r Request) bool {
	_, err := parseAnswer(r, pdu)
	return !errors.Is(err, ErrAnswer)
}

// findAnswer looks for the answer to r in b, which is what came since r was
// sent; end is where it ends. What stands before is passed over: noise, the
// request itself where the line echoes it, and late answers of other form.
func findAnswer(b []byte, r Request) (pdu []byte, end int) {
	for i := range b {
		if b[i] != r.Unit {
			continue
		}
		if pdu := answerAt(b[i:], r); pdu != nil {
			return pdu, i + len(pdu) + rtuOverhead
		}
	}
	return nil, 0
}

// soleAnswer is findAnswer when no more will come. Two answers that differ are
// none: one of them is late, and there is no telling which.
func soleAnswer(b []byte, r Request) ([]byte, error) {
	pdu, end := findAnswer(b, r)
	if pdu == nil {
		return nil, misfit(b, r)
	}
	for rest := b[end:]; ; rest = rest[end:] {
		var other []byte
		if other, end = findAnswer(rest, r); other == nil {
			return pdu, nil
		}
		if !bytes.Equal(other, pdu) {
			return nil, fmt.Errorf("%w: there are two that differ", ErrAnswer)
		}
	}
}

// misfit says why no answer to r is in b, as far as the first bytes tell.
func misfit(b []byte, r Request) error {
	f, n, err := splitRTU(b, rtuAnswerSize)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	case n == 0:
		return fmt.Errorf("%w: it is cut short after %d bytes", ErrAnswer, len(b))
	case f.unit != r.Unit:
		return fmt.Errorf("%w: it is of unit %d", ErrAnswer, f.unit)
	}
	if _, err := parseAnswer(r, f.pdu); errors.Is(err, ErrAnswer) {
		return err
	}
	return fmt.Errorf("%w: more follows it", ErrAnswer)
}
