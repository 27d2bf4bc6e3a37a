package sim

import (
	"math"
	"time"
)

// Plane is how panels face.
type Plane struct {
	Tilt    float64 // degrees from the horizontal
	Azimuth float64 // degrees clockwise from north: 180 is south
}

// vector is a direction: east, north and up; its length is 1.
type vector struct{ east, north, up float64 }

func (a vector) dot(b vector) float64 { return a.east*b.east + a.north*b.north + a.up*b.up }

// normal is where the plane faces.
func (p Plane) normal() vector {
	sinTilt, cosTilt := math.Sincos(radians(p.Tilt))
	sinAzimuth, cosAzimuth := math.Sincos(radians(p.Azimuth))
	return vector{east: sinTilt * sinAzimuth, north: sinTilt * cosAzimuth, up: cosTilt}
}

func radians(degrees float64) float64 { return degrees * math.Pi / 180 }

// ClearSky is weather without a cloud, computed: the same day again and again.
// Its clock shows solar time, the sun is highest at 12:00.
type ClearSky struct {
	Latitude float64 // degrees, north of the equator
	Day      int     // of the year, 1 … 365
}

// DefaultSky is the one in the middle of March at 40° north.
func DefaultSky() ClearSky { return ClearSky{Latitude: 40, Day: 74} }

// What a clear sky is computed with.
const (
	solarConstant = 1361.0 // W/m², of the sun outside the atmosphere (Kopp and Lean 2011)
	albedo        = 0.2    // share of the light that the ground throws back
	clearAir      = 12.0   // °C, mean of the day
	clearSwing    = 6.0    // K, either way, the warmest at clearWarmest
	clearWarmest  = 15.0   // hours
	clearWind     = 2.0    // m/s
)

// At returns what a panel facing p meets at the time of day t.
func (c ClearSky) At(t time.Duration, p Plane) Conditions {
	hour := math.Mod(t.Hours(), 24)
	return Conditions{
		Irradiance: c.light(hour).on(p),
		Air:        clearAir + clearSwing*math.Cos(2*math.Pi*(hour-clearWarmest)/24),
		Wind:       clearWind,
	}
}

// Period is a day.
func (ClearSky) Period() time.Duration { return 24 * time.Hour }

// sun is where the sun stands, by its declination (Cooper 1969) and the angle
// of the hour.
func (c ClearSky) sun(hour float64) vector {
	sinLat, cosLat := math.Sincos(radians(c.Latitude))
	sinDecl, cosDecl := math.Sincos(radians(23.45 * math.Sin(2*math.Pi*float64(284+c.Day)/365)))
	sinHour, cosHour := math.Sincos(radians(15 * (hour - 12)))
	return vector{
		east:  -cosDecl * sinHour,
		north: sinDecl*cosLat - cosDecl*sinLat*cosHour,
		up:    sinDecl*sinLat + cosDecl*cosLat*cosHour,
	}
}

// light is the light of a clear sky. What reaches the ground is by Haurwitz
// (1945), as Reno, Hansen and Stein compare it in SAND2012-2389; it is divided
// into beam and diffuse light by Erbs, Klein and Duffie (1982).
func (c ClearSky) light(hour float64) light {
	sun := c.sun(hour)
	if sun.up <= 0 {
		return light{}
	}
	global := 1098 * sun.up * math.Exp(-0.059/sun.up)
	above := solarConstant * (1 + 0.033*math.Cos(2*math.Pi*float64(c.Day)/365)) * sun.up
	diffuse := global * diffuseShare(global/above)
	return light{sun: sun, beam: (global - diffuse) / sun.up, diffuse: diffuse, global: global}
}

// diffuseShare is the share of diffuse light in what reaches the ground, which
// is the share clearness of what comes from the sun (Erbs, Klein and Duffie
// 1982).
func diffuseShare(clearness float64) float64 {
	k := clearness
	switch {
	case k <= 0.22:
		return 1 - 0.09*k
	case k <= 0.8:
		return 0.9511 + k*(-0.1604+k*(4.388+k*(-16.638+k*12.336)))
	}
	return 0.165
}

// light is what comes from the sky, in W/m².
type light struct {
	sun     vector
	beam    float64 // from the sun, on a plane that faces it
	diffuse float64 // from the rest of the sky, on the horizontal
	global  float64 // both, on the horizontal
}

// on is the light on a plane when the sky is equally bright all over (Liu and
// Jordan 1963).
func (l light) on(p Plane) float64 {
	n := p.normal()
	return l.beam*max(0, l.sun.dot(n)) + l.diffuse*(1+n.up)/2 + albedo*l.global*(1-n.up)/2
}
