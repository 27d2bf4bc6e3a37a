package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud"
	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/store"
)

// asProgram makes the test binary be the program itself: the tests of the
// operator's commands run it as a process.
const asProgram = "ECOWATT_TEST_AS_PROGRAM"

// quickWork is app.work of the tests: passphrases are tried in no time.
const quickWork = 8

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(process(quickWork))
	}
	os.Exit(m.Run())
}

// patience bounds every wait of these tests; nothing waits that long when all is well.
const patience = time.Minute

// operator is a person at a terminal in a folder of their own, beside a cloud
// that runs in this process.
type operator struct {
	t       *testing.T
	dir     string
	data    string // the cloud's folder
	address string
	env     map[string]string
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	o := &operator{t: t, dir: t.TempDir(), data: filepath.Join(t.TempDir(), "cloud")}
	var stop func()
	o.address, stop = startCloud(t, o.data, "127.0.0.1:0")
	t.Cleanup(stop)
	o.env = map[string]string{
		"ECOWATT_URL": "http://" + o.address, "ECOWATT_TOKEN_FILE": filepath.Join(o.data, "token"), "ECOWATT_TOKEN": "",
		"TZ": "UTC", asProgram: "1", "GORACE": "atexit_sleep_ms=0", // a program under the race detector ends as fast as another
	}
	return o
}

// startCloud runs a cloud in this process until stop is called.
func startCloud(tb testing.TB, data, listen string) (address string, stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- cloud.Run(ctx, cloud.Options{Data: data, Listen: listen, Ready: func(address string) { ready <- address }})
	}()
	select {
	case address = <-ready:
	case err := <-done:
		cancel()
		tb.Fatalf("the cloud does not start: %v", err)
	}
	return address, func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("the cloud stops with %v", err)
		}
	}
}

// command is the program with these arguments, ready to start.
func (o *operator) command(args ...string) *exec.Cmd {
	c := exec.CommandContext(o.t.Context(), os.Args[0], args...)
	c.Dir, c.Env = o.dir, os.Environ()
	for name, value := range o.env {
		c.Env = append(c.Env, name+"="+value)
	}
	return c
}

// said is what the program said.
type said struct {
	t              *testing.T
	command        string
	stdout, stderr string
}

// run runs the program to its end, which must have this exit code.
func (o *operator) run(code int, args ...string) said {
	o.t.Helper()
	var stdout, stderr bytes.Buffer
	c := o.command(args...)
	c.Stdout, c.Stderr = &stdout, &stderr
	err := c.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		o.t.Fatal(err)
	}
	s := said{t: o.t, command: "ecowatt " + strings.Join(args, " "), stdout: stdout.String(), stderr: stderr.String()}
	if got := c.ProcessState.ExitCode(); got != code {
		o.t.Errorf("%s: exit code %d, want %d\n%s%s", s.command, got, code, s.stdout, s.stderr)
	}
	return s
}

// out checks that each pattern is found in the answer; without any, that there
// is no answer.
func (s said) out(patterns ...string) said {
	s.t.Helper()
	s.find("answer", s.stdout, patterns)
	return s
}

// talk is out for what is said beside the answer.
func (s said) talk(patterns ...string) said {
	s.t.Helper()
	s.find("talk", s.stderr, patterns)
	return s
}

func (s said) find(what, text string, patterns []string) {
	s.t.Helper()
	if len(patterns) == 0 && text != "" {
		s.t.Errorf("%s: the %s should be empty, it is\n%s", s.command, what, text)
	}
	for _, p := range patterns {
		if !regexp.MustCompile(`(?m)` + p).MatchString(text) {
			s.t.Errorf("%s: the %s lacks %q:\n%s", s.command, what, p, text)
		}
	}
}

// never checks that the pattern is found nowhere.
func (s said) never(pattern string) said {
	s.t.Helper()
	if found := regexp.MustCompile(`(?m)` + pattern).FindString(s.stdout + s.stderr); found != "" {
		s.t.Errorf("%s: says %q", s.command, found)
	}
	return s
}

// answers checks the whole answer.
func (s said) answers(want string) said {
	s.t.Helper()
	if diff := cmp.Diff(strings.TrimPrefix(want, "\n"), s.stdout); diff != "" {
		s.t.Errorf("%s: (-want +got):\n%s", s.command, diff)
	}
	return s
}

func (o *operator) file(name string) string {
	o.t.Helper()
	text, err := os.ReadFile(filepath.Join(o.dir, name))
	if err != nil {
		o.t.Fatal(err)
	}
	return string(text)
}

// absent checks that there is no such file.
func (o *operator) absent(name string) {
	o.t.Helper()
	if _, err := os.Lstat(filepath.Join(o.dir, name)); !errors.Is(err, os.ErrNotExist) {
		o.t.Errorf("%s is there, or unclear: %v", name, err)
	}
}

// mode checks a file's mode.
func (o *operator) mode(name string, want os.FileMode) {
	o.t.Helper()
	info, err := os.Stat(filepath.Join(o.dir, name))
	if err != nil {
		o.t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != want {
		o.t.Errorf("%s has mode %04o, want %04o", name, got, want)
	}
}

// use makes a token of that role and shows it from now on.
func (o *operator) use(role access.Role) {
	o.t.Helper()
	secret, token, err := access.New(rand.Reader, role.String()+"-token", role, time.Now())
	if err != nil {
		o.t.Fatal(err)
	}
	o.withStore(func(ctx context.Context, s *store.Store) error { return s.PutToken(ctx, token, "") })
	o.env["ECOWATT_TOKEN"] = secret.Text()
}

// withStore opens the cloud's database beside the cloud.
func (o *operator) withStore(do func(context.Context, *store.Store) error) {
	o.t.Helper()
	ctx, cancel := context.WithCancel(o.t.Context())
	defer cancel()
	s, err := store.Open(ctx, filepath.Join(o.data, "ecowatt.db"), store.Options{})
	if err != nil {
		o.t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	err = do(ctx, s)
	cancel()
	if err := errors.Join(err, <-ran, s.Close()); err != nil {
		o.t.Fatal(err)
	}
}

// reported is when report reports.
var reported = time.Date(2026, 6, 21, 10, 0, 0, 0, time.UTC)

// report lets the device that was added first report, as if it had made
// exchanges. Some of its texts are not fit for a terminal.
func (o *operator) report() {
	o.t.Helper()
	const device = 1 // its row
	pac := ecowatt.Point{Name: "pac", Unit: "W"}
	vac := ecowatt.Point{Name: "vac1", Unit: "V", Exponent: -1}
	limit := ecowatt.Point{Name: "limit", Unit: "%", Exponent: -1, Writable: true, Min: 0, Max: 1000}
	blocks := []ingest.Block{
		o.block("inv1", []string{"vac1", "pac"}, []any{2301, 1500}, []any{2299, nil}, []any{0, -7}),
		o.block("inv2", []string{"pac"}, []any{12345}),
	}
	inventory := &registry.Inventory{
		ReportedAt: reported, AgentVersion: "0.1.0", Hardware: "arm", ControlAllowed: true,
		Inverters: []registry.Inverter{
			{Name: "inv1", Profile: "ecowatt-sim", ProfileVersion: "1", Serial: "S\x1b[31m1", Model: "M", Points: []ecowatt.Point{vac, pac, limit}},
			{Name: "inv2", Points: []ecowatt.Point{pac}},
		},
	}
	o.withStore(func(ctx context.Context, s *store.Store) error {
		return s.Commit(ctx, func(tx *store.Tx) error {
			for i, b := range blocks {
				m := ingest.Message{ID: [16]byte{byte(i + 1)}, Kind: ingest.KindTelemetry, Block: &b}
				if _, err := tx.Take(device, m, reported); err != nil {
					return err
				}
			}
			firmware := &registry.Firmware{Release: 3, State: "confirmed", Version: "0.1.0"}
			if _, err := tx.Report(device, registry.Report{At: reported, Inventory: inventory, Firmware: firmware}); err != nil {
				return err
			}
			return tx.Append(audit.Record{
				At: reported, Actor: audit.Actor{Kind: audit.Device, Name: "roof-1"}, Device: "roof-1", Action: "device.event",
				Text: "inverter\x1b[2Jaway", Attrs: map[string]string{"code": "inverter_away", "inverter": "inv1"},
			})
		})
	})
}

// block is a block of samples 2 s apart, values given by sample.
func (o *operator) block(inverter string, points []string, samples ...[]any) ingest.Block {
	o.t.Helper()
	columns := make([][]any, 1+len(points))
	for i, values := range samples {
		columns[0] = append(columns[0], 2000*i)
		for p, v := range values {
			columns[1+p] = append(columns[1+p], v)
		}
	}
	data, err := cbor.Marshal(columns)
	if err != nil {
		o.t.Fatal(err)
	}
	return ingest.Block{
		Inverter: inverter, Points: points, Count: len(samples), Data: data,
		Placed: true, T0: reported.UnixMilli(), Span: int64(2000 * (len(samples) - 1)),
	}
}

// unusedAddress is a loopback address on which nothing listens now.
func unusedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// awaitReady waits until a cloud answers at address.
func awaitReady(t *testing.T, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/readyz", address), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			t.Fatalf("nothing answers at %s", address)
		}
	}
}
