package api

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/registry"
)

func sample(at int64, values ...any) ecowatt.Sample {
	s := ecowatt.Sample{At: at}
	for _, v := range values {
		if n, ok := v.(int); ok {
			s.Values = append(s.Values, ecowatt.Known(int64(n)))
		} else {
			s.Values = append(s.Values, ecowatt.Value{})
		}
	}
	return s
}

var (
	pac  = ecowatt.Point{Name: "pac", Unit: "W", Exponent: 0}
	vac  = ecowatt.Point{Name: "vac1", Unit: "V", Exponent: -1}
	temp = ecowatt.Point{Name: "temp", Unit: "°C", Exponent: -2}
	old  = ecowatt.Point{Name: "old"}
)

// Two inverters; the first changed its points, and a block of it was cut in two.
func twoInverters() []ingest.Part {
	return []ingest.Part{
		{Inverter: "inv1", Points: []ecowatt.Point{vac, pac}, Samples: []ecowatt.Sample{sample(1000, 2301, 1500), sample(2000, nil, -7)}},
		{Inverter: "inv1", Points: []ecowatt.Point{vac, pac}, Samples: []ecowatt.Sample{sample(3000, 0, 0)}},
		{Inverter: "inv1", Points: []ecowatt.Point{pac, temp, old}, Samples: []ecowatt.Sample{sample(4000, 9, -5, nil)}},
		{Inverter: "inv2", Points: []ecowatt.Point{pac, temp, old}, Samples: []ecowatt.Sample{sample(1001, 1, 2, 3)}},
	}
}

func TestTelemetry(t *testing.T) {
	c := newCloud(t)
	c.telemetry.parts = twoInverters()
	r := c.get("/api/v1/devices/roof-1/telemetry")
	want := `{"device":"roof-1","inverters":[` +
		`{"inverter":"inv1","points":[{"name":"vac1","unit":"V","exponent":-1},{"name":"pac","unit":"W","exponent":0}],` +
		`"samples":[{"t":1000,"values":[2301,1500]},{"t":2000,"values":[null,-7]},{"t":3000,"values":[0,0]}]},` +
		`{"inverter":"inv1","points":[{"name":"pac","unit":"W","exponent":0},{"name":"temp","unit":"°C","exponent":-2},{"name":"old","unit":"","exponent":0}],` +
		`"samples":[{"t":4000,"values":[9,-5,null]}]},` +
		`{"inverter":"inv2","points":[{"name":"pac","unit":"W","exponent":0},{"name":"temp","unit":"°C","exponent":-2},{"name":"old","unit":"","exponent":0}],` +
		`"samples":[{"t":1001,"values":[1,2,3]}]}]}` + "\n"
	if diff := cmp.Diff(want, r.body); r.status != http.StatusOK || diff != "" {
		t.Errorf("%d (-want +got):\n%s", r.status, diff)
	}
	if got := r.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
	if got := decode[Samples](t, r.body); len(got.Inverters) != 3 {
		t.Errorf("the documented shape holds %+v", got)
	}
	c.telemetry.parts = nil
	if r := c.get("/api/v1/devices/roof-1/telemetry"); r.body != `{"device":"roof-1","inverters":[]}`+"\n" {
		t.Errorf("no samples are %s", r.body)
	}
}

func TestTelemetryQuery(t *testing.T) {
	c := newCloud(t)
	at := func(s string) time.Time {
		parsed, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	for _, test := range []struct {
		query string
		want  ingest.Query
	}{
		{"", ingest.Query{From: c.now.Add(-time.Hour), To: endOfTime}},
		{"from=1781870400000&to=1781870400001", ingest.Query{From: time.UnixMilli(1781870400000), To: time.UnixMilli(1781870400001)}},
		{"from=2026-06-01T00:00:00Z&to=2026-06-01T02:00:00.5%2B02:00", ingest.Query{From: at("2026-06-01T00:00:00Z"), To: at("2026-06-01T00:00:00.5Z")}},
		{"from=0", ingest.Query{From: time.UnixMilli(0), To: endOfTime}},
		{"inverter=inv2&points=pac,vac1", ingest.Query{From: c.now.Add(-time.Hour), To: endOfTime, Inverter: "inv2", Points: []string{"pac", "vac1"}}},
	} {
		for _, kind := range []string{"telemetry", "telemetry.csv"} {
			c.telemetry.asked = ingest.Query{}
			if r := c.get("/api/v1/devices/roof-1/" + kind + "?" + test.query); r.status != http.StatusOK {
				t.Errorf("%s: %d %s", test.query, r.status, r.body)
			}
			test.want.Device = "roof-1"
			if diff := cmp.Diff(test.want, c.telemetry.asked); diff != "" {
				t.Errorf("%s of %s (-want +got):\n%s", kind, test.query, diff)
			}
		}
	}
}

// Attacks: A6
func TestCSV(t *testing.T) {
	for _, test := range []struct {
		name, query string
		parts       []ingest.Part
		want        string // with \n for CRLF
	}{
		{
			"all points", "", twoInverters(), `time,inverter,vac1 (V),pac (W),temp (°C),old
1970-01-01T00:00:01.000Z,inv1,230.1,1500,,
1970-01-01T00:00:02.000Z,inv1,,-7,,
1970-01-01T00:00:03.000Z,inv1,0.0,0,,
1970-01-01T00:00:04.000Z,inv1,,9,-0.05,
1970-01-01T00:00:01.001Z,inv2,,1,0.02,3
`,
		},
		{
			"points in the order asked for, one that is nowhere",
			"points=pac,nowhere,vac1",
			[]ingest.Part{{Inverter: "inv1", Points: []ecowatt.Point{pac, {Name: "nowhere"}, vac}, Samples: []ecowatt.Sample{sample(1000, 1, nil, 2)}}},
			"time,inverter,pac (W),nowhere,vac1 (V)\n1970-01-01T00:00:01.000Z,inv1,1,,0.2\n",
		},
		{"none", "points=pac", nil, "time,inverter,pac\n"},
		{
			"one name with two units",
			"",
			[]ingest.Part{
				{Inverter: "inv1", Points: []ecowatt.Point{pac}, Samples: []ecowatt.Sample{sample(1000, 1500)}},
				{Inverter: "inv2", Points: []ecowatt.Point{{Name: "pac", Unit: "kW", Exponent: -3}}, Samples: []ecowatt.Sample{sample(1000, 1500)}},
			},
			"time,inverter,pac (W),pac (kW)\n1970-01-01T00:00:01.000Z,inv1,1500,\n1970-01-01T00:00:01.000Z,inv2,,1.500\n",
		},
		{
			"the widest numbers", "",
			[]ingest.Part{{
				Inverter: "inv1", Points: []ecowatt.Point{{Name: "a", Exponent: -10}, {Name: "b", Exponent: 10}},
				Samples: []ecowatt.Sample{sample(253402300799999, -1<<63, 1<<62)},
			}},
			"time,inverter,a,b\n9999-12-31T23:59:59.999Z,inv1,-922337203.6854775808,46116860184273879040000000000\n",
		},
		{
			"a unit that needs quotes", "",
			[]ingest.Part{{Inverter: "inv1", Points: []ecowatt.Point{{Name: "a", Unit: `k"W,h`}}, Samples: []ecowatt.Sample{sample(0, 1)}}},
			"time,inverter,\"a (k\"\"W,h)\"\n1970-01-01T00:00:00.000Z,inv1,1\n",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCloud(t)
			c.telemetry.parts = test.parts
			r := c.get("/api/v1/devices/roof-1/telemetry.csv?" + test.query)
			if diff := cmp.Diff(strings.ReplaceAll(test.want, "\n", "\r\n"), r.body); r.status != http.StatusOK || diff != "" {
				t.Errorf("%d (-want +got):\n%s", r.status, diff)
			}
			if got := r.header.Get("Content-Type"); got != "text/csv; charset=utf-8; header=present" {
				t.Errorf("Content-Type %q", got)
			}
			if got := r.header.Get("Content-Disposition"); got != `attachment; filename="roof-1.csv"` {
				t.Errorf("Content-Disposition %q", got)
			}
			if _, err := csv.NewReader(strings.NewReader(r.body)).ReadAll(); err != nil {
				t.Errorf("another reader of CSV: %v", err)
			}
		})
	}
}

// What fails before the first byte is a problem; what fails later is cut off,
// so that nobody takes a part for the whole.
func TestTelemetryFails(t *testing.T) {
	big := ingest.Part{Inverter: "inv1", Points: []ecowatt.Point{pac}}
	for i := range 10_000 {
		big.Samples = append(big.Samples, sample(int64(i), i))
	}
	for _, test := range []struct {
		name   string
		err    error
		status int
	}{
		{"no such device", fmt.Errorf("reading: %w", registry.ErrNotFound), 404},
		{"busy", fmt.Errorf("reading: %w", errBusy), 503},
		{"broken", errors.New("block 7 does not decode"), 500},
	} {
		for _, kind := range []string{"telemetry", "telemetry.csv"} {
			c := newCloud(t)
			c.telemetry.err = test.err
			path := "/api/v1/devices/roof-1/" + kind
			r := c.get(path)
			problemOf(t, r)
			if r.status != test.status || strings.Contains(r.body, "block 7") {
				t.Errorf("%s at once, %s: %d %s", test.name, kind, r.status, r.body)
			}
			if got := r.header.Get("Retry-After"); (got != "") != (test.status == 503) {
				t.Errorf("%s: Retry-After %q", test.name, got)
			}
			if kind == "telemetry.csv" {
				continue // it is read to its end before it begins
			}
			c.telemetry.parts = []ingest.Part{big, big, big}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+path, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+c.tokens[access.Viewer])
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if n == 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s later: %d bytes, then %v; want an answer that is cut off", test.name, n, err)
			}
			if !strings.Contains(c.logs.String(), test.err.Error()) {
				t.Errorf("%s later: the log says %s", test.name, c.logs)
			}
		}
	}
}

// Windows that a device sent in place of samples are marked, and are runs of
// their own.
func TestWindows(t *testing.T) {
	c := newCloud(t)
	c.telemetry.parts = []ingest.Part{
		{Inverter: "inv1", Points: []ecowatt.Point{vac, pac}, Samples: []ecowatt.Sample{sample(1000, 2301, 1500)}},
		{Inverter: "inv1", Window: 60_000, Points: []ecowatt.Point{vac, pac}, Samples: []ecowatt.Sample{
			sample(60_000, 2300, 2290, 2310, 30, nil, nil, nil, 0), sample(120_000, 2301, 2301, 2301, 1, 10, -5, 25, 3),
		}},
		{Inverter: "inv1", Window: 1500, Points: []ecowatt.Point{vac, pac}, Samples: []ecowatt.Sample{sample(180_000, 1, 1, 1, 1, 2, 2, 2, 1)}},
	}
	const points = `"points":[{"name":"vac1","unit":"V","exponent":-1},{"name":"pac","unit":"W","exponent":0}]`
	want := `{"device":"roof-1","inverters":[` +
		`{"inverter":"inv1",` + points + `,"samples":[{"t":1000,"values":[2301,1500]}]},` +
		`{"inverter":"inv1",` + points + `,"window_ms":60000,"windows":[` +
		`{"t":60000,"end":120000,"values":[{"min":2290,"mean":2300,"max":2310,"count":30},null]},` +
		`{"t":120000,"end":180000,"values":[{"min":2301,"mean":2301,"max":2301,"count":1},{"min":-5,"mean":10,"max":25,"count":3}]}]},` +
		`{"inverter":"inv1",` + points + `,"window_ms":1500,"windows":[` +
		`{"t":180000,"end":181500,"values":[{"min":1,"mean":1,"max":1,"count":1},{"min":2,"mean":2,"max":2,"count":1}]}]}]}` + "\n"
	r := c.get("/api/v1/devices/roof-1/telemetry")
	if diff := cmp.Diff(want, r.body); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := decode[Samples](t, r.body); len(got.Inverters) != 3 || got.Inverters[1].WindowMS != 60_000 || len(got.Inverters[1].Windows) != 2 {
		t.Errorf("the documented shape holds %+v", got)
	}
	want = strings.ReplaceAll(`time,inverter,window (s),vac1 (V),pac (W)
1970-01-01T00:00:01.000Z,inv1,,230.1,1500
1970-01-01T00:01:00.000Z,inv1,60.000,230.0,
1970-01-01T00:02:00.000Z,inv1,60.000,230.1,10
1970-01-01T00:03:00.000Z,inv1,1.500,0.1,2
`, "\n", "\r\n")
	if diff := cmp.Diff(want, c.get("/api/v1/devices/roof-1/telemetry.csv").body); diff != "" {
		t.Errorf("CSV (-want +got):\n%s", diff)
	}
}

// Windows that come after the header was made have no column, and are not
// taken for samples.
func TestLateWindows(t *testing.T) {
	c := newColumns(nil)
	c.add([]ecowatt.Point{pac})
	var out strings.Builder
	err := writeCSV(&out, c, false, func(yield func(ingest.Part, error) bool) {
		_ = yield(ingest.Part{Inverter: "inv1", Window: 60_000, Points: []ecowatt.Point{pac}, Samples: []ecowatt.Sample{sample(0, 1, 1, 1, 1)}}, nil) &&
			yield(ingest.Part{Inverter: "inv1", Points: []ecowatt.Point{pac}, Samples: []ecowatt.Sample{sample(1000, 5)}}, nil)
	})
	if want := "time,inverter,pac (W)\r\n1970-01-01T00:00:01.000Z,inv1,5\r\n"; err != nil || out.String() != want {
		t.Errorf("%q, %v; want %q", out.String(), err, want)
	}
}
