package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/config"
	"ecowatt/parameter"
)

// Configurations is the part of the store that knows what devices are to have set.
type Configurations interface {
	// DeviceConfig returns what is known of a device, or registry.ErrNotFound.
	DeviceConfig(ctx context.Context, id ecowatt.DeviceID) (config.Device, error)
	// ConfigLog returns the revisions of a device, newest first, before one of them
	// or all.
	ConfigLog(ctx context.Context, id ecowatt.DeviceID, before uint64, most int) ([]config.Entry, error)
	// ConfigLayer returns what is set for a scope, or config.ErrNoTemplate.
	ConfigLayer(ctx context.Context, scope config.Scope) (config.Layer, error)
	// ConfigProgress returns how far the devices of a group or a template are: all
	// counted, and those after one of them; or config.ErrNoTemplate.
	ConfigProgress(ctx context.Context, scope config.Scope, after ecowatt.DeviceID, most int) (config.Progress, error)
	// ConfigTemplates returns every template.
	ConfigTemplates(ctx context.Context) ([]config.Template, error)
	// SetConfig changes a layer, and says which devices have something to be told.
	SetConfig(ctx context.Context, c config.Change) (config.Layer, []ecowatt.DeviceID, error)
	// DeleteConfigTemplate deletes a template that is given to nobody.
	DeleteConfigTemplate(ctx context.Context, name string, by audit.Actor, now time.Time) error
}

// Parameters are values by the names of their parameters.
type Parameters map[string]any

// Schema describes every parameter there is.
func (Parameters) Schema(r huma.Registry) *huma.Schema {
	const name = "Parameters"
	if _, there := r.Map()[name]; !there {
		s := &huma.Schema{Type: huma.TypeObject, Properties: map[string]*huma.Schema{}, AdditionalProperties: false}
		for _, p := range parameter.All() {
			s.Properties[p.Name] = schemaOf(p.Schema())
		}
		r.Map()[name] = s
	}
	return &huma.Schema{Ref: "#/components/schemas/" + name}
}

// schemaOf makes a huma.Schema of a JSON Schema, as far as parameters need it.
func schemaOf(from map[string]any) *huma.Schema {
	s := &huma.Schema{Default: from["default"]}
	s.Type, _ = from["type"].(string)
	s.Description, _ = from["description"].(string)
	s.Pattern, _ = from["pattern"].(string)
	s.UniqueItems, _ = from["uniqueItems"].(bool)
	s.Enum, _ = from["enum"].([]any)
	if c, ok := from["const"]; ok {
		s.Enum = []any{c}
	}
	for name, to := range map[string]**float64{"minimum": &s.Minimum, "maximum": &s.Maximum} {
		if n, ok := from[name].(float64); ok {
			*to = &n
		}
	}
	for name, to := range map[string]**int{
		"minItems": &s.MinItems, "maxItems": &s.MaxItems, "minProperties": &s.MinProperties, "maxProperties": &s.MaxProperties,
	} {
		if n, ok := from[name].(int); ok {
			*to = &n
		}
	}
	if items, ok := from["items"].(map[string]any); ok {
		s.Items = schemaOf(items)
	}
	if more, ok := from["additionalProperties"].(map[string]any); ok {
		s.AdditionalProperties = schemaOf(more)
	}
	choices, _ := from["anyOf"].([]any)
	for _, x := range choices {
		if one, ok := x.(map[string]any); ok {
			s.AnyOf = append(s.AnyOf, schemaOf(one))
		}
	}
	return s
}

// Config is the configuration of a device as the API shows it.
type Config struct {
	Revision uint64 `json:"revision" doc:"Of what is desired; it grows with every change; 0 where nothing ever was"`
	Pending  bool   `json:"pending" doc:"The device has not answered this revision yet"`

	Desired Parameters               `json:"desired" doc:"All that is set for the device"`
	From    map[string]ConfigSource  `json:"from" doc:"Where each desired value comes from"`
	Report  Parameters               `json:"reported" doc:"What is in force of what was set, by the device's own word"`
	Outcome map[string]ConfigOutcome `json:"outcome" doc:"What the device did with each parameter of this revision, and with those that are not set any more; empty while it is pending"`
	Drift   []string                 `json:"drift" nullable:"false" doc:"Parameters that the device has answered for and does not have as desired"`

	ChangedAt   *time.Time `json:"changed_at" doc:"Since when this revision is desired; null for never"`
	By          string     `json:"by" doc:"Who caused it"`
	Cause       string     `json:"cause" doc:"What was changed"`
	DeliveredAt *time.Time `json:"delivered_at" doc:"When it was first sent; null when not yet"`
	AnsweredAt  *time.Time `json:"answered_at" doc:"When the device answered; null when not yet"`

	Own      Parameters `json:"own" doc:"What is set for this device itself"`
	Template string     `json:"template" doc:"That the device is given; empty for none"`
	Version  int64      `json:"version" doc:"Of own and template: the ETag, without its quotes"`
}

// ConfigSource says where a value comes from.
type ConfigSource struct {
	Layer   string `json:"layer" enum:"device,group,template" doc:"Whose value it is"`
	Name    string `json:"name"`
	GivenTo string `json:"given_to,omitempty" doc:"Of a template: the device or group that is given it, as 'group north'"`
}

// ConfigOutcome is what a device did with a parameter.
type ConfigOutcome struct {
	Result string `json:"result" enum:"accepted,rejected,unchanged"`
	Code   string `json:"code,omitempty" doc:"Why it was rejected"`
	Text   string `json:"text,omitempty" doc:"The same for people, in the device's words"`
}

func showConfig(d config.Device) Config {
	out := Config{
		Revision: d.Desired.Number, Pending: d.Pending, Desired: shown(d.Desired.Values), From: map[string]ConfigSource{},
		Report: shown(d.Report.Values), Outcome: showOutcome(d.Desired.Outcome), Drift: append([]string{}, d.Drift()...),
		ChangedAt: known(d.Desired.At), By: d.Desired.By, Cause: d.Desired.Cause,
		DeliveredAt: known(d.Desired.DeliveredAt), AnsweredAt: known(d.Desired.AnsweredAt),
		Own: shown(d.Own.Values), Template: d.Own.Template, Version: d.Own.Version,
	}
	for name, s := range d.From {
		x := ConfigSource{Layer: string(s.Kind), Name: s.Name}
		if s.Via != nil {
			x.GivenTo = s.Via.String()
		}
		out.From[name] = x
	}
	return out
}

// shown is never null.
func shown(v parameter.Values) Parameters {
	if v == nil {
		return Parameters{}
	}
	return Parameters(v)
}

func showOutcome(o config.Outcome) map[string]ConfigOutcome {
	out := make(map[string]ConfigOutcome, len(o))
	for name, p := range o {
		out[name] = ConfigOutcome{Result: string(p.Result), Code: p.Code, Text: p.Text}
	}
	return out
}

type (
	configOutput struct {
		ETag string `header:"ETag"`
		Body Config
	}
	// ConfigCondition is the version that is to be changed.
	ConfigCondition struct {
		IfMatch string `header:"If-Match" doc:"The ETag of what is to be changed; without it whatever is there is"`
	}
	putConfigInput struct {
		DeviceInput
		ConfigCondition
		Body Parameters
	}
	giveTemplateInput struct {
		DeviceInput
		ConfigCondition
		Body GivenTemplate
	}
	configLogInput struct {
		DeviceInput
		Before uint64 `query:"before" doc:"Only revisions before this one"`
		Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many"`
	}
	configLogOutput struct{ Body ConfigLog }
)

// GivenTemplate names the template that a device or a group is given.
type GivenTemplate struct {
	Template string `json:"template" doc:"Empty for none"`
}

// ConfigLog is a page of the changes of a configuration.
type ConfigLog struct {
	Revisions []ConfigRevision `json:"revisions" nullable:"false" doc:"Newest first"`
	Next      uint64           `json:"next,omitempty" doc:"Give it as before to go on; absent on the last page"`
}

// ConfigRevision is what was desired of a device from some moment on.
type ConfigRevision struct {
	Revision    uint64                   `json:"revision"`
	At          time.Time                `json:"at"`
	By          string                   `json:"by" doc:"Who caused it"`
	Cause       string                   `json:"cause" doc:"What was changed"`
	Changed     []string                 `json:"changed" nullable:"false" doc:"Parameters that are not as in the revision before"`
	Parameters  Parameters               `json:"parameters" doc:"The whole set"`
	DeliveredAt *time.Time               `json:"delivered_at" doc:"When it was first sent; null for never"`
	AnsweredAt  *time.Time               `json:"answered_at" doc:"When the device answered it last; null for never"`
	Outcome     map[string]ConfigOutcome `json:"outcome" doc:"What the device did with each parameter"`
}

// etag is the ETag of a version.
func etag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// version is the version that is to be changed; nil for any.
func (in ConfigCondition) version() (*int64, error) {
	if in.IfMatch == "" || in.IfMatch == "*" {
		return nil, nil
	}
	text, opened := strings.CutPrefix(in.IfMatch, `"`)
	text, closed := strings.CutSuffix(text, `"`)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || !opened || !closed {
		return nil, invalid("header.If-Match", "it is not an ETag that was given out here")
	}
	return &n, nil
}

func (s *server) registerConfig() {
	bodyErrors := []int{
		http.StatusBadRequest, http.StatusNotFound, http.StatusPreconditionFailed, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity,
	}
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "get-config", Method: http.MethodGet, Path: "/devices/{id}/config",
		Summary: "The configuration of a device",
		Description: "What is desired, what the device has reported to be in force, and what it did with each parameter. Parameters that are not " +
			"set are the gateway's own.",
		Errors: []int{http.StatusNotFound},
	}, func(ctx context.Context, in *DeviceInput) (*configOutput, error) {
		id, err := in.device()
		if err != nil {
			return nil, err
		}
		return s.config(ctx, id)
	})
	register(s, access.ChangeConfig, huma.Operation{
		OperationID: "put-config", Method: http.MethodPut, Path: "/devices/{id}/config",
		Summary: "Set the configuration of a device",
		Description: "The body is all that is set for this device itself; what is not there comes from its template, its group, the group's " +
			"template or, last, from the gateway. It goes out until the device has answered it. With If-Match it is refused with 412 " +
			"where somebody else has changed it meanwhile. To set the same again tries again what the device did not take.",
		Errors: bodyErrors, SkipValidateBody: true,
	}, func(ctx context.Context, in *putConfigInput) (*configOutput, error) {
		values, err := checkedParameters(in.Body)
		if err != nil {
			return nil, err
		}
		return s.changeConfig(ctx, in.DeviceInput, in.ConfigCondition, config.Change{Values: values})
	})
	register(s, access.ChangeConfig, huma.Operation{
		OperationID: "give-config-template", Method: http.MethodPut, Path: "/devices/{id}/config/template",
		Summary: "Give a device a template",
		Errors:  bodyErrors,
	}, func(ctx context.Context, in *giveTemplateInput) (*configOutput, error) {
		return s.changeConfig(ctx, in.DeviceInput, in.ConfigCondition, config.Change{Template: &in.Body.Template})
	})
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "get-config-log", Method: http.MethodGet, Path: "/devices/{id}/config/log",
		Summary:     "The changes of a device's configuration",
		Description: "Newest first, a page at a time: give the answer's next as before to go on. There is no next on the last page.",
		Errors:      []int{http.StatusNotFound, http.StatusUnprocessableEntity},
	}, s.configLog)
	s.registerConfigLayers(bodyErrors)
	s.registerConfigProgress()
}

func (s *server) config(ctx context.Context, id ecowatt.DeviceID) (*configOutput, error) {
	d, err := s.Configurations.DeviceConfig(ctx, id)
	if err != nil {
		return nil, deviceProblem(id, err)
	}
	return &configOutput{ETag: etag(d.Own.Version), Body: showConfig(d)}, nil
}

// changeConfig makes a change for the device that the path names.
func (s *server) changeConfig(ctx context.Context, in DeviceInput, condition ConfigCondition, c config.Change) (*configOutput, error) {
	id, err := in.device()
	if err != nil {
		return nil, err
	}
	c.Scope = config.Scope{Kind: config.OfDevice, Name: string(id)}
	if _, err := s.setConfig(ctx, condition, c); err != nil {
		return nil, deviceProblem(id, err)
	}
	return s.config(ctx, id)
}

// setConfig makes a change, and lets the devices know that wait for news.
func (s *server) setConfig(ctx context.Context, condition ConfigCondition, c config.Change) (config.Layer, error) {
	var err error
	if c.If, err = condition.version(); err != nil {
		return config.Layer{}, err
	}
	c.By, c.At = caller(ctx).Name, s.Now()
	l, woken, err := s.Configurations.SetConfig(ctx, c)
	if err != nil {
		return config.Layer{}, err
	}
	for _, id := range woken {
		s.Wake(id)
	}
	return l, nil
}

// checkedParameters are the canonical values of a body, or the problem that names
// each parameter which is wrong.
func checkedParameters(body Parameters) (parameter.Values, error) {
	values, wrong, err := config.Check(body)
	if errors.Is(err, config.ErrTooLong) {
		return nil, invalid("body", err.Error())
	}
	if len(wrong) > 0 {
		p := problemf(http.StatusUnprocessableEntity, "validation failed")
		for _, x := range wrong {
			p.Errors = append(p.Errors, &huma.ErrorDetail{Message: x.Text, Location: "body." + x.Parameter, Value: string(x.Code)})
		}
		return nil, p
	}
	return values, err
}

// configProblem is the problem of an error of package config; nil for any other.
func configProblem(err error) *huma.ErrorModel {
	if conflict, ok := errors.AsType[*config.ConflictError](err); ok {
		p := problemf(http.StatusPreconditionFailed, "%v", conflict)
		p.Errors = []*huma.ErrorDetail{{
			Message: "somebody else has changed it meanwhile", Location: "header.If-Match", Value: showLayer(conflict.Now),
		}}
		return p
	}
	if used, ok := errors.AsType[*config.InUseError](err); ok {
		return problemf(http.StatusConflict, "%v", used)
	}
	if errors.Is(err, config.ErrNoTemplate) {
		return invalid("body.template", config.ErrNoTemplate.Error())
	}
	return nil
}

func (s *server) configLog(ctx context.Context, in *configLogInput) (*configLogOutput, error) {
	id, err := in.device()
	if err != nil {
		return nil, err
	}
	limit := in.Limit
	if limit == 0 {
		limit = defaultPage
	}
	if in.Before > config.MaxRevision {
		return nil, invalid("query.before", "there is no such revision")
	}
	found, err := s.Configurations.ConfigLog(ctx, id, in.Before, limit+1) // one more tells whether there is a next page
	if err != nil {
		return nil, deviceProblem(id, err)
	}
	list := ConfigLog{Revisions: []ConfigRevision{}}
	if len(found) > limit {
		found = found[:limit]
		list.Next = found[limit-1].Number
	}
	for _, e := range found {
		list.Revisions = append(list.Revisions, ConfigRevision{
			Revision: e.Number, At: e.At, By: e.By, Cause: e.Cause, Changed: append([]string{}, e.Changed...), Parameters: shown(e.Values),
			DeliveredAt: known(e.DeliveredAt), AnsweredAt: known(e.AnsweredAt), Outcome: showOutcome(e.Outcome),
		})
	}
	return &configLogOutput{Body: list}, nil
}
