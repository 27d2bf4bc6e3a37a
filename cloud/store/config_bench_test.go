package store

import (
	"context"
	"slices"
	"testing"
	"time"

	"ecowatt/cloud/config"
	"ecowatt/parameter"
)

// BenchmarkConfigOfAGroup sets a parameter for a group of 10,000 devices while
// others commit one row after the other, as exchanges do. ms/request is what who
// sets it waits for, us/device is until the last device can be told; x_bare is how
// often a row could be appended to a table without an index meanwhile, 64 rows in a
// transaction. ms/wait is the median of how long a commit of the others took, and
// ms/longest the longest.
func BenchmarkConfigOfAGroup(b *testing.B) {
	const fleet = 10_000
	s := open(b)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	manySessions(b, s, fleet)
	do(b, s, func(tx *Tx) error {
		_, err := tx.w.exec(`CREATE TABLE bare (id INTEGER PRIMARY KEY, data BLOB) STRICT`)
		if err == nil {
			_, err = tx.w.exec(`UPDATE device SET grp = 'north'`)
		}
		return err
	})
	row := func(tx *Tx) error {
		_, err := tx.w.exec(`INSERT INTO bare (data) VALUES ($1)`, make([]byte, 100))
		return err
	}

	var request, whole, bare time.Duration
	var waits []time.Duration
	round := 0
	for b.Loop() {
		round++
		stop, quiet := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(quiet)
			for {
				select {
				case <-stop:
					return
				default:
				}
				begin := time.Now()
				if err := s.Commit(ctx, row); err != nil {
					b.Error(err)
					return
				}
				waits = append(waits, time.Since(begin))
			}
		}()
		begin := time.Now()
		_, woken, err := s.SetConfig(ctx, config.Change{Scope: north, Values: parameter.Values{"sampling_interval": int64(round)}, By: "anna", At: noon})
		request += time.Since(begin)
		n := len(woken)
		for more := true; err == nil && more; n += len(woken) {
			woken, more, err = s.SpreadConfig(ctx)
		}
		whole += time.Since(begin)
		close(stop)
		<-quiet
		if err != nil || n != fleet {
			b.Fatal(n, err)
		}
		b.StopTimer()
		begin = time.Now()
		for range fleet / spreadSize {
			do(b, s, func(tx *Tx) error {
				for range spreadSize {
					if err := row(tx); err != nil {
						return err
					}
				}
				return nil
			})
		}
		bare += time.Since(begin)
		b.StartTimer()
	}
	slices.Sort(waits)
	ms := func(d time.Duration) float64 { return d.Seconds() * 1000 }
	b.ReportMetric(ms(request)/float64(b.N), "ms/request")
	b.ReportMetric(ms(whole)*1000/float64(b.N)/fleet, "us/device")
	b.ReportMetric(whole.Seconds()/bare.Seconds(), "x_bare")
	b.ReportMetric(ms(waits[len(waits)/2]), "ms/wait")
	b.ReportMetric(ms(waits[len(waits)-1]), "ms/longest")
	b.ReportMetric(0, "ns/op")
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
