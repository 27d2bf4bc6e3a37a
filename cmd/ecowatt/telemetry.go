package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt"
	"ecowatt/cloud/api"
)

func (a *app) newTelemetryCommand() *cobra.Command {
	return group("telemetry", "Show and export what inverters measured",
		a.newTelemetryShowCommand(),
		a.newTelemetryEnergyCommand(),
		a.newTelemetryExportCommand(),
	)
}

// selection is the flags that say which samples are meant.
type selection struct {
	since, from, to string
	points          []string
	inverter        string
	step            string
}

func selectionFlags(c *cobra.Command, since string) *selection {
	var s selection
	c.Flags().StringVar(&s.since, "since", since, "how far back: 30s, 5m, 2h, 7d")
	c.Flags().StringVar(&s.from, "from", "", "the first moment instead: 2026-06-21, 2026-06-21T12:00 or RFC 3339; local time where it names no zone")
	c.Flags().StringVar(&s.to, "to", "", "the moment before which it ends, written as in --from (default there is no end)")
	c.Flags().StringVar(&s.inverter, "inverter", "", "only this inverter")
	c.Flags().StringVar(&s.step, "step", "", "means over so long in place of samples: 1m, 15m, 1h, 1d")
	c.MarkFlagsMutuallyExclusive("since", "from")
	return &s
}

func pointsFlag(c *cobra.Command, s *selection) {
	c.Flags().StringSliceVar(&s.points, "points", nil, "only these points, in this order: pac,vac1")
}

// query is the query of the API that the flags ask for, relative to now.
func (s *selection) query(now time.Time) (url.Values, error) {
	q := url.Values{"from": {"0"}}
	switch {
	case s.from != "":
		from, err := parseTime("--from", s.from)
		if err != nil {
			return nil, err
		}
		q.Set("from", millis(from))
	case s.since != "":
		span, err := parseSpan("--since", s.since)
		if err != nil {
			return nil, err
		}
		q.Set("from", millis(time.UnixMilli(max(now.Add(-span).UnixMilli(), 0))))
	}
	if s.to != "" {
		to, err := parseTime("--to", s.to)
		if err != nil {
			return nil, err
		}
		q.Set("to", millis(to))
	}
	if len(s.points) > 0 {
		q.Set("points", strings.Join(s.points, ","))
	}
	if s.inverter != "" {
		q.Set("inverter", s.inverter)
	}
	if s.step != "" {
		step, err := parseSpan("--step", s.step)
		if err != nil {
			return nil, err
		}
		q.Set("step", strconv.FormatInt(int64(step/time.Second), 10))
	}
	return q, nil
}

func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

func parseTime(flag, text string) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04", time.DateTime} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("%s: %q is no time; write 2026-06-21, 2026-06-21T12:00 or RFC 3339", flag, text)
}

// parseSpan reads the duration of a flag, also one in days.
func parseSpan(flag, text string) (time.Duration, error) {
	const day, century = 24 * time.Hour, 100 * 366
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n > 0 && n <= century {
			return time.Duration(n) * day, nil
		}
	} else if d, err := time.ParseDuration(text); err == nil && d > 0 && d <= century*day {
		return d, nil
	}
	return 0, usagef("%s: %q is no time span; write 30s, 5m, 2h or 7d", flag, text)
}

func (a *app) newTelemetryShowCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "show ID",
		Short:   "Show samples of a device",
		Long:    "Show samples of a device as a table for each inverter: local time, values with\ntheir units, and — where a value could not be read. With --step each row is what\nthe values were on average, and what was produced, in a span of time.",
		Example: "  ecowatt telemetry show roof-1 --since 5m --points pac,vac1",
		Args:    arguments("ID"),
	}
	selected := selectionFlags(c, "15m")
	pointsFlag(c, selected)
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.telemetry(cmd.Context(), *token, args[0], selected, func(ctx context.Context, cloud *client, path, query string) error {
			body, err := cloud.open(ctx, http.MethodGet, path+"/telemetry"+query, nil)
			if err != nil {
				return err
			}
			defer body.Close()
			if *asJSON {
				_, err := io.Copy(a.stdout, body)
				return err
			}
			if selected.step != "" {
				return a.showCurves(body, args[0])
			}
			var samples api.Samples
			if err := json.NewDecoder(body).Decode(&samples); err != nil {
				return fmt.Errorf("reading the cloud's answer: %w", err)
			}
			if len(samples.Inverters) == 0 {
				fmt.Fprintf(a.stderr, "There are no such samples of %s.\n", args[0])
				return nil
			}
			return printSamples(a.stdout, samples)
		})
	}
	return c
}

func (a *app) newTelemetryExportCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "export ID",
		Short: "Export samples of a device as CSV",
		Long: `Export samples of a device as CSV (RFC 4180), everything there is unless told
otherwise: one row per sample with the time (RFC 3339, UTC), the inverter, and a
column per point headed by name and unit.`,
		Example: "  ecowatt telemetry export roof-1 --csv --from 2026-06-01 --out june.csv",
		Args:    arguments("ID"),
	}
	selected := selectionFlags(c, "")
	pointsFlag(c, selected)
	asCSV := c.Flags().Bool("csv", true, "as CSV, the one format there is")
	out := c.Flags().String("out", "", "file to write, which must not exist yet (default standard output)")
	token := tokenFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if !*asCSV {
			return usagef("--csv: there is no other format")
		}
		return a.telemetry(cmd.Context(), *token, args[0], selected, func(ctx context.Context, cloud *client, path, query string) error {
			fetch := func(w io.Writer) error {
				body, err := cloud.open(ctx, http.MethodGet, path+"/telemetry.csv"+query, nil)
				if err != nil {
					return err
				}
				defer body.Close()
				_, err = io.Copy(w, body)
				return err
			}
			if *out == "" {
				return fetch(a.stdout)
			}
			return writeNew(*out, 0o644, fetch)
		})
	}
	return c
}

// telemetry does what the two commands share: it works out what is asked for,
// and lets do ask for it.
func (a *app) telemetry(ctx context.Context, token, device string, selected *selection, do func(ctx context.Context, cloud *client, path, query string) error) error {
	id, err := parseDevice(device)
	if err != nil {
		return err
	}
	query, err := selected.query(time.Now())
	if err != nil {
		return err
	}
	cloud, err := a.client(token)
	if err != nil {
		return err
	}
	return do(ctx, cloud, devicePath(id), encoded(query))
}

// printSamples writes a table for each run of samples.
func printSamples(w io.Writer, s api.Samples) error {
	for i, run := range s.Inverters {
		if len(s.Inverters) > 1 {
			gap := ""
			if i > 0 {
				gap = "\n"
			}
			if _, err := fmt.Fprintf(w, "%s%s\n", gap, oneLine(run.Inverter)); err != nil {
				return err
			}
		}
		t, err := sampleTable(run)
		if err != nil {
			return err
		}
		if err := t.render(w); err != nil {
			return err
		}
	}
	return nil
}

func sampleTable(run api.Run) (*table, error) {
	headings := []string{"time<"}
	if run.WindowMS != 0 {
		headings = append(headings, "window")
	}
	for _, p := range run.Points {
		heading := p.Name
		if p.Unit != "" {
			heading += " (" + p.Unit + ")"
		}
		headings = append(headings, heading)
	}
	t := newTable(headings...)
	for _, sample := range run.Samples {
		if len(sample.Values) != len(run.Points) {
			return nil, errors.New("the cloud's answer cannot be understood: a sample has another number of values than there are points")
		}
		row := []string{localTime(time.UnixMilli(sample.T))}
		for i, v := range sample.Values {
			if v == nil {
				row = append(row, missing)
			} else {
				row = append(row, ecowatt.Decimal(*v, run.Points[i].Exponent))
			}
		}
		t.add(row...)
	}
	for _, b := range run.Windows {
		if len(b.Values) != len(run.Points) {
			return nil, errors.New("the cloud's answer cannot be understood: a window has another number of values than there are points")
		}
		row := []string{localTime(time.UnixMilli(b.T)), (time.Duration(run.WindowMS) * time.Millisecond).String()}
		for i, v := range b.Values {
			row = append(row, meanCell(v, run.Points[i].Exponent))
		}
		t.add(row...)
	}
	return t, nil
}
