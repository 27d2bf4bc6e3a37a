package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt/cloud/access"
)

// Every path and method, and the least role it takes; 0 for everyone. A path
// that is served and not listed here fails TestOpenAPI.
var surface = []struct {
	method, path, body string
	needs              access.Role
	want               int // for whoever may
}{
	{http.MethodGet, "/api/v1/audit", "", access.Viewer, 200},
	{http.MethodGet, "/api/v1/commands/{command}", "", access.Viewer, 404},
	{http.MethodDelete, "/api/v1/commands/{command}", "", access.Operator, 404},
	{http.MethodGet, "/api/v1/config/templates", "", access.Viewer, 200},
	{http.MethodGet, "/api/v1/config/templates/{template}", "", access.Viewer, 404},
	{http.MethodPut, "/api/v1/config/templates/{template}", `{"log_level":"warn"}`, access.Operator, 200},
	{http.MethodDelete, "/api/v1/config/templates/{template}", "", access.Operator, 404},
	{http.MethodGet, "/api/v1/config/templates/{template}/devices", "", access.Viewer, 404},
	{http.MethodGet, "/api/v1/devices", "", access.Viewer, 200},
	{http.MethodPost, "/api/v1/devices", `{"id":"new"}`, access.Administrator, 201},
	{http.MethodGet, "/api/v1/devices/{id}", "", access.Viewer, 200},
	{http.MethodPatch, "/api/v1/devices/{id}", `{"group":"north"}`, access.Operator, 200},
	{http.MethodGet, "/api/v1/devices/{id}/commands", "", access.Viewer, 200},
	{http.MethodPost, "/api/v1/devices/{id}/commands", `{"action":"restart_agent"}`, access.Operator, 201},
	{http.MethodGet, "/api/v1/devices/{id}/config", "", access.Viewer, 200},
	{http.MethodPut, "/api/v1/devices/{id}/config", `{"log_level":"warn"}`, access.Operator, 200},
	{http.MethodGet, "/api/v1/devices/{id}/config/log", "", access.Viewer, 200},
	{http.MethodPut, "/api/v1/devices/{id}/config/template", `{"template":""}`, access.Operator, 200},
	{http.MethodGet, "/api/v1/devices/{id}/events", "", access.Viewer, 200},
	{http.MethodGet, "/api/v1/events", "", access.Viewer, 200},
	{http.MethodGet, "/api/v1/firmware", "", access.Viewer, 200},
	{http.MethodPost, "/api/v1/firmware", "bundle", access.Operator, 201},
	{http.MethodGet, "/api/v1/firmware/{hash}", "", access.Viewer, 404},
	{http.MethodDelete, "/api/v1/firmware/{hash}", "", access.Operator, 404},
	{http.MethodPut, "/api/v1/firmware/root", "signed", access.Administrator, 200},
	{http.MethodGet, "/api/v1/groups/{group}/config", "", access.Viewer, 200},
	{http.MethodPut, "/api/v1/groups/{group}/config", `{"log_level":"warn"}`, access.Operator, 200},
	{http.MethodGet, "/api/v1/groups/{group}/config/devices", "", access.Viewer, 200},
	{http.MethodPut, "/api/v1/groups/{group}/config/template", `{"template":""}`, access.Operator, 200},
	{http.MethodPost, "/api/v1/devices/{id}/key-rotation", `{"burn":true}`, access.Administrator, 202},
	{http.MethodDelete, "/api/v1/devices/{id}/key-rotation", "", access.Administrator, 404},
	{http.MethodPost, "/api/v1/devices/{id}/recovery", `{"for_s":3600}`, access.Administrator, 409},
	{http.MethodDelete, "/api/v1/devices/{id}/recovery", "", access.Administrator, 204},
	{http.MethodGet, "/api/v1/devices/{id}/telemetry", "", access.Viewer, 200},
	{http.MethodGet, "/api/v1/devices/{id}/telemetry.csv", "", access.Viewer, 200},
	{http.MethodPost, "/api/v1/groups/{group}/commands", `{"action":"restart_agent"}`, access.Operator, 404},
	{http.MethodGet, "/api/v1/orders/{order}", "", access.Viewer, 404},
	{http.MethodGet, "/api/v1/rollouts", "", access.Viewer, 200},
	{http.MethodPost, "/api/v1/rollouts", `{"release":"` + strings.Repeat("0c", 32) + `"}`, access.Operator, 404},
	{http.MethodGet, "/api/v1/rollouts/{rollout}", "", access.Viewer, 404},
	{http.MethodGet, "/api/v1/rollouts/{rollout}/devices", "", access.Viewer, 404},
	{http.MethodPost, "/api/v1/rollouts/{rollout}/pause", "", access.Operator, 404},
	{http.MethodPost, "/api/v1/rollouts/{rollout}/resume", "", access.Operator, 404},
	{http.MethodPost, "/api/v1/rollouts/{rollout}/abort", "", access.Operator, 404},
	{http.MethodPost, "/api/v1/key-rotations", `{"all":true}`, access.Administrator, 202},
	{http.MethodGet, "/api/v1/keyring", "", access.Administrator, 200},
	{http.MethodPost, "/api/v1/keyring/keys", "", access.Administrator, 201},
	{http.MethodDelete, "/api/v1/keyring/keys/{kek}", "", access.Administrator, 200},
	{http.MethodPut, "/api/v1/keyring/primary", `{"id":"kek1"}`, access.Administrator, 200},
	{http.MethodPost, "/api/v1/keyring/rewrap", "", access.Administrator, 200},
	{http.MethodGet, "/healthz", "", 0, 200},
	{http.MethodGet, "/metrics", "", access.Viewer, 200},
	{http.MethodGet, "/readyz", "", 0, 200},
}

// filled is a path of surface with a device and a key in it.
func filled(path, device string) string {
	return strings.NewReplacer("{id}", device, "{kek}", "kek1", "{command}", strings.Repeat("0a", 16), "{order}", strings.Repeat("0b", 16), "{group}", "nowhere", "{hash}", strings.Repeat("0c", 32), "{rollout}", strings.Repeat("0d", 16), "{template}", "absent").Replace(path)
}

// Attacks: A1, A2, A8, O5, O12
func TestWhoMayDoWhat(t *testing.T) {
	callers := []struct {
		name, header string
		role         access.Role
	}{
		{name: "nobody"},
		{name: "no token", header: "Bearer"},
		{name: "another scheme", header: "Basic dXNlcjpwYXNz"},
		{name: "not a token", header: "Bearer secret"},
		{name: "a stranger's token", header: "Bearer ew_" + strings.Repeat("A", 42) + "E"},
		{name: "viewer", role: access.Viewer},
		{name: "operator", role: access.Operator},
		{name: "administrator", role: access.Administrator},
	}
	for _, s := range surface {
		c := newCloud(t)
		c.add("roof-1", "")
		for _, who := range callers {
			t.Run(s.method+" "+s.path+" by "+who.name, func(t *testing.T) {
				before := c.do(http.MethodGet, "/api/v1/devices", c.tokens[access.Viewer], "").body
				header := who.header
				if who.role != 0 {
					header = "Bearer " + c.tokens[who.role]
				}
				r := c.do(s.method, filled(s.path, "roof-1"), "", s.body, "Authorization", header)
				want := s.want
				switch {
				case s.needs == 0:
				case who.role == 0:
					want = http.StatusUnauthorized
				case who.role < s.needs:
					want = http.StatusForbidden
				}
				if r.status != want {
					t.Fatalf("%d, want %d: %s", r.status, want, r.body)
				}
				if want < 400 {
					return
				}
				problemOf(t, r)
				if got := r.header.Get("WWW-Authenticate"); (got != "") != (want == http.StatusUnauthorized) {
					t.Errorf("WWW-Authenticate of a %d is %q", want, got)
				}
				if after := c.do(http.MethodGet, "/api/v1/devices", c.tokens[access.Viewer], "").body; after != before {
					t.Errorf("a refused request changed the fleet:\n%s", cmp.Diff(before, after))
				}
			})
		}
	}
}

// Nobody without a token learns anything of a request but that they need one:
// not whether its body is right, nor whether the device is there.
//
// Attacks: A1
func TestStrangersLearnNothing(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	var first string
	for _, path := range []string{"/api/v1/devices/roof-1", "/api/v1/devices/absent", "/api/v1/devices?limit=x", "/api/v1/devices/roof-1/telemetry?from=x"} {
		r := c.do(http.MethodGet, path, "", "")
		if r.status != http.StatusUnauthorized {
			t.Errorf("%s: %d", path, r.status)
		}
		if first == "" {
			first = r.body
		}
		if r.body != first {
			t.Errorf("%s is answered in other words: %s", path, r.body)
		}
	}
}

// A token is in no answer and in no line of the log.
//
// Attacks: A4
func TestTokensAreNotRepeated(t *testing.T) {
	c := newCloud(t, func(o *Options) { o.Now = nil })
	token := c.tokens[access.Administrator]
	stranger := "ew_" + strings.Repeat("B", 42) + "E"
	var said []string
	for _, shown := range []string{token, stranger} {
		for _, s := range surface {
			path := filled(s.path, "absent")
			said = append(said, fmt.Sprint(c.do(s.method, path, shown, s.body)), fmt.Sprint(c.do(http.MethodPut, path, shown, "")))
		}
	}
	said = append(said, c.logs.String())
	for _, secret := range []string{token, stranger} {
		if i := slices.IndexFunc(said, func(text string) bool { return strings.Contains(text, secret) }); i >= 0 {
			t.Errorf("a token is repeated in %.300s", said[i])
		}
	}
}

const (
	devicesPath = "/api/v1/devices"
	devicePath  = "/api/v1/devices/roof-1"
)

var longText = strings.Repeat("x", maxBody)

var badRequests = []struct {
	name, method, path, body string
	status                   int
	location                 string // of the offending field, "" for none
	header                   []string
}{
	{"no such path", "GET", "/api/v2/devices", "", 404, "", nil},
	{"root", "GET", "/", "", 404, "", nil},
	{"no such method", "PUT", devicesPath, "", 405, "", nil},
	{"no such method of a device", "DELETE", devicePath, "", 405, "", nil},
	{"no such method of metrics", "POST", "/metrics", "", 405, "", nil},
	{"no such device", "GET", "/api/v1/devices/absent", "", 404, "", nil},
	{"no such device to change", "PATCH", "/api/v1/devices/absent", `{"group":"x"}`, 404, "", nil},
	{"a name no device can have", "GET", "/api/v1/devices/No%20Good", "", 404, "", nil},
	{"telemetry of no such device", "GET", "/api/v1/devices/a%2Fb/telemetry", "", 404, "", nil},
	{"events of no such device", "GET", "/api/v1/devices/absent/events", "", 404, "", nil},
	{"no body", "POST", devicesPath, "", 400, "", nil},
	{"cut body", "POST", devicesPath, `{"id":"new"`, 400, "body", nil},
	{"two bodies", "POST", devicesPath, `{"id":"new"}{}`, 400, "body", nil},
	{"not an object", "POST", devicesPath, `["new"]`, 422, "body", nil},
	{"no id", "POST", devicesPath, `{"group":"x"}`, 422, "body", nil},
	{"id of another type", "POST", devicesPath, `{"id":7}`, 422, "body.id", nil},
	{"bad id", "POST", devicesPath, `{"id":"No Good"}`, 422, "body.id", nil},
	{"unknown field", "POST", devicesPath, `{"id":"new","groop":"x"}`, 422, "body.groop", nil},
	{"bad group", "POST", devicesPath, `{"id":"new","group":"No Good"}`, 422, "body.group", nil},
	{"bad notes", "POST", devicesPath, `{"id":"new","notes":"\u001b[2J"}`, 422, "body.notes", nil},
	{"bad cloud URL", "POST", devicesPath, `{"id":"new","cloud_url":"ftp://x"}`, 422, "body.cloud_url", nil},
	{"a name that is taken", "POST", devicesPath, `{"id":"roof-1"}`, 409, "", nil},
	{"long body", "POST", devicesPath, `{"id":"new","notes":"` + longText + `"}`, 413, "", nil},
	{"another type of content", "POST", devicesPath, `id: new`, 415, "body", []string{"Content-Type", "application/yaml"}},
	{"a form", "POST", devicesPath, `id=new`, 415, "body", []string{"Content-Type", "application/x-www-form-urlencoded"}},
	{"nothing to change", "PATCH", devicePath, `{}`, 422, "body", nil},
	{"null to change", "PATCH", devicePath, `{"group":null}`, 422, "body", nil},
	{"change of an unknown field", "PATCH", devicePath, `{"id":"x"}`, 422, "body.id", nil},
	{"change to a bad group", "PATCH", devicePath, `{"group":"No Good"}`, 422, "body.group", nil},
	{"disabled by a word", "PATCH", devicePath, `{"disabled":"yes"}`, 422, "body.disabled", nil},
	{"long change", "PATCH", devicePath, `{"notes":"` + longText + `"}`, 413, "", nil},
	{"unknown parameter", "GET", devicesPath + "?grup=x", "", 422, "query.grup", nil},
	{"limit 0", "GET", devicesPath + "?limit=0", "", 422, "query.limit", nil},
	{"limit too high", "GET", devicesPath + "?limit=1001", "", 422, "query.limit", nil},
	{"limit in words", "GET", devicesPath + "?limit=ten", "", 422, "query.limit", nil},
	{"bad group to list", "GET", devicesPath + "?group=No+Good", "", 422, "query.group", nil},
	{"from in words", "GET", devicePath + "/telemetry?from=yesterday", "", 422, "query.from", nil},
	{"from before 1970", "GET", devicePath + "/telemetry?from=-1", "", 422, "query.from", nil},
	{"to after 9999", "GET", devicePath + "/telemetry?to=253402300800001", "", 422, "query.to", nil},
	{"from after to", "GET", devicePath + "/telemetry?from=2&to=1", "", 422, "query.from", nil},
	{"from at to", "GET", devicePath + "/telemetry.csv?from=1&to=1", "", 422, "query.from", nil},
	{"bad point", "GET", devicePath + "/telemetry?points=pac,No+Good", "", 422, "query.points", nil},
	{"a point twice", "GET", devicePath + "/telemetry.csv?points=pac,pac", "", 422, "query.points", nil},
	{"bad inverter", "GET", devicePath + "/telemetry?inverter=No+Good", "", 422, "query.inverter", nil},
	{"bad device of the log", "GET", "/api/v1/audit?device=No+Good", "", 422, "query.device", nil},
	{"negative after", "GET", "/api/v1/audit?after=-1", "", 422, "query.after", nil},
	{"long wait", "GET", "/api/v1/audit?wait=26", "", 422, "query.wait", nil},
}

func TestProblems(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	for _, p := range badRequests {
		t.Run(p.name, func(t *testing.T) {
			before := c.get("/api/v1/audit").body + c.get(devicesPath).body
			r := c.do(p.method, p.path, c.tokens[access.Administrator], p.body, p.header...)
			if r.status != p.status {
				t.Fatalf("%d, want %d: %s", r.status, p.status, r.body)
			}
			got := ""
			if problem := problemOf(t, r); len(problem.Errors) > 0 {
				got = problem.Errors[0].Location
				if problem.Errors[0].Message == "" {
					t.Errorf("does not say what is wrong with %s", got)
				}
			}
			if got != p.location {
				t.Errorf("names %q, want %q: %s", got, p.location, r.body)
			}
			if allow := r.header.Get("Allow"); (allow != "") != (p.status == http.StatusMethodNotAllowed) {
				t.Errorf("Allow is %q", allow)
			}
			if after := c.get("/api/v1/audit").body + c.get(devicesPath).body; after != before {
				t.Errorf("bad input changed something:\n%s", cmp.Diff(before, after))
			}
		})
	}
	if logs := c.logs.String(); logs != "" {
		t.Errorf("bad input filled the log:\n%s", logs)
	}
}
