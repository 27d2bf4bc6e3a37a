package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt/inverter/profile"
	"ecowatt/sim"
)

// simFlags are the flags of "ecowatt sim".
type simFlags struct {
	listen, profile, weather, startAt, trace string
	speed                                    float64
	inverters                                int
	seed                                     uint64
}

func (a *app) newSimCommand() *cobra.Command {
	var f simFlags
	c := &cobra.Command{
		Use:   "sim",
		Short: "Simulate inverters that speak Modbus TCP",
		Long: `Simulate photovoltaic inverters that speak Modbus TCP, until interrupted: two
strings of panels under a sky, trackers, losses, clipping, an export limit with a
ramp, night, and a grid that wanders. The inverters have the profile's unit (17)
and those that follow; each is a bit different. The same flags give the same
values at the same time after the start.

--weather is a recorded day (clear, mixed, overcast) or a CSV file, which is
played again and again; without it, the sky is clear and computed. A file has a
header and the columns
  time      RFC 3339, as 2019-03-15T10:30:00-07:00; rows ascend
  poa_wm2   light on the panels in W/m²; or irr_wm2, or ghi_wm2
  tamb_c    temperature of the air in °C
  wind_ms   wind in m/s; it may be left out
--start-at is a time by the clock of the weather: of a file, the one in which its
first row is written.

--trace appends a line of JSON for each read, before it is answered:
  {"t": ms since 1970, "unit": 17, "address": 0, "words": [2304, …]}`,
		Example: "  ecowatt sim --start-at 10:30\n  ecowatt sim --inverters 3 --weather mixed --speed 60",
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.simulate(cmd.Context(), f) },
	}
	c.Flags().StringVar(&f.listen, "modbus-tcp", "127.0.0.1:5020", "address to listen on; port 0 takes a free one")
	c.Flags().StringVar(&f.profile, "profile", "ecowatt-sim", "register map: "+strings.Join(profile.List(), ", "))
	c.Flags().StringVar(&f.weather, "weather", "", strings.Join(sim.RecordedDays(), ", ")+" or a CSV file (default a computed clear sky)")
	c.Flags().Float64Var(&f.speed, "speed", 1, fmt.Sprintf("simulated seconds per second, up to %d", sim.MaxSpeed))
	c.Flags().IntVar(&f.inverters, "inverters", 1, "how many")
	c.Flags().StringVar(&f.startAt, "start-at", "12:00", "time of day at which it starts")
	c.Flags().Uint64Var(&f.seed, "seed", 1, "of all that is random")
	c.Flags().StringVar(&f.trace, "trace", "", "file that is told what is read")
	return c
}

func (a *app) simulate(ctx context.Context, f simFlags) error {
	o := sim.Options{
		Inverters: f.inverters,
		Speed:     f.speed,
		Seed:      f.seed,
		Logger:    slog.New(slog.NewTextHandler(a.stderr, nil)),
	}
	clock, err := time.Parse("15:04", f.startAt)
	switch {
	case err != nil:
		return usagef("--start-at: %.40q is no time of day such as 10:30", f.startAt)
	case !(f.speed > 0 && f.speed <= sim.MaxSpeed):
		return usagef("--speed: %g is not above 0 and at most %d", f.speed, sim.MaxSpeed)
	}
	o.Start = time.Duration(clock.Hour())*time.Hour + time.Duration(clock.Minute())*time.Minute
	if o.Profile, err = profile.Find(f.profile); err != nil {
		return fmt.Errorf("--profile: %w", err)
	}
	if most := sim.MaxInverters(o.Profile); f.inverters < 1 || f.inverters > most {
		return usagef("--inverters: %d is not within 1 and %d", f.inverters, most)
	}
	if o.Weather, err = weather(f.weather); err != nil {
		return fmt.Errorf("--weather: %w", err)
	}
	var listener net.ListenConfig
	l, err := listener.Listen(ctx, "tcp", f.listen)
	if err != nil {
		return fmt.Errorf("--modbus-tcp: %w", err)
	}
	defer l.Close()
	if f.trace != "" {
		file, err := os.OpenFile(f.trace, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("--trace: %w", err)
		}
		defer file.Close()
		o.Trace = file
	}
	s, err := sim.New(o)
	if err != nil {
		return err
	}
	return s.Run(ctx, l)
}

// weather is the weather that --weather names; nil for none.
func weather(name string) (sim.Weather, error) {
	if name == "" {
		return nil, nil
	}
	if slices.Contains(sim.RecordedDays(), name) {
		return sim.Recorded(name)
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no file %.200q, and no recorded day of that name, only %s", name, strings.Join(sim.RecordedDays(), ", "))
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return sim.ReadRecording(name, f)
}
