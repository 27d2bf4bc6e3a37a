package sim

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// near compares numbers that were computed in two ways.
func near(margin float64) cmp.Option { return cmpopts.EquateApprox(0, margin) }

func clock(hours float64) time.Duration { return time.Duration(hours * float64(time.Hour)) }

// TestClearSky compares with the closed formula of the angle of incidence
// (Duffie and Beckman, equation 1.6.2), worked out apart from this package.
func TestClearSky(t *testing.T) {
	for _, x := range []struct {
		latitude float64
		day      int
		hour     float64
		plane    Plane
		want     float64
	}{
		{40, 81, 12, Plane{0, 180}, 778.77},
		{40, 81, 12, Plane{40, 180}, 972.43}, // it faces the sun
		{39.74, 74, 9, Plane{30, 180}, 633.04},
		{39.74, 74, 16, Plane{30, 250}, 604.94},
		{-33.9, 355, 10, Plane{20, 0}, 893.12},
		{60, 355, 12, Plane{90, 180}, 211.78},
		{39.74, 74, 6.5, Plane{30, 90}, 49.58},
		{39.74, 74, 0, Plane{30, 180}, 0},
		{39.74, 74, 24 + 9, Plane{30, 180}, 633.04}, // the next day
	} {
		c := ClearSky{Latitude: x.latitude, Day: x.day}
		if got := c.At(clock(x.hour), x.plane).Irradiance; math.Abs(got-x.want) > 0.01 {
			t.Errorf("%v at %v h on %v: %.2f W/m², want %.2f", c, x.hour, x.plane, got, x.want)
		}
	}
}

func TestClearSkyIsEven(t *testing.T) {
	c := ClearSky{Latitude: 52, Day: 172}
	for hour := 0.0; hour < 12; hour += 0.25 {
		east := c.At(clock(hour), Plane{35, 90}).Irradiance
		west := c.At(clock(24-hour), Plane{35, 270}).Irradiance
		if math.Abs(east-west) > 1e-6 {
			t.Errorf("%v h: %g to the east, but %g to the west at the same time before night", hour, east, west)
		}
		if air := c.At(clock(hour), Plane{}).Air; air < 5 || air > 19 {
			t.Errorf("%v h: %g °C", hour, air)
		}
	}
}

// TestClearSkyIsMeasured compares the computed day with the recorded one: the
// station is 1,829 m high, with snow around it, and has more light.
func TestClearSkyIsMeasured(t *testing.T) {
	recorded, err := Recorded("clear")
	if err != nil {
		t.Fatal(err)
	}
	computed := ClearSky{Latitude: 39.74, Day: 74}
	var have, want float64
	for at := time.Duration(0); at < 24*time.Hour; at += time.Minute {
		have += computed.At(at, Plane{Tilt: 40, Azimuth: 180}).Irradiance / 60_000
		want += recorded.At(at, Plane{}).Irradiance / 60_000
	}
	if have < 0.75*want || have > want {
		t.Errorf("%.2f kWh/m² on a plane 40° to the south, measured were %.2f", have, want)
	}
}

func TestRecordedDays(t *testing.T) {
	if diff := cmp.Diff([]string{"clear", "mixed", "overcast"}, RecordedDays()); diff != "" {
		t.Error(diff)
	}
	// Sums of the column poa_wm2 over its positive values, in kWh/m².
	for name, want := range map[string]float64{"clear": 8.833, "mixed": 5.678, "overcast": 0.912} {
		r, err := Recorded(name)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		for at := time.Duration(0); at < r.Period(); at += time.Minute {
			sum += r.At(at, Plane{}).Irradiance / 60_000
		}
		if math.Abs(sum-want) > 0.001 || r.Period() != 24*time.Hour || len(r.rows) != 1440 {
			t.Errorf("%s: %d rows, %v, %.3f kWh/m², want %.3f", name, len(r.rows), r.Period(), sum, want)
		}
	}
	if _, err := Recorded("sunny"); err == nil || !strings.Contains(err.Error(), `"sunny"; there are: clear, mixed, overcast`) {
		t.Errorf("an unknown day: %v", err)
	}
}

const header = "time,poa_wm2,tamb_c,wind_ms\n"

func read(t *testing.T, text string) *Recording {
	t.Helper()
	r, err := ReadRecording("day.csv", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRecordingBetweenRows(t *testing.T) {
	r := read(t, header+
		"2019-03-15T06:00:00-07:00,-2,-4,1\n"+
		"2019-03-15T06:10:00-07:00,40,0,3\n"+
		"2019-03-15T14:10:00Z,640,6,0\n"+ // 07:10 by the clock of the first row
		"2019-03-15T07:20:00-07:00,40,8,0\n"+
		"2019-03-15T18:20:00-07:00,0,4,2\n")
	if r.Period() != 24*time.Hour {
		t.Errorf("period %v", r.Period())
	}
	for _, x := range []struct {
		at   float64 // hours
		want Conditions
	}{
		{6, Conditions{0, -4, 1}},
		{6 + 5/60.0, Conditions{20, -2, 2}},
		{6 + 10/60.0, Conditions{40, 0, 3}},
		{6 + 25/60.0, Conditions{190, 1.5, 2.25}},
		{7 + 10/60.0, Conditions{640, 6, 0}},
		{18 + 20/60.0, Conditions{0, 4, 2}},
		// The night, from the last row to the first one of the next day, is 11 h 40 min.
		{18 + 20/60.0 + 5 + 50/60.0, Conditions{0, 0, 1.5}},
		{0 + 10/60.0, Conditions{0, 0, 1.5}},
		// Other days.
		{24 + 6 + 5/60.0, Conditions{20, -2, 2}},
		{240 + 7 + 10/60.0, Conditions{640, 6, 0}},
		{-24 + 6 + 5/60.0, Conditions{20, -2, 2}},
	} {
		if diff := cmp.Diff(x.want, r.At(clock(x.at), Plane{Tilt: 90}), near(1e-6)); diff != "" {
			t.Errorf("%.3f h: %s", x.at, diff)
		}
	}
}

func TestRecordingOfManyDays(t *testing.T) {
	var text strings.Builder
	text.WriteString("wind_ms,extra,tamb_c,ghi_wm2,time\n")
	began := time.Date(2019, 3, 10, 7, 0, 0, 0, time.UTC)
	for i := range 3*24 + 1 { // the last row is the moment at which it begins anew
		fmt.Fprintf(&text, "2,x,%d,0,%s\n", i%50, began.Add(time.Duration(i)*time.Hour).Format(time.RFC3339))
	}
	r := read(t, text.String())
	if r.Period() != 72*time.Hour {
		t.Errorf("period %v, want three days", r.Period())
	}
	for at, want := range map[float64]float64{7: 0, 8.5: 1.5, 24 + 7: 24, 72 + 6: 71 - 50, 72 + 7: 0, 6: 71 - 50} {
		if got := r.At(clock(at), Plane{}).Air; math.Abs(got-want) > 1e-9 {
			t.Errorf("at %v h: %g, want %g", at, got, want)
		}
	}
}

// TestRecordingColumns: an instrument in the plane of the panels is preferred,
// and there is some wind where nobody measured it.
func TestRecordingColumns(t *testing.T) {
	for _, x := range []struct {
		text string
		want Conditions
	}{
		{"time,ghi_wm2,poa_wm2,tamb_c,wind_ms\n2019-03-15T12:00:00Z,1,2,3,4\n", Conditions{2, 3, 4}},
		{"\ufefftime,irr_wm2,tamb_c,tmod_c,wind_ms,rh_pct\r\n2025-04-04T12:00:00Z,1,25.1,22.2,0,73.5\r\n", Conditions{1, 25.1, 0}},
		{"tamb_c,ghi_wm2,time\n\"-3\",1e1,2019-03-15T12:00:00.5+05:30\n", Conditions{10, -3, 1}},
	} {
		if diff := cmp.Diff(x.want, read(t, x.text).At(clock(13), Plane{})); diff != "" {
			t.Errorf("%q: %s", x.text, diff)
		}
	}
}

func TestRecordingRefuses(t *testing.T) {
	const good = "2019-03-15T06:00:00Z,0,5,1\n"
	for _, x := range []struct{ name, text, want string }{
		{"empty", "", "it is empty"},
		{"header alone", header, "there is no row below the header"},
		{"no time", "poa_wm2,tamb_c\n", "line 1: there is no column time"},
		{"no irradiance", "time,tamb_c\n", "line 1: there is no column poa_wm2 or irr_wm2 or ghi_wm2"},
		{"no air", "time,poa_wm2\n", "line 1: there is no column tamb_c"},
		{"column twice", "time,poa_wm2,tamb_c,poa_wm2\n", `line 1: column "poa_wm2" stands twice`},
		{"foreign", `{"hello":"world"}`, `line 1: bare " in non-quoted-field`},
		{"short line", header + good + "2019-03-15T06:01:00Z,0,5\n", "line 3: wrong number of fields"},
		{"quote", header + good + "\"2019", `line 3: extraneous or missing " in quoted-field`},
		{"time", header + "yesterday,0,5,1\n", `line 2: column time: "yesterday" is not of the form 2006-01-02T15:04:05-07:00`},
		{"number", header + good + "2019-03-15T06:01:00Z,0,cold,1\n", `line 3: column tamb_c: "cold" is not a number`},
		{"missing", header + "2019-03-15T06:01:00Z,,5,1\n", `line 2: column poa_wm2: "" is not a number`},
		{"NaN", header + "2019-03-15T06:01:00Z,NaN,5,1\n", `line 2: column poa_wm2: "NaN" is not within -50 and 2000`},
		{"too hot", header + "2019-03-15T06:01:00Z,0,61,1\n", `line 2: column tamb_c: "61" is not within -60 and 60`},
		{"too bright", header + "2019-03-15T06:01:00Z,2000.1,6,1\n", `line 2: column poa_wm2: "2000.1" is not within -50 and 2000`},
		{"wind from nowhere", header + "2019-03-15T06:01:00Z,0,6,-1\n", `line 2: column wind_ms: "-1" is not within 0 and 100`},
		{"not later", header + good + "\n" + good, "line 4: column time: it is not later than in the line before"},
		{"gap by day", header + good + "2019-03-15T07:00:01Z,51,5,1\n", "line 3: column time: 1h0m1s after the line before, by day; the longest gap is 1h0m0s"},
		{"day left out", header + good + "2019-03-16T06:00:01Z,0,5,1\n", "line 3: column time: 24h0m1s after the line before; the longest gap is 24h0m0s"},
		{"part of a day", header + "2019-03-15T12:00:00Z,700,5,1\n2019-03-15T13:00:00Z,700,5,1\n", "from the last line to the first one of the next day: 23h0m0s after the line before, by day; the longest gap is 1h0m0s"},
		{"many lines of text", header + strings.Repeat("x", 100) + ",0,5,1\n", `line 2: column time: "` + strings.Repeat("x", 40) + `" is not of the form 2006-01-02T15:04:05-07:00`},
	} {
		t.Run(x.name, func(t *testing.T) {
			r, err := ReadRecording("day.csv", strings.NewReader(x.text))
			if want := "day.csv: " + x.want; err == nil || err.Error() != want {
				t.Errorf("%v, %v\nwant %s", r, err, want)
			}
		})
	}
}

func TestRecordingTooLong(t *testing.T) {
	line := strings.Repeat("x", 1<<16)
	endless := func(p []byte) (int, error) {
		return copy(p, line), nil
	}
	if _, err := ReadRecording("day.csv", readerFunc(endless)); err == nil || err.Error() != "day.csv: it is longer than 32 MiB" {
		t.Error(err)
	}
}

func TestRecordingOfTooManyDays(t *testing.T) {
	var text strings.Builder
	text.WriteString(header)
	began := time.Date(2001, 1, 1, 6, 0, 0, 0, time.UTC)
	for i := range maxDays + 2 {
		text.WriteString(began.AddDate(0, 0, i).Format(time.RFC3339) + ",0,5,1\n")
	}
	_, err := ReadRecording("day.csv", strings.NewReader(text.String()))
	if want := "day.csv: line 3663: column time: a recording has at most 3660 days"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func FuzzReadRecording(f *testing.F) {
	day, err := os.ReadFile(filepath.Join("weather", "mixed.csv"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(day[:1000]))
	f.Add(header + "2019-03-15T12:00:00Z,0,5,1\n2019-03-16T12:00:00Z,0,5,1\n")
	f.Add("\ufefftime,irr_wm2,tamb_c\r\n0001-01-01T00:00:00Z,-1,5\r\n9999-12-31T23:59:59Z,0,5\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ReadRecording("day.csv", strings.NewReader(text))
		if err != nil {
			if r != nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, %q", r, err)
			}
			return
		}
		for _, at := range []time.Duration{0, time.Nanosecond, r.rows[0].at - 1, r.rows[len(r.rows)-1].at + 1, r.Period(), 1 << 62, -1 << 62} {
			c := r.At(at, Plane{})
			if !(c.Irradiance >= 0 && c.Irradiance <= 2000 && c.Air >= -60 && c.Air <= 60 && c.Wind >= 0 && c.Wind <= 100) {
				t.Errorf("at %v: %v", at, c)
			}
		}
	})
}
