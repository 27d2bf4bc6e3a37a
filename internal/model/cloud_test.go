package model

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/gateway"
	"ecowatt/cloud/keyring"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/session"
	"ecowatt/cloud/store"
	"ecowatt/wire"
)

// maxSkew is how wrong the clock of a replica may be.
const maxSkew = 2 * time.Second

// sinceBubbles is how long ago the clock of a bubble begins: in 2000, when no
// telemetry is believed to be of.
const sinceBubbles = 26 * 365 * 24 * time.Hour

// trueTime is the time that everybody would know if clocks were perfect.
func trueTime() time.Time { return time.Now().Add(sinceBubbles).UTC() }

// cloud is two replicas over one database.
type cloud struct {
	w        *world
	database string
	ring     *keyring.Ring
	slot     time.Duration
	replicas [2]*replica
	backup   *backup // nil before one is made
}

// replica is one process of the cloud.
type replica struct {
	cloud   *cloud
	skew    time.Duration // of its clock
	store   *store.Store
	gateway *gateway.Gateway
	stop    func()

	meanwhile func()  // happens once, between what the next message reads and what it writes
	mishap    outcome // of its next write
}

// outcome is how a write ends.
type outcome int

const (
	durable  outcome = iota
	rejected         // nothing is done
	unknown          // all is done, and nobody is told
	twice            // it is done, undone and done again, as a unit beside another one that failed is
)

func (r *replica) now() time.Time { return trueTime().Add(r.skew) }

// start opens what is on the disk.
func (r *replica) start() {
	w := r.cloud.w
	s, err := store.Open(context.Background(), r.cloud.database, store.Options{Readers: 1})
	w.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = s.Run(ctx) }) // a store that does not run refuses every request
	r.store = s
	r.stop = func() {
		cancel()
		running.Wait()
		w.must(s.Close())
	}
	r.meanwhile, r.mishap = nil, durable
	r.gateway, err = gateway.New(gateway.Options{
		Store: unreliable{gateway.Of(s), r}, Keys: r.cloud.ring, Random: w.random, Now: r.now, Slot: r.cloud.slot,
		Logger: slog.New(slog.DiscardHandler),
	})
	w.must(err)
}

func (r *replica) restart() {
	r.stop()
	r.start()
}

// serve answers one message.
func (r *replica) serve(m message) answer {
	q := httptest.NewRequest(http.MethodPost, m.path, bytes.NewReader(m.bytes))
	q.Header.Set("Content-Type", wire.ContentType)
	a := httptest.NewRecorder()
	r.gateway.ServeHTTP(a, q)
	return answer{status: a.Code, body: a.Body.Bytes()}
}

// unreliable is a store whose writes end as the schedule wants it, and during
// which something else may happen.
type unreliable struct {
	gateway.Store
	replica *replica
}

var errUndone = errors.New("undone, to be done again")

// write is one write, by do. It takes what the schedule has for it.
func (u unreliable) write(do func() error) error {
	r := u.replica
	if meanwhile := r.meanwhile; meanwhile != nil {
		r.meanwhile = nil
		meanwhile()
	}
	mishap := r.mishap
	r.mishap = durable
	if mishap == rejected {
		return store.ErrUnavailable
	}
	err := do()
	if err == nil && mishap == unknown {
		return store.ErrUnavailable
	}
	return err
}

func (u unreliable) Commit(ctx context.Context, unit func(gateway.Tx) error) error {
	again := u.replica.mishap == twice
	return u.write(func() error {
		if again {
			err := u.Store.Commit(ctx, func(tx gateway.Tx) error { return errors.Join(unit(tx), errUndone) })
			if !errors.Is(err, errUndone) {
				return err
			}
		}
		return u.Store.Commit(ctx, unit)
	})
}

func (u unreliable) Establish(ctx context.Context, o session.Offer) (hs2 []byte, err error) {
	err = u.write(func() (err error) {
		hs2, err = u.Store.Establish(ctx, o)
		return err
	})
	return hs2, err
}

func (c *cloud) start() {
	for _, r := range c.replicas {
		r.start()
	}
}

func (c *cloud) stop() {
	for _, r := range c.replicas {
		r.stop()
	}
}

// operator is who orders things.
const operator = "ann"

// rotate orders a rotation, or changes one that is pending.
func (c *cloud) rotate(q registry.RotationRequest) {
	r := c.replicas[0]
	q.By = operator
	_, err := registry.NewRotations(r.store, c.ring, c.w.random).Order(context.Background(), c.w.device.name, q, r.now())
	c.w.must(err)
}

// cancel cancels a pending rotation, where that is still possible.
func (c *cloud) cancel() {
	r := c.replicas[0]
	err := r.store.CancelRotation(context.Background(), c.w.device.name, audit.Actor{Kind: audit.Operator, Name: operator}, r.now())
	if _, offered := errors.AsType[*registry.ConflictError](err); !offered && !errors.Is(err, registry.ErrNoRotation) {
		c.w.must(err)
	}
}

// admit opens a recovery window.
func (c *cloud) admit() {
	r := c.replicas[0]
	_, _, err := registry.NewRotations(r.store, c.ring, c.w.random).OpenRecovery(context.Background(), c.w.device.name, registry.MaxRecovery, operator, r.now())
	c.w.must(err)
}

// backup is a copy of the database, without sessions.
type backup struct {
	path string
	keys keyStates
}

// backUp makes a backup while everything runs.
func (c *cloud) backUp() {
	w := c.w
	path := filepath.Join(filepath.Dir(c.database), "backup")
	if c.backup != nil {
		w.must(os.Remove(path))
	}
	_, err := store.WriteBackup(context.Background(), c.database, path, trueTime())
	w.must(err)
	c.backup = &backup{path: path, keys: w.look().keys}
}

// restore goes back to the backup: everything since is forgotten.
func (c *cloud) restore() {
	w := c.w
	c.stop()
	w.observer.close()
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(c.database + suffix); !errors.Is(err, os.ErrNotExist) {
			w.must(err)
		}
	}
	_, err := store.CheckBackup(context.Background(), c.backup.path)
	w.must(err)
	w.must(copyFile(c.database, c.backup.path))
	w.must(store.Restore(context.Background(), c.database, trueTime()))
	c.start()
	w.observer = observe(w, c.database)
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}
