package key

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// The derivation of storage keys against vectors that look for the faults of
// others: empty salts, lengths at the limit and beyond.
func TestWycheproofHKDF(t *testing.T) {
	data, err := os.ReadFile("testdata/wycheproof_hkdf_sha256.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Tests []struct {
				ID      int      `json:"tcId"`
				Comment string   `json:"comment"`
				Secret  hexBytes `json:"ikm"`
				Salt    hexBytes `json:"salt"`
				Info    hexBytes `json:"info"`
				Size    int      `json:"size"`
				Key     hexBytes `json:"okm"`
				Result  string   `json:"result"`
			} `json:"tests"`
		} `json:"testGroups"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, g := range file.Groups {
		for _, c := range g.Tests {
			tried++
			k, err := hkdf.Key(sha256.New, c.Secret, c.Salt, string(c.Info), c.Size)
			if valid := c.Result == "valid"; (err == nil) != valid || valid && !bytes.Equal(k, c.Key) {
				t.Errorf("%d (%s): %x, %v; the vector is %s", c.ID, c.Comment, k, err, c.Result)
			}
		}
	}
	if tried < 80 {
		t.Errorf("only %d vectors were tried", tried)
	}
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}
