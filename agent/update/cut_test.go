package update_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"ecowatt/agent/update"
	"ecowatt/boot"
	"ecowatt/internal/disk"
	"ecowatt/internal/disk/disktest"
)

// conduct is how the new image does.
type conduct int

const (
	well      conduct = iota
	crashing          // ends at once
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
	case unhealthy:
		return "rolled_back unhealthy", false
	}
	return "", false
}

// live runs launcher and agents until the story has come to its end, or power is
// cut. The cloud offers the release with each slot, until it was told of the end.
func (g *gateway) live(o *update.Offer, next []byte, c conduct) error {
	want, _ := c.end()
	var last boot.Ending
	for range 40 {
		if told := g.told(); len(told) > 0 && told[len(told)-1] == want {
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
		if bytes.Equal(g.running(), next) && c == crashing && u.OnTrial() {
			last = boot.Ending{Reason: boot.Exited}
		} else if u.OnTrial() {
			g.prove(u, c)
		} else if told := g.told(); len(told) == 0 || told[len(told)-1] != want {
			g.slot(u, o, g.budget)
		}
		if _, err := g.fs.Stat("."); err != nil {
			return err // power is cut
		}
	}
	g.t.Fatalf("no end: %q\n%s", g.told(), g.log.String())
	return nil
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

// Power is cut at every operation on the disk, from the offer to the end. There is
// always a complete image to start, one of the two; the device ends as it would
// have without the cut, and tells it.
//
// Attacks: F10
func TestPowerCuts(t *testing.T) {
	base := noise(1, 20_000)
	near := slices.Concat(base[:9_000], []byte("another"), base[9_000:])
	root := rootOf(t, 1, 2)
	far := noise(2, 3*16<<10+2000)
	for name, story := range map[string]struct {
		next    []byte
		delta   bool
		conduct conduct
	}{
		"the whole image in slots, confirmed": {far, false, well},
		"a delta, confirmed":                  {near, true, well},
		"it crashes":                          {near, true, crashing},
		"it is unhealthy":                     {near, true, unhealthy},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from := base
			if !story.delta {
				from = nil
			}
			r := build(t, 7, story.next, from)
			o := r.offer(t)
			cuts := 0
			var s *server
			work := func(fsys disk.FS) error {
				s = serve(r)
				g := newGateway(t, base, root, s)
				g.fs, g.budget = fsys, 2*sealed
				if err := install(fsys, base); err != nil {
					return err
				}
				return g.live(o, story.next, story.conduct)
			}
			disktest.Sweep(t, work, func(t *testing.T, fsys disk.FS, cut disktest.Cut) {
				cuts++
				g := newGateway(t, base, root, s)
				g.fs, g.budget = fsys, 2*sealed
				if _, err := fsys.Stat(boot.A.Program()); err != nil {
					return // it was cut in the workshop
				}
				if _, err := g.launch(boot.Ending{}); err != nil {
					t.Fatalf("nothing can be started: %v", err)
				}
				if got := g.running(); !bytes.Equal(got, base) && !bytes.Equal(got, story.next) {
					t.Fatalf("an image of %d bytes that is neither", len(got))
				}
				if err := g.live(o, story.next, story.conduct); err != nil {
					t.Fatal(err)
				}
				want, updated := story.conduct.end()
				if told := g.told(); told[len(told)-1] != want || bytes.Equal(g.running(), story.next) != updated {
					t.Errorf("told %q, updated %v", told, bytes.Equal(g.running(), story.next))
				}
				twice := 0
				for _, n := range s.chunks {
					twice += n - 1
				}
				if twice > 2 { // of one slot
					t.Errorf("%d chunks were fetched again", twice)
				}
				for _, file := range []string{"slots/a/ecowatt-agent.new", "slots/b/ecowatt-agent.new", "firmware/payload", "firmware/table"} {
					if _, err := fsys.Stat(file); err == nil {
						t.Errorf("%s is left", file)
					}
				}
				if strings.Contains(g.log.String(), "refused") {
					t.Error(g.log.String())
				}
			})
			t.Logf("%d cuts", cuts)
		})
	}
}

// However long a slot is, a power cut costs the last 16 chunks at most.
//
// Attacks: F10
func TestChunksAreNotFetchedAgain(t *testing.T) {
	base, root := noise(1, 2000), rootOf(t, 1, 2)
	r := build(t, 7, noise(2, 39*16<<10), nil)
	o := r.offer(t)
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
