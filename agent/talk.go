package agent

import (
	"context"
	"errors"
	"time"

	"ecowatt/agent/buffer"
	"ecowatt/agent/uplink"
	"ecowatt/wire"
)

// Limits of what one slot may do.
const (
	maxRequests = 64                     // in one slot, as long as a backlog lasts
	pace        = 100 * time.Millisecond // between them, for the cloud's sake
	maxPending  = 64                     // messages that wait for a buffer that can be written
)

// slot sends what there is, in as many requests as it takes, and ends with the
// first that fails or after which nothing more can go. A key that was taken is
// used at once.
func (d *device) slot(ctx context.Context) {
	if d.uplink.Clock().Known() {
		d.report() // so that it lasts, whether the cloud is there or not
	}
	for i := range maxRequests {
		h, err := d.exchange(ctx, attempt{begins: i == 0, samples: true})
		if ctx.Err() != nil || errors.Is(err, uplink.ErrNotDue) {
			break
		}
		d.noteContact(err)
		if err != nil {
			d.noteAttempt(err, false)
		}
		if !h.more || !sleep(ctx, pace) {
			break
		}
	}
	d.clock.keep(d.uplink.Clock(), d.now())
}

// report turns what the log has for the cloud into messages.
func (d *device) report() {
	if len(d.pending) < maxPending { // else the collection keeps the newest, and counts the others
		entries, dropped := d.reports.take()
		place := d.clock.placer(d.uplink.Clock())
		messages, err := encodeReports(entries, dropped, func(mono int64) int64 { return place(d.boot, mono) }, d.random)
		if err != nil {
			d.logger.Error("a part of the log cannot be sent", "error", err)
		}
		d.pending = append(d.pending, messages...)
	}
	d.putPending()
}

// putPending puts into the buffer what could not be put there so far.
func (d *device) putPending() {
	if len(d.pending) > 0 && d.queue.put(d.pending) == nil {
		d.pending = nil
	}
}

// exchange makes one attempt, and returns what came of it. Samples and log become
// messages when the session stands, for then the time is known. In a recovery
// session all of them stay.
func (d *device) exchange(ctx context.Context, a attempt) (heard, error) {
	var sent []buffer.Message
	left := false
	answer, err := d.uplink.Exchange(ctx, func(room int) (wire.Request, error) {
		d.report()
		if a.samples {
			left = d.pack(d.enough(room))
		}
		if !d.uplink.Status().Recovery {
			sent = d.queue.next(room)
		}
		q := wire.Request{Firmware: d.updates.firmware.Load(), Epochs: d.keys.epochs()}
		for _, m := range sent {
			q.Messages = append(q.Messages, wireMessage(m))
		}
		if len(sent) == 0 {
			q.Hold = a.hold
		}
		return q, nil
	})
	if err != nil {
		return heard{}, err
	}
	ids := d.outcome(sent, answer.Results)
	d.queue.settle(ids)
	d.noteSettled(ids)
	d.noteAttempt(nil, a.begins)
	told := d.configure(answer.Config)
	d.control.deliver(answer.Commands, ids)
	d.updates.deliver(answer.Firmware, a.begins)
	rekeyed := d.keys.answered(answer.KeyOffer, d.wall())
	stats, _ := d.queue.stats()
	h := hear(answer)
	h.settled, h.recovery = len(ids), d.uplink.Status().Recovery
	h.more = rekeyed || told || len(ids) > 0 && (left || stats.Messages > 0)
	return h, nil
}

// enough is how many bytes of samples' messages are wanted for a request with so
// much room: what fits, or, while the cloud does not answer, one message to find
// out whether it does. The rest of a backlog stays samples, which take less of the
// disk, and can be thinned out should the buffer become full.
func (d *device) enough(room int) int {
	if d.away != 0 {
		return 1
	}
	return room
}

// pack makes messages of samples until there are enough bytes of them, and reports
// whether samples are left.
func (d *device) pack(enough int) (left bool) {
	place := d.clock.placer(d.uplink.Clock())
	return d.queue.pack(enough, func(r buffer.Run, emit func(buffer.Message, int) error) error {
		return encoder{*d.packing.Load(), d.random, emit}.encodeRun(r, place)
	})
}

// outcome returns the messages of a request that may go, according to its
// answer, and tells of those that the cloud will never store.
func (d *device) outcome(sent []buffer.Message, results []wire.Result) [][16]byte {
	kinds := make(map[wire.MessageID]wire.Kind, len(sent))
	for _, m := range sent {
		kinds[m.ID] = wire.Kind(m.Kind)
	}
	var ids [][16]byte
	for _, r := range results {
		kind, ok := kinds[r.ID]
		if !ok || !r.Status.Settles() {
			continue
		}
		delete(kinds, r.ID)
		ids = append(ids, r.ID)
		code := ""
		switch r.Status {
		case wire.Invalid:
			code = "message_invalid"
		case wire.Conflict:
			code = "message_conflict"
		case wire.Stored, wire.Duplicate, wire.Later:
			continue
		}
		if kind == wire.KindLog {
			code = "" // or each report would bring about another one
		}
		d.logger.Error("the cloud will not store a message", "code", code, "id", r.ID.String(), "kind", kind.String(), "status", r.Status.String(), "text", r.Text)
	}
	return ids
}

// noteContact tells when the cloud begins or ends to be out of reach.
func (d *device) noteContact(err error) {
	switch {
	case err != nil && d.away == 0:
		d.away = d.now()
		d.logger.Warn("the cloud cannot be reached", "code", "cloud_away", "error", err)
	case err == nil && d.away != 0:
		d.logger.Info("the cloud can be reached again", "code", "cloud_back", "away", d.now()-d.away)
		d.away = 0
	}
}
