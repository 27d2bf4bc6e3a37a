package e2e

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// configuration is what "ecowatt config get --json" tells, as far as it is read here.
type configuration struct {
	Revision uint64         `json:"revision"`
	Pending  bool           `json:"pending"`
	Desired  map[string]any `json:"desired"`
	Reported map[string]any `json:"reported"`
	Drift    []string       `json:"drift"`
	Outcome  map[string]struct {
		Result string `json:"result"`
		Code   string `json:"code"`
		Text   string `json:"text"`
	} `json:"outcome"`
}

func (f *fleet) configured(t *testing.T, name string) configuration {
	t.Helper()
	return parseJSON[configuration](t, must(t, f.env, "ecowatt", "config", "get", name, "--json"))
}

// answered waits until a device has answered what is desired of it.
func (f *fleet) answered(t *testing.T, name string) (c configuration) {
	t.Helper()
	eventuallyFunc(t, func() string { return name + " answers its configuration" }, func() bool {
		c = f.configured(t, name)
		return !c.Pending
	})
	return c
}

// inForceNow sets parameters and waits until the device has taken them.
func (f *fleet) inForceNow(t *testing.T, name string, values ...string) configuration {
	t.Helper()
	must(t, f.env, "ecowatt", append(append([]string{"config", "set", name}, values...), "--wait")...)
	c := f.configured(t, name)
	if c.Pending || len(c.Drift) > 0 {
		t.Errorf("%s after %v: %+v", name, values, c)
	}
	return c
}

// TestConfiguration changes how a device measures and uploads, with the real
// programs and while everything runs: each change is confirmed, has its effect without
// a restart, is made once, and stays; what cannot be is refused, by the cloud or by
// the device.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	f := newControlled(t, 1)
	l := newLine(t, f.cloudAddr)
	f.through(t, l, "roof-1")
	f.startRoof(t, "roof-1")
	f.awaitServed(t, 2)
	pid := f.pid(t, "roof-1")

	f.inForceNow(t, "roof-1", "sampling_interval=2", "upload_interval=3", "registers=pac,vac1")
	changed := time.Now().UnixMilli()
	f.measuresAsSaid(t, changed)
	if now := f.pid(t, "roof-1"); now != pid {
		t.Errorf("the agent was started again: process %d and then %d", pid, now)
	}
	f.refusedParameters(t)
	f.packsAsSaid(t)
	f.answerLost(t, l)
	f.staysSet(t)
	f.changesAreLogged(t)
	f.cutsOff(t, l)
}

// pid is the process of a roof's agent.
func (f *fleet) pid(t *testing.T, name string) (pid int) {
	t.Helper()
	eventually(t, "an agent of "+name, func() bool {
		s, ok := f.status(t, name)
		pid = s.PID
		return ok
	})
	return pid
}

// measuresAsSaid checks what the change of TestConfiguration has brought about: the
// points, the time between samples, and that none was lost or stored twice.
func (f *fleet) measuresAsSaid(t *testing.T, changed int64) {
	t.Helper()
	var part []int64
	eventually(t, "three samples as they are wanted now", func() bool {
		have := parseJSON[stored](t, must(t, f.env, "ecowatt", "telemetry", "show", "roof-1", "--since", "1h", "--points", "pac,vac1", "--json"))
		part = part[:0]
		for _, in := range have.Inverters {
			for _, s := range in.Samples {
				part = append(part, s.T)
			}
		}
		return len(part) > 3 && part[len(part)-3] > changed
	})
	for i, at := range part[1:] {
		gap := time.Duration(at-part[i]) * time.Millisecond
		if most := 3 * time.Second; gap <= 0 || gap > most {
			t.Errorf("a sample follows after %v: %v", gap, part)
		}
		if off := (gap - 2*time.Second).Abs(); part[i] > changed && off > 500*time.Millisecond {
			t.Errorf("two samples are %v apart, want 2 s", gap)
		}
	}
	eventually(t, "the slot is three seconds long", func() bool {
		s, ok := f.status(t, "roof-1")
		return ok && s.Uplink.NextIn > 1.5
	})
	last := f.readTrace(t)
	if words := last[len(last)-1].Words; len(words) >= 11 {
		t.Errorf("all registers are read still: %d words", len(words))
	}
}

// refusedParameters sets what cannot be.
func (f *fleet) refusedParameters(t *testing.T) {
	t.Helper()
	before := f.configured(t, "roof-1")
	for _, c := range []struct{ value, want string }{
		{"sampling_interval=0", "sampling_interval"},
		{"sampling_interval=often", "sampling_interval"},
		{"upload_interval=2d", "upload_interval"},
		{"compression=zip", "compression"},
		{"no_such_thing=1", "no_such_thing"},
	} {
		if r := run(t, f.env, "ecowatt", "config", "set", "roof-1", c.value); r.code != 2 || !strings.Contains(r.stderr, c.want) {
			t.Errorf("%s: exit code %d: %s", c.value, r.code, r.stderr)
		}
	}
	for _, body := range []string{`{"no_such_thing":1}`, `{"sampling_interval":0}`, `{"sampling_interval":"5"}`, `{"registers":[]}`} {
		a, err := send(t.Context(), f.cloudAddr, http.MethodPut, "/api/v1/devices/roof-1/config", []byte(body), f.authorization(t))
		if err != nil || a.status != http.StatusUnprocessableEntity {
			t.Errorf("PUT %s: %d %s %v", body, a.status, a.body, err)
		}
	}
	if diff := cmp.Diff(before, f.configured(t, "roof-1")); diff != "" {
		t.Errorf("what was refused has changed something: %s", diff)
	}

	// The device knows better than the cloud; what is good of the same change counts.
	r := run(t, f.env, "ecowatt", "config", "set", "roof-1", "registers=pac,nonsense", "night_mode=full", "--wait")
	if r.code != 1 || !strings.Contains(r.stderr, "registers: rejected (unknown_point)") || !strings.Contains(r.stderr, "night_mode: accepted") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	c := f.configured(t, "roof-1")
	if !slices.Equal(c.Drift, []string{"registers"}) || c.Outcome["registers"].Code != "unknown_point" || !strings.Contains(c.Outcome["registers"].Text, "nonsense") || c.Reported["night_mode"] != "full" {
		t.Errorf("%+v", c)
	}
	f.driftShows(t, "registers")
	r = run(t, f.env, "ecowatt", "config", "set", "roof-1", "registers=", "sampling_interval=1", "upload_interval=86400", "--wait")
	if c := f.configured(t, "roof-1"); r.code != 1 || c.Outcome["upload_interval"].Code != "infeasible" || c.Reported["upload_interval"] != 3.0 {
		t.Errorf("a slot whose samples fit into no buffer: exit code %d: %s%+v", r.code, r.stderr, c)
	}
	f.inForceNow(t, "roof-1", "upload_interval=1")
}

// driftShows checks that everybody is told what is not in force as desired.
func (f *fleet) driftShows(t *testing.T, name string) {
	t.Helper()
	wantLines(t, must(t, f.env, "ecowatt", "device", "list"), `^roof-1 .*configuration drifted`, 1)
	wantLines(t, must(t, f.env, "ecowatt", "device", "show", "roof-1"), `^config .*drifted: 1 parameter is not in force$`, 1)
	for path, want := range map[string]string{"/metrics": "\necowatt_config_drift_devices 1\n", "/api/v1/devices/roof-1/events": `"drift":"` + name + `"`} {
		a, err := send(t.Context(), f.cloudAddr, http.MethodGet, path, nil, f.authorization(t))
		if err != nil || !strings.Contains(string(a.body), want) {
			t.Errorf("%s: %d %.2000s %v: it lacks %q", path, a.status, a.body, err, want)
		}
	}
}

// packsAsSaid changes how samples are sent, while they are: the cloud can read all of
// them, and none is missing.
func (f *fleet) packsAsSaid(t *testing.T) {
	t.Helper()
	type span struct {
		from time.Time
		of   string // "samples" or "windows"
	}
	var spans []span
	for _, x := range []struct {
		values []string
		of     string
	}{
		{[]string{"compression=none", "sampling_interval=1"}, "samples"},
		{[]string{"compression=fast", "payload_cap=512"}, "samples"},
		{[]string{"aggregation_window=2", "upload_interval=3"}, "windows"}, // of one sample there is none: that one goes as it is
		{[]string{"compression=", "payload_cap=", "aggregation_window=", "sampling_interval=", "upload_interval=1"}, "samples"},
	} {
		f.inForceNow(t, "roof-1", x.values...)
		from := time.Now()
		spans = append(spans, span{from, x.of})
		eventually(t, fmt.Sprintf("%s under %v", x.of, x.values), func() bool {
			at := f.measured(t)[x.of]
			return len(at) > 0 && at[len(at)-1] > from.UnixMilli()+1000
		})
	}
	all := f.measured(t)
	at := slices.Sorted(slices.Values(slices.Concat(all["samples"], all["windows"])))
	for i, x := range at[1:] {
		if gap := time.Duration(x-at[i]) * time.Millisecond; x > spans[0].from.UnixMilli() && gap > 3*time.Second {
			t.Errorf("nothing was measured for %v, since %v: %v", gap, at[i], spans)
		}
	}
	for _, how := range []string{"invalid", "conflict"} {
		wantLines(t, string(f.cloud.said()), how, 0)
	}
}

// measured is the times of the samples and the windows of roof-1, in their order.
func (f *fleet) measured(t *testing.T) map[string][]int64 {
	t.Helper()
	type at struct {
		T int64 `json:"t"`
	}
	have := parseJSON[struct {
		Inverters []struct {
			Samples, Windows []at
		}
	}](t, must(t, f.env, "ecowatt", "telemetry", "show", "roof-1", "--since", "1h", "--json"))
	times := map[string][]int64{}
	for _, in := range have.Inverters {
		for of, list := range map[string][]at{"samples": in.Samples, "windows": in.Windows} {
			for _, x := range list {
				times[of] = append(times[of], x.T)
			}
		}
	}
	return times
}

// cutsOff sets something under which the device cannot reach the cloud: the device
// itself takes it back, and says so when it is back.
func (f *fleet) cutsOff(t *testing.T, l *line) {
	t.Helper()
	before := f.configured(t, "roof-1")
	revision := before.Revision + 1
	l.setMeddle(func(_ string, _ []byte, ask func() (reply, bool)) (reply, bool) {
		if s, ok := f.status(t, "roof-1"); !ok || s.Config.Revision == revision && s.Config.OnTrial {
			return reply{}, false
		}
		return ask()
	})
	must(t, f.env, "ecowatt", "config", "set", "roof-1", "upload_interval=2")
	eventually(t, "the change is on trial", func() bool {
		s, ok := f.status(t, "roof-1")
		return ok && s.Config.Revision == revision && s.Config.OnTrial
	})
	for range 6 { // the last one gives up
		f.launchers["roof-1"].stop(t)
		f.startRoof(t, "roof-1")
		f.pid(t, "roof-1")
	}
	var c configuration
	eventuallyFunc(t, func() string { return fmt.Sprintf("the device says that it took the change back: %+v", c) }, func() bool {
		c = f.configured(t, "roof-1")
		return !c.Pending
	})
	l.setMeddle(nil)
	if o := c.Outcome["upload_interval"]; o.Code != "infeasible" || o.Text != "undone: the agent had to start again and again under 2" ||
		c.Reported["upload_interval"] != before.Reported["upload_interval"] || !slices.Equal(c.Drift, []string{"upload_interval"}) {
		t.Errorf("%+v, and before %+v", c, before)
	}
	wantLines(t, string(f.launchers["roof-1"].said()), `code=config_undone revision=`+fmt.Sprint(revision), 1)
	f.driftShows(t, "upload_interval")
	n := f.stored(t, "roof-1")
	eventually(t, "it goes on", func() bool { return f.stored(t, "roof-1") > n })
}

// answerLost sets the same again, and then something while answers to the device get
// lost: it takes the change once, and nothing is thought done before it said so.
func (f *fleet) answerLost(t *testing.T, l *line) {
	t.Helper()
	before := f.configured(t, "roof-1")
	if again := f.inForceNow(t, "roof-1", "upload_interval=1"); again.Revision != before.Revision {
		t.Errorf("the same again is revision %d after %d", again.Revision, before.Revision)
	}
	l.setMeddle(func(_ string, _ []byte, ask func() (reply, bool)) (reply, bool) {
		ask()
		return reply{}, false
	})
	must(t, f.env, "ecowatt", "config", "set", "roof-1", "payload_cap=5000")
	revision := fmt.Sprint(before.Revision + 1)
	eventually(t, "the change was sent", func() bool {
		return slices.ContainsFunc(f.audit(t, "roof-1"), func(r record) bool {
			return r.Action == "config.delivered" && r.Attrs["revision"] == revision
		})
	})
	if c := f.configured(t, "roof-1"); !c.Pending || c.Reported["payload_cap"] != nil {
		t.Errorf("nobody has said that it is done: %+v", c)
	}
	f.cloud.kill(t)
	f.startCloud(t)
	l.setMeddle(nil)
	if c := f.answered(t, "roof-1"); len(c.Drift) > 0 || c.Outcome["payload_cap"].Result != "accepted" {
		t.Errorf("%+v", c)
	}
	wantLines(t, string(f.launchers["roof-1"].said()), `config_applied revision=`+revision+` `, 1)
}

// staysSet kills the agent: its next one has what the device has said that it has.
func (f *fleet) staysSet(t *testing.T) {
	t.Helper()
	want := f.configured(t, "roof-1")
	f.killRoof(t, "roof-1", false)
	eventually(t, "the next agent has the configuration", func() bool {
		s := must(t, nil, "ecowatt-agent", "status", "--dir", f.roof("roof-1"))
		return strings.Contains(s, "payload_cap=5000 (cloud)") && strings.Contains(s, "upload_interval=1 (cloud)")
	})
	n := f.stored(t, "roof-1")
	eventually(t, "it goes on", func() bool { return f.stored(t, "roof-1") > n })
	if diff := cmp.Diff(want, f.configured(t, "roof-1")); diff != "" {
		t.Errorf("after a restart: %s", diff)
	}
}

// changesAreLogged checks that both sides have told of every revision: who, what, when
// it went out, and what came back.
func (f *fleet) changesAreLogged(t *testing.T) {
	t.Helper()
	last := f.configured(t, "roof-1").Revision
	told := map[string][]string{}
	for _, r := range f.audit(t, "roof-1") {
		if n := r.Attrs["revision"]; strings.HasPrefix(r.Action, "config.") && n != "" && r.Action != "config.drift" {
			told[n] = append(told[n], r.Action+" by "+r.Actor.Name)
		}
	}
	if uint64(len(told)) != last {
		t.Errorf("%d revisions in the log, want %d", len(told), last)
	}
	for n, got := range told {
		want := []string{"config.changed by administrator", "config.delivered by gateway", "config.answered by roof-1"}
		if !slices.Equal(slices.Compact(got), want) {
			t.Errorf("revision %s: %s", n, cmp.Diff(want, got))
		}
	}
	device := regexp.MustCompile(`config_applied revision=(\d+)`).FindAllStringSubmatch(string(f.launchers["roof-1"].said()), -1)
	if uint64(len(device)) != last {
		t.Errorf("the device tells of %v, want %d revisions", device, last)
	}
	log := must(t, f.env, "ecowatt", "config", "log", "roof-1")
	wantLines(t, log, `administrator`, int(last))
	wantLines(t, log, `not yet`, 0)
	wantLines(t, log, `rejected \(`, 2)
}
