package identity

import (
	"crypto/sha256"
	"fmt"
	"os"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt/key"
)

// withSum appends the checksum of a slot's other bytes.
func withSum(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(slices.Clip(b), sum[:]...)
}

// TestDocumentedBytes compares the table of docs/formats/keys.md with the code.
func TestDocumentedBytes(t *testing.T) {
	text, err := os.ReadFile("../../docs/formats/keys.md")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \| (\d+) \| `).FindAllStringSubmatch(string(text), -1) {
		got = append(got, row[1]+"+"+row[2])
	}
	var want []string
	offsets := []int{0, offVersion, offReserved, offEpoch, offID, offKey, offSum, slotSize}
	for i, at := range offsets[:len(offsets)-1] {
		want = append(want, fmt.Sprintf("%d+%d", at, offsets[i+1]-at))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("offset+bytes (-code +docs):\n%s", diff)
	}
	// An example that is not made with appendSlot.
	slot := []byte("EWPK\x01\x00\x00\x00\x00\x00\x01\x02")
	for i := range key.IDSize + key.Size {
		slot = append(slot, byte(i*i+3))
	}
	c, err := parseSlot(withSum(slot))
	if err != nil || c.Epoch != 258 || c.ID[1] != 4 || c.ID[15] != 228 {
		t.Fatalf("%+v, %v", c, err)
	}
	if secret := c.Key.Secret(); secret[0] != 3 || secret[31] != 164 {
		t.Errorf("key begins with %d and ends with %d", secret[0], secret[31])
	}
}
