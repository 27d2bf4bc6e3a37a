package session

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/key"
)

// documented is a table of section 9 of docs/protocol.md, by the heads of its
// columns.
func documented(t *testing.T, heads string) [][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## 9. ")
	_, table, ok := strings.Cut(section, heads+"\n")
	if !ok {
		t.Fatalf("section 9 has no table %s", heads)
	}
	var rows [][]string
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) < 2 {
			break
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if !strings.HasPrefix(cells[0], "---") {
			rows = append(rows, cells)
		}
	}
	return rows
}

// TestKeyStates compares every state and event with the table of the protocol.
func TestKeyStates(t *testing.T) {
	type at struct {
		state KeyState
		epoch key.Epoch
		event KeyEvent
	}
	want := map[at]KeyState{}
	epochs := map[string][]key.Epoch{"1": {1}, "later": {2, math.MaxUint32}, "any": {1, 2, math.MaxUint32}}
	for _, row := range documented(t, "| state | epoch | event | becomes |") {
		if len(epochs[row[1]]) == 0 {
			t.Fatalf("the table names the epoch %q", row[1])
		}
		for _, e := range epochs[row[1]] {
			x := at{KeyState(row[0]), e, KeyEvent(row[2])}
			if _, twice := want[x]; twice {
				t.Errorf("the table has %v twice", x)
			}
			want[x] = KeyState(row[3])
		}
	}
	got := map[at]KeyState{}
	for _, s := range []KeyState{KeyPending, KeyActive, KeyRecovery, KeyRetired} {
		for _, v := range []KeyEvent{KeyUsed, KeyReplaced, KeyBurned, KeyOvertaken} {
			for _, e := range epochs["any"] {
				if s == KeyRecovery && e != FactoryEpoch { // which the database refuses
					continue
				}
				if to := s.After(v, e); to != s {
					got[at{s, e, v}] = to
				}
			}
		}
	}
	text := func(m map[at]KeyState) map[string]KeyState {
		out := map[string]KeyState{}
		for k, v := range m {
			out[fmt.Sprint(k)] = v
		}
		return out
	}
	if diff := cmp.Diff(text(want), text(got)); diff != "" {
		t.Errorf("(-docs/protocol.md +code):\n%s", diff)
	}
}

func TestAdmits(t *testing.T) {
	for _, c := range []struct {
		state  KeyState
		window time.Time
		want   bool
	}{
		{KeyActive, time.Time{}, true},
		{KeyPending, time.Time{}, true},
		{KeyRecovery, time.Time{}, false},
		{KeyRecovery, noon, false},
		{KeyRecovery, noon.Add(time.Millisecond), true},
		{KeyRetired, noon.Add(time.Hour), false},
		{"", noon.Add(time.Hour), false},
		{"lost", noon.Add(time.Hour), false},
	} {
		if got := c.state.Admits(c.window, noon); got != c.want {
			t.Errorf("%q with a window until %v: %v", c.state, c.window, got)
		}
	}
}

func TestLimit(t *testing.T) {
	for _, c := range []struct {
		s    Standing
		want time.Duration
	}{
		{Standing{Key: KeyActive, Window: noon.Add(time.Minute)}, time.Hour},
		{Standing{Key: KeyPending, Window: noon.Add(time.Minute)}, time.Hour},
		{Standing{Key: KeyRecovery, Window: noon.Add(time.Minute)}, time.Minute},
		{Standing{Key: KeyRecovery, Window: noon.Add(2 * time.Hour)}, time.Hour},
	} {
		if got := c.s.Limit(time.Hour, noon); got != c.want {
			t.Errorf("%+v: %v, want %v", c.s, got, c.want)
		}
	}
}

func TestOffers(t *testing.T) {
	soon := noon.Add(time.Millisecond)
	for name, c := range map[string]struct {
		s    Session
		want bool
	}{
		"none is pending":          {Session{Epoch: 1}, false},
		"pending":                  {Session{Epoch: 1, Next: &PendingKey{Epoch: 2, From: noon}}, true},
		"before its time":          {Session{Epoch: 1, Next: &PendingKey{Epoch: 2, From: soon}}, false},
		"in a recovery session":    {Session{Epoch: 1, Recovery: true, Next: &PendingKey{Epoch: 3, From: soon}}, true},
		"the session's own":        {Session{Epoch: 2, Next: &PendingKey{Epoch: 2, From: noon}}, false},
		"one before the session's": {Session{Epoch: 3, Next: &PendingKey{Epoch: 2, From: noon}}, false},
	} {
		if got := c.s.Offers(noon); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestFallback(t *testing.T) {
	pending := func(e key.Epoch) *PendingKey { return &PendingKey{Epoch: e} }
	const most = math.MaxUint32
	for _, c := range []struct {
		name           string
		s              Session
		active, staged key.Epoch
		back           bool
		renew          key.Epoch
	}{
		{"as it should be", Session{Epoch: 4}, 4, 0, false, 0},
		{"the staged one in use", Session{Epoch: 5}, 4, 5, false, 0},
		{"says nothing sensible", Session{Epoch: 4}, 0, 0, false, 0},
		{"an earlier one", Session{Epoch: 4}, 3, 0, false, 0},
		{"in a recovery session", Session{Epoch: 1, Recovery: true}, 4, 0, false, 0},
		{"could not get in with the staged one", Session{Epoch: 4, Next: pending(5)}, 4, 5, true, 0},
		{"with a staged one that is not known", Session{Epoch: 4}, 4, 5, true, 6},
		{"with an active one that is not known", Session{Epoch: 4}, 5, 0, true, 6},
		{"and a pending one that it takes", Session{Epoch: 4, Next: pending(6)}, 5, 0, true, 0},
		{"and a pending one that it does not take", Session{Epoch: 4, Next: pending(5)}, 5, 0, true, 6},
		{"with both unknown", Session{Epoch: 4}, 5, 6, true, 7},
		{"far ahead", Session{Epoch: 4}, 4 + MaxLead, 0, true, 4 + MaxLead + 1},
		{"too far ahead", Session{Epoch: 4}, 4 + MaxLead + 1, 0, true, 0},
		{"nothing comes after", Session{Epoch: most - 1}, most, 0, true, 0},
		{"the last one", Session{Epoch: most - 2}, most - 1, 0, true, most},
	} {
		back, renew := c.s.Fallback(c.active, c.staged)
		if back != c.back || renew != c.renew {
			t.Errorf("%s: %v, %d; want %v, %d", c.name, back, renew, c.back, c.renew)
		}
	}
}
