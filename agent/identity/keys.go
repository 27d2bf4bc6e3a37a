package identity

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"ecowatt/internal/disk"
)

// FallbackAge is how long the key of the epoch before is kept: a cloud that had
// to be restored from a backup of that age still lets the device in.
const FallbackAge = 14 * 24 * time.Hour

// endSlack is by how much an end may be too far away. More means that the clock
// was wrong when it was set.
const endSlack = 24 * time.Hour

// ErrOffer says that an offered key is not one to take.
var ErrOffer = errors.New("the offered key is refused")

// Keys are what a device holds, in two slots (protocol, section 9). Every change
// is one durable write, so after a cut the slots are on the line before it or on
// the line after it:
//
//	1  active e                 an offer: e+1 is staged                     -> 2
//	2  active e, staged e+1     another offer: staged in place of e+1       -> 2
//	                            the first answer under e+1: it is active    -> 3
//	3  active e, active e+1     with burn: e is deleted                     -> 1
//	                            else: e is a fallback, with its end         -> 4
//	                            an offer: e+2 is staged in place of e       -> 2
//	4  fallback e, active e+1   its end has come: e is deleted              -> 1
//	                            an offer: e+2 is staged in place of e       -> 2
//
// Of two intact slots the one of the higher epoch says which line it is. A slot
// that is alone is active, whatever it says: nothing else is left to try.
//
// Keys is a value; the methods of Folder return the next one.
type Keys struct {
	Active   Credential  // the newest that the cloud has answered under
	Staged   *Credential // newer, and not answered under yet; nil for none
	Burn     bool        // the commit of Staged leaves nothing of Active
	Fallback *Credential // of an epoch before; nil for none, and while there is a staged one
	End      int64       // when Fallback is to go, ms since 1970; 0 while that is not known

	in     int  // the slot of Active; the other is for what else there is
	doomed bool // the other slot holds what a burn was to destroy
}

// First returns the key to shake hands with, and the one to try when the cloud
// refuses it; nil for none.
func (k Keys) First() (first Credential, other *Credential) {
	if k.Staged != nil {
		return *k.Staged, &k.Active
	}
	return k.Active, k.Fallback
}

// All returns every key that is held.
func (k Keys) All() []Credential {
	all := []Credential{k.Active}
	for _, c := range []*Credential{k.Staged, k.Fallback} {
		if c != nil {
			all = append(all, *c)
		}
	}
	return all
}

// Hold reports whether c is one of the keys.
func (k Keys) Hold(c Credential) bool { return slices.ContainsFunc(k.All(), c.Equal) }

// takes returns why an offered key is refused; nil when it is one to stage.
func (k Keys) takes(c Credential) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrOffer, fmt.Sprintf(format, args...))
	}
	if c.Key.IsZero() {
		return refuse("it was not drawn at random")
	}
	if c.Epoch <= k.Active.Epoch {
		return refuse("it is of epoch %d, and epoch %d is active", c.Epoch, k.Active.Epoch)
	}
	for _, held := range []*Credential{&k.Active, k.Fallback} {
		if held != nil && (held.ID == c.ID || held.Key.Equal(c.Key)) {
			return refuse("it is the key of epoch %d, or has its id", held.Epoch)
		}
	}
	return nil
}

// Stage keeps an offered key in the slot beside the active one, in place of what
// was there: another staged one, or the fallback. Offered again it changes
// nothing. With burn its commit destroys the active one. When Stage returns nil
// the key is durable; the error wraps ErrOffer when the key is refused. With an
// error the device goes on with the keys it had.
func (f Folder) Stage(k Keys, c Credential, burn bool) (Keys, error) {
	if k.Staged != nil && k.Staged.Equal(c) {
		if k.Burn == burn {
			return k, nil
		}
		c = *k.Staged
	}
	if err := k.takes(c); err != nil {
		return k, err
	}
	if err := f.write(1-k.in, slot{Credential: c, state: staged, burn: burn}); err != nil {
		return k, err
	}
	return Keys{Active: k.Active, Staged: &c, Burn: burn, in: k.in}, nil
}

// Commit makes the staged key the active one: the cloud has answered under it.
// The one before is the fallback until FallbackAge after now, or is destroyed at
// once when the staged one was offered so. now is in ms since 1970, 0 while the
// time is not known. With an error, the keys are as far as it came: Commit, or
// Tidy where nothing is staged any more, does the rest.
func (f Folder) Commit(k Keys, now int64) (Keys, error) {
	if k.Staged == nil {
		return k, nil
	}
	if err := f.write(1-k.in, slot{Credential: *k.Staged, state: active, burn: k.Burn}); err != nil {
		return k, err
	}
	next := Keys{Active: *k.Staged, in: 1 - k.in, doomed: k.Burn}
	if !k.Burn {
		next.Fallback = &k.Active
	}
	return f.Tidy(next, now)
}

// Tidy does what is due at now (ms since 1970, 0 while that is not known): it
// destroys what a burn left, gives a fallback its end, and destroys one whose end
// has come. It is called after an answer under the active key, for then the cloud
// does not need another one; it writes only where something is due.
func (f Folder) Tidy(k Keys, now int64) (Keys, error) {
	if k.doomed {
		if err := f.remove(1 - k.in); err != nil {
			return k, err
		}
		k.doomed = false
	}
	if k.Fallback == nil || now <= 0 {
		return k, nil
	}
	if k.End > 0 && k.End <= now {
		if err := f.remove(1 - k.in); err != nil {
			return k, err
		}
		k.Fallback, k.End = nil, 0
		return k, nil
	}
	end := now + FallbackAge.Milliseconds()
	if k.End > 0 && k.End <= end+endSlack.Milliseconds() {
		return k, nil
	}
	if err := f.write(1-k.in, slot{Credential: *k.Fallback, state: fallback, end: end}); err != nil {
		return k, err
	}
	k.End = end
	return k, nil
}

// write replaces the slot number i.
func (f Folder) write(i int, s slot) error {
	b, err := appendSlot(make([]byte, 0, sealedSize), s, f.Storage)
	if err != nil {
		return err
	}
	defer clear(b)
	return disk.WriteFile(f.FS, slotNames()[i], b, secretMode)
}

// remove deletes the slot number i, and what a cut left of writing it.
func (f Folder) remove(i int) error {
	name := slotNames()[i]
	return errors.Join(f.forget(name+disk.Temporary), disk.Delete(f.FS, name))
}
