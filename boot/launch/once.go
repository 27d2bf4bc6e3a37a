package launch

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ecowatt/boot"
)

// Grace is how long an agent that was asked to stop may take before it is
// killed.
const Grace = 20 * time.Second

// HeartbeatFD is the file descriptor to which an agent writes a byte at least
// every few seconds, as long as all is well; it is named in the environment as
// HeartbeatVariable.
const (
	HeartbeatFD       = 3
	HeartbeatVariable = "ECOWATT_HEARTBEAT"
)

// ending is how a run of an agent ended, and how long it lasted.
type ending struct {
	boot.Ended
	ran time.Duration
}

// once runs the agent of the active slot until it ends, until ctx ends and the
// agent with it, or until it is taken for lost: it hangs, or it was not confirmed
// in time.
func (l launcher) once(ctx context.Context, record boot.Record) ending {
	started := time.Now()
	end := ending{Ended: boot.Ended{Slot: record.Active}}
	end.Reason, end.Detail, end.Words = l.run(ctx, record)
	end.ran = time.Since(started)
	end.Seconds = int64(end.ran.Seconds())
	return end
}

func (l launcher) run(ctx context.Context, record boot.Record) (reason boot.Reason, detail, words string) {
	beats, beat, err := os.Pipe()
	if err != nil {
		return boot.NotStarted, err.Error(), ""
	}
	defer closeAll(beats, beat)
	// The parent-death signal is tied to the thread that starts the program,
	// so this thread has to stay until the program has ended: prctl(2),
	// PR_SET_PDEATHSIG.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	last := &tail{}
	cmd := exec.CommandContext(ctx, l.program(record.Active), "run", "--dir", l.Dir)
	cmd.Stdout, cmd.Stderr = l.Stdout, io.MultiWriter(stdio(l.Stderr), last)
	cmd.Env = append(os.Environ(), HeartbeatVariable+"="+strconv.Itoa(HeartbeatFD))
	cmd.ExtraFiles = []*os.File{beat} // the first of them is HeartbeatFD
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = Grace
	if err := cmd.Start(); err != nil {
		return boot.NotStarted, err.Error(), ""
	}
	l.Logger.Info("agent started", "slot", record.Active, "state", record.State, "pid", cmd.Process.Pid)
	ended, lost := make(chan struct{}), make(chan boot.Reason)
	go func() {
		lost <- l.watch(listen(beats, ended), ended, record.State == boot.Trial, func() { _ = cmd.Process.Kill() })
	}()
	err = cmd.Wait()
	close(ended)
	reason, detail = describe(err)
	if why := <-lost; why != "" {
		reason = why
	}
	return reason, detail, last.String()
}

// watch kills an agent that is taken for lost, and returns why; "" when it ended.
// One that never gave a heartbeat need not, unless it is on trial.
func (l launcher) watch(beats, ended <-chan struct{}, trial bool, kill func()) boot.Reason {
	hang, deadline := time.NewTimer(l.HangTime), time.NewTimer(l.TrialTime)
	defer hang.Stop()
	defer deadline.Stop()
	if !trial {
		hang.Stop()
		deadline.Stop()
	}
	for {
		select {
		case <-ended:
			return ""
		case <-beats:
			hang.Reset(l.HangTime)
		case <-hang.C:
			kill()
			return boot.Hung
		case <-deadline.C:
			if l.read().State == boot.Trial { // not confirmed meanwhile
				kill()
				return boot.NotConfirmed
			}
		}
	}
}

// listen tells of each heartbeat until the agent has ended.
func listen(beats io.Reader, ended <-chan struct{}) <-chan struct{} {
	beat := make(chan struct{})
	go func() {
		for b := make([]byte, 64); ; {
			if _, err := beats.Read(b); err != nil {
				return
			}
			select {
			case beat <- struct{}{}:
			case <-ended:
				return
			}
		}
	}()
	return beat
}

// describe tells how a program ended.
func describe(err error) (boot.Reason, string) {
	if err == nil {
		return boot.Exited, "exit status 0"
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && !exit.Exited() {
		return boot.Killed, err.Error()
	}
	return boot.Exited, err.Error()
}

// tail keeps the last boot.MaxWords bytes that were written to it.
type tail struct{ bytes []byte }

func (t *tail) Write(b []byte) (int, error) {
	t.bytes = append(t.bytes, b...)
	if over := len(t.bytes) - boot.MaxWords; over > 0 {
		t.bytes = append(t.bytes[:0], t.bytes[over:]...)
	}
	return len(b), nil
}

// String is what was kept, as text.
func (t *tail) String() string { return strings.ToValidUTF8(string(t.bytes), "") }
