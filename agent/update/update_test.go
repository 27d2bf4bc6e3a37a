package update_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/agent/update"
	"ecowatt/boot"
	"ecowatt/firmware"
	"ecowatt/firmware/delta"
	"ecowatt/internal/disk"
)

// small is a gateway with an offer of a release that takes one chunk.
func small(t *testing.T) (*gateway, *release) {
	t.Helper()
	base := noise(1, 20_000)
	r := build(t, 7, slices.Concat(base[:9_000], []byte("another"), base[9_000:]), base)
	return newGateway(t, base, rootOf(t, 1, 2), serve(r)), r
}

// large is a gateway with an offer of a release of 20 chunks, the last of them small.
func large(t *testing.T) (*gateway, *release) {
	t.Helper()
	r := build(t, 7, noise(2, 19*firmware.SegmentSize), nil)
	return newGateway(t, noise(1, 20_000), rootOf(t, 1, 2), serve(r)), r
}

func (g *gateway) wantTold(want ...string) {
	g.t.Helper()
	if diff := cmp.Diff(want, g.told()); diff != "" {
		g.t.Errorf("told (-want +got):\n%s\n%s", diff, g.log.String())
	}
}

// trial starts what the record names, which has to be on trial.
func (g *gateway) trial() *update.Updater {
	g.t.Helper()
	if _, err := g.launch(boot.Ending{}); err != nil {
		g.t.Fatal(err)
	}
	u := g.agent()
	if !u.OnTrial() {
		g.t.Fatalf("%+v is not on trial", u.Running())
	}
	return u
}

// reserveFile takes the path of a file away, so that it cannot be written.
func reserveFile(t *testing.T, fsys disk.FS, name string) {
	t.Helper()
	if err := fsys.MkdirAll(name+"/x", 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestUpdate(t *testing.T) {
	g, r := small(t)
	u := g.agent()
	if !g.slot(u, r.offer(t), 0) {
		t.Fatal(g.log.String())
	}
	g.wantTold("offered", "downloading 0/1", "downloaded", "verified", "switching")
	u = g.trial()
	if diff := cmp.Diff(update.Running{Release: 7, State: boot.Trial}, u.Running()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"inv1"}, u.Expected()); diff != "" {
		t.Error(diff)
	}
	good := update.Health{Reached: true}
	if v := u.Prove(time.Minute, good); v != update.Undecided {
		t.Errorf("after a moment: %v", v)
	}
	if v := u.Prove(6*time.Minute, good); v != update.Proven {
		t.Errorf("after 5 minutes: %v", v)
	}
	g.wantTold("offered", "downloading 0/1", "downloaded", "verified", "switching", "trial", "confirmed")
	if diff := cmp.Diff(update.Running{Release: 7, State: boot.Confirmed, MinSecurity: 1}, u.Running()); diff != "" {
		t.Error(diff)
	}
	if u.OnTrial() || u.Prove(time.Hour, good) != update.Undecided || g.slot(u, r.offer(t), 0) {
		t.Error("it does not stay")
	}
	record, err := boot.ReadRecord(g.fs)
	want := r.manifest
	image := &boot.Image{SHA256: hash(r.image), Size: int64(len(r.image)), Release: 7, Security: 1, Version: want.Version, Manifest: fmt.Sprintf("%x", r.offer(t).Manifest)}
	if diff := cmp.Diff(image, record.B); err != nil || diff != "" || record.MinSecurity != 1 {
		t.Errorf("%v\n%s", err, diff)
	}
	// The slot that is free now takes the next one.
	next := build(t, 8, noise(5, 3000), nil)
	g.server.files = serve(next).files
	if !g.slot(u, next.offer(t), 0) || !bytes.Equal(g.running(), next.image) {
		t.Errorf("the next one: %q\n%s", g.told(), g.log.String())
	}
}

// Power is lost after every chunk; none but the last 16 are fetched again.
//
// Attacks: F10
func TestResume(t *testing.T) {
	g, r := large(t)
	o := r.offer(t)
	u := g.agent()
	for n := 1; n <= 18; n++ {
		g.server.meddle = func(from, n uint64, file []byte) (uint64, []byte, error) {
			if len(file) == len(r.packed[0].Table) {
				return from, file, nil
			}
			return from, file[from:min(from+n, r.packed[0].Payload.ChunkOffset(18))], nil
		}
		g.slot(u, o, 0)
		u = g.agent()
	}
	if got := g.told(); got[len(got)-1] != "downloading unreachable 18/20" {
		t.Errorf("told %q", got)
	}
	g.server.meddle, g.server.sent = nil, 0
	if !g.slot(u, o, 0) || !bytes.Equal(g.running(), r.image) {
		t.Fatalf("told %q", g.told())
	}
	if most := 2 * (firmware.SegmentSize + 16); g.server.sent > most {
		t.Errorf("%d bytes were fetched for the last two chunks, at most %d", g.server.sent, most)
	}
}

// Attacks: F11
func TestManifestChanges(t *testing.T) {
	g, r := large(t)
	o := r.offer(t)
	u := g.agent()
	g.slot(u, o, 6*firmware.SegmentSize)
	first := build(t, 7, r.image, nil)
	first.manifest.Version = "the same, signed anew"
	next := build(t, 8, noise(3, 40_000), nil)
	maps.Copy(g.server.files, serve(first, next).files)
	for name, another := range map[string]*release{"the same image": first, "another image": next} {
		g.slot(u, another.offer(t), firmware.SegmentSize)
		info, err := g.fs.Stat("firmware/payload")
		if err == nil && info.Size() > firmware.SegmentSize {
			t.Errorf("%s: %d bytes of the one before are kept", name, info.Size())
		}
	}
	u = g.agent()
	if !g.slot(u, next.offer(t), 0) || !bytes.Equal(g.running(), next.image) {
		t.Errorf("told %q\n%s", g.told(), g.log.String())
	}
}

// What the server sends in place of what it was asked for costs a bounded number of
// requests and bytes, and the rest of the agent nothing.
//
// Attacks: F12
func TestServersThatMisbehave(t *testing.T) {
	type answer = func(from, n uint64, file []byte) (uint64, []byte, error)
	for name, x := range map[string]struct {
		meddle answer
		budget uint64
		ends   string // the last that is told
		update bool
	}{
		"the whole file": {meddle: func(_, _ uint64, file []byte) (uint64, []byte, error) { return 0, file, nil }, update: true, ends: "switching"},
		"the whole file, beyond the budget": {
			meddle: func(_, _ uint64, file []byte) (uint64, []byte, error) { return 0, file, nil }, budget: 33_500, ends: "downloading unreachable 2/20",
		},
		"416":            {meddle: func(uint64, uint64, []byte) (uint64, []byte, error) { return 0, nil, errors.New("status 416") }, ends: "downloading unreachable 0/20"},
		"another range":  {meddle: func(from, _ uint64, file []byte) (uint64, []byte, error) { return from + 1, file[from+1:], nil }, ends: "downloading unreachable 0/20"},
		"nothing":        {meddle: func(from, _ uint64, _ []byte) (uint64, []byte, error) { return from, nil, nil }, ends: "downloading unreachable 0/20"},
		"a byte too few": {meddle: func(from, n uint64, file []byte) (uint64, []byte, error) { return from, file[from : from+n-1], nil }, ends: "downloading unreachable 0/20"},
		"without end": {meddle: func(from, _ uint64, file []byte) (uint64, []byte, error) {
			return from, append(bytes.Clone(file[from:]), make([]byte, 1<<20)...), nil
		}, update: true, ends: "switching"},
		"another table": {meddle: func(from, n uint64, _ []byte) (uint64, []byte, error) { return from, make([]byte, n), nil }, ends: "downloading FW_BAD_CHUNK 0/20"},
	} {
		t.Run(name, func(t *testing.T) {
			g, r := large(t)
			g.server.meddle = x.meddle
			u := g.agent()
			if name == "the whole file, beyond the budget" {
				g.server.meddle = nil
				g.slot(u, r.offer(t), x.budget)
				g.server.meddle = x.meddle
			}
			g.server.ranges, g.server.sent = nil, 0
			if got := g.slot(u, r.offer(t), x.budget); got != x.update {
				t.Errorf("handed over: %v", got)
			}
			if told := g.told(); told[len(told)-1] != x.ends {
				t.Errorf("told %q", told)
			}
			if n := len(g.server.ranges); n > 3 {
				t.Errorf("%d requests in one slot: %q", n, g.server.ranges)
			}
			if most := len(r.packed[0].Artifact) + len(r.packed[0].Table); g.server.sent > most {
				t.Errorf("%d bytes were read, there are %d", g.server.sent, most)
			}
		})
	}
}

// A chunk that is bad three times ends the update for the slot, and is never
// written; the next slot goes on.
//
// Attacks: F7, F8
func TestBadChunk(t *testing.T) {
	g, r := large(t)
	p := r.packed[0].Payload
	bad := 0
	g.server.meddle = func(from, n uint64, file []byte) (uint64, []byte, error) {
		body := bytes.Clone(file[from : from+n])
		if at := p.ChunkOffset(5) + 99; len(file) == int(p.Size) && at >= from && at < from+n {
			bad++
			body[at-from] ^= 1
		}
		return from, body, nil
	}
	u := g.agent()
	g.slot(u, r.offer(t), 0)
	if bad != 3 {
		t.Errorf("it was fetched %d times", bad)
	}
	g.wantTold("offered", "downloading 0/20", "downloading FW_BAD_CHUNK 5/20")
	if info, err := g.fs.Stat("firmware/payload"); err != nil || info.Size() != 5*firmware.SegmentSize {
		t.Errorf("%v, %v", info, err)
	}
	if u.Work(t.Context()); bad != 3 {
		t.Errorf("the slot goes on: %d", bad)
	}
	g.server.meddle = nil
	if !g.slot(u, r.offer(t), 0) {
		t.Errorf("told %q", g.told())
	}
}

// Attacks: F14
func TestDeltasThatMakeTrouble(t *testing.T) {
	bomb := func(t *testing.T, r *release) {
		t.Helper()
		frame, err := delta.Full(make([]byte, 4<<20))
		if err != nil {
			t.Fatal(err)
		}
		rest := r.packed[1:]
		p := r.packed[0].Payload
		r.packed, r.manifest.Payloads = nil, nil
		r.pack(t, firmware.Source{Kind: firmware.KindPatch, Plain: frame, Base: p.Base, BaseSize: p.BaseSize, Window: delta.FullWindow})
		for _, x := range rest {
			r.packed, r.manifest.Payloads = append(r.packed, x), append(r.manifest.Payloads, x.Payload)
		}
	}
	for name, x := range map[string]struct {
		edit func(*testing.T, *gateway, *release)
		told []string
	}{
		"another base": {func(t *testing.T, _ *gateway, r *release) {
			t.Helper()
			r.manifest.Payloads[0].Base = bytes.Repeat([]byte{1}, 32)
		}, []string{"offered", "downloading 0/2", "downloaded", "verified", "switching"}},
		"another base size": {func(t *testing.T, _ *gateway, r *release) {
			t.Helper()
			r.manifest.Payloads[0].BaseSize++
		}, []string{"offered", "downloading 0/2", "downloaded", "verified", "switching"}},
		"another image comes of it": {func(t *testing.T, g *gateway, r *release) {
			t.Helper()
			frame, err := delta.Diff(g.base, noise(9, len(r.image)))
			if err != nil {
				t.Fatal(err)
			}
			full, p := r.packed[1], r.packed[0].Payload
			r.packed, r.manifest.Payloads = nil, nil
			r.pack(t, firmware.Source{Kind: firmware.KindDiff, Plain: frame, Base: p.Base, BaseSize: p.BaseSize, Window: delta.DiffWindow})
			r.packed, r.manifest.Payloads = append(r.packed, full), append(r.manifest.Payloads, full.Payload)
		}, []string{"offered", "downloading 0/2", "downloaded", "downloading image_hash 0/2", "downloaded", "verified", "switching"}},
		"a bomb": {
			func(t *testing.T, _ *gateway, r *release) { t.Helper(); bomb(t, r) },
			[]string{"offered", "downloading 0/1", "downloaded", "downloading image_hash 0/2", "downloaded", "verified", "switching"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			g, r := small(t)
			x.edit(t, g, r)
			g.server.files = serve(r).files
			u := g.agent()
			if !g.slot(u, r.offer(t), 0) || !bytes.Equal(g.running(), r.image) {
				t.Error(g.log.String())
			}
			g.wantTold(x.told...)
		})
	}
}

// The slot in force is read before a delta to it is fetched.
func TestBaseIsRead(t *testing.T) {
	g, r := small(t)
	u := g.agent()
	damaged := bytes.Clone(g.base)
	damaged[7]++
	if err := disk.WriteFile(g.fs, boot.A.Program(), damaged, 0o700); err != nil {
		t.Fatal(err)
	}
	g.slot(u, r.offer(t), 0)
	g.wantTold("offered", "downloading 0/2", "downloaded", "verified", "switching")
	if !strings.Contains(g.log.String(), "FW_BASE_MISMATCH") {
		t.Error(g.log.String())
	}
}

// A patch is read with the whole base in memory, where there is room for that.
func TestPatchPayload(t *testing.T) {
	g, r := small(t)
	frame, window, err := delta.Patch(g.base, r.image)
	if err != nil {
		t.Fatal(err)
	}
	p := r.packed[0].Payload
	r.packed, r.manifest.Payloads = nil, nil
	r.pack(t, firmware.Source{Kind: firmware.KindPatch, Plain: frame, Base: p.Base, BaseSize: p.BaseSize, Window: window})
	r.manifest.Payloads = append(r.manifest.Payloads, build(t, 7, r.image, nil).packed[0].Payload)
	g.server.files = serve(r).files
	if u := g.agent(); !g.slot(u, r.offer(t), 0) || !bytes.Equal(g.running(), r.image) {
		t.Errorf("told %q\n%s", g.told(), g.log.String())
	}
}

// A full image that is not what was signed fails, and is given up after two tries.
func TestFullImageThatIsAnother(t *testing.T) {
	g, r := small(t)
	other := build(t, 7, noise(8, len(r.image)), nil)
	r.packed, r.manifest.Payloads = other.packed, other.manifest.Payloads
	g.server.files = serve(r).files
	u := g.agent()
	for range 4 {
		g.slot(u, r.offer(t), 0)
	}
	g.wantTold("offered", "downloading 0/2", "downloaded", "failed image_hash", "downloading 0/2", "downloaded", "failed image_hash", "refused failed_twice")
	if _, err := g.fs.Stat(boot.B.Program()); err == nil {
		t.Error("there is something in the other slot")
	}
}

// flaky is a disk that gives back another byte of one file.
type flaky struct {
	disk.FS
	name string
}

func (f flaky) Open(name string) (disk.File, error) {
	file, err := f.FS.Open(name)
	if err == nil && name == f.name {
		file = flakyFile{file}
	}
	return file, err
}

type flakyFile struct{ disk.File }

func (f flakyFile) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	if n > 0 {
		p[0] ^= 1
	}
	return n, err
}

// Attacks: F15
func TestReadBack(t *testing.T) {
	g, r := small(t)
	u := g.agent()
	_ = u
	good := g.fs
	g.fs = flaky{good, "slots/b/ecowatt-agent.new"}
	u = g.agent()
	if g.slot(u, r.offer(t), 0) {
		t.Error("it was put on trial")
	}
	g.wantTold("offered", "downloading 0/1", "downloaded", "downloading image_hash 0/2", "downloaded", "failed image_hash")
	if _, err := good.Stat(boot.B.Program()); err == nil {
		t.Error("it is in the slot")
	}
	g.fs = good
	if record, err := boot.ReadRecord(g.fs); err != nil || record.Active != boot.A || record.State != boot.Confirmed {
		t.Errorf("%+v, %v", record, err)
	}
}

// Attacks: F17
func TestNoContact(t *testing.T) {
	g, r := small(t)
	g.silent = true
	u := g.agent()
	for range 2 {
		if g.slot(u, r.offer(t), 0) {
			t.Fatal("it was started")
		}
	}
	g.wantTold("offered", "offered no_contact")
	g.silent = false
	// It falls silent while the image is fetched: it waits in its slot.
	g.server.meddle = func(from, n uint64, file []byte) (uint64, []byte, error) {
		g.silent = true
		return from, file[from : from+n], nil
	}
	if g.slot(u, r.offer(t), 0) {
		t.Fatal("it was started")
	}
	g.wantTold("offered", "offered no_contact", "downloading 0/1", "downloaded", "verified", "verified no_contact")
	g.silent = false
	if !g.slot(u, r.offer(t), 0) {
		t.Error(g.log.String())
	}
}

func TestWindow(t *testing.T) {
	g, r := large(t)
	g.shut = true
	u := g.agent()
	g.slot(u, r.offer(t), 0)
	g.shut = false
	g.server.meddle = func(from, n uint64, file []byte) (uint64, []byte, error) {
		g.shut = len(file) > len(r.packed[0].Table)
		return from, file[from : from+n], nil
	}
	g.slot(u, r.offer(t), 0)
	g.wantTold("offered", "offered outside_window", "downloading 0/20", "downloading 16/20", "downloading outside_window 16/20")
	g.shut, g.server.meddle = false, nil
	if !g.slot(u, r.offer(t), 0) {
		t.Error(g.log.String())
	}
}

// A budget bounds what a slot fetches, except that each brings one chunk.
func TestBudget(t *testing.T) {
	for _, budget := range []int{1, 16_400, 16_400*3 + 1000, 1 << 20} {
		g, r := large(t)
		u := g.agent()
		slots := 0
		for ; slots < 100; slots++ {
			g.server.sent = 0
			done := g.slot(u, r.offer(t), uint64(budget))
			if most := max(budget, 16_400) + len(r.packed[0].Table); g.server.sent > most {
				t.Errorf("budget %d: %d bytes in a slot", budget, g.server.sent)
			}
			if done {
				break
			}
			u.Deliver(nil, false, 0) // the cloud says nothing of it, and repeats it
			u.Deliver(r.offer(t), false, 0)
			if before := g.server.sent; u.Work(t.Context()) || g.server.sent > before {
				t.Error("between two slots more was fetched")
			}
		}
		if slots == 100 || !bytes.Equal(g.running(), r.image) {
			t.Errorf("budget %d: told %q", budget, g.told())
		}
	}
}

// Attacks: F18
func TestFailsAgainAndAgain(t *testing.T) {
	g, r := small(t)
	o := r.offer(t)
	trials := 0
	for range 10 {
		record, err := g.launch(boot.Ending{Reason: boot.Killed, Words: "out of memory"})
		if err != nil {
			t.Fatal(err)
		}
		u := g.agent()
		if record.State == boot.Trial {
			trials++
			continue // it is killed
		}
		g.slot(u, o, 0)
	}
	if trials != 2*boot.TrialStarts {
		t.Errorf("it was started %d times", trials)
	}
	g.wantTold(
		"offered", "downloading 0/1", "downloaded", "verified", "switching", "trial", "rolled_back killed",
		"verified", "switching", "trial", "rolled_back killed", "refused failed_twice",
	)
	if n := len(g.server.ranges); n != 2 {
		t.Errorf("%d requests: what was in the slot was fetched again", n)
	}
}

// Attacks: F23
func TestManyOffers(t *testing.T) {
	g, r := large(t)
	u := g.agent()
	for range 5 {
		u.Deliver(r.offer(t), true, 0)
		u.Deliver(r.offer(t), false, 0)
	}
	if !u.Work(t.Context()) || u.Work(t.Context()) {
		t.Error("it is not installed once")
	}
	g.wantTold("offered", "downloading 0/20", "downloaded", "verified", "switching")
	if n := len(g.server.ranges); n != 2 {
		t.Errorf("%d requests", n)
	}
	// Nor does one that runs on trial, or another, begin another one.
	u = g.trial()
	another := build(t, 9, noise(6, 2000), nil)
	for _, o := range []*update.Offer{r.offer(t), another.offer(t)} {
		if g.slot(u, o, 0) {
			t.Error("it makes way while it is on trial")
		}
	}
	g.wantTold("offered", "downloading 0/20", "downloaded", "verified", "switching", "trial")
}

// An offer that a slot does not repeat is withdrawn, and goes on when it comes
// again.
func TestWithdrawn(t *testing.T) {
	g, r := large(t)
	u := g.agent()
	g.slot(u, r.offer(t), 20_000)
	u.Deliver(nil, false, 0)
	u.Deliver(nil, true, 0)
	if u.Work(t.Context()) {
		t.Error("it goes on")
	}
	g.server.sent = 0
	if !g.slot(u, r.offer(t), 0) {
		t.Error(g.log.String())
	}
	if most := len(r.packed[0].Artifact) - firmware.SegmentSize; g.server.sent > most {
		t.Errorf("%d bytes were fetched, at most %d are missing", g.server.sent, most)
	}
}

// A state that cannot be read is none; the update begins anew.
func TestDamagedState(t *testing.T) {
	for _, text := range []string{"{", `{"format":2}`} {
		g, r := large(t)
		u := g.agent()
		g.slot(u, r.offer(t), 50_000)
		write(t, g, "firmware/state.json", text)
		u = g.agent()
		if !g.slot(u, r.offer(t), 0) || !bytes.Equal(g.running(), r.image) {
			t.Errorf("%s: told %q", text, g.told())
		}
	}
}

// What cannot be written or told stops the update until the next slot, and nothing
// is put on trial meanwhile.
func TestTroubleWithTheDisk(t *testing.T) {
	for _, name := range []string{
		"firmware/state.json" + disk.Temporary, "firmware/table" + disk.Temporary, "firmware/payload", "slots/b/ecowatt-agent.new", boot.B.Program(), boot.RecordFile + disk.Temporary,
	} {
		t.Run(name, func(t *testing.T) {
			g, r := small(t)
			u := g.agent()
			reserveFile(t, g.fs, name)
			for range 2 {
				if g.slot(u, r.offer(t), 0) {
					t.Fatal("it was put on trial")
				}
			}
			if got := g.log.String(); !strings.Contains(got, "level=ERROR") && !strings.Contains(got, "storage_failed") {
				t.Errorf("it says nothing of it: %s", got)
			}
			if err := errors.Join(g.fs.Remove(name+"/x"), g.fs.Remove(name)); err != nil {
				t.Fatal(err)
			}
			if !g.slot(u, r.offer(t), 0) || !bytes.Equal(g.running(), r.image) {
				t.Errorf("told %q\n%s", g.told(), g.log.String())
			}
		})
	}
}

func TestNothingCanBeTold(t *testing.T) {
	g, r := small(t)
	u := g.agent()
	g.tellErr = errors.New("the buffer is full")
	for range 2 {
		if g.slot(u, r.offer(t), 0) {
			t.Fatal("it was put on trial")
		}
	}
	g.tellErr = nil
	if !g.slot(u, r.offer(t), 0) {
		t.Fatal(g.log.String())
	}
	g.tellErr = errors.New("the buffer is full")
	u = g.trial()
	u.Prove(0, update.Health{Reached: true})
	if v := u.Prove(5*time.Minute, update.Health{Reached: true}); v != update.Proven {
		t.Errorf("it is not confirmed: %v", v)
	}
	g.tellErr = nil
	u.Deliver(nil, true, 0)
	if told := g.told(); told[len(told)-1] != "confirmed" {
		t.Errorf("told %q", told)
	}
}
