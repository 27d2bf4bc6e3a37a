package identity

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
	"ecowatt/key"
)

const day = 24 * 60 * 60 * 1000 // ms

// TestSlots: what the slots say is what the device does.
//
// Attacks: K7
func TestSlots(t *testing.T) {
	one, two, again := credential(t, 1), credential(t, 2), credential(t, 1)
	in := func(c Credential, s state) []byte { return plain(t, slot{Credential: c, state: s}) }
	burning := plain(t, slot{Credential: two, state: active, burn: true})
	ending := plain(t, slot{Credential: one, state: fallback, end: 7})
	whole := in(two, active)
	torn := []string{"keys/psk.b: not an intact key slot"}
	for _, c := range []struct {
		name   string
		a, b   []byte // nil for no file
		active Credential
		staged *Credential
		before *Credential // the fallback
		end    int64
		burn   bool
		torn   []string
		err    error
	}{
		{name: "only a", a: in(one, active), active: one},
		{name: "only b", b: in(two, active), active: two},
		{name: "only a staged one", b: in(two, staged), active: two},
		{name: "only a fallback", a: ending, active: one},
		{name: "staged", a: in(one, active), b: in(two, staged), active: one, staged: &two},
		{name: "staged in a", a: in(two, staged), b: in(one, active), active: one, staged: &two},
		{name: "staged with burn", a: in(one, active), b: plain(t, slot{Credential: two, state: staged, burn: true}), active: one, staged: &two, burn: true},
		{name: "staged beside a staged one", a: in(one, staged), b: in(two, staged), active: one, staged: &two},
		{name: "newer in b", a: in(one, active), b: whole, active: two, before: &one},
		{name: "newer in a", a: whole, b: ending, active: two, before: &one, end: 7},
		{name: "burned", a: in(one, active), b: burning, active: two},
		{name: "burned in a", a: burning, b: ending, active: two},
		{name: "b torn", a: in(one, active), b: whole[:50], active: one, torn: torn},
		{name: "b empty", a: in(one, active), b: []byte{}, active: one, torn: torn},
		{name: "b huge", a: in(one, active), b: bytes.Repeat(whole, 100), active: one, torn: torn},
		{name: "a torn", a: make([]byte, plainSize), b: whole, active: two, torn: []string{"keys/psk.a: not an intact key slot"}},
		{name: "same epoch", a: in(one, active), b: in(again, staged), active: one, torn: []string{"keys/psk.b: of the same epoch as keys/psk.a"}},
		{name: "both torn", a: whole[:10], b: whole[:91], err: ErrNoKey},
		{name: "none", err: ErrNoKey},
		{name: "another version", a: in(one, active), b: withSum([]byte("EWPK\x03")), err: ErrVersion},
	} {
		t.Run(c.name, func(t *testing.T) {
			fsys := disktest.New()
			enroll(t, fsys, enrolment(t))
			for name, data := range map[string][]byte{slotA: c.a, slotB: c.b} {
				if data == nil {
					if err := disk.Delete(fsys, name); err != nil {
						t.Fatal(err)
					}
					continue
				}
				writeFile(t, fsys, name, data, 0o600)
			}
			id, err := at(fsys).Load()
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if err != nil {
				return
			}
			if !id.Active.Equal(c.active) || !equal(id.Staged, c.staged) || !equal(id.Fallback, c.before) || id.End != c.end || id.Burn != c.burn {
				t.Errorf("%+v", id.Keys)
			}
			if diff := cmp.Diff(c.torn, id.Torn); diff != "" {
				t.Errorf("torn (-want +got):\n%s", diff)
			}
		})
	}
}

func equal(a, b *Credential) bool { return (a == nil) == (b == nil) && (a == nil || a.Equal(*b)) }

// describe tells what keys are.
func (k Keys) describe() string {
	text := fmt.Sprintf("active %d", k.Active.Epoch)
	if k.Staged != nil {
		text += fmt.Sprintf(", staged %d", k.Staged.Epoch)
	}
	if k.Burn {
		text += " with burn"
	}
	if k.Fallback != nil {
		text += fmt.Sprintf(", fallback %d", k.Fallback.Epoch)
	}
	if k.End != 0 {
		text += fmt.Sprintf(" until day %d", (k.End-now)/day)
	}
	return text
}

// TestNoKey: what the operator is told when no slot is intact, and that
// enrolling again is the way out.
//
// Attacks: K8
func TestNoKey(t *testing.T) {
	e := enrolment(t)
	fsys := disktest.New()
	enroll(t, fsys, e)
	writeFile(t, fsys, slotA, []byte("damaged"), 0o600)
	writeFile(t, fsys, slotB, nil, 0o600)
	_, err := at(fsys).Load()
	if !errors.Is(err, ErrNoKey) {
		t.Fatal(err)
	}
	for _, want := range []string{slotA, slotB, "enrolment file again", "'ecowatt device recover roof-1'"} {
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q does not say %q in one line", err, want)
		}
	}
	enroll(t, fsys, e)
	id, err := at(fsys).Load()
	if err != nil {
		t.Fatal(err)
	}
	e.is(t, id)
	if id.Torn != nil || id.describe() != "active 1" {
		t.Errorf("%s, torn %v", id.describe(), id.Torn)
	}
}

// on is a folder with the keys that are active and, unless its epoch is 0, a
// fallback.
func on(t *testing.T, fsys disk.FS, c Credential, before *Credential) (Folder, Keys) {
	t.Helper()
	e := enrolment(t)
	e.Credential = c
	enroll(t, fsys, e)
	if before != nil {
		writeFile(t, fsys, slotB, plain(t, slot{Credential: *before, state: fallback, end: now + 3*day}), 0o600)
	}
	id, err := at(fsys).Load()
	if err != nil {
		t.Fatal(err)
	}
	return at(fsys), id.Keys
}

// TestRotation walks through rotations, and loads after every step what it
// returned.
func TestRotation(t *testing.T) {
	f, keys := on(t, disktest.New(), credential(t, 1), nil)
	two, three, five, six := credential(t, 2), credential(t, 3), credential(t, 5), credential(t, 6)
	for _, step := range []struct {
		name string
		do   func() (Keys, error)
		ops  bool // whether anything is written
		want string
	}{
		{"nothing is staged", func() (Keys, error) { return f.Commit(keys, now) }, false, "active 1"},
		{"nothing is due", func() (Keys, error) { return f.Tidy(keys, now) }, false, "active 1"},
		{"an offer", func() (Keys, error) { return f.Stage(keys, two, false) }, true, "active 1, staged 2"},
		{"the same", func() (Keys, error) { return f.Stage(keys, two, false) }, false, "active 1, staged 2"},
		{"the same with burn", func() (Keys, error) { return f.Stage(keys, two, true) }, true, "active 1, staged 2 with burn"},
		{"without again", func() (Keys, error) { return f.Stage(keys, two, false) }, true, "active 1, staged 2"},
		{"another key of that epoch", func() (Keys, error) { two = credential(t, 2); return f.Stage(keys, two, false) }, true, "active 1, staged 2"},
		{"a later one", func() (Keys, error) { return f.Stage(keys, three, false) }, true, "active 1, staged 3"},
		{"and an earlier one again", func() (Keys, error) { return f.Stage(keys, two, false) }, true, "active 1, staged 2"},
		{"answered, the time is not known", func() (Keys, error) { return f.Commit(keys, 0) }, true, "active 2, fallback 1"},
		{"it still is not", func() (Keys, error) { return f.Tidy(keys, 0) }, false, "active 2, fallback 1"},
		{"it is", func() (Keys, error) { return f.Tidy(keys, now) }, true, "active 2, fallback 1 until day 14"},
		{"a day later", func() (Keys, error) { return f.Tidy(keys, now+day) }, false, "active 2, fallback 1 until day 14"},
		{"a moment before the end", func() (Keys, error) { return f.Tidy(keys, now+14*day-1) }, false, "active 2, fallback 1 until day 14"},
		{"the clock is set back a little", func() (Keys, error) { return f.Tidy(keys, now-day) }, false, "active 2, fallback 1 until day 14"},
		{"the clock was quite wrong", func() (Keys, error) { return f.Tidy(keys, now-10*day) }, true, "active 2, fallback 1 until day 4"},
		{"the end", func() (Keys, error) { return f.Tidy(keys, now+4*day) }, true, "active 2"},
		{"an offer that skips", func() (Keys, error) { return f.Stage(keys, five, false) }, true, "active 2, staged 5"},
		{"answered", func() (Keys, error) { return f.Commit(keys, now) }, true, "active 5, fallback 2 until day 14"},
		{"answered again", func() (Keys, error) { return f.Commit(keys, now) }, false, "active 5, fallback 2 until day 14"},
		{"an offer in place of the fallback", func() (Keys, error) { return f.Stage(keys, six, true) }, true, "active 5, staged 6 with burn"},
		{"answered under what burns", func() (Keys, error) { return f.Commit(keys, now) }, true, "active 6"},
		{"nothing comes back", func() (Keys, error) { return f.Tidy(keys, now+30*day) }, false, "active 6"},
	} {
		ops := f.FS.(*disktest.Disk).Ops()
		next, err := step.do()
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if wrote := f.FS.(*disktest.Disk).Ops() > ops; wrote != step.ops {
			t.Errorf("%s: writes: %v", step.name, wrote)
		}
		if got := next.describe(); got != step.want {
			t.Fatalf("%s: %s, want %s", step.name, got, step.want)
		}
		id, err := f.Load()
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if diff := cmp.Diff(next, id.Keys, cmp.AllowUnexported(Keys{}), cmp.Comparer(Credential.Equal)); diff != "" {
			t.Fatalf("%s: (-told +kept)\n%s", step.name, diff)
		}
		if first, other := next.First(); next.Staged != nil && (!first.Equal(*next.Staged) || !equal(other, &next.Active)) || next.Staged == nil && (!first.Equal(next.Active) || !equal(other, next.Fallback)) {
			t.Errorf("%s: shakes hands with epoch %d", step.name, first.Epoch)
		}
		keys = next
	}
}

// TestRefusedOffers: what is no key to take changes nothing.
//
// Attacks: K11
func TestRefusedOffers(t *testing.T) {
	four, three := credential(t, 4), credential(t, 3)
	f, keys := on(t, disktest.New(), four, &three)
	later := func(edit func(c *Credential)) Credential {
		c := credential(t, 5)
		edit(&c)
		return c
	}
	for _, c := range []struct {
		name  string
		offer Credential
		want  string
	}{
		{"the active key", four, "of epoch 4, and epoch 4 is active"},
		{"another key of the active epoch", credential(t, 4), "of epoch 4, and epoch 4 is active"},
		{"the fallback", three, "of epoch 3"},
		{"an earlier epoch", credential(t, 1), "of epoch 1"},
		{"epoch 0", credential(t, 0), "of epoch 0"},
		{"no key", later(func(c *Credential) { c.Key = key.Device{} }), "drawn at random"},
		{"the active key under a later epoch", later(func(c *Credential) { c.Key = four.Key }), "the key of epoch 4"},
		{"the id of the active key", later(func(c *Credential) { c.ID = four.ID }), "the key of epoch 4"},
		{"the key of the epoch before", later(func(c *Credential) { c.Key = three.Key }), "the key of epoch 3"},
	} {
		ops := f.FS.(*disktest.Disk).Ops()
		next, err := f.Stage(keys, c.offer, true)
		if !errors.Is(err, ErrOffer) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if f.FS.(*disktest.Disk).Ops() != ops || next.describe() != keys.describe() {
			t.Errorf("%s: something changed", c.name)
		}
	}
}

// powerCut is a change of keys that is cut.
type powerCut struct {
	name   string
	before *Credential                          // the fallback, nil for none
	ready  func(f Folder, k Keys) (Keys, error) // makes the keys ready; is not cut
	change func(f Folder, k Keys) (Keys, error)
	want   []string // what the keys may be after a cut, the last one what they become
}

// TestRotationPowerCut cuts the power at every operation of a change, and wants
// the keys to be those before it or those after it, and the change to be possible
// again; and that at no moment the device has no key that the cloud takes.
//
// Attacks: K2, K5
func TestRotationPowerCut(t *testing.T) {
	one, two, three := credential(t, 1), credential(t, 2), credential(t, 3)
	staged := func(f Folder, k Keys, burn bool) (Keys, error) { return f.Stage(k, three, burn) }
	for _, c := range []powerCut{
		{
			name:   "stage",
			change: func(f Folder, k Keys) (Keys, error) { return staged(f, k, false) },
			want:   []string{"active 2", "active 2, staged 3"},
		},
		{
			name: "stage in place of the fallback", before: &one,
			change: func(f Folder, k Keys) (Keys, error) { return staged(f, k, true) },
			want:   []string{"active 2, fallback 1 until day 3", "active 2, staged 3 with burn"},
		},
		{
			name:   "stage in place of another",
			ready:  func(f Folder, k Keys) (Keys, error) { return f.Stage(k, credential(t, 7), true) },
			change: func(f Folder, k Keys) (Keys, error) { return staged(f, k, false) },
			want:   []string{"active 2, staged 7 with burn", "active 2, staged 3"},
		},
		{
			name:   "commit",
			ready:  func(f Folder, k Keys) (Keys, error) { return staged(f, k, false) },
			change: func(f Folder, k Keys) (Keys, error) { return f.Commit(k, now) },
			want:   []string{"active 2, staged 3", "active 3, fallback 2", "active 3, fallback 2 until day 14"},
		},
		{
			name:   "commit with burn",
			ready:  func(f Folder, k Keys) (Keys, error) { return staged(f, k, true) },
			change: func(f Folder, k Keys) (Keys, error) { return f.Commit(k, now) },
			want:   []string{"active 2, staged 3 with burn", "active 3"},
		},
		{
			name: "the end of a fallback", before: &one,
			change: func(f Folder, k Keys) (Keys, error) { return f.Tidy(k, now+3*day) },
			want:   []string{"active 2, fallback 1 until day 3", "active 2"},
		},
	} {
		t.Run(c.name, func(t *testing.T) { c.cut(t, two) })
	}
}

// cut is one change that is cut.
func (c powerCut) cut(t *testing.T, active Credential) {
	t.Helper()
	run := func(fsys *disktest.Disk, before func()) error {
		f, keys := on(t, fsys, active, c.before)
		var err error
		if c.ready != nil {
			if keys, err = c.ready(f, keys); err != nil {
				t.Fatal(err)
			}
		}
		before()
		_, err = c.change(f, keys)
		return err
	}
	whole := disktest.New()
	first := 0
	if err := run(whole, func() { first = whole.Ops() }); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for op := first + 1; op <= whole.Ops(); op++ {
		for _, when := range []disktest.When{disktest.Before, disktest.Inside, disktest.After} {
			for _, fate := range []disktest.Fate{disktest.Lost, disktest.Kept, disktest.Torn, disktest.Holed} {
				d := disktest.New()
				if err := run(d, func() { d.CutAt(op, when) }); !errors.Is(err, disktest.ErrPowerCut) {
					t.Fatalf("%d %v %v: %v", op, when, fate, err)
				}
				t.Run(fmt.Sprintf("%d-%v-%v", op, when, fate), func(t *testing.T) {
					seen[c.check(t, at(d.Restart(fate)), active)] = true
				})
			}
		}
	}
	for _, want := range c.want {
		if !seen[want] {
			t.Errorf("after no cut it was %q", want)
		}
	}
}

// check looks at what is left after a cut, has it mended, and does the change
// again. It returns what was left.
func (c powerCut) check(t *testing.T, f Folder, active Credential) string {
	t.Helper()
	id, err := f.Load()
	if err != nil || id.Torn != nil {
		t.Fatalf("%v, torn %v", err, id.Torn)
	}
	got := id.describe()
	if !slices.Contains(c.want, got) {
		t.Errorf("%s, want one of %q", got, c.want)
	}
	if err := f.Mend(); err != nil {
		t.Errorf("mending: %v", err)
	}
	after, err := f.Load()
	if err != nil || after.describe() != got {
		t.Errorf("mended: %s, %v", after.describe(), err)
	}
	if names, err := f.FS.List(keysFolder); err != nil || strings.Contains(fmt.Sprint(names), disk.Temporary) {
		t.Errorf("mended there are %v, %v", names, err)
	}
	if got == "active 3" && holds(t, f.FS, active) {
		t.Error("what was burned is on the disk")
	}
	keys, err := c.change(f, after.Keys)
	if last := c.want[len(c.want)-1]; err == nil && keys.describe() != last {
		keys, err = f.Tidy(keys, now)
	}
	if last := c.want[len(c.want)-1]; err != nil || keys.describe() != last {
		t.Errorf("again: %s, %v; want %s", keys.describe(), err, last)
	}
	return got
}

// holds reports whether the key stands in any file of the folder of keys.
func holds(t *testing.T, fsys disk.FS, c Credential) bool {
	t.Helper()
	names, err := fsys.List(keysFolder)
	if err != nil {
		t.Fatal(err)
	}
	secret := c.Key.Secret()
	for _, name := range names {
		b, err := disk.ReadFile(fsys, keysFolder+"/"+name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, secret[:8]) {
			return true
		}
	}
	return false
}

// TestBurn: nothing of the old key is left, also of a write of it that was cut.
//
// Attacks: K13
func TestBurn(t *testing.T) {
	one, two := credential(t, 1), credential(t, 2)
	d := disktest.New()
	f, keys := on(t, d, one, nil)
	writeFile(t, d, slotA+".tmp", only(t, one), 0o600)
	keys, err := f.Stage(keys, two, true)
	if err != nil {
		t.Fatal(err)
	}
	if !holds(t, d, one) {
		t.Fatal("the active key is gone before the next one is committed")
	}
	d.SetCapacity(1) // a file can be deleted, but not written
	if keys, err = f.Commit(keys, now); err == nil || keys.describe() != "active 1, staged 2 with burn" {
		t.Errorf("on a full disk: %s, %v", keys.describe(), err)
	}
	d.SetCapacity(0)
	if keys, err = f.Commit(keys, now); err != nil || keys.describe() != "active 2" || holds(t, d, one) {
		t.Errorf("%s, %v, there: %v", keys.describe(), err, holds(t, d, one))
	}
	// A copy of it that somebody brings back is neither used nor kept.
	writeFile(t, d, slotA, only(t, one), 0o600)
	id, err := f.Load()
	if err != nil || id.describe() != "active 2" {
		t.Fatalf("%s, %v", id.describe(), err)
	}
	if err := f.Mend(); err != nil || holds(t, d, one) {
		t.Errorf("mended: %v, there: %v", err, holds(t, d, one))
	}
}

// TestFullDisk: a change that cannot be written is none, and is possible later.
func TestFullDisk(t *testing.T) {
	one, two := credential(t, 1), credential(t, 2)
	d := disktest.New()
	f, keys := on(t, d, one, nil)
	for _, change := range []func() (Keys, error){
		func() (Keys, error) { return f.Stage(keys, two, false) },
		func() (Keys, error) { return f.Commit(keys, now) },
	} {
		before := keys.describe()
		d.SetCapacity(1)
		next, err := change()
		id, err2 := f.Load()
		if err == nil || err2 != nil || next.describe() != before || id.describe() != before {
			t.Fatalf("%s, kept %s, errors %v, %v; want %s", next.describe(), id.describe(), err, err2, before)
		}
		d.SetCapacity(0)
		if keys, err = change(); err != nil {
			t.Fatal(err)
		}
	}
	if keys.describe() != "active 2, fallback 1 until day 14" {
		t.Error(keys.describe())
	}
}

// TestSealing: with a storage key slots are sealed, those that were plain are at
// the next start, and without it they do not open.
func TestSealing(t *testing.T) {
	one, two, three := credential(t, 1), credential(t, 2), credential(t, 3)
	d := disktest.New()
	_, keys := on(t, d, two, &one)
	if !holds(t, d, one) || !holds(t, d, two) {
		t.Fatal("without a storage key the slots are not plain")
	}
	f := Folder{FS: d, Storage: storage(t, "right")}
	id, err := f.Load()
	if err != nil || id.describe() != keys.describe() {
		t.Fatalf("plain slots under a storage key: %s, %v", id.describe(), err)
	}
	if err := f.Mend(); err != nil || holds(t, d, one) || holds(t, d, two) {
		t.Errorf("mended, a slot is plain: %v", err)
	}
	ops := d.Ops()
	if err := f.Mend(); err != nil || d.Ops() != ops {
		t.Errorf("mended again: %v, %d operations", err, d.Ops()-ops)
	}
	if id, err = f.Load(); err != nil || id.describe() != keys.describe() || !id.Active.Equal(two) || !equal(id.Fallback, &one) {
		t.Errorf("sealed: %s, %v", id.describe(), err)
	}
	if keys, err = f.Stage(id.Keys, three, false); err != nil || holds(t, d, three) {
		t.Errorf("staged plain: %v", err)
	}
	if _, err = f.Commit(keys, now); err != nil || holds(t, d, three) || holds(t, d, two) {
		t.Errorf("committed plain: %v", err)
	}
	for name, c := range map[string]struct {
		f    Folder
		want string
	}{
		"no credential":      {Folder{FS: d}, "LoadCredentialEncrypted=" + StorageCredential},
		"another credential": {Folder{FS: d, Storage: storage(t, "wrong")}, "does not open with the credential " + StorageCredential},
	} {
		_, err := c.f.Load()
		enrolled := c.f.Enroll(enrolment(t))
		mended := c.f.Mend()
		for _, err := range []error{err, enrolled, mended} {
			if !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "keys/psk.") {
				t.Errorf("%s: %v, want %q", name, err, c.want)
			}
		}
	}
	if id, err = f.Load(); err != nil || id.describe() != "active 3, fallback 2 until day 14" {
		t.Errorf("afterwards: %s, %v", id.describe(), err)
	}
}

// TestEnrollSealed: where there is a storage key at the enrolment, no key is ever
// plain on the disk.
func TestEnrollSealed(t *testing.T) {
	e := enrolment(t)
	disktest.Sweep(t, func(fsys disk.FS) error {
		return Folder{FS: fsys, Storage: storage(t, "right")}.Enroll(e)
	}, func(t *testing.T, fsys disk.FS, cut disktest.Cut) {
		if _, err := fsys.Stat(keysFolder); err == nil && holds(t, fsys, e.Credential) {
			t.Error("the key is on the disk")
		}
		f := Folder{FS: fsys, Storage: storage(t, "right")}
		if err := f.Enroll(e); err != nil {
			t.Fatal(err)
		}
		id, err := f.Load()
		if err != nil {
			t.Fatal(err)
		}
		e.is(t, id)
	})
}

// TestSealingPowerCut: whatever is cut while slots are sealed, the keys are there,
// and the next start seals them.
func TestSealingPowerCut(t *testing.T) {
	one, two := credential(t, 1), credential(t, 2)
	f := func(fsys disk.FS) Folder { return Folder{FS: fsys, Storage: storage(t, "right")} }
	disktest.Sweep(t, func(fsys disk.FS) error {
		e := enrolment(t)
		e.Credential = two
		if err := at(fsys).Enroll(e); err != nil {
			return err
		}
		if err := disk.WriteFile(fsys, slotB, plain(t, slot{Credential: one, state: fallback, end: now}), secretMode); err != nil {
			return err
		}
		return f(fsys).Mend()
	}, func(t *testing.T, fsys disk.FS, cut disktest.Cut) {
		id, err := f(fsys).Load()
		if errors.Is(err, ErrNotEnrolled) {
			return
		}
		if err != nil || id.Torn != nil || !id.Active.Equal(two) || id.Fallback != nil && !id.Fallback.Equal(one) {
			t.Fatalf("%s, %v, torn %v", id.describe(), err, id.Torn)
		}
		if err := f(fsys).Mend(); err != nil || holds(t, fsys, one) || holds(t, fsys, two) {
			t.Errorf("mended: %v", err)
		}
		if after, err := f(fsys).Load(); err != nil || after.describe() != id.describe() {
			t.Errorf("mended: %s, %v; want %s", after.describe(), err, id.describe())
		}
	})
}

// TestUnit: the unit of the gateway names the credential that the agent reads.
func TestUnit(t *testing.T) {
	text, err := os.ReadFile("../../deploy/ecowatt-gateway.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n#LoadCredentialEncrypted=" + StorageCredential + ":/", "\nLimitCORE=0\n", "\nUMask=0077\n", "\nNoNewPrivileges=yes\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the unit does not have the line%s", want)
		}
	}
}
