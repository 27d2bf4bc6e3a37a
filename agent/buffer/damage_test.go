package buffer

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
)

// journalOf returns a disk with one journal of so many samples, its content, and
// where each sample ends in it.
func journalOf(tb testing.TB, samples int) (d *disktest.Disk, data []byte, ends []int64) {
	tb.Helper()
	d = disktest.New()
	w := newWitness()
	if err := w.open(Options{FS: d}); err != nil {
		tb.Fatal(err)
	}
	for range samples {
		if err := w.add(4); err != nil {
			tb.Fatal(err)
		}
		ends = append(ends, w.journal.log.Size())
	}
	return d, content(tb, d, w.journal.file.name()), ends
}

// outboxOf is journalOf for messages of the outbox.
func outboxOf(tb testing.TB, bodies ...string) (d *disktest.Disk, data []byte, ends []int64) {
	tb.Helper()
	d = disktest.New()
	w := newWitness()
	if err := w.open(Options{FS: d}); err != nil {
		tb.Fatal(err)
	}
	if err := w.putSome(2, bodies...); err != nil {
		tb.Fatal(err)
	}
	ends = append(ends, 8+headerSize)
	for _, body := range bodies {
		ends = append(ends, ends[len(ends)-1]+8+1+idSize+1+1+int64(len(body)))
	}
	data = content(tb, d, "buffer/0000000001.buf")
	if int64(len(data)) != ends[len(bodies)] {
		tb.Fatalf("%d bytes instead of %d", len(data), ends[len(bodies)])
	}
	return d, data, ends[1:]
}

// runsOf is journalOf for a file of runs, each of one sample.
func runsOf(tb testing.TB, samples int) (d *disktest.Disk, data []byte, ends []int64) {
	tb.Helper()
	d, _, _ = journalOf(tb, samples)
	w := newWitness()
	if err := w.open(Options{FS: d, MaxRun: 1}); err != nil {
		tb.Fatal(err)
	}
	if err := w.closeJournal(0); err != nil {
		tb.Fatal(err)
	}
	w.unit = 1 << 30 // it is no smaller, but let it be
	w.files[0].size += 1 << 30
	w.shrink(w.files[0])
	data = content(tb, d, "buffer/0000000001.buf")
	if _, err := disk.ReadRecords(bytes.NewReader(data), func(record []byte) error {
		end := int64(len(record)) + 8
		if len(ends) > 0 {
			end += ends[len(ends)-1]
		}
		ends = append(ends, end)
		return nil
	}); err != nil || len(ends) != samples+1 {
		tb.Fatalf("%d records: %v", len(ends), err)
	}
	return d, data, ends[1:]
}

// whole returns how many ends are not beyond at.
func whole(ends []int64, at int) (n int) {
	for _, end := range ends {
		if end <= int64(at) {
			n++
		}
	}
	return n
}

// TestDamagedFile flips every byte of a file, and cuts it everywhere: what is
// before is read, the rest is told, and the buffer works.
func TestDamagedFile(t *testing.T) {
	_, journal, samples := journalOf(t, 5)
	_, runs, inRuns := runsOf(t, 3)
	_, outbox, messages := outboxOf(t, "one", "", "three")
	for _, file := range []struct {
		name string
		data []byte
		ends []int64
		held func(Stats) int
	}{
		{"journal", journal, samples, func(s Stats) int { return s.Samples }},
		{"runs", runs, inRuns, func(s Stats) int { return s.Samples }},
		{"outbox", outbox, messages, func(s Stats) int { return s.Messages }},
	} {
		for at := range file.data {
			flipped := bytes.Clone(file.data)
			flipped[at] ^= 0x10
			for what, data := range map[string][]byte{"flipped": flipped, "cut": file.data[:at]} {
				t.Run(fmt.Sprintf("%s %s at %d", file.name, what, at), func(t *testing.T) {
					var log lines
					d := disktest.New()
					write(t, d, "buffer/0000000001.buf", data)
					w, _ := start(t, Options{FS: d, Logger: log.logger()})
					if got, want := file.held(w.Stats()), whole(file.ends, at); got != want {
						t.Errorf("%d are left, want %d", got, want)
					}
					lines := log.take(t)
					if len(lines) > 1 || len(lines) == 0 && what == "flipped" {
						t.Fatalf("log %+v", lines)
					}
					for _, l := range lines {
						if l.Code != codeDamaged || l.File != "buffer/0000000001.buf" || l.Bytes < 1 || l.Bytes > int64(len(data)) {
							t.Errorf("log line %+v", l)
						}
					}
					goesOn(t, w, d)
				})
			}
		}
	}
}

// goesOn says whether a buffer still takes a sample and hands it out.
func goesOn(t *testing.T, w *witness, d *disktest.Disk) {
	t.Helper()
	w.serial = 1000
	must(t, w.add(4))
	must(t, w.open(Options{FS: d.Restart(disktest.Lost)}))
	must(t, w.pack())
	for _, m := range w.Next(size, plenty, plenty) {
		if slices.Contains(w.packed[m.ID], 1001) {
			return
		}
	}
	t.Error("a sample that was added afterwards is not handed out")
}

func TestWhatCannotBeReadIsKeptUntilItsRoomIsNeeded(t *testing.T) {
	for name, at := range map[string]int{"the magic": 8, "the first message": 8 + headerSize + 8} {
		t.Run(name, func(t *testing.T) {
			_, data, _ := outboxOf(t, "one", "two")
			data[at] ^= 1
			d := disktest.New()
			write(t, d, "buffer/0000000001.buf", data)
			w, _ := start(t, Options{FS: d, Limit: MinLimit, FlushInterval: time.Hour})
			if got := content(t, d, "buffer/0000000001.buf"); !bytes.Equal(got, data) {
				t.Errorf("%x became %x", data, got)
			}
			if got := w.Stats(); got.Bytes != unit || got.Messages != 0 {
				t.Errorf("%+v", got)
			}
			w.fill(t, 20)
			if _, err := d.Stat("buffer/0000000001.buf"); err == nil {
				t.Error("it is still there when there is no room")
			}
		})
	}
}

func TestAnotherVersionStays(t *testing.T) {
	for _, kind := range []fileKind{journalFile, runsFile, outboxFile} {
		var log lines
		d := disktest.New()
		data := disk.AppendRecord(nil, []byte{'E', 'W', byte(kind), version + 1, 'n', 'e', 'w'})
		data = disk.AppendRecord(data, []byte("of which nothing is known"))
		write(t, d, "buffer/0000000005.buf", data)
		w, _ := start(t, Options{FS: d, Logger: log.logger()})
		if diff := cmp.Diff([]line{{Level: "ERROR", Code: codeVersion, File: "buffer/0000000005.buf"}}, log.take(t)); diff != "" {
			t.Errorf("log (-want +got):\n%s", diff)
		}
		must(t, w.add(0))
		must(t, w.pack())
		must(t, w.settle(w.nextIDs(plenty)...))
		must(t, w.Close())
		if got := content(t, d, "buffer/0000000005.buf"); !bytes.Equal(got, data) {
			t.Errorf("%x became %x", data, got)
		}
	}
}

// A record whose checksum is right and whose content is not ends the reading as
// well, and nothing is written behind it.
func TestARecordThatMakesNoSense(t *testing.T) {
	_, data, _ := journalOf(t, 3)
	data = disk.AppendRecord(data, []byte{recordSample, 200})
	var log lines
	d := disktest.New()
	write(t, d, "buffer/0000000001.buf", data)
	w, _ := start(t, Options{FS: d, Logger: log.logger()})
	if diff := cmp.Diff([]line{{Level: "ERROR", Code: codeDamaged, File: "buffer/0000000001.buf", Bytes: 8 + 2}}, log.take(t)); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if got := w.Stats().Samples; got != 3 {
		t.Errorf("%d samples", got)
	}
	goesOn(t, w, d)
}

func TestDamageOfWhatIsSettled(t *testing.T) {
	w, d := start(t, Options{})
	must(t, w.putSome(2, "a", "b", "c", "d"))
	ids := w.nextIDs(plenty)
	must(t, w.settle(ids[0]))
	must(t, w.settle(ids[1]))
	name := "buffer/0000000001.settled"
	data := content(t, d, name)
	first := (len(data)-8-headerSize)/2 + 8 + headerSize // where the second record begins
	for at := range data {
		for what, damaged := range map[string][]byte{
			"cut": data[:at], "flipped": append(append(bytes.Clone(data[:at]), ^data[at]), data[at+1:]...),
		} {
			write(t, d, name, damaged)
			w := newWitness()
			must(t, w.open(Options{FS: d}))
			want := ids
			if at >= first {
				want = ids[1:]
			}
			if got := w.nextIDs(plenty); !cmp.Equal(got, want) {
				t.Errorf("%s at %d: %x wait", what, at, got)
			}
			must(t, w.settle(ids[2])) // is read again behind what was cut off
			must(t, w.open(Options{FS: d}))
			if got := w.nextIDs(plenty); len(got) != len(want)-1 {
				t.Errorf("%s at %d: %x wait in the end", what, at, got)
			}
		}
	}
}

// TestDamageWhileItRuns spoils files under an open buffer.
func TestDamageWhileItRuns(t *testing.T) {
	spoil := func(from int) func(t *testing.T, d *disktest.Disk) {
		return func(t *testing.T, d *disktest.Disk) {
			t.Helper()
			data := content(t, d, "buffer/0000000001.buf")
			write(t, d, "buffer/0000000001.buf", append(data[:len(data)-from], make([]byte, from)...))
		}
	}
	gone := func(t *testing.T, d *disktest.Disk) {
		t.Helper()
		must(t, d.Remove("buffer/0000000001.buf"))
	}
	otherwise := func(t *testing.T, d *disktest.Disk) {
		t.Helper()
		data := disk.AppendRecord(nil, header(outboxFile))
		m := Message{ID: [16]byte{1}, Kind: 2, Body: []byte("a message of some length")}
		write(t, d, "buffer/0000000001.buf", disk.AppendRecord(data, appendMessage(nil, m, 0)))
	}
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, d *disktest.Disk)
		want   int
	}{
		{"the last byte", spoil(1), 2},
		{"half of it", spoil(60), 1},
		{"the file", gone, 0},
		{"every message", otherwise, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			var log lines
			w, d := start(t, Options{Logger: log.logger()})
			must(t, w.putSome(2, "a message of some length", "another message of some length", "c"))
			must(t, w.putSome(2, "one more"))
			test.damage(t, d)
			for range 2 {
				if got := len(w.nextIDs(plenty)); got != test.want+1 {
					t.Errorf("%d messages", got)
				}
			}
			if got := w.Stats().Messages; got != test.want+1 {
				t.Errorf("%d messages wait", got)
			}
			if got := log.take(t); len(got) != 1 || got[0].Code != codeDamaged || got[0].Bytes < 1 {
				t.Errorf("log %+v", got)
			}
			must(t, w.settle(w.nextIDs(plenty)...))
			if got := w.Stats().Messages; got != 0 {
				t.Errorf("%d messages wait in the end", got)
			}
		})
		t.Run(test.name+" of a journal", func(t *testing.T) {
			var log lines
			w, d := start(t, Options{Logger: log.logger()})
			must(t, w.addAll(4, 4, 4, 4, 4, 4, 4, 4))
			test.damage(t, d)
			must(t, w.pack())
			if got := log.take(t); len(got) != 1 || got[0].Code != codeDamaged || got[0].Bytes < 1 {
				t.Errorf("log %+v", got)
			}
			if got := w.Stats(); got.Samples != 0 || got.Messages != min(test.want, 1) || got.Bytes != int64(got.Messages)*unit {
				t.Errorf("%+v", got)
			}
			goesOn(t, w, d)
		})
	}
}

func TestADiskThatDoesNotRead(t *testing.T) {
	var log lines
	var broken bool
	d := disktest.New()
	w, _ := start(t, Options{Logger: log.logger(), FS: hooked{d, func(op, name string) error {
		if broken && op == "read" && name == "buffer/0000000001.buf" {
			return errors.New("broken")
		}
		return nil
	}}})
	must(t, w.putSome(2, "a"))
	must(t, w.add(0))
	must(t, w.pack())
	broken = true
	if got := w.nextIDs(plenty); len(got) != 1 {
		t.Errorf("%d messages", len(got))
	}
	if diff := cmp.Diff([]line{{Level: "ERROR", Code: codeRead, File: "buffer/0000000001.buf"}}, log.take(t)); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if _, err := Open(Options{FS: w.fs}); err == nil {
		t.Error("opening: no error")
	}
	broken = false
	if got := w.nextIDs(plenty); len(got) != 2 {
		t.Errorf("%d messages when it reads again", len(got))
	}
}
