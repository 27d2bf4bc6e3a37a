package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/rollout"
)

const (
	// rolloutColumns are what an update needs to know of its rollout, as
	// readRollout reads them.
	rolloutColumns = `r.id, r.firmware, r.version, r.number, r.image, r.offer, r.operator, r.at, r.state, r.code, r.text, r.since, r.finish,
	r.stage, r.stage_at, r.rested, r.pardon_failed, r.pardon_answered, r.soak, r.no_telemetry, r.deadline, r.max_failed, r.min_sample, r.downgrades`
	// wholeRollout are all, as readWholeRollout reads them.
	wholeRollout = `SELECT ` + rolloutColumns + `, r.sizes, r.stages, r.target FROM rollout r `
	oneRollout   = wholeRollout + `WHERE r.id = $1`

	updateColumns      = `SELECT d.id, d.name, u.stage, u.phase, u.code, u.text, u.done, u.chunks, u.times, u.due_at, ` + rolloutColumns
	ofUpdate           = ` JOIN rollout r ON r.id = u.rollout JOIN device d ON d.id = u.device `
	selectDeviceUpdate = updateColumns + ` FROM rollout_device u` + ofUpdate
	// selectStageUpdate is selectDeviceUpdate for some phases of a stage: without
	// statistics SQLite would read the whole rollout for them.
	selectStageUpdate = updateColumns + ` FROM rollout_device u INDEXED BY rollout_device_phase` + ofUpdate

	watchedUpdate = selectDeviceUpdate + `WHERE u.device = $1 AND u.watched = 1`

	tallyStage = `SELECT phase, count(*) FROM rollout_device WHERE rollout = $1 AND stage = $2 GROUP BY phase`
)

// readRollout reads rolloutColumns from column i on.
func readRollout(st *sqlite3.Stmt, i int) (r rollout.Rollout, err error) {
	r.ID, r.Release = rollout.ID(st.ColumnBlob(i, nil)), rollout.Hash(st.ColumnBlob(i+1, nil))
	r.Version, r.Number, r.Image, r.Offer = st.ColumnText(i+2), uint64(st.ColumnInt64(i+3)), rollout.Hash(st.ColumnBlob(i+4, nil)), st.ColumnInt64(i+5)
	r.By, r.At = st.ColumnText(i+6), moment(st.ColumnInt64(i+7))
	r.State, r.Code, r.Text, r.Since = rollout.State(st.ColumnText(i+8)), st.ColumnText(i+9), st.ColumnText(i+10), moment(st.ColumnInt64(i+11))
	r.Finish, r.Stage = st.ColumnBool(i+12), st.ColumnInt(i+13)
	if st.ColumnType(i+14) != sqlite3.NULL {
		r.StageAt = moment(st.ColumnInt64(i + 14))
	}
	r.Rested, r.Pardon = span(st.ColumnInt64(i+15)), rollout.Pardon{Failed: st.ColumnInt(i + 16), Answered: st.ColumnInt(i + 17)}
	r.Soak, r.NoTelemetry, r.Deadline = span(st.ColumnInt64(i+18)), st.ColumnBool(i+19), span(st.ColumnInt64(i+20))
	r.MaxFailed, r.MinSample = st.ColumnFloat(i+21), st.ColumnInt(i+22)
	return r, decodeJSON(st.ColumnText(i+23), &r.Downgrades)
}

// span is a stored number of ms.
func span(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }

// decodeJSON reads a column of JSON; nothing stays nothing.
func decodeJSON(text string, into any) error {
	if text == "null" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("decoding a rollout: %w", err)
	}
	return nil
}

func readWholeRollout(st *sqlite3.Stmt) (rollout.Rollout, error) {
	r, err := readRollout(st, 0)
	return r, errors.Join(err, decodeJSON(st.ColumnText(24), &r.Sizes), decodeJSON(st.ColumnText(25), &r.Stages), decodeJSON(st.ColumnText(26), &r.Target))
}

// rollout returns a rollout, or rollout.ErrNotFound.
func (c *connection) rollout(id rollout.ID) (r rollout.Rollout, err error) {
	found := false
	err = c.rows(oneRollout, []any{id[:]}, func(st *sqlite3.Stmt) (err error) {
		found = true
		r, err = readWholeRollout(st)
		return err
	})
	if err == nil && !found {
		err = rollout.ErrNotFound
	}
	return r, err
}

// tally is how a stage of a rollout stands.
func (c *connection) tally(id rollout.ID, stage int) (rollout.Tally, error) {
	t := rollout.Tally{}
	err := c.rows(tallyStage, []any{id[:], stage}, func(st *sqlite3.Stmt) error {
		t[rollout.Phase(st.ColumnText(0))] = st.ColumnInt(1)
		return nil
	})
	return t, err
}

// storedUpdate is an update and the row of its device.
type storedUpdate struct {
	rollout.Update
	device int64
}

// readUpdate reads a row of selectDeviceUpdate.
func readUpdate(st *sqlite3.Stmt) (u storedUpdate, err error) {
	u.device, u.Device, u.Stage = st.ColumnInt64(0), ecowatt.DeviceID(st.ColumnText(1)), st.ColumnInt(2)
	u.Phase, u.Code, u.Text = rollout.Phase(st.ColumnText(3)), st.ColumnText(4), st.ColumnText(5)
	u.Done, u.All = uint64(st.ColumnInt64(6)), uint64(st.ColumnInt64(7))
	var times map[rollout.Phase]int64
	if err := decodeJSON(st.ColumnText(8), &times); err != nil {
		return u, err
	}
	u.Times = make(map[rollout.Phase]time.Time, len(times))
	for p, ms := range times {
		u.Times[p] = moment(ms)
	}
	if st.ColumnType(9) != sqlite3.NULL {
		u.Due = moment(st.ColumnInt64(9))
	}
	u.Rollout, err = readRollout(st, 10)
	return u, err
}

// updates returns what a query of selectDeviceUpdate finds.
func (c *connection) updates(query string, args ...any) (list []storedUpdate, err error) {
	err = c.rows(query, args, func(st *sqlite3.Stmt) error {
		u, err := readUpdate(st)
		list = append(list, u)
		return err
	})
	return list, err
}

// Update returns what a rollout wants of the device, and whether there is one that
// is concerned by what the device says.
func (tx *Tx) Update(device int64) (rollout.Update, bool, error) {
	list, err := tx.w.updates(watchedUpdate, device)
	if err != nil {
		return rollout.Update{}, false, fmt.Errorf("reading the update of a device: %w", err)
	}
	if len(list) == 0 {
		return rollout.Update{}, false, nil
	}
	return list[0].Update, true, nil
}

// NoteUpdate stores what an update has become since it was read in this
// transaction, where it stays in its phase.
func (tx *Tx) NoteUpdate(device int64, u rollout.Update) error {
	_, err := tx.w.exec(`UPDATE rollout_device SET code = $1, text = $2, done = $3, chunks = $4 WHERE rollout = $5 AND device = $6`,
		u.Code, u.Text, int64(u.Done), int64(u.All), u.Rollout.ID[:], device)
	if err != nil {
		return fmt.Errorf("storing the update of device %s: %w", u.Device, err)
	}
	return nil
}

// MoveUpdate stores what an update has become since it was read in this
// transaction, and writes its audit record. Where too many of its stage have
// failed now, the rollout stops.
func (tx *Tx) MoveUpdate(device int64, u rollout.Update, by audit.Actor, at time.Time) error {
	times, err := encodeTimes(u.Times)
	if err != nil {
		return err
	}
	var ended any
	if !u.Phase.Open() {
		ended = millis(at)
	}
	n, err := tx.w.exec(`UPDATE rollout_device SET phase = $1, code = $2, text = $3, done = $4, chunks = $5, times = $6, due_at = $7, ended_at = $8, watched = $9
		WHERE rollout = $10 AND device = $11`,
		string(u.Phase), u.Code, u.Text, int64(u.Done), int64(u.All), times, orNull(u.Due), ended, u.Watched(), u.Rollout.ID[:], device)
	if err == nil && n != 1 {
		err = errors.New("it is gone")
	}
	if err == nil {
		_, err = tx.w.exec(`UPDATE device SET fw_open = $1 WHERE id = $2`, u.Demand(), device)
	}
	if err == nil && u.Rollout.State.Over() && u.Phase.Open() { // a late word
		_, err = tx.w.exec(`UPDATE rollout SET open = 1 WHERE id = $1`, u.Rollout.ID[:])
	}
	if err == nil {
		err = tx.Append(audit.Record{At: at, Actor: by, Device: u.Device, Action: u.Event(), Text: u.Line(), Attrs: u.Attrs()})
	}
	if err == nil && u.Phase.Failure() {
		err = tx.stopRollout(u.Rollout.ID, at)
	}
	if err != nil {
		return fmt.Errorf("storing the update of device %s: %w", u.Device, err)
	}
	return nil
}

func encodeTimes(times map[rollout.Phase]time.Time) (string, error) {
	stored := make(map[rollout.Phase]int64, len(times))
	for p, t := range times {
		stored[p] = millis(t)
	}
	text, err := json.Marshal(stored)
	if err != nil {
		return "", fmt.Errorf("encoding an update: %w", err)
	}
	return string(text), nil
}

// stopRollout stops a rollout of which too many devices have failed.
func (tx *Tx) stopRollout(id rollout.ID, at time.Time) error {
	r, err := tx.w.rollout(id)
	if err != nil || r.Stage == 0 {
		return err
	}
	stage, err := tx.w.tally(id, r.Stage)
	if err != nil || !r.Exceeded(stage) {
		return err
	}
	r, stopped := r.Stopped(stage, at)
	if !stopped {
		return nil
	}
	return tx.saveRollout(r, rolloutDuty(), r.Event(), at)
}

// rolloutDuty is who does what a rollout does by itself.
func rolloutDuty() audit.Actor { return audit.Actor{Kind: audit.System, Name: "rollouts"} }

// saveRollout stores what a rollout has become, with its audit record.
func (tx *Tx) saveRollout(r rollout.Rollout, by audit.Actor, action string, at time.Time) error {
	_, err := tx.w.exec(`UPDATE rollout SET state = $1, code = $2, text = $3, since = $4, finish = $5, stage = $6, stage_at = $7, rested = $8,
		pardon_failed = $9, pardon_answered = $10 WHERE id = $11`,
		string(r.State), r.Code, r.Text, millis(r.Since), r.Finish, r.Stage, orNull(r.StageAt), r.Rested.Milliseconds(),
		r.Pardon.Failed, r.Pardon.Answered, r.ID[:])
	if err != nil {
		return fmt.Errorf("storing rollout %v: %w", r.ID, err)
	}
	attrs := r.Attrs()
	text := "rollout of " + r.Version + ": " + r.Text
	if action == rolloutStage {
		attrs["stage"] = strconv.Itoa(r.Stage)
		text = fmt.Sprintf("rollout of %s: stage %d of %d begins", r.Version, r.Stage, len(r.Sizes))
	}
	return tx.Append(audit.Record{At: at, Actor: by, Action: action, Text: text, Attrs: attrs})
}

// rolloutStage is how the log names the begin of a stage.
const rolloutStage = "rollout.stage"

// OrderRollout lets an operator have his way with a rollout, with its audit
// record. One that is past it is a *rollout.TooLateError, one that is not there
// rollout.ErrNotFound.
func (s *Store) OrderRollout(ctx context.Context, i rollout.Instruction) error {
	err := s.write(ctx, func(tx *Tx) error {
		r, err := tx.w.rollout(i.ID)
		if err != nil {
			return err
		}
		stage, err := tx.w.tally(i.ID, r.Stage)
		if err != nil {
			return err
		}
		r, changed, err := r.Instructed(i, stage)
		if err != nil || !changed {
			return err
		}
		action := r.Event()
		if i.Event == rollout.Resume {
			action = "rollout.resumed"
		}
		return tx.saveRollout(r, audit.Actor{Kind: audit.Operator, Name: i.By}, action, i.At)
	})
	if err != nil {
		return fmt.Errorf("changing rollout %v: %w", i.ID, err)
	}
	return nil
}
