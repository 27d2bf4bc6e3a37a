package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/command"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollout"
)

// problemf is an error that is answered with this status and text.
func problemf(status int, format string, args ...any) *huma.ErrorModel {
	return &huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: fmt.Sprintf(format, args...)}
}

// invalid is the problem of one field. location says where it stands: "body.group",
// "query.from".
func invalid(location, problem string) *huma.ErrorModel {
	p := problemf(http.StatusUnprocessableEntity, "validation failed")
	p.Errors = []*huma.ErrorDetail{{Message: problem, Location: location}}
	return p
}

// deviceProblem says of an error in the words of the caller which device it is about.
func deviceProblem(id ecowatt.DeviceID, err error) error {
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return problemf(http.StatusNotFound, "there is no device %q", string(id))
	case errors.Is(err, registry.ErrExists):
		return problemf(http.StatusConflict, "there is a device %q already", string(id))
	case errors.Is(err, registry.ErrNoRotation):
		return problemf(http.StatusNotFound, "no rotation of device %q is pending", string(id))
	}
	if conflict, ok := errors.AsType[*registry.ConflictError](err); ok {
		return problemf(http.StatusConflict, "device %q: %s", string(id), conflict.Problem)
	}
	return err
}

// problem is the one map from errors to statuses. What it does not know is a
// fault of ours: it is logged, and the caller learns nothing of it.
func (s *server) problem(ctx context.Context, err error) *huma.ErrorModel {
	var (
		ready     *huma.ErrorModel
		field     *registry.InvalidError
		forbidden *access.ForbiddenError
		conflict  *ConflictError
		refused   *command.RefusedError
		wanted    *rollout.InvalidError
	)
	switch {
	case errors.As(err, &ready):
		return ready
	case errors.As(err, &field):
		name := field.Field
		if name == "device_id" {
			name = "id"
		}
		return invalid("body."+name, field.Problem)
	case errors.Is(err, access.ErrUnauthenticated):
		return problemf(http.StatusUnauthorized, "%v: send it as 'Authorization: Bearer ew_…'", access.ErrUnauthenticated)
	case errors.As(err, &forbidden):
		return problemf(http.StatusForbidden, "%v", forbidden)
	case errors.As(err, &conflict):
		return problemf(http.StatusConflict, "%v", conflict)
	case errors.As(err, &refused):
		return commandProblem(refused)
	case configProblem(err) != nil:
		return configProblem(err)
	case errors.As(err, &wanted):
		return invalid("body."+wanted.Field, wanted.Problem)
	case firmwareProblem(err) != nil:
		return firmwareProblem(err)
	case errors.Is(err, command.ErrKeyUsed):
		return problemf(http.StatusConflict, "Idempotency-Key: %v", command.ErrKeyUsed)
	case errors.Is(err, registry.ErrNotFound):
		return problemf(http.StatusNotFound, "%v", registry.ErrNotFound)
	case errors.Is(err, registry.ErrExists):
		return problemf(http.StatusConflict, "%v", registry.ErrExists)
	case ctx.Err() != nil: // the caller is gone and reads no answer
		return problemf(http.StatusServiceUnavailable, "the request was given up")
	case s.Unavailable != nil && errors.Is(err, s.Unavailable):
		s.Logger.WarnContext(ctx, "request could not be served now", "error", err)
		return problemf(http.StatusServiceUnavailable, "the cloud cannot do this now; try again")
	}
	s.Logger.ErrorContext(ctx, "request failed", "error", err)
	return problemf(http.StatusInternalServerError, "the cloud failed to do this; its log says why")
}

// writeProblem answers with a problem document.
func writeProblem(w http.ResponseWriter, p *huma.ErrorModel) {
	body, err := json.Marshal(p)
	if err != nil { // cannot be: it is text and numbers
		body = []byte(`{"status":500}`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n')) // a caller who is gone needs no answer
}

// guard sets the headers of every answer and turns a panic into a problem
// document, or ends the connection when an answer has begun.
func (s *server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		out := &onceWriter{ResponseWriter: w}
		defer func() {
			switch p := recover(); {
			case p == nil:
			case p == http.ErrAbortHandler: //nolint:errorlint // net/http compares the same way
				panic(p)
			case r.Context().Err() != nil: // writing to somebody who is gone
				panic(http.ErrAbortHandler)
			default:
				s.Logger.ErrorContext(r.Context(), "panic while serving a request", "method", r.Method, "path", r.URL.Path,
					"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				if out.begun {
					panic(http.ErrAbortHandler)
				}
				writeProblem(out, problemf(http.StatusInternalServerError, "the cloud failed to do this; its log says why"))
			}
		}()
		next.ServeHTTP(out, r)
	})
}

// onceWriter knows whether the answer has begun, begins it once, and adds the
// headers that go with a status.
type onceWriter struct {
	http.ResponseWriter
	begun bool
}

func (w *onceWriter) WriteHeader(status int) {
	if w.begun {
		return
	}
	w.begun = true
	switch status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="ecowatt"`) // RFC 6750 section 3
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "5")
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *onceWriter) Write(p []byte) (int, error) {
	w.begun = true
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *onceWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
