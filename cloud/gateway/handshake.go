package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"

	"ecowatt/cloud/session"
	"ecowatt/key"
	"ecowatt/wire"
	"ecowatt/wire/noise"
)

// nobodyName is a name that no device can have.
const nobodyName = "(nobody)"

// newNobody makes the credential that stands in for one that there is not, so
// that an unknown id costs what a wrong key costs: to unwrap a key, to derive
// from it, and to check a tag.
func newNobody(keys Keys, random io.Reader) (session.Credential, error) {
	nobody := session.Credential{Name: nobodyName, Epoch: 1}
	secret, err := key.NewDevice(random)
	if err != nil {
		return session.Credential{}, fmt.Errorf("making a key for nobody: %w", err)
	}
	defer secret.Destroy()
	nobody.KEK, nobody.Wrapped, err = keys.WrapDevice(secret, string(nobody.Name), nobody.ID, nobody.Epoch)
	if err != nil {
		return session.Credential{}, fmt.Errorf("wrapping a key for nobody: %w", err)
	}
	return nobody, nil
}

// handshake answers an HS1 (protocol, section 7, rule 1). Whoever does not hold
// the key of a device that may shake hands costs one look-up, one key to unwrap
// and one tag to check, whatever is wrong; before work on the curve, repetitions
// and devices that ask too often are out.
func (g *Gateway) handshake(ctx context.Context, in *incoming) ([]byte, *refusal) {
	hs1, refused := in.whole(wire.HS1Size)
	if refused != nil {
		return nil, refused
	}
	now := g.now()
	header, err := wire.Parse(hs1, wire.HS1)
	if err != nil {
		return nil, malformed(err)
	}
	c, err := g.store.Credential(ctx, header.KeyID())
	unknown := errors.Is(err, session.ErrUnknown)
	if err != nil && !unknown {
		return nil, g.unavailable(ctx, "looking up a key", err)
	}
	standing := c.Check(now)
	retired := !unknown && errors.Is(standing, session.ErrRetired)
	tried := c
	if unknown || retired {
		tried = *g.nobody.Load()
	}
	secret, err := g.deviceKey(ctx, tried)
	if err != nil {
		return nil, g.unavailable(ctx, "unwrapping a device key", err)
	}
	responder, err := accept(secret, hs1)
	switch {
	case unknown:
		return nil, refuse(wire.HandshakeUnknownID)
	case retired:
		return nil, refuse(wire.HandshakeOldEpoch).concerning(c.Device, c.Name)
	case err != nil || header.Epoch() != c.Epoch:
		return nil, refuse(wire.HandshakeBadTag)
	case standing != nil:
		return nil, g.handshakeRefused(ctx, standing)
	}
	hash := session.Hash(hs1)
	past, err := g.store.Past(ctx, c.ID, hash, now)
	if err != nil {
		return nil, g.handshakeRefused(ctx, err)
	}
	again, _, err := past.Admit(now)
	if err != nil {
		return nil, g.handshakeRefused(ctx, err)
	}
	if again != nil {
		return again, nil
	}
	return g.establish(ctx, session.Offer{KeyID: c.ID, HS1: hash, At: now}, past, string(c.Name), responder)
}

// accept checks the tag of HS1. It spends the key.
func accept(secret key.Device, hs1 []byte) (*noise.Responder, error) {
	defer secret.Destroy()
	psk := secret.NoisePSK(wire.Suite1)
	defer psk.Destroy()
	return noise.Accept(psk, hs1)
}

// establish does the work on the curve, outside of any transaction, and then
// stores the session, unless a concurrent copy of the same HS1 was faster.
func (g *Gateway) establish(ctx context.Context, o session.Offer, past session.Past, device string, responder *noise.Responder) ([]byte, *refusal) {
	lifetime, err := session.DrawLifetime(g.random)
	if err != nil {
		return nil, g.unavailable(ctx, "drawing randomness", err)
	}
	o.Lifetime, o.Recovery = past.Limit(lifetime, o.At), past.Recovery()
	welcome := wire.Welcome{
		ServerTime: o.At.UnixMilli(), Lifetime: o.Lifetime, MaxRequest: wire.MaxRequest, SlotHint: g.slot, Flags: flags(past),
	}
	hs2, secrets, refused := g.finish(ctx, responder, welcome)
	if refused != nil {
		return nil, refused
	}
	defer secrets.Keys.Destroy()
	o.HS2, o.SID = hs2, secrets.SID
	if o.KEK, o.Wrapped, err = g.keys.WrapSession(secrets.Keys, device, secrets.SID); err != nil {
		return nil, g.unavailable(ctx, "wrapping session keys", err)
	}
	if hs2, err = g.store.Establish(ctx, o); err != nil {
		return nil, g.handshakeRefused(ctx, err)
	}
	return hs2, nil
}

// flags tell a device what its session is for.
func flags(past session.Past) (f wire.WelcomeFlags) {
	if past.Due {
		f |= wire.RotationPending
	}
	if past.Recovery() {
		f |= wire.RecoverySession
	}
	return f
}

// handshakeRefused tells a refusal of package session from a failure of our own.
func (g *Gateway) handshakeRefused(ctx context.Context, err error) *refusal {
	reason := session.HandshakeReason(err)
	if reason == "" {
		return g.unavailable(ctx, "storing a session", err)
	}
	if tooMany, ok := errors.AsType[*session.BusyError](err); ok {
		return busy(tooMany.RetryAfter)
	}
	return refuse(reason)
}
