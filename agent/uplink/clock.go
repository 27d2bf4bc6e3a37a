package uplink

import (
	"time"

	"ecowatt/wire"
)

const (
	// maxStep is the most that one answer alone may move a clock that was set
	// before.
	maxStep = 120 * time.Second
	// drift bounds how fast the monotonic clock runs away from true time.
	drift = 100e-6
	// agreement is how far two answers may differ, beyond what they admit
	// themselves, and still confirm each other.
	agreement = 2 * time.Second
	// latest is the last time that is believed, in ms since 1970: in the year 2109.
	latest = 1 << 42
	// resolution is what the rounding of times to ms may add.
	resolution = time.Millisecond
)

// ClockState is what is known of the time within one boot of the device. It may
// be kept on disk: the offset holds for as long as the monotonic clock runs.
type ClockState struct {
	Boot        wire.BootID `json:"boot"`
	Offset      int64       `json:"offset_ms"`      // since 1970 minus since boot
	Uncertainty int64       `json:"uncertainty_ms"` // of Offset, either way, when it was learned
	At          int64       `json:"at_ms"`          // when it was learned, since boot
}

// Clock knows the time from authenticated answers only, as an offset to the
// monotonic clock. It is a value; the zero Clock knows nothing.
type Clock struct {
	known       bool
	offset      time.Duration // since 1970 minus since boot
	uncertainty time.Duration
	at          time.Duration // since boot, when offset was learned

	doubt      time.Duration // an offset that is more than maxStep away,
	doubtWidth time.Duration // how uncertain it is,
	doubted    bool          // and whether there is one
}

// RestoreClock returns the clock that was kept, for an agent that was restarted
// within the same boot. A state of another boot, or one learned in the future,
// is worth nothing.
func RestoreClock(s ClockState, boot wire.BootID, now time.Duration) Clock {
	if s.Boot != boot || !sane(s.Offset) || !sane(s.Uncertainty) || !sane(s.At) {
		return Clock{}
	}
	at := time.Duration(s.At) * time.Millisecond
	if at > now {
		return Clock{}
	}
	return Clock{
		known:       true,
		offset:      time.Duration(s.Offset) * time.Millisecond,
		uncertainty: time.Duration(s.Uncertainty) * time.Millisecond,
		at:          at,
	}
}

// sane reports whether a number of ms is not negative and, added to another
// one, still fits a time.Duration.
func sane(ms int64) bool { return ms >= 0 && ms <= latest }

// State returns what is worth keeping, and false while the time is not known.
func (c Clock) State(boot wire.BootID) (ClockState, bool) {
	return ClockState{
		Boot:        boot,
		Offset:      c.offset.Milliseconds(),
		Uncertainty: (c.uncertainty + resolution).Milliseconds(),
		At:          c.at.Milliseconds(),
	}, c.known
}

// Known reports whether the time is known.
func (c Clock) Known() bool { return c.known }

// Offset returns what is to be added to a time since boot to get the time since
// 1970, and by how much that may be wrong at now; false while it is not known.
func (c Clock) Offset(now time.Duration) (offset, uncertainty time.Duration, known bool) {
	return c.offset, c.width(now), c.known
}

// Wall returns the time at now, a time since boot; nil while it is not known.
func (c Clock) Wall(now time.Duration) *wire.Wall {
	at := now + c.offset
	if !c.known || at < 0 {
		return nil
	}
	return &wire.Wall{At: at.Milliseconds(), Uncertainty: (c.width(now) + resolution).Milliseconds()}
}

// width is the uncertainty at now: what it was, and the drift since.
func (c Clock) width(now time.Duration) time.Duration {
	return c.uncertainty + time.Duration(drift*float64(max(now-c.at, 0)))
}

// Sync says what an answer did to a clock.
type Sync int

// What an answer may do to a clock.
const (
	SyncFirst    Sync = iota // the time was not known before
	SyncKept                 // the answer fits and is no more certain than what was known
	SyncAdjusted             // the offset is the answer's now
	SyncDoubted              // the answer is far off; a second one has to say the same
	SyncStepped              // the second one said the same
)

// Observe takes the cloud's time (ms since 1970) out of an authenticated answer
// to what was sent and received at these times since boot. The cloud wrote it
// somewhere in between, so it is wrong by at most half the round trip.
func (c Clock) Observe(server int64, sent, received time.Duration) (Clock, Sync) {
	if !sane(server) {
		return c, SyncDoubted
	}
	half := (received - sent) / 2
	offset := time.Duration(server)*time.Millisecond - (sent + half)
	width := half + resolution
	if !c.known {
		return Clock{known: true, offset: offset, uncertainty: width, at: received}, SyncFirst
	}
	set := Clock{known: true, offset: offset, uncertainty: width, at: received}
	switch off := (offset - c.offset).Abs(); {
	case off > maxStep && c.doubted && (offset-c.doubt).Abs() <= width+c.doubtWidth+agreement:
		return set, SyncStepped
	case off > maxStep:
		c.doubt, c.doubtWidth, c.doubted = offset, width, true
		return c, SyncDoubted
	case off <= c.width(received)+width && width >= c.width(received):
		c.doubted = false
		return c, SyncKept
	default:
		return set, SyncAdjusted
	}
}
