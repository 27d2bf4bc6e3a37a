package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/command"
	"ecowatt/wire"
)

// queue queues a task for a device, to be done within ttl.
func (d *device) queue(task command.Task, ttl time.Duration) command.Command {
	d.t.Helper()
	q := command.NewQueue(d.store, d.random, d.gateway.Wake)
	c, err := q.Post(d.t.Context(), ecowatt.DeviceID(d.name), command.Request{Task: task, TTL: ttl, By: "ann", At: d.time()})
	if err != nil {
		d.t.Fatal(err)
	}
	return c
}

// restart is a task that every device can do.
var restart = command.Task{Action: command.RestartAgent}

// hasState checks how far a command has come.
func (d *device) hasState(id command.ID, want string) {
	d.t.Helper()
	c := d.command(id)
	if got := strings.TrimSpace(string(c.State) + " " + c.Code); got != want {
		d.t.Fatalf("command %v is %s, want %s", id, got, want)
	}
}

// told are the ids of the commands in an answer.
func told(a wire.Answer) (ids []command.ID) {
	for _, c := range a.Commands {
		ids = append(ids, command.ID(c.ID))
	}
	return ids
}

// result is a message of what became of a command.
func (d *device) result(r wire.CommandResult) wire.Message {
	d.t.Helper()
	body, err := wire.EncodeCommandResult(r)
	if err != nil {
		d.t.Fatal(err)
	}
	return wire.Message{ID: random16(d.t), Kind: wire.KindCommandResult, Body: body}
}

// A command stands in every answer, in its order and with all it says, until the
// device has said how it ended, whatever gets lost in between.
func TestCommandStandsUntilItIsSettled(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	d.inventory(true)
	limit := d.queue(command.Task{Action: command.SetPowerLimit, Percent: 40, Lease: 2 * time.Hour}, 10*time.Minute)
	write := d.queue(command.Task{Action: command.WritePoint, Point: "export_power_percent", Value: 50}, 10*time.Minute)
	d.hasState(limit.ID, "queued")
	lost := d.seal(wire.Request{})
	d.send(lost) // the answer is lost
	d.hasState(limit.ID, "delivered")
	first := d.command(limit.ID).DeliveredAt

	c.restart()
	c.wait(time.Minute)
	got := d.exchange(wire.Request{}).Commands
	want := []wire.Command{
		{
			ID: wire.CommandID(limit.ID), Sequence: uint64(limit.Seq), NotAfter: start.Add(10 * time.Minute).UnixMilli(), Action: "set_power_limit",
			Arguments: map[string]any{"inverter": "inv1", "percent": int64(40), "lease_s": int64(7200), "on_end": "restore"},
		},
		{
			ID: wire.CommandID(write.ID), Sequence: uint64(write.Seq), NotAfter: start.Add(10 * time.Minute).UnixMilli(), Action: "write_point",
			Arguments: map[string]any{"inverter": "inv1", "point": "export_power_percent", "value": int64(50)},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	if again := d.command(limit.ID).DeliveredAt; !again.Equal(first) {
		t.Errorf("delivered at %v, then at %v", first, again)
	}

	// Executing does not settle it, a final report does.
	executing := d.result(wire.CommandResult{ID: wire.CommandID(limit.ID), Status: wire.CommandExecuting})
	a := d.exchange(wire.Request{Messages: []wire.Message{executing}})
	d.hasState(limit.ID, "executing")
	if diff := cmp.Diff([]command.ID{limit.ID, write.ID}, told(a)); diff != "" {
		t.Error(diff)
	}
	done := d.result(wire.CommandResult{
		ID: wire.CommandID(limit.ID), Status: wire.CommandSucceeded, Text: "40 % read back", ExecutedAt: start.Add(time.Minute).UnixMilli(), Value: int64(40),
	})
	a = d.exchange(wire.Request{Messages: []wire.Message{done}})
	if diff := cmp.Diff([]command.ID{write.ID}, told(a)); diff != "" {
		t.Error(diff)
	}
	x := d.command(limit.ID)
	if x.Value != int64(40) || x.Text != "40 % read back" || !x.ExecutedAt.Equal(start.Add(time.Minute)) || !x.Final {
		t.Errorf("%+v", x)
	}
	d.say(d.result(wire.CommandResult{ID: wire.CommandID(write.ID), Status: wire.CommandRejected, Code: "control_not_allowed"}))
	d.hasState(write.ID, "failed control_not_allowed")
	if a := d.exchange(wire.Request{}); len(a.Commands) != 0 {
		t.Errorf("still told: %v", told(a))
	}
	var log []string
	for _, r := range c.audit("roof-1") {
		if strings.HasPrefix(r.Action, "command.") {
			log = append(log, fmt.Sprintf("%s by %s, %s", r.Action, r.Actor.Name, r.Attrs["action"]))
		}
	}
	if diff := cmp.Diff([]string{
		"command.queued by ann, set_power_limit", "command.queued by ann, write_point",
		"command.delivered by gateway, set_power_limit", "command.delivered by gateway, write_point",
		"command.executing by roof-1, set_power_limit", "command.succeeded by roof-1, set_power_limit", "command.failed by roof-1, write_point",
	}, log); diff != "" {
		t.Error(diff)
	}
}

// inventory reports an inverter whose power can be limited.
func (d *device) inventory(control bool) {
	d.t.Helper()
	body, err := wire.EncodeInventory(wire.Inventory{
		AgentVersion: "1", Hardware: "test", ControlAllowed: control,
		Inverters: map[string]wire.Inverter{"inv1": {Profile: "ecowatt-sim", Points: []ecowatt.Point{
			{Name: "pac", Unit: "W"}, {Name: "export_power_percent", Unit: "%", Writable: true, Max: 100},
		}}},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	if got := d.say(wire.Message{ID: random16(d.t), Kind: wire.KindInventory, Body: body}); got[0].Status != wire.Stored {
		d.t.Fatal(got)
	}
}

// The same message again, and the same report in another message, change nothing.
// A report about what was never ordered, or ordered of another device, is invalid.
func TestResultsAreTakenOnce(t *testing.T) {
	c := newCloud(t)
	d, other := c.connected("roof-1"), c.connected("roof-2")
	x := d.queue(restart, time.Minute)
	d.exchange(wire.Request{})
	report := wire.CommandResult{ID: wire.CommandID(x.ID), Status: wire.CommandSucceeded}
	m := d.result(report)
	records := func() (n int) {
		for _, a := range c.actions("roof-1") {
			if strings.HasPrefix(a, "command.") {
				n++
			}
		}
		return n
	}
	for i, step := range []struct {
		from    *device
		message wire.Message
		want    wire.Status
		text    string
		records int // of the log of roof-1 after it
	}{
		{d, m, wire.Stored, "", 3},
		{d, m, wire.Duplicate, "", 3},
		{d, d.result(report), wire.Stored, "", 3},
		{d, d.result(wire.CommandResult{ID: wire.CommandID(x.ID), Status: wire.CommandFailed}), wire.Stored, "", 3},
		{d, d.result(wire.CommandResult{ID: wire.CommandID(random16(t)), Status: wire.CommandSucceeded}), wire.Invalid, "not known here", 3},
		{other, other.result(report), wire.Invalid, "not known here", 3},
	} {
		got := step.from.say(step.message)
		if got[0].Status != step.want || !strings.Contains(got[0].Text, step.text) {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
		if n := records(); n != step.records {
			t.Errorf("step %d: %d records", i, n)
		}
		d.hasState(x.ID, "succeeded")
	}
}

// What is overdue is not sent. It expires, once, and a late report of what was
// sent before still counts.
func TestCommandsExpire(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	sent := d.queue(restart, time.Minute)
	d.exchange(wire.Request{})
	unsent := d.queue(restart, time.Minute)
	lapse := func() {
		t.Helper()
		if err := c.store.LapseCommands(t.Context(), c.time()); err != nil {
			t.Fatal(err)
		}
	}
	c.wait(time.Minute)
	if a := d.exchange(wire.Request{}); len(a.Commands) != 0 {
		t.Errorf("told of %v", told(a))
	}
	lapse()
	d.hasState(unsent.ID, "expired undelivered")
	d.hasState(sent.ID, "delivered")
	c.wait(command.Patience)
	lapse()
	d.hasState(sent.ID, "expired unanswered")
	c.unchanged("to look again", lapse)
	d.say(d.result(wire.CommandResult{ID: wire.CommandID(sent.ID), Status: wire.CommandSucceeded}))
	d.hasState(sent.ID, "succeeded")
}

// Commands go out in their order as far as there is room; the next ones follow
// when those are settled. Results do not keep them away.
func TestCommandsGoOutInOrder(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	d.inventory(true)
	var want []command.ID
	for range 100 {
		want = append(want, d.queue(command.Task{Action: command.WritePoint, Point: "export_power_percent", Value: 50}, time.Hour).ID)
	}
	var got []command.ID
	for round := 0; len(got) < len(want) && round < 100; round++ {
		q := wire.Request{MaxAnswer: 4096}
		for range 300 {
			q.Messages = append(q.Messages, d.logged())
		}
		for _, id := range got {
			q.Messages = slices.Insert(q.Messages, 0, d.result(wire.CommandResult{ID: wire.CommandID(id), Status: wire.CommandSucceeded}))
		}
		a := d.exchange(q)
		if len(a.Commands) == 0 || len(a.Results) == 0 {
			t.Fatalf("round %d: %d commands, %d results", round, len(a.Commands), len(a.Results))
		}
		for _, id := range told(a) {
			if !slices.Contains(got, id) {
				got = append(got, id)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Whoever cancels while the device comes learns the truth: either the command
// never went out, or it was too late.
func TestCancelRaces(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	for range 50 {
		x := d.queue(restart, time.Hour)
		var wait sync.WaitGroup
		var err error
		wait.Go(func() {
			_, err = c.store.CancelCommand(context.WithoutCancel(t.Context()), x.ID, audit.Actor{Kind: audit.Operator, Name: "bob"}, c.time())
		})
		a := d.exchange(wire.Request{})
		wait.Wait()
		late := (*command.TooLateError)(nil)
		switch {
		case err == nil && len(a.Commands) == 0:
			d.hasState(x.ID, "cancelled")
		case errors.As(err, &late) && late.State == command.Delivered && len(a.Commands) == 1:
			d.hasState(x.ID, "delivered")
		default:
			t.Fatalf("cancelled: %v; told: %v", err, told(a))
		}
		d.say(d.result(wire.CommandResult{ID: wire.CommandID(x.ID), Status: wire.CommandSucceeded}))
	}
}

// A command that is queued while an exchange is committed goes out with that one
// or with the next; one unit of work that runs twice sends it once.
func TestCommandAndUnitTwice(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	c.use(&twiceStore{countingStore{Store: c.options().Store.(*countingStore).Store, cloud: c}})
	x := d.queue(restart, time.Minute)
	if diff := cmp.Diff([]command.ID{x.ID}, told(d.exchange(wire.Request{}))); diff != "" {
		t.Error(diff)
	}
}

// What a device says of its power limits is kept, as far as it makes sense.
func TestLeases(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	d.inventory(true)
	x := d.queue(command.Task{Action: command.SetPowerLimit, Percent: 40}, time.Minute)
	started := func(id string, percent, until any) wire.LogEntry {
		return wire.LogEntry{Level: wire.LevelInfo, Code: "lease_started", Text: "limited", Attributes: map[string]any{
			"command": id, "inverter": "inv1", "percent": percent, "until": until,
		}}
	}
	foreign := strings.Repeat("ab", 16)
	until := start.Add(time.Hour)
	about := func(code, id string) wire.LogEntry {
		return wire.LogEntry{Level: wire.LevelInfo, Code: code, Attributes: map[string]any{"command": id}}
	}
	leases := func() (list []string) {
		t.Helper()
		found, err := c.store.Leases(t.Context(), "roof-1")
		if err != nil {
			t.Fatal(err)
		}
		in := command.InForce(found, c.time())
		for i, l := range found {
			end := "?"
			if !l.Until.IsZero() {
				end = l.Until.Format("15:04")
			}
			list = append(list, fmt.Sprintf("%s %v %% until %s by %s, in force: %v", l.Inverter, l.Percent, end, l.By, in[i]))
		}
		return list
	}
	d.say(d.logged(started(x.ID.String(), int64(40), until.UnixMilli()), started(foreign, "55.5", nil),
		started("no id", int64(1), nil), started(strings.Repeat("cd", 16), "much", nil), started(strings.Repeat("cd", 16), int64(200), nil), about("lease_ended", "x")))
	if diff := cmp.Diff([]string{"inv1 40 % until 13:00 by ann, in force: true", "inv1 55.5 % until ? by , in force: false"}, leases()); diff != "" {
		t.Error(diff)
	}
	d.say(d.logged(about("lease_overwritten", x.ID.String())))
	if diff := cmp.Diff([]string{"inv1 40 % until 13:00 by ann, in force: false", "inv1 55.5 % until ? by , in force: true"}, leases()); diff != "" {
		t.Error(diff)
	}
	d.say(d.logged(about("lease_ended", x.ID.String())))
	if diff := cmp.Diff([]string{"inv1 55.5 % until ? by , in force: true"}, leases()); diff != "" {
		t.Error(diff)
	}
	d.say(d.logged(about("lease_ended", foreign)))
	if left := leases(); left != nil {
		t.Errorf("left: %v", left)
	}
	for i := range 2 * command.MaxLeases {
		c.wait(time.Second)
		d.say(d.logged(started(fmt.Sprintf("%032x", i), int64(50), nil)))
	}
	if n := len(leases()); n != command.MaxLeases {
		t.Errorf("%d leases are kept", n)
	}
}
