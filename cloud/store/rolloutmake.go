package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/ncruces/go-sqlite3"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/rollout"
)

// selectCandidates is what is known of the devices that may get a release; with
// waitingCandidates of those that are about to.
const (
	selectCandidate = `SELECT d.id, d.name, d.grp, d.disabled, i.device IS NOT NULL, coalesce(i.hardware, ''), coalesce(d.fw_version, ''), coalesce(d.fw_release, 0),
	coalesce(d.fw_state, '') FROM device d LEFT JOIN inventory i ON i.device = d.id `
	allCandidates = selectCandidate + `ORDER BY d.name`
	oneCandidate  = selectCandidate + `WHERE d.id = $1`
	busyDevices   = `SELECT device FROM rollout_device WHERE watched = 1 AND ended_at IS NULL`
)

func readCandidate(st *sqlite3.Stmt) (device int64, c rollout.Candidate) {
	return st.ColumnInt64(0), rollout.Candidate{
		Device: ecowatt.DeviceID(st.ColumnText(1)), Group: st.ColumnText(2), Disabled: st.ColumnBool(3), Known: st.ColumnBool(4),
		Hardware: st.ColumnText(5), Version: st.ColumnText(6), Release: uint64(st.ColumnInt64(7)), State: st.ColumnText(8),
	}
}

// candidates returns all devices as a rollout sees them, and their rows.
func (tx *Tx) candidates() (fleet []rollout.Candidate, rows map[ecowatt.DeviceID]int64, err error) {
	busy := map[int64]bool{}
	err = tx.w.rows(busyDevices, nil, func(st *sqlite3.Stmt) error {
		busy[st.ColumnInt64(0)] = true
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	rows = map[ecowatt.DeviceID]int64{}
	err = tx.w.rows(allCandidates, nil, func(st *sqlite3.Stmt) error {
		device, c := readCandidate(st)
		c.Busy = busy[device]
		fleet, rows[c.Device] = append(fleet, c), device
		return nil
	})
	return fleet, rows, err
}

// CreateRollout makes a rollout of a release and stores it with all that it wants
// of devices, in one transaction, with the audit record "rollout.created" and one
// for each device that is skipped. back is as in rollout.New, whose errors it
// returns; a release that was removed meanwhile is rollout.ErrNoRelease.
func (s *Store) CreateRollout(ctx context.Context, o rollout.Order, release rollout.Release, back []uint64) (r rollout.Rollout, err error) {
	err = s.write(ctx, func(tx *Tx) error {
		if _, found, err := tx.w.release(oneRelease, release.ID[:]); err != nil || !found {
			return errors.Join(err, rollout.ErrNoRelease)
		}
		fleet, rows, err := tx.candidates()
		if err != nil {
			return err
		}
		var updates []rollout.Update
		if r, updates, err = rollout.New(o, release, fleet, back); err != nil {
			return err
		}
		if err := tx.insertRollout(r); err != nil {
			return err
		}
		skipped := 0
		for _, u := range updates {
			if err := tx.insertUpdate(rows[u.Device], u); err != nil {
				return fmt.Errorf("device %s: %w", u.Device, err)
			}
			if u.Phase == rollout.Skipped {
				skipped++
			}
		}
		attrs := r.Attrs()
		attrs["devices"], attrs["skipped"] = strconv.Itoa(r.Devices()), strconv.Itoa(skipped)
		if r.Target.Group != "" {
			attrs["group"] = r.Target.Group
		}
		return tx.Append(audit.Record{
			At: r.At, Actor: audit.Actor{Kind: audit.Operator, Name: r.By}, Action: "rollout.created",
			Text: fmt.Sprintf("rollout of %s to %d devices made", r.Version, r.Devices()), Attrs: attrs,
		})
	})
	if err != nil {
		return rollout.Rollout{}, fmt.Errorf("making a rollout of release %s: %w", release.Version, err)
	}
	return r, nil
}

func (tx *Tx) insertRollout(r rollout.Rollout) error {
	texts := make([]any, 0, 4)
	for _, v := range []any{r.Downgrades, r.Sizes, r.Stages, r.Target} {
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encoding a rollout: %w", err)
		}
		texts = append(texts, string(text))
	}
	_, err := tx.w.exec(`INSERT INTO rollout (id, firmware, version, number, image, offer, operator, at, state, code, text, since,
		soak, no_telemetry, deadline, max_failed, min_sample, downgrades, sizes, stages, target)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)`,
		append([]any{
			r.ID[:], r.Release[:], r.Version, int64(r.Number), r.Image[:], r.Offer, r.By, millis(r.At), string(r.State), r.Code, r.Text, millis(r.Since),
			r.Soak.Milliseconds(), r.NoTelemetry, r.Deadline.Milliseconds(), r.MaxFailed, r.MinSample,
		}, texts...)...)
	return err
}

// insertUpdate stores what is wanted of a device. What an earlier rollout wanted of
// it, and has given up, the device cannot change any more.
func (tx *Tx) insertUpdate(device int64, u rollout.Update) error {
	times, err := encodeTimes(u.Times)
	if err != nil {
		return err
	}
	var ended any
	if !u.Phase.Open() {
		ended = millis(u.Rollout.At)
	} else if _, err := tx.w.exec(`UPDATE rollout_device SET watched = 0 WHERE device = $1 AND watched = 1`, device); err != nil {
		return err
	}
	_, err = tx.w.exec(`INSERT INTO rollout_device (rollout, device, stage, phase, code, text, times, ended_at, watched)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		u.Rollout.ID[:], device, u.Stage, string(u.Phase), u.Code, u.Text, times, ended, u.Watched())
	if err == nil && u.Phase.Open() {
		_, err = tx.w.exec(`UPDATE device SET fw_open = $1 WHERE id = $2`, u.Demand(), device)
	}
	if err != nil || u.Phase.Open() {
		return err
	}
	return tx.Append(audit.Record{At: u.Rollout.At, Actor: rolloutDuty(), Device: u.Device, Action: u.Event(), Text: u.Line(), Attrs: u.Attrs()})
}
