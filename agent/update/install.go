package update

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"ecowatt/boot"
	"ecowatt/firmware"
	"ecowatt/firmware/delta"
	"ecowatt/internal/disk"
)

// imageMode is the mode of a program.
const imageMode = fs.FileMode(0o755)

// copySize is how much of an image is held in memory while it is copied, in bytes.
const copySize = 32 << 10

// install makes the image of the payload and puts it under the program name of a
// slot that is not in force, once it was read back.
func (u *Updater) install(s boot.Slot) error {
	m, p, name := u.now.manifest, u.now.payload, newProgram(s)
	if err := disk.MkdirAll(u.FS, folderOf(s), 0o700); err != nil {
		return err
	}
	if err := u.make(name); err != nil {
		u.remove(name)
		if errors.Is(err, delta.ErrCorrupt) {
			return wrongImage(p, err)
		}
		return err
	}
	sum, size, err := u.sum(name)
	if err != nil {
		return err
	}
	if sum != m.Image || size != m.Size {
		u.remove(name)
		return wrongImage(p, fmt.Errorf("%d bytes with the hash %x are on the disk, the image has %d and %x", size, sum[:4], m.Size, m.Image[:4]))
	}
	if err := u.FS.Rename(name, s.Program()); err != nil {
		return err
	}
	return u.FS.SyncDir(folderOf(s))
}

// wrongImage is what to do when p has not made the image: a delta gives way to the
// full image, and that is fetched anew.
func wrongImage(p firmware.Payload, err error) error {
	return &troubleError{code: ImageHash, err: err, full: p.IsDelta(), fail: !p.IsDelta()}
}

// make writes the image while it reads the payload.
func (u *Updater) make(name string) error {
	frame, err := u.FS.Open(payloadFile)
	if err != nil {
		return err
	}
	defer frame.Close()
	r, free, err := u.reader(frame)
	if err != nil {
		return err
	}
	defer free()
	if _, err := u.FS.Stat(name); err == nil {
		u.remove(name) // it may have another mode
	}
	f, err := u.FS.Create(name, imageMode)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(f, r, make([]byte, copySize))
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	return err
}

// reader reads the image out of the payload.
func (u *Updater) reader(frame io.Reader) (r *delta.Reader, free func(), err error) {
	m, p := u.now.manifest, u.now.payload
	if !p.IsDelta() {
		r, err = delta.OpenFull(frame, m.Size, p.Window)
		if err != nil {
			return nil, nil, err
		}
		return r, r.Close, nil
	}
	base := u.record.Active.Program()
	if p.Kind == firmware.KindPatch {
		whole, err := disk.ReadFile(u.FS, base, int64(p.BaseSize))
		if err != nil {
			return nil, nil, err
		}
		if r, err = delta.OpenPatch(frame, whole, m.Size, p.Window); err != nil {
			return nil, nil, err
		}
		return r, r.Close, nil
	}
	f, err := u.FS.Open(base)
	if err != nil {
		return nil, nil, err
	}
	if r, err = delta.OpenDiff(frame, f, p.BaseSize, m.Size, p.Window); err != nil {
		f.Close()
		return nil, nil, err
	}
	return r, func() { r.Close(); f.Close() }, nil
}

// holds reports whether the program of a slot is an image.
func (u *Updater) holds(s boot.Slot, image boot.Image) bool {
	info, err := u.FS.Stat(s.Program())
	if err != nil || info.Size() != image.Size {
		return false
	}
	sum, _, err := u.sum(s.Program())
	return err == nil && hex.EncodeToString(sum[:]) == image.SHA256
}

// sum returns the SHA-256 and the size of a file.
func (u *Updater) sum(name string) (sum [sha256.Size]byte, size uint64, err error) {
	f, err := u.FS.Open(name)
	if err != nil {
		return sum, 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.CopyBuffer(h, f, make([]byte, copySize))
	return [sha256.Size]byte(h.Sum(nil)), uint64(n), err
}
