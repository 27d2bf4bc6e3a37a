package ingest

import (
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestClockOf(t *testing.T) {
	const mono = 5_000_000
	at := Instant{Boot: BootID{7}, Mono: mono}
	here := now.UnixMilli()
	minute := time.Minute.Milliseconds()
	arrived := Clock{Boot: BootID{7}, Offset: here - mono, Uncertainty: 30_000}
	device := func(off, uncertainty int64) Clock {
		return Clock{Boot: BootID{7}, Offset: here + off - mono, Uncertainty: uncertainty}
	}
	for name, c := range map[string]struct {
		wall *Wall
		want Clock
	}{
		"no clock":                  {nil, arrived},
		"the right time":            {&Wall{here, 20}, device(0, 20)},
		"a little late":             {&Wall{here - 2*minute, 0}, device(-2*minute, 0)},
		"too late":                  {&Wall{here - 2*minute - 1, 0}, arrived},
		"a little early":            {&Wall{here + 2*minute + 20, 20}, device(2*minute+20, 20)},
		"too early":                 {&Wall{here + 2*minute + 21, 20}, arrived},
		"off by what it admits":     {&Wall{here - 60*minute, 60 * minute}, device(-60*minute, 60*minute)},
		"admits a day":              {&Wall{here, 24 * 60 * minute}, device(0, 24*60*minute)},
		"admits more than a day":    {&Wall{here, 24*60*minute + 1}, arrived},
		"admits less than nothing":  {&Wall{here, -1}, arrived},
		"of 1970":                   {&Wall{0, 0}, arrived},
		"of the end of time":        {&Wall{math.MaxInt64, 0}, arrived},
		"of the beginning of time":  {&Wall{math.MinInt64, 0}, arrived},
		"admits the most there is":  {&Wall{here, math.MaxInt64}, arrived},
		"admits the least there is": {&Wall{here, math.MinInt64}, arrived},
	} {
		if diff := cmp.Diff(c.want, ClockOf(at, c.wall, now)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestBetter(t *testing.T) {
	c := Clock{Boot: BootID{7}, Offset: 1000, Uncertainty: 20}
	for name, tc := range map[string]struct {
		old  Clock
		want bool
	}{
		"the same":          {c, false},
		"known as well":     {Clock{BootID{7}, 1010, 20}, false},
		"known more poorly": {Clock{BootID{7}, 1010, 21}, true},
		"known better":      {Clock{BootID{7}, 1010, 19}, false},
		"another boot":      {Clock{BootID{8}, 1010, 1}, true},
	} {
		if got := c.Better(tc.old); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPlace(t *testing.T) {
	clock := Clock{Boot: BootID{7}, Offset: taken - 5000, Uncertainty: 20}
	since := func(boot BootID, mono int64) Block {
		return Block{Span: 4000, Boot: &Instant{Boot: boot, Mono: mono}}
	}
	day := (24 * time.Hour).Milliseconds()
	late := now.UnixMilli() + day - 4000 - clock.Offset // since boot, of the latest t0 that can be true
	for name, c := range map[string]struct {
		b      Block
		placed bool
		t0     int64
	}{
		"of this boot":         {since(BootID{7}, 5000), true, taken},
		"at the boot":          {since(BootID{7}, 0), true, taken - 5000},
		"of another boot":      {since(BootID{8}, 5000), false, 0},
		"latest":               {since(BootID{7}, late), true, late + clock.Offset},
		"in the future":        {since(BootID{7}, late+1), false, 0},
		"before 2015":          {since(BootID{7}, earliest-1-clock.Offset), false, 0},
		"with a clock":         {Block{Placed: true, T0: 77}, true, 77},
		"of another, placed":   {Block{Placed: true, T0: 77, Boot: &Instant{Boot: BootID{8}}}, true, 77},
		"neither boot nor t0":  {Block{}, false, 0},
		"as long as there are": {since(BootID{7}, maxMono), false, 0},
	} {
		b := c.b
		if got := clock.Place(&b, now); got != c.placed || b.Placed != c.placed || b.T0 != c.t0 {
			t.Errorf("%s: %v, placed %v at %d; want %v at %d", name, got, b.Placed, b.T0, c.placed, c.t0)
		}
	}
}
