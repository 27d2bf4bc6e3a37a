package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"time"

	"ecowatt/cloud/api"
	"ecowatt/cloud/command"
)

// How a command is posted and waited for.
const (
	postTries   = 3
	postPause   = time.Second
	commandLook = 250 * time.Millisecond // between two looks at what has become of it
)

// postOnce posts in and decodes the answer into out, again where the cloud is away
// for a moment: under a key of its own, so that it takes effect once.
func (c *client) postOnce(ctx context.Context, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encoding a request: %w", err)
	}
	id, err := command.NewID(rand.Reader)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := c.callWith(ctx, http.MethodPost, path, body, map[string]string{"Idempotency-Key": id.String()}, out)
		if err == nil || try == postTries || !passing(err) || !pause(ctx, postPause) {
			return err
		}
	}
}

// pause waits, and reports whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func open(c api.Command) bool { return command.State(c.State).Open() }

// teller tells each state that a command went through once, also one that it had
// left before anybody looked.
type teller struct {
	to   io.Writer
	told map[string]int // states of each command
}

func (t teller) tell(c api.Command) {
	step := func(n int, at *time.Time, state string) {
		if at == nil || n <= t.told[c.ID] {
			return
		}
		t.told[c.ID] = n
		fmt.Fprintf(t.to, "%s  %s  %s\n", localTime(*at), oneLine(c.Device), oneLine(state))
	}
	step(1, &c.QueuedAt, string(command.Queued))
	step(2, c.DeliveredAt, string(command.Delivered))
	step(3, c.ExecutingAt, string(command.Executing))
	step(4, c.EndedAt, stateText(c))
}

// following looks at something that goes on by itself.
type following[T any] struct {
	every time.Duration
	look  func(context.Context) (T, error)
	tell  func(T) (over bool) // is told what it has become
}

// from looks until it is over, or ctx ends; x is what it is now. A cloud that is away
// for a moment is asked again.
func (f following[T]) from(ctx context.Context, x T) (T, error) {
	for !f.tell(x) {
		if !pause(ctx, f.every) {
			return x, ctx.Err()
		}
		now, err := f.look(ctx)
		switch {
		case err == nil:
			x = now
		case ctx.Err() != nil:
			return x, ctx.Err()
		case !passing(err):
			return x, err
		}
	}
	return x, nil
}

// waitCommand tells each state of a command as it comes, until it is known how it
// ended.
func (a *app) waitCommand(ctx context.Context, cloud *client, c api.Command) (api.Command, error) {
	t := teller{a.stderr, map[string]int{}}
	return following[api.Command]{
		every: commandLook,
		tell: func(c api.Command) (over bool) {
			t.tell(c)
			return !open(c)
		},
		look: func(ctx context.Context) (now api.Command, err error) {
			err = cloud.get(ctx, commandPath(c.ID), nil, &now)
			return now, err
		},
	}.from(ctx, c)
}

func orderPath(id string) string { return "/api/v1/orders/" + url.PathEscape(id) }

// orderGroup places an order for a group.
func (a *app) orderGroup(ctx context.Context, cloud *client, r *commandRequest, path string, body api.NewCommand) error {
	var o api.CommandOrder
	if err := cloud.postOnce(ctx, path, body, &o); err != nil {
		return err
	}
	if r.wait {
		var err error
		if o, err = a.waitOrder(ctx, cloud, o); err != nil {
			return err
		}
	}
	if err := a.printOrder(o, r.json); err != nil {
		return err
	}
	if done := o.Counts[string(command.Succeeded)]; r.wait && done < len(o.Devices) {
		return fmt.Errorf("order %s: %d of %d devices have done it", o.ID, done, len(o.Devices))
	}
	return nil
}

// waitOrder tells each state of each device as it comes, until all have ended.
func (a *app) waitOrder(ctx context.Context, cloud *client, o api.CommandOrder) (api.CommandOrder, error) {
	t := teller{a.stderr, map[string]int{}}
	return following[api.CommandOrder]{
		every: commandLook,
		tell: func(o api.CommandOrder) (over bool) {
			over = true
			for _, x := range o.Devices {
				if x.Command != nil {
					t.tell(*x.Command)
					over = over && !open(*x.Command)
				}
			}
			return over
		},
		look: func(ctx context.Context) (now api.CommandOrder, err error) {
			err = cloud.get(ctx, orderPath(o.ID), nil, &now)
			return now, err
		},
	}.from(ctx, o)
}

func (a *app) printOrder(o api.CommandOrder, asJSON bool) error {
	if asJSON {
		return printJSON(a.stdout, o)
	}
	fmt.Fprintln(a.stdout, oneLine(fmt.Sprintf("order %s for group %s by %s: %s", o.ID, o.Group, o.By, orderText(o))))
	t := newTable("DEVICE<", "STATE<", "CODE<", "TEXT<", "COMMAND<")
	for _, x := range o.Devices {
		if c := x.Command; c != nil {
			t.add(x.Device, c.State, orMissing(c.Code), orMissing(c.Text), c.ID)
		} else {
			t.add(x.Device, "refused", x.Refused.Code, x.Refused.Text, missing)
		}
	}
	return t.render(a.stdout)
}

// orderText says what was ordered, of whichever inverter.
func orderText(o api.CommandOrder) string {
	args := maps.Clone(o.Arguments)
	if args["inverter"] == "" {
		args["inverter"] = "its inverter"
	}
	return taskText(o.Action, args)
}
