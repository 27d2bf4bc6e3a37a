// Package update brings a new image of the agent from an offer of the cloud to a
// confirmed slot. Nothing of the slot in force is ever touched, and what lies
// under a slot's program name is always a complete image.
//
//	               the checks             every chunk is here   patched, read back
//	offer ──┬──→ offered ──→ downloading ──→ downloaded ──→ verified ──→ switching
//	        └──→ refused          │ ↖ a delta that makes trouble: the full image │
//	                              └──→ failed (the next slot tries again)        │ the record says: on trial;
//	                                                                            ↓ the agent makes way
//	          confirmed ←── proven ── trial ── given up, by itself or the launcher ──→ rolled_back
//
// An offer stands while answers bring it, for the content key lives in memory
// only: after a restart the next answer takes the update on, from the last
// durable chunk. No more than one goroutine may use an Updater.
package update

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"path"
	"strings"
	"time"

	"ecowatt"
	"ecowatt/boot"
	"ecowatt/firmware"
	"ecowatt/internal/disk"
	"ecowatt/key"
)

// Phase says how far an update came.
type Phase string

// The phases: a closed set, which the cloud knows as well.
const (
	Offered     Phase = "offered"     // the checks are passed
	Refused     Phase = "refused"     // one of them is not
	Downloading Phase = "downloading" // chunks are fetched
	Downloaded  Phase = "downloaded"  // all of them are here
	Verified    Phase = "verified"    // the image is in its slot, as it must be
	Switching   Phase = "switching"   // the agent makes way for it
	OnTrial     Phase = "trial"       // it runs
	Confirmed   Phase = "confirmed"   // it stays
	RolledBack  Phase = "rolled_back" // it was given up
	Failed      Phase = "failed"      // it could not be installed; a later slot may try again
)

// Code says why a phase came or lasts. Beside these, an update that was rolled
// back has the boot.Reason.
type Code string

// The codes.
const (
	BadSignature  Code = "FW_BAD_SIGNATURE"
	BadChunk      Code = "FW_BAD_CHUNK"
	IsDowngrade   Code = "FW_DOWNGRADE"
	WrongHardware Code = "FW_WRONG_HARDWARE" // or for another product
	BaseMismatch  Code = "FW_BASE_MISMATCH"

	NoLauncher    Code = "no_launcher"    // nobody would start the other slot
	NoRoot        Code = "no_root"        // nothing says whose signatures count
	BadRoot       Code = "root"           // a root of trust that does not follow
	MissingRoot   Code = "root_missing"   // a later root of trust is needed
	BadFormat     Code = "format"         // cannot be understood
	NeedsStep     Code = "step"           // another release has to come first
	NeedsProtocol Code = "protocol"       // it could not talk to this cloud
	IsExpired     Code = "expired"        //
	NoSpace       Code = "no_space"       //
	ContentKey    Code = "content_key"    // not the key of the payload
	FailedTwice   Code = "failed_twice"   // it is not tried a third time
	NoContact     Code = "no_contact"     // the cloud was not heard within ContactTime
	OutsideWindow Code = "outside_window" //
	Unreachable   Code = "unreachable"    // the artifact cannot be had, or not as asked
	ImageHash     Code = "image_hash"     // what was made is not the image
	StorageFailed Code = "storage_failed" //
)

// Codes of the device log.
const (
	logTrial     = "FW_TRIAL"
	logConfirmed = "FW_CONFIRMED"
	logBack      = "FW_ROLLED_BACK"
	logTrouble   = "update_trouble"
	logStorage   = "update_not_written"
	logRecord    = "boot_record"
	logRoot      = "firmware_root"
)

// Limits of an update.
const (
	ContactTime = time.Hour // since the last answer; an update that begins later could not tell a bad image from a bad line
	MaxTries    = 2         // of an image
	Durable     = 16        // chunks that are made to last at once
	maxAttempts = 3         // at a chunk, in one slot
	retryPause  = 2 * time.Second
	reserve     = 1 << 20  // bytes of the disk that an update leaves free
	maxMemory   = 20 << 20 // bytes that a payload may need to be read
)

// Report tells the cloud how far an update came.
type Report struct {
	Manifest  [32]byte
	Phase     Phase
	Done, All uint64 // chunks
	Code      Code   // empty for none
	Text      string // for people
}

// Offer is what an answer of the cloud says about an update.
type Offer struct {
	Manifest   [32]byte // SHA-256 of the manifest
	Envelope   []byte
	Content    key.Content
	Path       string   // of the folder of artifacts
	Roots      [][]byte // later roots of trust, in ascending order
	Downgrades [][]byte // signed statements
}

// Source gives parts of files that nobody vouches for.
type Source interface {
	// Get asks for n bytes of a file from an offset on. It returns where the bytes
	// begin that it got: there, or at 0 where the whole file comes instead.
	Get(ctx context.Context, file string, from, n uint64) (at uint64, body io.ReadCloser, err error)
}

// Options are what an Updater is made of. All are needed but Root.
type Options struct {
	FS       disk.FS // the gateway's folder
	Device   ecowatt.DeviceID
	Hardware string   // board revision
	Protocol uint64   // version that the cloud speaks
	Root     []byte   // signed root of trust that came with the enrolment; empty for none
	Image    [32]byte // SHA-256 of the program that runs
	Version  string   // of it, for people
	Launched bool     // the launcher has started it, and will start what comes after it

	Source    Source
	Free      func() (uint64, error)                    // bytes of the disk that are free
	Seconds   func() int64                              // since 1970; 0 where that is not known
	Contact   func() (age time.Duration, ok bool)       // since the last answer of the cloud
	Open      func() bool                               // whether it is the time for updates
	Answering func() []string                           // the inverters that answer
	Tell      func(Report) error                        // nil once the report is durable
	Pause     func(context.Context, time.Duration) bool // false when the context has ended

	Stable time.Duration // for how long an image on trial has to do well
	Logger *slog.Logger
}

// Updater updates the agent.
type Updater struct {
	Options

	record boot.Record
	root   *firmware.Root // nil for none
	state  state
	now    *release // that stands; nil for none
	left   uint64   // bytes that may be fetched in this slot
	capped bool     // there is such a bound
	over   bool     // nothing more in this slot
	trial  trial
}

// New reads how things stand and, where the record of the slots does not say what
// the running program is, writes that down, so that the launcher verifies it from
// then on. What cannot be read or written is logged: the agent has other things to
// do than updates.
func New(o Options) *Updater {
	u := &Updater{Options: o}
	u.readRecord()
	u.readRoot()
	u.readState()
	u.tidy()
	u.settle()
	return u
}

// Running is what a device tells of its image.
type Running struct {
	Release     uint64
	State       boot.State
	MinSecurity uint64
}

// Running returns what is known of the program that runs.
func (u *Updater) Running() Running {
	r := Running{State: u.record.State, MinSecurity: u.record.MinSecurity}
	if image := u.image(); image != nil {
		r.Release = image.Release
	} else {
		r.State = boot.Confirmed // it is none of those that the record speaks of
	}
	return r
}

// image is what the record says of the program that runs; nil for nothing.
func (u *Updater) image() *boot.Image {
	if image := u.record.Image(u.record.Active); image != nil && image.SHA256 == hex.EncodeToString(u.Image[:]) {
		return image
	}
	return nil
}

// Deliver takes what an answer of the cloud says about updates; nil is nothing. An
// answer that begins a slot opens a new budget of bytes (0 for none), and withdraws
// an offer that it does not repeat: what was fetched is kept, and a refusal is told
// again should the offer come again.
func (u *Updater) Deliver(o *Offer, slot bool, budget uint64) {
	if slot {
		u.left, u.capped, u.over = budget, budget > 0, false
	}
	u.settle()
	if o == nil {
		if slot {
			u.now = nil
			u.forgetRefusal()
		}
		return
	}
	if image := u.image(); u.record.State == boot.Trial || image != nil && image.Manifest == hex.EncodeToString(o.Manifest[:]) {
		u.now = nil // it runs, or another one that has to prove itself first
		return
	}
	r, err := u.judge(*o)
	if err != nil {
		u.now = nil
		u.refuse(*o, err)
		return
	}
	u.now = r
}

// Work does all that can be done now. handOver says that the agent has to end, for
// the record names the other slot.
func (u *Updater) Work(ctx context.Context) (handOver bool) {
	for u.now != nil && !u.over && ctx.Err() == nil {
		if code := u.blocked(); code != "" {
			u.wait(code)
			return false
		}
		err := u.advance(ctx)
		switch t, ok := errors.AsType[*troubleError](err); {
		case err == nil:
			return true
		case errors.Is(err, errAgain):
		case ctx.Err() != nil:
			return false
		case ok && t.full:
			u.fallBack(t)
		case ok:
			u.end(t)
		default:
			u.end(&troubleError{code: StorageFailed, err: err})
		}
	}
	return false
}

// blocked says why nothing may be done now; "" for nothing.
func (u *Updater) blocked() Code {
	if age, ok := u.Contact(); !ok || age > ContactTime {
		return NoContact
	}
	if !u.Open() {
		return OutsideWindow
	}
	return ""
}

// wait tells once why nothing is done. What failed, and is tried again, has not
// failed once more.
func (u *Updater) wait(code Code) {
	phase := u.state.Phase
	if phase == Failed || phase == RolledBack {
		phase = Offered
	}
	if u.state.Code != code {
		_ = u.tell(phase, code, "") // it is logged, and the next slot tells it
	}
}

// errAgain says that a step is done, and whether the next one may be is to be asked.
var errAgain = errors.New("a step is done")

// advance fetches, installs, or lets the record name the other slot.
func (u *Updater) advance(ctx context.Context) error {
	slot := u.record.Active.Other()
	if !u.holds(slot, u.now.image()) {
		if err := u.fetch(ctx); err != nil {
			return err
		}
		if err := u.install(slot); err != nil {
			return err
		}
		return cmp.Or(u.tell(Verified, "", ""), errAgain)
	}
	if u.state.Phase != Verified && u.state.Phase != Switching {
		return cmp.Or(u.tell(Verified, "", ""), errAgain)
	}
	return u.hand()
}

// hand puts the image on trial.
func (u *Updater) hand() error {
	u.state.Answering = u.Answering()
	u.state.Failures = u.record.Failed(u.now.image().SHA256)
	if err := u.tell(Switching, "", ""); err != nil {
		return err
	}
	next := u.record.Try(u.now.image())
	if err := next.Write(u.FS); err != nil {
		// It may have been written all the same.
		if r, again := boot.ReadRecord(u.FS); again != nil || r.State != boot.Trial {
			return err
		}
	}
	u.record, u.now = next, nil
	u.Logger.Info("the agent makes way for another image", "release", next.Image(next.Active).Release, "slot", string(next.Active))
	return nil
}

// troubleError is why an update does not go on.
type troubleError struct {
	code Code
	err  error
	full bool // the full image may do better
	fail bool // the update has failed; else it goes on in the next slot
}

func (t *troubleError) Error() string { return string(t.code) + ": " + t.err.Error() }
func (t *troubleError) Unwrap() error { return t.err }

// end tells of a trouble, and lets the update rest until the next slot.
func (u *Updater) end(t *troubleError) {
	u.over = true
	phase := u.state.Phase
	if t.fail {
		phase = Failed
		u.discard()
		u.state.Tries++
	}
	u.Logger.Warn("an update makes trouble", "code", logTrouble, "reason", string(t.code), "error", t.err)
	_ = u.tell(phase, t.code, t.err.Error()) // it is logged; the next phase tells more
}

// fallBack goes on with the full image.
func (u *Updater) fallBack(t *troubleError) {
	u.Logger.Warn("an update goes on with the full image", "code", logTrouble, "reason", string(t.code), "error", t.err)
	u.discard()
	u.state.Full = true
	if err := u.choose(u.now); err != nil {
		u.end(&troubleError{code: codeOf(err), err: err, fail: true})
		return
	}
	if err := u.tell(Downloading, t.code, t.err.Error()); err != nil {
		u.over = true
	}
}

// tell reports a phase and then writes it down; a power cut in between tells it
// twice. The error is logged.
func (u *Updater) tell(phase Phase, code Code, text string) error {
	r := Report{Phase: phase, Code: code, Text: short(text), Done: u.state.Done}
	if _, err := hex.Decode(r.Manifest[:], []byte(u.state.Manifest)); err != nil {
		return err
	}
	if u.now != nil {
		r.All = u.now.payload.Chunks
	}
	if err := u.Tell(r); err != nil {
		u.Logger.Error("how far an update came cannot be told", "code", logStorage, "phase", string(phase), "error", err)
		return err
	}
	u.state.Phase, u.state.Code = phase, code
	return u.save()
}

// maxText bounds the text of a report, in bytes.
const maxText = boot.MaxWords

func short(text string) string {
	text = strings.TrimSpace(text) // last words end with a line
	return strings.ToValidUTF8(text[:min(len(text), maxText)], "")
}

// newProgram is the path of the image of a slot while it is made.
func newProgram(s boot.Slot) string { return s.Program() + ".new" }

// folderOf is the folder of a slot.
func folderOf(s boot.Slot) string { return path.Dir(s.Program()) }
