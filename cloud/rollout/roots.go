package rollout

import (
	"bytes"
	"fmt"

	"ecowatt/firmware"
)

// Roots are the roots of trust for firmware that the cloud has: the first that it
// was given, and each that followed. The zero Roots has none.
type Roots struct {
	signed [][]byte
	newest firmware.Root
}

// ReadRoots reads a chain of roots, the oldest first, as it was kept.
func ReadRoots(signed [][]byte) (Roots, error) {
	var r Roots
	for _, b := range signed {
		var err error
		if r, _, err = r.Add(b); err != nil {
			return Roots{}, err
		}
	}
	return r, nil
}

// Add is the chain with one more root: the first there is, or one that follows the
// newest. One that is in the chain changes nothing. The error is a *RefusedError.
func (r Roots) Add(signed []byte) (next Roots, added bool, err error) {
	e, err := firmware.ParseEnvelope(signed)
	if err != nil {
		return r, false, refused(err)
	}
	if r.has(e) {
		return r, false, nil
	}
	var newest firmware.Root
	if len(r.signed) == 0 {
		newest, err = firmware.ParseRoot(signed)
	} else {
		newest, err = r.newest.Next(signed)
	}
	if err != nil {
		return r, false, refused(err)
	}
	kept := append(append([][]byte{}, r.signed...), bytes.Clone(signed))
	return Roots{signed: kept, newest: newest}, true, nil
}

// has reports whether the statement is one of the chain.
func (r Roots) has(e firmware.Envelope) bool {
	for _, b := range r.signed {
		if known, err := firmware.ParseEnvelope(b); err == nil && known.ID() == e.ID() {
			return true
		}
	}
	return false
}

// Version is that of the newest root; 0 for none.
func (r Roots) Version() uint64 { return r.newest.Version }

// Newest is the newest root, signed; empty for none.
func (r Roots) Newest() []byte {
	if len(r.signed) == 0 {
		return nil
	}
	return r.signed[len(r.signed)-1]
}

// Later are the roots that follow the first one: what a device needs to come from
// any of the chain to the newest.
func (r Roots) Later() [][]byte {
	if len(r.signed) == 0 {
		return nil
	}
	return r.signed[1:]
}

// First is the version of the first root; 0 for none.
func (r Roots) First() uint64 {
	if len(r.signed) == 0 {
		return 0
	}
	return r.newest.Version - uint64(len(r.signed)-1)
}

// Names are the names under which the roots are kept, in the order of the chain.
func (r Roots) Names() []string {
	names := make([]string, len(r.signed))
	for i := range names {
		names[i] = fmt.Sprint(r.First() + uint64(i))
	}
	return names
}
