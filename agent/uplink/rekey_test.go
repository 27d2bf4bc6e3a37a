package uplink

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/key"
	"ecowatt/wire"
)

func TestRekey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := credential(t, 2)
		d := newDevice(t, func(o *Options, c *cloud) { c.keys[next.ID] = next.Key.NoisePSK(wire.Suite1) })
		d.good()
		first := d.active
		d.Rekey(next, &first)
		if d.Status().State != NoSession {
			t.Error("the session outlived the key")
		}
		d.good()
		if h, err := wire.ParseHeader(d.cloud.hs1s[1]); err != nil || h.Epoch() != 2 || h.KeyID() != next.ID {
			t.Errorf("the handshake was with %+v, %v", h, err)
		}
		// The cloud was restored to before the rotation: it knows the old key only.
		delete(d.cloud.keys, next.ID)
		clear(d.cloud.sessions)
		start := d.now()
		for d.now()-start < 3*time.Hour {
			if _, err := d.atNext(); err == nil {
				break
			}
		}
		if took := d.now() - start; !d.Status().Fallback || took < fallbackAge {
			t.Errorf("after %v: %+v", took, d.Status())
		}
		if h, err := wire.ParseHeader(d.cloud.hs1s[len(d.cloud.hs1s)-1]); err != nil || h.Epoch() != 1 {
			t.Errorf("the handshake was with %+v, %v", h, err)
		}
		if !strings.Contains(d.log.String(), codeFallback) {
			t.Error("the fallback is not in the log")
		}
	})
}

// TestDropFallback: a key that is gone is not tried, and the session goes on.
func TestDropFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := credential(t, 1)
		d := newDevice(t, func(o *Options, c *cloud) {
			o.Credential, o.Fallback = credential(t, 2), &before
			c.keys = map[key.ID]key.PSK{o.Credential.ID: o.Credential.Key.NoisePSK(wire.Suite1)}
		})
		d.good()
		d.DropFallback()
		d.good()
		if len(d.cloud.hs1s) != 1 {
			t.Error("the session ended")
		}
		d.cloud.keys = map[key.ID]key.PSK{before.ID: before.Key.NoisePSK(wire.Suite1)}
		clear(d.cloud.sessions)
		for start := d.now(); d.now()-start < 5*time.Hour; {
			if _, err := d.atNext(); err == nil {
				t.Fatal("an exchange with the key that was dropped")
			}
			if d.Status().Fallback {
				t.Fatal("the device takes its key for the one that was dropped")
			}
		}
		for _, hs1 := range d.cloud.hs1s {
			if h, err := wire.ParseHeader(hs1); err != nil || h.Epoch() != 2 {
				t.Errorf("a handshake with %+v, %v", h, err)
			}
		}
	})
}

// TestRecoverySession: the device knows of it while the request is built, and
// only as long as it lasts.
func TestRecoverySession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := credential(t, 9)
		d := newDevice(t, func(_ *Options, c *cloud) { c.flags = wire.RecoverySession | wire.RotationPending })
		d.cloud.keys[next.ID] = next.Key.NoisePSK(wire.Suite1)
		var told []bool
		build := func(room int) (wire.Request, error) {
			told = append(told, d.Status().Recovery)
			return d.build(room)
		}
		exchange := func() {
			t.Helper()
			time.Sleep(max(d.Next()-d.now(), 0))
			if _, err := d.Exchange(t.Context(), build); err != nil {
				t.Fatal(err)
			}
		}
		if d.Status().Recovery {
			t.Error("before the first session")
		}
		exchange()
		exchange()
		d.Rekey(next, nil)
		if d.Status().Recovery {
			t.Error("after the session has ended")
		}
		d.cloud.flags = wire.RotationPending
		exchange()
		if diff := cmp.Diff([]bool{true, true, false}, told); diff != "" {
			t.Errorf("told (-want +got):\n%s", diff)
		}
	})
}
