package store

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// childDatabase names the environment variable that makes this test's program
// the process to be killed, and says where its database is.
const childDatabase = "ECOWATT_TEST_KILLED_DATABASE"

// TestKill kills a process that commits, again and again: whatever it has
// acknowledged is there, and nothing twice.
//
// Attacks: R5, R6, O1
func TestKill(t *testing.T) {
	if path := os.Getenv(childDatabase); path != "" {
		commitUntilKilled(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "ecowatt.db")
	acknowledged := map[string]bool{}
	for round := range 6 {
		for _, line := range killAfter(t, path, 20*(round+1)) {
			acknowledged[line] = true
		}
		there := map[string]int{}
		s, err := Open(t.Context(), path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range notes(t, s) {
			there[text]++
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for text := range acknowledged {
			if there[text] != 1 {
				t.Errorf("round %d: %s was acknowledged and is there %d times", round, text, there[text])
			}
		}
	}
}

// killAfter starts the child, kills it after so many acknowledged units, and
// returns all that it acknowledged.
func killAfter(t *testing.T, path string, n int) (lines []string) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(program, "-test.run=^TestKill$")
	child.Env = append(os.Environ(), childDatabase+"="+path)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	for scanner := bufio.NewScanner(out); scanner.Scan(); {
		if text, whole := strings.CutSuffix(scanner.Text(), "."); whole {
			lines = append(lines, text)
		}
		if len(lines) == n {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	child.Wait() // killed
	if len(lines) < n {
		t.Fatalf("the child ended after %d units: %q", len(lines), lines)
	}
	return lines
}

// commitUntilKilled commits from several goroutines and writes a line for each
// unit that is durable.
func commitUntilKilled(t *testing.T, path string) {
	s, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	go s.Run(context.Background())
	var wait sync.WaitGroup
	for c := range 8 {
		wait.Go(func() {
			for i := range 100_000 {
				text := fmt.Sprintf("%d/%d/%d", os.Getpid(), c, i)
				if err := s.Commit(context.Background(), note(text)); err != nil {
					t.Error(err)
					return
				}
				os.Stdout.WriteString(text + ".\n")
			}
		})
	}
	wait.Wait()
}
