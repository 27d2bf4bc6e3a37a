package agent

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/agent/identity"
	"ecowatt/agent/uplink"
	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
	"ecowatt/key"
	"ecowatt/wire"
)

// kept returns the keys on the device's disk.
func (r *rig) kept() identity.Identity {
	r.t.Helper()
	id, err := identity.Folder{FS: r.disk, Storage: r.parts.storage}.Load()
	if err != nil {
		r.t.Fatal(err)
	}
	return id
}

// epochs tells the epochs on the device's disk, like "2, staged 3" or "3, before 2".
func (r *rig) epochs() string {
	r.t.Helper()
	id := r.kept()
	text := fmt.Sprint(id.Active.Epoch)
	if id.Staged != nil {
		text += fmt.Sprintf(", staged %d", id.Staged.Epoch)
	}
	if id.Fallback != nil {
		text += fmt.Sprintf(", before %d", id.Fallback.Epoch)
	}
	return text
}

// on checks that the device and the cloud have come to an epoch, and that the
// last request came with it.
func (r *rig) on(epoch key.Epoch, kept string) {
	r.t.Helper()
	if k := r.cloud.active(); k == nil || k.Epoch != epoch {
		r.t.Errorf("active in the cloud is %+v, want epoch %d", k, epoch)
	} else if id := r.kept(); !id.Active.Equal(k.Credential) {
		r.t.Errorf("active on the device is epoch %d, and another key than the cloud's of epoch %d", id.Active.Epoch, k.Epoch)
	}
	if got := r.epochs(); got != kept {
		r.t.Errorf("the device keeps %s, want %s", got, kept)
	}
	r.cloud.locked(func() {
		if last := r.cloud.under[len(r.cloud.under)-1]; last != epoch {
			r.t.Errorf("the last request came with epoch %d, want %d", last, epoch)
		}
	})
}

// minutes is a rig that exchanges once in a minute and samples once in ten.
func minutes(t *testing.T) *rig {
	t.Helper()
	return newRig(t, func(s *Settings) {
		s.UploadInterval, s.SamplingInterval, s.FlushInterval = time.Minute, 10*time.Minute, 0
	})
}

// reported are the epochs that the requests told, each row once.
func (c *cloud) reported() (rows []string) {
	c.locked(func() {
		for i, q := range c.requests {
			row := fmt.Sprintf("under %d: %d", c.under[i], q.Epochs.Active)
			if q.Epochs.Staged != 0 {
				row += fmt.Sprintf(", staged %d", q.Epochs.Staged)
			}
			if len(rows) == 0 || rows[len(rows)-1] != row {
				rows = append(rows, row)
			}
		}
	})
	return rows
}

// Attacks: K1
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.start()
		r.runFor(time.Hour)
		var offered, used time.Time
		r.cloud.locked(func() {
			r.cloud.order(2, false)
			r.cloud.meddle = func(_ int, q wire.Request, _ []wire.Result) fate {
				if used.IsZero() && q.Epochs.Staged == 2 {
					used = time.Now()
				} else if offered.IsZero() {
					offered = time.Now()
				}
				return arrives
			}
		})
		r.runFor(time.Hour)
		r.cloud.locked(func() { r.cloud.meddle = nil })
		r.on(2, "2, before 1")
		if wait := used.Sub(offered); wait < 0 || wait > time.Second {
			t.Errorf("the key is used %v after it was offered", wait)
		}
		end := time.UnixMilli(r.kept().End).Sub(used)
		if off := end - identity.FallbackAge; off.Abs() > time.Second {
			t.Errorf("the key before ends %v after the commit", end)
		}
		r.restart()
		r.runFor(time.Hour)
		want := []string{"under 1: 1", "under 2: 1, staged 2", "under 2: 2"}
		if diff := cmp.Diff(want, r.cloud.reported()); diff != "" {
			t.Errorf("epochs (-want +got):\n%s", diff)
		}
		r.plant.setSilent(true)
		r.runFor(identity.FallbackAge - 4*time.Hour)
		if got := r.epochs(); got != "2, before 1" {
			t.Errorf("before its end: %s", got)
		}
		r.cloud.setAway(true) // the cloud's answers tell the time, and that nothing else is needed
		r.runFor(5 * time.Hour)
		if got := r.epochs(); got != "2, before 1" {
			t.Errorf("without an answer: %s", got)
		}
		r.cloud.setAway(false)
		r.runFor(time.Hour)
		r.on(2, "2")
		r.check()
		codes := r.cloud.codes()
		for _, code := range []string{codeKeyStaged, codeKeyCommitted, codeKeyExpired} {
			if codes[code] != 1 {
				t.Errorf("%s is told %d times", code, codes[code])
			}
		}
		r.stop()
	})
}

// TestBurn: nothing of the old key is left on the device.
//
// Attacks: K13
func TestBurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := minutes(t)
		old := r.cloud.active()
		r.start()
		r.runFor(5 * time.Minute)
		inMemory := r.identity.Active.Key
		if !r.onDisk(old.Credential) || inMemory.IsZero() {
			t.Fatal("the key is not there")
		}
		r.cloud.locked(func() { r.cloud.order(2, true) })
		r.runFor(5 * time.Minute)
		r.on(2, "2")
		if r.onDisk(old.Credential) || !inMemory.IsZero() {
			t.Error("the burned key is there")
		}
		if old.state != "retired" {
			t.Errorf("for the cloud it is %s", old.state)
		}
		// The cloud never takes it again, and the device never tries it.
		r.cloud.locked(func() { clear(r.cloud.sessions); delete(r.cloud.keys, r.cloud.find("active").ID); old.state = "active" })
		before := r.cloud.count()
		r.runFor(6 * time.Hour)
		if r.cloud.count() != before {
			t.Error("a request with a key that was burned")
		}
		if codes := r.log.String(); strings.Count(codes, codeKeyBurned) != 1 || strings.Contains(codes, "ROT_FALLBACK") {
			t.Errorf("log:\n%s", codes)
		}
		r.stop()
	})
}

// onDisk reports whether a key stands anywhere on the device's disk.
func (r *rig) onDisk(c identity.Credential) bool {
	r.t.Helper()
	secret := c.Key.Secret()
	found := false
	var walk func(dir string)
	walk = func(dir string) {
		names, err := r.disk.List(dir)
		if err != nil {
			b, err := disk.ReadFile(r.disk, dir, 1<<30)
			if err != nil {
				r.t.Fatal(err)
			}
			found = found || bytes.Contains(b, secret[:8])
			return
		}
		for _, name := range names {
			walk(strings.TrimPrefix(dir+"/"+name, "./"))
		}
	}
	walk(".")
	return found
}

// TestLostAnswers: the request that commits the key in the cloud arrives, the
// answer does not, and the device may be restarted in between.
//
// Attacks: K6
func TestLostAnswers(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				var lost atomic.Int32
				r.cloud.meddle = func(_ int, q wire.Request, _ []wire.Result) fate {
					if q.Epochs.Staged != 0 && lost.Load() < 3 {
						lost.Add(1)
						return forgotten
					}
					return arrives
				}
				r.cloud.order(2, false)
				r.start()
				for range 1000 { // a slot has 900 seconds
					if r.runFor(time.Second); lost.Load() > 0 {
						break
					}
				}
				if k := r.cloud.active(); k.Epoch != 2 {
					t.Fatalf("active is %d", k.Epoch)
				}
				if got := r.epochs(); got != "1, staged 2" {
					t.Errorf("the device keeps %s", got)
				}
				if restart {
					r.restart()
				}
				r.runFor(2 * time.Hour)
				r.plant.setSilent(true)
				r.runFor(time.Hour)
				r.on(2, "2, before 1")
				r.check()
				r.stop()
			})
		})
	}
}

// powered is a line that needs power, as the disk does.
func (r *rig) powered(_ string, _ []byte, ask func() (uplink.Reply, error)) (uplink.Reply, error) {
	if _, err := r.disk.Stat("."); err != nil {
		return uplink.Reply{}, err
	}
	return ask()
}

// TestRotationPowerCut cuts the power at every write of a rotation, from the offer
// to the commit: the device comes back by itself, and ends on the new key.
//
// Attacks: K2, K3, K5
func TestRotationPowerCut(t *testing.T) {
	for _, burn := range []bool{false, true} {
		total := 0
		rotation := func(t *testing.T, cut func(r *rig)) *rig {
			r := minutes(t)
			r.plant.setSilent(true)
			r.cloud.between = r.powered
			r.start()
			r.runFor(90 * time.Second)
			cut(r)
			r.cloud.locked(func() { r.cloud.order(2, burn) })
			r.runFor(time.Minute)
			return r
		}
		kept := map[bool]string{false: "2, before 1", true: "2"}[burn]
		t.Run(fmt.Sprintf("burn=%v", burn), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				before := 0
				r := rotation(t, func(r *rig) { before = r.disk.Ops() })
				r.on(2, kept)
				total = r.disk.Ops() - before
				r.stop()
			})
			if total < 10 {
				t.Fatalf("only %d operations", total)
			}
			for op := 1; op <= total; op++ {
				for _, when := range []disktest.When{disktest.Inside, disktest.After} { // before one is after the one before
					for _, fate := range []disktest.Fate{disktest.Lost, disktest.Kept, disktest.Torn, disktest.Holed} {
						synctest.Test(t, func(t *testing.T) {
							r := rotation(t, func(r *rig) { r.disk.CutAt(r.disk.Ops()+op, when) })
							r.kill()
							r.disk = r.disk.Restart(fate)
							r.start()
							r.runFor(2 * time.Minute)
							r.on(2, kept)
							if t.Failed() {
								t.Fatalf("power cut at %d, %v, what was not synced is %v; log:\n%s", op, when, fate, r.log.String())
							}
							r.stop()
						})
					}
				}
			}
		})
	}
}

// slotWrites returns what stands in the slots: nonce or not, it changes when one
// is written as something else.
func slotWrites(r *rig) string {
	var all []byte
	for _, name := range []string{"keys/psk.a", "keys/psk.b"} {
		b, _ := disk.ReadFile(r.disk, name, 1<<10)
		all = append(all, b...)
	}
	return string(all)
}

// TestRefusedOffers: an offer that is none changes nothing, is told once, and the
// rest of the answer counts.
//
// Attacks: K11
func TestRefusedOffers(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(active identity.Credential, fresh wire.KeyOffer) wire.KeyOffer
	}{
		{"another key of the active epoch", func(_ identity.Credential, o wire.KeyOffer) wire.KeyOffer { o.Epoch = 2; return o }},
		{"a lower epoch", func(_ identity.Credential, o wire.KeyOffer) wire.KeyOffer { o.Epoch = 1; return o }},
		{"epoch 0", func(_ identity.Credential, o wire.KeyOffer) wire.KeyOffer { o.Epoch = 0; return o }},
		{"zero key", func(_ identity.Credential, o wire.KeyOffer) wire.KeyOffer { return o }},
		{"the active key again", func(a identity.Credential, o wire.KeyOffer) wire.KeyOffer { o.Key = a.Key; return o }},
		{"the id of the active key", func(a identity.Credential, o wire.KeyOffer) wire.KeyOffer { o.ID = a.ID; return o }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := minutes(t)
				r.cloud.order(2, true)
				r.start()
				r.runFor(5 * time.Minute)
				r.on(2, "2")
				fresh := credential(t)
				r.cloud.locked(func() {
					offer := c.make(r.cloud.find("active").Credential, wire.KeyOffer{Epoch: 3, ID: fresh.ID, Key: fresh.Key, Burn: true})
					r.cloud.offer, r.cloud.zero = &offer, c.name == "zero key"
				})
				before, requests := slotWrites(r), r.cloud.count()
				r.runFor(3 * time.Hour)
				if slotWrites(r) != before {
					t.Error("something was written into a slot")
				}
				if n := r.cloud.count() - requests; n < 170 {
					t.Errorf("only %d exchanges in three hours", n)
				}
				if n := r.cloud.codes()[codeKeyRefused]; n != 1 {
					t.Errorf("the refusal is told %d times", n)
				}
				r.plant.setSilent(true)
				r.runFor(10 * time.Minute)
				r.check()
				r.cloud.locked(func() {
					r.cloud.offer, r.cloud.zero = nil, false
					r.cloud.order(3, false)
				})
				r.runFor(5 * time.Minute)
				r.on(3, "3, before 2")
				r.stop()
			})
		})
	}
}

// TestReplayedOffer: an old answer with an offer opens for no other request.
//
// Attacks: K10
func TestReplayedOffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := minutes(t)
		var answers [][]byte
		r.cloud.between = func(path string, _ []byte, ask func() (uplink.Reply, error)) (uplink.Reply, error) {
			reply, err := ask()
			if path == wire.PathExchange && err == nil {
				answers = append(answers, reply.Body)
			}
			return reply, err
		}
		r.cloud.order(2, true)
		r.start()
		r.runFor(5 * time.Minute)
		r.on(2, "2")
		before := slotWrites(r)
		n := 0
		r.cloud.locked(func() {
			r.cloud.between = func(path string, _ []byte, ask func() (uplink.Reply, error)) (uplink.Reply, error) {
				reply, err := ask()
				if path == wire.PathExchange && err == nil {
					reply.Body = answers[n%len(answers)]
					n++
				}
				return reply, err
			}
		})
		r.runFor(time.Hour)
		if slotWrites(r) != before || n < len(answers) {
			t.Errorf("after %d replayed answers the slots are others", n)
		}
		if !strings.Contains(r.log.String(), "RSP_BAD") {
			t.Error("nothing is told")
		}
		r.cloud.locked(func() { r.cloud.between = nil })
		r.runFor(10 * time.Minute)
		r.on(2, "2")
		r.stop()
	})
}

// TestKeysOnAFullDisk: a key that cannot be written is not used, and one that
// cannot be committed is; exchanges go on, and what was due is done when there is
// room again.
func TestKeysOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := minutes(t)
		r.plant.setSilent(true)
		r.start()
		r.runFor(5 * time.Minute)
		r.disk.SetCapacity(1)
		r.cloud.locked(func() { r.cloud.order(2, false) })
		requests := r.cloud.count()
		r.runFor(time.Hour)
		r.on(1, "1")
		if n := r.cloud.count() - requests; n < 55 {
			t.Errorf("%d exchanges in an hour", n)
		}
		r.cloud.locked(func() {
			r.cloud.meddle = func(_ int, q wire.Request, _ []wire.Result) fate {
				if q.Epochs.Staged == 2 { // it is staged, now the disk is full again
					r.disk.SetCapacity(1)
				}
				return arrives
			}
		})
		r.disk.SetCapacity(0)
		r.runFor(time.Hour)
		if got := r.epochs(); got != "1, staged 2" {
			t.Errorf("the device keeps %s", got)
		}
		if k := r.cloud.active(); k.Epoch != 2 {
			t.Errorf("in the cloud epoch %d is active", k.Epoch)
		}
		r.cloud.locked(func() { r.cloud.meddle = nil; r.cloud.order(3, false) })
		r.runFor(time.Hour) // nothing else is taken while a commit is due
		if got := r.epochs(); got != "1, staged 2" {
			t.Errorf("the device keeps %s", got)
		}
		r.disk.SetCapacity(0)
		r.runFor(5 * time.Minute)
		r.on(3, "3, before 2")
		want := []string{"under 1: 1", "under 2: 1, staged 2", "under 2: 2", "under 3: 2, staged 3", "under 3: 3"}
		if got := r.cloud.reported(); !slices.Equal(got, want) && !slices.Equal(got, slices.Delete(slices.Clone(want), 2, 3)) {
			t.Errorf("epochs %q", got)
		}
		if n := strings.Count(r.log.String(), codeKeyNotStored); n != 2 {
			t.Errorf("it is told %d times that keys cannot be written", n)
		}
		r.stop()
	})
}

// TestNoKeyIsShown rotates keys with sealed slots, and looks for key bytes in all
// that is logged, told to the cloud in its log, shown as status, and on the disk.
//
// Attacks: A4
func TestNoKeyIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(s *Settings) { s.UploadInterval, s.LogLevel = time.Minute, slog.LevelDebug })
		storage, err := key.StorageFromSecret([]byte("sixteen bytes it"))
		if err != nil {
			t.Fatal(err)
		}
		r.parts.storage = storage
		keys := []identity.Credential{r.cloud.active().Credential}
		r.start()
		r.runFor(5 * time.Minute)
		for epoch := key.Epoch(2); epoch < 6; epoch++ {
			r.cloud.locked(func() { keys = append(keys, r.cloud.order(epoch, epoch%2 == 0).Credential) })
			r.runFor(30 * time.Minute) // four handshakes in an hour are the budget
		}
		r.on(5, "5, before 4")
		refused := credential(t)
		r.cloud.locked(func() { r.cloud.offer = &wire.KeyOffer{Epoch: 1, ID: refused.ID, Key: refused.Key} })
		r.runFor(30 * time.Minute)
		keys = append(keys, refused)
		text := r.log.String() + fmt.Sprintf("%+v %#v %v %+v", r.status(), r.parts.identity, r.keys, r.cloud.logs)
		raw := storage.Secret()
		secrets := [][]byte{raw[:]}
		for _, c := range keys {
			b := c.Key.Secret()
			secrets = append(secrets, b[:])
			if r.onDisk(c) {
				t.Errorf("the key of epoch %d is plain on the disk", c.Epoch)
			}
		}
		for i, secret := range secrets {
			for at := range len(secret) - 6 {
				part := secret[at : at+6]
				for _, form := range []string{string(part), hex.EncodeToString(part), strings.Trim(fmt.Sprintf("%d", part), "[]")} {
					if strings.Contains(strings.ToLower(text), strings.ToLower(form)) {
						t.Fatalf("secret %d is shown as %q", i, form)
					}
				}
			}
			for shift := range 3 {
				if form := base64.StdEncoding.EncodeToString(secret[shift : shift+12]); strings.Contains(text, form) {
					t.Fatalf("secret %d is shown as %q", i, form)
				}
			}
		}
		if !strings.Contains(text, codeKeyCommitted) || !strings.Contains(text, codeKeyRefused) {
			t.Error("the text is not that of rotations")
		}
		r.stop()
	})
}

// stubborn is a disk on which the next renames fail.
type stubborn struct {
	disk.FS
	fails int
}

func (d *stubborn) Rename(from, to string) error {
	if d.fails > 0 {
		d.fails--
		return errors.New("not now")
	}
	return d.FS.Rename(from, to)
}

// TestCommitComesFirst: while the key in use is not committed, no other one is
// staged in its place.
func TestCommitComesFirst(t *testing.T) {
	fsys := &stubborn{FS: disktest.New()}
	folder := identity.Folder{FS: fsys}
	if err := folder.Enroll(identity.Enrolment{Device: "roof-1", CloudURL: "http://cloud", Credential: credential(t)}); err != nil {
		t.Fatal(err)
	}
	id, err := folder.Load()
	if err != nil {
		t.Fatal(err)
	}
	two, three := credential(t), credential(t)
	two.Epoch, three.Epoch = 2, 3
	keys, err := folder.Stage(id.Keys, two, false)
	if err != nil {
		t.Fatal(err)
	}
	newest, fallback := keys.First()
	line, err := uplink.New(uplink.Options{
		Transport: newCloud(t, two, time.Now), Credential: uplink.Credential(newest), Fallback: (*uplink.Credential)(fallback),
		Now: func() time.Duration { return 0 }, Random: rand.Reader, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	k := &keyKeeper{folder: folder, keys: keys, uplink: line, logger: slog.New(slog.DiscardHandler)}
	offer := func() *wire.KeyOffer {
		secret := three.Key.Secret()
		fresh, err := key.DeviceFromBytes(secret[:])
		if err != nil {
			t.Fatal(err)
		}
		return &wire.KeyOffer{Epoch: 3, ID: three.ID, Key: fresh}
	}
	fsys.fails = 1
	if k.answered(offer(), 1) || *k.epochs() != (wire.Epochs{Active: 1, Staged: 2}) {
		t.Errorf("a commit failed, and the keys are %+v", k.epochs())
	}
	if !k.answered(offer(), 1) || *k.epochs() != (wire.Epochs{Active: 2, Staged: 3}) {
		t.Errorf("then it is done, and the keys are %+v", k.epochs())
	}
}
