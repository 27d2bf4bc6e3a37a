package session

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"testing"
	"time"

	"ecowatt/wire"
)

var noon = time.Date(2026, 6, 21, 12, 0, 0, 0, time.UTC)

func TestAdmit(t *testing.T) {
	empty := Bucket(noon.Add(bucketSize * bucketRefill).UnixMilli())
	hs2 := []byte("hs2")
	good, barred := Standing{Key: KeyActive}, Standing{Key: KeyActive, Disabled: true}
	for name, c := range map[string]struct {
		past Past
		want error
		busy bool
	}{
		"a new one":                         {past: Past{Standing: good}},
		"with a pending key":                {past: Past{Standing: Standing{Key: KeyPending}}},
		"no key":                            {past: Past{}, want: ErrRetired},
		"the key is retired":                {past: Past{Standing: Standing{Key: KeyRetired}}, want: ErrRetired},
		"retired, while its session waits":  {past: Past{Standing: Standing{Key: KeyRetired}, Seen: true, Pending: hs2}, want: ErrRetired},
		"the first key, no window":          {past: Past{Standing: Standing{Key: KeyRecovery}}, want: ErrRetired},
		"the first key, within the window":  {past: Past{Standing: Standing{Key: KeyRecovery, Window: noon.Add(1)}}},
		"the first key, at its end":         {past: Past{Standing: Standing{Key: KeyRecovery, Window: noon}}, want: ErrRetired},
		"a window, and disabled":            {past: Past{Standing: Standing{Key: KeyRecovery, Window: noon.Add(1), Disabled: true}}, want: ErrBarred},
		"a window for a retired key":        {past: Past{Standing: Standing{Key: KeyRetired, Window: noon.Add(1)}}, want: ErrRetired},
		"the device is disabled":            {past: Past{Standing: barred}, want: ErrBarred},
		"disabled, while its session waits": {past: Past{Standing: barred, Seen: true, Pending: hs2}, want: ErrBarred},
		"the session waits":                 {past: Past{Standing: good, Seen: true, Pending: hs2}},
		"the session waits, empty bucket":   {past: Past{Standing: good, Seen: true, Pending: hs2, Bucket: empty}},
		"seen before":                       {past: Past{Standing: good, Seen: true}, want: ErrReplay},
		"seen before, empty bucket":         {past: Past{Standing: good, Seen: true, Bucket: empty}, want: ErrReplay},
		"empty bucket":                      {past: Past{Standing: good, Bucket: empty}, busy: true},
	} {
		again, next, err := c.past.Admit(noon)
		var busy *BusyError
		if errors.As(err, &busy) != c.busy || !c.busy && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if c.want == nil && !bytes.Equal(again, c.past.Pending) {
			t.Errorf("%s: repeats %q", name, again)
		}
		if granted := err == nil && again == nil; granted != (next != c.past.Bucket) {
			t.Errorf("%s: the bucket went from %d to %d", name, c.past.Bucket, next)
		}
	}
}

func TestBucketGrantsABurstAndThenOneAMinute(t *testing.T) {
	var b Bucket
	var granted []time.Duration
	for at := time.Duration(0); at <= 10*time.Minute; at += time.Second {
		next, err := b.Take(noon.Add(at))
		if err == nil {
			b = next
			granted = append(granted, at)
			continue
		}
		var busy *BusyError
		if !errors.As(err, &busy) || next != b {
			t.Fatalf("at %v: %v", at, err)
		}
		if _, err := b.Take(noon.Add(at + busy.RetryAfter)); err != nil {
			t.Fatalf("at %v it said %v, and then %v", at, busy.RetryAfter, err)
		}
		if _, err := b.Take(noon.Add(at + busy.RetryAfter - time.Millisecond)); err == nil {
			t.Fatalf("at %v it said %v, and less was enough", at, busy.RetryAfter)
		}
	}
	// 5 at once and one for every minute since, the first second by second.
	if len(granted) != 15 || granted[4] != 4*time.Second || granted[5] != time.Minute || granted[14] != 10*time.Minute {
		t.Errorf("granted at %v", granted)
	}
	for range 5 {
		var err error
		if b, err = b.Take(noon.Add(time.Hour)); err != nil {
			t.Fatal("an hour later the bucket is not full again")
		}
	}
}

func TestBucketWhenTheClockIsPutBack(t *testing.T) {
	var b Bucket
	for range 5 {
		b, _ = b.Take(noon)
	}
	for _, back := range []time.Duration{time.Second, 4 * time.Minute, 6 * time.Minute, time.Hour, 365 * 24 * time.Hour} {
		_, err := b.Take(noon.Add(-back))
		var busy *BusyError
		if errors.As(err, &busy) && busy.RetryAfter > clockStep+bucketRefill {
			t.Errorf("back by %v: wait %v", back, busy.RetryAfter)
		}
		if back < clockStep && err == nil {
			t.Errorf("back by %v: the bucket is full again", back)
		}
	}
}

func TestDrawLifetime(t *testing.T) {
	low, high := 24*time.Hour, 24*time.Hour
	for range 2000 {
		d, err := DrawLifetime(rand.Reader)
		if err != nil || d < 21*time.Hour+36*time.Minute || d > 26*time.Hour+24*time.Minute || d%time.Second != 0 {
			t.Fatal(d, err)
		}
		low, high = min(low, d), max(high, d)
	}
	if low > 22*time.Hour || high < 26*time.Hour {
		t.Errorf("drawn from %v to %v only", low, high)
	}
	if _, err := DrawLifetime(bytes.NewReader(make([]byte, 7))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("without randomness: %v", err)
	}
}

func TestAge(t *testing.T) {
	if got := Age(time.Hour); got <= time.Hour || got > time.Hour+2*wire.AnswerTime {
		t.Errorf("an hour becomes %v", got)
	}
	if got := Age(1000 * time.Hour); got != 48*time.Hour {
		t.Errorf("the hard limit is %v", got)
	}
	if Age(meanLifetime+lifetimeRoom) >= wire.MaxSessionAge {
		t.Error("the hard limit cuts a lifetime that a device was told")
	}
}

func TestCheck(t *testing.T) {
	s := Session{LastSeq: 10, Expires: noon.Add(time.Hour)}
	for name, c := range map[string]struct {
		seq  Sequence
		at   time.Time
		want error
	}{
		"the next":             {11, noon, nil},
		"one further on":       {1011, noon, nil},
		"the last of all":      {1 << 20, noon, nil},
		"one beyond it":        {1<<20 + 1, noon, ErrExpired},
		"the largest":          {wire.MaxSequence, noon, ErrExpired},
		"the same":             {10, noon, ErrReplay},
		"an older one":         {1, noon, ErrReplay},
		"just in time":         {11, s.Expires.Add(-time.Millisecond), nil},
		"just too late":        {11, s.Expires, ErrExpired},
		"too late and too old": {10, s.Expires.Add(time.Hour), ErrExpired},
	} {
		if err := s.Check(c.seq, c.at); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestGap(t *testing.T) {
	for _, c := range []struct {
		before, seq Sequence
		want        uint64
	}{{0, 1, 0}, {0, 3, 2}, {7, 8, 0}, {7, 1008, 1000}} {
		if got := (Raised{Before: c.before}).Gap(c.seq); got != c.want {
			t.Errorf("from %d to %d: %d", c.before, c.seq, got)
		}
	}
}

func TestReasons(t *testing.T) {
	other := errors.New("the disk is full")
	for _, c := range []struct {
		err                 error
		handshake, exchange wire.Reason
	}{
		{ErrUnknown, wire.HandshakeUnknownID, wire.ExchangeNoSession},
		{ErrReplay, wire.HandshakeReplay, wire.ExchangeReplay},
		{ErrRetired, wire.HandshakeOldEpoch, ""},
		{ErrBarred, wire.HandshakeDisabled, ""},
		{ErrExpired, "", wire.SessionExpired},
		{&BusyError{}, wire.HandshakeRate, ""},
		{other, "", ""},
	} {
		if h, x := HandshakeReason(c.err), ExchangeReason(c.err); h != c.handshake || x != c.exchange {
			t.Errorf("%v: %q and %q, want %q and %q", c.err, h, x, c.handshake, c.exchange)
		}
	}
}
