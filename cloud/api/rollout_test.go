package api

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollout"
	"ecowatt/cloud/store"
)

// runs adds devices and lets them say what they run, on the board gw-1.
func (c *cloud) runs(group string, releases ...uint64) {
	c.t.Helper()
	for _, release := range releases {
		c.devices++
		c.add(fmt.Sprintf("roof-%d", c.devices), group)
		row := int64(c.devices)
		report := registry.Report{
			At: c.now, Inventory: &registry.Inventory{ReportedAt: c.now, Hardware: "gw-1"},
			Firmware: &registry.Firmware{Release: release, State: "confirmed", Version: fmt.Sprintf("1.%d.0", release)},
		}
		c.commit(func(tx *store.Tx) error {
			_, err := tx.Report(row, report)
			return err
		})
	}
}

func (c *cloud) post(path, body string) reply {
	c.t.Helper()
	return c.do(http.MethodPost, "/api/v1/rollouts"+path, c.tokens[access.Operator], body)
}

func TestCreateRollout(t *testing.T) {
	c := newCloud(t)
	c.running()
	r := c.release()
	c.runs("north", 11, 11, 11, 12, 13, 14)
	c.runs("south", 11)
	c.add("unknown", "north")

	made := c.post("", `{"release":"`+r.ID.String()+`","target":{"group":"north"},"stages":[{"count":1},{"percent":60,"start":"2026-06-22T06:00:00Z"},{"percent":100}],
		"soak_s":600,"no_telemetry":true,"deadline_s":7200,"max_failed_percent":12.5,"min_sample":3}`)
	got := decode[Rollout](t, made.body)
	start := time.Date(2026, 6, 22, 6, 0, 0, 0, time.UTC)
	want := Rollout{
		Release: r.ID.String(), Version: "1.4.0", Number: 12, By: "operator", At: c.now, State: "running", Text: "made by operator", Since: c.now,
		RolloutRules: RolloutRules{Target: RolloutTarget{Group: "north"}, SoakS: 600, NoTelemetry: true, DeadlineS: 7200, MaxFailed: 12.5, MinSample: 3},
		Stages: []RolloutStage{
			{StageSize: StageSize{Count: 1}, Devices: 1, Counts: map[string]int{"waiting": 1}},
			{StageSize: StageSize{Percent: 60, Start: &start}, Devices: 2, Counts: map[string]int{"waiting": 2}},
			{StageSize: StageSize{Percent: 100}, Devices: 1, Counts: map[string]int{"waiting": 1}},
		},
		Counts:   map[string]int{"waiting": 4, "skipped": 3},
		Progress: RolloutProgress{Devices: 4, Waiting: 4, Skipped: 3},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Rollout{}, "ID")); diff != "" || made.status != http.StatusCreated || made.header.Get("Location") != "/api/v1/rollouts/"+got.ID {
		t.Fatalf("%d %v (-want +got):\n%s", made.status, made.header, diff)
	}
	want.ID = got.ID
	if diff := cmp.Diff(want, decode[Rollout](t, c.get("/api/v1/rollouts/"+got.ID).body)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(RolloutList{Rollouts: []Rollout{want}}, decode[RolloutList](t, c.get("/api/v1/rollouts").body)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// What is wanted of each device, a page at a time.
	var pages [][]string
	path, next := "/api/v1/rollouts/"+got.ID+"/devices?limit=3", ""
	for {
		page := decode[DeviceUpdates](t, c.get(path+next).body)
		var lines []string
		for _, u := range page.Devices {
			lines = append(lines, u.Device+" "+u.Phase+" "+u.Code)
			if (u.Stage == 0) != (u.Phase == "skipped") || !u.Times[u.Phase].Equal(c.now) || u.Deadline != nil {
				t.Errorf("%+v", u)
			}
		}
		pages = append(pages, lines)
		if page.Next == "" {
			break
		}
		next = "&after=" + page.Next
	}
	if diff := cmp.Diff([][]string{
		{"roof-1 waiting ", "roof-2 waiting ", "roof-3 waiting "},
		{"roof-4 skipped runs", "roof-5 waiting ", "roof-6 skipped newer"}, // 13 may go back, says the manifest
		{"unknown skipped unknown"},
	}, pages); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if page := decode[DeviceUpdates](t, c.get("/api/v1/rollouts/"+got.ID+"/devices?phase=skipped").body); len(page.Devices) != 3 {
		t.Errorf("%v are skipped", page.Devices)
	}

	// A device has one thing to do; the defaults are those of the documentation.
	other := decode[Rollout](t, c.post("", `{"release":"`+r.ID.String()+`","target":{"hardware":["gw-1"]}}`).body)
	rules := RolloutRules{Target: RolloutTarget{Hardware: []string{"gw-1"}}, SoakS: 1800, DeadlineS: 86400, MaxFailed: 2, MinSample: 10}
	if diff := cmp.Diff(rules, other.RolloutRules); diff != "" || len(other.Stages) != 3 || other.Progress.Devices != 1 || other.Progress.Skipped != 6 {
		t.Errorf("%+v (-want +got):\n%s", other.Progress, diff)
	}
}

// A device tells of what a rollout wants of it, also in lists, as long as that is
// open.
func TestDevicesTellOfTheirUpdates(t *testing.T) {
	c := newCloud(t)
	c.running()
	r := c.release()
	c.runs("north", 11, 12)
	got := decode[Rollout](t, c.post("", `{"release":"`+r.ID.String()+`"}`).body)
	wanted := &OpenUpdate{Rollout: got.ID, State: "running", Version: "1.4.0", Release: 12, Phase: "waiting", Since: c.now}
	if diff := cmp.Diff(wanted, decode[Device](t, c.get("/api/v1/devices/roof-1").body).Update); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, d := range decode[DeviceList](t, c.get("/api/v1/devices").body).Devices {
		if open := d.ID == "roof-1"; (d.Update != nil) != open {
			t.Errorf("%s has the update %+v", d.ID, d.Update)
		}
	}

	// One that the cloud has given up is open no more, though the device may still say
	// something of it.
	c.commit(func(tx *store.Tx) error {
		u, _, err := tx.Update(1)
		if err != nil {
			return err
		}
		u, _ = u.Begun(rollout.Candidate{}, c.now)
		u, lapsed := u.Lapsed(c.now.Add(25 * time.Hour))
		if !lapsed || !u.Watched() {
			t.Errorf("%s, watched: %v", u.Phase, u.Watched())
		}
		return tx.MoveUpdate(1, u, audit.Actor{Kind: audit.System, Name: "rollouts"}, c.now)
	})
	if u := decode[Device](t, c.get("/api/v1/devices/roof-1").body).Update; u != nil {
		t.Errorf("the device has the update %+v", u)
	}
}

// A signed statement lets devices go back.
func TestCreateRolloutBack(t *testing.T) {
	c := newCloud(t)
	c.running()
	r := c.release()
	c.runs("north", 14)
	downgrade := base64.StdEncoding.EncodeToString(vector(t, "downgrade.cbor"))
	if got := c.post("", `{"release":"`+r.ID.String()+`"}`); got.status != http.StatusUnprocessableEntity {
		t.Errorf("without it: %d %s", got.status, got.body)
	}
	got := c.post("", `{"release":"`+r.ID.String()+`","downgrades":["`+downgrade+`"]}`)
	if made := decode[Rollout](t, got.body); got.status != http.StatusCreated || made.Downgrades != 1 || made.Counts["waiting"] != 1 {
		t.Errorf("%d %s", got.status, got.body)
	}
}

func TestNewRolloutsAreChecked(t *testing.T) {
	c := newCloud(t)
	c.running()
	r := c.release()
	c.runs("north", 11, 12)
	long := `"` + strings.Repeat(`x","`, 1001) + `x"`
	for _, x := range []struct{ body, location, says string }{
		{`"release":"12"`, "body.release", "it has 64 hexadecimal digits"},
		{`"target":{"group":"../x"}`, "body.target.group", "not a valid name"},
		{`"target":{"devices":["roof-1","!"]}`, "body.target.devices[1]", "not a valid name"},
		{`"target":{"group":"south"}`, "body.target", "no device is to get it: 0 are named, and none is there"},
		{`"target":{"devices":["roof-2"]}`, "body.target", "no device is to get it: 1 are named, and all are skipped, runs: 1"},
		{`"target":{"versions":[` + long + `]}`, "body.target", "at most 1000"},
		{`"target":{"site":"x"}`, "body.target.site", "unexpected property"},
		{`"stages":[]`, "body.stages", "there are 1 to 16"},
		{`"stages":[{}]`, "body.stages[0]", "give percent or count"},
		{`"stages":[{"percent":50},{"percent":10}]`, "body.stages[1]", "not smaller than the one before"},
		{`"stages":[{"percent":101}]`, "body.stages[0]", "at most 100 percent"},
		{`"stages":[{"count":-1}]`, "body.stages[0]", "more than 0"},
		{`"soak_s":-1`, "body.soak_s", ""},
		{`"deadline_s":59`, "body.deadline_s", ""},
		{`"max_failed_percent":101`, "body.max_failed_percent", ""},
		{`"min_sample":0`, "body.min_sample", ""},
		{`"downgrades":["AAAA"]`, "body.downgrades", "not of the format"},
		{`"downgrades":["` + base64.StdEncoding.EncodeToString(vector(t, "root.cbor")) + `"]`, "body.downgrades", "not signed as it must be"},
	} {
		body := `{"release":"` + r.ID.String() + `",` + x.body + `}`
		if strings.HasPrefix(x.body, `"release"`) {
			body = "{" + x.body + "}"
		}
		got := c.post("", body)
		p := problemOf(t, got)
		if got.status != http.StatusUnprocessableEntity || len(p.Errors) == 0 || p.Errors[0].Location != x.location || !strings.Contains(p.Errors[0].Message, x.says) {
			t.Errorf("%.80s: %d %s", x.body, got.status, got.body)
		}
	}
	if list := decode[RolloutList](t, c.get("/api/v1/rollouts").body); len(list.Rollouts) != 0 {
		t.Errorf("%v were made", list.Rollouts)
	}
}

// What is there is not always rolled out.
func TestReleasesThatAreNotRolledOut(t *testing.T) {
	c := newCloud(t)
	c.running()
	r := c.release()
	c.runs("north", 11)
	body := `{"release":"` + r.ID.String() + `"}`
	refused := func(status int, says string) {
		t.Helper()
		if got := c.post("", body); got.status != status || !strings.Contains(problemOf(t, got).Detail, says) {
			t.Errorf("%d %s, want %d: %s", got.status, got.body, status, says)
		}
	}
	c.depot.missing = 1
	refused(http.StatusConflict, "release 1.4.0 lacks 1 of its files: push its bundle again")
	c.depot.missing = 0
	good, now := c.trust.roots, c.now
	c.trust.roots = rollout.Roots{}
	refused(http.StatusConflict, "release 1.4.0 is not to be trusted any more: ")
	c.trust.roots, c.now = good, r.Expires
	refused(http.StatusConflict, "release 1.4.0 has expired at 2033-")
	c.now = now
	if got := c.post("", `{"release":"`+strings.Repeat("0", 64)+`"}`); got.status != http.StatusNotFound {
		t.Errorf("%d %s", got.status, got.body)
	}
	if got := c.post("", body); got.status != http.StatusCreated {
		t.Errorf("%d %s", got.status, got.body)
	}
}

// An operator pauses, resumes and aborts; again changes nothing, and what is past it
// is told with the state.
func TestRolloutInstructions(t *testing.T) {
	c := newCloud(t)
	c.running()
	r := c.release()
	c.runs("north", 11)
	made := decode[Rollout](t, c.post("", `{"release":"`+r.ID.String()+`"}`).body)
	for _, step := range []struct {
		path, body string
		status     int
		state      string
		finish     bool
	}{
		{"resume", "", 200, "running", false},
		{"pause", "", 200, "paused", false},
		{"pause", "", 200, "paused", false},
		{"resume", "", 200, "running", false},
		{"pause", "", 200, "paused", false},
		{"abort", `{"finish":true}`, 200, "aborted", true},
		{"abort", "", 200, "aborted", true},
		{"pause", "", 409, "aborted", true},
		{"resume", "", 409, "aborted", true},
	} {
		got := c.post("/"+made.ID+"/"+step.path, step.body)
		if got.status != step.status {
			t.Errorf("%s: %d %s", step.path, got.status, got.body)
		}
		if got.status == 409 {
			if p := problemOf(t, got); !strings.Contains(p.Detail, "it is aborted: it cannot be ") || !strings.Contains(got.body, `"value":"aborted"`) {
				t.Errorf("%s: %s", step.path, got.body)
			}
		} else if now := decode[Rollout](t, got.body); now.State != step.state || now.Finish != step.finish {
			t.Errorf("%s: %s", step.path, got.body)
		}
	}
	log := c.get("/api/v1/audit").body
	for action, n := range map[string]int{"rollout.created": 1, "rollout.paused": 2, "rollout.resumed": 1, "rollout.aborted": 1} {
		if got := strings.Count(log, `"action":"`+action+`"`); got != n {
			t.Errorf("the log has %s %d times, want %d", action, got, n)
		}
	}
	for _, bad := range []string{"nothing", strings.Repeat("z", 32)} {
		if got := c.post("/"+bad+"/pause", ""); got.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", bad, got.status, got.body)
		}
	}
	if got := c.get("/api/v1/rollouts/" + made.ID + "/devices?after=absent"); got.status != http.StatusUnprocessableEntity {
		t.Errorf("%d %s", got.status, got.body)
	}
}
