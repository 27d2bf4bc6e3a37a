package update_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/agent/update"
	"ecowatt/boot"
	"ecowatt/internal/disk"
)

// The rules of a trial.
func TestTrial(t *testing.T) {
	type at struct {
		min int
		update.Health
	}
	ok, far, sick := update.Health{Reached: true}, update.Health{}, update.Health{Reached: true, Problem: "inv1 does not answer"}
	for name, x := range map[string]struct {
		steps []at
		want  update.Verdict
	}{
		"good":                   {[]at{{0, ok}, {5, ok}}, update.Proven},
		"not long enough":        {[]at{{0, ok}, {4, ok}}, update.Undecided},
		"reached late":           {[]at{{0, far}, {4, ok}, {8, ok}}, update.Undecided},
		"never reached":          {[]at{{0, far}, {59, far}}, update.Undecided},
		"a problem on the way":   {[]at{{0, ok}, {3, sick}, {4, ok}, {8, ok}}, update.Undecided},
		"and well again":         {[]at{{0, ok}, {3, sick}, {4, ok}, {9, ok}}, update.Proven},
		"a problem that stays":   {[]at{{0, sick}, {54, sick}}, update.Undecided},
		"for all of its time":    {[]at{{0, sick}, {55, sick}}, update.GivenUp},
		"a problem, unreachable": {[]at{{0, update.Health{Problem: "x"}}, {55, update.Health{Problem: "x"}}}, update.GivenUp},
	} {
		t.Run(name, func(t *testing.T) {
			g, r := small(t)
			u := g.agent()
			g.slot(u, r.offer(t), 0)
			u = g.trial()
			got := update.Undecided
			for _, s := range x.steps {
				got = u.Prove(time.Duration(s.min+7)*time.Minute, s.Health)
			}
			if got != x.want {
				t.Errorf("got %v, want %v", got, x.want)
			}
			record, err := boot.ReadRecord(g.fs)
			if err != nil {
				t.Fatal(err)
			}
			want := map[update.Verdict]boot.State{update.Undecided: boot.Trial, update.Proven: boot.Confirmed, update.GivenUp: boot.RolledBack}[x.want]
			if record.State != want || want == boot.RolledBack && (record.Failures[0].Reason != boot.Unhealthy || record.Failures[0].Words == "") {
				t.Errorf("the record is %+v", record)
			}
		})
	}
}

// Without a good image to go back to, one that is not well goes on.
func TestNothingToGoBackTo(t *testing.T) {
	for name, spoil := range map[string]func(*gateway) error{
		"it is gone":    func(g *gateway) error { return g.fs.Remove(boot.A.Program()) },
		"it is damaged": func(g *gateway) error { return disk.WriteFile(g.fs, boot.A.Program(), []byte("x"), 0o700) },
		"it may not run": func(g *gateway) error {
			record, err := boot.ReadRecord(g.fs)
			record.MinSecurity = 9
			return errors.Join(err, record.Write(g.fs))
		},
	} {
		g, r := small(t)
		u := g.agent()
		g.slot(u, r.offer(t), 0)
		if err := spoil(g); err != nil {
			t.Fatal(err)
		}
		u = g.agent()
		for _, now := range []time.Duration{0, time.Hour} {
			if v := u.Prove(now, update.Health{Problem: "x"}); v != update.Undecided {
				t.Errorf("%s: %v", name, v)
			}
		}
	}
}

// At its first start an agent writes down what it is, so that the launcher verifies
// it from then on.
func TestAdoption(t *testing.T) {
	base := noise(1, 500)
	image := &boot.Image{SHA256: hash(base), Size: 500, Version: "0"}
	plain := boot.Initial()
	adopted := plain
	adopted.A = image
	other := plain
	other.Active = boot.B
	for name, x := range map[string]struct {
		edit func(*testing.T, *gateway)
		want boot.Record
	}{
		"no record":      {func(*testing.T, *gateway) {}, adopted},
		"by hand":        {func(_ *testing.T, g *gateway) { g.byHand = true }, plain},
		"damaged record": {func(t *testing.T, g *gateway) { t.Helper(); write(t, g, boot.RecordFile, "{") }, adopted},
		"another program": {func(t *testing.T, g *gateway) {
			t.Helper()
			record := boot.Initial()
			record.A = &boot.Image{SHA256: hash([]byte("x")), Size: 1}
			if err := record.Write(g.fs); err != nil {
				t.Fatal(err)
			}
		}, boot.Record{Format: 1, Active: boot.A, State: boot.Confirmed, A: &boot.Image{SHA256: hash([]byte("x")), Size: 1}}},
		"nobody's program": {func(t *testing.T, g *gateway) {
			t.Helper()
			if err := other.Write(g.fs); err != nil {
				t.Fatal(err)
			}
		}, other},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, base, nil, serve())
			x.edit(t, g)
			g.agent()
			got, err := boot.ReadRecord(g.fs)
			if diff := cmp.Diff(x.want, got); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

func write(t *testing.T, g *gateway, name, text string) {
	t.Helper()
	if err := disk.WriteFile(g.fs, name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
