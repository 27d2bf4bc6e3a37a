package agent

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/agent/buffer"
	"ecowatt/inverter"
	"ecowatt/wire"
)

// wide is an inverter with n points of 64 bits and long names.
func wide(n int) InverterSettings {
	in := InverterSettings{Name: strings.Repeat("i", ecowatt.MaxNameLength), Profile: inverter.Profile{Name: "wide", Block: inverter.MaxBlock}}
	for i := range n {
		name := fmt.Sprintf("%0*d", ecowatt.MaxNameLength, i)
		in.Points = append(in.Points, name)
		in.Profile.Registers = append(in.Profile.Registers, inverter.Register{Point: ecowatt.Point{Name: name}, Table: inverter.Holding, Address: uint16(4 * i), Type: inverter.U64})
	}
	return in
}

// nowhere is the placer of who does not know the time.
func nowhere(wire.BootID, int64) int64 { return 0 }

// TestRunsFit: whatever is in a run, each of its messages fits into the smallest
// request, and all of its samples are in them, in order.
func TestRunsFit(t *testing.T) {
	random := mathrand.New(mathrand.NewPCG(1, 2))
	for _, c := range []struct {
		name          string
		points, count int
		value         func() int64
		most          int // messages
	}{
		{"one sample", 10, 1, random.Int64, 1},
		{"a slot that packs well", 10, maxRun, func() int64 { return 2300 + random.Int64N(3) }, 1},
		{"a slot that does not pack", 10, maxRun, random.Int64, 12},
		{"more points than can be packed", 100, 40, func() int64 { return random.Int64N(1 << 32) }, 4},
		{"the widest samples", 200, 5, random.Int64, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := wide(c.points)
			run := buffer.Run{Inverter: in.Name, Points: in.Points, Boot: [16]byte{1}}
			for i := range c.count {
				s := ecowatt.Sample{At: 1000 + 2000*int64(i)}
				for range c.points {
					s.Values = append(s.Values, ecowatt.Known(c.value()))
				}
				run.Samples = append(run.Samples, s)
			}
			cloud := &cloud{t: t}
			var got []ecowatt.Sample
			messages := 0
			err := encoder{random: rand.Reader, emit: func(m buffer.Message, samples int) error {
				messages++
				b, err := wire.DecodeTelemetry(m.Body)
				if err != nil {
					return err
				}
				got = append(got, cloud.unpack(b)...)
				if size := wireMessage(m).EncodedSize(); samples != int(b.Count) || size > leastRoom() && samples > 1 {
					t.Errorf("a message of %d bytes with %d samples, said to be %d; there is room for %d", size, b.Count, samples, leastRoom())
				}
				return nil
			}}.encodeRun(run, nowhere)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(run.Samples, got); diff != "" {
				t.Errorf("samples (-want +got):\n%.2000s", diff)
			}
			if messages > c.most {
				t.Errorf("%d messages, at most %d were expected", messages, c.most)
			}
		})
	}
}

func TestEncodeRun(t *testing.T) {
	boot := wire.BootID{1}
	var run buffer.Run
	sample := func(at, v int64) {
		run.Samples = append(run.Samples, ecowatt.Sample{At: at, Values: []ecowatt.Value{ecowatt.Known(v), {}}})
	}
	run.Inverter, run.Points, run.Boot = "inv1", []string{"a", "b"}, boot
	for i := range int64(30) {
		sample(1000*(i+i/2), 40+i%3) // some at one instant
	}
	few := run
	few.Samples = run.Samples[:1]
	for _, c := range []struct {
		name  string
		run   buffer.Run
		place placer
		t0    int64
		since *wire.Instant
		codec uint64
	}{
		{"time not known", run, nowhere, 0, &wire.Instant{Boot: boot, Mono: 0}, wire.CodecPacked},
		{"time known", run, func(b wire.BootID, mono int64) int64 {
			if b != boot {
				t.Errorf("boot %v", b)
			}
			return mono + 7_000_000
		}, 7_000_000, nil, wire.CodecPacked},
		{"too few to pack", few, nowhere, 0, &wire.Instant{Boot: boot, Mono: 0}, wire.CodecPlain},
	} {
		before := slices.Clone(c.run.Samples)
		messages := 0
		err := encoder{random: rand.Reader, emit: func(m buffer.Message, _ int) error {
			messages++
			got, err := wire.DecodeTelemetry(m.Body)
			if err != nil {
				return err
			}
			want := wire.TelemetryBlock{Inverter: "inv1", Points: []string{"a", "b"}, T0: c.t0, Boot: c.since, Codec: c.codec, Count: uint64(len(c.run.Samples)), Data: got.Data}
			if diff := cmp.Diff(want, got); diff != "" || m.Kind != uint64(wire.KindTelemetry) || m.ID == [16]byte{} {
				t.Errorf("%s: %v of kind %d (-want +got):\n%s", c.name, m.ID, m.Kind, diff)
			}
			if diff := cmp.Diff(shifted(before, c.t0), (&cloud{t: t}).unpack(got)); diff != "" {
				t.Errorf("%s: samples (-want +got):\n%s", c.name, diff)
			}
			return nil
		}}.encodeRun(c.run, c.place)
		if err != nil || messages != 1 {
			t.Errorf("%s: %d messages, %v", c.name, messages, err)
		}
		if diff := cmp.Diff(before, c.run.Samples); diff != "" {
			t.Errorf("%s: the run was changed:\n%s", c.name, diff)
		}
	}
}

// TestReportsFit: whatever is logged, its messages can be encoded and fit into
// the smallest request, in order.
func TestReportsFit(t *testing.T) {
	var text bytes.Buffer
	collected := &reports{}
	logger := newLogger(&text, slog.LevelWarn, collected, func() time.Duration { return 7 * time.Second })
	long := strings.Repeat("\xff\x1b…", 1000)
	for i := range maxReports + 3 {
		l := logger.With("inverter", "inv1", "code", "c", "n", i)
		for a := range 20 {
			l = l.With(fmt.Sprintf("%d%s", a, long), long)
		}
		l.Info(long) //nolint:sloglint // what a test logs
	}
	logger.Debug("too detailed", "code", "debug")
	logger.Error("no code")
	entries, dropped := collected.take()
	if len(entries) != maxReports || dropped != 3 {
		t.Fatalf("%d entries, %d dropped", len(entries), dropped)
	}
	messages, err := encodeReports(entries, dropped, func(mono int64) int64 { return mono + 1 }, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var got []wire.LogEntry
	for _, m := range messages {
		if size := wireMessage(m).EncodedSize(); size > leastRoom() {
			t.Errorf("a message of %d bytes, there is room for %d", size, leastRoom())
		}
		part, err := wire.DecodeLog(m.Body)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, part...)
	}
	if len(got) != 1+maxReports || got[0].Code != "reports_dropped" || got[0].Attributes["count"] != int64(3) {
		t.Fatalf("%d entries, the first is %+v", len(got), got[0])
	}
	for i, e := range got[1:] {
		if e.Code != "c" || e.At != 7001 || e.Attributes["n"] != int64(3+i) || e.Attributes["inverter"] != "inv1" || e.Level != wire.LevelInfo {
			t.Errorf("entry %d: %.200v", i, e)
		}
	}
	if s := text.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "no code") {
		t.Errorf("the log has %.200q", s)
	}
	if none, dropped := collected.take(); len(none) != 0 || dropped != 0 {
		t.Error("reports are taken twice")
	}
}

func TestReportAttributes(t *testing.T) {
	collected := &reports{}
	logger := newLogger(&bytes.Buffer{}, slog.LevelError, collected, func() time.Duration { return 0 })
	logger.Warn("text", "code", "c", "bool", true, "int", -3, "uint", uint64(1<<63), "small", uint8(3),
		"duration", 1500*time.Millisecond, "float", 0.5, "error", fmt.Errorf("no"), "nil", nil)
	entries, _ := collected.take()
	want := map[string]any{
		"bool": true, "int": int64(-3), "uint": "9223372036854775808", "small": int64(3),
		"duration": "1.5s", "float": 0.5, "error": "no", "nil": "<nil>",
	}
	if len(entries) != 1 {
		t.Fatalf("%d entries", len(entries))
	}
	if diff := cmp.Diff(want, entries[0].attrs); diff != "" || entries[0].level != slog.LevelWarn {
		t.Errorf("level %v (-want +got):\n%s", entries[0].level, diff)
	}
}

func TestShort(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"", 5, ""},
		{"abcde", 5, "abcde"},
		{"abcdef", 5, "ab…"},
		{"a€€", 7, "a€€"},
		{"a€€€", 7, "a€…"},
		{"a€€€", 6, "a…"},
		{"\xff", 5, "\ufffd"},
	} {
		if got := short(c.text, c.most); got != c.want {
			t.Errorf("short(%q, %d) = %q, want %q", c.text, c.most, got, c.want)
		}
	}
}

func TestParseBootID(t *testing.T) {
	id, err := parseBootID("fe0d8ea2-0a0a-4f43-9b7e-7e6d1f2a3b4c\n")
	if err != nil || id.String() != "fe0d8ea20a0a4f439b7e7e6d1f2a3b4c" {
		t.Errorf("%v, %v", id, err)
	}
	for _, bad := range []string{"", "fe0d8ea2", "fe0d8ea2-0a0a-4f43-9b7e-7e6d1f2a3b4x", "fe0d8ea2-0a0a-4f43-9b7e-7e6d1f2a3b4c00"} {
		if _, err := parseBootID(bad); err == nil {
			t.Errorf("%q is taken for a boot id", bad)
		}
	}
	first, err := bootID()
	if second, err2 := bootID(); err != nil || err2 != nil || first != second {
		t.Errorf("%v, %v; %v, %v", first, err, second, err2)
	}
	if a, b := monotonic(), monotonic(); a <= 0 || b < a {
		t.Errorf("time since boot: %v, then %v", a, b)
	}
}
