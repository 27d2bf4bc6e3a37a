package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"ecowatt"
	"ecowatt/cloud/command"
	"ecowatt/cloud/registry"
)

// The lists of the commands of a device, newest first; $2 is a Seq to begin
// before.
const (
	listCommands    = selectCommand + `WHERE c.device = $1 AND c.seq < $2 ORDER BY c.seq DESC LIMIT $3`
	listCommandsIn  = selectCommand + `WHERE c.device = $1 AND c.state = $2 AND c.seq < $3 ORDER BY c.seq DESC LIMIT $4`
	commandsOfOrder = selectCommand + `WHERE c.order_id = $1`
	countCommands   = `SELECT state, count(*) FROM command GROUP BY state`
	keyOfDevice     = selectCommand + `WHERE c.device = (SELECT k.id FROM device k WHERE k.name = $1) AND c.operator = $2 AND c.client_key = $3`
)

// commands returns what a query of selectCommand finds.
func (s *Store) commands(ctx context.Context, query string, args ...any) ([]command.Command, error) {
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("reading commands: %w", unavailable(err))
	}
	defer rows.Close()
	var list []command.Command
	for rows.Next() {
		c, err := scanCommand(rows)
		if err != nil {
			return nil, fmt.Errorf("reading commands: %w", unavailable(err))
		}
		list = append(list, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading commands: %w", unavailable(err))
	}
	return list, nil
}

func scanCommand(row scanner) (command.Command, error) {
	var (
		x     storedCommand
		value sql.NullString
		times [6]sql.NullInt64
	)
	err := row.Scan(&x.id, &x.Device, &x.Seq, &x.order, &x.action, &x.arguments, &x.By, &x.State, &x.Final, &x.Code, &x.Text, &value,
		&times[0], &times[1], &times[2], &times[3], &times[4], &times[5])
	if err != nil {
		return command.Command{}, err
	}
	x.value = value.String
	for i, t := range times {
		x.times[i], x.timesKnown[i] = t.Int64, t.Valid
	}
	return x.made()
}

// oneCommand returns the only command that a query finds, or command.ErrNotFound.
func (s *Store) oneCommand(ctx context.Context, query string, args ...any) (command.Command, error) {
	list, err := s.commands(ctx, query, args...)
	if err == nil && len(list) == 0 {
		err = command.ErrNotFound
	}
	if err != nil {
		return command.Command{}, err
	}
	return list[0], nil
}

// Command returns a command, or command.ErrNotFound.
func (s *Store) Command(ctx context.Context, id command.ID) (command.Command, error) {
	return s.oneCommand(ctx, commandByID, id[:])
}

// Keyed returns the command that an operator has queued for the device under the
// key, or command.ErrNotFound.
func (s *Store) Keyed(ctx context.Context, device ecowatt.DeviceID, by, key string) (command.Command, error) {
	return s.oneCommand(ctx, keyOfDevice, string(device), by, key)
}

// Commands returns the commands of a device that the filter selects, newest
// first. A device that is not there is registry.ErrNotFound.
func (s *Store) Commands(ctx context.Context, id ecowatt.DeviceID, f command.Filter) ([]command.Command, error) {
	device, err := s.deviceRow(ctx, id)
	if err != nil {
		return nil, err
	}
	before := int64(everySession)
	if f.After != (command.ID{}) {
		last, err := s.oneCommand(ctx, commandOfDevice, f.After[:], device)
		if err != nil {
			return nil, err
		}
		before = last.Seq
	}
	limit := f.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	if f.State != "" {
		return s.commands(ctx, listCommandsIn, device, string(f.State), before, limit)
	}
	return s.commands(ctx, listCommands, device, before, limit)
}

// deviceRow returns the row of a device, or registry.ErrNotFound.
func (s *Store) deviceRow(ctx context.Context, id ecowatt.DeviceID) (device int64, err error) {
	err = s.read.QueryRowContext(ctx, `SELECT id FROM device WHERE name = $1`, string(id)).Scan(&device)
	if errors.Is(err, sql.ErrNoRows) {
		err = registry.ErrNotFound
	}
	if err != nil {
		return 0, fmt.Errorf("looking for device %s: %w", id, unavailable(err))
	}
	return device, nil
}

// CommandCounts returns how many commands there are in each state.
func (s *Store) CommandCounts(ctx context.Context) (map[command.State]uint64, error) {
	counts := map[command.State]uint64{}
	for _, state := range command.States() {
		counts[state] = 0
	}
	rows, err := s.read.QueryContext(ctx, countCommands)
	if err != nil {
		return nil, fmt.Errorf("counting commands: %w", unavailable(err))
	}
	defer rows.Close()
	for rows.Next() {
		var state command.State
		var n uint64
		if err := rows.Scan(&state, &n); err != nil {
			return nil, fmt.Errorf("counting commands: %w", unavailable(err))
		}
		counts[state] = n
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("counting commands: %w", unavailable(err))
	}
	return counts, nil
}

// Target returns what is known of a device that is to do something, or
// registry.ErrNotFound.
func (s *Store) Target(ctx context.Context, id ecowatt.DeviceID) (command.Target, error) {
	d, err := s.Device(ctx, id)
	if err != nil {
		return command.Target{}, err
	}
	return targetOf(d), nil
}

// Targets is Target for the devices of a group, by id.
func (s *Store) Targets(ctx context.Context, group string) ([]command.Target, error) {
	var targets []command.Target
	f := registry.Filter{Group: group, Limit: defaultLimit}
	for {
		page, err := s.Devices(ctx, f)
		if err != nil || group == "" {
			return nil, err
		}
		for _, d := range page {
			targets = append(targets, targetOf(d))
		}
		if len(page) < f.Limit {
			return targets, nil
		}
		f.After = page[len(page)-1].ID
	}
}

func targetOf(d registry.Device) command.Target {
	t := command.Target{
		Device: d.ID, Disabled: d.Disabled, Reported: !d.Inventory.ReportedAt.IsZero(), ControlAllowed: d.Inventory.ControlAllowed,
	}
	for _, v := range d.Inventory.Inverters {
		t.Inverters = append(t.Inverters, command.Inverter{Name: v.Name, Points: v.Points})
	}
	return t
}
