package e2e

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// An inverter that is not there and a cloud that is not there are ordinary
// days: the agent says so, keeps trying, keeps sampling, and catches up.
func TestOutages(t *testing.T) {
	f := newFleet(t, 1)
	f.sim.stop(t)
	f.startRoof(t, "roof-1")
	eventually(t, "the inverter is away, and the agent says why", func() bool {
		s, ok := f.status(t, "roof-1")
		return ok && s.Inverters[0].State == "away" && strings.Contains(s.Inverters[0].Error, "refused")
	})
	if s := must(t, nil, "ecowatt-agent", "status", "--dir", f.roof("roof-1")); !strings.Contains(s, "away") {
		t.Errorf("status does not say that the inverter is away:\n%s", s)
	}
	f.startSim(t, 1)
	f.awaitServed(t, 2)
	f.cloud.kill(t)
	f.awaitServed(t, 3)
	eventually(t, "the agent says that the cloud is away and keeps samples", func() bool {
		s, ok := f.status(t, "roof-1")
		return ok && s.Uplink.Failures > 0 && s.Uplink.Error != "" && s.Inverters[0].State == "answering" && s.Buffer.Samples+s.Buffer.Messages >= 2
	})
	f.startCloud(t)
	f.awaitServed(t, 2)
	f.sim.stop(t)
	eventually(t, "everything is sent", func() bool {
		s, ok := f.status(t, "roof-1")
		return ok && s.Buffer.Samples == 0 && s.Buffer.Messages == 0
	})
	f.compare(t, "roof-1", 17, f.readTrace(t), 1)
	log := must(t, f.env, "ecowatt", "log", "--device", "roof-1")
	for _, want := range []string{"inverter_away", "inverter_back"} {
		if !strings.Contains(log, want) {
			t.Errorf("the cloud's log lacks %s:\n%s", want, log)
		}
	}
	f.launchers["roof-1"].stop(t)
	f.cloud.stop(t)
}

// recorder passes requests on to the cloud and remembers their bodies: a
// proxy that nobody should have to trust.
type recorder struct {
	mu     sync.Mutex
	bodies map[string][][]byte // by path
}

func (r *recorder) serve(t *testing.T, cloud string) string {
	t.Helper()
	target, err := url.Parse("http://" + cloud)
	if err != nil {
		t.Fatal(err)
	}
	r.bodies = map[string][][]byte{}
	proxy := httputil.NewSingleHostReverseProxy(target)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.bodies[req.URL.Path] = append(r.bodies[req.URL.Path], body)
		r.mu.Unlock()
		req.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func (r *recorder) recorded(path string) [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bodies[path]
}

// What a proxy recorded is worth nothing to it: replayed, changed or cut, also
// after a restart of the cloud, it is refused and has no effect.
//
// Attacks: R1, R4, O1
func TestReplay(t *testing.T) {
	f := newFleet(t, 1)
	var proxy recorder
	through := proxy.serve(t, f.cloudAddr)
	settings, err := os.ReadFile(filepath.Join(f.roof("roof-1"), "agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(f.roof("roof-1"), "agent.yaml"), strings.Replace(string(settings), f.cloudAddr, through, 1))
	f.startRoof(t, "roof-1")
	eventually(t, "three exchanges", func() bool { return len(proxy.recorded("/v1/exchange")) >= 3 })
	f.sim.stop(t)
	f.launchers["roof-1"].stop(t)

	post := func(path string, body []byte) (int, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+f.cloudAddr+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/vnd.ecowatt.v1")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, answer
	}
	refused := []byte{'E', 'W', 1, 0x7f, 0, 2, 0, 0}
	before := must(t, f.env, "ecowatt", "telemetry", "show", "roof-1", "--since", "1h", "--json")
	attack := func(when string) {
		t.Helper()
		for i, body := range proxy.recorded("/v1/exchange") {
			if code, answer := post("/v1/exchange", body); code != 401 || !bytes.Equal(answer, refused) {
				t.Errorf("%s: replay of request %d: %d %x", when, i, code, answer)
			}
			for _, at := range []int{0, 9, 31, 40, len(body) / 2, len(body) - 1} {
				changed := bytes.Clone(body)
				changed[at] ^= 1
				if code, _ := post("/v1/exchange", changed); code != 401 && code != 400 {
					t.Errorf("%s: request %d with byte %d changed: %d", when, i, at, code)
				}
				if code, _ := post("/v1/exchange", body[:at]); code != 401 && code != 400 {
					t.Errorf("%s: request %d cut at %d: %d", when, i, at, code)
				}
			}
		}
		for i, body := range proxy.recorded("/v1/session") {
			if code, answer := post("/v1/session", body); code != 401 || !bytes.Equal(answer, refused) {
				t.Errorf("%s: replay of handshake %d: %d %x", when, i, code, answer)
			}
		}
		if after := must(t, f.env, "ecowatt", "telemetry", "show", "roof-1", "--since", "1h", "--json"); after != before {
			t.Errorf("%s: what is stored has changed:\n%s\n%s", when, before, after)
		}
	}
	attack("cloud as it was")
	f.cloud.kill(t)
	f.startCloud(t)
	attack("cloud killed and started again")
	f.cloud.stop(t)
}
