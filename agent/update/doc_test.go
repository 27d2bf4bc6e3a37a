package update_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The tables of docs/updates.md are those of the code.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/updates.md")
	if err != nil {
		t.Fatal(err)
	}
	for head, of := range map[string]string{"phase": "Phase", "reason": "Code"} {
		_, rest, ok := strings.Cut(string(text), "| "+head+" | when |\n|---|---|\n")
		if !ok {
			t.Fatalf("no table of %s", head)
		}
		table, _, _ := strings.Cut(rest, "\n\n")
		var documented []string
		for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\| ").FindAllStringSubmatch(table, -1) {
			documented = append(documented, row[1])
		}
		if diff := cmp.Diff(constants(t, of), documented); diff != "" {
			t.Errorf("%s (-code +document):\n%s", head, diff)
		}
	}
}

// constants returns the values of the constants of a type, in their order.
func constants(t *testing.T, of string) (values []string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "update.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) == 0 {
			return true
		}
		name, ok := spec.Type.(*ast.Ident)
		if lit, isText := spec.Values[0].(*ast.BasicLit); ok && isText && name.Name == of {
			value, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, value)
		}
		return true
	})
	return values
}
