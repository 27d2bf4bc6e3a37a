package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every command that docs/security.md shows is one, with the flags that it shows:
// a playbook is read when there is no time to look for them.
func TestPlaybooks(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "security.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?m)^    (ecowatt .+)$|`(ecowatt [^`]+)`").FindAllStringSubmatch(string(text), -1)
	if len(shown) < 12 {
		t.Fatalf("only %d commands are shown", len(shown))
	}
	root := (&app{}).newRootCommand()
	for _, s := range shown {
		line := s[1] + s[2]
		words := strings.Fields(line)
		c, _, err := root.Find(words[1:])
		if err != nil || c.HasSubCommands() || !strings.HasPrefix(line, c.CommandPath()) {
			t.Errorf("%s: no such command: %v", line, err)
			continue
		}
		for _, w := range words {
			if name, ok := strings.CutPrefix(w, "--"); ok && c.Flags().Lookup(name) == nil {
				t.Errorf("%s: %s has no flag %s", line, c.CommandPath(), w)
			}
		}
	}
}
