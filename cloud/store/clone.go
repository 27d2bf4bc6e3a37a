package store

import (
	"fmt"

	"ecowatt/cloud/session"
)

// watch judges the confirmation of a session by what is remembered of its device
// (session.Watch). replaces says that a living session has ended by it.
func (tx *Tx) watch(c session.Claim, replaces bool) (session.Suspicion, error) {
	device := c.Session.Device
	var before session.Watch
	var boot []byte
	_, err := tx.w.row(`SELECT boot_id, replaced_1, replaced_2, replaced_3 FROM device WHERE id = $1`, []any{device},
		&boot, &before.Replaced[0], &before.Replaced[1], &before.Replaced[2])
	if err != nil {
		return session.Unsuspected, fmt.Errorf("reading what is remembered of a device: %w", err)
	}
	copy(before.Boot[:], boot)
	_, known, err := tx.clock(device, [16]byte(c.Boot))
	if err != nil {
		return session.Unsuspected, err
	}
	after, suspicion := before.Confirm(session.Confirmation{At: c.At, Boot: c.Boot, Known: known, Replaces: replaces})
	if after == before {
		return suspicion, nil
	}
	_, err = tx.w.exec(`UPDATE device SET boot_id = $1, replaced_1 = $2, replaced_2 = $3, replaced_3 = $4 WHERE id = $5`,
		after.Boot[:], after.Replaced[0], after.Replaced[1], after.Replaced[2], device)
	if err != nil {
		return session.Unsuspected, fmt.Errorf("remembering a device's boot: %w", err)
	}
	return suspicion, nil
}
