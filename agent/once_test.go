package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/agent/buffer"
	"ecowatt/agent/command"
	"ecowatt/agent/identity"
	"ecowatt/agent/uplink"
	front "ecowatt/cloud/gateway"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/keyring"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/store"
	"ecowatt/internal/disk/disktest"
	"ecowatt/wire"
)

// realCloud is a store and a key ring, on a disk; devices have gateways of their
// own before it, each on the device's clock.
type realCloud struct {
	db       *store.Store
	ring     *keyring.Ring
	registry *registry.Registry
	devices  atomic.Int64
}

func newRealCloud(t *testing.T) *realCloud {
	t.Helper()
	dir := t.TempDir()
	ring, err := keyring.Create(filepath.Join(dir, "keyring.json"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), filepath.Join(dir, "cloud.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- db.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, db.Close()); err != nil {
			t.Error(err)
		}
	})
	return &realCloud{db: db, ring: ring, registry: registry.New(db, ring, rand.Reader)}
}

// life is one device, from its enrolment until the cloud has everything, with its
// power cut once on the way.
type life struct {
	*device
	t      *testing.T
	cloud  *realCloud
	name   ecowatt.DeviceID
	disk   *disktest.Disk
	server *httptest.Server
	front  atomic.Pointer[front.Gateway]
	random *mathrand.Rand
	parts  parts

	mono  time.Duration  // since boot
	wall  atomic.Int64   // ms since 1970
	line  bool           // whether it does harm
	taken int64          // samples; each has its number for a value
	sure  map[int64]bool // which of them were synced
	begun int64          // samples that were taken before the agent was started last
}

func newLife(t *testing.T, cloud *realCloud, seed uint64) *life {
	t.Helper()
	l := &life{
		t: t, cloud: cloud, disk: disktest.New(), random: mathrand.New(mathrand.NewPCG(seed, 0)), mono: time.Hour, line: true, sure: map[int64]bool{},
	}
	l.wall.Store(time.Date(2026, 6, 21, 12, 0, 0, 0, time.UTC).UnixMilli())
	l.restartCloud()
	l.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { l.front.Load().ServeHTTP(w, r) }))
	t.Cleanup(l.server.Close)
	_, file, err := cloud.registry.Add(t.Context(), registry.Request{
		ID: fmt.Sprint("roof-", cloud.devices.Add(1)), CloudURL: l.server.URL, By: "test",
	}, l.now())
	if err != nil {
		t.Fatal(err)
	}
	l.name = file.DeviceID
	e := identity.Enrolment{
		Device: file.DeviceID, CloudURL: file.CloudURL, Credential: identity.Credential{ID: file.PSKID, Epoch: file.Epoch, Key: file.Key},
	}
	if err := (identity.Folder{FS: l.disk}).Enroll(e); err != nil {
		t.Fatal(err)
	}
	client, err := uplink.NewClient(l.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	l.parts = parts{
		settings: simSettings(t), boot: wire.BootID{1}, now: func() time.Duration { return l.mono },
		transport: badLine{client, l}, inverters: func(InverterSettings) command.Line { return &plant{} },
		firmware: wire.Firmware{State: wire.FirmwareConfirmed, Version: "0.0.0"}, random: rand.Reader, log: &lockedBuffer{},
	}
	return l
}

func (l *life) now() time.Time { return time.UnixMilli(l.wall.Load()) }

// pass lets time pass on both sides.
func (l *life) pass(d time.Duration) {
	l.mono += d
	l.wall.Add(d.Milliseconds())
}

// restartCloud puts a gateway before the store that remembers nothing.
func (l *life) restartCloud() {
	g, err := front.New(front.Options{
		Store: front.Of(l.cloud.db), Keys: l.cloud.ring, Random: rand.Reader, Now: l.now, Slot: 15 * time.Minute, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.front.Store(g)
}

// badLine loses requests and answers, and delivers twice.
type badLine struct {
	uplink.Transport
	l *life
}

func (b badLine) Post(ctx context.Context, path string, msg []byte, limit int) (uplink.Reply, error) {
	what := 0
	if b.l.line {
		what = b.l.random.IntN(8)
	}
	if what == 1 {
		return uplink.Reply{}, errLost
	}
	reply, err := b.Transport.Post(ctx, path, msg, limit)
	switch what {
	case 2:
		return uplink.Reply{}, errLost
	case 3:
		return b.Transport.Post(ctx, path, msg, limit) // the copy is refused, or answered
	case 4:
		b.l.restartCloud()
	}
	return reply, err
}

// boot starts the agent on what is on the disk; false where power is cut.
func (l *life) boot() bool {
	l.t.Helper()
	id, err := identity.Folder{FS: l.disk}.Load()
	if err == nil {
		l.parts.folder, l.parts.identity, l.begun = l.disk, id, l.taken
		l.device, err = newDevice(l.parts)
	}
	if err != nil && !errors.Is(err, disktest.ErrPowerCut) {
		l.t.Fatalf("starting: %v", err)
	}
	return err == nil
}

// sample takes a sample, and flushes when that is due; false where power is cut.
func (l *life) sample() bool {
	l.pass(5 * time.Second)
	l.taken++
	reading := buffer.Reading{
		Inverter: "inv1", Points: []string{"vac1", "pac"}, Boot: l.parts.boot,
		Sample: ecowatt.Sample{At: l.mono.Milliseconds(), Values: []ecowatt.Value{{}, ecowatt.Known(l.taken)}},
	}
	l.queue.add(reading, l.mono)
	at, waiting := l.queue.b.FlushDue()
	if waiting && at <= l.mono && l.queue.b.Flush(l.mono) == nil {
		l.synced()
	}
	return !l.cut()
}

// synced notes that what was taken since the start lasts.
func (l *life) synced() {
	for n := l.begun + 1; n <= l.taken; n++ {
		l.sure[n] = true
	}
}

// cut reports whether power is cut.
func (l *life) cut() bool {
	_, err := l.disk.Stat("/")
	return errors.Is(err, disktest.ErrPowerCut)
}

// slot waits for the next slot and makes its exchanges.
func (l *life) slot() bool {
	l.pass(max(0, l.uplink.Next()-l.mono))
	l.device.slot(l.t.Context())
	if l.cut() {
		return false
	}
	if stats, _ := l.queue.stats(); stats.Samples == 0 { // all of them are in messages
		l.synced()
	}
	return true
}

// day is what the device does: false where power is cut.
func (l *life) day() bool {
	if !l.boot() {
		return false
	}
	for range 4 {
		for range 3 + l.random.IntN(4) {
			if !l.sample() {
				return false
			}
		}
		if !l.slot() {
			return false
		}
	}
	return true
}

// end drains the device, over a line that does no harm any more.
func (l *life) end() {
	l.line = false
	for range 12 {
		if !l.slot() {
			l.t.Fatal("power is cut twice")
		}
		if stats, _ := l.queue.stats(); stats.Samples+stats.Messages == 0 {
			return
		}
	}
	stats, _ := l.queue.stats()
	l.t.Fatalf("something stays with the device: %+v\n%s", stats, l.parts.log)
}

// check compares what was taken with what the cloud has.
func (l *life) check() {
	l.t.Helper()
	stored := map[int64]int{}
	for part, err := range l.cloud.db.Samples(l.t.Context(), ingest.Query{Device: l.name, From: time.UnixMilli(0), To: l.now().Add(24 * time.Hour)}) {
		if err != nil {
			l.t.Fatal(err)
		}
		for _, s := range part.Samples {
			stored[s.Values[1].Raw]++
		}
	}
	want := map[int64]int{}
	for n := range l.taken {
		if n++; l.sure[n] || stored[n] > 0 { // what was not synced may be lost, but not doubled
			want[n] = 1
		}
	}
	if diff := cmp.Diff(want, stored); diff != "" {
		l.t.Errorf("samples, by number (-taken +stored):\n%s", diff)
	}
}

// TestExactlyOnce: samples go from the agent's journal over HTTP through a gateway
// into the store, while requests and answers are lost and come twice, the cloud is
// started anew, and power is cut at every operation of the gateway's disk. The
// samples that are stored are those that were taken, once each, but for what was
// taken in the flush interval before the cut.
func TestExactlyOnce(t *testing.T) {
	t.Parallel()
	cloud := newRealCloud(t)
	const lives = 8 // of which the cuts go round
	var operations [lives]int
	most := 0
	for seed := range operations {
		l := newLife(t, cloud, uint64(seed))
		before := l.disk.Ops()
		if !l.day() {
			t.Fatal("power was cut by nobody")
		}
		operations[seed] = l.disk.Ops() - before
		most = max(most, operations[seed])
		l.synced() // the program goes on, and so does power
		l.end()
		l.check()
	}
	lost := atomic.Int64{}
	t.Run("cuts", func(t *testing.T) {
		for op := range most {
			seed := op % lives
			if op >= operations[seed] {
				continue
			}
			t.Run(fmt.Sprint(op+1), func(t *testing.T) {
				t.Parallel()
				l := newLife(t, cloud, uint64(seed))
				when := disktest.When(op / lives % 3)
				fate := fates[op%len(fates)]
				l.disk.CutAt(l.disk.Ops()+1+op, when)
				if l.day() { // an exchange went otherwise than in the life without a cut
					l.disk.CutAt(0, when) // never
					l.synced()
					l.end()
					l.check()
					return
				}
				if n := l.taken - int64(len(l.sure)); n > 3 {
					t.Errorf("%d samples, one every 5 s, were not synced; a flush interval has 10 s", n)
				}
				lost.Add(l.taken - int64(len(l.sure)))
				l.disk = l.disk.Restart(fate)
				// It was the gateway's power, and not the disk's alone. Before the time was
				// known, nobody could ever place what was taken in the boot before.
				if _, err := l.disk.Stat(ClockFile); err == nil && op%2 == 0 {
					l.parts.boot, l.mono = wire.BootID{2}, time.Minute
				}
				if !l.boot() {
					t.Fatal("power is cut twice")
				}
				for range 3 {
					l.sample()
				}
				l.synced()
				l.end()
				l.check()
			})
		}
	})
	if lost.Load() == 0 {
		t.Error("there was always a flush just before the cut")
	}
	t.Logf("power was cut at up to %d operations; %d samples in all were not synced", most, lost.Load())
}

var fates = []disktest.Fate{disktest.Lost, disktest.Kept, disktest.Torn, disktest.Holed}
