package agent

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/agent/identity"
	"ecowatt/agent/uplink"
	"ecowatt/boot"
	"ecowatt/firmware"
	"ecowatt/firmware/delta"
	"ecowatt/internal/disk"
	"ecowatt/key"
	"ecowatt/wire"
)

const artifacts = "/v1/artifacts/"

// maker signs releases: one key is root and release key.
type maker struct {
	key     key.Signing
	content key.Content
	root    []byte
}

func newMaker(tb testing.TB) maker {
	tb.Helper()
	seed := sha256.Sum256([]byte(tb.Name()))
	k, err := key.SigningFromSeed(seed[:])
	if err != nil {
		tb.Fatal(err)
	}
	secret := sha256.Sum256(seed[:])
	c, err := key.ContentFromBytes(secret[:])
	if err != nil {
		tb.Fatal(err)
	}
	only := []ed25519.PublicKey{k.Public()}
	r, err := firmware.NewRoot(1, only, only, 1, 1)
	if err != nil {
		tb.Fatal(err)
	}
	m := maker{key: k, content: c}
	e, err := r.Unsigned()
	if err != nil {
		tb.Fatal(err)
	}
	m.root = m.sign(tb, e, firmware.StatementRoot)
	return m
}

func (m maker) sign(tb testing.TB, e firmware.Envelope, kind firmware.Statement) []byte {
	tb.Helper()
	if err := e.Sign(kind, m.key); err != nil {
		tb.Fatal(err)
	}
	b, err := e.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// release makes an offer of an image, as a difference to base where there is one,
// and its files by their names.
func (m maker) release(tb testing.TB, number uint64, image, base []byte) (*wire.FirmwareOffer, map[string][]byte) {
	tb.Helper()
	var sources []firmware.Source
	if base != nil {
		frame, err := delta.Diff(base, image)
		if err != nil {
			tb.Fatal(err)
		}
		sum := sha256.Sum256(base)
		sources = append(sources, firmware.Source{Kind: firmware.KindDiff, Plain: frame, Base: sum[:], BaseSize: uint64(len(base)), Window: delta.DiffWindow})
	}
	frame, err := delta.Full(image)
	if err != nil {
		tb.Fatal(err)
	}
	sources = append(sources, firmware.Source{Kind: firmware.KindFull, Plain: frame, Window: delta.FullWindow})
	v := firmware.Manifest{
		Format: 1, Product: firmware.ProductID([]byte(ecowatt.Product)), Hardware: []string{"test"}, Version: "next", Release: number, Security: 2,
		Size: uint64(len(image)), Image: sha256.Sum256(image),
	}
	files := map[string][]byte{}
	for _, s := range sources {
		p, err := firmware.Pack(s, m.content, v.Product, rand.Reader)
		if err != nil {
			tb.Fatal(err)
		}
		v.Payloads = append(v.Payloads, p.Payload)
		files[fmt.Sprintf("%s%x", artifacts, p.Payload.Artifact)], files[fmt.Sprintf("%s%x", artifacts, p.Payload.Table)] = p.Artifact, p.Table
	}
	e, err := v.Unsigned()
	if err != nil {
		tb.Fatal(err)
	}
	return &wire.FirmwareOffer{Manifest: e.ID(), Envelope: m.sign(tb, e, firmware.StatementManifest), Content: m.content, Path: artifacts}, files
}

// shelf is an update.Source of files in memory.
type shelf struct {
	mu    sync.Mutex
	files map[string][]byte
	stuck bool // it gives nothing until the context ends
	asked int
}

func (s *shelf) Get(ctx context.Context, path string, from, n uint64) (uint64, io.ReadCloser, error) {
	s.mu.Lock()
	s.asked++
	file, stuck := s.files[path], s.stuck
	s.mu.Unlock()
	if stuck {
		<-ctx.Done()
		return 0, nil, ctx.Err()
	}
	if from+n > uint64(len(file)) {
		return 0, nil, errors.New("no such range")
	}
	return from, io.NopCloser(bytes.NewReader(file[from : from+n])), nil
}

// beats counts heartbeats.
type beats struct {
	mu sync.Mutex
	n  int
}

func (b *beats) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.n += len(p)
	return len(p), nil
}

func (b *beats) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n
}

// updating is a rig that takes updates: the program "first" is in slot a.
func updating(t *testing.T, edit func(*Settings)) (*rig, *shelf, *wire.FirmwareOffer) {
	t.Helper()
	r, m, s := newRig(t, edit), newMaker(t), &shelf{}
	first, next := []byte("first"), []byte("the next one")
	e := identity.Enrolment{Device: "roof-1", CloudURL: r.parts.settings.CloudURL, Credential: credential(t), FirmwareRoot: m.root}
	if err := errors.Join(
		disk.Delete(r.disk, "identity.json"), (identity.Folder{FS: r.disk}).Enroll(e),
		disk.MkdirAll(r.disk, "slots/a", 0o700), disk.WriteFile(r.disk, boot.A.Program(), first, 0o700),
	); err != nil {
		t.Fatal(err)
	}
	r.cloud = newCloud(t, e.Credential, time.Now)
	r.parts.transport, r.parts.firmware.Image = r.cloud, sha256.Sum256(first)
	r.parts.source, r.parts.free = s, func() (uint64, error) { return 1 << 30, nil }
	r.parts.launch = Launch{Beats: &beats{}, Stable: 5 * time.Minute}
	var offer *wire.FirmwareOffer
	offer, s.files = m.release(t, 7, next, nil)
	return r, s, offer
}

// ended waits for the agent to end by itself, and starts what the record names.
func (r *rig) ended() {
	r.t.Helper()
	err := <-r.done
	r.done <- nil
	if !errors.Is(err, errMakeWay) {
		r.t.Fatalf("it ended with %v", err)
	}
	r.stop()
	record, err := boot.ReadRecord(r.disk)
	if err != nil {
		r.t.Fatal(err)
	}
	program, err := disk.ReadFile(r.disk, record.Active.Program(), 1<<20)
	if err != nil {
		r.t.Fatal(err)
	}
	r.parts.firmware.Image = sha256.Sum256(program)
	r.start()
}

// An update goes through the exchange, and what the device tells is true at each
// moment; the cloud is reached soon after the switch, whatever the slot.
func TestUpdateInTheExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, offer := updating(t, func(s *Settings) { s.UploadInterval = 12 * time.Hour })
		r.start()
		r.runFor(12 * time.Hour)
		r.cloud.mu.Lock()
		r.cloud.firmware = offer
		r.cloud.mu.Unlock()
		r.runFor(12 * time.Hour)
		r.ended()
		r.runFor(2 * time.Minute)
		last := func() wire.Firmware {
			r.cloud.mu.Lock()
			defer r.cloud.mu.Unlock()
			return *r.cloud.requests[len(r.cloud.requests)-1].Firmware
		}
		image := sha256.Sum256([]byte("the next one"))
		want := wire.Firmware{Release: 7, Image: image, State: wire.FirmwareTrial, Version: "0.0.0"}
		if diff := cmp.Diff(want, last()); diff != "" {
			t.Errorf("on trial:\n%s", diff)
		}
		r.runFor(13 * time.Hour)
		want.State, want.MinSecurity = wire.FirmwareConfirmed, 2
		if diff := cmp.Diff(want, last()); diff != "" {
			t.Errorf("confirmed:\n%s", diff)
		}
		if diff := cmp.Diff([]string{"offered", "downloading", "downloaded", "verified", "switching", "trial", "confirmed"}, r.cloud.phases()); diff != "" {
			t.Error(diff)
		}
		if codes := r.cloud.codes(); codes["FW_TRIAL"] != 1 || codes["FW_CONFIRMED"] != 1 {
			t.Errorf("codes %v", codes)
		}
		if r.uplink.Next()-r.now() < 10*time.Hour {
			t.Error("the slot is not what it was before the trial")
		}
		if n := r.parts.launch.Beats.(*beats).count(); n < 1000 {
			t.Errorf("%d heartbeats in more than a day", n)
		}
		r.stop()
	})
}

// An image is proven also when the cloud is heard more often than it is looked at.
func TestTrialWithShortSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, offer := updating(t, func(s *Settings) { s.UploadInterval = 5 * time.Second })
		r.cloud.firmware = offer
		r.start()
		r.runFor(time.Minute)
		r.ended()
		r.runFor(6 * time.Minute)
		if phases := r.cloud.phases(); phases[len(phases)-1] != "confirmed" {
			t.Errorf("phases %q", phases)
		}
		r.stop()
	})
}

// A configuration that comes during a trial does not put off the proof; its slot
// counts after it.
func TestConfigurationDuringATrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, offer := updating(t, nil)
		r.cloud.firmware = offer
		r.start()
		r.runFor(16 * time.Minute)
		r.ended()
		r.cloud.setConfig(1, map[string]any{"upload_interval": 7200})
		r.runFor(8 * time.Minute)
		if phases := r.cloud.phases(); phases[len(phases)-1] != "confirmed" {
			t.Errorf("phases %q", phases)
		}
		if next := r.uplink.Next() - r.now(); next < time.Hour || next > 2*time.Hour {
			t.Errorf("the next slot is in %s", next)
		}
		r.stop()
	})
}

// An image under which an inverter does not answer any more is given up by itself.
func TestUnhealthyImage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, offer := updating(t, nil)
		r.cloud.firmware = offer
		r.start()
		r.runFor(16 * time.Minute)
		r.plant.setSilent(true)
		r.ended()
		r.runFor(54 * time.Minute)
		if !r.updates.trial.Load() {
			t.Error("it is given up early")
		}
		r.runFor(2 * time.Minute)
		r.ended()
		r.plant.setSilent(false)
		r.cloud.mu.Lock()
		r.cloud.firmware = nil
		r.cloud.mu.Unlock()
		r.runFor(20 * time.Minute)
		phases := r.cloud.phases()
		if phases[len(phases)-1] != "rolled_back unhealthy" {
			t.Errorf("phases %q", phases)
		}
		r.cloud.mu.Lock()
		text, state := r.cloud.updates[len(r.cloud.updates)-1].Text, r.cloud.requests[len(r.cloud.requests)-1].Firmware.State
		r.cloud.mu.Unlock()
		if !strings.Contains(text, "inv1") || state != wire.FirmwareRolledBack {
			t.Errorf("%q, %s", text, state)
		}
		r.stop()
	})
}

// A download that does not go on keeps nothing else from going on, and ends when
// its offer is withdrawn.
func TestStuckDownload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s, offer := updating(t, nil)
		r.cloud.firmware, s.stuck = offer, true
		r.start()
		r.runFor(2 * time.Hour)
		if n := len(r.cloud.samples("inv1", r.parts.boot, 0)); n < 100*12 {
			t.Errorf("%d samples of two hours are stored", n)
		}
		if s.asked != 1 {
			t.Errorf("it was asked for %d times", s.asked)
		}
		r.cloud.mu.Lock()
		r.cloud.firmware = nil
		r.cloud.mu.Unlock()
		r.runFor(30 * time.Minute)
		r.cloud.mu.Lock()
		r.cloud.firmware = offer
		r.cloud.mu.Unlock()
		s.mu.Lock()
		s.stuck = false
		s.mu.Unlock()
		r.runFor(16 * time.Minute)
		r.ended()
		r.stop()
	})
}

func TestWithin(t *testing.T) {
	at := func(hour, minute int) int64 { return time.Date(2026, 6, 1, hour, minute, 30, 0, time.UTC).UnixMilli() }
	for _, c := range []struct {
		from, to int
		wall     int64
		want     bool
	}{
		{60, 240, at(1, 0), true},
		{60, 240, at(3, 59), true},
		{60, 240, at(4, 0), false},
		{60, 240, at(0, 59), false},
		{1320, 270, at(22, 0), true},
		{1320, 270, at(0, 0), true},
		{1320, 270, at(4, 29), true},
		{1320, 270, at(4, 30), false},
		{1320, 270, at(21, 59), false},
		{0, 1439, 0, false},
	} {
		if got := within(c.from, c.to, c.wall); got != c.want {
			t.Errorf("%d to %d at %d: %v", c.from, c.to, c.wall, got)
		}
	}
}

func TestUpdateWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // it begins at midnight, 2000-01-01
		r, _, offer := updating(t, func(s *Settings) { s.UpdateWindow = "02:00-03:00" })
		r.cloud.firmware = offer
		r.start()
		r.runFor(115 * time.Minute)
		if diff := cmp.Diff([]string{"offered", "offered outside_window"}, r.cloud.phases()); diff != "" {
			t.Error(diff)
		}
		r.cloud.setConfig(1, map[string]any{"update_window": "sun_down"})
		r.runFor(30 * time.Minute)
		if !slices.Equal(r.cloud.phases(), []string{"offered", "offered outside_window"}) {
			t.Errorf("while the sun shines: %q", r.cloud.phases())
		}
		r.plant.setSilent(true)
		r.runFor(30 * time.Minute)
		r.ended()
		r.stop()
	})
}

// A loop that hangs ends the heartbeats.
func TestPulse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		p := &pulse{now: func() time.Duration { return time.Since(begin) }}
		l, b, log := p.loop("talk"), &beats{}, &lockedBuffer{}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.run(ctx, b, newLogger(log, slog.LevelInfo, &reports{}, p.now)) }()
		time.Sleep(9 * time.Minute)
		l.waits(time.Hour)
		time.Sleep(65 * time.Minute)
		if n := b.count(); n < 74*6 {
			t.Errorf("%d heartbeats in 74 minutes", n)
		}
		time.Sleep(5*time.Minute + time.Second) // the last one is of the moment at which the loop should have come
		n := b.count()
		time.Sleep(10 * time.Minute)
		if b.count() != n || strings.Count(log.String(), "agent_hangs") != 1 {
			t.Errorf("%d heartbeats while a loop hangs\n%s", b.count()-n, log)
		}
		l.waits(0)
		time.Sleep(time.Minute)
		if b.count() == n {
			t.Error("no heartbeats after it goes on")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// An agent of the launcher waits for the one before it, whose launcher was killed;
// one that a person starts says at once that the folder is in use.
func TestLaunchedAgentWaitsForTheFolder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		for _, c := range []struct {
			launch      Launch
			held, until time.Duration // how long the folder is in use, and when the agent gives an answer
			want        error
		}{
			{Launch{}, 10 * time.Second, 0, disk.ErrLocked},
			{Launch{Beats: &beats{}}, 10 * time.Second, 10 * time.Second, identity.ErrNotEnrolled},
			{Launch{Beats: &beats{}}, time.Hour, lockTime, disk.ErrLocked},
		} {
			lock, err := disk.Lock(dir)
			if err != nil {
				t.Fatal(err)
			}
			begin, free := time.Now(), time.AfterFunc(c.held, func() { lock.Close() })
			if err := Run(t.Context(), Options{Dir: dir, Log: io.Discard, Launch: c.launch}); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if after := time.Since(begin); after < c.until || after > c.until+time.Second {
				t.Errorf("after %s, want %s", after, c.until)
			}
			if free.Stop() {
				lock.Close()
			}
			time.Sleep(c.held)
		}
	})
}

// How the run before ended, and that the gateway began anew, reaches the cloud.
func TestEndsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.start()
		r.runFor(16 * time.Minute)
		r.stop()
		e := boot.Ended{Ending: boot.Ending{Reason: boot.Killed, Words: strings.Repeat("x", 200) + "out of memory"}, Slot: boot.A, Detail: "signal: killed", Seconds: 5}
		if err := e.Write(r.disk); err != nil {
			t.Fatal(err)
		}
		r.parts.boot = wire.BootID{0xb1}
		r.start()
		r.runFor(16 * time.Minute)
		r.restart()
		r.runFor(16 * time.Minute)
		if codes := r.cloud.codes(); codes["agent_ended"] != 1 || codes["gateway_restarted"] != 1 {
			t.Errorf("codes %v", codes)
		}
		r.cloud.mu.Lock()
		defer r.cloud.mu.Unlock()
		for _, entry := range r.cloud.logs {
			if words, _ := entry.Attributes["words"].(string); entry.Code == "agent_ended" &&
				(entry.Attributes["reason"] != "killed" || entry.Attributes["detail"] != "signal: killed" || !strings.HasSuffix(words, "out of memory")) {
				t.Errorf("%v", entry.Attributes)
			}
		}
		r.stop()
	})
}

// The client gets parts of files, or says what is wrong.
//
// Attacks: F12
func TestGetArtifact(t *testing.T) {
	file := bytes.Repeat([]byte("0123456789"), 1000)
	mux := http.NewServeMux()
	mux.HandleFunc("/good", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
	})
	mux.HandleFunc("/whole", func(w http.ResponseWriter, _ *http.Request) { w.Write(file) })
	mux.HandleFunc("/strange", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "pages 1-2")
		w.WriteHeader(http.StatusPartialContent)
	})
	mux.Handle("/moved", http.RedirectHandler("/good", http.StatusFound))
	server := httptest.NewServer(mux)
	defer server.Close()
	client, err := uplink.NewClient(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path    string
		from, n uint64
		at      uint64
		want    []byte
		err     string
	}{
		{"/good", 25, 10, 25, file[25:35], ""},
		{"/whole", 25, 10, 0, file, ""},
		{"/good", 10_000, 5, 0, nil, "416"},
		{"/strange", 0, 5, 0, nil, "pages"},
		{"/moved", 0, 5, 0, nil, "302"},
		{"/none", 0, 5, 0, nil, "404"},
	} {
		at, body, err := client.Get(t.Context(), c.path, c.from, c.n)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v", c.path, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		got, err := io.ReadAll(body)
		if closing := body.Close(); err != nil || closing != nil || at != c.at || !bytes.Equal(got, c.want) {
			t.Errorf("%s: %d bytes from %d on, %v", c.path, len(got), at, err)
		}
	}
}

// programs builds the launcher, the agent, and the agent with another version.
func programs(tb testing.TB) (launcher string, first, next []byte) {
	tb.Helper()
	dir := tb.TempDir()
	source, err := filepath.Abs("../ecowatt.go")
	if err != nil {
		tb.Fatal(err)
	}
	text, err := os.ReadFile(source)
	if err != nil {
		tb.Fatal(err)
	}
	changed := filepath.Join(dir, "ecowatt.go")
	overlay := filepath.Join(dir, "overlay.json")
	if err := errors.Join(
		os.WriteFile(changed, bytes.Replace(text, []byte(`const Version = "`), []byte(`const Version = "9.`), 1), 0o600),
		os.WriteFile(overlay, fmt.Appendf(nil, `{"Replace":{%q:%q}}`, source, changed), 0o600),
	); err != nil {
		tb.Fatal(err)
	}
	build := func(name, program string, flags ...string) string {
		out := filepath.Join(dir, name)
		args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out}, flags...)
		c := exec.CommandContext(tb.Context(), "go", append(args, "ecowatt/cmd/"+program)...)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := c.CombinedOutput(); err != nil {
			tb.Fatalf("building: %v\n%s", err, said)
		}
		return out
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		return b
	}
	launcher = build("boot", "ecowatt-boot")
	return launcher, read(build("first", "ecowatt-agent")), read(build("next", "ecowatt-agent", "-overlay="+overlay))
}

// launched is a gateway that a launcher runs, with the first program in slot a.
func launched(tb testing.TB, launcher string, first []byte) (*gateway, maker) {
	tb.Helper()
	g, m := newGateway(tb), newMaker(tb)
	name := filepath.Join(g.dir, "identity.json")
	text, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	root := fmt.Appendf(nil, `"firmware_root":%q`, base64.StdEncoding.EncodeToString(m.root))
	text = bytes.Replace(text, []byte(`"firmware_root": ""`), root, 1)
	settings, err := os.ReadFile(filepath.Join(g.dir, SettingsFile))
	if err := errors.Join(
		err, os.WriteFile(name, text, 0o600), os.WriteFile(filepath.Join(g.dir, SettingsFile), append(settings, "hardware: test\n"...), 0o600),
		os.MkdirAll(filepath.Join(g.dir, "slots", "a"), 0o700), os.WriteFile(filepath.Join(g.dir, boot.A.Program()), first, 0o700),
	); err != nil {
		tb.Fatal(err)
	}
	c := exec.CommandContext(context.Background(), launcher, "--dir", g.dir) // it is asked to stop
	c.Env = append(os.Environ(), "ECOWATT_TRIAL_STABLE=1s")
	log := &lockedBuffer{}
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := errors.Join(c.Process.Signal(syscall.SIGTERM), c.Wait()); err != nil {
			tb.Errorf("the launcher ended with %v", err)
		}
		if tb.Failed() {
			tb.Log(log.String())
		}
	})
	return g, m
}

// offer lets the cloud offer an image, and returns the size of the
// artifact that a device takes.
func (g *gateway) offer(tb testing.TB, m maker, number uint64, image, base []byte) (size int) {
	tb.Helper()
	offer, files := m.release(tb, number, image, base)
	v, err := firmware.ParseEnvelope(offer.Envelope)
	if err != nil {
		tb.Fatal(err)
	}
	manifest, err := firmware.ReadManifest(v)
	if err != nil {
		tb.Fatal(err)
	}
	for path, file := range files {
		g.files.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file))
		})
	}
	g.cloud.mu.Lock()
	defer g.cloud.mu.Unlock()
	g.cloud.firmware, g.cloud.updates = offer, nil
	return int(manifest.Payloads[0].Size)
}

// awaitPhase waits until the device tells a phase.
func (g *gateway) awaitPhase(tb testing.TB, phase string) {
	tb.Helper()
	g.await(tb, phase, func() bool { return slices.Contains(g.cloud.phases(), phase) })
}

// The launcher and real agents: one that is good, and one that crashes, twice.
func TestUpdateOfPrograms(t *testing.T) {
	launcher, first, next := programs(t)
	g, m := launched(t, launcher, first)
	g.await(t, "an exchange", func() bool {
		g.cloud.mu.Lock()
		defer g.cloud.mu.Unlock()
		return len(g.cloud.requests) > 0
	})
	g.offer(t, m, 7, next, first)
	g.awaitPhase(t, "confirmed")
	if diff := cmp.Diff([]string{"offered", "downloading", "downloaded", "verified", "switching", "trial", "confirmed"}, g.cloud.phases()); diff != "" {
		t.Error(diff)
	}
	is := func(release uint64, state wire.FirmwareState, version string) func() bool {
		return func() bool {
			g.cloud.mu.Lock()
			defer g.cloud.mu.Unlock()
			f := g.cloud.requests[len(g.cloud.requests)-1].Firmware
			return f.Release == release && f.State == state && f.Version == version
		}
	}
	g.await(t, "the new version", is(7, wire.FirmwareConfirmed, "9."+ecowatt.Version))

	g.offer(t, m, 8, []byte("#!/bin/sh\necho 'panic: no sun' >&2\nexit 3\n"), next)
	g.awaitPhase(t, "refused failed_twice")
	g.await(t, "the version before", is(7, wire.FirmwareRolledBack, "9."+ecowatt.Version))
	back := 0
	for _, p := range g.cloud.phases() {
		if p == "rolled_back exited" {
			back++
		}
	}
	if back != 2 {
		t.Errorf("phases %q", g.cloud.phases())
	}
	g.cloud.mu.Lock()
	defer g.cloud.mu.Unlock()
	for _, f := range g.cloud.updates {
		if f.Phase == "rolled_back" && !strings.Contains(f.Text, "no sun") {
			t.Errorf("the last words are %q", f.Text)
		}
	}
}
