package store

import (
	"errors"
	"fmt"

	"github.com/ncruces/go-sqlite3"

	"ecowatt/cloud/session"
	"ecowatt/key"
)

// usedKey is what the key of a session is when its first request comes.
type usedKey struct {
	state session.KeyState
	burn  bool
}

// usedKey reads it. A key that is retired, or gone, has no sessions: that would
// be session.ErrUnknown.
func (tx *Tx) usedKey(s session.Session) (u usedKey, err error) {
	found, err := tx.w.row(`SELECT state, burn FROM device_key WHERE device = $1 AND epoch = $2`, []any{s.Device, int64(s.Epoch)},
		func(st *sqlite3.Stmt) { u.state, u.burn = session.KeyState(st.ColumnText(0)), st.ColumnBool(1) })
	if err != nil {
		return usedKey{}, fmt.Errorf("reading the key of a session: %w", err)
	}
	if !found || u.state == session.KeyRetired {
		return usedKey{}, session.ErrUnknown
	}
	return u, nil
}

// commitKey is the rotation: the pending key of a session becomes the active one
// of its device; those before it are retired, but for the first one unless this
// burns it; their sessions end, and a recovery window has served.
func (tx *Tx) commitKey(s session.Session, burn bool, at int64, raised *session.Raised) error {
	event := session.KeyReplaced
	if burn {
		event = session.KeyBurned
	}
	var before int64
	found, err := tx.w.row(`SELECT epoch FROM device_key WHERE device = $1 AND state = 'active'`, []any{s.Device}, &before)
	if err == nil && !found {
		err = errors.New("there is none")
	}
	if err != nil {
		return fmt.Errorf("reading the active key: %w", err)
	}
	for _, m := range []keyMove{
		{s.Device, session.FactoryEpoch, session.KeyRecovery, event},
		{s.Device, key.Epoch(before), session.KeyActive, event},
		{s.Device, s.Epoch, session.KeyPending, session.KeyUsed},
	} {
		if err := tx.moveKey(m, at); err != nil {
			return err
		}
	}
	if _, err := tx.end(`device = $1 AND epoch < $2`, s.Device, int64(s.Epoch)); err != nil {
		return err
	}
	n, err := tx.w.exec(`UPDATE device SET recovery_until = NULL WHERE id = $1 AND recovery_until > $2`, s.Device, at)
	if err != nil {
		return fmt.Errorf("closing a recovery window: %w", err)
	}
	raised.Committed, raised.Replaced, raised.Burned, raised.Recovered = true, key.Epoch(before), burn, n == 1
	return nil
}

// keyMove is an event that happens to the key of an epoch while it is in a state.
type keyMove struct {
	device int64
	epoch  key.Epoch
	from   session.KeyState
	event  session.KeyEvent
}

// moveKey brings a key into its next state, where there is such a key. A retired
// key is destroyed, and with it what was remembered of handshakes with it.
func (tx *Tx) moveKey(m keyMove, at int64) error {
	to := m.from.After(m.event, m.epoch)
	if to == m.from {
		return nil
	}
	n, err := tx.w.exec(`UPDATE device_key SET state = $1, since = $2, offer_from = NULL, offered_at = NULL, burn = 0,
		kek = CASE WHEN $1 = 'retired' THEN NULL ELSE kek END, wrapped = CASE WHEN $1 = 'retired' THEN NULL ELSE wrapped END
		WHERE device = $3 AND epoch = $4 AND state = $5`,
		string(to), at, m.device, int64(m.epoch), string(m.from))
	if err == nil && n == 1 && to == session.KeyRetired {
		_, err = tx.w.exec(`DELETE FROM hs_seen WHERE device = $1 AND epoch = $2`, m.device, int64(m.epoch))
	}
	if err != nil {
		return fmt.Errorf("making the %s key of epoch %d %s: %w", m.from, m.epoch, to, err)
	}
	return nil
}

// renew puts Claim.Renewal in the place of the pending key that the claim saw,
// if any. It does nothing when the keys are not what the claim saw.
func (tx *Tx) renew(c session.Claim) (bool, error) {
	var (
		newest  int64
		pending []byte
		device  = c.Session.Device
	)
	_, err := tx.w.row(`SELECT max(epoch), (SELECT p.psk_id FROM device_key p WHERE p.device = $1 AND p.state = 'pending')
		FROM device_key WHERE device = $1`, []any{device}, &newest, &pending)
	if err != nil {
		return false, fmt.Errorf("reading the keys of a device: %w", err)
	}
	seen, next := c.Session.Next, c.Renewal
	if seen != nil && seen.Epoch == c.Session.Epoch {
		seen = nil // it was pending until this very request used it
	}
	if newest >= int64(next.Epoch) || (seen == nil) != (pending == nil) || seen != nil && seen.ID != key.ID(pending) {
		return false, nil
	}
	at := millis(c.At)
	if seen != nil {
		if err := tx.moveKey(keyMove{device, seen.Epoch, session.KeyPending, session.KeyOvertaken}, at); err != nil {
			return false, err
		}
	}
	return true, tx.addPending(device, *next, at)
}

// addPending stores a pending key. It is not offered yet.
func (tx *Tx) addPending(device int64, k session.PendingKey, at int64) error {
	_, err := tx.w.exec(`INSERT INTO device_key (psk_id, device, epoch, state, since, kek, wrapped, offer_from, burn, created_at)
		VALUES ($1, $2, $3, 'pending', $4, $5, $6, $7, $8, $4)`,
		k.ID[:], device, int64(k.Epoch), at, k.KEK, k.Wrapped, millis(k.From), k.Burn)
	if err != nil {
		return fmt.Errorf("storing a pending key: %w", err)
	}
	return nil
}

// offer notes that the pending key goes into the answer. offers says that it
// does: one that was offered before stays pending as long as this session lives;
// another one may have been cancelled since the claim saw it.
func (tx *Tx) offer(c session.Claim, renewed bool) (offers, isNew bool, err error) {
	k := c.Session.Next
	switch {
	case renewed:
		k = c.Renewal
	case c.Renewal != nil || !c.Early && !c.Session.Offers(c.At):
		return false, false, nil
	case k.Offered && !c.Early:
		return true, false, nil
	}
	n, err := tx.w.exec(`UPDATE device_key SET offered_at = $1, offer_from = CASE WHEN offer_from > $1 THEN $1 ELSE offer_from END
		WHERE psk_id = $2 AND state = 'pending' AND (offered_at IS NULL OR offer_from > $1)`, millis(c.At), k.ID[:])
	if err != nil {
		return false, false, fmt.Errorf("noting the offer of a key: %w", err)
	}
	if n == 1 {
		return true, true, nil
	}
	pending, err := tx.w.row(`SELECT 1 FROM device_key WHERE psk_id = $1 AND state = 'pending'`, []any{k.ID[:]})
	if err != nil {
		return false, false, fmt.Errorf("reading a pending key: %w", err)
	}
	return pending, false, nil
}
