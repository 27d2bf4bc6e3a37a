package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"ecowatt/cloud/api"
	"ecowatt/parameter"
)

func (a *app) newConfigCommand() *cobra.Command {
	return group("config", "Set, show and explain what devices are to have set",
		a.newConfigGetCommand(),
		a.newConfigSetCommand(),
		a.newConfigLogCommand(),
		a.newConfigTemplateCommand(),
	)
}

// groupPath and templatePath are the paths of what is set for a group, and in a
// template.
func groupPath(name string) string    { return "/api/v1/groups/" + url.PathEscape(name) + "/config" }
func templatePath(name string) string { return "/api/v1/config/templates/" + url.PathEscape(name) }

func (a *app) newConfigGetCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "get DEVICE | --group G | --template T",
		Short: "Show what a device is to have set, and what it has",
		Long: `Show what is set for a device, what the device says to be in force of that, and
what it refused and why. --explain tells where each value comes from, and names the
parameters that are not set: those are as the gateway itself has them.`,
		Example: "  ecowatt config get roof-1 --explain",
	}
	of := layerFlags(c)
	explain := c.Flags().Bool("explain", false, "where each value comes from")
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		l, rest, err := of.named(args)
		if err == nil && len(rest) > 0 {
			err = usagef("unexpected argument %q", rest[0])
		}
		if err != nil {
			return err
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		if l.device == "" {
			var x api.ConfigLayer
			if err := cloud.get(cmd.Context(), l.path, nil, &x); err != nil {
				return err
			}
			return a.printLayer(x, *asJSON)
		}
		var x api.Config
		if err := cloud.get(cmd.Context(), l.path, nil, &x); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(a.stdout, x)
		}
		return a.printConfig(l.device, x, *explain)
	}
	return c
}

// configLayer is whose values are meant.
type configLayer struct {
	device string // "" for a group or a template
	path   string // in the API
}

type configFlags struct{ group, template string }

// layerFlags adds the flags that name a group or a template instead of a device.
func layerFlags(c *cobra.Command) *configFlags {
	f := &configFlags{}
	c.Flags().StringVar(&f.group, "group", "", "what is set for this group, instead of DEVICE")
	c.Flags().StringVar(&f.template, "template", "", "what is set in this template, instead of DEVICE")
	return f
}

// named takes the device off the arguments, where neither flag is given.
func (f *configFlags) named(args []string) (configLayer, []string, error) {
	switch {
	case f.group != "" && f.template != "":
		return configLayer{}, nil, usagef("--group and --template exclude each other")
	case f.group != "":
		return configLayer{path: groupPath(f.group)}, args, nil
	case f.template != "":
		return configLayer{path: templatePath(f.template)}, args, nil
	case len(args) == 0:
		return configLayer{}, nil, usagef("DEVICE is missing")
	}
	id, err := parseDevice(args[0])
	if err != nil {
		return configLayer{}, nil, err
	}
	return configLayer{device: string(id), path: devicePath(id) + "/config"}, args[1:], nil
}

// canonical is a value as the API tells it, in the form in which it can be compared
// and written; that of a parameter which is not known here stays as it is.
func canonical(name string, v any) any {
	if x, problem := parameter.Check(name, v); problem == nil {
		return x
	}
	return v
}

// written is the value of a parameter as people write it.
func written(values api.Parameters, name string) string {
	v, ok := values[name]
	if !ok {
		return missing
	}
	return parameter.Format(canonical(name, v))
}

// configState says for people how far a parameter is.
func configState(c api.Config, name string) string {
	desired, wanted := c.Desired[name]
	reported, has := c.Report[name]
	switch {
	case wanted && has && parameter.Equal(canonical(name, desired), canonical(name, reported)):
		return "in force"
	case !wanted && !has:
		return "the gateway's own"
	case c.Pending:
		return "pending"
	}
	if o := c.Outcome[name]; o.Result == "rejected" {
		return "rejected (" + o.Code + "): " + o.Text
	}
	return "not in force"
}

// parametersOf are the parameters of which there is something to tell, or all.
func parametersOf(c api.Config, all bool) []string {
	names := parameter.Values{}
	for name := range c.Desired {
		names[name] = nil
	}
	for name := range c.Report {
		names[name] = nil
	}
	if all {
		for _, p := range parameter.All() {
			names[p.Name] = nil
		}
	}
	return names.Names()
}

func (a *app) printConfig(device string, c api.Config, explain bool) error {
	fmt.Fprintln(a.stdout, oneLine(device+": "+revisionText(c)))
	names := parametersOf(c, explain)
	if len(names) == 0 {
		return nil
	}
	headings := []string{"PARAMETER<", "DESIRED<", "IN FORCE<", "STATE<"}
	if explain {
		headings = append(headings, "FROM<")
	}
	t := newTable(headings...)
	for _, name := range names {
		cells := []string{name, written(c.Desired, name), written(c.Report, name), configState(c, name)}
		if explain {
			cells = append(cells, sourceText(c, name))
		}
		t.add(cells...)
	}
	return t.render(a.stdout)
}

func revisionText(c api.Config) string {
	if c.Revision == 0 {
		return "nothing is set"
	}
	text := fmt.Sprintf("revision %d, ", c.Revision)
	switch {
	case c.Pending && c.DeliveredAt == nil:
		text += "not sent yet"
	case c.Pending:
		text += "sent " + localTime(*c.DeliveredAt) + " and not answered yet"
	case len(c.Drift) > 0:
		text += "answered, not in force: " + strings.Join(c.Drift, ", ")
	default:
		text += "in force"
	}
	if c.ChangedAt != nil {
		text += fmt.Sprintf("; by %s, %s (%s)", c.By, localTime(*c.ChangedAt), c.Cause)
	}
	return text
}

func sourceText(c api.Config, name string) string {
	s, ok := c.From[name]
	if !ok {
		return missing
	}
	text := s.Layer + " " + s.Name
	if s.GivenTo != "" {
		text += ", given to " + s.GivenTo
	}
	return text
}

func (a *app) printLayer(l api.ConfigLayer, asJSON bool) error {
	if asJSON {
		return printJSON(a.stdout, l)
	}
	text := l.Layer + " " + l.Name + ": "
	if l.Version == 0 {
		text += "nothing is set"
	} else {
		text += fmt.Sprintf("version %d", l.Version)
		if l.ChangedAt != nil {
			text += fmt.Sprintf(" by %s, %s", l.ChangedBy, localTime(*l.ChangedAt))
		}
	}
	if l.Template != "" {
		text += ", with template " + l.Template
	}
	fmt.Fprintln(a.stdout, oneLine(text))
	if len(l.Parameters) == 0 {
		return nil
	}
	t := newTable("PARAMETER<", "VALUE<")
	for _, name := range parameter.Values(l.Parameters).Names() {
		t.add(name, written(l.Parameters, name))
	}
	return t.render(a.stdout)
}

func (a *app) newConfigLogCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "log DEVICE",
		Short:   "List the changes of a device's configuration, newest first",
		Example: "  ecowatt config log roof-1 --last 5",
		Args:    arguments("DEVICE"),
	}
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
		var list api.ConfigLog
		if err := cloud.get(cmd.Context(), devicePath(id)+"/config/log", url.Values{"limit": {strconv.Itoa(*last)}}, &list); err != nil {
			return err
		}
		switch {
		case *asJSON:
			return printJSON(a.stdout, list)
		case len(list.Revisions) == 0:
			fmt.Fprintln(a.stderr, "Nothing was ever set.")
			return nil
		}
		t := newTable("REVISION", "CHANGED<", "BY<", "PARAMETER<", "VALUE<", "DELIVERED<", "ANSWERED<", "OUTCOME<")
		for _, r := range list.Revisions {
			addRevision(t, r)
		}
		return t.render(a.stdout)
	}
	return c
}

// addRevision adds a row for each parameter that a revision changed.
func addRevision(t *table, r api.ConfigRevision) {
	delivered, answered := "not yet", "not yet"
	if r.DeliveredAt != nil {
		delivered = localTime(*r.DeliveredAt)
	}
	if r.AnsweredAt != nil {
		answered = localTime(*r.AnsweredAt)
	}
	head := []string{strconv.FormatUint(r.Revision, 10), localTime(r.At), r.By + ", " + r.Cause}
	names := r.Changed
	if len(names) == 0 {
		names = []string{missing}
	}
	for _, name := range names {
		outcome := missing
		if o, ok := r.Outcome[name]; ok {
			if outcome = o.Result; o.Code != "" {
				outcome += " (" + o.Code + "): " + o.Text
			}
		}
		t.add(head[0], head[1], head[2], name, written(r.Parameters, name), delivered, answered, outcome)
		head, delivered, answered = []string{"", "", ""}, "", ""
	}
}

// statusOf is the HTTP status of a refusal, 0 for any other error.
func statusOf(err error) int {
	if refused, ok := errors.AsType[*refusedError](err); ok {
		return refused.status
	}
	return 0
}

// setTries is how often a change is made anew that somebody else was faster with.
const setTries = 5

// ifMatch is the header that names the version which is to be changed.
func ifMatch(version int64) map[string]string {
	return map[string]string{"If-Match": `"` + strconv.FormatInt(version, 10) + `"`}
}

// edited reads what is set, lets edit change it, and sets it again: anew where
// somebody else has changed it meanwhile. The answer is decoded into out.
func (c *client) edited(ctx context.Context, l configLayer, edit func(api.Parameters), out any) error {
	for try := 1; ; try++ {
		var there struct {
			Own        api.Parameters `json:"own"`        // of a device
			Parameters api.Parameters `json:"parameters"` // of a group or a template
			Version    int64          `json:"version"`
		}
		err := c.get(ctx, l.path, nil, &there)
		if l.device == "" && statusOf(err) == http.StatusNotFound { // a template that is to be made
			err = nil
		}
		if err != nil {
			return err
		}
		values := there.Own
		if l.device == "" {
			values = there.Parameters
		}
		if values == nil {
			values = api.Parameters{}
		}
		edit(values)
		err = c.put(ctx, l.path, values, there.Version, out)
		if statusOf(err) != http.StatusPreconditionFailed || try == setTries {
			return err
		}
	}
}
