package command

import (
	"cmp"
	"slices"
	"time"
)

// lease is a power limit that is kept for a while. Its end is on the monotonic
// clock of a boot; what is needed to find it in a later one stands beside it.
type lease struct {
	ID    ID    `json:"id"`
	Raw   int64 `json:"raw"` // the limit
	OnEnd OnEnd `json:"on_end"`

	Boot    ID            `json:"boot"`     // that End counts from
	End     time.Duration `json:"end"`      // since then
	Left    time.Duration `json:"left"`     // until then, when the journal was last written
	Wall    time.Duration `json:"wall_end"` // since 1970; 0 where the time was not known
	Carried bool          `json:"carried"`  // into Boot from one before, without knowing the time since,
	Most    time.Duration `json:"most"`     // then: the end, if no time had passed between the two
}

// newLease begins at now.
func newLease(o order, now Moment) lease {
	l := lease{ID: o.ID, Raw: o.raw, OnEnd: o.onEnd, Boot: now.Boot, End: now.Mono + o.lease, Left: o.lease}
	if now.Known {
		l.Wall = now.Wall + o.lease
	}
	return l
}

// at is the lease in the terms of now. In the boot that it began in only the
// monotonic clock counts, so no step of the time moves its end. Into a later one
// it is carried with what was left when the journal was last written, less the
// longest time that may have passed since until the gateway went off. How long it
// was off counts as soon as the time is known, and as nothing until then.
func (l lease) at(now Moment) lease {
	if l.Boot != now.Boot {
		l.Boot, l.Carried = now.Boot, true
		l.Most = now.Mono + l.Left
		l.End = l.Most - saveEvery(l.Left)
	}
	if l.Carried && now.Known && l.Wall != 0 {
		l.End, l.Carried = min(l.Most, now.Mono+l.Wall-now.Wall), false
	}
	l.Left = l.End - now.Mono
	return l
}

// saveEvery is how often the journal is written while so much of a lease is left:
// so that boots which end too soon to learn the time make it shorter all the same.
func saveEvery(left time.Duration) time.Duration {
	return min(max(left/16, time.Minute), 15*time.Minute)
}

// limit is a point that leases are on.
type limit struct {
	Inverter string     `json:"inverter"`
	Point    string     `json:"point"`
	Found    standing   `json:"found"`         // before the first of them
	Set      standing   `json:"set"`           // what is in force
	Ending   OnEnd      `json:"ending"`        // what the last one asked for, when none is left
	May      []standing `json:"may,omitempty"` // what may stand there as well, while a change is under way
	Unsure   bool       `json:"unsure"`        // nobody knows whether Set was ever written
	Leases   []lease    `json:"leases"`
}

// changing is the limit while what stands there is being changed to what is wanted.
func (l limit) changing(want ...standing) limit {
	l.May = slices.Clone(l.May)
	for _, s := range want {
		if !slices.Contains(l.May, s) {
			l.May = append(l.May, s)
		}
	}
	return l
}

// strictest is the lease that is in force; there must be one.
func (l limit) strictest() lease {
	return slices.MinFunc(l.Leases, func(a, b lease) int { return cmp.Compare(a.Raw, b.Raw) })
}

// without is the limit without the lease of a command.
func (l limit) without(id ID) limit {
	l.Leases = slices.DeleteFunc(slices.Clone(l.Leases), func(x lease) bool { return x.ID == id })
	return l
}

// next is when the first of the leases ends.
func (l limit) next() time.Duration {
	return slices.MinFunc(l.Leases, func(a, b lease) int { return cmp.Compare(a.End, b.End) }).End
}
