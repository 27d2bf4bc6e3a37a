package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// maxDemoLog is the size at which a program's log of the demonstration is
// begun anew when the program starts, in bytes.
const maxDemoLog = 8 << 20

// supervised is a program that the demonstration keeps running, as systemd
// does on a real machine.
type supervised struct {
	name    string // of its log, DIR/logs/NAME.log
	path    string
	args    []string
	logs    string        // folder of the logs
	ended   func(string)  // told why the program ended, before it is started again
	stopped chan struct{} // closed when it has been stopped for good
	stop    context.CancelFunc
}

// start starts the program and starts it again whenever it ends, until halt.
func (s *supervised) start(ctx context.Context) {
	ctx, s.stop = context.WithCancel(ctx)
	s.stopped = make(chan struct{})
	go func() {
		defer close(s.stopped)
		pause := restartPause
		for {
			began := time.Now()
			reason := s.once(ctx)
			if ctx.Err() != nil {
				return
			}
			s.ended(reason)
			if time.Since(began) > 10*restartPauseMax {
				pause = restartPause
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, restartPauseMax)
		}
	}()
}

// The pauses before an ended program is started again.
const (
	restartPause    = 200 * time.Millisecond
	restartPauseMax = 3 * time.Second
)

// halt asks the program to stop and waits until it has.
func (s *supervised) halt() {
	s.stop()
	<-s.stopped
}

// once runs the program until it ends or ctx does, and tells why it ended: its
// last words where it had any.
func (s *supervised) once(ctx context.Context) string {
	log, err := s.openLog()
	if err != nil {
		return err.Error()
	}
	defer log.Close()
	words := &lastLine{}
	// A killed demonstration takes its programs with it: the signal is tied to
	// the thread that starts the program (prctl(2), PR_SET_PDEATHSIG).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, s.path, s.args...)
	cmd.Stdout = log
	cmd.Stderr = io.MultiWriter(log, words)
	// A group of its own: Ctrl-C reaches the demonstration, which stops its
	// programs one after the other.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 25 * time.Second
	err = cmd.Run()
	line := words.String()
	switch {
	case err == nil:
		return "it ended by itself"
	case line != "" && cmd.ProcessState.Exited(): // it said why
		return line
	}
	return err.Error()
}

func (s *supervised) openLog() (*os.File, error) {
	if err := os.MkdirAll(s.logs, 0o700); err != nil {
		return nil, fmt.Errorf("making the folder of the logs: %w", err)
	}
	name := filepath.Join(s.logs, s.name+".log")
	flags := os.O_WRONLY | os.O_CREATE | os.O_APPEND
	if info, err := os.Stat(name); err == nil && info.Size() > maxDemoLog {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(name, flags, 0o600)
}

// lastLine is a writer that remembers the last line written to it.
type lastLine struct {
	mu   sync.Mutex
	line []byte
	open bool // the line still grows
}

func (l *lastLine) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for part := range bytes.Lines(p) {
		if !l.open {
			l.line = l.line[:0]
		}
		l.open = part[len(part)-1] != '\n'
		l.line = append(l.line, bytes.TrimRight(part, "\n")...)
		l.line = l.line[max(0, len(l.line)-500):]
	}
	return len(p), nil
}

func (l *lastLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.line)
}
