// Package agent puts the parts of the device together: it samples the
// inverters (agent/acquire), keeps every sample and message on disk
// (agent/buffer), and once per upload slot talks to the cloud (agent/uplink),
// which says how (agent/config).
//
// One goroutine polls each inverter and one talks to the cloud; they meet at
// the buffer, behind one mutex. A sample leaves the buffer only when an
// authenticated answer says that the cloud has stored it.
package agent

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"ecowatt"
	"ecowatt/agent/identity"
	"ecowatt/agent/update"
	"ecowatt/agent/uplink"
	"ecowatt/internal/disk"
	"ecowatt/wire"
)

// ownProgram is the file of the program that runs, proc(5).
const ownProgram = "/proc/self/exe"

// Options says where an agent works. Dir and Log are required.
type Options struct {
	Dir    string    // the gateway's folder
	Config string    // the settings file; "" for agent.yaml in Dir
	Log    io.Writer // where the log goes, as text, one line each

	// Credentials is the folder in which the system hands credentials over
	// (systemd.exec(5), CREDENTIALS_DIRECTORY); "" for none. The one named
	// identity.StorageCredential seals the keys in Dir.
	Credentials string

	Launch Launch // the zero value where nobody would start another agent
}

// Launch is how the launcher has started the agent.
type Launch struct {
	Beats  io.Writer     // takes heartbeats; nil where no launcher has started it
	Stable time.Duration // for how long an image on trial has to do well; 0 for update.StableTime
}

// Run is the agent of the gateway's folder until ctx ends, which is no error.
// When it returns, what was sampled is on the disk. The error wraps
// disk.ErrLocked where another agent works in the folder,
// identity.ErrNotEnrolled where nobody was enrolled, identity.ErrNoKey and
// ErrStorage where its keys are lost or sealed, and ErrNoSettings; every
// error says what to do about it where a person can do something.
func Run(ctx context.Context, o Options) error {
	lock, err := o.lock(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no folder %s: %s", o.Dir, howToEnrol)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	d, err := open(o, monotonic)
	if err != nil {
		return err
	}
	return errors.Join(d.run(ctx, o.Dir), d.close())
}

// Times for which an agent of the launcher waits for the folder.
const (
	lockTime  = 30 * time.Second // longer than an agent that was asked to stop may take (launch.Grace)
	lockPause = 100 * time.Millisecond
)

// lock makes the folder that of this agent alone. Where the launcher has started it,
// the one before may be about to end, for its launcher was killed; to give up would
// count as a failed start of this one. The error wraps disk.ErrLocked.
func (o Options) lock(ctx context.Context) (io.Closer, error) {
	for until := time.Now().Add(lockTime); ; {
		lock, err := disk.Lock(o.Dir)
		if !errors.Is(err, disk.ErrLocked) || o.Launch.Beats == nil || time.Now().After(until) || !sleep(ctx, lockPause) {
			return lock, err
		}
	}
}

const howToEnrol = "enrol the device with 'ecowatt-agent enroll FILE --dir DIR'"

// open reads who the device is and what it is to do, and makes it. now is the time
// since boot.
func open(o Options, now func() time.Duration) (*device, error) {
	storage, err := storageKey(o.Credentials)
	if err != nil {
		return nil, err
	}
	folder := disk.OS(o.Dir)
	id, err := identity.Folder{FS: folder, Storage: storage}.Load()
	if errors.Is(err, identity.ErrNotEnrolled) {
		return nil, fmt.Errorf("%s: %w: %s", o.Dir, err, howToEnrol)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Dir, err)
	}
	if o.Config == "" {
		o.Config = filepath.Join(o.Dir, SettingsFile)
	}
	settings, err := LoadSettings(o.Config, filepath.Join(o.Dir, ProfilesFolder))
	if err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	if o.Launch.Stable <= 0 {
		o.Launch.Stable = update.StableTime
	}
	firmware, err := runningFirmware()
	if err != nil {
		return nil, err
	}
	if settings.CloudURL == "" {
		settings.CloudURL = id.CloudURL
	}
	client, err := uplink.NewClient(settings.CloudURL)
	if err != nil {
		return nil, err
	}
	return newDevice(parts{
		settings:  settings,
		identity:  id,
		folder:    folder,
		storage:   storage,
		boot:      boot,
		now:       now,
		transport: client,
		inverters: dialModbus(settings.Inverters),
		firmware:  firmware,
		source:    client,
		free:      freeRoom(o.Dir),
		launch:    o.Launch,
		random:    rand.Reader,
		log:       o.Log,
	})
}

// runningFirmware describes the program that runs: the image that the cloud
// would compare an update with.
func runningFirmware() (wire.Firmware, error) {
	f, err := os.Open(ownProgram)
	if err != nil {
		return wire.Firmware{}, fmt.Errorf("reading this program: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return wire.Firmware{}, fmt.Errorf("reading this program: %w", err)
	}
	return wire.Firmware{Image: [sha256.Size]byte(h.Sum(nil)), State: wire.FirmwareConfirmed, Version: ecowatt.Version}, nil
}
