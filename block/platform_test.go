package block

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestSameBytesOnEveryPlatform runs the vectors, the round trips and the costs
// on the gateways' processors, emulated.
func TestSameBytesOnEveryPlatform(t *testing.T) {
	if testing.Short() {
		t.Skip("builds for other processors")
	}
	for _, p := range []struct{ arch, variant, emulator string }{
		{"arm", "GOARM=6", "qemu-arm"},
		{"mipsle", "GOMIPS=softfloat", "qemu-mipsel"},
	} {
		t.Run(p.arch, func(t *testing.T) {
			emulator, err := exec.LookPath(p.emulator)
			if err != nil {
				if os.Getenv("CI") == "true" {
					t.Fatalf("%s is missing: scripts/setup.sh", p.emulator)
				}
				t.Skipf("needs %s: scripts/setup.sh", p.emulator)
			}
			program := filepath.Join(t.TempDir(), "block.test")
			build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", program, ".")
			build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+p.arch, p.variant)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			run := exec.CommandContext(t.Context(), emulator, program,
				"-test.run", "^(TestVectors|TestRoundTrip|TestCost|TestDeceit)$", "-rapid.checks", "20")
			if out, err := run.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		})
	}
}
