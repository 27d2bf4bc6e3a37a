package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/keyring"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollout"
	"ecowatt/cloud/session"
	"ecowatt/key"
)

// wrapping is a store with devices and sessions whose keys are wrapped by a
// real ring.
type wrapping struct {
	*Store
	t        *testing.T
	path     string
	stop     func() // ends the committer
	ring     *keyring.Ring
	ringFile string
	devices  map[key.ID]key.Device
	names    map[key.ID]string
	sessions map[[16]byte]key.Session
	owner    map[[16]byte]string
	contents map[rollout.Hash]key.Content
}

func newWrapping(t *testing.T, devices int) *wrapping {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "keyring.json")
	ring, err := keyring.Create(file, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w := &wrapping{
		t: t, path: filepath.Join(dir, "ecowatt.db"), ring: ring, ringFile: file,
		devices: map[key.ID]key.Device{}, names: map[key.ID]string{}, sessions: map[[16]byte]key.Session{}, owner: map[[16]byte]string{},
		contents: map[rollout.Hash]key.Content{},
	}
	w.open()
	for n := range devices {
		w.addDevice(fmt.Sprintf("d%d", n))
	}
	return w
}

// open opens the store, or opens it again.
func (w *wrapping) open() {
	w.t.Helper()
	w.Store = openAt(w.t, w.path, Options{})
	w.stop = run(w.t, w.Store)
}

// close ends the store; a test may open it again.
func (w *wrapping) close() {
	w.t.Helper()
	w.stop()
	if err := w.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// addDevice adds a device with a session, and a release.
func (w *wrapping) addDevice(name string) key.ID {
	w.t.Helper()
	secret, err := key.NewDevice(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	n := newDevice(w.t, name)
	if n.Key.KEK, n.Key.Wrapped, err = w.ring.WrapDevice(secret, name, n.Key.ID, n.Key.Epoch); err != nil {
		w.t.Fatal(err)
	}
	if err := w.CreateDevice(w.t.Context(), n); err != nil {
		w.t.Fatal(err)
	}
	w.devices[n.Key.ID], w.names[n.Key.ID] = secret, name
	offer := w.offer(n.Key.ID)
	if _, err := w.Establish(w.t.Context(), offer); err != nil {
		w.t.Fatal(err)
	}
	w.addRelease()
	return n.Key.ID
}

// addRelease adds a release of which only the key makes sense.
func (w *wrapping) addRelease() {
	w.t.Helper()
	content, err := key.NewContent(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	r := rollout.Release{Envelope: []byte{1}, AddedAt: noon, AddedBy: "ada"}
	rand.Read(r.ID[:])
	var c Content
	if c.KEK, c.Wrapped, err = w.ring.WrapContent(content, r.ID); err == nil {
		_, err = w.AddRelease(w.t.Context(), r, c)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.contents[r.ID] = content
}

// offer is a handshake of a device with keys of its own.
func (w *wrapping) offer(id key.ID) session.Offer {
	w.t.Helper()
	var secret [key.SessionSize]byte
	o := offerOf(id, 1, noon)
	rand.Read(secret[:])
	rand.Read(o.SID[:])
	rand.Read(o.HS1[:])
	keys, err := key.SessionFromBytes(secret[:])
	if err == nil {
		o.KEK, o.Wrapped, err = w.ring.WrapSession(keys, w.names[id], o.SID)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.sessions[o.SID], w.owner[o.SID] = keys, w.names[id]
	return o
}

// rotate adds a key and makes it primary.
func (w *wrapping) rotate() (old, primary string) {
	w.t.Helper()
	old = w.primary()
	k, err := keyring.Draw(rand.Reader, noon)
	if err == nil {
		err = errors.Join(w.ring.Add(k), w.ring.SetPrimary(k.ID))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return old, k.ID
}

func (w *wrapping) primary() string {
	for _, k := range w.ring.Keys() {
		if k.Primary {
			return k.ID
		}
	}
	return ""
}

// opens checks that every key that was stored opens with the ring of the file,
// and is what it was.
func (w *wrapping) opens() {
	w.t.Helper()
	ring, err := keyring.Open(w.ringFile)
	if err != nil {
		w.t.Fatal(err)
	}
	for id, want := range w.devices {
		c, err := w.Credential(w.t.Context(), id)
		if err != nil {
			w.t.Fatal(err)
		}
		got, err := ring.UnwrapDevice(c.KEK, c.Wrapped, string(c.Name), id, c.Epoch)
		if err != nil || !got.Equal(want) {
			w.t.Errorf("the key of %s: %v", c.Name, err)
		}
	}
	for id, want := range w.contents {
		do(w.t, w.Store, func(tx *Tx) error {
			p, found, err := tx.OfferedRelease(id)
			if err != nil || !found {
				w.t.Errorf("a release: %v, %v", found, err)
				return err
			}
			if got, err := ring.UnwrapContent(p.KEK, p.Wrapped, id); err != nil || !got.Equal(want) {
				w.t.Errorf("the content key of a release: %v", err)
			}
			return nil
		})
	}
	for sid, want := range w.sessions {
		s, err := w.Session(w.t.Context(), sid)
		if errors.Is(err, session.ErrUnknown) {
			continue
		}
		if err != nil {
			w.t.Fatal(err)
		}
		got, err := ring.UnwrapSession(s.KEK, s.Wrapped, string(s.Name), sid)
		if err != nil || !got.Equal(want) {
			w.t.Errorf("a session of %s: %v", s.Name, err)
		}
	}
}

func (w *wrapping) order(after string, most int) RewrapOrder {
	return RewrapOrder{
		Keys: w.ring, Primary: w.primary(), After: after, Most: most,
		Record: audit.Record{At: noon, Actor: audit.Actor{Kind: audit.Operator, Name: "ada"}, Action: "keyring.rewrapped"},
	}
}

// rewrap wraps everything anew, so many rows at a time.
func (w *wrapping) rewrap(most int) (sum Rewrapped) {
	w.t.Helper()
	for after := ""; ; {
		done, err := w.Rewrap(w.t.Context(), w.order(after, most))
		if err != nil {
			w.t.Fatal(err)
		}
		sum.DeviceKeys += done.DeviceKeys
		sum.Sessions += done.Sessions
		sum.Releases += done.Releases
		sum.Failed = append(sum.Failed, done.Failed...)
		if after = done.Next; after == "" {
			return sum
		}
	}
}

func (w *wrapping) uses() map[string]KEKUse {
	w.t.Helper()
	uses, err := w.KEKUses(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return uses
}

// Attacks: K15
func TestRewrap(t *testing.T) {
	for _, most := range []int{0, 1, 3, 7, 100} {
		w := newWrapping(t, 7)
		old, primary := w.rotate()
		if diff := cmp.Diff(map[string]KEKUse{old: {7, 7, 7}}, w.uses()); diff != "" {
			t.Fatalf("before (-want +got):\n%s", diff)
		}
		before := len(records(t, w.Store, audit.Filter{}))
		if sum := w.rewrap(most); sum.DeviceKeys != 7 || sum.Sessions != 7 || sum.Releases != 7 || len(sum.Failed) > 0 {
			t.Errorf("%d at a time: %+v", most, sum)
		}
		if diff := cmp.Diff(map[string]KEKUse{primary: {7, 7, 7}}, w.uses()); diff != "" {
			t.Errorf("after (-want +got):\n%s", diff)
		}
		w.opens()
		counted := map[string]int{}
		for _, r := range records(t, w.Store, audit.Filter{})[before:] {
			var n int
			for _, what := range []string{"device_keys", "sessions", "releases"} {
				if _, err := fmt.Sscan(r.Attrs[what], &n); err == nil {
					counted[what] += n
				}
			}
			if r.Actor.Name != "ada" || r.Action != "keyring.rewrapped" || r.Attrs["kek"] != primary {
				t.Errorf("audit record %+v", r)
			}
		}
		if diff := cmp.Diff(map[string]int{"device_keys": 7, "sessions": 7, "releases": 7}, counted); diff != "" {
			t.Errorf("%d at a time: the audit log counts (-want +got):\n%s", most, diff)
		}
		if n := len(records(t, w.Store, audit.Filter{})); w.rewrap(most).DeviceKeys != 0 || len(records(t, w.Store, audit.Filter{})) != n {
			t.Errorf("%d at a time: there was something left, or a record without a change", most)
		}
	}
}

// TestRewrapGoesOn is cut off between any two transactions, and begins again with
// what is on the disk.
//
// Attacks: K15
func TestRewrapGoesOn(t *testing.T) {
	for cut := range 19 {
		w := newWrapping(t, 5)
		_, primary := w.rotate()
		after := ""
		for range cut {
			done, err := w.Rewrap(t.Context(), w.order(after, 1))
			if err != nil {
				t.Fatal(err)
			}
			if after = done.Next; after == "" {
				break
			}
		}
		w.close()
		w.open()
		w.opens()
		var err error
		if w.ring, err = keyring.Open(w.ringFile); err != nil {
			t.Fatal(err)
		}
		w.rewrap(2)
		w.opens()
		if diff := cmp.Diff(map[string]KEKUse{primary: {5, 5, 5}}, w.uses()); diff != "" {
			t.Errorf("cut off after %d (-want +got):\n%s", cut, diff)
		}
	}
}

// meddler lets something happen between the reading of a row and its change.
type meddler struct {
	*keyring.Ring
	meddle func()
}

func (m meddler) RewrapDevice(kek string, wrapped []byte, device string, id key.ID, epoch key.Epoch) (string, []byte, error) {
	m.meddle()
	return m.Ring.RewrapDevice(kek, wrapped, device, id, epoch)
}

func (m meddler) RewrapSession(kek string, wrapped []byte, device string, sid [16]byte) (string, []byte, error) {
	m.meddle()
	return m.Ring.RewrapSession(kek, wrapped, device, sid)
}

func (m meddler) RewrapContent(kek string, wrapped []byte, release [32]byte) (string, []byte, error) {
	m.meddle()
	return m.Ring.RewrapContent(kek, wrapped, release)
}

// TestRewrapMeetsChanges: what somebody else has done to a row meanwhile stays.
func TestRewrapMeetsChanges(t *testing.T) {
	const other = `UPDATE device_key SET kek = 'other', wrapped = zeroblob(72)`
	const retired = `UPDATE device_key SET state = 'retired', kek = NULL, wrapped = NULL`
	for name, c := range map[string]struct{ change, after, check string }{
		"a key replaced":    {other, "", `SELECT count(*) FROM device_key WHERE kek = 'other' AND wrapped = zeroblob(72)`},
		"a key destroyed":   {retired, "", `SELECT count(*) FROM device_key WHERE kek IS NULL AND wrapped IS NULL`},
		"other bytes":       {`UPDATE device_key SET wrapped = zeroblob(72)`, "", `SELECT count(*) FROM device_key WHERE wrapped = zeroblob(72)`},
		"another name":      {`UPDATE device_key SET kek = 'other'`, "", `SELECT count(*) FROM device_key WHERE kek = 'other'`},
		"a session ended":   {`DELETE FROM session`, "s", `SELECT NOT EXISTS (SELECT 1 FROM session)`},
		"a session's bytes": {`UPDATE session SET wrapped = zeroblob(136)`, "s", `SELECT count(*) FROM session WHERE wrapped = zeroblob(136)`},
		"a release removed": {`DELETE FROM firmware`, "f", `SELECT NOT EXISTS (SELECT 1 FROM firmware)`},
		"a release's bytes": {`UPDATE firmware SET wrapped = zeroblob(72)`, "f", `SELECT count(*) FROM firmware WHERE wrapped = zeroblob(72)`},
	} {
		w := newWrapping(t, 1)
		w.rotate()
		o := w.order(c.after, 0)
		o.Keys = meddler{w.ring, func() {
			do(t, w.Store, func(tx *Tx) error {
				_, err := tx.w.exec(c.change)
				return err
			})
		}}
		before := len(records(t, w.Store, audit.Filter{}))
		done, err := w.Rewrap(t.Context(), o)
		if err != nil || done.DeviceKeys+done.Sessions+done.Releases+len(done.Failed) != 0 {
			t.Errorf("%s: %+v, %v", name, done, err)
		}
		if number(t, w.Store, c.check) != 1 {
			t.Errorf("%s: it was overwritten", name)
		}
		if len(records(t, w.Store, audit.Filter{})) != before {
			t.Errorf("%s: a record of no change", name)
		}
	}
}

// TestRewrapOfWhatDoesNotOpen: keys that were moved to
// other rows, or damaged, are named and stay; the others are wrapped anew.
//
// Attacks: R20
func TestRewrapOfWhatDoesNotOpen(t *testing.T) {
	w := newWrapping(t, 4)
	old, primary := w.rotate()
	do(t, w.Store, func(tx *Tx) error {
		_, err1 := tx.w.exec(`UPDATE device_key SET wrapped = (SELECT wrapped FROM device_key WHERE device = 2) WHERE device = 1`)
		_, err2 := tx.w.exec(`UPDATE session SET wrapped = (SELECT wrapped FROM session WHERE device = 4) WHERE device = 3`)
		return errors.Join(err1, err2)
	})
	sum := w.rewrap(1)
	slices.Sort(sum.Failed)
	want := Rewrapped{DeviceKeys: 3, Sessions: 3, Releases: 4, Failed: []string{
		"unwrapping a session of device d2: a wrapped key does not open",
		"unwrapping the key of device d0, epoch 1: a wrapped key does not open",
	}}
	if diff := cmp.Diff(want, sum); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]KEKUse{old: {1, 1, 0}, primary: {3, 3, 4}}, w.uses()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRewrapRefusesPlaces(t *testing.T) {
	w := newWrapping(t, 1)
	w.rotate()
	for _, after := range []string{"x", "d0", "dzz", "d00", "s" + "00", "f" + "00", "f" + fmt.Sprintf("%032d", 0), "0011", " ", "d" + fmt.Sprintf("%034d", 0)} {
		if done, err := w.Rewrap(t.Context(), w.order(after, 0)); !errors.Is(err, ErrPlace) || done.DeviceKeys != 0 {
			t.Errorf("%q: %+v, %v; want ErrPlace", after, done, err)
		}
	}
}

// TestCloseKEK: a key-encryption key that is closed wraps nothing, and never
// will, whoever has wrapped something with it before.
//
// Attacks: K15
func TestCloseKEK(t *testing.T) {
	w := newWrapping(t, 3)
	late := w.offer(w.addDevice("late"))
	old, primary := w.rotate()
	record := audit.Record{At: noon, Actor: audit.Actor{Kind: audit.Operator, Name: "ada"}, Action: "keyring.key_removed"}
	var used *KEKInUseError
	if err := w.CloseKEK(t.Context(), old, record); !errors.As(err, &used) || used.KEKUse != (KEKUse{4, 4, 4}) || used.KEK != old {
		t.Errorf("closing what wraps: %v, %+v", err, used)
	}
	if done, err := w.Rewrap(t.Context(), w.order("", 0)); err != nil || done.DeviceKeys != 4 {
		t.Fatalf("%+v, %v", done, err)
	}
	if err := w.CloseKEK(t.Context(), old, record); !errors.As(err, &used) || used.KEKUse != (KEKUse{0, 4, 4}) {
		t.Errorf("closing what wraps sessions: %v", err)
	}
	w.rewrap(0)
	if err := errors.Join(w.CloseKEK(t.Context(), old, record), w.CloseKEK(t.Context(), old, record)); err != nil {
		t.Fatal(err)
	}
	if last := records(t, w.Store, audit.Filter{Last: 1})[0]; last.Action != record.Action || last.Actor.Name != "ada" {
		t.Errorf("the audit log ends with %+v", last)
	}
	if _, err := w.Establish(t.Context(), late); err == nil || session.HandshakeReason(err) != "" {
		t.Errorf("a session wrapped before it was closed: %v; want a failure that is not the device's", err)
	}
	n := newDevice(t, "new")
	n.Key.KEK = old
	if err := w.CreateDevice(t.Context(), n); err == nil || errors.Is(err, registry.ErrExists) {
		t.Errorf("a device wrapped before it was closed: %v", err)
	}
	if _, err := w.Device(t.Context(), ecowatt.DeviceID("new")); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("half of it was stored: %v", err)
	}
	for _, query := range []string{`UPDATE device_key SET kek = $1`, `UPDATE session SET kek = $1`, `UPDATE firmware SET kek = $1`} {
		err := w.write(t.Context(), func(tx *Tx) error {
			_, err := tx.w.exec(query, old)
			return err
		})
		if err == nil {
			t.Errorf("%s is possible", query)
		}
	}
	if _, err := w.AddRelease(t.Context(), rollout.Release{Envelope: []byte{1}}, Content{KEK: old, Wrapped: make([]byte, 72)}); err == nil {
		t.Error("a release wrapped before it was closed is stored")
	}
	if diff := cmp.Diff(map[string]KEKUse{primary: {4, 4, 4}}, w.uses()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := w.OpenKEKs(t.Context(), old, "another"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Establish(t.Context(), late); err != nil {
		t.Errorf("after it was opened again: %v", err)
	}
	w.opens()
}
