package store

import (
	"fmt"
	"time"

	"ecowatt"
	"ecowatt/cloud/session"
)

// Alarm takes note of security events, and returns of how many of their kind the
// audit log is to be told in this transaction; mostly of none (session.Told).
func (tx *Tx) Alarm(a session.Alarm) (int64, error) {
	var told, last, rest int64
	found, err := tx.w.row(`SELECT told_at, last_at, untold FROM alarm WHERE device = $1 AND reason = $2`,
		[]any{a.Device, string(a.Reason)}, &told, &last, &rest)
	if err != nil {
		return 0, fmt.Errorf("looking up an alarm: %w", err)
	}
	state := session.Told{Rest: rest}
	if found {
		state.At = moment(told)
	}
	state, tell := state.Add(a.Count, a.At)
	if state.At.IsZero() {
		return 0, nil
	}
	if a.Count > 0 {
		last = max(last, millis(a.At))
	}
	_, err = tx.w.exec(`INSERT INTO alarm (device, reason, told_at, last_at, untold) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (device, reason) DO UPDATE SET told_at = excluded.told_at, last_at = excluded.last_at, untold = excluded.untold`,
		a.Device, string(a.Reason), millis(state.At), last, state.Rest)
	if err != nil {
		return 0, fmt.Errorf("noting an alarm: %w", err)
	}
	return tell, nil
}

const selectOverdue = `SELECT a.device, d.name, a.reason FROM alarm a JOIN device d ON d.id = a.device
	WHERE a.untold > 0 AND a.told_at <= $1 ORDER BY a.told_at LIMIT 1`

// Overdue returns an alarm, of no events, of whose events the audit log may be
// told the rest by now; the time is as given. ok reports whether there is one.
func (tx *Tx) Overdue(at time.Time) (a session.Alarm, ok bool, err error) {
	var name, reason string
	ok, err = tx.w.row(selectOverdue, []any{millis(at.Add(-session.AlarmPause))}, &a.Device, &name, &reason)
	if err != nil {
		return session.Alarm{}, false, fmt.Errorf("looking for alarms: %w", err)
	}
	a.Name, a.Reason, a.At = ecowatt.DeviceID(name), session.Reason(reason), at
	return a, ok, nil
}
