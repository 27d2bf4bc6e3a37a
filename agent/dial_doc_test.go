package agent

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"ecowatt/inverter/modbus"
)

// TestConnectDocumented: the settings that docs/profiles.md shows are read, and so
// is every form of an address in its table, of which there is one for each kind.
func TestConnectDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/profiles.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "## Reaching an inverter\n")
	section, _, _ = strings.Cut(section, "\n## ")
	example := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(section)
	if example == nil {
		t.Fatal("there is no example")
	}
	s, err := ParseSettings([]byte(example[1]))
	if err != nil || len(s.Inverters) < 3 || !s.Inverters[0].SunSpec || s.Inverters[2].KeyFile == "" {
		t.Errorf("the example: %+v, %v", s.Inverters, err)
	}
	kinds := map[modbus.Kind]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+://[^`]+)` \\|").FindAllStringSubmatch(section, -1) {
		e, err := modbus.ParseEndpoint(row[1])
		if err != nil {
			t.Errorf("%s: %v", row[1], err)
		}
		kinds[e.Kind] = true
	}
	if len(kinds) != 4 {
		t.Errorf("the table has kinds %v, want all four", kinds)
	}
}
