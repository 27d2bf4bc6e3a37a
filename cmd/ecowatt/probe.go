package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ecowatt"
	"ecowatt/agent"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
)

// sunspecProfile is the name of the profile that is made when the inverter is
// found.
const sunspecProfile = "sunspec"

func (a *app) newProbeCommand() *cobra.Command {
	var profileName string
	var unit uint8
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "probe modbus-tcp://HOST:PORT",
		Short: "Read an inverter once, as installers do",
		Long: `Read every point of a profile from an inverter once, and print a table: value,
unit, the whole number that is stored (raw), and what it means where it has a
name. What could not be read is "—", with the reason. Nothing is written. It
fails when nothing could be read. The profile "sunspec" looks for the inverter's
SunSpec map and reads what it finds there.

Besides modbus-tcp://HOST:PORT there are rtu-tcp://HOST:PORT,
rtu:///dev/ttyUSB0?baud=9600&parity=none&stop=1, and http://HOST:PORT.

With --json, missing values are null:
  {"endpoint": "modbus-tcp://192.168.1.20:502", "unit": 17, "profile": "ecowatt-sim",
   "texts": {"serial": "7E01AB"},
   "points": [{"name": "vac1", "unit": "V", "exponent": -1, "raw": 2304, "value": 230.4},
              {"name": "state", "unit": "", "exponent": 0, "raw": 4, "value": 4, "meaning": "tracking"},
              {"name": "pac", "unit": "W", "exponent": 0, "raw": null, "value": null, "error": "why"}]}`,
		Example: "  ecowatt probe modbus-tcp://127.0.0.1:5020 --unit 17 --profile ecowatt-sim",
		Args:    arguments("modbus-tcp://HOST:PORT"),
	}
	names := strings.Join(profile.List(), ", ")
	c.Flags().StringVar(&profileName, "profile", "", "register map of the inverter, as 'ecowatt profile list' tells them, or "+sunspecProfile)
	dir, key := profilesFlag(c), keyFlag(c)
	c.Flags().Uint8Var(&unit, "unit", 0, "unit id of the inverter (default that of the profile)")
	c.Flags().DurationVar(&timeout, "timeout", modbus.DefaultTimeout, "how long to wait for each answer (the profile's, where it has one)")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		at, err := modbus.ParseEndpoint(args[0])
		switch {
		case err != nil:
			return usagef("%w", err)
		case profileName == "":
			return usagef("--profile is missing; there are: %s", names)
		case timeout <= 0:
			return usagef("--timeout: %v is no time to wait", timeout)
		}
		p := inverter.Profile{Unit: 1}
		if profileName != sunspecProfile {
			if p, err = (profile.Set{Dir: *dir}).Find(profileName); err != nil {
				return fmt.Errorf("--profile: %w", err)
			}
		}
		if !cmd.Flags().Changed("unit") {
			unit = p.Unit
		}
		if p.Timing.Timeout > 0 && !cmd.Flags().Changed("timeout") {
			timeout = p.Timing.Timeout
		}
		o := modbus.ClientOptions{Timeout: timeout, ConnectDelay: p.Timing.Connect}
		if o.Key, err = readKeyOf(at, *key); err != nil {
			return err
		}
		client := at.Client(o)
		bus := modbus.NewBus(client, modbus.BusOptions{Gap: p.Timing.Gap})
		report := probeReport{Endpoint: at.String(), Unit: unit}
		if profileName == sunspecProfile {
			p, err = discover(cmd.Context(), bus.Do, sunspecProfile, unit)
		}
		if err == nil {
			report.Profile = p.Name
			report.Points, err = probe(cmd.Context(), bus.Do, p, unit)
		}
		if err == nil {
			report.Texts = probeTexts(cmd.Context(), bus.Do, p, unit)
		}
		if err = errors.Join(err, bus.Close()); err != nil {
			return hinted(fmt.Errorf("%v: %w", at, err), "Is the inverter on, does it allow Modbus TCP, and are address and unit right?")
		}
		if *asJSON {
			return printJSON(a.stdout, report)
		}
		return report.table().render(a.stdout)
	}
	return c
}

func keyFlag(c *cobra.Command) *string {
	return c.Flags().String("key-file", "", "file with the key that an http address asks for")
}

// readKeyOf reads the key of the endpoint in a file; none where file is "".
func readKeyOf(at modbus.Endpoint, file string) (modbus.Key, error) {
	if file == "" {
		return "", nil
	}
	if at.Kind != modbus.KindHTTP {
		return "", usagef("--key-file: only an http address has a key")
	}
	k, err := agent.ReadKey(file)
	if err != nil {
		return "", fmt.Errorf("--key-file: %w", err)
	}
	return k, nil
}

// probeReport is the JSON of "ecowatt probe".
type probeReport struct {
	Endpoint string            `json:"endpoint"`
	Unit     byte              `json:"unit"`
	Profile  string            `json:"profile"`
	Texts    map[string]string `json:"texts,omitempty"`
	Points   []probePoint      `json:"points"`
}

// probePoint is one point and what was read of it.
type probePoint struct {
	Name     string       `json:"name"`
	Unit     string       `json:"unit"`
	Exponent int          `json:"exponent"`
	Raw      *int64       `json:"raw"`               // nil: missing
	Value    *json.Number `json:"value"`             // nil: missing
	Meaning  string       `json:"meaning,omitempty"` // of a number that has a name
	Error    string       `json:"error,omitempty"`
}

func (r probeReport) table() *table {
	t := newTable("POINT<", "VALUE", "UNIT<", "RAW", "<")
	for _, p := range r.Points {
		value, raw := missing, missing
		if p.Raw != nil {
			value, raw = p.Value.String(), fmt.Sprint(*p.Raw)
		}
		t.add(p.Name, value, orMissing(p.Unit), raw, p.Meaning+p.Error)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Texts)) {
		t.add(name, missing, missing, missing, r.Texts[name])
	}
	return t
}

// probe reads all points of p by do. The error says why not one was read.
func probe(ctx context.Context, do modbus.Handler, p inverter.Profile, unit byte) ([]probePoint, error) {
	plan, err := p.Plan(p.PointNames())
	if err != nil {
		return nil, err
	}
	plan, words, errs, err := readPlan(ctx, do, plan, unit)
	if err != nil {
		return nil, err
	}
	points := make([]probePoint, len(plan.Registers()))
	for i, r := range plan.Registers() {
		points[i] = probePoint{Name: r.Point.Name, Unit: r.Point.Unit, Exponent: r.Point.Exponent}
		err := errs[plan.ReadOf(i)]
		if err == nil {
			var raw int64
			if raw, err = r.Decode(plan.Words(i, words)); err == nil {
				value := json.Number(ecowatt.Decimal(raw, r.Point.Exponent))
				points[i].Raw, points[i].Value, points[i].Meaning = &raw, &value, r.Describe(raw)
				continue
			}
		}
		points[i].Error = reason(err)
	}
	return points, nil
}

// probeTexts reads the texts of p; those that cannot be read, or are empty, are
// left out.
func probeTexts(ctx context.Context, do modbus.Handler, p inverter.Profile, unit byte) map[string]string {
	texts := map[string]string{}
	for _, t := range p.Texts {
		r := t.Read()
		words, err := do(ctx, modbus.Request{Unit: unit, Function: modbus.Function(r.Table), Address: r.Address, Count: r.Count})
		if text := t.Decode(words); err == nil && text != "" {
			texts[t.Name] = text
		}
	}
	return texts
}

// reason is why a point is missing: what the inverter said, if it did.
func reason(err error) string {
	if refusal, ok := errors.AsType[modbus.ExceptionError](err); ok {
		return refusal.Error()
	}
	return err.Error()
}

// readPlan carries out the reads of plan. Where a block is refused for an
// address in it, its parts are read instead: the plan returned is the one whose
// reads the words and errors belong to. It ends at once with an error when the
// first read is not answered, and with the first one when none succeeded.
func readPlan(ctx context.Context, do modbus.Handler, plan inverter.Plan, unit byte) (inverter.Plan, [][]uint16, []error, error) {
	var words [][]uint16
	var errs []error
	succeeded, answered := false, false
	for len(words) < len(plan.Reads()) {
		r := plan.Reads()[len(words)]
		got, err := do(ctx, modbus.Request{Unit: unit, Function: modbus.Function(r.Table), Address: r.Address, Count: r.Count})
		_, refused := errors.AsType[modbus.ExceptionError](err)
		answered = answered || err == nil || refused
		switch {
		case ctx.Err() != nil:
			return plan, nil, nil, ctx.Err()
		case !answered:
			return plan, nil, nil, err
		}
		if errors.Is(err, modbus.ErrIllegalAddress) {
			if parts, ok := plan.Split(len(words)); ok {
				plan = parts
				continue
			}
		}
		succeeded = succeeded || err == nil
		words, errs = append(words, got), append(errs, err)
	}
	if !succeeded {
		return plan, nil, nil, errs[0]
	}
	return plan, words, errs, nil
}
