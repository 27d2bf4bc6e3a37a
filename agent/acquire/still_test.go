package acquire

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ecowatt"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
)

// TestStillness: samples that stand still for ten minutes while there is power
// are frozen, until something moves.
func TestStillness(t *testing.T) {
	known := func(raws ...int64) (values []ecowatt.Value) {
		for _, raw := range raws {
			values = append(values, ecowatt.Known(raw))
		}
		return values
	}
	points := []string{"vac1", powerPoint, "temp"}
	for _, x := range []struct {
		name   string
		points []string
		values []ecowatt.Value
		every  time.Duration
		want   time.Duration // of the first sample that is frozen; 0: none
	}{
		{"with power", points, known(2300, 500, 341), 5 * time.Second, 10 * time.Minute},
		{"samples that are rare", points, known(2300, 500, 341), 5 * time.Minute, 15 * time.Minute},
		{"by night", points, known(2300, 0, 341), 5 * time.Second, 0},
		{"the power alone", points[1:2], known(500), 5 * time.Second, 0},
		{"hardly anything is known", points, append(known(2300, 500), ecowatt.Value{}), 5 * time.Second, 0},
		{"without the power", []string{"vac1", "vac2", "temp"}, known(2300, 500, 341), 5 * time.Second, 0},
		{"the power is not known", points, []ecowatt.Value{ecowatt.Known(1), {}, ecowatt.Known(1)}, 5 * time.Second, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			var s stillness
			at, told := time.Duration(0), time.Duration(0)
			for ; at <= 30*time.Minute; at += x.every {
				frozen, changed := s.see(x.points, ecowatt.Sample{At: at.Milliseconds(), Values: x.values}, pulse{})
				if changed {
					told = at
				}
				if frozen != (x.want > 0 && at >= x.want) || changed != (frozen && at == x.want) {
					t.Fatalf("at %v: frozen %v, changed %v", at, frozen, changed)
				}
			}
			if told != x.want {
				t.Errorf("told at %v, want %v", told, x.want)
			}
			moved := append([]ecowatt.Value(nil), x.values...)
			moved[0].Raw++
			if frozen, changed := s.see(x.points, ecowatt.Sample{At: at.Milliseconds(), Values: moved}, pulse{}); frozen || changed != (x.want > 0) {
				t.Errorf("moved: frozen %v, changed %v", frozen, changed)
			}
		})
	}
}

// beating is a profile with a clock at 70 and 71.
var beating = inverter.Profile{Name: "beating", Block: 125, Heartbeat: inverter.Heartbeat{Table: inverter.Holding, Address: 70, Words: 2}, Registers: []inverter.Register{
	{Point: ecowatt.Point{Name: powerPoint}, Table: inverter.Holding, Address: 0},
	{Point: ecowatt.Point{Name: "vac1"}, Table: inverter.Holding, Address: 1},
	{Point: ecowatt.Point{Name: "temp"}, Table: inverter.Holding, Address: 2},
}}

// TestHeartbeat: while the clock goes, the same values are true; when it stands,
// they are frozen, by night too. A clock that nobody has seen go, or that is
// refused, tells nothing. While the values change, it is not asked.
func TestHeartbeat(t *testing.T) {
	for _, x := range []struct {
		name    string
		power   uint16
		goes    bool // the clock, in the first minutes
		stops   bool // later
		refused bool
		frozen  bool
	}{
		{"it goes, with power", 500, true, false, false, false},
		{"it goes, by night", 0, true, false, false, false},
		{"it stops, with power", 500, true, true, false, true},
		{"it stops, by night", 0, true, true, false, true},
		{"it never went, with power", 500, false, true, false, true},
		{"it never went, by night", 0, false, true, false, false},
		{"it is refused, with power", 500, false, true, true, true},
		{"it is refused, by night", 0, false, true, true, false},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &rig{t: t, fake: &fake{words: map[uint16]uint16{}}}
				points := []string{powerPoint, "vac1", "temp"}
				p, err := New(Inverter{Name: "inv1", Unit: 17, Profile: beating, Points: points, Interval: 5 * time.Second}, r.fake, slog.New(slog.NewJSONHandler(&r.log, nil)), 0)
				if err != nil {
					t.Fatal(err)
				}
				r.Poller = p
				pass := func(d time.Duration, change, goes bool) (felt int) {
					for end := r.now + d.Milliseconds(); r.now < end; {
						if change {
							r.fake.words[1]++
						}
						if r.fake.words[0] = x.power; goes {
							r.fake.words[71]++
						}
						if x.refused {
							r.fake.errs = []error{nil, modbus.ErrIllegalAddress}
						}
						r.poll()
						r.fake.errs = nil
						felt += r.fake.took() - 1
					}
					return felt
				}
				pass(5*time.Minute, true, x.goes)
				if felt := pass(10*time.Minute, true, x.goes); felt > 0 && (x.goes || x.refused) || felt > 10 {
					t.Errorf("the clock was read %d times while the values changed", felt)
				}
				if felt := pass(25*time.Minute, false, !x.stops); felt > 25 {
					t.Errorf("the clock was read %d times in 25 minutes", felt)
				}
				if s := r.Status(); s.Frozen != x.frozen || strings.Contains(r.log.String(), "inverter_frozen") != x.frozen {
					t.Errorf("frozen: %v, want %v; log:\n%s", s.Frozen, x.frozen, &r.log)
				}
				pass(time.Minute, true, true)
				if s := r.Status(); s.Frozen || strings.Contains(r.log.String(), "inverter_moves") != x.frozen {
					t.Errorf("frozen: %v once it moves; log:\n%s", s.Frozen, &r.log)
				}
			})
		})
	}
}

// TestFrozenAndAway: an inverter that is away is not frozen.
func TestFrozenAndAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "a", "b", "c")
		r.Poller.groups[0].points[0] = powerPoint
		for r.now < 11*60_000 {
			r.poll()
		}
		if !r.Status().Frozen {
			t.Fatalf("it is not frozen: %s", fmt.Sprint(r.Status()))
		}
		r.fake.errs = []error{errSilent, errSilent, errSilent}
		r.poll()
		if s := r.Status(); s.Frozen || s.State != Away {
			t.Errorf("status %+v", s)
		}
		r.poll()
		if r.Status().Frozen {
			t.Error("it is frozen at once")
		}
	})
}
