package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollout"
)

// release is that of the vectors: number 12, for gw-1 and gw-2, from 7 on.
func release(tb testing.TB) rollout.Release {
	tb.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("..", "..", "firmware", "testdata", name))
		if err != nil {
			tb.Fatal(err)
		}
		return b
	}
	roots, err := rollout.ReadRoots([][]byte{read("root.cbor")})
	if err != nil {
		tb.Fatal(err)
	}
	r, _, err := rollout.Receive(bytes.NewReader(read("release.ewfw")), roots, func(_ rollout.File, content io.Reader) error {
		_, err := io.Copy(io.Discard, content)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	r.AddedAt, r.AddedBy = noon, "ada"
	return r
}

func storedContent() Content { return Content{KEK: "00112233445566ff", Wrapped: make([]byte, 72)} }

// rolling is a store with a release and a fleet that may get it.
type rolling struct {
	*Store
	t       *testing.T
	path    string
	release rollout.Release
	rows    map[ecowatt.DeviceID]int64
}

func newRolling(t *testing.T, devices int) *rolling {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ecowatt.db")
	s := &rolling{Store: openAt(t, path, Options{}), t: t, path: path, release: release(t), rows: map[ecowatt.DeviceID]int64{}}
	if added, err := s.AddRelease(t.Context(), s.release, storedContent()); err != nil || !added {
		t.Fatal(added, err)
	}
	for n := range devices {
		s.addDevice(fmt.Sprintf("d%03d", n))
	}
	return s
}

func (s *rolling) addDevice(name string) {
	s.t.Helper()
	row := add(s.t, s.Store, name)
	s.rows[ecowatt.DeviceID(name)] = row
	s.runs(row, 11, "confirmed")
	do(s.t, s.Store, func(tx *Tx) error {
		_, err := tx.Report(row, registry.Report{At: noon, Inventory: &registry.Inventory{AgentVersion: "1.3.0", Hardware: "gw-1"}})
		return err
	})
}

func (s *rolling) runs(row int64, release uint64, state string) {
	s.t.Helper()
	do(s.t, s.Store, func(tx *Tx) error {
		_, err := tx.Report(row, registry.Report{At: noon, Firmware: &registry.Firmware{Release: release, State: state, Version: "1.3.0"}})
		return err
	})
}

func (s *rolling) create(id byte, change func(*rollout.Spec)) (rollout.Rollout, error) {
	s.t.Helper()
	spec := rollout.Spec{
		Release: s.release.ID, Stages: rollout.DefaultStages(), Soak: time.Hour, Deadline: 24 * time.Hour, MaxFailed: 2, MinSample: 10,
		Downgrades: [][]byte{{1, 2}}, Target: rollout.Target{Group: "north"},
	}
	if change != nil {
		change(&spec)
	}
	return s.CreateRollout(s.t.Context(), rollout.Order{ID: rollout.ID{id}, Spec: spec, By: "ada", At: noon}, s.release, nil)
}

func (s *rolling) mustCreate(id byte, change func(*rollout.Spec)) rollout.Rollout {
	s.t.Helper()
	r, err := s.create(id, change)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// advance does all that is to be done by then, and returns who has begun.
func (s *rolling) advance(at time.Time) (begun []ecowatt.DeviceID) {
	s.t.Helper()
	for {
		done, err := s.AdvanceRollouts(s.t.Context(), at)
		if err != nil {
			s.t.Fatal(err)
		}
		if len(done.Begun) > advanceSize {
			s.t.Errorf("%d devices in one transaction", len(done.Begun))
		}
		if begun = append(begun, done.Begun...); !done.More {
			return begun
		}
	}
}

// move lets something happen to the update of a device.
func (s *rolling) move(device ecowatt.DeviceID, at time.Time, change func(rollout.Update) (rollout.Update, bool)) {
	s.t.Helper()
	do(s.t, s.Store, func(tx *Tx) error {
		u, found, err := tx.Update(s.rows[device])
		if err != nil || !found {
			return errors.Join(err, fmt.Errorf("%s has no update", device))
		}
		next, moved := change(u)
		if !moved {
			return fmt.Errorf("%s stays %s", device, u.Phase)
		}
		return tx.MoveUpdate(s.rows[device], next, audit.Actor{Kind: audit.Device, Name: string(device)}, at)
	})
}

func (s *rolling) reports(device ecowatt.DeviceID, phase, code string, at time.Time) {
	s.t.Helper()
	s.move(device, at, func(u rollout.Update) (rollout.Update, bool) {
		u, moved, _ := u.Reported(rollout.Report{Release: s.release.ID, Phase: phase, Code: code, Text: "as told", Done: 1, All: 2}, at)
		return u, moved
	})
}

// succeeds lets a device confirm and be healthy.
func (s *rolling) succeeds(device ecowatt.DeviceID, at time.Time) {
	s.t.Helper()
	s.move(device, at, func(u rollout.Update) (rollout.Update, bool) {
		return u.Runs(rollout.Program{Image: s.release.Image, State: "confirmed"}, at)
	})
	s.move(device, at.Add(time.Hour), func(u rollout.Update) (rollout.Update, bool) { return u.Measured(at.Add(time.Hour), at.Add(time.Hour)) })
}

func (s *rolling) view(r rollout.Rollout, at time.Time) rollout.View {
	s.t.Helper()
	v, err := s.Rollout(s.t.Context(), r.ID, at)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// demand is what an exchange of the device is told.
func (s *rolling) demand(device ecowatt.DeviceID) int64 {
	s.t.Helper()
	return number(s.t, s.Store, `SELECT fw_open FROM device WHERE name = '`+string(device)+`'`)
}

func (s *rolling) actions(device ecowatt.DeviceID) (list []string) {
	s.t.Helper()
	for _, r := range records(s.t, s.Store, audit.Filter{Device: device, Last: 1000}) {
		if len(r.Action) > 7 && r.Action[:7] == "update." {
			list = append(list, r.Action[7:]+" by "+r.Actor.Name)
		}
	}
	return list
}
