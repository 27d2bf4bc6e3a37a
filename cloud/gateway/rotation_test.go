package gateway_test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/cloud/registry"
	"ecowatt/wire"
)

// TestRotation follows the table of section 9 twice, so that a first key and a
// later one are replaced, and looks at both sides after every step.
//
// Attacks: K1, K4, K9
func TestRotation(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	r.begin()
	if a := r.talk(); a.KeyOffer != nil {
		t.Fatal("a key is offered that nobody ordered")
	}
	first := r.active

	c.order("d", registry.RotationRequest{})
	c.holds("d", "1 active 72, 2 pending 72")
	a := r.talk(r.block(start, 3, 1))
	if a.KeyOffer == nil || a.KeyOffer.Epoch != 2 || a.KeyOffer.Burn || a.Results[0].Status != wire.Stored {
		t.Fatalf("step 1: %+v", a)
	}
	if again := r.exchange(r.request()); again.KeyOffer == nil || again.KeyOffer.ID != a.KeyOffer.ID || !again.KeyOffer.Key.Equal(a.KeyOffer.Key) {
		t.Fatal("step 1: another answer does not bring the same offer")
	}
	c.holds("d", "1 active 72, 2 pending 72")

	old := r.Secrets
	if w := r.begin(); w.Flags != 0 {
		t.Errorf("step 3: flags %d", w.Flags)
	}
	c.holds("d", "1 active 72, 2 pending 72")
	if a := r.talk(); a.KeyOffer != nil {
		t.Error("step 4: the key that is in use is offered")
	}
	c.holds("d", "1 recovery 72, 2 active 72")
	if n := len(c.rows(`SELECT 1 FROM session WHERE epoch = 1`)); n != 0 {
		t.Errorf("step 4: %d sessions of the epoch before live on", n)
	}
	now := r.Secrets
	r.Secrets = old
	c.refused(r.send(r.seal(wire.Request{})), "a request of the epoch before")
	r.Secrets = now
	r.refusedKey(first, wire.HandshakeOldEpoch, "the first key, once it is replaced")
	r.with(r.active)
	r.talk()

	second := r.active
	c.order("d", registry.RotationRequest{})
	r.rotate(3)
	c.holds("d", "1 recovery 72, 2 retired 0, 3 active 72")
	r.refusedKey(second, wire.HandshakeOldEpoch, "a later key, once it is replaced")
	r.refusedKey(first, wire.HandshakeOldEpoch, "the first key, two epochs on")
	if n := len(c.rows(`SELECT 1 FROM hs_seen WHERE epoch = 2`)); n != 0 {
		t.Errorf("%d handshakes with a destroyed key are remembered", n)
	}
	want := []string{
		"rotation.ordered by operator ann", "rotation.offered ROT_OFFERED by system rotation", "rotation.committed ROT_COMMITTED by device d",
	}
	if diff := cmp.Diff(append(want, want...), c.rotationLog("d")); diff != "" {
		t.Errorf("audit log (-want +got):\n%s", diff)
	}
	if x := c.record("d", "rotation.committed"); x.Attrs["epoch"] != "3" || x.Attrs["retired"] != "2" {
		t.Errorf("%+v", x)
	}
	if got := r.samples(); len(got) != 3 {
		t.Errorf("samples: %v", got)
	}
}

// TestRotationCrashes breaks the rotation at each of its steps: the answer is
// lost, the cloud is restarted, the device is restarted, or all of them. It ends
// at e+1 with everything done once.
//
// Attacks: K1, K3, K4, K6
func TestRotationCrashes(t *testing.T) {
	steps := []string{"ordered", "offered", "staged", "shaken hands", "committed", "told"}
	for broken := range steps {
		for _, how := range []string{"lost", "cloud restarts", "device restarts", "all"} {
			t.Run(fmt.Sprintf("%s, %s", steps[broken], how), func(t *testing.T) {
				c := newCloud(t)
				r := c.rotor("d")
				r.begin()
				r.talk()
				lost := func(step int) bool { return step == broken && (how == "lost" || how == "all") }
				after := func(step int) {
					if step != broken {
						return
					}
					if how == "cloud restarts" || how == "all" {
						c.restart()
					}
					if how == "device restarts" || how == "all" {
						r.begin()
					}
				}
				c.order("d", registry.RotationRequest{})
				after(0)
				if lost(1) {
					r.dropped()
				}
				after(1)
				r.talk()
				after(2)
				r.begin()
				if lost(3) { // the HS2: the device sends the same HS1 again
					i, hs1 := r.hello()
					r.wait(time.Minute)
					first := r.post(wire.PathSession, hs1)
					second := r.post(wire.PathSession, hs1)
					if !bytes.Equal(first.body, second.body) {
						t.Fatal("another HS2 for the same HS1")
					}
					r.finish(i, second)
				}
				after(3)
				if lost(4) {
					r.dropped()
				}
				after(4)
				r.talk()
				after(5)
				r.talk()
				if r.active.epoch != 2 || r.staged != nil {
					t.Errorf("the device is at %v, staged %v", r.active, r.staged)
				}
				c.holds("d", "1 recovery 72, 2 active 72")
				want := []string{
					"rotation.ordered by operator ann", "rotation.offered ROT_OFFERED by system rotation", "rotation.committed ROT_COMMITTED by device d",
				}
				if diff := cmp.Diff(want, c.rotationLog("d")); diff != "" {
					t.Errorf("audit log (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// TestRotationIsOneTransaction: a commit that fails leaves the key before in use.
//
// Attacks: K4
func TestRotationIsOneTransaction(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	c.order("d", registry.RotationRequest{})
	r.begin()
	r.talk()
	r.begin()
	c.exec(t, `CREATE TRIGGER broken BEFORE INSERT ON audit WHEN NEW.action = 'rotation.committed' BEGIN SELECT RAISE(ABORT, 'broken'); END`)
	x := r.seal(r.request())
	c.unchanged("a rotation that cannot be told of", func() { c.err(r.send(x), "it", wire.CodeUnavailable) })
	c.holds("d", "1 active 72, 2 pending 72")
	c.exec(t, `DROP TRIGGER broken`)
	r.take(r.opened(x, r.send(x)))
	c.holds("d", "1 recovery 72, 2 active 72")
}

// TestBurn: after a burn no key from before is left anywhere, the first one and
// what is kept of sessions included.
//
// Attacks: K13
func TestBurn(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	first := r.active
	c.order("d", registry.RotationRequest{})
	r.rotate(2)
	second := r.active
	wrapped := c.rows(`SELECT wrapped FROM device_key WHERE epoch < 3`)
	if r := c.order("d", registry.RotationRequest{}); r.Burn {
		t.Fatal("it burns, and nobody asked for it")
	}
	if r := c.order("d", registry.RotationRequest{Burn: true}); !r.Burn {
		t.Fatal("a pending rotation cannot be made to burn")
	}
	r.begin()
	if a := r.talk(); !a.KeyOffer.Burn {
		t.Error("the device is not told")
	}
	r.begin()
	r.talk()
	c.holds("d", "1 retired 0, 2 retired 0, 3 active 72")
	r.refusedKey(first, wire.HandshakeOldEpoch, "the first key, burned")
	r.refusedKey(second, wire.HandshakeOldEpoch, "the key before, burned")
	if err := c.openWindow("d", time.Hour); err == nil {
		t.Error("a window is opened for a key that is burned")
	}
	log := c.rotationLog("d")
	if !slices.Contains(log, "rotation.burned ROT_BURN by device d") {
		t.Errorf("audit log: %v", log)
	}
	c.stop() // which empties the write-ahead log
	file, err := os.ReadFile(c.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range wrapped {
		var key []byte
		if _, err := fmt.Sscanf(w, "[%x]", &key); err != nil || len(key) != 72 {
			t.Fatal(w, err)
		}
		if bytes.Contains(file, key) {
			t.Error("a destroyed key is in the file of the database")
		}
	}
}

// TestRotationIsStaggered: before its time a key is not offered, nor unwrapped.
func TestRotationIsStaggered(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	c.exec(t, `UPDATE device SET hs_rate = 0`)
	order := c.order("d", registry.RotationRequest{Over: 24 * time.Hour})
	at := order.OfferFrom
	if at.Before(start) || at.After(start.Add(24*time.Hour)) {
		t.Fatalf("offered from %v", at)
	}
	c.now.Store(at.Add(-2 * time.Minute).UnixMilli())
	if w := r.begin(); w.Flags != 0 {
		t.Errorf("flags %d before its time", w.Flags)
	}
	c.now.Store(at.Add(-time.Millisecond).UnixMilli())
	unwrapped := c.ring.unwrapped.Load()
	if a := r.talk(); a.KeyOffer != nil {
		t.Error("offered before its time")
	}
	if n := c.ring.unwrapped.Load() - unwrapped; n != 0 {
		t.Errorf("%d keys were unwrapped", n)
	}
	c.now.Store(at.UnixMilli())
	if w := r.begin(); w.Flags != wire.RotationPending {
		t.Errorf("flags %d at its time", w.Flags)
	}
	if a := r.talk(); a.KeyOffer == nil {
		t.Error("not offered at its time")
	}
}

// TestOfferHasRoom: results give way to an offer, the answer is never longer
// than the device takes, and an offer for which there is no room was not made.
func TestOfferHasRoom(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	r.begin()
	r.talk()
	c.order("d", registry.RotationRequest{})
	var messages []wire.Message
	for i := range 40 {
		messages = append(messages, r.block(start.Add(time.Duration(i)*time.Minute), 1, 1))
	}
	offered, with := 0, map[bool]int{}
	for limit := 1; limit <= 1600; limit++ {
		q := r.request(messages...)
		q.MaxAnswer = uint32(limit)
		x := r.seal(q)
		got := r.send(x)
		a := r.opened(x, got)
		if smallest := wire.AnswerOverhead + wire.PadUnit; len(got.body) > max(limit, smallest) {
			t.Fatalf("an answer of %d bytes to a device that takes %d", len(got.body), limit)
		}
		if a.KeyOffer == nil {
			if offered > 0 {
				t.Fatalf("offered at %d bytes, not at %d", offered, limit)
			}
			if len(a.Results) > 1 {
				t.Fatalf("%d results and no offer at %d bytes", len(a.Results), limit)
			}
			continue
		}
		if offered == 0 {
			offered = limit
			if log := c.rotationLog("d"); log[len(log)-1] != "rotation.offered ROT_OFFERED by system rotation" {
				t.Errorf("audit log: %v", log)
			}
		}
		with[len(a.Results) > 0]++
	}
	if offered == 0 || offered > 256 || with[true] == 0 {
		t.Errorf("first offered at %d bytes; %v answers with results", offered, with)
	}
	if n := strings.Count(strings.Join(c.rotationLog("d"), " "), "rotation.offered"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

// TestOfferOpensOnce: an old answer is nothing to a device, whatever it offers.
//
// Attacks: K10
func TestOfferOpensOnce(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	c.order("d", registry.RotationRequest{})
	r.begin()
	x := r.seal(r.request())
	old := r.send(x)
	r.opened(x, old)
	y := r.seal(r.request())
	if _, err := open(y, old); err == nil {
		t.Error("the answer to one request opens for the next")
	}
	r.take(r.opened(y, r.send(y)))
	r.begin()
	z := r.seal(r.request())
	if _, err := open(z, old); err == nil {
		t.Error("the answer of one session opens in the next")
	}
	c.refused(r.send(x), "the request again, for another answer")
}

// TestOfferThatCannotBeMade: a key that does not unwrap costs its device the
// offer, not the exchange, and is not told of as offered.
func TestOfferThatCannotBeMade(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	r.begin()
	r.talk()
	c.order("d", registry.RotationRequest{})
	whole := c.rows(`SELECT hex(wrapped) FROM device_key WHERE state = 'pending'`)[0]
	c.exec(t, `UPDATE device_key SET wrapped = zeroblob(72) WHERE state = 'pending'`)
	a := r.talk(r.block(start, 1, 1))
	if a.KeyOffer != nil || len(a.Results) != 1 || a.Results[0].Status != wire.Stored {
		t.Errorf("%+v", a)
	}
	if log := c.rotationLog("d"); len(log) != 1 {
		t.Errorf("audit log: %v", log)
	}
	if !strings.Contains(c.log.String(), "preparing a key for a device") {
		t.Error("nobody is told")
	}
	c.exec(t, `UPDATE device_key SET wrapped = unhex($1) WHERE state = 'pending'`, strings.Trim(whole, "[]"))
	if a := r.talk(); a.KeyOffer == nil {
		t.Error("not offered once it unwraps")
	}
}

// TestOfferIsTakenBack: between the look at a session and the commit, the
// rotation may be cancelled; then the answer does not carry a key that is gone.
func TestOfferIsTakenBack(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	r.begin()
	r.talk()
	c.order("d", registry.RotationRequest{})
	c.use(&beforeCommit{countingStore: countingStore{Store: storeOf(c), cloud: c}, do: func() {
		c.exec(t, `DELETE FROM device_key WHERE state = 'pending'`)
	}})
	if a := r.talk(); a.KeyOffer != nil {
		t.Error("a key is offered that is gone")
	}
	if log := c.rotationLog("d"); len(log) != 1 {
		t.Errorf("audit log: %v", log)
	}
}

// TestRequestWithoutSense: a request that is not understood has no effect but
// that of any first request, and its answer, which a device does not act on,
// offers nothing.
func TestRequestWithoutSense(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	r.begin()
	r.talk()
	c.order("d", registry.RotationRequest{})
	x := r.sealBody([]byte{0xff})
	if a := r.opened(x, r.send(x)); a.Failure == nil || a.KeyOffer != nil {
		t.Errorf("%+v", a)
	}
	r.talk()
	r.begin()
	x = r.sealBody([]byte{0xff})
	if a := r.opened(x, r.send(x)); a.Failure == nil {
		t.Errorf("%+v", a)
	}
	c.holds("d", "1 recovery 72, 2 active 72")
}

// TestKeysAreNotTold: what is offered is in no log and in no answer's clear.
//
// Attacks: A4
func TestKeysAreNotTold(t *testing.T) {
	c := newCloud(t)
	r := c.rotor("d")
	c.order("d", registry.RotationRequest{})
	r.begin()
	x := r.seal(r.request())
	got := r.send(x)
	r.take(r.opened(x, got))
	secret := r.staged.key.Secret()
	for what, text := range map[string]string{"the log": c.log.String(), "the database": c.dump(), "the answer": string(got.body)} {
		if strings.Contains(text, string(secret[:])) || strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", secret)) {
			t.Errorf("the key is in %s", what)
		}
	}
	if got.status != http.StatusOK {
		t.Error(got)
	}
}
