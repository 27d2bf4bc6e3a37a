package fault

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestDocumented: the script that docs/simulator.md shows is one, and its table
// has every fault and every member.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/simulator.md")
	if err != nil {
		t.Fatal(err)
	}
	script := regexp.MustCompile("(?s)```\n(.*?)```").FindSubmatch(text)
	if script == nil {
		t.Fatal("no script is shown")
	}
	rules, err := ParseScript(script[1])
	if err != nil || len(rules) != 5 || rules[1].Kind != Frozen || rules[3].Functions[0] != 16 {
		t.Errorf("%+v, %v", rules, err)
	}
	for _, k := range Kinds() {
		if !strings.Contains(string(text), "\n| `"+k.String()+"` |") {
			t.Errorf("the fault %v is missing", k)
		}
	}
	for _, member := range []string{"from", "to", "probability", "count", "units", "functions", "addresses", "code", "for"} {
		if !strings.Contains(string(text), "`"+member+"`") {
			t.Errorf("the member %s is missing", member)
		}
	}
}
