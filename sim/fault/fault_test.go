package fault

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseRule(t *testing.T) {
	for text, want := range map[string]Rule{
		`{"fault": "drop"}`:                  {Kind: Drop, Probability: 1},
		`{"fault": "late", "for": "1500ms"}`: {Kind: Late, Probability: 1, For: 1500 * time.Millisecond},
		`{"fault": "exception", "code": 6, "from": "10m", "to": "1h30m", "probability": 0.1, "count": 5, "units": [17], "functions": [3, 16], "addresses": [8]}`: {
			Kind: Exception, Code: 6, From: 10 * time.Minute, To: 90 * time.Minute, Probability: 0.1, Count: 5, Units: []byte{17}, Functions: []byte{3, 16}, Addresses: []uint16{8},
		},
	} {
		got, err := ParseRule([]byte(text))
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", text, err, diff)
		}
	}
}

func TestParseRuleRefuses(t *testing.T) {
	for text, want := range map[string]string{
		``:                                   "no object",
		`[]`:                                 "no object",
		`{`:                                  "no rule",
		`{"fault": "drop"} {}`:               "something follows",
		`{"fault": "drop", "fault": "drop"}`: "twice",
		`{"fault": "drop", "Count": 1}`:      "twice or is no name",
		`{"fault": "drop", "often": 1}`:      "often",
		`{}`:                                 "fault: there is no \"\", only exception, drop",
		`{"fault": "none"}`:                  "there is no",
		`{"fault": "explode"}`:               "explode",
		`{"fault": "drop", "from": "soon"}`:  "from",
		`{"fault": "drop", "from": "-1s"}`:   "from",
		`{"fault": "drop", "from": "2s", "to": "2s"}`: "from, to",
		`{"fault": "drop", "probability": 0}`:         "probability",
		`{"fault": "drop", "probability": 1.1}`:       "probability",
		`{"fault": "drop", "count": -1}`:              "count",
		`{"fault": "drop", "units": [256]}`:           "units",
		`{"fault": "drop", "units": 17}`:              "units",
		`{"fault": "drop", "functions": [5]}`:         "functions: 5",
		`{"fault": "drop", "code": 1}`:                "code",
		`{"fault": "exception"}`:                      "code",
		`{"fault": "exception", "code": 128}`:         "code",
		`{"fault": "late"}`:                           "for",
		`{"fault": "late", "for": "11m"}`:             "for",
		`{"fault": "drop", "for": "1s"}`:              "for",
		`{"fault": "one_client", "units": [17]}`:      "units",
		`{"fault": "one_client", "functions": [3]}`:   "functions",
		`{"fault": "one_client", "addresses": [3]}`:   "addresses",
	} {
		if r, err := ParseRule([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %+v, %v, want %q", text, r, err, want)
		}
	}
}

func TestParseScript(t *testing.T) {
	got, err := ParseScript([]byte("# a day\n\n{\"fault\": \"drop\"}\r\n  {\"fault\": \"crc\"}"))
	if diff := cmp.Diff([]Rule{{Kind: Drop, Probability: 1}, {Kind: CRC, Probability: 1}}, got); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	for text, want := range map[string]string{
		"\n{\"fault\": \"drop\"}\n{\"fault\": 1}":       "line 3: fault",
		strings.Repeat("{\"fault\": \"drop\"}\n", 1001): "line 1001: more than 1000",
		strings.Repeat("#", MaxScript+1):                "at most",
	} {
		if rules, err := ParseScript([]byte(text)); err == nil || !strings.Contains(err.Error(), want) || rules != nil {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

// TestDecide: which of the rules comes at a request.
func TestDecide(t *testing.T) {
	read, write := Request{Unit: 17, Function: 3}, Request{Unit: 17, Function: 6, Write: true}
	asleep := Request{Unit: 17, Function: 3, Sleeps: true}
	other := Request{Unit: 18, Function: 4}
	for _, x := range []struct {
		name string
		rule Rule
		now  time.Duration
		q    Request
		want bool
	}{
		{"always", Rule{Kind: Drop}, 0, read, true},
		{"before", Rule{Kind: Drop, From: 2}, 1, read, false},
		{"from", Rule{Kind: Drop, From: 2}, 2, read, true},
		{"until", Rule{Kind: Drop, To: 3}, 2, read, true},
		{"to", Rule{Kind: Drop, To: 3}, 3, read, false},
		{"its unit", Rule{Kind: Drop, Units: []byte{1, 17}}, 0, read, true},
		{"another unit", Rule{Kind: Drop, Units: []byte{17}}, 0, other, false},
		{"its function", Rule{Kind: Drop, Functions: []byte{6, 3}}, 0, read, true},
		{"another function", Rule{Kind: Drop, Functions: []byte{6, 3}}, 0, other, false},
		{"its register", Rule{Kind: Drop, Addresses: []uint16{9, 4}}, 0, Request{Address: 2, Quantity: 3}, true},
		{"before its register", Rule{Kind: Drop, Addresses: []uint16{5}}, 0, Request{Address: 2, Quantity: 3}, false},
		{"behind its register", Rule{Kind: Drop, Addresses: []uint16{1}}, 0, Request{Address: 2, Quantity: 3}, false},
		{"a write that has no effect", Rule{Kind: NoEffect}, 0, write, true},
		{"no write to have no effect", Rule{Kind: NoEffect}, 0, read, false},
		{"nothing to freeze", Rule{Kind: Frozen}, 0, write, false},
		{"asleep", Rule{Kind: Asleep}, 0, asleep, true},
		{"awake", Rule{Kind: Asleep}, 0, read, false},
		{"lost", Rule{Kind: Lost}, 0, write, true},
		{"no matter of requests", Rule{Kind: OneClient}, 0, read, false},
	} {
		x.rule.Probability = 1
		got, _ := NewPlan([]Rule{x.rule}, 1).Decide(x.now, x.q)
		if (got.Kind != None) != x.want {
			t.Errorf("%s: %v", x.name, got.Kind)
		}
	}
}

func TestDecideTakesTheFirst(t *testing.T) {
	p := NewPlan([]Rule{{Kind: Drop, Probability: 1, Count: 2}, {Kind: CRC, Probability: 1, Count: 1}}, 1)
	p.Insert(Rule{Kind: Late, Probability: 1, Count: 1})
	p.Add(Rule{Kind: Double, Probability: 1, From: time.Hour})
	var got []Kind
	for range 5 {
		r, _ := p.Decide(0, Request{})
		got = append(got, r.Kind)
	}
	if diff := cmp.Diff([]Kind{Late, Drop, Drop, CRC, None}, got); diff != "" {
		t.Error(diff)
	}
	p.Clear()
	if r, _ := p.Decide(2*time.Hour, Request{}); r.Kind != None {
		t.Errorf("after all were cleared: %v", r.Kind)
	}
}

// TestChance: the share of the faults is their probability, and the same seed
// gives the same.
func TestChance(t *testing.T) {
	play := func(seed uint64) (kinds []Kind, came int) {
		p := NewPlan([]Rule{{Kind: Drop, Probability: 0.1}, {Kind: CRC, Probability: 0.5}}, seed)
		for range 10_000 {
			r, _ := p.Decide(0, Request{})
			kinds = append(kinds, r.Kind)
			if r.Kind == Drop {
				came++
			}
		}
		return kinds, came
	}
	a, came := play(1)
	b, _ := play(1)
	c, _ := play(2)
	if !cmp.Equal(a, b) || cmp.Equal(a, c) {
		t.Error("chance does not follow the seed")
	}
	if came < 900 || came > 1100 {
		t.Errorf("%d of 10000 answers dropped, want a tenth", came)
	}
}

// TestSpoil: each kind spoils the part of the frame that it says, with and
// without a check at the end, and never makes another good answer.
func TestSpoil(t *testing.T) {
	rtu := Frame{Bytes: []byte{17, 3, 4, 0, 1, 0, 2, 0x3b, 0xf3}, Head: 1, Tail: 2}
	tcp := Frame{Bytes: []byte{0, 9, 0, 0, 0, 7, 17, 3, 4, 0, 1, 0, 2}, Head: 7}
	// change is where a frame of the same size differs, from the first byte to the last.
	change := func(a, b []byte) (first, last int) {
		first = len(a)
		for i := range a {
			if a[i] != b[i] {
				first, last = min(first, i), i
			}
		}
		return first, last
	}
	for seed := range uint64(500) {
		for _, f := range []Frame{rtu, tcp} {
			before := bytes.Clone(f.Bytes)
			for _, k := range Kinds() {
				got := k.Spoil(f, seed)
				good := bytes.Equal(got, before)
				if k == Double {
					good = bytes.Equal(got, append(bytes.Clone(before), before...))
				}
				if k == Truncate {
					good = len(got) >= 1 && len(got) < len(before) && bytes.HasPrefix(before, got)
				}
				if k == CRC || k == Corrupt {
					first, last := change(before, got)
					switch {
					case f.Tail > 0 && k == CRC:
						good = first == 8
					case f.Tail > 0:
						good = first >= f.Head && first < len(got) && last-first <= 1
					case k == CRC:
						good = first == 2 && last == 2
					default:
						good = first == f.Head && last == f.Head && got[7]&0x80 == 0 && got[7] != 4
					}
				}
				if !good || !bytes.Equal(f.Bytes, before) {
					t.Fatalf("%v with seed %d: % x, from % x", k, seed, got, before)
				}
			}
		}
	}
}

// TestOneClient: it closes connections while its time is, as often as it may,
// and stands in no other rule's way.
func TestOneClient(t *testing.T) {
	p := NewPlan([]Rule{{Kind: OneClient, Probability: 1, From: time.Hour, To: 2 * time.Hour, Count: 2}, {Kind: Drop, Probability: 1}}, 1)
	for i, x := range []struct {
		now  time.Duration
		want bool
	}{{0, false}, {time.Hour, true}, {2 * time.Hour, false}, {time.Hour, true}, {time.Hour, false}} {
		if got := p.OneClient(x.now); got != x.want {
			t.Errorf("%d at %v: %v", i, x.now, got)
		}
		if r, _ := p.Decide(x.now, Request{}); r.Kind != Drop {
			t.Errorf("a request meets %v", r.Kind)
		}
	}
	rare, closed := NewPlan([]Rule{{Kind: OneClient, Probability: 0.3}}, 1), 0
	for range 1000 {
		if rare.OneClient(0) {
			closed++
		}
	}
	if closed < 230 || closed > 370 {
		t.Errorf("%d of 1000 with a probability of 0.3", closed)
	}
}

func TestKindNames(t *testing.T) {
	for _, k := range Kinds() {
		if k.String() == "" || strings.Contains(k.String(), "kind") {
			t.Errorf("%d has no name", byte(k))
		}
	}
	if got := Kind(99).String(); got != "kind 99" || len(Kinds()) != 15 {
		t.Errorf("%s, %d kinds", got, len(Kinds()))
	}
}

func FuzzParseRule(f *testing.F) {
	f.Add([]byte(`{"fault": "exception", "code": 6, "probability": 0.5, "units": [17]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := ParseRule(text); err == nil && r.Check() != nil {
			t.Errorf("%q is read as %+v, which is none", text, r)
		}
	})
}
