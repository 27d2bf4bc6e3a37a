package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt"
	"ecowatt/cloud/rollout"
)

// advanceSize is how many devices of a rollout are moved in one transaction, at
// most.
const advanceSize = 64

const (
	openRollouts = `SELECT id FROM rollout WHERE open = 1`
	dueUpdates   = selectDeviceUpdate + `WHERE u.rollout = $1 AND u.due_at <= $2 ORDER BY u.due_at LIMIT $3`
	// abortedUpdates are those of a stage that an abortion ends; $3 says whether
	// those under way are among them.
	abortedUpdates = selectStageUpdate + `WHERE u.rollout = $1 AND u.stage = $2 AND (u.phase IN ('waiting', 'due')
		OR $3 AND u.phase IN ('offered', 'downloading', 'downloaded', 'verified', 'retrying')) LIMIT $4`
	waitingUpdates = selectStageUpdate + `WHERE u.rollout = $1 AND u.stage = $2 AND u.phase = 'waiting' LIMIT $3`
	restOfRollout  = `SELECT EXISTS (SELECT 1 FROM rollout_device WHERE rollout = $1 AND due_at IS NOT NULL)`
)

// Advanced says what AdvanceRollouts has done.
type Advanced struct {
	Begun []ecowatt.DeviceID // have something to be told
	More  bool               // there is more to do at once
}

// AdvanceRollouts does for a while what rollouts do by themselves by now, in small
// transactions: devices that are past their deadline are given up, stages begin,
// rollouts stop, finish, and end once aborted.
func (s *Store) AdvanceRollouts(ctx context.Context, now time.Time) (done Advanced, err error) {
	var ids []rollout.ID
	err = s.lookups.use(ctx, func(c *connection) error {
		return c.rows(openRollouts, nil, func(st *sqlite3.Stmt) error {
			ids = append(ids, rollout.ID(st.ColumnBlob(0, nil)))
			return nil
		})
	})
	if err != nil {
		return done, fmt.Errorf("reading rollouts: %w", unavailable(err))
	}
	var failures []error
	for _, id := range ids {
		var step Advanced
		err := s.write(ctx, func(tx *Tx) (err error) {
			step, err = tx.advance(id, now)
			return err
		})
		if err != nil { // which does not keep the others up
			failures = append(failures, fmt.Errorf("advancing rollout %v: %w", id, err))
			continue
		}
		done.Begun, done.More = append(done.Begun, step.Begun...), done.More || step.More
	}
	return done, errors.Join(failures...)
}

// advance does one step of a rollout.
func (tx *Tx) advance(id rollout.ID, now time.Time) (done Advanced, err error) {
	r, err := tx.w.rollout(id)
	if err != nil {
		return done, err
	}
	moved, err := tx.lapseUpdates(r, now)
	if err != nil || moved > 0 {
		return Advanced{More: true}, err
	}
	if r.State == rollout.Aborted {
		if moved, err := tx.abortUpdates(r, now); err != nil || moved > 0 {
			return Advanced{More: true}, err
		}
	}
	if r.State.Over() {
		return done, tx.closeRollout(id)
	}
	stage := rollout.Tally{}
	if r.Stage > 0 {
		if stage, err = tx.w.tally(id, r.Stage); err != nil {
			return done, err
		}
	}
	var changed bool
	action := ""
	switch r.Next(now, stage) {
	case rollout.Rest:
		return done, nil
	case rollout.BeginSome:
		done.Begun, err = tx.beginUpdates(r, now)
		done.More = true
		return done, err
	case rollout.BeginStage:
		r, changed = r.Advanced(now)
		action = rolloutStage
	case rollout.StopNow:
		r, changed = r.Stopped(stage, now)
		action = r.Event()
	case rollout.FinishNow:
		r, changed = r.Finished(now)
		action = r.Event()
	}
	if !changed {
		return done, nil
	}
	return Advanced{More: true}, tx.saveRollout(r, rolloutDuty(), action, now)
}

// lapseUpdates gives up some of those that are past their deadline.
func (tx *Tx) lapseUpdates(r rollout.Rollout, now time.Time) (moved int, err error) {
	late, err := tx.w.updates(dueUpdates, r.ID[:], millis(r.Clock(now)), advanceSize)
	if err != nil {
		return 0, err
	}
	for _, u := range late {
		next, lapsed := u.Lapsed(now)
		if !lapsed {
			continue
		}
		if err := tx.MoveUpdate(u.device, next, rolloutDuty(), now); err != nil {
			return 0, err
		}
		moved++
	}
	return moved, nil
}

// abortUpdates ends some of those that an aborted rollout leaves.
func (tx *Tx) abortUpdates(r rollout.Rollout, now time.Time) (moved int, err error) {
	for stage := range r.Sizes {
		left, err := tx.w.updates(abortedUpdates, r.ID[:], stage+1, !r.Finish, advanceSize)
		if err != nil {
			return 0, err
		}
		for _, u := range left {
			next, ended := u.Aborted(now)
			if !ended {
				continue
			}
			if err := tx.MoveUpdate(u.device, next, rolloutDuty(), now); err != nil {
				return 0, err
			}
			moved++
		}
		if moved > 0 {
			return moved, nil
		}
	}
	return 0, nil
}

// beginUpdates lets some of the devices of the stage begin.
func (tx *Tx) beginUpdates(r rollout.Rollout, now time.Time) (begun []ecowatt.DeviceID, err error) {
	waiting, err := tx.w.updates(waitingUpdates, r.ID[:], r.Stage, advanceSize)
	if err != nil {
		return nil, err
	}
	for _, u := range waiting {
		var device rollout.Candidate
		if _, err := tx.w.row(oneCandidate, []any{u.device}, func(st *sqlite3.Stmt) { _, device = readCandidate(st) }); err != nil {
			return nil, err
		}
		next, changed := u.Begun(device, now)
		if !changed {
			continue
		}
		if err := tx.MoveUpdate(u.device, next, rolloutDuty(), now); err != nil {
			return nil, err
		}
		if next.Phase == rollout.Due {
			begun = append(begun, u.Device)
		}
	}
	return begun, nil
}

// closeRollout takes note that nothing of a rollout is to come any more.
func (tx *Tx) closeRollout(id rollout.ID) error {
	var left int64
	if _, err := tx.w.row(restOfRollout, []any{id[:]}, &left); err != nil || left != 0 {
		return err
	}
	_, err := tx.w.exec(`UPDATE rollout SET open = 0 WHERE id = $1`, id[:])
	return err
}
