package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"
	_ "time/tzdata" // servers without zones, and people on other systems, have days too

	"github.com/spf13/cobra"

	"ecowatt"
	"ecowatt/cloud/api"
)

func (a *app) newTelemetryEnergyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:     "energy ID",
		Short:   "Show what a device produced, by day",
		Long:    "Show what the inverters of a device produced, by day of its time zone or by\nanother step. Energy comes from the counter of the inverter, or, where it has none,\nfrom its power; the last column says which.",
		Example: "  ecowatt telemetry energy roof-1 --since 30d",
		Args:    arguments("ID"),
	}
	selected := selectionFlags(c, "30d")
	c.Flags().Lookup("step").DefValue, selected.step = "1d", "1d"
	c.Flags().Lookup("step").Usage = "over how long: a multiple of 15m, or 1d"
	token, asJSON := tokenFlag(c), jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return a.telemetry(cmd.Context(), *token, args[0], selected, func(ctx context.Context, cloud *client, path, query string) error {
			body, err := cloud.open(ctx, http.MethodGet, path+"/telemetry"+query+"&only=energy", nil)
			if err != nil {
				return err
			}
			defer body.Close()
			if *asJSON {
				_, err := io.Copy(a.stdout, body)
				return err
			}
			return a.showCurves(body, args[0])
		})
	}
	return c
}

// showCurves writes a table for each run of buckets.
func (a *app) showCurves(body io.Reader, device string) error {
	var curves api.Curves
	if err := json.NewDecoder(body).Decode(&curves); err != nil {
		return fmt.Errorf("reading the cloud's answer: %w", err)
	}
	if len(curves.Inverters) == 0 {
		fmt.Fprintf(a.stderr, "There are no such samples of %s.\n", device)
		return nil
	}
	for i, c := range curves.Inverters {
		if len(curves.Inverters) > 1 {
			gap := ""
			if i > 0 {
				gap = "\n"
			}
			if _, err := fmt.Fprintf(a.stdout, "%s%s\n", gap, oneLine(c.Inverter)); err != nil {
				return err
			}
		}
		t, err := curveTable(c, curves.Step)
		if err != nil {
			return err
		}
		if err := t.render(a.stdout); err != nil {
			return err
		}
	}
	return nil
}

// curveTable is the means of a curve, and what was produced.
func curveTable(c api.Curve, step int64) (*table, error) {
	zone, err := time.LoadLocation(c.TimeZone)
	if err != nil {
		return nil, fmt.Errorf("the time zone of %s: %w", c.Inverter, err)
	}
	headings := []string{"time<"}
	for _, p := range c.Points {
		heading := p.Name
		if p.Unit != "" {
			heading += " (" + p.Unit + ")"
		}
		headings = append(headings, heading)
	}
	if c.EnergySource != "" {
		headings = append(headings, "energy (kWh)", "from<")
	}
	t := newTable(headings...)
	for _, b := range c.Buckets {
		if len(b.Values) != len(c.Points) {
			return nil, errors.New("the cloud's answer cannot be understood: a bucket has another number of values than there are points")
		}
		begin := time.UnixMilli(b.T)
		row := []string{localTime(begin)}
		if step == int64(24*time.Hour/time.Second) {
			row[0] = begin.In(zone).Format(time.DateOnly)
		}
		for i, v := range b.Values {
			row = append(row, meanCell(v, c.Points[i].Exponent))
		}
		switch {
		case c.EnergySource == "":
		case b.Energy == nil:
			row = append(row, missing, missing)
		default:
			row = append(row, strconv.FormatFloat(*b.Energy/1000, 'f', 3, 64), c.EnergySource)
		}
		t.add(row...)
	}
	return t, nil
}

// meanCell is the mean of a bucket with as many digits as its values have.
func meanCell(v *api.BucketValue, exponent int) string {
	if v == nil {
		return missing
	}
	return ecowatt.Decimal(int64(math.Round(v.Mean)), exponent)
}
