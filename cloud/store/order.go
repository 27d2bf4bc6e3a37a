package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/session"
	"ecowatt/key"
)

// What an order needs to know of a device.
const (
	selectKeys = `SELECT d.name, coalesce((SELECT max(k.epoch) FROM device_key k WHERE k.device = d.id), 0),
		EXISTS (SELECT 1 FROM device_key p WHERE p.device = d.id AND p.state = 'pending') FROM device d `
	keysOfOne   = selectKeys + `WHERE d.name = $1`
	keysOfAll   = selectKeys + `WHERE d.name > $1 ORDER BY d.name LIMIT $2`
	keysOfGroup = selectKeys + `WHERE d.grp = $1 AND d.grp <> '' AND d.name > $2 ORDER BY d.name LIMIT $3`
)

// DeviceKeys returns what there is of the keys of a device, or registry.ErrNotFound.
func (s *Store) DeviceKeys(ctx context.Context, id ecowatt.DeviceID) (registry.Keys, error) {
	var k registry.Keys
	err := s.read.QueryRowContext(ctx, keysOfOne, string(id)).Scan(&k.Device, &k.Newest, &k.Pending)
	if errors.Is(err, sql.ErrNoRows) {
		err = registry.ErrNotFound
	}
	if err != nil {
		return registry.Keys{}, fmt.Errorf("reading the keys of device %s: %w", id, unavailable(err))
	}
	return k, nil
}

// FleetKeys is DeviceKeys for the devices that the filter selects, by id.
func (s *Store) FleetKeys(ctx context.Context, f registry.Filter) ([]registry.Keys, error) {
	limit := f.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	query, args := keysOfAll, []any{string(f.After), limit}
	if f.Group != "" {
		query, args = keysOfGroup, []any{f.Group, string(f.After), limit}
	}
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("reading the keys of devices: %w", unavailable(err))
	}
	defer rows.Close()
	var list []registry.Keys
	for rows.Next() {
		var k registry.Keys
		if err := rows.Scan(&k.Device, &k.Newest, &k.Pending); err != nil {
			return nil, fmt.Errorf("reading the keys of devices: %w", unavailable(err))
		}
		list = append(list, k)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the keys of devices: %w", unavailable(err))
	}
	return list, nil
}

// OrderRotations carries out the orders in one transaction: a pending key for
// each device that has none, and its audit record "rotation.ordered"; where
// there is one, what the order changes of it, and "rotation.changed". A device
// that is not there is registry.ErrNotFound, and nothing is ordered.
func (s *Store) OrderRotations(ctx context.Context, orders []registry.Order) ([]registry.Ordered, error) {
	var done []registry.Ordered
	err := s.write(ctx, func(tx *Tx) error {
		done = make([]registry.Ordered, 0, len(orders))
		for _, o := range orders {
			device, err := tx.deviceRow(o.Device)
			if err != nil {
				return fmt.Errorf("device %s: %w", o.Device, err)
			}
			d, err := tx.order(device, o)
			if err != nil {
				return fmt.Errorf("device %s: %w", o.Device, err)
			}
			done = append(done, d)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ordering rotations: %w", err)
	}
	return done, nil
}

// deviceRow returns the row of a device, or registry.ErrNotFound.
func (tx *Tx) deviceRow(id ecowatt.DeviceID) (device int64, err error) { return tx.w.deviceRow(id) }

func (tx *Tx) order(device int64, o registry.Order) (registry.Ordered, error) {
	pending, found, err := tx.pending(device)
	if err != nil {
		return registry.Ordered{}, err
	}
	if found {
		pending, err = tx.changeOrder(device, o, pending)
		return registry.Ordered{Rotation: pending}, err
	}
	var newest int64
	if _, err := tx.w.row(`SELECT max(epoch) FROM device_key WHERE device = $1`, []any{device}, &newest); err != nil {
		return registry.Ordered{}, fmt.Errorf("reading the keys: %w", err)
	}
	if o.Key == nil || int64(o.Key.Epoch) != newest+1 {
		return registry.Ordered{Stale: true}, nil
	}
	err = tx.addPending(device, session.PendingKey{
		ID: o.Key.ID, Epoch: o.Key.Epoch, KEK: o.Key.KEK, Wrapped: o.Key.Wrapped, Burn: o.Burn, From: o.From,
	}, millis(o.At))
	if err != nil {
		return registry.Ordered{}, err
	}
	r := registry.Rotation{Epoch: o.Key.Epoch, OfferFrom: moment(millis(o.From)), Burn: o.Burn}
	return registry.Ordered{Rotation: r, New: true}, tx.tellOrder(o, "rotation.ordered", fmt.Sprintf("rotation to epoch %d ordered", r.Epoch), r)
}

// pending returns the pending rotation of a device.
func (tx *Tx) pending(device int64) (r registry.Rotation, found bool, err error) {
	found, err = tx.w.row(`SELECT epoch, offer_from, offered_at, burn FROM device_key WHERE device = $1 AND state = 'pending'`, []any{device},
		func(st *sqlite3.Stmt) {
			r = registry.Rotation{Epoch: key.Epoch(st.ColumnInt64(0)), OfferFrom: moment(st.ColumnInt64(1)), Burn: st.ColumnBool(3)}
			if at := st.ColumnInt64(2); at != 0 {
				r.OfferedAt = moment(at)
			}
		})
	if err != nil {
		return registry.Rotation{}, false, fmt.Errorf("reading the pending key: %w", err)
	}
	return r, found, nil
}

// changeOrder makes a pending rotation burn, or come earlier, never the reverse.
func (tx *Tx) changeOrder(device int64, o registry.Order, r registry.Rotation) (registry.Rotation, error) {
	changed := r
	changed.Burn = r.Burn || o.Burn
	if o.From.Before(r.OfferFrom) {
		changed.OfferFrom = moment(millis(o.From))
	}
	if changed == r {
		return r, nil
	}
	_, err := tx.w.exec(`UPDATE device_key SET burn = $1, offer_from = $2 WHERE device = $3 AND state = 'pending'`,
		changed.Burn, millis(changed.OfferFrom), device)
	if err != nil {
		return registry.Rotation{}, fmt.Errorf("changing the pending key: %w", err)
	}
	return changed, tx.tellOrder(o, "rotation.changed", fmt.Sprintf("rotation to epoch %d changed", r.Epoch), changed)
}

func (tx *Tx) tellOrder(o registry.Order, action, text string, r registry.Rotation) error {
	return tx.Append(audit.Record{
		At: o.At, Actor: audit.Actor{Kind: audit.Operator, Name: o.By}, Device: o.Device, Action: action, Text: text,
		Attrs: map[string]string{
			"epoch": strconv.FormatUint(uint64(r.Epoch), 10), "burn": strconv.FormatBool(r.Burn), "offer_from": r.OfferFrom.Format(time.RFC3339),
		},
	})
}

// CancelRotation deletes a pending key that was never offered, and writes the
// audit record "rotation.cancelled". One that was offered, and one that an open
// recovery window waits for, is a *registry.ConflictError; where none is pending,
// registry.ErrNoRotation.
func (s *Store) CancelRotation(ctx context.Context, id ecowatt.DeviceID, by audit.Actor, now time.Time) error {
	err := s.write(ctx, func(tx *Tx) error {
		device, err := tx.deviceRow(id)
		if err != nil {
			return err
		}
		r, found, err := tx.pending(device)
		switch {
		case err != nil:
			return err
		case !found:
			return registry.ErrNoRotation
		case !r.OfferedAt.IsZero():
			return &registry.ConflictError{Problem: "it was offered its next key already, and may be using it"}
		}
		n, err := tx.w.exec(`DELETE FROM device_key WHERE device = $1 AND state = 'pending'
			AND NOT EXISTS (SELECT 1 FROM device d WHERE d.id = $1 AND d.recovery_until > $2)`, device, millis(now))
		if err != nil {
			return fmt.Errorf("deleting the pending key: %w", err)
		}
		if n != 1 {
			return &registry.ConflictError{Problem: "its recovery window is open, and the key is for that: close it first"}
		}
		return tx.Append(audit.Record{
			At: now, Actor: by, Device: id, Action: "rotation.cancelled", Text: fmt.Sprintf("rotation to epoch %d cancelled", r.Epoch),
			Attrs: map[string]string{"epoch": strconv.FormatUint(uint64(r.Epoch), 10)},
		})
	})
	if err != nil {
		return fmt.Errorf("cancelling the rotation of device %s: %w", id, err)
	}
	return nil
}

// OpenRecovery carries out an order and lets the device shake hands with its
// first key until the window ends, and writes the audit record
// "recovery.opened". A window that is open ends then instead. A device whose
// first key is in use, or is destroyed, is a *registry.ConflictError.
func (s *Store) OpenRecovery(ctx context.Context, o registry.Order, until time.Time) (registry.Ordered, error) {
	var done registry.Ordered
	err := s.write(ctx, func(tx *Tx) error {
		device, err := tx.deviceRow(o.Device)
		if err != nil {
			return err
		}
		var state string
		if _, err := tx.w.row(`SELECT state FROM device_key WHERE device = $1 AND epoch = $2`, []any{device, int64(session.FactoryEpoch)}, &state); err != nil {
			return fmt.Errorf("reading the first key: %w", err)
		}
		if session.KeyState(state) == session.KeyActive {
			return &registry.ConflictError{Problem: "its first key is the one in use, so it needs no recovery"}
		}
		if session.KeyState(state) != session.KeyRecovery {
			return &registry.ConflictError{Problem: "its first key was destroyed, so it cannot recover: add it as a new device"}
		}
		if done, err = tx.order(device, o); err != nil || done.Stale {
			return err
		}
		return tx.openWindow(device, o, until)
	})
	if err != nil {
		return registry.Ordered{}, fmt.Errorf("opening the recovery of device %s: %w", o.Device, err)
	}
	return done, nil
}

func (tx *Tx) openWindow(device int64, o registry.Order, until time.Time) error {
	if _, err := tx.w.exec(`UPDATE device SET recovery_until = $1 WHERE id = $2`, millis(until), device); err != nil {
		return fmt.Errorf("opening the window: %w", err)
	}
	// No session outlives the window that lets it in, should this one be shorter.
	if _, err := tx.end(`device = $1 AND recovery = 1 AND created_at + lifetime > $2`, device, millis(until)); err != nil {
		return err
	}
	return tx.Append(audit.Record{
		At: o.At, Actor: audit.Actor{Kind: audit.Operator, Name: o.By}, Device: o.Device,
		Action: "recovery.opened", Text: "recovery window opened", Attrs: map[string]string{"until": until.Format(time.RFC3339)},
	})
}

// CloseRecovery closes an open recovery window, ends the sessions that it let in,
// and writes the audit record "recovery.closed". Without one it does nothing.
func (s *Store) CloseRecovery(ctx context.Context, id ecowatt.DeviceID, by audit.Actor, now time.Time) error {
	err := s.write(ctx, func(tx *Tx) error {
		device, err := tx.deviceRow(id)
		if err != nil {
			return err
		}
		n, err := tx.w.exec(`UPDATE device SET recovery_until = NULL WHERE id = $1 AND recovery_until > $2`, device, millis(now))
		if err != nil || n == 0 {
			return err
		}
		if _, err := tx.end(`device = $1 AND recovery = 1 AND created_at + lifetime > $2`, device, 0); err != nil {
			return err
		}
		return tx.Append(audit.Record{At: now, Actor: by, Device: id, Action: "recovery.closed", Text: "recovery window closed"})
	})
	if err != nil {
		return fmt.Errorf("closing the recovery of device %s: %w", id, err)
	}
	return nil
}
