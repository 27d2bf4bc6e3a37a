package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"ecowatt"
	"ecowatt/agent/acquire"
	"ecowatt/agent/buffer"
	"ecowatt/agent/update"
	"ecowatt/boot"
	"ecowatt/parameter"
	"ecowatt/wire"
)

// Times of an image on trial.
const (
	trialSlot    = time.Minute      // the longest slot while an image is on trial: the cloud is to be reached soon
	provePeriods = 30               // how often the image is looked at, of the time for which it has to do well,
	mostProve    = 10 * time.Second // and at least so often
)

// errMakeWay says that the agent ended for the launcher to start the other slot.
var errMakeWay = errors.New("the agent makes way for another image")

// updates takes new images of the agent: run is a goroutine of its own, the only one
// that touches the updater. Others leave in it what the cloud says.
type updates struct {
	device *device
	base   wire.Firmware // the program that runs, as far as it knows itself

	updater *update.Updater // of run alone

	mail   chan struct{} // capacity 1: there is something in the inbox
	proven chan struct{} // capacity 1: the image on trial is confirmed

	taking   atomic.Pointer[taking] // never nil
	firmware atomic.Pointer[wire.Firmware]
	trial    atomic.Bool // the program that runs is on trial

	mu    sync.Mutex // guards what follows
	inbox *offering  // nil for nothing
	at    [sha256.Size]byte
	stop  context.CancelFunc // ends the work on the offer at; nil for none
}

// offering is what answers have said about updates since run looked.
type offering struct {
	offer *update.Offer // nil for none
	slot  bool          // one of them began a slot
}

// taking is what the configuration says about updates.
type taking struct {
	window string
	budget uint64 // bytes
}

// newUpdates reads how things stand. d has its uplink, its pollers and its queue.
func newUpdates(d *device) *updates {
	x := &updates{device: d, base: d.firmware, mail: make(chan struct{}, 1), proven: make(chan struct{}, 1)}
	x.taking.Store(&taking{window: d.settings.UpdateWindow, budget: uint64(d.settings.DownloadBudget)})
	x.updater = update.New(update.Options{
		FS: d.folder, Device: d.identity.Device, Hardware: d.settings.Hardware, Protocol: wire.Version, Root: d.identity.FirmwareRoot,
		Image: d.firmware.Image, Version: ecowatt.Version, Launched: d.launch.Beats != nil,
		Source: d.source, Free: d.free, Seconds: func() int64 { return d.wall() / 1000 }, Contact: x.contact, Open: x.open,
		Answering: x.answering, Tell: x.tell, Pause: sleep, Stable: d.launch.Stable, Logger: d.logger,
	})
	x.note()
	return x
}

// wall is the time in ms since 1970; 0 where it is not known.
func (d *device) wall() int64 {
	if wall := d.uplink.Clock().Wall(d.now()); wall != nil {
		return wall.At
	}
	return 0
}

// freeRoom returns what asks for the room on the disk around a folder, in bytes.
func freeRoom(dir string) func() (uint64, error) {
	return func() (uint64, error) {
		var s unix.Statfs_t
		if err := unix.Statfs(dir, &s); err != nil {
			return 0, fmt.Errorf("%s: %w", dir, err)
		}
		return s.Bavail * uint64(s.Bsize), nil
	}
}

// deliver leaves what an answer says about updates. It does not wait. Work on an
// offer that stands no longer ends.
func (x *updates) deliver(o *wire.FirmwareOffer, slot bool) {
	if o == nil && !slot {
		return
	}
	var offer *update.Offer
	if o != nil {
		offer = &update.Offer{
			Manifest: o.Manifest, Envelope: o.Envelope, Content: o.Content, Path: o.Path, Roots: o.RootUpdates, Downgrades: o.Downgrades,
		}
	}
	x.mu.Lock()
	x.inbox = &offering{offer: offer, slot: slot || x.inbox != nil && x.inbox.slot}
	if x.stop != nil && (offer == nil || offer.Manifest != x.at) {
		x.stop()
	}
	x.mu.Unlock()
	signal(x.mail)
}

// run takes updates until ctx ends, or with errMakeWay.
func (x *updates) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if x.work(ctx) {
			return errMakeWay
		}
		x.note()
		var look <-chan time.Time // never, unless the image is on trial
		if x.trial.Load() {
			look = time.After(min(x.device.launch.Stable/provePeriods, mostProve))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-x.mail: // which may come more often than look
		case <-look:
		}
		if x.trial.Load() && x.prove() == update.GivenUp {
			return errMakeWay
		}
	}
	return nil
}

// work does what the inbox allows. makeWay says that the agent has to end.
func (x *updates) work(ctx context.Context) (makeWay bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x.mu.Lock()
	in := x.inbox
	x.inbox = nil
	if in != nil && in.offer != nil {
		x.at, x.stop = in.offer.Manifest, cancel
	}
	x.mu.Unlock()
	if in == nil {
		return false
	}
	x.updater.Deliver(in.offer, in.slot, x.taking.Load().budget)
	makeWay = x.updater.Work(ctx)
	x.mu.Lock()
	x.stop = nil
	x.mu.Unlock()
	return makeWay
}

// note keeps what requests tell of the program that runs.
func (x *updates) note() {
	r, f := x.updater.Running(), x.base
	f.Release, f.State, f.MinSecurity = r.Release, wire.FirmwareState(r.State), uint32(r.MinSecurity)
	x.firmware.Store(&f)
	x.trial.Store(x.updater.OnTrial())
}

// prove looks at the image on trial.
func (x *updates) prove() update.Verdict {
	verdict := x.updater.Prove(x.device.now(), update.Health{Problem: x.problem(), Reached: x.device.uplink.Status().Exchanged})
	if verdict == update.Proven {
		x.note()
		signal(x.proven)
	}
	return verdict
}

// problem is what the self-test of an image on trial finds: that the settings can be
// read is proven by its running, so it is the buffer, and the inverters that the
// image before could read. One that has answered once may sleep then. Empty for
// nothing.
func (x *updates) problem() string {
	if _, failing := x.device.queue.stats(); failing {
		return "the buffer cannot be written"
	}
	for _, name := range x.updater.Expected() {
		for _, p := range x.device.pollers {
			if s := p.Status(); s.Name == name && s.Samples == 0 {
				return fmt.Sprintf("the inverter %s does not answer, it did before: %s", name, s.LastError)
			}
		}
	}
	return ""
}

// contact is how long ago the cloud has answered.
func (x *updates) contact() (age time.Duration, ok bool) {
	line := x.device.uplink.Status()
	return x.device.now() - line.Last, line.Exchanged
}

// answering lists the inverters that answer.
func (x *updates) answering() (names []string) {
	for _, p := range x.device.pollers {
		if s := p.Status(); s.State == acquire.Answering {
			names = append(names, s.Name)
		}
	}
	return names
}

// open reports whether it is the time for updates.
func (x *updates) open() bool {
	window := x.taking.Load().window
	if from, to, ok := parameter.ParseHours(window); ok {
		return within(from, to, x.device.wall())
	}
	if window != "sun_down" {
		return true
	}
	for _, p := range x.device.pollers {
		if p.Status().State != acquire.Away {
			return false
		}
	}
	return true
}

// within reports whether a time, in ms since 1970, is between two minutes of the day
// in UTC. A time that is not known is not.
func within(from, to int, wall int64) bool {
	const day = 24 * 60
	minute := int(wall / time.Minute.Milliseconds() % day)
	return wall != 0 && (minute-from+day)%day < (to-from+day)%day
}

// tell puts a report into the queue. What ends something goes up at once.
func (x *updates) tell(r update.Report) error {
	body, err := wire.EncodeFotaStatus(wire.FotaStatus{
		Manifest: r.Manifest, Phase: string(r.Phase), Done: r.Done, All: r.All, Code: string(r.Code), Text: r.Text,
	})
	if err != nil {
		return fmt.Errorf("encoding how far an update came: %w", err)
	}
	m, err := newMessage(wire.KindFotaStatus, body, x.device.random)
	if err != nil {
		return err
	}
	if err := x.device.queue.put([]buffer.Message{m}); err != nil {
		return err
	}
	switch r.Phase {
	case update.Refused, update.Confirmed, update.RolledBack, update.Failed:
		signal(x.device.control.news)
	case update.Offered, update.Downloading, update.Downloaded, update.Verified, update.Switching, update.OnTrial:
	}
	return nil
}

// tellEnds tells how the run before this one ended, where the launcher knows it, and
// that the gateway itself began anew.
func (d *device) tellEnds() {
	ended, found, err := boot.TakeEnded(d.folder)
	if err != nil {
		d.logger.Warn("how the agent before ended cannot be read", "error", err)
	}
	if found {
		d.logger.Warn("the agent before this one ended", "code", "agent_ended", "reason", string(ended.Reason),
			"detail", ended.Detail, "slot", string(ended.Slot), "seconds", ended.Seconds, "words", tailOf(ended.Words, maxAttrValue))
	}
	if before := d.clock.found.Boot; before != (wire.BootID{}) && before != d.boot {
		d.logger.Info("the gateway was started again", "code", "gateway_restarted")
	}
}

// tailOf is the end of a text, in at most so many bytes.
func tailOf(text string, most int) string { return text[max(0, len(text)-most):] }
