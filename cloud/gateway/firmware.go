package gateway

import (
	"context"
	"math"
	"strings"
	"time"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/rollout"
	"ecowatt/wire"
)

// Rollouts is the part of a transaction that knows which release a device is to get.
type Rollouts interface {
	// Update returns what a rollout wants of the device, and whether there is one
	// that is concerned by what the device says.
	Update(device int64) (rollout.Update, bool, error)
	// MoveUpdate stores an update that has come into another phase since it was read
	// in this transaction, and its audit record. Where too many have failed now, the
	// rollout stops.
	MoveUpdate(device int64, u rollout.Update, by audit.Actor, at time.Time) error
	// NoteUpdate stores what else an update has become since it was read in this
	// transaction.
	NoteUpdate(device int64, u rollout.Update) error
	// OfferedRelease returns what a device is sent of a release, and whether it is
	// there still.
	OfferedRelease(id rollout.Hash) (rollout.Package, bool, error)
}

// rootHead is the head of a root of trust in an answer, in bytes.
const rootHead = 3

// offerRoom is how many bytes of an answer an offer takes, with the roots of trust
// that go with it, which without it are demand bytes.
func (u *unit) offerRoom(demand int64) int {
	room := int(min(demand, math.MaxInt32))
	for _, root := range u.roots {
		room += rootHead + len(root)
	}
	return room
}

// wanted reports whether the device row says that the device is to be told of a
// release, which takes demand bytes.
func wanted(demand int64) bool { return demand > 1 }

// reserveOffer takes the room of the offer out of what results may take: they must
// not keep it away for ever.
func (u *unit) reserveOffer(room int) int {
	demand := u.claim.Session.Rollout
	if !wanted(demand) {
		return room
	}
	return room - min(u.offerRoom(demand), room/4*3)
}

// follow reads the update that what the device says concerns, where its row says
// that there is one.
func (u *unit) follow(tx Tx, demand int64) error {
	u.update, u.measured, u.release = nil, time.Time{}, nil
	if demand == 0 {
		return nil
	}
	x, found, err := tx.Update(u.claim.Session.Device)
	if err == nil && found {
		u.update = &x
	}
	return err
}

// move stores what the update of the device has become.
func (u *unit) move(tx Tx, next rollout.Update, by audit.Actor) error {
	u.update = &next
	return tx.MoveUpdate(u.claim.Session.Device, next, by, u.claim.At)
}

func (u *unit) deviceActor() audit.Actor {
	return audit.Actor{Kind: audit.Device, Name: string(u.claim.Session.Name)}
}

// progress makes of a fota_status, whose message is new, what it means. One that is
// about no update which anybody wants of the device now is told of, and that is all.
func (u *unit) progress(tx Tx, r rollout.Report) error {
	if u.update == nil || u.update.Rollout.Release != r.Release {
		u.tell("update.reported", clean("release "+r.Release.String()+", which is not wanted of the device now: "+r.Phase+" "+r.Text, maxText),
			"release", r.Release.String(), "phase", r.Phase, "code", r.Code, audit.AttrReason, reasonOf(r.Code))
		return nil
	}
	before := *u.update
	next, moved, changed := before.Reported(r, u.claim.At)
	switch {
	case moved:
		return u.move(tx, next, u.deviceActor())
	case !changed:
		return nil
	}
	u.update = &next
	if err := tx.NoteUpdate(u.claim.Session.Device, next); err != nil || next.Code == "" || next.Code == before.Code {
		return err
	}
	return tx.Append(audit.Record{
		At: u.claim.At, Actor: u.deviceActor(), Device: u.claim.Session.Name, Action: next.Event(), Text: next.Line(), Attrs: next.Attrs(),
	})
}

// reasonOf is the security event that a device's code is; "" for none.
func reasonOf(code string) string {
	if strings.HasPrefix(code, "FW_") {
		return code
	}
	return ""
}

// measure takes note of a block that is stored: until when the device has measured.
// A clock that runs ahead proves nothing.
func (u *unit) measure(b ingest.Block) {
	if u.update == nil {
		return
	}
	if !u.clock.Place(&b, u.claim.At) {
		return
	}
	until := time.UnixMilli(b.T0 + b.Span)
	if until.After(u.claim.At) {
		until = u.claim.At
	}
	if until.After(u.measured) {
		u.measured = until
	}
}

// observe makes of what the device runs, and until when it has measured, what that
// means for its update.
func (u *unit) observe(tx Tx) error {
	if u.update == nil {
		return nil
	}
	if u.program != nil {
		if next, moved := u.update.Runs(*u.program, u.claim.At); moved {
			if err := u.move(tx, next, u.deviceActor()); err != nil {
				return err
			}
		}
	}
	next, passed := u.update.Measured(u.measured, u.claim.At)
	if !passed {
		return nil
	}
	return u.move(tx, next, u.deviceActor())
}

// offerRelease puts the release that the device is to get into the answer, where
// there is room. That settles nothing.
func (u *unit) offerRelease(tx Tx, room int) error {
	x := u.update
	if x == nil || !x.Phase.Wants() || !x.Rollout.Offers() || u.offerRoom(x.Rollout.Offer) > room {
		return nil
	}
	release, found, err := tx.OfferedRelease(x.Rollout.Release)
	if err != nil || !found {
		return err
	}
	release.Downgrades = x.Rollout.Downgrades
	u.release = &release
	sent, first := x.Sent(u.claim.At)
	if !first {
		return nil
	}
	return u.move(tx, sent, audit.Actor{Kind: audit.System, Name: "gateway"})
}

// unwrapRelease makes the offer of the release that an answer carries. When its key
// does not open, as when it was wrapped anew this moment, the answer goes without,
// and the next one brings it.
func (g *Gateway) unwrapRelease(ctx context.Context, u *unit) {
	if u.release == nil {
		return
	}
	content, err := g.keys.UnwrapContent(u.release.KEK, u.release.Wrapped, u.release.Release)
	if err != nil {
		g.alarms.raise(ctx, g.now(), "preparing a release for a device", err)
		return
	}
	u.firmwareOffer = &wire.FirmwareOffer{
		Manifest: u.release.Release, Envelope: u.release.Envelope, Content: content, Path: rollout.Folder,
		RootUpdates: u.roots, Downgrades: u.release.Downgrades,
	}
}

// maxChunks bounds what is believed of numbers of chunks.
const maxChunks = 1 << 32

// fotaStatus reads a fota_status. Its text may have lines, the last words of a program
// that crashed; they become one.
func fotaStatus(body []byte) (*rollout.Report, error) {
	x, err := wire.DecodeFotaStatus(body)
	if err != nil {
		return nil, err
	}
	r := &rollout.Report{
		Release: x.Manifest, Phase: x.Phase, Done: min(x.Done, maxChunks), All: min(x.All, maxChunks),
		Code: clean(x.Code, maxLine), Text: clean(strings.Join(strings.Fields(x.Text), " "), maxResultText),
	}
	if !r.Known() {
		return nil, &ingest.InvalidError{Problem: "a fota_status of a phase that is not known here"}
	}
	return r, nil
}
