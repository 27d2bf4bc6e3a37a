package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"ecowatt"
	"ecowatt/key"
)

// decoders is every body of the protocol.
func decoders() map[string]func([]byte) error {
	return map[string]func([]byte) error{
		"request":        func(b []byte) error { _, err := DecodeRequest(b); return err },
		"answer":         func(b []byte) error { _, err := DecodeAnswer(b); return err },
		"telemetry":      func(b []byte) error { _, err := DecodeTelemetry(b); return err },
		"log":            func(b []byte) error { _, err := DecodeLog(b); return err },
		"config_ack":     func(b []byte) error { _, err := DecodeConfigAck(b); return err },
		"command_result": func(b []byte) error { _, err := DecodeCommandResult(b); return err },
		"fota_status":    func(b []byte) error { _, err := DecodeFotaStatus(b); return err },
		"inventory":      func(b []byte) error { _, err := DecodeInventory(b); return err },
	}
}

// sample is one full value of every body, with its codec.
type sample struct {
	name   string
	value  any
	encode func() ([]byte, error)
	decode func([]byte) (any, error)
}

func of[T any](name string, v T, encode func(T) ([]byte, error), decode func([]byte) (T, error)) sample {
	return sample{
		name: name, value: v,
		encode: func() ([]byte, error) { return encode(v) },
		decode: func(b []byte) (any, error) { return decode(b) },
	}
}

func fullRequest() Request {
	return Request{
		At: Instant{repeat[BootID](9), 77}, Wall: &Wall{1_700_000_000_000, 250},
		Firmware:  &Firmware{Release: 12, Image: [32]byte{1, 2}, State: FirmwareTrial, MinSecurity: 3, Version: "1.2.3"},
		Messages:  []Message{{repeat[MessageID](1), KindLog, []byte{0x80}}, {repeat[MessageID](2), 99, []byte{0xa0}}},
		Epochs:    &Epochs{Active: 4, Staged: 5},
		MaxAnswer: 16384, Checkpoint: []byte("checkpoint"), Hold: 25 * time.Second,
	}
}

func fullAnswer(tb testing.TB) Answer {
	tb.Helper()
	device, err := key.DeviceFromBytes([]byte("a device key of thirty-two bytes"))
	if err != nil {
		tb.Fatal(err)
	}
	content, err := key.ContentFromBytes([]byte("an image's key is 32 bytes long!"))
	if err != nil {
		tb.Fatal(err)
	}
	return Answer{
		ServerTime: 1_700_000_000_123,
		Results:    []Result{{repeat[MessageID](1), Stored, ""}, {repeat[MessageID](2), Invalid, "no such kind"}, {repeat[MessageID](3), 77, ""}},
		Config:     &ConfigUpdate{Revision: 5, Parameters: map[string]any{"sampling_interval": int64(5), "registers": []any{"vac1", "pac"}, "x": nil, "r": 2.5}},
		Commands: []Command{
			{repeat[CommandID](1), 1, 1_700_000_600_000, "set_power_limit", map[string]any{"inverter": "roof", "percent": int64(40), "lease_s": int64(7200), "on_end": "restore"}},
			{repeat[CommandID](2), 2, 1_700_000_600_000, "restart_agent", map[string]any{}},
		},
		KeyOffer: &KeyOffer{Epoch: 2, ID: repeat[key.ID](8), Key: device, Burn: true},
		Firmware: &FirmwareOffer{Manifest: [32]byte{3}, Envelope: []byte("envelope"), Content: content, Path: "/v1/artifacts/00", RootUpdates: [][]byte{[]byte("root 2")}, Downgrades: [][]byte{[]byte("back to 3")}},
		NextSlot: 900 * time.Second, Checkpoint: "a signed note",
		Failure: &Failure{Code: ExchangeSchema, Text: "key 2: an array of 2 elements expected"},
	}
}

func samples(tb testing.TB) []sample {
	tb.Helper()
	return []sample{
		of("request", fullRequest(), EncodeRequest, DecodeRequest),
		of("answer", fullAnswer(tb), EncodeAnswer, DecodeAnswer),
		of("telemetry", TelemetryBlock{"roof", []string{"vac1", "pac"}, 1_700_000_000_000, 1, 3, []byte{0x43, 1, 2, 3}, nil, 0}, EncodeTelemetry, DecodeTelemetry),
		of("telemetry in windows", TelemetryBlock{"roof", []string{"vac1"}, 0, 0, 1, []byte{0x82, 0x81, 0, 0x81, 0xf6}, &Instant{repeat[BootID](3), 60_000}, 60_000}, EncodeTelemetry, DecodeTelemetry),
		of("telemetry since boot", TelemetryBlock{"roof", []string{"vac1"}, 0, 0, 1, []byte{0x82, 0x81, 0, 0x81, 0xf6}, &Instant{repeat[BootID](3), 1000}, 0}, EncodeTelemetry, DecodeTelemetry),
		of("log", []LogEntry{
			{1_700_000_000_000, LevelWarn, "INVERTER_AWAY", "no answer", map[string]any{"inverter": "roof", "failures": int64(3)}},
			{0, LevelError, "CLK_STEP", "", map[string]any{}},
		}, EncodeLog, DecodeLog),
		of("config_ack", ConfigAck{5, []string{"sampling_interval"}, map[string]Rejection{"night_mode": {"unknown", "no such parameter"}, "x": {"range", ""}}, []string{"log_level"}}, EncodeConfigAck, DecodeConfigAck),
		of("command_result", CommandResult{repeat[CommandID](1), CommandSucceeded, "", "done", 1_700_000_000_000, int64(40)}, EncodeCommandResult, DecodeCommandResult),
		of("command_result with a fraction", CommandResult{repeat[CommandID](1), CommandNoEffect, "NO_EFFECT", "", 5, 39.5}, EncodeCommandResult, DecodeCommandResult),
		of("command_result without value", CommandResult{repeat[CommandID](1), CommandRejected, "control_not_allowed", "writing is off", 0, nil}, EncodeCommandResult, DecodeCommandResult),
		of("fota_status", FotaStatus{[32]byte{7}, "download", 3, 160, "", "on the way"}, EncodeFotaStatus, DecodeFotaStatus),
		of("fota_status with code", FotaStatus{[32]byte{7}, "verify", 160, 160, string(FirmwareBadChunk), ""}, EncodeFotaStatus, DecodeFotaStatus),
		of("inventory", Inventory{"0.1.0", "rpi-3b", map[string]Inverter{
			"roof": {"ecowatt-sim", "1", []ecowatt.Point{{Name: "vac1", Unit: "V", Exponent: -1}, {Name: "export_power_percent", Unit: "%", Writable: true, Max: 100}}, "SN1", "Sim"},
			"barn": {"growatt", "2", []ecowatt.Point{{Name: "t", Unit: "°C", Exponent: -1, Writable: true, Min: -400, Max: math.MaxInt64}}, "SN2", "G"},
		}, true}, EncodeInventory, DecodeInventory),
	}
}

var alike = cmp.Options{cmpopts.EquateEmpty()}

func TestBodiesComeBack(t *testing.T) {
	for _, s := range samples(t) {
		b, err := s.encode()
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
			continue
		}
		got, err := s.decode(b)
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
			continue
		}
		if diff := cmp.Diff(s.value, got, alike); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.name, diff)
		}
		// Another implementation reads the same bytes as valid and canonical.
		deterministic, err := cbor.CoreDetEncOptions().EncMode()
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := cbor.Unmarshal(b, &v); err != nil {
			t.Errorf("%s: the library refuses it: %v", s.name, err)
		}
		if again, err := deterministic.Marshal(v); err != nil || !bytes.Equal(b, again) {
			t.Errorf("%s: the library writes %x for %x, %v", s.name, again, b, err)
		}
	}
}

func TestBrokenBodies(t *testing.T) {
	for _, s := range samples(t) {
		b, err := s.encode()
		if err != nil {
			t.Fatal(err)
		}
		for n := range b {
			if _, err := s.decode(b[:n]); !errors.Is(err, ErrSchema) {
				t.Errorf("%s cut to %d bytes: %v", s.name, n, err)
			}
		}
		for _, more := range [][]byte{{0}, {0xf6}, b} {
			if _, err := s.decode(append(bytes.Clone(b), more...)); !errors.Is(err, ErrSchema) {
				t.Errorf("%s with more behind it: %v", s.name, err)
			}
		}
		for bit := range 8 * len(b) {
			c := bytes.Clone(b)
			c[bit/8] ^= 1 << (bit % 8)
			got, err := s.decode(c)
			switch {
			case err != nil && !errors.Is(err, ErrSchema):
				t.Errorf("%s, bit %d: %v does not wrap ErrSchema", s.name, bit, err)
			case err == nil && cmp.Equal(s.value, got, alike):
				t.Errorf("%s, bit %d: %x means the same as %x", s.name, bit, c, b)
			}
		}
		for _, foreign := range []string{"", "a0", "80", "f6", "00", "6161", "a10000", "c0a0", "bfff", "<html>"} {
			raw := []byte(foreign)
			if foreign != "<html>" {
				raw = unhex(t, foreign)
			}
			if _, err := s.decode(raw); !errors.Is(err, ErrSchema) && (s.name != "log" || foreign != "80") {
				t.Errorf("%s: %s: %v", s.name, foreign, err)
			}
		}
	}
}

// asMap decodes a body with the library, for a test to edit.
func asMap(tb testing.TB, b []byte) map[any]any {
	tb.Helper()
	var m map[any]any
	if err := cbor.Unmarshal(b, &m); err != nil {
		tb.Fatal(err)
	}
	return m
}

func deterministic(tb testing.TB, v any) []byte {
	tb.Helper()
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		tb.Fatal(err)
	}
	b, err := mode.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// TestKeysOfBodies takes every key out of every body, adds one that a later
// version might have, and puts null in the place of each value.
func TestKeysOfBodies(t *testing.T) {
	optional := map[string][]any{
		"request": keysOf(2, 3, 4, 5, 6, 7, 8), "answer": keysOf(2, 3, 4, 5, 6, 7, 8, 9),
		"telemetry since boot": keysOf(3, 7), "telemetry in windows": append(keysOf(3, 7), int64(-1)),
	}
	nullable := map[string][]any{
		"command_result": keysOf(3, 4, 6), "command_result with a fraction": keysOf(3, 4, 6), "command_result without value": keysOf(3, 4, 6),
		"fota_status": keysOf(5, 6), "fota_status with code": keysOf(5, 6),
		"telemetry": keysOf(6), "telemetry since boot": keysOf(6), "telemetry in windows": keysOf(6), // any item, for the codec to judge
	}
	for _, s := range samples(t) {
		if s.name == "log" {
			continue
		}
		b, err := s.encode()
		if err != nil {
			t.Fatal(err)
		}
		for k := range asMap(t, b) {
			m := asMap(t, b)
			delete(m, k)
			if _, err := s.decode(deterministic(t, m)); (err == nil) != slices.Contains(optional[s.name], k) {
				t.Errorf("%s without key %v: %v", s.name, k, err)
			}
			m = asMap(t, b)
			m[k] = nil
			if _, err := s.decode(deterministic(t, m)); (err == nil) != slices.Contains(nullable[s.name], k) {
				t.Errorf("%s with null as key %v: %v", s.name, k, err)
			}
		}
		for _, later := range []any{uint64(60), uint64(64), uint64(1 << 40)} {
			m := asMap(t, b)
			m[later] = map[string]any{"from": []any{"a", "later", "version"}}
			got, err := s.decode(deterministic(t, m))
			if err != nil {
				t.Errorf("%s with key %v of a later version: %v", s.name, later, err)
			} else if diff := cmp.Diff(s.value, got, alike); diff != "" {
				t.Errorf("%s with a key of a later version (-want +got):\n%s", s.name, diff)
			}
		}
		for _, never := range []any{int64(-1), int64(-2), int64(-1 << 63), "1", "text"} {
			m := asMap(t, b)
			m[never] = 1
			if _, err := s.decode(deterministic(t, m)); !errors.Is(err, ErrSchema) {
				t.Errorf("%s with key %#v: %v", s.name, never, err)
			}
		}
	}
}

func keysOf(keys ...uint64) (list []any) {
	for _, k := range keys {
		list = append(list, k)
	}
	return list
}

// TestWindows: key -1 says how long windows are, within bounds, once, and behind
// all other keys.
func TestWindows(t *testing.T) {
	body := func(window int64) TelemetryBlock {
		return TelemetryBlock{Inverter: "roof", Points: []string{"pac"}, T0: 1, Count: 1, Data: []byte{0}, Window: window}
	}
	for _, bad := range []int64{-1, 1, ecowatt.MinWindow - 1, ecowatt.MaxWindow + 1, math.MaxInt64, math.MinInt64} {
		if _, err := EncodeTelemetry(body(bad)); !errors.Is(err, ErrSchema) {
			t.Errorf("windows of %d ms are encoded: %v", bad, err)
		}
	}
	for _, good := range []int64{ecowatt.MinWindow, 60_000, ecowatt.MaxWindow} {
		b, err := EncodeTelemetry(body(good))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeTelemetry(b); err != nil || got.Window != good {
			t.Errorf("windows of %d ms come back as %d: %v", good, got.Window, err)
		}
	}
	plain, err := EncodeTelemetry(body(0))
	if err != nil {
		t.Fatal(err)
	}
	pairs := plain[1:]
	table := func(n byte, parts ...[]byte) []byte { return append([]byte{0xa0 | n}, bytes.Join(parts, nil)...) }
	minute := []byte{0x20, 0x19, 0xea, 0x60}
	if got, err := DecodeTelemetry(table(7, pairs, minute)); err != nil || got.Window != 60_000 {
		t.Errorf("by hand: %+v, %v", got, err)
	}
	for name, b := range map[string][]byte{
		"twice":           table(8, pairs, minute, minute),
		"first":           table(7, minute, pairs),
		"a second short":  table(7, pairs, []byte{0x20, 0x19, 0x03, 0xe7}),
		"0":               table(7, pairs, []byte{0x20, 0x00}),
		"below 0":         table(7, pairs, []byte{0x20, 0x39, 0xea, 0x60}),
		"beyond a day":    table(7, pairs, []byte{0x20, 0x1a, 0x05, 0x26, 0x5c, 0x01}),
		"key -2":          table(7, pairs, []byte{0x21, 0x19, 0xea, 0x60}),
		"key -2 after -1": table(8, pairs, minute, []byte{0x21, 0x00}),
		"key -2^64":       table(7, pairs, []byte{0x3b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00}),
	} {
		if _, err := DecodeTelemetry(b); !errors.Is(err, ErrSchema) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Another implementation may write what we leave out.
func TestExplicitDefaults(t *testing.T) {
	q, err := DecodeRequest(deterministic(t, map[int]any{1: []any{make([]byte, 16), 0}, 4: []any{}, 5: []any{1, 2}, 6: 0, 7: []byte{}, 8: 0}))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Request{Epochs: &Epochs{1, 2}}, q, alike); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if q.AnswerLimit() != DefaultAnswer {
		t.Errorf("AnswerLimit %d", q.AnswerLimit())
	}
	a, err := DecodeAnswer(deterministic(t, map[int]any{1: 5, 2: []any{[]any{make([]byte, 16), 0, ""}}, 4: []any{}, 7: 0, 8: ""}))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Answer{ServerTime: 5, Results: []Result{{}}}, a, alike); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	v, err := DecodeInventory(deterministic(t, map[int]any{1: "", 2: "", 3: map[string]any{"a": map[int]any{1: "p", 2: "1", 3: []any{[]any{"x", "V", 0, false, nil, nil}}}}, 4: false}))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]Inverter{"a": {Profile: "p", ProfileVersion: "1", Points: []ecowatt.Point{{Name: "x", Unit: "V"}}}}, v.Inverters); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestValuesOutOfRange(t *testing.T) {
	base := func() map[int]any { return map[int]any{1: []any{make([]byte, 16), 0}} }
	for name, edit := range map[string]func(m map[int]any){
		"boot id of 15 bytes":    func(m map[int]any) { m[1] = []any{make([]byte, 15), 0} },
		"negative time":          func(m map[int]any) { m[1] = []any{make([]byte, 16), -1} },
		"time of 2^63":           func(m map[int]any) { m[1] = []any{make([]byte, 16), uint64(1 << 63)} },
		"wall of three":          func(m map[int]any) { m[2] = []any{1, 2, 3} },
		"unknown firmware state": func(m map[int]any) { m[3] = map[int]any{1: 1, 2: make([]byte, 32), 3: "perhaps", 4: 1, 5: ""} },
		"image hash of 31 bytes": func(m map[int]any) { m[3] = map[int]any{1: 1, 2: make([]byte, 31), 3: "trial", 4: 1, 5: ""} },
		"message of two":         func(m map[int]any) { m[4] = []any{[]any{make([]byte, 16), 1}} },
		"message id as text":     func(m map[int]any) { m[4] = []any{[]any{"0123456789abcdef", 1, 0}} },
		"epoch of 2^32":          func(m map[int]any) { m[5] = []any{uint64(1 << 32), nil} },
		"epoch null":             func(m map[int]any) { m[5] = []any{nil, nil} },
		"hold of 2^32":           func(m map[int]any) { m[8] = uint64(1 << 32) },
		"4097 messages": func(m map[int]any) {
			m[4] = slices.Repeat([]any{[]any{make([]byte, 16), 1, 0}}, 4097)
		},
		"depth 9 in a message": func(m map[int]any) {
			var v any = 1
			for range 6 { // three are around it
				v = []any{v}
			}
			m[4] = []any{[]any{make([]byte, 16), 1, v}}
		},
	} {
		m := base()
		edit(m)
		if _, err := DecodeRequest(deterministic(t, m)); !errors.Is(err, ErrSchema) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := DecodeRequest(deterministic(t, base())); err != nil {
		t.Errorf("the base of the cases: %v", err)
	}
	most := uint64(math.MaxUint64)
	m := base()
	m[6] = most
	if q, err := DecodeRequest(deterministic(t, m)); err != nil || q.AnswerLimit() != MaxAnswer {
		t.Errorf("a device that takes anything gets %d, %v", q.AnswerLimit(), err)
	}
}

// A key that a device must refuse does not spoil the answer around it.
func TestWeakOffers(t *testing.T) {
	for _, secret := range [][]byte{make([]byte, 32), bytes.Repeat([]byte{1}, 32), make([]byte, 31), {}} {
		a, err := DecodeAnswer(deterministic(t, map[int]any{1: 5, 5: map[int]any{1: 2, 2: make([]byte, 16), 3: secret, 4: false}}))
		if err != nil || a.KeyOffer == nil || !a.KeyOffer.Key.IsZero() {
			t.Errorf("an offered key of %d bytes: %+v, %v", len(secret), a.KeyOffer, err)
		}
	}
	a := fullAnswer(t)
	a.KeyOffer.Key = key.Device{}
	if _, err := EncodeAnswer(a); !errors.Is(err, ErrSchema) {
		t.Errorf("an offer without a key was encoded: %v", err)
	}
	a = fullAnswer(t)
	a.Firmware.Content = key.Content{}
	if _, err := EncodeAnswer(a); !errors.Is(err, ErrSchema) {
		t.Errorf("firmware without a key was encoded: %v", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	refuse := func(name string, _ []byte, err error) {
		t.Helper()
		if !errors.Is(err, ErrSchema) {
			t.Errorf("%s: %v", name, err)
		}
	}
	request := func(name string, edit func(*Request)) {
		t.Helper()
		q := fullRequest()
		edit(&q)
		b, err := EncodeRequest(q)
		refuse(name, b, err)
	}
	request("negative time", func(q *Request) { q.At.Mono = -1 })
	request("message without body", func(q *Request) { q.Messages[0].Body = nil })
	request("message whose body is no CBOR", func(q *Request) { q.Messages[0].Body = []byte{0xff} })
	request("message of two items", func(q *Request) { q.Messages[0].Body = []byte{0, 0} })
	request("4097 messages", func(q *Request) { q.Messages = slices.Repeat(q.Messages[:1], 4097) })
	request("version not UTF-8", func(q *Request) { q.Firmware.Version = "\xff" })
	b, err := EncodeCommandResult(CommandResult{Status: "perhaps"})
	refuse("unknown status", b, err)
	b, err = EncodeCommandResult(CommandResult{Status: CommandFailed, Value: "text"})
	refuse("value that is no number", b, err)
	b, err = EncodeInventory(Inventory{Inverters: map[string]Inverter{"\xff": {}}})
	refuse("name not UTF-8", b, err)
}

func TestMessageSizes(t *testing.T) {
	empty := Request{Messages: []Message{{Kind: KindInventory, Body: []byte{0xa0}}}}
	one, err := EncodeRequest(empty)
	if err != nil {
		t.Fatal(err)
	}
	empty.Messages = append(empty.Messages, Message{Kind: KindTelemetry, Body: bytes.Repeat([]byte{0}, 1)})
	two, err := EncodeRequest(empty)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(two)-len(one), empty.Messages[1].EncodedSize(); got != want {
		t.Errorf("a message takes %d bytes, EncodedSize says %d", got, want)
	}
	// A request full of messages up to MessageRoom fits, with everything else in it.
	q := fullRequest()
	q.Messages = nil
	q.Firmware.Version = string(bytes.Repeat([]byte{'v'}, 64))
	q.Checkpoint = make([]byte, 512)
	q.At.Mono, q.Wall.At, q.Wall.Uncertainty = math.MaxInt64, math.MaxInt64, math.MaxInt64
	q.Firmware.Release, q.MaxAnswer, q.Hold = math.MaxUint64, math.MaxUint32, math.MaxUint32*time.Second
	q.Firmware.MinSecurity, q.Epochs = math.MaxUint32, &Epochs{math.MaxUint32, math.MaxUint32}
	for _, limit := range []int{2 << 10, 64 << 10, MaxRequest} {
		q.Messages = nil
		used := 0
		m := Message{Kind: KindTelemetry, Body: append([]byte{0x58, 200}, make([]byte, 200)...)}
		for used+m.EncodedSize() <= MessageRoom(limit) {
			q.Messages, used = append(q.Messages, m), used+m.EncodedSize()
		}
		b, err := EncodeRequest(q)
		if err != nil || len(b) > RequestRoom(limit) {
			t.Errorf("limit %d: a body of %d bytes, %d fit; %v", limit, len(b), RequestRoom(limit), err)
		}
	}
}

func anyBlock(t *rapid.T) (ecowatt.Block, *BootID) {
	b := ecowatt.Block{Inverter: rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "inverter")}
	points := rapid.IntRange(0, 6).Draw(t, "points")
	for p := range points {
		b.Points = append(b.Points, fmt.Sprintf("p%d", p))
	}
	at := rapid.Int64Range(0, 2_000_000_000_000).Draw(t, "t0")
	for range rapid.IntRange(1, 40).Draw(t, "samples") {
		s := ecowatt.Sample{At: at, Values: make([]ecowatt.Value, points)}
		for p := range s.Values {
			if rapid.Bool().Draw(t, "valid") {
				s.Values[p] = ecowatt.Known(rapid.Int64().Draw(t, "raw"))
			}
		}
		b.Samples = append(b.Samples, s)
		at += rapid.Int64Range(0, 100_000).Draw(t, "step")
	}
	if rapid.Bool().Draw(t, "since boot") {
		id := repeat[BootID](6)
		return b, &id
	}
	return b, nil
}

func TestPlainBlocksComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		block, boot := anyBlock(t)
		packed, err := PlainBlock(block, boot)
		if err != nil {
			t.Fatal(err)
		}
		if (packed.Boot != nil) != (boot != nil) || packed.Boot != nil && (packed.Boot.Boot != *boot || packed.T0 != 0) {
			t.Fatalf("the time of the block is lost: %+v", packed)
		}
		body, err := EncodeTelemetry(packed)
		if err != nil {
			t.Fatal(err)
		}
		back, err := DecodeTelemetry(body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(packed, back, alike); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(block, unpack(t, back), alike); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

// unpack reads a plain block with the library, by the words of section 6.
func unpack(t *rapid.T, b TelemetryBlock) ecowatt.Block {
	t.Helper()
	var columns [][]*int64
	if err := cbor.Unmarshal(b.Data, &columns); err != nil {
		t.Fatal(err)
	}
	t0 := b.T0
	if b.Boot != nil {
		t0 = b.Boot.Mono
	}
	block := ecowatt.Block{Inverter: b.Inverter, Points: b.Points}
	for i, at := range columns[0] {
		s := ecowatt.Sample{At: t0 + *at, Values: make([]ecowatt.Value, len(b.Points))}
		for p, values := range columns[1:] {
			if v := values[i]; v != nil {
				s.Values[p] = ecowatt.Known(*v)
			}
		}
		block.Samples = append(block.Samples, s)
	}
	if b.Codec != CodecPlain || b.Count != uint64(len(block.Samples)) {
		t.Fatalf("codec %d, %d samples announced for %d", b.Codec, b.Count, len(block.Samples))
	}
	return block
}

func TestPlainBlockRefuses(t *testing.T) {
	for name, b := range map[string]ecowatt.Block{
		"no samples":      {Inverter: "a"},
		"out of order":    {Samples: []ecowatt.Sample{{At: 2}, {At: 1}}},
		"too few values":  {Points: []string{"x"}, Samples: []ecowatt.Sample{{At: 1}}},
		"too many values": {Samples: []ecowatt.Sample{{At: 1, Values: make([]ecowatt.Value, 1)}}},
		"4097 samples":    {Samples: make([]ecowatt.Sample, 4097)},
	} {
		if _, err := PlainBlock(b, nil); !errors.Is(err, ErrSchema) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStatus(t *testing.T) {
	for status, want := range map[Status]bool{Stored: true, Duplicate: true, Invalid: true, Conflict: true, Later: false, 5: false, 1000: false} {
		if status.Settles() != want {
			t.Errorf("%v settles: %v", status, !want)
		}
	}
}

func fuzzBody(f *testing.F, pick func(name string) bool) {
	f.Helper()
	for _, s := range samples(f) {
		if b, err := s.encode(); err == nil && pick(s.name) {
			f.Add(b)
		}
	}
	for _, c := range vectors(f) {
		for _, r := range c.Records {
			f.Add([]byte(r.ReqBody))
			f.Add([]byte(r.RspBody))
		}
	}
}

// Attacks: W20
func FuzzRequest(f *testing.F) {
	fuzzBody(f, func(name string) bool { return name == "request" })
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := DecodeRequest(b)
		if err != nil {
			return
		}
		again, err := EncodeRequest(q)
		if err != nil {
			t.Fatalf("%x was accepted but cannot be written: %v", b, err)
		}
		back, err := DecodeRequest(again)
		if diff := cmp.Diff(q, back, alike); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
}

// Attacks: W20
func FuzzAnswer(f *testing.F) {
	fuzzBody(f, func(name string) bool { return name == "answer" })
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeAnswer(b)
		if err != nil {
			return
		}
		if a.KeyOffer != nil && a.KeyOffer.Key.IsZero() || a.Firmware != nil && a.Firmware.Content.IsZero() {
			return // accepted, to be refused by name
		}
		again, err := EncodeAnswer(a)
		if err != nil {
			t.Fatalf("%x was accepted but cannot be written: %v", b, err)
		}
		back, err := DecodeAnswer(again)
		if diff := cmp.Diff(a, back, alike); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	})
}

// FuzzBodies: no body makes any decoder panic, and every refusal is ErrSchema.
//
// Attacks: W20
func FuzzBodies(f *testing.F) {
	fuzzBody(f, func(string) bool { return true })
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, decode := range decoders() {
			if err := decode(b); err != nil && !errors.Is(err, ErrSchema) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func BenchmarkRequestBody(b *testing.B) {
	block := ecowatt.Block{Inverter: "roof", Points: []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}}
	for n := range 180 {
		s := ecowatt.Sample{At: 1_700_000_000_000 + int64(n)*5000}
		for p := range block.Points {
			s.Values = append(s.Values, ecowatt.Known(int64(2300+n*p)))
		}
		block.Samples = append(block.Samples, s)
	}
	b.ReportAllocs()
	for b.Loop() {
		packed, err := PlainBlock(block, nil)
		if err != nil {
			b.Fatal(err)
		}
		body, err := EncodeTelemetry(packed)
		if err != nil {
			b.Fatal(err)
		}
		encoded, err := EncodeRequest(Request{Messages: []Message{{Kind: KindTelemetry, Body: body}}})
		if err != nil {
			b.Fatal(err)
		}
		q, err := DecodeRequest(encoded)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := DecodeTelemetry(q.Messages[0].Body); err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(encoded)))
	}
}
