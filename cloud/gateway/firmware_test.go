package gateway_test

import (
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/gateway"
	"ecowatt/cloud/rollout"
	"ecowatt/key"
	"ecowatt/wire"
)

// Attacks: F23, A4
//
// From the offer to a healthy device: the release stands in every answer until the
// image runs, whatever gets lost and through a restart of the cloud; every step is
// in the log, and the key of the content is nowhere.
func TestUpdate(t *testing.T) {
	c := newReleasing(t)
	roots := [][]byte{{1, 1}, {2, 2, 2}}
	c.roots = func() [][]byte { return roots }
	c.use(c.options().Store)
	d := c.gatewayOf("roof-1")
	if a := d.exchange(wire.Request{}); a.Firmware != nil {
		t.Fatalf("nothing is rolled out: %+v", a.Firmware)
	}
	r := c.rollOut(nil)
	want := &wire.FirmwareOffer{
		Manifest: c.release.ID, Envelope: c.release.Envelope, Path: "/v1/artifacts/", RootUpdates: roots, Downgrades: r.Downgrades,
	}
	offered := func(what string, a wire.Answer) {
		t.Helper()
		if a.Firmware == nil || !a.Firmware.Content.Equal(c.content) {
			t.Fatalf("%s: the offer is %+v", what, a.Firmware)
		}
		got := *a.Firmware
		got.Content = key.Content{}
		if diff := cmp.Diff(*want, got, cmp.Comparer(func(a, b key.Content) bool { return a.Equal(b) })); diff != "" {
			t.Fatalf("%s (-want +got):\n%s", what, diff)
		}
	}
	d.send(d.seal(wire.Request{})) // its answer is lost
	c.restart()
	d.connect()
	offered("in the first answer of a session", d.exchange(wire.Request{}))
	offered("again", d.exchange(wire.Request{Firmware: running(11, former, wire.FirmwareConfirmed)}))
	report := func(phase string, done uint64) wire.Message {
		return d.fota(wire.FotaStatus{Manifest: c.release.ID, Phase: phase, Done: done, All: 9})
	}
	offered("while it is fetched", d.exchange(wire.Request{Messages: []wire.Message{report("offered", 0), report("downloading", 0)}}))
	c.wait(time.Minute)
	twice := report("downloading", 4)
	d.exchange(wire.Request{Messages: []wire.Message{twice}})
	d.exchange(wire.Request{Messages: []wire.Message{twice}})
	if u := d.update(r.ID); u.Phase != rollout.Downloading || u.Done != 4 || u.All != 9 {
		t.Errorf("%+v", u)
	}
	offered("before it switches", d.exchange(wire.Request{Messages: []wire.Message{report("downloaded", 9), report("verified", 9)}}))
	c.wait(time.Minute)
	// The device is on trial, and what it said before that comes with it.
	a := d.exchange(wire.Request{
		Firmware: running(12, c.release.Image, wire.FirmwareTrial), Messages: []wire.Message{report("switching", 9), report("trial", 9)},
	})
	if a.Firmware != nil {
		t.Error("it is offered what it runs")
	}
	c.wait(6 * time.Minute)
	confirmed := c.time()
	d.exchange(wire.Request{Firmware: running(12, c.release.Image, wire.FirmwareConfirmed), Messages: []wire.Message{report("confirmed", 9)}})
	c.wait(59 * time.Minute)
	d.say(d.block(c.time().Add(-time.Minute), 60, 1))
	if u := d.update(r.ID); u.Phase != rollout.Confirmed || !u.Times[rollout.Confirmed].Equal(confirmed) {
		t.Fatalf("%+v", u)
	}
	c.wait(2 * time.Minute)
	d.exchange(wire.Request{}) // without telemetry it is not known to be healthy
	if u := d.update(r.ID); u.Phase != rollout.Confirmed {
		t.Fatalf("%+v", u)
	}
	d.say(d.block(c.time().Add(-time.Minute), 60, 1))
	c.advance()
	if v := c.rollout(r.ID); v.State != rollout.Done || v.All()[rollout.Healthy] != 1 {
		t.Errorf("%s %v", v.State, v.All())
	}
	if diff := cmp.Diff([]string{
		"due by rollouts", "offered by gateway", "downloading by roof-1", "downloaded by roof-1", "verified by roof-1", "switching by roof-1",
		"trial by roof-1", "confirmed by roof-1", "healthy by roof-1",
	}, c.updateLog("roof-1")); diff != "" {
		t.Error(diff)
	}
	if got := c.record("roof-1", "update.confirmed"); got.Attrs[audit.AttrReason] != "FW_CONFIRMED" || got.Attrs["release"] != c.release.ID.String() {
		t.Errorf("%+v", got)
	}
	secret := c.content.Secret()
	if all := c.log.String() + c.dump(); strings.Contains(all, hex.EncodeToString(secret[:8])) || strings.Contains(all, string(secret[:8])) {
		t.Error("the key of the content is somewhere")
	}
}

// reportCase is what a device says of an update, and what becomes of it.
type reportCase struct {
	say    func(d *device)
	phase  rollout.Phase
	code   string
	log    []string // after it was offered
	reason string   // of the last of them
}

func (c *releasing) reportCases() map[string]reportCase {
	status := c.status
	return map[string]reportCase{
		"a refusal": {
			func(d *device) { d.say(status(d, "refused", "FW_BAD_SIGNATURE")) },
			rollout.Failed, "FW_BAD_SIGNATURE",
			[]string{"failed by D, FW_BAD_SIGNATURE"},
			"FW_BAD_SIGNATURE",
		},
		"a chunk that is wrong": {
			func(d *device) {
				d.say(status(d, "downloading", ""), status(d, "downloading", "FW_BAD_CHUNK"), status(d, "downloading", "FW_BAD_CHUNK"))
			},
			rollout.Downloading, "FW_BAD_CHUNK",
			[]string{"downloading by D", "downloading by D, FW_BAD_CHUNK"},
			"FW_BAD_CHUNK",
		},
		"a try that came to nothing": {
			func(d *device) { d.say(status(d, "failed", "no_space"), status(d, "downloading", "")) },
			rollout.Downloading, "",
			[]string{"retrying by D, no_space", "downloading by D"},
			"",
		},
		"it went back, and said so": {
			func(d *device) {
				d.exchange(wire.Request{Firmware: running(12, c.release.Image, wire.FirmwareTrial)})
				d.exchange(wire.Request{Firmware: running(11, former, wire.FirmwareRolledBack), Messages: []wire.Message{status(d, "rolled_back", "crash")}})
			},
			rollout.RolledBack, "crash",
			[]string{"trial by D", "rolled_back by D, crash"},
			"FW_ROLLED_BACK",
		},
		"it went back, and says why later": {
			func(d *device) {
				d.exchange(wire.Request{Firmware: running(12, c.release.Image, wire.FirmwareTrial)})
				d.exchange(wire.Request{Firmware: running(11, former, wire.FirmwareRolledBack)})
				d.say(status(d, "rolled_back", "hang"))
			},
			rollout.RolledBack, "",
			[]string{"trial by D", "rolled_back by D", "reported by D, hang"},
			"",
		},
		"that it confirmed is not believed": {
			func(d *device) { d.say(status(d, "confirmed", "")) },
			rollout.Offered, "", nil, "",
		},
		"another image in the slot": {
			func(d *device) {
				d.exchange(wire.Request{Firmware: running(12, rollout.Hash{9}, wire.FirmwareConfirmed)})
			},
			rollout.Offered, "", nil, "",
		},
		"another release": {
			func(d *device) {
				d.say(d.fota(wire.FotaStatus{Manifest: [32]byte{7}, Phase: "refused", Code: "FW_DOWNGRADE"}))
			},
			rollout.Offered, "",
			[]string{"reported by D, FW_DOWNGRADE"},
			"FW_DOWNGRADE",
		},
	}
}

// status is a message that tells of the release.
func (c *releasing) status(d *device, phase, code string) wire.Message {
	return d.fota(wire.FotaStatus{Manifest: c.release.ID, Phase: phase, Code: code, Text: "as\x00told,\n\n\tin lines\n"})
}

// What a device says of an update, and what becomes of it.
func TestUpdateReports(t *testing.T) {
	c := newReleasing(t)
	for name, x := range c.reportCases() {
		d := c.gatewayOf("d-" + strings.Map(func(r rune) rune {
			if r < 'a' || r > 'z' {
				return '-'
			}
			return r
		}, name))
		r := c.rollOut(func(s *rollout.Spec) {
			s.Target.Devices = []ecowatt.DeviceID{ecowatt.DeviceID(d.name)}
			s.MaxFailed = 100
		})
		d.exchange(wire.Request{})
		x.say(d)
		if u := d.update(r.ID); u.Phase != x.phase || u.Code != x.code || strings.HasPrefix(u.Text, "as") && u.Text != "as\ufffdtold, in lines" {
			t.Errorf("%s: %s, %s, %q", name, u.Phase, u.Code, u.Text)
		}
		log := c.updateLog(d.name)[2:]
		for i := range log {
			log[i] = strings.Replace(log[i], "by "+d.name, "by D", 1)
		}
		if diff := cmp.Diff(x.log, log, cmp.Comparer(func(a, b []string) bool { return slices.Equal(a, b) })); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		last := audit.Record{}
		for _, r := range c.audit(d.name) {
			if strings.HasPrefix(r.Action, "update.") {
				last = r
			}
		}
		if last.Attrs[audit.AttrReason] != x.reason {
			t.Errorf("%s: the last record is %+v", name, last)
		}
	}
	d := c.gatewayOf("roof-2")
	r := c.rollOut(func(s *rollout.Spec) { s.Target.Devices = []ecowatt.DeviceID{"roof-2"} })
	for n := range uint64(3) { // the same trouble is told once, and numbers are bounded
		d.say(d.fota(wire.FotaStatus{Manifest: c.release.ID, Phase: "downloading", Code: "no_space", Done: n, All: math.MaxUint64}))
	}
	if u, log := d.update(r.ID), c.updateLog(d.name); len(log) != 2 || u.Done != 2 || u.All != 1<<32 {
		t.Errorf("%d of %d, %v", u.Done, u.All, log)
	}
	if got := d.say(c.status(d, "exploded", ""), c.status(d, "", "")); got[0].Status != wire.Invalid || got[1].Status != wire.Invalid {
		t.Errorf("phases that there are not: %+v", got)
	}
}

// Telemetry proves health when it was measured long enough after the image was
// confirmed, by whatever clock; a clock that runs ahead proves nothing.
func TestHealth(t *testing.T) {
	c := newReleasing(t)
	confirm := func(name string, change func(*rollout.Spec)) (*device, func() rollout.Phase) {
		d := c.gatewayOf(name)
		r := c.rollOut(func(s *rollout.Spec) {
			s.Target.Devices = []ecowatt.DeviceID{ecowatt.DeviceID(name)}
			if change != nil {
				change(s)
			}
		})
		d.exchange(wire.Request{Firmware: running(12, c.release.Image, wire.FirmwareConfirmed)})
		return d, func() rollout.Phase { return d.update(r.ID).Phase }
	}
	d, phase := confirm("ahead", nil)
	c.wait(30 * time.Minute)
	d.say(d.block(c.time().Add(2*time.Hour), 1, 1))
	if phase() != rollout.Confirmed {
		t.Error("telemetry of the future proves health")
	}
	c.wait(31 * time.Minute)
	d.say(d.block(c.time().Add(-90*time.Minute), 1, 1))
	if phase() != rollout.Confirmed {
		t.Error("telemetry from before proves health")
	}
	late := d.block(c.time().Add(-20*time.Second), 10, 1)
	d.say(late)
	if phase() != rollout.Healthy {
		t.Errorf("it is %s", phase())
	}

	d, phase = confirm("no-clock", nil)
	c.wait(time.Hour)
	d.say(d.telemetry(c.time().Sub(d.up).Milliseconds()-61_000, 60, 1, &d.boot))
	if phase() != rollout.Confirmed {
		t.Error("it ends two seconds too early")
	}
	d.say(d.telemetry(c.time().Sub(d.up).Milliseconds()-59_000, 60, 1, &d.boot))
	if phase() != rollout.Healthy {
		t.Errorf("timed since boot: it is %s", phase())
	}

	d, phase = confirm("no-telemetry", func(s *rollout.Spec) { s.NoTelemetry = true })
	c.wait(time.Hour - time.Second)
	d.exchange(wire.Request{})
	if phase() != rollout.Confirmed {
		t.Error("too early")
	}
	c.wait(time.Second)
	d.exchange(wire.Request{})
	if phase() != rollout.Healthy {
		t.Errorf("it speaks, and is %s", phase())
	}
}

// Nobody is told of the release while the rollout rests, nor after it was aborted
// unless who is under way may finish. A release that is gone is not offered.
func TestRestingRolloutIsNotOffered(t *testing.T) {
	c := newReleasing(t)
	d, never := c.gatewayOf("roof-1"), c.gatewayOf("roof-2")
	r := c.rollOut(nil)
	offered := func(what string, want bool, devices ...*device) {
		t.Helper()
		for _, d := range devices {
			if a := d.exchange(wire.Request{Firmware: running(11, former, wire.FirmwareConfirmed)}); (a.Firmware != nil) != want {
				t.Fatalf("%s: %s is offered %v", what, d.name, a.Firmware != nil)
			}
		}
	}
	offered("running", true, d)
	c.instruct(r.ID, rollout.Pause, false)
	offered("paused", false, d, never)
	c.instruct(r.ID, rollout.Resume, false)
	offered("resumed", true, d)
	c.instruct(r.ID, rollout.Abort, true)
	offered("aborted", true, d)
	offered("aborted before it began", false, never)
	if diff := cmp.Diff(rollout.Tally{rollout.Offered: 1, rollout.Skipped: 1}, c.rollout(r.ID).All()); diff != "" {
		t.Error(diff)
	}
	second := c.rollOut(func(s *rollout.Spec) { s.Target.Devices = []ecowatt.DeviceID{"roof-2"} })
	offered("another rollout", true, never)
	c.instruct(second.ID, rollout.Abort, false)
	offered("aborted", false, never)
	if u := never.update(second.ID); u.Phase != rollout.Withdrawn {
		t.Errorf("%+v", u)
	}
	never.exchange(wire.Request{Firmware: running(12, c.release.Image, wire.FirmwareConfirmed)})
	if u := never.update(second.ID); u.Phase != rollout.Confirmed {
		t.Errorf("what it did all the same is not seen: %s", u.Phase)
	}
	c.exec(t, `DELETE FROM firmware`)
	offered("gone", false, d)
}

// The offer takes its room before results do, and is left out where the device does
// not take an answer of that length.
func TestOfferNeedsRoom(t *testing.T) {
	c := newReleasing(t)
	c.roots = func() [][]byte { return [][]byte{make([]byte, 300)} }
	c.use(c.options().Store)
	d := c.gatewayOf("roof-1")
	r := c.rollOut(nil)
	least := -1
	for limit := 512; limit < 8<<10 && least < 0; limit += wire.PadUnit {
		q := d.seal(wire.Request{MaxAnswer: uint32(limit)})
		got := d.send(q)
		if len(got.body) > limit {
			t.Fatalf("an answer of %d bytes, and %d are taken", len(got.body), limit)
		}
		if d.opened(q, got).Firmware != nil {
			least = limit
		}
	}
	if least < 0 || least > int(r.Offer)+300+300+wire.AnswerOverhead {
		t.Fatalf("the offer of %d bytes needs an answer of %d", r.Offer, least)
	}
	var many []wire.Message
	for i := range 512 {
		many = append(many, d.block(c.time().Add(time.Duration(i-600)*time.Second), 1, 1))
	}
	q := d.seal(wire.Request{MaxAnswer: uint32(2 * least), Messages: many})
	got := d.send(q)
	a := d.opened(q, got)
	if a.Firmware == nil || len(a.Results) == 0 || len(got.body) > 2*least {
		t.Errorf("beside %d results there is the offer: %v, in %d bytes", len(a.Results), a.Firmware != nil, len(got.body))
	}
}

// An answer that is held goes out when the stage of the device begins.
func TestHoldWakesForARelease(t *testing.T) {
	c := newReleasing(t)
	d := c.gatewayOf("roof-1")
	c.holding(gateway.DefaultHold)
	q, answers := d.ask(t.Context())
	c.held(1)
	c.rollOut(nil)
	if a := d.soon(q, answers); a.Firmware == nil || !a.Firmware.Content.Equal(c.content) {
		t.Errorf("%+v", a.Firmware)
	}
	if diff := cmp.Diff([]string{"due by rollouts", "offered by gateway"}, c.updateLog("roof-1")); diff != "" {
		t.Error(diff)
	}
}

// Attacks: F23
//
// Replicas agree: an offer is sent for the first time once, whoever is asked, and
// a rollout that one of them stops offers nothing at the other one.
func TestReplicasRollOut(t *testing.T) {
	c := newReleasing(t)
	var fleet []*device
	for i := range 12 {
		fleet = append(fleet, c.gatewayOf(fmt.Sprintf("roof-%d", i)))
	}
	other := c.replica()
	r := c.rollOut(func(s *rollout.Spec) { s.MinSample, s.MaxFailed = 2, 10 })
	var wait sync.WaitGroup
	for i, d := range fleet {
		wait.Go(func() {
			x := []*device{d, d.at(other)}
			for k := range 4 {
				if a := x[(i+k)%2].exchange(wire.Request{}); a.Firmware == nil || a.Firmware.Manifest != c.release.ID {
					t.Errorf("%s is offered %+v", d.name, a.Firmware)
				}
				x[(i+k+1)%2].seq = x[(i+k)%2].seq
			}
			d.seq = max(x[0].seq, x[1].seq)
		})
	}
	wait.Wait()
	for _, d := range fleet {
		if diff := cmp.Diff([]string{"due by rollouts", "offered by gateway"}, c.updateLog(d.name)); diff != "" {
			t.Error(diff)
		}
	}
	refuse := fleet[0].fota(wire.FotaStatus{Manifest: c.release.ID, Phase: "refused", Code: "no_space"})
	fleet[0].say(refuse)
	fleet[1].at(other).say(fleet[1].fota(wire.FotaStatus{Manifest: c.release.ID, Phase: "refused", Code: "no_space"}))
	fleet[1].seq++
	if v := c.rollout(r.ID); v.State != rollout.Stopped {
		t.Fatalf("%s, %v", v.State, v.All())
	}
	for i, d := range fleet {
		if a := []*device{d, d.at(other)}[i%2].exchange(wire.Request{}); a.Firmware != nil {
			t.Errorf("%s is told of a release that has stopped", d.name)
		}
	}
}

// Where the key of the content does not open the answer goes without the offer, the
// rest of it stands, and the log says so.
func TestReleaseThatDoesNotOpen(t *testing.T) {
	c := newReleasing(t)
	d := c.gatewayOf("roof-1")
	c.rollOut(nil)
	c.exec(t, `UPDATE firmware SET wrapped = zeroblob(72)`)
	a := d.exchange(wire.Request{Messages: []wire.Message{d.block(start, 1, 1)}})
	if a.Firmware != nil || len(a.Results) != 1 || a.Results[0].Status != wire.Stored {
		t.Errorf("%+v", a)
	}
	if !strings.Contains(c.log.String(), "preparing a release for a device") {
		t.Error(c.log.String())
	}
}

// An exchange of a device that no rollout concerns asks nothing about rollouts; one
// that watches asks once, one that is told of a release twice.
func TestRolloutQueries(t *testing.T) {
	c := newReleasing(t)
	counting := &queryStore{Store: c.options().Store}
	c.use(counting)
	d := c.gatewayOf("roof-1")
	cost := func(what string, want int64) {
		t.Helper()
		counting.queries.Store(0)
		d.exchange(wire.Request{Firmware: running(11, former, wire.FirmwareConfirmed), Messages: []wire.Message{d.block(c.time(), 1, 1)}})
		c.wait(time.Minute)
		if got := counting.queries.Load(); got != want {
			t.Errorf("%s: %d queries, want %d", what, got, want)
		}
	}
	cost("idle", 0)
	r := c.rollOut(func(s *rollout.Spec) { s.Stages[0].Start = c.time().Add(time.Hour) })
	cost("waiting", 0)
	c.wait(time.Hour)
	c.advance()
	cost("told for the first time", 3)
	cost("told", 2)
	d.say(d.fota(wire.FotaStatus{Manifest: c.release.ID, Phase: "trial"}))
	cost("on trial", 1)
	c.instruct(r.ID, rollout.Abort, false)
	d.say(d.fota(wire.FotaStatus{Manifest: c.release.ID, Phase: "rolled_back"}))
	cost("over", 0)
}

// What the database refuses is not half done: the device asks again.
func TestUpdateThatIsNotStored(t *testing.T) {
	c := newReleasing(t)
	d := c.gatewayOf("roof-1")
	r := c.rollOut(nil)
	for _, method := range []string{"Update", "OfferedRelease", "MoveUpdate", "NoteUpdate"} {
		c.use(&brokenStore{Store: c.options().Store, broken: method})
		q := d.seal(wire.Request{Messages: []wire.Message{
			d.fota(wire.FotaStatus{Manifest: c.release.ID, Phase: "downloading"}), d.fota(wire.FotaStatus{Manifest: c.release.ID, Phase: "downloading", Done: 1}),
		}})
		c.unchanged(method, func() { c.err(d.send(q), method, wire.CodeUnavailable) })
	}
	c.use(c.options().Store)
	if a := d.exchange(wire.Request{}); a.Firmware == nil || d.update(r.ID).Phase != rollout.Offered {
		t.Errorf("%+v", a)
	}
}
