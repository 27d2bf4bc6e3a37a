package e2e

import (
	"strings"
	"syscall"
	"testing"
)

// TestLimitsEnd lets power limits come to their end while the cloud is gone: on a
// gateway that runs on, on one that was off when the time was over, and on one whose
// agent is killed again and again. Each ends as said; the cloud learns of it later.
func TestLimitsEnd(t *testing.T) {
	t.Parallel()
	f := newControlled(t, 3)
	for _, name := range f.roofs {
		f.startRoof(t, name)
	}
	const runs, off, restarted = "roof-1", "roof-2", "roof-3"
	for _, name := range f.roofs {
		eventually(t, name+" allows control", func() bool {
			return strings.Contains(must(t, f.env, "ecowatt", "device", "show", name, "--json"), `"control_allowed": true`)
		})
	}
	// A stricter one of two is in force, and the other one comes after it.
	ids := map[string]string{}
	if o := f.ended(t, "limit", runs, "70", "--for", "30s"); o.State != "succeeded" {
		t.Fatal(o)
	}
	for name, percent := range map[string]string{runs: "30", off: "31", restarted: "32"} {
		o := f.ended(t, "limit", name, percent, "--for", "12s")
		if o.State != "succeeded" {
			t.Fatal(o)
		}
		ids[name] = o.ID
	}
	show := must(t, f.env, "ecowatt", "device", "show", runs)
	wantLines(t, show, `^limit +inv1 to 30 % .*by administrator: in force$`, 1)
	wantLines(t, show, `^(limit)? +inv1 to 70 % .*by administrator`, 1)

	f.cloud.kill(t)
	f.launchers[off].stop(t)
	for range 2 {
		s, ok := f.status(t, restarted)
		if !ok {
			t.Fatal("no agent runs")
		}
		if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the next agent keeps the limit, or has ended it", func() bool {
			now, ok := f.status(t, restarted)
			return ok && now.PID != s.PID
		})
	}
	f.awaitLimit(t, 17, 70) // the one that is less strict
	f.awaitLimit(t, 19, 100)
	f.awaitLimit(t, 17, 100)
	if got := f.inForce(t, 18); got != 31 {
		t.Errorf("the gateway of unit 18 is off, and its limit is %v %%, want 31", got)
	}
	f.startRoof(t, off)
	f.awaitLimit(t, 18, 100)

	f.startCloud(t)
	for i, name := range f.roofs {
		eventually(t, "the cloud knows that the limits of "+name+" have ended", func() bool {
			return !strings.Contains(must(t, f.env, "ecowatt", "device", "show", name), "\nlimit ")
		})
		if n := writes([]*process{f.sim}, given{17 + i, "100"}); n != 1 {
			t.Errorf("%s: what was there before was written %d times", name, n)
		}
		ended := 0
		for _, r := range f.audit(t, name) {
			if r.Attrs["code"] == "lease_ended" && r.Attrs["command"] == ids[name] {
				ended++
			}
		}
		if ended != 1 {
			t.Errorf("%s: the end of the limit is in the log %d times", name, ended)
		}
	}
}
