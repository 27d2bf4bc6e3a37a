package gateway

import (
	"strconv"
	"strings"
	"time"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/config"
	"ecowatt/cloud/ingest"
	"ecowatt/parameter"
	"ecowatt/wire"
)

// Configuration is the part of a transaction that knows what a device is to have
// set.
type Configuration interface {
	// PendingConfig returns what the device is to be sent, and whether there is
	// anything.
	PendingConfig(device int64) (config.Update, bool, error)
	// ConfigSent takes note that a revision stands in an answer for the first time.
	ConfigSent(device int64, revision uint64, at time.Time) error
	// SettleConfig makes of a device's answer what it means, and returns that.
	SettleConfig(device int64, a config.Answer, at time.Time) (config.Settlement, error)
}

// reserveConfig takes the room of the configuration that the device has not
// answered yet out of what results may take: they must not keep it away for ever.
func (u *unit) reserveConfig(room int) int {
	return room - min(int(u.claim.Session.Config), room/4*3)
}

// configure puts the configuration into the answer that the device has not answered
// yet, where there is room, and returns the room that is left. That settles nothing.
func (u *unit) configure(tx Tx, room int) (left int, err error) {
	device := u.claim.Session.Device
	update, pending, err := tx.PendingConfig(device)
	if err != nil || !pending {
		return room, err
	}
	x := wire.ConfigUpdate{Revision: update.Revision, Parameters: update.Values}
	size := x.EncodedSize()
	if size > room {
		return room, nil
	}
	u.config = &x
	if update.Sent {
		return room - size, nil
	}
	number := strconv.FormatUint(x.Revision, 10)
	u.tell("config.delivered", "configuration "+number+" is sent", "revision", number)
	u.records[len(u.records)-1].Actor = audit.Actor{Kind: audit.System, Name: "gateway"}
	return room - size, tx.ConfigSent(device, x.Revision, u.claim.At)
}

// nextSlot is what the answer says of the device's next exchange. Where the device
// has an interval from here, that is it; and nothing is said while another one is on
// its way.
func (u *unit) nextSlot(usual time.Duration) time.Duration {
	if u.config != nil {
		if n, ok := u.config.Parameters[parameter.UploadInterval].(int64); ok && time.Duration(n)*time.Second != u.slot {
			return 0
		}
	}
	if u.slot > 0 {
		return u.slot
	}
	return usual
}

// settleConfig records what the device says of a configuration, whose message is
// new.
func (u *unit) settleConfig(tx Tx, a config.Answer) error {
	s, err := tx.SettleConfig(u.claim.Session.Device, a, u.claim.At)
	if err != nil {
		return err
	}
	u.slot, u.answered = s.Slot, true
	if !s.News {
		return nil
	}
	number := strconv.FormatUint(a.Revision, 10)
	action, text := "config.answered", "configuration "+number+": "+a.Outcome.Line()
	switch s.Verdict {
	case config.Settled:
	case config.Late:
		action, text = "config.late", "configuration "+number+", which is not the desired one any more: "+a.Outcome.Line()
	case config.Lost:
		action, text = "config.lost", "the device has no configuration from here; it is sent again"
	case config.Ahead:
		action, text = "config.ahead", "the device has configuration "+number+", which was not sent from here; the next one follows it"
	}
	attrs := []string{"revision", number, "drift", strings.Join(s.Drift, ", ")}
	for _, name := range a.Outcome.Names(config.Rejected) {
		attrs = append(attrs, name, clean(a.Outcome[name].Code+": "+a.Outcome[name].Text, maxText))
	}
	u.tell(action, clean(text, maxLongText), attrs...)
	if len(s.Drift) > 0 {
		u.tell("config.drift", "not in force as desired: "+clean(strings.Join(s.Drift, ", "), maxText), "revision", number, "drift", strings.Join(s.Drift, ", "))
	}
	return nil
}

// maxLongText bounds a text that names every parameter, in bytes.
const maxLongText = 512

// configAnswer reads a config_ack.
func configAnswer(body []byte) (*config.Answer, error) {
	x, err := wire.DecodeConfigAck(body)
	if err != nil {
		return nil, err
	}
	rejected := map[string]config.Part{}
	for name, r := range x.Rejected {
		rejected[clean(name, maxLine)] = config.Part{Code: clean(r.Code, maxLine), Text: clean(r.Text, maxText)}
	}
	a, err := config.NewAnswer(x.Revision, cleanAll(x.Accepted), cleanAll(x.Unchanged), rejected)
	if err != nil {
		return nil, &ingest.InvalidError{Problem: err.Error()}
	}
	return &a, nil
}

func cleanAll(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = clean(name, maxLine)
	}
	return out
}
