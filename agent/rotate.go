package agent

import (
	"errors"
	"fmt"
	"log/slog"

	"ecowatt/agent/identity"
	"ecowatt/agent/uplink"
	"ecowatt/wire"
)

// Codes of the device log that have to do with keys, beside ROT_FALLBACK of the
// uplink (protocol, section 10).
const (
	codeKeyStaged    = string(wire.RotationOffered)
	codeKeyCommitted = string(wire.RotationCommitted)
	codeKeyBurned    = string(wire.RotationBurn)
	codeKeyRefused   = "ROT_REFUSED"
	codeKeyNotStored = "ROT_NOT_STORED"
	codeKeyExpired   = "ROT_EXPIRED"
	codeSlotTorn     = "key_slot_torn"
	codeNotMended    = "key_slots_not_mended"
)

// keyKeeper holds the device's keys and does what answers want of them. Only the
// loop that talks to the cloud uses it.
type keyKeeper struct {
	folder identity.Folder
	keys   identity.Keys
	uplink *uplink.Uplink
	logger *slog.Logger

	refused string // the offer that was refused last, which comes again with every answer
	failing bool   // the last write failed
}

// epochs is what a request says of the keys.
func (k *keyKeeper) epochs() *wire.Epochs {
	e := &wire.Epochs{Active: k.keys.Active.Epoch}
	if k.keys.Staged != nil {
		e.Staged = k.keys.Staged.Epoch
	}
	return e
}

// answered does what an answer that opened wants of the keys: one under the
// newest key commits it, and an offer is staged. It reports whether the session
// ended for that: the next exchange is due at once then, so that the cloud learns
// within the slot that the device has the key. now is in ms since 1970, 0 while
// that is not known.
//
// An answer under the fallback commits nothing and lets nothing expire: the cloud
// may know no other key.
func (k *keyKeeper) answered(offer *wire.KeyOffer, now int64) (rekeyed bool) {
	if !k.uplink.Status().Fallback && !k.commit(now) {
		return false // until that is on the disk no other key is taken
	}
	return offer != nil && k.take(*offer)
}

// commit makes a staged key the active one, and lets a fallback expire. It
// reports whether all of that is on the disk.
func (k *keyKeeper) commit(now int64) bool {
	before := k.keys
	var err error
	if before.Staged != nil {
		k.keys, err = k.folder.Commit(before, now)
	} else {
		k.keys, err = k.folder.Tidy(before, now)
	}
	if _, fallback := k.keys.First(); fallback == nil {
		k.uplink.DropFallback()
	}
	switch {
	case k.keys.Active.Epoch != before.Active.Epoch:
		k.failing = false
		k.logger.Info("the new key is the active one", "code", codeKeyCommitted, "epoch", uint32(k.keys.Active.Epoch))
		if before.Burn {
			k.logger.Info("the key of the epoch before is destroyed", "code", codeKeyBurned, "epoch", uint32(before.Active.Epoch))
		}
	case before.Fallback != nil && k.keys.Fallback == nil:
		k.logger.Info("the key of the epoch before has come to its end", "code", codeKeyExpired, "epoch", uint32(before.Fallback.Epoch))
	}
	destroyOthers(before, k.keys)
	return err == nil || k.failed(err)
}

// take stages an offered key, which changes nothing when it is staged already.
func (k *keyKeeper) take(o wire.KeyOffer) (rekeyed bool) {
	defer func() {
		if !rekeyed {
			o.Key.Destroy()
		}
	}()
	before, offered := k.keys, identity.Credential{ID: o.ID, Epoch: o.Epoch, Key: o.Key}
	next, err := k.folder.Stage(before, offered, o.Burn)
	if errors.Is(err, identity.ErrOffer) {
		if name := fmt.Sprint(o.ID, o.Epoch, err); name != k.refused {
			k.refused = name
			k.logger.Error("the cloud offers a key that is not taken", "code", codeKeyRefused, "epoch", uint32(o.Epoch), "error", err)
		}
		return false
	}
	if err != nil {
		return k.failed(err)
	}
	k.keys = next
	newest, fallback := next.First()
	if was, _ := before.First(); was.Equal(newest) {
		return false // only burn may have changed
	}
	k.failing = false
	k.logger.Info("a new key is staged", "code", codeKeyStaged, "epoch", uint32(o.Epoch), "burn", o.Burn)
	k.uplink.Rekey(uplink.Credential(newest), (*uplink.Credential)(fallback))
	destroyOthers(before, next)
	return true
}

// failed tells that keys cannot be written, once until they can. It is false.
func (k *keyKeeper) failed(err error) bool {
	if !k.failing {
		k.logger.Error("the keys cannot be written", "code", codeKeyNotStored, "error", err)
	}
	k.failing = true
	return false
}

// destroyOthers wipes from memory what before held and after does not.
func destroyOthers(before, after identity.Keys) {
	for _, c := range before.All() {
		if !after.Hold(c) {
			c.Key.Destroy()
		}
	}
}
