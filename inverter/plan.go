package inverter

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"ecowatt"
)

// Plan says which reads bring the values of a list of points, and where in
// them each stands. It is never changed once it is made.
type Plan struct {
	registers []Register // one per point, in the order of the points
	reads     []Read
	places    []place // one per register
}

// place is where the words of a register begin, those of its scale factor included.
type place struct{ read, offset int }

// Plan plans to read points, given by their names, in the fewest reads that
// the profile's block and gap limits allow. The values come in the order of
// points.
func (p Profile) Plan(points []string) (Plan, error) {
	if p.Block < 1 || p.Block > MaxBlock || p.Gap < 0 || p.Gap > MaxGap {
		return Plan{}, fmt.Errorf("profile %s: block limit %d or gap limit %d is out of bounds", p.Name, p.Block, p.Gap)
	}
	if len(points) == 0 {
		return Plan{}, errors.New("no points to read")
	}
	plan := Plan{registers: make([]Register, len(points)), places: make([]place, len(points))}
	for i, name := range points {
		r, ok := p.Register(name)
		switch {
		case !ok:
			return Plan{}, p.unknownPoint(name)
		case slices.Contains(points[:i], name):
			return Plan{}, fmt.Errorf("point %q stands twice", name)
		case r.Type.Words() == 0 || r.Span() > p.Block || r.end() > 1<<16:
			return Plan{}, fmt.Errorf("point %q: %d words at %d do not fit", name, r.Span(), r.begin())
		}
		plan.registers[i] = r
	}
	for _, i := range plan.byAddress() {
		plan.add(i, p.Block, p.Gap)
	}
	return plan, nil
}

// byAddress is the order in which the registers stand in the inverter.
func (p Plan) byAddress() []int {
	order := make([]int, len(p.registers))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		x, y := p.registers[a], p.registers[b]
		return cmp.Or(cmp.Compare(x.Table, y.Table), cmp.Compare(x.begin(), y.begin()), cmp.Compare(x.end(), y.end()))
	})
	return order
}

// add places register i, which stands at or after those placed so far, into
// the last read if it may grow that far, else into a new one. To fill each
// read before the next one begins gives the fewest: any other division starts
// its n-th read no later.
func (p *Plan) add(i, block, gap int) {
	r := p.registers[i]
	if n := len(p.reads); n > 0 {
		last := &p.reads[n-1]
		begin, end := int(last.Address), int(last.Address)+int(last.Count)
		grown := max(end, r.end())
		if last.Table == r.Table && r.begin()-end <= gap && grown-begin <= block {
			last.Count = uint16(grown - begin)
			p.places[i] = place{n - 1, r.begin() - begin}
			return
		}
	}
	p.reads = append(p.reads, Read{Table: r.Table, Address: uint16(r.begin()), Count: uint16(r.Span())})
	p.places[i] = place{len(p.reads) - 1, 0}
}

// Reads returns the reads to do, in ascending order of their addresses. The
// caller must not change them.
func (p Plan) Reads() []Read { return p.reads }

// Registers returns what is read, in the order of the values. The caller must
// not change it.
func (p Plan) Registers() []Register { return p.registers }

// Split returns a plan that does the same in one read more: read i is divided
// in the middle of its points. It is for inverters that refuse a whole block
// for one register in it. It reports false for a read of a single point.
func (p Plan) Split(i int) (Plan, bool) {
	var inside []int
	for _, k := range p.byAddress() {
		if p.places[k].read == i {
			inside = append(inside, k)
		}
	}
	if len(inside) < 2 {
		return p, false
	}
	low, high := inside[:len(inside)/2], inside[len(inside)/2:]
	split := Plan{
		registers: p.registers,
		reads:     slices.Replace(slices.Clone(p.reads), i, i+1, p.cover(low), p.cover(high)),
		places:    slices.Clone(p.places),
	}
	for k, at := range p.places {
		if at.read > i {
			split.places[k].read++
		}
	}
	shift := int(split.reads[i+1].Address) - int(p.reads[i].Address)
	for _, k := range high {
		split.places[k] = place{i + 1, p.places[k].offset - shift}
	}
	return split, true
}

// cover is the read that brings the registers ks, which are sorted by address.
func (p Plan) cover(ks []int) Read {
	first, end := p.registers[ks[0]], 0
	for _, k := range ks {
		end = max(end, p.registers[k].end())
	}
	return Read{Table: first.Table, Address: uint16(first.begin()), Count: uint16(end - first.begin())}
}

// Decode turns what the reads brought, words[i] for Reads()[i] and nil for a
// read that failed, into one value per point. What was not read, what the
// inverter marks as absent and what a point cannot be is missing.
func (p Plan) Decode(words [][]uint16) []ecowatt.Value {
	values := make([]ecowatt.Value, len(p.registers))
	for i, r := range p.registers {
		if raw, err := r.Decode(p.Words(i, words)); err == nil {
			values[i] = ecowatt.Known(raw)
		}
	}
	return values
}

// Words returns the words of the i-th point, as its register decodes them, out
// of what the reads brought; nil if they are not there.
func (p Plan) Words(i int, words [][]uint16) []uint16 {
	at, r := p.places[i], p.registers[i]
	if at.read >= len(words) || len(words[at.read]) < at.offset+r.Span() {
		return nil
	}
	first := at.offset + int(r.Address) - r.begin()
	own := words[at.read][first : first+r.Type.Words()]
	if !r.Scale.Given {
		return own
	}
	return append(slices.Clone(own), words[at.read][at.offset+int(r.Scale.Address)-r.begin()])
}

// ReadOf returns the index of the read that brings the i-th point.
func (p Plan) ReadOf(i int) int { return p.places[i].read }
