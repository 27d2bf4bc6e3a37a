package cloud

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/store"
)

// TestTellsBeforeItStops: what is left to tell when a server is asked to stop is
// told while the committer still commits.
func TestTellsBeforeItStops(t *testing.T) {
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "ecowatt.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	s := &server{db: db, listener: listener, handler: http.NotFoundHandler(), logger: slog.New(slog.DiscardHandler), draining: make(chan struct{})}
	s.ready = func(string) { stop() }
	s.tell = func(ctx context.Context) error {
		<-ctx.Done()
		return db.Commit(context.WithoutCancel(ctx), func(tx *store.Tx) error {
			return tx.Append(audit.Record{Actor: audit.Actor{Kind: audit.System}, Action: "test.told"})
		})
	}
	if err := s.run(ctx); err != nil {
		t.Errorf("the server stops with %v", err)
	}
	if records, err := db.AuditRecords(t.Context(), audit.Filter{}); err != nil || len(records) != 1 {
		t.Errorf("%d records, %v; want what was left to tell", len(records), err)
	}
}
