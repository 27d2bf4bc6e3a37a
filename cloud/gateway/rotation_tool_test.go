package gateway_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/gateway"
	"ecowatt/cloud/registry"
	"ecowatt/key"
	"ecowatt/wire"
	"ecowatt/wire/record"
)

// credential is one key of a device.
type credential struct {
	id    key.ID
	epoch key.Epoch
	key   key.Device
}

// rotor is a device that does its half of a rotation (protocol, section 9).
type rotor struct {
	*device
	active   credential
	staged   *credential
	fallback *credential
}

func (c *cloud) rotor(name string) *rotor {
	c.t.Helper()
	d := c.add(name)
	return &rotor{device: d, active: credential{d.id, d.epoch, d.key}}
}

// newest is the key that it shakes hands with.
func (r *rotor) newest() credential {
	if r.staged != nil {
		return *r.staged
	}
	return r.active
}

// with makes it shake hands with that key from now on.
func (r *rotor) with(k credential) *rotor {
	r.id, r.epoch, r.key = k.id, k.epoch, k.key
	return r
}

func (r *rotor) request(messages ...wire.Message) wire.Request {
	e := &wire.Epochs{Active: r.active.epoch}
	if r.staged != nil {
		e.Staged = r.staged.epoch
	}
	return wire.Request{Epochs: e, Messages: messages}
}

// begin shakes hands with the newest key, a minute later than the last time.
func (r *rotor) begin() wire.Welcome {
	r.t.Helper()
	r.wait(time.Minute)
	return r.with(r.newest()).connect()
}

// talk exchanges, and does with the answer what a device does.
func (r *rotor) talk(messages ...wire.Message) wire.Answer {
	r.t.Helper()
	a := r.exchange(r.request(messages...))
	r.take(a)
	return a
}

// take stages an offer, and makes the key of the session its active one.
func (r *rotor) take(a wire.Answer) {
	r.t.Helper()
	if r.staged != nil && r.epoch == r.staged.epoch && r.id == r.staged.id {
		before := r.active
		r.active, r.staged, r.fallback = *r.staged, nil, &before
	}
	o := a.KeyOffer
	if o == nil || r.staged != nil && r.staged.id == o.ID {
		return
	}
	if o.Epoch <= r.active.epoch || o.Key.IsZero() {
		r.t.Fatalf("a device with epoch %d must refuse the offer of epoch %d", r.active.epoch, o.Epoch)
	}
	r.staged = &credential{o.ID, o.Epoch, o.Key}
}

// rotate takes the device to the next epoch, which must be this one.
func (r *rotor) rotate(epoch key.Epoch) {
	r.t.Helper()
	r.begin()
	r.talk()
	r.begin()
	r.talk()
	if r.active.epoch != epoch || r.staged != nil {
		r.t.Fatalf("%s is at epoch %d, staged %v; want %d", r.name, r.active.epoch, r.staged, epoch)
	}
}

func (c *cloud) rotations() *registry.Rotations {
	return registry.NewRotations(c.store, c.ring, rand.Reader)
}

// order orders a rotation.
func (c *cloud) order(name string, q registry.RotationRequest) registry.Rotation {
	c.t.Helper()
	q.By = "ann"
	r, err := c.rotations().Order(c.t.Context(), ecowatt.DeviceID(name), q, c.time())
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// open opens a recovery window.
func (c *cloud) openWindow(name string, d time.Duration) error {
	_, _, err := c.rotations().OpenRecovery(c.t.Context(), ecowatt.DeviceID(name), d, "ann", c.time())
	return err
}

func (c *cloud) closeWindow(name string) {
	c.t.Helper()
	if err := c.store.CloseRecovery(c.t.Context(), ecowatt.DeviceID(name), audit.Actor{Kind: audit.Operator, Name: "ann"}, c.time()); err != nil {
		c.t.Fatal(err)
	}
}

// keys returns the keys of a device, like "1 recovery 72", by epoch; the last
// number is the length of what is wrapped.
func (c *cloud) keys(name string) string {
	c.t.Helper()
	rows := c.rows(`SELECT k.epoch || ' ' || k.state || ' ' || coalesce(length(k.wrapped), 0) FROM device_key k JOIN device d ON d.id = k.device
		WHERE d.name = $1 ORDER BY k.epoch`, name)
	return strings.NewReplacer("[", "", "]", "").Replace(strings.Join(rows, ", "))
}

func (c *cloud) holds(name, want string) {
	c.t.Helper()
	if got := c.keys(name); got != want {
		c.t.Fatalf("keys of %s: %s; want %s", name, got, want)
	}
}

// rotationLog returns the records of a device's rotations, like
// "rotation.committed ROT_COMMITTED by device d".
func (c *cloud) rotationLog(name string) (out []string) {
	c.t.Helper()
	for _, r := range c.audit(name) {
		if strings.HasPrefix(r.Action, "rotation.") || strings.HasPrefix(r.Action, "recovery.") {
			words := slices.DeleteFunc([]string{r.Action, r.Attrs["reason"], "by", string(r.Actor.Kind), r.Actor.Name}, func(w string) bool { return w == "" })
			out = append(out, strings.Join(words, " "))
		}
	}
	return out
}

// refusedKey checks that a handshake with that key is refused for that reason,
// changes no row, and costs what any other does: one unwrapping, nothing on the
// curve.
func (r *rotor) refusedKey(k credential, reason wire.Reason, what string) {
	r.t.Helper()
	before, drawn, unwrapped := r.gateway.Counters()[reason], r.random.bytes.Load(), r.ring.unwrapped.Load()
	r.unchanged(what, func() {
		_, hs1 := r.with(k).hello()
		r.refused(r.post(wire.PathSession, hs1), what)
	})
	if n := r.gateway.Counters()[reason] - before; n != 1 {
		r.t.Errorf("%s: %s was counted %d times", what, reason, n)
	}
	if d, u := r.random.bytes.Load()-drawn, r.ring.unwrapped.Load()-unwrapped; d != 0 || u != 1 {
		r.t.Errorf("%s: %d random bytes and %d unwrappings", what, d, u)
	}
}

// dropped makes the exchange happen and loses the answer.
func (r *rotor) dropped() {
	r.t.Helper()
	x := r.seal(r.request())
	if got := r.send(x); got.status != http.StatusOK {
		r.t.Fatalf("request of %s: %v", r.name, got)
	}
}

func (k credential) String() string { return fmt.Sprintf("epoch %d", k.epoch) }

// open tries to open an answer as that to x.
func open(x request, got reply) ([]byte, error) {
	return record.OpenAnswer(x.keys.Keys, x.keys.SID, x.seq, x.mac, got.body)
}

func storeOf(c *cloud) gateway.Store { return gateway.Of(c.store) }

// beforeCommit does something once, before the next unit is committed.
type beforeCommit struct {
	countingStore
	do func()
}

func (s *beforeCommit) Commit(ctx context.Context, unit func(gateway.Tx) error) error {
	if do := s.do; do != nil {
		s.do = nil
		do()
	}
	return s.Store.Commit(ctx, unit)
}
