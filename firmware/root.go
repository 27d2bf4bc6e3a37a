package firmware

import (
	"crypto/ed25519"
	"fmt"
	"slices"
)

// Root says whose signatures count: the root keys, which sign roots, and the
// release keys, which sign manifests and downgrades. Version 1 is built into a
// device by its enrolment; each later one is signed by those before and by its
// own (the walk of The Update Framework, section 5.3).
type Root struct {
	Version          uint64   `cbor:"1,keyasint"`
	Keys             [][]byte `cbor:"2,keyasint"` // Ed25519, 32 bytes each, in ascending order
	RootKeys         []KeyID  `cbor:"3,keyasint"` // in ascending order
	RootThreshold    uint64   `cbor:"4,keyasint"`
	ReleaseKeys      []KeyID  `cbor:"5,keyasint"` // in ascending order
	ReleaseThreshold uint64   `cbor:"6,keyasint"`

	// Where a stolen release key has signed releases with numbers that nobody
	// could ever exceed, the root that removes the key takes them back: a release
	// above Ceiling is refused, and a device that runs one counts as if it ran
	// Floor. A Ceiling of 0 is none.
	Floor   uint64 `cbor:"7,keyasint,omitempty"`
	Ceiling uint64 `cbor:"8,keyasint,omitempty"`
}

// NewRoot returns a root with these keys and thresholds, its lists in order. The
// error wraps ErrFormat.
func NewRoot(version uint64, rootKeys, releaseKeys []ed25519.PublicKey, rootThreshold, releaseThreshold int) (Root, error) {
	r := Root{Version: version, RootThreshold: uint64(rootThreshold), ReleaseThreshold: uint64(releaseThreshold)}
	for _, k := range rootKeys {
		r.Keys, r.RootKeys = append(r.Keys, k), append(r.RootKeys, IDOf(k))
	}
	for _, k := range releaseKeys {
		r.Keys, r.ReleaseKeys = append(r.Keys, k), append(r.ReleaseKeys, IDOf(k))
	}
	slices.SortFunc(r.Keys, slices.Compare)
	r.Keys = slices.CompactFunc(r.Keys, slices.Equal)
	sortIDs(r.RootKeys)
	sortIDs(r.ReleaseKeys)
	return r, r.check()
}

func sortIDs(ids []KeyID) { slices.SortFunc(ids, compareIDs) }

func compareIDs(a, b KeyID) int { return slices.Compare(a[:], b[:]) }

// check says what is wrong with a root. Lists stand in ascending order without
// repetition, so that each key counts once.
func (r Root) check() error {
	switch {
	case r.Version == 0:
		return malformed("root version 0")
	case len(r.Keys) == 0 || len(r.Keys) > MaxKeys:
		return malformed("%d keys; a root has 1 to %d", len(r.Keys), MaxKeys)
	case r.Ceiling != 0 && r.Floor > r.Ceiling:
		return malformed("a floor of %d above the ceiling %d", r.Floor, r.Ceiling)
	case r.Ceiling == 0 && r.Floor != 0:
		return malformed("a floor without a ceiling")
	}
	for i, k := range r.Keys {
		if len(k) != ed25519.PublicKeySize || i > 0 && slices.Compare(r.Keys[i-1], k) >= 0 {
			return malformed("key %d is not one of %d bytes in ascending order", i, ed25519.PublicKeySize)
		}
	}
	keys := r.keys()
	if len(keys) != len(r.Keys) {
		return malformed("two keys with one id")
	}
	if err := checkRole("root", r.RootKeys, r.RootThreshold, keys); err != nil {
		return err
	}
	return checkRole("release", r.ReleaseKeys, r.ReleaseThreshold, keys)
}

func checkRole(role string, ids []KeyID, threshold uint64, keys map[KeyID]ed25519.PublicKey) error {
	if threshold == 0 || threshold > uint64(len(ids)) {
		return malformed("%d of %d %s keys", threshold, len(ids), role)
	}
	for i, id := range ids {
		if _, ok := keys[id]; !ok || i > 0 && compareIDs(ids[i-1], id) >= 0 {
			return malformed("%s key %v is not one of the keys, in ascending order", role, id)
		}
	}
	return nil
}

func (r Root) keys() map[KeyID]ed25519.PublicKey {
	keys := make(map[KeyID]ed25519.PublicKey, len(r.Keys))
	for _, k := range r.Keys {
		keys[IDOf(k)] = k
	}
	return keys
}

// Unsigned returns the root as an envelope to sign.
func (r Root) Unsigned() (Envelope, error) {
	if err := r.check(); err != nil {
		return Envelope{}, err
	}
	body, err := encode(r)
	return Envelope{Body: body}, err
}

// ParseRoot reads the root that a device trusts from the start. It must be signed
// by its own root keys, which protects from damage, not from anybody: whoever
// could put it there could have put another. The error wraps ErrFormat or
// ErrSignature.
func ParseRoot(signed []byte) (Root, error) {
	e, err := ParseEnvelope(signed)
	if err != nil {
		return Root{}, err
	}
	r, err := parseRoot(e.Body)
	if err != nil {
		return Root{}, err
	}
	return r, r.signedBy(e, "its own root keys")
}

// ReadRoot reads the root of an envelope without asking who has signed it: for
// people. A device uses ParseRoot and Next. The error wraps ErrFormat.
func ReadRoot(e Envelope) (Root, error) { return parseRoot(e.Body) }

func parseRoot(body []byte) (Root, error) {
	var r Root
	if err := decode(body, &r); err != nil {
		return Root{}, fmt.Errorf("reading a root of trust: %w", err)
	}
	if err := r.check(); err != nil {
		return Root{}, fmt.Errorf("reading a root of trust: %w", err)
	}
	return r, nil
}

// signedBy is nil when enough of r's root keys have signed e.
func (r Root) signedBy(e Envelope, who string) error {
	if n := count(r.RootKeys, e.signers(StatementRoot, r.keys())); n < r.RootThreshold {
		return fmt.Errorf("%w: the root has %d signatures of %s, %d are needed", ErrSignature, n, who, r.RootThreshold)
	}
	return nil
}

func count(ids []KeyID, signed map[KeyID]bool) (n uint64) {
	for _, id := range ids {
		if signed[id] {
			n++
		}
	}
	return n
}

// Next returns the root that follows r. It must be of the version after r's, and
// signed by enough root keys of r and by enough of its own. r's keys are asked
// before anything of it is decoded. The error wraps ErrFormat, ErrSignature or
// ErrRoot.
func (r Root) Next(signed []byte) (Root, error) {
	e, err := ParseEnvelope(signed)
	if err != nil {
		return Root{}, err
	}
	if err := r.signedBy(e, "the root before"); err != nil {
		return Root{}, err
	}
	next, err := parseRoot(e.Body)
	if err != nil {
		return Root{}, err
	}
	if next.Version != r.Version+1 {
		return Root{}, fmt.Errorf("%w: version %d after %d", ErrRoot, next.Version, r.Version)
	}
	return next, next.signedBy(e, "its own root keys")
}

// verify is nil when enough release keys have signed e as a statement of the kind.
func (r Root) verify(kind Statement, e Envelope) error {
	if n := count(r.ReleaseKeys, e.signers(kind, r.keys())); n < r.ReleaseThreshold {
		return fmt.Errorf("%w: %d signatures of release keys, %d are needed", ErrSignature, n, r.ReleaseThreshold)
	}
	return nil
}

// Manifest verifies the signatures of an envelope and then reads the manifest in
// it. The error wraps ErrSignature or ErrFormat.
func (r Root) Manifest(e Envelope) (Manifest, error) {
	if err := r.verify(StatementManifest, e); err != nil {
		return Manifest{}, fmt.Errorf("verifying a manifest: %w", err)
	}
	return parseManifest(e.Body)
}

// Downgrade verifies the signatures of an envelope and then reads the downgrade
// in it. The error wraps ErrSignature or ErrFormat.
func (r Root) Downgrade(e Envelope) (Downgrade, error) {
	if err := r.verify(StatementDowngrade, e); err != nil {
		return Downgrade{}, fmt.Errorf("verifying a downgrade: %w", err)
	}
	return parseDowngrade(e.Body)
}
