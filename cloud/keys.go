package cloud

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"ecowatt/cloud/api"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/keyring"
	"ecowatt/cloud/session"
	"ecowatt/cloud/store"
)

// rewrapTime is for how long one request wraps keys anew before it says how far
// it got.
const rewrapTime = time.Second

// keeper changes the key ring while devices talk: the ring's file, and what it
// wraps in the database.
//
//	add ──> primary ──> rewrap ──> remove
//
// Every step may be taken again, and the cloud may be killed within each of
// them: the file has a key before anything is wrapped with it, and loses it
// only when the database takes nothing more that was wrapped with it.
type keeper struct {
	ring   *keyring.Ring
	db     *store.Store
	random io.Reader
	now    func() time.Time

	mu sync.Mutex // one change at a time
}

// Keys implements api.Keyring, as the other methods do.
func (k *keeper) Keys(ctx context.Context) ([]api.KeyringKey, error) {
	uses, err := k.db.KEKUses(ctx)
	if err != nil {
		return nil, err
	}
	var list []api.KeyringKey
	for _, x := range k.ring.Keys() {
		use := uses[x.ID]
		list = append(list, api.KeyringKey{ID: x.ID, Primary: x.Primary, MadeAt: x.Made, DeviceKeys: use.DeviceKeys, Sessions: use.Sessions, Releases: use.Releases})
	}
	return list, nil
}

// Add adds a key-encryption key.
func (k *keeper) Add(ctx context.Context, by string) (api.KeyringKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	drawn, err := keyring.Draw(k.random, k.now())
	if err != nil {
		return api.KeyringKey{}, err
	}
	r := k.record(by, "keyring.key_added", "key-encryption key added", drawn.ID)
	if err := k.db.Append(ctx, r); err != nil {
		return api.KeyringKey{}, err
	}
	if err := k.ring.Add(drawn); err != nil {
		return api.KeyringKey{}, k.undone(ctx, r, err)
	}
	return api.KeyringKey{ID: drawn.ID, MadeAt: drawn.Made}, nil
}

// SetPrimary lets the key wrap. When it does already nothing happens.
func (k *keeper) SetPrimary(ctx context.Context, id, by string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch known, primary := k.look(id); {
	case !known:
		return api.ErrNoKEK
	case primary:
		return nil
	}
	// It was closed where removing it failed half-way.
	if err := k.db.OpenKEKs(ctx, id); err != nil {
		return err
	}
	r := k.record(by, "keyring.primary_set", "key-encryption key made the primary one", id)
	if err := k.db.Append(ctx, r); err != nil {
		return err
	}
	if err := k.ring.SetPrimary(id); err != nil {
		return k.undone(ctx, r, err)
	}
	return nil
}

// Rewrap wraps keys anew for a while. Every transaction has its audit record.
func (k *keeper) Rewrap(ctx context.Context, after, by string) (api.KeyringRewrap, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	done := api.KeyringRewrap{Primary: k.primary(), Failed: []string{}, Next: after}
	for end := k.now().Add(rewrapTime); ; {
		batch, err := k.db.Rewrap(ctx, store.RewrapOrder{
			Keys: k.ring, Primary: done.Primary, After: done.Next,
			Record: k.record(by, "keyring.rewrapped", "keys wrapped anew", done.Primary),
		})
		if errors.Is(err, store.ErrPlace) {
			return api.KeyringRewrap{}, api.ErrPlace
		}
		if err != nil {
			return api.KeyringRewrap{}, err
		}
		done.DeviceKeys += batch.DeviceKeys
		done.Sessions += batch.Sessions
		done.Releases += batch.Releases
		done.Failed = append(done.Failed, batch.Failed...)
		done.Next = batch.Next
		if done.Next == "" || !k.now().Before(end) {
			return done, nil
		}
	}
}

// Remove takes a key from the ring that wraps nothing.
func (k *keeper) Remove(ctx context.Context, id, by string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch known, primary := k.look(id); {
	case !known:
		return api.ErrNoKEK
	case primary:
		return &api.ConflictError{Problem: fmt.Sprintf("%s is the primary key: make another one primary first", id)}
	}
	r := k.record(by, "keyring.key_removed", "key-encryption key removed", id)
	err := k.db.CloseKEK(ctx, id, r)
	if used, ok := errors.AsType[*store.KEKInUseError](err); ok {
		return &api.ConflictError{Problem: fmt.Sprintf("%v: wrap them anew first", used)}
	}
	if err != nil {
		return err
	}
	if err := k.ring.Remove(id); err != nil {
		return k.undone(ctx, r, err)
	}
	return nil
}

func (k *keeper) look(id string) (known, primary bool) {
	for _, x := range k.ring.Keys() {
		if x.ID == id {
			return true, x.Primary
		}
	}
	return false, false
}

func (k *keeper) primary() string {
	for _, x := range k.ring.Keys() {
		if x.Primary {
			return x.ID
		}
	}
	return ""
}

func (k *keeper) record(by, action, text, id string) audit.Record {
	return audit.Record{
		At: k.now(), Actor: audit.Actor{Kind: audit.Operator, Name: by}, Action: action, Text: text,
		Attrs: map[string]string{"kek": id},
	}
}

// undone says in the audit log that what the record before tells of failed: the
// log is written first, so that no change is missing in it.
func (k *keeper) undone(ctx context.Context, r audit.Record, err error) error {
	r.Text, r.Action = r.Text+": failed", "keyring.failed"
	if appending := k.db.Append(context.WithoutCancel(ctx), r); appending != nil {
		return errors.Join(err, appending)
	}
	if errors.Is(err, keyring.ErrTouched) || errors.Is(err, keyring.ErrFull) || errors.Is(err, keyring.ErrExposed) {
		return &api.ConflictError{Problem: err.Error()}
	}
	return err
}

// openKeys opens the key ring. It makes one only where the database holds
// nothing that another one wraps: a database without its key ring is worth
// nothing, and must not look like a new one.
func openKeys(ctx context.Context, db *store.Store, o Options) (*keyring.Ring, error) {
	path := filepath.Join(o.Data, keyringFile)
	used, err := db.KEKs(ctx)
	if err != nil {
		return nil, err
	}
	ring, err := keyring.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(used) == 0:
		if ring, err = keyring.Create(path, rand.Reader); err != nil {
			return nil, err
		}
		o.Logger.InfoContext(ctx, "key ring made; back it up apart from the database", "file", path)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s is missing, and the keys in %s are wrapped with %s: put it back from its backup", path, o.Database, keyList(used))
	case err != nil:
		return nil, err
	}
	var lacks, has []string
	for _, id := range used {
		if !ring.Knows(id) {
			lacks = append(lacks, id)
		}
	}
	if len(lacks) > 0 {
		return nil, fmt.Errorf("%s does not hold %s, with which keys in %s are wrapped: put back the key ring that belongs to this database", path, keyList(lacks), o.Database)
	}
	probes, err := db.KEKProbes(ctx)
	if err != nil {
		return nil, err
	}
	if wrong := unopened(ring, probes); len(wrong) > 0 {
		return nil, fmt.Errorf("%s holds something else under the name of %s than what keys in %s are wrapped with: put back the key ring that belongs to this database", path, keyList(wrong), o.Database)
	}
	for _, k := range ring.Keys() {
		has = append(has, k.ID)
	}
	// Nothing is on its way into the database now, and a key that is on the ring
	// may be used: also one that came back with the ring's backup.
	return ring, db.OpenKEKs(ctx, has...)
}

// unopened returns the key-encryption keys that open none of the probes wrapped
// with them. One probe alone may be damaged, which is no reason to shut out all.
func unopened(ring *keyring.Ring, probes []session.Credential) (wrong []string) {
	opens := map[string]bool{}
	for _, p := range probes {
		k, err := ring.UnwrapDevice(p.KEK, p.Wrapped, string(p.Name), p.ID, p.Epoch)
		k.Destroy()
		opens[p.KEK] = opens[p.KEK] || err == nil
	}
	for _, p := range probes {
		if !opens[p.KEK] && !slices.Contains(wrong, p.KEK) {
			wrong = append(wrong, p.KEK)
		}
	}
	return wrong
}

// keyList names key-encryption keys.
func keyList(ids []string) string {
	if len(ids) == 1 {
		return "the key-encryption key " + ids[0]
	}
	return "the key-encryption keys " + strings.Join(ids, ", ")
}
