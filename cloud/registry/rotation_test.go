package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/key"
)

// fleet is a store of keys in memory, whose reads may be behind its writes.
type fleet struct {
	keys    []Keys // by device
	pages   [][]Order
	windows []time.Time
	behind  func(f *fleet) // called after each read: what happens in between
	err     error
}

func (f *fleet) find(id ecowatt.DeviceID) int {
	return slices.IndexFunc(f.keys, func(k Keys) bool { return k.Device == id })
}

func (f *fleet) read() {
	if f.behind != nil {
		f.behind(f)
	}
}

func (f *fleet) DeviceKeys(_ context.Context, id ecowatt.DeviceID) (Keys, error) {
	i := f.find(id)
	if i < 0 {
		return Keys{}, ErrNotFound
	}
	defer f.read()
	return f.keys[i], nil
}

func (f *fleet) FleetKeys(_ context.Context, q Filter) ([]Keys, error) {
	defer f.read()
	var page []Keys
	for _, k := range f.keys {
		if k.Device > q.After && len(page) < q.Limit {
			page = append(page, k)
		}
	}
	return page, nil
}

func (f *fleet) OrderRotations(_ context.Context, orders []Order) ([]Ordered, error) {
	if f.err != nil {
		return nil, f.err
	}
	f.pages = append(f.pages, orders)
	var done []Ordered
	for _, o := range orders {
		done = append(done, f.order(o))
	}
	return done, nil
}

func (f *fleet) order(o Order) Ordered {
	k := &f.keys[f.find(o.Device)]
	switch {
	case k.Pending:
		return Ordered{Rotation: Rotation{Epoch: k.Newest}}
	case o.Key == nil || o.Key.Epoch != k.Newest+1:
		return Ordered{Stale: true}
	}
	k.Newest, k.Pending = o.Key.Epoch, true
	return Ordered{Rotation: Rotation{Epoch: o.Key.Epoch, OfferFrom: o.From, Burn: o.Burn}, New: true}
}

func (f *fleet) OpenRecovery(ctx context.Context, o Order, until time.Time) (Ordered, error) {
	done, err := f.OrderRotations(ctx, []Order{o})
	if err != nil || done[0].Stale {
		return Ordered{Stale: err == nil}, err
	}
	f.windows = append(f.windows, until)
	return done[0], nil
}

func TestOrder(t *testing.T) {
	f, m := &fleet{keys: []Keys{{Device: "roof", Newest: 4}}}, &memory{}
	r := NewRotations(f, m, rand.Reader)
	at := now.UTC().Truncate(time.Millisecond)
	got, err := r.Order(t.Context(), "roof", RotationRequest{Burn: true, By: "ada"}, now)
	if want := (Rotation{Epoch: 5, OfferFrom: at, Burn: true}); err != nil || got != want {
		t.Fatalf("%+v, %v; want %+v", got, err, want)
	}
	o := f.pages[0][0]
	want := Order{Device: "roof", Key: &NewKey{ID: o.Key.ID, Epoch: 5, KEK: "kek", Wrapped: []byte("wrapped")}, From: at, Burn: true, By: "ada", At: at}
	if diff := cmp.Diff(want, o); diff != "" {
		t.Errorf("ordered (-want +got):\n%s", diff)
	}
	if want := fmt.Sprintf("roof %s 5", o.Key.ID); m.rows[0] != want || o.Key.ID == (key.ID{}) {
		t.Errorf("the key is bound to %q, want %q", m.rows[0], want)
	}
	if !m.keys[0].IsZero() {
		t.Error("the key stays in memory")
	}
	if got, err := r.Order(t.Context(), "roof", RotationRequest{By: "ada"}, now); err != nil || got.Epoch != 5 {
		t.Errorf("again: %+v, %v", got, err)
	}
	if len(m.rows) != 1 {
		t.Error("a key is made that nobody needs")
	}
}

// TestOrderOfWhatChanges: what is ordered between the look and the order wins,
// and what rotates in between is ordered anew.
func TestOrderOfWhatChanges(t *testing.T) {
	for name, test := range map[string]struct {
		change func(k *Keys)
		want   key.Epoch
		orders int
	}{
		"nothing":              {func(*Keys) {}, 2, 1},
		"another order":        {func(k *Keys) { k.Newest, k.Pending = 2, true }, 2, 1},
		"another one, used":    {func(k *Keys) { k.Newest = 2 }, 3, 2},
		"another one, dropped": {func(k *Keys) { k.Pending = false }, 2, 1},
	} {
		f := &fleet{keys: []Keys{{Device: "roof", Newest: 1}}}
		once := true
		f.behind = func(f *fleet) {
			if once {
				test.change(&f.keys[0])
			}
			once = false
		}
		got, err := NewRotations(f, &memory{}, rand.Reader).Order(t.Context(), "roof", RotationRequest{By: "ada"}, now)
		if err != nil || got.Epoch != test.want || len(f.pages) != test.orders {
			t.Errorf("%s: %+v after %d orders, %v", name, got, len(f.pages), err)
		}
	}
	f := &fleet{keys: []Keys{{Device: "roof", Newest: 1}}}
	f.behind = func(f *fleet) { f.keys[0].Newest++ }
	if _, err := NewRotations(f, &memory{}, rand.Reader).Order(t.Context(), "roof", RotationRequest{By: "ada"}, now); !errors.Is(err, errChanging) {
		t.Errorf("keys that always change: %v", err)
	}
}

func TestOrderRefuses(t *testing.T) {
	f := &fleet{keys: []Keys{{Device: "old", Newest: math.MaxUint32}, {Device: "roof", Newest: 1}}}
	r := NewRotations(f, &memory{}, rand.Reader)
	var field *InvalidError
	for _, over := range []time.Duration{-1, -time.Hour, MaxOver + 1} {
		if _, err := r.Order(t.Context(), "roof", RotationRequest{Over: over}, now); !errors.As(err, &field) || field.Field != "over_s" {
			t.Errorf("over %v: %v", over, err)
		}
		if _, err := r.OrderFleet(t.Context(), "", RotationRequest{Over: over}, now); !errors.As(err, &field) || field.Field != "over_s" {
			t.Errorf("a fleet over %v: %v", over, err)
		}
	}
	if _, err := r.OrderFleet(t.Context(), "No Good", RotationRequest{}, now); !errors.As(err, &field) || field.Field != "group" {
		t.Errorf("a bad group: %v", err)
	}
	for _, open := range []time.Duration{0, -time.Hour, MinRecovery - 1, MaxRecovery + 1} {
		if _, _, err := r.OpenRecovery(t.Context(), "roof", open, "ada", now); !errors.As(err, &field) || field.Field != "for_s" {
			t.Errorf("a window of %v: %v", open, err)
		}
	}
	if _, err := r.Order(t.Context(), "barn", RotationRequest{}, now); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such device: %v", err)
	}
	var conflict *ConflictError
	if _, err := r.Order(t.Context(), "old", RotationRequest{}, now); !errors.As(err, &conflict) {
		t.Errorf("no epoch is left: %v", err)
	}
	f.err = io.ErrUnexpectedEOF
	if _, err := r.Order(t.Context(), "roof", RotationRequest{}, now); !errors.Is(err, f.err) {
		t.Errorf("the store fails: %v", err)
	}
	f.err = nil
	if _, err := NewRotations(f, &memory{wrap: io.ErrNoProgress}, rand.Reader).Order(t.Context(), "roof", RotationRequest{}, now); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("the key ring fails: %v", err)
	}
	if _, err := NewRotations(f, &memory{}, io.LimitReader(rand.Reader, 40)).Order(t.Context(), "roof", RotationRequest{}, now); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("no randomness is left: %v", err)
	}
	if len(f.pages) != 0 || len(f.windows) != 0 || f.keys[1] != (Keys{Device: "roof", Newest: 1}) {
		t.Errorf("something was ordered: %+v", f)
	}
}

// TestOrderFleet: a fleet is ordered page by page, spread evenly over the time.
func TestOrderFleet(t *testing.T) {
	const devices = 2*rotationPage + 50
	f := &fleet{}
	for i := range devices {
		f.keys = append(f.keys, Keys{Device: ecowatt.DeviceID(fmt.Sprintf("d%04d", i)), Newest: 1})
	}
	f.keys[3].Newest, f.keys[3].Pending = 2, true
	f.keys[4].Newest = math.MaxUint32
	reads := 0
	f.behind = func(f *fleet) { // one is rotated by somebody else, one is ordered
		if reads++; reads == 2 {
			f.keys[rotationPage+1].Newest = 2
			f.keys[rotationPage+2].Newest, f.keys[rotationPage+2].Pending = 2, true
		}
	}
	r := NewRotations(f, &memory{}, rand.Reader)
	const over = 7 * 24 * time.Hour
	got, err := r.OrderFleet(t.Context(), "", RotationRequest{Over: over, By: "ada"}, now)
	if want := (FleetCounts{Ordered: devices - 3, Pending: 2, Refused: 1}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	var sizes []int
	var from []time.Duration
	for _, page := range f.pages {
		sizes = append(sizes, len(page))
		for _, o := range page {
			from = append(from, o.From.Sub(o.At))
		}
	}
	if want := []int{rotationPage - 1, rotationPage, 1, 50}; !slices.Equal(sizes, want) {
		t.Errorf("orders at a time: %v, want %v", sizes, want)
	}
	slices.Sort(from)
	if first, last := from[0], from[len(from)-1]; first < 0 || last >= over {
		t.Errorf("offered from %v to %v", first, last)
	}
	for quarter := range 4 { // so many are never off by half
		low, high := over*time.Duration(quarter)/4, over*time.Duration(quarter+1)/4
		n := 0
		for _, d := range from {
			if low <= d && d < high {
				n++
			}
		}
		if want := len(from) / 4; n < want/2 || n > want*3/2 {
			t.Errorf("%d of %d in the quarter from %v on", n, len(from), low)
		}
	}
	again, err := r.OrderFleet(t.Context(), "", RotationRequest{By: "ada"}, now)
	if want := (FleetCounts{Pending: devices - 1, Refused: 1}); err != nil || again != want {
		t.Errorf("again: %+v, %v; want %+v", again, err, want)
	}
	f.err = io.ErrUnexpectedEOF
	if _, err := r.OrderFleet(t.Context(), "", RotationRequest{By: "ada"}, now); !errors.Is(err, f.err) {
		t.Errorf("the store fails: %v", err)
	}
}

func TestOpenRecovery(t *testing.T) {
	f := &fleet{keys: []Keys{{Device: "roof", Newest: 4}}}
	until, r, err := NewRotations(f, &memory{}, rand.Reader).OpenRecovery(t.Context(), "roof", time.Hour, "ada", now)
	at := now.UTC().Truncate(time.Millisecond)
	if want := at.Add(time.Hour); err != nil || !until.Equal(want) || !slices.Equal(f.windows, []time.Time{want}) {
		t.Errorf("until %v, %v; want %v", until, err, want)
	}
	if want := (Rotation{Epoch: 5, OfferFrom: at}); r != want {
		t.Errorf("%+v, want %+v", r, want)
	}
}
