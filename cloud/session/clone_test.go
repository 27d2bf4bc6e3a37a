package session

import (
	"testing"
	"time"

	"ecowatt/wire"
)

// confirmed is what a device does, one line for each session that it confirms.
type confirmed struct {
	after    time.Duration // since the one before
	boot     byte          // 0 where the request did not say
	replaces bool
	want     Suspicion
}

// judge runs confirmations through one watch and checks each verdict.
func judge(t *testing.T, history []confirmed) {
	t.Helper()
	var w Watch
	at := noon
	known := map[byte]bool{}
	for i, c := range history {
		at = at.Add(c.after)
		x := Confirmation{At: at, Known: known[c.boot], Replaces: c.replaces}
		if c.boot != 0 {
			x.Boot = wire.BootID{c.boot}
		}
		known[c.boot] = c.boot != 0
		var got Suspicion
		if w, got = w.Confirm(x); got != c.want {
			t.Errorf("confirmation %d: %q, want %q", i+1, got, c.want)
		}
	}
}

func TestWatch(t *testing.T) {
	const h, m = time.Hour, time.Minute
	for name, history := range map[string][]confirmed{
		"a device, day by day": {
			{0, 1, false, ""}, {24 * h, 1, false, ""}, {24 * h, 1, true, ""}, {24 * h, 1, false, ""},
		},
		"one that is started anew now and then": {
			{0, 1, false, ""}, {h, 2, true, ""}, {h, 3, true, ""}, {h, 4, true, ""}, {h, 5, true, ""}, {h, 6, true, ""},
		},
		"an agent that is restarted three times in an hour": {
			{0, 1, false, ""}, {m, 1, true, ""}, {m, 1, true, ""}, {m, 1, true, ""}, {h, 1, true, ""}, {h, 1, true, ""},
		},
		"two devices": {
			{0, 1, false, ""}, {m, 2, true, ""}, {m, 1, true, BootReturned}, {m, 2, true, BootReturned}, {h, 2, true, ""},
		},
		"two devices that meet rarely": {
			{0, 1, false, ""}, {48 * h, 2, false, ""}, {48 * h, 1, false, BootReturned},
		},
		"three devices": {
			{0, 1, false, ""}, {m, 2, true, ""}, {m, 3, true, ""}, {m, 1, true, BootReturned},
		},
		"two agents on one machine": {
			{0, 1, false, ""}, {m, 1, true, ""}, {m, 1, true, ""}, {m, 1, true, ""}, {m, 1, true, OftenReplaced}, {m, 1, true, OftenReplaced},
		},
		"exactly an hour apart": {
			{0, 1, true, ""}, {20 * m, 1, true, ""}, {20 * m, 1, true, ""}, {20 * m, 1, true, ""}, {20*m - time.Millisecond, 1, true, OftenReplaced},
		},
		"a pause between does not hide it": {
			{0, 1, true, ""}, {50 * m, 1, true, ""}, {time.Second, 1, true, ""}, {time.Second, 1, true, OftenReplaced},
		},
		"requests that do not say their boot": {
			{0, 1, false, ""}, {m, 0, true, ""}, {m, 1, true, ""}, {m, 0, true, ""}, {m, 0, true, OftenReplaced},
		},
		"our clock is put back": {
			{0, 1, true, ""}, {m, 1, true, ""}, {m, 1, true, ""}, {-24 * h, 1, true, ""}, {m, 1, true, ""}, {m, 1, true, ""}, {m, 1, true, OftenReplaced},
		},
	} {
		t.Run(name, func(t *testing.T) { judge(t, history) })
	}
}

func TestTold(t *testing.T) {
	var told Told
	at := noon
	for i, x := range []struct {
		after      time.Duration
		events     int64
		tell, rest int64
	}{
		{0, 0, 0, 0}, // nothing happened
		{0, 60, 60, 0},
		{time.Minute, 40, 0, 40},
		{58 * time.Minute, 1, 0, 41},
		{time.Minute, 0, 41, 0}, // what is left, when it may be told
		{2 * time.Hour, 0, 0, 0},
		{0, 3, 3, 0},
		{-time.Minute, 5, 5, 0}, // our clock was put back
		{time.Hour - 1, 1, 0, 1},
		{1, 1, 2, 0},
	} {
		at = at.Add(x.after)
		var tell int64
		if told, tell = told.Add(x.events, at); tell != x.tell || told.Rest != x.rest {
			t.Errorf("step %d: tells %d and keeps %d, want %d and %d", i, tell, told.Rest, x.tell, x.rest)
		}
	}
}
