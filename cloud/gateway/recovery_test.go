package gateway_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/cloud/registry"
	"ecowatt/wire"
)

// lost is a device that has rotated once and now has only its first key.
func (c *cloud) lost(name string) *rotor {
	c.t.Helper()
	r := c.rotor(name)
	first := r.active
	c.order(name, registry.RotationRequest{})
	r.rotate(2)
	return &rotor{device: r.device, active: first}
}

// TestRecovery: the first key lets a device in while a window is open, to be
// given the next key, and once.
//
// Attacks: K16
func TestRecovery(t *testing.T) {
	c := newCloud(t)
	r := c.lost("d")
	r.refusedKey(r.active, wire.HandshakeOldEpoch, "the first key, without a window")
	if err := c.openWindow("d", time.Hour); err != nil {
		t.Fatal(err)
	}
	c.holds("d", "1 recovery 72, 2 active 72, 3 pending 72")
	w := r.begin()
	if w.Flags != wire.RecoverySession|wire.RotationPending || w.Lifetime != time.Hour-time.Minute {
		t.Errorf("welcome: %+v", w)
	}
	m := r.block(start, 3, 1)
	for range 2 {
		q := r.request(m, r.logged(wire.LogEntry{At: 1, Code: "x"}))
		q.Firmware = &wire.Firmware{Release: 9, State: wire.FirmwareConfirmed, Version: "9"}
		a := r.exchange(q)
		if len(a.Results) != 0 || a.KeyOffer == nil || a.KeyOffer.Epoch != 3 || a.Failure != nil {
			t.Errorf("an answer of a recovery session: %+v", a)
		}
		r.take(a)
	}
	if len(r.samples()) != 0 || c.count("message") != 0 || c.count("boot") != 1 || slices.Contains(c.actions("d"), "firmware.reported") {
		t.Error("a recovery session stores something")
	}
	old := r.Secrets
	r.begin()
	if a := r.talk(m); a.Results[0].Status != wire.Stored {
		t.Errorf("recovered: %+v", a)
	}
	c.holds("d", "1 recovery 72, 2 retired 0, 3 active 72")
	now := r.Secrets
	r.Secrets = old
	c.refused(r.send(r.seal(wire.Request{})), "the recovery session, after it has served")
	r.Secrets = now
	r.refusedKey(*r.fallback, wire.HandshakeOldEpoch, "the first key, used twice")

	want := []string{
		"rotation.ordered by operator ann", "rotation.offered ROT_OFFERED by system rotation", "rotation.committed ROT_COMMITTED by device d",
		"rotation.ordered by operator ann", "recovery.opened by operator ann", "rotation.offered ROT_OFFERED by system rotation",
		"rotation.committed ROT_COMMITTED by device d", "recovery.closed by device d",
	}
	if diff := cmp.Diff(want, c.rotationLog("d")); diff != "" {
		t.Errorf("audit log (-want +got):\n%s", diff)
	}
	var recovery []string
	for _, x := range c.audit("d") {
		if x.Action == "session.confirmed" {
			recovery = append(recovery, x.Attrs["recovery"])
		}
	}
	if diff := cmp.Diff([]string{"", "", "true", ""}, recovery); diff != "" {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
}

// TestRecoveryEnds: with its window, whether by time or by hand, confirmed or
// not; and what is closed stays closed.
//
// Attacks: K16
func TestRecoveryEnds(t *testing.T) {
	for name, test := range map[string]struct {
		confirmed bool
		end       func(c *cloud)
	}{
		"by time, waiting": {false, func(c *cloud) { c.wait(30 * time.Second) }},
		"by time":          {true, func(c *cloud) { c.wait(30 * time.Second) }},
		"by hand, waiting": {false, func(c *cloud) { c.closeWindow("d") }},
		"by hand":          {true, func(c *cloud) { c.closeWindow("d") }},
		"by a new window that has ended": {true, func(c *cloud) {
			c.now.Add(-int64(time.Minute / time.Millisecond)) // the clock is put back
			if err := c.openWindow("d", time.Minute); err != nil {
				c.t.Fatal(err)
			}
			c.wait(time.Minute)
		}},
		"as the device is disabled": {true, func(c *cloud) { c.disable("d", true) }},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t)
			r := c.lost("d")
			if err := c.openWindow("d", 90*time.Second); err != nil {
				t.Fatal(err)
			}
			r.begin() // a minute later
			if test.confirmed {
				r.exchange(r.request())
			}
			test.end(c)
			x := r.seal(r.request())
			c.unchanged("a request of a recovery session that has ended", func() { c.refused(r.send(x), "it") })
			_, hs1 := r.hello()
			c.unchanged("a handshake after the window", func() { c.refused(r.post(wire.PathSession, hs1), "it") })
			c.holds("d", "1 recovery 72, 2 active 72, 3 pending 72")
		})
	}
}

// TestRecoveryIsNotNeeded: the device itself uses the pending key first, by the
// ordinary way, which closes the window.
func TestRecoveryIsNotNeeded(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	first := r.active
	c.order("d", registry.RotationRequest{})
	r.rotate(2)
	if err := c.openWindow("d", 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	thief := &rotor{device: &device{cloud: c, name: "d", boot: r.boot, up: r.up}, active: first}
	thief.begin()
	thief.talk()
	r.rotate(3)
	x := thief.seal(thief.request())
	c.refused(thief.send(x), "a recovery session after the window was closed")
	thief.refusedKey(first, wire.HandshakeOldEpoch, "the first key after the window was closed")
	if err := c.openWindow("d", time.Hour); err != nil {
		t.Errorf("another window: %v", err)
	}
}

// TestRecoveryOfADeviceThatIsDisabled: it stays out.
//
// Attacks: K16
func TestRecoveryOfADeviceThatIsDisabled(t *testing.T) {
	c := newCloud(t)
	r := c.lost("d")
	c.disable("d", true)
	if err := c.openWindow("d", time.Hour); err != nil {
		t.Fatal(err)
	}
	r.refusedKey(r.active, wire.HandshakeDisabled, "a disabled device, within its window")
	c.disable("d", false)
	c.wait(time.Minute)
	r.with(r.active).connect()
}

// TestNoRecovery: a first key that is in use, or burned, opens no window.
func TestNoRecovery(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	var conflict *registry.ConflictError
	if err := c.openWindow("d", time.Hour); !errors.As(err, &conflict) {
		t.Errorf("the first key is in use: %v", err)
	}
	c.order("d", registry.RotationRequest{Burn: true})
	r.rotate(2)
	if err := c.openWindow("d", time.Hour); !errors.As(err, &conflict) {
		t.Errorf("the first key is burned: %v", err)
	}
	c.holds("d", "1 retired 0, 2 active 72")
}
