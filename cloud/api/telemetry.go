package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/ingest"
	"ecowatt/cloud/rollup"
)

// Samples are the samples of a device. They are streamed: an answer of any
// length is made in the memory of a few blocks.
type Samples struct {
	Device    string `json:"device"`
	Inverters []Run  `json:"inverters" nullable:"false" doc:"By inverter and time; one inverter has several entries where its list of points changed"`
}

// Run is a run of samples of one inverter that share their points, or of the
// windows that a device sends where its disk or link has no room for samples.
type Run struct {
	Inverter string         `json:"inverter"`
	Points   []SampledPoint `json:"points" nullable:"false"`
	Samples  []Sample       `json:"samples,omitempty" doc:"Oldest first; absent where there are windows"`
	WindowMS int64          `json:"window_ms,omitempty" doc:"Length of a window, ms"`
	Windows  []Bucket       `json:"windows,omitempty" doc:"Oldest first: what the device sent in place of samples"`
}

// SampledPoint says how the values of a point are to be read.
type SampledPoint struct {
	Name     string `json:"name"`
	Unit     string `json:"unit" doc:"Empty for a pure number, and where the device has not reported the point"`
	Exponent int    `json:"exponent" doc:"value = raw × 10^exponent"`
}

// Sample is what the points were at one instant.
type Sample struct {
	T      int64    `json:"t" doc:"Milliseconds since 1970"`
	Values []*int64 `json:"values" nullable:"false" doc:"Raw integers, one per point; null where it could not be read"`
}

// defaultSpan is how far back a query without a beginning reaches.
const defaultSpan = time.Hour

// endOfTime is the latest moment a query may name: the end of the year 9999.
var endOfTime = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)

// moment is a time as a query names it.
type moment struct{ time.Time }

// UnmarshalText reads RFC 3339 or milliseconds since 1970.
func (m *moment) UnmarshalText(text []byte) error {
	if ms, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		m.Time = time.UnixMilli(ms)
	} else if m.Time, err = time.Parse(time.RFC3339Nano, string(text)); err != nil {
		return errors.New("give a time as RFC 3339, 2006-01-02T15:04:05Z, or as milliseconds since 1970")
	}
	if m.Before(time.UnixMilli(0)) || m.After(endOfTime) {
		return errors.New("not within the years 1970 and 9999")
	}
	return nil
}

type samplesInput struct {
	DeviceInput
	From     moment   `query:"from" doc:"The first moment, RFC 3339 or milliseconds since 1970; an hour ago by default"`
	To       moment   `query:"to" doc:"The moment before which it ends; by default there is no end"`
	Inverter string   `query:"inverter" doc:"Only this inverter"`
	Points   []string `query:"points" doc:"Only these points, in this order, separated by commas"`
	Step     span     `query:"step" doc:"Buckets of so long in place of samples: whole minutes that divide a day, or 1d, the days of the device's time zone"`
	Only     string   `query:"only" enum:"energy" doc:"With step: energy alone, without the points"`
}

// span is a duration as a query names it.
type span struct{ time.Duration }

// UnmarshalText reads 1m, 15m, 1h or 1d, or a number of seconds.
func (s *span) UnmarshalText(text []byte) error {
	var err error
	switch days, isDays := strings.CutSuffix(string(text), "d"); {
	case isDays:
		var n int
		n, err = strconv.Atoi(days)
		s.Duration = time.Duration(n) * 24 * time.Hour
	default:
		if n, notNumber := strconv.Atoi(string(text)); notNumber == nil {
			s.Duration = time.Duration(n) * time.Second
		} else {
			s.Duration, err = time.ParseDuration(string(text))
		}
	}
	if err != nil || s.Duration <= 0 {
		return errors.New("give a length of time as in 1m, 15m, 1h, 1d")
	}
	return nil
}

func (in *samplesInput) query(now time.Time) (ingest.Query, error) {
	id, err := in.device()
	if err != nil {
		return ingest.Query{}, err
	}
	q := ingest.Query{Device: id, Inverter: in.Inverter, From: in.From.Time, To: in.To.Time, Points: in.Points}
	if q.To.IsZero() {
		q.To = endOfTime // a device's clock may be a little ahead of ours
	}
	if q.From.IsZero() {
		q.From = now.Add(-defaultSpan)
	}
	if !q.From.Before(q.To) {
		return ingest.Query{}, invalid("query.from", "not before to")
	}
	if in.Inverter != "" {
		if _, err := ecowatt.ParseName("inverter", in.Inverter); err != nil {
			return ingest.Query{}, invalid("query.inverter", err.Error())
		}
	}
	if in.Only != "" && in.Step.Duration == 0 {
		return ingest.Query{}, invalid("query.only", "energy is there only with a step")
	}
	if len(in.Points) > ingest.MaxPoints {
		return ingest.Query{}, invalid("query.points", fmt.Sprintf("%d points, at most %d are allowed", len(in.Points), ingest.MaxPoints))
	}
	for i, p := range in.Points {
		if _, err := ecowatt.ParseName("point", p); err != nil {
			return ingest.Query{}, invalid("query.points", err.Error())
		}
		if slices.Contains(in.Points[:i], p) {
			return ingest.Query{}, invalid("query.points", fmt.Sprintf("%s is named twice", p))
		}
	}
	return q, nil
}

func (s *server) registerTelemetry() {
	curve := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Curves](), true, "Curves")
	schema := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Samples](), true, "Samples")
	register(s, access.SeeTelemetry, huma.Operation{
		OperationID: "get-telemetry", Method: http.MethodGet, Path: "/devices/{id}/telemetry",
		Summary: "Samples of a device, or what they were in buckets of time",
		Description: "Streamed, without a limit of length: narrow from and to for less. " +
			"An answer that cannot be completed is cut off, so that it is no valid JSON.",
		Errors: []int{http.StatusNotFound},
		Responses: map[string]*huma.Response{"200": {
			Description: "The samples, or with step the buckets", Content: map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{OneOf: []*huma.Schema{schema, curve}}}},
		}},
	}, s.getTelemetry)
	register(s, access.SeeTelemetry, huma.Operation{
		OperationID: "export-telemetry", Method: http.MethodGet, Path: "/devices/{id}/telemetry.csv",
		Summary: "Samples of a device as CSV",
		Description: "RFC 4180, one row per sample: time (RFC 3339, UTC, milliseconds), inverter, then one column per point, " +
			"headed by its name and unit as in \"vac1 (V)\". Numbers are exact; a value that could not be read, and a point that " +
			"an inverter does not have, are empty. Points that the query names come in its order, otherwise in the order in which " +
			"they first occur; a point whose unit differs between inverters has a column for each unit. Where a device sent windows " +
			"in place of samples, there is a column \"window (s)\" after the inverter, empty for samples, and the values are means.",
		Errors: []int{http.StatusNotFound},
		Responses: map[string]*huma.Response{"200": {
			Description: "The samples", Content: map[string]*huma.MediaType{"text/csv": {Schema: &huma.Schema{Type: huma.TypeString}}},
		}},
	}, s.exportTelemetry)
}

func (s *server) getTelemetry(ctx context.Context, in *samplesInput) (*huma.StreamResponse, error) {
	q, err := in.query(s.Now())
	if err != nil {
		return nil, err
	}
	if in.Step.Duration != 0 {
		return s.getCurve(ctx, in.curve(q))
	}
	return stream(ctx, s, q.Device, "application/json", s.Telemetry.Samples(ctx, q), func(w io.Writer, parts iter.Seq2[ingest.Part, error]) error {
		return writeSamples(w, string(q.Device), parts)
	})
}

// stallTime is how long a reader of a stream may take for a piece of it.
const stallTime = 30 * time.Second

// stream answers with what write makes of the samples. It begins when the
// first part is there, so that a query that fails at once is answered with a
// problem; one that fails later is cut off.
func stream[P any](ctx context.Context, s *server, device ecowatt.DeviceID, contentType string, all iter.Seq2[P, error], write func(io.Writer, iter.Seq2[P, error]) error) (*huma.StreamResponse, error) {
	next, stop := iter.Pull2(all)
	first, err, some := next()
	if some && err != nil {
		stop()
		return nil, streamProblem(device, err)
	}
	parts := func(yield func(P, error) bool) {
		for part, err, ok := first, err, some; ok; part, err, ok = next() {
			if !yield(part, err) {
				return
			}
		}
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer stop()
		_, w := humago.Unwrap(hc)
		w.Header().Set("Content-Type", contentType)
		out := bufio.NewWriterSize(&patientWriter{w: w, control: http.NewResponseController(w)}, 32<<10)
		if err := errors.Join(write(out, parts), out.Flush()); err != nil {
			if ctx.Err() == nil {
				s.Logger.ErrorContext(ctx, "answer was cut off", "path", "telemetry", "device_id", string(device), "error", err)
			}
			panic(http.ErrAbortHandler)
		}
	}}, nil
}

// streamProblem is the problem of a query that fails at once.
func streamProblem(device ecowatt.DeviceID, err error) error {
	if errors.Is(err, rollup.ErrStep) {
		return invalid("query.step", rollup.ErrStep.Error()+": 1m, 5m, 15m, 1h, 1d and the like")
	}
	return deviceProblem(device, err)
}

// patientWriter lets an answer take its time as long as it moves.
type patientWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (p *patientWriter) Write(b []byte) (int, error) {
	// A writer without deadlines needs none moved.
	_ = p.control.SetWriteDeadline(time.Now().Add(stallTime))
	return p.w.Write(b)
}

// writeSamples writes the JSON of Samples, an entry for each run of parts with
// the same inverter, window and points.
func writeSamples(w io.Writer, device string, parts iter.Seq2[ingest.Part, error]) error {
	name, err := json.Marshal(device)
	if err != nil {
		return err
	}
	b := append([]byte(`{"device":`), name...)
	b = append(b, `,"inverters":[`...)
	var run *ingest.Part
	for part, err := range parts {
		if err != nil {
			return err
		}
		comma := true
		if run == nil || run.Inverter != part.Inverter || run.Window != part.Window || !slices.Equal(run.Points, part.Points) {
			if run != nil {
				b = append(b, `]},`...)
			}
			if b, err = appendRunHead(b, part); err != nil {
				return err
			}
			run, comma = &part, false
		}
		for _, sample := range part.Samples {
			if comma {
				b = append(b, ',')
			}
			comma = true
			if part.Window == 0 {
				b = appendSample(b, sample)
				continue
			}
			b = appendWindow(b, sample, part.Window)
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		b = b[:0]
	}
	if run != nil {
		b = append(b, `]}`...)
	}
	_, err = w.Write(append(b, "]}\n"...))
	return err
}

func appendRunHead(b []byte, part ingest.Part) ([]byte, error) {
	inverter, err := json.Marshal(part.Inverter)
	if err != nil {
		return nil, err
	}
	points := make([]SampledPoint, len(part.Points))
	for i, p := range part.Points {
		points[i] = SampledPoint{Name: p.Name, Unit: p.Unit, Exponent: p.Exponent}
	}
	described, err := json.Marshal(points)
	if err != nil {
		return nil, err
	}
	b = append(append(b, `{"inverter":`...), inverter...)
	b = append(append(b, `,"points":`...), described...)
	if part.Window == 0 {
		return append(b, `,"samples":[`...), nil
	}
	b = strconv.AppendInt(append(b, `,"window_ms":`...), part.Window, 10)
	return append(b, `,"windows":[`...), nil
}

func appendSample(b []byte, s ecowatt.Sample) []byte {
	b = append(b, `{"t":`...)
	b = strconv.AppendInt(b, s.At, 10)
	b = append(b, `,"values":[`...)
	for i, v := range s.Values {
		if i > 0 {
			b = append(b, ',')
		}
		if v.Valid {
			b = strconv.AppendInt(b, v.Raw, 10)
		} else {
			b = append(b, "null"...)
		}
	}
	return append(b, "]}"...)
}
