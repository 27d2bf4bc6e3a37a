// Package api is REST for operators: the devices, their telemetry and the
// audit log, under /api/v1, described by an OpenAPI 3.1 document at
// /api/openapi.json that is made from the code that answers. Errors are
// RFC 9457 problem documents that name the offending field.
//
// Whoever calls shows a token; package access decides what it may do. Only
// /healthz, /readyz and the documentation are for everyone.
package api

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollup"
)

// Fleet is the part of the store that knows the devices.
type Fleet interface {
	// Device returns one device, or registry.ErrNotFound.
	Device(ctx context.Context, id ecowatt.DeviceID) (registry.Device, error)
	// Devices returns the devices that the filter selects, by id.
	Devices(ctx context.Context, f registry.Filter) ([]registry.Device, error)
	// UpdateDevice makes the change and its audit record, or returns
	// registry.ErrNotFound or a *registry.InvalidError.
	UpdateDevice(ctx context.Context, id ecowatt.DeviceID, c registry.Change, by audit.Actor, now time.Time) error
	// CancelRotation drops a rotation that was never offered, or returns
	// registry.ErrNotFound, registry.ErrNoRotation or a *registry.ConflictError.
	CancelRotation(ctx context.Context, id ecowatt.DeviceID, by audit.Actor, now time.Time) error
	// CloseRecovery closes an open recovery window, if any, or returns
	// registry.ErrNotFound.
	CloseRecovery(ctx context.Context, id ecowatt.DeviceID, by audit.Actor, now time.Time) error
}

// Telemetry is the part of the store that holds samples.
type Telemetry interface {
	// Samples streams what the query selects, by inverter and time. A device
	// that is not there is registry.ErrNotFound, before anything is yielded.
	Samples(ctx context.Context, q ingest.Query) iter.Seq2[ingest.Part, error]
	// Curve streams the buckets that the query selects, by inverter and time. A
	// device that is not there is registry.ErrNotFound, a step that there is not
	// wraps rollup.ErrStep; both before anything is yielded.
	Curve(ctx context.Context, q rollup.Query) iter.Seq2[rollup.Part, error]
}

// Log is the part of the store that holds the audit log.
type Log interface {
	// AuditRecords returns the records that the filter selects, oldest first.
	AuditRecords(ctx context.Context, f audit.Filter) ([]audit.Record, error)
}

// Adder adds devices: *registry.Registry.
type Adder interface {
	Add(ctx context.Context, q registry.Request, now time.Time) (registry.Device, registry.Enrolment, error)
}

// Options of the API. What has no default named must be given.
type Options struct {
	Fleet     Fleet
	Telemetry Telemetry
	Log       Log
	Tokens    access.Finder
	Registry  Adder
	Rotations Rotations
	Keyring   Keyring
	Commands  Commands
	Commander Commander

	Configurations Configurations
	Trust          Trust
	Releases       Releases
	Depot          Depot
	Rollouts       Rollouts

	// Wake is called after the commit of what a device is to be told: an answer
	// that is held back for it goes out. Nil for nobody.
	Wake func(device ecowatt.DeviceID)
	// Ready reports whether the cloud can do its work now.
	Ready func(ctx context.Context) error
	// Unavailable is what an error wraps when trying again may help; it is
	// answered with 503. Nil when there is none such.
	Unavailable error
	// Metrics are what /metrics shows. Nil for none.
	Metrics func(ctx context.Context) []Metric
	// PublicURL is the cloud URL written into enrolment files when a request
	// names none; empty for the scheme and host by which the request came.
	PublicURL string
	// Draining is closed when the server is about to stop: who waits for news is
	// answered at once. Nil for never.
	Draining <-chan struct{}

	Random io.Reader        // cryptographic; default crypto/rand
	Now    func() time.Time // default time.Now
	Logger *slog.Logger     // default discards
}

// server answers requests. It is safe for concurrent use.
type server struct {
	Options
	api huma.API
	mux *http.ServeMux

	listeners chan struct{} // one for each who is told events; capacity maxListeners
}

// prefix of everything that needs a token, except /metrics.
const prefix = "/api/v1"

// maxBody is the longest request body where nothing else is said, in bytes.
const maxBody = 64 << 10

// New returns the handler of everything under /api/, and of /healthz, /readyz
// and /metrics. It answers every other path with a problem document.
func New(o Options) (http.Handler, error) {
	if o.Fleet == nil || o.Telemetry == nil || o.Log == nil || o.Tokens == nil ||
		o.Registry == nil || o.Rotations == nil || o.Keyring == nil || o.Ready == nil ||
		o.Commands == nil || o.Commander == nil || o.Configurations == nil ||
		o.Trust == nil || o.Releases == nil || o.Depot == nil || o.Rollouts == nil {
		return nil, errors.New("the API lacks a part of the cloud")
	}
	if o.Wake == nil {
		o.Wake = func(ecowatt.DeviceID) {}
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &server{Options: o, mux: http.NewServeMux(), listeners: make(chan struct{}, maxListeners)}
	s.api = humago.New(s.mux, humaConfig())
	s.registerDevices()
	s.registerRotation()
	s.registerConfig()
	s.registerCommands()
	s.registerTelemetry()
	s.registerAudit()
	s.registerEvents()
	s.registerKeyring()
	s.registerFirmware()
	s.registerRollouts()
	s.registerHealth()
	if err := s.registerDocs(); err != nil {
		return nil, err
	}
	return s.guard(http.HandlerFunc(s.route)), nil
}

func humaConfig() huma.Config {
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title:       "EcoWatt",
				Version:     ecowatt.Version,
				Description: description,
			},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					tokenScheme: {Type: "http", Scheme: "bearer", Description: "A token of the cloud: ew_ and 43 characters."},
				},
			},
		},
		Formats:                      map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat:                "application/json",
		RejectUnknownQueryParameters: true,
	}
}

const description = `The cloud of a fleet of solar-inverter gateways. Every request shows a token: "Authorization: Bearer ew_…". ` +
	`Times are RFC 3339 or milliseconds since 1970. Values are the raw integers of the inverter's registers: value = raw × 10^exponent. ` +
	`Errors are problem documents (RFC 9457) that name the offending field.`

// tokenScheme names the one way of authentication in the OpenAPI document.
const tokenScheme = "token"

// callerKey is the key of the caller's identity in a request's context.
type callerKey struct{}

// caller is who makes the request; the zero Identity may do nothing.
func caller(ctx context.Context) access.Identity {
	who, ok := ctx.Value(callerKey{}).(access.Identity)
	if !ok {
		return access.Identity{}
	}
	return who
}

// register adds an operation under prefix that callers need the permission
// for. An error of handle becomes a problem document.
func register[I, O any](s *server, needs access.Action, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	op.Path = prefix + op.Path
	if op.MaxBodyBytes == 0 {
		op.MaxBodyBytes = maxBody
	}
	op.Security = []map[string][]string{{tokenScheme: {}}}
	op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusForbidden, http.StatusServiceUnavailable)
	op.Middlewares = append(huma.Middlewares{s.admit(needs)}, op.Middlewares...)
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return out, nil
	})
}

// admit lets those pass who may do it, before anything of the request but its
// header is looked at.
func (s *server) admit(needs access.Action) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		who, err := s.identify(ctx.Context(), ctx.Header("Authorization"), needs)
		if err != nil {
			_, w := humago.Unwrap(ctx)
			writeProblem(w, s.problem(ctx.Context(), err))
			return
		}
		next(huma.WithValue(ctx, callerKey{}, who))
	}
}

func (s *server) identify(ctx context.Context, authorization string, needs access.Action) (access.Identity, error) {
	who, err := access.Authenticate(ctx, s.Tokens, authorization, s.Now())
	if err != nil {
		return access.Identity{}, err
	}
	return who, who.Authorize(needs)
}

// route serves what there is, and says in a problem document what there is not.
func (s *server) route(w http.ResponseWriter, r *http.Request) {
	h, pattern := s.mux.Handler(r)
	if pattern != "" {
		s.mux.ServeHTTP(w, r)
		return
	}
	var said answer
	h.ServeHTTP(&said, r)
	if said.status == http.StatusMethodNotAllowed {
		allow := said.Header().Get("Allow")
		w.Header().Set("Allow", allow)
		writeProblem(w, problemf(said.status, "%s is not possible here: use %s", r.Method, allow))
		return
	}
	writeProblem(w, problemf(http.StatusNotFound, "there is nothing at this path; /api/docs lists what there is"))
}

// answer is what a handler says before anybody hears it: header and status.
type answer struct {
	header http.Header
	status int
}

func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = http.Header{}
	}
	return a.header
}

func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(p []byte) (int, error) { return len(p), nil }
