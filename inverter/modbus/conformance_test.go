package modbus_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.bug.st/serial"

	"ecowatt/inverter/modbus"
	"ecowatt/inverter/modbus/modbustest"
)

// options of the clients under test; the clock is not real.
var options = modbus.ClientOptions{Timeout: 3 * time.Second, Quiet: 250 * time.Millisecond}

// conform is what they have in common.
func conform(f modbustest.Framing, client func(*testing.T, func(io.ReadWriteCloser)) modbus.Transport) modbustest.Transport {
	return modbustest.Transport{Framing: f, Client: client, Timeout: options.Timeout, Quiet: options.Quiet}
}

// piped returns options with a Dial to connections that play plays.
func piped(t *testing.T, play func(io.ReadWriteCloser)) modbus.ClientOptions {
	var playing sync.WaitGroup
	t.Cleanup(playing.Wait)
	o := options
	o.Dial = func(context.Context, string) (net.Conn, error) {
		near, far := net.Pipe()
		playing.Go(func() { play(far) })
		return near, nil
	}
	return o
}

// closing closes c at the end of the test.
func closing[T io.Closer](t *testing.T, c T) T {
	t.Cleanup(func() { c.Close() })
	return c
}

func TestClientTCP(t *testing.T) {
	modbustest.TestClient(t, conform(modbustest.MBAP, func(t *testing.T, play func(io.ReadWriteCloser)) modbus.Transport {
		return closing(t, modbus.NewClient("peer", piped(t, play)))
	}))
}

func TestClientRTUOverTCP(t *testing.T) {
	modbustest.TestClient(t, conform(modbustest.RTU, func(t *testing.T, play func(io.ReadWriteCloser)) modbus.Transport {
		return closing(t, modbus.NewRTUClient("peer", piped(t, play)))
	}))
}

func TestClientSerial(t *testing.T) {
	modbustest.TestClient(t, conform(modbustest.RTU, func(t *testing.T, play func(io.ReadWriteCloser)) modbus.Transport {
		var wire *wire
		var playing sync.WaitGroup
		t.Cleanup(playing.Wait)
		t.Cleanup(func() {
			if wire != nil {
				wire.cut()
			}
		})
		return closing(t, modbus.NewSerialClientOn(modbus.Line{Device: "wire"}, options, func() (serial.Port, error) {
			if wire == nil || wire.isCut() { // it was unplugged, and is back
				wire = newWire()
				playing.Go(func() { play(wire.far()) })
			}
			return wire.port(), nil
		}))
	}))
}

func TestClientHTTP(t *testing.T) {
	modbustest.TestClient(t, conform(modbustest.HTTP, func(t *testing.T, play func(io.ReadWriteCloser)) modbus.Transport {
		l := newListener()
		var serving sync.WaitGroup
		server := &http.Server{Handler: framed(t, &serving, play)}
		serving.Go(func() { server.Serve(l) })
		t.Cleanup(serving.Wait)
		t.Cleanup(func() { server.Close() })
		o := options
		o.Key = "secret"
		o.Dial = l.dial
		return closing(t, modbus.NewHTTPClient("http://simulator", o))
	}))
}

// framed serves the HTTP interface: each request is a connection that play plays.
func framed(t *testing.T, playing *sync.WaitGroup, play func(io.ReadWriteCloser)) http.Handler {
	serve := func(functions string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			playing.Add(1)
			defer playing.Done()
			if got := r.Header.Get("Authorization"); got != "secret" {
				t.Errorf("Authorization %q", got)
			}
			var body modbus.HTTPFrame
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				t.Errorf("body: %v", err)
			}
			frame, err := body.Bytes()
			if err != nil || len(frame) < 2 || !contains(functions, frame[1]) {
				t.Errorf("%s was asked for %s: %v", r.URL.Path, body.Frame, err)
			}
			x := &exchange{r: r, question: frame}
			play(x)
			if x.aborted {
				panic(http.ErrAbortHandler)
			}
			if x.answered && len(x.answer) > 0 {
				json.NewEncoder(w).Encode(modbus.NewHTTPFrame(x.answer))
			}
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+modbus.HTTPReadPath, serve("\x03\x04"))
	mux.HandleFunc("POST "+modbus.HTTPWritePath, serve("\x06\x10"))
	return mux
}

func contains(functions string, f byte) bool {
	for i := range len(functions) {
		if functions[i] == f {
			return true
		}
	}
	return false
}

// exchange is an HTTP exchange as a connection.
type exchange struct {
	r                 *http.Request
	question, answer  []byte
	answered, aborted bool
}

func (x *exchange) Read(b []byte) (int, error) {
	if len(x.question) == 0 { // what was written until now is the answer
		if len(x.answer) == 0 {
			<-x.r.Context().Done()
		}
		x.answered = true
		return 0, io.EOF
	}
	n := copy(b, x.question)
	x.question = x.question[n:]
	return n, nil
}

func (x *exchange) Write(b []byte) (int, error) {
	x.answer = append(x.answer, b...)
	return len(b), nil
}

func (x *exchange) Close() error {
	x.aborted = x.aborted || !x.answered
	return nil
}

// serverOptions of the servers under test.
var serverOptions = modbus.ServerOptions{Silence: modbustest.Silence, Has: modbustest.Has}

// dialled returns a connection to what serve serves.
func dialled(t *testing.T, serve func(context.Context, net.Listener) error) io.ReadWriteCloser {
	l := newListener()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	c, err := l.dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return closing(t, c)
}

func TestServerTCP(t *testing.T) {
	modbustest.TestServer(t, modbustest.ServerTransport{Framing: modbustest.MBAP, Dial: func(t *testing.T, h modbus.Handler) io.ReadWriteCloser {
		return dialled(t, modbus.NewServer(h, serverOptions).Serve)
	}})
}

func TestServerRTUOverTCP(t *testing.T) {
	modbustest.TestServer(t, modbustest.ServerTransport{Framing: modbustest.RTU, Dial: func(t *testing.T, h modbus.Handler) io.ReadWriteCloser {
		return dialled(t, modbus.NewServer(h, serverOptions).ServeRTU)
	}})
}

func TestServerLine(t *testing.T) {
	modbustest.TestServer(t, modbustest.ServerTransport{Framing: modbustest.RTU, Dial: func(t *testing.T, h modbus.Handler) io.ReadWriteCloser {
		wire := newWire()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- modbus.NewServer(h, serverOptions).ServeLine(ctx, wire.far()) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("serving: %v", err)
			}
		})
		return wire.port()
	}})
}
