package rollout

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The tables of docs/firmware.md are those of the code.
func TestTablesAsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/firmware.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"states": states(), "phases": phases()} {
		if !strings.Contains(string(doc), want) {
			t.Errorf("docs/firmware.md lacks the %s of the code:\n%s", name, want)
		}
	}
}

// states is what a rollout becomes by each event, and who may cause it.
func states() string {
	var b strings.Builder
	b.WriteString("| state |")
	for _, e := range Events() {
		fmt.Fprintf(&b, " %s, by the %s |", e, e.By())
	}
	b.WriteString("\n|" + strings.Repeat("---|", 1+len(Events())) + "\n")
	for _, s := range States() {
		fmt.Fprintf(&b, "| %s |", s)
		for _, e := range Events() {
			if after := s.After(e); after != s {
				fmt.Fprintf(&b, " %s |", after)
			} else {
				b.WriteString(" – |")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// phases is, for each step, in which phases it leads where.
func phases() string {
	var b strings.Builder
	b.WriteString("| step | by the | in the phases | leads to |\n|---|---|---|---|\n")
	for _, s := range Steps() {
		var from []string
		to := map[Phase]bool{}
		for _, p := range Phases() {
			if after := p.After(s); after != p {
				from = append(from, string(p))
				to[after] = true
			}
		}
		for p := range to {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", s, s.By(), strings.Join(from, ", "), p)
		}
	}
	return b.String()
}

// A step leads to one phase, wherever it comes from.
func TestStepsLeadToOnePhase(t *testing.T) {
	for _, s := range Steps() {
		to := map[Phase]bool{}
		for _, p := range Phases() {
			if after := p.After(s); after != p {
				to[after] = true
			}
		}
		if len(to) != 1 {
			t.Errorf("%s leads to %v", s, to)
		}
	}
}
