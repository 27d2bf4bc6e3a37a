package launch_test

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ecowatt/boot"
	"ecowatt/boot/launch"
	"ecowatt/internal/disk"
)

// obstruct makes that a file cannot be replaced any more.
func obstruct(dir, file string) error {
	return os.MkdirAll(filepath.Join(dir, file+disk.Temporary, "x"), 0o700)
}

// Where going back from a trial cannot be written down, it would be gone through
// again for ever.
func TestGoingBackThatCannotBeWritten(t *testing.T) {
	f, _ := twoSlots(t, "", "block "+boot.RecordFile)
	err := launch.Run(t.Context(), launch.Options{Dir: f.dir, HangTime: 200 * time.Millisecond, Stdout: io.Discard})
	if err == nil || !strings.Contains(err.Error(), boot.RecordFile) {
		t.Errorf("Run: %v", err)
	}
}

// An agent of which the end cannot be written down is started again all the same.
func TestEndThatCannotBeWritten(t *testing.T) {
	f, r := twoSlots(t, "block "+boot.EndedFile, "")
	f.write(r.Back(func(boot.Slot) boot.Condition { return boot.Good }, boot.Ending{}))
	var log bytes.Buffer
	l := startWith(t, launch.Options{Dir: f.dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	first := agentPID(t, l.line(t))
	if second := agentPID(t, l.line(t)); second == first {
		t.Error("it was not started again")
	}
	l.cancel()
	if err := <-l.done; err != nil || !strings.Contains(log.String(), "cannot be told") {
		t.Errorf("Run: %v, log:\n%s", err, &log)
	}
}

// Where the start of a trial cannot be counted it is not made.
func TestRecordThatCannotBeWritten(t *testing.T) {
	f, _ := twoSlots(t, "", "")
	if err := obstruct(f.dir, boot.RecordFile); err != nil {
		t.Fatal(err)
	}
	if err := launch.Run(t.Context(), launch.Options{Dir: f.dir}); err == nil || !strings.Contains(err.Error(), boot.RecordFile) {
		t.Errorf("Run: %v", err)
	}
}
