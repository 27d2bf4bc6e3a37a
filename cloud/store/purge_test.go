package store

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// remains returns how many of the wrapped keys stand in the files of a folder:
// any 40 bytes of one count.
func remains(t *testing.T, dir string, wrapped map[[16]byte][]byte) (found int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range wrapped {
			for at := 0; at+40 <= len(w); at += 32 {
				if bytes.Contains(data, w[at:at+40]) {
					found++
				}
			}
		}
	}
	return found
}

// TestPurge: of sessions that have ended, in whatever way, no byte of a wrapped
// key is left in the database, its log, or a backup.
func TestPurge(t *testing.T) {
	w := newWrapping(t, 40)
	ended, living := map[[16]byte][]byte{}, map[[16]byte][]byte{}
	for sid := range w.sessions {
		s, err := w.Session(t.Context(), sid)
		if err != nil {
			t.Fatal(err)
		}
		ended[sid] = s.Wrapped
	}
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 6 {
		for id := range w.devices {
			o := w.offer(id)
			o.At = noon.Add(time.Duration(round) * time.Hour)
			if _, err := w.Establish(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			living[o.SID] = o.Wrapped
		}
		for sid := range living {
			if random.IntN(3) > 0 {
				continue
			}
			ended[sid] = living[sid]
			delete(living, sid)
			do(t, w.Store, func(tx *Tx) error {
				_, err := tx.w.exec(`DELETE FROM session WHERE sid = $1`, sid[:])
				return err
			})
		}
		// Those that are left expire, and an hour later nobody has deleted them.
		for sid := range living {
			ended[sid] = living[sid]
			delete(living, sid)
		}
	}
	last := w.offer(w.addDevice("last"))
	last.At = noon.Add(24 * time.Hour)
	if _, err := w.Establish(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(w.path)
	if remains(t, dir, ended) == 0 {
		t.Fatal("nothing is there to be removed")
	}
	emptied, err := w.Purge(t.Context(), last.At)
	if err != nil || !emptied {
		t.Fatalf("Purge = %v, %v", emptied, err)
	}
	if n := number(t, w.Store, `SELECT count(*) FROM session`); n != 1 {
		t.Errorf("%d sessions, want the living one", n)
	}
	if n := remains(t, dir, ended); n > 0 {
		t.Errorf("%d pieces of keys of sessions that have ended are still there", n)
	}
	if remains(t, dir, map[[16]byte][]byte{last.SID: last.Wrapped}) == 0 {
		t.Error("the living session is not found: the search finds nothing")
	}
	backup := filepath.Join(t.TempDir(), "backup")
	if _, err := WriteBackup(t.Context(), w.path, backup, noon); err != nil {
		t.Fatal(err)
	}
	ended[last.SID] = last.Wrapped
	if n := remains(t, filepath.Dir(backup), ended); n > 0 {
		t.Errorf("%d pieces of keys of sessions are in a backup", n)
	}
}

// TestPurgeKeepsLastSeen: when a device was last seen is known after its
// session has gone.
func TestPurgeKeepsLastSeen(t *testing.T) {
	s := open(t)
	id := add(t, s, "roof")
	addSession(t, s, id, 1)
	seen := noon.Add(time.Minute)
	do(t, s, func(tx *Tx) error {
		_, err := tx.w.exec(`UPDATE session SET seen_at = $1, last_seq = 1`, millis(seen))
		return err
	})
	if _, err := s.Purge(t.Context(), noon); err != nil {
		t.Fatal(err)
	}
	if n := number(t, s, `SELECT count(*) FROM session`); n != 0 || !device(t, s, "roof").LastSeen.Equal(seen) {
		t.Errorf("%d sessions; last seen %v", n, device(t, s, "roof").LastSeen)
	}
}

// TestPurgeDoesNotWait: a reader that takes long holds up nobody.
func TestPurgeDoesNotWait(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "ecowatt.db"), Options{BusyTimeout: time.Hour})
	id := add(t, s, "roof")
	do(t, s, func(tx *Tx) error {
		_, err := tx.w.exec(`WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n <= 2 * $1)
			INSERT INTO session (sid, device, epoch, hs_no, state, kek, wrapped, hs1_hash, hs2, created_at, lifetime, expires_at)
			SELECT randomblob(16), $2, 1, n, 'pending', 'aaaa', zeroblob(136), zeroblob(32), x'00', 0, 1, 1 FROM n`, purgeSize, id)
		return err
	})
	reader, err := s.read.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	if err := reader.QueryRow(`SELECT count(*) FROM session`).Scan(&n); err != nil || n != 2*purgeSize+1 {
		t.Fatal(n, err)
	}
	began := time.Now()
	if emptied, err := s.Purge(t.Context(), noon); err != nil || emptied || time.Since(began) > 20*time.Second {
		t.Errorf("while somebody reads: %v, %v after %v; want at once that the log was not emptied", emptied, err, time.Since(began))
	}
	s.turnTo(t, func(w *writer) {
		var ms int64
		if _, err := w.row(`PRAGMA busy_timeout`, nil, &ms); err != nil || ms != time.Hour.Milliseconds() {
			t.Errorf("whoever writes next waits %d ms for others, %v", ms, err)
		}
	})
	if err := reader.Commit(); err != nil {
		t.Fatal(err)
	}
	if n = number(t, s, `SELECT count(*) FROM session`); n != 0 {
		t.Errorf("%d expired sessions are left", n)
	}
	if emptied, err := s.Purge(t.Context(), noon); err != nil || !emptied {
		t.Errorf("afterwards: %v, %v", emptied, err)
	}
}
