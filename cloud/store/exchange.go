package store

import (
	"fmt"

	"ecowatt/cloud/session"
)

// Raise accepts a request: it raises the session's last_seq to the claim's
// number, and makes a session active that was pending. It is the decision about
// replay, and everything that the request causes happens in its transaction.
// Refused is what session.Session.Check refuses, and a session that is gone
// (session.ErrUnknown); then nothing has changed.
//
// The first request of a session under a pending key makes that key the active
// one. What the claim says of a later key is done as far as it is still true.
func (tx *Tx) Raise(c session.Claim) (session.Raised, error) {
	raised, err := tx.raise(c)
	if err == nil && raised.Confirmed {
		raised.Clone, err = tx.watch(c, raised.Superseded && !raised.Committed) // a new key needs a new session
	}
	if err == nil && raised.Confirmed && c.Renewal != nil {
		raised.Renewed, err = tx.renew(c)
	}
	if err == nil && c.Offer {
		raised.Offers, raised.OffersNew, err = tx.offer(c, raised.Renewed)
	}
	if err != nil {
		return session.Raised{}, err
	}
	return raised, nil
}

func (tx *Tx) raise(c session.Claim) (session.Raised, error) {
	s := c.Session
	if s.Pending || c.Seq != s.LastSeq+1 {
		// Most requests are the next one of an active session, and the update
		// alone decides. The others want to know what they replace.
		if err := tx.again(&s); err != nil {
			return session.Raised{}, err
		}
		if err := s.Check(c.Seq, c.At); err != nil {
			return session.Raised{}, err
		}
	}
	if s.Pending {
		return tx.confirm(s, c)
	}
	raised := session.Raised{Before: s.LastSeq}
	found, err := tx.w.row(`UPDATE session SET last_seq = $1, seen_at = $2
		WHERE sid = $3 AND last_seq < $1 AND expires_at > $2 AND state = 'active' RETURNING (SELECT cmd_open FROM device WHERE id = $4), (SELECT cfg_pending FROM device WHERE id = $4),
		(SELECT fw_open FROM device WHERE id = $4)`,
		[]any{int64(c.Seq), millis(c.At), s.SID[:], s.Device}, &raised.Commands, &raised.Config, &raised.Rollout)
	if err != nil {
		return session.Raised{}, fmt.Errorf("raising a sequence number: %w", err)
	}
	if found {
		return raised, nil
	}
	if err := tx.again(&s); err != nil {
		return session.Raised{}, err
	}
	if err := s.Check(c.Seq, c.At); err != nil {
		return session.Raised{}, err
	}
	return session.Raised{}, session.ErrReplay
}

// Resume is for an answer that was held back: it tells what the answer may carry
// by now. It is refused with an error of package session where the claim's
// request is not the last one of its device any more, which then hears by
// another answer.
func (tx *Tx) Resume(c session.Claim) (session.Raised, error) {
	raised := session.Raised{Before: c.Seq - 1}
	var last int64
	found, err := tx.w.row(`SELECT s.last_seq, d.cmd_open, d.cfg_pending, d.fw_open FROM session s JOIN device d ON d.id = s.device
		WHERE s.sid = $1 AND s.state = 'active' AND s.expires_at > $2`, []any{c.Session.SID[:], millis(c.At)}, &last, &raised.Commands, &raised.Config, &raised.Rollout)
	switch {
	case err != nil:
		return session.Raised{}, fmt.Errorf("reading a session: %w", err)
	case !found:
		return session.Raised{}, session.ErrUnknown
	case last != int64(c.Seq):
		return session.Raised{}, session.ErrReplay
	}
	if c.Offer {
		raised.Offers, raised.OffersNew, err = tx.offer(c, false)
	}
	return raised, err
}

// again reads what may have changed of a session since s was read.
func (tx *Tx) again(s *session.Session) error {
	var pending, last, expires int64
	found, err := tx.w.row(`SELECT state = 'pending', last_seq, expires_at FROM session WHERE sid = $1`,
		[]any{s.SID[:]}, &pending, &last, &expires)
	if err != nil {
		return fmt.Errorf("reading a session: %w", err)
	}
	if !found {
		return session.ErrUnknown
	}
	s.Pending, s.LastSeq, s.Expires = pending != 0, session.Sequence(last), moment(expires)
	return nil
}

// confirm makes a pending session the active one of its device and ends all of
// earlier handshakes. That it is there itself proves that no later one is active,
// and that its key is not retired.
func (tx *Tx) confirm(s session.Session, c session.Claim) (session.Raised, error) {
	raised := session.Raised{Confirmed: true}
	used, err := tx.usedKey(s)
	if err != nil {
		return session.Raised{}, err
	}
	var expires int64
	found, err := tx.w.row(`SELECT expires_at FROM session WHERE device = $1 AND state = 'active'`, []any{s.Device}, &expires)
	if err != nil {
		return session.Raised{}, fmt.Errorf("reading the active session: %w", err)
	}
	raised.Superseded = found && c.At.Before(moment(expires))
	if _, err := tx.endSessions(s.Device, s.Handshake); err != nil {
		return session.Raised{}, err
	}
	found, err = tx.w.row(`UPDATE session SET state = 'active', hs2 = NULL, last_seq = $1, seen_at = $2, expires_at = created_at + lifetime
		WHERE sid = $3 AND last_seq < $1 AND expires_at > $2 AND state = 'pending' RETURNING (SELECT cmd_open FROM device WHERE id = $4), (SELECT cfg_pending FROM device WHERE id = $4),
		(SELECT fw_open FROM device WHERE id = $4)`,
		[]any{int64(c.Seq), millis(c.At), s.SID[:], s.Device}, &raised.Commands, &raised.Config, &raised.Rollout)
	if err != nil {
		return session.Raised{}, fmt.Errorf("confirming a session: %w", err)
	}
	if !found {
		return session.Raised{}, session.ErrReplay
	}
	if used.state == session.KeyPending {
		err = tx.commitKey(s, used.burn, millis(c.At), &raised)
	}
	return raised, err
}
