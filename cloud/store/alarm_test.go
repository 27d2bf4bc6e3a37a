package store

import (
	"testing"
	"time"

	"ecowatt/cloud/session"
)

func TestAlarm(t *testing.T) {
	s := open(t)
	roof, barn := add(t, s, "roof"), add(t, s, "barn")
	step := func(what string, device int64, reason session.Reason, count int64, at time.Time, want int64) {
		t.Helper()
		do(t, s, func(tx *Tx) error {
			got, err := tx.Alarm(session.Alarm{Device: device, Reason: reason, Count: count, At: at})
			if err == nil && got != want {
				t.Errorf("%s: %d to tell, want %d", what, got, want)
			}
			return err
		})
	}
	overdue := func(at time.Time, want string) {
		t.Helper()
		do(t, s, func(tx *Tx) error {
			a, ok, err := tx.Overdue(at)
			if got := string(a.Name) + " " + string(a.Reason); err == nil && (ok != (want != "") || ok && got != want) {
				t.Errorf("overdue: %q, %v, want %q", got, ok, want)
			}
			if ok && (a.Count != 0 || !a.At.Equal(at)) {
				t.Errorf("overdue: %+v", a)
			}
			return err
		})
	}
	step("nothing at all", roof, "HS_OLD_EPOCH", 0, noon, 0)
	if n := number(t, s, `SELECT count(*) FROM alarm`); n != 0 {
		t.Errorf("%d rows of nothing", n)
	}
	step("the first", roof, "HS_OLD_EPOCH", 3, noon, 3)
	step("of another kind", roof, "EX_BAD_MAC", 1, noon, 1)
	step("of another device", barn, "HS_OLD_EPOCH", 2, noon, 2)
	step("more within the hour", roof, "HS_OLD_EPOCH", 4, noon.Add(time.Minute), 0)
	overdue(noon.Add(time.Hour-time.Millisecond), "")
	overdue(noon.Add(time.Hour), "roof HS_OLD_EPOCH")
	if n := number(t, s, `SELECT last_at FROM alarm WHERE untold = 4`); n != noon.Add(time.Minute).UnixMilli() {
		t.Errorf("last at %d", n)
	}
	step("the rest", roof, "HS_OLD_EPOCH", 0, noon.Add(time.Hour), 4)
	if n := number(t, s, `SELECT last_at FROM alarm WHERE told_at > last_at`); n != noon.Add(time.Minute).UnixMilli() {
		t.Errorf("last at %d", n)
	}
	overdue(noon.Add(10*time.Hour), "")
	step("and again", roof, "HS_OLD_EPOCH", 5, noon.Add(2*time.Hour), 5)
	if n := number(t, s, `SELECT count(*) FROM alarm`); n != 3 {
		t.Errorf("%d rows for three kinds of alarm", n)
	}
}

// TestWatchIsKept: what is remembered of a device goes with the transaction.
func TestWatchIsKept(t *testing.T) {
	s := open(t)
	device := add(t, s, "roof")
	confirm := func(boot byte, at time.Time, replaces bool) (got session.Suspicion) {
		t.Helper()
		do(t, s, func(tx *Tx) (err error) {
			c := session.Claim{Session: session.Session{Device: device}, At: at, Boot: [16]byte{boot}}
			if got, err = tx.watch(c, replaces); err != nil {
				return err
			}
			_, err = tx.w.exec(`INSERT INTO boot (device, boot_id, wall_offset, uncertainty, seen_at) VALUES ($1, $2, 0, 0, 0) ON CONFLICT DO NOTHING`,
				device, c.Boot[:])
			return err
		})
		return got
	}
	for i, want := range []session.Suspicion{"", "", "", "", session.OftenReplaced} {
		if got := confirm(1, noon.Add(time.Duration(i)*time.Minute), i > 0); got != want {
			t.Errorf("confirmation %d: %q, want %q", i, got, want)
		}
	}
	for i, want := range []session.Suspicion{"", session.BootReturned, session.BootReturned, ""} {
		if got := confirm([]byte{2, 1, 2, 2}[i], noon.Add(time.Duration(i+2)*time.Hour), false); got != want {
			t.Errorf("boot %d: %q, want %q", i, got, want)
		}
	}
}
