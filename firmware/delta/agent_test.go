package delta

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A small change of the agent, its version and a few statements, is sent as a small
// part of the image: at most 6 % of what zstd makes of the whole at level 19, by
// the tool, which also reads what this package writes. docs/formats/firmware.md
// shows the sizes that -v prints here.
func TestSizeOfASmallChange(t *testing.T) {
	before, after := agents(t)
	diff, err := Diff(before, after)
	if err != nil {
		t.Fatal(err)
	}
	patch, _, err := Patch(before, after)
	if err != nil {
		t.Fatal(err)
	}
	full, err := Full(after)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(zstdTool(t, full, "-d"), after) {
		t.Error("zstd reads another image")
	}
	r, err := OpenDiff(bytes.NewReader(diff), bytes.NewReader(before), uint64(len(before)), uint64(len(after)), DiffWindow)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if made, err := io.ReadAll(r); err != nil || !bytes.Equal(made, after) {
		t.Errorf("the differences make another image: %v", err)
	}
	best := len(zstdTool(t, after, "-19"))
	share := func(n int) float64 { return 100 * float64(n) / float64(best) }
	t.Logf("image %d, zstd -19 %d, full %d (%.1f %%), diff %d (%.1f %%), patch %d (%.1f %%)",
		len(after), best, len(full), share(len(full)), len(diff), share(len(diff)), len(patch), share(len(patch)))
	if least := min(len(diff), len(patch)); share(least) > 6 {
		t.Errorf("a small change costs %d bytes, %.1f %% of the %d of the whole image; at most 6 %%", least, share(least), best)
	}
}

// agents builds the agent as it is released, as it is and with a small change.
func agents(t *testing.T) (before, after []byte) {
	t.Helper()
	const root, version, start = "../..", "ecowatt.go", "cmd/ecowatt-agent/main.go"
	dir := t.TempDir()
	replace := map[string]string{}
	for file, change := range map[string]func(string) string{
		version: func(text string) string {
			return strings.Replace(text, `const Version = "`, `const Version = "9.`, 1)
		},
		start: func(text string) string {
			return strings.Replace(text, "func main() {\n", "func main() {\n\tif os.Getenv(\"ECOWATT_GREETING\") != \"\" {\n\t\tfmt.Fprintln(os.Stderr, \"good morning from\", len(os.Args), strings.ToUpper(os.Args[0]))\n\t}\n", 1)
		},
	} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		changed := change(string(text))
		if changed == string(text) {
			t.Fatalf("%s was not changed", file)
		}
		path, err := filepath.Abs(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		replace[path] = filepath.Join(dir, filepath.Base(file))
		if err := os.WriteFile(replace[path], []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	return agent(t), agent(t, "-overlay="+name)
}

func agent(t *testing.T, flags ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "agent")
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out}, flags...)
	c := exec.CommandContext(t.Context(), "go", append(args, "../../cmd/ecowatt-agent")...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=arm", "GOARM=6")
	if said, err := c.CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v\n%s", err, said)
	}
	image, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// zstdTool is what the zstd tool makes of data.
func zstdTool(t *testing.T, data []byte, flag string) []byte {
	t.Helper()
	c := exec.CommandContext(t.Context(), "zstd", flag, "-c", "-q")
	c.Stdin = bytes.NewReader(data)
	out, err := c.Output()
	if err != nil {
		t.Fatalf("zstd %s of %d bytes (scripts/setup.sh installs it): %v", flag, len(data), err)
	}
	return out
}
