package rollout

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt"
)

var noon = time.Date(2026, 6, 21, 12, 0, 0, 0, time.UTC)

func goodRelease() Release {
	return Release{
		ID: Hash{1}, Version: "1.4.0", Number: 12, Image: Hash{2}, Hardware: []string{"gw-1", "gw-2"}, MinFrom: 3, DowngradeFrom: []uint64{15},
		Envelope: make([]byte, 500),
	}
}

func goodSpec() Spec {
	return Spec{Stages: DefaultStages(), Soak: DefaultSoak, Deadline: DefaultDeadline, MaxFailed: DefaultFailed, MinSample: DefaultSample}
}

// fleet are n devices that may get the release.
func fleet(n int) []Candidate {
	var all []Candidate
	for i := range n {
		all = append(all, Candidate{
			Device: ecowatt.DeviceID(fmt.Sprintf("d%04d", i)), Group: "north", Known: true, Hardware: "gw-1", Version: "1.3.0", Release: 11, State: "confirmed",
		})
	}
	return all
}

func made(t *testing.T, s Spec, devices []Candidate) (Rollout, []Update) {
	t.Helper()
	r, updates, err := New(Order{ID: ID{7}, Spec: s, By: "ann", At: noon}, goodRelease(), devices, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r, updates
}

// The devices of a rollout: in stages of the sizes that were asked for, each once,
// and those that cannot get it are skipped with the reason.
func TestNew(t *testing.T) {
	change := func(f func(*Candidate)) Candidate { c := fleet(1)[0]; f(&c); return c }
	for _, x := range []struct {
		code string
		c    Candidate
	}{
		{"", change(func(*Candidate) {})},
		{"", change(func(c *Candidate) { c.Hardware = "gw-2" })},
		{"", change(func(c *Candidate) { c.Release = 15 })},
		{"", change(func(c *Candidate) { c.Release = 20 })},                         // by a statement
		{"", change(func(c *Candidate) { c.Release, c.State = 12, "trial" })},       // it may go back yet
		{"", change(func(c *Candidate) { c.Release, c.State = 12, "rolled_back" })}, // which it says of another
		{CodeRuns, change(func(c *Candidate) { c.Release = 12 })},
		{CodeNewer, change(func(c *Candidate) { c.Release = 16 })},
		{CodeStep, change(func(c *Candidate) { c.Release = 2 })},
		{CodeHardware, change(func(c *Candidate) { c.Hardware = "gw-10" })},
		{CodeUnknown, change(func(c *Candidate) { c.Known = false })},
		{CodeUnknown, change(func(c *Candidate) { c.State = "" })},
		{CodeDisabled, change(func(c *Candidate) { c.Disabled = true })},
		{CodeBusy, change(func(c *Candidate) { c.Busy = true })},
	} {
		x.c.Device = "it"
		_, updates, err := New(Order{ID: ID{7}, Spec: goodSpec(), By: "ann", At: noon}, goodRelease(), append(fleet(3), x.c), []uint64{20})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range updates {
			if u.Device == "it" && (u.Code != x.code || (u.Phase == Skipped) != (x.code != "") || (u.Stage == 0) != (x.code != "")) {
				t.Errorf("%+v: %s %q, stage %d", x.c, u.Phase, u.Code, u.Stage)
			}
		}
		if len(updates) != 4 {
			t.Errorf("%d updates", len(updates))
		}
	}
}

func TestTarget(t *testing.T) {
	devices := fleet(4)
	devices[1].Group, devices[2].Hardware, devices[3].Version, devices[3].Release = "south", "gw-2", "1.2.0", 10
	for _, x := range []struct {
		target Target
		want   string
	}{
		{Target{}, "[d0000 d0001 d0002 d0003]"},
		{Target{Group: "north"}, "[d0000 d0002 d0003]"},
		{Target{Devices: []ecowatt.DeviceID{"d0001", "d0003"}}, "[d0001 d0003]"},
		{Target{Hardware: []string{"gw-2"}}, "[d0002]"},
		{Target{Versions: []string{"1.2.0"}}, "[d0003]"},
		{Target{Releases: []uint64{10}}, "[d0003]"},
		{Target{Group: "north", Releases: []uint64{11}, Hardware: []string{"gw-1"}}, "[d0000]"},
	} {
		var got []ecowatt.DeviceID
		for _, c := range devices {
			if x.target.fits(c) {
				got = append(got, c.Device)
			}
		}
		if fmt.Sprint(got) != x.want {
			t.Errorf("%+v: %v, want %s", x.target, got, x.want)
		}
	}
	_, _, err := New(Order{Spec: goodSpec(), At: noon}, goodRelease(), devices[:0], nil)
	if e := (*InvalidError)(nil); !errors.As(err, &e) || e.Field != "target" {
		t.Errorf("nobody: %v", err)
	}
}

func TestStages(t *testing.T) {
	for _, x := range []struct {
		stages []Stage
		n      int
		want   []int
	}{
		{DefaultStages(), 1000, []int{10, 100, 1000}},
		{DefaultStages(), 1, []int{1, 1, 1}},
		{DefaultStages(), 101, []int{2, 11, 101}},
		{[]Stage{{Count: 5}, {Percent: 1}, {Count: 50}}, 100, []int{5, 5, 50}},
		{[]Stage{{Count: 5}, {Count: 5}}, 3, []int{3, 3}},
		{[]Stage{{Percent: 29}}, 100, []int{29}}, // in spite of how 29/100 is written in binary
	} {
		s := goodSpec()
		s.Stages = x.stages
		r, updates := made(t, s, fleet(x.n))
		if diff := cmp.Diff(x.want, r.Sizes); diff != "" {
			t.Errorf("%v of %d: %s", x.stages, x.n, diff)
		}
		counts := make([]int, len(r.Sizes))
		for _, u := range updates {
			for i := u.Stage - 1; i < len(counts); i++ {
				counts[i]++
			}
		}
		if diff := cmp.Diff(x.want, counts); diff != "" {
			t.Errorf("%v of %d: %s", x.stages, x.n, diff)
		}
	}
}

// Who tries first is another one in another rollout.
func TestLots(t *testing.T) {
	first := map[ecowatt.DeviceID]bool{}
	for i := range byte(20) {
		_, updates, err := New(Order{ID: ID{i}, Spec: goodSpec(), At: noon}, goodRelease(), fleet(100), nil)
		if err != nil {
			t.Fatal(err)
		}
		first[updates[0].Device] = true
	}
	if len(first) < 10 {
		t.Errorf("only %d devices ever begin", len(first))
	}
}

func TestSpecIsChecked(t *testing.T) {
	for _, x := range []struct {
		field  string
		change func(*Spec)
	}{
		{"", func(*Spec) {}},
		{"", func(s *Spec) { s.Stages = []Stage{{Percent: 5}, {Percent: 5}} }},
		{"soak_s", func(s *Spec) { s.Soak = -1 }},
		{"soak_s", func(s *Spec) { s.Soak = MaxSoak + 1 }},
		{"deadline_s", func(s *Spec) { s.Deadline = MinDeadline - 1 }},
		{"deadline_s", func(s *Spec) { s.Deadline = MaxDeadline + 1 }},
		{"max_failed_percent", func(s *Spec) { s.MaxFailed = 101 }},
		{"max_failed_percent", func(s *Spec) { s.MaxFailed = math.NaN() }},
		{"min_sample", func(s *Spec) { s.MinSample = 0 }},
		{"downgrades", func(s *Spec) { s.Downgrades = make([][]byte, MaxReturns+1) }},
		{"target", func(s *Spec) { s.Target.Versions = make([]string, MaxNames+1) }},
		{"stages", func(s *Spec) { s.Stages = nil }},
		{"stages", func(s *Spec) { s.Stages = make([]Stage, MaxStages+1) }},
		{"stages[0]", func(s *Spec) { s.Stages = []Stage{{}} }},
		{"stages[0]", func(s *Spec) { s.Stages = []Stage{{Percent: 1, Count: 1}} }},
		{"stages[0]", func(s *Spec) { s.Stages = []Stage{{Percent: 101}} }},
		{"stages[0]", func(s *Spec) { s.Stages = []Stage{{Percent: math.NaN()}} }},
		{"stages[0]", func(s *Spec) { s.Stages = []Stage{{Count: -1}} }},
		{"stages[1]", func(s *Spec) { s.Stages = []Stage{{Percent: 5}, {Percent: 4}} }},
		{"stages[1]", func(s *Spec) { s.Stages = []Stage{{Count: 5}, {Count: 4}} }},
	} {
		s := goodSpec()
		x.change(&s)
		err, got := s.Check(), ""
		if e := (*InvalidError)(nil); errors.As(err, &e) {
			got = e.Field
		}
		if got != x.field {
			t.Errorf("%+v: %v, want %q", s, err, x.field)
		}
	}
}

func TestExceeded(t *testing.T) {
	for _, x := range []struct {
		sample int
		most   float64
		stage  Tally
		pardon Pardon
		want   bool
	}{
		{10, 2, Tally{Failed: 1, Healthy: 8, Due: 91}, Pardon{}, false},                     // not enough
		{10, 2, Tally{Failed: 1, Healthy: 8, Confirmed: 1, Due: 90}, Pardon{}, true},        // 1 of 10
		{10, 10, Tally{Failed: 1, Healthy: 9, Due: 90}, Pardon{}, false},                    // exactly
		{10, 10, Tally{Failed: 1, Overdue: 1, Healthy: 9, Due: 90}, Pardon{}, true},         // silence counts
		{10, 10, Tally{RolledBack: 2, Healthy: 9, Due: 90}, Pardon{}, true},                 //
		{10, 2, Tally{Failed: 1}, Pardon{}, true},                                           // all there are
		{10, 2, Tally{Failed: 1, Due: 1}, Pardon{}, false},                                  // they may do well
		{10, 2, Tally{Failed: 1, Skipped: 7, Withdrawn: 2}, Pardon{}, true},                 // the others were never to get it
		{1, 0, Tally{Failed: 1, Due: 99}, Pardon{}, true},                                   //
		{1, 100, Tally{Failed: 9}, Pardon{}, false},                                         //
		{1, 0, Tally{Healthy: 100}, Pardon{}, false},                                        //
		{10, 2, Tally{Failed: 5, Healthy: 10, Due: 85}, Pardon{5, 15}, false},               // seen
		{10, 2, Tally{Failed: 6, Healthy: 10, Due: 84}, Pardon{5, 15}, false},               // one more, of one
		{10, 2, Tally{Failed: 6, Healthy: 19, Due: 75}, Pardon{5, 15}, true},                // one more, of ten
		{10, 20, Tally{Failed: 6, Healthy: 19, Due: 75}, Pardon{5, 15}, false},              //
		{10, 2, Tally{Failed: 4, Confirmed: 1, Healthy: 19, Due: 75}, Pardon{5, 15}, false}, // one of them came late
	} {
		r := Rollout{Spec: Spec{MaxFailed: x.most, MinSample: x.sample}, Pardon: x.pardon}
		if got := r.Exceeded(x.stage); got != x.want {
			t.Errorf("%+v: %v", x, got)
		}
	}
}

func TestNext(t *testing.T) {
	s := goodSpec()
	s.Stages[1].Start = noon.Add(time.Hour)
	r, _ := made(t, s, fleet(1000))
	first, _ := r.Advanced(noon)
	paused, _, err := first.Pause("ann", noon)
	if err != nil {
		t.Fatal(err)
	}
	last := first
	last.Stage = 3
	for _, x := range []struct {
		name  string
		r     Rollout
		at    time.Duration
		stage Tally
		want  Do
	}{
		{"made", r, 0, Tally{}, BeginStage},
		{"begun", first, 0, Tally{Waiting: 10}, BeginSome},
		{"begun and failing", first, 0, Tally{Waiting: 1, Failed: 9, Healthy: 3}, StopNow},
		{"under way", first, 0, Tally{Due: 1, Healthy: 9}, Rest},
		{"soaking", first, 2 * time.Hour, Tally{Confirmed: 1, Healthy: 9}, Rest},
		{"over, before the next one's time", first, time.Hour - 1, Tally{Healthy: 10}, Rest},
		{"over", first, time.Hour, Tally{Healthy: 10}, BeginStage},
		{"over, one skipped", first, time.Hour, Tally{Healthy: 9, Skipped: 1}, BeginStage},
		{"over, and too many failed", first, time.Hour, Tally{Healthy: 9, Failed: 1}, StopNow},
		{"the last is over", last, time.Hour, Tally{Healthy: 900}, FinishNow},
		{"paused", paused, time.Hour, Tally{Healthy: 10}, Rest},
	} {
		if got := x.r.Next(noon.Add(x.at), x.stage); got != x.want {
			t.Errorf("%s: %s, want %s", x.name, got, x.want)
		}
	}
}

// While a rollout rests no deadline comes nearer.
func TestClock(t *testing.T) {
	at := func(hours int) time.Time { return noon.Add(time.Duration(hours) * time.Hour) }
	r, updates := made(t, goodSpec(), fleet(1))
	r, _ = r.Advanced(at(0))
	u := updates[0]
	u.Rollout = r
	u, _ = u.Begun(fleet(1)[0], at(1))
	if got := u.Deadline(); !got.Equal(at(25)) {
		t.Errorf("given up at %v", got)
	}
	u.Rollout, _, _ = r.Pause("ann", at(2))
	if _, lapsed := u.Lapsed(at(100)); lapsed {
		t.Error("given up while the rollout was paused")
	}
	u.Rollout, _, _ = u.Rollout.Resume(nil, "ann", at(12))
	if got := u.Deadline(); !got.Equal(at(35)) {
		t.Errorf("given up at %v", got)
	}
	if _, lapsed := u.Lapsed(at(35).Add(-1)); lapsed {
		t.Error("given up too early")
	}
	late, lapsed := u.Lapsed(at(35))
	if !lapsed || late.Phase != Overdue || late.Code != CodeSilent || !late.Due.IsZero() || !late.Watched() {
		t.Errorf("%+v", late)
	}
	// Aborting ends the rest as well: who may finish has a deadline again.
	u.Rollout, _, _ = u.Rollout.Pause("ann", at(13))
	u.Rollout, _, _ = u.Rollout.Abort(true, "ann", at(14))
	if got := u.Deadline(); !got.Equal(at(36)) || !u.Rollout.Offers() {
		t.Errorf("given up at %v", got)
	}
}

func TestOrders(t *testing.T) {
	r, _ := made(t, goodSpec(), fleet(1000))
	paused, changed, err := r.Pause("ann", noon)
	if !changed || err != nil || paused.Text != "paused by ann" || paused.Event() != "rollout.paused" {
		t.Errorf("%+v, %v", paused, err)
	}
	if again, changed, err := paused.Pause("bob", noon.Add(1)); changed || err != nil || !cmp.Equal(again, paused) {
		t.Errorf("paused again: %v %v", changed, err)
	}
	stopped, _ := r.Stopped(Tally{Failed: 3, Healthy: 20}, noon)
	if stopped.Code != "too_many_failed" || stopped.Attrs()["code"] != "too_many_failed" {
		t.Errorf("%+v", stopped)
	}
	if _, _, err := stopped.Pause("ann", noon); err == nil {
		t.Error("what has stopped was paused, which forgets why")
	}
	resumed, _, err := stopped.Resume(Tally{Failed: 3, Healthy: 20, Confirmed: 2}, "ann", noon)
	if diff := cmp.Diff(Pardon{3, 25}, resumed.Pardon); err != nil || diff != "" {
		t.Error(err, diff)
	}
	if resumed, _, _ := paused.Resume(Tally{Failed: 3}, "ann", noon); resumed.Pardon != (Pardon{}) {
		t.Error("resuming what was only paused pardons")
	}
	aborted, _, err := paused.Abort(false, "ann", noon)
	if err != nil || aborted.Offers() {
		t.Errorf("%+v %v", aborted, err)
	}
	_, _, err = aborted.Resume(nil, "ann", noon)
	if late := (*TooLateError)(nil); !errors.As(err, &late) || late.State != Aborted {
		t.Error(err)
	}
}

func TestProgress(t *testing.T) {
	r, _ := made(t, goodSpec(), fleet(1000))
	all := Tally{Waiting: 800, Due: 50, Downloading: 30, Confirmed: 20, Healthy: 95, Failed: 3, Overdue: 2, Skipped: 7, Withdrawn: 1}
	got := r.Progress(all, 50, noon.Add(30*time.Minute))
	want := Progress{Devices: 1000, Over: 100, Healthy: 95, Failed: 5, UnderWay: 100, Waiting: 800, Skipped: 8, Rate: 100, Left: 9 * time.Hour, Known: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := r.Progress(all, 50, noon.Add(10*time.Hour)); got.Rate != 50 {
		t.Errorf("after long: %+v", got)
	}
	if got := r.Progress(all, 0, noon.Add(time.Hour)); got.Known {
		t.Errorf("without any: %+v", got)
	}
}

// Whatever devices report, however late or often, whoever pauses, resumes and
// aborts: the numbers add up, no more devices are under way than the stages that
// have begun allow, no deadline passes while the rollout rests, and no more fail
// than the threshold allows while it runs.
func TestAnyRollout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(t, "devices")
		s := Spec{
			Stages: []Stage{{Count: rapid.IntRange(1, 10).Draw(t, "first")}, {Percent: 50}, {Percent: 100}},
			Soak:   time.Duration(rapid.IntRange(0, 60).Draw(t, "soak")) * time.Minute, Deadline: 5 * time.Hour,
			MaxFailed: float64(rapid.IntRange(0, 60).Draw(t, "most")), MinSample: rapid.IntRange(1, 20).Draw(t, "sample"),
		}
		devices := fleet(n)
		r, updates, err := New(Order{ID: ID{byte(n)}, Spec: s, By: "ann", At: noon}, goodRelease(), devices, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, r: r, updates: updates, now: noon}
		for range rapid.IntRange(1, 400).Draw(t, "steps") {
			w.step()
			w.check()
		}
	})
}

// world is a rollout with its devices, and the time.
type world struct {
	t       *rapid.T
	r       Rollout
	updates []Update
	now     time.Time
}

func (w *world) tally(stage int) Tally {
	t := Tally{}
	for _, u := range w.updates {
		if stage == 0 || u.Stage == stage {
			t[u.Phase]++
		}
	}
	return t
}

// act is what the cloud does of itself; limit is the most devices at a time.
func (w *world) act(limit int) {
	for i, u := range w.updates {
		u.Rollout = w.r
		if late, lapsed := u.Lapsed(w.now); lapsed {
			if w.r.State.Rests() && w.r.Since.Before(u.Deadline()) {
				w.t.Fatalf("given up while %s", w.r.State)
			}
			w.updates[i] = late
			w.fails()
		}
		if w.r.State == Aborted {
			w.updates[i], _ = u.Aborted(w.now)
		}
	}
	stage := w.tally(w.r.Stage)
	if w.r.Stage == 0 {
		stage = nil
	}
	switch w.r.Next(w.now, stage) {
	case BeginStage:
		w.r, _ = w.r.Advanced(w.now)
	case BeginSome:
		for i, u := range w.updates {
			if u.Rollout = w.r; u.Stage == w.r.Stage && u.Phase == Waiting && limit > 0 {
				limit--
				w.updates[i], _ = u.Begun(Candidate{}, w.now)
			}
		}
	case StopNow:
		w.r, _ = w.r.Stopped(stage, w.now)
	case FinishNow:
		w.r, _ = w.r.Finished(w.now)
	case Rest:
	}
}

// fails is what the store does at once when something has failed.
func (w *world) fails() {
	if stage := w.tally(w.r.Stage); w.r.Next(w.now, stage) == StopNow {
		w.r, _ = w.r.Stopped(stage, w.now)
	}
}

func (w *world) step() {
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 20).Draw(w.t, "minutes")) * time.Minute)
	switch rapid.IntRange(0, 12).Draw(w.t, "what") {
	case 0, 1, 2:
		w.act(rapid.IntRange(1, 30).Draw(w.t, "some"))
	case 3:
		switch rapid.IntRange(0, 8).Draw(w.t, "order") {
		case 0:
			w.r, _, _ = w.r.Pause("ann", w.now)
		case 1:
			w.r, _, _ = w.r.Abort(rapid.Bool().Draw(w.t, "finish"), "ann", w.now)
		default:
			w.r, _, _ = w.r.Resume(w.tally(w.r.Stage), "ann", w.now)
		}
	default:
		w.device(rapid.IntRange(0, len(w.updates)-1).Draw(w.t, "device"))
	}
}

// device is something that a device says, or is told.
func (w *world) device(i int) {
	u := w.updates[i]
	u.Rollout = w.r
	before := u
	moved := false
	switch rapid.IntRange(0, 4).Draw(w.t, "says") {
	case 0:
		if w.r.Offers() {
			u, moved = u.Sent(w.now)
		}
	case 1:
		state := rapid.SampledFrom([]string{"trial", "confirmed", "rolled_back"}).Draw(w.t, "state")
		u, moved = u.Runs(Program{Image: rapid.SampledFrom([]Hash{{2}, {3}}).Draw(w.t, "image"), State: state}, w.now)
	case 2:
		u, moved = u.Measured(w.now, w.now)
	default:
		phase := rapid.SampledFrom([]string{
			"offered", "refused", "downloading", "downloaded", "verified", "switching", "trial", "confirmed", "failed", "rolled_back", "odd",
		}).Draw(w.t, "phase")
		u, moved, _ = u.Reported(Report{Release: Hash{1}, Phase: phase, Done: 3, All: 7}, w.now)
	}
	switch {
	case moved != (u.Phase != before.Phase):
		w.t.Fatalf("moved: %v, from %s to %s", moved, before.Phase, u.Phase)
	case !before.Phase.begun() && moved:
		w.t.Fatalf("%s became %s by a word of the device", before.Phase, u.Phase)
	case before.Phase == Healthy && moved:
		w.t.Fatalf("healthy became %s", u.Phase)
	case u.Phase.Open() && u.Phase != Waiting && u.Due.IsZero():
		w.t.Fatalf("%s is waited for for ever", u.Phase)
	case !u.Phase.Open() && !u.Due.IsZero():
		w.t.Fatalf("%s has a deadline", u.Phase)
	}
	w.updates[i] = u
	if moved && u.Phase.Failure() {
		w.fails()
	}
}

func (w *world) check() {
	all := w.tally(0)
	p := w.r.Progress(all, 0, w.now)
	if p.Over+p.UnderWay+p.Waiting+p.Skipped != len(w.updates) || p.Healthy+p.Failed != p.Over || all.All() != len(w.updates) {
		w.t.Fatalf("the numbers do not add up: %+v of %d", p, len(w.updates))
	}
	allowed := 0
	if w.r.Stage > 0 {
		allowed = w.r.Sizes[w.r.Stage-1]
	}
	begun := 0
	for _, u := range w.updates {
		if u.Phase.begun() {
			begun++
		}
	}
	if begun > allowed {
		w.t.Fatalf("%d devices have begun, stage %d allows %d", begun, w.r.Stage, allowed)
	}
	if stage := w.tally(w.r.Stage); w.r.Stage > 0 && w.r.State == Running && w.r.Exceeded(stage) && stage.Failed() > w.r.Pardon.Failed+max(w.r.MinSample, int(w.r.MaxFailed/100*float64(stage.Answered()))+1) {
		w.t.Fatalf("it runs on with %+v", stage)
	}
	if w.r.State == Done && (all[Waiting] > 0) {
		w.t.Fatalf("done with %+v", all)
	}
}
