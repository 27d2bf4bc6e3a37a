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
// resident at the most than before, and the bytes of the artifact. It is one run,
// whatever -benchtime says.
func BenchmarkAgentUpdate(b *testing.B) {
	launcher, first, next := programs(b)
	for _, delta := range []bool{true, false} {
		b.Run(map[bool]string{true: "delta", false: "full"}[delta], func(b *testing.B) {
			g, m := launched(b, launcher, first)
			g.await(b, "exchanges", func() bool {
				g.cloud.mu.Lock()
				defer g.cloud.mu.Unlock()
				return len(g.cloud.requests) >= 10
			})
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
			size := g.offer(b, m, 7, next, base)
			more := <-most - idle
			g.awaitPhase(b, "confirmed")
			b.ReportMetric(idle, "MiB-idle")
			b.ReportMetric(more, "MiB-more")
			b.ReportMetric(float64(size)/1024, "KiB-artifact")
			b.ReportMetric(0, "ns/op") // means nothing here
			if more > maxForUpdate {
				b.Errorf("%.1f MiB more than idle, at most %d are allowed", more, maxForUpdate)
			}
		})
	}
}
