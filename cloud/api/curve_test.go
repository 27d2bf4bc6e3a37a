package api

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/rollup"
)

func bucket(begin int64, energy float64, stats ...rollup.Stats) rollup.Bucket {
	return rollup.Bucket{Begin: begin, End: begin + 900_000, Stats: stats, Energy: energy, HasEnergy: energy != 0}
}

// Two parts of one run, and another inverter with an integrated energy.
func twoCurves() []rollup.Part {
	volts, watts := rollup.Stats{Min: 2301, Max: 2312, Sum: 6919, Count: 3}, rollup.Stats{Min: 10, Max: 30, Sum: 40, Count: 2}
	return []rollup.Part{
		{Inverter: "inv1", TimeZone: "UTC", Points: []ecowatt.Point{vac, pac}, Source: rollup.Lifetime, Buckets: []rollup.Bucket{bucket(0, 1234.56, volts, watts)}},
		{Inverter: "inv1", TimeZone: "UTC", Points: []ecowatt.Point{vac, pac}, Source: rollup.Lifetime, Buckets: []rollup.Bucket{bucket(1_800_000, 0, rollup.Stats{}, watts)}},
		{Inverter: "inv2", TimeZone: "Europe/Berlin", Points: []ecowatt.Point{pac}, Source: rollup.Power, Buckets: []rollup.Bucket{bucket(0, 0.04, watts)}},
	}
}

func TestCurves(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	c.telemetry.curves = twoCurves()
	want := `{"device":"roof-1","step_s":900,"inverters":[` +
		`{"inverter":"inv1","time_zone":"UTC","points":[{"name":"vac1","unit":"V","exponent":-1},{"name":"pac","unit":"W","exponent":0}],"energy_source":"counter","buckets":[` +
		`{"t":0,"end":900000,"values":[{"min":2301,"mean":2306.3333333333335,"max":2312,"count":3},{"min":10,"mean":20,"max":30,"count":2}],"energy_wh":1234.56},` +
		`{"t":1800000,"end":2700000,"values":[null,{"min":10,"mean":20,"max":30,"count":2}]}]},` +
		`{"inverter":"inv2","time_zone":"Europe/Berlin","points":[{"name":"pac","unit":"W","exponent":0}],"energy_source":"integrated","buckets":[` +
		`{"t":0,"end":900000,"values":[{"min":10,"mean":20,"max":30,"count":2}],"energy_wh":0.04}]}]}` + "\n"
	r := c.get("/api/v1/devices/roof-1/telemetry?step=15m")
	if diff := cmp.Diff(want, r.body); r.status != http.StatusOK || diff != "" {
		t.Errorf("%d (-want +got):\n%s", r.status, diff)
	}
	decode[Curves](t, r.body)

	csv := `time,inverter,energy (Wh),energy source,vac1 mean (V),vac1 min (V),vac1 max (V),vac1 count,pac mean (W),pac min (W),pac max (W),pac count
1970-01-01T00:00:00.000Z,inv1,1234.6,counter,230.633,230.1,231.2,3,20.00,10,30,2
1970-01-01T00:30:00.000Z,inv1,,,,,,,20.00,10,30,2
1970-01-01T00:00:00.000Z,inv2,0.0,integrated,,,,,20.00,10,30,2
`
	r = c.get("/api/v1/devices/roof-1/telemetry.csv?step=15m")
	if diff := cmp.Diff(csv, strings.ReplaceAll(r.body, "\r\n", "\n")); r.status != http.StatusOK || diff != "" {
		t.Errorf("%d (-want +got):\n%s", r.status, diff)
	}

	c.telemetry.curves = nil
	if r := c.get("/api/v1/devices/roof-1/telemetry?step=1d"); r.body != `{"device":"roof-1","step_s":86400,"inverters":[]}`+"\n" {
		t.Errorf("no buckets: %s", r.body)
	}
}

func TestCurveQueries(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	for query, want := range map[string]rollup.Query{
		"step=15m":                        {Step: 15 * time.Minute},
		"step=60":                         {Step: time.Minute},
		"step=1d&only=energy":             {Step: 24 * time.Hour, Energy: true},
		"step=1h&inverter=a&points=pac,b": {Step: time.Hour, Inverter: "a", Points: []string{"pac", "b"}},
	} {
		want.Device, want.From, want.To = "roof-1", c.now.Add(-time.Hour), endOfTime
		for _, kind := range []string{"telemetry", "telemetry.csv"} {
			if r := c.get("/api/v1/devices/roof-1/" + kind + "?" + query); r.status != http.StatusOK {
				t.Errorf("%s: %d %s", query, r.status, r.body)
			}
			if diff := cmp.Diff(want, c.telemetry.askedCurves); diff != "" {
				t.Errorf("%s of %s (-want +got):\n%s", kind, query, diff)
			}
		}
	}
}

func TestCurvesThatAreNone(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	for query, field := range map[string]string{
		"step=soon": "query.step", "step=0": "query.step", "step=-1d": "query.step", "only=energy": "query.only", "step=1h&only=power": "query.only",
	} {
		r := c.get("/api/v1/devices/roof-1/telemetry?" + query)
		if r.status != http.StatusUnprocessableEntity || !strings.Contains(r.body, `"`+field+`"`) {
			t.Errorf("%s: %d %s, want 422 of %s", query, r.status, r.body, field)
		}
	}
	c.telemetry.err = fmt.Errorf("reading: %w", rollup.ErrStep)
	for _, kind := range []string{"telemetry", "telemetry.csv"} {
		r := c.get("/api/v1/devices/roof-1/" + kind + "?step=7m")
		if r.status != http.StatusUnprocessableEntity || !strings.Contains(r.body, `"query.step"`) {
			t.Errorf("%s: %d %s, want 422 of query.step", kind, r.status, r.body)
		}
	}
}
