package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt/cloud/api"
	"ecowatt/cloud/command"
)

func (a *app) newCommandCommand() *cobra.Command {
	return group("command", "Limit, write, read and restart from afar",
		a.newCommandLimitCommand(),
		a.newCommandWriteCommand(),
		a.newCommandReadCommand(),
		a.newCommandRestartCommand(),
		a.newCommandListCommand(),
		a.newCommandShowCommand(),
		a.newCommandCancelCommand(),
	)
}

// commandRequest is what a command is asked for, beside its own arguments.
type commandRequest struct {
	group    string // instead of a device
	inverter string
	ttl      string
	wait     bool
	json     bool
	token    *string
}

// commandFlags adds the flags of the commands that order something. of are those
// that not all of them have: "group", "inverter".
func commandFlags(c *cobra.Command, of ...string) *commandRequest {
	r := &commandRequest{}
	for _, name := range of {
		switch name {
		case "group":
			c.Flags().StringVar(&r.group, "group", "", "each device of this group, instead of DEVICE")
		case "inverter":
			c.Flags().StringVar(&r.inverter, "inverter", "", "the inverter (default the device's only one)")
		}
	}
	c.Flags().StringVar(&r.ttl, "ttl", "15m", "for how long it may wait to be executed: 30s, 1h, 2d")
	c.Flags().BoolVar(&r.wait, "wait", false, "wait until it is known how it ended; any end but success is exit code 1")
	r.token = tokenFlag(c)
	c.Flags().BoolVar(&r.json, "json", false, "print JSON, for programs")
	return r
}

// named takes the device off the arguments, where no group is given.
func (r *commandRequest) named(args []string, rest ...string) (device string, left []string, err error) {
	want := rest
	if r.group == "" {
		want = append([]string{"DEVICE"}, rest...)
	}
	if err := arguments(want...)(nil, args); err != nil {
		return "", nil, err
	}
	if r.group != "" {
		return "", args, nil
	}
	return args[0], args[1:], nil
}

func (a *app) newCommandLimitCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "limit DEVICE PERCENT | --group G PERCENT",
		Short: "Limit the power of an inverter for some time",
		Long: `Limit the power of an inverter to a percentage, for some time. The device ends the
limit by itself, with the cloud or without: then it writes the value that it had
found (--on-end restore), or takes the order back (--on-end release). Of several
limits the most restrictive is in force.`,
		Example: "  ecowatt command limit roof-1 40 --for 2h --wait\n  ecowatt command limit --group north 0 --for 30m",
	}
	r := commandFlags(c, "group", "inverter")
	lease := c.Flags().String("for", "1h", "how long the limit lasts: 30m, 2h, 1d")
	end := c.Flags().String("on-end", string(command.Restore), "what the device does then: restore, release")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		device, args, err := r.named(args, "PERCENT")
		if err != nil {
			return err
		}
		percent, err := parseNumber("PERCENT", strings.TrimSuffix(args[0], "%"))
		if err != nil {
			return err
		}
		span, err := parseSpan("--for", *lease)
		if err != nil {
			return err
		}
		return a.order(cmd.Context(), r, device, command.SetPowerLimit, map[string]any{
			"percent": percent, "lease_s": wholeSeconds(span), "on_end": *end,
		})
	}
	return c
}

func (a *app) newCommandWriteCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "write DEVICE POINT VALUE | --group G POINT VALUE",
		Short: "Write a point of an inverter",
		Long: `Write a point of an inverter, in the unit of the point, and read it back. Which
points can be written, and to what, is shown by 'ecowatt device show'. Before a
negative VALUE write --.`,
		Example: "  ecowatt command write roof-1 export_power_percent 80\n  ecowatt command write roof-1 offset -- -5.5",
	}
	r := commandFlags(c, "group", "inverter")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		device, args, err := r.named(args, "POINT", "VALUE")
		if err != nil {
			return err
		}
		value, err := parseNumber("VALUE", args[1])
		if err != nil {
			return err
		}
		return a.order(cmd.Context(), r, device, command.WritePoint, map[string]any{"point": args[0], "value": value})
	}
	return c
}

func (a *app) newCommandReadCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "read DEVICE POINT…",
		Short:   "Read points of an inverter now",
		Example: "  ecowatt command read roof-1 pac vac1 --wait",
		Args: func(_ *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return usagef("DEVICE is missing")
			case 1:
				return usagef("POINT is missing")
			}
			return nil
		},
	}
	r := commandFlags(c, "inverter")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.order(cmd.Context(), r, args[0], command.ReadPoints, map[string]any{"points": args[1:]})
	}
	return c
}

func (a *app) newCommandRestartCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "restart DEVICE",
		Short:   "Start the agent of a device anew",
		Example: "  ecowatt command restart roof-1",
		Args:    arguments("DEVICE"),
	}
	r := commandFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.order(cmd.Context(), r, args[0], command.RestartAgent, map[string]any{})
	}
	return c
}

func parseNumber(name, text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || v-v != 0 { // nor is infinity one, or NaN
		return 0, usagef("%s: %q is no number", name, text)
	}
	return v, nil
}

// order posts a command for a device or a group, and waits where that is asked for.
func (a *app) order(ctx context.Context, r *commandRequest, device string, action command.Action, args map[string]any) error {
	path := "/api/v1/groups/" + url.PathEscape(r.group) + "/commands"
	if r.group == "" {
		id, err := parseDevice(device)
		if err != nil {
			return err
		}
		path = devicePath(id) + "/commands"
	}
	ttl, err := parseSpan("--ttl", r.ttl)
	if err != nil {
		return err
	}
	if r.inverter != "" {
		args["inverter"] = r.inverter
	}
	text, err := json.Marshal(args)
	if err != nil {
		return fmt.Errorf("encoding the arguments: %w", err)
	}
	seconds := wholeSeconds(ttl)
	cloud, err := a.client(*r.token)
	if err != nil {
		return err
	}
	body := api.NewCommand{Action: string(action), Arguments: text, TTLS: &seconds}
	if r.group != "" {
		return a.orderGroup(ctx, cloud, r, path, body)
	}
	var c api.Command
	if err := cloud.postOnce(ctx, path, body, &c); err != nil {
		return err
	}
	if r.wait {
		if c, err = a.waitCommand(ctx, cloud, c); err != nil {
			return err
		}
	}
	if r.json {
		err = printJSON(a.stdout, c)
	} else {
		_, err = fmt.Fprintln(a.stdout, oneLine(c.Device+": "+lineOf(c)+"; command "+c.ID))
	}
	if err == nil && r.wait {
		err = endOf(c)
	}
	return err
}

// endOf is an error unless the command has succeeded.
func endOf(c api.Command) error {
	if c.State == string(command.Succeeded) {
		return nil
	}
	return fmt.Errorf("command %s of %s: %s", c.ID, c.Device, stateText(c))
}

// stateText is the state of a command, and why.
func stateText(c api.Command) string {
	text := c.State
	if c.Code != "" {
		text += " (" + c.Code + ")"
	}
	if c.Text != "" {
		text += ": " + c.Text
	}
	return text
}

// lineOf says what a command is and what became of it.
func lineOf(c api.Command) string { return taskText(c.Action, c.Arguments) + ": " + stateText(c) }

// taskText says for people what is to be done.
func taskText(action string, args map[string]any) string {
	text, err := json.Marshal(args)
	if err != nil {
		return action
	}
	task, err := command.ParseTask(command.Action(action), text)
	if err != nil { // of a newer cloud
		return action
	}
	return task.String()
}

func (a *app) newCommandListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "list DEVICE",
		Short:   "List the commands of a device, newest first",
		Example: "  ecowatt command list roof-1 --state queued",
		Args:    arguments("DEVICE"),
	}
	state := c.Flags().String("state", "", "only those in this state: queued, delivered, executing, succeeded, failed, expired, cancelled")
	last := c.Flags().Int("last", 20, "at most so many, 1 to 1000")
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := parseDevice(args[0])
		if err != nil {
			return err
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		query := url.Values{"limit": {strconv.Itoa(*last)}}
		if *state != "" {
			query.Set("state", *state)
		}
		var list api.CommandList
		if err := cloud.get(cmd.Context(), devicePath(id)+"/commands", query, &list); err != nil {
			return err
		}
		switch {
		case *asJSON:
			return printJSON(a.stdout, list)
		case len(list.Commands) == 0:
			fmt.Fprintln(a.stderr, "There are no such commands.")
			return nil
		}
		t := newTable("QUEUED<", "STATE<", "CODE<", "WHAT<", "BY<", "COMMAND<")
		for _, x := range list.Commands {
			t.add(localTime(x.QueuedAt), x.State, orMissing(x.Code), taskText(x.Action, x.Arguments), x.By, x.ID)
		}
		return t.render(a.stdout)
	}
	return c
}

func commandPath(id string) string { return "/api/v1/commands/" + url.PathEscape(id) }

// parseCommandID reads the argument that names a command or an order.
func parseCommandID(arg string) (string, error) {
	id, err := command.ParseID(arg)
	if err != nil {
		return "", usagef("ID: %w", err)
	}
	return id.String(), nil
}

func (a *app) newCommandShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "show ID",
		Short:   "Show a command, or an order for a group",
		Example: "  ecowatt command show 5d0c6a3f9b8e47d2a1b0c9d8e7f60514",
		Args:    arguments("ID"),
	}
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := parseCommandID(args[0])
		if err != nil {
			return err
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		var x api.Command
		missing := cloud.get(cmd.Context(), commandPath(id), nil, &x)
		if codeOf(missing) == exitNotFound {
			var o api.CommandOrder
			if err := cloud.get(cmd.Context(), orderPath(id), nil, &o); err == nil {
				return a.printOrder(o, *asJSON)
			}
		}
		switch {
		case missing != nil:
			return missing
		case *asJSON:
			return printJSON(a.stdout, x)
		}
		return showCommand(a.stdout, x)
	}
	return c
}

// showCommand writes what is known of a command, for people.
func showCommand(w io.Writer, c api.Command) error {
	var b strings.Builder
	line := func(name, value string) { fmt.Fprintf(&b, "%-10s%s\n", name, oneLine(value)) }
	at := func(name string, t *time.Time, more string) {
		if t != nil {
			line(name, localTime(*t)+more)
		}
	}
	line("command", c.ID)
	line("device", c.Device)
	line("what", taskText(c.Action, c.Arguments))
	line("state", stateText(c))
	if c.Value != nil {
		line("value", strconv.FormatFloat(*c.Value, 'f', -1, 64))
	}
	if c.Order != "" {
		line("order", c.Order)
	}
	at("queued", &c.QueuedAt, " by "+c.By)
	at("delivered", c.DeliveredAt, "")
	at("executing", c.ExecutingAt, "")
	at("executed", c.ExecutedAt, " by the device's clock")
	at("ended", c.EndedAt, "")
	at("expires", &c.ExpiresAt, "")
	_, err := io.WriteString(w, b.String())
	return err
}

func (a *app) newCommandCancelCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "cancel ID",
		Short:   "Cancel a command that was not sent yet",
		Example: "  ecowatt command cancel 5d0c6a3f9b8e47d2a1b0c9d8e7f60514",
		Args:    arguments("ID"),
	}
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		id, err := parseCommandID(args[0])
		if err != nil {
			return err
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		var x api.Command
		if err := cloud.call(cmd.Context(), http.MethodDelete, commandPath(id), nil, &x); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, x)
		}
		_, err = fmt.Fprintln(a.stdout, oneLine(x.Device+": "+lineOf(x)))
		return err
	}
	return c
}
