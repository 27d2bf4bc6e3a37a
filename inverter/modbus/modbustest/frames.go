// Package modbustest holds the tests that every transport of package modbus
// must pass, as a client and as a server. It makes its frames by itself, so that
// the code under test is not its own measure.
package modbustest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Framing says how frames stand on the connections of a transport.
type Framing byte

// The framings.
const (
	MBAP Framing = iota // Modbus TCP
	RTU                 // a stream of RTU frames
	HTTP                // one RTU frame each way, each request on a connection of its own
)

// message is a frame taken apart.
type message struct {
	transaction uint16 // of MBAP
	unit        byte
	pdu         []byte
}

// build makes a frame.
func (f Framing) build(m message) []byte {
	if f == MBAP {
		b := binary.BigEndian.AppendUint16(nil, m.transaction)
		b = append(b, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(1+len(m.pdu)))
		return append(append(b, m.unit), m.pdu...)
	}
	b := append([]byte{m.unit}, m.pdu...)
	return binary.LittleEndian.AppendUint16(b, checksum(b))
}

// checksum is the CRC of RTU frames by polynomial division, most significant
// bit first, on reflected bytes.
func checksum(b []byte) uint16 {
	var r uint32 = 0xffff
	for _, x := range b {
		r ^= uint32(reverse(uint16(x), 8)) << 8
		for range 8 {
			if r <<= 1; r&0x10000 != 0 {
				r ^= 0x18005
			}
		}
	}
	return reverse(uint16(r), 16)
}

func reverse(x uint16, bits int) (y uint16) {
	for range bits {
		y, x = y<<1|x&1, x>>1
	}
	return y
}

var errBadFrame = errors.New("what came is no good frame")

// request reads a request from r.
func (f Framing) request(r io.Reader) (message, error) {
	if f == MBAP {
		return readMBAP(r)
	}
	return readRTU(r, func(head []byte) int {
		if head[1] == 0x10 {
			return 9 + int(head[6])
		}
		return 8
	}, 7)
}

// answer reads an answer from r.
func (f Framing) answer(r io.Reader) (message, error) {
	if f == MBAP {
		return readMBAP(r)
	}
	return readRTU(r, func(head []byte) int {
		switch {
		case head[1]&0x80 != 0:
			return 5
		case head[1] <= 4:
			return 5 + int(head[2])
		}
		return 8
	}, 3)
}

func readMBAP(r io.Reader) (message, error) {
	head := make([]byte, 7)
	if _, err := io.ReadFull(r, head); err != nil {
		return message{}, err
	}
	n := int(binary.BigEndian.Uint16(head[4:]))
	if head[2] != 0 || head[3] != 0 || n < 2 || n > 254 {
		return message{}, fmt.Errorf("%w: header % x", errBadFrame, head)
	}
	pdu := make([]byte, n-1)
	_, err := io.ReadFull(r, pdu)
	return message{transaction: binary.BigEndian.Uint16(head), unit: head[6], pdu: pdu}, err
}

// readRTU reads a frame whose size follows from its first bytes.
func readRTU(r io.Reader, size func(head []byte) int, enough int) (message, error) {
	b := make([]byte, enough)
	if _, err := io.ReadFull(r, b); err != nil {
		return message{}, err
	}
	b = append(b, make([]byte, size(b)-enough)...)
	if _, err := io.ReadFull(r, b[enough:]); err != nil {
		return message{}, err
	}
	n := len(b) - 2
	if binary.LittleEndian.Uint16(b[n:]) != checksum(b[:n]) {
		return message{}, fmt.Errorf("%w: % x", errBadFrame, b)
	}
	return message{unit: b[0], pdu: b[1:n]}, nil
}

// word is what register a of every unit holds, until something is written.
func word(function byte, a uint16) uint16 { return a*7 + 3 + uint16(function)<<12 }

// truth is the right answer to a request.
func truth(request []byte) []byte {
	if function := request[0]; function <= 4 {
		address, count := binary.BigEndian.Uint16(request[1:]), binary.BigEndian.Uint16(request[3:])
		pdu := []byte{function, byte(2 * count)}
		for i := range count {
			pdu = binary.BigEndian.AppendUint16(pdu, word(function, address+i))
		}
		return pdu
	}
	return request[:5]
}
