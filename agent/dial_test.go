package agent

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ecowatt/inverter"
	"ecowatt/inverter/modbus"
)

// TestKeyOfAnInverter: the key in the file is what the inverter is asked with,
// and nothing else tells it.
func TestKeyOfAnInverter(t *testing.T) {
	const secret = "Tk9UIEEgS0VZ:x"
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		return name
	}
	asked := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked = r.Header.Get("Authorization") }))
	defer server.Close()
	settings := write(SettingsFile, fmt.Sprintf("inverters: [{name: a, connect: %q, key_file: a.key, profile: ecowatt-sim}]", server.URL), 0o600)

	load := func() (Settings, error) { return LoadSettings(settings, "") }
	for _, x := range []struct {
		text string
		mode os.FileMode
		want string
	}{
		{secret, 0o644, "a.key may be read by others: chmod 600 "},
		{secret, 0o640, "may be read by others"},
		{"", 0o600, "a.key has no key"},
		{"\n", 0o600, "a.key has no key"},
		{secret + "\n" + secret, 0o600, "a.key has no key"},
		{secret + "\x00", 0o600, "a.key has no key"},
		{strings.Repeat("x", 1025), 0o600, "at most 1024"},
	} {
		write("a.key", x.text, x.mode)
		if _, err := load(); err == nil || !strings.Contains(err.Error(), "inverters[0]: key_file: ") || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%q, %v: %v, want %q", x.text, x.mode, err, x.want)
		}
	}
	if err := os.Remove(filepath.Join(dir, "a.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := load(); err == nil || !strings.Contains(err.Error(), "a.key") {
		t.Errorf("no file: %v", err)
	}

	write("a.key", secret+"\n", 0o400)
	s, err := load()
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("settings", "inverter", s.Inverters[0], "key", s.Inverters[0].Key)
	inJSON, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	printed := fmt.Sprintf("%v %+v %#v %q %x", s, s, s, s.Inverters[0].Key, s.Inverters[0].Key) + log.String() + string(inJSON)
	if strings.Contains(printed, secret) || strings.Contains(printed, fmt.Sprintf("%x", secret)) || !strings.Contains(printed, "[key]") {
		t.Errorf("the key, printed: %s", printed)
	}
	source := dialModbus(s.Inverters)(s.Inverters[0])
	_, err = source.Read(t.Context(), 17, inverter.Read{Table: inverter.Holding, Count: 1})
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("read: %v", err)
	}
	if asked != secret {
		t.Errorf("asked with the key %q", asked)
	}
}

// TestPaceOfInverters: each is asked at its own pace, and those behind one
// address share a bus.
func TestPaceOfInverters(t *testing.T) {
	quick := inverter.Profile{Timing: inverter.Timing{Gap: 20 * time.Millisecond}}
	slow := inverter.Profile{Timing: inverter.Timing{Connect: time.Second, Gap: 250 * time.Millisecond, Timeout: 10 * time.Second}}
	wire := modbus.Endpoint{Kind: modbus.KindRTU, Line: modbus.Line{Device: "/dev/x"}}
	gateway := modbus.Endpoint{Kind: modbus.KindTCP, Address: "h:502"}
	all := []InverterSettings{
		{Name: "a", Connect: wire, Profile: quick},
		{Name: "b", Connect: wire, Profile: slow},
		{Name: "c", Connect: gateway, Profile: slow},
		{Name: "d", Connect: gateway, Profile: quick},
	}
	dial := dialModbus(all)
	var sources []modbusSource
	for _, in := range all {
		s := dial(in).(modbusSource)
		if s.pace != modbus.Pace(in.Profile.Timing) {
			t.Errorf("%s: pace %+v", in.Name, s.pace)
		}
		sources = append(sources, s)
	}
	if sources[0].bus != sources[1].bus || sources[2].bus != sources[3].bus || sources[0].bus == sources[2].bus {
		t.Error("the buses are not one for each address")
	}
	for _, x := range []struct {
		inverters []InverterSettings
		want      time.Duration
	}{{all[:2], 0}, {all[2:], 20 * time.Millisecond}, {all[2:3], 250 * time.Millisecond}} {
		if got := commonGap(x.inverters); got != x.want {
			t.Errorf("gap behind %v: %v, want %v", x.inverters[0].Connect, got, x.want)
		}
	}
}
