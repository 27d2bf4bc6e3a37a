package config_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt/cloud/config"
	"ecowatt/parameter"
)

var noon = time.Date(2026, 6, 21, 12, 0, 0, 0, time.UTC)

func layer(kind config.Kind, name string, values parameter.Values) config.Layer {
	return config.Layer{Scope: config.Scope{Kind: kind, Name: name}, Version: 1, Values: values}
}

// The nearer layer wins, and each value says where it comes from.
func TestResolve(t *testing.T) {
	s := config.Stack{
		GroupTemplate:  layer(config.OfTemplate, "winter", parameter.Values{"log_level": "debug", "night_mode": "full", "compression": "none", "flush_interval": int64(1)}),
		Group:          layer(config.OfGroup, "north", parameter.Values{"night_mode": "slow", "compression": "fast", "flush_interval": int64(2)}),
		DeviceTemplate: layer(config.OfTemplate, "lte", parameter.Values{"compression": "best", "flush_interval": int64(3)}),
		Device:         layer(config.OfDevice, "roof-1", parameter.Values{"flush_interval": int64(4)}),
	}
	values, from := s.Resolve()
	want := parameter.Values{"log_level": "debug", "night_mode": "slow", "compression": "best", "flush_interval": int64(4)}
	if diff := cmp.Diff(want, values); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string]string{
		"log_level": "template winter, given to group north", "night_mode": "group north",
		"compression": "template lte, given to device roof-1", "flush_interval": "device roof-1",
	} {
		if got := from[name].String(); got != want {
			t.Errorf("%s comes from %s, want %s", name, got, want)
		}
	}
	values, from = config.Stack{}.Resolve()
	if len(values)+len(from) != 0 {
		t.Errorf("of nothing comes %v", values)
	}
}

func TestCheck(t *testing.T) {
	good, problems, err := config.Check(map[string]any{"upload_interval": 60.0, "registers": map[string]any{"inv1": []any{"vac1", "pac"}}})
	want := parameter.Values{"upload_interval": int64(60), "registers": map[string]any{"inv1": []any{"pac", "vac1"}}}
	if diff := cmp.Diff(want, good); diff != "" || problems != nil || err != nil {
		t.Error(diff, problems, err)
	}
	if _, problems, _ := config.Check(map[string]any{"upload_interval": 0.0, "zeal": 1}); len(problems) != 2 || problems[0].Parameter != "upload_interval" {
		t.Error(problems)
	}
	long := map[string]any{}
	for i := range 30 {
		var points []any
		for j := range 100 {
			points = append(points, fmt.Sprintf("point_%03d", j))
		}
		long[fmt.Sprintf("inv%d", i)] = points
	}
	if _, _, err := config.Check(map[string]any{"registers": long}); !errors.Is(err, config.ErrTooLong) {
		t.Errorf("30 inverters of 100 points: %v", err)
	}
}

// What is stored is what comes back.
func TestEncode(t *testing.T) {
	for _, v := range []parameter.Values{
		{},
		{"upload_interval": int64(86400), "compression": "best", "registers": []any{"pac"}},
		{"registers": map[string]any{"inv1": []any{"pac", "vac1"}}},
	} {
		text, err := config.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		back, err := config.Decode(text)
		if diff := cmp.Diff(v, back); diff != "" || err != nil {
			t.Error(diff, err)
		}
	}
	for _, text := range []string{"", "[]", `{"upload_interval":1.5}`, `{"upload_interval":`} {
		if _, err := config.Decode(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestNewAnswer(t *testing.T) {
	var many []string
	for i := range 65 {
		many = append(many, fmt.Sprint(i))
	}
	for name, a := range map[string]struct {
		revision            uint64
		accepted, unchanged []string
		rejected            map[string]config.Part
	}{
		"twice in a list":  {1, []string{"a", "a"}, nil, nil},
		"in two lists":     {1, []string{"a"}, []string{"a"}, nil},
		"and rejected":     {1, []string{"a"}, nil, map[string]config.Part{"a": {}}},
		"too many":         {1, many, nil, nil},
		"no such revision": {config.MaxRevision, nil, nil, nil},
		"the last of 2^64": {1<<64 - 1, nil, nil, nil},
	} {
		if _, err := config.NewAnswer(a.revision, a.accepted, a.unchanged, a.rejected); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	a, err := config.NewAnswer(3, []string{"night_mode", "log_level"}, []string{"compression"}, map[string]config.Part{"zeal": {Code: "unknown_parameter", Text: "no"}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := a.Outcome.Line(), "accepted: log_level, night_mode; unchanged: compression; rejected: zeal (unknown_parameter)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := (config.Outcome{}).Line(); got != "nothing to answer for" {
		t.Error(got)
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		answered, desired uint64
		sent              bool
		want              config.Verdict
	}{
		{0, 0, false, config.Settled},
		{0, 3, false, config.Lost},
		{3, 3, true, config.Settled},
		{3, 3, false, config.Ahead},
		{2, 3, true, config.Late},
		{2, 3, false, config.Late},
		{4, 3, false, config.Ahead},
		{1, 0, false, config.Ahead},
	} {
		if got := config.Judge(config.Answer{Revision: c.answered}, c.desired, c.sent); got != c.want {
			t.Errorf("%d where %d is desired, sent: %v: %d, want %d", c.answered, c.desired, c.sent, got, c.want)
		}
	}
}

func answer(revision uint64, outcome config.Outcome) config.Answer {
	return config.Answer{Revision: revision, Outcome: outcome}
}

// What a device says by its answers to have in force, step by step.
func TestReport(t *testing.T) {
	yes, same := config.Part{Result: config.Accepted}, config.Part{Result: config.Unchanged}
	no := config.Part{Result: config.Rejected, Code: "unknown_point", Text: "no such point"}
	undone := config.Part{Result: config.Rejected, Code: "infeasible", Text: "undone: the cloud could not be reached"}
	first := parameter.Values{"upload_interval": int64(60), "log_level": "warn"}
	second := parameter.Values{"upload_interval": int64(30)}
	var r config.Report
	for i, step := range []struct {
		answer config.Answer
		values parameter.Values // of the revision
		want   parameter.Values
	}{
		{answer(1, config.Outcome{"upload_interval": yes, "log_level": same}), first, first},
		{answer(2, config.Outcome{"upload_interval": yes, "log_level": yes}), second, parameter.Values{"upload_interval": int64(30)}},
		{answer(1, config.Outcome{"upload_interval": yes, "log_level": same}), first, parameter.Values{"upload_interval": int64(30)}},
		{answer(2, config.Outcome{"upload_interval": undone, "log_level": yes}), second, parameter.Values{"upload_interval": int64(60)}},
		{answer(2, config.Outcome{"upload_interval": undone, "log_level": yes}), second, parameter.Values{"upload_interval": int64(60)}},
		{answer(3, config.Outcome{"upload_interval": no}), second, parameter.Values{"upload_interval": int64(60)}},
		{answer(4, config.Outcome{"upload_interval": yes}), second, parameter.Values{"upload_interval": int64(30)}},
		// Found impossible after a start, for another reason than that it did not work.
		{answer(4, config.Outcome{"upload_interval": no}), second, parameter.Values{}},
		{answer(0, config.Outcome{}), nil, nil},
		{answer(4, config.Outcome{"upload_interval": yes}), second, parameter.Values{"upload_interval": int64(30)}},
	} {
		r = r.After(step.answer, step.values, noon)
		if diff := cmp.Diff(step.want, r.Values); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", i, diff)
		}
	}
	if r.Slot() != 30*time.Second || (config.Report{}).Slot() != 0 {
		t.Errorf("slot %v", r.Slot())
	}
}

// gateway is a device of the simplest kind: it takes what is good, refuses what it
// has no use for, and answers for everything that is set or was.
type gateway struct {
	revision uint64
	set      parameter.Values
	refuses  map[string]bool
}

func (g *gateway) take(revision uint64, values parameter.Values) config.Answer {
	g.revision = revision
	outcome, set := config.Outcome{}, parameter.Values{}
	all := maps.Clone(values)
	maps.Copy(all, g.set)
	for name := range all {
		v, wanted := values[name]
		former, had := g.set[name]
		switch {
		case !wanted:
			outcome[name] = config.Part{Result: config.Accepted}
		case g.refuses[name]:
			outcome[name] = config.Part{Result: config.Rejected, Code: "not_permitted"}
			if had {
				set[name] = former
			}
		case had && parameter.Equal(former, v):
			outcome[name], set[name] = config.Part{Result: config.Unchanged}, v
		default:
			outcome[name], set[name] = config.Part{Result: config.Accepted}, v
		}
	}
	g.set = set
	return answer(revision, outcome)
}

// Whatever is set, and whatever the device refuses: once its answers are in, the
// report is what the device has, and what has drifted is what it refused.
func TestReportIsWhatTheDeviceHas(t *testing.T) {
	values := rapid.Custom(func(t *rapid.T) parameter.Values {
		v := parameter.Values{}
		for _, name := range []string{"sampling_interval", "upload_interval", "flush_interval"} {
			if rapid.Bool().Draw(t, "set "+name) {
				v[name] = rapid.Int64Range(1, 3).Draw(t, name)
			}
		}
		return v
	})
	rapid.Check(t, func(t *rapid.T) {
		g := gateway{refuses: map[string]bool{}}
		var r config.Report
		var desired parameter.Values
		for revision := uint64(1); revision <= rapid.Uint64Range(1, 8).Draw(t, "revisions"); revision++ {
			desired = values.Draw(t, "values")
			for _, name := range []string{"sampling_interval", "upload_interval"} {
				g.refuses[name] = rapid.Bool().Draw(t, "refuses "+name)
			}
			a := g.take(revision, desired)
			for range rapid.IntRange(1, 3).Draw(t, "copies") {
				r = r.After(a, desired, noon)
			}
			if diff := cmp.Diff(g.set, r.Values); diff != "" {
				t.Fatalf("revision %d (-device +report):\n%s", revision, diff)
			}
			drift := config.Device{Desired: config.Revision{Number: revision, Values: desired}, Report: r}.Drift()
			for _, name := range drift {
				if !g.refuses[name] {
					t.Fatalf("%s has drifted, and was not refused", name)
				}
			}
			for name, v := range desired {
				if !slices.Contains(drift, name) && !parameter.Equal(v, g.set[name]) {
					t.Fatalf("%s is not what is desired, and has not drifted", name)
				}
			}
		}
	})
}

// What the gateway keeps for itself is in force while it is desired, and no drift when
// it is not any more: the device, which never took it from here, does not speak of it.
func TestReportOfWhatTheGatewayKeeps(t *testing.T) {
	answer := func(revision uint64, accepted, unchanged []string) config.Answer {
		t.Helper()
		a, err := config.NewAnswer(revision, accepted, unchanged, nil)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	r := config.Report{}.After(answer(1, nil, []string{"log_level"}), parameter.Values{"log_level": "info"}, noon)
	if diff := cmp.Diff(parameter.Values{"log_level": "info"}, r.Values); diff != "" {
		t.Error(diff)
	}
	desired := parameter.Values{"night_mode": "full"}
	r = r.After(answer(2, []string{"night_mode"}, nil), desired, noon)
	if drift := config.Differ(desired, r.Values); len(drift) > 0 {
		t.Errorf("drifted: %v", drift)
	}
}
