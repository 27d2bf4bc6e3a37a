package cloud

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/keyring"
	"ecowatt/cloud/store"
	"ecowatt/internal/disk"
)

// running is a cloud that runs in this process.
type running struct {
	t       *testing.T
	data    string
	address string
	cancel  context.CancelFunc
	done    chan error
	stopped bool
}

// start runs a cloud and waits until it answers. It is stopped when the test ends.
func start(t *testing.T, o Options) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{t: t, data: o.Data, cancel: cancel, done: make(chan error, 1)}
	ready := make(chan string, 1)
	o.Listen, o.Ready = "127.0.0.1:0", func(address string) { ready <- address }
	go func() { r.done <- Run(ctx, o) }()
	t.Cleanup(r.stop)
	select {
	case r.address = <-ready:
	case err := <-r.done:
		r.stopped = true
		cancel()
		t.Fatalf("the cloud does not start: %v", err)
	}
	return r
}

func (r *running) stop() {
	r.t.Helper()
	if r.stopped {
		return
	}
	r.stopped = true
	r.cancel()
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Errorf("the cloud stops with %v", err)
		}
	case <-time.After(time.Minute):
		r.t.Fatal("the cloud does not stop")
	}
}

func (r *running) token() string {
	r.t.Helper()
	text, err := os.ReadFile(filepath.Join(r.data, "token"))
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// ask makes a request with the token and returns status and body.
func (r *running) ask(method, path, contentType, body string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+r.address+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+r.token())
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func (r *running) add(id string) {
	r.t.Helper()
	if status, body := r.ask(http.MethodPost, "/api/v1/devices", "application/json", `{"id":"`+id+`"}`); status != http.StatusCreated {
		r.t.Fatalf("adding %s: %d %s", id, status, body)
	}
}

// A first start makes what it needs, for its owner alone; a second one goes on
// with it.
func TestStartAndRestart(t *testing.T) {
	data := filepath.Join(t.TempDir(), "new")
	var logs bytes.Buffer
	c := start(t, Options{Data: data, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	if info, err := os.Stat(data); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data folder: %v, %v; want mode 0700", info.Mode(), err)
	}
	for _, name := range []string{"ecowatt.db", "keyring.json", "token", "lock"} {
		if info, err := os.Stat(filepath.Join(data, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, want mode 0600", name, err)
		}
	}
	c.add("roof-1")
	token := c.token()
	ring := readFile(t, filepath.Join(data, "keyring.json"))
	c.stop()
	if !strings.Contains(logs.String(), "msg=listening address="+c.address) {
		t.Errorf("the log does not say where it listens:\n%s", &logs)
	}
	if strings.Contains(logs.String(), token) {
		t.Error("the token is in the log")
	}

	c = start(t, Options{Data: data})
	if c.token() != token || readFile(t, filepath.Join(data, "keyring.json")) != ring {
		t.Error("a second start made another token or key ring")
	}
	if status, body := c.ask(http.MethodGet, "/api/v1/devices/roof-1", "", ""); status != http.StatusOK {
		t.Errorf("after a restart: %d %s", status, body)
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Devices are answered by the gateway, and what it refuses is counted.
func TestGatewayIsThere(t *testing.T) {
	c := start(t, Options{Data: t.TempDir()})
	for _, path := range []string{"/v1/session", "/v1/exchange"} {
		status, body := c.ask(http.MethodPost, path, "application/vnd.ecowatt.v1", "nonsense")
		if status != http.StatusBadRequest || strings.HasPrefix(body, "{") {
			t.Errorf("%s: %d %q, want 400 and an ERR", path, status, body)
		}
	}
	status, body := c.ask(http.MethodGet, "/metrics", "", "")
	if want := `ecowatt_gateway_refused_total{reason="EX_FORMAT"} 2`; status != http.StatusOK || !strings.Contains(body, want) {
		t.Errorf("%d, the metrics lack %s:\n%s", status, want, body)
	}
	if status, body := c.ask(http.MethodGet, "/readyz", "", ""); status != http.StatusOK {
		t.Errorf("/readyz: %d %s", status, body)
	}
}

// Every metric of the cloud is in docs/cli.md, and every reason that is counted in
// docs/protocol.md.
func TestMetricsAreDocumented(t *testing.T) {
	c := start(t, Options{Data: t.TempDir()})
	_, text := c.ask(http.MethodGet, "/metrics", "", "")
	commands, protocol := readFile(t, "../docs/cli.md"), readFile(t, "../docs/protocol.md")
	metrics := regexp.MustCompile(`(?m)^# TYPE (ecowatt_(?:store|gateway|artifact|rollout)\w+)`).FindAllStringSubmatch(text, -1)
	if len(metrics) < 11 {
		t.Errorf("%d metrics of the store, the gateway, artifacts and rollouts:\n%s", len(metrics), text)
	}
	for _, m := range metrics {
		if !strings.Contains(commands, "| `"+m[1]+"` |") {
			t.Errorf("docs/cli.md lacks %s", m[1])
		}
	}
	reasons := regexp.MustCompile(`ecowatt_gateway_refused_total\{reason="(\w+)"\} 0`).FindAllStringSubmatch(text, -1)
	if len(reasons) < 12 {
		t.Errorf("%d reasons:\n%s", len(reasons), text)
	}
	for _, r := range reasons {
		if !strings.Contains(protocol, "| `"+r[1]+"` |") {
			t.Errorf("docs/protocol.md lacks %s", r[1])
		}
	}
}

// Handshakes are limited by address, which behind a trusted proxy is the one that
// the proxy names.
func TestHandshakesAreLimited(t *testing.T) {
	for name, test := range map[string]struct {
		proxies []netip.Prefix
		want    int
	}{
		"no proxy":        {nil, 5},
		"a trusted proxy": {[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, 15},
	} {
		c := start(t, Options{Data: t.TempDir(), HandshakeRate: 1, TrustedProxies: test.proxies})
		let := 0
		for n := range 60 {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+c.address+"/v1/session", strings.NewReader("nonsense"))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", n%3))
			response, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode == http.StatusBadRequest {
				let++
			} else if response.StatusCode != http.StatusTooManyRequests {
				t.Fatalf("%s: %v", name, response.Status)
			}
		}
		if let < test.want || let > test.want+10 { // some seconds may have gone by
			t.Errorf("%s: %d of 60 handshakes got by, want %d", name, let, test.want)
		}
	}
}

// The URL of enrolment files is the public one, or that of the request.
func TestPublicURL(t *testing.T) {
	for public, want := range map[string]string{"": "", "https://eco.example": "https://eco.example"} {
		c := start(t, Options{Data: t.TempDir(), PublicURL: public})
		if want == "" {
			want = "http://" + c.address
		}
		_, body := c.ask(http.MethodPost, "/api/v1/devices", "application/json", `{"id":"roof-1"}`)
		if !strings.Contains(body, `"cloud_url":"`+want+`"`) {
			t.Errorf("public URL %q: %s, want %s", public, body, want)
		}
	}
}

// A server that stops tells those who wait, lets requests finish, and commits
// what they hand in.
func TestStopsInOrder(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "ecowatt.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	entered := make(chan struct{})
	s := &server{db: db, listener: listener, logger: slog.New(slog.DiscardHandler), draining: make(chan struct{})}
	s.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-s.draining
		err := db.Commit(r.Context(), func(tx *store.Tx) error {
			return tx.Append(audit.Record{Actor: audit.Actor{Kind: audit.System}, Action: "test.done"})
		})
		fmt.Fprint(w, "committed: ", err)
	})
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- s.run(ctx) }()
	answered := make(chan string, 1)
	go func() {
		defer close(answered)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener.Addr().String(), http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		answered <- string(body)
	}()
	<-entered
	stop()
	if got, want := <-answered, "committed: <nil>"; got != want {
		t.Errorf("the request in progress is answered %q, want %q", got, want)
	}
	if err := <-stopped; err != nil {
		t.Errorf("the server stops with %v", err)
	}
	if records, err := db.AuditRecords(t.Context(), audit.Filter{}); err != nil || len(records) != 1 {
		t.Errorf("%d records, %v; want what the last request handed in", len(records), err)
	}
	if conn, err := net.Dial("tcp", listener.Addr().String()); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}

// A server whose committer ends by itself ends too, with an error.
func TestCommitterFails(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "ecowatt.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{db: db, listener: listener, handler: http.NotFoundHandler(), logger: slog.New(slog.DiscardHandler), draining: make(chan struct{})}
	s.ready = func(string) {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := s.run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "committing: ") {
		t.Errorf("the server ends with %v, want what the committer says", err)
	}
}

// What cannot be meant is refused before anything is touched.
func TestOptions(t *testing.T) {
	for _, test := range []struct {
		o      Options
		option string
		want   string
	}{
		{Options{}, "--data", "missing"},
		{Options{Database: "postgres://localhost/ecowatt"}, "--db", "PostgreSQL is not supported yet"},
		{Options{Database: "postgresql://localhost/ecowatt"}, "--db", "PostgreSQL is not supported yet"},
		{Options{Database: "ecowatt.db"}, "--db", `"ecowatt.db" is not of the form sqlite:FILE`},
		{Options{Database: "sqlite:"}, "--db", "sqlite:FILE"},
		{Options{Listen: "8080"}, "--listen", `"8080"`},
		{Options{PublicURL: "eco.example"}, "--public-url", `"eco.example"`},
		{Options{PublicURL: "https://user@eco.example"}, "--public-url", "https://HOST"},
		{Options{Slot: time.Millisecond}, "--slot", "1ms"},
		{Options{Slot: 25 * time.Hour}, "--slot", "25h"},
		{Options{HandshakeRate: -1}, "--handshake-rate", "-1"},
		{Options{HandshakeRate: 2_000_000}, "--handshake-rate", "2000000"},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		if test.option != "--data" {
			test.o.Data = dir
		}
		err := Run(t.Context(), test.o)
		option, ok := errors.AsType[*OptionError](err)
		if !ok || option.Option != test.option || !strings.Contains(option.Problem, test.want) {
			t.Errorf("%+v: %v; want one about %s that says %q", test.o, err, test.option, test.want)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%+v: the data folder was made", test.o)
		}
	}
}

// spoiled are the ways in which a cloud cannot start, each with what the one
// line says.
var spoiled = []struct {
	name  string
	spoil func(t *testing.T, data string, o *Options)
	want  []string
}{
	{"the folder is in use", func(t *testing.T, data string, _ *Options) {
		t.Helper()
		lock, err := disk.Lock(data)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { lock.Close() })
	}, []string{"in use by another process"}},
	{"the port is taken", func(t *testing.T, _ string, o *Options) {
		t.Helper()
		busy, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { busy.Close() })
		o.Listen = busy.Addr().String()
	}, []string{"listening on 127.0.0.1:", "address already in use"}},
	{"others may write to the folder", func(t *testing.T, data string, _ *Options) {
		t.Helper()
		if err := os.Chmod(data, 0o777); err != nil {
			t.Fatal(err)
		}
	}, []string{"0777", "chmod 700"}},
	{
		"the folder is a file", func(_ *testing.T, data string, o *Options) { o.Data = filepath.Join(data, "ecowatt.db") },
		[]string{"ecowatt.db", "not a directory"},
	},
	{"a newer database", func(t *testing.T, data string, _ *Options) {
		t.Helper()
		conn, err := sqlite3.Open(filepath.Join(data, "ecowatt.db"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(conn.Exec("PRAGMA user_version = 99"), conn.Close()); err != nil {
			t.Fatal(err)
		}
	}, []string{"ecowatt.db", "version 99"}},
	{"a foreign database", func(t *testing.T, data string, o *Options) {
		t.Helper()
		write(t, filepath.Join(data, "other.db"), strings.Repeat("not a database ", 100))
		o.Database = "sqlite:" + filepath.Join(data, "other.db")
	}, []string{"other.db"}},
	{"the key ring is gone", func(t *testing.T, data string, _ *Options) {
		t.Helper()
		if err := os.Remove(filepath.Join(data, "keyring.json")); err != nil {
			t.Fatal(err)
		}
	}, []string{"keyring.json is missing", "backup"}},
	{"another cloud's key ring", func(t *testing.T, data string, _ *Options) {
		t.Helper()
		name := filepath.Join(data, "keyring.json")
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if _, err := keyring.Create(name, rand.Reader); err != nil {
			t.Fatal(err)
		}
	}, []string{"does not hold the key", "keyring.json"}},
	{"another key under the same name", func(t *testing.T, data string, _ *Options) {
		t.Helper()
		name := filepath.Join(data, "keyring.json")
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := regexp.MustCompile(`"key": ?"(.)`).FindSubmatchIndex(text)
		if at == nil {
			t.Fatalf("no key in the key ring's file")
		}
		if text[at[2]] == 'A' {
			text[at[2]] = 'B'
		} else {
			text[at[2]] = 'A'
		}
		write(t, name, string(text))
	}, []string{"keyring.json holds something else", "put back"}},
	{"a key ring that others may read", func(t *testing.T, data string, _ *Options) {
		t.Helper()
		if err := os.Chmod(filepath.Join(data, "keyring.json"), 0o644); err != nil {
			t.Fatal(err)
		}
	}, []string{"keyring.json", "0600"}},
	{"a key ring that is none", func(t *testing.T, data string, _ *Options) {
		t.Helper()
		write(t, filepath.Join(data, "keyring.json"), "{")
	}, []string{"keyring.json"}},
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A cloud that cannot start says so in one line, and leaves everything as it is.
//
// Attacks: K15
func TestRefusesToStart(t *testing.T) {
	for _, test := range spoiled {
		t.Run(test.name, func(t *testing.T) {
			data := t.TempDir()
			if err := os.Chmod(data, 0o700); err != nil {
				t.Fatal(err)
			}
			c := start(t, Options{Data: data})
			c.add("roof-1")
			c.stop()
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			o := Options{Data: data, Listen: "127.0.0.1:0", Ready: func(string) { stop() }}
			test.spoil(t, data, &o)
			before := contents(t, data)
			err := Run(ctx, o)
			if err == nil {
				t.Fatal("it started")
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than a line: %v", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("does not say %q: %v", want, err)
				}
			}
			if diff := cmp.Diff(before, contents(t, data)); diff != "" {
				t.Errorf("something changed (-before +after):\n%s", diff)
			}
		})
	}
}

// contents is every file of a folder but its lock, which names its last user,
// and what SQLite lays beside a database.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "lock" && !strings.HasSuffix(path, "-shm") && !strings.HasSuffix(path, "-wal") {
			all[strings.TrimPrefix(path, dir+"/")] = readFile(t, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
