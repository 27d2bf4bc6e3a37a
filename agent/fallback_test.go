package agent

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/agent/identity"
	"ecowatt/agent/uplink"
	"ecowatt/internal/disk"
	"ecowatt/key"
	"ecowatt/wire"
)

// TestRestoredCloud: the cloud comes back from a backup made before the rotation.
// The device gets in with the key before, says so, and is given a new one.
//
// Attacks: K12
func TestRestoredCloud(t *testing.T) {
	for _, c := range []struct {
		name   string
		before bool // the first request under the new key is lost
		change func(r *rig)
		epoch  key.Epoch
		kept   string
		want   []string // what the requests told after the restore
	}{
		{
			name: "the key was committed", epoch: 3, kept: "3, before 2",
			want: []string{"under 1: 2", "under 3: 2, staged 3", "under 3: 3"},
		},
		{
			name: "the key was staged", before: true, epoch: 3, kept: "3, before 1",
			want: []string{"under 1: 1, staged 2", "under 3: 1, staged 3", "under 3: 3"},
		},
		{
			name: "the key was staged, and the operator orders another one of that epoch", before: true, epoch: 2, kept: "2, before 1",
			change: func(r *rig) { r.cloud.order(2, false) },
			want:   []string{"under 1: 1, staged 2", "under 2: 1, staged 2", "under 2: 2"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				factory := r.cloud.active()
				r.cloud.order(2, false)
				r.cloud.meddle = func(_ int, q wire.Request, _ []wire.Result) fate {
					if c.before && q.Epochs.Staged == 2 {
						return lost
					}
					return arrives
				}
				r.start()
				r.runFor(time.Hour)
				if want := map[bool]string{false: "2, before 1", true: "1, staged 2"}[c.before]; r.epochs() != want {
					t.Fatalf("the device keeps %s, want %s", r.epochs(), want)
				}
				r.cloud.restore(factory)
				r.cloud.locked(func() {
					r.cloud.requests, r.cloud.under, r.cloud.meddle = nil, nil, nil
					if c.change != nil {
						c.change(r)
					}
				})
				r.runFor(4 * time.Hour)
				r.on(c.epoch, c.kept)
				if diff := cmp.Diff(c.want, r.cloud.reported()); diff != "" {
					t.Errorf("epochs (-want +got):\n%s", diff)
				}
				r.plant.setSilent(true)
				r.runFor(time.Hour)
				r.check()
				if n := r.cloud.codes()["ROT_FALLBACK"]; n != 1 {
					t.Errorf("the fallback is told %d times", n)
				}
				r.stop()
			})
		})
	}
}

// TestSomebodyBlocksTheNewKey: on the way handshakes with the new key are refused
// with a forged ERR. The device goes on with the old one, says so, and neither
// loses anything nor takes the new key for lost.
//
// Attacks: K14
func TestSomebodyBlocksTheNewKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		var blocked atomic.Int32
		r.cloud.order(2, false)
		r.cloud.between = func(path string, msg []byte, ask func() (uplink.Reply, error)) (uplink.Reply, error) {
			if h, err := wire.ParseHeader(msg); path == wire.PathSession && err == nil && h.Epoch() == 2 {
				blocked.Add(1)
				return refuse(wire.CodeRefused)
			}
			return ask()
		}
		r.start()
		r.runFor(3 * time.Hour)
		ops, tried := slotWrites(r), blocked.Load()
		r.runFor(20 * time.Hour)
		if got := r.epochs(); got != "1, staged 2" {
			t.Errorf("the device keeps %s", got)
		}
		if slotWrites(r) != ops || blocked.Load() != tried {
			t.Errorf("in a session with the old key %d handshakes were tried, and slots written: %v", blocked.Load()-tried, slotWrites(r) != ops)
		}
		want := []string{"under 1: 1", "under 1: 1, staged 2"}
		if diff := cmp.Diff(want, r.cloud.reported()); diff != "" {
			t.Errorf("epochs (-want +got):\n%s", diff)
		}
		if n := r.cloud.codes()["ROT_FALLBACK"]; n != 1 {
			t.Errorf("the fallback is told %d times", n)
		}
		r.cloud.locked(func() { r.cloud.between = nil })
		r.runFor(6 * time.Hour) // until the session is a day old
		r.on(2, "2, before 1")
		r.plant.setSilent(true)
		r.runFor(time.Hour)
		r.check()
		r.stop()
	})
}

// TestRecovery: both slots are damaged and only the enrolment file is left. The
// device gets in when the operator opens a window, gets nothing but a new key, and
// then everything arrives.
//
// Attacks: K8
func TestRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := minutes(t)
		factory := *r.cloud.active()
		r.cloud.order(2, false)
		r.start()
		r.runFor(10 * time.Minute)
		r.on(2, "2, before 1")
		r.cloud.setAway(true)
		r.runFor(time.Hour)
		r.stop()
		for _, name := range []string{"keys/psk.a", "keys/psk.b"} {
			if err := disk.WriteFile(r.disk, name, []byte("damaged"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		folder := identity.Folder{FS: r.disk}
		if _, err := folder.Load(); !errors.Is(err, identity.ErrNoKey) {
			t.Fatalf("loaded: %v", err)
		}
		if err := folder.Enroll(identity.Enrolment{Device: "roof-1", CloudURL: "http://cloud", Credential: factory.Credential}); err != nil {
			t.Fatal(err)
		}
		r.cloud.setAway(false)
		r.start()
		requests := r.cloud.count()
		r.runFor(2 * time.Hour)
		if r.cloud.count() != requests {
			t.Error("the key of the enrolment was let in without a window")
		}
		r.cloud.locked(func() { r.cloud.window = true })
		r.runFor(2 * time.Hour)
		r.plant.setSilent(true)
		r.runFor(10 * time.Minute)
		r.on(3, "3, before 1")
		if r.cloud.window {
			t.Error("the window is still open")
		}
		r.check()
		rows := r.cloud.reported()
		if want := []string{"under 1: 1", "under 3: 1, staged 3", "under 3: 3"}; !slices.Equal(rows[len(rows)-3:], want) {
			t.Errorf("epochs %q, want at the end %q", rows, want)
		}
		r.stop()
	})
}

// TestRecoverySessionKeepsMessages: while the key cannot be written, a recovery
// session lasts, and nothing leaves the queue.
func TestRecoverySessionKeepsMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := minutes(t)
		r.cloud.locked(func() { r.cloud.find("active").state, r.cloud.window = "recovery", true })
		r.start()
		if r.status().Buffer.Messages == 0 {
			t.Fatal("nothing waits")
		}
		r.disk.SetCapacity(1)
		r.runFor(time.Hour)
		if n := r.cloud.count(); n < 50 || r.status().Buffer.Messages == 0 {
			t.Errorf("%d exchanges, %d messages wait", n, r.status().Buffer.Messages)
		}
		for _, q := range r.cloud.requests {
			if len(q.Messages) > 0 {
				t.Fatal("a message in a recovery session")
			}
		}
		r.disk.SetCapacity(0)
		r.runFor(5 * time.Minute)
		r.on(2, "2, before 1")
		if len(r.cloud.stock) != 1 {
			t.Errorf("%d inventories arrived", len(r.cloud.stock))
		}
		r.stop()
	})
}
