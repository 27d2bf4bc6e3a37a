package gateway_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/cloud/rollout"
	"ecowatt/wire"
)

// fate is how an update ends at a device.
type fate int

const (
	succeeds fate = iota
	crashes       // the image does, and the launcher goes back
	refuses
)

// roof is a gateway that takes releases: as much of one as the cloud sees.
type roof struct {
	*device
	fate    fate
	leisure int // offers that it lets pass before it takes one

	runs    *wire.Firmware
	unsaid  []wire.Message // what it reports, until that is settled
	offered int            // answers that brought an offer
	refused bool
}

// roofs are n gateways, which run release 11 and have said so.
func (c *releasing) roofs(n int) []*roof {
	c.t.Helper()
	fleet := make([]*roof, n)
	inParallel(n, func(i int) {
		fleet[i] = &roof{device: c.gatewayOf(fmt.Sprintf("roof-%03d", i)), runs: running(11, former, wire.FirmwareConfirmed)}
	})
	return fleet
}

// inParallel does it for 0 … n - 1, so many at a time that commits have company.
func inParallel(n int, do func(i int)) {
	var wait sync.WaitGroup
	next := make(chan int)
	for range 64 {
		wait.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wait.Wait()
}

// report adds a fota_status to what it says next.
func (x *roof) report(release rollout.Hash, phase, code string) {
	x.unsaid = append(x.unsaid, x.fota(wire.FotaStatus{Manifest: release, Phase: phase, Code: code, Done: 7, All: 7}))
}

// slot is an exchange, and what the gateway makes of the answer until the next one.
func (x *roof) slot(r rollout.Release) {
	x.t.Helper()
	says := append(slices.Clone(x.unsaid), x.block(x.time().Add(-time.Minute), 1, 1))
	a := x.exchange(wire.Request{Firmware: x.runs, Messages: says})
	if len(a.Results) != len(says) {
		x.t.Errorf("%s: %d results of %d", x.name, len(a.Results), len(says))
	}
	x.unsaid = nil
	switch {
	case x.runs.State == wire.FirmwareTrial && x.fate == crashes:
		x.runs = running(11, former, wire.FirmwareRolledBack)
		x.report(r.ID, "rolled_back", "crash")
	case x.runs.State == wire.FirmwareTrial:
		x.runs = running(r.Number, r.Image, wire.FirmwareConfirmed)
		x.report(r.ID, "confirmed", "")
	}
	if a.Firmware == nil {
		return
	}
	x.offered++
	switch {
	case x.leisure > 0:
		x.leisure--
	case x.fate == refuses:
		x.report(r.ID, "refused", "no_space")
		x.refused = true
	case x.runs.State != wire.FirmwareTrial:
		for _, phase := range []string{"offered", "downloading", "downloaded", "verified", "switching", "trial"} {
			x.report(r.ID, phase, "")
		}
		x.runs = running(r.Number, r.Image, wire.FirmwareTrial)
	}
}

// round lets those gateways have a slot, which is a quarter of an hour, and then
// rollouts go on.
func (c *releasing) round(fleet []*roof) {
	c.t.Helper()
	inParallel(len(fleet), func(i int) { fleet[i].slot(c.release) })
	c.wait(15 * time.Minute)
	c.advance()
}

// A thousand gateways, and an image that does not do for every tenth of the second
// stage: the rollout stops by itself at the first failure that is one too many, no
// answer carries the release from then on, and what the rollout, the log and the
// gateways themselves say of it is the same. The cloud restarts on the way.
func TestThousandDevices(t *testing.T) {
	c := newReleasing(t)
	fleet := c.roofs(1000)
	const most, sample = 5, 20
	r := c.rollOut(func(s *rollout.Spec) {
		s.Stages, s.MaxFailed, s.MinSample, s.Soak = rollout.DefaultStages(), most, sample, 20*time.Minute
	})
	stages := c.byStage(r, fleet)
	if len(stages[1]) != 10 || len(stages[2]) != 90 || len(stages[3]) != 900 {
		t.Fatalf("stages of %d, %d and %d", len(stages[1]), len(stages[2]), len(stages[3]))
	}
	for i, x := range stages[2] {
		x.leisure = i / 18      // they take their time
		if i > 36 && i%6 == 5 { // nine of them, once enough have done well to tell
			x.fate = []fate{crashes, refuses}[i/6%2]
		}
	}
	for range 6 {
		c.round(stages[1])
	}
	if v := c.rollout(r.ID); v.Stage != 2 || v.ByStage[0][rollout.Healthy] != 10 {
		t.Fatalf("stage %d, %v", v.Stage, v.ByStage)
	}
	c.restart()
	rounds := 0
	for ; c.rollout(r.ID).State == rollout.Running && rounds < 20; rounds++ {
		c.round(stages[2])
	}
	c.stopsInTime(r, most, sample)
	c.restart()
	before := offers(fleet)
	c.round(stages[3][:100])
	for range 5 { // what was on trial comes to its end, the rest has nothing to do
		c.round(stages[2])
	}
	if after := offers(fleet); after != before || offers(stages[3]) != 0 {
		t.Errorf("%d answers carried the release after the rollout had stopped, %d to gateways that had not begun", after-before, offers(stages[3]))
	}
	c.addsUp(r, fleet, stages)
	c.instruct(r.ID, rollout.Abort, false)
	c.round(fleet)
	want := stages.tally(func(x *roof) rollout.Phase {
		switch p := x.phase(); p { //nolint:exhaustive // the others are over
		case rollout.Waiting:
			return rollout.Skipped
		case rollout.Offered:
			return rollout.Withdrawn
		default:
			return p
		}
	})
	if diff := cmp.Diff(want, c.rollout(r.ID).All()); diff != "" || offers(fleet) != before {
		t.Error("after it was aborted: ", diff)
	}
}

func offers(fleet []*roof) (n int) {
	for _, x := range fleet {
		n += x.offered
	}
	return n
}

// staged are the gateways of a rollout, by stage.
type staged map[int][]*roof

func (c *releasing) byStage(r rollout.Rollout, fleet []*roof) staged {
	c.t.Helper()
	list, err := c.store.Updates(c.t.Context(), r.ID, rollout.Filter{Limit: len(fleet)})
	if err != nil {
		c.t.Fatal(err)
	}
	named := map[string]*roof{}
	for _, x := range fleet {
		named[x.name] = x
	}
	stages := staged{}
	for _, u := range list {
		stages[u.Stage] = append(stages[u.Stage], named[string(u.Device)])
	}
	return stages
}

func (s staged) tally(phase func(*roof) rollout.Phase) rollout.Tally {
	t := rollout.Tally{}
	for _, fleet := range s {
		for _, x := range fleet {
			t[phase(x)]++
		}
	}
	return t
}

// phase is how far the gateway is, once it has said so and was healthy for long.
func (x *roof) phase() rollout.Phase {
	switch {
	case x.runs.State == wire.FirmwareRolledBack:
		return rollout.RolledBack
	case x.runs.Release == 12:
		return rollout.Healthy
	case x.refused:
		return rollout.Failed
	case x.offered > 0:
		return rollout.Offered
	}
	return rollout.Waiting
}

// happened are the actions of rollouts in the log, in their order, in a row each.
func (c *cloud) happened() (actions []string) {
	c.t.Helper()
	for _, row := range c.rows(`SELECT action FROM audit WHERE action LIKE 'update.%' OR action LIKE 'rollout.%' ORDER BY n`) {
		actions = append(actions, strings.Trim(row, "[]"))
	}
	return actions
}

// stopsInTime checks, by the log, that the rollout stopped with the first failure of
// its second stage that was one too many, and not before.
func (c *releasing) stopsInTime(r rollout.Rollout, most float64, sample int) {
	c.t.Helper()
	log := c.happened()
	log = log[slices.Index(log, "rollout.stage")+1:]
	log = log[slices.Index(log, "rollout.stage")+1:]
	answered, failed := 0, 0
	for i, action := range log {
		switch rollout.Phase(strings.TrimPrefix(action, "update.")) { //nolint:exhaustive // the others are no results
		case rollout.Confirmed:
			answered++
		case rollout.Failed, rollout.RolledBack, rollout.Overdue:
			answered++
			failed++
			tooMany := answered >= sample && float64(failed)*100 > most*float64(answered)
			if stops := i+1 < len(log) && log[i+1] == "rollout.stopped"; stops != tooMany {
				c.t.Fatalf("%d of %d have failed, and that it stops is %v", failed, answered, stops)
			}
			if !tooMany {
				continue
			}
			text := fmt.Sprintf("stage 2: %d of %d have failed", failed, answered)
			if v := c.rollout(r.ID); v.State != rollout.Stopped || v.Text != text || failed < 2 {
				c.t.Errorf("%s, %q, want %q", v.State, v.Text, text)
			}
			return
		}
	}
	c.t.Fatalf("it has not stopped: %v", c.rollout(r.ID).ByStage)
}

// addsUp compares what the gateways know of themselves with what the rollout and
// the log say.
func (c *releasing) addsUp(r rollout.Rollout, fleet []*roof, stages staged) {
	c.t.Helper()
	v := c.rollout(r.ID)
	for i, got := range v.ByStage {
		want := staged{0: stages[i+1]}.tally(func(x *roof) rollout.Phase {
			if p := x.phase(); p != rollout.Waiting || i > 1 {
				return p
			}
			return rollout.Due
		})
		if diff := cmp.Diff(want, got); diff != "" {
			c.t.Errorf("stage %d (-want +got):\n%s", i+1, diff)
		}
	}
	p := v.Progress(v.All(), v.Recent, c.time())
	if p.Devices != len(fleet) || p.Over+p.UnderWay+p.Waiting != len(fleet) || p.Over != p.Healthy+p.Failed || p.Waiting != 900 || p.Failed < 2 {
		c.t.Errorf("%+v", p)
	}
	counts := map[string]int{}
	for _, action := range c.happened() {
		counts[action]++
	}
	all := v.All()
	taken := all[rollout.Healthy] + all[rollout.RolledBack]
	if diff := cmp.Diff(map[string]int{
		"rollout.created": 1, "rollout.stage": 2, "rollout.stopped": 1,
		"update.due": 100, "update.offered": 100 - all[rollout.Due],
		"update.downloading": taken, "update.downloaded": taken, "update.verified": taken, "update.switching": taken, "update.trial": taken,
		"update.confirmed": all[rollout.Healthy], "update.healthy": all[rollout.Healthy],
		"update.rolled_back": all[rollout.RolledBack], "update.failed": all[rollout.Failed],
	}, counts); diff != "" {
		c.t.Errorf("the log (-want +got):\n%s", diff)
	}
	for _, x := range fleet { // whatever the log says of a gateway ends where it is
		if x.offered == 0 {
			continue
		}
		if log := c.updateLog(x.name); !strings.HasPrefix(log[len(log)-1], string(x.phase())) {
			c.t.Errorf("%s is %s: %v", x.name, x.phase(), log)
		}
	}
}
