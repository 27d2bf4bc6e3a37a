package gateway_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/command"
	"ecowatt/wire"
)

// executor is a device that does each command once, in order, and keeps its
// reports until they are settled.
type executor struct {
	*device
	done    map[command.ID]wire.CommandStatus // the last word, as it happened
	order   []command.ID
	reports []wire.Message
}

// takes does what an answer tells.
func (e *executor) takes(a wire.Answer, dice *rand.Rand) {
	for _, r := range a.Results {
		e.reports = slices.DeleteFunc(e.reports, func(m wire.Message) bool { return m.ID == r.ID && r.Status.Settles() })
	}
	for _, c := range a.Commands {
		id := command.ID(c.ID)
		if status, known := e.done[id]; known { // told again: it is only reported again
			e.reports = append(e.reports, e.result(wire.CommandResult{ID: c.ID, Status: status}))
			continue
		}
		status := wire.CommandSucceeded
		if e.time().UnixMilli() >= c.NotAfter {
			status = wire.CommandExpired
		} else if dice.IntN(4) == 0 {
			status = wire.CommandFailed
		}
		e.done[id], e.order = status, append(e.order, id)
		e.reports = append(e.reports, e.result(wire.CommandResult{ID: c.ID, Status: wire.CommandExecuting}),
			e.result(wire.CommandResult{ID: c.ID, Status: status}))
	}
}

// Random schedules of orders, cancellations, lost answers, lost requests, restarts
// of the cloud and time: each command is done once or not at all, in the order in
// which it was queued, and in the end the cloud says of each what the device did.
//
// Attacks: O11
func TestCommandSchedules(t *testing.T) {
	for seed := range uint64(4) {
		dice := rand.New(rand.NewPCG(seed, 6))
		c := newCloud(t)
		e := &executor{device: c.connected("roof-1"), done: map[command.ID]wire.CommandStatus{}}
		var all []command.ID
		cancelled := map[command.ID]bool{}
		exchange := func(lost bool) {
			r := e.seal(wire.Request{Messages: e.reports})
			got := e.send(r)
			if !lost {
				e.takes(e.opened(r, got), dice)
			}
		}
		lapse := func() {
			if err := c.store.LapseCommands(t.Context(), c.time()); err != nil {
				t.Fatal(err)
			}
		}
		for range 60 {
			switch dice.IntN(10) {
			case 0, 1, 2:
				all = append(all, e.queue(restart, time.Duration(1+dice.IntN(40))*time.Minute).ID)
			case 3:
				if len(all) == 0 {
					continue
				}
				id := all[dice.IntN(len(all))]
				_, err := c.store.CancelCommand(t.Context(), id, audit.Actor{Kind: audit.Operator, Name: "bob"}, c.time())
				if late := (*command.TooLateError)(nil); err != nil && !errors.As(err, &late) {
					t.Fatal(err)
				}
				cancelled[id] = cancelled[id] || err == nil
			case 4:
				c.restart()
			case 5:
				c.wait(time.Duration(dice.IntN(30)) * time.Minute)
			case 6:
				lapse()
			case 7:
				exchange(true)
			default:
				exchange(false)
			}
		}
		exchange(false)
		for len(e.reports) > 0 {
			exchange(false)
		}
		c.wait(time.Hour + command.Patience)
		lapse()
		for _, id := range all {
			x := c.command(id)
			word, reached := e.done[id]
			switch {
			case reached && cancelled[id]:
				t.Errorf("seed %d: %v was cancelled and done", seed, id)
			case reached && (string(x.State) != string(word) || !x.Final):
				t.Errorf("seed %d: %v is %s %s, the device says %s", seed, id, x.State, x.Code, word)
			case !reached && cancelled[id] != (x.State == command.Cancelled):
				t.Errorf("seed %d: %v is %s, cancelled: %v", seed, id, x.State, cancelled[id])
			case !reached && !cancelled[id] && (x.State != command.Expired || (x.Code == command.CodeUndelivered) != x.DeliveredAt.IsZero()):
				t.Errorf("seed %d: %v is %s %s", seed, id, x.State, x.Code)
			}
		}
		position := func(id command.ID) int { return slices.Index(all, id) }
		if !slices.IsSortedFunc(e.order, func(a, b command.ID) int { return position(a) - position(b) }) {
			t.Errorf("seed %d: done in another order", seed)
		}
		if open := c.rows(`SELECT cmd_open FROM device`); open[0] != "[0]" {
			t.Errorf("seed %d: %s commands are open", seed, open)
		}
		c.stop()
	}
}

// command is what the cloud knows of a command.
func (c *cloud) command(id command.ID) command.Command {
	c.t.Helper()
	x, err := c.store.Command(c.t.Context(), id)
	if err != nil {
		c.t.Fatal(err)
	}
	return x
}
