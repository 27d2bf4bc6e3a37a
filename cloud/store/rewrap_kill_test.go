package store

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/keyring"
)

// childRing names the environment variable that makes this test's program the
// process to be killed, beside childDatabase.
const childRing = "ECOWATT_TEST_KILLED_RING"

// TestRewrapKilled kills a process that rotates the key-encryption key, again
// and again, wherever it is: every key is wrapped with one that the ring has.
//
// Attacks: K15
func TestRewrapKilled(t *testing.T) {
	if path := os.Getenv(childRing); path != "" {
		rotateUntilKilled(t, os.Getenv(childDatabase), path)
		return
	}
	w := newWrapping(t, 10)
	w.close()
	for round := range 8 {
		killRotation(t, w, 1+7*round)
		w.open()
		w.opens()
		w.close()
	}
	w.open()
	var err error
	if w.ring, err = keyring.Open(w.ringFile); err != nil {
		t.Fatal(err)
	}
	w.rewrap(0)
	w.opens()
	if diff := cmp.Diff(map[string]KEKUse{w.primary(): {DeviceKeys: 10, Sessions: 10, Releases: 10}}, w.uses()); diff != "" {
		t.Errorf("in the end (-want +got):\n%s", diff)
	}
}

// killRotation starts the child and kills it after so many steps.
func killRotation(t *testing.T, w *wrapping, steps int) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command(program, "-test.run=^TestRewrapKilled$")
	child.Env = append(os.Environ(), childDatabase+"="+w.path, childRing+"="+w.ringFile)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for scanner := bufio.NewScanner(out); scanner.Scan(); seen++ {
		if seen == steps {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	child.Wait() // killed
	if seen < steps {
		t.Fatalf("the child ended after %d steps", seen)
	}
}

// rotateUntilKilled rotates, a row at a time, and writes a line for each step.
func rotateUntilKilled(t *testing.T, path, ringFile string) {
	ring, err := keyring.Open(ringFile)
	if err != nil {
		t.Fatal(err)
	}
	w := &wrapping{Store: openAt(t, path, Options{}), t: t, ring: ring, ringFile: ringFile}
	step := func(what string) { os.Stdout.WriteString(what + "\n") }
	for {
		_, primary := w.rotate()
		step("primary")
		for after := ""; ; {
			done, err := w.Rewrap(t.Context(), w.order(after, 1))
			if err != nil {
				t.Fatal(err)
			}
			step("rewrapped")
			if after = done.Next; after == "" {
				break
			}
		}
		for _, k := range ring.Keys() {
			if k.ID == primary {
				continue
			}
			record := audit.Record{At: noon, Actor: audit.Actor{Kind: audit.Operator, Name: "ada"}, Action: "keyring.key_removed"}
			if err := errors.Join(w.CloseKEK(t.Context(), k.ID, record), ring.Remove(k.ID)); err != nil {
				t.Fatal(err)
			}
			step("removed")
		}
	}
}
