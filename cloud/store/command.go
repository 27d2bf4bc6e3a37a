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
	"ecowatt/cloud/command"
)

// standingMost is how many commands of a device are looked at for one answer.
const standingMost = 64

// selectCommand is what a command is made of, as storedCommand reads it.
const selectCommand = `SELECT c.id, d.name, c.seq, c.order_id, c.action, c.arguments, c.operator, c.state, c.final, c.code, c.text, c.value,
	c.queued_at, c.expires_at, c.delivered_at, c.executing_at, c.executed_at, c.ended_at
	FROM command c JOIN device d ON d.id = c.device `

const (
	standingCommands = selectCommand + `WHERE c.device = $1 AND c.due_at IS NOT NULL AND c.expires_at > $2 ORDER BY c.seq LIMIT $3`
	commandOfDevice  = selectCommand + `WHERE c.id = $1 AND c.device = $2`
	commandByID      = selectCommand + `WHERE c.id = $1`
	commandByKey     = selectCommand + `WHERE c.device = $1 AND c.operator = $2 AND c.client_key = $3`
)

// storedCommand is a row of selectCommand, before it is known to make sense.
type storedCommand struct {
	command.Command
	id, order  []byte
	action     string
	arguments  string
	value      string // "" for NULL
	times      [6]int64
	timesKnown [6]bool
}

// read reads the row at which a statement stands.
func (x *storedCommand) read(st *sqlite3.Stmt) {
	x.id, x.Device, x.Seq, x.order = st.ColumnBlob(0, nil), ecowatt.DeviceID(st.ColumnText(1)), st.ColumnInt64(2), st.ColumnBlob(3, nil)
	x.action, x.arguments, x.By = st.ColumnText(4), st.ColumnText(5), st.ColumnText(6)
	x.State, x.Final = command.State(st.ColumnText(7)), st.ColumnBool(8)
	x.Code, x.Text, x.value = st.ColumnText(9), st.ColumnText(10), st.ColumnText(11)
	for i := range x.times {
		x.times[i], x.timesKnown[i] = st.ColumnInt64(12+i), st.ColumnType(12+i) != sqlite3.NULL
	}
}

// made is the command of the row.
func (x *storedCommand) made() (command.Command, error) {
	c := x.Command
	c.ID = command.ID(x.id)
	if x.order != nil {
		c.Order = command.ID(x.order)
	}
	var err error
	if c.Task, err = command.ParseTask(command.Action(x.action), []byte(x.arguments)); err != nil {
		return command.Command{}, fmt.Errorf("reading command %v: %w", c.ID, err)
	}
	if x.value != "" {
		if n, err := strconv.ParseInt(x.value, 10, 64); err == nil {
			c.Value = n
		} else if f, err := strconv.ParseFloat(x.value, 64); err == nil {
			c.Value = f
		}
	}
	for i, t := range []*time.Time{&c.QueuedAt, &c.ExpiresAt, &c.DeliveredAt, &c.ExecutingAt, &c.ExecutedAt, &c.EndedAt} {
		if x.timesKnown[i] {
			*t = moment(x.times[i])
		}
	}
	return c, nil
}

// command returns the command that a query of selectCommand finds.
func (c *connection) command(query string, args ...any) (found command.Command, ok bool, err error) {
	var x storedCommand
	ok, err = c.row(query, args, x.read)
	if err == nil && ok {
		found, err = x.made()
	}
	if err != nil {
		return command.Command{}, false, fmt.Errorf("reading a command: %w", err)
	}
	return found, ok, nil
}

// StandingCommands returns the commands that belong into an answer to the device
// now, in their order: no more than a few at a time.
func (tx *Tx) StandingCommands(device int64, now time.Time) ([]command.Command, error) {
	var list []command.Command
	err := tx.w.rows(standingCommands, []any{device, millis(now), int64(standingMost)}, func(st *sqlite3.Stmt) error {
		var x storedCommand
		x.read(st)
		c, err := x.made()
		list = append(list, c)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the commands of a device: %w", err)
	}
	return list, nil
}

// Command returns a command of the device, and whether there is one of this id.
func (tx *Tx) Command(device int64, id command.ID) (command.Command, bool, error) {
	return tx.w.command(commandOfDevice, id[:], device)
}

// SaveCommand stores what a command has become since it was read in this
// transaction, and writes its audit record.
func (tx *Tx) SaveCommand(device int64, c command.Command, by audit.Actor, at time.Time) error {
	var value any
	if c.Value != nil {
		value = fmt.Sprint(c.Value)
	}
	n, err := tx.w.exec(`UPDATE command SET state = $1, final = $2, code = $3, text = $4, value = $5, due_at = $6,
		delivered_at = $7, executing_at = $8, executed_at = $9, ended_at = $10 WHERE id = $11 AND device = $12 AND final = 0`,
		string(c.State), c.Final, c.Code, c.Text, value, orNull(c.Due()),
		orNull(c.DeliveredAt), orNull(c.ExecutingAt), orNull(c.ExecutedAt), orNull(c.EndedAt), c.ID[:], device)
	if err == nil && n != 1 {
		err = errors.New("it is not as it was read")
	}
	if err == nil {
		err = tx.countOpen(device)
	}
	if err != nil {
		return fmt.Errorf("storing command %v: %w", c.ID, err)
	}
	return tx.tellCommand(c, by, at)
}

func (tx *Tx) tellCommand(c command.Command, by audit.Actor, at time.Time) error {
	return tx.Append(audit.Record{At: at, Actor: by, Device: c.Device, Action: c.Event(), Text: c.Line(), Attrs: c.Attrs()})
}

// countOpen keeps the number by which an exchange knows without a look at the
// commands that there are none.
func (tx *Tx) countOpen(device int64) error {
	_, err := tx.w.exec(`UPDATE device SET cmd_open = (SELECT count(*) FROM command WHERE device = $1 AND due_at IS NOT NULL) WHERE id = $1`, device)
	return err
}

// orNull is how a time is stored that may be zero.
func orNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return millis(t)
}

// Queue stores a command, gives it its Seq, and writes the audit record
// "command.queued". Where the operator has queued one under the key, it returns
// that one and changes nothing.
func (s *Store) Queue(ctx context.Context, c command.Command, key string) (command.Command, error) {
	stored := c
	err := s.write(ctx, func(tx *Tx) error {
		device, err := tx.deviceRow(c.Device)
		if err != nil {
			return err
		}
		if key != "" {
			earlier, found, err := tx.w.command(commandByKey, device, c.By, key)
			if err != nil || found {
				stored = earlier
				return err
			}
		}
		stored, err = tx.queue(device, c, key)
		return err
	})
	if err != nil {
		return command.Command{}, fmt.Errorf("queueing a command for device %s: %w", c.Device, err)
	}
	return stored, nil
}

// queue numbers a command. The numbers of a device only grow, also beyond those
// of a cloud whose backup is restored: they follow the time.
func (tx *Tx) queue(device int64, c command.Command, key string) (command.Command, error) {
	if _, err := tx.w.row(`UPDATE device SET cmd_seq = max(cmd_seq + 1, $1) WHERE id = $2 RETURNING cmd_seq`,
		[]any{millis(c.QueuedAt), device}, &c.Seq); err != nil {
		return command.Command{}, fmt.Errorf("numbering it: %w", err)
	}
	arguments, err := json.Marshal(c.Task.Arguments())
	if err != nil {
		return command.Command{}, fmt.Errorf("encoding its arguments: %w", err)
	}
	var order, clientKey any
	if c.Order != (command.ID{}) {
		order = c.Order[:]
	}
	if key != "" {
		clientKey = key
	}
	_, err = tx.w.exec(`INSERT INTO command (id, device, seq, order_id, action, arguments, operator, client_key, state, queued_at, expires_at, due_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`,
		c.ID[:], device, c.Seq, order, string(c.Task.Action), string(arguments), c.By, clientKey, string(c.State),
		millis(c.QueuedAt), millis(c.ExpiresAt), orNull(c.Due()))
	if err == nil {
		err = tx.countOpen(device)
	}
	if err != nil {
		return command.Command{}, err
	}
	return c, tx.tellCommand(c, audit.Actor{Kind: audit.Operator, Name: c.By}, c.QueuedAt)
}

// CancelCommand cancels a command and writes the audit record
// "command.cancelled". One that was sent already, or is over, is a
// *command.TooLateError and stays as it is; one that is not there is
// command.ErrNotFound.
func (s *Store) CancelCommand(ctx context.Context, id command.ID, by audit.Actor, now time.Time) (command.Command, error) {
	var c command.Command
	err := s.write(ctx, func(tx *Tx) error {
		found, ok, err := tx.w.command(commandByID, id[:])
		if err == nil && !ok {
			err = command.ErrNotFound
		}
		if err != nil {
			return err
		}
		var changed bool
		if c, changed, err = found.Cancel(by.Name, now); err != nil || !changed {
			return err
		}
		device, err := tx.deviceRow(c.Device)
		if err != nil {
			return err
		}
		return tx.SaveCommand(device, c, by, now)
	})
	if err != nil {
		return command.Command{}, fmt.Errorf("cancelling command %v: %w", id, err)
	}
	return c, nil
}

// lapseSize is how many commands are given up in one transaction, at most.
const lapseSize = 64

const dueCommands = selectCommand + `WHERE c.due_at <= $1 ORDER BY c.due_at LIMIT $2`

// LapseCommands gives up the commands that are due by now, with the audit record
// "command.expired" for each, in small transactions.
func (s *Store) LapseCommands(ctx context.Context, now time.Time) error {
	for {
		due, err := s.commands(ctx, dueCommands, millis(now), lapseSize)
		if err != nil || len(due) == 0 {
			return err
		}
		err = s.write(ctx, func(tx *Tx) error {
			for _, c := range due {
				if err := tx.lapse(c, now); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("giving up commands: %w", err)
		}
	}
}

// lapse gives up a command, which may have changed since it was seen.
func (tx *Tx) lapse(seen command.Command, now time.Time) error {
	device, err := tx.deviceRow(seen.Device)
	if err != nil {
		return err
	}
	c, found, err := tx.Command(device, seen.ID)
	if err != nil || !found {
		return err
	}
	c, changed := c.Lapse(now)
	if !changed {
		return nil
	}
	return tx.SaveCommand(device, c, audit.Actor{Kind: audit.System, Name: "commands"}, now)
}
