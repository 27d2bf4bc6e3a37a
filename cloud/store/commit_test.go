package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt/cloud/audit"
)

// note is a unit of work that leaves a record.
func note(text string) func(*Tx) error {
	return func(tx *Tx) error {
		return tx.Append(audit.Record{At: noon, Actor: audit.Actor{Kind: audit.System, Name: "test"}, Action: "test.noted", Text: text})
	}
}

// notes are what there is of them, in order.
func notes(tb testing.TB, s *Store) []string {
	tb.Helper()
	var texts []string
	for _, r := range records(tb, s, audit.Filter{Limit: 100_000}) {
		texts = append(texts, r.Text)
	}
	return texts
}

// together hands units to the committer while it is held up, so that they share
// one group in this order, and returns what Commit said to each.
func together(t *testing.T, s *Store, units ...func(*Tx) error) []error {
	t.Helper()
	held, release := make(chan struct{}), make(chan struct{})
	errs := make([]error, len(units))
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := s.Commit(context.Background(), func(*Tx) error {
			close(held)
			<-release
			return nil
		}); err != nil {
			t.Errorf("holding the committer up: %v", err)
		}
	})
	<-held
	for i, u := range units {
		unit := &unit{apply: u, done: make(chan error, 1)}
		s.queue <- unit
		wait.Go(func() { errs[i] = <-unit.done })
	}
	close(release)
	wait.Wait()
	return errs
}

func TestCommitFromManyGoroutines(t *testing.T) {
	s := open(t)
	run(t, s)
	const callers, each = 32, 8
	var wait sync.WaitGroup
	for c := range callers {
		wait.Go(func() {
			for i := range each {
				text := fmt.Sprintf("%d/%d", c, i)
				if err := s.Commit(t.Context(), note(text)); err != nil {
					t.Errorf("%s: %v", text, err)
				}
				if n := number(t, s, `SELECT count(*) FROM audit WHERE text = '`+text+`'`); n != 1 {
					t.Errorf("%s is there %d times when Commit returns", text, n)
				}
			}
		})
	}
	wait.Wait()
	c := s.Counts()
	if c.Units != callers*each || c.Commits > c.Units || c.Refused+c.Failed+c.Spoiled != 0 {
		t.Errorf("%+v, want %d units and nothing else", c, callers*each)
	}
}

func TestGroupSharesOneTransaction(t *testing.T) {
	s := open(t)
	run(t, s)
	for i, err := range together(t, s, note("a"), note("b"), note("c")) {
		if err != nil {
			t.Errorf("unit %d: %v", i, err)
		}
	}
	want := Counts{Commits: 2, Units: 4} // the one that held them up was alone
	if diff := cmp.Diff(want, s.Counts()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFailingUnitsTouchNobody(t *testing.T) {
	boom := errors.New("boom")
	after := func(err error) func(*Tx) error {
		return func(tx *Tx) error { return errors.Join(note("undone")(tx), err) }
	}
	panics := func(tx *Tx) error {
		if err := note("undone")(tx); err != nil {
			return err
		}
		panic("boom")
	}
	for name, c := range map[string]struct {
		bad     func(*Tx) error
		spoiled uint64
	}{
		"before a change":      {func(*Tx) error { return boom }, 0},
		"after a change":       {after(boom), 1},
		"panic":                {func(*Tx) error { panic("boom") }, 0},
		"panic after a change": {panics, 1},
		"a constraint":         {func(tx *Tx) error { return errors.Join(tx.Append(audit.Record{}), boom) }, 0},
		"a wrong statement": {func(tx *Tx) error {
			_, err := tx.w.exec(`SELECT boom`)
			return errors.Join(err, boom)
		}, 0},
		"a missing value": {func(tx *Tx) error {
			_, err := tx.w.exec(`INSERT INTO audit (n) VALUES ($1)`)
			return errors.Join(err, boom)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			run(t, s)
			errs := together(t, s, note("a"), c.bad, note("b"), c.bad, c.bad, note("c"))
			for i, err := range errs {
				bad := i == 1 || i == 3 || i == 4
				if (err != nil) != bad || bad && !strings.Contains(err.Error(), "boom") {
					t.Errorf("unit %d: %v", i, err)
				}
			}
			if diff := cmp.Diff([]string{"a", "b", "c"}, notes(t, s)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			want := Counts{Commits: 2, Units: 4, Refused: 3, Spoiled: c.spoiled}
			if diff := cmp.Diff(want, s.Counts()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestBadUnitsCostOneTry: however many units of a group fail late, each runs
// twice at most.
func TestBadUnitsCostOneTry(t *testing.T) {
	s := open(t)
	run(t, s)
	const n = 100
	var calls [n]int
	units := make([]func(*Tx) error, n)
	for i := range units {
		units[i] = func(tx *Tx) error {
			calls[i]++
			if err := note(fmt.Sprint(i))(tx); err != nil || i%2 == 0 {
				return err
			}
			return io.ErrUnexpectedEOF
		}
	}
	together(t, s, units...)
	for i, n := range calls {
		if n > 2 {
			t.Errorf("unit %d ran %d times", i, n)
		}
	}
	if got := len(notes(t, s)); got != n/2 {
		t.Errorf("%d units took effect, want %d", got, n/2)
	}
}

// TestUnitsSeeEachOther: a group is one transaction, in the order of arrival.
func TestUnitsSeeEachOther(t *testing.T) {
	s := open(t)
	run(t, s)
	once := func(tx *Tx) error {
		var n int64
		if _, err := tx.w.row(`SELECT count(*) FROM audit WHERE text = $1`, []any{"once"}, &n); err != nil || n > 0 {
			return errors.Join(err, io.EOF)
		}
		return note("once")(tx)
	}
	errs := together(t, s, once, once)
	if errs[0] != nil || !errors.Is(errs[1], io.EOF) {
		t.Errorf("%v, want the first to take effect and the second to see it", errs)
	}
}

func TestUnitThatEndsItsTransaction(t *testing.T) {
	s := open(t)
	run(t, s)
	for _, statement := range []string{`COMMIT`, `ROLLBACK`} {
		errs := together(t, s, note("a"), func(tx *Tx) error {
			_, err := tx.w.exec(statement)
			return err
		}, note("b"))
		for i, err := range errs {
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s: unit %d: %v, want ErrUnavailable", statement, i, err)
			}
		}
	}
	if slices.Contains(notes(t, s), "b") {
		t.Error("a unit took effect outside of a transaction")
	}
	if err := s.Commit(t.Context(), note("goes on")); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestCallerGoesAway(t *testing.T) {
	s := open(t)
	run(t, s)
	held, release := make(chan struct{}), make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		s.Commit(context.Background(), func(*Tx) error {
			close(held)
			<-release
			return nil
		})
	})
	<-held
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrClosedPipe)
	if err := s.Commit(ctx, note("nobody waits for it")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%v, want the cause of the end of ctx", err)
	}
	close(release)
	wait.Wait()
	if err := s.Commit(t.Context(), note("next")); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"next"}, notes(t, s)); diff != "" {
		t.Errorf("a unit that nobody waited for took effect (-want +got):\n%s", diff)
	}
}

// TestFullQueue: who finds the queue full waits for a place in it, as long as
// ctx allows.
func TestFullQueue(t *testing.T) {
	s := openAt(t, t.TempDir()+"/ecowatt.db", Options{QueueSize: 1})
	s.queue <- &unit{apply: note("first"), done: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Commit(ctx, note("gone")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the end of ctx", err)
	}
	run(t, s)
	if err := s.Commit(t.Context(), note("second")); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"first", "second"}, notes(t, s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestRunEnds: what waits when Run is told to end is committed, what comes later
// is not and is told so.
func TestRunEnds(t *testing.T) {
	s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	waiting := make([]*unit, 600) // more than one group
	for i := range waiting {
		waiting[i] = &unit{apply: note("waits"), done: make(chan error, 1)}
		s.queue <- waiting[i]
	}
	if err := s.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
	for i, u := range waiting {
		if err := <-u.done; err != nil {
			t.Errorf("unit %d: %v", i, err)
		}
	}
	if n := number(t, s, `SELECT count(*) FROM audit`); n != 600 {
		t.Errorf("%d units are there, want 600", n)
	}
	if err := s.Commit(t.Context(), note("late")); !errors.Is(err, ErrClosed) {
		t.Errorf("afterwards: %v, want ErrClosed", err)
	}
	if err := s.Append(t.Context(), audit.Record{At: noon, Actor: audit.Actor{Kind: audit.System}, Action: "test.late"}); err != nil {
		t.Errorf("a change by people needs no committer: %v", err)
	}
	if err := s.Run(t.Context()); err == nil {
		t.Error("the committer runs a second time")
	}
}

// TestCloseWhileCommitting: every caller learns the truth, whatever the moment.
func TestCloseWhileCommitting(t *testing.T) {
	path := t.TempDir() + "/ecowatt.db"
	s := openAt(t, path, Options{GroupSize: 4, QueueSize: 4})
	run(t, s)
	const callers = 64
	told := make([]error, callers)
	begun := make(chan struct{}, callers)
	var wait sync.WaitGroup
	for c := range callers {
		wait.Go(func() {
			told[c] = s.Commit(context.Background(), func(tx *Tx) error {
				begun <- struct{}{}
				return note(fmt.Sprint(c))(tx)
			})
		})
	}
	<-begun
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	wait.Wait()
	there := map[string]bool{}
	for _, text := range notes(t, openAt(t, path, Options{})) {
		there[text] = true
	}
	for c, err := range told {
		if err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("caller %d: %v", c, err)
		}
		if there[fmt.Sprint(c)] != (err == nil) {
			t.Errorf("caller %d was told %v, and its unit is there: %v", c, err, err != nil)
		}
	}
}

// TestFullDisk: nothing of a group is there when the disk is full, all are told
// so, and it goes on when there is room again.
func TestFullDisk(t *testing.T) {
	s := open(t)
	run(t, s)
	limit := func(pages string) {
		s.turnTo(t, func(w *writer) {
			if err := w.conn.Exec(`PRAGMA max_page_count = ` + pages); err != nil {
				t.Fatal(err)
			}
		})
	}
	limit("1") // as many as there are
	errs := together(t, s, note("small"), note(strings.Repeat("large ", 100_000)), note("small too"))
	for i, err := range errs {
		if !errors.Is(err, ErrUnavailable) {
			t.Errorf("unit %d: %v, want ErrUnavailable", i, err)
		}
	}
	if err := s.Append(t.Context(), audit.Record{Text: strings.Repeat("large ", 100_000), Action: "test.noted", Actor: audit.Actor{Kind: audit.System}}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a change by people: %v, want ErrUnavailable", err)
	}
	if got := notes(t, s); len(got) > 0 {
		t.Errorf("%d records are there", len(got))
	}
	limit("1000000")
	if err := s.Commit(t.Context(), note("room again")); err != nil {
		t.Error(err)
	}
	want := Counts{Commits: 2, Units: 2, Failed: 3} // one held the others up, one found room
	if diff := cmp.Diff(want, s.Counts()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// turnTo gives the test the writing connection.
func (s *Store) turnTo(t *testing.T, use func(*writer)) {
	t.Helper()
	<-s.turn
	defer func() { s.turn <- struct{}{} }()
	use(s.writer)
}

// TestBusy: another process may hold the lock for longer than we wait.
//
// Attacks: R21, O10
func TestBusy(t *testing.T) {
	path := t.TempDir() + "/ecowatt.db"
	s, other := openAt(t, path, Options{BusyTimeout: 1}), openAt(t, path, Options{})
	run(t, s)
	other.turnTo(t, func(w *writer) {
		if err := w.transact(func() error {
			if err := s.Commit(t.Context(), note("a")); !errors.Is(err, ErrUnavailable) {
				t.Errorf("Commit: %v, want ErrUnavailable", err)
			}
			if err := s.write(t.Context(), note("b")); !errors.Is(err, ErrUnavailable) {
				t.Errorf("write: %v, want ErrUnavailable", err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
	if err := errors.Join(s.Commit(t.Context(), note("a")), s.write(t.Context(), note("b"))); err != nil {
		t.Errorf("when the lock is free: %v", err)
	}
}

// TestWriteUndoes: a change of people that fails or panics leaves nothing, and
// the writer is free afterwards.
func TestWriteUndoes(t *testing.T) {
	s := open(t)
	if err := s.write(t.Context(), func(tx *Tx) error { return errors.Join(note("undone")(tx), io.EOF) }); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want the error of the change", err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic is swallowed")
			}
		}()
		s.write(t.Context(), func(tx *Tx) error {
			if err := note("undone")(tx); err != nil {
				return err
			}
			panic("boom")
		})
	}()
	<-s.turn
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.write(ctx, note("gone")); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for another: %v, want the end of ctx", err)
	}
	s.turn <- struct{}{}
	do(t, s, note("done"))
	if diff := cmp.Diff([]string{"done"}, notes(t, s)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
