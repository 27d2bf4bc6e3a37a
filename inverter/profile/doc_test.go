package profile

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// docs/profiles.md: its example is a profile, each field that the reader knows is
// explained, and each embedded profile has a row that says as much of its limit
// as it can do.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile("(?s)```yaml\n(format: 1.*?)```").FindSubmatch(text)
	if example == nil {
		t.Fatal("there is no example")
	}
	p, err := Parse("mine.yaml", example[1])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Writes("export_power_percent", 500); err != nil {
		t.Error(err)
	}

	rows := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9_-]+)` \\| (.*) \\|$").FindAllStringSubmatch(string(text), -1) {
		rows[row[1]] = row[2]
	}
	for _, name := range List() {
		p, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		_, limit, _ := strings.Cut(rows[name], " | ")
		writable := slices.ContainsFunc(p.PointNames(), func(point string) bool { r, _ := p.Register(point); return r.Point.Writable })
		if limit == "" || writable != (strings.HasPrefix(limit, "written") || strings.HasSuffix(limit, "written at 3051")) {
			t.Errorf("%s: the document says %q of its limit; it can be written: %v", name, limit, writable)
		}
	}
	if diff := cmp.Diff([]string(nil), unexplained(t, rows)); diff != "" {
		t.Errorf("fields without an explanation (-want +got):\n%s", diff)
	}
}

// unexplained is the fields that the reader names when it meets an unknown one,
// without those that have a row.
func unexplained(t *testing.T, rows map[string]string) (missing []string) {
	t.Helper()
	for _, change := range []struct{ old, with string }{
		{"title:", "nothing: 1\ntitle:"},
		{"  - {point: temp,", "  - {nothing: 1, point: temp,"},
		{"      range:", "      nothing: 1\n      range:"},
		{"words: 8,", "words: 8, nothing: 1,"},
	} {
		_, err := Parse("p.yaml", []byte(strings.Replace(whole, change.old, change.with, 1)))
		if err == nil {
			t.Fatalf("%q is read", change.with)
		}
		_, list, _ := strings.Cut(strings.Split(err.Error(), "\n")[0], "there are: ")
		for field := range strings.SplitSeq(list, ", ") {
			if rows[field] == "" {
				missing = append(missing, field)
			}
		}
	}
	return missing
}
