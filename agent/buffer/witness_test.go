package buffer

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/internal/disk"
)

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// witness drives a buffer and remembers what it promised. Each sample has a
// serial number, which is its time; each message an id of its own.
type witness struct {
	*Buffer
	now    time.Duration
	serial int64
	ids    uint64

	tried   map[int64]Reading // what Add was called with
	added   map[int64]bool    // Add returned nil
	durable map[int64]bool    // and it was synced
	packed  map[[16]byte][]int64
	put     map[[16]byte]bool // Put returned nil
	bytes   map[[16]byte]Message
	handed  map[[16]byte]bool // Next returned it
	settled map[[16]byte]bool
}

func newWitness() *witness {
	return &witness{
		tried: map[int64]Reading{}, added: map[int64]bool{}, durable: map[int64]bool{}, packed: map[[16]byte][]int64{},
		put: map[[16]byte]bool{}, bytes: map[[16]byte]Message{}, handed: map[[16]byte]bool{}, settled: map[[16]byte]bool{},
	}
}

func (w *witness) open(o Options) (err error) {
	w.Buffer, err = Open(o)
	return err
}

// add adds the next sample of a series: what varies with its number is the
// inverter, the points and the boot.
func (w *witness) add(series int) error {
	w.serial++
	w.now += 2 * time.Second
	r := Reading{
		Inverter: fmt.Sprintf("inv%d", series%2),
		Points:   []string{"vac1", "pac", "temp"}[:1+series/2%3],
		Boot:     [16]byte{byte(series / 6)},
		Sample:   ecowatt.Sample{At: w.serial},
	}
	for p := range r.Points {
		v := ecowatt.Known(w.serial * int64(1-2*p))
		if (w.serial+int64(p))%5 == 0 {
			v = ecowatt.Value{}
		}
		r.Sample.Values = append(r.Sample.Values, v)
	}
	w.tried[w.serial] = r
	if err := w.Add(r, w.now); err != nil {
		return err
	}
	w.added[w.serial] = true
	if w.flushInterval == 0 {
		w.durable[w.serial] = true
	}
	return nil
}

func (w *witness) addAll(series ...int) error {
	for _, s := range series {
		if err := w.add(s); err != nil {
			return err
		}
	}
	return nil
}

func (w *witness) synced(err error) error {
	for serial := range w.added {
		w.durable[serial] = w.durable[serial] || err == nil
	}
	return err
}

func (w *witness) flush() error { return w.synced(w.Flush(w.now)) }

func (w *witness) id() (id [16]byte) {
	w.ids++
	binary.BigEndian.PutUint64(id[:], w.ids)
	return id
}

// message makes a message of a run, whose body is the run.
func (w *witness) message(r Run) (Message, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return Message{}, err
	}
	m := Message{ID: w.id(), Kind: 1, Body: body}
	w.bytes[m.ID] = m
	for _, s := range r.Samples {
		w.packed[m.ID] = append(w.packed[m.ID], s.At)
	}
	return m, nil
}

// packEach makes one message of each run.
func (w *witness) packEach(pack func(Run) (Message, error)) error {
	left, err := w.Pack(math.MaxInt64, func(r Run, emit func(Message, int) error) error {
		m, err := pack(r)
		if err != nil {
			return err
		}
		return emit(m, len(r.Samples))
	})
	if err == nil && left {
		return errors.New("samples stay unpacked")
	}
	return err
}

func (w *witness) pack() error { return w.synced(w.packEach(w.message)) }

func (w *witness) putSome(kind uint64, bodies ...string) error {
	var all []Message
	for _, body := range bodies {
		m := Message{ID: w.id(), Kind: kind, Body: []byte(body)}
		w.bytes[m.ID] = m
		all = append(all, m)
	}
	if err := w.Put(all...); err != nil {
		return err
	}
	for _, m := range all {
		w.put[m.ID] = true
	}
	return nil
}

func size(m Message) int { return 19 + len(m.Body) }

const plenty = 1 << 30

func (w *witness) nextIDs(most int) (ids [][16]byte) {
	for _, m := range w.Next(size, plenty, most) {
		w.handed[m.ID] = true
		ids = append(ids, m.ID)
	}
	return ids
}

func (w *witness) settle(ids ...[16]byte) error {
	for _, id := range ids {
		w.settled[id] = true
	}
	return w.Settle(ids)
}

// journalled returns the serial numbers in the journals, and in the files of runs.
func (w *witness) journalled(t tester) (serials []int64) {
	t.Helper()
	for _, f := range w.files {
		if f.kind != journalFile && f.kind != runsFile {
			continue
		}
		if err := w.eachSample(f, func(of *Run, sample ecowatt.Sample) error {
			w.compare(t, Run{Inverter: of.Inverter, Points: of.Points, Boot: of.Boot, Samples: []ecowatt.Sample{sample}})
			serials = append(serials, sample.At)
			return nil
		}); err != nil {
			t.Fatalf("reading a journal: %v", err)
		}
	}
	return serials
}

// compare says whether all samples of a run are as they were added.
func (w *witness) compare(t tester, r Run) {
	t.Helper()
	for _, s := range r.Samples {
		got := Reading{Inverter: r.Inverter, Points: r.Points, Boot: r.Boot, Sample: s}
		if want := w.tried[s.At]; !reflect.DeepEqual(want, got) { // faster than cmp
			t.Errorf("sample %d is not what was added (-added +kept):\n%s", s.At, cmp.Diff(want, got))
		}
	}
}

// check compares what the buffer holds with what was promised. kept says that
// the program was killed but the disk had power. What is gone, and may be, is
// forgotten: it must not come back.
func (w *witness) check(t tester, kept bool) {
	t.Helper()
	there := map[int64]int{}
	for _, serial := range w.journalled(t) {
		there[serial]++
	}
	inJournal := len(there)
	messages := w.Next(size, plenty, plenty)
	waiting := map[[16]byte]bool{}
	last := map[string]int64{} // by inverter and points
	for _, m := range messages {
		if waiting[m.ID] {
			t.Errorf("message %x is handed out twice", m.ID)
		}
		waiting[m.ID] = true
		w.handed[m.ID] = true
		if made := w.bytes[m.ID]; m.Kind != made.Kind || !bytes.Equal(m.Body, made.Body) {
			t.Errorf("id %x names other bytes (-made +handed out):\n%s", m.ID, cmp.Diff(made, m))
		}
		if m.Kind != 1 || w.settled[m.ID] {
			continue
		}
		var r Run
		if err := json.Unmarshal(m.Body, &r); err != nil {
			t.Fatalf("message %x: %v", m.ID, err)
		}
		w.compare(t, r)
		for _, s := range r.Samples {
			there[s.At]++
			series := r.Inverter + " " + strings.Join(r.Points, " ")
			if s.At <= last[series] {
				t.Errorf("sample %d of %s comes after %d", s.At, series, last[series])
			}
			last[series] = s.At
		}
	}
	for id := range w.settled {
		for _, serial := range w.packed[id] {
			if there[serial] > 0 {
				t.Errorf("sample %d was settled and is there under another id", serial)
			}
			there[serial] = 1
		}
	}
	for serial := range w.tried {
		must := w.durable[serial] || kept && w.added[serial]
		if there[serial] > 1 || there[serial] == 0 && must {
			t.Errorf("sample %d is there %d times (added %v, synced %v)", serial, there[serial], w.added[serial], w.durable[serial])
		}
		if there[serial] == 0 {
			delete(w.tried, serial)
			delete(w.added, serial)
		} else {
			w.added[serial] = true
		}
	}
	for id := range w.bytes {
		if (w.put[id] || w.handed[id]) && !w.settled[id] && !waiting[id] {
			t.Errorf("message %x is gone, and was not settled", id)
		}
	}
	got := w.Stats()
	want := Stats{Samples: inJournal, Messages: len(messages), Bytes: got.Bytes}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	w.checkSize(t)
}

// checkSize compares the bytes that the buffer counts with those on the disk.
func (w *witness) checkSize(t tester) {
	t.Helper()
	names, err := w.fs.List(folder)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var all int64
	for _, name := range names {
		info, err := w.fs.Stat(folder + "/" + name)
		if err != nil {
			t.Fatalf("%v", err)
		}
		all += w.blocks(info.Size())
	}
	if got := w.Stats().Bytes; got != all {
		t.Errorf("the buffer counts %d bytes where there are %d: %v", got, all, names)
	}
}

// lines is a logger whose lines a test reads.
type lines struct{ bytes.Buffer }

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

// line is what tests look at.
type line struct {
	Level, Code, File        string
	Bytes, Samples, Messages int64
}

// take returns the lines since the last call.
func (l *lines) take(t tester) (all []line) {
	t.Helper()
	for text := range strings.Lines(l.String()) {
		var entry line
		if err := json.Unmarshal([]byte(text), &entry); err != nil {
			t.Fatalf("log line %q: %v", text, err)
		}
		all = append(all, entry)
	}
	l.Reset()
	return all
}

// content returns a whole file.
func content(tb testing.TB, fsys disk.FS, name string) []byte {
	tb.Helper()
	f, err := fsys.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// write makes a file that lasts.
func write(tb testing.TB, fsys disk.FS, name string, data []byte) {
	tb.Helper()
	if err := disk.MkdirAll(fsys, folder, folderPerm); err != nil {
		tb.Fatal(err)
	}
	if err := disk.WriteFile(fsys, name, data, perm); err != nil {
		tb.Fatal(err)
	}
}

// names returns the names in the buffer's folder.
func names(tb testing.TB, fsys disk.FS) string {
	tb.Helper()
	all, err := fsys.List(folder)
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Join(all, " ")
}

// hooked is a disk that asks before each operation that changes something
// ("create", "append", "write", "sync", "truncate", "rename", "remove",
// "syncdir"), and before each "open" and "read".
type hooked struct {
	disk.FS
	hook func(op, name string) error
}

func (h hooked) Open(name string) (disk.File, error) {
	return h.file("open", name, func() (disk.File, error) { return h.FS.Open(name) })
}

func (h hooked) Create(name string, perm fs.FileMode) (disk.File, error) {
	return h.file("create", name, func() (disk.File, error) { return h.FS.Create(name, perm) })
}

func (h hooked) Append(name string, perm fs.FileMode) (disk.File, error) {
	return h.file("append", name, func() (disk.File, error) { return h.FS.Append(name, perm) })
}

func (h hooked) file(op, name string, open func() (disk.File, error)) (disk.File, error) {
	if err := h.hook(op, name); err != nil {
		return nil, err
	}
	f, err := open()
	if err != nil {
		return nil, err
	}
	return hookedFile{f, h, name}, nil
}

func (h hooked) Rename(from, to string) error {
	return h.do("rename", from, func() error { return h.FS.Rename(from, to) })
}

func (h hooked) Remove(name string) error {
	return h.do("remove", name, func() error { return h.FS.Remove(name) })
}

func (h hooked) Truncate(name string, size int64) error {
	return h.do("truncate", name, func() error { return h.FS.Truncate(name, size) })
}

func (h hooked) SyncDir(name string) error {
	return h.do("syncdir", name, func() error { return h.FS.SyncDir(name) })
}

func (h hooked) do(op, name string, what func() error) error {
	if err := h.hook(op, name); err != nil {
		return err
	}
	return what()
}

type hookedFile struct {
	disk.File
	h    hooked
	name string
}

func (f hookedFile) Sync() error { return f.h.do("sync", f.name, f.File.Sync) }

func (f hookedFile) Write(p []byte) (n int, err error) {
	err = f.h.do("write", f.name, func() (err error) { n, err = f.File.Write(p); return err })
	return n, err
}

func (f hookedFile) Read(p []byte) (n int, err error) {
	err = f.h.do("read", f.name, func() (err error) { n, err = f.File.Read(p); return err })
	return n, err
}
