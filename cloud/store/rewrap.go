package store

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/rollout"
	"ecowatt/key"
)

// ErrPlace says that a text is none that Rewrap has returned.
var ErrPlace = errors.New("not a place at which wrapping anew can go on")

// Rewrapper wraps a wrapped key anew, under its primary key-encryption key;
// keyring.Ring does.
type Rewrapper interface {
	RewrapDevice(kek string, wrapped []byte, device string, id key.ID, epoch key.Epoch) (primary string, again []byte, err error)
	RewrapSession(kek string, wrapped []byte, device string, sid [16]byte) (primary string, again []byte, err error)
	RewrapContent(kek string, wrapped []byte, release [32]byte) (primary string, again []byte, err error)
}

// RewrapOrder asks for some keys to be wrapped anew.
type RewrapOrder struct {
	Keys    Rewrapper
	Primary string       // id of the key that Keys wraps with now; what it wraps is left alone
	After   string       // where to go on: Rewrapped.Next, "" at the beginning
	Most    int          // rows in one transaction, default 256
	Record  audit.Record // written with the change, where there is one; its Attrs get the counts
}

// Rewrapped says what came of a RewrapOrder.
type Rewrapped struct {
	DeviceKeys int      // that are wrapped anew
	Sessions   int      // likewise
	Releases   int      // likewise: keys of their content
	Failed     []string // what does not open, for people
	Next       string   // where to go on; "" when there is nothing more
}

// Rewrap wraps some keys anew, in one transaction. A row that somebody else has
// changed since it was read is left alone: it was replaced, which wraps it with
// the primary key, or destroyed. So a row is always the old one or the new one,
// and whoever is interrupted begins again wherever he likes. What does not open
// stays as it is.
func (s *Store) Rewrap(ctx context.Context, o RewrapOrder) (Rewrapped, error) {
	if o.Most <= 0 {
		o.Most = 256
	}
	at, err := parsePlace(o.After)
	if err != nil {
		return Rewrapped{}, err
	}
	rows, err := s.wrappedRows(ctx, at, o.Primary, o.Most)
	if err != nil {
		return Rewrapped{}, fmt.Errorf("reading wrapped keys: %w", unavailable(err))
	}
	done := Rewrapped{Next: at.next(rows, o.Most).String()}
	var anew []wrappedRow
	for _, row := range rows {
		if err := row.rewrap(o.Keys); err != nil {
			done.Failed = append(done.Failed, err.Error())
			continue
		}
		anew = append(anew, row)
	}
	if len(anew) == 0 {
		return done, nil
	}
	changed := 0
	err = s.write(ctx, func(tx *Tx) (err error) {
		changed, err = tx.replaceWrapped(at.table, anew)
		if err != nil || changed == 0 {
			return err
		}
		return tx.Append(at.table.record(o, changed, len(done.Failed)))
	})
	if err != nil {
		return Rewrapped{}, fmt.Errorf("wrapping keys anew: %w", err)
	}
	switch at.table {
	case deviceKeys:
		done.DeviceKeys = changed
	case sessions:
		done.Sessions = changed
	case contents:
		done.Releases = changed
	}
	return done, nil
}

// wrappedTable is a table that holds wrapped keys.
type wrappedTable byte

// The tables, in the order in which they are gone through.
const (
	deviceKeys wrappedTable = 'd'
	sessions   wrappedTable = 's'
	contents   wrappedTable = 'f'
)

// toRewrap selects the rows of the table that another key than the primary one wraps.
func (t wrappedTable) toRewrap() string {
	switch t {
	case deviceKeys:
		return `SELECT k.psk_id, d.name, k.epoch, k.kek, k.wrapped FROM device_key k JOIN device d ON d.id = k.device
			WHERE k.psk_id > $1 AND k.kek <> $2 ORDER BY k.psk_id LIMIT $3`
	case contents:
		return `SELECT f.id, '', 0, f.kek, f.wrapped FROM firmware f WHERE f.id > $1 AND f.kek <> $2 ORDER BY f.id LIMIT $3`
	case sessions:
	}
	return `SELECT s.sid, d.name, s.epoch, s.kek, s.wrapped FROM session s JOIN device d ON d.id = s.device
		WHERE s.sid > $1 AND s.kek <> $2 ORDER BY s.sid LIMIT $3`
}

// replace changes a row that is still what it was.
func (t wrappedTable) replace() string {
	switch t {
	case deviceKeys:
		return `UPDATE device_key SET kek = $1, wrapped = $2 WHERE psk_id = $3 AND kek = $4 AND wrapped = $5`
	case contents:
		return `UPDATE firmware SET kek = $1, wrapped = $2 WHERE id = $3 AND kek = $4 AND wrapped = $5`
	case sessions:
	}
	return `UPDATE session SET kek = $1, wrapped = $2 WHERE sid = $3 AND kek = $4 AND wrapped = $5`
}

func (t wrappedTable) record(o RewrapOrder, changed, failed int) audit.Record {
	what := map[wrappedTable]string{deviceKeys: "device_keys", sessions: "sessions", contents: "releases"}
	r := o.Record
	r.Attrs = map[string]string{"kek": o.Primary, what[t]: strconv.Itoa(changed)}
	if failed > 0 {
		r.Attrs["failed"] = strconv.Itoa(failed)
	}
	return r
}

// wrappedRow is a row of a wrappedTable.
type wrappedRow struct {
	table   wrappedTable
	id      []byte // psk id, session id or release
	device  string
	epoch   key.Epoch
	kek     string
	wrapped []byte

	primary string // what takes the place of kek
	again   []byte // and of wrapped
}

func (s *Store) wrappedRows(ctx context.Context, at rewrapPlace, primary string, most int) ([]wrappedRow, error) {
	rows, err := s.read.QueryContext(ctx, at.table.toRewrap(), at.id, primary, most)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []wrappedRow
	for rows.Next() {
		row := wrappedRow{table: at.table}
		var id []byte
		if err := rows.Scan(&id, &row.device, &row.epoch, &row.kek, &row.wrapped); err != nil {
			return nil, err
		}
		row.id = id
		list = append(list, row)
	}
	return list, rows.Err()
}

func (r *wrappedRow) rewrap(keys Rewrapper) (err error) {
	switch r.table {
	case deviceKeys:
		r.primary, r.again, err = keys.RewrapDevice(r.kek, r.wrapped, r.device, key.ID(r.id), r.epoch)
	case sessions:
		r.primary, r.again, err = keys.RewrapSession(r.kek, r.wrapped, r.device, [16]byte(r.id))
	case contents:
		r.primary, r.again, err = keys.RewrapContent(r.kek, r.wrapped, [32]byte(r.id))
	}
	return err
}

// replaceWrapped returns how many of the rows it has changed.
func (tx *Tx) replaceWrapped(t wrappedTable, rows []wrappedRow) (int, error) {
	changed := 0
	for _, r := range rows {
		n, err := tx.w.exec(t.replace(), r.primary, r.again, r.id, r.kek, r.wrapped)
		if err != nil {
			return 0, fmt.Errorf("replacing a wrapped key: %w", err)
		}
		changed += int(n)
	}
	return changed, nil
}

// rewrapPlace is how far the tables were gone through: up to the row of that id.
type rewrapPlace struct {
	table wrappedTable // 0 at the end
	id    []byte       // empty before the first row
}

// String is what parsePlace reads, empty at the end.
func (p rewrapPlace) String() string {
	if p.table == 0 {
		return ""
	}
	return string(p.table) + hex.EncodeToString(p.id)
}

func parsePlace(s string) (rewrapPlace, error) {
	if s == "" {
		return rewrapPlace{table: deviceKeys, id: []byte{}}, nil
	}
	t := wrappedTable(s[0])
	id, err := hex.DecodeString(s[1:])
	if err != nil || t != deviceKeys && t != sessions && t != contents || len(id) != 0 && len(id) != t.idSize() {
		return rewrapPlace{}, fmt.Errorf("%.40q: %w", s, ErrPlace)
	}
	return rewrapPlace{table: t, id: id}, nil
}

// idSize is how long the ids of the table are, in bytes.
func (t wrappedTable) idSize() int {
	if t == contents {
		return len(rollout.Hash{})
	}
	return len(key.ID{})
}

// next is the place after these rows, of which there were to be so many.
func (p rewrapPlace) next(rows []wrappedRow, most int) rewrapPlace {
	switch {
	case len(rows) == most:
		return rewrapPlace{table: p.table, id: bytes.Clone(rows[most-1].id)}
	case p.table == deviceKeys:
		return rewrapPlace{table: sessions}
	case p.table == sessions:
		return rewrapPlace{table: contents}
	}
	return rewrapPlace{}
}
