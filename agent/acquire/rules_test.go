package acquire

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt/inverter/modbus"
)

func TestNext(t *testing.T) {
	for _, c := range []struct{ now, interval, want int64 }{
		{0, 5000, 5000},
		{1, 5000, 4999},
		{4949, 5000, 51},
		{4950, 5000, 5050}, // belongs to the tick at 5000 already
		{4999, 5000, 5001},
		{5000, 5000, 5000},
		{12_345, 5000, 2655},
		{90, 100, 110},
		{89, 100, 11},
	} {
		if got := next(c.now, c.interval); got != c.want {
			t.Errorf("next(%d, %d) = %d, want %d", c.now, c.interval, got, c.want)
		}
	}
}

func TestNextProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := rapid.Int64Range(0, 1<<50).Draw(t, "now")
		interval := rapid.Int64Range(100, 3_600_000).Draw(t, "interval")
		wait := next(now, interval)
		if wait <= 0 || (now+wait)%interval != 0 {
			t.Fatalf("next(%d, %d) = %d is not on the grid ahead", now, interval, wait)
		}
		// Woken a little early or late, the tick after this one comes next, once.
		jitter := rapid.Int64Range(-min(early, interval/10), interval/2).Draw(t, "jitter")
		if at := now + wait + jitter; at+next(at, interval) != now+wait+interval {
			t.Fatalf("woken at %d, the next tick is %d; want %d", at, at+next(at, interval), now+wait+interval)
		}
	})
}

func TestPeriod(t *testing.T) {
	for _, c := range []struct {
		interval int64
		want     []int64 // after 0, 1, 2, … failures
	}{
		{5000, []int64{5000, 5000, 10_000, 20_000, 40_000, 40_000, 40_000}},
		{1000, []int64{1000, 1000, 2000, 4000, 8000, 16_000, 32_000, 32_000}},
		{30_000, []int64{30_000, 30_000, 60_000, 60_000}},
		{900_000, []int64{900_000, 900_000, 900_000}},
	} {
		var got []int64
		for failures := range c.want {
			got = append(got, period(c.interval, failures))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("interval %d (-want +got):\n%s", c.interval, diff)
		}
	}
	if got := period(1000, 1<<40); got != 32_000 {
		t.Errorf("after very many failures: %d", got)
	}
}

// TestErrors: each kind of error of the real client is told apart.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		err             error
		answered, retry bool
	}{
		{nil, true, false},
		{modbus.ErrIllegalFunction, true, false},
		{modbus.ErrIllegalAddress, true, false},
		{modbus.ErrIllegalValue, true, false},
		{modbus.ErrDeviceFailure, true, false},
		{modbus.ErrAcknowledge, true, false},
		{modbus.ErrBusy, true, false},
		{modbus.ErrGatewayPath, false, false},
		{modbus.ErrGatewayTarget, false, false},
		{modbus.ErrNoAnswer, false, true},
		{modbus.ErrAnswer, false, true},
		{modbus.ErrLine, false, true},
		{&modbus.BackoffError{Err: modbus.ErrNoAnswer}, false, false},
		{&modbus.BackoffError{Err: modbus.ErrGatewayTarget}, false, false},
		{errors.New("connection refused"), false, true},
	} {
		err := c.err
		if err != nil {
			err = fmt.Errorf("reading: %w", err)
		}
		if a, r := answered(err), worthRetrying(err); a != c.answered || r != c.retry {
			t.Errorf("%v: answered %v, worth retrying %v; want %v, %v", err, a, r, c.answered, c.retry)
		}
	}
}
