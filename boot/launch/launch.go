// Package launch starts the agent of the slot in force, watches it, and starts
// it again when it ends. It uses the standard library only: the launcher is
// the one program of a gateway that is never replaced from afar.
package launch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"ecowatt/boot"
	"ecowatt/internal/disk"
)

// Options says what to launch. Dir is required.
type Options struct {
	Dir    string    // the gateway's folder, with slots/ and boot.json
	Stdout io.Writer // where the agent's output goes; nil discards it
	Stderr io.Writer
	Logger *slog.Logger // nil: slog.DiscardHandler

	Pause     func(quick int) time.Duration // nil: boot.Pause
	TrialTime time.Duration                 // 0: boot.TrialTime
	HangTime  time.Duration                 // 0: boot.HangTime
}

// Run starts the agent as "ecowatt-agent run --dir DIR" and keeps it running
// until ctx ends; then it asks the agent to stop (SIGTERM), waits for it at
// most Grace, and returns nil. Which slot's agent that is, and when it goes back
// to the other one, is decided by package boot. It returns an error only where
// starting makes no sense: no slot holds an image that may run, or the record
// that counts the starts of a trial cannot be written.
//
// The agent gets SIGTERM from the kernel when the launcher itself is killed,
// so that a new launcher finds its folder free.
func Run(ctx context.Context, o Options) error {
	l := launcher{Options: o.checked(), folder: disk.OS(o.Dir)}
	var last boot.Ending
	quick := 0
	for {
		record, err := l.next(last)
		if err != nil {
			return err
		}
		end := l.once(ctx, record)
		select {
		case <-ctx.Done():
			l.Logger.Info("agent stopped", "slot", record.Active)
			return nil
		default:
		}
		now := l.read()
		if now.Active != record.Active { // it made way for another one
			quick, last = 0, boot.Ending{}
			continue
		}
		l.leave(end)
		last = end.Ending
		if err := l.giveUp(now, last); err != nil {
			return err
		}
		quick = boot.Quick(quick, end.ran)
		pause := l.Pause(quick)
		l.Logger.Warn("agent ended, will be started again", "slot", record.Active, "reason", end.Reason, "detail", end.Detail, "ran", end.ran.Round(time.Millisecond), "pause", pause)
		if !wait(ctx, pause) {
			return nil
		}
	}
}

func (o Options) checked() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Pause == nil {
		o.Pause = boot.Pause
	}
	if o.TrialTime == 0 {
		o.TrialTime = boot.TrialTime
	}
	if o.HangTime == 0 {
		o.HangTime = boot.HangTime
	}
	return o
}

type launcher struct {
	Options
	folder disk.FS
}

// next decides what is started now, and writes it down before it is.
func (l launcher) next(last boot.Ending) (boot.Record, error) {
	before := l.read()
	record, err := before.Start(l.look, last)
	if err != nil {
		return record, fmt.Errorf("%s: %w: put an agent into %s", l.Dir, err, filepath.Join(l.Dir, boot.A.Program()))
	}
	if record.Active != before.Active {
		l.Logger.Error("going back to the other slot", "from", before.Active, "to", record.Active, "state", before.State)
	}
	if record.Active != before.Active || record.Starts != before.Starts {
		return record, record.Write(l.folder)
	}
	return record, nil
}

// giveUp goes back from an image on trial that hung or was not confirmed in time:
// another start would only take as long again.
func (l launcher) giveUp(now boot.Record, why boot.Ending) error {
	if why.Reason != boot.Hung && why.Reason != boot.NotConfirmed {
		return nil
	}
	back := now.Back(l.look, why)
	if back.Active == now.Active {
		return nil
	}
	l.Logger.Error("going back to the other slot", "from", now.Active, "to", back.Active, "reason", why.Reason)
	return back.Write(l.folder)
}

// read returns the record in force. One that cannot be read is as none: any agent
// is better than none, and it will tell.
func (l launcher) read() boot.Record {
	record, err := boot.ReadRecord(l.folder)
	if err != nil {
		l.Logger.Error("starting without the boot record", "error", err)
		return boot.Initial()
	}
	return record
}

// look compares the program of a slot with what was installed there.
func (l launcher) look(s boot.Slot) boot.Condition {
	record := l.read()
	image := record.Image(s)
	size, sum, err := l.sum(s)
	switch {
	case errors.Is(err, fs.ErrNotExist): // empty, as one of the two is on a new gateway
		return boot.Bad
	case err != nil:
		l.Logger.Warn("a slot cannot be read", "slot", s, "error", err)
		return boot.Bad
	case image == nil:
		return boot.Good
	case size != image.Size || sum != image.SHA256:
		l.Logger.Error("a slot does not hold what was installed", "slot", s)
		return boot.Bad
	case image.Security < record.MinSecurity:
		l.Logger.Error("a slot holds an image that may not run any more", "slot", s, "security", image.Security, "least", record.MinSecurity)
		return boot.Outdated
	}
	return boot.Good
}

// sum returns size and SHA-256 of the program of a slot.
func (l launcher) sum(s boot.Slot) (int64, string, error) {
	f, err := l.folder.Open(s.Program())
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, f)
	return size, hex.EncodeToString(h.Sum(nil)), err
}

// leave tells the next agent how this one ended.
func (l launcher) leave(end ending) {
	if err := end.Write(l.folder); err != nil {
		l.Logger.Warn("the next agent cannot be told how this one ended", "error", err)
	}
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

// program is the path of the agent program of a slot.
func (l launcher) program(s boot.Slot) string {
	return filepath.Join(l.Dir, filepath.FromSlash(s.Program()))
}

// stdio is w, or nothing.
func stdio(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// closeAll closes the ends of a pipe that are not needed any more.
func closeAll(files ...*os.File) {
	for _, f := range files {
		_ = f.Close() // nothing was written to it that could be lost
	}
}
