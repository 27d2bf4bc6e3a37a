package inverter

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt"
)

func register(name string, table Table, address uint16, typ Type) Register {
	return Register{Point: ecowatt.Point{Name: name}, Table: table, Address: address, Type: typ}
}

func TestPlan(t *testing.T) {
	p := Profile{Name: "p", Block: 10, Gap: 2, Registers: []Register{
		register("a", Holding, 0, U16),
		register("b", Holding, 1, U32),
		register("c", Holding, 5, U16),  // a gap of 2
		register("d", Holding, 9, U16),  // a gap of 3
		register("e", Holding, 10, U64), // up to 13
		register("f", Holding, 16, U16),
		register("g", Holding, 18, U32), // up to 19, the eleventh from 9
		register("i", Input, 18, U16),
	}}
	for _, c := range []struct {
		points string
		want   []Read
	}{
		{"a", []Read{{Holding, 0, 1}}},
		{"a b c", []Read{{Holding, 0, 6}}},
		{"c b a", []Read{{Holding, 0, 6}}},
		{"a c", []Read{{Holding, 0, 1}, {Holding, 5, 1}}},
		{"a b c d", []Read{{Holding, 0, 6}, {Holding, 9, 1}}},
		{"d e f", []Read{{Holding, 9, 8}}},
		{"d e f g", []Read{{Holding, 9, 8}, {Holding, 18, 2}}},
		{"e f g", []Read{{Holding, 10, 10}}},
		{"i g", []Read{{Holding, 18, 2}, {Input, 18, 1}}},
	} {
		plan, err := p.Plan(strings.Fields(c.points))
		if diff := cmp.Diff(c.want, plan.Reads()); err != nil || diff != "" {
			t.Errorf("%s: %v; reads (-want +got):\n%s", c.points, err, diff)
		}
	}
}

func TestPlanRefuses(t *testing.T) {
	good := Profile{Name: "p", Block: 125, Registers: []Register{register("a", Holding, 0, U16), register("b", Holding, 1, U32)}}
	for _, c := range []struct {
		want, points string
		change       func(*Profile)
	}{
		{`"x" is no point of profile p, which has a, b`, "a x", nil},
		{`"a" stands twice`, "a b a", nil},
		{"no points", "", nil},
		{"block limit 0", "a", func(p *Profile) { p.Block = 0 }},
		{"block limit 126", "a", func(p *Profile) { p.Block = 126 }},
		{"gap limit -1", "a", func(p *Profile) { p.Gap = -1 }},
		{"2 words at 1", "b", func(p *Profile) { p.Block = 1 }},
	} {
		p := good
		if c.change != nil {
			c.change(&p)
		}
		if _, err := p.Plan(strings.Fields(c.points)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Plan(%s): %v; want an error with %q", c.points, err, c.want)
		}
	}
}

func TestPlanDecode(t *testing.T) {
	p := Profile{Name: "p", Block: 125, Gap: 5, Registers: []Register{
		register("a", Holding, 0, S16),
		{Point: ecowatt.Point{Name: "b"}, Table: Holding, Address: 2, Type: U16, Absent: []uint64{0xffff}},
		register("c", Input, 0, U32),
	}}
	plan, err := p.Plan([]string{"c", "b", "a"})
	if err != nil {
		t.Fatal(err)
	}
	missing := ecowatt.Value{}
	for _, c := range []struct {
		name  string
		words [][]uint16
		want  []ecowatt.Value
	}{
		{"all", [][]uint16{{0xffff, 9, 7}, {1, 0}}, []ecowatt.Value{ecowatt.Known(65536), ecowatt.Known(7), ecowatt.Known(-1)}},
		{"absent", [][]uint16{{0, 9, 0xffff}, {0, 0}}, []ecowatt.Value{ecowatt.Known(0), missing, ecowatt.Known(0)}},
		{"first read failed", [][]uint16{nil, {0, 3}}, []ecowatt.Value{ecowatt.Known(3), missing, missing}},
		{"second read failed", [][]uint16{{1, 9, 2}, nil}, []ecowatt.Value{missing, ecowatt.Known(2), ecowatt.Known(1)}},
		{"short", [][]uint16{{1, 9}, {0}}, []ecowatt.Value{missing, missing, ecowatt.Known(1)}},
		{"none", nil, []ecowatt.Value{missing, missing, missing}},
	} {
		if diff := cmp.Diff(c.want, plan.Decode(c.words)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// fewest finds the least number of reads for the registers by trying every
// way to cut the sorted list.
func fewest(registers []Register, block, gap int) int {
	best := make([]int, len(registers)+1)
	for end := 1; end <= len(registers); end++ {
		best[end] = end
		for begin := range end {
			fits := registers[end-1].end()-int(registers[begin].Address) <= block
			for k := begin + 1; k < end && fits; k++ {
				fits = registers[k].Table == registers[begin].Table && int(registers[k].Address)-registers[k-1].end() <= gap
			}
			if fits {
				best[end] = min(best[end], best[begin]+1)
			}
		}
	}
	return best[len(registers)]
}

// words invents what an inverter holds: each word tells its table and address.
func words(r Read) []uint16 {
	w := make([]uint16, r.Count)
	for i := range w {
		w[i] = uint16(r.Table)<<12 | (r.Address + uint16(i))
	}
	return w
}

func drawProfile(t *rapid.T) Profile {
	p := Profile{Name: "p", Block: rapid.IntRange(4, 20).Draw(t, "block"), Gap: rapid.IntRange(0, 6).Draw(t, "gap")}
	for _, table := range []Table{Holding, Input} {
		at := 0
		for range rapid.IntRange(1, 12).Draw(t, "registers") {
			at += rapid.IntRange(0, 8).Draw(t, "gap before")
			r := register(fmt.Sprint("p", len(p.Registers)), table, uint16(at), rapid.SampledFrom(Types()).Draw(t, "type"))
			at = r.end()
			p.Registers = append(p.Registers, r)
		}
	}
	return p
}

func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawProfile(t)
		points := rapid.Permutation(p.PointNames()).Draw(t, "points")
		points = points[:rapid.IntRange(1, len(points)).Draw(t, "how many")]
		plan, err := p.Plan(points)
		if err != nil {
			t.Fatal(err)
		}
		var sorted []Register
		for _, r := range p.Registers {
			if slices.Contains(points, r.Point.Name) {
				sorted = append(sorted, r)
			}
		}
		if want := fewest(sorted, p.Block, p.Gap); len(plan.Reads()) != want {
			t.Fatalf("%d reads %v, %d would do", len(plan.Reads()), plan.Reads(), want)
		}
		checkValues(t, plan, points)
		for i := 0; i < len(plan.Reads()); i++ { // split as far as it goes
			if split, ok := plan.Split(i); ok {
				if len(split.Reads()) != len(plan.Reads())+1 {
					t.Fatalf("%v split at %d is %v", plan.Reads(), i, split.Reads())
				}
				checkValues(t, split, points)
				plan, i = split, i-1
			}
		}
		if len(plan.Reads()) != len(points) {
			t.Fatalf("split as far as it goes: %d reads of %d points", len(plan.Reads()), len(points))
		}
	})
}

// checkValues checks that every read is within the limits, and that each point
// gets the words at its own address.
func checkValues(t *rapid.T, plan Plan, points []string) {
	var brought [][]uint16
	for _, r := range plan.Reads() {
		brought = append(brought, words(r))
	}
	for i, r := range plan.Registers() {
		if r.Point.Name != points[i] {
			t.Fatalf("point %d is %s, want %s", i, r.Point.Name, points[i])
		}
		want := words(Read{r.Table, r.Address, uint16(r.Type.Words())})
		if got := plan.Words(i, brought); !slices.Equal(got, want) {
			t.Fatalf("%s: words %04x, want %04x", points[i], got, want)
		}
		alone := make([][]uint16, len(brought))
		alone[plan.ReadOf(i)] = brought[plan.ReadOf(i)]
		if plan.Words(i, alone) == nil {
			t.Fatalf("%s: not in read %d", points[i], plan.ReadOf(i))
		}
	}
}

func BenchmarkPlanDecode(b *testing.B) {
	p := Profile{Name: "p", Block: MaxBlock}
	for i := range 10 {
		p.Registers = append(p.Registers, register(fmt.Sprint("p", i), Holding, uint16(i), U16))
	}
	plan, err := p.Plan(p.PointNames())
	if err != nil {
		b.Fatal(err)
	}
	brought := [][]uint16{words(plan.Reads()[0])}
	for b.Loop() {
		plan.Decode(brought)
	}
}
