package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/rollup"
)

// rollUp adds the quarters of a block that was just stored to those of its
// inverter. Where the block does not come after what is there, what lies between
// them cannot be worked out from the quarters, and the chunk is made anew.
func (tx *Tx) rollUp(device int64, b ingest.Block) error {
	names := strings.Join(b.Points, ",")
	starts, parts := b.Quarters.Split()
	for i, start := range starts {
		if err := tx.rollUpChunk(device, b, names, start, parts[i]); err != nil {
			return fmt.Errorf("rolling up a block: %w", err)
		}
	}
	return nil
}

// condense makes minutes and quarters of a block. It could be decoded when it
// came; what the disk has made of it since is told to who asks for its samples,
// and must not keep the device from going on.
func condense(b *ingest.Block) { _ = b.Condense() }

const oneChunk = `SELECT id, series, stats FROM rollup WHERE device = $1 AND inverter = $2 AND start = $3 AND points = $4`

func (tx *Tx) rollUpChunk(device int64, b ingest.Block, names string, start int64, part rollup.Table) error {
	var id int64
	var series, stats []byte
	found, err := tx.w.row(oneChunk, []any{device, b.Inverter, start, names}, &id, &series, &stats)
	if err != nil {
		return err
	}
	if found {
		there, err := parseChunk(b.Points, series, stats)
		if err != nil {
			return err
		}
		merged, exact := there.Merge(b.Points, part)
		if part = merged; !exact {
			if part, err = tx.renewChunk(device, b, names, start, part); err != nil {
				return err
			}
		}
		_, err = tx.w.exec(`UPDATE rollup SET known = $1, series = $2, stats = $3 WHERE id = $4`,
			part.Known(b.Points), part.AppendSeries(nil), part.AppendStats(nil), id)
		return err
	}
	_, err = tx.w.exec(`INSERT INTO rollup (device, inverter, start, points, known, series, stats) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		device, b.Inverter, start, names, part.Known(b.Points), part.AppendSeries(nil), part.AppendStats(nil))
	return err
}

func parseChunk(points []string, series, stats []byte) (rollup.Table, error) {
	roles, _ := rollup.Roles(points)
	a, err := rollup.ParseStats(stats, len(points))
	if err != nil {
		return nil, err
	}
	b, err := rollup.ParseSeries(series, len(roles))
	if err != nil {
		return nil, err
	}
	return rollup.Join(a, b)
}

const blocksOfChunk = `SELECT t0, samples, codec, data, window_ms FROM block
	WHERE device = $1 AND inverter = $2 AND t0 > $3 AND t0 < $4 AND t1 >= $5 AND points = $6 ORDER BY t0, t1, id`

// renewChunk makes a chunk out of its blocks; merged is what there is of it where
// the samples of one of them are gone.
func (tx *Tx) renewChunk(device int64, b ingest.Block, names string, start int64, merged rollup.Table) (rollup.Table, error) {
	var blocks []ingest.Block
	gone := false
	err := tx.w.rows(blocksOfChunk, []any{device, b.Inverter, start - ingest.MaxSpan.Milliseconds() - 1, start + rollup.Chunk, start, names},
		func(st *sqlite3.Stmt) error {
			x := ingest.Block{
				Inverter: b.Inverter, Points: b.Points, Placed: true, T0: st.ColumnInt64(0), Count: st.ColumnInt(1),
				Codec: uint64(st.ColumnInt64(2)), Data: st.ColumnBlob(3, nil), Window: st.ColumnInt64(4),
			}
			gone = gone || len(x.Data) == 0
			blocks = append(blocks, x)
			return nil
		})
	if err != nil || gone {
		return merged, err
	}
	return ingest.Quarters(blocks, start)
}

// condenseSize is how many blocks from before there were roll-ups are condensed
// in one transaction.
const condenseSize = 32

// Condense rolls up the blocks that were stored by a program that did not.
func (s *Store) Condense(ctx context.Context) error {
	for done := false; !done; {
		err := s.write(ctx, func(tx *Tx) (err error) {
			done, err = tx.condense()
			return err
		})
		if err != nil {
			return fmt.Errorf("rolling up earlier blocks: %w", err)
		}
	}
	return nil
}

func (tx *Tx) condense() (done bool, err error) {
	type stored struct {
		ingest.Block
		id, device int64
	}
	var some []stored
	err = tx.w.rows(`SELECT id, device, inverter, t0, samples, codec, points, data, window_ms FROM block
		WHERE minutes IS NULL AND t0 IS NOT NULL ORDER BY id LIMIT $1`, []any{condenseSize}, func(st *sqlite3.Stmt) error {
		some = append(some, stored{id: st.ColumnInt64(0), device: st.ColumnInt64(1), Block: ingest.Block{
			Inverter: st.ColumnText(2), Placed: true, T0: st.ColumnInt64(3), Count: st.ColumnInt(4), Codec: uint64(st.ColumnInt64(5)),
			Points: strings.Split(st.ColumnText(6), ","), Data: st.ColumnBlob(7, nil), Window: st.ColumnInt64(8),
		}})
		return nil
	})
	if err != nil {
		return false, err
	}
	for _, b := range some {
		condense(&b.Block)
		if _, err := tx.w.exec(`UPDATE block SET minutes = $1 WHERE id = $2`, b.Minutes.AppendStats(nil), b.id); err != nil {
			return false, err
		}
		if err := tx.rollUp(b.device, b.Block); err != nil {
			return false, err
		}
	}
	return len(some) < condenseSize, nil
}

// Curve streams the buckets that the query selects: inverter by inverter, by
// name, and for each in the order of time. It is made of the coarsest roll-ups
// that answer, holds a page of them at a time, and no transaction between pages.
// A device that is not there is registry.ErrNotFound, a step that there is not
// wraps rollup.ErrStep.
func (s *Store) Curve(ctx context.Context, q rollup.Query) iter.Seq2[rollup.Part, error] {
	return func(yield func(rollup.Part, error) bool) {
		err := s.curves(ctx, q, func(p rollup.Part) bool { return yield(p, nil) })
		if err != nil && !errors.Is(err, errEnough) {
			yield(rollup.Part{}, fmt.Errorf("reading a curve of %s: %w", q.Device, unavailable(err)))
		}
	}
}

func (s *Store) curves(ctx context.Context, q rollup.Query, yield func(rollup.Part) bool) error {
	d, err := s.Device(ctx, q.Device)
	if err != nil {
		return err
	}
	location, err := time.LoadLocation(d.TimeZone)
	if err != nil {
		return fmt.Errorf("the time zone of the device: %w", err)
	}
	step, err := rollup.NewStep(q.Step, location)
	if err != nil {
		return err
	}
	points := pointsOf(d.Inventory)
	if q.Inverter != "" {
		return s.curveOf(ctx, q, step, points, yield)
	}
	for {
		q.Inverter, err = s.rolledUpAfter(ctx, q.Device, q.Inverter)
		if err != nil || q.Inverter == "" {
			return err
		}
		if err := s.curveOf(ctx, q, step, points, yield); err != nil {
			return err
		}
	}
}

const selectRolledUp = `SELECT coalesce(min(inverter), '') FROM rollup
	WHERE device = (SELECT d.id FROM device d WHERE d.name = $1) AND inverter > $2`

// rolledUpAfter returns the next inverter of which there are roll-ups, "" after
// the last.
func (s *Store) rolledUpAfter(ctx context.Context, device ecowatt.DeviceID, after string) (next string, err error) {
	err = s.queries.rolledUp.QueryRowContext(ctx, string(device), after).Scan(&next)
	return next, err
}

// curveOf yields the curve of the one inverter that q names.
func (s *Store) curveOf(ctx context.Context, q rollup.Query, step rollup.Step, points points, yield func(rollup.Part) bool) error {
	from, to := millis(q.From), millis(q.To)
	first, _ := step.Bounds(from)
	begin := first
	o := rollup.CurveOptions{Step: step, From: from, To: to, Points: q.Points, Energy: q.Energy, Describe: func(name string) ecowatt.Point {
		return points.describe(q.Inverter, name)
	}}
	if step.Coarse() {
		known, before, err := s.known(ctx, q, first, to)
		if err != nil {
			return err
		}
		o.Source, begin = sourceOf(known), before
	}
	c := rollup.NewCurve(o)
	emit := func(before int64) bool {
		names, buckets := c.Done(before)
		if len(buckets) == 0 {
			return true
		}
		part := rollup.Part{Inverter: q.Inverter, TimeZone: step.Zone(), Points: make([]ecowatt.Point, len(names)), Source: o.Source, Buckets: buckets}
		for i, name := range names {
			part.Points[i] = points.describe(q.Inverter, name)
		}
		return yield(part)
	}
	var err error
	if step.Coarse() {
		err = s.addQuarters(ctx, q, begin, to, c, emit)
	} else {
		err = s.addMinutes(ctx, q, first, to, c, emit)
	}
	if err == nil && !emit(math.MaxInt64) {
		err = errEnough
	}
	return err
}

// sourceOf is the best source of energy among those of which something is known.
func sourceOf(known int64) rollup.Role {
	for _, r := range []rollup.Role{rollup.Lifetime, rollup.Daily, rollup.Power} {
		if known&(1<<r) != 0 {
			return r
		}
	}
	return rollup.None
}

const selectKnown = `SELECT coalesce(max(known & 2), 0) | coalesce(max(known & 4), 0) | coalesce(max(known & 8), 0), coalesce(min(start), $1)
	FROM rollup WHERE device = (SELECT d.id FROM device d WHERE d.name = $2) AND inverter = $3 AND start < $4 AND start >=
	coalesce((SELECT max(b.start) FROM rollup b WHERE b.device = (SELECT d.id FROM device d WHERE d.name = $2) AND b.inverter = $3 AND b.start <= $1), $1)`

// known says of what roles something is known, and when the chunk begins that is
// the last one wholly before first: what lies between it and the next is energy
// of the next.
func (s *Store) known(ctx context.Context, q rollup.Query, first, to int64) (known, begin int64, err error) {
	err = s.queries.known.QueryRowContext(ctx, first-rollup.Chunk, string(q.Device), q.Inverter, to).Scan(&known, &begin)
	return known, begin, err
}

const selectQuarters = `SELECT start, points, series, stats FROM rollup
	WHERE device = (SELECT d.id FROM device d WHERE d.name = $1) AND inverter = $2 AND start >= $3 AND start < $4 AND (start, points) > ($5, $6)
	ORDER BY start, points LIMIT $7`

// Energy does without the stats, which are most of a row.
const selectSeries = `SELECT start, points, series, x'' FROM rollup
	WHERE device = (SELECT d.id FROM device d WHERE d.name = $1) AND inverter = $2 AND start >= $3 AND start < $4 AND (start, points) > ($5, $6)
	ORDER BY start, points LIMIT $7`

// quarterPage is how many chunks a query holds at a time.
const quarterPage = 256

// chunk is six hours of quarters as they are stored.
type chunk struct {
	start         int64
	points        string
	series, stats []byte
}

// addQuarters reads the chunks from begin on.
func (s *Store) addQuarters(ctx context.Context, q rollup.Query, begin, to int64, c *rollup.Curve, emit func(before int64) bool) error {
	for last := (chunk{start: begin}); ; {
		page, err := s.chunks(ctx, q, last, to)
		if err != nil {
			return err
		}
		for _, x := range page {
			if !emit(x.start) {
				return errEnough
			}
			if err := addChunk(c, strings.Split(x.points, ","), x.series, x.stats, q.Energy); err != nil {
				return err
			}
			last = x
		}
		if len(page) < quarterPage {
			return nil
		}
	}
}

// chunks returns a page of the chunks after one.
func (s *Store) chunks(ctx context.Context, q rollup.Query, last chunk, to int64) (page []chunk, err error) {
	statement := s.queries.quarters
	if q.Energy {
		statement = s.queries.series
	}
	rows, err := statement.QueryContext(ctx, string(q.Device), q.Inverter, last.start, to, last.start, last.points, quarterPage)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var x chunk
		if err := rows.Scan(&x.start, &x.points, &x.series, &x.stats); err != nil {
			return nil, err
		}
		page = append(page, x)
	}
	return page, rows.Err()
}

func addChunk(c *rollup.Curve, points []string, series, stats []byte, energy bool) error {
	if energy {
		return c.AddSeries(points, series)
	}
	table, err := parseChunk(points, series, stats)
	if err == nil {
		c.Add(points, table, rollup.Quarter)
	}
	return err
}

const selectMinutes = `SELECT id, t0, t1, points, minutes FROM block
	WHERE device = (SELECT d.id FROM device d WHERE d.name = $1) AND inverter = $2
	AND t0 >= $3 AND t0 < $4 AND t1 >= $5 AND (t0, t1, id) > ($6, $7, $8)
	ORDER BY t0, t1, id LIMIT $9`

// minutesOf is what a block says of its minutes.
type minutesOf struct {
	place
	points  string
	minutes []byte
}

// addMinutes reads the minutes of the blocks that reach into the curve.
func (s *Store) addMinutes(ctx context.Context, q rollup.Query, first, to int64, c *rollup.Curve, emit func(before int64) bool) error {
	for after := (place{t0: math.MinInt64}); ; {
		page, err := s.minutes(ctx, q, first, to, after)
		if err != nil {
			return err
		}
		for _, b := range page {
			after = b.place
			if !emit(b.t0 / rollup.Minute * rollup.Minute) {
				return errEnough
			}
			points := strings.Split(b.points, ",")
			table, err := rollup.ParseStats(b.minutes, len(points))
			if err != nil {
				return fmt.Errorf("block %d: %w", b.id, err)
			}
			table = slices.DeleteFunc(table, func(r rollup.Row) bool { return (r.N+1)*rollup.Minute <= first || r.N*rollup.Minute >= to })
			c.Add(points, table, rollup.Minute)
		}
		if len(page) < pageSize {
			return nil
		}
	}
}

// minutes returns a page of the blocks after a place.
func (s *Store) minutes(ctx context.Context, q rollup.Query, first, to int64, after place) (page []minutesOf, err error) {
	rows, err := s.queries.minutes.QueryContext(ctx, string(q.Device), q.Inverter,
		max(first-ingest.MaxSpan.Milliseconds(), after.t0), to, first, after.t0, after.t1, after.id, pageSize)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var b minutesOf
		if err := rows.Scan(&b.id, &b.t0, &b.t1, &b.points, &b.minutes); err != nil {
			return nil, err
		}
		page = append(page, b)
	}
	return page, rows.Err()
}
