package record

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
)

// wycheproof is what the files of Project Wycheproof have in common.
type wycheproof[T any] struct {
	Groups []struct {
		NonceBits int `json:"ivSize"`
		Tests     []T `json:"tests"`
	} `json:"testGroups"`
}

func readWycheproof[T any](t *testing.T, file string, into *wycheproof[T]) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// The AEAD of records against vectors that look for the faults of others.
func TestWycheproofAEAD(t *testing.T) {
	var file wycheproof[struct {
		ID      int      `json:"tcId"`
		Comment string   `json:"comment"`
		Key     hexBytes `json:"key"`
		Nonce   hexBytes `json:"iv"`
		AAD     hexBytes `json:"aad"`
		Plain   hexBytes `json:"msg"`
		Sealed  hexBytes `json:"ct"`
		Tag     hexBytes `json:"tag"`
		Result  string   `json:"result"`
	}]
	readWycheproof(t, "wycheproof_chacha20_poly1305.json", &file)
	tried := 0
	for _, g := range file.Groups {
		for _, c := range g.Tests {
			if g.NonceBits != 8*chacha20poly1305.NonceSize {
				if c.Result != "invalid" { // a nonce of records is an array of 12 bytes: others cannot be written
					t.Errorf("%d: a nonce of %d bits is %s", c.ID, g.NonceBits, c.Result)
				}
				continue
			}
			tried++
			sealed := append(bytes.Clone(c.Sealed), c.Tag...)
			plain, err := aead(c.Key).Open(nil, c.Nonce, sealed, c.AAD)
			if valid := c.Result == "valid"; (err == nil) != valid {
				t.Errorf("%d (%s): opening: %v, the vector is %s", c.ID, c.Comment, err, c.Result)
			} else if valid && !bytes.Equal(plain, c.Plain) {
				t.Errorf("%d (%s): opened to %x", c.ID, c.Comment, plain)
			}
			if c.Result == "valid" && !bytes.Equal(aead(c.Key).Seal(nil, c.Nonce, c.Plain, c.AAD), sealed) {
				t.Errorf("%d (%s): sealed to other bytes", c.ID, c.Comment)
			}
		}
	}
	if tried < 300 {
		t.Errorf("only %d vectors were tried", tried)
	}
}

func TestWycheproofHMAC(t *testing.T) {
	var file wycheproof[struct {
		ID      int      `json:"tcId"`
		Comment string   `json:"comment"`
		Key     hexBytes `json:"key"`
		Message hexBytes `json:"msg"`
		Tag     hexBytes `json:"tag"`
		Result  string   `json:"result"`
	}]
	readWycheproof(t, "wycheproof_hmac_sha256.json", &file)
	tried := 0
	for _, g := range file.Groups {
		for _, c := range g.Tests {
			tried++
			mac := sum(c.Key, c.Message)
			if got := bytes.Equal(mac[:len(c.Tag)], c.Tag); got != (c.Result == "valid") {
				t.Errorf("%d (%s): the tag is equal: %v, the vector is %s", c.ID, c.Comment, got, c.Result)
			}
		}
	}
	if tried < 170 {
		t.Errorf("only %d vectors were tried", tried)
	}
}
