package main

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"ecowatt"
	"ecowatt/block"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/store"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
	"ecowatt/sim"
	"ecowatt/wire"
)

// BenchmarkYear asks a cloud for what one simulated inverter measured every 2 s,
// day and night, for a year. Filling the store takes some minutes.
func BenchmarkYear(b *testing.B) {
	h := newHistory(b, 1)
	const days = 365
	h.fill(days, 2*time.Second)
	midsummer := h.begin.AddDate(0, 0, 171)
	h.ask([]question{
		{"day by minute", midsummer, 1, "step=1m", 24 * 60, bytesOfMinutes},
		{"year's energy by day", h.begin, days, "step=1d&only=energy", days, bytesOfSeries},
		{"year by day", h.begin, days, "step=1d", days, bytesOfQuarters},
		{"month by quarter", midsummer, 30, "step=15m", 30 * 24 * 4, bytesOfQuarters},
		{"day of samples", midsummer, 1, "", 24 * 60 * 30, bytesOfBlocks},
	})
}

// BenchmarkFleet asks a cloud for what each of 1,000 inverters measured every
// minute for a month; the blocks of a device lie among those of all others.
// Filling the store takes some minutes.
func BenchmarkFleet(b *testing.B) {
	h := newHistory(b, 1000)
	const days = 30
	h.fill(days, time.Minute)
	day := h.begin.AddDate(0, 0, 20)
	h.ask([]question{
		{"day by minute", day, 1, "step=1m", 24 * 60, bytesOfMinutes},
		{"month's energy by day", h.begin, days, "step=1d&only=energy", days, bytesOfSeries},
		{"day of samples", day, 1, "", 24 * 60, bytesOfBlocks},
	})
}

// history is a cloud and what devices have told it.
type history struct {
	b       *testing.B
	data    string // the cloud's folder
	begin   time.Time
	devices int
}

func newHistory(b *testing.B, devices int) *history {
	b.Helper()
	h := &history{b: b, data: filepath.Join(b.TempDir(), "cloud"), begin: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), devices: devices}
	h.serve(func(address, token string) {
		for i := range devices {
			r := h.request(http.MethodPost, address, token, "", fmt.Sprintf(`{"id":%q}`, deviceName(i)))
			if r.StatusCode >= 300 {
				b.Fatalf("adding a device: %s", r.Status)
			}
			r.Body.Close()
		}
	})
	return h
}

func deviceName(i int) string { return fmt.Sprintf("roof-%d", i) }

// serve runs the cloud while do uses it.
func (h *history) serve(do func(address, token string)) {
	h.b.Helper()
	address, stop := startCloud(h.b, h.data, "127.0.0.1:0")
	defer stop()
	token, err := os.ReadFile(filepath.Join(h.data, "token"))
	if err != nil {
		h.b.Fatal(err)
	}
	do(address, strings.TrimSpace(string(token)))
}

func (h *history) request(method, address, token, path, body string) *http.Response {
	h.b.Helper()
	r, err := http.NewRequestWithContext(h.b.Context(), method, "http://"+address+"/api/v1/devices"+path, strings.NewReader(body))
	if err != nil {
		h.b.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		h.b.Fatal(err)
	}
	return answer
}

// fill stores what the devices measure, slot by slot, each slot of all of them in
// one transaction. Neighbours have one of a few roofs under one sky.
func (h *history) fill(days int, interval time.Duration) {
	h.b.Helper()
	const roofs, slot = 4, 15 * time.Minute
	site := newMeasured(h.b, min(h.devices, roofs), interval)
	ctx, cancel := context.WithCancel(h.b.Context())
	defer cancel()
	s, err := store.Open(ctx, filepath.Join(h.data, "ecowatt.db"), store.Options{})
	if err != nil {
		h.b.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	number := uint64(0)
	for at := h.begin; at.Before(h.begin.AddDate(0, 0, days)); at = at.Add(slot) {
		blocks := site.slot(h.b, at, int(slot/interval))
		err := s.Commit(ctx, func(tx *store.Tx) error {
			for device := range h.devices {
				number++
				m := ingest.Message{Kind: ingest.KindTelemetry, Block: &blocks[device%len(blocks)]}
				binary.BigEndian.PutUint64(m.ID[:], number)
				if _, err := tx.Take(int64(device+1), m, at.Add(slot)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			h.b.Fatal(err)
		}
	}
	cancel()
	if err := errors.Join(<-ran, s.Close()); err != nil {
		h.b.Fatal(err)
	}
	h.sizes(h.devices * days)
}

// measured is simulated inverters under a sky that is another one each day.
type measured struct {
	sim      *sim.Simulator
	plan     inverter.Plan
	points   []string
	roofs    int
	interval time.Duration
	speed    float64 // of the simulator: its steps are a tenth of a second of real time
}

func newMeasured(b *testing.B, roofs int, interval time.Duration) *measured {
	b.Helper()
	p, err := profile.Find("goodwe-dt") // it has counters
	if err != nil {
		b.Fatal(err)
	}
	m := &measured{
		points: []string{"vpv1", "ipv1", "vpv2", "ipv2", "vac1", "iac1", "fac1", "pac", "temp", "energy_total"},
		roofs:  roofs, interval: interval, speed: min(interval.Seconds(), 10) * 10,
	}
	if m.plan, err = p.Plan(m.points); err != nil {
		b.Fatal(err)
	}
	inverters, err := sim.Row(sim.Inverter{Unit: 1, Profile: p}, roofs)
	if err != nil {
		b.Fatal(err)
	}
	energy := slices.Repeat([]sim.Energy{{Total: 1e6}}, roofs)
	m.sim, err = sim.New(sim.Options{Inverters: inverters, Weather: seasons{}, Speed: m.speed, Seed: 1, Energy: energy})
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// slot lets the next n samples of each roof be taken, and returns them as the
// gateway hands on what devices send.
func (m *measured) slot(b *testing.B, begin time.Time, n int) []ingest.Block {
	b.Helper()
	samples := make([][]ecowatt.Sample, m.roofs)
	for i := range n {
		for roof := range samples {
			samples[roof] = append(samples[roof], ecowatt.Sample{At: (time.Duration(i) * m.interval).Milliseconds(), Values: m.read(b, byte(roof+1))})
		}
		m.sim.Advance(time.Duration(float64(m.interval) / m.speed))
	}
	var blocks []ingest.Block
	for _, s := range samples {
		blocks = append(blocks, m.sent(b, begin, s))
	}
	return blocks
}

// sent is samples, with times since begin, as a device sends them.
func (m *measured) sent(b *testing.B, begin time.Time, samples []ecowatt.Sample) ingest.Block {
	b.Helper()
	whole := ecowatt.Block{Inverter: "inv1", Points: m.points, Samples: samples}
	data, err := block.Encode(whole)
	if err != nil {
		b.Fatal(err)
	}
	t, err := wire.PackedBlock(whole, nil, data)
	if err != nil {
		b.Fatal(err)
	}
	checked, err := ingest.Check(ingest.Telemetry{
		Inverter: t.Inverter, Points: t.Points, T0: begin.UnixMilli(), Codec: t.Codec, Count: t.Count, Data: t.Data,
	}, begin.AddDate(1, 0, 0))
	if err == nil {
		err = checked.Condense()
	}
	if err != nil {
		b.Fatal(err)
	}
	return checked
}

func (m *measured) read(b *testing.B, unit byte) []ecowatt.Value {
	b.Helper()
	words := make([][]uint16, len(m.plan.Reads()))
	for i, read := range m.plan.Reads() {
		var err error
		words[i], err = m.sim.Handle(b.Context(), modbus.Request{Unit: unit, Function: modbus.ReadHolding, Address: read.Address, Count: read.Count})
		if err != nil {
			b.Fatal(err)
		}
	}
	return m.plan.Decode(words)
}

// seasons is a year of days with clouds, each with its own.
type seasons struct{}

func (seasons) Period() time.Duration { return 365 * 24 * time.Hour }

func (seasons) At(t time.Duration, p sim.Plane) sim.Conditions {
	day := int(t / (24 * time.Hour))
	sky := sim.Clouds{Sky: sim.ClearSky{Latitude: 40, Day: day%365 + 1}, Cover: float64(day*37%10) / 10, Seed: uint64(day)}
	return sky.At(t%(24*time.Hour), p)
}

// question is one of a device: so many days from a time on, how many buckets or
// samples it has to give, and the SELECT of the bytes that it is answered from.
type question struct {
	name  string
	from  time.Time
	days  int
	query string
	want  int
	bytes string
}

const (
	bytesOfBlocks   = `SELECT data FROM block WHERE device = $1 AND inverter = 'inv1' AND t0 >= $2 AND t0 < $3`
	bytesOfMinutes  = `SELECT minutes FROM block WHERE device = $1 AND inverter = 'inv1' AND t0 >= $2 AND t0 < $3`
	bytesOfQuarters = `SELECT stats || series FROM rollup WHERE device = $1 AND inverter = 'inv1' AND start >= $2 AND start < $3`
	bytesOfSeries   = `SELECT series FROM rollup WHERE device = $1 AND inverter = 'inv1' AND start >= $2 AND start < $3`
)

// ask measures the questions over HTTP, each to the devices in turn. x_bytes is how
// much longer an answer takes than reading the bytes that it is made of, live_MB the
// memory in use at collections of garbage while it is made, cloud and asker together.
func (h *history) ask(questions []question) {
	db := h.database()
	defer db.Close()
	h.serve(func(address, token string) {
		for _, q := range questions {
			h.b.Run(q.name, func(b *testing.B) {
				var reading time.Duration
				size, n := 0, 0
				runtime.GC()
				idle := liveHeap()
				most := idle
				b.ReportAllocs()
				for b.Loop() {
					device := n * 7 % h.devices
					n++
					b.StopTimer()
					start := time.Now()
					size = q.read(b, db, device)
					reading += time.Since(start)
					b.StartTimer()
					if got := h.answer(b, q, address, token, device); got != q.want {
						b.Fatalf("%d answered, want %d", got, q.want)
					}
					most = max(most, liveHeap())
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(n), "ms/answer")
				b.ReportMetric(float64(b.Elapsed())/float64(reading), "x_bytes")
				b.ReportMetric(float64(size)/1000, "kB")
				b.ReportMetric(float64(most-idle)/1e6, "live_MB")
			})
		}
	})
}

// answer returns how many buckets or samples came.
func (h *history) answer(b *testing.B, q question, address, token string, device int) int {
	b.Helper()
	end := q.from.AddDate(0, 0, q.days)
	path := fmt.Sprintf("/%s/telemetry?from=%d&to=%d&%s", url.PathEscape(deviceName(device)), q.from.UnixMilli(), end.UnixMilli(), q.query)
	answer := h.request(http.MethodGet, address, token, path, "")
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		b.Fatal(answer.Status)
	}
	text, n := bufio.NewReaderSize(answer.Body, 1<<16), 0
	for {
		piece, err := text.ReadSlice('{')
		if bytes.HasPrefix(piece, []byte(`"t":`)) {
			n++
		}
		switch {
		case errors.Is(err, io.EOF):
			return n
		case err != nil:
			b.Fatal(err)
		}
	}
}

// liveHeap is how much memory was in use at the last collection of garbage, bytes.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// read reads the bytes that the answer is made of, and nothing else.
func (q question) read(b *testing.B, db *sql.DB, device int) (size int) {
	b.Helper()
	rows, err := db.QueryContext(b.Context(), q.bytes, device+1, q.from.UnixMilli(), q.from.AddDate(0, 0, q.days).UnixMilli())
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var data sql.RawBytes
		if err := rows.Scan(&data); err != nil {
			b.Fatal(err)
		}
		size += len(data)
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
	return size
}

// database is the one of the cloud, for reading.
func (h *history) database() *sql.DB {
	h.b.Helper()
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(h.data, "ecowatt.db"))
	if err != nil {
		h.b.Fatal(err)
	}
	return db
}

// sizes tells what is on disk for each device and day.
func (h *history) sizes(deviceDays int) {
	h.b.Helper()
	db := h.database()
	defer db.Close()
	var data, minutes, quarters, file float64
	err := db.QueryRowContext(h.b.Context(), `SELECT (SELECT sum(length(data)) FROM block), (SELECT sum(length(minutes)) FROM block),
		(SELECT sum(length(series) + length(stats)) FROM rollup), (SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size())`).
		Scan(&data, &minutes, &quarters, &file)
	if err != nil {
		h.b.Fatal(err)
	}
	per := float64(deviceDays) * 1000
	h.b.Logf("per device and day: samples %.1f kB, minutes %.1f kB, quarters %.1f kB, file %.1f kB; file %.2f GB",
		data/per, minutes/per, quarters/per, file/per, file/1e9)
}
