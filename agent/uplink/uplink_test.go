package uplink

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/wire"
)

func TestExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, nil)
		if s := d.Status(); s.State != NoSession || s.Exchanged || s.Next < d.now() || s.Next >= d.now()+slot {
			t.Fatalf("at the start: %+v", s)
		}
		first := d.Next()
		for range 3 {
			d.good()
		}
		if len(d.cloud.hs1s) != 1 {
			t.Errorf("%d handshakes for three exchanges", len(d.cloud.hs1s))
		}
		if diff := cmp.Diff([]wire.Sequence{1, 2, 3}, d.cloud.numbers); diff != "" {
			t.Errorf("sequence numbers (-want +got):\n%s", diff)
		}
		if got, want := d.Next(), first+3*slot; got != want {
			t.Errorf("the fourth exchange is due at %v, want %v", got, want)
		}
		for i, q := range d.cloud.requests {
			sent := first + time.Duration(i)*slot
			if q.At.Boot != boot || q.At.Mono != sent.Milliseconds() || q.MaxAnswer != wire.MaxAnswer {
				t.Errorf("request %d: %+v", i+1, q)
			}
			if diff := cmp.Diff(&epochs, q.Epochs); diff != "" {
				t.Errorf("request %d (-want +got):\n%s", i+1, diff)
			}
			if q.Wall == nil || q.Wall.At != at(sent) {
				t.Errorf("request %d has the time %+v, want %d: HS2 tells it", i+1, q.Wall, at(sent))
			}
		}
		if s := d.Status(); s.State != Ready || !s.Exchanged || s.Last != first+2*slot || s.Failures != 0 || s.Err != nil {
			t.Errorf("in the end: %+v", s)
		}
	})
}

// TestFirstExchangesAreSpread: devices that start together do not come together.
func TestFirstExchangesAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quarters := map[int]int{}
		for range 200 {
			d := newDevice(t, nil)
			quarters[int((d.Next()-d.now())*4/slot)]++
		}
		for q := range 4 {
			if quarters[q] < 20 {
				t.Errorf("quarter %d of the slot gets %d of 200 devices", q, quarters[q])
			}
		}
	})
}

// cut lets n messages to path be lost: before they reach the cloud, or after.
func cut(n int, path string, reaches bool) func(context.Context, string, []byte, func() Reply) (Reply, error) {
	return func(_ context.Context, p string, _ []byte, ask func() Reply) (Reply, error) {
		if p != path || n == 0 {
			return ask(), nil
		}
		n--
		if reaches {
			ask()
		}
		return Reply{}, errCut
	}
}

func TestTheSameHS1IsSentAgain(t *testing.T) {
	for _, lost := range []int{1, 2, 3} {
		for _, reaches := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, func(_ *Options, c *cloud) { c.meddle = cut(lost, wire.PathSession, reaches) })
				var sent []string
				inner := d.cloud.meddle
				d.cloud.meddle = func(ctx context.Context, p string, msg []byte, ask func() Reply) (Reply, error) {
					if p == wire.PathSession {
						sent = append(sent, string(msg))
					}
					return inner(ctx, p, msg, ask)
				}
				_, err := d.atNext()
				if lost <= maxResends {
					if err != nil || len(d.cloud.sessions) != 1 || len(sent) != lost+1 {
						t.Fatalf("%d lost: %v, %d sessions, %d sent", lost, err, len(d.cloud.sessions), len(sent))
					}
				} else if !errors.Is(err, ErrNoAnswer) || len(sent) != 3 {
					t.Fatalf("%d lost: %v, %d sent", lost, err, len(sent))
				}
				for _, s := range sent {
					if s != sent[0] {
						t.Error("a resend carried other bytes")
					}
				}
				if lost > maxResends {
					d.good()
					if sent[3] == sent[0] {
						t.Error("a new handshake used the old ephemeral key")
					}
				}
			})
		}
	}
}

// TestRepeatedHS2TellsNoTime: the cloud repeats HS2 with the time at which it was
// made. The first request says that the time is unknown, rather than a wrong one.
func TestRepeatedHS2TellsNoTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, func(_ *Options, c *cloud) { c.meddle = cut(1, wire.PathSession, true) })
		d.good()
		if w := d.cloud.requests[0].Wall; w != nil {
			t.Errorf("after a repeated HS2 the time is said to be %+v", w)
		}
		d.good()
		q := d.cloud.requests[1]
		if q.Wall == nil {
			t.Fatal("after an RSP the time is not known")
		}
		if off := q.Wall.At - at(time.Duration(q.At.Mono)*time.Millisecond); off < -1 || off > 1 { // rounding
			t.Errorf("after an RSP the time is off by %d ms", off)
		}
	})
}

// TestRetriesUseNewNumbers: whatever is lost on the way, a number is never used
// twice, and the message goes out again with its id.
func TestRetriesUseNewNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, func(_ *Options, c *cloud) { c.meddle = cut(3, wire.PathExchange, true) })
		for range 3 {
			if _, err := d.atNext(); !errors.Is(err, ErrNoAnswer) || !errors.Is(err, errCut) {
				t.Fatalf("err = %v", err)
			}
			if s := d.Status(); s.State != Ready || !errors.Is(s.Err, ErrNoAnswer) {
				t.Errorf("%+v", s)
			}
		}
		d.good()
		if diff := cmp.Diff([]wire.Sequence{1, 2, 3, 4}, d.cloud.numbers); diff != "" {
			t.Errorf("numbers (-want +got):\n%s", diff)
		}
		for _, q := range d.cloud.requests {
			if diff := cmp.Diff([]wire.Message{message}, q.Messages); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		if err := unique(asStrings(d.cloud.reqs)); err != nil {
			t.Error(err)
		}
		if len(d.cloud.hs1s) != 1 {
			t.Errorf("%d handshakes: lost answers are no reason for one", len(d.cloud.hs1s))
		}
	})
}

// TestForgedErrors is a proxy that answers everything with an ERR of its own,
// 1,000 times and more.
//
// Attacks: W18
func TestForgedErrors(t *testing.T) {
	for code := wire.CodeMalformed; code <= wire.CodeTooLarge; code++ {
		for name, path := range map[string]string{"handshakes": wire.PathSession, "exchanges": wire.PathExchange, "everything": ""} {
			t.Run(code.String()+" to "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { forgedErrors(t, code, path) })
			})
		}
	}
}

func forgedErrors(t *testing.T, code wire.Code, path string) {
	t.Helper()
	d := newDevice(t, nil)
	d.good()
	clock, start := d.Clock(), d.now()
	forged := 0
	var handshakes []time.Duration
	last := ""
	d.cloud.meddle = func(_ context.Context, p string, msg []byte, ask func() Reply) (Reply, error) {
		if p == wire.PathSession && string(msg) != last {
			handshakes = append(handshakes, d.now())
			last = string(msg)
		}
		if path != "" && p != path {
			return ask(), nil
		}
		forged++
		return Reply{Status: code.HTTPStatus(), Body: wire.ErrorMessage{Code: code, RetryAfter: time.Duration(forged%3) * 30000 * time.Second}.Append(nil)}, nil
	}
	if path == wire.PathSession { // else the session would simply go on
		d.Rekey(d.active, nil)
	}
	for attempts := 0; forged < 1000 && attempts < 2500; attempts++ {
		before := d.now()
		_, err := d.atNext()
		var refusal *RefusalError
		if err == nil || !errors.As(err, &refusal) && !errors.Is(err, ErrNotDue) {
			t.Fatalf("attempt %d: %v", attempts, err)
		}
		if wait := d.Next() - before; wait > budgetWindow+slot {
			t.Fatalf("attempt %d: the device hides for %v", attempts, wait)
		}
	}
	if forged < 1000 {
		t.Fatalf("only %d forged answers in the time", forged)
	}
	for i := budget; i < len(handshakes); i++ {
		if within := handshakes[i] - handshakes[i-budget]; within < budgetWindow {
			t.Fatalf("%d handshakes within %v", budget+1, within)
		}
	}
	if path != wire.PathExchange && d.Clock() != clock {
		t.Error("the clock was changed")
	}
	if w := d.Clock().Wall(d.now()); w == nil || max(w.At-at(d.now()), at(d.now())-w.At) > w.Uncertainty {
		t.Errorf("the clock says %+v at %d", w, at(d.now()))
	}
	// Sessions end of age; of an ERR only when it is a refusal.
	if days := int((d.now() - start) / (24 * time.Hour)); path == wire.PathExchange && code != wire.CodeRefused && len(handshakes) > days+1 {
		t.Errorf("%d handshakes in %d days", len(handshakes), days)
	}
	if d.active.Epoch != 1 || d.Status().Fallback {
		t.Error("the key was changed")
	}
	// The line is good again: so is the device, with the same message.
	d.cloud.meddle = nil
	for range 8 {
		if _, err := d.atNext(); err == nil {
			q := d.cloud.requests[len(d.cloud.requests)-1]
			if diff := cmp.Diff([]wire.Message{message}, q.Messages); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			return
		}
	}
	t.Errorf("the device does not come back: %v", d.Status().Err)
}

// Whatever else stands in for the cloud counts as no answer.
//
// Attacks: W16, W17
func TestSomethingElseAnswers(t *testing.T) {
	for name, reply := range map[string]Reply{
		"captive portal":        {200, []byte("<html>Please sign in</html>")},
		"empty":                 {200, nil},
		"redirect":              {302, []byte("<a href=elsewhere>")},
		"permanent redirect":    {308, nil},
		"proxy error":           {502, []byte("Bad gateway")},
		"not found":             {404, []byte("not found")},
		"unauthorized by proxy": {401, []byte("sign in")},
		"ERR as 200":            {200, wire.ErrorMessage{Code: wire.CodeRefused}.Append(nil)},
		"unknown ERR":           {401, []byte{0x45, 0x57, 1, 0x7f, 0, 9, 0, 0}},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDevice(t, nil)
			d.good()
			session, clock := d.session.SID, d.Clock()
			d.cloud.meddle = func(context.Context, string, []byte, func() Reply) (Reply, error) { return reply, nil }
			for range 5 {
				if _, err := d.atNext(); !errors.Is(err, ErrNoAnswer) && !errors.Is(err, ErrInvalid) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if d.Status().State != Ready || d.session.SID != session || d.Clock() != clock {
				t.Errorf("%s changed the device: %+v", name, d.Status())
			}
			d.cloud.meddle = nil
			d.good()
			// The same in front of a handshake.
			d.Rekey(d.active, nil)
			d.cloud.meddle = func(context.Context, string, []byte, func() Reply) (Reply, error) { return reply, nil }
			if _, err := d.atNext(); !errors.Is(err, ErrNoAnswer) && !errors.Is(err, ErrInvalid) {
				t.Errorf("%s, handshake: %v", name, err)
			}
			d.cloud.meddle = nil
			d.good()
		})
	}
}

// Messages of ours that are not the answer to this one.
//
// Attacks: W3, W7, W11, W19
func TestForeignAnswersAreRefused(t *testing.T) {
	for name, forge := range map[string]func(d *device, msg []byte, honest Reply) []byte{
		"the answer before": func(d *device, _ []byte, _ Reply) []byte { return d.cloud.rsps[0] },
		"the answer before, relabelled": func(d *device, msg []byte, _ Reply) []byte {
			old := bytes.Clone(d.cloud.rsps[0])
			copy(old[24:32], msg[24:32])
			return old
		},
		"the request reflected": func(_ *device, msg []byte, _ Reply) []byte { return msg },
		"one bit flipped": func(_ *device, _ []byte, honest Reply) []byte {
			b := bytes.Clone(honest.Body)
			b[60] ^= 4
			return b
		},
		"cut short":  func(_ *device, _ []byte, honest Reply) []byte { return honest.Body[:len(honest.Body)-1] },
		"with more":  func(_ *device, _ []byte, honest Reply) []byte { return append(bytes.Clone(honest.Body), 0) },
		"an old HS2": func(d *device, _ []byte, _ Reply) []byte { return d.cloud.pending[string(d.cloud.hs1s[0])] },
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDevice(t, nil)
			d.good()
			session := d.session.SID
			clock := d.Clock()
			d.cloud.meddle = func(_ context.Context, _ string, msg []byte, ask func() Reply) (Reply, error) {
				return Reply{200, forge(d, msg, ask())}, nil
			}
			for range 3 {
				if a, err := d.atNext(); !errors.Is(err, ErrInvalid) || a.Results != nil {
					t.Errorf("%s: %+v, %v", name, a, err)
				}
			}
			if d.Status().State != Ready || d.session.SID != session || d.Clock() != clock {
				t.Errorf("%s changed the device", name)
			}
			if !strings.Contains(d.log.String(), codeBadAnswer) {
				t.Errorf("%s is not in the log", name)
			}
			d.cloud.meddle = nil
			d.good()
		})
	}
}

// Attacks: H10, H11
func TestBadHS2(t *testing.T) {
	for name, forge := range map[string]func(d *device, msg []byte, honest Reply) []byte{
		"garbage":     func(*device, []byte, Reply) []byte { return append([]byte("EW"), make([]byte, 102)...) },
		"reflected":   func(_ *device, msg []byte, _ Reply) []byte { return msg },
		"bit flipped": func(_ *device, _ []byte, honest Reply) []byte { honest.Body[90] ^= 1; return honest.Body },
		"another's":   func(d *device, _ []byte, _ Reply) []byte { return d.cloud.pending[string(d.cloud.hs1s[0])] },
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDevice(t, nil)
			d.good()
			d.Rekey(d.active, nil)
			d.cloud.meddle = func(_ context.Context, _ string, msg []byte, ask func() Reply) (Reply, error) {
				return Reply{200, forge(d, msg, Reply{200, bytes.Clone(ask().Body)})}, nil
			}
			if _, err := d.atNext(); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
			if d.Status().State != NoSession || d.handshake != nil || !strings.Contains(d.log.String(), codeBadHS2) {
				t.Errorf("%s: %+v\n%s", name, d.Status(), d.log)
			}
			d.cloud.meddle = nil
			d.good()
			if err := unique(asStrings(d.cloud.hs1s)); err != nil {
				t.Errorf("%s: an ephemeral key was used twice: %v", name, err)
			}
		})
	}
}

// TestLateAnswers: an answer after 30 s is none, even when the transport waits.
//
// Attacks: R15, R22
func TestLateAnswers(t *testing.T) {
	delay := func(path string, by time.Duration) func(context.Context, string, []byte, func() Reply) (Reply, error) {
		return func(_ context.Context, p string, _ []byte, ask func() Reply) (Reply, error) {
			reply := ask()
			if p == path {
				time.Sleep(by)
			}
			return reply, nil
		}
	}
	for _, c := range []struct {
		path string
		by   time.Duration
		late bool
	}{
		{wire.PathExchange, 30 * time.Second, false},
		{wire.PathExchange, 31 * time.Second, true},
		{wire.PathSession, 30 * time.Second, false},
		{wire.PathSession, 31 * time.Second, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDevice(t, func(_ *Options, k *cloud) { k.meddle = delay(c.path, c.by) })
			if _, err := d.atNext(); errors.Is(err, ErrNoAnswer) != c.late {
				t.Errorf("%s answered after %v: %v", c.path, c.by, err)
			}
			if c.late && c.path == wire.PathSession && d.Clock().Known() {
				t.Error("a late HS2 set the clock")
			}
			if w := d.Clock().Wall(d.now()); w != nil {
				if off := w.At - at(d.now()); max(off, -off) > 15_001 {
					t.Errorf("the clock is wrong by %d ms", off)
				}
			}
		})
	}
}

// A transport that never answers is given 30 s.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, nil)
		d.good()
		d.cloud.meddle = func(ctx context.Context, _ string, _ []byte, _ func() Reply) (Reply, error) {
			<-ctx.Done()
			return Reply{}, ctx.Err()
		}
		due := d.Next()
		if _, err := d.atNext(); !errors.Is(err, ErrNoAnswer) {
			t.Errorf("err = %v", err)
		}
		if took := d.now() - due; took != wire.AnswerTime {
			t.Errorf("the device waited for %v", took)
		}
	})
}

// Stopping the agent ends an attempt at once, wherever it is.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, func(_ *Options, c *cloud) {
			c.meddle = func(ctx context.Context, _ string, _ []byte, _ func() Reply) (Reply, error) {
				<-ctx.Done()
				return Reply{}, ctx.Err()
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		start := d.now()
		time.AfterFunc(time.Second, cancel)
		if _, err := d.Exchange(ctx, d.build); !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v", err)
		}
		if took := d.now() - start; took != time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestOneExchangeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, nil)
		inside := false
		d.cloud.meddle = func(_ context.Context, _ string, _ []byte, ask func() Reply) (Reply, error) {
			inside = true
			if _, err := d.exchange(); !errors.Is(err, ErrInFlight) {
				t.Errorf("a second exchange: %v", err)
			}
			d.Status()
			d.Clock()
			d.SetInterval(slot)
			return ask(), nil
		}
		d.good()
		if !inside {
			t.Error("nothing was tried")
		}
	})
}

// TestCloudForgetsTheSession: a refusal costs a handshake, not the message.
func TestCloudForgetsTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, nil)
		d.good()
		old := d.session.Keys
		clear(d.cloud.sessions)
		var refusal *RefusalError
		if _, err := d.atNext(); !errors.As(err, &refusal) || refusal.Code != wire.CodeRefused {
			t.Fatalf("err = %v", err)
		}
		if d.Status().State != NoSession || !old.IsZero() {
			t.Error("the keys of the session were kept")
		}
		if wait := d.Next() - d.now(); wait > firstBackoff*3/2 {
			t.Errorf("the next attempt is in %v", wait)
		}
		d.good()
		if len(d.cloud.hs1s) != 2 || d.cloud.numbers[1] != 1 {
			t.Errorf("%d handshakes, numbers %v", len(d.cloud.hs1s), d.cloud.numbers)
		}
	})
}

func TestSessionsGrowOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, func(_ *Options, c *cloud) { c.lifetime = 3 * time.Hour })
		for range 4 * 24 {
			d.good()
		}
		if n := len(d.cloud.hs1s); n != 8 {
			t.Errorf("%d sessions of 3 h in a day", n)
		}
		if err := unique(asStrings(d.cloud.reqs)); err != nil {
			t.Error(err)
		}
	})
}

func TestClockSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, nil)
		d.good()
		right := d.Clock().offset
		d.cloud.skew = time.Hour
		d.good()
		if d.Clock().offset != right {
			t.Error("one answer moved the clock by an hour")
		}
		d.good()
		if got := d.Clock().offset - right; got != time.Hour || !strings.Contains(d.log.String(), codeClockStep) {
			t.Errorf("two answers moved the clock by %v\n%s", got, d.log)
		}
	})
}

// TestClockIsRestored: a restarted agent knows the time before any contact.
func TestClockIsRestored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, nil)
		d.good()
		state, known := d.Clock().State(boot)
		if !known {
			t.Fatal("nothing to keep")
		}
		again := newDevice(t, func(o *Options, c *cloud) {
			o.Now, c.now = d.now, d.now
			o.Clock = RestoreClock(state, boot, d.now())
		})
		again.now = d.now
		if w := again.Clock().Wall(d.now()); w == nil || max(w.At-at(d.now()), at(d.now())-w.At) > 1 {
			t.Errorf("%+v, want %d", w, at(d.now()))
		}
	})
}

func TestRoomForMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, func(_ *Options, c *cloud) { c.maxRequest = 64 << 10 })
		var rooms []int
		build := func(room int) (wire.Request, error) {
			rooms = append(rooms, room)
			return wire.Request{}, nil
		}
		narrow := 16 << 10
		d.cloud.meddle = func(_ context.Context, p string, _ []byte, ask func() Reply) (Reply, error) {
			if p == wire.PathExchange && rooms[len(rooms)-1] > narrow {
				return Reply{Status: 413, Body: []byte("too large")}, nil // a proxy that says so itself
			}
			return ask(), nil
		}
		for {
			time.Sleep(d.Next() - d.now())
			if _, err := d.Exchange(t.Context(), build); err == nil {
				break
			}
		}
		want := []int{wire.MessageRoom(64 << 10), wire.MessageRoom(32 << 10), wire.MessageRoom(16 << 10)}
		if diff := cmp.Diff(want, rooms); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if len(d.cloud.hs1s) != 1 {
			t.Errorf("%d handshakes", len(d.cloud.hs1s))
		}
	})
}

// What the agent cannot build, or what does not fit, costs an attempt and no
// more.
func TestBuildFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, nil)
		d.good()
		time.Sleep(d.Next() - d.now())
		full := errors.New("the disk is gone")
		if _, err := d.Exchange(t.Context(), func(int) (wire.Request, error) { return wire.Request{}, full }); !errors.Is(err, full) {
			t.Errorf("err = %v", err)
		}
		time.Sleep(d.Next() - d.now())
		huge := func(int) (wire.Request, error) {
			return wire.Request{Messages: []wire.Message{{Body: append([]byte{0x5a, 0, 16, 0, 0}, make([]byte, 1<<20)...)}}}, nil
		}
		if _, err := d.Exchange(t.Context(), huge); !errors.Is(err, wire.ErrTooLarge) {
			t.Errorf("err = %v", err)
		}
		d.good()
		if diff := cmp.Diff([]wire.Sequence{1, 4}, d.cloud.numbers); diff != "" {
			t.Errorf("numbers (-want +got):\n%s", diff)
		}
	})
}

// A cloud that says, sealed, that it does not understand, settles nothing.
func TestNotUnderstood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, nil)
		d.good()
		d.cloud.failure = &wire.Failure{Code: wire.ExchangeSchema, Text: "no"}
		if a, err := d.atNext(); !errors.Is(err, ErrNotUnderstood) || a.Results != nil {
			t.Errorf("%+v, %v", a, err)
		}
		if s := d.Status(); s.State != Ready || s.Failures != 1 || !strings.Contains(d.log.String(), string(wire.ExchangeSchema)) {
			t.Errorf("%+v\n%s", s, d.log)
		}
		d.cloud.failure = nil
		d.good()
	})
}

func TestNextSlotOfTheCloud(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, func(_ *Options, c *cloud) { c.nextSlot = time.Minute })
		d.good()
		if wait := d.Next() - d.now(); wait != time.Minute {
			t.Errorf("next in %v", wait)
		}
		d.cloud.nextSlot = 0
		d.good()
		if wait := d.Next() - d.now(); wait != slot {
			t.Errorf("next in %v", wait)
		}
		d.SetInterval(10 * time.Second)
		if wait := d.Next() - d.now(); wait != 10*time.Second {
			t.Errorf("with a new interval, next in %v", wait)
		}
	})
}

func TestNewRefuses(t *testing.T) {
	ok := Options{Transport: &cloud{}, Credential: credential(t, 1), Now: func() time.Duration { return 0 }, Random: rand.Reader, Logger: discardLogger()}
	if u, err := New(ok); err != nil || u.Next() >= DefaultInterval {
		t.Fatalf("%v", err)
	}
	for name, edit := range map[string]func(*Options){
		"no transport":     func(o *Options) { o.Transport = nil },
		"no key":           func(o *Options) { o.Credential.Key.Destroy(); o.Credential = Credential{} },
		"no clock":         func(o *Options) { o.Now = nil },
		"no randomness":    func(o *Options) { o.Random = nil },
		"empty randomness": func(o *Options) { o.Random = bytes.NewReader(nil) },
		"no logger":        func(o *Options) { o.Logger = nil },
		"too often":        func(o *Options) { o.Interval = time.Millisecond },
	} {
		o := ok
		o.Credential = credential(t, 1)
		edit(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Nothing of a key comes out in the log or in an error.
//
// Attacks: A4
func TestNoKeyInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, nil)
		d.good()
		d.o.Logger.Info("state", "uplink", d.o, "session", d.session)
		d.cloud.meddle = cut(100, wire.PathExchange, true)
		for range 5 {
			if _, err := d.atNext(); err != nil {
				d.o.Logger.Info("failed", "error", err)
			}
		}
		k, s := d.active.Key.Secret(), d.session.Keys.Secret()
		for _, secret := range [][]byte{k[:], s[:32], s[32:64], s[64:]} {
			if leaks(d.log.String(), secret) {
				t.Error("a key is in the log")
			}
		}
	})
}
