package profile

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/inverter"
)

func TestEmbeddedProfilesAreGood(t *testing.T) {
	if len(List()) == 0 {
		t.Fatal("no profiles")
	}
	for _, name := range List() {
		p, err := Find(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := p.Plan(p.PointNames()); err != nil || p.Name != name {
			t.Errorf("%s: planning all points of %q: %v", name, p.Name, err)
		}
	}
}

func TestFindUnknown(t *testing.T) {
	for _, name := range []string{"", "nothing", "../profile", "ecowatt-sim.yaml"} {
		_, err := Find(name)
		if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "ecowatt-sim") {
			t.Errorf("Find(%q): %v; want ErrUnknown naming the known ones", name, err)
		}
	}
}

// TestSimulatorProfile holds the register map of the design against the file.
func TestSimulatorProfile(t *testing.T) {
	p, err := Find("ecowatt-sim")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range p.Registers {
		access := "R"
		if r.Point.Writable {
			access = fmt.Sprintf("R/W %d-%d", r.Point.Min, r.Point.Max)
		}
		got = append(got, fmt.Sprint(r.Address, " ", r.Point.Name, " ", r.Point.Exponent, " ", r.Point.Unit, " ", r.Type, " ", r.Table, " ", access))
	}
	want := []string{
		"0 vac1 -1 V u16 holding R",
		"1 iac1 -1 A u16 holding R",
		"2 fac1 -2 Hz u16 holding R",
		"3 vpv1 -1 V u16 holding R",
		"4 vpv2 -1 V u16 holding R",
		"5 ipv1 -1 A u16 holding R",
		"6 ipv2 -1 A u16 holding R",
		"7 temp -1 °C s16 holding R",
		"8 export_power_percent 0 % u16 holding R/W 0-100",
		"9 pac 0 W u16 holding R",
	}
	if diff := cmp.Diff(want, got); diff != "" || p.Unit != 17 {
		t.Errorf("unit %d, registers (-want +got):\n%s", p.Unit, diff)
	}
	plan, err := p.Plan(p.PointNames())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]inverter.Read{{Table: inverter.Holding, Address: 0, Count: 10}}, plan.Reads()); diff != "" {
		t.Errorf("reads (-want +got):\n%s", diff)
	}
}

const good = `format: 1
name: p
title: A title
source: a source
unit: 3
block_limit: 50
gap_limit: 7
registers:
  - point: pac
    address: 0x10
    table: input
    type: s32
    order: low
    exponent: 1
    unit: W
    absent: [0x80000000, 0xffffffff]
    valid: [-5, 100000]
  - point: limit
    address: 18
    write: [0, 100]
`

func TestParse(t *testing.T) {
	got, err := Parse("some/folder/p.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	want := inverter.Profile{
		Name: "p", Title: "A title", Source: "a source", Unit: 3, Block: 50, Gap: 7,
		Registers: []inverter.Register{
			{
				Point: ecowatt.Point{Name: "pac", Unit: "W", Exponent: 1}, Table: inverter.Input, Address: 16, Type: inverter.S32,
				Order: inverter.LowFirst, Absent: []uint64{0x80000000, 0xffffffff}, Valid: inverter.Range{Min: -5, Max: 100000},
			},
			{Point: ecowatt.Point{Name: "limit", Writable: true, Max: 100}, Table: inverter.Holding, Address: 18},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("profile (-want +got):\n%s", diff)
	}
}

// TestParseRefuses changes one thing of the good file, and wants the line and
// the field of it in the error.
func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ old, change, want string }{
		{"format: 1", "format: 2", "p.yaml:1: format: 2 is not within 1 and 1"},
		{"format: 1\n", "", "p.yaml:1: format: missing"},
		{"name: p", "name: q", `p.yaml:2: name: "q" is not the name of the file`},
		{"name: p", "name: P", `p.yaml:2: name: "P" is no name`},
		{"name: p", "name: [p]", "p.yaml:2: name: a list is no name"},
		{"name: p", "name: 7", `p.yaml:2: name: "7" is no name`},
		{"title: A title", "title: 5", `p.yaml:3: title: "5" is not a text`},
		{"title: A title", "title: ''", "p.yaml:3: title: "},
		{"title: A title", `title: "a\nb"`, "p.yaml:3: title: "},
		{"title: A title", "title: " + strings.Repeat("x", 201), "p.yaml:3: title: longer than 200"},
		{"source: a source", "sauce: a source", "p.yaml:4: sauce: unknown field; there are: format, name,"},
		{"source: a source", "title: twice", "p.yaml:4: title: stands twice"},
		{"unit: 3", "unit: 256", "p.yaml:5: unit: 256 is not within 0 and 255"},
		{"unit: 3", "unit: three", `p.yaml:5: unit: "three" is not a whole number`},
		{"unit: 3", "unit: 1.5", `p.yaml:5: unit: "1.5" is not a whole number`},
		{"unit: 3", "unit: 99999999999999999999", "p.yaml:5: unit: "},
		{"unit: 3", "unit: &u 3", "p.yaml:5: unit: anchors and aliases are not read"},
		{"block_limit: 50", "block_limit: 126", "p.yaml:6: block_limit: 126 is not within 1 and 125"},
		{"block_limit: 50", "block_limit: 1", "p.yaml:9: registers[0].type: 2 words do not fit into a read of 1"},
		{"gap_limit: 7", "gap_limit: -1", "p.yaml:7: gap_limit: -1 is not within 0 and 123"},
		{"  - point: pac\n", "  - \n", "p.yaml:10: registers[0].point: missing"},
		{"point: pac", "point: limit", `p.yaml:18: registers[1].point: "limit" stands twice`},
		{"address: 0x10", "address: 65536", "p.yaml:10: registers[0].address: 65536 is not within 0 and 65535"},
		{"address: 0x10", "address: 65535", "p.yaml:10: registers[0].address: 65535 and the 2 words of s32 end beyond 65535"},
		{"    address: 18\n", "", "p.yaml:18: registers[1].address: missing"},
		{"address: 18\n    write: [0, 100]", "address: 17\n    table: input", "p.yaml:18: registers[1].address: limit overlaps pac"},
		{"table: input", "table: coil", `p.yaml:11: registers[0].table: "coil" is none of holding, input`},
		{"type: s32", "type: f16", `p.yaml:12: registers[0].type: "f16" is none of u16, s16, u32, s32, u64, s64`},
		{"order: low", "order: ABCD", `p.yaml:13: registers[0].order: "ABCD" is none of high, low`},
		{"exponent: 1", "exponent: -11", "p.yaml:14: registers[0].exponent: -11 is not within -10 and 10"},
		{"unit: W", "unit: kilowatts", "p.yaml:15: registers[0].unit: longer than 8"},
		{"absent: [0x80000000, 0xffffffff]", "absent: 0x80000000", `p.yaml:16: registers[0].absent: "0x80000000" is not a list`},
		{"absent: [0x80000000,", "absent: [-1,", `p.yaml:16: registers[0].absent: "-1" is not a bit pattern`},
		{"absent: [0x80000000,", "absent: [0x100000000,", "p.yaml:16: registers[0].absent: 0x100000000 is more than the 32 bits"},
		{"valid: [-5, 100000]", "valid: [100000, -5]", "p.yaml:17: registers[0].valid: "},
		{"valid: [-5, 100000]", "valid: [1]", "p.yaml:17: registers[0].valid: a list is not of the form [least, most]"},
		{"valid: [-5, 100000]", "valid: [-5, 3000000000]", "p.yaml:17: registers[0].valid: from -5 to 3000000000 is more than s32"},
		{"write: [0, 100]", "write: [0, 70000]", "p.yaml:20: registers[1].write: from 0 to 70000 is more than u16"},
		{"write: [0, 100]", "write: true", `p.yaml:20: registers[1].write: "true" is not of the form`},
		{"write: [0, 100]", "write: [0, 100]\n    table: input", "p.yaml:20: registers[1].write: only holding"},
		{"write: [0, 100]", "gain: 10", "p.yaml:20: registers[1].gain: unknown field; there are: point, address,"},
		{"write: [0, 100]", `"a\x1b[2J": 10`, `p.yaml:20: registers[1]."a\x1b[2J": unknown field`},
	} {
		text := strings.Replace(good, c.old, c.change, 1)
		if _, err := Parse("p.yaml", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%q: %v; want %q", c.change, err, c.want)
		}
	}
}

func TestParseRefusesWholeFiles(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "p.yaml: empty"},
		{"# nothing\n", "p.yaml: empty"},
		{"- 1", "p.yaml:1: profile: a list is not"},
		{"a: [", "p.yaml: yaml:"},
		{good + "---\nmore: 1\n", "p.yaml: more than one document"},
		{strings.Repeat("#", maxSize+1), "p.yaml: larger than"},
		{"registers: 5", "p.yaml:1: format: missing\np.yaml:1: name: missing\np.yaml:1: title: missing\np.yaml:1: source: missing\np.yaml:1: registers: \"5\" is not a list"},
		{good[:strings.Index(good, "  -")], "p.yaml:8: registers:"},
		{strings.Replace(good, "registers:", "registers: []\nx:", 1), "p.yaml:9: x: unknown field"},
		{"format: 1\nname: p\ntitle: t\nsource: s\nregisters: []", "p.yaml:5: registers: there are none"},
	} {
		if _, err := Parse("p.yaml", []byte(c.text)); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%.40q: %v; want %q", c.text, err, c.want)
		}
	}
}

func TestParseTellsAllMistakesUpToALimit(t *testing.T) {
	text := strings.NewReplacer("unit: 3", "unit: 300", "order: low", "order: x", "write: [0, 100]", "write: 1").Replace(good)
	_, err := Parse("p.yaml", []byte(text))
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("got %v; want three lines", err)
	}
	many := good + strings.Repeat("  - {point: x, address: -1}\n", 300)
	if _, err := Parse("p.yaml", []byte(many)); err == nil || strings.Count(err.Error(), "\n") != maxProblems-1 {
		t.Errorf("got %v; want %d lines", err, maxProblems)
	}
}

// FuzzParse: whatever is accepted is a profile that can be planned.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(whole))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("registers: [[[[{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("p.yaml", data)
		if err != nil {
			return
		}
		if _, err := p.Plan(p.PointNames()); err != nil {
			t.Errorf("accepted, but planning says: %v", err)
		}
		for _, r := range p.Registers {
			if err := r.Check(); err != nil {
				t.Errorf("accepted, but point %s: %v", r.Point.Name, err)
			}
			if !r.Point.Writable {
				continue
			}
			if _, err := p.Release(r.Point.Name); err != nil && !errors.Is(err, inverter.ErrNoRelease) {
				t.Errorf("accepted, but giving back %s: %v", r.Point.Name, err)
			}
		}
	})
}
