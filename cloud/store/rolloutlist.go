package store

import (
	"context"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt/cloud/rollout"
)

const (
	listRollouts  = wholeRollout + `ORDER BY r.at DESC, r.id DESC LIMIT $1`
	tallyRollout  = `SELECT stage, phase, count(*) FROM rollout_device WHERE rollout = $1 GROUP BY stage, phase`
	recentUpdates = `SELECT count(*) FROM rollout_device WHERE rollout = $1 AND ended_at > $2 AND phase NOT IN ('skipped', 'withdrawn')`
	listUpdates   = selectDeviceUpdate + `WHERE u.rollout = $1 AND u.device > $2 ORDER BY u.device LIMIT $3`
	listUpdatesIn = selectDeviceUpdate + `WHERE u.rollout = $1 AND u.device > $2 AND u.phase = $3 ORDER BY u.device LIMIT $4`
	countRollouts = `SELECT state, count(*) FROM rollout GROUP BY state`
)

// Rollout returns a rollout and how it stands, or rollout.ErrNotFound.
func (s *Store) Rollout(ctx context.Context, id rollout.ID, now time.Time) (v rollout.View, err error) {
	err = s.lookups.use(ctx, func(c *connection) (err error) {
		if v.Rollout, err = c.rollout(id); err != nil {
			return err
		}
		return c.view(&v, now)
	})
	if err != nil {
		return rollout.View{}, fmt.Errorf("reading rollout %v: %w", id, unavailable(err))
	}
	return v, nil
}

// Rollouts returns the newest rollouts, at most so many, the newest first.
func (s *Store) Rollouts(ctx context.Context, limit int, now time.Time) (list []rollout.View, err error) {
	err = s.lookups.use(ctx, func(c *connection) error {
		err := c.rows(listRollouts, []any{limit}, func(st *sqlite3.Stmt) error {
			r, err := readWholeRollout(st)
			list = append(list, rollout.View{Rollout: r})
			return err
		})
		for i := range list {
			if err == nil {
				err = c.view(&list[i], now)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading rollouts: %w", unavailable(err))
	}
	return list, nil
}

// view adds to a rollout how it stands.
func (c *connection) view(v *rollout.View, now time.Time) error {
	v.Skipped, v.ByStage = rollout.Tally{}, make([]rollout.Tally, len(v.Sizes))
	for i := range v.ByStage {
		v.ByStage[i] = rollout.Tally{}
	}
	err := c.rows(tallyRollout, []any{v.ID[:]}, func(st *sqlite3.Stmt) error {
		stage, phase, n := st.ColumnInt(0), rollout.Phase(st.ColumnText(1)), st.ColumnInt(2)
		if stage > 0 && stage <= len(v.ByStage) {
			v.ByStage[stage-1][phase] = n
		} else {
			v.Skipped[phase] += n
		}
		return nil
	})
	if err != nil {
		return err
	}
	var recent int64
	_, err = c.row(recentUpdates, []any{v.ID[:], millis(now.Add(-rollout.RateTime))}, &recent)
	v.Recent = int(recent)
	return err
}

// Updates returns what a rollout wants of its devices, in the order in which they
// were added to the fleet. Where the rollout is not there it is
// rollout.ErrNotFound; a device to begin after that is not there,
// registry.ErrNotFound.
func (s *Store) Updates(ctx context.Context, id rollout.ID, f rollout.Filter) (list []rollout.Update, err error) {
	limit := f.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	err = s.lookups.use(ctx, func(c *connection) error {
		if _, err := c.rollout(id); err != nil {
			return err
		}
		after := int64(0)
		if f.After != "" {
			if after, err = c.deviceRow(f.After); err != nil {
				return err
			}
		}
		query, args := listUpdates, []any{id[:], after, limit}
		if f.Phase != "" {
			query, args = listUpdatesIn, []any{id[:], after, string(f.Phase), limit}
		}
		found, err := c.updates(query, args...)
		for _, u := range found {
			list = append(list, u.Update)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the updates of rollout %v: %w", id, unavailable(err))
	}
	return list, nil
}

// RolloutCounts returns how many rollouts there are, by state.
func (s *Store) RolloutCounts(ctx context.Context) (map[rollout.State]uint64, error) {
	counts := map[rollout.State]uint64{}
	for _, state := range rollout.States() {
		counts[state] = 0
	}
	err := s.lookups.use(ctx, func(c *connection) error {
		return c.rows(countRollouts, nil, func(st *sqlite3.Stmt) error {
			counts[rollout.State(st.ColumnText(0))] = uint64(st.ColumnInt64(1))
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("counting rollouts: %w", unavailable(err))
	}
	return counts, nil
}

// UpdateCounts returns how many devices there are of rollouts of which something is
// still to come, by phase.
func (s *Store) UpdateCounts(ctx context.Context) (map[rollout.Phase]uint64, error) {
	counts := map[rollout.Phase]uint64{}
	for _, phase := range rollout.Phases() {
		counts[phase] = 0
	}
	err := s.lookups.use(ctx, func(c *connection) error {
		var ids []rollout.ID
		err := c.rows(openRollouts, nil, func(st *sqlite3.Stmt) error {
			ids = append(ids, rollout.ID(st.ColumnBlob(0, nil)))
			return nil
		})
		for i := 0; i < len(ids) && err == nil; i++ {
			err = c.rows(tallyRollout, []any{ids[i][:]}, func(st *sqlite3.Stmt) error {
				counts[rollout.Phase(st.ColumnText(1))] += uint64(st.ColumnInt64(2))
				return nil
			})
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("counting updates: %w", unavailable(err))
	}
	return counts, nil
}
