package agent

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"log/slog"
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

// TestMaxRun: the runs are as long as they may be so that each message fits into
// the smallest request.
func TestMaxRun(t *testing.T) {
	sim := simSettings(t).Inverters[0]
	sim.Points = sim.Profile.PointNames()
	few := sim
	few.Points = few.Points[:1]
	for _, c := range []struct {
		name      string
		inverters []InverterSettings
		widest    InverterSettings
		most      int
	}{
		{"sim", []InverterSettings{sim}, sim, 200},
		{"one point", []InverterSettings{few}, few, 1000},
		{"two inverters", []InverterSettings{few, sim}, sim, 200},
		{"wide", []InverterSettings{wide(20)}, wide(20), 20},
	} {
		n := maxRun(c.inverters)
		size := func(n int) int {
			m, err := encodeRun(widestRun(c.widest, n), nowhere, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			return wireMessage(m).EncodedSize()
		}
		if n < 2 || n > c.most || size(n) > leastRoom() || size(n+1) <= leastRoom() {
			t.Errorf("%s: %d samples, %d bytes; one more: %d; there is room for %d", c.name, n, size(n), size(n+1), leastRoom())
		}
		worst := widestRun(c.widest, n)
		for i := range worst.Samples {
			for p, name := range worst.Points {
				r, _ := c.widest.Profile.Register(name)
				worst.Samples[i].Values[p] = ecowatt.Known(-1 << (16*r.Type.Words() - 1)) // no register holds less
			}
		}
		m, err := encodeRun(worst, nowhere, rand.Reader)
		if err != nil || wireMessage(m).EncodedSize() > leastRoom() {
			t.Errorf("%s: with the least values %d bytes, %v", c.name, wireMessage(m).EncodedSize(), err)
		}
	}
	if n := maxRun([]InverterSettings{wide(200)}); n != 1 {
		t.Errorf("when not even one sample fits: %d", n)
	}
}

func TestEncodeRun(t *testing.T) {
	boot := wire.BootID{1}
	sample := func(at, v int64) ecowatt.Sample {
		return ecowatt.Sample{At: at, Values: []ecowatt.Value{ecowatt.Known(v), {}}}
	}
	run := buffer.Run{Inverter: "inv1", Points: []string{"a", "b"}, Boot: boot, Samples: []ecowatt.Sample{
		sample(1000, 1), sample(2000, 2), sample(2000, 3), sample(3000, 4),
	}}
	// 84 times, 83 values of a, 83 values of b; the third sample has no time of its own
	data := []byte("\x83\x83\x00\x19\x03\xe8\x19\x07\xd0\x83\x01\x02\x04\x83\xf6\xf6\xf6")
	for _, c := range []struct {
		name  string
		place placer
		want  wire.TelemetryBlock
	}{
		{"time not known", nowhere, wire.TelemetryBlock{Boot: &wire.Instant{Boot: boot, Mono: 1000}}},
		{"time known", func(b wire.BootID, mono int64) int64 {
			if b != boot {
				t.Errorf("boot %v", b)
			}
			return mono + 7_000_000
		}, wire.TelemetryBlock{T0: 7_001_000}},
	} {
		m, err := encodeRun(run, c.place, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		got, err := wire.DecodeTelemetry(m.Body)
		if err != nil {
			t.Fatal(err)
		}
		c.want.Inverter, c.want.Points, c.want.Count, c.want.Data = "inv1", []string{"a", "b"}, 3, data
		if diff := cmp.Diff(c.want, got); diff != "" || m.Kind != uint64(wire.KindTelemetry) || m.ID == [16]byte{} {
			t.Errorf("%s: %v of kind %d (-want +got):\n%s", c.name, m.ID, m.Kind, diff)
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
		"duration": "1.5s", "float": "0.5", "error": "no", "nil": "<nil>",
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
