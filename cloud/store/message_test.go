package store

import (
	"strconv"
	"testing"
	"time"

	"ecowatt/cloud/ingest"
)

// timed is a message with a block that was timed since boot.
func timed(n byte, boot ingest.BootID, mono int64) ingest.Message {
	return ingest.Message{
		ID: [16]byte{n}, Hash: [32]byte{n}, Kind: ingest.KindTelemetry,
		Block: &ingest.Block{
			Inverter: "roof", Points: []string{"pac"}, Count: 2, Span: 1000, Data: []byte{1},
			Boot: &ingest.Instant{Boot: boot, Mono: mono},
		},
	}
}

func TestTakeOnce(t *testing.T) {
	s := open(t)
	x, y := add(t, s, "x"), add(t, s, "y")
	m := timed(1, ingest.BootID{1}, 5)
	other := m
	other.Hash = [32]byte{2}
	for _, c := range []struct {
		name   string
		device int64
		m      ingest.Message
		want   ingest.Status
	}{
		{"the first time", x, m, ingest.Stored},
		{"again", x, m, ingest.Duplicate},
		{"other bytes", x, other, ingest.Conflict},
		{"again after that", x, m, ingest.Duplicate},
		{"of another device", y, other, ingest.Stored},
	} {
		do(t, s, func(tx *Tx) error {
			got, err := tx.Take(c.device, c.m, noon)
			if got != c.want {
				t.Errorf("%s: %d, want %d", c.name, got, c.want)
			}
			return err
		})
	}
	if n := number(t, s, `SELECT count(*) FROM block`); n != 2 {
		t.Errorf("%d blocks", n)
	}
	if m.Block.Placed {
		t.Error("the caller's block was changed")
	}
}

// TestPlacesLater: more blocks wait for a clock than are placed at a time, and
// one whose place cannot be true is never given it.
func TestPlacesLater(t *testing.T) {
	s := open(t)
	device, other := add(t, s, "roof-1"), add(t, s, "roof-2")
	boot := ingest.BootID{7}
	take := func(device int64, m ingest.Message) {
		t.Helper()
		do(t, s, func(tx *Tx) error {
			_, err := tx.Take(device, m, noon)
			return err
		})
	}
	take(device, timed(255, boot, 1<<40)) // 35 years from now
	take(other, timed(255, boot, 5))
	take(device, timed(254, ingest.BootID{8}, 5))
	for n := range placeMost {
		m := timed(byte(n), boot, int64(n))
		m.ID[1] = 1
		take(device, m)
	}
	clock := ingest.Clock{Boot: boot, Offset: noon.Add(-time.Hour).UnixMilli(), Uncertainty: 100}
	for round, want := range []int64{4, 3, 3} {
		do(t, s, func(tx *Tx) error { return tx.Observe(device, clock, noon) })
		if n := number(t, s, `SELECT count(*) FROM block WHERE t0 IS NULL`); n != want {
			t.Errorf("round %d: %d blocks have no place, want %d", round, n, want)
		}
	}
	if n := number(t, s, `SELECT count(*) FROM block WHERE t0 = mono + `+strconv.FormatInt(noon.Add(-time.Hour).UnixMilli(), 10)+` AND t1 = t0 + span`); n != placeMost {
		t.Errorf("%d blocks are in their place", n)
	}
	take(device, timed(253, boot, 9))
	if n := number(t, s, `SELECT count(*) FROM block WHERE t0 IS NULL`); n != 3 {
		t.Errorf("a block of a known boot has no place")
	}
}

// TestObserveKeepsTheBestClock: only a more certain one replaces what is known.
func TestObserveKeepsTheBestClock(t *testing.T) {
	s := open(t)
	device := add(t, s, "roof-1")
	for _, c := range []struct{ offset, uncertainty, want int64 }{
		{1000, 500, 1000}, {2000, 500, 1000}, {3000, 9000, 1000}, {4000, 499, 4000}, {5000, 500, 4000},
	} {
		do(t, s, func(tx *Tx) error {
			return tx.Observe(device, ingest.Clock{Boot: ingest.BootID{1}, Offset: c.offset, Uncertainty: c.uncertainty}, noon)
		})
		if got := number(t, s, `SELECT wall_offset FROM boot`); got != c.want {
			t.Errorf("after %+v: %d", c, got)
		}
	}
}
