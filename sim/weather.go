package sim

import (
	"cmp"
	"slices"
	"time"
)

// Weather is what the panels meet.
type Weather interface {
	// At returns what a panel facing p meets at the time t since a midnight. It
	// is the same again after every Period.
	At(t time.Duration, p Plane) Conditions
	Period() time.Duration
}

// Conditions are what a panel meets at one moment.
type Conditions struct {
	Irradiance float64 // W/m², on the panel; never negative
	Air        float64 // °C
	Wind       float64 // m/s
}

// Recording is weather that was measured. The panels lie in the plane of the
// instrument, however they face. Between two rows the weather changes evenly.
type Recording struct {
	rows   []row // ascending in time, at least one
	period time.Duration
}

// row is the weather at one moment, counted from the midnight before the first
// row by the recording's own wall clock.
type row struct {
	at time.Duration
	Conditions
}

// Period is the recording's length in whole days.
func (r *Recording) Period() time.Duration { return r.period }

// At returns the weather at the time t of the recording's own wall clock,
// counted from the midnight before its first row. After the last row comes the
// first again.
func (r *Recording) At(t time.Duration, _ Plane) Conditions {
	t %= r.period
	for t < r.rows[0].at {
		t += r.period
	}
	i, exact := slices.BinarySearchFunc(r.rows, t, func(x row, t time.Duration) int { return cmp.Compare(x.at, t) })
	if exact {
		return r.rows[i].Conditions
	}
	a, b := r.rows[i-1], r.after(i-1)
	share := float64(t-a.at) / float64(b.at-a.at)
	between := func(x, y float64) float64 { return x + share*(y-x) }
	return Conditions{
		Irradiance: between(a.Irradiance, b.Irradiance),
		Air:        between(a.Air, b.Air),
		Wind:       between(a.Wind, b.Wind),
	}
}

// after is the row after row i: after the last one the first, a period later.
func (r *Recording) after(i int) row {
	if i+1 < len(r.rows) {
		return r.rows[i+1]
	}
	first := r.rows[0]
	first.at += r.period
	return first
}
