package cloud

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"ecowatt/cloud/audit"
	"ecowatt/cloud/rollout"
	"ecowatt/internal/disk"
)

// The folder of the roots of trust for firmware, in the data folder: each is a file
// named by its version. They are public.
const (
	rootsFolder = firmwareFolder + "/roots"
	maxRoot     = 8 << 10 // bytes of a file
)

// trust keeps the roots of trust for firmware. It is safe for concurrent use.
type trust struct {
	folder disk.FS // the data folder
	log    recorder
	now    func() time.Time

	mu    sync.Mutex // one change at a time
	roots atomic.Pointer[rollout.Roots]
}

// recorder writes audit records of their own.
type recorder interface {
	Append(ctx context.Context, r audit.Record) error
}

// openTrust reads the roots that were kept. Where one is missing in between, or
// cannot be read, nothing is trusted in its place: the cloud does not start.
func openTrust(data disk.FS, log recorder, now func() time.Time) (*trust, error) {
	t := &trust{folder: data, log: log, now: now}
	if err := disk.MkdirAll(t.folder, rootsFolder, 0o700); err != nil {
		return nil, err
	}
	names, err := t.folder.List(rootsFolder)
	if err != nil {
		return nil, fmt.Errorf("reading the roots of trust: %w", err)
	}
	var versions []uint64
	for _, name := range names {
		if n, err := strconv.ParseUint(name, 10, 64); err == nil && strconv.FormatUint(n, 10) == name {
			versions = append(versions, n)
		}
	}
	slices.Sort(versions)
	var signed [][]byte
	for _, n := range versions {
		b, err := disk.ReadFile(t.folder, rootFile(n), maxRoot)
		if err != nil {
			return nil, err
		}
		signed = append(signed, b)
		if _, err := rollout.ReadRoots(signed); err != nil {
			return nil, fmt.Errorf("%s in the data folder: %w; put it back from a copy, or take it away with those after it and publish them again", rootFile(n), err)
		}
	}
	roots, err := rollout.ReadRoots(signed)
	if err != nil {
		return nil, err
	}
	t.roots.Store(&roots)
	return t, nil
}

func rootFile(version uint64) string { return rootsFolder + "/" + strconv.FormatUint(version, 10) }

// Roots are those there are.
func (t *trust) Roots() rollout.Roots { return *t.roots.Load() }

// AddRoot implements api.Trust. The log is written first, so that no change is
// missing in it.
func (t *trust) AddRoot(ctx context.Context, signed []byte, by string) (added bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next, added, err := t.Roots().Add(signed)
	if refused, ok := errors.AsType[*rollout.RefusedError](err); ok {
		return false, errors.Join(err, t.log.Append(ctx, refusal("root of trust", refused, by, t.now())))
	}
	if err != nil || !added {
		return false, err
	}
	version := strconv.FormatUint(next.Version(), 10)
	r := audit.Record{
		At: t.now(), Actor: audit.Actor{Kind: audit.Operator, Name: by}, Action: "firmware.root_added",
		Text: "root of trust " + version + " for firmware added", Attrs: map[string]string{"version": version},
	}
	if err := t.log.Append(ctx, r); err != nil {
		return false, err
	}
	if err := disk.WriteFile(t.folder, rootFile(next.Version()), next.Newest(), 0o600); err != nil {
		r.Action, r.Text = "firmware.failed", r.Text+": failed"
		return false, errors.Join(err, t.log.Append(context.WithoutCancel(ctx), r))
	}
	t.roots.Store(&next)
	return true, nil
}

// refusal is the record of a release, or a root, that was not taken.
func refusal(what string, why *rollout.RefusedError, by string, at time.Time) audit.Record {
	attrs := map[string]string{"code": string(why.Code)}
	if why.Code == rollout.CodeSignature || why.Code == rollout.CodeChunk {
		attrs[audit.AttrReason] = string(why.Code)
	}
	return audit.Record{
		At: at, Actor: audit.Actor{Kind: audit.Operator, Name: by}, Action: "firmware.refused", Text: what + " refused: " + why.Problem, Attrs: attrs,
	}
}
