package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/agent"
)

type result struct {
	code           int
	stdout, stderr string
}

func noEnvironment(string) string { return "" }

func runProgram(ctx context.Context, args ...string) result {
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, noEnvironment, &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

const enrolment = `{"device_id":"roof-1","cloud_url":"http://127.0.0.1:1","epoch":1,"psk_id":"000102030405060708090a0b0c0d0eff",` +
	`"key":"3q2+7wABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhs=","firmware_root":""}`

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestUsage(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name   string
		args   string // {dir} is a folder
		code   int
		stdout string // what it begins with
		stderr string // what it has in its one or two lines
	}{
		{"nothing", "", 2, "", "a command is missing"},
		{"unknown command", "fly", 2, "", `unknown command "fly"`},
		{"help", "--help", 0, "ecowatt-agent samples inverters", ""},
		{"help as a command", "help", 0, "ecowatt-agent samples inverters", ""},
		{"help of enroll", "enroll --help", 0, "Import an enrolment file", ""},
		{"help of run", "run -h", 0, "Sample the inverters", ""},
		{"help of status", "status --dir x --help", 0, "Ask the agent", ""},
		{"version", "version", 0, "ecowatt-agent " + ecowatt.Version + "\n", ""},
		{"version as a flag", "--version", 0, "ecowatt-agent " + ecowatt.Version + "\n", ""},
		{"run without a folder", "run", 2, "", "--dir is missing"},
		{"run with an argument", "run --dir {dir} x", 2, "", `unexpected argument "x"`},
		{"run with an unknown flag", "run --fast", 2, "", "-fast"},
		{"flag without a value", "run --dir", 2, "", "-dir"},
		{"enroll without a file", "enroll --dir {dir}", 2, "", "FILE is missing"},
		{"enroll without a folder", "enroll x", 2, "", "--dir is missing"},
		{"enroll with two files", "enroll x y --dir {dir}", 2, "", `unexpected argument "y"`},
		{"enroll of nothing", "enroll {dir}/absent --dir {dir}/new", 1, "", "absent"},
		{"run of nobody", "run --dir {dir}", 1, "", "not enrolled"},
		{"status of nobody", "status --dir {dir}", 1, "", "no agent is running"},
		{"status of nothing", "status --dir {dir}/absent", 1, "", "absent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := runProgram(t.Context(), strings.Fields(strings.ReplaceAll(c.args, "{dir}", dir))...)
			lines := strings.Count(got.stderr, "\n")
			if got.code != c.code || !strings.HasPrefix(got.stdout, c.stdout) || !strings.Contains(got.stderr, c.stderr) || (got.stdout == "") != (c.stdout == "") || lines > 2 || (lines == 0) != (c.code == 0) {
				t.Errorf("exit code %d\nstdout: %s\nstderr: %s", got.code, got.stdout, got.stderr)
			}
		})
	}
}

// TestEnroll: flags may stand before and after the file.
func TestEnroll(t *testing.T) {
	for _, order := range []string{"{file} --dir {dir}", "--dir {dir} {file}", "-dir={dir} {file}"} {
		dir := filepath.Join(t.TempDir(), "roof")
		file := write(t, filepath.Join(t.TempDir(), "enrol.json"), enrolment)
		args := strings.Fields("enroll " + strings.NewReplacer("{file}", file, "{dir}", dir).Replace(order))
		got := runProgram(t.Context(), args...)
		if got.code != 0 || !strings.Contains(got.stdout, "roof-1") || !strings.Contains(got.stdout, dir) || got.stderr != "" {
			t.Errorf("%s: %+v", order, got)
		}
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the file is left: %v", order, err)
		}
		if got := runProgram(t.Context(), args...); got.code != 1 || !strings.Contains(got.stderr, "enrol.json") {
			t.Errorf("%s, again: %+v", order, got)
		}
	}
}

// TestCredential: the credential that systemd gives seals the key, and is needed
// from then on.
func TestCredential(t *testing.T) {
	dir, given := filepath.Join(t.TempDir(), "roof"), t.TempDir()
	write(t, filepath.Join(given, "ecowatt-storage-key"), "a secret of this gateway")
	systemd := func(name string) string { return map[string]string{"CREDENTIALS_DIRECTORY": given}[name] }
	var out bytes.Buffer
	file := write(t, filepath.Join(t.TempDir(), "enrol.json"), enrolment)
	if code := run(t.Context(), []string{"enroll", file, "--dir", dir}, systemd, &out, &out); code != 0 {
		t.Fatal(out.String())
	}
	slot, err := os.ReadFile(filepath.Join(dir, "keys", "psk.a"))
	if err != nil || bytes.Contains(slot, []byte{0xde, 0xad, 0xbe, 0xef}) {
		t.Errorf("the key is plain: %v", err)
	}
	got := runProgram(t.Context(), "run", "--dir", dir)
	if got.code != 1 || !strings.Contains(got.stderr, "LoadCredentialEncrypted=ecowatt-storage-key") {
		t.Errorf("without the credential: %+v", got)
	}
	out.Reset()
	if code := run(t.Context(), []string{"run", "--dir", dir}, systemd, &out, &out); code != 1 || !strings.Contains(out.String(), "agent.yaml") {
		t.Errorf("with it, only the settings should be missing: exit code %d, %s", code, out.String())
	}
}

// TestRunAndStatus runs an agent for which neither inverter nor cloud is there,
// asks how it is, and stops it.
func TestRunAndStatus(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(t.TempDir(), "enrol.json"), enrolment)
	if got := runProgram(t.Context(), "enroll", file, "--dir", dir); got.code != 0 {
		t.Fatalf("%+v", got)
	}
	config := write(t, filepath.Join(dir, "other.yaml"), `inverters: [{name: inv1, connect: "modbus-tcp://127.0.0.1:1", profile: ecowatt-sim}]`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log, out := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"run", "--config", config, "--dir", dir}, noEnvironment, io.Discard, out)
		out.Close()
	}()
	said := make(chan string, 1)
	started := make(chan struct{})
	go func() {
		var all bytes.Buffer
		buf := make([]byte, 4096)
		for {
			n, err := log.Read(buf)
			begun := bytes.Contains(all.Bytes(), []byte("agent started"))
			all.Write(buf[:n])
			if !begun && bytes.Contains(all.Bytes(), []byte("agent started")) {
				close(started)
			}
			if err != nil {
				said <- all.String()
				return
			}
		}
	}()
	<-started
	// The socket is there a moment after the first line of the log.
	var got result
	for got = runProgram(ctx, "status", "--dir", dir); got.code != 0 && strings.Contains(got.stderr, "no agent is running"); {
		got = runProgram(ctx, "status", "--dir", dir)
	}
	if got.code != 0 || !strings.HasPrefix(got.stdout, "device    roof-1 (agent ") || got.stderr != "" {
		t.Errorf("status: %+v", got)
	}
	var s agent.Status
	if got = runProgram(ctx, "status", "--json", "--dir", dir); json.Unmarshal([]byte(got.stdout), &s) != nil || s.PID != os.Getpid() || s.Cloud != "http://127.0.0.1:1" {
		t.Errorf("status --json: %+v", got)
	}
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d after it was asked to stop", code)
	}
	if text := <-said; !strings.Contains(text, "agent stops") {
		t.Errorf("log:\n%s", text)
	}
}

func TestPrintStatus(t *testing.T) {
	for _, c := range []struct {
		name string
		s    agent.Status
		want string
	}{
		{"all is well", agent.Status{
			Version: "0.1.0", Device: "roof-1", Cloud: "https://cloud.example.org", PID: 42,
			Clock:     agent.ClockStatus{Known: true, UncertaintyMs: 16},
			Inverters: []agent.InverterStatus{{Name: "inv1", State: "answering", SampleAge: 1.4}},
			Buffer:    agent.BufferStatus{Samples: 12, Messages: 0, Bytes: 4096},
			Uplink:    agent.UplinkStatus{State: "ready", ExchangeAge: 61, NextIn: 840},
			Config: agent.ConfigStatus{Revision: 7, OnTrial: true, Parameters: []agent.ParameterStatus{
				{Name: "upload_interval", Value: 900.0, From: "cloud"},
				{Name: "registers", Value: map[string]any{"inv1": []any{"pac", "vac1"}, "inv2": []any{}}, From: "gateway"},
			}},
		}, `
device    roof-1 (agent 0.1.0, pid 42)
cloud     https://cloud.example.org
uplink    ready, last exchange 61 s ago, next attempt in 14 min
clock     known to 16 ms
inverter  inv1 answering, last sample 1 s ago
buffer    12 samples and 0 messages wait, 4 KiB
config    revision 7, on trial until the cloud is reached under it
          upload_interval=900 (cloud)
          registers=inv1:pac,vac1/inv2:all (gateway)
`},
		{"nothing is", agent.Status{
			Version: "0.1.0", Device: "roof-1", Cloud: "https://cloud.example.org", PID: 42,
			Inverters: []agent.InverterStatus{
				{Name: "east", State: "away", SampleAge: 10_000, Failures: 9, Error: "connection\n\x1b[31mrefused"},
				{Name: "west", State: "starting", SampleAge: -1},
				{Name: "south", State: "answering", SampleAge: 3, Frozen: true},
			},
			Buffer: agent.BufferStatus{Samples: 7, Messages: 3, Bytes: 64 << 20, Dropped: 5, Failing: true},
			Uplink: agent.UplinkStatus{State: "no session", ExchangeAge: -1, NextIn: 0, Failures: 1, Error: "no answer from the cloud"},
		}, `
device    roof-1 (agent 0.1.0, pid 42)
cloud     https://cloud.example.org
uplink    no session, last exchange never, next attempt in 0 s, 1 failure
          no answer from the cloud
clock     not known before the first exchange
inverter  east away, last sample 2.8 h ago, 9 failures in a row
          connection ` + "\ufffd" + `[31mrefused
inverter  west starting, last sample never
inverter  south answering with values that do not change, last sample 3 s ago
buffer    7 samples and 3 messages wait, 65536 KiB, 5 samples were given up for lack of room, it cannot be written
`},
	} {
		var out bytes.Buffer
		if err := printStatus(&out, c.s); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.TrimPrefix(c.want, "\n"), out.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
