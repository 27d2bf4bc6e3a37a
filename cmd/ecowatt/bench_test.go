package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/block"
	"ecowatt/inverter/profile"
)

// recorded is a CSV file of two inverters' day of n rows each, with the first
// tenth of it night, and columns that nobody asks for.
func recorded(n int) string {
	r := rand.New(rand.NewPCG(1, 1))
	var b strings.Builder
	b.WriteString("time,inverter,vac1_v,vac2_v,iac1_a,fac1_hz,vpv1_v,vpv2_v,ipv1_a,ipv2_a,temp_c,temp_boost_c,pac_w,status\n")
	for i := range 2 * n {
		at := time.Date(2026, 6, 21, 4, 0, 2*(i/2), 0, time.UTC)
		pac, power := "0", 0.0
		if i/2 >= n/10 {
			power = 60000 + 20000*r.Float64()
			pac = fmt.Sprintf("%.1f", power)
		}
		v := 2300 + r.IntN(9)
		fmt.Fprintf(&b, "%s,inv%d,%.1f,231,%.1f,50.01,%.1f,642.1,%.1f,,%.1f,40,%s,Normal\n",
			at.Format(time.RFC3339), i%2+1, float64(v)/10, power/float64(v)*3, 640+9*r.Float64(), power/650/10, 41.7, pac)
	}
	return b.String()
}

func writeFile(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// bench runs "ecowatt bench block" with args.
func bench(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, talk bytes.Buffer
	args = append([]string{"bench", "block"}, args...)
	code = run(context.Background(), args, func(string) string { return "" }, stdio{in: strings.NewReader(""), out: &out, err: &talk})
	return code, out.String(), talk.String()
}

func TestBenchBlock(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write([]byte(recorded(200))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, "day.csv.gz", packed.Bytes())
	code, out, talk := bench(t, file, "--samples", "90,7", "--inverters", "inv2", "--json")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, talk)
	}
	var r benchReport
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatal(err)
	}
	p, err := profile.Find("ecowatt-sim")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(p.PointNames(), r.Points); diff != "" || r.Samples != 180 || len(r.Blocks) != 2 {
		t.Fatalf("%d samples in %d sizes, points (-want +got):\n%s", r.Samples, len(r.Blocks), diff)
	}
	for i, b := range r.Blocks {
		if b.Samples != []int{90, 7}[i] || b.Registers != 28 || b.EncodeNS <= 0 || b.DecodeNS <= 0 {
			t.Errorf("%+v", b)
		}
		if b.Block <= 0 || b.Block >= b.ZstdGo || b.ZstdGo >= b.Registers {
			t.Errorf("a block costs %.2f bytes per sample, zstd of the library %.2f", b.Block, b.ZstdGo)
		}
		_, err := exec.LookPath("zstd")
		if os.Getenv("CI") == "true" && err != nil {
			t.Error("zstd is missing: scripts/setup.sh")
		}
		if (err == nil) != (b.Zstd19 != nil) || b.Zstd19 != nil && (*b.Zstd19 > b.ZstdGo || b.Block >= *b.Zstd19) {
			t.Errorf("zstd -19 costs %v", b.Zstd19)
		}
	}
	if r.Blocks[0].Block >= r.Blocks[1].Block {
		t.Error("long blocks cost as much as short ones")
	}
	code, out, talk = bench(t, file)
	if code != 0 || !strings.HasPrefix(out, "360 samples of 10 points: vac1, iac1,") || !strings.Contains(out, "block / zstd -19") {
		t.Errorf("exit %d: %s%s", code, talk, out)
	}
	if code, out, _ = bench(t, file, "--night"); code != 0 || !strings.HasPrefix(out, "400 samples") {
		t.Errorf("with the night, exit %d: %s", code, out)
	}
}

// Values become the registers of the profile.
func TestReadRecording(t *testing.T) {
	p, err := profile.Find("ecowatt-sim")
	if err != nil {
		t.Fatal(err)
	}
	const text = "time,pac_w,iac1_a,temp_c\n" +
		"2026-06-21T12:00:00+02:00,70014.9,30.46,-3.25\n" +
		"2026-06-21T10:00:02Z,8,,1e1\n" +
		"2026-06-21T10:00:04Z,0,1,1\n"
	rec, err := readRecording(strings.NewReader(text), recordingOptions{profile: p, gains: map[string]int{"iac1": 100}})
	if err != nil {
		t.Fatal(err)
	}
	known := ecowatt.Known
	want := []ecowatt.Block{{Inverter: "the inverter", Points: []string{"iac1", "temp", "export_power_percent", "pac"}, Samples: []ecowatt.Sample{
		{At: 1782036000000, Values: []ecowatt.Value{known(3046), known(-33), known(100), known(7002)}},
		{At: 1782036002000, Values: []ecowatt.Value{{}, known(100), known(100), known(1)}},
	}}}
	if diff := cmp.Diff(want, rec.blocks(450)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := len(rec.blocks(1)); n != 2 {
		t.Errorf("%d blocks of one sample", n)
	}
}

func TestBenchBlockRefuses(t *testing.T) {
	tests := []struct {
		name, text string
		args       []string
		code       int
		want       string
	}{
		{"no size", recorded(20), []string{"--samples", "0"}, 2, "--samples: 0"},
		{"too large", recorded(20), []string{"--samples", fmt.Sprint(block.MaxSamples + 1)}, 2, "--samples: 4097"},
		{"unknown point", recorded(20), []string{"--gains", "vac9=10"}, 2, "--gains: vac9=10"},
		{"unknown inverter", recorded(20), []string{"--inverters", "inv3"}, 1, "no sample"},
		{"empty", "", nil, 1, "it is empty"},
		{"no time", "at,pac_w\n1,2\n", nil, 1, `no column "time"`},
		{"no power", "time,vac1_v\n", nil, 1, `no column "pac_w"`},
		{"nothing to choose by", "time,pac_w\n", []string{"--inverters", "inv1"}, 1, `no column "inverter"`},
		{"bad time", "time,pac_w\n2026-06-21,1\n", nil, 1, "line 2: time: "},
		{"bad number", "time,pac_w\n2026-06-21T10:00:00Z,1\n2026-06-21T10:00:02Z,x\n", nil, 1, `line 3: pac: "x"`},
		{"not a number", "time,pac_w\n2026-06-21T10:00:00Z,NaN\n", nil, 1, `line 2: pac: "NaN"`},
		{"ragged", "time,pac_w\n2026-06-21T10:00:00Z,1,1\n", nil, 1, "wrong number of fields"},
		{"half a gzip", "\x1f\x8b\x08", nil, 1, "unexpected EOF"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			file := writeFile(t, "x.csv", []byte(test.text))
			code, out, talk := bench(t, append([]string{file}, test.args...)...)
			if code != test.code || out != "" || !strings.Contains(talk, test.want) {
				t.Errorf("exit %d, %q, %q; want exit %d and %q", code, out, talk, test.code, test.want)
			}
		})
	}
	if code, _, talk := bench(t, filepath.Join(t.TempDir(), "none.csv")); code != 1 || !strings.Contains(talk, "none.csv") {
		t.Errorf("a file that is not there: exit %d, %s", code, talk)
	}
}
