package keyring

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"ecowatt/key"
)

// Errors of changes. Nothing changes where one is returned.
var (
	// ErrPrimary says that the primary key cannot be removed.
	ErrPrimary = errors.New("it is the primary key")
	// ErrTouched says that somebody else changed the file since it was read.
	ErrTouched = errors.New("the key ring's file was changed by other hands")
)

// Key is what may be known of a key-encryption key.
type Key struct {
	ID      string
	Primary bool      // it wraps
	Made    time.Time // UTC, to the millisecond
}

// Keys returns what is on the ring, the oldest first.
func (r *Ring) Keys() []Key { return r.content.Load().list() }

func (c *content) list() []Key {
	keys := make([]Key, 0, len(c.keys))
	for id, k := range c.keys {
		keys = append(keys, Key{ID: id, Primary: id == c.primary, Made: k.made})
	}
	slices.SortFunc(keys, func(a, b Key) int { return cmp.Or(a.Made.Compare(b.Made), cmp.Compare(a.ID, b.ID)) })
	return keys
}

// NewKey is a key-encryption key that is not on a ring yet.
type NewKey struct {
	ID   string
	Made time.Time // UTC, to the millisecond
	key  key.KEK
}

// Draw makes a key-encryption key. random must be a cryptographic source.
func Draw(random io.Reader, made time.Time) (NewKey, error) {
	var id [idSize]byte
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return NewKey{}, fmt.Errorf("drawing an id: %w", err)
	}
	secret, err := key.NewKEK(random)
	if err != nil {
		return NewKey{}, err
	}
	return NewKey{ID: hex.EncodeToString(id[:]), Made: made.UTC().Truncate(time.Millisecond), key: secret}, nil
}

// Add puts a key on the ring. It unwraps from now on, and wraps once it is the
// primary key.
func (r *Ring) Add(k NewKey) error {
	return r.change("adding the key "+k.ID, func(c *content) error {
		if c.knows(k.ID) || k.key.IsZero() {
			return errors.New("it is on the ring already, or none")
		}
		c.keys[k.ID] = kek{k.key, k.Made}
		return nil
	})
}

// SetPrimary lets the key of that id wrap from now on.
func (r *Ring) SetPrimary(id string) error {
	return r.change("making the key primary", func(c *content) error {
		if !c.knows(id) {
			return unknown(id)
		}
		c.primary = id
		return nil
	})
}

// Remove takes a key from the ring, for good: what it wraps never opens again.
// The error wraps ErrUnknownKEK, or ErrPrimary.
func (r *Ring) Remove(id string) error {
	return r.change("removing the key", func(c *content) error {
		switch {
		case !c.knows(id):
			return unknown(id)
		case id == c.primary:
			return ErrPrimary
		}
		delete(c.keys, id) // not destroyed: it may be unwrapping something now
		return nil
	})
}

// change edits a copy of what is on the ring and puts it in place once it is on
// the disk.
func (r *Ring) change(doing string, edit func(*content) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.content.Load()
	c := &content{primary: old.primary, keys: maps.Clone(old.keys)}
	err := edit(c)
	if err == nil {
		err = r.untouched()
	}
	if err == nil {
		err = r.write(c)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// untouched makes sure that writing the file loses nothing that somebody else
// wrote there.
func (r *Ring) untouched() error {
	data, err := readPrivate(r.path)
	if err != nil {
		return err
	}
	defer clear(data)
	if sha256.Sum256(data) != r.sum {
		return fmt.Errorf("%s: %w: start the cloud again to use it as it is now", r.path, ErrTouched)
	}
	return nil
}

func unknown(id string) error { return fmt.Errorf("%w %.40q", ErrUnknownKEK, id) }
