package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// simKey is what the simulator's HTTP interface wants to hear.
const simKey = "the key of the tests"

// watchedProfile is that of the simulator, of an inverter that takes a second to
// follow a limit and is judged by its power.
const watchedProfile = `format: 1
name: watched
title: the simulator, watched
source: these tests
trust: verified
unit: 17
block_limit: 125
gap_limit: 16
registers:
  - {point: vac1, address: 0, exponent: -1, unit: V, valid: [0, 5000]}
  - {point: iac1, address: 1, exponent: -1, unit: A, valid: [0, 10000]}
  - {point: fac1, address: 2, exponent: -2, unit: Hz, valid: [0, 7000]}
  - {point: vpv1, address: 3, exponent: -1, unit: V, valid: [0, 15000]}
  - {point: vpv2, address: 4, exponent: -1, unit: V, valid: [0, 15000]}
  - {point: ipv1, address: 5, exponent: -1, unit: A, valid: [0, 10000]}
  - {point: ipv2, address: 6, exponent: -1, unit: A, valid: [0, 10000]}
  - {point: temp, address: 7, type: s16, exponent: -1, unit: °C, valid: [-500, 1500]}
  - point: export_power_percent
    address: 8
    unit: "%"
    valid: [0, 100]
    write: {range: [0, 100], settle: 1s, proof: pac}
  - {point: pac, address: 9, unit: W}
  - {point: rated_power, address: 10, unit: W}
`

// newControlled is newFleet with inverters that the gateways may write to.
func newControlled(t *testing.T, n int) *fleet {
	t.Helper()
	f := &fleet{control: freeAddress(t)}
	f.setUp(t, n)
	return f
}

// watched are the arguments of a simulator whose inverters are controlled. They
// follow a limit at once, and answer a write after some time, in which something can
// happen.
func (f *fleet) watched() []string {
	folder := filepath.Join(f.dir, "profiles")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		panic(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "watched.yaml"), []byte(watchedProfile), 0o600); err != nil {
		panic(err)
	}
	return []string{"--http", f.control, "--http-key", simKey, "--profiles", folder, "--profile", "watched", "--limit-ramp", "100"}
}

// controlled is the agent.yaml of a gateway that may write.
func (f *fleet) controlled(t *testing.T, name, text string) string {
	t.Helper()
	folder := filepath.Join(f.roof(name), "profiles")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(folder, "watched.yaml"), watchedProfile)
	return strings.Replace(text, "profile: ecowatt-sim", "profile: watched", 1) + "allow_control: true\nhold: 20\nbuffer_limit_mib: 1\n"
}

// setting changes a line of a gateway's agent.yaml.
func (f *fleet) setting(t *testing.T, name, from, to string) {
	t.Helper()
	file := filepath.Join(f.roof(name), "agent.yaml")
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), from) {
		t.Fatalf("%s lacks %q (%v)", file, from, err)
	}
	writeFile(t, file, strings.Replace(string(text), from, to, 1))
}

// misbehave orders a fault, or with "" that all of them end.
func (f *fleet) misbehave(t *testing.T, fault string) {
	t.Helper()
	method := http.MethodPost
	if fault == "" {
		method = http.MethodDelete
	}
	f.askSim(t, method, "/api/sim/faults", fault)
}

func (f *fleet) askSim(t *testing.T, method, path, body string) []byte {
	t.Helper()
	a, err := send(t.Context(), f.control, method, path, []byte(body), http.Header{"Authorization": {simKey}, "Content-Type": {"application/json"}})
	if err != nil || a.status >= 300 {
		t.Fatalf("%s %s %s: %d %s %v", method, path, body, a.status, a.body, err)
	}
	return a.body
}

// inForce is the limit that an inverter keeps to in truth, in %.
func (f *fleet) inForce(t *testing.T, unit int) float64 {
	t.Helper()
	type doing struct {
		Unit    int     `json:"unit"`
		InForce float64 `json:"in_force_percent"`
	}
	all := parseJSON[[]doing](t, string(f.askSim(t, http.MethodGet, "/api/sim/inverters", "")))
	i := slices.IndexFunc(all, func(d doing) bool { return d.Unit == unit })
	if i < 0 {
		t.Fatalf("no inverter has the unit %d: %v", unit, all)
	}
	return all[i].InForce
}

// awaitLimit waits until an inverter keeps to a limit.
func (f *fleet) awaitLimit(t *testing.T, unit int, percent float64) {
	t.Helper()
	eventually(t, fmt.Sprintf("unit %d keeps to %v %%", unit, percent), func() bool { return f.inForce(t, unit) == percent })
}

// given is a value that a command writes.
type given struct {
	unit    int
	percent string
}

// writes counts how often a value was written to an inverter, by the words of the
// simulators so far.
func writes(sims []*process, g given) (n int) {
	text := fmt.Sprintf(`msg="control written" unit=%d percent=%s `, g.unit, g.percent)
	for _, s := range sims {
		n += strings.Count(string(s.said()), text)
	}
	return n
}

// order is a command as "ecowatt command … --json" tells of it.
type order struct {
	ID          string     `json:"id"`
	Device      string     `json:"device"`
	State       string     `json:"state"`
	Code        string     `json:"code"`
	Text        string     `json:"text"`
	Value       *float64   `json:"value"`
	QueuedAt    time.Time  `json:"queued_at"`
	DeliveredAt *time.Time `json:"delivered_at"`
	ExecutingAt *time.Time `json:"executing_at"`
	EndedAt     *time.Time `json:"ended_at"`
}

func (o order) String() string {
	return fmt.Sprintf("command %s of %s: %s (%s): %s", o.ID, o.Device, o.State, o.Code, o.Text)
}

// orders gives a command, and does not wait for it.
func (f *fleet) orders(t *testing.T, args ...string) order {
	t.Helper()
	return parseJSON[order](t, must(t, f.env, "ecowatt", append(append([]string{"command"}, args...), "--json")...))
}

// ended gives a command and waits until it is known how it ended.
func (f *fleet) ended(t *testing.T, args ...string) order {
	t.Helper()
	return f.end(t, f.orders(t, args...).ID)
}

// look is a command as it is now.
func (f *fleet) look(t *testing.T, id string) order {
	t.Helper()
	return parseJSON[order](t, must(t, f.env, "ecowatt", "command", "show", id, "--json"))
}

// end waits until it is known how a command ended.
func (f *fleet) end(t *testing.T, id string) (o order) {
	t.Helper()
	eventuallyFunc(t, func() string { return "the end of " + o.String() }, func() bool {
		o = f.look(t, id)
		return o.EndedAt != nil
	})
	return o
}

// record is one of the audit log.
type record struct {
	At     time.Time `json:"at"`
	Actor  struct{ Name string }
	Device string            `json:"device"`
	Action string            `json:"action"`
	Text   string            `json:"text"`
	Attrs  map[string]string `json:"attrs"`
}

// audit is the whole audit log of a device.
func (f *fleet) audit(t *testing.T, device string) (all []record) {
	t.Helper()
	for line := range strings.Lines(must(t, f.env, "ecowatt", "log", "--device", device, "--last", "0", "--json")) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		all = append(all, r)
	}
	return all
}

// cloudSays is what the cloud's log has of a command: its actions and how it ended.
func (f *fleet) cloudSays(t *testing.T, device, id string) (all []string) {
	t.Helper()
	var last time.Time
	for _, r := range f.audit(t, device) {
		if r.Attrs["command"] != id || !strings.HasPrefix(r.Action, "command.") {
			continue
		}
		if r.At.Before(last) {
			t.Errorf("command %s: %s at %v, before what was before it", id, r.Action, r.At)
		}
		last = r.At
		text := strings.TrimPrefix(r.Action, "command.")
		if code := r.Attrs["code"]; code != "" {
			text += " " + code
		}
		all = append(all, text)
	}
	return all
}

var (
	cameLine  = regexp.MustCompile(`^time=(\S+) .*msg="a command has come" command=([0-9a-f]{32})`)
	beginLine = regexp.MustCompile(`^time=(\S+) .*msg="a command begins" command=([0-9a-f]{32})`)
	endLine   = regexp.MustCompile(`^time=(\S+) .*msg="a command has ended" command=([0-9a-f]{32}) status=(\S+) outcome=(\S+)`)
)

// deviceSays is what the log of an agent has of a command.
func deviceSays(t *testing.T, p *process, id string) (all []string) {
	t.Helper()
	for line := range strings.Lines(string(p.said())) {
		for what, re := range map[string]*regexp.Regexp{"came": cameLine, "begun": beginLine, "ended": endLine} {
			m := re.FindStringSubmatch(line)
			if m == nil || m[2] != id {
				continue
			}
			if _, err := time.Parse(time.RFC3339Nano, m[1]); err != nil {
				t.Errorf("%q has no time: %v", line, err)
			}
			all = append(all, strings.Join(append([]string{what}, m[3:]...), " "))
		}
	}
	return all
}

// agree checks that both logs tell the same of a command.
func (f *fleet) agree(t *testing.T, o order) {
	t.Helper()
	status := map[string]string{"succeeded": "succeeded", "expired": "expired", "failed": `(failed|rejected|no_effect)`}[o.State]
	want := []string{"queued", "delivered"}
	if o.ExecutingAt != nil {
		want = append(want, "executing started")
	}
	want = append(want, o.State+" "+o.Code)
	if got := f.cloudSays(t, o.Device, o.ID); !slices.Equal(got, want) {
		t.Errorf("%v: the cloud's log has\n%s", o, cmp.Diff(want, got))
	}
	got := deviceSays(t, f.launchers[o.Device], o.ID)
	if len(got) != 3 || got[0] != "came" || got[1] != "begun" || !regexp.MustCompile(`^ended `+status+` `+o.Code+`$`).MatchString(got[2]) {
		t.Errorf("%v: the device's log has %q", o, got)
	}
}

// writeAs writes a limit as another controller would, besides the gateway.
func (f *fleet) writeAs(t *testing.T, unit int, percent uint16) {
	t.Helper()
	frame := []byte{byte(unit), 6, 0, 8, byte(percent >> 8), byte(percent)}
	crc := uint16(0xFFFF)
	for _, b := range frame {
		crc ^= uint16(b)
		for range 8 {
			low := crc & 1
			if crc >>= 1; low != 0 {
				crc ^= 0xA001
			}
		}
	}
	frame = append(frame, byte(crc), byte(crc>>8))
	f.askSim(t, http.MethodPost, "/api/inverter/write", fmt.Sprintf(`{"frame": "%X"}`, frame))
}
