package archtest

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tests into docs/attacks.md")

const (
	attacksDocument  = "../../docs/attacks.md"
	securityDocument = "../../docs/security.md"
)

// marker begins the line of a doc comment that names the rows which a test tries.
const marker = "Attacks:"

// rowID is the id of a row of docs/attacks.md.
var rowID = regexp.MustCompile(`^[A-Z][1-9][0-9]*$`)

// TestAttacks holds docs/attacks.md against the tests: every row has one, every
// row that a test names exists, and the document lists them as they are.
func TestAttacks(t *testing.T) {
	text, err := os.ReadFile(attacksDocument)
	if err != nil {
		t.Fatal(err)
	}
	_, tried := tests(t)
	open, notYet, _ := strings.Cut(string(text), "\n## Not yet\n")
	var out strings.Builder
	rows := map[string]bool{}
	for line := range strings.Lines(open) {
		cells := strings.Split(line, "|")
		if len(cells) == 6 && rowID.MatchString(strings.TrimSpace(cells[1])) {
			id := strings.TrimSpace(cells[1])
			if rows[id] {
				t.Errorf("docs/attacks.md: the row %s is there twice", id)
			}
			rows[id] = true
			if len(tried[id]) == 0 {
				t.Errorf("docs/attacks.md: no test tries %s:%s", id, cells[2])
			}
			cells[4] = " " + strings.Join(tried[id], ", ") + " "
			line = strings.Join(cells, "|")
		}
		out.WriteString(line)
	}
	if len(rows) == 0 {
		t.Fatal("docs/attacks.md has no rows")
	}
	for _, id := range slices.Sorted(maps.Keys(tried)) {
		if !rows[id] {
			t.Errorf("%s names the row %s, which docs/attacks.md does not have", strings.Join(tried[id], ", "), id)
		}
		if regexp.MustCompile(`(?m)^\|[^|]*\b` + id + `\b`).MatchString(notYet) {
			t.Errorf("%s tries %s, which docs/attacks.md calls not yet possible", strings.Join(tried[id], ", "), id)
		}
	}
	want := out.String() + string(text[len(open):])
	if want == string(text) {
		return
	}
	if !*update {
		t.Error("docs/attacks.md is not what the tests say; run this test with -update")
		return
	}
	if err := os.WriteFile(attacksDocument, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestSecurityDocument: what docs/security.md calls a test is one, and what it
// calls an attack is a row of docs/attacks.md.
func TestSecurityDocument(t *testing.T) {
	text, err := os.ReadFile(securityDocument)
	if err != nil {
		t.Fatal(err)
	}
	attacks, err := os.ReadFile(attacksDocument)
	if err != nil {
		t.Fatal(err)
	}
	all, _ := tests(t)
	named := regexp.MustCompile("`([a-z0-9/]+\\.(?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(string(text), -1)
	for _, name := range named {
		if !all[name[1]] {
			t.Errorf("docs/security.md names %s, which does not exist", name[1])
		}
	}
	rows := 0
	for line := range strings.Lines(string(text)) {
		if !regexp.MustCompile(`^\| S[1-6] `).MatchString(line) {
			continue
		}
		rows++
		if !regexp.MustCompile(`\.(Test|Fuzz)[A-Z]`).MatchString(line) {
			t.Errorf("docs/security.md: no test proves %.40s", line)
		}
		for _, id := range regexp.MustCompile(`\b[WHRKAO][1-9][0-9]*\b`).FindAllString(line, -1) {
			if !strings.Contains(string(attacks), "\n| "+id+" |") {
				t.Errorf("docs/security.md names the attack %s, which docs/attacks.md does not have", id)
			}
		}
	}
	if rows != 6 {
		t.Errorf("docs/security.md tells of %d of the rows S1 to S6", rows)
	}
}

// tests returns every test and fuzz target of the repository, written like
// cloud/gateway.TestReplays, and those that try each attack, sorted.
func tests(t *testing.T) (all map[string]bool, tried map[string][]string) {
	t.Helper()
	all, tried = map[string]bool{}, map[string][]string{}
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "node_modules"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		source, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.ParseComments)
		if err != nil {
			return err
		}
		for _, problem := range collect(file, filepath.ToSlash(filepath.Dir(path)), all, tried) {
			t.Errorf("%s: %s", path, problem)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range tried {
		slices.Sort(names)
	}
	return all, tried
}

// collect adds what a file has to all and tried, and returns what is wrong with
// its markers.
func collect(file *ast.File, folder string, all map[string]bool, tried map[string][]string) (problems []string) {
	docs := map[*ast.CommentGroup]bool{}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") && !strings.HasPrefix(f.Name.Name, "Fuzz") {
			continue
		}
		name := folder + "." + f.Name.Name
		all[name] = true
		docs[f.Doc] = true
		for line := range strings.Lines(f.Doc.Text()) {
			list, ok := strings.CutPrefix(strings.TrimSpace(line), marker)
			if !ok {
				continue
			}
			for id := range strings.SplitSeq(list, ",") {
				id = strings.TrimSpace(id)
				switch {
				case !rowID.MatchString(id):
					problems = append(problems, fmt.Sprintf("%s names %q, which is no id of an attack", f.Name.Name, id))
				case slices.Contains(tried[id], name):
					problems = append(problems, fmt.Sprintf("%s names %s twice", f.Name.Name, id))
				default:
					tried[id] = append(tried[id], name)
				}
			}
		}
	}
	for _, group := range file.Comments {
		if !docs[group] && regexp.MustCompile(`(?m)^`+marker).MatchString(group.Text()) {
			problems = append(problems, "a line of attacks that belongs to no test")
		}
	}
	return problems
}

// TestCollect: a marker that would be overlooked is a mistake, not nothing.
func TestCollect(t *testing.T) {
	const source = `package p

// TestOne tries.
//
// Attacks: W1, W2
func TestOne(t *testing.T) {}

// Attacks: W2
func FuzzTwo(f *testing.F) {}

func TestThree(t *testing.T) {}

// Attacks: W9, w1, W01, W9
func TestFour(t *testing.T) {}

// Attacks: W3
func helper() {}

func TestFive(t *testing.T) {
	// Attacks: W4
}
`
	file, err := parser.ParseFile(token.NewFileSet(), "p_test.go", source, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	all, tried := map[string]bool{}, map[string][]string{}
	problems := collect(file, "a/b", all, tried)
	if len(all) != 5 || !all["a/b.TestThree"] {
		t.Errorf("tests %v", all)
	}
	want := map[string][]string{"W1": {"a/b.TestOne"}, "W2": {"a/b.TestOne", "a/b.FuzzTwo"}, "W9": {"a/b.TestFour"}}
	if !maps.EqualFunc(want, tried, slices.Equal) {
		t.Errorf("tried %v, want %v", tried, want)
	}
	if len(problems) != 5 {
		t.Errorf("problems %q, want 5", problems)
	}
}

// TestWhatCIRuns: the whole suite runs under the race detector, all but the inside of
// SQLite watched, and every fuzz target for a while, whenever CI runs.
//
// Attacks: A13
func TestWhatCIRuns(t *testing.T) {
	for name, wants := range map[string][]string{
		"../../.ci/run":         {`(?m)^exec make test$`},
		"../../scripts/fuzz.sh": {`-list '\^Fuzz'`, `-fuzz "?\^\$`},
		"../../Makefile": {
			`(?m)^test:.* check fuzz\b`, `(?m)^check:.* race\b`, `(?m)^race:.*\n\tgo test -race -shuffle=on \$\(UNWATCHED\) \./\.\.\.$`, `(?m)^UNWATCHED = -gcflags=github\.com/ncruces/go-sqlite3-wasm/\.\.\.=-race=false$`,
			`(?m)^fuzz:.*\n\t@scripts/fuzz\.sh \$\(FUZZTIME\) \./\.\.\.$`,
		},
	} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !regexp.MustCompile(want).Match(text) {
				t.Errorf("%s lacks %s", name, want)
			}
		}
	}
}
