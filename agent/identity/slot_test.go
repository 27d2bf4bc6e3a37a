package identity

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"ecowatt/key"
)

// storage returns a storage key that is the same for the same text.
func storage(tb testing.TB, text string) key.Storage {
	tb.Helper()
	k, err := key.StorageFromSecret(fmt.Appendf(nil, "%-16s", text))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// sealed returns the bytes of a slot that is sealed with storage(text).
func sealed(tb testing.TB, s slot, text string) []byte {
	tb.Helper()
	b, err := appendSlot(nil, s, storage(tb, text))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// same reports whether two slots say the same.
func (s slot) same(o slot) bool {
	return s.Equal(o.Credential) && s.state == o.state && s.burn == o.burn && s.end == o.end
}

// someSlots returns slots of every kind.
func someSlots(tb testing.TB) []slot {
	tb.Helper()
	return []slot{
		{Credential: credential(tb, 1), state: active},
		{Credential: credential(tb, 1<<32-1), state: active, burn: true},
		{Credential: credential(tb, 2), state: staged},
		{Credential: credential(tb, 2), state: staged, burn: true},
		{Credential: credential(tb, 3), state: fallback},
		{Credential: credential(tb, 3), state: fallback, end: 1<<63 - 1},
	}
}

// TestSlotIsExact: every byte of a slot counts, sealed or not.
//
// Attacks: K7
func TestSlotIsExact(t *testing.T) {
	k := storage(t, "right")
	for _, want := range someSlots(t) {
		for _, b := range [][]byte{plain(t, want), sealed(t, want, "right")} {
			got, isSealed, err := parseSlot(b, k)
			if err != nil || !got.same(want) || isSealed != (len(b) == sealedSize) {
				t.Fatalf("read back %+v, %v", got, err)
			}
			for i := range b {
				for bit := range 8 {
					changed := bytes.Clone(b)
					changed[i] ^= 1 << bit
					if _, _, err := parseSlot(changed, k); !errors.Is(err, errTorn) {
						t.Errorf("bit %d of byte %d does not count: %v", bit, i, err)
					}
				}
				if _, _, err := parseSlot(b[:i], k); !errors.Is(err, errTorn) {
					t.Errorf("cut at %d it is still a slot: %v", i, err)
				}
			}
			if _, _, err := parseSlot(append(b, 0), k); !errors.Is(err, errTorn) {
				t.Errorf("a byte more, and it is still a slot: %v", err)
			}
		}
	}
}

// TestSlotIsChecked: a checksum that fits makes nothing good.
//
// Attacks: K7
func TestSlotIsChecked(t *testing.T) {
	k := storage(t, "right")
	for _, c := range []struct {
		name          string
		change        func(b []byte) []byte // of all but the checksum
		plain, sealed error
	}{
		{"nothing", func(b []byte) []byte { return b }, nil, nil},
		{"older version", func(b []byte) []byte { b[offVersion] = 1; return b }, errVersion, errVersion},
		{"newer version", func(b []byte) []byte { b[offVersion] = 3; return append(b, 1, 2, 3) }, errVersion, errVersion},
		{"a version without content", func(b []byte) []byte { b[offVersion] = 3; return b[:offState] }, errVersion, errVersion},
		{"no content", func(b []byte) []byte { return b[:offState] }, errTorn, errTorn},
		{"half of a header", func(b []byte) []byte { return b[:offKey-1] }, errTorn, errTorn},
		{"no key", func(b []byte) []byte { return b[:offKey] }, errTorn, errTorn},
		{"state 0", func(b []byte) []byte { b[offState] = 0; return b }, errTorn, errTorn},
		{"state 4", func(b []byte) []byte { b[offState] = 4; return b }, errTorn, errTorn},
		{"unknown flag", func(b []byte) []byte { b[offFlags] |= 4; return b }, errTorn, errTorn},
		{"the other flag of sealing", func(b []byte) []byte { b[offFlags] ^= flagSealed; return b }, errTorn, errTorn},
		{"reserved", func(b []byte) []byte { b[offReserved] = 1; return b }, errTorn, errTorn},
		{"epoch 0", func(b []byte) []byte { clear(b[offEpoch:offID]); return b }, errTorn, errTorn},
		{"active with an end", func(b []byte) []byte { b[offKey-1] = 1; return b }, errTorn, errTorn},
		{"end before 1970", func(b []byte) []byte { b[offState], b[offEnd] = byte(fallback), 0x80; return b }, errTorn, errTorn},
		{"fallback with burn", func(b []byte) []byte { b[offState] = byte(fallback); b[offFlags] |= flagBurn; return b }, errTorn, errTorn},
		{"another epoch", func(b []byte) []byte { b[offEpoch]++; return b }, nil, errForeign},
		{"another id", func(b []byte) []byte { b[offID]++; return b }, nil, errForeign},
		{"staged", func(b []byte) []byte { b[offState] = byte(staged); return b }, nil, errForeign},
		{"with burn", func(b []byte) []byte { b[offFlags] |= flagBurn; return b }, nil, errForeign},
		{"another key", func(b []byte) []byte { b[offKey]++; return b }, nil, errForeign},
		{"weak key", func(b []byte) []byte { clear(b[offKey:]); return b }, errTorn, errForeign},
	} {
		s := slot{Credential: credential(t, 3), state: active}
		for _, x := range []struct {
			name string
			b    []byte
			want error
		}{{"plain", plain(t, s), c.plain}, {"sealed", sealed(t, s, "right"), c.sealed}} {
			if _, _, err := parseSlot(withSum(c.change(x.b[:len(x.b)-32])), k); !errors.Is(err, x.want) {
				t.Errorf("%s, %s: %v, want %v", c.name, x.name, err, x.want)
			}
		}
	}
}

func TestSealedSlot(t *testing.T) {
	s := slot{Credential: credential(t, 3), state: active}
	secret := s.Key.Secret()
	one, two := sealed(t, s, "right"), sealed(t, s, "right")
	if bytes.Equal(one[offKey:], two[offKey:]) {
		t.Error("sealed twice it is the same: the nonce is not random")
	}
	for i := range len(secret) - 4 {
		if bytes.Contains(one, secret[i:i+4]) {
			t.Fatal("the key stands in a sealed slot")
		}
	}
	if _, isSealed, err := parseSlot(one, key.Storage{}); !errors.Is(err, errSealed) || !isSealed {
		t.Errorf("without a storage key: %v", err)
	}
	if _, isSealed, err := parseSlot(one, storage(t, "wrong")); !errors.Is(err, errForeign) || !isSealed {
		t.Errorf("with another storage key: %v", err)
	}
	weak := bytes.Repeat([]byte{7}, key.Size)
	header := one[:offKey]
	inside, err := seal(storage(t, "right"), weak, header)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := parseSlot(withSum(append(bytes.Clone(header), inside...)), storage(t, "right")); !errors.Is(err, errTorn) {
		t.Errorf("a weak key that is sealed: %v", err)
	}
}

func FuzzParseSlot(f *testing.F) {
	for _, s := range someSlots(f) {
		f.Add(plain(f, s))
		f.Add(sealed(f, s, "fuzz"))
	}
	f.Add(make([]byte, plainSize))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, b := range [][]byte{data, withSum(data)} {
			s, isSealed, err := parseSlot(b, storage(t, "fuzz"))
			if err != nil {
				continue
			}
			if !isSealed && !bytes.Equal(plain(t, s), b) {
				t.Errorf("%x reads as %+v, which is written otherwise", b, s)
			}
			again, _, err := parseSlot(sealed(t, s, "fuzz"), storage(t, "fuzz"))
			if err != nil || !again.same(s) {
				t.Errorf("%+v is sealed and read as %+v, %v", s, again, err)
			}
		}
	})
}
