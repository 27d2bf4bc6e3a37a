package parameter_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ecowatt/parameter"
)

func TestCheck(t *testing.T) {
	list := func(names ...any) []any { return names }
	for _, c := range []struct {
		name string
		v    any
		want any
		code parameter.Code
	}{
		{"sampling_interval", 5, int64(5), ""},
		{"sampling_interval", 1.0, int64(1), ""},
		{"sampling_interval", uint64(3600), int64(3600), ""},
		{"sampling_interval", int64(0), nil, parameter.OutOfRange},
		{"sampling_interval", 3601.0, nil, parameter.OutOfRange},
		{"sampling_interval", 2.5, nil, parameter.WrongType},
		{"sampling_interval", "5", nil, parameter.WrongType},
		{"sampling_interval", true, nil, parameter.WrongType},
		{"sampling_interval", nil, nil, parameter.WrongType},
		{"sampling_interval", math.NaN(), nil, parameter.WrongType},
		{"sampling_interval", math.Inf(1), nil, parameter.WrongType},
		{"sampling_interval", uint64(math.MaxUint64), nil, parameter.WrongType},
		{"sampling_interval", list(), nil, parameter.WrongType},
		{"upload_interval", 86400, int64(86400), ""},
		{"upload_interval", 86401, nil, parameter.OutOfRange},
		{"upload_interval", -1, nil, parameter.OutOfRange},
		{"payload_cap", 0, int64(0), ""},
		{"payload_cap", 255, nil, parameter.OutOfRange},
		{"payload_cap", 256, int64(256), ""},
		{"payload_cap", 65537, nil, parameter.OutOfRange},
		{"payload_cap", -256, nil, parameter.OutOfRange},
		{"aggregation_window", 0, int64(0), ""},
		{"aggregation_window", 1, int64(1), ""},
		{"aggregation_window", 3601, nil, parameter.OutOfRange},
		{"flush_interval", 0, int64(0), ""},
		{"flush_interval", 601, nil, parameter.OutOfRange},
		{"compression", "fast", "fast", ""},
		{"compression", "zip", nil, parameter.OutOfRange},
		{"compression", "", nil, parameter.OutOfRange},
		{"compression", 1, nil, parameter.WrongType},
		{"log_level", "debug", "debug", ""},
		{"log_level", "DEBUG", nil, parameter.OutOfRange},
		{"night_mode", "full", "full", ""},
		{"night_mode", "off", nil, parameter.OutOfRange},
		{"registers", list("vac1", "pac"), list("pac", "vac1"), ""},
		{"registers", []string{"pac"}, list("pac"), ""},
		{"registers", map[string]any{"inv1": list("b", "a")}, map[string]any{"inv1": list("a", "b")}, ""},
		{"registers", map[string][]string{"inv1": {"b", "a"}}, map[string]any{"inv1": list("a", "b")}, ""},
		{"registers", list(), nil, parameter.OutOfRange},
		{"registers", list("pac", "pac"), nil, parameter.OutOfRange},
		{"registers", list("Pac"), nil, parameter.OutOfRange},
		{"registers", list("pac", 1), nil, parameter.WrongType},
		{"registers", "pac", nil, parameter.WrongType},
		{"registers", map[string]any{}, nil, parameter.OutOfRange},
		{"registers", map[string]any{"inv1": "pac"}, nil, parameter.WrongType},
		{"registers", map[string]any{"inv1": list()}, nil, parameter.OutOfRange},
		{"registers", map[string]any{"": list("pac")}, nil, parameter.OutOfRange},
		{"registers", slices.Repeat(list("pac"), parameter.MaxPoints+1), nil, parameter.OutOfRange},
		{"brightness", 5, nil, parameter.UnknownParameter},
		{"", nil, nil, parameter.UnknownParameter},
	} {
		got, problem := parameter.Check(c.name, c.v)
		var code parameter.Code
		if problem != nil {
			code = problem.Code
			if problem.Parameter != c.name || problem.Text == "" || strings.ContainsAny(problem.Error(), "\n") {
				t.Errorf("%s=%v: problem %+v", c.name, c.v, problem)
			}
		}
		if code != c.code || !parameter.Equal(got, c.want) {
			t.Errorf("%s=%v: got %#v, %v; want %#v, %q", c.name, c.v, got, problem, c.want, c.code)
		}
	}
}

func TestCheckAll(t *testing.T) {
	good, problems := parameter.CheckAll(map[string]any{"night_mode": "full", "zeal": 1, "sampling_interval": 0, "compression": 3, "alarm": 2})
	if diff := cmp.Diff(parameter.Values{"night_mode": "full"}, good); diff != "" {
		t.Error(diff)
	}
	var names []string
	for _, p := range problems {
		names = append(names, p.Parameter)
	}
	if diff := cmp.Diff([]string{"sampling_interval", "compression", "alarm", "zeal"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       any
		code       parameter.Code
	}{
		{"upload_interval", "900", int64(900), ""},
		{"upload_interval", "15m", int64(900), ""},
		{"upload_interval", "1500ms", nil, parameter.WrongType},
		{"upload_interval", "", nil, parameter.WrongType},
		{"upload_interval", "25h", nil, parameter.OutOfRange},
		{"payload_cap", "15m", nil, parameter.WrongType},
		{"compression", "none", "none", ""},
		{"compression", "any", nil, parameter.OutOfRange},
		{"registers", "vac1,pac", []any{"pac", "vac1"}, ""},
		{"registers", "inv1:vac1,pac/inv2:pac", map[string]any{"inv1": []any{"pac", "vac1"}, "inv2": []any{"pac"}}, ""},
		{"registers", "", nil, parameter.OutOfRange},
		{"registers", "inv1:pac/pac", nil, parameter.WrongType},
		{"registers", "inv1:pac/inv1:pac", nil, parameter.WrongType},
		{"registers", "inv1:", nil, parameter.OutOfRange},
		{"brightness", "5", nil, parameter.UnknownParameter},
	} {
		got, problem := parameter.Parse(c.name, c.text)
		var code parameter.Code
		if problem != nil {
			code = problem.Code
		}
		if code != c.code || !parameter.Equal(got, c.want) {
			t.Errorf("%s=%s: got %#v, %v", c.name, c.text, got, problem)
		}
	}
}

// drawValue draws a canonical value of s.
func drawValue(t *rapid.T, s parameter.Spec) any {
	points := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z][a-z0-9_.-]{0,5}`), 1, 5, rapid.ID)
	var v any
	switch s.Type {
	case parameter.Number:
		v = rapid.Int64Range(int64(s.Min), int64(s.Max)).Draw(t, "number")
	case parameter.Word:
		v = rapid.SampledFrom(s.Words).Draw(t, "word")
	case parameter.Hours:
		v = rapid.SampledFrom(append(s.Words, "22:00-04:30")).Draw(t, "hours")
	case parameter.Points:
		v = points.Draw(t, "points")
		if rapid.Bool().Draw(t, "by inverter") {
			v = rapid.MapOfN(rapid.StringMatching(`[a-z][a-z0-9]{0,5}`), points, 1, 3).Draw(t, "inverters")
		}
	}
	canonical, problem := s.Check(v)
	if problem != nil {
		t.Fatalf("%v: %v", v, problem)
	}
	return canonical
}

// A canonical value is the same after a second check, after JSON, and after it
// was written for people.
func TestCanonicalIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.SampledFrom(parameter.All()).Draw(t, "parameter")
		v := drawValue(t, s)
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var back any
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		parsed, parseProblem := parameter.Parse(s.Name, parameter.Format(v))
		checked, checkProblem := s.Check(v)
		decoded, decodeProblem := s.Check(back)
		if parseProblem != nil || checkProblem != nil || decodeProblem != nil ||
			!parameter.Equal(v, parsed) || !parameter.Equal(v, checked) || !parameter.Equal(v, decoded) {
			t.Errorf("%s: %#v became %#v, %#v and %#v", s.Name, v, parsed, checked, decoded)
		}
	})
}

// Whatever comes is answered with a value or a problem.
func FuzzParse(f *testing.F) {
	for _, s := range parameter.All() {
		f.Add(s.Name, fmt.Sprint(s.Default))
	}
	f.Add("registers", "inv1:a,b/inv2:c")
	f.Fuzz(func(t *testing.T, name, text string) {
		v, problem := parameter.Parse(name, text)
		if (v == nil) != (problem != nil) {
			t.Errorf("%q=%q: %v, %v", name, text, v, problem)
		}
	})
}

func TestDefaultsAreGood(t *testing.T) {
	for _, s := range parameter.All() {
		if s.Type == parameter.Points {
			continue
		}
		if v, problem := s.Check(s.Default); problem != nil || !parameter.Equal(v, s.Default) {
			t.Errorf("%s: the default is %#v: %v", s.Name, s.Default, problem)
		}
	}
}

func TestLists(t *testing.T) {
	v, _ := parameter.Parse("registers", "inv1:b,a/inv2:c")
	if diff := cmp.Diff(map[string][]string{"inv1": {"a", "b"}, "inv2": {"c"}}, parameter.Lists(v)); diff != "" {
		t.Error(diff)
	}
	v, _ = parameter.Parse("registers", "b,a")
	if diff := cmp.Diff(map[string][]string{"": {"a", "b"}}, parameter.Lists(v)); diff != "" {
		t.Error(diff)
	}
}

func TestCheckUpdates(t *testing.T) {
	for _, c := range []struct {
		name string
		v    any
		want any
		code parameter.Code
	}{
		{"update_window", "always", "always", ""},
		{"update_window", "sun_down", "sun_down", ""},
		{"update_window", "22:00-04:30", "22:00-04:30", ""},
		{"update_window", "00:00-23:59", "00:00-23:59", ""},
		{"update_window", "22:00-22:00", nil, parameter.OutOfRange},
		{"update_window", "24:00-04:30", nil, parameter.OutOfRange},
		{"update_window", "2:00-04:30", nil, parameter.OutOfRange},
		{"update_window", "22:00-4:300", nil, parameter.OutOfRange},
		{"update_window", "22:00+04:30", nil, parameter.OutOfRange},
		{"update_window", "at night", nil, parameter.OutOfRange},
		{"update_window", "", nil, parameter.OutOfRange},
		{"update_window", 22, nil, parameter.WrongType},
		{"download_budget", 0, int64(0), ""},
		{"download_budget", 16384, int64(16384), ""},
		{"download_budget", 16383, nil, parameter.OutOfRange},
		{"download_budget", 1<<30 + 1, nil, parameter.OutOfRange},
	} {
		got, problem := parameter.Check(c.name, c.v)
		if problem == nil && c.code != "" || problem != nil && problem.Code != c.code || !parameter.Equal(got, c.want) {
			t.Errorf("%s=%v: got %#v, %v; want %#v, %q", c.name, c.v, got, problem, c.want, c.code)
		}
	}
}

func TestParseHours(t *testing.T) {
	if from, to, ok := parameter.ParseHours("22:00-04:30"); from != 22*60 || to != 4*60+30 || !ok {
		t.Errorf("%d to %d, %v", from, to, ok)
	}
	if _, _, ok := parameter.ParseHours("always"); ok {
		t.Error("always is not hours")
	}
}

func TestSchema(t *testing.T) {
	for name, want := range map[string]string{
		"upload_interval":    `{"default":900,"maximum":86400,"minimum":1,"type":"integer"}`,
		"aggregation_window": `{"anyOf":[{"const":0},{"maximum":3600,"minimum":1}],"default":0,"type":"integer"}`,
		"update_window":      `{"default":"always","pattern":"^(always|sun_down|([01]\\d|2[0-3]):[0-5]\\d-([01]\\d|2[0-3]):[0-5]\\d)$","type":"string"}`,
		"night_mode":         `{"default":"slow","enum":["slow","full"],"type":"string"}`,
		"registers": `{"anyOf":[{"items":{"type":"string"},"maxItems":256,"minItems":1,"type":"array","uniqueItems":true},` +
			`{"additionalProperties":{"items":{"type":"string"},"maxItems":256,"minItems":1,"type":"array","uniqueItems":true},"maxProperties":32,"minProperties":1,"type":"object"}]}`,
	} {
		s, _ := parameter.Find(name)
		schema := s.Schema()
		if schema["description"] != s.Help {
			t.Errorf("%s: description %v", name, schema["description"])
		}
		delete(schema, "description")
		got, err := json.Marshal(schema)
		if err != nil || string(got) != want {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

// table returns the rows of the table of docs/configuration.md that begins with
// a column of that head.
func table(t *testing.T, head string) (rows [][]string) {
	t.Helper()
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n| "+head+" |")
	if !ok {
		t.Fatalf("no table of %s", head)
	}
	for i, line := range slices.Collect(strings.Lines(rest)) {
		if i < 2 {
			continue // the rest of the head, and the rule below it
		}
		if !strings.HasPrefix(line, "| ") {
			break
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.Trim(cells[i], " `")
		}
		rows = append(rows, cells)
	}
	return rows
}

func TestDocument(t *testing.T) {
	var want [][]string
	for _, s := range parameter.All() {
		byDefault := "all"
		if s.Default != nil {
			byDefault = fmt.Sprint(s.Default)
		}
		var codes []string
		for _, c := range s.Codes {
			codes = append(codes, string(c))
		}
		want = append(want, []string{s.Name, s.Unit, s.Range(), byDefault, s.Help, strings.Join(codes, ", ")})
	}
	if diff := cmp.Diff(want, table(t, "parameter")); diff != "" {
		t.Errorf("parameters (-code +document):\n%s", diff)
	}
	var codes, documented []string
	for _, c := range parameter.Codes() {
		codes = append(codes, string(c))
	}
	for _, row := range table(t, "code") {
		documented = append(documented, row[0])
	}
	if diff := cmp.Diff(codes, documented); diff != "" {
		t.Errorf("codes (-code +document):\n%s", diff)
	}
}
