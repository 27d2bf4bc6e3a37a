package store

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ncruces/go-sqlite3"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/session"
	"ecowatt/key"
)

// orderOf asks for the key of that epoch, which nobody can unwrap.
func orderOf(name string, epoch key.Epoch) registry.Order {
	k := registry.NewKey{Epoch: epoch, KEK: "00112233445566ff", Wrapped: make([]byte, 72)}
	copy(k.ID[:], fmt.Sprintf("%s %d", name, epoch))
	return registry.Order{Device: ecowatt.DeviceID(name), Key: &k, From: noon, By: "ada", At: noon}
}

func order(t *testing.T, s *Store, orders ...registry.Order) []registry.Ordered {
	t.Helper()
	done, err := s.OrderRotations(t.Context(), orders)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// keyRows returns the keys of a device, each like "2 pending 72", by epoch.
func keyRows(t *testing.T, s *Store, device int64) string {
	t.Helper()
	rows, err := s.read.QueryContext(t.Context(), `SELECT epoch || ' ' || state || ' ' || coalesce(length(wrapped), 0) FROM device_key WHERE device = $1 ORDER BY epoch`, device)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var row string
		if err := rows.Scan(&row); err != nil {
			t.Fatal(err)
		}
		out = append(out, row)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return strings.Join(out, ", ")
}

func TestOrderRotations(t *testing.T) {
	s := open(t)
	id := add(t, s, "roof")
	add(t, s, "barn")
	later := orderOf("roof", 2)
	later.From = noon.Add(time.Hour)
	want := registry.Rotation{Epoch: 2, OfferFrom: noon.Add(time.Hour)}
	for _, step := range []struct {
		name string
		o    registry.Order
		want registry.Ordered
	}{
		{"for another newest key", orderOf("roof", 3), registry.Ordered{Stale: true}},
		{"for the key that there is", orderOf("roof", 1), registry.Ordered{Stale: true}},
		{"without a key", registry.Order{Device: "roof", From: noon, By: "ada", At: noon}, registry.Ordered{Stale: true}},
		{"the next", later, registry.Ordered{Rotation: want, New: true}},
		{"the same again", later, registry.Ordered{Rotation: want}},
		{
			"for a key that came between",
			registry.Order{Device: "roof", Key: orderOf("roof", 3).Key, From: noon.Add(2 * time.Hour), By: "ada", At: noon},
			registry.Ordered{Rotation: want},
		},
		{
			"burning",
			registry.Order{Device: "roof", From: noon.Add(2 * time.Hour), Burn: true, By: "bob", At: noon},
			registry.Ordered{Rotation: registry.Rotation{Epoch: 2, OfferFrom: noon.Add(time.Hour), Burn: true}},
		},
		{
			"sooner",
			registry.Order{Device: "roof", From: noon.Add(time.Minute), By: "bob", At: noon},
			registry.Ordered{Rotation: registry.Rotation{Epoch: 2, OfferFrom: noon.Add(time.Minute), Burn: true}},
		},
	} {
		if diff := cmp.Diff([]registry.Ordered{step.want}, order(t, s, step.o)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.name, diff)
		}
	}
	if got := keyRows(t, s, id); got != "1 active 72, 2 pending 72" {
		t.Errorf("keys: %s", got)
	}
	d := device(t, s, "roof")
	if diff := cmp.Diff(&registry.Rotation{Epoch: 2, OfferFrom: noon.Add(time.Minute), Burn: true}, d.Rotation); diff != "" || d.Epoch != 1 || !d.KeySince.Equal(noon) {
		t.Errorf("shown as %+v (-want +got):\n%s", d, diff)
	}
	var told []string
	for _, r := range records(t, s, audit.Filter{Device: "roof", After: 1}) {
		told = append(told, fmt.Sprint(r.Action, " by ", r.Actor.Name, ", burn ", r.Attrs["burn"], ", from ", r.Attrs["offer_from"]))
	}
	if diff := cmp.Diff([]string{
		"rotation.ordered by ada, burn false, from 2026-03-01T13:00:00Z",
		"rotation.changed by bob, burn true, from 2026-03-01T13:00:00Z",
		"rotation.changed by bob, burn true, from 2026-03-01T12:01:00Z",
	}, told); diff != "" {
		t.Errorf("audit log (-want +got):\n%s", diff)
	}
}

// TestOrdersAreOneTransaction: a page of orders is carried out whole or not at all.
func TestOrdersAreOneTransaction(t *testing.T) {
	s := open(t)
	id := add(t, s, "roof")
	_, err := s.OrderRotations(t.Context(), []registry.Order{orderOf("roof", 2), orderOf("nobody", 2)})
	if !errors.Is(err, registry.ErrNotFound) || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("%v", err)
	}
	bad := orderOf("roof", 2)
	bad.Key.Wrapped = bad.Key.Wrapped[1:]
	if _, err := s.OrderRotations(t.Context(), []registry.Order{bad}); err == nil {
		t.Error("half a key is stored")
	}
	if got := keyRows(t, s, id); got != "1 active 72" || len(records(t, s, audit.Filter{})) != 1 {
		t.Errorf("keys: %s", got)
	}
}

func TestFleetKeys(t *testing.T) {
	s := open(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		n := newDevice(t, name)
		if name > "b" {
			n.Group = "south"
		}
		if err := s.CreateDevice(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	order(t, s, orderOf("c", 2))
	a, b, c, d := registry.Keys{Device: "a", Newest: 1}, registry.Keys{Device: "b", Newest: 1},
		registry.Keys{Device: "c", Newest: 2, Pending: true}, registry.Keys{Device: "d", Newest: 1}
	for name, x := range map[string]struct {
		f    registry.Filter
		want []registry.Keys
	}{
		"all":           {registry.Filter{}, []registry.Keys{a, b, c, d}},
		"a page":        {registry.Filter{After: "a", Limit: 2}, []registry.Keys{b, c}},
		"a group":       {registry.Filter{Group: "south"}, []registry.Keys{c, d}},
		"a group, page": {registry.Filter{Group: "south", After: "c", Limit: 1}, []registry.Keys{d}},
		"the end":       {registry.Filter{After: "d"}, nil},
	} {
		got, err := s.FleetKeys(t.Context(), x.f)
		if diff := cmp.Diff(x.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
	if got, err := s.DeviceKeys(t.Context(), "c"); got != c || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := s.DeviceKeys(t.Context(), "e"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// confirmed makes the first exchange with a key.
func confirmed(t *testing.T, s *Store, id key.ID, n int, at time.Time) session.Raised {
	t.Helper()
	raised, err := confirm(t, s, id, n, at)
	if err != nil {
		t.Fatal(err)
	}
	return raised
}

func confirm(t *testing.T, s *Store, id key.ID, n int, at time.Time) (session.Raised, error) {
	t.Helper()
	o := offerOf(id, n, at)
	c, err := s.Credential(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	o.Recovery = c.Recovery()
	if _, err := s.Establish(t.Context(), o); err != nil {
		return session.Raised{}, err
	}
	x, err := s.Session(t.Context(), o.SID)
	if err != nil {
		t.Fatal(err)
	}
	var raised session.Raised
	err = s.Commit(t.Context(), func(tx *Tx) (err error) {
		raised, err = tx.Raise(session.Claim{Session: x, Seq: 1, At: at, Offer: true})
		return err
	})
	return raised, err
}

func TestCommitKey(t *testing.T) {
	s := open(t)
	run(t, s)
	first := addKey(t, s, "roof")
	second, third := orderOf("roof", 2), orderOf("roof", 3)
	third.Burn = true
	order(t, s, second)
	for _, step := range []struct {
		id   key.ID
		want session.Raised
		keys string
	}{
		{first, session.Raised{Confirmed: true, Offers: true, OffersNew: true}, "1 active 72, 2 pending 72"},
		{first, session.Raised{Confirmed: true, Superseded: true, Offers: true}, "1 active 72, 2 pending 72"},
		{second.Key.ID, session.Raised{Confirmed: true, Superseded: true, Committed: true, Replaced: 1}, "1 recovery 72, 2 active 72"},
		{second.Key.ID, session.Raised{Confirmed: true, Superseded: true}, "1 recovery 72, 2 active 72"},
		{third.Key.ID, session.Raised{Confirmed: true, Superseded: true, Committed: true, Replaced: 2, Burned: true}, "1 retired 0, 2 retired 0, 3 active 72"},
	} {
		if step.id == third.Key.ID {
			order(t, s, third)
		}
		n := int(number(t, s, `SELECT hs_no FROM device`)) + 1
		if diff := cmp.Diff(step.want, confirmed(t, s, step.id, n, noon.Add(time.Duration(n)*time.Minute))); diff != "" {
			t.Errorf("handshake %d (-want +got):\n%s", n, diff)
		}
		if got := keyRows(t, s, 1); got != step.keys {
			t.Errorf("handshake %d: %s, want %s", n, got, step.keys)
		}
		if n := number(t, s, `SELECT count(*) FROM session`); n != 1 {
			t.Errorf("%d sessions", n)
		}
	}
	if n := number(t, s, `SELECT count(*) FROM hs_seen WHERE epoch < 3`); n != 0 {
		t.Errorf("%d handshakes with destroyed keys are remembered", n)
	}
	d := device(t, s, "roof")
	if d.Epoch != 3 || !d.KeySince.Equal(noon.Add(5*time.Minute)) || d.Rotation != nil || !d.LastSeen.Equal(noon.Add(5*time.Minute)) {
		t.Errorf("%+v", d)
	}
}

func TestRecoveryWindow(t *testing.T) {
	s := open(t)
	run(t, s)
	first := addKey(t, s, "roof")
	window := func(epoch key.Epoch, until time.Time) error {
		_, err := s.OpenRecovery(t.Context(), orderOf("roof", epoch), until)
		return err
	}
	var conflict *registry.ConflictError
	if err := window(2, noon.Add(time.Hour)); !errors.As(err, &conflict) {
		t.Errorf("while the first key is in use: %v", err)
	}
	second := orderOf("roof", 2)
	order(t, s, second)
	confirmed(t, s, first, 1, noon)
	confirmed(t, s, second.Key.ID, 2, noon)
	if done, err := s.OpenRecovery(t.Context(), orderOf("roof", 7), noon.Add(time.Hour)); !done.Stale || err != nil {
		t.Errorf("with a key for other keys: %+v, %v", done, err)
	}
	if d := device(t, s, "roof"); !d.Recovery.IsZero() {
		t.Error("a stale order opens the window")
	}
	if _, err := confirm(t, s, first, 3, noon.Add(time.Minute)); !errors.Is(err, session.ErrRetired) {
		t.Errorf("without a window: %v", err)
	}
	at := noon.Add(time.Minute)
	if err := window(3, noon.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	confirmed(t, s, first, 3, at)
	if n := number(t, s, `SELECT expires_at FROM session WHERE recovery = 1`); n != noon.Add(time.Hour).UnixMilli() {
		t.Errorf("the session ends at %v, not with the window", moment(n))
	}
	// A window that ends sooner ends what would outlive it.
	if err := window(3, noon.Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if n := number(t, s, `SELECT count(*) FROM session WHERE recovery = 1`); n != 1 {
		t.Error("a longer window ends a session")
	}
	if err := window(3, noon.Add(time.Hour-time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n := number(t, s, `SELECT count(*) FROM session WHERE recovery = 1`); n != 0 {
		t.Error("a session outlives its window")
	}
	// Told to the device as one session, and then found to be another: refused.
	told := offerOf(first, 4, at)
	if _, err := s.Establish(t.Context(), told); !errors.Is(err, session.ErrRetired) {
		t.Errorf("a recovery session that the device was not told of: %v", err)
	}
	told.Recovery, told.KeyID = true, second.Key.ID
	if _, err := s.Establish(t.Context(), told); !errors.Is(err, session.ErrRetired) {
		t.Errorf("a session that the device was told is for recovery: %v", err)
	}
	if err := s.CloseRecovery(t.Context(), "nobody", audit.Actor{Kind: audit.Operator}, noon); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("closing for nobody: %v", err)
	}
}

func TestCancelRotation(t *testing.T) {
	s := open(t)
	run(t, s)
	first := addKey(t, s, "roof")
	by := audit.Actor{Kind: audit.Operator, Name: "ada"}
	cancel := func(name ecowatt.DeviceID) error { return s.CancelRotation(t.Context(), name, by, noon) }
	if err := cancel("nobody"); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	if err := cancel("roof"); !errors.Is(err, registry.ErrNoRotation) {
		t.Errorf("none is pending: %v", err)
	}
	o := orderOf("roof", 2)
	order(t, s, o)
	if err := cancel("roof"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Credential(t.Context(), o.Key.ID); !errors.Is(err, session.ErrUnknown) {
		t.Errorf("the key that was cancelled: %v", err)
	}
	order(t, s, o) // its epoch is free again
	confirmed(t, s, first, 1, noon)
	var conflict *registry.ConflictError
	if err := cancel("roof"); !errors.As(err, &conflict) {
		t.Errorf("it was offered: %v", err)
	}
	var actions []string
	for _, r := range records(t, s, audit.Filter{After: 1}) {
		actions = append(actions, r.Action)
	}
	if want := []string{"rotation.ordered", "rotation.cancelled", "rotation.ordered"}; !slices.Equal(actions, want) {
		t.Errorf("audit log: %v", actions)
	}
}

// TestKeyChecks: the database itself refuses keys that cannot be.
func TestKeyChecks(t *testing.T) {
	s := open(t)
	add(t, s, "roof")
	insert := func(set string) error {
		return s.write(t.Context(), func(tx *Tx) error {
			if _, err := tx.w.exec(`INSERT INTO device_key (psk_id, device, epoch, state, since, kek, wrapped, offer_from, created_at)
				VALUES (zeroblob(16), 1, 2, 'pending', 0, 'aaaa', zeroblob(72), 0, 0)`); err != nil {
				return err
			}
			if set != "" {
				if _, err := tx.w.exec(`UPDATE device_key SET ` + set + ` WHERE epoch = 2`); err != nil {
					return err
				}
			}
			return errUndone
		})
	}
	if err := insert(""); !errors.Is(err, errUndone) {
		t.Fatal(err)
	}
	for _, set := range []string{
		`state = 'lost'`,
		`offer_from = NULL`,
		`state = 'active', offer_from = NULL`,
		`state = 'recovery', offer_from = NULL`,
		`state = 'retired', offer_from = NULL`,
		`state = 'retired', kek = NULL, wrapped = NULL`,
		`state = 'retired', offer_from = NULL, kek = NULL, wrapped = NULL, burn = 1`,
		`state = 'retired', offer_from = NULL, kek = NULL, wrapped = NULL, offered_at = 1`,
		`burn = 2`,
		`epoch = 0`,
		`epoch = 4294967296`,
		`wrapped = NULL`,
		`kek = ''`,
	} {
		if err := insert(set); !errors.Is(err, sqlite3.CONSTRAINT) {
			t.Errorf("%s: %v", set, err)
		}
	}
	order(t, s, orderOf("roof", 2))
	if err := insert(`epoch = 3`); !errors.Is(err, sqlite3.CONSTRAINT) {
		t.Errorf("a second pending key: %v", err)
	}
}

var errUndone = errors.New("undone")
