package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt/internal/disk"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
	"ecowatt/sim"
	"ecowatt/sim/fault"
)

// simFlags are the flags of "ecowatt sim".
type simFlags struct {
	listen, rtuTCP, line, http, httpKey string
	profile, profiles, weather, startAt string
	dayEnds                             string
	trace, state, script                string
	faults, described                   []string
	speed, clouds, volts, ohms          float64
	floor, ramp                         float64
	zeroStops                           bool
	inverters, connections              int
	seed                                uint64
}

func (a *app) newSimCommand() *cobra.Command {
	var f simFlags
	c := &cobra.Command{
		Use:   "sim",
		Short: "Simulate inverters that speak Modbus",
		Long: `Simulate photovoltaic inverters that speak Modbus, until interrupted: two strings
of panels under a sky, trackers, losses, clipping, an export limit with a ramp,
night, and a grid that wanders. The inverters have the profile's unit (17) and
those that follow, or are described by --inverter, each with fields
  unit      unit id; that of the profile when left out
  profile   register map, or sunspec; ecowatt-sim when left out
  count     so many, with the units that follow
  base      of sunspec: where it begins, 40000, 50000 or 0
  models    of sunspec: integers (101 to 103, 120 to 123, 160), floats (111 to
            113 and the same) or ieee1547 (701, 702, 704)
  phases    of sunspec: 1, 2 or 3
each is a bit different. The same flags give the same values
at the same time after the start. They are served on Modbus TCP, and where the
flags say so also as RTU frames over TCP, on a serial line and over HTTP, with
faults on order: docs/simulator.md tells of these.

--weather is a recorded day (clear, mixed, overcast) or a CSV file, which is
played again and again; without it, the sky is computed, clear or with --clouds.
A file has a header and the columns
  time      RFC 3339, as 2019-03-15T10:30:00-07:00; rows ascend
  poa_wm2   light on the panels in W/m²; or irr_wm2, or ghi_wm2
  tamb_c    temperature of the air in °C
  wind_ms   wind in m/s; it may be left out
--start-at is a time by the clock of the weather: of a file, the one in which its
first row is written.

--trace appends a line of JSON for each read, before it is answered, and for
each request that meets a fault:
  {"t": ms since 1970, "unit": 17, "address": 0, "words": [2304, …]}`,
		Example: `  ecowatt sim --start-at 10:30
  ecowatt sim --inverters 3 --weather mixed --speed 60
  ecowatt sim --inverter unit=1,profile=huawei-sun2000 --inverter unit=2,profile=sunspec,models=ieee1547
  ecowatt sim --rtu-tcp 127.0.0.1:5021 --fault '{"fault": "late", "for": "4s", "probability": 0.1}'`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.simulate(cmd.Context(), f) },
	}
	c.Flags().StringVar(&f.listen, "modbus-tcp", "127.0.0.1:5020", "address to listen on; port 0 takes a free one")
	c.Flags().StringVar(&f.rtuTCP, "rtu-tcp", "", "address to listen on for RTU frames over TCP")
	c.Flags().StringVar(&f.line, "rtu", "", "serial line to answer on, as /dev/ttyUSB0?baud=9600&parity=none&stop=1")
	c.Flags().StringVar(&f.http, "http", "", "address to listen on for frames in HTTP requests and orders of faults")
	c.Flags().StringVar(&f.httpKey, "http-key", "", "the Authorization that HTTP requests need (default one is made and printed)")
	c.Flags().IntVar(&f.connections, "connections", modbus.DefaultConnections, "most Modbus connections over TCP at a time")
	c.Flags().StringVar(&f.profiles, "profiles", "", "folder of further profiles, NAME.yaml")
	c.Flags().StringVar(&f.profile, "profile", "ecowatt-sim", "register map: "+sim.SunSpecName+", "+strings.Join(profile.List(), ", "))
	c.Flags().StringArrayVar(&f.described, "inverter", nil, "one, or more, in place of --profile and --inverters; may be given again")
	c.Flags().StringVar(&f.weather, "weather", "", strings.Join(sim.RecordedDays(), ", ")+" or a CSV file (default a computed sky)")
	c.Flags().Float64Var(&f.clouds, "clouds", 0, "share of the computed sky that clouds cover, 0 to 1")
	c.Flags().Float64Var(&f.speed, "speed", 1, fmt.Sprintf("simulated seconds per second, up to %d", sim.MaxSpeed))
	c.Flags().IntVar(&f.inverters, "inverters", 1, "how many")
	c.Flags().StringVar(&f.startAt, "start-at", "12:00", "time of day at which it starts")
	c.Flags().Float64Var(&f.volts, "grid-voltage", 230, "V of the grid without what is fed in")
	c.Flags().Float64Var(&f.ohms, "grid-ohms", 0, "Ω of the line to the grid, on which the voltage rises (default 0.1 to 0.3 by inverter)")
	c.Flags().Float64Var(&f.floor, "limit-floor", 0, "% below which no limit takes the power")
	c.Flags().Float64Var(&f.ramp, "limit-ramp", 5, "% in a second by which an inverter follows a limit")
	c.Flags().BoolVar(&f.zeroStops, "zero-stops", false, "a limit of 0 stops an inverter, for a minute longer")
	c.Flags().StringVar(&f.dayEnds, "day-ends", "00:00", "time of day at which counters of the day begin again")
	c.Flags().Uint64Var(&f.seed, "seed", 1, "of all that is random")
	c.Flags().StringVar(&f.state, "state", "", "file in which the counters of energy outlive the simulator")
	c.Flags().StringArrayVar(&f.faults, "fault", nil, "a fault, as a line of a script; may be given again")
	c.Flags().StringVar(&f.script, "faults", "", "file of faults, the script")
	c.Flags().StringVar(&f.trace, "trace", "", "file that is told what is read")
	c.MarkFlagsMutuallyExclusive("inverter", "profile")
	c.MarkFlagsMutuallyExclusive("inverter", "inverters")
	return c
}

func (a *app) simulate(ctx context.Context, f simFlags) error {
	o, err := f.options()
	if err != nil {
		return err
	}
	o.Logger = slog.New(slog.NewTextHandler(a.stderr, nil))
	ends, err := f.open(ctx)
	defer ends.close()
	if err != nil {
		return err
	}
	if f.trace != "" {
		file, err := os.OpenFile(f.trace, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return fmt.Errorf("--trace: %w", err)
		}
		defer file.Close()
		o.Trace = file
	}
	if f.state != "" {
		if err := keepEnergy(f.state, &o); err != nil {
			return fmt.Errorf("--state: %w", err)
		}
	}
	s, err := sim.New(o)
	if err != nil {
		return err
	}
	if f.http != "" && f.httpKey == "" {
		o.Logger.Info("the HTTP interface has a key for this run", "key", o.HTTPKey)
	}
	return s.Run(ctx, ends.Ends)
}

// options are those that need no file and no port.
func (f simFlags) options() (o sim.Options, err error) {
	o = sim.Options{
		Speed: f.speed, Seed: f.seed, GridVoltage: f.volts, GridOhms: f.ohms, LimitFloor: f.floor,
		LimitRamp: f.ramp, ZeroStops: f.zeroStops,
		Connections: f.connections, HTTPKey: f.httpKey,
	}
	if o.HTTPKey == "" {
		o.HTTPKey = rand.Text()
	}
	var timeErr error
	if o.Start, timeErr = timeOfDay("--start-at", f.startAt); timeErr == nil {
		o.DayEnds, timeErr = timeOfDay("--day-ends", f.dayEnds)
	}
	within := func(x, least, most float64) bool { return x >= least && x <= most }
	switch {
	case timeErr != nil:
		return o, timeErr
	case !(f.speed > 0 && f.speed <= sim.MaxSpeed):
		return o, usagef("--speed: %g is not above 0 and at most %d", f.speed, sim.MaxSpeed)
	case !within(f.clouds, 0, 1):
		return o, usagef("--clouds: %g is not within 0 and 1", f.clouds)
	case f.clouds > 0 && f.weather != "":
		return o, usagef("--clouds: --weather %.100s has its own", f.weather)
	case !within(f.volts, sim.MinGrid, sim.MaxGrid):
		return o, usagef("--grid-voltage: %g is not within %d and %d", f.volts, sim.MinGrid, sim.MaxGrid)
	case !within(f.ohms, 0, sim.MaxOhms):
		return o, usagef("--grid-ohms: %g is not within 0 and %d", f.ohms, sim.MaxOhms)
	case !within(f.floor, 0, 100):
		return o, usagef("--limit-floor: %g is not within 0 and 100", f.floor)
	case !within(f.ramp, 0, 100) || f.ramp == 0:
		return o, usagef("--limit-ramp: %g is not above 0 and at most 100", f.ramp)
	case f.connections < 1:
		return o, usagef("--connections: %d is less than 1", f.connections)
	}
	if o.Inverters, err = f.simulated(); err != nil {
		return o, err
	}
	if o.Weather, err = weather(f.weather); err != nil {
		return o, fmt.Errorf("--weather: %w", err)
	}
	if f.clouds > 0 {
		o.Weather = sim.Clouds{Sky: sim.DefaultSky(), Cover: f.clouds, Seed: f.seed}
	}
	o.Faults, err = f.misbehaviour()
	return o, err
}

// timeOfDay is what a flag says, since midnight.
func timeOfDay(flag, text string) (time.Duration, error) {
	clock, err := time.Parse("15:04", text)
	if err != nil {
		return 0, usagef("%s: %.40q is no time of day such as 10:30", flag, text)
	}
	return time.Duration(clock.Hour())*time.Hour + time.Duration(clock.Minute())*time.Minute, nil
}

// misbehaviour is what --fault and --faults say, in this order.
func (f simFlags) misbehaviour() ([]fault.Rule, error) {
	var rules []fault.Rule
	for _, text := range f.faults {
		r, err := fault.ParseRule([]byte(text))
		if err != nil {
			return nil, usagef("--fault: %w", err)
		}
		rules = append(rules, r)
	}
	if f.script == "" {
		return rules, nil
	}
	text, err := readLimited(f.script, fault.MaxScript)
	if err != nil {
		return nil, fmt.Errorf("--faults: %w", err)
	}
	more, err := fault.ParseScript(text)
	if err != nil {
		return nil, fmt.Errorf("--faults: %s: %w", f.script, err)
	}
	return append(rules, more...), nil
}

// readLimited reads a file of at most limit bytes.
func readLimited(name string, limit int64) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return text, err
}

// simEnds are open ends of a simulator.
type simEnds struct{ sim.Ends }

// open opens what the simulator is to be served on. What it has opened is to be
// closed also after an error.
func (f simFlags) open(ctx context.Context) (ends simEnds, err error) {
	var listener net.ListenConfig
	if ends.TCP, err = listener.Listen(ctx, "tcp", f.listen); err != nil {
		return ends, fmt.Errorf("--modbus-tcp: %w", err)
	}
	if f.rtuTCP != "" {
		if ends.RTU, err = listener.Listen(ctx, "tcp", f.rtuTCP); err != nil {
			return ends, fmt.Errorf("--rtu-tcp: %w", err)
		}
	}
	if f.http != "" {
		if ends.HTTP, err = listener.Listen(ctx, "tcp", f.http); err != nil {
			return ends, fmt.Errorf("--http: %w", err)
		}
	}
	if f.line == "" {
		return ends, nil
	}
	at, err := modbus.ParseEndpoint("rtu://" + f.line)
	if err != nil {
		return ends, usagef("--rtu: %w", err)
	}
	if ends.Line, err = at.Line.Open(); err != nil {
		return ends, fmt.Errorf("--rtu: %w", err)
	}
	return ends, nil
}

func (e simEnds) close() {
	for _, c := range []io.Closer{e.TCP, e.RTU, e.HTTP, e.Line} {
		if c != nil {
			_ = c.Close() // mostly the simulator has
		}
	}
}

// keepEnergy makes the counters begin where the file has them, and be saved
// there. A file that is not there yet is made.
func keepEnergy(file string, o *sim.Options) error {
	folder, name := disk.OS(filepath.Dir(file)), filepath.Base(file)
	o.Save = func(all []sim.Energy) error {
		text, err := sim.EncodeState(all)
		if err != nil {
			return err
		}
		return disk.WriteFile(folder, name, text, 0o600)
	}
	text, err := disk.ReadFile(folder, name, sim.MaxState)
	if errors.Is(err, fs.ErrNotExist) {
		return o.Save(make([]sim.Energy, len(o.Inverters)))
	}
	if err != nil {
		return err
	}
	if o.Energy, err = sim.ParseState(text); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
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
