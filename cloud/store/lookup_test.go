package store

import (
	"context"
	"errors"
	"testing"

	"github.com/ncruces/go-sqlite3"

	"ecowatt/key"
)

func TestLookupsEnd(t *testing.T) {
	s := open(t)
	// Who waits for a connection does not wait longer than it wants to.
	var held []*connection
	for range cap(s.lookups.free) {
		held = append(held, <-s.lookups.free)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Credential(ctx, key.ID{}); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits any more: %v", err)
	}
	for _, c := range held {
		s.lookups.free <- c
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Credential(t.Context(), key.ID{}); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed store: %v", err)
	}
	if _, err := s.Session(t.Context(), [16]byte{}); !errors.Is(err, ErrClosed) {
		t.Errorf("a closed store: %v", err)
	}
}

// TestLookupsOnlyRead: nothing can be written where strangers' words are bound.
func TestLookupsOnlyRead(t *testing.T) {
	s := open(t)
	_, err := s.lookups.row(t.Context(), `DELETE FROM device`, func(*sqlite3.Stmt) error { return nil }, func(*sqlite3.Stmt) {})
	if !errors.Is(err, sqlite3.READONLY) {
		t.Errorf("a look-up writes: %v", err)
	}
	// And the connection goes on.
	for range 2 * cap(s.lookups.free) {
		if _, err := s.Session(t.Context(), [16]byte{}); err == nil || errors.Is(err, sqlite3.READONLY) {
			t.Errorf("afterwards: %v", err)
		}
	}
}
