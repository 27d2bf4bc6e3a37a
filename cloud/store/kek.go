package store

import (
	"context"
	"fmt"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/session"
	"ecowatt/key"
)

// KEKUse says what a key-encryption key wraps.
type KEKUse struct {
	DeviceKeys int64
	Sessions   int64
	Releases   int64 // keys of their content
}

// KEKInUseError says that a key-encryption key cannot go, for it wraps something.
type KEKInUseError struct {
	KEK string
	KEKUse
}

func (e *KEKInUseError) Error() string {
	return fmt.Sprintf("%s still wraps keys of devices (%d), of sessions (%d) and of releases (%d)", e.KEK, e.DeviceKeys, e.Sessions, e.Releases)
}

// KEKUses returns what each key-encryption key wraps, by its id. It reads every key.
func (s *Store) KEKUses(ctx context.Context) (map[string]KEKUse, error) {
	const query = `SELECT kek, sum(device_keys), sum(sessions), sum(releases) FROM (
		SELECT kek, count(*) AS device_keys, 0 AS sessions, 0 AS releases FROM device_key WHERE kek IS NOT NULL GROUP BY kek
		UNION ALL SELECT kek, 0, count(*), 0 FROM session GROUP BY kek
		UNION ALL SELECT kek, 0, 0, count(*) FROM firmware GROUP BY kek) AS wrapped_keys GROUP BY kek`
	rows, err := s.read.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("counting wrapped keys: %w", unavailable(err))
	}
	defer rows.Close()
	uses := map[string]KEKUse{}
	for rows.Next() {
		var kek string
		var use KEKUse
		if err := rows.Scan(&kek, &use.DeviceKeys, &use.Sessions, &use.Releases); err != nil {
			return nil, fmt.Errorf("counting wrapped keys: %w", unavailable(err))
		}
		uses[kek] = use
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("counting wrapped keys: %w", unavailable(err))
	}
	return uses, nil
}

// KEKProbes returns one or two of the device keys that each key-encryption key
// wraps: enough to find out whether a key ring holds that key, or another one
// under its id. It reads every key: it is for the start of the cloud.
func (s *Store) KEKProbes(ctx context.Context) ([]session.Credential, error) {
	const query = `SELECT d.name, k.psk_id, k.epoch, k.kek, k.wrapped FROM device_key k JOIN device d ON d.id = k.device
		WHERE k.psk_id IN (SELECT min(psk_id) FROM device_key WHERE kek IS NOT NULL GROUP BY kek
			UNION SELECT max(psk_id) FROM device_key WHERE kek IS NOT NULL GROUP BY kek) ORDER BY k.kek, k.psk_id`
	rows, err := s.read.QueryContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("reading wrapped keys: %w", unavailable(err))
	}
	defer rows.Close()
	var probes []session.Credential
	for rows.Next() {
		var c session.Credential
		var id []byte
		if err := rows.Scan(&c.Name, &id, &c.Epoch, &c.KEK, &c.Wrapped); err != nil {
			return nil, fmt.Errorf("reading wrapped keys: %w", unavailable(err))
		}
		c.ID = key.ID(id)
		probes = append(probes, c)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading wrapped keys: %w", unavailable(err))
	}
	return probes, nil
}

// CloseKEK writes the record, and from now on the database refuses whatever was
// wrapped with that key-encryption key: also what somebody has wrapped with it
// already and is about to store. While it wraps anything, nothing changes and
// the error is a *KEKInUseError.
func (s *Store) CloseKEK(ctx context.Context, kek string, r audit.Record) error {
	err := s.write(ctx, func(tx *Tx) error {
		use := KEKInUseError{KEK: kek}
		_, err := tx.w.row(`SELECT (SELECT count(*) FROM device_key WHERE kek = $1), (SELECT count(*) FROM session WHERE kek = $1),
			(SELECT count(*) FROM firmware WHERE kek = $1)`, []any{kek}, &use.DeviceKeys, &use.Sessions, &use.Releases)
		if err != nil {
			return err
		}
		if use.KEKUse != (KEKUse{}) {
			return &use
		}
		if _, err := tx.w.exec(`INSERT INTO closed_kek (id) VALUES ($1) ON CONFLICT DO NOTHING`, kek); err != nil {
			return err
		}
		return tx.Append(r)
	})
	if err != nil {
		return fmt.Errorf("closing the key-encryption key: %w", err)
	}
	return nil
}

// OpenKEKs lets key-encryption keys that were closed be used again.
func (s *Store) OpenKEKs(ctx context.Context, keks ...string) error {
	err := s.write(ctx, func(tx *Tx) error {
		for _, kek := range keks {
			if _, err := tx.w.exec(`DELETE FROM closed_kek WHERE id = $1`, kek); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("opening key-encryption keys: %w", err)
	}
	return nil
}
