package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt/cloud/api"
	"ecowatt/cloud/rollout"
)

const rolloutsPath = "/api/v1/rollouts"

func (a *app) newRolloutCommand() *cobra.Command {
	return group("rollout", "Bring a release to devices, in stages",
		a.newRolloutCreateCommand(),
		a.newRolloutListCommand(),
		a.newRolloutShowCommand(),
		a.newRolloutInstruction("pause", "Tell nobody of the release until the rollout is resumed",
			"Nobody is told of the release until the rollout is resumed, and no deadline comes\nnearer. An image that is on trial decides for itself."),
		a.newRolloutInstruction("resume", "Let a rollout go on that is paused or has stopped",
			"Let a rollout go on that is paused, or that has stopped by itself: what had failed\nuntil then counts no more."),
		a.newRolloutAbortCommand(),
	)
}

// rolloutNamed finds the rollout that a person names: by its id or the beginning of
// it.
func (c *client) rolloutNamed(ctx context.Context, name string) (string, error) {
	if id, err := rollout.ParseID(name); err == nil {
		return id.String(), nil
	}
	var list api.RolloutList
	if err := c.get(ctx, rolloutsPath, url.Values{"limit": {"1000"}}, &list); err != nil {
		return "", err
	}
	var found []string
	for _, r := range list.Rollouts {
		if len(name) >= 4 && strings.HasPrefix(r.ID, name) {
			found = append(found, r.ID)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", &failure{code: exitNotFound, err: fmt.Errorf("there is no rollout %.80q", name), hint: "ecowatt rollout list tells which there are."}
	}
	return "", usagef("ID: %q begins the ids of several: %s", name, strings.Join(found, ", "))
}

func rolloutPath(id string) string { return rolloutsPath + "/" + url.PathEscape(id) }

func (a *app) newRolloutListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "list",
		Short:   "List rollouts, newest first",
		Example: "  ecowatt rollout list",
		Args:    noArguments,
	}
	last := c.Flags().Int("last", 20, "at most so many, 1 to 1000")
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		var list api.RolloutList
		if err := cloud.get(cmd.Context(), rolloutsPath, url.Values{"limit": {strconv.Itoa(*last)}}, &list); err != nil {
			return err
		}
		switch {
		case *asJSON:
			return printJSON(a.stdout, list)
		case len(list.Rollouts) == 0:
			fmt.Fprintln(a.stderr, "There are no rollouts.")
			return nil
		}
		t := newTable("MADE<", "VERSION<", "STATE<", "STAGE<", "DEVICES", "HEALTHY", "FAILED", "SKIPPED", "BY<", "ID<")
		for _, r := range list.Rollouts {
			p := r.Progress
			t.add(localTime(r.At), r.Version, r.State, fmt.Sprintf("%d of %d", r.Stage, len(r.Stages)), strconv.Itoa(p.Devices), strconv.Itoa(p.Healthy),
				strconv.Itoa(p.Failed), strconv.Itoa(p.Skipped), r.By, r.ID)
		}
		return t.render(a.stdout)
	}
	return c
}

func (a *app) newRolloutShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "show ID",
		Short: "Show a rollout and what has become of it on each device",
		Long: `Show a rollout and what has become of it on each device. ID is its id, or the
beginning of it. With --watch it is followed until it is over: done, stopped or
aborted; any end but that all devices are healthy is exit code 1.`,
		Example: "  ecowatt rollout show 5d0c6a3f --watch",
		Args:    arguments("ID"),
	}
	phase := c.Flags().String("phase", "", "only the devices in this phase: healthy, failed, rolled_back, skipped, …")
	watch := c.Flags().Bool("watch", false, "follow it until it is over")
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		id, err := cloud.rolloutNamed(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		var r api.Rollout
		if err := cloud.get(cmd.Context(), rolloutPath(id), nil, &r); err != nil {
			return err
		}
		return a.showRollout(cmd.Context(), cloud, r, rolloutOutput{watch: *watch, json: *asJSON, phase: *phase})
	}
	return c
}

// rolloutOutput is how a rollout is shown.
type rolloutOutput struct {
	watch, json bool
	phase       string // of the devices that are shown; empty for all
}

// rolloutDevices is what 'ecowatt rollout show --json' prints.
type rolloutDevices struct {
	api.Rollout
	Devices []api.DeviceUpdate `json:"devices"`
}

// showRollout prints a rollout, once it is over where that is waited for.
func (a *app) showRollout(ctx context.Context, cloud *client, r api.Rollout, out rolloutOutput) error {
	if out.watch {
		var err error
		if r, err = a.watchRollout(ctx, cloud, r); err != nil {
			return err
		}
	}
	devices, err := cloud.rolloutDevices(ctx, r.ID, out.phase)
	if err != nil {
		return err
	}
	if out.json {
		err = printJSON(a.stdout, rolloutDevices{r, devices})
	} else {
		err = printRollout(a.stdout, r, devices)
	}
	if err == nil && out.watch && (r.State != string(rollout.Done) || r.Progress.Failed > 0) {
		err = fmt.Errorf("rollout %s is %s: %s", r.ID, r.State, progressText(r))
		if r.State == string(rollout.Stopped) {
			err = hinted(err, fmt.Sprintf("No other device is told of the release. Go on with it or end it: ecowatt rollout resume %[1]s, ecowatt rollout abort %[1]s", r.ID[:8]))
		}
	}
	return err
}

// rolloutDevices are the devices of a rollout, in a phase if one is given.
func (c *client) rolloutDevices(ctx context.Context, id, phase string) ([]api.DeviceUpdate, error) {
	all := []api.DeviceUpdate{}
	query := url.Values{"limit": {"1000"}}
	if phase != "" {
		query.Set("phase", phase)
	}
	for {
		var page api.DeviceUpdates
		if err := c.get(ctx, rolloutPath(id)+"/devices", query, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Devices...)
		if page.Next == "" {
			return all, nil
		}
		query.Set("after", page.Next)
	}
}

func printRollout(w io.Writer, r api.Rollout, devices []api.DeviceUpdate) error {
	fmt.Fprintln(w, oneLine(fmt.Sprintf("rollout %s of %s (release %d), by %s, %s", r.ID, r.Version, r.Number, r.By, localTime(r.At))))
	fmt.Fprintln(w, oneLine(fmt.Sprintf("%s since %s: %s", r.State, localTime(r.Since), r.Text)))
	if _, err := fmt.Fprintln(w, progressText(r)); err != nil {
		return err
	}
	stages := newTable("STAGE", "UP TO<", "DEVICES", "HEALTHY", "FAILED", "STATE<")
	for i, s := range r.Stages {
		healthy, failed := s.Counts[string(rollout.Healthy)], 0
		for phase, n := range s.Counts {
			if rollout.Phase(phase).Failure() {
				failed += n
			}
		}
		stages.add(strconv.Itoa(i+1), stageText(s.StageSize), strconv.Itoa(s.Devices), strconv.Itoa(healthy), strconv.Itoa(failed), stageState(r, i+1))
	}
	fmt.Fprintln(w)
	if err := stages.render(w); err != nil || len(devices) == 0 {
		return err
	}
	t := newTable("DEVICE<", "STAGE", "PHASE<", "SINCE<", "CHUNKS", "WHY<")
	for _, d := range devices {
		stage, chunks := missing, missing
		if d.Stage > 0 {
			stage = strconv.Itoa(d.Stage)
		}
		if d.All > 0 {
			chunks = fmt.Sprintf("%d/%d", d.Done, d.All)
		}
		t.add(d.Device, stage, d.Phase, localTime(d.Times[d.Phase]), chunks, orMissing(strings.TrimPrefix(strings.TrimSuffix(d.Code+": "+d.Text, ": "), ": ")))
	}
	fmt.Fprintln(w)
	return t.render(w)
}

func stageText(s api.StageSize) string {
	text := strconv.Itoa(s.Count)
	if s.Percent > 0 {
		text = strconv.FormatFloat(s.Percent, 'g', -1, 64) + "%"
	}
	if s.Start != nil {
		text += " from " + localTime(*s.Start)
	}
	return text
}

func stageState(r api.Rollout, n int) string {
	switch {
	case n < r.Stage || r.State == string(rollout.Done):
		return "over"
	case n == r.Stage && r.StageAt != nil:
		return "since " + localTime(*r.StageAt)
	}
	return "to come"
}

// progressText says how far a rollout is, and how fast.
func progressText(r api.Rollout) string {
	p := r.Progress
	parts := []string{fmt.Sprintf("%d of %d devices healthy", p.Healthy, p.Devices)}
	for _, x := range []struct {
		n    int
		what string
	}{{p.Failed, "failed"}, {p.UnderWay, "under way"}, {p.Waiting, "waiting"}, {p.Skipped, "skipped"}} {
		if x.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", x.n, x.what))
		}
	}
	if r.State == string(rollout.Running) && p.LeftS != nil && p.PerHour > 0 {
		parts = append(parts, fmt.Sprintf("%.0f an hour, %s left", p.PerHour, spanText(time.Duration(*p.LeftS)*time.Second)))
	}
	return strings.Join(parts, ", ")
}

// instructRollout posts what an operator wants of a rollout, and prints what it has
// become.
func (a *app) instructRollout(ctx context.Context, token, name, what string, body any, asJSON bool) error {
	cloud, err := a.client(token)
	if err != nil {
		return err
	}
	id, err := cloud.rolloutNamed(ctx, name)
	if err != nil {
		return err
	}
	var r api.Rollout
	if body == nil {
		err = cloud.call(ctx, http.MethodPost, rolloutPath(id)+"/"+what, nil, &r)
	} else {
		err = cloud.send(ctx, http.MethodPost, rolloutPath(id)+"/"+what, body, &r)
	}
	switch {
	case err != nil:
		return err
	case asJSON:
		return printJSON(a.stdout, r)
	}
	_, err = fmt.Fprintln(a.stdout, oneLine(fmt.Sprintf("rollout %s of %s is %s: %s", r.ID, r.Version, r.State, progressText(r))))
	return err
}

func (a *app) newRolloutInstruction(name, short, long string) *cobra.Command {
	c := &cobra.Command{
		Use:     name + " ID",
		Short:   short,
		Long:    long,
		Example: "  ecowatt rollout " + name + " 5d0c6a3f",
		Args:    arguments("ID"),
	}
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.instructRollout(cmd.Context(), *token, args[0], name, nil, *asJSON)
	}
	return c
}

func (a *app) newRolloutAbortCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "abort ID",
		Short: "End a rollout before it is done",
		Long: `End a rollout before it is done. Who has not begun stays out. Who is under way is
told of the release no more and stays with what it runs, or finishes (--finish). A
device that has switched to the release confirms it or goes back by itself.`,
		Example: "  ecowatt rollout abort 5d0c6a3f --finish",
		Args:    arguments("ID"),
	}
	finish := c.Flags().Bool("finish", false, "who is under way may finish")
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.instructRollout(cmd.Context(), *token, args[0], "abort", map[string]bool{"finish": *finish}, *asJSON)
	}
	return c
}

// watchRollout follows a rollout until it is over: a bar where a person looks, and a
// line for each change of its state and of its stage, and for each device that came
// to its end.
func (a *app) watchRollout(ctx context.Context, cloud *client, r api.Rollout) (api.Rollout, error) {
	line, told, stateAt, stage := newLive(a.stderr), map[string]bool{}, "", 0
	defer line.clear()
	var trouble error
	tell := func(r api.Rollout) (over bool) {
		var lines []string
		if state := r.State + localTime(r.Since); state != stateAt {
			stateAt = state
			lines = append(lines, fmt.Sprintf("%s  %s: %s", localTime(r.Since), r.State, r.Text))
		}
		if r.Stage != stage && r.StageAt != nil {
			stage = r.Stage
			lines = append(lines, fmt.Sprintf("%s  stage %d of %d begins: %s", localTime(*r.StageAt), stage, len(r.Stages), countOf(r.Stages[stage-1].Devices, "device")))
		}
		devices, err := cloud.ended(ctx, r, told)
		if trouble = err; err == nil {
			lines = append(lines, devices...)
		}
		if len(lines) > 0 {
			line.clear()
			fmt.Fprintln(a.stderr, strings.Join(lines, "\n"))
		}
		p := r.Progress
		line.show(bar(p.Over, p.Failed, p.Devices, 30) + " " + progressText(r))
		return r.State != string(rollout.Running) && r.State != string(rollout.Paused)
	}
	r, err := following[api.Rollout]{
		every: membersLook,
		tell:  tell,
		look: func(ctx context.Context) (now api.Rollout, err error) {
			err = cloud.get(ctx, rolloutPath(r.ID), nil, &now)
			return now, err
		},
	}.from(ctx, r)
	if err == nil && trouble != nil && !passing(trouble) {
		err = trouble
	}
	return r, err
}

// ended tells of the devices of a rollout that have failed and were not told yet: of
// those that are healthy the bar tells.
func (c *client) ended(ctx context.Context, r api.Rollout, told map[string]bool) (lines []string, err error) {
	var bad []api.DeviceUpdate
	for _, phase := range []rollout.Phase{rollout.Failed, rollout.RolledBack, rollout.Overdue} {
		if r.Counts[string(phase)] == 0 {
			continue
		}
		list, err := c.rolloutDevices(ctx, r.ID, string(phase))
		if err != nil {
			return nil, err
		}
		bad = append(bad, list...)
	}
	slices.SortStableFunc(bad, func(x, y api.DeviceUpdate) int { return x.Times[x.Phase].Compare(y.Times[y.Phase]) })
	for _, d := range bad {
		if key := d.Device + " " + d.Phase; !told[key] {
			told[key] = true
			lines = append(lines, oneLine(fmt.Sprintf("%s  %s  %s (%s): %s", localTime(d.Times[d.Phase]), d.Device, d.Phase, d.Code, d.Text)))
		}
	}
	return lines, nil
}
