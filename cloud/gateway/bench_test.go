package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"ecowatt/cloud/gateway"
	"ecowatt/cloud/rollout"
	"ecowatt/wire"
	"ecowatt/wire/noise"
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

// BenchmarkForgery is what a stranger costs, of an id that there is and of one
// that there is not, without HTTP's own work. x-of-tag is how much more that is
// than the check of the tag alone, which cannot be done without.
func BenchmarkForgery(b *testing.B) {
	c := newBenchCloud(b)
	d := c.add("roof-1")
	unknown := *d
	unknown.id[0] ^= 1
	for name, d := range map[string]*device{"known id": d, "unknown id": &unknown} {
		b.Run(name, func(b *testing.B) {
			_, hs1 := d.hello()
			hs1[wire.HS1Size-1] ^= 1
			psk := d.key.NoisePSK(wire.Suite1)
			post := newPoster(wire.PathSession, hs1)
			var ours, tag []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				begin := time.Now()
				if status := post.to(c.gateway); status != http.StatusUnauthorized {
					b.Fatal(status)
				}
				between := time.Now()
				if _, err := noise.Accept(psk, hs1); err == nil {
					b.Fatal("accepted")
				}
				ours, tag = append(ours, between.Sub(begin)), append(tag, time.Since(between))
			}
			b.ReportMetric(float64(median(ours)), "ns/refusal")
			b.ReportMetric(float64(median(ours))/float64(median(tag)), "x-of-tag")
		})
	}
}

// median is what else the machine does hardly changes.
func median(t []time.Duration) time.Duration {
	slices.Sort(t)
	return t[len(t)/2]
}

// poster posts the same message again and again and allocates nothing itself.
type poster struct {
	request *http.Request
	body    *bytes.Reader
	msg     []byte
	header  http.Header
	status  int
}

func newPoster(path string, msg []byte) *poster {
	p := &poster{body: bytes.NewReader(msg), msg: msg, header: http.Header{}}
	p.request = httptest.NewRequest(http.MethodPost, path, p.body)
	p.request.Header.Set("Content-Type", wire.ContentType)
	return p
}

// to returns the status of the handler's answer.
func (p *poster) to(h http.Handler) int {
	p.body.Reset(p.msg)
	h.ServeHTTP(p, p.request)
	return p.status
}

func (p *poster) Header() http.Header         { return p.header }
func (p *poster) WriteHeader(status int)      { p.status = status }
func (p *poster) Write(b []byte) (int, error) { return len(b), nil }

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

// BenchmarkExchangeRollout is what an exchange without messages costs where a
// rollout concerns the device. x-of-idle is the time in relation to an exchange of a
// device that none concerns, in turn with it; queries are those about rollouts.
func BenchmarkExchangeRollout(b *testing.B) {
	for _, x := range []struct {
		name  string
		phase string // that the device reports; empty for none
		rest  bool   // the rollout is paused
	}{
		{"none", "", false}, {"told of it", "", false}, {"paused", "", true}, {"on trial", "trial", false},
	} {
		b.Run(x.name, func(b *testing.B) {
			c := newReleasing(b)
			counting := &queryStore{Store: gateway.Of(c.store)}
			o := c.options()
			o.Store, o.Logger = counting, slog.New(slog.DiscardHandler)
			g, err := gateway.New(o)
			if err != nil {
				b.Fatal(err)
			}
			c.gateway = g
			idle := c.connected("idle")
			d := c.gatewayOf("roof")
			var r rollout.Rollout
			if x.name != "none" {
				r = c.rollOut(nil)
			}
			d.exchange(wire.Request{})
			if x.phase != "" {
				d.say(c.status(d, x.phase, ""))
			}
			if x.rest {
				c.instruct(r.ID, rollout.Pause, false)
			}
			counting.queries.Store(0)
			var ours, others []time.Duration
			serve := func(d *device) time.Duration {
				b.StopTimer()
				post := newPoster(wire.PathExchange, d.seal(wire.Request{}).bytes)
				if d != idle {
					b.StartTimer()
				}
				begin := time.Now()
				if status := post.to(g); status != http.StatusOK {
					b.Fatal(status)
				}
				return time.Since(begin)
			}
			b.ReportAllocs()
			for b.Loop() {
				others = append(others, serve(idle))
				ours = append(ours, serve(d))
			}
			b.ReportMetric(float64(counting.queries.Load())/float64(b.N), "queries/op")
			b.ReportMetric(float64(median(ours))/float64(median(others)), "x-of-idle")
		})
	}
}
