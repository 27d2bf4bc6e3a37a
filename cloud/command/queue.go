package command

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"ecowatt"
)

// Errors of the queue.
var (
	ErrNotFound = errors.New("no such command")
	// ErrKeyUsed says that the client's key names another request.
	ErrKeyUsed = errors.New("the key was used for another command")
)

// Store is the part of the store that a Queue needs.
type Store interface {
	// Target returns what is known of a device; an error where it is not there.
	Target(ctx context.Context, device ecowatt.DeviceID) (Target, error)
	// Targets returns what is known of the devices of a group, by id.
	Targets(ctx context.Context, group string) ([]Target, error)
	// Queue stores a command, gives it its Seq and writes its audit record. Where
	// one is stored that the operator has queued under the key, it returns that one
	// and changes nothing.
	Queue(ctx context.Context, c Command, key string) (Command, error)
	// Place is Queue for all commands of an order, in one transaction.
	Place(ctx context.Context, o Order, key string) (Order, error)
	// Keyed returns the command that the operator has queued under the key, or
	// ErrNotFound.
	Keyed(ctx context.Context, device ecowatt.DeviceID, by, key string) (Command, error)
	// KeyedOrder is Keyed for an order.
	KeyedOrder(ctx context.Context, group, by, key string) (Order, error)
}

// Queue queues commands for devices.
type Queue struct {
	store  Store
	random io.Reader
	wake   func(ecowatt.DeviceID)
}

// NewQueue returns a Queue. random is a cryptographic source; wake is called with
// the devices that have something to do, after it is stored.
func NewQueue(store Store, random io.Reader, wake func(ecowatt.DeviceID)) *Queue {
	return &Queue{store: store, random: random, wake: wake}
}

// Post queues a command for a device. What the device could not do as it last
// described itself is a *RefusedError. Under the key of an earlier request it
// returns what that one queued, or ErrKeyUsed where it asked for something else.
func (q *Queue) Post(ctx context.Context, device ecowatt.DeviceID, r Request) (Command, error) {
	if err := r.check(); err != nil {
		return Command{}, err
	}
	if r.Key != "" {
		c, err := q.store.Keyed(ctx, device, r.By, r.Key)
		if err == nil || !errors.Is(err, ErrNotFound) {
			return r.again(c, err)
		}
	}
	target, err := q.store.Target(ctx, device)
	if err != nil {
		return Command{}, err
	}
	c, err := q.command(target, r)
	if err != nil {
		return Command{}, err
	}
	stored, err := q.store.Queue(ctx, c, r.Key)
	if err != nil {
		return Command{}, err
	}
	if stored.ID != c.ID { // a repetition was faster
		return r.again(stored, nil)
	}
	q.wake(device)
	return stored, nil
}

// PostGroup queues a command for each device of a group that could carry it out,
// and says of the others why not. Under the key of an earlier request it returns
// that order, or ErrKeyUsed where it asked for something else.
func (q *Queue) PostGroup(ctx context.Context, group string, r Request) (Order, error) {
	if err := r.check(); err != nil {
		return Order{}, err
	}
	if r.Key != "" {
		o, err := q.store.KeyedOrder(ctx, group, r.By, r.Key)
		if err == nil || !errors.Is(err, ErrNotFound) {
			return r.orderAgain(o, err)
		}
	}
	targets, err := q.store.Targets(ctx, group)
	if err != nil {
		return Order{}, err
	}
	if len(targets) == 0 {
		return Order{}, refused(CodeInvalid, "group", "there is no device in it")
	}
	id, err := NewID(q.random)
	if err != nil {
		return Order{}, err
	}
	at := whole(r.At)
	o := Order{ID: id, Group: group, Task: r.Task.withDefaults(), By: r.By, At: at, ExpiresAt: at.Add(r.TTL)}
	for _, target := range targets {
		outcome := Outcome{Device: target.Device}
		c, err := q.command(target, r)
		if err == nil {
			c.Order = id
			outcome.Command = &c
		} else if !errors.As(err, &outcome.Refused) {
			return Order{}, err
		}
		o.Outcomes = append(o.Outcomes, outcome)
	}
	placed, err := q.store.Place(ctx, o, r.Key)
	if err != nil {
		return Order{}, err
	}
	if placed.ID != o.ID {
		return r.orderAgain(placed, nil)
	}
	for _, outcome := range placed.Outcomes {
		if outcome.Command != nil {
			q.wake(outcome.Device)
		}
	}
	return placed, nil
}

// command makes the command that a request asks a device for.
func (q *Queue) command(target Target, r Request) (Command, error) {
	task, err := r.Task.Prepare(target)
	if err != nil {
		return Command{}, err
	}
	id, err := NewID(q.random)
	if err != nil {
		return Command{}, err
	}
	at := whole(r.At)
	return Command{
		ID: id, Device: target.Device, Task: task, By: r.By, Progress: Progress{State: Queued}, QueuedAt: at, ExpiresAt: at.Add(r.TTL),
	}, nil
}

// whole is a time as it is stored: in UTC, of whole ms.
func whole(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

// Request asks for a task to be queued.
type Request struct {
	Task Task
	TTL  time.Duration
	By   string // the operator's name
	Key  string // of the client, by which a repetition is known; empty for none
	At   time.Time
}

// MaxKey is the length of the longest key of a client, in bytes.
const MaxKey = 128

func (r Request) check() error {
	if r.TTL < MinTTL || r.TTL > MaxTTL || r.TTL%time.Second != 0 {
		return ttlProblem()
	}
	printable := func(c rune) bool { return c > ' ' && c < 0x7f }
	if len(r.Key) > MaxKey || slices.ContainsFunc([]rune(r.Key), func(c rune) bool { return !printable(c) }) {
		return keyProblem()
	}
	return nil
}

// again is the answer to a request under a key that has queued c.
func (r Request) again(c Command, err error) (Command, error) {
	if err == nil && (!r.Task.asks(c.Task) || c.ExpiresAt.Sub(c.QueuedAt) != r.TTL) {
		err = ErrKeyUsed
	}
	if err != nil {
		return Command{}, err
	}
	return c, nil
}

func (r Request) orderAgain(o Order, err error) (Order, error) {
	if err == nil && (!r.Task.asks(o.Task) || o.ExpiresAt.Sub(o.At) != r.TTL) {
		err = ErrKeyUsed
	}
	if err != nil {
		return Order{}, err
	}
	return o, nil
}

// asks reports whether done is what a device makes of the task.
func (t Task) asks(done Task) bool {
	if t.Inverter == "" {
		t.Inverter = done.Inverter
	}
	t = t.withDefaults()
	return t.Action == done.Action && t.Inverter == done.Inverter && t.Point == done.Point && t.Value == done.Value &&
		t.Percent == done.Percent && t.Lease == done.Lease && t.OnEnd == done.OnEnd && slices.Equal(t.Points, done.Points)
}
