package acquire

import (
	"errors"
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

// classes is a profile with points of each class, one of which jumps at most by
// 10, and one that is nothing while the inverter sleeps (state 2).
var classes = inverter.Profile{Name: "classes", Block: 125, Sleeping: inverter.Sleeping{Point: "state", Values: []int64{2}}, Registers: []inverter.Register{
	{Point: ecowatt.Point{Name: "total"}, Table: inverter.Holding, Address: 10, Class: inverter.Slow, Asleep: true},
	{Point: ecowatt.Point{Name: "state"}, Table: inverter.Holding, Address: 0},
	{Point: ecowatt.Point{Name: "rated"}, Table: inverter.Holding, Address: 20, Class: inverter.Once},
	{Point: ecowatt.Point{Name: "pac"}, Table: inverter.Holding, Address: 1, Step: 10},
}}

type classRig struct {
	*rig
}

func newClassRig(t *testing.T, interval time.Duration) classRig {
	t.Helper()
	r := &rig{t: t, fake: &fake{words: map[uint16]uint16{}}}
	p, err := New(Inverter{Name: "inv1", Unit: 17, Profile: classes, Points: classes.PointNames(), Interval: interval}, r.fake, slog.New(slog.NewJSONHandler(&r.log, nil)), 0)
	if err != nil {
		t.Fatal(err)
	}
	r.Poller = p
	return classRig{r}
}

// poll goes to the next tick; each batch is printed as its points and values.
func (r classRig) poll() string {
	r.t.Helper()
	r.now += r.Next(r.now).Milliseconds()
	var texts []string
	for _, b := range r.Poll(r.t.Context(), r.now) {
		if b.Sample.At != r.now || len(b.Points) != len(b.Sample.Values) {
			r.t.Errorf("batch %+v at %d", b, r.now)
		}
		var text []string
		for i, v := range b.Sample.Values {
			raw := "-"
			if v.Valid {
				raw = fmt.Sprint(v.Raw)
			}
			text = append(text, b.Points[i]+" "+raw)
		}
		texts = append(texts, strings.Join(text, " "))
	}
	return strings.Join(texts, ", ")
}

const (
	fast = "state 100 pac 101"
	slow = "total 110"
	once = "rated 120"
)

func TestClasses(t *testing.T) {
	r := newClassRig(t, 20*time.Second)
	var got []string
	for range 8 {
		got = append(got, r.poll())
	}
	want := []string{fast + ", " + slow + ", " + once, fast, fast, fast + ", " + slow, fast, fast, fast + ", " + slow, fast}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("batches (-want +got):\n%s", diff)
	}
	if s := r.Status(); s.Samples != 8 || s.Missing != 0 {
		t.Errorf("status %+v", s)
	}
}

// With samples rarer than once a minute, slow points are in each.
func TestSlowIsNeverSlowerThanASample(t *testing.T) {
	r := newClassRig(t, 2*time.Minute)
	r.poll()
	for range 3 {
		if got := r.poll(); got != fast+", "+slow {
			t.Errorf("got %s", got)
		}
	}
}

// What is read once is read again when the inverter was away: it may be another
// one.
func TestOnceAgainAfterItWasAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newClassRig(t, 20*time.Second)
		r.poll()
		r.fake.errs = []error{errSilent, errSilent, errSilent}
		if got := r.poll(); got != "" {
			t.Errorf("away: %s", got)
		}
		if got := r.poll(); got != fast+", "+slow+", "+once {
			t.Errorf("back: %s", got)
		}
	})
}

// What was not answered is tried again at once, and what was refused is not.
func TestSlowAndOnceThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newClassRig(t, 20*time.Second)
		r.fake.errs = []error{nil, errSilent, errSilent, errSilent, modbus.ErrIllegalAddress}
		if got := r.poll(); got != fast {
			t.Errorf("got %s", got)
		}
		if got := r.poll(); got != fast+", "+slow {
			t.Errorf("then %s", got)
		}
	})
}

func TestAsleep(t *testing.T) {
	r := newClassRig(t, time.Minute)
	r.poll()
	r.fake.words[0] = 2 // it sleeps, and tells nonsense
	if got := r.poll(); got != "state 2 pac 101" {
		t.Errorf("asleep: %s", got)
	}
	r.fake.words[0] = 100
	if got := r.poll(); got != fast+", "+slow {
		t.Errorf("awake: %s", got)
	}
}

func TestStep(t *testing.T) {
	r := newClassRig(t, 5*time.Second)
	var got []string
	for _, pac := range []uint16{100, 110, 121, 111, 9000, 9005, 60000, 9005, 0, 0, 500, 700, 705} {
		r.fake.words[1] = pac
		text := r.poll()
		_, text, _ = strings.Cut(text, "pac ")
		text, _, _ = strings.Cut(text, ",")
		got = append(got, text)
	}
	want := []string{"100", "110", "-", "111", "-", "9005", "-", "9005", "-", "0", "-", "-", "705"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values (-want +got):\n%s", diff)
	}
}

func TestNearDoesNotOverflow(t *testing.T) {
	const far = 1 << 62
	if near(ecowatt.Known(-far-far), ecowatt.Known(far), 5) {
		t.Error("the ends of the integers are near")
	}
	if !near(ecowatt.Known(-3), ecowatt.Known(2), 5) || near(ecowatt.Known(-3), ecowatt.Known(3), 5) {
		t.Error("5 is not 5")
	}
}

// A sample without anything due is none, and no failure either.
func TestNothingDue(t *testing.T) {
	r := &rig{t: t, fake: &fake{}}
	p, err := New(Inverter{Name: "inv1", Unit: 17, Profile: classes, Points: []string{"total"}, Interval: 20 * time.Second}, r.fake, slog.New(slog.NewJSONHandler(&r.log, nil)), 0)
	if err != nil {
		t.Fatal(err)
	}
	r.Poller = p
	c := classRig{r}
	if got := c.poll() + c.poll() + c.poll(); got != slow || r.fake.took() != 1 {
		t.Errorf("got %s", got)
	}
	if s := r.Status(); s.State != Answering || s.Failures != 0 || s.Samples != 1 {
		t.Errorf("status %+v", s)
	}
	if _, err := New(Inverter{Name: "inv1", Unit: 17, Profile: classes, Points: []string{"nothing"}, Interval: time.Second}, r.fake, slog.New(slog.DiscardHandler), 0); err == nil || errors.Is(err, errSilent) {
		t.Error("a point that is none")
	}
}

func TestTexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := split
		p.Texts = []inverter.Text{
			{Name: inverter.Model, Table: inverter.Holding, Address: 60, Words: 2},
			{Name: inverter.Serial, Table: inverter.Holding, Address: 70, Words: 2},
			{Name: "other", Table: inverter.Holding, Address: 80, Words: 2},
		}
		r := &rig{t: t, fake: &fake{words: map[uint16]uint16{60: 'S'<<8 | 'E', 61: '5' << 8, 70: '7'<<8 | '8', 71: 0, 80: 0}}}
		poller, err := New(Inverter{Name: "inv1", Unit: 17, Profile: p, Points: []string{"a"}, Interval: 5 * time.Second}, r.fake, slog.New(slog.DiscardHandler), 0)
		if err != nil {
			t.Fatal(err)
		}
		r.Poller = poller
		check := func(when string, want map[string]string, reads int) {
			t.Helper()
			r.poll()
			if diff := cmp.Diff(want, r.Found().Texts); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
			if got := r.fake.took(); got != reads {
				t.Errorf("%s: %d reads, want %d", when, got, reads)
			}
		}
		r.fake.errs = []error{nil, nil, errSilent}
		check("the serial number is not answered", nil, 3)
		r.fake.errs = []error{nil, nil, modbus.ErrIllegalAddress}
		check("the serial number is refused", map[string]string{inverter.Model: "SE5"}, 4)
		check("it is not asked again", map[string]string{inverter.Model: "SE5"}, 1)
		r.fake.errs = []error{errSilent, errSilent, errSilent}
		check("away", map[string]string{inverter.Model: "SE5"}, 3)
		check("back", map[string]string{inverter.Model: "SE5", inverter.Serial: "78"}, 4)
	})
}
