package store

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/registry"
	"ecowatt/key"
)

// defaultLimit is how many rows a list has when its filter names no limit.
const defaultLimit = 1000

// CreateDevice stores a device and its first key, and the audit record
// "device.added". A name that is taken is registry.ErrExists.
func (s *Store) CreateDevice(ctx context.Context, n registry.NewDevice) error {
	err := s.write(ctx, func(tx *Tx) error {
		at := millis(n.CreatedAt)
		_, err := tx.w.exec(`INSERT INTO device (name, grp, notes, time_zone, created_at) VALUES ($1, $2, $3, $4, $5)`,
			string(n.ID), n.Group, n.Notes, cmp.Or(n.TimeZone, "UTC"), at)
		if errors.Is(err, sqlite3.CONSTRAINT_UNIQUE) {
			return registry.ErrExists
		}
		if err != nil {
			return err
		}
		_, err = tx.w.exec(`INSERT INTO device_key (psk_id, device, epoch, state, kek, wrapped, since, created_at)
			SELECT $1, id, $2, 'active', $3, $4, $5, $5 FROM device WHERE name = $6`,
			n.Key.ID[:], int64(n.Key.Epoch), n.Key.KEK, n.Key.Wrapped, at, string(n.ID))
		if err != nil {
			return err
		}
		by := audit.Actor{Kind: audit.Operator, Name: n.By}
		err = tx.Append(audit.Record{
			At: n.CreatedAt, Actor: by, Device: n.ID, Action: "device.added", Text: "device added", Attrs: map[string]string{"group": n.Group},
		})
		if err != nil {
			return err
		}
		return tx.regroup(n.ID, n.Group, by, n.CreatedAt)
	})
	if err != nil {
		return fmt.Errorf("creating device %s: %w", n.ID, err)
	}
	return nil
}

// UpdateDevice makes the change and writes the audit record "device.changed";
// disabling a device ends its sessions in the same transaction. A device that
// is not there is registry.ErrNotFound, a change that is not allowed a
// *registry.InvalidError.
func (s *Store) UpdateDevice(ctx context.Context, id ecowatt.DeviceID, c registry.Change, by audit.Actor, now time.Time) error {
	if err := c.Check(); err != nil {
		return err
	}
	err := s.write(ctx, func(tx *Tx) error {
		var device int64
		if found, err := tx.w.row(`SELECT id FROM device WHERE name = $1`, []any{string(id)}, &device); err != nil || !found {
			return errors.Join(err, registry.ErrNotFound)
		}
		attrs, err := tx.changeDevice(device, c)
		if err != nil {
			return err
		}
		err = tx.Append(audit.Record{
			At: now, Actor: by, Device: id, Action: "device.changed", Text: "device changed", Attrs: attrs,
		})
		if err != nil || c.Group == nil {
			return err
		}
		return tx.regroup(id, *c.Group, by, now)
	})
	if err != nil {
		return fmt.Errorf("changing device %s: %w", id, err)
	}
	return nil
}

// regroup makes what is desired of a device follow its group.
func (tx *Tx) regroup(id ecowatt.DeviceID, group string, by audit.Actor, now time.Time) error {
	device, err := tx.deviceRow(id)
	if err != nil {
		return err
	}
	why := cause{text: "it is in no group", by: by, at: now}
	if group != "" {
		why.text = "it is in group " + group
	}
	_, _, err = tx.refreshConfig(device, why)
	return err
}

func (tx *Tx) changeDevice(device int64, c registry.Change) (map[string]string, error) {
	attrs := map[string]string{}
	var errs []error
	if c.Group != nil {
		attrs["group"] = *c.Group
		_, err := tx.w.exec(`UPDATE device SET grp = $1 WHERE id = $2`, *c.Group, device)
		errs = append(errs, err)
	}
	if c.Notes != nil {
		attrs["notes"] = *c.Notes
		_, err := tx.w.exec(`UPDATE device SET notes = $1 WHERE id = $2`, *c.Notes, device)
		errs = append(errs, err)
	}
	if c.TimeZone != nil {
		attrs["time_zone"] = *c.TimeZone
		_, err := tx.w.exec(`UPDATE device SET time_zone = $1 WHERE id = $2`, *c.TimeZone, device)
		errs = append(errs, err)
	}
	if c.Disabled != nil {
		attrs["disabled"] = fmt.Sprint(*c.Disabled)
		_, err := tx.w.exec(`UPDATE device SET disabled = $1 WHERE id = $2`, *c.Disabled, device)
		errs = append(errs, err)
		if *c.Disabled {
			_, err := tx.endSessions(device, everySession)
			errs = append(errs, err)
		}
	}
	return attrs, errors.Join(errs...)
}

// What a device is made of; last_seen is the later of the ended sessions' and
// the living ones'.
const selectDevice = `SELECT d.name, d.grp, d.notes, d.time_zone, d.disabled, d.created_at,
	k.epoch, k.since, n.epoch, n.offer_from, n.offered_at, n.burn, d.recovery_until,
	(SELECT a.last_at FROM alarm a WHERE a.device = d.id AND a.reason = 'CLONE_SUSPECT'),
	d.last_seen, (SELECT max(s.seen_at) FROM session s WHERE s.device = d.id),
	d.fw_release, d.fw_state, d.fw_version, d.cfg_revision, d.cfg_pending > 0, d.cfg_drift,
	i.reported_at, i.agent_version, i.hardware, i.control_allowed, i.inverters,
	lower(hex(r.id)), r.state, r.version, r.number, u.phase, u.times ->> u.phase
	FROM device d LEFT JOIN inventory i ON i.device = d.id
	LEFT JOIN device_key k ON k.device = d.id AND k.state = 'active'
	LEFT JOIN device_key n ON n.device = d.id AND n.state = 'pending'
	LEFT JOIN rollout_device u ON u.device = d.id AND u.watched = 1 AND u.ended_at IS NULL
	LEFT JOIN rollout r ON r.id = u.rollout `

const (
	oneDevice    = selectDevice + `WHERE d.name = $1`
	allDevices   = selectDevice + `WHERE d.name > $1 ORDER BY d.name LIMIT $2`
	groupDevices = selectDevice + `WHERE d.grp = $1 AND d.grp <> '' AND d.name > $2 ORDER BY d.name LIMIT $3`
)

// Device returns one device, or registry.ErrNotFound.
func (s *Store) Device(ctx context.Context, id ecowatt.DeviceID) (registry.Device, error) {
	d, err := scanDevice(s.read.QueryRowContext(ctx, oneDevice, string(id)))
	if errors.Is(err, sql.ErrNoRows) {
		err = registry.ErrNotFound
	}
	if err != nil {
		return registry.Device{}, fmt.Errorf("reading device %s: %w", id, unavailable(err))
	}
	return d, nil
}

// Devices returns the devices that the filter selects, by id.
func (s *Store) Devices(ctx context.Context, f registry.Filter) ([]registry.Device, error) {
	limit := f.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	query, args := allDevices, []any{string(f.After), limit}
	if f.Group != "" {
		query, args = groupDevices, []any{f.Group, string(f.After), limit}
	}
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("reading devices: %w", unavailable(err))
	}
	defer rows.Close()
	var devices []registry.Device
	for rows.Next() {
		d, err := scanDevice(rows)
		if err != nil {
			return nil, fmt.Errorf("reading devices: %w", unavailable(err))
		}
		devices = append(devices, d)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading devices: %w", unavailable(err))
	}
	return devices, nil
}

type scanner interface{ Scan(dest ...any) error }

func scanDevice(row scanner) (registry.Device, error) {
	var (
		d                                 registry.Device
		created                           int64
		epoch, since                      sql.NullInt64
		next                              nullRotation
		recovery, cloned                  sql.NullInt64
		seenBefore, seenNow, reported     sql.NullInt64
		release                           sql.NullInt64
		state, version                    sql.NullString
		agentVersion, hardware, inverters sql.NullString
		control                           sql.NullBool
		update                            nullUpdate
	)
	err := row.Scan(&d.ID, &d.Group, &d.Notes, &d.TimeZone, &d.Disabled, &created,
		&epoch, &since, &next.epoch, &next.from, &next.offered, &next.burn, &recovery, &cloned, &seenBefore, &seenNow,
		&release, &state, &version, &d.Config.Revision, &d.Config.Pending, &d.Config.Drift, &reported, &agentVersion, &hardware, &control, &inverters,
		&update.rollout, &update.state, &update.version, &update.release, &update.phase, &update.since)
	if err != nil {
		return registry.Device{}, err
	}
	d.CreatedAt, d.Epoch, d.KeySince = moment(created), key.Epoch(epoch.Int64), moments(since)
	d.Cloned = moments(cloned)
	d.Rotation, d.Recovery = next.rotation(), moments(recovery)
	d.LastSeen = moments(seenBefore)
	if now := moments(seenNow); now.After(d.LastSeen) {
		d.LastSeen = now
	}
	d.Update = update.update()
	d.Firmware = registry.Firmware{Release: uint64(release.Int64), State: state.String, Version: version.String}
	if !reported.Valid {
		return d, nil
	}
	d.Inventory = registry.Inventory{
		ReportedAt: moments(reported), AgentVersion: agentVersion.String,
		Hardware: hardware.String, ControlAllowed: control.Bool,
	}
	d.Inventory.Inverters, err = decodeInverters(inverters.String)
	return d, err
}

// nullUpdate is an update that is open as a left join finds it.
type nullUpdate struct {
	rollout, state, version, phase sql.NullString
	release, since                 sql.NullInt64
}

func (u nullUpdate) update() registry.Update {
	return registry.Update{
		Rollout: u.rollout.String, State: u.state.String, Version: u.version.String, Release: uint64(u.release.Int64), Phase: u.phase.String,
		Since: moments(u.since),
	}
}

// nullRotation is a pending key as a left join finds it.
type nullRotation struct {
	epoch, from, offered sql.NullInt64
	burn                 sql.NullBool
}

func (r nullRotation) rotation() *registry.Rotation {
	if !r.epoch.Valid {
		return nil
	}
	return &registry.Rotation{
		Epoch: key.Epoch(r.epoch.Int64), OfferFrom: moments(r.from), OfferedAt: moments(r.offered), Burn: r.burn.Bool,
	}
}

// storedInverter is an inverter as the inventory table holds it.
type storedInverter struct {
	Name           string          `json:"name"`
	Profile        string          `json:"profile"`
	ProfileVersion string          `json:"profile_version"`
	Serial         string          `json:"serial"`
	Model          string          `json:"model"`
	Points         []ecowatt.Point `json:"points"`
}

func encodeInverters(inverters []registry.Inverter) (string, error) {
	stored := make([]storedInverter, len(inverters))
	for i, v := range inverters {
		stored[i] = storedInverter(v)
	}
	text, err := json.Marshal(stored)
	if err != nil {
		return "", fmt.Errorf("encoding an inventory: %w", err)
	}
	return string(text), nil
}

func decodeInverters(text string) ([]registry.Inverter, error) {
	var stored []storedInverter
	if err := json.Unmarshal([]byte(text), &stored); err != nil {
		return nil, fmt.Errorf("decoding an inventory: %w", err)
	}
	inverters := make([]registry.Inverter, len(stored))
	for i, v := range stored {
		inverters[i] = registry.Inverter(v)
	}
	return inverters, nil
}

// Report stores what a device said of itself in an exchange, and says what of
// it is new.
func (tx *Tx) Report(device int64, r registry.Report) (registry.News, error) {
	var news registry.News
	if f := r.Firmware; f != nil {
		n, err := tx.w.exec(`UPDATE device SET fw_release = $1, fw_state = $2, fw_version = $3 WHERE id = $4
			AND (fw_release IS DISTINCT FROM $1 OR fw_state IS DISTINCT FROM $2 OR fw_version IS DISTINCT FROM $3)`,
			int64(f.Release), f.State, f.Version, device)
		if err != nil {
			return registry.News{}, fmt.Errorf("storing the firmware report: %w", err)
		}
		news.Firmware = n > 0
	}
	if v := r.Inventory; v != nil {
		isNew, err := tx.reportInventory(device, *v, millis(r.At))
		if err != nil {
			return registry.News{}, fmt.Errorf("storing the inventory: %w", err)
		}
		news.Inventory = isNew
	}
	return news, nil
}

func (tx *Tx) reportInventory(device int64, v registry.Inventory, at int64) (bool, error) {
	inverters, err := encodeInverters(v.Inverters)
	if err != nil {
		return false, err
	}
	n, err := tx.w.exec(`UPDATE inventory SET reported_at = $1
		WHERE device = $2 AND agent_version = $3 AND hardware = $4 AND control_allowed = $5 AND inverters = $6`,
		at, device, v.AgentVersion, v.Hardware, v.ControlAllowed, inverters)
	if err != nil || n > 0 {
		return false, err
	}
	_, err = tx.w.exec(`INSERT INTO inventory (device, reported_at, agent_version, hardware, control_allowed, inverters)
		VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (device) DO UPDATE SET reported_at = excluded.reported_at, agent_version = excluded.agent_version,
			hardware = excluded.hardware, control_allowed = excluded.control_allowed, inverters = excluded.inverters`,
		device, at, v.AgentVersion, v.Hardware, v.ControlAllowed, inverters)
	return true, err
}
