package uplink

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"ecowatt/wire"
)

// TestNoDowngrade: whoever answers with another version or suite of the protocol
// gets the device to change neither, and not to give up its session.
//
// Attacks: W4, W5
func TestNoDowngrade(t *testing.T) {
	refusal := wire.ErrorMessage{Code: wire.CodeRefused}.Append(nil)
	for _, c := range []struct {
		name  string
		at    int
		value byte
		isERR bool // an ERR has a version as well, and no more of the header
	}{
		{"version 0", 2, 0, false},
		{"version 2", 2, 2, false},
		{"version 255", 2, 255, false},
		{"suite 0", 4, 0, false},
		{"suite 2", 4, 2, false},
		{"flags", 5, 1, false},
		{"reserved", 6, 1, false},
		{"ERR of version 0", 2, 0, true},
		{"ERR of version 2", 2, 2, true},
		{"ERR of version 255", 2, 255, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDevice(t, nil)
			d.good()
			session := d.session.SID
			d.cloud.meddle = func(_ context.Context, _ string, _ []byte, ask func() Reply) (Reply, error) {
				reply := Reply{200, bytes.Clone(ask().Body)}
				if c.isERR {
					reply = Reply{401, bytes.Clone(refusal)}
				}
				reply.Body[c.at] = c.value
				return reply, nil
			}
			for range 3 {
				if _, err := d.atNext(); err == nil {
					t.Errorf("%s was taken for an answer", c.name)
				}
			}
			if d.Status().State != Ready || d.session.SID != session {
				t.Errorf("%s ended the session: %+v", c.name, d.Status())
			}
			d.Rekey(d.active, nil) // the same in front of a handshake
			if _, err := d.atNext(); err == nil {
				t.Errorf("%s was taken for an HS2", c.name)
			}
			d.cloud.meddle = nil
			d.good()
			for _, msg := range append(d.cloud.hs1s, d.cloud.reqs...) {
				if msg[2] != wire.Version || msg[4] != byte(wire.Suite1) {
					t.Errorf("%s: the device sends version %d, suite %d", c.name, msg[2], msg[4])
				}
			}
		})
	}
}

// TestWrongClocks: nothing in a handshake asks for the time, and the first
// answers put right whatever a device believed of it.
//
// Attacks: H18
func TestWrongClocks(t *testing.T) {
	for name, off := range map[string]func(now time.Duration) int64{ // ms since 1970, as believed
		"1970":             func(time.Duration) int64 { return 0 },
		"2040":             func(time.Duration) int64 { return 2208988800000 },
		"an hour late":     func(now time.Duration) int64 { return at(now) - 3600_000 },
		"an hour ahead":    func(now time.Duration) int64 { return at(now) + 3600_000 },
		"a minute ahead":   func(now time.Duration) int64 { return at(now) + 60_000 },
		"back by ten days": func(now time.Duration) int64 { return at(now) - 864_000_000 },
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDevice(t, func(o *Options, _ *cloud) {
				now := o.Now()
				o.Clock = RestoreClock(ClockState{Boot: boot, Offset: off(now) - now.Milliseconds(), Uncertainty: 1, At: now.Milliseconds()}, boot, now)
			})
			if !d.Clock().Known() && name != "1970" {
				t.Fatalf("%s: the clock was not restored", name)
			}
			for range 3 {
				d.good()
			}
			w := d.Clock().Wall(d.now())
			if w == nil || max(w.At-at(d.now()), at(d.now())-w.At) > 1+w.Uncertainty {
				t.Errorf("%s: after three exchanges the time is %+v, want %d", name, w, at(d.now()))
			}
			if len(d.cloud.hs1s) != 1 {
				t.Errorf("%s: %d handshakes", name, len(d.cloud.hs1s))
			}
		})
	}
}

// TestOneDiskTwoDevices: two devices that were made of one disk, as by a
// restored snapshot or a copied card, share nothing but the key. Each shakes
// hands for itself, so that no two requests are sealed under one key and number.
//
// Attacks: R12
func TestOneDiskTwoDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newDevice(t, nil)
		first.good()
		state, _ := first.Clock().State(boot)
		second := newDevice(t, func(o *Options, _ *cloud) {
			o.Transport, o.Credential, o.Clock = first.cloud, first.active, RestoreClock(state, boot, o.Now())
		})
		for range 5 {
			first.good()
			if _, err := second.atNext(); err != nil {
				t.Fatal(err)
			}
		}
		oneTimeOnly(t, first.cloud)
		if n := len(first.cloud.sessions); n != 2 {
			t.Errorf("%d sessions", n)
		}
	})
}

// TestRepeatedRandomness: a source that says the same after every start of the
// device still makes other keys every time.
//
// Attacks: H16
func TestRepeatedRandomness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newDevice(t, func(o *Options, _ *cloud) { o.Random = constant{} })
		first.good()
		for n := range 3 {
			again := newDevice(t, func(o *Options, _ *cloud) {
				o.Transport, o.Credential, o.Random = first.cloud, first.active, constant{}
				now := o.Now
				o.Now = func() time.Duration { return now() + time.Duration(n+1) } // no two starts take equally long
			})
			again.now = again.o.Now
			if _, err := again.atNext(); err != nil {
				t.Fatal(err)
			}
		}
		oneTimeOnly(t, first.cloud)
		if n := len(first.cloud.sessions); n != 4 {
			t.Errorf("%d sessions of four starts", n)
		}
	})
}

// oneTimeOnly checks that no HS1 went out twice and that no two requests have a
// session and a number in common.
func oneTimeOnly(t *testing.T, c *cloud) {
	t.Helper()
	if err := unique(asStrings(c.hs1s)); err != nil {
		t.Errorf("an ephemeral key was used twice: %v", err)
	}
	var names []string
	for _, r := range c.reqs {
		names = append(names, string(r[8:wire.HeaderSize]))
	}
	if err := unique(names); err != nil {
		t.Errorf("a number was used twice: %v", err)
	}
}

// constant is a random source that always says the same.
type constant struct{}

func (constant) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(3*i + 1)
	}
	return len(p), nil
}

func TestHedge(t *testing.T) {
	k := credential(t, 1).Key
	read := func(h hedge, n int) string {
		t.Helper()
		b := make([]byte, n)
		if got, err := io.ReadFull(h, b); err != nil || got != n {
			t.Fatal(got, err)
		}
		return string(b)
	}
	h := hedge{random: constant{}, key: k, boot: boot, now: time.Second}
	want := read(h, 32)
	if read(h, 32) != want {
		t.Error("nothing has changed, and the bytes have")
	}
	source := make([]byte, 32)
	if _, err := (constant{}).Read(source); err != nil || string(source) == want {
		t.Error("the source is not mixed with anything")
	}
	for name, edit := range map[string]func(h *hedge){
		"the key":    func(h *hedge) { h.key = credential(t, 1).Key },
		"the boot":   func(h *hedge) { h.boot = wire.BootID{1} },
		"the time":   func(h *hedge) { h.now++ },
		"the source": func(h *hedge) { h.random = bytes.NewReader(bytes.Repeat([]byte{1}, 32)) },
	} {
		other := h
		edit(&other)
		if read(other, 32) == want {
			t.Errorf("%s does not count", name)
		}
	}
	if long := read(h, 100); long[:32] == long[32:64] {
		t.Error("the bytes repeat themselves")
	}
	h.random = bytes.NewReader(make([]byte, 31))
	if n, err := h.Read(make([]byte, 32)); err == nil || n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a source that ends: %d, %v", n, err)
	}
}
