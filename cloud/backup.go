package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ecowatt/cloud/keyring"
	"ecowatt/cloud/store"
	"ecowatt/internal/disk"
)

// restoringFile is the database while it is being restored.
const restoringFile = "ecowatt.db.restoring"

// Backup writes the backup of a cloud to the new file out: its database without
// sessions, durably and with mode 0600. It only reads the data folder, which a
// running cloud may be using. The key ring is not part of it. db is as
// Options.Database. Beside what store.WriteBackup refuses it is an *OptionError
// when an option cannot be meant.
func Backup(ctx context.Context, data, db, out string) (store.Backup, error) {
	from, err := database(data, db)
	if err != nil {
		return store.Backup{}, err
	}
	switch _, err := os.Stat(from); {
	case errors.Is(err, fs.ErrNotExist):
		return store.Backup{}, fmt.Errorf("there is no database %s to back up", from)
	case err != nil:
		return store.Backup{}, fmt.Errorf("looking for the database: %w", err)
	}
	if _, err := os.Lstat(out); err == nil {
		return store.Backup{}, fmt.Errorf("%s exists already; it is not overwritten", out)
	}
	b, err := store.WriteBackup(ctx, from, out, time.Now())
	if err != nil {
		return store.Backup{}, err
	}
	if err := disk.OS(filepath.Dir(out)).SyncDir("."); err != nil {
		return store.Backup{}, fmt.Errorf("writing the backup %s: %w", out, err)
	}
	return b, nil
}

// Restored says what was restored.
type Restored struct {
	store.Backup
	Missing []string // key-encryption keys that it needs and the folder's key ring does not have
}

// Restore makes the database of the data folder from a backup. The folder must
// be empty but for the key ring, the token, and the folders of firmware and
// artifacts; it is made where there is none. A restore that was cut off is begun
// again. What is refused changes nothing.
func Restore(ctx context.Context, backup, data string) (Restored, error) {
	b, err := store.CheckBackup(ctx, backup)
	if err != nil {
		return Restored{}, err
	}
	if err := makeFolder(data); err != nil {
		return Restored{}, err
	}
	lock, err := disk.Lock(data)
	if err != nil {
		return Restored{}, err
	}
	defer lock.Close()
	if err := emptied(data); err != nil {
		return Restored{}, err
	}
	if err := restore(ctx, backup, data); err != nil {
		return Restored{}, fmt.Errorf("restoring %s: %w", backup, err)
	}
	missing, err := missingKEKs(data, b.KEKs)
	return Restored{Backup: b, Missing: missing}, err
}

// emptied makes sure that nothing is in the folder that a restore would mix
// with, and removes what a restore that was cut off has left.
func emptied(data string) error {
	folder := disk.OS(data)
	names, err := folder.List(".")
	if err != nil {
		return fmt.Errorf("looking at the data folder: %w", err)
	}
	for _, name := range names {
		if !slices.Contains([]string{"lock", keyringFile, tokenFile, firmwareFolder, artifactsFolder}, name) && !strings.HasPrefix(name, restoringFile) {
			return fmt.Errorf("the data folder %s is not empty, it holds %s: restore into one of its own, or move that away", data, name)
		}
	}
	for _, name := range names {
		if strings.HasPrefix(name, restoringFile) {
			if err := disk.Delete(folder, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// restore makes the database under another name, and gives it its own when it
// is whole.
func restore(ctx context.Context, backup, data string) (err error) {
	folder, temporary := disk.OS(data), filepath.Join(data, restoringFile)
	defer func() {
		if err != nil {
			_ = folder.Remove(restoringFile) // it takes room where there may be none
		}
	}()
	if err := copyFile(folder, backup); err != nil {
		return err
	}
	if err := store.Restore(ctx, temporary, time.Now()); err != nil {
		return err
	}
	if err := folder.Rename(restoringFile, databaseFile); err != nil {
		return err
	}
	return folder.SyncDir(".")
}

func copyFile(folder disk.FS, backup string) error {
	from, err := os.Open(backup)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := folder.Create(restoringFile, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err == nil {
		err = to.Sync()
	}
	return errors.Join(err, to.Close())
}

// missingKEKs returns which of the key-encryption keys the folder's key ring
// does not have.
func missingKEKs(data string, needed []string) (missing []string, err error) {
	ring, err := keyring.Open(filepath.Join(data, keyringFile))
	if errors.Is(err, fs.ErrNotExist) {
		return needed, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the database is restored, but %w", err)
	}
	for _, id := range needed {
		if !ring.Knows(id) {
			missing = append(missing, id)
		}
	}
	return missing, nil
}
