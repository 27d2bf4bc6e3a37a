package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
)

// Bounds of those who are told what happens as it happens.
const (
	maxListeners = 64                     // at a time; the others are asked to come again
	tellInterval = 250 * time.Millisecond // between two looks at the log
	aliveTime    = 15 * time.Second       // of silence, after which a line without meaning is sent
	tellMost     = 100                    // records that are read at a time
)

// eventStream is the media type by which a caller asks to be told.
const eventStream = "text/event-stream"

func (s *server) registerEvents() {
	const asEvents = " With 'Accept: text/event-stream' the answer does not end: each record is an event of its action's name, with its number as " +
		"id, from the moment of the request on or, with Last-Event-ID, from that record on."
	register(s, access.SeeAudit, huma.Operation{
		OperationID: "list-events", Method: http.MethodGet, Path: "/devices/{id}/events",
		Summary:     "Events of a device",
		Description: "The records of the audit log that concern this device." + paging + asEvents,
		Errors:      []int{http.StatusNotFound}, Middlewares: huma.Middlewares{patient, s.tellEvents},
	}, func(ctx context.Context, in *eventsInput) (*recordsOutput, error) {
		id, err := in.device()
		if err != nil {
			return nil, err
		}
		if _, err := s.Fleet.Device(ctx, id); err != nil {
			return nil, deviceProblem(id, err)
		}
		return s.records(ctx, in.PageInput, id)
	})
	register(s, access.SeeAudit, huma.Operation{
		OperationID: "list-all-events", Method: http.MethodGet, Path: "/events",
		Summary:     "Events of the fleet",
		Description: "The records of the audit log." + paging + asEvents,
		Errors:      []int{http.StatusUnprocessableEntity}, Middlewares: huma.Middlewares{patient, s.tellEvents},
	}, func(ctx context.Context, in *PageInput) (*recordsOutput, error) { return s.records(ctx, *in, "") })
}

// tellEvents answers those who ask for a stream of events, and nobody else. Each
// has a place of its own in the log, which is read at the pace at which it listens: a
// slow one costs the others nothing, and misses nothing.
func (s *server) tellEvents(ctx huma.Context, next func(huma.Context)) {
	if !strings.Contains(ctx.Header("Accept"), eventStream) {
		next(ctx)
		return
	}
	r, w := humago.Unwrap(ctx)
	listener, err := s.listen(r, ctx.Param("id"))
	if err != nil {
		writeProblem(w, s.problem(r.Context(), err))
		return
	}
	defer func() { <-s.listeners }()
	listener.out, listener.control = w, http.NewResponseController(w)
	_ = listener.control.SetReadDeadline(time.Time{}) // a writer without deadlines needs none moved
	w.Header().Set("Content-Type", eventStream)
	w.WriteHeader(http.StatusOK)
	listener.tell(r.Context(), s)
}

// listener is somebody who is told what happens.
type listener struct {
	filter  audit.Filter // After is the last record that was told
	out     io.Writer
	control *http.ResponseController
}

// listen finds out what somebody wants to be told, and gives him a place, which is
// to be given back. device is empty for all.
func (s *server) listen(r *http.Request, device string) (*listener, error) {
	l := &listener{filter: audit.Filter{Limit: tellMost}}
	if device != "" {
		id, err := DeviceInput{ID: device}.device()
		if err != nil {
			return nil, err
		}
		if _, err := s.Fleet.Device(r.Context(), id); err != nil {
			return nil, deviceProblem(id, err)
		}
		l.filter.Device = ecowatt.DeviceID(device)
	}
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n < 0 {
			return nil, invalid("header.Last-Event-ID", "it is not the id of an event")
		}
		l.filter.After = n
	} else {
		newest, err := s.Log.AuditRecords(r.Context(), audit.Filter{Last: 1, Limit: 1})
		if err != nil {
			return nil, err
		}
		if len(newest) > 0 {
			l.filter.After = newest[0].N
		}
	}
	select {
	case s.listeners <- struct{}{}:
		return l, nil
	default:
		return nil, problemf(http.StatusServiceUnavailable, "%d others are listening already; come again later", maxListeners)
	}
}

// tell tells what happens until the listener is gone or the server stops.
func (l *listener) tell(ctx context.Context, s *server) {
	if l.say(": listening\n\n") != nil {
		return
	}
	look := time.NewTicker(tellInterval)
	defer look.Stop()
	spoken := time.Now()
	for {
		found, err := s.Log.AuditRecords(ctx, l.filter)
		switch {
		case err != nil && ctx.Err() == nil:
			s.Logger.WarnContext(ctx, "events could not be told", "error", err)
			return // who listens comes again, and goes on where it was
		case err != nil:
			return
		case len(found) == 0 && time.Since(spoken) > aliveTime:
			if l.say(": alive\n\n") != nil {
				return
			}
			spoken = time.Now()
		case len(found) > 0:
			if l.events(found) != nil {
				return
			}
			spoken = time.Now()
		}
		if len(found) == tellMost {
			continue
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		case <-s.Draining:
			return
		}
	}
}

func (l *listener) events(records []audit.Record) error {
	var b strings.Builder
	for _, r := range records {
		data, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("encoding an event: %w", err)
		}
		fmt.Fprintf(&b, "id: %d\nevent: %s\ndata: %s\n\n", r.N, r.Action, data)
		l.filter.After = r.N
	}
	return l.say(b.String())
}

// say sends a piece, for which the listener has so much time.
func (l *listener) say(text string) error {
	_ = l.control.SetWriteDeadline(time.Now().Add(stallTime)) // a writer without deadlines needs none moved
	if _, err := io.WriteString(l.out, text); err != nil {
		return err
	}
	return l.control.Flush()
}
