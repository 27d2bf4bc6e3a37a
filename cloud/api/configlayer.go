package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/config"
)

// ConfigLayer is what is set for a group, or in a template.
type ConfigLayer struct {
	Layer      string     `json:"layer" enum:"device,group,template"`
	Name       string     `json:"name"`
	Parameters Parameters `json:"parameters"`
	Template   string     `json:"template,omitempty" doc:"That the group is given; absent for none, and of templates"`
	Version    int64      `json:"version" doc:"The ETag, without its quotes; 0 where nothing was ever set"`
	ChangedAt  *time.Time `json:"changed_at" doc:"null for never"`
	ChangedBy  string     `json:"changed_by"`
	GivenTo    []string   `json:"given_to,omitempty" doc:"Of a template in a list: the devices and groups that are given it, as 'group north'"`
}

func showLayer(l config.Layer) ConfigLayer {
	return ConfigLayer{
		Layer: string(l.Kind), Name: l.Name, Parameters: shown(l.Values), Template: l.Template,
		Version: l.Version, ChangedAt: known(l.ChangedAt), ChangedBy: l.ChangedBy,
	}
}

// ConfigTemplates are all templates.
type ConfigTemplates struct {
	Templates []ConfigLayer `json:"templates" nullable:"false" doc:"By name"`
}

type (
	// GroupInput is the group that a path names.
	GroupInput struct {
		Group string `path:"group" doc:"The group"`
	}
	// TemplateInput is the template that a path names.
	TemplateInput struct {
		Template string `path:"template" doc:"The template's name"`
	}
	putGroupConfigInput struct {
		GroupInput
		ConfigCondition
		Body Parameters
	}
	giveGroupTemplateInput struct {
		GroupInput
		ConfigCondition
		Body GivenTemplate
	}
	putTemplateInput struct {
		TemplateInput
		ConfigCondition
		Body Parameters
	}
	configLayerOutput struct {
		ETag string `header:"ETag"`
		Body ConfigLayer
	}
	configTemplatesOutput struct{ Body ConfigTemplates }
)

// scope is the layer of the group.
func (in GroupInput) scope() (config.Scope, error) {
	name, err := ecowatt.ParseName("group", in.Group)
	if err != nil {
		return config.Scope{}, invalid("path.group", err.Error())
	}
	return config.Scope{Kind: config.OfGroup, Name: name}, nil
}

// scope is the layer of the template.
func (in TemplateInput) scope() (config.Scope, error) {
	name, err := ecowatt.ParseName("template", in.Template)
	if err != nil {
		return config.Scope{}, invalid("path.template", err.Error())
	}
	return config.Scope{Kind: config.OfTemplate, Name: name}, nil
}

func (s *server) registerConfigLayers(bodyErrors []int) {
	const spreads = "It reaches each device that it concerns, each under a revision of its own."
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "get-group-config", Method: http.MethodGet, Path: "/groups/{group}/config",
		Summary: "What is set for a group", Errors: []int{http.StatusUnprocessableEntity},
	}, func(ctx context.Context, in *GroupInput) (*configLayerOutput, error) {
		scope, err := in.scope()
		return s.layer(ctx, scope, err)
	})
	register(s, access.ChangeConfig, huma.Operation{
		OperationID: "put-group-config", Method: http.MethodPut, Path: "/groups/{group}/config",
		Summary: "Set the configuration of a group", Description: "The body is all that is set for the group. " + spreads,
		Errors: bodyErrors, SkipValidateBody: true,
	}, func(ctx context.Context, in *putGroupConfigInput) (*configLayerOutput, error) {
		scope, err := in.scope()
		return s.putLayer(ctx, scope, err, in.ConfigCondition, in.Body)
	})
	register(s, access.ChangeConfig, huma.Operation{
		OperationID: "give-group-config-template", Method: http.MethodPut, Path: "/groups/{group}/config/template",
		Summary: "Give a group a template", Description: spreads, Errors: bodyErrors,
	}, func(ctx context.Context, in *giveGroupTemplateInput) (*configLayerOutput, error) {
		scope, err := in.scope()
		if err != nil {
			return nil, err
		}
		l, err := s.setConfig(ctx, in.ConfigCondition, config.Change{Scope: scope, Template: &in.Body.Template})
		return answerLayer(l, err)
	})
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "list-config-templates", Method: http.MethodGet, Path: "/config/templates",
		Summary: "All templates", Description: "A template is a set of values with a name, which devices and groups can be given.",
	}, s.listTemplates)
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "get-config-template", Method: http.MethodGet, Path: "/config/templates/{template}",
		Summary: "Show a template", Errors: []int{http.StatusNotFound, http.StatusUnprocessableEntity},
	}, func(ctx context.Context, in *TemplateInput) (*configLayerOutput, error) {
		scope, err := in.scope()
		return s.layer(ctx, scope, err)
	})
	register(s, access.ChangeConfig, huma.Operation{
		OperationID: "put-config-template", Method: http.MethodPut, Path: "/config/templates/{template}",
		Summary: "Make or change a template", Description: "The body is all that the template has. " + spreads,
		Errors: bodyErrors, SkipValidateBody: true,
	}, func(ctx context.Context, in *putTemplateInput) (*configLayerOutput, error) {
		scope, err := in.scope()
		return s.putLayer(ctx, scope, err, in.ConfigCondition, in.Body)
	})
	register(s, access.ChangeConfig, huma.Operation{
		OperationID: "delete-config-template", Method: http.MethodDelete, Path: "/config/templates/{template}", DefaultStatus: http.StatusNoContent,
		Summary: "Delete a template", Description: "One that is given to somebody is answered with 409.",
		Errors: []int{http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity},
	}, s.deleteTemplate)
}

func answerLayer(l config.Layer, err error) (*configLayerOutput, error) {
	if err != nil {
		return nil, err
	}
	return &configLayerOutput{ETag: etag(l.Version), Body: showLayer(l)}, nil
}

// layer answers with a layer whose scope was read, or not.
func (s *server) layer(ctx context.Context, scope config.Scope, err error) (*configLayerOutput, error) {
	if err != nil {
		return nil, err
	}
	l, err := s.Configurations.ConfigLayer(ctx, scope)
	if errors.Is(err, config.ErrNoTemplate) {
		return nil, noTemplate(scope.Name)
	}
	return answerLayer(l, err)
}

func noTemplate(name string) error {
	return problemf(http.StatusNotFound, "there is no template %q", name)
}

// putLayer sets all that a layer has, whose scope was read, or not.
func (s *server) putLayer(ctx context.Context, scope config.Scope, err error, condition ConfigCondition, body Parameters) (*configLayerOutput, error) {
	if err != nil {
		return nil, err
	}
	values, err := checkedParameters(body)
	if err != nil {
		return nil, err
	}
	l, err := s.setConfig(ctx, condition, config.Change{Scope: scope, Values: values})
	return answerLayer(l, err)
}

func (s *server) listTemplates(ctx context.Context, _ *struct{}) (*configTemplatesOutput, error) {
	found, err := s.Configurations.ConfigTemplates(ctx)
	if err != nil {
		return nil, err
	}
	list := ConfigTemplates{Templates: []ConfigLayer{}}
	for _, t := range found {
		l := showLayer(t.Layer)
		for _, scope := range t.Given {
			l.GivenTo = append(l.GivenTo, scope.String())
		}
		list.Templates = append(list.Templates, l)
	}
	return &configTemplatesOutput{Body: list}, nil
}

func (s *server) deleteTemplate(ctx context.Context, in *TemplateInput) (*struct{}, error) {
	scope, err := in.scope()
	if err != nil {
		return nil, err
	}
	err = s.Configurations.DeleteConfigTemplate(ctx, scope.Name, operator(ctx), s.Now())
	if errors.Is(err, config.ErrNoTemplate) {
		return nil, noTemplate(scope.Name)
	}
	return nil, err
}
