package profile

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/inverter"
)

// whole has every field that there is.
const whole = `format: 1
name: p
title: A title
source: a source
trust: community
unit: 3
block_limit: 50
gap_limit: 7
connect_delay: 1.5s
request_gap: 50ms
timeout: 10s
write_function: 16
sleeping: {point: state, values: [0, 8]}
heartbeat: {address: 40, table: input, words: 3}
registers:
  - {point: model, type: string, address: 100, words: 8, table: input}
  - {point: pac, address: 0, type: s16, scale: 1, exponent: -1, unit: W, step: 5000, asleep: missing}
  - {point: temp, address: 2, offset: -1000, exponent: -1, unit: °C, poll: slow}
  - point: state
    address: 3
    type: enum16
    names: {0: asleep, 0x9100: alarm}
  - {point: events, address: 4, type: bitfield32, names: {31: last}, poll: once}
  - point: limit
    address: 10
    type: u32
    valid: [0, 1100]
    write:
      range: [10, 1000]
      address: 20
      gate: {address: 22, type: u32, order: low, on: 0xAA, off: 0x55, sequence: around}
      requires: [{address: 24, type: s32, value: 1}]
      release: 1000
      of: nominal power
      settle: 5s
      proof: pac
      fallback: {timer: {address: 26, type: u32}, default: 10m, value: {address: 28}}
      stored: true
  - {point: hz, address: 30, type: f32, exponent: -2, unit: Hz}
`

func TestParseWhole(t *testing.T) {
	got, err := Parse("p.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	point := func(name, unit string, exponent int) ecowatt.Point {
		return ecowatt.Point{Name: name, Unit: unit, Exponent: exponent}
	}
	limit := ecowatt.Point{Name: "limit", Writable: true, Min: 10, Max: 1000}
	want := inverter.Profile{
		Name: "p", Title: "A title", Source: "a source", Trust: inverter.Community, Unit: 3, Block: 50, Gap: 7,
		Timing:        inverter.Timing{Connect: 1500 * time.Millisecond, Gap: 50 * time.Millisecond, Timeout: 10 * time.Second},
		Sleeping:      inverter.Sleeping{Point: "state", Values: []int64{0, 8}},
		Heartbeat:     inverter.Heartbeat{Table: inverter.Input, Address: 40, Words: 3},
		WriteMultiple: true,
		Texts:         []inverter.Text{{Name: "model", Table: inverter.Input, Address: 100, Words: 8}},
		Registers: []inverter.Register{
			{Point: point("pac", "W", -1), Table: inverter.Holding, Type: inverter.S16, Scale: inverter.Scale{Given: true, Address: 1}, Step: 5000, Asleep: true},
			{Point: point("temp", "°C", -1), Table: inverter.Holding, Address: 2, Offset: -1000, Class: inverter.Slow},
			{Point: point("state", "", 0), Table: inverter.Holding, Address: 3, Type: inverter.Enum16, Names: []inverter.Name{{Number: 0, Text: "asleep"}, {Number: 0x9100, Text: "alarm"}}},
			{Point: point("events", "", 0), Table: inverter.Holding, Address: 4, Type: inverter.Bits32, Class: inverter.Once, Names: []inverter.Name{{Number: 31, Text: "last"}}},
			{Point: limit, Table: inverter.Holding, Address: 10, Type: inverter.U32, Valid: inverter.Range{Max: 1100}, Control: &inverter.Control{
				Address:  20,
				Gate:     inverter.Gate{Given: true, Place: inverter.Place{Address: 22, Type: inverter.U32, Order: inverter.LowFirst}, On: 0xaa, Off: ecowatt.Known(0x55), Sequence: inverter.Around},
				Requires: []inverter.Setting{{Place: inverter.Place{Address: 24, Type: inverter.S32}, Value: 1}},
				Release:  ecowatt.Known(1000), Of: "nominal power", Settle: 5 * time.Second, Proof: "pac", Stored: true,
				Fallback: inverter.Fallback{Given: true, Timer: inverter.Place{Address: 26, Type: inverter.U32}, Default: 10 * time.Minute, Value: inverter.Place{Address: 28}, HasValue: true},
			}},
			{Point: point("hz", "Hz", -2), Table: inverter.Holding, Address: 30, Type: inverter.F32},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("profile (-want +got):\n%s", diff)
	}
}

// TestParseWholeRefuses changes one thing of the whole file, and wants the line
// and the field of it in the error.
func TestParseWholeRefuses(t *testing.T) {
	for _, c := range []struct{ old, change, want string }{
		{"trust: community", "trust: me", `p.yaml:5: trust: "me" is none of installer, community, verified`},
		{"delay: 1.5s", "delay: 1.5", `p.yaml:9: connect_delay: "1.5" is no time such as`},
		{"gap: 50ms", "gap: 61s", "p.yaml:10: request_gap: 1m1s is not within 1ms and 1m0s"},
		{"timeout: 10s", "timeout: 0s", "p.yaml:11: timeout: 0s is not within"},
		{"timeout: 10s", "timeout: [1]", "p.yaml:11: timeout: a list is no time"},
		{"function: 16", "function: 5", `p.yaml:12: write_function: "5" is none of 6, 16`},
		{"{address: 40, table: input, words: 3}", "{table: input}", "p.yaml:14: heartbeat.address: missing"},
		{"{address: 40, table: input, words: 3}", "{address: 40, words: 9}", "p.yaml:14: heartbeat.words: 9 is not within 1 and 8"},
		{"{address: 40, table: input, words: 3}", "{address: 65534, words: 3}", "p.yaml:14: heartbeat: it ends beyond 65535"},
		{"{point: state, values: [0, 8]}", "{point: none, values: [0, 8]}", `p.yaml:13: sleeping.point: "none" is no point that`},
		{"{point: state, values: [0, 8]}", "{point: temp, values: [0, 8]}", `p.yaml:13: sleeping.point: "temp" is no point that`},
		{"{point: state, values: [0, 8]}", "{point: state}", "p.yaml:13: sleeping.values: missing"},
		{"{point: state, values: [0, 8]}", "{point: state, values: [a]}", `p.yaml:13: sleeping.values: "a" is not a whole`},
		{"{point: state, values: [0, 8]}", "{point: state, values: []}", "p.yaml:13: sleeping.values: there are none"},
		{"{point: state, values: [0, 8]}", "state", `p.yaml:13: sleeping: "state" is not a list of fields`},
		{"words: 8,", "words: 33,", "p.yaml:16: registers[0].words: 33 is not within 1 and 32"},
		{"words: 8,", "", "p.yaml:16: registers[0].words: missing"},
		{"words: 8,", "words: 8, unit: V,", "p.yaml:16: registers[0].unit: unknown field"},
		{"address: 100,", "address: 65530,", "p.yaml:16: registers[0].address: 65530 and the 8 words"},
		{"point: model", "point: pac", `p.yaml:17: registers[1].point: "pac" stands twice`},
		{"scale: 1,", "scale: 60,", "p.yaml:17: registers[1].type: 61 words do not fit into a read of 50"},
		{"scale: 1,", "scale: 0,", "p.yaml:17: registers[1].scale: 0 is the point itself"},
		{"step: 5000", "step: 0", "p.yaml:17: registers[1].step: 0 is not within 1 and"},
		{"asleep: missing", "asleep: zero", `p.yaml:17: registers[1].asleep: "zero" is none of value, missing`},
		{"offset: -1000", "offset: -1e3", `p.yaml:18: registers[2].offset: "-1e3" is not a whole`},
		{"poll: slow", "poll: never", `p.yaml:18: registers[2].poll: "never" is none of fast, slow, once`},
		{"names: {0: asleep, 0x9100: alarm}", "names: {0x10000: alarm}", "p.yaml:22: registers[3].names: 65536 is more than enum16"},
		{"names: {0: asleep, 0x9100: alarm}", "names: {a: alarm}", `p.yaml:22: registers[3].names: "a" is not a number`},
		{"names: {0: asleep, 0x9100: alarm}", "names: {1: 2}", `p.yaml:22: registers[3].names: "2" is not a text`},
		{"names: {0: asleep, 0x9100: alarm}", "names: [a]", "p.yaml:22: registers[3].names: a list is not"},
		{"names: {31: last}", "names: {32: last}", "p.yaml:23: registers[4].names: 32 is more than bitfield32"},
		{"range: [10, 1000]", "range: [10, 2000]", "p.yaml:29: registers[5].write: from 10 to 2000 is more than is valid"},
		{"      range: [10, 1000]\n", "", "p.yaml:29: registers[5].write.range: missing"},
		{"on: 0xAA", "on: 0x55", "p.yaml:29: registers[5].write: the gate is the same"},
		{"on: 0xAA,", "", "p.yaml:31: registers[5].write.gate.on: missing"},
		{"sequence: around", "sequence: often", `p.yaml:31: registers[5].write.gate.sequence: "often" is none of after, before, around`},
		{"[{address: 24, type: s32, value: 1}]", "[1]", `p.yaml:32: registers[5].write.requires: "1" is not a list of fields`},
		{"[{address: 24, type: s32, value: 1}]", "[{value: 1}]", "p.yaml:32: registers[5].write.requires.address: missing"},
		{"proof: pac", "proof: sun", `p.yaml:36: registers[5].write.proof: "sun" is no other point`},
		{"proof: pac", "proof: limit", `registers[5].write.proof: "limit" is no other point`},
		{"settle: 5s", "settle: 11m", "p.yaml:35: registers[5].write.settle: 11m0s is not within"},
		{"stored: true", "stored: perhaps", `p.yaml:38: registers[5].write.stored: "perhaps" is none of`},
		{"timer: {address: 26, type: u32}, ", "", "p.yaml:37: registers[5].write.fallback.timer: missing"},
	} {
		text := strings.Replace(whole, c.old, c.change, 1)
		_, err := Parse("p.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v; want %q", c.change, err, c.want)
		}
	}
}

// An input register is written nowhere unless the file says where.
func TestParseWantsTheAddressToWrite(t *testing.T) {
	text := strings.Replace(whole, "    address: 10\n", "    address: 10\n    table: input\n", 1)
	if _, err := Parse("p.yaml", []byte(text)); err != nil {
		t.Errorf("with an address to write: %v", err)
	}
	text = strings.Replace(text, "      address: 20\n", "", 1)
	if _, err := Parse("p.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), "registers[5].write.address: missing") {
		t.Errorf("without one: %v", err)
	}
}
