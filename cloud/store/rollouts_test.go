package store

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/rollout"
)

// Whatever devices do, however late, and whoever makes, pauses, resumes and aborts
// rollouts: each device has one thing to do, its row says so to its exchanges, the
// numbers of a rollout add up, none goes on with too many failures, none ends
// before its devices have, and the log has every step.
func TestAnyRollouts(t *testing.T) {
	s := newRolling(t, 8)
	runs := byte(0)
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		w := &rollouts{rolling: s, rt: rt, run: runs, now: noon}
		defer w.clear()
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			w.step()
		}
		w.check()
		w.end()
	})
}

// rollouts are those of one run, in a store that has no others.
type rollouts struct {
	*rolling
	rt   *rapid.T
	run  byte
	made []rollout.ID
	now  time.Time
}

func (w *rollouts) clear() {
	do(w.t, w.Store, func(tx *Tx) error {
		for _, query := range []string{`DELETE FROM rollout_device`, `DELETE FROM rollout`, `UPDATE device SET fw_open = 0`} {
			if _, err := tx.w.exec(query); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *rollouts) names() (names []ecowatt.DeviceID) {
	for name := range w.rows {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (w *rollouts) step() {
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 90).Draw(w.rt, "minutes")) * time.Minute)
	switch what := rapid.IntRange(0, 9).Draw(w.rt, "what"); {
	case what == 0 || len(w.made) == 0:
		w.make()
	case what < 3:
		if _, err := w.AdvanceRollouts(w.t.Context(), w.now); err != nil {
			w.rt.Fatal(err)
		}
	case what == 3:
		w.order()
	default:
		w.device(rapid.SampledFrom(w.names()).Draw(w.rt, "device"))
	}
}

func (w *rollouts) make() {
	devices := rapid.SliceOfNDistinct(rapid.SampledFrom(w.names()), 1, 8, rapid.ID).Draw(w.rt, "devices")
	spec := rollout.Spec{
		Release: w.release.ID, Target: rollout.Target{Devices: devices}, Stages: []rollout.Stage{{Count: 2}, {Percent: 100}},
		Soak: time.Hour, Deadline: 10 * time.Hour, MaxFailed: float64(rapid.SampledFrom([]int{0, 30, 60}).Draw(w.rt, "most")), MinSample: 2,
	}
	id := rollout.ID{w.run, byte(len(w.made))}
	_, err := w.CreateRollout(w.t.Context(), rollout.Order{ID: id, Spec: spec, By: "ada", At: w.now}, w.release, nil)
	switch {
	case err == nil:
		w.made = append(w.made, id)
	case !isInvalid(err): // all of them are busy
		w.rt.Fatal(err)
	}
}

func (w *rollouts) order() {
	i := rollout.Instruction{
		ID: rapid.SampledFrom(w.made).Draw(w.rt, "rollout"), By: "ada", At: w.now, Finish: rapid.Bool().Draw(w.rt, "finish"),
		Event: rapid.SampledFrom([]rollout.Event{rollout.Pause, rollout.Resume, rollout.Resume, rollout.Abort}).Draw(w.rt, "order"),
	}
	if err := w.OrderRollout(w.t.Context(), i); err != nil && !isTooLate(err) {
		w.rt.Fatal(err)
	}
}

// device is what a device says or is told, as the gateway has it.
func (w *rollouts) device(name ecowatt.DeviceID) {
	says := rapid.IntRange(0, 5).Draw(w.rt, "says")
	phase := rapid.SampledFrom([]string{"offered", "downloading", "verified", "switching", "refused", "rolled_back"}).Draw(w.rt, "phase")
	do(w.t, w.Store, func(tx *Tx) error {
		u, found, err := tx.Update(w.rows[name])
		if err != nil || !found {
			return err
		}
		next, moved := u, false
		switch says {
		case 0:
			if u.Rollout.Offers() {
				next, moved = u.Sent(w.now)
			}
		case 1, 2:
			state := "confirmed"
			if says == 2 {
				state = "trial"
			}
			next, moved = u.Runs(rollout.Program{Image: w.release.Image, State: state}, w.now)
		case 3:
			next, moved = u.Measured(w.now, w.now)
		default:
			next, moved, _ = u.Reported(rollout.Report{Release: w.release.ID, Phase: phase, Done: 1, All: 2}, w.now)
			if !moved {
				return tx.NoteUpdate(w.rows[name], next)
			}
		}
		if !moved {
			return nil
		}
		return tx.MoveUpdate(w.rows[name], next, audit.Actor{Kind: audit.Device, Name: string(name)}, w.now)
	})
}

// check looks at what the store has.
func (w *rollouts) check() {
	for what, query := range map[string]string{
		"devices with two things to do": `SELECT count(*) FROM (SELECT device FROM rollout_device WHERE watched = 1 OR ended_at IS NULL GROUP BY device HAVING count(*) > 1)`,
		"devices that have begun before their stage": `SELECT count(*) FROM rollout_device u JOIN rollout r ON r.id = u.rollout
			WHERE u.stage > r.stage AND u.phase NOT IN ('waiting', 'skipped')`,
		"updates under way without a deadline": `SELECT count(*) FROM rollout_device WHERE ended_at IS NULL AND phase <> 'waiting' AND due_at IS NULL`,
		"updates that are over and have one":   `SELECT count(*) FROM rollout_device WHERE ended_at IS NOT NULL AND due_at IS NOT NULL`,
		"rollouts nobody looks after":          `SELECT count(*) FROM rollout r WHERE open = 0 AND EXISTS (SELECT 1 FROM rollout_device u WHERE u.rollout = r.id AND u.ended_at IS NULL)`,
		"rollouts that are done and are not":   `SELECT count(*) FROM rollout r WHERE state = 'done' AND EXISTS (SELECT 1 FROM rollout_device u WHERE u.rollout = r.id AND u.phase = 'waiting')`,
		"steps that the log does not have": `SELECT count(*) FROM rollout_device u JOIN device d ON d.id = u.device WHERE phase <> 'waiting'
			AND NOT EXISTS (SELECT 1 FROM audit a WHERE a.device = d.name AND a.action = 'update.' || u.phase
			AND json_extract(a.attrs, '$.rollout') = lower(hex(u.rollout)))`,
	} {
		if n := number(w.t, w.Store, query); n != 0 {
			w.rt.Fatalf("%s: %d", what, n)
		}
	}
	do(w.t, w.Store, func(tx *Tx) error {
		for name, row := range w.rows {
			u, found, err := tx.Update(row)
			want, got := int64(0), int64(0)
			if found {
				want = u.Demand()
			}
			if _, err2 := tx.w.row(`SELECT fw_open FROM device WHERE id = $1`, []any{row}, &got); err != nil || err2 != nil {
				return errors.Join(err, err2)
			}
			if got != want {
				return fmt.Errorf("%s, %s: its exchanges are told %d, want %d", name, u.Phase, got, want)
			}
		}
		return nil
	})
	for _, id := range w.made {
		v := w.view(rollout.Rollout{ID: id}, w.now)
		devices, p := 0, v.Progress(v.All(), v.Recent, w.now)
		for _, stage := range v.ByStage {
			devices += stage.All()
		}
		if devices != v.Devices() || p.Over+p.UnderWay+p.Waiting+p.Skipped != v.All().All() || p.Over != p.Healthy+p.Failed {
			w.rt.Fatalf("rollout %v: %d devices, %v, %+v", id, v.Devices(), v.ByStage, p)
		}
	}
}

// end lets everything come to its end: nothing is left open, and no rollout that was
// not stopped has too many failures in its last stage.
func (w *rollouts) end() {
	for _, id := range w.made {
		err := w.OrderRollout(w.t.Context(), rollout.Instruction{ID: id, Event: rollout.Resume, By: "ada", At: w.now})
		if err != nil && !isTooLate(err) {
			w.rt.Fatal(err)
		}
	}
	for range 2 * len(w.made) {
		w.now = w.now.Add(40 * time.Hour)
		w.advance(w.now)
		w.check()
	}
	for _, id := range w.made {
		switch v := w.view(rollout.Rollout{ID: id}, w.now); v.State {
		case rollout.Stopped:
			if !v.Exceeded(v.ByStage[v.Stage-1]) {
				w.rt.Fatalf("it stopped with %v", v.ByStage)
			}
		case rollout.Done, rollout.Aborted:
			if v.All().Open() != 0 || v.Stage > 0 && v.State == rollout.Done && v.Exceeded(v.ByStage[v.Stage-1]) {
				w.rt.Fatalf("%s with %v", v.State, v.ByStage)
			}
		case rollout.Running, rollout.Paused:
			w.rt.Fatalf("it is %s in the end: %v", v.State, v.ByStage)
		}
	}
}
