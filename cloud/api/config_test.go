package api

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/config"
	"ecowatt/cloud/store"
	"ecowatt/parameter"
)

// put sets something as the operator.
func (c *cloud) put(path, body string, header ...string) reply {
	c.t.Helper()
	return c.do(http.MethodPut, path, c.tokens[access.Operator], body, header...)
}

// answers is what the first device that was added says to a revision.
func (c *cloud) answers(revision uint64, accepted []string, rejected map[string]config.Part) {
	c.t.Helper()
	a, err := config.NewAnswer(revision, accepted, nil, rejected)
	if err != nil {
		c.t.Fatal(err)
	}
	c.commit(func(tx *store.Tx) error {
		if err := tx.ConfigSent(1, revision, c.now); err != nil {
			return err
		}
		_, err := tx.SettleConfig(1, a, c.now)
		return err
	})
}

func TestConfig(t *testing.T) {
	c := newCloud(t)
	c.running()
	c.add("roof-1", "north")
	const path = "/api/v1/devices/roof-1/config"
	first := c.get(path)
	if got := decode[Config](t, first.body); first.status != 200 || got.Revision != 0 || got.Pending || first.header.Get("ETag") != `"0"` {
		t.Fatalf("%d %s %v", first.status, first.body, first.header)
	}
	r := c.put(path, `{"upload_interval": 60, "registers": ["vac1","pac"]}`, "If-Match", `"0"`)
	want := Config{
		Revision: 1, Pending: true, Desired: Parameters{"upload_interval": 60.0, "registers": []any{"pac", "vac1"}},
		From:   map[string]ConfigSource{"upload_interval": {Layer: "device", Name: "roof-1"}, "registers": {Layer: "device", Name: "roof-1"}},
		Report: Parameters{}, Outcome: map[string]ConfigOutcome{}, Drift: []string{},
		ChangedAt: &c.now, By: "operator", Cause: "device roof-1",
		Own: Parameters{"upload_interval": 60.0, "registers": []any{"pac", "vac1"}}, Version: 1,
	}
	if diff := cmp.Diff(want, decode[Config](t, r.body)); r.status != 200 || r.header.Get("ETag") != `"1"` || diff != "" {
		t.Fatalf("%d %v\n%s", r.status, r.header, diff)
	}
	if diff := cmp.Diff([]ecowatt.DeviceID{"roof-1"}, c.woken); diff != "" {
		t.Errorf("woken: %s", diff)
	}
	if d := decode[Device](t, c.get("/api/v1/devices/roof-1").body); d.Config != (DeviceConfig{Revision: 1, Pending: true}) {
		t.Errorf("%+v", d.Config)
	}

	c.answers(1, []string{"upload_interval"}, map[string]config.Part{"registers": {Code: "unknown_point", Text: "no point vac1"}})
	got := decode[Config](t, c.get(path).body)
	if got.Pending || !slices.Equal(got.Drift, []string{"registers"}) || got.DeliveredAt == nil || got.AnsweredAt == nil {
		t.Errorf("%+v", got)
	}
	if diff := cmp.Diff(Parameters{"upload_interval": 60.0}, got.Report); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]ConfigOutcome{
		"upload_interval": {Result: "accepted"}, "registers": {Result: "rejected", Code: "unknown_point", Text: "no point vac1"},
	}, got.Outcome); diff != "" {
		t.Error(diff)
	}

	c.put(path, `{}`)
	log := decode[ConfigLog](t, c.get(path+"/log?limit=1").body)
	if len(log.Revisions) != 1 || log.Next != 2 || !slices.Equal(log.Revisions[0].Changed, []string{"upload_interval", "registers"}) || log.Revisions[0].DeliveredAt != nil {
		t.Errorf("%+v", log)
	}
	log = decode[ConfigLog](t, c.get(path+"/log?before=2").body)
	if len(log.Revisions) != 1 || log.Next != 0 || log.Revisions[0].Outcome["registers"].Code != "unknown_point" || log.Revisions[0].By != "operator" {
		t.Errorf("%+v", log)
	}
}

// Two who change the same thing do not overwrite each other unseen.
func TestConfigConflict(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	const path = "/api/v1/devices/roof-1/config"
	c.put(path, `{"log_level":"warn"}`, "If-Match", `"0"`)
	r := c.put(path, `{"log_level":"debug"}`, "If-Match", `"0"`)
	p := problemOf(t, r)
	if r.status != http.StatusPreconditionFailed || len(p.Errors) != 1 || p.Errors[0].Location != "header.If-Match" {
		t.Fatalf("%d %s", r.status, r.body)
	}
	text, err := json.Marshal(p.Errors[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	if there := decode[ConfigLayer](t, string(text)); there.Version != 1 || there.Parameters["log_level"] != "warn" || there.ChangedBy != "operator" {
		t.Errorf("what is there: %+v", there)
	}
	if got := decode[Config](t, c.get(path).body); got.Desired["log_level"] != "warn" || got.Revision != 1 {
		t.Errorf("%+v", got)
	}
	for header, status := range map[string]int{`"1"`: 200, `*`: 200, `1`: 422, `W/"1"`: 422, `"x"`: 422, `"7"`: 412} {
		if r := c.put(path, `{"log_level":"warn"}`, "If-Match", header); r.status != status {
			t.Errorf("If-Match %s: %d, want %d", header, r.status, status)
		}
	}
}

// What is wrong is named, and nothing of it is done.
func TestConfigRefuses(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	for _, x := range []struct {
		path, body, field, code string
		status                  int
	}{
		{"devices/roof-1/config", `{"log_level":"warn","zeal":1}`, "body.zeal", "unknown_parameter", 422},
		{"devices/roof-1/config", `{"upload_interval":"60"}`, "body.upload_interval", "wrong_type", 422},
		{"devices/roof-1/config", `{"upload_interval":null}`, "body.upload_interval", "wrong_type", 422},
		{"devices/roof-1/config", `{"upload_interval":0}`, "body.upload_interval", "out_of_range", 422},
		{"devices/roof-1/config", `{"registers":["pac","pac"]}`, "body.registers", "out_of_range", 422},
		{"groups/north/config", `{"upload_interval":0}`, "body.upload_interval", "out_of_range", 422},
		{"groups/No%20rth/config", `{}`, "path.group", "", 422},
		{"config/templates/t", `{"upload_interval":0}`, "body.upload_interval", "out_of_range", 422},
		{"devices/roof-1/config/template", `{"template":"none"}`, "body.template", "", 422},
		{"groups/north/config/template", `{"template":"none"}`, "body.template", "", 422},
		{"devices/absent/config", `{}`, "", "", 404},
	} {
		r := c.put("/api/v1/"+x.path, x.body)
		p := problemOf(t, r)
		if r.status != x.status || x.field != "" && (len(p.Errors) != 1 || p.Errors[0].Location != x.field) {
			t.Errorf("%s %s: %d %s", x.path, x.body, r.status, r.body)
			continue
		}
		if x.code != "" && p.Errors[0].Value != x.code {
			t.Errorf("%s %s: %v", x.path, x.body, p.Errors[0].Value)
		}
	}
	for _, body := range []string{"", "7", "[]", "{"} {
		if r := c.put("/api/v1/devices/roof-1/config", body, "Content-Type", "application/json"); r.status < 400 || r.status > 422 {
			t.Errorf("%q: %d %s", body, r.status, r.body)
		}
	}
	if got := decode[Config](t, c.get("/api/v1/devices/roof-1/config").body); got.Revision != 0 || got.Version != 0 {
		t.Errorf("%+v", got)
	}
	if r := c.get("/api/v1/devices/absent/config/log"); r.status != 404 {
		t.Error(r)
	}
}

// What a device ends up with comes from four layers, and says from which.
func TestConfigLayers(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "north")
	c.add("roof-2", "south")
	for _, step := range [][2]string{
		{"config/templates/winter", `{"night_mode":"full","log_level":"debug"}`},
		{"groups/north/config/template", `{"template":"winter"}`},
		{"groups/north/config", `{"log_level":"warn"}`},
		{"devices/roof-2/config/template", `{"template":"winter"}`},
	} {
		if r := c.put("/api/v1/"+step[0], step[1]); r.status != 200 || r.header.Get("ETag") == "" {
			t.Fatalf("%v: %d %s", step, r.status, r.body)
		}
	}
	got := decode[Config](t, c.get("/api/v1/devices/roof-1/config").body)
	if diff := cmp.Diff(map[string]ConfigSource{
		"night_mode": {Layer: "template", Name: "winter", GivenTo: "group north"}, "log_level": {Layer: "group", Name: "north"},
	}, got.From); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Parameters{"night_mode": "full", "log_level": "warn"}, got.Desired); diff != "" {
		t.Error(diff)
	}
	if g := decode[ConfigLayer](t, c.get("/api/v1/groups/north/config").body); g.Template != "winter" || g.Version != 2 || g.Parameters["log_level"] != "warn" {
		t.Errorf("%+v", g)
	}
	c.woken = nil
	c.put("/api/v1/config/templates/winter", `{"night_mode":"slow"}`)
	slices.Sort(c.woken)
	if diff := cmp.Diff([]ecowatt.DeviceID{"roof-1", "roof-2"}, c.woken); diff != "" {
		t.Errorf("woken: %s", diff)
	}
	list := decode[ConfigTemplates](t, c.get("/api/v1/config/templates").body)
	if len(list.Templates) != 1 || !slices.Equal(list.Templates[0].GivenTo, []string{"device roof-2", "group north"}) {
		t.Errorf("%+v", list)
	}
	remove := func(want int) {
		t.Helper()
		if r := c.do(http.MethodDelete, "/api/v1/config/templates/winter", c.tokens[access.Operator], ""); r.status != want {
			t.Errorf("%d %s, want %d", r.status, r.body, want)
		}
	}
	remove(http.StatusConflict)
	c.put("/api/v1/groups/north/config/template", `{"template":""}`)
	c.put("/api/v1/devices/roof-2/config/template", `{"template":""}`)
	remove(http.StatusNoContent)
	remove(http.StatusNotFound)
	if got := decode[Config](t, c.get("/api/v1/devices/roof-2/config").body); len(got.Desired) != 0 || got.Revision != 3 {
		t.Errorf("%+v", got)
	}
	// A device that is put into a group, or made in it, follows it.
	c.add("roof-3", "north")
	if got := decode[Config](t, c.get("/api/v1/devices/roof-3/config").body); got.Desired["log_level"] != "warn" || got.Cause != "it is in group north" {
		t.Errorf("%+v", got)
	}
}

// How far the devices of a group are is told page by page, and in numbers.
func TestConfigProgress(t *testing.T) {
	c := newCloud(t)
	c.running()
	for _, name := range []string{"roof-1", "roof-2", "roof-3"} {
		c.add(name, "north")
	}
	c.put("/api/v1/config/templates/quiet", `{"log_level":"warn"}`)
	c.put("/api/v1/groups/north/config/template", `{"template":"quiet"}`)
	c.answers(1, nil, map[string]config.Part{"log_level": {Code: "not_permitted", Text: "no"}})
	for _, path := range []string{"/api/v1/groups/north/config/devices", "/api/v1/config/templates/quiet/devices"} {
		got := decode[ConfigProgress](t, c.get(path+"?limit=2").body)
		want := ConfigProgress{
			Counts: map[string]int{"pending": 2, "drifted": 1}, Next: "roof-2",
			Devices: []ConfigMember{
				{Device: "roof-1", State: "drifted", Revision: 1, DeliveredAt: &c.now, AnsweredAt: &c.now, Outcome: map[string]ConfigOutcome{
					"log_level": {Result: "rejected", Code: "not_permitted", Text: "no"},
				}},
				{Device: "roof-2", State: "pending", Revision: 1, Outcome: map[string]ConfigOutcome{}},
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", path, diff)
		}
		if got := decode[ConfigProgress](t, c.get(path+"?after=roof-2").body); len(got.Devices) != 1 || got.Next != "" || got.Counts["pending"] != 2 {
			t.Errorf("%s: %+v", path, got)
		}
	}
	for path, status := range map[string]int{
		"/api/v1/config/templates/none/devices": 404, "/api/v1/groups/No%20rth/config/devices": 422, "/api/v1/groups/none/config/devices?limit=0": 422,
		"/api/v1/groups/none/config/devices": 200,
	} {
		if r := c.get(path); r.status != status {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}

// The OpenAPI document has the schema of every parameter.
func TestConfigSchema(t *testing.T) {
	c := newCloud(t)
	var document struct {
		Components struct {
			Schemas struct {
				Parameters struct{ Properties map[string]any }
			}
		}
	}
	if err := json.Unmarshal([]byte(c.do(http.MethodGet, "/api/openapi.json", "", "").body), &document); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{}
	for _, p := range parameter.All() {
		text, err := json.Marshal(p.Schema())
		if err != nil {
			t.Fatal(err)
		}
		// huma has no const, and an enumeration of one value says the same.
		text = []byte(strings.ReplaceAll(string(text), `{"const":0}`, `{"enum":[0]}`))
		want[p.Name] = decode[any](t, string(text))
	}
	if diff := cmp.Diff(want, document.Components.Schemas.Parameters.Properties); diff != "" {
		t.Error(diff)
	}
}
