package modbus

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
)

// The MBAP header, which carries a protocol data unit over TCP (MBAP, section
// 3.1.3); length counts the bytes after itself:
//
//	transaction (2) ‖ protocol (2) = 0 ‖ length (2) = 2 … 254 ‖ unit (1)
const (
	headerSize = 7
	maxFrame   = headerSize + maxPDU
)

// errFrame says that what came is no frame. Where the next one begins is not
// known then, so that the connection is of no more use.
var errFrame = errors.New("no Modbus TCP frame")

// frame is one message, however it is carried.
type frame struct {
	transaction uint16 // of Modbus TCP only
	unit        byte
	pdu         []byte
}

// frameBuffer holds one frame.
type frameBuffer [maxFrame]byte

// header starts a frame in the buffer; the protocol data unit is to be
// appended, and then the frame to be closed by seal.
func (b *frameBuffer) header(transaction uint16, unit byte) []byte {
	binary.BigEndian.PutUint16(b[0:], transaction)
	binary.BigEndian.PutUint16(b[2:], 0)
	b[6] = unit
	return b[:headerSize]
}

// seal puts the length of a frame that began with header into it.
func seal(frame []byte) []byte {
	binary.BigEndian.PutUint16(frame[4:], uint16(len(frame)-headerSize+1))
	return frame
}

// read reads one frame into the buffer. The pdu of the frame, which is not
// empty, is good until the next use of the buffer. The error is io.EOF only
// when nothing came at all.
func (b *frameBuffer) read(r io.Reader) (frame, error) {
	header := b[:headerSize]
	if _, err := io.ReadFull(r, header); err != nil {
		return frame{}, err
	}
	protocol, length := binary.BigEndian.Uint16(header[2:]), int(binary.BigEndian.Uint16(header[4:]))
	if protocol != 0 || length < 2 || length > maxPDU+1 {
		return frame{}, fmt.Errorf("%w: protocol %d, length %d", errFrame, protocol, length)
	}
	pdu := b[headerSize : headerSize+length-1]
	if _, err := io.ReadFull(r, pdu); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	return frame{transaction: binary.BigEndian.Uint16(header), unit: header[6], pdu: pdu}, nil
}

// mbap is the framing of a client's connection. It counts its transactions on
// from one connection to the next: gateways have been seen to pass on answers of
// former connections.
type mbap struct {
	transaction uint16
	incoming    *bufio.Reader
	out, in     frameBuffer
}

func newMBAP() *mbap {
	return &mbap{transaction: uint16(rand.Uint32()), incoming: bufio.NewReaderSize(nil, maxFrame)}
}

func (m *mbap) connected() {}

// prepare drops what has come. If that ended within a frame, the rest of it
// will be no frame, which ends the connection then.
func (m *mbap) prepare(_ context.Context, c conn) error {
	m.incoming.Reset(c)
	_, err := c.discard()
	return err
}

func (m *mbap) exchange(_ context.Context, c conn, r Request) ([]uint16, error) {
	m.transaction++
	if err := send(c, seal(appendRequest(m.out.header(m.transaction, r.Unit), r))); err != nil {
		return nil, err
	}
	return m.await(r)
}

// await reads until the answer to r comes. Answers to other transactions are
// late ones to requests that were given up, by us or by another client of the
// gateway: they are passed over.
func (m *mbap) await(r Request) ([]uint16, error) {
	for passed := 0; ; passed++ {
		f, err := m.in.read(m.incoming)
		switch {
		case errors.Is(err, errFrame):
			return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
		case err != nil && passed > 0:
			return nil, fmt.Errorf("%w: %d of other transactions: %w", ErrAnswer, passed, err)
		case err != nil:
			return nil, err
		case f.transaction != m.transaction:
			continue
		case f.unit != r.Unit:
			return nil, fmt.Errorf("%w: it is of unit %d", ErrAnswer, f.unit)
		}
		return parseAnswer(r, f.pdu)
	}
}
