package ingest

import (
	"encoding/hex"
	"testing"

	"ecowatt/wire"
)

func TestHash(t *testing.T) {
	// printf '\0\0\0\0\0\0\0\1\1\2\3' | sha256sum
	want := "0148022e08968ecc1dd07636ae11c1b05913ad0bda87ee3f231c33e8f922962c"
	h := Hash(KindTelemetry, []byte{1, 2, 3})
	if got := hex.EncodeToString(h[:]); got != want {
		t.Errorf("Hash = %s, want %s", got, want)
	}
	for name, other := range map[string][32]byte{
		"another kind":    Hash(KindLog, []byte{1, 2, 3}),
		"another byte":    Hash(KindTelemetry, []byte{1, 2, 4}),
		"a byte less":     Hash(KindTelemetry, []byte{1, 2}),
		"kind and a byte": Hash(1<<8|1, []byte{2, 3}),
	} {
		if other == h {
			t.Errorf("%s has the same hash", name)
		}
	}
}

func TestKnown(t *testing.T) {
	a, b := [32]byte{1}, [32]byte{2}
	if got := Known(a, a); got != Duplicate {
		t.Errorf("the same bytes: %d", got)
	}
	if got := Known(a, b); got != Conflict {
		t.Errorf("other bytes: %d", got)
	}
}

// TestNumbersOfTheWire compares the numbers of this package, which may not
// import wire, with those on the wire.
func TestNumbersOfTheWire(t *testing.T) {
	for ours, wires := range map[Kind]wire.Kind{KindTelemetry: wire.KindTelemetry, KindLog: wire.KindLog, KindInventory: wire.KindInventory} {
		if uint64(ours) != uint64(wires) {
			t.Errorf("kind %d is %d on the wire", ours, wires)
		}
	}
	for ours, wires := range map[Status]wire.Status{
		Stored: wire.Stored, Duplicate: wire.Duplicate, Invalid: wire.Invalid, Conflict: wire.Conflict, Later: wire.Later,
	} {
		if uint64(ours) != uint64(wires) {
			t.Errorf("status %d is %d on the wire", ours, wires)
		}
	}
	if CodecPlain != wire.CodecPlain || CodecPacked != wire.CodecPacked {
		t.Errorf("codecs %d and %d are %d and %d on the wire", CodecPlain, CodecPacked, wire.CodecPlain, wire.CodecPacked)
	}
}
