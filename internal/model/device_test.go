package model

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"ecowatt"
	"ecowatt/agent/buffer"
	"ecowatt/agent/identity"
	"ecowatt/agent/uplink"
	"ecowatt/internal/disk/disktest"
	"ecowatt/wire"
)

// device is the gateway: its parts are the agent's, on a disk that loses power.
type device struct {
	w        *world
	name     ecowatt.DeviceID
	disk     *disktest.Disk
	interval time.Duration

	boot   wire.BootID
	booted time.Time
	folder identity.Folder
	keys   identity.Keys
	buffer *buffer.Buffer
	uplink *uplink.Uplink
}

func (d *device) now() time.Duration { return time.Since(d.booted) }

// reboot is a start of the gateway, under a new boot id.
func (d *device) reboot() {
	_, err := io.ReadFull(d.w.random, d.boot[:])
	d.w.must(err)
	d.booted = time.Now()
	d.start(uplink.Clock{})
}

// start is a start of the agent.
func (d *device) start(clock uplink.Clock) {
	w := d.w
	d.folder = identity.Folder{FS: d.disk}
	w.must(d.folder.Mend())
	id, err := d.folder.Load()
	w.must(err)
	d.keys = id.Keys
	first, other := d.keys.First()
	d.uplink, err = uplink.New(uplink.Options{
		Transport: w.line, Credential: uplink.Credential(first), Fallback: (*uplink.Credential)(other),
		Boot: d.boot, Now: d.now, Clock: clock, Interval: d.interval, Random: w.random, Logger: slog.New(slog.DiscardHandler),
	})
	w.must(err)
	d.buffer, err = buffer.Open(buffer.Options{FS: d.disk})
	w.must(err)
}

// restart kills the agent and starts it again within the same boot.
func (d *device) restart() {
	d.disk = d.disk.Restart(disktest.Kept)
	clock := uplink.Clock{}
	if state, known := d.uplink.Clock().State(d.boot); known {
		clock = uplink.RestoreClock(state, d.boot, d.now())
	}
	d.start(clock)
}

// lose cuts power at once.
func (d *device) lose() {
	fate := choose(d.w, "fate of the disk", []disktest.Fate{disktest.Lost, disktest.Kept, disktest.Torn, disktest.Holed})
	d.w.Logf("power is lost, what was not synced is %v", fate)
	d.disk = d.disk.Restart(fate)
	d.reboot()
}

// loseSoon cuts power within one of the next operations of the disk.
func (d *device) loseSoon() {
	op := 1 + d.w.pick("operations until then", 12)
	when := choose(d.w, "when", []disktest.When{disktest.Before, disktest.Inside, disktest.After})
	d.disk.CutAt(d.disk.Ops()+op, when)
}

// recover starts the device again where its power was cut, and reports whether
// it was.
func (d *device) recover() bool {
	if _, err := d.disk.Stat("."); !errors.Is(err, disktest.ErrPowerCut) {
		return false
	}
	d.lose()
	return true
}

// replace puts another device in the place of this one, with the same enrolment
// file. What was not sent is lost.
func (d *device) replace() {
	d.disk = disktest.New()
	d.w.must(identity.Folder{FS: d.disk}.Enroll(d.w.enrolment))
	d.w.held = identity.Keys{}
	for _, m := range d.w.messages {
		m.promised = m.promised && m.settled
	}
	d.reboot()
	d.w.admit()
}

// attempt waits until an exchange is due and makes it.
func (d *device) attempt() error {
	time.Sleep(d.uplink.Next() - d.now())
	return d.exchange()
}

// exchange makes an exchange, as the agent does it.
func (d *device) exchange() error {
	var sent []buffer.Message
	answer, err := d.uplink.Exchange(context.Background(), func(room int) (wire.Request, error) {
		q := wire.Request{Epochs: &wire.Epochs{Active: d.keys.Active.Epoch}}
		if d.keys.Staged != nil {
			q.Epochs.Staged = d.keys.Staged.Epoch
		}
		if d.uplink.Status().Recovery {
			return q, nil
		}
		sent = d.buffer.Next(func(m buffer.Message) int { return wireMessage(m).EncodedSize() }, room, wire.MaxMessages)
		for _, m := range sent {
			q.Messages = append(q.Messages, wireMessage(m))
		}
		return q, nil
	})
	if err != nil {
		return err
	}
	d.w.opened()
	if err := d.settle(sent, answer.Results); err != nil {
		return err
	}
	return d.rotate(answer.KeyOffer)
}

func wireMessage(m buffer.Message) wire.Message {
	return wire.Message{ID: m.ID, Kind: wire.Kind(m.Kind), Body: m.Body}
}

// settle lets go what the cloud has taken.
func (d *device) settle(sent []buffer.Message, results []wire.Result) error {
	var ids [][16]byte
	for _, r := range results {
		if r.Status != wire.Stored && r.Status != wire.Duplicate {
			d.w.Fatalf("the cloud does not take message %v: %v, %s", r.ID, r.Status, r.Text)
		}
		ids = append(ids, r.ID)
	}
	if len(ids) != len(sent) {
		d.w.Fatalf("the answer tells of %d messages, and %d were sent", len(ids), len(sent))
	}
	d.w.settled(ids)
	if len(ids) == 0 {
		return nil
	}
	return d.buffer.Settle(ids)
}

// rotate does what an answer wants of the keys.
func (d *device) rotate(offer *wire.KeyOffer) error {
	now := int64(0)
	if wall := d.uplink.Clock().Wall(d.now()); wall != nil {
		now = wall.At
	}
	if !d.uplink.Status().Fallback {
		before := d.keys.Active.Epoch
		var err error
		if d.keys.Staged != nil {
			d.keys, err = d.folder.Commit(d.keys, now)
		} else {
			d.keys, err = d.folder.Tidy(d.keys, now)
		}
		if _, other := d.keys.First(); other == nil {
			d.uplink.DropFallback()
		}
		if d.keys.Active.Epoch != before {
			d.w.Logf("the device commits epoch %d", d.keys.Active.Epoch)
		}
		if err != nil {
			return err
		}
	}
	if offer == nil {
		return nil
	}
	was, _ := d.keys.First()
	next, err := d.folder.Stage(d.keys, identity.Credential{ID: offer.ID, Epoch: offer.Epoch, Key: offer.Key}, offer.Burn)
	if errors.Is(err, identity.ErrOffer) {
		d.w.Fatalf("the device does not take a key: %v", err)
	}
	if err != nil {
		return err
	}
	d.keys = next
	if first, other := d.keys.First(); !first.Equal(was) {
		d.w.Logf("the device stages epoch %d, burn %v", offer.Epoch, offer.Burn)
		d.uplink.Rekey(uplink.Credential(first), (*uplink.Credential)(other))
	}
	return nil
}

// say keeps a message, of one kind or another, to be sent.
func (d *device) say() {
	n := len(d.w.messages) + 1
	m := buffer.Message{}
	_, err := io.ReadFull(d.w.random, m.ID[:])
	d.w.must(err)
	if n%2 == 0 {
		m.Kind = uint64(wire.KindLog)
		m.Body, err = wire.EncodeLog([]wire.LogEntry{{Level: wire.LevelInfo, Text: effectOf(n)}})
	} else {
		at, boot := trueTime().UnixMilli(), (*wire.BootID)(nil)
		if n%4 == 1 {
			at, boot = d.now().Milliseconds(), &d.boot
		}
		m.Kind = uint64(wire.KindTelemetry)
		m.Body, err = telemetry(effectOf(n), at, boot)
	}
	d.w.must(err)
	err = d.buffer.Put(m)
	d.w.messages = append(d.w.messages, &said{id: m.ID, promised: err == nil})
}

// telemetry is a block of one sample, of an inverter of that name.
func telemetry(inverter string, at int64, boot *wire.BootID) ([]byte, error) {
	block, err := wire.PlainBlock(ecowatt.Block{
		Inverter: inverter, Points: []string{"pac"}, Samples: []ecowatt.Sample{{At: at, Values: []ecowatt.Value{ecowatt.Known(1)}}},
	}, boot)
	if err != nil {
		return nil, err
	}
	return wire.EncodeTelemetry(block)
}

// effectOf is what the effect of the message number n is known by.
func effectOf(n int) string { return fmt.Sprintf("m%d", n) }
