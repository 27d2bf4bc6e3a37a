package gateway_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/registry"
	"ecowatt/wire"
)

// TestRotationRace: the first requests of a session with the old key and of one
// with the new key reach two replicas at the same time. Whichever handshake came
// first, one session is active in the end, under the one active key, and the
// device gets in with its newest key.
//
// Attacks: H14, K9
func TestRotationRace(t *testing.T) {
	const rounds = 100
	c := newCloud(t)
	other := c.replica()
	outcomes := map[string]int{}
	for n := range rounds {
		r := c.rotor(fmt.Sprintf("d%d", n))
		old := r.active
		c.order(r.name, registry.RotationRequest{})
		r.connect()
		r.talk()
		oldFirst := n%2 == 0
		made := map[bool]request{}
		for _, isOld := range []bool{oldFirst, !oldFirst} {
			k := *r.staged
			if isOld {
				k = old
			}
			r.with(k).connect()
			made[isOld] = r.seal(r.request())
		}
		var wait sync.WaitGroup
		var withOld, withNew reply
		wait.Go(func() { withOld = r.at(c).send(made[true]) })
		wait.Go(func() { withNew = r.at(other).send(made[false]) })
		wait.Wait()

		outcome := fmt.Sprintf("old handshake first %v: old %d, new %d", oldFirst, withOld.status, withNew.status)
		outcomes[outcome]++
		committed := withNew.status == http.StatusOK
		switch {
		case oldFirst && !committed:
			t.Errorf("%s: an older handshake displaced the newer one", outcome)
		case !oldFirst && committed == (withOld.status == http.StatusOK):
			t.Errorf("%s: want one of them", outcome)
		case committed:
			c.holds(r.name, "1 recovery 72, 2 active 72")
		default:
			c.holds(r.name, "1 active 72, 2 pending 72")
		}
		active := c.rows(`SELECT s.epoch, k.state FROM session s JOIN device d ON d.id = s.device JOIN device_key k ON k.device = d.id AND k.epoch = s.epoch
			WHERE d.name = $1 AND s.state = 'active'`, r.name)
		epoch := 1
		if committed {
			epoch = 2
		}
		if diff := cmp.Diff([]string{fmt.Sprintf("[%d active]", epoch)}, active); diff != "" {
			t.Errorf("%s: active sessions (-want +got):\n%s", outcome, diff)
		}
		if n := len(c.rows(`SELECT 1 FROM session s JOIN device d ON d.id = s.device WHERE d.name = $1 AND s.epoch < $2`, r.name, epoch)); n != 0 {
			t.Errorf("%s: %d sessions of an earlier key live on", outcome, n)
		}
		r.with(r.newest()).connect()
		r.talk()
		c.holds(r.name, "1 recovery 72, 2 active 72")
		if t.Failed() {
			break
		}
	}
	t.Log(outcomes)
}

// TestOrderRace: however many people order a rotation at once, at whatever
// replica, there is one.
func TestOrderRace(t *testing.T) {
	c := newCloud(t)
	other := c.replica()
	for n := range 20 {
		name := fmt.Sprintf("d%d", n)
		c.add(name)
		var wait sync.WaitGroup
		got := make([]registry.Rotation, 4)
		for i := range got {
			replica := []*cloud{c, other}[i%2]
			wait.Go(func() {
				var err error
				q := registry.RotationRequest{By: "ann", Burn: i == 3}
				got[i], err = replica.rotations().Order(t.Context(), ecowatt.DeviceID(name), q, c.time())
				if err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		for _, r := range got {
			if r.Epoch != 2 || !r.OfferFrom.Equal(c.time()) {
				t.Errorf("%+v", r)
			}
		}
		c.holds(name, "1 active 72, 2 pending 72")
		if rows := c.rows(`SELECT burn FROM device_key WHERE state = 'pending' AND burn = 0`); len(rows) != 0 {
			t.Error("the one that burns was lost")
		}
	}
}

// TestConcurrentCommit: copies of the first request with the new key, at two
// replicas, commit once.
func TestConcurrentCommit(t *testing.T) {
	c := newCloud(t)
	other := c.replica()
	for n := range 20 {
		r := c.rotor(fmt.Sprintf("d%d", n))
		c.order(r.name, registry.RotationRequest{})
		r.connect()
		r.talk()
		r.with(*r.staged).connect()
		x := r.seal(r.request())
		var wait sync.WaitGroup
		got := make([]reply, 4)
		for i := range got {
			replica := []*cloud{c, other}[i%2]
			wait.Go(func() { got[i] = r.at(replica).send(x) })
		}
		wait.Wait()
		accepted := 0
		for _, g := range got {
			if g.status == http.StatusOK {
				accepted++
				r.take(r.opened(x, g))
			} else {
				c.refused(g, "a copy")
			}
		}
		if accepted != 1 {
			t.Errorf("%d copies were accepted", accepted)
		}
		c.wait(time.Second)
		other.wait(time.Second)
		r.talk()
		c.holds(r.name, "1 recovery 72, 2 active 72")
		committed := 0
		for _, x := range c.audit(r.name) {
			if x.Attrs["reason"] == string(wire.RotationCommitted) {
				committed++
			}
		}
		if committed != 1 {
			t.Errorf("told %d times", committed)
		}
	}
}
