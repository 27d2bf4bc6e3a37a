package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"ecowatt/cloud/api"
	"ecowatt/cloud/config"
	"ecowatt/parameter"
)

// membersLook is the pause between two looks at how far the devices of a group or a
// template are: each counts all of them.
const membersLook = time.Second

// configOutput is what is done after a change.
type configOutput struct {
	wait, json bool
	timeout    time.Duration // of the wait; 0: none
}

// bounded ends the wait when its time is up.
func (o configOutput) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if o.timeout == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, o.timeout)
}

// over is the error of a wait, without that its time is up: what there is by then
// is printed as well.
func over(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// names are the parameters that are to be set, in the order of the document.
func (x assignments) names() []string { return parameter.Values(x).Names() }

// setDevice sets parameters of a device, and waits for its answer where that is
// asked for.
func (a *app) setDevice(ctx context.Context, cloud *client, l configLayer, changes assignments, out configOutput) error {
	var c api.Config
	if err := cloud.edited(ctx, l, changes.apply, &c); err != nil {
		return err
	}
	if out.wait {
		within, cancel := out.bounded(ctx)
		defer cancel()
		var err error
		if c, err = a.waitConfig(within, cloud, l, c); over(err) != nil {
			return err
		}
	}
	var err error
	if out.json {
		err = printJSON(a.stdout, c)
	} else {
		err = a.printConfig(l.device, c, false)
	}
	switch {
	case err != nil || !out.wait:
		return err
	case c.Pending:
		return fmt.Errorf("%s: %s after %v", l.device, waitText(c), out.timeout)
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
	return following[api.Config]{
		every: commandLook,
		tell: func(c api.Config) (over bool) {
			told = a.tellNews(told, waitText(c))
			if !c.Pending {
				for _, line := range outcomeLines(c.Outcome, nil) {
					a.tellNews("", line)
				}
			}
			return !c.Pending
		},
		look: func(ctx context.Context) (now api.Config, err error) {
			err = cloud.get(ctx, l.path, nil, &now)
			return now, err
		},
	}.from(ctx, c)
}

// tellNews tells what there is to tell, with the time, if it is not what was told
// last; it returns what was.
func (a *app) tellNews(told, text string) string {
	if text != told {
		fmt.Fprintf(a.stderr, "%s  %s\n", localTime(time.Now()), oneLine(text))
	}
	return text
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

// outcomeLines say what a device did with each parameter, of those named or of all.
func outcomeLines(outcome map[string]api.ConfigOutcome, names []string) (lines []string) {
	if names == nil {
		all := parameter.Values{}
		for name := range outcome {
			all[name] = nil
		}
		names = all.Names()
	}
	for _, name := range names {
		if o, ok := outcome[name]; ok {
			text := name + ": " + o.Result
			if o.Code != "" {
				text += " (" + o.Code + "): " + o.Text
			}
			lines = append(lines, text)
		}
	}
	return lines
}

// setLayer sets parameters of a group or a template, and waits for the answers of its
// devices where that is asked for.
func (a *app) setLayer(ctx context.Context, cloud *client, l configLayer, changes assignments, out configOutput) error {
	var x api.ConfigLayer
	if err := cloud.edited(ctx, l, changes.apply, &x); err != nil {
		return err
	}
	if !out.wait {
		return a.printLayer(x, out.json)
	}
	within, cancel := out.bounded(ctx)
	defer cancel()
	if err := over(a.waitMembers(within, cloud, l)); err != nil {
		return err
	}
	p, err := cloud.members(ctx, l)
	if err != nil {
		return err
	}
	if out.json {
		err = printJSON(a.stdout, p)
	} else {
		err = a.printMembers(x, p, changes.names())
	}
	done := 0
	for _, m := range p.Devices {
		if changes.inForce(m) {
			done++
		}
	}
	if err == nil && done < len(p.Devices) {
		err = fmt.Errorf("%s %s: %d of %d devices have it in force", x.Layer, x.Name, done, len(p.Devices))
	}
	return err
}

// inForce reports whether a device has what was set, as far as that concerns it.
func (x assignments) inForce(m api.ConfigMember) bool {
	switch config.State(m.State) {
	case config.Pending, config.Disabled:
		return false
	case config.InForce, config.Drifted:
	}
	return !slices.ContainsFunc(x.names(), func(name string) bool { return m.Outcome[name].Result == string(config.Rejected) })
}

// waitMembers waits until each device that a group or a template concerns has
// answered, and tells how many are how far.
func (a *app) waitMembers(ctx context.Context, cloud *client, l configLayer) error {
	look := func(ctx context.Context) (now api.ConfigProgress, err error) {
		err = cloud.get(ctx, l.path+"/devices", url.Values{"limit": {"1"}}, &now) // the counts are of all
		return now, err
	}
	first, err := look(ctx)
	if err != nil {
		return err
	}
	told := ""
	_, err = following[api.ConfigProgress]{
		every: membersLook, look: look,
		tell: func(p api.ConfigProgress) (over bool) {
			told = a.tellNews(told, countsText(p.Counts))
			return p.Counts[string(config.Pending)] == 0
		},
	}.from(ctx, first)
	return err
}

// countsText says how many devices are in which state.
func countsText(counts map[string]int) string {
	var parts []string
	for _, state := range []config.State{config.Pending, config.InForce, config.Drifted, config.Disabled} {
		if n := counts[string(state)]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, memberState(state)))
		}
	}
	if len(parts) == 0 {
		return "it concerns no device"
	}
	return "devices: " + strings.Join(parts, ", ")
}

func memberState(s config.State) string { return strings.ReplaceAll(string(s), "_", " ") }

// members returns how far all devices are that a group or a template concerns, page
// by page.
func (c *client) members(ctx context.Context, l configLayer) (api.ConfigProgress, error) {
	all := api.ConfigProgress{Counts: map[string]int{}, Devices: []api.ConfigMember{}}
	query := url.Values{"limit": {"1000"}}
	for {
		var page api.ConfigProgress
		if err := c.get(ctx, l.path+"/devices", query, &page); err != nil {
			return api.ConfigProgress{}, err
		}
		maps.Copy(all.Counts, page.Counts)
		all.Devices = append(all.Devices, page.Devices...)
		if page.Next == "" {
			return all, nil
		}
		query.Set("after", page.Next)
	}
}

// printMembers prints what became of parameters on each device.
func (a *app) printMembers(l api.ConfigLayer, p api.ConfigProgress, names []string) error {
	fmt.Fprintln(a.stdout, oneLine(fmt.Sprintf("%s %s, version %d by %s: %s", l.Layer, l.Name, l.Version, l.ChangedBy, countsText(p.Counts))))
	if len(p.Devices) == 0 {
		return nil
	}
	t := newTable("DEVICE<", "STATE<", "REVISION", "ANSWERED<", "OUTCOME<")
	for _, m := range p.Devices {
		answered := missing
		if m.AnsweredAt != nil {
			answered = localTime(*m.AnsweredAt)
		}
		t.add(m.Device, memberState(config.State(m.State)), fmt.Sprint(m.Revision), answered, orMissing(strings.Join(outcomeLines(m.Outcome, names), "; ")))
	}
	return t.render(a.stdout)
}
