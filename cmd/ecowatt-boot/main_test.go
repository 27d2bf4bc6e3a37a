package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ecowatt"
	"ecowatt/boot"
)

// The test binary plays the launcher, and in a slot the agent.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == "run": // as the launcher starts an agent
		asked := make(chan os.Signal, 1)
		signal.Notify(asked, syscall.SIGTERM)
		// Its parent is the launcher, which is asked to stop, and asks in turn.
		if err := syscall.Kill(os.Getppid(), syscall.SIGTERM); err != nil {
			os.Exit(1)
		}
		<-asked
		os.Exit(0)
	case os.Getenv("BOOT_TEST_AS_PROGRAM") != "":
		main()
	}
	os.Exit(m.Run())
}

func TestRun(t *testing.T) {
	empty := t.TempDir()
	getenv := func(string) string { return "" }
	for name, c := range map[string]struct {
		args   []string
		code   int
		out    string
		stderr string
	}{
		"help":             {[]string{"--help"}, 0, usage, ""},
		"version":          {[]string{"--version"}, 0, "ecowatt-boot " + ecowatt.Version + "\n", ""},
		"no folder":        {nil, 2, "", "ecowatt-boot: --dir is missing: name the gateway's folder\nTry 'ecowatt-boot --help'.\n"},
		"unknown flag":     {[]string{"--directory", "x"}, 2, "", "flag provided but not defined"},
		"flag without it":  {[]string{"--dir"}, 2, "", "flag needs an argument"},
		"an argument more": {[]string{"--dir", empty, "run"}, 2, "", `unexpected argument "run"`},
		"no agent":         {[]string{"--dir", empty}, 1, "", "put an agent into " + filepath.Join(empty, boot.A.Program())},
	} {
		var out, stderr bytes.Buffer
		if code := run(t.Context(), c.args, getenv, &out, &stderr); code != c.code || out.String() != c.out || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%s: exit code %d, %q, %q; want %d, %q, %q", name, code, &out, &stderr, c.code, c.out, c.stderr)
		}
		if (c.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("%s: it says %q", name, &stderr)
		}
	}
}

func TestTrialTime(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, "8s": 8 * time.Second, "soon": -1, "-1s": -1, "0s": -1} {
		got, err := trialTime(func(string) string { return text })
		if want >= 0 && (err != nil || got != want) || want < 0 && err == nil {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	var out, stderr bytes.Buffer
	code := run(t.Context(), []string{"--dir", t.TempDir()}, func(string) string { return "soon" }, &out, &stderr)
	if code != 2 || !strings.Contains(stderr.String(), `ECOWATT_TRIAL_TIME: "soon" is not a time such as 1h`) {
		t.Errorf("exit code %d, %s", code, &stderr)
	}
}

// The program starts the agent of slot a, and stops as it is asked to.
func TestMainStops(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, boot.A.Program())
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(program), 0o700), os.Symlink(self, program)); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(context.Background(), self, "--dir", dir)
	c.Env = append(os.Environ(), "BOOT_TEST_AS_PROGRAM=1")
	if said, err := c.CombinedOutput(); err != nil || !strings.Contains(string(said), "agent stopped") {
		t.Errorf("%v:\n%s", err, said)
	}
}
