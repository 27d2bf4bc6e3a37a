package gateway_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	flynn "github.com/flynn/noise"

	"ecowatt/cloud/gateway"
	"ecowatt/cloud/session"
	"ecowatt/cloud/store"
	"ecowatt/key"
	"ecowatt/wire"
	"ecowatt/wire/noise"
)

func TestHandshake(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	w := d.connect()
	if w.ServerTime != start.UnixMilli() || w.MaxRequest != wire.MaxRequest || w.SlotHint != slot || w.Flags != 0 || w.RootVersion != 0 {
		t.Errorf("welcome %+v", w)
	}
	if w.Lifetime < 21*time.Hour || w.Lifetime > 27*time.Hour {
		t.Errorf("lifetime %v", w.Lifetime)
	}
	if got := c.rows(`SELECT state, hs_no, last_seq FROM session`); !slices.Equal(got, []string{"[pending 1 0]"}) {
		t.Errorf("sessions %v", got)
	}
	if got := c.actions("roof-1"); !slices.Equal(got, []string{"device.added"}) {
		t.Errorf("a handshake alone is told of: %v", got)
	}
	a := d.exchange(wire.Request{})
	if a.ServerTime != start.UnixMilli() || a.NextSlot != slot || a.Failure != nil || len(a.Results) != 0 {
		t.Errorf("answer %+v", a)
	}
	if got := c.rows(`SELECT state, hs_no, last_seq, hs2 FROM session`); !slices.Equal(got, []string{"[active 1 1 <nil>]"}) {
		t.Errorf("sessions %v", got)
	}
	r := c.record("roof-1", "session.confirmed")
	if r.Attrs["reason"] != "SESS_CONFIRMED" || r.Attrs["handshake"] != "1" || r.Actor.Name != "roof-1" {
		t.Errorf("record %+v", r)
	}
	got, err := c.store.Device(t.Context(), "roof-1")
	if err != nil || !got.LastSeen.Equal(start) {
		t.Errorf("last seen %v, %v", got.LastSeen, err)
	}
	c.counted(nil)
}

// TestStrangersAllGetTheSame: an unknown id, a wrong key, a wrong epoch, a
// key of another device, a retired key and a disabled device cost one look-up
// and one unwrapping, nothing on the curve, and get the same bytes.
//
// Attacks: H2, H3, H8, H20, O12
func TestStrangersAllGetTheSame(t *testing.T) {
	c := newCloud(t)
	good, other, disabled, retired := c.add("good"), c.add("other"), c.add("disabled"), c.add("retired")
	c.disable("disabled", true)
	c.exec(t, `UPDATE device_key SET state = 'retired', kek = NULL, wrapped = NULL WHERE psk_id = ?`, retired.id[:])
	strange, err := key.NewDevice(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	flipped := func(hs1 []byte, i int) []byte {
		hs1 = bytes.Clone(hs1)
		hs1[i] ^= 1
		return hs1
	}
	hs1 := func(edit func(d *device)) []byte {
		d := *good
		edit(&d)
		_, b := d.hello()
		return b
	}
	for _, x := range []struct {
		name   string
		hs1    []byte
		reason wire.Reason
	}{
		{"unknown id", hs1(func(d *device) { d.id = key.ID{1} }), wire.HandshakeUnknownID},
		{"wrong key", hs1(func(d *device) { d.key = strange }), wire.HandshakeBadTag},
		{"wrong epoch, by the holder of the key", hs1(func(d *device) { d.epoch = 2 }), wire.HandshakeBadTag},
		{"epoch 0", hs1(func(d *device) { d.epoch = 0 }), wire.HandshakeBadTag},
		{"largest epoch", hs1(func(d *device) { d.epoch = math.MaxUint32 }), wire.HandshakeBadTag},
		{"key of another device", hs1(func(d *device) { d.key = other.key }), wire.HandshakeBadTag},
		{"id of another device", hs1(func(d *device) { d.id = other.id }), wire.HandshakeBadTag},
		{"disabled", func() []byte { _, b := disabled.hello(); return b }(), wire.HandshakeDisabled},
		{"retired key", func() []byte { _, b := retired.hello(); return b }(), wire.HandshakeOldEpoch},
		{"ephemeral key edited", flipped(hs1(func(*device) {}), 40), wire.HandshakeBadTag},
		{"tag edited", flipped(hs1(func(*device) {}), wire.HS1Size-1), wire.HandshakeBadTag},
		{"psk_id edited", flipped(hs1(func(*device) {}), 8), wire.HandshakeUnknownID},
		{"epoch edited", flipped(hs1(func(*device) {}), 24), wire.HandshakeBadTag},
		{"plain NN without a key", plainNN(t, good), wire.HandshakeBadTag},
	} {
		before := c.gateway.Counters()[x.reason]
		c.reads.Store(0)
		c.ring.reset()
		c.random.bytes.Store(0)
		c.unchanged(x.name, func() { c.refused(c.post(wire.PathSession, x.hs1), x.name) })
		if reads, unwrapped := c.reads.Load(), c.ring.unwrapped.Load(); reads != 1 || unwrapped != 1 {
			t.Errorf("%s: %d look-ups and %d keys unwrapped, want one each", x.name, reads, unwrapped)
		}
		if n := c.random.bytes.Load(); n != 0 || c.ring.wrapped.Load() != 0 {
			t.Errorf("%s: %d random bytes were drawn", x.name, n)
		}
		if got := c.gateway.Counters()[x.reason]; got != before+1 {
			t.Errorf("%s: %s was counted %d times", x.name, x.reason, got-before)
		}
	}
	good.connect()
	if strings.Contains(c.log.String(), "level=ERROR") || strings.Contains(c.log.String(), "level=WARN") {
		t.Errorf("strangers fill the log:\n%s", c.log.String())
	}
}

// plainNN is an HS1 of somebody who speaks plain Noise_NN, with the length made
// to fit: as a library does that takes no key for no check.
func plainNN(t *testing.T, d *device) []byte {
	t.Helper()
	header := wire.Handshake(wire.HS1, d.id, d.epoch).Append(nil)
	state, err := flynn.NewHandshakeState(flynn.Config{
		CipherSuite: flynn.NewCipherSuite(flynn.DH25519, flynn.CipherChaChaPoly, flynn.HashSHA256),
		Pattern:     flynn.HandshakeNN, Initiator: true, Prologue: header,
	})
	if err != nil {
		t.Fatal(err)
	}
	hs1, _, _, err := state.WriteMessage(header, make([]byte, 16))
	if err != nil || len(hs1) != wire.HS1Size {
		t.Fatal(len(hs1), err)
	}
	return hs1
}

// Attacks: W2, W3, W4, W5, W6
func TestMalformedHandshakes(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	_, good := d.hello()
	edit := func(i int, b byte) []byte {
		hs1 := bytes.Clone(good)
		hs1[i] = b
		return hs1
	}
	cases := map[string][]byte{
		"one byte more": append(bytes.Clone(good), 0), "magic": edit(0, 'X'), "version 0": edit(2, 0), "version 2": edit(2, 2), "version 255": edit(2, 255),
		"HS2": edit(3, 2), "type 0": edit(3, 0), "REQ": edit(3, 3), "suite 0": edit(4, 0), "suite 2": edit(4, 2), "flags": edit(5, 1),
		"reserved": edit(6, 1), "reserved too": edit(7, 1), "lower half of the counter": edit(31, 1), "HTML": []byte("<html>"),
	}
	for n := range len(good) {
		cases[fmt.Sprintf("cut to %d bytes", n)] = good[:n]
	}
	c.unchanged("what is malformed", func() {
		for name, hs1 := range cases {
			c.err(c.post(wire.PathSession, hs1), name, wire.CodeMalformed)
		}
	})
	if n := c.reads.Load(); n != 0 {
		t.Errorf("%d look-ups for what is malformed", n)
	}
	c.counted(map[wire.Reason]uint64{wire.ExchangeFormat: uint64(len(cases))})
}

// Attacks: H4
func TestSameHS1WhilePending(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	i, hs1 := d.hello()
	first := c.post(wire.PathSession, hs1)
	c.random.bytes.Store(0)
	for range 20 { // more than the bucket would grant
		c.wait(5 * time.Second)
		c.unchanged("the same HS1", func() {
			if again := c.post(wire.PathSession, hs1); !bytes.Equal(again.body, first.body) || again.status != http.StatusOK {
				t.Fatalf("another HS2: %v", again)
			}
		})
	}
	if n := c.random.bytes.Load(); n != 0 {
		t.Errorf("%d random bytes were drawn for repetitions", n)
	}
	c.restart()
	if again := c.post(wire.PathSession, hs1); !bytes.Equal(again.body, first.body) {
		t.Fatalf("another HS2 after a restart: %v", again)
	}
	d.finish(i, first)
	d.exchange(wire.Request{})
}

// TestReplayedHS1: once its session is confirmed, superseded, expired or
// pushed out, an HS1 never works again, does nothing on the curve, and costs the
// device none of its handshakes.
//
// Attacks: H5
func TestReplayedHS1(t *testing.T) {
	for name, then := range map[string]func(c *cloud, d *device){
		"confirmed": func(c *cloud, d *device) { d.exchange(wire.Request{}) },
		"confirmed, after a restart": func(c *cloud, d *device) {
			d.exchange(wire.Request{})
			c.restart()
		},
		"expired while pending": func(c *cloud, d *device) { c.wait(session.PendingTime) },
		"superseded": func(c *cloud, d *device) {
			d.connect()
			d.exchange(wire.Request{})
		},
		"pushed out": func(c *cloud, d *device) {
			for range session.MaxPending {
				c.wait(10 * time.Second)
				c.exec(d.t, `UPDATE device SET hs_rate = 0`)
				d.connect()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t)
			d := c.add("roof-1")
			i, hs1 := d.hello()
			d.finish(i, c.post(wire.PathSession, hs1))
			then(c, d)
			c.random.bytes.Store(0)
			c.unchanged("a replay", func() {
				for range 10 {
					c.refused(c.post(wire.PathSession, hs1), "the same HS1")
				}
			})
			if n := c.random.bytes.Load(); n != 0 {
				t.Errorf("%d random bytes were drawn for a replay", n)
			}
			c.counted(map[wire.Reason]uint64{wire.HandshakeReplay: 10})
			d.connect()
		})
	}
}

// Attacks: H4
func TestConcurrentCopiesOfOneHS1(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	i, hs1 := d.hello()
	replies := make([]reply, 32)
	var wait sync.WaitGroup
	for n := range replies {
		wait.Go(func() { replies[n] = c.post(wire.PathSession, hs1) })
	}
	wait.Wait()
	for _, r := range replies {
		if r.status != http.StatusOK || !bytes.Equal(r.body, replies[0].body) {
			t.Fatalf("%v and %v", r, replies[0])
		}
	}
	if got := c.rows(`SELECT hs_no FROM session`); !slices.Equal(got, []string{"[1]"}) {
		t.Errorf("sessions %v", got)
	}
	d.finish(i, replies[0])
	d.exchange(wire.Request{})
}

// TestWithheldHandshake: the first request of an older handshake,
// delivered late, does not displace a newer session.
//
// Attacks: H13
func TestWithheldHandshake(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	d.connect()
	withheld := d.seal(wire.Request{})
	d.connect()
	d.exchange(wire.Request{})
	c.unchanged("a withheld request", func() { c.refused(d.send(withheld), "withheld") })
	d.exchange(wire.Request{})
	if got := c.rows(`SELECT hs_no, state FROM session`); !slices.Equal(got, []string{"[2 active]"}) {
		t.Errorf("sessions %v", got)
	}
	c.counted(map[wire.Reason]uint64{wire.ExchangeNoSession: 1})
}

// TestHandshakesInOrder: an older handshake may be confirmed before a newer one.
//
// Attacks: R8
func TestHandshakesInOrder(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	d.connect()
	first := *d
	d.connect()
	first.exchange(wire.Request{})
	first.exchange(wire.Request{})
	d.exchange(wire.Request{})
	c.refused(first.send(first.seal(wire.Request{})), "the older session")
	want := []string{"device.added", "session.confirmed", "session.confirmed", "session.superseded"}
	if got := c.actions("roof-1"); !slices.Equal(got, want) {
		t.Errorf("log %v, want %v", got, want)
	}
	if r := c.record("roof-1", "session.superseded"); r.Attrs["reason"] != "SESS_SUPERSEDED" {
		t.Errorf("record %+v", r)
	}
}

// Attacks: H14
func TestConfirmRace(t *testing.T) {
	c := newCloud(t)
	for n := range 20 {
		d := c.add(fmt.Sprintf("roof-%d", n))
		d.connect()
		older := d.seal(wire.Request{})
		d.connect()
		newer := d.seal(wire.Request{})
		var wait sync.WaitGroup
		var got reply
		wait.Go(func() { d.send(older) })
		wait.Go(func() { got = d.send(newer) })
		wait.Wait()
		d.opened(newer, got)
	}
	if got := c.rows(`SELECT DISTINCT hs_no, state, count(*) FROM session GROUP BY hs_no, state`); !slices.Equal(got, []string{"[2 active 20]"}) {
		t.Errorf("sessions %v", got)
	}
}

// TestUndeliveredHandshakes: handshakes that nobody completes do
// not touch the active session, and at most 8 of them wait, for 120 s.
//
// Attacks: H7, H12
func TestUndeliveredHandshakes(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	attacker := *d
	for range 50 {
		c.exec(t, `UPDATE device SET hs_rate = 0`)
		attacker.connect()
		if n := len(c.rows(`SELECT 1 FROM session WHERE state = 'pending'`)); n > session.MaxPending {
			t.Fatalf("%d sessions wait", n)
		}
	}
	d.exchange(wire.Request{})
	late := attacker.seal(wire.Request{})
	c.wait(session.PendingTime)
	c.refused(attacker.send(late), "a session that waited for 120 s")
	d.exchange(wire.Request{})
	c.counted(map[wire.Reason]uint64{wire.SessionExpired: 1})
	c.exec(t, `UPDATE device SET hs_rate = 0`)
	d.connect()
	if n := len(c.rows(`SELECT 1 FROM session WHERE state = 'pending'`)); n != 1 {
		t.Errorf("%d sessions wait after 120 s and another handshake", n)
	}
}

// TestHandshakeFlood: five in a burst, then one a minute, and nobody
// else is affected. A refusal does nothing on the curve.
//
// Attacks: H15
func TestHandshakeFlood(t *testing.T) {
	c := newCloud(t)
	d, other := c.connected("roof-1"), c.add("roof-2")
	for range 4 {
		d.connect()
	}
	c.random.bytes.Store(0)
	var i *noise.Initiator
	var hs1 []byte
	c.unchanged("a handshake too many", func() {
		for range 20 {
			i, hs1 = d.hello()
			if e := c.err(c.post(wire.PathSession, hs1), "a flood", wire.CodeBusy); e.RetryAfter != time.Minute {
				t.Fatalf("retry after %v", e.RetryAfter)
			}
		}
	})
	if n := c.random.bytes.Load(); n != 0 {
		t.Errorf("%d random bytes were drawn for a flood", n)
	}
	other.connect()
	c.wait(59 * time.Second)
	if e := c.err(c.post(wire.PathSession, hs1), "a second too early", wire.CodeBusy); e.RetryAfter != time.Second {
		t.Fatalf("retry after %v", e.RetryAfter)
	}
	c.wait(time.Second)
	d.finish(i, c.post(wire.PathSession, hs1)) // the refused bytes were not used up
	d.exchange(wire.Request{})
	c.counted(map[wire.Reason]uint64{wire.HandshakeRate: 21})
}

// TestRestartsOfADevice: who is killed and started again a few times in a
// minute stays within the burst.
func TestRestartsOfADevice(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	for range 5 {
		d.connect()
		d.exchange(wire.Request{})
		c.wait(2 * time.Second)
	}
}

// Attacks: H9
func TestLowOrderKey(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	c.unchanged("a key of low order", func() {
		c.refused(c.post(wire.PathSession, lowOrderHS1(t, d)), "a key of low order")
	})
	c.counted(map[wire.Reason]uint64{wire.HandshakeBadTag: 1})
	d.connect()
}

// TestSameRandomnessTwice: a device whose random source repeats itself
// sends the same HS1, which is a replay.
//
// Attacks: H16
func TestSameRandomnessTwice(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	hello := func() (*noise.Initiator, []byte) {
		i, hs1, err := noise.Initiate(d.key.NoisePSK(wire.Suite1), d.id, d.epoch, bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
		if err != nil {
			t.Fatal(err)
		}
		return i, hs1
	}
	i, hs1 := hello()
	d.finish(i, c.post(wire.PathSession, hs1))
	d.exchange(wire.Request{})
	_, hs1 = hello()
	c.refused(c.post(wire.PathSession, hs1), "the same ephemeral key")
}

func TestExpiredSessionsAreSwept(t *testing.T) {
	c := newCloud(t)
	for n := range 6 {
		c.connected(fmt.Sprintf("gone-%d", n))
	}
	d := c.add("roof-1")
	c.wait(27 * time.Hour)
	for range 3 {
		d.connect()
	}
	if got := c.rows(`SELECT d.name FROM session s JOIN device d ON d.id = s.device WHERE d.name <> 'roof-1'`); len(got) != 0 {
		t.Errorf("keys of expired sessions stay: %v", got)
	}
	gone, err := c.store.Device(t.Context(), "gone-3")
	if err != nil || !gone.LastSeen.Equal(start) {
		t.Errorf("last seen %v, %v", gone.LastSeen, err)
	}
}

func TestHandshakeWithoutADatabase(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	_, hs1 := d.hello()
	c.stop()
	e := c.err(c.post(wire.PathSession, hs1), "a closed database", wire.CodeUnavailable)
	if e.RetryAfter != 30*time.Second {
		t.Errorf("retry after %v", e.RetryAfter)
	}
	c.counted(nil)
	c.open()
	c.post(wire.PathSession, hs1)
	if n := c.count("session"); n != 1 {
		t.Errorf("%d sessions after the database came back", n)
	}
}

// TestHandshakeWithoutRandomness: what cannot be drawn is not made up.
func TestHandshakeWithoutRandomness(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	o := c.options()
	random := &switchedReader{}
	o.Random = random
	g, err := gateway.New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.gateway, random.empty = g, true
	_, hs1 := d.hello()
	c.unchanged("no randomness", func() { c.err(c.post(wire.PathSession, hs1), "no randomness", wire.CodeUnavailable) })
	random.empty = false
	d.connect()
}

type switchedReader struct{ empty bool }

func (r *switchedReader) Read(p []byte) (int, error) {
	if r.empty {
		return 0, io.ErrUnexpectedEOF
	}
	return io.ReadFull(rand.Reader, p)
}

// TestMovedDeviceKey: a key that somebody moved to
// another row does not unwrap; that is our failure and is logged, but not as
// often as a stranger asks.
//
// Attacks: R20
func TestMovedDeviceKey(t *testing.T) {
	c := newCloud(t)
	d, other := c.add("roof-1"), c.add("roof-2")
	c.exec(t, `UPDATE device_key SET wrapped = (SELECT wrapped FROM device_key WHERE psk_id = ?) WHERE psk_id = ?`, other.id[:], d.id[:])
	_, hs1 := d.hello()
	for range 100 {
		c.err(c.post(wire.PathSession, hs1), "a moved key", wire.CodeUnavailable)
	}
	if n := strings.Count(c.log.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d lines of alarm for 100 messages", n)
	}
	c.wait(time.Minute)
	c.post(wire.PathSession, hs1)
	if !strings.Contains(c.log.String(), "as_often_before=99") {
		t.Errorf("the log does not say how often:\n%s", c.log.String())
	}
	other.connect()
}

func TestNewRefuses(t *testing.T) {
	c := newCloud(t)
	for name, edit := range map[string]func(o *gateway.Options){
		"no store":                func(o *gateway.Options) { o.Store = nil },
		"no keys":                 func(o *gateway.Options) { o.Keys = nil },
		"no randomness":           func(o *gateway.Options) { o.Random = nil },
		"an empty random source":  func(o *gateway.Options) { o.Random = bytes.NewReader(nil) },
		"no clock":                func(o *gateway.Options) { o.Now = nil },
		"no logger":               func(o *gateway.Options) { o.Logger = nil },
		"a slot of less than 1 s": func(o *gateway.Options) { o.Slot = time.Millisecond },
	} {
		o := c.options()
		edit(&o)
		if _, err := gateway.New(o); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	o := c.options()
	o.Slot = 0
	g, err := gateway.New(o)
	if err != nil {
		t.Fatal(err)
	}
	c.gateway = g
	if w := c.add("roof-1").connect(); w.SlotHint != 15*time.Minute {
		t.Errorf("the default slot is %v", w.SlotHint)
	}
}

var _ gateway.Store = gateway.Of((*store.Store)(nil))
