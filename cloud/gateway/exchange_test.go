package gateway_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ecowatt/wire"
	"ecowatt/wire/record"
)

// TestEveryBitOfARequest: no bit of a REQ may be flipped, not even in the
// padding, and the session goes on.
//
// Attacks: W1
func TestEveryBitOfARequest(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	r := d.seal(wire.Request{Messages: []wire.Message{d.block(start, 1, 1)}})
	c.unchanged("a flipped bit", func() {
		for i := range len(r.bytes) * 8 {
			msg := bytes.Clone(r.bytes)
			msg[i/8] ^= 1 << (i % 8)
			got := c.post(wire.PathExchange, msg)
			if got.status != http.StatusBadRequest && got.status != http.StatusUnauthorized {
				t.Fatalf("bit %d: %v", i, got)
			}
			if got.status == http.StatusUnauthorized {
				c.refused(got, fmt.Sprint("bit ", i))
			}
		}
	})
	c.countedInAll(len(r.bytes) * 8)
	if a := d.opened(r, d.send(r)); len(a.Results) != 1 || a.Results[0].Status != wire.Stored {
		t.Errorf("the honest one gets %+v", a)
	}
	if got := d.samples(); len(got) != 1 {
		t.Errorf("samples %v", got)
	}
}

// Attacks: W2, W3
func TestEveryLengthOfARequest(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	r := d.seal(wire.Request{})
	c.unchanged("another length", func() {
		for n := range len(r.bytes) {
			if got := c.post(wire.PathExchange, r.bytes[:n]); got.status != http.StatusBadRequest && got.status != http.StatusUnauthorized {
				t.Fatalf("cut to %d bytes: %v", n, got)
			}
		}
		for n := range 130 {
			if got := c.post(wire.PathExchange, append(bytes.Clone(r.bytes), make([]byte, n+1)...)); got.status != http.StatusBadRequest && got.status != http.StatusUnauthorized {
				t.Fatalf("with %d bytes more: %v", n+1, got)
			}
		}
	})
	c.countedInAll(len(r.bytes) + 130)
	d.opened(r, d.send(r))
}

// Attacks: W4, W5, W6, W7, W9, O14
func TestMalformedRequests(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	_, hs1 := d.hello()
	r := d.seal(wire.Request{})
	rsp := d.send(r).body
	r = d.seal(wire.Request{})
	edit := func(i int, b ...byte) []byte {
		msg := bytes.Clone(r.bytes)
		copy(msg[i:], b)
		return msg
	}
	cases := map[string][]byte{
		"nothing": nil, "version 0": edit(2, 0), "version 2": edit(2, 2), "version 255": edit(2, 255), "suite 0": edit(4, 0), "suite 2": edit(4, 2),
		"flags": edit(5, 0x80), "reserved": edit(6, 1), "HS1": hs1, "REQ as HS1": edit(3, 1), "RSP": rsp, "ERR": []byte("EW\x01\x7f\x00\x02\x00\x00"),
		"number 0":        edit(24, 0, 0, 0, 0, 0, 0, 0, 0),
		"number 2^62 + 1": edit(24, 0x40, 0, 0, 0, 0, 0, 0, 1),
		"number 2^64 - 1": edit(24, 255, 255, 255, 255, 255, 255, 255, 255),
	}
	c.unchanged("what is malformed", func() {
		for name, msg := range cases {
			c.err(c.post(wire.PathExchange, msg), name, wire.CodeMalformed)
		}
		c.err(c.post(wire.PathSession, r.bytes), "REQ to the other path", wire.CodeMalformed)
		c.refused(c.post(wire.PathExchange, edit(24, 0x40, 0, 0, 0, 0, 0, 0, 0)), "number 2^62")
	})
	c.counted(map[wire.Reason]uint64{wire.ExchangeFormat: uint64(len(cases) + 1), wire.ExchangeBadMAC: 1})
	d.opened(r, d.send(r))
}

// TestReflection: a REQ is no RSP to the device that sent it, nor the
// other way about, whatever the type in its header says.
//
// Attacks: W7
func TestReflection(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	r := d.seal(wire.Request{})
	reflected := bytes.Clone(r.bytes)
	reflected[3] = byte(wire.RSP)
	for _, msg := range [][]byte{r.bytes, reflected, append(reflected, make([]byte, 48)...)} {
		if _, err := record.OpenAnswer(d.Keys, d.SID, r.seq, r.mac, msg); err == nil {
			t.Error("the device takes its own request for an answer")
		}
	}
	rsp := d.send(r).body
	rsp[3] = byte(wire.REQ)
	c.unchanged("an answer sent as a request", func() {
		for _, msg := range [][]byte{rsp, rsp[:len(rsp)-16], append(rsp[:32:32], rsp[48:]...)} {
			if got := c.post(wire.PathExchange, msg); got.status == http.StatusOK {
				t.Errorf("the cloud takes its own answer for a request: %v", got)
			}
		}
	})
	c.countedInAll(3)
	d.exchange(wire.Request{})
}

// Attacks: R1, R3, R4
func TestReplays(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	first := d.seal(wire.Request{Messages: []wire.Message{d.block(start, 2, 1)}})
	second := d.seal(wire.Request{Messages: []wire.Message{d.block(start.Add(time.Minute), 2, 3)}})
	late := d.seal(wire.Request{})
	d.opened(first, d.send(first))
	d.opened(second, d.send(second))
	reordered := d.seal(wire.Request{})
	d.opened(reordered, d.send(reordered))
	replay := func(when string) {
		c.unchanged(when, func() {
			for _, r := range []request{first, second, late, reordered} {
				c.refused(d.send(r), when)
			}
		})
	}
	replay("at once")
	c.restart()
	replay("after a restart")
	c.wait(time.Hour)
	replay("an hour later")
	if n := c.store.Counts().Refused; n != 0 {
		t.Errorf("%d replays stood in line with those who write", n)
	}
	d.exchange(wire.Request{})
	if got := d.samples(); len(got) != 4 {
		t.Errorf("samples %v", got)
	}
	c.counted(map[wire.Reason]uint64{wire.ExchangeReplay: 8})
}

// TestConcurrentCopies: of 64 copies at the same instant exactly
// one counts, and all others get the ERR 2.
//
// Attacks: R2, O3
func TestConcurrentCopies(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	d.connect()
	for round := range 10 { // the first confirms the session
		r := d.seal(wire.Request{Messages: []wire.Message{d.block(start.Add(time.Duration(round)*time.Minute), 1, int64(round))}})
		replies := make([]reply, 64)
		var wait sync.WaitGroup
		for i := range replies {
			wait.Go(func() { replies[i] = d.send(r) })
		}
		wait.Wait()
		accepted := 0
		for _, got := range replies {
			if got.status == http.StatusOK {
				accepted++
				d.opened(r, got)
				continue
			}
			c.refused(got, "a copy")
		}
		if accepted != 1 {
			t.Fatalf("round %d: %d copies were accepted", round, accepted)
		}
	}
	if got := d.samples(); len(got) != 10 {
		t.Errorf("samples %v", got)
	}
	c.counted(map[wire.Reason]uint64{wire.ExchangeReplay: 630})
}

// TestOtherSessions: what is sealed for one session does not
// open in another, of the same device or of another one.
//
// Attacks: W10, H20, O2
func TestOtherSessions(t *testing.T) {
	c := newCloud(t)
	x, y := c.connected("x"), c.connected("y")
	a, b := x.seal(wire.Request{}), x.seal(wire.Request{})
	c.unchanged("what was moved", func() {
		swapped := slices.Concat(a.bytes[:32], b.bytes[32:])
		c.refused(c.post(wire.PathExchange, swapped), "the rest of another request")
		moved := bytes.Clone(a.bytes)
		copy(moved[8:24], y.SID[:])
		c.refused(c.post(wire.PathExchange, moved), "the session of another device")
		mixed := *y
		mixed.SID = x.SID
		c.refused(mixed.send(mixed.seal(wire.Request{})), "another device's keys under this session")
		copy(moved[8:24], bytes.Repeat([]byte{0xff}, 16))
		c.refused(c.post(wire.PathExchange, moved), "no session at all")
	})
	x.opened(a, x.send(a))
	x.opened(b, x.send(b))
	y.exchange(wire.Request{})
	c.counted(map[wire.Reason]uint64{wire.ExchangeBadMAC: 3, wire.ExchangeNoSession: 1})
}

// Attacks: R18
func TestFailedOpensEndNothing(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	good := d.seal(wire.Request{})
	bad := bytes.Clone(good.bytes)
	bad[len(bad)-1] ^= 1
	c.unchanged("bad tags", func() {
		for range 100 {
			c.refused(c.post(wire.PathExchange, bad), "a bad tag")
		}
	})
	d.opened(good, d.send(good))
	c.counted(map[wire.Reason]uint64{wire.ExchangeBadMAC: 100})
	if strings.Contains(c.log.String(), "level=ERROR") {
		t.Error("a stranger causes alarms")
	}
}

// TestHalfASeal: a good HMAC does not make up for a bad tag.
//
// Attacks: W12
func TestHalfASeal(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	r := d.seal(wire.Request{})
	broken := bytes.Clone(r.bytes)
	broken[40] ^= 1
	c.unchanged("half a seal", func() {
		c.refused(c.post(wire.PathExchange, d.authenticate(broken[:len(broken)-32])), "a bad tag under a good HMAC")
		c.refused(c.post(wire.PathExchange, append(bytes.Clone(r.bytes[:len(r.bytes)-32]), make([]byte, 32)...)), "a good tag under a bad HMAC")
	})
	c.counted(map[wire.Reason]uint64{wire.ExchangeBadMAC: 2})
	d.opened(r, d.send(r))
}

// Attacks: R8, O14
func TestAge(t *testing.T) {
	for name, c := range map[string]struct {
		after  func(c *cloud, d *device)
		want   bool
		reason wire.Reason
	}{
		"for its lifetime":      {func(c *cloud, d *device) { c.wait(21 * time.Hour) }, true, ""},
		"beyond its lifetime":   {func(c *cloud, d *device) { c.wait(27 * time.Hour) }, false, wire.SessionExpired},
		"after 48 h":            {func(c *cloud, d *device) { c.wait(48 * time.Hour) }, false, wire.SessionExpired},
		"its last number":       {func(c *cloud, d *device) { d.seq = wire.MaxSessionRequests - 1 }, true, ""},
		"beyond 2^20 requests":  {func(c *cloud, d *device) { d.seq = wire.MaxSessionRequests }, false, wire.SessionExpired},
		"the largest number":    {func(c *cloud, d *device) { d.seq = wire.MaxSequence - 1 }, false, wire.SessionExpired},
		"the device disabled":   {func(c *cloud, d *device) { c.disable("roof-1", true) }, false, wire.ExchangeNoSession},
		"disabled, and enabled": {func(c *cloud, d *device) { c.disable("roof-1", true); c.disable("roof-1", false) }, false, wire.ExchangeNoSession},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newCloud(t)
			d := cl.connected("roof-1")
			c.after(cl, d)
			r := d.seal(wire.Request{})
			if c.want {
				d.opened(r, d.send(r))
				return
			}
			cl.unchanged(name, func() { cl.refused(d.send(r), name) })
			cl.counted(map[wire.Reason]uint64{c.reason: 1})
			if name != "the device disabled" { // the way back is a handshake
				d.connect()
				d.exchange(wire.Request{})
			}
		})
	}
}

func TestLifetimeIsHonouredToItsEnd(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	w := d.connect()
	d.exchange(wire.Request{})
	c.wait(w.Lifetime)
	d.exchange(wire.Request{}) // what was sent in the last second is still good
	c.wait(2 * wire.AnswerTime)
	c.refused(d.send(d.seal(wire.Request{})), "after its end")
	d.connect()
	d.exchange(wire.Request{})
	if got := c.actions("roof-1"); !slices.Equal(got, []string{"device.added", "session.confirmed", "session.confirmed"}) {
		t.Errorf("a session that has expired was superseded, it says: %v", got)
	}
}

// Attacks: R7
func TestGap(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	d.seq += 1000
	d.exchange(wire.Request{})
	r := c.record("roof-1", "session.gap")
	if r.Attrs["reason"] != "EX_GAP" || r.Attrs["after"] != "1" || r.Attrs["at"] != "1002" || !strings.Contains(r.Text, "1000") {
		t.Errorf("record %+v", r)
	}
	d.exchange(wire.Request{})
	if n := strings.Count(fmt.Sprint(c.actions("roof-1")), "session.gap"); n != 1 {
		t.Errorf("%d gaps are told of", n)
	}
	d.connect()
	d.seq += 2
	d.exchange(wire.Request{})
	if r := c.record("roof-1", "session.gap"); r.Attrs["after"] != "0" || r.Attrs["at"] != "3" {
		t.Errorf("record %+v", r)
	}
}

// TestNonsenseBehindTheSeal: it is answered behind the seal, its
// number is used up, and nothing else happens.
//
// Attacks: W13, W14
func TestNonsenseBehindTheSeal(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	good, err := wire.EncodeRequest(wire.Request{At: wire.Instant{Mono: 1}, Messages: []wire.Message{d.block(start, 1, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	at := "\x01\x82\x50" + strings.Repeat("b", 16) + "\x01" // key 1
	for name, body := range map[string][]byte{
		"empty": {}, "not a map": {0x80}, "no key 1": {0xa0}, "cut": good[:len(good)-1], "and more": append(bytes.Clone(good), 0),
		"key 1 twice":        []byte("\xa2" + at + at),
		"a negative key":     []byte("\xa2" + at + "\x20\x00"),
		"indefinite map":     []byte("\xbf" + at + "\xff"),
		"a tag":              []byte("\xa2" + at + "\x18\x20\xc1\x00"),
		"not shortest":       []byte("\xa2" + at + "\x08\x18\x05"),
		"nested 9 deep":      []byte("\xa2" + at + "\x18\x20" + strings.Repeat("\x81", 9) + "\x00"),
		"a huge length":      []byte("\xa2" + at + "\x07\x5b\x7f\xff\xff\xff\xff\xff\xff\xff"),
		"a huge array":       []byte("\xa2" + at + "\x04\x9b\x7f\xff\xff\xff\xff\xff\xff\xff"),
		"unknown firmware":   []byte("\xa2" + at + "\x03\xa0"),
		"message not a list": []byte("\xa2" + at + "\x04\x81\x00"),
	} {
		d.nonsense(name, d.sealBody(body))
	}
	padded := wire.Pad(nil, good)
	for name, plain := range map[string][]byte{
		"padding that is not zero": append(padded[:len(padded)-1:len(padded)-1], 1),
		"a length too short":       append([]byte{0, 0, 0, 1}, padded[4:]...),
		"a length too long":        append([]byte{0, 0, 255, 255}, padded[4:]...),
		"too much padding":         append(bytes.Clone(padded), make([]byte, 64)...),
	} {
		d.nonsense(name, d.sealPlain(plain))
	}
	if n := c.count("message") + c.count("block"); n != 0 {
		t.Errorf("nonsense left %d rows", n)
	}
	if r := c.record("roof-1", "request.not_understood"); r.Attrs["reason"] != "EX_SCHEMA" {
		t.Errorf("record %+v", r)
	}
	d.exchange(wire.Request{})
}

func (d *device) nonsense(name string, r request) {
	d.t.Helper()
	a := d.opened(r, d.send(r))
	if a.Failure == nil || a.Failure.Code != wire.ExchangeSchema || a.Failure.Text == "" || len(a.Results) != 0 {
		d.t.Errorf("%s: answer %+v", name, a)
	}
	if got, want := d.rows(`SELECT last_seq FROM session`), fmt.Sprintf("[%d]", r.seq); got[0] != want {
		d.t.Errorf("%s: last_seq %v, want %s", name, got, want)
	}
	d.unchanged(name, func() { d.refused(d.send(r), name+", again") })
}

// TestFirstRequestMakesNoSense: the seal is good, so the session is confirmed.
func TestFirstRequestMakesNoSense(t *testing.T) {
	c := newCloud(t)
	d := c.add("roof-1")
	d.connect()
	r := d.sealBody([]byte{0x80})
	if a := d.opened(r, d.send(r)); a.Failure == nil {
		t.Fatalf("answer %+v", a)
	}
	c.wait(time.Hour)
	d.exchange(wire.Request{})
	if n := c.count("boot"); n != 0 {
		t.Errorf("%d boots are known of a request that made no sense", n)
	}
}

// Attacks: R6, O10
func TestExchangeWithoutADatabase(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	r := d.seal(wire.Request{Messages: []wire.Message{d.block(start, 3, 1)}})
	c.stop()
	if e := c.err(d.send(r), "a closed database", wire.CodeUnavailable); e.RetryAfter != 30*time.Second {
		t.Errorf("retry after %v", e.RetryAfter)
	}
	c.counted(nil)
	c.open()
	if got := d.samples(); len(got) != 0 {
		t.Fatalf("stored all the same: %v", got)
	}
	d.opened(r, d.send(r)) // nothing was used up
	if got := d.samples(); len(got) != 3 {
		t.Errorf("samples %v", got)
	}
}

// TestLockedDatabase: another process holds the database while a request comes.
//
// Attacks: R21, O10
func TestLockedDatabase(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	failing := &failingStore{countingStore: countingStore{Store: c.options().Store, cloud: c}, err: errors.New("database is locked")}
	c.use(failing)
	r := d.seal(wire.Request{Messages: []wire.Message{d.block(start, 3, 1)}})
	c.unchanged("a locked database", func() { c.err(d.send(r), "a locked database", wire.CodeUnavailable) })
	failing.err = nil
	if a := d.opened(r, d.send(r)); a.Results[0].Status != wire.Stored {
		t.Errorf("answer %+v", a)
	}
}

// TestMovedSessionKeys: keys that somebody moved to another session do
// not unwrap, which is our failure and not the device's.
//
// Attacks: R20
func TestMovedSessionKeys(t *testing.T) {
	c := newCloud(t)
	x, y := c.connected("x"), c.connected("y")
	c.exec(t, `UPDATE session SET wrapped = (SELECT wrapped FROM session WHERE sid = ?) WHERE sid = ?`, x.SID[:], y.SID[:])
	c.unchanged("moved keys", func() { c.err(y.send(y.seal(wire.Request{})), "moved keys", wire.CodeUnavailable) })
	stolen := *x
	stolen.SID = y.SID
	c.err(stolen.send(stolen.seal(wire.Request{})), "with the keys that were moved there", wire.CodeUnavailable)
	if !strings.Contains(c.log.String(), "unwrapping session keys") {
		t.Errorf("no alarm:\n%s", c.log.String())
	}
	x.exchange(wire.Request{})
}

// TestRestoredDatabase: a raw copy of the database, restored,
// accepts a request once more. It is answered under another key and, where the
// message is known, without another effect.
//
// Attacks: R13, R14
func TestRestoredDatabase(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	m := d.block(start, 3, 1)
	d.say(m)
	c.stop()
	saved, err := os.ReadFile(c.path)
	if err != nil {
		t.Fatal(err)
	}
	c.open()
	r := d.seal(wire.Request{Messages: []wire.Message{m}})
	first := d.send(r)
	d.opened(r, first)
	c.stop()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(c.path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(c.path, saved, 0o600); err != nil {
		t.Fatal(err)
	}
	c.open()
	second := d.send(r)
	if a := d.opened(r, second); a.Results[0].Status != wire.Duplicate {
		t.Errorf("answer %+v", a)
	}
	body := func(x reply) []byte { return x.body[48 : len(x.body)-48] }
	if a, b := body(first), body(second); bytes.Equal(a[:32], b[:32]) {
		t.Error("two answers under one key")
	}
	if bytes.Equal(first.body[32:48], second.body[32:48]) {
		t.Error("the same salt twice")
	}
	if got := d.samples(); len(got) != 3 {
		t.Errorf("samples %v", got)
	}
}

// TestNothingShowsKeys: no key in the log, the answers or the database.
//
// Attacks: A4
func TestNothingShowsKeys(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	device, keys := d.key.Secret(), d.Keys.Secret()
	d.connect()
	bad := d.seal(wire.Request{})
	bad.bytes[50] ^= 1
	c.refused(d.send(bad), "a bad tag")
	c.stop()
	everything := c.log.String() + c.dump()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(c.path + suffix)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		everything += string(b)
	}
	for _, secret := range [][]byte{device[:], keys[:32], keys[32:64], keys[64:]} {
		if strings.Contains(everything, string(secret[:8])) || strings.Contains(everything, hex.EncodeToString(secret[:8])) {
			t.Error("a key is somewhere")
		}
	}
}

// TestUnitRunsTwice: a group that is tried again leaves what one try leaves.
//
// Attacks: R21
func TestUnitRunsTwice(t *testing.T) {
	c := newCloud(t)
	d := c.connected("roof-1")
	c.use(&twiceStore{countingStore{Store: c.options().Store, cloud: c}})
	if got := d.say(d.block(start, 1, 1), d.logged(wire.LogEntry{Text: "once"})); !slices.Equal(statuses(got), []wire.Status{wire.Stored, wire.Stored}) {
		t.Errorf("%+v", got)
	}
	if got := c.actions("roof-1"); !slices.Equal(got, []string{"device.added", "session.confirmed", "device.log"}) {
		t.Errorf("log %v", got)
	}
	if a := d.exchange(wire.Request{}); a.Firmware != nil || c.log.String() != "" {
		t.Errorf("a release is offered that was so in the first try alone: %s", c.log.String())
	}
}

func TestSequenceNumbersFitTheDatabase(t *testing.T) {
	if uint64(wire.MaxSequence) > math.MaxInt64 {
		t.Error("a sequence number may be too large for a column")
	}
}
