package update_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ecowatt/agent/update"
	"ecowatt/boot"
	"ecowatt/firmware"
	"ecowatt/firmware/delta"
	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
)

// conduct is how the new image does.
type conduct int

const (
	well      conduct = iota
	crashing          // ends at once
	hanging           // gives no heartbeat
	unhealthy         // its self-test fails
)

// end is how the story is to end: the last that is told, and whether the new image
// runs then.
func (c conduct) end() (told string, updated bool) {
	switch c {
	case well:
		return "confirmed", true
	case crashing:
		return "rolled_back exited", false
	case hanging:
		return "rolled_back hung", false
	case unhealthy:
		return "rolled_back unhealthy", false
	}
	return "", false
}

// story is an update from the first offer to the end.
type story struct {
	first   *update.Offer // is offered in the first slot
	offer   *update.Offer // is offered from then on
	release *release      // of offer
	server  func() *server
	root    []byte // that came with the enrolment
	conduct conduct
}

// live runs launcher and agents until the story has come to its end, or power is
// cut. The cloud offers the release with each slot, until it was told of the end.
func (g *gateway) live(o *update.Offer, next []byte, c conduct) error {
	want, _ := c.end()
	var last boot.Ending
	for range 40 {
		if g.lastTold() == want {
			return nil
		}
		if _, err := g.launch(last); err != nil {
			return err
		}
		u := g.agent()
		last = boot.Ending{}
		if _, err := g.fs.Stat("."); err != nil {
			return err // power is cut
		}
		switch onTrial := u.OnTrial() && bytes.Equal(g.running(), next); {
		case onTrial && c == crashing:
			last = boot.Ending{Reason: boot.Exited}
		case onTrial && c == hanging:
			if err := g.giveUp(boot.Ending{Reason: boot.Hung}); err != nil {
				return err
			}
		case onTrial:
			g.prove(u, c)
		case g.lastTold() != want:
			g.slot(u, o, g.budget)
		}
		if _, err := g.fs.Stat("."); err != nil {
			return err // power is cut
		}
	}
	g.t.Fatalf("no end: %q\n%s", g.told(), g.log.String())
	return nil
}

func (g *gateway) lastTold() string {
	told := g.told()
	if len(told) == 0 {
		return ""
	}
	return told[len(told)-1]
}

// giveUp goes back, as the launcher does from an image that hangs.
func (g *gateway) giveUp(why boot.Ending) error {
	now, err := boot.ReadRecord(g.fs)
	if err != nil {
		return err
	}
	return now.Back(g.look(now), why).Write(g.fs)
}

func (g *gateway) prove(u *update.Updater, c conduct) {
	h := update.Health{Reached: true}
	if c == unhealthy {
		h.Problem = "inv1 does not answer"
	}
	for range 15 {
		if u.Prove(g.now, h) != update.Undecided {
			return
		}
		if g.now += 5 * time.Minute; c == well {
			g.now += time.Second
		}
	}
}

// stories are the updates whose power is cut.
func stories(t *testing.T, base []byte) map[string]story {
	t.Helper()
	whole := build(t, 7, noise(2, 3*16<<10+2000), nil)
	small := build(t, 7, slices.Concat(base[:900], []byte("another"), base[900:]), base)
	wrong := build(t, 7, small.image, base) // its delta makes another image
	frame, err := delta.Diff(base, noise(9, len(small.image)))
	if err != nil {
		t.Fatal(err)
	}
	p := wrong.packed[0].Payload
	full := wrong.packed[1]
	wrong.packed, wrong.manifest.Payloads = nil, nil
	wrong.pack(t, firmware.Source{Kind: firmware.KindDiff, Plain: frame, Base: p.Base, BaseSize: p.BaseSize, Window: delta.DiffWindow})
	wrong.packed, wrong.manifest.Payloads = append(wrong.packed, full), append(wrong.manifest.Payloads, full.Payload)
	later := build(t, 8, noise(3, 2*16<<10+2000), nil)
	e, err := later.manifest.Unsigned()
	if err != nil {
		t.Fatal(err)
	}
	laterOffer := later.offer(t)
	laterOffer.Envelope = signed(t, e, firmware.StatementManifest, 3)
	laterOffer.Roots = [][]byte{rootOf(t, 2, 3)} // which takes key 2 away
	root := rootOf(t, 1, 2)
	of := func(r *release, c conduct) story {
		return story{first: r.offer(t), offer: r.offer(t), release: r, server: func() *server { return serve(r) }, root: root, conduct: c}
	}
	return map[string]story{
		"the whole image in slots":       of(whole, well),
		"a delta":                        of(small, well),
		"a delta that gives way":         of(wrong, well),
		"another release, by a new root": {first: whole.offer(t), offer: laterOffer, release: later, server: func() *server { return serve(whole, later) }, root: root},
		"it crashes":                     of(small, crashing),
		"it hangs":                       of(small, hanging),
		"it is unhealthy":                of(small, unhealthy),
	}
}

// gateway is one without a disk.
func (s story) gateway(t *testing.T, base []byte) *gateway {
	t.Helper()
	return &gateway{t: t, base: base, root: s.root, server: s.server(), seconds: 1_800_000_000, free: 1 << 30, budget: 2 * sealed}
}

// begin runs the story on an empty disk.
func (s story) begin(g *gateway, fsys disk.FS) error {
	g.fs = fsys
	if err := install(fsys, g.base); err != nil {
		return err
	}
	if _, err := g.launch(boot.Ending{}); err != nil {
		return err
	}
	g.slot(g.agent(), s.first, g.budget)
	return g.live(s.offer, s.release.image, s.conduct)
}

// cutAgain runs the story on after a cut, up to another one, and returns what that
// leaves.
func (s story) cutAgain(g *gateway, d *disktest.Disk, by *rand.Rand) *disktest.Disk {
	d.CutAt(1+by.IntN(40), disktest.When(by.IntN(3)))
	g.fs = d
	_, err := g.launch(boot.Ending{})
	if err == nil {
		err = g.live(s.offer, s.release.image, s.conduct)
	}
	if err != nil && !errors.Is(err, disktest.ErrPowerCut) {
		g.t.Fatal(err)
	}
	g.log.Reset()
	return d.Restart(disktest.Fate(by.IntN(4)))
}

// goOn runs the story on to its end after so many cuts.
func (s story) goOn(g *gateway, cuts int) {
	t := g.t
	if _, err := g.launch(boot.Ending{}); err != nil {
		t.Fatalf("nothing can be started: %v", err)
	}
	if got := g.running(); !bytes.Equal(got, g.base) && !bytes.Equal(got, s.release.image) {
		t.Fatalf("an image of %d bytes that is neither", len(got))
	}
	if err := g.live(s.offer, s.release.image, s.conduct); err != nil {
		t.Fatal(err)
	}
	want, updated := s.conduct.end()
	if got := g.lastTold(); got != want || bytes.Equal(g.running(), s.release.image) != updated {
		t.Errorf("told %q, updated %v", g.told(), bytes.Equal(g.running(), s.release.image))
	}
	twice := 0
	for _, n := range g.server.chunks {
		twice += n - 1
	}
	if twice > 2*cuts { // those of one slot
		t.Errorf("%d chunks were fetched again; told %q", twice, g.told())
	}
	for _, file := range []string{"slots/a/ecowatt-agent.new", "slots/b/ecowatt-agent.new", "firmware/payload", "firmware/table"} {
		if _, err := g.fs.Stat(file); err == nil {
			t.Errorf("%s is left", file)
		}
	}
	if strings.Contains(g.log.String(), "refused") {
		t.Error(g.log.String())
	}
}

// Power is cut before, inside and after every operation on the disk, from the offer
// to the end; what was not synced is lost, kept, torn or full of holes. There is
// always a complete image to start, one of the two; the device ends as it would
// have without the cut, and tells it; also when power is cut once more on the way.
// What follows of a disk that was there before is known, and not run again.
//
// Attacks: F10
func TestPowerCuts(t *testing.T) {
	base := noise(1, 2_000)
	var cuts, disks atomic.Int64
	t.Run("stories", func(t *testing.T) {
		for name, s := range stories(t, base) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				g, whole := s.gateway(t, base), disktest.New()
				if err := s.begin(g, whole); err != nil {
					t.Fatal(err)
				}
				seen := map[string]bool{}
				for cut := range allCuts(whole.Ops()) {
					g, d := s.gateway(t, base), disktest.New()
					d.CutAt(cut.Op, cut.When)
					if err := s.begin(g, d); err != nil && !errors.Is(err, disktest.ErrPowerCut) {
						t.Fatalf("%v: %v", cut, err)
					}
					for _, cut.Fate = range []disktest.Fate{disktest.Lost, disktest.Kept, disktest.Torn, disktest.Holed} {
						after := d.Restart(cut.Fate)
						if _, err := after.Stat(boot.A.Program()); err != nil {
							continue // it was cut in the workshop
						}
						cuts.Add(1)
						key := picture(t, after) + fmt.Sprint(g.server.chunks)
						if seen[key] {
							continue
						}
						seen[key] = true
						disks.Add(1)
						ok := t.Run(cut.String(), func(t *testing.T) {
							once, twice := s.gateway(t, base), s.gateway(t, base)
							once.fs, once.server.chunks = after, maps.Clone(g.server.chunks)
							s.goOn(once, 1)
							twice.server.chunks = maps.Clone(g.server.chunks)
							by := rand.New(rand.NewPCG(uint64(cut.Op), uint64(cut.When)<<8|uint64(cut.Fate)))
							twice.fs = s.cutAgain(twice, d.Restart(cut.Fate), by)
							s.goOn(twice, 2)
						})
						if !ok {
							return // the first cut that does harm says enough
						}
					}
				}
			})
		}
	})
	t.Logf("%d cuts, which leave %d different disks", cuts.Load(), disks.Load())
	if cuts.Load() < 5000 {
		t.Errorf("%d cuts; there were thousands", cuts.Load())
	}
}

// allCuts are the cuts of so many operations; their fate is not decided.
func allCuts(ops int) iter.Seq[disktest.Cut] {
	return func(yield func(disktest.Cut) bool) {
		for op := 1; op <= ops; op++ {
			for _, when := range []disktest.When{disktest.Before, disktest.Inside, disktest.After} {
				if !yield(disktest.Cut{Op: op, When: when}) {
					return
				}
			}
		}
	}
}

// picture is all that is on a disk.
func picture(t *testing.T, fsys disk.FS) string {
	t.Helper()
	h := sha256.New()
	var look func(name string)
	look = func(name string) {
		names, err := fsys.List(name)
		if err != nil { // a file
			data, err := disk.ReadFile(fsys, name, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(h, "%s %d\n%s", name, len(data), data)
			return
		}
		fmt.Fprintf(h, "%s/\n", name) // of modes, all have those that they are made with
		for _, n := range names {
			look(path.Join(name, n))
		}
	}
	look(".")
	return string(h.Sum(nil))
}

// However long a slot is, a power cut costs the last 16 chunks at most.
//
// Attacks: F10
func TestChunksAreNotFetchedAgain(t *testing.T) {
	base, root := noise(1, 2000), rootOf(t, 1, 2)
	r := build(t, 7, noise(2, 39*16<<10), nil)
	o := r.offer(t)
	seen := map[string]bool{}
	for op := 1; ; op++ {
		s := serve(r)
		g := newGateway(t, base, root, s)
		d := disktest.New()
		d.CutAt(op, disktest.After)
		if g.fs = d; install(d, base) == nil && g.live(o, r.image, well) == nil {
			return // the last operation is behind
		}
		if g.fs = d.Restart(disktest.Lost); g.look(boot.Initial())(boot.A) != boot.Good {
			continue // it was cut in the workshop
		}
		key := picture(t, g.fs) + fmt.Sprint(s.chunks)
		if seen[key] {
			continue
		}
		seen[key] = true
		if err := g.live(o, r.image, well); err != nil {
			t.Fatal(err)
		}
		twice := 0
		for _, n := range s.chunks {
			twice += n - 1
		}
		if twice > update.Durable {
			t.Errorf("operation %d: %d chunks were fetched again", op, twice)
		}
	}
}
