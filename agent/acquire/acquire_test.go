package acquire

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
)

// split is a profile whose points a, b stand in one read and c in another.
var split = inverter.Profile{Name: "split", Block: 125, Registers: []inverter.Register{
	{Point: ecowatt.Point{Name: "a"}, Table: inverter.Holding, Address: 0},
	{Point: ecowatt.Point{Name: "b"}, Table: inverter.Holding, Address: 1, Absent: []uint64{0xffff}},
	{Point: ecowatt.Point{Name: "c"}, Table: inverter.Holding, Address: 50},
}}

// fake is a Source: register n holds 100+n, and each read is answered by the
// first of the errors that is still there (nil for success).
type fake struct {
	errs  []error
	reads []inverter.Read
	words map[uint16]uint16 // other contents
	delay time.Duration
	short bool
}

func (f *fake) Read(ctx context.Context, unit byte, r inverter.Read) ([]uint16, error) {
	f.reads = append(f.reads, r)
	if unit != 17 {
		return nil, fmt.Errorf("unit %d was asked", unit)
	}
	if !pause(ctx, f.delay) {
		return nil, ctx.Err()
	}
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		if err != nil {
			return nil, err
		}
	}
	var words []uint16
	for at := r.Address; at < r.Address+r.Count; at++ {
		w, ok := f.words[at]
		if !ok {
			w = 100 + at
		}
		words = append(words, w)
	}
	if f.short {
		words = words[1:]
	}
	return words, nil
}

// took returns how many reads were done since the last call.
func (f *fake) took() int {
	n := len(f.reads)
	f.reads = nil
	return n
}

type rig struct {
	*Poller
	t    *testing.T
	fake *fake
	log  bytes.Buffer
	now  int64
}

func newRig(t *testing.T, points ...string) *rig {
	t.Helper()
	r := &rig{t: t, fake: &fake{}}
	logger := slog.New(slog.NewJSONHandler(&r.log, nil))
	p, err := New(Inverter{Name: "inv1", Unit: 17, Profile: split, Points: points, Interval: 5 * time.Second}, r.fake, logger, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.Poller = p
	return r
}

// poll goes to the next tick and polls; the values are printed, "-" for a
// missing one, and "none" where there is no sample.
func (r *rig) poll() string {
	r.t.Helper()
	r.now += r.Next(r.now).Milliseconds()
	batches := r.Poll(r.t.Context(), r.now)
	if len(batches) != 1 {
		return "none"
	}
	s := batches[0].Sample
	if s.At != r.now {
		r.t.Errorf("sample of %d at %d", s.At, r.now)
	}
	var text []string
	for _, v := range s.Values {
		if v.Valid {
			text = append(text, fmt.Sprint(v.Raw))
		} else {
			text = append(text, "-")
		}
	}
	return strings.Join(text, " ")
}

// codes returns the codes of the log lines since the last call.
func (r *rig) codes() string {
	r.t.Helper()
	var codes []string
	for line := range strings.Lines(r.log.String()) {
		var entry struct{ Code, Inverter string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Inverter != "inv1" {
			r.t.Errorf("log line %q: %v", line, err)
		}
		codes = append(codes, entry.Code)
	}
	r.log.Reset()
	return strings.Join(codes, " ")
}

// errSilent is what the real client says when nothing answers.
var errSilent = modbus.ErrNoAnswer

func TestPollBringsTheValuesInOrder(t *testing.T) {
	r := newRig(t, "c", "a", "b")
	r.fake.words = map[uint16]uint16{1: 0xffff}
	if got := r.poll(); got != "150 100 -" {
		t.Errorf("got %s", got)
	}
	r.fake.words = nil
	if got := r.poll(); got != "150 100 101" {
		t.Errorf("got %s", got)
	}
	want := Status{Name: "inv1", State: Answering, Since: 5000, LastSample: 10_000, Samples: 2, Missing: 1}
	if diff := cmp.Diff(want, r.Status()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if got := r.codes(); got != "inverter_found" {
		t.Errorf("log: %s", got)
	}
}

func TestRetries(t *testing.T) {
	for _, c := range []struct {
		name  string
		errs  []error
		want  string // values
		reads int
	}{
		{"one timeout", []error{errSilent}, "100 101 150", 3},
		{"two timeouts", []error{errSilent, errSilent}, "100 101 150", 4},
		{"two timeouts of different reads", []error{errSilent, nil, errSilent}, "100 101 150", 4},
		{"three timeouts", []error{errSilent, errSilent, errSilent}, "none", 3},
		{"retries used up by the first read", []error{errSilent, errSilent, nil, errSilent}, "100 101 -", 4},
		{"second read fails for good", []error{nil, errSilent, errSilent, errSilent}, "100 101 -", 4},
		{"busy, second read does", []error{modbus.ErrBusy}, "- - 150", 2},
		{"busy after a timeout", []error{errSilent, modbus.ErrAcknowledge}, "- - 150", 3},
		{"gateway", []error{modbus.ErrGatewayTarget}, "none", 1},
		{"not tried", []error{&modbus.BackoffError{Err: errSilent}}, "none", 1},
		{"not tried after a timeout", []error{errSilent, &modbus.BackoffError{Err: errSilent}}, "none", 2},
		{"no function", []error{modbus.ErrIllegalFunction}, "- - 150", 2},
		{"no address", []error{modbus.ErrIllegalAddress}, "- - 150", 2},
		{"no value", []error{nil, modbus.ErrIllegalValue}, "100 101 -", 2},
		{"failure", []error{modbus.ErrDeviceFailure}, "- - 150", 2},
		{"everything refused", []error{modbus.ErrIllegalAddress, modbus.ErrIllegalAddress}, "none", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, "a", "b", "c")
				r.fake.errs = c.errs
				if got := r.poll(); got != c.want {
					t.Errorf("values %s, want %s", got, c.want)
				}
				if got := r.fake.took(); got != c.reads {
					t.Errorf("%d reads, want %d", got, c.reads)
				}
				s := r.Status()
				if none := c.want == "none"; none != (s.State == Away) || none != (s.Failures == 1) || none != (s.LastSample == never) {
					t.Errorf("status %+v", s)
				}
				if (s.LastError != "") != strings.ContainsAny(c.want, "-n") {
					t.Errorf("last error %q", s.LastError)
				}
			})
		})
	}
}

// TestRetriesEndWithTheTick: the next tick is not put off by them.
func TestRetriesEndWithTheTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "a")
		r.fake.delay = 4950 * time.Millisecond
		r.fake.errs = []error{errSilent, errSilent}
		start := time.Now()
		if got := r.poll(); got != "none" || r.fake.took() != 1 {
			t.Errorf("got %s", got)
		}
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("ended after %v, want the length of the tick", d)
		}
	})
}

func TestAwayAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "a", "c")
		r.poll()
		r.fake.took()
		for range 100 {
			r.fake.errs = append(r.fake.errs, errSilent)
		}
		var waits, reads []int64
		for range 7 {
			waits = append(waits, int64(r.Next(r.now)/time.Second))
			if got := r.poll(); got != "none" {
				t.Errorf("got %s", got)
			}
			reads = append(reads, int64(r.fake.took()))
		}
		if diff := cmp.Diff([]int64{5, 5, 5, 20, 40, 40, 40}, waits); diff != "" { // to the grid of 5, 5, 10, 20, 40 s
			t.Errorf("seconds between the polls (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]int64{3, 1, 1, 1, 1, 1, 1}, reads); diff != "" {
			t.Errorf("reads (-want +got):\n%s", diff)
		}
		if s := r.Status(); s.State != Away || s.Since != 10_000 || s.LastSample != 5000 || s.Failures != 7 || s.LastError != "no answer" {
			t.Errorf("status %+v", s)
		}
		if got := r.codes(); got != "inverter_found inverter_away" {
			t.Errorf("log: %s", got)
		}

		r.fake.errs = nil
		if got := r.poll(); got != "100 150" {
			t.Errorf("back: %s", got)
		}
		if got := r.log.String(); !strings.Contains(got, `"away":190000000000`) || !strings.Contains(got, `"failures":7`) {
			t.Errorf("log: %s", got)
		}
		if got := r.codes(); got != "inverter_back" {
			t.Errorf("log: %s", got)
		}
		if s := r.Status(); s.State != Answering || s.Failures != 0 || s.LastError != "" || r.Next(r.now) != 5*time.Second {
			t.Errorf("status %+v, next in %v", s, r.Next(r.now))
		}
	})
}

func TestPartial(t *testing.T) {
	r := newRig(t, "a", "c")
	for _, c := range []struct {
		errs        []error
		want, codes string
	}{
		{nil, "100 150", "inverter_found"},
		{[]error{nil, modbus.ErrDeviceFailure}, "100 -", "inverter_partial"},
		{[]error{modbus.ErrDeviceFailure}, "- 150", ""},
		{nil, "100 150", "inverter_whole"},
		{[]error{modbus.ErrDeviceFailure}, "- 150", "inverter_partial"},
		{[]error{modbus.ErrDeviceFailure, modbus.ErrDeviceFailure}, "none", "inverter_away"},
		{nil, "100 150", "inverter_back"},
	} {
		r.fake.errs = c.errs
		if got := r.poll(); got != c.want {
			t.Errorf("values %s, want %s", got, c.want)
		}
		if got := r.codes(); got != c.codes {
			t.Errorf("log %q, want %q", got, c.codes)
		}
	}
	if s := r.Status(); s.Missing != 3 || s.Samples != 6 {
		t.Errorf("status %+v", s)
	}
}

// TestAbsentValues: an inverter that answers, but has no values, is not away;
// yet there is nothing to keep.
func TestAbsentValues(t *testing.T) {
	r := newRig(t, "b")
	r.fake.words = map[uint16]uint16{1: 0xffff}
	if got := r.poll(); got != "none" {
		t.Errorf("got %s", got)
	}
	if s := r.Status(); s.State != Answering || s.Samples != 0 || s.LastSample != never || s.Failures != 0 || s.LastError != "" {
		t.Errorf("status %+v", s)
	}
}

func TestWrongNumberOfWordsIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "a", "b")
		r.fake.short = true
		if got := r.poll(); got != "none" || r.fake.took() != 3 {
			t.Errorf("got %s", got)
		}
		if s := r.Status(); s.LastError != "1 registers came instead of 2" {
			t.Errorf("status %+v", s)
		}
	})
}

// TestRefusedBlockIsDivided: when one register of a block is not there, the
// others are had all the same, and for good.
func TestRefusedBlockIsDivided(t *testing.T) {
	r := newRig(t, "a", "b", "c")
	no := modbus.ErrIllegalAddress
	for _, c := range []struct {
		errs  []error
		want  string
		reads int
		codes string
	}{
		{[]error{no}, "- - 150", 2, "inverter_found inverter_partial"},
		{nil, "100 101 150", 2, "inverter_whole"},
		{[]error{no}, "- - 150", 2, "inverter_partial"},
		{[]error{no}, "- - 150", 2, "block_refused"},
		{[]error{nil, no}, "100 - 150", 3, ""},
		{[]error{nil, no}, "100 - 150", 3, "point_refused"},
		{[]error{nil, no}, "100 - 150", 3, ""},
		{nil, "100 101 150", 3, "inverter_whole"},
	} {
		r.fake.errs = c.errs
		if got := r.poll(); got != c.want {
			t.Errorf("values %s, want %s", got, c.want)
		}
		if got := r.fake.took(); got != c.reads {
			t.Errorf("%d reads, want %d", got, c.reads)
		}
		if got := r.codes(); got != c.codes {
			t.Errorf("log %q, want %q", got, c.codes)
		}
	}
}

func TestEndOfContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "a")
		r.poll()
		before := r.Status()
		r.fake.delay = time.Hour
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if got := r.Poll(ctx, r.now+5000); got != nil || time.Since(start) != time.Minute {
			t.Errorf("a sample: %v, after %v", got, time.Since(start))
		}
		if diff := cmp.Diff(before, r.Status()); diff != "" {
			t.Errorf("the end of the context is taken for the inverter's fault (-want +got):\n%s", diff)
		}
	})
}

// TestLoop runs a poller as its owner does, with an inverter that becomes slow.
func TestLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, "a")
		start := time.Now()
		now := func() int64 { return 1_000_123 + time.Since(start).Milliseconds() }
		var at []int64
		for i := range 9 {
			r.fake.delay = 0
			if i == 3 || i == 4 {
				r.fake.delay = 11 * time.Second
			}
			time.Sleep(r.Next(now())) // virtual
			batches := r.Poll(t.Context(), now())
			if len(batches) != 1 {
				t.Fatal("no sample")
			}
			at = append(at, batches[0].Sample.At)
		}
		want := []int64{1_005_000, 1_010_000, 1_015_000, 1_020_000, 1_035_000, 1_050_000, 1_055_000, 1_060_000, 1_065_000}
		if diff := cmp.Diff(want, at); diff != "" {
			t.Errorf("times of the samples (-want +got):\n%s", diff)
		}
		if s := r.Status(); s.Skipped != 4 || s.Samples != 9 {
			t.Errorf("status %+v", s)
		}
	})
}

// TestSamplesLieOnTheGrid: however late, or a little early, a tick is polled, its
// sample is of the tick.
func TestSamplesLieOnTheGrid(t *testing.T) {
	r := newRig(t, "a")
	for _, c := range []struct{ now, want int64 }{
		{4999, 5000}, // an early timer
		{10_003, 10_000}, {15_731, 15_000}, {24_949, 20_000}, {24_950, 25_000}, {30_000, 30_000},
	} {
		batches := r.Poll(t.Context(), c.now)
		if len(batches) != 1 || batches[0].Sample.At != c.want {
			t.Errorf("polled at %d: %v, want a sample of %d", c.now, batches, c.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	good := Inverter{Name: "inv1", Profile: split, Points: []string{"a"}, Interval: time.Second}
	for _, c := range []struct {
		change func(*Inverter)
		want   string
	}{
		{func(in *Inverter) { in.Interval = 99 * time.Millisecond }, "interval of 99ms"},
		{func(in *Inverter) { in.Interval = time.Second + time.Microsecond }, "whole ms"},
		{func(in *Inverter) { in.Points = []string{"x"} }, `"x" is no point of profile split`},
		{func(in *Inverter) { in.Points = nil }, "no points"},
	} {
		in := good
		c.change(&in)
		if _, err := New(in, &fake{}, slog.New(slog.DiscardHandler), 0); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "inv1") {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

func TestStateText(t *testing.T) {
	for s, want := range map[State]string{Starting: "starting", Answering: "answering", Away: "away", 9: "state 9"} {
		if got := s.String(); got != want {
			t.Errorf("%d is %q, want %q", byte(s), got, want)
		}
	}
	if s := newRig(t, "a").Status(); s.State != Starting || s.LastSample != never {
		t.Errorf("at first: %+v", s)
	}
}
