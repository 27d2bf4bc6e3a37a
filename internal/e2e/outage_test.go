package e2e

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
)

// An inverter that is not there and a cloud that is not there are ordinary
// days: the agent says so, keeps trying, keeps sampling, and catches up.
func TestOutages(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	f.sim.stop(t)
	f.startRoof(t, "roof-1")
	eventually(t, "the inverter is away, and the agent says why", func() bool {
		s, ok := f.status(t, "roof-1")
		return ok && s.Inverters[0].State == "away" && strings.Contains(s.Inverters[0].Error, "refused")
	})
	if s := must(t, nil, "ecowatt-agent", "status", "--dir", f.roof("roof-1")); !strings.Contains(s, "away") {
		t.Errorf("status does not say that the inverter is away:\n%s", s)
	}
	f.startSim(t, 1)
	f.awaitServed(t, 2)
	f.cloud.kill(t)
	f.awaitServed(t, 3)
	eventually(t, "the agent says that the cloud is away and keeps samples", func() bool {
		s, ok := f.status(t, "roof-1")
		return ok && s.Uplink.Failures > 0 && s.Uplink.Error != "" && s.Inverters[0].State == "answering" && s.Buffer.Samples+s.Buffer.Messages >= 2
	})
	f.startCloud(t)
	f.awaitServed(t, 2)
	f.sim.stop(t)
	eventually(t, "everything is sent", func() bool {
		s, ok := f.status(t, "roof-1")
		return ok && s.Buffer.Samples == 0 && s.Buffer.Messages == 0
	})
	f.compare(t, "roof-1", 17, f.readTrace(t), 1)
	log := must(t, f.env, "ecowatt", "log", "--device", "roof-1")
	for _, want := range []string{"inverter_away", "inverter_back"} {
		if !strings.Contains(log, want) {
			t.Errorf("the cloud's log lacks %s:\n%s", want, log)
		}
	}
	f.launchers["roof-1"].stop(t)
	f.cloud.stop(t)
}

// What a proxy recorded is worth nothing to it: replayed, changed or cut, also
// after a restart of the cloud, it is refused and has no effect.
//
// Attacks: R1, R4, O1
func TestReplay(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1)
	l := newLine(t, f.cloudAddr)
	f.through(t, l, "roof-1")
	f.startRoof(t, "roof-1")
	eventually(t, "three exchanges", func() bool { return len(l.recorded(exchange)) >= 3 })
	f.sim.stop(t)
	f.launchers["roof-1"].stop(t)
	l.quiet(t)

	before := must(t, f.env, "ecowatt", "telemetry", "show", "roof-1", "--since", "1h", "--json")
	attack := func(when string) {
		t.Helper()
		l.replay(t, when)
		for i, body := range l.recorded(exchange) {
			for _, at := range []int{0, 9, 31, 40, len(body) / 2, len(body) - 1} {
				changed := bytes.Clone(body)
				changed[at] ^= 1
				if a := l.post(t, exchange, changed); a.status != http.StatusUnauthorized && a.status != http.StatusBadRequest {
					t.Errorf("%s: request %d with byte %d changed: %d", when, i, at, a.status)
				}
				if a := l.post(t, exchange, body[:at]); a.status != http.StatusUnauthorized && a.status != http.StatusBadRequest {
					t.Errorf("%s: request %d cut at %d: %d", when, i, at, a.status)
				}
			}
		}
		if after := must(t, f.env, "ecowatt", "telemetry", "show", "roof-1", "--since", "1h", "--json"); after != before {
			t.Errorf("%s: what is stored has changed:\n%s\n%s", when, before, after)
		}
	}
	attack("cloud as it was")
	f.cloud.kill(t)
	f.startCloud(t)
	attack("cloud killed and started again")
	f.cloud.stop(t)
}
