package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ecowatt/inverter/modbus"
)

// firstLine is a writer that hands on the first line written to it that has
// words.
type firstLine struct {
	line  chan string // of capacity 1
	words string
	text  []byte
	seen  int // bytes of text
	done  bool
}

func (w *firstLine) Write(p []byte) (int, error) {
	w.text = append(w.text, p...)
	for !w.done {
		line, _, ok := bytes.Cut(w.text[w.seen:], []byte("\n"))
		if !ok {
			break
		}
		w.seen += len(line) + 1
		if bytes.Contains(line, []byte(w.words)) {
			w.done = true
			w.line <- string(line)
		}
	}
	return len(p), nil
}

// startSim runs "ecowatt sim" with args on a free port until the test ends or
// stop is called, which returns the exit code.
func startSim(t *testing.T, args ...string) (address string, stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stderr := &firstLine{line: make(chan string, 1), words: "listening"}
	var stdout bytes.Buffer
	code := make(chan int, 1)
	go func() {
		args := append([]string{"sim", "--modbus-tcp", "127.0.0.1:0"}, args...)
		code <- run(ctx, args, func(string) string { return "" }, stdio{in: strings.NewReader(""), out: &stdout, err: stderr})
	}()
	stop = func() int {
		cancel()
		c := <-code
		code <- c // for the next to ask
		return c
	}
	t.Cleanup(func() {
		if c := stop(); c != 0 || stdout.Len() > 0 {
			t.Errorf("exit code %d, stdout %q", c, stdout.String())
		}
	})
	select {
	case line := <-stderr.line:
		m := regexp.MustCompile(`listening.* address=(127\.0\.0\.1:\d+) `).FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("the line is %q", line)
		}
		return m[1], stop
	case c := <-code:
		code <- c
		t.Fatalf("exit code %d: %s", c, stderr.text)
	}
	return "", nil
}

// readAll reads the ten registers of a unit.
func readAll(t *testing.T, address string, unit byte) []uint16 {
	t.Helper()
	c := modbus.NewClient(address, modbus.ClientOptions{Timeout: 10 * time.Second})
	defer c.Close()
	words, err := c.Do(t.Context(), modbus.Request{Unit: unit, Function: modbus.ReadHolding, Count: 10})
	if err != nil {
		t.Fatal(err)
	}
	return words
}

func TestSim(t *testing.T) {
	trace := filepath.Join(t.TempDir(), "trace.jsonl")
	if err := os.WriteFile(trace, []byte("{\"before\":true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address, stop := startSim(t, "--start-at", "10:30", "--inverters", "2", "--seed", "5", "--trace", trace, "--speed", "0.5")
	words := readAll(t, address, 18)
	if pac := words[9]; pac < 500 || words[8] != 100 {
		t.Errorf("in the morning, unit 18 has %v", words)
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	var got struct {
		T       int64
		Unit    int
		Address int
		Words   []uint16
	}
	if err := json.Unmarshal([]byte(lines[1]), &got); err != nil || lines[0] != "{\"before\":true}\n" || len(lines) != 3 {
		t.Fatalf("%v in %q", err, text)
	}
	if ago := time.Since(time.UnixMilli(got.T)); ago < 0 || ago > time.Minute || got.Unit != 18 || got.Address != 0 || !slices.Equal(got.Words, words) {
		t.Errorf("read %v, traced %+v", words, got)
	}
	if code := stop(); code != 0 {
		t.Errorf("stopped with exit code %d", code)
	}
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("it still listens")
	}
}

// TestSimWeather: each sky gives what it must at noon and at midnight.
func TestSimWeather(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dim.csv")
	if err := os.WriteFile(file, []byte("time,poa_wm2,tamb_c\n2026-06-01T12:00:00Z,49,-9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		weather, at string
		least, most uint16
	}{
		{"", "12:00", 4000, 5000},
		{"", "00:00", 0, 0},
		{"clear", "12:00", 5000, 5000},
		{"overcast", "10:00", 150, 350},
		{"mixed", "12:00", 2000, 5000},
		{file, "23:59", 200, 300},
	} {
		args := []string{"--start-at", x.at}
		if x.weather != "" {
			args = append(args, "--weather", x.weather)
		}
		address, stop := startSim(t, args...)
		if pac := readAll(t, address, 17)[9]; pac < x.least || pac > x.most {
			t.Errorf("%q at %s: %d W, want %d to %d", x.weather, x.at, pac, x.least, x.most)
		}
		stop()
	}
}

// TestSimRepeats: the same flags give the same values; a step may pass before
// the first read.
func TestSimRepeats(t *testing.T) {
	read := func(seed string) []uint16 {
		address, stop := startSim(t, "--seed", seed, "--speed", "0.000001")
		defer stop()
		return readAll(t, address, 17)
	}
	if a, b := read("1"), read("1"); !slices.Equal(a, b) {
		t.Errorf("%v and %v", a, b)
	}
	if a, b := read("1"), read("2"); slices.Equal(a, b) {
		t.Errorf("another seed gives %v too", a)
	}
}

// TestSimState: the counters outlive the simulator.
func TestSimState(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state.json")
	total := func(args ...string) uint32 {
		t.Helper()
		address, stop := startSim(t, append(args, "--state", file)...)
		c := modbus.NewClient(address, modbus.ClientOptions{Timeout: 10 * time.Second})
		defer c.Close()
		var got uint32
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
			words, err := c.Do(t.Context(), modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: 104, Count: 2})
			if err != nil {
				t.Fatal(err)
			}
			if got = uint32(words[0])<<16 | uint32(words[1]); got > 0 {
				break
			}
		}
		if code := stop(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		return got
	}
	first := total("--speed", "1000")
	if again := total("--start-at", "00:00"); again < first || first == 0 {
		t.Errorf("%d, and after another start %d", first, again)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestSimFaults: those of the flags and of the script, in this order; and the
// plant that the flags describe.
func TestSimFaults(t *testing.T) {
	dir := t.TempDir()
	script, trace := filepath.Join(dir, "faults"), filepath.Join(dir, "trace")
	if err := os.WriteFile(script, []byte("# busy\n{\"fault\": \"exception\", \"code\": 6, \"count\": 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	address, _ := startSim(t, "--fault", `{"fault": "exception", "code": 4, "count": 1}`, "--faults", script, "--trace", trace,
		"--rtu-tcp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--http-key", "k", "--clouds", "1", "--grid-voltage", "231", "--limit-floor", "5", "--limit-ramp", "50", "--zero-stops", "--day-ends", "00:07")
	c := modbus.NewClient(address, modbus.ClientOptions{Timeout: 10 * time.Second})
	defer c.Close()
	r := modbus.Request{Unit: 17, Function: modbus.ReadHolding, Count: 10}
	for _, want := range []modbus.ExceptionError{modbus.ErrDeviceFailure, modbus.ErrBusy} {
		if _, err := c.Do(t.Context(), r); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	if words, err := c.Do(t.Context(), r); err != nil || words[9] < 500 || words[9] > 3000 {
		t.Errorf("under clouds at noon: %v, %v", words, err)
	}
	text, err := os.ReadFile(trace)
	if lines := strings.Split(string(text), "\n"); err != nil || len(lines) != 4 || !strings.Contains(lines[1], `"fault":"exception"`) || strings.Contains(lines[2], "fault") {
		t.Errorf("%v, traced:\n%s", err, text)
	}
}

// TestSimKey: a key is made and told where none is given.
func TestSimKey(t *testing.T) {
	for _, given := range []string{"", "secret of a test"} {
		ctx, cancel := context.WithCancel(t.Context())
		stderr := &firstLine{line: make(chan string, 1)}
		code := make(chan int, 1)
		go func() {
			code <- run(ctx, []string{"sim", "--modbus-tcp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--http-key", given},
				func(string) string { return "" }, stdio{in: strings.NewReader(""), out: io.Discard, err: stderr})
		}()
		first := <-stderr.line
		cancel()
		if c := <-code; c != 0 {
			t.Errorf("exit code %d", c)
		}
		made := regexp.MustCompile(`key=[A-Z2-7]{26}$`).MatchString(first)
		if made != (given == "") || given != "" && bytes.Contains(stderr.text, []byte(given)) {
			t.Errorf("with the key %q the first line is %s", given, first)
		}
	}
}

// TestSimInverters: several inverters with maps of their own on one address. One
// with SunSpec is discovered, wherever its map begins, and read by the profile
// that is made of it.
func TestSimInverters(t *testing.T) {
	address, _ := startSim(t, "--inverter", "unit=1,profile=huawei-sun2000", "--inverter", "profile=ecowatt-sim,count=2",
		"--inverter", "unit=40,profile=sunspec", "--inverter", "unit=50,profile=sunspec,base=50000,models=floats,phases=3",
		"--inverter", "unit=60,profile=sunspec,base=0,models=ieee1547,phases=2", "--seed", "3", "--speed", "0.001")
	dir := t.TempDir()
	probe := func(name, unit string) map[string]probePoint {
		t.Helper()
		code, stdout, stderr := probeCommand(t, "modbus-tcp://"+address, "--profile", name, "--profiles", dir, "--unit", unit, "--json")
		var got probeReport
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 {
			t.Fatalf("probing %s: %v, exit code %d: %s", name, err, code, stderr)
		}
		points := map[string]probePoint{}
		for _, p := range got.Points {
			points[p.Name] = p
		}
		return points
	}
	for _, x := range []struct{ name, unit string }{{"huawei-sun2000", "1"}, {"ecowatt-sim", "17"}, {"ecowatt-sim", "18"}, {"", "40"}, {"", "50"}, {"", "60"}} {
		name := x.name
		if name == "" {
			name = "roof" + x.unit
			code, stdout, stderr := profileCommand(t, "discover", "modbus-tcp://"+address, "--name", name, "--unit", x.unit)
			if code != 0 {
				t.Fatalf("discovering unit %s: exit code %d: %s", x.unit, code, stderr)
			}
			if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(stdout), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		points := probe(name, x.unit)
		for _, point := range []string{"pac", "vac1", "fac1"} {
			if p := points[point]; p.Value == nil || *p.Raw <= 0 {
				t.Errorf("unit %s: %+v", x.unit, p)
			}
		}
		if p := points["export_power_percent"]; p.Value == nil || p.Error != "" {
			t.Errorf("unit %s: the limit is %+v", x.unit, p)
		}
	}
}

func TestSimRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.csv")
	if err := os.WriteFile(bad, []byte("time,poa_wm2,tamb_c\n2026-06-01T12:00:00Z,much,20\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	trace := filepath.Join(dir, "trace")
	for _, x := range []struct {
		args string
		code exitCode
		want []string
	}{
		{"--modbus-tcp " + taken.Addr().String() + " --trace " + trace, 1, []string{taken.Addr().String(), "in use"}},
		{"--modbus-tcp nonsense", 1, []string{"--modbus-tcp", "nonsense"}},
		{"--profile acme", 1, []string{"--profile", "acme", "ecowatt-sim"}},
		{"--weather sunny", 1, []string{"sunny", "clear, mixed, overcast"}},
		{"--weather " + dir, 1, []string{dir}},
		{"--weather " + bad, 1, []string{bad, "line 2", "poa_wm2", "much"}},
		{"--trace " + dir, 1, []string{"--trace", dir}},
		{"--speed 0", 2, []string{"--speed", "0"}},
		{"--speed 10001", 2, []string{"--speed", "10000"}},
		{"--speed NaN", 2, []string{"--speed", "NaN"}},
		{"--speed fast", 2, []string{"--speed", "fast"}},
		{"--inverters 0", 2, []string{"--inverters", "1", "231"}},
		{"--inverters 232", 2, []string{"--inverters", "231"}},
		{"--start-at noon", 2, []string{"--start-at", "noon", "10:30"}},
		{"--start-at 24:00", 2, []string{"--start-at", "24:00"}},
		{"--seed -1", 2, []string{"--seed"}},
		{"--clouds 1.5", 2, []string{"--clouds", "1.5"}},
		{"--clouds 0.5 --weather mixed", 2, []string{"--clouds", "mixed"}},
		{"--grid-voltage 100", 2, []string{"--grid-voltage", "180"}},
		{"--grid-ohms -1", 2, []string{"--grid-ohms"}},
		{"--limit-floor 101", 2, []string{"--limit-floor", "100"}},
		{"--limit-ramp 0", 2, []string{"--limit-ramp", "100"}},
		{"--limit-ramp 101", 2, []string{"--limit-ramp", "100"}},
		{"--day-ends late", 2, []string{"--day-ends", "late", "10:30"}},
		{"--connections 0", 2, []string{"--connections"}},
		{"--rtu-tcp " + taken.Addr().String(), 1, []string{"--rtu-tcp", "in use"}},
		{"--http " + taken.Addr().String(), 1, []string{"--http", "in use"}},
		{"--rtu /dev/ttyNONE?baud=9600", 1, []string{"--rtu", "/dev/ttyNONE"}},
		{"--rtu /dev/ttyS0?baud=1", 2, []string{"--rtu", "baud"}},
		{`--fault {"fault":"rain"}`, 2, []string{"--fault", "rain", "exception"}},
		{"--faults " + bad, 1, []string{"--faults", bad, "line 1"}},
		{"--faults " + dir + "/none", 1, []string{"--faults", "none"}},
		{"--state " + bad, 1, []string{"--state", bad}},
		{"--state " + dir + "/none/state", 1, []string{"--state", "none"}},
		{"now", 2, []string{"now"}},
	} {
		t.Run(x.args, func(t *testing.T) { simRefuses(t, x.args, x.code, x.want) })
	}
	if _, err := os.Stat(trace); err == nil {
		t.Error("a trace was begun although the address is taken")
	}
}

// simRefuses checks that "ecowatt sim" with args ends with a code, and that its
// first line has the words.
func simRefuses(t *testing.T, args string, want exitCode, words []string) {
	t.Helper()
	all := append([]string{"sim", "--modbus-tcp", "127.0.0.1:0"}, strings.Fields(args)...)
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), all, func(string) string { return "" }, stdio{in: strings.NewReader(""), out: &stdout, err: &stderr})
	lines := strings.Count(stderr.String(), "\n")
	if code != int(want) || stdout.Len() > 0 || lines < 1 || lines > 2 {
		t.Errorf("exit code %d, want %d; stdout %q, stderr:\n%s", code, want, stdout.String(), stderr.String())
	}
	first, _, _ := strings.Cut(stderr.String(), "\n")
	for _, word := range words {
		if !strings.Contains(first, word) {
			t.Errorf("does not name %q: %s", word, first)
		}
	}
}

// TestSimInverterDocumented: every --inverter that a document or the help shows
// is one.
func TestSimInverterDocumented(t *testing.T) {
	var f simFlags
	shown := regexp.MustCompile(`--inverter (unit=\S+)`)
	for _, file := range []string{"../../docs/simulator.md", "sim.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all := shown.FindAllSubmatch(text, -1)
		if len(all) < 2 {
			t.Errorf("%s shows %d", file, len(all))
		}
		for _, m := range all {
			if _, err := f.describe(string(m[1])); err != nil {
				t.Errorf("%s: %s: %v", file, m[1], err)
			}
		}
	}
}

// TestSimInverterRefuses: what --inverter cannot mean is told by its field.
func TestSimInverterRefuses(t *testing.T) {
	for _, x := range []struct {
		args string
		code exitCode
		want []string
	}{
		{"--profile sunspec --inverters 248", 2, []string{"--inverters", "247"}},
		{"--inverter unit=1 --inverters 2", 2, []string{"inverter", "inverters"}},
		{"--inverter unit=1 --profile sma", 2, []string{"inverter", "profile"}},
		{"--inverter roof", 2, []string{"--inverter", "roof", "unit, profile"}},
		{"--inverter color=1", 2, []string{"--inverter", "color"}},
		{"--inverter unit=1,unit=2", 2, []string{"--inverter", "unit stands twice"}},
		{"--inverter unit=one", 2, []string{"--inverter", "unit", "one"}},
		{"--inverter unit=0", 2, []string{"--inverter", "unit", "247"}},
		{"--inverter unit=248", 2, []string{"--inverter", "unit", "247"}},
		{"--inverter unit=5 --inverter unit=3,count=3", 2, []string{"--inverter unit=3,count=3", "unit 5"}},
		{"--inverter unit=5,count=0", 2, []string{"--inverter", "count"}},
		{"--inverter unit=5,count=244", 2, []string{"--inverter", "count"}},
		{"--inverter unit=5,base=50000", 2, []string{"--inverter", "base", "sunspec"}},
		{"--inverter unit=5,profile=sunspec,base=1", 2, []string{"--inverter", "base", "40000"}},
		{"--inverter unit=5,profile=sunspec,base=105536", 2, []string{"--inverter", "base"}},
		{"--inverter unit=5,profile=sunspec,models=all", 2, []string{"--inverter", "models", "ieee1547"}},
		{"--inverter unit=5,profile=sunspec,phases=0", 2, []string{"--inverter", "phases"}},
		{"--inverter unit=5,profile=acme", 1, []string{"--inverter", "acme"}},
	} {
		t.Run(x.args, func(t *testing.T) { simRefuses(t, x.args, x.code, x.want) })
	}
}
