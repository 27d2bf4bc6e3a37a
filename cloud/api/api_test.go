package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/command"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollup"
	"ecowatt/cloud/store"
	"ecowatt/key"
)

// fakeWrapper stands in for the key ring: 72 bytes, as the store insists.
type fakeWrapper struct{}

func (fakeWrapper) WrapDevice(key.Device, string, key.ID, key.Epoch) (string, []byte, error) {
	return "kek1", bytes.Repeat([]byte{1}, 72), nil
}

// fakeTelemetry yields what a test wants of a device that the store has.
type fakeTelemetry struct {
	parts []ingest.Part
	err   error // yielded after the parts
	asked ingest.Query

	curves      []rollup.Part
	askedCurves rollup.Query
}

func (f *fakeTelemetry) Curve(_ context.Context, q rollup.Query) iter.Seq2[rollup.Part, error] {
	f.askedCurves = q
	return func(yield func(rollup.Part, error) bool) {
		for _, p := range f.curves {
			if !yield(p, nil) {
				return
			}
		}
		if f.err != nil {
			yield(rollup.Part{}, f.err)
		}
	}
}

func (f *fakeTelemetry) Samples(_ context.Context, q ingest.Query) iter.Seq2[ingest.Part, error] {
	f.asked = q
	return func(yield func(ingest.Part, error) bool) {
		for _, p := range f.parts {
			if !yield(p, nil) {
				return
			}
		}
		if f.err != nil {
			yield(ingest.Part{}, f.err)
		}
	}
}

// cloud is an API over a real store, with a token for each role.
type cloud struct {
	t         *testing.T
	url       string
	store     *store.Store
	tokens    map[access.Role]string
	telemetry *fakeTelemetry
	keyring   fakeKeyring
	trust     fakeTrust
	devices   int // that runs has added
	depot     fakeDepot
	woken     []ecowatt.DeviceID
	logs      *logBuffer
	now       time.Time
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var errBusy = errors.New("the database is busy")

func newCloud(t *testing.T, changes ...func(*Options)) *cloud {
	t.Helper()
	c := &cloud{
		t: t, tokens: map[access.Role]string{}, telemetry: &fakeTelemetry{}, logs: &logBuffer{},
		now: time.Date(2026, 6, 21, 12, 0, 0, 0, time.UTC),
	}
	var err error
	if c.store, err = store.Open(t.Context(), filepath.Join(t.TempDir(), "ecowatt.db"), store.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.store.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, role := range []access.Role{access.Viewer, access.Operator, access.Administrator} {
		secret, token, err := access.New(rand.Reader, role.String(), role, c.now)
		if err == nil {
			err = c.store.PutToken(t.Context(), token, "")
		}
		if err != nil {
			t.Fatal(err)
		}
		c.tokens[role] = secret.Text()
	}
	o := Options{
		Fleet: c.store, Telemetry: c.telemetry, Log: c.store, Tokens: c.store,
		Registry:  registry.New(c.store, fakeWrapper{}, rand.Reader),
		Rotations: registry.NewRotations(c.store, fakeWrapper{}, rand.Reader),
		Keyring:   &c.keyring,
		Trust:     &c.trust, Releases: c.store, Depot: &c.depot, Rollouts: c.store,
		Commands: c.store, Configurations: c.store,
		Commander: command.NewQueue(c.store, rand.Reader, c.wake), Wake: c.wake,
		Ready: c.store.Ready, Unavailable: errBusy,
		Now:    func() time.Time { return c.now },
		Logger: slog.New(slog.NewTextHandler(c.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, change := range changes {
		change(&o)
	}
	h, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	s.Config.ReadTimeout, s.Config.WriteTimeout = 2*time.Second, 2*time.Second // what takes longer asks for it
	s.Start()
	t.Cleanup(s.Close)
	c.url = s.URL
	return c
}

func (c *cloud) wake(device ecowatt.DeviceID) { c.woken = append(c.woken, device) }

// reply is an answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

func (c *cloud) do(method, path, token, body string, header ...string) reply {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(text)}
}

func (c *cloud) get(path string) reply {
	c.t.Helper()
	return c.do(http.MethodGet, path, c.tokens[access.Viewer], "")
}

// add adds a device, which must succeed.
func (c *cloud) add(id, group string) {
	c.t.Helper()
	r := c.do(http.MethodPost, "/api/v1/devices", c.tokens[access.Administrator], `{"id":"`+id+`","group":"`+group+`"}`)
	if r.status != http.StatusCreated {
		c.t.Fatalf("adding %s: %d %s", id, r.status, r.body)
	}
}

func decode[T any](t *testing.T, body string) T {
	t.Helper()
	var v T
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return v
}

// problemOf checks that an answer is a problem document of its own status.
func problemOf(t *testing.T, r reply) problem {
	t.Helper()
	if got := r.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type of a %d is %q, body %s", r.status, got, r.body)
	}
	p := decode[problem](t, r.body)
	if p.Status != r.status || p.Title != http.StatusText(r.status) || p.Detail == "" {
		t.Errorf("problem of a %d: %+v", r.status, p)
	}
	return p
}

type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Errors []struct {
		Message  string `json:"message"`
		Location string `json:"location"`
		Value    any    `json:"value"`
	} `json:"errors"`
}

// appendRecords writes audit records of a device.
func (c *cloud) appendRecords(device ecowatt.DeviceID, actions ...string) {
	c.t.Helper()
	for _, action := range actions {
		err := c.store.Append(c.t.Context(), audit.Record{
			At: c.now, Actor: audit.Actor{Kind: audit.Device, Name: string(device)}, Device: device, Action: action, Text: "text of " + action,
		})
		if err != nil {
			c.t.Fatal(err)
		}
	}
}
