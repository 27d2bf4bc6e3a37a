package store

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ecowatt/cloud/ingest"
	"ecowatt/cloud/session"
)

// BenchmarkCommit measures whole exchanges (a request accepted, a message
// remembered, a block stored) from 64 callers, over a fleet whose rows lie
// scattered. x_bare is the share of what the same callers get through the same
// committer when a unit is one row appended to a table without an index.
func BenchmarkCommit(b *testing.B) {
	const fleet = 10_000
	s := open(b)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	sessions := manySessions(b, s, fleet)
	telemetry := block(b, "east", noon.UnixMilli(), 15, 2301, "a", "b", "c", "d", "e", "f", "g", "h", "i", "j")
	do(b, s, func(tx *Tx) error {
		_, err := tx.w.exec(`CREATE TABLE bare (id INTEGER PRIMARY KEY, data BLOB) STRICT`)
		return err
	})

	const rows = 20_000
	bare := func() time.Duration {
		start := time.Now()
		inParallel(b, rows, func(int) error {
			return s.Commit(ctx, func(tx *Tx) error {
				_, err := tx.w.exec(`INSERT INTO bare (data) VALUES ($1)`, telemetry.Data)
				return err
			})
		})
		return time.Since(start)
	}

	took := bare()
	before := s.Counts()
	b.ResetTimer()
	inParallel(b, b.N, func(n int) error {
		round, x := n/fleet, sessions[n%fleet]
		x.LastSeq = session.Sequence(round)
		at := noon.Add(time.Duration(round) * 15 * time.Minute)
		m := ingest.Message{Kind: ingest.KindTelemetry, Block: &telemetry}
		binary.BigEndian.PutUint64(m.ID[:], rand.Uint64())
		binary.BigEndian.PutUint64(m.ID[8:], uint64(n))
		stored := telemetry
		stored.T0 = at.UnixMilli()
		if err := stored.Condense(); err != nil { // as the gateway does, before the line of those who write
			return err
		}
		m.Block = &stored
		return s.Commit(ctx, func(tx *Tx) error {
			if _, err := tx.Raise(session.Claim{Session: x, Seq: x.LastSeq + 1, At: at}); err != nil {
				return err
			}
			_, err := tx.Take(x.Device, m, at)
			return err
		})
	})
	b.StopTimer()
	after := s.Counts()
	took += bare()
	rate := float64(b.N) / b.Elapsed().Seconds()
	b.ReportMetric(rate, "exchanges/s")
	b.ReportMetric(rate/(2*rows/took.Seconds()), "x_bare")
	b.ReportMetric(float64(after.Units-before.Units)/float64(after.Commits-before.Commits), "units/commit")
	b.ReportMetric(0, "ns/op")
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// inParallel calls work with 0 … n-1 from 64 goroutines.
func inParallel(b *testing.B, n int, work func(n int) error) {
	b.Helper()
	var next atomic.Int64
	var wait sync.WaitGroup
	for range 64 {
		wait.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := work(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
}

// manySessions adds n devices, each with an active session, and returns the
// sessions in an order that is not that of their rows.
func manySessions(b *testing.B, s *Store, n int) []session.Session {
	b.Helper()
	sessions := make([]session.Session, n)
	for i := range sessions {
		x := &sessions[i]
		x.Device, x.Expires = int64(i+1), noon.AddDate(10, 0, 0)
		binary.BigEndian.PutUint64(x.SID[:], rand.Uint64())
		binary.BigEndian.PutUint64(x.SID[8:], uint64(i))
	}
	do(b, s, func(tx *Tx) error {
		for i, x := range sessions {
			_, err := tx.w.exec(`INSERT INTO device (id, name, grp, notes, created_at) VALUES ($1, $2, '', '', 0)`, x.Device, "d"+noon.Add(time.Duration(i)).Format("150405.000000000"))
			if err != nil {
				return err
			}
			_, err = tx.w.exec(`INSERT INTO session (sid, device, epoch, hs_no, state, kek, wrapped, hs1_hash, created_at, lifetime, expires_at)
				VALUES ($1, $2, 1, 1, 'active', 'aaaa', zeroblob(136), zeroblob(32), 0, 1, $3)`, x.SID[:], x.Device, millis(x.Expires))
			if err != nil {
				return err
			}
		}
		return nil
	})
	rand.Shuffle(n, func(i, j int) { sessions[i], sessions[j] = sessions[j], sessions[i] })
	return sessions
}
