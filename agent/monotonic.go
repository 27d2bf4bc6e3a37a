package agent

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ecowatt/wire"
)

// bootFile holds the kernel's name for this boot: a random UUID, proc(5).
const bootFile = "/proc/sys/kernel/random/boot_id"

// bootID is the kernel's random name for this boot. Restarts of the agent
// within one boot share it, and with it the monotonic clock, so that a time
// learned before a restart still holds after it.
func bootID() (wire.BootID, error) {
	text, err := os.ReadFile(bootFile)
	if err != nil {
		return wire.BootID{}, fmt.Errorf("reading the boot id: %w", err)
	}
	return parseBootID(string(text))
}

func parseBootID(text string) (id wire.BootID, err error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(text), "-", ""))
	if err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("%s: %.60q is not a UUID", bootFile, text)
	}
	return wire.BootID(raw), nil
}

// monotonic is the time since boot, suspended time included (CLOCK_BOOTTIME,
// clock_gettime(2)).
func monotonic() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("the kernel has no CLOCK_BOOTTIME: " + err.Error()) // since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}

// sleepOr waits for d, or for what is in c, which goes first and is returned with
// got; ok is false when ctx ends before that, or has ended already.
func sleepOr[T any](ctx context.Context, d time.Duration, c <-chan T) (v T, got, ok bool) {
	select {
	case v = <-c:
		return v, true, ctx.Err() == nil
	default:
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return v, false, false
	case v = <-c:
		return v, true, ctx.Err() == nil
	case <-t.C:
		return v, false, ctx.Err() == nil
	}
}

// sleep waits for d; false when ctx ends before that, or has ended already.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return ctx.Err() == nil
	}
}
