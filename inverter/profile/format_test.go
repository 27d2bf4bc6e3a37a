package profile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt/inverter"
)

// Every profile that there is, and one with every field, is written as it was
// read.
func TestFormatIsTheInverseOfParse(t *testing.T) {
	check := func(name string, p inverter.Profile) {
		t.Helper()
		text := Format(p)
		got, err := Parse(name+suffix, text)
		if diff := cmp.Diff(p, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s\n%s", name, err, diff, text)
		}
	}
	for _, name := range List() {
		p, err := Find(name)
		if err != nil {
			t.Fatal(err)
		}
		check(name, p)
	}
	p, err := Parse("p.yaml", []byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	check("p", p)
}

func TestSet(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("p.yaml", good)
	write("solis.yaml", strings.Replace(good, "name: p", "name: solis", 1))
	write("bad.yaml", strings.Replace(good, "unit: 3", "unit: 300", 1))
	write("notes.txt", "")
	write("No Name.yaml", "")
	s := Set{Dir: dir}
	names, err := s.List()
	all := strings.Join(names, " ")
	if err != nil || !strings.Contains(all, "bad") || !strings.Contains(all, "ecowatt-sim") || strings.Contains(all, "notes") || strings.Contains(all, "No Name") || strings.Count(all+" ", "solis ") != 1 {
		t.Errorf("List: %v, %v", names, err)
	}
	if p, err := s.Find("p"); err != nil || p.Title != "A title" {
		t.Errorf("its own: %q, %v", p.Title, err)
	}
	if p, err := s.Find("solis"); err != nil || p.Title != "A title" {
		t.Errorf("its own before an embedded one: %q, %v", p.Title, err)
	}
	if p, err := s.Find("ecowatt-sim"); err != nil || p.Unit != 17 {
		t.Errorf("an embedded one: %v", err)
	}
	if _, err := s.Find("bad"); err == nil || !strings.HasPrefix(err.Error(), filepath.Join(dir, "bad.yaml")+":5: unit:") {
		t.Errorf("a wrong one: %v", err)
	}
	for _, name := range []string{"nothing", "../p", "", "No Name"} {
		if _, err := s.Find(name); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "p, ") {
			t.Errorf("%q: %v", name, err)
		}
	}
	if names, err := (Set{Dir: filepath.Join(dir, "none")}).List(); err != nil || len(names) != len(List()) {
		t.Errorf("a folder that is not there: %v, %v", names, err)
	}
	if _, err := Load(filepath.Join(dir, "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
