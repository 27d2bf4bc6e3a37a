package main

import (
	"context"
	"testing"
	"time"

	"ecowatt/cloud/access"
	"ecowatt/cloud/config"
	"ecowatt/cloud/store"
)

// configured does what a device does with its configuration: it is sent, and
// answered by accepting all but what is refused.
func (o *operator) configured(row int64, refused map[string]config.Part) {
	o.t.Helper()
	o.withStore(func(ctx context.Context, s *store.Store) error {
		return s.Commit(ctx, func(tx *store.Tx) error {
			return answerConfig(tx, row, refused, time.Now())
		})
	})
}

func answerConfig(tx *store.Tx, row int64, refused map[string]config.Part, now time.Time) error {
	u, pending, err := tx.PendingConfig(row)
	if err != nil || !pending {
		return err
	}
	if err := tx.ConfigSent(row, u.Revision, now); err != nil {
		return err
	}
	var accepted []string
	for name := range u.Values {
		if _, no := refused[name]; !no {
			accepted = append(accepted, name)
		}
	}
	a, err := config.NewAnswer(u.Revision, accepted, nil, refused)
	if err != nil {
		return err
	}
	_, err = tx.SettleConfig(row, a, now)
	return err
}

func TestConfigCommands(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1", "--group", "north")
	o.run(0, "config", "get", "roof-1").answers("roof-1: nothing is set\n")
	o.run(0, "config", "log", "roof-1").out().talk(`^Nothing was ever set\.$`)
	o.run(0, "config", "set", "roof-1", "upload_interval=15m", "registers=vac1,pac").
		out(`^roof-1: revision 1, not sent yet; by administrator, 20.*\(device roof-1\)$`,
			`^upload_interval  900       —         pending$`, `^registers        pac,vac1  —         pending$`)
	o.run(0, "device", "list").out(`^roof-1  north  enabled, configuration pending  `)
	o.run(0, "device", "show", "roof-1").out(`^config     revision 1, pending: the device has not answered it yet$`)
	o.configured(1, map[string]config.Part{"registers": {Code: "unknown_point", Text: "no point vac1"}})
	o.run(0, "config", "get", "roof-1").out(`^roof-1: revision 1, answered, not in force: registers; `,
		`^upload_interval  900       900       in force$`, `^registers        pac,vac1  —         rejected \(unknown_point\): no point vac1$`)
	o.run(0, "device", "list").out(`^roof-1  north  enabled, configuration drifted  `)
	o.run(0, "device", "show", "roof-1").out(`^config     revision 1, drifted: 1 parameter is not in force$`)

	// Other parameters stay, and an empty value ends one.
	o.run(0, "config", "set", "roof-1", "registers=", "log_level=warn").out(`^upload_interval  900      900       in force$`, `^log_level        warn     —         pending$`).never("registers")
	o.run(0, "config", "log", "roof-1").out(`^ +2  20.*  administrator, device roof-1  registers        —         not yet  +not yet  +—$`,
		`^ +log_level        warn  `, `^ +1  20.*  upload_interval  900       20.*  20.*  accepted$`, `rejected \(unknown_point\): no point vac1$`)
	o.run(0, "config", "log", "roof-1", "--last", "1", "--json").out(`"next": 2`, `"changed": \[`)

	// A template that is given to the group.
	o.run(0, "config", "template", "list").out().talk(`^There are no templates\.`)
	o.run(0, "config", "set", "--template", "winter", "night_mode=full", "log_level=debug").out(`^template winter: version 1 by administrator`, `^log_level   debug$`, `^night_mode  full$`)
	o.run(0, "config", "set", "--group", "north", "compression=fast").out(`^group north: version 1 by administrator`)
	o.run(0, "config", "template", "assign", "--group", "north", "winter").out(`^group north: version 2 .*, with template winter$`)
	o.run(0, "config", "template", "list").out(`^winter    log_level=debug night_mode=full  group north$`)
	o.run(0, "config", "get", "roof-1", "--explain").out(
		`^night_mode +full     —         pending            template winter, given to group north$`,
		`^log_level +warn     —         pending            device roof-1$`, `^compression +fast .* group north$`,
		`^flush_interval +—        —         the gateway's own  —$`)
	o.run(1, "config", "template", "delete", "winter").out().talk(`^ecowatt: template winter is given to group north$`)
	o.run(0, "config", "template", "assign", "--group", "north", "--none").out(`^group north: version 3`).never("winter")
	o.run(0, "config", "template", "assign", "roof-1", "winter", "--json").out(`"template": "winter"`)
	o.run(0, "config", "template", "assign", "roof-1", "--none").out(`^roof-1: revision `)
	o.run(0, "config", "template", "delete", "winter").answers("template winter is deleted.\n")
	o.run(4, "config", "get", "--template", "winter").out()
	o.run(0, "config", "get", "--group", "north", "--json").out(`"compression": "fast"`)
	o.run(0, "config", "get", "roof-1", "--json").out(`"desired": \{`, `"version": 4`)
}

func TestConfigUsage(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	for _, refused := range []struct {
		code int
		says string
		args []string
	}{
		{2, `^ecowatt: DEVICE is missing$`, []string{"set"}},
		{2, `^ecowatt: NAME=VALUE is missing$`, []string{"set", "roof-1"}},
		{2, `^ecowatt: NAME=VALUE is missing$`, []string{"set", "--group", "north"}},
		{2, `^ecowatt: "zeal" is not of the form NAME=VALUE$`, []string{"set", "roof-1", "zeal"}},
		{2, `^ecowatt: zeal: there is no such parameter$`, []string{"set", "roof-1", "zeal=1"}},
		{2, `^ecowatt: zeal: there is no such parameter$`, []string{"set", "roof-1", "zeal="}},
		{2, `^ecowatt: upload_interval: 0 is not in 1 … 86400 s$`, []string{"set", "roof-1", "upload_interval=0"}},
		{2, `^ecowatt: log_level is there twice$`, []string{"set", "roof-1", "log_level=warn", "log_level=info"}},
		{2, `^ecowatt: --group and --template exclude each other$`, []string{"set", "--group", "a", "--template", "b", "log_level=warn"}},
		{2, `^ecowatt: --timeout is how long --wait waits at most$`, []string{"set", "--group", "a", "log_level=warn", "--timeout", "5s"}},
		{2, `^ecowatt: --timeout is how long --wait waits at most$`, []string{"set", "roof-1", "log_level=warn", "--wait", "--timeout", "-5s"}},
		{2, `^ecowatt: group "A b": not a valid name`, []string{"set", "--group", "A b", "log_level=warn"}},
		{2, `^ecowatt: unexpected argument "x"$`, []string{"get", "roof-1", "x"}},
		{2, `^ecowatt: TEMPLATE is missing$`, []string{"template", "assign", "roof-1"}},
		{2, `^ecowatt: unexpected argument "x"$`, []string{"template", "assign", "roof-1", "x", "--none"}},
		{2, `^ecowatt: template: there is no such template$`, []string{"template", "assign", "roof-1", "x"}},
		{4, `^ecowatt: there is no device "roof-9"$`, []string{"get", "roof-9"}},
		{4, `^ecowatt: there is no device "roof-9"$`, []string{"set", "roof-9", "log_level=warn"}},
		{4, `^ecowatt: there is no device "roof-9"$`, []string{"log", "roof-9"}},
		{4, `^ecowatt: there is no template "x"$`, []string{"template", "delete", "x"}},
	} {
		o.run(refused.code, append([]string{"config"}, refused.args...)...).out().talk(refused.says)
	}
	o.use(access.Viewer)
	o.run(3, "config", "set", "roof-1", "log_level=warn").out().talk(`may not change a configuration`)
	o.run(0, "config", "get", "roof-1").answers("roof-1: nothing is set\n")
}

// answering lets devices answer, until the test ends: each refuses the registers, with
// the text that is given for its row.
func (o *operator) answering(texts map[int64]string) {
	o.t.Helper()
	answered, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(answered)
		o.withStore(func(ctx context.Context, s *store.Store) error {
			look := time.NewTicker(20 * time.Millisecond)
			defer look.Stop()
			for {
				err := s.Commit(ctx, func(tx *store.Tx) error {
					for row, text := range texts {
						refused := map[string]config.Part{}
						if text != "" {
							refused["registers"] = config.Part{Code: "unknown_point", Text: text}
						}
						if err := answerConfig(tx, row, refused, time.Now()); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					return err
				}
				select {
				case <-look.C:
				case <-stop:
					return nil
				}
			}
		})
	}()
	o.t.Cleanup(func() { close(stop); <-answered })
}

// The device's answer ends the wait, and what it refuses is a failure.
func TestConfigWait(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	o.run(1, "config", "set", "roof-1", "night_mode=full", "--wait", "--timeout", "10ms").out(`^night_mode  full +—  +pending$`).
		talk(`^ecowatt: roof-1: revision 1 waits for the device's next exchange after 10ms$`)
	o.answering(map[int64]string{1: "no point x"})
	o.run(0, "config", "set", "roof-1", "log_level=warn", "--wait").out(`^log_level +warn +warn +in force$`).talk(`revision 2 is answered$`, `log_level: accepted$`)
	o.run(1, "config", "set", "roof-1", "registers=x", "--wait", "--json").out(`"drift": \[`).
		talk(`registers: rejected \(unknown_point\): no point x$`, `^ecowatt: roof-1: registers: rejected \(unknown_point\): no point x$`)
}

// Each device of a group or a template answers for itself; one that does not come, and
// one that is not let in, have nothing in force.
func TestConfigWaitForAGroup(t *testing.T) {
	o := newOperator(t)
	for _, name := range []string{"roof-1", "roof-2", "roof-3"} {
		o.run(0, "device", "add", name, "--group", "north")
	}
	o.answering(map[int64]string{1: "", 2: "no point x"})
	o.run(1, "config", "set", "--group", "north", "night_mode=full", "--wait", "--timeout", "1500ms").
		out(`^group north, version 1 by administrator: devices: 1 pending, 2 in force$`, `^DEVICE  STATE     REVISION  ANSWERED +OUTCOME$`,
			`^roof-1  in force         1  20.*  night_mode: accepted$`, `^roof-3  pending          1  —  +—$`).
		talk(`devices: 1 pending, 2 in force$`, `^ecowatt: group north: 2 of 3 devices have it in force$`)
	o.run(0, "device", "disable", "roof-3")
	o.run(1, "config", "set", "--group", "north", "registers=x", "--wait").
		out(`^group north, version 2 by administrator: devices: 1 in force, 1 drifted, 1 disabled$`, `^roof-1  in force         2  20.*  registers: accepted$`,
			`^roof-2  drifted          2  20.*  registers: rejected \(unknown_point\): no point x$`, `^roof-3  disabled         2  —`).
		talk(`^ecowatt: group north: 1 of 3 devices have it in force$`)
	// What roof-2 refuses is not of this change, and roof-3 has left the group.
	o.run(0, "device", "set", "roof-3", "--group", "")
	o.run(0, "config", "set", "--group", "north", "night_mode=slow", "--wait", "--json").out(`"in_force": 1`, `"drifted": 1`, `"device": "roof-2"`)
	o.run(0, "config", "set", "--template", "quiet", "log_level=warn", "--wait").answers("template quiet, version 1 by administrator: it concerns no device\n")
	o.run(0, "config", "template", "assign", "roof-1", "quiet")
	o.run(0, "config", "set", "--template", "quiet", "log_level=error", "--wait").out(`: devices: 1 in force$`, `^roof-1  in force  .*  log_level: accepted$`)
}
