package update

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"

	"ecowatt"
	"ecowatt/boot"
	"ecowatt/firmware"
	"ecowatt/internal/disk"
	"ecowatt/key"
)

// errTwice says that an image is not tried again.
var errTwice = errors.New("it has failed twice here")

// errNoRoot says that no signature can be verified.
var errNoRoot = errors.New("there is no root of trust: the enrolment brought none")

// errNoLauncher says that an update would end the agent for good.
var errNoLauncher = errors.New("the launcher has not started this agent, so nothing would start another one")

// release is an offer that has passed the checks.
type release struct {
	id       string // SHA-256 of the manifest, hexadecimal
	manifest firmware.Manifest
	folder   string // of the artifacts
	key      key.Content
	payload  firmware.Payload // the one that is fetched
	content  firmware.Content // opens it
}

// image is the image as the record of the slots has it.
func (r *release) image() boot.Image {
	m := r.manifest
	return boot.Image{
		SHA256: hex.EncodeToString(m.Image[:]), Size: int64(m.Size), Release: m.Release, Security: m.Security,
		Version: m.Version, Manifest: r.id,
	}
}

// judge checks an offer before anything is fetched or erased. The order is: the
// chain of roots, the signatures, then what the manifest says about the device, the
// room, and the key of the content. An offer of another manifest than the one at
// hand begins anew, and discards what was fetched.
func (u *Updater) judge(o Offer) (*release, error) {
	if !u.Launched {
		return nil, errNoLauncher
	}
	if err := u.walk(o.Roots); err != nil {
		return nil, err
	}
	e, err := firmware.ParseEnvelope(o.Envelope)
	if err != nil {
		return nil, err
	}
	if e.ID() != o.Manifest {
		return nil, fmt.Errorf("%w: another manifest than the one that is named", firmware.ErrFormat)
	}
	m, err := u.root.Manifest(e)
	if err != nil {
		return nil, err
	}
	r := &release{id: hex.EncodeToString(o.Manifest[:]), manifest: m, folder: o.Path, key: o.Content}
	same := u.state.Manifest == r.id
	room, err := u.room(r, same)
	if err != nil {
		return nil, err
	}
	target := firmware.Target{
		Product: firmware.ProductID([]byte(ecowatt.Product)), Hardware: u.Hardware, Device: string(u.Device),
		Release: u.Running().Release, Security: u.record.MinSecurity, Protocol: u.Protocol, SlotSize: room, Now: u.Seconds(),
	}
	if err := m.Check(target, *u.root, u.downgrades(o.Downgrades)); err != nil {
		return nil, err
	}
	if u.record.Failed(r.image().SHA256) >= MaxTries || same && u.state.Tries >= MaxTries {
		return nil, errTwice
	}
	former := u.state
	if !same {
		u.state = state{Format: 1, Manifest: r.id}
	}
	if err := u.choose(r); err != nil {
		u.state = former
		return nil, err
	}
	if m.Size+r.payload.PlainSize() > room {
		u.state = former
		return nil, fmt.Errorf("%w: %d bytes, and %d to make it of; there is room for %d", firmware.ErrTooLarge, m.Size, r.payload.PlainSize(), room)
	}
	if !same {
		return r, u.begin(r)
	}
	if u.state.Refused != nil && u.state.Refused.Manifest == r.id { // it is told again, should it be so again
		u.state.Refused = nil
		return r, u.save()
	}
	return r, nil
}

// begin forgets the update before.
func (u *Updater) begin(r *release) error {
	payload := u.state.Payload
	u.discard()
	u.state.Payload = payload
	u.now = r
	if err := u.tell(Offered, "", r.manifest.Version); err != nil {
		u.state = state{Format: 1, Refused: u.state.Refused} // so that the next answer begins it
		return err
	}
	return nil
}

// walk takes later roots of trust, each signed by the one before and by its own.
// The newest one is kept.
func (u *Updater) walk(roots [][]byte) error {
	if u.root == nil {
		return errNoRoot
	}
	newest, signed := *u.root, []byte(nil)
	for _, b := range roots {
		e, err := firmware.ParseEnvelope(b)
		if err != nil {
			return err
		}
		if r, err := firmware.ReadRoot(e); err == nil && r.Version <= newest.Version {
			continue // known
		}
		if newest, err = newest.Next(b); err != nil {
			return err
		}
		signed = b
	}
	if signed == nil {
		return nil
	}
	err := u.makeFolder()
	if err == nil {
		err = disk.WriteFile(u.FS, rootFile, signed, mode)
	}
	if err != nil {
		return fmt.Errorf("keeping a root of trust: %w", err)
	}
	u.root = &newest
	u.Logger.Info("there is a new root of trust for firmware", "code", logRoot, "version", newest.Version)
	return nil
}

// downgrades are the statements that are signed as they must be.
func (u *Updater) downgrades(signed [][]byte) (good []firmware.Downgrade) {
	for _, b := range signed {
		e, err := firmware.ParseEnvelope(b)
		if err != nil {
			continue
		}
		if d, err := u.root.Downgrade(e); err == nil {
			good = append(good, d)
		}
	}
	return good
}

// room is how many bytes an update may take, with what it has taken so far.
func (u *Updater) room(r *release, same bool) (uint64, error) {
	if same && u.holds(u.record.Active.Other(), r.image()) {
		return math.MaxUint64 >> 1, nil // the image has its place
	}
	free, err := u.Free()
	if err != nil {
		return 0, fmt.Errorf("asking for the room on the disk: %w", err)
	}
	if info, err := u.FS.Stat(payloadFile); err == nil {
		free += uint64(info.Size()) // it goes, or is a part of it
	}
	return free - min(free, reserve), nil
}

// choose takes the first payload of a release that can be used here, or the one
// that is being fetched, and makes what opens it.
func (u *Updater) choose(r *release) (err error) {
	i := u.state.Payload
	if u.state.Done == 0 {
		for i = range r.manifest.Payloads {
			if u.usable(r.manifest.Payloads[i]) {
				break
			}
		}
	}
	if i < 0 || i >= len(r.manifest.Payloads) {
		return fmt.Errorf("%w: there is no payload %d", firmware.ErrFormat, i)
	}
	r.payload = r.manifest.Payloads[i]
	if need(r.payload) > maxMemory {
		return fmt.Errorf("%w: no payload can be read in %d bytes of memory", firmware.ErrTooLarge, maxMemory)
	}
	if r.content, err = firmware.OpenContent(r.key, r.payload, r.manifest.Product); err != nil {
		return err
	}
	u.state.Payload = i
	return nil
}

// usable reports whether the image can be made of p here. A delta needs the image
// that runs, which is read for it: what is fetched for nothing is dear.
func (u *Updater) usable(p firmware.Payload) bool {
	if need(p) > maxMemory {
		return false
	}
	if !p.IsDelta() {
		return true
	}
	if u.state.Full || !bytes.Equal(p.Base, u.Image[:]) {
		return false
	}
	sum, size, err := u.sum(u.record.Active.Program())
	if err != nil || !bytes.Equal(sum[:], p.Base) || size != p.BaseSize {
		u.Logger.Warn("a delta is passed over: the slot does not hold the image that runs", "code", string(BaseMismatch), "slot", string(u.record.Active), "error", err)
		return false
	}
	return true
}

// need is about how much memory it takes to read p, in bytes.
func need(p firmware.Payload) uint64 {
	window := 2 * p.Window
	if p.Kind == firmware.KindPatch {
		window += p.BaseSize // which is read as a dictionary
	}
	return window
}

// refuse tells why an offer is refused: once, however often it comes.
func (u *Updater) refuse(o Offer, why error) {
	r := refusal{Manifest: hex.EncodeToString(o.Manifest[:]), Code: codeOf(why)}
	if u.state.Refused != nil && *u.state.Refused == r {
		return
	}
	u.Logger.Error("an update is refused", "code", logTrouble, "reason", string(r.Code), "error", why)
	if err := u.Tell(Report{Manifest: o.Manifest, Phase: Refused, Code: r.Code, Text: short(why.Error())}); err != nil {
		u.Logger.Error("how far an update came cannot be told", "code", logStorage, "phase", string(Refused), "error", err)
		return
	}
	u.state.Refused = &r
	_ = u.save() // it is logged; at worst it is told again
}

// forgetRefusal lets a refusal be told again: whoever takes an offer back and makes it
// anew has not heard it for that one.
func (u *Updater) forgetRefusal() {
	if u.state.Refused != nil {
		u.state.Refused = nil
		_ = u.save() // it is logged; at worst it is not told again
	}
}

// codeOf is the code of what is wrong with an offer.
func codeOf(err error) Code {
	for _, x := range []struct {
		err  error
		code Code
	}{
		{errNoLauncher, NoLauncher},
		{errNoRoot, NoRoot},
		{errTwice, FailedTwice},
		{firmware.ErrRoot, BadRoot},
		{firmware.ErrMissingRoot, MissingRoot},
		{firmware.ErrSignature, BadSignature},
		{firmware.ErrFormat, BadFormat},
		{firmware.ErrProduct, WrongHardware},
		{firmware.ErrHardware, WrongHardware},
		{firmware.ErrDowngrade, IsDowngrade},
		{firmware.ErrStep, NeedsStep},
		{firmware.ErrProtocol, NeedsProtocol},
		{firmware.ErrExpired, IsExpired},
		{firmware.ErrTooLarge, NoSpace},
		{firmware.ErrContentKey, ContentKey},
	} {
		if errors.Is(err, x.err) {
			return x.code
		}
	}
	return StorageFailed
}
