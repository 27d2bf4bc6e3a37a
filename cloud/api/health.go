package api

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt/cloud/access"
)

// Metric is a number, or a family of numbers that one label tells apart.
type Metric struct {
	Name   string            // "ecowatt_store_commits_total"
	Help   string            // one line
	Label  string            // name of the label; empty for a single counter
	Values map[string]uint64 // by the label's value; by "" for a single number
	Gauge  bool              // it goes up and down; else it counts since the cloud began
}

// readyPatience bounds how long the answer to whether the cloud is ready may take.
const readyPatience = 2 * time.Second

func (s *server) registerHealth() {
	s.plain("/healthz", "get-health", "Whether the cloud runs", false, func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, "ok\n")
	})
	s.plain("/readyz", "get-readiness", "Whether the cloud can do its work now: 503 when not", false, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), readyPatience)
		defer cancel()
		if err := s.Ready(ctx); err != nil {
			s.Logger.WarnContext(r.Context(), "not ready", "error", err)
			writeProblem(w, problemf(http.StatusServiceUnavailable, "the cloud is not ready; its log says why"))
			return
		}
		writeText(w, "ready\n")
	})
	// What is refused, and why, tells an attacker how near he is: only callers
	// with a token see it.
	s.plain("/metrics", "get-metrics", "Counters for Prometheus", true, func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.identify(r.Context(), r.Header.Get("Authorization"), access.SeeFleet); err != nil {
			writeProblem(w, s.problem(r.Context(), err))
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		if s.Metrics != nil {
			writeMetrics(w, s.Metrics(r.Context()))
		}
	})
}

// plain adds a path at the root that answers with text.
func (s *server) plain(path, id, summary string, token bool, handle http.HandlerFunc) {
	op := &huma.Operation{
		OperationID: id, Method: http.MethodGet, Path: path, Summary: summary,
		Responses: map[string]*huma.Response{"200": {
			Description: http.StatusText(http.StatusOK),
			Content:     map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: huma.TypeString}}},
		}},
	}
	if token {
		op.Security = []map[string][]string{{tokenScheme: {}}}
	}
	s.api.OpenAPI().AddOperation(op)
	s.mux.HandleFunc("GET "+path, handle)
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text) // a caller who is gone needs no answer
}

// writeMetrics writes the text format of Prometheus, version 0.0.4.
func writeMetrics(w io.Writer, metrics []Metric) {
	for _, m := range metrics {
		kind := "counter"
		if m.Gauge {
			kind = "gauge"
		}
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", m.Name, escapeHelp(m.Help), m.Name, kind)
		for _, value := range slices.Sorted(maps.Keys(m.Values)) {
			label := ""
			if m.Label != "" {
				label = "{" + m.Label + "=" + strconv.Quote(value) + "}"
			}
			fmt.Fprintf(w, "%s%s %d\n", m.Name, label, m.Values[value])
		}
	}
}

func escapeHelp(s string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(s)
}
