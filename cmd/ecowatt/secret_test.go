package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ecowatt/inverter/modbus/modbustest"
)

// screen is a terminal at which the program runs.
type screen struct {
	t         *testing.T
	far, near *os.File
	shown     string
	out       bytes.Buffer
}

// sit starts the program at a terminal of its own.
func (o *operator) sit(args ...string) (*screen, *exec.Cmd) {
	o.t.Helper()
	far, port := modbustest.Line(o.t)
	near, err := os.OpenFile(port, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { near.Close() })
	s := &screen{t: o.t, far: far, near: near}
	c := o.command(args...)
	c.Stdout, c.Stderr = &s.out, &s.out
	c.ExtraFiles = []*os.File{near}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}
	if err := c.Start(); err != nil {
		o.t.Fatal(err)
	}
	return s, c
}

// await waits until this is shown.
func (s *screen) await(text string) {
	s.t.Helper()
	if err := s.far.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	b := make([]byte, 256)
	for !strings.HasSuffix(s.shown, text) {
		n, err := s.far.Read(b)
		if err != nil {
			s.t.Fatalf("waiting for %q: %v; shown is %q, said is %q", text, err, s.shown, &s.out)
		}
		s.shown += string(b[:n])
	}
}

func (s *screen) enter(line string) {
	s.t.Helper()
	if _, err := s.far.WriteString(line + "\n"); err != nil {
		s.t.Fatal(err)
	}
}

// echoes reports whether the terminal shows what is typed.
func (s *screen) echoes() bool {
	s.t.Helper()
	now, err := terminal(s.near, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return now.Lflag&unix.ECHO != 0
}

// A passphrase is asked for at the terminal, twice where it is new, and is not
// shown; afterwards the terminal is as before.
func TestPassphraseAtTheTerminal(t *testing.T) {
	o := offline(t)
	s, made := o.sit("firmware", "keygen", "k")
	s.await("Passphrase of k.key: ")
	s.enter("a long passphrase")
	s.await("Once more: ")
	if s.echoes() {
		t.Error("the terminal shows what is typed")
	}
	s.enter("a long passphrase")
	if err := made.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &s.out)
	}
	s.await("\r\n")
	if strings.Contains(s.shown, "long") || !s.echoes() {
		t.Errorf("the passphrase is shown, or the terminal stays quiet: %q", s.shown)
	}
	o.signedRoot("root")
	for _, c := range []struct{ phrase, says string }{{"another passphrase", "does not open"}, {"a long passphrase", "carries signatures"}} {
		s, used := o.sit("firmware", "sign", "root", "--key", "k.key")
		s.await("Passphrase of k.key: ")
		s.enter(c.phrase)
		_ = used.Wait() // the words tell
		if !strings.Contains(s.out.String(), c.says) {
			t.Errorf("with %q: %s", c.phrase, &s.out)
		}
	}
}

func TestPassphrasesThatDiffer(t *testing.T) {
	o := offline(t)
	s, c := o.sit("firmware", "keygen", "k")
	s.await("Passphrase of k.key: ")
	s.enter("a long passphrase")
	s.await("Once more: ")
	s.enter("a long passphrasf")
	_ = c.Wait() // the words tell
	if !strings.Contains(s.out.String(), "the two passphrases differ") || c.ProcessState.ExitCode() != 1 {
		t.Errorf("%d: %s", c.ProcessState.ExitCode(), &s.out)
	}
	o.absent("k.key")
}

// Who interrupts the question gets the terminal back as it was.
func TestPassphraseInterrupted(t *testing.T) {
	o := offline(t)
	s, c := o.sit("firmware", "keygen", "k")
	s.await("Passphrase of k.key: ")
	if s.echoes() {
		t.Error("the terminal shows what is typed")
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait() // the words tell
	if !s.echoes() || !strings.Contains(s.out.String(), "ecowatt: interrupted") {
		t.Errorf("echo %v: %s", s.echoes(), &s.out)
	}
	o.absent("k.key")
}
