package launch

import (
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"ecowatt/boot"
	"ecowatt/internal/disk"
)

// What watch makes of heartbeats and time, in a minute of its own.
func TestWatch(t *testing.T) {
	confirmed := boot.Initial()
	trial := confirmed.Try(boot.Image{SHA256: "0000000000000000000000000000000000000000000000000000000000000000", Size: 1})
	for name, c := range map[string]struct {
		record boot.Record // on the disk
		trial  bool        // when the agent was started
		beats  int         // one each second
		ends   time.Duration
		want   boot.Reason
		after  time.Duration
	}{
		"trial, healthy, ends":          {trial, true, 30, 20 * time.Second, "", 20 * time.Second},
		"trial, never a beat":           {trial, true, 0, time.Hour, boot.Hung, 10 * time.Second},
		"trial, stops beating":          {trial, true, 5, time.Hour, boot.Hung, 15 * time.Second},
		"trial, not confirmed":          {trial, true, 3600, time.Hour, boot.NotConfirmed, 40 * time.Second},
		"trial, confirmed meanwhile":    {confirmed, true, 3600, 50 * time.Second, "", 50 * time.Second},
		"confirmed, never a beat":       {confirmed, false, 0, time.Hour, "", time.Hour},
		"confirmed, stops beating":      {confirmed, false, 3, time.Hour, boot.Hung, 13 * time.Second},
		"confirmed, older than a trial": {confirmed, false, 3600, 50 * time.Second, "", 50 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			folder := disk.OS(t.TempDir())
			if err := c.record.Write(folder); err != nil {
				t.Fatal(err)
			}
			synctest.Test(t, func(t *testing.T) {
				l := launcher{Options: Options{HangTime: 10 * time.Second, TrialTime: 40 * time.Second}.checked(), folder: folder}
				beats, ended, killed := make(chan struct{}), make(chan struct{}), false
				go func() {
					for range c.beats {
						select {
						case <-time.After(time.Second):
						case <-ended:
							return
						}
						select {
						case beats <- struct{}{}:
						case <-ended:
							return
						}
					}
				}()
				timer := time.AfterFunc(c.ends, func() { close(ended) })
				began := time.Now()
				got := l.watch(beats, ended, c.trial, func() { killed = true })
				if after := time.Since(began); got != c.want || after != c.after || killed != (c.want != "") {
					t.Errorf("%q after %v, killed: %v; want %q after %v", got, after, killed, c.want, c.after)
				}
				if timer.Stop() {
					close(ended)
				}
				synctest.Wait()
			})
		})
	}
}

// Without a pipe for its heartbeats no agent is started.
func TestNoPipe(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 0, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	reason, detail, _ := launcher{}.run(t.Context(), boot.Initial())
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if reason != boot.NotStarted || !strings.Contains(detail, syscall.EMFILE.Error()) {
		t.Errorf("%s: %s", reason, detail)
	}
}

func TestTail(t *testing.T) {
	w := &tail{}
	for range 100 {
		if n, err := w.Write([]byte("0123456789")); n != 10 || err != nil {
			t.Fatal(n, err)
		}
	}
	if got := w.String(); len(got) != boot.MaxWords || got[boot.MaxWords-10:] != "0123456789" {
		t.Errorf("%d bytes: %q", len(got), got)
	}
	w.Write([]byte("\xff end"))
	if got := w.String(); got[len(got)-5:] != "9 end" {
		t.Errorf("bytes that are no text: %q", got)
	}
}
