package store

import (
	"context"
	"encoding/json"
	"fmt"

	"ecowatt/cloud/audit"
)

// Append writes a record; the store gives it its number.
func (tx *Tx) Append(r audit.Record) error {
	attrs := r.Attrs
	if attrs == nil {
		attrs = map[string]string{}
	}
	text, err := json.Marshal(attrs)
	if err != nil {
		return fmt.Errorf("encoding an audit record: %w", err)
	}
	_, err = tx.w.exec(`INSERT INTO audit (at, actor_kind, actor, device, action, text, attrs, reason) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		millis(r.At), string(r.Actor.Kind), r.Actor.Name, string(r.Device), r.Action, r.Text, string(text), attrs[audit.AttrReason])
	if err != nil {
		return fmt.Errorf("writing an audit record: %w", err)
	}
	return nil
}

// Append writes one audit record of its own: for an act that changes nothing
// else in the database, such as a refused sign-in.
func (s *Store) Append(ctx context.Context, r audit.Record) error {
	return s.write(ctx, func(tx *Tx) error { return tx.Append(r) })
}

// AuditRecords returns the records that the filter selects, oldest first.
func (s *Store) AuditRecords(ctx context.Context, f audit.Filter) ([]audit.Record, error) {
	query, args := auditQuery(f)
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", unavailable(err))
	}
	defer rows.Close()
	var records []audit.Record
	for rows.Next() {
		var (
			r     audit.Record
			at    int64
			attrs string
		)
		err := rows.Scan(&r.N, &at, &r.Actor.Kind, &r.Actor.Name, &r.Device, &r.Action, &r.Text, &attrs)
		if err == nil {
			err = json.Unmarshal([]byte(attrs), &r.Attrs)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", unavailable(err))
		}
		if len(r.Attrs) == 0 {
			r.Attrs = nil
		}
		r.At = moment(at)
		records = append(records, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", unavailable(err))
	}
	return records, nil
}

func auditQuery(f audit.Filter) (string, []any) {
	const columns = `SELECT n, at, actor_kind, actor, device, action, text, attrs FROM `
	source, args := `audit WHERE n > $1`, []any{f.After}
	if f.Device != "" {
		source, args = source+` AND device = $2 AND device <> ''`, append(args, string(f.Device))
	}
	if f.Security {
		source += ` AND reason <> ''`
	}
	if f.Last > 0 {
		args = append(args, f.Last)
		source = fmt.Sprintf(`(SELECT * FROM %s ORDER BY n DESC LIMIT $%d) AS newest`, source, len(args))
	}
	limit := f.Limit
	if limit <= 0 {
		limit = defaultLimit
	}
	args = append(args, limit)
	return columns + source + fmt.Sprintf(` ORDER BY n LIMIT $%d`, len(args)), args
}
