package sim

import (
	"errors"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"ecowatt"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
	"ecowatt/sim/fault"
)

// fallingBack is a profile whose limit ends, or falls back to a value, when it
// is not written for a minute.
func fallingBack(value bool) inverter.Profile {
	return inverter.Profile{Name: "falling", Unit: 1, Block: 10, Registers: []inverter.Register{{
		Point: ecowatt.Point{Name: limitPoint, Exponent: -1, Writable: true, Max: 1000}, Table: inverter.Holding, Address: 7,
		Control: &inverter.Control{Address: 20, Fallback: inverter.Fallback{
			Given: true, Timer: inverter.Place{Address: 30, Type: inverter.U32}, Default: time.Minute, Value: inverter.Place{Address: 32}, HasValue: value,
		}},
	}}}
}

// TestFallback: the inverter's own timer begins with each write, and when it has
// run out nobody's limit holds any more, but what the inverter was told to fall
// back to.
func TestFallback(t *testing.T) {
	for name, x := range map[string]struct {
		value bool
		then  float64
	}{"ends": {false, 100}, "to a value": {true, 12.5}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := New(Options{Inverters: one(fallingBack(x.value)), Start: clock(12)})
				if err != nil {
					t.Fatal(err)
				}
				write := func(at uint16, words ...uint16) {
					t.Helper()
					if _, err := s.Handle(t.Context(), modbus.Request{Unit: 1, Function: modbus.WriteMultiple, Address: at, Values: words}); err != nil {
						t.Errorf("%v to %d: %v", words, at, err)
					}
				}
				wants := func(d time.Duration, percent float64) {
					t.Helper()
					time.Sleep(d)
					words, err := s.Handle(t.Context(), modbus.Request{Unit: 1, Function: modbus.ReadHolding, Address: 7, Count: 1})
					if is := s.site.plants[0].limit; err != nil || float64(words[0])/10 != percent || is != percent {
						t.Errorf("after %v: reads %v, %v, limited to %g %%; want %g", d, words, err, is, percent)
					}
				}
				if x.value {
					write(32, 125)
				}
				wants(time.Hour, 100) // nothing is limited yet
				write(20, 400)
				wants(59*time.Second, 40)
				write(20, 400)
				wants(59*time.Second, 40)
				wants(2*time.Second, x.then)
				write(20, 300)
				write(30, 0, 0) // never
				wants(24*time.Hour, 30)
				write(30, 1, 0) // 65536 s
				wants(65535*time.Second, 30)
				wants(2*time.Second, x.then)
			})
		})
	}
}

// TestFallbackOfTheShipped: every shipped profile that tells of a timer falls
// back by it, as far as it can be ordered.
func TestFallbackOfTheShipped(t *testing.T) {
	tried := 0
	for _, name := range profile.List() {
		p, err := profile.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		r, ok := p.Register(limitPoint)
		if !ok || r.Control == nil || !r.Control.Fallback.Given {
			continue
		}
		tried++
		synctest.Test(t, func(t *testing.T) {
			s, err := New(Options{Inverters: one(p), Start: clock(12)})
			if err != nil {
				t.Fatal(err)
			}
			timer := r.Control.Fallback.Timer
			words, err := placed(timer).Encode(90)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Handle(t.Context(), modbus.Request{Unit: p.Unit, Function: modbus.WriteMultiple, Address: timer.Address, Values: words}); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			s.carry(t, p, func() ([]inverter.Write, error) {
				return p.Writes(limitPoint, int64(math.Round(50*math.Pow10(-r.Point.Exponent))))
			})
			for _, x := range []struct {
				after time.Duration
				want  float64
			}{{89 * time.Second, 50}, {2 * time.Second, 100}} {
				time.Sleep(x.after)
				s.advance(0)
				if is := s.site.plants[0].limit; is != x.want {
					t.Errorf("%s: limited to %g %%, want %g", name, is, x.want)
				}
			}
		})
	}
	if tried == 0 {
		t.Error("there is none")
	}
}

// TestOwnTimer: the inverters of the original simulator's map have a timer too,
// behind its registers; a gateway that cannot reach them any more leaves them to
// it.
func TestOwnTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSimulator(t, Options{})
		write := func(at, word uint16) error {
			_, err := s.Handle(t.Context(), modbus.Request{Unit: 17, Function: modbus.WriteSingle, Address: at, Values: []uint16{word}})
			return err
		}
		if err := errors.Join(write(106, 120), write(107, 30), write(8, 60)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Second)
		words, err := s.Handle(t.Context(), modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: 106, Count: 3})
		if err != nil || words[0] != 120 || words[1] != 30 || words[2] != 20 {
			t.Errorf("timer, value and what is left: %v, %v", words, err)
		}
		if err := s.Misbehave(fault.Rule{Kind: fault.Lost, Probability: 1}); err != nil {
			t.Fatal(err)
		}
		if err := write(8, 60); !errors.Is(err, modbus.ErrSilence) {
			t.Errorf("cut off: %v", err)
		}
		time.Sleep(21 * time.Second)
		s.Behave()
		if words := s.mustRead(t); words[8] != 30 || s.site.plants[0].limit != 30 {
			t.Errorf("%d %% is shown, %g %% in force, want 30", words[8], s.site.plants[0].limit)
		}
		if err := s.Misbehave(fault.Rule{Kind: fault.Revert, For: time.Minute, Probability: 1, Count: 1}); err != nil {
			t.Fatal(err)
		}
		if err := write(8, 80); err != nil { // by the timer, in two minutes; another controller is faster
			t.Fatal(err)
		}
		time.Sleep(61 * time.Second)
		if words := s.mustRead(t); words[8] != 30 {
			t.Errorf("another controller has left %d %%, want 30", words[8])
		}
		if err := errors.Join(write(107, 45), s.Misbehave(fault.Rule{Kind: fault.Revert, For: 3 * time.Minute, Probability: 1, Count: 1}), write(8, 80)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(121 * time.Second) // here the timer is faster, and what was to be undone is over
		s.advance(0)
		time.Sleep(time.Minute)
		if words := s.mustRead(t); words[8] != 45 {
			t.Errorf("the timer has left %d %%, want 45", words[8])
		}
	})
}
