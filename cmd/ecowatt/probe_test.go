package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/inverter/modbus"
)

// startInverter answers by h on a free port until the test ends.
func startInverter(t *testing.T, h modbus.Handler) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- modbus.NewServer(h, modbus.ServerOptions{}).Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// probeCommand runs "ecowatt probe" with args.
func probeCommand(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, talk bytes.Buffer
	code = run(t.Context(), append([]string{"probe"}, args...), func(string) string { return "" },
		stdio{in: strings.NewReader(""), out: &out, err: &talk})
	return code, out.String(), talk.String()
}

// bank is an inverter with the registers of the simulator, of which it refuses
// some.
func bank(refused map[uint16]error) modbus.Handler {
	words := [...]uint16{2304, 217, 5001, 2690, 9, 123, 20000, 0xff85, 100, 5000}
	return func(_ context.Context, r modbus.Request) ([]uint16, error) {
		if r.Unit != 17 || r.Function != modbus.ReadHolding || int(r.Address)+int(r.Count) > len(words) {
			return nil, modbus.ErrGatewayTarget
		}
		for at, err := range refused {
			if at >= r.Address && at < r.Address+r.Count {
				return nil, err
			}
		}
		return words[r.Address : r.Address+r.Count], nil
	}
}

const probeHead = `
POINT                 VALUE  UNIT   RAW
vac1                  230.4  V     2304
iac1                   21.7  A      217
fac1                  50.01  Hz    5001
vpv1                  269.0  V     2690
`

func TestProbe(t *testing.T) {
	for _, x := range []struct {
		name    string
		refused map[uint16]error
		want    string
	}{
		{"all but what cannot be", nil, probeHead + `
vpv2                    0.9  V        9
ipv1                   12.3  A      123
ipv2                      —  A        —  2000.0 is outside of what the point can be
temp                  -12.3  °C    -123
export_power_percent    100  %      100
pac                    5000  W     5000
`},
		{"registers that are not there", map[uint16]error{4: modbus.ErrIllegalAddress, 5: modbus.ErrIllegalAddress}, probeHead + `
vpv2                      —  V        —  exception 02: illegal data address
ipv1                      —  A        —  exception 02: illegal data address
ipv2                      —  A        —  2000.0 is outside of what the point can be
temp                  -12.3  °C    -123
export_power_percent    100  %      100
pac                    5000  W     5000
`},
	} {
		t.Run(x.name, func(t *testing.T) {
			address := startInverter(t, bank(x.refused))
			code, stdout, stderr := probeCommand(t, "modbus-tcp://"+address, "--profile", "ecowatt-sim")
			want := strings.TrimPrefix(strings.ReplaceAll(x.want, "\n\n", "\n"), "\n")
			if diff := cmp.Diff(want, stdout); diff != "" || code != 0 || stderr != "" {
				t.Errorf("exit code %d, stderr %q, stdout: %s", code, stderr, diff)
			}
		})
	}
}

func TestProbeJSON(t *testing.T) {
	address := startInverter(t, bank(map[uint16]error{9: modbus.ErrIllegalAddress}))
	code, stdout, stderr := probeCommand(t, "modbus-tcp://"+address, "--profile", "ecowatt-sim", "--json", "--unit", "17")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	var got struct {
		Endpoint, Profile string
		Unit              int
		Points            []json.RawMessage
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if got.Endpoint != "modbus-tcp://"+address || got.Profile != "ecowatt-sim" || got.Unit != 17 || len(got.Points) != 10 {
		t.Errorf("%+v", got)
	}
	for i, want := range map[int]string{
		0: `{"name":"vac1","unit":"V","exponent":-1,"raw":2304,"value":230.4}`,
		7: `{"name":"temp","unit":"°C","exponent":-1,"raw":-123,"value":-12.3}`,
		9: `{"name":"pac","unit":"W","exponent":0,"raw":null,"value":null,"error":"exception 02: illegal data address"}`,
	} {
		var compact bytes.Buffer
		if err := json.Compact(&compact, got.Points[i]); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, compact.String()); diff != "" {
			t.Error(diff)
		}
	}
}

// TestProbeSim: what the simulator answers, the probe understands.
func TestProbeSim(t *testing.T) {
	address, _ := startSim(t, "--start-at", "10:30", "--inverters", "2")
	code, stdout, stderr := probeCommand(t, "modbus-tcp://"+address, "--unit", "18", "--profile", "ecowatt-sim")
	if code != 0 || strings.Count(stdout, "\n") != 11 || strings.Contains(stdout, missing) {
		t.Errorf("exit code %d\n%s%s", code, stdout, stderr)
	}
}

func TestProbeRefuses(t *testing.T) {
	silent := startInverter(t, func(context.Context, modbus.Request) ([]uint16, error) { return nil, modbus.ErrSilence })
	broken := startInverter(t, func(context.Context, modbus.Request) ([]uint16, error) { return nil, errors.New("broken") })
	nobody := startInverter(t, bank(nil))
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, x := range []struct {
		args string
		code int
		want []string
	}{
		{"modbus-tcp://" + closed.Addr().String() + " --profile ecowatt-sim --unit 17", 1, []string{closed.Addr().String(), "refused"}},
		{"modbus-tcp://" + silent + " --profile ecowatt-sim --timeout 50ms", 1, []string{silent, "no answer within 50ms"}},
		{"modbus-tcp://" + broken + " --profile ecowatt-sim", 1, []string{broken, "exception 04"}},
		{"modbus-tcp://" + nobody + " --profile ecowatt-sim --unit 18", 1, []string{nobody, "unit 18", "exception 0b"}},
		{"modbus-tcp://" + nobody + " --profile acme", 1, []string{"--profile", "acme", "ecowatt-sim"}},
		{"modbus-tcp://" + nobody, 2, []string{"--profile", "ecowatt-sim"}},
		{nobody + " --profile ecowatt-sim", 2, []string{nobody, "modbus-tcp://HOST:PORT"}},
		{"modbus-tcp://" + nobody + " --profile ecowatt-sim --unit 256", 2, []string{"--unit", "256"}},
		{"modbus-tcp://" + nobody + " --profile ecowatt-sim --timeout 0s", 2, []string{"--timeout", "0s"}},
		{"modbus-tcp://" + nobody + " --profile ecowatt-sim --key-file /dev/null", 2, []string{"--key-file", "only an http address"}},
		{"http://" + nobody + " --profile ecowatt-sim --key-file /dev/null", 1, []string{"--key-file", "/dev/null is no file"}},
		{"", 2, []string{"modbus-tcp://HOST:PORT"}},
		{"modbus-tcp://a modbus-tcp://b", 2, []string{"modbus-tcp://b"}},
	} {
		t.Run(x.args, func(t *testing.T) {
			code, stdout, stderr := probeCommand(t, strings.Fields(x.args)...)
			if lines := strings.Count(stderr, "\n"); code != x.code || stdout != "" || lines < 1 || lines > 2 {
				t.Errorf("exit code %d, want %d; stdout %q, stderr:\n%s", code, x.code, stdout, stderr)
			}
			first, _, _ := strings.Cut(stderr, "\n")
			for _, want := range x.want {
				if !strings.Contains(first, want) {
					t.Errorf("does not name %q: %s", want, first)
				}
			}
		})
	}
}

// TestProbeAsksOnce: one attempt for what is not answered, and no more time for
// the rest.
func TestProbeAsksOnce(t *testing.T) {
	asked := make(chan struct{}, 100)
	address := startInverter(t, func(context.Context, modbus.Request) ([]uint16, error) {
		asked <- struct{}{}
		return nil, modbus.ErrSilence
	})
	began := time.Now()
	if code, _, _ := probeCommand(t, "modbus-tcp://"+address, "--profile", "ecowatt-sim", "--timeout", "50ms"); code != 1 || len(asked) != 1 {
		t.Errorf("exit code %d, asked %d times in %v", code, len(asked), time.Since(began))
	}
}

// TestProbeKey: the key goes to the inverter and nowhere else.
func TestProbeKey(t *testing.T) {
	const secret = "Tk9UIEEgS0VZ:x"
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"probe", server.URL, "--profile", "ecowatt-sim", "--key-file", file},
		{"profile", "discover", server.URL, "--name", "roof", "--key-file", file},
	} {
		asked = nil
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), args, func(string) string { return "" }, stdio{in: strings.NewReader(""), out: &stdout, err: &stderr})
		if code != int(exitFailed) || len(asked) != 1 || asked[0] != secret || strings.Contains(stdout.String()+stderr.String(), secret) {
			t.Errorf("%s: exit code %d, asked with %q\n%s%s", args[0], code, asked, &stdout, &stderr)
		}
	}
}
