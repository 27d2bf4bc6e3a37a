package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
)

// Limits of the options.
const (
	MaxSpeed = 10_000
	lastUnit = 247 // of a single device: Modbus over Serial Line V1.02, section 2.2
)

// How the model is stepped.
const (
	tick    = 100 * time.Millisecond
	maxStep = 10.0 // s; however fast time passes, clouds are not stepped over
	maxLate = 1000 // steps; a simulator that was held up for longer takes larger ones
)

// Options say what is simulated. The zero value is one inverter with the
// profile's unit, under a clear sky in March at 40° north, at midnight.
type Options struct {
	Profile   inverter.Profile // required; its points must be some that an inverter here has
	Inverters int              // with the units Profile.Unit and following; 0 is 1
	Weather   Weather          // nil: a clear sky
	Start     time.Duration    // the time of day at which it starts, by the weather's clock
	Speed     float64          // simulated seconds per second, up to MaxSpeed; 0 is 1
	Seed      uint64           // of all that is random
	Trace     io.Writer        // nil: none. A line of JSON for each answered read, see Simulator
	Logger    *slog.Logger     // nil: none
}

// Simulator is a number of inverters behind one Modbus address.
//
// It answers function 03 (04 for profiles with input registers), and 06 and 10
// for a register that can be written, one at a time. What it refuses:
//
//   - exception 01: another function
//   - exception 02: a register that is not there, or a write to one that is only
//     read: for that function, the address is not allowed
//   - exception 03: a value out of the point's range. The standard means this
//     code for the form of a request, but inverters use it so, and it is the only
//     one that says "value"
//   - exception 0B: a unit that is not there, as gateways do
//
// Before a read is answered, it is traced:
//
//	{"t":1767225600123,"unit":17,"address":0,"words":[2304,217]}
//
// with t in ms since 1970, in one call of Write; a read that cannot be traced
// is answered with exception 04. The words of one read are of one moment.
type Simulator struct {
	options Options
	layout  layout
	step    float64 // s

	mu   sync.Mutex // guards what is below, and the order of the trace
	site *site
	due  float64 // s that have passed and are not stepped yet
}

// MaxInverters is the number of units from that of p on.
func MaxInverters(p inverter.Profile) int { return lastUnit - int(p.Unit) + 1 }

// New returns a simulator, whose time stands still until Run.
func New(o Options) (*Simulator, error) {
	if o.Inverters == 0 {
		o.Inverters = 1
	}
	if o.Speed == 0 {
		o.Speed = 1
	}
	if o.Weather == nil {
		o.Weather = ClearSky{Latitude: 40, Day: 74}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	most := MaxInverters(o.Profile)
	switch {
	case !(o.Speed > 0 && o.Speed <= MaxSpeed):
		return nil, fmt.Errorf("a speed of %g is not above 0 and at most %d", o.Speed, MaxSpeed)
	case o.Inverters < 1 || o.Inverters > most:
		return nil, fmt.Errorf("%d inverters are not within 1 and %d", o.Inverters, most)
	case o.Start < 0:
		return nil, fmt.Errorf("a start at %v is before midnight", o.Start)
	}
	places, err := newLayout(o.Profile)
	if err != nil {
		return nil, err
	}
	return &Simulator{
		options: o,
		layout:  places,
		step:    min(tick.Seconds()*o.Speed, maxStep),
		site:    newSite(o.Weather, o.Start, o.Inverters, o.Seed),
	}, nil
}

// Run lets time pass and answers requests on l, which it closes, until ctx
// ends; that is no error.
func (s *Simulator) Run(ctx context.Context, l net.Listener) error {
	var clock sync.WaitGroup
	defer clock.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	clock.Go(func() { s.live(ctx) })
	s.options.Logger.Info("listening", "address", l.Addr().String(), "profile", s.options.Profile.Name,
		"units", s.units(), "speed", s.options.Speed)
	return modbus.NewServer(s.Handle, modbus.ServerOptions{Logger: s.options.Logger}).Serve(ctx, l)
}

// units names the units there are, for people.
func (s *Simulator) units() string {
	first := int(s.options.Profile.Unit)
	if s.options.Inverters == 1 {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d-%d", first, first+s.options.Inverters-1)
}

// live steps the site as time passes.
func (s *Simulator) live(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			now := time.Now()
			s.advance(now.Sub(last))
			last = now
		}
	}
}

// advance lets the real time d pass. Steps are of the same length however long
// d is, so that a value depends on when it is read, and not on how often.
func (s *Simulator) advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due += d.Seconds() * s.options.Speed
	step := max(s.step, s.due/maxLate)
	for ; s.due >= step; s.due -= step {
		s.site.step(step)
	}
}

// Handle answers a request. It is a modbus.Handler.
func (s *Simulator) Handle(_ context.Context, r modbus.Request) ([]uint16, error) {
	i := int(r.Unit) - int(s.options.Profile.Unit)
	if i < 0 || i >= s.options.Inverters {
		return nil, modbus.ErrGatewayTarget
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.Function {
	case modbus.ReadHolding, modbus.ReadInput:
		return s.read(i, r)
	case modbus.WriteSingle, modbus.WriteMultiple:
		return nil, s.write(i, r)
	}
	return nil, modbus.ErrIllegalFunction
}

// traced is a line of the trace.
type traced struct {
	T       int64    `json:"t"`
	Unit    byte     `json:"unit"`
	Address uint16   `json:"address"`
	Words   []uint16 `json:"words"`
}

func (s *Simulator) read(i int, r modbus.Request) ([]uint16, error) {
	words, err := s.layout.read(r, s.site.read(i), s.site.plants[i].limit)
	if err != nil || s.options.Trace == nil {
		return words, err
	}
	line, err := json.Marshal(traced{T: time.Now().UnixMilli(), Unit: r.Unit, Address: r.Address, Words: words})
	if err != nil {
		return nil, fmt.Errorf("tracing a read: %w", err)
	}
	if _, err := s.options.Trace.Write(append(line, '\n')); err != nil {
		return nil, fmt.Errorf("tracing a read: %w", err)
	}
	return words, nil
}

func (s *Simulator) write(i int, r modbus.Request) error {
	percent, err := s.layout.write(r)
	if err != nil {
		return err
	}
	s.site.plants[i].limit = percent
	s.options.Logger.Info("limit written", "unit", r.Unit, "percent", percent)
	return nil
}
