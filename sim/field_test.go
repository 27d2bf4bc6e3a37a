//go:build linux

package sim

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ecowatt/inverter/modbus"
	"ecowatt/inverter/modbus/modbustest"
	"ecowatt/sim/fault"
)

// befallen is what has befallen people with inverters, and the tests that hold
// EcoWatt to doing well then.
type befallen struct {
	what string
	// Where a test goes over transports, they stand behind it. "case NAME" is a
	// case of modbustest that the tests of all clients with such frames have.
	tests []string
}

const (
	everywhere = " tcp rtutcp line http"
	leased     = " tcp rtutcp http" // a line is not of the clock that hours pass by in no time
)

// field lists all of it.
func field() []befallen {
	return []befallen{
		{"a late answer after the timeout", []string{"sim TestLateAnswersDoNotShiftTheNext" + everywhere, "inverter/modbus TestLateAnswers"}},
		{"another unit's answer comes first", []string{"case another unit's answer, then the answer", "case another unit"}},
		{"exception 02 inside of a block divides it, for good", []string{"sim TestBlockIsDivided" + everywhere, "agent/acquire TestRefusedBlockIsDivided"}},
		{"05, 06 and 0B are asked again, 01, 02 and 03 are not", []string{"sim TestBusRepeatsWhatIsBusy" + everywhere, "inverter/modbus TestBusRetries"}},
		{"the server is started again", []string{"sim TestRestart" + everywhere}},
		{"half a frame, then silence", []string{"sim TestFaultsOnEveryTransport" + everywhere, "case silence after 5 bytes"}},
		{"the echo of one's own request", []string{"case RTU echo of the request", "case RTU echo alone", "inverter/modbus TestEchoIsNoConfirmation"}},
		{"a wrong CRC", []string{"sim TestFaultsOnEveryTransport" + everywhere, "case RTU CRC bytes swapped"}},
		{"another transaction, or 0", []string{"case MBAP transaction 0", "case MBAP former transaction", "case MBAP later transaction"}},
		{"125 registers are asked for, and 126 are not", []string{"sim TestQuantities" + everywhere}},
		{"a scale factor of 0x8000, or beyond ±10", []string{"inverter TestDecodeWithAScaleFactor"}},
		{"no value, of each type", []string{"inverter/sunspec TestNotImplementedOfEachKind", "inverter TestDecode", "inverter TestDecodeFloat"}},
		{"a negative temperature", []string{"sim TestFrost" + everywhere, "inverter TestDecode"}},
		{"the low word first", []string{"inverter TestDecode", "inverter/profile TestContracts"}},
		{"a counter that begins again, or is 0 once and back", []string{"sim TestCounters", "agent/acquire TestStep"}},
		{"a block that is frozen", []string{"sim TestFrozen" + everywhere, "sim TestSoak", "sim TestFrozenIsTold", "agent/acquire TestStillness"}},
		{"a limit is written and has no effect", []string{"sim TestWritesThatDoNotHold" + everywhere, "sim TestLimitWithoutEffect" + leased, "agent/command TestOutcomes"}},
		{"another client writes over a limit", []string{"sim TestWritesThatDoNotHold" + everywhere, "sim TestAnotherController" + leased, "agent/command TestOverwritten"}},
		{"a limit ends while the cloud is away, after a restart, or after a jump of the clock", []string{
			"sim TestLease" + leased, "agent/command TestLeaseEnds", "agent/command TestStepOfTheClock",
		}},
		{"release brings back what was there before", []string{"sim TestLease" + leased, "agent/command TestRelease"}},
		{"the gateway dies while a limit is in force", []string{"sim TestTimerOfTheInverter" + leased, "sim TestFallback", "agent/command TestFed"}},
	}
}

// TestField: each of them has its tests, over every transport that it can befall.
func TestField(t *testing.T) {
	for _, x := range field() {
		if len(x.tests) == 0 {
			t.Errorf("%s: no test", x.what)
		}
		for _, proof := range x.tests {
			if name, ok := strings.CutPrefix(proof, "case "); ok {
				hasCase(t, x.what, name)
				continue
			}
			words := strings.Fields(proof)
			text := testSource(t, words[0], words[1])
			if text == "" {
				t.Errorf("%s: there is no %s in %s", x.what, words[1], words[0])
			}
			for _, transport := range words[2:] {
				if !strings.Contains(text, "eachTransport(") && !strings.Contains(text, "operate(") && !strings.Contains(text, `"`+transport+`"`) {
					t.Errorf("%s: %s does not go over %s", x.what, words[1], transport)
				}
			}
		}
	}
}

// TestEveryFaultIsTried: each fault that can be ordered is ordered over every
// transport that it applies to, and its effect looked at.
func TestEveryFaultIsTried(t *testing.T) {
	tests := map[fault.Kind]string{
		fault.Exception: "TestFaultsOnEveryTransport", fault.Drop: "TestFaultsOnEveryTransport", fault.Late: "TestFaultsOnEveryTransport",
		fault.CRC: "TestFaultsOnEveryTransport", fault.Corrupt: "TestFaultsOnEveryTransport", fault.Truncate: "TestFaultsOnEveryTransport",
		fault.Double: "TestFaultsOnEveryTransport", fault.WrongUnit: "TestFaultsOnEveryTransport", fault.Frozen: "TestFrozen",
		fault.NoEffect: "TestWritesThatDoNotHold", fault.Revert: "TestWritesThatDoNotHold", fault.Deaf: "TestWritesThatDoNotHold",
		fault.Asleep: "TestAsleep", fault.Lost: "TestLost",
		fault.OneClient: "TestOneClient", // on TCP only: a line and HTTP have no connections to refuse
	}
	for _, k := range fault.Kinds() {
		text := testSource(t, "sim", tests[k])
		kind := strings.ReplaceAll(strings.ToLower(text), "fault.", "_")
		if !strings.Contains(kind, "_"+strings.ReplaceAll(k.String(), "_", "")) {
			t.Errorf("no test orders %v", k)
		}
		if everywhere := strings.Contains(text, "eachTransport("); everywhere == (k == fault.OneClient) {
			t.Errorf("%v is not ordered where it applies", k)
		}
	}
}

// hasCase: the clients of all transports have the case, or those with the
// framing that stands before its name.
func hasCase(t *testing.T, what, name string) {
	t.Helper()
	framing, rest, _ := strings.Cut(name, " ")
	tried := 0
	for _, x := range []struct {
		test, framing string
		transport     modbustest.Transport
	}{
		{"TestClientTCP", "MBAP", modbustest.Transport{Framing: modbustest.MBAP}},
		{"TestClientRTUOverTCP", "RTU", modbustest.Transport{Framing: modbustest.RTU}},
		{"TestClientPTY", "RTU", modbustest.Transport{Framing: modbustest.RTU, Real: true}},
		{"TestClientHTTP", "HTTP", modbustest.Transport{Framing: modbustest.HTTP}},
	} {
		wanted := name
		switch framing {
		case "MBAP", "RTU":
			if wanted = rest; framing != x.framing {
				continue
			}
		}
		tried++
		if testSource(t, "inverter/modbus", x.test) == "" {
			t.Errorf("%s: there is no %s", what, x.test)
		}
		if !slices.Contains(x.transport.Cases(), wanted) {
			t.Errorf("%s: %s has no case %q", what, x.test, wanted)
		}
	}
	if tried == 0 {
		t.Errorf("%s: nobody has frames of %q", what, framing)
	}
}

// testSource is the text of a test function of a package; empty if there is none.
func testSource(t *testing.T, dir, name string) (text string) {
	t.Helper()
	files, err := fs.Glob(os.DirFS(filepath.Join("..", dir)), "*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		source, err := os.ReadFile(filepath.Join("..", dir, file))
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == name {
				return string(source[set.Position(f.Pos()).Offset:set.Position(f.End()).Offset])
			}
		}
	}
	return ""
}

// TestQuantities: as many registers as a request may ask for come, and one more
// is not even asked for.
func TestQuantities(t *testing.T) {
	for _, name := range []string{"tcp", "rtutcp", "line", "http"} {
		t.Run(name, func(t *testing.T) {
			s := serveAll(t, Options{Inverters: []Inverter{{Unit: 1, SunSpec: SunSpec{Base: 40000}}}})
			c := s.clients(t)[name]
			r := modbus.Request{Unit: 1, Function: modbus.ReadHolding, Address: 40000, Count: 125}
			words, err := c.Do(t.Context(), r)
			if err != nil || len(words) != 125 || words[0] != 0x5375 || words[124] != s.asked(t).Words[124] {
				t.Errorf("125: %d words, %v", len(words), err)
			}
			before := s.trace.String()
			r.Count++
			if words, err := c.Do(t.Context(), r); err == nil || s.trace.String() != before {
				t.Errorf("126: %d words, %v", len(words), err)
			}
			if _, err := c.Do(t.Context(), modbus.Request{Unit: 1, Function: modbus.ReadHolding, Address: 40000, Count: 2}); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// TestFrost: below zero a temperature is negative, whichever way it comes.
func TestFrost(t *testing.T) {
	for _, name := range []string{"tcp", "rtutcp", "line", "http"} {
		t.Run(name, func(t *testing.T) {
			s := serveAll(t, Options{Weather: still{Conditions{Air: -12.34}}})
			words, err := s.clients(t)[name].Do(t.Context(), modbus.Request{Unit: 17, Function: modbus.ReadHolding, Address: 7, Count: 1})
			if err != nil {
				t.Fatal(err)
			}
			r, _ := simProfile(t).Register("temp")
			if raw, err := r.Decode(words); err != nil || raw != -123 {
				t.Errorf("%d tenths of a degree, %v", raw, err)
			}
		})
	}
}
