package modbus_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.bug.st/serial"

	"ecowatt/inverter/modbus"
)

// The frames of these tests: unit 17 reads registers 7 and 8, which hold 1 and
// 2, and writes 5 to register 8.
const (
	readFrame   = "\x11\x03\x00\x07\x00\x02\x77\x5a"
	answerFrame = "\x11\x03\x04\x00\x01\x00\x02\x3b\xf3"
	staleFrame  = "\x11\x03\x04\x00\x09\x00\x09\xfb\xf6"
	writeFrame  = "\x11\x06\x00\x08\x00\x05\xca\x9b"
)

var (
	reading = modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: 7, Count: 2}
	writing = modbus.Request{Unit: 17, Function: modbus.WriteSingle, Address: 8, Values: []uint16{5}}
)

// echoAddress answers each register with its address.
func echoAddress(_ context.Context, r modbus.Request) ([]uint16, error) {
	var words []uint16
	for i := range r.Count {
		words = append(words, r.Address+i)
	}
	return words, nil
}

// lineRig is a client on a wire, and how often it opened its port.
type lineRig struct {
	*modbus.Client
	*testing.T
	wire   *wire
	opened int
}

func newLineRig(t *testing.T, l modbus.Line) *lineRig {
	r := &lineRig{T: t, wire: newWire()}
	r.Client = modbus.NewSerialClientOn(l, options, func() (serial.Port, error) {
		r.opened++
		return r.wire.port(), nil
	})
	t.Cleanup(func() {
		r.Close()
		r.wire.cut()
	})
	return r
}

// device does one thing after the other: it reads a request of so many bytes,
// says a frame, or pauses. The function that it returns waits for that.
func (r *lineRig) device(script ...any) (wait func()) {
	var playing sync.WaitGroup
	playing.Go(func() {
		far := r.wire.far()
		for _, f := range script {
			switch f := f.(type) {
			case int:
				if _, err := io.ReadFull(far, make([]byte, f)); err != nil {
					r.Errorf("device: %v", err)
				}
			case string:
				far.Write([]byte(f))
			case time.Duration:
				time.Sleep(f)
			}
		}
	})
	return playing.Wait
}

// do carries out q; the words and the error are printed.
func (r *lineRig) do(q modbus.Request) string {
	got, err := r.Do(r.Context(), q)
	switch {
	case errors.Is(err, modbus.ErrNoAnswer):
		return "no answer"
	case err != nil:
		return err.Error()
	}
	return fmt.Sprint(got)
}

func (r *lineRig) wants(got, want string) {
	r.Helper()
	if got != want {
		r.Errorf("got %s, want %s", got, want)
	}
}

func TestFramesOfThisTest(t *testing.T) {
	for _, f := range []string{readFrame, answerFrame, staleFrame, writeFrame} {
		s := modbus.NewServer(echoAddress, modbus.ServerOptions{})
		if _, err := s.AnswerRTU(t.Context(), []byte(f)); err != nil {
			t.Errorf("% x: %v", f, err)
		}
	}
}

// TestSerialDropsWhatCameBefore: an answer that lies in the port, or still comes
// within the quiet time of a port just opened, is nobody's.
func TestSerialDropsWhatCameBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLineRig(t, modbus.Line{})
		far := r.wire.far()
		far.Write([]byte(staleFrame))
		time.AfterFunc(options.Quiet/2, func() { far.Write([]byte(staleFrame)) })
		wait := r.device(8, answerFrame)
		r.wants(r.do(reading), "[1 2]")
		wait()
		far.Write([]byte(staleFrame))
		wait = r.device(8, answerFrame)
		r.wants(r.do(reading), "[1 2]")
		wait()
	})
}

// TestRTUOverTCPListensFirst: the same on a new TCP connection.
func TestRTUOverTCPListensFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := closing(t, modbus.NewRTUClient("peer", piped(t, func(far io.ReadWriteCloser) {
			time.Sleep(options.Quiet / 2)
			far.Write([]byte(staleFrame))
			io.ReadFull(far, make([]byte, 8))
			far.Write([]byte(answerFrame))
			// What comes unasked is seen when the next request is to be sent.
			far.Write([]byte(staleFrame))
			time.Sleep(options.Quiet / 2)
			far.Write([]byte(staleFrame))
			io.ReadFull(far, make([]byte, 8))
			far.Write([]byte(answerFrame))
			far.Close()
		})))
		for range 2 {
			if got, err := c.Do(t.Context(), reading); err != nil || fmt.Sprint(got) != "[1 2]" {
				t.Errorf("got %v, %v", got, err)
			}
		}
	})
}

// TestLineThatIsNeverQuiet: it cannot be used, and that is told in time.
func TestLineThatIsNeverQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLineRig(t, modbus.Line{})
		ticker := time.NewTicker(options.Quiet / 3)
		stop := make(chan struct{})
		var chattering sync.WaitGroup
		chattering.Go(func() {
			for {
				select {
				case <-ticker.C:
					r.wire.far().Write([]byte("x"))
				case <-stop:
					return
				}
			}
		})
		start := time.Now()
		if _, err := r.Do(t.Context(), reading); !errors.Is(err, modbus.ErrLine) || !strings.Contains(err.Error(), "does not become quiet") {
			t.Errorf("got %v", err)
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("told after %v", d)
		}
		close(stop)
		chattering.Wait()
		ticker.Stop()
		wait := r.device(8, answerFrame)
		r.wants(r.do(reading), "[1 2]")
		wait()
	})
}

// TestEchoIsNoConfirmation: on a line that echoes, a write that is not answered
// is not taken for confirmed.
func TestEchoIsNoConfirmation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLineRig(t, modbus.Line{})
		wait := r.device(8, readFrame, 10*time.Millisecond, answerFrame)
		r.wants(r.do(reading), "[1 2]")
		wait()
		wait = r.device(8, writeFrame, time.Second, writeFrame)
		start := time.Now()
		r.wants(r.do(writing), "[]")
		if d := time.Since(start); d < time.Second {
			t.Errorf("confirmed after %v", d)
		}
		wait()
		wait = r.device(8, writeFrame)
		r.wants(r.do(writing), "no answer")
		wait()
	})
}

// TestSerialTiming: between a frame and the next there is silence.
func TestSerialTiming(t *testing.T) {
	for _, x := range []struct {
		line modbus.Line
		want time.Duration
	}{
		{modbus.Line{}, 4010416},
		{modbus.Line{Baud: 1200}, 32083333},
		{modbus.Line{Baud: 115200, Turnaround: 20 * time.Millisecond}, 21750 * time.Microsecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			r := newLineRig(t, x.line)
			wait := r.device(8, answerFrame)
			r.wants(r.do(reading), "[1 2]")
			wait()
			start := time.Now()
			wait = r.device(8, answerFrame)
			r.wants(r.do(reading), "[1 2]")
			wait()
			if d := time.Since(start); d != x.want {
				t.Errorf("%+v: the next request after %v, want %v", x.line, d, x.want)
			}
		})
	}
}

// TestSerialPortStaysOpen: after answers that fail, but not when the port does.
func TestSerialPortStaysOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLineRig(t, modbus.Line{})
		for _, frame := range []string{"", "noise", answerFrame[:4]} {
			wait := r.device(8, frame)
			if got := r.do(reading); strings.Contains(got, "[") {
				t.Errorf("got %s", got)
			}
			wait()
		}
		if r.opened != 1 {
			t.Errorf("opened %d times", r.opened)
		}
		r.wire.cut()
		for range 2 {
			if _, err := r.Do(t.Context(), reading); !errors.Is(err, modbus.ErrLine) {
				t.Errorf("unplugged: %v", err)
			}
		}
		r.wire = newWire()
		before := r.opened
		// What was given up before may still be answered: reads of 2, 1 and 3
		// registers. So 4 are read first.
		wait := r.device(8, string(frame(17, 3, 8, 0, 7, 0, 8, 0, 9, 0, 10)), 8, answerFrame)
		r.wants(r.do(reading), "[1 2]")
		wait()
		if r.opened != before+1 {
			t.Errorf("opened %d times after it was plugged in again", r.opened-before)
		}
	})
}

// TestLateRefusalOfAWrite: it is not taken for the refusal of the next one, and
// no write is sent twice.
func TestLateRefusalOfAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests []string
		play := func(far io.ReadWriteCloser) {
			late := ""
			for {
				b := make([]byte, 8)
				if _, err := io.ReadFull(far, b); err != nil {
					return
				}
				requests = append(requests, string(b[1:6]))
				switch {
				case len(requests) == 1:
					late = string(frame(17, 0x86, 4))
				case b[1] == 3:
					far.Write([]byte(late))
					late = ""
					words := make([]byte, 2*int(b[5]))
					far.Write(frame(append([]byte{17, 3, byte(len(words))}, words...)...))
				default:
					far.Write(append([]byte(late), b...))
				}
			}
		}
		wire := newWire()
		var playing sync.WaitGroup
		playing.Go(func() { play(wire.far()) })
		c := modbus.NewSerialClientOn(modbus.Line{}, options, func() (serial.Port, error) { return wire.port(), nil })
		if _, err := c.Do(t.Context(), writing); !errors.Is(err, modbus.ErrNoAnswer) {
			t.Errorf("got %v", err)
		}
		other := writing
		other.Values = []uint16{6}
		if _, err := c.Do(t.Context(), other); err != nil {
			t.Errorf("the late refusal was taken for its own: %v", err)
		}
		wire.cut()
		playing.Wait()
		want := []string{"\x06\x00\x08\x00\x05", "\x03\x00\x08\x00\x01", "\x06\x00\x08\x00\x06"}
		if fmt.Sprintf("%q", requests) != fmt.Sprintf("%q", want) {
			t.Errorf("asked %q, want %q", requests, want)
		}
	})
}

// TestLateRefusals: when the unit also refuses what it is asked to catch up, its
// late refusals are waited for, and not taken for the next request's.
func TestLateRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLineRig(t, modbus.Line{})
		wait := r.device(8)
		r.wants(r.do(reading), "no answer")
		wait()
		refusal := string(frame(17, 0x83, 2))
		wait = r.device(8, refusal, 100*time.Millisecond, refusal, 8, answerFrame)
		r.wants(r.do(reading), "[1 2]")
		wait()
		wait = r.device(8, answerFrame) // all is well again
		r.wants(r.do(reading), "[1 2]")
		wait()
	})
}

// frame ends an RTU frame.
func frame(b ...byte) []byte {
	c := uint16(0xffff)
	for _, x := range b {
		c ^= uint16(x)
		for range 8 {
			odd := c & 1
			if c >>= 1; odd == 1 {
				c ^= 0xa001
			}
		}
	}
	return binary.LittleEndian.AppendUint16(b, c)
}

func TestSerialPortThatIsNotThere(t *testing.T) {
	c := modbus.NewSerialClient(modbus.Line{Device: "/dev/no-such-port"}, modbus.ClientOptions{})
	_, err := c.Do(t.Context(), reading)
	if !errors.Is(err, modbus.ErrLine) || !strings.Contains(err.Error(), "connecting: opening /dev/no-such-port: ") {
		t.Errorf("got %v", err)
	}
}

// TestHTTPAnswers: what the simulator, or something else at its address, may
// say.
func TestHTTPAnswers(t *testing.T) {
	var status int
	var body string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the key was carried elsewhere")
	}))
	defer elsewhere.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "secret" || r.URL.Path != "/base"+modbus.HTTPReadPath {
			t.Errorf("%s with the key %q", r.URL.Path, got)
		}
		w.Header().Set("Location", elsewhere.URL)
		w.WriteHeader(status)
		io.WriteString(w, body)
	}))
	defer server.Close()
	c := modbus.NewHTTPClient(server.URL+"/base/", modbus.ClientOptions{Key: "secret"})
	defer c.Close()
	for _, x := range []struct {
		status int
		body   string
		want   error
		text   string
	}{
		{200, `{"frame": "110304000100023bf3"}`, nil, ""},
		{200, `{"frame": "1103040001000 2A32"}`, modbus.ErrAnswer, "not in hexadecimal digits"},
		{200, `{"frame": "1103040001000"}`, modbus.ErrAnswer, "not in hexadecimal digits"},
		{200, `{"frame": "1183` + strings.Repeat("00", 255) + `"}`, modbus.ErrAnswer, "514 hexadecimal digits"},
		{200, `{"frame": ""}`, modbus.ErrNoAnswer, "the frame is empty"},
		{200, `{}`, modbus.ErrNoAnswer, "the frame is empty"},
		{200, `<html>`, modbus.ErrAnswer, "invalid character"},
		{200, strings.Repeat(" ", 5000), modbus.ErrAnswer, "more than 4096 bytes"},
		{200, `{"frame": "1103040001000200"}`, modbus.ErrAnswer, "cut short"},
		{200, `{"frame": "1103040001000200003bf3"}`, modbus.ErrAnswer, "its CRC is wrong"},
		{200, `{"frame": "110304000100023bf300"}`, modbus.ErrAnswer, "more follows"},
		{200, `{"frame": "118302c134"}`, modbus.ErrIllegalAddress, ""},
		{401, `{}`, modbus.ErrNoAnswer, "the key is not accepted (status 401)"},
		{403, `{}`, modbus.ErrNoAnswer, "the key is not accepted (status 403)"},
		{500, `{"frame": "1103040001000 23bf3"}`, modbus.ErrNoAnswer, "status 500"},
		{307, `{}`, modbus.ErrNoAnswer, "status 307"},
	} {
		status, body = x.status, x.body
		got, err := c.Do(t.Context(), reading)
		if !errors.Is(err, x.want) || (err == nil) != (fmt.Sprint(got) == "[1 2]") || !strings.Contains(fmt.Sprint(err), x.text) {
			t.Errorf("%d %.60s: %v, %v; want %v and %q", x.status, x.body, got, err, x.want, x.text)
		}
	}
	server.Close()
	c.Close()
	if _, err := c.Do(t.Context(), reading); !errors.Is(err, modbus.ErrLine) || strings.Contains(err.Error(), "secret") {
		t.Errorf("nobody there: %v", err)
	}
}

// TestWriteThatWaitsForALateAnswer: before a write that might be confirmed by the
// late answer to another one, the unit is asked something else. When that is not
// answered, the write was never sent, and the error tells so.
func TestWriteThatWaitsForALateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLineRig(t, modbus.Line{})
		wait := r.device(len(writeFrame), len(readFrame))
		for i, notExecuted := range []bool{false, true} {
			_, err := r.Do(t.Context(), writing)
			if !errors.Is(err, modbus.ErrNoAnswer) || modbus.NotExecuted(err) != notExecuted {
				t.Errorf("write %d: %v; certainly not executed: %v, want %v", i+1, err, modbus.NotExecuted(err), notExecuted)
			}
		}
		wait()
	})
}
