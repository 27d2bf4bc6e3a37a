package buffer

import (
	"bytes"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"ecowatt"
	"ecowatt/internal/disk"
)

// day is a reading of ten points that wander as those of an inverter do.
func day() func() Reading {
	random := rand.New(rand.NewPCG(1, 2))
	r := Reading{
		Inverter: "inv1",
		Points:   []string{"vac1", "iac1", "fac1", "vpv1", "vpv2", "ipv1", "ipv2", "temp", "export_power_percent", "pac"},
		Sample:   ecowatt.Sample{Values: make([]ecowatt.Value, 10)},
	}
	values := [10]int64{2301, 87, 5001, 3420, 3388, 31, 30, 412, 100, 2005}
	wander := [10]int64{4, 2, 2, 20, 20, 2, 2, 1, 0, 60}
	return func() Reading {
		r.Sample.At += 1990 + random.Int64N(20)
		for i := range values {
			values[i] += random.Int64N(2*wander[i]+1) - wander[i]
			r.Sample.Values[i] = ecowatt.Known(values[i])
		}
		return r
	}
}

func BenchmarkAdd(b *testing.B) {
	w, err := Open(Options{FS: disk.OS(b.TempDir()), FlushInterval: time.Hour, Limit: 1 << 40})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	next := day()
	b.ReportAllocs()
	for b.Loop() {
		if err := w.Add(next(), 0); err != nil {
			b.Fatal(err)
		}
	}
	var written int64
	for _, f := range w.files {
		written += f.size
	}
	b.ReportMetric(float64(written)/float64(b.N), "disk-B/op")
}

// backlog fills a buffer on a real disk with 16 MiB of messages.
func backlog(tb testing.TB, o Options) {
	tb.Helper()
	b, err := Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	n := uint64(0)
	for range 16 {
		var all []Message
		for range 128 {
			n++
			all = append(all, Message{ID: [16]byte{byte(n), byte(n >> 8)}, Kind: 1, Body: bytes.Repeat([]byte{byte(n)}, 8<<10)})
		}
		if err := b.Put(all...); err != nil {
			tb.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		tb.Fatal(err)
	}
}

func BenchmarkNext(b *testing.B) {
	o := Options{FS: disk.OS(b.TempDir())}
	backlog(b, o)
	w, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	b.ReportAllocs()
	for b.Loop() {
		if got := len(w.Next(size, 64<<10, 4096)); got != 7 {
			b.Fatalf("%d messages", got)
		}
	}
}

func BenchmarkPack(b *testing.B) {
	w, err := Open(Options{FS: disk.OS(b.TempDir()), FlushInterval: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	next := day()
	b.ReportAllocs()
	for b.Loop() { // a slot of 15 minutes, a sample every 2 s
		for range 450 {
			if err := w.Add(next(), 0); err != nil {
				b.Fatal(err)
			}
		}
		var id [][16]byte
		if _, err := w.Pack(math.MaxInt64, func(r Run, emit func(Message, int) error) error {
			id = append(id, [16]byte{1})
			return emit(Message{ID: id[0], Kind: 1, Body: make([]byte, 10<<10)}, len(r.Samples))
		}); err != nil {
			b.Fatal(err)
		}
		if err := w.Settle(id); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAddDoesNotAllocate(t *testing.T) {
	w, err := Open(Options{FS: disk.OS(t.TempDir()), FlushInterval: time.Hour})
	must(t, err)
	next := day()
	must(t, w.Add(next(), 0))
	if n := testing.AllocsPerRun(1000, func() {
		if err := w.Add(next(), 0); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per sample", n)
	}
	must(t, w.Close())
}

// TestMemoryHoldsTheIndexOnly compares the heap with 16 MiB of messages, and
// with a hundred thousand samples, to the one without.
func TestMemoryHoldsTheIndexOnly(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	o := Options{FS: disk.OS(t.TempDir()), FlushInterval: time.Hour}
	backlog(t, o)
	before := heap()
	w, err := Open(o)
	must(t, err)
	next := day()
	for range 100_000 {
		must(t, w.Add(next(), 0))
	}
	if s := w.Stats(); s.Bytes < 17<<20 || s.Samples != 100_000 || s.Messages != 2048 {
		t.Fatalf("%+v", s)
	}
	if grown := heap() - before; grown > 512<<10 {
		t.Errorf("the heap has %d bytes more", grown)
	}
	if got := len(w.Next(size, 64<<10, 4096)); got != 7 {
		t.Errorf("%d messages", got)
	}
	must(t, w.Close())
}
