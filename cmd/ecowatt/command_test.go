package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ecowatt"
	"ecowatt/cloud/api"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/command"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/store"
)

// controlled gives the first device that was added an inverter whose power can be
// limited.
func (o *operator) controlled(row int64, allowed bool) {
	o.t.Helper()
	now := time.Now()
	v := registry.Inventory{ReportedAt: now, ControlAllowed: allowed, Inverters: []registry.Inverter{{Name: "inv1", Points: []ecowatt.Point{
		{Name: "pac", Unit: "W"},
		{Name: "export_power_percent", Unit: "%", Writable: true, Max: 100},
		{Name: "offset", Unit: "V", Exponent: -1, Writable: true, Min: -100, Max: 100},
	}}}}
	o.withStore(func(ctx context.Context, s *store.Store) error {
		return s.Commit(ctx, func(tx *store.Tx) error {
			_, err := tx.Report(row, registry.Report{At: now, Inventory: &v})
			return err
		})
	})
}

// carries does what a device does with its commands, one status for each.
func (o *operator) carries(row int64, statuses ...command.Report) {
	o.t.Helper()
	now := time.Now()
	o.withStore(func(ctx context.Context, s *store.Store) error {
		return s.Commit(ctx, func(tx *store.Tx) error {
			standing, err := tx.StandingCommands(row, now)
			if err != nil {
				return err
			}
			for i, c := range standing {
				c, _ = c.Sent(now)
				if i < len(statuses) {
					c, _ = c.Reported(statuses[i], now)
				}
				if err := tx.SaveCommand(row, c, audit.Actor{Kind: audit.Device, Name: string(c.Device)}, now); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func TestCommandLimit(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	o.controlled(1, true)
	said := o.run(0, "command", "limit", "roof-1", "40", "--for", "2h", "--on-end", "release").
		out(`^roof-1: limit inv1 to 40 % for 2h, then release: queued; command [0-9a-f]{32}$`).talk()
	id := regexp.MustCompile(`[0-9a-f]{32}`).FindString(said.stdout)
	o.run(0, "command", "show", id).out(`^command   `+id+`$`, `^device    roof-1$`, `^what      limit inv1 to 40 % for 2h, then release$`,
		`^state     queued$`, `^queued    20.* by administrator$`).never("delivered|ended")
	o.run(0, "command", "list", "roof-1").out(`^20.*  queued  —     limit inv1 to 40 % for 2h, then release  administrator  ` + id + `$`)
	o.run(0, "command", "list", "roof-1", "--state", "failed").out().talk(`^There are no such commands\.$`)
	o.carries(1, command.Report{Status: command.StatusNoEffect, Text: "1200 W at 40 %", Value: int64(40), ExecutedAt: time.Now()})
	o.run(0, "command", "show", id).out(`^state     failed \(no_effect\): 1200 W at 40 %$`, `^value     40$`, `^delivered 20`, `^executed  20.* by the device's clock$`, `^ended     20`)
	o.run(1, "command", "cancel", id).out().talk(`^ecowatt: command ` + id + ` is not cancelled: it is failed already$`)
	o.run(0, "command", "show", id, "--json").out(`"state": "failed"`, `"code": "no_effect"`, `"value": 40`, `"percent": 40`)

	waiting := regexp.MustCompile(`[0-9a-f]{32}`).FindString(o.run(0, "command", "restart", "roof-1", "--json").out(`"action": "restart_agent"`).stdout)
	o.run(0, "command", "cancel", waiting).answers("roof-1: restart the agent: cancelled: cancelled by administrator\n")
	o.run(0, "command", "cancel", waiting, "--json").out(`"state": "cancelled"`)
}

func TestCommandUsage(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	o.controlled(1, true)
	o.run(0, "device", "add", "locked")
	o.controlled(2, false)
	o.run(0, "command", "write", "roof-1", "offset", "--", "-5.5").out(`^roof-1: write offset = -5\.5 on inv1: queued; `)
	o.run(0, "command", "read", "roof-1", "pac", "offset").out(`^roof-1: read pac, offset of inv1: queued; `)
	for _, refused := range []struct {
		code int
		says string
		args []string
	}{
		{2, `^ecowatt: DEVICE is missing$`, []string{"limit"}},
		{2, `^ecowatt: PERCENT is missing$`, []string{"limit", "roof-1"}},
		{2, `^ecowatt: unexpected argument "50"$`, []string{"limit", "--group", "north", "40", "50"}},
		{2, `^ecowatt: PERCENT: "half" is no number$`, []string{"limit", "roof-1", "half"}},
		{2, `^ecowatt: PERCENT: "NaN" is no number$`, []string{"limit", "roof-1", "NaN"}},
		{2, `^ecowatt: --for: "soon" is no time span; write 30s, 5m, 2h or 7d$`, []string{"limit", "roof-1", "40", "--for", "soon"}},
		{2, `^ecowatt: arguments\.lease_s: `, []string{"limit", "roof-1", "40", "--for", "31d"}},
		{2, `^ecowatt: arguments\.percent: `, []string{"limit", "roof-1", "101"}},
		{2, `^ecowatt: arguments\.value: export_power_percent takes steps of 1 %$`, []string{"write", "roof-1", "export_power_percent", "40.5"}},
		{2, `^ecowatt: arguments\.on_end: `, []string{"limit", "roof-1", "40", "--on-end", "bang"}},
		{2, `^ecowatt: arguments\.inverter: there is no inverter "inv9"; the device has inv1$`, []string{"limit", "roof-1", "40", "--inverter", "inv9"}},
		{2, `^ecowatt: arguments\.point: pac of inv1 cannot be written$`, []string{"write", "roof-1", "pac", "1"}},
		{2, `^ecowatt: POINT is missing$`, []string{"read", "roof-1"}},
		{2, `^ecowatt: ttl_s: `, []string{"restart", "roof-1", "--ttl", "31d"}},
		{1, `^ecowatt: the command is refused: writing to inverters is switched off on the gateway`, []string{"limit", "locked", "40"}},
		{4, `^ecowatt: there is no device "nobody"$`, []string{"restart", "nobody"}},
		{4, `^ecowatt: group: there is no device in it$`, []string{"limit", "--group", "nowhere", "40"}},
		{4, `^ecowatt: there is no command `, []string{"show", strings.Repeat("0", 32)}},
		{4, `^ecowatt: there is no command `, []string{"cancel", strings.Repeat("0", 32)}},
		{2, `^ecowatt: ID: "x" is no id`, []string{"show", "x"}},
		{2, `^ecowatt: state: `, []string{"list", "roof-1", "--state", "lost"}},
	} {
		o.run(refused.code, append([]string{"command"}, refused.args...)...).out().talk(refused.says)
	}
}

func TestCommandGroup(t *testing.T) {
	o := newOperator(t)
	for i, id := range []string{"roof-1", "roof-2"} {
		o.run(0, "device", "add", id, "--group", "north")
		o.controlled(int64(i+1), id == "roof-1")
	}
	said := o.run(0, "command", "limit", "--group", "north", "30").
		out(`^order [0-9a-f]{32} for group north by administrator: limit its inverter to 30 % for 1h, then restore$`,
			`^roof-1  queued   —                    —  `, `^roof-2  refused  control_not_allowed  writing to inverters is switched off`).talk()
	id := regexp.MustCompile(`order ([0-9a-f]{32})`).FindStringSubmatch(said.stdout)[1]
	o.carries(1, command.Report{Status: command.StatusSucceeded, Code: "done"})
	o.run(0, "command", "show", id).out(`^roof-1  succeeded  done `, `^roof-2  refused `)
	o.run(0, "command", "show", id, "--json").out(`"succeeded": 1`, `"refused": 1`)
}

func TestDeviceShowsLimits(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	o.controlled(1, true)
	text := o.run(0, "command", "limit", "roof-1", "40", "--json").stdout
	var c api.Command
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	id, err := command.ParseID(c.ID)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	o.withStore(func(ctx context.Context, s *store.Store) error {
		return s.Commit(ctx, func(tx *store.Tx) error {
			for i, l := range []command.Lease{
				{Command: id, Inverter: "inv1", Percent: 40, Until: now.Add(2*time.Hour + time.Minute)},
				{Command: command.ID{1}, Inverter: "inv1", Percent: 60},
				{Command: command.ID{2}, Inverter: "inv1", Percent: 20, Until: now.Add(-time.Minute)},
			} {
				if err := tx.SaveLease(1, command.LeaseEvent{Kind: command.LeaseStarted, Lease: l}, now.Add(time.Duration(i)*time.Second)); err != nil {
					return err
				}
			}
			return nil
		})
	})
	o.run(0, "device", "show", "roof-1").out(`^limit      inv1 to 40 % until 20.*, for 2 h more, by administrator: in force$`,
		`^limit      inv1 to 60 %, its end is not known$`, `^limit      inv1 to 20 %, ended 20.*, which the device has not confirmed yet$`)
}

// Each state is told as it comes; the end decides the exit code. A cloud that is
// away for a moment is asked again, under the same key.
func TestCommandWait(t *testing.T) {
	for _, x := range []struct {
		end, code string
		wrong     bool
	}{{"succeeded", "done", false}, {"failed", "inverter_away", true}, {"expired", "undelivered", true}} {
		var keys [3]string
		var asked atomic.Int64
		c := fakeCloud(t, func(w http.ResponseWriter, r *http.Request) {
			n := asked.Add(1)
			state, code := "queued", ""
			switch {
			case r.Method == http.MethodPost && n == 1:
				keys[0] = r.Header.Get("Idempotency-Key")
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			case r.Method == http.MethodPost:
				keys[1] = r.Header.Get("Idempotency-Key")
			case n == 3:
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			case n < 6:
				state = "delivered"
			default:
				state, code = x.end, x.code
			}
			times := `"queued_at":"2026-06-21T10:00:00Z"`
			if state != "queued" {
				times += `,"delivered_at":"2026-06-21T10:00:01Z"`
			}
			if code != "" { // it had begun, unseen
				times += `,"executing_at":"2026-06-21T10:00:02Z","ended_at":"2026-06-21T10:00:03Z"`
			}
			fmt.Fprintf(w, `{"id":"0a","device":"roof-1","action":"restart_agent","arguments":{},"state":%q,"code":%q,%s}`, state, code, times)
		})
		var out, talk bytes.Buffer
		a := &app{stdout: &out, stderr: &talk}
		var got api.Command
		err := c.postOnce(t.Context(), "/x", api.NewCommand{Action: "restart_agent"}, &got)
		if err == nil {
			got, err = a.waitCommand(t.Context(), c, got)
		}
		if err != nil {
			t.Fatal(err)
		}
		if keys[0] == "" || keys[0] != keys[1] {
			t.Errorf("keys %q and %q", keys[0], keys[1])
		}
		if err := endOf(got); (err != nil) != x.wrong {
			t.Errorf("%s: %v", x.end, err)
		}
		shape := `(?s)^20\S+ \S+00  roof-1  queued\n20\S+ \S+01  roof-1  delivered\n20\S+ \S+02  roof-1  executing\n20\S+ \S+03  roof-1  ` +
			x.end + ` \(` + x.code + `\)\n$`
		if !regexp.MustCompile(shape).MatchString(talk.String()) || out.Len() > 0 {
			t.Errorf("told:\n%s%s", &talk, &out)
		}
	}
}
