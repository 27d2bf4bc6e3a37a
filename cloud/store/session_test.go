package store

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/cloud/session"
	"ecowatt/key"
)

// offerOf is the n-th handshake of a device's key.
func offerOf(id key.ID, n int, at time.Time) session.Offer {
	return session.Offer{
		KeyID: id, HS1: [32]byte{byte(n), byte(n >> 8), 1}, HS2: []byte{byte(n)}, SID: [16]byte{byte(n), byte(n >> 8), 1},
		KEK: "00112233445566ff", Wrapped: make([]byte, 136), At: at, Lifetime: 24 * time.Hour,
	}
}

// addKey adds a device and returns the id of its key.
func addKey(t *testing.T, s *Store, name string) key.ID {
	t.Helper()
	n := newDevice(t, name)
	if err := s.CreateDevice(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	return n.Key.ID
}

func TestCredential(t *testing.T) {
	s := open(t)
	run(t, s)
	n := newDevice(t, "roof-1")
	if err := s.CreateDevice(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	offer := offerOf(n.Key.ID, 1, noon)
	read := func() session.Credential {
		t.Helper()
		c, err := s.Credential(t.Context(), n.Key.ID)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	past := func(hs1 [32]byte, at time.Time) session.Past {
		t.Helper()
		p, err := s.Past(t.Context(), n.Key.ID, hs1, at)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	active := session.Standing{Key: session.KeyActive}
	want := session.Credential{Device: 1, Name: "roof-1", ID: n.Key.ID, Epoch: 1, KEK: n.Key.KEK, Wrapped: n.Key.Wrapped, Standing: active}
	if diff := cmp.Diff(want, read()); diff != "" {
		t.Errorf("a key (-want +got):\n%s", diff)
	}
	if got := past(offer.HS1, noon); !cmp.Equal(got, session.Past{Standing: active}) {
		t.Errorf("before its first handshake: %+v", got)
	}
	if _, err := s.Establish(t.Context(), offer); err != nil {
		t.Fatal(err)
	}
	waits := session.Past{Standing: active, Seen: true, Pending: offer.HS2, Bucket: session.Bucket(noon.Add(time.Minute).UnixMilli())}
	if diff := cmp.Diff(waits, past(offer.HS1, noon)); diff != "" {
		t.Errorf("while the session waits (-want +got):\n%s", diff)
	}
	waits.Pending = nil
	if diff := cmp.Diff(waits, past(offer.HS1, noon.Add(session.PendingTime))); diff != "" {
		t.Errorf("after it has waited (-want +got):\n%s", diff)
	}
	waits.Seen = false
	if diff := cmp.Diff(waits, past([32]byte{}, noon)); diff != "" {
		t.Errorf("other bytes (-want +got):\n%s", diff)
	}
	if _, err := s.Credential(t.Context(), key.ID{1}); !errors.Is(err, session.ErrUnknown) {
		t.Errorf("an unknown key: %v", err)
	}
	if _, err := s.Past(t.Context(), key.ID{1}, offer.HS1, noon); !errors.Is(err, session.ErrUnknown) {
		t.Errorf("the past of an unknown key: %v", err)
	}
	for _, c := range []struct {
		change string
		want   session.Standing
	}{
		{`UPDATE device SET disabled = 1`, session.Standing{Key: session.KeyActive, Disabled: true}},
		{`UPDATE device_key SET state = 'recovery'`, session.Standing{Key: session.KeyRecovery, Disabled: true}},
		{
			fmt.Sprintf(`UPDATE device SET recovery_until = %d`, noon.UnixMilli()),
			session.Standing{Key: session.KeyRecovery, Disabled: true, Window: noon},
		},
		{`UPDATE device_key SET state = 'retired', kek = NULL, wrapped = NULL`, session.Standing{Key: session.KeyRetired, Disabled: true, Window: noon}},
	} {
		do(t, s, func(tx *Tx) error {
			_, err := tx.w.exec(c.change)
			return err
		})
		if got := read().Standing; got != c.want || past(offer.HS1, noon).Standing != c.want {
			t.Errorf("%s: %+v", c.change, got)
		}
	}
	if c := read(); c.KEK != "" || c.Wrapped != nil {
		t.Errorf("retired: %+v", c)
	}
}

// TestEstablishDecidesAlone: what a look-up said some time before does not count.
func TestEstablishDecidesAlone(t *testing.T) {
	s := open(t)
	run(t, s)
	id := addKey(t, s, "roof-1")
	establish := func(o session.Offer) (byte, error) {
		hs2, err := s.Establish(t.Context(), o)
		if err != nil {
			return 0, err
		}
		return hs2[0], nil
	}
	for n := 1; n <= 5; n++ {
		if hs2, err := establish(offerOf(id, n, noon)); err != nil || int(hs2) != n {
			t.Fatalf("handshake %d: %d, %v", n, hs2, err)
		}
	}
	copied := offerOf(id, 1, noon)
	copied.HS2, copied.SID = []byte{99}, [16]byte{99}
	if hs2, err := establish(copied); err != nil || hs2 != 1 {
		t.Errorf("a copy that lost: %d, %v", hs2, err)
	}
	var busy *session.BusyError
	if _, err := establish(offerOf(id, 6, noon)); !errors.As(err, &busy) || busy.RetryAfter != time.Minute {
		t.Errorf("beyond the burst: %v", err)
	}
	if _, err := establish(offerOf(key.ID{}, 7, noon)); !errors.Is(err, session.ErrUnknown) {
		t.Errorf("an unknown key: %v", err)
	}
	copied.At = noon.Add(session.PendingTime)
	if _, err := establish(copied); !errors.Is(err, session.ErrReplay) {
		t.Errorf("a copy that comes late: %v", err)
	}
	disabled(t, s, "roof-1")
	if _, err := establish(offerOf(id, 8, noon.Add(time.Hour))); !errors.Is(err, session.ErrBarred) {
		t.Errorf("disabled since: %v", err)
	}
	if n := number(t, s, `SELECT hs_no FROM device`); n != 5 {
		t.Errorf("%d handshakes were counted", n)
	}
	if n := s.Counts().Spoiled; n != 0 {
		t.Errorf("refusals made %d groups run again", n)
	}
}

func disabled(t *testing.T, s *Store, name string) {
	t.Helper()
	do(t, s, func(tx *Tx) error {
		_, err := tx.w.exec(`UPDATE device SET disabled = 1 WHERE name = $1`, name)
		return err
	})
}

// TestSessionCollision: two sessions never share an id, and the first
// one is not touched.
//
// Attacks: H17
func TestSessionCollision(t *testing.T) {
	s := open(t)
	run(t, s)
	one, two := offerOf(addKey(t, s, "x"), 1, noon), offerOf(addKey(t, s, "y"), 2, noon)
	two.SID = one.SID
	if _, err := s.Establish(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Establish(t.Context(), two); err == nil || session.HandshakeReason(err) != "" {
		t.Errorf("stored, or refused as the device's fault: %v", err)
	}
	if got, err := s.Session(t.Context(), one.SID); err != nil || got.Name != "x" || !got.Pending {
		t.Errorf("%+v, %v", got, err)
	}
	if n := number(t, s, `SELECT count(*) FROM hs_seen`); n != 1 {
		t.Errorf("%d handshakes are remembered", n)
	}
}

// Attacks: H7
func TestBoundsOfHandshakes(t *testing.T) {
	s := open(t)
	run(t, s)
	id := addKey(t, s, "roof-1")
	const more = session.SeenKept + 20
	for n := range more {
		// A second apart they would all be pending; the bucket is not the matter here.
		do(t, s, func(tx *Tx) error {
			_, err := tx.w.exec(`UPDATE device SET hs_rate = 0`)
			return err
		})
		if _, err := s.Establish(t.Context(), offerOf(id, n, noon.Add(time.Duration(n)*time.Second))); err != nil {
			t.Fatal(err)
		}
	}
	for query, want := range map[string]int64{
		`SELECT count(*) FROM session`:   session.MaxPending,
		`SELECT min(hs_no) FROM session`: more - session.MaxPending + 1,
		`SELECT count(*) FROM hs_seen`:   session.SeenKept,
		`SELECT min(hs_no) FROM hs_seen`: more - session.SeenKept + 1,
	} {
		if got := number(t, s, query); got != want {
			t.Errorf("%s is %d, want %d", query, got, want)
		}
	}
}

// TestRaiseDecidesAlone: what was read of the session before does not count.
func TestRaiseDecidesAlone(t *testing.T) {
	s := open(t)
	run(t, s)
	id := addKey(t, s, "roof-1")
	for n := range 2 {
		if _, err := s.Establish(t.Context(), offerOf(id, n, noon)); err != nil {
			t.Fatal(err)
		}
	}
	read := func(n int) session.Session {
		t.Helper()
		x, err := s.Session(t.Context(), offerOf(id, n, noon).SID)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	at := noon
	raise := func(x session.Session, seq session.Sequence) (r session.Raised, err error) {
		err = s.Commit(t.Context(), func(tx *Tx) (err error) {
			r, err = tx.Raise(session.Claim{Session: x, Seq: seq, At: at})
			return err
		})
		return r, err
	}
	first, pending := read(0), read(1)
	for _, c := range []struct {
		name string
		x    session.Session
		seq  session.Sequence
		want session.Raised
	}{
		{"the first of the older", first, 1, session.Raised{Confirmed: true}},
		{"the first of the newer", pending, 5, session.Raised{Confirmed: true, Superseded: true}},
		{"pending when it was read", pending, 9, session.Raised{Before: 5}},
		{"the next", read(1), 10, session.Raised{Before: 9}},
	} {
		if r, err := raise(c.x, c.seq); err != nil || r != c.want {
			t.Errorf("%s: %+v, %v, want %+v", c.name, r, err, c.want)
		}
	}
	active := read(1)
	if want := noon.Add(session.Age(24 * time.Hour)); !active.Expires.Equal(want) || active.Pending || active.LastSeq != 10 {
		t.Errorf("active: %+v, want it to expire at %v", active, want)
	}
	active.LastSeq = 3
	if r, err := raise(active, 12); err != nil || r.Before != 10 {
		t.Errorf("raised since it was read: %+v, %v", r, err)
	}
	refused := func(name string, x session.Session, seq session.Sequence, want error) {
		t.Helper()
		if _, err := raise(x, seq); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	for _, seq := range []session.Sequence{1, 5, 10, 12} {
		active.LastSeq = seq - 1 // as if it were the next one
		refused(fmt.Sprintf("number %d", seq), active, seq, session.ErrReplay)
		refused(fmt.Sprintf("number %d of a session that was pending", seq), pending, seq, session.ErrReplay)
	}
	refused("superseded since", first, 2, session.ErrUnknown)
	active.LastSeq = 12
	at = noon.Add(48 * time.Hour)
	refused("expired since", active, 13, session.ErrExpired)
	at = noon
	do(t, s, func(tx *Tx) error {
		_, err := tx.endSessions(active.Device, everySession)
		return err
	})
	refused("ended since", active, 13, session.ErrUnknown)
	refused("ended since it was pending", pending, 13, session.ErrUnknown)
	if n := s.Counts().Spoiled; n != 0 {
		t.Errorf("refusals made %d groups run again", n)
	}
}

// TestExpiredIsNotSuperseded: the session before ended by itself while the new
// one waited.
func TestExpiredIsNotSuperseded(t *testing.T) {
	s := open(t)
	run(t, s)
	id := addKey(t, s, "roof-1")
	end := noon.Add(session.Age(24 * time.Hour))
	for n, at := range []time.Time{noon, end.Add(-time.Second)} {
		if _, err := s.Establish(t.Context(), offerOf(id, n, at)); err != nil {
			t.Fatal(err)
		}
		x, err := s.Session(t.Context(), offerOf(id, n, at).SID)
		if err != nil {
			t.Fatal(err)
		}
		do(t, s, func(tx *Tx) error {
			r, err := tx.Raise(session.Claim{Session: x, Seq: 1, At: at.Add(2 * time.Second)})
			if !r.Confirmed || r.Superseded {
				t.Errorf("handshake %d: %+v", n, r)
			}
			return err
		})
	}
}
