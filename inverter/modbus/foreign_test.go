package modbus

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	foreign "github.com/simonvetter/modbus"
)

// TestForeignClient: another implementation's client understands our servers.
func TestForeignClient(t *testing.T) {
	for scheme, serve := range map[string]func(testing.TB, Handler, ServerOptions) string{"tcp": serve, "rtuovertcp": serveRTU} {
		t.Run(scheme, func(t *testing.T) { foreignClient(t, scheme, serve(t, newBank().handle, ServerOptions{})) })
	}
}

func foreignClient(t *testing.T, scheme, address string) {
	c, err := foreign.NewClient(&foreign.ClientConfiguration{URL: scheme + "://" + address, Speed: 115200, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Open(); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetUnitId(17)
	if err := c.WriteRegister(3, 300); err != nil {
		t.Errorf("function 06: %v", err)
	}
	if err := c.WriteRegisters(4, []uint16{400, 500}); err != nil {
		t.Errorf("function 10: %v", err)
	}
	for _, typ := range []foreign.RegType{foreign.HOLDING_REGISTER, foreign.INPUT_REGISTER} {
		if got, err := c.ReadRegisters(2, 5, typ); err != nil || !cmp.Equal(got, []uint16{2, 300, 400, 500, 6}) {
			t.Errorf("table %d: %v, %v", typ, got, err)
		}
	}
	if _, err := c.ReadRegisters(19, 2, foreign.HOLDING_REGISTER); !errors.Is(err, foreign.ErrIllegalDataAddress) {
		t.Errorf("beyond the map: %v", err)
	}
	if _, err := c.ReadCoil(0); !errors.Is(err, foreign.ErrIllegalFunction) {
		t.Errorf("a function that is not there: %v", err)
	}
	if scheme != "tcp" {
		return // a unit that is not there is silent
	}
	c.SetUnitId(18)
	if _, err := c.ReadRegister(0, foreign.HOLDING_REGISTER); !errors.Is(err, foreign.ErrGWTargetFailedToRespond) {
		t.Errorf("a unit that is not there: %v", err)
	}
}

// foreignBank is the handler of the other implementation's server.
type foreignBank struct{ words [20]uint16 }

func (b *foreignBank) HandleCoils(*foreign.CoilsRequest) ([]bool, error) {
	return nil, foreign.ErrIllegalFunction
}

func (b *foreignBank) HandleDiscreteInputs(*foreign.DiscreteInputsRequest) ([]bool, error) {
	return nil, foreign.ErrIllegalFunction
}

func (b *foreignBank) HandleHoldingRegisters(r *foreign.HoldingRegistersRequest) ([]uint16, error) {
	switch {
	case r.UnitId != 17:
		return nil, foreign.ErrGWTargetFailedToRespond
	case int(r.Addr)+int(r.Quantity) > len(b.words):
		return nil, foreign.ErrIllegalDataAddress
	case r.IsWrite:
		copy(b.words[r.Addr:], r.Args)
	}
	return b.words[r.Addr : r.Addr+r.Quantity], nil
}

func (b *foreignBank) HandleInputRegisters(r *foreign.InputRegistersRequest) ([]uint16, error) {
	return nil, foreign.ErrServerDeviceBusy
}

// foreignServer starts the other implementation's server. It does not tell
// which port it took, so that a free one has to be found first.
func foreignServer(t *testing.T) string {
	t.Helper()
	var err error
	for range 20 {
		var l net.Listener
		if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		l.Close()
		var s *foreign.ModbusServer
		if s, err = foreign.NewServer(&foreign.ServerConfiguration{URL: "tcp://" + address}, &foreignBank{}); err != nil {
			t.Fatal(err)
		}
		if err = s.Start(); err == nil {
			t.Cleanup(func() { s.Stop() })
			return address
		}
	}
	t.Fatal(err)
	return ""
}

// TestForeignServer: our client understands another implementation's server.
func TestForeignServer(t *testing.T) {
	c := NewClient(foreignServer(t), ClientOptions{})
	defer c.Close()
	for _, x := range []struct {
		r    Request
		want string
	}{
		{Request{Unit: 17, Function: WriteSingle, Address: 3, Values: []uint16{300}}, "[] <nil>"},
		{Request{Unit: 17, Function: WriteMultiple, Address: 4, Values: []uint16{400, 500}}, "[] <nil>"},
		{Request{Unit: 17, Function: ReadHolding, Address: 2, Count: 5}, "[0 300 400 500 0] <nil>"},
		{Request{Unit: 17, Function: ReadHolding, Address: 19, Count: 2}, "[] exception 02: illegal data address"},
		{Request{Unit: 17, Function: ReadInput, Address: 0, Count: 1}, "[] exception 06: device busy"},
		{Request{Unit: 18, Function: ReadHolding, Address: 0, Count: 1}, "[] exception 0b: device behind the gateway does not answer"},
		{Request{Unit: 17, Function: ReadHolding, Address: 3, Count: 1}, "[300] <nil>"},
	} {
		got, err := c.Do(t.Context(), x.r)
		if no, ok := errors.AsType[ExceptionError](err); ok {
			err = no
		}
		if fmt.Sprint(got, " ", err) != x.want {
			t.Errorf("%v: %v %v, want %s", x.r, got, err, x.want)
		}
	}
}
