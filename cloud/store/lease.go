package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"ecowatt"
	"ecowatt/cloud/command"
)

// SaveLease stores what a device says of a power limit that it keeps.
func (tx *Tx) SaveLease(device int64, e command.LeaseEvent, at time.Time) error {
	var err error
	switch e.Kind {
	case command.LeaseStarted:
		_, err = tx.w.exec(`INSERT INTO lease (device, command, inverter, percent, since, until) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (device, command) DO UPDATE SET inverter = excluded.inverter, percent = excluded.percent, until = excluded.until, overwritten_at = NULL`,
			device, e.Command[:], e.Inverter, e.Percent, millis(at), orNull(e.Until))
		if err == nil {
			_, err = tx.w.exec(`DELETE FROM lease WHERE device = $1 AND command IN
				(SELECT l.command FROM lease l WHERE l.device = $1 ORDER BY l.since DESC, l.command LIMIT 16 OFFSET $2)`, device, int64(command.MaxLeases))
		}
	case command.LeaseEnded:
		_, err = tx.w.exec(`DELETE FROM lease WHERE device = $1 AND command = $2`, device, e.Command[:])
	case command.LeaseOverwritten:
		_, err = tx.w.exec(`UPDATE lease SET overwritten_at = $1 WHERE device = $2 AND command = $3`, millis(at), device, e.Command[:])
	}
	if err != nil {
		return fmt.Errorf("storing a power limit: %w", err)
	}
	return nil
}

const selectLeases = `SELECT l.command, l.inverter, l.percent, l.since, l.until, l.overwritten_at, coalesce(c.operator, '')
	FROM device d JOIN lease l ON l.device = d.id LEFT JOIN command c ON c.id = l.command AND c.device = l.device
	WHERE d.name = $1 ORDER BY l.inverter, l.percent, l.command`

// Leases returns the power limits that a device says it keeps, by inverter, the
// most restrictive first.
func (s *Store) Leases(ctx context.Context, id ecowatt.DeviceID) ([]command.Lease, error) {
	rows, err := s.read.QueryContext(ctx, selectLeases, string(id))
	if err != nil {
		return nil, fmt.Errorf("reading the power limits of device %s: %w", id, unavailable(err))
	}
	defer rows.Close()
	var leases []command.Lease
	for rows.Next() {
		var (
			l                  command.Lease
			name               []byte
			since              int64
			until, overwritten sql.NullInt64
		)
		if err := rows.Scan(&name, &l.Inverter, &l.Percent, &since, &until, &overwritten, &l.By); err != nil {
			return nil, fmt.Errorf("reading the power limits of device %s: %w", id, unavailable(err))
		}
		l.Command, l.Since, l.Until, l.Overwritten = command.ID(name), moment(since), moments(until), moments(overwritten)
		leases = append(leases, l)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the power limits of device %s: %w", id, unavailable(err))
	}
	return leases, nil
}
