package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"math"
	"time"

	"ecowatt/agent/uplink"
	"ecowatt/internal/disk"
	"ecowatt/wire"
)

// ClockFile is the name of the file in the gateway's folder that keeps what is
// known of the time: an uplink.ClockState as JSON.
const ClockFile = "clock.json"

const (
	maxClockSize = 4 << 10 // bytes
	clockMode    = fs.FileMode(0o600)
	clockChange  = 1000          // ms; a greater change of the offset is kept at once,
	clockPeriod  = 1 * time.Hour // a smaller one so often: flash wears out
)

// clockKeeper keeps the clock on disk, so that an agent that is restarted knows
// the time, and one after a reboot when the samples of the boot before were.
type clockKeeper struct {
	folder disk.FS
	boot   wire.BootID
	logger *slog.Logger

	found  uplink.ClockState // as it was at the start; zero where there was none
	kept   uplink.ClockState // as it is on disk
	keptAt time.Duration     // when it was written
	failed bool              // whether the last write did
}

// openClock reads what is kept. What cannot be read is as good as nothing.
func openClock(folder disk.FS, boot wire.BootID, logger *slog.Logger) *clockKeeper {
	k := &clockKeeper{folder: folder, boot: boot, logger: logger}
	data, err := disk.ReadFile(folder, ClockFile, maxClockSize)
	if errors.Is(err, fs.ErrNotExist) {
		return k
	}
	if err == nil {
		err = json.Unmarshal(data, &k.found)
	}
	if err != nil {
		logger.Warn("the clock that was kept is of no use", "code", "clock_unreadable", "error", err)
		k.found = uplink.ClockState{}
	}
	k.kept = k.found
	return k
}

// restored is the clock of this boot as it was kept.
func (k *clockKeeper) restored(now time.Duration) uplink.Clock {
	return k.restore(k.boot, now)
}

// restore is the clock that was found if it is of boot, else one that knows nothing.
func (k *clockKeeper) restore(boot wire.BootID, now time.Duration) uplink.Clock {
	if k.found == (uplink.ClockState{}) {
		return uplink.Clock{}
	}
	return uplink.RestoreClock(k.found, boot, now)
}

// placer places the times of this boot by clock, and those of the boot of the
// clock that was found by that one.
func (k *clockKeeper) placer(clock uplink.Clock) placer {
	return func(boot wire.BootID, mono int64) int64 {
		c := clock
		if boot != k.boot {
			c = k.restore(boot, math.MaxInt64)
		}
		offset, _, known := c.Offset(0)
		if !known {
			return 0
		}
		return mono + offset.Milliseconds()
	}
}

// keep writes the clock when it is known and worth it.
func (k *clockKeeper) keep(clock uplink.Clock, now time.Duration) {
	state, known := clock.State(k.boot)
	if !known || !k.worth(state, now) {
		return
	}
	data, err := json.Marshal(state)
	if err == nil {
		err = disk.WriteFile(k.folder, ClockFile, append(data, '\n'), clockMode)
	}
	if err != nil {
		if !k.failed {
			k.logger.Warn("the clock cannot be kept", "code", "clock_not_kept", "error", err)
		}
		k.failed = true
		return
	}
	k.kept, k.keptAt, k.failed = state, now, false
}

// worth reports whether state is worth a write.
func (k *clockKeeper) worth(state uplink.ClockState, now time.Duration) bool {
	change := state.Offset - k.kept.Offset
	return state.Boot != k.kept.Boot || max(change, -change) > clockChange || state != k.kept && now-k.keptAt >= clockPeriod
}
