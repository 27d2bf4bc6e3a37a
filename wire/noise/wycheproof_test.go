package noise

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"testing"
)

// The curve of the handshake against vectors that look for the faults of
// others: points of low order, on the twist, not reduced.
func TestWycheproofX25519(t *testing.T) {
	data, err := os.ReadFile("testdata/wycheproof_x25519.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Tests []struct {
				ID      int      `json:"tcId"`
				Comment string   `json:"comment"`
				Public  hexBytes `json:"public"`
				Private hexBytes `json:"private"`
				Shared  hexBytes `json:"shared"`
			} `json:"tests"`
		} `json:"testGroups"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	tried, low := 0, 0
	for _, g := range file.Groups {
		for _, c := range g.Tests {
			tried++
			ours := curve{random: bytes.NewReader(c.Private)}
			if _, err := ours.GenerateKeypair(nil); err != nil {
				t.Fatal(err)
			}
			secret, err := ours.DH(nil, c.Public)
			if bytes.Equal(c.Shared, make([]byte, 32)) {
				low++
				if !errors.Is(err, errLowOrder) {
					t.Errorf("%d (%s): a point of low order: %v", c.ID, c.Comment, err)
				}
				continue
			}
			if err != nil || !bytes.Equal(secret, c.Shared) {
				t.Errorf("%d (%s): %x, %v", c.ID, c.Comment, secret, err)
			}
		}
	}
	if tried < 500 || low < 10 {
		t.Errorf("only %d vectors were tried, %d of low order", tried, low)
	}
}
