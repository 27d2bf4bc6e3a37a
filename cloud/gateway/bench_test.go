package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"ecowatt/cloud/gateway"
	"ecowatt/wire"
)

// newBenchCloud is a cloud whose log says nothing.
func newBenchCloud(b *testing.B) *cloud {
	b.Helper()
	c := newCloud(b)
	o := c.options()
	o.Store, o.Logger = gateway.Of(c.store), slog.New(slog.DiscardHandler)
	g, err := gateway.New(o)
	if err != nil {
		b.Fatal(err)
	}
	c.gateway = g
	return c
}

// BenchmarkHandshake is what a device costs once a day: a look-up, a key to
// unwrap, two operations on the curve, and a session to store. One at a time, so
// each has an fsync of its own.
func BenchmarkHandshake(b *testing.B) {
	c := newBenchCloud(b)
	d := c.add("roof-1")
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		c.wait(2 * time.Minute)
		i, hs1 := d.hello()
		b.StartTimer()
		r := c.post(wire.PathSession, hs1)
		b.StopTimer()
		d.finish(i, r)
		b.StartTimer()
	}
}

// BenchmarkForgery is what a stranger costs.
func BenchmarkForgery(b *testing.B) {
	c := newBenchCloud(b)
	d := c.add("roof-1")
	_, hs1 := d.hello()
	hs1[wire.HS1Size-1] ^= 1
	b.ReportAllocs()
	for b.Loop() {
		if r := c.post(wire.PathSession, hs1); r.status != http.StatusUnauthorized {
			b.Fatal(r)
		}
	}
}

// BenchmarkExchange compares durable exchanges of 64 devices at a time, over
// HTTP, with an echo of the same bytes by the same server that does nothing with
// them. x-of-echo is the throughput as a share of the echo's.
func BenchmarkExchange(b *testing.B) {
	const devices, each = 64, 4
	for _, samples := range []int{0, 15} {
		b.Run(fmt.Sprintf("%d samples", samples), func(b *testing.B) {
			c := newBenchCloud(b)
			mux := http.NewServeMux()
			mux.Handle(wire.PathExchange, c.gateway)
			mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					b.Error(err)
				}
				w.Write(body)
			})
			server := httptest.NewServer(mux)
			defer server.Close()
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: devices}}
			defer client.CloseIdleConnections()
			fleet := make([]*device, devices)
			for i := range fleet {
				fleet[i] = c.connected(fmt.Sprintf("roof-%d", i))
			}
			round := func(path string, requests [][]byte) time.Duration {
				begin := time.Now()
				var wait sync.WaitGroup
				for i := range fleet {
					wait.Go(func() {
						for _, msg := range requests[i*each : (i+1)*each] {
							send(b, client, server.URL+path, msg)
						}
					})
				}
				wait.Wait()
				return time.Since(begin)
			}
			var ours, echo time.Duration
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				requests := make([][]byte, 0, devices*each)
				for _, d := range fleet {
					for range each {
						q := wire.Request{}
						if samples > 0 {
							q.Messages = []wire.Message{d.block(start, samples, 1)}
						}
						requests = append(requests, d.seal(q).bytes)
					}
				}
				echo += round("/echo", requests)
				b.StartTimer()
				ours += round(wire.PathExchange, requests)
			}
			n := float64(b.N * devices * each)
			b.ReportMetric(n/ours.Seconds(), "exchanges/s")
			b.ReportMetric(float64(echo)/float64(ours), "x-of-echo")
			counts := c.store.Counts()
			b.ReportMetric(float64(counts.Units)/float64(counts.Commits), "exchanges/commit")
		})
	}
}

func send(b *testing.B, client *http.Client, url string, msg []byte) {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, bytes.NewReader(msg))
	if err != nil {
		b.Error(err)
		return
	}
	r.Header.Set("Content-Type", wire.ContentType)
	response, err := client.Do(r)
	if err != nil {
		b.Error(err)
		return
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != http.StatusOK {
		b.Error(response.Status, err)
	}
}

// BenchmarkExchangeAlone counts allocations: one device, without HTTP's own.
func BenchmarkExchangeAlone(b *testing.B) {
	for _, samples := range []int{0, 15} {
		b.Run(fmt.Sprintf("%d samples", samples), func(b *testing.B) {
			c := newBenchCloud(b)
			d := c.connected("roof-1")
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				q := wire.Request{}
				if samples > 0 {
					q.Messages = []wire.Message{d.block(start, samples, 1)}
				}
				r := httptest.NewRequest(http.MethodPost, wire.PathExchange, bytes.NewReader(d.seal(q).bytes))
				r.Header.Set("Content-Type", wire.ContentType)
				w := httptest.NewRecorder()
				b.StartTimer()
				c.gateway.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Code)
				}
			}
		})
	}
}
