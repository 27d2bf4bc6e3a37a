package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt/cloud/access"
)

// Keyring is the key ring that wraps the keys in the database, as the running
// cloud holds it. by is who asks, for the audit log. Errors are ErrNoKEK,
// *ConflictError and ErrPlace, or say that something failed.
type Keyring interface {
	// Keys returns what is on the ring, the oldest first.
	Keys(ctx context.Context) ([]KeyringKey, error)
	// Add draws a key-encryption key and puts it on the ring.
	Add(ctx context.Context, by string) (KeyringKey, error)
	// SetPrimary lets a key wrap what is stored from now on.
	SetPrimary(ctx context.Context, id, by string) error
	// Rewrap wraps with the primary key some of what others wrap, from the place
	// after on: for a second or two.
	Rewrap(ctx context.Context, after, by string) (KeyringRewrap, error)
	// Remove takes a key that wraps nothing from the ring.
	Remove(ctx context.Context, id, by string) error
}

// Errors of a Keyring.
var (
	ErrNoKEK = errors.New("the key ring does not have this key-encryption key")
	ErrPlace = errors.New("not the next of an answer")
)

// ConflictError says why something cannot be done as things are now.
type ConflictError struct{ Problem string }

func (e *ConflictError) Error() string { return e.Problem }

// KeyringKey is what may be known of a key-encryption key, and what it wraps.
type KeyringKey struct {
	ID         string    `json:"id"`
	Primary    bool      `json:"primary" doc:"It wraps what is stored from now on"`
	MadeAt     time.Time `json:"made_at"`
	DeviceKeys int64     `json:"device_keys" doc:"Device keys that it wraps"`
	Sessions   int64     `json:"sessions" doc:"Sessions whose keys it wraps"`
	Releases   int64     `json:"releases" doc:"Releases whose content keys it wraps"`
}

// KeyringList is the key ring, without its keys.
type KeyringList struct {
	Keys []KeyringKey `json:"keys" nullable:"false" doc:"The oldest first"`
}

// KeyringRewrap says what was wrapped anew.
type KeyringRewrap struct {
	Primary    string   `json:"primary" doc:"The key that wraps it now"`
	DeviceKeys int      `json:"device_keys" doc:"Device keys wrapped anew"`
	Sessions   int      `json:"sessions" doc:"Sessions wrapped anew"`
	Releases   int      `json:"releases" doc:"Releases wrapped anew"`
	Failed     []string `json:"failed" nullable:"false" doc:"What could not be unwrapped, and stays as it is"`
	Next       string   `json:"next,omitempty" doc:"Give it as after to go on; absent when there is nothing more"`
}

type (
	keyringOutput    struct{ Body KeyringList }
	keyringKeyOutput struct{ Body KeyringKey }
	rewrapOutput     struct{ Body KeyringRewrap }

	primaryInput struct {
		Body struct {
			ID string `json:"id" doc:"A key of the ring"`
		}
	}
	rewrapInput struct {
		After string `query:"after" doc:"The next of the answer before; without it, from the beginning"`
	}
	kekInput struct {
		ID string `path:"kek" doc:"A key of the ring"`
	}
)

func (s *server) registerKeyring() {
	register(s, access.ManageKeyring, huma.Operation{
		OperationID: "get-keyring", Method: http.MethodGet, Path: "/keyring",
		Summary:     "The key ring",
		Description: "The key-encryption keys that wrap the keys in the database: what each wraps, never the keys themselves.",
	}, func(ctx context.Context, _ *struct{}) (*keyringOutput, error) { return s.keyring(ctx) })
	register(s, access.ManageKeyring, huma.Operation{
		OperationID: "add-keyring-key", Method: http.MethodPost, Path: "/keyring/keys", DefaultStatus: http.StatusCreated,
		Summary:     "Add a key-encryption key",
		Description: "Draws a key and puts it on the ring. It wraps nothing before it is the primary one: back up the key ring's file first.",
		Errors:      []int{http.StatusConflict},
	}, func(ctx context.Context, _ *struct{}) (*keyringKeyOutput, error) {
		k, err := s.Keyring.Add(ctx, caller(ctx).Name)
		return &keyringKeyOutput{Body: k}, err
	})
	register(s, access.ManageKeyring, huma.Operation{
		OperationID: "set-keyring-primary", Method: http.MethodPut, Path: "/keyring/primary",
		Summary:     "Choose the key that wraps",
		Description: "What is stored from now on is wrapped with this key. What is there already stays as it is until it is wrapped anew.",
		Errors:      []int{http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType},
	}, func(ctx context.Context, in *primaryInput) (*keyringOutput, error) {
		if err := s.Keyring.SetPrimary(ctx, in.Body.ID, caller(ctx).Name); err != nil {
			return nil, kekProblem(in.Body.ID, err)
		}
		return s.keyring(ctx)
	})
	register(s, access.ManageKeyring, huma.Operation{
		OperationID: "rewrap-keyring", Method: http.MethodPost, Path: "/keyring/rewrap",
		Summary: "Wrap anew with the primary key",
		Description: "Wraps with the primary key what other keys wrap, in small transactions between which devices are answered, " +
			"for a second or two: give the answer's next as after to go on. It may be interrupted and begun again at any time.",
		Errors: []int{http.StatusUnprocessableEntity},
	}, func(ctx context.Context, in *rewrapInput) (*rewrapOutput, error) {
		done, err := s.Keyring.Rewrap(ctx, in.After, caller(ctx).Name)
		if errors.Is(err, ErrPlace) {
			return nil, invalid("query.after", ErrPlace.Error())
		}
		return &rewrapOutput{Body: done}, err
	})
	register(s, access.ManageKeyring, huma.Operation{
		OperationID: "remove-keyring-key", Method: http.MethodDelete, Path: "/keyring/keys/{kek}",
		Summary: "Remove a key-encryption key",
		Description: "Takes a key from the ring, for good. It must wrap nothing and not be the primary one. " +
			"Backups of the database that were made while it wrapped something need it still: keep the ring's file from that time with them.",
		DefaultStatus: http.StatusOK,
		Errors:        []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *kekInput) (*keyringOutput, error) {
		if err := s.Keyring.Remove(ctx, in.ID, caller(ctx).Name); err != nil {
			return nil, kekProblem(in.ID, err)
		}
		return s.keyring(ctx)
	})
}

func (s *server) keyring(ctx context.Context) (*keyringOutput, error) {
	keys, err := s.Keyring.Keys(ctx)
	if err != nil {
		return nil, err
	}
	if keys == nil {
		keys = []KeyringKey{}
	}
	return &keyringOutput{Body: KeyringList{Keys: keys}}, nil
}

// kekProblem says of an error which key it is about.
func kekProblem(id string, err error) error {
	if errors.Is(err, ErrNoKEK) {
		return problemf(http.StatusNotFound, "there is no key-encryption key %.80q on the key ring", id)
	}
	return err
}
