package gateway

import (
	"encoding/hex"
	"math"
	"strconv"
	"time"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/command"
	"ecowatt/wire"
)

// Commands is the part of a transaction that knows what a device is to do.
type Commands interface {
	// StandingCommands returns the commands that belong into an answer now, in
	// their order.
	StandingCommands(device int64, now time.Time) ([]command.Command, error)
	// Command returns a command of the device, and whether there is one of this id.
	Command(device int64, id command.ID) (command.Command, bool, error)
	// SaveCommand stores what a command has become since it was read in this
	// transaction, and its audit record.
	SaveCommand(device int64, c command.Command, by audit.Actor, at time.Time) error
	// SaveLease stores what the device says of a power limit that it keeps.
	SaveLease(device int64, e command.LeaseEvent, at time.Time) error
}

// Bounds of what commands take of an answer, in bytes.
const (
	commandHeads  = 1 + 3   // key of the answer, head of the array
	commandsLeast = 2 << 10 // kept free of results where a command stands: more than the longest but one takes
	maxResultText = 1 << 10 // of what is kept of a device's words about a command
)

// latestTime is the last time that is believed of a device, in ms since 1970: in
// the year 2109.
const latestTime = 1 << 42

// neverSent is the result of a message about a command that there is not.
const neverSent = "a command_result for a command that is not known here"

// reserveCommands takes the room of the commands that wait for the device out of
// what results may take: they must not keep commands away for ever.
func (u *unit) reserveCommands(room int) int {
	if u.claim.Session.Commands == 0 {
		return room
	}
	return room - min(commandsLeast, room/2)
}

// deliver puts the commands that stand into the answer, in their order and as far
// as there is room, and takes note of those that are sent for the first time.
// That marks none as done. The result is the room that is left.
func (u *unit) deliver(tx Tx, room int) (left int, err error) {
	device := u.claim.Session.Device
	standing, err := tx.StandingCommands(device, u.claim.At)
	if err != nil {
		return 0, err
	}
	room -= commandHeads
	for _, c := range standing {
		x := wire.Command{
			ID: wire.CommandID(c.ID), Sequence: uint64(c.Seq), NotAfter: c.ExpiresAt.UnixMilli(),
			Action: string(c.Task.Action), Arguments: c.Task.Arguments(),
		}
		if room -= x.EncodedSize(); room < 0 {
			return 0, nil
		}
		u.commands = append(u.commands, x)
		if sent, changed := c.Sent(u.claim.At); changed {
			if err := tx.SaveCommand(device, sent, audit.Actor{Kind: audit.System, Name: "gateway"}, u.claim.At); err != nil {
				return 0, err
			}
		}
	}
	return room, nil
}

// settle records what the device says of a command, whose message is new.
func (u *unit) settle(tx Tx, c command.Command, r command.Report) error {
	s := u.claim.Session
	c, changed := c.Reported(r, u.claim.At)
	if !changed {
		return nil
	}
	return tx.SaveCommand(s.Device, c, audit.Actor{Kind: audit.Device, Name: string(s.Name)}, u.claim.At)
}

// commandReport reads a command_result.
func commandReport(body []byte) (*command.Report, error) {
	x, err := wire.DecodeCommandResult(body)
	if err != nil {
		return nil, err
	}
	r := &command.Report{
		ID: command.ID(x.ID), Status: command.Status(x.Status),
		Code: clean(x.Code, maxLine), Text: clean(x.Text, maxResultText), Value: x.Value,
	}
	if x.ExecutedAt > 0 && x.ExecutedAt < latestTime {
		r.ExecutedAt = time.UnixMilli(x.ExecutedAt).UTC()
	}
	return r, nil
}

// leaseEvent reads an entry of a device's log that is about a power limit; false
// for any other.
func leaseEvent(e wire.LogEntry) (command.LeaseEvent, bool) {
	x := command.LeaseEvent{Kind: command.LeaseKind(e.Code)}
	switch x.Kind {
	case command.LeaseStarted, command.LeaseEnded, command.LeaseOverwritten:
	default:
		return x, false
	}
	text, ok := e.Attributes["command"].(string)
	id, err := hex.DecodeString(text)
	if !ok || err != nil || len(id) != len(command.ID{}) {
		return x, false
	}
	x.Command = command.ID(id)
	if x.Kind != command.LeaseStarted {
		return x, true
	}
	inverter, _ := e.Attributes["inverter"].(string)
	if x.Inverter, err = ecowatt.ParseName("inverter", inverter); err != nil {
		return x, false
	}
	switch percent := e.Attributes["percent"].(type) {
	case int64:
		x.Percent = float64(percent)
	case float64:
		x.Percent = percent
	case string: // a decimal number
		if x.Percent, err = strconv.ParseFloat(percent, 64); err != nil {
			return x, false
		}
	default:
		return x, false
	}
	if math.IsNaN(x.Percent) || x.Percent < 0 || x.Percent > 100 {
		return x, false
	}
	x.Until = leaseEnd(e.Attributes["until"])
	return x, true
}

// leaseEnd reads when a power limit ends: ms since 1970, or RFC 3339; anything
// else is a time that was not known.
func leaseEnd(v any) time.Time {
	switch v := v.(type) {
	case int64:
		if v > 0 && v < latestTime {
			return time.UnixMilli(v).UTC()
		}
	case string:
		if t, err := time.Parse(time.RFC3339, v); err == nil && t.UnixMilli() > 0 && t.UnixMilli() < latestTime {
			return t.UTC().Truncate(time.Millisecond)
		}
	}
	return time.Time{}
}
