// Package artifact keeps the files of releases, each under the SHA-256 of its
// content, and gives them to whoever knows such a name (row F2). What lies under
// a name is the whole file, also after a power cut at any moment: a file is
// received under another name, hashed, and made to last before it gets its own.
//
//	ab/abcdef…    a file
//	incoming/N    one that is being received
package artifact

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"sync/atomic"

	"ecowatt/internal/disk"
)

// Errors of this package.
var (
	// ErrNotFound says that there is no file of that name.
	ErrNotFound = errors.New("there is no such artifact")
	// ErrContent says that a file is not what its name says. Nothing was kept.
	ErrContent = errors.New("the artifact is not what its name says")
)

const (
	incoming   = "incoming"
	folderMode = 0o700
	fileMode   = 0o600
	// syncEach is how many bytes are written before they are made to last, so that
	// no commit of the database waits behind all of a large file.
	syncEach = 4 << 20
)

// Name is the SHA-256 of a file's content.
type Name [sha256.Size]byte

// String returns 64 hexadecimal digits.
func (n Name) String() string { return hex.EncodeToString(n[:]) }

// ParseName reads 64 hexadecimal digits in lower case: one name for each file.
func ParseName(s string) (Name, bool) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(Name{}) || Name(b).String() != s {
		return Name{}, false
	}
	return Name(b), true
}

func (n Name) folder() string { return n.String()[:2] }
func (n Name) path() string   { return n.folder() + "/" + n.String() }

// Folder is a folder of artifacts. It is safe for concurrent use.
type Folder struct {
	fsys  disk.FS
	count atomic.Uint64 // of what was received
}

// Open opens a folder, which is made where there is none, and throws away what
// was being received when power failed.
func Open(fsys disk.FS) (*Folder, error) {
	if err := disk.MkdirAll(fsys, incoming, folderMode); err != nil {
		return nil, err
	}
	names, err := fsys.List(incoming)
	if err != nil {
		return nil, fmt.Errorf("looking for artifacts: %w", err)
	}
	for _, name := range names {
		if err := disk.Delete(fsys, incoming+"/"+name); err != nil {
			return nil, err
		}
	}
	return &Folder{fsys: fsys}, nil
}

// Sweep takes away all files but those to keep, and returns how many there were.
// Nothing may be received meanwhile.
func (f *Folder) Sweep(keep func(Name) bool) (removed int, err error) {
	folders, err := f.fsys.List(".")
	if err != nil {
		return 0, fmt.Errorf("looking for artifacts: %w", err)
	}
	for _, folder := range folders {
		if len(folder) != 2 {
			continue
		}
		names, err := f.fsys.List(folder)
		if err != nil {
			return removed, fmt.Errorf("looking for artifacts: %w", err)
		}
		for _, text := range names {
			name, ok := ParseName(text)
			if !ok || keep(name) {
				continue
			}
			if err := f.Remove(name); err != nil {
				return removed, err
			}
			removed++
		}
	}
	return removed, nil
}

// Has reports whether the file is there, with that size.
func (f *Folder) Has(name Name, size uint64) bool {
	info, err := f.fsys.Stat(name.path())
	return err == nil && info.Mode().IsRegular() && uint64(info.Size()) == size
}

// Remove takes a file away. Who reads it reads on; one that is not there is no
// error.
func (f *Folder) Remove(name Name) error {
	if _, err := f.fsys.Stat(name.path()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return disk.Delete(f.fsys, name.path())
}

// Open opens a file, or returns ErrNotFound. The caller closes it.
func (f *Folder) Open(name Name) (disk.File, int64, error) {
	file, err := f.fsys.Open(name.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, ErrNotFound
	}
	if err != nil {
		return nil, 0, fmt.Errorf("opening artifact %v: %w", name, err)
	}
	info, err := f.fsys.Stat(name.path())
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("opening artifact %v: %w", name, err), file.Close())
	}
	return file, info.Size(), nil
}

// Delivery is files that belong together: all of them get their names, or none.
// It is used by one goroutine.
type Delivery struct {
	folder *Folder
	files  []received
}

type received struct {
	name Name
	path string
}

// Receive begins a delivery. It ends with Keep or Discard.
func (f *Folder) Receive() *Delivery { return &Delivery{folder: f} }

// Add receives a file to the end of r, which lasts when it returns. The error
// wraps ErrContent where it is not what its name says, or is that of r.
func (d *Delivery) Add(name Name, r io.Reader) (err error) {
	path := incoming + "/" + strconv.FormatUint(d.folder.count.Add(1), 10)
	file, err := d.folder.fsys.Create(path, fileMode)
	if err != nil {
		return fmt.Errorf("receiving artifact %v: %w", name, err)
	}
	d.files = append(d.files, received{name, path})
	hash := sha256.New()
	err = copySynced(file, io.TeeReader(r, hash))
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if Name(hash.Sum(nil)) != name {
		return fmt.Errorf("%w: %v", ErrContent, name)
	}
	return nil
}

// copySynced copies all of r, a piece at a time.
func copySynced(to disk.File, r io.Reader) error {
	for {
		n, err := io.CopyN(to, r, syncEach)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := to.Sync(); err != nil {
			return err
		}
		if n < syncEach {
			return nil
		}
	}
}

// Keep gives the files their names, for good. Where it fails some may have theirs.
func (d *Delivery) Keep() error {
	fsys := d.folder.fsys
	for i, x := range d.files {
		if err := disk.MkdirAll(fsys, x.name.folder(), folderMode); err != nil {
			return err
		}
		if err := fsys.Rename(x.path, x.name.path()); err != nil {
			return fmt.Errorf("keeping artifact %v: %w", x.name, err)
		}
		d.files[i].path = ""
		if err := fsys.SyncDir(x.name.folder()); err != nil {
			return fmt.Errorf("keeping artifact %v: %w", x.name, err)
		}
	}
	d.files = nil
	return nil
}

// Discard throws away what has not got its name. After Keep there is nothing.
func (d *Delivery) Discard() error {
	var errs []error
	for _, x := range d.files {
		if x.path != "" {
			errs = append(errs, disk.Delete(d.folder.fsys, x.path))
		}
	}
	d.files = nil
	return errors.Join(errs...)
}
