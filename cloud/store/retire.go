package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/ingest"
)

// Retention says how long telemetry is kept; 0 is for ever. Quarters are kept for
// ever.
type Retention struct {
	Samples time.Duration // as they came
	Minutes time.Duration // not shorter
}

// Retired is what was given up.
type Retired struct {
	Samples int64 // blocks whose samples went; their minutes stay
	Minutes int64 // blocks of which the minutes went too
}

// retireSize is how many blocks go in one transaction, at most: exchanges wait
// for no longer than it takes.
const retireSize = 64

// Retire gives up what is older than the retention of the store says, and tells
// the audit log how much it was. It goes on where it ended the last time, in
// transactions that hold up nobody.
func (s *Store) Retire(ctx context.Context, now time.Time) (Retired, error) {
	var all Retired
	at := owner{}
	for {
		var done bool
		err := s.write(ctx, func(tx *Tx) error {
			next, found, err := tx.nextOwner(at)
			if err == nil && found {
				at = next
			}
			done = !found
			return err
		})
		for more := !done; more && err == nil; {
			var some Retired
			err = s.write(ctx, func(tx *Tx) (err error) {
				some, more, err = tx.retire(at, now)
				return err
			})
			all.Samples, all.Minutes = all.Samples+some.Samples, all.Minutes+some.Minutes
		}
		if err != nil {
			return all, errors.Join(fmt.Errorf("giving up old telemetry: %w", err), s.tellRetired(ctx, all, now))
		}
		if done {
			return all, s.tellRetired(ctx, all, now)
		}
	}
}

// owner is an inverter of a device.
type owner struct {
	device   int64
	inverter string
}

const nextOwner = `SELECT device, inverter FROM block WHERE t0 IS NOT NULL AND (device, inverter) > ($1, $2) ORDER BY device, inverter LIMIT 1`

func (tx *Tx) nextOwner(after owner) (next owner, found bool, err error) {
	found, err = tx.w.row(nextOwner, []any{after.device, after.inverter}, &next.device, &next.inverter)
	return next, found, err
}

// retire gives up some blocks of an inverter, and reports whether there may be
// more. An inverter of which everything was given up within the last day is left
// for another time.
func (tx *Tx) retire(o owner, now time.Time) (r Retired, more bool, err error) {
	var done struct{ samples, minutes int64 }
	if _, err := tx.w.row(`SELECT raw, minutes FROM retired WHERE device = $1 AND inverter = $2`, []any{o.device, o.inverter}, &done.samples, &done.minutes); err != nil {
		return Retired{}, false, err
	}
	r.Samples, done.samples, err = tx.giveUp(o, done.samples, now, tx.w.retention.Samples, oldSamples, `UPDATE block SET data = x'' WHERE id = $1`)
	if err == nil {
		r.Minutes, done.minutes, err = tx.giveUp(o, done.minutes, now, tx.w.retention.Minutes, oldBlocks, `DELETE FROM block WHERE id = $1`)
	}
	if err != nil || r == (Retired{}) {
		return r, false, err
	}
	_, err = tx.w.exec(`INSERT INTO retired (device, inverter, raw, minutes) VALUES ($1, $2, $3, $4)
		ON CONFLICT (device, inverter) DO UPDATE SET raw = excluded.raw, minutes = excluded.minutes`,
		o.device, o.inverter, done.samples, done.minutes)
	return r, true, err
}

const (
	oldBlocks  = `SELECT id FROM block WHERE device = $1 AND inverter = $2 AND t0 >= $3 AND t0 < $4 AND t1 < $4 ORDER BY t0, t1 LIMIT $5`
	oldSamples = `SELECT id FROM block WHERE device = $1 AND inverter = $2 AND t0 >= $3 AND t0 < $4 AND t1 < $4 AND length(data) > 0 ORDER BY t0, t1 LIMIT $5`
)

// giveUp does it to some blocks that begin at done or later and are older than
// they are kept. It returns how many it were, and from when on others may be.
func (tx *Tx) giveUp(o owner, done int64, now time.Time, keep time.Duration, query, statement string) (n, next int64, err error) {
	end := millis(now.Add(-keep))
	if keep == 0 || end-ingest.MaxSpan.Milliseconds()-done < (24*time.Hour).Milliseconds() {
		return 0, done, nil
	}
	var ids []int64
	err = tx.w.rows(query, []any{o.device, o.inverter, done, end, retireSize}, func(st *sqlite3.Stmt) error {
		ids = append(ids, st.ColumnInt64(0))
		return nil
	})
	for _, id := range ids {
		if err == nil {
			_, err = tx.w.exec(statement, id)
		}
	}
	if len(ids) < retireSize { // a block that begins later may end too late
		done = end - ingest.MaxSpan.Milliseconds()
	}
	return int64(len(ids)), done, err
}

// tellRetired tells the audit log what was given up.
func (s *Store) tellRetired(ctx context.Context, r Retired, now time.Time) error {
	if r == (Retired{}) {
		return nil
	}
	return s.write(ctx, func(tx *Tx) error {
		return tx.Append(audit.Record{
			At: now, Actor: audit.Actor{Kind: audit.System, Name: "retention"}, Action: "telemetry.retired",
			Text:  fmt.Sprintf("telemetry older than it is kept was given up: samples of %d blocks, minutes of %d", r.Samples, r.Minutes),
			Attrs: map[string]string{"samples": strconv.FormatInt(r.Samples, 10), "minutes": strconv.FormatInt(r.Minutes, 10)},
		})
	})
}
