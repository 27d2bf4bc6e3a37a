package agent

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDocumentedCodes compares the codes of section 10 of docs/protocol.md with
// those that stand in the code of the device.
func TestDocumentedCodes(t *testing.T) {
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "| code | when |\n|---|---|\n")
	if !ok {
		t.Fatal("the document has no table of codes")
	}
	table, _, _ := strings.Cut(rest, "\n\n")
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `([A-Za-z0-9_]+)` \\| ").FindAllStringSubmatch(table, -1) {
		documented = append(documented, row[1])
	}
	var written []string
	for _, folder := range []string{".", "uplink", "identity"} {
		names, err := filepath.Glob(folder + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if !strings.HasSuffix(name, "_test.go") {
				written = append(written, codesIn(t, name)...)
			}
		}
	}
	slices.Sort(documented)
	slices.Sort(written)
	if diff := cmp.Diff(slices.Compact(written), documented); diff != "" {
		t.Errorf("codes (-code +document):\n%s", diff)
	}
}

// codesIn returns the literals of a file that look like a code of keys or seals.
func codesIn(t *testing.T, name string) (codes []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`^([A-Z][A-Z0-9]*(_[A-Z0-9]+)+|key_[a-z_]+)$`)
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if text, err := strconv.Unquote(lit.Value); err == nil && code.MatchString(text) {
				codes = append(codes, text)
			}
		}
		return true
	})
	return codes
}
