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

// ConfigProgress is how far the devices are that a group or a template concerns.
type ConfigProgress struct {
	Counts  map[string]int `json:"counts" doc:"Devices by state, all of them"`
	Devices []ConfigMember `json:"devices" nullable:"false" doc:"By id"`
	Next    string         `json:"next,omitempty" doc:"Give it as after to go on; absent on the last page"`
}

// ConfigMember is how far a device is with its configuration.
type ConfigMember struct {
	Device      string                   `json:"device"`
	State       string                   `json:"state" enum:"in_force,pending,drifted,disabled" doc:"disabled devices are not let in, and so are not told"`
	Revision    uint64                   `json:"revision" doc:"Of what is desired of it; 0 where nothing ever was"`
	DeliveredAt *time.Time               `json:"delivered_at" doc:"When it was first sent; null when not yet"`
	AnsweredAt  *time.Time               `json:"answered_at" doc:"When the device answered; null when not yet"`
	Outcome     map[string]ConfigOutcome `json:"outcome" doc:"What the device did with each parameter of this revision, the group's and others; empty while it is pending"`
}

type (
	// ProgressPage is which of the devices are listed.
	ProgressPage struct {
		After string `query:"after" doc:"Only devices after this id"`
		Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many"`
	}
	groupProgressInput struct {
		GroupInput
		ProgressPage
	}
	templateProgressInput struct {
		TemplateInput
		ProgressPage
	}
	configProgressOutput struct{ Body ConfigProgress }
)

func (s *server) registerConfigProgress() {
	const pages = "All are counted, and listed a page at a time: give the answer's next as after to go on. There is no next on the last page."
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "get-group-config-devices", Method: http.MethodGet, Path: "/groups/{group}/config/devices",
		Summary: "How far the devices of a group are with their configuration", Description: pages,
		Errors: []int{http.StatusUnprocessableEntity},
	}, func(ctx context.Context, in *groupProgressInput) (*configProgressOutput, error) {
		scope, err := in.scope()
		return s.progress(ctx, scope, err, in.ProgressPage)
	})
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "get-config-template-devices", Method: http.MethodGet, Path: "/config/templates/{template}/devices",
		Summary: "How far the devices are that are given a template, themselves or by their group", Description: pages,
		Errors: []int{http.StatusNotFound, http.StatusUnprocessableEntity},
	}, func(ctx context.Context, in *templateProgressInput) (*configProgressOutput, error) {
		scope, err := in.scope()
		return s.progress(ctx, scope, err, in.ProgressPage)
	})
}

// progress answers for a layer whose scope was read, or not.
func (s *server) progress(ctx context.Context, scope config.Scope, err error, page ProgressPage) (*configProgressOutput, error) {
	if err != nil {
		return nil, err
	}
	limit := page.Limit
	if limit == 0 {
		limit = defaultPage
	}
	p, err := s.Configurations.ConfigProgress(ctx, scope, ecowatt.DeviceID(page.After), limit+1) // one more tells whether there is a next page
	if errors.Is(err, config.ErrNoTemplate) {
		return nil, noTemplate(scope.Name)
	}
	if err != nil {
		return nil, err
	}
	out := ConfigProgress{Counts: map[string]int{}, Devices: []ConfigMember{}}
	for state, n := range p.Counts {
		out.Counts[string(state)] = n
	}
	if len(p.Members) > limit {
		p.Members = p.Members[:limit]
		out.Next = string(p.Members[limit-1].ID)
	}
	for _, m := range p.Members {
		out.Devices = append(out.Devices, ConfigMember{
			Device: string(m.ID), State: string(m.State), Revision: m.Revision,
			DeliveredAt: known(m.DeliveredAt), AnsweredAt: known(m.AnsweredAt), Outcome: showOutcome(m.Outcome),
		})
	}
	return &configProgressOutput{Body: out}, nil
}
