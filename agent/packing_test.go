package agent

import (
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt"
	"ecowatt/agent/buffer"
	"ecowatt/wire"
)

// encoded returns the blocks that are made of a run, and checks their size.
func encoded(tb testing.TB, p Packing, r buffer.Run, place placer) (blocks []wire.TelemetryBlock, largest int) {
	tb.Helper()
	err := encoder{p, rand.Reader, func(m buffer.Message, samples int) error {
		b, err := wire.DecodeTelemetry(m.Body)
		if err != nil {
			return err
		}
		if samples < 1 || samples > len(r.Samples) {
			tb.Errorf("a message is said to have %d samples", samples)
		}
		largest = max(largest, wireMessage(m).EncodedSize())
		blocks = append(blocks, b)
		return nil
	}}.encodeRun(r, place)
	if err != nil {
		tb.Fatal(err)
	}
	return blocks, largest
}

// slot is a run of so many points and samples, one every 2 s, that are hard to pack.
func slot(points, samples int) buffer.Run {
	random := mathrand.New(mathrand.NewPCG(1, 2))
	r := buffer.Run{Inverter: "inv1", Boot: [16]byte{1}}
	for i := range points {
		r.Points = append(r.Points, fmt.Sprint("p", i))
	}
	for i := range samples {
		s := ecowatt.Sample{At: 1000 + 2000*int64(i)}
		for range points {
			s.Values = append(s.Values, ecowatt.Known(random.Int64N(1<<16)))
		}
		r.Samples = append(r.Samples, s)
	}
	return r
}

// TestPayloadCap: whatever a run is, under whatever cap that may be set, its
// messages are not larger, and every sample of every point counts in one window.
func TestPayloadCap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := slot(rapid.SampledFrom([]int{1, 2, 10, 17, 40, 70}).Draw(t, "points"), rapid.IntRange(1, 500).Draw(t, "samples"))
		if rapid.Bool().Draw(t, "long names") {
			long := wide(len(r.Points))
			r.Inverter, r.Points = long.Name, long.Points
		}
		p := Packing{
			Compression: rapid.SampledFrom([]string{"", CompressNone, CompressFast, CompressBest}).Draw(t, "compression"),
			PayloadCap:  rapid.IntRange(256, 5000).Draw(t, "cap"),
			Window:      rapid.SampledFrom([]int64{0, 0, 7000, 60_000}).Draw(t, "window"),
		}
		if rapid.Bool().Draw(t, "thinned before") {
			r.Samples, r.Window, r.UTC = ecowatt.Aggregate(r.Samples, 0, 10_000), 10_000, true
		}
		want := int64(0)
		for _, s := range r.Samples {
			for i, v := range s.Values {
				switch {
				case r.Window == 0:
					want++
				case i%ecowatt.Aggregates == ecowatt.Count:
					want += v.Raw
				}
			}
		}
		cloud := &cloud{t: nil}
		got := int64(0)
		err := encoder{p, rand.Reader, func(m buffer.Message, samples int) error {
			if size := wireMessage(m).EncodedSize(); size > p.PayloadCap {
				t.Errorf("a message of %d bytes under a cap of %d", size, p.PayloadCap)
			}
			b, err := wire.DecodeTelemetry(m.Body)
			if err != nil {
				return err
			}
			if b.Window < p.Window && r.Window == 0 && len(r.Samples) > 40 {
				t.Errorf("windows of %d ms", b.Window)
			}
			for _, s := range cloud.unpack(b) {
				for i, v := range s.Values {
					switch {
					case b.Window == 0:
						got++
					case i%ecowatt.Aggregates == ecowatt.Count:
						got += v.Raw
					}
				}
			}
			return nil
		}}.encodeRun(r, nowhere)
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%d values count of %d", got, want)
		}
	})
}

// TestTheCapIsNotMissedByFar: windows are no longer than the cap needs.
func TestTheCapIsNotMissedByFar(t *testing.T) {
	r := slot(10, 450)
	for limit, want := range map[int]int64{0: 0, 100_000: 0, 3000: 30_000, 1800: 60_000, 900: 120_000, 500: 300_000, 300: 600_000} {
		blocks, largest := encoded(t, Packing{PayloadCap: limit}, r, nowhere)
		if limit != 0 && limit < leastRoom() && (len(blocks) != 1 || largest > limit) || blocks[0].Window != want {
			t.Errorf("under a cap of %d: %d messages of %d bytes, in windows of %d ms, want %d", limit, len(blocks), largest, blocks[0].Window, want)
		}
	}
}

// TestTheCapIsExact: a message of just so many bytes is not aggregated.
func TestTheCapIsExact(t *testing.T) {
	r := slot(3, 100)
	_, size := encoded(t, Packing{}, r, nowhere)
	for limit, want := range map[int]bool{size + 1: false, size: false, size - 1: true} {
		if blocks, _ := encoded(t, Packing{PayloadCap: limit}, r, nowhere); (blocks[0].Window != 0) != want {
			t.Errorf("%d bytes under a cap of %d: windows of %d ms", size, limit, blocks[0].Window)
		}
	}
}

// TestWindowsOfARun: windows lie on multiples of UTC where the boot has a place,
// and a run that was thinned out already stays as it is where its windows do not
// fit into longer ones.
func TestWindowsOfARun(t *testing.T) {
	r := slot(2, 100)
	inUTC := func(_ wire.BootID, mono int64) int64 { return mono + 1_700_000_000_123 }
	thinned := r
	thinned.Samples, thinned.Window = ecowatt.Aggregate(r.Samples, 0, 60_000), 60_000
	placed := thinned
	placed.UTC = true
	for name, c := range map[string]struct {
		run    buffer.Run
		place  placer
		window int64
		want   wire.TelemetryBlock
	}{
		"no window":         {r, nowhere, 0, wire.TelemetryBlock{Boot: &wire.Instant{Boot: wire.BootID{1}, Mono: 1000}, Count: 100}},
		"since boot":        {r, nowhere, 30_000, wire.TelemetryBlock{Boot: &wire.Instant{Boot: wire.BootID{1}}, Count: 7, Window: 30_000}},
		"in UTC":            {r, inUTC, 30_000, wire.TelemetryBlock{T0: 1_699_999_980_000, Count: 8, Window: 30_000}},
		"thinned before":    {thinned, nowhere, 0, wire.TelemetryBlock{Boot: &wire.Instant{Boot: wire.BootID{1}}, Count: 4, Window: 60_000}},
		"placed afterwards": {thinned, inUTC, 0, wire.TelemetryBlock{T0: 1_700_000_000_123, Count: 4, Window: 60_000}},
		"shorter windows":   {thinned, nowhere, 30_000, wire.TelemetryBlock{Boot: &wire.Instant{Boot: wire.BootID{1}}, Count: 4, Window: 60_000}},
		"no multiple":       {thinned, nowhere, 90_000, wire.TelemetryBlock{Boot: &wire.Instant{Boot: wire.BootID{1}}, Count: 4, Window: 60_000}},
		"longer windows":    {thinned, nowhere, 120_000, wire.TelemetryBlock{Boot: &wire.Instant{Boot: wire.BootID{1}}, Count: 2, Window: 120_000}},
		"placed before":     {placed, nowhere, 0, wire.TelemetryBlock{T0: 0, Count: 4, Window: 60_000}},
	} {
		blocks, _ := encoded(t, Packing{Window: c.window}, c.run, c.place)
		if len(blocks) != 1 {
			t.Fatalf("%s: %d messages", name, len(blocks))
		}
		got := blocks[0]
		c.want.Inverter, c.want.Points, c.want.Codec, c.want.Data = "inv1", r.Points, got.Codec, got.Data
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestCompression(t *testing.T) {
	packs, few := slot(3, 100), slot(3, 1)
	for i := range packs.Samples {
		packs.Samples[i].Values[1] = ecowatt.Known(7)
	}
	for name, c := range map[string]struct {
		word       string
		packs, few uint64
	}{
		"the default": {"", wire.CodecPacked, wire.CodecPlain},
		"none":        {CompressNone, wire.CodecPlain, wire.CodecPlain},
		"fast":        {CompressFast, wire.CodecPacked, wire.CodecPacked},
		"best":        {CompressBest, wire.CodecPacked, wire.CodecPlain},
	} {
		for r, want := range map[*buffer.Run]uint64{&packs: c.packs, &few: c.few} {
			blocks, _ := encoded(t, Packing{Compression: c.word}, *r, nowhere)
			if len(blocks) != 1 || blocks[0].Codec != want {
				t.Errorf("%s: %d samples by codec %d, want %d", name, len(r.Samples), blocks[0].Codec, want)
			}
		}
	}
}
