package profile

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
)

// contract is a file of testdata/device: what an inverter holds, and what a
// profile must make of it. It is written by hand from the maker's table. Lines:
//
//	unit N
//	holding|input ADDRESS WORD…
//	value POINT DECIMAL [UNIT] [(NAME)]
//	missing POINT
//	text NAME TEXT
//	write POINT RAW = FUNCTION ADDRESS WORD…, …
//	release POINT = FUNCTION ADDRESS WORD…
//	requires POINT ADDRESS WORD…
//	refuse POINT RAW
type contract struct {
	unit     byte
	words    map[inverter.Table]map[uint16]uint16
	values   map[string]string // by point; "missing"
	texts    map[string]string
	requires map[string]string
	writes   []string // lines
	releases []string
	refused  []string
}

func readContract(t *testing.T, name string) contract {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "device", name+".txt"))
	if err != nil {
		t.Fatalf("the profile has no contract: %v", err)
	}
	c := contract{
		words:  map[inverter.Table]map[uint16]uint16{inverter.Holding: {}, inverter.Input: {}},
		values: map[string]string{}, texts: map[string]string{}, requires: map[string]string{},
	}
	tables := map[string]inverter.Table{"holding": inverter.Holding, "input": inverter.Input}
	for line := range strings.Lines(string(data)) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		first, more, _ := strings.Cut(rest, " ")
		switch kind {
		case "", "#":
		case "unit":
			c.unit = byte(number(t, rest))
		case "holding", "input":
			for i, w := range strings.Fields(more) {
				c.words[tables[kind]][number(t, first)+uint16(i)] = number(t, w)
			}
		case "value":
			c.values[first] = more
		case "missing":
			c.values[first] = "missing"
		case "text":
			c.texts[first] = more
		case "requires":
			c.requires[first] = numbers(t, more)
		case "write":
			c.writes = append(c.writes, rest)
		case "release":
			c.releases = append(c.releases, rest)
		case "refuse":
			c.refused = append(c.refused, rest)
		default:
			t.Fatalf("%s: what is %q?", name, line)
		}
	}
	return c
}

func number(t *testing.T, s string) uint16 {
	t.Helper()
	v, err := strconv.ParseUint(s, 0, 16)
	if err != nil {
		if v, err = strconv.ParseUint(s, 10, 16); err != nil {
			t.Fatal(err)
		}
	}
	return uint16(v)
}

// numbers is s with all its numbers in decimal.
func numbers(t *testing.T, s string) string {
	t.Helper()
	var words []string
	for f := range strings.FieldsSeq(s) {
		words = append(words, strconv.Itoa(int(number(t, f))))
	}
	return strings.Join(words, " ")
}

// device answers as the inverter of a contract does. What the contract does not
// tell holds nonsense.
func (c contract) device(block int) modbus.Handler {
	return func(_ context.Context, r modbus.Request) ([]uint16, error) {
		if r.Unit != c.unit || int(r.Count) > block {
			return nil, modbus.ErrIllegalAddress
		}
		words := make([]uint16, r.Count)
		for i := range words {
			w, ok := c.words[inverter.Table(r.Function)][r.Address+uint16(i)]
			if !ok {
				w = 0xA5A5
			}
			words[i] = w
		}
		return words, nil
	}
}

// TestContracts holds every embedded profile against an inverter that was
// written down independently of it: every point, every text and every write.
func TestContracts(t *testing.T) {
	for _, name := range List() {
		t.Run(name, func(t *testing.T) {
			p, err := Find(name)
			if err != nil {
				t.Fatal(err)
			}
			c := readContract(t, name)
			if p.Unit != c.unit {
				t.Errorf("unit %d, want %d", p.Unit, c.unit)
			}
			device := c.device(p.Block)
			if diff := cmp.Diff(c.values, readValues(t, p, device)); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
			texts := map[string]string{}
			for _, text := range p.Texts {
				texts[text.Name] = text.Decode(read(t, p, device, text.Read()))
			}
			if diff := cmp.Diff(c.texts, texts); diff != "" {
				t.Errorf("texts (-want +got):\n%s", diff)
			}
			c.checkControl(t, p)
		})
	}
}

func read(t *testing.T, p inverter.Profile, do modbus.Handler, r inverter.Read) []uint16 {
	t.Helper()
	words, err := do(t.Context(), modbus.Request{Unit: p.Unit, Function: modbus.Function(r.Table), Address: r.Address, Count: r.Count})
	if err != nil {
		t.Fatalf("reading %v: %v", r, err)
	}
	return words
}

// readValues reads all points of p, as people see them.
func readValues(t *testing.T, p inverter.Profile, do modbus.Handler) map[string]string {
	t.Helper()
	plan, err := p.Plan(p.PointNames())
	if err != nil {
		t.Fatal(err)
	}
	var words [][]uint16
	for _, r := range plan.Reads() {
		words = append(words, read(t, p, do, r))
	}
	values := map[string]string{}
	for i, v := range plan.Decode(words) {
		r := plan.Registers()[i]
		if !v.Valid {
			values[r.Point.Name] = "missing"
			continue
		}
		text := strings.TrimSpace(ecowatt.Decimal(v.Raw, r.Point.Exponent) + " " + r.Point.Unit)
		if name := r.Describe(v.Raw); name != "" {
			text += " (" + name + ")"
		}
		values[r.Point.Name] = text
	}
	return values
}

func (c contract) checkControl(t *testing.T, p inverter.Profile) {
	t.Helper()
	var writable, tried []string
	requires := map[string]string{}
	for _, r := range p.Registers {
		if !r.Point.Writable {
			continue
		}
		writable = append(writable, r.Point.Name)
		if r.Control == nil {
			continue
		}
		for _, s := range r.Control.Requires {
			q := inverter.Register{Type: s.Type, Order: s.Order}
			words, err := q.Encode(s.Value)
			if err != nil {
				t.Fatal(err)
			}
			requires[r.Point.Name] = fmt.Sprint(s.Address, " ", strings.Trim(fmt.Sprint(words), "[]"))
		}
	}
	if diff := cmp.Diff(c.requires, requires); diff != "" {
		t.Errorf("what a write requires (-want +got):\n%s", diff)
	}
	for _, line := range c.writes {
		what, want, _ := strings.Cut(line, " = ")
		point, raw, _ := strings.Cut(what, " ")
		tried = append(tried, point)
		writes, err := p.Writes(point, int64(number(t, raw)))
		c.compare(t, line, want, writes, err)
	}
	for _, line := range c.releases {
		point, want, _ := strings.Cut(line, " = ")
		writes, err := p.Release(point)
		c.compare(t, line, want, writes, err)
	}
	for _, line := range c.refused {
		point, raw, _ := strings.Cut(line, " ")
		if writes, err := p.Writes(point, int64(number(t, raw))); err == nil {
			t.Errorf("refuse %s: %v", line, writes)
		}
	}
	if !slices.Equal(writable, tried) {
		t.Errorf("the profile lets %v be written, the contract %v", writable, tried)
	}
}

func (c contract) compare(t *testing.T, line, want string, writes []inverter.Write, err error) {
	t.Helper()
	var expected, got []string
	for part := range strings.SplitSeq(want, ", ") {
		expected = append(expected, numbers(t, part))
	}
	for _, w := range writes {
		function := 6
		if w.Multiple {
			function = 16
		}
		got = append(got, fmt.Sprint(function, " ", w.Address, " ", strings.Trim(fmt.Sprint(w.Values), "[]")))
	}
	if diff := cmp.Diff(expected, got); err != nil || diff != "" {
		t.Errorf("%s: %v; writes (-want +got):\n%s", line, err, diff)
	}
}

// Whatever comes from others says so, and is told where from.
func TestSharedProfilesSayWhatTheyRestOn(t *testing.T) {
	for _, name := range List() {
		p, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		if ours := name == "ecowatt-sim"; ours == (p.Trust == inverter.Community) || ours != (p.Trust == inverter.Verified) || p.Source == "" {
			t.Errorf("%s: trust %v, source %q", name, p.Trust, p.Source)
		}
	}
}

// A lifetime counter that drops to 0 for a moment is no value: afterwards it would
// count its whole life again.
func TestCountersAreNeverZero(t *testing.T) {
	checked := 0
	for _, name := range List() {
		p, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range p.Registers {
			if p.Trust != inverter.Community || r.Point.Name != "energy_total" && r.Point.Name != "energy_pv_total" {
				continue
			}
			checked++
			words := make([]uint16, r.Type.Words())
			if r.Scale.Given {
				words = append(words, 0)
			}
			if raw, err := r.Decode(words); err == nil {
				t.Errorf("%s: %s is %d", name, r.Point.Name, raw)
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d counters were looked at", checked)
	}
}
