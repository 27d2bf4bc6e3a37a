package store

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollout"
)

func TestReleases(t *testing.T) {
	s := newRolling(t, 1)
	got, err := s.Release(t.Context(), s.release.ID)
	if diff := cmp.Diff(s.release, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if added, err := s.AddRelease(t.Context(), s.release, Content{KEK: "other", Wrapped: make([]byte, 72)}); added || err != nil {
		t.Errorf("added again: %v, %v", added, err)
	}
	list, err := s.Releases(t.Context())
	if err != nil || len(list) != 1 {
		t.Error(len(list), err)
	}
	do(t, s.Store, func(tx *Tx) error {
		p, found, err := tx.OfferedRelease(s.release.ID)
		if !found || p.KEK != storedContent().KEK || !bytes.Equal(p.Envelope, s.release.Envelope) {
			t.Errorf("%v %+v", found, p)
		}
		return err
	})
	of := func(list []string, err error) bool { return err == nil && slices.Contains(list, storedContent().KEK) }
	backup, err := WriteBackup(t.Context(), s.path, filepath.Join(t.TempDir(), "backup"), noon)
	if !of(backup.KEKs, err) || !of(s.KEKs(t.Context())) {
		t.Errorf("nobody knows what wraps the key of the content: %+v, %v", backup, err)
	}
	r := s.mustCreate(1, nil)
	var used *rollout.InUseError
	if _, err := s.RemoveRelease(t.Context(), s.release.ID, "ada", noon); !errors.As(err, &used) || used.Rollout != r.ID {
		t.Errorf("removing what is needed: %v", err)
	}
	if err := s.OrderRollout(t.Context(), rollout.Instruction{ID: r.ID, Event: rollout.Abort, By: "ada", At: noon}); err != nil {
		t.Fatal(err)
	}
	s.advance(noon)
	removed, err := s.RemoveRelease(t.Context(), s.release.ID, "ada", noon)
	if err != nil || removed.Version != "1.4.0" {
		t.Error(removed.Version, err)
	}
	for name, err := range map[string]error{
		"read":   func() error { _, err := s.Release(t.Context(), s.release.ID); return err }(),
		"remove": func() error { _, err := s.RemoveRelease(t.Context(), s.release.ID, "ada", noon); return err }(),
		"use":    func() error { _, err := s.create(2, nil); return err }(),
	} {
		if !errors.Is(err, rollout.ErrNoRelease) {
			t.Errorf("%s what was removed: %v", name, err)
		}
	}
	if v := s.view(r, noon); v.Version != "1.4.0" {
		t.Error("the rollout went with it")
	}
}

// A rollout goes from stage to stage, and all that happens is kept and told.
func TestRolloutLife(t *testing.T) {
	s := newRolling(t, 30)
	r := s.mustCreate(1, func(spec *rollout.Spec) { spec.Stages = []rollout.Stage{{Count: 2}, {Percent: 100}} })
	at := func(hours int) time.Time { return noon.Add(time.Duration(hours) * time.Hour) }
	if v := s.view(r, noon); !cmp.Equal(v.Rollout, r) || v.All()[rollout.Waiting] != 30 {
		t.Errorf("%s\n%v", cmp.Diff(r, v.Rollout), v.All())
	}
	begun := s.advance(at(1))
	if len(begun) != 2 || s.demand(begun[0]) != r.Offer || r.Offer < int64(len(s.release.Envelope)) {
		t.Fatalf("%v have begun, demand %d of %d", begun, s.demand(begun[0]), r.Offer)
	}
	if again := s.advance(at(2)); len(again) != 0 {
		t.Errorf("%v have begun", again)
	}
	first := begun[0]
	s.move(first, at(2), func(u rollout.Update) (rollout.Update, bool) { return u.Sent(at(2)) })
	for _, phase := range []string{"downloading", "downloaded", "verified", "switching"} {
		s.reports(first, phase, "", at(3))
	}
	s.move(first, at(4), func(u rollout.Update) (rollout.Update, bool) {
		return u.Runs(rollout.Program{Image: s.release.Image, State: "trial"}, at(4))
	})
	if s.demand(first) != 1 {
		t.Errorf("on trial it is offered: %d", s.demand(first))
	}
	s.succeeds(first, at(5))
	if s.demand(first) != 0 {
		t.Errorf("done, and %d", s.demand(first))
	}
	if diff := cmp.Diff([]string{
		"due by rollouts", "offered by d", "downloading by d", "downloaded by d", "verified by d", "switching by d", "trial by d", "confirmed by d", "healthy by d",
	}, shorten(s.actions(first), string(first))); diff != "" {
		t.Error(diff)
	}
	list, err := s.Updates(t.Context(), r.ID, rollout.Filter{Phase: rollout.Healthy})
	if err != nil || len(list) != 1 || list[0].Device != first || !list[0].Times[rollout.Downloading].Equal(at(3)) || list[0].Stage != 1 || !list[0].Due.IsZero() {
		t.Errorf("%+v %v", list, err)
	}
	if begun := s.advance(at(6)); len(begun) != 0 {
		t.Errorf("%v have begun while one is under way", begun)
	}
	s.succeeds(begun[1], at(6))
	if begun := s.advance(at(8)); len(begun) != 28 {
		t.Errorf("%d have begun", len(begun))
	}
	v := s.view(r, at(8).Add(-time.Minute))
	if diff := cmp.Diff([]rollout.Tally{{rollout.Healthy: 2}, {rollout.Due: 28}}, v.ByStage); diff != "" || v.Stage != 2 || v.Recent != 1 {
		t.Error(diff, v.Stage, v.Recent)
	}
	for _, u := range s.due(r) {
		s.succeeds(u, at(9))
	}
	s.advance(at(11))
	if v := s.view(r, at(11)); v.State != rollout.Done || v.All()[rollout.Healthy] != 30 {
		t.Errorf("%s, %v", v.State, v.All())
	}
	if n := number(t, s.Store, `SELECT count(*) FROM rollout WHERE open = 1`); n != 0 {
		t.Error("it is still looked after")
	}
	var log []string
	for _, r := range records(t, s.Store, audit.Filter{Last: 1000}) {
		if r.Device == "" && r.Action[:8] == "rollout." {
			log = append(log, r.Action+" "+r.Attrs["stage"]+r.Attrs["devices"]+" by "+r.Actor.Name)
		}
	}
	if diff := cmp.Diff([]string{"rollout.created 30 by ada", "rollout.stage 1 by rollouts", "rollout.stage 2 by rollouts", "rollout.done  by rollouts"}, log); diff != "" {
		t.Error(diff)
	}
}

func shorten(actions []string, device string) (list []string) {
	for _, a := range actions {
		list = append(list, string(bytes.Replace([]byte(a), []byte("by "+device), []byte("by d"), 1)))
	}
	return list
}

func (s *rolling) due(r rollout.Rollout) (devices []ecowatt.DeviceID) {
	s.t.Helper()
	f := rollout.Filter{Phase: rollout.Due, Limit: 7}
	for {
		list, err := s.Updates(s.t.Context(), r.ID, f)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, u := range list {
			devices = append(devices, u.Device)
		}
		if len(list) < f.Limit {
			return devices
		}
		f.After = devices[len(devices)-1]
	}
}

// The rollout stops in the transaction in which one too many has failed, and those
// that have not come to their end are held up.
func TestRolloutStops(t *testing.T) {
	s := newRolling(t, 100)
	r := s.mustCreate(1, func(spec *rollout.Spec) {
		spec.Stages, spec.MaxFailed, spec.MinSample = []rollout.Stage{{Percent: 100}}, 10, 5
	})
	begun := s.advance(noon)
	for _, d := range begun[:18] {
		s.succeeds(d, noon)
	}
	s.reports(begun[20], "refused", "FW_DOWNGRADE", noon)
	s.reports(begun[21], "rolled_back", "crash", noon)
	if v := s.view(r, noon); v.State != rollout.Running {
		t.Fatalf("%s", v.State)
	}
	s.reports(begun[22], "refused", "no_space", noon.Add(time.Hour))
	v := s.view(r, noon)
	if v.State != rollout.Stopped || v.Code != "too_many_failed" || v.Text != "stage 1: 3 of 21 have failed" || !v.Since.Equal(noon.Add(time.Hour)) {
		t.Fatalf("%s %s %s", v.State, v.Code, v.Text)
	}
	do(t, s.Store, func(tx *Tx) error {
		u, found, err := tx.Update(s.rows[begun[30]])
		if !found || u.Rollout.Offers() {
			t.Error("it goes on")
		}
		return err
	})
	last := records(t, s.Store, audit.Filter{Last: 1})[0]
	if last.Action != "rollout.stopped" || last.Actor != rolloutDuty() || last.Attrs["code"] != "too_many_failed" {
		t.Errorf("%+v", last)
	}
	if s.advance(noon.Add(100 * time.Hour)); s.view(r, noon).All()[rollout.Overdue] != 0 {
		t.Error("deadlines have passed meanwhile")
	}
	order := func(e rollout.Event, hours int) error {
		return s.OrderRollout(t.Context(), rollout.Instruction{ID: r.ID, Event: e, By: "bob", At: noon.Add(time.Duration(hours) * time.Hour)})
	}
	if err := order(rollout.Pause, 100); err == nil {
		t.Error("what has stopped was paused")
	}
	if err := errors.Join(order(rollout.Resume, 101), order(rollout.Resume, 102)); err != nil {
		t.Fatal(err)
	}
	if v := s.view(r, noon); v.State != rollout.Running || v.Pardon != (rollout.Pardon{Failed: 3, Answered: 21}) || v.Rested != 100*time.Hour {
		t.Errorf("%+v", v.Rollout)
	}
	s.advance(noon.Add(123 * time.Hour))
	if v := s.view(r, noon); v.State != rollout.Running {
		t.Errorf("%s %s", v.State, v.Text)
	}
	// One after the other is silent until its deadline; enough of them, and it stops.
	s.advance(noon.Add(124 * time.Hour))
	v = s.view(r, noon)
	if v.State != rollout.Stopped || v.All()[rollout.Overdue] != 79 || v.All().Failed() != 82 {
		t.Errorf("%s %v", v.State, v.All())
	}
}

// An operator ends a rollout: who has not begun stays out, who is under way goes on
// or is let go, and a late word counts still.
func TestRolloutAborts(t *testing.T) {
	for _, finish := range []bool{false, true} {
		s := newRolling(t, 3*advanceSize)
		r := s.mustCreate(1, func(spec *rollout.Spec) { spec.Stages = []rollout.Stage{{Percent: 50}, {Percent: 100}} })
		begun := s.advance(noon)
		for i, phase := range []string{"offered", "downloading", "switching", "trial"} {
			s.reports(begun[i], phase, "", noon)
		}
		err := s.OrderRollout(t.Context(), rollout.Instruction{ID: r.ID, Event: rollout.Abort, Finish: finish, By: "ada", At: noon})
		if err != nil {
			t.Fatal(err)
		}
		s.advance(noon)
		want := rollout.Tally{rollout.Skipped: 3*advanceSize - 4, rollout.Withdrawn: 2, rollout.Switching: 1, rollout.Trial: 1}
		offered := int64(1)
		if finish {
			want = rollout.Tally{rollout.Skipped: 3*advanceSize - 4, rollout.Offered: 1, rollout.Downloading: 1, rollout.Switching: 1, rollout.Trial: 1}
			offered = r.Offer
		}
		v := s.view(r, noon)
		if diff := cmp.Diff(want, v.All()); diff != "" || v.State != rollout.Aborted {
			t.Errorf("finish %v: %s %s", finish, v.State, diff)
		}
		if got := s.demand(begun[1]); got != offered {
			t.Errorf("finish %v: the demand is %d", finish, got)
		}
		s.succeeds(begun[1], noon) // it had everything
		s.advance(noon.Add(1000 * time.Hour))
		if v := s.view(r, noon); v.All()[rollout.Healthy] != 1 || v.All().Open() != 0 {
			t.Errorf("finish %v: %v", finish, v.All())
		}
		if n := number(t, s.Store, `SELECT count(*) FROM rollout WHERE open = 1`); n != 0 {
			t.Errorf("finish %v: it is still looked after", finish)
		}
		s.succeeds(begun[2], noon.Add(1001*time.Hour)) // it was given up
		if err := s.OrderRollout(t.Context(), rollout.Instruction{ID: r.ID, Event: rollout.Resume, By: "ada", At: noon}); !isTooLate(err) {
			t.Error(err)
		}
	}
}

func isTooLate(err error) bool {
	var late *rollout.TooLateError
	return errors.As(err, &late)
}

// A device that speaks after its rollout has been closed is looked after again.
func TestLateWordOpensRollout(t *testing.T) {
	s := newRolling(t, 2)
	r := s.mustCreate(1, func(spec *rollout.Spec) { spec.Stages, spec.MaxFailed = []rollout.Stage{{Percent: 100}}, 100 })
	begun := s.advance(noon)
	s.advance(noon.Add(24 * time.Hour))
	if v := s.view(r, noon); v.State != rollout.Done || s.demand(begun[0]) != 1 {
		t.Fatalf("%s, demand %d", v.State, s.demand(begun[0]))
	}
	s.move(begun[0], noon.Add(25*time.Hour), func(u rollout.Update) (rollout.Update, bool) {
		return u.Runs(rollout.Program{Image: s.release.Image, State: "confirmed"}, noon.Add(25*time.Hour))
	})
	if n := number(t, s.Store, `SELECT count(*) FROM rollout WHERE open = 1`); n != 1 {
		t.Error("nobody looks after it")
	}
	s.advance(noon.Add(50 * time.Hour))
	if v := s.view(r, noon); v.All()[rollout.Overdue] != 2 {
		t.Errorf("%v", v.All())
	}
}

// A device has one thing to do: the other rollout passes it over, until the first
// is over with it.
func TestOneRolloutForADevice(t *testing.T) {
	s := newRolling(t, 4)
	only := func(names ...ecowatt.DeviceID) func(*rollout.Spec) {
		return func(spec *rollout.Spec) {
			spec.Target, spec.Stages = rollout.Target{Devices: names}, []rollout.Stage{{Percent: 100}}
		}
	}
	first := s.mustCreate(1, only("d000", "d001"))
	second := s.mustCreate(2, only("d001", "d002"))
	if v := s.view(second, noon); v.Devices() != 1 || v.Skipped[rollout.Skipped] != 1 {
		t.Errorf("%+v", v)
	}
	if got := s.actions("d001"); !cmp.Equal(got, []string{"skipped by rollouts"}) {
		t.Error(got)
	}
	if _, err := s.create(3, only("d001")); !isInvalid(err) {
		t.Errorf("a rollout for nobody: %v", err)
	}
	if n := number(t, s.Store, `SELECT count(*) FROM rollout`); n != 2 {
		t.Errorf("%d rollouts", n)
	}
	s.advance(noon)
	s.advance(noon.Add(24 * time.Hour)) // both are silent
	third := s.mustCreate(4, only("d000", "d001", "d002"))
	if s.demand("d001") != 0 || third.Devices() != 3 {
		t.Errorf("%d, %d devices", s.demand("d001"), third.Devices())
	}
	s.advance(noon.Add(25 * time.Hour))
	s.succeeds("d001", noon.Add(26*time.Hour))
	for _, x := range []struct {
		r    rollout.Rollout
		want rollout.Tally
	}{{first, rollout.Tally{rollout.Overdue: 2}}, {third, rollout.Tally{rollout.Healthy: 1, rollout.Due: 2}}} {
		if diff := cmp.Diff(x.want, s.view(x.r, noon).All()); diff != "" {
			t.Error(diff)
		}
	}
}

func isInvalid(err error) bool {
	var invalid *rollout.InvalidError
	return errors.As(err, &invalid)
}

// What a device has become before its stage begins is seen then.
func TestBeginLooksAgain(t *testing.T) {
	s := newRolling(t, 3)
	r := s.mustCreate(1, func(spec *rollout.Spec) { spec.Stages = []rollout.Stage{{Percent: 100}} })
	s.runs(s.rows["d000"], 12, "confirmed")
	off := true
	if err := s.UpdateDevice(t.Context(), "d001", registry.Change{Disabled: &off}, audit.Actor{Kind: audit.Operator, Name: "ada"}, noon); err != nil {
		t.Fatal(err)
	}
	if begun := s.advance(noon); !cmp.Equal(begun, []ecowatt.DeviceID{"d002"}) {
		t.Error(begun)
	}
	list, err := s.Updates(t.Context(), r.ID, rollout.Filter{Phase: rollout.Skipped})
	if err != nil || len(list) != 2 || list[0].Code != rollout.CodeRuns || list[1].Code != rollout.CodeDisabled {
		t.Errorf("%+v %v", list, err)
	}
}

func TestRolloutErrors(t *testing.T) {
	s := newRolling(t, 1)
	if _, err := s.Rollout(t.Context(), rollout.ID{9}, noon); !errors.Is(err, rollout.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Updates(t.Context(), rollout.ID{9}, rollout.Filter{}); !errors.Is(err, rollout.ErrNotFound) {
		t.Error(err)
	}
	if err := s.OrderRollout(t.Context(), rollout.Instruction{ID: rollout.ID{9}, Event: rollout.Pause}); !errors.Is(err, rollout.ErrNotFound) {
		t.Error(err)
	}
	r := s.mustCreate(1, nil)
	if _, err := s.Updates(t.Context(), r.ID, rollout.Filter{After: "nobody"}); !errors.Is(err, registry.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.create(1, nil); err == nil {
		t.Error("two rollouts of one id")
	}
	list, err := s.Rollouts(t.Context(), 10, noon)
	if err != nil || len(list) != 1 || list[0].ID != r.ID {
		t.Error(len(list), err)
	}
	counts, err := s.RolloutCounts(t.Context())
	if diff := cmp.Diff(map[rollout.State]uint64{"running": 1, "paused": 0, "stopped": 0, "aborted": 0, "done": 0}, counts); err != nil || diff != "" {
		t.Error(err, diff)
	}
	phases, err := s.UpdateCounts(t.Context())
	if err != nil || len(phases) != len(rollout.Phases()) || phases[rollout.Waiting] != uint64(r.Devices()) || phases[rollout.Healthy] != 0 {
		t.Errorf("%v of %d devices, %v", phases, r.Devices(), err)
	}
}
