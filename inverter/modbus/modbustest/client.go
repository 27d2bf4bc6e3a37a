package modbustest

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ecowatt/inverter/modbus"
)

// Transport is a kind of client to be tested.
type Transport struct {
	Framing Framing

	// Client returns a client with the timeout and the quiet time below. Each
	// of its connections is to be played by play, which returns when it ends;
	// a serial line is one connection for ever. t.Cleanup is to end everything.
	Client func(t *testing.T, play func(c io.ReadWriteCloser)) modbus.Transport

	Timeout time.Duration
	Quiet   time.Duration
	Real    bool // the clock is real, for what needs a kernel; else it is that of synctest
}

// what the first request of a case may come to.
type want byte

const (
	truthOnly want = iota
	failure        // an error that is no exception
	either         // truth or failure
)

// TestClient tests clients of a transport.
func TestClient(t *testing.T, tr Transport) {
	t.Run("functions", func(t *testing.T) { tr.run(t, tr.functions) })
	t.Run("limits", func(t *testing.T) { tr.run(t, tr.limits) })
	t.Run("exceptions", func(t *testing.T) { tr.run(t, tr.exceptions) })
	t.Run("parallel callers", func(t *testing.T) { tr.run(t, tr.parallel) })
	t.Run("cancelled", func(t *testing.T) { tr.run(t, tr.cancelled) })
	for _, c := range tr.cases() {
		t.Run(c.name, func(t *testing.T) { tr.run(t, c.test(tr)) })
	}
	if tr.Framing == HTTP {
		return // no answer can come to another exchange
	}
	for _, late := range tr.lateness() {
		t.Run(fmt.Sprintf("late by %v", late), func(t *testing.T) {
			tr.run(t, func(t *testing.T) { tr.late(t, late) })
		})
	}
}

// inTheField are the cases that have befallen inverters of others; these are run
// also where each takes its time.
func inTheField() []string {
	return []string{
		"another unit", "another unit's answer, then the answer", "echo of the request", "echo of the request, then a pause", "echo alone",
		"CRC bytes swapped", "silence after 5 bytes",
	}
}

// cases are those of a device that misbehaves at the first request.
func (tr Transport) cases() (all []testCase) {
	for i, c := range slices.Concat(tr.misfits(), tr.cuts(), tr.noises(), tr.times()) {
		if !tr.Real || i%6 == 0 || slices.Contains(inTheField(), c.name) {
			all = append(all, c)
		}
	}
	return all
}

// Cases names what TestClient lets a device do to its answer, for a transport.
func (tr Transport) Cases() (names []string) {
	for _, c := range tr.cases() {
		names = append(names, c.name)
	}
	return names
}

// run runs a test under the transport's clock.
func (tr Transport) run(t *testing.T, test func(t *testing.T)) {
	t.Parallel()
	if tr.Real {
		test(t)
		return
	}
	synctest.Test(t, test)
}

// open returns a client and its device.
func (tr Transport) open(t *testing.T, steps ...step) (modbus.Transport, *device) {
	t.Helper()
	d := &device{t: t, framing: tr.Framing, timeout: tr.Timeout, quiet: tr.Quiet, steps: steps}
	return tr.Client(t, d.play), d
}

// asking is the request that the cases begin with.
var asking = modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: 0x107, Count: 2}

// check carries out r: the answer must be the truth, or there must be none.
func check(t *testing.T, c modbus.Transport, r modbus.Request) error {
	t.Helper()
	got, err := c.Do(t.Context(), r)
	if err != nil {
		if got != nil {
			t.Errorf("%v: words %v with the error %v", r, got, err)
		}
		return err
	}
	var right []uint16
	for i := range r.Count {
		right = append(right, word(byte(r.Function), r.Address+i))
	}
	if !slices.Equal(got, right) {
		t.Errorf("%v: got %v, the truth is %v", r, got, right)
	}
	return nil
}

// well carries out requests of the same form as asking, which must do well.
func well(t *testing.T, c modbus.Transport) {
	t.Helper()
	for i := range uint16(4) {
		r := asking
		r.Address += 16 * (i + 1)
		if err := check(t, c, r); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	}
}

func (tr Transport) functions(t *testing.T) {
	for _, x := range []struct {
		r   modbus.Request
		pdu string
	}{
		{modbus.Request{Unit: 1, Function: modbus.ReadHolding, Address: 0, Count: 1}, "03 0000 0001"},
		{modbus.Request{Unit: 247, Function: modbus.ReadInput, Address: 0x1234, Count: 125}, "04 1234 007d"},
		{modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: 0xffff, Count: 1}, "03 ffff 0001"},
		{modbus.Request{Unit: 17, Function: modbus.WriteSingle, Address: 8, Values: []uint16{0xabcd}}, "06 0008 abcd"},
		{modbus.Request{Unit: 17, Function: modbus.WriteMultiple, Address: 8, Values: []uint16{0xabcd}}, "10 0008 0001 02 abcd"},
		{modbus.Request{Unit: 17, Function: modbus.WriteMultiple, Address: 0x0102, Values: []uint16{1, 2, 0xffff}}, "10 0102 0003 06 0001 0002 ffff"},
		{modbus.Request{Unit: 17, Function: modbus.WriteMultiple, Address: 0, Values: make([]uint16, 123)}, "10 0000 007b f6" + fmt.Sprintf("%0492x", 0)},
	} {
		c, d := tr.open(t)
		if err := check(t, c, x.r); err != nil {
			t.Error(err)
		}
		pdu, err := hex.DecodeString(string(bytes.ReplaceAll([]byte(x.pdu), []byte(" "), nil)))
		if err != nil {
			t.Fatal(err)
		}
		if got := d.requests(); len(got) != 1 || got[0].unit != x.r.Unit || !bytes.Equal(got[0].pdu, pdu) {
			t.Errorf("%v: sent %x, want %x", x.r, got, pdu)
		}
	}
}

// limits: what cannot be sent is not.
func (tr Transport) limits(t *testing.T) {
	c, d := tr.open(t)
	for _, r := range []modbus.Request{
		{Function: modbus.ReadHolding, Count: 0},
		{Function: modbus.ReadHolding, Count: 126},
		{Function: modbus.ReadInput, Count: 126},
		{Function: modbus.ReadHolding, Address: 0xffff, Count: 2},
		{Function: modbus.WriteSingle, Values: []uint16{1, 2}},
		{Function: modbus.WriteSingle},
		{Function: modbus.WriteMultiple},
		{Function: modbus.WriteMultiple, Values: make([]uint16, 124)},
		{Function: 1, Count: 1},
	} {
		if _, err := c.Do(t.Context(), r); !errors.Is(err, modbus.ErrRequest) {
			t.Errorf("%v: %v, want ErrRequest", r, err)
		}
	}
	if got := d.requests(); len(got) != 0 {
		t.Errorf("sent %x", got)
	}
}

// exceptions are told as such, and are no reason to wait or to connect anew.
func (tr Transport) exceptions(t *testing.T) {
	for _, r := range []modbus.Request{
		asking,
		{Unit: 17, Function: modbus.ReadInput, Address: 1, Count: 1},
		{Unit: 17, Function: modbus.WriteSingle, Address: 1, Values: []uint16{1}},
		{Unit: 17, Function: modbus.WriteMultiple, Address: 1, Values: []uint16{1, 2}},
	} {
		c, d := tr.open(t)
		for _, code := range []byte{1, 2, 3, 4, 5, 6, 8, 10, 11, 0x55, 0xff} {
			d.mu.Lock()
			d.steps = []step{told(func(m message) message { m.pdu = []byte{m.pdu[0] | 0x80, code}; return m })}
			d.mu.Unlock()
			_, err := c.Do(t.Context(), r)
			if no, ok := errors.AsType[modbus.ExceptionError](err); !ok || no.ExceptionCode() != code {
				t.Errorf("%v: exception %02x came as %v", r, code, err)
			}
		}
		well(t, c)
	}
}

func (tr Transport) parallel(t *testing.T) {
	c, _ := tr.open(t)
	var all sync.WaitGroup
	for i := range uint16(8) {
		all.Go(func() {
			for j := range uint16(10) {
				if err := check(t, c, modbus.Request{Unit: byte(i) + 1, Function: modbus.ReadInput, Address: 100*i + j, Count: 3}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// cancelled: the caller is let go at once, and what its request left behind
// does no harm.
func (tr Transport) cancelled(t *testing.T) {
	asked := make(chan struct{})
	c, _ := tr.open(t, func(d *device, c io.ReadWriteCloser, q message) {
		close(asked)
		time.Sleep(d.timeout / 4)
		truthful(d, c, q)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	begin := time.Now()
	if _, err := c.Do(ctx, asking); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if d := time.Since(begin); !tr.Real && d > tr.Quiet+tr.Timeout/8 {
		t.Errorf("let go after %v", d)
	}
	if err := check(t, c, asking); err != nil {
		t.Error(err)
	}
	well(t, c)
}

// lateness is by how much the answer to the first request is late.
func (tr Transport) lateness() (all []time.Duration) {
	if tr.Real {
		return []time.Duration{tr.Quiet / 2, tr.Timeout / 2}
	}
	step := tr.Timeout / 30
	for d := step / 2; d < 2*tr.Timeout+tr.Timeout/2; d += step {
		all = append(all, d)
	}
	return all
}

// late: however late an answer is, it is not taken for the answer to another
// request, and once the device has caught up all is well.
func (tr Transport) late(t *testing.T, by time.Duration) {
	all := [][]time.Duration{
		{tr.Timeout + by},
		{tr.Timeout + by, 0, tr.Timeout + by},
		{tr.Timeout + by, tr.Timeout / 3, tr.Timeout / 3},
	}
	if tr.Real {
		all = all[:1]
	}
	for _, delays := range all {
		d := &device{t: t, framing: tr.Framing}
		q := newQueue(d, delays...)
		var working sync.WaitGroup
		working.Go(q.work)
		c := tr.Client(t, q.play)
		failed := 0
		for i := range uint16(12) {
			r := asking
			r.Address += 16 * i
			if err := check(t, c, r); err != nil {
				failed++
			}
		}
		if failed == 0 || failed > 9 {
			t.Errorf("%d of 12 requests failed", failed)
		}
		time.Sleep(time.Until(time.Now().Add(tr.Quiet)))
		well(t, c)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		close(q.stop)
		working.Wait()
	}
}
