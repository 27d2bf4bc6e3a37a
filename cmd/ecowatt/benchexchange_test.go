package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// benchExchanges runs "ecowatt bench exchange" with args.
func benchExchanges(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, talk bytes.Buffer
	args = append([]string{"bench", "exchange"}, args...)
	code = run(context.Background(), args, func(string) string { return "" }, stdio{in: strings.NewReader(""), out: &out, err: &talk})
	return code, out.String(), talk.String()
}

// TestBenchExchange holds what a sample costs on the wire: less than 8 bytes where
// a slot has 450 of them, and for the simulated ones what is published.
//
// Attacks: O15
func TestBenchExchange(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	published, err := os.ReadFile("../../docs/formats/block.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"simulated": {"--json"},
		"recorded":  {writeFile(t, "day.csv", []byte(recorded(500))), "--inverters", "inv1", "--json"},
	} {
		code, out, talk := benchExchanges(t, args...)
		if code != 0 {
			t.Fatalf("%s: exit %d: %s", name, code, talk)
		}
		var r exchangeReport
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		if len(r.Exchanges) != 4 {
			t.Fatalf("%s: %d measurements", name, len(r.Exchanges))
		}
		for _, x := range r.Exchanges {
			want := float64(x.Slots) * x.SlotS / x.IntervalS
			if got := float64(x.Samples); got < 0.95*want || got > 1.05*want || x.Slots < 96 || x.Slots > 240 {
				t.Errorf("%s: %v samples in %d slots, want %v", name, got, x.Slots, want)
			}
			if all := x.PerSample * float64(x.Samples); math.Abs(all-float64(x.Up+x.Down)) > 1 || x.Up < int64(x.Slots)*400 || x.Down < int64(x.Slots)*200 {
				t.Errorf("%s: %+v", name, x)
			}
			if name != "simulated" {
				continue
			}
			if x.SlotS == 900 && x.IntervalS == 2 && x.PerSample >= 8 {
				t.Errorf("%.2f bytes per sample", x.PerSample)
			}
			slot := map[float64]string{15: "15 s", 900: "15 min"}[x.SlotS]
			row := fmt.Sprintf(`(?m)^\| slots of %s, a sample every %v s \|[^|]*\| ([0-9.]+) \|`, slot, x.IntervalS)
			said := regexp.MustCompile(row).FindSubmatch(published)
			if said == nil {
				t.Fatalf("docs/formats/block.md has no row %s", row)
			}
			if cost, err := strconv.ParseFloat(string(said[1]), 64); err != nil || math.Abs(cost-x.PerSample) > 0.02*cost {
				t.Errorf("%s, a sample every %v s: %.2f bytes per sample, docs/formats/block.md says %s", slot, x.IntervalS, x.PerSample, said[1])
			}
		}
	}
	if code, out, talk := benchExchanges(t); code != 0 || strings.Count(out, "\n") != 5 || !strings.Contains(out, "15m0s") {
		t.Errorf("exit %d: %s%s", code, out, talk)
	}
	for want, args := range map[string][]string{"none.csv": {"none.csv"}, "--gains": {"--gains", "x=1"}, "accepts at most 1": {"a", "b"}} {
		if code, _, talk := benchExchanges(t, args...); code == 0 || !strings.Contains(talk, want) {
			t.Errorf("%v: exit %d: %s", args, code, talk)
		}
	}
}
