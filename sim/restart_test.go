//go:build linux

package sim

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ecowatt/inverter/modbus"
	"ecowatt/inverter/modbus/modbustest"
)

// restartable is an inverter, whichever way it is reached; its address
// stays when it is switched off and on.
type restartable struct {
	transport, at string
}

// client is a client of the inverter.
func (r *restartable) client() modbus.Transport {
	o := modbus.ClientOptions{Timeout: 5 * time.Second, Quiet: calm}
	switch r.transport {
	case "rtutcp":
		return modbus.NewRTUClient(r.at, o)
	case "line":
		return modbus.NewSerialClient(modbus.Line{Device: r.at, Baud: 115200}, o)
	case "http":
		return modbus.NewHTTPClient("http://"+r.at, o)
	}
	return modbus.NewClient(r.at, o)
}

// ends opens the end where the inverter answers. A line has the same name again,
// as under /dev/serial/by-id.
func (r *restartable) ends(t *testing.T) Ends {
	t.Helper()
	if r.transport == "line" {
		far, port := modbustest.Line(t)
		if r.at == "" {
			r.at = filepath.Join(t.TempDir(), "inverter")
		} else if err := os.Remove(r.at); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(port, r.at); err != nil {
			t.Fatal(err)
		}
		return Ends{Line: far}
	}
	if r.at == "" {
		r.at = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", r.at)
	if err != nil {
		t.Fatal(err)
	}
	r.at = l.Addr().String()
	return map[string]Ends{"tcp": {TCP: l}, "rtutcp": {RTU: l}, "http": {HTTP: l}}[r.transport]
}

// start switches the inverter on, under the sun or by night, until stop.
func (r *restartable) start(t *testing.T, night bool) (stop func()) {
	t.Helper()
	o := Options{Speed: 1e-9}
	if night {
		o.Weather = still{}
	}
	s := newSimulator(t, o)
	ends := r.ends(t)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error)
	go func() { stopped <- s.Run(ctx, ends) }()
	return func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}
}

// TestRestart: a client finds an inverter again that was switched off and on,
// and a value from before is not taken for one of after.
func TestRestart(t *testing.T) {
	for _, name := range []string{"tcp", "rtutcp", "line", "http"} {
		t.Run(name, func(t *testing.T) {
			r := &restartable{transport: name}
			stop := r.start(t, false)
			c := r.client()
			defer c.Close()
			if words, err := c.Do(t.Context(), all(17)); err != nil || words[9] == 0 {
				t.Fatalf("by day: %v, %v", words, err)
			}
			stop()
			if words, err := c.Do(t.Context(), all(17)); err == nil {
				t.Errorf("switched off: %v", words)
			}
			defer r.start(t, true)()
			if words, err := c.Do(t.Context(), all(17)); err != nil || words[9] != 0 {
				t.Errorf("by night: %v, %v", words, err)
			}
		})
	}
}
