// Package access decides who may do what. Whoever calls the cloud's API shows
// a token; a token has a name and a role; the role decides about each action.
// The cloud keeps the SHA-256 of tokens only (row L2).
package access

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"ecowatt"
	"ecowatt/key"
)

// Errors of access.
var (
	// ErrUnauthenticated is the one answer to a missing, malformed, unknown or
	// expired token. It never says which.
	ErrUnauthenticated = errors.New("a valid token is needed")
	// ErrExists says that there is a token of this name already.
	ErrExists = errors.New("a token of this name exists already")
	// ErrUnknown is the store's answer to a hash that it does not have.
	ErrUnknown = errors.New("no such token")
)

// Token is what the cloud keeps of a token: everything but the token.
type Token struct {
	Name      string // who holds it, as ecowatt.ParseName allows; stands in the audit log
	Role      Role
	Hash      [32]byte  // key.Token.Hash
	CreatedAt time.Time // UTC
	ExpiresAt time.Time // zero for never
}

// Finder is the part of the store that Authenticate needs.
type Finder interface {
	// TokenByHash returns the token with this hash, expired or not, or ErrUnknown.
	TokenByHash(ctx context.Context, hash [32]byte) (Token, error)
}

// Store is the part of the store that Bootstrap needs.
type Store interface {
	// HasTokens reports whether there is any token.
	HasTokens(ctx context.Context) (bool, error)
	// PutToken stores t and writes the audit record "token.created", in one
	// transaction. by is the operator's name, empty for the cloud itself. A name
	// that is taken is ErrExists, and nothing is stored.
	PutToken(ctx context.Context, t Token, by string) error
}

// Identity is who calls: the name and the role of the token that was shown.
// The zero Identity may do nothing.
type Identity struct {
	Name string
	Role Role
}

// scheme of RFC 6750, compared without regard to case (RFC 9110 section 11.1).
const scheme = "Bearer "

// Authenticate finds out who shows authorization, the value of the header of
// that name. Every way of not being anybody is ErrUnauthenticated; any other
// error means that the store could not say.
func Authenticate(ctx context.Context, tokens Finder, authorization string, now time.Time) (Identity, error) {
	if len(authorization) < len(scheme) || !strings.EqualFold(authorization[:len(scheme)], scheme) {
		return Identity{}, ErrUnauthenticated
	}
	shown, err := key.ParseToken(authorization[len(scheme):])
	if err != nil {
		return Identity{}, ErrUnauthenticated
	}
	hash := shown.Hash()
	t, err := tokens.TokenByHash(ctx, hash)
	switch {
	case errors.Is(err, ErrUnknown):
		return Identity{}, ErrUnauthenticated
	case err != nil:
		return Identity{}, fmt.Errorf("looking up a token: %w", err)
	}
	// The look-up compares the hashes of random 256 bits, which tells a guesser
	// nothing; this makes sure that the store compared them at all.
	same := subtle.ConstantTimeCompare(t.Hash[:], hash[:]) == 1
	if !same || !t.ExpiresAt.IsZero() && !now.Before(t.ExpiresAt) {
		return Identity{}, ErrUnauthenticated
	}
	return Identity{Name: t.Name, Role: t.Role}, nil
}

// New draws a token and returns it beside what the cloud keeps of it. random
// must be a cryptographic source.
func New(random io.Reader, name string, role Role, now time.Time) (key.Token, Token, error) {
	if _, err := ecowatt.ParseName("token", name); err != nil {
		return key.Token{}, Token{}, err
	}
	if !role.valid() {
		return key.Token{}, Token{}, fmt.Errorf("token %s: %w", name, errRole)
	}
	secret, err := key.NewToken(random)
	if err != nil {
		return key.Token{}, Token{}, fmt.Errorf("making a token: %w", err)
	}
	return secret, Token{Name: name, Role: role, Hash: secret.Hash(), CreatedAt: now.UTC().Truncate(time.Millisecond)}, nil
}

// Bootstrap gives a cloud without tokens its first one, an administrator's.
// save must keep it durably where that person finds it: it is called before
// the token becomes valid, so that a crash between the two leaves nobody
// locked out. Bootstrap reports whether it made a token.
func Bootstrap(ctx context.Context, store Store, random io.Reader, now time.Time, save func(key.Token) error) (bool, error) {
	has, err := store.HasTokens(ctx)
	if err != nil {
		return false, fmt.Errorf("looking for tokens: %w", err)
	}
	if has {
		return false, nil
	}
	secret, t, err := New(random, Administrator.String(), Administrator, now)
	if err != nil {
		return false, err
	}
	if err := save(secret); err != nil {
		return false, fmt.Errorf("saving the first token: %w", err)
	}
	if err := store.PutToken(ctx, t, ""); err != nil {
		return false, fmt.Errorf("storing the first token: %w", err)
	}
	return true, nil
}
