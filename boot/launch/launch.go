// Package launch starts the agent of the slot in force, watches it, and starts
// it again when it ends. It uses the standard library only: the launcher is
// the one program of a gateway that is never replaced from afar.
package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"ecowatt/boot"
)

// Grace is how long an agent that was asked to stop may take before it is
// killed.
const Grace = 20 * time.Second

// Options says what to launch. Dir is required.
type Options struct {
	Dir    string    // the gateway's folder, with slots/ and boot.json
	Stdout io.Writer // where the agent's output goes; nil discards it
	Stderr io.Writer
	Logger *slog.Logger                  // nil: slog.DiscardHandler
	Pause  func(quick int) time.Duration // nil: boot.Pause
}

// Run starts the agent as "ecowatt-agent run --dir DIR" and keeps it running
// until ctx ends; then it asks the agent to stop (SIGTERM), waits for it at
// most Grace, and returns nil. It returns an error only where starting makes
// no sense: the boot record cannot be read or the slot in force is empty.
//
// The agent gets SIGTERM from the kernel when the launcher itself is killed,
// so that a new launcher finds its folder free.
func Run(ctx context.Context, o Options) error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Pause == nil {
		o.Pause = boot.Pause
	}
	quick := 0
	for {
		record, err := readRecord(o.Dir)
		if err != nil {
			return err
		}
		program := filepath.Join(o.Dir, filepath.FromSlash(record.Active.Program()))
		if _, err := os.Stat(program); err != nil {
			return fmt.Errorf("slot %s holds no agent: %w", record.Active, err)
		}
		started := time.Now()
		reason := once(ctx, program, o)
		select {
		case <-ctx.Done():
			o.Logger.Info("agent stopped", "slot", record.Active)
			return nil
		default:
		}
		ran := time.Since(started)
		quick = boot.Quick(quick, ran)
		pause := o.Pause(quick)
		o.Logger.Warn("agent ended, will be started again", "slot", record.Active, "reason", reason, "ran", ran.Round(time.Millisecond), "pause", pause)
		if !wait(ctx, pause) {
			return nil
		}
	}
}

func readRecord(dir string) (boot.Record, error) {
	name := filepath.Join(dir, boot.RecordFile)
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return boot.Initial(), nil
	}
	if err != nil {
		return boot.Record{}, fmt.Errorf("reading the boot record: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, boot.MaxRecordSize+1))
	if err != nil {
		return boot.Record{}, fmt.Errorf("reading the boot record: %w", err)
	}
	record, err := boot.ParseRecord(data)
	if err != nil {
		return boot.Record{}, fmt.Errorf("%s: %w", name, err)
	}
	return record, nil
}

// once runs the program until it ends, or until ctx ends and the program with
// it, and tells why it ended.
func once(ctx context.Context, program string, o Options) string {
	// The parent-death signal is tied to the thread that starts the program,
	// so this thread has to stay until the program has ended: prctl(2),
	// PR_SET_PDEATHSIG.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, program, "run", "--dir", o.Dir)
	cmd.Stdout, cmd.Stderr = o.Stdout, o.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = Grace
	if err := cmd.Start(); err != nil {
		return err.Error()
	}
	o.Logger.Info("agent started", "program", program, "pid", cmd.Process.Pid)
	if err := cmd.Wait(); err != nil {
		return err.Error()
	}
	return "exit status 0"
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
