package agent

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ecowatt"
	"ecowatt/agent/identity"
	"ecowatt/agent/uplink"
	"ecowatt/cloud/ingest"
	"ecowatt/internal/disk"
	"ecowatt/inverter/modbus"
	"ecowatt/wire"
)

// patience bounds the waits of these tests; nothing takes so long.
const patience = 60 * time.Second

// enrolmentFile writes an enrolment file as the cloud does.
func enrolmentFile(tb testing.TB, device, url string, c identity.Credential) string {
	tb.Helper()
	secret := c.Key.Secret()
	text := fmt.Sprintf(`{"device_id":%q,"cloud_url":%q,"epoch":%d,"psk_id":%q,"key":%q,"firmware_root":""}`,
		device, url, c.Epoch, c.ID, base64.StdEncoding.EncodeToString(secret[:]))
	name := filepath.Join(tb.TempDir(), "enrol.json")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return name
}

// gateway is a folder with a device, a real inverter and a real cloud.
type gateway struct {
	dir    string
	cloud  *cloud
	files  *http.ServeMux // of the cloud
	wire   atomic.Int64   // bytes to and from the cloud, in TCP
	served atomic.Uint32  // reads that the inverter answered
}

// meteredListener counts the bytes of its connections.
type meteredListener struct {
	net.Listener
	n *atomic.Int64
}

func (l meteredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return meteredConn{c, l.n}, err
}

type meteredConn struct {
	net.Conn
	n *atomic.Int64
}

func (c meteredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n.Add(int64(n))
	return n, err
}

func (c meteredConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func newGateway(tb testing.TB) *gateway {
	tb.Helper()
	g := &gateway{dir: filepath.Join(tb.TempDir(), strings.Repeat("a-folder-with-a-long-name/", 5))}
	c := credential(tb)
	g.cloud = newCloud(tb, c, time.Now)
	g.files = http.NewServeMux()
	g.files.Handle("/", g.cloud)
	server := httptest.NewUnstartedServer(g.files)
	server.Listener = meteredListener{server.Listener, &g.wire}
	server.Start()
	tb.Cleanup(server.Close)
	device, err := Enroll(g.dir, enrolmentFile(tb, "roof-1", server.URL, c), "")
	if err != nil || device != "roof-1" {
		tb.Fatalf("enrolled %q, %v", device, err)
	}

	var lc net.ListenConfig
	l, err := lc.Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	inverter := modbus.NewServer(func(_ context.Context, r modbus.Request) ([]uint16, error) {
		if r.Unit != 17 || r.Function != modbus.ReadHolding || r.Address != 0 || r.Count != 10 {
			return nil, modbus.ErrIllegalAddress
		}
		n := uint16(g.served.Add(1))
		return []uint16{2300 + n, 50, 5000, 3000, 3000, 40, 40, 250, 100, n}, nil
	}, modbus.ServerOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- inverter.Serve(ctx, l) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	g.settings(tb, fmt.Sprintf(`
inverters:
  - {name: inv1, connect: "modbus-tcp://%s", profile: ecowatt-sim}
sampling_interval: 1
upload_interval: 1
flush_interval: 0
`, l.Addr()))
	return g
}

func (g *gateway) settings(tb testing.TB, text string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, SettingsFile), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// run starts the agent; stop ends it and returns what Run did.
func (g *gateway) run(t *testing.T) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	log := &lockedBuffer{}
	go func() { done <- Run(ctx, Options{Dir: g.dir, Log: log}) }()
	ended := false
	stop = func() error {
		cancel()
		ended = true
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			t.Fatal("the agent does not stop")
			return nil
		}
	}
	t.Cleanup(func() {
		if !ended {
			stop()
		}
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return stop
}

// await waits until ok holds, looking after each request that the cloud gets.
func (g *gateway) await(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	timeout := time.After(patience)
	for {
		g.cloud.mu.Lock()
		changed := g.cloud.changed
		g.cloud.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			tb.Fatalf("waited for long: %s", what)
		}
	}
}

// TestRun: the whole agent with sockets, files and a clock of this machine.
func TestRun(t *testing.T) {
	g := newGateway(t)
	stop := g.run(t)
	stored := func() []ecowatt.Sample { return g.cloud.samples("inv1", wire.BootID{}, 0) }
	g.await(t, "two samples", func() bool { return len(stored()) >= 2 })

	s, err := ReadStatus(t.Context(), g.dir)
	if err != nil {
		t.Fatal(err)
	}
	if s.Device != "roof-1" || s.PID != os.Getpid() || !s.Clock.Known || len(s.Inverters) != 1 || s.Inverters[0].State != "answering" ||
		s.Inverters[0].SampleAge < 0 || s.Inverters[0].SampleAge > 5 || s.Uplink.ExchangeAge < 0 || s.Uplink.NextIn > 2 || s.Uplink.Error != "" {
		t.Errorf("status %+v", s)
	}
	if err := Run(t.Context(), Options{Dir: g.dir, Log: &lockedBuffer{}}); !errors.Is(err, disk.ErrLocked) || !strings.Contains(err.Error(), g.dir) {
		t.Errorf("a second agent in the folder: %v", err)
	}
	if _, err := Enroll(g.dir, enrolmentFile(t, "roof-1", "http://c", credential(t)), ""); !errors.Is(err, disk.ErrLocked) {
		t.Errorf("enrolling under a running agent: %v", err)
	}
	if err := stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := os.Stat(filepath.Join(g.dir, StatusSocket)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if _, err := ReadStatus(t.Context(), g.dir); !errors.Is(err, ErrNotRunning) {
		t.Errorf("status of a stopped agent: %v", err)
	}

	n := len(stored())
	g.run(t)
	g.await(t, "two more samples", func() bool { return len(stored()) >= n+2 })
	if _, err := ReadStatus(t.Context(), g.dir); err != nil {
		t.Error(err)
	}
	last := int64(0)
	for i, s := range stored() {
		if s.Values[9].Raw <= last || s.Values[0].Raw != 2300+s.Values[9].Raw {
			t.Errorf("sample %d: %v after %d", i, s.Values, last)
		}
		last = s.Values[9].Raw
	}
	g.cloud.mu.Lock()
	defer g.cloud.mu.Unlock()
	for _, b := range g.cloud.blocks { // the cloud itself takes them
		in := ingest.Telemetry{Inverter: b.Inverter, Points: b.Points, T0: b.T0, Codec: b.Codec, Count: b.Count, Data: b.Data}
		if _, err := ingest.Check(in, time.Now()); err != nil {
			t.Errorf("block %+v: %v", b, err)
		}
	}
	if f := g.cloud.requests[0].Firmware; f == nil || f.Image == [32]byte{} || f.State != wire.FirmwareConfirmed || f.Version != ecowatt.Version {
		t.Errorf("firmware %+v", f)
	}
}

func TestRunRefuses(t *testing.T) {
	g := newGateway(t)
	run := func(dir, config string) error {
		return Run(t.Context(), Options{Dir: dir, Config: config, Log: &lockedBuffer{}})
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T)
		err    error
		want   string
	}{
		{"two settings", func(t *testing.T) { g.settings(t, "log_level: loud\n") }, nil, "agent.yaml: log_level"},
		{"no settings", func(t *testing.T) { remove(t, filepath.Join(g.dir, SettingsFile)) }, ErrNoSettings, "agent.yaml, at least: inverters"},
		{"key for everybody", func(t *testing.T) { chmod(t, filepath.Join(g.dir, "keys", "psk.a"), 0o644) }, identity.ErrMode, "psk.a"},
		{"not enrolled", func(t *testing.T) { remove(t, filepath.Join(g.dir, "identity.json")) }, identity.ErrNotEnrolled, "ecowatt-agent enroll"},
	} {
		c.change(t)
		if err := run(g.dir, ""); err == nil || c.err != nil && !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), g.dir[:len(g.dir)-1]) {
			t.Errorf("%s: %v, want %q and the folder", c.name, err, c.want)
		}
	}
	if err := run(filepath.Join(g.dir, "absent"), ""); err == nil || !strings.Contains(err.Error(), "no folder") {
		t.Errorf("no folder: %v", err)
	}
	if _, err := os.Stat(filepath.Join(g.dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made: %v", err)
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, name string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

func TestEnrollRemovesTheFile(t *testing.T) {
	dir, c := filepath.Join(t.TempDir(), "new", "folder"), credential(t)
	file := enrolmentFile(t, "roof-1", "http://cloud", c)
	if device, err := Enroll(dir, file, ""); err != nil || device != "roof-1" {
		t.Fatalf("%q, %v", device, err)
	}
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file with the key is left: %v", err)
	}
	if id, err := (identity.Folder{FS: disk.OS(dir)}).Load(); err != nil || id.Device != "roof-1" || !id.Active.Key.Equal(c.Key) {
		t.Errorf("%+v, %v", id, err)
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v", info.Mode(), err)
	}
}

func TestEnrollRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := Enroll(dir, enrolmentFile(t, "roof-1", "http://cloud", credential(t)), ""); err != nil {
		t.Fatal(err)
	}
	good := enrolmentFile(t, "roof-2", "http://cloud", credential(t))
	link := filepath.Join(t.TempDir(), "link.json")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	wide := enrolmentFile(t, "roof-2", "http://cloud", credential(t))
	chmod(t, wide, 0o640)
	foreign := enrolmentFile(t, "Roof 2", "http://cloud", credential(t))
	folder := t.TempDir()
	for _, c := range []struct {
		name, dir, file string
		want            []string
	}{
		{"another device's folder", dir, good, []string{dir, "roof-1"}},
		{"a link", "new", link, []string{link, "regular"}},
		{"open to others", "new", wide, []string{wide, "0640", "0600"}},
		{"a folder", "new", folder, []string{folder, "regular"}},
		{"absent", "new", folder + "/absent", []string{"absent"}},
		{"not understood", "new", foreign, []string{foreign, "device_id"}},
		{"a file for a folder", good, enrolmentFile(t, "roof-3", "http://cloud", credential(t)), []string{good}},
	} {
		if c.dir == "new" {
			c.dir = filepath.Join(t.TempDir(), "new")
		}
		_, err := Enroll(c.dir, c.file, "")
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", c.name, err, want)
			}
		}
		if _, err := os.Lstat(c.file); c.name != "absent" && err != nil {
			t.Errorf("%s: the file is gone: %v", c.name, err)
		}
	}
}

// TestClockFile: what is kept is read back, and what is broken is as good as
// nothing.
func TestClockFile(t *testing.T) {
	dir := t.TempDir()
	boot, log := wire.BootID{1}, &lockedBuffer{}
	logger := newLogger(log, new(slog.LevelVar), &reports{}, monotonic)
	open := func(text string) *clockKeeper {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, ClockFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return openClock(disk.OS(dir), boot, logger)
	}
	if k := openClock(disk.OS(dir), boot, logger); k.restored(time.Hour).Known() || log.String() != "" {
		t.Errorf("without a file the time is known, or %s", log.String())
	}
	for _, bad := range []string{"", "{", `{"boot":"01"}`, strings.Repeat(" ", maxClockSize) + "{}"} {
		if k := open(bad); k.restored(time.Hour).Known() || k.placer(uplink.Clock{})(wire.BootID{}, 5) != 0 {
			t.Errorf("%.20q: the time is known", bad)
		}
	}
	if n := strings.Count(log.String(), "clock_unreadable"); n != 4 {
		t.Errorf("%d of 4 broken files are told", n)
	}
	k := open("{}")
	clock, _ := uplink.Clock{}.Observe(1_700_000_000_000, time.Hour, time.Hour)
	k.keep(clock, time.Hour)
	again := openClock(disk.OS(dir), boot, logger)
	want := int64(1_700_000_000_000 - 3_600_000 + 5000)
	if at := again.placer(again.restored(2*time.Hour))(boot, 5000); at != want {
		t.Errorf("restored: %d, want %d", at, want)
	}
	other := openClock(disk.OS(dir), wire.BootID{2}, logger)
	if other.restored(2 * time.Hour).Known() {
		t.Error("the clock of another boot is known")
	}
	place := other.placer(uplink.Clock{})
	if at := place(boot, 5000); at != want {
		t.Errorf("the boot before: %d, want %d", at, want)
	}
	if at := place(wire.BootID{2}, 5000); at != 0 {
		t.Errorf("this boot: %d, want 0", at)
	}
	if at := place(wire.BootID{3}, 5000); at != 0 {
		t.Errorf("a boot that nothing is known of: %d, want 0", at)
	}
}
