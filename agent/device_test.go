package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/agent/command"
	"ecowatt/agent/identity"
	"ecowatt/internal/disk/disktest"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
	"ecowatt/key"
	"ecowatt/wire"
)

// plant is an inverter whose registers count up: no two samples are alike.
type plant struct {
	mu     sync.Mutex
	served []time.Time // when the samples 1, 2, 3, … were read
	silent bool
	noisy  bool // the points beside vac1 and pac do not pack
}

func (p *plant) Read(_ context.Context, _ byte, r inverter.Read) ([]uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent {
		return nil, modbus.ErrNoAnswer
	}
	p.served = append(p.served, time.Now())
	words := make([]uint16, r.Count)
	for i := range words {
		words[i] = uint16(i)
		if p.noisy && i > 0 {
			h := fnv.New32()
			fmt.Fprint(h, len(p.served), i)
			words[i] = uint16(h.Sum32() % 4096) // what every register may hold
		}
	}
	words[len(words)-1] = uint16(len(p.served)) // pac, of which every value is one
	return words, nil
}

func (p *plant) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.served)
}

func (p *plant) setSilent(silent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = silent
}

// rig is a gateway in virtual time: it is called inside a synctest bubble.
type rig struct {
	*device
	t     *testing.T
	disk  *disktest.Disk
	plant *plant
	cloud *cloud
	log   *lockedBuffer
	parts parts

	boot time.Time // when the gateway started: time since boot is 0
	done chan error
	kill func() // ends the agent and leaves the disk as it is
	stop func() // ends the agent as SIGTERM does
}

// lockedBuffer collects the log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func credential(tb testing.TB) identity.Credential {
	tb.Helper()
	k, err := key.NewDevice(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	id, err := key.NewID(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return identity.Credential{ID: id, Epoch: 1, Key: k}
}

func simSettings(t *testing.T) Settings {
	t.Helper()
	p, err := profile.Find("ecowatt-sim")
	if err != nil {
		t.Fatal(err)
	}
	return Settings{
		CloudURL:         "http://cloud",
		Inverters:        []InverterSettings{{Name: "inv1", Unit: 17, Profile: p, Points: []string{"vac1", "pac"}}},
		SamplingInterval: 5 * time.Second, UploadInterval: 15 * time.Minute, FlushInterval: 10 * time.Second,
		BufferLimit: 64 << 20, LogLevel: slog.LevelDebug, Hardware: "test", Compression: "best", NightMode: "slow", UpdateWindow: "always",
	}
}

// newRig makes a gateway with an empty disk. Its time since boot is an hour; the
// cloud's clock is the bubble's.
func newRig(t *testing.T, edit func(*Settings)) *rig {
	t.Helper()
	r := &rig{t: t, disk: disktest.New(), plant: &plant{}, log: &lockedBuffer{}, boot: time.Now().Add(-time.Hour)}
	s := simSettings(t)
	if edit != nil {
		edit(&s)
	}
	e := identity.Enrolment{Device: "roof-1", CloudURL: s.CloudURL, Credential: credential(t)}
	if err := (identity.Folder{FS: r.disk}).Enroll(e); err != nil {
		t.Fatal(err)
	}
	r.cloud = newCloud(t, e.Credential, time.Now)
	r.parts = parts{
		settings: s, boot: wire.BootID{0xb0}, now: func() time.Duration { return time.Since(r.boot) },
		transport: r.cloud, inverters: func(InverterSettings) command.Line { return r.plant },
		firmware: wire.Firmware{State: wire.FirmwareConfirmed, Version: "0.0.0"}, random: rand.Reader, log: r.log,
	}
	return r
}

// start starts the agent on what is on the disk.
func (r *rig) start() {
	r.t.Helper()
	id, err := identity.Folder{FS: r.disk, Storage: r.parts.storage}.Load()
	if err != nil {
		r.t.Fatal(err)
	}
	r.parts.folder, r.parts.identity = r.disk, id
	d, err := newDevice(r.parts)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- together(ctx, d.loops()...) }()
	r.device, r.done = d, done
	r.kill = func() {
		r.t.Helper()
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("the agent ended with %v", err)
		}
	}
	r.stop = func() {
		r.t.Helper()
		r.kill()
		if err := d.close(); err != nil {
			r.t.Errorf("closing: %v", err)
		}
	}
}

// restart stops the agent as SIGTERM does and starts it again.
func (r *rig) restart() {
	r.t.Helper()
	r.stop()
	r.start()
}

// runFor lets time pass.
func (r *rig) runFor(d time.Duration) {
	time.Sleep(d) // virtual
	synctest.Wait()
}

// check compares what the cloud has stored with what the plant has served: all
// of it, once, in order, at the right times. Those samples may be missing whose
// numbers are excused.
func (r *rig) check(excused ...int) {
	r.t.Helper()
	r.plant.mu.Lock()
	defer r.plant.mu.Unlock()
	var want, got []int
	for i := range r.plant.served {
		if !slices.Contains(excused, 1+i) {
			want = append(want, 1+i)
		}
	}
	for _, s := range r.cloud.samples("inv1", r.parts.boot, r.boot.UnixMilli()) {
		n := int(s.Values[1].Raw)
		got = append(got, n)
		if s.Values[0] != ecowatt.Known(0) || n < 1 || n > len(r.plant.served) {
			r.t.Fatalf("a sample that was never served: %v", s)
		}
		if off := time.UnixMilli(s.At).Sub(r.plant.served[n-1]); off.Abs() > 2*time.Millisecond {
			r.t.Fatalf("sample %d is %v off", n, off)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("samples (-served +stored):\n%.2000s", diff)
	}
	if len(got) == 0 {
		r.t.Error("nothing is stored")
	}
}

func TestSamplesArriveOnceAndInOrder(t *testing.T) {
	for _, c := range []struct {
		name   string
		meddle func(n int, q wire.Request, results []wire.Result) fate
	}{
		{"all is well", nil},
		{"answers are lost", func(n int, _ wire.Request, _ []wire.Result) fate {
			return []fate{arrives, forgotten, forgotten}[n%3]
		}},
		{"requests are lost", func(n int, _ wire.Request, _ []wire.Result) fate {
			return []fate{lost, arrives}[n%2]
		}},
		{"later", func(n int, _ wire.Request, results []wire.Result) fate {
			for i := range results {
				if n%2 == 0 || i > len(results)/2 {
					results[i].Status = wire.Later
				}
			}
			return arrives
		}},
		{"an unknown status", func(n int, _ wire.Request, results []wire.Result) fate {
			for i := range results {
				if n%2 == 0 {
					results[i].Status = 77
				}
			}
			return arrives
		}},
		{"no results", func(n int, _ wire.Request, results []wire.Result) fate {
			for i := range results {
				if n%2 == 0 {
					results[i] = wire.Result{ID: wire.MessageID{9}}
				}
			}
			return arrives
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				r.cloud.meddle = c.meddle
				r.start()
				for range 4 {
					r.runFor(time.Hour)
					r.restart()
				}
				r.runFor(time.Hour)
				r.plant.setSilent(true)
				r.runFor(3 * time.Hour)
				r.check()
				if s := r.status(); s.Buffer.Samples != 0 || c.meddle == nil && s.Buffer.Messages != 0 {
					t.Errorf("something waits: %+v", s.Buffer)
				}
				r.stop()
			})
		})
	}
}

// TestBacklog: the cloud is away for a day, with restarts; then everything comes
// in one slot, in as many requests as it takes, each within the limit.
func TestBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(s *Settings) {
			s.SamplingInterval = 3 * time.Second
			s.Inverters[0].Points = []string{"vac1", "pac", "iac1", "fac1", "vpv1", "vpv2", "ipv1", "ipv2"}
		})
		r.plant.noisy = true
		r.cloud.setAway(true)
		r.cloud.maxRequest = 16 << 10
		r.start()
		for range 24 {
			r.runFor(time.Hour)
			r.restart()
		}
		if s := r.status(); s.Buffer.Bytes < 150_000 || s.Clock.Known {
			t.Errorf("status %+v", s)
		}
		r.cloud.setAway(false)
		r.runFor(23 * time.Minute) // the first slot and the longest back-off
		r.plant.setSilent(true)
		r.runFor(16 * time.Minute)
		r.check()
		if n := len(r.cloud.requests); n < 10 {
			t.Errorf("all came in %d requests", n)
		}
		r.stop()
	})
}

// TestThinned: the cloud is away for so long that the buffer is full. Every sample
// counts in a window then, and the log says so.
func TestThinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(s *Settings) {
			s.SamplingInterval, s.BufferLimit = 10*time.Second, 256<<10
			s.Inverters[0].Points = []string{"vac1", "pac", "iac1", "fac1", "vpv1", "vpv2", "ipv1", "ipv2"}
		})
		r.plant.noisy = true
		r.start()
		r.runFor(time.Hour)
		r.cloud.setAway(true)
		for range 4 {
			r.runFor(24 * time.Hour)
			r.restart()
		}
		if s := r.status().Buffer; s.Bytes > 256<<10 || s.Dropped > 0 {
			t.Errorf("status %+v", s)
		}
		r.cloud.setAway(false)
		r.runFor(time.Hour)
		r.plant.setSilent(true)
		r.runFor(time.Hour)
		counted, windows := 0, map[int64]int{}
		for _, b := range r.cloud.blocks {
			samples := r.cloud.unpack(b)
			if windows[b.Window] += len(samples); b.Window == 0 {
				counted += len(samples)
				continue
			}
			for _, s := range samples {
				if s.At%b.Window != 0 || b.Boot != nil {
					t.Fatalf("a window of %d ms at %d", b.Window, s.At)
				}
				counted += int(s.Values[ecowatt.Count].Raw)
			}
		}
		if counted != r.plant.count() {
			t.Errorf("%d samples count of %d", counted, r.plant.count())
		}
		if windows[0] == 0 || windows[900_000] == 0 { // the noise leaves no room for windows of a minute
			t.Errorf("windows by their length: %v", windows)
		}
		if n := r.cloud.codes()[`buffer_thinned`]; n == 0 || r.cloud.codes()["buffer_full"] > 0 {
			t.Errorf("the log tells %d times that samples were thinned out", n)
		}
		r.stop()
	})
}

// TestNoClock: samples of a boot that ended before the time was known carry times
// since that boot; those of the boot in which it becomes known are placed.
func TestNoClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(s *Settings) { s.SamplingInterval = time.Second })
		r.cloud.setAway(true)
		r.start()
		r.runFor(3 * time.Hour)
		r.stop()
		before := r.parts.boot
		r.parts.boot = wire.BootID{0xb1} // whose clock goes on from there
		r.start()
		r.runFor(4 * time.Hour)
		if s := r.status(); s.Clock.Known || s.Buffer.Samples < 20_000 {
			t.Errorf("status %+v", s)
		}
		r.cloud.setAway(false)
		r.runFor(3 * time.Hour)
		r.plant.setSilent(true)
		r.runFor(time.Hour)
		r.parts.boot = before // of which the cloud learned where it lies
		r.check()
		timed := 0
		for _, b := range r.cloud.blocks {
			if b.Boot != nil {
				timed++
			}
		}
		if timed < 10 || timed > len(r.cloud.blocks)-20 {
			t.Errorf("%d of %d blocks are timed since boot", timed, len(r.cloud.blocks))
		}
		if !r.status().Clock.Known {
			t.Error("the clock is not known")
		}
		r.stop()
	})
}

// TestClockSurvivesRestarts: within a boot a restarted agent knows the time, and
// after a reboot when the samples of the boot before were.
func TestClockSurvivesRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.start()
		r.runFor(time.Hour)
		r.cloud.setAway(true)
		r.restart()
		if !r.status().Clock.Known {
			t.Error("a restart forgets the time")
		}
		r.runFor(time.Hour)
		r.stop()

		r.parts.boot = wire.BootID{0xb1}
		r.boot = time.Now().Add(-10 * time.Second)
		r.start()
		if r.status().Clock.Known {
			t.Error("the clock of another boot is taken for this one's")
		}
		r.runFor(time.Hour)
		r.cloud.setAway(false)
		r.runFor(time.Hour)
		r.plant.setSilent(true)
		r.runFor(time.Hour)
		r.check()
		r.stop()
	})
}

// TestStepsOfTheTime: when the time turns out to be another one, by much and in
// either direction, no sample is lost, doubled, or put before an earlier one.
func TestStepsOfTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		var skew atomic.Int64
		r.cloud.time = func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
		r.start()
		for _, by := range []time.Duration{0, 40 * time.Minute, -70 * time.Minute, 5 * time.Hour, 0} {
			skew.Store(int64(by))
			r.runFor(3 * time.Hour)
		}
		r.plant.setSilent(true)
		r.runFor(time.Hour)
		if r.cloud.codes()["CLK_STEP"] == 0 {
			t.Error("the clock was never stepped")
		}
		next := 1
		for _, s := range r.cloud.samples("inv1", r.parts.boot, 0) { // in each block, times do not go back
			if n := int(s.Values[1].Raw); n != next {
				t.Fatalf("sample %d follows %d", n, next-1)
			}
			next++
		}
		if served := r.plant.count(); next != served+1 {
			t.Errorf("%d samples are stored of %d", next-1, served)
		}
		r.stop()
	})
}

// TestClockIsWrittenSeldom counts the writes of clock.json in a day.
func TestClockIsWrittenSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(s *Settings) {
			s.SamplingInterval, s.UploadInterval, s.FlushInterval = time.Hour, time.Minute, 0
		})
		r.plant.setSilent(true)
		skew := time.Duration(0)
		r.cloud.time = func() time.Time { skew += time.Millisecond; return time.Now().Add(skew) }
		r.start()
		r.runFor(10 * time.Minute)
		before := r.disk.Ops()
		r.runFor(50 * time.Minute)
		if ops := r.disk.Ops() - before; ops > 0 {
			t.Errorf("%d writes in an hour in which nothing happens", ops)
		}
		r.stop()
	})
}

func TestPowerCutLosesAtMostTheFlushInterval(t *testing.T) {
	lost := 0
	for range 5 { // once an attempt to reach the cloud may have synced everything just now
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, func(s *Settings) { s.SamplingInterval = time.Second })
			r.cloud.setAway(true)
			r.start()
			r.runFor(10*time.Minute + 3*time.Second)
			served := r.plant.count()
			r.disk = r.disk.Restart(disktest.Lost) // the agent that runs has no power from here on
			r.kill()
			r.start()
			left := r.status().Buffer.Samples
			if left < served-10 {
				t.Errorf("%d of %d samples are left; at most those of 10 s may be lost", left, served)
			}
			lost += served - left
			r.stop()
		})
	}
	if lost == 0 {
		t.Error("nothing was lost in five power cuts: was there one?")
	}
}

// TestInvalid: what the cloud will never store leaves the queue, and the log says so.
func TestInvalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		var refused []int
		r.cloud.meddle = func(_ int, q wire.Request, results []wire.Result) fate {
			for i, m := range q.Messages {
				if m.Kind != wire.KindTelemetry || len(refused) > 0 {
					continue
				}
				results[i].Status, results[i].Text = wire.Invalid, "no"
				b, err := wire.DecodeTelemetry(m.Body)
				if err != nil {
					t.Error(err)
				}
				for _, s := range r.cloud.unpack(b) {
					refused = append(refused, int(s.Values[1].Raw))
				}
			}
			return arrives
		}
		r.start()
		r.runFor(2 * time.Hour)
		r.plant.setSilent(true)
		r.runFor(time.Hour)
		r.check(refused...)
		if n := r.cloud.codes()["message_invalid"]; n != 1 || len(refused) == 0 {
			t.Errorf("the cloud's log tells %d times of %d samples", n, len(refused))
		}
		r.stop()
	})
}

// TestInvalidLog: a log that the cloud does not take is no reason to write one.
func TestInvalidLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.cloud.meddle = func(_ int, q wire.Request, results []wire.Result) fate {
			for i, m := range q.Messages {
				if m.Kind == wire.KindLog {
					results[i].Status = wire.Invalid
				}
			}
			return arrives
		}
		r.start()
		r.runFor(5 * time.Hour)
		if n := strings.Count(r.log.String(), "will not store"); n != 1 {
			t.Errorf("told %d times:\n%s", n, r.log.String())
		}
		r.stop()
	})
}

func TestTogether(t *testing.T) {
	untilEnd := func(ctx context.Context) error { <-ctx.Done(); return nil }
	failed := errors.New("failed")
	if err := together(t.Context(), untilEnd, func(context.Context) error { return failed }, untilEnd); !errors.Is(err, failed) {
		t.Errorf("%v, want the error that ended all", err)
	}
}

// TestReports: what happens to the device is in the cloud's log, with the time
// at which it happened, even if that was not known then.
func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(s *Settings) { s.LogLevel = slog.LevelError })
		r.cloud.setAway(true)
		r.plant.setSilent(true)
		r.start()
		r.runFor(time.Hour)
		r.plant.setSilent(false)
		back := time.Now()
		r.runFor(time.Hour)
		r.cloud.setAway(false)
		r.runFor(time.Hour)
		want := map[string]int{"inverter_away": 1, "inverter_back": 1, "cloud_away": 1, "cloud_back": 1}
		if diff := cmp.Diff(want, r.cloud.codes()); diff != "" {
			t.Errorf("codes (-want +got):\n%s", diff)
		}
		for _, e := range r.cloud.logs {
			if e.At == 0 {
				t.Errorf("no time: %+v", e)
			}
			switch e.Code {
			case "inverter_back":
				if off := time.UnixMilli(e.At).Sub(back); off < 0 || off > time.Minute {
					t.Errorf("%+v is %v off", e, off)
				}
				if e.Level != wire.LevelInfo || e.Attributes["inverter"] != "inv1" || e.Attributes["failures"] == int64(0) {
					t.Errorf("%+v", e)
				}
			case "cloud_away":
				if e.Level != wire.LevelWarn || !strings.Contains(fmt.Sprint(e.Attributes["error"]), "lost on the way") {
					t.Errorf("%+v", e)
				}
			}
		}
		if text := r.log.String(); text != "" {
			t.Errorf("below its level there is in the log:\n%s", text)
		}
		r.stop()
	})
}

func TestInventoryAndFirmware(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(s *Settings) { s.AllowControl = true })
		r.start()
		r.runFor(time.Hour)
		r.restart()
		r.runFor(time.Hour)
		var points []ecowatt.Point // all that there is to read
		for _, register := range r.parts.settings.Inverters[0].Profile.Registers {
			points = append(points, register.Point)
		}
		want := wire.Inventory{AgentVersion: ecowatt.Version, Hardware: "test", ControlAllowed: true, Inverters: map[string]wire.Inverter{
			"inv1": {Profile: "ecowatt-sim", ProfileVersion: ecowatt.Version, Points: points},
		}}
		if diff := cmp.Diff([]wire.Inventory{want, want}, r.cloud.stock); diff != "" {
			t.Errorf("one inventory for each start (-want +got):\n%s", diff)
		}
		for _, q := range r.cloud.requests {
			if q.Firmware == nil || *q.Firmware != r.parts.firmware || q.Epochs == nil || q.Epochs.Active != 1 {
				t.Errorf("request %+v", q)
			}
		}
		r.stop()
	})
}

// TestDiskFull: sampling and talking go on, it is logged once, and when there is
// room again the samples are kept again.
func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.cloud.setAway(true)
		r.start()
		r.runFor(10 * time.Minute)
		r.disk.SetCapacity(1)
		first := r.plant.count() + 1
		r.runFor(time.Hour)
		if s := r.status(); !s.Buffer.Failing || s.Inverters[0].State != "answering" || s.Inverters[0].SampleAge > 5 {
			t.Errorf("status %+v", s)
		}
		var excused []int
		for n := first; n <= r.plant.count(); n++ {
			excused = append(excused, n)
		}
		r.disk.SetCapacity(0)
		r.runFor(10 * time.Minute)
		r.cloud.setAway(false)
		r.runFor(time.Hour)
		r.plant.setSilent(true)
		r.runFor(time.Hour)
		r.check(excused...)
		codes := r.cloud.codes()
		if codes["buffer_failing"] != 1 || codes["buffer_working"] != 1 {
			t.Errorf("codes %v", codes)
		}
		r.stop()
	})
}

// TestStopIsQuick: SIGTERM is not waited for, whatever the agent is doing.
func TestStopIsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.cloud.setAway(true)
		r.start()
		r.runFor(20 * time.Minute)
		begin := time.Now()
		r.stop()
		if took := time.Since(begin); took > time.Second {
			t.Errorf("stopping took %v", took)
		}
	})
}
