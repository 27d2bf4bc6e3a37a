package gateway

import (
	"context"

	"ecowatt/cloud/session"
	"ecowatt/key"
)

// What wraps a key may be replaced between the reading of its row and the
// unwrapping: the row is wrapped anew and the key-encryption key removed. So
// what does not open is read again, once.

// session returns a session and its keys.
func (g *Gateway) session(ctx context.Context, sid [16]byte) (session.Session, key.Session, *refusal) {
	for again := false; ; again = true {
		s, err := g.store.Session(ctx, sid)
		if err != nil {
			return session.Session{}, key.Session{}, g.exchangeRefused(ctx, "looking up a session", err)
		}
		keys, err := g.keys.UnwrapSession(s.KEK, s.Wrapped, string(s.Name), s.SID)
		switch {
		case err == nil:
			return s, keys, nil
		case again:
			return session.Session{}, key.Session{}, g.unavailable(ctx, "unwrapping session keys", err)
		}
	}
}

// deviceKey returns the key of a credential, which may be nobody's.
func (g *Gateway) deviceKey(ctx context.Context, c session.Credential) (key.Device, error) {
	secret, err := g.unwrap(c)
	if err == nil {
		return secret, nil
	}
	if c.Name == nobodyName {
		if c, err = newNobody(g.keys, g.random); err != nil {
			return key.Device{}, err
		}
		g.nobody.Store(&c)
	} else if c, err = g.store.Credential(ctx, c.ID); err != nil {
		return key.Device{}, err
	}
	return g.unwrap(c)
}

func (g *Gateway) unwrap(c session.Credential) (key.Device, error) {
	return g.keys.UnwrapDevice(c.KEK, c.Wrapped, string(c.Name), c.ID, c.Epoch)
}
