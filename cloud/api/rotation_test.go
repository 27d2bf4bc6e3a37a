package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/session"
	"ecowatt/cloud/store"
	"ecowatt/key"
	"ecowatt/wire"
)

// ask is a request of the administrator.
func (c *cloud) ask(method, path, body string) reply {
	c.t.Helper()
	return c.do(method, path, c.tokens[access.Administrator], body)
}

func (c *cloud) shown(id string) DeviceKey {
	c.t.Helper()
	return decode[Device](c.t, c.get("/api/v1/devices/"+id).body).Key
}

// told returns the actions of the audit log about a device but the first, with
// who did them.
func (c *cloud) told(id string) (out []string) {
	c.t.Helper()
	records, err := c.store.AuditRecords(c.t.Context(), audit.Filter{Device: ecowatt.DeviceID(id)})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, r := range records[1:] {
		out = append(out, fmt.Sprintf("%s by %s %s", r.Action, r.Actor.Kind, r.Actor.Name))
	}
	return out
}

func TestRotateKey(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	if diff := cmp.Diff(DeviceKey{Epoch: 1, Since: c.now}, c.shown("roof-1")); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	order := func(body string, want Rotation) {
		t.Helper()
		r := c.ask(http.MethodPost, "/api/v1/devices/roof-1/key-rotation", body)
		if r.status != http.StatusAccepted {
			t.Fatalf("%s: %d %s", body, r.status, r.body)
		}
		if diff := cmp.Diff(want, decode[Rotation](t, r.body)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", body, diff)
		}
		if diff := cmp.Diff(DeviceKey{Epoch: 1, Since: start, Pending: &want}, c.shown("roof-1")); diff != "" {
			t.Errorf("%s shows (-want +got):\n%s", body, diff)
		}
	}
	want := Rotation{Epoch: 2, OfferFrom: c.now}
	order(`{}`, want)
	c.now = c.now.Add(time.Minute)
	order(`{}`, want)              // nothing new
	order(`{"over_s":3600}`, want) // it is not put off
	want.Burn = true
	order(`{"burn":true}`, want)  // raised,
	order(`{"burn":false}`, want) // and never lowered
	if diff := cmp.Diff([]string{"rotation.ordered by operator administrator", "rotation.changed by operator administrator"}, c.told("roof-1")); diff != "" {
		t.Errorf("audit log (-want +got):\n%s", diff)
	}
	if r := c.ask(http.MethodDelete, "/api/v1/devices/roof-1/key-rotation", ""); r.status != http.StatusNoContent {
		t.Errorf("cancelled: %d %s", r.status, r.body)
	}
	if k := c.shown("roof-1"); k.Pending != nil {
		t.Errorf("cancelled, and still shown: %+v", k.Pending)
	}
	r := c.ask(http.MethodDelete, "/api/v1/devices/roof-1/key-rotation", "")
	if p := problemOf(t, r); r.status != http.StatusNotFound || p.Detail != `no rotation of device "roof-1" is pending` {
		t.Errorf("cancelled again: %+v", p)
	}
	if told := c.told("roof-1"); told[len(told)-1] != "rotation.cancelled by operator administrator" {
		t.Errorf("audit log: %v", told)
	}
}

// What is put off comes earlier when somebody asks for it now.
func TestRotateKeySooner(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "")
	late := decode[Rotation](t, c.ask(http.MethodPost, "/api/v1/devices/roof-1/key-rotation", `{"over_s":7776000}`).body)
	if late.OfferFrom.Before(c.now) || late.OfferFrom.After(c.now.Add(90*24*time.Hour)) {
		t.Errorf("offered from %v", late.OfferFrom)
	}
	soon := decode[Rotation](t, c.ask(http.MethodPost, "/api/v1/devices/roof-1/key-rotation", `{}`).body)
	if !soon.OfferFrom.Equal(c.now) || soon.Epoch != late.Epoch {
		t.Errorf("%+v after %+v", soon, late)
	}
}

func TestRotationIsRefused(t *testing.T) {
	c := newCloud(t)
	c.add("roof-1", "north")
	before := c.get("/api/v1/devices").body
	for _, test := range []struct {
		path, body string
		status     int
		says       string
	}{
		{"/devices/absent/key-rotation", `{}`, 404, `there is no device "absent"`},
		{"/devices/No Good/key-rotation", `{}`, 404, `there is no device "No Good"`},
		{"/devices/roof-1/key-rotation", `{"over_s":-1}`, 422, "not within 0 and 7776000"},
		{"/devices/roof-1/key-rotation", `{"over_s":7776001}`, 422, "not within 0 and 7776000"},
		{"/devices/roof-1/key-rotation", `{"over_s":9223372036854775807}`, 422, "not within 0 and 7776000"},
		{"/devices/roof-1/key-rotation", `{"burn":1}`, 422, "expected boolean"},
		{"/devices/roof-1/key-rotation", `{"fire":true}`, 422, "unexpected property"},
		{"/key-rotations", `{}`, 422, "give either group or all"},
		{"/key-rotations", `{"all":true,"group":"north"}`, 422, "give either group or all"},
		{"/key-rotations", `{"group":"No Good"}`, 422, "not a valid name"},
		{"/key-rotations", `{"all":true,"over_s":7776001}`, 422, "not within 0 and 7776000"},
		{"/devices/absent/recovery", `{"for_s":60}`, 404, `there is no device "absent"`},
		{"/devices/roof-1/recovery", `{}`, 422, "expected required property for_s"},
		{"/devices/roof-1/recovery", `{"for_s":59}`, 422, "not within 60 and 604800"},
		{"/devices/roof-1/recovery", `{"for_s":604801}`, 422, "not within 60 and 604800"},
		{"/devices/roof-1/recovery", `{"for_s":-9223372036854775808}`, 422, "not within 60 and 604800"},
		{"/devices/roof-1/recovery", `{"for_s":60}`, 409, "its first key is the one in use"},
	} {
		r := c.ask(http.MethodPost, "/api/v1"+strings.ReplaceAll(test.path, " ", "%20"), test.body)
		problemOf(t, r)
		if r.status != test.status || !strings.Contains(strings.ReplaceAll(r.body, `\"`, `"`), test.says) {
			t.Errorf("%s %s: %d %s", test.path, test.body, r.status, r.body)
		}
	}
	if r := c.ask(http.MethodDelete, "/api/v1/devices/absent/recovery", ""); r.status != http.StatusNotFound {
		t.Errorf("closing for nobody: %d", r.status)
	}
	if after := c.get("/api/v1/devices").body; after != before {
		t.Errorf("something was done:\n%s", cmp.Diff(before, after))
	}
}

// A key that was offered may be in use at any moment: it is not taken back.
func TestOfferedIsNotCancelled(t *testing.T) {
	c := newCloud(t)
	d := c.talker("roof-1")
	c.ask(http.MethodPost, "/api/v1/devices/roof-1/key-rotation", `{}`)
	d.offered()
	if k := c.shown("roof-1"); k.Pending == nil || k.Pending.OfferedAt == nil || !k.Pending.OfferedAt.Equal(c.now) {
		t.Errorf("offered, and shown as %+v", k.Pending)
	}
	r := c.ask(http.MethodDelete, "/api/v1/devices/roof-1/key-rotation", "")
	if p := problemOf(t, r); r.status != http.StatusConflict || !strings.Contains(p.Detail, "offered") {
		t.Errorf("%d %+v", r.status, p)
	}
	c.now = c.now.Add(time.Minute)
	d.rotated()
	if diff := cmp.Diff(DeviceKey{Epoch: 2, Since: c.now}, c.shown("roof-1")); diff != "" {
		t.Errorf("once it is used (-want +got):\n%s", diff)
	}
}

func TestRotateKeysOfAFleet(t *testing.T) {
	c := newCloud(t)
	for i := range 5 {
		c.add(fmt.Sprintf("n%d", i), "north")
		c.add(fmt.Sprintf("s%d", i), "south")
	}
	c.ask(http.MethodPost, "/api/v1/devices/n1/key-rotation", `{}`)
	order := func(body string, want FleetOrdered) {
		t.Helper()
		r := c.ask(http.MethodPost, "/api/v1/key-rotations", body)
		if r.status != http.StatusAccepted {
			t.Fatalf("%d %s", r.status, r.body)
		}
		if diff := cmp.Diff(want, decode[FleetOrdered](t, r.body)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", body, diff)
		}
	}
	order(`{"group":"north","over_s":604800}`, FleetOrdered{Ordered: 4, Pending: 1})
	if k := c.shown("s1"); k.Pending != nil {
		t.Error("another group is rotated as well")
	}
	order(`{"all":true,"burn":true}`, FleetOrdered{Ordered: 5, Pending: 5})
	for i := range 5 {
		for _, id := range []string{fmt.Sprintf("n%d", i), fmt.Sprintf("s%d", i)} {
			if k := c.shown(id); k.Pending == nil || !k.Pending.Burn || !k.Pending.OfferFrom.Equal(c.now) {
				t.Errorf("%s: %+v", id, k.Pending)
			}
		}
	}
	order(`{"group":"east"}`, FleetOrdered{})
	if told := c.told("s0"); len(told) != 1 || told[0] != "rotation.ordered by operator administrator" {
		t.Errorf("audit log: %v", told)
	}
}

func TestRecovery(t *testing.T) {
	c := newCloud(t)
	d := c.talker("roof-1")
	c.ask(http.MethodPost, "/api/v1/devices/roof-1/key-rotation", `{}`)
	d.offered()
	d.rotated()
	open := func(body string, until time.Time) {
		t.Helper()
		r := c.ask(http.MethodPost, "/api/v1/devices/roof-1/recovery", body)
		if r.status != http.StatusOK {
			t.Fatalf("%d %s", r.status, r.body)
		}
		pending := Rotation{Epoch: 3, OfferFrom: start}
		if diff := cmp.Diff(Recovery{RecoveryUntil: until, Pending: pending}, decode[Recovery](t, r.body)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", body, diff)
		}
		if diff := cmp.Diff(DeviceKey{Epoch: 2, Since: start, Pending: &pending, RecoveryUntil: &until}, c.shown("roof-1")); diff != "" {
			t.Errorf("%s shows (-want +got):\n%s", body, diff)
		}
	}
	open(`{"for_s":3600}`, start.Add(time.Hour))
	c.now = start.Add(time.Minute)
	open(`{"for_s":60}`, start.Add(2*time.Minute)) // moved, and the same key
	r := c.ask(http.MethodDelete, "/api/v1/devices/roof-1/key-rotation", "")
	if p := problemOf(t, r); r.status != http.StatusConflict || !strings.Contains(p.Detail, "window is open") {
		t.Errorf("the key that the window waits for is cancelled: %d %+v", r.status, p)
	}
	for range 2 { // closing again does nothing
		if r := c.ask(http.MethodDelete, "/api/v1/devices/roof-1/recovery", ""); r.status != http.StatusNoContent {
			t.Errorf("closed: %d %s", r.status, r.body)
		}
		if k := c.shown("roof-1"); k.RecoveryUntil != nil {
			t.Errorf("closed, and shown as open until %v", k.RecoveryUntil)
		}
	}
	open(`{"for_s":60}`, start.Add(2*time.Minute))
	c.now = start.Add(2 * time.Minute)
	if k := c.shown("roof-1"); k.RecoveryUntil != nil {
		t.Error("past its end, and shown as open")
	}
	want := []string{"recovery.opened", "recovery.opened", "recovery.closed", "recovery.opened"}
	var got []string
	for _, told := range c.told("roof-1") {
		if action, who, _ := strings.Cut(told, " by "); strings.HasPrefix(action, "recovery.") {
			got = append(got, action)
			if who != "operator administrator" {
				t.Errorf("%s by %s", action, who)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("audit log (-want +got):\n%s", diff)
	}
}

// A first key that was burned is nothing to recover with.
func TestNoRecoveryAfterBurn(t *testing.T) {
	c := newCloud(t)
	d := c.talker("roof-1")
	c.ask(http.MethodPost, "/api/v1/devices/roof-1/key-rotation", `{"burn":true}`)
	d.offered()
	d.rotated()
	r := c.ask(http.MethodPost, "/api/v1/devices/roof-1/recovery", `{"for_s":60}`)
	if p := problemOf(t, r); r.status != http.StatusConflict || !strings.Contains(p.Detail, `device "roof-1": its first key was destroyed`) {
		t.Errorf("%d %+v", r.status, p)
	}
}

// start is the time of these tests until they move it.
var start = time.Date(2026, 6, 21, 12, 0, 0, 0, time.UTC)

// talker is a device as the store knows it when it talks to the gateway.
type talker struct {
	*cloud
	key  key.ID
	next key.ID // that it was offered
	made byte   // handshakes
}

// talker adds a device and lets the store commit.
func (c *cloud) talker(id string) *talker {
	c.t.Helper()
	r := c.ask(http.MethodPost, "/api/v1/devices", `{"id":"`+id+`"}`)
	added := decode[struct {
		Device    Device
		Enrolment struct {
			PSKID key.ID `json:"psk_id"`
			ID    string `json:"device_id"`
			URL   string `json:"cloud_url"`
			Key   string `json:"key"`
			Epoch int    `json:"epoch"`
			Root  string `json:"firmware_root"`
		}
	}](c.t, r.body)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.store.Run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Error(err)
		}
	})
	return &talker{cloud: c, key: added.Enrolment.PSKID}
}

// exchange is what the gateway does with the first request of a session, whose
// answer has room for a key.
func (d *talker) exchange() session.Raised {
	d.t.Helper()
	d.made++
	o := session.Offer{
		KeyID: d.key, HS1: [32]byte{d.made}, HS2: []byte{d.made}, SID: wire.SessionID{d.made},
		KEK: "kek1", Wrapped: make([]byte, 136), At: d.now, Lifetime: time.Hour,
	}
	if _, err := d.store.Establish(d.t.Context(), o); err != nil {
		d.t.Fatal(err)
	}
	s, err := d.store.Session(d.t.Context(), o.SID)
	if err != nil {
		d.t.Fatal(err)
	}
	var raised session.Raised
	err = d.store.Commit(d.t.Context(), func(tx *store.Tx) (err error) {
		raised, err = tx.Raise(session.Claim{Session: s, Seq: 1, At: d.now, Offer: true})
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	if raised.Offers {
		d.next = s.Next.ID
	}
	return raised
}

// offered exchanges, which must bring the offer of a key.
func (d *talker) offered() {
	d.t.Helper()
	if r := d.exchange(); !r.OffersNew {
		d.t.Fatalf("no key is offered: %+v", r)
	}
}

// rotated exchanges with the key that it was offered.
func (d *talker) rotated() {
	d.t.Helper()
	d.key = d.next
	if r := d.exchange(); !r.Committed {
		d.t.Fatalf("the key is not committed: %+v", r)
	}
}
