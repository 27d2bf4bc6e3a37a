package gateway_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/registry"
	"ecowatt/wire"
)

// statuses of results, for comparing.
func statuses(results []wire.Result) []wire.Status {
	var out []wire.Status
	for _, r := range results {
		out = append(out, r.Status)
	}
	return out
}

// Attacks: O7
func TestTelemetryIsStoredAsSampled(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	c.wait(time.Hour)
	got := d.say(d.block(start.Add(time.Minute), 2, 7), d.block(start.Add(2*time.Minute), 1, 9))
	if !slices.Equal(statuses(got), []wire.Status{wire.Stored, wire.Stored}) {
		t.Fatalf("results %+v", got)
	}
	want := []string{"12:01:00 pac=7", "12:01:01 pac=8", "12:02:00 pac=9"}
	if diff := cmp.Diff(want, d.samples()); diff != "" {
		t.Error(diff)
	}
	if got := c.actions("roof-1"); !slices.Equal(got, []string{"device.added", "session.confirmed"}) {
		t.Errorf("telemetry is told of: %v", got)
	}
}

// TestOnce: a message takes effect once, whatever session
// brings it, and its id is one device's alone.
//
// Attacks: R5, R9, R10, O6
func TestOnce(t *testing.T) {
	c := newCloud(t)
	x, y := c.connected("x"), c.connected("y")
	m := x.block(start, 2, 1)
	x.say(m)
	check := func(when string, want wire.Status) {
		t.Helper()
		if got := x.say(m); got[0].Status != want || got[0].ID != m.ID {
			t.Errorf("%s: %+v", when, got)
		}
	}
	check("again", wire.Duplicate)
	x.connect()
	check("in another session", wire.Duplicate)
	c.restart()
	check("after a restart", wire.Duplicate)

	other := x.block(start.Add(time.Hour), 5, 100)
	other.ID = m.ID
	if got := x.say(other, m); !slices.Equal(statuses(got), []wire.Status{wire.Conflict, wire.Duplicate}) {
		t.Errorf("other bytes: %+v", got)
	}
	if r := c.record("x", "message.conflict"); r.Attrs["reason"] != "EX_MSGID_CONFLICT" || r.Attrs["first"] != m.ID.String() {
		t.Errorf("record %+v", r)
	}
	sameBody := m
	sameBody.Kind = wire.KindLog
	if got := x.say(sameBody); got[0].Status == wire.Duplicate || got[0].Status == wire.Stored {
		t.Errorf("another kind: %+v", got)
	}
	if got := x.samples(); len(got) != 2 {
		t.Errorf("samples of x: %v", got)
	}
	if got := y.say(m); got[0].Status != wire.Stored {
		t.Errorf("the same message of another device: %+v", got)
	}
}

// Attacks: R9
func TestTheSameIDTwiceInOneRequest(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	m := d.block(start, 1, 1)
	other := d.block(start, 1, 2)
	other.ID = m.ID
	if got := statuses(d.say(m, m, other)); !slices.Equal(got, []wire.Status{wire.Stored, wire.Duplicate, wire.Conflict}) {
		t.Errorf("statuses %v", got)
	}
	if got := d.samples(); len(got) != 1 {
		t.Errorf("samples %v", got)
	}
}

// TestInvalidMessages: what can never be stored concerns itself
// alone and leaves nothing behind.
//
// Attacks: A6, O8, O9
func TestInvalidMessages(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	encode := func(b wire.TelemetryBlock) wire.Message {
		t.Helper()
		body, err := wire.EncodeTelemetry(b)
		if err != nil {
			t.Fatal(err)
		}
		return wire.Message{ID: random16(t), Kind: wire.KindTelemetry, Body: body}
	}
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	ms := start.UnixMilli()
	good := wire.TelemetryBlock{Inverter: "roof", Points: []string{"pac"}, T0: ms, Count: 1, Data: []byte{0x82, 0x81, 0, 0x81, 1}}
	edited := func(edit func(b *wire.TelemetryBlock)) wire.Message {
		b := good
		edit(&b)
		return encode(b)
	}
	invalid := map[string]wire.Message{
		"not a block":       {ID: random16(t), Kind: wire.KindTelemetry, Body: []byte{0xa0}},
		"codec 1":           edited(func(b *wire.TelemetryBlock) { b.Codec = 1 }),
		"count":             edited(func(b *wire.TelemetryBlock) { b.Count = 2 }),
		"a huge count":      edited(func(b *wire.TelemetryBlock) { b.Count = 1 << 63 }),
		"inverter's name":   edited(func(b *wire.TelemetryBlock) { b.Inverter = "Roof 1'; DROP TABLE block" }),
		"in the future":     edited(func(b *wire.TelemetryBlock) { b.T0 = ms + 48*3600*1000 }),
		"in 1970":           edited(func(b *wire.TelemetryBlock) { b.T0 = 1 }),
		"a point twice":     edited(func(b *wire.TelemetryBlock) { b.Points = []string{"pac", "pac"} }),
		"a log that is not": {ID: random16(t), Kind: wire.KindLog, Body: []byte{0xa0}},
		"no inventory":      {ID: random16(t), Kind: wire.KindInventory, Body: []byte{0xa0}},
		"inverter in the inventory": {ID: random16(t), Kind: wire.KindInventory, Body: must(wire.EncodeInventory(wire.Inventory{
			Inverters: map[string]wire.Inverter{"A B": {}},
		}))},
		"point in the inventory": {ID: random16(t), Kind: wire.KindInventory, Body: must(wire.EncodeInventory(wire.Inventory{
			Inverters: map[string]wire.Inverter{"a": {Points: []ecowatt.Point{{Name: "p"}, {Name: "p"}}}},
		}))},
		"an unknown kind": {ID: random16(t), Kind: 7, Body: []byte{0}},
		"kind 2^64 - 1":   {ID: random16(t), Kind: 1<<64 - 1, Body: []byte{0}},
		"config_ack": {ID: random16(t), Kind: wire.KindConfigAck, Body: must(wire.EncodeConfigAck(wire.ConfigAck{
			Revision: 1, Accepted: []string{"night_mode"}, Unchanged: []string{"night_mode"},
		}))},
		"command_result": {ID: random16(t), Kind: wire.KindCommandResult, Body: must(wire.EncodeCommandResult(wire.CommandResult{Status: wire.CommandFailed}))},
		"fota_status":    {ID: random16(t), Kind: wire.KindFotaStatus, Body: must(wire.EncodeFotaStatus(wire.FotaStatus{}))},
		"no config_ack":  {ID: random16(t), Kind: wire.KindConfigAck, Body: []byte{0}},
	}
	for name, m := range invalid {
		before, after := d.block(c.time(), 1, 1), d.block(c.time().Add(time.Second), 1, 2)
		c.wait(time.Minute)
		got := d.say(before, m, after)
		if !slices.Equal(statuses(got), []wire.Status{wire.Stored, wire.Invalid, wire.Stored}) || got[1].Text == "" || got[1].ID != m.ID {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if n := len(d.samples()); n != 2*len(invalid) {
		t.Errorf("%d samples beside %d invalid messages", n, len(invalid))
	}
	if n := c.count("message"); n != 2*len(invalid) {
		t.Errorf("%d messages are remembered", n)
	}
	r := c.record("roof-1", "message.invalid")
	if r.Attrs["problem"] == "" || !strings.Contains(r.Text, "1") {
		t.Errorf("record %+v", r)
	}
	if n := strings.Count(fmt.Sprint(c.actions("roof-1")), "message.invalid"); n != len(invalid) {
		t.Errorf("%d records for %d requests with an invalid message", n, len(invalid))
	}
}

// Attacks: A6
func TestDeviceLog(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	c.wait(time.Minute)
	m := d.logged(
		wire.LogEntry{At: start.UnixMilli(), Level: wire.LevelWarn, Code: "CLK_STEP", Text: "the clock was stepped", Attributes: map[string]any{"by": int64(5), "code": "x"}},
		wire.LogEntry{Level: wire.LevelError, Code: "A\x1b[31m", Text: "line one\nline two\x00" + strings.Repeat("é", 200)},
	)
	if got := d.say(m); got[0].Status != wire.Stored {
		t.Fatalf("%+v", got)
	}
	if got := d.say(m); got[0].Status != wire.Duplicate {
		t.Fatalf("%+v", got)
	}
	all := c.audit("roof-1")
	records := all[len(all)-2:]
	want := audit.Record{
		N: records[0].N, At: c.time(), Actor: audit.Actor{Kind: audit.Device, Name: "roof-1"}, Device: "roof-1", Action: "device.log",
		Text: "the clock was stepped", Attrs: map[string]string{"by": "5", "code": "CLK_STEP", "level": "warning", "time": "2026-06-21T12:00:00Z"},
	}
	if diff := cmp.Diff(want, records[0]); diff != "" {
		t.Error(diff)
	}
	second := records[1]
	if len(second.Text) > 160 || !strings.HasPrefix(second.Text, "line one\ufffdline two\ufffdéé") || !strings.HasSuffix(second.Text, "é…") {
		t.Errorf("text %q", second.Text)
	}
	if diff := cmp.Diff(map[string]string{"code": "A\ufffd[31m", "level": "error"}, second.Attrs); diff != "" {
		t.Error(diff)
	}
}

// TestLogIsBounded: a device's log is its own, but not without measure.
func TestLogIsBounded(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	entries := make([]wire.LogEntry, 300)
	for i := range entries {
		entries[i] = wire.LogEntry{Code: "X", Text: fmt.Sprint(i), Attributes: map[string]any{}}
		for k := range 20 {
			entries[i].Attributes[fmt.Sprintf("key-%02d", k)] = strings.Repeat("v", 10)
		}
	}
	long := []wire.Message{d.logged(entries[:100]...), d.logged(entries[100:]...), d.logged(entries[:120]...)}
	got := d.say(long...)
	if !slices.Equal(statuses(got), []wire.Status{wire.Stored, wire.Stored}) {
		t.Fatalf("%v: want the third message left for later", statuses(got))
	}
	records := c.audit("roof-1")
	logged := records[len(records)-(100+128+1):]
	if logged[0].Text != "0" || logged[227].Text != "227" || !strings.HasSuffix(logged[228].Text, ": 72") {
		t.Errorf("records %q … %q, %q", logged[0].Text, logged[227].Text, logged[228].Text)
	}
	if n := len(logged[0].Attrs); n != 16+2 {
		t.Errorf("%d attributes", n)
	}
	if got := d.say(long[2]); !slices.Equal(statuses(got), []wire.Status{wire.Stored}) {
		t.Errorf("later: %v", got)
	}
}

func TestInventoryAndFirmwareAreToldWhenNew(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	report := func(v wire.Inventory, f wire.Firmware) wire.Message {
		t.Helper()
		body, err := wire.EncodeInventory(v)
		if err != nil {
			t.Fatal(err)
		}
		m := wire.Message{ID: random16(t), Kind: wire.KindInventory, Body: body}
		if got := d.exchange(wire.Request{Messages: []wire.Message{m}, Firmware: &f}).Results; got[0].Status != wire.Stored {
			t.Fatalf("%+v", got)
		}
		return m
	}
	told := func() (n int) {
		return strings.Count(fmt.Sprint(c.actions("roof-1")), "inventory.reported")*10 + strings.Count(fmt.Sprint(c.actions("roof-1")), "firmware.reported")
	}
	v := wire.Inventory{AgentVersion: "0.1.0", Hardware: "linux/arm", ControlAllowed: true, Inverters: map[string]wire.Inverter{
		"roof":   {Profile: "ecowatt-sim", ProfileVersion: "1", Serial: "S1", Model: "M", Points: []ecowatt.Point{{Name: "pac", Unit: "W"}, {Name: "vac1", Unit: "V", Exponent: -1}}},
		"garage": {Profile: "ecowatt-sim", ProfileVersion: "1"},
	}}
	f := wire.Firmware{Release: 1, State: wire.FirmwareConfirmed, Version: "0.1.0"}
	first := report(v, f)
	if told() != 11 {
		t.Errorf("log %v", c.actions("roof-1"))
	}
	c.wait(time.Hour)
	report(v, f) // a restart: another message, the same content
	if told() != 11 {
		t.Errorf("told again: %v", c.actions("roof-1"))
	}
	got, err := c.store.Device(t.Context(), "roof-1")
	if err != nil {
		t.Fatal(err)
	}
	want := registry.Inventory{
		ReportedAt: c.time(), AgentVersion: "0.1.0", Hardware: "linux/arm", ControlAllowed: true,
		Inverters: []registry.Inverter{
			{Name: "garage", Profile: "ecowatt-sim", ProfileVersion: "1"},
			{Name: "roof", Profile: "ecowatt-sim", ProfileVersion: "1", Serial: "S1", Model: "M", Points: v.Inverters["roof"].Points},
		},
	}
	if diff := cmp.Diff(want, got.Inventory); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(registry.Firmware{Release: 1, State: "confirmed", Version: "0.1.0"}, got.Firmware); diff != "" {
		t.Error(diff)
	}
	v.ControlAllowed, f.State = false, wire.FirmwareTrial
	report(v, f)
	if told() != 22 {
		t.Errorf("log %v", c.actions("roof-1"))
	}
	if got := d.say(first); got[0].Status != wire.Duplicate { // an old inventory that comes again
		t.Errorf("%+v", got)
	}
	if got, err := c.store.Device(t.Context(), "roof-1"); err != nil || got.Inventory.ControlAllowed || told() != 22 {
		t.Errorf("a duplicate took effect: %+v, %v", got.Inventory, err)
	}
}

// TestAnswersFitTheDevice: what there is no room to answer stays with the device.
func TestAnswersFitTheDevice(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	var waiting []wire.Message
	for i := range 700 {
		m := d.block(start.Add(time.Duration(i)*time.Second), 1, int64(i))
		if i%3 == 0 {
			m.Kind = 77 // invalid, with a text
		}
		waiting = append(waiting, m)
	}
	limits := []uint32{1, 160, 159 + 64, 300, 1000, 4096, 0, wire.MaxAnswer, 1 << 31}
	for _, limit := range limits {
		r := d.seal(wire.Request{MaxAnswer: limit, Messages: waiting})
		got := d.send(r)
		a := d.opened(r, got)
		if most := max(int(limit), 160); limit > 0 && len(got.body) > most {
			t.Errorf("an answer of %d bytes for a device that takes %d", len(got.body), limit)
		}
		if limit == 0 && len(got.body) > wire.DefaultAnswer {
			t.Errorf("an answer of %d bytes for a device that does not say", len(got.body))
		}
		for i, x := range a.Results {
			if x.ID != waiting[i].ID || !x.Status.Settles() || x.Status == wire.Duplicate {
				t.Fatalf("limit %d: result %d is %+v", limit, i, x)
			}
		}
		if limit >= 300 && len(waiting) > 0 && len(a.Results) == 0 || len(a.Results) > 512 {
			t.Errorf("limit %d: %d results", limit, len(a.Results))
		}
		waiting = waiting[len(a.Results):]
	}
	if len(waiting) != 0 {
		t.Errorf("%d messages were left", len(waiting))
	}
	if got := d.samples(); len(got) != 700-234 {
		t.Errorf("%d samples", len(got))
	}
}

// TestBlocksFromBeforeTheClock: a block that was timed since boot gets its place
// when the cloud knows where that boot lies, at once or later, and only once.
//
// Attacks: O7
func TestBlocksFromBeforeTheClock(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	d.connect()
	early, before := wire.BootID{1}, wire.BootID{2}
	of := func(boot wire.BootID, mono time.Duration, from int64) wire.Message {
		return d.telemetry(mono.Milliseconds(), 2, from, &boot)
	}
	// The device's own boot began an hour before start: known at once.
	if got := d.say(of(d.boot, 30*time.Minute, 1), of(early, time.Minute, 10), of(early, 2*time.Minute, 20), of(before, 0, 30)); !slices.Equal(statuses(got), []wire.Status{0, 0, 0, 0}) {
		t.Fatalf("%+v", got)
	}
	if diff := cmp.Diff([]string{"11:30:00 pac=1", "11:30:01 pac=2"}, d.samples()); diff != "" {
		t.Error(diff)
	}
	// A request from the other boot tells where it lies: ten minutes up at start.
	d.connect()
	d.exchange(wire.Request{At: wire.Instant{Boot: early, Mono: (10 * time.Minute).Milliseconds()}})
	want := []string{"11:30:00 pac=1", "11:30:01 pac=2", "11:51:00 pac=10", "11:51:01 pac=11", "11:52:00 pac=20", "11:52:01 pac=21"}
	if diff := cmp.Diff(want, d.samples()); diff != "" {
		t.Error(diff)
	}
	// Now that the boot is known, another block of it is placed by any request,
	// and a less certain clock does not move it.
	c.wait(time.Hour)
	d.connect()
	d.exchange(wire.Request{At: wire.Instant{Boot: early, Mono: 1}, Messages: []wire.Message{of(early, 3*time.Minute, 40)}})
	want = append(want, "11:53:00 pac=40", "11:53:01 pac=41")
	if diff := cmp.Diff(want, d.samples()); diff != "" {
		t.Error(diff)
	}
	if got := c.rows(`SELECT count(*) FROM block WHERE t0 IS NULL`); got[0] != "[1]" {
		t.Errorf("%v blocks have no place", got)
	}
}

// TestBetterClock: the device's own clock is better than the time at which its
// request came, and corrects what is known of its boot.
func TestBetterClock(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	d.connect()
	boot := d.boot
	at := wire.Instant{Boot: boot, Mono: 1000}
	d.exchange(wire.Request{At: at})
	if got := c.rows(`SELECT wall_offset, uncertainty FROM boot`); got[0] != fmt.Sprintf("[%d 30000]", start.UnixMilli()-1000) {
		t.Errorf("boots %v", got)
	}
	wall := &wire.Wall{At: start.UnixMilli() - 7000, Uncertainty: 50}
	d.exchange(wire.Request{At: at, Wall: wall, Messages: []wire.Message{d.telemetry(500, 1, 1, &boot)}})
	if got := c.rows(`SELECT wall_offset, uncertainty FROM boot`); got[0] != fmt.Sprintf("[%d 50]", start.UnixMilli()-8000) {
		t.Errorf("boots %v", got)
	}
	if diff := cmp.Diff([]string{"11:59:52 pac=1"}, d.samples()); diff != "" {
		t.Error(diff)
	}
}

func TestBootsAreBounded(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	for i := range 70 {
		c.exec(t, `UPDATE device SET hs_rate = 0`)
		c.wait(time.Second)
		d.boot = wire.BootID{byte(i + 1)}
		d.connect()
		d.exchange(wire.Request{})
	}
	if got := c.rows(`SELECT count(*), min(hex(boot_id)) FROM boot`); got[0] != "[64 07"+strings.Repeat("00", 15)+"]" {
		t.Errorf("boots %v", got)
	}
}

// TestIdleExchange knows what it costs in the database: one row changes.
func TestIdleExchange(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	f := &wire.Firmware{Release: 1, State: wire.FirmwareConfirmed, Version: "0.1.0"}
	d.exchange(wire.Request{Firmware: f})
	before := strings.Split(c.dump(), "\n")
	c.wait(time.Minute)
	d.exchange(wire.Request{Firmware: f})
	after := strings.Split(c.dump(), "\n")
	var changed []string
	for i := range before {
		if before[i] != after[i] {
			changed = append(changed, strings.Fields(before[i])[0])
		}
	}
	if len(after) != len(before) || !slices.Equal(changed, []string{"session"}) {
		t.Errorf("changed rows in %v", changed)
	}
}

// TestStrangeWords: names of attributes and values of every type are shown, not
// obeyed.
//
// Attacks: A6
func TestStrangeWords(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	d.say(d.logged(wire.LogEntry{At: 1<<63 - 1, Text: "'; DROP TABLE audit; --", Attributes: map[string]any{
		"": nil, "bytes": []byte{1}, "list": []any{int64(1), "x"}, "map": map[string]any{"a": true}, "=HYPERLINK": 1.5,
	}}))
	r := c.record("roof-1", "device.log")
	want := map[string]string{
		"": "<nil>", "bytes": "[1]", "list": "[1 x]", "map": "map[a:true]", "=HYPERLINK": "1.5", "code": "", "level": "debug",
		"time": time.UnixMilli(1<<63 - 1).UTC().Format(time.RFC3339),
	}
	if diff := cmp.Diff(want, r.Attrs); diff != "" {
		t.Error(diff)
	}
}
