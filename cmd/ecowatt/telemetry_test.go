package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTelemetryShow(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	o.run(0, "telemetry", "show", "roof-1").out().talk(`^There are no such samples of roof-1\.$`)
	o.report()
	const show = "telemetry show roof-1 "
	for _, test := range []struct{ args, want string }{
		{show + "--from 2026-06-21 --to 2026-06-22", `
inv1
time                 vac1 (V)  pac (W)
2026-06-21 10:00:00     230.1     1500
2026-06-21 10:00:02     229.9        —
2026-06-21 10:00:04       0.0       -7

inv2
time                 pac (W)
2026-06-21 10:00:00    12345
`},
		{show + "--from 2026-06-21T10:00:02Z --to 2026-06-21T12:00:04+02:00 --points pac,vac1 --inverter inv1", `
time                 pac (W)  vac1 (V)
2026-06-21 10:00:02        —     229.9
`},
		{show + "--from 2026-06-21T10:00 --to 2026-06-21T10:00:01 --json", `
{"device":"roof-1","inverters":[{"inverter":"inv1","points":[{"name":"vac1","unit":"V","exponent":-1},{"name":"pac","unit":"W","exponent":0}],"samples":[{"t":1782036000000,"values":[2301,1500]}]},{"inverter":"inv2","points":[{"name":"pac","unit":"W","exponent":0}],"samples":[{"t":1782036000000,"values":[12345]}]}]}
`},
		{show + "--from 2026-06-22 --to 2026-06-23 --json", `
{"device":"roof-1","inverters":[]}
`},
	} {
		o.run(0, strings.Fields(test.args)...).answers(test.want).talk()
	}
	// People see their own time.
	o.env["TZ"] = "Asia/Kolkata"
	if _, err := time.LoadLocation(o.env["TZ"]); err == nil {
		o.run(0, strings.Fields(show+"--from 2026-06-21T15:30 --to 2026-06-21T15:30:01 --inverter inv2")...).out(`^2026-06-21 15:30:00    12345$`)
	}
}

func TestTelemetryExport(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	o.report()
	const want = `
time,inverter,vac1 (V),pac (W)
2026-06-21T10:00:00.000Z,inv1,230.1,1500
2026-06-21T10:00:02.000Z,inv1,229.9,
2026-06-21T10:00:04.000Z,inv1,0.0,-7
2026-06-21T10:00:00.000Z,inv2,,12345
`
	crlf := strings.ReplaceAll(strings.TrimPrefix(want, "\n"), "\n", "\r\n")
	o.run(0, "telemetry", "export", "roof-1", "--csv").answers(crlf).talk()
	o.run(0, "telemetry", "export", "roof-1", "--out", "all.csv").out().talk()
	if diff := cmp.Diff(crlf, o.file("all.csv")); diff != "" {
		t.Errorf("the file (-want +got):\n%s", diff)
	}
	o.run(0, "telemetry", "export", "roof-1", "--from", "2026-06-21T10:00:03", "--points", "pac").answers("time,inverter,pac (W)\r\n2026-06-21T10:00:04.000Z,inv1,-7\r\n")
	o.run(0, "telemetry", "export", "roof-1", "--since", "1s").answers("time,inverter\r\n")
	o.run(1, "telemetry", "export", "roof-1", "--out", "all.csv").out().talk(`^ecowatt: all\.csv exists already; it is not overwritten$`)
	if diff := cmp.Diff(crlf, o.file("all.csv")); diff != "" {
		t.Errorf("the file that was there (-want +got):\n%s", diff)
	}
	o.run(4, "telemetry", "export", "nobody", "--out", "nobody.csv").out()
	o.absent("nobody.csv")
}

func TestTelemetryRefuses(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	for _, test := range []struct {
		code int
		args string // separated by blanks
		says string
	}{
		{4, "show nobody", `^ecowatt: there is no device "nobody"$`},
		{2, "show NoGood", `^ecowatt: device id "NoGood": not a valid name`},
		{2, "show", `^ecowatt: ID is missing$`},
		{2, "show roof-1 --since soon", `^ecowatt: --since: "soon" is no time span; write 30s, 5m, 2h or 7d$`},
		{2, "show roof-1 --since -5m", `^ecowatt: --since: "-5m"`},
		{2, "show roof-1 --since 0d", `^ecowatt: --since: "0d"`},
		{2, "show roof-1 --since 99999999d", `^ecowatt: --since: "99999999d"`},
		{2, "show roof-1 --from yesterday", `^ecowatt: --from: "yesterday" is no time`},
		{2, "show roof-1 --to 2026-13-01", `^ecowatt: --to: "2026-13-01" is no time`},
		{2, "show roof-1 --from 2026-06-22 --to 2026-06-21", `^ecowatt: from: not before to$`},
		{2, "show roof-1 --from 1960-01-01", `^ecowatt: from: .*not within the years 1970 and 9999$`},
		{2, "show roof-1 --since 5m --from 2026-06-21", `since`},
		{2, "show roof-1 --points pac,pac", `^ecowatt: points: pac is named twice$`},
		{2, "show roof-1 --points PAC", `^ecowatt: points: point "PAC": not a valid name`},
		{2, "show roof-1 --inverter INV", `^ecowatt: inverter "INV": not a valid name`},
		{2, "export roof-1 --csv=false", `^ecowatt: --csv: there is no other format$`},
		{2, "export", `^ecowatt: ID is missing$`},
		{2, "", `^ecowatt: telemetry what\? Choose from: show, energy, export$`},
	} {
		o.run(test.code, append([]string{"telemetry"}, strings.Fields(test.args)...)...).out().talk(test.says)
	}
}

func TestParseSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{"30s": 30 * time.Second, "5m": 5 * time.Minute, "1h30m": 90 * time.Minute, "7d": 7 * 24 * time.Hour} {
		if got, err := parseSpan("--since", text); got != want || err != nil {
			t.Errorf("%s: %v, %v; want %v", text, got, err, want)
		}
	}
}

// An answer that is cut off is no answer, and leaves no file.
func TestTelemetryCutOff(t *testing.T) {
	o := newOperator(t)
	o.env["ECOWATT_URL"] = fakeCloud(t, func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write([]byte(`{"device":"roof-1","inverters":[`)); err != nil {
			t.Error(err)
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		panic(http.ErrAbortHandler)
	}).base
	o.run(1, "telemetry", "show", "roof-1").out().talk("cut off")
	o.run(1, "telemetry", "show", "roof-1", "--json").talk("cut off")
	o.run(1, "telemetry", "export", "roof-1", "--out", "roof-1.csv").out().talk("cut off")
	o.absent("roof-1.csv")
}

// Windows have a table of their own, which says how long they are.
func TestTelemetryShowsWindows(t *testing.T) {
	o := newOperator(t)
	o.env["ECOWATT_URL"] = fakeCloud(t, func(w http.ResponseWriter, _ *http.Request) {
		_, err := w.Write([]byte(`{"device":"roof-1","inverters":[
			{"inverter":"inv1","points":[{"name":"vac1","unit":"V","exponent":-1},{"name":"pac","unit":"W","exponent":0}],"samples":[{"t":1782036000000,"values":[2301,1500]}]},
			{"inverter":"inv1","points":[{"name":"vac1","unit":"V","exponent":-1},{"name":"pac","unit":"W","exponent":0}],"window_ms":60000,
				"windows":[{"t":1782036060000,"end":1782036120000,"values":[{"min":2290,"mean":2300,"max":2310,"count":30},null]}]}]}`))
		if err != nil {
			t.Error(err)
		}
	}).base
	o.run(0, "telemetry", "show", "roof-1").answers(`
inv1
time                 vac1 (V)  pac (W)
2026-06-21 10:00:00     230.1     1500

inv1
time                 window  vac1 (V)  pac (W)
2026-06-21 10:01:00    1m0s     230.0        —
`).talk()
}
