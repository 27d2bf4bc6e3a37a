package rollup

import (
	"testing"
	"time"
	_ "time/tzdata" // of every zone, wherever the test runs
)

// A day goes on to where the next one begins, also where clocks are changed: where
// they pass over midnight, or over a whole date, and where a midnight comes twice.
func TestDays(t *testing.T) {
	for _, test := range []struct {
		zone, near string // a date before the change
		hours      []float64
	}{
		{"UTC", "2026-06-20", []float64{24, 24, 24}},
		{"Europe/Berlin", "2026-03-28", []float64{24, 23, 24}},
		{"Europe/Berlin", "2026-10-24", []float64{24, 25, 24}},
		{"Australia/Lord_Howe", "2026-10-03", []float64{24, 23.5, 24}},
		{"Asia/Kathmandu", "2026-06-20", []float64{24, 24, 24}},
		{"Atlantic/Azores", "2026-03-28", []float64{24, 23, 24}},  // 0:00 becomes 1:00
		{"Atlantic/Azores", "2026-10-24", []float64{24, 25, 24}},  // 1:00 becomes 0:00
		{"America/Havana", "2026-03-07", []float64{24, 23, 24}},   // 0:00 becomes 1:00
		{"America/Havana", "2026-10-31", []float64{24, 25, 24}},   // 1:00 becomes 0:00
		{"America/Santiago", "2026-04-04", []float64{25, 24, 24}}, // 24:00 becomes 23:00
		{"America/Santiago", "2026-09-05", []float64{24, 23, 24}},
		{"Asia/Beirut", "2026-03-28", []float64{24, 23, 24}},
		{"Asia/Beirut", "2026-10-24", []float64{25, 24, 24}},
		{"Antarctica/Casey", "2010-03-03", []float64{24, 24, 27}}, // 2:00 becomes 23:00 of the day before
		{"Pacific/Apia", "2011-12-28", []float64{24, 24, 24}},     // the 30th was left out
	} {
		location, err := time.LoadLocation(test.zone)
		if err != nil {
			t.Fatal(err)
		}
		step, err := NewStep(24*time.Hour, location)
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.ParseInLocation(time.DateOnly, test.near, location)
		if err != nil {
			t.Fatal(err)
		}
		want := at.UnixMilli()
		for i, hours := range test.hours {
			end := want + int64(hours*60)*Minute
			for at := want; at < end; at += Quarter {
				if b, e := step.Bounds(at); b != want || e != end {
					t.Fatalf("%s, day %d after %s: %v is in %v … %v, want %v … %v", test.zone, i, test.near,
						time.UnixMilli(at).In(location), time.UnixMilli(b).In(location), time.UnixMilli(e).In(location),
						time.UnixMilli(want).In(location), time.UnixMilli(end).In(location))
				}
			}
			want = end
		}
	}
}
