package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"ecowatt/agent"
	"ecowatt/cloud/gateway"
	"ecowatt/cloud/keyring"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/store"
)

// benchClock is the time of a measurement, on both sides.
type benchClock struct{ ns atomic.Int64 }

// bootTime is since when the device of a measurement runs.
const bootTime = time.Hour

func (c *benchClock) sinceBoot() time.Duration { return bootTime + time.Duration(c.ns.Load()) }

func (c *benchClock) set(sinceBoot time.Duration) { c.ns.Store(int64(sinceBoot - bootTime)) }

func (c *benchClock) wall() time.Time {
	return time.Date(2026, 6, 21, 11, 0, 0, 0, time.UTC).Add(c.sinceBoot())
}

// byteCount is what went over connections.
type byteCount struct{ up, down, handshakes atomic.Int64 }

func (c *byteCount) reset() {
	c.up.Store(0)
	c.down.Store(0)
	c.handshakes.Store(0)
}

// handler counts the handshakes that a gateway is asked for.
func (c *byteCount) handler(devices http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/session") {
			c.handshakes.Add(1)
		}
		devices.ServeHTTP(w, r)
	})
}

// benchCloud is the devices' endpoint of a cloud, with a database of its own.
type benchCloud struct {
	clock    *benchClock
	count    *byteCount
	url      string
	registry *registry.Registry
	stop     func() error
}

// startBenchCloud serves a cloud from a folder on an address of this machine.
func startBenchCloud(ctx context.Context, dir string, slot time.Duration, clock *benchClock) (*benchCloud, error) {
	ring, err := keyring.Create(filepath.Join(dir, "keyring.json"), rand.Reader)
	if err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, filepath.Join(dir, "bench.db"), store.Options{})
	if err != nil {
		return nil, err
	}
	devices, err := gateway.New(gateway.Options{
		Store: gateway.Of(db), Keys: ring, Random: rand.Reader, Now: clock.wall, Slot: slot, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	c := &benchCloud{
		clock: clock, count: &byteCount{}, url: "http://" + listener.Addr().String(), registry: registry.New(db, ring, rand.Reader),
	}
	commit, stopCommitting := context.WithCancel(context.WithoutCancel(ctx))
	committed, served := make(chan error, 1), make(chan error, 1)
	web := &http.Server{Handler: c.count.handler(devices), ReadHeaderTimeout: 10 * time.Second}
	go func() { committed <- db.Run(commit) }()
	go func() { served <- web.Serve(counted{listener, c.count}) }()
	c.stop = func() error {
		err := web.Close()
		if serving := <-served; !errors.Is(serving, http.ErrServerClosed) {
			err = errors.Join(err, serving)
		}
		stopCommitting()
		return errors.Join(err, <-committed, db.Close())
	}
	return c, nil
}

// enrol adds a device, and enrols it in a folder.
func (c *benchCloud) enrol(ctx context.Context, dir string) error {
	_, file, err := c.registry.Add(ctx, registry.Request{ID: "bench", CloudURL: c.url, By: "bench"}, c.clock.wall())
	if err != nil {
		return err
	}
	text, err := file.Encode()
	if err != nil {
		return err
	}
	defer clear(text)
	name := dir + ".json"
	if err := os.WriteFile(name, text, 0o600); err != nil {
		return err
	}
	if _, err := agent.Enroll(dir, name, ""); err != nil {
		return fmt.Errorf("enrolling the device: %w", err)
	}
	return nil
}
