// Package identity knows who a device is: it imports the enrolment file once
// (PROTOCOL section 11) and keeps what was in it in the gateway's folder.
//
//	identity.json       the device, its cloud, the root of trust for firmware
//	keys/psk.a, psk.b   two slots for keys, mode 0600
//
// The key of the highest epoch in an intact slot is the active one. The other
// slot is for the key of the next epoch, or still holds that of the one before.
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
)

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

// Identity is who a device is, and with which keys it proves that.
type Identity struct {
	Device       ecowatt.DeviceID
	CloudURL     string      // as ParseCloudURL returns it
	FirmwareRoot []byte      // the root of trust for firmware; empty where there is none yet
	Active       Credential  // of the highest epoch
	Fallback     *Credential // of an epoch before it; nil where none is kept
	Torn         []string    // key files that were passed over, each with what is wrong with it
}

// Credential is the key of one epoch.
type Credential struct {
	ID    key.ID
	Epoch key.Epoch
	Key   key.Device
}

func (c Credential) equal(o Credential) bool {
	return c.ID == o.ID && c.Epoch == o.Epoch && c.Key.Equal(o.Key)
}

// Load reads who the device is from the gateway's folder. It returns
// ErrNotEnrolled where nobody is, an error that wraps ErrMode when a key file
// has a mode wider than 0600 or another owner than this process, and one that
// wraps ErrNoKey when no slot is intact. A torn slot beside an intact one is
// what a power cut may leave, and is told in Torn.
func Load(fsys disk.FS) (Identity, error) {
	id, err := readIdentity(fsys)
	if err != nil {
		return Identity{}, err
	}
	held, torn, err := readSlots(fsys)
	if err != nil {
		return Identity{}, err
	}
	if len(held) == 0 {
		return Identity{}, fmt.Errorf("%w in %s and %s: enrol the device again", ErrNoKey, slotA, slotB)
	}
	id.Active, id.Torn = held[0], torn
	if len(held) > 1 {
		newer, older := held[0], held[1]
		if newer.Epoch < older.Epoch {
			newer, older = older, newer
		}
		id.Active, id.Fallback = newer, &older
	}
	return id, nil
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

// readSlots returns the keys of the intact slots, and what is wrong with the
// torn ones.
func readSlots(fsys disk.FS) (held []Credential, torn []string, err error) {
	for _, name := range []string{slotA, slotB} {
		info, err := fsys.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("reading %s: %w", name, err)
		}
		if err := checkMode(name, info); err != nil {
			return nil, nil, err
		}
		data, err := disk.ReadFile(fsys, name, slotSize)
		if err != nil && !errors.Is(err, disk.ErrTooLarge) {
			return nil, nil, err
		}
		c, err := parseSlot(data)
		clear(data)
		if err != nil {
			torn = append(torn, name+": "+err.Error())
			continue
		}
		held = append(held, c)
	}
	if len(held) == 2 && held[0].Epoch == held[1].Epoch {
		return held[:1], append(torn, slotB+": of the same epoch as "+slotA), nil
	}
	return held, torn, nil
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
