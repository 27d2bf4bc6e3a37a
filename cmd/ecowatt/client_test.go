package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ecowatt/cloud/access"
)

// fakeCloud is a cloud that answers as a test wants, and a client of it.
func fakeCloud(t *testing.T, answer http.HandlerFunc) *client {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	env := map[string]string{"ECOWATT_URL": s.URL, "ECOWATT_TOKEN": "ew_" + strings.Repeat("A", 42) + "E"}
	a := &app{getenv: func(name string) string { return env[name] }}
	c, err := a.client("")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Who shows no token, or a wrong one, is refused with exit code 3, and no
// token is repeated.
func TestTokens(t *testing.T) {
	o := newOperator(t)
	good := o.env["ECOWATT_TOKEN_FILE"]
	stranger := "ew_" + strings.Repeat("A", 42) + "E"
	list := []string{"device", "list"}

	o.env["ECOWATT_TOKEN_FILE"] = ""
	o.run(3, list...).out().talk(`^ecowatt: no token to show to the cloud$`, `^Set ECOWATT_TOKEN, or ECOWATT_TOKEN_FILE `)
	o.env["ECOWATT_TOKEN"] = "secret"
	o.run(3, list...).out().talk(`^ecowatt: ECOWATT_TOKEN holds no token of the form ew_…$`).never("secret")
	o.env["ECOWATT_TOKEN"] = stranger
	o.run(3, list...).out().talk(`a valid token is needed`, `does not know this token`).never("ew_A")

	// The flag goes before ECOWATT_TOKEN, and that before ECOWATT_TOKEN_FILE.
	o.run(0, append(list, "--token-file", good)...)
	o.env["ECOWATT_TOKEN_FILE"] = good
	o.run(3, list...)
	o.env["ECOWATT_TOKEN"] = ""
	o.run(0, list...)

	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	wide := filepath.Join(o.dir, "wide")
	if err := os.WriteFile(wide, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(wide, 0o640); err != nil {
		t.Fatal(err)
	}
	o.run(1, append(list, "--token-file", "wide")...).out().talk(`^ecowatt: token file wide is open to others \(mode 0640\)$`, `^Close it with: chmod 600 wide$`)
	o.run(1, append(list, "--token-file", "absent")...).out().talk(`absent: no such file or directory$`)
}

// A role may do what it is for.
func TestRoles(t *testing.T) {
	o := newOperator(t)
	o.run(0, "device", "add", "roof-1")
	o.use(access.Viewer)
	o.run(0, "device", "list")
	o.run(0, "device", "show", "roof-1")
	o.run(0, "log")
	o.run(0, "telemetry", "show", "roof-1")
	o.run(3, "device", "disable", "roof-1").out().talk(`^ecowatt: viewer-token \(viewer\) may not change a device: that takes the role operator$`)
	o.run(3, "device", "add", "roof-2").out().talk(`^ecowatt: viewer-token \(viewer\) may not add a device: that takes the role administrator$`)
	o.absent("roof-2.enrol.json")
	o.use(access.Operator)
	o.run(0, "device", "disable", "roof-1")
	o.run(3, "device", "add", "roof-2")
}

// A cloud that is not there, or is none.
func TestNoCloud(t *testing.T) {
	o := newOperator(t)
	free := unusedAddress(t)
	o.env["ECOWATT_URL"] = "http://" + free
	o.run(1, "device", "list").out().talk(`^ecowatt: the cloud at http://`+free+` does not answer: .*connection refused$`,
		`^Start it with 'ecowatt serve', or name another one with ECOWATT_URL\.$`)
	o.run(1, "log", "--follow").out().talk("connection refused")
	for _, url := range []string{"127.0.0.1:8080", "ftp://x", "http://", "http://user:pass@host", "http://host?x=y"} {
		o.env["ECOWATT_URL"] = url
		o.run(2, "device", "list").out().talk(`^ecowatt: ECOWATT_URL: .* is not of the form http://HOST:PORT or https://HOST$`)
	}
}

func TestAnswers(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		body   string
		header string // Location
		code   exitCode
		want   string
	}{
		{name: "no JSON", status: 200, body: "hello", code: exitFailed, want: "the cloud's answer cannot be understood"},
		{name: "a page of a proxy", status: 502, body: "<html>\x1b[2J", code: exitFailed, want: `answers "502 Bad Gateway"; is it an EcoWatt cloud?`},
		{name: "a redirection", status: 301, header: "https://eco.example/", code: exitFailed, want: "redirection to https://eco.example/: name the cloud itself with ECOWATT_URL"},
		{name: "a detail", status: 409, body: `{"detail":"it is taken"}`, code: exitFailed, want: "it is taken"},
		{name: "refused", status: 403, body: `{"detail":"you may not"}`, code: exitRefused, want: "you may not"},
		{name: "not found", status: 404, body: `{"detail":"not there"}`, code: exitNotFound, want: "not there"},
		{
			name: "fields", status: 422, body: `{"detail":"validation failed","errors":[{"message":"too long","location":"body.notes"},{"message":"group is bad","location":"body.group"},{"message":"no","location":"body"}]}`,
			code: exitUsage, want: "notes: too long; group is bad; body: no",
		},
		{name: "malformed", status: 400, body: `{"detail":"bad JSON"}`, code: exitUsage, want: "bad JSON"},
		{name: "broken", status: 500, body: `{"detail":"see the log"}`, code: exitFailed, want: "see the log"},
	} {
		t.Run(test.name, func(t *testing.T) {
			asked := 0
			c := fakeCloud(t, func(w http.ResponseWriter, r *http.Request) {
				asked++
				if got := r.Header.Get("Authorization"); !strings.HasPrefix(got, "Bearer ew_") {
					t.Errorf("Authorization %q", got)
				}
				if test.header != "" {
					w.Header().Set("Location", test.header)
				}
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			})
			var out map[string]any
			err := c.get(t.Context(), "/api/v1/devices", nil, &out)
			if err == nil || codeOf(err) != test.code || !strings.Contains(err.Error(), test.want) {
				t.Errorf("exit code %d, %v; want %d and %q", codeOf(err), err, test.code, test.want)
			}
			if asked != 1 {
				t.Errorf("asked %d times", asked)
			}
		})
	}
}
