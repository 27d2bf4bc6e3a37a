package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"ecowatt"
	"ecowatt/agent"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
	"ecowatt/sim"
)

func (a *app) newBenchExchangeCommand() *cobra.Command {
	var o recordingOptions
	c := &cobra.Command{
		Use:   "exchange [FILE.csv[.gz]]",
		Short: "Measure what exchanges cost on the wire",
		Long: `Measure what exchanges cost on the wire: a device and a cloud of this program talk
over a connection that is counted, on a clock that runs as fast as they can.

Counted is every byte in both directions, of an hour of short slots and a day of
long ones: the HTTP heads, the messages with their padding and seals, the answers,
and the handshake of the day. What is below HTTP (TCP, TLS) is not.

Without FILE the samples are those of a simulated inverter from noon on, under
broken clouds, by day and by night. With FILE, which is as for bench block, its rows of the first
inverter are taken as samples one after the other, whatever their times are, and
again from the first when there are no more.`,
		Example: "  ecowatt bench exchange\n  ecowatt bench exchange roof.csv.gz --inverters inv04",
		Args:    cobra.MaximumNArgs(1),
	}
	c.Flags().StringSliceVar(&o.inverters, "inverters", nil, "only these inverters (default all)")
	c.Flags().BoolVar(&o.night, "night", false, "also samples in which pac is not above 0")
	c.Flags().StringToIntVar(&o.gains, "gains", nil, "other gains of points: iac1=100,ipv1=100")
	asJSON := jsonFlag(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		var err error
		if o.profile, err = profile.Find("ecowatt-sim"); err != nil {
			return err
		}
		if err := o.check(); err != nil {
			return err
		}
		var rec *recording
		if len(args) == 1 {
			if rec, err = openRecording(args[0], o); err != nil {
				return err
			}
		}
		var report exchangeReport
		for _, slot := range []time.Duration{15 * time.Second, 15 * time.Minute} {
			for _, interval := range []time.Duration{2 * time.Second, 5 * time.Second} {
				r, err := benchExchange(cmd.Context(), o.profile, rec, slot, interval)
				if err != nil {
					return fmt.Errorf("slots of %v with a sample every %v: %w", slot, interval, err)
				}
				report.Exchanges = append(report.Exchanges, r)
			}
		}
		if *asJSON {
			return printJSON(a.stdout, report)
		}
		return report.print(a)
	}
	return c
}

// exchangeReport is the JSON of "ecowatt bench exchange".
type exchangeReport struct {
	Exchanges []exchangeResult `json:"exchanges"`
}

// exchangeResult is what slots of one kind cost.
type exchangeResult struct {
	SlotS     float64 `json:"slot_s"`
	IntervalS float64 `json:"interval_s"`
	Slots     int     `json:"slots"`
	Samples   int     `json:"samples"`
	Up        int64   `json:"up"`   // bytes from the device
	Down      int64   `json:"down"` // bytes to it
	PerSample float64 `json:"per_sample"`
}

func (r exchangeReport) print(a *app) error {
	t := newTable("slot<", "a sample every", "samples in a slot", "bytes up in a slot", "down", "bytes per sample")
	number := func(x float64, digits int) string { return strconv.FormatFloat(x, 'f', digits, 64) }
	for _, x := range r.Exchanges {
		slots := float64(x.Slots)
		t.add((time.Duration(x.SlotS) * time.Second).String(), (time.Duration(x.IntervalS) * time.Second).String(),
			number(float64(x.Samples)/slots, 0), number(float64(x.Up)/slots, 0), number(float64(x.Down)/slots, 0), number(x.PerSample, 2))
	}
	return t.render(a.stdout)
}

// benchExchange measures slots of one kind.
func benchExchange(ctx context.Context, p inverter.Profile, rec *recording, slot, interval time.Duration) (r exchangeResult, err error) {
	dir, err := os.MkdirTemp("", "ecowatt-bench-")
	if err != nil {
		return exchangeResult{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	clock := &benchClock{}
	cloud, err := startBenchCloud(ctx, dir, slot, clock)
	if err != nil {
		return exchangeResult{}, err
	}
	r, err = rehearse(ctx, dir, cloud, rehearsed{p, rec, slot, interval, clock})
	return r, errors.Join(err, cloud.stop())
}

// rehearsed is what a device does in a measurement.
type rehearsed struct {
	profile        inverter.Profile
	rec            *recording // nil for a simulated inverter
	slot, interval time.Duration
	clock          *benchClock
}

func rehearse(ctx context.Context, dir string, cloud *benchCloud, x rehearsed) (r exchangeResult, err error) {
	gateway := filepath.Join(dir, "gateway")
	if err := cloud.enrol(ctx, gateway); err != nil {
		return exchangeResult{}, err
	}
	settings := fmt.Sprintf("inverters:\n  - name: inv1\n    connect: modbus-tcp://127.0.0.1:502\n    profile: %s\nupload_interval: %v\nsampling_interval: %v\n",
		x.profile.Name, x.slot.Seconds(), x.interval.Seconds())
	if err := os.WriteFile(filepath.Join(gateway, agent.SettingsFile), []byte(settings), 0o600); err != nil {
		return exchangeResult{}, err
	}
	device, err := agent.Rehearse(agent.Options{Dir: gateway, Log: io.Discard}, x.clock.sinceBoot)
	if err != nil {
		return exchangeResult{}, err
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	next, points, err := x.samples()
	if err != nil {
		return exchangeResult{}, err
	}
	// The first slot carries the inventory, and the first samples; what counts begins
	// after it. A day ends with a handshake.
	r = exchangeResult{SlotS: x.slot.Seconds(), IntervalS: x.interval.Seconds()}
	tick, first := x.clock.sinceBoot().Truncate(x.interval), true
	day := time.Duration(x.slots())*x.slot >= 24*time.Hour
	for first || r.Slots < x.slots() || day && cloud.count.handshakes.Load() == 0 {
		if err := ctx.Err(); err != nil {
			return exchangeResult{}, err
		}
		due := device.Due()
		for tick += x.interval; tick <= due; tick += x.interval {
			x.clock.set(tick)
			device.Keep("inv1", points, ecowatt.Sample{At: tick.Milliseconds(), Values: next()})
			r.Samples++
		}
		tick -= x.interval
		x.clock.set(due)
		device.Slot(ctx)
		if n := device.Waiting(); n > 0 {
			return exchangeResult{}, fmt.Errorf("%d samples and messages were not taken", n)
		}
		if r.Slots++; first {
			first, r.Slots, r.Samples = false, 0, 0
			cloud.count.reset()
		}
	}
	r.Up, r.Down = cloud.count.up.Load(), cloud.count.down.Load()
	r.PerSample = float64(r.Up+r.Down) / float64(r.Samples)
	return r, nil
}

// slots is how many slots are measured: those of an hour, or of a day where that is
// no more.
func (x rehearsed) slots() int { return max(int(time.Hour/x.slot), min(int(24*time.Hour/x.slot), 240)) }

// samples returns what gives one sample after the other, and its points.
func (x rehearsed) samples() (next func() []ecowatt.Value, points []string, err error) {
	if x.rec != nil {
		run, n := x.rec.runs[x.rec.names[0]], 0
		return func() []ecowatt.Value {
			s := run[n%len(run)]
			n++
			return s.Values
		}, x.rec.points, nil
	}
	weather, err := sim.Recorded("mixed")
	if err != nil {
		return nil, nil, err
	}
	s, err := sim.New(sim.Options{
		Inverters: []sim.Inverter{{Unit: firstUnit, Profile: x.profile}}, Weather: weather, Start: 12 * time.Hour, Seed: 1,
	})
	if err != nil {
		return nil, nil, err
	}
	points = x.profile.PointNames()
	plan, err := x.profile.Plan(points)
	if err != nil {
		return nil, nil, err
	}
	return func() []ecowatt.Value {
		s.Advance(x.interval)
		words := make([][]uint16, len(plan.Reads()))
		for i, read := range plan.Reads() {
			words[i], _ = s.Handle(context.Background(), modbus.Request{Unit: firstUnit, Function: modbus.ReadHolding, Address: read.Address, Count: read.Count})
		}
		return plan.Decode(words)
	}, points, nil
}

// counted is a listener that counts the bytes of its connections.
type counted struct {
	net.Listener
	count *byteCount
}

func (l counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return countedConn{c, l.count}, nil
}

type countedConn struct {
	net.Conn
	count *byteCount
}

func (c countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.count.up.Add(int64(n))
	return n, err
}

func (c countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.count.down.Add(int64(n))
	return n, err
}
