package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"ecowatt/agent/buffer"
	"ecowatt/agent/command"
	"ecowatt/wire"
)

// ErrRestart says that the agent ended in order to be started again, as a command
// wants it.
var ErrRestart = errors.New("the agent is to be started again")

// control carries out the commands of the cloud: run is a goroutine of its own,
// the only one that touches the engine. Others leave what concerns it in the
// inbox, and are told how it is.
type control struct {
	queue  *queue
	random io.Reader
	now    func() time.Duration

	mail chan struct{} // capacity 1: there is something in the inbox
	news chan struct{} // capacity 1: there is a result in the queue

	engine *command.Engine               // of run alone,
	told   map[wire.MessageID]command.ID // as is this: results in the queue

	mu     sync.Mutex // guards what follows
	inbox  []delivery
	busy   bool
	leases []command.Lease
	at     time.Duration // when leases were listed
}

// delivery is what one answer has for the engine.
type delivery struct {
	commands []command.Command
	settled  []wire.MessageID
}

// newControl opens the journal of d. d has its uplink, its pollers and its queue.
func newControl(d *device) (*control, error) {
	c := &control{
		queue: d.queue, random: d.random, now: d.now, mail: make(chan struct{}, 1), news: make(chan struct{}, 1),
		told: map[wire.MessageID]command.ID{},
	}
	lines := map[string]command.Line{}
	for _, in := range d.settings.Inverters {
		lines[in.Name] = d.inverters(in)
	}
	var err error
	c.engine, err = command.Open(command.Options{
		FS: d.folder, Logger: d.logger, Now: d.moment, Pause: sleep, Tell: c.tell,
		Allowed: d.settings.AllowControl, Budget: d.settings.WriteBudget,
		Inverter: func(name string) (command.Inverter, bool) {
			for i, in := range d.settings.Inverters {
				if in.Name == name {
					return command.Inverter{Name: name, Unit: in.Unit, Profile: d.pollers[i].Found().Profile, Line: lines[name]}, true
				}
			}
			return command.Inverter{}, false
		},
	})
	if err != nil {
		return nil, fmt.Errorf("opening the journal of commands: %w", err)
	}
	c.look()
	return c, nil
}

// moment is now on both clocks.
func (d *device) moment() command.Moment {
	now := d.now()
	offset, width, known := d.uplink.Clock().Offset(now)
	return command.Moment{Boot: command.ID(d.boot), Mono: now, Known: known, Wall: now + offset, Width: width}
}

// deliver leaves what an answer says about commands: all that the cloud waits for,
// and which messages it has taken. It does not wait.
func (c *control) deliver(commands []wire.Command, settled [][16]byte) {
	x := delivery{}
	for _, w := range commands {
		x.commands = append(x.commands, command.Command{
			ID: command.ID(w.ID), Sequence: w.Sequence, NotAfter: w.NotAfter, Action: w.Action, Arguments: w.Arguments,
		})
	}
	for _, id := range settled {
		x.settled = append(x.settled, id)
	}
	c.mu.Lock()
	c.inbox = append(c.inbox, x)
	c.busy = c.busy || len(x.commands) > 0
	c.mu.Unlock()
	signal(c.mail)
}

// signal leaves a signal in a channel of capacity 1.
func signal(to chan<- struct{}) {
	select {
	case to <- struct{}{}:
	default: // there is one
	}
}

// run carries out commands until ctx ends, or with ErrRestart.
func (c *control) run(ctx context.Context) error {
	for ctx.Err() == nil {
		c.open()
		wait := c.engine.Step(ctx)
		c.look()
		if c.engine.Restart() {
			return ErrRestart
		}
		pause := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-c.mail:
		case <-pause.C:
		}
		pause.Stop()
	}
	return nil
}

// open empties the inbox.
func (c *control) open() {
	c.mu.Lock()
	inbox := c.inbox
	c.inbox = nil
	c.mu.Unlock()
	for _, x := range inbox {
		for _, id := range x.settled {
			if result, ok := c.told[id]; ok {
				delete(c.told, id)
				c.engine.Settled(result)
			}
		}
		c.engine.Deliver(x.commands)
	}
}

// look notes how the engine is.
func (c *control) look() {
	leases := c.engine.Leases()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = c.engine.Busy() || len(c.inbox) > 0
	c.leases, c.at = leases, c.now()
}

// isBusy reports whether a command is under way.
func (c *control) isBusy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.busy
}

// close writes what the next agent need not find out again. run has ended.
func (c *control) close() error { return c.engine.Close() }

// tell puts a result into the queue; it goes up at once.
func (c *control) tell(r command.Result) error {
	body, err := wire.EncodeCommandResult(wire.CommandResult{
		ID: wire.CommandID(r.ID), Status: wire.CommandStatus(r.Status()), Code: string(r.Code), Text: r.Text,
		ExecutedAt: r.ExecutedAt, Value: valueOf(r.Value),
	})
	if err != nil {
		return fmt.Errorf("encoding the result of a command: %w", err)
	}
	m, err := newMessage(wire.KindCommandResult, body, c.random)
	if err != nil {
		return err
	}
	if err := c.queue.put([]buffer.Message{m}); err != nil {
		return err
	}
	if r.Status() != command.Executing {
		c.told[m.ID] = r.ID
	}
	signal(c.news)
	return nil
}

// valueOf is a number as results have it: an integer where it is one.
func valueOf(n *command.Number) any {
	if n == nil {
		return nil
	}
	v := n.Float()
	if whole := int64(v); float64(whole) == v {
		return whole
	}
	return v
}

// LeaseStatus is a power limit that the agent keeps.
type LeaseStatus struct {
	Command  string  `json:"command"` // the id of the one that ordered it
	Inverter string  `json:"inverter"`
	Percent  float64 `json:"percent"`
	InForce  bool    `json:"in_force"` // false where a stricter one is
	Left     float64 `json:"left_s"`   // until it ends by itself
	OnEnd    string  `json:"on_end"`
}

// status lists the power limits.
func (c *control) status(now time.Duration) []LeaseStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []LeaseStatus{}
	for _, l := range c.leases {
		all = append(all, LeaseStatus{
			Command: l.Command.String(), Inverter: l.Inverter, Percent: l.Limit.Float(), InForce: l.InForce,
			Left: max(l.Left-(now-c.at), 0).Seconds(), OnEnd: string(l.OnEnd),
		})
	}
	return all
}
