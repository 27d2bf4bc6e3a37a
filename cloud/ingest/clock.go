package ingest

import "time"

// BootID names one start of a device; times since boot are relative to it.
type BootID [16]byte

// Instant is a time since boot.
type Instant struct {
	Boot BootID
	Mono int64 // ms since that boot, on the monotonic clock
}

// Clock says where one boot of a device lies in time.
type Clock struct {
	Boot        BootID
	Offset      int64 // ms: since 1970 minus since boot
	Uncertainty int64 // ms by which Offset may be wrong, either way
}

const (
	// exchangeTime is the longest an exchange may take (PROTOCOL section 8, rule 1):
	// how late a request can be when it arrives.
	exchangeTime = 30 * time.Second
	// clockTolerance is how far a device's clock may be from ours beyond what it
	// admits, before we go by the time its request came.
	clockTolerance = 2 * time.Minute
	// maxUncertainty bounds what a device may admit.
	maxUncertainty = 24 * time.Hour
)

// Wall is what a device believes of the time: PROTOCOL section 4, key 2.
type Wall struct {
	At          int64 // ms since 1970
	Uncertainty int64 // ms
}

// ClockOf places the boot of a request that was taken at and arrived at now.
// It goes by the device's own clock (wall, nil where the device has none),
// and by the time of arrival where that clock cannot be right.
func ClockOf(at Instant, wall *Wall, now time.Time) Clock {
	arrived := Clock{Boot: at.Boot, Offset: now.UnixMilli() - at.Mono, Uncertainty: exchangeTime.Milliseconds()}
	if wall == nil || wall.At < earliest || wall.Uncertainty < 0 || wall.Uncertainty > maxUncertainty.Milliseconds() {
		return arrived
	}
	off := wall.At - now.UnixMilli()
	if max(off, -off) > wall.Uncertainty+clockTolerance.Milliseconds() {
		return arrived
	}
	return Clock{Boot: at.Boot, Offset: wall.At - at.Mono, Uncertainty: wall.Uncertainty}
}

// Better reports whether c is worth storing where old is known: it is another
// boot, or the same one known more exactly.
func (c Clock) Better(old Clock) bool {
	return c.Boot != old.Boot || c.Uncertainty < old.Uncertainty
}

// Place gives b its place in time when it has none and c is the clock of its
// boot. A place outside the times that can be true (see Check) is not given.
func (c Clock) Place(b *Block, now time.Time) bool {
	if b.Boot == nil || b.Boot.Boot != c.Boot {
		return b.Placed
	}
	t0 := b.Boot.Mono + c.Offset
	if !sane(t0, b.Span, now) {
		return false
	}
	b.T0, b.Placed = t0, true
	return true
}
