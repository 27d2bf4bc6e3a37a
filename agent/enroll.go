package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"ecowatt"
	"ecowatt/agent/identity"
	"ecowatt/internal/disk"
)

// Enroll imports an enrolment file into the gateway's folder, which is made
// where it is missing, and removes the file when what was in it is durable. A
// file that is refused stays, and the folder as it is. To overwrite the file
// first would be for show: flash writes elsewhere. credentials is as in Options.
func Enroll(dir, file, credentials string) (ecowatt.DeviceID, error) {
	storage, err := storageKey(credentials)
	if err != nil {
		return "", err
	}
	e, err := readEnrolment(file)
	if err != nil {
		return "", err
	}
	defer e.Credential.Key.Destroy()
	if err := makeFolder(dir); err != nil {
		return "", err
	}
	lock, err := disk.Lock(dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := (identity.Folder{FS: disk.OS(dir), Storage: storage}).Enroll(e); err != nil {
		return "", fmt.Errorf("%s: %w", dir, err)
	}
	if err := disk.Delete(disk.OS(filepath.Dir(file)), filepath.Base(file)); err != nil {
		return "", fmt.Errorf("the device is enrolled, but its key is still in %s as well, remove it: %w", file, err)
	}
	return e.Device, nil
}

// readEnrolment reads an enrolment file that nobody else could read.
func readEnrolment(name string) (identity.Enrolment, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return identity.Enrolment{}, fmt.Errorf("reading the enrolment file: %w", err)
	}
	if !info.Mode().IsRegular() { // what a link leads to would not be removed
		return identity.Enrolment{}, fmt.Errorf("%s is not a regular file", name)
	}
	if mode := info.Mode().Perm(); mode&^0o600 != 0 {
		return identity.Enrolment{}, fmt.Errorf("%s has mode %04o, 0600 is wanted: others may have read the key in it; if so add the device anew, else chmod 600 %s", name, mode, name)
	}
	f, err := os.Open(name)
	if err != nil {
		return identity.Enrolment{}, fmt.Errorf("reading the enrolment file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, identity.MaxEnrolmentSize+1))
	defer clear(data)
	if err != nil {
		return identity.Enrolment{}, fmt.Errorf("reading the enrolment file: %w", err)
	}
	e, err := identity.ParseEnrolment(data)
	if err != nil {
		return identity.Enrolment{}, fmt.Errorf("%s: %w", name, err)
	}
	return e, nil
}

// makeFolder makes the gateway's folder where it is missing.
func makeFolder(dir string) error {
	_, err := os.Stat(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("finding the folder: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("making the folder: %w", err)
	}
	return disk.MkdirAll(disk.OS(filepath.Dir(dir)), filepath.Base(dir), 0o700)
}
