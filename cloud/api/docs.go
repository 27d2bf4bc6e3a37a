package api

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
)

// The page of the documentation: one template and one style, both our own. It
// fetches nothing.
var (
	//go:embed docs.html.tmpl
	docsTemplate string
	//go:embed docs.css
	docsStyle string
)

// registerDocs serves the OpenAPI document and a page made from it. It is
// called when all operations are registered.
func (s *server) registerDocs() error {
	document, err := json.MarshalIndent(s.api.OpenAPI(), "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the OpenAPI document: %w", err)
	}
	page, err := renderDocs(s.api.OpenAPI())
	if err != nil {
		return fmt.Errorf("rendering the documentation: %w", err)
	}
	sum := sha256.Sum256([]byte(docsStyle))
	policy := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	s.mux.HandleFunc("GET /api/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/openapi+json")
		_, _ = w.Write(append(document, '\n')) // a caller who is gone needs no answer
	})
	s.mux.HandleFunc("GET /api/docs", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", policy)
		_, _ = w.Write(page) // as above
	})
	return nil
}

// documented is an operation as the page shows it.
type documented struct {
	*huma.Operation
	Body    []field
	Answers []answered
}

type answered struct {
	Status, Description, Type string
	Fields                    []field
}

// field is a property of a JSON object, at any depth: Name is its path.
type field struct {
	Name, Type, Doc string
	Required        bool
}

func renderDocs(api *huma.OpenAPI) ([]byte, error) {
	d := describer{schemas: api.Components.Schemas}
	var operations []documented
	for _, path := range slices.Sorted(maps.Keys(api.Paths)) {
		item := api.Paths[path]
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op != nil {
				operations = append(operations, d.operation(op))
			}
		}
	}
	page, err := template.New("docs").Funcs(template.FuncMap{"kind": d.kind}).Parse(docsTemplate)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = page.Execute(&out, map[string]any{
		"Info": api.Info, "Operations": operations,
		"Style": template.CSS(docsStyle), //nolint:gosec // it is our own file
	})
	return out.Bytes(), err
}

// describer makes lists of fields from schemas.
type describer struct{ schemas huma.Registry }

func (d describer) operation(op *huma.Operation) documented {
	out := documented{Operation: op}
	if op.RequestBody != nil {
		for _, media := range op.RequestBody.Content {
			out.Body = d.fields("", media.Schema)
		}
	}
	for _, status := range slices.Sorted(maps.Keys(op.Responses)) {
		r := op.Responses[status]
		a := answered{Status: status, Description: r.Description}
		for mediaType, media := range r.Content {
			a.Type = mediaType
			if mediaType == "application/json" {
				a.Fields = d.fields("", media.Schema)
			}
		}
		out.Answers = append(out.Answers, a)
	}
	return out
}

func (d describer) resolve(s *huma.Schema) *huma.Schema {
	if s != nil && s.Ref != "" {
		return d.schemas.SchemaFromRef(s.Ref)
	}
	return s
}

// fields lists what an object holds; arrays are shown by their items.
func (d describer) fields(prefix string, s *huma.Schema) []field {
	s = d.resolve(s)
	if s == nil {
		return nil
	}
	if s.Type == huma.TypeArray {
		return d.fields(prefix+"[]", s.Items)
	}
	var all []field
	for _, one := range s.OneOf {
		all = append(all, d.fields(prefix, one)...)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		p := s.Properties[name]
		path := strings.TrimPrefix(prefix+"."+name, ".")
		all = append(all, field{Name: path, Type: d.kind(p), Doc: p.Description, Required: slices.Contains(s.Required, name)})
		all = append(all, d.fields(path, p)...)
	}
	return all
}

// kind names a schema's type for people.
func (d describer) kind(s *huma.Schema) string {
	s = d.resolve(s)
	switch {
	case s == nil:
		return ""
	case s.Type == huma.TypeArray:
		return "list of " + d.kind(s.Items)
	case s.Format != "" && s.Type == huma.TypeString:
		return s.Format
	case s.Nullable:
		return s.Type + " or null"
	}
	return s.Type
}
