package store

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"ecowatt/cloud/ingest"
)

// Limits of what is kept and done for the clocks of a device.
const (
	bootsKept = 64  // boots of a device whose clock is known; the oldest are forgotten
	placeMost = 256 // blocks that get their place at a time; the others do with the next report of the clock
)

// Take makes a message take effect once: it is remembered by its id, and its
// block is stored. Stored says that it is new to the device, so whatever else it
// causes belongs into the same transaction; ingest.Duplicate and ingest.Conflict
// say that it is not.
func (tx *Tx) Take(device int64, m ingest.Message, at time.Time) (ingest.Status, error) {
	n, err := tx.w.exec(`INSERT INTO message (device, msg_id, hash, kind, at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`,
		device, m.ID[:], m.Hash[:], int64(m.Kind), millis(at))
	if err != nil {
		return 0, fmt.Errorf("remembering a message: %w", err)
	}
	if n == 0 {
		return tx.known(device, m)
	}
	if m.Block == nil {
		return ingest.Stored, nil
	}
	if err := tx.storeBlock(device, *m.Block, at); err != nil {
		return 0, fmt.Errorf("storing a block: %w", err)
	}
	return ingest.Stored, nil
}

func (tx *Tx) known(device int64, m ingest.Message) (ingest.Status, error) {
	var hash []byte
	found, err := tx.w.row(`SELECT hash FROM message WHERE device = $1 AND msg_id = $2`, []any{device, m.ID[:]}, &hash)
	if err == nil && !found {
		err = errors.New("neither new nor known")
	}
	if err != nil {
		return 0, fmt.Errorf("looking up a message: %w", err)
	}
	return ingest.Known([32]byte(hash), m.Hash), nil
}

// storeBlock keeps a block, in its place where the clock of its boot is known.
func (tx *Tx) storeBlock(device int64, b ingest.Block, at time.Time) error {
	var boot, mono, t0, t1 any
	if b.Boot != nil {
		boot, mono = b.Boot.Boot[:], b.Boot.Mono
		clock, found, err := tx.clock(device, b.Boot.Boot)
		if err != nil {
			return err
		}
		if found {
			clock.Place(&b, at)
		}
	}
	var minutes any
	if b.Placed {
		if b.Quarters == nil { // it was not known where they begin when the block was checked
			condense(&b)
		}
		t0, t1, minutes = b.T0, b.T0+b.Span, b.Minutes.AppendStats(nil)
		if keep := tx.w.retention.Minutes; keep > 0 && b.T0+b.Span < millis(at.Add(-keep)) {
			return tx.rollUp(device, b)
		}
		if keep := tx.w.retention.Samples; keep > 0 && b.T0+b.Span < millis(at.Add(-keep)) {
			b.Data = []byte{} // it comes later than samples are kept: its minutes are
		}
	}
	_, err := tx.w.exec(`INSERT INTO block (device, inverter, t0, t1, span, samples, codec, points, data, boot_id, mono, window_ms, minutes)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
		device, b.Inverter, t0, t1, b.Span, b.Count, int64(b.Codec), strings.Join(b.Points, ","), b.Data, boot, mono, b.Window, minutes)
	if err != nil || !b.Placed {
		return err
	}
	return tx.rollUp(device, b)
}

// clock returns what is known of a boot of a device.
func (tx *Tx) clock(device int64, boot ingest.BootID) (ingest.Clock, bool, error) {
	c := ingest.Clock{Boot: boot}
	found, err := tx.w.row(`SELECT wall_offset, uncertainty FROM boot WHERE device = $1 AND boot_id = $2`,
		[]any{device, boot[:]}, &c.Offset, &c.Uncertainty)
	if err != nil {
		return ingest.Clock{}, false, fmt.Errorf("looking up a boot: %w", err)
	}
	return c, found, nil
}

// Observe takes note of where a boot of a device lies in time, unless that is
// known better, and gives their place to the blocks that waited for it.
func (tx *Tx) Observe(device int64, c ingest.Clock, at time.Time) error {
	old, found, err := tx.clock(device, c.Boot)
	if err != nil {
		return err
	}
	if found && !c.Better(old) {
		return tx.place(device, old, at)
	}
	_, err = tx.w.exec(`INSERT INTO boot (device, boot_id, wall_offset, uncertainty, seen_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (device, boot_id) DO UPDATE SET wall_offset = excluded.wall_offset, uncertainty = excluded.uncertainty, seen_at = excluded.seen_at`,
		device, c.Boot[:], c.Offset, c.Uncertainty, millis(at))
	if err == nil && !found {
		_, err = tx.w.exec(`DELETE FROM boot WHERE device = $1 AND boot_id IN
			(SELECT b.boot_id FROM boot b WHERE b.device = $1 ORDER BY b.seen_at DESC, b.boot_id LIMIT 16 OFFSET $2)`, device, bootsKept)
	}
	if err != nil {
		return fmt.Errorf("noting a boot: %w", err)
	}
	return tx.place(device, c, at)
}

// place gives the blocks of a boot that have no place yet the one that the clock
// says, oldest first.
func (tx *Tx) place(device int64, c ingest.Clock, at time.Time) error {
	last := int64(0)
	for range placeMost {
		b := ingest.Block{Boot: &ingest.Instant{Boot: c.Boot}}
		var count, codec int64
		var names string
		found, err := tx.w.row(`SELECT id, mono, span, inverter, points, samples, codec, data, window_ms FROM block
			WHERE device = $1 AND boot_id = $2 AND t0 IS NULL AND id > $3 ORDER BY id LIMIT 1`,
			[]any{device, c.Boot[:], last}, &last, &b.Boot.Mono, &b.Span, &b.Inverter, &names, &count, &codec, &b.Data, &b.Window)
		if err != nil {
			return fmt.Errorf("looking for blocks without a place: %w", err)
		}
		if !found {
			return nil
		}
		if !c.Place(&b, at) {
			continue
		}
		b.Points, b.Count, b.Codec = strings.Split(names, ","), int(count), uint64(codec)
		condense(&b)
		if _, err := tx.w.exec(`UPDATE block SET t0 = $1, t1 = $2, minutes = $3 WHERE id = $4`, b.T0, b.T0+b.Span, b.Minutes.AppendStats(nil), last); err != nil {
			return fmt.Errorf("placing a block: %w", err)
		}
		if err := tx.rollUp(device, b); err != nil {
			return err
		}
	}
	return nil
}
