package update_test

import (
	"slices"
	"testing"

	"ecowatt/agent/update"
	"ecowatt/boot"
	"ecowatt/firmware"
	"ecowatt/internal/disk"
)

// Each check has a code of its own, and is made before anything is fetched or
// written; it is told once, whatever comes how often.
func TestRefusals(t *testing.T) {
	for name, x := range refusals() {
		t.Run(name, func(t *testing.T) {
			g, r := small(t)
			if x.edit != nil {
				x.edit(&r.manifest)
			}
			if x.gate != nil {
				x.gate(g)
			}
			o := r.offer(t)
			if x.make != nil {
				x.make(t, r, o)
			}
			for range 2 {
				u := g.agent()
				for range 2 {
					if g.slot(u, o, 0) {
						t.Fatal("it was taken")
					}
				}
			}
			g.wantTold("refused " + x.want)
			if len(g.server.ranges) > 0 {
				t.Errorf("fetched %q", g.server.ranges)
			}
			if _, err := g.fs.Stat(boot.B.Program()); err == nil {
				t.Error("there is something in the other slot")
			}
		})
	}
}

// refused is an offer that is refused.
type refused struct {
	edit func(*firmware.Manifest)
	gate func(*gateway)
	make func(*testing.T, *release, *update.Offer) // it is otherwise than the release is offered
	want string
}

func refusals() map[string]refused {
	return map[string]refused{
		"no launcher":         {gate: func(g *gateway) { g.byHand = true }, want: "no_launcher"},
		"no root":             {gate: func(g *gateway) { g.root = nil }, want: "no_root"},
		"a root that is none": {gate: func(g *gateway) { g.root = []byte("root") }, want: "no_root"},
		"a root that skips one": {make: func(t *testing.T, _ *release, o *update.Offer) {
			t.Helper()
			o.Roots = [][]byte{rootOf(t, 3, 2)}
		}, want: "root"},
		"a root that makes no sense": {make: func(t *testing.T, _ *release, o *update.Offer) {
			t.Helper()
			o.Roots = [][]byte{{0xff}}
		}, want: "format"},
		"a root that removes the key": {make: func(t *testing.T, _ *release, o *update.Offer) {
			t.Helper()
			o.Roots = [][]byte{rootOf(t, 2, 3)}
		}, want: "FW_BAD_SIGNATURE"},
		"another key": {make: func(t *testing.T, r *release, o *update.Offer) {
			t.Helper()
			e, err := r.manifest.Unsigned()
			if err != nil {
				t.Fatal(err)
			}
			o.Envelope = signed(t, e, firmware.StatementManifest, 1)
		}, want: "FW_BAD_SIGNATURE"},
		"no envelope": {make: func(t *testing.T, _ *release, o *update.Offer) {
			t.Helper()
			o.Envelope = o.Envelope[1:]
		}, want: "format"},
		"another manifest": {make: func(t *testing.T, _ *release, o *update.Offer) {
			t.Helper()
			o.Manifest[0]++
		}, want: "format"},
		"another product":       {edit: func(m *firmware.Manifest) { m.Product[0]++ }, want: "FW_WRONG_HARDWARE"},
		"other hardware":        {edit: func(m *firmware.Manifest) { m.Hardware = []string{"rev-b"} }, want: "FW_WRONG_HARDWARE"},
		"older":                 {edit: func(m *firmware.Manifest) { m.Release = 3 }, gate: confirmed(5, 1), want: "FW_DOWNGRADE"},
		"less secure":           {gate: confirmed(5, 2), want: "FW_DOWNGRADE"},
		"a step too far":        {edit: func(m *firmware.Manifest) { m.MinFrom = 6 }, gate: confirmed(5, 1), want: "step"},
		"a later root":          {edit: func(m *firmware.Manifest) { m.MinRoot = 2 }, want: "root_missing"},
		"another protocol":      {edit: func(m *firmware.Manifest) { m.MinProtocol = 2 }, want: "protocol"},
		"expired":               {edit: func(m *firmware.Manifest) { m.Expires = 1_799_999_999 }, want: "expired"},
		"no room":               {gate: func(g *gateway) { g.free = 1<<20 + 20_000 }, want: "no_space"},
		"no room to make it of": {gate: func(g *gateway) { g.free = 1<<20 + 20_008 }, want: "no_space"},
		"more memory than there is": {edit: func(m *firmware.Manifest) {
			for i := range m.Payloads {
				m.Payloads[i].Window = 11 << 20
			}
		}, want: "no_space"},
		"another content key": {make: func(t *testing.T, _ *release, o *update.Offer) {
			t.Helper()
			o.Content = content(t, 2)
		}, want: "content_key"},
		"failed twice": {gate: func(g *gateway) {
			record := boot.Initial()
			record.Failures = []boot.Failure{{SHA256: hash(slices.Concat(g.base[:9_000], []byte("another"), g.base[9_000:])), Times: 2}}
			if err := record.Write(g.fs); err != nil {
				g.t.Fatal(err)
			}
		}, want: "failed_twice"},
	}
}

// confirmed is a gateway on which a release runs that is confirmed.
func confirmed(number, security uint64) func(*gateway) {
	return func(g *gateway) {
		record := boot.Initial()
		record.A = &boot.Image{SHA256: hash(g.base), Size: int64(len(g.base)), Release: number, Security: security}
		if err := record.Confirm().Write(g.fs); err != nil {
			g.t.Fatal(err)
		}
	}
}

func TestSignedDowngrade(t *testing.T) {
	g, r := small(t)
	r.manifest.Release = 3
	confirmed(5, 1)(g)
	d, err := firmware.Downgrade{Product: product(), From: 5, To: 3, Devices: []string{"roof-1"}}.Unsigned()
	if err != nil {
		t.Fatal(err)
	}
	o := r.offer(t)
	o.Downgrades = [][]byte{{1}, signed(t, d, firmware.StatementDowngrade, 1), signed(t, d, firmware.StatementDowngrade, 2)}
	if u := g.agent(); !g.slot(u, o, 0) {
		t.Errorf("told %q", g.told())
	}
}

// A time that is not known lets nothing expire.
func TestExpiryWithoutAClock(t *testing.T) {
	g, r := small(t)
	r.manifest.Expires, g.seconds = 1_799_999_999, 0
	if u := g.agent(); !g.slot(u, r.offer(t), 0) {
		t.Errorf("told %q", g.told())
	}
}

// Later roots are kept: what the first one allowed is refused from then on, also
// when the offer comes without them.
func TestRootsAreKept(t *testing.T) {
	g, r := small(t)
	o := r.offer(t)
	o.Roots = [][]byte{rootOf(t, 1, 2), rootOf(t, 2, 2, 3), rootOf(t, 3, 3)}
	u := g.agent()
	g.slot(u, o, 0)
	u = g.agent()
	g.slot(u, r.offer(t), 0)
	g.wantTold("refused FW_BAD_SIGNATURE")
	// One that is damaged gives way to that of the enrolment.
	if err := disk.WriteFile(g.fs, "firmware/root", []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if u = g.agent(); !g.slot(u, r.offer(t), 0) {
		t.Errorf("told %q", g.told())
	}
}
