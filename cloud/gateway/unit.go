package gateway

import (
	"fmt"
	"strconv"
	"time"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/command"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollout"
	"ecowatt/cloud/session"
	"ecowatt/key"
	"ecowatt/wire"
)

// unit is everything that one request causes, in one transaction.
type unit struct {
	claim    session.Claim
	problem  string // why the body makes no sense; then the request only counts as sent
	clock    ingest.Clock
	firmware *registry.Firmware // nil when the device did not say
	program  *rollout.Program   // likewise
	roots    [][]byte           // of trust, that go with the offer of a release
	messages []message
	limit    int           // bytes of the answer's body for all but its heads
	room     int           // of them, those that the results do not take
	hold     time.Duration // for how long the device lets the answer be held back

	epochs wire.Epochs    // as the device reports them, in the first request of a session
	back   bool           // they say that it went back to an earlier key
	renew  key.Epoch      // of the key that it needs then; 0 for none
	offer  *wire.KeyOffer // that the answer may carry; nil for none

	slot time.Duration // the upload interval that the device has from here; 0 for its own

	// What apply leaves. It is read only after the commit.
	offers   bool // the answer carries it
	results  []wire.Result
	config   *wire.ConfigUpdate // nil for none
	commands []wire.Command
	records  []audit.Record
	answered bool // the device has answered a configuration, which may mean that there is one to send

	update   *rollout.Update  // that what the device says concerns; nil for none
	measured time.Time        // until when telemetry that came was measured; zero for none
	release  *rollout.Package // that the answer offers; nil for none

	firmwareOffer *wire.FirmwareOffer // of it, with its key
}

// apply is the unit of work. It may run twice.
func (u *unit) apply(tx Tx) error {
	u.results, u.config, u.commands, u.records = make([]wire.Result, 0, len(u.messages)), nil, nil, nil
	u.slot, u.answered = u.claim.Session.Slot, false
	raised, err := tx.Raise(u.claim)
	if err != nil {
		return err
	}
	u.offers = raised.Offers
	if err := u.follow(tx, raised.Rollout); err != nil {
		return err
	}
	u.tellSession(raised)
	if err := u.tellClone(tx, raised.Clone); err != nil {
		return err
	}
	u.tellRotation(raised)
	if u.claim.Session.Recovery { // which is for the offer of a key alone: the device keeps what it has to say
		return u.write(tx)
	}
	if u.problem != "" {
		u.tell("request.not_understood", clean("a request makes no sense: "+u.problem, maxText), "reason", string(wire.ExchangeSchema))
		return u.write(tx)
	}
	// A session lasts as long as a boot at most, so its first request brings the
	// clock of it; later it is asked for only by who needs it.
	if raised.Confirmed || u.untimed() {
		if err := tx.Observe(u.claim.Session.Device, u.clock, u.claim.At); err != nil {
			return err
		}
	}
	if u.firmware != nil {
		if err := u.report(tx, registry.Report{At: u.claim.At, Firmware: u.firmware}); err != nil {
			return err
		}
	}
	for _, m := range u.messages {
		if err := u.take(tx, m); err != nil {
			return err
		}
	}
	u.tellProblems()
	if err := u.observe(tx); err != nil {
		return err
	}
	return u.tellAll(tx, raised)
}

// tellAll puts what the device is to be told into the answer, as far as there is
// room.
func (u *unit) tellAll(tx Tx, raised session.Raised) error {
	room := u.room
	if raised.Config > 0 || u.answered {
		left, err := u.configure(tx, room)
		if err != nil {
			return err
		}
		room = left
	}
	if raised.Commands > 0 {
		left, err := u.deliver(tx, room)
		if err != nil {
			return err
		}
		room = left
	}
	if err := u.offerRelease(tx, room); err != nil {
		return err
	}
	return u.write(tx)
}

// resume is the unit of work of an answer that was held back and may have
// something to say now. It may run twice.
func (u *unit) resume(tx Tx) error {
	u.config, u.commands, u.records = nil, nil, nil
	u.slot = u.claim.Session.Slot
	raised, err := tx.Resume(u.claim)
	if err != nil {
		return err
	}
	if err := u.follow(tx, raised.Rollout); err != nil {
		return err
	}
	u.offers = raised.Offers
	u.tellRotation(raised)
	return u.tellAll(tx, raised)
}

// says reports whether the answer says more than the time.
func (u *unit) says() bool {
	return len(u.results) > 0 || len(u.commands) > 0 || u.config != nil || u.offers || u.release != nil || u.problem != ""
}

// untimed reports whether there is a block that was timed since boot.
func (u *unit) untimed() bool {
	for _, m := range u.messages {
		if m.Block != nil && m.Block.Boot != nil {
			return true
		}
	}
	return false
}

// take makes one message take effect, once, and adds its result.
func (u *unit) take(tx Tx, m message) error {
	result := wire.Result{ID: m.ID}
	if m.problem != "" {
		result.Status, result.Text = wire.Invalid, m.problem
		u.results = append(u.results, result)
		return nil
	}
	device := u.claim.Session.Device
	var told command.Command
	if m.report != nil {
		found, known, err := tx.Command(device, m.report.ID)
		if err != nil {
			return err
		}
		if !known {
			result.Status, result.Text = wire.Invalid, neverSent
			u.results = append(u.results, result)
			return nil
		}
		told = found
	}
	status, err := tx.Take(device, m.Message, u.claim.At)
	if err != nil {
		return err
	}
	result.Status = wire.Status(status)
	u.results = append(u.results, result)
	if status != ingest.Stored {
		return nil
	}
	u.records = append(u.records, m.log...)
	if m.Block != nil {
		u.measure(*m.Block)
	}
	if m.status != nil {
		return u.progress(tx, *m.status)
	}
	for _, e := range m.leases {
		if err := tx.SaveLease(device, e, u.claim.At); err != nil {
			return err
		}
	}
	if m.report != nil {
		return u.settle(tx, told, *m.report)
	}
	if m.answer != nil {
		return u.settleConfig(tx, *m.answer)
	}
	if m.inventory != nil {
		return u.report(tx, registry.Report{At: u.claim.At, Inventory: m.inventory})
	}
	return nil
}

// report stores what the device says of itself, and tells of it when it is new.
func (u *unit) report(tx Tx, r registry.Report) error {
	news, err := tx.Report(u.claim.Session.Device, r)
	if err != nil {
		return err
	}
	if f := r.Firmware; news.Firmware {
		u.tell("firmware.reported", fmt.Sprintf("firmware %s, %s", f.Version, f.State),
			"release", strconv.FormatUint(f.Release, 10), "state", f.State, "version", f.Version)
	}
	if v := r.Inventory; news.Inventory {
		u.tell("inventory.reported", fmt.Sprintf("agent %s, inverters: %d", v.AgentVersion, len(v.Inverters)),
			"agent_version", v.AgentVersion, "hardware", v.Hardware, "control_allowed", strconv.FormatBool(v.ControlAllowed))
	}
	return nil
}

// tellSession tells what the acceptance of the request did to sessions.
func (u *unit) tellSession(raised session.Raised) {
	s := u.claim.Session
	if raised.Confirmed {
		recovery := ""
		if s.Recovery {
			recovery = "true"
		}
		u.tell("session.confirmed", "session confirmed", "reason", string(wire.SessionConfirmed),
			"handshake", strconv.FormatInt(s.Handshake, 10), "epoch", strconv.FormatUint(uint64(s.Epoch), 10), "recovery", recovery)
	}
	if raised.Superseded {
		u.tell("session.superseded", "the new session took the place of a living one", "reason", string(wire.SessionSuperseded))
	}
	if gap := raised.Gap(u.claim.Seq); gap > 0 {
		u.tell("session.gap", fmt.Sprintf("requests that did not arrive: %d", gap), "reason", string(wire.ExchangeGap),
			"after", strconv.FormatUint(uint64(raised.Before), 10), "at", strconv.FormatUint(uint64(u.claim.Seq), 10))
	}
}

// tellProblems tells of the messages that were not taken: one record for each
// kind of problem, however many there are.
func (u *unit) tellProblems() {
	for _, p := range []struct {
		status       wire.Status
		action, text string
		reason       wire.Reason
	}{
		{wire.Invalid, "message.invalid", "messages that can never be stored: %d", wire.ExchangeSchema},
		{wire.Conflict, "message.conflict", "messages under an id that was used for other bytes: %d", wire.ExchangeConflict},
	} {
		count, first := 0, wire.Result{}
		for _, r := range u.results {
			if r.Status != p.status {
				continue
			}
			if count == 0 {
				first = r
			}
			count++
		}
		if count > 0 {
			u.tell(p.action, fmt.Sprintf(p.text, count), "reason", string(p.reason), "first", first.ID.String(), "problem", first.Text)
		}
	}
}

// tell adds a record of the device to be written. attrs are names and values in
// turn; one without a value is left out.
func (u *unit) tell(action, text string, attrs ...string) {
	r := deviceRecord(u.claim, action, text)
	for i := 0; i+1 < len(attrs); i += 2 {
		if attrs[i+1] != "" {
			r.Attrs[attrs[i]] = attrs[i+1]
		}
	}
	u.records = append(u.records, r)
}

func (u *unit) write(tx Tx) error {
	for _, r := range u.records {
		if err := tx.Append(r); err != nil {
			return err
		}
	}
	return nil
}

// deviceRecord is a record of what the device of a request did.
func deviceRecord(claim session.Claim, action, text string) audit.Record {
	name := claim.Session.Name
	return audit.Record{
		At: claim.At, Actor: audit.Actor{Kind: audit.Device, Name: string(name)}, Device: name,
		Action: action, Text: text, Attrs: map[string]string{},
	}
}
