//go:build linux

package sim

import (
	"bytes"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	foreign "github.com/simonvetter/modbus"

	"ecowatt/inverter/modbus"
)

// TestHTTP: what the HTTP interface takes, and what it does not.
func TestHTTP(t *testing.T) {
	s := serveAll(t, Options{})
	do := func(method, path, key, body string) (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, s.http+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", key)
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		text, err := io.ReadAll(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		return a.StatusCode, string(text)
	}
	const limitFrame = `{"frame": "1103000800010758"}` // reads register 8 of unit 17
	for _, x := range []struct {
		name, method, path, key, body string
		status                        int
		want                          string
	}{
		{"read", "POST", modbus.HTTPReadPath, testKey, limitFrame, 200, `{"frame":"1103020064`},
		{"no key", "POST", modbus.HTTPReadPath, "", limitFrame, 401, "key"},
		{"wrong key", "POST", modbus.HTTPReadPath, testKey + "x", limitFrame, 401, "key"},
		{"faults without the key", "POST", FaultsPath, "", `{"fault": "drop"}`, 401, "key"},
		{"a read to write", "POST", modbus.HTTPWritePath, testKey, limitFrame, 400, "function 03 does not belong"},
		{"bad CRC", "POST", modbus.HTTPReadPath, testKey, `{"frame": "1103000800010658"}`, 400, "no RTU frame"},
		{"no frame", "POST", modbus.HTTPReadPath, testKey, `{}`, 400, "no RTU frame"},
		{"no hexadecimal digits", "POST", modbus.HTTPReadPath, testKey, `{"frame": "xy"}`, 400, "hexadecimal"},
		{"no JSON", "POST", modbus.HTTPReadPath, testKey, `frame`, 400, "error"},
		{"too long", "POST", modbus.HTTPReadPath, testKey, `"` + strings.Repeat("x", 5000), 400, "too large"},
		{"other method", "GET", modbus.HTTPReadPath, testKey, "", 405, ""},
		{"what they do", "GET", InvertersPath, testKey, "", 200, `[{"unit":17,"profile":"ecowatt-sim","status":"producing","power_w":`},
		{"what they do, without the key", "GET", InvertersPath, "", "", 401, "key"},
		{"no such flag", "POST", ErrorFlagPath, testKey, `{"errorType": "FIRE"}`, 400, "FIRE"},
		{"no such member", "POST", ErrorFlagPath, testKey, `{"errorType": "CORRUPT", "x": 1}`, 400, "x"},
		{"no code", "POST", ErrorFlagPath, testKey, `{"errorType": "EXCEPTION"}`, 400, "code"},
		{"no delay", "POST", ErrorFlagPath, testKey, `{"errorType": "DELAY"}`, 400, "for"},
		{"exception", "POST", ErrorFlagPath, testKey, `{"errorType": "EXCEPTION", "exceptionCode": 4}`, 204, ""},
		{"then", "POST", modbus.HTTPReadPath, testKey, limitFrame, 200, `{"frame":"118304`},
		{"once only", "POST", modbus.HTTPReadPath, testKey, limitFrame, 200, `{"frame":"1103020064`},
		{"drop", "POST", ErrorFlagPath, testKey, `{"errorType": "PACKET_DROP"}`, 204, ""},
		{"dropped", "POST", modbus.HTTPReadPath, testKey, limitFrame, 200, `{"frame":""}`},
		{"delay", "POST", ErrorFlagPath, testKey, `{"errorType": "DELAY", "delayMs": 1}`, 204, ""},
		{"delayed", "POST", modbus.HTTPReadPath, testKey, limitFrame, 200, `{"frame":"1103020064`},
		{"bad rule", "POST", FaultsPath, testKey, `{"fault": "rain"}`, 400, "rain"},
		{"rule", "POST", FaultsPath, testKey, `{"fault": "exception", "code": 6}`, 204, ""},
		{"as ruled", "POST", modbus.HTTPReadPath, testKey, limitFrame, 200, `{"frame":"118306`},
		{"still", "POST", modbus.HTTPReadPath, testKey, limitFrame, 200, `{"frame":"118306`},
		{"end", "DELETE", FaultsPath, testKey, "", 204, ""},
		{"ended", "POST", modbus.HTTPReadPath, testKey, limitFrame, 200, `{"frame":"1103020064`},
	} {
		status, got := do(x.method, x.path, x.key, x.body)
		if status != x.status || !strings.Contains(got, x.want) {
			t.Errorf("%s: %d %s, want %d %s", x.name, status, got, x.status, x.want)
		}
	}
	for _, kind := range []string{"CRC_ERROR", "CORRUPT"} {
		do("POST", ErrorFlagPath, testKey, `{"errorType": "`+kind+`"}`)
		c := s.clients(t)["http"]
		if got, err := c.Do(t.Context(), all(17)); !errors.Is(err, modbus.ErrAnswer) {
			t.Errorf("%s: %v, %v", kind, got, err)
		}
	}
}

// TestForeignClients: programs of others read the simulator, and write to it.
func TestForeignClients(t *testing.T) {
	s := serveAll(t, Options{Inverters: ours(2)})
	for _, url := range []string{"tcp://" + s.tcp, "rtuovertcp://" + s.rtu, "rtu://" + s.port} {
		c, err := foreign.NewClient(&foreign.ClientConfiguration{URL: url, Speed: 19200, Timeout: 5 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Open(); err != nil {
			t.Fatal(url, err)
		}
		for i, unit := range []uint8{17, 18} {
			c.SetUnitId(unit)
			s.later()
			if got, err := c.ReadRegisters(0, 10, foreign.HOLDING_REGISTER); err != nil || !slices.Equal(got, s.asked(t).Words) {
				t.Errorf("%s unit %d: %v, %v", url, unit, got, err)
			}
			percent := uint16(50 + i)
			err := errors.Join(c.WriteRegister(8, 33), c.WriteRegisters(8, []uint16{percent}))
			if got, failed := c.ReadRegister(8, foreign.HOLDING_REGISTER); err != nil || failed != nil || got != percent {
				t.Errorf("%s unit %d: writing: %v, %v, reads %d", url, unit, err, failed, got)
			}
			if _, err := c.ReadRegister(10, foreign.HOLDING_REGISTER); !errors.Is(err, foreign.ErrIllegalDataAddress) {
				t.Errorf("%s: a register that is not there: %v", url, err)
			}
		}
		c.Close()
	}
}

// TestMbpoll: a program of others reads the simulator.
func TestMbpoll(t *testing.T) {
	program, err := exec.LookPath("mbpoll")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("mbpoll is missing; scripts/setup.sh installs it")
		}
		t.Skip("mbpoll is missing; scripts/setup.sh installs it")
	}
	s := newSimulator(t, Options{Speed: 1e-9, Inverters: ours(2)})
	host, port, err := net.SplitHostPort(serve(t, s).String())
	if err != nil {
		t.Fatal(err)
	}
	poll := func(t *testing.T, args ...string) (string, error) {
		t.Helper()
		args = append([]string{"-m", "tcp", "-p", port, "-0", "-1", "-t", "4", "-o", "5"}, args...)
		out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
		return string(out), err
	}
	value := regexp.MustCompile(`(?m)^\[(\d+)\]:\s+(\d+)`)
	for _, unit := range []byte{17, 18} {
		out, err := poll(t, "-a", strconv.Itoa(int(unit)), "-r", "0", "-c", "10", host)
		if err != nil {
			t.Fatalf("unit %d: %v\n%s", unit, err, out)
		}
		want, err := s.Handle(t.Context(), all(unit))
		if err != nil {
			t.Fatal(err)
		}
		got := make([]uint16, 10)
		for _, m := range value.FindAllStringSubmatch(out, -1) {
			at, _ := strconv.Atoi(m[1])
			word, err := strconv.ParseUint(m[2], 10, 16)
			if err != nil || at >= len(got) {
				t.Fatalf("%q: %v", m[0], err)
			}
			got[at] = uint16(word)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("unit %d: %s\n%s", unit, diff, out)
		}
		if r := s.model(int(unit) - 17); math.Abs(float64(got[9])-r.pac) > 0.5 || math.Abs(float64(got[2])/100-r.fac) > 0.005 {
			t.Errorf("unit %d: %v, the model says %+v", unit, got, r)
		}
	}
	out, err := poll(t, "-a", "17", "-r", "8", host, "55")
	if words := s.mustRead(t); err != nil || words[8] != 55 {
		t.Errorf("writing 55 %%: %v, limited to %d %%\n%s", err, words[8], out)
	}
	if out, err := poll(t, "-a", "17", "-r", "10", "-c", "1", host); err == nil || !strings.Contains(out, "Illegal data address") {
		t.Errorf("a register that is not there: %v\n%s", err, out)
	}
}

// TestMbpollLine: the tool of installers reads the simulator on a serial line.
func TestMbpollLine(t *testing.T) {
	program, err := exec.LookPath("mbpoll")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("mbpoll is missing; scripts/setup.sh installs it")
		}
		t.Skip("mbpoll is missing; scripts/setup.sh installs it")
	}
	s := serveAll(t, Options{})
	out, err := exec.CommandContext(t.Context(), program, "-m", "rtu", "-b", "9600", "-P", "none", "-0", "-1", "-q",
		"-t", "4", "-o", "5", "-a", "17", "-r", "0", "-c", "10", s.port).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got []uint16
	for line := range bytes.Lines(out) {
		if _, word, ok := bytes.Cut(line, []byte("]: \t")); ok {
			n, err := strconv.ParseUint(strings.Fields(string(word))[0], 10, 16)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			got = append(got, uint16(n))
		}
	}
	if diff := cmp.Diff(s.asked(t).Words, got); diff != "" {
		t.Errorf("(-served +read):\n%s\n%s", diff, out)
	}
}
