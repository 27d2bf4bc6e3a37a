package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fleet is a simulator, a cloud and gateways, each a process of its own.
type fleet struct {
	dir       string
	simAddr   string
	cloudAddr string
	roofs     []string
	env       []string // for the CLI: where the cloud is, and the token
	loud      bool     // whether the cloud tells everything
	control   string   // address of the simulator's HTTP interface, where inverters are controlled

	sim, cloud *process
	launchers  map[string]*process
}

// settings are the agent.yaml of a gateway under test: everything is quick,
// and every sample is on disk before the next.
const settings = `cloud_url: http://%s
inverters:
  - {name: inv1, connect: "modbus-tcp://%s", unit: %d, profile: ecowatt-sim}
sampling_interval: 1
upload_interval: 1
flush_interval: 0
`

// newFleet sets up n gateways and starts everything but them.
func newFleet(t *testing.T, n int) *fleet {
	t.Helper()
	f := &fleet{}
	f.setUp(t, n)
	return f
}

func (f *fleet) setUp(t *testing.T, n int) {
	t.Helper()
	f.startServers(t, n)
	for i := range n {
		f.addRoof(t, fmt.Sprintf("roof-%d", i+1), 17+i)
	}
}

// startServers starts a simulator of n inverters, and the cloud.
func (f *fleet) startServers(t *testing.T, n int) {
	t.Helper()
	f.dir, f.simAddr, f.cloudAddr, f.launchers = t.TempDir(), freeAddress(t), freeAddress(t), map[string]*process{}
	f.env = []string{"ECOWATT_URL=http://" + f.cloudAddr, "ECOWATT_TOKEN_FILE=" + filepath.Join(f.dir, "cloud", "token")}
	f.startSim(t, n)
	f.startCloud(t)
}

func (f *fleet) trace() string { return filepath.Join(f.dir, "served.jsonl") }

func (f *fleet) startSim(t *testing.T, units int) {
	t.Helper()
	args := []string{"sim", "--modbus-tcp", f.simAddr, "--inverters", fmt.Sprint(units), "--start-at", "10:30", "--trace", f.trace()}
	if f.control != "" {
		args = append(args, f.watched()...)
	}
	f.sim = start(t, "ecowatt", args...)
	f.sim.line(t, 0, `listening`)
}

func (f *fleet) startCloud(t *testing.T) {
	t.Helper()
	level := "info"
	if f.loud {
		level = "debug"
	}
	f.cloud = start(t, "ecowatt", "serve", "--data", filepath.Join(f.dir, "cloud"), "--listen", f.cloudAddr, "--slot", "1s", "--log-level", level)
	f.cloud.line(t, 0, `listening`)
}

func (f *fleet) roof(name string) string { return filepath.Join(f.dir, name) }

// addRoof enrols one more gateway, with an agent in slot a, and starts nothing.
func (f *fleet) addRoof(t *testing.T, name string, unit int) {
	t.Helper()
	f.installRoof(t, name, unit, f.enrolment(t, name))
}

// installRoof makes a gateway of an enrolment file.
func (f *fleet) installRoof(t *testing.T, name string, unit int, enrolment string) {
	t.Helper()
	must(t, nil, "ecowatt-agent", "enroll", enrolment, "--dir", f.roof(name))
	text := fmt.Sprintf(settings, f.cloudAddr, f.simAddr, unit)
	if f.control != "" {
		text = f.controlled(t, name, text)
	}
	slot := filepath.Join(f.roof(name), "slots", "a")
	if err := os.MkdirAll(slot, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(bin, "ecowatt-agent"), filepath.Join(slot, "ecowatt-agent")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(f.roof(name), "agent.yaml"), text)
	f.roofs = append(f.roofs, name)
}

func (f *fleet) startRoof(t *testing.T, name string) {
	t.Helper()
	f.launchers[name] = start(t, "ecowatt-boot", "--dir", f.roof(name))
}

// agentStatus is what is read here of an agent's status.
type agentStatus struct {
	PID       int    `json:"pid"`
	Version   string `json:"version"`
	Inverters []struct {
		State string `json:"state"`
		Error string `json:"error"`
	} `json:"inverters"`
	Buffer struct {
		Samples  int `json:"samples"`
		Messages int `json:"messages"`
	} `json:"buffer"`
	Uplink struct {
		State    string  `json:"state"`
		NextIn   float64 `json:"next_in_s"`
		Failures int     `json:"failures"`
		Error    string  `json:"error"`
	} `json:"uplink"`
	Config struct {
		Revision uint64 `json:"revision"`
		OnTrial  bool   `json:"on_trial"`
	} `json:"configuration"`
}

// status asks a roof's agent; ok is false while none runs.
func (f *fleet) status(t *testing.T, name string) (s agentStatus, ok bool) {
	t.Helper()
	r := run(t, nil, "ecowatt-agent", "status", "--dir", f.roof(name), "--json")
	if r.code != 0 {
		return s, false
	}
	return parseJSON[agentStatus](t, r.stdout), true
}

// served is one line of the simulator's trace.
type served struct {
	T       int64   `json:"t"`
	Unit    int     `json:"unit"`
	Address int     `json:"address"`
	Words   []int64 `json:"words"`
}

// readTrace is what the simulator has served so far, whole lines only.
func (f *fleet) readTrace(t *testing.T) []served {
	t.Helper()
	data, err := os.ReadFile(f.trace())
	if err != nil {
		t.Fatal(err)
	}
	var all []served
	for line := range strings.Lines(string(data)) {
		var s served
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("trace: %v in %q", err, line)
		}
		all = append(all, s)
	}
	return all
}
