package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestCommands takes commands from the queue to their end, good or bad, with the
// real programs: each is received, executed and reported, both logs tell the same,
// and the inverter has done what the report says.
func TestCommands(t *testing.T) {
	t.Parallel()
	f := newControlled(t, 1)
	f.startRoof(t, "roof-1")
	eventually(t, "the device says that it allows control", func() bool {
		return strings.Contains(must(t, f.env, "ecowatt", "device", "show", "roof-1"), "allowed")
	})
	f.awaitServed(t, 1)

	exception := func(code int) string { return fmt.Sprintf(`{"fault":"exception","code":%d,"functions":[6,16]}`, code) }
	for _, c := range []struct {
		name    string
		fault   string
		args    []string
		meddle  func(*testing.T)
		state   string
		code    string
		text    string  // a part of it
		inForce float64 // afterwards
	}{
		{"a value is written", "", []string{"write", "roof-1", "export_power_percent", "90"}, nil, "succeeded", "done", "90 %", 90},
		{"it stands there already", "", []string{"write", "roof-1", "export_power_percent", "90"}, nil, "succeeded", "unchanged", "stood there", 90},
		{"points are read", "", []string{"read", "roof-1", "pac", "export_power_percent"}, nil, "succeeded", "done", "export_power_percent 90", 90},
		{"the inverter has an exception", exception(3), []string{"write", "roof-1", "export_power_percent", "80"}, nil, "failed", "refused", "03", 90},
		{"the inverter knows no writing", exception(1), []string{"write", "roof-1", "export_power_percent", "80"}, nil, "failed", "refused", "01", 90},
		{"function 16 is refused, and not needed", `{"fault":"exception","code":1,"functions":[16]}`, []string{"write", "roof-1", "export_power_percent", "85"}, nil, "succeeded", "done", "85 %", 85},
		{"another controller undoes it", `{"fault":"revert","for":"500ms","count":1}`, []string{"write", "roof-1", "export_power_percent", "70"}, nil, "failed", "not_taken", "as before", 85},
		{"another controller writes something else", "", []string{"write", "roof-1", "export_power_percent", "60"}, func(t *testing.T) {
			f.sim.line(t, 0, `control written" unit=17 percent=60 `)
			f.writeAs(t, 17, 77)
		}, "failed", "overwritten", "somebody else", 77},
		{"the gate is ignored", `{"fault":"no_effect","count":1}`, []string{"limit", "roof-1", "40"}, nil, "failed", "no_effect", "pac is", 77},
		{"the inverter is away", `{"fault":"lost"}`, []string{"write", "roof-1", "export_power_percent", "50"}, nil, "failed", "inverter_away", "", 77},
		{"the write is carried out, and not answered", `{"fault":"drop","functions":[6,16],"count":1}`, []string{"write", "roof-1", "export_power_percent", "55"}, nil, "succeeded", "done", "55 %", 55},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.fault != "" {
				f.misbehave(t, c.fault)
			}
			o := f.orders(t, c.args...)
			if c.meddle != nil {
				c.meddle(t)
			}
			o = f.end(t, o.ID)
			f.misbehave(t, "")
			if o.State != c.state || o.Code != c.code || !strings.Contains(o.Text, c.text) {
				t.Errorf("%v, want %s (%s): …%s…", o, c.state, c.code, c.text)
			}
			if got := f.inForce(t, 17); got != c.inForce {
				t.Errorf("%v: the inverter keeps to %v %%, want %v", o, got, c.inForce)
			}
			if o.DeliveredAt == nil || o.DeliveredAt.Before(o.QueuedAt) || o.EndedAt.Before(*o.DeliveredAt) {
				t.Errorf("%v: queued %v, delivered %v, ended %v", o, o.QueuedAt, o.DeliveredAt, o.EndedAt)
			}
			f.agree(t, o)
		})
	}
	f.restarts(t)
	f.neverRun(t)
	f.refusedAtOnce(t)
}

// restarts has the agent started again by a command, which the next agent answers.
func (f *fleet) restarts(t *testing.T) {
	t.Helper()
	o := f.ended(t, "restart", "roof-1")
	if starts := strings.Count(string(f.launchers["roof-1"].said()), `msg="agent started" version=`); o.State != "succeeded" || starts != 2 {
		t.Errorf("%v: the agent was started %d times", o, starts)
	}
	f.agree(t, o)
}

// neverRun orders what a gateway that is off does not come for in time.
func (f *fleet) neverRun(t *testing.T) {
	t.Helper()
	f.launchers["roof-1"].stop(t)
	late := f.orders(t, "write", "roof-1", "export_power_percent", "11", "--ttl", "1s")
	cancelled := f.orders(t, "write", "roof-1", "export_power_percent", "12")
	if o := parseJSON[order](t, must(t, f.env, "ecowatt", "command", "cancel", cancelled.ID, "--json")); o.State != "cancelled" {
		t.Errorf("%v", o)
	}
	eventually(t, "the deadline is over", func() bool { return f.look(t, late.ID).State == "expired" })
	f.startRoof(t, "roof-1")
	last := f.ended(t, "write", "roof-1", "export_power_percent", "88")
	if last.State != "succeeded" {
		t.Errorf("%v", last)
	}
	if o := f.look(t, late.ID); o.State != "expired" || o.Code != "undelivered" {
		t.Errorf("%v", o)
	}
	if r := run(t, f.env, "ecowatt", "command", "cancel", last.ID); r.code != 1 || !strings.Contains(r.stderr, "succeeded") {
		t.Errorf("cancelling what is done: exit code %d: %s", r.code, r.stderr)
	}
	for _, value := range []string{"11", "12"} {
		if n := writes([]*process{f.sim}, given{17, value}); n != 0 {
			t.Errorf("%s %% was written %d times, though nobody wanted it any more", value, n)
		}
	}
}

// refusedAtOnce orders what no device is to be asked for.
func (f *fleet) refusedAtOnce(t *testing.T) {
	t.Helper()
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"limit", "roof-1", "150"}, 2, "percent"},
		{[]string{"limit", "roof-1", "50", "--for", "60d"}, 2, "lease_s"},
		{[]string{"write", "roof-1", "export_power_percent", "101"}, 2, "value"},
		{[]string{"write", "roof-1", "export_power_percent", "50.5"}, 2, "value"},
		{[]string{"write", "roof-1", "pac", "50"}, 2, "pac"},
		{[]string{"write", "roof-1", "nonsense", "50"}, 2, "nonsense"},
		{[]string{"read", "roof-1", "nonsense"}, 2, "nonsense"},
		{[]string{"limit", "roof-1", "50", "--inverter", "inv9"}, 2, "inv9"},
		{[]string{"limit", "nobody", "50"}, 4, "nobody"},
	} {
		r := run(t, f.env, "ecowatt", append([]string{"command"}, c.args...)...)
		if r.code != c.code || !strings.Contains(r.stderr, c.want) || strings.Count(r.stderr, "\n") > 2 {
			t.Errorf("%v: exit code %d, want %d, and a line about %s:\n%s%s", c.args, r.code, c.code, c.want, r.stdout, r.stderr)
		}
	}
	f.launchers["roof-1"].stop(t)
	f.setting(t, "roof-1", "allow_control: true", "allow_control: false")
	f.startRoof(t, "roof-1")
	eventually(t, "the cloud knows that control is not allowed", func() bool {
		return strings.Contains(must(t, f.env, "ecowatt", "device", "show", "roof-1", "--json"), `"control_allowed": false`)
	})
	if r := run(t, f.env, "ecowatt", "command", "limit", "roof-1", "50"); r.code != 1 || !strings.Contains(r.stderr, "allow_control") {
		t.Errorf("exit code %d, and does not say why: %s", r.code, r.stderr)
	}
}
