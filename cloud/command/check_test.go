package command

import (
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt"
)

func roof() Target {
	return Target{Device: "roof-1", Reported: true, ControlAllowed: true, Inverters: []Inverter{{Name: "inv1", Points: []ecowatt.Point{
		{Name: "pac", Unit: "W"},
		{Name: "export_power_percent", Unit: "%", Writable: true, Max: 100},
		{Name: "offset", Unit: "V", Exponent: -1, Writable: true, Min: -55, Max: 1000},
		{Name: "step", Unit: "W", Exponent: 2, Writable: true, Max: 50},
	}}}}
}

// A limit that lies between two raw values is one that the device can keep, by
// rounding it down; what that makes of it must be in range as well.
func TestLimitIsRoundedDown(t *testing.T) {
	for _, x := range []struct {
		exponent int
		min      int64
		percent  float64
		want     bool
	}{{-1, 0, 33.33, true}, {-1, 334, 33.33, false}, {-1, 333, 33.33, true}, {0, 0, 0.5, true}, {0, 1, 0.5, false}, {0, 0, 100, true}, {0, 30, 29.99, false}} {
		d := roof()
		d.Inverters[0].Points[1].Exponent, d.Inverters[0].Points[1].Min, d.Inverters[0].Points[1].Max = x.exponent, x.min, 1000
		_, err := Task{Action: SetPowerLimit, Percent: x.percent}.Prepare(d)
		if (err == nil) != x.want {
			t.Errorf("%+v: %v", x, err)
		}
	}
}

func TestPrepare(t *testing.T) {
	off := func(change func(*Target)) func() Target {
		return func() Target { d := roof(); change(&d); return d }
	}
	two := off(func(d *Target) { d.Inverters = append(d.Inverters, Inverter{Name: "inv2"}) })
	for _, x := range []struct {
		name      string
		target    func() Target
		action    Action
		arguments string
		want      string // the task, or the field and code of the refusal
	}{
		{"limit", roof, SetPowerLimit, `{"inverter":"inv1","percent":40,"lease_s":7200,"on_end":"release"}`, "limit inv1 to 40 % for 2h, then release"},
		{"limit, defaults", roof, SetPowerLimit, `{"percent":0}`, "limit inv1 to 0 % for 1h, then restore"},
		{"limit without percent", roof, SetPowerLimit, `{}`, "arguments.percent invalid"},
		{"limit beyond", roof, SetPowerLimit, `{"percent":101}`, "arguments.percent out_of_range"},
		{"limit below", roof, SetPowerLimit, `{"percent":-1}`, "arguments.percent out_of_range"},
		{"limit between", roof, SetPowerLimit, `{"percent":33.5}`, "limit inv1 to 33.5 % for 1h, then restore"},
		{"lease of nothing", roof, SetPowerLimit, `{"percent":40,"lease_s":0}`, "arguments.lease_s out_of_range"},
		{"endless lease", roof, SetPowerLimit, `{"percent":40,"lease_s":9223372036854775807}`, "arguments.lease_s out_of_range"},
		{"odd end", roof, SetPowerLimit, `{"percent":40,"on_end":"explode"}`, "arguments.on_end invalid"},
		{"limit of what has none", two, SetPowerLimit, `{"percent":40,"inverter":"inv2"}`, "arguments.inverter not_writable"},
		{"write", roof, WritePoint, `{"inverter":"inv1","point":"offset","value":-5.5}`, "write offset = -5.5 on inv1"},
		{"write hundreds", roof, WritePoint, `{"point":"step","value":4900}`, "write step = 4900 on inv1"},
		{"write between hundreds", roof, WritePoint, `{"point":"step","value":4950}`, "arguments.value not_representable"},
		{"write beyond", roof, WritePoint, `{"point":"offset","value":100.1}`, "arguments.value out_of_range"},
		{"write below", roof, WritePoint, `{"point":"offset","value":-5.6}`, "arguments.value out_of_range"},
		{"write between", roof, WritePoint, `{"point":"offset","value":0.05}`, "arguments.value not_representable"},
		{"write much", roof, WritePoint, `{"point":"offset","value":1e300}`, "arguments.value out_of_range"},
		{"write nothing", roof, WritePoint, `{"point":"offset"}`, "arguments.value invalid"},
		{"write no point", roof, WritePoint, `{"value":1}`, "arguments.point invalid"},
		{"write an unknown point", roof, WritePoint, `{"point":"x","value":1}`, "arguments.point unknown_point"},
		{"write what is only read", roof, WritePoint, `{"point":"pac","value":1}`, "arguments.point not_writable"},
		{"read", roof, ReadPoints, `{"points":["pac","offset"]}`, "read pac, offset of inv1"},
		{"read twice", roof, ReadPoints, `{"points":["pac","pac"]}`, "arguments.points[1] invalid"},
		{"read nothing", roof, ReadPoints, `{"points":[]}`, "arguments.points out_of_range"},
		{"read what there is not", roof, ReadPoints, `{"points":["pac","x"]}`, "arguments.points[1] unknown_point"},
		{"no such inverter", roof, ReadPoints, `{"inverter":"inv9","points":["pac"]}`, "arguments.inverter unknown_inverter"},
		{"which inverter", two, ReadPoints, `{"points":["pac"]}`, "arguments.inverter unknown_inverter"},
		{"restart", roof, RestartAgent, ``, "restart the agent"},
		{"unknown action", roof, "explode", `{}`, "action unknown_action"},
		{"no JSON", roof, WritePoint, `{"value":"x"}`, "arguments invalid"},
		{"not allowed to write", off(func(d *Target) { d.ControlAllowed = false }), SetPowerLimit, `{"percent":40}`, "device.control_allowed control_not_allowed"},
		{"allowed to read", off(func(d *Target) { d.ControlAllowed = false }), ReadPoints, `{"points":["pac"]}`, "read pac of inv1"},
		{"allowed to restart", off(func(d *Target) { *d = Target{} }), RestartAgent, `{}`, "restart the agent"},
		{"never heard of", off(func(d *Target) { *d = Target{} }), ReadPoints, `{"points":["pac"]}`, "device.inverters no_inventory"},
		{"disabled", off(func(d *Target) { d.Disabled = true }), RestartAgent, `{}`, "device.disabled disabled"},
		{"no inverter", off(func(d *Target) { d.Inverters = nil }), ReadPoints, `{"points":["pac"]}`, "arguments.inverter unknown_inverter"},
	} {
		task, err := ParseTask(x.action, []byte(x.arguments))
		if err == nil {
			task, err = task.Prepare(x.target())
		}
		got := task.String()
		if r := (*RefusedError)(nil); errors.As(err, &r) {
			if got = r.Field + " " + string(r.Code); r.Problem == "" {
				t.Errorf("%s: refused without a word", x.name)
			}
		} else if err != nil {
			t.Errorf("%s: %v", x.name, err)
		}
		if got != x.want {
			t.Errorf("%s: %s, want %s", x.name, got, x.want)
		}
	}
}

// Every raw value, written as people write it, is that raw value again.
func TestRawOf(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw, exponent := rapid.Int64Range(-1<<31, 1<<31).Draw(t, "raw"), rapid.IntRange(-10, 10).Draw(t, "exponent")
		var value float64
		if err := json.Unmarshal([]byte(ecowatt.Decimal(raw, exponent)), &value); err != nil {
			t.Fatal(err)
		}
		if got, ok := rawOf(value, exponent); !ok || got != raw {
			t.Fatalf("%s is %v × 10^%d, %v; want %d", ecowatt.Decimal(raw, exponent), got, exponent, ok, raw)
		}
		if raw%10 != 0 {
			if got, ok := rawOf(value, exponent+1); ok {
				t.Fatalf("%s is %d × 10^%d", ecowatt.Decimal(raw, exponent), got, exponent+1)
			}
		}
	})
	for _, v := range []float64{math.NaN(), math.Inf(1), math.MaxFloat64} {
		if raw, ok := rawOf(v, 0); ok {
			t.Errorf("%v is %d", v, raw)
		}
	}
}

// What goes to a device and into the database is the task again.
func TestArguments(t *testing.T) {
	for _, task := range []Task{
		{Action: WritePoint, Inverter: "inv1", Point: "offset", Value: -5.5},
		{Action: WritePoint, Inverter: "inv1", Point: "step", Value: 4900},
		{Action: SetPowerLimit, Inverter: "inv1", Percent: 33.3, Lease: time.Hour, OnEnd: Release},
		{Action: ReadPoints, Inverter: "inv1", Points: []string{"pac", "offset"}},
		{Action: RestartAgent},
	} {
		text, err := json.Marshal(task.Arguments())
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseTask(task.Action, text)
		if diff := cmp.Diff(task, again); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
	}
}

func TestInForce(t *testing.T) {
	leases := []Lease{
		{Inverter: "inv1", Percent: 20, Until: noon},                                   // over
		{Inverter: "inv1", Percent: 30, Until: noon.Add(time.Hour), Overwritten: noon}, // not kept
		{Inverter: "inv1", Percent: 60, Until: noon.Add(time.Hour)},                    //
		{Inverter: "inv1", Percent: 40, Until: noon.Add(time.Minute)},                  // the one
		{Inverter: "inv1", Percent: 40, Until: noon.Add(time.Hour)},                    //
		{Inverter: "inv2", Percent: 90},                                                // the one, with an end that is not known
	}
	if diff := cmp.Diff([]bool{false, false, false, true, false, true}, InForce(leases, noon)); diff != "" {
		t.Error(diff)
	}
}
