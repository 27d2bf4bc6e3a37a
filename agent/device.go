package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"ecowatt"
	"ecowatt/agent/acquire"
	"ecowatt/agent/buffer"
	"ecowatt/agent/command"
	"ecowatt/agent/config"
	"ecowatt/agent/identity"
	"ecowatt/agent/update"
	"ecowatt/agent/uplink"
	"ecowatt/internal/disk"
	"ecowatt/key"
	"ecowatt/parameter"
	"ecowatt/wire"
)

// parts is what a device is made of. All are required.
type parts struct {
	settings  Settings
	identity  identity.Identity
	folder    disk.FS              // the gateway's
	storage   key.Storage          // seals the keys in it; no key leaves them plain
	boot      wire.BootID          // names this boot of the gateway
	now       func() time.Duration // since that boot
	transport uplink.Transport
	inverters func(InverterSettings) command.Line
	firmware  wire.Firmware // what the program knows of itself
	source    update.Source
	free      func() (uint64, error) // bytes of the disk that are free
	launch    Launch
	random    io.Reader // a cryptographic source
	log       io.Writer
}

// device is a running agent, without its status socket.
type device struct {
	parts
	level   slog.LevelVar
	logger  *slog.Logger
	reports *reports
	queue   *queue
	clock   *clockKeeper
	keys    *keyKeeper
	uplink  *uplink.Uplink
	pollers []*acquire.Poller
	wanted  []chan polling // capacity 1; for each poller, what it is to go on with
	inForce atomic.Pointer[ConfigStatus]
	packing atomic.Pointer[Packing] // of the next pack; never nil
	control *control
	updates *updates
	pulse   *pulse

	// Only talk touches what follows.
	listening  listening
	config     *config.Keeper
	slotLength time.Duration
	ack        ackWaiting
	pending    []buffer.Message // to be put into the queue
	away       time.Duration    // since when the cloud does not answer; 0 while it does
}

// newDevice opens the buffer and makes what works on it. It starts nothing.
func newDevice(p parts) (*device, error) {
	d := &device{parts: p, reports: &reports{}, pulse: &pulse{now: p.now}}
	d.level.Set(p.settings.LogLevel)
	d.logger = newLogger(p.log, &d.level, d.reports, p.now)
	for _, torn := range p.identity.Torn {
		d.logger.Warn("a key file is passed over", "code", codeSlotTorn, "file", torn)
	}
	folder := identity.Folder{FS: p.folder, Storage: p.storage}
	if err := folder.Mend(); err != nil { // the next start does it
		d.logger.Error("the key files cannot be put in order", "code", codeNotMended, "error", err)
	}
	d.clock = openClock(p.folder, p.boot, d.logger)
	d.tellEnds()
	now := p.now()
	for _, in := range p.settings.Inverters {
		poller, err := d.newPoller(in)
		if err != nil {
			return nil, err
		}
		d.pollers = append(d.pollers, poller)
		d.wanted = append(d.wanted, make(chan polling, 1))
	}
	d.openConfig()
	d.slotLength = config.Seconds(d.config.Values()[parameter.UploadInterval])
	var err error
	newest, fallback := p.identity.First()
	d.uplink, err = uplink.New(uplink.Options{
		Transport: p.transport, Credential: uplink.Credential(newest), Fallback: (*uplink.Credential)(fallback),
		Boot: p.boot, Now: p.now, Clock: d.clock.restored(now),
		Interval: d.slotLength, Random: p.random, Logger: d.logger,
	})
	if err != nil {
		return nil, err
	}
	d.keys = &keyKeeper{folder: folder, keys: p.identity.Keys, uplink: d.uplink, logger: d.logger}
	inventory, err := d.inventory()
	if err != nil {
		return nil, err
	}
	d.pending = []buffer.Message{inventory}
	b, err := buffer.Open(buffer.Options{
		FS: p.folder, Limit: p.settings.BufferLimit, FlushInterval: p.settings.FlushInterval,
		MaxRun: maxRun, Logger: d.logger,
		Place: func(boot [16]byte, mono int64) int64 { return d.clock.placer(d.uplink.Clock())(boot, mono) },
	})
	if err != nil {
		return nil, err
	}
	d.queue = newQueue(b, d.logger)
	d.listening.most = p.settings.Hold
	if d.control, err = newControl(d); err != nil {
		return nil, err
	}
	d.updates = newUpdates(d)
	d.apply()
	d.tellConfig(d.config.Answer())
	return d, nil
}

// run does everything at once until ctx ends. The status socket is in dir.
func (d *device) run(ctx context.Context, dir string) error {
	d.logger.Info("agent started", "version", ecowatt.Version, "device", string(d.identity.Device), "cloud", d.settings.CloudURL, "inverters", len(d.pollers))
	tell := func(ctx context.Context) error { return serveStatus(ctx, dir, d.status, d.logger) }
	err := together(ctx, append(d.loops(), tell)...)
	d.logger.Info("agent stops")
	if errors.Is(err, errMakeWay) {
		return nil
	}
	return err
}

// loops returns what a device does until their context ends.
func (d *device) loops() []func(context.Context) error {
	loops := []func(context.Context) error{
		d.talk, d.control.run, d.updates.run,
		func(ctx context.Context) error { return d.queue.flushing(ctx, d.now) },
	}
	if d.launch.Beats != nil {
		loops = append(loops, func(ctx context.Context) error { return d.pulse.run(ctx, d.launch.Beats, d.logger) })
	}
	for i, p := range d.pollers {
		in := d.settings.Inverters[i]
		loops = append(loops, func(ctx context.Context) error { return d.poll(ctx, p, in, d.wanted[i]) })
	}
	return loops
}

// together runs all functions at once until they return; the first that returns
// an error ends the others.
func together(ctx context.Context, functions ...func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	errs := make([]error, len(functions))
	for i, f := range functions {
		running.Go(func() {
			if errs[i] = f(ctx); errs[i] != nil {
				cancel()
			}
		})
	}
	running.Wait()
	return errors.Join(errs...)
}

// close makes what was sampled last. Nothing of the device may run any more.
func (d *device) close() error { return errors.Join(d.control.close(), d.queue.close(d.now())) }
