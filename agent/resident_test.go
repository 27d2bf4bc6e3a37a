package agent

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// maxResident is the most memory that the program may have resident, in MiB.
const maxResident = 16

// BenchmarkAgentResident builds the program, lets it sample every second and
// exchange as often, and reports how much memory it has resident: now, and at
// the most so far. It is one run, whatever -benchtime says.
func BenchmarkAgentResident(b *testing.B) {
	program := filepath.Join(b.TempDir(), "ecowatt-agent")
	build := exec.CommandContext(b.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "ecowatt/cmd/ecowatt-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		b.Fatalf("building: %v\n%s", err, text)
	}
	g := newGateway(b)
	agent := exec.CommandContext(b.Context(), program, "run", "--dir", g.dir)
	if err := agent.Start(); err != nil {
		b.Fatal(err)
	}
	const exchanges = 15
	g.await(b, "exchanges", func() bool {
		g.cloud.mu.Lock()
		defer g.cloud.mu.Unlock()
		return len(g.cloud.requests) >= exchanges
	})
	for _, m := range []struct{ field, unit string }{{"VmRSS:", "MiB"}, {"VmHWM:", "MiB-at-most"}} {
		size := resident(b, agent.Process.Pid, m.field)
		b.ReportMetric(size, m.unit)
		if size > maxResident {
			b.Errorf("%s %.1f MiB, at most %d are allowed", m.field, size, maxResident)
		}
	}
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	if err := agent.Wait(); err != nil {
		b.Errorf("the agent ended with %v", err)
	}
	b.ReportMetric(0, "ns/op") // means nothing here
}

// resident reads a size out of /proc/PID/status, in MiB (proc(5)).
func resident(b *testing.B, pid int, field string) float64 {
	b.Helper()
	size, err := statusOf(pid, field)
	if err != nil {
		b.Fatal(err)
	}
	return size
}

func statusOf(pid int, field string) (mib float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "\n"+field)
	if _, err := fmt.Sscan(rest, &mib); err != nil {
		return 0, fmt.Errorf("%s: %w", field, err)
	}
	return mib / 1024, nil
}
