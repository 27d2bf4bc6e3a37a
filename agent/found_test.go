package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/agent/command"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
	"ecowatt/wire"
)

// teller is an inverter that tells by SunSpec what it is.
type teller struct {
	mu    sync.Mutex
	words []uint16 // from 40000 on; nil: it is silent
}

func (i *teller) Read(_ context.Context, unit byte, r inverter.Read) ([]uint16, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	at := int(r.Address) - 40000
	switch {
	case i.words == nil || unit != 1:
		return nil, modbus.ErrNoAnswer
	case r.Table != inverter.Holding || at < 0 || at+int(r.Count) > len(i.words):
		return nil, modbus.ErrIllegalAddress
	}
	return slices.Clone(i.words[at : at+int(r.Count)]), nil
}

func (i *teller) become(words []uint16) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.words = words
}

// telling is the map of an inverter with the serial number, of model 101 with W
// at a scale, and where it can be limited of model 123.
func telling(serial string, scale int16, limit bool) []uint16 {
	words := []uint16{0x5375, 0x6e53, 1, 66}
	words = append(words, make([]uint16, 66)...)
	for i := range len(serial) / 2 {
		words[2+50+i] = uint16(serial[2*i])<<8 | uint16(serial[2*i+1])
	}
	model := append([]uint16{101, 50}, slices.Repeat([]uint16{0x8000}, 50)...)
	model[14], model[15], model[38] = 100, uint16(scale), 4
	words = append(words, model...)
	if limit {
		model = append([]uint16{123, 24}, make([]uint16, 24)...)
		model[5] = 100
		words = append(words, model...)
	}
	return append(words, 0xffff, 0)
}

// story is what the cloud was told of inv1, message by message: that there were
// samples with pac, and what inventories say.
func (r *rig) story() (story []string) {
	r.cloud.mu.Lock()
	defer r.cloud.mu.Unlock()
	seen := map[wire.MessageID]bool{}
	for _, q := range r.cloud.requests {
		for _, m := range q.Messages {
			line := ""
			if !seen[m.ID] {
				line = r.tells(m)
			}
			seen[m.ID] = true
			if n := len(story); line != "" && (n == 0 || story[n-1] != line) {
				story = append(story, line)
			}
		}
	}
	return story
}

// tells is what a message says of inv1; empty if nothing.
func (r *rig) tells(m wire.Message) string {
	if m.Kind == wire.KindTelemetry {
		b, err := wire.DecodeTelemetry(m.Body)
		if err != nil {
			r.t.Fatal(err)
		}
		if b.Inverter == "inv1" && slices.Contains(b.Points, "pac") {
			return "samples"
		}
	}
	if m.Kind != wire.KindInventory {
		return ""
	}
	v, err := wire.DecodeInventory(m.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	in := v.Inverters["inv1"]
	line := fmt.Sprintf("%s serial=%s points=%d", in.Profile, in.Serial, len(in.Points))
	for _, p := range in.Points {
		switch p.Name {
		case "pac":
			line += fmt.Sprint(" pac=", p.Exponent)
		case "export_power_percent":
			line += " limited"
		}
	}
	return line
}

// TestInverterThatTellsWhatItIs: until it does, nothing is told of it and the
// others go on. The samples of a layout are told before the inventory of the next
// one, and after a start points are as exact as they were.
func TestInverterThatTellsWhatItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inv1 := &teller{}
		r := newRig(t, func(s *Settings) {
			s.Inverters = append(s.Inverters, InverterSettings{Name: "inv2", Unit: 17, Profile: s.Inverters[0].Profile, Points: []string{"pac"}})
			s.Inverters[0] = InverterSettings{Name: "inv1", Unit: 1, Profile: inverter.Profile{Name: SunSpecProfile, Unit: 1}, SunSpec: true}
		})
		r.parts.inverters = func(in InverterSettings) command.Line {
			if in.SunSpec {
				return inv1
			}
			return r.plant
		}
		var want []string
		check := func(when string, more ...string) {
			t.Helper()
			r.runFor(time.Hour)
			want = append(want, more...)
			if diff := cmp.Diff(want, r.story()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		r.start()
		check("silent", "sunspec serial= points=0")
		if s := r.status().Inverters; s[0].State != "away" || s[1].State != "answering" {
			t.Errorf("status %+v", s)
		}
		inv1.become(telling("A100", 0, false))
		check("found", "sunspec serial=A100 points=16 pac=-1", "samples")
		inv1.become(nil)
		check("away")
		inv1.become(telling("A100", -2, false)) // more exact by chance
		check("back, and the same")
		inv1.become(nil)
		r.runFor(10 * time.Minute)
		inv1.become(telling("B200", -2, true))
		check("another one", "sunspec serial=B200 points=17 pac=-1 limited", "samples")
		r.cloud.setAway(true)
		r.runFor(time.Hour)
		r.stop()
		inv1.become(telling("B200", 0, true))
		r.start()
		r.runFor(time.Hour)
		r.cloud.setAway(false)
		check("after a start", "sunspec serial= points=17 pac=-1 limited", "sunspec serial=B200 points=17 pac=-1 limited", "samples")
		r.stop()
	})
}

// TestFoundCannotBeRead: it is found anew.
func TestFoundCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inv1 := &teller{words: telling("A100", 0, true)}
		r := newRig(t, func(s *Settings) {
			s.Inverters[0] = InverterSettings{Name: "inv1", Unit: 1, Profile: inverter.Profile{Name: SunSpecProfile, Unit: 1}, SunSpec: true, Points: []string{"pac", "vac9"}}
		})
		r.parts.inverters = func(InverterSettings) command.Line { return inv1 }
		f, err := r.disk.Create("found-inv1.yaml", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("format: 9\n")); err != nil {
			t.Fatal(err)
		}
		f.Close()
		r.start()
		r.runFor(time.Hour)
		r.stop()
		if log := r.log.String(); !strings.Contains(log, "what the inverter was found to be cannot be read") || !strings.Contains(log, "point_unknown") {
			t.Errorf("log:\n%s", log)
		}
		if s := r.story(); !slices.Contains(s, "sunspec serial=A100 points=17 pac=-1 limited") {
			t.Errorf("the cloud was told %q", s)
		}
	})
}

// TestSunSpecSettings: the profile that is a search, unless there is a file.
func TestSunSpecSettings(t *testing.T) {
	text := strings.Replace(leastSettings, "ecowatt-sim", "sunspec, points: [pac]", 1)
	s, err := ParseSettings([]byte(text))
	if in := s.Inverters; err != nil || !in[0].SunSpec || in[0].Unit != 1 || !slices.Equal(in[0].Points, []string{"pac"}) || len(in[0].Profile.Registers) > 0 {
		t.Errorf("%+v, %v", in, err)
	}
	for points, want := range map[string]string{"pac, pac": `points: "pac" stands twice`, `"Pac!"`: "points", strings.Repeat("p,", 257): "257 are read"} {
		text := strings.Replace(leastSettings, "ecowatt-sim", "sunspec, points: ["+points+"]", 1)
		if _, err := ParseSettings([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("points %.40s: %v, want %q", points, err, want)
		}
	}
	if slices.Contains(profile.List(), SunSpecProfile) {
		t.Error("there is a file of the name that stands for a search")
	}
}
