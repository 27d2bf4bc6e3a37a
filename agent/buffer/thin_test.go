package buffer

import (
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt"
	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
)

// ledger drives a buffer that is so small that it thins out, and knows which
// samples are in a window, whatever became of it: sample n of a series has the
// value grain << n, so the sum of a window names its samples. A mean is rounded by
// less than the grain.
type ledger struct {
	*Buffer
	now     time.Duration
	ids     uint64
	tried   map[string]uint64 // by series, a bit for each sample that Add was called with
	added   map[string]uint64 // and returned nil
	durable map[string]uint64
	runs    map[[16]byte]Run  // of the messages that were made
	stored  map[[16]byte]bool // by the cloud: settled, or handed out and the answer lost
}

const (
	grain  = 1 << 10
	perRow = 48 // samples that fit into the sum of a series
)

func newLedger() *ledger {
	return &ledger{tried: map[string]uint64{}, added: map[string]uint64{}, durable: map[string]uint64{}, runs: map[[16]byte]Run{}, stored: map[[16]byte]bool{}}
}

// open opens a buffer of so many bytes, on a disk that has them in any number.
func (l *ledger) open(fsys disk.FS, limit int64) (err error) {
	if l.Buffer, err = Open(Options{FS: fsys, FlushInterval: time.Minute, MaxRun: 20, Place: inUTC}); err == nil {
		l.unit, l.limit = 1, limit
	}
	return err
}

// inUTC places boot 1.
func inUTC(boot [16]byte, mono int64) int64 {
	if boot[0] != 1 {
		return 0
	}
	return mono + 1_700_000_000_123
}

func seriesOf(inverter string, boot [16]byte) string { return fmt.Sprint(inverter, " ", boot[0]) }

// add adds so many samples, a few seconds apart, to each of two inverters.
func (l *ledger) add(boot byte, samples int) error {
	for range samples {
		l.now += 7 * time.Second
		for _, inverter := range []string{"east", "west"} {
			r := Reading{Inverter: inverter, Points: []string{"n"}, Boot: [16]byte{boot}}
			of := seriesOf(inverter, r.Boot)
			n := bits.Len64(l.tried[of])
			if n == perRow {
				return nil
			}
			r.Sample = ecowatt.Sample{At: l.now.Milliseconds(), Values: []ecowatt.Value{ecowatt.Known(grain << n)}}
			l.tried[of] |= 1 << n
			if err := l.Add(r, l.now); err != nil {
				return err
			}
			l.added[of] |= 1 << n
		}
	}
	return nil
}

func (l *ledger) flush() error {
	err := l.Flush(l.now)
	if err == nil {
		maps.Copy(l.durable, l.added)
	}
	return err
}

func (l *ledger) pack(enough int64) error {
	_, err := l.Pack(enough, func(r Run, emit func(Message, int) error) error {
		l.ids++
		m := Message{ID: [16]byte{byte(l.ids >> 8), byte(l.ids)}, Kind: 1, Body: make([]byte, 40)}
		l.runs[m.ID] = r
		return emit(m, len(r.Samples))
	})
	return err
}

// exchange hands out messages, all of which the cloud stores; of some the answer
// is lost.
func (l *ledger) exchange(most, answered int) error {
	var ids [][16]byte
	for _, m := range l.Next(size, plenty, most) {
		l.stored[m.ID] = true
		ids = append(ids, m.ID)
	}
	return l.Settle(ids[:min(answered, len(ids))])
}

// reopened is check after a start, which makes all that is there last. What is
// missing, and may be, is forgotten.
func (l *ledger) reopened(t tester, kept bool) {
	t.Helper()
	found := l.check(t, kept)
	for of := range l.tried {
		l.tried[of], l.added[of], l.durable[of] = found[of], found[of], found[of]
	}
}

// check says whether every sample is at the cloud or in the buffer, once, and
// which are. What was not synced may be missing, unless it was kept.
func (l *ledger) check(t tester, kept bool) (found map[string]uint64) {
	t.Helper()
	found = map[string]uint64{}
	count := func(r Run) {
		for _, s := range r.Samples {
			l.count(t, found, r, s)
		}
	}
	waiting := map[[16]byte]bool{}
	for _, f := range l.files {
		for _, e := range f.messages {
			if !e.settled {
				waiting[e.id] = true
			}
		}
		if f.kind != outboxFile {
			if err := l.eachSample(f, func(of *Run, s ecowatt.Sample) error { l.count(t, found, *of, s); return nil }); err != nil {
				t.Fatalf("reading %s: %v", f.name(), err)
			}
		}
	}
	for id, r := range l.runs {
		if l.stored[id] || waiting[id] {
			count(r)
		}
	}
	for of, tried := range l.tried {
		must := l.durable[of]
		if kept {
			must = l.added[of]
		}
		if lost, other := must&^found[of], found[of]&^tried; lost != 0 || other != 0 {
			t.Errorf("%s: of the samples %b, %b are gone, and %b were never there", of, tried, lost, other)
		}
	}
	return found
}

// count notes the samples that a sample, or a window, stands for.
func (l *ledger) count(t tester, found map[string]uint64, r Run, s ecowatt.Sample) {
	t.Helper()
	sum, n := s.Values[0].Raw, int64(1)
	if r.Window != 0 {
		n = s.Values[ecowatt.Count].Raw
		sum = (sum*n + grain/2) / grain * grain
		if s.At%r.Window != 0 || r.UTC != (r.Boot[0] == 1) {
			t.Errorf("a window of %d ms at %d (UTC %v)", r.Window, s.At, r.UTC)
		}
		epoch := int64(0)
		if r.UTC {
			epoch = inUTC(r.Boot, 0)
		}
		if s.At <= epoch-r.Window || s.At > epoch+l.now.Milliseconds() {
			t.Errorf("a window at %d, of samples from %d on (UTC %v)", s.At, epoch, r.UTC)
		}
	}
	samples, of := uint64(sum/grain), seriesOf(r.Inverter, r.Boot)
	if bits.OnesCount64(samples) != int(n) || found[of]&samples != 0 {
		t.Errorf("%s: %d samples with the sum %b, where %b are elsewhere", of, n, samples, found[of])
	}
	if r.Window != 0 {
		first, last := s.Values[ecowatt.Least].Raw/grain, s.Values[ecowatt.Most].Raw/grain
		if first != 1<<bits.TrailingZeros64(samples) || last != 1<<(bits.Len64(samples)-1) {
			t.Errorf("%s: least and most are %b and %b of %b", of, first, last, samples)
		}
	}
	found[of] |= samples
}

// Limits: wide is one that is never reached. Below tight, thinning gives up nothing;
// below narrow it goes further, and some is given up.
const (
	wide   = math.MaxInt64 / 2
	tight  = 450
	narrow = 380
)

// squeeze sets a limit and makes room.
func (l *ledger) squeeze(limit int64) error {
	l.limit = limit
	l.makeRoom()
	return nil
}

func (l *ledger) endJournals() error {
	if l.journal == nil {
		return nil
	}
	if err := l.flush(); err != nil {
		return err
	}
	return l.closeJournal(l.now)
}

// thinning is a life of a buffer in which everything that thins out happens, and
// messages of which the answers were lost.
func thinning(l *ledger, fsys disk.FS) error {
	for _, step := range []func() error{
		func() error { return l.open(fsys, wide) },
		func() error { return l.add(0, 4) },
		func() error { return l.pack(1) }, // stays in the outbox, sent but not answered
		func() error { return l.exchange(2, 0) },
		func() error { return l.add(0, 20) },
		func() error { return l.endJournals() },
		func() error { return l.add(1, 20) },
		func() error { return l.endJournals() },
		func() error { return l.squeeze(tight) },
		func() error { return l.squeeze(wide) },
		func() error { return l.exchange(2, 1) },
		func() error { return l.pack(100) },
		func() error { return l.add(1, 4) },
		func() error { return l.exchange(3, 3) },
		func() error { return l.add(1, 2) },
		func() error { return l.Close() },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func TestThinningSurvivesPowerCuts(t *testing.T) {
	var l *ledger
	work := func(fsys disk.FS) error {
		l = newLedger()
		return thinning(l, fsys)
	}
	disktest.Sweep(t, work, func(t *testing.T, fsys disk.FS, cut disktest.Cut) {
		if cut.Op == 0 && (l.thinned == 0 || l.Stats().Dropped != 0) {
			t.Fatalf("the life is too easy, or too hard: %+v", l.Stats())
		}
		if err := l.open(fsys, wide); err != nil {
			t.Fatal(err)
		}
		l.reopened(t, cut.Op == 0 || cut.Fate == disktest.Kept)
		// It goes on: with even less room, and another cut behind it.
		must(t, l.squeeze(narrow))
		given := l.Stats().Dropped
		if given == 0 {
			l.check(t, true)
		}
		must(t, l.open(fsys.(*disktest.Disk).Restart(disktest.Torn), wide))
		if given == 0 {
			must(t, l.pack(math.MaxInt64))
			l.check(t, true)
		}
	})
}

// TestThinningInAnyOrder does what comes to rapid's mind, and counts.
func TestThinningInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newLedger()
		d := disktest.New()
		reopen := func(fate disktest.Fate) {
			d = d.Restart(fate)
			if err := l.open(d, wide); err != nil {
				t.Fatalf("opening: %v", err)
			}
			l.reopened(t, fate == disktest.Kept)
		}
		reopen(disktest.Kept)
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%v", err)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				ok(l.add(rapid.SampledFrom([]byte{0, 1}).Draw(t, "boot"), rapid.IntRange(1, 9).Draw(t, "samples")))
			},
			"flush":    func(*rapid.T) { ok(l.flush()) },
			"pack":     func(t *rapid.T) { ok(l.pack(rapid.Int64Range(0, 300).Draw(t, "enough"))) },
			"pack all": func(*rapid.T) { ok(l.pack(math.MaxInt64)) },
			"exchange": func(t *rapid.T) {
				ok(l.exchange(rapid.IntRange(0, 4).Draw(t, "sent"), rapid.IntRange(0, 4).Draw(t, "answered")))
			},
			"end of a journal": func(*rapid.T) {
				ok(l.endJournals())
			},
			"a step": func(*rapid.T) {
				if f := l.shrinkable(); f != nil {
					l.shrink(f)
				}
			},
			"full disk": func(t *rapid.T) {
				d.SetCapacity(used(d) + rapid.Int64Range(1, 200).Draw(t, "left"))
				if f := l.shrinkable(); f != nil {
					l.shrink(f)
				}
				d.SetCapacity(0)
			},
			"restart": func(t *rapid.T) { reopen(rapid.SampledFrom(fates).Draw(t, "fate")) },
			"":        func(t *rapid.T) { l.check(t, true) },
		})
	})
}

// TestTheOldestSamplesAreThinnedOut fills a buffer for a long time: the older, the
// coarser; every sample counts in a window; and nothing is given up before all is
// as coarse as it can be.
func TestTheOldestSamplesAreThinnedOut(t *testing.T) {
	var log lines
	d := disktest.New()
	o := Options{FS: d, Limit: MinLimit, FlushInterval: time.Hour, Logger: log.logger(), Place: inUTC}
	b, err := Open(o)
	must(t, err)
	b.unit = 64
	next := day()
	var all, told int64
	coarsest := 0
	for {
		r := next()
		r.Sample.At *= 10 // one every 20 s
		r.Boot = [16]byte{1}
		must(t, b.Add(r, time.Duration(r.Sample.At)*time.Millisecond))
		all++
		if b.Stats().Dropped > 0 {
			break
		}
		if all%1000 != 0 {
			continue
		}
		var windows []int
		for _, f := range b.files {
			windows = append(windows, f.step)
		}
		if !slices.IsSortedFunc(windows, func(a, b int) int { return b - a }) {
			t.Fatalf("after %d samples the steps are %v", all, windows)
		}
		coarsest = max(coarsest, windows[0])
		if got := counted(t, b); got != all {
			t.Fatalf("%d samples of %d count", got, all)
		}
	}
	if coarsest != len(steps)-1 || all < 20_000 {
		t.Errorf("after %d samples something is given up, at step %d", all, coarsest)
	}
	b.tellThinned(true)
	full := 0
	for _, l := range log.take(t) {
		switch {
		case l.Code == codeThinned && l.Level == "WARN":
			told += l.Samples
		case l.Code == codeFull && l.Level == "ERROR":
			full++
		default:
			t.Errorf("log line %+v", l)
		}
	}
	if s := b.Stats(); int64(s.Thinned) != told || s.Bytes > o.Limit || full == 0 {
		t.Errorf("%+v; the log tells of %d", s, told)
	}
	for _, f := range b.files {
		if f.step < len(steps)-1 && f.size > b.unit && f != b.journal.file {
			t.Errorf("%s is of step %d and %d bytes when another one was given up", f.name(), f.step, f.size)
		}
	}
	t.Logf("%d samples of ten points fit into %d KiB, thinned out", all, o.Limit>>10)

	// A restart knows how far each file was shrunk.
	before := b.Stats()
	must(t, b.Close())
	o.Limit = 0
	b, err = Open(o)
	must(t, err)
	if diff := cmp.Diff(before.Samples, b.Stats().Samples); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
}

// counted adds up the samples of a buffer, and the counts of its windows.
func counted(t *testing.T, b *Buffer) (n int64) {
	t.Helper()
	for _, f := range b.files {
		must(t, b.eachSample(f, func(of *Run, s ecowatt.Sample) error {
			if of.Window == 0 {
				n++
			} else {
				n += s.Values[ecowatt.Count].Raw
			}
			return nil
		}))
	}
	return n
}

// TestThinningWithoutGain leaves a file as it is that windows make no smaller.
func TestThinningWithoutGain(t *testing.T) {
	w, d := start(t, Options{FlushInterval: time.Hour})
	r := Reading{Inverter: "inv1", Points: []string{"pac"}, Sample: ecowatt.Sample{Values: make([]ecowatt.Value, 1)}}
	for range 1000 { // one an hour, which no window of an hour makes fewer
		r.Sample.At += 60 * 60_000
		r.Sample.Values[0] = ecowatt.Known(r.Sample.At * 0x1234567)
		must(t, w.Add(r, 0))
	}
	must(t, w.closeJournal(0))
	w.limit = 2 * unit
	w.makeRoom()
	if got := w.Stats(); got.Thinned != 0 || got.Bytes > w.limit {
		t.Errorf("%+v", got)
	}
	if got := names(t, d); got != "" {
		t.Errorf("there is still %s", got)
	}
}

// TestTheJournalInUseIsSpared: it has few samples yet, and will have more.
func TestTheJournalInUseIsSpared(t *testing.T) {
	w, _ := start(t, Options{FlushInterval: time.Hour})
	for range 1000 {
		must(t, w.add(0))
	}
	if f := w.shrinkable(); f != nil {
		t.Errorf("%s is made smaller while samples are appended to it", f.name())
	}
	must(t, w.closeJournal(0))
	if w.shrinkable() == nil {
		t.Error("a journal that has ended is not made smaller")
	}
}
