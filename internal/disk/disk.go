// Package disk writes what must survive a power cut. Whole files are replaced
// (WriteFile), records are appended (Log), and after a cut at any moment a file
// is what it was or what it became, and a log a prefix of what was appended.
//
// Everything goes through the interface FS, of which there are two: the real
// one (OS), and the double in disktest that loses power at every operation.
package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// Errors of this package.
var (
	// ErrTooLarge says that a file is larger than what may be read of it.
	ErrTooLarge = errors.New("file too large")
	// ErrLocked says that another process works in a folder.
	ErrLocked = errors.New("in use by another process")
)

// FS is a folder and what is below it. Names are relative, with slashes, as in
// fs.ValidPath; "." is the folder itself. What was written to a file lasts once
// its Sync has returned; that a file has a name, or another one, or none, lasts
// once SyncDir of the folder around it has.
type FS interface {
	// Open opens a file to be read from its start.
	Open(name string) (File, error)
	// Create opens a file to be written. One that exists is emptied.
	Create(name string, perm fs.FileMode) (File, error)
	// Append opens a file to be written at its end. One that does not exist is made.
	Append(name string, perm fs.FileMode) (File, error)
	// Rename gives a file another name, at once; a file that has it is gone.
	Rename(from, to string) error
	// Remove takes a file, or an empty folder, away.
	Remove(name string) error
	// Truncate cuts a file to size bytes. It lasts as what is written does.
	Truncate(name string, size int64) error
	// MkdirAll makes a folder and those around it, where they are missing.
	MkdirAll(name string, perm fs.FileMode) error
	// List returns the names in a folder, sorted.
	List(name string) ([]string, error)
	// Stat describes a file.
	Stat(name string) (fs.FileInfo, error)
	// SyncDir makes the names in a folder last.
	SyncDir(name string) error
}

// File is an open file. It is used by one goroutine at a time.
type File interface {
	io.ReadWriteCloser
	io.ReaderAt // of a file that was opened to be read
	// Sync returns when what was written is on the disk.
	Sync() error
}

// OS returns the folder dir of the operating system. It need not exist yet.
func OS(dir string) FS { return osFS(dir) }

type osFS string

func (d osFS) path(name string) string { return filepath.Join(string(d), filepath.FromSlash(name)) }

func (d osFS) Open(name string) (File, error) { return d.open(name, os.O_RDONLY, 0) }

func (d osFS) Create(name string, perm fs.FileMode) (File, error) {
	return d.open(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
}

func (d osFS) Append(name string, perm fs.FileMode) (File, error) {
	return d.open(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, perm)
}

func (d osFS) open(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(d.path(name), flag, perm)
	if err != nil {
		return nil, err // not a *os.File that is nil inside an interface that is not
	}
	return f, nil
}

func (d osFS) Rename(from, to string) error           { return os.Rename(d.path(from), d.path(to)) }
func (d osFS) Remove(name string) error               { return os.Remove(d.path(name)) }
func (d osFS) Truncate(name string, size int64) error { return os.Truncate(d.path(name), size) }
func (d osFS) Stat(name string) (fs.FileInfo, error)  { return os.Stat(d.path(name)) }

func (d osFS) MkdirAll(name string, perm fs.FileMode) error { return os.MkdirAll(d.path(name), perm) }

func (d osFS) List(name string) ([]string, error) {
	entries, err := os.ReadDir(d.path(name)) // sorted
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (d osFS) SyncDir(name string) error {
	f, err := os.Open(d.path(name))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Temporary is what WriteFile adds to the name of a file while it writes it. A
// power cut may leave such a file; the next WriteFile removes it.
const Temporary = ".tmp"

// WriteFile replaces the file name with data: whole, or not at all. When it
// returns nil the new file is on the disk, with the mode perm; when it returns
// an error or power fails, the file is the old one or the new one. The folder
// around it must exist.
func WriteFile(fsys FS, name string, data []byte, perm fs.FileMode) error {
	err := writeTemporary(fsys, name+Temporary, data, perm)
	if err == nil {
		err = fsys.Rename(name+Temporary, name)
	}
	if err != nil {
		_ = fsys.Remove(name + Temporary) // it takes room where there may be none
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := fsys.SyncDir(path.Dir(name)); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

func writeTemporary(fsys FS, name string, data []byte, perm fs.FileMode) error {
	// A leftover of a cut may have another mode than perm.
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(name, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// ReadFile returns the content of a file of at most limit bytes; the error
// wraps ErrTooLarge when it has more.
func ReadFile(fsys FS, name string, limit int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("reading %s: %w: more than %d bytes", name, ErrTooLarge, limit)
	}
	return data, nil
}

// Delete takes a file away for good. One that is not there is no error.
func Delete(fsys FS, name string) error {
	err := fsys.Remove(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = fsys.SyncDir(path.Dir(name))
	}
	if err != nil {
		return fmt.Errorf("deleting %s: %w", name, err)
	}
	return nil
}

// MkdirAll makes a folder and those around it, and makes them last.
func MkdirAll(fsys FS, name string, perm fs.FileMode) error {
	if err := fsys.MkdirAll(name, perm); err != nil {
		return fmt.Errorf("making the folder %s: %w", name, err)
	}
	var around []string
	for dir := name; dir != "."; dir = path.Dir(dir) {
		around = append(around, path.Dir(dir))
	}
	for _, dir := range slices.Backward(around) {
		if err := fsys.SyncDir(dir); err != nil {
			return fmt.Errorf("making the folder %s: %w", name, err)
		}
	}
	return nil
}
