package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"ecowatt/cloud/access"
	"ecowatt/cloud/api"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollout"
	"ecowatt/cloud/store"
)

// runs lets a device say that it is of the board gw-1 and runs a release.
func (o *operator) runs(row int64, release uint64) {
	o.t.Helper()
	now := time.Now()
	o.withStore(func(ctx context.Context, s *store.Store) error {
		return s.Commit(ctx, func(tx *store.Tx) error {
			_, err := tx.Report(row, registry.Report{
				At: now, Inventory: &registry.Inventory{ReportedAt: now, Hardware: "gw-1"},
				Firmware: &registry.Firmware{Release: release, State: "confirmed", Version: fmt.Sprintf("1.%d.0", release)},
			})
			return err
		})
	})
}

// goesBack lets the device of a row say that it has taken the release back, once it
// is told of it.
func (o *operator) goesBack(row int64) {
	o.t.Helper()
	o.withStore(func(ctx context.Context, s *store.Store) error {
		for gone := false; !gone; {
			err := s.Commit(ctx, func(tx *store.Tx) error {
				u, found, err := tx.Update(row)
				if err != nil || !found || u.Phase != rollout.Due {
					return err
				}
				gone = true
				now := time.Now()
				u, _, _ = u.Reported(rollout.Report{Release: u.Rollout.Release, Phase: "rolled_back", Code: "exited", Text: "exit status 1"}, now)
				return tx.MoveUpdate(row, u, audit.Actor{Kind: audit.Device, Name: string(u.Device)}, now)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// A rollout from its making to its end, by hand and by itself.
func TestRollout(t *testing.T) {
	o := newOperator(t)
	o.copyOf("release.ewfw")
	o.copyOf("root.cbor")
	o.run(0, "firmware", "root", "push", "root.cbor")
	o.run(0, "firmware", "push", "release.ewfw")
	for n := range int64(3) {
		o.run(0, "device", "add", fmt.Sprintf("roof-%d", n+1), "--group", "north", "--cloud-url", "http://cloud")
		o.runs(n+1, 11)
	}
	o.run(0, "device", "add", "shed", "--group", "north", "--cloud-url", "http://cloud")
	o.use(access.Viewer)
	o.run(3, "rollout", "create", "1.4.0").out().talk(`may not .*: that takes the role operator$`)
	o.run(0, "rollout", "list").out().talk(`^There are no rollouts\.$`)
	o.use(access.Operator)
	for flag, says := range map[string]string{
		"--stage=0%": `--stage: "0%" is neither`, "--stage=x": `--stage: "x" is neither`, "--stage=5@noon": `--stage: "noon" is no time`,
		"--soak=x": `--soak: "x" is no time span`, "--deadline=x": `--deadline: "x" is no time span`, "--max-failed=x": `--max-failed: "x" is no number`,
	} {
		o.run(2, "rollout", "create", "1.4.0", flag).out().talk(says)
	}
	o.run(4, "rollout", "create", "1.5.0").talk(`there is no release "1\.5\.0"`)
	o.run(1, "rollout", "create", "1.4.0", "--downgrade", "absent").talk(`absent: no such file`)

	made := o.run(0, "rollout", "create", "1.4.0", "--group", "north", "--hardware", "gw-1", "--from", "1.11.0", "--stage", "2", "--stage", "100%@2090-01-01T00:00:00Z",
		"--soak", "0", "--no-telemetry", "--max-failed", "10%", "--min-sample", "1", "--json")
	var r rolloutDevices
	if err := json.Unmarshal([]byte(made.stdout), &r); err != nil {
		t.Fatal(err)
	}
	if r.State != "running" || r.Progress != (api.RolloutProgress{Devices: 3, Waiting: 3}) || r.MaxFailed != 10 || r.MinSample != 1 || !r.NoTelemetry || len(r.Devices) != 3 || r.Target.Group != "north" {
		t.Errorf("%+v", r)
	}
	o.run(0, "device", "list").out(`^roof-1  north  enabled, update to 1\.4\.0: (waiting|due) .*  1\.11\.0 \(11\)  —$`).never(`^shed .*update`)
	o.run(0, "device", "show", "roof-1").out(`^update     to 1\.4\.0, release 12: (waiting|due) since 20.*; rollout ` + r.ID + ` is running$`)
	o.run(0, "rollout", "pause", r.ID).out(`^rollout ` + r.ID + ` of 1\.4\.0 is paused: 0 of 3 devices healthy, `)
	o.run(0, "rollout", "resume", r.ID[:6], "--json").out(`"state": "running"`)
	o.run(4, "rollout", "pause", "zzzz").out().talk(`there is no rollout "zzzz"`)

	var first int64  // of the first stage
	for first == 0 { // the duty of the cloud begins it
		for _, d := range o.rolloutDevices(r.ID) {
			if d.Phase == "due" && first == 0 {
				if _, err := fmt.Sscanf(d.Device, "roof-%d", &first); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	watched := o.watching("stage 1 of 2 begins", func() { o.goesBack(first) }, "rollout", "show", r.ID, "--watch")
	watched.talk(`running: `, `stage 1 of 2 begins: 2 devices$`, fmt.Sprintf(`roof-%d  rolled_back \(exited\): exit status 1$`, first), `stopped: `, `rollout `+r.ID+` is stopped: 0 of 3 devices healthy, 1 failed, `,
		`ecowatt rollout resume `+r.ID[:8]+`, ecowatt rollout abort `+r.ID[:8]+`$`)
	watched.out(`^stopped since `, `^ +1  2 +2 +0 +1  since 20`, `^ +2  100% from 2090-01-01 00:00:00 +1 +0 +0  to come$`, fmt.Sprintf(`^roof-%d +1  rolled_back +20.* exited: exit status 1$`, first))
	o.run(0, "rollout", "show", r.ID, "--phase", "rolled_back").out(fmt.Sprintf(`^roof-%d `, first))
	o.run(0, "rollout", "list").out(`^MADE +VERSION +STATE +STAGE +DEVICES +HEALTHY +FAILED +SKIPPED +BY +ID$`, `  1\.4\.0 +stopped +1 of 2 +3 +0 +1 +0  operator-token +`+r.ID+`$`)
	o.run(0, "rollout", "abort", r.ID, "--finish").out(`is aborted: `)
	o.run(1, "rollout", "resume", r.ID).out().talk(`it is aborted: it cannot be resumed`)
	if devices := o.rolloutDevices(r.ID); len(devices) != 3 {
		t.Errorf("%d devices", len(devices))
	}
}

// watching runs the program, which is to fail, and does something once it has said
// this.
func (o *operator) watching(until string, do func(), args ...string) said {
	o.t.Helper()
	var stdout bytes.Buffer
	c := o.command(args...)
	c.Stdout = &stdout
	talk, err := c.StderrPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		o.t.Fatal(err)
	}
	var stderr strings.Builder
	for lines := bufio.NewScanner(talk); lines.Scan(); {
		stderr.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), until) {
			do()
		}
	}
	_ = c.Wait() // the exit code tells
	if got := c.ProcessState.ExitCode(); got != 1 {
		o.t.Errorf("exit code %d, want 1\n%s", got, stderr.String())
	}
	return said{t: o.t, command: strings.Join(args, " "), stdout: stdout.String(), stderr: stderr.String()}
}

// rolloutDevices is what has become of a rollout on each device.
func (o *operator) rolloutDevices(id string) []api.DeviceUpdate {
	o.t.Helper()
	var r rolloutDevices
	if err := json.Unmarshal([]byte(o.run(0, "rollout", "show", id, "--json").stdout), &r); err != nil {
		o.t.Fatal(err)
	}
	return r.Devices
}

func TestProgressText(t *testing.T) {
	left := int64(5400)
	r := api.Rollout{State: "running", Progress: api.RolloutProgress{Devices: 9, Healthy: 3, Failed: 1, UnderWay: 2, Waiting: 3, Skipped: 4, PerHour: 3.2, LeftS: &left}}
	if got, want := progressText(r), "3 of 9 devices healthy, 1 failed, 2 under way, 3 waiting, 4 skipped, 3 an hour, 90 min left"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for d, want := range map[time.Duration]string{5 * time.Second: "5 s", 10 * time.Minute: "10 min", 2 * time.Hour: "2 h", 240 * time.Hour: "10 d"} {
		if got := spanText(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
	if strings.Contains(progressText(api.Rollout{State: "done", Progress: r.Progress}), "left") {
		t.Error("one that is done has an estimate")
	}
}
