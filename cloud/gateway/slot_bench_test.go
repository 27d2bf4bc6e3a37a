package gateway_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ecowatt"
	"ecowatt/wire"
)

// BenchmarkSlot is an exchange with what an inverter measured in a slot, ten points
// every 2 s: of a device that is new, and of one that has sent 3,000 slots already.
// Each has an fsync of its own. x-of-idle is how much longer it takes than one of
// the same device that carries nothing. The blocks in testdata are of a simulated
// inverter before noon.
func BenchmarkSlot(b *testing.B) {
	for _, slot := range []struct {
		length  time.Duration
		samples int
		file    string
	}{{15 * time.Second, 7, "slot-15s.block"}, {15 * time.Minute, 450, "slot-15min.block"}} {
		for _, before := range []int{0, 3000} {
			b.Run(fmt.Sprintf("%v after %d", slot.length, before), func(b *testing.B) {
				c := newBenchCloud(b)
				d := c.connected("roof-1")
				packed, err := os.ReadFile(filepath.Join("testdata", slot.file))
				if err != nil {
					b.Fatal(err)
				}
				at := start.AddDate(-1, 0, 0)
				next := func() *http.Request {
					at = at.Add(slot.length)
					return d.posted(wire.Request{Messages: []wire.Message{d.packed(at, slot.samples, packed)}})
				}
				took := func(r *http.Request) time.Duration {
					w := httptest.NewRecorder()
					begin := time.Now()
					c.gateway.ServeHTTP(w, r)
					if w.Code != http.StatusOK {
						b.Fatal(w.Code)
					}
					return time.Since(begin)
				}
				for range before {
					took(next())
				}
				var idle time.Duration
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					idle += took(d.posted(wire.Request{}))
					r := next()
					b.StartTimer()
					took(r)
				}
				b.ReportMetric(float64(b.Elapsed())/float64(idle), "x-of-idle")
			})
		}
	}
}

// posted is a request of the device as its HTTP request.
func (d *device) posted(q wire.Request) *http.Request {
	r := httptest.NewRequest(http.MethodPost, wire.PathExchange, bytes.NewReader(d.seal(q).bytes))
	r.Header.Set("Content-Type", wire.ContentType)
	return r
}

// packed is n samples from a time on, as package block packs them.
func (d *device) packed(at time.Time, n int, data []byte) wire.Message {
	d.t.Helper()
	samples := make([]ecowatt.Sample, n)
	samples[0].At = at.UnixMilli()
	t, err := wire.PackedBlock(ecowatt.Block{
		Inverter: "roof", Points: []string{"vpv1", "ipv1", "vpv2", "ipv2", "vac1", "iac1", "fac1", "pac", "temp", "energy_total"}, Samples: samples,
	}, nil, data)
	if err != nil {
		d.t.Fatal(err)
	}
	body, err := wire.EncodeTelemetry(t)
	if err != nil {
		d.t.Fatal(err)
	}
	return wire.Message{ID: random16(d.t), Kind: wire.KindTelemetry, Body: body}
}
