package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/registry"
	"ecowatt/key"
)

// noon is the time of these tests.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// openAt opens the store at path and closes it with the test.
func openAt(tb testing.TB, path string, o Options) *Store {
	tb.Helper()
	s, err := Open(tb.Context(), path, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("closing the store: %v", err)
		}
	})
	return s
}

// open opens a store of its own for the test.
func open(tb testing.TB) *Store {
	tb.Helper()
	return openAt(tb, filepath.Join(tb.TempDir(), "ecowatt.db"), Options{})
}

// run runs the committer until the test ends, or stop is called.
func run(tb testing.TB, s *Store) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("Run: %v", err)
		}
		done <- nil
	}
	tb.Cleanup(stop)
	return stop
}

// newDevice is a device as registry.Add hands it to the store.
func newDevice(tb testing.TB, name string) registry.NewDevice {
	tb.Helper()
	id, err := key.NewID(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return registry.NewDevice{
		ID: ecowatt.DeviceID(name), Group: "north", Notes: "on the barn", CreatedAt: noon, By: "ada",
		Key: registry.NewKey{ID: id, Epoch: 1, KEK: "00112233445566ff", Wrapped: make([]byte, 72)},
	}
}

// add adds a device and returns the number of its row.
func add(tb testing.TB, s *Store, name string) int64 {
	tb.Helper()
	if err := s.CreateDevice(tb.Context(), newDevice(tb, name)); err != nil {
		tb.Fatal(err)
	}
	return number(tb, s, `SELECT id FROM device WHERE name = '`+name+`'`)
}

// number is what a query of one number says, to a reader.
func number(tb testing.TB, s *Store, query string) (n int64) {
	tb.Helper()
	if err := s.read.QueryRowContext(tb.Context(), query).Scan(&n); err != nil {
		tb.Fatal(err)
	}
	return n
}

// do makes a change by itself.
func do(tb testing.TB, s *Store, change func(*Tx) error) {
	tb.Helper()
	if err := s.write(tb.Context(), change); err != nil {
		tb.Fatal(err)
	}
}

func records(tb testing.TB, s *Store, f audit.Filter) []audit.Record {
	tb.Helper()
	list, err := s.AuditRecords(tb.Context(), f)
	if err != nil {
		tb.Fatal(err)
	}
	return list
}

func TestTokens(t *testing.T) {
	s := open(t)
	if has, err := s.HasTokens(t.Context()); has || err != nil {
		t.Errorf("a new store has tokens: %v, %v", has, err)
	}
	_, first, err := access.New(rand.Reader, "ada", access.Administrator, noon)
	if err != nil {
		t.Fatal(err)
	}
	_, second, err := access.New(rand.Reader, "bob", access.Viewer, noon.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	second.ExpiresAt = noon.Add(time.Hour)
	if err := errors.Join(s.PutToken(t.Context(), first, ""), s.PutToken(t.Context(), second, "ada")); err != nil {
		t.Fatal(err)
	}
	if has, err := s.HasTokens(t.Context()); !has || err != nil {
		t.Errorf("HasTokens = %v, %v", has, err)
	}
	for _, want := range []access.Token{first, second} {
		got, err := s.TokenByHash(t.Context(), want.Hash)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", want.Name, err, diff)
		}
	}
	if _, err := s.TokenByHash(t.Context(), [32]byte{1}); !errors.Is(err, access.ErrUnknown) {
		t.Errorf("an unknown hash: %v, want ErrUnknown", err)
	}

	_, again, err := access.New(rand.Reader, "ada", access.Viewer, noon)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PutToken(t.Context(), again, "ada"); !errors.Is(err, access.ErrExists) {
		t.Errorf("a name that is taken: %v, want ErrExists", err)
	}
	if _, err := s.TokenByHash(t.Context(), again.Hash); !errors.Is(err, access.ErrUnknown) {
		t.Errorf("a token that was refused is there: %v", err)
	}
	want := []audit.Record{
		{
			N: 1, At: noon, Actor: audit.Actor{Kind: audit.System, Name: "access"}, Action: "token.created",
			Text: "token created", Attrs: map[string]string{"token": "ada", "role": "administrator"},
		},
		{
			N: 2, At: noon.Add(time.Second), Actor: audit.Actor{Kind: audit.Operator, Name: "ada"}, Action: "token.created",
			Text: "token created", Attrs: map[string]string{"token": "bob", "role": "viewer", "expires_at": "2026-03-01T13:00:00Z"},
		},
	}
	if diff := cmp.Diff(want, records(t, s, audit.Filter{})); diff != "" {
		t.Errorf("audit log (-want +got):\n%s", diff)
	}
}

// TestBootstrap: the store is what access needs of one.
func TestBootstrap(t *testing.T) {
	s := open(t)
	var saved key.Token
	made, err := access.Bootstrap(t.Context(), s, rand.Reader, noon, func(k key.Token) error {
		saved = k
		return nil
	})
	if !made || err != nil {
		t.Fatalf("Bootstrap = %v, %v", made, err)
	}
	who, err := access.Authenticate(t.Context(), s, "Bearer "+saved.Text(), noon)
	if err != nil || who.Role != access.Administrator {
		t.Errorf("the first token is %v, %v", who, err)
	}
	made, err = access.Bootstrap(t.Context(), s, rand.Reader, noon, func(key.Token) error { return io.ErrUnexpectedEOF })
	if made || err != nil {
		t.Errorf("second Bootstrap = %v, %v", made, err)
	}
}

func TestKEKs(t *testing.T) {
	s := open(t)
	if got, err := s.KEKs(t.Context()); len(got) > 0 || err != nil {
		t.Errorf("of an empty store: %q, %v", got, err)
	}
	id := add(t, s, "roof")
	other := newDevice(t, "barn")
	other.Key.KEK = "8899aabbccddeeff"
	if err := s.CreateDevice(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	add(t, s, "shed")
	do(t, s, func(tx *Tx) error {
		_, err := tx.w.exec(`INSERT INTO session (sid, device, epoch, hs_no, state, kek, wrapped, hs1_hash, hs2, created_at, lifetime, expires_at)
			VALUES (zeroblob(16), $1, 1, 1, 'pending', 'aaaa', zeroblob(136), zeroblob(32), x'00', 0, 1, 1)`, id)
		return err
	})
	got, err := s.KEKs(t.Context())
	if diff := cmp.Diff([]string{"00112233445566ff", "8899aabbccddeeff", "aaaa"}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestKEKProbes(t *testing.T) {
	s := open(t)
	add(t, s, "roof")
	add(t, s, "shed")
	add(t, s, "hall")
	other := newDevice(t, "barn")
	other.Key.KEK = "8899aabbccddeeff"
	if err := s.CreateDevice(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	got, err := s.KEKProbes(t.Context())
	if err != nil || len(got) != 3 {
		t.Fatalf("%d probes of two key-encryption keys: %v", len(got), err)
	}
	for i, kek := range []string{"00112233445566ff", "00112233445566ff", "8899aabbccddeeff"} {
		want, err := s.Credential(t.Context(), got[i].ID)
		if err != nil {
			t.Fatal(err)
		}
		if got[i].KEK != kek || got[i].Name != want.Name || got[i].Epoch != want.Epoch || !bytes.Equal(got[i].Wrapped, want.Wrapped) {
			t.Errorf("probe %d: %+v, want %+v", i, got[i], want)
		}
	}
}

func TestReady(t *testing.T) {
	s := open(t)
	if err := s.Ready(t.Context()); err != nil {
		t.Errorf("an open store: %v", err)
	}
	stop := run(t, s)
	stop()
	if err := s.Ready(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("without a committer: %v, want ErrClosed", err)
	}
}

// TestClosed: a closed store says so, and nothing hangs.
func TestClosed(t *testing.T) {
	s := open(t)
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"Commit": s.Commit(t.Context(), func(*Tx) error { return nil }),
		"Append": s.Append(t.Context(), audit.Record{}),
		"Ready":  s.Ready(t.Context()),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", name, err)
		}
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("the committer of a closed store runs")
	}
	if _, err := s.Device(t.Context(), "roof"); err == nil {
		t.Error("a closed store reads")
	}
}
