package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ecowatt/inverter/modbus"
	"ecowatt/inverter/profile"
)

// profileCommand runs "ecowatt profile" with args.
func profileCommand(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, talk bytes.Buffer
	code = run(t.Context(), append([]string{"profile"}, args...), func(string) string { return "" },
		stdio{in: strings.NewReader(""), out: &out, err: &talk})
	return code, out.String(), talk.String()
}

// own is a folder with one profile of an installer.
func own(t *testing.T, text string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

const mine = `format: 1
name: mine
title: "My \u2028inverter"
source: a label on it
registers: [{point: state, address: 8, type: enum16, names: {100: all well}}]
`

func TestProfileList(t *testing.T) {
	dir := own(t, mine)
	code, stdout, stderr := profileCommand(t, "list", "--profiles", dir)
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	for _, name := range append(profile.List(), "mine", "community", "installer") {
		if !strings.Contains(stdout, name) {
			t.Errorf("%s is not listed:\n%s", name, stdout)
		}
	}
	code, stdout, _ = profileCommand(t, "list", "--json")
	var rows []profileRow
	if err := json.Unmarshal([]byte(stdout), &rows); err != nil || code != 0 || len(rows) != len(profile.List()) {
		t.Errorf("exit code %d, %d rows, %v", code, len(rows), err)
	}
	for _, r := range rows {
		if r.Name == "sma" && len(r.Writable) != 0 || r.Name == "solis" && len(r.Writable) != 1 {
			t.Errorf("%s: writable %v", r.Name, r.Writable)
		}
	}
}

func TestProfileShow(t *testing.T) {
	code, stdout, stderr := profileCommand(t, "show", "solaredge")
	for _, want := range []string{
		"solaredge: SolarEdge", "(community)", "serial                holding    40052  string of 16",
		"pac                   holding    40083  s16           by 40084  W", "export_power_percent  holding    61441  u16           1         %     fast  1 … 100",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("%q is missing (exit code %d, %q):\n%s", want, code, stderr, stdout)
		}
	}
	code, stdout, _ = profileCommand(t, "show", "solis", "--yaml")
	if _, err := profile.Parse("solis.yaml", []byte(stdout)); err != nil || code != 0 {
		t.Errorf("exit code %d, %v", code, err)
	}
	if code, _, stderr := profileCommand(t, "show", "acme"); code != 4 || !strings.Contains(stderr, "there are: deye-hybrid") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

func TestProfileCheck(t *testing.T) {
	file := filepath.Join(own(t, mine), "mine.yaml")
	if code, stdout, _ := profileCommand(t, "check", file); code != 0 || stdout != "mine: good; points: 1; writable: —\n" {
		t.Errorf("exit code %d, %q", code, stdout)
	}
	file = filepath.Join(own(t, strings.NewReplacer("address: 8", "address: -8", "title", "tilte").Replace(mine)), "mine.yaml")
	code, stdout, stderr := profileCommand(t, "check", file)
	if lines := strings.Split(stdout, "\n"); code != 1 || len(lines) != 4 || !strings.HasPrefix(lines[0], file+":3: tilte: unknown field") ||
		!strings.Contains(lines[2], "registers[0].address: -8 is not within") || !strings.Contains(stderr, "mistakes told: 3") {
		t.Errorf("exit code %d, %q, %q", code, stdout, stderr)
	}
	if code, _, stderr := profileCommand(t, "check", file+".none"); code != 4 || !strings.Contains(stderr, "no such file") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

// sunspecInverter is one phase by SunSpec, with nothing but power and state.
func sunspecInverter(_ context.Context, r modbus.Request) ([]uint16, error) {
	words := map[uint16]uint16{
		40000: 0x5375, 40001: 0x6e53, 40002: 1, 40003: 66, 40004: 'A'<<8 | 'B', 40020: 'C' << 8, 40052: '7'<<8 | '8', 40070: 101, 40071: 50,
		40084: 1234, 40085: 0, 40108: 4, 40122: 0xffff,
	}
	if r.Function != modbus.ReadHolding || r.Address < 40000 || r.Unit != 1 {
		return nil, modbus.ErrIllegalAddress
	}
	got := make([]uint16, r.Count)
	for i := range got {
		got[i] = words[r.Address+uint16(i)]
	}
	return got, nil
}

func TestProfileDiscover(t *testing.T) {
	at := "modbus-tcp://" + startInverter(t, sunspecInverter)
	code, stdout, stderr := profileCommand(t, "discover", at, "--name", "mine")
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, %q", code, stderr)
	}
	// What it prints is a profile that reads the inverter.
	code, stdout, stderr = probeCommand(t, at, "--profile", "mine", "--profiles", own(t, stdout))
	if code != 0 || !strings.Contains(stdout, "1234.0  W") || !strings.Contains(stdout, "tracking") || !strings.Contains(stdout, "78") {
		t.Errorf("exit code %d, %q:\n%s", code, stderr, stdout)
	}
	code, stdout, stderr = probeCommand(t, at, "--profile", "sunspec", "--json")
	var r probeReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != 0 || r.Texts["serial"] != "78" || r.Texts["manufacturer"] != "AB" {
		t.Errorf("exit code %d, %v, %q: %+v", code, err, stderr, r.Texts)
	}
	for _, args := range [][]string{{at}, {at, "--name", "No"}, {"nowhere", "--name", "mine"}, {at, "--name", "mine", "--timeout", "0s"}} {
		if code, _, stderr := profileCommand(t, append([]string{"discover"}, args...)...); code != 2 {
			t.Errorf("%v: exit code %d, %q", args, code, stderr)
		}
	}
	at = "modbus-tcp://" + startInverter(t, bank(nil))
	if code, stdout, stderr := profileCommand(t, "discover", at, "--name", "mine", "--unit", "17"); code != 1 || stdout != "" || !strings.Contains(stderr, "SunSpec") {
		t.Errorf("no map: exit code %d, %q", code, stderr)
	}
}
