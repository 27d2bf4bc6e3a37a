package acquire

import (
	"slices"
	"time"

	"ecowatt"
	"ecowatt/inverter"
)

// SlowPeriod is how often slow points are read, and how often those are tried
// again that are read once and could not be.
const SlowPeriod = time.Minute

const slowPeriod = int64(SlowPeriod / time.Millisecond)

// group is the points of one class.
type group struct {
	class   inverter.Class
	points  []string
	plan    inverter.Plan
	refused []int   // for each read of the plan: exceptions 02 in a row
	watches []watch // one per point
	read    bool    // since the inverter was away; a refusal counts
	last    int64   // the tick of that
}

// newGroups makes a group of each class that in has points of; fast ones first.
func newGroups(in Inverter) ([]*group, error) {
	var groups []*group
	for _, class := range inverter.Classes() {
		g := &group{class: class}
		for _, name := range in.Points {
			if r, ok := in.Profile.Register(name); ok && r.Class == class {
				g.points = append(g.points, name)
			}
		}
		if len(g.points) == 0 {
			continue
		}
		var err error
		if g.plan, err = in.Profile.Plan(g.points); err != nil {
			return nil, err
		}
		g.refused = make([]int, len(g.plan.Reads()))
		g.watches = make([]watch, len(g.points))
		groups = append(groups, g)
	}
	return groups, nil
}

// like reports whether two groups are of the same points.
func (g *group) like(other *group) bool {
	return g.class == other.class && slices.Equal(g.points, other.points)
}

// due reports whether the group is read in a tick of an interval in ms.
func (g *group) due(tick, interval int64) bool {
	switch g.class {
	case inverter.Slow:
		return !g.read || tick-g.last >= max(1, slowPeriod/interval)
	case inverter.Once:
		return !g.read
	case inverter.Fast:
	}
	return true
}

// note notes what a round brought: the group is read when every read of it was
// answered, if only by a refusal.
func (g *group) note(tick int64, words [][]uint16, errs []error) {
	for i, err := range errs {
		if words[i] == nil && (err == nil || !answered(err)) {
			return
		}
	}
	g.read, g.last = true, tick
}

// asleep reports whether values tell that the inverter sleeps; told is whether
// they tell anything of that.
func (g *group) asleep(s inverter.Sleeping, values []ecowatt.Value) (asleep, told bool) {
	i := slices.Index(g.points, s.Point)
	if i < 0 || !values[i].Valid {
		return false, false
	}
	return slices.Contains(s.Values, values[i].Raw), true
}

// judge makes values missing that are not to be believed, and returns how many
// are known then.
func (g *group) judge(values []ecowatt.Value, asleep bool) (known int) {
	for i, r := range g.plan.Registers() {
		if asleep && r.Asleep {
			values[i] = ecowatt.Value{}
		}
		values[i] = g.watches[i].judge(values[i], r.Step)
		if values[i].Valid {
			known++
		}
	}
	return known
}

// watch looks out for values that jump further than a point can. Such a value is
// missing from one sample; when the next one is like it, it was true.
//
//	value                     accepted   kept for the next one
//	near the last accepted    yes        it, as accepted
//	near the doubtful one     yes        it, as accepted
//	none accepted yet         yes        it, as accepted
//	any other                 no         it, as doubtful
//	missing                   -          what there was
type watch struct{ accepted, doubtful ecowatt.Value }

// judge returns v, or a missing value if it is doubtful. A step of 0 is any.
func (w *watch) judge(v ecowatt.Value, step int64) ecowatt.Value {
	switch {
	case step == 0 || !v.Valid:
		return v
	case !w.accepted.Valid || near(v, w.accepted, step) || near(v, w.doubtful, step):
		w.accepted, w.doubtful = v, ecowatt.Value{}
		return v
	}
	w.doubtful = v
	return ecowatt.Value{}
}

// near reports whether a and b are known and not more than step apart.
func near(a, b ecowatt.Value, step int64) bool {
	return a.Valid && b.Valid && uint64(max(a.Raw, b.Raw))-uint64(min(a.Raw, b.Raw)) <= uint64(step)
}
