package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"math"
	"strings"

	"ecowatt"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/registry"
)

// pageSize is how many blocks a query of samples holds at a time.
const pageSize = 64

// Samples streams what the query selects: inverter by inverter, by name, and for
// each in the order of the blocks' first times. It holds a page of blocks at a
// time and no transaction between pages, so a slow reader holds up nobody. A
// device that is not there is registry.ErrNotFound. After an error nothing more
// is yielded.
func (s *Store) Samples(ctx context.Context, q ingest.Query) iter.Seq2[ingest.Part, error] {
	return func(yield func(ingest.Part, error) bool) {
		err := s.samples(ctx, q, func(p ingest.Part) bool { return yield(p, nil) })
		if err != nil && !errors.Is(err, errEnough) {
			yield(ingest.Part{}, fmt.Errorf("reading samples of %s: %w", q.Device, unavailable(err)))
		}
	}
}

// errEnough says that the reader wants no more.
var errEnough = errors.New("enough")

func (s *Store) samples(ctx context.Context, q ingest.Query, yield func(ingest.Part) bool) error {
	d, err := s.Device(ctx, q.Device)
	if err != nil {
		return err
	}
	points := pointsOf(d.Inventory)
	if q.Inverter != "" {
		return s.samplesOf(ctx, q, points, yield)
	}
	for {
		q.Inverter, err = s.inverterAfter(ctx, q.Device, q.Inverter)
		if err != nil || q.Inverter == "" {
			return err
		}
		if err := s.samplesOf(ctx, q, points, yield); err != nil {
			return err
		}
	}
}

// samplesOf yields the samples of the one inverter that q names.
func (s *Store) samplesOf(ctx context.Context, q ingest.Query, points points, yield func(ingest.Part) bool) error {
	for after := (place{t0: math.MinInt64}); ; {
		page, err := s.blocks(ctx, q, after)
		if err != nil {
			return err
		}
		for _, b := range page {
			after = b.place
			if len(b.Data) == 0 { // its samples were given up
				continue
			}
			part, ok, err := ingest.Select(q, b.Block, points.describe)
			if err != nil {
				return fmt.Errorf("block %d: %w", b.id, err)
			}
			if ok && !yield(part) {
				return errEnough
			}
		}
		if len(page) < pageSize {
			return nil
		}
	}
}

// points are what a device reported of its points, by inverter and name.
type points map[[2]string]ecowatt.Point

func pointsOf(inventory registry.Inventory) points {
	all := points{}
	for _, v := range inventory.Inverters {
		for _, p := range v.Points {
			all[[2]string{v.Name, p.Name}] = p
		}
	}
	return all
}

func (all points) describe(inverter, name string) ecowatt.Point {
	if p, ok := all[[2]string{inverter, name}]; ok {
		return p
	}
	return ecowatt.Point{Name: name}
}

const selectInverter = `SELECT coalesce(min(inverter), '') FROM block
	WHERE device = (SELECT d.id FROM device d WHERE d.name = $1) AND inverter > $2 AND t0 IS NOT NULL`

// inverterAfter returns the next inverter of which there are blocks, "" after the last.
func (s *Store) inverterAfter(ctx context.Context, device ecowatt.DeviceID, after string) (next string, err error) {
	err = s.queries.inverter.QueryRowContext(ctx, string(device), after).Scan(&next)
	return next, err
}

// place is where a block stands among those of its inverter.
type place struct {
	t0, t1, id int64
}

type storedBlock struct {
	ingest.Block
	place
}

// The index block_time has everything but id in this order; all that is read
// besides the blocks of the page are index entries of at most MaxSpan.
const selectBlocks = `SELECT id, t0, t1, inverter, samples, codec, points, data, window_ms FROM block
	WHERE device = (SELECT d.id FROM device d WHERE d.name = $1) AND inverter = $2
	AND t0 >= $3 AND t0 < $4 AND t1 >= $5 AND (t0, t1, id) > ($6, $7, $8)
	ORDER BY t0, t1, id LIMIT $9`

// blocks returns a page of blocks that may hold samples of the query. A block
// that begins before q.From may reach into it, but by no more than MaxSpan.
func (s *Store) blocks(ctx context.Context, q ingest.Query, after place) ([]storedBlock, error) {
	from, to := millis(q.From), millis(q.To)
	rows, err := s.queries.blocks.QueryContext(ctx, string(q.Device), q.Inverter,
		max(from-ingest.MaxSpan.Milliseconds(), after.t0), to, from, after.t0, after.t1, after.id, pageSize)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var page []storedBlock
	for rows.Next() {
		b := storedBlock{Block: ingest.Block{Placed: true}}
		var names string
		err := rows.Scan(&b.id, &b.t0, &b.t1, &b.Inverter, &b.Count, &b.Codec, &names, &b.Data, &b.Window)
		if err != nil {
			return nil, err
		}
		b.T0, b.Span = b.t0, b.t1-b.t0
		b.Points = strings.Split(names, ",")
		page = append(page, b)
	}
	return page, rows.Err()
}

// queries are the prepared statements of the reads that run over and over.
type queries struct {
	inverter, blocks                           *sql.Stmt
	rolledUp, known, quarters, series, minutes *sql.Stmt
}

// prepareQueries prepares them; they are closed with db.
func prepareQueries(ctx context.Context, db *sql.DB) (queries, error) {
	var errs []error
	prepare := func(text string) *sql.Stmt {
		statement, err := db.PrepareContext(ctx, text)
		errs = append(errs, err)
		return statement
	}
	q := queries{
		inverter: prepare(selectInverter),
		blocks:   prepare(selectBlocks),
		rolledUp: prepare(selectRolledUp),
		known:    prepare(selectKnown),
		quarters: prepare(selectQuarters),
		series:   prepare(selectSeries),
		minutes:  prepare(selectMinutes),
	}
	return q, unavailable(errors.Join(errs...))
}
