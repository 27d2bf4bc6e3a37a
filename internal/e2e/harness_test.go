package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bin is where TestMain puts the programs.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "ecowatt-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	bin = dir
	build := exec.CommandContext(context.Background(), "go", "build", "-o", dir+"/", "ecowatt/cmd/ecowatt", "ecowatt/cmd/ecowatt-agent", "ecowatt/cmd/ecowatt-boot")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	code := 1
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the programs: %v\n%s", err, out)
	} else {
		code = m.Run()
	}
	os.RemoveAll(dir)
	os.RemoveAll(dir + imagesFolder)
	os.Exit(code)
}

// patience bounds every wait of these tests. It is long because the machine
// may be busy; nothing waits that long when all is well.
const patience = 90 * time.Second

// process is a started program and what it has said so far.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and all its output is read

	mu    sync.Mutex
	lines []string
	grown chan struct{} // closed and made anew at each line
}

// start starts a program of this repository. It is killed when the test ends.
func start(t *testing.T, program string, args ...string) *process {
	t.Helper()
	return startIn(t, "", nil, filepath.Join(bin, program), args...)
}

func startIn(t *testing.T, dir string, env []string, path string, args ...string) *process {
	t.Helper()
	p := &process{name: filepath.Base(path), cmd: exec.CommandContext(context.Background(), path, args...), done: make(chan struct{}), grown: make(chan struct{})}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = dir, in, in, append(os.Environ(), env...)
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", p.name, err)
	}
	in.Close()
	go func() {
		defer close(p.done)
		p.read(out)
		p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		out.SetReadDeadline(time.Now().Add(10 * time.Second)) // a grandchild may hold the pipe
		<-p.done
		out.Close()
		if t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Logf("%s said:\n%s", p.name, strings.Join(tail(p.lines, 60), "\n"))
		}
	})
	return p
}

func tail(lines []string, n int) []string { return lines[max(0, len(lines)-n):] }

func (p *process) read(r io.Reader) {
	var rest []byte
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		rest = append(rest, buf[:n]...)
		for {
			line, after, found := bytes.Cut(rest, []byte("\n"))
			if !found {
				break
			}
			rest = after
			p.mu.Lock()
			p.lines = append(p.lines, string(line))
			close(p.grown)
			p.grown = make(chan struct{})
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

// line waits for a line that matches pattern, from line number from on, and
// returns its submatches and the number of the line after it.
func (p *process) line(t *testing.T, from int, pattern string) (match []string, next int) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		lines, grown := p.lines, p.grown
		p.mu.Unlock()
		for ; from < len(lines); from++ {
			if m := re.FindStringSubmatch(lines[from]); m != nil {
				return m, from + 1
			}
		}
		select {
		case <-grown:
		case <-p.done:
			p.mu.Lock()
			complete := from == len(p.lines)
			p.mu.Unlock()
			if complete {
				t.Fatalf("%s ended without saying %q", p.name, pattern)
			}
		case <-timeout:
			t.Fatalf("%s does not say %q", p.name, pattern)
		}
	}
}

// kill ends the process without warning, as a power cut of the program would.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	p.wait(t)
}

// stop asks the process to end, as a service manager does, and checks that it
// ends cleanly.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.end(t, syscall.SIGTERM)
}

// end is stop with a signal to choose.
func (p *process) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatalf("stopping %s: %v", p.name, err)
	}
	p.wait(t)
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("%s stopped with exit code %d, want 0", p.name, code)
	}
}

func (p *process) wait(t *testing.T) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("%s does not end", p.name)
	}
}

// result is what a program that ran to its end said.
type result struct {
	stdout, stderr string
	code           int
}

// run runs a program of this repository to its end.
func run(t *testing.T, env []string, program string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, program), args...)
	cmd.Env = append(os.Environ(), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("running %s %s: %v", program, strings.Join(args, " "), err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must runs a program that has to succeed and returns its standard output.
func must(t *testing.T, env []string, program string, args ...string) string {
	t.Helper()
	r := run(t, env, program, args...)
	if r.code != 0 {
		t.Fatalf("%s %s: exit code %d\n%s%s", program, strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// freeAddress is a loopback address that nothing listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	var c net.ListenConfig
	l, err := c.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// eventually waits until check returns true, looking every 50 ms: for what no
// program announces.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	eventuallyFunc(t, func() string { return what }, check)
}

// eventuallyFunc is eventually for what is known better in the end.
func eventuallyFunc(t *testing.T, what func() string, check func() bool) {
	t.Helper()
	timeout := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited for long: %s", what())
		}
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func parseJSON[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %.300s", err, text)
	}
	return v
}
