package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDependenciesAreExplained holds docs/dependencies.md: one row for each
// module that go.mod requires directly, in its order.
func TestDependenciesAreExplained(t *testing.T) {
	root := filepath.Join("..", "..")
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	var required []string
	for _, m := range regexp.MustCompile(`(?m)^\s+(\S+\.\S+) v\S+$`).FindAllStringSubmatch(string(mod), -1) {
		required = append(required, m[1])
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	var explained []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| [^|]+ \\| ([^|]+) \\|$").FindAllStringSubmatch(string(text), -1) {
		if strings.TrimSpace(m[2]) == "" {
			t.Errorf("%s has no reason", m[1])
		}
		explained = append(explained, m[1])
	}
	slices.Sort(required)
	if diff := cmp.Diff(required, explained); diff != "" {
		t.Errorf("docs/dependencies.md does not match go.mod (-go.mod +docs):\n%s", diff)
	}
}
