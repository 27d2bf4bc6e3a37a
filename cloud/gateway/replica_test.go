package gateway_test

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"ecowatt/wire"
)

// replica starts another cloud over the same database and key ring, whose clock
// shows the same time. Nothing else is shared.
func (c *cloud) replica() *cloud {
	c.t.Helper()
	r := &cloud{t: c.t, path: c.path, ring: &countingRing{Ring: c.ring.Ring}, random: &countingReader{}}
	r.now.Store(c.now.Load())
	r.open()
	c.t.Cleanup(func() { r.stop() })
	return r
}

// at is the device as it talks to another replica: its session comes along.
func (d *device) at(c *cloud) *device {
	other := *d
	other.cloud = c
	return &other
}

// TestReplicasReplay: what one replica accepted no other one accepts.
//
// Attacks: R1, R3, H5
func TestReplicasReplay(t *testing.T) {
	c := newCloud(t)
	other := c.replica()
	d := c.add("roof-1")
	i, hs1 := d.hello()
	d.finish(i, c.post(wire.PathSession, hs1))
	first := d.seal(wire.Request{Messages: []wire.Message{d.block(start, 1, 1)}})
	d.opened(first, d.at(other).send(first)) // the session was made elsewhere
	second := d.seal(wire.Request{Messages: []wire.Message{d.block(start.Add(time.Minute), 1, 2)}})
	d.opened(second, d.send(second))

	for _, replica := range []*cloud{c, other} {
		replica.unchanged("a replay at another replica", func() {
			for _, r := range []request{first, second} {
				replica.refused(d.at(replica).send(r), "a replay")
			}
		})
	}
	other.random.bytes.Store(0)
	other.unchanged("a replayed handshake at another replica", func() { other.refused(other.post(wire.PathSession, hs1), "the same HS1") })
	if n := other.random.bytes.Load(); n != 0 {
		t.Errorf("%d random bytes were drawn for a replay", n)
	}
	c.counted(map[wire.Reason]uint64{wire.ExchangeReplay: 2})
	other.counted(map[wire.Reason]uint64{wire.ExchangeReplay: 2, wire.HandshakeReplay: 1})
	if got := d.samples(); len(got) != 2 {
		t.Errorf("samples %v", got)
	}
	d.at(other).exchange(wire.Request{})
}

// TestReplicasShareHandshakes: the same HS1 at two replicas makes one session,
// and both send the same HS2.
//
// Attacks: H4
func TestReplicasShareHandshakes(t *testing.T) {
	c := newCloud(t)
	other := c.replica()
	for n := range 10 {
		d := c.add(fmt.Sprintf("roof-%d", n))
		i, hs1 := d.hello()
		replies := make([]reply, 4)
		var wait sync.WaitGroup
		for k := range replies {
			wait.Go(func() { replies[k] = []*cloud{c, other}[k%2].post(wire.PathSession, hs1) })
		}
		wait.Wait()
		for _, r := range replies {
			if r.status != http.StatusOK || !bytes.Equal(r.body, replies[0].body) {
				t.Fatalf("%v and %v", r, replies[0])
			}
		}
		d.finish(i, replies[1])
		d.exchange(wire.Request{})
	}
	if got := c.rows(`SELECT DISTINCT hs_no FROM session`); !slices.Equal(got, []string{"[1]"}) {
		t.Errorf("handshake numbers %v", got)
	}
}

// TestReplicasConcurrentCopies: of copies that reach two replicas at the same
// instant exactly one counts.
//
// Attacks: R2, O3
func TestReplicasConcurrentCopies(t *testing.T) {
	const rounds = 200
	c := newCloud(t)
	other := c.replica()
	d := c.add("roof-1")
	d.connect()
	for round := range rounds {
		r := d.seal(wire.Request{Messages: []wire.Message{d.block(start.Add(time.Duration(round)*time.Second), 1, int64(round))}})
		replies := make([]reply, 4)
		var wait sync.WaitGroup
		for i := range replies {
			wait.Go(func() { replies[i] = d.at([]*cloud{c, other}[i%2]).send(r) })
		}
		wait.Wait()
		accepted := 0
		for i, got := range replies {
			if got.status == http.StatusOK {
				accepted++
				d.opened(r, got)
				continue
			}
			c.refused(got, fmt.Sprintf("round %d, copy %d", round, i))
		}
		if accepted != 1 {
			t.Fatalf("round %d: %d copies were accepted", round, accepted)
		}
	}
	if got := d.samples(); len(got) != rounds {
		t.Errorf("%d samples, want %d", len(got), rounds)
	}
	if n := c.gateway.Counters()[wire.ExchangeReplay] + other.gateway.Counters()[wire.ExchangeReplay]; n != 3*rounds {
		t.Errorf("%d replays were counted, want %d", n, 3*rounds)
	}
}

// TestReplicasConfirmRace: whichever comes first, the newer session is the one
// that is active in the end.
//
// Attacks: H14
func TestReplicasConfirmRace(t *testing.T) {
	const rounds = 100
	c := newCloud(t)
	other := c.replica()
	for n := range rounds {
		d := c.add(fmt.Sprintf("roof-%d", n))
		d.connect()
		older := d.seal(wire.Request{})
		d.connect()
		newer := d.seal(wire.Request{})
		var wait sync.WaitGroup
		var first, second reply
		wait.Go(func() { first = d.at(c).send(older) })
		wait.Go(func() { second = d.at(other).send(newer) })
		wait.Wait()
		d.opened(newer, second)
		if first.status != http.StatusOK {
			c.refused(first, "the older one, later")
		}
		d.exchange(wire.Request{})
	}
	want := []string{fmt.Sprintf("[2 active %d]", rounds)}
	if got := c.rows(`SELECT DISTINCT hs_no, state, count(*) FROM session GROUP BY hs_no, state`); !slices.Equal(got, want) {
		t.Errorf("sessions %v, want %v", got, want)
	}
}
