package buffer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/internal/disk/disktest"
)

// fill adds and packs until the buffer has been over its limit so many times.
func (w *witness) fill(t *testing.T, journals int) {
	t.Helper()
	for range journals {
		for range 200 {
			must(t, w.add(0))
		}
		must(t, w.pack())
		if got := w.Stats().Bytes; got > w.limit {
			t.Fatalf("%d bytes, more than %d", got, w.limit)
		}
	}
}

func TestTheOldestMakeRoomForTheNewest(t *testing.T) {
	var log lines
	w, d := start(t, Options{Limit: MinLimit, FlushInterval: time.Hour, MaxRun: 50})
	w.logger = log.logger()
	must(t, w.putSome(6, "inventory"))
	must(t, w.putSome(2, strings.Repeat("old log", 2000)))
	w.fill(t, 3)
	must(t, w.putSome(2, "new log"))
	if got := log.take(t); got != nil {
		t.Errorf("before it is full: %v", got)
	}
	w.fill(t, 20)
	must(t, w.add(0))

	var dropped, lost int64
	for _, l := range log.take(t) {
		if l.Code != codeFull || l.Level != "ERROR" {
			t.Errorf("log line %+v", l)
		}
		dropped += l.Samples
		lost += l.Messages
	}
	if got := w.Stats().Dropped; got == 0 || int64(got) != dropped || lost != 1 {
		t.Errorf("%d samples were dropped; the log says %d, and %d messages", got, dropped, lost)
	}
	must(t, w.pack())
	kept, serials := map[string]bool{}, 0
	first := int64(0)
	for _, m := range w.Next(size, plenty, plenty) {
		if m.Kind != 1 {
			kept[string(m.Body)] = true
			continue
		}
		if first == 0 {
			first = w.packed[m.ID][0]
		}
		serials += len(w.packed[m.ID])
	}
	if diff := cmp.Diff(map[string]bool{"inventory": true, "new log": true}, kept); diff != "" {
		t.Errorf("messages that stay (-want +got):\n%s", diff)
	}
	if first != dropped+1 || int64(serials) != w.serial-dropped {
		t.Errorf("%d samples from %d on are kept of %d, of which %d were dropped", serials, first, w.serial, dropped)
	}

	must(t, w.open(Options{FS: d, Limit: MinLimit}))
	if got := w.Stats(); got.Dropped != 0 || got.Bytes > MinLimit {
		t.Errorf("after a restart: %+v", got)
	}
}

func TestSamplesThatNobodyPacksMakeRoom(t *testing.T) {
	w, _ := start(t, Options{Limit: MinLimit, FlushInterval: time.Hour})
	const all = 40_000
	for range all {
		must(t, w.add(0))
	}
	got := w.Stats()
	if got.Bytes > MinLimit || got.Dropped == 0 || got.Thinned != 0 || uint64(got.Samples)+got.Dropped != all {
		t.Errorf("%+v", got)
	}
	serials := w.journalled(t)
	if serials[0] != int64(got.Dropped)+1 || serials[len(serials)-1] != all {
		t.Errorf("samples %d to %d are kept, of which %d were dropped", serials[0], serials[len(serials)-1], got.Dropped)
	}
}

func TestASmallerLimitHoldsFromTheStart(t *testing.T) {
	w, d := start(t, Options{FlushInterval: time.Hour})
	for range 10 {
		for range 300 {
			must(t, w.add(0))
		}
		must(t, w.pack())
	}
	must(t, w.open(Options{FS: d, Limit: MinLimit}))
	if got := w.Stats(); got.Bytes > MinLimit || got.Dropped == 0 || got.Messages == 0 {
		t.Errorf("%+v", got)
	}
}

func TestADiskThatGivesNoRoomBack(t *testing.T) {
	var log lines
	d := disktest.New()
	w, _ := start(t, Options{Limit: MinLimit, FlushInterval: time.Hour, Logger: log.logger(), FS: hooked{d, func(op, _ string) error {
		if op == "remove" {
			return errors.New("broken")
		}
		return nil
	}}})
	for range 8 {
		must(t, w.putSome(2, strings.Repeat("x", 12<<10)))
	}
	if got := w.Stats().Messages; got == 0 {
		t.Error("everything was given up, and no room was made")
	}
	if got := log.take(t); len(got) == 0 {
		t.Error("nothing is logged")
	}
}
