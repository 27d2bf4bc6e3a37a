package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"ecowatt/agent"
)

// printStatus writes a status for people: a line for each thing, its name in
// front, and the last error of a thing below it.
func printStatus(w io.Writer, s agent.Status) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, oneLine(fmt.Sprintf(format, args...)))
	}
	trouble := func(text string) {
		if text != "" {
			line("", "%s", text)
		}
	}
	line("device", "%s (agent %s, pid %d)", s.Device, s.Version, s.PID)
	line("cloud", "%s", s.Cloud)
	line("uplink", "%s, last exchange %s, next attempt in %s%s", s.Uplink.State, ago(s.Uplink.ExchangeAge), age(s.Uplink.NextIn), failures(s.Uplink.Failures))
	trouble(s.Uplink.Error)
	if s.Clock.Known {
		line("clock", "known to %d ms", s.Clock.UncertaintyMs)
	} else {
		line("clock", "not known before the first exchange")
	}
	for _, in := range s.Inverters {
		line("inverter", "%s %s%s, last sample %s%s", in.Name, in.State, frozen(in), ago(in.SampleAge), failures(in.Failures))
		trouble(in.Error)
	}
	line("buffer", "%d samples and %d messages wait, %d KiB%s", s.Buffer.Samples, s.Buffer.Messages, s.Buffer.Bytes>>10, bufferTrouble(s.Buffer))
	if len(s.Config.Parameters) > 0 {
		line("config", "revision %d%s", s.Config.Revision, map[bool]string{true: ", on trial until the cloud is reached under it"}[s.Config.OnTrial])
	}
	for _, p := range s.Config.Parameters {
		line("", "%s (%s)", p, p.From)
	}
	for _, l := range s.Leases {
		force := "in force"
		if !l.InForce {
			force = "behind a stricter one"
		}
		line("limit", "%s %g %%, %s, for %s more, then %s (command %s)", l.Inverter, l.Percent, force, age(l.Left), l.OnEnd, l.Command)
	}
	return t.Flush()
}

func frozen(in agent.InverterStatus) string {
	if in.Frozen {
		return " with values that do not change"
	}
	return ""
}

func failures(n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return ", 1 failure"
	}
	return fmt.Sprintf(", %d failures in a row", n)
}

func bufferTrouble(b agent.BufferStatus) string {
	var all []string
	if b.Thinned > 0 {
		all = append(all, fmt.Sprintf(", %d samples were thinned out for lack of room", b.Thinned))
	}
	if b.Dropped > 0 {
		all = append(all, fmt.Sprintf(", %d samples were given up for lack of room", b.Dropped))
	}
	if b.Failing {
		all = append(all, ", it cannot be written")
	}
	return strings.Join(all, "")
}

// ago is an age in s as people say it.
func ago(seconds float64) string {
	if seconds < 0 {
		return "never"
	}
	return age(seconds) + " ago"
}

// age is a number of s in the unit that suits it.
func age(seconds float64) string {
	switch {
	case seconds < 120:
		return fmt.Sprintf("%.0f s", seconds)
	case seconds < 120*60:
		return fmt.Sprintf("%.0f min", seconds/60)
	}
	return fmt.Sprintf("%.1f h", seconds/3600)
}
