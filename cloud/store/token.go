package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"

	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
)

// HasTokens reports whether there is any token.
func (s *Store) HasTokens(ctx context.Context) (bool, error) {
	var has bool
	if err := s.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM token)`).Scan(&has); err != nil {
		return false, fmt.Errorf("reading tokens: %w", unavailable(err))
	}
	return has, nil
}

// PutToken stores a token and writes the audit record "token.created". by is
// the operator's name, empty for the cloud itself. A name that is taken is
// access.ErrExists.
func (s *Store) PutToken(ctx context.Context, t access.Token, by string) error {
	actor := audit.Actor{Kind: audit.Operator, Name: by}
	if by == "" {
		actor = audit.Actor{Kind: audit.System, Name: "access"}
	}
	attrs := map[string]string{"token": t.Name, "role": t.Role.String()}
	var expires any
	if !t.ExpiresAt.IsZero() {
		expires = millis(t.ExpiresAt)
		attrs["expires_at"] = t.ExpiresAt.UTC().Format(time.RFC3339)
	}
	err := s.write(ctx, func(tx *Tx) error {
		_, err := tx.w.exec(`INSERT INTO token (hash, name, role, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)`,
			t.Hash[:], t.Name, t.Role.String(), millis(t.CreatedAt), expires)
		if errors.Is(err, sqlite3.CONSTRAINT_UNIQUE) {
			return access.ErrExists
		}
		if err != nil {
			return err
		}
		return tx.Append(audit.Record{At: t.CreatedAt, Actor: actor, Action: "token.created", Text: "token created", Attrs: attrs})
	})
	if err != nil {
		return fmt.Errorf("storing the token %s: %w", t.Name, err)
	}
	return nil
}

// TokenByHash returns the token with this hash, expired or not, or access.ErrUnknown.
func (s *Store) TokenByHash(ctx context.Context, hash [32]byte) (access.Token, error) {
	var (
		t       access.Token
		stored  []byte
		role    string
		created int64
		expires sql.NullInt64
	)
	err := s.read.QueryRowContext(ctx, `SELECT hash, name, role, created_at, expires_at FROM token WHERE hash = $1`, hash[:]).
		Scan(&stored, &t.Name, &role, &created, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return access.Token{}, access.ErrUnknown
	}
	if err == nil {
		t.Role, err = access.ParseRole(role)
	}
	if err != nil {
		return access.Token{}, fmt.Errorf("reading a token: %w", unavailable(err))
	}
	t.Hash, t.CreatedAt, t.ExpiresAt = [32]byte(stored), moment(created), moments(expires)
	return t, nil
}

// KEKs returns the ids of the key-encryption keys that wrap anything in the
// database, in order. It reads every key: it is for the start of the cloud.
func (s *Store) KEKs(ctx context.Context) ([]string, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT kek FROM device_key WHERE kek IS NOT NULL UNION SELECT kek FROM session UNION SELECT kek FROM firmware ORDER BY 1`)
	if err != nil {
		return nil, fmt.Errorf("reading the ids of key-encryption keys: %w", unavailable(err))
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("reading the ids of key-encryption keys: %w", unavailable(err))
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the ids of key-encryption keys: %w", unavailable(err))
	}
	return ids, nil
}
