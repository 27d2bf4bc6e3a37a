package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt/cloud/api"
	"ecowatt/parameter"
)

// put sets what a path names, if that has the version.
func (c *client) put(ctx context.Context, path string, in any, version int64, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encoding a request: %w", err)
	}
	return c.callWith(ctx, http.MethodPut, path, body, ifMatch(version), out)
}

func (a *app) newConfigSetCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "set DEVICE NAME=VALUE… | --group G NAME=VALUE… | --template T NAME=VALUE…",
		Short: "Set parameters of a device, a group or a template",
		Long: `Set parameters, and leave the others as they are. NAME= without a value sets the
parameter no more: then it comes from the next layer, or is as the gateway itself
has it. The nearest layer counts: the template of the group, the group, the template
of the device, the device. A time is in seconds or has a unit: 90, 15m.

The device answers for each parameter with its next exchange; --wait waits for that.`,
		Example: "  ecowatt config set roof-1 upload_interval=1m registers=pac,vac1 --wait\n  ecowatt config set --group north night_mode=full\n  ecowatt config set roof-1 upload_interval=",
	}
	of := layerFlags(c)
	wait := c.Flags().Bool("wait", false, "wait until DEVICE has answered; what it refuses is exit code 1")
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		l, rest, err := of.named(args)
		if err != nil {
			return err
		}
		if *wait && l.device == "" {
			return usagef("--wait is for one device; 'ecowatt device list' shows which of a group are pending")
		}
		changes, err := parseAssignments(rest)
		if err != nil {
			return err
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		if l.device == "" {
			var x api.ConfigLayer
			if err := cloud.edited(cmd.Context(), l, changes.apply, &x); err != nil {
				return err
			}
			return a.printLayer(x, *asJSON)
		}
		return a.setDevice(cmd.Context(), cloud, l, changes, configOutput{wait: *wait, json: *asJSON})
	}
	return c
}

// configOutput is what is done after a change.
type configOutput struct{ wait, json bool }

// assignments are the parameters that are to be set; nil is for no more.
type assignments map[string]any

func (x assignments) apply(values api.Parameters) {
	for name, v := range x {
		if v == nil {
			delete(values, name)
		} else {
			values[name] = v
		}
	}
}

// parseAssignments reads NAME=VALUE and NAME=.
func parseAssignments(args []string) (assignments, error) {
	if len(args) == 0 {
		return nil, usagef("NAME=VALUE is missing")
	}
	x := assignments{}
	for _, arg := range args {
		name, text, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, usagef("%q is not of the form NAME=VALUE", arg)
		}
		if _, twice := x[name]; twice {
			return nil, usagef("%s is there twice", name)
		}
		if _, known := parameter.Find(name); text == "" && known {
			x[name] = nil
			continue
		}
		v, problem := parameter.Parse(name, text)
		if problem != nil {
			return nil, usagef("%w", problem)
		}
		x[name] = v
	}
	return x, nil
}

// setDevice sets parameters of a device, and waits for its answer where that is
// asked for.
func (a *app) setDevice(ctx context.Context, cloud *client, l configLayer, changes assignments, out configOutput) error {
	var c api.Config
	if err := cloud.edited(ctx, l, changes.apply, &c); err != nil {
		return err
	}
	if out.wait {
		var err error
		if c, err = a.waitConfig(ctx, cloud, l, c); err != nil {
			return err
		}
	}
	var err error
	if out.json {
		err = printJSON(a.stdout, c)
	} else {
		err = a.printConfig(l.device, c, false)
	}
	if err != nil || !out.wait {
		return err
	}
	for _, name := range c.Drift {
		if _, set := changes[name]; set {
			return fmt.Errorf("%s: %s: %s", l.device, name, configState(c, name))
		}
	}
	return nil
}

// waitConfig waits until the device has answered what is desired, and tells how far
// that is.
func (a *app) waitConfig(ctx context.Context, cloud *client, l configLayer, c api.Config) (api.Config, error) {
	told := ""
	for {
		if text := waitText(c); text != told {
			told = text
			fmt.Fprintf(a.stderr, "%s  %s\n", localTime(time.Now()), oneLine(text))
		}
		if !c.Pending {
			a.tellOutcome(c)
			return c, nil
		}
		if !pause(ctx, commandLook) {
			return c, ctx.Err()
		}
		var now api.Config
		err := cloud.get(ctx, l.path, nil, &now)
		if err == nil {
			c = now
		} else if !passing(err) {
			return c, err
		}
	}
}

func waitText(c api.Config) string {
	switch {
	case !c.Pending:
		return fmt.Sprintf("revision %d is answered", c.Revision)
	case c.DeliveredAt != nil:
		return fmt.Sprintf("revision %d is sent", c.Revision)
	}
	return fmt.Sprintf("revision %d waits for the device's next exchange", c.Revision)
}

// tellOutcome tells what the device did with each parameter.
func (a *app) tellOutcome(c api.Config) {
	names := parameter.Values{}
	for name := range c.Outcome {
		names[name] = nil
	}
	for _, name := range names.Names() {
		o := c.Outcome[name]
		text := name + ": " + o.Result
		if o.Code != "" {
			text += " (" + o.Code + "): " + o.Text
		}
		fmt.Fprintf(a.stderr, "%s  %s\n", localTime(time.Now()), oneLine(text))
	}
}

func (a *app) newConfigTemplateCommand() *cobra.Command {
	return group("template", "List, assign and delete templates",
		a.newTemplateListCommand(),
		a.newTemplateAssignCommand(),
		a.newTemplateDeleteCommand(),
	)
}

func (a *app) newTemplateListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the templates",
		Example: "  ecowatt config template list",
		Args:    noArguments,
	}
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		var list api.ConfigTemplates
		if err := cloud.get(cmd.Context(), "/api/v1/config/templates", nil, &list); err != nil {
			return err
		}
		switch {
		case *asJSON:
			return printJSON(a.stdout, list)
		case len(list.Templates) == 0:
			fmt.Fprintln(a.stderr, "There are no templates. Make one with 'ecowatt config set --template NAME'.")
			return nil
		}
		t := newTable("TEMPLATE<", "PARAMETERS<", "GIVEN TO<")
		for _, l := range list.Templates {
			var values []string
			for _, name := range parameter.Values(l.Parameters).Names() {
				values = append(values, name+"="+written(l.Parameters, name))
			}
			t.add(l.Name, orMissing(strings.Join(values, " ")), orMissing(strings.Join(l.GivenTo, ", ")))
		}
		return t.render(a.stdout)
	}
	return c
}

func (a *app) newTemplateAssignCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "assign DEVICE TEMPLATE | --group G TEMPLATE",
		Short:   "Give a device or a group a template",
		Example: "  ecowatt config template assign --group north winter\n  ecowatt config template assign roof-1 --none",
	}
	name := c.Flags().String("group", "", "this group, instead of DEVICE")
	none := c.Flags().Bool("none", false, "none any more, instead of TEMPLATE")
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		l, rest, err := (&configFlags{group: *name}).named(args)
		if err != nil {
			return err
		}
		given := api.GivenTemplate{}
		if !*none {
			if err := arguments("TEMPLATE")(nil, rest); err != nil {
				return err
			}
			given.Template = rest[0]
		} else if len(rest) > 0 {
			return usagef("unexpected argument %q", rest[0])
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		if l.device == "" {
			var x api.ConfigLayer
			if err := cloud.send(cmd.Context(), http.MethodPut, l.path+"/template", given, &x); err != nil {
				return err
			}
			return a.printLayer(x, *asJSON)
		}
		var x api.Config
		if err := cloud.send(cmd.Context(), http.MethodPut, l.path+"/template", given, &x); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, x)
		}
		return a.printConfig(l.device, x, false)
	}
	return c
}

func (a *app) newTemplateDeleteCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "delete TEMPLATE",
		Short:   "Delete a template that is given to nobody",
		Example: "  ecowatt config template delete winter",
		Args:    arguments("TEMPLATE"),
	}
	token := tokenFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		if err := cloud.call(cmd.Context(), http.MethodDelete, templatePath(args[0]), nil, nil); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "template %s is deleted.\n", args[0])
		return err
	}
	return c
}
