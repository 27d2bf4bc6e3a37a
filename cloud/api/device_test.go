package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/registry"
)

func TestAddDevice(t *testing.T) {
	for _, test := range []struct {
		name, public, body, wantURL string
	}{
		{"by the request's own URL", "", `{"id":"roof-1","group":"north","notes":"on the barn"}`, "%s"},
		{"by the public URL", "https://eco.example/base", `{"id":"roof-1","group":"north","notes":"on the barn"}`, "https://eco.example/base"},
		{"by the URL asked for", "https://eco.example", `{"id":"roof-1","group":"north","notes":"on the barn","cloud_url":"http://10.0.0.1:8080"}`, "http://10.0.0.1:8080"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCloud(t, func(o *Options) { o.PublicURL = test.public })
			r := c.do(http.MethodPost, "/api/v1/devices", c.tokens[access.Administrator], test.body)
			if r.status != http.StatusCreated || r.header.Get("Location") != "/api/v1/devices/roof-1" {
				t.Fatalf("%d, Location %q: %s", r.status, r.header.Get("Location"), r.body)
			}
			got := decode[struct {
				Device    Device
				Enrolment map[string]any
			}](t, r.body)
			want := Device{
				ID: "roof-1", Group: "north", Notes: "on the barn", TimeZone: "UTC", CreatedAt: c.now, Epoch: 1, Key: DeviceKey{Epoch: 1, Since: c.now}, Inverters: []Inverter{},
			}
			if diff := cmp.Diff(want, got.Device); diff != "" {
				t.Errorf("device (-want +got):\n%s", diff)
			}
			wantURL := strings.ReplaceAll(test.wantURL, "%s", c.url)
			if e := got.Enrolment; e["device_id"] != "roof-1" || e["cloud_url"] != wantURL || len(fmt.Sprint(e["key"])) != 44 || len(fmt.Sprint(e["psk_id"])) != 32 {
				t.Errorf("enrolment %v, want that of roof-1 for %s", e, wantURL)
			}
			if r.header.Get("Cache-Control") != "no-store" {
				t.Error("an answer with a key may be cached")
			}
			secret := fmt.Sprint(got.Enrolment["key"])
			for _, path := range []string{"/api/v1/devices", "/api/v1/devices/roof-1", "/api/v1/audit", "/api/v1/devices/roof-1/events"} {
				if later := c.get(path); later.status != http.StatusOK || strings.Contains(later.body, secret) {
					t.Errorf("%s shows the key again, or nothing: %d", path, later.status)
				}
			}
			if strings.Contains(c.logs.String(), secret) {
				t.Error("the key is in the log")
			}
			record := decode[Records](t, c.get("/api/v1/audit?last=1").body).Records[0]
			if record.Action != "device.added" || record.Actor.Name != "administrator" || record.Device != "roof-1" {
				t.Errorf("the audit log says %+v", record)
			}
		})
	}
}

func TestListDevices(t *testing.T) {
	c := newCloud(t)
	for i := range 7 {
		group := "even"
		if i%2 == 1 {
			group = "odd"
		}
		c.add(fmt.Sprintf("roof-%d", i), group)
	}
	for _, test := range []struct {
		query string
		want  string // pages, each a list of ids
	}{
		{"", "roof-0 roof-1 roof-2 roof-3 roof-4 roof-5 roof-6"},
		{"limit=7", "roof-0 roof-1 roof-2 roof-3 roof-4 roof-5 roof-6"},
		{"limit=3", "roof-0 roof-1 roof-2 | roof-3 roof-4 roof-5 | roof-6"},
		{"limit=2&group=even", "roof-0 roof-2 | roof-4 roof-6"},
		{"group=none", ""},
		{"after=roof-4", "roof-5 roof-6"},
	} {
		var pages []string
		for next := ""; ; {
			path := "/api/v1/devices?" + test.query
			if next != "" {
				path += "&after=" + next
			}
			list := decode[DeviceList](t, c.get(path).body)
			var ids []string
			for _, d := range list.Devices {
				ids = append(ids, d.ID)
			}
			pages = append(pages, strings.Join(ids, " "))
			if next = list.Next; next == "" {
				break
			}
		}
		if got := strings.Join(pages, " | "); got != test.want {
			t.Errorf("%s: pages %q, want %q", test.query, got, test.want)
		}
	}
	if body := c.get("/api/v1/devices?group=none").body; body != `{"devices":[]}`+"\n" {
		t.Errorf("an empty list is %s", body)
	}
}

func TestChangeDevice(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "north")
	token := c.tokens[access.Operator]
	for _, step := range []struct {
		body string
		want Device
	}{
		{`{"disabled":true}`, Device{Group: "north", Disabled: true}},
		{`{"notes":"sold","group":"south"}`, Device{Group: "south", Notes: "sold", Disabled: true}},
		{`{"group":"","disabled":false}`, Device{Notes: "sold"}},
		{`{"time_zone":"Europe/Berlin"}`, Device{Notes: "sold", TimeZone: "Europe/Berlin"}},
	} {
		r := c.do(http.MethodPatch, "/api/v1/devices/roof-1", token, step.body)
		want := step.want
		want.ID, want.CreatedAt, want.Epoch, want.Inverters = "roof-1", c.now, 1, []Inverter{}
		want.Key, want.TimeZone = DeviceKey{Epoch: 1, Since: c.now}, orUTC(want.TimeZone)
		if diff := cmp.Diff(want, decode[Device](t, r.body)); r.status != http.StatusOK || diff != "" {
			t.Errorf("%s: %d (-want +got):\n%s", step.body, r.status, diff)
		}
		if shown := c.get("/api/v1/devices/roof-1").body; shown != r.body {
			t.Errorf("%s: the device is shown as %s", step.body, shown)
		}
		record := decode[Records](t, c.get("/api/v1/audit?last=1").body).Records[0]
		if record.Action != "device.changed" || record.Actor.Name != "operator" {
			t.Errorf("%s: the audit log says %+v", step.body, record)
		}
	}
}

func orUTC(zone string) string {
	if zone == "" {
		return "UTC"
	}
	return zone
}

// What the registry knows of a device is shown in full.
func TestShowDevice(t *testing.T) {
	at := time.Date(2026, 6, 1, 2, 3, 4, 5e6, time.UTC)
	d := registry.Device{
		ID: "roof-1", Group: "g", Notes: "n", TimeZone: "Europe/Berlin", Disabled: true, CreatedAt: at, Epoch: 7, LastSeen: at.Add(time.Hour),
		KeySince: at, Rotation: &registry.Rotation{Epoch: 8, OfferFrom: at, OfferedAt: at, Burn: true}, Recovery: at.Add(time.Hour),
		Inventory: registry.Inventory{
			ReportedAt: at, AgentVersion: "0.1.0", Hardware: "arm", ControlAllowed: true,
			Inverters: []registry.Inverter{
				{Name: "inv1", Profile: "p", ProfileVersion: "1", Serial: "s", Model: "m", Points: []ecowatt.Point{{Name: "pac", Unit: "W", Exponent: -1, Writable: true, Min: 1, Max: 2}}},
				{Name: "inv2"},
			},
		},
		Firmware: registry.Firmware{Release: 9, State: "trial", Version: "0.1.1"},
	}
	got, err := json.Marshal(showDevice(d, at))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"roof-1","group":"g","notes":"n","time_zone":"Europe/Berlin","disabled":true,"created_at":"2026-06-01T02:03:04.005Z","last_seen":"2026-06-01T03:03:04.005Z","epoch":7,` +
		`"key":{"epoch":7,"since":"2026-06-01T02:03:04.005Z","pending":{"epoch":8,"offer_from":"2026-06-01T02:03:04.005Z",` +
		`"offered_at":"2026-06-01T02:03:04.005Z","burn":true},"recovery_until":"2026-06-01T03:03:04.005Z"},` +
		`"agent":{"version":"0.1.0","hardware":"arm","control_allowed":true,"reported_at":"2026-06-01T02:03:04.005Z"},` +
		`"firmware":{"release":9,"state":"trial","version":"0.1.1"},"config":{"revision":0,"pending":false,"drift":0},` +
		`"inverters":[{"name":"inv1","profile":"p","profile_version":"1","serial":"s","model":"m","points":[{"name":"pac","unit":"W","exponent":-1,"writable":true,"min":1,"max":2}]},` +
		`{"name":"inv2","profile":"","profile_version":"","serial":"","model":"","points":[]}]}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
