package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
	"ecowatt/inverter/sunspec"
	"ecowatt/sim/fault"
)

// discovered is the profile that is made of the map of the unit.
func discovered(t *testing.T, do modbus.Handler, unit byte) (sunspec.Device, inverter.Profile) {
	t.Helper()
	found, err := sunspec.Discover(t.Context(), func(ctx context.Context, address, count uint16) ([]uint16, error) {
		return do(ctx, modbus.Request{Unit: unit, Function: modbus.ReadHolding, Address: address, Count: count})
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := found.Profile("found", unit)
	if err != nil {
		t.Fatal(err)
	}
	return found, p
}

// sunLengths are those of the models (SunSpec Information Model Reference): of
// model 160 with two strings.
var sunLengths = map[uint16]uint16{
	1: 66, 101: 50, 102: 50, 103: 50, 111: 60, 112: 60, 113: 60, 120: 26, 121: 30, 122: 44, 123: 24, 160: 48, 701: 153, 702: 50, 704: 65,
}

// eachSunSpec runs test for every map there is, at noon under the sun.
func eachSunSpec(t *testing.T, test func(t *testing.T, s *Simulator, x SunSpec)) {
	for _, models := range AllModels() {
		for _, base := range []uint16{40000, 50000, 0} {
			for phases := 1; phases <= 3; phases++ {
				x := SunSpec{Base: base, Models: models, Phases: phases}
				t.Run(fmt.Sprintf("%v %d phases at %d", models, phases, base), func(t *testing.T) {
					s, err := New(Options{Inverters: []Inverter{{Unit: 7, SunSpec: x}}, Start: clock(11), Energy: []Energy{{Total: 31_000_000}}})
					if err != nil {
						t.Fatal(err)
					}
					for range 900 {
						s.site.step(1)
					}
					test(t, s, x)
				})
			}
		}
	}
}

// TestSunSpecIsDiscovered: the map is found wherever it begins, is the chain of
// the models that it should have, and what is read through the profile that comes
// of it is what the plant measures.
func TestSunSpecIsDiscovered(t *testing.T) {
	eachSunSpec(t, func(t *testing.T, s *Simulator, x SunSpec) {
		found, p := discovered(t, s.Handle, 7)
		phased := uint16(x.Phases)
		want := map[Models][]uint16{
			Integers: {1, 100 + phased, 120, 121, 122, 123, 160},
			Floats:   {1, 110 + phased, 120, 121, 122, 123, 160},
			IEEE1547: {1, 701, 702, 704},
		}[x.Models]
		var ids []uint16
		at := x.Base + 2
		for _, m := range found.Models {
			if ids = append(ids, m.ID); m.Address != at || m.Words[1] != sunLengths[m.ID] {
				t.Errorf("model %d at %d with %d words, want %d with %d", m.ID, m.Address, m.Words[1], at, sunLengths[m.ID])
			}
			at += 2 + sunLengths[m.ID]
		}
		if found.Base != x.Base || !slices.Equal(ids, want) {
			t.Errorf("at %d the models %v, want %v", found.Base, ids, want)
		}
		r := s.site.read(0)
		values := map[string]float64{
			"pac": r.pac, "sac": r.pac, "qac": 0, "fac1": r.fac, "iac": r.iac, "temp": r.temp, "energy_total": r.energy.Total, "rated_power": 5000,
			"export_power_percent": 100, "max_power": 5000,
		}
		if x.Models == IEEE1547 {
			values["state"], values["events"] = 3, 0 // it counts from 0
		} else {
			maps.Copy(values, map[string]float64{
				"state": 4, "events": 0, "connection": 7, "limits_reached": 0, "active_controls": 0, "power_factor": 100,
				"vdc": r.vpv[0], "idc": r.pdc() / r.vpv[0], "pdc": r.pdc(), "vpv1": r.vpv[0], "vpv2": r.vpv[1],
				"ipv1": r.ipv[0], "ipv2": r.ipv[1], "ppv1": r.vpv[0] * r.ipv[0], "ppv2": r.vpv[1] * r.ipv[1],
			})
		}
		for i := range x.Phases {
			values[fmt.Sprint("vac", i+1)], values[fmt.Sprint("iac", i+1)] = r.vac, r.iac/float64(x.Phases)
		}
		got := s.plan(t, p)
		for point, want := range values {
			within := map[string]float64{"pac": 0.5, "sac": 0.5, "pdc": 0.5, "ppv1": 0.5, "ppv2": 0.5, "energy_total": 2, "temp": 0.05}[point]
			if v, ok := got[point]; !ok || math.Abs(v-want) > max(within, 0.051) {
				t.Errorf("%s is %g, %v, want %g", point, v, ok, want)
			}
			delete(got, point)
		}
		if len(got) > 0 {
			t.Errorf("values that the plant does not have: %v", got)
		}
	})
}

// TestSunSpecTexts: model 1 says who it is, and each unit says something else.
func TestSunSpecTexts(t *testing.T) {
	row, err := Row(Inverter{Unit: 1, SunSpec: SunSpec{Base: 50000}}, 2)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{Inverters: row})
	if err != nil {
		t.Fatal(err)
	}
	for unit, serial := range map[byte]string{1: "SIM001", 2: "SIM002"} {
		_, p := discovered(t, s.Handle, unit)
		got := map[string]string{}
		for _, text := range p.Texts {
			words, err := s.Handle(t.Context(), modbus.Request{Unit: unit, Function: modbus.ReadHolding, Address: text.Address, Count: uint16(text.Words)})
			if err != nil {
				t.Fatal(err)
			}
			got[text.Name] = text.Decode(words)
		}
		if diff := cmp.Diff(map[string]string{"manufacturer": "EcoWatt", "model": "EcoWatt sim", "firmware": "1", "serial": serial}, got); diff != "" {
			t.Error(diff)
		}
	}
}

// limiting is a SunSpec map of which the places of the limit are known.
type limiting struct {
	*Simulator
	t                    *testing.T
	value, enable, timer uint16
	fallback, after      uint16 // of model 704
	wide                 bool   // the timer has two words
}

func newLimiting(t *testing.T, models Models) limiting {
	t.Helper()
	s, err := New(Options{Inverters: []Inverter{{Unit: 1, SunSpec: SunSpec{Base: 40000, Models: models}}}, Start: clock(12)})
	if err != nil {
		t.Fatal(err)
	}
	found, _ := discovered(t, s.Handle, 1)
	for _, m := range found.Models {
		switch m.ID {
		case 123:
			return limiting{Simulator: s, t: t, value: m.Address + 5, enable: m.Address + 9, timer: m.Address + 7}
		case 704:
			return limiting{Simulator: s, t: t, value: m.Address + 15, enable: m.Address + 14, timer: m.Address + 18, fallback: m.Address + 16, after: m.Address + 17, wide: true}
		}
	}
	t.Fatal("no limit")
	return limiting{}
}

func (l limiting) write(at uint16, words ...uint16) error {
	_, err := l.Handle(l.t.Context(), modbus.Request{Unit: 1, Function: modbus.WriteMultiple, Address: at, Values: words})
	return err
}

// must writes one word.
func (l limiting) must(at, word uint16) {
	l.t.Helper()
	words := []uint16{word}
	if at == l.timer && l.wide {
		words = []uint16{0, word}
	}
	if err := l.write(at, words...); err != nil {
		l.t.Errorf("%d to %d: %v", word, at, err)
	}
}

// wants checks what is read back, and what the plant keeps to, after the time d
// has passed.
func (l limiting) wants(d time.Duration, shown, enabled uint16, percent float64) {
	l.t.Helper()
	time.Sleep(d)
	l.advance(0)
	is := l.site.plants[0].limit
	read := func(at uint16) uint16 {
		words, err := l.Handle(l.t.Context(), modbus.Request{Unit: 1, Function: modbus.ReadHolding, Address: at, Count: 1})
		if err != nil {
			l.t.Fatal(err)
		}
		return words[0]
	}
	if got, on := read(l.value), read(l.enable); got != shown || on != enabled || is != percent {
		l.t.Errorf("%d is shown, enabled %d, limited to %g %%; want %d, %d, %g", got, on, is, shown, enabled, percent)
	}
}

// TestSunSpecLimit: a limit has an effect while it is enabled, and ends with the
// timer unless it is written again.
func TestSunSpecLimit(t *testing.T) {
	for _, models := range AllModels() {
		t.Run(models.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLimiting(t, models)
				l.must(l.value, 4000)
				l.wants(0, 4000, 0, 100)
				l.must(l.enable, 1)
				l.wants(time.Hour, 4000, 1, 40) // without a timer for ever
				l.must(l.enable, 0)
				l.wants(0, 4000, 0, 100)

				if l.wide { // the limit ends here too, and does not fall back to a value
					l.must(l.after, 0)
				}
				l.must(l.timer, 60)
				l.must(l.value, 3050)
				l.must(l.enable, 1)
				l.wants(59*time.Second, 3050, 1, 30.5)
				l.must(l.value, 2000)
				l.wants(59*time.Second, 2000, 1, 20)
				l.must(l.enable, 1) // writing what is there starts it anew as well
				l.wants(59*time.Second, 2000, 1, 20)
				l.wants(2*time.Second, 2000, 0, 100)
				l.wants(time.Hour, 2000, 0, 100)

				for _, x := range []struct {
					at   uint16
					word uint16
					want error
				}{
					{l.value, 10001, modbus.ErrIllegalValue},
					{l.enable, 2, modbus.ErrIllegalValue},
					{l.value - 40, 1, modbus.ErrIllegalAddress},
				} {
					if err := l.write(x.at, x.word); !errors.Is(err, x.want) {
						t.Errorf("%d to %d: %v, want %v", x.word, x.at, err, x.want)
					}
				}
				l.wants(0, 2000, 0, 100)
			})
		})
	}
}

// TestSunSpecFallsBackToAValue: model 704 can be told what is in force when
// nobody writes any more, and says how long that is.
func TestSunSpecFallsBackToAValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiting(t, IEEE1547)
		l.must(l.fallback, 2500)
		l.must(l.timer, 300)
		l.must(l.value, 8000)
		l.must(l.enable, 1)
		l.wants(100*time.Second, 8000, 1, 80)
		left, err := l.Handle(t.Context(), modbus.Request{Unit: 1, Function: modbus.ReadHolding, Address: l.timer + 2, Count: 2})
		if err != nil || !slices.Equal(left, []uint16{0, 200}) {
			t.Errorf("%v s are left, %v", left, err)
		}
		l.wants(201*time.Second, 2500, 1, 25)
		l.wants(time.Hour, 2500, 1, 25)
		l.must(l.value, 9000)
		l.wants(0, 9000, 1, 90)
	})
}

// TestSunSpecIsReverted: another controller brings back all that was there before
// the first write that it undoes: the limit, and that it was not enabled.
func TestSunSpecIsReverted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiting(t, Integers)
		l.must(l.value, 7000)
		if err := l.Misbehave(fault.Rule{Kind: fault.Revert, For: time.Minute, Probability: 1}); err != nil {
			t.Fatal(err)
		}
		l.must(l.value, 4000)
		time.Sleep(10 * time.Second)
		l.must(l.enable, 1)
		l.wants(49*time.Second, 4000, 1, 40)
		l.wants(2*time.Second, 7000, 0, 100)
	})
}

// TestSunSpecBlock: all that belongs to a limit can be written at once, is
// carried out as a whole or not at all, and what the inverter does not have is
// passed over.
func TestSunSpecBlock(t *testing.T) {
	l := newLimiting(t, Integers)
	connect := l.value - 3
	if err := l.write(connect, 0, 0, 1, 5000, 0, 30, 0, 1); err != nil {
		t.Error(err)
	}
	l.wants(0, 5000, 1, 50)
	want := []uint16{0xffff, 0xffff, 1, 5000, 0xffff, 30, 0xffff, 1}
	if got, err := l.Handle(t.Context(), modbus.Request{Unit: 1, Function: modbus.ReadHolding, Address: connect, Count: 8}); err != nil || !slices.Equal(got, want) {
		t.Errorf("then there is %v, %v, want %v", got, err, want)
	}
	for _, words := range [][]uint16{{0, 0, 0, 6000, 0, 30, 0, 1}, {0, 0, 1, 6000, 0, 30, 0, 1, 7}, {0, 0, 1, 6000, 0, 30, 0, 2}} {
		if err := l.write(connect, words...); err == nil {
			t.Errorf("%v is taken", words)
		}
		l.wants(0, 5000, 1, 50)
	}
	d := newLimiting(t, IEEE1547)
	if err := d.write(d.enable, 1, 4500, 3000, 1, 0, 90); err != nil {
		t.Error(err)
	}
	d.wants(0, 4500, 1, 45)
	if err := d.write(d.timer, 0); !errors.Is(err, modbus.ErrIllegalAddress) {
		t.Errorf("half a timer: %v", err)
	}
}

// TestSunSpecStates: what the inverter does is told by the state, the alarms and
// the controls that are in force.
func TestSunSpecStates(t *testing.T) {
	for _, x := range []struct {
		status Status
		alarm  Alarm
		want   map[string]float64
	}{
		{Producing, 0, map[string]float64{"state": 4, "events": 0, "connection": 7, "limits_reached": 0, "active_controls": 0}},
		{Sleeping, 0, map[string]float64{"state": 2, "events": 0, "connection": 5, "limits_reached": 0, "active_controls": 0}},
		{Waiting, AlarmOverVoltage, map[string]float64{"state": 8, "events": 1 << 10, "connection": 6, "limits_reached": 0, "active_controls": 0}},
		{Limited, 0, map[string]float64{"state": 5, "events": 0, "connection": 7, "limits_reached": 1, "active_controls": 1}},
		{Derated, AlarmHot, map[string]float64{"state": 5, "events": 1 << 7, "connection": 7, "limits_reached": 0, "active_controls": 0}},
	} {
		s, err := New(Options{Inverters: []Inverter{{Unit: 1, SunSpec: SunSpec{Base: 40000}}}, Start: clock(12)})
		if err != nil {
			t.Fatal(err)
		}
		s.site.plants[0].now.status, s.site.plants[0].now.alarm = x.status, x.alarm
		_, p := discovered(t, s.Handle, 1)
		got := s.plan(t, p)
		for point, want := range x.want {
			if got[point] != want {
				t.Errorf("%v: %s is %g, want %g", x.status, point, got[point], want)
			}
		}
	}
}

// TestProfileStates: an inverter tells what it does in its maker's numbers; one
// that is awake never those that mean sleep.
func TestProfileStates(t *testing.T) {
	own := inverter.Profile{Name: "own", Unit: 1, Block: 10, Sleeping: inverter.Sleeping{Point: "mode", Values: []int64{0}}, Registers: []inverter.Register{{
		Point: ecowatt.Point{Name: "mode"}, Table: inverter.Holding, Type: inverter.Enum16, Names: []inverter.Name{{Number: 0, Text: "schläft"}, {Number: 3, Text: "speist ein"}},
	}}}
	bare := own
	bare.Sleeping, bare.Registers = inverter.Sleeping{Point: "mode", Values: []int64{0, 5}}, []inverter.Register{{Point: ecowatt.Point{Name: "mode"}, Table: inverter.Holding}}
	both := own // that it waits and that it sleeps are the same to it
	both.Registers = []inverter.Register{{
		Point: ecowatt.Point{Name: "mode"}, Table: inverter.Holding, Type: inverter.Enum16, Names: []inverter.Name{{Number: 0, Text: "waiting"}, {Number: 1, Text: "normal"}},
	}}
	for _, x := range []struct {
		p     inverter.Profile
		point string
		want  map[Status]float64
	}{
		{shipped(t, "huawei-sun2000"), "state", map[Status]float64{Sleeping: 0xA000, Waiting: 0x0300, Producing: 0x0200, Limited: 0x0201, Derated: 0x0202}},
		{shipped(t, "sungrow-sg"), "state", map[Status]float64{Sleeping: 0x1200, Waiting: 0x1400, Producing: 0, Limited: 0x8200, Derated: 0x8100}},
		{shipped(t, "growatt-mic"), "state", map[Status]float64{Sleeping: 0, Waiting: 0, Producing: 1, Limited: 1, Derated: 1}},
		{own, "mode", map[Status]float64{Sleeping: 0, Waiting: 3, Producing: 3, Limited: 3}},
		{both, "mode", map[Status]float64{Sleeping: 0, Waiting: 1, Producing: 1}},
		{bare, "mode", map[Status]float64{Sleeping: 0, Waiting: 6, Producing: 6}},
	} {
		s, err := New(Options{Inverters: one(x.p)})
		if err != nil {
			t.Fatal(err)
		}
		for status, want := range x.want {
			s.site.plants[0].now.status = status
			if got := s.plan(t, x.p); got[x.point] != want {
				t.Errorf("%s, %v: %s is %g, want %g", x.p.Name, status, x.point, got[x.point], want)
			}
		}
	}
}

func shipped(t *testing.T, name string) inverter.Profile {
	t.Helper()
	p, err := profile.Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestSunSpecRefuses: what there is not is told by its field.
func TestSunSpecRefuses(t *testing.T) {
	for want, x := range map[string]SunSpec{"base": {Base: 1}, "models": {Models: 9}, "phases": {Phases: 4}} {
		if err := x.Check(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%+v: %v", x, err)
		}
	}
}
