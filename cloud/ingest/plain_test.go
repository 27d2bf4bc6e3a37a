package ingest

import (
	"bytes"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"ecowatt"
)

// encode writes samples with the library, in the way of codec 0.
func encode(t interface{ Fatal(args ...any) }, samples []ecowatt.Sample, b Block) []byte {
	columns := make([][]*int64, 1+len(b.Points))
	for _, s := range samples {
		at := s.At - b.T0
		columns[0] = append(columns[0], &at)
		for p, v := range s.Values {
			var raw *int64
			if v.Valid {
				raw = &v.Raw
			}
			columns[1+p] = append(columns[1+p], raw)
		}
	}
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	data, err := mode.Marshal(columns)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// data is codec 0 by hand: columns of values, nil for null.
func data(t *testing.T, columns ...[]any) []byte {
	t.Helper()
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	b, err := mode.Marshal(columns)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unhex(t *testing.T, text string) (b []byte) {
	t.Helper()
	if _, err := fmt.Sscanf(strings.ReplaceAll(text, " ", ""), "%x", &b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCheckData(t *testing.T) {
	good := data(t, []any{0}, []any{1})
	refuses(t, "good", one(func(b *Telemetry) { b.Data = good }), "")
	refuses(t, "extreme values", one(func(b *Telemetry) {
		b.Count, b.Data = 2, data(t, []any{0, 1}, []any{math.MinInt64, math.MaxInt64})
	}), "")
	refuses(t, "points without any bytes", one(func(b *Telemetry) { b.Points, b.Data = names(2), good }), "data:")
	for name, bad := range map[string][]byte{
		"no data":                 nil,
		"a number":                {1},
		"a column too few":        data(t, []any{0}),
		"a column too many":       data(t, []any{0}, []any{0}, []any{0}),
		"a time too few":          data(t, []any{}, []any{0, 0}),
		"a time too many":         data(t, []any{0, 1}, []any{0}),
		"a value too few":         append(data(t, []any{0}, []any{}), 0),
		"a value too many":        data(t, []any{0}, []any{0, 0}),
		"more follows":            append(bytes.Clone(good), 0),
		"a time that is null":     data(t, []any{nil}, []any{0}),
		"a time as a float":       data(t, []any{1.5}, []any{0}),
		"a value as a float":      data(t, []any{0}, []any{1.5}),
		"a value as text":         data(t, []any{0}, []any{"SECRET"}),
		"a value as a bool":       data(t, []any{0}, []any{true}),
		"a value of 2^63":         data(t, []any{0}, []any{uint64(1 << 63)}),
		"a value of -2^63-1":      unhex(t, "82810081 3b8000000000000000"),
		"a longer head":           unhex(t, "82810081 1817"),
		"a longer head of two":    unhex(t, "82810081 1900ff"),
		"a longer head of four":   unhex(t, "82810081 1a0000ffff"),
		"a longer head of eight":  unhex(t, "82810081 3b00000000ffffffff"),
		"a longer head of a list": unhex(t, "980281008101"),
		"an indefinite list":      unhex(t, "829f00ff8101"),
		"a reserved head":         unhex(t, "82810081 1c00"),
		"a tagged value":          unhex(t, "82810081 c001"),
		"undefined for a value":   unhex(t, "82810081 f7"),
	} {
		refuses(t, name, one(func(b *Telemetry) { b.Data = bad }), "data:")
	}
}

// TestEveryCutIsRefused: no prefix of a block's data is a block.
func TestEveryCutIsRefused(t *testing.T) {
	b := received(t, roof(), nil)
	whole := b.Data
	for n := range whole {
		b.Data = whole[:n]
		if _, err := Check(b, now); err == nil {
			t.Errorf("%d of %d bytes were taken for the whole", n, len(whole))
		}
	}
}

// A block may announce 4095 points by 4096 samples, 16 million values, in a few
// kilobytes.
//
// Attacks: W15
func TestBlockBombAllocatesNothing(t *testing.T) {
	b := Telemetry{Inverter: "roof", Count: MaxSamples, T0: taken}
	for p := range MaxPoints {
		b.Points = append(b.Points, fmt.Sprintf("p%d", p))
	}
	b.Data = append([]byte{0x99, 0x10, 0x00, 0x99, 0x10, 0x00}, make([]byte, MaxSamples)...)
	b.Data = append(b.Data, bytes.Repeat([]byte{0x99, 0x10, 0x00}, MaxPoints)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Check(b, now); err == nil {
		t.Error("a block without values was taken")
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
}

// FuzzDecodePlain: nothing makes it panic, and there is one way to write what it
// accepts.
//
// Attacks: W20
func FuzzDecodePlain(f *testing.F) {
	b := received(f, roof(), nil)
	f.Add(b.Data, 2, 3)
	f.Add([]byte{0x82, 0x81, 0x00, 0x81, 0xf6}, 1, 1)
	f.Add([]byte{0x82, 0x81, 0x1b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x81, 0x3b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 1, 1)
	f.Fuzz(func(t *testing.T, data []byte, points, count int) {
		if points < 1 || points > MaxPoints || count < 1 || count > MaxSamples {
			return
		}
		samples, err := decodePlain(data, points, count)
		if err != nil {
			return
		}
		if again := encode(t, samples, Block{Points: make([]string, points)}); !bytes.Equal(again, data) {
			t.Errorf("%x is also written %x", data, again)
		}
	})
}
