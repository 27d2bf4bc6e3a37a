package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

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

A device answers for each parameter with its next exchange; --wait waits for that, of
a group or a template for each of its devices.`,
		Example: "  ecowatt config set roof-1 upload_interval=1m registers=pac,vac1 --wait\n  ecowatt config set --group north night_mode=full --wait --timeout 30m\n  ecowatt config set roof-1 upload_interval=",
	}
	of := layerFlags(c)
	var out configOutput
	c.Flags().BoolVar(&out.wait, "wait", false, "wait until every device concerned has answered; what one refuses is exit code 1")
	c.Flags().DurationVar(&out.timeout, "timeout", 0, "with --wait: wait no longer than this (default without end)")
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		l, rest, err := of.named(args)
		if err != nil {
			return err
		}
		if out.timeout != 0 && !out.wait || out.timeout < 0 {
			return usagef("--timeout is how long --wait waits at most")
		}
		changes, err := parseAssignments(rest)
		if err != nil {
			return err
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		out.json = *asJSON
		if l.device == "" {
			return a.setLayer(cmd.Context(), cloud, l, changes, out)
		}
		return a.setDevice(cmd.Context(), cloud, l, changes, out)
	}
	return c
}

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
