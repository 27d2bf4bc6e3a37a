package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
)

// start opens a buffer on a new disk.
func start(t *testing.T, o Options) (*witness, *disktest.Disk) {
	t.Helper()
	d := disktest.New()
	if o.FS == nil {
		o.FS = d
	}
	w := newWitness()
	if err := w.open(o); err != nil {
		t.Fatal(err)
	}
	return w, d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSamplesBecomeMessagesAndGo(t *testing.T) {
	w, d := start(t, Options{FlushInterval: time.Minute})
	must(t, w.addAll(0, 1, 0))
	if got := w.nextIDs(plenty); len(got) != 0 {
		t.Errorf("%d messages before the samples are packed", len(got))
	}
	if got := w.Stats(); got.Samples != 3 || got.Messages != 0 || got.Bytes != unit {
		t.Errorf("before: %+v", got)
	}
	must(t, w.pack())
	if got := names(t, d); got != "0000000001.buf" {
		t.Errorf("packed into %s", got)
	}
	if got := w.Stats(); got.Samples != 0 || got.Messages != 2 || got.Bytes != unit {
		t.Errorf("after: %+v", got)
	}
	w.check(t, true)
	must(t, w.settle(w.nextIDs(plenty)...))
	if got := w.Stats(); got != (Stats{}) || names(t, d) != "" {
		t.Errorf("in the end: %+v, files %s", got, names(t, d))
	}
}

func TestFilesAreForTheAgentAlone(t *testing.T) {
	w, d := start(t, Options{})
	must(t, w.add(0))
	must(t, w.putSome(2, "a", "b"))
	must(t, w.settle(w.nextIDs(1)...))
	for name, want := range map[string]fs.FileMode{
		"buffer": fs.ModeDir | 0o700, "buffer/0000000001.buf": 0o600,
		"buffer/0000000002.buf": 0o600, "buffer/0000000002.settled": 0o600,
	} {
		info, err := d.Stat(name)
		must(t, err)
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	d := disktest.New()
	for want, o := range map[string]Options{
		"no folder": {},
		"at least":  {FS: d, Limit: MinLimit - 1},
		"interval":  {FS: d, FlushInterval: -1},
		"runs":      {FS: d, MaxRun: -1},
		"no power":  {FS: hooked{d, func(string, string) error { return errors.New("no power") }}},
	} {
		if _, err := Open(o); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %v", want, err)
		}
	}
}

func TestAddRefuses(t *testing.T) {
	w, d := start(t, Options{})
	good := Reading{Inverter: "inv1", Points: []string{"pac"}, Sample: ecowatt.Sample{Values: []ecowatt.Value{{}}}}
	for want, spoil := range map[string]func(*Reading){
		"2 values of 1 points": func(r *Reading) { r.Sample.Values = make([]ecowatt.Value, 2) },
		"0 points":             func(r *Reading) { r.Points, r.Sample.Values = nil, nil },
		"1025 points": func(r *Reading) {
			r.Points, r.Sample.Values = make([]string, 1025), make([]ecowatt.Value, 1025)
		},
		"inverter \"Inv\"": func(r *Reading) { r.Inverter = "Inv" },
		"point \"\"":       func(r *Reading) { r.Points = []string{""} },
	} {
		r := good
		spoil(&r)
		if err := w.Add(r, 0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", want, err)
		}
	}
	if got := w.Stats(); got != (Stats{}) || names(t, d) != "" {
		t.Errorf("kept %+v, files %s", got, names(t, d))
	}
	if err := w.Add(good, 0); err != nil {
		t.Error(err)
	}
}

// fsyncs counts what reaches the disk.
type fsyncs map[string]int

func (n fsyncs) hook(op, _ string) error {
	n[op]++
	return nil
}

func (n fsyncs) take() int {
	all := n["sync"] + n["syncdir"]
	clear(n)
	return all
}

func TestFsyncs(t *testing.T) {
	n := fsyncs{}
	o := Options{FS: hooked{disktest.New(), n.hook}, FlushInterval: 10 * time.Second}
	w, _ := start(t, o)
	for _, step := range []struct {
		name string
		do   func() error
		want int
	}{
		{"a start", func() error { return nil }, 2},
		{"the first sample", func() error { return w.add(0) }, 2},
		{"samples", func() error { return w.addAll(0, 0, 0, 1) }, 0},
		{"a flush", w.flush, 1},
		{"a flush of nothing", w.flush, 0},
		{"a sample", func() error { return w.add(0) }, 0},
		{"packing", w.pack, 2},
		{"a flush after packing", w.flush, 0},
		{"packing nothing", w.pack, 0},
		{"messages", func() error { return w.putSome(2, "a", "b", "c") }, 2},
		{"no message", func() error { return w.Put() }, 0},
		{"settling a part", func() error { return w.settle(w.nextIDs(2)...) }, 0},
		{"settling the rest", func() error { return w.settle(w.nextIDs(plenty)...) }, 0},
		{"a journal", func() error { return w.add(0) }, 2},
		{"a start with a journal", func() error { return w.open(o) }, 3},
	} {
		must(t, step.do())
		if got := n.take(); got != step.want {
			t.Errorf("%s takes %d fsyncs, want %d", step.name, got, step.want)
		}
	}
}

func TestFlushDue(t *testing.T) {
	w, _ := start(t, Options{FlushInterval: 10 * time.Second})
	due := func(want time.Duration, waits bool) {
		t.Helper()
		if at, waiting := w.FlushDue(); at != want || waiting != waits {
			t.Errorf("due at %v (%v), want %v (%v)", at, waiting, want, waits)
		}
	}
	due(0, false)
	must(t, w.addAll(0, 0, 0)) // at 2 s, 4 s, 6 s
	due(12*time.Second, true)
	must(t, w.flush())
	due(0, false)
	must(t, w.add(0))
	due(18*time.Second, true)
	must(t, w.pack())
	due(0, false)
}

func TestFlushIntervalOfNothing(t *testing.T) {
	w, d := start(t, Options{})
	must(t, w.addAll(0, 1, 2))
	if _, waiting := w.FlushDue(); waiting {
		t.Error("a flush is due")
	}
	must(t, w.open(Options{FS: d.Restart(disktest.Lost)}))
	w.check(t, false)
}

func TestFailedFlushIsTriedAgain(t *testing.T) {
	var broken bool
	w, _ := start(t, Options{FlushInterval: 10 * time.Second, FS: hooked{disktest.New(), func(op, _ string) error {
		if broken && op == "sync" {
			return errors.New("broken")
		}
		return nil
	}}})
	must(t, w.add(0))
	broken = true
	if err := w.Flush(15 * time.Second); err == nil {
		t.Fatal("no error")
	}
	if at, waiting := w.FlushDue(); at != 25*time.Second || !waiting {
		t.Errorf("due at %v (%v)", at, waiting)
	}
	broken = false
	must(t, w.flush())
	w.check(t, false)
}

// TestRuns packs samples, written as inverter, boot and time, into runs.
func TestRuns(t *testing.T) {
	for _, test := range []struct {
		name, samples, want string
	}{
		{"one inverter", "a0:1 a0:2 a0:3", "a0:1,2,3"},
		{"two inverters", "a0:1 b0:1 a0:2 b0:2", "a0:1,2 b0:1,2"},
		{"the longest run", "a0:1 b0:1 a0:2 a0:3 a0:4", "a0:1,2,3 b0:1 a0:4"},
		{"another boot", "a0:8 a0:9 a1:1 a1:2", "a0:8,9 a1:1,2"},
		{"there and back", "a0:1 a1:2 a0:3 b0:4", "a0:1 a1:2 a0:3 b0:4"},
		{"other points", "a0:1 A0:2 a0:3", "a0:1,3 A0:2"},
		{"one instant twice", "a0:1 a0:1", "a0:1,1"},
		{"time goes back", "a0:5 a0:4 a0:6", "a0:5 a0:4,6"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, _ := start(t, Options{MaxRun: 3, FlushInterval: time.Minute})
			for text := range strings.FieldsSeq(test.samples) {
				r := Reading{Inverter: strings.ToLower(text[:1]), Points: []string{"pac"}, Boot: [16]byte{text[1]}}
				if r.Inverter != text[:1] {
					r.Points = []string{"vac1"}
				}
				r.Sample = ecowatt.Sample{At: int64(text[3] - '0'), Values: []ecowatt.Value{ecowatt.Known(7)}}
				must(t, w.Add(r, 0))
			}
			var got []string
			must(t, w.packEach(func(r Run) (Message, error) {
				inverter := r.Inverter
				if r.Points[0] == "vac1" {
					inverter = strings.ToUpper(inverter)
				}
				var times []string
				for _, s := range r.Samples {
					times = append(times, fmt.Sprint(s.At))
				}
				got = append(got, inverter+string(r.Boot[0])+":"+strings.Join(times, ","))
				return w.message(r)
			}))
			if diff := cmp.Diff(strings.Fields(test.want), got); diff != "" {
				t.Errorf("runs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestARunIsBoundedByItsSpan(t *testing.T) {
	w, _ := start(t, Options{FlushInterval: time.Minute})
	for _, at := range []int64{5, 6, 5 + MaxSpan, 6 + MaxSpan, 6 + 2*MaxSpan} {
		must(t, w.Add(Reading{Inverter: "a", Points: []string{"pac"}, Sample: ecowatt.Sample{At: at, Values: make([]ecowatt.Value, 1)}}, 0))
	}
	var lengths []int
	must(t, w.packEach(func(r Run) (Message, error) {
		lengths = append(lengths, len(r.Samples))
		return w.message(r)
	}))
	if diff := cmp.Diff([]int{3, 2}, lengths); diff != "" {
		t.Errorf("samples in the runs (-want +got):\n%s", diff)
	}
}

func TestARunIsBoundedByItsValues(t *testing.T) {
	w, _ := start(t, Options{FlushInterval: time.Minute, MaxRun: plenty})
	points := make([]string, MaxPoints)
	for i := range points {
		points[i] = fmt.Sprint("p", i)
	}
	for i := range 200 {
		must(t, w.Add(Reading{Inverter: "a", Points: points, Sample: ecowatt.Sample{At: int64(i), Values: make([]ecowatt.Value, MaxPoints)}}, 0))
	}
	var all int
	must(t, w.packEach(func(r Run) (Message, error) {
		if n := len(r.Samples) * len(r.Points); n > maxHeld {
			t.Errorf("%d values in a run", n)
		}
		all += len(r.Samples)
		return Message{ID: w.id()}, nil
	}))
	if all != 200 {
		t.Errorf("%d samples were packed", all)
	}
}

func TestNextTakesWhatFits(t *testing.T) {
	bodies := func(lengths ...int) (all []string) {
		for i, n := range lengths {
			all = append(all, strings.Repeat(string(rune('a'+i)), n))
		}
		return all
	}
	for _, test := range []struct {
		name       string
		room, most int
		want       string
	}{
		{"all", 1000, 10, "abcde"},
		{"exactly all", 29 + 59 + 24 + 49 + 20, 10, "abcde"},
		{"one byte less", 29 + 59 + 24 + 49 + 20 - 1, 10, "abcd"},
		{"the order is kept", 29 + 59 + 2, 10, "ab"},
		{"no more than asked for", 1000, 2, "ab"},
		{"none asked for", 1000, 0, ""},
		{"what never fits is passed over", 58, 10, "ac"},
		{"so is the first", 28, 10, "c"},
		{"only the last one fits", 20, 10, "e"},
		{"no room", 0, 10, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, _ := start(t, Options{})
			must(t, w.putSome(2, bodies(10, 40)...))
			must(t, w.putSome(2, bodies(0, 0, 5, 30, 1)[2:]...))
			got := ""
			for _, m := range w.Next(size, test.room, test.most) {
				got += string(m.Body[:1])
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestSettledMessagesStayAway(t *testing.T) {
	w, d := start(t, Options{})
	must(t, w.putSome(2, "a", "b", "c"))
	ids := w.nextIDs(plenty)
	must(t, w.settle(ids[1]))
	must(t, w.settle(ids[1], [16]byte{0xff})) // again, and one that nobody has
	must(t, w.open(Options{FS: d}))
	if got := w.nextIDs(plenty); !cmp.Equal(got, [][16]byte{ids[0], ids[2]}) {
		t.Errorf("after a restart %x wait", got)
	}
	must(t, w.settle(ids[0]))
	must(t, w.open(Options{FS: d}))
	if got := w.nextIDs(plenty); !cmp.Equal(got, [][16]byte{ids[2]}) {
		t.Errorf("after another restart %x wait", got)
	}
	must(t, w.settle(ids[2]))
	if got := names(t, d); got != "" {
		t.Errorf("there is still %s", got)
	}
}

func TestPutIsAllOrNothing(t *testing.T) {
	w, d := start(t, Options{})
	err := w.Put(Message{ID: w.id()}, Message{ID: w.id(), Body: make([]byte, MaxBody+1)})
	if err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("error %v", err)
	}
	if got := names(t, d); got != "" || w.Stats() != (Stats{}) {
		t.Errorf("there is %s, %+v", got, w.Stats())
	}
	must(t, w.Put(Message{ID: w.id(), Body: make([]byte, MaxBody)}))
	if got := w.Next(size, plenty, 1); len(got) != 1 || len(got[0].Body) != MaxBody {
		t.Errorf("%d messages", len(got))
	}
}

// Nothing is handed out while a power cut could still turn it back into samples.
func TestNothingIsHandedOutBeforeItsNameLasts(t *testing.T) {
	var broken bool
	var log lines
	w, d := start(t, Options{})
	must(t, w.open(Options{Logger: log.logger(), FS: hooked{d, func(op, _ string) error {
		if broken && op == "syncdir" {
			return errors.New("broken")
		}
		return nil
	}}}))
	must(t, w.add(0))
	broken = true
	if err := w.packEach(w.message); err == nil {
		t.Error("packing: no error")
	}
	if err := w.Put(Message{ID: w.id()}); err == nil {
		t.Error("putting: no error")
	}
	if got := w.nextIDs(plenty); len(got) != 0 {
		t.Errorf("%d messages are handed out", len(got))
	}
	if diff := cmp.Diff([]line{{Level: "ERROR", Code: codeRead}}, log.take(t)); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	broken = false
	if got := w.nextIDs(plenty); len(got) != 1 {
		t.Errorf("%d messages are handed out", len(got))
	}
	must(t, w.open(Options{FS: d.Restart(disktest.Lost)}))
	w.check(t, true)
}

func TestFullDisk(t *testing.T) {
	w, d := start(t, Options{})
	must(t, w.addAll(0, 1, 0))
	d.SetCapacity(used(d) + 3)
	err := w.add(0)
	if err == nil || !strings.Contains(err.Error(), "make room") || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("error %v", err)
	}
	must(t, w.flush())
	if err := w.packEach(w.message); err == nil {
		t.Error("packing: no error")
	}
	if err := w.putSome(2, "log"); err == nil {
		t.Error("putting: no error")
	}
	w.check(t, true)
	d.SetCapacity(0)
	must(t, w.add(0))
	w.check(t, true)
	must(t, w.open(Options{FS: d.Restart(disktest.Lost)}))
	w.check(t, true)
	if got := w.Stats().Samples; got != 4 {
		t.Errorf("%d samples", got)
	}
}

// A full disk takes half a record. Were it synced, the next record would be
// written over synced bytes, which a power cut may tear.
func TestHalfARecordIsTakenBackBeforeAFlush(t *testing.T) {
	w, d := start(t, Options{FlushInterval: time.Hour})
	must(t, w.addAll(0, 0, 0))
	must(t, w.flush())
	before := content(t, d, "buffer/0000000001.buf")
	d.SetCapacity(used(d) + 3)
	if err := w.add(0); err == nil {
		t.Fatal("no error")
	}
	must(t, w.flush())
	if got := content(t, d, "buffer/0000000001.buf"); !bytes.Equal(got, before) {
		t.Errorf("%x became %x", before, got)
	}
}

func TestAJournalWithoutSamplesIsNotPacked(t *testing.T) {
	d := disktest.New()
	write(t, d, "buffer/0000000001.buf", disk.AppendRecord(nil, header(journalFile)))
	w, _ := start(t, Options{FS: d})
	before := d.Ops()
	must(t, w.pack())
	if got := d.Ops(); got != before {
		t.Errorf("%d operations on the disk", got-before)
	}
	must(t, w.add(0))
	if got := names(t, d); got != "0000000001.buf" {
		t.Errorf("files %s", got)
	}
}

func TestLargeJournalsAreDivided(t *testing.T) {
	w, d := start(t, Options{Limit: MinLimit, FlushInterval: time.Hour})
	for range 1000 {
		must(t, w.add(0))
	}
	for _, f := range w.files {
		if f.size > MinLimit/8+100 {
			t.Errorf("%s has %d bytes", f.name(), f.size)
		}
	}
	if len(w.files) < 2 {
		t.Fatalf("%d files", len(w.files))
	}
	w.check(t, true)
	must(t, w.open(Options{Limit: MinLimit, FS: d.Restart(disktest.Lost), FlushInterval: time.Hour}))
	if got := w.Stats().Samples; got < 500 {
		t.Errorf("%d samples of those in finished journals last", got)
	}
	w.check(t, false)
	must(t, w.pack())
	w.check(t, true)
	if got := w.Stats().Samples; got != 0 {
		t.Errorf("%d samples are not packed", got)
	}
}

func TestManySeriesTakeMoreJournals(t *testing.T) {
	w, d := start(t, Options{FlushInterval: time.Hour})
	for series := range maxSeries + 1 {
		must(t, w.add(series))
	}
	if got := names(t, d); got != "0000000001.buf 0000000002.buf" {
		t.Errorf("files %s", got)
	}
	must(t, w.open(Options{FS: d}))
	w.check(t, true)
}

func TestOtherFilesAreLeftAlone(t *testing.T) {
	d := disktest.New()
	for _, name := range []string{"notes.txt", "1.buf", "0000000000.buf", "000000000x.buf", "0000000001.bak", "-000000001.buf"} {
		write(t, d, folder+"/"+name, []byte("mine"))
	}
	before := names(t, d)
	w, _ := start(t, Options{FS: d})
	must(t, w.Close())
	if got := names(t, d); got != before {
		t.Errorf("%s became %s", before, got)
	}
}

func TestLeftoversGo(t *testing.T) {
	d := disktest.New()
	for _, name := range []string{"0000000007.buf.tmp", "0000000009.settled"} {
		write(t, d, folder+"/"+name, disk.AppendRecord(nil, header(settledFile)))
	}
	w, _ := start(t, Options{FS: d})
	if got := names(t, d); got != "" {
		t.Errorf("there is still %s", got)
	}
	must(t, w.add(0))
	if got := names(t, d); got != "0000000010.buf" {
		t.Errorf("the next file is %s", got)
	}
}
