package inverter

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
)

// gated is a profile whose point limit is written at 7, behind a gate at 6.
func gated(change func(*Control)) Profile {
	c := Control{Address: 7, Gate: Gate{Given: true, Place: Place{Address: 6}, On: 0xaa, Off: ecowatt.Known(0x55)}}
	if change != nil {
		change(&c)
	}
	return Profile{Name: "p", Block: 125, Registers: []Register{
		{Point: ecowatt.Point{Name: "limit", Exponent: -1, Unit: "%", Writable: true, Max: 1000}, Table: Input, Address: 5, Control: &c},
		{Point: ecowatt.Point{Name: "pac"}, Table: Input, Address: 4},
	}}
}

func TestWrites(t *testing.T) {
	value, on, off := Write{7, []uint16{300}, false}, Write{6, []uint16{0xaa}, false}, Write{6, []uint16{0x55}, false}
	for _, c := range []struct {
		name    string
		change  func(*Control)
		want    []Write
		release []Write
	}{
		{"gate after", nil, []Write{value, on}, []Write{off}},
		{"gate before", func(c *Control) { c.Gate.Sequence = Before }, []Write{on, value}, []Write{off}},
		{"gate around", func(c *Control) { c.Gate.Sequence = Around }, []Write{off, value, on}, []Write{off}},
		{"gate that stays", func(c *Control) { c.Gate.Off, c.Release = ecowatt.Value{}, ecowatt.Known(1000) }, []Write{value, on}, []Write{{7, []uint16{1000}, false}}},
		{"no gate", func(c *Control) { c.Gate, c.Release = Gate{}, ecowatt.Known(0) }, []Write{value}, []Write{{7, []uint16{0}, false}}},
		{"wide gate", func(c *Control) { c.Gate.Place = Place{6, U32, LowFirst} }, []Write{value, {6, []uint16{0xaa, 0}, true}}, []Write{{6, []uint16{0x55, 0}, true}}},
	} {
		p := gated(c.change)
		if err := p.Registers[0].Check(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		got, err := p.Writes("limit", 300)
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v; writes (-want +got):\n%s", c.name, err, diff)
		}
		got, err = p.Release("limit")
		if diff := cmp.Diff(c.release, got); err != nil || diff != "" {
			t.Errorf("%s: %v; release (-want +got):\n%s", c.name, err, diff)
		}
		p.WriteMultiple = true
		if got, _ = p.Writes("limit", 300); !got[0].Multiple {
			t.Errorf("%s: by function 06", c.name)
		}
	}
}

// The register a point is read from is never the one it is written to, unless
// the profile says so.
func TestWritesGoWhereTheProfileSays(t *testing.T) {
	p := gated(func(c *Control) { c.Gate = Gate{} })
	got, err := p.Writes("limit", 1)
	if err != nil || len(got) != 1 || got[0].Address != 7 {
		t.Errorf("%v, %v; want one write to 7, not to 5", got, err)
	}
	for _, c := range []struct {
		point string
		raw   int64
		want  string
	}{{"pac", 1, "pac is not writable"}, {"nothing", 1, "no point"}, {"limit", 1001, "is not within 0.0 and 100.0 %"}, {"limit", -1, "is not within"}} {
		if got, err := p.Writes(c.point, c.raw); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Writes(%s, %d): %v, %v; want an error with %q", c.point, c.raw, got, err, c.want)
		}
	}
	if _, err := p.Release("limit"); !errors.Is(err, ErrNoRelease) {
		t.Errorf("release: %v", err)
	}
	if _, err := p.Release("pac"); err == nil || errors.Is(err, ErrNoRelease) {
		t.Errorf("release of what is only read: %v", err)
	}
}

func TestControlCheck(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*Control)
	}{
		{"write: release: 70000", func(c *Control) { c.Release = ecowatt.Known(70000) }},
		{"write: the gate is the same", func(c *Control) { c.Gate.On = 0x55 }},
		{"write: a gate around", func(c *Control) { c.Gate.Off, c.Gate.Sequence = ecowatt.Value{}, Around }},
		{"write: there is no sequence 3", func(c *Control) { c.Gate.Sequence = 3 }},
		{"write: register 6: 70000", func(c *Control) { c.Gate.On = 70000 }},
		{"write: register 65535: it ends", func(c *Control) { c.Gate.Place = Place{65535, U32, HighFirst} }},
		{"write: register 9 cannot be an f32", func(c *Control) { c.Requires = []Setting{{Place{9, F32, HighFirst}, 1}} }},
		{"write: register 9: -1", func(c *Control) { c.Requires = []Setting{{Place{9, U16, HighFirst}, -1}} }},
		{"write: register 65535", func(c *Control) { c.Fallback = Fallback{Given: true, Timer: Place{65535, U32, HighFirst}} }},
		{"write: register 65535", func(c *Control) { c.Fallback = Fallback{HasValue: true, Value: Place{65535, U32, HighFirst}} }},
	} {
		if err := gated(c.change).Registers[0].Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Check: %v; want an error with %q", err, c.want)
		}
	}
}
