package cloud

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"ecowatt"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollout"
	"ecowatt/cloud/store"
)

// A stage that begins sends the answers that are held back for its devices.
func TestRollWakes(t *testing.T) {
	data := t.TempDir()
	c := start(t, Options{Data: data})
	if status, body := c.ask(http.MethodPut, "/api/v1/firmware/root", "application/cbor", vector(t, "root.cbor")); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	if status, body := c.push(vector(t, "release.ewfw")); status != http.StatusCreated {
		t.Fatalf("%d %s", status, body)
	}
	c.add("roof-1")
	c.stop()

	db, err := store.Open(t.Context(), filepath.Join(data, databaseFile), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran, rolled := make(chan error, 1), make(chan struct{})
	go func() { ran <- db.Run(ctx) }()
	now := time.Now()
	id, err := rollout.NewID(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Commit(ctx, func(tx *store.Tx) error {
		_, err := tx.Report(1, registry.Report{
			At: now, Inventory: &registry.Inventory{ReportedAt: now, Hardware: "gw-1"}, Firmware: &registry.Firmware{Release: 11, State: "confirmed", Version: "1.3.0"},
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	releases, err := db.Releases(ctx)
	if err != nil || len(releases) != 1 {
		t.Fatal(releases, err)
	}
	spec := rollout.Spec{
		Release: releases[0].ID, Stages: []rollout.Stage{{Count: 1}}, Soak: rollout.DefaultSoak, Deadline: rollout.DefaultDeadline,
		MaxFailed: rollout.DefaultFailed, MinSample: rollout.DefaultSample,
	}
	if _, err := db.CreateRollout(ctx, rollout.Order{ID: id, Spec: spec, By: "anna", At: now}, releases[0], nil); err != nil {
		t.Fatal(err)
	}

	woken := make(chan ecowatt.DeviceID, 1)
	s := &server{db: db, logger: slog.New(slog.DiscardHandler), wake: func(id ecowatt.DeviceID) { woken <- id }}
	go func() {
		defer close(rolled)
		s.roll(ctx)
	}()
	select {
	case id := <-woken:
		if id != "roof-1" {
			t.Errorf("%s is woken", id)
		}
	case <-time.After(time.Minute):
		t.Error("nobody is woken")
	}
	cancel()
	<-rolled
	if err := <-ran; err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
