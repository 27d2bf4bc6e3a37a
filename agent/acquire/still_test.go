package acquire

import (
	"testing"
	"time"

	"ecowatt"
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
				frozen, changed := s.see(x.points, ecowatt.Sample{At: at.Milliseconds(), Values: x.values})
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
			if frozen, changed := s.see(x.points, ecowatt.Sample{At: at.Milliseconds(), Values: moved}); frozen || changed != (x.want > 0) {
				t.Errorf("moved: frozen %v, changed %v", frozen, changed)
			}
		})
	}
}
