package update

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"ecowatt/boot"
	"ecowatt/firmware"
	"ecowatt/internal/disk"
)

// Files in the gateway's folder.
const (
	Folder      = "firmware"
	rootFile    = Folder + "/root"       // the newest root of trust, signed
	stateFile   = Folder + "/state.json" // state
	tableFile   = Folder + "/table"      // of the payload that is fetched
	payloadFile = Folder + "/payload"    // its chunks so far, opened
	mode        = fs.FileMode(0o600)
	maxState    = 16 << 10 // bytes
)

// state is what outlives a restart of an update.
type state struct {
	Format   int      `json:"format"`   // 1
	Manifest string   `json:"manifest"` // SHA-256 of it, hexadecimal; empty for none
	Payload  int      `json:"payload"`  // which one of the manifest
	Done     uint64   `json:"done"`     // chunks of it that are on the disk for good
	Full     bool     `json:"full,omitempty"`
	Tries    int      `json:"tries,omitempty"` // installations that failed before the image was started
	Phase    Phase    `json:"phase"`           // as it was told last,
	Code     Code     `json:"code,omitempty"`  // with this
	Refused  *refusal `json:"refused,omitempty"`

	// As it was when the agent made way.
	Answering []string `json:"answering,omitempty"` // the inverters that did
	Failures  int      `json:"failures,omitempty"`  // of the image
}

// refusal is the last offer that was refused, so that it is told once.
type refusal struct {
	Manifest string `json:"manifest"`
	Code     Code   `json:"code"`
}

// readState reads the state. What cannot be read is as good as nothing: the chunks
// are fetched again.
func (u *Updater) readState() {
	data, err := disk.ReadFile(u.FS, stateFile, maxState)
	if err == nil {
		err = json.Unmarshal(data, &u.state)
	}
	if err == nil && u.state.Format != 1 {
		err = fmt.Errorf("format %d, 1 is known", u.state.Format)
	}
	if err != nil {
		u.state = state{Format: 1}
		if !errors.Is(err, fs.ErrNotExist) {
			u.Logger.Warn("the state of an update cannot be read", "code", logStorage, "error", err)
		}
	}
}

// save makes the state last. The error is logged.
func (u *Updater) save() error {
	data, err := json.Marshal(u.state)
	if err == nil {
		err = u.makeFolder()
	}
	if err == nil {
		err = disk.WriteFile(u.FS, stateFile, append(data, '\n'), mode)
	}
	if err != nil {
		u.Logger.Error("the state of an update cannot be written", "code", logStorage, "error", err)
	}
	return err
}

// makeFolder makes the folder of the update, where it is missing.
func (u *Updater) makeFolder() error {
	if _, err := u.FS.Stat(Folder); err == nil {
		return nil
	}
	return disk.MkdirAll(u.FS, Folder, 0o700)
}

// readRoot reads the newest root of trust that is known here.
func (u *Updater) readRoot() {
	if len(u.Root) > 0 {
		u.takeRoot(u.Root, "of the enrolment")
	}
	data, err := disk.ReadFile(u.FS, rootFile, firmware.MaxEnvelope)
	switch {
	case err == nil:
		u.takeRoot(data, "that was kept")
	case !errors.Is(err, fs.ErrNotExist):
		u.Logger.Error("the root of trust cannot be read", "code", logRoot, "error", err)
	}
}

func (u *Updater) takeRoot(signed []byte, which string) {
	r, err := firmware.ParseRoot(signed)
	switch {
	case err != nil:
		u.Logger.Error("a root of trust is of no use", "code", logRoot, "which", which, "error", err)
	case u.root == nil || r.Version > u.root.Version:
		u.root = &r
	}
}

// readRecord reads the record of the slots and completes it.
func (u *Updater) readRecord() {
	r, err := boot.ReadRecord(u.FS)
	if err != nil {
		u.Logger.Error("the record of the slots cannot be read, another one is made", "code", logRecord, "error", err)
		r = boot.Initial()
		if !u.isRunning(r.Active) {
			r.Active = r.Active.Other()
		}
	}
	u.record = r
	if r.Image(r.Active) != nil || !u.Launched || !u.isRunning(r.Active) {
		return
	}
	info, err := u.FS.Stat(r.Active.Program())
	if err == nil {
		image := &boot.Image{SHA256: hex.EncodeToString(u.Image[:]), Size: info.Size(), Version: u.Version}
		if r.Active == boot.A {
			r.A = image
		} else {
			r.B = image
		}
		err = r.Write(u.FS)
	}
	if err != nil {
		u.Logger.Error("the record of the slots cannot be written", "code", logRecord, "error", err)
		return
	}
	u.record = r
}

// isRunning reports whether the program of a slot is the one that runs.
func (u *Updater) isRunning(s boot.Slot) bool {
	sum, _, err := u.sum(s.Program())
	return err == nil && sum == u.Image
}

// tidy removes what a power cut left half made.
func (u *Updater) tidy() {
	for _, s := range []boot.Slot{boot.A, boot.B} {
		if _, err := u.FS.Stat(newProgram(s)); err == nil {
			u.remove(newProgram(s))
		}
	}
	switch u.state.Phase {
	case Offered, Downloading, Downloaded, Verified, Switching:
	case "", Refused, OnTrial, Confirmed, RolledBack, Failed:
		u.discard()
	}
}

// discard removes what was fetched.
func (u *Updater) discard() {
	u.state.Done, u.state.Payload = 0, 0
	for _, name := range []string{payloadFile, tableFile} {
		if _, err := u.FS.Stat(name); err == nil {
			u.remove(name)
		}
	}
}

// remove removes a file that only takes room.
func (u *Updater) remove(name string) {
	if err := disk.Delete(u.FS, name); err != nil {
		u.Logger.Warn("a file of an update cannot be removed", "code", logStorage, "error", err)
	}
}

// settle tells what became of an image that was put on trial, and of one that was
// confirmed and whose slot cannot be used any more. It changes nothing where that
// was told.
func (u *Updater) settle() {
	if u.state.Phase != Switching && u.state.Phase != OnTrial && u.state.Phase != Confirmed {
		return
	}
	image, other := u.image(), u.record.Image(u.record.Active.Other())
	ours := func(i *boot.Image) bool { return i != nil && i.Manifest == u.state.Manifest }
	switch {
	case ours(image) && u.record.State == boot.Trial:
		if u.state.Phase == Switching && u.tell(OnTrial, "", "") == nil {
			u.Logger.Warn("this image runs on trial", "code", logTrial, "release", image.Release)
			u.discard()
		}
	case ours(image) && u.record.State == boot.Confirmed:
		if u.state.Phase != Confirmed && u.tell(Confirmed, "", "") == nil {
			u.Logger.Info("this image is confirmed", "code", logConfirmed, "release", image.Release)
			u.discard()
		}
	case ours(other) && u.record.State == boot.RolledBack && u.record.Failed(other.SHA256) > u.state.Failures:
		failure := u.record.Failures[len(u.record.Failures)-1]
		if u.tell(RolledBack, Code(failure.Reason), failure.Words) == nil {
			u.Logger.Error("another image was given up, this one runs again", "code", logBack,
				"release", other.Release, "reason", string(failure.Reason), "words", failure.Words)
			u.discard()
		}
	}
}
