package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/registry"
)

// Rotations orders new keys for devices: *registry.Rotations. Errors are
// registry.ErrNotFound, a *registry.InvalidError or a *registry.ConflictError.
type Rotations interface {
	// Order orders a rotation, or returns the pending one.
	Order(ctx context.Context, id ecowatt.DeviceID, q registry.RotationRequest, now time.Time) (registry.Rotation, error)
	// OrderFleet orders one for each device of a group, or of the fleet when group
	// is empty.
	OrderFleet(ctx context.Context, group string, q registry.RotationRequest, now time.Time) (registry.FleetCounts, error)
	// OpenRecovery opens a recovery window, and returns its end.
	OpenRecovery(ctx context.Context, id ecowatt.DeviceID, open time.Duration, by string, now time.Time) (time.Time, registry.Rotation, error)
}

// DeviceKey is what may be known of a device's keys.
type DeviceKey struct {
	Epoch         uint32     `json:"epoch" doc:"Of the active key"`
	Since         time.Time  `json:"since" doc:"When that key was first used; of the first key, when the device was added"`
	Pending       *Rotation  `json:"pending,omitempty" doc:"The next key; absent when no rotation is pending"`
	RecoveryUntil *time.Time `json:"recovery_until,omitempty" doc:"Until when the device is let in with its first key; absent while it is not"`
}

// Rotation is a pending rotation.
type Rotation struct {
	Epoch     uint32     `json:"epoch" doc:"Of the key that the device is to use"`
	OfferFrom time.Time  `json:"offer_from" doc:"It is offered in every answer from then on"`
	OfferedAt *time.Time `json:"offered_at" doc:"When it was first offered; null when not yet"`
	Burn      bool       `json:"burn" doc:"Its use destroys all keys before it at once"`
}

func showRotation(r registry.Rotation) Rotation {
	out := Rotation{Epoch: uint32(r.Epoch), OfferFrom: r.OfferFrom, Burn: r.Burn}
	if !r.OfferedAt.IsZero() {
		out.OfferedAt = &r.OfferedAt
	}
	return out
}

func showKey(d registry.Device, now time.Time) DeviceKey {
	out := DeviceKey{Epoch: uint32(d.Epoch), Since: d.KeySince}
	if d.Rotation != nil {
		pending := showRotation(*d.Rotation)
		out.Pending = &pending
	}
	if d.Recovery.After(now) {
		out.RecoveryUntil = &d.Recovery
	}
	return out
}

// RotationOrder asks for the key of a device to be rotated.
type RotationOrder struct {
	Burn  bool  `json:"burn,omitempty" doc:"Destroy all keys before the new one as soon as it is used: for keys that others may know. A device that cannot come back with the new key then never comes back"`
	OverS int64 `json:"over_s,omitempty" doc:"Offer it from a random moment within so many seconds on; by default at once"`
}

func (o RotationOrder) request(by string) registry.RotationRequest {
	return registry.RotationRequest{Burn: o.Burn, Over: seconds(o.OverS), By: by}
}

// seconds is a duration that is out of every bound where n seconds are none.
func seconds(n int64) time.Duration {
	const most = int64(1<<63-1) / int64(time.Second)
	return time.Duration(min(max(n, -1), most)) * time.Second
}

// FleetOrder asks for the keys of many devices to be rotated.
type FleetOrder struct {
	RotationOrder
	Group string `json:"group,omitempty" doc:"The devices of this group"`
	All   bool   `json:"all,omitempty" doc:"All devices"`
}

// FleetOrdered says what an order for many devices did.
type FleetOrdered struct {
	Ordered int `json:"ordered" doc:"Devices whose rotation was ordered"`
	Pending int `json:"pending" doc:"Devices for which one was pending already"`
	Refused int `json:"refused" doc:"Devices that can have no further key"`
}

// RecoveryOrder asks for a recovery window.
type RecoveryOrder struct {
	ForS int64 `json:"for_s" doc:"For how many seconds it is open, 60 to 604800"`
}

// Recovery is an open recovery window.
type Recovery struct {
	RecoveryUntil time.Time `json:"recovery_until"`
	Pending       Rotation  `json:"pending" doc:"The key that the device is offered"`
}

type (
	rotateInput struct {
		DeviceInput
		Body RotationOrder
	}
	rotateOutput     struct{ Body Rotation }
	rotateFleetInput struct{ Body FleetOrder }
	fleetOutput      struct{ Body FleetOrdered }
	recoverInput     struct {
		DeviceInput
		Body RecoveryOrder
	}
	recoverOutput struct{ Body Recovery }
)

func (s *server) registerRotation() {
	bodyErrors := []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType}
	register(s, access.RotateKeys, huma.Operation{
		OperationID: "rotate-key", Method: http.MethodPost, Path: "/devices/{id}/key-rotation", DefaultStatus: http.StatusAccepted,
		Summary: "Rotate the key of a device",
		Description: "Makes the next key, which the device is offered in every answer until it uses it. Where one is pending already, that " +
			"one stays; it is made to burn, and to be offered earlier, where that is asked for.",
		Errors: append(bodyErrors, http.StatusNotFound, http.StatusConflict),
	}, s.rotateKey)
	register(s, access.RotateKeys, huma.Operation{
		OperationID: "cancel-rotation", Method: http.MethodDelete, Path: "/devices/{id}/key-rotation",
		Summary:     "Cancel a rotation",
		Description: "Drops the next key, which must not have been offered yet.",
		Errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, s.cancelRotation)
	register(s, access.RotateKeys, huma.Operation{
		OperationID: "rotate-keys", Method: http.MethodPost, Path: "/key-rotations", DefaultStatus: http.StatusAccepted,
		Summary: "Rotate the keys of many devices",
		Description: "Give group or all. With over_s each device is offered its next key from a random moment within that time on, so that " +
			"a fleet does not shake hands at once. To ask again orders what is missing, and is otherwise like asking for each device.",
		Errors: bodyErrors,
	}, s.rotateKeys)
	register(s, access.RecoverDevice, huma.Operation{
		OperationID: "open-recovery", Method: http.MethodPost, Path: "/devices/{id}/recovery", DefaultStatus: http.StatusOK,
		Summary: "Let a device recover",
		Description: "For a device that lost all keys but its first, the one of its enrolment file: until the window ends it is let in with " +
			"that key, but only to be given the next one. The window closes when that is used. To ask again moves its end.",
		Errors: append(bodyErrors, http.StatusNotFound, http.StatusConflict),
	}, s.openRecovery)
	register(s, access.RecoverDevice, huma.Operation{
		OperationID: "close-recovery", Method: http.MethodDelete, Path: "/devices/{id}/recovery",
		Summary:     "Close a recovery window",
		Description: "Ends the sessions that it let in. Without an open window it does nothing.",
		Errors:      []int{http.StatusNotFound},
	}, s.closeRecovery)
}

func (s *server) rotateKey(ctx context.Context, in *rotateInput) (*rotateOutput, error) {
	id, err := in.device()
	if err != nil {
		return nil, err
	}
	r, err := s.Rotations.Order(ctx, id, in.Body.request(caller(ctx).Name), s.Now())
	if err != nil {
		return nil, deviceProblem(id, err)
	}
	s.Wake(id)
	return &rotateOutput{Body: showRotation(r)}, nil
}

func (s *server) cancelRotation(ctx context.Context, in *DeviceInput) (*struct{}, error) {
	id, err := in.device()
	if err != nil {
		return nil, err
	}
	if err := s.Fleet.CancelRotation(ctx, id, operator(ctx), s.Now()); err != nil {
		return nil, deviceProblem(id, err)
	}
	return nil, nil //nolint:nilnil // an answer without a body
}

func (s *server) rotateKeys(ctx context.Context, in *rotateFleetInput) (*fleetOutput, error) {
	if in.Body.All == (in.Body.Group != "") {
		return nil, invalid("body", "give either group or all")
	}
	counts, err := s.Rotations.OrderFleet(ctx, in.Body.Group, in.Body.request(caller(ctx).Name), s.Now())
	if err != nil {
		return nil, err
	}
	return &fleetOutput{Body: FleetOrdered(counts)}, nil
}

func (s *server) openRecovery(ctx context.Context, in *recoverInput) (*recoverOutput, error) {
	id, err := in.device()
	if err != nil {
		return nil, err
	}
	until, r, err := s.Rotations.OpenRecovery(ctx, id, seconds(in.Body.ForS), caller(ctx).Name, s.Now())
	if err != nil {
		return nil, deviceProblem(id, err)
	}
	return &recoverOutput{Body: Recovery{RecoveryUntil: until, Pending: showRotation(r)}}, nil
}

func (s *server) closeRecovery(ctx context.Context, in *DeviceInput) (*struct{}, error) {
	id, err := in.device()
	if err != nil {
		return nil, err
	}
	if err := s.Fleet.CloseRecovery(ctx, id, operator(ctx), s.Now()); err != nil {
		return nil, deviceProblem(id, err)
	}
	return nil, nil //nolint:nilnil // an answer without a body
}

// operator is the caller as the audit log names it.
func operator(ctx context.Context) audit.Actor {
	return audit.Actor{Kind: audit.Operator, Name: caller(ctx).Name}
}
