package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
)

// brokenImage is a program that ends at once, as a release should never be.
const brokenImage = "#!/bin/sh\necho 'this release is broken' >&2\nexit 1\n"

// pushBroken makes the keys of the demonstration and, with them, a release that no
// gateway should keep, and pushes it. Gateways that are enrolled from then on take
// what these keys have signed.
func (d *demo) pushBroken(ctx context.Context) error {
	d.say("making keys for firmware, and a broken release")
	keys := filepath.Join(d.dir, "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return fmt.Errorf("making a folder for keys: %w", err)
	}
	phrase, image, bundle := filepath.Join(keys, "passphrase"), filepath.Join(keys, "broken"), filepath.Join(keys, "broken.ewfw")
	for name, text := range map[string]string{phrase: rand.Text() + "\n", image: brokenImage} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return fmt.Errorf("making a release: %w", err)
		}
	}
	with := "--passphrase-file=" + phrase
	for _, args := range [][]string{
		{"firmware", "root", "init", "--dir", keys, with, "--root-keys=1", "--root-threshold=1"},
		{"firmware", "root", "push", filepath.Join(keys, "firmware-root.1")},
		{"firmware", "build", image, "--version=broken", "--release=1", "--hardware=demo", "--out", bundle},
		{"firmware", "sign", bundle, "--key", filepath.Join(keys, "release-1.key"), with},
		{"firmware", "push", bundle},
	} {
		if err := d.tool(ctx, d.self, args...); err != nil {
			return err
		}
	}
	return nil
}
