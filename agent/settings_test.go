package agent

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
)

const simInverter = `
inverters:
  - {name: inv1, connect: "modbus-tcp://192.168.1.20", profile: ecowatt-sim}
`

func TestParseSettings(t *testing.T) {
	sim, err := profile.Find("ecowatt-sim")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, text string
		want       Settings
	}{
		{"least", simInverter, Settings{
			Inverters:        []InverterSettings{{Name: "inv1", Connect: modbus.Endpoint{Kind: modbus.KindTCP, Address: "192.168.1.20:502"}, Unit: 17, Profile: sim, Points: sim.PointNames()}},
			SamplingInterval: 5 * time.Second, UploadInterval: 15 * time.Minute, FlushInterval: 10 * time.Second, BufferLimit: 64 << 20, WriteBudget: 100, LogLevel: slog.LevelInfo, Compression: "best", NightMode: "slow", UpdateWindow: "always",
		}},
		{"everything", `
cloud_url: http://127.0.0.1:8080/
inverters:
  - name: east
    connect: rtu:///dev/ttyUSB0?baud=19200&parity=even
    unit: 1
    profile: ecowatt-sim
    points: [pac, vac1]
  - name: west
    connect: modbus-tcp://gateway.local:502
    unit: 247
    profile: ecowatt-sim
sampling_interval: 2.5
upload_interval: 15
flush_interval: 0
buffer_limit_mib: 1
log_level: debug
compression: none
payload_cap: 2048
aggregation_window: 60
night_mode: full
update_window: 22:00-04:30
download_budget: 65536
fixed: [log_level, upload_interval]
allow_control: true
hardware: demo
`, Settings{
			CloudURL: "http://127.0.0.1:8080",
			Inverters: []InverterSettings{
				{Name: "east", Connect: modbus.Endpoint{Kind: modbus.KindRTU, Line: modbus.Line{Device: "/dev/ttyUSB0", Baud: 19200, Parity: modbus.EvenParity, StopBits: 1}}, Unit: 1, Profile: sim, Points: []string{"pac", "vac1"}},
				{Name: "west", Connect: modbus.Endpoint{Kind: modbus.KindTCP, Address: "gateway.local:502"}, Unit: 247, Profile: sim, Points: sim.PointNames()},
			},
			SamplingInterval: 2500 * time.Millisecond, UploadInterval: 15 * time.Second, BufferLimit: 1 << 20, WriteBudget: 100,
			LogLevel: slog.LevelDebug, AllowControl: true, Hardware: "demo",
			Compression: "none", PayloadCap: 2048, AggregationWindow: time.Minute, NightMode: "full", UpdateWindow: "22:00-04:30", DownloadBudget: 65536, Fixed: []string{"log_level", "upload_interval"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseSettings([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseSettingsRefuses(t *testing.T) {
	with := func(line string) string { return simInverter + line + "\n" }
	inverterWith := func(from, to string) string {
		if !strings.Contains(simInverter, from) {
			t.Fatalf("%s is not in the settings", from)
		}
		return strings.Replace(simInverter, from, to, 1)
	}
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "inverters: none is given"},
		{"only a comment", "# nothing", "inverters: none is given"},
		{"not YAML", "inverters: [", "did not find"},
		{"a list", "- 1", "line 1"},
		{"two documents", with("---\nlog_level: debug"), "something follows"},
		{"unknown setting", with("sampling: 3"), "line 4: there is no setting sampling"},
		{"two unknown settings", with("a: 3\nb: 3"), "line 4: there is no setting a; line 5: there is no setting b"},
		{"setting twice", with("log_level: info\nlog_level: info"), "already defined"},
		{"too large", simInverter + strings.Repeat("#", maxSettingsSize), "larger than 65536"},
		{"cloud", with("cloud_url: ftp://x"), "cloud_url: "},
		{"sampling too quick", with("sampling_interval: 0.1"), "sampling_interval: 0.1 s is not within 1 and 3600 s"},
		{"sampling too slow", with("sampling_interval: 3600.5"), "sampling_interval: 3600.5 s"},
		{"sampling not a number", with("sampling_interval: .nan"), "sampling_interval: NaN s"},
		{"sampling a text", with("sampling_interval: soon"), "line 4"},
		{"upload too quick", with("upload_interval: 0"), "upload_interval: 0 s is not within 1 and 86400 s"},
		{"upload too slow", with("upload_interval: 86401"), "upload_interval: "},
		{"flush negative", with("flush_interval: -1"), "flush_interval: -1 s is not within 0 and 600 s"},
		{"flush too slow", with("flush_interval: 601"), "flush_interval: "},
		{"buffer too small", with("buffer_limit_mib: 0"), "buffer_limit_mib: 0 is not within 1 and 1048576"},
		{"buffer too large", with("buffer_limit_mib: 1048577"), "buffer_limit_mib: "},
		{"level", with("log_level: info+2"), `log_level: "info+2" is none of debug, info, warn and error`},
		{"compression", with("compression: zip"), `compression: "zip" is none of none, fast, best`},
		{"compression a number", with("compression: 1"), "compression: 1 is not a word"},
		{"cap too small", with("payload_cap: 100"), "payload_cap: 100 is not in 0, 256 … 65536 byte"},
		{"window", with("aggregation_window: 1.5"), "aggregation_window: 1.5 is not a whole number"},
		{"night", with("night_mode: dark"), "night_mode: "},
		{"window", with("update_window: nightly"), "update_window: "},
		{"budget", with("download_budget: 1"), "download_budget: "},
		{"fixed", with("fixed: [sampling]"), `fixed: there is no parameter "sampling"`},
		{"control", with("allow_control: perhaps"), "line 4"},
		{"hardware too long", with("hardware: " + strings.Repeat("x", 65)), "hardware: "},
		{"hardware in colour", with(`hardware: "\e[31m"`), "hardware: "},
		{"too many inverters", "inverters:\n" + strings.Repeat("  - {name: x}\n", maxInverters+1), "33 are given, at most 32"},
		{"name", inverterWith("inv1", "Inv 1"), `inverters[0]: name "Inv 1"`},
		{"name twice", simInverter + `  - {name: inv1, connect: "modbus-tcp://192.168.1.21", profile: ecowatt-sim}`, `inverters[1]: name: "inv1" stands twice`},
		{"no address", inverterWith(`connect: "modbus-tcp://192.168.1.20", `, ""), "inverters[0]: connect: missing"},
		{"address scheme", inverterWith("modbus-tcp:", "ftp:"), "inverters[0]: connect: "},
		{"address path", inverterWith(".20", ".20/x"), "inverters[0]: connect: "},
		{"address without host", inverterWith("192.168.1.20", ":502"), "names no host"},
		{"address port", inverterWith(".20", ".20:70000"), "the port is not within 1 and 65535"},
		{"unit", inverterWith("inv1,", "inv1, unit: 256,"), "inverters[0]: unit: 256 is not within 0 and 255"},
		{"unit of frames", inverterWith("\"modbus-tcp://192.168.1.20\"", "\"rtu-tcp://192.168.1.20:502\", unit: 248"), "inverters[0]: unit: 248 is not within 1 and 247"},
		{"unit 0 of a wire", inverterWith("\"modbus-tcp://192.168.1.20\"", "\"rtu:///dev/ttyUSB0\", unit: 0"), "inverters[0]: unit: 0"},
		{"a key that goes nowhere", inverterWith("inv1,", "inv1, key_file: inv1.key,"), "inverters[0]: key_file: only an http address has a key"},
		{"two keys at one address", "inverters:\n" +
			"  - {name: a, connect: \"http://h:1\", key_file: a, profile: ecowatt-sim}\n" +
			"  - {name: b, connect: \"http://h:1/\", key_file: b, unit: 2, profile: ecowatt-sim}", "inverters[1]: key_file: it is another one than that of a"},
		{"two speeds on one wire", "inverters:\n" +
			"  - {name: a, connect: \"rtu:///dev/x\", profile: ecowatt-sim}\n" +
			"  - {name: b, connect: \"rtu:///dev/x?baud=19200\", unit: 2, profile: ecowatt-sim}", "inverters[1]: connect: rtu:///dev/x?baud=19200&parity=none&stop=1 is the line of a"},
		{"two languages at one address", "inverters:\n" +
			"  - {name: a, connect: \"rtu-tcp://h:502\", profile: ecowatt-sim}\n" +
			"  - {name: b, connect: \"modbus-tcp://h\", unit: 2, profile: ecowatt-sim}", "inverters[1]: connect: modbus-tcp://h:502 is the line of a"},
		{"profile", inverterWith("ecowatt-sim", "acme"), `inverters[0]: profile: unknown profile "acme"; there are: deye-hybrid`},
		{"no profile", inverterWith(", profile: ecowatt-sim", ""), "inverters[0]: profile: "},
		{"point", inverterWith("inv1,", "inv1, points: [vac9],"), `inverters[0]: points: "vac9" is no point of profile ecowatt-sim, which has vac1`},
		{"point twice", inverterWith("inv1,", "inv1, points: [pac, pac],"), `inverters[0]: points: point "pac" stands twice`},
		{"unknown setting of an inverter", inverterWith("inv1,", "inv1, baud: 9600,"), "line 3: there is no setting baud"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := ParseSettings([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, c.want)
			}
		})
	}
}

func TestCheckPoints(t *testing.T) {
	in := wide(maxPoints + 1)
	if err := checkPoints(in.Profile, in.Points); err == nil || !strings.Contains(err.Error(), "257 are read; the cloud takes at most 256") {
		t.Errorf("too many points: %v", err)
	}
	if err := checkPoints(in.Profile, in.Points[1:]); err != nil {
		t.Errorf("as many points as allowed: %v", err)
	}
}

func TestLoadSettings(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, SettingsFile)
	if _, err := LoadSettings(name, ""); !errors.Is(err, ErrNoSettings) || !strings.Contains(err.Error(), name) {
		t.Errorf("no file: %v", err)
	}
	if _, err := ParseSettings([]byte(leastSettings)); err != nil {
		t.Errorf("what people are told to write is refused: %v", err)
	}
	if _, err := LoadSettings(dir, ""); err == nil {
		t.Error("a folder is taken for settings")
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log_level: loud\n")
	if _, err := LoadSettings(name, ""); err == nil || !strings.HasPrefix(err.Error(), name+": log_level") {
		t.Errorf("bad file: %v", err)
	}
	write(simInverter)
	if s, err := LoadSettings(name, ""); err != nil || s.Inverters[0].Name != "inv1" {
		t.Errorf("%+v, %v", s, err)
	}
}

func FuzzParseSettings(f *testing.F) {
	f.Add([]byte(simInverter))
	f.Add([]byte("inverters: [&a {name: x}, *a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSettings(data)
		switch {
		case err != nil && strings.ContainsAny(err.Error(), "\n"):
			t.Errorf("more than one line: %q", err)
		case err == nil && (len(s.Inverters) == 0 || s.SamplingInterval < time.Second || s.UploadInterval < time.Second || s.BufferLimit < 1<<20):
			t.Errorf("accepted %+v", s)
		}
	})
}
