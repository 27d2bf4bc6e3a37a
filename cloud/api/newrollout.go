package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/rollout"
)

// NewRollout asks for a rollout.
type NewRollout struct {
	Release     string        `json:"release" doc:"The id of the release"`
	Target      RolloutTarget `json:"target,omitzero"`
	Stages      []StageSize   `json:"stages,omitempty" maxItems:"16" nullable:"false" doc:"1 %, 10 % and all where none are given"`
	SoakS       *int64        `json:"soak_s,omitempty" minimum:"0" maximum:"2592000" default:"1800" doc:"For how many seconds telemetry must go on after an update is confirmed"`
	NoTelemetry bool          `json:"no_telemetry,omitempty" doc:"It is enough that the device still speaks then"`
	DeadlineS   *int64        `json:"deadline_s,omitempty" minimum:"60" maximum:"7776000" default:"86400" doc:"In how many seconds from its stage's begin on a device must confirm"`
	MaxFailed   *float64      `json:"max_failed_percent,omitempty" minimum:"0" maximum:"100" default:"2" doc:"It stops when more have failed, of those of a stage of which it is known how they did"`
	MinSample   *int          `json:"min_sample,omitempty" minimum:"1" default:"10" doc:"Of how many that must be known, or of all where a stage has fewer"`
	Downgrades  [][]byte      `json:"downgrades,omitempty" maxItems:"16" nullable:"false" doc:"Signed statements that let devices go back to the release"`
}

// maxNewRollout is the longest body of a new rollout, in bytes: 1,000 devices and 16
// signed statements.
const maxNewRollout = 512 << 10

type (
	newRolloutInput  struct{ Body NewRollout }
	newRolloutOutput struct {
		Location string `header:"Location"`
		Body     Rollout
	}
)

func (s *server) registerNewRollout() {
	register(s, access.RollOut, huma.Operation{
		OperationID: "create-rollout", Method: http.MethodPost, Path: "/rollouts", DefaultStatus: http.StatusCreated,
		Summary: "Roll out a release",
		Description: "Chooses the devices that fit the target, once, and puts each into a stage. Those that cannot get the release, or have another " +
			"rollout open, are skipped with the reason. Refused with 409 where the release is not signed any more as the newest root of trust asks, has " +
			"expired, or lacks files.",
		MaxBodyBytes: maxNewRollout,
		Errors:       []int{http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType},
	}, s.createRollout)
}

func (s *server) createRollout(ctx context.Context, in *newRolloutInput) (*newRolloutOutput, error) {
	id, err := rollout.ParseHash(in.Body.Release)
	if err != nil {
		return nil, invalid("body.release", err.Error())
	}
	release, err := s.Releases.Release(ctx, id)
	if err != nil {
		return nil, releaseProblem(id, err)
	}
	now := s.Now()
	if err := s.mayRollOut(release, now); err != nil {
		return nil, err
	}
	spec, err := in.Body.spec(id)
	if err != nil {
		return nil, err
	}
	back, err := s.Trust.Roots().Returns(release.Number, spec.Downgrades)
	if err != nil {
		return nil, returnsProblem(err)
	}
	o := rollout.Order{Spec: spec, By: caller(ctx).Name, At: now}
	if o.ID, err = rollout.NewID(s.Random); err != nil {
		return nil, err
	}
	r, err := s.Rollouts.CreateRollout(ctx, o, release, back)
	if err != nil {
		return nil, releaseProblem(id, err)
	}
	out, err := s.oneRollout(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	return &newRolloutOutput{Location: prefix + "/rollouts/" + r.ID.String(), Body: out.Body}, nil
}

// mayRollOut says why a release that is there is not brought to devices.
func (s *server) mayRollOut(r rollout.Release, now time.Time) error {
	if err := s.Trust.Roots().Verify(r.Envelope); err != nil {
		return problemf(http.StatusConflict, "release %s is not to be trusted any more: %v", r.Version, err)
	}
	if !r.Expires.IsZero() && !now.Before(r.Expires) {
		return problemf(http.StatusConflict, "release %s has expired at %s", r.Version, r.Expires.Format(time.RFC3339))
	}
	if n := s.Depot.Lacking(r); n > 0 {
		return problemf(http.StatusConflict, "release %s lacks %d of its files: push its bundle again", r.Version, n)
	}
	return nil
}

// spec is what the body asks for, with the defaults.
func (b NewRollout) spec(release rollout.Hash) (rollout.Spec, error) {
	s := rollout.Spec{
		Release: release, Stages: rollout.DefaultStages(), Soak: rollout.DefaultSoak, NoTelemetry: b.NoTelemetry, Deadline: rollout.DefaultDeadline,
		MaxFailed: rollout.DefaultFailed, MinSample: rollout.DefaultSample, Downgrades: b.Downgrades,
		Target: rollout.Target{Group: b.Target.Group, Hardware: b.Target.Hardware, Versions: b.Target.Versions, Releases: b.Target.Releases},
	}
	if b.Target.Group != "" {
		if _, err := ecowatt.ParseName("group", b.Target.Group); err != nil {
			return s, invalid("body.target.group", err.Error())
		}
	}
	for i, text := range b.Target.Devices {
		id, err := ecowatt.ParseDeviceID(text)
		if err != nil {
			return s, invalid(fmt.Sprintf("body.target.devices[%d]", i), err.Error())
		}
		s.Target.Devices = append(s.Target.Devices, id)
	}
	if b.Stages != nil {
		s.Stages = nil
	}
	for _, x := range b.Stages {
		stage := rollout.Stage{Percent: x.Percent, Count: x.Count}
		if x.Start != nil {
			stage.Start = x.Start.UTC().Truncate(time.Millisecond)
		}
		s.Stages = append(s.Stages, stage)
	}
	if b.SoakS != nil {
		s.Soak = seconds(*b.SoakS)
	}
	if b.DeadlineS != nil {
		s.Deadline = seconds(*b.DeadlineS)
	}
	if b.MaxFailed != nil {
		s.MaxFailed = *b.MaxFailed
	}
	if b.MinSample != nil {
		s.MinSample = *b.MinSample
	}
	return s, nil
}

// returnsProblem says of an error that it is about a signed statement.
func returnsProblem(err error) error {
	if p := firmwareProblem(err); p != nil {
		return invalid("body.downgrades", p.Detail)
	}
	return err
}
