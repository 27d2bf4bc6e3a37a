package launch_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ecowatt/boot"
	"ecowatt/boot/launch"
)

// The test binary plays the agent and the launcher: TestMain looks at how it
// was started.
func TestMain(m *testing.M) {
	switch os.Getenv("LAUNCH_TEST_ROLE") {
	case "agent":
		playAgent()
	case "launcher":
		err := launch.Run(context.Background(), launch.Options{Dir: os.Getenv("LAUNCH_TEST_DIR"), Stdout: os.Stdout, Stderr: os.Stderr})
		fmt.Println("launcher:", err)
	default:
		os.Exit(m.Run())
	}
}

// playAgent says its pid and arguments, then waits to be stopped. The file
// "crash" in the folder makes it end at once.
func playAgent() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	if _, err := os.Stat(filepath.Join(os.Args[len(os.Args)-1], "crash")); err == nil {
		fmt.Println("crashing")
		os.Exit(3)
	}
	fmt.Println("agent", os.Getpid(), strings.Join(os.Args[1:], " "))
	<-stop
	fmt.Println("agent stopping")
}

// gateway makes a gateway's folder whose slot s holds this test binary.
func gateway(t *testing.T, s boot.Slot) string {
	t.Helper()
	t.Setenv("LAUNCH_TEST_ROLE", "agent")
	dir := t.TempDir()
	program := filepath.Join(dir, s.Program())
	if err := os.MkdirAll(filepath.Dir(program), 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	return dir
}

// running is a launcher under test and what its agent prints.
type running struct {
	cancel context.CancelFunc
	done   chan error
	lines  *bufio.Scanner
}

func start(t *testing.T, dir string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{cancel: cancel, done: make(chan error, 1), lines: bufio.NewScanner(out)}
	go func() {
		r.done <- launch.Run(ctx, launch.Options{Dir: dir, Stdout: in, Stderr: os.Stderr, Pause: func(int) time.Duration { return time.Millisecond }})
		in.Close()
	}()
	t.Cleanup(func() { cancel(); io.Copy(io.Discard, out); out.Close() })
	return r
}

func (r *running) line(t *testing.T) string {
	t.Helper()
	if !r.lines.Scan() {
		t.Fatalf("the agent prints nothing more: %v", r.lines.Err())
	}
	return r.lines.Text()
}

func agentPID(t *testing.T, line string) int {
	t.Helper()
	fields := strings.Fields(line)
	if len(fields) < 2 || fields[0] != "agent" {
		t.Fatalf("unexpected line %q", line)
	}
	pid, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestStartsAndStops(t *testing.T) {
	dir := gateway(t, boot.A)
	r := start(t, dir)
	line := r.line(t)
	if want := " run --dir " + dir; !strings.HasSuffix(line, want) {
		t.Errorf("agent was started as %q, want it to end in %q", line, want)
	}
	r.cancel()
	if got := r.line(t); got != "agent stopping" {
		t.Errorf("after the launcher was asked to stop: %q", got)
	}
	if err := <-r.done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestStartsAgainAfterKill(t *testing.T) {
	r := start(t, gateway(t, boot.A))
	for range 3 {
		if err := syscall.Kill(agentPID(t, r.line(t)), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	agentPID(t, r.line(t))
}

func TestStartsAgainAfterCrashes(t *testing.T) {
	dir := gateway(t, boot.A)
	crash := filepath.Join(dir, "crash")
	if err := os.WriteFile(crash, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, dir)
	for range 3 {
		if got := r.line(t); got != "crashing" {
			t.Fatalf("got %q", got)
		}
	}
	if err := os.Remove(crash); err != nil {
		t.Fatal(err)
	}
	for r.line(t) == "crashing" {
	}
}

func TestRecordChoosesSlot(t *testing.T) {
	dir := gateway(t, boot.B)
	if err := os.WriteFile(filepath.Join(dir, boot.RecordFile), []byte(`{"format":1,"active":"b","state":"confirmed"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	agentPID(t, start(t, dir).line(t))
}

func TestRefuses(t *testing.T) {
	empty := t.TempDir()
	if err := launch.Run(t.Context(), launch.Options{Dir: empty}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "slot a") {
		t.Errorf("empty folder: %v", err)
	}
	dir := gateway(t, boot.A)
	if err := os.WriteFile(filepath.Join(dir, boot.RecordFile), []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := launch.Run(t.Context(), launch.Options{Dir: dir}); !errors.Is(err, boot.ErrRecord) || !strings.Contains(err.Error(), dir) {
		t.Errorf("bad record: %v", err)
	}
}

// A killed launcher must not leave an agent behind that holds the folder.
func TestAgentEndsWithKilledLauncher(t *testing.T) {
	dir := gateway(t, boot.A)
	// The launcher's role is this binary's; the agent's must differ, so it
	// gets a wrapper that sets it.
	program := filepath.Join(dir, boot.A.Program())
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(program); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nLAUNCH_TEST_ROLE=agent exec '%s' \"$@\"\n", self)
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "LAUNCH_TEST_ROLE=launcher", "LAUNCH_TEST_DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("no agent")
	}
	agentPID(t, lines.Text())
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() || lines.Text() != "agent stopping" {
		t.Errorf("after the launcher was killed the agent said %q", lines.Text())
	}
	cmd.Wait()
}
