package cloud

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"ecowatt/cloud/api"
	"ecowatt/cloud/artifact"
	"ecowatt/cloud/rollout"
	"ecowatt/cloud/store"
	"ecowatt/internal/disk"
	"ecowatt/key"
)

// depot keeps releases: their files in the folder of artifacts, and what they say,
// with the wrapped key of their content, in the database. Files are there before
// the database names them, and until it does not any more; what power cuts leave
// in between is swept away at the start.
type depot struct {
	files  *artifact.Folder
	db     releases
	keys   contentWrapper
	roots  *trust
	now    func() time.Time
	logger *slog.Logger

	receiving chan struct{} // capacity 1: one bundle at a time
	mu        sync.Mutex    // one release comes or goes at a time
}

// releases is the part of the store that knows them.
type releases interface {
	recorder
	AddRelease(ctx context.Context, r rollout.Release, c store.Content) (added bool, err error)
	RemoveRelease(ctx context.Context, id rollout.Hash, by string, at time.Time) (rollout.Release, error)
	Releases(ctx context.Context) ([]rollout.Release, error)
}

// contentWrapper wraps the key of the content of a release: *keyring.Ring.
type contentWrapper interface {
	WrapContent(k key.Content, release [32]byte) (kek string, wrapped []byte, err error)
}

// openDepot opens the folder of artifacts, and sweeps it.
func openDepot(ctx context.Context, data string, d *depot) (*depot, error) {
	if err := disk.MkdirAll(disk.OS(data), artifactsFolder, 0o700); err != nil {
		return nil, err
	}
	files, err := artifact.Open(disk.OS(filepath.Join(data, artifactsFolder)))
	if err != nil {
		return nil, err
	}
	d.files, d.receiving = files, make(chan struct{}, 1)
	list, err := d.db.Releases(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range list {
		if n := d.Lacking(r); n > 0 {
			d.logger.WarnContext(ctx, "files of a release are missing: push its bundle again", "release", r.ID.String(), "version", r.Version, "missing", n)
		}
	}
	needed := filesOf(list)
	swept, err := files.Sweep(func(n artifact.Name) bool { return needed[n] })
	if err != nil {
		return nil, err
	}
	if swept > 0 {
		d.logger.InfoContext(ctx, "artifacts of no release were removed", "artifacts", swept)
	}
	return d, nil
}

// filesOf is which files releases have.
func filesOf(list []rollout.Release) map[artifact.Name]bool {
	files := map[artifact.Name]bool{}
	for _, r := range list {
		for _, f := range r.Files {
			files[artifact.Name(f.Name)] = true
		}
	}
	return files
}

// Lacking implements api.Depot, as the other methods do.
func (d *depot) Lacking(r rollout.Release) (missing int) {
	for _, f := range r.Files {
		if !d.files.Has(artifact.Name(f.Name), f.Size) {
			missing++
		}
	}
	return missing
}

// Push takes a bundle.
func (d *depot) Push(ctx context.Context, bundle io.Reader, by string) (r rollout.Release, added bool, err error) {
	select {
	case d.receiving <- struct{}{}:
		defer func() { <-d.receiving }()
	default:
		return r, false, api.ErrReceiving
	}
	delivery := d.files.Receive()
	defer func() { err = errors.Join(err, delivery.Discard()) }()
	r, content, err := rollout.Receive(bundle, d.roots.Roots(), func(f rollout.File, content io.Reader) error {
		return delivery.Add(artifact.Name(f.Name), content)
	})
	if refused, ok := errors.AsType[*rollout.RefusedError](err); ok {
		return r, false, errors.Join(err, d.db.Append(ctx, refusal("release", refused, by, d.now())))
	}
	if err != nil {
		return r, false, err
	}
	defer content.Destroy()
	r.AddedAt, r.AddedBy = d.now(), by
	var c store.Content
	if c.KEK, c.Wrapped, err = d.keys.WrapContent(content, r.ID); err != nil {
		return r, false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := delivery.Keep(); err != nil {
		return r, false, errors.Join(err, d.tidy(ctx, r))
	}
	if added, err = d.db.AddRelease(ctx, r, c); err != nil {
		return r, false, errors.Join(err, d.tidy(ctx, r))
	}
	return r, added, nil
}

// Remove takes a release away that no rollout needs.
func (d *depot) Remove(ctx context.Context, id rollout.Hash, by string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, err := d.db.RemoveRelease(ctx, id, by, d.now())
	if err != nil {
		return err
	}
	return d.tidy(ctx, r)
}

// tidy takes those files of a release away that none needs which is there.
func (d *depot) tidy(ctx context.Context, r rollout.Release) error {
	list, err := d.db.Releases(context.WithoutCancel(ctx))
	if err != nil {
		return fmt.Errorf("removing the files of release %s: %w", r.Version, err)
	}
	needed := filesOf(list)
	for _, f := range r.Files {
		if name := artifact.Name(f.Name); !needed[name] {
			if err := d.files.Remove(name); err != nil {
				return fmt.Errorf("removing the files of release %s: %w", r.Version, err)
			}
		}
	}
	return nil
}
