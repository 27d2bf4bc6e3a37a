package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/config"
	"ecowatt/cloud/gateway"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/store"
	"ecowatt/parameter"
	"ecowatt/wire"
)

// set sets the values of a layer, as the API does.
func (c *cloud) set(scope config.Scope, values parameter.Values) {
	c.t.Helper()
	_, woken, err := c.store.SetConfig(c.t.Context(), config.Change{Scope: scope, Values: values, By: "ann", At: c.time()})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, id := range woken {
		c.gateway.Wake(id)
	}
}

func (d *device) set(values parameter.Values) {
	d.t.Helper()
	d.cloud.set(config.Scope{Kind: config.OfDevice, Name: d.name}, values)
}

// config is what the cloud knows of the device's configuration.
func (d *device) config() config.Device {
	d.t.Helper()
	x, err := d.store.DeviceConfig(d.t.Context(), ecowatt.DeviceID(d.name))
	if err != nil {
		d.t.Fatal(err)
	}
	return x
}

// stands checks what the cloud makes of the device: "3 pending", "3", "3 drift registers".
func (d *device) stands(want string) {
	d.t.Helper()
	x := d.config()
	got := fmt.Sprint(x.Desired.Number)
	if x.Pending {
		got += " pending"
	}
	if drift := x.Drift(); len(drift) > 0 {
		got += " drift " + strings.Join(drift, " ")
	}
	if got != want {
		d.t.Fatalf("the configuration of %s is %s, want %s", d.name, got, want)
	}
	r, err := d.store.Device(d.t.Context(), ecowatt.DeviceID(d.name))
	if want := (registry.Config{Revision: x.Desired.Number, Pending: x.Pending, Drift: len(x.Drift())}); err != nil || r.Config != want {
		d.t.Fatalf("the row of %s says %+v, want %+v (%v)", d.name, r.Config, want, err)
	}
}

// ack is a message of a config_ack.
func (d *device) ack(a wire.ConfigAck) wire.Message {
	d.t.Helper()
	body, err := wire.EncodeConfigAck(a)
	if err != nil {
		d.t.Fatal(err)
	}
	return wire.Message{ID: random16(d.t), Kind: wire.KindConfigAck, Body: body}
}

// acks sends a config_ack, which must be stored, and returns the answer.
func (d *device) acks(a wire.ConfigAck) wire.Answer {
	d.t.Helper()
	answer := d.exchange(wire.Request{Messages: []wire.Message{d.ack(a)}})
	if len(answer.Results) != 1 || answer.Results[0].Status != wire.Stored {
		d.t.Fatalf("%+v", answer.Results)
	}
	return answer
}

func update(revision uint64, parameters map[string]any) *wire.ConfigUpdate {
	return &wire.ConfigUpdate{Revision: revision, Parameters: parameters}
}

func (d *device) told(what string, got, want *wire.ConfigUpdate) {
	d.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		d.t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// configLog is what the audit log says of a configuration.
func (c *cloud) configLog(name string) (log []string) {
	for _, r := range c.audit(name) {
		if strings.HasPrefix(r.Action, "config.") {
			log = append(log, r.Action+" "+r.Attrs["revision"]+" by "+r.Actor.Name)
		}
	}
	return log
}

// Attacks: O13
//
// A change stands in every answer until the device has answered that revision,
// whatever gets lost in between, and across restarts. Its answer may come twice.
func TestConfigStandsUntilItIsAnswered(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	if a := d.exchange(wire.Request{}); a.Config != nil {
		t.Fatalf("nothing was set: %+v", a.Config)
	}
	d.stands("0")
	d.set(parameter.Values{"sampling_interval": int64(2), "registers": []any{"pac", "vac1"}})
	want := update(1, map[string]any{"sampling_interval": int64(2), "registers": []any{"pac", "vac1"}})
	lost := d.seal(wire.Request{})
	d.send(lost)
	d.stands("1 pending")
	c.restart()
	d.told("after a lost answer and a restart", d.exchange(wire.Request{}).Config, want)
	d.stands("1 pending")
	ack := d.ack(wire.ConfigAck{Revision: 1, Accepted: []string{"sampling_interval"}, Rejected: map[string]wire.Rejection{"registers": {Code: "unknown_point", Text: "inverter inv1 has no point vac1"}}})
	d.send(d.seal(wire.Request{Messages: []wire.Message{ack}})) // its answer is lost
	d.stands("1 drift registers")
	a := d.exchange(wire.Request{Messages: []wire.Message{ack}})
	if a.Config != nil || a.Results[0].Status != wire.Duplicate {
		t.Errorf("%+v", a)
	}
	// The same said anew, as after a start, is no news.
	d.acks(wire.ConfigAck{Revision: 1, Accepted: []string{"sampling_interval"}, Rejected: map[string]wire.Rejection{"registers": {Code: "unknown_point", Text: "inverter inv1 has no point vac1"}}})
	x := d.config()
	if diff := cmp.Diff(parameter.Values{"sampling_interval": int64(2)}, x.Report.Values); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(config.Outcome{
		"sampling_interval": {Result: config.Accepted},
		"registers":         {Result: config.Rejected, Code: "unknown_point", Text: "inverter inv1 has no point vac1"},
	}, x.Desired.Outcome); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{
		"config.set  by ann", "config.changed 1 by ann", "config.delivered 1 by gateway", "config.answered 1 by roof-1", "config.drift 1 by roof-1",
	}, c.configLog("roof-1")); diff != "" {
		t.Error(diff)
	}
	// The device takes it back: its last word on a revision counts.
	d.acks(wire.ConfigAck{Revision: 1, Rejected: map[string]wire.Rejection{
		"sampling_interval": {Code: "infeasible", Text: "the line is too slow"}, "registers": {Code: "unknown_point"},
	}})
	d.stands("1 drift sampling_interval registers")
	// To set the same again is to try again.
	d.set(parameter.Values{"sampling_interval": int64(2), "registers": []any{"pac", "vac1"}})
	d.stands("2 pending")
}

// What is not set any more is taken out of force by the next revision, and an
// answer to an earlier one does not settle it.
func TestConfigAnswersOutOfOrder(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	d.set(parameter.Values{"log_level": "debug"})
	first := d.exchange(wire.Request{}).Config
	d.set(parameter.Values{"night_mode": "full"})
	d.told("the whole set", d.exchange(wire.Request{}).Config, update(2, map[string]any{"night_mode": "full"}))
	a := d.acks(wire.ConfigAck{Revision: first.Revision, Accepted: []string{"log_level"}})
	d.told("after an answer to the one before", a.Config, update(2, map[string]any{"night_mode": "full"}))
	d.stands("2 pending")
	if diff := cmp.Diff(parameter.Values{"log_level": "debug"}, d.config().Report.Values); diff != "" {
		t.Error(diff)
	}
	d.acks(wire.ConfigAck{Revision: 2, Accepted: []string{"log_level", "night_mode"}})
	d.stands("2")
	d.acks(wire.ConfigAck{Revision: 1, Accepted: []string{"log_level"}}) // a late copy
	d.stands("2")
	if diff := cmp.Diff(parameter.Values{"night_mode": "full"}, d.config().Report.Values); diff != "" {
		t.Error(diff)
	}
	if n := len(slices.DeleteFunc(c.configLog("roof-1"), func(line string) bool { return line != "config.late 1 by roof-1" })); n != 1 {
		t.Errorf("one late answer is told %d times", n)
	}
	d.set(parameter.Values{})
	d.told("nothing set", d.exchange(wire.Request{}).Config, update(3, map[string]any{}))
	d.acks(wire.ConfigAck{Revision: 3, Accepted: []string{"night_mode"}})
	d.stands("3")
	log, err := c.store.ConfigLog(t.Context(), "roof-1", 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range log {
		got = append(got, fmt.Sprintf("%d %v %s %s %v %v %s", e.Number, e.Changed, e.By, e.Cause, e.DeliveredAt.IsZero(), e.AnsweredAt.IsZero(), e.Outcome.Line()))
	}
	if diff := cmp.Diff([]string{
		"3 [night_mode] ann device roof-1 false false accepted: night_mode",
		"2 [log_level night_mode] ann device roof-1 false false accepted: log_level, night_mode",
		"1 [log_level] ann device roof-1 false false accepted: log_level",
	}, got); diff != "" {
		t.Error(diff)
	}
}

// A device that has lost its configuration gets it again; one that has a later
// revision than was ever sent, because this cloud was restored, is overtaken.
func TestConfigOfAnotherPast(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	nothing := wire.ConfigAck{}
	if a := d.acks(nothing); a.Config != nil {
		t.Error("something is sent that nobody has set")
	}
	d.stands("0")
	d.set(parameter.Values{"upload_interval": int64(60)})
	d.told("before its answer", d.acks(nothing).Config, update(1, map[string]any{"upload_interval": int64(60)}))
	d.acks(wire.ConfigAck{Revision: 1, Accepted: []string{"upload_interval"}})
	d.stands("1")
	d.told("after its disk was damaged", d.acks(nothing).Config, update(1, map[string]any{"upload_interval": int64(60)}))
	d.stands("1 pending")
	d.acks(wire.ConfigAck{Revision: 1, Accepted: []string{"upload_interval"}})
	d.stands("1")

	ahead := wire.ConfigAck{Revision: 7, Accepted: []string{"night_mode"}}
	d.told("ahead", d.acks(ahead).Config, update(8, map[string]any{"upload_interval": int64(60)}))
	d.stands("8 pending")
	d.acks(ahead)
	d.stands("8 pending")
	d.acks(wire.ConfigAck{Revision: 8, Unchanged: []string{"upload_interval"}, Accepted: []string{"night_mode"}})
	d.stands("8")

	// The number that was never sent is not this cloud's, although it is known here.
	d.set(parameter.Values{"upload_interval": int64(61)})
	d.told("never sent", d.acks(wire.ConfigAck{Revision: 9, Accepted: []string{"upload_interval"}}).Config, update(10, map[string]any{"upload_interval": int64(61)}))

	for _, revision := range []uint64{config.MaxRevision, 1<<64 - 1} {
		if got := d.say(d.ack(wire.ConfigAck{Revision: revision})); got[0].Status != wire.Invalid {
			t.Errorf("revision %d: %v", revision, got)
		}
	}
	if got := d.exchange(wire.Request{}).Config; got.Revision != 10 {
		t.Errorf("revision %d", got.Revision)
	}
}

// The answer's time of the next exchange does not fight the interval that the
// device has from here.
func TestConfigRulesTheNextSlot(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	next := func(a wire.Answer, want time.Duration) {
		t.Helper()
		if a.NextSlot != want {
			t.Errorf("next exchange in %v, want %v", a.NextSlot, want)
		}
	}
	next(d.exchange(wire.Request{}), slot)
	d.set(parameter.Values{"upload_interval": int64(60)})
	next(d.exchange(wire.Request{}), 0)
	next(d.acks(wire.ConfigAck{Revision: 1, Accepted: []string{"upload_interval"}}), time.Minute)
	next(d.exchange(wire.Request{}), time.Minute)
	d.set(parameter.Values{"upload_interval": int64(60), "night_mode": "full"})
	next(d.exchange(wire.Request{}), time.Minute)
	d.acks(wire.ConfigAck{Revision: 2, Unchanged: []string{"upload_interval", "night_mode"}})
	next(d.exchange(wire.Request{}), time.Minute)
	next(d.acks(wire.ConfigAck{Revision: 2, Unchanged: []string{"night_mode"}, Rejected: map[string]wire.Rejection{
		"upload_interval": {Code: "not_permitted", Text: "the gateway's settings keep it as it is"},
	}}), slot)
	next(d.exchange(wire.Request{}), slot)
	// A device that has lost its configuration goes by its own again.
	d.set(parameter.Values{"upload_interval": int64(60)})
	d.exchange(wire.Request{})
	next(d.acks(wire.ConfigAck{Revision: 3, Accepted: []string{"upload_interval", "night_mode"}}), time.Minute)
	d.set(parameter.Values{})
	next(d.acks(wire.ConfigAck{}), slot)
	next(d.exchange(wire.Request{}), slot)
}

// A change of a group or of a template reaches every device that it concerns, and
// no other, at once where its answer is held back; moving a device counts too.
func TestConfigOfAGroupReachesItsMembers(t *testing.T) {
	c := newCloud(t)
	move := func(name, group string) {
		t.Helper()
		if err := c.store.UpdateDevice(t.Context(), ecowatt.DeviceID(name), registry.Change{Group: &group}, audit.Actor{Kind: audit.Operator, Name: "ann"}, c.time()); err != nil {
			t.Fatal(err)
		}
	}
	var north []*device
	for i := range 150 {
		d := c.add(fmt.Sprintf("roof-%03d", i))
		move(d.name, "north")
		north = append(north, d)
	}
	south := c.connected("south-1")
	c.set(config.Scope{Kind: config.OfGroup, Name: "north"}, parameter.Values{"compression": "fast"})
	rounds := 0
	for more := true; more; rounds++ {
		var err error
		if _, more, err = c.store.SpreadConfig(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if rounds < 2 {
		t.Error("a large group is done in one transaction")
	}
	for _, i := range []int{0, 75, 149} {
		north[i].connect()
		north[i].told(north[i].name, north[i].exchange(wire.Request{}).Config, update(1, map[string]any{"compression": "fast"}))
	}
	if got := south.exchange(wire.Request{}).Config; got != nil {
		t.Errorf("%+v", got)
	}
	pending, drifted, err := c.store.ConfigCounts(t.Context())
	if pending != 150 || drifted != 0 || err != nil {
		t.Errorf("%d pending, %d drifted, %v", pending, drifted, err)
	}
	move("south-1", "north")
	south.told("moved", south.exchange(wire.Request{}).Config, update(1, map[string]any{"compression": "fast"}))
	move("south-1", "")
	south.told("moved out", south.exchange(wire.Request{}).Config, update(2, map[string]any{}))
}

// What is set while the answer is held back goes out at once.
func TestConfigWakes(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	c.holding(gateway.DefaultHold)
	r, answers := d.ask(t.Context())
	c.held(1)
	d.set(parameter.Values{"log_level": "warn"})
	d.told("held", d.opened(r, <-answers).Config, update(1, map[string]any{"log_level": "warn"}))
}

// The results of many messages do not keep a configuration away, nor the other way
// round; what has no room waits.
func TestConfigHasRoom(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	var points []any
	for i := range parameter.MaxPoints {
		points = append(points, fmt.Sprintf("point_%03d", i))
	}
	d.set(parameter.Values{"registers": points})
	var many []wire.Message
	for i := range 400 {
		many = append(many, d.block(start, 1, int64(i)))
	}
	a := d.exchange(wire.Request{Messages: many, MaxAnswer: 8192})
	if a.Config == nil || len(a.Results) < 50 {
		t.Errorf("configuration %v, %d results", a.Config != nil, len(a.Results))
	}
	a = d.exchange(wire.Request{Messages: many, MaxAnswer: 1024})
	if a.Config != nil || len(a.Results) == 0 {
		t.Errorf("configuration %v, %d results", a.Config != nil, len(a.Results))
	}
	d.stands("1 pending")
}

// A transaction that fails leaves the change as it was, to be sent again.
func TestConfigSurvivesAFailure(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	d.set(parameter.Values{"log_level": "warn"})
	boom := errors.New("boom")
	c.unchanged("a unit that fails", func() {
		err := c.store.Commit(context.Background(), func(tx *store.Tx) error {
			if err := tx.ConfigSent(1, 1, c.time()); err != nil {
				return err
			}
			a, err := config.NewAnswer(1, []string{"log_level"}, nil, nil)
			if err == nil {
				_, err = tx.SettleConfig(1, a, c.time())
			}
			return errors.Join(err, boom)
		})
		if !errors.Is(err, boom) {
			t.Error(err)
		}
	})
	if got := d.exchange(wire.Request{}).Config; got == nil || got.Revision != 1 {
		t.Errorf("%+v", got)
	}
}
