package command

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// progresses are all that there are: a state, and whether the device has said so.
func progresses() []Progress {
	var all []Progress
	for _, s := range States() {
		all = append(all, Progress{State: s})
		if s == Expired {
			all = append(all, Progress{State: s, Final: true})
		}
	}
	all[slices.Index(all, Progress{State: Succeeded})].Final = true
	all[slices.Index(all, Progress{State: Failed})].Final = true
	return all
}

func (p Progress) row() string {
	if p.State == Expired && p.Final {
		return "expired, says the device"
	}
	if p.State == Expired {
		return "expired, says the cloud"
	}
	return string(p.State)
}

// The table of docs/commands.md is that of the code: every state with every event.
func TestStatesAsDocumented(t *testing.T) {
	var want strings.Builder
	want.WriteString("| state | " + strings.Join(words(Events()), " | ") + " |\n|" + strings.Repeat("---|", 1+len(Events())) + "\n")
	for _, p := range progresses() {
		want.WriteString("| " + p.row() + " |")
		for _, e := range Events() {
			if after := p.After(e); after != p {
				want.WriteString(" " + after.row() + " |")
			} else {
				want.WriteString(" – |")
			}
		}
		want.WriteString("\n")
	}
	doc, err := os.ReadFile("../../docs/commands.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), want.String()) {
		t.Errorf("docs/commands.md lacks the table of the code:\n%s", want.String())
	}
}

func words(events []Event) []string {
	var out []string
	for _, e := range events {
		out = append(out, string(e))
	}
	return out
}

var noon = time.Date(2026, 6, 21, 12, 0, 0, 0, time.UTC)

func queued() Command {
	return Command{
		ID: ID{1}, Device: "roof-1", Seq: 1, By: "ann", Progress: Progress{State: Queued}, QueuedAt: noon, ExpiresAt: noon.Add(DefaultTTL),
		Task: Task{Action: SetPowerLimit, Inverter: "inv1", Percent: 40, Lease: 2 * time.Hour, OnEnd: Restore},
	}
}

func TestLife(t *testing.T) {
	at := func(minutes int) time.Time { return noon.Add(time.Duration(minutes) * time.Minute) }
	report := func(status Status, code string) func(Command) Command {
		return func(c Command) Command {
			c, _ = c.Reported(Report{ID: c.ID, Status: status, Code: code, Text: "as told", ExecutedAt: at(3), Value: int64(40)}, at(4))
			return c
		}
	}
	sent := func(c Command) Command { c, _ = c.Sent(at(1)); return c }
	lapse := func(minutes int) func(Command) Command {
		return func(c Command) Command { c, _ = c.Lapse(at(minutes)); return c }
	}
	cancel := func(c Command) Command { c, _, _ = c.Cancel("bob", at(2)); return c }
	for _, x := range []struct {
		name  string
		steps []func(Command) Command
		want  string
	}{
		{"queued", nil, "queued"},
		{"sent", []func(Command) Command{sent}, "delivered, sent 12:01"},
		{"sent again", []func(Command) Command{sent, func(c Command) Command { c, _ = c.Sent(at(9)); return c }}, "delivered, sent 12:01"},
		{"executing", []func(Command) Command{sent, report(StatusExecuting, "")}, "executing, sent 12:01"},
		{"succeeded", []func(Command) Command{sent, report(StatusExecuting, ""), report(StatusSucceeded, "")}, "succeeded, sent 12:01, ended 12:04"},
		{"rejected", []func(Command) Command{sent, report(StatusRejected, "control_not_allowed")}, "failed control_not_allowed, sent 12:01, ended 12:04"},
		{"no effect", []func(Command) Command{sent, report(StatusNoEffect, "")}, "failed no_effect, sent 12:01, ended 12:04"},
		{"the first last word counts", []func(Command) Command{sent, report(StatusSucceeded, ""), report(StatusFailed, "x")}, "succeeded, sent 12:01, ended 12:04"},
		{"cancelled", []func(Command) Command{cancel}, "cancelled, ended 12:02"},
		{"too late to cancel", []func(Command) Command{sent, cancel}, "delivered, sent 12:01"},
		{"not due yet", []func(Command) Command{lapse(14)}, "queued"},
		{"nobody came", []func(Command) Command{lapse(15)}, "expired undelivered, ended 12:15"},
		{"no word, not due yet", []func(Command) Command{sent, lapse(74)}, "delivered, sent 12:01"},
		{"no word", []func(Command) Command{sent, lapse(75)}, "expired unanswered, sent 12:01, ended 13:15"},
		{"a late word", []func(Command) Command{sent, lapse(75), report(StatusSucceeded, "")}, "succeeded, sent 12:01, ended 12:04"},
		{"a late beginning", []func(Command) Command{sent, lapse(75), report(StatusExecuting, "")}, "executing, sent 12:01"},
		{"the device's own expiry stays", []func(Command) Command{sent, report(StatusExpired, "late"), report(StatusSucceeded, "")}, "expired late, sent 12:01, ended 12:04"},
		{"a word about what a restored cloud cancelled", []func(Command) Command{cancel, report(StatusSucceeded, "")}, "succeeded, ended 12:04"},
	} {
		c := queued()
		for _, step := range x.steps {
			c = step(c)
		}
		got := strings.TrimSpace(string(c.State) + " " + c.Code)
		for _, m := range []struct {
			name string
			at   time.Time
		}{{"sent", c.DeliveredAt}, {"ended", c.EndedAt}} {
			if !m.at.IsZero() {
				got += ", " + m.name + " " + m.at.Format("15:04")
			}
		}
		if got != x.want {
			t.Errorf("%s: %s, want %s", x.name, got, x.want)
		}
	}
}

func TestCancelTooLate(t *testing.T) {
	c, _ := queued().Sent(noon)
	_, _, err := c.Cancel("ann", noon)
	if late, ok := err.(*TooLateError); !ok || late.State != Delivered { //nolint:errorlint // it is not wrapped
		t.Errorf("%v", err)
	}
	c, _, _ = queued().Cancel("ann", noon)
	if again, changed, err := c.Cancel("bob", noon.Add(time.Hour)); err != nil || changed || !cmp.Equal(again, c) {
		t.Errorf("cancelled again: %v, %v, %+v", changed, err, again)
	}
}

// Whatever happens, in whatever order: what is open has no end and waits for
// something, what is over has an end and waits for nothing, the device's last word
// stays, and nothing leads back to queued.
func TestAnySchedule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, at := queued(), noon
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			at = at.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "minutes")) * time.Minute)
			var changed bool
			before := c
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				c, changed = c.Sent(at)
			case 1:
				c, changed, _ = c.Cancel("ann", at)
			case 2:
				c, changed = c.Lapse(at)
			default:
				status := rapid.SampledFrom([]Status{StatusExecuting, StatusSucceeded, StatusFailed, StatusExpired, StatusRejected, StatusNoEffect}).Draw(t, "status")
				c, changed = c.Reported(Report{Status: status}, at)
			}
			switch {
			case changed == cmp.Equal(before, c):
				t.Fatalf("changed: %v, from %+v to %+v", changed, before, c)
			case before.Final && changed:
				t.Fatalf("after the last word %s became %s", before.State, c.State)
			case before.State != Queued && c.State == Queued:
				t.Fatalf("%s became queued", before.State)
			case c.State.Open() != c.EndedAt.IsZero() || c.State.Open() == c.Due().IsZero():
				t.Fatalf("%s ended %v, due %v", c.State, c.EndedAt, c.Due())
			case c.Standing(at) && (!c.State.Open() || !at.Before(c.ExpiresAt)):
				t.Fatalf("%s stands at %v", c.State, at)
			}
		}
	})
}

func TestWhatTheLogSays(t *testing.T) {
	c, _ := queued().Sent(noon)
	c, _ = c.Reported(Report{Status: StatusSucceeded, Text: "40 % read back", Value: int64(40), ExecutedAt: noon}, noon)
	got := fmt.Sprint(c.Event(), "; ", c.Line(), "; ", c.Attrs())
	want := "command.succeeded; limit inv1 to 40 % for 2h, then restore: succeeded, 40 % read back; " +
		"map[action:set_power_limit command:01000000000000000000000000000000 executed_at:2026-06-21T12:00:00Z value:40]"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
