package ingest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt"
	"ecowatt/block"
	"ecowatt/wire"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// taken is when the first sample of these tests was taken.
var taken = now.Add(-time.Hour).UnixMilli()

// received is a block as a device packs it and the gateway hands it on.
func received(tb testing.TB, b ecowatt.Block, boot *wire.BootID) Telemetry {
	tb.Helper()
	packed, err := wire.PlainBlock(b, boot)
	if err != nil {
		tb.Fatal(err)
	}
	body, err := wire.EncodeTelemetry(packed)
	if err != nil {
		tb.Fatal(err)
	}
	return decoded(tb, body)
}

func decoded(tb testing.TB, body []byte) Telemetry {
	tb.Helper()
	w, err := wire.DecodeTelemetry(body)
	if err != nil {
		tb.Fatal(err)
	}
	t := Telemetry{Inverter: w.Inverter, Points: w.Points, T0: w.T0, Codec: w.Codec, Count: w.Count, Data: w.Data, Window: w.Window}
	if w.Boot != nil {
		t.Boot = &Instant{Boot: BootID(w.Boot.Boot), Mono: w.Boot.Mono}
	}
	return t
}

// roof is a block of three samples two seconds apart; one value is missing.
func roof() ecowatt.Block {
	return ecowatt.Block{
		Inverter: "roof", Points: []string{"vac1", "pac"},
		Samples: []ecowatt.Sample{
			{At: taken, Values: []ecowatt.Value{ecowatt.Known(2301), ecowatt.Known(4100)}},
			{At: taken + 2000, Values: []ecowatt.Value{ecowatt.Known(2302), ecowatt.Known(-4104)}},
			{At: taken + 4000, Values: []ecowatt.Value{{}, ecowatt.Known(0)}},
		},
	}
}

func describe(inverter, point string) ecowatt.Point {
	return ecowatt.Point{Name: point, Unit: inverter + "/" + point, Exponent: -1}
}

func described(inverter string, names ...string) []ecowatt.Point {
	points := make([]ecowatt.Point, len(names))
	for i, name := range names {
		points[i] = describe(inverter, name)
	}
	return points
}

func always() Query {
	return Query{From: time.UnixMilli(0), To: time.UnixMilli(math.MaxInt64)}
}

// TestBlocksComeBack: what a device packs is what a query gets, whatever it is.
func TestBlocksComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := ecowatt.Block{Inverter: rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,8}`).Draw(t, "inverter")}
		for p := range rapid.IntRange(1, 6).Draw(t, "points") {
			b.Points = append(b.Points, fmt.Sprintf("p%d", p))
		}
		at := rapid.Int64Range(earliest, now.UnixMilli()-40*60_000).Draw(t, "t0")
		for range rapid.IntRange(1, 40).Draw(t, "samples") {
			s := ecowatt.Sample{At: at, Values: make([]ecowatt.Value, len(b.Points))}
			for p := range s.Values {
				if rapid.Bool().Draw(t, "valid") {
					s.Values[p] = ecowatt.Known(rapid.Int64().Draw(t, "raw"))
				}
			}
			b.Samples = append(b.Samples, s)
			at += rapid.Int64Range(0, 60_000).Draw(t, "step")
		}
		packed, err := wire.PlainBlock(b, nil)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := Check(Telemetry{Inverter: packed.Inverter, Points: packed.Points, T0: packed.T0, Count: packed.Count, Data: packed.Data}, now)
		if err != nil {
			t.Fatal(err)
		}
		part, ok, err := Select(always(), stored, describe)
		if !ok || err != nil {
			t.Fatalf("nothing of the block came back: %v", err)
		}
		want := Part{Inverter: b.Inverter, Points: described(b.Inverter, b.Points...), Samples: b.Samples}
		if diff := cmp.Diff(want, part); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if again := encode(t, part.Samples, stored); !bytes.Equal(again, stored.Data) {
			t.Fatalf("%x came back as %x", stored.Data, again)
		}
	})
}

// TestVectorBlock reads the block of the protocol's worked examples, which other
// code than ours made.
func TestVectorBlock(t *testing.T) {
	text, err := os.ReadFile("../../wire/testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Records []struct {
				Request string `json:"req_body_cbor"`
			} `json:"records"`
		} `json:"cases"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	var body []byte
	if _, err := fmt.Sscanf(file.Cases[0].Records[1].Request, "%x", &body); err != nil {
		t.Fatal(err)
	}
	q, err := wire.DecodeRequest(body)
	if err != nil {
		t.Fatal(err)
	}
	const t0 = 1_790_000_000_000
	b, err := Check(decoded(t, q.Messages[0].Body), time.UnixMilli(t0+60_000))
	if err != nil {
		t.Fatal(err)
	}
	part, _, err := Select(always(), b, describe)
	if err != nil {
		t.Fatal(err)
	}
	want := Part{
		Inverter: "roof", Points: described("roof", "vac1", "pac"),
		Samples: []ecowatt.Sample{
			{At: t0, Values: []ecowatt.Value{ecowatt.Known(2301), ecowatt.Known(4100)}},
			{At: t0 + 2000, Values: []ecowatt.Value{ecowatt.Known(2302), ecowatt.Known(4104)}},
			{At: t0 + 4000, Values: []ecowatt.Value{{}, ecowatt.Known(4099)}},
		},
	}
	if diff := cmp.Diff(want, part); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCheck(t *testing.T) {
	sent := received(t, roof(), nil)
	got, err := Check(sent, now)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Minutes) == 0 || len(got.Quarters) == 0 {
		t.Errorf("nothing is rolled up: %v, %v", got.Minutes, got.Quarters)
	}
	got.Minutes, got.Quarters = nil, nil
	want := Block{Inverter: "roof", Points: sent.Points, Count: 3, Data: sent.Data, Span: 4000, Placed: true, T0: taken}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("with a clock (-want +got):\n%s", diff)
	}

	sent = received(t, roof(), &wire.BootID{7})
	if got, err = Check(sent, now); err != nil {
		t.Fatal(err)
	}
	want.Placed, want.T0, want.Boot = false, 0, &Instant{Boot: BootID{7}, Mono: taken}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("without a clock (-want +got):\n%s", diff)
	}
}

// names returns n different names of points.
func names(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("p%d", i)
	}
	return list
}

// one is a good block of one sample of one point, but for edit.
func one(edit func(*Telemetry)) Telemetry {
	b := Telemetry{Inverter: "roof", Points: []string{"pac"}, T0: taken, Count: 1, Data: []byte{0x82, 0x81, 0, 0x81, 1}}
	edit(&b)
	return b
}

// wide is a block of n points, long one of n samples.
func wide(n int) func(*Telemetry) {
	return func(b *Telemetry) {
		b.Points = names(n)
		b.Data = append(binary.BigEndian.AppendUint16([]byte{0x99}, uint16(n+1)), bytes.Repeat([]byte{0x81, 0}, n+1)...)
	}
}

func long(n int) func(*Telemetry) {
	return func(b *Telemetry) {
		b.Count = uint64(n)
		column := append(binary.BigEndian.AppendUint16([]byte{0x99}, uint16(n)), make([]byte, n)...)
		b.Data = append(append([]byte{0x82}, column...), column...)
	}
}

// refuses checks one case of a table: the problem of a bad block, "" for a good one.
func refuses(t *testing.T, name string, b Telemetry, problem string) {
	t.Helper()
	_, err := Check(b, now)
	var invalid *InvalidError
	switch {
	case problem == "" && err != nil:
		t.Errorf("%s: %v", name, err)
	case problem != "" && (!errors.As(err, &invalid) || !strings.Contains(err.Error(), problem)):
		t.Errorf("%s: %v, want an *InvalidError with %q", name, err, problem)
	case problem != "" && strings.Contains(err.Error(), "SECRET"):
		t.Errorf("%s: the error repeats what the device sent: %v", name, err)
	}
}

func TestCheckBounds(t *testing.T) {
	day := int64(24 * 3600 * 1000)
	at := func(times ...any) func(*Telemetry) {
		return func(b *Telemetry) { b.Count, b.Data = uint64(len(times)), data(t, times, make([]any, len(times))) }
	}
	for name, c := range map[string]struct {
		b       Telemetry
		problem string // "" for a good block
	}{
		"good":                    {one(func(*Telemetry) {}), ""},
		"longest name":            {one(func(b *Telemetry) { b.Inverter = strings.Repeat("a", 64) }), ""},
		"most points":             {one(wide(MaxPoints)), ""},
		"most samples":            {one(long(MaxSamples)), ""},
		"two samples at one time": {one(at(0, 5, 5)), ""},
		"first sample after t0":   {one(at(7, 8)), ""},
		"longest span":            {one(func(b *Telemetry) { at(0, 32*day)(b); b.T0 = now.UnixMilli() - 32*day }), ""},
		"earliest":                {one(func(b *Telemetry) { b.T0 = earliest }), ""},
		"latest":                  {one(func(b *Telemetry) { at(0, 1000)(b); b.T0 = now.UnixMilli() + day - 1000 }), ""},
		"since boot, t0 ignored":  {one(func(b *Telemetry) { b.T0, b.Boot = 0, &Instant{} }), ""},
		"up for a hundred years":  {one(func(b *Telemetry) { b.Boot = &Instant{Mono: maxMono} }), ""},
		"no inverter":             {one(func(b *Telemetry) { b.Inverter = "" }), "the inverter's name"},
		"inverter in capitals":    {one(func(b *Telemetry) { b.Inverter = "SECRET" }), "the inverter's name"},
		"inverter too long":       {one(func(b *Telemetry) { b.Inverter = strings.Repeat("a", 65) }), "the inverter's name"},
		"no points":               {one(func(b *Telemetry) { b.Points, b.Data = nil, data(t, []any{0}) }), "0 points"},
		"too many points":         {one(wide(MaxPoints + 1)), "4096 points"},
		"a point with a comma":    {one(func(b *Telemetry) { b.Points = []string{"SECRET,"} }), "the name of point 0"},
		"a point twice":           {one(func(b *Telemetry) { b.Points = []string{"a", "b", "a"} }), "point 2 is named twice"},
		"codec 2":                 {one(func(b *Telemetry) { b.Codec = 2 }), "codec 2"},
		"codec 2^64-1":            {one(func(b *Telemetry) { b.Codec = math.MaxUint64 }), "codec 18446744073709551615"},
		"no samples":              {one(func(b *Telemetry) { b.Count = 0 }), "0 samples"},
		"too many samples":        {one(long(MaxSamples + 1)), "4097 samples"},
		"2^64-1 samples":          {one(func(b *Telemetry) { b.Count = math.MaxUint64 }), "18446744073709551615 samples"},
		"times go back":           {one(at(0, 5, 4)), "sample 2 is before"},
		"before t0":               {one(at(-1, 5)), "sample 0 is before"},
		"span too long":           {one(func(b *Telemetry) { at(0, 32*day+1)(b); b.T0 = now.UnixMilli() - 33*day }), "32 days"},
		"before 2015":             {one(func(b *Telemetry) { b.T0 = earliest - 1 }), "t0 cannot be true"},
		"at 0":                    {one(func(b *Telemetry) { b.T0 = 0 }), "t0 cannot be true"},
		"in the future":           {one(func(b *Telemetry) { at(0, 1000)(b); b.T0 = now.UnixMilli() + day - 999 }), "t0 cannot be true"},
		"at the end of time":      {one(func(b *Telemetry) { b.T0 = math.MaxInt64 }), "t0 cannot be true"},
		"before the boot":         {one(func(b *Telemetry) { b.Boot = &Instant{Mono: -1} }), "since boot"},
		"up for longer than that": {one(func(b *Telemetry) { b.Boot = &Instant{Mono: maxMono + 1} }), "since boot"},
	} {
		refuses(t, name, c.b, c.problem)
	}
}

func TestSelect(t *testing.T) {
	b, err := Check(received(t, roof(), nil), now)
	if err != nil {
		t.Fatal(err)
	}
	unplaced := b
	unplaced.Placed = false
	query := func(from, to int64, points ...string) Query {
		return Query{From: time.UnixMilli(taken + from), To: time.UnixMilli(taken + to), Points: points}
	}
	of := func(inverter string) Query {
		q := query(0, 10_000)
		q.Inverter = inverter
		return q
	}
	v, none := ecowatt.Known, ecowatt.Value{}
	type rows = [][]ecowatt.Value
	for name, c := range map[string]struct {
		q      Query
		b      Block
		points []string
		at     []int64
		values rows
	}{
		"all":              {query(0, 4001), b, b.Points, []int64{0, 2000, 4000}, rows{{v(2301), v(4100)}, {v(2302), v(-4104)}, {none, v(0)}}},
		"from is within":   {query(2000, 9000), b, b.Points, []int64{2000, 4000}, rows{{v(2302), v(-4104)}, {none, v(0)}}},
		"to is beyond":     {query(0, 4000), b, b.Points, []int64{0, 2000}, rows{{v(2301), v(4100)}, {v(2302), v(-4104)}}},
		"between samples":  {query(1, 2000), b, nil, nil, nil},
		"before":           {query(-10, 0), b, nil, nil, nil},
		"after":            {query(4001, 9000), b, nil, nil, nil},
		"backwards":        {query(4001, 0), b, nil, nil, nil},
		"one point":        {query(0, 1, "pac"), b, []string{"pac"}, []int64{0}, rows{{v(4100)}}},
		"in another order": {query(0, 1, "pac", "vac1"), b, []string{"pac", "vac1"}, []int64{0}, rows{{v(4100), v(2301)}}},
		"one not there":    {query(0, 1, "temp", "pac"), b, []string{"temp", "pac"}, []int64{0}, rows{{none, v(4100)}}},
		"none there":       {query(0, 1, "temp"), b, nil, nil, nil},
		"a point twice":    {query(0, 1, "pac", "pac"), b, []string{"pac", "pac"}, []int64{0}, rows{{v(4100), v(4100)}}},
		"this inverter":    {of("roof"), b, b.Points, []int64{0, 2000, 4000}, rows{{v(2301), v(4100)}, {v(2302), v(-4104)}, {none, v(0)}}},
		"another inverter": {of("barn"), b, nil, nil, nil},
		"without a place":  {query(0, 4001), unplaced, nil, nil, nil},
	} {
		got, ok, err := Select(c.q, c.b, describe)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		want := Part{}
		if c.points != nil {
			want = Part{Inverter: "roof", Points: described("roof", c.points...)}
		}
		for i, at := range c.at {
			want.Samples = append(want.Samples, ecowatt.Sample{At: taken + at, Values: c.values[i]})
		}
		if diff := cmp.Diff(want, got); diff != "" || ok != (c.points != nil) {
			t.Errorf("%s: %v (-want +got):\n%s", name, ok, diff)
		}
	}
}

// minute is a good block of windows, two of a minute and one missing between them.
func minute(edit func(columns [][]any, b *Telemetry)) func(*testing.T) Telemetry {
	return func(t *testing.T) Telemetry {
		columns := [][]any{{0, 120_000}, {100, nil}, {-3, nil}, {150, nil}, {30, 0}}
		b := one(func(b *Telemetry) { b.Count, b.Window = 2, 60_000 })
		edit(columns, &b)
		b.Data = data(t, columns...)
		return b
	}
}

func TestCheckWindows(t *testing.T) {
	for name, c := range map[string]struct {
		b       func(*testing.T) Telemetry
		problem string
	}{
		"good":             {minute(func([][]any, *Telemetry) {}), ""},
		"since boot":       {minute(func(_ [][]any, b *Telemetry) { b.Boot = &Instant{Mono: 60_000} }), ""},
		"full":             {minute(func(c [][]any, _ *Telemetry) { c[4][0] = 86_400_000 }), ""},
		"of a second":      {minute(func(_ [][]any, b *Telemetry) { b.Window = 1000 }), ""},
		"too short":        {minute(func(_ [][]any, b *Telemetry) { b.Window = 999 }), "999 ms"},
		"below 0":          {minute(func(_ [][]any, b *Telemetry) { b.Window = -60_000 }), "-60000 ms"},
		"longer than days": {minute(func(_ [][]any, b *Telemetry) { b.Window = 86_400_001 }), "86400001 ms"},
		"not whole apart":  {minute(func(c [][]any, _ *Telemetry) { c[0][1] = 119_999 }), "window 1 does not begin"},
		"not from t0":      {minute(func(c [][]any, _ *Telemetry) { c[0][0] = 1 }), "window 0 does not begin"},
		"twice":            {minute(func(c [][]any, _ *Telemetry) { c[0][1] = 0 }), "window 1 does not begin"},
		"going back":       {minute(func(c [][]any, _ *Telemetry) { c[0][0], c[0][1] = 60_000, 0 }), "sample 1 is before"},
		"mean too low":     {minute(func(c [][]any, _ *Telemetry) { c[1][0] = -4 }), "do not fit"},
		"mean too high":    {minute(func(c [][]any, _ *Telemetry) { c[1][0] = 151 }), "do not fit"},
		"least above most": {minute(func(c [][]any, _ *Telemetry) { c[2][0], c[3][0] = 150, -3 }), "do not fit"},
		"no count":         {minute(func(c [][]any, _ *Telemetry) { c[4][1] = nil }), "do not fit"},
		"a count below 0":  {minute(func(c [][]any, _ *Telemetry) { c[4][1] = -1 }), "do not fit"},
		"a count too high": {minute(func(c [][]any, _ *Telemetry) { c[4][0] = 86_400_001 }), "do not fit"},
		"a mean of none":   {minute(func(c [][]any, _ *Telemetry) { c[1][1] = 0 }), "do not fit"},
		"no mean of some":  {minute(func(c [][]any, _ *Telemetry) { c[1][0] = nil }), "do not fit"},
		"no least of some": {minute(func(c [][]any, _ *Telemetry) { c[2][0] = nil }), "do not fit"},
		"no most of some":  {minute(func(c [][]any, _ *Telemetry) { c[3][0] = nil }), "do not fit"},
		"a column short":   {minute(func(_ [][]any, b *Telemetry) { b.Points = []string{"pac", "vac1"} }), "8 columns"},
		"too many columns": {minute(func(_ [][]any, b *Telemetry) { b.Points = names(1024) }), "4096 columns"},
	} {
		refuses(t, name, c.b(t), c.problem)
	}
}

// TestSelectOfWindows: what a device made windows of, by either codec, comes back
// as their means.
func TestSelectOfWindows(t *testing.T) {
	whole := roof()
	whole.Window, whole.Samples = 60_000, ecowatt.Aggregate(whole.Samples, 0, 60_000)
	packed := received(t, whole, nil)
	data, err := block.Encode(ecowatt.Block{Points: names(8), Samples: []ecowatt.Sample{{Values: whole.Samples[0].Values}}})
	if err != nil {
		t.Fatal(err)
	}
	as, err := wire.PackedBlock(whole, nil, data)
	if err != nil {
		t.Fatal(err)
	}
	packed.Codec, packed.Data = as.Codec, as.Data
	want := Part{Inverter: "roof", Window: 60_000, Points: described("roof", "vac1", "pac"), Samples: []ecowatt.Sample{
		{At: taken, Values: []ecowatt.Value{
			ecowatt.Known(2302), ecowatt.Known(2301), ecowatt.Known(2302), ecowatt.Known(2), // of 2301 and 2302
			ecowatt.Known(-1), ecowatt.Known(-4104), ecowatt.Known(4100), ecowatt.Known(3), // of 4100, -4104 and 0
		}},
	}}
	for _, sent := range []Telemetry{received(t, whole, nil), packed} {
		b, err := Check(sent, now)
		if err != nil {
			t.Fatal(err)
		}
		if b.Window != 60_000 {
			t.Errorf("windows of %d ms", b.Window)
		}
		got, ok, err := Select(always(), b, describe)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		some := always()
		some.Points = []string{"pac", "temp"}
		got, _, err = Select(some, b, describe)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(append(slices.Clone(want.Samples[0].Values[4:]), make([]ecowatt.Value, 4)...), got.Samples[0].Values); diff != "" {
			t.Errorf("of some points (-want +got):\n%s", diff)
		}
	}
}

func TestSelectOfDamage(t *testing.T) {
	b, err := Check(received(t, roof(), nil), now)
	if err != nil {
		t.Fatal(err)
	}
	codec, cut := b, b
	codec.Codec, cut.Data = 9, b.Data[:5]
	for name, b := range map[string]Block{"an unknown codec": codec, "cut data": cut} {
		if part, ok, err := Select(always(), b, describe); err == nil || ok {
			t.Errorf("%s: %v, %v, %v", name, part, ok, err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	day := ecowatt.Block{Inverter: "roof", Points: []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}}
	for n := range 180 {
		s := ecowatt.Sample{At: taken + int64(n)*5000}
		for p := range day.Points {
			s.Values = append(s.Values, ecowatt.Known(int64(2300+n*p)))
		}
		day.Samples = append(day.Samples, s)
	}
	t := received(b, day, nil)
	b.ReportAllocs()
	b.SetBytes(int64(len(t.Data)))
	for b.Loop() {
		if _, err := Check(t, now); err != nil {
			b.Fatal(err)
		}
	}
}
