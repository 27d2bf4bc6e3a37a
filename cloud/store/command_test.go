package store

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/command"
	"ecowatt/cloud/registry"
)

var bob = audit.Actor{Kind: audit.Operator, Name: "bob"}

func newCommand(n byte, device ecowatt.DeviceID) command.Command {
	return command.Command{
		ID: command.ID{n}, Device: device, By: "ada", Progress: command.Progress{State: command.Queued}, QueuedAt: noon, ExpiresAt: noon.Add(time.Hour),
		Task: command.Task{Action: command.SetPowerLimit, Inverter: "inv1", Percent: 33.5, Lease: time.Hour, OnEnd: command.Release},
	}
}

func enqueue(t *testing.T, s *Store, c command.Command, key string) command.Command {
	t.Helper()
	stored, err := s.Queue(t.Context(), c, key)
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

// What is stored is read again, by every way, and after the database was closed.
func TestCommandIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ecowatt.db")
	s := openAt(t, path, Options{})
	device := add(t, s, "roof")
	c := enqueue(t, s, newCommand(1, "roof"), "")
	c, _ = c.Sent(noon.Add(time.Second))
	do(t, s, func(tx *Tx) error { return tx.SaveCommand(device, c, bob, noon.Add(time.Second)) })
	c, _ = c.Reported(command.Report{Status: command.StatusExecuting, Code: "started"}, noon.Add(2*time.Second))
	do(t, s, func(tx *Tx) error { return tx.SaveCommand(device, c, bob, noon.Add(2*time.Second)) })
	check := func(s *Store) {
		t.Helper()
		got, err := s.Command(t.Context(), c.ID)
		if diff := cmp.Diff(c, got); err != nil || diff != "" {
			t.Error(err, diff)
		}
		list, err := s.Commands(t.Context(), "roof", command.Filter{})
		if diff := cmp.Diff([]command.Command{c}, list); err != nil || diff != "" {
			t.Error(err, diff)
		}
		do(t, s, func(tx *Tx) error {
			got, found, err := tx.Command(device, c.ID)
			if diff := cmp.Diff(c, got); !found || diff != "" {
				t.Error(found, diff)
			}
			return err
		})
		wantOpen := int64(0)
		if c.State.Open() {
			wantOpen = 1
		}
		if open := number(t, s, `SELECT cmd_open FROM device`); open != wantOpen {
			t.Errorf("%d are open", open)
		}
	}
	check(s)
	for _, r := range []command.Report{
		{Status: command.StatusFailed, Code: "not_taken", Text: "it was not", Value: 33.25, ExecutedAt: noon.Add(3 * time.Second)},
	} {
		c, _ = c.Reported(r, noon.Add(4*time.Second))
		do(t, s, func(tx *Tx) error { return tx.SaveCommand(device, c, bob, noon.Add(4*time.Second)) })
		check(s)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(openAt(t, path, Options{}))
}

// Numbers only grow, also where the clock goes back, and beyond those of a cloud
// whose backup was restored.
func TestCommandNumbers(t *testing.T) {
	s := open(t)
	add(t, s, "roof")
	last := int64(0)
	for i, at := range []time.Time{noon, noon, noon.Add(-time.Hour), noon.Add(time.Hour)} {
		c := newCommand(byte(i), "roof")
		c.QueuedAt = at
		c = enqueue(t, s, c, "")
		if c.Seq <= last {
			t.Errorf("%d follows %d", c.Seq, last)
		}
		last = c.Seq
	}
	if last != noon.Add(time.Hour).UnixMilli() {
		t.Errorf("the last is %d", last)
	}
}

// Many at once under one key queue one command.
func TestOneCommandPerKey(t *testing.T) {
	s := open(t)
	add(t, s, "roof")
	var (
		wait sync.WaitGroup
		mu   sync.Mutex
		ids  = map[command.ID]bool{}
	)
	for n := range byte(20) {
		wait.Go(func() {
			c, err := s.Queue(context.WithoutCancel(t.Context()), newCommand(n, "roof"), "key")
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			ids[c.ID] = true
		})
	}
	wait.Wait()
	if n := number(t, s, `SELECT count(*) FROM command`); n != 1 || len(ids) != 1 {
		t.Errorf("%d commands are stored, %d are answered", n, len(ids))
	}
	if n := number(t, s, `SELECT count(*) FROM audit WHERE action = 'command.queued'`); n != 1 {
		t.Errorf("%d records", n)
	}
}

func TestCommandErrors(t *testing.T) {
	s := open(t)
	add(t, s, "roof")
	if _, err := s.Queue(t.Context(), newCommand(1, "nobody"), ""); !errors.Is(err, registry.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Command(t.Context(), command.ID{9}); !errors.Is(err, command.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Order(t.Context(), command.ID{9}); !errors.Is(err, command.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Commands(t.Context(), "nobody", command.Filter{}); !errors.Is(err, registry.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.CancelCommand(t.Context(), command.ID{9}, bob, noon); !errors.Is(err, command.ErrNotFound) {
		t.Error(err)
	}
	// An order that cannot be stored whole is not stored at all.
	first, second := newCommand(1, "roof"), newCommand(2, "nobody")
	first.Order, second.Order = command.ID{7}, command.ID{7}
	o := command.Order{ID: command.ID{7}, Group: "north", Task: first.Task, By: "ada", At: noon, ExpiresAt: noon.Add(time.Hour), Outcomes: []command.Outcome{
		{Device: "roof", Command: &first}, {Device: "nobody", Command: &second},
	}}
	if _, err := s.Place(t.Context(), o, ""); !errors.Is(err, registry.ErrNotFound) {
		t.Error(err)
	}
	for _, table := range []string{"command", "command_order", "command_refusal"} {
		if n := number(t, s, `SELECT count(*) FROM `+table); n != 0 {
			t.Errorf("%d rows of %s", n, table)
		}
	}
	if open := number(t, s, `SELECT cmd_open FROM device`); open != 0 {
		t.Errorf("%d are open", open)
	}
}

// A device's last word cannot be overwritten, whoever tries.
func TestLastWordStays(t *testing.T) {
	s := open(t)
	device := add(t, s, "roof")
	c := enqueue(t, s, newCommand(1, "roof"), "")
	done, _ := c.Reported(command.Report{Status: command.StatusSucceeded}, noon)
	do(t, s, func(tx *Tx) error { return tx.SaveCommand(device, done, bob, noon) })
	late, _ := c.Lapse(noon.Add(24 * time.Hour))
	if err := s.write(t.Context(), func(tx *Tx) error { return tx.SaveCommand(device, late, bob, noon) }); err == nil {
		t.Error("it was")
	}
	if got, err := s.Command(t.Context(), c.ID); err != nil || got.State != command.Succeeded {
		t.Errorf("%+v, %v", got, err)
	}
}

// More commands than go in one transaction are given up, and only those that are
// due.
func TestLapse(t *testing.T) {
	s := open(t)
	add(t, s, "roof")
	for n := range byte(lapseSize + 10) {
		c := newCommand(n, "roof")
		if n%2 == 0 {
			c.ExpiresAt = noon.Add(2 * time.Hour)
		}
		enqueue(t, s, c, "")
	}
	for _, step := range []struct {
		at   time.Duration
		want uint64
	}{{time.Hour - time.Millisecond, 0}, {time.Hour, (lapseSize + 10) / 2}, {2 * time.Hour, lapseSize + 10}} {
		if err := s.LapseCommands(t.Context(), noon.Add(step.at)); err != nil {
			t.Fatal(err)
		}
		counts, err := s.CommandCounts(t.Context())
		want := map[command.State]uint64{
			"queued": lapseSize + 10 - step.want, "expired": step.want, "delivered": 0, "executing": 0, "succeeded": 0, "failed": 0, "cancelled": 0,
		}
		if diff := cmp.Diff(want, counts); err != nil || diff != "" {
			t.Error(step.at, err, diff)
		}
	}
	if open := number(t, s, `SELECT cmd_open FROM device`); open != 0 {
		t.Errorf("%d are open", open)
	}
}
