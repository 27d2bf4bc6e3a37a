package sim

import (
	"errors"
	"maps"
	"time"

	"ecowatt/inverter/modbus"
	"ecowatt/sim/fault"
)

// face is what an inverter shows of itself. Without faults it tells the truth.
type face struct {
	limit float64   // %, that can be read back
	set   memory    // what was written besides
	last  page      // of the last read that was not frozen
	deaf  time.Time // until when nothing is answered

	undoAt time.Time // when another controller undoes what was written; zero: never
	former struct {  // what stood there before that
		limit float64 // %
		set   memory
	}
	expires time.Time // when the limit falls back, unless it is written again; zero: never
}

// left is the time until the limit falls back, in s; 0: it does not.
func (f *face) left(now time.Time) float64 {
	if f.expires.IsZero() {
		return 0
	}
	return max(0, f.expires.Sub(now).Seconds())
}

// page is what inverter i shows now, or, frozen, what it showed last.
func (s *Simulator) page(i int, frozen bool) page {
	f := &s.faces[i]
	if !frozen || f.last == (page{}) {
		f.last = page{reading: s.site.read(i), limit: f.limit, rated: s.site.plants[i].rated, left: f.left(time.Now())}
	}
	return f.last
}

// write orders the limit that r says, or what belongs to it: the gate without
// which it has no effect, or the timer, which every write starts anew.
func (s *Simulator) write(i int, r modbus.Request, f fault.Rule) error {
	layout := s.layouts[i]
	o, err := layout.write(r)
	if err != nil {
		return err
	}
	face, now := &s.faces[i], time.Now()
	if f.Kind == fault.Revert && face.undoAt.IsZero() {
		face.undoAt, face.former.limit, face.former.set = now.Add(f.For), face.limit, maps.Clone(face.set)
	}
	if f.Kind == fault.Deaf {
		face.deaf = now.Add(f.For)
	}
	if o.limit {
		face.limit = o.percent
	}
	maps.Copy(face.set, o.words)
	s.wind(i, now)
	if f.Kind != fault.NoEffect {
		s.enforce(i)
	}
	s.options.Logger.Info("control written", "unit", r.Unit, "percent", face.limit, "in_force", layout.open(face.set), "falls_back_in_s", face.left(now))
	return nil
}

// wind begins the timer of inverter i anew, if there is a limit that it is for.
func (s *Simulator) wind(i int, now time.Time) {
	f, l := &s.faces[i], s.layouts[i]
	timer := l.timer(f.set)
	if f.expires = (time.Time{}); timer > 0 && (f.limit < 100 || l.control.gate != nil) {
		f.expires = now.Add(timer)
	}
}

// enforce makes plant i keep to the limit that is shown, if its gate is open.
func (s *Simulator) enforce(i int) {
	limit := 100.0
	if s.layouts[i].open(s.faces[i].set) {
		limit = s.faces[i].limit
	}
	s.site.plants[i].limit = limit
}

// pass does what other controllers are to have done until now, and what timers
// do that have run out.
func (s *Simulator) pass(now time.Time) {
	for i := range s.faces {
		f := &s.faces[i]
		if !f.undoAt.IsZero() && !now.Before(f.undoAt) {
			f.limit, f.set, f.undoAt = f.former.limit, f.former.set, time.Time{}
			s.wind(i, now)
			s.enforce(i)
		}
		if f.expires.IsZero() || now.Before(f.expires) {
			continue
		}
		f.expires, f.undoAt = time.Time{}, time.Time{}
		percent := s.layouts[i].fallBack(f.set)
		if s.layouts[i].open(f.set) {
			f.limit = percent
		}
		s.enforce(i)
		s.options.Logger.Info("limit fell back, as it was not written again in time", "unit", s.options.Inverters[i].Unit, "percent", percent)
	}
}

// misbehave answers r with the fault that comes at it, if one does. The lock is
// the caller's.
func (s *Simulator) misbehave(i int, r modbus.Request) ([]uint16, error) {
	now := time.Now()
	s.pass(now)
	if now.Before(s.faces[i].deaf) {
		return nil, errors.Join(modbus.ErrSilence, s.trace(r, nil, fault.Deaf))
	}
	f, seed := s.faults.Decide(s.age(), fault.Request{
		Unit: r.Unit, Function: byte(r.Function), Address: r.Address, Quantity: r.Quantity(), Write: r.Values != nil, Sleeps: !s.site.plants[i].awake,
	})
	var words []uint16
	err := error(modbus.ExceptionError(f.Code))
	if f.Kind != fault.Exception && f.Kind != fault.Asleep && f.Kind != fault.Lost {
		words, err = s.carryOut(i, r, f)
	}
	if failure := s.trace(r, words, f.Kind); failure != nil {
		return nil, failure
	}
	return odd(f, seed, words, err)
}

// odd is how a fault lets an answer go out.
func odd(f fault.Rule, seed uint64, words []uint16, err error) ([]uint16, error) {
	o := &modbus.OddAnswerError{Words: words, Err: err}
	switch f.Kind {
	case fault.Drop, fault.Asleep, fault.Lost:
		return nil, modbus.ErrSilence
	case fault.Late:
		o.Delay = f.For
	case fault.WrongUnit:
		o.Unit = 1
	case fault.CRC, fault.Corrupt, fault.Truncate, fault.Double:
		o.Spoil = func(sent modbus.Sent) []byte { return f.Kind.Spoil(fault.Frame(sent), seed) }
	case fault.None, fault.Exception, fault.Frozen, fault.NoEffect, fault.Revert, fault.Deaf, fault.OneClient:
		return words, err
	}
	return nil, o
}

// Misbehave orders a fault, which from now on goes before those that were
// ordered earlier. Its times count from the start of the simulator.
func (s *Simulator) Misbehave(r fault.Rule) error {
	if err := r.Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.Insert(r)
	return nil
}

// admits reports whether an inverter has room for a connection besides those
// that are open.
func (s *Simulator) admits(open int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return open < s.options.Connections && (open == 0 || !s.faults.OneClient(s.age()))
}

// age is the simulated time since the start.
func (s *Simulator) age() time.Duration { return time.Duration(s.passed * float64(time.Second)) }

// Behave ends all faults.
func (s *Simulator) Behave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.Clear()
	for i := range s.faces {
		s.faces[i].deaf = time.Time{}
	}
}
