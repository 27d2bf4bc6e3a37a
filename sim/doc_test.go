package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// TestDocumented: what docs/simulator.md shows of the inverters and their
// registers is what there is.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/simulator.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)```json\n(\\[.*?)```").FindSubmatch(text)
	if shown == nil {
		t.Fatal("no answer is shown")
	}
	decoder := json.NewDecoder(bytes.NewReader(shown[1]))
	decoder.DisallowUnknownFields()
	var all []Doing
	if err := decoder.Decode(&all); err != nil || len(all) != 1 {
		t.Errorf("the answer shown: %v, %+v", err, all)
	}
	for f := range reflect.TypeFor[Doing]().Fields() {
		if name := f.Tag.Get("json"); !bytes.Contains(shown[1], []byte(`"`+name+`"`)) {
			t.Errorf("the answer shown has no %s", name)
		}
	}
	timer := ownTimer()
	wanted := []string{
		fmt.Sprintf("\n| %d | u16 | the timer", timer.Timer.Address), fmt.Sprintf("\n| %d | u16 | percent", timer.Value.Address),
		"`GET " + InvertersPath, "`POST " + FaultsPath, "`DELETE " + FaultsPath, "`POST " + ErrorFlagPath,
	}
	for _, r := range beyond() {
		wanted = append(wanted, fmt.Sprintf("\n| %d | %v |", r.Address, r.Type))
	}
	for s := Sleeping; s <= Derated; s++ {
		wanted = append(wanted, fmt.Sprintf(" %d %v", s, s))
	}
	for _, m := range AllModels() {
		wanted = append(wanted, "`"+m.String()+"`")
	}
	for _, want := range wanted {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is missing", want)
		}
	}
}
