package update

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"ecowatt/firmware"
	"ecowatt/internal/disk"
)

// download is the fetching of a payload in one slot.
type download struct {
	payload firmware.Payload
	table   firmware.Table
	file    disk.File // the payload so far
	done    uint64    // chunks in it
	chunk   []byte    // room for one
	plain   []byte
}

// fetch brings the rest of the payload: nil when all of it is on the disk for
// good. Each chunk is verified against the table, which the manifest pins, before
// it is opened and written.
func (u *Updater) fetch(ctx context.Context) error {
	p := u.now.payload
	d := &download{payload: p}
	if err := u.resume(d); err != nil {
		return err
	}
	if d.done == p.Chunks {
		return u.fetched()
	}
	if u.state.Phase != Downloading {
		if err := u.tell(Downloading, "", ""); err != nil {
			return err
		}
	}
	var err error
	if d.table, err = u.table(ctx, p); err != nil {
		return err
	}
	d.chunk, d.plain = make([]byte, p.ChunkLength(0)), make([]byte, 0, p.ChunkSize)
	if d.file, err = u.FS.Append(payloadFile, mode); err != nil {
		return err
	}
	err = u.patiently(ctx, func(ctx context.Context) (progress bool, err error) {
		before := d.done
		err = u.stream(ctx, d)
		return d.done > before, err
	})
	keep := u.keep(d)
	if closing := d.file.Close(); keep == nil {
		keep = closing
	}
	switch {
	case err != nil:
		return err
	case keep != nil:
		return keep
	case d.done < p.Chunks:
		return u.exhausted()
	}
	return u.fetched()
}

func (u *Updater) fetched() error {
	if u.state.Phase == Downloading {
		return u.tell(Downloaded, "", "")
	}
	return nil
}

// exhausted tells how far a slot came, and lets the rest wait for the next one.
func (u *Updater) exhausted() error {
	if u.blocked() == "" {
		u.over = true
	}
	if err := u.tell(Downloading, "", ""); err != nil {
		return err
	}
	return errAgain
}

// resume finds out how much of the payload is here: what is known to be durable.
// The rest of the file, if there is any, is cut off.
func (u *Updater) resume(d *download) error {
	d.done = u.state.Done
	info, err := u.FS.Stat(payloadFile)
	size := uint64(0)
	switch {
	case err == nil:
		size = uint64(info.Size())
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if size < d.begins(d.done) { // it was being discarded
		d.done, u.state.Done = 0, 0
		if err := u.save(); err != nil { // before there is a file again that looks like one of so many chunks
			return err
		}
	}
	if size > d.begins(d.done) {
		return u.FS.Truncate(payloadFile, int64(d.begins(d.done)))
	}
	return nil
}

// begins is where chunk i begins in the opened payload.
func (d *download) begins(i uint64) uint64 {
	return min(i*d.payload.ChunkSize, d.payload.PlainSize())
}

// keep makes the chunks so far last.
func (u *Updater) keep(d *download) error {
	if d.done == u.state.Done {
		return nil
	}
	err := d.file.Sync()
	if err == nil && u.state.Done == 0 {
		err = u.FS.SyncDir(Folder) // the file may be new
	}
	if err != nil {
		return err
	}
	u.state.Done = d.done
	return u.save()
}

// table returns the table of chunks of p, from the disk or the cloud.
func (u *Updater) table(ctx context.Context, p firmware.Payload) (t firmware.Table, err error) {
	if data, err := disk.ReadFile(u.FS, tableFile, int64(p.TableSize())); err == nil {
		if t, err := firmware.ParseTable(data, p); err == nil {
			return t, nil
		}
	}
	data := make([]byte, p.TableSize())
	err = u.patiently(ctx, func(ctx context.Context) (bool, error) {
		body, err := u.get(ctx, p.Table, 0, p.TableSize())
		if err != nil {
			return false, err
		}
		defer body.Close()
		if err := u.read(body, data); err != nil {
			return false, err
		}
		if t, err = firmware.ParseTable(data, p); err != nil {
			return false, &troubleError{code: BadChunk, err: err, full: p.IsDelta()}
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	return t, disk.WriteFile(u.FS, tableFile, data, mode)
}

// patiently tries again what the line may have spoiled: until it fails so often in
// a row without any progress.
func (u *Updater) patiently(ctx context.Context, try func(context.Context) (progress bool, err error)) error {
	for failures := 0; ; {
		progress, err := try(ctx)
		if progress {
			failures = 0
		}
		t, ok := errors.AsType[*troubleError](err)
		if !ok || t.code != BadChunk && t.code != Unreachable {
			return err
		}
		failures++
		if failures >= maxAttempts || !u.Pause(ctx, retryPause) {
			return err
		}
		if u.capped && u.left == 0 {
			return err
		}
	}
}

// stream fetches chunks in one request, as many as the budget of the slot allows.
func (u *Updater) stream(ctx context.Context, d *download) error {
	p, end := d.payload, u.within(d)
	if d.done >= end {
		return nil
	}
	from := p.ChunkOffset(d.done)
	body, err := u.get(ctx, p.Artifact, from, min(p.ChunkOffset(end), p.Size)-from)
	if err != nil {
		return err
	}
	defer body.Close()
	for d.done < end {
		chunk := d.chunk[:p.ChunkLength(d.done)]
		if err := u.read(body, chunk); err != nil {
			return err
		}
		if err := d.table.Verify(d.done, chunk); err != nil {
			return &troubleError{code: BadChunk, err: err, full: p.IsDelta()}
		}
		plain, err := u.now.content.OpenChunk(d.plain[:0], p, d.done, chunk)
		if err != nil { // the one who signed it has made it so
			return &troubleError{code: ContentKey, err: err, full: p.IsDelta(), fail: true}
		}
		if _, err := d.file.Write(plain); err != nil {
			return err
		}
		d.done++
		if d.done%Durable != 0 {
			continue
		}
		if err := u.keep(d); err != nil {
			return err
		}
		if u.blocked() != "" {
			return nil
		}
	}
	return nil
}

// within is up to which chunk the budget of the slot reaches. The first chunk of a
// slot goes beyond one that is too small, or there would never be an end.
func (u *Updater) within(d *download) uint64 {
	p, end := d.payload, d.payload.Chunks
	if !u.capped {
		return end
	}
	if u.left == 0 {
		return d.done
	}
	for end = d.done + 1; end < p.Chunks && min(p.ChunkOffset(end+1), p.Size)-p.ChunkOffset(d.done) <= u.left; end++ {
	}
	return end
}

// read reads all of p, and takes it from the budget.
func (u *Updater) read(from io.Reader, p []byte) error {
	n, err := io.ReadFull(from, p)
	if u.capped {
		u.left -= min(u.left, uint64(n))
	}
	if err != nil {
		return &troubleError{code: Unreachable, err: fmt.Errorf("%d of %d bytes came: %w", n, len(p), err)}
	}
	return nil
}

// get asks for n bytes of an artifact. A server that sends the whole file instead
// is taken at its word where the bytes in front of those cost nothing.
func (u *Updater) get(ctx context.Context, name [32]byte, from, n uint64) (io.ReadCloser, error) {
	at, body, err := u.Source.Get(ctx, u.now.folder+hex.EncodeToString(name[:]), from, n)
	if err != nil {
		return nil, &troubleError{code: Unreachable, err: err}
	}
	switch {
	case at == from:
		return body, nil
	case at != 0:
		err = fmt.Errorf("the server sends what begins at %d, %d was asked for", at, from)
	case u.capped:
		err = errors.New("the server sends the whole file, which is beyond the budget of a slot")
		u.left = 0
	default:
		_, err = io.CopyN(io.Discard, body, int64(from))
	}
	if err != nil {
		body.Close()
		return nil, &troubleError{code: Unreachable, err: err}
	}
	return body, nil
}
