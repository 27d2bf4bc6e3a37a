package launch_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
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
	"ecowatt/internal/disk"
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

// playAgent says its pid and arguments, then waits to be stopped. What its slot
// has it do is told by a file "do" in the slot: "crash" ends at once, "beat" gives
// heartbeats for ever, "beat once" gives one, "confirm" confirms the trial, "switch"
// goes to the other slot, "block FILE" makes that FILE can not be written any more,
// and then fails if it is that of the endings, and waits if it is the record.
func playAgent() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	dir := os.Args[len(os.Args)-1]
	folder := disk.OS(dir)
	record, _ := boot.ReadRecord(folder)
	do, _ := os.ReadFile(filepath.Join(dir, filepath.Dir(record.Active.Program()), "do"))
	if _, err := os.Stat(filepath.Join(dir, "crash")); err == nil || string(do) == "crash" {
		fmt.Println("crashing", record.Active)
		fmt.Fprint(os.Stderr, "panic: crashed")
		os.Exit(3)
	}
	fmt.Println("agent", os.Getpid(), strings.Join(os.Args[1:], " "))
	beats := os.NewFile(launch.HeartbeatFD, "heartbeat")
	switch string(do) {
	case "beat":
		go func() {
			for {
				if _, err := beats.Write([]byte{1}); err != nil {
					return
				}
			}
		}()
	case "beat once":
		beats.Write([]byte{1})
	case "confirm":
		record.Confirm().Write(folder)
	case "block " + boot.RecordFile:
		obstruct(dir, boot.RecordFile)
	case "block " + boot.EndedFile:
		obstruct(dir, boot.EndedFile)
		os.Exit(3)
	case "switch":
		record.Try(*record.Image(record.Active.Other())).Write(folder)
		os.Exit(0)
	}
	<-stop
	fmt.Println("agent stopping")
}

// folderOf is a gateway's folder as the tests see it.
type folderOf struct {
	t   *testing.T
	dir string
}

// slot puts the test binary into a slot and has it do something.
func (f folderOf) slot(s boot.Slot, do string) {
	f.t.Helper()
	program := filepath.Join(f.dir, s.Program())
	self, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	err = errors.Join(os.MkdirAll(filepath.Dir(program), 0o700), os.Symlink(self, program),
		os.WriteFile(filepath.Join(filepath.Dir(program), "do"), []byte(do), 0o600))
	if err != nil {
		f.t.Fatal(err)
	}
}

// image is the test binary as an image.
func image(t *testing.T, release, security uint64) *boot.Image {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	return &boot.Image{SHA256: fmt.Sprintf("%x", sha256.Sum256(data)), Size: int64(len(data)), Release: release, Security: security}
}

// twoSlots makes a gateway's folder with a on confirmed release 1 and b on trial.
func twoSlots(t *testing.T, a, b string) (folderOf, boot.Record) {
	t.Helper()
	t.Setenv("LAUNCH_TEST_ROLE", "agent")
	f := folderOf{t, t.TempDir()}
	f.slot(boot.A, a)
	f.slot(boot.B, b)
	r := boot.Initial()
	r.A = image(t, 1, 1)
	r = r.Try(*image(t, 2, 2))
	f.write(r)
	return f, r
}

func (f folderOf) write(r boot.Record) {
	f.t.Helper()
	if err := r.Write(disk.OS(f.dir)); err != nil {
		f.t.Fatal(err)
	}
}

func (f folderOf) read() boot.Record {
	f.t.Helper()
	r, err := boot.ReadRecord(disk.OS(f.dir))
	if err != nil {
		f.t.Fatal(err)
	}
	return r
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
	return startWith(t, launch.Options{Dir: dir})
}

func startWith(t *testing.T, o launch.Options) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	o.Stdout, o.Pause = in, func(int) time.Duration { return time.Millisecond }
	r := &running{cancel: cancel, done: make(chan error, 1), lines: bufio.NewScanner(out)}
	go func() {
		r.done <- launch.Run(ctx, o)
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
	r := startWith(t, launch.Options{Dir: dir, Stderr: os.Stderr})
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
		if got := r.line(t); got != "crashing a" {
			t.Fatalf("got %q", got)
		}
	}
	if err := os.Remove(crash); err != nil {
		t.Fatal(err)
	}
	for r.line(t) == "crashing a" {
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
	if err := launch.Run(t.Context(), launch.Options{Dir: empty}); !errors.Is(err, boot.ErrNothing) || !strings.Contains(err.Error(), filepath.Join(empty, boot.A.Program())) {
		t.Errorf("empty folder: %v", err)
	}
}

// A record that cannot be read keeps nobody from working.
func TestDamagedRecord(t *testing.T) {
	for name, slot := range map[string]boot.Slot{"slot a": boot.A, "slot b": boot.B} {
		t.Run(name, func(t *testing.T) {
			dir := gateway(t, slot)
			if err := os.WriteFile(filepath.Join(dir, boot.RecordFile), []byte(`{`), 0o600); err != nil {
				t.Fatal(err)
			}
			agentPID(t, start(t, dir).line(t))
		})
	}
}

// Attacks: F16
func TestTrialThatCrashes(t *testing.T) {
	f, _ := twoSlots(t, "", "crash")
	r := start(t, f.dir)
	for range boot.TrialStarts {
		if got := r.line(t); got != "crashing b" {
			t.Fatalf("got %q", got)
		}
	}
	agentPID(t, r.line(t))
	got := f.read()
	if got.Active != boot.A || got.State != boot.RolledBack || got.MinSecurity != 0 {
		t.Fatalf("the record is %+v", got)
	}
	failure := got.Failures[0]
	if failure.Reason != boot.Exited || failure.Release != 2 || failure.Words != "panic: crashed" {
		t.Errorf("the failure is %+v", failure)
	}
	ended, ok, err := boot.TakeEnded(disk.OS(f.dir))
	if !ok || err != nil || ended.Detail != "exit status 3" || ended.Slot != boot.B || ended.Words != "panic: crashed" {
		t.Errorf("the agent is told %+v, %v, %v", ended, ok, err)
	}
}

// Attacks: F16
func TestTrialThatHangs(t *testing.T) {
	for name, do := range map[string]string{"never a heartbeat": "", "one heartbeat": "beat once"} {
		t.Run(name, func(t *testing.T) {
			f, _ := twoSlots(t, "", do)
			r := startWith(t, launch.Options{Dir: f.dir, HangTime: 200 * time.Millisecond})
			first := agentPID(t, r.line(t))
			if second := agentPID(t, r.line(t)); second == first {
				t.Fatal("it was not killed")
			}
			got := f.read()
			if got.Active != boot.A || got.State != boot.RolledBack || got.Failures[0].Reason != boot.Hung {
				t.Errorf("the record is %+v", got)
			}
		})
	}
}

// Attacks: F16
func TestTrialThatNobodyConfirms(t *testing.T) {
	f, _ := twoSlots(t, "", "beat")
	r := startWith(t, launch.Options{Dir: f.dir, TrialTime: 300 * time.Millisecond})
	agentPID(t, r.line(t))
	agentPID(t, r.line(t))
	if got := f.read(); got.Active != boot.A || got.State != boot.RolledBack || got.Failures[0].Reason != boot.NotConfirmed {
		t.Errorf("the record is %+v", got)
	}
}

// A power cut ends a run without a word; only starts on trial are counted.
func TestStartsAreCountedOnTrialOnly(t *testing.T) {
	f, _ := twoSlots(t, "", "beat")
	for want := boot.TrialStarts - 1; want >= 0; want-- {
		r := start(t, f.dir)
		agentPID(t, r.line(t))
		if got := f.read(); got.Active != boot.B || got.Starts != want {
			t.Fatalf("%d starts left in slot %s, want %d", got.Starts, got.Active, want)
		}
		r.cancel()
		<-r.done
	}
	for range 2 {
		r := start(t, f.dir)
		agentPID(t, r.line(t))
		r.cancel()
		<-r.done
	}
	got := f.read()
	if got.Active != boot.A || got.State != boot.RolledBack || got.Failures[0].Reason != boot.NotConfirmed {
		t.Errorf("the record is %+v", got)
	}
}

func TestTrialThatIsConfirmed(t *testing.T) {
	f, _ := twoSlots(t, "switch", "confirm")
	record := boot.Initial()
	record.A, record.B = image(t, 1, 1), image(t, 2, 2)
	f.write(record)
	r := startWith(t, launch.Options{Dir: f.dir, HangTime: time.Hour})
	agentPID(t, r.line(t)) // the one that makes way
	pid := agentPID(t, r.line(t))
	for f.read().State != boot.Confirmed {
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	agentPID(t, r.line(t))
	if got := f.read(); got.Active != boot.B || got.State != boot.Confirmed || got.MinSecurity != 2 || len(got.Failures) > 0 {
		t.Errorf("the record is %+v", got)
	}
	if ended, ok, err := boot.TakeEnded(disk.OS(f.dir)); !ok || err != nil || ended.Reason != boot.Killed {
		t.Errorf("the agent is told %+v, %v, %v", ended, ok, err)
	}
}

// Attacks: F6, F15
func TestImageIsVerifiedAtEachStart(t *testing.T) {
	for name, change := range map[string]func(*boot.Record){
		"another hash":     func(r *boot.Record) { r.B.SHA256 = strings.Repeat("0", 64) },
		"another size":     func(r *boot.Record) { r.B.Size++ },
		"swapped by hand":  func(r *boot.Record) { r.MinSecurity, r.A.Security, r.B.Security = 2, 2, 1 },
		"on trial as well": func(r *boot.Record) { r.B.Size++; r.State, r.Starts = boot.Trial, 3 },
	} {
		t.Run(name, func(t *testing.T) {
			f, record := twoSlots(t, "", "crash")
			record.State, record.Starts = boot.Confirmed, 0
			change(&record)
			f.write(record)
			agentPID(t, start(t, f.dir).line(t)) // b would crash
			if got := f.read(); got.Active != boot.A || got.State != boot.RolledBack {
				t.Errorf("the record is %+v", got)
			}
		})
	}
}

func TestAgentThatCannotBeStarted(t *testing.T) {
	f, record := twoSlots(t, "", "")
	program := filepath.Join(f.dir, boot.B.Program())
	text := []byte("no program at all")
	if err := errors.Join(os.Remove(program), os.WriteFile(program, text, 0o700)); err != nil {
		t.Fatal(err)
	}
	record.B.Size, record.B.SHA256 = int64(len(text)), fmt.Sprintf("%x", sha256.Sum256(text))
	f.write(record)
	agentPID(t, start(t, f.dir).line(t))
	if got := f.read(); got.Active != boot.A || got.Failures[0].Reason != boot.NotStarted {
		t.Errorf("the record is %+v", got)
	}
}

// An agent that never gives a heartbeat is not killed for it once it is confirmed.
func TestHeartbeatsAreAskedOfTrialsOnly(t *testing.T) {
	dir := gateway(t, boot.A)
	r := startWith(t, launch.Options{Dir: dir, HangTime: time.Millisecond, TrialTime: time.Millisecond})
	pid := agentPID(t, r.line(t))
	r.cancel()
	if got := r.line(t); got != "agent stopping" {
		t.Errorf("agent %d said %q", pid, got)
	}
}

// An image that hangs is better than none.
func TestTrialThatHangsAlone(t *testing.T) {
	f, record := twoSlots(t, "", "")
	record.A.Size++
	f.write(record)
	r := startWith(t, launch.Options{Dir: f.dir, HangTime: 100 * time.Millisecond})
	for range boot.TrialStarts + 1 {
		agentPID(t, r.line(t))
	}
	if got := f.read(); got.Active != boot.B || got.State != boot.Trial || got.Starts != 0 {
		t.Errorf("the record is %+v", got)
	}
}

// A launcher that is stopped while it waits does not start the agent again.
func TestStopsBetweenStarts(t *testing.T) {
	f, _ := twoSlots(t, "", "crash")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := launch.Run(ctx, launch.Options{Dir: f.dir, Pause: func(int) time.Duration { cancel(); return time.Hour }})
	if got := f.read(); err != nil || got.Starts != boot.TrialStarts-1 {
		t.Errorf("%v, %+v", err, got)
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
