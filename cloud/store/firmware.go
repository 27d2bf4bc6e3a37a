package store

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/rollout"
)

// Content is the key of the content of a release, as it is kept.
type Content struct {
	KEK     string
	Wrapped []byte
}

// AddRelease stores a release, with the audit record "firmware.added". One that is
// there already is kept as it is: then added is false.
func (s *Store) AddRelease(ctx context.Context, r rollout.Release, c Content) (added bool, err error) {
	err = s.write(ctx, func(tx *Tx) error {
		n, err := tx.w.exec(`INSERT INTO firmware (id, number, envelope, kek, wrapped, added_at, operator) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING`,
			r.ID[:], int64(r.Number), r.Envelope, c.KEK, c.Wrapped, millis(r.AddedAt), r.AddedBy)
		if added = n == 1; err != nil || !added {
			return err
		}
		return tx.Append(releaseRecord(r, "firmware.added", "release "+r.Version+" added", r.AddedBy, r.AddedAt))
	})
	if err != nil {
		return false, fmt.Errorf("storing release %s: %w", r.Version, err)
	}
	return added, nil
}

func releaseRecord(r rollout.Release, action, text, by string, at time.Time) audit.Record {
	return audit.Record{
		At: at, Actor: audit.Actor{Kind: audit.Operator, Name: by}, Action: action, Text: text,
		Attrs: map[string]string{"release": r.ID.String(), "version": r.Version, "number": strconv.FormatUint(r.Number, 10)},
	}
}

// RemoveRelease removes a release, with the audit record "firmware.removed". One
// that a rollout needs is a *rollout.InUseError, one that is not there
// rollout.ErrNoRelease.
func (s *Store) RemoveRelease(ctx context.Context, id rollout.Hash, by string, at time.Time) (r rollout.Release, err error) {
	err = s.write(ctx, func(tx *Tx) error {
		var found bool
		if r, found, err = tx.w.release(oneRelease, id[:]); err != nil {
			return err
		}
		if !found {
			return rollout.ErrNoRelease
		}
		var user []byte
		used, err := tx.w.row(`SELECT id FROM rollout WHERE firmware = $1 AND open = 1 LIMIT 1`, []any{id[:]}, &user)
		if err != nil {
			return err
		}
		if used {
			return &rollout.InUseError{Rollout: rollout.ID(user)}
		}
		if _, err := tx.w.exec(`DELETE FROM firmware WHERE id = $1`, id[:]); err != nil {
			return err
		}
		return tx.Append(releaseRecord(r, "firmware.removed", "release "+r.Version+" removed", by, at))
	})
	if err != nil {
		return rollout.Release{}, fmt.Errorf("removing release %v: %w", id, err)
	}
	return r, nil
}

const (
	selectRelease = `SELECT f.envelope, f.added_at, f.operator FROM firmware f `
	oneRelease    = selectRelease + `WHERE f.id = $1`
	allReleases   = selectRelease + `ORDER BY f.number DESC, f.id`
)

func readRelease(st *sqlite3.Stmt) (rollout.Release, error) {
	r, err := rollout.ReadRelease(st.ColumnBlob(0, nil))
	r.AddedAt, r.AddedBy = moment(st.ColumnInt64(1)), st.ColumnText(2)
	return r, err
}

// release returns the release that a query of selectRelease finds.
func (c *connection) release(query string, args ...any) (r rollout.Release, found bool, err error) {
	err = c.rows(query, args, func(st *sqlite3.Stmt) (err error) {
		found = true
		r, err = readRelease(st)
		return err
	})
	return r, found, err
}

// Release returns a release, or rollout.ErrNoRelease.
func (s *Store) Release(ctx context.Context, id rollout.Hash) (r rollout.Release, err error) {
	err = s.lookups.use(ctx, func(c *connection) error {
		var found bool
		if r, found, err = c.release(oneRelease, id[:]); err == nil && !found {
			err = rollout.ErrNoRelease
		}
		return err
	})
	if err != nil {
		return rollout.Release{}, fmt.Errorf("reading release %v: %w", id, unavailable(err))
	}
	return r, nil
}

// Releases returns all releases, the highest number first.
func (s *Store) Releases(ctx context.Context) (list []rollout.Release, err error) {
	err = s.lookups.use(ctx, func(c *connection) error {
		return c.rows(allReleases, nil, func(st *sqlite3.Stmt) error {
			r, err := readRelease(st)
			list = append(list, r)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("reading releases: %w", unavailable(err))
	}
	return list, nil
}

// OfferedRelease returns the signed manifest of a release, and the key of its
// content; not found where it was removed.
func (tx *Tx) OfferedRelease(id rollout.Hash) (p rollout.Package, found bool, err error) {
	found, err = tx.w.row(`SELECT envelope, kek, wrapped FROM firmware WHERE id = $1`, []any{id[:]}, &p.Envelope, &p.KEK, &p.Wrapped)
	if err != nil {
		return rollout.Package{}, false, fmt.Errorf("reading a release: %w", err)
	}
	p.Release = id
	return p, found, nil
}
