package config

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
	"ecowatt/parameter"
)

// roof is a gateway with two inverters. It polls a point in 100 ms, and uploads
// 1000 samples of a point in a slot; a tenth of them take as little when they are
// not packed.
func roof() Gateway {
	own := parameter.Values{}
	for _, s := range parameter.All() {
		own[s.Name] = s.Default
	}
	own[parameter.Registers] = map[string]any{"east": []any{"pac", "vac1"}, "west": []any{"pac"}}
	number := func(v parameter.Values, name string) int64 { n, _ := v[name].(int64); return n }
	points := func(v parameter.Values) (n int64) {
		for _, list := range v[parameter.Registers].(map[string]any) {
			n += int64(len(list.([]any)))
		}
		return n
	}
	return Gateway{
		Own: own,
		Points: func() map[string][]string {
			return map[string][]string{"east": {"pac", "vac1", "iac1"}, "west": {"pac", "temp"}}
		},
		Polls: func(v parameter.Values) error {
			if 300*points(v) > 1000*number(v, parameter.SamplingInterval) {
				return errors.New("the polls take too long")
			}
			return nil
		},
		Uploads: func(v parameter.Values) error {
			n := points(v) * number(v, parameter.UploadInterval) / max(number(v, parameter.SamplingInterval), number(v, parameter.AggregationWindow))
			if v[parameter.Compression] == "none" {
				n *= 10
			}
			if n > 6000 {
				return errors.New("too much for the link")
			}
			return nil
		},
	}
}

type rig struct {
	*Keeper
	t    *testing.T
	disk *disktest.Disk
	log  bytes.Buffer
	g    Gateway
}

func newRig(t *testing.T, g Gateway) *rig {
	t.Helper()
	r := &rig{t: t, disk: disktest.New(), g: g}
	r.restart("boot 1")
	return r
}

func (r *rig) restart(boot string) {
	r.Keeper = Open(Options{FS: r.disk, Gateway: r.g, Boot: boot, Logger: slog.New(slog.NewTextHandler(&r.log, nil))})
}

func (r *rig) take(revision uint64, parameters map[string]any) Answer {
	r.t.Helper()
	before := r.Values()
	answer, changed := r.Take(Update{revision, parameters})
	if changed == parameter.Equal(before, r.Values()) {
		r.t.Errorf("revision %d: changed is %v", revision, changed)
	}
	return answer
}

// say writes an answer as one line.
func say(a Answer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", a.Revision)
	for _, n := range a.Accepted {
		b.WriteString(" +" + n)
	}
	for _, n := range parameterNames(a.Rejected) {
		b.WriteString(" -" + n + "=" + string(a.Rejected[n].Code))
	}
	for _, n := range a.Unchanged {
		b.WriteString(" =" + n)
	}
	return b.String()
}

func parameterNames(m map[string]Refusal) []string {
	v := parameter.Values{}
	for name := range m {
		v[name] = true
	}
	return v.Names()
}

// TestCodes: every parameter with every code that it can meet, and with a value
// that is taken.
func TestCodes(t *testing.T) {
	list := func(names ...any) []any { return names }
	good := map[string]any{
		"sampling_interval": 10, "upload_interval": 60, "registers": list("pac"), "compression": "fast", "payload_cap": 1024,
		"aggregation_window": 60, "flush_interval": 60, "log_level": "debug", "night_mode": "full",
		"update_window": "sun_down", "download_budget": 65536,
	}
	for _, s := range parameter.All() {
		name := s.Name
		bad := map[parameter.Code]map[string]any{
			parameter.WrongType:     {name: true},
			parameter.NotPermitted:  {name: good[name]},
			parameter.StorageFailed: {name: good[name]},
		}
		switch s.Type {
		case parameter.Number:
			bad[parameter.OutOfRange] = map[string]any{name: s.Max + 1}
		case parameter.Word, parameter.Hours:
			bad[parameter.OutOfRange] = map[string]any{name: "any"}
		case parameter.Points:
			bad[parameter.OutOfRange] = map[string]any{name: list()}
			bad[parameter.UnknownPoint] = map[string]any{name: list("pac", "vac1")} // west has none
		}
		for _, code := range s.Codes {
			if code == parameter.Infeasible {
				bad[code] = map[string]any{name: good[name]}
			}
		}
		for code, u := range bad {
			t.Run(name+" "+string(code), func(t *testing.T) {
				g := roof()
				if code == parameter.NotPermitted {
					g.Fixed = []string{name}
				}
				if code == parameter.Infeasible {
					g.Uploads = func(v parameter.Values) error {
						if parameter.Equal(v[name], g.Own[name]) {
							return nil
						}
						return errors.New("it does not work")
					}
				}
				r := newRig(t, g)
				if code == parameter.StorageFailed {
					r.disk.SetCapacity(1)
				}
				before := r.Values()
				a := r.take(7, u)
				if got := a.Rejected[name]; got.Code != code || got.Text == "" || len(a.Accepted) > 0 {
					t.Errorf("%s", say(a))
				}
				if diff := cmp.Diff(before, r.Values()); diff != "" {
					t.Errorf("it changed something:\n%s", diff)
				}
			})
		}
		t.Run(name+" accepted", func(t *testing.T) {
			r := newRig(t, roof())
			if got, want := say(r.take(7, map[string]any{name: good[name]})), "7 +"+name; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			values := r.Values()
			r.restart("boot 1")
			if diff := cmp.Diff(values, r.Values()); diff != "" || !r.FromCloud(name) {
				t.Errorf("after a restart:\n%s", diff)
			}
			if got := say(r.take(8, nil)); got != "8 +"+name || !parameter.Equal(r.Values(), roof().values(nil)) {
				t.Errorf("unset: %s, %v", got, r.Values())
			}
		})
	}
}

func TestTake(t *testing.T) {
	type update = map[string]any
	all := func(p ...any) []any { return p }
	for _, c := range []struct {
		name    string
		updates []update
		want    string // the last answer
		values  parameter.Values
	}{
		{"nothing", []update{{}}, "1", nil},
		{"what is so already", []update{{"sampling_interval": 5}}, "1 =sampling_interval", nil},
		{
			"a partly bad one",
			[]update{{"sampling_interval": 0, "night_mode": "full", "zeal": 1, "log_level": "info"}},
			"1 +night_mode -sampling_interval=out_of_range -zeal=unknown_parameter =log_level",
			parameter.Values{"night_mode": "full"},
		},
		{"what is refused stays as it was", []update{{"flush_interval": 20}, {"flush_interval": 601}}, "2 -flush_interval=out_of_range", parameter.Values{"flush_interval": int64(20)}},
		{"what is no longer set", []update{{"flush_interval": 20, "log_level": "info"}, {}}, "2 +flush_interval =log_level", nil},
		{
			"one inverter of two",
			[]update{{"registers": map[string]any{"west": all("temp")}}},
			"1 +registers",
			parameter.Values{"registers": map[string]any{"east": all("pac", "vac1"), "west": all("temp")}},
		},
		{"a list for all", []update{{"registers": all("pac")}}, "1 +registers", parameter.Values{"registers": map[string]any{"east": all("pac"), "west": all("pac")}}},
		{"an inverter that is not there", []update{{"registers": map[string]any{"north": all("pac")}}}, "1 -registers=unknown_point", nil},
		{
			"feasible together",
			[]update{{"upload_interval": 86400, "aggregation_window": 60}},
			"1 +aggregation_window +upload_interval",
			parameter.Values{"upload_interval": int64(86400), "aggregation_window": int64(60)},
		},
		// Alone, the interval is too much for the link until the window is there.
		{
			"one after the other",
			[]update{{"sampling_interval": 1, "upload_interval": 3600, "aggregation_window": 60, "registers": map[string]any{"east": all("pac", "vac1", "iac1"), "west": all("pac", "temp")}}},
			"1 +aggregation_window +sampling_interval +upload_interval -registers=infeasible",
			parameter.Values{"sampling_interval": int64(1), "upload_interval": int64(3600), "aggregation_window": int64(60)},
		},
		{"infeasible together", []update{{"sampling_interval": 1, "upload_interval": 3600}}, "1 +sampling_interval -upload_interval=infeasible", parameter.Values{"sampling_interval": int64(1)}},
		{
			"infeasible, but the rest is not",
			[]update{{"sampling_interval": 1, "registers": map[string]any{"east": all("pac", "vac1", "iac1")}, "night_mode": "full"}},
			"1 +night_mode +sampling_interval -registers=infeasible",
			parameter.Values{"sampling_interval": int64(1), "night_mode": "full"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, roof())
			var a Answer
			for i, u := range c.updates {
				a = r.take(uint64(1+i), u)
			}
			want := roof().values(nil)
			maps.Copy(want, c.values)
			if got := say(a); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if diff := cmp.Diff(want, r.Values()); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(a, r.Answer()); diff != "" {
				t.Errorf("what is told later:\n%s", diff)
			}
		})
	}
}

func TestTakeAgainAndLate(t *testing.T) {
	r := newRig(t, roof())
	r.take(4, map[string]any{"night_mode": "full"})
	first := r.take(5, map[string]any{"night_mode": "full", "flush_interval": 20, "zeal": 1})
	values := r.Values()
	for range 2 {
		for _, u := range []Update{
			{5, map[string]any{"night_mode": "full", "flush_interval": 20, "zeal": 1}},
			{4, map[string]any{"night_mode": "full"}},
			{3, nil},
			{0, map[string]any{"flush_interval": 1}},
		} {
			a, changed := r.Take(u)
			if diff := cmp.Diff(first, a); diff != "" || changed || !parameter.Equal(values, r.Values()) {
				t.Errorf("revision %d: changed %v\n%s", u.Revision, changed, diff)
			}
		}
		r.restart("boot 2")
	}
	// A cloud that was restored from a backup counts the same revision twice.
	if got := say(r.take(5, map[string]any{"night_mode": "full"})); got != "5 +flush_interval =night_mode" {
		t.Errorf("another revision 5: %s", got)
	}
}

func TestTrial(t *testing.T) {
	minute := time.Minute
	for _, c := range []struct {
		name   string
		update map[string]any
		do     func(r *rig) (undone bool)
		want   string
	}{
		{"reached", map[string]any{"upload_interval": 60}, func(r *rig) bool { r.Reached(); return r.Failed(0) || r.Failed(99*minute) }, "7 +upload_interval"},
		{"failed, but not for long", map[string]any{"upload_interval": 60}, func(r *rig) bool { return r.Failed(5*minute) || r.Failed(15*minute-1) }, "7 +upload_interval"},
		{"failed for 10 minutes", map[string]any{"upload_interval": 60}, func(r *rig) bool { r.Failed(5 * minute); return r.Failed(15 * minute) }, "7 -upload_interval=infeasible"},
		{"failed for less than three slots", map[string]any{"upload_interval": 3000}, func(r *rig) bool { r.Failed(5 * minute); return r.Failed(49 * minute) }, "7 +upload_interval"},
		{"failed for three slots", map[string]any{"upload_interval": 3000}, func(r *rig) bool { r.Failed(5 * minute); return r.Failed(50 * minute) }, "7 -upload_interval=infeasible"},
		{"failed in two starts", map[string]any{"upload_interval": 60}, func(r *rig) bool {
			r.Failed(5 * minute)
			r.restart("boot 1")
			return r.Failed(15 * minute)
		}, "7 -upload_interval=infeasible"},
		{"failed in two boots", map[string]any{"upload_interval": 60}, func(r *rig) bool {
			r.Failed(5 * minute)
			r.Failed(10 * minute)
			r.restart("boot 2")
			return r.Failed(1*minute) || !r.Failed(6*minute-1) && r.Failed(6*minute)
		}, "7 -upload_interval=infeasible"},
		{"reached after a failure", map[string]any{"upload_interval": 60}, func(r *rig) bool {
			r.Failed(5 * minute)
			r.Reached()
			r.restart("boot 1")
			return r.Failed(99 * minute)
		}, "7 +upload_interval"},
		{"nothing that could cut it off", map[string]any{"sampling_interval": 7}, func(r *rig) bool { r.Failed(0); return r.Failed(999 * minute) }, "7 +sampling_interval"},
		{
			"only what could cut it off",
			map[string]any{"sampling_interval": 7, "compression": "fast", "payload_cap": 512, "aggregation_window": 30},
			func(r *rig) bool { r.Failed(0); return r.Failed(45 * minute) }, "7 +sampling_interval -compression=infeasible -payload_cap=infeasible -aggregation_window=infeasible",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, roof())
			before := r.Values()
			r.take(7, c.update)
			after := r.Values()
			undone := c.do(r)
			if got := say(r.Answer()); got != c.want || undone != strings.Contains(c.want, "infeasible") {
				t.Errorf("undone %v, %s; want %s", undone, got, c.want)
			}
			for name := range c.update {
				want := after[name]
				if x, ok := r.Answer().Rejected[name]; ok {
					want = before[name]
					if !strings.HasPrefix(x.Text, "undone: the cloud could not be reached for ") {
						t.Errorf("%s: %s", name, x.Text)
					}
				}
				if !parameter.Equal(want, r.Values()[name]) {
					t.Errorf("%s is %v", name, r.Values()[name])
				}
			}
			answer := r.Answer()
			again, changed := r.Take(Update{7, c.update})
			if diff := cmp.Diff(answer, again); diff != "" || changed {
				t.Errorf("delivered again:\n%s", diff)
			}
			r.restart("boot 3")
			if got := say(r.Answer()); got != c.want {
				t.Errorf("after a restart: %s", got)
			}
		})
	}
}

func TestTrialOfSecondUpdate(t *testing.T) {
	r := newRig(t, roof())
	r.take(1, map[string]any{"upload_interval": 600})
	r.Reached()
	r.take(2, map[string]any{"upload_interval": 60})
	r.take(3, map[string]any{"upload_interval": 60, "payload_cap": 512, "night_mode": "full"}) // 60 is not proven yet
	r.Failed(0)
	if !r.Failed(10 * time.Minute) {
		t.Fatal("it is not undone")
	}
	if got := say(r.Answer()); got != "3 +night_mode -upload_interval=infeasible -payload_cap=infeasible" {
		t.Error(got)
	}
	if v := r.Values(); v["upload_interval"] != int64(600) || v["payload_cap"] != int64(0) || v["night_mode"] != "full" {
		t.Error(v)
	}
	// What the cloud no longer sets can be on trial as well.
	r.take(4, map[string]any{"night_mode": "full"})
	r.Failed(0)
	if !r.Failed(30*time.Minute) || r.Values()["upload_interval"] != int64(600) || say(r.Answer()) != "4 -upload_interval=infeasible =night_mode" {
		t.Errorf("%v %s", r.Values(), say(r.Answer()))
	}
}

func TestTrialOfStarts(t *testing.T) {
	r := newRig(t, roof())
	r.take(1, map[string]any{"upload_interval": 60})
	for range maxStarts {
		r.restart("boot 2")
		if r.Values()["upload_interval"] != int64(60) || !r.OnTrial() {
			t.Fatal("undone too soon")
		}
	}
	r.restart("boot 2")
	if x := r.Answer().Rejected["upload_interval"]; r.Values()["upload_interval"] != int64(900) || !strings.Contains(x.Text, "start again") || r.OnTrial() {
		t.Errorf("%v %v", r.Values(), x)
	}
}

// TestSettingsChange: what the settings file no longer allows is dropped, and told.
func TestSettingsChange(t *testing.T) {
	r := newRig(t, roof())
	r.take(1, map[string]any{"upload_interval": 60, "registers": map[string]any{"west": []any{"temp"}}, "night_mode": "full"})
	r.g.Points = func() map[string][]string { return map[string][]string{"east": {"pac"}} }
	r.g.Own[parameter.Registers] = map[string]any{"east": []any{"pac"}}
	r.g.Fixed = []string{"upload_interval"}
	r.restart("boot 2")
	if got := say(r.Answer()); got != "1 +night_mode -upload_interval=not_permitted -registers=unknown_point" {
		t.Error(got)
	}
	want := r.g.values(parameter.Values{"night_mode": "full"})
	if diff := cmp.Diff(want, r.Values()); diff != "" {
		t.Error(diff)
	}
	if got := say(r.take(2, map[string]any{"upload_interval": 900, "night_mode": "slow"})); got != "2 +night_mode =upload_interval" {
		t.Errorf("a fixed parameter set to what it is: %s", got)
	}
}

func TestDamagedFile(t *testing.T) {
	for _, text := range []string{"", "{", "[]", `{"version":2}`, `{"version":1,"set":3}`, strings.Repeat("x", maxFile+1)} {
		r := &rig{t: t, disk: disktest.New(), g: roof()}
		if err := disk.WriteFile(r.disk, File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r.restart("boot 1")
		if say(r.Answer()) != "0" || !strings.Contains(r.log.String(), codeDamaged) {
			t.Errorf("%.20q: %s, %s", text, say(r.Answer()), r.log.String())
		}
		if got := say(r.take(1, map[string]any{"night_mode": "full"})); got != "1 +night_mode" {
			t.Error(got)
		}
	}
	r := &rig{t: t, disk: disktest.New(), g: roof()}
	if err := disk.WriteFile(r.disk, File, []byte(`{"version":1,"set":{"night_mode":5,"log_level":"warn"},"answer":{"revision":4,"accepted":["night_mode","log_level"]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	r.restart("boot 1")
	if say(r.Answer()) != "4 +log_level -night_mode=wrong_type" || r.Values()["log_level"] != "warn" || r.Values()["night_mode"] != "slow" {
		t.Errorf("%s %v", say(r.Answer()), r.Values())
	}
}

// TestFullDisk: what cannot be written is not in force, and can be had once there
// is room.
// TestLongTexts: what an answer says is bounded, and stays text.
func TestLongTexts(t *testing.T) {
	g := roof()
	g.Polls = func(parameter.Values) error { return errors.New(strings.Repeat("é", 300)) }
	text := newRig(t, g).take(1, map[string]any{"sampling_interval": 3}).Rejected["sampling_interval"].Text
	if len(text) > maxText || len(text) < maxText-4 || !utf8.ValidString(text) || !strings.HasSuffix(text, "é…") {
		t.Errorf("%d bytes: %q", len(text), text)
	}
}

func TestFullDisk(t *testing.T) {
	r := newRig(t, roof())
	r.take(1, map[string]any{"night_mode": "full"})
	r.disk.SetCapacity(1)
	u := map[string]any{"night_mode": "full", "flush_interval": 20, "zeal": 0}
	if got := say(r.take(2, u)); got != "2 -flush_interval=storage_failed -zeal=unknown_parameter =night_mode" {
		t.Error(got)
	}
	if strings.Count(r.log.String(), codeStorage) != 1 {
		t.Error(r.log.String())
	}
	r.disk.SetCapacity(0)
	r.Reached()
	r.restart("boot 1")
	if got := say(r.Answer()); got != "1 +night_mode" {
		t.Errorf("after a restart: %s", got)
	}
	if got := say(r.take(2, u)); got != "2 +flush_interval -zeal=unknown_parameter =night_mode" {
		t.Errorf("once there is room: %s", got)
	}
}

// unsynced is a disk on which files get their names, but the sync of that fails.
type unsynced struct {
	disk.FS
	failing bool
}

var errSync = errors.New("sync: input/output error")

func (d *unsynced) SyncDir(name string) error {
	if d.failing {
		return errSync
	}
	return d.FS.SyncDir(name)
}

// TestUncertainWrite: when a write fails after the new file has its name, it is
// not in force, and the file is set right as soon as the disk works.
func TestUncertainWrite(t *testing.T) {
	d := &unsynced{FS: disktest.New()}
	open := func() *Keeper {
		return Open(Options{FS: d, Gateway: roof(), Boot: "1", Logger: slog.New(slog.DiscardHandler)})
	}
	k := open()
	k.Take(Update{1, map[string]any{"night_mode": "full"}})
	d.failing = true
	a, changed := k.Take(Update{2, map[string]any{"night_mode": "slow"}})
	if got := say(a); got != "2 -night_mode=storage_failed" || changed || k.Values()["night_mode"] != "full" {
		t.Errorf("%s, changed %v", got, changed)
	}
	d.failing = false
	k.Reached()
	if k = open(); say(k.Answer()) != "1 +night_mode" || k.Values()["night_mode"] != "full" {
		t.Errorf("after a restart: %s", say(k.Answer()))
	}
}

// TestStaleFormer: what the settings no longer allow does not come back when a
// change is undone.
func TestStaleFormer(t *testing.T) {
	r := newRig(t, roof())
	r.take(1, map[string]any{"payload_cap": 512})
	r.Reached()
	r.take(2, map[string]any{"payload_cap": 1024})
	r.g.Fixed = []string{"payload_cap"}
	r.restart("boot 2")
	r.Failed(0)
	r.Failed(time.Hour)
	if v := r.Values()["payload_cap"]; v != int64(0) || r.OnTrial() || say(r.Answer()) != "2 -payload_cap=not_permitted" {
		t.Errorf("the payload cap is %v: %s", v, say(r.Answer()))
	}
}
