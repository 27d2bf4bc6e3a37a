package sim

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/agent/acquire"
	"ecowatt/sim/fault"
)

// TestFrozenIsTold: an inverter whose page stands still for a quarter of an hour
// is told of, once; what it serves is kept as it is all the while.
func TestFrozenIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log trace
		s := newSimulator(t, Options{Faults: []fault.Rule{{Kind: fault.Frozen, From: 10 * time.Minute, To: 25 * time.Minute, Probability: 1}}})
		p := simProfile(t)
		poller, err := acquire.New(acquire.Inverter{Name: "inv", Unit: 17, Profile: p, Points: p.PointNames(), Interval: 5 * time.Second}, direct{s}, slog.New(slog.NewTextHandler(&log, nil)), 0)
		if err != nil {
			t.Fatal(err)
		}
		samples := 0
		for at := time.Duration(0); at < 40*time.Minute; at += 5 * time.Second {
			samples += len(poller.Poll(t.Context(), at.Milliseconds()))
			time.Sleep(5 * time.Second)
			s.advance(5 * time.Second)
		}
		var codes []string
		for line := range strings.Lines(log.String()) {
			if _, code, ok := strings.Cut(line, "code="); ok {
				codes = append(codes, strings.Fields(code)[0])
			}
		}
		if diff := cmp.Diff([]string{"inverter_found", "inverter_frozen", "inverter_moves"}, codes); diff != "" || samples != 480 {
			t.Errorf("%d samples; codes (-want +got):\n%s", samples, diff)
		}
	})
}
