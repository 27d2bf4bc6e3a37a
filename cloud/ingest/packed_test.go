package ingest

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/block"
	"ecowatt/wire"
)

// packed is a block as a device packs it with codec 1.
func packed(tb testing.TB, b ecowatt.Block) Telemetry {
	tb.Helper()
	since := b
	since.Samples = nil
	for _, s := range b.Samples {
		since.Samples = append(since.Samples, ecowatt.Sample{At: s.At - b.Samples[0].At, Values: s.Values})
	}
	data, err := block.Encode(since)
	if err != nil {
		tb.Fatal(err)
	}
	t, err := wire.PackedBlock(b, nil, data)
	if err != nil {
		tb.Fatal(err)
	}
	body, err := wire.EncodeTelemetry(t)
	if err != nil {
		tb.Fatal(err)
	}
	return decoded(tb, body)
}

// A block is the same, however it was packed.
func TestPacked(t *testing.T) {
	var parts []Part
	for _, x := range []Telemetry{received(t, roof(), nil), packed(t, roof())} {
		b, err := Check(x, now)
		if err != nil {
			t.Fatal(err)
		}
		part, ok, err := Select(Query{From: now.AddDate(0, 0, -1), To: now}, b, func(_, p string) ecowatt.Point { return ecowatt.Point{Name: p} })
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		parts = append(parts, part)
	}
	if diff := cmp.Diff(parts[0], parts[1]); diff != "" {
		t.Errorf("codec 1 says something else (-codec 0 +codec 1):\n%s", diff)
	}
}

func TestPackedRefuses(t *testing.T) {
	good := packed(t, roof())
	edit := func(change func(*Telemetry)) Telemetry {
		b := good
		b.Data = bytes.Clone(good.Data)
		change(&b)
		return b
	}
	// A thousandth of a MiB that stands for four of them.
	bomb := ecowatt.Block{Inverter: "roof"}
	for i := range block.MaxPoints {
		bomb.Points = append(bomb.Points, "p"+string(rune('a'+i/26))+string(rune('a'+i%26)))
	}
	for i := range block.MaxSamples {
		bomb.Samples = append(bomb.Samples, ecowatt.Sample{At: taken + int64(i), Values: make([]ecowatt.Value, block.MaxPoints)})
	}
	wide := packed(t, ecowatt.Block{Inverter: "roof", Points: bomb.Points, Samples: bomb.Samples[:1]})
	wide.Points = append(append([]string{}, wide.Points...), "more")
	for name, c := range map[string]struct {
		b       Telemetry
		problem string
	}{
		"good":               {good, ""},
		"trailing byte":      {edit(func(b *Telemetry) { b.Data = append(b.Data, 0) }), "not a byte string"},
		"cut":                {edit(func(b *Telemetry) { b.Data = b.Data[:len(b.Data)-1] }), "not a byte string"},
		"text":               {edit(func(b *Telemetry) { b.Data[0] |= 0x20 }), "not a byte string"},
		"a sample more":      {edit(func(b *Telemetry) { b.Count++ }), "4 samples"},
		"a sample less":      {edit(func(b *Telemetry) { b.Count-- }), "data: "},
		"a point less":       {edit(func(b *Telemetry) { b.Points = b.Points[:1] }), "data: "},
		"a point more":       {edit(func(b *Telemetry) { b.Points = []string{"a", "b", "c"} }), "of 3 points"},
		"more than it knows": {wide, "in 65 columns"},
		"a bomb":             {packed(t, bomb), "262144 values"},
	} {
		refuses(t, name, c.b, c.problem)
	}
	for i := range good.Data {
		x := edit(func(b *Telemetry) { b.Data[i] ^= 1 })
		var invalid *InvalidError
		if _, err := Check(x, now); !errors.As(err, &invalid) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
}
