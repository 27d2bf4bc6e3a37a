package model

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"ecowatt/agent/identity"
	"ecowatt/agent/uplink"
	"ecowatt/cloud/keyring"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/session"
	"ecowatt/cloud/store"
	"ecowatt/internal/disk/disktest"
	"ecowatt/wire"
)

// everyday is what happens on the line and to the processes; what stands there
// more often happens more often.
var everyday = []string{
	"exchange", "exchange", "exchange", "exchange", "exchange", "exchange", "message", "message", "message",
	"arrival", "arrival", "replay", "replay", "replay", "pause", "pause", "at once",
	"start over", "start over", "restart the agent", "cut power", "cut power soon", "restart a replica",
}

// changes are what is done to keys, and to the cloud as a whole.
var changes = []string{"replace the device", "replace the device", "rotate", "rotate", "rotate and burn", "rotate some time", "cancel", "back up", "restore", "restore"}

// TestSchedules: whatever the line does, and whoever restarts.
func TestSchedules(t *testing.T) {
	t.Parallel()
	e := newEnrolled(t)
	rapid.Check(t, func(rt *rapid.T) { e.run(t, drawn{rt}, random(everyday)) })
}

// TestRotations: the same while keys are replaced and clouds restored.
func TestRotations(t *testing.T) {
	t.Parallel()
	e := newEnrolled(t)
	steps := append(append([]string{}, everyday...), changes...)
	rapid.Check(t, func(rt *rapid.T) { e.run(t, drawn{rt}, random(steps)) })
}

// TestFound: schedules that TestRotations found and that went wrong.
func TestFound(t *testing.T) {
	for name, steps := range map[string][]string{
		// The request that commits a key also reports one that the cloud has lost.
		"a key is used that the backup offers, and a later one is staged": {
			"exchange", "rotate", "exchange", "back up", "exchange", "rotate", "exchange", "restore",
		},
		// The cloud that forgot the offer would let the operator take it back.
		"a key is burnt for one that is pending in the backup, and cancelled after that": {
			"rotate and burn", "back up", "exchange", "exchange", "restore", "cancel",
		},
		// The device would wait for an hour after every start, until the time comes.
		"a staged key is forgotten, and the next one is ordered for later": {
			"exchange", "back up", "rotate", "exchange", "restore", "rotate some time",
		},
	} {
		t.Run(name, func(t *testing.T) { newEnrolled(t).run(t, nil, scripted(steps...)) })
	}
}

// enrolled is how every schedule begins: a cloud that knows one device.
type enrolled struct {
	dir       string
	ring      *keyring.Ring
	enrolment identity.Enrolment
}

const deviceName = "roof-1"

// source is a random source that says the same every time, so that a schedule
// that fails can be made shorter. Nothing here is secret.
func source() io.Reader { return rand.NewChaCha8([32]byte{1}) }

func newEnrolled(t *testing.T) enrolled {
	t.Helper()
	e := enrolled{dir: folder(t)}
	var err error
	if e.ring, err = keyring.Create(filepath.Join(e.dir, "keyring.json"), source()); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), filepath.Join(e.dir, "enrolled.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, file, err := registry.New(s, e.ring, source()).Add(t.Context(),
		registry.Request{ID: deviceName, CloudURL: "http://cloud", By: operator}, time.Date(2025, 12, 1, 0, 0, 0, 0, time.UTC))
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	e.enrolment = identity.Enrolment{
		Device: file.DeviceID, CloudURL: file.CloudURL, Credential: identity.Credential{ID: file.PSKID, Epoch: file.Epoch, Key: file.Key},
	}
	return e
}

// schedule decides what happens, and hears how it went.
type schedule interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Failed() bool
	// pick returns one of 0 to n-1.
	pick(what string, n int) int
}

// choose picks one of a list.
func choose[E any](w *world, what string, list []E) E { return list[w.pick(what, len(list))] }

// drawn is a schedule that Rapid draws, and makes shorter when it fails.
type drawn struct{ *rapid.T }

func (d drawn) pick(what string, n int) int { return rapid.IntRange(0, n-1).Draw(d.T, what) }

// random takes steps in any order.
func random(steps []string) func(*world) {
	return func(w *world) {
		for range 12 + w.pick("steps", 30) {
			w.step(choose(w, "step", steps))
		}
	}
}

// script is a schedule in which nothing is left to chance, and the line does its
// duty: it picks what stands first.
type script struct{ *testing.T }

func (script) pick(string, int) int { return 0 }

// scripted takes these steps.
func scripted(steps ...string) func(*world) {
	return func(w *world) {
		for _, step := range steps {
			w.step(step)
		}
	}
}

// folder returns a folder in memory, where there is one: what the cloud's disk
// takes is most of the time of a schedule, and is not what is tried here.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "ecowatt")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// run runs one schedule, in a time of its own; a nil one is a script.
func (e enrolled) run(t *testing.T, s schedule, steps func(*world)) {
	t.Helper()
	var failure any
	synctest.Test(t, func(t *testing.T) {
		defer func() { failure = recover() }()
		if s == nil {
			s = script{t}
		}
		w := e.world(s)
		defer w.close()
		steps(w)
		w.settle()
	})
	switch { // what ended the schedule belongs to this goroutine
	case failure == nil:
	case s.Failed():
		panic(failure)
	default: // Rapid tells by the line that it is not a failure.
		panic(failure)
	}
}

// world is all there is in one schedule, and what must be true of it.
type world struct {
	schedule
	enrolled
	dir      string
	random   io.Reader
	cloud    *cloud
	line     *line
	device   *device
	observer *observer

	messages []*said
	promises
}

// said is a message that the device was given.
type said struct {
	id       wire.MessageID
	promised bool // it was durable on the device, so it must take effect
	settled  bool // the device was told that it had
}

func (e enrolled) world(s schedule) *world {
	w := &world{schedule: s, enrolled: e, random: source(), promises: newPromises()}
	var err error
	w.dir, err = os.MkdirTemp(e.dir, "schedule")
	w.must(err)
	slots := []time.Duration{time.Minute, 15 * time.Minute}
	w.cloud = &cloud{w: w, database: filepath.Join(w.dir, "ecowatt.db"), ring: e.ring, slot: choose(w, "slot of the cloud", slots)}
	w.must(copyFile(w.cloud.database, filepath.Join(e.dir, "enrolled.db")))
	for i, skew := range []time.Duration{-maxSkew, maxSkew} {
		w.cloud.replicas[i] = &replica{cloud: w.cloud, skew: skew}
	}
	w.cloud.start()
	w.observer = observe(w, w.cloud.database)
	w.line = &line{w: w}
	w.device = &device{w: w, name: e.enrolment.Device, disk: disktest.New(), interval: choose(w, "slot of the device", slots)}
	w.must(identity.Folder{FS: w.device.disk}.Enroll(e.enrolment))
	w.device.reboot()
	return w
}

func (w *world) close() {
	w.cloud.stop()
	w.observer.close()
	w.must(os.RemoveAll(w.dir))
}

// must is for what cannot fail here.
func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatalf("%v", err)
	}
}

// step does one of everyday or changes, and checks what must be true after it.
func (w *world) step(name string) {
	w.do(name)
	if w.device.recover() {
		w.Logf("power was cut")
	}
	w.check()
}

func (w *world) do(name string) {
	w.Logf("%v: %s", trueTime().Format(time.TimeOnly), name)
	d, c := w.device, w.cloud
	switch name {
	case "exchange":
		w.Logf("the exchange: %v", d.attempt())
	case "at once": // before it is due
		w.Logf("the exchange: %v", d.exchange())
	case "message":
		d.say()
	case "arrival":
		w.line.arrive()
	case "replay":
		w.line.replay()
	case "pause":
		w.pause(choose(w, "pause", []time.Duration{20 * time.Second, 2 * time.Minute, time.Hour, 26 * time.Hour, 15 * 24 * time.Hour}))
	case "restart the agent":
		d.restart()
	case "start over": // and what is on its way arrives after that
		d.restart()
		w.Logf("the exchange: %v", d.exchange())
		w.line.arrive()
	case "cut power":
		d.lose()
	case "cut power soon":
		d.loseSoon()
	case "restart a replica":
		c.replicas[w.line.replica()].restart()
	case "rotate":
		c.rotate(registry.RotationRequest{})
	case "rotate and burn":
		c.rotate(registry.RotationRequest{Burn: true})
	case "rotate some time":
		c.rotate(registry.RotationRequest{Over: 48 * time.Hour})
	case "cancel":
		c.cancel()
	case "replace the device":
		w.replace()
	case "back up":
		c.backUp()
	case "restore":
		w.restore()
	default:
		w.Fatalf("no step %q", name)
	}
}

// replace is what is left to do for a device whose disk is lost, unless its first
// key is burnt, or may be burnt by what it sent under a staged one.
func (w *world) replace() {
	if w.device.keys.Staged != nil {
		return
	}
	if state := w.look().keys[w.enrolment.Credential.ID]; state == session.KeyActive || state == session.KeyRecovery {
		w.device.replace()
	}
}

// admit lets the device in where it has nothing but its first key, and that was
// replaced.
func (w *world) admit() {
	if v := w.look(); !v.keys.accept(w.device.keys) && v.keys[w.device.keys.Active.ID] == session.KeyRecovery {
		w.cloud.admit()
	}
}

// pause lets time pass, of which a recovery window may see the end.
func (w *world) pause(d time.Duration) {
	time.Sleep(d)
	w.admit()
}

// restore goes back to the backup, where the device holds a key that was good
// then. (One that has burnt it, or got two more since, is locked out by that: an
// operator has to let it recover.)
func (w *world) restore() {
	b := w.cloud.backup
	if b == nil || !b.keys.accept(w.device.keys) && b.keys[w.device.keys.Active.ID] != session.KeyRecovery {
		return
	}
	w.cloud.restore()
	w.admit()
	v := w.look()
	for i, m := range w.messages {
		if m.settled && v.effects[effectOf(i+1)] == 0 {
			*m = said{id: m.id} // stored after the backup: lost, unless the device forgets that it may go
		}
	}
	w.restored()
}

// Times within which a device gets in on an honest line: what the budget of
// handshakes may make it wait for and what a key that is refused may, beside some
// slots.
const (
	patience         = 150 * time.Minute
	fallbackPatience = 6 * time.Hour
)

// settle ends all faults, and checks that everything gets where it belongs.
func (w *world) settle() {
	w.Logf("%v: all faults end", trueTime().Format(time.TimeOnly))
	d := w.device
	d.disk.CutAt(0, disktest.Before)
	w.line.calm = true
	w.admit()
	for len(w.line.held) > 0 {
		w.line.arrive()
	}
	w.check()
	within := patience + 4*max(d.interval, w.cloud.slot)
	if w.forgetful {
		within += fallbackPatience
	}
	began := time.Now()
	var err error
	for err = d.attempt(); err != nil; err = d.attempt() {
		w.Logf("%v: %v", trueTime().Format(time.TimeOnly), err)
		if time.Since(began) > within {
			break
		}
	}
	if took := time.Since(began); took > within {
		w.Fatalf("the device is not in after %v: %v", took, err)
	}
	w.check()
	within += time.Since(began) + patience
	for !w.quiet() {
		if err := d.attempt(); err != nil && !errors.Is(err, uplink.ErrNotDue) {
			w.Fatalf("an exchange on an honest line: %v", err)
		}
		w.check()
		if time.Since(began) > within {
			w.Fatalf("after %v %d messages wait, and the keys are %d and %v", time.Since(began), d.buffer.Stats().Messages, d.keys.Active.Epoch, d.keys.Staged)
		}
	}
	v := w.look()
	for i, m := range w.messages {
		if n := v.effects[effectOf(i+1)]; m.promised && n != 1 {
			w.Fatalf("message %d took effect %d times", i+1, n)
		}
	}
	w.checkDisk()
	if v.active != d.keys.Active.Epoch {
		w.Fatalf("the device has epoch %d, the cloud %d", d.keys.Active.Epoch, v.active)
	}
}

// quiet reports whether nothing is left to be done.
func (w *world) quiet() bool {
	v := w.look()
	due := !v.offerFrom.IsZero() && !v.offerFrom.After(trueTime().Add(maxSkew))
	return w.device.buffer.Stats().Messages == 0 && w.device.keys.Staged == nil && !due
}
