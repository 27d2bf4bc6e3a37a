package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ecowatt"
	"ecowatt/cloud/access"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollout"
)

// Rollouts is the part of the store that knows how releases reach devices.
type Rollouts interface {
	// CreateRollout makes a rollout, as rollout.New does, or returns an
	// *rollout.InvalidError or rollout.ErrNoRelease.
	CreateRollout(ctx context.Context, o rollout.Order, release rollout.Release, back []uint64) (rollout.Rollout, error)
	// Rollout returns a rollout and how it stands, or rollout.ErrNotFound.
	Rollout(ctx context.Context, id rollout.ID, now time.Time) (rollout.View, error)
	// Rollouts returns the newest ones, at most so many, the newest first.
	Rollouts(ctx context.Context, limit int, now time.Time) ([]rollout.View, error)
	// Updates returns what a rollout wants of its devices, or rollout.ErrNotFound; a
	// device to begin after that is not there is registry.ErrNotFound.
	Updates(ctx context.Context, id rollout.ID, f rollout.Filter) ([]rollout.Update, error)
	// OrderRollout lets an operator have his way, or returns rollout.ErrNotFound or a
	// *rollout.TooLateError.
	OrderRollout(ctx context.Context, i rollout.Instruction) error
}

// Rollout is a rollout as the API shows it.
type Rollout struct {
	ID      string    `json:"id" doc:"32 hexadecimal digits"`
	Release string    `json:"release" doc:"The id of the release"`
	Version string    `json:"version" doc:"Of the release, for people"`
	Number  uint64    `json:"number" doc:"Of the release"`
	By      string    `json:"by" doc:"Who made it"`
	At      time.Time `json:"at" doc:"When it was made"`

	State  string    `json:"state" enum:"running,paused,stopped,aborted,done"`
	Code   string    `json:"code" doc:"Why it stopped by itself: too_many_failed; else empty"`
	Text   string    `json:"text" doc:"How it came into its state, for people"`
	Since  time.Time `json:"since" doc:"When it came into its state"`
	Finish bool      `json:"finish" doc:"Of an aborted one: who is under way may finish"`

	RolloutRules
	Downgrades int            `json:"downgrades" doc:"Signed statements that go with it"`
	Stages     []RolloutStage `json:"stages" nullable:"false"`
	Stage      int            `json:"stage" doc:"That has begun last, from 1 on; 0 for none"`
	StageAt    *time.Time     `json:"stage_at" doc:"When it began; null for none"`

	Counts   map[string]int  `json:"counts" doc:"Devices by phase"`
	Progress RolloutProgress `json:"progress"`
}

// RolloutRules are for whom a rollout is, and when it goes on.
type RolloutRules struct {
	Target      RolloutTarget `json:"target"`
	SoakS       int64         `json:"soak_s" doc:"For how many seconds telemetry must go on after an update is confirmed"`
	NoTelemetry bool          `json:"no_telemetry" doc:"It is enough that the device still speaks then"`
	DeadlineS   int64         `json:"deadline_s" doc:"In how many seconds from its stage's begin on a device must confirm"`
	MaxFailed   float64       `json:"max_failed_percent" doc:"It stops when more have failed, of those of a stage of which it is known how they did"`
	MinSample   int           `json:"min_sample" doc:"Of how many that must be known"`
}

// RolloutTarget says which devices a rollout is for: those that fit all of it; an
// empty field fits all devices.
type RolloutTarget struct {
	Group    string   `json:"group,omitempty"`
	Devices  []string `json:"devices,omitempty" nullable:"false"`
	Hardware []string `json:"hardware,omitempty" nullable:"false" doc:"Board revisions"`
	Versions []string `json:"versions,omitempty" nullable:"false" doc:"That run now"`
	Releases []uint64 `json:"releases,omitempty" nullable:"false" doc:"Numbers of releases that run now"`
}

// StageSize is how far a rollout goes before it looks back: one of Percent and
// Count.
type StageSize struct {
	Percent float64    `json:"percent,omitempty" doc:"Of all devices that are to get the release, those of the stages before included"`
	Count   int        `json:"count,omitempty" doc:"Devices, those of the stages before included"`
	Start   *time.Time `json:"start,omitempty" doc:"It does not begin before"`
}

// RolloutStage is a stage, and how it stands.
type RolloutStage struct {
	StageSize
	Devices int            `json:"devices" doc:"Without those of the stages before"`
	Counts  map[string]int `json:"counts" doc:"Of them, by phase"`
}

// RolloutProgress is how far a rollout is, and how fast.
type RolloutProgress struct {
	Devices  int     `json:"devices" doc:"That are to get the release"`
	Over     int     `json:"over" doc:"Of them: healthy or failed"`
	Healthy  int     `json:"healthy"`
	Failed   int     `json:"failed"`
	UnderWay int     `json:"under_way" doc:"Have begun and are not over"`
	Waiting  int     `json:"waiting" doc:"Their stage has not begun"`
	Skipped  int     `json:"skipped" doc:"Are not to get it, beside the devices"`
	PerHour  float64 `json:"per_hour" doc:"How many came to their end in the last hour"`
	LeftS    *int64  `json:"left_s" doc:"In how many seconds the rest will, at that rate; null where there is none"`
}

// RolloutList is a number of rollouts.
type RolloutList struct {
	Rollouts []Rollout `json:"rollouts" nullable:"false" doc:"The newest first"`
}

// DeviceUpdate is a release on its way to a device.
type DeviceUpdate struct {
	Device   string               `json:"device"`
	Stage    int                  `json:"stage" doc:"0 for one that was skipped from the beginning"`
	Phase    string               `json:"phase" enum:"waiting,due,offered,downloading,downloaded,verified,retrying,switching,trial,confirmed,healthy,failed,rolled_back,overdue,skipped,withdrawn"`
	Code     string               `json:"code" doc:"Why; empty for no reason"`
	Text     string               `json:"text" doc:"The same for people"`
	Done     uint64               `json:"chunks_done"`
	All      uint64               `json:"chunks" doc:"0 where that is not known"`
	Times    map[string]time.Time `json:"times" doc:"When it came into each phase"`
	Deadline *time.Time           `json:"deadline" doc:"When it is given up; null for never"`
}

// DeviceUpdates is a page of them.
type DeviceUpdates struct {
	Devices []DeviceUpdate `json:"devices" nullable:"false" doc:"In the order in which they were added to the fleet"`
	Next    string         `json:"next,omitempty" doc:"Give it as after to go on; absent on the last page"`
}

func showRollout(v rollout.View, now time.Time) Rollout {
	out := Rollout{
		ID: v.ID.String(), Release: v.Release.String(), Version: v.Version, Number: v.Number, By: v.By, At: v.At,
		State: string(v.State), Code: v.Code, Text: v.Text, Since: v.Since, Finish: v.Finish, Downgrades: len(v.Downgrades),
		RolloutRules: RolloutRules{
			Target: showTarget(v.Target), SoakS: int64(v.Soak / time.Second), NoTelemetry: v.NoTelemetry, DeadlineS: int64(v.Deadline / time.Second),
			MaxFailed: v.MaxFailed, MinSample: v.MinSample,
		},
		Stages: []RolloutStage{}, Stage: v.Stage, StageAt: known(v.StageAt), Counts: counted(v.All()),
	}
	before := 0
	for i, x := range v.Stages {
		out.Stages = append(out.Stages, RolloutStage{
			StageSize: StageSize{Percent: x.Percent, Count: x.Count, Start: known(x.Start)},
			Devices:   v.Sizes[i] - before, Counts: counted(v.ByStage[i]),
		})
		before = v.Sizes[i]
	}
	p := v.Progress(v.All(), v.Recent, now)
	out.Progress = RolloutProgress{
		Devices: p.Devices, Over: p.Over, Healthy: p.Healthy, Failed: p.Failed, UnderWay: p.UnderWay, Waiting: p.Waiting, Skipped: p.Skipped, PerHour: p.Rate,
	}
	if p.Known {
		left := int64(p.Left / time.Second)
		out.Progress.LeftS = &left
	}
	return out
}

func showTarget(t rollout.Target) RolloutTarget {
	out := RolloutTarget{Group: t.Group, Hardware: t.Hardware, Versions: t.Versions, Releases: t.Releases}
	for _, id := range t.Devices {
		out.Devices = append(out.Devices, string(id))
	}
	return out
}

// counted is a tally without what there is none of.
func counted(t rollout.Tally) map[string]int {
	counts := map[string]int{}
	for p, n := range t {
		if n > 0 {
			counts[string(p)] = n
		}
	}
	return counts
}

func showUpdate(u rollout.Update) DeviceUpdate {
	out := DeviceUpdate{
		Device: string(u.Device), Stage: u.Stage, Phase: string(u.Phase), Code: u.Code, Text: u.Text, Done: u.Done, All: u.All,
		Times: map[string]time.Time{}, Deadline: known(u.Deadline()),
	}
	for p, at := range u.Times {
		out.Times[string(p)] = at
	}
	return out
}

type (
	rolloutInput struct {
		ID string `path:"rollout" doc:"The id of the rollout"`
	}
	rolloutOutput struct{ Body Rollout }
	abortInput    struct {
		ID   string `path:"rollout" doc:"The id of the rollout"`
		Body *struct {
			Finish bool `json:"finish,omitempty" doc:"Who is under way may finish; else it is told of the release no more"`
		}
	}
	listRolloutsInput struct {
		Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many"`
	}
	rolloutListOutput struct{ Body RolloutList }
	listUpdatesInput  struct {
		ID    string `path:"rollout" doc:"The id of the rollout"`
		Phase string `query:"phase" enum:"waiting,due,offered,downloading,downloaded,verified,retrying,switching,trial,confirmed,healthy,failed,rolled_back,overdue,skipped,withdrawn" doc:"Only those in this phase"`
		After string `query:"after" doc:"Only those that come after this device in the list"`
		Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"At most so many"`
	}
	updateListOutput struct{ Body DeviceUpdates }
)

func (s *server) registerRollouts() {
	s.registerNewRollout()
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "list-rollouts", Method: http.MethodGet, Path: "/rollouts",
		Summary: "List rollouts",
		Errors:  []int{http.StatusUnprocessableEntity},
	}, s.listRollouts)
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "get-rollout", Method: http.MethodGet, Path: "/rollouts/{rollout}",
		Summary: "Show a rollout",
		Errors:  []int{http.StatusNotFound},
	}, func(ctx context.Context, in *rolloutInput) (*rolloutOutput, error) {
		id, err := rolloutOf(in.ID)
		if err != nil {
			return nil, err
		}
		return s.oneRollout(ctx, id)
	})
	register(s, access.SeeFleet, huma.Operation{
		OperationID: "list-rollout-devices", Method: http.MethodGet, Path: "/rollouts/{rollout}/devices",
		Summary:     "Devices of a rollout",
		Description: "What has become of it on each, those that were skipped included, a page at a time: give the answer's next as after to go on.",
		Errors:      []int{http.StatusNotFound, http.StatusUnprocessableEntity},
	}, s.listUpdates)
	register(s, access.RollOut, huma.Operation{
		OperationID: "pause-rollout", Method: http.MethodPost, Path: "/rollouts/{rollout}/pause", DefaultStatus: http.StatusOK,
		Summary:     "Pause a rollout",
		Description: "Nobody is told of the release until it is resumed. An image that is on trial decides for itself.",
		Errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *rolloutInput) (*rolloutOutput, error) {
		return s.instruct(ctx, in.ID, rollout.Pause, false)
	})
	register(s, access.RollOut, huma.Operation{
		OperationID: "resume-rollout", Method: http.MethodPost, Path: "/rollouts/{rollout}/resume", DefaultStatus: http.StatusOK,
		Summary:     "Let a rollout go on",
		Description: "One that is paused, or has stopped by itself; what had failed until then counts no more.",
		Errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *rolloutInput) (*rolloutOutput, error) {
		return s.instruct(ctx, in.ID, rollout.Resume, false)
	})
	register(s, access.RollOut, huma.Operation{
		OperationID: "abort-rollout", Method: http.MethodPost, Path: "/rollouts/{rollout}/abort", DefaultStatus: http.StatusOK,
		Summary:     "End a rollout",
		Description: "Who has not begun stays out. A device that has switched to the release confirms it or goes back by itself.",
		Errors:      []int{http.StatusBadRequest, http.StatusNotFound, http.StatusConflict},
	}, func(ctx context.Context, in *abortInput) (*rolloutOutput, error) {
		return s.instruct(ctx, in.ID, rollout.Abort, in.Body != nil && in.Body.Finish)
	})
}

// rolloutOf is the rollout that a path names.
func rolloutOf(text string) (rollout.ID, error) {
	id, err := rollout.ParseID(text)
	if err != nil {
		return id, problemf(http.StatusNotFound, "there is no rollout %.80q", text)
	}
	return id, nil
}

// rolloutProblem says of an error which rollout it is about.
func rolloutProblem(id rollout.ID, err error) error {
	if errors.Is(err, rollout.ErrNotFound) {
		return problemf(http.StatusNotFound, "there is no rollout %v", id)
	}
	if late, ok := errors.AsType[*rollout.TooLateError](err); ok {
		p := problemf(http.StatusConflict, "rollout %v: %v", id, late)
		p.Errors = []*huma.ErrorDetail{{Message: late.Error(), Location: "rollout.state", Value: string(late.State)}}
		return p
	}
	return err
}

func (s *server) oneRollout(ctx context.Context, id rollout.ID) (*rolloutOutput, error) {
	now := s.Now()
	v, err := s.Rollouts.Rollout(ctx, id, now)
	if err != nil {
		return nil, rolloutProblem(id, err)
	}
	return &rolloutOutput{Body: showRollout(v, now)}, nil
}

func (s *server) listRollouts(ctx context.Context, in *listRolloutsInput) (*rolloutListOutput, error) {
	limit, now := in.Limit, s.Now()
	if limit == 0 {
		limit = defaultPage
	}
	found, err := s.Rollouts.Rollouts(ctx, limit, now)
	if err != nil {
		return nil, err
	}
	list := RolloutList{Rollouts: []Rollout{}}
	for _, v := range found {
		list.Rollouts = append(list.Rollouts, showRollout(v, now))
	}
	return &rolloutListOutput{Body: list}, nil
}

func (s *server) listUpdates(ctx context.Context, in *listUpdatesInput) (*updateListOutput, error) {
	id, err := rolloutOf(in.ID)
	if err != nil {
		return nil, err
	}
	f := rollout.Filter{Phase: rollout.Phase(in.Phase), After: ecowatt.DeviceID(in.After), Limit: in.Limit}
	if f.Limit == 0 {
		f.Limit = defaultPage
	}
	f.Limit++ // one more than asked for tells whether there is a next page
	found, err := s.Rollouts.Updates(ctx, id, f)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, invalid("query.after", "there is no such device")
	}
	if err != nil {
		return nil, rolloutProblem(id, err)
	}
	list := DeviceUpdates{Devices: []DeviceUpdate{}}
	if len(found) == f.Limit {
		found = found[:f.Limit-1]
		list.Next = string(found[f.Limit-2].Device)
	}
	for _, u := range found {
		list.Devices = append(list.Devices, showUpdate(u))
	}
	return &updateListOutput{Body: list}, nil
}

// instruct lets the caller have his way with a rollout.
func (s *server) instruct(ctx context.Context, text string, e rollout.Event, finish bool) (*rolloutOutput, error) {
	id, err := rolloutOf(text)
	if err != nil {
		return nil, err
	}
	i := rollout.Instruction{ID: id, Event: e, Finish: finish, By: caller(ctx).Name, At: s.Now()}
	if err := s.Rollouts.OrderRollout(ctx, i); err != nil {
		return nil, rolloutProblem(id, err)
	}
	return s.oneRollout(ctx, id)
}
