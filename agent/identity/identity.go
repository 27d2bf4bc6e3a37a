// Package identity knows who a device is and which keys it holds: it imports the
// enrolment file once, keeps what was in it in the gateway's folder, and changes
// keys there so that no power cut leaves the device without one that the cloud
// takes (protocol, sections 9 and 11).
//
//	identity.json       the device, its cloud, the root of trust for firmware
//	keys/psk.a, psk.b   two slots for keys, mode 0600, sealed where the system
//	                    keeps a storage key for the gateway
//
// docs/formats/keys.md has the bytes.
package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"ecowatt"
	"ecowatt/internal/disk"
	"ecowatt/key"
)

// Errors of this package. None repeats a byte of a key.
var (
	// ErrNotEnrolled says that the folder is of no device yet.
	ErrNotEnrolled = errors.New("not enrolled")
	// ErrOther says that the folder is of another device, or of this one with
	// another key.
	ErrOther = errors.New("enrolled already")
	// ErrMode says that others than the agent's user may use a key file.
	ErrMode = errors.New("a key file is open to others")
	// ErrNoKey says that no slot holds an intact key.
	ErrNoKey = errors.New("no intact key")
	// ErrStorage says that a slot is sealed and does not open: there is no storage
	// key, or another one.
	ErrStorage = errors.New("a key file is sealed")
	// ErrVersion says that a slot was written by another version of the agent.
	ErrVersion = errors.New("a key file of another version")
)

// StorageCredential is the name of the credential that a storage key is derived
// from, as systemd knows it (systemd.exec(5), LoadCredentialEncrypted=).
const StorageCredential = "ecowatt-storage-key"

// Names of the files below the gateway's folder.
const (
	identityFile = "identity.json"
	keysFolder   = "keys"
	slotA        = "keys/psk.a"
	slotB        = "keys/psk.b"
)

const (
	identityFormat  = 1
	maxIdentitySize = 2 * MaxEnrolmentSize // bytes

	secretMode fs.FileMode = 0o600 // of every file
	folderMode fs.FileMode = 0o700
)

// slotNames returns the files of the slots, number 0 and number 1.
func slotNames() [2]string { return [2]string{slotA, slotB} }

// Folder is the gateway's folder. One process at a time works in it.
type Folder struct {
	FS      disk.FS
	Storage key.Storage // seals the slots that are written; no key leaves them plain
}

// Identity is who a device is, and with which keys it proves that.
type Identity struct {
	Device       ecowatt.DeviceID
	CloudURL     string // as ParseCloudURL returns it
	FirmwareRoot []byte // the root of trust for firmware; empty where there is none yet
	Keys
	Torn []string // key files that were passed over, each with what is wrong with it
}

// Credential is the key of one epoch.
type Credential struct {
	ID    key.ID
	Epoch key.Epoch
	Key   key.Device
}

// Equal compares in constant time, as far as keys go.
func (c Credential) Equal(o Credential) bool {
	return c.ID == o.ID && c.Epoch == o.Epoch && c.Key.Equal(o.Key)
}

// Load reads who the device is. It returns ErrNotEnrolled where nobody is, and
// errors that wrap ErrMode when a key file has a mode wider than 0600 or another
// owner than this process, ErrStorage when one is sealed and does not open,
// ErrVersion, and ErrNoKey when no slot is intact. A torn slot beside an intact
// one is what a failing disk may leave, and is told in Torn.
func (f Folder) Load() (Identity, error) {
	id, err := readIdentity(f.FS)
	if err != nil {
		return Identity{}, err
	}
	held, torn, err := f.readSlots()
	if err != nil {
		return Identity{}, err
	}
	keys, ok := resolve(held)
	if !ok {
		return Identity{}, fmt.Errorf("%w in %s and %s: import the enrolment file again; when the key was changed since, the operator lets the device in with 'ecowatt device recover %s' first", ErrNoKey, slotA, slotB, id.Device)
	}
	id.Keys, id.Torn = keys, torn
	return id, nil
}

// Mend brings the slots into the form in which they are kept: sealed where there
// is a storage key, without what a cut left of writing them, and without what a
// burn was to destroy. Whatever is cut, the keys stay what they are.
func (f Folder) Mend() error {
	held, _, err := f.readSlots()
	if err != nil {
		return err
	}
	var errs []error
	for i, name := range slotNames() {
		if held[i] != nil && !held[i].sealed && !f.Storage.IsZero() {
			errs = append(errs, f.write(i, held[i].slot))
		}
		errs = append(errs, f.forget(name+disk.Temporary))
	}
	if keys, ok := resolve(held); ok {
		_, err := f.Tidy(keys, 0)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// forget deletes a file that hardly ever is there.
func (f Folder) forget(name string) error {
	if _, err := f.FS.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return disk.Delete(f.FS, name)
}

// found is an intact slot as it was found on the disk.
type found struct {
	slot
	sealed bool
}

// resolve tells what the intact slots are to the device, nil being one that is
// not intact or not there; false when there is none.
func resolve(held [2]*found) (Keys, bool) {
	a, b := held[0], held[1]
	switch {
	case a == nil && b == nil:
		return Keys{}, false
	case b == nil:
		return Keys{Active: a.Credential, in: 0}, true
	case a == nil:
		return Keys{Active: b.Credential, in: 1}, true
	}
	newer, older, in := b, a, 1
	if a.Epoch > b.Epoch {
		newer, older, in = a, b, 0
	}
	if newer.state == staged {
		return Keys{Active: older.Credential, Staged: &newer.Credential, Burn: newer.burn, in: 1 - in}, true
	}
	keys := Keys{Active: newer.Credential, in: in, doomed: newer.burn}
	if !newer.burn {
		keys.Fallback, keys.End = &older.Credential, older.end
	}
	return keys, true
}

// identityJSON is the file identity.json.
type identityJSON struct {
	Format       int    `json:"format"` // 1
	DeviceID     string `json:"device_id"`
	CloudURL     string `json:"cloud_url"`
	FirmwareRoot []byte `json:"firmware_root"` // base64
}

// readIdentity reads identity.json, which holds no secret.
func readIdentity(fsys disk.FS) (Identity, error) {
	data, err := disk.ReadFile(fsys, identityFile, maxIdentitySize)
	if errors.Is(err, fs.ErrNotExist) {
		return Identity{}, ErrNotEnrolled
	}
	if err != nil {
		return Identity{}, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var file identityJSON
	if err := d.Decode(&file); err != nil {
		return Identity{}, fmt.Errorf("%s: %w", identityFile, err)
	}
	if d.More() {
		return Identity{}, fmt.Errorf("%s: something follows the object", identityFile)
	}
	if file.Format != identityFormat {
		return Identity{}, fmt.Errorf("%s: format %d, this agent knows %d", identityFile, file.Format, identityFormat)
	}
	id := Identity{FirmwareRoot: file.FirmwareRoot}
	if id.Device, err = ecowatt.ParseDeviceID(file.DeviceID); err != nil {
		return Identity{}, fmt.Errorf("%s: %w", identityFile, err)
	}
	if id.CloudURL, err = ParseCloudURL(file.CloudURL); err != nil {
		return Identity{}, fmt.Errorf("%s: cloud_url: %w", identityFile, err)
	}
	return id, nil
}

func writeIdentity(fsys disk.FS, id Identity) error {
	data, err := json.MarshalIndent(identityJSON{
		Format: identityFormat, DeviceID: string(id.Device), CloudURL: id.CloudURL, FirmwareRoot: id.FirmwareRoot,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", identityFile, err)
	}
	return disk.WriteFile(fsys, identityFile, append(data, '\n'), secretMode)
}

// readSlots returns the intact slots by number, nil for each other one, and what
// is wrong with the torn ones.
func (f Folder) readSlots() (held [2]*found, torn []string, err error) {
	for i, name := range slotNames() {
		x, err := f.readSlot(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, errTorn):
			torn = append(torn, name+": "+err.Error())
		case err != nil:
			return held, nil, err
		default:
			held[i] = &x
		}
	}
	if held[0] != nil && held[1] != nil && held[0].Epoch == held[1].Epoch {
		held[1] = nil
		torn = append(torn, slotB+": of the same epoch as "+slotA)
	}
	return held, torn, nil
}

// readSlot reads one slot. The error is errTorn, wraps fs.ErrNotExist, or is for
// people.
func (f Folder) readSlot(name string) (found, error) {
	info, err := f.FS.Stat(name)
	if err != nil {
		return found{}, fmt.Errorf("reading %s: %w", name, err)
	}
	if err := checkMode(name, info); err != nil {
		return found{}, err
	}
	data, err := disk.ReadFile(f.FS, name, maxSlotSize)
	if errors.Is(err, disk.ErrTooLarge) {
		return found{}, errTorn
	}
	if err != nil {
		return found{}, err
	}
	defer clear(data)
	s, sealed, err := parseSlot(data, f.Storage)
	switch {
	case errors.Is(err, errVersion):
		return found{}, fmt.Errorf("%w: %s has version %d, this agent knows %d", ErrVersion, name, data[offVersion], slotVersion)
	case errors.Is(err, errSealed):
		return found{}, fmt.Errorf("%w: %s needs the credential %s, which was not given: run the agent as a systemd service with LoadCredentialEncrypted=%s", ErrStorage, name, StorageCredential, StorageCredential)
	case errors.Is(err, errForeign):
		return found{}, fmt.Errorf("%w: %s does not open with the credential %s: it was sealed with another one, or somebody changed it", ErrStorage, name, StorageCredential)
	}
	return found{slot: s, sealed: sealed}, err
}

// checkMode refuses a key file that others than this process's user may read
// or replace.
func checkMode(name string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is not a regular file", ErrMode, name)
	}
	if mode := info.Mode().Perm(); mode&^secretMode != 0 {
		return fmt.Errorf("%w: %s has mode %04o, %04o is wanted: chmod 600 %s", ErrMode, name, mode, secretMode, name)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int64(stat.Uid) != int64(os.Geteuid()) {
		return fmt.Errorf("%w: %s belongs to user %d, the agent runs as user %d", ErrMode, name, stat.Uid, os.Geteuid())
	}
	return nil
}
