package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"ecowatt/inverter/modbus"
	"ecowatt/sim/fault"
)

// Limits of the options.
const (
	MaxSpeed = 10_000
)

// How the model is stepped.
const (
	tick    = 100 * time.Millisecond
	maxStep = 10.0 // s; however fast time passes, clouds are not stepped over
	maxLate = 1000 // steps; a simulator that was held up for longer takes larger ones
)

// Options say what is simulated. Those that are zero are a clear sky in March at
// 40° north, at midnight.
type Options struct {
	Inverters   []Inverter           // required, each with a unit of its own
	Weather     Weather              // nil: a clear sky
	Start       time.Duration        // the time of day at which it starts, by the weather's clock
	Speed       float64              // simulated seconds per second, up to MaxSpeed; 0 is 1
	Seed        uint64               // of all that is random
	GridVoltage float64              // V, of the grid without what is fed in; 0 is 230
	GridOhms    float64              // Ω, of the line to it, which the current makes the voltage rise by; 0 is what each plant has
	LimitFloor  float64              // %, below which an inverter does not go for a limit
	LimitRamp   float64              // % in a second, by which it follows a limit; 0 is 5
	ZeroStops   bool                 // a limit of 0 stops it; it feeds in again a minute after that is over
	DayEnds     time.Duration        // the time of day at which the counters of the day begin again
	Faults      []fault.Rule         // how it misbehaves
	Connections int                  // most over TCP at a time; 0 is modbus.DefaultConnections
	HTTPKey     string               // the Authorization of the HTTP interface
	Energy      []Energy             // what the counters of the inverters stand at, as far as there are some
	Save        func([]Energy) error // told where they stand, every minute and at the end; nil: nobody
	Trace       io.Writer            // nil: none. A line of JSON for each answered read, see Simulator
	Logger      *slog.Logger         // nil: none
}

// Simulator is a number of inverters behind one Modbus address.
//
// It answers function 03 (04 for profiles with input registers), and 06 and 10
// for registers that can be written. What it refuses:
//
//   - exception 01: another function
//   - exception 02: a register that is not there, or a write to one that is only
//     read: for that function, the address is not allowed
//   - exception 03: a value out of the point's range. The standard means this
//     code for the form of a request, but inverters use it so, and it is the only
//     one that says "value"
//   - exception 0B: a unit that is not there, as gateways do; on a line of RTU
//     frames, which has no gateway, there is no answer
//
// Before a read is answered, it is traced:
//
//	{"t":1767225600123,"unit":17,"address":0,"words":[2304,217]}
//
// with t in ms since 1970, in one call of Write; a read that cannot be traced
// is answered with exception 04. The words of one read are of one moment. A fault
// marks its request with a further member "fault", the name of its kind, be it a
// read or a write; words are then those of the frame before it was spoilt, and are
// missing where there are none. Functions other than 03 are named by "function".
type Simulator struct {
	options Options
	layouts []layout     // of the inverters
	index   map[byte]int // of the inverters, by unit
	step    float64      // s

	mu     sync.Mutex // guards what is below, and the order of the trace
	site   *site
	due    float64 // s that have passed and are not stepped yet
	passed float64 // s that have been stepped
	faces  []face  // of the inverters
	faults *fault.Plan
}

// New returns a simulator, whose time stands still until Run.
func New(o Options) (*Simulator, error) {
	if o.Speed == 0 {
		o.Speed = 1
	}
	if o.Weather == nil {
		o.Weather = DefaultSky()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.GridVoltage == 0 {
		o.GridVoltage = nominalVoltage
	}
	if o.Connections == 0 {
		o.Connections = modbus.DefaultConnections
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &Simulator{
		options: o,
		index:   map[byte]int{},
		step:    min(tick.Seconds()*o.Speed, maxStep),
		site:    newSite(o.Weather, o.Start, len(o.Inverters), o.Seed),
		faces:   make([]face, len(o.Inverters)),
		faults:  fault.NewPlan(o.Faults, o.Seed),
	}
	if err := s.layOut(); err != nil {
		return nil, err
	}
	s.site.change(o.adjust)
	s.site.dayEnds = o.DayEnds
	for i, p := range s.site.plants {
		s.faces[i].limit, s.faces[i].set = p.limit, memory{}
		if i < len(o.Energy) {
			p.energy = o.Energy[i]
		}
	}
	return s, nil
}

// layOut lays out the registers of all inverters.
func (s *Simulator) layOut() error {
	warned := map[string]bool{}
	for i, x := range s.options.Inverters {
		l, unknown, err := x.layOut()
		if err != nil {
			return fmt.Errorf("unit %d: %w", x.Unit, err)
		}
		s.layouts = append(s.layouts, l)
		s.index[x.Unit] = i
		if len(unknown) > 0 && !warned[x.name()] {
			s.options.Logger.Warn("points that are not simulated have no value, or 0", "profile", x.name(), "points", unknown)
			warned[x.name()] = true
		}
	}
	return nil
}

// check says what is wrong with o.
func (o Options) check() error {
	if err := checkInverters(o.Inverters); err != nil {
		return err
	}
	switch {
	case !(o.Speed > 0 && o.Speed <= MaxSpeed):
		return fmt.Errorf("a speed of %g is not above 0 and at most %d", o.Speed, MaxSpeed)
	case o.Start < 0:
		return fmt.Errorf("a start at %v is before midnight", o.Start)
	case !(o.GridVoltage >= MinGrid && o.GridVoltage <= MaxGrid):
		return fmt.Errorf("a grid of %g V is not within %d and %d V", o.GridVoltage, MinGrid, MaxGrid)
	case !(o.GridOhms >= 0 && o.GridOhms <= MaxOhms):
		return fmt.Errorf("a line of %g Ω is not within 0 and %d Ω", o.GridOhms, MaxOhms)
	case !(o.LimitFloor >= 0 && o.LimitFloor <= 100):
		return fmt.Errorf("a floor of %g %% is not within 0 and 100 %%", o.LimitFloor)
	case !(o.LimitRamp >= 0 && o.LimitRamp <= 100):
		return fmt.Errorf("a ramp of %g %% in a second is not within 0 and 100", o.LimitRamp)
	case o.DayEnds < 0 || o.DayEnds >= day:
		return fmt.Errorf("a day that ends at %v is none", o.DayEnds)
	case o.Connections < 0:
		return fmt.Errorf("%d connections are fewer than none", o.Connections)
	}
	for i, r := range o.Faults {
		if err := r.Check(); err != nil {
			return fmt.Errorf("fault %d: %w", i+1, err)
		}
	}
	return nil
}

// adjust makes a plant as the options say.
func (o Options) adjust(s *spec) {
	s.offset += o.GridVoltage - nominalVoltage
	s.floor, s.stops = o.LimitFloor, o.ZeroStops
	if o.LimitRamp > 0 {
		s.ramp = o.LimitRamp
	}
	if o.GridOhms > 0 {
		s.line = o.GridOhms
	}
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

// Advance lets the real time d pass for a simulator that does not Run.
func (s *Simulator) Advance(d time.Duration) { s.advance(d) }

// advance lets the real time d pass. Steps are of the same length however long
// d is, so that a value depends on when it is read, and not on how often.
func (s *Simulator) advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.due += d.Seconds() * s.options.Speed
	step := max(s.step, s.due/maxLate)
	for ; s.due >= step; s.due -= step {
		s.site.step(step)
		s.passed += step
	}
	s.pass(time.Now())
}

// Handle answers a request. It is a modbus.Handler.
func (s *Simulator) Handle(_ context.Context, r modbus.Request) ([]uint16, error) {
	i, ok := s.index[r.Unit]
	if !ok {
		return nil, modbus.ErrGatewayTarget
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.misbehave(i, r)
}

// carryOut does what inverter i is asked, as far as a fault lets it.
func (s *Simulator) carryOut(i int, r modbus.Request, f fault.Rule) ([]uint16, error) {
	switch r.Function {
	case modbus.ReadHolding, modbus.ReadInput:
		return s.layouts[i].read(r, s.page(i, f.Kind == fault.Frozen), s.faces[i].set)
	case modbus.WriteSingle, modbus.WriteMultiple:
		return nil, s.write(i, r, f)
	}
	return nil, modbus.ErrIllegalFunction
}

// traced is a line of the trace.
type traced struct {
	T        int64    `json:"t"`
	Unit     byte     `json:"unit"`
	Function byte     `json:"function,omitempty"` // unless it is 03
	Address  uint16   `json:"address"`
	Words    []uint16 `json:"words,omitempty"`
	Fault    string   `json:"fault,omitempty"`
}

// trace tells of a request that was answered with words, or had a fault.
func (s *Simulator) trace(r modbus.Request, words []uint16, f fault.Kind) error {
	if s.options.Trace == nil || words == nil && f == fault.None {
		return nil
	}
	t := traced{T: time.Now().UnixMilli(), Unit: r.Unit, Address: r.Address, Words: words}
	if r.Function != modbus.ReadHolding {
		t.Function = byte(r.Function)
	}
	if f != fault.None {
		t.Fault = f.String()
	}
	line, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("tracing a request: %w", err)
	}
	if _, err := s.options.Trace.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("tracing a request: %w", err)
	}
	return nil
}
