package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt"
	"ecowatt/cloud/audit"
	"ecowatt/cloud/config"
	"ecowatt/cloud/registry"
	"ecowatt/parameter"
)

var (
	north  = config.Scope{Kind: config.OfGroup, Name: "north"}
	winter = config.Scope{Kind: config.OfTemplate, Name: "winter"}
)

func ofDevice(name string) config.Scope { return config.Scope{Kind: config.OfDevice, Name: name} }

func set(tb testing.TB, s *Store, c config.Change) []ecowatt.DeviceID {
	tb.Helper()
	c.By, c.At = "ada", noon
	_, woken, err := s.SetConfig(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	return woken
}

func configOf(tb testing.TB, s *Store, name string) config.Device {
	tb.Helper()
	d, err := s.DeviceConfig(tb.Context(), ecowatt.DeviceID(name))
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// A change for many devices goes on where it was when the store is closed in the
// middle of it, and reaches each of them once.
func TestConfigSpreads(t *testing.T) {
	path := t.TempDir() + "/ecowatt.db"
	s, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	const fleet = 3*spreadSize + 10
	for i := range fleet {
		add(t, s, fmt.Sprintf("roof-%03d", i)) // in group north
	}
	told := map[ecowatt.DeviceID]int{}
	count := func(woken []ecowatt.DeviceID) {
		for _, id := range woken {
			told[id]++
		}
	}
	count(set(t, s, config.Change{Scope: north, Values: parameter.Values{"log_level": "warn"}}))
	if len(told) != spreadSize {
		t.Errorf("%d devices at once, want %d", len(told), spreadSize)
	}
	for more := true; more; {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(t.Context(), path, Options{}); err != nil {
			t.Fatal(err)
		}
		var woken []ecowatt.DeviceID
		if woken, more, err = s.SpreadConfig(t.Context()); err != nil || len(woken) > spreadSize {
			t.Fatal(len(woken), err)
		}
		count(woken)
	}
	defer s.Close()
	if len(told) != fleet {
		t.Errorf("it has reached %d devices of %d", len(told), fleet)
	}
	for id, n := range told {
		if d := configOf(t, s, string(id)); n != 1 || d.Desired.Number != 1 || !d.Pending || d.Desired.Values["log_level"] != "warn" {
			t.Fatalf("%s, told %d times: %+v", id, n, d)
		}
	}
	// Where it changes nothing there is no revision, and nobody is told.
	if woken := set(t, s, config.Change{Scope: ofDevice("roof-000"), Values: parameter.Values{"log_level": "warn"}}); len(woken) != 0 {
		t.Errorf("told: %v", woken)
	}
	if d := configOf(t, s, "roof-000"); d.Desired.Number != 1 || d.From["log_level"].Kind != config.OfDevice {
		t.Errorf("%+v", d)
	}
}

// What cannot be set changes nothing.
func TestConfigRefused(t *testing.T) {
	s := open(t)
	add(t, s, "roof")
	one, none := int64(1), "none"
	set(t, s, config.Change{Scope: winter, Values: parameter.Values{}})
	before := number(t, s, `SELECT count(*) FROM audit`)
	for name, x := range map[string]struct {
		change config.Change
		want   func(error) bool
	}{
		"another version": {config.Change{Scope: ofDevice("roof"), If: &one}, func(err error) bool {
			conflict, ok := errors.AsType[*config.ConflictError](err)
			return ok && conflict.Now.Version == 0 && conflict.Now.Name == "roof"
		}},
		"no template": {config.Change{Scope: ofDevice("roof"), Template: &none}, func(err error) bool { return errors.Is(err, config.ErrNoTemplate) }},
		"no device":   {config.Change{Scope: ofDevice("barn")}, func(err error) bool { return errors.Is(err, registry.ErrNotFound) }},
	} {
		x.change.By, x.change.At = "ada", noon
		if _, _, err := s.SetConfig(t.Context(), x.change); !x.want(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := number(t, s, `SELECT count(*) FROM audit`); n != before || number(t, s, `SELECT count(*) FROM config_layer`) != 1 {
		t.Error("something was changed")
	}
	for _, err := range []error{
		func() error { _, err := s.DeviceConfig(t.Context(), "barn"); return err }(),
		func() error { _, err := s.ConfigLog(t.Context(), "barn", 0, 1); return err }(),
		func() error { _, err := s.ConfigLayer(t.Context(), ofDevice("barn")); return err }(),
	} {
		if !errors.Is(err, registry.ErrNotFound) {
			t.Error(err)
		}
	}
}

// Whatever people set, in whichever layer, and whenever devices are moved: what is
// desired of each device is what its layers say, and its revision has grown by one
// exactly when that has changed.
func TestConfigIsWhatTheLayersSay(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, err := Open(t.Context(), t.TempDir()+"/ecowatt.db", Options{})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		names := []string{"roof-1", "roof-2"}
		for _, name := range names {
			add(t, s, name)
		}
		set(t, s, config.Change{Scope: winter, Values: parameter.Values{}})
		given := func() *string {
			return rapid.SampledFrom([]*string{nil, new(""), new("winter")}).Draw(rt, "template")
		}
		before := map[string]config.Device{}
		for range rapid.IntRange(1, 12).Draw(rt, "changes") {
			scope := rapid.SampledFrom([]config.Scope{winter, north, ofDevice("roof-1"), ofDevice("roof-2")}).Draw(rt, "layer")
			if rapid.IntRange(0, 4).Draw(rt, "move") == 0 {
				group := rapid.SampledFrom([]string{"", "north"}).Draw(rt, "group")
				if err := s.UpdateDevice(t.Context(), ecowatt.DeviceID(rapid.SampledFrom(names).Draw(rt, "device")), registry.Change{Group: &group}, audit.Actor{Name: "ada", Kind: audit.Operator}, noon); err != nil {
					rt.Fatal(err)
				}
			} else {
				c := config.Change{Scope: scope, Values: parameter.Values{}}
				for _, name := range []string{"log_level", "night_mode"} {
					spec, _ := parameter.Find(name)
					if rapid.Bool().Draw(rt, "set "+name) {
						c.Values[name] = rapid.SampledFrom(spec.Words).Draw(rt, name)
					}
				}
				if scope.Kind != config.OfTemplate {
					c.Template = given()
				}
				set(t, s, c)
			}
			for _, name := range names {
				d := configOf(t, s, name)
				checkDesired(rt, s, before[name], d)
				before[name] = d
			}
		}
	})
}

func checkDesired(t *rapid.T, s *Store, before, d config.Device) {
	var want parameter.Values
	err := s.look(t.Context(), func(c *connection) error {
		stack, err := c.stack(d.ID, d.Group)
		want, _ = stack.Resolve()
		return err
	})
	if diff := cmp.Diff(want, d.Desired.Values); diff != "" || err != nil {
		t.Fatalf("%s (-layers +desired): %v\n%s", d.ID, err, diff)
	}
	grown := uint64(0)
	if len(config.Differ(before.Desired.Values, d.Desired.Values)) > 0 {
		grown = 1
	}
	if d.Desired.Number != before.Desired.Number+grown || d.Pending != (d.Desired.Number > 0) {
		t.Fatalf("%s: revision %d after %d, pending %v", d.ID, d.Desired.Number, before.Desired.Number, d.Pending)
	}
}

// Every query over what grows with the fleet finds its rows by an index.
func TestConfigPlans(t *testing.T) {
	s := open(t)
	none := make([]any, 8)
	for query, args := range map[string]int{
		selectMembers + membersOfGroup + pageOfMembers: 3,
		selectLayer: 2, selectDesired: 1, selectReport: 1, selectRevision: 2, selectUpdate: 1, selectRevisions: 3, selectGiven: 2,
		dueOfGroup: 1, dueOfTemplate: 1, dueOfTemplateIn: 1,
	} {
		if got := plan(t, s, query, none[:args]...); strings.Contains(got, "SCAN") || strings.Contains(got, "TEMP B-TREE") {
			t.Errorf("%s:\n%s", query, got)
		}
	}
	// Of a template the devices are sorted, those that it concerns and no other; to
	// count them by their state they are, too.
	for _, query := range []string{countMembers + membersOfGroup + byState, countMembers + membersOfTemplate + byState, selectMembers + membersOfTemplate + pageOfMembers} {
		args := none[:1]
		if strings.Contains(query, "$3") {
			args = none[:3]
		}
		if got := plan(t, s, query, args...); strings.Contains(got, "SCAN") {
			t.Errorf("%s:\n%s", query, got)
		}
	}
	counts := plan(t, s, selectConfigCounts)
	if !strings.Contains(counts, "USING INDEX device_cfg_pending") || !strings.Contains(counts, "USING INDEX device_cfg_drift") {
		t.Errorf("the counts read more than what they count:\n%s", counts)
	}
}

// How far the devices of a group or of a template are: each once, in one state.
func TestConfigProgress(t *testing.T) {
	s := open(t)
	rows := map[string]int64{}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		rows[name] = add(t, s, name) // in group north
	}
	south := "south"
	update := func(name string, c registry.Change) {
		t.Helper()
		if err := s.UpdateDevice(t.Context(), ecowatt.DeviceID(name), c, audit.Actor{Kind: audit.Operator, Name: "ada"}, noon); err != nil {
			t.Fatal(err)
		}
	}
	yes := true
	update("c", registry.Change{Disabled: &yes})
	update("e", registry.Change{Group: &south})
	quiet := "quiet"
	set(t, s, config.Change{Scope: config.Scope{Kind: config.OfTemplate, Name: quiet}, Values: parameter.Values{"log_level": "warn"}})
	set(t, s, config.Change{Scope: north, Template: &quiet})
	for _, name := range []string{"d", "e"} { // d has it twice
		set(t, s, config.Change{Scope: ofDevice(name), Template: &quiet})
	}
	answer := func(name string, accepted []string, rejected map[string]config.Part) {
		t.Helper()
		do(t, s, func(tx *Tx) error {
			if err := tx.ConfigSent(rows[name], 1, noon); err != nil {
				return err
			}
			a, err := config.NewAnswer(1, accepted, nil, rejected)
			if err == nil {
				_, err = tx.SettleConfig(rows[name], a, noon)
			}
			return err
		})
	}
	answer("a", []string{"log_level"}, nil)
	answer("b", nil, map[string]config.Part{"log_level": {Code: "not_permitted", Text: "no"}})
	progress := func(scope config.Scope, after ecowatt.DeviceID, most int) (states []string, counts map[config.State]int) {
		t.Helper()
		p, err := s.ConfigProgress(t.Context(), scope, after, most)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range p.Members {
			states = append(states, fmt.Sprintf("%s %s %d %v %s", m.ID, m.State, m.Revision, m.AnsweredAt.IsZero(), m.Outcome.Line()))
		}
		return states, p.Counts
	}
	const silent = " 1 true nothing to answer for"
	states, counts := progress(north, "", 10)
	want := []string{"a in_force 1 false accepted: log_level", "b drifted 1 false rejected: log_level (not_permitted)", "c disabled" + silent, "d pending" + silent}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[config.State]int{config.InForce: 1, config.Drifted: 1, config.Disabled: 1, config.Pending: 1}, counts); diff != "" {
		t.Error(diff)
	}
	states, counts = progress(config.Scope{Kind: config.OfTemplate, Name: quiet}, "b", 2)
	if diff := cmp.Diff(want[2:], states); diff != "" || counts[config.Pending] != 2 {
		t.Errorf("%v%s", counts, diff)
	}
	// What is desired of a device is still to be worked out: it has not got it yet.
	do(t, s, func(tx *Tx) error { return tx.markDue(north, cause{text: "group north", at: noon}) })
	if _, counts = progress(north, "", 1); counts[config.Pending] != 3 || counts[config.Disabled] != 1 {
		t.Error(counts)
	}
	if states, counts = progress(config.Scope{Kind: config.OfGroup, Name: "nobody"}, "", 1); len(states)+len(counts) != 0 {
		t.Error(states, counts)
	}
	if _, err := s.ConfigProgress(t.Context(), winter, "", 1); !errors.Is(err, config.ErrNoTemplate) {
		t.Error(err)
	}
}
