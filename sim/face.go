package sim

import (
	"errors"
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

	undoAt   time.Time // when another controller undoes the last write; zero: never
	undoneTo float64   // %
}

// page is what inverter i shows now, or, frozen, what it showed last.
func (s *Simulator) page(i int, frozen bool) page {
	f := &s.faces[i]
	if !frozen || f.last == (page{}) {
		f.last = page{reading: s.site.read(i), limit: f.limit, rated: s.site.plants[i].rated}
	}
	return f.last
}

// write orders the limit that r says, or opens or closes the gate without which
// the limit has no effect.
func (s *Simulator) write(i int, r modbus.Request, f fault.Rule) error {
	o, err := s.layout.write(r)
	if err != nil {
		return err
	}
	face, now := &s.faces[i], time.Now()
	face.undoAt = time.Time{}
	if f.Kind == fault.Revert {
		face.undoAt, face.undoneTo = now.Add(f.For), face.limit
	}
	if f.Kind == fault.Deaf {
		face.deaf = now.Add(f.For)
	}
	if o.limit {
		face.limit = o.percent
	}
	for j, w := range o.words {
		face.set[r.Address+uint16(j)] = w
	}
	open := s.layout.open(face.set)
	switch {
	case f.Kind == fault.NoEffect:
	case open:
		s.site.plants[i].limit = face.limit
	default:
		s.site.plants[i].limit = 100
	}
	s.options.Logger.Info("limit written", "unit", r.Unit, "percent", face.limit, "in_force", open)
	return nil
}

// undo does what other controllers are to have done until now.
func (s *Simulator) undo(now time.Time) {
	for i := range s.faces {
		f := &s.faces[i]
		if f.undoAt.IsZero() || now.Before(f.undoAt) {
			continue
		}
		f.limit, f.undoAt = f.undoneTo, time.Time{}
		if s.layout.open(f.set) {
			s.site.plants[i].limit = f.undoneTo
		}
	}
}

// misbehave answers r with the fault that comes at it, if one does. The lock is
// the caller's.
func (s *Simulator) misbehave(i int, r modbus.Request) ([]uint16, error) {
	now := time.Now()
	s.undo(now)
	if now.Before(s.faces[i].deaf) {
		return nil, errors.Join(modbus.ErrSilence, s.trace(r, nil, fault.Deaf))
	}
	f, seed := s.faults.Decide(time.Duration(s.passed*float64(time.Second)), fault.Request{
		Unit: r.Unit, Function: byte(r.Function), Address: r.Address, Quantity: r.Quantity(), Write: r.Values != nil, Sleeps: !s.site.plants[i].awake,
	})
	var words []uint16
	err := error(modbus.ExceptionError(f.Code))
	if f.Kind != fault.Exception && f.Kind != fault.Asleep {
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
	case fault.Drop, fault.Asleep:
		return nil, modbus.ErrSilence
	case fault.Late:
		o.Delay = f.For
	case fault.WrongUnit:
		o.Unit = 1
	case fault.CRC, fault.Corrupt, fault.Truncate, fault.Double:
		o.Spoil = func(sent modbus.Sent) []byte { return f.Kind.Spoil(fault.Frame(sent), seed) }
	case fault.None, fault.Exception, fault.Frozen, fault.NoEffect, fault.Revert, fault.Deaf:
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

// Behave ends all faults.
func (s *Simulator) Behave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.Clear()
	for i := range s.faces {
		s.faces[i].deaf = time.Time{}
	}
}
