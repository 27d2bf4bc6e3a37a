package modbus

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestBackoffPause(t *testing.T) {
	b := backoff{after: 3, first: time.Second, most: 30 * time.Second}
	var got []time.Duration
	for failures := range 10 {
		got = append(got, b.pause(failures, 0)/time.Second)
	}
	if diff := cmp.Diff([]time.Duration{0, 0, 0, 1, 2, 4, 8, 16, 30, 30}, got); diff != "" {
		t.Errorf("s after failures (-want +got):\n%s", diff)
	}
	rapid.Check(t, func(t *rapid.T) {
		failures, random := rapid.IntRange(3, 1<<40).Draw(t, "failures"), rapid.Float64Range(0, 0.999).Draw(t, "random")
		whole, got := b.pause(failures, 0), b.pause(failures, random)
		if got > whole || got < whole*3/4 || whole > b.most || whole < b.first {
			t.Fatalf("after %d failures %v of %v", failures, got, whole)
		}
	})
}

func TestFailing(t *testing.T) {
	now := time.Unix(1000, 0)
	b := backoff{after: 2, first: time.Second, most: time.Minute}
	f := failing{}
	if f.blocked(now) {
		t.Error("blocked without a failure")
	}
	if f = f.failed(ErrNoAnswer, b, now, 0); f.blocked(now) {
		t.Error("blocked after the first failure")
	}
	f = f.failed(ErrAnswer, b, now, 0)
	if !f.blocked(now) || !f.blocked(now.Add(999*time.Millisecond)) || f.blocked(now.Add(time.Second)) || f.times != 2 || !errors.Is(f.last, ErrAnswer) {
		t.Errorf("after two failures: %+v", f)
	}
}

func TestOutcomeAndRetry(t *testing.T) {
	for _, x := range []struct {
		err  error
		want outcome
		wait []time.Duration // ms before each repetition, and then no more
	}{
		{nil, unitAnswers, nil},
		{ErrIllegalFunction, unitAnswers, nil},
		{ErrIllegalAddress, unitAnswers, nil},
		{ErrIllegalValue, unitAnswers, nil},
		{ErrDeviceFailure, unitAnswers, nil},
		{ErrAcknowledge, unitAnswers, []time.Duration{100, 200, 400}},
		{ErrBusy, unitAnswers, []time.Duration{100, 200, 400}},
		{ErrGatewayPath, unitSilent, nil},
		{ErrGatewayTarget, unitSilent, []time.Duration{100}},
		{&BackoffError{Err: ErrGatewayTarget}, unitSilent, nil},
		{ErrNoAnswer, unitSilent, nil},
		{ErrAnswer, unitSilent, nil},
		{errors.New("reset by peer"), unitSilent, nil},
		{ErrLine, lineDown, nil},
		{ErrRequest, unknown, nil},
	} {
		err := x.err
		if err != nil {
			err = fmt.Errorf("reading: %w", err)
		}
		if got := outcomeOf(t.Context(), err); got != x.want {
			t.Errorf("%v: outcome %d, want %d", err, got, x.want)
		}
		var waits []time.Duration
		for wait, again := retry(readOf(1), err, 0); again && len(waits) < 9; wait, again = retry(readOf(1), err, len(waits)) {
			waits = append(waits, wait/time.Millisecond)
		}
		if _, again := retry(writeOf(1), err, 0); again != errors.Is(err, ErrBusy) {
			t.Errorf("%v: a write is repeated: %v", err, again)
		}
		if diff := cmp.Diff(x.wait, waits); diff != "" {
			t.Errorf("%v: retries (-want +got):\n%s", err, diff)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if got := outcomeOf(ended, fmt.Errorf("reading: %w", context.Canceled)); got != unknown {
		t.Errorf("cancelled: outcome %d", got)
	}
}

func TestNext(t *testing.T) {
	now := time.Now()
	begin := func(unit byte) time.Time { return now.Add(time.Duration(unit) * time.Second) }
	for _, x := range []struct {
		waiting string // r and w may be sent, the others wait: R and W for 5 s, q for 3 s
		want    int
		wait    time.Duration
	}{
		{"r", 0, 0},
		{"rr", 0, 0},
		{"w", 0, 0},
		{"rw", 1, 0},
		{"rrwrw", 2, 0},
		{"wrw", 0, 0},
		{"Rr", 1, 0},
		{"WRrw", 3, 0},
		{"Wr", 1, 0},
		{"WR", -1, 5 * time.Second},
		{"WRq", -1, 3 * time.Second},
	} {
		var waiting []*ticket
		for _, c := range x.waiting {
			unit := map[rune]byte{'R': 5, 'W': 5, 'q': 3}[c]
			waiting = append(waiting, &ticket{unit: unit, write: c == 'w' || c == 'W'})
		}
		if got, wait := next(waiting, now, begin); got != x.want || wait != x.wait {
			t.Errorf("%s: %d after %v, want %d after %v", x.waiting, got, wait, x.want, x.wait)
		}
	}
}
