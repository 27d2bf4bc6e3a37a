package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
)

const (
	hashA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hashB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// full is a record with everything in it.
func full() Record {
	return Record{
		Format: 1, Active: B, State: Trial, Starts: 2,
		A:           &Image{SHA256: hashA, Size: 10, Release: 11, Security: 2, Version: "1.1.0"},
		B:           &Image{SHA256: hashB, Size: 12, Release: 12, Security: 3, Version: "1.2.0", Manifest: hashA},
		MinSecurity: 2,
		Failures:    []Failure{{SHA256: hashB, Release: 12, Times: 1, Ending: Ending{Reason: Exited, Words: "panic: oh\nno"}}},
	}
}

func TestRecordRoundTrip(t *testing.T) {
	folder := disk.OS(t.TempDir())
	if r, err := ReadRecord(folder); err != nil || !cmp.Equal(r, Initial()) {
		t.Errorf("without a record: %+v, %v; want Initial", r, err)
	}
	if err := full().Write(folder); err != nil {
		t.Fatal(err)
	}
	r, err := ReadRecord(folder)
	if diff := cmp.Diff(full(), r); err != nil || diff != "" {
		t.Errorf("%v (-written +read):\n%s", err, diff)
	}
	if err := disk.WriteFile(folder, RecordFile, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRecord(folder); !errors.Is(err, ErrRecord) {
		t.Errorf("half a record: %v", err)
	}
	if err := disk.WriteFile(folder, RecordFile, make([]byte, MaxRecordSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRecord(folder); !errors.Is(err, disk.ErrTooLarge) {
		t.Errorf("a record that is too large: %v", err)
	}
}

// However many images failed, and whatever they said last, the record can be read.
func TestLongestRecord(t *testing.T) {
	r := Initial()
	r.A = &Image{SHA256: strings.Repeat("0", 64), Size: 1, Version: strings.Repeat("\x01", 64), Manifest: strings.Repeat("0", 64)}
	for i := range 2 * maxFailures {
		r = r.Try(Image{SHA256: fmt.Sprintf("%064x", i), Size: 1 << 40, Release: 1 << 63, Version: strings.Repeat("<", 64), Manifest: strings.Repeat("0", 64)})
		r = r.Back(func(Slot) Condition { return Good }, Ending{Reason: NotConfirmed, Words: strings.Repeat("\x01", 2*MaxWords)})
		folder := disktest.New()
		if err := r.Write(folder); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadRecord(folder); err != nil {
			t.Fatalf("after %d failures: %v", i+1, err)
		}
	}
	if len(r.Failures) != maxFailures {
		t.Errorf("%d failures are kept", len(r.Failures))
	}
}

func TestParseRecord(t *testing.T) {
	for name, text := range map[string]string{
		"empty":           ``,
		"not JSON":        `active=a`,
		"format":          `{"format":2,"active":"a","state":"confirmed"}`,
		"no format":       `{"active":"a","state":"confirmed"}`,
		"slot":            `{"format":1,"active":"../x","state":"confirmed"}`,
		"state":           `{"format":1,"active":"a","state":"good"}`,
		"unknown field":   `{"format":1,"active":"a","state":"confirmed","x":1}`,
		"trailing":        `{"format":1,"active":"a","state":"confirmed"}{}`,
		"truncated":       `{"format":1,"active":"a"`,
		"too long":        `{"format":1,"active":"a","state":"confirmed"}` + strings.Repeat(" ", MaxRecordSize),
		"trial of what":   `{"format":1,"active":"a","state":"trial","starts":1}`,
		"starts left":     `{"format":1,"active":"a","state":"confirmed","starts":1}`,
		"too many starts": `{"format":1,"active":"a","state":"trial","starts":4,"a":{"sha256":"` + hashA + `","size":1}}`,
		"no hash":         `{"format":1,"active":"a","state":"confirmed","b":{"sha256":"","size":1}}`,
		"no size":         `{"format":1,"active":"a","state":"confirmed","b":{"sha256":"` + hashA + `","size":0}}`,
		"many failures":   `{"format":1,"active":"a","state":"confirmed","failures":[` + strings.Repeat(`{},`, maxFailures) + `{}]}`,
	} {
		if r, err := ParseRecord([]byte(text)); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: got %+v, %v; want ErrRecord", name, r, err)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"format":1,"active":"a","state":"confirmed"}`))
	f.Add([]byte(`{"format":1,"active":"b","state":"confirmed"} x`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRecord(data)
		if err != nil {
			return
		}
		folder := disk.OS(t.TempDir())
		if err := r.Write(folder); err != nil {
			t.Fatal(err)
		}
		if again, err := ReadRecord(folder); err != nil || !cmp.Equal(r, again) {
			t.Errorf("%+v, written and read: %+v, %v", r, again, err)
		}
	})
}

// slots is what a look at both slots says.
type slots map[Slot]Condition

func (s slots) look(x Slot) Condition { return s[x] }

// The table of the comment of Start.
func TestStart(t *testing.T) {
	good := slots{A: Good, B: Good}
	for _, c := range []struct {
		name   string
		state  State
		starts int
		slots  slots
		last   Reason
		active Slot // afterwards; it was b
		after  State
		left   int
		reason Reason // of the failure that is remembered
	}{
		{"confirmed", Confirmed, 0, good, Exited, B, Confirmed, 0, ""},
		{"rolled back", RolledBack, 0, good, Killed, B, RolledBack, 0, ""},
		{"confirmed, damaged", Confirmed, 0, slots{A: Good, B: Bad}, "", A, RolledBack, 0, Damaged},
		{"rolled back, outdated", RolledBack, 0, slots{A: Good, B: Outdated}, "", A, RolledBack, 0, Insecure},
		{"trial", Trial, 3, good, "", B, Trial, 2, ""},
		{"last start", Trial, 1, good, Exited, B, Trial, 0, ""},
		{"used up", Trial, 0, good, Killed, A, RolledBack, 0, Killed},
		{"used up by power cuts", Trial, 0, good, "", A, RolledBack, 0, NotConfirmed},
		{"trial, damaged", Trial, 3, slots{A: Good, B: Bad}, "", A, RolledBack, 0, Damaged},
		{"trial, outdated", Trial, 3, slots{A: Good, B: Outdated}, Exited, A, RolledBack, 0, Insecure},
		{"used up, nowhere to go", Trial, 0, slots{A: Bad, B: Good}, Exited, B, Trial, 0, ""},
		{"used up, the other one outdated", Trial, 0, slots{A: Outdated, B: Good}, Exited, B, Trial, 0, ""},
	} {
		r := full()
		r.State, r.Starts, r.Failures = c.state, c.starts, nil
		got, err := r.Start(c.slots.look, Ending{Reason: c.last})
		if err != nil || got.Active != c.active || got.State != c.after || got.Starts != c.left {
			t.Errorf("%s: slot %s, %s, %d left, %v; want %s, %s, %d", c.name, got.Active, got.State, got.Starts, err, c.active, c.after, c.left)
		}
		var reason Reason
		if len(got.Failures) > 0 {
			reason = got.Failures[0].Reason
		}
		if reason != c.reason {
			t.Errorf("%s: the failure is %q, want %q", c.name, reason, c.reason)
		}
	}
	for _, s := range []slots{{A: Bad, B: Bad}, {A: Outdated, B: Bad}, {A: Bad, B: Outdated}} {
		for _, state := range []State{Confirmed, Trial, RolledBack} {
			r := full()
			r.State, r.Starts = state, 0
			if _, err := r.Start(s.look, Ending{}); !errors.Is(err, ErrNothing) {
				t.Errorf("%s with %v: %v, want ErrNothing", state, s, err)
			}
		}
	}
}

// A trial that nobody confirms ends after TrialStarts starts, and the image is
// known as failed then.
func TestTrialEnds(t *testing.T) {
	good := slots{A: Good, B: Good}
	image := Image{SHA256: hashB, Size: 1, Release: 5, Security: 9}
	r := Initial()
	r.A = &Image{SHA256: hashA, Size: 1, Security: 1}
	for try := 1; try <= 2; try++ {
		r = r.Try(image)
		if r.Active != B || r.State != Trial || *r.B != image {
			t.Fatalf("on trial: %+v", r)
		}
		for i := range TrialStarts {
			var err error
			if r, err = r.Start(good.look, Ending{}); err != nil || r.Active != B {
				t.Fatalf("start %d: %+v, %v", i+1, r, err)
			}
		}
		r, _ = r.Start(good.look, Ending{Reason: Killed, Words: strings.Repeat("x", MaxWords) + "last"})
		if r.Active != A || r.State != RolledBack || r.Failed(hashB) != try || r.Failed(hashA) != 0 {
			t.Fatalf("after the starts were used up %d times: %+v", try, r)
		}
		if words := r.Failures[0].Words; len(words) != MaxWords || !strings.HasSuffix(words, "last") {
			t.Errorf("%d bytes of last words", len(words))
		}
	}
	if len(r.Failures) != 1 || r.MinSecurity != 0 {
		t.Errorf("one image failed twice: %+v", r)
	}
	if r = r.Try(image).Confirm().Try(image); r.Active != A || *r.A != image {
		t.Errorf("confirmed in b, the next one is tried in %s: %+v", r.Active, r.A)
	}
	for i := range 2 * maxFailures {
		image.SHA256 = fmt.Sprintf("%064x", i)
		r = r.Try(image).Back(good.look, Ending{Reason: Hung})
	}
	if len(r.Failures) != maxFailures || r.Failed(fmt.Sprintf("%064x", 2*maxFailures-1)) != 1 {
		t.Errorf("%d failures are remembered", len(r.Failures))
	}
}

// Attacks: F19
func TestConfirm(t *testing.T) {
	r := full()
	if r.MinSecurity != 2 {
		t.Fatal("an image on trial raised the least security version")
	}
	r = r.Confirm()
	if r.State != Confirmed || r.Starts != 0 || r.Active != B || r.MinSecurity != 3 {
		t.Errorf("confirmed: %+v", r)
	}
	if r = Initial().Confirm(); !cmp.Equal(r, Initial()) {
		t.Errorf("what came from the workshop, confirmed: %+v", r)
	}
	r = full()
	r.B.Security = 1
	if r = r.Confirm(); r.MinSecurity != 2 {
		t.Errorf("the least security version went down to %d", r.MinSecurity)
	}
}

func TestProgram(t *testing.T) {
	if A.Program() != "slots/a/ecowatt-agent" || B.Program() != "slots/b/ecowatt-agent" || A.Other() != B || B.Other() != A {
		t.Error("the slots are somewhere else")
	}
}

func TestBack(t *testing.T) {
	good := slots{A: Good, B: Good}
	if r := full().Back(good.look, Ending{Reason: Unhealthy}); r.Active != A || r.State != RolledBack || r.Failed(hashB) != 2 {
		t.Errorf("given up: %+v", r)
	}
	confirmed := full().Confirm()
	for name, r := range map[string]Record{
		"no trial":       confirmed.Back(good.look, Ending{}),
		"nowhere to go":  full().Back(slots{A: Bad, B: Good}.look, Ending{}),
		"outdated there": full().Back(slots{A: Outdated, B: Good}.look, Ending{}),
	} {
		if r.Active != B {
			t.Errorf("%s: went to %s", name, r.Active)
		}
	}
}

func TestEnded(t *testing.T) {
	folder := disk.OS(t.TempDir())
	if _, ok, err := TakeEnded(folder); ok || err != nil {
		t.Errorf("nothing was left: %v, %v", ok, err)
	}
	want := Ended{Ending: Ending{Reason: Killed, Words: "oh"}, Slot: B, Detail: "signal: killed", Seconds: 7}
	if err := want.Write(folder); err != nil {
		t.Fatal(err)
	}
	got, ok, err := TakeEnded(folder)
	if diff := cmp.Diff(want, got); !ok || err != nil || diff != "" {
		t.Errorf("%v, %v (-written +read):\n%s", ok, err, diff)
	}
	if _, ok, _ := TakeEnded(folder); ok {
		t.Error("it is told twice")
	}
	if err := disk.WriteFile(folder, EndedFile, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := TakeEnded(folder); ok || err != nil {
		t.Errorf("half of it: %v, %v", ok, err)
	}
	if err := disk.WriteFile(folder, EndedFile, make([]byte, MaxRecordSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := TakeEnded(folder); ok || err == nil {
		t.Errorf("far too much of it: %v, %v", ok, err)
	}
}

// A power cut at any operation leaves one of two records, and never none.
func TestRecordPowerCut(t *testing.T) {
	before, after := full(), full().Confirm()
	disktest.Sweep(t, func(fsys disk.FS) error {
		if err := before.Write(fsys); err != nil {
			return err
		}
		return after.Write(fsys)
	}, func(t *testing.T, fsys disk.FS, cut disktest.Cut) {
		t.Helper()
		r, err := ReadRecord(fsys)
		if err != nil || !cmp.Equal(r, Initial()) && !cmp.Equal(r, before) && !cmp.Equal(r, after) {
			t.Errorf("%+v, %v", r, err)
		}
		if cut.Err == nil && !cmp.Equal(r, after) {
			t.Errorf("written, and yet %+v", r)
		}
	})
}

func TestWriteFails(t *testing.T) {
	nowhere := disk.OS(filepath.Join(t.TempDir(), "missing"))
	if err := full().Write(nowhere); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Write: %v", err)
	}
}

func TestPause(t *testing.T) {
	for i, want := range []float64{1, 2, 4, 8, 16, 32, 60, 60, 60} {
		if got := Pause(i + 1).Seconds(); got != want {
			t.Errorf("Pause(%d) = %v s, want %v s", i+1, got, want)
		}
	}
	if got := Pause(1 << 30); got != LongPause {
		t.Errorf("Pause(2^30) = %v, want %v", got, LongPause)
	}
}

func TestQuick(t *testing.T) {
	quick := 0
	for _, c := range []struct {
		ran  time.Duration
		want int
	}{{0, 1}, {time.Second, 2}, {SteadyRun - 1, 3}, {SteadyRun, 1}, {time.Second, 2}} {
		if quick = Quick(quick, c.ran); quick != c.want {
			t.Errorf("after %v: %d, want %d", c.ran, quick, c.want)
		}
	}
}
