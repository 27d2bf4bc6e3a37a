package buffer

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt"
	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
)

// example is the journal, and the messages, of docs/formats/buffer.md.
func example() (journal, runs, outbox, settled [][]byte) {
	id := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	s := newSeries(0, Reading{Inverter: "inv1", Points: []string{"vac1", "pac"}, Boot: [16]byte{0xaa, 0xbb}})
	journal = [][]byte{header(journalFile), appendSeries(nil, s)}
	for _, sample := range []ecowatt.Sample{
		{At: 2000, Values: []ecowatt.Value{ecowatt.Known(2301), ecowatt.Known(1500)}},
		{At: 4000, Values: []ecowatt.Value{ecowatt.Known(2299), {}}},
	} {
		journal = append(journal, appendSample(nil, s, sample))
		s.advance(sample)
	}
	runs = append([][]byte{header(runsFile)}, written(Run{
		Inverter: "inv1", Points: []string{"pac"}, Boot: [16]byte{0xaa, 0xbb}, Window: 60_000, UTC: true,
		Samples: []ecowatt.Sample{{At: 1_700_000_040_000, Values: known(1500, 1498, 1502, 30)}},
	}))
	outbox = [][]byte{header(outboxFile), appendMessage(nil, Message{ID: id, Kind: 1, Body: []byte{0xa0}}, 2)}
	settled = [][]byte{header(settledFile), appendSettled(nil, [][16]byte{id})}
	return journal, runs, outbox, settled
}

func known(raw ...int64) (values []ecowatt.Value) {
	for _, v := range raw {
		values = append(values, ecowatt.Known(v))
	}
	return values
}

// written is the record of a run.
func written(r Run) (record []byte) {
	var b Buffer
	if err := b.writeRun(r, func(r []byte) error { record = r; return nil }); err != nil {
		panic(err)
	}
	return record
}

// TestDocumentedBytes compares the examples of the document with the code.
func TestDocumentedBytes(t *testing.T) {
	text, err := os.ReadFile("../../docs/formats/buffer.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for line := range strings.Lines(string(text)) {
		if digits, _, ok := strings.Cut(line, "  |"); ok && strings.HasPrefix(line, "    ") {
			documented = append(documented, strings.ReplaceAll(digits, " ", ""))
		}
	}
	var got []string
	for _, record := range slices.Concat(example()) {
		got = append(got, hex.EncodeToString(disk.AppendRecord(nil, record)))
	}
	if diff := cmp.Diff(documented, got); diff != "" {
		t.Errorf("records (-documented +written):\n%s", diff)
	}
}

// TestSamplesComeBack writes samples of any values and reads them.
func TestSamplesComeBack(t *testing.T) {
	value := rapid.Custom(func(t *rapid.T) ecowatt.Value {
		if rapid.Bool().Draw(t, "missing") {
			return ecowatt.Value{}
		}
		return ecowatt.Known(rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{0, 1, -1, math.MinInt64, math.MaxInt64})).Draw(t, "raw"))
	})
	rapid.Check(t, func(t *rapid.T) {
		var all []*series
		var j journalReader
		for i := range rapid.IntRange(1, 3).Draw(t, "series") {
			r := Reading{
				Inverter: rapid.StringN(1, 16, 64).Draw(t, "inverter"),
				Points:   rapid.SliceOfN(rapid.StringN(1, 16, 64), 1, 20).Draw(t, "points"),
				Boot:     [16]byte{byte(i)},
			}
			s := newSeries(i, r)
			all = append(all, s)
			if got, _, err := j.next(appendSeries(nil, s)); got != nil || err != nil {
				t.Fatalf("series %v, error %v", got, err)
			}
			if !j.series[i].fits(r) {
				t.Fatalf("wrote %+v, read %+v", r, j.series[i])
			}
		}
		for range rapid.IntRange(0, 10).Draw(t, "samples") {
			s := rapid.SampledFrom(all).Draw(t, "of")
			sample := ecowatt.Sample{
				At:     rapid.Int64().Draw(t, "at"),
				Values: rapid.SliceOfN(value, len(s.points), len(s.points)).Draw(t, "values"),
			}
			got, read, err := j.next(appendSample(nil, s, sample))
			s.advance(sample)
			if err != nil || got.index != s.index || !reflect.DeepEqual(read, sample) {
				t.Fatalf("wrote %v, read %v, error %v", sample, read, err)
			}
		}
	})
}

func TestMalformedRecords(t *testing.T) {
	journal, runs, outbox, settled := example()
	long := append([]byte{recordSeries}, make([]byte, 16)...)
	long = append(long, 65)
	long = append(long, bytes.Repeat([]byte{'a'}, 65)...)
	for name, record := range map[string][]byte{
		"an empty record":          {},
		"an unknown record":        {4},
		"a series without a name":  append(append([]byte{recordSeries}, make([]byte, 16)...), 0, 1, 1, 'a'),
		"a series without points":  append(append([]byte{recordSeries}, make([]byte, 16)...), 1, 'a', 0),
		"a name that is too long":  append(long, 1, 1, 'a'),
		"more points than allowed": append(append([]byte{recordSeries}, make([]byte, 16)...), 1, 'a', 0x81, 0x08),
		"a series with a rest":     append(slices.Clone(journal[1]), 0),
		"a sample of no series":    {recordSample, 1, 0, 0, 0},
		"a sample with a rest":     {recordSample, 0, 0, 0, 0, 0},
		"a sample without a value": {recordSample, 0, 0, 0},
		"a number in two bytes":    {recordSample, 0, 0x80, 0, 0, 0},
		"a number of 65 bits":      {recordSample, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0},
		"gaps that are none":       {recordGaps, 0, 0, 0, 0, 0},
		"gaps beyond the values":   {recordGaps, 0, 0, 0b110, 0},
		"gaps without bits":        {recordGaps, 0, 0},
	} {
		var j journalReader
		if _, _, err := j.next(journal[1]); err != nil {
			t.Fatal(err)
		}
		if _, _, err := j.next(record); err != errMalformed { //nolint:errorlint // nothing wraps it
			t.Errorf("%s: error %v", name, err)
		}
	}
	var j journalReader
	for range maxSeries {
		if _, _, err := j.next(journal[1]); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := j.next(journal[1]); err == nil {
		t.Error("one series more than allowed: no error")
	}
	for n := range runs[1] {
		if _, err := parseRun(runs[1][:n]); err == nil {
			t.Errorf("a run of %d bytes: no error", n)
		}
	}
	for n := range len(outbox[1]) - 1 { // without the body it is another message
		if _, _, err := parseMessage(outbox[1][:n]); err == nil {
			t.Errorf("a message of %d bytes: no error", n)
		}
	}
	for n := range len(settled[1]) {
		if err := parseSettled(settled[1][:n], func([16]byte) {}); err == nil && n != 1 {
			t.Errorf("a settled record of %d bytes: no error", n)
		}
	}
	for _, record := range [][]byte{nil, []byte("EW"), []byte("EWJ"), []byte("EWX\x01"), []byte("XWJ\x01"), []byte("EWJ\x01\x00"), []byte("EWS\x01")} {
		if _, err := parseHeader(record); err != errMalformed { //nolint:errorlint // nothing wraps it
			t.Errorf("header %q: error %v", record, err)
		}
	}
}

// TestRunsComeBack writes runs of any values, of any number of columns, and reads
// them.
func TestRunsComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Run{
			Inverter: rapid.StringMatching("[a-z]{1,64}").Draw(t, "inverter"),
			Boot:     [16]byte{rapid.Byte().Draw(t, "boot")},
			Window:   rapid.SampledFrom([]int64{0, ecowatt.MinWindow, 60_000, ecowatt.MaxWindow}).Draw(t, "window"),
			UTC:      rapid.Bool().Draw(t, "UTC"),
		}
		for i := range rapid.SampledFrom([]int{1, 2, 15, 16, 17, 63, 64, 65, 130}).Draw(t, "points") {
			r.Points = append(r.Points, fmt.Sprint("p", i))
		}
		at := rapid.Int64Range(-1<<50, 1<<50).Draw(t, "at")
		for range rapid.IntRange(1, 9).Draw(t, "samples") {
			s := ecowatt.Sample{At: at, Values: make([]ecowatt.Value, r.columns())}
			for i := range s.Values {
				switch {
				case r.Window != 0 && i%ecowatt.Aggregates == ecowatt.Count:
					s.Values[i] = ecowatt.Known(int64(i))
				case i < 9 && rapid.Bool().Draw(t, "known"):
					s.Values[i] = ecowatt.Known(rapid.Int64().Draw(t, "value"))
				}
			}
			r.Samples = append(r.Samples, s)
			at += rapid.Int64Range(0, MaxSpan/10).Draw(t, "step")
		}
		p, err := parseRun(written(r))
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.unpack()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, got); diff != "" || p.rows != len(r.Samples) {
			t.Fatalf("(-written +read):\n%s", diff)
		}
	})
}

// TestMalformedRuns: what no buffer writes is not read.
func TestMalformedRuns(t *testing.T) {
	_, runs, _, _ := example()
	good := runs[1]
	const clock, window, rows = 1 + 16, 1 + 16 + 1, 1 + 16 + 1 + 3 + 5 + 1 + 4
	for name, spoil := range map[string]func([]byte) []byte{
		"another record":       func(r []byte) []byte { r[0] = 2; return r },
		"another clock":        func(r []byte) []byte { r[clock] = 2; return r },
		"a window of a moment": func(r []byte) []byte { return slices.Replace(r, window, window+3, 1) },
		"a window of a week":   func(r []byte) []byte { return slices.Replace(r, window, window+3, 0x80, 0xf0, 0xb1, 0xa0, 2) },
		"no samples":           func(r []byte) []byte { r[rows] = 0; return r },
		"too many samples":     func(r []byte) []byte { return slices.Replace(r, rows, rows+1, 0x81, 0x20) },
		"a rest":               func(r []byte) []byte { return append(r, 0) },
		"more samples":         func(r []byte) []byte { r[rows] = 2; return r },
		"columns of samples":   func(r []byte) []byte { return slices.Replace(r, window, window+3, 0) },
		"another block":        func(r []byte) []byte { r[len(r)-1] ^= 1; return r },
		"a count below 0": func([]byte) []byte {
			return written(Run{Inverter: "a", Points: []string{"b"}, Window: 1000, Samples: []ecowatt.Sample{{Values: known(1, 1, 1, -1)}}})
		},
		"no count": func([]byte) []byte {
			return written(Run{Inverter: "a", Points: []string{"b"}, Window: 1000, Samples: []ecowatt.Sample{{Values: make([]ecowatt.Value, 4)}}})
		},
	} {
		p, err := parseRun(spoil(slices.Clone(good)))
		if err == nil {
			_, err = p.unpack()
		}
		if err != errMalformed { //nolint:errorlint // nothing wraps it
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// FuzzRunRecord reads a record of any bytes. What can be read of a coded block can
// be coded in one way only, but it may also be stored: so runs are compared.
func FuzzRunRecord(f *testing.F) {
	_, runs, _, _ := example()
	f.Add(runs[1])
	f.Fuzz(func(t *testing.T, record []byte) {
		p, err := parseRun(record)
		if err != nil {
			return
		}
		r, err := p.unpack()
		if err != nil {
			return
		}
		again, err := parseRun(written(r))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := again.unpack(); err != nil || !cmp.Equal(r, got) {
			t.Fatalf("%x comes back otherwise: %v", record, err)
		}
	})
}

// FuzzJournalRecords reads records of any bytes: what is taken is what would
// have been written.
func FuzzJournalRecords(f *testing.F) {
	journal, _, _, _ := example()
	f.Add(journal[1], journal[2], journal[3])
	f.Add(journal[1], journal[3], journal[1])
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		var j journalReader
		for _, record := range [][]byte{a, b, c} {
			before := make([]series, len(j.series))
			for i, s := range j.series {
				before[i] = *s
				before[i].raw = slices.Clone(s.raw)
			}
			s, sample, err := j.next(record)
			if err != nil {
				return
			}
			var again []byte
			if s == nil {
				again = appendSeries(nil, j.series[len(j.series)-1])
			} else {
				again = appendSample(nil, &before[s.index], sample)
			}
			if !bytes.Equal(again, record) {
				t.Fatalf("%x is written as %x", record, again)
			}
		}
	})
}

// FuzzMessageRecord reads a record of any bytes.
func FuzzMessageRecord(f *testing.F) {
	_, _, outbox, _ := example()
	f.Add(outbox[1])
	f.Fuzz(func(t *testing.T, record []byte) {
		e, body, err := parseMessage(record)
		if err != nil {
			return
		}
		again := appendMessage(nil, Message{ID: e.id, Kind: e.kind, Body: body}, int(e.samples))
		if !bytes.Equal(again, record) || int(e.size) != len(body) {
			t.Fatalf("%x is written as %x", record, again)
		}
	})
}

// FuzzOpen opens a folder with files of any bytes, or of any records: that never
// fails, and the buffer works.
func FuzzOpen(f *testing.F) {
	_, journal, _ := journalOf(f, 5)
	_, outbox, _ := outboxOf(f, "one", "", "three")
	f.Add(journal, outbox, []byte{}, false)
	_, runs, _ := runsOf(f, 3)
	f.Add(runs, outbox, []byte{}, false)
	f.Add([]byte("\x04EWJ\x01\x03abc"), []byte("\x04EWO\x01\x14abcdefghijklmnopqrst"), []byte("\x04EWS\x01"), true)
	f.Fuzz(func(t *testing.T, a, b, settled []byte, framed bool) {
		d := disktest.New()
		for name, data := range map[string][]byte{"0000000001.buf": a, "0000000002.buf": b, "0000000002.settled": settled} {
			if framed {
				data = frame(data)
			}
			write(t, d, folder+"/"+name, data)
		}
		w := newWitness()
		var log lines
		if err := w.open(Options{FS: d, Logger: log.logger()}); err != nil {
			t.Fatal(err)
		}
		samples := w.Stats().Samples
		packed := 0
		if err := w.packEach(func(r Run) (Message, error) {
			packed += len(r.Samples)
			return Message{ID: w.id(), Kind: 1}, nil
		}); err != nil {
			t.Fatal(err)
		}
		if packed > samples || packed < samples && !strings.Contains(log.String(), codeDamaged) {
			t.Fatalf("%d samples are packed of %d", packed, samples)
		}
		if got, want := len(w.Next(size, plenty, plenty)), w.Stats().Messages; got != want {
			t.Fatalf("%d messages of %d are handed out", got, want)
		}
		goesOn(t, w, d)
	})
}

// frame makes records of data, in which each has one byte of length before it.
func frame(data []byte) (framed []byte) {
	for len(data) > 0 {
		n := min(int(data[0]), len(data)-1)
		framed = disk.AppendRecord(framed, data[1:1+n])
		data = data[1+n:]
	}
	return framed
}
