package api

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/registry"
)

// The OpenAPI document lists what is served: surface, which
// TestWhoMayDoWhat asks for, and nothing else.
func TestOpenAPI(t *testing.T) {
	c := newCloud(t)
	r := c.do(http.MethodGet, "/api/openapi.json", "", "")
	if got := r.header.Get("Content-Type"); r.status != http.StatusOK || got != "application/openapi+json" {
		t.Fatalf("%d, Content-Type %q", r.status, got)
	}
	var document struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			Security    []map[string][]string
			Responses   map[string]json.RawMessage
		}
		Components struct{ Schemas map[string]json.RawMessage }
	}
	if err := json.Unmarshal([]byte(r.body), &document); err != nil {
		t.Fatal(err)
	}
	if document.OpenAPI != "3.1.0" {
		t.Errorf("OpenAPI %q", document.OpenAPI)
	}
	var got, want []string
	ids := map[string]bool{}
	for path, methods := range document.Paths {
		for method, op := range methods {
			line := strings.ToUpper(method) + " " + path
			if len(op.Security) == 0 {
				line += " for everyone"
			}
			got = append(got, line)
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s: operation id %q is empty or taken", line, op.OperationID)
			}
			ids[op.OperationID] = true
		}
	}
	for _, s := range surface {
		line := s.method + " " + s.path
		if s.needs == 0 {
			line += " for everyone"
		}
		want = append(want, line)
		if _, ok := document.Paths[s.path][strings.ToLower(s.method)].Responses[strconv.Itoa(s.want)]; !ok {
			t.Errorf("%s lacks its answer %d", line, s.want)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the document lists other operations (-surface +document):\n%s", diff)
	}
	for _, ref := range regexp.MustCompile(`#/components/schemas/(\w+)`).FindAllStringSubmatch(r.body, -1) {
		if _, ok := document.Components.Schemas[ref[1]]; !ok {
			t.Errorf("the document lacks the schema %s", ref[1])
		}
	}
}

// The documentation is a page that fetches nothing and names every operation.
func TestDocs(t *testing.T) {
	c := newCloud(t)
	r := c.do(http.MethodGet, "/api/docs", "", "")
	if got := r.header.Get("Content-Type"); r.status != http.StatusOK || got != "text/html; charset=utf-8" {
		t.Fatalf("%d, Content-Type %q", r.status, got)
	}
	for _, s := range surface {
		if line := `<span class="method">` + s.method + `</span>` + s.path; !strings.Contains(r.body, line) {
			t.Errorf("the page lacks %s %s", s.method, s.path)
		}
	}
	for _, want := range []string{"device.last_seen", "inverters[].samples[].values", "points", "RFC 4180"} {
		if !strings.Contains(r.body, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	if fetched := regexp.MustCompile(`(?i)<script|<link|<img|src=|@import|url\(`).FindString(r.body); fetched != "" {
		t.Errorf("the page fetches something: %s", fetched)
	}
	style := regexp.MustCompile(`(?s)<style>(.*?)</style>`).FindStringSubmatch(r.body)
	if style == nil {
		t.Fatal("the page has no style")
	}
	sum := sha256.Sum256([]byte(style[1]))
	policy := r.header.Get("Content-Security-Policy")
	if want := "style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; !strings.Contains(policy, want) || !strings.Contains(policy, "default-src 'none'") {
		t.Errorf("policy %s does not allow the page's style, %s", policy, want)
	}
}

func TestHeaders(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	for _, path := range []string{"/api/v1/devices", "/api/v1/devices/roof-1/telemetry.csv", "/api/v1/devices/absent", "/nowhere", "/healthz", "/metrics", "/api/docs"} {
		r := c.get(path)
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"} {
			if got := r.header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		if got := r.header.Get("Content-Security-Policy"); !strings.Contains(got, "default-src 'none'") {
			t.Errorf("%s: Content-Security-Policy %q", path, got)
		}
	}
}

func TestHealth(t *testing.T) {
	ready := errors.New("the disk is on fire")
	c := newCloud(t, func(o *Options) { o.Ready = func(context.Context) error { return ready } })
	if r := c.do(http.MethodGet, "/healthz", "", ""); r.status != http.StatusOK || r.body != "ok\n" {
		t.Errorf("/healthz: %d %q", r.status, r.body)
	}
	r := c.do(http.MethodGet, "/readyz", "", "")
	problemOf(t, r)
	if r.status != http.StatusServiceUnavailable || strings.Contains(r.body, "fire") || !strings.Contains(c.logs.String(), "fire") {
		t.Errorf("/readyz: %d %q; want 503, and the reason in the log only", r.status, r.body)
	}
	ready = nil
	if r := c.do(http.MethodGet, "/readyz", "", ""); r.status != http.StatusOK || r.body != "ready\n" {
		t.Errorf("/readyz: %d %q", r.status, r.body)
	}
}

func TestMetrics(t *testing.T) {
	c := newCloud(t, func(o *Options) {
		o.Metrics = func(context.Context) []Metric {
			return []Metric{
				{Name: "ecowatt_commits_total", Help: "Transactions.", Values: map[string]uint64{"": 7}},
				{Name: "ecowatt_held", Help: "Held.", Values: map[string]uint64{"": 3}, Gauge: true},
				{Name: "ecowatt_refused_total", Help: `By \ reason.`, Label: "reason", Values: map[string]uint64{"replay": 2, "expired": 1<<64 - 1}},
			}
		}
	})
	r := c.get("/metrics")
	want := `# HELP ecowatt_commits_total Transactions.
# TYPE ecowatt_commits_total counter
ecowatt_commits_total 7
# HELP ecowatt_held Held.
# TYPE ecowatt_held gauge
ecowatt_held 3
# HELP ecowatt_refused_total By \\ reason.
# TYPE ecowatt_refused_total counter
ecowatt_refused_total{reason="expired"} 18446744073709551615
ecowatt_refused_total{reason="replay"} 2
`
	if diff := cmp.Diff(want, r.body); diff != "" || r.header.Get("Content-Type") != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("Content-Type %q (-want +got):\n%s", r.header.Get("Content-Type"), diff)
	}
}

// panicking is a fleet that has a bug.
type panicking struct{ Fleet }

func (panicking) Device(context.Context, ecowatt.DeviceID) (registry.Device, error) {
	panic("index out of range: secret details")
}

func (panicking) Devices(context.Context, registry.Filter) ([]registry.Device, error) {
	return nil, errors.New("no such table: secret details")
}

// A fault of ours is answered without details; they are in the log.
func TestFaults(t *testing.T) {
	for _, path := range []string{"/api/v1/devices/roof-1", "/api/v1/devices"} {
		c := newCloud(t, func(o *Options) { o.Fleet = panicking{o.Fleet} })
		r := c.get(path)
		problemOf(t, r)
		if r.status != http.StatusInternalServerError || strings.Contains(r.body, "secret") {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
		if !strings.Contains(c.logs.String(), "secret details") {
			t.Errorf("%s: the log says %s", path, c.logs)
		}
		if again := c.do(http.MethodGet, "/healthz", "", ""); again.status != http.StatusOK {
			t.Errorf("%s ended the server: %d", path, again.status)
		}
	}
}

// An answer that has begun when something panics is cut off, not completed.
func TestPanicAfterAnswer(t *testing.T) {
	s := &server{Options: Options{Logger: slog.New(slog.DiscardHandler)}}
	h := s.guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write([]byte("half")); err != nil {
			t.Error(err)
		}
		panic("bug")
	}))
	defer func() {
		if p := recover(); p != http.ErrAbortHandler { //nolint:errorlint // net/http compares the same way
			t.Errorf("panics with %v, want ErrAbortHandler", p)
		}
	}()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", http.NoBody))
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("an API without a cloud")
	}
}
