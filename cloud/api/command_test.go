package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/command"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/store"
)

// running lets a test do what devices do, by the row of a device.
func (c *cloud) running() {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.store.Run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
}

func (c *cloud) commit(unit func(*store.Tx) error) {
	c.t.Helper()
	if err := c.store.Commit(c.t.Context(), unit); err != nil {
		c.t.Fatal(err)
	}
}

// reports gives a device an inventory; devices have rows 1, 2, … in the order in
// which they were added.
func (c *cloud) reports(row int64, control bool, inverters ...string) {
	c.t.Helper()
	v := registry.Inventory{ReportedAt: c.now, ControlAllowed: control}
	for _, name := range inverters {
		v.Inverters = append(v.Inverters, registry.Inverter{Name: name, Points: []ecowatt.Point{
			{Name: "pac", Unit: "W"}, {Name: "export_power_percent", Unit: "%", Writable: true, Max: 100},
		}})
	}
	c.commit(func(tx *store.Tx) error {
		_, err := tx.Report(row, registry.Report{At: c.now, Inventory: &v})
		return err
	})
}

// sends is what an exchange does with the commands of a device.
func (c *cloud) sends(row int64) {
	c.t.Helper()
	c.commit(func(tx *store.Tx) error {
		standing, err := tx.StandingCommands(row, c.now)
		for _, x := range standing {
			if sent, changed := x.Sent(c.now); changed && err == nil {
				err = tx.SaveCommand(row, sent, audit.Actor{Kind: audit.System, Name: "gateway"}, c.now)
			}
		}
		return err
	})
}

func (c *cloud) operate(method, path, body string, header ...string) reply {
	c.t.Helper()
	return c.do(method, path, c.tokens[access.Operator], body, header...)
}

const limit40 = `{"action":"set_power_limit","arguments":{"percent":40,"lease_s":7200},"ttl_s":60}`

func TestCommands(t *testing.T) {
	c := newCloud(t)
	c.running()
	c.add("roof-1", "north")
	c.reports(1, true, "inv1")
	r := c.operate("POST", devicePath+"/commands", limit40)
	if r.status != http.StatusCreated || len(c.woken) != 1 {
		t.Fatalf("%d %s, woken: %v", r.status, r.body, c.woken)
	}
	x := decode[Command](t, r.body)
	if r.header.Get("Location") != "/api/v1/commands/"+x.ID {
		t.Errorf("Location %q", r.header.Get("Location"))
	}
	want := `{"id":"` + x.ID + `","device":"roof-1","action":"set_power_limit",` +
		`"arguments":{"inverter":"inv1","lease_s":7200,"on_end":"restore","percent":40},"state":"queued","code":"","text":"","value":null,` +
		`"queued_at":"2026-06-21T12:00:00Z","delivered_at":null,"executing_at":null,"executed_at":null,"ended_at":null,` +
		`"expires_at":"2026-06-21T12:01:00Z","by":"operator"}`
	if diff := cmp.Diff(want, strings.TrimSpace(r.body)); diff != "" {
		t.Error(diff)
	}
	if got := c.get("/api/v1/commands/" + x.ID); got.body != r.body {
		t.Errorf("shown as %s", got.body)
	}

	// It can be cancelled, once and again, and then not any more.
	for range 2 {
		if r := c.operate("DELETE", "/api/v1/commands/"+x.ID, ""); r.status != http.StatusOK || decode[Command](t, r.body).State != "cancelled" {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	sent := decode[Command](t, c.operate("POST", devicePath+"/commands", `{"action":"restart_agent"}`).body)
	c.sends(1)
	r = c.operate("DELETE", "/api/v1/commands/"+sent.ID, "")
	p := problemOf(t, r)
	if r.status != http.StatusConflict || len(p.Errors) != 1 || p.Errors[0].Value != "delivered" || p.Errors[0].Location != "command.state" {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// Under one key one command is queued, whatever happens in between; the key of
// somebody else, or for another device, is another one.
func TestCommandKeys(t *testing.T) {
	c := newCloud(t)
	c.running()
	c.add("roof-1", "north")
	c.add("roof-2", "north")
	c.reports(1, true, "inv1")
	key := []string{"Idempotency-Key", "9d1c"}
	post := func(path, token, body string, header ...string) (int, string) {
		r := c.do("POST", path, token, body, header...)
		var x struct{ ID string }
		if err := json.Unmarshal([]byte(r.body), &x); err != nil {
			t.Fatal(err)
		}
		return r.status, x.ID
	}
	operator, administrator := c.tokens[access.Operator], c.tokens[access.Administrator]
	status, first := post(devicePath+"/commands", operator, limit40, key...)
	if status != http.StatusCreated {
		t.Fatal(status)
	}
	c.reports(1, false, "inv1")
	c.sends(1)
	for _, x := range []struct {
		name, path, token, body string
		status                  int
		same                    bool
	}{
		{"again", devicePath + "/commands", operator, limit40, 201, true},
		{"again, more completely", devicePath + "/commands", operator, `{"action":"set_power_limit","arguments":{"inverter":"inv1","percent":40,"lease_s":7200,"on_end":"restore"},"ttl_s":60}`, 201, true},
		{"for another time", devicePath + "/commands", operator, strings.Replace(limit40, "60", "61", 1), 409, false},
		{"for something else", devicePath + "/commands", operator, `{"action":"restart_agent","ttl_s":60}`, 409, false},
		{"by somebody else", devicePath + "/commands", administrator, `{"action":"restart_agent"}`, 201, false},
		{"for another device", "/api/v1/devices/roof-2/commands", operator, `{"action":"restart_agent"}`, 201, false},
	} {
		status, id := post(x.path, x.token, x.body, key...)
		if status != x.status || (id == first) != x.same {
			t.Errorf("%s: %d, %s; the first was %s", x.name, status, id, first)
		}
	}
	_, order := post("/api/v1/groups/north/commands", operator, `{"action":"restart_agent"}`, key...)
	if status, again := post("/api/v1/groups/north/commands", operator, `{"action":"restart_agent"}`, key...); status != 201 || again != order {
		t.Errorf("%d, order %s, then %s", status, order, again)
	}
	if status, _ := post("/api/v1/groups/north/commands", operator, limit40, key...); status != http.StatusConflict {
		t.Errorf("an order under a key that is used: %d", status)
	}
}

func TestRefusedCommands(t *testing.T) {
	c := newCloud(t)
	c.running()
	for i, id := range []string{"roof-1", "locked", "silent", "off", "double"} {
		c.add(id, "")
		switch id {
		case "roof-1", "off":
			c.reports(int64(i+1), true, "inv1")
		case "locked":
			c.reports(int64(i+1), false, "inv1")
		case "double":
			c.reports(int64(i+1), true, "inv1", "inv2")
		}
	}
	c.do("PATCH", "/api/v1/devices/off", c.tokens[access.Operator], `{"disabled":true}`)
	limit := func(arguments string) string {
		return `{"action":"set_power_limit","arguments":` + arguments + `}`
	}
	for _, x := range []struct {
		name, device, body string
		status             int
		location           string
		header             []string
	}{
		{"not allowed", "locked", limit(`{"percent":40}`), 409, "device.control_allowed", nil},
		{"no inventory", "silent", limit(`{"percent":40}`), 409, "device.inverters", nil},
		{"disabled", "off", limit(`{"percent":40}`), 409, "device.disabled", nil},
		{"which inverter", "double", limit(`{"percent":40}`), 422, "body.arguments.inverter", nil},
		{"no such inverter", "roof-1", limit(`{"percent":40,"inverter":"inv9"}`), 422, "body.arguments.inverter", nil},
		{"no percent", "roof-1", limit(`{}`), 422, "body.arguments", nil},
		{"too much", "roof-1", limit(`{"percent":101}`), 422, "body.arguments.percent", nil},
		{"in words", "roof-1", limit(`{"percent":"all"}`), 422, "body.arguments.percent", nil},
		{"for no time", "roof-1", limit(`{"percent":40,"lease_s":0}`), 422, "body.arguments.lease_s", nil},
		{"odd end", "roof-1", limit(`{"percent":40,"on_end":"bang"}`), 422, "body.arguments.on_end", nil},
		{"odd argument", "roof-1", limit(`{"percent":40,"watts":3}`), 422, "body.arguments.watts", nil},
		{"no arguments", "roof-1", `{"action":"set_power_limit"}`, 422, "body", nil},
		{"no such point", "roof-1", `{"action":"write_point","arguments":{"point":"x","value":1}}`, 422, "body.arguments.point", nil},
		{"read only", "roof-1", `{"action":"write_point","arguments":{"point":"pac","value":1}}`, 422, "body.arguments.point", nil},
		{"out of range", "roof-1", `{"action":"write_point","arguments":{"point":"export_power_percent","value":101}}`, 422, "body.arguments.value", nil},
		{"nothing to read", "roof-1", `{"action":"read_points","arguments":{"points":[]}}`, 422, "body.arguments.points", nil},
		{"second point", "roof-1", `{"action":"read_points","arguments":{"points":["pac","x"]}}`, 422, "body.arguments.points[1]", nil},
		{"unknown action", "roof-1", `{"action":"explode"}`, 422, "body.action", nil},
		{"no action", "roof-1", `{}`, 422, "body.action", nil},
		{"for no time to wait", "roof-1", `{"action":"restart_agent","ttl_s":0}`, 422, "body.ttl_s", nil},
		{"for ever", "roof-1", `{"action":"restart_agent","ttl_s":2592001}`, 422, "body.ttl_s", nil},
		{"unknown field", "roof-1", `{"action":"restart_agent","ttl":5}`, 422, "body.ttl", nil},
		{"no JSON", "roof-1", `{"action":`, 422, "body", nil},
		{"a list", "roof-1", `["restart_agent"]`, 422, "body", nil},
		{"odd key", "roof-1", `{"action":"restart_agent"}`, 422, "header.Idempotency-Key", []string{"Idempotency-Key", "a b"}},
		{"long key", "roof-1", `{"action":"restart_agent"}`, 422, "header.Idempotency-Key", []string{"Idempotency-Key", strings.Repeat("x", 129)}},
		{"no such device", "absent", `{"action":"restart_agent"}`, 404, "", nil},
	} {
		r := c.operate("POST", "/api/v1/devices/"+x.device+"/commands", x.body, x.header...)
		got := ""
		if p := problemOf(t, r); len(p.Errors) > 0 {
			got = p.Errors[0].Location
		}
		if r.status != x.status || got != x.location {
			t.Errorf("%s: %d naming %q, want %d naming %q: %s", x.name, r.status, got, x.status, x.location, r.body)
		}
	}
	for _, action := range decode[Records](t, c.get("/api/v1/audit?limit=1000").body).Records {
		if strings.HasPrefix(action.Action, "command.") {
			t.Errorf("%+v", action)
		}
	}
	if logs := c.logs.String(); logs != "" {
		t.Errorf("bad input filled the log:\n%s", logs)
	}
}

func TestCommandList(t *testing.T) {
	c := newCloud(t)
	c.running()
	c.add("roof-1", "")
	c.add("roof-2", "")
	var want []string
	for range 7 {
		x := decode[Command](t, c.operate("POST", devicePath+"/commands", `{"action":"restart_agent"}`).body)
		want = append([]string{x.ID}, want...)
	}
	c.operate("DELETE", "/api/v1/commands/"+want[3], "")
	var got []string
	path, pages := devicePath+"/commands?limit=3", 0
	for next := path; next != ""; pages++ {
		list := decode[CommandList](t, c.get(next).body)
		for _, x := range list.Commands {
			got = append(got, x.ID)
		}
		if next = ""; list.Next != "" {
			next = path + "&after=" + list.Next
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || pages != 3 {
		t.Errorf("%d pages\n%s", pages, diff)
	}
	if list := decode[CommandList](t, c.get(devicePath+"/commands?state=cancelled").body); len(list.Commands) != 1 || list.Commands[0].ID != want[3] {
		t.Errorf("%+v", list)
	}
	for path, status := range map[string]int{
		devicePath + "/commands?state=lost": 422, devicePath + "/commands?after=x": 422, "/api/v1/devices/absent/commands": 404,
		"/api/v1/devices/roof-2/commands?after=" + want[0]: 422, "/api/v1/commands/x": 404, "/api/v1/orders/x": 404,
	} {
		if r := c.get(path); r.status != status {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
}

// An order reaches the devices of its group that can do it, and says of the others
// why not.
func TestOrders(t *testing.T) {
	c := newCloud(t)
	c.running()
	for i, id := range []string{"a", "b", "c", "d"} {
		c.add(id, "north")
		if id != "d" {
			c.reports(int64(i+1), id != "b", "inv1")
		}
	}
	c.add("other", "south")
	c.reports(5, true, "inv1")
	r := c.operate("POST", "/api/v1/groups/north/commands", limit40)
	if r.status != http.StatusCreated {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if diff := cmp.Diff([]ecowatt.DeviceID{"a", "c"}, c.woken); diff != "" {
		t.Error(diff)
	}
	c.sends(1)
	o := decode[CommandOrder](t, c.get(r.header.Get("Location")).body)
	var got []string
	for _, x := range o.Devices {
		if x.Command != nil {
			got = append(got, fmt.Sprint(x.Device, " ", x.Command.State, " ", x.Command.Order == o.ID))
		} else {
			got = append(got, x.Device+" "+x.Refused.Code)
		}
	}
	if diff := cmp.Diff([]string{"a delivered true", "b control_not_allowed", "c queued true", "d no_inventory"}, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]int{"delivered": 1, "queued": 1, "refused": 2}, o.Counts); diff != "" {
		t.Error(diff)
	}
	var actions []string
	for _, x := range decode[Records](t, c.get("/api/v1/audit?limit=1000").body).Records {
		if strings.HasPrefix(x.Action, "command.") || strings.HasPrefix(x.Action, "order.") {
			actions = append(actions, string(x.Device)+" "+x.Action)
		}
	}
	slices.Sort(actions)
	if diff := cmp.Diff([]string{" order.placed", "a command.delivered", "a command.queued", "c command.queued"}, actions); diff != "" {
		t.Error(diff)
	}
	if r := c.operate("POST", "/api/v1/groups/nowhere/commands", limit40); r.status != http.StatusNotFound {
		t.Errorf("%d %s", r.status, r.body)
	}
}

// A rotation of one device that waits goes out at once as well.
func TestRotationWakes(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	r := c.do("POST", devicePath+"/key-rotation", c.tokens[access.Administrator], `{}`)
	if r.status != http.StatusAccepted || len(c.woken) != 1 {
		t.Errorf("%d %s, woken: %v", r.status, r.body, c.woken)
	}
}

func TestPowerLimits(t *testing.T) {
	c := newCloud(t)
	c.running()
	c.add("roof-1", "")
	c.reports(1, true, "inv1")
	x := decode[Command](t, c.operate("POST", devicePath+"/commands", limit40).body)
	id, err := command.ParseID(x.ID)
	if err != nil {
		t.Fatal(err)
	}
	until := c.now.Add(2 * time.Hour)
	c.commit(func(tx *store.Tx) error {
		return tx.SaveLease(1, command.LeaseEvent{
			Kind: command.LeaseStarted, Lease: command.Lease{Command: id, Inverter: "inv1", Percent: 40, Until: until},
		}, c.now)
	})
	got := decode[Device](t, c.get(devicePath).body).PowerLimits
	want := []PowerLimit{{Inverter: "inv1", Percent: 40, InForce: true, Until: &until, Since: c.now, Command: x.ID, By: "operator"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	c.now = until
	if got := decode[Device](t, c.get(devicePath).body).PowerLimits; len(got) != 1 || got[0].InForce {
		t.Errorf("after its end: %+v", got)
	}
	// Somebody else has changed it: that is shown for as long as it would have stood.
	c.now = until.Add(-time.Hour)
	c.commit(func(tx *store.Tx) error {
		return tx.SaveLease(1, command.LeaseEvent{Kind: command.LeaseOverwritten, Lease: command.Lease{Command: id}}, c.now)
	})
	if got := decode[Device](t, c.get(devicePath).body).PowerLimits; len(got) != 1 || got[0].InForce || got[0].OverwrittenAt == nil {
		t.Errorf("overwritten: %+v", got)
	}
	c.now = until
	if got := decode[Device](t, c.get(devicePath).body).PowerLimits; len(got) != 0 {
		t.Errorf("overwritten, after its end: %+v", got)
	}
}
