package gateway_test

import (
	"context"
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/gateway"
	"ecowatt/cloud/keyring"
	"ecowatt/cloud/session"
	"ecowatt/cloud/store"
	"ecowatt/key"
	"ecowatt/wire"
)

// rotateKEK replaces the key-encryption key, to the end.
func (c *cloud) rotateKEK() {
	c.t.Helper()
	old := c.ring.Keys()
	k, err := keyring.Draw(rand.Reader, c.time())
	if err == nil {
		err = c.ring.Add(k)
	}
	if err == nil {
		err = c.ring.SetPrimary(k.ID)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	record := audit.Record{At: c.time(), Actor: audit.Actor{Kind: audit.Operator, Name: "ann"}, Action: "keyring.changed"}
	for after := ""; ; {
		done, err := c.store.Rewrap(c.t.Context(), store.RewrapOrder{Keys: c.ring.Ring, Primary: k.ID, After: after, Record: record})
		if err != nil {
			c.t.Fatal(err)
		}
		if after = done.Next; after == "" {
			break
		}
	}
	for _, o := range old {
		if err := c.store.CloseKEK(c.t.Context(), o.ID, record); err != nil {
			c.t.Fatal(err)
		}
		if err := c.ring.Remove(o.ID); err != nil {
			c.t.Fatal(err)
		}
	}
}

// meddledStore lets something happen once between the reading of a row and the
// use of what was read.
type meddledStore struct {
	gateway.Store
	once   sync.Once
	meddle func()
}

func (s *meddledStore) Session(ctx context.Context, sid [16]byte) (session.Session, error) {
	x, err := s.Store.Session(ctx, sid)
	s.once.Do(s.meddle)
	return x, err
}

func (s *meddledStore) Credential(ctx context.Context, id key.ID) (session.Credential, error) {
	x, err := s.Store.Credential(ctx, id)
	s.once.Do(s.meddle)
	return x, err
}

// TestRewrappedMeanwhile rotates the key-encryption key, to the end, in the one
// moment in which a message has been looked up and not yet opened.
//
// Attacks: K15
func TestRewrappedMeanwhile(t *testing.T) {
	c := newCloud(t)
	d, stranger := c.connected("roof"), c.add("barn")
	stranger.id[0]++
	meddled := func() {
		t.Helper()
		c.use(&meddledStore{Store: gateway.Of(c.store), meddle: c.rotateKEK})
	}
	meddled()
	d.exchange(wire.Request{})
	d.wait(time.Hour)
	meddled()
	d.connect()
	d.exchange(wire.Request{})

	// Nobody's key is in no row: it is made anew, once.
	meddled()
	for range 3 {
		_, hs1 := stranger.hello()
		c.random.bytes.Store(0)
		c.refused(c.post(wire.PathSession, hs1), "an unknown id")
	}
	if n := c.random.bytes.Load(); n != 0 {
		t.Errorf("an unknown id draws %d random bytes", n)
	}
	c.counted(map[wire.Reason]uint64{wire.HandshakeUnknownID: 3})
}

// TestRestoredBackup goes back to a backup: requests from before are refused,
// also those that it never saw; what a message did before it is known, and what
// came since is stored once more; devices shake hands again.
//
// Attacks: R13
func TestRestoredBackup(t *testing.T) {
	c := newCloud(t)
	d, other := c.connected("roof"), c.connected("barn")
	before, later := d.block(start, 1, 1), d.block(start.Add(time.Minute), 1, 2)
	d.say(before)
	recorded := []request{d.seal(wire.Request{Messages: []wire.Message{before}})}
	d.opened(recorded[0], d.send(recorded[0]))

	backup := filepath.Join(t.TempDir(), "backup")
	if _, err := store.WriteBackup(t.Context(), c.path, backup, c.time()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r := d.seal(wire.Request{Messages: []wire.Message{later}})
		d.opened(r, d.send(r))
		recorded = append(recorded, r)
	}
	unsent := d.seal(wire.Request{})

	c.stop()
	for _, beside := range []string{"", "-wal", "-shm"} {
		if err := os.RemoveAll(c.path + beside); err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.ReadFile(backup)
	if err == nil {
		err = os.WriteFile(c.path, file, 0o600)
	}
	if err == nil {
		err = store.Restore(t.Context(), c.path, c.time())
	}
	if err != nil {
		t.Fatal(err)
	}
	c.open()

	for _, r := range append(recorded, unsent) {
		c.unchanged("an old request", func() { c.refused(d.send(r), "an old request") })
	}
	for _, x := range []*device{d, other} {
		x.connect()
	}
	other.exchange(wire.Request{})
	var got []wire.Status
	for _, r := range d.say(before, later, later) {
		got = append(got, r.Status)
	}
	if want := []wire.Status{wire.Duplicate, wire.Stored, wire.Duplicate}; !slices.Equal(got, want) {
		t.Errorf("the messages are %v, want %v", got, want)
	}
	if want := []string{"12:00:00 pac=1", "12:01:00 pac=2"}; !slices.Equal(d.samples(), want) {
		t.Errorf("samples %v, want %v", d.samples(), want)
	}
	for _, r := range append(recorded, unsent) {
		if got := d.post(wire.PathExchange, r.bytes); got.status != http.StatusUnauthorized {
			t.Errorf("an old request, after the device is back: %v", got)
		}
	}
}
