package store

import (
	"context"
	"database/sql"
	"fmt"
	"iter"
	"strings"

	"ecowatt"
	"ecowatt/cloud/ingest"
)

// pageSize is how many blocks a query of samples holds at a time.
const pageSize = 64

// Samples streams what the query selects: by inverter, and for each in the
// order of the blocks' first times. It holds a page of blocks at a time and no
// transaction between pages, so a slow reader holds up nobody. A device that is
// not there is registry.ErrNotFound. After an error nothing more is yielded.
func (s *Store) Samples(ctx context.Context, q ingest.Query) iter.Seq2[ingest.Part, error] {
	return func(yield func(ingest.Part, error) bool) {
		points, err := s.inventoryOf(ctx, q.Device)
		if err != nil {
			yield(ingest.Part{}, err)
			return
		}
		describe := func(inverter, point string) ecowatt.Point {
			if p, ok := points[[2]string{inverter, point}]; ok {
				return p
			}
			return ecowatt.Point{Name: point}
		}
		var after place
		for {
			page, err := s.blocks(ctx, q, after)
			if err != nil {
				yield(ingest.Part{}, fmt.Errorf("reading samples of %s: %w", q.Device, unavailable(err)))
				return
			}
			for _, b := range page {
				after = b.place
				part, ok, err := ingest.Select(q, b.Block, describe)
				if err != nil {
					yield(ingest.Part{}, fmt.Errorf("reading samples of %s, block %d: %w", q.Device, b.id, err))
					return
				}
				if ok && !yield(part, nil) {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
		}
	}
}

// place is where a block stands in the order of a query.
type place struct {
	inverter string
	t0, id   int64
}

type storedBlock struct {
	ingest.Block
	place
}

// blocks returns a page of blocks that may hold samples of the query. A block
// that begins before q.From may reach into it, but by no more than MaxSpan.
func (s *Store) blocks(ctx context.Context, q ingest.Query, after place) ([]storedBlock, error) {
	from, to := millis(q.From), millis(q.To)
	rows, err := s.queries.blocks.QueryContext(ctx, string(q.Device), q.Inverter,
		from-ingest.MaxSpan.Milliseconds(), to, from, after.inverter, after.t0, after.id, pageSize)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var page []storedBlock
	for rows.Next() {
		b := storedBlock{Block: ingest.Block{Placed: true}}
		var points string
		if err := rows.Scan(&b.id, &b.Inverter, &b.place.t0, &b.Span, &b.Count, &b.Codec, &points, &b.Data); err != nil {
			return nil, err
		}
		b.place.inverter, b.T0 = b.Inverter, b.place.t0
		b.Points = strings.Split(points, ",")
		page = append(page, b)
	}
	return page, rows.Err()
}

const selectBlocks = `SELECT id, inverter, t0, span, samples, codec, points, data FROM block
	WHERE device = (SELECT d.id FROM device d WHERE d.name = $1) AND ($2 = '' OR inverter = $2)
	AND t0 >= $3 AND t0 < $4 AND t1 >= $5 AND (inverter, t0, id) > ($6, $7, $8)
	ORDER BY inverter, t0, id LIMIT $9`

// queries are the prepared statements of the reads that every exchange or query makes.
type queries struct {
	blocks *sql.Stmt
}

func prepareQueries(ctx context.Context, db *sql.DB) (queries, error) {
	var q queries
	for text, dest := range map[string]**sql.Stmt{
		selectBlocks: &q.blocks,
	} {
		st, err := db.PrepareContext(ctx, text)
		if err != nil {
			return queries{}, fmt.Errorf("preparing %.40q: %w", text, unavailable(err))
		}
		*dest = st
	}
	return q, nil
}
