package e2e

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestKillDuringOrders kills agents, launchers, the cloud and the simulator while
// commands and configurations are on their way, in the moment in which an inverter is
// written to among others, and starts them again. Each command has one effect or none,
// and its report says which; every change of a configuration arrives.
//
// Attacks: O6, O7
func TestKillDuringOrders(t *testing.T) {
	t.Parallel()
	const roofs = 4
	f := newControlled(t, roofs)
	for _, name := range f.roofs {
		f.startRoof(t, name)
	}
	for _, name := range f.roofs {
		eventually(t, name+" allows control", func() bool {
			return strings.Contains(must(t, f.env, "ecowatt", "device", "show", name, "--json"), `"control_allowed": true`)
		})
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))

	var victims []string
	for _, name := range f.roofs {
		for range killsPerRoof {
			victims = append(victims, name)
		}
	}
	for range 3 {
		victims = append(victims, "sim", "cloud")
	}
	random.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })

	sims := []*process{f.sim}
	all := map[string]given{} // by command
	for i, victim := range victims {
		f.slowWrites(t)
		var orders []order
		for unit, name := range f.roofs {
			value := fmt.Sprint(10 + i) // never one that anybody else writes
			o := f.orders(t, "write", name, "export_power_percent", value)
			all[o.ID] = given{17 + unit, value}
			orders = append(orders, o)
			must(t, f.env, "ecowatt", "config", "set", name, fmt.Sprintf("payload_cap=%d", 5000+i))
		}
		unit := random.IntN(roofs)
		if at, ok := strings.CutPrefix(victim, "roof-"); ok {
			unit = int(at[0] - '1')
		}
		f.awaitMoment(t, moment(random.IntN(int(moments))), orders[unit], all[orders[unit].ID])
		switch victim {
		case "sim":
			f.sim.kill(t)
			f.startSim(t, roofs)
			sims = append(sims, f.sim)
		case "cloud":
			f.cloud.kill(t)
			f.startCloud(t)
		default:
			f.killRoof(t, victim, i%2 == 0)
		}
	}
	for id, g := range all {
		o := f.end(t, id)
		n := writes(sims, g)
		if !possible(o, n, writes(sims[:len(sims)-1], g)) {
			t.Errorf("%v, and %s %% was written %d times", o, g.percent, n)
		}
	}
	for _, name := range f.roofs {
		last := float64(5000 + len(victims) - 1)
		if c := f.answered(t, name); c.Reported["payload_cap"] != last || len(c.Drift) > 0 {
			t.Errorf("%s: %+v, want %v", name, c, last)
		}
	}
}

// A moment is one in the life of a command.
type moment int

const (
	underWay   moment = iota // anywhere between cloud and device
	begun                    // the device has it
	carriedOut               // the inverter was written to; the answer may not be there yet
	moments
)

// awaitMoment waits until a command has come so far, or is over.
func (f *fleet) awaitMoment(t *testing.T, m moment, o order, g given) {
	t.Helper()
	if m == underWay {
		return
	}
	launcher, sim := f.launchers[o.Device], f.sim
	eventuallyFunc(t, func() string { return "it has come so far: " + o.String() }, func() bool {
		said := string(launcher.said())
		if strings.Contains(said, `command has ended" command=`+o.ID) {
			return true
		}
		if m == carriedOut {
			return writes([]*process{sim}, g) > 0
		}
		return strings.Contains(said, `command begins" command=`+o.ID)
	})
}

// slowWrites has writes answered late, so that something can happen meanwhile.
func (f *fleet) slowWrites(t *testing.T) {
	t.Helper()
	f.misbehave(t, "")
	f.misbehave(t, `{"fault":"late","for":"200ms","functions":[6,16]}`)
}

// effectless are the codes that say that nothing was written.
var effectless = regexp.MustCompile(`^(inverter_away|unchanged|too_late|undelivered|out_of_order|refused)$`)

// possible reports whether a command that ended so can have written so often. A
// simulator that is killed forgets what was written, which is forgotten times of it;
// whoever looks then finds what was there at first, and says so.
func possible(o order, times, forgotten int) bool {
	switch {
	case times > 1:
		return false
	case o.Code == "done":
		return times == 1
	case o.Code == "interrupted":
		return times == forgotten
	case effectless.MatchString(o.Code):
		return times == 0
	}
	return o.Code == "not_taken" || o.Code == "overwritten" || o.Code == "unknown_outcome"
}
