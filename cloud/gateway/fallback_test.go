package gateway_test

import (
	"fmt"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/cloud/registry"
	"ecowatt/cloud/session"
	"ecowatt/key"
	"ecowatt/wire"
)

// backup returns a function that puts the database back to what it is now, as
// from a backup: without sessions.
func (c *cloud) backup() (restore func()) {
	c.t.Helper()
	c.stop()
	file, err := os.ReadFile(c.path)
	if err != nil {
		c.t.Fatal(err)
	}
	c.open()
	return func() {
		c.t.Helper()
		c.stop()
		for _, beside := range []string{"-wal", "-shm"} {
			if err := os.RemoveAll(c.path + beside); err != nil {
				c.t.Fatal(err)
			}
		}
		if err := os.WriteFile(c.path, file, 0o600); err != nil {
			c.t.Fatal(err)
		}
		c.exec(c.t, `DELETE FROM session`)
		c.open()
	}
}

// fallBack shakes hands with the key before, as after three refusals over an hour.
func (r *rotor) fallBack() {
	r.t.Helper()
	r.wait(time.Hour)
	r.with(*r.fallback).connect()
}

// TestRestoredCloud: whatever moment the cloud is restored to, the device gets
// in, is given a key that it takes, and uses it.
//
// Attacks: K12
func TestRestoredCloud(t *testing.T) {
	for name, test := range map[string]struct {
		before func(c *cloud, r *rotor) // the moment of the backup
		more   bool                     // the device rotated twice since
		after  func(c *cloud, r *rotor) // what happens in the restored cloud before the device comes
		refuse bool                     // the device's newest key is not known any more
		keys   string                   // in the end
	}{
		"before the rotation was ordered": {
			refuse: true, keys: "1 recovery 72, 3 active 72",
		},
		"before it, and another one was ordered since": {
			after:  func(c *cloud, _ *rotor) { c.order("d", registry.RotationRequest{Burn: true}) },
			refuse: true, keys: "1 retired 0, 2 retired 0, 3 active 72",
		},
		"while the key was pending": {
			before: func(c *cloud, _ *rotor) { c.order("d", registry.RotationRequest{}) },
			keys:   "1 recovery 72, 2 active 72",
		},
		"while the key was pending, two rotations ago": {
			before: func(c *cloud, _ *rotor) { c.order("d", registry.RotationRequest{}) },
			more:   true, refuse: true, keys: "1 recovery 72, 2 retired 0, 4 active 72",
		},
		"after it was offered": {
			before: func(c *cloud, r *rotor) {
				c.order("d", registry.RotationRequest{})
				r.begin()
				r.dropped()
			},
			keys: "1 recovery 72, 2 active 72",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t)
			r := c.rotor("d")
			r.begin()
			r.talk()
			if test.before != nil {
				test.before(c, r)
			}
			restore := c.backup()
			c.order("d", registry.RotationRequest{})
			r.rotate(2)
			if test.more {
				c.order("d", registry.RotationRequest{})
				r.rotate(3)
			}
			restore()
			c.wait(time.Hour)
			if test.after != nil {
				test.after(c, r)
			}
			if test.refuse {
				r.goesBack()
			}
			r.begin()
			r.talk()
			c.holds("d", test.keys)
			if r.staged != nil {
				t.Errorf("staged: %v", r.staged)
			}
		})
	}
}

// goesBack goes the way of a device whose newest key the cloud does not know: it
// is offered a later one at once, and all that is told of.
func (r *rotor) goesBack() {
	r.t.Helper()
	r.refusedKey(r.active, wire.HandshakeUnknownID, "a key from after the backup")
	r.fallBack()
	a := r.talk(r.block(start, 1, 1))
	if a.KeyOffer == nil || a.KeyOffer.Epoch != r.active.epoch+1 || a.Results[0].Status != wire.Stored {
		r.t.Fatalf("the first answer to the device that went back: %+v", a)
	}
	x := r.record("d", "rotation.fallback")
	want := map[string]string{
		"reason": "ROT_FALLBACK", "epoch": fmt.Sprint(r.fallback.epoch), "active": fmt.Sprint(r.active.epoch), "staged": "0",
	}
	if diff := cmp.Diff(want, x.Attrs); diff != "" {
		r.t.Errorf("(-want +got):\n%s", diff)
	}
	if x := r.record("d", "rotation.ordered"); x.Actor.Name != "rotation" || x.Attrs["epoch"] != fmt.Sprint(r.active.epoch+1) {
		r.t.Errorf("%+v", x)
	}
	r.talk()
	if n := strings.Count(strings.Join(r.rotationLog("d"), " "), "rotation.fallback"); n != 1 {
		r.t.Errorf("one session is told of %d times", n)
	}
}

// TestForcedBack: somebody on the way who lets no handshake with the new key
// pass cannot lock the device out, nor keep it from the new key for ever.
//
// Attacks: K14
func TestForcedBack(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	c.order("d", registry.RotationRequest{})
	r.begin()
	r.talk()
	for range 3 {
		r.wait(time.Hour)
		r.with(r.active).connect() // no HS1 with r.staged arrives
		for range 3 {
			if a := r.talk(r.block(r.time(), 1, 1)); a.KeyOffer == nil || a.KeyOffer.ID != r.staged.id || a.Results[0].Status != wire.Stored {
				t.Fatalf("%+v", a)
			}
		}
	}
	want := []string{"rotation.ordered by operator ann", "rotation.offered ROT_OFFERED by system rotation"}
	for range 3 {
		want = append(want, "rotation.fallback ROT_FALLBACK by device d")
	}
	if diff := cmp.Diff(want, c.rotationLog("d")); diff != "" {
		t.Errorf("audit log (-want +got):\n%s", diff)
	}
	c.holds("d", "1 active 72, 2 pending 72")
	r.begin()
	r.talk()
	c.holds("d", "1 recovery 72, 2 active 72")
}

// TestReportsAreBounded: whoever has stolen a key cannot use up the epochs of
// its device by what he reports, after which it could not be burned.
func TestReportsAreBounded(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	for _, test := range []struct {
		active, staged key.Epoch
		back, renewed  bool
	}{
		{1, 0, false, false},
		{0, 0, false, false},
		{math.MaxUint32, 0, true, false},
		{1, math.MaxUint32, true, false},
		{session.MaxLead + 2, 0, true, false},
		{1, 2, true, true},
	} {
		before := len(c.rotationLog("d"))
		r.begin()
		a := r.exchange(wire.Request{Epochs: &wire.Epochs{Active: test.active, Staged: test.staged}})
		log := c.rotationLog("d")[before:]
		if (len(log) > 0) != test.back || (a.KeyOffer != nil) != test.renewed {
			t.Errorf("[%d, %d]: %v, offer %v", test.active, test.staged, log, a.KeyOffer)
		}
	}
	c.holds("d", "1 active 72, 3 pending 72")
}

// TestRenewalHasNoRoom: the key is made, and offered once there is room.
func TestRenewalHasNoRoom(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	r.begin()
	q := wire.Request{Epochs: &wire.Epochs{Active: 5}, MaxAnswer: 160}
	if a := r.exchange(q); a.KeyOffer != nil {
		t.Fatal("an offer in 160 bytes")
	}
	c.holds("d", "1 active 72, 6 pending 72")
	if a := r.exchange(wire.Request{Epochs: &wire.Epochs{Active: 5}}); a.KeyOffer == nil || a.KeyOffer.Epoch != 6 {
		t.Errorf("%+v", a)
	}
	if n := strings.Count(strings.Join(c.rotationLog("d"), " "), "rotation.offered"); n != 1 {
		t.Errorf("offered %d times", n)
	}
}

// TestRenewalLosesARace: when the keys are not what they were when the request
// was read, nothing is done about them, and the request stands.
func TestRenewalLosesARace(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	r.begin()
	var order registry.Rotation
	c.use(&beforeCommit{countingStore: countingStore{Store: storeOf(c), cloud: c}, do: func() { order = c.order("d", registry.RotationRequest{}) }})
	a := r.exchange(wire.Request{Epochs: &wire.Epochs{Active: 5}, Messages: []wire.Message{r.block(start, 1, 1)}})
	if a.KeyOffer != nil || a.Results[0].Status != wire.Stored {
		t.Errorf("%+v", a)
	}
	c.holds("d", "1 active 72, 2 pending 72")
	if order.Epoch != 2 || slices.Contains(c.actions("d"), "rotation.offered") {
		t.Errorf("%+v, %v", order, c.actions("d"))
	}
	r.begin() // and the next session finds it out
	if a := r.exchange(wire.Request{Epochs: &wire.Epochs{Active: 5}}); a.KeyOffer == nil || a.KeyOffer.Epoch != 6 {
		t.Errorf("%+v", a)
	}
	c.holds("d", "1 active 72, 2 retired 0, 6 pending 72")
}

// TestHeldBackBeyondRotation: handshakes and requests from before a rotation are
// nothing after it, in whatever order they come.
//
// Attacks: H5, H12, H13, K9
func TestHeldBackBeyondRotation(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	c.order("d", registry.RotationRequest{})
	r.begin()
	r.talk()
	old := r.active

	// Handshakes with either key, whose requests are held back. The one with the
	// old key comes last, so its number is the highest.
	r.wait(time.Minute)
	i, oldHS1 := r.with(old).hello()
	r.finish(i, r.post(wire.PathSession, oldHS1))
	early := r.seal(r.request())
	_, unsent := r.hello()
	r.with(*r.staged)
	i, hs1 := r.hello()
	r.finish(i, r.post(wire.PathSession, hs1))
	first := r.seal(r.request())
	next := r.Secrets
	r.wait(time.Second)
	i, lateHS1 := r.with(old).hello()
	r.finish(i, r.post(wire.PathSession, lateHS1))
	late := r.seal(r.request())

	// Half a rotation is none.
	c.holds("d", "1 active 72, 2 pending 72")
	r.with(*r.staged).Secrets = next
	r.take(r.opened(first, r.send(first)))
	c.holds("d", "1 recovery 72, 2 active 72")

	for what, x := range map[string]request{"the request of an earlier session": early, "that of a later one": late} {
		c.unchanged(what, func() { c.refused(r.send(x), what) })
	}
	for what, hs1 := range map[string][]byte{"an HS1 that was answered": oldHS1, "one that was answered later": lateHS1, "one that never arrived": unsent} {
		before := c.gateway.Counters()[wire.HandshakeOldEpoch]
		c.unchanged(what, func() { c.refused(r.post(wire.PathSession, hs1), what) })
		if n := c.gateway.Counters()[wire.HandshakeOldEpoch] - before; n != 1 {
			t.Errorf("%s: HS_OLD_EPOCH was counted %d times", what, n)
		}
	}
	before := c.gateway.Counters()[wire.HandshakeReplay]
	c.unchanged("the HS1 of the rotation", func() { c.refused(r.post(wire.PathSession, hs1), "the HS1 of the rotation") })
	if n := c.gateway.Counters()[wire.HandshakeReplay] - before; n != 1 {
		t.Errorf("HS_REPLAY was counted %d times", n)
	}
	if got := r.exchange(r.request()); got.Failure != nil {
		t.Error("the session of the rotation does not go on")
	}
}

// TestHalfARotation: a handshake with the new key is not its use. It ends by
// itself, and the device goes on with the key that it has.
//
// Attacks: H12
func TestHalfARotation(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	c.order("d", registry.RotationRequest{})
	r.begin()
	r.talk()
	active := r.Secrets
	seq := r.seq
	_, hs1 := r.with(*r.staged).hello()
	r.wait(time.Minute)
	if got := r.post(wire.PathSession, hs1); got.status != http.StatusOK {
		t.Fatal(got)
	}
	r.with(r.active)
	r.Secrets, r.seq = active, seq
	r.exchange(r.request())
	c.wait(session.PendingTime)
	c.holds("d", "1 active 72, 2 pending 72")
	c.refused(r.post(wire.PathSession, hs1), "the HS1 again, after its session has waited")
	r.exchange(r.request())
}
