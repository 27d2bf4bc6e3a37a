package agent

import (
	"fmt"
	"os"
	"testing"
)

// maxForUpdate is how much more memory the program may have resident while it takes
// an update, in MiB.
const maxForUpdate = 24

// BenchmarkAgentUpdate lets the program take a difference, and a whole image, from
// the launcher's and the cloud's hands, and reports how much more memory it had
// resident at the most than before, the bytes of the artifact, and what the update
// took on the wire, from the offer to the report that the image stays: without TLS,
// TCP and IP, and without the exchanges that there are anyway. It is one run, whatever
// -benchtime says.
func BenchmarkAgentUpdate(b *testing.B) {
	launcher, first, next := programs(b)
	for _, delta := range []bool{true, false} {
		b.Run(map[bool]string{true: "delta", false: "full"}[delta], func(b *testing.B) {
			g, m := launched(b, launcher, first)
			exchanges := func() int64 {
				g.cloud.mu.Lock()
				defer g.cloud.mu.Unlock()
				return int64(len(g.cloud.requests))
			}
			g.await(b, "exchanges", func() bool { return exchanges() >= 5 })
			wire, made := g.wire.Load(), exchanges()
			g.await(b, "exchanges", func() bool { return exchanges() >= 15 })
			usual := (g.wire.Load() - wire) / (exchanges() - made) // of an exchange
			s, err := ReadStatus(b.Context(), g.dir)
			if err != nil {
				b.Fatal(err)
			}
			idle, most := resident(b, s.PID, "VmRSS:"), make(chan float64)
			// The most so far is forgotten (proc(5), clear_refs).
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.PID), []byte("5"), 0o600); err != nil {
				b.Fatal(err)
			}
			go func() {
				high := 0.0
				for {
					now, err := statusOf(s.PID, "VmHWM:")
					if err != nil { // it has made way
						most <- high
						return
					}
					high = now
				}
			}()
			var base []byte
			if delta {
				base = first
			}
			wire, made = g.wire.Load(), exchanges()
			size := g.offer(b, m, 7, next, base)
			more := <-most - idle
			g.awaitPhase(b, "confirmed")
			wire = g.wire.Load() - wire - usual*(exchanges()-made)
			b.ReportMetric(idle, "MiB-idle")
			b.ReportMetric(more, "MiB-more")
			b.ReportMetric(float64(size)/1024, "KiB-artifact")
			b.ReportMetric(float64(wire)/1024, "KiB-wire")
			b.ReportMetric(0, "ns/op") // means nothing here
			if more > maxForUpdate {
				b.Errorf("%.1f MiB more than idle, at most %d are allowed", more, maxForUpdate)
			}
		})
	}
}
