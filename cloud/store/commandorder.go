package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/command"
)

const (
	selectOrder  = `SELECT id, grp, action, arguments, operator, at, expires_at FROM command_order `
	orderByID    = selectOrder + `WHERE id = $1`
	orderByKey   = selectOrder + `WHERE grp = $1 AND operator = $2 AND client_key = $3`
	refusalsOf   = `SELECT d.name, r.code, r.field, r.problem FROM command_refusal r JOIN device d ON d.id = r.device WHERE r.order_id = $1`
	orderIDByKey = `SELECT id FROM command_order WHERE grp = $1 AND operator = $2 AND client_key = $3`
)

// Place stores an order and its commands in one transaction, with the audit
// record "order.placed" and those of Queue. Where the operator has placed one for
// the group under the key, it returns that one and changes nothing.
func (s *Store) Place(ctx context.Context, o command.Order, key string) (command.Order, error) {
	var earlier []byte
	err := s.write(ctx, func(tx *Tx) error {
		if key != "" {
			found, err := tx.w.row(orderIDByKey, []any{o.Group, o.By, key}, &earlier)
			if err != nil || found {
				return err
			}
		}
		return tx.placeOrder(&o, key)
	})
	if err == nil && earlier != nil {
		return s.Order(ctx, command.ID(earlier))
	}
	if err != nil {
		return command.Order{}, fmt.Errorf("placing an order for group %s: %w", o.Group, err)
	}
	return o, nil
}

func (tx *Tx) placeOrder(o *command.Order, key string) error {
	arguments, err := json.Marshal(o.Task.Arguments())
	if err != nil {
		return fmt.Errorf("encoding its arguments: %w", err)
	}
	var clientKey any
	if key != "" {
		clientKey = key
	}
	_, err = tx.w.exec(`INSERT INTO command_order (id, grp, action, arguments, operator, client_key, at, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		o.ID[:], o.Group, string(o.Task.Action), string(arguments), o.By, clientKey, millis(o.At), millis(o.ExpiresAt))
	if err != nil {
		return err
	}
	queued := 0
	for i, x := range o.Outcomes {
		device, err := tx.deviceRow(x.Device)
		if err != nil {
			return fmt.Errorf("device %s: %w", x.Device, err)
		}
		if x.Command != nil {
			queued++
			c, err := tx.queue(device, *x.Command, "")
			if err != nil {
				return fmt.Errorf("device %s: %w", x.Device, err)
			}
			o.Outcomes[i].Command = &c
			continue
		}
		if _, err := tx.w.exec(`INSERT INTO command_refusal (order_id, device, code, field, problem) VALUES ($1, $2, $3, $4, $5)`,
			o.ID[:], device, string(x.Refused.Code), x.Refused.Field, x.Refused.Problem); err != nil {
			return fmt.Errorf("device %s: %w", x.Device, err)
		}
	}
	return tx.Append(audit.Record{
		At: o.At, Actor: audit.Actor{Kind: audit.Operator, Name: o.By}, Action: "order.placed", Text: "order for group " + o.Group + " placed",
		Attrs: map[string]string{
			"order": o.ID.String(), "group": o.Group, "action": string(o.Task.Action),
			"queued": strconv.Itoa(queued), "refused": strconv.Itoa(len(o.Outcomes) - queued),
		},
	})
}

// Order returns an order and what became of it on each device, or
// command.ErrNotFound.
func (s *Store) Order(ctx context.Context, id command.ID) (command.Order, error) {
	return s.order(ctx, orderByID, id[:])
}

// KeyedOrder returns the order that an operator has placed for the group under
// the key, or command.ErrNotFound.
func (s *Store) KeyedOrder(ctx context.Context, group, by, key string) (command.Order, error) {
	return s.order(ctx, orderByKey, group, by, key)
}

func (s *Store) order(ctx context.Context, query string, args ...any) (command.Order, error) {
	var (
		o               command.Order
		id              []byte
		action, argText string
		at, expires     int64
	)
	err := s.read.QueryRowContext(ctx, query, args...).Scan(&id, &o.Group, &action, &argText, &o.By, &at, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return command.Order{}, command.ErrNotFound
	}
	if err == nil {
		o.ID, o.At, o.ExpiresAt = command.ID(id), moment(at), moment(expires)
		o.Task, err = command.ParseTask(command.Action(action), []byte(argText))
	}
	if err == nil {
		o.Outcomes, err = s.outcomes(ctx, o.ID)
	}
	if err != nil {
		return command.Order{}, fmt.Errorf("reading an order: %w", unavailable(err))
	}
	return o, nil
}

func (s *Store) outcomes(ctx context.Context, id command.ID) ([]command.Outcome, error) {
	commands, err := s.commands(ctx, commandsOfOrder, id[:])
	if err != nil {
		return nil, err
	}
	outcomes := make([]command.Outcome, 0, len(commands))
	for _, c := range commands {
		outcomes = append(outcomes, command.Outcome{Device: c.Device, Command: &c})
	}
	rows, err := s.read.QueryContext(ctx, refusalsOf, id[:])
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var device ecowatt.DeviceID
		var r command.RefusedError
		if err := rows.Scan(&device, &r.Code, &r.Field, &r.Problem); err != nil {
			return nil, err
		}
		outcomes = append(outcomes, command.Outcome{Device: device, Refused: &r})
	}
	slices.SortFunc(outcomes, func(a, b command.Outcome) int { return strings.Compare(string(a.Device), string(b.Device)) })
	return outcomes, rows.Err()
}
