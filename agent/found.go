package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"reflect"

	"ecowatt/agent/acquire"
	"ecowatt/agent/buffer"
	"ecowatt/internal/disk"
	"ecowatt/inverter"
	"ecowatt/inverter/profile"
	"ecowatt/inverter/sunspec"
)

// SunSpecProfile is the name that stands for the profile which an inverter tells
// by SunSpec, unless there is a file of that name.
const SunSpecProfile = "sunspec"

// maxFound bounds what is read of a file with what was found, in bytes.
const maxFound = 1 << 20

// finder finds out what an inverter is by SunSpec. What it found last is kept on
// the disk, so that after a start samples that wait mean what they meant, and
// points are as exact as they were.
type finder struct {
	folder disk.FS
	file   string
	unit   byte
	last   inverter.Profile // without registers before anything was found
	logger *slog.Logger
}

// newFinder returns the finder of in.
func newFinder(folder disk.FS, in InverterSettings, logger *slog.Logger) *finder {
	f := &finder{folder: folder, file: "found-" + in.Name + ".yaml", unit: in.Unit, last: in.Profile, logger: logger.With("inverter", in.Name)}
	data, err := disk.ReadFile(folder, f.file, maxFound)
	if err == nil {
		var last inverter.Profile
		if last, err = profile.Parse(SunSpecProfile+".yaml", data); err == nil {
			f.last = last
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it is found anew
		f.logger.Warn("what the inverter was found to be cannot be read", "file", f.file, "error", err)
	}
	return f
}

// find is an acquire.Find.
func (f *finder) find(ctx context.Context, read func(context.Context, inverter.Read) ([]uint16, error)) (inverter.Profile, error) {
	device, err := sunspec.Discover(ctx, func(ctx context.Context, address, count uint16) ([]uint16, error) {
		return read(ctx, inverter.Read{Table: inverter.Holding, Address: address, Count: count})
	})
	if err != nil {
		return inverter.Profile{}, err
	}
	found, err := device.Profile(SunSpecProfile, f.unit)
	if err != nil {
		return inverter.Profile{}, err
	}
	if found = sunspec.Steady(f.last, found); reflect.DeepEqual(found, f.last) {
		return found, nil
	}
	f.last = found
	if err := disk.WriteFile(f.folder, f.file, profile.Format(found), 0o600); err != nil { // it is found again
		f.logger.ErrorContext(ctx, "what the inverter was found to be cannot be kept", "code", "found_not_kept", "error", err)
	}
	return found, nil
}

// newPoller returns the poller of in.
func (d *device) newPoller(in InverterSettings) (*acquire.Poller, error) {
	what := acquire.Inverter{
		Name: in.Name, Unit: in.Unit, Profile: in.Profile, Points: in.Points, Interval: d.settings.SamplingInterval,
	}
	if in.SunSpec {
		f := newFinder(d.folder, in, d.logger)
		what.Profile, what.Find = f.last, f.find
	}
	p, err := acquire.New(what, d.inverters(in), d.logger, d.now().Milliseconds())
	if err != nil {
		return nil, fmt.Errorf("making a poller: %w", err)
	}
	return p, nil
}

// poll samples one inverter until ctx ends. A sample that cannot be kept is
// lost, and told by the queue; sampling goes on.
func (d *device) poll(ctx context.Context, p *acquire.Poller, in InverterSettings, wanted chan polling) error {
	told, loop := p.Found(), d.pulse.loop("inverter "+in.Name)
	for {
		wait := p.Next(d.now().Milliseconds())
		loop.waits(wait)
		w, changed, ok := sleepOr(ctx, wait, wanted)
		if !ok {
			return nil
		}
		if changed {
			if err := p.Change(w.points, w.interval, w.full); err != nil {
				d.logger.Error("an inverter cannot be polled as the configuration says", "code", "config_not_polled", "inverter", in.Name, "error", err)
			}
			continue
		}
		batches := p.Poll(ctx, d.now().Milliseconds())
		if found := p.Found(); found.Changes != told.Changes && d.tellInventory(found.Layout != told.Layout) {
			told = found
		}
		for _, batch := range batches {
			d.queue.add(buffer.Reading{Inverter: in.Name, Points: batch.Points, Boot: d.boot, Sample: batch.Sample}, d.now())
		}
	}
}

// tellInventory sends the inventory once more, with what the inverters are known
// to be by now; false if it could not be kept. When the layout of one has changed,
// the samples so far go before: they are described by the inventory so far.
func (d *device) tellInventory(layout bool) bool {
	inventory, err := d.inventory()
	if err != nil {
		d.logger.Error("the inventory cannot be told", "code", "inventory_failed", "error", err)
		return true // it would not be otherwise the next time
	}
	if layout {
		d.pack(math.MaxInt)
	}
	return d.queue.put([]buffer.Message{inventory}) == nil
}

// inventory makes the message that says what the device is made of, as far as
// it is known.
func (d *device) inventory() (buffer.Message, error) {
	found := map[string]acquire.Found{}
	for i, p := range d.pollers {
		found[d.settings.Inverters[i].Name] = p.Found()
	}
	return encodeInventory(d.settings, found, d.random)
}
