//go:build linux

package modbus_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"ecowatt/inverter/modbus"
	"ecowatt/inverter/modbus/modbustest"
)

func TestClientPTY(t *testing.T) {
	if testing.Short() {
		t.Skip("takes real time")
	}
	o := modbus.ClientOptions{Timeout: time.Second, Quiet: 250 * time.Millisecond}
	modbustest.TestClient(t, modbustest.Transport{
		Framing: modbustest.RTU, Timeout: o.Timeout, Quiet: o.Quiet, Real: true,
		Client: func(t *testing.T, play func(io.ReadWriteCloser)) modbus.Transport {
			far, path := modbustest.Line(t)
			var playing sync.WaitGroup
			playing.Go(func() { play(far) })
			t.Cleanup(playing.Wait)
			t.Cleanup(func() { far.Close() })
			return closing(t, modbus.NewSerialClient(modbus.Line{Device: path, Baud: 115200}, o))
		},
	})
}

// lineServer serves units on the far end of a pseudo terminal and returns the
// port at the near end.
func lineServer(t *testing.T, h modbus.Handler) (port string) {
	t.Helper()
	far, port := modbustest.Line(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- modbus.NewServer(h, serverOptions).ServeLine(ctx, far) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return port
}

func TestServerPTY(t *testing.T) {
	if testing.Short() {
		t.Skip("takes real time")
	}
	modbustest.TestServer(t, modbustest.ServerTransport{Framing: modbustest.RTU, Real: true, Dial: func(t *testing.T, h modbus.Handler) io.ReadWriteCloser {
		line, err := modbus.Line{Device: lineServer(t, h), Baud: 115200}.Open()
		if err != nil {
			t.Fatal(err)
		}
		return closing(t, line)
	}})
}

// TestServeLineOnAPort: our server at the end with the serial port, our client
// at the other over a port of its own.
func TestServeLineOnAPort(t *testing.T) {
	far, path := modbustest.Line(t)
	line, err := modbus.Line{Device: path}.Open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- modbus.NewServer(echoAddress, modbus.ServerOptions{}).ServeLine(ctx, line) }()
	if _, err := far.Write([]byte{0x11, 3, 0, 7, 0, 1, 0x37, 0x5b}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 7)
	if _, err := io.ReadFull(far, got); err != nil || string(got[:5]) != "\x11\x03\x02\x00\x07" {
		t.Errorf("answered % x, %v", got, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("serving: %v", err)
	}
}

// TestMbpoll: the tool that installers use understands our server on a serial
// line.
func TestMbpoll(t *testing.T) {
	program, err := exec.LookPath("mbpoll")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("mbpoll is missing: run scripts/setup.sh")
		}
		t.Skip("mbpoll is not installed: see scripts/setup.sh")
	}
	bank := &words{}
	port := lineServer(t, bank.handle)
	for _, x := range []struct {
		args []string
		want []string
	}{
		{[]string{"-t", "4", "-r", "3", port, "300"}, []string{"Written 1 references."}},
		{[]string{"-t", "4", "-r", "4", port, "400", "500"}, []string{"Written 2 references."}},
		{[]string{"-t", "4", "-r", "2", "-c", "4", port}, []string{"[2]: \t2", "[3]: \t300", "[4]: \t400", "[5]: \t500"}},
		{[]string{"-t", "3", "-r", "5", "-c", "2", port}, []string{"[5]: \t500", "[6]: \t6"}},
		{[]string{"-t", "4", "-r", "19", "-c", "2", port}, []string{"Illegal data address"}},
		{[]string{"-t", "0", "-r", "1", port}, []string{"Illegal function"}},
	} {
		args := append([]string{"-m", "rtu", "-a", "17", "-b", "9600", "-P", "none", "-0", "-1", "-q", "-o", "2"}, x.args...)
		out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
		for _, want := range x.want {
			if !strings.Contains(string(out), want) {
				t.Errorf("mbpoll %s: %v\n%s\nwant %q", strings.Join(args, " "), err, out, want)
			}
		}
	}
}

// words is a unit 17 with 20 registers, which hold their own address at first.
type words struct {
	mu    sync.Mutex // guards set
	set   map[uint16]uint16
	count int
}

func (b *words) handle(_ context.Context, r modbus.Request) ([]uint16, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count++
	switch {
	case r.Unit != 17:
		return nil, modbus.ErrGatewayTarget
	case int(r.Address)+r.Quantity() > 20:
		return nil, modbus.ErrIllegalAddress
	}
	if b.set == nil {
		b.set = map[uint16]uint16{}
	}
	for i, w := range r.Values {
		b.set[r.Address+uint16(i)] = w
	}
	var got []uint16
	for i := range r.Count {
		w, ok := b.set[r.Address+i]
		if !ok {
			w = r.Address + i
		}
		got = append(got, w)
	}
	return got, nil
}
