package update_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"ecowatt/agent/update"
	"ecowatt/boot"
	"ecowatt/firmware"
	"ecowatt/internal/disk/disktest"
)

// What was fetched once and is gone is made to last again when it is fetched again.
func TestPayloadThatIsGone(t *testing.T) {
	g, r := large(t)
	g.slot(g.agent(), r.offer(t), 5*sealed+uint64(len(r.packed[0].Table)))
	if err := g.fs.Remove("firmware/payload"); err != nil {
		t.Fatal(err)
	}
	g.slot(g.agent(), r.offer(t), 5*sealed)
	g.fs = g.fs.(*disktest.Disk).Restart(disktest.Holed)
	if !g.slot(g.agent(), r.offer(t), 0) {
		t.Errorf("told %q", g.told())
	}
	g.wantTold("offered", "downloading 0/20", "downloading 5/20", "downloading 5/20", "downloaded", "verified", "switching")
}

// crash lets the image on trial crash until it is given up.
func (g *gateway) crash(t *testing.T) {
	t.Helper()
	for range boot.TrialStarts + 1 {
		if _, err := g.launch(boot.Ending{Reason: boot.Exited}); err != nil {
			t.Fatal(err)
		}
		g.agent()
	}
}

// An image that was given up, and waits to be tried once more, was not given up
// once more.
func TestWaitsAfterATry(t *testing.T) {
	g, r := small(t)
	g.slot(g.agent(), r.offer(t), 0)
	g.crash(t)
	u := g.agent()
	g.shut = true
	g.slot(u, r.offer(t), 0)
	g.shut = false
	if !g.slot(u, r.offer(t), 0) {
		t.Error(g.log.String())
	}
	g.wantTold(
		"offered", "downloading 0/1", "downloaded", "verified", "switching", "trial", "rolled_back exited",
		"offered outside_window", "verified", "switching",
	)
}

// So is one whose installation failed.
func TestWaitsAfterAFailure(t *testing.T) {
	g, r := small(t)
	other := build(t, 7, noise(8, len(r.image)), nil)
	r.packed, r.manifest.Payloads = other.packed, other.manifest.Payloads
	g.server.files = serve(r).files
	u := g.agent()
	g.slot(u, r.offer(t), 0)
	g.shut = true
	g.slot(u, r.offer(t), 0)
	g.wantTold("offered", "downloading 0/2", "downloaded", "failed image_hash", "offered outside_window")
}

// A refusal that was no more, and comes again, is told again.
func TestRefusedAgain(t *testing.T) {
	g, r := large(t)
	u := g.agent()
	for range 2 {
		g.free = 1 << 20
		g.slot(u, r.offer(t), 0)
		g.free = 1 << 30
		g.slot(u, r.offer(t), sealed+uint64(len(r.packed[0].Table)))
		u = g.agent()
	}
	g.wantTold("refused no_space", "offered", "downloading 0/20", "downloading 1/20", "refused no_space", "downloading 2/20")
}

// One that was taken back, and is made anew, is refused anew, also after a restart.
func TestRefusedOfANewRollout(t *testing.T) {
	g, r := large(t)
	g.free = 1 << 20
	for range 2 {
		u := g.agent()
		g.slot(u, r.offer(t), 0)
		g.slot(u, r.offer(t), 0)
		g.agent().Deliver(nil, true, 0)
	}
	g.wantTold("refused no_space", "refused no_space")
}

// An image that is confirmed, and later cannot be started any more, is told of, with
// the reason; it is fetched once more.
func TestConfirmedImageIsDamaged(t *testing.T) {
	g, r := small(t)
	g.slot(g.agent(), r.offer(t), 0)
	u := g.trial()
	u.Prove(0, update.Health{Reached: true})
	u.Prove(5*time.Minute, update.Health{Reached: true})
	write(t, g, boot.B.Program(), "damaged")
	record, err := boot.ReadRecord(g.fs)
	if err != nil {
		t.Fatal(err)
	}
	record.MinSecurity = 0 // what was in the workshop is of none
	if err := record.Write(g.fs); err != nil {
		t.Fatal(err)
	}
	if _, err := g.launch(boot.Ending{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		u = g.agent()
	}
	g.wantTold("offered", "downloading 0/1", "downloaded", "verified", "switching", "trial", "confirmed", "rolled_back damaged")
	if !g.slot(u, r.offer(t), 0) || !bytes.Equal(g.running(), r.image) {
		t.Errorf("told %q\n%s", g.told(), g.log.String())
	}
}

// A chunk of a delta, or its table, that is bad whenever it is fetched is no reason
// to go without the release.
//
// Attacks: F14
func TestDeltaThatStaysBad(t *testing.T) {
	for name, bad := range map[string]func(r *release) []byte{
		"a chunk":   func(r *release) []byte { return r.packed[0].Artifact },
		"the table": func(r *release) []byte { return r.packed[0].Table },
	} {
		t.Run(name, func(t *testing.T) {
			g, r := small(t)
			g.server.meddle = func(from, n uint64, file []byte) (uint64, []byte, error) {
				body := bytes.Clone(file[from : from+n])
				if bytes.Equal(file, bad(r)) {
					body[0] ^= 1
				}
				return from, body, nil
			}
			if !g.slot(g.agent(), r.offer(t), 0) || !bytes.Equal(g.running(), r.image) {
				t.Error(g.log.String())
			}
			g.wantTold("offered", "downloading 0/1", "downloading FW_BAD_CHUNK 0/2", "downloaded", "verified", "switching")
		})
	}
}

// The room that an image has in its slot does not count when it is another image
// that lies there, of whatever size.
func TestRoomOfADamagedSlot(t *testing.T) {
	g, r := small(t)
	g.slot(g.agent(), r.offer(t), 0)
	g.crash(t)
	write(t, g, boot.B.Program(), string(bytes.Repeat([]byte{1}, len(r.image))))
	g.free = 1<<20 + 20_000
	u := g.agent()
	if g.slot(u, r.offer(t), 0) {
		t.Error("it was put on trial")
	}
	told := g.told()
	if told[len(told)-1] != "refused no_space" {
		t.Errorf("told %q", told)
	}
}

// A disk that is full stops an update, and it goes on when there is room again;
// what was fetched is not fetched again.
func TestFullDisk(t *testing.T) {
	for _, room := range []int64{10_000, 3 * firmware.SegmentSize, 18 * firmware.SegmentSize, 25 * firmware.SegmentSize, 36 * firmware.SegmentSize} {
		g, r := large(t)
		d := g.fs.(*disktest.Disk)
		d.SetCapacity(20_000 + room) // whatever the disk says of its room
		u := g.agent()
		if g.slot(u, r.offer(t), 0) {
			t.Fatalf("%d bytes: it was put on trial", room)
		}
		if record, err := boot.ReadRecord(g.fs); err != nil || record.Active != boot.A {
			t.Errorf("%d bytes: %+v, %v", room, record, err)
		}
		d.SetCapacity(0)
		if slices.Contains(g.told(), "refused no_space") || !g.slot(u, r.offer(t), 0) || !bytes.Equal(g.running(), r.image) {
			t.Errorf("%d bytes: told %q\n%s", room, g.told(), g.log.String())
		}
		if most := 21 + update.Durable; g.server.sent > most*sealed {
			t.Errorf("%d bytes: %d bytes were fetched", room, g.server.sent)
		}
	}
}
