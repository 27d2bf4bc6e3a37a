package main

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt/cloud/api"
)

// maxStatement is the longest signed statement that is read, in bytes.
const maxStatement = 64 << 10

// newRollout is what 'ecowatt rollout create' is asked for.
type newRollout struct {
	target      api.RolloutTarget
	stages      []string
	soak        string
	noTelemetry bool
	deadline    string
	maxFailed   string
	minSample   int
	downgrades  []string // files
}

func (a *app) newRolloutCreateCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "create RELEASE",
		Short: "Roll out a release",
		Long: `Roll out a release to the devices that fit all of what is given, in stages. A stage is
a number of devices or a share of them, those of the stages before included, and may
have a time before which it does not begin. The next stage begins when all devices of
this one are healthy or have failed; when too many have failed the rollout stops by
itself. RELEASE is as for 'ecowatt firmware show'.`,
		Example: `  ecowatt rollout create 1.4.0 --group north --stage 1% --stage 10% --stage 100%
  ecowatt rollout create 1.4.0 --device roof-1 --device roof-2 --stage 2 --watch
  ecowatt rollout create 1.4.0 --stage 5 --stage 100%@2026-06-22T06:00:00Z`,
		Args: arguments("RELEASE"),
	}
	var n newRollout
	f := c.Flags()
	f.StringVar(&n.target.Group, "group", "", "only devices of this group")
	f.StringArrayVar(&n.target.Devices, "device", nil, "only this device; several times for several")
	f.StringArrayVar(&n.target.Hardware, "hardware", nil, "only this board revision; several times for several")
	f.StringArrayVar(&n.target.Versions, "from", nil, "only devices that run this version now; several times for several")
	f.StringArrayVar(&n.stages, "stage", nil, "COUNT or SHARE%, and @TIME not to begin before; in their order (default 1%, 10%, 100%)")
	f.StringVar(&n.soak, "soak", "30m", "for how long telemetry must go on after an update is confirmed")
	f.BoolVar(&n.noTelemetry, "no-telemetry", false, "it is enough that the device still speaks then")
	f.StringVar(&n.deadline, "deadline", "24h", "from its stage's begin on a device has so long")
	f.StringVar(&n.maxFailed, "max-failed", "2%", "share of failed devices of a stage beyond which it stops")
	f.IntVar(&n.minSample, "min-sample", 10, "of how many at least it must be known how they did, before it stops")
	f.StringArrayVar(&n.downgrades, "downgrade", nil, "file of a signed statement that lets devices go back; several times for several")
	watch := f.Bool("watch", false, "follow it until it is over")
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		body, err := n.body()
		if err != nil {
			return err
		}
		cloud, err := a.client(*token)
		if err != nil {
			return err
		}
		release, err := cloud.release(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		body.Release = release.ID
		var r api.Rollout
		if err := cloud.send(cmd.Context(), http.MethodPost, rolloutsPath, body, &r); err != nil {
			return err
		}
		return a.showRollout(cmd.Context(), cloud, r, rolloutOutput{watch: *watch, json: *asJSON})
	}
	return c
}

// body is what the cloud is asked for, but for the release.
func (n newRollout) body() (b api.NewRollout, err error) {
	soak, err := parseSpan("--soak", n.soak)
	if err != nil && n.soak != "0" {
		return b, err
	}
	deadline, err := parseSpan("--deadline", n.deadline)
	if err != nil {
		return b, err
	}
	failed, err := parseNumber("--max-failed", strings.TrimSuffix(n.maxFailed, "%"))
	if err != nil {
		return b, err
	}
	soakS, deadlineS := wholeSeconds(soak), wholeSeconds(deadline)
	b = api.NewRollout{Target: n.target, SoakS: &soakS, NoTelemetry: n.noTelemetry, DeadlineS: &deadlineS, MaxFailed: &failed, MinSample: &n.minSample}
	for _, text := range n.stages {
		s, err := parseStage(text)
		if err != nil {
			return b, err
		}
		b.Stages = append(b.Stages, s)
	}
	for _, name := range n.downgrades {
		signed, err := readFile(name, maxStatement)
		if err != nil {
			return b, err
		}
		b.Downgrades = append(b.Downgrades, signed)
	}
	return b, nil
}

// parseStage reads COUNT, SHARE%, and either with @TIME.
func parseStage(text string) (s api.StageSize, err error) {
	size, at, timed := strings.Cut(text, "@")
	if timed {
		start, err := time.Parse(time.RFC3339, at)
		if err != nil {
			return s, usagef("--stage: %q is no time; write %s", at, "2026-06-22T06:00:00Z")
		}
		s.Start = &start
	}
	if share, ok := strings.CutSuffix(size, "%"); ok {
		s.Percent, err = parseNumber("--stage", share)
	} else {
		s.Count, err = strconv.Atoi(size)
	}
	if err != nil || s.Percent < 0 || s.Percent+float64(s.Count) <= 0 {
		return s, usagef("--stage: %q is neither a number of devices nor a share; write 5 or 10%%", size)
	}
	return s, nil
}
