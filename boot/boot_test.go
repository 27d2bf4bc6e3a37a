package boot

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestParseRecord(t *testing.T) {
	r, err := ParseRecord([]byte(`{"format":1,"active":"b","state":"confirmed"}` + "\n"))
	if err != nil || r != (Record{Format: 1, Active: B, State: Confirmed}) {
		t.Fatalf("got %+v, %v", r, err)
	}
	for name, text := range map[string]string{
		"empty":         ``,
		"not JSON":      `active=a`,
		"format":        `{"format":2,"active":"a","state":"confirmed"}`,
		"no format":     `{"active":"a","state":"confirmed"}`,
		"slot":          `{"format":1,"active":"../x","state":"confirmed"}`,
		"state":         `{"format":1,"active":"a","state":"trial"}`,
		"unknown field": `{"format":1,"active":"a","state":"confirmed","x":1}`,
		"trailing":      `{"format":1,"active":"a","state":"confirmed"}{}`,
		"truncated":     `{"format":1,"active":"a"`,
		"too long":      `{"format":1,"active":"a","state":"confirmed"}` + strings.Repeat(" ", MaxRecordSize),
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
		if r, err := ParseRecord(data); err == nil && r.Active != A && r.Active != B {
			t.Errorf("accepted slot %q", r.Active)
		}
	})
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
