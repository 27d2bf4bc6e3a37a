package gateway

import (
	"context"
	"fmt"
	"strconv"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/session"
	"ecowatt/key"
	"ecowatt/wire"
)

// offerSize bounds what the offer of a key takes in the body of an answer: its
// key there, the map, and in it epoch, id, key and burn.
const offerSize = 1 + 1 + (1 + 5) + (1 + 17) + (1 + 34) + (1 + 1)

// reported looks into the epochs that a device reports, which it is asked for
// once in a session.
func (u *unit) reported(e *wire.Epochs) {
	if e != nil && u.claim.Session.Pending {
		u.back, u.renew = u.claim.Session.Fallback(e.Active, e.Staged)
		next := u.claim.Session.Next
		u.claim.Early = u.back && next != nil && next.Epoch > max(e.Active, u.claim.Session.Epoch)
		u.epochs = *e
	}
}

// reserve takes the room of a key that is to be offered out of that of the answer.
func (u *unit) reserve(room int) int {
	due := u.renew != 0 || u.claim.Early || u.claim.Session.Offers(u.claim.At)
	if !due || room < offerSize {
		return room
	}
	u.claim.Offer = true
	return room - offerSize
}

// key gets the key that the answer may offer: unwrapped for this, or made. When
// that fails the exchange goes on without, for the next answer offers it again.
func (g *Gateway) key(ctx context.Context, u *unit) {
	var err error
	switch {
	case u.renew != 0:
		u.offer, u.claim.Renewal, err = g.newKey(u.claim, u.renew)
	case u.claim.Offer:
		u.offer, err = g.nextKey(u.claim.Session)
	}
	if err != nil {
		u.claim.Offer = false
		g.alarms.raise(ctx, g.now(), "preparing a key for a device", err)
	}
}

// nextKey unwraps the pending key of a session's device.
func (g *Gateway) nextKey(s session.Session) (*wire.KeyOffer, error) {
	n := s.Next
	secret, err := g.keys.UnwrapDevice(n.KEK, n.Wrapped, string(s.Name), n.ID, n.Epoch)
	if err != nil {
		return nil, err
	}
	return &wire.KeyOffer{Epoch: n.Epoch, ID: n.ID, Key: secret, Burn: n.Burn}, nil
}

// newKey makes a key of that epoch for the device of a claim, whose pending one
// it would not take. Where that one was to burn, so is this one.
func (g *Gateway) newKey(c session.Claim, epoch key.Epoch) (*wire.KeyOffer, *session.PendingKey, error) {
	id, err := key.NewID(g.random)
	if err != nil {
		return nil, nil, err
	}
	secret, err := key.NewDevice(g.random)
	if err != nil {
		return nil, nil, err
	}
	k := &session.PendingKey{ID: id, Epoch: epoch, From: c.At}
	if next := c.Session.Next; next != nil && next.Epoch > c.Session.Epoch {
		k.Burn = next.Burn
	}
	if k.KEK, k.Wrapped, err = g.keys.WrapDevice(secret, string(c.Session.Name), id, epoch); err != nil {
		secret.Destroy()
		return nil, nil, err
	}
	return &wire.KeyOffer{Epoch: epoch, ID: id, Key: secret, Burn: k.Burn}, k, nil
}

// destroyOffer destroys the keys that were got for an answer.
func (u *unit) destroyOffer() {
	if u.firmwareOffer != nil {
		u.firmwareOffer.Content.Destroy()
	}
	if u.offer != nil {
		u.offer.Key.Destroy()
	}
}

// tellRotation tells what the acceptance of the request did to the device's keys.
func (u *unit) tellRotation(raised session.Raised) {
	number := func(e key.Epoch) string { return strconv.FormatUint(uint64(e), 10) }
	epoch := u.claim.Session.Epoch
	if raised.Committed {
		u.tell("rotation.committed", fmt.Sprintf("the key of epoch %d is in use; epoch %d is retired", epoch, raised.Replaced),
			"reason", string(wire.RotationCommitted), "epoch", number(epoch), "retired", number(raised.Replaced))
	}
	if raised.Burned {
		u.tell("rotation.burned", "no earlier key is left", "reason", string(wire.RotationBurn), "epoch", number(epoch))
	}
	if raised.Recovered {
		u.tell("recovery.closed", "the device is back; the recovery window is closed", "epoch", number(epoch))
	}
	if raised.Confirmed && u.back {
		u.tell("rotation.fallback", fmt.Sprintf("the device went back to the key of epoch %d", epoch), "reason", string(wire.RotationFallback),
			"epoch", number(epoch), "active", number(u.epochs.Active), "staged", number(u.epochs.Staged))
	}
	if raised.Renewed {
		u.tellCloud("rotation.ordered", fmt.Sprintf("rotation to epoch %d ordered: the device holds a later key than is known here", u.renew),
			"epoch", number(u.renew), "burn", strconv.FormatBool(u.claim.Renewal.Burn))
	}
	if raised.OffersNew {
		u.tellCloud("rotation.offered", fmt.Sprintf("the key of epoch %d is offered", u.offer.Epoch),
			"reason", string(wire.RotationOffered), "epoch", number(u.offer.Epoch))
	}
}

// tellCloud is tell for what the cloud does by itself.
func (u *unit) tellCloud(action, text string, attrs ...string) {
	u.tell(action, text, attrs...)
	u.records[len(u.records)-1].Actor = audit.Actor{Kind: audit.System, Name: "rotation"}
}
