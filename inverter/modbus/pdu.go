package modbus

import (
	"encoding/binary"
	"fmt"
)

// A protocol data unit is a function and its data; all numbers are high byte
// first (V1.1b3, sections 4.2, 6.3, 6.4, 6.6 and 6.12):
//
//	03, 04  request   function ‖ address (2) ‖ count (2)
//	        answer    function ‖ bytes (1) ‖ words (2 each)
//	06      request   function ‖ address (2) ‖ word (2)
//	        answer    the same
//	10      request   function ‖ address (2) ‖ count (2) ‖ bytes (1) ‖ words (2 each)
//	        answer    function ‖ address (2) ‖ count (2)
//	any     exception function + 80 ‖ code (1)

// failed marks the function of an exception.
const failed = 0x80

// appendRequest appends the unit of r, which must have passed Check.
func appendRequest(b []byte, r Request) []byte {
	b = append(b, byte(r.Function))
	b = binary.BigEndian.AppendUint16(b, r.Address)
	switch r.Function {
	case ReadHolding, ReadInput:
		return binary.BigEndian.AppendUint16(b, r.Count)
	case WriteMultiple:
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.Values)))
		b = append(b, byte(2*len(r.Values)))
	case WriteSingle:
	}
	return appendWords(b, r.Values)
}

// parseRequest reads what appendRequest writes. What it refuses, it refuses as
// the diagrams of V1.1b3, section 6, do; pdu is not empty.
func parseRequest(unit byte, pdu []byte) (Request, error) {
	r := Request{Unit: unit, Function: Function(pdu[0])}
	switch r.Function {
	case ReadHolding, ReadInput, WriteSingle, WriteMultiple:
	default:
		return r, ErrIllegalFunction
	}
	if len(pdu) < 5 {
		return r, ErrIllegalValue
	}
	r.Address = binary.BigEndian.Uint16(pdu[1:])
	data := pdu[3:]
	switch r.Function {
	case ReadHolding, ReadInput:
		r.Count = binary.BigEndian.Uint16(data)
		if len(data) != 2 {
			return r, ErrIllegalValue
		}
	case WriteSingle:
		if len(data) != 2 {
			return r, ErrIllegalValue
		}
		r.Values = words(data)
	case WriteMultiple:
		n := int(binary.BigEndian.Uint16(data))
		if n > MaxWrite || len(data) != 3+2*n || int(data[2]) != 2*n {
			return r, ErrIllegalValue
		}
		r.Values = words(data[3:])
	}
	switch {
	case r.Quantity() < 1 || r.Quantity() > MaxRead:
		return r, ErrIllegalValue
	case int(r.Address)+r.Quantity() > 1<<16:
		return r, ErrIllegalAddress
	}
	return r, nil
}

// appendAnswer appends the unit that answers r; got is what was read.
func appendAnswer(b []byte, r Request, got []uint16) []byte {
	switch r.Function {
	case ReadHolding, ReadInput:
		b = append(b, byte(r.Function), byte(2*len(got)))
		return appendWords(b, got)
	case WriteMultiple:
		b = append(b, byte(r.Function))
		b = binary.BigEndian.AppendUint16(b, r.Address)
		return binary.BigEndian.AppendUint16(b, uint16(len(r.Values)))
	case WriteSingle:
	}
	return appendRequest(b, r)
}

// appendException appends the unit that says no to the function.
func appendException(b []byte, function Function, e ExceptionError) []byte {
	return append(b, byte(function)|failed, byte(e))
}

// parseAnswer reads the answer to r: the words read, or an ExceptionError. What
// cannot be an answer to r is ErrAnswer.
func parseAnswer(r Request, pdu []byte) ([]uint16, error) {
	switch {
	case len(pdu) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrAnswer)
	case pdu[0] == byte(r.Function)|failed:
		if len(pdu) != 2 {
			return nil, fmt.Errorf("%w: an exception of %d bytes", ErrAnswer, len(pdu))
		}
		return nil, ExceptionError(pdu[1])
	case pdu[0] != byte(r.Function):
		return nil, fmt.Errorf("%w: it is of function %02x", ErrAnswer, pdu[0])
	}
	switch r.Function {
	case ReadHolding, ReadInput:
		if len(pdu) != 2+2*int(r.Count) || int(pdu[1]) != 2*int(r.Count) {
			return nil, fmt.Errorf("%w: %d bytes do not hold %d registers", ErrAnswer, len(pdu), r.Count)
		}
		return words(pdu[2:]), nil
	case WriteSingle, WriteMultiple:
	}
	// What was written is repeated by the answer, without the words in function 10.
	if want := appendAnswer(nil, r, nil); string(pdu) != string(want) {
		return nil, fmt.Errorf("%w: it confirms something else", ErrAnswer)
	}
	return nil, nil
}

func appendWords(b []byte, ws []uint16) []byte {
	for _, w := range ws {
		b = binary.BigEndian.AppendUint16(b, w)
	}
	return b
}

func words(b []byte) []uint16 {
	ws := make([]uint16, len(b)/2)
	for i := range ws {
		ws[i] = binary.BigEndian.Uint16(b[2*i:])
	}
	return ws
}
