package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt/cloud/access"
	"ecowatt/cloud/rollout"
)

// Trust keeps the roots of trust for firmware.
type Trust interface {
	// Roots returns those there are.
	Roots() rollout.Roots
	// AddRoot adds the first root, or one that follows the newest; one that is there
	// changes nothing. The error is a *rollout.RefusedError where it is refused.
	AddRoot(ctx context.Context, signed []byte, by string) (added bool, err error)
}

// FirmwareRoot is the newest root of trust for firmware.
type FirmwareRoot struct {
	Version uint64 `json:"version" doc:"0 where there is none"`
	First   uint64 `json:"first" doc:"Of the first that the cloud was given"`
	Added   bool   `json:"added" doc:"It was not there before this request"`
}

type (
	firmwareRootInput struct {
		RawBody []byte `contentType:"application/cbor"`
	}
	firmwareRootOutput struct{ Body FirmwareRoot }
)

func (s *server) registerFirmware() {
	register(s, access.TrustRoot, huma.Operation{
		OperationID: "put-firmware-root", Method: http.MethodPut, Path: "/firmware/root",
		Summary: "Add a root of trust",
		Description: "The body is a signed root of trust (docs/formats/firmware.md): the first one, or one that follows the newest. New devices get the " +
			"newest with their enrolment; the others are told of it with the next release. One that is there already changes nothing.",
		Errors: []int{http.StatusBadRequest, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity},
	}, func(ctx context.Context, in *firmwareRootInput) (*firmwareRootOutput, error) {
		added, err := s.Trust.AddRoot(ctx, in.RawBody, caller(ctx).Name)
		if err != nil {
			return nil, err
		}
		roots := s.Trust.Roots()
		return &firmwareRootOutput{Body: FirmwareRoot{Version: roots.Version(), First: roots.First(), Added: added}}, nil
	})
}

// firmwareProblem is the problem of a release, or a root, that is refused; nil for
// other errors.
func firmwareProblem(err error) *huma.ErrorModel {
	refused, ok := errors.AsType[*rollout.RefusedError](err)
	if !ok {
		return nil
	}
	status := http.StatusUnprocessableEntity
	switch refused.Code {
	case rollout.CodeNoRoot, rollout.CodeRoot:
		status = http.StatusConflict
	case rollout.CodeTooLarge:
		status = http.StatusRequestEntityTooLarge
	case rollout.CodeSignature, rollout.CodeChunk, rollout.CodeFormat, rollout.CodeKey:
	}
	p := problemf(status, "%s", refused.Problem)
	p.Errors = []*huma.ErrorDetail{{Message: refused.Problem, Value: string(refused.Code)}}
	return p
}
