package agent

import (
	"context"
	"time"

	"ecowatt"
	"ecowatt/agent/buffer"
)

// Rehearsal is a device on a clock of its caller's, who takes the place of its
// inverters: all of the agent but its polls and its goroutines. It is for
// measuring, and for one goroutine.
type Rehearsal struct{ d *device }

// Rehearse opens the device of a gateway's folder, as Run does. now is its time
// since boot.
func Rehearse(o Options, now func() time.Duration) (*Rehearsal, error) {
	d, err := open(o, now)
	if err != nil {
		return nil, err
	}
	return &Rehearsal{d}, nil
}

// Keep takes a sample of an inverter of the settings, its time in ms since boot.
func (r *Rehearsal) Keep(inverter string, points []string, s ecowatt.Sample) {
	r.d.queue.add(buffer.Reading{Inverter: inverter, Points: points, Boot: r.d.boot, Sample: s}, r.d.now())
}

// Due is when the next slot begins, as a time since boot.
func (r *Rehearsal) Due() time.Duration { return r.d.uplink.Next() }

// Slot makes the exchanges of a slot that is due.
func (r *Rehearsal) Slot(ctx context.Context) { r.d.slot(ctx) }

// Waiting is how many samples and messages the cloud has not confirmed.
func (r *Rehearsal) Waiting() int {
	stats, _ := r.d.queue.stats()
	return stats.Samples + stats.Messages
}

// Close keeps what waits.
func (r *Rehearsal) Close() error { return r.d.close() }
