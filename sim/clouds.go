package sim

import (
	"math"
	"math/rand/v2"
	"time"
)

// Clouds is a clear sky with clouds in it, the same each day. They pass between
// the sun and all panels alike; the light that they take from the beam comes in
// part from all over the sky instead.
type Clouds struct {
	Sky   ClearSky
	Cover float64 // share of the sky that they cover, 0 … 1
	Seed  uint64
}

// What clouds are made of: noise of three scales of time, from weather down to
// single clouds, each with half the weight of the one before.
const (
	cloudScale  = 80 * time.Minute
	cloudScales = 3
	cloudShrink = 5   // from one scale to the next
	cloudEdge   = 0.1 // of the noise, within which a cloud thickens
	cloudThick  = 0.9 // share of the beam that a cloud takes
	cloudBright = 0.4 // share of that which comes as diffuse light
)

// At returns what a panel facing p meets at the time of day t.
func (c Clouds) At(t time.Duration, p Plane) Conditions {
	met := c.Sky.At(t, p)
	l := c.Sky.light(math.Mod(t.Hours()+24, 24))
	taken := l.beam * cloudThick * c.shade(t)
	l.beam -= taken
	l.diffuse += cloudBright * taken * max(0, l.sun.up)
	l.global = l.beam*max(0, l.sun.up) + l.diffuse
	met.Irradiance = l.on(p)
	return met
}

// Period is a day.
func (Clouds) Period() time.Duration { return 24 * time.Hour }

// shade is how much of a cloud is before the sun at t, 0 … 1.
func (c Clouds) shade(t time.Duration) float64 {
	sum, weight, total, scale := 0.0, 1.0, 0.0, cloudScale
	for i := range cloudScales {
		sum += weight * c.noise(t, scale, uint64(i))
		total += weight
		weight, scale = weight/2, scale/cloudShrink
	}
	// The sum is about even between 0.2 and 0.8 of its range.
	threshold := 0.8 - 0.6*c.Cover
	switch c.Cover {
	case 0:
		return 0
	case 1:
		return 1
	}
	x := min(max((sum/total-threshold)/cloudEdge+0.5, 0), 1)
	return x * x * (3 - 2*x)
}

// noise is a smooth curve through a random number, 0 … 1, for each scale of
// time of a day.
func (c Clouds) noise(t, scale time.Duration, octave uint64) float64 {
	t = (t%c.Period() + c.Period()) % c.Period()
	n, within := t/scale, float64(t%scale)/float64(scale)
	at := func(n time.Duration) float64 {
		n %= c.Period() / scale
		return rand.New(rand.NewPCG(c.Seed^octave<<56, uint64(n))).Float64()
	}
	within = within * within * (3 - 2*within)
	return at(n) + (at(n+1)-at(n))*within
}
