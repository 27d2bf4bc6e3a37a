package uplink

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt/wire"
)

const slot = 15 * time.Minute

// in returns a machine that has come to a state at time 0, with its first slot
// at 0.
func in(t *testing.T, s State) machine {
	t.Helper()
	m := newMachine(0, slot, false, 0)
	for _, e := range map[State][]event{
		NoSession:     nil,
		HandshakeSent: {{kind: due}},
		Waiting:       {{kind: due}, {kind: welcomed, lifetime: 24 * time.Hour}},
		Ready:         {{kind: due}, {kind: welcomed, lifetime: 24 * time.Hour}, {kind: answered}},
	}[s] {
		m, _ = m.step(e, 0, 0)
	}
	if m.state != s {
		t.Fatalf("%v instead of %v", m.state, s)
	}
	return m
}

var kinds = map[kind]string{
	due: "due", welcomed: "welcomed", badWelcome: "badWelcome", answered: "answered", badAnswer: "badAnswer", noAnswer: "noAnswer",
	refused: "refused", busy: "busy", unavailable: "unavailable", malformed: "malformed", tooLarge: "tooLarge", rekeyed: "rekeyed",
}

// documented is the table of section 8 of docs/protocol.md.
func documented(t *testing.T) map[State]map[kind]row {
	t.Helper()
	events := map[string]kind{
		"due": due, "HS2 opens": welcomed, "HS2 does not open": badWelcome, "RSP opens": answered, "RSP does not open": badAnswer,
		"no answer": noAnswer, "ERR 1": malformed, "ERR 2": refused, "ERR 3": busy, "ERR 4": unavailable, "ERR 5": tooLarge, "key changed": rekeyed,
	}
	does := map[string]action{
		"wipe handshake": forgetHandshake, "wipe session": forgetSession, "HS1": shakeHands, "same HS1": sendAgain,
		"REQ": sendRequest, "deliver": deliver, "rest": rest,
	}
	states := map[string]State{}
	for s := NoSession; s <= Waiting; s++ {
		states[s.String()] = s
	}
	table := map[State]map[kind]row{NoSession: {}, HandshakeSent: {}, Ready: {}, Waiting: {}}
	for _, cells := range documentTable(t, "| state | event | does | becomes |") {
		from, ok1 := states[cells[0]]
		e, ok2 := events[cells[1]]
		to, ok3 := states[cells[3]]
		if !ok1 || !ok2 || !ok3 {
			t.Fatalf("%q is no row of a state machine", cells)
		}
		if _, twice := table[from][e]; twice {
			t.Fatalf("%q stands twice", cells)
		}
		r := row{state: to}
		for word := range strings.SplitSeq(cells[2], ", ") {
			a, ok := does[word]
			if !ok {
				t.Fatalf("%q: what is %q?", cells, word)
			}
			r.actions = append(r.actions, a)
		}
		table[from][e] = r
	}
	return table
}

// documentTable returns the rows of a table of docs/protocol.md.
func documentTable(t *testing.T, head string) [][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), head+"\n")
	if !ok {
		t.Fatalf("the document has no table %s", head)
	}
	var rows [][]string
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "| ") {
			if strings.HasPrefix(line, "|-") {
				continue
			}
			break
		}
		rows = append(rows, strings.Split(strings.Trim(strings.TrimSpace(line), "| "), " | "))
	}
	return rows
}

type row struct {
	state   State
	actions []action
}

// TestEveryStateAndEvent compares the machine with the document, row by row,
// and wants what is not in the table to change nothing.
func TestEveryStateAndEvent(t *testing.T) {
	table := documented(t)
	for state := NoSession; state <= Waiting; state++ {
		for k := due; k <= rekeyed; k++ {
			want, possible := table[state][k]
			before := in(t, state)
			after, actions := before.step(event{kind: k, lifetime: time.Hour}, time.Second, 0.5)
			if !possible {
				if after != before || actions != nil {
					t.Errorf("%v, %s: not in the document, but led to %v with %v", state, kinds[k], after.state, actions)
				}
				continue
			}
			if diff := cmp.Diff(want, row{after.state, actions}, cmp.AllowUnexported(row{})); diff != "" {
				t.Errorf("%v, %s (-document +code):\n%s", state, kinds[k], diff)
			}
		}
	}
}

func TestDocumentedNumbers(t *testing.T) {
	want := []string{
		fmt.Sprintf("%.0f s", wire.AnswerTime.Seconds()),
		fmt.Sprintf("%.0f s · 2^k, give or take half, at most one slot", firstBackoff.Seconds()),
		fmt.Sprint(budget),
		fmt.Sprint(burst),
		fmt.Sprintf("%d times", maxResends),
		fmt.Sprintf("%d, over %.0f h or more", fallbackRefusals, fallbackAge.Hours()),
		fmt.Sprintf("%.0f h", maxSlot.Hours()),
		fmt.Sprintf("%.0f s", MaxHold.Seconds()),
		fmt.Sprintf("%.0f s", maxStep.Seconds()),
	}
	rows := documentTable(t, "| what | value |")
	if len(rows) != len(want) {
		t.Fatalf("%d numbers, want %d", len(rows), len(want))
	}
	for i, r := range rows {
		if r[1] != want[i] {
			t.Errorf("%s: %s, the code has %s", r[0], r[1], want[i])
		}
	}
	if budgetWindow != time.Hour || burstWindow != 15*time.Minute {
		t.Error("the windows of the budget are others than in the document")
	}
}

func TestResendsAreFew(t *testing.T) {
	m := in(t, HandshakeSent)
	for n := range 3 {
		var actions []action
		m, actions = m.step(event{kind: []kind{noAnswer, unavailable, noAnswer}[n]}, time.Second, 0)
		want := []action{sendAgain}
		if n == maxResends {
			want = []action{forgetHandshake, rest}
		}
		if !slices.Equal(actions, want) {
			t.Errorf("failure %d: %v, want %v", n+1, actions, want)
		}
	}
	if m.state != NoSession || m.failures != 1 {
		t.Errorf("%v after %d failures", m.state, m.failures)
	}
}

func TestSessionEnds(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(m *machine)
		at   time.Duration
		ends bool
	}{
		"young":                      {func(*machine) {}, 24*time.Hour - 1, false},
		"too old":                    {func(*machine) {}, 24 * time.Hour, true},
		"older than the hard limit":  {func(m *machine) { m.lifetime = 48 * time.Hour }, 48 * time.Hour, true},
		"one request is left":        {func(m *machine) { m.seq = wire.MaxSessionRequests - 1 }, time.Minute, false},
		"no request is left":         {func(m *machine) { m.seq = wire.MaxSessionRequests }, time.Minute, true},
		"lifetime of ten days, used": {func(m *machine) { m.lifetime = 48 * time.Hour }, 47 * time.Hour, false},
	} {
		m := in(t, Ready)
		c.edit(&m)
		seq := m.seq
		m, actions := m.step(event{kind: due}, c.at, 0)
		want := []action{sendRequest}
		if c.ends {
			want = []action{forgetSession, shakeHands}
		} else if m.seq != seq+1 {
			t.Errorf("%s: the number went from %d to %d", name, seq, m.seq)
		}
		if !slices.Equal(actions, want) {
			t.Errorf("%s: %v, want %v", name, actions, want)
		}
	}
	m, _ := in(t, HandshakeSent).step(event{kind: welcomed, lifetime: 240 * time.Hour}, 0, 0)
	if m.lifetime != wire.MaxSessionAge {
		t.Errorf("a session may last %v", m.lifetime)
	}
}

func TestBackoff(t *testing.T) {
	for failures := range 70 {
		full := slot
		if failures < 10 {
			full = min(firstBackoff<<failures, slot)
		}
		lowest, highest := time.Duration(1<<62), time.Duration(0)
		for i := range 1000 {
			d := backoff(failures, slot, float64(i)/1000)
			lowest, highest = min(lowest, d), max(highest, d)
		}
		if lowest < full/2 || highest > slot || highest > full*3/2 {
			t.Errorf("after %d failures: %v … %v, want within half of %v and one slot", failures, lowest, highest, full)
		}
		if highest-lowest < full/3 {
			t.Errorf("after %d failures: only %v … %v, devices stay together", failures, lowest, highest)
		}
	}
	if d := backoff(0, time.Second, 0.999); d > time.Second {
		t.Errorf("%v in a slot of a second", d)
	}
}

// What a forged ERR asks for delays a device by a slot at most.
func TestRetryAfter(t *testing.T) {
	for _, c := range []struct{ ask, least, most time.Duration }{
		{0, firstBackoff / 2, firstBackoff * 3 / 2},
		{5 * time.Minute, 5 * time.Minute, 5 * time.Minute},
		{65535 * time.Second, slot, slot},
	} {
		for _, k := range []kind{busy, unavailable, refused, malformed, tooLarge} {
			m, _ := in(t, Waiting).step(event{kind: k, retryAfter: c.ask}, 0, 0.5)
			if m.next < c.least || m.next > c.most {
				t.Errorf("%s, retry after %v: next attempt in %v", kinds[k], c.ask, m.next)
			}
		}
	}
}

func TestNoAttemptBeforeItsTime(t *testing.T) {
	m, _ := in(t, Waiting).step(event{kind: noAnswer}, 0, 0.5)
	if _, actions := m.step(event{kind: due}, m.next-1, 0); !slices.Equal(actions, []action{rest}) {
		t.Errorf("the back-off was cut short: %v", actions)
	}
	if _, actions := m.step(event{kind: due}, m.next, 0); !slices.Equal(actions, []action{sendRequest}) {
		t.Errorf("nothing happens when it is over: %v", actions)
	}
	good := in(t, Ready)
	if _, actions := good.step(event{kind: due}, 1, 0); !slices.Equal(actions, []action{sendRequest}) {
		t.Errorf("no exchange between slots: %v", actions)
	}
}

func TestSlots(t *testing.T) {
	m := newMachine(0, slot, false, 0.5)
	if m.next != slot/2 {
		t.Fatalf("first exchange at %v", m.next)
	}
	exchange := func(at time.Duration, e event) {
		t.Helper()
		if m.state == NoSession {
			m, _ = m.step(event{kind: due}, at, 0)
			m, _ = m.step(event{kind: welcomed, lifetime: 48 * time.Hour}, at, 0)
		} else {
			m, _ = m.step(event{kind: due}, at, 0)
		}
		m, _ = m.step(e, at+time.Second, 0.5)
	}
	steps := []struct {
		name string
		at   time.Duration
		e    event
		want time.Duration
	}{
		{"in time", slot / 2, event{kind: answered}, slot * 3 / 2},
		{"late: the rhythm stays", slot*3/2 + time.Minute, event{kind: answered}, slot * 5 / 2},
		{"between slots: the next one stays", slot * 2, event{kind: answered}, slot * 5 / 2},
		{"three slots missed", slot * 6, event{kind: answered}, slot * 13 / 2},
		{"failed", slot * 13 / 2, event{kind: noAnswer}, slot*13/2 + time.Second + firstBackoff},
		{"after a back-off", slot * 7, event{kind: answered}, slot * 15 / 2},
		{"the cloud says when", slot * 15 / 2, event{kind: answered, nextSlot: time.Hour}, slot*15/2 + time.Second + time.Hour},
		{"between slots it puts nothing off", slot*15/2 + time.Minute, event{kind: answered, nextSlot: time.Hour}, slot*15/2 + time.Second + time.Hour},
		{"but brings it forward", slot*15/2 + 2*time.Minute, event{kind: answered, nextSlot: 10 * time.Minute}, slot*15/2 + time.Second + 12*time.Minute},
		{"and says when, in the slot", slot*15/2 + time.Second + 12*time.Minute, event{kind: answered, nextSlot: 48*time.Minute - time.Second}, slot*15/2 + time.Second + time.Hour},
		{"and says nothing", slot*15/2 + time.Second + time.Hour, event{kind: answered}, slot*17/2 + time.Second + time.Hour},
		{"the cloud wants a long rest", 20 * slot, event{kind: answered, nextSlot: 1 << 32 * time.Second}, 20*slot + time.Second + maxSlot},
	}
	for _, s := range steps {
		exchange(s.at, s.e)
		if m.next != s.want {
			t.Errorf("%s: next at %v, want %v", s.name, m.next, s.want)
		}
	}
	now := 20*slot + 2*time.Second
	if m = m.withInterval(time.Minute, now); m.next != now+time.Minute {
		t.Errorf("a shorter slot begins at %v", m.next)
	}
	if m = m.withInterval(time.Hour, now); m.next != now+time.Minute {
		t.Errorf("a longer slot moved the next exchange to %v", m.next)
	}
	m, _ = m.step(event{kind: due}, now, 0)
	m, _ = m.step(event{kind: noAnswer}, now, 0.5)
	if next := m.next; m.withInterval(time.Second, now).next != next {
		t.Error("a new interval cut a back-off short")
	}
}

func TestFallbackAfterRefusals(t *testing.T) {
	m := newMachine(0, slot, true, 0)
	var now time.Duration
	attempts := func(want bool) {
		t.Helper()
		m, _ = m.step(event{kind: due}, now, 0)
		if m.state != HandshakeSent || m.fallback != want {
			t.Fatalf("at %v: %v, fallback %v, want %v", now, m.state, m.fallback, want)
		}
		m, _ = m.step(event{kind: refused}, now, 0)
		now += 25 * time.Minute
	}
	attempts(false) // 0 min
	attempts(false) // 25
	attempts(false) // 50: three refusals, but not yet over an hour
	attempts(true)  // 75
	attempts(false) // the fallback was refused as well: the count begins anew
	attempts(false)
	attempts(false)
	attempts(true)
	m, _ = m.step(event{kind: due}, now, 0)
	if m, _ = m.step(event{kind: welcomed, lifetime: time.Hour}, now, 0); m.refusals != 0 {
		t.Errorf("%d refusals after a good handshake", m.refusals)
	}
	without := newMachine(0, slot, false, 0)
	for now = 0; now < 10*slot; now += slot {
		without, _ = without.step(event{kind: due}, now, 0)
		without, _ = without.step(event{kind: refused}, now, 0)
		if without.fallback {
			t.Fatal("fell back to a key that there is not")
		}
	}
}

// TestWhateverHappens drives the machine with anything at any time and holds
// what must hold: the budget of handshakes, the numbers, the back-off.
//
// Attacks: W18
func TestWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Duration(0)
		m := newMachine(now, slot, rapid.Bool().Draw(t, "fallback"), 0.3)
		var shaken []time.Duration
		sent := wire.Sequence(0)
		events := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) event {
			e := event{kind: kind(rapid.IntRange(int(due), int(rekeyed)).Draw(t, "kind"))}
			if rapid.Bool().Draw(t, "due") {
				e.kind = due
			}
			e.lifetime = time.Duration(rapid.Int64Range(0, int64(72*time.Hour)).Draw(t, "lifetime"))
			e.retryAfter = time.Duration(rapid.Int64Range(0, 65535).Draw(t, "retry")) * time.Second
			return e
		}), 1, 200).Draw(t, "events")
		for _, e := range events {
			now += time.Duration(rapid.Int64Range(0, int64(10*time.Minute)).Draw(t, "pause"))
			if rapid.Bool().Draw(t, "wait") {
				now = max(now, m.next)
			}
			before := m
			var actions []action
			m, actions = m.step(e, now, rapid.Float64Range(0, 0.999).Draw(t, "chance"))
			for _, a := range actions {
				switch a {
				case shakeHands:
					shaken = append(shaken, now)
					sent = 0
				case sendRequest:
					if m.seq <= sent || m.seq > wire.MaxSessionRequests {
						t.Fatalf("number %d after %d", m.seq, sent)
					}
					sent = m.seq
				case rest, deliver, sendAgain, forgetHandshake, forgetSession:
				}
			}
			if m.failures > before.failures && m.next > now+slot {
				t.Fatalf("the next attempt is %v away", m.next-now)
			}
			if m.resends > maxResends {
				t.Fatalf("%d resends", m.resends)
			}
		}
		for i := range shaken {
			if i >= burst && shaken[i]-shaken[i-burst] < burstWindow {
				t.Fatalf("%d handshakes within %v", burst+1, shaken[i]-shaken[i-burst])
			}
			if i >= budget && shaken[i]-shaken[i-budget] < budgetWindow {
				t.Fatalf("%d handshakes within %v", budget+1, shaken[i]-shaken[i-budget])
			}
		}
	})
}
