package modbustest

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ecowatt/inverter/modbus"
)

// Silence is the time of ServerOptions.Silence that servers under test have.
const Silence = 50 * time.Millisecond

// Has says which units the servers under test have: it is their option Has.
func Has(unit byte) bool { return unit == 17 || unit == 98 || unit == 99 }

// ServerTransport is a kind of server to be tested; its framing is MBAP or RTU.
type ServerTransport struct {
	Framing Framing

	// Dial returns a connection to a server that answers by h. t.Cleanup is to
	// end everything.
	Dial func(t *testing.T, h modbus.Handler) io.ReadWriteCloser

	Real bool // the clock is real
}

// TestServer tests servers of a transport.
func TestServer(t *testing.T, tr ServerTransport) {
	for name, test := range map[string]func(*testing.T){
		"answers": tr.answers, "pieces": tr.pieces, "several at once": tr.several,
		"cut short": tr.cutShort, "corrupted": tr.corrupted,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tr.Real {
				test(t)
				return
			}
			synctest.Test(t, test)
		})
	}
}

// bank is a unit 17 with 20 registers, which hold their own address at first.
type bank struct {
	mu    sync.Mutex // guards words
	words [20]uint16
}

func newBank() *bank {
	b := &bank{}
	for i := range b.words {
		b.words[i] = uint16(i)
	}
	return b
}

// handle answers for the unit 17. Unit 99 is silent, 98 is busy.
func (b *bank) handle(_ context.Context, r modbus.Request) ([]uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case r.Unit == 99:
		return nil, modbus.ErrSilence
	case r.Unit == 98:
		return nil, modbus.ErrBusy
	case r.Unit != 17 && r.Unit != 0:
		return nil, modbus.ErrGatewayTarget
	case int(r.Address)+r.Quantity() > len(b.words):
		return nil, modbus.ErrIllegalAddress
	case r.Values != nil:
		copy(b.words[r.Address:], r.Values)
		return nil, nil
	}
	return append([]uint16(nil), b.words[r.Address:int(r.Address)+int(r.Count)]...), nil
}

// asker asks a server, one request after the other.
type asker struct {
	io.ReadWriteCloser
	t       *testing.T
	framing Framing
	n       uint16
}

func (tr ServerTransport) asker(t *testing.T) *asker {
	return &asker{tr.Dial(t, newBank().handle), t, tr.Framing, 0xfff0}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// next is the next request's frame.
func (a *asker) next(unit byte, pdu string) []byte {
	a.t.Helper()
	a.n++
	return a.framing.build(message{a.n, unit, unhex(a.t, pdu)})
}

func (a *asker) send(b []byte) {
	a.t.Helper()
	if _, err := a.Write(b); err != nil {
		a.t.Errorf("sending: %v", err)
	}
}

// wants reads an answer to the last request.
func (a *asker) wants(unit byte, pdu string) {
	a.t.Helper()
	m, err := a.framing.answer(a)
	if err != nil || m.unit != unit || !bytes.Equal(m.pdu, unhex(a.t, pdu)) || a.framing == MBAP && m.transaction != a.n {
		a.t.Errorf("answered %+v, %v; want unit %d, %s", m, err, unit, pdu)
	}
}

// pause makes one request end and another begin.
func (a *asker) pause() { time.Sleep(3 * Silence) }

func (tr ServerTransport) answers(t *testing.T) {
	a := tr.asker(t)
	for _, x := range []struct {
		unit       byte
		send, want string
	}{
		{17, "03 0000 0002", "03 04 0000 0001"},
		{17, "04 0013 0001", "04 02 0013"},
		{17, "06 0002 abcd", "06 0002 abcd"},
		{17, "10 0003 0002 04 1234 5678", "10 0003 0002"},
		{17, "03 0002 0003", "03 06 abcd 1234 5678"},
		{98, "03 0002 0003", "83 06"},
		{17, "03 0013 0002", "83 02"},
		{17, "03 ffff 0002", "83 02"},
		{17, "03 0000 0000", "83 03"},
		{17, "04 0000 007e", "84 03"},
		{17, "06 0014 0001", "86 02"},
		{17, "10 0013 0002 04 1234 5678", "90 02"},
		{17, "10 0003 0003 04 1234 5678", "90 03"},
		{17, "01 0000 0001", "81 01"},
		{17, "2b 0e 01 00", "ab 01"},
		{17, "03 0000 0001", "03 02 0000"},
	} {
		a.send(a.next(x.unit, x.send))
		a.wants(x.unit, x.want)
	}
	// No answer to the first of each two; the next one is still answered.
	a.send(a.next(99, "03 0000 0001"))
	a.pause()
	a.send(a.next(17, "03 0000 0001"))
	a.wants(17, "03 02 0000")
	if tr.Framing == RTU { // on a line a unit that is not there says nothing, and unit 0 is all of them
		a.send(a.next(18, "03 0000 0001"))
		a.pause()
		a.send(a.next(0, "06 0001 7777"))
		a.pause()
		a.send(a.next(17, "03 0001 0001"))
		a.wants(17, "03 02 7777")
	}
}

func (tr ServerTransport) pieces(t *testing.T) {
	a := tr.asker(t)
	for _, b := range a.next(17, "10 0003 0002 04 1234 5678") {
		a.send([]byte{b})
	}
	a.wants(17, "10 0003 0002")
	b := a.next(17, "03 0003 0002")
	a.send(b[:3])
	time.Sleep(Silence / 2)
	a.send(b[3:])
	a.wants(17, "03 04 1234 5678")
}

// several: requests that come together are answered one after the other.
func (tr ServerTransport) several(t *testing.T) {
	a := tr.asker(t)
	a.send(append(a.next(99, "03 0000 0001"), a.next(17, "03 0001 0001")...))
	a.wants(17, "03 02 0001")
}

// cutShort: a line forgets what was not completed.
func (tr ServerTransport) cutShort(t *testing.T) {
	if tr.Framing == MBAP {
		t.Skip("a frame that is cut short ends a TCP connection")
	}
	a := tr.asker(t)
	whole := a.next(17, "10 0003 0002 04 1234 5678")
	for n := range whole {
		a.send(whole[:n])
		a.pause()
		a.send(a.next(17, "03 0003 0001"))
		a.wants(17, "03 02 0003")
	}
}

// corrupted: what is no good frame is not carried out, and is forgotten after a
// silence; so is what belongs to others on the line.
func (tr ServerTransport) corrupted(t *testing.T) {
	if tr.Framing == MBAP {
		t.Skip("a TCP connection carries no corrupted frames")
	}
	a := tr.asker(t)
	whole := a.next(17, "10 0003 0002 04 1234 5678")
	var all [][]byte
	for i := range whole {
		changed := bytes.Clone(whole)
		changed[i] ^= 0x41
		all = append(all, changed)
	}
	all = append(all,
		[]byte{0}, bytes.Repeat([]byte{17, 3}, 400), bytes.Repeat([]byte{17, 16, 0xff}, 100),
		RTU.build(message{unit: 18, pdu: unhex(t, "03 02 0001")}),
		RTU.build(message{unit: 18, pdu: unhex(t, "03 08 0001 0002 0003 0004")}),
		RTU.build(message{unit: 18, pdu: unhex(t, "83 02")}),
		RTU.build(message{unit: 17, pdu: unhex(t, "83 02")}),
		RTU.build(message{unit: 18, pdu: unhex(t, "01 0000 0001")}),
		RTU.build(message{unit: 18, pdu: unhex(t, "03 0000 0000")}))
	for _, b := range all {
		a.send(b)
		a.pause()
		a.send(a.next(17, "03 0003 0001"))
		a.wants(17, "03 02 0003")
	}
}
