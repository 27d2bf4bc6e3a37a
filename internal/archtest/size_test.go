package archtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The device's programs must fit small gateways. The bounds are for stripped
// linux/arm (v6) builds, in bytes.
func TestProgramSizes(t *testing.T) {
	for program, most := range map[string]int64{
		"ecowatt-agent": 9 << 20,
		"ecowatt-boot":  3 << 20,
	} {
		t.Run(program, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), program)
			cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, "ecowatt/cmd/"+program)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm", "GOARM=6")
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("building: %v\n%s", err, text)
			}
			info, err := os.Stat(out)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %.2f MiB of %.0f", program, float64(info.Size())/(1<<20), float64(most)/(1<<20))
			if info.Size() > most {
				t.Errorf("%s is %d bytes, at most %d are allowed", program, info.Size(), most)
			}
		})
	}
}
