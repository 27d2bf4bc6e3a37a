package gateway_test

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	agentconfig "ecowatt/agent/config"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/config"
	"ecowatt/cloud/registry"
	"ecowatt/internal/disk/disktest"
	"ecowatt/parameter"
	"ecowatt/wire"
)

// keeper is a device that keeps its configuration as the agent does, and its answers
// until they are settled.
type keeper struct {
	*device
	*agentconfig.Keeper
	disk    *disktest.Disk
	answers []wire.Message
	now     time.Duration
}

// start opens what is on the disk, and tells it.
func (k *keeper) start() {
	k.t.Helper()
	own := parameter.Values{}
	for _, p := range parameter.All() {
		own[p.Name] = p.Default
	}
	own[parameter.Registers] = map[string]any{"inv1": []any{"pac"}}
	fits := func(parameter.Values) error { return nil }
	k.Keeper = agentconfig.Open(agentconfig.Options{
		FS: k.disk, Boot: "b", Logger: slog.New(slog.DiscardHandler),
		Gateway: agentconfig.Gateway{
			Own: own, Fixed: []string{parameter.LogLevel}, Points: func() map[string][]string { return map[string][]string{"inv1": {"pac"}} }, Uploads: fits,
			Polls: func(v parameter.Values) error {
				if v[parameter.SamplingInterval] == int64(1) {
					return errors.New("the line is slow")
				}
				return nil
			},
		},
	})
	k.tell(k.Answer())
}

func (k *keeper) tell(a agentconfig.Answer) {
	ack := wire.ConfigAck{Revision: a.Revision, Accepted: a.Accepted, Unchanged: a.Unchanged, Rejected: map[string]wire.Rejection{}}
	for name, r := range a.Rejected {
		ack.Rejected[name] = wire.Rejection{Code: string(r.Code), Text: r.Text}
	}
	k.answers = append(k.answers, k.ack(ack))
}

// talks is an exchange, whose answer may be lost.
func (k *keeper) talks(lost bool) {
	k.t.Helper()
	r := k.seal(wire.Request{Messages: k.answers})
	got := k.send(r)
	if lost {
		return
	}
	a := k.opened(r, got)
	for _, x := range a.Results {
		k.answers = slices.DeleteFunc(k.answers, func(m wire.Message) bool { return m.ID == x.ID && x.Status.Settles() })
	}
	k.Reached()
	if a.Config != nil {
		answer, _ := k.Take(agentconfig.Update{Revision: a.Config.Revision, Parameters: a.Config.Parameters})
		k.tell(answer)
	}
}

// has is what is in force of what was set from the cloud. What the device keeps for
// itself is in force as well, where the cloud has heard so.
func (k *keeper) has(heard parameter.Values) parameter.Values {
	set, values := parameter.Values{}, k.Values()
	for _, p := range parameter.All() {
		if k.FromCloud(p.Name) || p.Name == parameter.LogLevel && heard[p.Name] != nil {
			set[p.Name] = values[p.Name]
		}
	}
	return set
}

// Random schedules of what people set for the device, its group and templates, of
// lost answers, restarts of the cloud and of the device, disks that are new, and
// changes that the device takes back: no change is lost, and in the end the cloud
// knows exactly what the device has.
func TestConfigSchedules(t *testing.T) {
	drifted := 0
	for seed := range uint64(4) {
		dice := rand.New(rand.NewPCG(seed, 7))
		c := newCloud(t)
		k := &keeper{device: c.connected("roof-1"), disk: disktest.New()}
		k.start()
		scopes := []config.Scope{{Kind: config.OfTemplate, Name: "quiet"}, {Kind: config.OfGroup, Name: "north"}, {Kind: config.OfDevice, Name: "roof-1"}}
		c.set(scopes[0], parameter.Values{})
		for range 60 {
			switch dice.IntN(12) {
			case 0, 1, 2:
				c.set(scopes[dice.IntN(len(scopes))], someValues(dice))
			case 3:
				c.give(scopes[1+dice.IntN(2)], []string{"", "quiet"}[dice.IntN(2)])
			case 4:
				group := []string{"", "north"}[dice.IntN(2)]
				if err := c.store.UpdateDevice(t.Context(), "roof-1", registry.Change{Group: &group}, audit.Actor{Kind: audit.Operator, Name: "ann"}, c.time()); err != nil {
					t.Fatal(err)
				}
			case 5:
				c.restart()
			case 6:
				k.start()
			case 7:
				if dice.IntN(4) == 0 {
					k.disk = disktest.New()
					k.start()
				}
			case 8:
				for range 20 { // minutes in which nothing comes through
					k.now += time.Minute
					if k.Failed(k.now) {
						k.tell(k.Answer())
					}
				}
			case 9:
				k.talks(true)
			default:
				k.talks(false)
			}
		}
		for range 4 {
			k.talks(false)
		}
		x := k.config()
		if x.Pending || len(k.answers) > 0 {
			t.Errorf("seed %d: revision %d is pending; %d answers wait", seed, x.Desired.Number, len(k.answers))
		}
		if diff := cmp.Diff(k.has(x.Report.Values), x.Report.Values); diff != "" {
			t.Errorf("seed %d: in force (-device +cloud):\n%s", seed, diff)
		}
		for _, name := range x.Drift() {
			drifted++
			if o := x.Desired.Outcome[name]; o.Result != config.Rejected || o.Code == "" || o.Text == "" {
				t.Errorf("seed %d: %s is not in force, and nothing says why: %+v", seed, name, o)
			}
		}
		want := fmt.Sprint(x.Desired.Number)
		if drift := config.Differ(x.Desired.Values, k.has(x.Report.Values)); len(drift) > 0 {
			want += " drift " + strings.Join(drift, " ")
		}
		k.stands(want)
		c.stop()
	}
	if drifted == 0 {
		t.Error("nothing ever drifted")
	}
}

// someValues are values of some parameters: some cannot be, or are not allowed.
func someValues(dice *rand.Rand) parameter.Values {
	v := parameter.Values{}
	for _, x := range []struct {
		name string
		all  []any
	}{
		{parameter.SamplingInterval, []any{int64(1), int64(2), int64(30)}},
		{parameter.UploadInterval, []any{int64(60), int64(600)}},
		{parameter.NightMode, []any{"slow", "full"}},
		{parameter.LogLevel, []any{"info", "debug"}},
	} {
		if dice.IntN(2) == 0 {
			v[x.name] = x.all[dice.IntN(len(x.all))]
		}
	}
	return v
}

// give gives a layer a template.
func (c *cloud) give(scope config.Scope, template string) {
	c.t.Helper()
	if _, _, err := c.store.SetConfig(c.t.Context(), config.Change{Scope: scope, Template: &template, By: "ann", At: c.time()}); err != nil {
		c.t.Fatal(err)
	}
}
