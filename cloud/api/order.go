package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/command"
)

// CommandOrder is a command for each device of a group, and what became of it.
type CommandOrder struct {
	ID        string         `json:"id" doc:"32 hexadecimal digits"`
	Group     string         `json:"group"`
	Action    string         `json:"action" enum:"write_point,set_power_limit,read_points,restart_agent"`
	Arguments map[string]any `json:"arguments" doc:"As asked for; those of each command are complete"`
	By        string         `json:"by"`
	At        time.Time      `json:"at"`
	ExpiresAt time.Time      `json:"expires_at"`
	Counts    map[string]int `json:"counts" doc:"Devices by state of their command, and refused"`
	Devices   []OrderOutcome `json:"devices" nullable:"false" doc:"By id"`
}

// OrderOutcome is what became of an order on one device.
type OrderOutcome struct {
	Device  string   `json:"device"`
	Command *Command `json:"command,omitempty" doc:"Absent where it was refused"`
	Refused *Refusal `json:"refused,omitempty" doc:"Absent where it was queued"`
}

// Refusal says why a command was not queued.
type Refusal struct {
	Code  string `json:"code"`
	Field string `json:"field" doc:"What is wrong: an argument, or what is in the way on the device"`
	Text  string `json:"text"`
}

func showOrder(o command.Order) CommandOrder {
	out := CommandOrder{
		ID: o.ID.String(), Group: o.Group, Action: string(o.Task.Action), Arguments: o.Task.Arguments(), By: o.By, At: o.At, ExpiresAt: o.ExpiresAt,
		Counts: map[string]int{}, Devices: []OrderOutcome{},
	}
	for _, x := range o.Outcomes {
		y := OrderOutcome{Device: string(x.Device)}
		if x.Command != nil {
			c := showCommand(*x.Command)
			y.Command = &c
			out.Counts[c.State]++
		} else {
			y.Refused = &Refusal{Code: string(x.Refused.Code), Field: x.Refused.Field, Text: x.Refused.Problem}
			out.Counts["refused"]++
		}
		out.Devices = append(out.Devices, y)
	}
	return out
}

type (
	postOrderInput struct {
		Group string `path:"group" doc:"The group"`
		NewCommandInput
	}
	postOrderOutput struct {
		Location string `header:"Location"`
		Body     CommandOrder
	}
	orderInput struct {
		Order string `path:"order" doc:"The order's id"`
	}
	orderOutput struct{ Body CommandOrder }
)

func (s *server) registerOrders(bodyErrors []int) {
	register(s, access.OrderCommands, huma.Operation{
		OperationID: "post-order", Method: http.MethodPost, Path: "/groups/{group}/commands", DefaultStatus: http.StatusCreated,
		Summary: "Tell the devices of a group to do something",
		Description: "Queues a command for each device of the group that could do it as it last described itself, all in one step. The others " +
			"are listed with the reason, and stop nothing.",
		Errors: bodyErrors, SkipValidateBody: true,
	}, s.postOrder)
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "get-order", Method: http.MethodGet, Path: "/orders/{order}",
		Summary:     "Show an order for a group",
		Description: "What became of it on each device by now.",
		Errors:      []int{http.StatusNotFound},
	}, s.getOrder)
}

func (s *server) postOrder(ctx context.Context, in *postOrderInput) (*postOrderOutput, error) {
	if _, err := ecowatt.ParseName("group", in.Group); err != nil {
		return nil, problemf(http.StatusNotFound, "there is no group %.80q", in.Group)
	}
	r, err := s.request(ctx, in.NewCommandInput)
	if err != nil {
		return nil, err
	}
	o, err := s.Commander.PostGroup(ctx, in.Group, r)
	if err != nil {
		return nil, err
	}
	return &postOrderOutput{Location: prefix + "/orders/" + o.ID.String(), Body: showOrder(o)}, nil
}

func (s *server) getOrder(ctx context.Context, in *orderInput) (*orderOutput, error) {
	id, err := command.ParseID(in.Order)
	if err != nil {
		return nil, problemf(http.StatusNotFound, "there is no order %.80q", in.Order)
	}
	o, err := s.Commands.Order(ctx, id)
	if errors.Is(err, command.ErrNotFound) {
		return nil, problemf(http.StatusNotFound, "there is no order %v", id)
	}
	if err != nil {
		return nil, err
	}
	return &orderOutput{Body: showOrder(o)}, nil
}

// PowerLimit is a limit that a device says it keeps.
type PowerLimit struct {
	Inverter      string     `json:"inverter"`
	Percent       float64    `json:"percent"`
	InForce       bool       `json:"in_force" doc:"It is what the inverter is limited by: the most restrictive of those that have not ended"`
	Until         *time.Time `json:"until" doc:"When it ends by itself; null where the device did not know the time"`
	Since         time.Time  `json:"since" doc:"When the device said so"`
	OverwrittenAt *time.Time `json:"overwritten_at,omitempty" doc:"When the device found another value, which it does not fight over; absent for never"`
	Command       string     `json:"command" doc:"The id of the command that ordered it"`
	By            string     `json:"by" doc:"Who ordered it; empty where that is not known here"`
}

// powerLimits are those that a device says it keeps.
func (s *server) powerLimits(ctx context.Context, id ecowatt.DeviceID) ([]PowerLimit, error) {
	leases, err := s.Commands.Leases(ctx, id)
	if err != nil {
		return nil, err
	}
	var out []PowerLimit
	in := command.InForce(leases, s.Now())
	for i, l := range leases {
		if !l.Overwritten.IsZero() && !l.Until.IsZero() && !l.Until.After(s.Now()) {
			continue // it was somebody else's before it ended
		}
		out = append(out, PowerLimit{
			Inverter: l.Inverter, Percent: l.Percent, InForce: in[i], Until: known(l.Until), Since: l.Since,
			OverwrittenAt: known(l.Overwritten), Command: l.Command.String(), By: l.By,
		})
	}
	return out, nil
}
