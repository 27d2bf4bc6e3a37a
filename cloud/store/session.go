package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt"
	"ecowatt/cloud/session"
	"ecowatt/key"
)

// everySession is a number beyond those of all handshakes.
const everySession = math.MaxInt64

// selectKey finds a key without a look at what else is known of its device:
// whoever asks has proved nothing yet.
const selectKey = `SELECT d.id, d.name, k.epoch, k.state, d.recovery_until, d.disabled, k.kek, k.wrapped
	FROM device_key k JOIN device d ON d.id = k.device WHERE k.psk_id = $1`

// Credential returns the key with this id. One that is not there is
// session.ErrUnknown.
func (s *Store) Credential(ctx context.Context, id key.ID) (session.Credential, error) {
	c := session.Credential{ID: id}
	found, err := s.lookups.row(ctx, selectKey, func(st *sqlite3.Stmt) error {
		return st.BindBlob(1, id[:])
	}, func(st *sqlite3.Stmt) {
		c.Device, c.Name = st.ColumnInt64(0), ecowatt.DeviceID(st.ColumnText(1))
		c.Epoch, c.Standing = key.Epoch(st.ColumnInt64(2)), standing(st, 3)
		c.KEK, c.Wrapped = st.ColumnText(6), st.ColumnBlob(7, nil)
	})
	if err == nil && !found {
		err = session.ErrUnknown
	}
	if err != nil {
		return session.Credential{}, fmt.Errorf("reading a key: %w", unavailable(err))
	}
	return c, nil
}

// standing reads state, recovery_until and disabled, from column i on.
func standing(st *sqlite3.Stmt, i int) session.Standing {
	s := session.Standing{Key: session.KeyState(st.ColumnText(i)), Disabled: st.ColumnBool(i + 2)}
	if until := st.ColumnInt64(i + 1); until != 0 { // NULL is 0
		s.Window = moment(until)
	}
	return s
}

// selectPast is what an HS1 is judged by: the same within the transaction that
// decides and outside of it.
const selectPast = `SELECT d.id, d.hs_no, k.epoch, d.hs_rate, k.state, d.recovery_until, d.disabled,
	EXISTS (SELECT 1 FROM hs_seen h WHERE h.device = d.id AND h.epoch = k.epoch AND h.hs1_hash = $1),
	(SELECT s.hs2 FROM session s WHERE s.device = d.id AND s.epoch = k.epoch AND s.hs1_hash = $1
		AND s.state = 'pending' AND s.expires_at > $2),
	EXISTS (SELECT 1 FROM device_key n WHERE n.device = d.id AND n.state = 'pending' AND n.offer_from <= $2 AND n.epoch > k.epoch)
	FROM device_key k JOIN device d ON d.id = k.device WHERE k.psk_id = $3`

// Past returns the past of the device of a key, as an HS1 with this hash meets
// it at that time. A key that is not there, or not any more, is
// session.ErrUnknown.
func (s *Store) Past(ctx context.Context, id key.ID, hs1 [32]byte, at time.Time) (session.Past, error) {
	var p session.Past
	found, err := s.lookups.row(ctx, selectPast, func(st *sqlite3.Stmt) error {
		return errors.Join(st.BindBlob(1, hs1[:]), st.BindInt64(2, millis(at)), st.BindBlob(3, id[:]))
	}, func(st *sqlite3.Stmt) { p = readPast(st) })
	if err == nil && !found {
		err = session.ErrUnknown
	}
	if err != nil {
		return session.Past{}, fmt.Errorf("reading the past of a device: %w", unavailable(err))
	}
	return p, nil
}

// readPast reads the row of selectPast.
func readPast(st *sqlite3.Stmt) session.Past {
	return session.Past{
		Bucket: session.Bucket(st.ColumnInt64(3)), Standing: standing(st, 4),
		Seen: st.ColumnBool(7), Pending: st.ColumnBlob(8, nil), Due: st.ColumnBool(9),
	}
}

// Establish stores the session of an offer and returns its HS2, unless the
// store knows better by now: then it returns the HS2 of a concurrent copy, or
// the error of session.Past.Admit, or session.ErrUnknown, and nothing changes.
// It needs Run to be running.
func (s *Store) Establish(ctx context.Context, o session.Offer) ([]byte, error) {
	var hs2 []byte
	err := s.Commit(ctx, func(tx *Tx) (err error) {
		hs2, err = tx.establish(o)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("storing a session: %w", err)
	}
	return hs2, nil
}

func (tx *Tx) establish(o session.Offer) ([]byte, error) {
	at := millis(o.At)
	var (
		device, number, epoch int64
		past                  session.Past
	)
	found, err := tx.w.row(selectPast, []any{o.HS1[:], at, o.KeyID[:]}, &device, &number, &epoch,
		func(st *sqlite3.Stmt) { past = readPast(st) })
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, session.ErrUnknown
	}
	again, bucket, err := past.Admit(o.At)
	if err != nil || again != nil {
		return again, err
	}
	if past.Recovery() != o.Recovery {
		return nil, session.ErrRetired // the key was replaced since the device was told what session it gets
	}
	if err := tx.sweep(at); err != nil {
		return nil, err
	}
	number++
	if err := tx.accept(o, device, epoch, number, bucket); err != nil {
		return nil, err
	}
	waits, lasts := past.Limit(session.PendingTime, moment(at)), past.Limit(session.Age(o.Lifetime), moment(at))
	_, err = tx.w.exec(`INSERT INTO session (sid, device, epoch, hs_no, state, recovery, kek, wrapped, hs1_hash, hs2, created_at, lifetime, expires_at)
		VALUES ($1, $2, $3, $4, 'pending', $5, $6, $7, $8, $9, $10, $11, $12)`,
		o.SID[:], device, epoch, number, o.Recovery, o.KEK, o.Wrapped, o.HS1[:], o.HS2,
		at, lasts.Milliseconds(), at+waits.Milliseconds())
	if err != nil {
		return nil, err
	}
	return o.HS2, tx.trim(device, epoch, number, at)
}

// accept decides: each of the two statements must change one row, whatever was
// read before.
func (tx *Tx) accept(o session.Offer, device, epoch, number int64, bucket session.Bucket) error {
	n, err := tx.w.exec(`UPDATE device SET hs_no = $1, hs_rate = $2 WHERE id = $3 AND hs_no = $1 - 1 AND disabled = 0`,
		number, int64(bucket), device)
	if err != nil {
		return fmt.Errorf("numbering a handshake: %w", err)
	}
	if n != 1 {
		return session.ErrBarred
	}
	n, err = tx.w.exec(`INSERT INTO hs_seen (device, epoch, hs1_hash, hs_no) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
		device, epoch, o.HS1[:], number)
	if err != nil {
		return fmt.Errorf("remembering a handshake: %w", err)
	}
	if n != 1 {
		return session.ErrReplay
	}
	return nil
}

// trim drops what is too much of a device after its handshake of this number.
func (tx *Tx) trim(device, epoch, number, at int64) error {
	_, err := tx.w.exec(`DELETE FROM session WHERE device = $1 AND state = 'pending' AND (hs_no <= $2 OR expires_at <= $3)`,
		device, number-session.MaxPending, at)
	if err != nil {
		return fmt.Errorf("dropping sessions that wait: %w", err)
	}
	_, err = tx.w.exec(`DELETE FROM hs_seen WHERE device = $1 AND epoch = $2 AND hs_no <= $3`,
		device, epoch, number-session.SeenKept)
	if err != nil {
		return fmt.Errorf("forgetting handshakes: %w", err)
	}
	return nil
}

// sweepSize is how many expired sessions go with each new one: more than come.
const sweepSize = 2

// sweep deletes some sessions that have expired, of whichever devices, so that
// the keys of a device that never comes back do not stay.
func (tx *Tx) sweep(at int64) error {
	for range sweepSize {
		var sid []byte
		var device, seen int64
		found, err := tx.w.row(`SELECT sid, device, seen_at FROM session WHERE expires_at <= $1 ORDER BY expires_at LIMIT 1`,
			[]any{at}, &sid, &device, &seen)
		if err != nil || !found {
			return err
		}
		if err := tx.seen(device, seen); err != nil {
			return err
		}
		if _, err := tx.w.exec(`DELETE FROM session WHERE sid = $1`, sid); err != nil {
			return fmt.Errorf("deleting an expired session: %w", err)
		}
	}
	return nil
}

// seen keeps when a device was last seen, for when its session is gone. 0 says
// nothing.
func (tx *Tx) seen(device, at int64) error {
	if at == 0 {
		return nil
	}
	_, err := tx.w.exec(`UPDATE device SET last_seen = $1 WHERE id = $2 AND coalesce(last_seen, 0) < $1`, at, device)
	if err != nil {
		return fmt.Errorf("noting when a device was last seen: %w", err)
	}
	return nil
}

// endSessions deletes the sessions of a device that came from handshakes with
// a smaller number than below, their keys with them, and returns how many that
// were. When the device was last seen stays known.
func (tx *Tx) endSessions(device, below int64) (int64, error) {
	return tx.end(`device = $1 AND hs_no < $2`, device, below)
}

// end is endSessions for those that a condition selects, which is a constant.
func (tx *Tx) end(which string, device, bound int64) (int64, error) {
	var seen int64
	_, err := tx.w.row(`SELECT max(seen_at) FROM session WHERE `+which, []any{device, bound}, &seen)
	if err == nil {
		err = tx.seen(device, seen)
	}
	if err != nil {
		return 0, err
	}
	n, err := tx.w.exec(`DELETE FROM session WHERE `+which, device, bound)
	if err != nil {
		return 0, fmt.Errorf("ending sessions: %w", err)
	}
	return n, nil
}

// selectSession finds a session, and with it the key that its device is to be
// offered: one step in an index that holds nothing but pending keys.
const selectSession = `SELECT s.device, d.name, s.epoch, s.hs_no, s.state = 'pending', s.recovery, s.last_seq, s.expires_at, s.kek, s.wrapped,
	n.psk_id, n.epoch, n.kek, n.wrapped, n.burn, n.offer_from, n.offered_at IS NOT NULL, d.cmd_open, d.cfg_pending, d.cfg_slot, d.fw_open
	FROM session s JOIN device d ON d.id = s.device
	LEFT JOIN device_key n ON n.device = s.device AND n.state = 'pending' WHERE s.sid = $1`

// Session returns the session of this id, expired or not. One that is not
// there, or not any more, is session.ErrUnknown.
func (s *Store) Session(ctx context.Context, sid [16]byte) (session.Session, error) {
	x := session.Session{SID: sid}
	found, err := s.lookups.row(ctx, selectSession, func(st *sqlite3.Stmt) error {
		return st.BindBlob(1, sid[:])
	}, func(st *sqlite3.Stmt) {
		x.Device, x.Name = st.ColumnInt64(0), ecowatt.DeviceID(st.ColumnText(1))
		x.Epoch, x.Handshake = key.Epoch(st.ColumnInt64(2)), st.ColumnInt64(3)
		x.Pending, x.Recovery, x.LastSeq = st.ColumnBool(4), st.ColumnBool(5), session.Sequence(st.ColumnInt64(6))
		x.Expires, x.KEK, x.Wrapped = moment(st.ColumnInt64(7)), st.ColumnText(8), st.ColumnBlob(9, nil)
		x.Next, x.Commands = pendingKey(st, 10), st.ColumnInt64(17)
		x.Config, x.Slot, x.Rollout = st.ColumnInt64(18), time.Duration(st.ColumnInt64(19))*time.Second, st.ColumnInt64(20)
	})
	if err == nil && !found {
		err = session.ErrUnknown
	}
	if err != nil {
		return session.Session{}, fmt.Errorf("reading a session: %w", unavailable(err))
	}
	return x, nil
}

// pendingKey reads psk_id, epoch, kek, wrapped, burn, offer_from and whether
// offered_at is there, from column i on; nil where they are NULL.
func pendingKey(st *sqlite3.Stmt, i int) *session.PendingKey {
	if st.ColumnType(i) == sqlite3.NULL {
		return nil
	}
	return &session.PendingKey{
		ID: key.ID(st.ColumnBlob(i, nil)), Epoch: key.Epoch(st.ColumnInt64(i + 1)),
		KEK: st.ColumnText(i + 2), Wrapped: st.ColumnBlob(i+3, nil),
		Burn: st.ColumnBool(i + 4), From: moment(st.ColumnInt64(i + 5)), Offered: st.ColumnBool(i + 6),
	}
}
