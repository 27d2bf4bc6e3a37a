package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/command"
)

// Commander queues commands: *command.Queue.
type Commander interface {
	// Post queues a command for a device, or returns a *command.RefusedError or
	// command.ErrKeyUsed.
	Post(ctx context.Context, device ecowatt.DeviceID, r command.Request) (command.Command, error)
	// PostGroup queues it for each device of a group that could carry it out.
	PostGroup(ctx context.Context, group string, r command.Request) (command.Order, error)
}

// Commands is the part of the store that knows what devices were told to do.
type Commands interface {
	// Command returns a command, or command.ErrNotFound.
	Command(ctx context.Context, id command.ID) (command.Command, error)
	// Commands returns those of a device, newest first.
	Commands(ctx context.Context, device ecowatt.DeviceID, f command.Filter) ([]command.Command, error)
	// Order returns an order, or command.ErrNotFound.
	Order(ctx context.Context, id command.ID) (command.Order, error)
	// CancelCommand cancels a command that was not sent yet, or returns
	// command.ErrNotFound or a *command.TooLateError.
	CancelCommand(ctx context.Context, id command.ID, by audit.Actor, now time.Time) (command.Command, error)
	// Leases returns the power limits that a device says it keeps.
	Leases(ctx context.Context, device ecowatt.DeviceID) ([]command.Lease, error)
}

// Command is a command as the API shows it.
type Command struct {
	ID          string         `json:"id" doc:"32 hexadecimal digits"`
	Device      string         `json:"device"`
	Action      string         `json:"action" enum:"write_point,set_power_limit,read_points,restart_agent"`
	Arguments   map[string]any `json:"arguments" doc:"Complete: with what the cloud has added"`
	State       string         `json:"state" enum:"queued,delivered,executing,succeeded,failed,expired,cancelled"`
	Code        string         `json:"code" doc:"Why it ended so; of an expired one: undelivered, unanswered, or the device's own"`
	Text        string         `json:"text" doc:"The same for people"`
	Value       *float64       `json:"value" doc:"Read back from the inverter; null for none"`
	QueuedAt    time.Time      `json:"queued_at"`
	DeliveredAt *time.Time     `json:"delivered_at" doc:"When it was first sent; null when not yet"`
	ExecutingAt *time.Time     `json:"executing_at" doc:"When the device first said that it has begun; null when it has not said so"`
	ExecutedAt  *time.Time     `json:"executed_at" doc:"By the device's clock; null when it was not, or the device did not know the time"`
	EndedAt     *time.Time     `json:"ended_at" doc:"When it was known how it ended; null while it is not"`
	ExpiresAt   time.Time      `json:"expires_at" doc:"It is neither sent nor executed later"`
	By          string         `json:"by" doc:"Who ordered it"`
	Order       string         `json:"order,omitempty" doc:"The order for a group that it is a part of; absent for none"`
}

func showCommand(c command.Command) Command {
	out := Command{
		ID: c.ID.String(), Device: string(c.Device), Action: string(c.Task.Action), Arguments: c.Task.Arguments(),
		State: string(c.State), Code: c.Code, Text: c.Text, QueuedAt: c.QueuedAt, ExpiresAt: c.ExpiresAt, By: c.By,
		DeliveredAt: known(c.DeliveredAt), ExecutingAt: known(c.ExecutingAt), ExecutedAt: known(c.ExecutedAt), EndedAt: known(c.EndedAt),
	}
	switch v := c.Value.(type) {
	case int64:
		f := float64(v)
		out.Value = &f
	case float64:
		out.Value = &v
	}
	if c.Order != (command.ID{}) {
		out.Order = c.Order.String()
	}
	return out
}

// known is nil for a time that is not known.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// The commands that can be asked for, one type for each action.
type (
	// WritePointCommand asks for a point to be written.
	WritePointCommand struct {
		Action    string `json:"action" enum:"write_point"`
		Arguments struct {
			InverterArgument
			Point string  `json:"point" doc:"Of those that the device's inventory calls writable"`
			Value float64 `json:"value" doc:"In the point's unit, within its range"`
		} `json:"arguments"`
		WaitArgument
	}
	// SetPowerLimitCommand asks for the power of an inverter to be limited.
	SetPowerLimitCommand struct {
		Action    string `json:"action" enum:"set_power_limit"`
		Arguments struct {
			InverterArgument
			Percent float64 `json:"percent" minimum:"0" maximum:"100"`
			LeaseS  int64   `json:"lease_s,omitempty" minimum:"1" maximum:"2592000" default:"3600" doc:"For how many seconds; the device ends it by itself"`
			OnEnd   string  `json:"on_end,omitempty" enum:"restore,release" default:"restore" doc:"Whether the device then writes the value that it found, or takes the order back"`
		} `json:"arguments"`
		WaitArgument
	}
	// ReadPointsCommand asks for points to be read now.
	ReadPointsCommand struct {
		Action    string `json:"action" enum:"read_points"`
		Arguments struct {
			InverterArgument
			Points []string `json:"points" minItems:"1" maxItems:"64" nullable:"false"`
		} `json:"arguments"`
		WaitArgument
	}
	// RestartAgentCommand asks for the agent to be started anew.
	RestartAgentCommand struct {
		Action    string    `json:"action" enum:"restart_agent"`
		Arguments *struct{} `json:"arguments,omitempty"`
		WaitArgument
	}

	// InverterArgument names the inverter.
	InverterArgument struct {
		Inverter string `json:"inverter,omitempty" doc:"May be left out where the device has only one"`
	}
	// WaitArgument is how long a command may wait.
	WaitArgument struct {
		TTLS int64 `json:"ttl_s,omitempty" minimum:"1" maximum:"2592000" default:"900" doc:"For how many seconds it may wait to be executed"`
	}
)

// NewCommand asks for a command: one of the types above.
type NewCommand struct {
	Action    string          `json:"action"`
	Arguments json.RawMessage `json:"arguments,omitempty"`
	TTLS      *int64          `json:"ttl_s,omitempty"`
}

// Schema names the type of each action.
func (NewCommand) Schema(r huma.Registry) *huma.Schema {
	s := &huma.Schema{Discriminator: &huma.Discriminator{PropertyName: "action", Mapping: map[string]string{}}}
	for _, x := range []struct {
		action command.Action
		of     reflect.Type
	}{
		{command.WritePoint, reflect.TypeFor[WritePointCommand]()},
		{command.SetPowerLimit, reflect.TypeFor[SetPowerLimitCommand]()},
		{command.ReadPoints, reflect.TypeFor[ReadPointsCommand]()},
		{command.RestartAgent, reflect.TypeFor[RestartAgentCommand]()},
	} {
		ref := r.Schema(x.of, true, "")
		s.OneOf = append(s.OneOf, ref)
		s.Discriminator.Mapping[string(x.action)] = ref.Ref
	}
	return s
}

// NewCommandInput is a body that is checked by its own action's type, so that
// what is wrong is told of its fields.
type NewCommandInput struct {
	Key     string `header:"Idempotency-Key" doc:"Under the same key the same caller gets what the first request queued: at most 128 characters of ASCII"`
	Body    NewCommand
	RawBody []byte
}

// request is what the body asks for, or a problem of one of its fields.
func (s *server) request(ctx context.Context, in NewCommandInput) (command.Request, error) {
	schemas := s.api.OpenAPI().Components.Schemas
	schema := in.Body.Schema(schemas)
	ref, ok := schema.Discriminator.Mapping[in.Body.Action]
	if !ok {
		_, err := command.ParseTask(command.Action(in.Body.Action), nil)
		return command.Request{}, err
	}
	var body any
	if err := json.Unmarshal(in.RawBody, &body); err != nil {
		return command.Request{}, invalid("body", "it is not JSON")
	}
	var found huma.ValidateResult
	huma.Validate(schemas, schemas.SchemaFromRef(ref), huma.NewPathBuffer([]byte("body"), len("body")), huma.ModeWriteToServer, body, &found)
	if len(found.Errors) > 0 {
		p := problemf(http.StatusUnprocessableEntity, "validation failed")
		for _, err := range found.Errors {
			if detail, ok := errors.AsType[*huma.ErrorDetail](err); ok {
				p.Errors = append(p.Errors, detail)
			}
		}
		return command.Request{}, p
	}
	task, err := command.ParseTask(command.Action(in.Body.Action), in.Body.Arguments)
	r := command.Request{Task: task, TTL: command.DefaultTTL, By: caller(ctx).Name, Key: in.Key, At: s.Now()}
	if in.Body.TTLS != nil {
		r.TTL = seconds(*in.Body.TTLS)
	}
	return r, err
}

type (
	postCommandInput struct {
		DeviceInput
		NewCommandInput
	}
	postCommandOutput struct {
		Location string `header:"Location"`
		Body     Command
	}
	commandInput struct {
		Command string `path:"command" doc:"The command's id"`
	}
	commandOutput     struct{ Body Command }
	listCommandsInput struct {
		DeviceInput
		State string `query:"state" enum:"queued,delivered,executing,succeeded,failed,expired,cancelled" doc:"Only those in this state"`
		After string `query:"after" doc:"Only those that come after this one in the list"`
		Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many"`
	}
	commandListOutput struct{ Body CommandList }
)

// CommandList is a page of commands.
type CommandList struct {
	Commands []Command `json:"commands" nullable:"false" doc:"Newest first"`
	Next     string    `json:"next,omitempty" doc:"Give it as after to go on; absent on the last page"`
}

func (s *server) registerCommands() {
	bodyErrors := []int{http.StatusBadRequest, http.StatusConflict, http.StatusNotFound, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity}
	register(s, access.OrderCommands, huma.Operation{
		OperationID: "post-command", Method: http.MethodPost, Path: "/devices/{id}/commands", DefaultStatus: http.StatusCreated,
		Summary: "Tell a device to do something",
		Description: "Queues a command, which goes out with the device's next exchange, or at once to a device that waits for it. It is refused " +
			"where the device could not do it as it last described itself: 422 names the field, 409 what is in the way on the device.",
		Errors: bodyErrors, SkipValidateBody: true,
	}, s.postCommand)
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "list-commands", Method: http.MethodGet, Path: "/devices/{id}/commands",
		Summary:     "Commands of a device",
		Description: "Newest first, a page at a time: give the answer's next as after to go on. There is no next on the last page.",
		Errors:      []int{http.StatusNotFound, http.StatusUnprocessableEntity},
	}, s.listCommands)
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "get-command", Method: http.MethodGet, Path: "/commands/{command}",
		Summary: "Show a command",
		Errors:  []int{http.StatusNotFound},
	}, func(ctx context.Context, in *commandInput) (*commandOutput, error) {
		return s.oneCommand(in, func(id command.ID) (command.Command, error) { return s.Commands.Command(ctx, id) })
	})
	register(s, access.OrderCommands, huma.Operation{
		OperationID: "cancel-command", Method: http.MethodDelete, Path: "/commands/{command}", DefaultStatus: http.StatusOK,
		Summary:     "Cancel a command",
		Description: "Works until it is sent; then it is answered with 409 and the state. To cancel again changes nothing.",
		Errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *commandInput) (*commandOutput, error) {
		return s.oneCommand(in, func(id command.ID) (command.Command, error) {
			return s.Commands.CancelCommand(ctx, id, operator(ctx), s.Now())
		})
	})
	s.registerOrders(bodyErrors)
}

func (s *server) postCommand(ctx context.Context, in *postCommandInput) (*postCommandOutput, error) {
	id, err := in.device()
	if err != nil {
		return nil, err
	}
	r, err := s.request(ctx, in.NewCommandInput)
	if err != nil {
		return nil, err
	}
	c, err := s.Commander.Post(ctx, id, r)
	if err != nil {
		return nil, deviceProblem(id, err)
	}
	return &postCommandOutput{Location: prefix + "/commands/" + c.ID.String(), Body: showCommand(c)}, nil
}

func (s *server) listCommands(ctx context.Context, in *listCommandsInput) (*commandListOutput, error) {
	id, err := in.device()
	if err != nil {
		return nil, err
	}
	f := command.Filter{State: command.State(in.State), Limit: in.Limit}
	if in.After != "" {
		if f.After, err = command.ParseID(in.After); err != nil {
			return nil, invalid("query.after", err.Error())
		}
	}
	if f.Limit == 0 {
		f.Limit = defaultPage
	}
	f.Limit++ // one more than asked for tells whether there is a next page
	found, err := s.Commands.Commands(ctx, id, f)
	if errors.Is(err, command.ErrNotFound) {
		return nil, invalid("query.after", "the device has no such command")
	}
	if err != nil {
		return nil, deviceProblem(id, err)
	}
	list := CommandList{Commands: []Command{}}
	if len(found) == f.Limit {
		found = found[:f.Limit-1]
		list.Next = found[f.Limit-2].ID.String()
	}
	for _, c := range found {
		list.Commands = append(list.Commands, showCommand(c))
	}
	return &commandListOutput{Body: list}, nil
}

// oneCommand answers with the command that the path names.
func (s *server) oneCommand(in *commandInput, get func(command.ID) (command.Command, error)) (*commandOutput, error) {
	id, err := command.ParseID(in.Command)
	if err != nil {
		return nil, problemf(http.StatusNotFound, "there is no command %.80q", in.Command)
	}
	c, err := get(id)
	if late := (*command.TooLateError)(nil); errors.As(err, &late) {
		p := problemf(http.StatusConflict, "command %v is not cancelled: %v", id, late)
		p.Errors = []*huma.ErrorDetail{{Message: late.Error(), Location: "command.state", Value: string(late.State)}}
		return nil, p
	}
	if errors.Is(err, command.ErrNotFound) {
		return nil, problemf(http.StatusNotFound, "there is no command %v", id)
	}
	if err != nil {
		return nil, err
	}
	return &commandOutput{Body: showCommand(c)}, nil
}

// commandProblem is the problem of a command that is not queued.
func commandProblem(r *command.RefusedError) *huma.ErrorModel {
	status, location := http.StatusUnprocessableEntity, "body."+r.Field
	switch {
	case r.Code.OfDevice():
		status, location = http.StatusConflict, r.Field
	case r.Field == "Idempotency-Key":
		location = "header." + r.Field
	case r.Field == "group":
		status, location = http.StatusNotFound, "path."+r.Field
	}
	p := problemf(status, "the command is refused: %s", r.Problem)
	p.Errors = []*huma.ErrorDetail{{Message: r.Problem, Location: location, Value: string(r.Code)}}
	return p
}
