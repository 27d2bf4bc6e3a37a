package gateway_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/gateway"
	"ecowatt/cloud/session"
	"ecowatt/key"
	"ecowatt/wire"
)

// tell makes the gateway tell what it has counted, as it does every minute.
func (c *cloud) tell() {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	cancel()
	if err := c.gateway.Run(ctx); err != nil {
		c.t.Error(err)
	}
}

// told returns the counts that the records of a reason tell of.
func (c *cloud) told(name string, reason wire.Reason) []string {
	c.t.Helper()
	counts := []string{}
	for _, r := range c.audit(name) {
		if r.Attrs["reason"] == string(reason) {
			counts = append(counts, r.Attrs["count"])
		}
	}
	return counts
}

func (c *cloud) wantTold(name string, reason wire.Reason, want ...string) {
	c.t.Helper()
	if got := c.told(name, reason); !slices.Equal(got, want) {
		c.t.Errorf("the log tells of %s %v, want %v", reason, got, want)
	}
}

// take makes a device use its key until it is let in, as an agent does that was
// refused, and returns whether it had to shake hands.
func (d *device) take() (shook bool) {
	d.t.Helper()
	if !d.Keys.IsZero() {
		r := d.seal(wire.Request{})
		got := d.send(r)
		if got.status == http.StatusOK {
			d.opened(r, got)
			return false
		}
		d.refused(got, "a session that was replaced")
	}
	d.connect()
	d.exchange(wire.Request{})
	return true
}

// TestTwoGatewaysWithOneKey is a clone: it takes turns with the device that it
// was copied from, and is told of when the first comes back for the first time,
// and then once an hour; both keep working.
//
// Attacks: R19
func TestTwoGatewaysWithOneKey(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	clone := *d
	clone.boot = wire.BootID(random16(t))
	other := c.connected("roof-2")
	for turn := range 60 {
		c.wait(7 * time.Minute)
		who := []*device{d, &clone}[turn%2]
		if !who.take() {
			t.Fatalf("turn %d: the session was not replaced", turn)
		}
		other.exchange(wire.Request{})
		if suspected := len(c.told("roof-1", wire.CloneSuspect)) > 0; suspected != (turn >= 2) {
			t.Fatalf("after turn %d: suspected %v", turn, suspected)
		}
	}
	r := c.record("roof-1", "device.clone_suspect")
	if r.Attrs["sign"] != "boot_returned" || r.Actor != (audit.Actor{Kind: audit.Device, Name: "roof-1"}) {
		t.Errorf("record %+v", r)
	}
	// 58 turns of 7 minutes that were suspicious, told of once an hour.
	if got := c.told("roof-1", wire.CloneSuspect); !slices.Equal(got[:3], []string{"1", "9", "9"}) || len(got) != 7 {
		t.Errorf("the log tells of %v", got)
	}
	c.wantTold("roof-2", wire.CloneSuspect)
}

// TestTwoAgentsOnOneMachine: they have one boot, and are told by how often they
// take each other's session.
//
// Attacks: R19
func TestTwoAgentsOnOneMachine(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	clone := *d
	for turn := range 5 {
		c.wait(7 * time.Minute)
		[]*device{d, &clone}[turn%2].take()
		if suspected := len(c.told("roof-1", wire.CloneSuspect)) > 0; suspected != (turn >= 4) {
			t.Fatalf("after %d switches: suspected %v", turn, suspected)
		}
	}
	if r := c.record("roof-1", "device.clone_suspect"); r.Attrs["sign"] != "often_replaced" {
		t.Errorf("record %+v", r)
	}
}

// TestRestartsAreNoClone: a device that starts anew, again and again, is never
// back where it was.
func TestRestartsAreNoClone(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	for range 10 {
		d.boot = wire.BootID(random16(t))
		d.connect()
		d.exchange(wire.Request{})
		c.wait(20 * time.Minute)
		d.exchange(wire.Request{})
	}
	c.wantTold("roof-1", wire.CloneSuspect)
}

// TestSuspicionIsOfTheConfirmation: what is refused raises none, and a unit that
// fails leaves nothing of it.
func TestSuspicionIsOfTheConfirmation(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	clone := *d
	clone.boot = wire.BootID(random16(t))
	d.take()
	c.wait(time.Minute)
	clone.take()
	failing := &failingStore{countingStore: countingStore{Store: gateway.Of(c.store), cloud: c}, err: errors.New("no")}
	c.wait(time.Minute)
	d.connect()
	c.use(failing)
	r := d.seal(wire.Request{})
	c.unchanged("a failing store", func() { c.err(d.send(r), "a failing store", wire.CodeUnavailable) })
	failing.err = nil
	c.use(&twiceStore{countingStore{Store: gateway.Of(c.store), cloud: c}})
	d.opened(r, d.send(r))
	c.wantTold("roof-1", wire.CloneSuspect, "1")
	c.unchanged("a replay", func() { c.refused(d.send(r), "a replay") })
}

// TestBadMessagesOnALivingSession: the session lives on, and the log is told how
// many there were, an hour apart at least.
//
// Attacks: R18
func TestBadMessagesOnALivingSession(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	bad := func(n int) {
		for i := range n {
			msg := d.seal(wire.Request{}).bytes
			d.seq--
			msg[len(msg)-1-i%32] ^= 1
			c.refused(d.post(wire.PathExchange, msg), "a bad message")
		}
	}
	c.unchanged("bad messages", func() { bad(100) })
	d.exchange(wire.Request{})
	c.tell()
	c.wantTold("roof-1", wire.ExchangeBadMAC, "100")
	r := c.record("roof-1", "message.refused")
	if r.Actor != (audit.Actor{Kind: audit.System, Name: "gateway"}) || !r.At.Equal(start) {
		t.Errorf("record %+v", r)
	}
	c.unchanged("nothing to tell", c.tell)
	for range 59 {
		c.wait(time.Minute)
		bad(10)
		c.tell()
	}
	c.wantTold("roof-1", wire.ExchangeBadMAC, "100")
	c.wait(time.Minute)
	c.tell() // the rest, though nothing comes any more
	c.wantTold("roof-1", wire.ExchangeBadMAC, "100", "590")
	if n := c.count("alarm"); n != 1 {
		t.Errorf("%d rows of alarms", n)
	}
	c.counted(map[wire.Reason]uint64{wire.ExchangeBadMAC: 690})
	d.exchange(wire.Request{})

	c.wait(48 * time.Hour)
	bad(5) // which anybody can do for ever with a session that is over
	c.tell()
	c.wantTold("roof-1", wire.ExchangeBadMAC, "100", "590")
}

// TestOldKeyIsTold: whoever uses a key that was replaced causes a record an hour,
// however often he does it, and his messages write nothing.
func TestOldKeyIsTold(t *testing.T) {
	c := newCloud(t)
	d, other := c.add("roof-1"), c.connected("roof-2")
	c.exec(t, `UPDATE device_key SET state = 'retired', kek = NULL, wrapped = NULL WHERE psk_id = ?`, d.id[:])
	old := func(n int) {
		for range n {
			_, hs1 := d.hello()
			c.refused(c.post(wire.PathSession, hs1), "an old key")
		}
	}
	c.unchanged("an old key", func() { old(50) })
	c.tell()
	c.wantTold("roof-1", wire.HandshakeOldEpoch, "50")
	if r := c.record("roof-1", "handshake.refused"); r.Actor != (audit.Actor{Kind: audit.System, Name: "gateway"}) {
		t.Errorf("record %+v", r)
	}
	for range 120 {
		old(2)
		c.wait(time.Minute)
		c.tell()
	}
	c.wantTold("roof-1", wire.HandshakeOldEpoch, "50", "120", "120")
	c.wantTold("roof-2", wire.HandshakeOldEpoch)
	other.exchange(wire.Request{})
}

// TestWhatCannotBeToldIsToldLater: a store that fails loses no count, and a
// gateway that ends tells what it has.
func TestWhatCannotBeToldIsToldLater(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	failing := &failingStore{countingStore: countingStore{Store: gateway.Of(c.store), cloud: c}}
	c.use(failing)
	bad := d.seal(wire.Request{}).bytes
	bad[len(bad)-1] ^= 1
	for range 3 {
		c.refused(d.post(wire.PathExchange, bad), "a bad message")
		failing.err = errors.New("the disk is full")
		c.unchanged("a failing store", c.tell)
	}
	if !strings.Contains(c.log.String(), "the disk is full") {
		t.Error("the log does not say why")
	}
	failing.err = nil
	c.tell()
	c.wantTold("roof-1", wire.ExchangeBadMAC, "3")
}

// TestTallyIsBounded: a stranger who names very many devices makes nothing grow
// without bound; what is beyond it is still counted.
func TestTallyIsBounded(t *testing.T) {
	c := newCloud(t)
	s := &impostors{}
	c.use(s)
	const devices, each = 1500, 2
	for range each {
		for n := range devices {
			hs1 := wire.Handshake(wire.HS1, [16]byte{byte(n), byte(n >> 8)}, 1).Append(nil)
			c.refused(c.post(wire.PathSession, append(hs1, make([]byte, 48)...)), "an old key")
		}
	}
	c.counted(map[wire.Reason]uint64{wire.HandshakeOldEpoch: devices * each})
	c.tell()
	if s.alarms != 1024 || s.events != 1024*each {
		t.Errorf("%d alarms of %d events, want 1024 of %d", s.alarms, s.events, 1024*each)
	}
	c.tell()
	if s.alarms != 1024 {
		t.Error("they are told twice")
	}
}

// impostors has a device with a replaced key for every id, and counts alarms.
type impostors struct {
	gateway.Store
	alarms, events int64
}

func (s *impostors) Credential(_ context.Context, id key.ID) (session.Credential, error) {
	return session.Credential{
		Device: int64(id[0]) + int64(id[1])<<8 + 1, Name: "roof", ID: id, Epoch: 1, Standing: session.Standing{Key: session.KeyRetired},
	}, nil
}

func (s *impostors) Commit(_ context.Context, unit func(gateway.Tx) error) error {
	return unit(&impostorsTx{s: s})
}

type impostorsTx struct {
	noTx
	s *impostors
}

func (tx *impostorsTx) Alarm(a session.Alarm) (int64, error) {
	tx.s.alarms++
	tx.s.events += a.Count
	return a.Count, nil
}

// TestDeviceSaysNoReason: what is a security event of the cloud is not for a
// device to say; of its own events its codes say it.
func TestDeviceSaysNoReason(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	d.say(d.logged(
		wire.LogEntry{Code: "inverter_away", Text: "one", Attributes: map[string]any{"reason": "CLONE_SUSPECT"}},
		wire.LogEntry{Code: "ROT_REFUSED", Text: "two", Attributes: map[string]any{"reason": "CLONE_SUSPECT"}},
	))
	records, err := c.store.AuditRecords(t.Context(), audit.Filter{Device: "roof-1", Security: true})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range records {
		got = append(got, r.Action+" "+r.Attrs["reason"])
	}
	if want := []string{"session.confirmed SESS_CONFIRMED", "device.log ROT_REFUSED"}; !slices.Equal(got, want) {
		t.Errorf("security events %v, want %v", got, want)
	}
}
