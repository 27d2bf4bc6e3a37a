package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/agent/command"
	"ecowatt/inverter"
	"ecowatt/inverter/profile"
)

// ownProfile is what an installer wrote.
const ownProfile = `format: 1
name: mine
title: My inverter
source: its manual
unit: 9
request_gap: 250ms
registers: [{point: pac, address: 7}]
`

// A profile in the gateway's folder is found without a new program, and what is
// wrong with it is told with its line.
func TestProfilesOfTheInstaller(t *testing.T) {
	dir := t.TempDir()
	profiles := filepath.Join(dir, ProfilesFolder)
	if err := os.Mkdir(profiles, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	settings := write(SettingsFile, strings.Replace(leastSettings, "ecowatt-sim", "mine", 1))
	if _, err := LoadSettings(settings, profiles); !errors.Is(err, profile.ErrUnknown) {
		t.Errorf("without it: %v", err)
	}
	write(ProfilesFolder+"/mine.yaml", ownProfile)
	s, err := LoadSettings(settings, profiles)
	if err != nil {
		t.Fatal(err)
	}
	if in := s.Inverters[0]; in.Unit != 9 || in.Profile.Title != "My inverter" || in.Profile.Timing.Gap != 250*time.Millisecond {
		t.Errorf("inverter %+v", in)
	}
	file := write(ProfilesFolder+"/mine.yaml", strings.Replace(ownProfile, "unit: 9", "unit: 999", 1))
	if _, err := LoadSettings(settings, profiles); err == nil || !strings.Contains(err.Error(), file+":5: unit: 999") {
		t.Errorf("a bad one: %v", err)
	}
}

// labelled is a source whose registers from 1000 on hold the serial number "78".
type labelled struct{ command.Line }

func (l labelled) Read(ctx context.Context, unit byte, r inverter.Read) ([]uint16, error) {
	if r.Address == 1000 {
		return []uint16{'7'<<8 | '8', 0}, nil
	}
	return l.Line.Read(ctx, unit, r)
}

// What an inverter calls itself is in a second inventory, and once a minute
// there are the points that are read so.
func TestTextsAndSlowPoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(s *Settings) {
			p := s.Inverters[0].Profile
			p.Texts = []inverter.Text{{Name: inverter.Serial, Table: inverter.Holding, Address: 1000, Words: 2}}
			p.Registers = slices.Clone(p.Registers)
			p.Registers[0].Class = inverter.Slow // vac1
			s.Inverters[0].Profile = p
		})
		r.parts.inverters = func(InverterSettings) command.Line { return labelled{r.plant} }
		r.start()
		r.runFor(time.Hour)
		r.stop()
		var serials []string
		for _, v := range r.cloud.stock {
			serials = append(serials, v.Inverters["inv1"].Serial)
		}
		if diff := cmp.Diff([]string{"", "78"}, serials); diff != "" {
			t.Errorf("serial numbers in the inventories (-want +got):\n%s", diff)
		}
		counts := map[string]uint64{}
		for _, b := range r.cloud.blocks {
			counts[strings.Join(b.Points, " ")] += b.Count
		}
		// Whatever waits for the next exchange is on the disk.
		if fast, slow := counts["pac"], counts["vac1"]; len(counts) != 2 || slow < 40 || fast != slow*12 && fast/12 != slow && fast/12 != slow-1 {
			t.Errorf("samples by points: %v", counts)
		}
	})
}
