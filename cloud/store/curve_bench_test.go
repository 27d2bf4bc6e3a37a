package store

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"ecowatt"
	codec "ecowatt/block"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/rollup"
	"ecowatt/wire"
)

var plantPoints = []string{"vac1", "iac1", "fac1", "vpv1", "vpv2", "ipv1", "ipv2", "temp", "pac", "energy_total"}

// slot is how long a block of a plant is.
const slot = 15 * time.Minute

// plant makes the samples of an inverter under clouds, the same for one seed.
type plant struct {
	rng       *rand.Rand
	sky, goal float64 // share of the sun that comes through, and where it is going
	grid      float64 // V × 10
	heat      float64 // °C × 10
	total     float64 // Wh
}

func newPlant(seed uint64) *plant {
	return &plant{rng: rand.New(rand.NewPCG(seed, 1)), sky: 1, goal: 1, grid: 2300, heat: 150, total: 1e6}
}

// slot returns the samples of one slot.
func (p *plant) slot(begin time.Time, interval time.Duration) []ecowatt.Sample {
	var samples []ecowatt.Sample
	for at := begin; at.Before(begin.Add(slot)); at = at.Add(interval) {
		values := make([]ecowatt.Value, len(plantPoints))
		for i, raw := range p.next(at, interval) {
			values[i] = ecowatt.Known(int64(math.Round(raw)))
		}
		samples = append(samples, ecowatt.Sample{At: at.UnixMilli(), Values: values})
	}
	return samples
}

// next lets the time pass up to at, and returns the raw values then.
func (p *plant) next(at time.Time, interval time.Duration) [10]float64 {
	seconds := interval.Seconds()
	season := -math.Cos(2 * math.Pi * float64(at.YearDay()) / 365)
	hour := float64(at.Sub(at.Truncate(24*time.Hour))) / float64(time.Hour)
	sun := max(0, math.Cos((hour-12)/(12+3*season)*math.Pi)) * (0.75 + 0.25*season)
	if p.rng.Float64() < seconds/300 {
		p.goal = 0.2 + 0.8*p.rng.Float64()
	}
	p.sky += (p.goal - p.sky) * min(1, seconds/40)
	p.grid += p.rng.NormFloat64() + (2300-p.grid)*0.01
	power := 5000 * sun * p.sky
	p.heat += (150 + power/15 - p.heat) * min(1, seconds/900)
	p.total += power * seconds / 3600
	if sun == 0 {
		return [10]float64{p.grid, 0, 5000 + 2*p.rng.NormFloat64(), 0, 0, 0, 0, p.heat, 0, p.total}
	}
	west := 3800 - 300*sun + 3*p.rng.NormFloat64()
	return [10]float64{
		p.grid, power / p.grid * 100, 5000 + 2*p.rng.NormFloat64(), west, west - 70,
		power * 0.55 / west * 100, power * 0.45 / west * 100, p.heat, power, p.total,
	}
}

// packed is samples as a device sends them and the gateway hands them on.
func packed(tb testing.TB, samples []ecowatt.Sample) ingest.Block {
	tb.Helper()
	whole := ecowatt.Block{Inverter: "roof", Points: plantPoints, Samples: samples}
	since := ecowatt.Block{Points: plantPoints}
	for _, s := range samples {
		since.Samples = append(since.Samples, ecowatt.Sample{At: s.At - samples[0].At, Values: s.Values})
	}
	data, err := codec.Encode(since)
	if err != nil {
		tb.Fatal(err)
	}
	sent, err := wire.PackedBlock(whole, nil, data)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := ingest.Check(ingest.Telemetry{
		Inverter: sent.Inverter, Points: sent.Points, T0: sent.T0, Codec: sent.Codec, Count: sent.Count, Data: sent.Data,
	}, noon.AddDate(10, 0, 0))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// fill stores what so many devices measure over so many days, slot by slot, each
// slot of all of them in one transaction. Neighbours share one of a few skies.
func fill(tb testing.TB, s *Store, devices, days int, interval time.Duration) {
	tb.Helper()
	const skies = 4
	ids, plants := make([]int64, devices), make([]*plant, min(devices, skies))
	for i := range ids {
		ids[i] = add(tb, s, fmt.Sprintf("roof-%d", i))
	}
	for i := range plants {
		plants[i] = newPlant(uint64(i))
	}
	begin := noon.Truncate(24 * time.Hour)
	for at := begin; at.Before(begin.AddDate(0, 0, days)); at = at.Add(slot) {
		var blocks []ingest.Block
		for _, p := range plants {
			blocks = append(blocks, packed(tb, p.slot(at, interval)))
		}
		do(tb, s, func(tx *Tx) error {
			for i, id := range ids {
				if err := tx.storeBlock(id, blocks[i%len(blocks)], at); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// asked is a question of the benchmarks: how many buckets or samples it has to
// give, and the SELECT of the bytes that it is answered from, of one device (by
// its name) from … to, ms since 1970.
type asked struct {
	name     string
	from, to time.Time
	step     time.Duration // 0 for samples
	energy   bool
	want     int
	bytes    string
}

const (
	bytesOfBlocks   = `SELECT data FROM block WHERE device = (SELECT id FROM device WHERE name = $1) AND inverter = 'roof' AND t0 >= $2 AND t0 < $3`
	bytesOfMinutes  = `SELECT minutes FROM block WHERE device = (SELECT id FROM device WHERE name = $1) AND inverter = 'roof' AND t0 >= $2 AND t0 < $3`
	bytesOfQuarters = `SELECT stats, series FROM rollup WHERE device = (SELECT id FROM device WHERE name = $1) AND inverter = 'roof' AND start >= $2 AND start < $3`
	bytesOfSeries   = `SELECT series FROM rollup WHERE device = (SELECT id FROM device WHERE name = $1) AND inverter = 'roof' AND start >= $2 AND start < $3`
)

// answer asks for it and returns how much came.
func (a asked) answer(ctx context.Context, s *Store, device string) (n int, err error) {
	if a.step == 0 {
		for part, err := range s.Samples(ctx, ingest.Query{Device: ecowatt.DeviceID(device), From: a.from, To: a.to}) {
			if err != nil {
				return 0, err
			}
			n += len(part.Samples)
		}
		return n, nil
	}
	q := rollup.Query{Device: ecowatt.DeviceID(device), From: a.from, To: a.to, Step: a.step, Energy: a.energy}
	for part, err := range s.Curve(ctx, q) {
		if err != nil {
			return 0, err
		}
		n += len(part.Buckets)
	}
	return n, nil
}

// read reads the bytes that the answer is made of, and nothing else.
func (a asked) read(ctx context.Context, s *Store, device string) (size int, err error) {
	rows, err := s.read.QueryContext(ctx, a.bytes, device, millis(a.from), millis(a.to))
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	blobs, into := make([][]byte, len(columns)), make([]any, len(columns))
	for i := range blobs {
		into[i] = &blobs[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return 0, err
		}
		for _, b := range blobs {
			size += len(b)
		}
	}
	return size, rows.Err()
}

// ask measures the questions, each to the devices in turn. x_bytes is how much
// longer it takes than reading the bytes that are needed.
func ask(b *testing.B, s *Store, devices int, questions []asked) {
	b.Helper()
	for _, a := range questions {
		b.Run(a.name, func(b *testing.B) {
			var reading time.Duration
			size, n := 0, 0
			runtime.GC()
			for b.Loop() {
				device := fmt.Sprintf("roof-%d", n*7%devices)
				n++
				b.StopTimer()
				start := time.Now()
				var err error
				if size, err = a.read(b.Context(), s, device); err != nil {
					b.Fatal(err)
				}
				reading += time.Since(start)
				b.StartTimer()
				if got, err := a.answer(b.Context(), s, device); err != nil || got != a.want {
					b.Fatalf("%d, %v; want %d", got, err, a.want)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(n), "ms/answer")
			b.ReportMetric(float64(b.Elapsed())/float64(reading), "x_bytes")
			b.ReportMetric(float64(size)/1000, "kB")
		})
	}
}

// size tells what a store takes on disk, in all and for each device and day.
func size(b *testing.B, s *Store, deviceDays int) {
	b.Helper()
	data := number(b, s, `SELECT sum(length(data)) FROM block`)
	minutes := number(b, s, `SELECT sum(length(minutes)) FROM block`)
	quarters := number(b, s, `SELECT sum(length(series) + length(stats)) FROM rollup`)
	file := number(b, s, `SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()`)
	b.Logf("per device and day: samples %.1f kB, minutes %.1f kB, quarters %.1f kB, file %.1f kB; file %.2f GB",
		float64(data)/float64(deviceDays)/1000, float64(minutes)/float64(deviceDays)/1000, float64(quarters)/float64(deviceDays)/1000,
		float64(file)/float64(deviceDays)/1000, float64(file)/1e9)
}

// BenchmarkYear asks for what one device measured every 2 s, day and night, for a
// year. Filling the store takes some minutes.
func BenchmarkYear(b *testing.B) {
	s := openAt(b, filepath.Join(b.TempDir(), "ecowatt.db"), Options{})
	const days = 365
	fill(b, s, 1, days, 2*time.Second)
	size(b, s, days)
	begin := noon.Truncate(24 * time.Hour)
	midsummer := time.Date(2026, 6, 21, 0, 0, 0, 0, time.UTC)
	ask(b, s, 1, []asked{
		{"day by minute", midsummer, midsummer.AddDate(0, 0, 1), time.Minute, false, 24 * 60, bytesOfMinutes},
		{"year's energy by day", begin, begin.AddDate(0, 0, days), 24 * time.Hour, true, days, bytesOfSeries},
		{"year by day", begin, begin.AddDate(0, 0, days), 24 * time.Hour, false, days, bytesOfQuarters},
		{"month by quarter", midsummer, midsummer.AddDate(0, 0, 30), 15 * time.Minute, false, 30 * 24 * 4, bytesOfQuarters},
		{"day of samples", midsummer, midsummer.AddDate(0, 0, 1), 0, false, 24 * 60 * 30, bytesOfBlocks},
	})
}

// BenchmarkFleet asks for what each of 1,000 devices measured every minute for a
// month; the blocks of a device lie among those of all others. Filling the store
// takes some minutes.
func BenchmarkFleet(b *testing.B) {
	s := openAt(b, filepath.Join(b.TempDir(), "ecowatt.db"), Options{})
	const devices, days = 1000, 30
	fill(b, s, devices, days, time.Minute)
	size(b, s, devices*days)
	begin := noon.Truncate(24 * time.Hour)
	day := begin.AddDate(0, 0, 20)
	ask(b, s, devices, []asked{
		{"day by minute", day, day.AddDate(0, 0, 1), time.Minute, false, 24 * 60, bytesOfMinutes},
		{"month's energy by day", begin, begin.AddDate(0, 0, days), 24 * time.Hour, true, days, bytesOfSeries},
		{"day of samples", day, day.AddDate(0, 0, 1), 0, false, 24 * 60, bytesOfBlocks},
	})
}
