package e2e

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// groupOrder is an order for a group, as "ecowatt command … --group --json" tells it.
type groupOrder struct {
	ID      string         `json:"id"`
	Counts  map[string]int `json:"counts"`
	Devices []struct {
		Device  string `json:"device"`
		Command *order `json:"command"`
		Refused *struct {
			Code string `json:"code"`
		} `json:"refused"`
	} `json:"devices"`
}

// outcomes is what became of an order on each device.
func (o groupOrder) outcomes() (all []string) {
	for _, d := range o.Devices {
		if d.Refused != nil {
			all = append(all, d.Device+" refused "+d.Refused.Code)
		} else {
			all = append(all, d.Device+" "+d.Command.State+" "+d.Command.Code)
		}
	}
	return all
}

// TestGroup orders and sets something for three roofs at once, of which one does not
// allow control and one has an inverter that refuses: each answers for itself, and none
// stops the others.
func TestGroup(t *testing.T) {
	t.Parallel()
	f := newControlled(t, 3)
	f.setting(t, "roof-3", "allow_control: true", "allow_control: false")
	for _, name := range f.roofs {
		f.startRoof(t, name)
	}
	for _, name := range f.roofs {
		eventually(t, name+" has described itself", func() bool {
			return strings.Contains(must(t, f.env, "ecowatt", "device", "show", name, "--json"), `"watched"`)
		})
	}
	f.misbehave(t, `{"fault":"exception","code":3,"functions":[6,16],"units":[18]}`)
	r := run(t, f.env, "ecowatt", "command", "limit", "--group", "south", "50", "--for", "1h", "--wait", "--json")
	if r.code != 1 || !strings.Contains(r.stderr, "1 of 3 devices have done it") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	want := []string{"roof-1 succeeded done", "roof-2 failed refused", "roof-3 refused control_not_allowed"}
	o := parseJSON[groupOrder](t, r.stdout)
	if got := o.outcomes(); !slices.Equal(got, want) {
		t.Error(cmp.Diff(want, got))
	}
	for i, limit := range []float64{50, 100, 100} {
		if got := f.inForce(t, 17+i); got != limit {
			t.Errorf("unit %d keeps to %v %%, want %v", 17+i, got, limit)
		}
	}
	table := must(t, f.env, "ecowatt", "command", "show", o.ID)
	for _, line := range []string{`^roof-1 +succeeded +done`, `^roof-2 +failed +refused .*exception 03`, `^roof-3 +refused +control_not_allowed .*allow_control`} {
		wantLines(t, table, line, 1)
	}
	f.groupConfiguration(t)
}

// groupConfiguration sets something for the group, and something else for one roof.
func (f *fleet) groupConfiguration(t *testing.T) {
	t.Helper()
	must(t, f.env, "ecowatt", "config", "set", "roof-2", "payload_cap=3000")
	must(t, f.env, "ecowatt", "config", "set", "--group", "south", "payload_cap=4000", "registers=pac,vac1")
	for name, limit := range map[string]float64{"roof-1": 4000, "roof-2": 3000, "roof-3": 4000} {
		var c configuration
		eventuallyFunc(t, func() string { return name + " has what its group has" }, func() bool {
			c = f.configured(t, name)
			return !c.Pending && c.Reported["registers"] != nil
		})
		if c.Reported["payload_cap"] != limit || len(c.Drift) > 0 {
			t.Errorf("%s: %+v", name, c)
		}
	}
	wantLines(t, must(t, f.env, "ecowatt", "config", "get", "roof-2", "--explain"), `^payload_cap +3000 +3000 .*device roof-2`, 1)
	wantLines(t, must(t, f.env, "ecowatt", "config", "get", "roof-2", "--explain"), `^registers .*group south`, 1)
	// Nothing of the group's any more: each goes back to its own.
	must(t, f.env, "ecowatt", "config", "set", "--group", "south", "payload_cap=", "registers=")
	for _, name := range f.roofs {
		var c configuration
		eventuallyFunc(t, func() string { return name + " is as it was before" }, func() bool {
			c = f.configured(t, name)
			return !c.Pending && c.Reported["registers"] == nil
		})
		if _, has := c.Reported["payload_cap"]; has != (name == "roof-2") {
			t.Errorf("%s: %+v", name, c)
		}
	}
}
